package mayflytest_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/mayfly-id/mayfly/internal/mayflytest"
)

// The eras of MCP.
const (
	modern = "2026-07-28"
	legacy = "2025-11-25"
)

// modernMeta is what every request of the modern era carries in its params.
const modernMeta = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28",` +
	`"io.modelcontextprotocol/clientInfo":{"name":"agent","version":"1"},"io.modelcontextprotocol/clientCapabilities":{}}`

// message is a POST of one MCP message as it stands, with the headers of the era
// that repeat it, as far as it can be read.
func (a *agent) message(era, text string, headers ...string) *http.Request {
	a.t.Helper()
	repeated := []string{"Content-Type", "application/json", "Accept", "application/json, text/event-stream", "MCP-Protocol-Version", era}
	if era == modern {
		var m struct {
			Method string `json:"method"`
			Params struct {
				Name string `json:"name"`
			} `json:"params"`
		}
		_ = json.Unmarshal([]byte(text), &m) // what cannot be read is not repeated
		repeated = append(repeated, "Mcp-Method", m.Method)
		if m.Method == "tools/call" {
			repeated = append(repeated, "Mcp-Name", m.Params.Name)
		}
	}
	r := a.request(http.MethodPost, "", []byte(text), repeated...)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Del(headers[i])
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i+1] != "" {
			r.Header.Add(headers[i], headers[i+1])
		}
	}
	return r
}

// call is a tools/call of the modern era.
func (a *agent) call(id int, tool string, arguments members, headers ...string) *http.Request {
	a.t.Helper()
	if arguments == nil {
		arguments = members{}
	}
	return a.message(modern, fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":%q,"arguments":%s,%s}}`,
		id, tool, toJSON(arguments), modernMeta), headers...)
}

// result is the JSON-RPC response in an answer, whether it came as JSON or as a
// stream of events.
func result(t *testing.T, a mayflytest.Answer) (response members) {
	t.Helper()
	if err := json.Unmarshal(a.Message(), &response); err != nil {
		t.Fatalf("no response: %v: %s", err, a)
	}
	r, _ := response["result"].(members)
	return r
}

// toolNames are the tools in the answer to tools/list.
func toolNames(t *testing.T, a mayflytest.Answer) []string {
	t.Helper()
	tools, ok := result(t, a)["tools"].([]any)
	if !ok {
		t.Errorf("no list of tools: %s", a)
	}
	names := []string{}
	for _, tool := range tools {
		names = append(names, tool.(members)["name"].(string))
	}
	slices.Sort(names)
	return names
}

// scripted is an MCP server that answers each method as the test says.
type scripted struct {
	*mayflytest.Upstream
	mu  sync.Mutex // guards say
	say map[string]func(w http.ResponseWriter, r *http.Request, id string)
}

func newScripted(t *testing.T) *scripted {
	s := &scripted{say: map[string]func(http.ResponseWriter, *http.Request, string){}}
	s.Upstream = mayflytest.NewUpstream(t, mayflytest.Lists(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var m struct {
			ID     json.RawMessage `json:"id"`
			Method string          `json:"method"`
		}
		if err := json.NewDecoder(r.Body).Decode(&m); err != nil {
			m.Method = r.Method
		}
		s.mu.Lock()
		answer := s.say[m.Method]
		s.mu.Unlock()
		if answer == nil {
			w.WriteHeader(http.StatusAccepted)
			return
		}
		answer(w, r, string(m.ID))
	}), "list_invoices", "pay_invoice", "delete_vendor"))
	return s
}

func (s *scripted) on(method string, answer func(w http.ResponseWriter, r *http.Request, id string)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.say[method] = answer
}

// results is an answer with this result, as JSON or as an event.
func results(result string, asEvent bool) func(http.ResponseWriter, *http.Request, string) {
	return func(w http.ResponseWriter, _ *http.Request, id string) {
		response := `{"jsonrpc":"2.0","id":` + id + `,"result":` + result + `}`
		if asEvent {
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprintf(w, "event: message\ndata: %s\n\n", response)
			return
		}
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		io.WriteString(w, response)
	}
}

// forms are the two forms of an answer.
var forms = map[string]bool{"JSON": false, "events": true}

// unusable is the status of the answer to an agent whose target's answer is of no
// use: the head of a stream has gone before the stream says so.
var unusable = map[bool]int{false: http.StatusBadGateway, true: http.StatusOK}

func TestS42ADuplicateNameIsRefused(t *testing.T) {
	f := newFront(t, mayflytest.Options{})
	bank := f.agent(f.task("open"), "/mcp/bank")
	for name, text := range map[string]string{
		"name":      `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"list_invoices","name":"delete_vendor","arguments":{},` + modernMeta + `}}`,
		"escaped":   `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"list_invoices","\u006eame":"delete_vendor","arguments":{},` + modernMeta + `}}`,
		"method":    `{"jsonrpc":"2.0","id":1,"method":"tools/list","method":"tools/call","params":{"name":"list_invoices",` + modernMeta + `}}`,
		"arguments": `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"list_invoices","arguments":{},"arguments":{"a":1},` + modernMeta + `}}`,
		"argument":  `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"list_invoices","arguments":{"a":{"b":1,"b":2}},` + modernMeta + `}}`,
		"id":        `{"jsonrpc":"2.0","id":1,"id":2,"method":"tools/call","params":{"name":"list_invoices","arguments":{},` + modernMeta + `}}`,
	} {
		for _, method := range []string{"tools/call", "tools/list"} {
			r := bank.message(modern, text, "Mcp-Method", method, "Mcp-Name", "list_invoices")
			f.refused(name, f.Do(r), http.StatusBadRequest, "-32600")
		}
		r := bank.message(legacy, text)
		f.refused(name+" of the legacy era", f.Do(r), http.StatusBadRequest, "-32600")
	}
	orders := f.agent(f.task("open"), "/http/orders")
	f.refused("over HTTP", orders.send(http.MethodPost, "/v1/orders", []byte(`{"amount":1,"amount":2}`), "Content-Type", "application/json"),
		http.StatusBadRequest, "")
	f.refused("in query and body", orders.send(http.MethodPost, "/v1/orders?a=1", []byte(`{"query.a":2}`), "Content-Type", "application/vnd.x+json"),
		http.StatusBadRequest, "")
}

