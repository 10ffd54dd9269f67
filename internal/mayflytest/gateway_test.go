package mayflytest_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/client"
	"github.com/mayfly-id/mayfly/internal/authority"
	"github.com/mayfly-id/mayfly/internal/mayflytest"
)

// attachedKey is what the gateway attaches for the kit's targets.
const attachedKey = "upstream-canary-key-7f3a"

// front is a system seen from in front of its gateway. Everything an agent shows
// there is remembered, and must not have reached a target when the test ends:
// S-52 holds in every one of these tests.
type front struct {
	node
	t       *testing.T
	behind  []*mayflytest.Upstream
	read    int64 // position of the last record read
	reached int   // requests at the targets that were to be there

	refusals  []refusal // since the last settle
	strangers int       // requests of strangers since the last settle

	mu    sync.Mutex // guards shown
	shown []string   // tokens and proofs
}

// refusal is one that must be recorded.
type refusal struct{ name, decision string }

func newFront(t *testing.T, o mayflytest.Options, behind ...*mayflytest.Upstream) *front {
	t.Helper()
	f := &front{node: node{mayflytest.New(t, o), time.Now}, t: t, read: -1}
	f.behind = append(behind, f.Bank, f.Orders)
	t.Cleanup(func() {
		f.settle()
		f.noLeaks()
	})
	return f
}

// target adds a target of the test's own, which tasks of profile open may use.
func target(t *testing.T, name, kind, url string) func(*authority.Bundle) {
	return func(b *authority.Bundle) {
		b.Targets[name] = &mayfly.Target{Name: name, Kind: kind, URL: url, Credential: b.Targets["bank"].Credential}
		open := b.Profiles["open"]
		open.Grants = append(open.Grants, mayflytest.Grants(t, kind+":"+name+":*")...)
		open.Default = append(open.Default, mayflytest.Grants(t, kind+":"+name+":*")...)
	}
}

// before puts several targets in front of the same system.
func before(changes ...func(*authority.Bundle)) func(*authority.Bundle) {
	return func(b *authority.Bundle) {
		for _, change := range changes {
			change(b)
		}
	}
}

// task opens a task with a key, limited to these grants if there are any.
func (f *front) task(profile string, grants ...string) held {
	f.t.Helper()
	return f.open(f.opening("profile", profile, "scope", strings.Join(grants, " ")), newHolder(f.t))
}

// agent is a task in front of one target.
type agent struct {
	*front
	have held
	path string // of the target
}

func (f *front) agent(task held, path string) *agent {
	f.t.Helper()
	return &agent{f, f.at(task, path), path}
}

// request is a request below the target with the task's token and proof. A
// header with the value "" is left out.
func (a *agent) request(method, rest string, content []byte, headers ...string) *http.Request {
	a.t.Helper()
	r := a.Request(method, a.path+rest, content, headers...)
	for name, values := range r.Header {
		if values[0] == "" {
			delete(r.Header, name)
		}
	}
	path, _, _ := strings.Cut(a.path+rest, "?")
	a.authorize(r, method, path)
	return r
}

// authorize adds the token to r, and a proof for a request of this method and
// path.
func (a *agent) authorize(r *http.Request, method, path string) {
	a.remember(a.have.text)
	if a.have.h == nil {
		r.Header.Set("Authorization", "Bearer "+a.have.text)
		return
	}
	proof := a.proof(a.have.h, method, path, a.have.text)
	a.remember(proof)
	r.Header.Set("Authorization", "DPoP "+a.have.text)
	r.Header.Set("DPoP", proof)
}

func (f *front) remember(secrets ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.shown = append(f.shown, secrets...)
}

func (a *agent) send(method, rest string, content []byte, headers ...string) mayflytest.Answer {
	a.t.Helper()
	return a.Do(a.request(method, rest, content, headers...))
}

func (a *agent) get(rest string) mayflytest.Answer {
	a.t.Helper()
	return a.send(http.MethodGet, rest, nil)
}

// arrived is how many requests have arrived at the targets.
func (f *front) arrived() int {
	n := 0
	for _, u := range f.behind {
		n += len(u.Requests())
	}
	return n
}

// passed says that what arrived at the targets so far was to arrive there.
func (f *front) passed() { f.reached = f.arrived() }

// refused checks the answer to what must be refused: its status and code, and
// that no target was reached. Its record is checked by settle.
func (f *front) refused(name string, a mayflytest.Answer, status int, code string) {
	f.t.Helper()
	f.denies(name, a, status, code)
	f.refusals = append(f.refusals, refusal{name, decisionOf(f.t, a)})
}

// unknown is refused for a request of somebody who did not show who they are.
func (f *front) unknown(name string, a mayflytest.Answer, status int, code string) {
	f.t.Helper()
	f.denies(name, a, status, code)
	f.strangers++
}

func (f *front) denies(name string, a mayflytest.Answer, status int, code string) {
	f.t.Helper()
	f.says(name, a, status, code)
	if n := f.arrived(); n != f.reached {
		f.t.Errorf("%s: a target was reached", name)
		f.reached = n
	}
	if strings.Contains(string(a.Body), attachedKey) || strings.Contains(fmt.Sprint(a.Header), attachedKey) {
		f.t.Errorf("%s: the agent was shown the target's credential", name)
	}
}

// settle checks that since the last time exactly one record was written for each
// refusal, which leads to its root, and none for anything else. It gives them in
// the order of the refusals.
func (f *front) settle() []client.Event {
	f.t.Helper()
	var found []client.Event
	strangers := 0
	f.Eventually("every refusal is recorded", func() bool {
		for _, e := range f.news() {
			if e.Kind == "authentication.failed" {
				count, _ := body(f.t, e)["count"].(float64)
				strangers += int(count)
			} else if e.Kind == "request.refused" || e.Kind == "call.decided" && e.Term != "" {
				found = append(found, e)
			}
		}
		return len(found) >= len(f.refusals) && strangers >= f.strangers
	})
	if len(found) != len(f.refusals) || strangers != f.strangers {
		f.t.Errorf("%d refusals and %d of strangers are recorded, want %d and %d", len(found), strangers, len(f.refusals), f.strangers)
	}
	for i, e := range found[:min(len(found), len(f.refusals))] {
		r := f.refusals[i]
		if e.Decision == "" || r.decision != e.Decision {
			f.t.Errorf("%s: the answer names decision %q, the record %q (%s)", r.name, r.decision, e.Decision, e.Body)
		}
		f.rooted(r.name, e)
	}
	f.refusals, f.strangers = nil, 0
	return found
}

