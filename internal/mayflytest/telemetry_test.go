package mayflytest_test

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-id/mayfly/internal/mayflytest"
	"github.com/mayfly-id/mayfly/internal/signals"
)

// waitForCollector is longer than the pause after a failure.
const waitForCollector = 30 * time.Second

// told is a span or a log record, as a collector has understood it.
type told struct {
	What, Service, Name, Trace, Span, Parent, Status string
	Start, End                                       uint64
	Attributes                                       map[string]any
}

// collector is a collector of OpenTelemetry's in a process of its own, and a proxy
// before it that can be down.
type collector struct {
	url string

	mu    sync.Mutex // guards the fields below
	down  bool
	tries int
	told  []told
}

func newCollector(t *testing.T) *collector {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), peerInGo(t, "otlpsink")) // killed when the test is over
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	if !lines.Scan() {
		t.Fatal("the collector says nothing")
	}
	origin, err := url.Parse(lines.Text())
	must(t, err)
	c := &collector{}
	var reading sync.WaitGroup
	reading.Go(func() {
		for lines.Scan() {
			var one told
			if err := json.Unmarshal(lines.Bytes(), &one); err != nil {
				t.Error(err)
				return
			}
			c.mu.Lock()
			c.told = append(c.told, one)
			c.mu.Unlock()
		}
	})
	t.Cleanup(func() {
		reading.Wait()
		_ = cmd.Wait() // it was killed
	})
	proxy := httputil.NewSingleHostReverseProxy(origin)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		down := c.down
		c.tries++
		c.mu.Unlock()
		if down {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	c.url = server.URL
	return c
}

func (c *collector) of(what string) (list []told) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, one := range c.told {
		if one.What == what {
			list = append(list, one)
		}
	}
	return list
}

// One call is one trace: the agent's span, the gateway's below it, and the target's
// below that; also where the agent began none. A collector that was down misses
// nothing, and is told nothing that was in a call.
func TestACallIsOneTraceFromTheAgentToTheTarget(t *testing.T) {
	t.Parallel()
	const trace, span = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	c := newCollector(t)
	c.down = true
	n := mayflytest.New(t, mayflytest.Options{})
	x := signals.NewExports(signals.ExportOptions{
		DB: n.DB, Issuer: n.Issuer, Origin: n.Log.Origin(), Version: "test",
		Exports: func() []signals.Export { return []signals.Export{{Name: "otel", Format: signals.OTLP, URL: c.url}} },
	})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { x.Run(ctx) })
	defer running.Wait()
	defer cancel()

	session := n.Open(n.Opening("mcp:bank:pay_invoice", "http:orders:GET:/v1/*"))
	get := func(path string, headers ...string) mayflytest.Seen {
		t.Helper()
		before := len(n.Orders.Requests())
		n.DoAs(session, n.Request(http.MethodGet, "/http/orders"+path, nil, headers...))
		if seen := n.Orders.Requests(); len(seen) > before {
			return seen[before]
		}
		return mayflytest.Seen{}
	}
	asked := get("/v1/canary-7f3a", "Traceparent", "00-"+trace+"-"+span+"-01", "Tracestate", "a=1", "Tracestate", "b=2", "Baggage", "user=alice")
	own := get("/v1/own", "Tracestate", "a=1")
	broken := get("/v1/broken", "Traceparent", "00-"+trace+"-"+span+"-01-x", "Tracestate", strings.Repeat("a", 600))
	unsampled := get("/v1/unsampled", "Traceparent", "00-"+trace+"-"+span+"-00")
	get("/refused", "Traceparent", "00-"+trace+"-"+span+"-01")
	if _, err := n.CallTool(session, "pay_invoice", map[string]any{"amount": 20, "vendor": "canary-7f3a"}); err != nil {
		t.Fatal(err)
	}

	// What the target was told.
	parent := func(seen mayflytest.Seen) (string, string, string) {
		t.Helper()
		parts := strings.Split(seen.Header.Get("Traceparent"), "-")
		if len(parts) != 4 || parts[0] != "00" {
			t.Fatalf("the target was told %q", parts)
		}
		return parts[1], parts[2], parts[3]
	}
	gotTrace, gotSpan, flags := parent(asked)
	if gotTrace != trace || gotSpan == span || flags != "01" || asked.Header.Get("Tracestate") != "a=1,b=2" || asked.Header.Get("Baggage") != "" {
		t.Errorf("the target was told %v", asked.Header)
	}
	ownTrace, ownSpan, _ := parent(own)
	if ownTrace == trace || own.Header.Get("Tracestate") != "" {
		t.Errorf("a trace of its own: %v", own.Header)
	}
	if brokenTrace, _, _ := parent(broken); brokenTrace == trace || broken.Header.Get("Tracestate") != "" {
		t.Errorf("a trace that is none was continued: %v", broken.Header)
	}
	if gotTrace, _, flags := parent(unsampled); gotTrace != trace || flags != "00" {
		t.Errorf("what is not sampled: %v", unsampled.Header)
	}

	// What the collector is told, once it is there.
	n.Eventually("the collector was tried", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.tries > 0
	})
	c.mu.Lock()
	c.down = false
	c.mu.Unlock()
	records := n.Records()
	mayflytest.Eventually(t, waitForCollector, "everything is told", func() bool { return len(c.of("log")) >= len(records) && len(c.of("span")) >= 5 })
	spans := map[string]told{}
	for _, s := range c.of("span") {
		spans[s.Span] = s
		if s.Service != "mayfly" || s.End < s.Start || s.Start == 0 || s.Attributes["mayfly.task"] != string(session.Task()) {
			t.Errorf("a span says %+v", s)
		}
		if s.Status == "Error" {
			if s.Trace != trace || s.Parent != span || s.Attributes["mayfly.term"] == "" || s.Name != "GET orders" {
				t.Errorf("the refusal's span says %+v", s)
			}
		}
		if s.Name == "tools/call pay_invoice" && (s.Attributes["gen_ai.tool.name"] != "pay_invoice" || s.Attributes["mcp.method.name"] != "tools/call" || s.Parent != "") {
			t.Errorf("the tool's span says %+v", s)
		}
	}
	if s := spans[gotSpan]; s.Trace != trace || s.Parent != span || s.Status != "Unset" || s.Attributes["http.response.status_code"] != float64(200) {
		t.Errorf("the span that the target's hang on says %+v", s)
	}
	if s := spans[ownSpan]; s.Trace != ownTrace || s.Parent != "" {
		t.Errorf("the span of a trace of its own says %+v", s)
	}
	if _, id, _ := parent(unsampled); spans[id].Span != "" || len(spans) != 5 {
		t.Errorf("%d spans, %+v", len(spans), spans)
	}
	for i, l := range c.of("log") {
		if i < len(records) && (l.Name != "mayfly."+records[i].Kind || l.Attributes["mayfly.log.record"] != records[i].ID || l.Start != uint64(records[i].Time.UnixNano())) {
			t.Errorf("record %d is told as %+v", i, l)
		}
	}
	said, err := json.Marshal(c.told)
	must(t, err)
	for _, secret := range []string{"canary-7f3a", "eyJ", "Bearer"} {
		if strings.Contains(string(said), secret) {
			t.Errorf("%q was told", secret)
		}
	}
}
