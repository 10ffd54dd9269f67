// Package mayflytest is a whole system in one call: a server with its store on
// either engine, an identity provider, an MCP server and an HTTP API that
// remember what reached them. Nothing of ours is replaced by a stand-in. Start at
// [New].
package mayflytest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/client"
	"github.com/mayfly-id/mayfly/internal/attest"
	"github.com/mayfly-id/mayfly/internal/authority"
	"github.com/mayfly-id/mayfly/internal/console"
	"github.com/mayfly-id/mayfly/internal/eventlog"
	"github.com/mayfly-id/mayfly/internal/gateway"
	"github.com/mayfly-id/mayfly/internal/mayflytest/idp"
	"github.com/mayfly-id/mayfly/internal/mayflytest/pgtest"
	"github.com/mayfly-id/mayfly/internal/policy"
	"github.com/mayfly-id/mayfly/internal/server"
	"github.com/mayfly-id/mayfly/internal/store"
)

// The audiences of the provider's three sources.
const (
	Humans    = "mayfly"
	Services  = "mayfly-ci"
	Workloads = "mayfly-agents"
	Operators = "mayfly-operators" // humans, with tokens that no agent is handed
)

// OnEachEngine runs a test on SQLite and on PostgreSQL.
func OnEachEngine(t *testing.T, test func(t *testing.T, dsn string)) {
	t.Run("sqlite", func(t *testing.T) { test(t, SQLite(t)) })
	t.Run("postgres", func(t *testing.T) { test(t, Postgres(t)) })
}

// SQLite is the DSN of an empty database in a directory of its own.
func SQLite(t testing.TB) string { return "sqlite://" + filepath.Join(t.TempDir(), "mayfly.db") }

// Postgres is the DSN of an empty database in the test process's own cluster.
func Postgres(t testing.TB) string { return pgtest.New(t) }

// Options differ from a plain system. The zero value is one node on SQLite.
type Options struct {
	DSN  string               // "" is SQLite, or that of Beside
	Wall func() time.Time     // the node's wall clock
	Boot func() time.Duration // the node's boot clock
	// Beside, if set, is a system whose store, issuer, provider and upstreams
	// this node shares: a second node of the same installation.
	Beside *System
	// Change edits the configuration before the server starts on it.
	Change func(*authority.Bundle)
	// Policies are Cedar files by name.
	Policies map[string]string
	// Legacy makes the MCP upstream one with sessions.
	Legacy bool
	// Sources are further sources.
	Sources []attest.Source
	Clients []attest.Client
	// SignIn has humans sign in at the provider and serves them the console.
	SignIn bool
}

// System is one node and the world around it.
type System struct {
	T         testing.TB
	DSN       string
	Seal      [32]byte
	Issuer    string // the public origin all nodes share
	URL       string // where this node listens
	Socket    string
	IDP       *idp.Provider
	Login     *idp.Login // of Options.SignIn
	Bank      *Upstream  // MCP target "bank"
	Orders    *Upstream  // HTTP target "orders"
	DB        *store.DB
	Log       *eventlog.Log
	Authority *authority.Authority
	Said      *Lines // what the server logged

	stop func()
}

// upstreamKey is what the gateway attaches for both targets; agents never see it.
const upstreamKey = "upstream-canary-key-7f3a"

// New starts a system. It stops, and its log is verified, when the test ends.
func New(t testing.TB, o Options) *System {
	t.Helper()
	s := &System{T: t, DSN: o.DSN, Said: &Lines{}}
	if o.Beside != nil {
		b := o.Beside
		s.Seal, s.Issuer, s.IDP, s.Login, s.Bank, s.Orders = b.Seal, b.Issuer, b.IDP, b.Login, b.Bank, b.Orders
		if s.DSN == "" {
			s.DSN = b.DSN
		}
	} else {
		if s.DSN == "" {
			s.DSN = SQLite(t)
		}
		s.Seal = newSeal()
		s.IDP = idp.New(t)
		s.IDP.Now = o.Wall
		if o.SignIn {
			s.Login = s.IDP.SignsIn()
		}
		s.Bank, s.Orders = newBank(t, !o.Legacy), newOrders(t)
	}
	s.Start(o)
	t.Cleanup(s.Stop)
	return s
}

