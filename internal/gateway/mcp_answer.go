package gateway

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/authority"
	"github.com/mayfly-id/mayfly/internal/strictjson"
)

// answering passes a target's answer on to the agent, as one JSON message or as
// a stream of them, and changes in it what must be changed.
type answering struct {
	ctx       context.Context
	x         *request
	m         *message // nil on the stream of a session
	target    string
	inSession bool
	decision  string // id of the decision that allowed m, "" where nothing was decided
	outcome   *authority.Outcome
	mayCall   func([]mayfly.Call) ([]bool, error)
	shown     func(listed []jsontext.Value, names []string) ([]bool, error) // by how they are defined
	changed   func()                                                        // the server's list of tools did
	reply     func(envelope)                                                // answers a request of the server's
}

// decided is err with the decision that it came after.
func (a *answering) decided(err error) error {
	if a.decision == "" {
		return err
	}
	return withDecision(err, a.decision)
}

// relay passes resp on. An error means that the answer has not begun, or has
// broken off.
func (a *answering) relay(resp *http.Response, limit *time.Timer) error {
	x := a.x
	if err := checkStatus(resp); err != nil {
		return err
	}
	switch code := resp.StatusCode; {
	case code == http.StatusForbidden:
		// A challenge in it would be about our credential.
		return mayfly.Errorf(mayfly.BadUpstream, "the target refused the credential that the gateway keeps for it; tell the operator")
	case code == http.StatusNotFound && a.inSession:
		return sessionOver()
	case code >= 500:
		return mayfly.Errorf(mayfly.BadUpstream, "the target answered with status %d", code)
	case a.m.id == nil && code < 300:
		a.outcome.Name, a.outcome.Detail = "answered", ""
		x.respond(http.StatusAccepted, "", nil)
		return nil
	}
	switch mediaType(resp.Header) {
	case "application/json":
		return a.relayWhole(resp)
	case "text/event-stream":
		if resp.StatusCode == http.StatusOK {
			limit.Reset(streamWithin)
			return a.relayEvents(resp.Body)
		}
	}
	return a.relayStatus(resp.StatusCode)
}

// relayWhole passes one JSON message on.
func (a *answering) relayWhole(resp *http.Response) error {
	body, err := readAnswer(a.ctx, resp)
	if err != nil {
		return err
	}
	a.outcome.Bytes = int64(len(body))
	e, err := parseEnvelope(body)
	if err != nil || e.method != nil || e.result == nil && e.err == nil {
		if resp.StatusCode >= 400 {
			return a.relayStatus(resp.StatusCode)
		}
		return mayfly.Errorf(mayfly.BadUpstream, "the target's answer is not a JSON-RPC response").Because(err)
	}
	if !a.isOurs(e) {
		return mayfly.Errorf(mayfly.BadUpstream, "the target answered another request than this one")
	}
	answer, err := a.response(e)
	if err != nil {
		return err
	}
	a.outcome.Name, a.outcome.Detail = "answered", ""
	a.x.respond(resp.StatusCode, "application/json", answer)
	return nil
}

// relayStatus answers in the place of a target that answered with a status and
// nothing a JSON-RPC client can read.
func (a *answering) relayStatus(code int) error {
	if code < 400 {
		return mayfly.Errorf(mayfly.BadUpstream, "the target's answer is neither JSON nor an event stream")
	}
	a.outcome.Name, a.outcome.Detail = "answered", ""
	message := "the target answered with status " + http.StatusText(code)
	a.x.rpcFailure(code, a.m.id, rpcError{Code: codeInternal, Message: message})
	return nil
}

// maxServerRequests is how many requests of its own a server may send on one
// stream before we believe it does not listen.
const maxServerRequests = 32

// relayEvents passes a stream of messages on, each as it comes: notifications,
// and the response if the stream is one request's. It returns at the end of the
// stream, and when the response has been passed. A request whose stream fails at
// the target gets an error for a response; one that is cut gets nothing more.
func (a *answering) relayEvents(body io.Reader) error {
	x := a.x
	h := x.w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("X-Accel-Buffering", "no")
	x.wrote = true
	x.writeWithin(chunkWrite)
	x.w.WriteHeader(http.StatusOK)
	// The head goes at once: a client waits for it before it goes on.
	err := x.control.Flush()
	if err == nil {
		err = a.events(body)
	}
	if err != nil && a.m != nil && a.ctx.Err() == nil {
		e := mayfly.AsError(a.decided(err))
		failed, marshal := strictjson.Marshal(rpcResponse{JSONRPC: "2.0", ID: a.m.id, Error: &rpcError{
			Code: codeInternal, Message: e.Message, Data: rpcData{Reason: e.Message, Decision: e.Decision},
		}})
		if marshal == nil {
			_ = a.write(event{data: failed}) // err says already that the stream failed
		}
	}
	return err
}

