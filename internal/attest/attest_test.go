package attest

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/mayflytest/idp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const ourIssuer = "https://mayfly.example.org"

// clock is a time that only a test moves.
type clock struct{ offset atomic.Int64 }

var started = time.Now()

func (c *clock) now() time.Time        { return started.Add(time.Duration(c.offset.Load())) }
func (c *clock) pass(by time.Duration) { c.offset.Add(int64(by)) }

func provider(t testing.TB, c *clock) *idp.Provider {
	p := idp.New(t)
	p.Now = c.now
	return p
}

func newSources(t testing.TB, c *clock, list ...Source) *Sources {
	t.Helper()
	s, err := New(list, nil, Options{Issuer: ourIssuer, Now: c.now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func humans(p *idp.Provider) Source {
	return Source{Name: "corp", Kind: "oidc", Issuer: p.URL(), Audience: "mayfly", Operators: "mayfly-operators", Subject: mayfly.Human, Loopback: true}
}

func workloads(p *idp.Provider) Source {
	return Source{Name: "cluster", Kind: "oidc", Issuer: p.URL(), Audience: "mayfly-agents", Subject: mayfly.Workload, Loopback: true}
}

type claims = map[string]any

func TestAWrongConfigurationIsRefused(t *testing.T) {
	good := Source{Name: "corp", Kind: "oidc", Issuer: "https://login.example", Audience: "mayfly", Subject: mayfly.Human}
	unix := Source{Name: "local", Kind: "unix"}
	with := func(change func(*Source)) Source {
		s := good
		change(&s)
		return s
	}
	for _, tt := range []struct {
		name    string
		sources []Source
		clients []Client
		want    string // "" is accepted
	}{
		{"one", []Source{good}, nil, ""},
		{"with a local kernel", []Source{good, unix}, nil, ""},
		{"no name", []Source{with(func(s *Source) { s.Name = "" })}, nil, "needs a name"},
		{"a name that would end an id", []Source{with(func(s *Source) { s.Name = "a/b" })}, nil, "without slash"},
		{"a name twice", []Source{good, {Name: "corp", Kind: "unix"}}, nil, "taken"},
		{"two kernels", []Source{unix, {Name: "other", Kind: "unix"}}, nil, "one kernel"},
		{"unknown kind", []Source{{Name: "a", Kind: "saml"}}, nil, "saml"},
		{"unknown subject", []Source{with(func(s *Source) { s.Subject = mayfly.Agent })}, nil, "agent"},
		{"no subject", []Source{with(func(s *Source) { s.Subject = "" })}, nil, "subject"},
		{"no audience", []Source{with(func(s *Source) { s.Audience = "" })}, nil, "audience"},
		{"operators' audience is everybody's", []Source{with(func(s *Source) { s.Operators = "mayfly" })}, nil, "operators need another"},
		{"operators who are services", []Source{with(func(s *Source) { s.Operators, s.Subject = "ops", mayfly.Service })}, nil, "operators are humans"},
		{"http", []Source{with(func(s *Source) { s.Issuer = "http://login.example" })}, nil, "must be https"},
		{"http that calls itself loopback", []Source{with(func(s *Source) { s.Issuer, s.Loopback = "http://login.example", true })}, nil, "loopback hosts only"},
		{"http on loopback, not asked for", []Source{with(func(s *Source) { s.Issuer = "http://127.0.0.1:1" })}, nil, "must be https"},
		{"http on loopback", []Source{with(func(s *Source) { s.Issuer, s.Loopback = "http://127.0.0.1:1", true })}, nil, ""},
		{"not a URL", []Source{with(func(s *Source) { s.Issuer = "login" })}, nil, "login"},
		{"a URL with a query", []Source{with(func(s *Source) { s.Issuer += "?a=b" })}, nil, "https://host/path"},
		{"a URL with a user", []Source{with(func(s *Source) { s.Issuer = "https://a@login.example" })}, nil, "https://host/path"},
		{"two of a kind, no prefix", []Source{good, with(func(s *Source) { s.Name, s.Issuer, s.Prefix = "b", "https://b.example", "b/" })}, nil, "needs a prefix"},
		{"prefixes that begin alike", []Source{
			with(func(s *Source) { s.Prefix = "a" }), with(func(s *Source) { s.Name, s.Issuer, s.Prefix = "b", "https://b.example", "ab/" }),
		}, nil, "begin alike"},
		{"one token, two sources", []Source{
			good, with(func(s *Source) { s.Name, s.Subject = "b", mayfly.Service }),
		}, nil, `source "corp"'s as well`},
		{"one operators' token, two sources", []Source{
			with(func(s *Source) { s.Operators = "x" }), with(func(s *Source) { s.Name, s.Subject, s.Audience = "b", mayfly.Service, "x" }),
		}, nil, `source "corp"'s as well`},
		{"a client with two key sets", []Source{good}, []Client{{ID: "a", JWKSFile: "x", JWKSURL: "https://y.example"}}, "one of them"},
		{"a client with none", []Source{good}, []Client{{ID: "a"}}, "one of them"},
		{"a client that is a service", []Source{good}, []Client{{ID: "service:a", JWKSURL: "https://y.example"}}, "no other kind"},
		{"a client whose keys are at http", []Source{good}, []Client{{ID: "a", JWKSURL: "http://y.example"}}, "must be https"},
		{"a client whose file is gone", []Source{good}, []Client{{ID: "a", JWKSFile: t.TempDir() + "/none"}}, "cannot be read"},
		{"a client twice", []Source{good}, []Client{{ID: "a", JWKSURL: "https://y.example"}, {ID: "a", JWKSURL: "https://y.example"}}, "taken"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := New(tt.sources, tt.clients, Options{Issuer: ourIssuer})
			switch {
			case err == nil:
				s.Close()
				if tt.want != "" {
					t.Errorf("accepted, want an error with %q", tt.want)
				}
			case tt.want == "" || !strings.Contains(err.Error(), tt.want) || mayfly.KindOf(err) != mayfly.Invalid:
				t.Errorf("error %q of kind %v, want one with %q", err, mayfly.KindOf(err), tt.want)
			}
		})
	}
}

func TestASourceNamesItsSubjects(t *testing.T) {
	c := &clock{}
	p := provider(t, c)
	for _, tt := range []struct {
		name   string
		change func(*Source)
		claims claims
		id     string
		groups []string
	}{
		{"a human is the sub", func(s *Source) {}, nil, "alice", nil},
		{"under a prefix, with the groups", func(s *Source) { s.Prefix, s.ClaimGroups = "corp/", "groups" }, claims{"groups": []string{"finance", "ops"}}, "corp/alice", []string{"corp/finance", "corp/ops"}},
		{"one group without a list", func(s *Source) { s.ClaimGroups = "roles" }, claims{"roles": "finance"}, "alice", []string{"finance"}},
		{"no groups", func(s *Source) { s.ClaimGroups = "groups" }, nil, "alice", nil},
		{"no groups asked for", func(s *Source) {}, claims{"groups": 7}, "alice", nil},
		{"a verified address", func(s *Source) { s.ClaimID = "email" }, claims{"email": "alice@example.org", "email_verified": true}, "alice@example.org", nil},
		{"an assumed address", func(s *Source) { s.ClaimID, s.EmailAssumed = "email", true }, claims{"email": "alice@example.org"}, "alice@example.org", nil},
		{"another claim", func(s *Source) { s.ClaimID = "upn" }, claims{"upn": "a.liddell"}, "a.liddell", nil},
		{"a service says so in its id", func(s *Source) { s.Subject, s.Operators = mayfly.Service, "" }, claims{"sub": "repo:acme/site"}, "service:corp/repo:acme/site", nil},
		{"a service under a prefix", func(s *Source) { s.Subject, s.Operators, s.Prefix = mayfly.Service, "", "x/" }, claims{"sub": "build"}, "service:corp/x/build", nil},
		{"a workload is its sub", func(s *Source) { s.Subject, s.Operators = mayfly.Workload, "" }, claims{"sub": "system:serviceaccount:agents:invoice"}, "system:serviceaccount:agents:invoice", nil},
		{"a workload may be named as a service is", func(s *Source) { s.Subject, s.Operators = mayfly.Workload, "" }, claims{"sub": "service:x"}, "service:x", nil},
		{"one of the matched", func(s *Source) { s.Match = map[string]string{"repository": "acme/*", "ref": "main"} }, claims{"repository": "acme/site", "ref": "main"}, "alice", nil},
		{"an audience in a list of one", func(s *Source) {}, claims{"aud": []string{"mayfly"}}, "alice", nil},
		{"nbf now", func(s *Source) {}, claims{"nbf": c.now().Unix()}, "alice", nil},
		{"clocks that differ a little", func(s *Source) {}, claims{"iat": c.now().Unix() + 4, "nbf": c.now().Unix() + 4}, "alice", nil},
		{"names in other scripts", func(s *Source) {}, claims{"sub": "Ålice 王"}, "Ålice 王", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			from := humans(p)
			tt.change(&from)
			s := newSources(t, c, from)
			for range 2 { // the second time from memory
				got, err := s.Token(t.Context(), p.Issue(tt.claims), ForSubject)
				if err != nil {
					t.Fatal(err)
				}
				if who := got.Subject(); who.ID != tt.id || who.Kind != from.Subject || who.Source != "corp" || !slices.Equal(who.Groups, tt.groups) {
					t.Errorf("got %+v, want %q with groups %q", who, tt.id, tt.groups)
				}
			}
		})
	}
}

func TestACallerCarriesWhatTheTokenSays(t *testing.T) {
	c := &clock{}
	p := provider(t, c)
	s := newSources(t, c, humans(p), workloads(p))
	jkt := strings.Repeat("A", 43)
	got, err := s.Token(t.Context(), p.Issue(claims{
		"aud": "mayfly-agents", "sub": "agent", "jti": "j1", "exp": c.now().Unix() + 60, "cnf": claims{"jkt": jkt}, "txn": "t1",
		"task": claims{"id": "x"}, "act": claims{"sub": "other"}, "may_act": claims{"iss": "i", "sub": "s"}, "region": "eu", "nonce": "n", "n": 1,
	}), ForActor)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"iss": p.URL(), "aud": "mayfly-agents", "sub": "agent", "txn": "t1", "region": "eu"}
	if fmt.Sprint(got.Subject().Claims) != fmt.Sprint(want) {
		t.Errorf("claims %v, want %v", got.Subject().Claims, want)
	}
	if got.Issuer() != p.URL() || got.TokenID() != "j1" || got.Key() != jkt || got.Transaction() != "t1" || got.Task() != `{"id":"x"}` ||
		!got.HasActor() || got.Operator() || got.Client() != "" || !slices.Equal(got.MayAct(), []Actor{{Issuer: "i", Subject: "s"}}) {
		t.Errorf("got %+v", got)
	}
	if got.ExpiresAt().Unix() != c.now().Unix()+60 || got.IssuedAt().Unix() != c.now().Unix() {
		t.Errorf("from %v to %v", got.IssuedAt(), got.ExpiresAt())
	}
	if !s.Known("corp") || !s.Known("cluster") || s.Known("other") {
		t.Error("the sources known are not those configured")
	}
}