// news is what was recorded since the last time.
func (f *front) news() []client.Event {
	f.t.Helper()
	ctx := context.Background()
	f.Eventually("the log catches up", func() bool {
		waiting, err := f.DB.Unsequenced(ctx, 1)
		if err != nil {
			f.t.Fatal(err)
		}
		return len(waiting) == 0
	})
	operator := f.Operator()
	defer operator.Close()
	var all []client.Event
	for {
		page, next, err := operator.Feed(ctx, f.read, 500)
		if err != nil {
			f.t.Fatal(err)
		}
		if len(page) == 0 {
			return all
		}
		all, f.read = append(all, page...), next
	}
}

// outcome waits for the outcome of an allowed call, of which there is one.
func (f *front) outcome(decision string) members {
	f.t.Helper()
	var found []members
	f.Eventually("the outcome is recorded", func() bool {
		found = nil
		for _, e := range f.Records("call.ended") {
			if e.Decision == decision {
				found = append(found, body(f.t, e))
			}
		}
		return len(found) > 0
	})
	if len(found) != 1 {
		f.t.Errorf("%d outcomes are recorded: %v", len(found), found)
	}
	return found[0]
}

// decisionOf is the decision an answer names, in whichever way it does.
func decisionOf(t *testing.T, a mayflytest.Answer) string {
	t.Helper()
	var said struct {
		Decision string `json:"decision"`
		Error    struct {
			Data struct {
				Decision string `json:"decision"`
			} `json:"data"`
		} `json:"error"`
		Result struct {
			Meta map[string]json.RawMessage `json:"_meta"`
		} `json:"result"`
	}
	if err := json.Unmarshal(a.Message(), &said); err != nil {
		t.Errorf("the answer is not JSON: %s", a)
	}
	var inMeta string
	if raw := said.Result.Meta["mayfly/decision"]; raw != nil {
		if err := json.Unmarshal(raw, &inMeta); err != nil {
			t.Errorf("the decision is no string: %s", raw)
		}
	}
	return said.Decision + said.Error.Data.Decision + inMeta
}

// noLeaks looks for what agents showed in everything the targets were sent.
func (f *front) noLeaks() {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, u := range f.behind {
		for _, seen := range u.Requests() {
			all := fmt.Sprintf("%s %s?%s\n%q\n%s", seen.Method, seen.Path, seen.Query, seen.Header, seen.Body)
			for _, secret := range f.shown {
				if strings.Contains(all, secret) {
					f.t.Errorf("S-52: a target was sent what an agent showed: %.80s…", secret)
				}
			}
			if got := seen.Header["Authorization"]; !slices.Equal(got, []string{"Bearer " + attachedKey}) {
				f.t.Errorf("a target was shown %q", got)
			}
		}
	}
}

func TestS48RequestsOfOtherOriginsAndHostsAreRefused(t *testing.T) {
	f := newFront(t, mayflytest.Options{})
	task := f.task("open")
	bank, orders := f.agent(task, "/mcp/bank"), f.agent(task, "/http/orders")
	for name, spoil := range map[string]func(*http.Request){
		"another origin":     func(r *http.Request) { r.Header.Set("Origin", "https://evil.example") },
		"no origin":          func(r *http.Request) { r.Header.Set("Origin", "null") },
		"two origins":        func(r *http.Request) { r.Header["Origin"] = []string{f.Issuer, "https://evil.example"} },
		"the issuer as part": func(r *http.Request) { r.Header.Set("Origin", f.Issuer+".evil.example") },
		"another host":       func(r *http.Request) { r.Host = "evil" },
	} {
		call := bank.call(1, "list_invoices", nil)
		spoil(call)
		f.unknown(name, f.Do(call), http.StatusForbidden, "")
		read := orders.request(http.MethodGet, "/v1/orders", nil)
		spoil(read)
		f.unknown(name, f.Do(read), http.StatusForbidden, "")
	}
	own := bank.call(1, "list_invoices", nil)
	own.Header.Set("Origin", f.Issuer)
	if a := f.Do(own); a.Status != http.StatusOK {
		t.Errorf("our own origin: %s", a)
	}
	f.passed()
}

func TestS49ATargetIsShownWhatTheGatewaySaysAndNothingElse(t *testing.T) {
	f := newFront(t, mayflytest.Options{})
	task := f.task("open")
	hostile := []string{
		"X_Forwarded_User", "root", "X-Forwarded-For", "10.0.0.1", "X-Forwarded-Host", "evil.example", "X-Forwarded-Proto", "https",
		"Forwarded", "for=10.0.0.1", "X-Real-Ip", "10.0.0.1", "X-Auth-Subject", "root", "X-Remote-User", "root", "Remote_User", "root",
		"Via", "1.1 evil", "Cookie", "session=stolen", "Proxy-Authorization", "Basic cm9vdDpyb290", "Txn-Token", "stolen",
		"X-Original-Url", "/admin", "X-Http-Method-Override", "DELETE", "X-Mayfly-Task", "another", "Mayfly-Decision", "dec_forged",
		"Workload-Identity-Token", "stolen", "X-Forwarded-Access-Token", "stolen", "Te", "trailers", "Keep-Alive", "timeout=5",
		"User-Agent", "evil", "Connection", "Idempotency-Key", // hop-by-hop, says the agent
	}
	answer := f.agent(task, "/http/orders").send(http.MethodPost, "/v1/orders?b=2&a=1", []byte(`{"note": "caf\u00e9", "amount": 1.50}`),
		append(hostile, "Content-Type", "application/json", "Accept", "application/json", "Idempotency-Key", "k-1")...)
	if answer.Status != http.StatusOK || answer.Header.Get("Mayfly-Decision") == "" {
		t.Fatalf("an allowed call: %s", answer)
	}
	seen := f.Orders.Requests()[0]
	names := slices.Sorted(maps.Keys(seen.Header))
	if want := []string{"Accept", "Authorization", "Content-Length", "Content-Type", "Idempotency-Key", "Traceparent", "User-Agent"}; !slices.Equal(names, want) {
		t.Errorf("the target was sent %v, want %v", names, want)
	}
	if seen.Header.Get("User-Agent") != "mayfly" || seen.Path != "/v1/orders" || seen.Query != "b=2&a=1" || string(seen.Body) != `{"amount":1.5,"note":"café"}` {
		t.Errorf("the target was sent %+v %s", seen, seen.Body)
	}

	bank := f.agent(task, "/mcp/bank")
	call := bank.call(1, "list_invoices", nil)
	for i := 0; i < len(hostile); i += 2 {
		call.Header[http.CanonicalHeaderKey(hostile[i])] = []string{hostile[i+1]}
	}
	if answer := f.Do(call); answer.Status != http.StatusOK {
		t.Fatalf("an allowed call: %s", answer)
	}
	names = slices.Sorted(maps.Keys(f.Bank.Requests()[0].Header))
	want := []string{"Accept", "Authorization", "Content-Length", "Content-Type", "Mcp-Method", "Mcp-Name", "Mcp-Protocol-Version", "Traceparent", "User-Agent"}
	if !slices.Equal(names, want) {
		t.Errorf("the MCP target was sent %v, want %v", names, want)
	}
	f.passed()
}

