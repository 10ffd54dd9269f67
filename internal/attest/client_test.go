package attest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/mayflytest/idp"
)

const assertionType = "client-authentication+jwt"

// withClients are clients ci, whose keys are in a file, and bot, whose keys are
// at a URL. Both have the keys of p.
func withClients(t testing.TB, c *clock, p *idp.Provider) *Sources {
	t.Helper()
	file := filepath.Join(t.TempDir(), "ci.jwks")
	if err := os.WriteFile(file, p.KeySet(), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := New(nil, []Client{{ID: "ci", JWKSFile: file, Audience: "api"}, {ID: "bot", JWKSURL: p.URL() + idp.KeysPath}}, Options{Issuer: ourIssuer, Now: c.now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// assert makes an assertion of client ci with these claims over a good one's.
func assert(p *idp.Provider, c *clock, header, over claims) string {
	body := claims{"iss": "ci", "sub": "ci", "aud": ourIssuer, "jti": "j1", "exp": c.now().Unix() + 60}
	for name, value := range over {
		body[name] = value
	}
	head := claims{"typ": assertionType}
	for name, value := range header {
		head[name] = value
	}
	return p.IssueWith(head, body)
}

func TestAClientProvesItsKey(t *testing.T) {
	c := &clock{}
	p := provider(t, c)
	s := withClients(t, c, p)
	for _, tt := range []struct {
		name           string
		header, claims claims
		id, want       string
	}{
		{"keys in a file", nil, nil, "", "ci"},
		{"client_id sent too", nil, nil, "ci", "ci"},
		{"keys at a URL", nil, claims{"iss": "bot", "sub": "bot"}, "", "bot"},
		{"no typ, as clients wrote before rfc7523bis", claims{"typ": nil}, nil, "", "ci"},
		{"typ JWT, the same", claims{"typ": "JWT"}, nil, "", "ci"},
		{"five minutes", nil, claims{"exp": c.now().Unix() + 300}, "", "ci"},
		{"no kid, one key", claims{"kid": nil}, nil, "", "ci"},
	} {
		got, err := s.ClientAssertion(t.Context(), assert(p, c, tt.header, tt.claims), tt.id)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		who := got.Subject()
		if got.Client() != tt.want || who.ID != tt.want || who.Kind != mayfly.Workload || who.Source != "" || who.Claims["sub"] != tt.want ||
			got.TokenID() != "j1" || got.Issuer() != ourIssuer || got.ExpiresAt().IsZero() {
			t.Errorf("%s: got %+v", tt.name, got)
		}
	}
}

func TestAnAssertionThatIsNotGoodIsRefused(t *testing.T) {
	c := &clock{}
	p, stranger := provider(t, c), provider(t, c)
	s := withClients(t, c, p)
	now := c.now().Unix()
	var unknown, unproven string
	for _, tt := range []struct {
		name string
		text string
		id   string
	}{
		{"nothing", "", ""},
		{"aud is the token endpoint", assert(p, c, nil, claims{"aud": ourIssuer + "/oauth2/token"}), ""},
		{"aud is us and another", assert(p, c, nil, claims{"aud": []string{ourIssuer, "https://other.example"}}), ""},
		{"aud is us, in a list", assert(p, c, nil, claims{"aud": []string{ourIssuer}}), ""},
		{"aud is us with a slash", assert(p, c, nil, claims{"aud": ourIssuer + "/"}), ""},
		{"no aud", assert(p, c, nil, claims{"aud": nil}), ""},
		{"iss is not sub", assert(p, c, nil, claims{"sub": "bot"}), ""},
		{"no iss", assert(p, c, nil, claims{"iss": nil}), ""},
		{"no sub", assert(p, c, nil, claims{"sub": nil}), ""},
		{"neither", assert(p, c, nil, claims{"iss": "", "sub": ""}), ""},
		{"client_id of another", assert(p, c, nil, nil), "bot"},
		{"no jti", assert(p, c, nil, claims{"jti": nil}), ""},
		{"empty jti", assert(p, c, nil, claims{"jti": ""}), ""},
		{"jti without end", assert(p, c, nil, claims{"jti": strings.Repeat("j", 513)}), ""},
		{"no exp", assert(p, c, nil, claims{"exp": nil}), ""},
		{"expired", assert(p, c, nil, claims{"iat": now - 120, "exp": now - 60}), ""},
		{"an hour long", assert(p, c, nil, claims{"exp": now + 3600}), ""},
		{"from long ago", assert(p, c, nil, claims{"iat": now - 600, "exp": now + 60}), ""},
		{"from the future", assert(p, c, nil, claims{"iat": now + 60, "exp": now + 90}), ""},
		{"not yet", assert(p, c, nil, claims{"nbf": now + 30}), ""},
		{"typ of a grant", assert(p, c, claims{"typ": "authorization-grant+jwt"}, nil), ""},
		{"typ of a proof", assert(p, c, claims{"typ": "dpop+jwt"}, nil), ""},
		{"typ of a token", assert(p, c, claims{"typ": "at+jwt"}, nil), ""},
		{"alg none", assert(p, c, claims{"alg": "none"}, nil), ""},
		{"HS256", assert(p, c, claims{"alg": "HS256"}, nil), ""},
		{"another client's key", assert(stranger, c, nil, nil), ""},
		{"key of nobody", assert(p, c, claims{"kid": "x"}, nil), ""},
		{"a client of nobody", assert(p, c, nil, claims{"iss": "other", "sub": "other"}), ""},
		{"a source's token", p.Issue(nil), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := s.ClientAssertion(t.Context(), tt.text, tt.id)
			if err == nil {
				t.Fatalf("accepted as %q", got.Client())
			}
			if e := mayfly.AsError(err); e.Kind != mayfly.Unauthenticated || e.Code != "invalid_client" || got.Client() != "" {
				t.Errorf("kind %v, code %q, client %q", e.Kind, e.Code, got.Client())
			}
			switch tt.name {
			case "a client of nobody":
				unknown = err.Error()
			case "another client's key":
				unproven = err.Error()
			}
		})
	}
	if unknown == "" || unknown != unproven {
		t.Errorf("a stranger can tell which clients there are: %q, %q", unknown, unproven)
	}
}

func TestAClientWhoseKeysAreGoneIsTold(t *testing.T) {
	c := &clock{}
	p := provider(t, c)
	p.Fail(true)
	s := withClients(t, c, p)
	text := assert(p, c, nil, claims{"iss": "bot", "sub": "bot"})
	if _, err := s.ClientAssertion(t.Context(), text, ""); mayfly.KindOf(err) != mayfly.Unavailable {
		t.Errorf("got %v", err)
	}
	p.Fail(false)
	c.pass(fetchEvery)
	if _, err := s.ClientAssertion(t.Context(), text, ""); err != nil {
		t.Error(err)
	}
	c.pass(2 * time.Minute)
	if _, err := s.ClientAssertion(t.Context(), text, ""); mayfly.KindOf(err) != mayfly.Unauthenticated {
		t.Errorf("after its end: %v", err)
	}
}

// FuzzClientAssertion gives the door any text at all: only the one assertion
// that was made opens it.
func FuzzClientAssertion(f *testing.F) {
	c := &clock{}
	p := provider(f, c)
	s := withClients(f, c, p)
	good := assert(p, c, nil, nil)
	if _, err := s.ClientAssertion(f.Context(), good, ""); err != nil {
		f.Fatal(err)
	}
	f.Add(good, "ci")
	f.Add(good, "bot")
	f.Add(assert(p, c, claims{"alg": "none"}, nil), "")
	f.Add("..", "")
	f.Fuzz(func(t *testing.T, text, id string) {
		got, err := s.ClientAssertion(t.Context(), text, id)
		if err == nil && (text != good || id != "" && id != "ci") {
			t.Fatalf("accepted as %q", got.Client())
		}
		if err != nil && mayfly.KindOf(err) == mayfly.Internal {
			t.Fatalf("an error of no kind: %v", err)
		}
	})
}
