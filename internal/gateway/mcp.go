package gateway

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/authority"
	"github.com/mayfly-id/mayfly/internal/strictjson"
)

// serveMCP is one message to an MCP server (Streamable HTTP): in the modern era
// (2026-07-28) each stands alone, in the legacy one it may belong to a session.
// Each era is passed through as it is; none is translated into the other.
func (g *Gateway) serveMCP(x *request) {
	switch x.r.Method {
	case http.MethodPost:
		g.post(x)
	case http.MethodGet:
		g.listen(x)
	case http.MethodDelete:
		g.endSession(x)
	default:
		x.w.Header().Set("Allow", "POST, GET, DELETE")
		g.refuse(x, "mcp "+clip(x.r.Method), mayfly.Errorf(mayfly.MethodNotAllowed, "send MCP messages with POST"))
	}
}

// post reads one message and does what the rule for its method says:
//
//	tools/call ──▶ decide ──▶ forward ──▶ mark the result
//	initialize, server/discover, ping, tools/list, notifications/* ──▶ forward ──▶ filter the result
//	everything else ──▶ refuse
func (g *Gateway) post(x *request) {
	m, f := readMCP(x)
	if f == nil {
		f = m.checkHeaders(x.r.Header)
	}
	if f != nil {
		g.refuseMessage(x, m, f)
		return
	}
	session, err := g.sessionOf(x, m)
	if err != nil {
		g.refuse(x, "mcp session", err)
		return
	}
	switch {
	case m.method == methodCallTool && m.id != nil:
		g.callTool(x, m, session)
	case m.passes():
		g.pass(x, m, session)
	default:
		g.refuseMethod(x, m)
	}
}

// readMCP reads the body of a POST as one message.
func readMCP(x *request) (*message, *fault) {
	none := &message{}
	isJSON, err := bodyIsJSON(x.r)
	switch {
	case err != nil:
		return none, &fault{code: codeInvalidRequest, err: mayfly.AsError(err)}
	case !isJSON:
		return none, &fault{code: codeInvalidRequest, err: mayfly.Errorf(mayfly.MediaType, "send the message as application/json")}
	case !accepts(x.r.Header["Accept"], "application/json") || !accepts(x.r.Header["Accept"], "text/event-stream"):
		return none, invalid(codeInvalidRequest, "the Accept header must list application/json and text/event-stream")
	}
	body, err := x.readBody(strictjson.MCP.Bytes)
	if err != nil {
		return none, &fault{code: codeInvalidRequest, err: mayfly.AsError(err)}
	}
	x.readWithin(0)
	return parseMessage(body)
}

// sessionOf is the target's id of the session m belongs to, "" if it belongs to
// none.
func (g *Gateway) sessionOf(x *request, m *message) (string, error) {
	if m.modern || m.method == methodInitialize {
		return "", nil
	}
	return g.presentedSession(x)
}

func (g *Gateway) presentedSession(x *request) (string, error) {
	ids := x.r.Header["Mcp-Session-Id"]
	switch len(ids) {
	case 0:
		return "", nil
	case 1:
		return g.sessions.open(ids[0], x.owner())
	}
	return "", mayfly.Errorf(mayfly.Invalid, "send one Mcp-Session-Id")
}

// owner is whom sessions made on this request belong to.
func (x *request) owner() owner { return owner{x.target.Name, x.session.Task(), x.session.Key()} }

// callTool decides on a tools/call and forwards what was decided on.
func (g *Gateway) callTool(x *request, m *message, session string) {
	arguments, err := mayfly.ParseArguments(m.arguments)
	if err != nil {
		g.refuseMessage(x, m, &fault{code: codeInvalidParams, err: mayfly.AsError(err)})
		return
	}
	body, err := m.encode()
	if err != nil {
		g.refuseMessage(x, m, &fault{code: codeInternal, err: mayfly.AsError(err)})
		return
	}
	call := mayfly.Call{
		Kind: "mcp", Target: x.target.Name, Action: m.tool, Arguments: arguments,
		Digest: digestOf("", body), Size: int64(len(body)),
	}
	// The server is asked for its tools only about a call that some grant could
	// allow: what is refused anyway costs it nothing.
	if may, err := g.authority.MayCall(x.r.Context(), x.session, []mayfly.Call{call}); err == nil && may[0] {
		if call.Definition, err = g.definition(x.r.Context(), x, m, session); err != nil {
			g.answerFailure(x, m, g.recordRefusal(x, "mcp tools", err))
			return
		}
	}
	ad, err := g.authority.Admit(x.r.Context(), x.session, call)
	if err != nil {
		g.log(x, err)
		x.callRefused(m, mayfly.AsError(err))
		return
	}
	outcome := authority.Outcome{Name: "failed", Detail: "the gateway stopped half-way"}
	defer func() { ad.Done(outcome) }()
	g.exchange(x, m, body, session, ad, &outcome)
}

