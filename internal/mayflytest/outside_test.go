package mayflytest_test

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	"github.com/mayfly-id/mayfly/internal/mayflytest"
	"github.com/mayfly-id/mayfly/internal/server"
)

// What strangers can do to the node from outside.

func TestS85WhatStrangersSayCannotForgeALogLine(t *testing.T) {
	t.Parallel()
	n := plain(t, nil)
	h := newHolder(t)
	const poison = "a\r\n{\"level\":\"INFO\",\"msg\":\"forged\"}\x1b[31m\u2028\u2029\u202e\x00\x7f\u0085"
	own := n.open(n.opening(), h)
	orders := n.open(n.opening("scope", "http:orders:GET:/v1/*", "resource", n.Issuer+"/http/orders"), h)
	bank := n.at(own, "/mcp/bank")
	visible := strings.Map(func(r rune) rune {
		if r == '\x00' {
			return -1
		}
		return r
	}, poison)
	n.token(n.opening("profile", visible), h)
	n.token(n.opening("purpose", visible), h)
	n.token(n.opening("scope", visible), h)
	n.token(n.opening("client_id", visible), h)
	n.token(n.opening("subject_token", visible), h)
	n.token(n.opening("authorization_details", `[{"type":`+string(toJSON(poison))+`}]`), h)
	n.token(n.opening("subject_token", n.IDP.Issue(members{"aud": mayflytest.Humans, "sub": visible, "groups": []string{visible}})), h)
	n.token(n.opening("actor_token", n.IDP.Issue(members{"aud": mayflytest.Workloads, "sub": visible})), h)
	n.token(n.opening(assertion(h.sign(n.assertionOf(h, visible)))...), h)
	n.post("/oauth2/token", "grant_type="+url.QueryEscape(poison))
	n.post("/oauth2/"+url.PathEscape(poison), "x=y")
	n.tool(bank, "pay_invoice", members{poison: poison})
	n.send(bank, http.MethodPost, "/mcp/bank", toJSON(members{"jsonrpc": "2.0", "id": poison, "method": poison, "params": members{"name": poison}}),
		"Accept", "application/json, text/event-stream")
	n.send(orders, http.MethodGet, "/http/orders/"+url.PathEscape(visible), nil)
	n.send(own, http.MethodPost, "/v1/delegations", toJSON(members{"profile": poison, "purpose": poison}))
	n.send(own, http.MethodGet, "/v1/tasks/"+url.PathEscape(poison), nil)
	n.Do(n.Request(http.MethodGet, "/healthz", nil, "User-Agent", "agent\u2028{\"forged\":true}", "Traceparent", "\u2029"))
	raw(t, n, "GET /healthz HTTP/1.1\r\nHost: localhost\r\nUser-Agent: a\x1b[31mb\rc\r\n\r\n")
	raw(t, n, "GET /x\x1b[2J HTTP/1.1\r\nHost: localhost\r\n\r\n")
	n.Stop()

	lines := bufio.NewScanner(strings.NewReader(n.Said.String()))
	lines.Buffer(nil, 1<<20)
	seen := 0
	for lines.Scan() {
		seen++
		var m members
		if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
			t.Errorf("a line is no JSON object: %v: %q", err, lines.Text())
		}
		if m["msg"] == "forged" || m["forged"] != nil || m["time"] == nil || m["level"] == nil {
			t.Errorf("a line that the server did not write: %q", lines.Text())
		}
		if strings.ContainsFunc(lines.Text(), func(r rune) bool { return unicode.IsControl(r) || r == '\u2028' || r == '\u2029' || r == '\u202e' }) {
			t.Errorf("a line with characters a terminal obeys: %q", lines.Text())
		}
	}
	if err := lines.Err(); err != nil || seen < 10 {
		t.Errorf("%d lines: %v", seen, err)
	}
}

// raw sends bytes as they are and reads what comes until the server closes, or
// a second.
func raw(t testing.TB, n node, text string) string {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(n.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, text); err != nil {
		return "" // it closed before it had read all
	}
	if err := conn.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	status, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return ""
	}
	return strings.TrimSpace(status)
}