// Start starts the node; New has done so. After Stop it is a restart.
func (s *System) Start(o Options) {
	t := s.T
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if s.URL != "" { // a restart keeps its address
		listener.Close()
		listener, err = net.Listen("tcp", strings.TrimPrefix(s.URL, "http://"))
	}
	must(t, err)
	s.URL = "http://" + listener.Addr().String()
	if s.Issuer == "" {
		s.Issuer = s.URL
	}
	logger := slog.New(slog.NewJSONHandler(s.Said, nil))
	ctx := context.Background()
	s.DB, err = store.Open(ctx, store.Options{DSN: s.DSN, Seal: s.Seal, Node: s.URL, Logger: logger})
	must(t, err)
	s.Log, err = eventlog.Open(ctx, s.DB, eventlog.Options{Origin: "mayfly.test/log", Logger: logger})
	must(t, err)
	bundle := s.Bundle(o)
	s.Authority, err = authority.New(ctx, authority.Config{
		DB: s.DB, Log: s.Log, Bundle: bundle, Node: s.URL, Version: "test", Logger: logger, Wall: o.Wall, Boot: o.Boot,
	})
	must(t, err)
	gw := gateway.New(s.Authority, gateway.Options{Logger: logger, SessionKey: s.DB.Key("mcp session")})
	options := server.Options{Logger: logger, Gateway: gw}
	work, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	pages, err := console.New(s.Authority, console.Options{Logger: logger})
	must(t, err)
	if o.SignIn {
		options.Console = pages
		running.Go(func() { pages.Run(work) })
	}

	public := &http.Server{Handler: server.New(s.Authority, options)}
	server.Harden(public)
	dir, err := os.MkdirTemp("", "mf") // a socket's path must be short
	must(t, err)
	s.Socket = filepath.Join(dir, "admin.sock")
	socket, err := net.Listen("unix", s.Socket)
	must(t, err)
	admin := &http.Server{Handler: server.NewAdmin(s.Authority, options), ConnContext: server.WithPeer}
	server.Harden(admin)

	running.Go(func() {
		if err := s.Log.Run(work); err != nil && work.Err() == nil {
			t.Errorf("the log's loop ended: %v", err)
		}
	})
	running.Go(func() { s.Authority.Run(work) })
	running.Go(func() { public.Serve(listener) })
	running.Go(func() { admin.Serve(socket) })
	s.stop = func() {
		gw.Close()
		pages.Close()
		public.Close()
		admin.Close()
		cancel()
		running.Wait()
		if err := s.DB.Close(); err != nil {
			t.Errorf("the store did not close: %v", err)
		}
		os.RemoveAll(dir)
	}
}

// Stop stops the node and verifies the log it leaves. A second Stop does nothing.
func (s *System) Stop() {
	if s.stop == nil {
		return
	}
	s.stop()
	s.stop = nil
	s.VerifyLog()
}

// VerifyLog checks the whole log as an operator would, from the store alone.
func (s *System) VerifyLog() {
	s.T.Helper()
	db, err := store.Open(context.Background(), store.Options{
		DSN: s.DSN, Seal: s.Seal, Node: "verify", ReadOnly: true, Logger: slog.New(slog.DiscardHandler),
	})
	if e := mayfly.AsError(err); err != nil && e.Code == "locked" {
		return // another node of the test still runs on it and verifies when it stops
	}
	must(s.T, err)
	defer db.Close()
	report, err := eventlog.Verify(context.Background(), db)
	must(s.T, err)
	if !report.OK() {
		s.T.Errorf("the log does not verify:\n%s", report)
	}
}

