package mayflytest_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/client"
	"github.com/mayfly-id/mayfly/internal/attest"
	"github.com/mayfly-id/mayfly/internal/authority"
	"github.com/mayfly-id/mayfly/internal/mayflytest"
)

// The acceptance tests speak to the wire themselves: what they send is often
// what no client of ours would.

// node is a system with what is needed to send it anything.
type node struct {
	*mayflytest.System
	now func() time.Time // what the server takes for the time
}

func plain(t *testing.T, change func(*authority.Bundle)) node {
	t.Helper()
	return node{mayflytest.New(t, mayflytest.Options{Change: change}), time.Now}
}

// clock is a clock that a test moves: ahead for both of the server's clocks,
// back for the wall clock alone.
type clock struct {
	start       time.Time
	ahead, back atomic.Int64
}

func (c *clock) now() time.Time      { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *clock) wall() time.Time     { return c.now().Add(-time.Duration(c.back.Load())) }
func (c *clock) boot() time.Duration { return time.Since(c.start) + time.Duration(c.ahead.Load()) }

// clocked is a system whose time the test moves.
func clocked(t *testing.T, o mayflytest.Options) (node, *clock) {
	t.Helper()
	c := &clock{start: time.Now()}
	o.Wall, o.Boot = c.wall, c.boot
	n := node{mayflytest.New(t, o), c.now}
	n.IDP.Now = c.now
	return n, c
}

// pass lets d pass, and waits until the server has its authority lease again,
// which it lost because it had not heard of the store for so long.
func (n node) pass(c *clock, d time.Duration) {
	n.T.Helper()
	c.ahead.Add(int64(d))
	n.Eventually("the node confirms the epoch after a jump of the clock", func() bool {
		return n.Authority.Ready(context.Background()) == nil
	})
}

// holder is somebody with an ES256 key, who signs what a test says.
type holder struct {
	priv *ecdsa.PrivateKey
	*client.Key
}

func newHolder(t testing.TB) *holder {
	t.Helper()
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := client.KeyOf(priv)
	if err != nil {
		t.Fatal(err)
	}
	return &holder{priv, key}
}

type members = map[string]any

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func toJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // a test's own literal
	}
	return b
}

// jwk is the public half.
func (h *holder) jwk() members {
	point, err := h.priv.PublicKey.Bytes()
	if err != nil {
		panic(err) // a key made on P-256 a moment ago
	}
	return members{"kty": "EC", "crv": "P-256", "x": b64(point[1:33]), "y": b64(point[33:])}
}

// sign makes a compact JWS of anything. A member that is nil is left out.
func (h *holder) sign(header, claims members) string {
	drop := func(m members) []byte {
		m = maps.Clone(m)
		maps.DeleteFunc(m, func(_ string, v any) bool { return v == nil })
		return toJSON(m)
	}
	text := b64(drop(header)) + "." + b64(drop(claims))
	sum := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, h.priv, sum[:])
	if err != nil {
		panic(err)
	}
	var raw [64]byte
	r.FillBytes(raw[:32])
	s.FillBytes(raw[32:])
	return text + "." + b64(raw[:])
}

// proofFor is a right proof for a request, before a test spoils it.
func (n node) proofFor(h *holder, method, path, token string) (header, claims members) {
	header = members{"typ": "dpop+jwt", "alg": "ES256", "jwk": h.jwk()}
	audience := "rs"
	if path == "/oauth2/token" {
		audience = "as"
	}
	claims = members{
		"jti": rand.Text(), "htm": method, "htu": n.Issuer + path, "iat": n.now().Unix(), "nonce": n.Authority.Nonce(audience),
	}
	if token != "" {
		sum := sha256.Sum256([]byte(token))
		claims["ath"] = b64(sum[:])
	}
	return header, claims
}

func (n node) proof(h *holder, method, path, token string) string {
	header, claims := n.proofFor(h, method, path, token)
	return h.sign(header, claims)
}

// form is a token exchange. A value "" leaves the parameter out.
func form(pairs ...string) url.Values {
	f := url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:token-exchange"}}
	return with(f, pairs...)
}

