package server

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// surface says how a route's callers show who they are, and so which errors it
// speaks.
type surface int

const (
	open    surface = iota // anybody; problem documents
	oauth                  // in the form, or as the peer of the socket; RFC 6749 errors, nonces of the authorization server
	api                    // Authorization header, or as the peer of the socket; problem documents, nonces of the resource server
	decides                // as api; errors are one line of text (AuthZEN 1.0)
)

// body says what a route reads.
type body int

const (
	empty body = iota // nothing, or {}
	form              // application/x-www-form-urlencoded
	jsonBody
)

// Sizes of bodies, in bytes.
const (
	formLimit     = 32 << 10
	jsonLimit     = 1 << 20
	questionLimit = 256 << 10
	emptyLimit    = 64
)

// route is one row of the API.
type route struct {
	method  string
	pattern string // segments; {name} is one, {name...} is all that follow
	surface surface
	body    body
	limit   int64    // of the body, in bytes; 0 is that of its kind
	query   []string // parameters it knows; on an api route any other is refused
	status  int      // of success
	answer  string   // media type of success; "" has no body
	cors    bool     // may be read by pages of any site: public, and the same for all
	probe   bool     // asked by machines that must get through: not limited
	stream  bool     // may be had as server-sent events too
	handle  func(*call) error
}

// Media types.
const (
	typeJSON    = "application/json"
	typeProblem = "application/problem+json"
	typeForm    = "application/x-www-form-urlencoded"
	typeText    = "text/plain; charset=utf-8"
	typeBytes   = "application/octet-stream"
	typeSSE     = "text/event-stream"
	typeJWT     = "application/jwt" // RFC 7519 section 10.3.1
)

