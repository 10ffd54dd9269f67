package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/client"
)

// mcpCmd is mayfly mcp.
type mcpCmd struct {
	Target  string `required:"" help:"The MCP server, by its name in grants." placeholder:"NAME"`
	opening `embed:""`
	Server  []string `arg:"" optional:"" passthrough:"" help:"A server that speaks on its standard input and output, after --: it is run here, and enforced around."`
}

// Help is the long help.
func (mcpCmd) Help() string {
	return `Is an MCP server on its standard input and output, for clients that speak to no other.
It opens a task, passes each message through the gateway, and ends the task when its
input ends. Inside of mayfly run it needs no --profile: it is part of that task.

With a server after --, that is run here, and nothing reaches it but what the gateway
lets through: the same decisions and the same record as for a server elsewhere. Its
target says stdio: true in the configuration.

  mayfly mcp --profile reader --target bank
  mayfly mcp --profile reader --target files -- npx -y @modelcontextprotocol/server-filesystem /srv/reports`
}

// Run is an MCP server until its input ends.
func (c mcpCmd) Run(ctx context.Context, t *terminal) error {
	if len(c.Server) > 0 && c.Server[0] == "--" {
		c.Server = c.Server[1:]
	}
	around := os.Getenv("MAYFLY_MCP_URL")
	if c.Profile == "" && c.Ticket == "" && around != "" {
		if len(c.Server) > 0 {
			return usageError("a server that is run here is a task of its own: missing flags: --profile=PROFILE, or --ticket=TICKET")
		}
		f := &stdioFront{out: t.Stdout, address: around + "/" + c.Target, http: &http.Client{}}
		return f.serve(ctx, t.Stdin)
	}
	purpose := "use " + c.Target
	if len(c.Server) > 0 {
		purpose = strings.Join(c.Server, " ")
	}
	return c.during(ctx, t, false, purpose, func(session *client.Session) error {
		address, err := session.API().Endpoint(ctx, "mcp", c.Target)
		if err != nil {
			return err
		}
		f := &stdioFront{out: t.Stdout, address: address, http: &http.Client{Transport: session.Transport()}}
		if len(c.Server) > 0 {
			server, err := startLocalServer(t, c.Server)
			if err != nil {
				return err
			}
			defer server.stop()
			f.server = server
		}
		var alive sync.WaitGroup
		defer alive.Wait()
		beating, stop := context.WithCancel(ctx)
		defer stop()
		alive.Go(func() {
			if err := session.KeepAlive(beating); err != nil && beating.Err() == nil {
				fmt.Fprintf(t.Stderr, "mayfly: the task is over: %v\n", err)
			}
		})
		return f.serve(ctx, t.Stdin)
	})
}

// maxMessage is the longest message of a client or a server, in bytes: an answer
// of the largest size that the gateway passes.
const maxMessage = 9 << 20

// stdioFront is an MCP server on standard input and output, whose answers come over
// HTTP.
type stdioFront struct {
	address string // of the target at the gateway
	http    *http.Client
	server  *localServer // nil for one elsewhere

	mu       sync.Mutex // guards the fields below
	out      io.Writer
	session  string // of the legacy era, as is version
	version  string
	underWay map[string]context.CancelFunc // requests that are not answered, by id
}

// head is what of a JSON-RPC message says where it belongs.
type head struct {
	ID     json.RawMessage `json:"id"`
	Method string          `json:"method"`
	Params struct {
		Name      string          `json:"name"`
		RequestID json.RawMessage `json:"requestId"`
		Meta      struct {
			Version string `json:"io.modelcontextprotocol/protocolVersion"`
		} `json:"_meta"`
	} `json:"params"`
	Result struct {
		Version string `json:"protocolVersion"`
	} `json:"result"`
}

// request reports whether it is one: it owes an answer.
func (h *head) request() bool { return h.ID != nil && h.Method != "" }

// serve answers messages until the input ends, or ctx does.
func (f *stdioFront) serve(ctx context.Context, in io.Reader) error {
	answering, cancel := context.WithCancel(ctx)
	var calls sync.WaitGroup
	defer calls.Wait()
	defer cancel()
	lines := make(chan []byte)
	failed := make(chan error, 1)
	go func() { // it cannot be ended while it reads, and ends with the process
		defer close(lines)
		s := bufio.NewScanner(in)
		s.Buffer(nil, maxMessage)
		for s.Scan() {
			select {
			case lines <- bytes.Clone(s.Bytes()):
			case <-answering.Done():
				return
			}
		}
		failed <- s.Err()
	}()
	through := make(chan struct{}) // closed when all that must be in order is through
	close(through)
	var ended <-chan struct{}
	if f.server != nil {
		ended = f.server.ended
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ended:
			calls.Wait() // they are told
			return f.server.err()
		case line, more := <-lines:
			if !more {
				// Whoever wrote and closed still wants the answers; one that does not come
				// is no reason to stay.
				enough := time.AfterFunc(answersWithin, cancel)
				calls.Wait()
				if !enough.Stop() {
					return fmt.Errorf("the input ended, and not everything was answered within %s", answersWithin)
				}
				select {
				case err := <-failed:
					return err
				case <-ctx.Done():
					return nil
				}
			}
			var h head
			if err := json.Unmarshal(line, &h); err != nil {
				f.say(failure(nil, -32700, "this is no JSON-RPC message", nil))
				continue
			}
			under, done, err := f.begin(answering, &h)
			if err != nil {
				f.say(failure(h.ID, -32600, mayfly.AsError(err).Message, nil))
				continue
			}
			// What opens a session must be through before what follows; so must what
			// owes no answer. Calls do not wait for each other.
			before, own := through, make(chan struct{})
			if h.ID == nil || h.Method == "initialize" {
				through = own
			}
			calls.Go(func() {
				defer close(own)
				defer done()
				<-before
				f.answer(under, h, line)
				if h.Method == "notifications/cancelled" {
					f.giveUp(h.Params.RequestID)
				}
			})
		}
	}
}

