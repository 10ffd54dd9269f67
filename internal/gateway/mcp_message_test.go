package gateway

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/strictjson"
)

const modernMeta = `"_meta":{"io.modelcontextprotocol/clientCapabilities":{"sampling":{}},"io.modelcontextprotocol/protocolVersion":"2026-07-28"}`

// S-42, S-43, S-44, S-47.
func TestMessagesWithTwoReadingsAreRefused(t *testing.T) {
	call := func(params string) string {
		return `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":` + params + `}`
	}
	for _, c := range []struct {
		name, body string
		code       int
		kind       mayfly.Kind
	}{
		{"a name twice", call(`{"name":"a","name":"b"}`), codeInvalidRequest, mayfly.Invalid},
		{"a name twice, escaped", call(`{"name":"a","n\u0061me":"b"}`), codeInvalidRequest, mayfly.Invalid},
		{"a method twice", `{"jsonrpc":"2.0","id":1,"method":"tools/call","method":"ping"}`, codeInvalidRequest, mayfly.Invalid},
		{"a name in two cases", call(`{"name":"a","Name":"b"}`), codeInvalidRequest, mayfly.Invalid},
		{"params in two cases", `{"jsonrpc":"2.0","id":1,"method":"ping","params":{},"PARAMS":{}}`, codeInvalidRequest, mayfly.Invalid},
		{"an argument in two cases", call(`{"name":"a","arguments":{"x":[{"amount":1,"Amount":1000}]}}`), codeInvalidRequest, mayfly.Invalid},
		{"an argument in two foldings", call(`{"name":"a","arguments":{"k":1,"` + "\u212a" + `":2}}`), codeInvalidRequest, mayfly.Invalid},
		{"something after the end", call(`{"name":"a"}`) + `{}`, codeParse, mayfly.Invalid},
		{"a byte order mark", "\ufeff" + call(`{"name":"a"}`), codeParse, mayfly.Invalid},
		{"NaN", call(`{"name":"a","arguments":{"x":NaN}}`), codeParse, mayfly.Invalid},
		{"nothing", ``, codeParse, mayfly.Invalid},
		{"invalid UTF-8", call("{\"name\":\"a\xff\"}"), codeInvalidRequest, mayfly.Invalid},
		{"half a surrogate", call(`{"name":"a\ud800"}`), codeInvalidRequest, mayfly.Invalid},
		{"depth 33", call(`{"name":"a","arguments":` + strings.Repeat(`{"a":`, 31) + `1` + strings.Repeat(`}`, 31) + `}`), codeInvalidRequest, mayfly.Invalid},
		{"a megabyte and one", call(`{"name":"` + strings.Repeat("a", 1<<20) + `"}`), codeInvalidRequest, mayfly.TooLarge},
		{"an integer no double holds", call(`{"name":"a","arguments":{"x":9007199254740993}}`), codeInvalidRequest, mayfly.Invalid},
		{"a batch", `[` + call(`{"name":"a"}`) + `]`, codeInvalidRequest, mayfly.Invalid},
		{"an empty batch", `[]`, codeInvalidRequest, mayfly.Invalid},
		{"a string", `"ping"`, codeInvalidRequest, mayfly.Invalid},
		{"no version", `{"id":1,"method":"ping"}`, codeInvalidRequest, mayfly.Invalid},
		{"version 1", `{"jsonrpc":"1.0","id":1,"method":"ping"}`, codeInvalidRequest, mayfly.Invalid},
		{"no method", `{"jsonrpc":"2.0","id":1}`, codeInvalidRequest, mayfly.Invalid},
		{"a method that is none", `{"jsonrpc":"2.0","id":1,"method":1}`, codeInvalidRequest, mayfly.Invalid},
		{"METHOD", `{"jsonrpc":"2.0","id":1,"METHOD":"ping"}`, codeInvalidRequest, mayfly.Invalid},
		{"a response", `{"jsonrpc":"2.0","id":1,"result":{}}`, codeInvalidRequest, mayfly.Invalid},
		{"an error", `{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":""}}`, codeInvalidRequest, mayfly.Invalid},
		{"a request that is a response", `{"jsonrpc":"2.0","id":1,"method":"ping","result":{}}`, codeInvalidRequest, mayfly.Invalid},
		{"id null", `{"jsonrpc":"2.0","id":null,"method":"ping"}`, codeInvalidRequest, mayfly.Invalid},
		{"id 1.5", `{"jsonrpc":"2.0","id":1.5,"method":"ping"}`, codeInvalidRequest, mayfly.Invalid},
		{"id {}", `{"jsonrpc":"2.0","id":{},"method":"ping"}`, codeInvalidRequest, mayfly.Invalid},
		{"params []", `{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}`, codeInvalidRequest, mayfly.Invalid},
		{"_meta []", call(`{"name":"a","_meta":[]}`), codeInvalidParams, mayfly.Invalid},
		{"a version that is none", call(`{"name":"a","_meta":{"io.modelcontextprotocol/protocolVersion":1}}`), codeInvalidParams, mayfly.Invalid},
		{"no tool", call(`{}`), codeInvalidParams, mayfly.Invalid},
		{"an empty tool", call(`{"name":""}`), codeInvalidParams, mayfly.Invalid},
		{"a tool with a line end", call(`{"name":"a\nb"}`), codeInvalidParams, mayfly.Invalid},
		{"a tool that is none", call(`{"name":{}}`), codeInvalidParams, mayfly.Invalid},
		{"NAME", call(`{"NAME":"a"}`), codeInvalidParams, mayfly.Invalid},
		{"arguments []", call(`{"name":"a","arguments":[]}`), codeInvalidParams, mayfly.Invalid},
	} {
		m, f := parseMessage([]byte(c.body))
		if f == nil {
			t.Errorf("%s: read as %+v", c.name, m)
		} else if f.code != c.code || f.err.Kind != c.kind {
			t.Errorf("%s: %d, kind %d, %v; want %d, kind %d", c.name, f.code, f.err.Kind, f.err, c.code, c.kind)
		}
	}
}