// routes is everything the server answers, beside the gateway's /mcp/ and
// /http/. The first row that fits a path is taken.
func routes() []route {
	page := []string{"cursor", "limit"}
	return []route{
		// OAuth.
		{method: "GET", pattern: "/.well-known/oauth-authorization-server", answer: typeJSON, status: 200, cors: true, handle: serverMetadata},
		{method: "GET", pattern: "/.well-known/openid-configuration", answer: typeJSON, status: 200, cors: true, handle: serverMetadata},
		{method: "GET", pattern: "/.well-known/oauth-protected-resource", answer: typeJSON, status: 200, cors: true, handle: resourceMetadata},
		{method: "GET", pattern: "/.well-known/oauth-protected-resource/mcp/{target}", answer: typeJSON, status: 200, cors: true, handle: resourceMetadata},
		{method: "GET", pattern: "/.well-known/oauth-protected-resource/http/{target}", answer: typeJSON, status: 200, cors: true, handle: resourceMetadata},
		{method: "GET", pattern: "/oauth2/jwks", answer: "application/jwk-set+json", status: 200, cors: true, handle: jwks},
		{method: "POST", pattern: "/oauth2/token", surface: oauth, body: form, answer: typeJSON, status: 200, handle: issueToken},
		{method: "POST", pattern: "/oauth2/introspect", surface: oauth, body: form, answer: typeJSON, status: 200, handle: introspect},
		{method: "POST", pattern: "/oauth2/revoke", surface: oauth, body: form, answer: typeJSON, status: 200, handle: revokeToken},

		// Tasks.
		{method: "GET", pattern: "/v1/tasks", surface: api, query: append([]string{"state", "profile", "root", "target"}, page...), answer: typeJSON, status: 200, handle: answers((*call).tasks)},
		{method: "GET", pattern: "/v1/tasks/{id}", surface: api, answer: typeJSON, status: 200, handle: answers((*call).task)},
		{method: "GET", pattern: "/v1/tasks/{id}/tree", surface: api, answer: typeJSON, status: 200, handle: answers((*call).tree)},
		{method: "GET", pattern: "/v1/tasks/{id}/events", surface: api, query: page, answer: typeJSON, status: 200, handle: answers((*call).taskEvents)},
		{method: "GET", pattern: "/v1/tasks/{id}/certificate", surface: api, answer: typeJWT, status: 200, handle: certificate},
		{method: "POST", pattern: "/v1/tasks/{id}/complete", surface: api, answer: typeJSON, status: 200, handle: answers((*call).complete)},
		{method: "POST", pattern: "/v1/tasks/{id}/revoke", surface: api, answer: typeJSON, status: 200, handle: answers((*call).revoke)},
		{method: "POST", pattern: "/v1/tasks/{id}/heartbeat", surface: api, answer: typeJSON, status: 200, handle: answers((*call).heartbeat)},
		{method: "POST", pattern: "/v1/tasks/{id}/narrow", surface: api, body: jsonBody, answer: typeJSON, status: 200, handle: takes((*call).narrow)},
		{method: "POST", pattern: "/v1/tasks/{id}/widen", surface: api, body: jsonBody, answer: typeJSON, status: 200, handle: takes((*call).widen)},

		// Leases.
		{method: "GET", pattern: "/v1/tasks/{id}/leases", surface: api, answer: typeJSON, status: 200, handle: answers((*call).leases)},
		{method: "POST", pattern: "/v1/tasks/{id}/leases", surface: api, body: jsonBody, answer: typeJSON, status: 201, handle: takes((*call).checkOut)},
		{method: "DELETE", pattern: "/v1/tasks/{id}/leases/{lease}", surface: api, answer: typeJSON, status: 200, handle: answers((*call).giveBack)},

		// Approvals.
		{method: "GET", pattern: "/v1/approvals", surface: api, query: append([]string{"state"}, page...), answer: typeJSON, status: 200, stream: true, handle: approvals},
		{method: "GET", pattern: "/v1/approvals/{id}", surface: api, answer: typeJSON, status: 200, handle: answers((*call).approval)},
		{method: "POST", pattern: "/v1/approvals/{id}", surface: api, body: jsonBody, answer: typeJSON, status: 200, handle: takes((*call).answerApproval)},

		// Decisions: why they are what they are, what other policies would make of
		// them, and what would be decided (AuthZEN 1.0).
		{method: "GET", pattern: "/v1/decisions/{id}", surface: api, answer: typeJSON, status: 200, handle: answers((*call).explain)},
		{method: "POST", pattern: "/v1/replay", surface: api, body: jsonBody, answer: typeJSON, status: 200, handle: takes((*call).replay)},
		{method: "GET", pattern: "/.well-known/authzen-configuration", answer: typeJSON, status: 200, cors: true, handle: decisionPoint},
		{method: "POST", pattern: "/access/v1/evaluation", surface: decides, body: jsonBody, limit: questionLimit, answer: typeJSON, status: 200, handle: evaluation},
		{method: "POST", pattern: "/access/v1/evaluations", surface: decides, body: jsonBody, limit: questionLimit, answer: typeJSON, status: 200, handle: evaluations},

		// Pins of tools.
		{method: "GET", pattern: "/v1/pins", surface: api, answer: typeJSON, status: 200, handle: answers((*call).pins)},
		{method: "POST", pattern: "/v1/pins/{target}/{tool}/accept", surface: api, body: jsonBody, answer: typeJSON, status: 200, handle: takes((*call).acceptPin)},

		// Delegations, the kill switch, keys.
		{method: "POST", pattern: "/v1/delegations", surface: api, body: jsonBody, answer: typeJSON, status: 201, handle: takes((*call).delegate)},
		{method: "GET", pattern: "/v1/revocations", surface: api, answer: typeJSON, status: 200, handle: answers((*call).revocations)},
		{method: "POST", pattern: "/v1/revocations", surface: api, body: jsonBody, answer: typeJSON, status: 201, handle: takes((*call).revokeAll)},
		{method: "DELETE", pattern: "/v1/revocations/{id}", surface: api, status: 204, handle: done((*call).liftRevocation)},
		{method: "POST", pattern: "/v1/erasures", surface: api, body: jsonBody, answer: typeJSON, status: 200, handle: takes((*call).erase)},
		{method: "POST", pattern: "/v1/keys/{kid}/compromise", surface: api, status: 204, handle: done((*call).compromiseKey)},

		// How the installation does, and by which rules.
		{method: "GET", pattern: "/v1/status", surface: api, answer: typeJSON, status: 200, handle: answers((*call).status)},
		{method: "GET", pattern: "/v1/rules", surface: api, answer: typeJSON, status: 200, handle: answers((*call).rules)},

		// Evidence.
		{method: "GET", pattern: "/v1/trace/{id}", surface: api, answer: typeJSON, status: 200, handle: answers((*call).trace)},
		{method: "GET", pattern: "/v1/search", surface: api, query: append(slices.Clone(searchQuery), page...), answer: typeJSON, status: 200, handle: answers((*call).search)},
		{method: "GET", pattern: "/v1/events", surface: api, query: []string{"after", "limit"}, answer: typeJSON, status: 200, stream: true, handle: events},
		{method: "GET", pattern: "/log/checkpoint", answer: typeText, status: 200, handle: checkpoint},
		{method: "GET", pattern: "/log/anchor", answer: typeText, status: 200, handle: anchor},
		{method: "GET", pattern: "/log/vkey", answer: typeText, status: 200, handle: logKey},
		{method: "GET", pattern: "/log/tile/entries/{path...}", surface: api, answer: typeBytes, status: 200, handle: entries},
		{method: "GET", pattern: "/log/tile/{path...}", answer: typeBytes, status: 200, handle: tile},

		// Operations.
		{method: "GET", pattern: "/healthz", answer: typeJSON, status: 200, probe: true, handle: healthy},
		{method: "GET", pattern: "/readyz", answer: typeJSON, status: 200, probe: true, handle: ready},
		{method: "GET", pattern: "/openapi.json", answer: typeJSON, status: 200, cors: true, handle: openAPI},
	}
}

