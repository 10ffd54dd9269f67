package eventlog_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/eventlog"
	"github.com/mayfly-id/mayfly/internal/store"
)

// runAll runs logs until the test stops them.
func runAll(t *testing.T, logs ...*eventlog.Log) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	for _, l := range logs {
		running.Go(func() {
			if err := l.Run(ctx); err != nil {
				t.Errorf("Run: %v: %s", err, l.Alarm())
			}
		})
	}
	return func() { cancel(); running.Wait() }
}

// covered waits until every record is under a checkpoint, and says how long that
// took.
func (w world) covered(db *store.DB, l *eventlog.Log, recs []store.Record) time.Duration {
	w.Helper()
	acknowledged := time.Now()
	for _, rec := range recs {
		for {
			row, err := db.EventByID(w.Context(), rec.ID())
			if err != nil {
				w.Fatal(err)
			}
			if row.Position != nil {
				if of, _ := w.checkpoint(l); of.N <= *row.Position {
					w.Fatalf("position %d is not under the checkpoint of %d", *row.Position, of.N)
				}
				break
			}
			if time.Since(acknowledged) > 10*time.Second {
				w.Fatalf("%s got no position", rec.ID())
			}
		}
	}
	return time.Since(acknowledged)
}

func TestEverythingAcknowledgedIsUnderACheckpointWithinASecond(t *testing.T) {
	onEachEngine(t, func(t *testing.T, w world) {
		db := w.open()
		l := w.log(db, nil)
		stop := runAll(t, l)
		var slowest time.Duration
		for range 4 {
			slowest = max(slowest, w.covered(db, l, w.record(db, l, 40)))
		}
		stop()
		t.Logf("the slowest of 4 × 40 records was under a checkpoint %v after it was acknowledged", slowest)
		if slowest > time.Second {
			t.Errorf("a record was under a checkpoint only %v after it was acknowledged", slowest)
		}
		w.mustVerify(db, 4*40+1)
	})
}

// Of two nodes one sequences at a time, whoever has something to record.
func TestTwoNodesKeepThePromiseToEachOther(t *testing.T) {
	w := newWorld(t, "postgres")
	dbs := []*store.DB{w.open(), w.open()}
	logs := []*eventlog.Log{w.log(dbs[0], nil), w.log(dbs[1], nil)}
	stop := runAll(t, logs...)
	var slowest time.Duration
	for _, writer := range []int{0, 0, 1, 0, 1, 1, 1, 0} {
		slowest = max(slowest, w.covered(dbs[1-writer], logs[1-writer], w.record(dbs[writer], logs[writer], 10)))
	}
	stop()
	t.Logf("the slowest record was under a checkpoint %v after it was acknowledged", slowest)
	if slowest > time.Second {
		t.Errorf("a record was under a checkpoint only %v after it was acknowledged", slowest)
	}
	w.mustVerify(dbs[0], 81)
}

func TestEachCheckpointGrowsOutOfTheOneBefore(t *testing.T) {
	onEachEngine(t, func(t *testing.T, w world) {
		db := w.open()
		l := w.log(db, nil)
		var before tlog.Tree
		var kept [][]byte
		for _, n := range []int{1, 2, 5, 256, 300, 1, 90} {
			w.record(db, l, n)
			w.sequence(l)
			now, signed := w.checkpoint(l)
			kept = append(kept, signed)
			if before.N > 0 {
				proof, err := tlog.ProveTree(now.N, before.N, tlog.TileHashReader(now, clientOf(w, l)))
				if err != nil {
					t.Fatal(err)
				}
				if err := tlog.CheckTree(proof, now.N, now.Hash, before.N, before.Hash); err != nil {
					t.Fatalf("from %d to %d: %v", before.N, now.N, err)
				}
			}
			before = now
		}
		if r := w.verify(db, kept...); !r.OK() || r.Size != 656 {
			t.Errorf("%s; want 656 records", r)
		}
	})
}

