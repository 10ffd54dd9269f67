// Package client talks to a Mayfly server: it opens tasks, keeps their tokens
// fresh, makes DPoP proofs (RFC 9449), and calls /v1 and the gateway. It owns
// the client's side of the wire and nothing else; it imports only the root
// package. Start reading at [New], then [Client.Open] for an agent's whole life.
package client

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/mayfly-id/mayfly"
)

const (
	answerLimit = 8 << 20          // bytes of an answer that are read
	callTimeout = 30 * time.Second // of one call of the API, its retry included
)

// Options say where the server is and who is asking.
type Options struct {
	// Address is https://host[:port], http://host[:port] of a loopback host, or
	// unix:///path of the admin socket.
	Address string
	// Issuer is the server's public origin, which proofs are made for. Empty asks
	// the server's metadata (RFC 8414); over https that must say Address.
	Issuer string
	// Token authorises calls of /v1. Nil sends none, which is right on the admin
	// socket: there the server asks the kernel who is calling.
	Token TokenFunc
	// Transport is used instead of a default one, except on a socket.
	Transport http.RoundTripper
}

// TokenFunc gives the token to use now.
type TokenFunc func(context.Context) (Token, error)

// Bearer is a TokenFunc for a source's token, such as a human's ID token.
func Bearer(text string) TokenFunc {
	return func(context.Context) (Token, error) { return Token{Text: mayfly.NewSecret(text)}, nil }
}

// Client calls one server. It is safe for use by several goroutines.
type Client struct {
	address string   // as given, for messages
	base    *url.URL // where requests go
	socket  bool
	token   TokenFunc
	wire    *wire
}

// wire is what every Client derived from one New shares.
type wire struct {
	http http.RoundTripper

	mu     sync.Mutex // guards the fields below
	issuer string
	as, rs string // newest DPoP nonce of the authorization server and of the resource server
	// ahead is how far the server's clock was ahead of ours when it last answered.
	ahead time.Duration
}

// New makes a client. It does not call the server.
func New(o Options) (*Client, error) {
	c := &Client{address: o.Address, token: o.Token, wire: &wire{http: o.Transport, issuer: o.Issuer}}
	if path, ok := strings.CutPrefix(o.Address, "unix://"); ok {
		if !strings.HasPrefix(path, "/") {
			return nil, mayfly.Errorf(mayfly.Invalid, "the address %q does not name a socket; write unix:///path/to/admin.sock", o.Address)
		}
		c.socket = true
		c.base = &url.URL{Scheme: "http", Host: "localhost"}
		t := newTransport()
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		}
		c.wire.http = t
		return c, nil
	}
	u, err := url.Parse(o.Address)
	switch {
	case err != nil || u.Host == "" || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" || u.User != nil:
		return nil, mayfly.Errorf(mayfly.Invalid, "the address %q is not one; write https://host:port, or unix:///path of the admin socket", o.Address)
	case u.Scheme == "http" && !loopback(u.Hostname()):
		return nil, mayfly.Errorf(mayfly.Invalid, "the address %q would send tokens in clear; use https, or a loopback host", o.Address)
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, mayfly.Errorf(mayfly.Invalid, "the address %q has a scheme that is none of https, http and unix", o.Address)
	}
	c.base = &url.URL{Scheme: u.Scheme, Host: u.Host}
	if c.wire.http == nil {
		c.wire.http = newTransport()
	}
	return c, nil
}