func TestWhatIsForwardedIsWhatWasReadAndNothingElse(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{
			"unknown members are dropped, order and spaces are canonical",
			`{ "method":"tools/call", "params":{"requestState":"x","name":"pay","task":{},"arguments":{"b":1.50,"a":"\u0061"}}, "extra":1, "jsonrpc":"2.0","id":"x" }`,
			`{"id":"x","jsonrpc":"2.0","method":"tools/call","params":{"arguments":{"a":"a","b":1.5},"name":"pay"}}`,
		},
		{
			"no arguments are none",
			`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"pay","arguments":null}}`,
			`{"id":1,"jsonrpc":"2.0","method":"tools/call","params":{"arguments":{},"name":"pay"}}`,
		},
		{
			"a client has no capabilities here",
			`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"pay",` + modernMeta + `}}`,
			`{"id":1,"jsonrpc":"2.0","method":"tools/call","params":{"_meta":{"io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/protocolVersion":"2026-07-28"},"arguments":{},"name":"pay"}}`,
		},
		{
			"nor in the handshake",
			`{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{"sampling":{},"roots":{}},"clientInfo":{"name":"c","version":"1"}}}`,
			`{"id":1,"jsonrpc":"2.0","method":"initialize","params":{"capabilities":{},"clientInfo":{"name":"c","version":"1"},"protocolVersion":"2025-11-25"}}`,
		},
		{
			"a notification has no id",
			`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}`,
			`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}`,
		},
		{
			"no params are empty ones",
			`{"jsonrpc":"2.0","id":1,"method":"ping","params":null}`,
			`{"id":1,"jsonrpc":"2.0","method":"ping","params":{}}`,
		},
	} {
		m, f := parseMessage([]byte(c.in))
		if f != nil {
			t.Errorf("%s: %v", c.name, f.err)
			continue
		}
		if got, err := m.encode(); err != nil || string(got) != c.want {
			t.Errorf("%s: %s, %v; want %s", c.name, got, err, c.want)
		}
	}
}