func TestS43ANameInTwoSpellingsIsRefused(t *testing.T) {
	f := newFront(t, mayflytest.Options{})
	bank := f.agent(f.task("open"), "/mcp/bank")
	for name, text := range map[string]string{
		"Name":      `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"list_invoices","Name":"delete_vendor","arguments":{},` + modernMeta + `}}`,
		"PARAMS":    `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"list_invoices",` + modernMeta + `},"PARAMS":{"name":"delete_vendor"}}`,
		"Method":    `{"jsonrpc":"2.0","id":1,"method":"tools/call","Method":"tools/list","params":{"name":"list_invoices",` + modernMeta + `}}`,
		"argument":  `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"list_invoices","arguments":{"amount":1,"Amount":2},` + modernMeta + `}}`,
		"long s":    `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"list_invoices","paramſ":1,"params":2,` + modernMeta + `}}`,
		"a Kelvin":  `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"list_invoices","arguments":{"key":1,"\u212aey":2},` + modernMeta + `}}`,
		"elsewhere": `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{"a":1,"A":2}}}`,
	} {
		r := bank.message(modern, text, "Mcp-Method", "tools/call", "Mcp-Name", "list_invoices")
		f.refused(name, f.Do(r), http.StatusBadRequest, "-32600")
		r = bank.message(legacy, text)
		f.refused(name+" of the legacy era", f.Do(r), http.StatusBadRequest, "-32600")
	}
	// One spelling that is not the specification's is no name at all.
	text := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"Name":"list_invoices","arguments":{}}}`
	f.refused("Name alone", f.Do(bank.message(legacy, text)), http.StatusBadRequest, "-32602")
	text = `{"jsonrpc":"2.0","id":1,"Method":"tools/list"}`
	f.refused("Method alone", f.Do(bank.message(legacy, text)), http.StatusBadRequest, "-32600")

	orders := f.agent(f.task("open"), "/http/orders")
	f.refused("over HTTP", orders.send(http.MethodPost, "/v1/orders", []byte(`{"amount":1,"AMOUNT":2}`), "Content-Type", "application/json"),
		http.StatusBadRequest, "")
}

func TestS44WhatIsNotOneJSONTextWithinTheLimitsIsRefused(t *testing.T) {
	f := newFront(t, mayflytest.Options{})
	task := f.task("open")
	bank, orders := f.agent(task, "/mcp/bank"), f.agent(task, "/http/orders")
	call := func(arguments string) string {
		return `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"list_invoices","arguments":` + arguments + `,` + modernMeta + `}}`
	}
	// nested is an object of this depth.
	nested := func(depth int) string { return strings.Repeat(`{"a":`, depth-1) + "{}" + strings.Repeat("}", depth-1) }
	filled := func(text string, size int) string { return text + strings.Repeat(" ", size-len(text)) }
	const mebi = 1 << 20
	good := call("{}")
	for _, c := range []struct {
		name, text string
		status     int
		code       string
	}{
		{"a second text", good + "{}", 400, "-32700"},
		{"a byte order mark", "\ufeff" + good, 400, "-32700"},
		{"NaN", call(`{"a":NaN}`), 400, "-32700"},
		{"Infinity", call(`{"a":-Infinity}`), 400, "-32700"},
		{"a comment", call(`{/**/}`), 400, "-32700"},
		{"a trailing comma", call(`{"a":1,}`), 400, "-32700"},
		{"half of it", good[:len(good)-1], 400, "-32700"},
		{"nothing", "", 400, "-32700"},
		{"no UTF-8", call(`{"a":"` + "\xff" + `"}`), 400, "-32600"},
		{"half a surrogate", call(`{"a":"\ud800"}`), 400, "-32600"},
		{"a number past 2^53", call(`{"a":9007199254740993}`), 400, "-32600"},
		{"a depth of 33", call(nested(31)), 400, "-32600"},
		{"a MiB and a byte", filled(good, mebi+1), 413, "-32600"},
	} {
		r := bank.message(modern, c.text, "Mcp-Method", "tools/call", "Mcp-Name", "list_invoices")
		f.refused(c.name, f.Do(r), c.status, c.code)
	}
	for _, c := range []struct {
		name, text string
		status     int
	}{
		{"a second text", "{}{}", 400}, {"a byte order mark", "\ufeff{}", 400}, {"NaN", `{"a":NaN}`, 400},
		{"a depth of 33", nested(33), 400}, {"a MiB and a byte", filled("{}", mebi+1), 413},
	} {
		a := orders.send(http.MethodPost, "/v1/orders", []byte(c.text), "Content-Type", "application/json")
		f.refused(c.name+" over HTTP", a, c.status, "")
	}
	f.settle()

	for name, text := range map[string]string{"a depth of 32": call(nested(30)), "a MiB": filled(good, mebi), "2^53-1": call(`{"a":9007199254740991}`)} {
		n := len(f.Bank.Requests())
		a := f.Do(bank.message(modern, text, "Mcp-Method", "tools/call", "Mcp-Name", "list_invoices"))
		if len(f.Bank.Requests()) != n+1 {
			t.Errorf("%s was not passed: %s", name, a)
		}
	}
	for name, text := range map[string]string{"a depth of 32": nested(32), "a MiB": filled("{}", mebi)} {
		a := orders.send(http.MethodPost, "/v1/orders", []byte(text), "Content-Type", "application/json")
		if a.Status != http.StatusOK {
			t.Errorf("%s was not passed over HTTP: %s", name, a)
		}
	}
	f.passed()
}

func TestS45HeadersThatDifferFromTheBodyAreRefused(t *testing.T) {
	f := newFront(t, mayflytest.Options{})
	bank := f.agent(f.task("open"), "/mcp/bank")
	pay := members{"amount": 42, "vendor": "acme"}
	for _, c := range []struct {
		name    string
		headers []string
	}{
		{"another tool", []string{"Mcp-Name", "list_invoices"}},
		{"the tool in another case", []string{"Mcp-Name", "Pay_Invoice"}},
		{"no tool", []string{"Mcp-Name", ""}},
		{"two tools", []string{"Mcp-Name", "pay_invoice", "Mcp-Name", "list_invoices"}},
		{"another tool, encoded", []string{"Mcp-Name", "=?base64?bGlzdF9pbnZvaWNlcw==?="}},
		{"broken encoding", []string{"Mcp-Name", "=?base64?%%%?="}},
		{"another method", []string{"Mcp-Method", "tools/list"}},
		{"no method", []string{"Mcp-Method", ""}},
		{"no version", []string{"MCP-Protocol-Version", ""}},
		{"another amount", []string{"Mcp-Param-Amount", "43"}},
		{"another vendor", []string{"Mcp-Param-Vendor", "evil"}},
		{"two amounts", []string{"Mcp-Param-Amount", "42", "Mcp-Param-Amount", "43"}},
	} {
		f.refused(c.name, f.Do(bank.call(1, "pay_invoice", pay, c.headers...)), http.StatusBadRequest, "-32020")
	}
	f.settle()
	for name, headers := range map[string][]string{
		"encoded":                {"Mcp-Name", "=?base64?cGF5X2ludm9pY2U=?="},
		"a number as another":    {"Mcp-Param-Amount", "42.0"},
		"a string, encoded":      {"Mcp-Param-Vendor", "=?base64?YWNtZQ==?="},
		"headers in lower case":  {"mcp-name", "pay_invoice"},
		"as the client wrote it": {},
	} {
		if a := f.Do(bank.call(1, "pay_invoice", pay, headers...)); a.Status != http.StatusOK || denied(a) != "" {
			t.Errorf("%s: %s", name, a)
		}
	}
	f.passed()
	for _, seen := range f.Bank.Requests() {
		if got := seen.Header["Mcp-Name"]; !slices.Equal(got, []string{"pay_invoice"}) {
			t.Errorf("the target was sent the name %q", got)
		}
	}
}

func TestS46AVersionThatIsNotSpokenIsRefused(t *testing.T) {
	f := newFront(t, mayflytest.Options{})
	bank := f.agent(f.task("open"), "/mcp/bank")
	for _, version := range []string{"2099-01-01", "2024-11-05", "1", "2026-07-28, 2025-11-25"} {
		a := f.Do(bank.call(1, "list_invoices", nil, "MCP-Protocol-Version", version))
		f.denies(version, a, http.StatusBadRequest, "-32022")
		var said struct {
			Error struct {
				Data struct {
					Supported []string `json:"supported"`
					Requested string   `json:"requested"`
				} `json:"data"`
			} `json:"error"`
		}
		if err := json.Unmarshal(a.Body, &said); err != nil || said.Error.Data.Requested != version || !slices.Contains(said.Error.Data.Supported, modern) {
			t.Errorf("%s: the error says %v %+v", version, err, said)
		}
		// What the error's data says is given by the protocol, so the decision
		// stands in the header.
		f.refusals = append(f.refusals, refusal{version, a.Header.Get("Mayfly-Decision")})
	}
	call := func(meta string) string {
		return `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"list_invoices","arguments":{},"_meta":{` + meta + `}}}`
	}
	const version, capabilities = `"io.modelcontextprotocol/protocolVersion":`, `"io.modelcontextprotocol/clientCapabilities":{}`
	for _, c := range []struct{ name, era, text, code string }{
		{"the body says an older one", modern, call(version + `"2025-11-25",` + capabilities), "-32020"},
		{"the header says an older one", legacy, call(version + `"2026-07-28",` + capabilities), "-32020"},
		{"the body says an unknown one", modern, call(version + `"2099-01-01",` + capabilities), "-32020"},
		{"the body says none", modern, call(capabilities), "-32602"},
		{"the body says no capabilities", modern, call(version + `"2026-07-28"`), "-32602"},
		{"the body says a number", modern, call(version + `20260728,` + capabilities), "-32602"},
	} {
		f.refused(c.name, f.Do(bank.message(c.era, c.text)), http.StatusBadRequest, c.code)
	}
	r := bank.call(1, "list_invoices", nil)
	r.Header["Mcp-Protocol-Version"] = []string{modern, legacy}
	f.refused("two headers", f.Do(r), http.StatusBadRequest, "-32020")
}

func TestS47ABatchIsRefused(t *testing.T) {
	f := newFront(t, mayflytest.Options{})
	bank := f.agent(f.task("open"), "/mcp/bank")
	one := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"list_invoices","arguments":{},` + modernMeta + `}}`
	for _, text := range []string{"[" + one + "]", "[" + one + "," + one + "]", "[]"} {
		for _, era := range []string{modern, legacy, "2025-03-26"} { // the last of these had batches
			f.refused(text[:2]+" "+era, f.Do(bank.message(era, text)), http.StatusBadRequest, "-32600")
		}
	}
	for name, text := range map[string]string{
		"no object": `"tools/list"`, "no version": `{"id":1,"method":"tools/list"}`, "version 1": `{"jsonrpc":"1.0","id":1,"method":"tools/list"}`,
		"an id of null": `{"jsonrpc":"2.0","id":null,"method":"tools/list"}`, "half an id": `{"jsonrpc":"2.0","id":1.5,"method":"tools/list"}`,
		"a list of params": `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":[]}`,
	} {
		f.refused(name, f.Do(bank.message(legacy, text)), http.StatusBadRequest, "-32600")
	}
	for name, headers := range map[string][]string{"as text": {"Content-Type", "text/plain"}, "as a form": {"Content-Type", asForm}, "as nothing": {"Content-Type", ""}} {
		f.refused(name, f.Do(bank.message(legacy, `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`, headers...)), http.StatusUnsupportedMediaType, "-32600")
	}
	f.refused("an answer in JSON alone", f.Do(bank.message(legacy, `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`, "Accept", "application/json")),
		http.StatusBadRequest, "-32600")
}

