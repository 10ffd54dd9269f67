package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/client"
	"github.com/mayfly-id/mayfly/internal/jose"
	"github.com/mayfly-id/mayfly/internal/sandbox"
	"github.com/mayfly-id/mayfly/internal/store"
	"github.com/mayfly-id/mayfly/internal/token"
)

// sandboxCmd is mayfly sandbox.
type sandboxCmd struct {
	Headless bool   `help:"Tell the story once, run every drill, and exit: 0 only if each was as it should be."`
	Listen   string `help:"Loopback address of the server. Default: a free port." placeholder:"ADDR"`
}

// Help is the long help.
func (sandboxCmd) Help() string {
	return `Starts a whole demo world in this process: an identity provider (alice, bob, a CI
service), an MCP server over a few invoices, one with mail, an HTTP API over a few
tickets, and a Mayfly server with its console in front of them. It tells a story with
them, each step real, and then has agents work until you end it. In a browser it leads
through the story, through drills that try to break it, and to lines that connect an
agent of yours. Nothing leaves this machine, and everything is deleted at the end.

  mayfly sandbox`
}

// Run starts the world and tells the story.
func (c sandboxCmd) Run(ctx context.Context, t *terminal) (err error) {
	began := time.Now()
	if c.Listen == "" {
		if c.Listen, err = freePort(); err != nil {
			return err
		}
	}
	main, err := startPlace(ctx, c.Listen)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, main.stop())
		if err != nil && !errors.Is(err, context.Canceled) {
			fmt.Fprintf(t.Stderr, "the server said:\n%s", main.log.text())
		}
	}()
	world := main.world
	story := &sandbox.Story{World: world, Out: t.Stdout, VerifyLog: func(ctx context.Context, flip bool) (string, bool, error) {
		return verifyCopy(ctx, main.n.db, main.config, flip)
	}, Certificate: func(ctx context.Context, as string, task mayfly.TaskID) (string, bool, error) {
		return checkedCertificate(ctx, world.Public, as, task)
	}}
	program, named, err := ourProgram()
	if err != nil {
		return err
	}
	playground := &sandbox.Playground{World: world, Story: story, NewPlace: newPlace, Program: program}
	page, err := playground.Listen()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, playground.Close()) }()

	fmt.Fprintf(t.Stdout, "Mayfly sandbox: everything here is on this machine and gone when it ends. Ready after %s.\n", time.Since(began).Round(10*time.Millisecond))
	fmt.Fprintf(t.Stdout, "   start here %s\n   console    %[2]s/console/sign-in?hint=bob\n   server     %[2]s\n   provider   %[3]s\n   settings   %[4]s\n", page, world.Public, world.IDP, world.Config)
	if f, ok := t.Stdout.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		story.Bold = func(s string) string { return "\x1b[1m" + s + "\x1b[0m" }
		story.Dim = func(s string) string { return "\x1b[2m" + s + "\x1b[0m" }
	}
	if err := story.Tell(ctx); err != nil {
		return err
	}
	if c.Headless {
		return runDrills(ctx, t)
	}
	alias := ""
	if !named {
		alias = "   alias mayfly=" + program + "\n"
	}
	fmt.Fprintf(t.Stdout, `Your turn. In a browser, %[3]s leads through all of this again, through drills,
and to lines that connect an agent of yours. Agents are at work meanwhile; the console
shows them. In another terminal:

%[4]s   export MAYFLY_CONFIG=%[1]s
   mayfly ps --tree
   mayfly log tail --follow
   mayfly run --profile invoice-agent --can mcp:bank:list_invoices -- env
   export MAYFLY_SUBJECT_TOKEN=$(curl -s '%[2]s/token?for=alice')   # be Alice, for mayfly run
   mayfly revoke --human alice@example.org

Ctrl-C ends the sandbox.
`, world.Config, world.IDP, page, alias)
	crew := &sandbox.Crew{World: world}
	if err := crew.Work(ctx); err != nil && ctx.Err() == nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// ourProgram is how this program is run in a terminal, and whether that is by its
