package attest

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/mayflytest/idp"
)

// eventually waits for what a fetch in the background does.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	end := time.After(5 * time.Second)
	for !done() {
		select {
		case <-end:
			t.Fatalf("%s: never", what)
		case <-time.After(time.Millisecond):
		}
	}
}

func mustBe(t *testing.T, s *Sources, text string, want mayfly.Kind) {
	t.Helper()
	_, err := s.Token(t.Context(), text, ForSubject)
	switch {
	case want == 0 && err != nil:
		t.Errorf("refused: %v", err)
	case want != 0 && mayfly.KindOf(err) != want:
		t.Errorf("got %v, want an error of kind %v", err, want)
	}
}

func TestKeysAreFetchedOnceForEverybody(t *testing.T) {
	c := &clock{}
	p := provider(t, c)
	s := newSources(t, c, humans(p), workloads(p))
	if p.Fetched(idp.DiscoveryPath) != 0 {
		t.Error("fetched before anybody came")
	}
	var all sync.WaitGroup
	for range 32 {
		for _, audience := range []string{"mayfly", "mayfly-agents"} {
			all.Go(func() {
				if _, err := s.Token(t.Context(), p.Issue(claims{"aud": audience}), ForActor); err != nil {
					t.Error(err)
				}
			})
		}
	}
	all.Wait()
	if d, k := p.Fetched(idp.DiscoveryPath), p.Fetched(idp.KeysPath); d != 1 || k != 1 {
		t.Errorf("discovery fetched %d times, keys %d times", d, k)
	}
}

func TestARotatedKeyIsFoundAndAStrangersKeyIDIsNoFlood(t *testing.T) {
	c := &clock{}
	p := provider(t, c)
	s := newSources(t, c, humans(p))
	mustBe(t, s, p.Issue(nil), 0)
	p.Rotate("ES256")
	mustBe(t, s, p.Issue(nil), mayfly.Invalid) // 30 s have not passed since the last fetch
	c.pass(fetchEvery)
	mustBe(t, s, p.Issue(nil), 0)
	before := p.Fetched(idp.KeysPath)
	for range 10 {
		for range 20 {
			mustBe(t, s, p.IssueWith(claims{"kid": "made-up"}, nil), mayfly.Invalid)
		}
		c.pass(10 * time.Second)
	}
	if n := p.Fetched(idp.KeysPath) - before; n > 4 {
		t.Errorf("%d fetches in 100 s", n)
	}
}

func TestAWithdrawnKeyDies(t *testing.T) {
	c := &clock{}
	p := provider(t, c)
	s := newSources(t, c, humans(p))
	p.Now = func() time.Time { return c.now().Add(30 * time.Minute) } // a token that outlives its key
	old := p.Issue(claims{"iat": c.now().Unix()})
	mustBe(t, s, old, 0)
	mustBe(t, s, old, 0) // from memory
	p.Rotate("ES256")
	p.Withdraw()
	c.pass(refreshAfter - time.Second)
	mustBe(t, s, old, 0) // nobody looked yet
	c.pass(time.Second)
	before := p.Fetched(idp.KeysPath)
	mustBe(t, s, old, 0) // and now somebody does, in the background
	eventually(t, "the fetch in the background", func() bool { return p.Fetched(idp.KeysPath) == before+1 })
	eventually(t, "the withdrawn key's death", func() bool {
		_, err := s.Token(t.Context(), old, ForSubject)
		return mayfly.KindOf(err) == mayfly.Invalid && err != nil
	})
	mustBe(t, s, p.Issue(claims{"iat": c.now().Unix()}), 0)
}

func TestAKeyReplacedUnderItsOldNameDies(t *testing.T) {
	c := &clock{}
	p, other := provider(t, c), provider(t, c)
	s := newSources(t, c, humans(p))
	old := p.Issue(claims{"exp": c.now().Unix() + 3600})
	mustBe(t, s, old, 0)
	p.Answer(idp.KeysPath, func(w http.ResponseWriter, _ *http.Request) { w.Write(other.KeySet()) }) // another key-1
	c.pass(waitAfter)
	mustBe(t, s, old, mayfly.Invalid)
	mustBe(t, s, other.Issue(claims{"iss": p.URL()}), 0)
}