func TestEveryOtherMethodIsRefusedInBothEras(t *testing.T) {
	f := newFront(t, mayflytest.Options{})
	bank := f.agent(f.task("open"), "/mcp/bank")
	inBoth := []string{"resources/list", "resources/read", "resources/templates/list", "prompts/list", "prompts/get", "completion/complete"}
	unknown := []string{
		"resources/subscribe", "resources/unsubscribe", "logging/setLevel", "sampling/createMessage", "elicitation/create", "roots/list",
		"tools/callx", "Tools/Call", "no/such",
	}
	for _, c := range []struct {
		era          string
		methods      []string
		status, code int
	}{
		{legacy, slices.Concat(inBoth, unknown, []string{"server/discover", "subscriptions/listen", "tasks/get"}), 200, 41403},
		{modern, slices.Concat(inBoth, []string{"subscriptions/listen", "tasks/get", "tasks/cancel"}), 200, 41403},
		{modern, slices.Concat(unknown, []string{"initialize", "ping"}), 404, -32601},
	} {
		for _, method := range c.methods {
			text := fmt.Sprintf(`{"jsonrpc":"2.0","id":7,"method":%q,"params":{"uri":"file:///etc/passwd","name":"x",%s}}`, method, modernMeta)
			if c.era == legacy {
				text = fmt.Sprintf(`{"jsonrpc":"2.0","id":7,"method":%q,"params":{"uri":"file:///etc/passwd","name":"x"}}`, method)
			}
			a := f.Do(bank.message(c.era, text))
			f.refused(c.era+" "+method, a, c.status, fmt.Sprint(c.code))
			var said struct {
				ID    int `json:"id"`
				Error struct {
					Message string `json:"message"`
				} `json:"error"`
			}
			if err := json.Unmarshal(a.Body, &said); err != nil || said.ID != 7 || said.Error.Message == "" {
				t.Errorf("%s: no error to request 7: %s", method, a)
			}
		}
		// A notification of another kind has no answer to be in.
		a := f.Do(bank.message(c.era, `{"jsonrpc":"2.0","method":"tools/call","params":{"name":"list_invoices",`+
			map[string]string{legacy: `"a":1`, modern: modernMeta}[c.era]+`}}`))
		f.refused(c.era+" a call as a notification", a, http.StatusForbidden, "41403")
	}
	for _, method := range []string{http.MethodPut, http.MethodPatch, http.MethodOptions} {
		f.refused(method, bank.send(method, "", nil), http.StatusMethodNotAllowed, "")
	}
	for _, method := range []string{http.MethodGet, http.MethodDelete} { // the modern era has neither
		for _, version := range []string{modern, legacy, ""} {
			a := bank.send(method, "", nil, "Accept", "text/event-stream", "MCP-Protocol-Version", version)
			f.refused(method+" "+version, a, http.StatusMethodNotAllowed, "")
			if a.Header.Get("Allow") == "" {
				t.Errorf("%s %s: the answer does not say what is allowed", method, version)
			}
		}
		a := bank.send(method, "", nil, "Accept", "text/event-stream", "MCP-Protocol-Version", modern, "Mcp-Session-Id", "x")
		f.refused(method+" with a session in the modern era", a, http.StatusMethodNotAllowed, "")
	}
}

