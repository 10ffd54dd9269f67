package token_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"math/big"
	"strings"
	"testing"
	"time"

	gojose "github.com/go-jose/go-jose/v4"
	"pgregory.net/rapid"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/jose"
	"github.com/mayfly-id/mayfly/internal/token"
)

const (
	resource    = issuer + "/mcp/github"
	accessToken = "an.access.token"
)

func nonces() *token.Nonces { return token.NewNonces(bytes.Repeat([]byte{1}, 32)) }

func ecKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// wanted is what the proof of a request to the resource says.
func wanted() map[string]any {
	sum := sha256.Sum256([]byte(accessToken))
	return map[string]any{
		"jti": "-BwC3ESc6acc2lTc", "htm": "POST", "htu": resource, "iat": start.Unix(),
		"ath": base64.RawURLEncoding.EncodeToString(sum[:]), "nonce": nonces().Current(token.NonceRS, start),
	}
}

func prove(t testing.TB, signer crypto.Signer, alg string, claims map[string]any) string {
	t.Helper()
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	text, err := jose.Sign(signer, jose.Header{Algorithm: alg, Type: "dpop+jwt", EmbeddedKey: &jose.Key{Public: signer.Public()}}, payload)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func check(proof ...string) (token.Proof, error) {
	return token.VerifyProof(proof, "POST", resource, accessToken, token.NonceRS, nonces(), start)
}

func TestAGoodProofIsAccepted(t *testing.T) {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for alg, signer := range map[string]crypto.Signer{jose.ES256: ecKey(t), jose.EdDSA: ed} {
		got, err := check(prove(t, signer, alg, wanted()))
		if err != nil {
			t.Errorf("%s: %v", alg, err)
		}
		want := token.Proof{
			Thumbprint: jose.Key{Public: signer.Public()}.Thumbprint(), ID: "-BwC3ESc6acc2lTc",
			IssuedAt: start, Nonce: nonces().Current(token.NonceRS, start),
		}
		if got != want {
			t.Errorf("%s: got %+v, want %+v", alg, got, want)
		}
	}
}

func TestAProofOfGoJoseIsAccepted(t *testing.T) {
	key := ecKey(t)
	signer, err := gojose.NewSigner(gojose.SigningKey{Algorithm: gojose.ES256, Key: key}, (&gojose.SignerOptions{EmbedJWK: true}).WithType("dpop+jwt"))
	if err != nil {
		t.Fatal(err)
	}
	payload, err := json.Marshal(wanted())
	if err != nil {
		t.Fatal(err)
	}
	object, err := signer.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	text, err := object.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := check(text); err != nil {
		t.Error(err)
	}
}

func TestAProofIsForOneRequest(t *testing.T) {
	const bad, again = "invalid_dpop_proof", "use_dpop_nonce"
	for _, c := range []struct {
		name  string
		claim string
		value any // nil takes the claim out
		code  string
	}{
		{"made 60 s ago", "iat", start.Unix() - 60, ""},
		{"made 61 s ago", "iat", start.Unix() - 61, bad},
		{"made 120 s ago", "iat", start.Unix() - 120, bad},
		{"made 6 min ago", "iat", start.Unix() - 360, bad},
		{"made in 5 s", "iat", start.Unix() + 5, ""},
		{"made in 6 s", "iat", start.Unix() + 6, bad},
		{"made in 6 min", "iat", start.Unix() + 360, bad},
		{"made at a time that overflows", "iat", 1 << 52, bad},
		{"made at half a second", "iat", float64(start.Unix()) + .5, bad},
		{"made at a text", "iat", "now", bad},
		{"no iat", "iat", nil, bad},
		{"no jti", "jti", nil, bad},
		{"empty jti", "jti", "", bad},
		{"jti of 256 bytes", "jti", strings.Repeat("j", 256), ""},
		{"jti of 257 bytes", "jti", strings.Repeat("j", 257), bad},
		{"jti that is a number", "jti", 7, bad},
		{"no method", "htm", nil, bad},
		{"another method", "htm", "GET", bad},
		{"the method in another case", "htm", "post", bad},
		{"no URL", "htu", nil, bad},
		{"another path", "htu", issuer + "/mcp/gitlab", bad},
		{"a longer path", "htu", resource + "/x", bad},
		{"a slash more", "htu", resource + "/", bad},
		{"the path in another case", "htu", issuer + "/MCP/github", bad},
		{"an escaped slash", "htu", issuer + "/mcp%2Fgithub", bad},
		{"another host", "htu", "https://evil.example/mcp/github", bad},
		{"a longer host", "htu", "https://mayfly.example.evil.example/mcp/github", bad},
		{"another scheme", "htu", "http://mayfly.example/mcp/github", bad},
		{"another port", "htu", "https://mayfly.example:8443/mcp/github", bad},
		{"a user before the host", "htu", "https://mayfly.example@evil.example/mcp/github", bad},
		{"a user at our host", "htu", "https://u:p@mayfly.example/mcp/github", bad},
		{"no host", "htu", "/mcp/github", bad},
		{"an opaque URL", "htu", "https:mayfly.example/mcp/github", bad},
		{"no URL at all", "htu", "::", bad},
		{"the host in another case", "htu", "HTTPS://Mayfly.Example/mcp/github", ""},
		{"the default port", "htu", "https://mayfly.example:443/mcp/github", ""},
		{"a needless escape", "htu", issuer + "/mcp/%67ithub", ""},
		{"dot segments", "htu", issuer + "/x/../mcp/./github", ""},
		{"a query, which does not count", "htu", resource + "?a=b", ""},
		{"a fragment, which does not count", "htu", resource + "#a", ""},
		{"no token", "ath", nil, bad},
		{"another token", "ath", base64.RawURLEncoding.EncodeToString(make([]byte, 32)), bad},
		{"the token itself", "ath", accessToken, bad},
		{"no nonce", "nonce", nil, again},
		{"an empty nonce", "nonce", "", again},
		{"a nonce that is none", "nonce", "hello", again},
		{"a nonce of the token endpoint", "nonce", nonces().Current(token.NonceAS, start), again},
		{"a nonce of another server", "nonce", token.NewNonces(make([]byte, 32)).Current(token.NonceRS, start), again},
		{"the nonce before", "nonce", nonces().Current(token.NonceRS, start.Add(-5*time.Minute)), ""},
		{"the nonce before that", "nonce", nonces().Current(token.NonceRS, start.Add(-10*time.Minute)), again},
		{"the nonce to come", "nonce", nonces().Current(token.NonceRS, start.Add(5*time.Minute)), again},
		{"a claim we do not know", "extra", "x", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			claims := wanted()
			claims[c.claim] = c.value
			if c.value == nil {
				delete(claims, c.claim)
			}
			proof := prove(t, ecKey(t), jose.ES256, claims)
			_, err := check(proof)
			if c.code == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			refusedWith(t, err, mayfly.Unauthenticated, c.code)
		})
	}
}

