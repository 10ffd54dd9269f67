package gateway

import (
	"bytes"
	"net/http"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/strictjson"
)

// The protocol versions spoken. An era is what a request carries with it: in the
// modern one everything, in the legacy one a session.
const modernVersion = "2026-07-28"

var legacyVersions = []string{"2025-11-25", "2025-06-18", "2025-03-26"}

func supportedVersions() []string { return append([]string{modernVersion}, legacyVersions...) }

// The members of _meta that the modern era is told by.
const (
	metaVersion      = "io.modelcontextprotocol/protocolVersion"
	metaCapabilities = "io.modelcontextprotocol/clientCapabilities"
)

// The members that gateway adds to results.
const metaDecision = "mayfly/decision"

// Methods with a rule. Everything else is refused, in both directions.
const (
	methodInitialize = "initialize"
	methodDiscover   = "server/discover"
	methodPing       = "ping"
	methodListTools  = "tools/list"
	methodCallTool   = "tools/call"
	notifications    = "notifications/"
	notifyTools      = "notifications/tools/list_changed"
)

// message is one JSON-RPC message of an agent, read once: what is decided on,
// recorded and forwarded are these values.
type message struct {
	id     jsontext.Value // nil for a notification
	method string
	params jsontext.Value // a canonical object, or nil
	modern bool

	version         string // in _meta
	hasCapabilities bool   // in _meta

	tool      string         // with tools/call
	arguments jsontext.Value // with tools/call: a canonical object
}

// fault is why a message is refused before there is a call to decide on.
type fault struct {
	code int // of JSON-RPC
	err  *mayfly.Error
	data any // of the JSON-RPC error, where the code calls for some
}

func invalid(code int, format string, args ...any) *fault {
	return &fault{code: code, err: mayfly.Errorf(mayfly.Invalid, format, args...)}
}

// parseMessage reads a body as one request or notification. It gives the id with
// a fault too, as far as it got.
func parseMessage(body []byte) (*message, *fault) {
	m := &message{}
	canonical, err := canonicalBody(body)
	if err != nil {
		code := codeInvalidRequest
		loose := []jsontext.Options{jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)}
		if !jsontext.Value(body).IsValid(loose...) {
			code = codeParse
		}
		return m, &fault{code: code, err: mayfly.AsError(err)}
	}
	if canonical[0] == '[' {
		return m, invalid(codeInvalidRequest, "send one message at a time, not a batch")
	}
	e, err := parseEnvelope(canonical)
	if err != nil {
		return m, invalid(codeInvalidRequest, "the body must be one JSON-RPC request or notification")
	}
	if isID(e.id) {
		m.id = e.id
	} else if e.id != nil {
		return m, invalid(codeInvalidRequest, "the id must be a string or an integer")
	}
	switch {
	case e.version != `"2.0"`:
		return m, invalid(codeInvalidRequest, "the member \"jsonrpc\" must be \"2.0\"")
	case e.result != nil || e.err != nil:
		return m, invalid(codeInvalidRequest, "responses are not accepted: this gateway passes no request of a server to its client")
	case e.method.Kind() != '"':
		return m, invalid(codeInvalidRequest, "the member \"method\" must be a string")
	}
	m.method = text(e.method)
	if e.params == nil || e.params.Kind() == 'n' {
		e.params = jsontext.Value("{}")
	}
	if e.params.Kind() != '{' {
		return m, invalid(codeInvalidRequest, "the member \"params\" must be an object")
	}
	m.params = e.params
	return m, m.readParams()
}

// readParams reads what the gateway acts on, and takes out what it does not
// pass: the client's capabilities to be asked by the server.
func (m *message) readParams() *fault {
	call := m.method == methodCallTool
	var name, arguments, meta jsontext.Value
	members(m.params, func(member []byte, v jsontext.Value) {
		switch string(member) {
		case "_meta":
			meta = v
		case "name":
			name = v
		case "arguments":
			arguments = v
		}
	})
	if meta != nil {
		if f := m.readMeta(meta); f != nil {
			return f
		}
		meta = rebuild(meta, func(member []byte, v jsontext.Value) jsontext.Value {
			if string(member) == metaCapabilities {
				return jsontext.Value("{}")
			}
			return v
		})
	}
	if !call {
		m.params = rebuild(m.params, func(member []byte, v jsontext.Value) jsontext.Value {
			switch {
			case string(member) == "_meta":
				return meta
			case string(member) == "capabilities" && m.method == methodInitialize:
				return jsontext.Value("{}")
			}
			return v
		})
		return nil
	}

	switch name.Kind() {
	case '"':
		m.tool = text(name)
	default:
		return invalid(codeInvalidParams, "tools/call must name a tool in \"name\"")
	}
	if !isToolName(m.tool) {
		return invalid(codeInvalidParams, "the name of a tool has 1 to %d characters: letters, digits and _-./", maxToolName)
	}
	switch arguments.Kind() {
	case '{':
		m.arguments = arguments
	case 'n', 0:
		m.arguments = jsontext.Value("{}")
	default:
		return invalid(codeInvalidParams, "the \"arguments\" of tools/call must be an object")
	}
	// A call is forwarded with the members it was decided on and no other.
	b := []byte("{")
	if meta != nil {
		b = append(append(append(b, `"_meta":`...), meta...), ',')
	}
	b = append(append(b, `"arguments":`...), m.arguments...)
	b = append(append(append(b, `,"name":`...), name...), '}')
	m.params = b
	return nil
}