// S-45, S-46.
func TestHeadersThatDifferFromTheBodyAreRefused(t *testing.T) {
	modern := func(method, params string) string {
		return `{"jsonrpc":"2.0","id":1,"method":"` + method + `","params":{` + params + modernMeta + `}}`
	}
	pay := modern("tools/call", `"name":"pay","arguments":{"amount":42,"to":{"vendor":"acme"},"note":"é","list":["x"]},`)
	good := http.Header{"Mcp-Protocol-Version": {"2026-07-28"}, "Mcp-Method": {"tools/call"}, "Mcp-Name": {"pay"}}
	with := func(changes ...string) http.Header {
		h := good.Clone()
		for i := 0; i < len(changes); i += 2 {
			if changes[i+1] == "" {
				h.Del(changes[i])
			} else {
				h.Set(changes[i], changes[i+1])
			}
		}
		return h
	}
	legacy := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"pay"}}`
	for _, c := range []struct {
		name string
		h    http.Header
		body string
		code int // 0 is none
	}{
		{"equal", good, pay, 0},
		{"equal through the sentinel", with("Mcp-Name", "=?base64?cGF5?="), pay, 0},
		{"another name", with("Mcp-Name", "list"), pay, codeHeaderMismatch},
		{"another case", with("Mcp-Name", "Pay"), pay, codeHeaderMismatch},
		{"another name in the sentinel", with("Mcp-Name", "=?base64?bGlzdA==?="), pay, codeHeaderMismatch},
		{"a broken sentinel", with("Mcp-Name", "=?base64?!?="), pay, codeHeaderMismatch},
		{"no name", with("Mcp-Name", ""), pay, codeHeaderMismatch},
		{"two names", http.Header{"Mcp-Protocol-Version": {"2026-07-28"}, "Mcp-Method": {"tools/call"}, "Mcp-Name": {"pay", "pay"}}, pay, codeHeaderMismatch},
		{"another method", with("Mcp-Method", "tools/list"), pay, codeHeaderMismatch},
		{"no method", with("Mcp-Method", ""), pay, codeHeaderMismatch},
		{"no version", with("Mcp-Protocol-Version", ""), pay, codeHeaderMismatch},
		{"an unknown version", with("Mcp-Protocol-Version", "2099-01-01"), pay, codeUnsupportedVersion},
		{"a version too old", with("Mcp-Protocol-Version", "2024-11-05"), legacy, codeUnsupportedVersion},
		{"another version than the body's", with("Mcp-Protocol-Version", "2025-11-25"), pay, codeHeaderMismatch},
		{"no version in the body", good, legacy, codeInvalidParams},
		{"no capabilities in the body", good, `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"pay","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}`, codeInvalidParams},
		{"a name with a method that has none", with("Mcp-Method", "tools/list"), modern("tools/list", ""), codeHeaderMismatch},
		{"an argument, by number", with("Mcp-Param-Amount", "42.0"), pay, 0},
		{"an argument, deeper", with("Mcp-Param-Vendor", "acme"), pay, 0},
		{"an argument, in the sentinel", with("Mcp-Param-Note", "=?base64?w6k=?="), pay, 0},
		{"an argument that is none", with("Mcp-Param-Amount", "43"), pay, codeHeaderMismatch},
		{"an argument out of a list", with("Mcp-Param-List", "x"), pay, codeHeaderMismatch},
		{"an argument of a method that has none", with("Mcp-Param-X", "1", "Mcp-Method", "tools/list", "Mcp-Name", ""), modern("tools/list", ""), codeHeaderMismatch},
		{"legacy", http.Header{"Mcp-Protocol-Version": {"2025-11-25"}}, legacy, 0},
		{"legacy that says nothing", http.Header{}, legacy, 0},
	} {
		m, f := parseMessage([]byte(c.body))
		if f == nil {
			f = m.checkHeaders(c.h)
		}
		switch {
		case f == nil && c.code != 0:
			t.Errorf("%s: accepted; want %d", c.name, c.code)
		case f != nil && f.code != c.code:
			t.Errorf("%s: %d, %v; want %d", c.name, f.code, f.err, c.code)
		case f != nil && f.err.Kind.Status() != http.StatusBadRequest:
			t.Errorf("%s: status %d", c.name, f.err.Kind.Status())
		}
	}
}

