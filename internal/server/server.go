// Package server answers the API: the OAuth endpoints, /v1, the log's reads,
// metadata and health. It owns the way in (hosts, limits, parsing) and the way
// out (headers, errors, the access log), and no rule of the product: every
// question goes to authority, with what the request showed for itself
// untouched. Start reading at routes.go, which is the whole list; [Server]
// takes one request from the wire to its row there.
package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/attest"
	"github.com/mayfly-id/mayfly/internal/authority"
)

// Options are what a Server needs beside the authority.
type Options struct {
	Logger *slog.Logger // takes the access log and the causes of errors; nil is slog.Default
	// Gateway answers /mcp/ and /http/; nil leaves them unknown.
	Gateway http.Handler
	// Console answers / and /console/ on the public listener, where humans sign in;
	// nil leaves them unknown.
	Console http.Handler
	// TrustedProxies may say in X-Forwarded-For who a request comes from. From
	// anybody else that header, and all like it, is dropped.
	TrustedProxies []netip.Prefix
	Limits         Limits // a zero member is that of DefaultLimits
	// Observe, if set, is told of every request: its route as a pattern, the status
	// of its answer, and how long it took.
	Observe func(route string, status int, took time.Duration)
}

// Server is the API as an http.Handler. It is safe for concurrent use.
type Server struct {
	a       *authority.Authority
	o       Options
	issuer  *url.URL // public origin: what proofs and metadata name
	admin   bool     // behind the admin socket
	index   index
	limits  *limits
	replays chan struct{} // holds one while recorded decisions are decided again
	closing chan struct{} // closed by Close
	once    sync.Once
}

// New makes the API for the public listener. The http.Server it is given to
// should go through [Harden].
func New(a *authority.Authority, o Options) *Server { return newServer(a, o, false) }

// NewAdmin makes the API for the admin socket: the same, with no limits on how
// often, for the peer that the kernel names. Its http.Server needs [WithPeer]
// as ConnContext: without, everything is refused.
func NewAdmin(a *authority.Authority, o Options) *Server { return newServer(a, o, true) }

func newServer(a *authority.Authority, o Options, admin bool) *Server {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	issuer, err := url.Parse(a.Bundle().Issuer)
	if err != nil {
		issuer = &url.URL{} // a checked configuration has a URL; no Host fits this one
	}
	return &Server{a: a, o: o, issuer: issuer, admin: admin, index: sortOut(routes()), limits: newLimits(o.Limits),
		replays: make(chan struct{}, 1), closing: make(chan struct{})}
}

// Close ends the streams that are open, so that the listener can shut down.
func (s *Server) Close() { s.once.Do(func() { close(s.closing) }) }

// peerKey is where WithPeer leaves the peer of a connection.
type peerKey struct{}

// WithPeer is an http.Server's ConnContext for the admin socket: it asks the
// kernel who is at the other end. Where that fails there is no peer, and the
// handler refuses.
func WithPeer(ctx context.Context, c net.Conn) context.Context {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return ctx
	}
	p, err := attest.PeerOf(u)
	if err != nil {
		return ctx
	}
	return context.WithValue(ctx, peerKey{}, &p)
}

// call is one request on its way through.
type call struct {
	s       *Server
	w       *answer
	r       *http.Request
	id      string // of the request, in the access log and the answer
	source  string // network address
	addr    netip.Addr
	calls   bool // it is for the gateway
	pages   bool // it is for the console
	peer    *attest.Peer
	route   *route // nil for the gateway and for what is not there
	allow   string // methods that are there, where this one is not
	values  map[string]string
	query   url.Values
	form    url.Values
	body    []byte
	refused *mayfly.Error // what the answer says, if it is an error
}

func (c *call) ctx() context.Context { return c.r.Context() }

// presented is what the request showed for itself.
func (c *call) presented() authority.Presented {
	return authority.Presented{
		Authorization: c.r.Header["Authorization"],
		DPoP:          c.r.Header["Dpop"],
		Method:        c.r.Method,
		URL:           c.s.a.Bundle().Issuer + c.r.URL.EscapedPath(),
		Peer:          c.peer,
		Source:        c.source,
		Trace:         mayfly.ParseTrace(c.r.Header["Traceparent"]),
	}
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	c := &call{s: s, w: &answer{ResponseWriter: w}, r: r, id: mayfly.NewID("req", start)}
	defer c.log(start)
	defer c.observe(start)
	defer c.recover()
	h := w.Header()
	h.Set("Mayfly-Request-Id", c.id)
	if s.issuer.Scheme == "https" && !s.admin {
		h.Set("Strict-Transport-Security", "max-age=63072000; includeSubDomains")
	}
	path := r.URL.EscapedPath()
	c.calls = s.o.Gateway != nil && (strings.HasPrefix(path, "/mcp/") || strings.HasPrefix(path, "/http/"))
	if err := c.comeFrom(); err != nil {
		surface := "api"
		if c.calls {
			surface = "gateway"
		}
		c.fail(s.a.Stranger(c.presented(), surface, err))
		return
	}
	if c.calls {
		c.toGateway()
		return
	}
	if c.pages = s.o.Console != nil && !s.admin && (path == "/" || strings.HasPrefix(path, "/console/")) && s.a.SignsIn(); c.pages {
		c.toConsole()
		return
	}
	c.find(path)
	// Answers of ours are data: not to be sniffed, framed, stored or run.
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-store")
	if err := c.serve(); err != nil {
		c.fail(err)
	}
	c.settle(c.refused)
}

