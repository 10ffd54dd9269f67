package server_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/attest"
	"github.com/mayfly-id/mayfly/internal/authority"
	"github.com/mayfly-id/mayfly/internal/broker"
	"github.com/mayfly-id/mayfly/internal/eventlog"
	"github.com/mayfly-id/mayfly/internal/mayflytest/apicheck"
	"github.com/mayfly-id/mayfly/internal/policy"
	"github.com/mayfly-id/mayfly/internal/server"
	"github.com/mayfly-id/mayfly/internal/store"
)

// node is a server on SQLite, on a loopback port and on an admin socket, every
// exchange with which is held against the document.
type node struct {
	t      *testing.T
	public string // http://127.0.0.1:port
	web    *http.Client
	socket *http.Client
	api    *server.Server
	db     *store.DB
	a      *authority.Authority
	said   *lines
	check  *apicheck.Checker
}

const issuer = "https://mayfly.example.org"

func start(t *testing.T, o server.Options) *node {
	t.Helper()
	n := &node{t: t, said: &lines{}, web: &http.Client{Transport: &http.Transport{}}}
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() {
		// After 413 and 431 net/http itself lingers for half a second.
		goleak.VerifyNone(t, before, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
	})
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var seal [32]byte
	rand.Read(seal[:])
	ctx, cancel := context.WithCancel(context.Background())
	o.Logger = server.NewLogger(n.said, slog.LevelDebug)
	db, err := store.Open(ctx, store.Options{DSN: "sqlite://" + filepath.Join(t.TempDir(), "mayfly.db"), Seal: seal, Node: "test"})
	must(err)
	n.db = db
	log, err := eventlog.Open(ctx, db, eventlog.Options{Origin: "mayfly.example.org/log"})
	must(err)
	sources, err := attest.New([]attest.Source{{Name: "local", Kind: "unix", Subject: mayfly.Workload}}, nil, attest.Options{Issuer: issuer})
	must(err)
	policies, err := policy.Parse(nil, policy.Schema{})
	must(err)
	local := &mayfly.SourceRule{Source: "local"}
	var grants []mayfly.Grant
	for _, short := range []string{"http:orders:GET:/v1/*", "http:orders:POST:/v1/orders", "postgres:db:reader"} {
		g, err := mayfly.ParseGrant(short)
		must(err)
		grants = append(grants, g)
	}
	bundle := &authority.Bundle{
		Hash: "test", TrustDomain: "example.org", Issuer: issuer, Hosts: []string{"inside.example"}, Sources: sources, Policies: policies,
		Targets: map[string]*mayfly.Target{
			"orders": {Name: "orders", Kind: "http", URL: "http://127.0.0.1:1"},
			"bank":   {Name: "bank", Kind: "mcp", URL: "http://127.0.0.1:1"},
			"db":     {Name: "db", Kind: "postgres"},
		},
		Lenders: map[string]broker.Target{"db": shelf{}},
		Profiles: map[string]*mayfly.Profile{"p": {
			Name: "p", Owner: "o", Class: mayfly.Ephemeral, Grants: grants, Default: grants, KeyOptional: true, Risk: mayfly.RiskLow,
			Delegators: []mayfly.DelegatorRule{{Service: local}}, Attest: []mayfly.AttestRule{{Source: local}},
			Authority: mayfly.AuthorityProfile, Lifetime: mayfly.Lifetime{Idle: time.Minute, Default: time.Hour, Max: time.Hour},
		}},
	}
	a, err := authority.New(ctx, authority.Config{DB: db, Log: log, Bundle: bundle, Node: "test", Version: "test", Logger: o.Logger})
	must(err)

	n.a = a
	n.check, err = apicheck.New(server.OpenAPI())
	must(err)
	report := func(err error) { t.Error(err) }
	n.api = server.New(a, o)
	public := &http.Server{Handler: n.check.Handler(n.api, report)}
	server.Harden(public)
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	n.public = "http://" + tcp.Addr().String()

	behind := server.NewAdmin(a, o)
	admin := &http.Server{Handler: n.check.Handler(behind, report), ConnContext: server.WithPeer}
	server.Harden(admin)
	dir, err := os.MkdirTemp("", "mf") // the path of a socket must be short
	must(err)
	unix, err := net.Listen("unix", filepath.Join(dir, "s"))
	must(err)
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", filepath.Join(dir, "s"))
	}}
	n.socket = &http.Client{Transport: transport}

	var running sync.WaitGroup
	running.Go(func() { log.Run(ctx) })
	running.Go(func() { a.Run(ctx) })
	running.Go(func() { public.Serve(tcp) })
	running.Go(func() { admin.Serve(unix) })
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		n.web.CloseIdleConnections()
		n.api.Close()
		behind.Close()
		public.Close()
		admin.Close()
		cancel()
		running.Wait()
		sources.Close()
		if err := db.Close(); err != nil {
			t.Errorf("the store did not close: %v", err)
		}
		os.RemoveAll(dir)
	})
	return n
}

// lines is a log that may be read while it is written.
type lines struct {
	mu   sync.Mutex // guards the buffer
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Split(strings.TrimSpace(l.text.String()), "\n")
}