// callRefused answers a tools/call that was not admitted.
func (x *request) callRefused(m *message, e *mayfly.Error) {
	switch {
	case e.Kind == mayfly.Unauthenticated:
		x.problem(e)
	case e.Kind == mayfly.Denied && e.Code != "insufficient_scope", e.Term == mayfly.TermApproval:
		x.rpcRespond(http.StatusOK, rpcResponse{ID: m.id, Result: refusedCall(e, m.modern)})
	default:
		x.messageFailed(m, e)
	}
}

// messageFailed answers a message with a JSON-RPC error under the status of e.
func (x *request) messageFailed(m *message, e *mayfly.Error) {
	code := codeInternal
	if e.Kind == mayfly.Denied {
		code = codeRefused
	}
	x.errorHeaders(e)
	x.rpcFailure(e.Kind.Status(), m.id, rpcError{
		Code: code, Message: e.Message,
		Data: rpcData{Reason: e.Message, Decision: e.Decision, Term: e.Term, Next: e.Next},
	})
}

// refuseMessage records and answers a message that is not well-formed, or whose
// headers and body differ.
func (g *Gateway) refuseMessage(x *request, m *message, f *fault) {
	err := g.recordRefusal(x, "mcp message", f.err)
	e := mayfly.AsError(err)
	if e != f.err && e.Kind != f.err.Kind { // it could not be recorded
		x.messageFailed(m, e)
		return
	}
	data := f.data
	if data == nil {
		data = rpcData{Reason: e.Message, Decision: e.Decision}
	}
	x.errorHeaders(e)
	x.rpcFailure(e.Kind.Status(), m.id, rpcError{Code: f.code, Message: e.Message, Data: data})
}

// refuseMethod refuses a method that has no rule. That is an answer like any
// other to a legacy client; the modern protocol gives methods it does not have a
// status of their own.
func (g *Gateway) refuseMethod(x *request, m *message) {
	e := mayfly.Errorf(mayfly.Denied, "the method %q is not passed by this gateway; use tools/list and tools/call", clip(m.method))
	e.Next = &mayfly.Next{Action: "none"}
	status, code := http.StatusOK, codeRefused
	switch {
	case m.id == nil:
		status = http.StatusForbidden
	case m.modern && !isModernMethod(m.method):
		status, code = http.StatusNotFound, codeMethodNotFound
	}
	err := g.recordRefusal(x, "mcp "+clip(m.method), e)
	if recorded := mayfly.AsError(err); recorded.Kind != mayfly.Denied {
		x.messageFailed(m, recorded)
		return
	}
	x.rpcFailure(status, m.id, rpcError{
		Code: code, Message: e.Message, Data: rpcData{Reason: e.Message, Decision: mayfly.AsError(err).Decision, Next: e.Next},
	})
}

// pass forwards a message that needs no decision: a verified, live token is
// enough.
func (g *Gateway) pass(x *request, m *message, session string) {
	body, err := m.encode()
	if err != nil {
		g.refuseMessage(x, m, &fault{code: codeInternal, err: mayfly.AsError(err)})
		return
	}
	g.authority.CountPassed(x.session)
	var outcome authority.Outcome // passed messages are counted, not recorded
	g.exchange(x, m, body, session, nil, &outcome)
}

