package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	jose "github.com/go-jose/go-jose/v4"

	"github.com/mayfly-id/mayfly"
)

const issuer = "https://mayfly.example.org"

// peer is the other end of the wire as the specifications describe it, on a JOSE
// library that the client does not use.
type peer struct {
	t testing.TB
	// nonces to demand, by path prefix: "/oauth2/" or "/". Empty demands none.
	nonce map[string]string
	serve func(w http.ResponseWriter, r *http.Request, proof claims)

	mu    sync.Mutex
	calls []string // method and path of each request
	seen  map[string]bool
}

type claims struct {
	JTI, HTM, HTU, ATH, Nonce string
	IAT                       int64
	Thumbprint                string
}

// ServeHTTP checks the proof (RFC 9449 section 4.3) and serves.
func (p *peer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.calls = append(p.calls, r.Method+" "+r.URL.Path)
	p.mu.Unlock()
	var c claims
	if len(r.Header.Values("DPoP")) > 0 {
		c = p.proof(r)
		surface := "/"
		if strings.HasPrefix(r.URL.Path, "/oauth2/") {
			surface = "/oauth2/"
		}
		if want := p.nonce[surface]; want != "" {
			w.Header().Set("DPoP-Nonce", want)
			if c.Nonce != want {
				demandNonce(w, surface == "/oauth2/")
				return
			}
		}
	}
	p.serve(w, r, c)
}

func demandNonce(w http.ResponseWriter, oauth bool) {
	if oauth {
		w.WriteHeader(http.StatusBadRequest)
		io.WriteString(w, `{"error":"use_dpop_nonce","error_description":"use the nonce"}`)
		return
	}
	w.Header().Set("WWW-Authenticate", `DPoP error="use_dpop_nonce", algs="ES256 EdDSA"`)
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(http.StatusUnauthorized)
	io.WriteString(w, `{"status":401,"code":"use_dpop_nonce","detail":"use the nonce"}`)
}

func (p *peer) proof(r *http.Request) claims {
	values := r.Header.Values("DPoP")
	if len(values) != 1 {
		p.t.Errorf("%d DPoP headers, want one", len(values))
	}
	sig, err := jose.ParseSignedCompact(values[0], []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		p.t.Errorf("the proof cannot be parsed: %v", err)
		return claims{}
	}
	h := sig.Signatures[0].Protected
	if h.ExtraHeaders["typ"] != "dpop+jwt" || h.JSONWebKey == nil || !h.JSONWebKey.IsPublic() {
		p.t.Errorf("proof header = %+v", h)
		return claims{}
	}
	payload, err := sig.Verify(h.JSONWebKey)
	if err != nil {
		p.t.Errorf("the proof's signature is not its key's: %v", err)
	}
	var c claims
	if err := json.Unmarshal(payload, &c); err != nil {
		p.t.Errorf("proof claims: %v", err)
	}
	thumb, err := h.JSONWebKey.Thumbprint(5) // crypto.SHA256
	if err != nil {
		p.t.Error(err)
	}
	c.Thumbprint = base64.RawURLEncoding.EncodeToString(thumb)
	if c.HTM != r.Method || c.HTU != issuer+r.URL.Path {
		p.t.Errorf("proof is for %s %s, the request %s %s", c.HTM, c.HTU, r.Method, r.URL.Path)
	}
	want := ""
	if text, ok := strings.CutPrefix(r.Header.Get("Authorization"), "DPoP "); ok {
		sum := sha256.Sum256([]byte(text))
		want = base64.RawURLEncoding.EncodeToString(sum[:])
	}
	if c.ATH != want {
		p.t.Errorf("ath = %q, want %q", c.ATH, want)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.seen == nil {
		p.seen = map[string]bool{}
	}
	if c.JTI == "" || p.seen[c.JTI] {
		p.t.Errorf("proof id %q is empty or was used before", c.JTI)
	}
	p.seen[c.JTI] = true
	return c
}

// count is how many requests had this method and path.
func (p *peer) count(call string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, c := range p.calls {
		if c == call {
			n++
		}
	}
	return n
}

// inProcess carries requests to a handler without a socket, so that a test may
// have a clock of its own.
type inProcess struct{ h http.Handler }

func (t inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	w := httptest.NewRecorder()
	if r.Body == nil {
		r.Body = http.NoBody
	}
	t.h.ServeHTTP(w, r)
	r.Body.Close()
	return w.Result(), nil
}

func (p *peer) client(token TokenFunc) *Client {
	c, err := New(Options{Address: issuer, Issuer: issuer, Token: token, Transport: inProcess{p}})
	if err != nil {
		p.t.Fatal(err)
	}
	return c
}

func newKey(t testing.TB) *Key {
	t.Helper()
	k, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v)
}

