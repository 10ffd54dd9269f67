package signals_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ncruces/go-sqlite3/driver"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/signals"
)

// calls are n decisions on calls, one after the other.
func calls(n int) []mayfly.Event {
	events := make([]mayfly.Event, n)
	for i := range events {
		events[i] = decided(mayfly.Decision{ID: fmt.Sprintf("dec_%d", i), Verdict: mayfly.Allow}, "pay_invoice")
	}
	return events
}

// sequences are the positions of lines; a line that is no event is -1.
func sequences(t testing.TB, lines [][]byte) []int64 {
	t.Helper()
	list := make([]int64, len(lines))
	for i, line := range lines {
		list[i] = -1
		if bytes.HasPrefix(line, []byte("{")) && bytes.HasSuffix(line, []byte("}")) {
			list[i] = viewOf(t, line).Metadata.Sequence
		}
	}
	return list
}

// upTo is 0 to last.
func upTo(last int64) []int64 {
	list := make([]int64, last+1)
	for i := range list {
		list[i] = int64(i)
	}
	return list
}

// moveBack puts the position of an export to what it was before a crash.
func (l *ledger) moveBack(name string, to int64) {
	l.t.Helper()
	db, err := driver.Open("file:" + l.path)
	if err != nil {
		l.t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec("UPDATE sink SET position = ? WHERE name = ?", to, "export:"+name); err != nil {
		l.t.Fatal(err)
	}
}

// A crash after lines were written and before that was noted writes them again,
// under the same ids and in order.
func TestACrashAfterWritingTellsTheSameAgain(t *testing.T) {
	l := newLedger(t)
	l.add(calls(20)...)
	path := filepath.Join(t.TempDir(), "ocsf.jsonl")
	first := l.toFile(path, 20)
	l.moveBack("file", 14)
	l.add(calls(3)...)
	lines := l.toFile(path, 23)
	want := append(upTo(20), 15, 16, 17, 18, 19, 20, 21, 22, 23)
	if got := sequences(t, lines); !slices.Equal(got, want) {
		t.Fatalf("the order is %v", got)
	}
	for i := range 6 {
		if !bytes.Equal(lines[21+i], first[15+i]) {
			t.Errorf("the second time it is\n%s\nnot\n%s", lines[21+i], first[15+i])
		}
	}
}

// A line that a crash has torn stays alone: the next begins on its own.
func TestATornLineIsEnded(t *testing.T) {
	l := newLedger(t)
	l.add(calls(5)...)
	path := filepath.Join(t.TempDir(), "ocsf.jsonl")
	l.toFile(path, 5)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, info.Size()-100); err != nil {
		t.Fatal(err)
	}
	l.moveBack("file", 3)
	if got, want := sequences(t, l.toFile(path, 5)), []int64{0, 1, 2, 3, 4, -1, 4, 5}; !slices.Equal(got, want) {
		t.Errorf("the lines are %v, want %v", got, want)
	}
}

// Where the file is moved away the next lines go into a new one; where it is
// removed, too. None is lost and none comes twice.
func TestARotatedFileIsMadeAnew(t *testing.T) {
	l := newLedger(t)
	l.add(calls(5)...)
	path := filepath.Join(t.TempDir(), "ocsf.jsonl")
	step := 0
	l.export(signals.Export{Name: "file", File: path}, func() bool {
		if l.at("file") < int64(5*(step+1)) {
			return false
		}
		switch step {
		case 0:
			if err := os.Rename(path, path+".1"); err != nil {
				t.Fatal(err)
			}
		case 1:
			if err := errors.Join(os.Rename(path, path+".2"), os.WriteFile(path, nil, 0o600)); err != nil {
				t.Fatal(err)
			}
		case 2:
			if err := errors.Join(os.Link(path, path+".3"), os.Remove(path)); err != nil {
				t.Fatal(err)
			}
		default:
			return true
		}
		step++
		l.add(calls(5)...)
		return false
	})
	var lines [][]byte
	for _, name := range []string{path + ".1", path + ".2", path + ".3", path} {
		lines = append(lines, linesOf(t, name)...)
	}
	if got := sequences(t, lines); !slices.Equal(got, upTo(20)) {
		t.Errorf("the order over the files is %v", got)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("others can read the file: %v %v", info.Mode(), err)
	}
}

// collector is a receiver of NDJSON, which refuses while down.
type collector struct {
	t       *testing.T
	mu      sync.Mutex // guards the fields below
	down    bool
	refused int
	most    int // bytes in one request
	lines   [][]byte
}

