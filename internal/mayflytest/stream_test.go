package mayflytest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-id/mayfly/client"
	"github.com/mayfly-id/mayfly/internal/mayflytest"
)

// cutWithin is how soon after a revocation a stream must end.
const cutWithin = 2 * time.Second

// ticking is a target that sends an event every few milliseconds, with the time
// it was sent, until the caller goes; gone then gets a value.
func ticking(t *testing.T, gone chan<- time.Time) *scripted {
	t.Helper()
	tick := func(format string) func(http.ResponseWriter, *http.Request, string) {
		return func(w http.ResponseWriter, r *http.Request, id string) {
			w.Header().Set("Content-Type", "text/event-stream")
			every := time.NewTicker(5 * time.Millisecond)
			defer every.Stop()
			for {
				fmt.Fprintf(w, format, time.Now().UnixNano())
				w.(http.Flusher).Flush()
				select {
				case <-r.Context().Done():
					gone <- time.Now()
					return
				case <-every.C:
				}
			}
		}
	}
	const plain = "data: {\"at\":%d}\n\n"
	const message = "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{\"at\":%d}}\n\n"
	script := newScripted(t)
	script.on("initialize", func(w http.ResponseWriter, r *http.Request, id string) {
		w.Header().Set("Mcp-Session-Id", "upstreams-own")
		results(`{"protocolVersion":"2025-11-25","capabilities":{"tools":{}}}`, false)(w, r, id)
	})
	script.on("tools/call", tick(message)) // that never comes to its result
	script.on("GET", func(w http.ResponseWriter, r *http.Request, id string) {
		if strings.HasPrefix(r.URL.Path, "/v1/") {
			tick(plain)(w, r, id)
			return
		}
		tick(message)(w, r, id)
	})
	return script
}

// sentAt is when a ticking target sent an event.
func sentAt(t *testing.T, data string) time.Time {
	t.Helper()
	var e struct {
		At     int64 `json:"at"`
		Params struct {
			At int64 `json:"at"`
		} `json:"params"`
	}
	if err := json.Unmarshal([]byte(data), &e); err != nil {
		t.Fatalf("%v: %s", err, data)
	}
	return time.Unix(0, max(e.At, e.Params.At))
}

func TestS75AnOpenStreamEndsWithItsTask(t *testing.T) {
	gone := make(chan time.Time, 16)
	script := ticking(t, gone)
	f := newFront(t, mayflytest.Options{Change: before(target(t, "api", "http", script.URL), target(t, "tools", "mcp", script.URL+"/mcp"))}, script.Upstream)

	for _, c := range []struct {
		name string
		open func(task held) *http.Request
		end  func(task held) // nil revokes the token alone
		// decided is whether the stream is an answer to a call, which has an
		// outcome.
		decided bool
	}{
		{"an HTTP stream, at revocation", func(task held) *http.Request {
			return f.agent(task, "/http/api").request(http.MethodGet, "/v1/ticks", nil, "Accept", "text/event-stream")
		}, f.revoke, true},
		{"an HTTP stream, at the revocation of the human", func(task held) *http.Request {
			return f.agent(task, "/http/api").request(http.MethodGet, "/v1/ticks", nil, "Accept", "text/event-stream")
		}, f.revokeHuman, true},
		{"a session's stream, at revocation", f.sessionStream, f.revoke, false},
		{"a session's stream, when its holder completes the task", f.sessionStream, f.complete, false},
		{"a session's stream, at the revocation of its token", f.sessionStream, nil, false},
		{"a tools/call that takes its time", func(task held) *http.Request {
			return f.agent(task, "/mcp/tools").call(1, "list_invoices", nil)
		}, f.revoke, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			task := f.open(f.opening("profile", "open", "subject_token", f.Human("human-of-"+fmt.Sprint(len(c.name)))), newHolder(t))
			request := c.open(task)
			s := open(t, request)
			for range 3 { // it is not buffered: each event comes while the stream is open
				if _, err := s.next(); err != nil {
					t.Fatal(err)
				}
			}
			if c.end == nil {
				token := strings.TrimPrefix(request.Header.Get("Authorization"), "DPoP ")
				f.revokeToken(token)
			} else {
				c.end(task)
			}
			ended := time.Now()
			last := time.Time{}
			timer := time.AfterFunc(3*cutWithin, func() { s.resp.Body.Close() })
			defer timer.Stop()
			var err error
			for err == nil {
				var data string
				if data, err = s.next(); err == nil {
					last = sentAt(t, data)
				}
			}
			if took := time.Since(ended); took > cutWithin {
				t.Errorf("the stream was open for %s after the end", took)
			}
			if late := last.Sub(ended); late > cutWithin/2 {
				t.Errorf("an event of %s after the end was passed", late)
			}
			select {
			case <-gone:
			case <-time.After(10 * time.Second):
				t.Error("the target's stream is still read")
			}
			if c.decided {
				if d := s.resp.Header.Get("Mayfly-Decision"); f.outcome(d)["outcome"] != "cut" {
					t.Errorf("the outcome is %v", f.outcome(d))
				}
			}
			f.passed()
		})
	}
}