func TestS50APathThatTargetsReadDifferentlyIsRefused(t *testing.T) {
	f := newFront(t, mayflytest.Options{})
	task := f.task("invoice", "http:orders:GET:/v1/*")
	orders := f.agent(task, "/http/orders")
	for _, path := range []string{
		"//admin", "/v1//admin", "/a/../admin", "/v1/..", "/v1/../admin", "/./v1/orders", "/%2e%2e/admin", "/v1/%2E%2e/admin", "/a%2fadmin",
		"/v1%2Forders", "/v1%5corders", "/v1%255c..%255cadmin", "/v1/%252e%252e/admin", "/a;x=/admin", "/v1/orders;jsessionid=1",
		"/v1/orders.", "/v1/%6frders", "/v1/orders%00", "/v1/orders%0a", "/v1/orders%ff", "/v1/orders%3fx", "/v1/orders%23x",
		"/v1/orders?a=1&a=2", "/v1/orders?a=1&A=2", "/v1/orders?a=1;b=2", "/v1/orders?a=%zz", "/v1/orders?=1",
	} {
		raw := orders.request(http.MethodGet, "/v1/orders", nil)
		plain, query, _ := strings.Cut("/http/orders"+path, "?")
		raw.URL.Path, raw.URL.RawQuery = "", query
		raw.URL.Opaque = plain // as it stands
		orders.authorize(raw, http.MethodGet, plain)
		f.refused(path, f.Do(raw), http.StatusBadRequest, "")
	}
	for _, path := range []string{"/ADMIN", "/V1/orders", "/v1", "/"} {
		f.refused(path, orders.get(path), http.StatusForbidden, "")
	}
	f.settle()
	for path, want := range map[string]string{"/v1/orders%20of%20today": "/v1/orders%20of%20today", "/v1/orders/": "/v1/orders/", "/v1/caf%C3%a9": "/v1/caf%C3%A9"} {
		f.Orders.Forget()
		a := orders.get(path)
		if seen := f.Orders.Requests(); a.Status != http.StatusOK || len(seen) != 1 || seen[0].Path != want {
			t.Errorf("%s: %s, forwarded as %v", path, a, seen)
		}
	}
	f.passed()
}

func TestS51WhatCouldBeTwoRequestsIsNone(t *testing.T) {
	f := newFront(t, mayflytest.Options{})
	orders := f.agent(f.task("open"), "/http/orders")
	good := func() {
		t.Helper()
		f.Orders.Forget()
		if a := orders.send(http.MethodPost, "/v1/orders", []byte(`{"clean":true}`), "Content-Type", "application/json"); a.Status != http.StatusOK {
			t.Errorf("a good request afterwards: %s", a)
		}
		if seen := f.Orders.Requests(); len(seen) != 1 || string(seen[0].Body) != `{"clean":true}` || seen[0].Path != "/v1/orders" {
			t.Errorf("the target was sent %+v", seen)
		}
		f.passed()
	}
	good() // there is a connection to the target to poison
	const smuggled = "GET /admin HTTP/1.1\r\nHost: orders\r\n\r\n"
	for _, c := range []struct {
		name, headers, rest string
		status              int
		recorded            bool // the request was read as one, and its sender is known
	}{
		{"Transfer-Encoding beside Content-Length", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n" + smuggled, 400, true},
		{"Content-Length beside Transfer-Encoding", "Content-Length: 60\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n" + smuggled, 400, true},
		{"chunks", "Transfer-Encoding: chunked\r\n", "2\r\n{}\r\n0\r\n\r\n", 400, true},
		{"a chunk ended by a bare line feed", "Transfer-Encoding: chunked\r\n", "2;x\n{}\n0\n\n" + smuggled, 400, true},
		{"an Upgrade", "Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 0\r\n", smuggled, 400, true},
		{"an encoded body", "Content-Encoding: gzip\r\nContent-Length: 2\r\n", "{}", 415, true},
		// These net/http refuses while it reads, before there is a request to
		// record. A coding it does not know is a 501 (RFC 9112 section 6.1).
		{"an unknown coding", "Transfer-Encoding: xchunked\r\n", "0\r\n\r\n" + smuggled, 501, false},
		{"two codings", "Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n" + smuggled, 501, false},
		{"two lengths", "Content-Length: 0\r\nContent-Length: 38\r\n", smuggled, 400, false},
		{"a length with a sign", "Content-Length: +38\r\n", smuggled, 400, false},
		{"a space before the colon", "Content-Length : 38\r\n", smuggled, 400, false},
	} {
		r := orders.request(http.MethodPost, "/v1/orders", nil)
		text := "POST /http/orders/v1/orders HTTP/1.1\r\nHost: " + r.URL.Host + "\r\nContent-Type: application/json\r\n" +
			"Authorization: " + r.Header.Get("Authorization") + "\r\nDPoP: " + r.Header.Get("DPoP") + "\r\n" + c.headers + "\r\n" + c.rest
		answers := spoken(t, r.URL.Host, text)
		if len(answers) != 1 || answers[0].Status != c.status {
			t.Errorf("%s: answered %v, want one answer %d and the connection closed", c.name, answers, c.status)
			continue
		}
		if c.recorded {
			f.refused(c.name, answers[0], c.status, "")
		} else if f.arrived() != f.reached {
			t.Errorf("%s: the target was reached", c.name)
		}
	}
	f.settle()
	good()
}

// spoken sends text on a connection of its own and reads the answers until the
// server closes it, for which it has five seconds.
func spoken(t *testing.T, address, text string) []mayflytest.Answer {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	var answers []mayflytest.Answer
	for in := bufio.NewReader(c); ; {
		if _, err := in.Peek(1); err != nil {
			if ne, ok := err.(net.Error); ok && ne.Timeout() {
				t.Errorf("the connection was left open after %v", answers)
			}
			return answers
		}
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatalf("after %v: %v", answers, err)
		}
		content, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		answers = append(answers, mayflytest.Answer{Status: resp.StatusCode, Header: resp.Header, Body: content})
	}
}

