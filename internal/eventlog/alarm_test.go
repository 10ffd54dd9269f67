package eventlog_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/eventlog"
	"github.com/mayfly-id/mayfly/internal/store"
)

// The database's administrator alters what was acknowledged and is under no
// checkpoint yet: nothing signed will ever contradict it, and we must.
func TestWhatWasAlteredBeforeItsCheckpointStopsEverything(t *testing.T) {
	onID := func(statement string) func(world, store.Record) {
		return func(w world, rec store.Record) { w.sql(fmt.Sprintf(statement, "'"+rec.ID()+"'")) }
	}
	for _, c := range []struct {
		name  string
		alter func(w world, rec store.Record)
		which int // of ten records
		what  string
	}{
		{"leaf", onID(`UPDATE event SET leaf = body WHERE id = %s`), 4, "MAC"},
		{"body", onID(`UPDATE event SET body = leaf WHERE id = %s`), 4, "MAC"},
		{"mac", onID(`UPDATE event SET mac = leaf WHERE id = %s`), 4, "MAC"},
		{"column", onID(`UPDATE event SET decision = 'dec_x' WHERE id = %s`), 4, "columns"},
		{"middle gone", onID(`DELETE FROM event WHERE id = %s`), 4, "is gone"},
		{"first gone", onID(`DELETE FROM event WHERE id = %s`), 0, "is gone"},
		{"last gone", onID(`DELETE FROM event WHERE id = %s`), 9, "was acknowledged and is gone"},
		{"id", onID(`UPDATE event SET id = 'evt_x' WHERE id = %s`), 9, "columns"},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			onEachEngine(t, func(t *testing.T, w world) {
				db := w.open()
				now := time.Now()
				l := w.log(db, func() time.Time { now = now.Add(time.Millisecond); return now })
				w.sequence(l)
				recs := w.record(db, l, 10)
				c.alter(w, recs[c.which])
				var err error
				for range 4 { // what is gone without a trace is missed after a second
					if _, err = l.Sequence(t.Context()); err != nil {
						break
					}
					now = now.Add(2 * time.Second)
				}
				if mayfly.KindOf(err) != mayfly.Unavailable || l.Err() == nil || !strings.Contains(l.Alarm(), c.what) {
					t.Fatalf("sequencing said %v and the alarm is %q, want %q", err, l.Alarm(), c.what)
				}
				if strings.Contains(l.Err().Error(), recs[c.which].ID()) {
					t.Error("what callers are shown says what was found")
				}
				size, _ := w.checkpoint(l)
				w.record(db, l, 1)
				if n, err := l.Sequence(t.Context()); n != 0 || err == nil {
					t.Errorf("after the alarm: sequenced %d, %v", n, err)
				}
				if after, _ := w.checkpoint(l); after != size {
					t.Error("after the alarm a checkpoint was signed")
				}
				if err := l.Run(t.Context()); mayfly.KindOf(err) != mayfly.Unavailable {
					t.Errorf("Run went on and ended with %v", err)
				}
			})
		})
	}
}

func TestALogThatGoesBackOrForksStopsEverything(t *testing.T) {
	for _, c := range []struct {
		name  string
		alter func(w written)
		what  string
	}{
		{"put back", written.cut, "went back"},
		{"other checkpoint", func(w written) { w.setNote(w.first) }, "head says"},
		{"other key", func(w written) { w.setNote(w.resigned(origin)) }, "not signed by"},
		{"empty", func(w written) { w.setNote([]byte{}) }, "not signed by"},
		{"forked", func(w written) { w.setNote(w.signed(sequenced)) }, "tiles are not those"},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			onEachEngine(t, func(t *testing.T, plain world) {
				w := write(t, plain)
				l := w.log(w.db, nil)
				c.alter(w)
				if n, err := l.Sequence(t.Context()); n != 0 || l.Err() == nil || !strings.Contains(l.Alarm(), c.what) {
					t.Errorf("sequenced %d, %v, and the alarm is %q, want %q", n, err, l.Alarm(), c.what)
				}
			})
		})
	}
}

func TestALogWhoseTilesWereAlteredIsNotTakenUp(t *testing.T) {
	onEachEngine(t, func(t *testing.T, plain world) {
		w := write(t, plain)
		for _, alter := range []func(){
			func() { w.flip("log_tile", "data", "level = 0 AND idx = 1") },
			func() { w.sql(`DELETE FROM log_tile WHERE level = 1`) },
			func() { w.flip("log_head", "note", "one = 1") },
		} {
			alter()
			if _, err := eventlog.Open(t.Context(), w.db, eventlog.Options{Origin: origin}); mayfly.KindOf(err) != mayfly.Unavailable {
				t.Errorf("opened: %v", err)
			}
			w.restore()
		}
		w.log(w.db, nil)
	})
}

// A record can be under a checkpoint, even another process's, before the one
// that wrote it gets to say that it was acknowledged.
func TestALateAcknowledgementIsNoAlarm(t *testing.T) {
	onEachEngine(t, func(t *testing.T, w world) {
		db := w.open()
		now := time.Now()
		clock := func() time.Time { now = now.Add(time.Millisecond); return now }
		l, other := w.log(db, clock), w.log(db, clock)
		late := func(by *eventlog.Log, wait time.Duration) {
			recs := w.record(db, nil, 30)
			w.sequence(by)
			now = now.Add(wait)
			for _, rec := range recs {
				l.Acknowledged(rec)
			}
			for range 3 {
				now = now.Add(2 * time.Second)
				w.sequence(l)
			}
		}
		for _, by := range []*eventlog.Log{l, other} {
			for _, wait := range []time.Duration{0, time.Second, time.Minute} {
				late(by, wait)
			}
		}
		w.record(db, l, 30)
		w.sequence(other)
		now = now.Add(time.Minute)
		w.sequence(l)
		if l.Err() != nil {
			t.Errorf("alarm: %s", l.Alarm())
		}
	})
}
