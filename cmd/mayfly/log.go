package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/client"
	"github.com/mayfly-id/mayfly/internal/eventlog"
	"github.com/mayfly-id/mayfly/internal/store"
)

// logCmd is mayfly log.
type logCmd struct {
	Tail   logTailCmd   `cmd:"" help:"Print the newest records, and go on with --follow."`
	Verify logVerifyCmd `cmd:"" help:"Check the whole log and every stored record, with no server running."`
}

// logTailCmd is mayfly log tail.
type logTailCmd struct {
	Follow bool  `short:"f" help:"Go on printing records as they come."`
	After  int64 `default:"-1" help:"Start after this position; the default is the beginning."`
	Limit  int   `default:"100" help:"Print at most this many, the newest; 0 prints all."`
}

// tailEvery is how often a followed log is asked for more.
const tailEvery = 500 * time.Millisecond

// Run prints records.
func (c logTailCmd) Run(ctx context.Context, t *terminal) error {
	api, err := t.client()
	if err != nil {
		return err
	}
	defer api.Close()
	position := c.After
	var newest []client.Event
	for { // what is there already
		page, next, err := api.Feed(ctx, position, 500)
		if err != nil {
			return err
		}
		newest = append(newest, page...)
		if c.Limit > 0 && len(newest) > c.Limit {
			newest = newest[len(newest)-c.Limit:]
		}
		if len(page) == 0 {
			break
		}
		position = next
	}
	t.events(newest)
	for c.Follow {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(tailEvery):
		}
		page, next, err := api.Feed(ctx, position, 500)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		t.events(page)
		position = next
	}
	return nil
}

func (t *terminal) events(events []client.Event) {
	for _, e := range events {
		if t.JSON {
			t.print(e)
		} else {
			fmt.Fprintln(t.Stdout, eventLine(e))
		}
	}
}

// logVerifyCmd is mayfly log verify.
type logVerifyCmd struct {
	Checkpoint []string `sep:"none" placeholder:"FILE" help:"A checkpoint that was fetched from /log/checkpoint and kept elsewhere: the log must have grown out of it. Can be given again."`
}

// Help is the long help.
func (logVerifyCmd) Help() string {
	return `Reads the store that the configuration names, with no server running, and checks
the tree, the signed checkpoint, and that every stored record hashes to its leaf.
Exits 1 on any difference and names the first place.

A store that was put back as a whole to an earlier time is in itself in order.
Only a checkpoint that was kept elsewhere shows that something is missing:

  curl -s https://mayfly.example.org/log/checkpoint >checkpoint   # now and then
  mayfly --config /etc/mayfly/mayfly.yaml log verify --checkpoint checkpoint`
}

// Run verifies.
func (v logVerifyCmd) Run(ctx context.Context, t *terminal) error {
	c, err := Load(t.Config)
	if err != nil {
		return err
	}
	known := make([][]byte, len(v.Checkpoint))
	for i, name := range v.Checkpoint {
		if known[i], err = os.ReadFile(name); err != nil {
			return err
		}
	}
	report, err := verifyStore(ctx, c.Store, c.Seal(), known...)
	if err != nil {
		return err
	}
	if want := logOrigin(c.Issuer); report.OK() && report.Origin != want {
		return mayfly.Errorf(mayfly.Conflict,
			"the log in this store is called %s, and the configuration calls it %s: verify it with the configuration of its own server", report.Origin, want)
	}
	if t.JSON {
		t.print(report)
	} else {
		fmt.Fprintln(t.Stdout, report)
	}
	if !report.OK() {
		return exitStatus(exitRefused)
	}
	return nil
}

// verifyStore checks the log in the store that dsn names, also against
// checkpoints of it that were kept elsewhere.
func verifyStore(ctx context.Context, dsn string, seal [32]byte, known ...[]byte) (eventlog.Report, error) {
	db, err := store.Open(ctx, store.Options{
		DSN: dsn, Seal: seal, Node: "verify", ReadOnly: true, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		return eventlog.Report{}, err
	}
	defer db.Close()
	return eventlog.Verify(ctx, db, known...)
}