func (a *answering) events(body io.Reader) error {
	// The server's requests are answered beside the stream, never on it.
	var answers sync.WaitGroup
	defer answers.Wait()
	asked := 0

	for events := newEventReader(body); ; {
		in, err := events.next()
		if err != nil {
			if a.ctx.Err() == nil && errors.Is(err, io.EOF) {
				if a.m != nil {
					// A legacy client may come back for the rest of it.
					a.outcome.Detail = "the target's stream ended without a response"
				}
				return nil
			}
			return failure(a.ctx, err)
		}
		out := event{id: in.id, retry: in.retry}
		last := false
		if len(in.data) > 0 && (in.name == "" || in.name == "message") {
			e, err := parseEnvelope(in.data)
			if err != nil {
				return notAMessage().Because(err)
			}
			switch {
			case e.method != nil && e.id != nil:
				if asked++; asked > maxServerRequests {
					return mayfly.Errorf(mayfly.BadUpstream, "the target sends request after request that is not passed")
				}
				if a.m == nil || !a.m.modern { // in the modern era a server has no way to ask
					answers.Go(func() { a.reply(e) })
				}
			case e.method != nil:
				if text(e.method) == notifyTools {
					a.changed()
				}
				out.data = in.data
			case e.result == nil && e.err == nil:
				return notAMessage()
			case a.m == nil || a.isOurs(e):
				if out.data, err = a.response(e); err != nil {
					return err
				}
				last = a.m != nil
			}
			// A response to another request is nobody's here.
			if out.data == nil && out.id == "" && out.retry == "" {
				continue
			}
		} else if len(in.data) > 0 {
			continue // an event of another protocol
		}
		out.data = oneLine(out.data)
		if err := a.write(out); err != nil {
			return err
		}
		if last {
			a.outcome.Name, a.outcome.Detail = "answered", ""
			return nil
		}
	}
}

// write sends one event to the agent, unless the task is over: what was buffered
// is not passed on then.
func (a *answering) write(e event) error {
	if err := a.ctx.Err(); err != nil {
		return failure(a.ctx, err)
	}
	text := e.append(nil)
	a.outcome.Bytes += int64(len(text))
	a.x.writeWithin(chunkWrite)
	if _, err := a.x.w.Write(text); err != nil {
		return err
	}
	return a.x.control.Flush()
}

func notAMessage() *mayfly.Error {
	return mayfly.Errorf(mayfly.BadUpstream, "the target's stream holds something that is not a message")
}

// isOurs reports whether a response answers this request. An error about a
// request that could not be read has no id (JSON-RPC 2.0, section 5).
func (a *answering) isOurs(e envelope) bool {
	return sameID(e.id, a.m.id) || e.err != nil && (e.id == nil || e.id.Kind() == 'n')
}

// oneLine takes the line ends out of a valid JSON text: they only ever stand
// between its values.
func oneLine(data []byte) []byte {
	if !bytes.ContainsAny(data, "\r\n") {
		return data
	}
	v := jsontext.Value(slices.Clone(data))
	if err := v.Compact(); err != nil {
		return nil
	}
	return v
}

func sameID(a, b jsontext.Value) bool {
	if bytes.Equal(a, b) {
		return true
	}
	if a == nil || b == nil {
		return false
	}
	canonical := a.Clone()
	return canonical.Canonicalize() == nil && bytes.Equal(canonical, b)
}

// response writes a target's response again, as the agent may see it.
func (a *answering) response(e envelope) ([]byte, error) {
	id := e.id
	if a.m != nil {
		id = a.m.id
	}
	member, value := "error", e.err
	if value == nil {
		var err error
		member = "result"
		if value, err = a.result(e.result); err != nil {
			return nil, err
		}
	}
	b := make([]byte, 0, len(value)+len(id)+48)
	b = append(b, `{"jsonrpc":"2.0","id":`...)
	if id == nil {
		id = jsontext.Value("null")
	}
	b = append(append(b, id...), ',')
	return append(appendMember(b, []byte(member), value), '}'), nil
}

// result changes in a result what must be changed. On the stream of a session
// the request is not known, and what a result holds says what it is.
func (a *answering) result(v jsontext.Value) (jsontext.Value, error) {
	if v.Kind() != '{' {
		return nil, mayfly.Errorf(mayfly.BadUpstream, "the target's result is not an object")
	}
	var tools, resultType, capabilities, version jsontext.Value
	members(v, func(name []byte, v jsontext.Value) {
		switch string(name) {
		case "tools":
			tools = v
		case "resultType":
			resultType = v
		case "capabilities":
			capabilities = v
		case "protocolVersion":
			version = v
		}
	})
	if resultType.Kind() == '"' && text(resultType) == "input_required" {
		return a.inputRequired()
	}
	method := ""
	if a.m != nil {
		method = a.m.method
	}
	switch {
	case method == methodCallTool:
		return a.marked(v), nil
	case method == methodListTools || method == "" && tools != nil:
		return a.onlyCallable(v, tools)
	case method == methodInitialize && (version.Kind() != '"' || !slices.Contains(legacyVersions, text(version))):
		return nil, mayfly.Errorf(mayfly.BadUpstream, "the target chose a protocol version that this gateway does not speak")
	case capabilities != nil && (method == methodInitialize || method == methodDiscover || method == ""):
		return a.onlyPassed(v), nil
	}
	return v, nil
}

