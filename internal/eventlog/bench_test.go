package eventlog_test

import (
	"testing"
	"time"

	"github.com/mayfly-id/mayfly/internal/eventlog"
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