func with(f url.Values, pairs ...string) url.Values {
	f = maps.Clone(f)
	for i := 0; i+1 < len(pairs); i += 2 {
		if f.Del(pairs[i]); pairs[i+1] != "" {
			f.Set(pairs[i], pairs[i+1])
		}
	}
	return f
}

// opening opens a task for alice under invoice by agent invoice-1.
func (n node) opening(pairs ...string) url.Values {
	return with(form(
		"subject_token", n.Human("alice"), "subject_token_type", client.TypeJWT,
		"actor_token", n.Evidence("invoice-1"), "actor_token_type", client.TypeJWT,
		"profile", "invoice", "purpose", "pay invoices"), pairs...)
}

// below opens a task below parent under profile, by agent invoice-child.
func (n node) below(parent held, profile string, pairs ...string) url.Values {
	return with(form(
		"subject_token", parent.text, "subject_token_type", client.TypeAccessToken,
		"actor_token", n.Evidence("invoice-child"), "actor_token_type", client.TypeJWT,
		"profile", profile, "purpose", "a part of it"), pairs...)
}

// again asks for another token of the task of have.
func again(have held, pairs ...string) url.Values {
	return with(form("subject_token", have.text, "subject_token_type", client.TypeAccessToken), pairs...)
}

const asForm = "application/x-www-form-urlencoded"

// token posts to the token endpoint, with a proof by h unless it is nil.
func (n node) token(f url.Values, h *holder, headers ...string) mayflytest.Answer {
	n.T.Helper()
	if h != nil {
		headers = append(headers, "DPoP", n.proof(h, http.MethodPost, "/oauth2/token", ""))
	}
	return n.post("/oauth2/token", f.Encode(), headers...)
}

func (n node) post(path, body string, headers ...string) mayflytest.Answer {
	n.T.Helper()
	return n.Do(n.Request(http.MethodPost, path, []byte(body), append(headers, "Content-Type", asForm)...))
}

// held is an access token with the key it is bound to, if it is.
type held struct {
	text    string
	h       *holder
	task    mayfly.TaskID
	life    time.Duration
	scope   string
	details json.RawMessage
}

// held reads a successful exchange; the token is bound to h, or to nothing.
func (n node) held(a mayflytest.Answer, h *holder) held {
	n.T.Helper()
	var got struct {
		AccessToken string          `json:"access_token"`
		TokenType   string          `json:"token_type"`
		ExpiresIn   int64           `json:"expires_in"`
		Scope       string          `json:"scope"`
		Details     json.RawMessage `json:"authorization_details"`
		Task        mayfly.TaskID   `json:"task"`
	}
	if a.Status != http.StatusOK {
		n.T.Fatalf("the exchange was refused: %s", a)
	}
	if err := json.Unmarshal(a.Body, &got); err != nil {
		n.T.Fatal(err)
	}
	if want := map[bool]string{true: "DPoP", false: "Bearer"}[h != nil]; got.TokenType != want {
		n.T.Fatalf("token_type is %q, want %q", got.TokenType, want)
	}
	return held{got.AccessToken, h, got.Task, time.Duration(got.ExpiresIn) * time.Second, got.Scope, got.Details}
}

// open exchanges, and the exchange must succeed.
func (n node) open(f url.Values, h *holder) held {
	n.T.Helper()
	return n.held(n.token(f, h), h)
}

// at is a token of the same task for a target, such as /http/orders.
func (n node) at(have held, target string, pairs ...string) held {
	n.T.Helper()
	return n.open(again(have, append([]string{"resource", n.Issuer + target}, pairs...)...), have.h)
}

// send is one request with a token, and a right proof where it is bound.
func (n node) send(have held, method, path string, body []byte, headers ...string) mayflytest.Answer {
	n.T.Helper()
	scheme := "Bearer "
	if have.h != nil {
		scheme = "DPoP "
		headers = append(headers, "DPoP", n.proof(have.h, method, path, have.text))
	}
	if body != nil {
		headers = append(headers, "Content-Type", "application/json")
	}
	return n.Do(n.Request(method, path, body, append(headers, "Authorization", scheme+have.text)...))
}

// orders reads from the HTTP target with a token for it.
func (n node) orders(have held) mayflytest.Answer {
	n.T.Helper()
	return n.send(have, http.MethodGet, "/http/orders/v1/orders", nil)
}