func TestAProofIsOneHeaderOfOneKind(t *testing.T) {
	key := ecKey(t)
	good := prove(t, key, jose.ES256, wanted())
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := json.Marshal(wanted())
	if err != nil {
		t.Fatal(err)
	}
	public := &jose.Key{Public: key.Public()}
	header := func(h jose.Header) string {
		text, err := jose.Sign(key, h, payload)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	parts := strings.Split(good, ".")
	otherKey := strings.Split(prove(t, ecKey(t), jose.ES256, wanted()), ".")
	for name, headers := range map[string][]string{
		"no header":            nil,
		"an empty header":      {""},
		"two headers":          {good, good},
		"two in one":           {good + ", " + good},
		"an access token":      {header(jose.Header{Algorithm: jose.ES256, Type: "at+jwt", EmbeddedKey: public})},
		"no type":              {header(jose.Header{Algorithm: jose.ES256, EmbeddedKey: public})},
		"no key":               {header(jose.Header{Algorithm: jose.ES256, Type: "dpop+jwt"})},
		"an RSA key":           {prove(t, r, jose.RS256, wanted())},
		"another's key":        {otherKey[0] + "." + parts[1] + "." + parts[2]},
		"another's signature":  {parts[0] + "." + parts[1] + "." + otherKey[2]},
		"longer than we read":  {prove(t, key, jose.ES256, map[string]any{"x": strings.Repeat("x", 4<<10)})},
		"a million dots":       {strings.Repeat(".", 1_000_000)},
		"with space around it": {" " + good + " "},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := check(headers...)
			refusedWith(t, err, mayfly.Unauthenticated, "invalid_dpop_proof")
		})
	}
}

func TestAtTheTokenEndpoint(t *testing.T) {
	key := ecKey(t)
	at := func(claims map[string]any) error {
		_, err := token.VerifyProof([]string{prove(t, key, jose.ES256, claims)}, "POST", issuer+"/oauth2/token", "", token.NonceAS, nonces(), start)
		return err
	}
	claims := wanted()
	claims["htu"] = issuer + "/oauth2/token"
	claims["nonce"] = nonces().Current(token.NonceAS, start)
	if err := at(claims); err != nil {
		t.Errorf("with an ath that is not asked for: %v", err)
	}
	delete(claims, "ath")
	if err := at(claims); err != nil {
		t.Error(err)
	}
	// RFC 9449 sections 5 and 8: 400, not 401.
	claims["nonce"] = nonces().Current(token.NonceRS, start)
	refusedWith(t, at(claims), mayfly.Invalid, "use_dpop_nonce")
	claims["htm"] = "GET"
	refusedWith(t, at(claims), mayfly.Invalid, "invalid_dpop_proof")
}