func TestMirrorHeadersUpstreamAreOurs(t *testing.T) {
	in := http.Header{
		"Mcp-Protocol-Version": {"2026-07-28"}, "Mcp-Method": {"tools/call"}, "Mcp-Name": {"=?base64?cGF5?="},
		"Mcp-Param-Note": {"=?base64?YWNtZQ==?="}, "Mcp-Param-An_odd": {"acme"}, "Mcp-Other": {"x"},
	}
	m, f := parseMessage([]byte(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"pay","arguments":{"note":"acme"},` + modernMeta + `}}`))
	if f == nil {
		f = m.checkHeaders(in)
	}
	if f != nil {
		t.Fatal(f.err)
	}
	out := http.Header{}
	m.mirror(out, in)
	want := http.Header{
		"Mcp-Protocol-Version": {"2026-07-28"}, "Mcp-Method": {"tools/call"}, "Mcp-Name": {"pay"}, "Mcp-Param-Note": {"acme"},
	}
	if fmt.Sprint(out) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", out, want)
	}
}

func TestOnlyMethodsWithARulePass(t *testing.T) {
	for _, c := range []struct {
		method  string
		id      string
		modern  bool
		passing bool
	}{
		{"initialize", "1", false, true}, {"initialize", "1", true, false}, {"initialize", "", false, false},
		{"ping", "1", false, true}, {"ping", "1", true, false},
		{"server/discover", "1", true, true}, {"server/discover", "1", false, false},
		{"tools/list", "1", false, true}, {"tools/list", "1", true, true}, {"tools/list", "", true, false},
		{"notifications/initialized", "", false, true}, {"notifications/cancelled", "", true, true}, {"notifications/cancelled", "1", true, false},
		{"tools/call", "", false, false}, {"tools/call", "1", false, false}, // decided, not passed
		{"resources/read", "1", false, false}, {"prompts/get", "1", true, false}, {"subscriptions/listen", "1", true, false},
		{"logging/setLevel", "1", false, false}, {"completion/complete", "1", false, false}, {"tasks/get", "1", true, false}, {"x", "1", true, false},
		{"sampling/createMessage", "1", false, false}, {"Ping", "1", false, false}, {"", "1", false, false},
	} {
		m := &message{method: c.method, modern: c.modern}
		if c.id != "" {
			m.id = jsontext.Value(c.id)
		}
		if got := m.passes(); got != c.passing {
			t.Errorf("%q, id %q, modern %v: passes %v, want %v", c.method, c.id, c.modern, got, c.passing)
		}
	}
}

// Whatever is accepted: the bytes forwarded are canonical, are read again as the
// same message, and a reader that ignores case sees the tool that was decided on.
func FuzzMessage(f *testing.F) {
	for _, s := range []string{
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":{"x":1}}}`,
		`{"jsonrpc":"2.0","id":"\u0061","method":"tools/call","params":{"name":"a","Name":"b",` + modernMeta + `}}`,
		`{"jsonrpc":"2.0","method":"notifications/x","params":{"_meta":{"a":[]}}}`,
		`[{"jsonrpc":"2.0","id":1,"method":"ping"}]`,
		`{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"capabilities":{"a":1}}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		m, fault := parseMessage(body)
		if fault != nil {
			return
		}
		sent, err := m.encode()
		if err != nil {
			t.Fatal(err)
		}
		canonical, err := strictjson.Canonical(sent, strictjson.MCP)
		if err != nil || !bytes.Equal(canonical, sent) {
			t.Fatalf("forwarded %s, canonical is %s, %v", sent, canonical, err)
		}
		again, fault := parseMessage(sent)
		if fault != nil {
			t.Fatalf("forwarded %s, which is refused: %v", sent, fault.err)
		}
		if again.method != m.method || again.tool != m.tool || !bytes.Equal(again.id, m.id) || !bytes.Equal(again.params, m.params) {
			t.Fatalf("read %+v, forwarded what reads as %+v", m, again)
		}
		var loose struct {
			Method string `json:"method"`
			Params struct {
				Name any `json:"name"`
			} `json:"params"`
		}
		err = json.Unmarshal(sent, &loose, json.MatchCaseInsensitiveNames(true), jsontext.AllowDuplicateNames(true))
		if err != nil {
			t.Fatal(err)
		}
		if loose.Method != m.method || m.method == methodCallTool && loose.Params.Name != m.tool {
			t.Fatalf("decided on %q %q, a loose reader sees %+v", m.method, m.tool, loose)
		}
	})
}

func TestNamesInTwoSpellingsAreFound(t *testing.T) {
	for _, c := range []struct {
		in   string
		want bool
	}{
		{`{}`, false}, {`[]`, false}, {`1`, false}, {`"Aa"`, false},
		{`{"a":1,"b":2}`, false}, {`{"A":1,"B":2}`, false}, {`{"A":1,"a":2}`, true},
		{`{"a":{"B":1},"b":{"b":2}}`, false}, {`{"a":[{"x":1,"X":2}]}`, true}, {`[{"a":1},{"A":1}]`, false},
		{`{"a":"A","b":"B"}`, false}, {`{"a\"":1,"A\"":2}`, true}, {`{"\\":1,"a":"\\\"","A":2}`, true},
		{`{"ß":1,"ẞ":2}`, true}, {`{"É":1,"é":2}`, true}, {`{"s":1,"ſ":2}`, true}, {`{"É":1,"e":2}`, false},
	} {
		if _, got := foldedTwice([]byte(c.in)); got != c.want {
			t.Errorf("foldedTwice(%s) = %v, want %v", c.in, got, c.want)
		}
	}
	// Many names cost time in proportion.
	var many bytes.Buffer
	many.WriteString(`{"A":0`)
	for i := range 50_000 {
		fmt.Fprintf(&many, `,"n%d":0`, i)
	}
	many.WriteByte('}')
	if _, twice := foldedTwice(many.Bytes()); twice {
		t.Error("found one where there is none")
	}
}
