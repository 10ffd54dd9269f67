package eventlog

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	formats "github.com/transparency-dev/formats/log"
	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/note"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/store"
)

// Report is what [Verify] found. The zero Report is of nothing verified.
type Report struct {
	Origin string `json:"origin,omitempty"`
	VKey   string `json:"vkey,omitempty"`
	Size   int64  `json:"size"`           // records under the checkpoint, all of which were checked if Wrong is nil
	Root   []byte `json:"root,omitempty"` // root hash of the checkpoint
	// Waiting records were committed and are not under the checkpoint, the
	// oldest since WaitingSince. Their rows were checked too. After a crash
	// there can be some; the next start of the server takes them in.
	Waiting      int        `json:"waiting"`
	WaitingSince *time.Time `json:"waiting_since,omitempty"`
	// Wrong is the first difference that was found, nil if there is none.
	Wrong *Difference `json:"wrong,omitempty"`

	whole bool // the end was reached
}

// Difference is a place where the log is not what it must be.
type Difference struct {
	// Position is the index in the log; -1 where there is none to name.
	Position int64  `json:"position"`
	Event    string `json:"event,omitempty"` // id of the record, if there is one
	What     string `json:"what"`
}

// OK reports whether everything was checked and nothing differed.
func (r Report) OK() bool { return r.whole && r.Wrong == nil }

// String is the report for people, on one line.
func (r Report) String() string {
	var b strings.Builder
	switch {
	case r.OK():
		fmt.Fprintf(&b, "ok: %d records of %s, root %x", r.Size, r.Origin, r.Root)
	case r.Wrong == nil:
		return "nothing was verified"
	default:
		b.WriteString("WRONG: ")
		if r.Wrong.Position >= 0 {
			fmt.Fprintf(&b, "at position %d: ", r.Wrong.Position)
		}
		b.WriteString(r.Wrong.What)
	}
	if r.Waiting > 0 {
		fmt.Fprintf(&b, "; %d records wait for a checkpoint since %s", r.Waiting, r.WaitingSince.Format(time.RFC3339))
	}
	return b.String()
}

// Verify checks the log in db from its first record on: that every record is
// the one its process wrote, in order and without a gap, and hashes to its leaf;
// that the leaves make the stored tiles and the root that the checkpoint is
// signed for; and that nothing but a second's worth of records is outside it.
// A server may go on writing meanwhile.
//
// Each of kept is a checkpoint of this log that was kept elsewhere: the log
// must have grown out of it. Without one, a database that was put back as a
// whole to an earlier time looks right, because it was.
//
// What is wrong is in the Report. The error is about what could not be checked;
// then the Report is not OK.
func Verify(ctx context.Context, db *store.DB, kept ...[]byte) (Report, error) {
	v := &verifier{
		db: db, known: map[int64]known{}, chains: map[int64]chain{}, tiles: map[uint]*growing{},
		tree: (&compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}).NewEmptyRange(0),
	}
	err := v.run(ctx, kept)
	if wrong, ok := err.(*Difference); ok {
		v.report.Wrong, err = wrong, nil
	}
	v.report.whole = err == nil && v.report.Wrong == nil
	return v.report, err
}

// Error is What. A Difference travels as an error inside this file only.
func (d *Difference) Error() string { return d.What }

func differs(position int64, format string, args ...any) error {
	return &Difference{Position: position, What: fmt.Sprintf(format, args...)}
}

func differsAt(position int64, row store.EventRow, format string, args ...any) error {
	return &Difference{Position: position, Event: row.ID, What: fmt.Sprintf(format, args...)}
}

// verifier walks a log once, from left to right.
type verifier struct {
	db     *store.DB
	report Report
	sigs   note.Verifier
	known  map[int64]known // by size
	made   bool            // a record says that the log's key was made

	tree   *compact.Range
	tiles  map[uint]*growing // by level of tiles
	stored []byte            // the stored tile that the next leaf is in
	chains map[int64]chain   // by process
}

// known is what the log must have grown out of.
type known struct {
	root []byte
	what string // the checkpoint that says so
}

const (
	keptElsewhere = "a checkpoint that was kept elsewhere"
	itsAnchor     = "the anchor, which witnesses have cosigned,"
)

// chain is how far the records of one process were followed.
type chain struct {
	seq int64
	mac []byte
}

// growing is the rightmost tile of a level, as it is rebuilt.
type growing struct {
	index int64
	data  []byte
}

// rounds bounds how often the walk goes on because the log grew meanwhile.
const rounds = 100