// Bundle is the configuration of a system: three sources of one provider, two
// targets, and three profiles: invoice (humans of accounts-payable and services
// delegate to it), reader (below invoice), and open (key optional).
func (s *System) Bundle(o Options) *authority.Bundle {
	t := s.T
	t.Helper()
	sources := append([]attest.Source{
		{Name: "corp", Kind: "oidc", Issuer: s.IDP.URL(), Audience: Humans, Operators: Operators, Subject: mayfly.Human, ClaimGroups: "groups", Loopback: true, SignIn: o.SignIn},
		{Name: "ci", Kind: "oidc", Issuer: s.IDP.URL(), Audience: Services, Subject: mayfly.Service, Loopback: true},
		{Name: "cluster", Kind: "oidc", Issuer: s.IDP.URL(), Audience: Workloads, Subject: mayfly.Workload, Loopback: true},
		{Name: "local", Kind: "unix", Subject: mayfly.Workload},
	}, o.Sources...)
	src, err := attest.New(sources, o.Clients, attest.Options{Issuer: s.Issuer, Now: o.Wall})
	must(t, err)
	t.Cleanup(src.Close)
	credential := &mayfly.TargetCredential{Header: "Authorization", Value: mayfly.NewSecret("Bearer " + upstreamKey)}
	clients := map[string]authority.ClientInfo{}
	for _, c := range o.Clients {
		clients[c.ID] = authority.ClientInfo{Audience: c.Audience}
	}
	b := &authority.Bundle{
		Hash: "test-bundle", TrustDomain: "example.org", Issuer: s.Issuer, Sources: src, Clients: clients,
		Targets: map[string]*mayfly.Target{
			"bank":   {Name: "bank", Kind: "mcp", URL: s.Bank.URL, Credential: credential},
			"orders": {Name: "orders", Kind: "http", URL: s.Orders.URL, Credential: credential},
		},
		Profiles: map[string]*mayfly.Profile{
			"invoice": {
				Name: "invoice", Owner: "finance@example.org", Class: mayfly.Ephemeral, Risk: mayfly.RiskMedium, Authority: mayfly.AuthorityProfile,
				Delegators: []mayfly.DelegatorRule{
					{Human: &mayfly.HumanRule{Groups: []string{"accounts-payable"}}},
					{Service: &mayfly.SourceRule{Source: "ci"}}, {Service: &mayfly.SourceRule{Source: "local"}},
				},
				Attest: []mayfly.AttestRule{
					{Source: &mayfly.SourceRule{Source: "cluster", Match: map[string]string{"sub": "invoice-*"}}},
					{Source: &mayfly.SourceRule{Source: "local"}}, {Client: "https://agent.example/client"},
				},
				Grants: Grants(t, "mcp:bank:list_invoices",
					`{"type":"mayfly_grant","grant":"mcp:bank:pay_invoice","where":{"amount":{"max":500}},"budget":{"calls":10}}`,
					"http:orders:GET:/v1/*", "http:orders:POST:/v1/*", "http:orders:GET:/stream", "http:orders:GET:/redirect", "http:orders:GET:/unauthorized"),
				Default:    Grants(t, "mcp:bank:list_invoices"),
				Lifetime:   mayfly.Lifetime{Idle: 2 * time.Minute, Default: 15 * time.Minute, Max: time.Hour},
				Delegation: mayfly.DelegationRule{Depth: 5, Children: 100, To: []string{"reader", "invoice"}},
			},
			"reader": {
				Name: "reader", Owner: "finance@example.org", Class: mayfly.Ephemeral, Risk: mayfly.RiskLow, Authority: mayfly.AuthorityProfile,
				Delegators: []mayfly.DelegatorRule{{Agent: "invoice"}, {Agent: "open"}},
				Attest:     []mayfly.AttestRule{{Source: &mayfly.SourceRule{Source: "cluster"}}, {None: true}},
				Grants:     Grants(t, "mcp:bank:list_invoices", "mcp:bank:pay_invoice"),
				Default:    Grants(t, "mcp:bank:list_invoices"),
				Lifetime:   mayfly.Lifetime{Idle: time.Minute, Default: 5 * time.Minute, Max: 15 * time.Minute},
			},
			"open": {
				Name: "open", Owner: "finance@example.org", Class: mayfly.Ephemeral, Risk: mayfly.RiskLow, Authority: mayfly.AuthorityProfile,
				Delegators: []mayfly.DelegatorRule{{Human: &mayfly.HumanRule{}}},
				Attest:     []mayfly.AttestRule{{Source: &mayfly.SourceRule{Source: "cluster"}}},
				Grants:     Grants(t, "mcp:bank:*", "http:orders:*"), Default: Grants(t, "mcp:bank:*", "http:orders:*"),
				Lifetime:   mayfly.Lifetime{Idle: 10 * time.Minute, Default: 15 * time.Minute, Max: time.Hour},
				Delegation: mayfly.DelegationRule{Depth: 1, Children: 2, To: []string{"reader"}}, KeyOptional: true,
			},
		},
	}
	// The invoice profile's own delegation names itself, so that chains can be
	// as deep as they may be.
	b.Profiles["invoice"].Delegators = append(b.Profiles["invoice"].Delegators, mayfly.DelegatorRule{Agent: "invoice"})
	if o.Change != nil {
		o.Change(b)
	}
	b.PolicyFiles = map[string][]byte{}
	for name, text := range o.Policies {
		b.PolicyFiles[name] = []byte(text)
	}
	b.Schema = schemaOf(b.Targets)
	b.Policies, err = policy.Parse(b.PolicyFiles, b.Schema)
	must(t, err)
	return b
}

