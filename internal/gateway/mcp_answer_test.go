package gateway

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/authority"
)

// answeringTest makes what passes on the answer to one message, to a recorder. A
// task may call tools whose name begins with "may".
func answeringTest(t testing.TB, method string, modern bool) (*answering, *httptest.ResponseRecorder, func() []string) {
	t.Helper()
	w := httptest.NewRecorder()
	x := &request{w: w, r: httptest.NewRequest("POST", "/mcp/bank", nil), control: http.NewResponseController(w), bundle: &authority.Bundle{}}
	var mu sync.Mutex
	var replies []string
	a := &answering{
		ctx: t.Context(), x: x, target: "bank", outcome: &authority.Outcome{Name: "failed"},
		mayCall: func(calls []mayfly.Call) ([]bool, error) {
			visible := make([]bool, len(calls))
			for i, c := range calls {
				if c.Kind != "mcp" || c.Target != "bank" {
					t.Errorf("asked about %s", c.Grant())
				}
				visible[i] = strings.HasPrefix(c.Action, "may")
			}
			return visible, nil
		},
		shown: func(_ []jsontext.Value, names []string) ([]bool, error) {
			shown := make([]bool, len(names))
			for i, name := range names {
				shown[i] = !strings.HasSuffix(name, "_changed")
			}
			return shown, nil
		},
		changed: func() {},
		reply: func(e envelope) {
			mu.Lock()
			defer mu.Unlock()
			replies = append(replies, string(e.id)+" "+text(e.method))
		},
	}
	if method != "" {
		a.m = &message{id: jsontext.Value("1"), method: method, modern: modern}
	}
	if method == methodCallTool {
		a.decision = "dec_1"
	}
	return a, w, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return replies
	}
}

func answer(status int, contentType, body string) *http.Response {
	return &http.Response{
		StatusCode: status, Header: http.Header{"Content-Type": {contentType}}, Body: io.NopCloser(strings.NewReader(body)), ContentLength: -1,
	}
}

func TestAnswersAreChangedWhereTheyMustBe(t *testing.T) {
	for _, c := range []struct {
		name, method string
		modern       bool
		in, want     string // results
	}{
		{"a call carries its decision", methodCallTool, false,
			`{"content":[]}`, `{"content":[],"_meta":{"mayfly/decision":"dec_1"}}`},
		{"a call that has a _meta", methodCallTool, true,
			`{"_meta":{"a":1,"mayfly/decision":"forged"},"content":[],"resultType":"complete"}`,
			`{"_meta":{"a":1,"mayfly/decision":"dec_1"},"content":[],"resultType":"complete"}`},
		{"a call whose _meta is odd", methodCallTool, false, `{"_meta":[],"content":[]}`, `{"content":[],"_meta":{"mayfly/decision":"dec_1"}}`},
		{"a call that wants input", methodCallTool, true,
			`{"resultType":"input_required","inputRequests":{"x":{"method":"sampling/createMessage"}}}`,
			`{"resultType":"complete","content":[{"type":"text","text":"the tool asked for more input, which this gateway does not pass on; call it with all it needs"}],"isError":true,"_meta":{"mayfly/decision":"dec_1"}}`},
		{"a list, legacy", methodListTools, false,
			`{"tools":[{"name":"may1","inputSchema":{}},{"name":"not"},{"name":"may2"}],"nextCursor":"c"}`,
			`{"tools":[{"name":"may1","inputSchema":{}},{"name":"may2"}],"nextCursor":"c"}`},
		{"a list, modern", methodListTools, true,
			`{"cacheScope":"public","tools":[{"name":"not"}],"ttlMs":1000,"resultType":"complete"}`,
			`{"tools":[],"ttlMs":1000,"resultType":"complete","cacheScope":"private"}`},
		{"odd tools are left out", methodListTools, false,
			`{"tools":[{"name":"may\n"},{"name":1},{},null,"may",{"Name":"may"},{"name":"may"}]}`, `{"tools":[{"name":"may"}]}`},
		{"a handshake, legacy", methodInitialize, false,
			`{"protocolVersion":"2025-06-18","capabilities":{"tools":{"listChanged":true},"prompts":{},"resources":{"subscribe":true},"logging":{}},"serverInfo":{"name":"s"}}`,
			`{"protocolVersion":"2025-06-18","capabilities":{"tools":{"listChanged":true}},"serverInfo":{"name":"s"}}`},
		{"a handshake, modern", methodDiscover, true,
			`{"supportedVersions":["2030-01-01","2026-07-28","2025-11-25"],"capabilities":{"tools":{"listChanged":true},"tasks":{}},"instructions":"i"}`,
			`{"supportedVersions":["2026-07-28","2025-11-25"],"capabilities":{"tools":{}},"instructions":"i"}`},
		{"a ping", methodPing, false, `{}`, `{}`},
		{"a replayed list", "", false, `{"tools":[{"name":"not"},{"name":"may"}]}`, `{"tools":[{"name":"may"}]}`},
		{"a replayed handshake", "", false, `{"capabilities":{"prompts":{}}}`, `{"capabilities":{}}`},
		{"a replayed call", "", false, `{"content":[]}`, `{"content":[]}`},
	} {
		a, _, _ := answeringTest(t, c.method, c.modern)
		got, err := a.response(envelope{id: jsontext.Value("1"), result: jsontext.Value(c.in)})
		want := `{"jsonrpc":"2.0","id":1,"result":` + c.want + `}`
		if err != nil || string(got) != want {
			t.Errorf("%s:\n got %s, %v\nwant %s", c.name, got, err, want)
		}
	}
	for name, result := range map[string]string{
		"a version we do not speak": `{"protocolVersion":"2026-07-28","capabilities":{}}`, "no version": `{"capabilities":{}}`, "a list": `[]`,
	} {
		a, _, _ := answeringTest(t, methodInitialize, false)
		if got, err := a.response(envelope{id: jsontext.Value("1"), result: jsontext.Value(result)}); mayfly.KindOf(err) != mayfly.BadUpstream || err == nil {
			t.Errorf("%s: %s, %v; want a refusal", name, got, err)
		}
	}
}

