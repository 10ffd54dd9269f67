package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/mayfly-id/mayfly"
)

// besideType is the media type of a conversation about a server beside the agent:
// the message and what the server said go to the gateway, what the server is to be
// told and what the agent is answered come back.
const besideType = "application/vnd.mayfly.beside+jsonl"

// told is one line from the gateway.
type told struct {
	Send    json.RawMessage   `json:"send"`
	Status  int               `json:"status"`
	Headers map[string]string `json:"headers"`
	Body    string            `json:"body"`
}

// reply is one line to it.
type reply struct {
	Said   []json.RawMessage `json:"said"`
	Failed string            `json:"failed,omitempty"`
}

// converse has the gateway decide on a message, tells the server what it is to be
// told, and gives what the agent is answered.
func (f *stdioFront) converse(r *http.Request, line []byte) (*http.Response, error) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel() // ends the body of the request
	r = r.WithContext(ctx)
	r.Header.Set("Content-Type", besideType)
	// A server that refuses before it listens would wait for the rest of the body,
	// which comes only when it has listened (RFC 9110 section 10.1.1).
	r.Header.Set("Expect", "100-continue")
	r.ContentLength = -1
	// Until the server is told something the whole of it can be sent again. What is
	// said goes into the body that was made last: whoever reads an earlier one may
	// not have noticed yet that it is over.
	var current atomic.Pointer[talk]
	r.GetBody = func() (io.ReadCloser, error) {
		t := &talk{ctx: ctx, now: append(bytes.Clone(line), '\n'), next: make(chan []byte)}
		current.Store(t)
		return io.NopCloser(t), nil
	}
	r.Body, _ = r.GetBody()
	resp, err := f.http.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.Header.Get("Content-Type") != besideType { // refused before it began
		body, err := io.ReadAll(io.LimitReader(resp.Body, maxMessage))
		resp.Body = io.NopCloser(bytes.NewReader(body))
		return resp, err
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxMessage)
	for lines.Scan() {
		var in told
		if err := json.Unmarshal(lines.Bytes(), &in); err != nil {
			return nil, err
		}
		if in.Send == nil {
			out := &http.Response{StatusCode: in.Status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(in.Body)), Request: r}
			for name, value := range in.Headers {
				out.Header.Set(name, value)
			}
			return out, nil
		}
		said, err := f.server.tell(ctx, in.Send)
		out := reply{Said: said}
		if err != nil {
			out.Failed = err.Error()
		}
		text, err := json.Marshal(out)
		if err != nil {
			return nil, err
		}
		select {
		case current.Load().next <- append(text, '\n'):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return nil, errors.Join(errors.New("the gateway's answer broke off"), lines.Err())
}

// talk is the body of a conversation: what is known at once, and what is said later.
type talk struct {
	ctx  context.Context
	now  []byte
	next chan []byte
}

func (t *talk) Read(p []byte) (int, error) {
	if len(t.now) == 0 {
		select {
		case t.now = <-t.next:
		case <-t.ctx.Done():
			return 0, io.EOF
		}
	}
	n := copy(p, t.now)
	t.now = t.now[n:]
	return n, nil
}

// localServer is an MCP server that was started here.
type localServer struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	in    chan input // what is to be written to stdin
	ended chan struct{}
	exit  error // once ended is closed

	mu      sync.Mutex                      // guards the fields below
	waiting map[string]chan json.RawMessage // by the id of a request to it
	between []json.RawMessage               // what it said meanwhile
}

// input is a message to it.
type input struct {
	line  []byte
	taken chan error // has room for one
}

// keptBetween is how many messages nobody waits for are kept for the next answer.
const keptBetween = 256