// tokens answers every exchange with a new token of this life.
func tokens(life time.Duration) func(http.ResponseWriter, *http.Request, claims) {
	var n int
	var mu sync.Mutex
	return func(w http.ResponseWriter, r *http.Request, c claims) {
		mu.Lock()
		n++
		number := n
		mu.Unlock()
		kind := "DPoP"
		if c.Thumbprint == "" {
			kind = "Bearer"
		}
		answer(w, map[string]any{
			"access_token": fmt.Sprintf("token-%d", number), "token_type": kind, "expires_in": int(life / time.Second),
			"issued_token_type": TypeAccessToken, "scope": "mcp:bank:list", "task": "task_1", "decision": "dec_1",
		})
	}
}

func TestExchangeSendsWhatTheStandardsName(t *testing.T) {
	var form url.Values
	var used claims
	p := &peer{t: t, nonce: map[string]string{"/oauth2/": "n1"}}
	p.serve = func(w http.ResponseWriter, r *http.Request, c claims) {
		if err := r.ParseForm(); err != nil {
			t.Error(err)
		}
		form, used = r.PostForm, c
		tokens(time.Minute)(w, r, c)
	}
	key := newKey(t)
	short, err := mayfly.ParseGrant("mcp:bank:list")
	if err != nil {
		t.Fatal(err)
	}
	long, err := mayfly.ParseGrantObject([]byte(`{"type":"mayfly_grant","grant":"mcp:bank:pay","budget":{"calls":3}}`))
	if err != nil {
		t.Fatal(err)
	}
	got, err := p.client(nil).Exchange(t.Context(), ExchangeRequest{
		SubjectToken: "human", SubjectTokenType: TypeIDToken, ActorToken: "agent", ActorTokenType: TypeJWT,
		Profile: "p", Purpose: "pay the bills", Grants: []mayfly.Grant{short, long}, Resource: issuer + "/mcp/bank",
		TTL: 10 * time.Minute, Idle: time.Minute, Budget: 7, Key: key,
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"grant_type": "urn:ietf:params:oauth:grant-type:token-exchange", "subject_token": "human", "subject_token_type": TypeIDToken,
		"actor_token": "agent", "actor_token_type": TypeJWT, "profile": "p", "purpose": "pay the bills", "scope": "mcp:bank:list",
		"resource": issuer + "/mcp/bank", "requested_ttl": "600", "requested_idle": "60", "budget": "7",
	} {
		if form.Get(name) != want || len(form[name]) != 1 {
			t.Errorf("%s = %q, want %q", name, form[name], want)
		}
	}
	var details []map[string]any
	if err := json.Unmarshal([]byte(form.Get("authorization_details")), &details); err != nil || len(details) != 1 || details[0]["type"] != "mayfly_grant" {
		t.Errorf("authorization_details = %s", form.Get("authorization_details"))
	}
	if used.Thumbprint != key.Thumbprint() || used.Nonce != "n1" {
		t.Errorf("proof = %+v, want key %s and the nonce", used, key.Thumbprint())
	}
	if p.count("POST /oauth2/token") != 2 {
		t.Errorf("%d requests, want two: one without the nonce, one with", p.count("POST /oauth2/token"))
	}
	if got.Text.Reveal() != "token-1" || got.Key != key || got.Task != "task_1" || got.Decision != "dec_1" || len(got.Grants) != 1 {
		t.Errorf("token = %+v", got)
	}
	if text := fmt.Sprintf("%v %+v %#v", got, got, got); strings.Contains(text, "token-1") {
		t.Errorf("the token prints: %s", text)
	}
}

func TestAServerThatAlwaysWantsAnotherNonceIsGivenUp(t *testing.T) {
	n := 0
	p := &peer{t: t, serve: func(w http.ResponseWriter, r *http.Request, _ claims) {
		n++
		w.Header().Set("DPoP-Nonce", strconv.Itoa(n))
		demandNonce(w, true)
	}}
	_, err := p.client(nil).Exchange(t.Context(), ExchangeRequest{Key: newKey(t)})
	if e, ok := errors.AsType[*mayfly.Error](err); !ok || e.Code != "use_dpop_nonce" || e.Message != "use the nonce" {
		t.Errorf("err = %v, want use_dpop_nonce", err)
	}
	if n != 2 {
		t.Errorf("%d requests, want 2", n)
	}
}

func TestNoncesOfTheTwoServersAreKeptApart(t *testing.T) {
	key := newKey(t)
	token := Token{Text: mayfly.NewSecret("x"), Key: key}
	p := &peer{t: t, nonce: map[string]string{"/oauth2/": "as", "/": "rs"}}
	p.serve = func(w http.ResponseWriter, r *http.Request, c claims) {
		if r.URL.Path == "/oauth2/token" {
			tokens(time.Minute)(w, r, c)
			return
		}
		answer(w, Task{ID: "task_1"})
	}
	c := p.client(func(context.Context) (Token, error) { return token, nil })
	for range 3 {
		if _, err := c.Exchange(t.Context(), ExchangeRequest{Key: key}); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Task(t.Context(), "task_1"); err != nil {
			t.Fatal(err)
		}
	}
	if a, b := p.count("POST /oauth2/token"), p.count("GET /v1/tasks/task_1"); a != 4 || b != 4 {
		t.Errorf("%d and %d requests, want 4 and 4: a nonce is asked for once on each side", a, b)
	}
}

func TestASocketsProofsAreForThePublicOrigin(t *testing.T) {
	p := &peer{t: t, nonce: map[string]string{"/oauth2/": "n"}}
	p.serve = func(w http.ResponseWriter, r *http.Request, c claims) {
		switch r.URL.Path {
		case "/.well-known/oauth-authorization-server":
			answer(w, map[string]string{"issuer": issuer})
		case "/v1/tasks/task_1":
			if r.Header.Get("Authorization") != "" {
				t.Error("a token on the socket, want none: the kernel says who is calling")
			}
			answer(w, Task{ID: "task_1", Deadline: time.Unix(1, 0).UTC()})
		default:
			tokens(time.Minute)(w, r, c)
		}
	}
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := &httptest.Server{Listener: l, Config: &http.Server{Handler: p}}
	server.Start()
	defer server.Close()
	c, err := New(Options{Address: "unix://" + path})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Exchange(t.Context(), ExchangeRequest{Key: newKey(t)}); err != nil {
		t.Fatal(err)
	}
	if task, err := c.Task(t.Context(), "task_1"); err != nil || task.Deadline.Unix() != 1 {
		t.Errorf("task = %+v, %v", task, err)
	}
}

func TestProofsFollowTheServersClock(t *testing.T) {
	const off = -7 * time.Minute
	var iat time.Time
	p := &peer{t: t, nonce: map[string]string{"/oauth2/": "n"}}
	p.serve = func(w http.ResponseWriter, r *http.Request, c claims) {
		iat = time.Unix(c.IAT, 0)
		tokens(time.Minute)(w, r, c)
	}
	late := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Date", time.Now().Add(off).UTC().Format(http.TimeFormat))
		p.ServeHTTP(w, r)
	})
	c, err := New(Options{Address: issuer, Issuer: issuer, Transport: inProcess{late}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Exchange(t.Context(), ExchangeRequest{Key: newKey(t)}); err != nil {
		t.Fatal(err)
	}
	if d := time.Until(iat) - off; d.Abs() > 5*time.Second {
		t.Errorf("the proof is %v off the server's clock", d)
	}
}

func TestAServerThatIsNotThereIsUnavailable(t *testing.T) {
	c, err := New(Options{Address: "unix:///nowhere/admin.sock"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Task(t.Context(), "task_1"); mayfly.KindOf(err) != mayfly.Unavailable || !strings.Contains(err.Error(), "/nowhere/admin.sock") {
		t.Errorf("err = %v, want Unavailable with the address", err)
	}
}

func TestAnotherServersNameIsRefused(t *testing.T) {
	p := &peer{t: t, serve: func(w http.ResponseWriter, r *http.Request, _ claims) {
		answer(w, map[string]string{"issuer": "https://evil.example"})
	}}
	c, err := New(Options{Address: issuer, Transport: inProcess{p}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Exchange(t.Context(), ExchangeRequest{Key: newKey(t)}); mayfly.KindOf(err) != mayfly.BadUpstream {
		t.Errorf("err = %v, want BadUpstream", err)
	}
}

func TestAddressesThatWouldLeakAreRefused(t *testing.T) {
	for _, a := range []string{"", "mayfly.example.org", "http://mayfly.example.org", "ftp://x", "unix://relative", "https://u:p@x", "https://x/path", "https://x?q"} {
		if _, err := New(Options{Address: a}); mayfly.KindOf(err) != mayfly.Invalid {
			t.Errorf("New(%q) = %v, want Invalid", a, err)
		}
	}
	for _, a := range []string{"https://x", "https://x/", "http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1", "unix:///s"} {
		if _, err := New(Options{Address: a}); err != nil {
			t.Errorf("New(%q) = %v", a, err)
		}
	}
}

func TestRefusalsKeepWhatTheServerSaid(t *testing.T) {
	rows := []struct {
		status int
		body   string
		want   mayfly.Error
	}{
		{403, `{"type":"urn:mayfly:problem:denied","title":"Denied","status":403,"detail":"the budget is spent","decision":"dec_1","term":"budget","next":{"action":"complete"}}`,
			mayfly.Error{Kind: mayfly.Denied, Message: "the budget is spent", Decision: "dec_1", Term: "budget"}},
		{400, `{"error":"invalid_scope","error_description":"ask for less"}`, mayfly.Error{Kind: mayfly.Invalid, Code: "invalid_scope", Message: "ask for less"}},
		{400, `{"error":"access_denied","error_description":"not for you"}`, mayfly.Error{Kind: mayfly.Denied, Code: "access_denied", Message: "not for you"}},
		{404, `{"title":"Not found"}`, mayfly.Error{Kind: mayfly.NotFound, Message: "Not found"}},
		{409, `{"detail":"over"}`, mayfly.Error{Kind: mayfly.Conflict, Message: "over"}},
		{429, ``, mayfly.Error{Kind: mayfly.RateLimited, Message: "the server answered 429 Too Many Requests"}},
		{503, `<html>`, mayfly.Error{Kind: mayfly.Unavailable, Message: "the server answered 503 Service Unavailable"}},
		{504, `{}`, mayfly.Error{Kind: mayfly.Unavailable, Message: "the server answered 504 Gateway Timeout"}},
		{302, ``, mayfly.Error{Kind: mayfly.BadUpstream, Message: "the server answered 302 Found"}},
		{418, `{"detail":"no"}`, mayfly.Error{Kind: mayfly.Invalid, Message: "no"}},
	}
	for _, r := range rows {
		p := &peer{t: t, serve: func(w http.ResponseWriter, _ *http.Request, _ claims) {
			w.WriteHeader(r.status)
			io.WriteString(w, r.body)
		}}
		_, err := p.client(nil).Task(t.Context(), "task_1")
		e, ok := errors.AsType[*mayfly.Error](err)
		if !ok {
			t.Errorf("%d: err = %v", r.status, err)
			continue
		}
		if e.Kind != r.want.Kind || e.Code != r.want.Code || e.Message != r.want.Message || e.Decision != r.want.Decision || e.Term != r.want.Term {
			t.Errorf("%d %s:\ngot  %+v\nwant %+v", r.status, r.body, *e, r.want)
		}
		if r.want.Term != "" && (e.Next == nil || e.Next.Action != "complete") {
			t.Errorf("next = %v", e.Next)
		}
	}
}

func TestIdsCannotLeaveTheirPath(t *testing.T) {
	p := &peer{t: t, serve: func(w http.ResponseWriter, r *http.Request, _ claims) {
		if r.URL.EscapedPath() != "/v1/trace/..%2Fx%3Fy=1" || r.URL.RawQuery != "" {
			t.Errorf("asked for %s?%s", r.URL.EscapedPath(), r.URL.RawQuery)
		}
		answer(w, Trace{})
	}}
	if _, err := p.client(nil).Trace(t.Context(), "../x?y=1"); err != nil {
		t.Error(err)
	}
}

// session opens a task against p.
func (p *peer) session(key *Key) *Session {
	s, err := p.client(nil).Open(p.t.Context(), ExchangeRequest{Profile: "p", Key: key}, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	return s
}

func TestATokenIsRenewedWhenTwoThirdsAreOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var last url.Values
		issue := tokens(5 * time.Minute)
		p := &peer{t: t, nonce: map[string]string{"/oauth2/": "n"}}
		p.serve = func(w http.ResponseWriter, r *http.Request, c claims) {
			if err := r.ParseForm(); err != nil {
				t.Error(err)
			}
			last = r.PostForm
			issue(w, r, c)
		}
		s := p.session(newKey(t))
		read := func() string {
			t.Helper()
			token, err := s.Token(t.Context(), "")
			if err != nil {
				t.Fatal(err)
			}
			return token.Text.Reveal()
		}
		time.Sleep(3 * time.Minute) // the bubble's clock
		if got := read(); got != "token-1" {
			t.Errorf("at 3 of 5 minutes: %s, want the first", got)
		}
		time.Sleep(21 * time.Second)
		if got := read(); got != "token-2" {
			t.Errorf("past two thirds: %s, want a second", got)
		}
		if last.Get("subject_token") != "token-1" || last.Get("subject_token_type") != TypeAccessToken || last.Has("profile") {
			t.Errorf("renewed with %v", last)
		}
	})
}

func TestATokenForATargetComesFromTheTasksOwn(t *testing.T) {
	var last url.Values
	issue := tokens(5 * time.Minute)
	p := &peer{t: t, serve: func(w http.ResponseWriter, r *http.Request, c claims) {
		if err := r.ParseForm(); err != nil {
			t.Error(err)
		}
		last = r.PostForm
		issue(w, r, c)
	}}
	s := p.session(newKey(t))
	for range 2 {
		if token, err := s.Token(t.Context(), issuer+"/mcp/bank"); err != nil || token.Text.Reveal() != "token-2" {
			t.Fatalf("token = %v, %v", token, err)
		}
	}
	if last.Get("resource") != issuer+"/mcp/bank" || last.Get("subject_token") != "token-1" {
		t.Errorf("asked with %v", last)
	}
}

func TestOneRenewalServesEverybodyWhoWaits(t *testing.T) {
	p := &peer{t: t, serve: tokens(5 * time.Minute)}
	s := p.session(newKey(t))
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := s.Token(t.Context(), issuer+"/mcp/bank"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := p.count("POST /oauth2/token"); n != 2 {
		t.Errorf("%d exchanges, want 2: the opening and one for everybody", n)
	}
}

func TestAnUnexpiredTokenIsGivenWhileTheServerIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		issue, away := tokens(3*time.Minute), false
		p := &peer{t: t, serve: func(w http.ResponseWriter, r *http.Request, c claims) {
			if away {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			issue(w, r, c)
		}}
		s := p.session(newKey(t))
		away = true
		time.Sleep(150 * time.Second)
		if token, err := s.Token(t.Context(), ""); err != nil || token.Text.Reveal() != "token-1" {
			t.Errorf("before it expired: %v, %v", token, err)
		}
		time.Sleep(31 * time.Second)
		if _, err := s.Token(t.Context(), ""); mayfly.KindOf(err) != mayfly.Unavailable {
			t.Errorf("after it expired: %v, want Unavailable", err)
		}
	})
}

func TestAnUnboundTaskBringsItsEvidenceAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var last url.Values
		issue := tokens(time.Minute)
		p := &peer{t: t, serve: func(w http.ResponseWriter, r *http.Request, c claims) {
			if err := r.ParseForm(); err != nil {
				t.Error(err)
			}
			last = r.PostForm
			issue(w, r, c)
		}}
		s, err := p.client(nil).Open(t.Context(), ExchangeRequest{}, func(context.Context) (string, string, error) {
			return "evidence", TypeJWT, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if _, err := s.Token(t.Context(), ""); err != nil {
			t.Fatal(err)
		}
		if last.Get("actor_token") != "evidence" || last.Get("actor_token_type") != TypeJWT {
			t.Errorf("renewed with %v", last)
		}
	})
}

func TestKeepAliveBeatsUntilTheTaskIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start, issue := time.Now(), tokens(5*time.Minute)
		failed := false
		p := &peer{t: t, nonce: map[string]string{"/oauth2/": "a", "/": "r"}}
		p.serve = func(w http.ResponseWriter, r *http.Request, c claims) {
			switch {
			case r.URL.Path == "/oauth2/token":
				issue(w, r, c)
			case time.Since(start) > time.Hour:
				answer(w, Task{ID: "task_1", State: mayfly.Retiring, Reason: mayfly.DeadlinePassed})
			case !failed && time.Since(start) > 20*time.Minute:
				failed = true
				w.WriteHeader(http.StatusServiceUnavailable)
			default:
				answer(w, Task{ID: "task_1", State: mayfly.Live, IdleUntil: time.Now().Add(2 * time.Minute)})
			}
		}
		s := p.session(newKey(t))
		err := s.KeepAlive(t.Context())
		if mayfly.KindOf(err) != mayfly.Gone || !strings.Contains(err.Error(), "deadline") {
			t.Errorf("err = %v, want that the task is over", err)
		}
		// Every minute, half the idle lease, for an hour; never more than twice that.
		if n := p.count("POST /v1/tasks/task_1/heartbeat"); n < 60 || n > 120 {
			t.Errorf("%d heartbeats in an hour, want about 60", n)
		}
		if !failed {
			t.Error("the failure in between did not happen")
		}
	})
}

func TestKeepAliveEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		issue := tokens(5 * time.Minute)
		p := &peer{t: t, serve: func(w http.ResponseWriter, r *http.Request, c claims) {
			if r.URL.Path == "/oauth2/token" {
				issue(w, r, c)
				return
			}
			answer(w, Task{State: mayfly.Live, IdleUntil: time.Now().Add(2 * time.Minute)})
		}}
		s := p.session(newKey(t))
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		if err := s.KeepAlive(ctx); err != nil {
			t.Errorf("err = %v, want nil", err)
		}
	})
}

func TestTheTransportCallsTargetsAsTheTask(t *testing.T) {
	issue := tokens(5 * time.Minute)
	var bodies []string
	p := &peer{t: t, nonce: map[string]string{"/oauth2/": "a", "/": "r"}}
	p.serve = func(w http.ResponseWriter, r *http.Request, c claims) {
		if r.URL.Path == "/oauth2/token" {
			issue(w, r, c)
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		bodies = append(bodies, string(body))
		if r.ContentLength != int64(len(body)) {
			t.Errorf("Content-Length = %d for %d bytes", r.ContentLength, len(body))
		}
		if r.Header.Get("Authorization") != "DPoP token-2" {
			t.Errorf("Authorization = %q, want the target's token", r.Header.Get("Authorization"))
		}
		w.Header().Set("Mayfly-Decision", "dec_2")
		w.WriteHeader(http.StatusForbidden)
	}
	s := p.session(newKey(t))
	endpoint, err := s.client.Endpoint(t.Context(), "http", "orders")
	if err != nil || endpoint != issuer+"/http/orders" {
		t.Fatalf("endpoint = %q, %v", endpoint, err)
	}
	web := &http.Client{Transport: s.Transport()}
	for i, body := range []io.Reader{strings.NewReader("one"), io.LimitReader(strings.NewReader("two"), 3), nil} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, endpoint+"/v1/x?q=1", body)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer something of the agent's")
		resp, err := web.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if e := ReadError(resp); e.Kind != mayfly.Denied || e.Decision != "dec_2" {
			t.Errorf("answer = %+v", e)
		}
		resp.Body.Close()
		if want := []string{"one", "two", ""}[i]; bodies[len(bodies)-1] != want {
			t.Errorf("body = %q, want %q", bodies[len(bodies)-1], want)
		}
	}
	if n := p.count("POST /http/orders/v1/x"); n != 4 {
		t.Errorf("%d calls, want 4: the nonce is asked for once", n)
	}
}