// reply is an answer, read to its end.
type reply struct {
	*http.Response
	body string
	json map[string]any // nil where it is none
}

// ask sends a request on the public port; headers are name, value pairs.
func (n *node) ask(method, path, body string, headers ...string) reply {
	n.t.Helper()
	return n.do(n.web, method, n.public+path, body, headers...)
}

// tell sends a request on the admin socket.
func (n *node) tell(method, path, body string, headers ...string) reply {
	n.t.Helper()
	return n.do(n.socket, method, "http://admin"+path, body, headers...)
}

func (n *node) do(c *http.Client, method, url, body string, headers ...string) reply {
	n.t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		n.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			req.Host = headers[i+1]
		} else {
			req.Header.Add(headers[i], headers[i+1])
		}
	}
	resp, err := c.Do(req)
	if err != nil {
		n.t.Fatalf("%s %s: %v", method, url, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		n.t.Fatalf("%s %s: %v", method, url, err)
	}
	r := reply{Response: resp, body: string(data)}
	if json.Unmarshal(data, &r.json) != nil {
		r.json = nil
	}
	return r
}

// want fails unless r has this status and, if code is not "", this code.
func (n *node) want(r reply, status int, code string) reply {
	n.t.Helper()
	got, _ := r.json["code"].(string)
	if e, ok := r.json["error"].(string); ok {
		got = e
	}
	if r.StatusCode != status || code != "" && got != code {
		n.t.Fatalf("%s %s answered %d %s; want %d %s: %s", r.Request.Method, r.Request.URL.Path, r.StatusCode, got, status, code, r.body)
	}
	return r
}

var (
	asForm = []string{"Content-Type", "application/x-www-form-urlencoded"}
	asJSON = []string{"Content-Type", "application/json"}
)

const exchange = "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange"

// open opens a task on the admin socket and gives its id and token.
func (n *node) open() (id, token string) {
	n.t.Helper()
	r := n.want(n.tell("POST", "/oauth2/token", exchange+"&profile=p&purpose=test", asForm...), 200, "")
	return r.json["task"].(string), r.json["access_token"].(string)
}

func TestS93WithoutCredentialsOnlyWhatIsPublicAnswers(t *testing.T) {
	n := start(t, server.Options{})
	n.eventually(func(e []map[string]any) bool { return len(e) > 0 }) // so there is a checkpoint
	public := []string{
		"serverMetadata", "openidConfiguration", "apiMetadata", "mcpTargetMetadata", "httpTargetMetadata", "jwks",
		"healthy", "ready", "openapi", "checkpoint", "anchor", "logKey", "tile", "decisionPoint",
	}
	for _, op := range n.check.Operations() {
		path := strings.NewReplacer("{path}", "0/000.p/1", "{target}", "orders", "{id}", "x", "{kid}", "x", "{tool}", "x").Replace(op.Path)
		body, headers := "", []string{"User-Agent", "GoogleHC/1.0"}
		switch op.Body {
		case "application/json":
			body, headers = "{}", append(headers, asJSON...)
		case "application/x-www-form-urlencoded":
			body, headers = exchange+"&token=x", append(headers, asForm...)
		}
		r := n.ask(op.Method, path, body, headers...)
		if slices.Contains(public, op.Operation) {
			switch {
			case r.StatusCode == 200, op.Operation == "tile": // there may be no such tile yet
			case op.Operation == "anchor" && r.StatusCode == 404 && strings.Contains(r.body, "/log/checkpoint"): // there are no witnesses
			default:
				t.Errorf("%s %s is public and answered %d", op.Method, path, r.StatusCode)
			}
			continue
		}
		if r.StatusCode != 401 && !(op.Operation == "issueToken" && r.StatusCode == 400) {
			t.Errorf("%s %s answered a stranger %d: %s", op.Method, path, r.StatusCode, r.body)
		}
		if strings.HasPrefix(path, "/v1") && len(r.Header["Www-Authenticate"]) != 2 {
			t.Errorf("%s %s names %q as the ways to authenticate", op.Method, path, r.Header["Www-Authenticate"])
		}
	}
	for _, path := range []string{
		"/health/../admin", "/healthz/../v1/tasks", "/admin", "/", "//healthz", "/healthz/", "/v1", "/metrics", "/debug/pprof/", "/%68ealthz", "/mcp/x", "/mcp",
	} {
		if status := n.raw("GET " + path + " HTTP/1.1\r\nHost: localhost\r\n\r\n"); status != 404 {
			t.Errorf("%s answered %d, want 404", path, status)
		}
	}
}

