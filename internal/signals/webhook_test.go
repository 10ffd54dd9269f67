package signals_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/eventlog"
	"github.com/mayfly-id/mayfly/internal/signals"
	"github.com/mayfly-id/mayfly/internal/store"
)

// receiver is a webhook that remembers what it was told, and refuses while down.
type receiver struct {
	t       *testing.T
	mu      sync.Mutex // guards the fields below
	down    bool
	refused int
	got     []signals.Notice
	ids     []string
}

var secret = mayfly.NewSecret("a secret of the receiver")

func (r *receiver) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	body, err := io.ReadAll(q.Body)
	if err != nil {
		r.t.Error(err)
	}
	id, at := q.Header.Get("Webhook-Id"), q.Header.Get("Webhook-Timestamp")
	if q.Header.Get("Webhook-Signature") != "v1,"+signals.Signature(secret, id, at, body) {
		r.t.Errorf("the signature of %s does not fit", id)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down {
		r.refused++
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	var n signals.Notice
	if err := json.Unmarshal(body, &n); err != nil {
		r.t.Error(err)
	}
	r.got, r.ids = append(r.got, n), append(r.ids, id)
}

func (r *receiver) setDown(down bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down = down
}

func (r *receiver) told() []signals.Notice {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]signals.Notice(nil), r.got...)
}

// A webhook is told of every approval that waits, in order, and in one notice for
// each agent; what came while it was down, or while nobody ran, it is
// told later.
func TestAWebhookIsToldOfWhatWaits(t *testing.T) {
	ctx := t.Context()
	db, err := store.Open(ctx, store.Options{DSN: "sqlite://" + t.TempDir() + "/mayfly.db", Node: "test"})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	log, err := eventlog.Open(ctx, db, eventlog.Options{Origin: "mayfly.test/log"})
	if err != nil {
		t.Fatal(err)
	}
	var loops sync.WaitGroup
	defer loops.Wait()
	stop := make(chan struct{})
	defer close(stop)
	running, cancel := contextUntil(stop)
	defer cancel()
	loops.Go(func() { log.Run(running) })

	r := &receiver{t: t}
	server := httptest.NewServer(r)
	defer server.Close()
	hooks := signals.New(signals.Options{
		DB: db, ApprovalURL: func(id string) string { return "https://mayfly.example/v1/approvals/" + id }, Hooks: func() []signals.Webhook { return []signals.Webhook{{URL: server.URL, Secret: secret}} },
	})
	ask := func(task mayfly.TaskID, ids ...string) {
		for _, id := range ids {
			rec, err := db.Prepare(ctx, time.Now(), "bundle", mayfly.ApprovalRequested{
				Approval: id, Task: task, Root: mayfly.Subject{Kind: mayfly.Human, ID: "alice"}, Profile: "invoice", What: "call",
				Grant: "mcp:bank:pay_invoice", Needs: []string{"finance"}, Decision: "dec_1", ExpiresAt: time.Now().Add(time.Minute),
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := db.Change(ctx, rec, func(*store.Tx) {}); err != nil {
				t.Fatal(err)
			}
			log.Acknowledged(rec)
		}
	}
	run := func(enough func() bool) {
		t.Helper()
		ctx, cancel := contextUntil(stop)
		var ran sync.WaitGroup
		ran.Go(func() { hooks.Run(ctx) })
		deadline := time.After(20 * time.Second)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for !enough() {
			select {
			case <-deadline:
				cancel()
				t.Fatalf("it was told %+v", r.told())
			case <-tick.C:
			}
		}
		cancel()
		ran.Wait()
	}
	// approvals are those it was told of, in the order of the first time. Where the
	// run was ended between telling and noting it down, the next tells again.
	approvals := func() (order []string) {
		for _, notice := range r.told() {
			for _, a := range notice.Approvals {
				if !slices.Contains(order, a.ID) {
					order = append(order, a.ID)
				}
			}
		}
		return order
	}

	ask("task_1", "apr_1", "apr_2")
	ask("task_2", "apr_3")
	run(func() bool { return len(approvals()) == 3 })
	for _, n := range r.told() {
		if n.Type != "approval.requested" || n.Root != "alice" || n.Approvals[0].URL != "https://mayfly.example/v1/approvals/"+n.Approvals[0].ID {
			t.Errorf("the notice is %+v", n)
		}
	}

	// What comes while nobody runs, and while the webhook is down, is told later.
	ask("task_3", "apr_4")
	r.setDown(true)
	run(func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.refused > 0
	})
	ask("task_3", "apr_5")
	r.setDown(false)
	run(func() bool { return len(approvals()) == 5 })
	order := approvals()
	for i, want := range []string{"apr_1", "apr_2", "apr_3", "apr_4", "apr_5"} {
		if order[i] != want {
			t.Fatalf("the order is %v", order)
		}
	}
	// Under one id the same is told: whoever drops what it had misses nothing.
	r.mu.Lock()
	defer r.mu.Unlock()
	under := map[string]int{}
	for i, id := range r.ids {
		first, again := under[id]
		if again && !slices.EqualFunc(r.got[first].Approvals, r.got[i].Approvals, func(a, b signals.Approval) bool { return a.ID == b.ID }) {
			t.Errorf("under %s it was told %+v and %+v", id, r.got[first], r.got[i])
		}
		if !again {
			under[id] = i
		}
	}
}

// contextUntil is a context that ends when stop is closed.
func contextUntil(stop <-chan struct{}) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		select {
		case <-stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}