func (v *verifier) run(ctx context.Context, kept [][]byte) error {
	if err := v.readKey(ctx); err != nil {
		return err
	}
	for i, k := range kept {
		c, err := v.checkpoint(k)
		if err != nil {
			return mayfly.Errorf(mayfly.Invalid,
				"kept checkpoint %d is not one that the log in this store, %s, signed: it is another log's, it was altered, or this log was begun anew with another key", i+1, v.sigs.Name()).Because(err)
		}
		if err := v.know(c, keptElsewhere); err != nil {
			return err
		}
	}
	anchor, err := v.db.Anchor(ctx)
	if err != nil {
		return err
	}
	if anchor.Note != nil {
		c, err := v.checkpoint(anchor.Note)
		if err != nil {
			return differs(-1, "the stored anchor does not verify: %v", err)
		}
		if err := v.know(c, itsAnchor); err != nil {
			return err
		}
	}
	head, err := v.db.Head(ctx)
	if err != nil {
		return err
	}
	for range rounds {
		if err := v.grow(ctx, head); err != nil {
			return err
		}
		beyond := v.outside(ctx)
		again, err := v.db.Head(ctx)
		if err != nil {
			return err
		}
		if again.Size == head.Size && bytes.Equal(again.Note, head.Note) {
			return beyond
		}
		head = again // what was outside may be inside now
	}
	return mayfly.Errorf(mayfly.Unavailable, "the log grows faster than it can be verified: stop the server first")
}

// know takes c as something that the log must have grown out of.
func (v *verifier) know(c *formats.Checkpoint, what string) error {
	size := int64(c.Size)
	if there, ok := v.known[size]; !ok {
		v.known[size] = known{c.Hash, what}
	} else if !bytes.Equal(there.root, c.Hash) {
		return differs(-1, "two checkpoints of %d records are signed with different roots: the log was forked", c.Size)
	}
	return nil
}

// readKey finds the log's verifier key.
func (v *verifier) readKey(ctx context.Context) error {
	keys, err := v.db.Keys(ctx, keyUse)
	if err != nil {
		return err
	}
	if len(keys) != 1 {
		return differs(-1, "there must be one log key in the store and there are %d: this is not the store of a server that ever ran, or its key was removed", len(keys))
	}
	if v.sigs, err = note.NewVerifier(keys[0].ID); err != nil {
		return differs(-1, "the log's verifier key is not one: %v", err)
	}
	v.report.VKey, v.report.Origin = keys[0].ID, v.sigs.Name()
	return nil
}

// checkpoint opens one of this log's checkpoints.
func (v *verifier) checkpoint(signed []byte) (*formats.Checkpoint, error) {
	if len(signed) > maxCheckpoint {
		return nil, fmt.Errorf("the checkpoint is too long")
	}
	c, _, n, err := formats.ParseCheckpoint(signed, v.sigs.Name(), v.sigs)
	if err != nil {
		return nil, err
	}
	if string(c.Marshal()) != n.Text || len(c.Hash) != rfc6962.DefaultHasher.Size() || c.Size > maxTile {
		return nil, fmt.Errorf("the checkpoint is not in the one form this log writes")
	}
	return c, nil
}