// raw sends a request as it stands: nothing on this side cleans it.
func (n *node) raw(request string) (status int) {
	n.t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(n.public, "http://"))
	if err != nil {
		n.t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, request); err != nil {
		n.t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		n.t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

func TestAnotherMethodIsRefusedWithTheOnesThereAre(t *testing.T) {
	n := start(t, server.Options{})
	for _, c := range []struct{ method, path, allow string }{
		{"POST", "/healthz", "GET, HEAD"},
		{"GET", "/oauth2/token", "POST"},
		{"PUT", "/v1/revocations", "GET, HEAD, POST"},
		{"GET", "/v1/revocations/x", "DELETE"},
		{"TRACE", "/v1/tasks", "GET, HEAD"},
		{"OPTIONS", "/oauth2/jwks", "GET, HEAD"},
		{"DELETE", "/v1/tasks/x", "GET, HEAD"},
	} {
		r := n.ask(c.method, c.path, "")
		if r.StatusCode != 405 || r.Header.Get("Allow") != c.allow || r.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s %s answered %d, Allow %q, %s", c.method, c.path, r.StatusCode, r.Header.Get("Allow"), r.Header.Get("Content-Type"))
		}
	}
	if r := n.ask("HEAD", "/healthz", ""); r.StatusCode != 200 || r.body != "" {
		t.Errorf("HEAD /healthz answered %d %q", r.StatusCode, r.body)
	}
}

func TestS48AnotherHostOrPageIsRefused(t *testing.T) {
	n := start(t, server.Options{})
	n.want(n.ask("GET", "/healthz", "", "Host", "evil"), 403, "")
	n.want(n.ask("GET", "/healthz", "", "Host", "mayfly.example.org"), 200, "")
	n.want(n.ask("GET", "/healthz", "", "Host", "inside.example:99"), 200, "")
	n.want(n.ask("GET", "/healthz", "", "Host", "localhost:1"), 200, "")
	n.want(n.ask("POST", "/oauth2/token", exchange, append(asForm, "Origin", "https://evil.example")...), 403, "")
	n.want(n.ask("GET", "/v1/tasks", "", "Origin", "https://evil.example"), 403, "")
	n.want(n.ask("GET", "/v1/tasks", "", "Origin", "null"), 403, "")
	n.want(n.ask("GET", "/v1/tasks", "", "Origin", issuer), 401, "")
	r := n.want(n.ask("GET", "/oauth2/jwks", "", "Origin", "https://evil.example"), 200, "")
	if r.Header.Get("Access-Control-Allow-Origin") != "*" || r.Header.Get("Access-Control-Allow-Credentials") != "" {
		t.Errorf("the key set answers a page with %v", r.Header)
	}
	if r := n.ask("GET", "/v1/tasks", "", "Origin", issuer); r.Header.Get("Access-Control-Allow-Origin") != "" {
		t.Error("/v1 may be read by pages")
	}
}

func TestS19AParameterTwiceIsRefusedWithOneRecord(t *testing.T) {
	n := start(t, server.Options{})
	r := n.want(n.ask("POST", "/oauth2/token", exchange+"&scope=a&scope=b", asForm...), 400, "invalid_request")
	for name, want := range map[string]string{"Cache-Control": "no-store", "Pragma": "no-cache", "Content-Type": "application/json"} {
		if got := r.Header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if r.Header.Get("DPoP-Nonce") == "" {
		t.Error("the token endpoint gave no nonce")
	}
	records := n.eventually(func(events []map[string]any) bool { return len(kinds(events, "authentication.failed")) > 0 })
	if got := kinds(records, "authentication.failed"); len(got) != 1 {
		t.Errorf("there are %d records of it: %v", len(got), got)
	}
}

func kinds(events []map[string]any, kind string) (of []map[string]any) {
	for _, e := range events {
		if e["kind"] == kind {
			of = append(of, e)
		}
	}
	return of
}

// eventually reads the log until ok, for at most ten seconds.
func (n *node) eventually(ok func([]map[string]any) bool) []map[string]any {
	n.t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		r := n.want(n.tell("GET", "/v1/events?limit=500", ""), 200, "")
		var page struct{ Events []map[string]any }
		if err := json.Unmarshal([]byte(r.body), &page); err != nil {
			n.t.Fatal(err)
		}
		if ok(page.Events) {
			return page.Events
		}
		if time.Now().After(deadline) {
			n.t.Fatalf("the log never held what was waited for: %s", r.body)
		}
		<-time.After(20 * time.Millisecond)
	}
}