// Two nodes on one database: whoever loses the swap follows and goes on.
func TestTwoSequencersNeverForkAndBothGoOn(t *testing.T) {
	w := newWorld(t, "postgres")
	const each, enough = 500, 3
	var dbs [2]*store.DB
	var logs [2]*eventlog.Log
	var opened sync.WaitGroup
	for i := range 2 { // at once: only one may make the key
		dbs[i] = w.open()
	}
	for i := range 2 {
		opened.Go(func() {
			var err error
			if logs[i], err = eventlog.Open(t.Context(), dbs[i], eventlog.Options{Origin: origin}); err != nil {
				t.Error(err)
			}
		})
	}
	opened.Wait()
	if t.Failed() || logs[0].VKey() != logs[1].VKey() {
		t.Fatal("two nodes do not have one key")
	}

	var mu sync.Mutex
	var published [][]byte // every checkpoint anybody could have read
	var moved [2]atomic.Int64
	done := make(chan struct{})
	var nodes sync.WaitGroup
	for i, l := range logs {
		nodes.Go(func() {
			for {
				n, err := l.Sequence(t.Context())
				switch {
				case l.Err() != nil:
					t.Errorf("node %d: alarm: %s", i, l.Alarm())
					return
				case err != nil && !strings.Contains(err.Error(), "moved the log first"):
					t.Errorf("node %d: %v", i, err)
					return
				}
				if n > 0 {
					moved[i].Add(1)
					signed, err := l.Checkpoint(t.Context())
					if err != nil {
						t.Error(err)
					}
					mu.Lock()
					published = append(published, signed)
					mu.Unlock()
				}
				select {
				case <-done:
					if n == 0 && err == nil {
						return
					}
				default:
				}
			}
		})
	}
	var writers sync.WaitGroup
	for i := range 2 {
		writers.Go(func() {
			// Go on until both have moved the log, so that losing has been seen.
			for n := 0; n < each || moved[0].Load() < enough || moved[1].Load() < enough; n += 20 {
				if _, err := commit(t.Context(), time.Now(), dbs[i], logs[i], 20); err != nil || n > 50*each {
					t.Error(err)
					t.Errorf("the nodes moved the log %d and %d times", moved[0].Load(), moved[1].Load())
					return
				}
			}
		})
	}
	writers.Wait()
	close(done)
	nodes.Wait()
	t.Logf("the nodes moved the log %d and %d times", moved[0].Load(), moved[1].Load())

	last, _ := w.checkpoint(logs[0])
	seen := map[int64]tlog.Tree{}
	for _, signed := range published {
		of := w.read(signed, logs[0].VKey())
		if was, ok := seen[of.N]; ok && was != of {
			t.Errorf("two trees of %d were signed", of.N)
		}
		seen[of.N] = of
		proof, err := tlog.ProveTree(last.N, of.N, tlog.TileHashReader(last, clientOf(w, logs[1])))
		if err == nil {
			err = tlog.CheckTree(proof, last.N, last.Hash, of.N, of.Hash)
		}
		if err != nil {
			t.Fatalf("the tree of %d did not grow into the last one: %v", of.N, err)
		}
	}
	if r := w.verify(dbs[0], published...); !r.OK() || r.Waiting != 0 {
		t.Error(r)
	}
}

func TestAStoreKeepsTheNameOfItsLog(t *testing.T) {
	onEachEngine(t, func(t *testing.T, w world) {
		db := w.open()
		l := w.log(db, nil)
		_, err := eventlog.Open(t.Context(), db, eventlog.Options{Origin: "other.example.test/log"})
		if mayfly.KindOf(err) != mayfly.Conflict || !strings.Contains(err.Error(), origin) {
			t.Errorf("opened under another name: %v", err)
		}
		if again := w.log(db, nil); again.VKey() != l.VKey() || l.Origin() != origin {
			t.Errorf("opened again, the log has the key %s, want %s", again.VKey(), l.VKey())
		}
		if _, err := l.Checkpoint(t.Context()); mayfly.KindOf(err) != mayfly.Unavailable {
			t.Errorf("a log that was never signed has the checkpoint error %v", err)
		}
	})
}