// grow walks on to the end of head, and checks it.
func (v *verifier) grow(ctx context.Context, head store.Head) error {
	at := int64(v.tree.End())
	c := &formats.Checkpoint{Hash: rfc6962.DefaultHasher.EmptyRoot()}
	if head.Note != nil {
		var err error
		if c, err = v.checkpoint(head.Note); err != nil {
			return differs(-1, "the checkpoint does not verify: %v", err)
		}
	} else if head.Size != 0 {
		return differs(-1, "the head says %d records and there is no checkpoint", head.Size)
	}
	if int64(c.Size) != head.Size {
		return differs(min(int64(c.Size), head.Size), "the head says %d records and the checkpoint %d", head.Size, c.Size)
	}
	if head.Size < at {
		return differs(head.Size, "the log went back from %d records to %d", at, head.Size)
	}
	v.report.Size, v.report.Root = head.Size, c.Hash
	reading, stop := context.WithCancel(ctx)
	defer stop()
	for read := range v.pages(reading, at, head.Size) {
		if read.err != nil {
			return read.err
		}
		for _, row := range read.rows {
			if err := v.leaf(ctx, at, row); err != nil {
				return err
			}
			at++
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if at < head.Size {
		return differs(at, "the checkpoint covers %d records, and the one at %d is gone", head.Size, at)
	}
	root, err := v.root()
	if err != nil {
		return err
	}
	if !bytes.Equal(root, c.Hash) {
		return differs(-1, "the records make the root %x, and the checkpoint of %d is signed for %x", root, c.Size, c.Hash)
	}
	for level := range uint(len(v.tiles)) {
		if err := v.tile(ctx, level, v.tiles[level]); err != nil {
			return err
		}
	}
	for size, k := range v.known {
		if size > at {
			return differs(at, "%s is of %d records, and there are %d: the end of the log was cut off", k.what, size, at)
		}
	}
	return nil
}

// rowsRead are a page of records.
type rowsRead struct {
	rows []store.EventRow
	err  error
}

// pages reads the records from a position on, up to size, until there are no more or
// ctx ends. Reading takes as long as checking does, so the next page is read while
// one is checked: 105,000 records a second became 130,000.
func (v *verifier) pages(ctx context.Context, from, size int64) <-chan rowsRead {
	out := make(chan rowsRead, 1)
	go func() {
		defer close(out)
		for from < size {
			rows, err := v.db.EventsAfter(ctx, from-1, int(min(page, size-from)))
			if err == nil && len(rows) == 0 {
				return
			}
			select {
			case out <- rowsRead{rows, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
			from = *rows[len(rows)-1].Position + 1
		}
	}()
	return out
}

func (v *verifier) root() ([]byte, error) {
	if v.tree.End() == 0 {
		return rfc6962.DefaultHasher.EmptyRoot(), nil
	}
	return v.tree.GetRootHash(nil)
}

// leaf checks the record at a position and adds it to the tree.
func (v *verifier) leaf(ctx context.Context, at int64, row store.EventRow) error {
	if err := v.knew(at); err != nil {
		return err
	}
	if *row.Position != at {
		return differs(at, "the record at %d is gone: the next one there is has position %d", at, *row.Position)
	}
	if err := v.follow(ctx, at, row); err != nil {
		return err
	}
	hash := rfc6962.DefaultHasher.HashLeaf(row.Leaf)
	in := at % tileWidth
	if in == 0 || v.stored == nil {
		var err error
		if v.stored, err = v.db.Tile(ctx, 0, at/tileWidth); err != nil {
			return err
		}
	}
	from, to := in*int64(len(hash)), (in+1)*int64(len(hash))
	if int64(len(v.stored)) < to { // it may have grown since it was read
		var err error
		if v.stored, err = v.db.Tile(ctx, 0, at/tileWidth); err != nil {
			return err
		}
	}
	if int64(len(v.stored)) < to {
		return differsAt(at, row, "the tile %s is missing or cut short", tilePath{index: at / tileWidth, width: tileWidth})
	}
	if !bytes.Equal(v.stored[from:to], hash) {
		return differsAt(at, row, "event %s does not hash to its leaf in the tile %s", row.ID, tilePath{index: at / tileWidth, width: tileWidth})
	}
	var full []uint
	err := v.tree.Append(hash, func(id compact.NodeID, hash []byte) {
		if id.Level%tileHeight != 0 {
			return
		}
		level := id.Level / tileHeight
		t := v.tiles[level]
		if t == nil {
			t = &growing{}
			v.tiles[level] = t
		}
		if t.data = append(t.data, hash...); len(t.data) == tileWidth*len(hash) {
			full = append(full, level)
		}
	})
	if err != nil {
		return err
	}
	for _, level := range full {
		t := v.tiles[level]
		if err := v.tile(ctx, level, t); err != nil {
			return err
		}
		t.index, t.data = t.index+1, nil
	}
	return nil
}

// knew compares the tree, at the size of a checkpoint that was kept elsewhere.
func (v *verifier) knew(size int64) error {
	want, ok := v.known[size]
	if !ok {
		return nil
	}
	root, err := v.root()
	if err != nil {
		return err
	}
	if !bytes.Equal(root, want.root) {
		return differs(-1, "the first %d records make the root %x, and %s is signed for %x: what it covers was rewritten", size, root, want.what, want.root)
	}
	return nil
}

// follow checks that row is what its process wrote next. position is -1 for a
// record that has none yet.
func (v *verifier) follow(ctx context.Context, position int64, row store.EventRow) error {
	c, ok := v.chains[row.Proc]
	if !ok {
		c.mac = store.NoMAC()
	}
	if row.Seq != c.seq+1 {
		return differsAt(position, row, "record number %d of process %d is gone: event %s is number %d", c.seq+1, row.Proc, row.ID, row.Seq)
	}
	if err := v.db.VerifyRow(c.mac, row); err != nil {
		return differsAt(position, row, "%s", strings.TrimPrefix(err.Error(), "store: "))
	}
	v.chains[row.Proc] = chain{row.Seq, row.MAC}
	if row.Kind != (mayfly.KeyMade{}).Kind() || v.made {
		return nil
	}
	body, err := v.db.Body(ctx, row)
	if err != nil {
		return differsAt(position, row, "the body of event %s cannot be opened", row.ID)
	}
	var made mayfly.KeyMade
	if err := json.Unmarshal(body, &made); err != nil {
		return differsAt(position, row, "the body of event %s cannot be read", row.ID)
	}
	v.made = made.KeyID == v.report.VKey
	return nil
}

// tile compares a rebuilt tile with the stored one, which may be wider while a
// server is writing.
func (v *verifier) tile(ctx context.Context, level uint, t *growing) error {
	if len(t.data) == 0 {
		return nil
	}
	width := len(t.data) / rfc6962.DefaultHasher.Size()
	name := tilePath{level: int(level), index: t.index, width: width}
	first := (t.index * tileWidth) << (level * tileHeight) // position under the tile's left end
	stored, err := v.db.Tile(ctx, int64(level), t.index)
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(stored, t.data) {
		return differs(first, "the stored tile %s is not the one that the records make", name)
	}
	return nil
}

// waitingAtOnce bounds how many waiting records are held in memory at a time.
const waitingAtOnce = 1 << 16

// stalled is how long a process can go on recording while nothing of it comes
// under a checkpoint before something must be wrong.
const stalled = 10 * time.Second

// outside checks what the checkpoint does not cover. Its answer holds only if
// the head did not move meanwhile.
func (v *verifier) outside(ctx context.Context) error {
	size := int64(v.tree.End())
	if err := v.knew(size); err != nil {
		return err
	}
	spans, err := v.db.Spans(ctx, size-1, 1)
	if err != nil {
		return err
	}
	if len(spans) > 0 {
		return differs(size, "records have positions from %d on, and the checkpoint covers %d: the head was put back", spans[0].Start, size)
	}
	for level := range uint(len(v.tiles) + 1) {
		t := v.tiles[level]
		if t == nil {
			t = &growing{}
		}
		stored, err := v.db.Tile(ctx, int64(level), t.index)
		if err != nil {
			return err
		}
		if len(stored) != len(t.data) {
			return differs(size, "the stored tile %d/%03d goes on past the checkpoint of %d", level, t.index, size)
		}
	}
	switch stray, err := v.db.Stray(ctx); {
	case err != nil:
		return err
	case stray != nil:
		return differsAt(-1, *stray, "event %s was written by no process of this store: it was put there, and has no place in the log", stray.ID)
	}
	runs, err := v.db.Unsequenced(ctx, waitingAtOnce)
	if err != nil {
		return err
	}
	v.report.Waiting, v.report.WaitingSince = 0, nil
	made, chains := v.made, v.chains
	v.chains = map[int64]chain{}
	for proc, c := range chains {
		v.chains[proc] = c
	}
	defer func() { v.chains = chains }() // these rows come again, with positions
	for _, r := range runs {
		for _, row := range r.Rows {
			if err := v.follow(ctx, -1, row); err != nil {
				return err
			}
			v.report.Waiting++
			if at := row.Time; v.report.WaitingSince == nil || at.Before(*v.report.WaitingSince) {
				v.report.WaitingSince = &at
			}
		}
		first, last := r.Rows[0], r.Rows[len(r.Rows)-1]
		if last.Time.Sub(first.Time) > stalled {
			return differsAt(-1, first, "event %s has waited for a checkpoint since %s while its process went on until %s: sequencing stopped, or the head was put back",
				first.ID, first.Time.Format(time.RFC3339), last.Time.Format(time.RFC3339))
		}
	}
	found := v.made
	v.made = made
	if !found {
		return differs(-1, "no record says that the log's key was made: records are gone")
	}
	return nil
}

// Checked is what a checkpoint says, once it was checked.
type Checked struct {
	Origin string `json:"origin"`
	Size   int64  `json:"size"`
	Root   []byte `json:"root"`
	// Witnesses are the names of those of the quorum that cosigned it.
	Witnesses []string `json:"witnesses,omitempty"`
}

// VerifyCheckpoint checks one signed checkpoint against a log's verifier key and a
// quorum of witnesses. The error, of kind Invalid, says what is wrong.
func VerifyCheckpoint(signed []byte, vkey string, q Quorum) (Checked, error) {
	sigs, err := note.NewVerifier(vkey)
	if err != nil {
		return Checked{}, mayfly.Errorf(mayfly.Invalid, "%q is not a verifier key of a log", vkey)
	}
	c, err := (&verifier{sigs: sigs}).checkpoint(signed)
	if err != nil {
		return Checked{}, mayfly.Errorf(mayfly.Invalid, "the checkpoint is not one of the log %s: %v", sigs.Name(), err)
	}
	by, err := q.Cosigned(signed)
	if err != nil {
		return Checked{}, err
	}
	return Checked{Origin: sigs.Name(), Size: int64(c.Size), Root: c.Hash, Witnesses: namesOf(by)}, nil
}
