// Package gateway enforces on the wire: it stands between an agent and a target
// and forwards what authority admits, and nothing else. It owns the reading of a
// request into one canonical call, what of it may reach a target, and what of
// the target's answer may reach the agent. It does not verify, decide or record:
// it asks [authority.Authority].
//
// Start with http.go and mcp.go, one story each; what goes over the wire to a
// target goes through proxy.go.
package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/authority"
)

// Options are what a Gateway can be told. The zero value is sensible.
type Options struct {
	Logger *slog.Logger
	// Transport carries requests to targets. If nil, each target gets its own
	// hardened one.
	Transport http.RoundTripper
	// SessionKey, 32 bytes, seals the MCP session ids that agents are given.
	// Nodes that share it accept each other's sessions. If nil, sessions end
	// with the process.
	SessionKey []byte
}

// Gateway is an http.Handler for /mcp/{target} and /http/{target}/{path…}. It
// must see request targets as they came: nothing in front of it may clean a
// path or redirect. It is safe for concurrent use.
type Gateway struct {
	authority *authority.Authority
	logger    *slog.Logger
	upstream  upstream
	sessions  sealer
	tools     catalogue
}

// New makes a Gateway that asks a.
func New(a *authority.Authority, o Options) *Gateway {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return &Gateway{
		authority: a,
		logger:    o.Logger,
		upstream:  upstream{fixed: o.Transport},
		sessions:  newSealer(o.SessionKey),
	}
}

// Close drops the idle connections to targets. Calls in flight go on.
func (g *Gateway) Close() { g.upstream.close() }

// request is one request to the gateway, with what has been learned about it.
type request struct {
	w         http.ResponseWriter
	r         *http.Request
	control   *http.ResponseController
	route     route
	presented authority.Presented
	bundle    *authority.Bundle
	session   *authority.Session // nil until the token is verified
	target    *mayfly.Target     // nil until the token is verified
	wrote     bool               // the answer has begun
}

func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := &request{w: w, r: r, control: http.NewResponseController(w), bundle: g.authority.Bundle()}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")

	var ok bool
	if x.route, ok = parseRoute(r.RequestURI); !ok {
		// Nothing about the configuration shows: no target can be there.
		x.problem(mayfly.Errorf(mayfly.NotFound, "there is nothing here; targets are at /mcp/NAME and /http/NAME/PATH"))
		return
	}
	x.presented = authority.Presented{
		Authorization: r.Header["Authorization"],
		DPoP:          r.Header["Dpop"],
		Method:        r.Method,
		URL:           x.bundle.Issuer + x.route.plain,
		Source:        sourceOf(r.RemoteAddr),
		Trace:         mayfly.ParseTrace(r.Header["Traceparent"]),
	}
	if err := checkOrigin(r, x.bundle); err != nil {
		x.problem(g.authority.RefusedAtGateway(r.Context(), x.presented, nil, "origin", err))
		return
	}
	if err := g.authenticate(x); err != nil {
		x.problem(err)
		return
	}
	if x.session.Key() != "" {
		// The holder's next proof can then carry a nonce that is not about to
		// be refused (RFC 9449 section 8.2).
		w.Header().Set("Dpop-Nonce", g.authority.Nonce("rs"))
	}
	if x.target.Stdio {
		finish, err := x.converse()
		if err != nil {
			g.refuse(x, "mcp beside", err)
			return
		}
		defer finish()
	} else if r.Header.Get("Content-Type") == besideType {
		w.Header().Set("Connection", "close") // nobody will read the rest
		g.refuse(x, "mcp beside", mayfly.Errorf(mayfly.Conflict, "the server of %q is not run beside its agent: leave SERVER out, or give the target stdio: true in the place of its url", x.route.target))
		return
	} else if err := checkFraming(r); err != nil {
		w.Header().Set("Connection", "close")
		g.refuse(x, "framing", err)
		return
	}
	if x.route.surface == "mcp" {
		g.serveMCP(x)
	} else {
		g.serveHTTP(x)
	}
}

// authenticate verifies the token against the one audience this address has. To
// a stranger every target answers alike, whether it exists or not.
func (g *Gateway) authenticate(x *request) error {
	address := x.route.surface + "/" + x.route.target
	session, err := g.authority.Authenticate(x.r.Context(), x.presented, x.bundle.Issuer+"/"+address)
	if err != nil {
		if e := mayfly.AsError(err); e.Kind == mayfly.Unauthenticated {
			x.w.Header().Set("Dpop-Nonce", g.authority.Nonce("rs"))
		}
		return err
	}
	x.session = session
	x.target = x.bundle.Targets[x.route.target]
	if x.target == nil || x.target.Kind != x.route.surface {
		x.target = nil
		return g.authority.RefusedAtGateway(x.r.Context(), x.presented, session, address,
			mayfly.Errorf(mayfly.NotFound, "the target %q was removed from the configuration", x.route.target))
	}
	return nil
}

// refuse records that a verified request was refused before there was a call to
// decide on, and answers with a problem document.
func (g *Gateway) refuse(x *request, what string, err error) {
	x.problem(g.recordRefusal(x, what, err))
}

func (g *Gateway) recordRefusal(x *request, what string, err error) error {
	err = g.authority.RefusedAtGateway(x.r.Context(), x.presented, x.session, what, err)
	g.log(x, err)
	return err
}

// log writes down what the agent is not told: the cause.
func (g *Gateway) log(x *request, err error) {
	e := mayfly.AsError(err)
	switch e.Kind {
	case mayfly.Internal, mayfly.Unavailable, mayfly.BadUpstream:
		if cause := errors.Unwrap(e); cause != nil && !errors.Is(cause, context.Canceled) {
			g.logger.Warn("gateway", "target", x.route.target, "decision", e.Decision, "error", e.Message, "cause", cause)
		}
	}
}

// sourceOf is the network address of a caller, without the port.
func sourceOf(remote string) string {
	if host, _, err := net.SplitHostPort(remote); err == nil {
		return host
	}
	return remote
}