func TestWhatIsMalformedIsRefusedByWhatIsWrongWithIt(t *testing.T) {
	n := start(t, server.Options{})
	_, token := n.open()
	auth := []string{"Authorization", "Bearer " + token}
	for name, c := range map[string]struct {
		method, path, body string
		headers            []string
		status             int
		code               string
	}{
		"no content type":      {"POST", "/oauth2/token", exchange, nil, 415, "invalid_request"},
		"JSON at the token":    {"POST", "/oauth2/token", "{}", asJSON, 415, "invalid_request"},
		"compressed":           {"POST", "/oauth2/token", exchange, append(asForm, "Content-Encoding", "gzip"), 415, "invalid_request"},
		"form over 32 KiB":     {"POST", "/oauth2/token", exchange + "&a=" + strings.Repeat("x", 32<<10), asForm, 413, "invalid_request"},
		"token in the query":   {"POST", "/oauth2/introspect?token=x", "token=x", asForm, 400, "invalid_request"},
		"no grant type":        {"POST", "/oauth2/token", "a=b", asForm, 400, "invalid_request"},
		"other grant type":     {"POST", "/oauth2/token", "grant_type=password", asForm, 400, "unsupported_grant_type"},
		"client secret":        {"POST", "/oauth2/token", exchange + "&client_secret=x", asForm, 401, "invalid_client"},
		"basic":                {"POST", "/oauth2/introspect", "token=x", append(asForm, "Authorization", "Basic eDp5"), 401, "invalid_client"},
		"introspect nobody":    {"POST", "/oauth2/introspect", "token=x", asForm, 401, "invalid_client"},
		"revoke nobody":        {"POST", "/oauth2/revoke", "token=x", asForm, 401, "invalid_client"},
		"two authorizations":   {"GET", "/v1/tasks", "", append(auth, "Authorization", "Bearer x"), 401, "invalid_token"},
		"a bad token":          {"GET", "/v1/tasks", "", []string{"Authorization", "Bearer x"}, 401, "invalid_token"},
		"unknown query":        {"GET", "/v1/tasks?access_token=x", "", auth, 400, ""},
		"query twice":          {"GET", "/v1/tasks?state=live&state=live", "", auth, 400, ""},
		"query with ;":         {"GET", "/v1/tasks?state=live;limit=1", "", auth, 400, ""},
		"limit of 0":           {"GET", "/v1/tasks?limit=0", "", auth, 400, ""},
		"limit of 501":         {"GET", "/v1/tasks?limit=501", "", auth, 400, ""},
		"a state that is none": {"GET", "/v1/tasks?state=dead", "", auth, 400, ""},
		"body where none is":   {"POST", "/v1/tasks/x/complete", `{"a":1}`, append(auth, asJSON...), 400, ""},
		"form at /v1":          {"POST", "/v1/delegations", "a=b", append(auth, asForm...), 415, ""},
		"text at /v1":          {"POST", "/v1/delegations", "{}", append(auth, "Content-Type", "text/plain"), 415, ""},
		"unknown member":       {"POST", "/v1/delegations", `{"profile":"p","purpose":"x","extra":1}`, append(auth, asJSON...), 400, ""},
		"member twice":         {"POST", "/v1/delegations", `{"profile":"p","profile":"q"}`, append(auth, asJSON...), 400, ""},
		"other case":           {"POST", "/v1/delegations", `{"Profile":"p"}`, append(auth, asJSON...), 400, ""},
		"trailing data":        {"POST", "/v1/delegations", `{} {}`, append(auth, asJSON...), 400, ""},
		"ttl without a unit":   {"POST", "/v1/delegations", `{"profile":"p","purpose":"x","ttl":"60"}`, append(auth, asJSON...), 400, ""},
		"negative ttl":         {"POST", "/v1/delegations", `{"profile":"p","purpose":"x","ttl":"-1m"}`, append(auth, asJSON...), 400, ""},
		"narrow to unsaid":     {"POST", "/v1/tasks/x/narrow", `{}`, append(auth, asJSON...), 400, ""},
		"revoke two kinds":     {"POST", "/v1/revocations", `{"human":"a","profile":"b"}`, append(auth, asJSON...), 400, ""},
		"revoke nothing":       {"POST", "/v1/revocations", `{}`, append(auth, asJSON...), 400, ""},
		"revoke all: false":    {"POST", "/v1/revocations", `{"all":false}`, append(auth, asJSON...), 400, ""},
		"S92 strings":          {"POST", "/v1/delegations", `{"grants":[` + strings.Repeat(`"",`, 100_000) + `""]}`, append(auth, asJSON...), 400, ""},
		"S92 over 1 MiB":       {"POST", "/v1/delegations", `{"grants":[` + strings.Repeat(`"",`, 1_000_000) + `""]}`, append(auth, asJSON...), 413, ""},
		"S92 depth":            {"POST", "/v1/delegations", strings.Repeat(`[`, 100_000), append(auth, asJSON...), 400, ""},
		"somebody else's task": {"GET", "/v1/tasks/task_00000000000000000000000000", "", auth, 404, ""},
		"no task":              {"GET", "/v1/tasks/nothing", "", auth, 404, ""},
		"the log":              {"GET", "/v1/events", "", auth, 404, ""},
		"entries":              {"GET", "/log/tile/entries/000.p/1", "", auth, 404, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := n.ask(c.method, c.path, c.body, c.headers...)
			got, _ := r.json["code"].(string)
			want := "application/problem+json"
			if strings.HasPrefix(c.path, "/oauth2") {
				got, _ = r.json["error"].(string)
				want = "application/json"
			}
			if r.StatusCode != c.status || c.code != "" && got != c.code || r.Header.Get("Content-Type") != want {
				t.Errorf("answered %d %s %s; want %d %s: %s", r.StatusCode, got, r.Header.Get("Content-Type"), c.status, c.code, r.body)
			}
			if r.Header.Get("Cache-Control") != "no-store" || r.Header.Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("headers %v", r.Header)
			}
		})
	}
	if r := n.ask("POST", "/oauth2/introspect", "token=x", append(asForm, "Authorization", "Basic eDp5")...); r.Header.Get("WWW-Authenticate") == "" {
		t.Error("a client that tried Basic is not told so")
	}
	if r := n.ask("POST", "/oauth2/introspect", "token=x", asForm...); r.Header.Get("WWW-Authenticate") != "" {
		t.Error("a client that tried no header is challenged for one")
	}
}