// startLocalServer runs a server. It ends with us.
func startLocalServer(t *terminal, command []string) (*localServer, error) {
	path, err := exec.LookPath(command[0])
	if err != nil {
		return nil, usageError(fmt.Sprintf("cannot run %s: %v", command[0], err))
	}
	s := &localServer{
		cmd: exec.Command(path, command[1:]...), in: make(chan input), ended: make(chan struct{}), waiting: map[string]chan json.RawMessage{},
	}
	s.cmd.Args[0] = command[0]
	s.cmd.Stderr, s.cmd.Env, s.cmd.SysProcAttr = t.Stderr, childEnv(os.Environ()), &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if s.stdin, err = s.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, mayfly.Errorf(mayfly.Invalid, "cannot run %s: %v", path, err)
	}
	go func() {
		defer close(s.ended)
		s.listen(out)
		s.exit = s.cmd.Wait()
	}()
	go s.write()
	return s, nil
}

// err says that it ended, and how.
func (s *localServer) err() error {
	if s.exit == nil {
		return fmt.Errorf("%s ended by itself", s.cmd.Args[0])
	}
	return fmt.Errorf("%s ended: %w", s.cmd.Args[0], s.exit)
}

// stop ends it, as the protocol says: its input ends, and then it is asked to.
func (s *localServer) stop() {
	_ = s.stdin.Close() // it may be gone already; a write that it does not take ends too
	for _, signal := range []os.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		patience := time.NewTimer(localServerEnds)
		select {
		case <-s.ended:
			patience.Stop()
			return
		case <-patience.C:
			_ = s.cmd.Process.Signal(signal) // it may end meanwhile
		}
	}
	<-s.ended
}

// localServerEnds is how long a server has to end, each time it is told to.
const localServerEnds = 2 * time.Second

// write tells it what it is to be told, until it ends. It may be slow to read, or
// never do: nobody else waits for that, and what it says is heard meanwhile.
func (s *localServer) write() {
	for {
		select {
		case m := <-s.in:
			_, err := s.stdin.Write(m.line)
			m.taken <- err
		case <-s.ended:
			return
		}
	}
}

// listen sorts what it says: answers to whoever waits, the rest for the next answer.
func (s *localServer) listen(out io.Reader) {
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, maxMessage)
	for lines.Scan() {
		line := bytes.Clone(lines.Bytes())
		var h head
		if err := json.Unmarshal(line, &h); err != nil {
			continue // a server that writes its log here
		}
		s.mu.Lock()
		waiter := s.waiting[string(h.ID)]
		if h.Method != "" {
			waiter = nil
			if s.between = append(s.between, line); len(s.between) > keptBetween {
				s.between = s.between[1:]
			}
		}
		if waiter != nil {
			delete(s.waiting, string(h.ID))
			waiter <- line
		}
		s.mu.Unlock()
	}
}

// give has one line written.
func (s *localServer) give(ctx context.Context, line []byte) error {
	m := input{line, make(chan error, 1)}
	in := s.in
	for {
		select {
		case in <- m:
			in = nil
		case err := <-m.taken:
			if err != nil {
				return errors.New("it takes no input")
			}
			return nil
		case <-s.ended:
			return s.err()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// tell writes one message, and gives what the server said since the last time and,
// for a request, up to its response.
func (s *localServer) tell(ctx context.Context, message json.RawMessage) ([]json.RawMessage, error) {
	var h head
	if err := json.Unmarshal(message, &h); err != nil {
		return nil, err
	}
	answer := make(chan json.RawMessage, 1)
	if h.request() {
		s.mu.Lock()
		s.waiting[string(h.ID)] = answer
		s.mu.Unlock()
		defer func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			delete(s.waiting, string(h.ID))
		}()
	}
	if err := s.give(ctx, append(bytes.Clone(message), '\n')); err != nil {
		return nil, err
	}
	if !h.request() {
		return nil, nil
	}
	select {
	case line := <-answer:
		s.mu.Lock()
		defer s.mu.Unlock()
		said := append(s.between, line)
		s.between = nil
		return said, nil
	case <-s.ended:
		return nil, s.err()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