// exchange sends a message to the target and passes its answer on. ad is nil for
// a message that was passed. It sets outcome before anything that may panic.
func (g *Gateway) exchange(x *request, m *message, body []byte, session string, ad *authority.Admission, outcome *authority.Outcome) {
	ctx, cancel, limit, done := x.open(ad != nil)
	defer done()
	target := x.target
	var fresh func() error
	if ad != nil {
		target = ad.Target()
		fresh = func() error { return ad.Fresh(ctx) }
	}
	out, err := mcpRequest(http.MethodPost, target, session, body)
	if err != nil {
		*outcome = authority.Outcome{Name: "not-sent", Detail: mayfly.AsError(err).Message}
		x.messageFailed(m, mayfly.AsError(err))
		return
	}
	m.mirror(out.Header, x.r.Header)
	if ad != nil {
		x.trace(out.Header, ad.Decision().ID)
	}
	resp, sent, err := g.send(ctx, cancel, target, out, fresh)
	if err != nil {
		*outcome = x.unanswered(ctx, sent, err)
		if ad != nil {
			err = withDecision(err, ad.Decision().ID)
		}
		g.answerFailure(x, m, err)
		return
	}
	defer resp.Body.Close()
	*outcome = unpassed(resp)
	a := g.answering(ctx, x, target, session, outcome)
	a.m = m
	if ad != nil {
		a.decision = ad.Decision().ID
		x.w.Header().Set("Mayfly-Decision", a.decision)
	}
	if ids := resp.Header["Mcp-Session-Id"]; m.method == methodInitialize && len(ids) == 1 && isSessionID(ids[0]) {
		x.w.Header().Set("Mcp-Session-Id", g.sessions.seal(ids[0], x.owner()))
	}
	if err := a.relay(resp, limit); err != nil {
		err = a.decided(err)
		outcome.Detail = mayfly.AsError(err).Message
		if ctx.Err() != nil {
			outcome.Name, outcome.Detail = "cut", cutBy(ctx, x, err)
		}
		g.answerFailure(x, m, err)
	}
}

// answering makes what passes the answers of one exchange on.
func (g *Gateway) answering(ctx context.Context, x *request, target *mayfly.Target, session string, outcome *authority.Outcome) *answering {
	return &answering{
		ctx: ctx, x: x, target: target.Name, inSession: session != "", outcome: outcome,
		mayCall: func(calls []mayfly.Call) ([]bool, error) { return g.authority.MayCall(ctx, x.session, calls) },
		shown: func(listed []jsontext.Value, names []string) ([]bool, error) {
			return g.shown(ctx, target, listed, names)
		},
		changed: func() { g.tools.changed(target) },
		reply: func(e envelope) {
			if err := g.answerServer(ctx, target, session, x.r.Header.Get("Mcp-Protocol-Version"), e); err != nil {
				g.log(x, err)
			}
		},
	}
}

// answerFailure answers a message whose exchange with the target failed, if no
// answer has begun.
func (g *Gateway) answerFailure(x *request, m *message, err error) {
	g.log(x, err)
	switch e := mayfly.AsError(err); {
	case x.wrote:
	case e.Kind == mayfly.Unauthenticated, e.Kind == mayfly.NotFound:
		x.problem(e)
	default:
		x.messageFailed(m, e)
	}
}

// mcpRequest makes a request to an MCP target: its headers are ours alone.
func mcpRequest(method string, target *mayfly.Target, session string, body []byte) (*http.Request, error) {
	u, err := url.Parse(target.URL)
	if err != nil {
		return nil, mayfly.Errorf(mayfly.Internal, "the target's address is not a URL: %w", err)
	}
	out := &http.Request{
		Method: method, URL: u, Host: u.Host, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"User-Agent": {userAgent}, "Accept": {"application/json, text/event-stream"}},
	}
	if session != "" {
		out.Header["Mcp-Session-Id"] = []string{session}
	}
	if body != nil {
		out.Header["Content-Type"] = []string{"application/json"}
		out.ContentLength = int64(len(body))
		out.Body = io.NopCloser(bytes.NewReader(body))
		out.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	}
	return out, nil
}

