package mayflytest_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/client"
	"github.com/mayfly-id/mayfly/internal/authority"
	"github.com/mayfly-id/mayfly/internal/mayflytest"
)

const besideType = "application/vnd.mayfly.beside+jsonl"

// besides is a system with a target "notes" whose server runs beside its agent.
func besides(t *testing.T, o mayflytest.Options) *mayflytest.System {
	o.Change = func(b *authority.Bundle) {
		b.Targets["notes"] = &mayfly.Target{Name: "notes", Kind: "mcp", Stdio: true}
		b.Profiles["open"].Grants = mayflytest.Grants(t, "mcp:notes:read", "mcp:bank:*")
	}
	return mayflytest.New(t, o)
}

func besideTask(t *testing.T, s *mayflytest.System) *client.Session {
	t.Helper()
	r := s.Opening("mcp:notes:read", "mcp:bank:list_invoices")
	r.Profile = "open"
	return s.Open(r)
}

// line is one line from the gateway.
type line struct {
	Send    json.RawMessage
	Status  int
	Headers map[string]string
	Body    string
}

// talking is a conversation that a test has by hand.
type talking struct {
	t     *testing.T
	say   *io.PipeWriter
	resp  *http.Response
	lines *bufio.Scanner
}

func talk(ctx context.Context, t *testing.T, s *mayflytest.System, as *client.Session, first string) *talking {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.Issuer+"/mcp/notes", nil)
	must(t, err)
	r.Header.Set("Content-Type", besideType)
	r.Header.Set("Accept", "application/json, text/event-stream")
	r.Header.Set("Expect", "100-continue")
	r.ContentLength = -1
	k := &talking{t: t}
	r.GetBody = func() (io.ReadCloser, error) {
		read, write := io.Pipe()
		k.say = write
		go io.WriteString(write, first+"\n")
		return read, nil
	}
	r.Body, _ = r.GetBody()
	k.resp, err = as.Transport().RoundTrip(r)
	must(t, err)
	t.Cleanup(func() { k.say.Close(); k.resp.Body.Close() })
	k.lines = bufio.NewScanner(k.resp.Body)
	k.lines.Buffer(nil, 16<<20)
	return k
}

func (k *talking) next() line {
	k.t.Helper()
	if !k.lines.Scan() {
		k.t.Fatalf("the conversation ended (%v), status %d", k.lines.Err(), k.resp.StatusCode)
	}
	var l line
	must(k.t, json.Unmarshal(k.lines.Bytes(), &l))
	return l
}

func (k *talking) replies(text string) {
	k.t.Helper()
	_, err := io.WriteString(k.say, text+"\n")
	must(k.t, err)
}

// serves answers what the gateway has the server told, until the last line.
func (k *talking) serves(server func(id, method string) string) line {
	k.t.Helper()
	for {
		l := k.next()
		if l.Send == nil {
			return l
		}
		var m struct {
			ID     json.RawMessage
			Method string
		}
		must(k.t, json.Unmarshal(l.Send, &m))
		k.replies(server(string(m.ID), m.Method))
	}
}

const tools = `{"tools":[{"name":"read","description":"Reads","inputSchema":{"type":"object"}},{"name":"wipe","inputSchema":{"type":"object"}}]}`

// wellBehaved is a server with two tools.
func wellBehaved(id, method string) string {
	result := `{"content":[{"type":"text","text":"a note"}]}`
	if method == "tools/list" {
		result = tools
	}
	return `{"said":[{"jsonrpc":"2.0","id":` + id + `,"result":` + result + `}]}`
}

const call = `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"read","arguments":{}}}`

