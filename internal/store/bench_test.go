package store

import (
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/mayflytest/pgtest"
)

// BenchmarkChange is what a decision costs here: a chain of three guarded, one
// single-use mark inserted, one event of the usual size, durable. commits/op
// says how many of them share a commit.
func BenchmarkChange(b *testing.B) {
	for _, engine := range []string{"sqlite", "postgres"} {
		for _, callers := range []int{1, 8, 64} {
			b.Run(fmt.Sprintf("%s/%d", engine, callers), func(b *testing.B) {
				var dsn string
				if engine == "sqlite" {
					dsn = sqliteAddress(b)
				} else {
					dsn = pgtest.New(b, pgtest.Fsync)
				}
				db := open(b, dsn)
				root, middle := task("root"), task("middle", task("root"))
				leaf := task("leaf", root, middle)
				insert(b, db, root, middle, leaf)
				ids := leaf.Chain()
				e := mayfly.CallDecided{
					Decision: mayfly.Decision{ID: "dec_06h13b3rcf38p26qcg6qcws6ec", Verdict: mayfly.Allow, Reason: "allowed", Bundle: "bundle"},
					Task:     "leaf", Root: leaf.Root, Surface: "mcp", Target: "bank", Action: "pay_invoice", Digest: "98AiB5r4hLhrtg21vaMrU", Size: 321,
					JTI: "evt_06h13b3rcf38p26qcg6qcws6ec", Source: "192.0.2.1",
				}
				var n atomic.Int64
				commits, cpu := db.Commits(), cpuTime(b)
				b.ResetTimer()
				b.ReportAllocs()
				var all sync.WaitGroup
				for range callers {
					all.Go(func() {
						for {
							i := n.Add(1)
							if i > int64(b.N) {
								return
							}
							r, err := db.Prepare(b.Context(), now, "bundle", e)
							if err != nil {
								b.Error(err)
								return
							}
							err = db.Change(b.Context(), r, func(tx *Tx) {
								tx.ChainLive(ids, now)
								tx.Once("dpop", strconv.FormatInt(i, 36)+"-NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs", now.Add(time.Minute))
							})
							if err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				all.Wait()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "changes/s")
				b.ReportMetric(float64((cpuTime(b)-cpu).Microseconds())/float64(b.N), "cpu-µs/op")
				b.ReportMetric(float64(db.Commits()-commits)/float64(b.N), "commits/op")
			})
		}
	}
}

// cpuTime is what this process has used, which says more than the clock on a
// machine that does other things too. PostgreSQL's own is not in it.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkPrepare(b *testing.B) {
	db := open(b, sqliteAddress(b))
	e := mayfly.CallDecided{Decision: mayfly.Decision{ID: "dec", Verdict: mayfly.Allow}, Task: "leaf", Root: task("t").Root, Target: "bank"}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := db.Prepare(b.Context(), now, "bundle", e); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkTask(b *testing.B) {
	db := open(b, sqliteAddress(b))
	insert(b, db, task("t"))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := db.Task(b.Context(), "t"); err != nil {
			b.Fatal(err)
		}
	}
}