// schemaOf are the facts that targets declare.
func schemaOf(targets map[string]*mayfly.Target) policy.Schema {
	s := policy.Schema{Facts: map[string]mayfly.FactType{}}
	add := func(facts []mayfly.Fact) {
		for _, f := range facts {
			s.Facts[f.Name] = f.Type
		}
	}
	for _, t := range targets {
		add(t.Facts)
		for _, tool := range t.Tools {
			add(tool.Facts)
		}
		for _, r := range t.Routes {
			add(r.Facts)
		}
	}
	return s
}

func newSeal() (key [32]byte) {
	rand.Read(key[:])
	return key
}

// Grants parses grants in short or long form.
func Grants(t testing.TB, texts ...string) []mayfly.Grant {
	t.Helper()
	grants := make([]mayfly.Grant, len(texts))
	for i, text := range texts {
		var err error
		if strings.HasPrefix(text, "{") {
			grants[i], err = mayfly.ParseGrantObject([]byte(text))
		} else {
			grants[i], err = mayfly.ParseGrant(text)
		}
		must(t, err)
	}
	return grants
}

// Human is a token of a human of the group accounts-payable.
func (s *System) Human(id string) string {
	return s.IDP.Issue(map[string]any{"aud": Humans, "sub": id, "groups": []string{"accounts-payable"}})
}

// Approver is a token in a human's own hands, of somebody in these groups: it
// answers approvals and opens nothing.
func (s *System) Approver(id string, groups ...string) string {
	return s.IDP.Issue(map[string]any{"aud": Operators, "sub": id, "groups": groups})
}

// Evidence is a workload's token.
func (s *System) Evidence(sub string) string {
	return s.IDP.Issue(map[string]any{"aud": Workloads, "sub": sub})
}

// Client calls this node over HTTP, with no token.
func (s *System) Client() *client.Client {
	c, err := client.New(client.Options{Address: s.URL, Issuer: s.Issuer})
	must(s.T, err)
	return c
}

// Operator calls this node over the admin socket.
func (s *System) Operator() *client.Client {
	c, err := client.New(client.Options{Address: "unix://" + s.Socket})
	must(s.T, err)
	return c
}

// Opening is the request that opens a task for alice under invoice, with a new
// key; edit it for another.
func (s *System) Opening(grants ...string) client.ExchangeRequest {
	key, err := client.NewKey()
	must(s.T, err)
	r := client.ExchangeRequest{
		SubjectToken: s.Human("alice"), SubjectTokenType: client.TypeJWT,
		ActorToken: s.Evidence("invoice-1"), ActorTokenType: client.TypeJWT,
		Profile: "invoice", Purpose: "pay invoices", Key: key,
	}
	if len(grants) > 0 {
		r.Grants = Grants(s.T, grants...)
	}
	return r
}

// Open opens a task.
func (s *System) Open(r client.ExchangeRequest) *client.Session {
	s.T.Helper()
	session, err := s.Client().Open(context.Background(), r, nil)
	must(s.T, err)
	return session
}

// Child opens a task below parent, by exchange with the parent's token and key.
func (s *System) Child(parent *client.Session, profile string, grants ...string) (client.Token, error) {
	own, err := parent.Token(context.Background(), "")
	must(s.T, err)
	r := client.ExchangeRequest{
		SubjectToken: own.Text.Reveal(), SubjectTokenType: client.TypeAccessToken,
		ActorToken: s.Evidence("invoice-child"), ActorTokenType: client.TypeJWT,
		Profile: profile, Purpose: "a part of it", Key: parent.Key(),
	}
	if len(grants) > 0 {
		r.Grants = Grants(s.T, grants...)
	}
	return s.Client().Exchange(context.Background(), r)
}

// Records are the records there are, of the kinds named or of all, oldest first,
// with their bodies; also those that have no position yet.
func (s *System) Records(kinds ...string) []client.Event {
	s.T.Helper()
	var out []client.Event
	// Wait until everything committed so far has a position: then the feed is
	// whole.
	s.Eventually("the log catches up", func() bool {
		n, err := s.DB.Unsequenced(context.Background(), 1)
		must(s.T, err)
		return len(n) == 0
	})
	for after := int64(-1); ; {
		page, next, err := s.Operator().Feed(context.Background(), after, 500)
		must(s.T, err)
		if len(page) == 0 {
			return out
		}
		for _, e := range page {
			if len(kinds) == 0 || contains(kinds, e.Kind) {
				out = append(out, e)
			}
		}
		after = next
	}
}

