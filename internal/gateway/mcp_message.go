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
	err := members(m.params, func(member string, v jsontext.Value) error {
		switch member {
		case "_meta":
			meta = v
		case "name":
			name = v
		case "arguments":
			arguments = v
		}
		return nil
	})
	if err != nil {
		return invalid(codeInvalidRequest, "the member \"params\" must be an object")
	}
	if meta != nil {
		if f := m.readMeta(meta); f != nil {
			return f
		}
		meta = rebuild(meta, func(member string, v jsontext.Value) jsontext.Value {
			if member == metaCapabilities {
				return jsontext.Value("{}")
			}
			return v
		})
	}
	if !call {
		m.params = rebuild(m.params, func(member string, v jsontext.Value) jsontext.Value {
			switch {
			case member == "_meta":
				return meta
			case member == "capabilities" && m.method == methodInitialize:
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
		return invalid(codeInvalidParams, "the name of a tool has 1 to %d printable characters", maxToolName)
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
	err := members(meta, func(member string, v jsontext.Value) error {
		switch member {
		case metaVersion:
			version = v
		case metaCapabilities:
			m.hasCapabilities = v.Kind() == '{'
		}
		return nil
	})
	if err != nil || version != nil && version.Kind() != '"' {
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
const maxToolName = 256

func isToolName(s string) bool {
	return s != "" && len(s) <= maxToolName && !strings.ContainsFunc(s, func(r rune) bool {
		return !unicode.IsPrint(r) || r == utf8.RuneError
	})
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
	return e, members(data, func(name string, v jsontext.Value) error {
		switch name {
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
		return nil
	})
}

// members visits the members of one JSON object, in order. Names that occur
// twice at any level, invalid UTF-8 and anything after the object are errors.
func members(object []byte, visit func(name string, v jsontext.Value) error) error {
	dec := jsontext.NewDecoder(bytes.NewBuffer(object))
	open, err := dec.ReadToken()
	if err != nil {
		return err
	}
	if open.Kind() != '{' {
		return mayfly.Errorf(mayfly.Invalid, "the JSON is not an object")
	}
	for dec.PeekKind() != '}' {
		name, err := dec.ReadToken()
		if err != nil {
			return err
		}
		member := name.String()
		v, err := dec.ReadValue()
		if err != nil {
			return err
		}
		// The decoder's own slice is good only until its next call.
		end := dec.InputOffset()
		if err := visit(member, object[end-int64(len(v)):end:end]); err != nil {
			return err
		}
	}
	if _, err := dec.ReadToken(); err != nil {
		return err
	}
	if rest := bytes.TrimLeft(object[dec.InputOffset():], " \t\r\n"); len(rest) > 0 {
		return mayfly.Errorf(mayfly.Invalid, "the JSON goes on after its end")
	}
	return nil
}

// rebuild writes a valid object again with each member as with gives it; nil
// leaves it out.
func rebuild(object jsontext.Value, with func(name string, v jsontext.Value) jsontext.Value) jsontext.Value {
	b := make([]byte, 0, len(object))
	b = append(b, '{')
	// object was read before: it has no errors left to find.
	_ = members(object, func(name string, v jsontext.Value) error {
		if v = with(name, v); v == nil {
			return nil
		}
		if len(b) > 1 {
			b = append(b, ',')
		}
		b = appendMember(b, name, v)
		return nil
	})
	return append(b, '}')
}

func appendMember(b []byte, name string, v jsontext.Value) []byte {
	quoted, err := jsontext.AppendQuote(b, name)
	if err != nil {
		return b // the name is not UTF-8: the decoder it comes from lets none through
	}
	return append(append(quoted, ':'), v...)
}

// text is the text of a JSON string that was read as one.
func text(v jsontext.Value) string {
	s, err := jsontext.AppendUnquote(nil, v)
	if err != nil {
		return ""
	}
	return string(s)
}

// anyScalar reports whether match holds for a string, number or boolean of v, at
// whatever depth.
func anyScalar(v jsontext.Value, match func(jsontext.Value) bool) bool {
	if v.Kind() != '{' {
		return match(v)
	}
	found := false
	_ = members(v, func(_ string, inner jsontext.Value) error {
		found = found || anyScalar(inner, match)
		return nil
	})
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
	var names [][]byte
	var scopes []scope
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

// elements visits the elements of a valid JSON array.
func elements(array jsontext.Value, visit func(jsontext.Value) error) error {
	dec := jsontext.NewDecoder(bytes.NewBuffer(array))
	if _, err := dec.ReadToken(); err != nil {
		return err
	}
	for dec.PeekKind() != ']' {
		v, err := dec.ReadValue()
		if err != nil {
			return err
		}
		end := dec.InputOffset()
		if err := visit(array[end-int64(len(v)) : end : end]); err != nil {
			return err
		}
	}
	return nil
}

// withMember appends a member that a valid object does not have yet.
func withMember(object jsontext.Value, name string, v jsontext.Value) jsontext.Value {
	b := append(make([]byte, 0, len(object)+len(name)+len(v)+4), object[:len(object)-1]...)
	if len(b) > 1 {
		b = append(b, ',')
	}
	return append(appendMember(b, name, v), '}')
}