func TestS92FloodsOfStrangersAreCutShort(t *testing.T) {
	t.Parallel()
	n := plain(t, nil)
	h := newHolder(t)
	own := n.open(n.opening(), h)

	million := []byte(`{"profile":"p","purpose":"x","grants":[` + strings.Repeat(`"a",`, 1_000_000) + `"a"]}`)
	thousand := []byte(`{"profile":"p","purpose":"x","grants":[` + strings.Repeat(`"a",`, 1000) + `"a"]}`)
	// Of a stranger nothing is read; of a caller no more than the limit.
	n.says("a million strings, by a stranger", n.Do(n.Request(http.MethodPost, "/v1/delegations", thousand, "Content-Type", "application/json")), 401, "")
	n.says("a million strings", n.send(own, http.MethodPost, "/v1/delegations", million), 413, "")
	n.says("a thousand and one strings", n.send(own, http.MethodPost, "/v1/delegations", thousand), 400, "")
	n.says("as authorization_details", n.token(n.opening("authorization_details", "["+strings.Repeat(`"a",`, 1500)+`"a"]`), h), 400, "invalid_authorization_details")
	n.says("a million of them", n.post("/oauth2/token", "authorization_details="+strings.Repeat("%22a%22,", 1<<17)), 413, invalidRequest)

	for name, head := range map[string]string{
		"a hundred thousand headers": strings.Repeat("X-A: b\r\n", 100_000), "one of 20 KiB": "X-A: " + strings.Repeat("b", 24<<10) + "\r\n",
	} {
		if got := raw(t, n, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n"+head+"\r\n"); got != "" && !strings.Contains(got, " 431 ") {
			t.Errorf("%s: %s", name, got)
		}
	}
	if got := raw(t, n, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n"+strings.Repeat("A: b\r\n", 101)+"\r\n"); !strings.Contains(got, " 400 ") && !strings.Contains(got, " 431 ") {
		t.Errorf("101 headers: %s", got)
	}

	if a := n.self(own); a.Status != 200 {
		t.Errorf("the node after the flood: %s", a)
	}
}

// slowConns is how many connections dribble at once.
const slowConns = 1000