func TestAProcessGoesOnWhereTheLastOneStopped(t *testing.T) {
	onEachEngine(t, func(t *testing.T, w world) {
		var size int64 = 1
		var kept [][]byte
		for range 3 {
			db := w.open()
			l := w.log(db, nil)
			w.sequence(l)
			w.record(db, l, 200)
			if n, err := l.Sequence(t.Context()); err != nil || n < 200 {
				t.Fatalf("sequenced %d, %v", n, err)
			}
			w.record(db, l, 77) // left to the next process
			size += 277
			_, signed := w.checkpoint(l)
			kept = append(kept, signed)
			if r := w.verify(db, kept...); !r.OK() || r.Waiting != 77 || r.WaitingSince == nil {
				t.Fatalf("%s; want 77 waiting", r)
			}
			w.close(db)
		}
		db := w.open()
		w.sequence(w.log(db, nil))
		w.mustVerify(db, size)
		w.close(db)
		looking, err := store.Open(t.Context(), store.Options{DSN: w.dsn, Seal: seal, Node: "test", ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		defer looking.Close()
		w.mustVerify(looking, size)
	})
}

func TestNothingIsSignedWhileTheClockStands(t *testing.T) {
	onEachEngine(t, func(t *testing.T, w world) {
		db := w.open()
		now := time.Now()
		l := w.log(db, func() time.Time { return now })
		w.sequence(l)
		w.record(db, l, 1)
		for _, at := range []time.Time{now, now.Add(-time.Hour)} {
			now = at
			if n, err := l.Sequence(t.Context()); n != 0 || mayfly.KindOf(err) != mayfly.Unavailable {
				t.Errorf("sequenced %d, %v", n, err)
			}
		}
		if l.Err() != nil {
			t.Error("a clock that stands raised the alarm")
		}
		now = now.Add(2 * time.Hour)
		if n := w.sequence(l); n != 1 {
			t.Errorf("sequenced %d, want 1", n)
		}
	})
}

func TestTilesOfEveryWidthAreReadable(t *testing.T) {
	onEachEngine(t, func(t *testing.T, w world) {
		db := w.open()
		l := w.log(db, nil)
		recs := w.record(db, l, 599) // one process: the order is that of its commits
		w.sequence(l)
		of, _ := w.checkpoint(l)
		if of.N != 600 {
			t.Fatalf("the log has %d records, want 600", of.N)
		}
		hashes := tlog.TileHashReader(of, clientOf(w, l))
		for first := int64(0); first < of.N; first += 256 {
			width := int(min(256, of.N-first))
			bundle, _, err := l.Tile(t.Context(), path("entries", first/256, width))
			if err != nil {
				t.Fatal(err)
			}
			entries := split(t, bundle)
			if len(entries) != width {
				t.Fatalf("the bundle from %d has %d entries, want %d", first, len(entries), width)
			}
			for i, entry := range entries {
				n, leaf := first+int64(i), tlog.RecordHash(entry)
				if i%16 == 0 || i == width-1 {
					proof, err := tlog.ProveRecord(of.N, n, hashes)
					if err == nil {
						err = tlog.CheckRecord(proof, of.N, of.Hash, n, leaf)
					}
					if err != nil {
						t.Fatalf("entry %d: %v", n, err)
					}
				}
				if n > 0 && recs[n-1].LeafHash() != [32]byte(leaf) { // the first is of the key
					t.Fatalf("entry %d is not record %d", n, n-1)
				}
			}
		}
		full, _, err := l.Tile(t.Context(), "0/001")
		if err != nil {
			t.Fatal(err)
		}
		for _, width := range []int{1, 17, 255} { // of a tile that is full by now
			part, immutable, err := l.Tile(t.Context(), fmt.Sprintf("0/001.p/%d", width))
			if err != nil || immutable || !bytes.Equal(part, full[:32*width]) {
				t.Errorf("%d of tile 0/001: %d bytes, %v, %v", width, len(part), immutable, err)
			}
		}
		for _, absent := range []string{"0/002", "0/002.p/89", "0/003", "1/000", "1/000.p/3", "2/000.p/1", "63/000", "entries/002", "entries/002.p/89", "entries/x001/000", "x", "../checkpoint"} {
			if data, _, err := l.Tile(t.Context(), absent); mayfly.KindOf(err) != mayfly.NotFound {
				t.Errorf("%s: %d bytes, %v, want NotFound", absent, len(data), err)
			}
		}
		if !eventlog.IsEntries("entries/000") || eventlog.IsEntries("0/000") || eventlog.IsEntries("entries/../0/000") {
			t.Error("IsEntries does not know entries")
		}
	})
}

func split(t *testing.T, bundle []byte) (entries [][]byte) {
	t.Helper()
	for len(bundle) > 0 {
		n := int(binary.BigEndian.Uint16(bundle))
		entries, bundle = append(entries, bundle[2:2+n]), bundle[2+n:]
	}
	return entries
}

func TestAnExportedLogStandsOnItsOwn(t *testing.T) {
	onEachEngine(t, func(t *testing.T, w world) {
		db := w.open()
		dir := filepath.Join(t.TempDir(), "copy")
		if _, err := eventlog.Export(t.Context(), eventlog.Stored(db), dir); mayfly.KindOf(err) != mayfly.NotFound {
			t.Errorf("exporting from an empty store: %v", err)
		}
		l := w.log(db, nil)
		for _, n := range []int{99, 200, 400} {
			w.record(db, l, n)
			w.sequence(l)
			size, err := eventlog.Export(t.Context(), eventlog.Stored(db), dir)
			if err != nil {
				t.Fatal(err)
			}
			vkey, err := os.ReadFile(filepath.Join(dir, "vkey"))
			if err != nil {
				t.Fatal(err)
			}
			signed, err := os.ReadFile(filepath.Join(dir, "checkpoint"))
			if err != nil {
				t.Fatal(err)
			}
			of := w.read(signed, strings.TrimSuffix(string(vkey), "\n"))
			if of.N != size {
				t.Errorf("exported %d records, and the checkpoint says %d", size, of.N)
			}
			file := func(_ context.Context, path string) ([]byte, error) {
				return os.ReadFile(filepath.Join(dir, "tile", path))
			}
			hashes := tlog.TileHashReader(of, client{t.Context(), file})
			for first := int64(0); first < of.N; first += 256 {
				bundle, err := file(t.Context(), path("entries", first/256, int(min(256, of.N-first))))
				if err != nil {
					t.Fatal(err)
				}
				for i, entry := range split(t, bundle) {
					proof, err := tlog.ProveRecord(of.N, first+int64(i), hashes)
					if err == nil {
						err = tlog.CheckRecord(proof, of.N, of.Hash, first+int64(i), tlog.RecordHash(entry))
					}
					if err != nil {
						t.Fatalf("entry %d of %d: %v", first+int64(i), of.N, err)
					}
				}
			}
		}
		if err := os.WriteFile(filepath.Join(dir, "vkey"), []byte("another\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := eventlog.Export(t.Context(), eventlog.Stored(db), dir); mayfly.KindOf(err) != mayfly.Conflict {
			t.Errorf("exporting over another log: %v", err)
		}
	})
}

func TestTailGivesEveryRecordOnceAndFollows(t *testing.T) {
	onEachEngine(t, func(t *testing.T, w world) {
		db := w.open()
		l := w.log(db, nil)
		w.record(db, l, 600)
		w.sequence(l)
		var got []int64
		collect := func(e eventlog.Entry) error {
			got = append(got, e.Position)
			if e.ID == "" || len(e.Leaf) == 0 || len(e.Body) == 0 || e.Dlg == "" {
				return fmt.Errorf("an empty entry: %+v", e)
			}
			return nil
		}
		if err := eventlog.Tail(t.Context(), db, -1, false, collect); err != nil {
			t.Fatal(err)
		}
		if len(got) != 601 || got[0] != 0 || got[600] != 600 || !slices.IsSorted(got) {
			t.Fatalf("%d records from %d to %d, want 601", len(got), got[0], got[len(got)-1])
		}
		got = nil
		if err := eventlog.Tail(t.Context(), db, 598, false, collect); err != nil || !slices.Equal(got, []int64{599, 600}) {
			t.Fatalf("after 598: %v, %v", got, err)
		}
		full := errors.New("enough")
		if err := eventlog.Tail(t.Context(), db, -1, true, func(eventlog.Entry) error { return full }); err != full {
			t.Errorf("an error of fn came back as %v", err)
		}

		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		came := make(chan int64, 10)
		ended := make(chan error, 1)
		go func() {
			ended <- eventlog.Tail(ctx, db, 600, true, func(e eventlog.Entry) error { came <- e.Position; return nil })
		}()
		w.record(db, l, 3)
		w.sequence(l)
		for want := int64(601); want < 604; want++ {
			if at := <-came; at != want {
				t.Errorf("position %d came, want %d", at, want)
			}
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
