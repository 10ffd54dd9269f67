package mayfly

import (
	"errors"
	"fmt"
	"net/http"
)

// Kind says what the caller of a failed call can do about it. It decides the
// HTTP status, the OAuth error code and the exit code, each in one table.
type Kind int

// The kinds of failure. The zero Kind is Internal, so an error nobody
// classified shows nothing and allows nothing.
const (
	Internal         Kind = iota // our fault; the cause is logged and not shown
	Invalid                      // the request is malformed or contradicts itself
	TooLarge                     // the request is over a size limit
	MediaType                    // the body is not of the type this endpoint reads
	Unauthenticated              // no valid token, proof or client authentication
	Denied                       // understood, and refused by a decision
	NotFound                     // no such thing, or not for this caller: the same answer
	Conflict                     // somebody else got there first, or it is over
	Gone                         // it was there and has expired
	RateLimited                  // too many; the answer says when to try again
	Unavailable                  // cannot be done durably or safely now; nothing was done
	BadUpstream                  // the target answered in a way that cannot be passed on
	MethodNotAllowed             // the path exists, not with this method
)

// kinds is the one table from kind to HTTP status, problem title (RFC 9457
// section 3.1.3) and the problem type's last path segment.
var kinds = map[Kind]struct {
	status int
	title  string
	slug   string
}{
	Internal:         {http.StatusInternalServerError, "Internal error", "internal"},
	Invalid:          {http.StatusBadRequest, "Invalid request", "invalid"},
	TooLarge:         {http.StatusRequestEntityTooLarge, "Request too large", "too-large"},
	MediaType:        {http.StatusUnsupportedMediaType, "Unsupported media type", "media-type"},
	Unauthenticated:  {http.StatusUnauthorized, "Authentication required", "unauthenticated"},
	Denied:           {http.StatusForbidden, "Denied", "denied"},
	NotFound:         {http.StatusNotFound, "Not found", "not-found"},
	Conflict:         {http.StatusConflict, "Conflict", "conflict"},
	Gone:             {http.StatusGone, "Gone", "gone"},
	RateLimited:      {http.StatusTooManyRequests, "Too many requests", "rate-limited"},
	Unavailable:      {http.StatusServiceUnavailable, "Unavailable", "unavailable"},
	BadUpstream:      {http.StatusBadGateway, "Bad answer from the target", "bad-upstream"},
	MethodNotAllowed: {http.StatusMethodNotAllowed, "Method not allowed", "method-not-allowed"},
}

// Status is the HTTP status of k.
func (k Kind) Status() int { return kinds[k].status }

// Title is the RFC 9457 title of k.
func (k Kind) Title() string { return kinds[k].title }

// Error is the one error that crosses a boundary. Its Message is shown to the
// caller; what it wraps is logged and never shown.
type Error struct {
	Kind    Kind
	Code    string // a code fixed by a specification, such as invalid_scope; may be empty
	Message string // one sentence, for the caller: what to change
	// Decision, Term and Next are set where a decision refused.
	Decision string
	Term     Term
	Next     *Next
	// Scope, with code insufficient_scope, lists the grants the call needs.
	Scope string
	cause error
}

// Next is what the refused caller can do, for a program to act on.
type Next struct {
	Action string `json:"action"`           // request, open, retry, complete, none
	Grant  string `json:"grant,omitempty"`  // with request: the grant to ask for
	Detail string `json:"detail,omitempty"` // one sentence
	// Approval and URL, with request: the approval that was asked for, and where
	// a human answers it. The same call is sent again after the yes.
	Approval string `json:"approval,omitempty"`
	URL      string `json:"url,omitempty"`
}

// Errorf makes an Error of this kind. A %w argument becomes its cause, which is
// not part of the message shown.
func Errorf(k Kind, format string, args ...any) *Error {
	wrapped := fmt.Errorf(format, args...)
	return &Error{Kind: k, Message: wrapped.Error(), cause: errors.Unwrap(wrapped)}
}

// Coded makes an Error of this kind with a code that a specification fixes,
// such as an OAuth error code (RFC 6749 section 5.2).
func Coded(k Kind, code, format string, args ...any) *Error {
	e := Errorf(k, format, args...)
	e.Code = code
	return e
}

// Because sets what e was caused by: logged, never shown.
func (e *Error) Because(cause error) *Error { e.cause = cause; return e }

func (e *Error) Error() string { return e.Message }

// Unwrap gives the cause, for logs and errors.Is.
func (e *Error) Unwrap() error { return e.cause }

// AsError finds the Error in err's chain. An error that has none is Internal:
// its text is kept as the cause and not shown.
func AsError(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return Errorf(Internal, "something went wrong here; the server's log says what").Because(err)
}

// KindOf is the kind of AsError(err).
func KindOf(err error) Kind { return AsError(err).Kind }

// Problem is e as an RFC 9457 problem document, the shape of every error of
// /v1 and of the HTTP gateway.
type Problem struct {
	Type     string `json:"type"`
	Title    string `json:"title"`
	Status   int    `json:"status"`
	Detail   string `json:"detail,omitempty"`
	Code     string `json:"code,omitempty"`
	Decision string `json:"decision,omitempty"`
	Term     Term   `json:"term,omitempty"`
	Next     *Next  `json:"next,omitempty"`
}

// Problem renders e.
func (e *Error) Problem() Problem {
	return Problem{
		Type:     "urn:mayfly:problem:" + kinds[e.Kind].slug,
		Title:    kinds[e.Kind].title,
		Status:   kinds[e.Kind].status,
		Detail:   e.Message,
		Code:     e.Code,
		Decision: e.Decision,
		Term:     e.Term,
		Next:     e.Next,
	}
}
