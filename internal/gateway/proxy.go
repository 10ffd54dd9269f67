package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/authority"
)

// Limits on what goes to a target and comes back (security, section 4).
const (
	dialWithin   = 5 * time.Second
	headerWithin = 30 * time.Second
	totalWithin  = 120 * time.Second
	streamWithin = 15 * time.Minute
	chunkWrite   = 10 * time.Second // one write of a stream to the agent
	wholeWrite   = 30 * time.Second // a whole answer to the agent
	maxAnswer    = 8 << 20          // bytes of an answer, and of one event of a stream
)

// upstream keeps the connections to targets. Each target with its credential
// has a pool of its own, so that no connection ever carries two.
type upstream struct {
	fixed http.RoundTripper // given by Options; then there are no pools

	mu    sync.Mutex // guards the map
	pools map[string]pool
}

type pool struct {
	target    *mayfly.Target
	transport *http.Transport
}

func (u *upstream) to(target *mayfly.Target) http.RoundTripper {
	u.mu.Lock()
	defer u.mu.Unlock()
	p, ok := u.pools[target.Name]
	if ok && p.target == target {
		return p.transport
	}
	if ok {
		// A reload made this target anew, perhaps with another credential.
		p.transport.CloseIdleConnections()
	}
	if u.pools == nil {
		u.pools = map[string]pool{}
	}
	t := newTransport()
	u.pools[target.Name] = pool{target, t}
	return t
}

func (u *upstream) close() {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, p := range u.pools {
		p.transport.CloseIdleConnections()
	}
}

// newTransport makes a transport that uses no proxy from the environment and
// follows no redirect. It speaks HTTP/1.1 only: one request at a time on a
// connection is what lets [gate] hold back the first byte.
func newTransport() *http.Transport {
	dialer := &net.Dialer{Timeout: dialWithin, KeepAlive: 30 * time.Second}
	return &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return &gatedConn{Conn: c}, nil
		},
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    dialWithin,
		ResponseHeaderTimeout:  headerWithin,
		IdleConnTimeout:        60 * time.Second,
		MaxIdleConnsPerHost:    128,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true,
		WriteBufferSize:        16 << 10,
		ReadBufferSize:         16 << 10,
	}
}

// gate is asked when the first byte of one request is about to be written to
// the target, after whatever time it took to get a connection. If it refuses,
// nothing is written.
type gate struct {
	ask    func() error
	cancel context.CancelCauseFunc
	sent   atomic.Bool
}

func (g *gate) open() error {
	if g.ask != nil {
		if err := g.ask(); err != nil {
			g.cancel(err) // so that the transport does not try another connection
			return err
		}
	}
	g.sent.Store(true)
	return nil
}

// gatedConn is a connection to a target whose next write asks a gate first.
type gatedConn struct {
	net.Conn
	next atomic.Pointer[gate]
}

func (c *gatedConn) Write(p []byte) (int, error) {
	if g := c.next.Swap(nil); g != nil {
		if err := g.open(); err != nil {
			return 0, err
		}
	}
	return c.Conn.Write(p)
}

// gotConn puts g before the next write on a connection: the transport calls it
// when the connection is this request's and nothing has been written yet.
func (g *gate) gotConn(info httptrace.GotConnInfo) {
	c := info.Conn
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	if c, ok := c.(*gatedConn); ok {
		c.next.Store(g)
		return
	}
	// Not a connection of ours: ask now, which is as late as one can. A refusal
	// has cancelled the request; that is all there is to do with it.
	_ = g.open()
}

// send gives one request to a target. ask, if set, is asked immediately before
// the first byte goes out. sent says whether the target may have seen any: false
// is certain, and then err is set.
//
// ctx must be made by [request.open]; what it is cancelled with is the error.
func (g *Gateway) send(ctx context.Context, cancel context.CancelCauseFunc, target *mayfly.Target, out *http.Request, ask func() error) (resp *http.Response, sent bool, err error) {
	if c := target.Credential; c != nil {
		out.Header[http.CanonicalHeaderKey(c.Header)] = []string{c.Value.Reveal()}
	}
	held := &gate{ask: ask, cancel: cancel}
	way := g.upstream.fixed
	if target.Stdio {
		way = ctx.Value(conversationKey{}).(*conversation)
	}
	if way != nil {
		if err := held.open(); err != nil {
			return nil, false, err
		}
	} else {
		way = g.upstream.to(target)
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: held.gotConn})
	}
	resp, err = way.RoundTrip(out.WithContext(ctx))
	if err == nil {
		return resp, true, nil
	}
	return nil, held.sent.Load(), failure(ctx, err)
}