func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // whoever sent it has gone
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	id, at := r.Header.Get("Webhook-Id"), r.Header.Get("Webhook-Timestamp")
	if r.Header.Get("Webhook-Signature") != "v1,"+signals.Signature(mayfly.NewSecret("a secret of ours"), id, at, body) || !strings.HasPrefix(id, "msg_") {
		c.t.Errorf("it is not signed: %v", r.Header)
	}
	if r.Header.Get("Authorization") != "Bearer hunter2" || r.Header.Get("Content-Type") != "application/x-ndjson" || r.Method != http.MethodPost {
		c.t.Errorf("%s with %v", r.Method, r.Header)
	}
	if c.down {
		c.refused++
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	lines := bytes.Split(bytes.TrimSuffix(body, []byte("\n")), []byte("\n"))
	if !bytes.HasSuffix(body, []byte("\n")) || len(lines) > 500 || len(body) > 1<<20 && len(lines) > 1 {
		c.t.Errorf("%d lines of %d bytes in one request", len(lines), len(body))
	}
	c.most = max(c.most, len(body))
	c.lines = append(c.lines, lines...)
}

func (c *collector) setDown(down bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.down = down
}

func (c *collector) failures() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.refused
}

func (c *collector) export(server *httptest.Server) signals.Export {
	return signals.Export{
		Name: "http", URL: server.URL, Secret: mayfly.NewSecret("a secret of ours"), Credential: &mayfly.TargetCredential{Header: "Authorization", Value: mayfly.NewSecret("Bearer hunter2")},
	}
}

// A receiver that was down gets what it missed, in order, each line once; long
// lines go in fewer at a time.
func TestAReceiverThatWasDownMissesNothing(t *testing.T) {
	l := newLedger(t)
	c := &collector{t: t, down: true}
	server := httptest.NewServer(c)
	defer server.Close()
	l.add(calls(1200)...)
	up := false
	last := int64(1206)
	l.export(c.export(server), func() bool {
		if !up && c.failures() > 0 {
			for range 6 {
				l.add(mayfly.Alarm{What: "long", Detail: string(bytes.Repeat([]byte("x"), 400_000))})
			}
			c.setDown(false)
			up = true
		}
		return l.at("http") >= last
	})
	if got := sequences(t, c.lines); !slices.Equal(got, upTo(last)) {
		t.Errorf("%d lines came, and not in order", len(got))
	}
	if c.most < 800_000 {
		t.Errorf("no request was longer than %d bytes: the limit was never met", c.most)
	}
}

// Each export goes at its own pace: one whose receiver hangs holds up no other.
func TestAnExportThatHangsHoldsUpNoOther(t *testing.T) {
	l := newLedger(t)
	l.add(calls(10)...)
	hang := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hang }))
	defer server.Close()
	defer close(hang)
	blocked, never := io.Pipe()
	defer blocked.Close()
	list := []signals.Export{
		{Name: "http", URL: server.URL}, {Name: "out", Stdout: true}, {Name: "file", File: filepath.Join(t.TempDir(), "ocsf.jsonl")},
	}
	ctx, cancel := context.WithCancel(t.Context())
	x := signals.NewExports(signals.ExportOptions{DB: l.db, Exports: func() []signals.Export { return list }, Stdout: never})
	var ran sync.WaitGroup
	ran.Go(func() { x.Run(ctx) })
	for deadline := time.Now().Add(30 * time.Second); l.at("file") < 10; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the file waits for the others")
		}
	}
	// Neither holds up the end.
	cancel()
	ran.Wait()
	if l.at("http") != -1 || l.at("out") != -1 {
		t.Error("what was never taken is noted as written")
	}
}

// What waits for a receiver that is down is in the store and not in memory.
func TestMemoryIsFlatWhileAReceiverIsDown(t *testing.T) {
	const behind = 100_000
	l := newLedger(t)
	c := &collector{t: t, down: true}
	server := httptest.NewServer(c)
	defer server.Close()
	l.add(calls(1000)...)
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	var before, after uint64
	l.export(c.export(server), func() bool {
		switch {
		case before == 0 && c.failures() > 0:
			before = heap()
			l.add(slices.Repeat(calls(1000), behind/1000-1)...)
			before = max(before, heap()) // what adding them has left is not ours
			c.setDown(true)
		case before > 0 && c.failures() > 2:
			after = heap()
			return true
		}
		return false
	})
	if limit := before + 8<<20; after > limit {
		t.Errorf("with %d events behind the heap is %d bytes, and was %d", behind, after, before)
	}
	t.Logf("with %d events behind the heap grew from %d to %d KiB", behind, before>>10, after>>10)
}

// BenchmarkExport is how fast an export that is behind catches up, from SQLite
// into a file.
func BenchmarkExport(b *testing.B) {
	const events = 100_000
	l := newLedger(b)
	l.add(slices.Repeat(calls(1000), events/1000)...)
	b.ResetTimer()
	var took time.Duration
	for i := range b.N {
		path := filepath.Join(b.TempDir(), "ocsf.jsonl")
		name := fmt.Sprint("file", i)
		start := time.Now()
		l.export(signals.Export{Name: name, File: path}, func() bool { return l.at(name) >= events })
		took += time.Since(start)
	}
	b.ReportMetric(float64(events)*float64(b.N)/took.Seconds(), "events/s")
}