func TestAClientsResponsesAreRefused(t *testing.T) {
	f := newFront(t, mayflytest.Options{})
	bank := f.agent(f.task("open"), "/mcp/bank")
	for name, text := range map[string]string{
		"a result":               `{"jsonrpc":"2.0","id":1,"result":{"action":"accept"}}`,
		"an error":               `{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"no"}}`,
		"a result with a method": `{"jsonrpc":"2.0","id":1,"method":"tools/list","result":{}}`,
	} {
		for _, era := range []string{modern, legacy} {
			f.refused(name+" "+era, f.Do(bank.message(era, text)), http.StatusBadRequest, "-32600")
		}
	}
}

func TestArgumentsOutsideWhereAreAResultThatAModelCanActOn(t *testing.T) {
	f := newFront(t, mayflytest.Options{})
	bank := f.agent(f.task("invoice", "mcp:bank:list_invoices", "mcp:bank:pay_invoice"), "/mcp/bank")
	for name, arguments := range map[string]string{
		"over the limit": `{"amount":501}`, "a string": `{"amount":"120"}`, "none": `{}`, "null": `{"amount":null}`, "a list": `{"amount":[120]}`,
		"as a power": `{"amount":5.01e2}`, "in another case": `{"Amount":120}`,
	} {
		for _, era := range []string{modern, legacy} {
			meta := map[string]string{legacy: `"a":1`, modern: modernMeta}[era]
			a := f.Do(bank.message(era, `{"jsonrpc":"2.0","id":"x","method":"tools/call","params":{"name":"pay_invoice","arguments":`+arguments+`,`+meta+`}}`))
			f.refused(name, a, http.StatusOK, "")
			var said struct {
				ID     string `json:"id"`
				Result struct {
					Type    string `json:"resultType"`
					IsError bool   `json:"isError"`
					Content []struct{ Type, Text string }
					Meta    struct {
						Decision string  `json:"mayfly/decision"`
						Term     string  `json:"mayfly/term"`
						Next     members `json:"mayfly/next"`
					} `json:"_meta"`
				} `json:"result"`
			}
			if err := json.Unmarshal(a.Body, &said); err != nil {
				t.Fatal(err)
			}
			r := said.Result
			if said.ID != "x" || !r.IsError || len(r.Content) != 1 || r.Content[0].Type != "text" || r.Content[0].Text == "" ||
				r.Meta.Decision == "" || r.Meta.Term == "" || r.Meta.Next["action"] == "" || r.Meta.Next == nil {
				t.Errorf("%s: the result is %s", name, a.Body)
			}
			if want := map[string]string{modern: "complete", legacy: ""}[era]; r.Type != want {
				t.Errorf("%s: the result's type is %q, want %q", name, r.Type, want)
			}
		}
	}
	for i, e := range f.settle() {
		if e.Kind != "call.decided" || e.Term == "" {
			t.Errorf("refusal %d is recorded as %s %s", i, e.Kind, e.Body)
		}
	}
	// Digits that no two readers agree on are gone before anybody decides.
	for _, amount := range []string{"500", "5e2", "500.00000000000000001"} {
		f.Bank.Forget()
		a := f.Do(bank.message(legacy, `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"pay_invoice","arguments":{"amount":`+amount+`}}}`))
		if seen := f.Bank.Requests(); denied(a) != "" || len(seen) != 1 || !strings.Contains(string(seen[0].Body), `"arguments":{"amount":500}`) {
			t.Errorf("at the limit: %s, sent as %+v", a, seen)
		}
	}
	f.passed()
}

