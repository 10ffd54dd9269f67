package attest

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/mayflytest/idp"
)

// signingIn are sources whose humans sign in, at a provider that takes whoever comes.
func signingIn(t *testing.T) (*Sources, *idp.Provider, *idp.Login, *clock) {
	c := &clock{}
	p := provider(t, c)
	l := p.SignsIn()
	source := humans(p)
	source.SignIn, source.ClaimGroups = true, "groups"
	source.Scopes = []string{"email"}
	return newSources(t, c, source, workloads(p)), p, l, c
}

func aWay(c *clock) SignIn {
	return SignIn{
		Redirect: ourIssuer + "/console/signed-in", State: "a-state", Nonce: "a-nonce",
		Verifier: strings.Repeat("v", 43), Began: c.now(),
	}
}

// walk goes to the provider as a browser does, and gives what it brings back.
func walk(t *testing.T, s *Sources, in SignIn) url.Values {
	t.Helper()
	to, err := s.SignInURL(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	browser := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := browser.Get(to)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	back, err := resp.Location()
	if err != nil {
		t.Fatal(err)
	}
	if got := back.Scheme + "://" + back.Host + back.Path; got != in.Redirect {
		t.Fatalf("the provider sends the browser to %s", got)
	}
	return back.Query()
}

func TestAHumanSignsInByTheirProvider(t *testing.T) {
	s, p, l, c := signingIn(t)
	l.Claims = claims{"sub": "bob", "groups": []string{"finance"}}
	in := aWay(c)
	in.Hint = "bob"
	back := walk(t, s, in)
	for name, want := range map[string]string{
		"response_type": "code", "client_id": "mayfly-operators", "redirect_uri": in.Redirect, "state": in.State, "nonce": in.Nonce,
		"scope": "openid email", "code_challenge_method": "S256", "login_hint": "bob", "max_age": "28800", "prompt": "",
	} {
		if got := l.Asked.Get(name); got != want {
			t.Errorf("the provider is asked with %s %q, want %q", name, got, want)
		}
	}
	if l.Asked.Get("code_challenge") == in.Verifier {
		t.Error("the verifier itself goes through the browser")
	}
	got, err := s.SignedIn(t.Context(), back.Get("code"), back.Get("iss"), in)
	if err != nil {
		t.Fatal(err)
	}
	who := got.Caller.Subject()
	if who.Kind != mayfly.Human || who.ID != "bob" || who.Source != "corp" || len(who.Groups) != 1 || !got.Caller.Operator() || got.At.Unix() != c.now().Unix() {
		t.Errorf("signed in is %+v at %v", who, got.At)
	}
	// The code is good once, and the provider says so.
	if _, err := s.SignedIn(t.Context(), back.Get("code"), back.Get("iss"), in); mayfly.KindOf(err) != mayfly.Unauthenticated {
		t.Errorf("a code twice: %v", err)
	}
	if p.Fetched(idp.TokenPath) != 2 {
		t.Errorf("the token endpoint was asked %d times", p.Fetched(idp.TokenPath))
	}

	in.Again = true
	walk(t, s, in)
	if l.Asked.Get("prompt") != "login" || l.Asked.Get("max_age") != "0" {
		t.Errorf("to be asked again, the provider is asked with %v", l.Asked)
	}
}

// The client shows its secret in the way that the provider takes.
func TestTheClientShowsItsSecret(t *testing.T) {
	for method, held := range map[string]map[string]bool{
		"client_secret_basic": {"s3cret": true, "another": false},
		"client_secret_post":  {"s3cret": true, "another": false},
	} {
		for secret, right := range held {
			c := &clock{}
			p := provider(t, c)
			l := p.SignsIn()
			l.Secret, l.Method = "s3cret", method
			source := humans(p)
			source.SignIn, source.Secret = true, mayfly.NewSecret(secret)
			s, in := newSources(t, c, source), aWay(c)
			back := walk(t, s, in)
			if _, err := s.SignedIn(t.Context(), back.Get("code"), back.Get("iss"), in); (err == nil) != right || err != nil && (strings.Contains(err.Error(), secret) || !strings.Contains(err.Error(), "client_secret")) {
				t.Errorf("%s with %q: %v", method, secret, err)
			}
		}
	}
}

func TestAnAnswerThatIsNotOfThisSignInIsRefused(t *testing.T) {
	ago := func(c *clock, by time.Duration) int64 { return c.now().Add(-by).Unix() }
	for name, test := range map[string]struct {
		claims func(*clock) claims
		change func(*SignIn)
		issuer string
		says   string
	}{
		"the nonce of another":        {change: func(in *SignIn) { in.Nonce = "another" }, says: "nonce"},
		"no nonce":                    {claims: func(*clock) claims { return claims{"nonce": nil} }, says: "nonce"},
		"no nonce was asked for":      {claims: func(*clock) claims { return claims{"nonce": ""} }, change: func(in *SignIn) { in.Nonce = "" }, says: "nonce"},
		"a nonce that is a list":      {claims: func(*clock) claims { return claims{"nonce": []string{"a-nonce"}} }, says: "nonce"},
		"another issuer":              {issuer: "https://evil.example", says: "another provider"},
		"no issuer":                   {issuer: "none", says: "another provider"}, // it says that it always names itself
		"a token for agents":          {claims: func(*clock) claims { return claims{"aud": "mayfly"} }, says: "not for the console"},
		"a token for workloads":       {claims: func(*clock) claims { return claims{"aud": "mayfly-agents"} }, says: "not for the console"},
		"a token for others":          {claims: func(*clock) claims { return claims{"aud": "elsewhere"} }, says: ""},
		"a token for several":         {claims: func(*clock) claims { return claims{"aud": []string{"mayfly-operators", "mayfly"}} }, says: ""},
		"made for another client":     {claims: func(*clock) claims { return claims{"azp": "other"} }, says: "azp"},
		"the verifier of another":     {change: func(in *SignIn) { in.Verifier = strings.Repeat("w", 43) }, says: "does not take its own code"},
		"signed in in the future":     {claims: func(c *clock) claims { return claims{"auth_time": c.now().Add(time.Hour).Unix()} }, says: "after the token"},
		"a time that is none":         {claims: func(*clock) claims { return claims{"auth_time": "yesterday"} }, says: "auth_time"},
		"a token bound to a key":      {claims: func(*clock) claims { return claims{"cnf": claims{"jkt": strings.Repeat("A", 43)}} }, says: "not for the console"},
		"expired":                     {claims: func(c *clock) claims { return claims{"iat": ago(c, time.Hour), "exp": ago(c, 30*time.Minute)} }, says: ""},
		"asked again, and it was not": {claims: func(c *clock) claims { return claims{"auth_time": ago(c, 10*time.Minute)} }, change: func(in *SignIn) { in.Again = true }, says: "did not ask again"},
		"asked again, says nothing":   {claims: func(*clock) claims { return claims{"auth_time": nil} }, change: func(in *SignIn) { in.Again = true }, says: "does not say when"},
	} {
		t.Run(name, func(t *testing.T) {
			s, _, l, c := signingIn(t)
			in := aWay(c)
			if test.claims != nil {
				l.Claims = test.claims(c)
			}
			back := walk(t, s, in)
			if test.change != nil {
				test.change(&in)
			}
			issuer := back.Get("iss")
			if test.issuer != "" {
				issuer = strings.TrimPrefix(test.issuer, "none")
			}
			_, err := s.SignedIn(t.Context(), back.Get("code"), issuer, in)
			if mayfly.KindOf(err) != mayfly.Unauthenticated || !strings.Contains(err.Error(), test.says) {
				t.Errorf("got %v, want a refusal that says %q", err, test.says)
			}
		})
	}
}

func TestAProviderThatDoesNotAnswerSignsNobodyIn(t *testing.T) {
	s, p, _, c := signingIn(t)
	in := aWay(c)
	back := walk(t, s, in)
	p.Fail(true)
	if _, err := s.SignedIn(t.Context(), back.Get("code"), "", in); mayfly.KindOf(err) != mayfly.Unavailable {
		t.Errorf("while it is down: %v", err)
	}
	p.Fail(false)
	for name, metadata := range map[string]string{
		"of another issuer":  `{"issuer":"https://evil.example","authorization_endpoint":"%[1]s/authorize","token_endpoint":"%[1]s/token"}`,
		"no endpoints":       `{"issuer":"%[1]s"}`,
		"PKCE in plain only": `{"issuer":"%[1]s","authorization_endpoint":"%[1]s/authorize","token_endpoint":"%[1]s/token","code_challenge_methods_supported":["plain"]}`,
		"no https":           `{"issuer":"%[1]s","authorization_endpoint":"http://login.example/authorize","token_endpoint":"%[1]s/token"}`,
		"a script":           `{"issuer":"%[1]s","authorization_endpoint":"javascript:alert(1)","token_endpoint":"%[1]s/token"}`,
		"no JSON":            `<html>`,
	} {
		p.Answer(idp.DiscoveryPath, func(w http.ResponseWriter, _ *http.Request) {
			w.Write([]byte(strings.ReplaceAll(metadata, "%[1]s", p.URL())))
		})
		if to, err := s.SignInURL(t.Context(), in); mayfly.KindOf(err) != mayfly.Unavailable {
			t.Errorf("metadata with %s lead to %q, %v", name, to, err)
		}
	}
}

func TestNobodySignsInWhereNoSourceIsNamed(t *testing.T) {
	c := &clock{}
	s := newSources(t, c, humans(provider(t, c)))
	if s.SignsIn() {
		t.Error("it says that humans sign in")
	}
	if _, err := s.SignInURL(context.Background(), aWay(c)); mayfly.KindOf(err) != mayfly.NotFound {
		t.Errorf("got %v", err)
	}
	if _, err := s.Remembered(mayfly.Subject{Kind: mayfly.Human, ID: "bob", Source: "corp"}, c.now().Add(time.Hour)); mayfly.KindOf(err) != mayfly.Unauthenticated {
		t.Errorf("somebody from before: %v", err)
	}
}

func TestWhoWasSignedInIsHeldToTheRulesOfNow(t *testing.T) {
	s, _, _, c := signingIn(t)
	until := c.now().Add(time.Hour)
	bob := mayfly.Subject{Kind: mayfly.Human, ID: "bob", Source: "corp"}
	if got, err := s.Remembered(bob, until); err != nil || !got.Operator() {
		t.Errorf("got %+v, %v", got, err)
	}
	other, service := bob, bob
	other.Source, service.Kind = "elsewhere", mayfly.Service
	for _, who := range []mayfly.Subject{other, service} {
		if _, err := s.Remembered(who, until); mayfly.KindOf(err) != mayfly.Unauthenticated {
			t.Errorf("%+v is remembered: %v", who, err)
		}
	}
	s.signIn.Match = map[string]string{"sub": "alice"}
	if _, err := s.Remembered(bob, until); mayfly.KindOf(err) != mayfly.Unauthenticated {
		t.Errorf("whom the source no longer takes is remembered: %v", err)
	}
}
