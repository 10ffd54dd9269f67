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
	"path/filepath"
	"sync"
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
	Headless bool   `help:"Tell the story once, check every step, and exit: 0 only if each was as it should be."`
	Listen   string `help:"Loopback address of the server. Default: a free port." placeholder:"ADDR"`
}

// Help is the long help.
func (sandboxCmd) Help() string {
	return `Starts a whole demo world in this process: an identity provider (alice, bob, a CI
service), an MCP server over a few invoices, an HTTP API over a few tickets, and a
Mayfly server in front of them. It tells a story with them, each step real, and
then stays up for you to play with. Nothing leaves this machine, and everything is
deleted at the end.

  mayfly sandbox`
}

// Run starts the world and tells the story.
func (c sandboxCmd) Run(ctx context.Context, t *terminal) (err error) {
	dir, err := os.MkdirTemp("", "mayfly-sandbox-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if c.Listen == "" {
		if c.Listen, err = freePort(); err != nil {
			return err
		}
	}
	world, err := sandbox.NewWorld(dir, c.Listen)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, world.Close()) }()

	config, err := Load(world.Config)
	if err != nil {
		return err
	}
	// The server's own log would drown the story; it is kept for a failure.
	var serverLog lockedBuffer
	n, err := newInstance(ctx, config, slog.New(slog.NewTextHandler(&serverLog, nil)))
	if err != nil {
		return err
	}
	serving, stop := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() { served <- n.serve(serving, nil) }()
	defer func() {
		stop()
		err = errors.Join(err, <-served)
		if err != nil && !errors.Is(err, context.Canceled) {
			fmt.Fprintf(t.Stderr, "the server said:\n%s", serverLog.text())
		}
	}()
	if err := waitReady(ctx, world.Public); err != nil {
		return err
	}

	fmt.Fprintf(t.Stdout, "Mayfly sandbox: everything here is on this machine and gone when it ends.\n")
	fmt.Fprintf(t.Stdout, "   console    %[1]s/console/sign-in?hint=bob\n   server     %[1]s\n   provider   %[2]s\n   settings   %[3]s\n", world.Public, world.IDP, world.Config)
	story := &sandbox.Story{World: world, Out: t.Stdout, VerifyLog: func(ctx context.Context, flip bool) (string, bool, error) {
		return verifyCopy(ctx, n.db, config, flip)
	}, Certificate: func(ctx context.Context, as string, task mayfly.TaskID) (string, bool, error) {
		return checkedCertificate(ctx, world.Public, as, task)
	}}
	if f, ok := t.Stdout.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		story.Bold = func(s string) string { return "\x1b[1m" + s + "\x1b[0m" }
		story.Dim = func(s string) string { return "\x1b[2m" + s + "\x1b[0m" }
	}
	if err := story.Tell(ctx); err != nil {
		return err
	}
	if c.Headless {
		fmt.Fprintln(t.Stdout, "Every step was as it should be.")
		return nil
	}
	fmt.Fprintf(t.Stdout, `Your turn. In another terminal:

   export MAYFLY_CONFIG=%[1]s
   mayfly ps --all
   mayfly log tail --follow
   mayfly run --profile invoice-agent --can mcp:bank:list_invoices -- env
   export MAYFLY_SUBJECT_TOKEN=$(curl -s '%[2]s/token?for=alice')   # be Alice, for mayfly run
   mayfly revoke --human alice@example.org

Ctrl-C ends the sandbox.
`, world.Config, world.IDP)
	<-ctx.Done()
	return nil
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
	text, claims, err := finalCertificate(ctx, c, task)
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
