package server

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/strictjson"
)

// proofAlgs are the algorithms a DPoP proof may be signed with (RFC 9449).
const proofAlgs = "ES256 EdDSA"

// retryAfter is how long a caller is asked to wait, where nothing better is known.
const retryAfter = time.Second

// humanWait is how long a caller is asked to wait that asked humans for too much.
const humanWait = time.Minute

// fail answers with err: as RFC 6749 has it where the route speaks OAuth, as
// AuthZEN 1.0 has it where it speaks that, else as a problem document. What caused it is logged and never shown.
func (c *call) fail(err error) {
	e := mayfly.AsError(err)
	c.refused = e
	if e.Kind == mayfly.Internal {
		c.s.o.Logger.Error("a request failed", "request", c.id, "error", clean(e.Message), "cause", cause(e))
	} else if cause := cause(e); cause != "" {
		c.s.o.Logger.Info("a request was refused", "request", c.id, "error", clean(e.Message), "cause", cause)
	}
	h := c.w.Header()
	h.Set("Cache-Control", "no-store")
	if e.Decision != "" {
		h.Set("Mayfly-Decision", e.Decision)
	}
	if (e.Kind == mayfly.RateLimited || e.Kind == mayfly.Unavailable) && h.Get("Retry-After") == "" {
		wait := retryAfter
		if e.Code == "approval_limit" {
			wait = humanWait
		}
		h.Set("Retry-After", seconds(wait))
	}
	switch {
	case c.route != nil && c.route.surface == oauth:
		c.failOAuth(e)
	case c.route != nil && c.route.surface == decides:
		c.failText(e)
	default:
		c.failProblem(e)
	}
}

// failProblem answers with a problem document (RFC 9457).
func (c *call) failProblem(e *mayfly.Error) {
	c.challenge(e)
	c.write(e.Kind.Status(), typeProblem, e.Problem())
}

// challenge names the ways to authenticate, where that is what is missing.
func (c *call) challenge(e *mayfly.Error) {
	if e.Kind == mayfly.Unauthenticated {
		known := len(c.r.Header["Authorization"]) > 0
		c.w.Header()["Www-Authenticate"] = challenges(e, known, c.s.a.Bundle().Issuer+"/.well-known/oauth-protected-resource")
	}
}

// challenges are the ways to authenticate that a 401 names (RFC 9449 section
// 7.1, RFC 6750 section 3, RFC 9728 section 5.1). A caller who presented
// nothing is told no error.
func challenges(e *mayfly.Error, presented bool, metadata string) []string {
	dpop, bearer := `DPoP algs="`+proofAlgs+`"`, `Bearer resource_metadata="`+metadata+`"`
	if !presented || e.Code == "" {
		return []string{dpop, bearer}
	}
	why := `error="` + ascii(e.Code) + `", error_description="` + ascii(e.Message) + `", `
	dpop = `DPoP ` + why + `algs="` + proofAlgs + `"`
	if e.Code == "invalid_token" {
		bearer = `Bearer ` + why + `resource_metadata="` + metadata + `"`
	}
	return []string{dpop, bearer}
}

// oauthError is an error of the OAuth endpoints (RFC 6749 section 5.2). The
// last three are set where a decision refused.
type oauthError struct {
	Error       string       `json:"error"`
	Description string       `json:"error_description,omitempty"`
	Decision    string       `json:"decision,omitempty"`
	Term        mayfly.Term  `json:"term,omitempty"`
	Next        *mayfly.Next `json:"next,omitempty"`
}

// oauthCodes are the error codes that the OAuth endpoints may say, and oauthKinds
// what they say of a kind of failure that brings none of these.
var (
	oauthCodes = []string{
		"invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type", "invalid_scope", // RFC 6749
		"access_denied", "temporarily_unavailable", "server_error",
		"invalid_target",                // RFC 8707
		"invalid_authorization_details", // RFC 9396
		"invalid_dpop_proof", "use_dpop_nonce",
		"unsupported_token_type", // RFC 7009
	}
	oauthKinds = map[mayfly.Kind]string{
		mayfly.Internal:    "server_error",
		mayfly.Denied:      "access_denied",
		mayfly.Conflict:    "invalid_grant",
		mayfly.Gone:        "invalid_grant",
		mayfly.RateLimited: "temporarily_unavailable",
		mayfly.Unavailable: "temporarily_unavailable",
	}
)

// oauthAnswer is the status and code for e: 400 (RFC 6749 section 5.2) except
// where the failure is of the client's authentication, of the message itself,
// or ours.
func oauthAnswer(e *mayfly.Error) (status int, code string) {
	code = "invalid_request"
	if c, ok := oauthKinds[e.Kind]; ok {
		code = c
	}
	for _, known := range oauthCodes {
		if e.Code == known {
			code = e.Code
		}
	}
	switch e.Kind {
	case mayfly.Internal, mayfly.TooLarge, mayfly.MediaType, mayfly.RateLimited, mayfly.Unavailable, mayfly.MethodNotAllowed:
		return e.Kind.Status(), code
	}
	if code == "invalid_client" {
		return http.StatusUnauthorized, code
	}
	return http.StatusBadRequest, code
}

func (c *call) failOAuth(e *mayfly.Error) {
	status, code := oauthAnswer(e)
	// A client that tried the Authorization header is told which scheme failed
	// (RFC 6749 section 5.2).
	if scheme := c.basic(); status == http.StatusUnauthorized && scheme != "" {
		c.w.Header().Set("WWW-Authenticate", scheme+` realm="mayfly"`)
	}
	c.write(status, typeJSON, oauthError{code, ascii(e.Message), e.Decision, e.Term, e.Next})
}

// ascii writes s with the characters that RFC 6749 section 5.2 allows in an
// error_description, which are also those a quoted string of a challenge may
// hold as they are.
func ascii(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '"' || r == '’' || r == '“' || r == '”':
			return '\''
		case r == '\\':
			return '/'
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case r < ' ' || r == 0x7f:
			return -1
		case r > 0x7f:
			return '?'
		}
		return r
	}, strings.ReplaceAll(s, "…", "..."))
}

// write answers with v as JSON.
func (c *call) write(status int, mediaType string, v any) {
	data, err := strictjson.Marshal(v)
	if err != nil {
		c.s.o.Logger.Error("an answer could not be written", "request", c.id, "error", err)
		status, mediaType = http.StatusInternalServerError, typeProblem
		data = []byte(`{"type":"urn:mayfly:problem:internal","title":"Internal error","status":500}`)
	}
	c.writeBytes(status, mediaType, data)
}

func (c *call) writeBytes(status int, mediaType string, data []byte) {
	h := c.w.Header()
	h.Set("Content-Type", mediaType)
	h.Set("Content-Length", strconv.Itoa(len(data)))
	c.w.WriteHeader(status)
	if _, err := c.w.Write(data); err != nil {
		c.s.o.Logger.Debug("an answer was not taken", "request", c.id, "error", err)
	}
}

// seconds writes d for Retry-After: whole, rounded up, at least 1.
func seconds(d time.Duration) string {
	return strconv.FormatInt(max(1, int64((d+time.Second-1)/time.Second)), 10)
}

func cause(e *mayfly.Error) string {
	if err := e.Unwrap(); err != nil {
		return clean(err.Error())
	}
	return ""
}