func TestToolsAreListedAsFarAsTheTaskMayCallThem(t *testing.T) {
	everything := `{"tools":[{"name":"list_invoices"},{"name":"pay_invoice","description":"x"},{"name":"delete_vendor"},` +
		`{"name":"bad\nname"},{"title":"no name"},7],"nextCursor":"more","ttlMs":5,"cacheScope":"public"}`
	script := newScripted(t)
	f := newFront(t, mayflytest.Options{Change: target(t, "tools", "mcp", script.URL)}, script.Upstream)
	narrow := f.agent(f.task("open", "mcp:tools:list_invoices", "mcp:tools:pay*"), "/mcp/tools")
	none := f.agent(f.task("open", "mcp:tools:no_such_tool"), "/mcp/tools")
	for form, asEvent := range forms {
		for _, era := range []string{modern, legacy} {
			script.on("tools/list", results(everything, asEvent))
			text := map[string]string{
				legacy: `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`,
				modern: `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{` + modernMeta + `}}`,
			}[era]
			a := f.Do(narrow.message(era, text))
			if got := toolNames(t, a); !slices.Equal(got, []string{"list_invoices", "pay_invoice"}) {
				t.Errorf("%s %s: listed are %v", era, form, got)
			}
			r := result(t, a)
			if want := map[string]any{modern: "private", legacy: nil}[era]; r["cacheScope"] != want {
				t.Errorf("%s %s: cacheScope is %v, want %v", era, form, r["cacheScope"], want)
			}
			if r["nextCursor"] != "more" {
				t.Errorf("%s %s: the cursor is lost: %s", era, form, a)
			}
			if got := toolNames(t, f.Do(none.message(era, text))); len(got) != 0 {
				t.Errorf("%s %s: a task that may call none is shown %v", era, form, got)
			}
			script.on("tools/list", results(`{"tools":{"name":"delete_vendor"}}`, asEvent))
			f.says("no list", f.Do(narrow.message(era, text)), unusable[asEvent], "-32603")
		}
	}
	f.passed()
	// And what the official server lists, in both of its modes.
	bank := f.agent(f.task("invoice", "mcp:bank:list_invoices"), "/mcp/bank")
	a := f.Do(bank.message(modern, `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{`+modernMeta+`}}`))
	if got := toolNames(t, a); !slices.Equal(got, []string{"list_invoices"}) {
		t.Errorf("of the official server's tools are listed %v", got)
	}
	f.passed()
	f.settle() // passed methods are counted, not recorded
}

func TestAResultIsMarkedByTheGatewayAlone(t *testing.T) {
	script := newScripted(t)
	f := newFront(t, mayflytest.Options{Change: target(t, "tools", "mcp", script.URL)}, script.Upstream)
	tools := f.agent(f.task("open"), "/mcp/tools")
	for form, asEvent := range forms {
		for result, wants := range map[string]bool{
			`{"content":[]}`: false,
			`{"content":[],"_meta":{"mayfly/decision":"dec_forged","other":"kept"}}`: true,
			`{"content":[],"_meta":"not an object"}`:                                 false,
		} {
			script.on("tools/call", results(result, asEvent))
			a := f.Do(tools.call(1, "list_invoices", nil))
			meta, _ := toolResult(t, a)["_meta"].(members)
			if d := a.Header.Get("Mayfly-Decision"); d == "" || meta["mayfly/decision"] != d {
				t.Errorf("%s %s: the header says %q, the result %v", form, result, d, meta)
			}
			if (meta["other"] == "kept") != wants {
				t.Errorf("%s %s: the rest of _meta is %v", form, result, meta)
			}
		}
		script.on("tools/call", results(`{"resultType":"input_required","inputRequests":{"a":{"method":"sampling/createMessage"}},"requestState":"s"}`, asEvent))
		a := f.Do(tools.call(1, "list_invoices", nil))
		if r := toolResult(t, a); r["isError"] != true || strings.Contains(string(a.Body), "sampling") || strings.Contains(string(a.Body), "requestState") {
			t.Errorf("%s: a tool that asks for more: %s", form, a)
		}
		script.on("tools/call", func(w http.ResponseWriter, r *http.Request, _ string) {
			results(`{"content":[]}`, asEvent)(w, r, `"another"`)
		})
		a = f.Do(tools.call(1, "list_invoices", nil))
		if a.Status == http.StatusOK && strings.Contains(string(a.Body), `"result"`) {
			t.Errorf("%s: the answer to another request was passed: %s", form, a)
		}
	}
	f.passed()
}