func TestAnIdleServerAsksBeforeItTrustsOldKeys(t *testing.T) {
	c := &clock{}
	p := provider(t, c)
	s := newSources(t, c, humans(p))
	old := p.Issue(claims{"exp": c.now().Unix() + 3600})
	mustBe(t, s, old, 0)
	p.Rotate("ES256")
	p.Withdraw()
	c.pass(waitAfter)
	mustBe(t, s, old, mayfly.Invalid)
}

func TestAnOutageKeepsLiveKeysForAnHourAndNoLonger(t *testing.T) {
	c := &clock{}
	p := provider(t, c)
	s := newSources(t, c, humans(p))
	known := p.Issue(claims{"exp": c.now().Unix() + 7200})
	mustBe(t, s, known, 0)
	p.Fail(true)
	tried := p.Fetched(idp.DiscoveryPath)
	for c.offset.Load() < int64(deadAfter-time.Minute) {
		c.pass(time.Minute)
		mustBe(t, s, known, 0)
		mustBe(t, s, p.Issue(nil), 0)
	}
	if n := p.Fetched(idp.DiscoveryPath) - tried; n > 2*60 {
		t.Errorf("%d fetches of a provider that is down, in an hour", n)
	}
	mustBe(t, s, p.IssueWith(claims{"kid": "new"}, nil), mayfly.Unavailable) // may be good: nobody can tell
	c.pass(time.Minute)
	mustBe(t, s, known, mayfly.Unavailable)
	mustBe(t, s, p.Issue(nil), mayfly.Unavailable)
	p.Fail(false)
	mustBe(t, s, known, mayfly.Unavailable) // within 30 s of the last try
	c.pass(fetchEvery)
	mustBe(t, s, known, 0)
}

func TestAProviderThatIsDownAtFirstIsAskedTwiceAMinute(t *testing.T) {
	c := &clock{}
	p := provider(t, c)
	p.Fail(true)
	s := newSources(t, c, humans(p))
	for range 60 {
		mustBe(t, s, p.Issue(nil), mayfly.Unavailable)
		c.pass(time.Second)
	}
	if n := p.Fetched(idp.DiscoveryPath); n != 2 {
		t.Errorf("asked %d times in a minute", n)
	}
	p.Fail(false)
	mustBe(t, s, p.Issue(nil), 0)
}

func TestARememberedTokenStillExpires(t *testing.T) {
	c := &clock{}
	p := provider(t, c)
	s := newSources(t, c, humans(p))
	text := p.Issue(claims{"exp": c.now().Unix() + 60})
	mustBe(t, s, text, 0)
	c.pass(59 * time.Second)
	mustBe(t, s, text, 0)
	c.pass(7 * time.Second)
	mustBe(t, s, text, mayfly.Invalid)
}

func TestMemoryIsBoundedAndKeepsWhatIsAskedForAgain(t *testing.T) {
	s := newSeen()
	hot := &entry{}
	s.put(digest{31: 1}, hot)
	for i := range 20 * generation {
		s.put(digest{byte(i), byte(i >> 8), byte(i >> 16)}, &entry{})
		if i%100 == 0 && s.get(digest{31: 1}) != hot {
			t.Fatalf("forgotten after %d", i)
		}
	}
	if n := len(s.young) + len(s.old); n > 2*generation {
		t.Errorf("%d entries", n)
	}
}

func TestAReloadKeepsTheKeysOfIssuersThatStayed(t *testing.T) {
	c := &clock{}
	p := provider(t, c)
	first := newSources(t, c, humans(p))
	mustBe(t, first, p.Issue(nil), 0)
	p.Fail(true)
	renamed := humans(p)
	renamed.Name = "renamed"
	second, err := New([]Source{renamed}, nil, Options{Now: c.now, Earlier: first})
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	first.Close()
	mustBe(t, second, p.Issue(nil), 0)
	c.pass(deadAfter)
	mustBe(t, second, p.Issue(nil), mayfly.Unavailable) // with the age they had
}

func TestACallerWhoGivesUpTakesTheFetchFromNobody(t *testing.T) {
	c := &clock{}
	p := provider(t, c)
	s := newSources(t, c, humans(p))
	asked, release := make(chan struct{}), make(chan struct{})
	p.Answer(idp.DiscoveryPath, func(w http.ResponseWriter, r *http.Request) {
		close(asked)
		<-release
		p.Answer(idp.DiscoveryPath, nil)
		http.Redirect(w, r, "/", http.StatusFound)
	})
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error)
	go func() {
		_, err := s.Token(ctx, p.Issue(nil), ForSubject)
		gone <- err
	}()
	<-asked
	cancel()
	if err := <-gone; mayfly.KindOf(err) != mayfly.Unavailable {
		t.Errorf("the one who gave up got %v", err)
	}
	close(release)
	eventually(t, "the fetch", func() bool {
		c.pass(fetchEvery)
		_, err := s.Token(t.Context(), p.Issue(nil), ForSubject)
		return err == nil
	})
}