// comeFrom finds out who is at the other end, and refuses requests for another
// host or from another site's page.
func (c *call) comeFrom() error {
	s, r := c.s, c.r
	fields := 0
	for _, values := range r.Header {
		fields += len(values)
	}
	if fields > headersMax {
		return mayfly.Errorf(mayfly.Invalid, "the request has more than %d header fields", headersMax)
	}
	if s.admin {
		c.source = "admin"
		c.peer, _ = r.Context().Value(peerKey{}).(*attest.Peer)
		if c.peer == nil {
			return mayfly.Errorf(mayfly.Denied, "the kernel does not say who is calling; connect to the admin socket itself")
		}
		return nil
	}
	c.addr = clientAddr(r.RemoteAddr, r.Header["X-Forwarded-For"], s.o.TrustedProxies)
	dropForwarded(r.Header)
	if c.addr.IsValid() {
		c.source = c.addr.String()
	}
	if c.addr.IsValid() && len(s.o.TrustedProxies) > 0 {
		r.RemoteAddr = netip.AddrPortFrom(c.addr, 0).String() // so that the gateway sees the same
	}
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return s.checkHost(r, isLoopbackAddr(local))
}

// serve takes the request to its route.
func (c *call) serve() error {
	if c.route == nil {
		if c.allow != "" {
			c.w.Header().Set("Allow", c.allow)
			return mayfly.Errorf(mayfly.MethodNotAllowed, "this path answers %s", c.allow)
		}
		return mayfly.Errorf(mayfly.NotFound, "there is nothing at this path; /openapi.json lists what there is")
	}
	h := c.w.Header()
	switch c.route.surface {
	case oauth:
		h.Set("Pragma", "no-cache")
		h.Set("DPoP-Nonce", c.s.a.Nonce("as"))
	case decides:
		c.echoRequestID()
		fallthrough
	case api:
		h.Set("DPoP-Nonce", c.s.a.Nonce("rs"))
	case open:
		if c.route.cors {
			h.Set("Access-Control-Allow-Origin", "*")
		}
	}
	if err := c.limitStrangers(); err != nil {
		return err
	}
	if (c.route.surface == api || c.route.surface == decides) && len(c.r.Header["Authorization"]) == 0 && c.peer == nil {
		// Nothing of a stranger's request is read. Authority asks who it is
		// before anything else, and counts that nobody answered.
		if err := c.s.a.MayReadLog(c.ctx(), c.presented()); err != nil {
			return err
		}
		return mayfly.Errorf(mayfly.Internal, "a request without credentials was let in; nothing was done")
	}
	if err := c.read(); err != nil {
		return c.malformed(err)
	}
	return c.route.handle(c)
}

// malformed counts a request of the OAuth endpoints that could not be read: as
// far as anybody knows, a stranger's. One that came too often is not counted, so
// that a flood does not fill the log.
func (c *call) malformed(err error) error {
	if c.route.surface != oauth || mayfly.KindOf(err) == mayfly.RateLimited {
		return err
	}
	return c.s.a.Stranger(c.presented(), "token", err)
}

// toGateway hands the request on. The gateway authenticates, decides and
// answers; what it answered says whether this was a stranger.
func (c *call) toGateway() {
	if err := c.limitStrangers(); err != nil {
		c.fail(err)
		return
	}
	c.s.o.Gateway.ServeHTTP(c.w, c.r)
	switch challenge := strings.Join(c.w.Header()["Www-Authenticate"], " "); {
	case c.w.status == http.StatusUnauthorized && !strings.Contains(challenge, "use_dpop_nonce"):
		c.settle(mayfly.Errorf(mayfly.Unauthenticated, "the gateway refused"))
	case c.w.status < http.StatusBadRequest:
		c.settle(nil)
	}
}

// toConsole hands the request on. Whoever shows no sign-in, or one that is none,
// is a stranger.
func (c *call) toConsole() {
	if err := c.limitStrangers(); err != nil {
		c.fail(err)
		return
	}
	c.s.o.Console.ServeHTTP(c.w, c.r)
	if c.w.status == http.StatusUnauthorized {
		c.settle(mayfly.Errorf(mayfly.Unauthenticated, "nobody is signed in"))
	} else if c.w.status < http.StatusBadRequest {
		c.settle(nil)
	}
}

// recover turns a panic into an answer, where none was begun. The gateway's
// proxy aborts a connection that way on purpose.
func (c *call) recover() {
	p := recover()
	if p == nil {
		return
	}
	if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(p)
	}
	c.s.o.Logger.Error("a handler panicked", "request", c.id, "panic", p, "stack", string(debug.Stack()))
	if c.w.status != 0 {
		panic(http.ErrAbortHandler) // half an answer must not look whole
	}
	c.fail(mayfly.Errorf(mayfly.Internal, "something went wrong here; the server's log says what"))
}