func TestS52AnAgentsTokenNeverReachesATarget(t *testing.T) {
	f := newFront(t, mayflytest.Options{})
	task := f.task("open")
	bank, orders := f.agent(task, "/mcp/bank"), f.agent(task, "/http/orders")
	canaries := []string{orders.have.text, bank.have.text, task.text}
	f.remember(canaries...)
	for _, canary := range canaries {
		for _, name := range []string{
			"Proxy-Authorization", "Cookie", "X-Api-Key", "X-Auth-Token", "X-Forwarded-Access-Token", "X-Amz-Security-Token", "X_Authorization",
			"Referer", "User-Agent", "Mcp-Session-Id", "Last-Event-Id", "Www-Authenticate", "Subject-Token",
		} {
			if name != "Mcp-Session-Id" { // in the modern era it means nothing
				r := orders.request(http.MethodGet, "/v1/orders", nil, name, canary)
				if a := f.Do(r); a.Status != http.StatusOK {
					t.Errorf("%s: %s", name, a)
				}
			}
			r := bank.call(1, "list_invoices", nil)
			r.Header.Set(name, canary)
			if a := f.Do(r); a.Status != http.StatusOK {
				t.Errorf("%s: %s", name, a)
			}
		}
	}
	f.passed()
	r := orders.request(http.MethodGet, "/v1/orders", nil)
	r.Header["Authorization"] = append(r.Header["Authorization"], "Bearer "+task.text)
	f.unknown("two tokens", f.Do(r), http.StatusUnauthorized, "invalid_token")
	// What was checked is in noLeaks, here and at the end of every other test.
	if len(f.Orders.Requests()) == 0 || len(f.Bank.Requests()) == 0 {
		t.Error("nothing reached the targets: nothing was tried")
	}
}

func TestS54ARedirectIsNotFollowed(t *testing.T) {
	elsewhere := mayflytest.NewUpstream(t, http.NotFoundHandler())
	var status atomic.Int64
	away := mayflytest.NewUpstream(t, mayflytest.Lists(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", elsewhere.URL+"/stolen")
		w.Header().Set("Link", "<"+elsewhere.URL+">; rel=next")
		w.WriteHeader(int(status.Load()))
	}), "list_invoices"))
	f := newFront(t, mayflytest.Options{Change: before(target(t, "api", "http", away.URL), target(t, "tools", "mcp", away.URL))}, elsewhere, away)
	task := f.task("open")
	api, tools := f.agent(task, "/http/api"), f.agent(task, "/mcp/tools")
	for _, code := range []int{301, 302, 303, 307, 308} {
		status.Store(int64(code))
		for name, a := range map[string]mayflytest.Answer{
			"http": api.get("/v1/orders"),
			"mcp":  f.Do(tools.call(1, "list_invoices", nil)),
		} {
			want := map[string]string{"http": "", "mcp": "-32603"}[name]
			f.says(fmt.Sprintf("%s %d", name, code), a, http.StatusBadGateway, want)
			if a.Header.Get("Location") != "" || a.Header.Get("Link") != "" || strings.Contains(string(a.Body), elsewhere.URL) {
				t.Errorf("%s %d: the agent was shown where to: %v %s", name, code, a.Header, a)
			}
			if o := f.outcome(decisionOf(t, a)); o["outcome"] != "failed" || o["status"] != float64(code) {
				t.Errorf("%s %d: the outcome is %v", name, code, o)
			}
		}
	}
	if n := len(elsewhere.Requests()); n != 0 {
		t.Errorf("a redirect was followed %d times", n)
	}
	f.passed()
}

func TestS55ATokenForAnotherTargetIsInvalid(t *testing.T) {
	other := mayflytest.NewUpstream(t, http.NotFoundHandler())
	f := newFront(t, mayflytest.Options{Change: target(t, "tools", "mcp", other.URL)}, other)
	task := f.task("open")
	bank, orders := f.agent(task, "/mcp/bank"), f.agent(task, "/http/orders")
	for name, a := range map[string]*agent{
		"another MCP server's":   {f, f.at(task, "/mcp/tools"), "/mcp/bank"},
		"an HTTP target's":       {f, orders.have, "/mcp/bank"},
		"the issuer's":           {f, task, "/mcp/bank"},
		"ours, at the other":     {f, bank.have, "/mcp/tools"},
		"ours, at none there is": {f, bank.have, "/mcp/nowhere"},
	} {
		answer := f.Do(a.call(1, "list_invoices", nil))
		f.unknown(name, answer, http.StatusUnauthorized, "invalid_token")
		challenge := strings.Join(answer.Header["Www-Authenticate"], ", ")
		metadata := `resource_metadata="` + f.Issuer + "/.well-known/oauth-protected-resource" + a.path + `"`
		if !strings.Contains(challenge, `error="invalid_token"`) || !strings.Contains(challenge, metadata) || !strings.Contains(challenge, "DPoP ") {
			t.Errorf("%s: the challenge is %s", name, challenge)
		}
	}
	for name, a := range map[string]*agent{
		"an MCP target's": {f, bank.have, "/http/orders"},
		"the issuer's":    {f, task, "/http/orders"},
	} {
		f.unknown(name, a.get("/v1/orders"), http.StatusUnauthorized, "invalid_token")
	}
}