// failure is what a failed exchange with a target means to the agent: the
// reason for which we ended it, or that the target did not answer.
func failure(ctx context.Context, err error) error {
	if ours, ok := errors.AsType[*mayfly.Error](context.Cause(ctx)); ok {
		return ours
	}
	if ours, ok := errors.AsType[*mayfly.Error](err); ok {
		return ours
	}
	return mayfly.Errorf(mayfly.BadUpstream, "the target could not be reached or did not answer; try again later").Because(err)
}

// open gives the context in which a request speaks with its target: it ends when
// the agent goes away, when the task or token is over, and after totalWithin.
// With stream, the idle lease is held while it is open.
func (x *request) open(stream bool) (ctx context.Context, cancel context.CancelCauseFunc, limit *time.Timer, done func()) {
	watch := x.session.Context
	if stream {
		watch = x.session.Stream
	}
	watched, unwatch := watch(x.r.Context())
	ctx, cancel = context.WithCancelCause(watched)
	limit = time.AfterFunc(totalWithin, func() {
		cancel(mayfly.Errorf(mayfly.BadUpstream, "the target took too long"))
	})
	return ctx, cancel, limit, func() {
		limit.Stop()
		cancel(nil)
		unwatch()
	}
}

// readAnswer reads the whole body of an answer that may have maxAnswer bytes.
func readAnswer(ctx context.Context, resp *http.Response) ([]byte, error) {
	if resp.ContentLength > maxAnswer {
		return nil, tooLong()
	}
	var body []byte
	if n := resp.ContentLength; n >= 0 {
		body = make([]byte, n)
		if _, err := io.ReadFull(resp.Body, body); err != nil {
			return nil, failure(ctx, err)
		}
		return body, nil
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, failure(ctx, err)
	case len(body) > maxAnswer:
		return nil, tooLong()
	}
	return body, nil
}

func tooLong() *mayfly.Error {
	return mayfly.Errorf(mayfly.BadUpstream, "the target's answer is longer than %d bytes; ask for less at once", maxAnswer)
}

// checkStatus refuses answers that must not be passed on: a redirect would carry
// the credential elsewhere or show where the target is, and a 401 speaks of our
// credential, not of the agent's token.
func checkStatus(resp *http.Response) error {
	switch code := resp.StatusCode; {
	case code == http.StatusUnauthorized || code == http.StatusProxyAuthRequired:
		return mayfly.Errorf(mayfly.BadUpstream, "the target refused the credential that the gateway keeps for it; tell the operator")
	case code < 200 || 300 <= code && code < 400 && code != http.StatusNotModified || code > 599:
		return mayfly.Errorf(mayfly.BadUpstream, "the target answered with status %d, which is not followed", code)
	}
	return nil
}

// requestIDs are the headers in which targets say by what id they know a request.
var requestIDs = []string{"X-Request-Id", "Request-Id", "X-Amzn-Requestid", "X-Ms-Request-Id", "X-Guploader-Uploadid"}

// unpassed is the outcome of a call that the target has answered, until the answer
// was passed on.
func unpassed(resp *http.Response) authority.Outcome {
	o := authority.Outcome{Name: "failed", Status: resp.StatusCode, Detail: "the answer was not passed on"}
	for _, name := range requestIDs {
		id := resp.Header.Get(name)
		if id != "" && len(id) <= 128 && !strings.ContainsFunc(id, func(r rune) bool { return r <= ' ' || r > '~' }) {
			o.Upstream = id
			break
		}
	}
	return o
}

// writeWithin gives the agent this long to take what is written next. Writers
// that have no deadlines (in tests) go without.
func (x *request) writeWithin(d time.Duration) {
	_ = x.control.SetWriteDeadline(time.Now().Add(d))
}

// readWithin gives the agent this long to send the rest of the request; 0 is as
// long as it takes to answer it.
func (x *request) readWithin(d time.Duration) {
	var until time.Time
	if d > 0 {
		until = time.Now().Add(d)
	}
	_ = x.control.SetReadDeadline(until)
}
