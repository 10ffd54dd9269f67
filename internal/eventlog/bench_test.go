package eventlog_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/eventlog"
	"github.com/mayfly-id/mayfly/internal/store"
)

func BenchmarkSequence(b *testing.B) {
	for _, engine := range []string{"sqlite", "postgres"} {
		b.Run(engine, func(b *testing.B) {
			w := newWorld(b, engine)
			db := w.open()
			l := w.log(db, nil)
			w.sequence(l)
			for n := b.N; n > 0; n -= 1000 {
				w.record(db, nil, min(n, 1000))
			}
			b.ResetTimer()
			start := time.Now()
			w.sequence(l)
			b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "events/s")
		})
	}
}

func BenchmarkVerify(b *testing.B) {
	for _, engine := range []string{"sqlite", "postgres"} {
		b.Run(engine, func(b *testing.B) {
			w := newWorld(b, engine)
			db := w.open()
			l := w.log(db, nil)
			for n := b.N; n > 0; n -= 1000 {
				w.record(db, nil, min(n, 1000))
			}
			w.sequence(l)
			b.ResetTimer()
			start := time.Now()
			if r, err := eventlog.Verify(b.Context(), db); err != nil || !r.OK() {
				b.Fatal(r, err)
			}
			b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "events/s")
		})
	}
}

// BenchmarkSustained commits ten thousand records a second for ten seconds, in
// bursts of a hundred, while the log runs: how many it keeps up with, and how long a
// committed record waits for its checkpoint.
func BenchmarkSustained(b *testing.B) {
	const perBurst, bursts, every = 100, 1000, 10 * time.Millisecond
	for range b.N {
		w := newWorld(b, "sqlite")
		db := w.open()
		l := w.log(db, nil)
		w.sequence(l)
		head, err := db.Head(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		first := head.Size
		ctx, cancel := context.WithCancel(b.Context())
		var running sync.WaitGroup
		running.Go(func() {
			if err := l.Run(ctx); err != nil {
				b.Error(err)
			}
		})

		committed := make([]time.Time, 0, perBurst*bursts)
		start := time.Now()
		var lags []time.Duration
		covered := 0
		look := func() {
			head, err := db.Head(ctx)
			if err != nil {
				b.Error(err)
				return
			}
			for now := time.Now(); covered < min(int(head.Size-first), len(committed)); covered++ {
				lags = append(lags, now.Sub(committed[covered]))
			}
		}
		for i := range bursts {
			var pending []*store.Pending
			for n := range perBurst {
				rec, err := db.Prepare(ctx, time.Now(), "bundle", mayfly.CallEnded{Decision: fmt.Sprint("dec_", i, "_", n), Outcome: "answered", Status: 200})
				if err != nil {
					b.Fatal(err)
				}
				pending = append(pending, db.Submit(ctx, rec, func(*store.Tx) {}))
			}
			for _, p := range pending {
				if err := p.Wait(); err != nil {
					b.Fatal(err)
				}
				committed = append(committed, time.Now())
			}
			look()
			if early := time.Until(start.Add(time.Duration(i+1) * every)); early > 0 {
				time.Sleep(early)
			}
		}
		took := time.Since(start)
		for deadline := time.Now().Add(10 * time.Second); covered < len(committed) && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			look()
		}
		cancel()
		running.Wait()
		if covered < len(committed) {
			b.Fatalf("%d of %d records are under a checkpoint", covered, len(committed))
		}
		slices.Sort(lags)
		b.ReportMetric(float64(len(committed))/took.Seconds(), "events/s")
		b.ReportMetric(float64(lags[len(lags)*99/100].Milliseconds()), "lag-p99-ms")
	}
}

func BenchmarkProve(b *testing.B) {
	w := newWorld(b, "sqlite")
	db := w.open()
	l := w.log(db, nil)
	const records = 20_000
	for range records / 1000 {
		w.record(db, nil, 1000)
	}
	w.sequence(l)
	from := eventlog.Stored(db)
	b.ResetTimer()
	for i := range b.N {
		if _, err := eventlog.Prove(b.Context(), l.VKey(), int64(i*7919%records), from); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkVerifyFiles is how fast an archive is checked, entry by entry.
func BenchmarkVerifyFiles(b *testing.B) {
	w := newWorld(b, "sqlite")
	db := w.open()
	l := w.log(db, nil)
	const records = 100_000
	for range records / 1000 {
		w.record(db, nil, 1000)
	}
	w.sequence(l)
	dir := b.TempDir()
	if _, err := eventlog.Export(b.Context(), eventlog.Stored(db), dir); err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	for range b.N {
		if _, err := eventlog.VerifyFiles(b.Context(), eventlog.Archived(dir), l.VKey()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(records)*float64(b.N)/b.Elapsed().Seconds(), "leaves/s")
}