func TestS56WhatATaskCouldHaveBeenGrantedIsAStepUp(t *testing.T) {
	f := newFront(t, mayflytest.Options{})
	task := f.task("invoice", "mcp:bank:list_invoices", "http:orders:GET:/v1/*")
	bank, orders := f.agent(task, "/mcp/bank"), f.agent(task, "/http/orders")

	a := f.Do(bank.call(1, "pay_invoice", members{"amount": 120}))
	f.refused("a tool within the profile's grants", a, http.StatusForbidden, "41403")
	f.stepsUp(a, "mcp:bank:pay_invoice", "/mcp/bank")

	a = orders.send(http.MethodPost, "/v1/orders", []byte(`{}`), "Content-Type", "application/json")
	f.refused("a method within the profile's grants", a, http.StatusForbidden, "insufficient_scope")
	f.stepsUp(a, "http:orders:POST:/v1/orders", "/http/orders")

	// What no task of the profile can have is no step to take.
	a = f.Do(bank.call(1, "delete_vendor", nil))
	f.refused("a tool outside them", a, http.StatusOK, "")
	if denied(a) == "" || a.Header.Get("Www-Authenticate") != "" {
		t.Errorf("a tool outside the profile's grants: %s %v", a, a.Header)
	}
	a = f.Do(bank.call(1, "pay_invoice", members{"amount": 501}))
	f.refused("arguments outside them", a, http.StatusOK, "")
	if denied(a) == "" || a.Header.Get("Www-Authenticate") != "" {
		t.Errorf("arguments outside the profile's grants: %s %v", a, a.Header)
	}
	a = orders.send(http.MethodDelete, "/v1/orders", nil)
	f.refused("a method outside them", a, http.StatusForbidden, "")
	if a.Header.Get("Www-Authenticate") != "" {
		t.Errorf("a method outside the profile's grants: %v", a.Header)
	}
	for i, e := range f.settle() {
		if e.Kind != "call.decided" || e.Term == "" {
			t.Errorf("refusal %d is recorded as %s %s", i, e.Kind, e.Body)
		}
	}
}

// stepsUp checks the challenge that a client steps up by (MCP authorization,
// RFC 6750 section 3.1).
func (f *front) stepsUp(a mayflytest.Answer, scope, path string) {
	f.t.Helper()
	challenge := a.Header["Www-Authenticate"]
	if len(challenge) != 1 || !strings.HasPrefix(challenge[0], "DPoP ") {
		f.t.Fatalf("the challenge is %q", challenge)
	}
	for _, part := range []string{
		`error="insufficient_scope"`, `scope="` + scope + `"`,
		`resource_metadata="` + f.Issuer + "/.well-known/oauth-protected-resource" + path + `"`,
	} {
		if !strings.Contains(challenge[0], part) {
			f.t.Errorf("the challenge lacks %s: %s", part, challenge[0])
		}
	}
}

func TestARefusalSaysWhatToDoAndWhyInTheRecordToo(t *testing.T) {
	f := newFront(t, mayflytest.Options{})
	orders := f.agent(f.task("invoice", "http:orders:GET:/v1/*"), "/http/orders")
	a := orders.get("/admin")
	f.refused("a denied call", a, http.StatusForbidden, "")
	var problem mayfly.Problem
	if err := json.Unmarshal(a.Body, &problem); err != nil || a.Header.Get("Content-Type") != "application/problem+json" {
		t.Fatalf("no problem document: %v %v %s", err, a.Header, a)
	}
	if problem.Status != 403 || problem.Term == "" || problem.Detail == "" || problem.Title == "" || problem.Type == "" || problem.Next == nil {
		t.Errorf("the problem is %+v", problem)
	}
	if e := f.settle()[0]; e.Term != problem.Term {
		t.Errorf("the record says %s, the answer %s", e.Term, problem.Term)
	}
}

func TestWithoutAValidTokenEveryTargetLooksTheSame(t *testing.T) {
	f := newFront(t, mayflytest.Options{})
	task := f.task("open")
	bank := f.agent(task, "/mcp/bank")
	// anonymous is what of an answer may depend on nothing but the address.
	anonymous := func(a mayflytest.Answer, name string) string {
		a.Header = a.Header.Clone()
		for _, varies := range []string{"Date", "Mayfly-Request-Id", "Dpop-Nonce", "Content-Length"} {
			a.Header.Del(varies)
		}
		return strings.ReplaceAll(fmt.Sprintf("%d %v %s", a.Status, a.Header, a.Body), name, "NAME")
	}
	for _, surface := range []string{"mcp", "http"} {
		there := map[string]string{"mcp": "bank", "http": "orders"}[surface]
		wrong := map[string]string{"mcp": "orders", "http": "bank"}[surface] // of the other kind
		for how, authorization := range map[string]string{
			"nobody": "", "no token of ours": "Bearer eyJhbGciOiJub25lIn0.e30.", "a token for another target": "DPoP " + bank.have.text,
		} {
			if surface == "mcp" && authorization == "DPoP "+bank.have.text {
				continue // it is for the one that is there
			}
			var first string
			for _, name := range []string{there, wrong, "nowhere"} {
				path := "/" + surface + "/" + name
				r := f.Request(http.MethodPost, path, []byte(`{}`), "Content-Type", "application/json", "Accept", "application/json, text/event-stream")
				if authorization != "" {
					r.Header.Set("Authorization", authorization)
					r.Header.Set("DPoP", f.proof(bank.have.h, http.MethodPost, path, bank.have.text))
				}
				a := f.Do(r)
				f.unknown(how+" at "+path, a, http.StatusUnauthorized, a.Error())
				if got := anonymous(a, name); first == "" {
					first = got
				} else if got != first {
					t.Errorf("%s at %s: %s\nat %s: %s", how, path, got, there, first)
				}
			}
		}
	}
}