func TestAnswersThatCannotBePassedOnAreRefused(t *testing.T) {
	const ours = `{"jsonrpc":"2.0","id":1,"result":{"content":[]}}`
	for _, c := range []struct {
		name                 string
		status               int
		contentType, body    string
		wantStatus           int // 0: an error of kind
		kind                 mayfly.Kind
		want                 string // part of the body
		inSession, isOutcome bool
	}{
		{name: "a result", status: 200, contentType: "application/json", body: ours, wantStatus: 200, want: `"mayfly/decision":"dec_1"`, isOutcome: true},
		{name: "a charset", status: 200, contentType: "application/json; charset=utf-8", body: ours, wantStatus: 200, isOutcome: true},
		{name: "an error", status: 200, contentType: "application/json", body: `{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"m"}}`, wantStatus: 200, want: `"code":-32602`, isOutcome: true},
		{name: "an error with a status", status: 400, contentType: "application/json", body: `{"jsonrpc":"2.0","id":null,"error":{"code":-32020,"message":"m"}}`, wantStatus: 400, want: `"id":1`, isOutcome: true},
		{name: "a status with nothing to read", status: 400, contentType: "text/plain", body: "Bad Request", wantStatus: 400, want: `-32603`, isOutcome: true},
		{name: "a status with other JSON", status: 429, contentType: "application/json", body: `{"a":1}`, wantStatus: 429, want: `-32603`, isOutcome: true},
		{name: "a redirect", status: 302, contentType: "text/html", kind: mayfly.BadUpstream},
		{name: "a 401", status: 401, contentType: "application/json", body: ours, kind: mayfly.BadUpstream},
		{name: "a 403", status: 403, contentType: "application/json", body: ours, kind: mayfly.BadUpstream},
		{name: "a 500", status: 500, contentType: "application/json", body: ours, kind: mayfly.BadUpstream},
		{name: "a session that is over", status: 404, contentType: "application/json", body: ours, kind: mayfly.NotFound, inSession: true},
		{name: "an endpoint that is not there", status: 404, contentType: "text/plain", wantStatus: 404, isOutcome: true},
		{name: "another request's", status: 200, contentType: "application/json", body: `{"jsonrpc":"2.0","id":2,"result":{}}`, kind: mayfly.BadUpstream},
		{name: "a member twice", status: 200, contentType: "application/json", body: `{"jsonrpc":"2.0","id":1,"result":{"a":1,"a":2}}`, kind: mayfly.BadUpstream},
		{name: "something after", status: 200, contentType: "application/json", body: ours + `{}`, kind: mayfly.BadUpstream},
		{name: "a batch", status: 200, contentType: "application/json", body: `[` + ours + `]`, kind: mayfly.BadUpstream},
		{name: "a request", status: 200, contentType: "application/json", body: `{"jsonrpc":"2.0","id":1,"method":"sampling/createMessage"}`, kind: mayfly.BadUpstream},
		{name: "HTML", status: 200, contentType: "text/html", body: "<p>", kind: mayfly.BadUpstream},
		{name: "too much", status: 200, contentType: "application/json", body: `{"jsonrpc":"2.0","id":1,"result":{"a":"` + strings.Repeat("x", maxAnswer) + `"}}`, kind: mayfly.BadUpstream},
	} {
		a, w, _ := answeringTest(t, methodCallTool, false)
		a.inSession = c.inSession
		err := a.relay(answer(c.status, c.contentType, c.body), time.NewTimer(time.Hour))
		if c.wantStatus == 0 {
			if mayfly.KindOf(err) != c.kind || err == nil || w.Body.Len() > 0 {
				t.Errorf("%s: %v and %q; want kind %d", c.name, err, w.Body, c.kind)
			}
			continue
		}
		if err != nil || w.Code != c.wantStatus || !strings.Contains(w.Body.String(), c.want) {
			t.Errorf("%s: %v, %d %q; want %d and %s", c.name, err, w.Code, w.Body, c.wantStatus, c.want)
		}
		if got := a.outcome.Name == "answered"; got != c.isOutcome {
			t.Errorf("%s: outcome %+v", c.name, a.outcome)
		}
	}
}