func TestAConversationIsDecidedOnAsAnyCallIs(t *testing.T) {
	mayflytest.OnEachEngine(t, func(t *testing.T, dsn string) {
		s := besides(t, mayflytest.Options{DSN: dsn})
		as := besideTask(t, s)
		if got := talk(t.Context(), t, s, as, call).serves(wellBehaved); got.Status != 200 || !strings.Contains(got.Body, "a note") || !strings.Contains(got.Body, "mayfly/decision") {
			t.Errorf("a call is answered %+v", got)
		}
		list := `{"jsonrpc":"2.0","id":8,"method":"tools/list","params":{}}`
		if got := talk(t.Context(), t, s, as, list).serves(wellBehaved); got.Status != 200 || !strings.Contains(got.Body, `"read"`) || strings.Contains(got.Body, "wipe") {
			t.Errorf("the list is %+v", got)
		}
		// What is not granted never reaches the server.
		got := talk(t.Context(), t, s, as, strings.Replace(call, "read", "wipe", 1)).next()
		if got.Send != nil || !strings.Contains(got.Body, "mcp:notes:wipe") {
			t.Errorf("what is not granted: %+v", got)
		}
		// What the server says meanwhile comes before its answer, in order.
		got = talk(t.Context(), t, s, as, call).serves(func(id, method string) string {
			return `{"said":[{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"working"}},{"jsonrpc":"2.0","id":"x","method":"sampling/createMessage","params":{}},` +
				strings.TrimSuffix(strings.TrimPrefix(wellBehaved(id, method), `{"said":[`), "]}") + `]}`
		})
		if got.Headers["Content-Type"] != "text/event-stream" || strings.Index(got.Body, "working") > strings.Index(got.Body, "a note") || strings.Contains(got.Body, "sampling") {
			t.Errorf("with what it says meanwhile: %+v", got)
		}
		var decided, answered int
		for _, e := range s.Records("call.decided", "call.ended") {
			if e.Kind == "call.decided" {
				decided++
			} else if strings.Contains(string(e.Body), `"answered"`) {
				answered++
			}
		}
		if decided != 3 || answered != 2 {
			t.Errorf("recorded are %d decisions and %d answers", decided, answered)
		}
	})
}

func TestWhoSpeaksOtherwiseToAServerBesideIsRefused(t *testing.T) {
	s := besides(t, mayflytest.Options{})
	as := besideTask(t, s)
	for name, change := range map[string]func(*http.Request){
		"as to a server elsewhere": func(r *http.Request) { r.Header.Set("Content-Type", "application/json") },
		"with no type":             func(r *http.Request) { r.Header.Del("Content-Type") },
		"by GET":                   func(r *http.Request) { r.Method, r.Body, r.ContentLength = http.MethodGet, nil, 0 },
		"by DELETE":                func(r *http.Request) { r.Method, r.Body, r.ContentLength = http.MethodDelete, nil, 0 },
	} {
		r, err := http.NewRequest(http.MethodPost, s.Issuer+"/mcp/notes", strings.NewReader(call))
		must(t, err)
		r.Header.Set("Content-Type", besideType)
		change(r)
		if got := s.DoAs(as, r); got.Status != http.StatusConflict || !strings.Contains(string(got.Body), "mayfly mcp --target notes") {
			t.Errorf("%s: %d %s", name, got.Status, got.Body)
		}
	}
	// A body in chunks is for these targets alone.
	r, err := http.NewRequest(http.MethodPost, s.Issuer+"/mcp/bank", io.MultiReader(strings.NewReader(call)))
	must(t, err)
	r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(call)), nil }
	r.Header.Set("Content-Type", besideType)
	r.ContentLength = -1
	if got := s.DoAs(as, r.Clone(t.Context())); got.Status != http.StatusConflict || !strings.Contains(string(got.Body), "is not run beside its agent") {
		t.Errorf("a conversation about a server elsewhere: %d %s", got.Status, got.Body)
	}
	r.Header.Set("Content-Type", "application/json")
	if got := s.DoAs(as, r); got.Status != http.StatusBadRequest || !strings.Contains(string(got.Body), "Content-Length") {
		t.Errorf("in chunks to a server elsewhere: %d %s", got.Status, got.Body)
	}
	for name, first := range map[string]string{
		"no JSON": "hello", "a batch": "[" + call + "]", "a response": `{"jsonrpc":"2.0","id":1,"result":{}}`,
		"twice the same member": `{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}`,
	} {
		if got := talk(t.Context(), t, s, as, first).next(); got.Send != nil || got.Status != http.StatusBadRequest {
			t.Errorf("%s: %+v", name, got)
		}
	}
	long := talk(t.Context(), t, s, as, `{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":"`+strings.Repeat("x", 5<<20)+`"}}`)
	if body, _ := io.ReadAll(long.resp.Body); long.resp.StatusCode != http.StatusBadRequest || !strings.Contains(string(body), "at most") {
		t.Errorf("a first line of 5 MiB: %d %s", long.resp.StatusCode, body)
	}
	// And the next one is served as if nothing had been.
	if got := talk(t.Context(), t, s, as, call).serves(wellBehaved); got.Status != 200 {
		t.Errorf("afterwards: %+v", got)
	}
}