// marked is the result of an allowed call with the decision that allowed it.
func (a *answering) marked(v jsontext.Value) jsontext.Value {
	decision := jsontext.Value(`"` + a.decision + `"`) // an id of ours needs no escape
	found := false
	v = rebuild(v, func(name []byte, v jsontext.Value) jsontext.Value {
		if string(name) != "_meta" {
			return v
		}
		if v.Kind() != '{' {
			return nil
		}
		found = true
		inner := rebuild(v, func(name []byte, v jsontext.Value) jsontext.Value {
			if string(name) == metaDecision {
				return nil // not the target's to say
			}
			return v
		})
		return withMember(inner, metaDecision, decision)
	})
	if !found {
		v = withMember(v, "_meta", withMember(jsontext.Value("{}"), metaDecision, decision))
	}
	return v
}

// onlyCallable is a list of tools without those the task could call with no
// arguments whatever, and those that are not defined as they are pinned. The list is one agent's: no cache may give it to another.
func (a *answering) onlyCallable(v, tools jsontext.Value) (jsontext.Value, error) {
	listed, names, err := listTools(tools)
	if err != nil {
		return nil, err
	}
	calls := make([]mayfly.Call, len(names))
	for i, name := range names {
		calls[i] = mayfly.Call{Kind: "mcp", Target: a.target, Action: name}
	}
	visible, err := a.mayCall(calls)
	if err != nil {
		return nil, err
	}
	shown, err := a.shown(listed, names)
	if err != nil {
		return nil, err
	}
	kept := []byte("[")
	for i, tool := range listed {
		if !visible[i] || !shown[i] {
			continue
		}
		if len(kept) > 1 {
			kept = append(kept, ',')
		}
		kept = append(kept, tool...)
	}
	kept = append(kept, ']')
	v = rebuild(v, func(name []byte, v jsontext.Value) jsontext.Value {
		switch string(name) {
		case "tools":
			return kept
		case "cacheScope":
			return nil
		}
		return v
	})
	if a.m != nil && a.m.modern {
		v = withMember(v, "cacheScope", jsontext.Value(`"private"`))
	}
	return v, nil
}

// listTools reads a list of tools. One without a name, with a name that no call
// could have, or with a definition too long to keep, is left out.
func listTools(tools jsontext.Value) (listed []jsontext.Value, names []string, err error) {
	if tools.Kind() != '[' {
		return nil, nil, mayfly.Errorf(mayfly.BadUpstream, "the target's list of tools is not one")
	}
	elements(tools, func(tool jsontext.Value) {
		var name jsontext.Value
		if tool.Kind() == '{' {
			members(tool, func(member []byte, v jsontext.Value) {
				if string(member) == "name" {
					name = v
				}
			})
		}
		if name.Kind() == '"' && isToolName(text(name)) && len(tool) <= maxDefinition {
			listed, names = append(listed, tool), append(names, text(name))
		}
	})
	return listed, names, nil
}

// onlyPassed is the result of a handshake with those of the server's
// capabilities and versions that the gateway passes.
func (a *answering) onlyPassed(v jsontext.Value) jsontext.Value {
	modern := a.m != nil && a.m.modern
	return rebuild(v, func(name []byte, v jsontext.Value) jsontext.Value {
		switch {
		case string(name) == "capabilities" && v.Kind() == '{':
			return rebuild(v, func(capability []byte, v jsontext.Value) jsontext.Value {
				switch {
				case string(capability) != "tools" || v.Kind() != '{':
					return nil
				case modern:
					// A change of the list is told through
					// subscriptions/listen, which has no rule.
					return rebuild(v, func(name []byte, v jsontext.Value) jsontext.Value {
						if string(name) == "listChanged" {
							return nil
						}
						return v
					})
				}
				return v
			})
		case string(name) == "supportedVersions" && v.Kind() == '[':
			kept := jsontext.Value("[")
			elements(v, func(version jsontext.Value) {
				if version.Kind() == '"' && slices.Contains(supportedVersions(), text(version)) {
					if len(kept) > 1 {
						kept = append(kept, ',')
					}
					kept = append(kept, version...)
				}
			})
			return append(kept, ']')
		}
		return v
	})
}

// inputRequired stands in for a result that asks the client for something: those
// requests have no rule, and without an answer there is no result.
func (a *answering) inputRequired() (jsontext.Value, error) {
	if a.decision == "" {
		return nil, mayfly.Errorf(mayfly.BadUpstream, "the target asked for input, which this gateway does not pass on")
	}
	e := mayfly.Errorf(mayfly.Denied, "the tool asked for more input, which this gateway does not pass on; call it with all it needs")
	e.Decision = a.decision
	return strictjson.Marshal(refusedCall(e, a.m.modern))
}