// tool calls a tool of the bank with a token for it.
func (n node) tool(have held, name string, arguments any) mayflytest.Answer {
	n.T.Helper()
	body := toJSON(members{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": members{
		"name": name, "arguments": arguments, "_meta": members{
			"io.modelcontextprotocol/protocolVersion":    "2026-07-28",
			"io.modelcontextprotocol/clientInfo":         members{"name": "agent", "version": "1"},
			"io.modelcontextprotocol/clientCapabilities": members{},
		},
	}})
	return n.send(have, http.MethodPost, "/mcp/bank", body, "Accept", "application/json, text/event-stream",
		"MCP-Protocol-Version", "2026-07-28", "Mcp-Method", "tools/call", "Mcp-Name", name)
}

// denied is the term that refused a tool call, "" if none did.
func denied(a mayflytest.Answer) mayfly.Term {
	var got struct {
		Result struct {
			IsError bool `json:"isError"`
			Meta    struct {
				Term mayfly.Term `json:"mayfly/term"`
			} `json:"_meta"`
		} `json:"result"`
		Error struct {
			Data struct {
				Term mayfly.Term `json:"term"`
			} `json:"data"`
		} `json:"error"`
		Term mayfly.Term `json:"term"`
	}
	if err := json.Unmarshal(a.Body, &got); err != nil {
		return mayfly.Term("unreadable: " + string(a.Body))
	}
	switch {
	case got.Term != "":
		return got.Term
	case got.Error.Data.Term != "":
		return got.Error.Data.Term
	}
	return got.Result.Meta.Term
}

// self reads the task itself over /v1.
func (n node) self(have held) mayflytest.Answer {
	n.T.Helper()
	return n.send(have, http.MethodGet, "/v1/tasks/"+string(have.task), nil)
}

// view is the task as the operator reads it.
func (n node) view(id mayfly.TaskID) client.Task {
	n.T.Helper()
	v, err := n.Operator().Task(context.Background(), id)
	if err != nil {
		n.T.Fatal(err)
	}
	return v
}

