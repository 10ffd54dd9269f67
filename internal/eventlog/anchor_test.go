package eventlog_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/eventlog"
	"github.com/mayfly-id/mayfly/internal/store"
)

// anchor keeps signed as the log's anchor, as if witnesses had cosigned it.
func (w world) anchor(db *store.DB, size int64, signed []byte) {
	w.Helper()
	if err := db.Keep(w.Context(), func(b *store.Books) { b.MoveAnchor(size, signed, time.Now()) }); err != nil {
		w.Fatal(err)
	}
}

func TestTheAnchorIsReadAsItWasKept(t *testing.T) {
	onEachEngine(t, func(t *testing.T, w world) {
		db := w.open()
		l := w.log(db, nil)
		w.sequence(l)
		if _, err := l.Anchor(t.Context()); mayfly.KindOf(err) != mayfly.NotFound || !strings.Contains(err.Error(), "/log/checkpoint") {
			t.Errorf("before there is one: %v", err)
		}
		of, signed := w.checkpoint(l)
		w.anchor(db, of.N, signed)
		if got, err := l.Anchor(t.Context()); err != nil || string(got) != string(signed) {
			t.Errorf("%q, %v", got, err)
		}
		w.mustVerify(db, of.N)
	})
}

// From every size there was to the newest, as somebody checks it who has only
// the two roots.
func TestEveryCheckpointIsProvenToHaveGrownIntoTheNewest(t *testing.T) {
	onEachEngine(t, func(t *testing.T, w world) {
		db := w.open()
		l := w.log(db, nil)
		w.sequence(l)
		var trees []tlog.Tree
		for _, n := range []int{1, 2, 3, 250, 1, 255, 256, 300} {
			w.record(db, l, n)
			w.sequence(l)
			of, _ := w.checkpoint(l)
			trees = append(trees, of)
		}
		to, signed := w.checkpoint(l)
		for _, from := range trees {
			proof, err := l.Consistency(t.Context(), signed, from.N)
			if err == nil && len(proof) > 63 {
				err = errors.New("it is too long")
			}
			if err == nil {
				err = tlog.CheckTree(proof, to.N, to.Hash, from.N, from.Hash)
			}
			if err != nil {
				t.Errorf("from %d to %d: %v", from.N, to.N, err)
			}
		}
		for _, size := range []int64{0, to.N} {
			if proof, err := l.Consistency(t.Context(), signed, size); err != nil || len(proof) != 0 {
				t.Errorf("from %d to %d: %d hashes, %v", size, to.N, len(proof), err)
			}
		}
		for _, size := range []int64{-1, to.N + 1} {
			if _, err := l.Consistency(t.Context(), signed, size); err == nil {
				t.Errorf("from %d to %d there is a proof", size, to.N)
			}
		}
		if _, err := l.Consistency(t.Context(), []byte("nonsense\n"), 1); err == nil {
			t.Error("there is a proof to what is no checkpoint")
		}
	})
}

func TestTheProcessThatMovedTheLogLastLeads(t *testing.T) {
	w := newWorld(t, "postgres")
	dbs := []*store.DB{w.open(), w.open()}
	logs := []*eventlog.Log{w.log(dbs[0], nil), w.log(dbs[1], nil)}
	if logs[0].Leads() || logs[1].Leads() {
		t.Error("one leads that has done nothing")
	}
	for turn := range 4 {
		i := turn % 2
		w.record(dbs[i], logs[i], 1)
		w.sequence(logs[i])
		w.sequence(logs[1-i]) // it sees what happened
		if !logs[i].Leads() || logs[1-i].Leads() {
			t.Errorf("turn %d: %v and %v", turn, logs[0].Leads(), logs[1].Leads())
		}
	}
}

// signFor is a checkpoint of any tree by the log's own key.
func (w world) signFor(db *store.DB, of tlog.Tree) []byte {
	w.Helper()
	keys, err := db.Keys(w.Context(), "log")
	if err != nil || len(keys) != 1 {
		w.Fatalf("%d keys, %v", len(keys), err)
	}
	signer, err := note.NewSigner(string(keys[0].Private))
	if err != nil {
		w.Fatal(err)
	}
	signed, err := note.Sign(&note.Note{Text: fmt.Sprintf("%s\n%d\n%s\n", origin, of.N, of.Hash)}, signer)
	if err != nil {
		w.Fatal(err)
	}
	return signed
}

// The log is put back, or begun anew, and its anchor is not: there were other
// records, because this log signed that there were.
func TestALogThatDidNotGrowOutOfItsAnchorStopsEverything(t *testing.T) {
	onEachEngine(t, func(t *testing.T, w world) {
		db := w.open()
		l := w.log(db, nil)
		w.record(db, l, 5)
		w.sequence(l)
		of, signed := w.checkpoint(l)
		shorter, longer := w.signFor(db, tlog.Tree{N: of.N - 1, Hash: tlog.Hash{7}}), w.signFor(db, tlog.Tree{N: of.N + 1, Hash: tlog.Hash{7}})
		other := w.signFor(db, tlog.Tree{N: of.N, Hash: tlog.Hash{7}})
		w.close(db)
		for _, c := range []struct {
			size         int64
			signed       []byte
			verify, open string // what is wrong; "" is nothing
		}{
			{of.N - 1, shorter, "and the anchor, which witnesses have cosigned, is signed for", "is not one that the tree of"},
			{of.N, signed, "", ""},
			{of.N, other, "and the anchor, which witnesses have cosigned, is signed for", "is not one that the tree of"},
			{of.N, []byte("nonsense\n"), "the stored anchor does not verify", "the stored anchor: "},
			{of.N + 1, longer, "the end of the log was cut off", "its end was cut off"},
		} {
			db := w.open()
			w.anchor(db, c.size, c.signed)
			if r := w.verify(db); r.OK() != (c.verify == "") || !strings.Contains(r.String(), c.verify) {
				t.Errorf("verify says %s, want %q", r, c.verify)
			}
			_, err := eventlog.Open(t.Context(), db, eventlog.Options{Origin: origin})
			if c.open == "" && err != nil || c.open != "" && (mayfly.KindOf(err) != mayfly.Unavailable || !strings.Contains(errors.Unwrap(err).Error(), c.open)) {
				t.Errorf("opening says %v, want %q", err, c.open)
			}
			w.close(db)
		}
	})
}
