// Package metrics says how the server does, for Prometheus. What was decided is
// counted from the log, so it is what can be proven; how things stand is read from
// the store when it is asked for. No label holds an id of anybody's or anything's.
// Start at [New]; the metrics are listed in docs/operating.md.
package metrics

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/store"
)

// Options are what metrics are made of.
type Options struct {
	DB     *store.DB
	Ready  func(context.Context) error // nil while this node may act
	Alarm  func() string               // what the log found altered, "" while all is well
	Logger *slog.Logger
}

// Metrics are one node's.
type Metrics struct {
	o        Options
	registry *prometheus.Registry

	requests  *prometheus.HistogramVec
	records   *prometheus.CounterVec
	decisions *prometheus.CounterVec

	counting sync.Mutex // guards the field below
	counted  int64      // position in the log up to which records are counted; -1 before the first
}

// New makes metrics. Records are counted from the end of the log as it is now.
func New(ctx context.Context, o Options) (*Metrics, error) {
	head, err := o.DB.Head(ctx)
	if err != nil {
		return nil, err
	}
	m := &Metrics{
		o: o, registry: prometheus.NewRegistry(), counted: head.Size - 1,
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "mayfly_request_duration_seconds", Help: "How long requests took, by route and status.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10, 60},
		}, []string{"route", "code"}),
		records: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_records_total", Help: "Records in the log since this process started, by kind. Every node counts all of them.",
		}, []string{"kind"}),
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mayfly_decisions_total", Help: "Decided calls since this process started, by the term that refused. Every node counts all of them.",
		}, []string{"term"}),
	}
	for _, c := range []prometheus.Collector{
		m.requests, (*counts)(m), (*standing)(m), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	} {
		if err := m.registry.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// Request notes that a request to a route was answered.
func (m *Metrics) Request(route string, code int, took time.Duration) {
	m.requests.WithLabelValues(route, strconv.Itoa(code)).Observe(took.Seconds())
}

// Handler serves /metrics.
func (m *Metrics) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{ErrorHandling: promhttp.HTTPErrorOnError, Timeout: scrapeWithin}))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// A page in a browser of this machine may have a name of its own lead here.
		if !isLoopback(r.Host) {
			http.Error(w, "ask for it by a loopback address", http.StatusForbidden)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// isLoopback reports whether a Host header is of this machine alone.
func isLoopback(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// scrapeWithin is how long one answer may take.
const scrapeWithin = 10 * time.Second

// counts are the counters over the log, brought up to date when they are asked for.
type counts Metrics

// Describe says which there are.
func (c *counts) Describe(out chan<- *prometheus.Desc) {
	c.records.Describe(out)
	c.decisions.Describe(out)
}

// countBatch is how many records are read at once, and countMost how many before
// one answer: a process that was never asked catches up over several.
const (
	countBatch = 500
	countMost  = 100_000
)

// Collect counts what is new in the log.
func (c *counts) Collect(out chan<- prometheus.Metric) {
	if err := c.count(); err != nil {
		c.o.Logger.Warn("the log cannot be counted just now", "error", err)
		out <- prometheus.NewInvalidMetric(prometheus.NewDesc("mayfly_records_total", "Records in the log.", nil, nil), err)
		return
	}
	c.records.Collect(out)
	c.decisions.Collect(out)
}

func (c *counts) count() error {
	c.counting.Lock()
	defer c.counting.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), scrapeWithin/2)
	defer cancel()
	for range countMost / countBatch {
		rows, err := c.o.DB.EventsAfter(ctx, c.counted, countBatch)
		if err != nil || len(rows) == 0 {
			return err
		}
		for i := range rows {
			c.records.WithLabelValues(rows[i].Kind).Inc()
			if rows[i].Kind == (mayfly.CallDecided{}).Kind() {
				c.decisions.WithLabelValues(string(rows[i].Term())).Inc()
			}
		}
		c.counted = *rows[len(rows)-1].Position
	}
	return nil
}

// standing is how things stand when it is asked for.
type standing Metrics

var (
	up          = desc("mayfly_ready", "1 while this node may act, 0 while it refuses everything.")
	altered     = desc("mayfly_log_alarm", "1 once the log found something altered.")
	tasks       = desc("mayfly_tasks", "Tasks by state.", "state")
	leases      = desc("mayfly_leases", "Credentials on loan by state; stuck ones are among those that are ending.", "state")
	approvals   = desc("mayfly_approvals_waiting", "Requests that wait for a human.")
	size        = desc("mayfly_log_records", "Records under the log's newest checkpoint.")
	lag         = desc("mayfly_log_lag_seconds", "Age of the oldest record that has no place in the log yet; 0 if there is none.")
	anchored    = desc("mayfly_log_anchored_records", "Records under the newest checkpoint that enough witnesses have cosigned.")
	notAnchored = desc("mayfly_log_unanchored_seconds", "For how long nothing newer was cosigned although it should be; 0 while all is well.")
	behind      = desc("mayfly_reader_lag_records", "How many records a reader of the log has yet to read.", "reader")
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

// Describe says which there are.
func (s *standing) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{up, altered, tasks, leases, approvals, size, lag, anchored, notAnchored, behind} {
		out <- d
	}
}

// Collect reads how things stand. Where the store does not answer, what is known
// without it is still said.
func (s *standing) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeWithin/2)
	defer cancel()
	say := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	say(up, one(s.o.Ready(ctx) == nil))
	say(altered, one(s.o.Alarm() != ""))
	now := time.Now()
	n, err1 := s.o.DB.Standing(ctx, now)
	head, err2 := s.o.DB.Head(ctx)
	anchor, err3 := s.o.DB.Anchor(ctx)
	waiting, err4 := s.o.DB.Unsequenced(ctx, 1)
	sinks, err5 := s.o.DB.Sinks(ctx)
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		s.o.Logger.Warn("how things stand cannot be read just now", "error", err)
		return
	}
	say(tasks, float64(n.Live), "live")
	say(tasks, float64(n.Retiring), "retiring")
	say(leases, float64(n.Lent), "lent")
	say(leases, float64(n.Ending), "ending")
	say(leases, float64(n.Stuck), "stuck")
	say(approvals, float64(n.Waiting))
	say(size, float64(head.Size))
	oldest := 0.0
	for _, run := range waiting {
		for _, row := range run.Rows {
			oldest = max(oldest, now.Sub(row.Time).Seconds())
		}
	}
	say(lag, oldest)
	say(anchored, float64(anchor.Size))
	if anchor.UnanchoredAt.IsZero() {
		say(notAnchored, 0)
	} else {
		say(notAnchored, max(0, now.Sub(anchor.UnanchoredAt).Seconds()))
	}
	for name, at := range sinks {
		say(behind, float64(max(0, head.Size-1-at)), name)
	}
}

func one(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
