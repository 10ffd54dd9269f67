package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/client"
	"github.com/mayfly-id/mayfly/internal/eventlog"
	"github.com/mayfly-id/mayfly/internal/jose"
	"github.com/mayfly-id/mayfly/internal/store"
	"github.com/mayfly-id/mayfly/internal/token"
)

// logCmd is mayfly log.
type logCmd struct {
	Tail   logTailCmd   `cmd:"" help:"Print the newest records, and go on with --follow."`
	Search logSearchCmd `cmd:"" help:"Find who touched what: by human, agent, profile, target, tool, label, term and time."`
	Report logReportCmd `cmd:"" help:"Write who accessed what, on whose authority and under which policy, for an auditor."`
	Prove  logProveCmd  `cmd:"" help:"Write the proof that a record is in the log, for somebody else to check."`
	Verify logVerifyCmd `cmd:"" help:"Check the whole log and every stored record, with no server running; or a proof."`
	Export logExportCmd `cmd:"" help:"Archive the log as files, for outside tools and for proofs with no server."`
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
	Proof      string   `arg:"" optional:"" help:"A proof that mayfly log prove wrote, a checkpoint, a certificate, a directory that mayfly log export wrote, or a backup of the store. Default: the whole log in the store that the configuration names."`
	VKey       string   `name:"vkey" placeholder:"KEY" help:"With a proof or a checkpoint: the log's verifier key, as /log/vkey says it, or a file that holds it."`
	Checkpoint []string `sep:"none" placeholder:"FILE" help:"A checkpoint that was fetched from /log/checkpoint and kept elsewhere: the log must have grown out of it. Can be given again."`
	Witness    []string `sep:"none" placeholder:"KEY" help:"The verifier key of a witness, or a file that holds it: the proof, or each checkpoint, must be cosigned. Can be given again."`
	JWKS       string   `name:"jwks" placeholder:"FILE" help:"With a certificate: the keys of its issuer, as /oauth2/jwks serves them."`
	Quorum     string   `placeholder:"N" help:"How many of the witnesses must have cosigned it: any, all, or a number. Default: all."`
}

// Help is the long help.
func (logVerifyCmd) Help() string {
	return `Reads the store that the configuration names, with no server running, and checks
the tree, the signed checkpoint, and that every stored record hashes to its leaf.
Exits 1 on any difference and names the first place.

A store that was put back as a whole to an earlier time is in itself in order.
Only a checkpoint that was kept elsewhere shows that something is missing:

  curl -s https://mayfly.example.org/log/checkpoint >checkpoint   # now and then
  mayfly --config /etc/mayfly/mayfly.yaml log verify --checkpoint checkpoint

A proof needs neither store nor configuration, only the log's verifier key:

  mayfly log verify payment.tlog-proof --vkey vkey

So does a directory that mayfly log export wrote; a backup of the store needs the
configuration, for the seal key:

  mayfly log verify /srv/log --vkey vkey --checkpoint kept
  mayfly log verify mayfly.db.backup

A certificate, too, needs neither; it is checked against the keys of its issuer, and with
--vkey the checkpoint in it against the log's:

  mayfly log verify task.jwt --jwks jwks.json --vkey vkey

Where witnesses cosign the log, a proof or a checkpoint (of /log/anchor) can be
held to that:

  mayfly log verify payment.tlog-proof --vkey vkey --witness a --witness b --quorum any`
}

// quorum is who must have cosigned.
func (v logVerifyCmd) quorum() (eventlog.Quorum, error) {
	if len(v.Witness) == 0 {
		if v.Quorum != "" {
			return eventlog.Quorum{}, usageError("--quorum goes with --witness, which says of whom")
		}
		return eventlog.Quorum{}, nil
	}
	var keys []eventlog.WitnessKey
	for _, text := range v.Witness {
		k, err := eventlog.ParseWitnessKey(orFile(text))
		if err != nil {
			return eventlog.Quorum{}, err
		}
		keys = append(keys, k)
	}
	return eventlog.NewQuorum(or(v.Quorum, "all"), keys...)
}

// orFile is the line in the file of this name, if there is one, else text itself.
func orFile(text string) string {
	if line, err := os.ReadFile(text); err == nil {
		text = string(line)
	}
	return strings.TrimSpace(text)
}