func TestAStreamCarriesNotificationsAndTheOneResponse(t *testing.T) {
	stream := strings.Join([]string{
		"id: 0\ndata:\n\n",
		"event: message\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\ndata: \"params\":{}}\n\n",
		"event: endpoint\ndata: /elsewhere\n\n",
		": still here\n\n",
		"data: {\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"sampling/createMessage\",\"params\":{}}\n\n",
		"id: 4\ndata: {\"jsonrpc\":\"2.0\",\"id\":8,\"method\":\"ping\"}\n\n",
		"data: {\"jsonrpc\":\"2.0\",\"id\":2,\"result\":{\"secret\":\"another's\"}}\n\n",
		"id: 5\ndata: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"content\":[]}}\n\n",
		"data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/late\"}\n\n",
	}, "")
	want := strings.Join([]string{
		"id: 0\n\n",
		"data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{}}\n\n",
		":\n\n",
		"id: 4\n\n",
		"id: 5\ndata: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"content\":[],\"_meta\":{\"mayfly/decision\":\"dec_1\"}}}\n\n",
	}, "")
	a, w, replies := answeringTest(t, methodCallTool, false)
	if err := a.relayEvents(strings.NewReader(stream)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, w.Body.String()); diff != "" {
		t.Error(diff)
	}
	got := replies()
	if len(got) != 2 || !strings.Contains(strings.Join(got, ","), "7 sampling/createMessage") || !strings.Contains(strings.Join(got, ","), "8 ping") {
		t.Errorf("the server's requests were answered: %q", got)
	}
	if a.outcome.Name != "answered" || w.Header().Get("X-Accel-Buffering") != "no" {
		t.Errorf("outcome %+v, headers %v", a.outcome, w.Header())
	}
}

func TestAModernServerHasNoWayToAsk(t *testing.T) {
	a, w, replies := answeringTest(t, methodCallTool, true)
	err := a.relayEvents(strings.NewReader("data: {\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"roots/list\"}\n\ndata: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n\n"))
	if err != nil || len(replies()) != 0 || strings.Contains(w.Body.String(), "roots") {
		t.Errorf("%v, replies %q, body %q", err, replies(), w.Body)
	}
}

func TestAListOnAStreamIsFiltered(t *testing.T) {
	for _, method := range []string{methodListTools, ""} {
		a, w, _ := answeringTest(t, method, false)
		err := a.relayEvents(strings.NewReader("data: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"tools\":[{\"name\":\"may\"},{\"name\":\"not\"}]}}\n\n"))
		if err != nil || strings.Contains(w.Body.String(), "not") || !strings.Contains(w.Body.String(), "may") {
			t.Errorf("%q: %v, %q", method, err, w.Body)
		}
	}
}

func TestStreamsThatAreNotMessagesEnd(t *testing.T) {
	for name, stream := range map[string]string{
		"no JSON":                     "data: hello\n\n",
		"a member twice":              "data: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"tools\":[],\"tools\":[{\"name\":\"not\"}]}}\n\n",
		"neither":                     "data: {\"jsonrpc\":\"2.0\",\"id\":1}\n\n",
		"a server that never listens": strings.Repeat("data: {\"jsonrpc\":\"2.0\",\"id\":9,\"method\":\"ping\"}\n\n", maxServerRequests+1),
	} {
		a, w, _ := answeringTest(t, methodListTools, false)
		err := a.relayEvents(strings.NewReader(stream))
		if err == nil || strings.Contains(w.Body.String(), `"not"`) || !strings.Contains(w.Body.String(), `"id":1,"error":{"code":-32603`) {
			t.Errorf("%s: %v, %q; want an error for a response", name, err, w.Body)
		}
	}
	for name, stream := range map[string]string{
		"nothing": "", "half an event": "data: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n",
	} {
		a, w, _ := answeringTest(t, methodListTools, false)
		if err := a.relayEvents(strings.NewReader(stream)); err != nil || w.Body.Len() > 0 || a.outcome.Name != "failed" {
			t.Errorf("%s: %v, %q, %+v; want an end without a response", name, err, w.Body, a.outcome)
		}
	}
}