func newTransport() *http.Transport {
	return &http.Transport{
		// No proxy from the environment: it would see every token.
		DialContext:         (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		TLSHandshakeTimeout: 5 * time.Second,
		MaxIdleConnsPerHost: 16,
		IdleConnTimeout:     time.Minute,
		ForceAttemptHTTP2:   true,
		// For whoever sets Expect: the body is sent once the server listens.
		ExpectContinueTimeout: 10 * time.Second,
	}
}

// loopback reports whether host is this machine, by name or by address.
func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

// As is c with another token: the same server, the same connections.
func (c *Client) As(t TokenFunc) *Client {
	other := *c
	other.token = t
	return &other
}

// Address is what the client was told to talk to.
func (c *Client) Address() string { return c.address }

// Close closes idle connections.
func (c *Client) Close() {
	if t, ok := c.wire.http.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
}

// Issuer is the server's public origin: what tokens name and proofs are for.
func (c *Client) Issuer(ctx context.Context) (string, error) {
	c.wire.mu.Lock()
	issuer := c.wire.issuer
	c.wire.mu.Unlock()
	if issuer != "" {
		return issuer, nil
	}
	var m struct {
		Issuer string `json:"issuer"`
	}
	err := c.call(ctx, request{method: http.MethodGet, path: "/.well-known/oauth-authorization-server", open: true}, &m)
	if err != nil {
		return "", err
	}
	// A server reached by its public name must be who it says it is (RFC 8414
	// section 3.3); the local kernel vouches for a socket and a loopback port.
	if !c.socket && !loopback(c.base.Hostname()) && m.Issuer != c.base.String() {
		return "", mayfly.Errorf(mayfly.BadUpstream, "the server at %s says it is %q; use that as the address", c.address, m.Issuer)
	}
	if u, err := url.Parse(m.Issuer); err != nil || u.Host == "" {
		return "", mayfly.Errorf(mayfly.BadUpstream, "the server at %s does not say who it is", c.address)
	}
	c.wire.mu.Lock()
	c.wire.issuer = m.Issuer
	c.wire.mu.Unlock()
	return m.Issuer, nil
}

// request is one call of the API.
type request struct {
	method string
	path   string // escaped
	query  url.Values
	form   url.Values    // body of the OAuth endpoints
	json   any           // body of the others
	key    *Key          // signs the proof of an OAuth call
	open   bool          // no token is sent
	oauth  bool          // the authorization server's nonces
	stream bool          // server-sent events are asked for
	within time.Duration // how long it may take; 0 is callTimeout
}

// call does r and decodes the answer into into, unless that is nil. One answer
// that asks for a nonce is obeyed; the second is an error.
func (c *Client) call(ctx context.Context, r request, into any) error {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(r.within, callTimeout))
	defer cancel()
	resp, err := c.begin(ctx, r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if into == nil {
		return nil
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, answerLimit+1))
	if err != nil {
		return c.unreachable(err)
	}
	if len(data) > answerLimit {
		return mayfly.Errorf(mayfly.BadUpstream, "the server's answer is longer than %d bytes", answerLimit)
	}
	if text, ok := into.(*string); ok {
		*text = string(data)
		return nil
	}
	if err := json.Unmarshal(data, into); err != nil {
		return mayfly.Errorf(mayfly.BadUpstream, "the server's answer is not the JSON expected; are client and server of the same version?").Because(err)
	}
	return nil
}

// begin sends r and gives the answer, if it is a success; its body is the
// caller's to close.
func (c *Client) begin(ctx context.Context, r request) (*http.Response, error) {
	var body []byte
	kind := ""
	switch {
	case r.form != nil:
		body, kind = []byte(r.form.Encode()), "application/x-www-form-urlencoded"
	case r.json != nil:
		var err error
		if body, err = json.Marshal(r.json); err != nil {
			return nil, mayfly.Errorf(mayfly.Invalid, "the request cannot be written as JSON").Because(err)
		}
		kind = "application/json"
	}
	u, err := c.base.Parse(r.path)
	if err != nil {
		return nil, mayfly.Errorf(mayfly.Invalid, "the request cannot be made").Because(err)
	}
	u.RawQuery = r.query.Encode()
	req, err := http.NewRequestWithContext(ctx, r.method, u.String(), nil)
	if err != nil {
		return nil, mayfly.Errorf(mayfly.Invalid, "the request cannot be made").Because(err)
	}
	req.Header.Set("Accept", "application/json")
	if r.stream {
		req.Header.Set("Accept", "text/event-stream")
	}
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	who := Token{Key: r.key}
	if !r.open && c.token != nil {
		if who, err = c.token(ctx); err != nil {
			return nil, err
		}
	}
	resp, err := c.send(req, who, r.oauth, body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		defer resp.Body.Close()
		return nil, ReadError(resp)
	}
	return resp, nil
}