// sessionStream is the stream of a session of the legacy era.
func (f *front) sessionStream(task held) *http.Request {
	f.t.Helper()
	tools := f.agent(task, "/mcp/tools")
	return tools.request(http.MethodGet, "", nil, "Accept", "text/event-stream", "MCP-Protocol-Version", legacy, "Mcp-Session-Id", tools.session())
}

func (f *front) revoke(task held) {
	f.t.Helper()
	if _, err := f.Operator().Revoke(context.Background(), task.task); err != nil {
		f.t.Error(err)
	}
}

func (f *front) revokeHuman(task held) {
	f.t.Helper()
	human := f.view(task.task).Root.Subject
	if _, err := f.Operator().RevokeAll(context.Background(), "human", human); err != nil {
		f.t.Error(err)
	}
}

func (f *front) complete(task held) {
	f.t.Helper()
	a := f.node.send(task, http.MethodPost, "/v1/tasks/"+string(task.task)+"/complete", []byte("{}"))
	if a.Status != http.StatusOK {
		f.t.Errorf("completing: %s", a)
	}
}

// revokeToken revokes one token for a target (RFC 7009).
func (f *front) revokeToken(token string) {
	f.t.Helper()
	if err := f.Operator().RevokeToken(context.Background(), client.ClientAuth{}, token); err != nil {
		f.t.Error(err)
	}
}

// An agent that goes away is a cancellation: the target hears of it, and the
// outcome says so.
func TestACallThatTheAgentLeavesIsCutAtTheTarget(t *testing.T) {
	gone := make(chan time.Time, 4)
	script := ticking(t, gone)
	f := newFront(t, mayflytest.Options{Change: before(target(t, "api", "http", script.URL), target(t, "tools", "mcp", script.URL+"/mcp"))}, script.Upstream)
	task := f.task("open")
	for name, request := range map[string]*http.Request{
		"http": f.agent(task, "/http/api").request(http.MethodGet, "/v1/ticks", nil, "Accept", "text/event-stream"),
		"mcp":  f.agent(task, "/mcp/tools").call(1, "list_invoices", nil),
	} {
		s := open(t, request)
		if _, err := s.next(); err != nil {
			t.Fatal(err)
		}
		s.resp.Body.Close()
		select {
		case <-gone:
		case <-time.After(10 * time.Second):
			t.Errorf("%s: the target's stream is still read", name)
		}
		if o := f.outcome(s.resp.Header.Get("Mayfly-Decision")); o["outcome"] != "cut" || o["detail"] != "the agent went away" {
			t.Errorf("%s: the outcome is %v", name, o)
		}
	}
	f.passed()
}