func (m *message) readMeta(meta jsontext.Value) *fault {
	if meta.Kind() != '{' {
		return invalid(codeInvalidParams, "the member \"_meta\" must be an object")
	}
	var version jsontext.Value
	members(meta, func(member []byte, v jsontext.Value) {
		switch string(member) {
		case metaVersion:
			version = v
		case metaCapabilities:
			m.hasCapabilities = v.Kind() == '{'
		}
	})
	if version != nil && version.Kind() != '"' {
		return invalid(codeInvalidParams, "the member %q of _meta must be a string", metaVersion)
	}
	if version != nil {
		m.version = text(version)
	}
	return nil
}

// checkHeaders compares the headers with the body, tells the era, and refuses
// what says two things (MCP 2026-07-28, Streamable HTTP, server validation).
func (m *message) checkHeaders(h http.Header) *fault {
	declared := ""
	switch values := h["Mcp-Protocol-Version"]; len(values) {
	case 0:
		if m.version != "" {
			return invalid(codeHeaderMismatch, "the header MCP-Protocol-Version is missing; it must say %q", clip(m.version))
		}
	case 1:
		declared = values[0]
	default:
		return invalid(codeHeaderMismatch, "send one header MCP-Protocol-Version")
	}
	if declared != "" && declared != modernVersion && !slices.Contains(legacyVersions, declared) {
		f := invalid(codeUnsupportedVersion, "protocol version %q is not supported", clip(declared))
		f.data = map[string]any{"supported": supportedVersions(), "requested": clip(declared)}
		return f
	}
	if m.version != "" && m.version != declared {
		return invalid(codeHeaderMismatch, "MCP-Protocol-Version says %q and the body %q", declared, clip(m.version))
	}
	m.modern = declared == modernVersion
	if !m.modern {
		return nil
	}
	if m.id != nil && (m.version == "" || !m.hasCapabilities) {
		return invalid(codeInvalidParams, "_meta must have %q and %q", metaVersion, metaCapabilities)
	}
	if values := h["Mcp-Method"]; len(values) != 1 || values[0] != m.method {
		return invalid(codeHeaderMismatch, "the header Mcp-Method must say %q, as the body does", clip(m.method))
	}
	switch values := h["Mcp-Name"]; {
	case m.method == methodCallTool:
		if len(values) != 1 {
			return invalid(codeHeaderMismatch, "the header Mcp-Name must say %q, as the body does", m.tool)
		}
		if name, ok := decodeMirror(values[0]); !ok || name != m.tool {
			return invalid(codeHeaderMismatch, "the header Mcp-Name must say %q, as the body does", m.tool)
		}
	case len(values) > 0 && m.passes():
		return invalid(codeHeaderMismatch, "the header Mcp-Name is not for %q", clip(m.method))
	}
	return m.checkParams(h)
}

// mirrorPrefix begins the headers that mirror arguments.
const mirrorPrefix = "Mcp-Param-"

// checkParams refuses a mirrored argument that is none of the arguments. Which
// header belongs to which argument only the tool's schema says; the target,
// which has it, compares that.
func (m *message) checkParams(h http.Header) *fault {
	for name, values := range h {
		if !strings.HasPrefix(name, mirrorPrefix) {
			continue
		}
		if m.method != methodCallTool || len(values) != 1 {
			return invalid(codeHeaderMismatch, "the header %s must stand once, with tools/call", clip(name))
		}
		value, ok := decodeMirror(values[0])
		if !ok || !anyScalar(m.arguments, func(v jsontext.Value) bool { return mirrors(value, v) }) {
			return invalid(codeHeaderMismatch, "the header %s says what none of the arguments says", clip(name))
		}
	}
	return nil
}

// mirror sets the headers that repeat the body, from the body (and for arguments
// from what was compared with it).
func (m *message) mirror(out, in http.Header) {
	if !m.modern {
		if v := in["Mcp-Protocol-Version"]; len(v) == 1 {
			out["Mcp-Protocol-Version"] = []string{v[0]}
		}
		return
	}
	out["Mcp-Protocol-Version"] = []string{modernVersion}
	out["Mcp-Method"] = []string{m.method}
	if m.method != methodCallTool {
		return
	}
	out["Mcp-Name"] = []string{encodeMirror(m.tool)}
	for name, values := range in {
		if strings.HasPrefix(name, mirrorPrefix) && !strings.ContainsRune(name, '_') {
			if value, ok := decodeMirror(values[0]); ok {
				out[name] = []string{encodeMirror(value)}
			}
		}
	}
}

// passes reports whether m is passed without a decision.
func (m *message) passes() bool {
	if m.id == nil {
		return strings.HasPrefix(m.method, notifications)
	}
	switch m.method {
	case methodListTools:
		return true
	case methodInitialize, methodPing:
		return !m.modern
	case methodDiscover:
		return m.modern
	}
	return false
}