func toolResult(t *testing.T, a mayflytest.Answer) members {
	t.Helper()
	if a.Status != http.StatusOK {
		t.Errorf("answered %s", a)
	}
	return result(t, a)
}

func TestAHandshakeOffersWhatIsPassed(t *testing.T) {
	script := newScripted(t)
	f := newFront(t, mayflytest.Options{Change: target(t, "tools", "mcp", script.URL)}, script.Upstream)
	tools := f.agent(f.task("open"), "/mcp/tools")
	capabilities := `"capabilities":{"tools":{"listChanged":true},"resources":{},"prompts":{},"logging":{},"completions":{},"extensions":{"x":{}}}`
	for form, asEvent := range forms {
		script.on("server/discover", results(`{"supportedVersions":["2026-07-28","2025-11-25","2099-01-01"],`+capabilities+`}`, asEvent))
		a := f.Do(tools.message(modern, `{"jsonrpc":"2.0","id":1,"method":"server/discover","params":{`+modernMeta+`}}`))
		if got := string(toJSON(result(t, a))); got != `{"capabilities":{"tools":{}},"supportedVersions":["2026-07-28","2025-11-25"]}` {
			t.Errorf("%s: the discovery is %s", form, got)
		}
		script.on("initialize", results(`{"protocolVersion":"2025-11-25",`+capabilities+`}`, asEvent))
		a = f.Do(tools.message("", initialize))
		if got := string(toJSON(result(t, a))); got != `{"capabilities":{"tools":{"listChanged":true}},"protocolVersion":"2025-11-25"}` {
			t.Errorf("%s: the handshake is %s", form, got)
		}
		script.on("initialize", results(`{"protocolVersion":"2024-11-05",`+capabilities+`}`, asEvent))
		f.says("a version that is not spoken", f.Do(tools.message("", initialize)), unusable[asEvent], "-32603")
	}
	f.passed()
	for _, seen := range script.Requests() {
		if strings.Contains(string(seen.Body), "sampling") || strings.Contains(string(seen.Body), "elicitation") {
			t.Errorf("the target was told of a capability to ask the client: %s", seen.Body)
		}
	}
}

// initialize begins a session of the legacy era. Its client could be asked for
// anything, so it says.
const initialize = `{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25",` +
	`"capabilities":{"sampling":{},"elicitation":{},"roots":{"listChanged":true}},"clientInfo":{"name":"agent","version":"1"}}}`

// session begins a session of the legacy era and gives its id.
func (a *agent) session() string {
	a.t.Helper()
	answer := a.Do(a.message("", initialize))
	id := answer.Header.Get("Mcp-Session-Id")
	if answer.Status != http.StatusOK || id == "" || result(a.t, answer)["protocolVersion"] != legacy {
		a.t.Fatalf("initialize: %v %s", answer.Header, answer)
	}
	answer = a.Do(a.message(legacy, `{"jsonrpc":"2.0","method":"notifications/initialized"}`, "Mcp-Session-Id", id))
	if answer.Status != http.StatusAccepted || len(answer.Body) != 0 {
		a.t.Fatalf("initialized: %s", answer)
	}
	return id
}

func TestASessionIsTheTasksAndItsKeysAlone(t *testing.T) {
	f := newFront(t, mayflytest.Options{Legacy: true})
	task := f.task("open", "mcp:bank:list_invoices", "mcp:bank:pay_invoice")
	bank := f.agent(task, "/mcp/bank")
	id := bank.session()
	const list = `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`
	const call = `{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"list_invoices","arguments":{}}}`

	a := f.Do(bank.message(legacy, list, "Mcp-Session-Id", id))
	if got := toolNames(t, a); !slices.Equal(got, []string{"list_invoices", "pay_invoice"}) || a.Header.Get("Content-Type") != "text/event-stream" {
		t.Errorf("listed are %v: %s", got, a)
	}
	a = f.Do(bank.message(legacy, call, "Mcp-Session-Id", id))
	if meta, _ := result(t, a)["_meta"].(members); meta["mayfly/decision"] != a.Header.Get("Mayfly-Decision") {
		t.Errorf("a call in the session: %s", a)
	}
	if a := f.Do(bank.message(legacy, `{"jsonrpc":"2.0","id":3,"method":"ping"}`, "Mcp-Session-Id", id)); result(t, a) == nil {
		t.Errorf("a ping: %s", a)
	}
	var upstreams string
	for _, seen := range f.Bank.Requests()[1:] {
		got := seen.Header.Get("Mcp-Session-Id")
		if upstreams == "" {
			upstreams = got
		}
		if got == "" || got != upstreams || got == id {
			t.Errorf("the target's session is %q, ours %q", got, id)
		}
	}
	f.passed()

	// The same human's other task, a child with the parent's key, and the same
	// task with a token for another key: to each of them there is no session.
	other := f.agent(f.task("open"), "/mcp/bank")
	child := f.agent(f.open(f.below(task, "reader"), task.h), "/mcp/bank")
	const noSuch = "no such session"
	for name, a := range map[string]*agent{"another task": other, "a child": child} {
		f.refused(name+": a call", f.Do(a.message(legacy, call, "Mcp-Session-Id", id)), http.StatusNotFound, "")
		f.refused(name+": a list", f.Do(a.message(legacy, list, "Mcp-Session-Id", id)), http.StatusNotFound, "")
		f.refused(name+": a stream", a.send(http.MethodGet, "", nil, "Accept", "text/event-stream", "Mcp-Session-Id", id), http.StatusNotFound, "")
		f.refused(name+": its end", a.send(http.MethodDelete, "", nil, "Mcp-Session-Id", id), http.StatusNotFound, "")
	}
	mine := f.Do(other.message(legacy, call, "Mcp-Session-Id", id))
	f.refused("another task's, again", mine, http.StatusNotFound, "")
	for _, bad := range []string{"x", upstreams, id[:len(id)-1], id + "A", strings.ToUpper(id), strings.Repeat("A", 2000)} {
		a := f.Do(other.message(legacy, call, "Mcp-Session-Id", bad))
		f.refused("an id that never was", a, http.StatusNotFound, "")
		// The two cannot be told apart.
		if string(without(a.Body, "decision")) != string(without(mine.Body, "decision")) || !strings.Contains(string(a.Body), noSuch) {
			t.Errorf("an unknown id: %s\nanother's: %s", a.Body, mine.Body)
		}
	}
	f.refused("two ids", f.Do(bank.message(legacy, call, "Mcp-Session-Id", id, "Mcp-Session-Id", "x")), http.StatusBadRequest, "")
	f.settle()

	if a := bank.send(http.MethodDelete, "", nil, "Mcp-Session-Id", id, "MCP-Protocol-Version", legacy); a.Status != http.StatusNoContent {
		t.Errorf("ending the session: %s", a)
	}
	a = f.Do(bank.message(legacy, list, "Mcp-Session-Id", id))
	f.says("after its end", a, http.StatusNotFound, "")
	f.passed()
}