func TestAnUpstreams401IsNotRelayed(t *testing.T) {
	refusing := mayflytest.NewUpstream(t, mayflytest.Lists(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("WWW-Authenticate", `Bearer realm="upstream", scope="everything"`)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusUnauthorized)
		io.WriteString(w, `{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"`+attachedKey+` is wrong"}}`)
	}), "list_invoices"))
	f := newFront(t, mayflytest.Options{Change: before(target(t, "api", "http", refusing.URL), target(t, "tools", "mcp", refusing.URL))}, refusing)
	task := f.task("open")
	for name, a := range map[string]mayflytest.Answer{
		"http": f.agent(task, "/http/api").get("/v1/orders"),
		"mcp":  f.Do(f.agent(task, "/mcp/tools").call(1, "list_invoices", nil)),
	} {
		f.says(name, a, http.StatusBadGateway, map[string]string{"http": "", "mcp": "-32603"}[name])
		if a.Header.Get("Www-Authenticate") != "" || strings.Contains(string(a.Body), attachedKey) {
			t.Errorf("%s: the agent was shown %v %s", name, a.Header, a)
		}
		if o := f.outcome(decisionOf(t, a)); o["outcome"] != "failed" || o["status"] != 401.0 {
			t.Errorf("%s: the outcome is %v", name, o)
		}
	}
	f.passed()
}

func TestATargetsHeadersDoNotSpeakForTheGateway(t *testing.T) {
	loud := mayflytest.NewUpstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for name, value := range map[string]string{
			"Set-Cookie": "a=b", "Access-Control-Allow-Origin": "*", "Mayfly-Decision": "dec_forged", "DPoP-Nonce": "forged",
			"Content-Security-Policy": "default-src *", "X-Powered-By": "x", "Server": "x", "Via": "x", "X_Internal": "x",
			"Location": "http://" + r.Host + "/v1/orders/7", "ETag": `"1"`, "Content-Type": "text/html", "Strict-Transport-Security": "max-age=0",
		} {
			w.Header().Set(name, value)
		}
		w.WriteHeader(http.StatusCreated)
		io.WriteString(w, "<script>1</script>")
	}))
	f := newFront(t, mayflytest.Options{Change: target(t, "api", "http", loud.URL)}, loud)
	a := f.agent(f.task("open"), "/http/api").send(http.MethodPost, "/v1/orders", []byte(`{}`), "Content-Type", "application/json")
	f.passed()
	if a.Status != http.StatusCreated || string(a.Body) != "<script>1</script>" {
		t.Fatalf("the answer is %s", a)
	}
	for _, name := range []string{"Set-Cookie", "Access-Control-Allow-Origin", "X-Powered-By", "Server", "Via", "X_internal", "Strict-Transport-Security"} {
		if a.Header.Get(name) != "" {
			t.Errorf("the agent was shown %s: %s", name, a.Header.Get(name))
		}
	}
	for name, want := range map[string]string{
		"Location": f.Issuer + "/http/api/v1/orders/7", "Etag": `"1"`, "Content-Security-Policy": "default-src 'none'; sandbox",
		"X-Content-Type-Options": "nosniff",
	} {
		if got := a.Header[name]; !slices.Equal(got, []string{want}) {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if d := a.Header["Mayfly-Decision"]; len(d) != 1 || d[0] == "dec_forged" || f.outcome(d[0])["outcome"] != "answered" {
		t.Errorf("the decision is %q", d)
	}
	if n := a.Header["Dpop-Nonce"]; slices.Contains(n, "forged") {
		t.Errorf("the nonce is %q", n)
	}
}

func TestAnAnswerOver8MiBIsNotPassedWhole(t *testing.T) {
	const limit = 8 << 20
	piece := []byte(strings.Repeat("x", 64<<10))
	write := func(w io.Writer, n int) {
		for n > 0 {
			m, err := w.Write(piece[:min(n, len(piece))])
			if err != nil {
				return // the gateway has had enough
			}
			n -= m
		}
	}
	big := mayflytest.NewUpstream(t, mayflytest.Lists(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		length := limit + 1
		switch r.URL.Path {
		case "/just-enough":
			length = limit
			fallthrough
		case "/announced":
			w.Header().Set("Content-Length", fmt.Sprint(length))
			write(w, length)
		case "/chunked":
			write(w, length)
		case "/mcp", "/mcp-events":
			begin, end := `{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"`, `"}]}}`
			w.Header().Set("Content-Type", "application/json")
			if r.URL.Path == "/mcp-events" {
				w.Header().Set("Content-Type", "text/event-stream")
				begin, end = "data: "+begin, end+"\n\n"
			}
			io.WriteString(w, begin)
			write(w, length)
			io.WriteString(w, end)
		}
	}), "list_invoices"))
	f := newFront(t, mayflytest.Options{Change: before(target(t, "api", "http", big.URL), target(t, "tools", "mcp", big.URL+"/mcp"),
		target(t, "events", "mcp", big.URL+"/mcp-events"))}, big)
	task := f.task("open")
	api := f.agent(task, "/http/api")
	if a := api.get("/just-enough"); a.Status != http.StatusOK || len(a.Body) != limit {
		t.Errorf("an answer of 8 MiB: %d, %d bytes", a.Status, len(a.Body))
	}
	a := api.get("/announced")
	f.says("an announced length", a, http.StatusBadGateway, "")
	if o := f.outcome(decisionOf(t, a)); o["outcome"] != "failed" {
		t.Errorf("an announced length: the outcome is %v", o)
	}

	resp, err := http.DefaultClient.Do(api.request(http.MethodGet, "/chunked", nil))
	if err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	if err == nil || n > limit {
		t.Errorf("an unannounced length: %d bytes passed, and looked whole: %v", n, err == nil)
	}
	if o := f.outcome(resp.Header.Get("Mayfly-Decision")); o["outcome"] != "cut" {
		t.Errorf("an unannounced length: the outcome is %v", o)
	}

	for path, asEvent := range map[string]bool{"/mcp/tools": false, "/mcp/events": true} {
		a := f.Do(f.agent(task, path).call(1, "list_invoices", nil))
		f.says(path, a, unusable[asEvent], "-32603")
		if o := f.outcome(decisionOf(t, a)); o["outcome"] != "failed" {
			t.Errorf("%s: the outcome is %v", path, o)
		}
	}
	f.passed()
}