// index finds routes by the whole path where that is fixed, else one by one.
type index struct {
	fixed map[string][]*route
	open  []*route
}

func sortOut(rows []route) index {
	x := index{fixed: map[string][]*route{}}
	for i := range rows {
		r := &rows[i]
		if strings.Contains(r.pattern, "{") {
			x.open = append(x.open, r)
		} else {
			x.fixed[r.pattern] = append(x.fixed[r.pattern], r)
		}
	}
	return x
}

// find sets the route for path, as it stands on the wire: nothing is cleaned,
// decoded or redirected, so a path has one spelling. Where only other methods
// are there, it sets allow.
func (c *call) find(path string) {
	method := c.r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	var methods []string
	fits := c.s.index.fixed[path]
	var values map[string]string
	if fits == nil {
		fits, values = c.s.index.match(path)
	}
	for _, r := range fits {
		if r.method == method {
			c.route, c.values = r, values
			return
		}
		methods = append(methods, r.method)
		if r.method == http.MethodGet {
			methods = append(methods, http.MethodHead)
		}
	}
	c.allow = strings.Join(methods, ", ")
}

// match finds the rows of the first pattern that fits path.
func (x index) match(path string) (fits []*route, values map[string]string) {
	for _, r := range x.open {
		if len(fits) > 0 && r.pattern != fits[0].pattern {
			continue
		}
		if v, ok := matchPattern(r.pattern, path); ok {
			fits, values = append(fits, r), v
		}
	}
	return fits, values
}

// matchPattern reads the values that path has where pattern has names. A value
// is not empty; only a last one that stands for several segments has slashes.
func matchPattern(pattern, path string) (map[string]string, bool) {
	var values map[string]string
	for pattern != "" {
		start := strings.IndexByte(pattern, '{')
		if start < 0 {
			return values, pattern == path
		}
		if len(path) < start || path[:start] != pattern[:start] {
			return nil, false
		}
		pattern, path = pattern[start+1:], path[start:]
		name, rest, _ := strings.Cut(pattern, "}")
		pattern = rest
		end := strings.IndexByte(path, '/')
		whole, isTail := strings.CutSuffix(name, "...")
		if end < 0 || isTail {
			end = len(path)
		}
		value, err := url.PathUnescape(path[:end])
		if err != nil || value == "" {
			return nil, false
		}
		if values == nil {
			values = map[string]string{}
		}
		values[whole], path = value, path[end:]
	}
	return values, path == ""
}
