package gateway

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"sync"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/strictjson"
)

// An MCP server that speaks on its standard input and output runs beside the
// agent, where no gateway can reach it: mayfly mcp starts it, and brings each
// message of the agent here first. That request is a conversation, in lines of
// JSON both ways, in which the server's side of every exchange is told to whoever
// runs it:
//
//	agent's side   ──▶ the message
//	               ◀── {"send": …}                what the server is to be told
//	               ──▶ {"said": […]}              what it said: last of all its response, if it owes one
//	               …
//	               ◀── {"status": …, "body": …}   what the agent is answered
//
// So what is decided, recorded, pinned and taken out of answers is the same code,
// for a server here and a server there.

// besideType is the media type of a conversation.
const besideType = "application/vnd.mayfly.beside+jsonl"

// told is one line to the agent's side.
type told struct {
	Send jsontext.Value `json:"send,omitzero"`

	Status  int               `json:"status,omitzero"`
	Headers map[string]string `json:"headers,omitzero"`
	Body    string            `json:"body,omitzero"`
}

// reply is one line from there.
type reply struct {
	Said   []jsontext.Value `json:"said"`
	Failed string           `json:"failed"`
}

// conversation is the way to a server beside the agent, during one request. It is
// an http.RoundTripper: to the rest of the gateway it is a target like any other.
type conversation struct {
	w       http.ResponseWriter
	control *http.ResponseController
	lines   *bufio.Reader

	mu     sync.Mutex // one exchange at a time; guards the fields below
	begun  bool       // something was told
	broken error
}

type conversationKey struct{}

// converse makes x the conversation that it should be: from here on it is a POST
// of the message, and its answer is the last line. finish must be called when it
// is answered.
func (x *request) converse() (finish func(), err error) {
	media, _, err := mime.ParseMediaType(x.r.Header.Get("Content-Type"))
	if x.r.Method != http.MethodPost || err != nil || media != besideType {
		return nil, mayfly.Errorf(mayfly.Conflict, "the server of %q runs beside its agent: connect with mayfly mcp --target %[1]s --profile … -- SERVER", x.route.target)
	}
	if err := x.control.EnableFullDuplex(); err != nil {
		return nil, mayfly.Errorf(mayfly.Internal, "this connection cannot speak and listen at once").Because(err)
	}
	c := &conversation{w: x.w, control: x.control, lines: bufio.NewReader(x.r.Body)}
	first, err := c.line(strictjson.MCP.Bytes)
	if err != nil {
		x.w.Header().Set("Connection", "close") // nobody will read the rest
		return nil, mayfly.Errorf(mayfly.Invalid, "the first line must be one message of at most %d bytes", strictjson.MCP.Bytes).Because(err)
	}
	x.readWithin(0)
	r := x.r.Clone(context.WithValue(x.r.Context(), conversationKey{}, c))
	r.Body, r.ContentLength, r.TransferEncoding = io.NopCloser(bytes.NewReader(first)), int64(len(first)), nil
	r.Header["Content-Type"] = []string{"application/json"}
	last := &lastLine{header: http.Header{}, under: x.w}
	x.r, x.w = r, last
	x.control = http.NewResponseController(last)
	return func() { c.finish(last) }, nil
}

// line reads one line of at most max bytes, without its end. One that is longer is
// read to its end all the same: whoever is still sending would not hear the answer.
func (c *conversation) line(max int) ([]byte, error) {
	var line []byte
	for read := 0; ; {
		part, err := c.lines.ReadSlice('\n')
		if read += len(part); read <= max {
			line = append(line, part...)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull) && read <= max+besideMost:
		case read > max:
			return nil, fmt.Errorf("a line is longer than %d bytes", max)
		case err != nil:
			return nil, err
		default:
			return bytes.TrimRight(line, "\r\n"), nil
		}
	}
}

// tell writes one line.
func (c *conversation) tell(t told) error {
	line, err := strictjson.Marshal(t)
	if err != nil {
		return err
	}
	if !c.begun {
		c.begun = true
		c.w.Header().Set("Content-Type", besideType)
		c.w.WriteHeader(http.StatusOK)
	}
	_ = c.control.SetWriteDeadline(time.Now().Add(wholeWrite)) // writers in tests have none
	if _, err := c.w.Write(append(line, '\n')); err != nil {
		return err
	}
	return c.control.Flush()
}