func TestS92TooManyHeadersAreRefused(t *testing.T) {
	n := start(t, server.Options{})
	var many, huge []string
	for i := range 101 {
		many = append(many, "X-A", fmt.Sprint(i))
	}
	n.want(n.ask("GET", "/healthz", "", many...), 400, "")
	for i := range 5000 {
		huge = append(huge, fmt.Sprintf("X-%d", i), "some value")
	}
	n.want(n.ask("GET", "/healthz", "", huge...), 431, "")
}

func TestATaskGoesThroughItsWholeLife(t *testing.T) {
	n := start(t, server.Options{})
	id, token := n.open()
	auth := []string{"Authorization", "Bearer " + token}

	r := n.want(n.ask("GET", "/v1/tasks/"+id, "", auth...), 200, "")
	if r.json["state"] != "live" || r.Header.Get("DPoP-Nonce") == "" {
		t.Errorf("the task reads %s", r.body)
	}
	n.want(n.ask("GET", "/v1/tasks?state=live&profile=p&limit=1", "", auth...), 200, "")
	n.want(n.ask("GET", "/v1/tasks/"+id+"/tree", "", auth...), 200, "")
	n.want(n.ask("GET", "/v1/tasks/"+id+"/events?limit=1", "", auth...), 200, "")
	n.want(n.ask("POST", "/v1/tasks/"+id+"/heartbeat", "", auth...), 200, "")
	n.want(n.ask("GET", "/v1/trace/"+id, "", auth...), 200, "")
	n.want(n.ask("GET", "/v1/search?agent="+id+"&since=2026-01-31T09:00:00Z&limit=1", "", auth...), 200, "")
	n.want(n.tell("GET", "/v1/status", ""), 200, "")
	n.want(n.tell("GET", "/v1/rules", ""), 200, "")
	n.want(n.ask("GET", "/v1/status", "", auth...), 404, "")
	n.want(n.ask("GET", "/v1/rules", "", auth...), 404, "")
	n.want(n.ask("GET", "/v1/search?since=yesterday", "", auth...), 400, "")
	n.want(n.ask("GET", "/v1/search?cursor=x", "", auth...), 400, "")
	r = n.want(n.ask("POST", "/v1/tasks/"+id+"/leases", `{"grant":"postgres:db:reader"}`, append(auth, asJSON...)...), 201, "")
	if credential, _ := r.json["credential"].(map[string]any); credential["password"] != "hunter2" || r.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("lent is %s with %v", r.body, r.Header)
	}
	n.want(n.ask("GET", "/v1/tasks/"+id+"/leases", "", auth...), 200, "")
	r = n.want(n.ask("DELETE", fmt.Sprintf("/v1/tasks/%s/leases/%v", id, r.json["lease"]), "", auth...), 200, "")
	if r.json["state"] != "returned" {
		t.Errorf("given back reads %s", r.body)
	}
	n.want(n.tell("GET", "/v1/tasks/"+id+"/certificate", ""), 409, "")
	r = n.want(n.ask("POST", "/v1/tasks/"+id+"/narrow", `{"grants":["http:orders:GET:/v1/*"]}`, append(auth, asJSON...)...), 200, "")
	if grants, _ := r.json["grants"].([]any); len(grants) != 1 {
		t.Errorf("narrowed to %v", r.json["grants"])
	}
	r = n.want(n.tell("POST", "/oauth2/introspect", "token="+token, asForm...), 200, "")
	if r.json["active"] != true || r.json["iss"] != issuer {
		t.Errorf("introspection says %s", r.body)
	}
	r = n.want(n.ask("POST", "/v1/tasks/"+id+"/complete", "{}", append(auth, asJSON...)...), 200, "")
	if r.json["reason"] != "completed" {
		t.Errorf("completed reads %s", r.body)
	}
	n.want(n.ask("GET", "/v1/tasks/"+id, "", auth...), 401, "invalid_token")
	r = n.want(n.tell("POST", "/oauth2/introspect", "token="+token, asForm...), 200, "")
	if r.json["active"] != false || len(r.json) != 1 {
		t.Errorf("introspection of a dead token says %s", r.body)
	}

	r = n.want(n.tell("GET", "/v1/tasks/"+id+"/certificate", ""), 200, "")
	if r.Header.Get("Content-Type") != "application/jwt" || strings.Count(r.body, ".") != 2 {
		t.Errorf("the certificate comes as %q with %v", r.body, r.Header)
	}

	second, other := n.open()
	r = n.want(n.tell("POST", "/v1/tasks/"+second+"/revoke", ""), 200, "")
	if r.json["reason"] != "revoked" {
		t.Errorf("revoked reads %s", r.body)
	}
	r = n.want(n.tell("POST", "/oauth2/revoke", "token="+other, asForm...), 200, "")
	if r.body != "{}" {
		t.Errorf("revocation says %s", r.body)
	}
	n.want(n.tell("POST", "/oauth2/revoke", "token=unknown&token_type_hint=rubbish", asForm...), 200, "")

	r = n.want(n.tell("POST", "/v1/delegations", `{"profile":"p","purpose":"x","ttl":"1m","task_ttl":"5m","uses":2}`, asJSON...), 201, "")
	if ticket, _ := r.json["ticket"].(string); !strings.HasPrefix(ticket, "mft_") {
		t.Errorf("the ticket is %s", r.body)
	}

	n.humansAndDecisions()

	r = n.want(n.tell("POST", "/v1/revocations", `{"profile":"p"}`, asJSON...), 201, "")
	rev, _ := r.json["revocation"].(map[string]any)
	n.want(n.tell("GET", "/v1/revocations", ""), 200, "")
	n.want(n.tell("POST", "/oauth2/token", exchange+"&profile=p&purpose=test", asForm...), 400, "access_denied")
	n.want(n.tell("DELETE", fmt.Sprintf("/v1/revocations/%v", rev["id"]), ""), 204, "")
	n.want(n.tell("DELETE", "/v1/revocations/nothing", ""), 404, "")

	n.want(n.tell("POST", "/v1/revocations", `{"human":"zoe"}`, asJSON...), 201, "")
	n.want(n.tell("POST", "/v1/erasures", `{"human":""}`, asJSON...), 400, "")
	n.want(n.tell("POST", "/v1/erasures", `{"human":"nobody"}`, asJSON...), 404, "")
	r = n.want(n.tell("POST", "/v1/erasures", `{"human":"zoe"}`, asJSON...), 200, "")
	if standing, _ := r.json["standing"].([]any); len(standing) != 1 {
		t.Errorf("a revocation stands by her name: %s", r.body)
	}

	r = n.want(n.ask("GET", "/oauth2/jwks", ""), 200, "")
	kid := r.json["keys"].([]any)[0].(map[string]any)["kid"].(string)
	n.want(n.tell("POST", "/v1/keys/"+url.PathEscape(kid)+"/compromise", ""), 204, "")
	n.want(n.tell("POST", "/v1/keys/nothing/compromise", ""), 404, "")

	events := n.eventually(func(e []map[string]any) bool { return len(kinds(e, "key.compromised")) == 1 })
	n.want(n.tell("GET", fmt.Sprintf("/v1/events?after=%v", events[len(events)-1]["position"]), ""), 200, "")
	for _, path := range []string{"/log/checkpoint", "/log/vkey", "/healthz", "/readyz", "/openapi.json", "/.well-known/oauth-authorization-server", "/.well-known/authzen-configuration",
		"/.well-known/openid-configuration", "/.well-known/oauth-protected-resource", "/.well-known/oauth-protected-resource/mcp/x",
		"/.well-known/oauth-protected-resource/http/orders"} {
		n.want(n.ask("GET", path, ""), 200, "")
	}
	signed := n.ask("GET", "/log/checkpoint", "").body
	n.want(n.ask("GET", "/log/anchor", ""), 404, "")
	cosigned := signed + "— witness.example/w AAAA\n"
	if err := n.db.Keep(t.Context(), func(b *store.Books) { b.MoveAnchor(1, []byte(cosigned), time.Now()) }); err != nil {
		t.Fatal(err)
	}
	r = n.want(n.ask("GET", "/log/anchor", ""), 200, "")
	if r.body != cosigned || r.Header.Get("Content-Type") != "text/plain; charset=utf-8" {
		t.Errorf("the anchor comes as %q with %v", r.body, r.Header)
	}
	checkpoint := strings.Split(signed, "\n")
	r = n.want(n.ask("GET", "/log/tile/0/000.p/"+checkpoint[1], ""), 200, "")
	if r.Header.Get("Content-Type") != "application/octet-stream" || strings.Contains(r.Header.Get("Cache-Control"), "immutable") {
		t.Errorf("a partial tile comes with %v", r.Header)
	}
	r = n.want(n.tell("GET", "/log/tile/entries/000.p/"+checkpoint[1], ""), 200, "")
	if r.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("leaves may be kept by caches: %v", r.Header)
	}
	// A long answer arrives before it was looked at; one more on the same connection
	// does not.
	n.want(n.tell("GET", "/healthz", ""), 200, "")
	if unseen := n.check.Unseen(); len(unseen) > 0 {
		t.Errorf("operations nothing here succeeded with: %v", unseen)
	}
}