// listen passes a legacy session's stream from the server on: notifications, and
// answers to calls whose stream broke off.
func (g *Gateway) listen(x *request) {
	session, err := g.sessionOnly(x)
	if err != nil {
		g.refuse(x, "mcp stream", err)
		return
	}
	if !accepts(x.r.Header["Accept"], "text/event-stream") {
		g.refuse(x, "mcp stream", mayfly.Errorf(mayfly.Invalid, "the Accept header must list text/event-stream"))
		return
	}
	g.authority.CountPassed(x.session)
	x.readWithin(0)
	ctx, cancel, limit, done := x.open(true)
	defer done()
	out, err := mcpRequest(http.MethodGet, x.target, session, nil)
	if err != nil {
		x.problem(err)
		return
	}
	out.Header["Accept"] = []string{"text/event-stream"}
	for _, name := range []string{"Last-Event-Id", "Mcp-Protocol-Version"} {
		if v := x.r.Header[name]; len(v) == 1 {
			out.Header[name] = []string{v[0]}
		}
	}
	resp, _, err := g.send(ctx, cancel, x.target, out, nil)
	if err != nil {
		g.log(x, err)
		x.problem(err)
		return
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusOK && isEventStream(resp.Header):
		limit.Reset(streamWithin)
		a := g.answering(ctx, x, x.target, session, &authority.Outcome{})
		if err := a.relayEvents(resp.Body); err != nil {
			g.log(x, err)
		}
	case resp.StatusCode == http.StatusMethodNotAllowed:
		x.w.Header().Set("Allow", "POST")
		x.problem(mayfly.Errorf(mayfly.MethodNotAllowed, "the target offers no stream"))
	case resp.StatusCode == http.StatusNotFound:
		x.problem(sessionOver())
	default:
		x.problem(badStatus(resp))
	}
}

// endSession ends a legacy session at the target.
func (g *Gateway) endSession(x *request) {
	session, err := g.sessionOnly(x)
	if err != nil {
		g.refuse(x, "mcp session", err)
		return
	}
	g.authority.CountPassed(x.session)
	ctx, cancel, _, done := x.open(false)
	defer done()
	out, err := mcpRequest(http.MethodDelete, x.target, session, nil)
	if err != nil {
		x.problem(err)
		return
	}
	if v := x.r.Header["Mcp-Protocol-Version"]; len(v) == 1 {
		out.Header["Mcp-Protocol-Version"] = []string{v[0]}
	}
	resp, _, err := g.send(ctx, cancel, x.target, out, nil)
	if err != nil {
		g.log(x, err)
		x.problem(err)
		return
	}
	defer resp.Body.Close()
	switch code := resp.StatusCode; {
	case 200 <= code && code < 300:
		x.respond(http.StatusNoContent, "", nil)
	case code == http.StatusMethodNotAllowed:
		x.w.Header().Set("Allow", "POST, GET")
		x.problem(mayfly.Errorf(mayfly.MethodNotAllowed, "the target lets no client end a session"))
	case code == http.StatusNotFound:
		x.problem(sessionOver())
	default:
		x.problem(badStatus(resp))
	}
}

// sessionOnly is the session of a request that makes no sense without one, which
// the modern era never has.
func (g *Gateway) sessionOnly(x *request) (string, error) {
	versions := x.r.Header["Mcp-Protocol-Version"]
	legacy := len(versions) == 0 || len(versions) == 1 && slices.Contains(legacyVersions, versions[0])
	if !legacy || len(x.r.Header["Mcp-Session-Id"]) == 0 {
		x.w.Header().Set("Allow", "POST")
		return "", mayfly.Errorf(mayfly.MethodNotAllowed, "there is no session here; send messages with POST")
	}
	return g.presentedSession(x)
}

func sessionOver() *mayfly.Error {
	return mayfly.Errorf(mayfly.NotFound, "the session is over; initialize again")
}

func badStatus(resp *http.Response) error {
	if err := checkStatus(resp); err != nil {
		return err
	}
	return mayfly.Errorf(mayfly.BadUpstream, "the target answered with status %d", resp.StatusCode)
}

// answerServerWithin bounds the answer to a request of the server's.
const answerServerWithin = 5 * time.Second

// answerServer tells a server that its request is not passed to the client; a
// ping is answered: the client is there as long as the stream is.
func (g *Gateway) answerServer(ctx context.Context, target *mayfly.Target, session, version string, e envelope) error {
	response := rpcResponse{JSONRPC: "2.0", ID: e.id}
	if text(e.method) == methodPing {
		response.Result = struct{}{}
	} else {
		response.Error = &rpcError{Code: codeMethodNotFound, Message: "the gateway passes no request of a server to its client"}
	}
	body, err := strictjson.Marshal(response)
	if err != nil {
		return err
	}
	out, err := mcpRequest(http.MethodPost, target, session, body)
	if err != nil {
		return err
	}
	if version != "" {
		out.Header["Mcp-Protocol-Version"] = []string{version}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	limit := time.AfterFunc(answerServerWithin, func() { cancel(context.DeadlineExceeded) })
	defer limit.Stop()
	resp, _, err := g.send(ctx, cancel, target, out, nil)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}