// TestATokenThatIsNotGoodIsRefused holds the matrix of what is wrong with
// tokens. Each row is presented in all three ways.
func TestATokenThatIsNotGoodIsRefused(t *testing.T) {
	c := &clock{}
	p, stranger := provider(t, c), provider(t, c)
	now := c.now().Unix()
	payload := func(text string) string {
		return p.Sign(nil, []byte(strings.NewReplacer("ISS", p.URL(), "NOW", fmt.Sprint(now), "END", fmt.Sprint(now+60)).Replace(text)))
	}
	good := p.Issue(nil)
	parts := strings.Split(good, ".")
	email := func(s *Source) { s.ClaimID = "email" }
	assumed := func(s *Source) { s.ClaimID, s.EmailAssumed = "email", true }
	groups := func(s *Source) { s.ClaimGroups = "groups" }
	none := func(*Source) {}
	const offline = true // refused before anything is fetched
	for _, tt := range []struct {
		name    string
		text    string
		change  func(*Source)
		offline bool
	}{
		{"S-25 alg none", p.IssueWith(claims{"alg": "none"}, nil), none, offline},
		{"S-25 alg none, no signature", parts[0] + "." + parts[1] + ".", none, offline},
		{"S-25 HS256 keyed with the public key", p.IssueWith(claims{"alg": "HS256"}, nil), none, offline},
		{"S-25 crit", p.IssueWith(claims{"crit": []string{"x"}}, nil), none, offline},
		{"S-25 jku", p.IssueWith(claims{"jku": stranger.URL() + idp.KeysPath}, nil), none, offline},
		{"x5u", p.IssueWith(claims{"x5u": stranger.URL()}, nil), none, offline},
		{"jwk in the header", p.IssueWith(claims{"jwk": claims{"kty": "EC"}}, nil), none, offline},
		{"zip", p.IssueWith(claims{"zip": "DEF"}, nil), none, offline},
		{"S-13 an access token", p.IssueWith(claims{"typ": "at+jwt"}, nil), none, offline},
		{"S-13 a security event", p.IssueWith(claims{"typ": "secevent+jwt"}, nil), none, offline},
		{"S-13 a logout token typed JWT", p.Issue(claims{"events": claims{"http://schemas.openid.net/event/backchannel-logout": claims{}}}), none, false},
		{"S-13 a JWT-SVID", p.Issue(claims{"iss": nil, "sub": "spiffe://example.org/agent"}), none, offline},
		{"typ in another spelling", p.IssueWith(claims{"typ": "jwt"}, nil), none, offline},
		{"nothing", "", none, offline},
		{"one part", "abc", none, offline},
		{"five parts", good + ".a.b", none, offline},
		{"dots", strings.Repeat(".", 1<<20), none, offline},
		{"too long", p.Issue(claims{"pad": strings.Repeat("x", 17<<10)}), none, offline},
		{"a line break inside", good[:40] + "\n" + good[40:], none, offline},
		{"a space around", " " + good, none, offline},
		{"padding", good + "=", none, offline},
		{"payload of another token", parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"root"}`)) + "." + parts[2], none, offline},
		{"alg of another key", p.IssueWith(claims{"alg": "EdDSA"}, nil), none, false},
		{"kid of nobody", p.IssueWith(claims{"kid": "other"}, nil), none, false},
		{"signed by a stranger with the same kid", stranger.Issue(claims{"iss": p.URL()}), none, false},
		{"another issuer", stranger.Issue(nil), none, offline},
		{"issuer with a slash", p.Issue(claims{"iss": p.URL() + "/"}), none, offline},
		{"no issuer", p.Issue(claims{"iss": nil}), none, offline},
		{"no subject", p.Issue(claims{"sub": nil}), none, offline},
		{"empty subject", p.Issue(claims{"sub": ""}), none, offline},
		{"subject is a number", p.Issue(claims{"sub": 7}), none, offline},
		{"no audience", p.Issue(claims{"aud": nil}), none, offline},
		{"another audience", p.Issue(claims{"aud": "other"}), none, offline},
		{"two audiences", p.Issue(claims{"aud": []string{"mayfly", "other"}}), none, offline},
		{"ours twice", p.Issue(claims{"aud": []string{"mayfly", "mayfly"}}), none, offline},
		{"audience in other case", p.Issue(claims{"aud": "Mayfly"}), none, offline},
		{"no exp", p.Issue(claims{"exp": nil}), none, offline},
		{"exp null", payload(`{"iss":"ISS","sub":"a","aud":"mayfly","iat":NOW,"exp":null}`), none, offline},
		{"exp as text", p.Issue(claims{"exp": fmt.Sprint(now + 60)}), none, offline},
		{"exp with a fraction", payload(`{"iss":"ISS","sub":"a","aud":"mayfly","iat":NOW,"exp":END.5}`), none, offline},
		{"exp in milliseconds", p.Issue(claims{"exp": (now + 60) * 1000}), none, offline},
		{"S-08 expired", p.Issue(claims{"iat": now - 600, "exp": now - 6}), none, offline},
		{"no iat", p.Issue(claims{"iat": nil}), none, offline},
		{"iat in the future", p.Issue(claims{"iat": now + 30}), none, offline},
		{"nbf in the future", p.Issue(claims{"nbf": now + 30}), none, offline},
		{"a claim twice", payload(`{"iss":"ISS","sub":"a","aud":"mayfly","iat":NOW,"exp":END,"sub":"b"}`), none, offline},
		{"bytes after the payload", payload(`{"iss":"ISS","sub":"a","aud":"mayfly","iat":NOW,"exp":END}x`), none, offline},
		{"invalid UTF-8", payload("{\"iss\":\"ISS\",\"sub\":\"a\xff\",\"aud\":\"mayfly\",\"iat\":NOW,\"exp\":END}"), none, offline},
		{"payload is a list", payload(`[1]`), none, offline},
		{"address not verified", p.Issue(claims{"email": "a@example.org", "email_verified": false}), email, false},
		{"address not said to be verified", p.Issue(claims{"email": "a@example.org"}), email, false},
		{"address verified as text", p.Issue(claims{"email": "a@example.org", "email_verified": "true"}), email, false},
		{"address assumed, and said not to be verified", p.Issue(claims{"email": "a@example.org", "email_verified": false}), assumed, false},
		{"no address", p.Issue(claims{"email_verified": true}), email, false},
		{"a list of addresses", p.Issue(claims{"email": []string{"a@example.org"}, "email_verified": true}), email, false},
		{"a human called as a service is", p.Issue(claims{"sub": "service:ci/build"}), none, false},
		{"a human called as an agent is", p.Issue(claims{"sub": "spiffe://example.org/agent/p/t"}), none, false},
		{"a human called so by prefix and id", p.Issue(claims{"sub": "ice:ci"}), func(s *Source) { s.Prefix = "serv" }, false},
		{"an address that is a service's id", p.Issue(claims{"email": "service:ci", "email_verified": true}), email, false},
		{"another source's prefix", p.Issue(claims{"sub": "ci/alice"}), none, false},
		{"another source's prefix on a group", p.Issue(claims{"groups": []string{"ci/admins"}}), groups, false},
		{"a group that is a number", p.Issue(claims{"groups": []any{"a", 7}}), groups, false},
		{"groups that are an object", p.Issue(claims{"groups": claims{"a": true}}), groups, false},
		{"a group without a name", p.Issue(claims{"groups": []string{""}}), groups, false},
		{"an id that writes from right to left", p.Issue(claims{"sub": "a\u202eecila"}), none, false},
		{"an id with a line break", p.Issue(claims{"sub": "alice\nbob"}), none, false},
		{"an id with a space at its end", p.Issue(claims{"sub": "alice "}), none, false},
		{"an id without end", p.Issue(claims{"sub": strings.Repeat("a", 513)}), none, false},
		{"a claim that must match and is missing", p.Issue(nil), func(s *Source) { s.Match = map[string]string{"repository": "acme/*"} }, false},
		{"a claim that does not match", p.Issue(claims{"repository": "evil/acme/x"}), func(s *Source) { s.Match = map[string]string{"repository": "acme/*"} }, false},
		{"a claim that matches but for what the star stands for", p.Issue(claims{"repository": "acme/"}), func(s *Source) { s.Match = map[string]string{"repository": "acme/*"} }, false},
		{"a claim that matches and is no text", p.Issue(claims{"repository": []string{"acme/site"}}), func(s *Source) { s.Match = map[string]string{"repository": "acme/*"} }, false},
		{"bound to a certificate", p.Issue(claims{"cnf": claims{"x5t#S256": strings.Repeat("A", 43)}}), none, false},
		{"bound to a key in two ways", p.Issue(claims{"cnf": claims{"jkt": strings.Repeat("A", 43), "kid": "a"}}), none, false},
		{"bound to no thumbprint", p.Issue(claims{"cnf": claims{"jkt": "abc"}}), none, false},
		{"bound to a thumbprint in another spelling", p.Issue(claims{"cnf": claims{"jkt": strings.Repeat("A", 42) + "B"}}), none, false},
		{"bound to null", payload(`{"iss":"ISS","sub":"a","aud":"mayfly","iat":NOW,"exp":END,"cnf":null}`), none, false},
		{"may_act is a name", p.Issue(claims{"may_act": "agent"}), none, false},
		{"may_act names nobody", p.Issue(claims{"may_act": claims{"iss": "x"}}), none, false},
		{"may_act with a rule we do not know", p.Issue(claims{"may_act": claims{"sub": "x", "aud": "y"}}), none, false},
		{"may_act null", payload(`{"iss":"ISS","sub":"a","aud":"mayfly","iat":NOW,"exp":END,"may_act":null}`), none, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			from := humans(p)
			tt.change(&from)
			s := newSources(t, c, from, Source{Name: "ci", Kind: "oidc", Issuer: stranger.URL(), Audience: "other", Subject: mayfly.Service, Prefix: "ci/", Loopback: true})
			before := p.Fetched(idp.DiscoveryPath) + stranger.Fetched(idp.DiscoveryPath) + stranger.Fetched(idp.KeysPath)
			for _, use := range []Use{ForSubject, ForActor, ForAPI} {
				got, err := s.Token(t.Context(), tt.text, use)
				wantRefused(t, use, got, err)
			}
			after := p.Fetched(idp.DiscoveryPath) + stranger.Fetched(idp.DiscoveryPath) + stranger.Fetched(idp.KeysPath)
			if tt.offline && after != before || after > before+1 {
				t.Errorf("%d fetches", after-before)
			}
			if _, err := s.Token(t.Context(), p.Issue(nil), Use(0)); err == nil {
				t.Error("a token was good for nothing in particular")
			}
		})
	}
}

// wantRefused checks that a refusal is of the kind and code of its use, and
// gives nobody.
func wantRefused(t *testing.T, use Use, got Caller, err error) {
	t.Helper()
	kind, code := mayfly.Invalid, "invalid_request"
	if use == ForAPI {
		kind, code = mayfly.Unauthenticated, "invalid_token"
	}
	if err == nil {
		t.Fatalf("use %d: accepted as %+v", use, got.Subject())
	}
	if e := mayfly.AsError(err); e.Kind != kind || e.Code != code || e.Message == "" {
		t.Errorf("use %d: kind %v, code %q, %q; want kind %v, code %q", use, e.Kind, e.Code, e.Message, kind, code)
	}
	if got.Subject().ID != "" || got.Subject().Kind != "" {
		t.Errorf("use %d: a refused token gave %+v", use, got.Subject())
	}
}

func TestAnOperatorsTokenIsNeverAnAgents(t *testing.T) {
	c := &clock{}
	p := provider(t, c)
	s := newSources(t, c, humans(p))
	text := p.Issue(claims{"aud": "mayfly-operators"})
	for range 2 { // the second round from memory
		got, err := s.Token(t.Context(), text, ForAPI)
		if err != nil || !got.Operator() || got.Subject().ID != "alice" {
			t.Fatalf("got %+v, %v", got.Subject(), err)
		}
		for _, use := range []Use{ForSubject, ForActor} {
			got, err := s.Token(t.Context(), text, use)
			wantRefused(t, use, got, err)
		}
	}
	if got, err := s.Token(t.Context(), p.Issue(nil), ForAPI); err != nil || got.Operator() {
		t.Errorf("everybody's token: operator %v, %v", got.Operator(), err)
	}
}

func TestATokenBoundToAKeyIsNoBearerToken(t *testing.T) {
	c := &clock{}
	p := provider(t, c)
	s := newSources(t, c, humans(p))
	text := p.Issue(claims{"cnf": claims{"jkt": strings.Repeat("A", 43)}})
	if got, err := s.Token(t.Context(), text, ForActor); err != nil || got.Key() == "" {
		t.Errorf("key %q, %v", got.Key(), err)
	}
	got, err := s.Token(t.Context(), text, ForAPI)
	wantRefused(t, ForAPI, got, err)
}

// TestTwoIssuersShareNoKeys is attack B4: one issuer's key under a key id of
// another's.
func TestTwoIssuersShareNoKeys(t *testing.T) {
	c := &clock{}
	a, b := provider(t, c), provider(t, c)
	one, two := humans(a), humans(b)
	one.Prefix, two.Prefix, two.Name = "a/", "b/", "other"
	s := newSources(t, c, one, two)
	for _, p := range []*idp.Provider{a, b} {
		if _, err := s.Token(t.Context(), p.Issue(nil), ForSubject); err != nil {
			t.Fatal(err)
		}
	}
	got, err := s.Token(t.Context(), a.Issue(claims{"iss": b.URL()}), ForSubject)
	wantRefused(t, ForSubject, got, err)
}

func TestEveryAlgorithmOfTheListVerifies(t *testing.T) {
	c := &clock{}
	p := provider(t, c)
	for _, algorithm := range []string{"ES256", "EdDSA", "RS256", "PS256"} {
		p.Rotate(algorithm)
	}
	s := newSources(t, c, humans(p))
	for _, algorithm := range []string{"ES256", "EdDSA", "RS256", "PS256"} {
		c.pass(fetchEvery)
		p.Rotate(algorithm)
		if _, err := s.Token(t.Context(), p.Issue(nil), ForSubject); err != nil {
			t.Errorf("%s: %v", algorithm, err)
		}
	}
}

// anyClaims draws claims an issuer could be made to sign, beyond those that
// choose the source and the time.
func anyClaims(t *rapid.T) claims {
	text := rapid.OneOf(
		rapid.String(),
		rapid.SampledFrom([]string{"service:", "spiffe://", "ci/", "human", "alice@example.org", "human:alice", "corp/"}),
		rapid.Map(rapid.String(), func(s string) string { return "service:" + s }),
		rapid.Map(rapid.String(), func(s string) string { return "spiffe:" + s }),
	)
	value := rapid.OneOf(
		rapid.Map(text, func(s string) any { return s }),
		rapid.Map(rapid.SliceOf(text), func(s []string) any { return s }),
		rapid.Map(rapid.Bool(), func(b bool) any { return b }),
		rapid.Map(text, func(s string) any { return claims{"sub": s} }),
	)
	names := rapid.SampledFrom([]string{
		"sub", "email", "email_verified", "groups", "kind", "subject", "sub_profile", "type", "act", "may_act", "cnf", "txn", "task", "Sub", "source", "azp", "events", "upn",
	})
	return rapid.MapOf(names, value).Draw(t, "claims")
}

func TestTheKindOfACallerIsItsSources(t *testing.T) {
	c := &clock{}
	p := provider(t, c)
	rapid.Check(t, func(t *rapid.T) {
		from := Source{Name: "one", Kind: "oidc", Issuer: p.URL(), Audience: "mayfly", Loopback: true,
			Subject:      rapid.SampledFrom([]mayfly.SubjectKind{mayfly.Human, mayfly.Service, mayfly.Workload}).Draw(t, "kind"),
			ClaimID:      rapid.SampledFrom([]string{"", "sub", "email", "upn", "kind"}).Draw(t, "id"),
			ClaimGroups:  rapid.SampledFrom([]string{"", "groups"}).Draw(t, "groups"),
			EmailAssumed: rapid.Bool().Draw(t, "assumed"),
			Prefix:       rapid.SampledFrom([]string{"", "corp/", "serv", "spif"}).Draw(t, "prefix"),
		}
		s, err := New([]Source{from, {Name: "ci", Kind: "oidc", Issuer: "https://ci.example", Audience: "x", Subject: mayfly.Service, Prefix: "ci/"}}, nil, Options{Now: c.now})
		if err != nil {
			if from.Subject == mayfly.Service && from.Prefix == "" {
				return // two sources of a kind
			}
			t.Fatal(err)
		}
		defer s.Close()
		got, err := s.Token(t.Context(), p.Issue(anyClaims(t)), ForSubject)
		if err != nil {
			return
		}
		checkSubject(t, got.Subject(), from)
	})
}

// checkSubject checks what must hold for every subject a source ever gives.
func checkSubject(t interface{ Fatalf(string, ...any) }, who mayfly.Subject, from Source) {
	switch {
	case who.Kind != from.Subject || who.Source != from.Name:
		t.Fatalf("source %q of %ss gave %+v", from.Name, from.Subject, who)
	case who.Kind == mayfly.Human && (strings.HasPrefix(who.ID, "service:") || strings.HasPrefix(who.ID, "spiffe:")):
		t.Fatalf("a human is called %q", who.ID)
	case who.Kind == mayfly.Service && !strings.HasPrefix(who.ID, "service:"+from.Name+"/"+from.Prefix):
		t.Fatalf("a service is called %q", who.ID)
	case who.Kind != mayfly.Service && !strings.HasPrefix(who.ID, from.Prefix) || from.Prefix == "" && strings.HasPrefix(who.ID, "ci/"):
		t.Fatalf("a prefix does not keep %q apart", who.ID)
	case who.ID == "" || who.Claims["sub"] == "":
		t.Fatalf("somebody without a name: %+v", who)
	}
}

// FuzzToken gives the door any text at all: only the one token that was issued
// opens it.
func FuzzToken(f *testing.F) {
	c := &clock{}
	p := provider(f, c)
	s := newSources(f, c, humans(p), workloads(p))
	good := p.Issue(nil)
	if _, err := s.Token(f.Context(), good, ForSubject); err != nil {
		f.Fatal(err)
	}
	for _, text := range []string{good, good + "A", strings.ToUpper(good), "..", "a.b.c", strings.Repeat("e30.", 3),
		p.IssueWith(claims{"alg": "none"}, nil), p.Issue(claims{"exp": nil}), p.IssueWith(claims{"kid": ""}, claims{"aud": []string{}})} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, use := range []Use{ForSubject, ForActor, ForAPI} {
			got, err := s.Token(t.Context(), text, use)
			if err == nil && text != good {
				t.Fatalf("accepted as %+v", got.Subject())
			}
			if err != nil && mayfly.KindOf(err) == mayfly.Internal {
				t.Fatalf("an error of no kind: %v", err)
			}
		}
	})
}

// FuzzClaims gives the mapping any payload, rightly signed.
func FuzzClaims(f *testing.F) {
	c := &clock{}
	p := provider(f, c)
	human, workload := humans(p), workloads(p)
	human.ClaimGroups = "groups"
	s := newSources(f, c, human, workload, Source{Name: "ci", Kind: "oidc", Issuer: "https://ci.example", Audience: "x", Subject: mayfly.Service, Prefix: "ci/"})
	for _, text := range []string{
		`"sub":"alice"`, `"sub":"service:x","groups":["a"]`, `"sub":"a","groups":"b","act":{"sub":"x"}`, `"sub":"a","may_act":{"sub":"x","iss":"y"}`,
		`"sub":"a","cnf":{"jkt":"` + strings.Repeat("A", 43) + `"}`, `"sub":"a","sub":"b"`, `"sub":null`, `"sub":"a","txn":{"a":[1,2]},"task":"t"`, `"sub":"\u202e"`, ``,
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, from := range []Source{human, workload} {
			payload := fmt.Sprintf(`{"iss":%q,"aud":%q,"iat":%d,"exp":%d,%s}`, p.URL(), from.Audience, c.now().Unix(), c.now().Unix()+60, text)
			got, err := s.Token(t.Context(), p.Sign(nil, []byte(payload)), ForActor)
			if err == nil {
				checkSubject(t, got.Subject(), from)
			} else if mayfly.KindOf(err) == mayfly.Internal {
				t.Fatalf("an error of no kind: %v", err)
			}
		}
	})
}