// shelf is an outside system that lends to whoever asks.
type shelf struct{}

func (shelf) Issue(_ context.Context, l broker.Loan) (broker.Credential, error) {
	return broker.Credential{Principal: "p", Until: l.Until, Values: map[string]mayfly.Secret{"password": mayfly.NewSecret("hunter2")}}, nil
}
func (shelf) Revoke(context.Context, mayfly.LeaseID) error   { return nil }
func (shelf) Lent(context.Context) ([]mayfly.LeaseID, error) { return nil, nil }

func TestTheLogIsStreamed(t *testing.T) {
	n := start(t, server.Options{})
	req, err := http.NewRequestWithContext(t.Context(), "GET", "http://admin/v1/events?after=-1", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "text/event-stream")
	resp, err := n.socket.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("answered %d %s", resp.StatusCode, resp.Header.Get("Content-Type"))
	}
	id, _ := n.open()
	last := -1
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		if text, ok := strings.CutPrefix(line, "id: "); ok {
			var position int
			if _, err := fmt.Sscan(text, &position); err != nil || position != last+1 {
				t.Fatalf("after %d comes %q", last, text)
			}
			last = position
		}
		if strings.HasPrefix(line, "data: ") && strings.Contains(line, id) {
			return
		}
	}
	t.Fatalf("the stream ended after %d without the task: %v", last, lines.Err())
}

