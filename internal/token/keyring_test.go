package token_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/mayfly-id/mayfly/internal/jose"
	"github.com/mayfly-id/mayfly/internal/token"
)

func next(t testing.TB, k *token.Keyring, now time.Time) token.StoredKey {
	t.Helper()
	s, err := k.Next(now)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func published(k *token.Keyring) []string {
	var ids []string
	for _, key := range k.JWKS() {
		ids = append(ids, key.ID)
	}
	slices.Sort(ids)
	return ids
}

func TestAKeyringWithoutKeysDoesNothing(t *testing.T) {
	k := token.NewKeyring(issuer)
	if !k.Due(start) || k.SigningKeyID(start) != "" || len(k.JWKS()) != 0 {
		t.Errorf("due %t, signs with %q, publishes %v", k.Due(start), k.SigningKeyID(start), k.JWKS())
	}
	if _, err := k.Sign(permit(t), k.SigningKeyID(start), good(t, start)); err == nil {
		t.Error("it signed")
	}
}

func TestAKeyLivesThroughItsTimes(t *testing.T) {
	const day = 24 * time.Hour
	k, first := keyring(t)
	if first.SignsFrom != start || first.ID != (jose.Key{Public: k.JWKS()[0].Public}).Thumbprint() {
		t.Errorf("the first key is %+v", first)
	}
	if k.Due(start) || k.Due(start.Add(30*day-16*time.Minute)) || !k.Due(start.Add(30*day-15*time.Minute)) {
		t.Error("the second key is not due 15 minutes before day 30")
	}
	made := start.Add(30*day - 15*time.Minute)
	second := next(t, k, made)
	if !second.SignsFrom.Equal(start.Add(30 * day)) {
		t.Errorf("the second key signs from %s", second.SignsFrom)
	}
	load(t, k, made, second, first) // in any order
	if k.Due(made) {
		t.Error("a third key is due at once")
	}
	both := published(k)
	if len(both) != 2 || !slices.Contains(both, first.ID) || !slices.Contains(both, second.ID) {
		t.Errorf("published are %v", both)
	}
	for _, c := range []struct {
		at   time.Time
		want string
	}{
		{made, first.ID},
		{second.SignsFrom.Add(-time.Nanosecond), first.ID},
		{second.SignsFrom, second.ID},
		{second.SignsFrom.Add(day), second.ID},
		{second.SignsUntil, ""}, // nobody made a third
	} {
		if got := k.SigningKeyID(c.at); got != c.want {
			t.Errorf("at %s signs %q, want %q", c.at, got, c.want)
		}
	}
	// The last token of the first key outlives its signing, and no more.
	last := second.SignsFrom.Add(-time.Second)
	c := good(t, last)
	c.ExpiresAt = last.Add(token.MaxLife)
	text := sign(t, k, last, c)
	if _, err := k.Verify(text, c.ExpiresAt.Add(-time.Second)); err != nil {
		t.Errorf("a good token died with its key: %v", err)
	}
	retired := second.SignsFrom.Add(token.MaxLife + time.Minute)
	if _, err := k.Sign(permit(t), first.ID, good(t, retired.Add(-time.Minute))); err == nil {
		t.Error("signed a token that outlives its key")
	}
	load(t, k, retired, first, second)
	if got := published(k); !slices.Equal(got, []string{second.ID}) {
		t.Errorf("after the first retired, published are %v", got)
	}
	_, err := k.Verify(text, last)
	invalidToken(t, err)
}

func TestWhenAKeyRunsOutTheNextSignsAtOnce(t *testing.T) {
	k, first := keyring(t)
	now := first.SignsUntil.Add(time.Hour)
	if !k.Due(now) {
		t.Error("no key is due")
	}
	if second := next(t, k, now); !second.SignsFrom.Equal(now) {
		t.Errorf("the next signs from %s, not %s", second.SignsFrom, now)
	}
}

func TestACompromisedKeyIsDeadAtOnce(t *testing.T) {
	k, first := keyring(t)
	bad := sign(t, k, start, good(t, start))
	if _, err := k.Verify(bad, start); err != nil { // remembered from here on
		t.Fatal(err)
	}
	now := start.Add(time.Minute)
	first.CompromisedAt = now
	load(t, k, now, first)
	_, err := k.Verify(bad, now)
	invalidToken(t, err)
	if _, err := k.Verify(bad, start); err == nil {
		t.Error("it lives again when the clock goes back")
	}
	if _, err := k.Sign(permit(t), first.ID, good(t, now)); err == nil {
		t.Error("it signs")
	}
	if len(k.JWKS()) != 0 || k.SigningKeyID(now) != "" || !k.Due(now) {
		t.Error("it is published, or signs, or none is due")
	}
	second := next(t, k, now)
	load(t, k, now, first, second)
	if !second.SignsFrom.Equal(now) || k.SigningKeyID(now) != second.ID || k.Due(now) {
		t.Error("the next does not sign at once")
	}
	if _, err := k.Verify(sign(t, k, now, good(t, now)), now); err != nil {
		t.Error(err)
	}
	// A key that stopped signing does not start again when the one after it
	// turns out to be bad.
	second.CompromisedAt = now.Add(time.Hour)
	third := next(t, k, now.Add(time.Minute))
	load(t, k, now.Add(20*time.Minute), second, third)
	if got := k.SigningKeyID(now.Add(20 * time.Minute)); got != third.ID {
		t.Errorf("%q signs", got)
	}
	third.CompromisedAt = now.Add(21 * time.Minute)
	second.CompromisedAt = time.Time{}
	load(t, k, now.Add(21*time.Minute), second, third)
	if got := k.SigningKeyID(now.Add(21 * time.Minute)); got != "" {
		t.Errorf("%q signs again", got)
	}
}

func TestAWaitingKeySignsEarlyIfTheOneBeforeItIsBad(t *testing.T) {
	k, first := keyring(t)
	second := next(t, k, start)
	load(t, k, start, first, second)
	if k.SigningKeyID(start) != first.ID {
		t.Error("the second signs before its time")
	}
	first.CompromisedAt = start
	load(t, k, start, first, second)
	if k.SigningKeyID(start) != second.ID || k.Due(start) {
		t.Error("the second does not sign")
	}
	if _, err := k.Verify(sign(t, k, start, good(t, start)), start); err != nil {
		t.Error(err)
	}
}

func TestRotatingEachSecondRefusesNothing(t *testing.T) {
	k, first := keyring(t)
	keys := []token.StoredKey{first}
	type issued struct {
		text  string
		until time.Time
	}
	var out []issued
	signers := map[string]bool{}
	const seconds = 200
	// Past the lead too, so that a new key takes over each second.
	for i := range seconds {
		now := start.Add(time.Duration(i) * time.Second)
		keys = append(keys, next(t, k, now))
		if i > 0 {
			// As if the lead were over: the key made a second ago signs now.
			keys[i].SignsFrom = now
		}
		load(t, k, now, keys...)
		signers[k.SigningKeyID(now)] = true
		c := good(t, now)
		c.ExpiresAt = now.Add(time.Duration(10+i%290) * time.Second)
		out = append(out, issued{sign(t, k, now, c), c.ExpiresAt})
		for j := max(0, i-5); j <= i; j++ {
			if now.Before(out[j].until) {
				if _, err := k.Verify(out[j].text, now); err != nil {
					t.Fatalf("second %d: a good token of second %d was refused: %v", i, j, err)
				}
			}
		}
	}
	now := start.Add(time.Duration(seconds-1) * time.Second)
	for i, o := range out {
		_, err := k.Verify(o.text, now)
		if (err == nil) != now.Before(o.until) {
			t.Errorf("token of second %d, good until %s: at %s %v", i, o.until, now, err)
		}
	}
	if len(signers) < seconds-1 {
		t.Errorf("only %d keys signed", len(signers))
	}
}

func TestABadKeyChangesNothing(t *testing.T) {
	k, first := keyring(t)
	text := sign(t, k, start, good(t, start))
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	edBytes, err := x509.MarshalPKCS8PrivateKey(ed)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*token.StoredKey){
		"no key":            func(s *token.StoredKey) { s.Private = nil },
		"half a key":        func(s *token.StoredKey) { s.Private = s.Private[:40] },
		"another algorithm": func(s *token.StoredKey) { s.Algorithm = jose.RS256 },
		"another type":      func(s *token.StoredKey) { s.Private = edBytes },
		"another id":        func(s *token.StoredKey) { s.ID = jkt },
	} {
		bad := first
		change(&bad)
		if err := k.Load([]token.StoredKey{bad}, start); err == nil {
			t.Errorf("%s: loaded", name)
		} else if bytes.Contains([]byte(err.Error()), first.Private) {
			t.Errorf("%s: the error shows the key", name)
		}
		if _, err := k.Verify(text, start); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTheJWKSShowsNoPrivateKey(t *testing.T) {
	k, first := keyring(t)
	text, err := json.Marshal(k.JWKS())
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(text, []byte(`"d"`)) {
		t.Errorf("published: %s", text)
	}
	set, err := jose.ParseKeySet(text)
	if err != nil || len(set) != 1 {
		t.Fatalf("%v, %v", set, err)
	}
	// A verifier elsewhere needs nothing else.
	m, err := jose.Parse(sign(t, k, start, good(t, start)), jose.Rules{Types: []string{"at+jwt"}, Algorithms: []string{jose.ES256}})
	if err != nil {
		t.Fatal(err)
	}
	key, ok := set.Find(m.KeyID, m.Algorithm)
	if !ok || key.ID != first.ID {
		t.Fatalf("kid %q is not in %s", m.KeyID, text)
	}
	if _, err := m.Verify(key); err != nil {
		t.Error(err)
	}
}
