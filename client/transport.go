package client

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/mayfly-id/mayfly"
)

// replayLimit is how much of a request's body is kept, in bytes, so that it can
// be sent again with the nonce that the server asks for.
const replayLimit = 1 << 20

// Endpoint is the gateway's address for target: the resource its tokens are for,
// and the URL that calls go to. kind is mcp or http.
func (c *Client) Endpoint(ctx context.Context, kind, target string) (string, error) {
	issuer, err := c.Issuer(ctx)
	if err != nil {
		return "", err
	}
	return issuer + "/" + kind + "/" + url.PathEscape(target), nil
}

// Transport is an http.RoundTripper for calls of the gateway as this task: it
// takes a token for the target the URL names, and adds a proof where the token
// is bound. It refuses every URL that is not the server's own, so that a
// redirect or a mistake sends no token elsewhere. Answers, refusals included,
// are given as they come: see [ReadError].
func (s *Session) Transport() http.RoundTripper {
	return &transport{s.client, func(ctx context.Context, resource string) (Token, error) {
		return s.Token(ctx, resource)
	}}
}

// Transport is like [Session.Transport] with one token for one target.
func (c *Client) Transport(token TokenFunc) http.RoundTripper {
	return &transport{c, func(ctx context.Context, _ string) (Token, error) { return token(ctx) }}
}

type transport struct {
	client *Client
	token  func(ctx context.Context, resource string) (Token, error)
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	out, body, err := t.prepare(req)
	if err != nil {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, err
	}
	return t.client.gateway(out, body, t.token)
}

// prepare is req on its way to the client's server.
func (t *transport) prepare(req *http.Request) (*http.Request, *replay, error) {
	issuer, err := t.client.Issuer(req.Context())
	if err != nil {
		return nil, nil, err
	}
	origin := req.URL.Scheme + "://" + req.URL.Host
	if origin != issuer && origin != t.client.base.String() {
		return nil, nil, mayfly.Errorf(mayfly.Invalid, "%s is not on the server this task's tokens are for (%s)", req.URL.Redacted(), issuer)
	}
	out := req.Clone(req.Context())
	out.URL.Scheme, out.URL.Host = t.client.base.Scheme, t.client.base.Host
	out.Host = ""
	out.Header.Del("Authorization")
	out.Header.Del("DPoP")
	body, err := replayable(req)
	if err != nil {
		return nil, nil, mayfly.Errorf(mayfly.Invalid, "the request's body cannot be read").Because(err)
	}
	return out, body, nil
}

// gateway sends req with the token for the target that its path names.
func (c *Client) gateway(req *http.Request, body *replay, token func(context.Context, string) (Token, error)) (*http.Response, error) {
	resource, err := c.resourceOf(req)
	if err != nil {
		body.close()
		return nil, err
	}
	who, err := token(req.Context(), resource)
	if err != nil {
		body.close()
		return nil, err
	}
	for retried := false; ; retried = true {
		attempt := req.Clone(req.Context())
		if attempt.Body, err = body.next(); err != nil {
			return nil, err
		}
		if body.length > 0 {
			attempt.ContentLength = body.length
		}
		if err := c.authorize(attempt, who, false); err != nil {
			body.close()
			return nil, err
		}
		resp, err := c.wire.http.RoundTrip(attempt)
		if err != nil {
			return nil, c.unreachable(err)
		}
		c.wire.learn(resp, false)
		if retried || who.Key == nil || !body.again() || !wantsNonce(resp) {
			return resp, nil
		}
		drain(resp)
	}
}

// resourceOf is the audience that a call of the gateway needs: <issuer>/mcp/x of
// <issuer>/mcp/x/anything.
func (c *Client) resourceOf(req *http.Request) (string, error) {
	parts := strings.SplitN(req.URL.EscapedPath(), "/", 4) // "", kind, target, rest
	if len(parts) < 3 || parts[0] != "" || parts[1] != "mcp" && parts[1] != "http" || parts[2] == "" {
		return "", mayfly.Errorf(mayfly.Invalid, "%s names no target; a call goes to /mcp/{target} or /http/{target}/…", req.URL.Path)
	}
	target, err := url.PathUnescape(parts[2])
	if err != nil {
		return "", mayfly.Errorf(mayfly.Invalid, "%s names no target", req.URL.Path).Because(err)
	}
	return c.Endpoint(req.Context(), parts[1], target)
}

// replay is a body that can be sent twice if it is short enough to keep.
type replay struct {
	open func() (io.ReadCloser, error) // nil once there is nothing to send again
	body io.ReadCloser                 // for the first attempt of a long one
	// length of a body that was read here, in bytes: the gateway takes no body
	// without one.
	length int64
}

func replayable(req *http.Request) (*replay, error) {
	switch {
	case req.Body == nil || req.Body == http.NoBody:
		return &replay{open: func() (io.ReadCloser, error) { return http.NoBody, nil }}, nil
	case req.GetBody != nil:
		req.Body.Close()
		return &replay{open: req.GetBody}, nil
	}
	head, err := io.ReadAll(io.LimitReader(req.Body, replayLimit+1))
	if err != nil {
		return nil, err
	}
	if len(head) > replayLimit {
		return &replay{body: struct {
			io.Reader
			io.Closer
		}{io.MultiReader(bytes.NewReader(head), req.Body), req.Body}}, nil
	}
	req.Body.Close()
	if len(head) == 0 {
		return &replay{open: func() (io.ReadCloser, error) { return http.NoBody, nil }}, nil
	}
	return &replay{
		open:   func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(head)), nil },
		length: int64(len(head)),
	}, nil
}

// next is the body of the next attempt.
func (r *replay) next() (io.ReadCloser, error) {
	if r.open != nil {
		return r.open()
	}
	return r.body, nil
}

// again reports whether there can be a next attempt.
func (r *replay) again() bool { return r.open != nil }

// close releases a body that is not going to be sent.
func (r *replay) close() {
	if r.body != nil {
		r.body.Close()
	}
}
