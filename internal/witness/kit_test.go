package witness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/eventlog"
	"github.com/mayfly-id/mayfly/internal/mayflytest/cosigner"
	"github.com/mayfly-id/mayfly/internal/mayflytest/pgtest"
	"github.com/mayfly-id/mayfly/internal/store"
)

const origin = "auth.example.test/log"

// peer is a witness that is not ours, and its own words.
type peer struct{ *cosigner.Witness }

// newPeer is a witness that knows no log yet.
func newPeer(t testing.TB, name string, seed byte) peer {
	w := cosigner.New(name, seed, origin)
	t.Cleanup(w.Close)
	return peer{w}
}

// of is p as a configuration names it.
func (p peer) of(t testing.TB) Witness {
	t.Helper()
	k, err := eventlog.ParseWitnessKey(p.VKey())
	if err != nil {
		t.Fatal(err)
	}
	return Witness{Name: p.Name, URL: p.URL + "/", Key: k}
}

// down is a witness that cannot say anything useful.
func down(w http.ResponseWriter, _ *http.Request, _ string) bool {
	http.Error(w, "down for repair", http.StatusServiceUnavailable)
	return true
}

// node is one process: a store, its log, and a client that a test steps.
type node struct {
	testing.TB
	dsn    string
	db     *store.DB
	log    *eventlog.Log
	client *Client
	said   *said
	clock  *clock
}

// clock is the time of a test. It moves a little whenever it is looked at, as the
// log wants it to.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(time.Microsecond)
	return c.at
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// said is what was logged, one JSON object a line.
type said struct {
	mu    sync.Mutex
	lines []string
}

func (s *said) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, string(b))
	return len(b), nil
}

// at gives what was logged at a level, and forgets all there is.
func (s *said) at(level slog.Level) (lines []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.lines {
		if strings.Contains(l, `"level":"`+level.String()+`"`) {
			lines = append(lines, l)
		}
	}
	s.lines = nil
	return lines
}

func onEachEngine(t *testing.T, test func(t *testing.T, dsn string)) {
	t.Run("sqlite", func(t *testing.T) { test(t, "sqlite://"+filepath.Join(t.TempDir(), "mayfly.db")) })
	t.Run("postgres", func(t *testing.T) { test(t, pgtest.New(t)) })
}

// start is a process on a store, with the witnesses it has. It is stopped with
// the test, if not before.
func start(t testing.TB, dsn string, c *clock, p Policy) *node {
	t.Helper()
	n := &node{TB: t, dsn: dsn, clock: c, said: &said{}}
	logger := slog.New(slog.NewJSONHandler(n.said, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var err error
	if n.db, err = store.Open(t.Context(), store.Options{DSN: dsn, Seal: [32]byte{1, 2, 3}, Node: "test"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.stop)
	if n.log, err = eventlog.Open(t.Context(), n.db, eventlog.Options{Origin: origin, Now: c.now}); err != nil {
		t.Fatal(err)
	}
	n.client = New(Options{DB: n.db, Log: n.log, Policy: func() Policy { return p }, Logger: logger, Now: c.now})
	n.sequence()
	return n
}

func (n *node) stop() {
	if n.db.Closed() {
		return
	}
	n.client.http.CloseIdleConnections()
	if err := n.db.Close(); err != nil {
		n.Error(err)
	}
}

// record commits some events and gives them positions.
func (n *node) record(count int) {
	n.Helper()
	for range count {
		rec, err := n.db.Prepare(n.Context(), n.clock.now(), "bundle", mayfly.ServerStarted{Node: "test"})
		if err == nil {
			err = n.db.Change(n.Context(), rec, func(*store.Tx) {})
		}
		if err != nil {
			n.Fatal(err)
		}
	}
	n.sequence()
}

func (n *node) sequence() {
	n.Helper()
	for {
		took, err := n.log.Sequence(n.Context())
		if err != nil {
			n.Fatalf("%v (%v)", err, errors.Unwrap(err))
		}
		if took == 0 {
			return
		}
	}
}

func (n *node) submit() {
	n.Helper()
	if err := n.client.Submit(n.Context()); err != nil {
		n.Fatalf("%v (%v)", err, errors.Unwrap(err))
	}
}

func (n *node) head() store.Head {
	n.Helper()
	h, err := n.db.Head(n.Context())
	if err != nil {
		n.Fatal(err)
	}
	return h
}

func (n *node) anchor() store.Anchor {
	n.Helper()
	a, err := n.db.Anchor(n.Context())
	if err != nil {
		n.Fatal(err)
	}
	return a
}

// events are the bodies of all records of a kind.
func (n *node) events(kind string) (bodies []map[string]any) {
	n.Helper()
	n.sequence()
	err := eventlog.Tail(n.Context(), n.db, -1, false, func(e eventlog.Entry) error {
		if e.Kind != kind {
			return nil
		}
		var body map[string]any
		bodies = append(bodies, body)
		return json.Unmarshal(e.Body, &bodies[len(bodies)-1])
	})
	if err != nil {
		n.Fatal(err)
	}
	return bodies
}

// forge is a checkpoint of another tree with this log's name and key, as somebody
// makes it who stole them.
func (n *node) forge(of tlog.Tree) []byte {
	n.Helper()
	keys, err := n.db.Keys(n.Context(), "log")
	if err != nil || len(keys) != 1 {
		n.Fatalf("%d keys, %v", len(keys), err)
	}
	signer, err := note.NewSigner(string(keys[0].Private))
	if err != nil {
		n.Fatal(err)
	}
	signed, err := note.Sign(&note.Note{Text: fmt.Sprintf("%s\n%d\n%s\n", origin, of.N, of.Hash)}, signer)
	if err != nil {
		n.Fatal(err)
	}
	return signed
}

// submitTo hands a checkpoint to a witness without any of our code.
func submitTo(ctx context.Context, url, body string) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/add-checkpoint", strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(answer), err
}

// lone checks that one line holds all of want.
func lone(t testing.TB, lines []string, want ...string) {
	t.Helper()
	if len(lines) != 1 || slices.ContainsFunc(want, func(w string) bool { return !strings.Contains(lines[0], w) }) {
		t.Errorf("logged %q; want one line with %q", lines, want)
	}
}