func TestNothingIsFetchedAfterTheEnd(t *testing.T) {
	c := &clock{}
	p := provider(t, c)
	s := newSources(t, c, humans(p))
	s.Close()
	s.Close()
	mustBe(t, s, p.Issue(nil), mayfly.Unavailable)
	if p.Fetched(idp.DiscoveryPath) != 0 {
		t.Error("fetched")
	}
}

func TestAClockSetBackKeepsNoKeyAlive(t *testing.T) {
	start := time.Now()
	for _, tt := range []struct {
		name string
		now  time.Time
		want time.Duration
	}{
		{"both clocks run", start.Add(time.Hour), time.Hour},
		{"only the wall clock knows", start.Add(time.Hour).Round(0), time.Hour},
		{"the wall clock was set back", start.Add(-time.Hour).Round(0), -time.Hour},
	} {
		if got := elapsed(start, tt.now); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestDiscoveryThatIsNotTheIssuersIsRefused(t *testing.T) {
	c := &clock{}
	p, other := provider(t, c), provider(t, c)
	for _, tt := range []struct {
		name string
		path string
		text string
	}{
		{"another issuer", idp.DiscoveryPath, `{"issuer":"` + other.URL() + `","jwks_uri":"` + p.URL() + `/jwks"}`},
		{"issuer with a slash", idp.DiscoveryPath, `{"issuer":"` + p.URL() + `/","jwks_uri":"` + p.URL() + `/jwks"}`},
		{"issuer twice", idp.DiscoveryPath, `{"issuer":"x","issuer":"` + p.URL() + `","jwks_uri":"` + p.URL() + `/jwks"}`},
		{"issuer in other case", idp.DiscoveryPath, `{"Issuer":"` + p.URL() + `","jwks_uri":"` + p.URL() + `/jwks"}`},
		{"no keys", idp.DiscoveryPath, `{"issuer":"` + p.URL() + `"}`},
		{"keys at another loopback port", idp.DiscoveryPath, `{"issuer":"` + p.URL() + `","jwks_uri":"` + other.URL() + `/jwks"}`},
		{"keys in a file", idp.DiscoveryPath, `{"issuer":"` + p.URL() + `","jwks_uri":"file:///etc/passwd"}`},
		{"keys at the cloud's metadata", idp.DiscoveryPath, `{"issuer":"` + p.URL() + `","jwks_uri":"http://169.254.169.254/latest/meta-data"}`},
		{"no JSON", idp.DiscoveryPath, `<html>`},
		{"no key set", idp.KeysPath, `{}`},
		{"a private key", idp.KeysPath, `{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"}]}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p.Answer(tt.path, func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(tt.text)) })
			defer p.Answer(tt.path, nil)
			before := other.Fetched(idp.KeysPath)
			s := newSources(t, c, humans(p))
			_, err := s.Token(t.Context(), p.Issue(nil), ForSubject)
			if e := mayfly.AsError(err); err == nil || e.Kind != mayfly.Unavailable || errors.Unwrap(e) == nil {
				t.Errorf("got %v, because %v", err, errors.Unwrap(err))
			}
			if other.Fetched(idp.KeysPath) != before {
				t.Error("another host was asked")
			}
		})
	}
}

func BenchmarkTokenSeenBefore(b *testing.B) {
	c := &clock{}
	p := provider(b, c)
	s := newSources(b, c, humans(p))
	text := p.Issue(claims{"groups": []string{"finance"}, "email": "alice@example.org"})
	for b.Loop() {
		if _, err := s.Token(b.Context(), text, ForActor); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkTokenNew(b *testing.B) {
	c := &clock{}
	p := provider(b, c)
	s := newSources(b, c, humans(p))
	text := p.Issue(claims{"groups": []string{"finance"}, "email": "alice@example.org"})
	for b.Loop() {
		s.seen = newSeen()
		if _, err := s.Token(b.Context(), text, ForSubject); err != nil {
			b.Fatal(err)
		}
	}
}
