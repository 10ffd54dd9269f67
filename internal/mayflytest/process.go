package mayflytest

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mayfly-id/mayfly/client"
	"github.com/mayfly-id/mayfly/internal/mayflytest/idp"
	"github.com/mayfly-id/mayfly/internal/mayflytest/pgtest"
)

// Build compiles the real program with these build tags and gives its path. It
// is removed when the test ends.
func Build(t testing.TB, tags ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "mayfly")
	cmd := exec.Command("go", "build", "-tags", strings.Join(tags, ","), "-o", path, "github.com/mayfly-id/mayfly/cmd/mayfly")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building mayfly: %v\n%s", err, out)
	}
	return path
}

// Installation is a configuration and a store on the disk, which the real
// program serves as a process of its own, again and again. What it hands out is
// remembered in Handed. The methods of System that need no server in this
// process work on it too.
type Installation struct {
	*System
	Dir    string // holds mayfly.yaml
	Handed *Handed
	Lender *pgtest.Lender // target "db"

	program string
	public  string // host:port
	armed   string // file with the name of the failpoint
	running *Process
}

// installed is mayfly.yaml. Limits are out of the way: these tests are one busy
// client.
const installed = `trust_domain: example.org
issuer: %[1]q
listen: {public: %[2]q, admin: %[3]q}
store: %[4]q
keys: {seal: {file: seal.key}}
sources:
  - {name: corp, kind: oidc, issuer: %[5]q, audience: mayfly, operators: mayfly-operators, subject: human, claims: {groups: groups}}
  - {name: cluster, kind: oidc, issuer: %[5]q, audience: mayfly-agents, subject: workload}
targets:
  - name: bank
    kind: mcp
    url: %[6]q
    credential: {header: Authorization, value: "Bearer ${file:upstream.key}"}
  - name: orders
    kind: http
    url: %[7]q
    credential: {header: Authorization, value: "Bearer ${file:upstream.key}"}
  - {name: db, kind: postgres, admin_dsn: "${file:db.dsn}", roles: {reader: {grant: [%[8]s]}}}
limits:
  unauthenticated: {per_second: 100000, burst: 100000}
  token: {per_second: 100000, burst: 100000}
  exchange: {per_second: 100000, burst: 100000}
`

// installedProfile is its one profile: it may delegate to itself, each of its
// calls that writes is counted, and a PUT waits for a yes of finance.
const installedProfile = `profile: invoice
owner: finance@example.org
delegators: [{human: {groups: [accounts-payable]}}, {agent: {profile: invoice}}]
attest: [{source: cluster}]
grants:
  - http:orders:GET:/v1/*
  - grant: http:orders:POST:/v1/*
    budget: {calls: 100000}
  - http:orders:PUT:/v1/*
  - mcp:bank:list_invoices
  - postgres:db:reader
approvals: [{grant: "http:orders:PUT:/v1/*", group: finance}]
default: [http:orders:GET:/v1/*]
lifetime: {idle: 10m, default: 15m, max: 1h}
delegation: {depth: 3, children: 100, to: [invoice]}
risk: medium
authority: profile
`

// Install writes a configuration for program over the store at dsn.
func Install(t testing.TB, program, dsn string) *Installation {
	t.Helper()
	// A socket's path must be short.
	dir, err := os.MkdirTemp("/tmp", "mf")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	free, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	must(t, free.Close())
	i := &Installation{
		System: &System{
			T: t, DSN: dsn, URL: "http://" + free.Addr().String(), Issuer: "http://" + free.Addr().String(),
			Socket: filepath.Join(dir, "admin.sock"), Said: &Lines{},
			IDP: idp.New(t), Bank: newBank(t, true), Orders: newOrders(t),
		},
		Dir: dir, program: program, public: free.Addr().String(), armed: filepath.Join(dir, "failpoint"),
		Handed: &Handed{}, Lender: pgtest.NewLender(t),
	}
	i.Seal = newSeal()
	config := fmt.Sprintf(installed, i.Issuer, i.public, "unix://"+i.Socket, dsn, i.IDP.URL(), i.Bank.URL, i.Orders.URL, i.Lender.Group)
	must(t, os.Mkdir(filepath.Join(dir, "profiles"), 0o700))
	for name, text := range map[string]string{
		"mayfly.yaml": config, "profiles/invoice.yaml": installedProfile, "upstream.key": upstreamKey, "failpoint": "", "db.dsn": i.Lender.Admin,
		"seal.key": base64.StdEncoding.EncodeToString(i.Seal[:]) + "\n",
	} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	t.Cleanup(func() {
		if i.running != nil {
			i.running.Kill()
		}
	})
	return i
}

// Arm makes the process die where it next reaches the failpoint; "" disarms it.
// The process must be one built with the tag failpoint.
func (i *Installation) Arm(failpoint string) {
	i.T.Helper()
	must(i.T, os.WriteFile(i.armed, []byte(failpoint), 0o600))
}