func TestASessionIsItsTasksWhereThereIsNoKey(t *testing.T) {
	f := newFront(t, mayflytest.Options{Legacy: true})
	evidence := []string{"actor_token", f.Evidence("invoice-1"), "actor_token_type", "urn:ietf:params:oauth:token-type:jwt"}
	task := f.open(f.opening("profile", "open"), nil)
	unbound := &agent{f, f.at(task, "/mcp/bank", evidence...), "/mcp/bank"}
	id := unbound.session()
	// A task without a key stays without, whatever is proven later: its tokens
	// are all alike, and so is what they may say in the session.
	answer := f.token(again(task, append([]string{"resource", f.Issuer + "/mcp/bank"}, evidence...)...), newHolder(t))
	later := &agent{f, f.held(answer, nil), "/mcp/bank"}
	if later.have.task != task.task {
		t.Fatalf("another task's token: %s", answer)
	}
	a := f.Do(later.message(legacy, `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`, "Mcp-Session-Id", id))
	if a.Status != http.StatusOK {
		t.Errorf("the session with another token of its task: %s", a)
	}
	f.passed()
	other := f.open(f.opening("profile", "open"), nil)
	theirs := &agent{f, f.at(other, "/mcp/bank", evidence...), "/mcp/bank"}
	a = f.Do(theirs.message(legacy, `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`, "Mcp-Session-Id", id))
	f.refused("another task without a key", a, http.StatusNotFound, "")
}

// without is a JSON object without a member.
func without(object []byte, member string) []byte {
	var m members
	if json.Unmarshal(object, &m) != nil {
		return object
	}
	delete(m, member)
	return toJSON(m)
}