// A client waits for the head of its stream before it goes on.
func TestTheHeadOfAStreamGoesAtOnce(t *testing.T) {
	a, w, _ := answeringTest(t, "", false)
	r, out := io.Pipe()
	done := make(chan error)
	go func() { done <- a.relayEvents(r) }()
	if _, err := io.WriteString(out, ":"); err != nil { // taken once the head is out
		t.Fatal(err)
	}
	if !w.Flushed || w.Code != http.StatusOK {
		t.Error("the head waits for the first event")
	}
	out.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// S-75: what was buffered when the task ended is not passed on.
func TestNothingIsPassedOnAfterTheEnd(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	a, w, _ := answeringTest(t, "", false)
	a.ctx = ctx
	r, out := io.Pipe()
	go func() {
		io.WriteString(out, "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/a\"}\n\n")
		cancel(mayfly.Errorf(mayfly.Denied, "the task was revoked"))
		io.WriteString(out, "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/b\"}\n\n")
		out.Close()
	}()
	err := a.relayEvents(r)
	if err == nil || err.Error() != "the task was revoked" || strings.Contains(w.Body.String(), "notifications/b") {
		t.Errorf("%v, %q", err, w.Body)
	}
}

// Whatever a target streams: what the agent gets are notifications and one
// response to its request, of which a list holds only what it may call.
func FuzzRelayEvents(f *testing.F) {
	f.Add([]byte("data: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"tools\":[{\"name\":\"may\"},{\"name\":\"not\"}]}}\n\n"))
	f.Add([]byte("id: 1\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/x\"}\r\r: c\n\ndata: {\"id\":1,\"method\":\"ping\"}\n\n"))
	f.Add([]byte("data: {\"jsonrpc\":\"2.0\",\"id\":\"1\",\ndata:\"error\":{\"code\":1,\"message\":\"\"}}\n\n"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		a, w, _ := answeringTest(t, methodListTools, true)
		_ = a.relayEvents(bytes.NewReader(stream)) // a stream may well be refused
		responses := 0
		events, _ := readEvents(w.Body)
		for _, e := range events {
			if len(e.data) == 0 {
				continue
			}
			m, err := parseEnvelope(e.data)
			if err != nil {
				t.Fatalf("passed %q: %v", e.data, err)
			}
			if m.method != nil {
				if m.id != nil {
					t.Fatalf("passed a request: %s", e.data)
				}
				continue
			}
			if responses++; string(m.id) != "1" || responses > 1 {
				t.Fatalf("passed a response that is not ours, or two: %s", w.Body)
			}
			if m.result.Kind() != '{' {
				continue
			}
			members(m.result, func(name []byte, v jsontext.Value) {
				if string(name) != "tools" {
					return
				}
				_, names, err := listTools(v)
				if err != nil {
					t.Fatal(err)
				}
				for _, n := range names {
					if !strings.HasPrefix(n, "may") {
						t.Fatalf("showed %q", n)
					}
				}
			})
		}
	})
}

func TestARefusedCallIsAResultAModelCanActOn(t *testing.T) {
	e := &mayfly.Error{
		Kind: mayfly.Denied, Message: "the amount is over 500.", Decision: "dec_9", Term: mayfly.TermTask,
		Next: &mayfly.Next{Action: "request", Grant: "mcp:bank:pay", Detail: "Ask for less."},
	}
	w := httptest.NewRecorder()
	x := &request{w: w, control: http.NewResponseController(w), bundle: &authority.Bundle{}}
	x.callRefused(&message{id: jsontext.Value(`"x"`), modern: true}, e)
	want := `{"jsonrpc":"2.0","id":"x","result":{"resultType":"complete","content":[{"type":"text","text":"the amount is over 500. Ask for less."}],` +
		`"isError":true,"_meta":{"mayfly/decision":"dec_9","mayfly/term":"task","mayfly/next":{"action":"request","grant":"mcp:bank:pay","detail":"Ask for less."}}}}`
	if w.Code != 200 || w.Body.String() != want {
		t.Errorf("%d %s\nwant %s", w.Code, w.Body, want)
	}
	// S-56.
	w = httptest.NewRecorder()
	x = &request{w: w, control: http.NewResponseController(w), bundle: &authority.Bundle{Issuer: "https://m.example"}, route: route{surface: "mcp", target: "bank"}}
	e.Code, e.Scope = "insufficient_scope", "mcp:bank:pay"
	x.callRefused(&message{id: jsontext.Value(`1`)}, e)
	if w.Code != 403 || !strings.Contains(w.Header().Get("Www-Authenticate"), `error="insufficient_scope", scope="mcp:bank:pay"`) ||
		!strings.Contains(w.Body.String(), `"code":41403`) {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
}