// name alone.
func ourProgram() (program string, named bool, err error) {
	program, err = os.Executable()
	if err != nil {
		return "", false, err
	}
	if found, err := exec.LookPath("mayfly"); err == nil {
		if a, err := os.Stat(found); err == nil {
			if b, err := os.Stat(program); err == nil && os.SameFile(a, b) {
				return "mayfly", true, nil
			}
		}
	}
	return program, false, nil
}

// runDrills runs every drill, each in a place of its own.
func runDrills(ctx context.Context, t *terminal) error {
	began := time.Now()
	var failed []string
	for _, d := range sandbox.Drills() {
		fmt.Fprintf(t.Stdout, "\nDrill: %s\n   %s\n", d.Title, d.Should)
		var out bytes.Buffer // a drill may fill the disk that our output goes to
		err := inPlace(ctx, d, &out)
		fmt.Fprint(t.Stdout, out.String())
		if err != nil {
			fmt.Fprintf(t.Stdout, "   NOT AS IT SHOULD BE: %v\n", err)
			failed = append(failed, d.Name)
		}
	}
	if len(failed) > 0 {
		return fmt.Errorf("%d drills did not hold: %s", len(failed), strings.Join(failed, ", "))
	}
	fmt.Fprintf(t.Stdout, "\nEvery step was as it should be, and every drill held, in %s.\n", time.Since(began).Round(time.Second))
	return nil
}

func inPlace(ctx context.Context, d sandbox.Drill, out io.Writer) (err error) {
	place, err := newPlace(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, place.Stop()) }()
	return d.Run(ctx, place, out)
}

// running is a world with a server in front of it.
type running struct {
	dir    string
	world  *sandbox.World
	config *Config
	n      *instance
	ahead  atomic.Int64 // of the server's clock, in nanoseconds
	log    lockedBuffer // the server's own, which would drown the story
	cancel context.CancelFunc
	served chan error
	cut    bool // the store was taken away
}

// startPlace starts a world and its server on an address.
func startPlace(ctx context.Context, listen string) (r *running, err error) {
	r = &running{served: make(chan error, 1)}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.stop())
		}
	}()
	if r.dir, err = os.MkdirTemp("", "mayfly-sandbox-"); err != nil {
		return r, err
	}
	if r.world, err = sandbox.NewWorld(r.dir, listen); err != nil {
		return r, err
	}
	if r.config, err = Load(r.world.Config); err != nil {
		return r, err
	}
	wall := func() time.Time { return time.Now().Add(time.Duration(r.ahead.Load())) }
	if r.n, err = newInstance(ctx, r.config, slog.New(slog.NewTextHandler(&r.log, nil)), wall); err != nil {
		r.n = nil
		return r, err
	}
	serving, cancel := context.WithCancel(ctx)
	r.cancel = cancel
	go func() { r.served <- r.n.serve(serving, nil) }()
	return r, waitReady(ctx, r.world.Public)
}

// stop ends all of it, and deletes what it wrote.
func (r *running) stop() error {
	var errs []error
	if r.cancel != nil {
		r.cancel()
		if err := <-r.served; !r.cut {
			errs = append(errs, err)
		}
	}
	if r.world != nil {
		errs = append(errs, r.world.Close())
	}
	if r.dir != "" {
		errs = append(errs, os.RemoveAll(r.dir))
	}
	return errors.Join(errs...)
}