func TestABodyTooLongToKeepIsSentOnce(t *testing.T) {
	key := newKey(t)
	p := &peer{t: t, nonce: map[string]string{"/": "r"}, serve: func(http.ResponseWriter, *http.Request, claims) {}}
	rt := p.client(nil).Transport(func(context.Context) (Token, error) {
		return Token{Text: mayfly.NewSecret("x"), Key: key}, nil
	})
	send := func(n int) int {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, issuer+"/http/orders/x", io.LimitReader(bytes.NewReader(make([]byte, n)), int64(n)))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := rt.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	if got := send(replayLimit + 1); got != http.StatusUnauthorized || len(p.calls) != 1 {
		t.Errorf("first: %d after %d requests, want 401 after one", got, len(p.calls))
	}
	if got := send(replayLimit + 1); got != http.StatusOK || len(p.calls) != 2 {
		t.Errorf("again: %d after %d requests, want 200: the nonce is known now", got, len(p.calls))
	}
}

func TestTheTransportSendsNoTokenElsewhere(t *testing.T) {
	p := &peer{t: t, serve: func(w http.ResponseWriter, r *http.Request, _ claims) { t.Errorf("%s was called", r.URL) }}
	rt := p.client(nil).Transport(func(context.Context) (Token, error) {
		t.Error("a token was asked for")
		return Token{}, nil
	})
	for _, u := range []string{"https://evil.example/mcp/bank", "http://mayfly.example.org/mcp/bank", "https://mayfly.example.org:8443/mcp/bank", issuer + "/v1/tasks", issuer + "/mcp/", issuer + "/"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, u, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := rt.RoundTrip(req); mayfly.KindOf(err) != mayfly.Invalid {
			t.Errorf("%s: %v, want Invalid", u, err)
		}
	}
}

func TestAClientAssertionIsSignedByTheRegisteredKey(t *testing.T) {
	key := newKey(t)
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(key.JWKS(), &set); err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1_800_000_000, 0)
	text, err := key.ClientAssertion("app", issuer, now)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := jose.ParseSignedCompact(text, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		t.Fatal(err)
	}
	payload, err := sig.Verify(set.Key(sig.Signatures[0].Protected.KeyID)[0])
	if err != nil {
		t.Fatal(err)
	}
	var c struct {
		Iss, Sub, Aud, JTI string
		Exp                int64
	}
	if err := json.Unmarshal(payload, &c); err != nil {
		t.Fatal(err)
	}
	if c.Iss != "app" || c.Sub != "app" || c.Aud != issuer || c.JTI == "" || c.Exp != now.Unix()+60 {
		t.Errorf("claims = %+v", c)
	}
}
