package gateway

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/strictjson"
)

// problem answers with an RFC 9457 document and whatever headers the error
// calls for.
func (x *request) problem(err error) {
	e := mayfly.AsError(err)
	body, failed := strictjson.Marshal(e.Problem())
	if failed != nil {
		body = []byte("{}")
	}
	x.errorHeaders(e)
	x.respond(e.Kind.Status(), "application/problem+json", body)
}

// withDecision is err naming the decision it came after. It is a copy: one error
// may end many calls.
func withDecision(err error, id string) error {
	e := *mayfly.AsError(err)
	if e.Decision == "" {
		e.Decision = id
	}
	return &e
}

// respond writes a whole answer.
func (x *request) respond(status int, contentType string, body []byte) {
	h := x.w.Header()
	if contentType != "" {
		h.Set("Content-Type", contentType)
	}
	if status != http.StatusNoContent && status != http.StatusNotModified {
		h.Set("Content-Length", strconv.Itoa(len(body)))
	}
	x.writeWithin(wholeWrite)
	x.wrote = true
	x.w.WriteHeader(status)
	// An answer that does not arrive is the client's loss: there is nobody to
	// tell, and the outcome is recorded either way.
	_, _ = x.w.Write(body)
}

// errorHeaders sets what goes with an error whatever the body: its decision, the
// challenge of a 401 (RFC 6750 section 3, RFC 9449 section 7.1, RFC 9728 section
// 5.1), the step-up of MCP authorization, and when to come back.
func (x *request) errorHeaders(e *mayfly.Error) {
	h := x.w.Header()
	if e.Decision != "" {
		h.Set("Mayfly-Decision", e.Decision)
	}
	switch {
	case e.Kind == mayfly.Unauthenticated:
		bearer, dpop := x.resourceMetadata(), `DPoP algs="ES256 EdDSA"`
		failure := ""
		if e.Code != "" {
			failure = `, error="` + quotable(e.Code) + `", error_description="` + quotable(e.Message) + `"`
		}
		// A proof is not something a bearer challenge can ask for.
		if e.Code == "invalid_token" {
			bearer += failure
		}
		h["Www-Authenticate"] = []string{"Bearer " + bearer, dpop + ", " + x.resourceMetadata() + failure}
	case e.Code == "insufficient_scope":
		params := x.resourceMetadata() + `, error="insufficient_scope", scope="` + quotable(e.Scope) +
			`", error_description="` + quotable(e.Message) + `"`
		scheme := "Bearer "
		if x.session != nil && x.session.Key() != "" {
			scheme = "DPoP "
		}
		h["Www-Authenticate"] = []string{scheme + params}
	case e.Kind == mayfly.Unavailable || e.Kind == mayfly.RateLimited:
		h.Set("Retry-After", "1")
	}
}

// resourceMetadata is the challenge parameter that leads a client to the
// authorization server (RFC 9728 section 5.1).
func (x *request) resourceMetadata() string {
	origin, path := x.bundle.Issuer, ""
	if i := strings.Index(origin, "://"); i >= 0 {
		if j := strings.IndexByte(origin[i+3:], '/'); j >= 0 {
			origin, path = origin[:i+3+j], origin[i+3+j:]
		}
	}
	return `resource_metadata="` + origin + "/.well-known/oauth-protected-resource" + path +
		"/" + x.route.surface + "/" + x.route.target + `"`
}

// quotable keeps what may stand in a quoted challenge parameter (RFC 6750
// section 3: %x20-21 / %x23-5B / %x5D-7E); the rest becomes an apostrophe or a
// question mark.
func quotable(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '"' || r == '\\':
			return '\''
		case r < 0x20 || r > 0x7e:
			return '?'
		}
		return r
	}, s)
}

// The JSON-RPC codes we use. Those of MCP 2026-07-28 are in its reserved range;
// refused is ours, outside every reserved range.
const (
	codeParse              = -32700
	codeInvalidRequest     = -32600
	codeMethodNotFound     = -32601
	codeInvalidParams      = -32602
	codeInternal           = -32603
	codeHeaderMismatch     = -32020
	codeUnsupportedVersion = -32022
	codeRefused            = 41403
)

// rpcError is the error member of a JSON-RPC response.
type rpcError struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
	Data    any    `json:"data,omitempty"`
}

// rpcData is what a refusal says to a program.
type rpcData struct {
	Reason   string       `json:"reason"`
	Decision string       `json:"decision,omitempty"`
	Term     mayfly.Term  `json:"term,omitempty"`
	Next     *mayfly.Next `json:"next,omitempty"`
}

type rpcResponse struct {
	JSONRPC string         `json:"jsonrpc"`
	ID      jsontext.Value `json:"id"` // nil is null
	Error   *rpcError      `json:"error,omitempty"`
	Result  any            `json:"result,omitzero"` // {} is a result too
}

// rpcFailure answers with a JSON-RPC error.
func (x *request) rpcFailure(status int, id jsontext.Value, e rpcError) {
	x.rpcRespond(status, rpcResponse{ID: id, Error: &e})
}

func (x *request) rpcRespond(status int, response rpcResponse) {
	response.JSONRPC = "2.0"
	body, err := strictjson.Marshal(response)
	if err != nil {
		x.problem(err)
		return
	}
	x.respond(status, "application/json", body)
}

// toolRefusal is how a refused tools/call looks: a result that a model can act
// on, not an error that a client hides from it.
type toolRefusal struct {
	ResultType string        `json:"resultType,omitempty"`
	Content    []toolContent `json:"content"`
	IsError    bool          `json:"isError"`
	Meta       refusalMeta   `json:"_meta"`
}

type toolContent struct {
	Type string `json:"type"`
	Text string `json:"text"`
}

type refusalMeta struct {
	Decision string       `json:"mayfly/decision"`
	Term     mayfly.Term  `json:"mayfly/term,omitempty"`
	Next     *mayfly.Next `json:"mayfly/next,omitempty"`
}

// refusedCall renders a refusal of a tools/call. From 2026-07-28 on every
// result says its type.
func refusedCall(e *mayfly.Error, modern bool) toolRefusal {
	text := e.Message
	if e.Next != nil && e.Next.Detail != "" {
		text = strings.TrimSuffix(text, ".") + ". " + strings.ToUpper(e.Next.Detail[:1]) + e.Next.Detail[1:]
	}
	refusal := toolRefusal{
		Content: []toolContent{{Type: "text", Text: text}},
		IsError: true,
		Meta:    refusalMeta{Decision: e.Decision, Term: e.Term, Next: e.Next},
	}
	if modern {
		refusal.ResultType = "complete"
	}
	return refusal
}