func TestStrangersLearnNothingOfTargets(t *testing.T) {
	n := start(t, server.Options{})
	there := n.want(n.ask("GET", "/.well-known/oauth-protected-resource/http/orders", ""), 200, "")
	not := n.want(n.ask("GET", "/.well-known/oauth-protected-resource/http/nothin", ""), 200, "")
	if strings.ReplaceAll(there.body, "orders", "nothin") != not.body {
		t.Errorf("of a target that is: %s\nof one that is not: %s", there.body, not.body)
	}
	if there.json["resource"] != issuer+"/http/orders" {
		t.Errorf("the resource is %v", there.json["resource"])
	}
	for _, name := range []string{"A", "-a", "a%2Fb", "%2e%2e", strings.Repeat("a", 64), "a/b"} {
		n.want(n.ask("GET", "/.well-known/oauth-protected-resource/http/"+name, ""), 404, "")
	}
}

func TestMetadataNamesOnlyWhatAnswers(t *testing.T) {
	n := start(t, server.Options{})
	r := n.want(n.ask("GET", "/.well-known/oauth-authorization-server", ""), 200, "")
	for name, v := range r.json {
		endpoint, ok := v.(string)
		if !ok || !strings.HasSuffix(name, "_endpoint") && name != "jwks_uri" {
			continue
		}
		if got := n.ask("GET", strings.TrimPrefix(endpoint, issuer), ""); got.StatusCode == 404 {
			t.Errorf("%s is %s, where nothing is", name, endpoint)
		}
	}
	if alias := n.ask("GET", "/.well-known/openid-configuration", ""); alias.body != r.body {
		t.Error("the two names of the metadata answer differently")
	}
}

func TestLimitsHoldWhereTheyShould(t *testing.T) {
	n := start(t, server.Options{Limits: server.Limits{Loopback: true, Unauthenticated: server.Rate{PerSecond: 1, Burst: 3}}})
	_, token := n.open() // the socket has no limits
	n.want(n.ask("GET", "/v1/tasks", "", "Authorization", "Bearer "+token), 200, "")
	var r reply
	for range 4 {
		r = n.ask("GET", "/oauth2/jwks", "")
	}
	n.want(r, 429, "")
	if r.Header.Get("Retry-After") != "1" {
		t.Errorf("Retry-After is %q", r.Header.Get("Retry-After"))
	}
	n.want(n.ask("GET", "/v1/tasks", "", "Authorization", "Bearer "+token), 200, "")
	n.want(n.ask("GET", "/v1/tasks", "", "Authorization", "Bearer other"), 429, "")
	n.want(n.ask("GET", "/oauth2/jwks", "", "Authorization", "Bearer made up"), 429, "")
	n.want(n.ask("POST", "/oauth2/token", exchange+"&subject_token=x", asForm...), 429, "temporarily_unavailable")
	for range 20 {
		n.want(n.ask("GET", "/healthz", ""), 200, "")
	}
	for range 20 {
		n.want(n.tell("GET", "/v1/tasks", ""), 200, "")
	}
}

func TestLoopbackIsNotLimited(t *testing.T) {
	n := start(t, server.Options{})
	for range 50 {
		n.want(n.ask("GET", "/oauth2/jwks", ""), 200, "")
	}
}

func TestS85TheAccessLogIsOneLineARequestAndHoldsNoSecret(t *testing.T) {
	n := start(t, server.Options{})
	_, token := n.open()
	r := n.ask("GET", "/v1/tasks/a%0d%0ab%1b%5b31m?access_token=canary-in-query", "",
		"User-Agent", "evil \u2028 \u202e", "Authorization", "Bearer "+token)
	want := r.Header.Get("Mayfly-Request-Id")
	found := 0
	deadline := time.Now().Add(10 * time.Second)
	for found == 0 && time.Now().Before(deadline) { // the line follows the answer
		for _, line := range n.said.all() {
			var entry map[string]any
			if err := json.Unmarshal([]byte(line), &entry); err != nil {
				t.Fatalf("a line is no JSON: %q", line)
			}
			if entry["msg"] == "request" && entry["request"] == want {
				found++
				if entry["route"] != "/v1/tasks/{id}" || entry["status"] != 400.0 || entry["source"] != "127.0.0.1" {
					t.Errorf("the line is %s", line)
				}
			}
		}
	}
	if found != 1 {
		t.Errorf("%d lines for one request", found)
	}
	for _, secret := range []string{"canary-in-query", token, token[:40]} {
		if strings.Contains(strings.Join(n.said.all(), "\n"), secret) {
			t.Errorf("the log holds %.20s…", secret)
		}
	}
}