func TestACallThatWasNotSentGivesItsBudgetBack(t *testing.T) {
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	half := mayflytest.NewUpstream(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		panic(http.ErrAbortHandler) // it saw the request, and who knows what it did
	}))
	grants := func(b *authority.Bundle) {
		for _, name := range []string{"gone", "half"} {
			b.Profiles["open"].Grants = append(b.Profiles["open"].Grants,
				mayflytest.Grants(t, `{"type":"mayfly_grant","grant":"http:`+name+`:POST:/v1/*","budget":{"calls":2}}`)...)
			b.Targets[name] = &mayfly.Target{Name: name, Kind: "http", Credential: b.Targets["bank"].Credential}
		}
		b.Targets["gone"].URL, b.Targets["half"].URL = "http://"+gone.Addr().String(), half.URL
	}
	f := newFront(t, mayflytest.Options{Change: grants}, half)
	task := f.task("open", "http:gone:POST:/v1/*", "http:half:POST:/v1/*")
	used := func(target string) (n int64) {
		t.Helper()
		for _, b := range f.view(task.task).Budget {
			if strings.Contains(b.Grant, target) {
				n += b.Used
			}
		}
		return n
	}
	away, seen := f.agent(task, "/http/gone"), f.agent(task, "/http/half")
	for range 5 { // more often than the budget has calls
		a := away.send(http.MethodPost, "/v1/orders", []byte(`{}`), "Content-Type", "application/json")
		f.says("a target that is gone", a, http.StatusBadGateway, "")
		if o := f.outcome(decisionOf(t, a)); o["outcome"] != "not-sent" || o["status"] != 0.0 {
			t.Errorf("the outcome is %v", o)
		}
		if n := used("gone"); n != 0 {
			t.Errorf("%d calls are spent on a target that saw none", n)
		}
	}
	for range 2 {
		a := seen.send(http.MethodPost, "/v1/orders", []byte(`{}`), "Content-Type", "application/json")
		f.says("a target that went away half-way", a, http.StatusBadGateway, "")
		if o := f.outcome(decisionOf(t, a)); o["outcome"] != "failed" {
			t.Errorf("the outcome is %v", o)
		}
	}
	if n := len(half.Requests()); n != 2 {
		t.Errorf("the call was sent %d times: a write is never tried again by itself", n)
	}
	f.passed()
	a := seen.send(http.MethodPost, "/v1/orders", []byte(`{}`), "Content-Type", "application/json")
	f.refused("a spent budget", a, http.StatusForbidden, "")
	if denied(a) != mayfly.TermBudget {
		t.Errorf("a spent budget: %s", a)
	}
}

func TestEveryAllowedCallHasOneOutcome(t *testing.T) {
	f := newFront(t, mayflytest.Options{})
	task := f.task("open")
	orders, bank := f.agent(task, "/http/orders"), f.agent(task, "/mcp/bank")
	read, call := orders.get("/v1/orders"), f.Do(bank.call(1, "list_invoices", nil))
	if read.Status != http.StatusOK || call.Status != http.StatusOK || denied(call) != "" {
		t.Fatalf("allowed calls: %s, %s", read, call)
	}
	if d := call.Header.Get("Mayfly-Decision"); d != decisionOf(t, call) {
		t.Errorf("the header names decision %q, the result %q", d, decisionOf(t, call))
	}
	for name, d := range map[string]string{"http": read.Header.Get("Mayfly-Decision"), "mcp": decisionOf(t, call)} {
		o := f.outcome(d)
		if o["outcome"] != "answered" || o["status"] != 200.0 || o["bytes"] == 0.0 || o["task"] != string(task.task) || o["human"] != "alice" {
			t.Errorf("%s: the outcome is %v", name, o)
		}
		var kinds []string
		for _, e := range f.Records("call.decided", "call.ended") {
			if e.Decision == d {
				kinds = append(kinds, e.Kind)
			}
		}
		if !slices.Equal(kinds, []string{"call.decided", "call.ended"}) {
			t.Errorf("%s: recorded as %v", name, kinds)
		}
	}
	f.passed()
}

func TestABearerTokenWorksWhereTheProfileAllowsItAndOnlyAsOne(t *testing.T) {
	f := newFront(t, mayflytest.Options{})
	evidence := []string{"actor_token", f.Evidence("invoice-1"), "actor_token_type", client.TypeJWT}
	task := f.open(f.opening("profile", "open"), nil)
	orders := &agent{f, f.at(task, "/http/orders", evidence...), "/http/orders"}
	bank := &agent{f, f.at(task, "/mcp/bank", evidence...), "/mcp/bank"}
	if a := orders.get("/v1/orders"); a.Status != http.StatusOK {
		t.Errorf("a bearer token over HTTP: %s", a)
	}
	if a := f.Do(bank.call(1, "list_invoices", nil)); a.Status != http.StatusOK || denied(a) != "" {
		t.Errorf("a bearer token over MCP: %s", a)
	}
	f.passed()

	h := newHolder(t)
	r := orders.request(http.MethodGet, "/v1/orders", nil)
	r.Header.Set("Authorization", "DPoP "+orders.have.text)
	r.Header.Set("DPoP", f.proof(h, http.MethodGet, "/http/orders/v1/orders", orders.have.text))
	f.unknown("an unbound token with anybody's proof", f.Do(r), http.StatusUnauthorized, "invalid_token")

	bound := f.agent(f.task("open"), "/http/orders")
	r = bound.request(http.MethodGet, "/v1/orders", nil)
	r.Header.Set("Authorization", "Bearer "+bound.have.text)
	f.unknown("a bound token as a bearer", f.Do(r), http.StatusUnauthorized, "invalid_token")
	r = bound.request(http.MethodGet, "/v1/orders", nil)
	r.Header.Del("DPoP")
	f.unknown("a bound token without a proof", f.Do(r), http.StatusUnauthorized, "invalid_dpop_proof")
}