// besideMost is how much a server beside may say at once, in bytes: an answer in
// the form in which it comes.
const besideMost = maxAnswer + 64<<10

// RoundTrip has the server told what out holds, and gives what it said.
func (c *conversation) RoundTrip(out *http.Request) (*http.Response, error) {
	message, err := io.ReadAll(out.Body)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.broken != nil {
		return nil, c.broken
	}
	ctx := out.Context()
	stop := context.AfterFunc(ctx, func() { _ = c.control.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	said, err := c.ask(message)
	if err != nil {
		c.broken = err
		return nil, err
	}
	e, err := parseEnvelope(message)
	if err != nil {
		return nil, err
	}
	resp := &http.Response{StatusCode: http.StatusAccepted, Header: http.Header{}, Body: http.NoBody, Request: out}
	if e.id == nil || e.method == nil {
		return resp, nil
	}
	if len(said) == 0 {
		return nil, owes()
	}
	if last, err := parseEnvelope(said[len(said)-1]); err != nil || last.method != nil || !sameID(last.id, e.id) {
		return nil, owes()
	}
	resp.StatusCode = http.StatusOK
	var body bytes.Buffer
	resp.Header.Set("Content-Type", "text/event-stream")
	for _, m := range said {
		fmt.Fprintf(&body, "data: %s\n\n", oneLine(m))
	}
	if len(said) == 1 {
		resp.Header.Set("Content-Type", "application/json")
		body.Reset()
		body.Write(said[0])
	}
	resp.ContentLength, resp.Body = int64(body.Len()), io.NopCloser(&body)
	return resp, nil
}

// owes says that a request got no response: whoever waits for it must be told.
func owes() *mayfly.Error {
	return mayfly.Errorf(mayfly.BadUpstream, "the server beside the agent did not answer this request")
}

func (c *conversation) ask(message []byte) ([]jsontext.Value, error) {
	if err := c.tell(told{Send: message}); err != nil {
		return nil, err
	}
	line, err := c.line(besideMost)
	if err != nil {
		return nil, err
	}
	var r reply
	if err := strictjson.UnmarshalLenient(line, strictjson.Limits{Bytes: besideMost, Depth: strictjson.MCP.Depth + 2}, &r); err != nil {
		return nil, mayfly.Errorf(mayfly.BadUpstream, "the server beside the agent said something that is no JSON").Because(err)
	}
	if r.Failed != "" {
		return nil, mayfly.Errorf(mayfly.BadUpstream, "the server beside the agent did not answer: %s", clip(r.Failed))
	}
	return r.Said, nil
}

// finish tells what the agent is answered.
func (c *conversation) finish(last *lastLine) {
	c.mu.Lock()
	defer c.mu.Unlock()
	headers := map[string]string{}
	for name, values := range last.header {
		headers[name] = values[0]
	}
	if last.status == 0 {
		last.status = http.StatusOK
	}
	// An answer that does not arrive is the agent's loss: the outcome is recorded
	// either way.
	_ = c.tell(told{Status: last.status, Headers: headers, Body: last.body.String()})
	// Then the other side ends too. net/http cannot take the next request on this
	// connection while a body that was spoken and listened to at once is open.
	_ = c.control.SetReadDeadline(time.Now().Add(besideEnds))
	_, _ = io.Copy(io.Discard, io.LimitReader(c.lines, besideMost))
	_ = c.control.SetReadDeadline(time.Time{})
}

// besideEnds is how long the agent's side has to end a conversation that is over.
const besideEnds = time.Second

// lastLine keeps an answer until it is whole.
type lastLine struct {
	header http.Header
	status int
	body   bytes.Buffer
	under  http.ResponseWriter // for its deadlines
}

func (l *lastLine) Header() http.Header         { return l.header }
func (l *lastLine) Write(p []byte) (int, error) { return l.body.Write(p) }
func (l *lastLine) FlushError() error           { return nil }
func (l *lastLine) Unwrap() http.ResponseWriter { return l.under }
func (l *lastLine) WriteHeader(status int) {
	if l.status == 0 {
		l.status = status
	}
}
