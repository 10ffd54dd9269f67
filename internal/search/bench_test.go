package search

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/eventlog"
	"github.com/mayfly-id/mayfly/internal/store"
)

// BenchmarkSearch is the first page of a hundred out of MAYFLY_EVENTS records (a
// hundred thousand, unless it says otherwise) on SQLite: the 95th percentile over
// questions that are drawn: rare names, common ones, and two that never meet.
// MAYFLY_SEARCH_DIR keeps the store for the next run.
func BenchmarkSearch(b *testing.B) {
	events := 100_000
	if text := os.Getenv("MAYFLY_EVENTS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			b.Fatal(err)
		}
		events = n
	}
	dir := os.Getenv("MAYFLY_SEARCH_DIR")
	if dir == "" {
		dir = b.TempDir()
	}
	ctx := context.Background()
	db, err := store.Open(ctx, store.Options{DSN: "sqlite://" + filepath.Join(dir, "mayfly.db"), Node: "bench"})
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	log, err := eventlog.Open(ctx, db, eventlog.Options{Origin: "mayfly.test/log"})
	if err != nil {
		b.Fatal(err)
	}
	x := New(db, slog.New(slog.DiscardHandler), nil)
	fill(b, db, log, x, events)

	draw := rand.New(rand.NewPCG(1, 2))
	question := func() Query {
		q := Query{Limit: 100}
		switch draw.IntN(6) {
		case 0:
			q.Human = fmt.Sprintf("human-%d", draw.IntN(1000))
		case 1:
			q.Human, q.Target = fmt.Sprintf("human-%d", draw.IntN(1000)), fmt.Sprintf("target-%d", draw.IntN(20))
		case 2:
			q.Target, q.Tool = fmt.Sprintf("target-%d", draw.IntN(20)), fmt.Sprintf("tool-%d", draw.IntN(100))
		case 3:
			q.Term, q.Label = "policy", "rare"
		case 4: // each is in a third of all records, and they are never together
			q.Label, q.Kind = "untrusted", "call.ended"
		case 5:
			q.Agent = string(taskNumber(draw.IntN(events/50 + 1)))
		}
		return q
	}
	var took []time.Duration
	b.ResetTimer()
	for range max(b.N, 200) {
		start := time.Now()
		if _, err := x.Search(ctx, question(), nil); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)*95/100].Microseconds())/1000, "p95-ms")
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(0, "ns/op")
}

func taskNumber(n int) mayfly.TaskID { return mayfly.TaskID(fmt.Sprintf("task_%026d", n)) }

// fill makes records and waits until all of them can be found.
func fill(b *testing.B, db *store.DB, log *eventlog.Log, x *Index, events int) {
	b.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	head, err := db.Head(ctx)
	if err != nil {
		b.Fatal(err)
	}
	go x.Run(ctx)
	draw := rand.New(rand.NewPCG(3, 4))
	start := time.Now()
	at := time.Now().Add(-240 * time.Hour)
	for made := int(head.Size); made < events; {
		var pending []*store.Pending
		for range 2000 {
			who := mayfly.Subject{Kind: mayfly.Human, ID: fmt.Sprintf("human-%d", draw.IntN(1000))}
			task := taskNumber(made / 50)
			var e mayfly.Event
			if made%3 == 2 {
				e = mayfly.CallEnded{Decision: fmt.Sprint("dec_", made-1), Task: task, Human: who.ID, Outcome: "answered", Status: 200}
			} else {
				d := mayfly.CallDecided{
					Decision: mayfly.Decision{ID: fmt.Sprint("dec_", made), Verdict: mayfly.Allow}, Task: task, Root: who, Surface: "mcp",
					Target: fmt.Sprintf("target-%d", draw.IntN(20)), Action: fmt.Sprintf("tool-%d", draw.IntN(100)), Snapshot: &mayfly.Snapshot{V: 1},
				}
				if made%3 == 1 {
					d.Snapshot.Labels = []string{"untrusted"}
				}
				if draw.IntN(1000) == 0 {
					d.Snapshot.Labels = append(d.Snapshot.Labels, "rare")
				}
				if draw.IntN(20) == 0 {
					d.Decision.Verdict, d.Decision.Term = mayfly.Deny, mayfly.TermPolicy
				}
				e = d
			}
			rec, err := db.Prepare(ctx, at.Add(time.Duration(made)*80*time.Millisecond), "bundle", e)
			if err != nil {
				b.Fatal(err)
			}
			pending = append(pending, db.Submit(ctx, rec, func(*store.Tx) {}))
			made++
		}
		for _, p := range pending {
			if err := p.Wait(); err != nil {
				b.Fatal(err)
			}
		}
		for {
			if n, err := log.Sequence(ctx); err != nil {
				b.Fatal(err)
			} else if n == 0 {
				break
			}
		}
	}
	written := time.Since(start)
	for {
		now, err := db.Sink(ctx, name)
		if err != nil {
			b.Fatal(err)
		}
		if now+1 >= int64(events) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if int(head.Size) < events {
		b.Logf("written in %s, found after %s: %.0f records/s", written, time.Since(start), float64(events-int(head.Size))/time.Since(start).Seconds())
	}
}