// send authorises req as who and sends it, again with the nonce the server asks
// for if it does. body is the whole body.
func (c *Client) send(req *http.Request, who Token, oauth bool, body []byte) (*http.Response, error) {
	for retried := false; ; retried = true {
		attempt := req.Clone(req.Context())
		if body != nil {
			attempt.Body = io.NopCloser(bytes.NewReader(body))
			attempt.ContentLength = int64(len(body))
		}
		if err := c.authorize(attempt, who, oauth); err != nil {
			return nil, err
		}
		resp, err := c.wire.http.RoundTrip(attempt)
		if err != nil {
			return nil, c.unreachable(err)
		}
		c.wire.learn(resp, oauth)
		if retried || who.Key == nil || !wantsNonce(resp) {
			return resp, nil
		}
		drain(resp)
	}
}

// authorize adds the token, and where there is a key a proof for this request
// (RFC 9449 section 4.2). The proof names the server's public origin, whatever
// way the request takes there.
func (c *Client) authorize(req *http.Request, who Token, oauth bool) error {
	text := who.Text.Reveal()
	if who.Key == nil {
		if text != "" {
			req.Header.Set("Authorization", "Bearer "+text)
		}
		return nil
	}
	issuer, err := c.Issuer(req.Context())
	if err != nil {
		return err
	}
	proof, err := who.Key.Proof(ProofFor{
		Method:      req.Method,
		URL:         issuer + req.URL.EscapedPath(),
		Nonce:       c.wire.nonce(oauth),
		AccessToken: text,
		At:          c.wire.now(),
	})
	if err != nil {
		return err
	}
	req.Header.Set("DPoP", proof)
	if text != "" {
		req.Header.Set("Authorization", "DPoP "+text)
	}
	return nil
}

func (w *wire) nonce(oauth bool) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if oauth {
		return w.as
	}
	return w.rs
}

// now is the server's time, as far as its last answer showed it. Proofs are only
// taken within seconds of it, and a machine's clock can be minutes off.
func (w *wire) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Now().Add(w.ahead)
}

// clockNoise is the difference between two clocks that says nothing: the Date of
// an answer has whole seconds and was written before the answer came.
const clockNoise = 3 * time.Second

// learn keeps the newest nonce (RFC 9449 section 8.2) and the server's time.
func (w *wire) learn(resp *http.Response, oauth bool) {
	date, err := http.ParseTime(resp.Header.Get("Date"))
	n := resp.Header.Get("DPoP-Nonce")
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil {
		if w.ahead = time.Until(date); w.ahead.Abs() < clockNoise {
			w.ahead = 0
		}
	}
	switch {
	case n == "":
	case oauth:
		w.as = n
	default:
		w.rs = n
	}
}

// wantsNonce reports whether resp asks for the nonce it carries: 401 with the
// code in the challenge from a resource server (RFC 9449 section 9), 400 with
// the code in the body from the token endpoint (section 8). The body stays
// readable.
func wantsNonce(resp *http.Response) bool {
	if resp.Header.Get("DPoP-Nonce") == "" {
		return false
	}
	switch resp.StatusCode {
	case http.StatusUnauthorized:
		for _, challenge := range resp.Header.Values("WWW-Authenticate") {
			if strings.Contains(challenge, `error="use_dpop_nonce"`) {
				return true
			}
		}
	case http.StatusBadRequest:
		data, err := io.ReadAll(io.LimitReader(resp.Body, problemLimit))
		if err != nil {
			return false
		}
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.MultiReader(bytes.NewReader(data), resp.Body), resp.Body}
		var e struct {
			Error string `json:"error"`
		}
		return json.Unmarshal(data, &e) == nil && e.Error == "use_dpop_nonce"
	}
	return false
}

// drain lets the connection be used again.
func drain(resp *http.Response) {
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, problemLimit)) // a failure costs a connection, no more
	resp.Body.Close()
}