func TestTheGatewaySeesWhoIsBehindATrustedProxyAndWhatWasAsked(t *testing.T) {
	var seen []string
	gateway := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ip, _, err := net.SplitHostPort(r.RemoteAddr)
		if err != nil {
			t.Error(err)
		}
		seen = append(seen, ip+" "+r.RequestURI+" "+r.Header.Get("X-Forwarded-For")+r.Header.Get("Forwarded"))
		if err := http.NewResponseController(w).Flush(); err != nil {
			t.Errorf("an answer cannot be streamed: %v", err)
		}
	})
	proxies := []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
	for _, c := range []struct {
		trusted []netip.Prefix
		path    string
		want    string
	}{
		{proxies, "/http/orders//a/../b?x=;", "192.0.2.7 /http/orders//a/../b?x=; "},
		{nil, "/mcp/bank", "127.0.0.1 /mcp/bank "},
	} {
		t.Run(c.path, func(t *testing.T) {
			seen = nil
			n := start(t, server.Options{Gateway: gateway, TrustedProxies: c.trusted})
			n.raw("GET " + c.path + " HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 198.51.100.1, 192.0.2.7\r\nForwarded: for=x\r\n\r\n")
			if len(seen) != 1 || seen[0] != c.want {
				t.Errorf("the gateway saw %q, want %q", seen, c.want)
			}
			n.want(n.ask("GET", "/mcp/bank", "", "Host", "evil"), 403, "")
			n.want(n.ask("GET", "/mcp/bank", "", "Origin", "https://evil.example"), 403, "")
			if len(seen) != 1 {
				t.Errorf("the gateway saw what was refused: %q", seen)
			}
		})
	}
}

func TestAPanicIsAnsweredAndLoggedAndAnAbortCutsTheConnection(t *testing.T) {
	n := start(t, server.Options{Gateway: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/mcp/late":
			io.WriteString(w, "half")
			http.NewResponseController(w).Flush()
			panic("late")
		case "/mcp/abort":
			panic(http.ErrAbortHandler)
		}
		panic("a secret detail")
	})})
	r := n.want(n.ask("GET", "/mcp/x", ""), 500, "")
	if strings.Contains(r.body, "secret") || r.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("a panic shows %s", r.body)
	}
	if !strings.Contains(strings.Join(n.said.all(), "\n"), "a secret detail") {
		t.Error("the panic is not in the log")
	}
	for _, path := range []string{"/mcp/late", "/mcp/abort"} {
		resp, err := n.web.Get(n.public + path)
		if err == nil {
			_, err = io.ReadAll(resp.Body)
			resp.Body.Close()
		}
		if err == nil {
			t.Errorf("%s looks like a whole answer", path)
		}
	}
}

func TestFailedClientsAreLockedOut(t *testing.T) {
	n := start(t, server.Options{Limits: server.Limits{
		Loopback: true, ClientFailures: 3, Unauthenticated: server.Rate{PerSecond: 100, Burst: 100},
	}})
	body := "token=x&client_id=c&client_assertion=x&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer"
	for range 3 {
		n.want(n.ask("POST", "/oauth2/introspect", body, asForm...), 401, "invalid_client")
	}
	r := n.want(n.ask("POST", "/oauth2/introspect", body, asForm...), 429, "")
	if r.Header.Get("Retry-After") != "60" {
		t.Errorf("Retry-After is %q", r.Header.Get("Retry-After"))
	}
	n.want(n.ask("POST", "/oauth2/introspect", strings.Replace(body, "client_id=c", "client_id=d", 1), asForm...), 401, "invalid_client")
}

func TestThePublicListenerSpeaksHTTP2AndNoOldTLS(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Proto) }), ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
	server.Harden(s)
	var running sync.WaitGroup
	running.Go(func() {
		s.Serve(tls.NewListener(tcp, server.TLS(tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key})))
	})
	defer running.Wait()
	defer s.Close()
	get := func(c *tls.Config) (string, error) {
		c.RootCAs, c.ServerName = x509.NewCertPool(), "localhost"
		root, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		c.RootCAs.AddCert(root)
		transport := &http.Transport{TLSClientConfig: c, ForceAttemptHTTP2: true}
		defer transport.CloseIdleConnections()
		resp, err := (&http.Client{Transport: transport}).Get("https://" + tcp.Addr().String())
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		data, err := io.ReadAll(resp.Body)
		return string(data), err
	}
	if proto, err := get(&tls.Config{}); err != nil || proto != "HTTP/2.0" {
		t.Errorf("over TLS it speaks %q: %v", proto, err)
	}
	if _, err := get(&tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}); err == nil {
		t.Error("TLS 1.1 is accepted")
	}
	cbc := &tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}}
	if _, err := get(cbc); err == nil {
		t.Error("a CBC suite is accepted")
	}
}