// Not parallel: it measures how long others wait.
func TestS92AThousandSlowHeadsAreCutOffAndNobodyWaitsForThem(t *testing.T) {
	n := plain(t, nil)
	var limits http.Server
	server.Harden(&limits)
	if limits.ReadHeaderTimeout <= 0 || limits.ReadHeaderTimeout > 10*time.Second {
		t.Fatalf("a request's head may take %s", limits.ReadHeaderTimeout)
	}
	p99 := func(while func(asked int) bool) time.Duration {
		var took []time.Duration
		for while(len(took)) {
			start := time.Now()
			if a := n.Do(n.Request(http.MethodGet, "/oauth2/jwks", nil)); a.Status != 200 {
				t.Fatalf("somebody else is answered %s", a)
			}
			took = append(took, time.Since(start))
		}
		slices.Sort(took)
		t.Logf("%d requests: p50 %s, p99 %s, the slowest %s", len(took), took[len(took)/2], took[len(took)*99/100], took[len(took)-1])
		return took[len(took)*99/100]
	}
	alone := p99(func(asked int) bool { return asked < 1000 })

	// Each sends one byte of a header that does not end, again and again.
	const head = "GET /oauth2/jwks HTTP/1.1\r\nHost: localhost\r\nX-Slow: "
	const between = 250 * time.Millisecond
	lived := make([]time.Duration, slowConns)
	var slow sync.WaitGroup
	for i := range lived {
		conn, err := net.Dial("tcp", strings.TrimPrefix(n.URL, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		start := time.Now()
		if err := conn.SetDeadline(start.Add(limits.ReadHeaderTimeout + 5*time.Second)); err != nil {
			t.Fatal(err)
		}
		closed := make(chan struct{})
		slow.Go(func() {
			defer close(closed)
			_, err := io.Copy(io.Discard, conn)
			if e, ok := err.(net.Error); ok && e.Timeout() {
				t.Error("a slow connection is still open")
			}
			lived[i] = time.Since(start)
		})
		slow.Go(func() {
			tick := time.NewTicker(between)
			defer tick.Stop()
			for at := 0; ; at++ {
				b := byte('a')
				if at < len(head) {
					b = head[at]
				}
				if _, err := conn.Write([]byte{b}); err != nil {
					return // the server has closed it
				}
				select {
				case <-closed:
					return
				case <-tick.C:
				}
			}
		})
	}
	// Others are asked for while all of them are open.
	until := time.Now().Add(limits.ReadHeaderTimeout / 2)
	among := p99(func(asked int) bool { return asked < 100 || time.Now().Before(until) })
	slow.Wait()
	shortest, longest := slices.Min(lived), slices.Max(lived)
	t.Logf("the slow ones lived %s to %s", shortest, longest)
	if shortest < limits.ReadHeaderTimeout-time.Second || longest > limits.ReadHeaderTimeout+3*time.Second {
		t.Errorf("slow connections lived %s to %s, and a head may take %s", shortest, longest, limits.ReadHeaderTimeout)
	}
	// A few milliseconds are this process's own: it writes all those bytes.
	if among > 2*alone+20*time.Millisecond {
		t.Errorf("p99 of others is %s among %d slow connections, %s without", among, slowConns, alone)
	}
	if a := n.Do(n.Request(http.MethodGet, "/readyz", nil)); a.Status != 200 {
		t.Errorf("the node afterwards: %s", a)
	}
}

// public is every route that answers without credentials: health, keys,
// metadata, this API's description, and the log's signed heads and hashes.
var public = []string{
	"GET /healthz", "GET /readyz", "GET /oauth2/jwks", "GET /openapi.json",
	"GET /.well-known/oauth-authorization-server", "GET /.well-known/authzen-configuration", "GET /.well-known/openid-configuration",
	"GET /.well-known/oauth-protected-resource", "GET /.well-known/oauth-protected-resource/mcp/{target}",
	"GET /.well-known/oauth-protected-resource/http/{target}",
	"GET /log/checkpoint", "GET /log/anchor", "GET /log/vkey", "GET /log/tile/{path}",
}

func TestS93WithoutCredentialsOnlyThePublicAnswers(t *testing.T) {
	t.Parallel()
	n := plain(t, nil)
	n.open(n.opening(), newHolder(t))
	var document struct {
		Paths map[string]map[string]json.RawMessage `json:"paths"`
	}
	if err := json.Unmarshal(server.OpenAPI(), &document); err != nil {
		t.Fatal(err)
	}
	reached := n.reached()
	routes := 0
	for path, methods := range document.Paths {
		for method := range methods {
			method = strings.ToUpper(method)
			if !slices.Contains([]string{"GET", "POST", "PUT", "PATCH", "DELETE"}, method) {
				continue
			}
			routes++
			at := path
			for strings.Contains(at, "{") {
				start, end := strings.Index(at, "{"), strings.Index(at, "}")
				at = at[:start] + "x" + at[end+1:]
			}
			for _, agent := range []string{"", "GoogleHC/1.0", "kube-probe/1.30", "ELB-HealthChecker/2.0"} {
				r := n.Request(method, at, nil, "User-Agent", agent)
				if method == "POST" {
					r.Header.Set("Content-Type", "application/json")
					if strings.HasPrefix(path, "/oauth2/") {
						r.Header.Set("Content-Type", asForm)
					}
				}
				a := n.Do(r)
				name := method + " " + path
				switch isPublic := slices.ContainsFunc(public, func(p string) bool {
					return p == name || strings.HasPrefix(name, "GET /log/tile/") && !strings.Contains(name, "entries") && strings.HasPrefix(p, "GET /log/tile/")
				}); {
				case isPublic && (a.Status == 200 || a.Status == 404 && strings.Contains(path, "{")):
				case path == "/log/anchor" && a.Status == 404: // there are no witnesses
				case isPublic:
					t.Errorf("%s as %q: %s", name, agent, a)
				case a.Status == 401:
				case strings.HasPrefix(path, "/oauth2/") && a.Status == 400:
				default:
					t.Errorf("%s as %q answers %.200s", name, agent, a)
				}
			}
		}
	}
	if routes < 20 {
		t.Errorf("only %d routes are described", routes)
	}
	for _, path := range []string{
		"/healthz/../v1/tasks", "/healthz/..%2fv1/tasks", "//v1/tasks", "/./v1/tasks", "/v1/tasks/", "/V1/tasks", "/health/../admin", "/admin",
		"/metrics", "/debug/pprof/", "/v1", "/v2/tasks", "/healthz/", "/log/entries", "/.git/config",
	} {
		for _, agent := range []string{"", "GoogleHC/1.0"} {
			if got := raw(t, n, "GET "+path+" HTTP/1.1\r\nHost: localhost\r\nUser-Agent: "+agent+"\r\n\r\n"); !strings.Contains(got, " 404 ") && !strings.Contains(got, " 401 ") && !strings.Contains(got, " 400 ") {
				t.Errorf("%s as %q answers %s", path, agent, got)
			}
		}
	}
	for name, headers := range map[string][]string{
		"an internal header": {"X-Forwarded-User", "root", "X-Mayfly-Operator", "true"}, "a local peer": {"X-Forwarded-For", "127.0.0.1", "Forwarded", "for=127.0.0.1"},
		"another method": {"X-Http-Method-Override", "GET"}, "Basic": {"Authorization", "Basic cm9vdDpyb290"},
	} {
		if a := n.Do(n.Request(http.MethodGet, "/v1/tasks", nil, headers...)); a.Status != 401 {
			t.Errorf("%s: %s", name, a)
		}
	}
	if n.reached() != reached {
		t.Error("the upstream was reached")
	}
}