func TestAServersRequestsAreRefusedForTheClient(t *testing.T) {
	script := newScripted(t)
	f := newFront(t, mayflytest.Options{Change: target(t, "tools", "mcp", script.URL)}, script.Upstream)
	tools := f.agent(f.task("open"), "/mcp/tools")
	asks := []string{"sampling/createMessage", "elicitation/create", "roots/list", "ping", "no/such"}
	answered := make(chan members, 64)
	script.on("", func(w http.ResponseWriter, r *http.Request, id string) { // a response has no method
		answered <- members{"id": id, "session": r.Header.Get("Mcp-Session-Id")}
		w.WriteHeader(http.StatusAccepted)
	})
	script.on("initialize", func(w http.ResponseWriter, r *http.Request, id string) {
		w.Header().Set("Mcp-Session-Id", "upstreams-own")
		results(`{"protocolVersion":"2025-11-25","capabilities":{"tools":{}}}`, false)(w, r, id)
	})
	script.on("tools/call", func(w http.ResponseWriter, r *http.Request, id string) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i, method := range asks {
			fmt.Fprintf(w, "data: {\"jsonrpc\":\"2.0\",\"id\":%q,\"method\":%q,\"params\":{\"secret\":1}}\n\n", fmt.Sprint("s", i), method)
		}
		io.WriteString(w, "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{\"progress\":1}}\n\n")
		w.(http.Flusher).Flush()
		if r.Header.Get("Mcp-Protocol-Version") == legacy {
			for range asks { // like a server that waits for its answers
				select {
				case <-answered:
				case <-r.Context().Done():
					return
				}
			}
		}
		fmt.Fprintf(w, "data: {\"jsonrpc\":\"2.0\",\"id\":%s,\"result\":{\"content\":[]}}\n\n", id)
	})
	id := tools.session()
	script.Forget()
	for era, headers := range map[string][]string{legacy: {"Mcp-Session-Id", id}, modern: nil} {
		meta := map[string]string{legacy: `"a":1`, modern: modernMeta}[era]
		a := f.Do(tools.message(era, `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"list_invoices",`+meta+`}}`, headers...))
		if a.Status != http.StatusOK || !strings.Contains(string(a.Body), "notifications/progress") || result(t, a) == nil {
			t.Errorf("%s: the rest of the stream: %s", era, a)
		}
		for i, method := range asks {
			if strings.Contains(string(a.Body), method) || strings.Contains(string(a.Body), fmt.Sprintf(`"s%d"`, i)) {
				t.Errorf("%s: the client was asked: %s", era, a)
			}
		}
	}
	got := map[string]string{}
	for _, seen := range script.Requests() {
		var m struct {
			ID     string          `json:"id"`
			Method string          `json:"method"`
			Result json.RawMessage `json:"result"`
			Error  struct {
				Code int `json:"code"`
			} `json:"error"`
		}
		if err := json.Unmarshal(seen.Body, &m); err == nil && m.Method == "" && seen.Method == http.MethodPost {
			got[m.ID] = fmt.Sprintf("%d %s %s", m.Error.Code, m.Result, seen.Header.Get("Mcp-Session-Id"))
		}
	}
	for i, method := range asks {
		want := "-32601  upstreams-own"
		if method == "ping" {
			want = "0 {} upstreams-own"
		}
		if g := got[fmt.Sprint("s", i)]; g != want {
			t.Errorf("the server's %s was answered %q, want %q", method, g, want)
		}
	}
	if len(got) != len(asks) {
		t.Errorf("the server was answered %v", got)
	}
	f.passed()

	// The same on the stream of the session, where the list filter holds too.
	script.on("GET", func(w http.ResponseWriter, r *http.Request, _ string) {
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, "data: {\"jsonrpc\":\"2.0\",\"id\":\"g1\",\"method\":\"sampling/createMessage\"}\n\n")
		io.WriteString(w, "id: 9\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/tools/list_changed\"}\n\n")
		io.WriteString(w, "data: {\"jsonrpc\":\"2.0\",\"id\":44,\"result\":{\"tools\":[{\"name\":\"delete_vendor\"},{\"name\":\"list_invoices\"}]}}\n\n")
	})
	narrow := f.agent(f.task("open", "mcp:tools:list_invoices"), "/mcp/tools")
	own := narrow.session()
	a := narrow.send(http.MethodGet, "", nil, "Accept", "text/event-stream", "Mcp-Session-Id", own, "Last-Event-Id", "8")
	text := string(a.Body)
	if a.Status != http.StatusOK || strings.Contains(text, "sampling") || strings.Contains(text, "delete_vendor") ||
		!strings.Contains(text, "id: 9\n") || !strings.Contains(text, "list_changed") || !strings.Contains(text, `"id":44`) {
		t.Errorf("the session's stream: %s", a)
	}
	select {
	case one := <-answered:
		if one["id"] != `"g1"` || one["session"] != "upstreams-own" {
			t.Errorf("the server was answered %v", one)
		}
	case <-time.After(10 * time.Second):
		t.Error("the server's request on the session's stream was not answered")
	}
	for _, seen := range script.Requests() {
		if seen.Method == http.MethodGet && seen.Header.Get("Last-Event-Id") != "8" {
			t.Errorf("the stream was not resumed: %v", seen.Header)
		}
	}
	f.passed()
}

// The official client and server speak the legacy era through the gateway,
// sampling handler and all, and nothing reaches the handler.
func TestTheOfficialClientHasASessionThroughTheGateway(t *testing.T) {
	f := newFront(t, mayflytest.Options{Legacy: true})
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	session := f.Open(f.Opening("mcp:bank:list_invoices", "mcp:bank:pay_invoice"))
	c, err := f.MCP(ctx, session, &mcp.ClientOptions{
		//lint:ignore SA1019 what is deprecated is what a target still sends
		CreateMessageHandler: func(context.Context, *mcp.CreateMessageRequest) (*mcp.CreateMessageResult, error) {
			t.Error("the client was asked for a sample")
			return nil, fmt.Errorf("no")
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if c.ID() == "" {
		t.Error("there is no session")
	}
	list, err := c.ListTools(ctx, nil)
	if err != nil || len(list.Tools) != 2 {
		t.Fatalf("the list is %v %+v", err, list)
	}
	r, err := c.CallTool(ctx, &mcp.CallToolParams{Name: "pay_invoice", Arguments: members{"amount": 120}})
	if err != nil || r.IsError || r.Meta["mayfly/decision"] == nil {
		t.Errorf("an allowed call: %v %+v", err, r)
	}
	r, err = c.CallTool(ctx, &mcp.CallToolParams{Name: "pay_invoice", Arguments: members{"amount": 501}})
	if err != nil || !r.IsError || r.Meta["mayfly/term"] == nil || r.Meta["mayfly/next"] == nil {
		t.Errorf("a call over the limit: %v %+v", err, r)
	} else {
		f.refusals = append(f.refusals, refusal{"over the limit", fmt.Sprint(r.Meta["mayfly/decision"])})
	}
	if err := c.Close(); err != nil {
		t.Errorf("ending the session: %v", err)
	}
	for _, seen := range f.Bank.Requests() {
		if strings.Contains(string(seen.Body), "501") || strings.Contains(string(seen.Body), "sampling") {
			t.Errorf("the server was sent %s", seen.Body)
		}
	}
	f.passed()
}

// stream reads events as they come.
type stream struct {
	resp *http.Response
	in   *bufio.Reader
}

func open(t *testing.T, r *http.Request) *stream {
	t.Helper()
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != http.StatusOK || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		content, _ := io.ReadAll(resp.Body) // for the message only
		t.Fatalf("no stream: %d %v %s", resp.StatusCode, resp.Header, content)
	}
	return &stream{resp, bufio.NewReader(resp.Body)}
}

// next is the data of the next event.
func (s *stream) next() (string, error) {
	for {
		line, err := s.in.ReadString('\n')
		if err != nil {
			return "", err
		}
		if data, ok := strings.CutPrefix(line, "data: "); ok {
			return strings.TrimSpace(data), nil
		}
	}
}