func contains(list []string, s string) bool {
	for _, one := range list {
		if one == s {
			return true
		}
	}
	return false
}

// Refusals waits for records of refusals beyond the first n, and gives those
// beyond: refused requests, denied calls, and counted failures.
func (s *System) Refusals(n int) []client.Event {
	s.T.Helper()
	var found []client.Event
	s.Eventually("a refusal is recorded", func() bool {
		found = found[:0]
		for _, e := range s.Records("request.refused", "authentication.failed", "call.decided") {
			if e.Kind == "call.decided" && e.Term == "" {
				continue
			}
			found = append(found, e)
		}
		return len(found) > n
	})
	return found[n:]
}

// CountRefusals is how many refusals are recorded now.
func (s *System) CountRefusals() int {
	n := 0
	for _, e := range s.Records("request.refused", "authentication.failed", "call.decided") {
		if e.Kind != "call.decided" || e.Term != "" {
			n++
		}
	}
	return n
}

// Eventually waits until done, and fails the test if that takes ten seconds.
func (s *System) Eventually(what string, done func() bool) {
	s.T.Helper()
	Eventually(s.T, 10*time.Second, what, done)
}

// Eventually waits until done, and fails the test after limit.
func Eventually(t testing.TB, limit time.Duration, what string, done func() bool) {
	t.Helper()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-deadline.C:
			t.Fatalf("waited %s, and it never happened that %s", limit, what)
		case <-tick.C:
		}
	}
}

// Answer is an HTTP answer, read whole.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// Message is the JSON of the answer: its body, or the response on an event
// stream, which is its last event.
func (a Answer) Message() []byte {
	if !strings.HasPrefix(a.Header.Get("Content-Type"), "text/event-stream") {
		return a.Body
	}
	var last []byte
	for line := range bytes.Lines(a.Body) {
		if data, ok := bytes.CutPrefix(line, []byte("data: ")); ok {
			last = data
		}
	}
	return last
}

// Error is the OAuth or problem code of the answer, or the JSON-RPC error code.
func (a Answer) Error() string {
	var e struct {
		Error json.RawMessage `json:"error"`
		Code  string          `json:"code"`
	}
	if json.Unmarshal(a.Message(), &e) != nil {
		return ""
	}
	var text string
	if json.Unmarshal(e.Error, &text) == nil && text != "" {
		return text
	}
	var rpc struct {
		Code int `json:"code"`
	}
	if json.Unmarshal(e.Error, &rpc) == nil && rpc.Code != 0 {
		return fmt.Sprint(rpc.Code)
	}
	return e.Code
}

func (a Answer) String() string { return fmt.Sprintf("%d %s", a.Status, a.Body) }

// Format prints String: without it, fmt would take an Answer for an error, and
// print its code alone.
func (a Answer) Format(f fmt.State, _ rune) { io.WriteString(f, a.String()) }

// Do sends a request as it is and reads the answer.
func (s *System) Do(r *http.Request) Answer {
	s.T.Helper()
	c := &http.Client{
		Timeout:       30 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	defer c.CloseIdleConnections()
	resp, err := c.Do(r)
	must(s.T, err)
	return read(s.T, resp)
}

func read(t testing.TB, resp *http.Response) Answer {
	t.Helper()
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	must(t, err)
	return Answer{resp.StatusCode, resp.Header, body}
}

// Request is a request to this node.
func (s *System) Request(method, path string, body []byte, headers ...string) *http.Request {
	s.T.Helper()
	r, err := http.NewRequest(method, s.URL+path, bytes.NewReader(body))
	must(s.T, err)
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header[http.CanonicalHeaderKey(headers[i])] = append(r.Header[http.CanonicalHeaderKey(headers[i])], headers[i+1])
	}
	return r
}

// Lines is what a server logged, in lines.
type Lines struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (l *Lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// String is everything logged so far.
func (l *Lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		if e, ok := errors.AsType[*mayfly.Error](err); ok && e.Unwrap() != nil {
			t.Fatalf("%v (%v)", err, e.Unwrap())
		}
		t.Fatal(err)
	}
}