// Start starts the server. It may not be ready yet, or already dead.
func (i *Installation) Start() *Process {
	i.T.Helper()
	cmd := exec.Command(i.program, "--config", filepath.Join(i.Dir, "mayfly.yaml"), "serve")
	cmd.Env = append(os.Environ(), "MAYFLY_FAILPOINT=@"+i.armed)
	cmd.Stdout, cmd.Stderr = i.Said, i.Said
	must(i.T, cmd.Start())
	p := &Process{cmd: cmd, ended: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.ended)
	}()
	i.running = p
	return p
}

// Serve starts the server and waits until it is ready.
func (i *Installation) Serve() *Process {
	i.T.Helper()
	p := i.Start()
	c := i.Client()
	defer c.Close()
	Eventually(i.T, 30*time.Second, "the server is ready", func() bool {
		select {
		case <-p.ended:
			i.T.Fatalf("the server ended: %v\n%s", p.err, i.Said)
		default:
		}
		return c.Ready(i.T.Context()) == nil
	})
	return p
}

// Client calls the server over HTTP with no token; what it is handed is
// remembered.
func (i *Installation) Client() *client.Client {
	return i.Handed.Client(i.System)
}

// Program is the path of the real program.
func (i *Installation) Program() string { return i.program }

// Mayfly runs the program with these arguments and gives what it printed and its
// exit code.
func (i *Installation) Mayfly(arguments ...string) (output string, code int) {
	i.T.Helper()
	cmd := exec.Command(i.program, append([]string{"--config", filepath.Join(i.Dir, "mayfly.yaml")}, arguments...)...)
	out, err := cmd.CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return string(out), exit.ExitCode()
	}
	must(i.T, err)
	return string(out), 0
}

// Process is one life of the server.
type Process struct {
	cmd   *exec.Cmd
	ended chan struct{}
	err   error // set when ended is closed
}

// Kill ends the process as a power cut would, and waits for it.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // it may have ended by itself
	<-p.ended
}

// Stop ends the process in order, and gives how it ended.
func (p *Process) Stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	<-p.ended
	return p.err
}

// Signal sends the process a signal.
func (p *Process) Signal(s os.Signal) error { return p.cmd.Process.Signal(s) }

// Ended is closed when the process has ended.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Killed reports whether the process died by SIGKILL. It has ended.
func (p *Process) Killed() bool {
	exit, ok := errors.AsType[*exec.ExitError](p.err)
	return ok && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
}

// Handed remembers, outside the server, everything that it handed out: what a
// client saw counts, whether or not it could make use of it.
type Handed struct {
	mu          sync.Mutex // guards the fields below
	tokens      []string
	delegations []string
	decisions   []string
	checkpoints [][]byte
}

// Client calls a system over HTTP with no token, and remembers in h what comes
// back.
func (h *Handed) Client(s *System) *client.Client {
	s.T.Helper()
	transport := &http.Transport{
		DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext, MaxIdleConnsPerHost: 16, IdleConnTimeout: 10 * time.Second,
		ResponseHeaderTimeout: 30 * time.Second,
	}
	c, err := client.New(client.Options{Address: s.URL, Issuer: s.Issuer, Transport: &collector{h, transport}})
	must(s.T, err)
	return c
}

// Tokens are the access tokens seen so far.
func (h *Handed) Tokens() []string { return copied(h, &h.tokens) }

// Delegations are the delegations whose tickets were seen.
func (h *Handed) Delegations() []string { return copied(h, &h.delegations) }

// Decisions are the allowed calls that were answered.
func (h *Handed) Decisions() []string { return copied(h, &h.decisions) }

// Checkpoints are the log's checkpoints seen, oldest first.
func (h *Handed) Checkpoints() [][]byte { return copied(h, &h.checkpoints) }

func copied[T any](h *Handed, list *[]T) []T {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]T(nil), *list...)
}

// collector reads every answer on its way.
type collector struct {
	*Handed
	next http.RoundTripper
}

// CloseIdleConnections closes those of the transport below.
func (c *collector) CloseIdleConnections() {
	if t, ok := c.next.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
}

// RoundTrip implements http.RoundTripper.
func (c *collector) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := c.next.RoundTrip(r)
	if err != nil || resp.StatusCode > 299 || strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		return resp, err
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	c.take(r.URL.Path, resp.Header, body)
	if err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, err
}

func (h *Handed) take(path string, header http.Header, body []byte) {
	var said struct {
		Token      string `json:"access_token"`
		Delegation string `json:"delegation"`
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if path == "/log/checkpoint" {
		if n := len(h.checkpoints); n == 0 || !bytes.Equal(h.checkpoints[n-1], body) {
			h.checkpoints = append(h.checkpoints, body)
		}
		return
	}
	if d := header.Get("Mayfly-Decision"); d != "" {
		h.decisions = append(h.decisions, d)
	}
	if json.Unmarshal(body, &said) != nil { // an answer that broke off gives nobody a token
		return
	}
	if said.Token != "" {
		h.tokens = append(h.tokens, said.Token)
	}
	if path == "/v1/delegations" {
		h.delegations = append(h.delegations, said.Delegation)
	}
}