func TestNoncesRotateEachFiveMinutes(t *testing.T) {
	n := nonces()
	given := n.Current(token.NonceRS, start)
	if n.Current(token.NonceRS, start.Add(5*time.Minute)) == given {
		t.Error("the nonce did not change")
	}
	rapid.Check(t, func(t *rapid.T) {
		at := start.Add(time.Duration(rapid.Int64Range(-int64(time.Hour), int64(time.Hour)).Draw(t, "at")))
		age := at.Sub(start)
		ok := n.Valid(token.NonceRS, given, at)
		switch {
		case ok && age >= 10*time.Minute:
			t.Fatalf("a nonce lives %s after it was given", age)
		case ok && age < -5*time.Minute:
			t.Fatalf("a nonce lives %s before it is given", -age)
		case !ok && age >= 0 && age < 5*time.Minute:
			t.Fatalf("a nonce is dead after %s", age)
		case n.Valid(token.NonceAS, given, at):
			t.Fatal("it is good elsewhere")
		}
	})
}

func TestAnAlteredProofNeverVerifies(t *testing.T) {
	good := prove(t, ecKey(t), jose.ES256, wanted())
	if _, err := check(good); err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(rt *rapid.T) {
		altered := alter(rt, good)
		if altered == good {
			return
		}
		if p, err := check(altered); err == nil {
			rt.Fatalf("altered and accepted: %q as %+v", altered, p)
		}
	})
}

// An ECDSA signature (r, s) has a twin (r, n-s) that anybody can make. The twin
// must be the same proof, so that single use by key and id catches it.
func TestTheTwinOfAProofIsTheSameProof(t *testing.T) {
	good := prove(t, ecKey(t), jose.ES256, wanted())
	dot := strings.LastIndexByte(good, '.')
	signature, err := base64.RawURLEncoding.DecodeString(good[dot+1:])
	if err != nil {
		t.Fatal(err)
	}
	s := new(big.Int).SetBytes(signature[32:])
	s.Sub(elliptic.P256().Params().N, s).FillBytes(signature[32:])
	first, err := check(good)
	if err != nil {
		t.Fatal(err)
	}
	twin, err := check(good[:dot+1] + base64.RawURLEncoding.EncodeToString(signature))
	if err == nil && twin != first {
		t.Errorf("%+v and %+v", first, twin)
	}
}

func TestAProofForAnythingElseNeverVerifies(t *testing.T) {
	key := ecKey(t)
	rapid.Check(t, func(rt *rapid.T) {
		claims := wanted()
		claim := rapid.SampledFrom([]string{"htm", "htu", "ath", "nonce", "jti", "iat"}).Draw(rt, "claim")
		value := rapid.OneOf(
			rapid.Just[any](nil), rapid.String().AsAny(), rapid.Int64Range(-1<<53+1, 1<<53-1).AsAny(), rapid.Bool().AsAny(),
		).Draw(rt, "value")
		before := maps.Clone(claims)
		claims[claim] = value
		p, err := check(prove(t, key, jose.ES256, claims))
		if err != nil || before[claim] == value {
			return
		}
		switch claim {
		case "jti":
			if p.ID != value {
				rt.Fatalf("jti %v reads %q", value, p.ID)
			}
		case "iat":
			if age := start.Unix() - value.(int64); age > 60 || age < -5 {
				rt.Fatalf("a proof of age %d s was accepted", age)
			}
		default:
			rt.Fatalf("a proof with %s=%v was accepted", claim, value)
		}
	})
}

// FuzzVerifyProof: what is accepted is signed by the key it carries, as go-jose
// sees it too, and says what was asked for.
func FuzzVerifyProof(f *testing.F) {
	good := prove(f, ecKey(f), jose.ES256, wanted())
	f.Add(good)
	f.Add(good + "=")
	f.Add(good + ", " + good)
	f.Add(strings.Repeat(".", 50))
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(prove(f, ed, jose.EdDSA, wanted()))
	f.Fuzz(func(t *testing.T, text string) {
		p, err := check(text)
		if err != nil {
			var ours *mayfly.Error
			if !errors.As(err, &ours) || ours.Code == "" {
				t.Fatalf("%q is refused with %v", text, err)
			}
			return
		}
		theirs, err := gojose.ParseSignedCompact(text, []gojose.SignatureAlgorithm{gojose.ES256, gojose.EdDSA})
		if err != nil {
			t.Fatalf("%q is read here and refused by go-jose: %v", text, err)
		}
		key := theirs.Signatures[0].Header.JSONWebKey
		payload, err := theirs.Verify(key)
		if err != nil {
			t.Fatalf("%q verifies here and not in go-jose: %v", text, err)
		}
		sum, err := key.Thumbprint(crypto.SHA256)
		if err != nil || base64.RawURLEncoding.EncodeToString(sum) != p.Thumbprint {
			t.Fatalf("%q is bound to two keys", text)
		}
		var said struct{ HTM, ATH, JTI, Nonce string }
		if err := json.Unmarshal(payload, &said); err != nil {
			t.Fatal(err)
		}
		if want := wanted(); said.HTM != want["htm"] || said.ATH != want["ath"] || said.Nonce != want["nonce"] || said.JTI != p.ID || p.ID == "" {
			t.Fatalf("%q says %+v", text, said)
		}
	})
}

func BenchmarkVerifyProof(b *testing.B) {
	good := prove(b, ecKey(b), jose.ES256, wanted())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := check(good); err != nil {
			b.Fatal(err)
		}
	}
}