// answersWithin is how long answers are waited for when the input has ended.
const answersWithin = 30 * time.Second

// begin notes that a message is under way, until done is called. Its error is that
// of a request whose id another has.
func (f *stdioFront) begin(ctx context.Context, h *head) (under context.Context, done func(), err error) {
	under, cancel := context.WithCancel(ctx)
	if !h.request() {
		return under, cancel, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.underWay[string(h.ID)] != nil {
		cancel()
		return nil, nil, mayfly.Errorf(mayfly.Invalid, "a request with this id is under way")
	}
	if f.underWay == nil {
		f.underWay = map[string]context.CancelFunc{}
	}
	f.underWay[string(h.ID)] = cancel
	return under, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		cancel()
		delete(f.underWay, string(h.ID))
	}, nil
}

// giveUp ends a request that the client does not want answered any more: the server
// will not answer it (MCP 2025-06-18, basic/utilities/cancellation).
func (f *stdioFront) giveUp(id json.RawMessage) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if cancel := f.underWay[string(id)]; cancel != nil {
		cancel()
	}
}

// say writes one message.
func (f *stdioFront) say(message []byte) {
	var line bytes.Buffer
	if err := json.Compact(&line, message); err != nil {
		return
	}
	line.WriteByte('\n')
	f.mu.Lock()
	defer f.mu.Unlock()
	_, _ = f.out.Write(line.Bytes()) // a client that is gone closes our input too
}

// failure is the answer to a request that got none (JSON-RPC 2.0 section 5.1).
func failure(id json.RawMessage, code int, message string, data any) []byte {
	type rpcError struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
		Data    any    `json:"data,omitempty"`
	}
	text, err := json.Marshal(struct {
		Version string          `json:"jsonrpc"`
		ID      json.RawMessage `json:"id"` // null where it is not known
		Error   rpcError        `json:"error"`
	}{"2.0", id, rpcError{code, message, data}})
	if err != nil {
		return []byte(`{"jsonrpc":"2.0","id":null,"error":{"code":-32603,"message":"the answer could not be written"}}`)
	}
	return text
}

// answer passes one message on, and says what comes back.
func (f *stdioFront) answer(ctx context.Context, h head, line []byte) {
	resp, err := f.pass(ctx, h, line)
	if err != nil {
		if h.ID != nil && ctx.Err() == nil {
			f.say(failure(h.ID, -32603, mayfly.AsError(err).Message, nil))
		}
		return
	}
	defer resp.Body.Close()
	mediaType, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	switch {
	case mediaType == "text/event-stream":
		events := bufio.NewScanner(resp.Body)
		events.Buffer(nil, maxMessage)
		for events.Scan() {
			if data, ok := strings.CutPrefix(events.Text(), "data: "); ok {
				f.say([]byte(data))
			}
		}
	case mediaType == "application/json" && h.ID != nil:
		body, err := io.ReadAll(io.LimitReader(resp.Body, maxMessage))
		if err != nil {
			f.say(failure(h.ID, -32603, "the answer broke off", nil))
			return
		}
		if h.Method == "initialize" {
			f.opened(resp, body)
		}
		f.say(body)
	case h.ID != nil:
		e := client.ReadError(resp)
		f.say(failure(h.ID, -32603, e.Message, e.Problem()))
	}
}

// opened remembers the session that a legacy server opened.
func (f *stdioFront) opened(resp *http.Response, body []byte) {
	var h head
	if err := json.Unmarshal(body, &h); err != nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.session, f.version = resp.Header.Get("Mcp-Session-Id"), h.Result.Version
}

// pass sends one message to the gateway, with the headers that repeat it.
func (f *stdioFront) pass(ctx context.Context, h head, line []byte) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, f.address, bytes.NewReader(line))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json, text/event-stream")
	f.mu.Lock()
	session, version := f.session, f.version
	f.mu.Unlock()
	if modern := h.Params.Meta.Version; modern != "" {
		r.Header.Set("Mcp-Protocol-Version", modern)
		r.Header.Set("Mcp-Method", h.Method)
		if h.Method == "tools/call" {
			r.Header.Set("Mcp-Name", h.Params.Name)
		}
	} else if h.Method != "initialize" {
		if version != "" {
			r.Header.Set("Mcp-Protocol-Version", version)
		}
		if session != "" {
			r.Header.Set("Mcp-Session-Id", session)
		}
	}
	if f.server == nil {
		return f.http.Do(r)
	}
	return f.converse(r, line)
}
