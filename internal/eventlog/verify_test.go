package eventlog_test

import (
	"crypto/rand"
	"database/sql"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/mayfly-id/mayfly/internal/eventlog"
	"github.com/mayfly-id/mayfly/internal/store"
)

// written is the log that is altered: the numbers 1 to 301 of one process under
// checkpoints of 101 and 301 records, and 20 that were written a minute later
// and wait.
type written struct {
	world
	db          *store.DB
	first, last []byte // the checkpoints
}

const sequenced, waiting = 301, 20

func write(t *testing.T, w world) written {
	t.Helper()
	db := w.open()
	l := w.log(db, nil)
	w.record(db, l, 100)
	w.sequence(l)
	_, first := w.checkpoint(l)
	w.record(db, l, sequenced-101)
	w.sequence(l)
	_, last := w.checkpoint(l)
	w.recordAt(time.Now().Add(time.Minute), db, l, waiting)
	for _, table := range tables {
		w.sql(`CREATE TABLE kept_` + table + ` AS SELECT * FROM ` + table)
	}
	return written{w, db, first, last}
}

var tables = []string{"event", "log_span", "log_tile", "log_head", "signing_key"}

// restore undoes what was done to the tables.
func (w written) restore() {
	w.Helper()
	w.raw(func(db *sql.DB) error {
		for _, table := range tables {
			for _, s := range []string{`DELETE FROM `, `INSERT INTO ` + table + ` SELECT * FROM kept_`} {
				if _, err := db.Exec(s + table); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// flip alters one bit in the middle of a column of one row.
func (w written) flip(table, column, where string) {
	w.Helper()
	w.raw(func(db *sql.DB) error {
		var data []byte
		if err := db.QueryRow(`SELECT ` + column + ` FROM ` + table + ` WHERE ` + where).Scan(&data); err != nil {
			return err
		}
		data[len(data)/2] ^= 1
		_, err := db.Exec(`UPDATE `+table+` SET `+column+` = $1 WHERE `+where, data)
		return err
	})
}

func (w written) setNote(signed []byte) {
	w.Helper()
	w.raw(func(db *sql.DB) error {
		_, err := db.Exec(`UPDATE log_head SET note = $1`, signed)
		return err
	})
}

func (w written) idOf(number int) (id string) {
	w.Helper()
	w.raw(func(db *sql.DB) error {
		return db.QueryRow(`SELECT id FROM kept_event WHERE seq = $1`, number).Scan(&id)
	})
	return id
}

// resigned is the checkpoint of 301 records signed by a key that was made for
// the purpose.
func (w written) resigned(name string) []byte {
	w.Helper()
	skey, _, err := note.GenerateKey(rand.Reader, name)
	if err != nil {
		w.Fatal(err)
	}
	text, _, _ := strings.Cut(string(w.last), "\n\n")
	return w.sign(skey, strings.Replace(text, origin, name, 1)+"\n")
}

func (w written) sign(skey, text string) []byte {
	w.Helper()
	s, err := note.NewSigner(skey)
	if err != nil {
		w.Fatal(err)
	}
	signed, err := note.Sign(&note.Note{Text: text}, s)
	if err != nil {
		w.Fatal(err)
	}
	return signed
}

// signed is a checkpoint that who holds the seal key could sign: of this size,
// and of a root that is no tree's.
func (w written) signed(size int) []byte {
	w.Helper()
	keys, err := w.db.Keys(w.Context(), "log")
	if err != nil {
		w.Fatal(err)
	}
	return w.sign(string(keys[0].Private), fmt.Sprintf("%s\n%d\n%s=\n", origin, size, strings.Repeat("A", 43)))
}

// cut takes away everything that came after the first checkpoint but the events
// themselves.
func (w written) cut() {
	w.Helper()
	w.sql(`DELETE FROM log_span WHERE start > 0`, `DELETE FROM log_tile WHERE level > 0 OR idx > 0`, `UPDATE log_head SET size = 101`)
	w.setNote(w.first)
	w.raw(func(db *sql.DB) error {
		var data []byte
		if err := db.QueryRow(`SELECT data FROM log_tile`).Scan(&data); err != nil {
			return err
		}
		_, err := db.Exec(`UPDATE log_tile SET data = $1`, data[:101*32])
		return err
	})
}

func TestS80VerifyNamesTheFirstPlaceThatWasAltered(t *testing.T) {
	all := []string{`DELETE FROM event`, `DELETE FROM log_span`, `DELETE FROM log_tile`, `UPDATE log_head SET size = 0, note = NULL`}
	cases := []struct {
		name     string
		alter    func(w written)
		position int64  // in the report; -1 where none can be named
		number   int    // of the record that must be named, 0 if none
		what     string // in the report
	}{
		{"a byte of a leaf", func(w written) { w.flip("event", "leaf", "seq = 43") }, 42, 43, "MAC"},
		{"a byte of a body", func(w written) { w.flip("event", "body", "seq = 43") }, 42, 43, "MAC"},
		{"a byte of a MAC", func(w written) { w.flip("event", "mac", "seq = 43") }, 42, 43, "MAC"},
		{"a byte of the first leaf", func(w written) { w.flip("event", "leaf", "seq = 1") }, 0, 1, "MAC"},
		{"a byte of the last leaf", func(w written) { w.flip("event", "leaf", "seq = 301") }, 300, 301, "MAC"},
		{"a byte of a waiting leaf", func(w written) { w.flip("event", "leaf", "seq = 310") }, -1, 310, "MAC"},
		{"a byte of a waiting body", func(w written) { w.flip("event", "body", "seq = 321") }, -1, 321, "MAC"},
		{"the task column", func(w written) { w.sql(`UPDATE event SET task = 'task_y' WHERE seq = 43`) }, 42, 43, "columns"},
		{"the kind column", func(w written) { w.sql(`UPDATE event SET kind = 'alarm' WHERE seq = 43`) }, 42, 43, "columns"},
		{"the time column", func(w written) { w.sql(`UPDATE event SET time = time + 1 WHERE seq = 43`) }, 42, 43, "columns"},
		{"the person column", func(w written) { w.sql(`UPDATE event SET person = 'p_x' WHERE seq = 43`) }, 42, 43, "columns"},
		{"a record in the middle gone", func(w written) { w.sql(`DELETE FROM event WHERE seq = 43`) }, 42, 0, "42 is gone"},
		{"the first record gone", func(w written) { w.sql(`DELETE FROM event WHERE seq = 1`) }, 0, 0, "0 is gone"},
		{"the last 5 under the checkpoint gone", func(w written) { w.sql(`DELETE FROM event WHERE seq > 296`) }, 296, 0, "296 is gone"},
		{"a waiting record in the middle gone", func(w written) { w.sql(`DELETE FROM event WHERE seq = 310`) }, -1, 311, "number 310"},
		{"every record gone", func(w written) { w.sql(all[0]) }, 0, 0, "0 is gone"},
		{"everything gone", func(w written) { w.sql(all...) }, -1, 0, "records are gone"},
		{"everything and the key gone", func(w written) { w.sql(append(all, `DELETE FROM signing_key`)...) }, -1, 0, "one log key"},
		{"two records swapped", func(w written) {
			w.sql(`UPDATE event SET seq = -1 WHERE seq = 43`, `UPDATE event SET seq = 43 WHERE seq = 44`, `UPDATE event SET seq = 44 WHERE seq = -1`)
		}, 42, 44, "MAC"},
		{"two spans swapped", func(w written) {
			w.sql(`UPDATE log_span SET start = -1 WHERE start = 0`, `UPDATE log_span SET start = 0 WHERE start = 101`, `UPDATE log_span SET start = 200 WHERE start = -1`)
		}, 0, 102, "number 1 of"},
		{"a span gone", func(w written) { w.sql(`DELETE FROM log_span WHERE start = 101`) }, 101, 0, "101 is gone"},
		{"a span cut", func(w written) { w.sql(`UPDATE log_span SET n = n - 1 WHERE start = 0`) }, 100, 0, "100 is gone"},
		{"a span too many", func(w written) { w.sql(`INSERT INTO log_span (start, proc, seq, n) VALUES (400, 99, 1, 1)`) }, 301, 0, "from 400 on"},
		{"a byte of the first tile", func(w written) { w.flip("log_tile", "data", "level = 0 AND idx = 0") }, 128, 129, "tile 0/000"},
		{"a byte of the partial tile", func(w written) { w.flip("log_tile", "data", "level = 0 AND idx = 1") }, 256 + 22, 257 + 22, "tile 0/001"},
		{"a byte of the tile above", func(w written) { w.flip("log_tile", "data", "level = 1 AND idx = 0") }, 0, 0, "tile 1/000.p/1"},
		{"a tile gone", func(w written) { w.sql(`DELETE FROM log_tile WHERE level = 0 AND idx = 1`) }, 256, 257, "tile 0/001"},
		{"the tile above gone", func(w written) { w.sql(`DELETE FROM log_tile WHERE level = 1`) }, 0, 0, "tile 1/000.p/1"},
		{"a tile too many", func(w written) {
			w.sql(`INSERT INTO log_tile (level, idx, data) SELECT 2, 0, data FROM log_tile WHERE level = 1`)
		}, 301, 0, "tile 2/000"},
		{"the head's size", func(w written) { w.sql(`UPDATE log_head SET size = 300`) }, 300, 0, "head says 300"},
		{"a byte of the checkpoint", func(w written) { w.flip("log_head", "note", "one = 1") }, -1, 0, "checkpoint does not verify"},
		{"no checkpoint", func(w written) { w.sql(`UPDATE log_head SET note = NULL`) }, -1, 0, "no checkpoint"},
		{"an empty checkpoint", func(w written) { w.setNote([]byte{}) }, -1, 0, "checkpoint does not verify"},
		{"a garbage checkpoint", func(w written) { w.setNote([]byte("\n\n\x00\xff\xe2\x80\x94 \n")) }, -1, 0, "checkpoint does not verify"},
		{"a checkpoint under another origin", func(w written) { w.setNote(w.resigned("other.example.test/log")) }, -1, 0, "checkpoint does not verify"},
		{"a checkpoint of another key", func(w written) { w.setNote(w.resigned(origin)) }, -1, 0, "checkpoint does not verify"},
		{"a checkpoint signed for another root", func(w written) { w.setNote(w.signed(301)) }, -1, 0, "make the root"},
		{"the checkpoint before", func(w written) { w.setNote(w.first) }, 101, 0, "head says 301"},
		{"the head before", func(w written) { w.sql(`UPDATE log_head SET size = 101`); w.setNote(w.first) }, 101, 0, "from 101 on"},
		{"the end put back to wait", func(w written) { w.cut() }, -1, 102, "was put back"},
	}
	onEachEngine(t, func(t *testing.T, plain world) {
		w := write(t, plain)
		if r := w.verify(w.db, w.first, w.last); !r.OK() || r.Size != sequenced || r.Waiting != waiting {
			t.Fatalf("before anything was altered: %s", r)
		}
		for _, c := range cases {
			t.Run(strings.ReplaceAll(c.name, " ", "-"), func(t *testing.T) {
				defer w.restore()
				c.alter(w)
				r := w.verify(w.db)
				if r.OK() || r.Wrong == nil {
					t.Fatalf("nothing was found: %s", r)
				}
				event := ""
				if c.number > 0 {
					event = w.idOf(c.number)
				}
				if r.Wrong.Position != c.position || r.Wrong.Event != event || !strings.Contains(r.Wrong.What, c.what) {
					t.Errorf("found %+v; want position %d, event %q, %q", *r.Wrong, c.position, event, c.what)
				}
				if !strings.HasPrefix(r.String(), "WRONG") {
					t.Errorf("the report reads %q", r)
				}
			})
		}
		if r := w.verify(w.db, w.first, w.last); !r.OK() {
			t.Fatalf("after everything was put right: %s", r)
		}
	})
}

// What holds without a seal key does not hold against who puts the whole
// database back, or has the key: that takes a checkpoint kept elsewhere.
func TestS80ACheckpointKeptElsewhereShowsWhatWasCutOffOrRewritten(t *testing.T) {
	onEachEngine(t, func(t *testing.T, plain world) {
		w := write(t, plain)
		forged := w.signed(101)
		for _, c := range []struct {
			known [][]byte
			what  string
		}{
			{[][]byte{forged}, "rewritten"},
			{[][]byte{w.first, forged}, "forked"},
		} {
			if r := w.verify(w.db, c.known...); r.OK() || !strings.Contains(r.Wrong.What, c.what) {
				t.Errorf("%s; want %q", r, c.what)
			}
		}
		for _, bad := range [][]byte{nil, []byte("garbage"), w.resigned(origin), w.resigned("other.example.test/log")} {
			if r, err := eventlog.Verify(t.Context(), w.db, bad); err == nil || r.OK() {
				t.Errorf("compared with %q: %s, %v", bad, r, err)
			}
		}
		w.cut()
		w.sql(`DELETE FROM event WHERE seq > 101`)
		if r := w.verify(w.db, w.first); !r.OK() || r.Size != 101 {
			t.Errorf("a store as it was at 101 records: %s", r)
		}
		if r := w.verify(w.db, w.first, w.last); r.OK() || r.Wrong.Position != 101 || !strings.Contains(r.Wrong.What, "cut off") {
			t.Errorf("cut at 101: %s", r)
		}
	})
}

func TestS81NothingVerifiedIsNotOK(t *testing.T) {
	if r := (eventlog.Report{}); r.OK() || strings.Contains(r.String(), "ok") {
		t.Errorf("the zero report is OK: %s", r)
	}
	onEachEngine(t, func(t *testing.T, w world) {
		db := w.open()
		if r := w.verify(db); r.OK() || r.Wrong == nil {
			t.Errorf("a store that never had a log: %s", r)
		}
		w.close(db)
		if r, err := eventlog.Verify(t.Context(), db); err == nil || r.OK() {
			t.Errorf("a closed store: %s, %v", r, err)
		}
	})
}

// The verifier reads while a server writes: what moves under it is no difference.
func TestVerifyAgreesWithALogThatGrows(t *testing.T) {
	onEachEngine(t, func(t *testing.T, w world) {
		db := w.open()
		l := w.log(db, nil)
		w.sequence(l)
		stop := make(chan struct{})
		var verifier sync.WaitGroup
		verifier.Go(func() {
			for n := 0; ; n++ {
				if r, err := eventlog.Verify(t.Context(), db); err != nil || !r.OK() {
					t.Errorf("verification %d: %s (%v)", n, r, err)
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
		for range 40 {
			w.record(db, l, 30)
			w.sequence(l)
		}
		close(stop)
		verifier.Wait()
		w.mustVerify(db, 1201)
	})
}