func TestATaskThatIsOverIsRefusedAtTheGateway(t *testing.T) {
	f := newFront(t, mayflytest.Options{})
	task := f.task("open")
	orders, bank := f.agent(task, "/http/orders"), f.agent(task, "/mcp/bank")
	if _, err := f.Operator().Revoke(context.Background(), task.task); err != nil {
		t.Fatal(err)
	}
	f.refused("over HTTP", orders.get("/v1/orders"), http.StatusUnauthorized, "invalid_token")
	f.refused("over MCP", f.Do(bank.call(1, "list_invoices", nil)), http.StatusUnauthorized, "invalid_token")
	f.refused("a passed method", f.Do(bank.message("2026-07-28", `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{`+modernMeta+`}}`)),
		http.StatusUnauthorized, "invalid_token")
	for _, e := range f.settle() {
		if e.Term != mayfly.TermLiveness {
			t.Errorf("recorded as %s %s", e.Kind, e.Body)
		}
	}
}

// stopped is a clock that stands still unless a test moves it.
type stopped struct {
	at    time.Time
	since time.Duration
	ahead atomic.Int64
}

func (s *stopped) wall() time.Time     { return s.at.Add(time.Duration(s.ahead.Load())) }
func (s *stopped) boot() time.Duration { return s.since + time.Duration(s.ahead.Load()) }

// congested is an address where a connection is made only after a second: its
// queue is full until the test empties it, and the kernel knocks again after
// that time. What is decided before and is to be sent after has to wait.
type congested struct {
	t      *testing.T
	fd     int
	inside net.Conn
	URL    string
	sent   chan []byte // what came over the connections after the first
}

func newCongested(t *testing.T) *congested {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	check(err)
	check(syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	check(syscall.Listen(fd, 0))
	name, err := syscall.Getsockname(fd)
	check(err)
	c := &congested{t: t, fd: fd, sent: make(chan []byte, 1)}
	address := fmt.Sprintf("127.0.0.1:%d", name.(*syscall.SockaddrInet4).Port)
	c.URL = "http://" + address
	c.inside, err = net.Dial("tcp", address)
	check(err)
	t.Cleanup(func() {
		c.inside.Close()
		// A listener that is shut down lets its accept return.
		if err := syscall.Shutdown(fd, syscall.SHUT_RDWR); err != nil {
			t.Error(err)
		}
		syscall.Close(fd)
	})
	return c
}

// clear empties the queue, and answers what comes after.
func (c *congested) clear() {
	first, _, err := syscall.Accept(c.fd)
	if err != nil {
		c.t.Error(err)
		return
	}
	syscall.Close(first)
	go func() {
		for {
			fd, _, err := syscall.Accept(c.fd)
			if err != nil {
				return // the test is over
			}
			var got []byte
			buf := make([]byte, 4096)
			n, err := syscall.Read(fd, buf)
			if err == nil && n > 0 {
				got = buf[:n]
				syscall.Write(fd, []byte("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"))
			}
			c.sent <- got
			syscall.Close(fd)
		}
	}()
}

func TestADecisionThatIsNotFreshAnyMoreIsNotActedOn(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(f *front, clock *stopped, task held)
		status int
		code   string
	}{
		{"nothing changed", func(*front, *stopped, held) {}, http.StatusOK, ""},
		{"over a second passed", func(f *front, clock *stopped, _ held) {
			clock.ahead.Add(int64(time.Second + time.Millisecond))
		}, http.StatusServiceUnavailable, ""},
		{"other rules are in force", func(f *front, _ *stopped, _ held) {
			next := *f.Authority.Bundle()
			next.Hash = "another-bundle"
			if err := f.Authority.Reload(context.Background(), &next); err != nil {
				f.t.Fatal(err)
			}
		}, http.StatusServiceUnavailable, ""},
		{"the task is over", func(f *front, _ *stopped, task held) {
			if _, err := f.Operator().Revoke(context.Background(), task.task); err != nil {
				f.t.Fatal(err)
			}
		}, http.StatusUnauthorized, "invalid_token"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel() // each waits for the kernel
			clock := &stopped{at: time.Now(), since: time.Hour}
			busy := newCongested(t)
			f := newFront(t, mayflytest.Options{Wall: clock.wall, Boot: clock.boot, Change: func(b *authority.Bundle) {
				target(t, "busy", "http", busy.URL)(b)
				b.Profiles["open"].Grants = append(b.Profiles["open"].Grants,
					mayflytest.Grants(t, `{"type":"mayfly_grant","grant":"http:busy:POST:/v1/*","budget":{"calls":5}}`)...)
			}})
			f.now, f.IDP.Now = clock.wall, clock.wall
			task := f.task("open", "http:busy:POST:/v1/*")
			a := f.agent(task, "/http/busy")
			answered := make(chan mayflytest.Answer, 1)
			request := a.request(http.MethodPost, "/v1/orders", []byte(`{}`), "Content-Type", "application/json")
			go func() { answered <- f.Do(request) }()
			var decision string
			f.Eventually("the call is decided", func() bool {
				for _, e := range f.Records("call.decided") {
					decision = e.Decision
				}
				return decision != ""
			})
			c.change(f, clock, task)
			busy.clear()
			answer := <-answered
			f.says(c.name, answer, c.status, c.code)
			outcome := f.outcome(decision)
			if c.status == http.StatusOK {
				if got := <-busy.sent; outcome["outcome"] != "answered" || !strings.Contains(string(got), "POST /v1/orders") {
					t.Errorf("the outcome is %v, and the target was sent %q", outcome, got)
				}
				return
			}
			if decisionOf(t, answer) != decision || outcome["outcome"] != "not-sent" {
				t.Errorf("decided as %s, answered %s, and the outcome is %v", decision, answer, outcome)
			}
			for _, b := range f.view(task.task).Budget {
				if b.Used != 0 {
					t.Errorf("a call that was not sent is spent: %+v", b)
				}
			}
			select {
			case got := <-busy.sent:
				if len(got) != 0 {
					t.Errorf("the target was sent %q", got)
				}
			default: // the connection is still open, and nothing came
			}
		})
	}
}