// Run verifies.
func (v logVerifyCmd) Run(ctx context.Context, t *terminal) error {
	quorum, err := v.quorum()
	if err != nil {
		return err
	}
	store := ""
	if v.Proof != "" {
		info, err := os.Stat(v.Proof)
		if err == nil && info.IsDir() {
			return v.files(ctx, t, quorum)
		}
		if store, err = backupAt(v.Proof); err != nil {
			return err
		}
		if store == "" {
			return v.file(t, quorum)
		}
	}
	if len(v.Witness) > 0 && len(v.Checkpoint) == 0 {
		return usageError("--witness goes with a proof, or with --checkpoint: that is what must be cosigned")
	}
	if v.VKey != "" {
		return usageError("--vkey goes with a proof; the log in a store is checked against the key in it")
	}
	c, err := Load(t.Config)
	if err != nil {
		return err
	}
	known, err := v.known(quorum)
	if err != nil {
		return err
	}
	report, err := verifyStore(ctx, or(store, c.Store), c.Seal(), known...)
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

// known are the checkpoints that were kept elsewhere.
func (v logVerifyCmd) known(quorum eventlog.Quorum) (known [][]byte, err error) {
	for _, name := range v.Checkpoint {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		if _, err := quorum.Cosigned(text); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		known = append(known, text)
	}
	return known, nil
}

// backupAt is the address of the store that is the file at path, "" if it is none.
func backupAt(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	const magic = "SQLite format 3\x00"
	head := make([]byte, len(magic))
	if _, err := io.ReadFull(f, head); err != nil || string(head) != magic {
		return "", nil // short files are something else
	}
	abs, err := filepath.Abs(path)
	return "sqlite://" + abs, err
}

// files checks an exported log.
func (v logVerifyCmd) files(ctx context.Context, t *terminal, quorum eventlog.Quorum) error {
	if v.VKey == "" {
		return usageError("say whose log it is with --vkey: the line that the log serves at /log/vkey, or a file that holds it, from elsewhere than " + v.Proof)
	}
	known, err := v.known(quorum)
	if err != nil {
		return err
	}
	c, err := eventlog.VerifyFiles(ctx, eventlog.Archived(v.Proof), orFile(v.VKey), known...)
	if err != nil {
		return err
	}
	if t.JSON {
		t.print(c)
		return nil
	}
	fmt.Fprintf(t.Stdout, "ok: %s of %s, root %x\n", count(int(c.Size), "record"), clean(c.Origin), c.Root)
	return nil
}

// file checks a proof, or a checkpoint.
func (v logVerifyCmd) file(t *terminal, quorum eventlog.Quorum) error {
	if v.JWKS != "" {
		return v.certificate(t, quorum)
	}
	if v.VKey == "" {
		return usageError("say whose log it is with --vkey: the line that the log serves at /log/vkey, or a file that holds it")
	}
	if len(v.Checkpoint) > 0 {
		return usageError("--checkpoint goes with a whole log; a proof holds its own checkpoint")
	}
	file, err := os.ReadFile(v.Proof)
	if err != nil {
		return err
	}
	vkey := orFile(v.VKey)
	if !eventlog.IsProof(file) && bytes.Contains(file, []byte("\n\n— ")) {
		c, err := eventlog.VerifyCheckpoint(file, vkey, quorum)
		if err != nil {
			return err
		}
		if t.JSON {
			t.print(c)
			return nil
		}
		fmt.Fprintf(t.Stdout, "ok: the checkpoint of %d records of %s%s\n", c.Size, clean(c.Origin), cosigned(c.Witnesses))
		return nil
	}
	p, err := eventlog.CheckProof(file, vkey, quorum)
	if err != nil {
		return err
	}
	if t.JSON {
		t.print(struct {
			eventlog.Proof
			Leaf json.RawMessage `json:"leaf"`
		}{p, p.Leaf})
		return nil
	}
	fmt.Fprintf(t.Stdout, "ok: the record at position %d of %s, under the checkpoint of %d records%s\n%s\n",
		p.Position, clean(p.Origin), p.Size, cosigned(p.Witnesses), clean(string(p.Leaf)))
	return nil
}

// certificate checks a retirement certificate.
func (v logVerifyCmd) certificate(t *terminal, quorum eventlog.Quorum) error {
	text, err := os.ReadFile(v.Proof)
	if err != nil {
		return err
	}
	set, err := os.ReadFile(v.JWKS)
	if err != nil {
		return err
	}
	keys, err := jose.ParseKeySet(set)
	if err != nil {
		return fmt.Errorf("%s: %w", v.JWKS, err)
	}
	payload, err := token.CheckCertificate(strings.TrimSpace(string(text)), keys)
	if err != nil {
		return err
	}
	var c mayfly.Certificate
	if err := json.Unmarshal(payload, &c); err != nil {
		return mayfly.Errorf(mayfly.Invalid, "the certificate holds, and says nothing that this version can read: %v", err)
	}
	log := "; its checkpoint was not checked: give the log's key with --vkey"
	if v.VKey != "" {
		checked, err := eventlog.VerifyCheckpoint([]byte(c.Log.Checkpoint), orFile(v.VKey), quorum)
		if err != nil {
			return err
		}
		for _, r := range c.Log.Records {
			if r.Position != nil && *r.Position >= checked.Size {
				return mayfly.Errorf(mayfly.Invalid, "the certificate names the position %d, and its checkpoint is of %d records", *r.Position, checked.Size)
			}
		}
		log = fmt.Sprintf(", and its checkpoint of %d records of %s%s", checked.Size, clean(checked.Origin), cosigned(checked.Witnesses))
	}
	if t.JSON {
		_, err := fmt.Fprintf(t.Stdout, "%s\n", payload)
		return err
	}
	fmt.Fprintf(t.Stdout, "ok: the certificate of %s by %s%s\n", clean(string(c.Task.ID)), clean(c.Issuer), log)
	t.certificate(&c)
	return nil
}

// cosigned says by whom, if by anybody.
func cosigned(by []string) string {
	if len(by) == 0 {
		return ""
	}
	return ", cosigned by " + clean(strings.Join(by, ", "))
}

// logProveCmd is mayfly log prove.
type logProveCmd struct {
	ID   string `arg:"" help:"A record, a decision, or a position in the log."`
	Out  string `short:"o" placeholder:"FILE" help:"Where to write the proof. Default: ID.tlog-proof; - is standard output."`
	From string `placeholder:"DIR" help:"Prove it from what mayfly log export wrote, with no server."`
}

// Help is the long help.
func (logProveCmd) Help() string {
	return `Writes one file that proves a record to somebody who has only the log's verifier
key: the record's leaf, its place in the tree, and a signed checkpoint
(c2sp.org/tlog-proof). The leaf names people by pseudonyms and holds no arguments.
Of a decision, the record of the decision itself is proven. Where witnesses have
cosigned a checkpoint that covers the record, it is that one.

  mayfly log prove dec_06e8…
  mayfly log verify dec_06e8….tlog-proof --vkey vkey`
}

// Run writes a proof.
func (c logProveCmd) Run(ctx context.Context, t *terminal) error {
	from, find, done, err := c.source(t)
	if err != nil {
		return err
	}
	defer done()
	position, err := strconv.ParseInt(c.ID, 10, 64)
	if err != nil {
		if position, err = find(ctx, c.ID); err != nil {
			return err
		}
	}
	vkey, err := from(ctx, "vkey")
	if err != nil {
		return err
	}
	file, err := eventlog.Prove(ctx, strings.TrimSpace(string(vkey)), position, from)
	if err != nil {
		return err
	}
	switch c.Out {
	case "-":
		_, err = t.Stdout.Write(file)
		return err
	case "":
		c.Out = c.ID + ".tlog-proof"
	}
	if err := os.WriteFile(c.Out, file, 0o644); err != nil {
		return err
	}
	if t.JSON {
		t.print(struct {
			Position int64  `json:"position"`
			File     string `json:"file"`
		}{position, c.Out})
		return nil
	}
	fmt.Fprintf(t.Stdout, "%s proves the record at position %d to whoever has %s\n", c.Out, position, strings.TrimSpace(string(vkey)))
	return nil
}

// source is what to prove from, and how the place of a record is found there.
func (c logProveCmd) source(t *terminal) (from eventlog.Fetch, find func(context.Context, string) (int64, error), done func(), err error) {
	if c.From != "" {
		from = eventlog.Archived(c.From)
		return from, func(ctx context.Context, id string) (int64, error) { return eventlog.Find(ctx, from, id) }, func() {}, nil
	}
	api, err := t.client()
	if err != nil {
		return nil, nil, nil, err
	}
	return api.LogFile, func(ctx context.Context, id string) (int64, error) { return positionOf(ctx, api, id) }, api.Close, nil
}

// positionOf is the place in the log of the first record that goes by an id. One
// that was just written gets its place within a second.
func positionOf(ctx context.Context, api *client.Client, id string) (int64, error) {
	for range 20 {
		trace, err := api.Trace(ctx, id)
		if err != nil {
			return 0, err
		}
		if len(trace.Events) == 0 {
			break
		}
		if at := trace.Events[0].Position; at != nil {
			return *at, nil
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(tailEvery / 5):
		}
	}
	return 0, mayfly.Errorf(mayfly.NotFound, "%s has no place in the log yet; try again in a second", clean(id))
}

// logExportCmd is mayfly log export.
type logExportCmd struct {
	Dir string `arg:"" help:"Where to write. A directory that holds an earlier export of the same log gets what is new."`
}

// Help is the long help.
func (logExportCmd) Help() string {
	return `Archives the log as files that any static server can serve to tools for
c2sp.org/tlog-tiles: checkpoint, anchor, tile/… and vkey. Entries are the leaves, with
people as pseudonyms; bodies are not exported. Nothing is removed from the store.

It is read from the running server, or with none running from the store that the
configuration names. What is copied is checked against the checkpoint, and a directory
with an earlier export only takes a log that has grown out of that one: run it by the
clock, on a machine that the server cannot write to.

  mayfly --addr https://mayfly.example.org log export /srv/log
  mayfly log verify /srv/log --vkey vkey
  mayfly log prove dec_06e8… --from /srv/log`
}

// Run exports the log.
func (e logExportCmd) Run(ctx context.Context, t *terminal) error {
	from, done, err := t.logFiles(ctx)
	if err != nil {
		return err
	}
	size, err := eventlog.Export(ctx, from, e.Dir)
	if err := errors.Join(err, done()); err != nil {
		return err
	}
	if t.JSON {
		t.print(struct {
			Size int64  `json:"size"`
			Dir  string `json:"dir"`
		}{size, e.Dir})
		return nil
	}
	fmt.Fprintf(t.Stdout, "%s: %s\n", e.Dir, count(int(size), "record"))
	return nil
}

// logFiles reads the log of the running server, or of the store if none is running.
func (t *terminal) logFiles(ctx context.Context) (from eventlog.Fetch, done func() error, err error) {
	api, err := t.client()
	if err == nil {
		if _, err = api.LogKey(ctx); err == nil {
			return api.LogFile, func() error { api.Close(); return nil }, nil
		}
		api.Close()
	}
	if t.Addr != "" || mayfly.KindOf(err) != mayfly.Unavailable {
		return nil, nil, err
	}
	c, err := Load(t.Config)
	if err != nil {
		return nil, nil, err
	}
	db, err := openStore(ctx, c.Store, c.Seal())
	if err != nil {
		return nil, nil, err
	}
	return eventlog.Stored(db), db.Close, nil
}

// openStore opens a store to read, with no server running on it.
func openStore(ctx context.Context, dsn string, seal [32]byte) (*store.DB, error) {
	return store.Open(ctx, store.Options{
		DSN: dsn, Seal: seal, Node: "read", ReadOnly: true, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
}

// verifyStore checks the log in the store that dsn names, also against
// checkpoints of it that were kept elsewhere.
func verifyStore(ctx context.Context, dsn string, seal [32]byte, known ...[]byte) (eventlog.Report, error) {
	db, err := openStore(ctx, dsn, seal)
	if err != nil {
		return eventlog.Report{}, err
	}
	defer db.Close()
	return eventlog.Verify(ctx, db, known...)
}