// payload is what a token says, unverified.
func payload(t testing.TB, token string) members {
	t.Helper()
	parts := bytes.Split([]byte(token), []byte("."))
	if len(parts) != 3 {
		t.Fatalf("no token: %.40s", token)
	}
	text, err := base64.RawURLEncoding.DecodeString(string(parts[1]))
	if err != nil {
		t.Fatal(err)
	}
	var m members
	if err := json.Unmarshal(text, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// jkt is the key a token says it is bound to.
func jkt(t testing.TB, token string) string {
	t.Helper()
	cnf, _ := payload(t, token)["cnf"].(members)
	text, _ := cnf["jkt"].(string)
	return text
}

// actors are the act chain of a token, the agent that acts first.
func actors(t testing.TB, token string) []string {
	t.Helper()
	var chain []string
	for m := payload(t, token); ; {
		act, ok := m["act"].(members)
		if !ok {
			return chain
		}
		sub, _ := act["sub"].(string)
		chain, m = append(chain, sub), act
	}
}

// agentID is the identity of a task of the kit's trust domain.
func agentID(profile string, id mayfly.TaskID) string {
	return mayfly.AgentID("example.org", profile, id)
}

// says checks an answer's status and error code.
func (n node) says(name string, a mayflytest.Answer, status int, code string) {
	n.T.Helper()
	if a.Status != status || a.Error() != code {
		n.T.Errorf("%s: answered %s, want %d %s", name, a, status, code)
	}
}

// refused sends what must be refused, and checks the answer and everything
// around it: exactly one record, a rooted chain where the record names a task
// or a delegator, and nothing at the upstreams. It gives the record.
func (n node) refused(name string, send func() mayflytest.Answer, status int, code string) client.Event {
	n.T.Helper()
	recorded, reached := n.CountRefusals(), n.reached()
	a := send()
	n.says(name, a, status, code)
	if n.reached() != reached {
		n.T.Errorf("%s: the upstream was reached", name)
	}
	found := n.Refusals(recorded)
	if len(found) != 1 {
		n.T.Errorf("%s: %d records, want one: %+v", name, len(found), found)
	}
	e := found[0]
	if e.Kind == "authentication.failed" {
		if count := body(n.T, e)["count"]; count != 1.0 {
			n.T.Errorf("%s: counted %v times", name, count)
		}
		return e
	}
	if e.Decision == "" || !bytes.Contains(a.Body, []byte(`"`+e.Decision+`"`)) {
		n.T.Errorf("%s: the answer does not name decision %q: %s", name, e.Decision, a)
	}
	n.rooted(name, e)
	return e
}

// rooted checks that a record leads to who is behind it.
func (n node) rooted(name string, e client.Event) {
	n.T.Helper()
	root, _ := body(n.T, e)["root"].(members)
	if root["sub"] == nil || root["sub"] == "" {
		n.T.Errorf("%s: the record names no delegator: %s", name, e.Body)
	}
	if e.Task == "" {
		return
	}
	trace, err := n.Operator().Trace(context.Background(), e.Decision)
	if err != nil || trace.Subject.Subject != root["sub"] || len(trace.Tasks) == 0 || trace.Tasks[len(trace.Tasks)-1].ID != e.Task {
		n.T.Errorf("%s: the record does not lead to its root: %v %+v", name, err, trace)
	}
}

// strangers checks a record that has no delegator to name: nobody showed who
// they are.
func (n node) strangers(name string, e client.Event) {
	n.T.Helper()
	if e.Kind != "authentication.failed" {
		n.T.Errorf("%s: recorded as %s %s", name, e.Kind, e.Body)
	}
}

func (n node) reached() int { return len(n.Bank.Requests()) + len(n.Orders.Requests()) }

// counted is how many requests of strangers are recorded so far, each record
// with its count.
func (n node) counted() int {
	n.T.Helper()
	sum := 0
	for _, e := range n.Records("authentication.failed") {
		count, _ := body(n.T, e)["count"].(float64)
		sum += int(count)
	}
	return sum
}

// strangersCounted runs send and checks that it adds exactly want to what is
// recorded of strangers' requests, and reaches no upstream.
func (n node) strangersCounted(want int, send func()) {
	n.T.Helper()
	before, reached := n.counted(), n.reached()
	singly := n.CountRefusals() - len(n.Records("authentication.failed"))
	send()
	n.Eventually(fmt.Sprintf("%d requests of strangers are recorded", want), func() bool { return n.counted()-before >= want })
	if got := n.counted() - before; got != want {
		n.T.Errorf("%d requests of strangers are recorded, want %d", got, want)
	}
	if got := n.CountRefusals() - len(n.Records("authentication.failed")) - singly; got != 0 {
		n.T.Errorf("%d of them are recorded singly, too", got)
	}
	if n.reached() != reached {
		n.T.Error("the upstream was reached")
	}
}

func body(t testing.TB, e client.Event) members {
	t.Helper()
	var m members
	if err := json.Unmarshal(e.Body, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

const clientID = "https://agent.example/client"

// registered makes an OAuth client of the kit's configuration with a key.
func registered(t testing.TB, id, audience string) (attest.Client, *holder) {
	t.Helper()
	h := newHolder(t)
	file := filepath.Join(t.TempDir(), "jwks.json")
	if err := os.WriteFile(file, h.JWKS(), 0o600); err != nil {
		t.Fatal(err)
	}
	return attest.Client{ID: id, JWKSFile: file, Audience: audience}, h
}

// assertionOf is a right client assertion, before a test spoils it.
func (n node) assertionOf(h *holder, id string) (header, claims members) {
	now := n.now().Unix()
	return members{"typ": "JWT", "alg": "ES256", "kid": h.Thumbprint()},
		members{"iss": id, "sub": id, "aud": n.Issuer, "jti": rand.Text(), "iat": now, "exp": now + 60}
}

// asClient is the parameters by which a client authenticates.
func (n node) asClient(h *holder, id string) []string {
	header, claims := n.assertionOf(h, id)
	return assertion(h.sign(header, claims))
}

func assertion(text string) []string {
	return []string{"client_assertion_type", authority.TypeJWTBearer, "client_assertion", text}
}
