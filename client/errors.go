package client

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"

	"github.com/mayfly-id/mayfly"
)

// problemLimit is how much of a refusal is read, in bytes.
const problemLimit = 64 << 10

// kindOf is the reverse of the server's table of statuses.
func kindOf(status int) mayfly.Kind {
	for k := mayfly.Internal; k <= mayfly.MethodNotAllowed; k++ {
		if k.Status() == status {
			return k
		}
	}
	switch {
	case status == http.StatusGatewayTimeout:
		return mayfly.Unavailable
	case status >= 400 && status < 500:
		return mayfly.Invalid
	case status >= 300 && status < 400:
		return mayfly.BadUpstream // nothing of ours redirects
	}
	return mayfly.Internal
}

// ReadError turns an answer that is not a success into a *mayfly.Error: a
// problem document (RFC 9457) of /v1 and the gateway, an OAuth error (RFC 6749
// section 5.2), or the decision point's line of text (AuthZEN 1.0). The body is consumed, not closed.
func ReadError(resp *http.Response) *mayfly.Error {
	var body struct {
		// RFC 9457
		Detail string `json:"detail"`
		Title  string `json:"title"`
		Code   string `json:"code"`
		// RFC 6749
		Error       string `json:"error"`
		Description string `json:"error_description"`
		// both
		Decision string       `json:"decision"`
		Term     mayfly.Term  `json:"term"`
		Next     *mayfly.Next `json:"next"`
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, problemLimit))
	text := err == nil && resp.Header.Get("Mayfly-Request-Id") != "" && strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain")
	if err == nil {
		err = json.Unmarshal(data, &body)
	}
	e := mayfly.Errorf(kindOf(resp.StatusCode), "the server answered %s", resp.Status)
	e.Decision = resp.Header.Get("Mayfly-Decision")
	if text && len(data) > 0 { // AuthZEN 1.0
		e.Message = string(data)
		return e
	}
	if err != nil {
		return e.Because(err) // not ours: a proxy, or another program at that address
	}
	e.Code, e.Term, e.Next = body.Code, body.Term, body.Next
	if body.Error != "" {
		e.Code = body.Error
	}
	if e.Code == "access_denied" {
		e.Kind = mayfly.Denied
	}
	if body.Decision != "" {
		e.Decision = body.Decision
	}
	for _, text := range []string{body.Description, body.Detail, body.Title, body.Error} {
		if text != "" {
			e.Message = text
			break
		}
	}
	return e
}

// unreachable is an error of the way to the server, not of the server.
func (c *Client) unreachable(err error) error {
	if e, ok := errors.AsType[*mayfly.Error](err); ok {
		return e
	}
	if errors.Is(err, context.Canceled) {
		return mayfly.Errorf(mayfly.Unavailable, "the call was given up").Because(err)
	}
	return mayfly.Errorf(mayfly.Unavailable, "no answer from %s; is the server running there?", c.address).Because(err)
}