// isModernMethod reports whether the modern protocol has the method at all:
// others are unknown there, which has a status of its own.
func isModernMethod(method string) bool {
	switch method {
	case methodDiscover, methodListTools, methodCallTool, "prompts/list", "prompts/get", "resources/list", "resources/read",
		"resources/templates/list", "completion/complete", "subscriptions/listen", "tasks/get", "tasks/update", "tasks/cancel":
		return true
	}
	return strings.HasPrefix(method, notifications)
}

// encode gives the bytes that are forwarded: canonical JSON (RFC 8785) of what
// was read and of nothing else.
func (m *message) encode() ([]byte, error) {
	b := make([]byte, 0, len(m.params)+len(m.method)+len(m.id)+64)
	b = append(b, '{')
	if m.id != nil {
		b = append(append(append(b, `"id":`...), m.id...), ',')
	}
	b = append(b, `"jsonrpc":"2.0","method":`...)
	method, err := strictjson.Marshal(m.method)
	if err != nil {
		return nil, err
	}
	b = append(append(append(b, method...), `,"params":`...), m.params...)
	return append(b, '}'), nil
}

// maxToolName bounds the name of a tool, in bytes.
const maxToolName = 128

// isToolName reports whether a tool can be called s: letters, digits and a few
// marks of ASCII, so that no two names look alike.
func isToolName(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '_', c == '-', c == '.', c == '/':
		default:
			return false
		}
	}
	return s != "" && len(s) <= maxToolName
}

// isID reports whether v can be the id of a request: a string, or a whole
// number.
func isID(v jsontext.Value) bool {
	const longest = 256
	switch v.Kind() {
	case '"':
		return len(v) <= longest
	case '0':
		return len(v) <= longest && !bytes.ContainsAny(v, ".eE")
	}
	return false
}

// envelope is a JSON-RPC message of either side. Members it does not have are
// nil; others are not read.
type envelope struct {
	version                         string // as written
	id, method, params, result, err jsontext.Value
}

// parseEnvelope reads one message, refusing duplicate names and invalid UTF-8 at
// every level. The values are parts of data.
func parseEnvelope(data []byte) (envelope, error) {
	var e envelope
	if !jsontext.Value(data).IsValid() {
		return e, mayfly.Errorf(mayfly.Invalid, "the message is not JSON that every parser reads alike")
	}
	if v := jsontext.Value(data); v.Kind() != '{' {
		return e, mayfly.Errorf(mayfly.Invalid, "the message is not a JSON object")
	}
	members(data, func(name []byte, v jsontext.Value) {
		switch string(name) {
		case "jsonrpc":
			e.version = string(v)
		case "id":
			e.id = v
		case "method":
			e.method = v
		case "params":
			e.params = v
		case "result":
			e.result = v
		case "error":
			e.err = v
		}
	})
	return e, nil
}

// anyScalar reports whether match holds for a string, number or boolean of v, at
// whatever depth.
func anyScalar(v jsontext.Value, match func(jsontext.Value) bool) bool {
	if v.Kind() != '{' {
		return match(v)
	}
	found := false
	members(v, func(_ []byte, inner jsontext.Value) { found = found || anyScalar(inner, match) })
	return found
}

// foldedTwice finds a name that stands twice in one object in different case: a
// reader that ignores case (Go's encoding/json is one) would take the other.
// data must be canonical JSON.
func foldedTwice(data []byte) (name string, twice bool) {
	type scope struct {
		first int  // of its names
		mixed bool // one of them is not plain lower case
	}
	names, scopes := make([][]byte, 0, 32), make([]scope, 0, 8)
	for i := 0; i < len(data); i++ {
		switch data[i] {
		case '{', '[':
			scopes = append(scopes, scope{first: len(names)})
		case '}', ']':
			s := scopes[len(scopes)-1]
			scopes = scopes[:len(scopes)-1]
			if s.mixed {
				seen := make(map[string]struct{}, len(names)-s.first)
				for _, n := range names[s.first:] {
					key := fold(n)
					if _, there := seen[key]; there {
						return string(n), true
					}
					seen[key] = struct{}{}
				}
			}
			names = names[:s.first]
		case '"':
			start := i + 1
			for i = start; data[i] != '"'; i++ {
				if data[i] == '\\' {
					i++
				}
			}
			if i+1 < len(data) && data[i+1] == ':' {
				n := data[start:i]
				names = append(names, n)
				scopes[len(scopes)-1].mixed = scopes[len(scopes)-1].mixed || isMixed(n)
			}
		}
	}
	return "", false
}

func isMixed(name []byte) bool {
	for _, c := range name {
		if 'A' <= c && c <= 'Z' || c >= utf8.RuneSelf {
			return true
		}
	}
	return false
}

// fold is the same for names that differ in case only (Unicode simple folding).
func fold(name []byte) string {
	return string(bytes.Map(func(r rune) rune {
		least := r
		for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
			least = min(least, f)
		}
		return least
	}, name))
}