// newPlace is a world of its own for a drill.
func newPlace(ctx context.Context) (*sandbox.Place, error) {
	listen, err := freePort()
	if err != nil {
		return nil, err
	}
	r, err := startPlace(ctx, listen)
	if err != nil {
		return nil, err
	}
	return &sandbox.Place{
		World:    r.world,
		SetClock: func(ahead time.Duration) { r.ahead.Store(int64(ahead)) },
		CutStore: func() error { r.cut = true; return r.n.db.Close() },
		FillDisk: fillDisk,
		Bundle:   func() string { return r.n.authority.Bundle().Hash },
		Check: func() string {
			if _, err := Load(r.world.Config); err != nil {
				return err.Error()
			}
			return ""
		},
		Stop: r.stop,
	}, nil
}

// fillDisk has every write to a file fail, by the limit of the kernel on how large
// one may be, or ends that.
func fillDisk(full bool) error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		return err
	}
	if limit.Cur = limit.Max; full {
		signal.Ignore(syscall.SIGXFSZ) // the write fails, and nobody is killed for it
		limit.Cur = 0
	}
	return syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit)
}

// freePort is a loopback address nobody listens on just now.
func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// waitReady waits until the server says that it is ready.
func waitReady(ctx context.Context, address string) error {
	c, err := client.New(client.Options{Address: address})
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := c.Ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return mayfly.Errorf(mayfly.Unavailable, "the server did not become ready: %v", err)
		case <-tick.C:
		}
	}
}

// checkedCertificate is what a certificate says, once the public keys of its
// issuer have shown that it is one.
func checkedCertificate(ctx context.Context, address, as string, task mayfly.TaskID) (said string, final bool, err error) {
	c, err := client.New(client.Options{Address: address, Token: client.Bearer(as)})
	if err != nil {
		return "", false, err
	}
	defer c.Close()
	text, claims, err := finalCertificate(ctx, c, task, finalWithin)
	if err != nil {
		return "", false, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address+"/oauth2/jwks", nil)
	if err != nil {
		return "", false, err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return "", false, err
	}
	defer resp.Body.Close()
	set, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return "", false, err
	}
	keys, err := jose.ParseKeySet(set)
	if err != nil {
		return "", false, err
	}
	if _, err := token.CheckCertificate(text, keys); err != nil {
		return "", false, err
	}
	var out bytes.Buffer
	(&terminal{Stdout: &out}).certificate(&claims)
	return "its signature is right\n" + out.String(), claims.Final, nil
}

// verifyCopy verifies a copy of the running server's store, with one byte of one
// record flipped first if asked. The story waits until the newest record is
// under a checkpoint, so that there is something to check against.
func verifyCopy(ctx context.Context, db *store.DB, c *Config, flip bool) (said string, ok bool, err error) {
	dir, err := os.MkdirTemp("", "mayfly-verify-")
	if err != nil {
		return "", false, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := sequenced(ctx, db); err != nil {
		return "", false, err
	}
	copied := filepath.Join(dir, "copy.db")
	if err := db.Backup(ctx, copied); err != nil {
		return "", false, err
	}
	if flip {
		if err := flipByte(copied); err != nil {
			return "", false, err
		}
	}
	report, err := verifyStore(ctx, "sqlite://"+copied, c.Seal())
	if err != nil {
		return "", false, err
	}
	return report.String(), report.OK(), nil
}

// sequenced waits until every record is under a checkpoint.
func sequenced(ctx context.Context, db *store.DB) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		waiting, err := db.Unsequenced(ctx, 1)
		if err != nil || len(waiting) == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return mayfly.Errorf(mayfly.Unavailable, "the newest records were not under a checkpoint in time")
		case <-tick.C:
		}
	}
}

// flipByte changes one letter inside a stored record's leaf.
func flipByte(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	mark := []byte(`"kind":"task.opened"`)
	i := bytes.Index(data, mark)
	if i < 0 {
		return errors.New("no record of an opened task is in the copy")
	}
	data[i+len(`"kind":"task.o`)] ^= 1
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(data[i:i+len(mark)], int64(i))
	return errors.Join(err, f.Close())
}

// lockedBuffer keeps what is written to it, for several writers.
type lockedBuffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) text() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
