package metrics

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/eventlog"
	"github.com/mayfly-id/mayfly/internal/store"
)

// ledger is a store with a log and metrics over it.
type ledger struct {
	t     *testing.T
	db    *store.DB
	log   *eventlog.Log
	m     *Metrics
	ready error
}

func newLedger(t *testing.T) *ledger {
	t.Helper()
	l := &ledger{t: t}
	var err error
	if l.db, err = store.Open(t.Context(), store.Options{DSN: "sqlite://" + filepath.Join(t.TempDir(), "mayfly.db"), Node: "test"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.db.Close() })
	if l.log, err = eventlog.Open(t.Context(), l.db, eventlog.Options{Origin: "mayfly.test/log"}); err != nil {
		t.Fatal(err)
	}
	l.add(mayfly.ServerStarted{Node: "before"})
	l.sequence()
	l.m, err = New(t.Context(), Options{
		DB: l.db, Ready: func(context.Context) error { return l.ready }, Alarm: l.log.Alarm, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func (l *ledger) add(events ...mayfly.Event) {
	l.t.Helper()
	for _, e := range events {
		rec, err := l.db.Prepare(l.t.Context(), time.Now(), "bundle", e)
		if err == nil {
			err = l.db.Change(l.t.Context(), rec, func(*store.Tx) {})
		}
		if err != nil {
			l.t.Fatal(err)
		}
	}
}

func (l *ledger) sequence() {
	l.t.Helper()
	for {
		if n, err := l.log.Sequence(l.t.Context()); err != nil {
			l.t.Fatal(err)
		} else if n == 0 {
			return
		}
	}
}

// scrape is what Prometheus gets.
func (l *ledger) scrape() (status int, lines []string) {
	l.t.Helper()
	w := httptest.NewRecorder()
	l.m.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://127.0.0.1:8421/metrics", nil))
	text, err := io.ReadAll(w.Result().Body)
	if err != nil {
		l.t.Fatal(err)
	}
	return w.Code, strings.Split(string(text), "\n")
}

func TestWhatIsSaidIsSo(t *testing.T) {
	l := newLedger(t)
	denied := mayfly.Decision{ID: "dec_2", Verdict: mayfly.Deny, Term: mayfly.TermPolicy}
	l.add(mayfly.CallDecided{Decision: mayfly.Decision{ID: "dec_1", Verdict: mayfly.Allow}}, mayfly.CallDecided{Decision: denied}, mayfly.CallDecided{Decision: denied})
	l.sequence()
	l.add(mayfly.Alarm{What: "test"}) // has no place yet
	if err := l.db.Keep(t.Context(), func(b *store.Books) { b.MoveSink("export:siem", -1, 1) }); err != nil {
		t.Fatal(err)
	}
	l.m.Request("/v1/tasks/{id}", 200, 3*time.Millisecond)
	l.m.Request("/mcp/{target}", 403, 3*time.Second)
	status, lines := l.scrape()
	head, err := l.db.Head(t.Context())
	if err != nil || status != http.StatusOK {
		t.Fatal(status, err)
	}
	for _, want := range []string{
		"mayfly_ready 1", "mayfly_log_alarm 0", `mayfly_tasks{state="live"} 0`, `mayfly_leases{state="stuck"} 0`, "mayfly_approvals_waiting 0",
		fmt.Sprintf("mayfly_log_records %d", head.Size), "mayfly_log_anchored_records 0", "mayfly_log_unanchored_seconds 0",
		fmt.Sprintf(`mayfly_reader_lag_records{reader="export:siem"} %d`, head.Size-2),
		`mayfly_decisions_total{term=""} 1`, `mayfly_decisions_total{term="policy"} 2`, `mayfly_records_total{kind="call.decided"} 3`,
		`mayfly_request_duration_seconds_count{code="200",route="/v1/tasks/{id}"} 1`,
		`mayfly_request_duration_seconds_bucket{code="403",route="/mcp/{target}",le="2.5"} 0`,
		`mayfly_request_duration_seconds_bucket{code="403",route="/mcp/{target}",le="10"} 1`,
	} {
		if !slices.Contains(lines, want) {
			t.Errorf("it does not say %s", want)
		}
	}
	for _, line := range lines {
		// What was there before is not counted, and what has no place is not yet.
		if strings.Contains(line, "server.started") || strings.Contains(line, `kind="alarm"`) || line == "mayfly_log_lag_seconds 0" {
			t.Errorf("it says %s", line)
		}
	}
	l.sequence()
	l.ready = errors.New("cut off")
	_, lines = l.scrape()
	for _, want := range []string{"mayfly_ready 0", "mayfly_log_lag_seconds 0", `mayfly_records_total{kind="alarm"} 1`, `mayfly_records_total{kind="call.decided"} 3`} {
		if !slices.Contains(lines, want) {
			t.Errorf("later it does not say %s", want)
		}
	}

	// A store that is gone is no metrics rather than wrong ones.
	l.db.Close()
	if status, _ := l.scrape(); status != http.StatusInternalServerError {
		t.Errorf("without a store it answers %d", status)
	}
}

// A page whose name leads to this machine is told nothing.
func TestOnlyThisMachineAsks(t *testing.T) {
	l := newLedger(t)
	for host, want := range map[string]int{
		"127.0.0.1:8421": 200, "[::1]:8421": 200, "localhost:8421": 200, "localhost": 200, "127.8.8.8": 200,
		"evil.example:8421": 403, "localhost.evil.example": 403, "127.0.0.1.evil.example": 403, "10.0.0.1:8421": 403, "": 403,
	} {
		r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
		r.Host = host
		w := httptest.NewRecorder()
		l.m.Handler().ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("%q is answered with %d, want %d", host, w.Code, want)
		}
	}
}

// The table in the documentation has just the metrics there are.
func TestTheDocumentationHasEveryMetric(t *testing.T) {
	l := newLedger(t)
	l.add(mayfly.CallDecided{Decision: mayfly.Decision{ID: "dec_1", Verdict: mayfly.Allow}})
	l.sequence()
	l.m.Request("x", 200, 0)
	if err := l.db.Keep(t.Context(), func(b *store.Books) { b.MoveSink("a", -1, 1) }); err != nil {
		t.Fatal(err)
	}
	families, err := l.m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var have []string
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "mayfly_") {
			continue
		}
		name := f.GetName()
		if labels := f.GetMetric()[0].GetLabel(); len(labels) > 0 {
			var names []string
			for _, l := range labels {
				names = append(names, l.GetName())
			}
			slices.Sort(names)
			name += "{" + strings.Join(names, ",") + "}"
		}
		have = append(have, name)
	}
	page, err := os.ReadFile("../../docs/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	for _, m := range regexp.MustCompile("(?m)^\\| `(mayfly_[a-z_]+)(?:\\{([a-z,]+)\\})?` ").FindAllStringSubmatch(string(page), -1) {
		name := m[1]
		if m[2] != "" {
			labels := strings.Split(m[2], ",")
			slices.Sort(labels)
			name += "{" + strings.Join(labels, ",") + "}"
		}
		documented = append(documented, name)
	}
	slices.Sort(have)
	slices.Sort(documented)
	if !slices.Equal(have, documented) {
		t.Errorf("there are %v\nthe documentation has %v", have, documented)
	}
}