func TestAServerBesideThatMisbehavesIsNotPassedOn(t *testing.T) {
	s := besides(t, mayflytest.Options{})
	as := besideTask(t, s)
	misbehaves := func(answer func(id string) string) line {
		return talk(t.Context(), t, s, as, call).serves(func(id, method string) string {
			if method == "tools/list" {
				return wellBehaved(id, method)
			}
			return answer(id)
		})
	}
	for name, answer := range map[string]func(id string) string{
		"no JSON":                   func(string) string { return "hello" },
		"nothing":                   func(string) string { return `{}` },
		"no response":               func(string) string { return `{"said":[]}` },
		"a response to another":     func(string) string { return `{"said":[{"jsonrpc":"2.0","id":99,"result":{}}]}` },
		"text where a message goes": func(string) string { return `{"said":["a note"]}` },
		"it failed":                 func(string) string { return `{"failed":"exit status 3"}` },
		"more than an answer may be": func(id string) string {
			return `{"said":[{"jsonrpc":"2.0","id":` + id + `,"result":{"x":"` + strings.Repeat("x", 9<<20) + `"}}]}`
		},
	} {
		if got := misbehaves(answer); strings.Contains(got.Body, `"result"`) || got.Status < 400 && !strings.Contains(got.Body, `"error"`) {
			t.Errorf("%s is passed on: %.300v", name, got)
		}
	}
	for _, e := range s.Records("call.ended") {
		if strings.Contains(string(e.Body), `"answered"`) {
			t.Errorf("recorded as answered: %s", e.Body)
		}
	}
}

func TestAConversationEndsWithItsTaskAndWithWhoeverHoldsIt(t *testing.T) {
	s := besides(t, mayflytest.Options{})
	as := besideTask(t, s)
	// The agent goes away while its server thinks.
	ctx, leave := context.WithCancel(t.Context())
	gone := talk(ctx, t, s, as, call)
	must(t, json.Unmarshal(gone.next().Send, &struct{}{}))
	gone.replies(wellBehaved(`"x"`, "nothing"))
	leave()
	s.Eventually("what it began is over", func() bool {
		n := 0
		for _, e := range s.Records("call.decided", "call.ended") {
			if e.Kind == "call.decided" {
				n++
			} else {
				n--
			}
		}
		return n == 0
	})
	// The task is ended meanwhile: nothing more is passed.
	k := talk(t.Context(), t, s, as, call)
	for {
		var m struct {
			ID     json.RawMessage
			Method string
		}
		must(t, json.Unmarshal(k.next().Send, &m))
		if m.Method == "tools/call" {
			break
		}
		k.replies(wellBehaved(string(m.ID), m.Method))
	}
	began := time.Now()
	if _, err := s.Authority.Revoke(t.Context(), operator, string(as.Task())); err != nil {
		t.Fatal(err)
	}
	got := k.next()
	if took := time.Since(began); got.Send != nil || got.Status != http.StatusUnauthorized || took > 2*time.Second {
		t.Errorf("after %s: %+v", took, got)
	}
}

func TestManyConversationsAtOnceAreNotMixedUp(t *testing.T) {
	s := besides(t, mayflytest.Options{})
	as := besideTask(t, s)
	if got := talk(t.Context(), t, s, as, call).serves(wellBehaved); got.Status != 200 {
		t.Fatalf("%+v", got)
	}
	var all sync.WaitGroup
	for i := range 60 {
		all.Go(func() {
			mine := fmt.Sprintf("note %d of this agent", i)
			got := talk(t.Context(), t, s, as, strings.Replace(call, `"id":7`, fmt.Sprintf(`"id":%d`, i), 1)).serves(func(id, method string) string {
				return strings.ReplaceAll(wellBehaved(id, method), "a note", mine)
			})
			if got.Status != 200 || !strings.Contains(got.Body, mine) {
				t.Errorf("conversation %d is answered %+v", i, got)
			}
		})
	}
	all.Wait()
}
