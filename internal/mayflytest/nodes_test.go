package mayflytest_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/client"
	"github.com/mayfly-id/mayfly/internal/eventlog"
	"github.com/mayfly-id/mayfly/internal/mayflytest"
)

// cluster is two nodes of one installation. The second reaches the database
// through a proxy.
type cluster struct {
	a, b *mayflytest.System
	way  *mayflytest.Proxy
}

func newCluster(t *testing.T, second mayflytest.Options) cluster {
	t.Helper()
	dsn := mayflytest.Postgres(t)
	a := mayflytest.New(t, mayflytest.Options{DSN: dsn})
	way := mayflytest.NewProxy(t, dsn)
	second.DSN, second.Beside = way.DSN, a
	return cluster{a, mayflytest.New(t, second), way}
}

// on is the session of s's task at another node.
func on(t *testing.T, node *mayflytest.System, s *client.Session) *client.Session {
	t.Helper()
	token, err := s.Token(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	return node.Client().Resume(token, nil)
}

// knock is one call of the upstream through node, which must answer within
// limit; 0 is no answer.
func knock(t *testing.T, node *mayflytest.System, s *client.Session, path string, limit time.Duration) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, node.Issuer+"/http/orders"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.Transport().RoundTrip(r)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

// untilDenied knocks until node answers status, and gives how long that took.
func untilDenied(t *testing.T, node *mayflytest.System, s *client.Session, status int) time.Duration {
	t.Helper()
	from := time.Now()
	for {
		got := knock(t, node, s, "/v1/orders", 5*time.Second)
		took := time.Since(from)
		if got == status {
			return took
		}
		if got != http.StatusOK || took > 5*time.Second {
			t.Fatalf("after %s the other node answers %d, want %d", took, got, status)
		}
	}
}

func TestARevocationOnOneNodeIsDeniedOnTheOtherWithinASecond(t *testing.T) {
	c := newCluster(t, mayflytest.Options{})
	operator := c.a.Operator()
	var took []time.Duration
	for range 50 {
		s := c.a.Open(c.a.Opening("http:orders:GET:/v1/*"))
		there := on(t, c.b, s)
		if got := knock(t, c.b, there, "/v1/orders", 5*time.Second); got != http.StatusOK {
			t.Fatalf("the other node answers %d before anything was revoked", got)
		}
		if _, err := operator.Revoke(t.Context(), s.Task()); err != nil {
			t.Fatal(err)
		}
		if got := knock(t, c.a, s, "/v1/orders", 5*time.Second); got == http.StatusOK {
			t.Error("the node that revoked still allows")
		}
		took = append(took, untilDenied(t, c.b, there, http.StatusUnauthorized))
	}
	slices.Sort(took)
	t.Logf("from the answer of revoke to a denial on the other node: median %s, 99th %s, longest %s",
		took[len(took)/2], took[len(took)*99/100], took[len(took)-1])
	if longest := took[len(took)-1]; longest > time.Second {
		t.Errorf("a revocation took %s to reach the other node", longest)
	}
}

// S-79 across nodes.
func TestACompromisedKeyIsRefusedOnTheOtherNodeWithinASecond(t *testing.T) {
	c := newCluster(t, mayflytest.Options{})
	s := c.a.Open(c.a.Opening("http:orders:GET:/v1/*"))
	there := on(t, c.b, s)
	if got := knock(t, c.b, there, "/v1/orders", 5*time.Second); got != http.StatusOK {
		t.Fatalf("%d before", got)
	}
	token, err := s.Token(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	head, err := base64.RawURLEncoding.DecodeString(strings.Split(token.Text.Reveal(), ".")[0])
	if err != nil {
		t.Fatal(err)
	}
	var header struct{ Kid string }
	if err := json.Unmarshal(head, &header); err != nil {
		t.Fatal(err)
	}
	if err := c.a.Operator().CompromiseKey(t.Context(), header.Kid); err != nil {
		t.Fatal(err)
	}
	took := untilDenied(t, c.b, there, http.StatusUnauthorized)
	t.Logf("S-79: the key was refused on the other node after %s", took)
	if took > time.Second {
		t.Errorf("the other node took tokens of the key for %s", took)
	}
	// A new key signs, on both nodes.
	for _, node := range []*mayflytest.System{c.a, c.b} {
		c.a.Eventually("tokens of the new key work", func() bool {
			s, err := node.Client().Open(t.Context(), node.Opening("http:orders:GET:/v1/*"), nil)
			return err == nil && knock(t, c.a, on(t, c.a, s), "/v1/orders", 5*time.Second) == http.StatusOK
		})
	}
}

func TestNarrowingOnOneNodeHoldsOnTheOther(t *testing.T) {
	c := newCluster(t, mayflytest.Options{})
	s := c.a.Open(c.a.Opening("http:orders:GET:/v1/*", "mcp:bank:list_invoices"))
	there := on(t, c.b, s)
	if got := knock(t, c.b, there, "/v1/orders", 5*time.Second); got != http.StatusOK {
		t.Fatalf("%d before", got)
	}
	if _, err := s.API().Narrow(t.Context(), s.Task(), mayflytest.Grants(t, "mcp:bank:list_invoices")); err != nil {
		t.Fatal(err)
	}
	took := untilDenied(t, c.b, there, http.StatusForbidden)
	t.Logf("narrowed on the other node after %s", took)
	if took > time.Second {
		t.Errorf("the other node allowed what was narrowed away for %s", took)
	}
	if r, err := c.b.CallTool(there, "list_invoices", nil); err != nil || r.IsError {
		t.Errorf("what was left is denied: %v %+v", err, r)
	}
}

// Cut off or left without a word, a node denies everything within three
// seconds and cuts what is open; what was revoked meanwhile never works again,
// and the node comes back by itself.
func TestS74ANodeCutOffFromTheDatabaseDeniesEverything(t *testing.T) {
	for name, fail := range map[string]func(*mayflytest.Proxy){"cut": (*mayflytest.Proxy).Cut, "silent": (*mayflytest.Proxy).Pause} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, mayflytest.Options{})
			opening := func() client.ExchangeRequest {
				return c.a.Opening("http:orders:GET:/v1/*", "http:orders:GET:/stream", "mcp:bank:list_invoices")
			}
			kept, revoked := on(t, c.b, c.a.Open(opening())), on(t, c.b, c.a.Open(opening()))
			for _, s := range []*client.Session{kept, revoked} {
				if got := knock(t, c.b, s, "/v1/orders", 5*time.Second); got != http.StatusOK {
					t.Fatalf("%d before", got)
				}
			}
			stream := listen(t, c.b, kept)
			session, err := c.b.MCP(t.Context(), kept, nil) // a list is passed without a decision: only the lease holds it back
			if err != nil {
				t.Fatal(err)
			}
			defer session.Close()
			if _, err := session.ListTools(t.Context(), nil); err != nil {
				t.Fatalf("a list before: %v", err)
			}

			from := time.Now()
			fail(c.way)
			if _, err := c.a.Operator().Revoke(t.Context(), revoked.Task()); err != nil {
				t.Fatal(err)
			}
			var called, passed time.Duration // when it last worked
			var probing sync.WaitGroup
			probing.Go(func() {
				for time.Since(from) < 4*time.Second {
					if knock(t, c.b, kept, "/v1/orders", 5*time.Second) == http.StatusOK {
						called = time.Since(from)
					}
				}
			})
			probing.Go(func() {
				for time.Since(from) < 4*time.Second {
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					if _, err := session.ListTools(ctx, nil); err == nil {
						passed = time.Since(from)
					}
					cancel()
				}
			})
			probing.Wait()
			ended := stream.last()
			t.Logf("last call allowed after %s, last list after %s, last event after %s", called, passed, ended.Sub(from))
			if called > 3*time.Second || passed > 3*time.Second || ended.Sub(from) > 3*time.Second || !stream.over() {
				t.Errorf("a node that is cut off went on; the stream is over: %t", stream.over())
			}
			if got := knock(t, c.b, kept, "/v1/orders", 5*time.Second); got != http.StatusServiceUnavailable {
				t.Errorf("a call is answered with %d, want 503", got)
			}
			if _, err := c.b.Client().Exchange(t.Context(), opening()); mayfly.KindOf(err) != mayfly.Unavailable {
				t.Errorf("an exchange: %v, want unavailable", err)
			}
			if err := c.b.Client().Ready(t.Context()); mayfly.KindOf(err) != mayfly.Unavailable {
				t.Errorf("readiness: %v, want unavailable", err)
			}
			if got := knock(t, c.a, on(t, c.a, kept), "/v1/orders", 5*time.Second); got != http.StatusOK {
				t.Errorf("the node that is not cut off answers %d", got)
			}

			c.way.Heal()
			c.b.Eventually("the node is back", func() bool {
				if knock(t, c.b, revoked, "/v1/orders", 5*time.Second) == http.StatusOK {
					t.Fatal("what was revoked meanwhile works again")
				}
				return knock(t, c.b, kept, "/v1/orders", 5*time.Second) == http.StatusOK
			})
			if s, err := c.b.Client().Open(t.Context(), opening(), nil); err != nil {
				t.Errorf("opening on the node that is back: %v", err)
			} else if got := knock(t, c.a, on(t, c.a, s), "/v1/orders", 5*time.Second); got != http.StatusOK {
				t.Errorf("its task on the other node: %d", got)
			}
		})
	}
}

// events is an open stream of the upstream, as the agent has it.
type events struct {
	newest atomic.Int64 // when the newest event came, Unix nanoseconds
	ended  chan struct{}
}

func listen(t *testing.T, node *mayflytest.System, s *client.Session) *events {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, node.Issuer+"/http/orders/stream", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.Transport().RoundTrip(r)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("the stream: %v %+v", err, resp)
	}
	e := &events{ended: make(chan struct{})}
	go func() {
		defer close(e.ended)
		defer resp.Body.Close()
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
			e.newest.Store(time.Now().UnixNano())
		}
	}()
	t.Cleanup(func() { cancel(); <-e.ended })
	return e
}

func (e *events) last() time.Time { return time.Unix(0, e.newest.Load()) }

func (e *events) over() bool {
	select {
	case <-e.ended:
		return true
	default:
		return false
	}
}

// A node that was stopped and goes on (SIGSTOP, a suspended machine, a live
// migration) has no lease when it wakes up, by whichever clock saw the time pass.
func TestANodeThatSleptWakesUpWithoutItsLease(t *testing.T) {
	for _, clock := range []string{"both", "wall", "boot"} {
		t.Run(clock, func(t *testing.T) {
			var wall, boot atomic.Int64 // how far the clocks of b are ahead
			started := time.Now()
			c := newCluster(t, mayflytest.Options{
				Wall: func() time.Time { return time.Now().Add(time.Duration(wall.Load())) },
				Boot: func() time.Duration { return time.Since(started) + time.Duration(boot.Load()) },
			})
			s := on(t, c.b, c.a.Open(c.a.Opening("http:orders:GET:/v1/*")))
			if got := knock(t, c.b, s, "/v1/orders", 5*time.Second); got != http.StatusOK {
				t.Fatalf("%d before", got)
			}
			c.way.Pause() // what it would ask as soon as it is awake
			if clock != "wall" {
				boot.Store(int64(3 * time.Second))
			}
			if clock != "boot" {
				wall.Store(int64(3 * time.Second))
			}
			from := time.Now()
			if got := knock(t, c.b, s, "/v1/orders", 5*time.Second); got != http.StatusServiceUnavailable || time.Since(from) > time.Second {
				t.Errorf("on waking up it answers %d after %s, want 503 at once", got, time.Since(from))
			}
			c.way.Heal()
			wall.Store(0) // and the machine's clock is set right again
			c.b.Eventually("it is back", func() bool { return knock(t, c.b, s, "/v1/orders", 5*time.Second) == http.StatusOK })
		})
	}
}

func TestAProofWorksOnOneNodeOnce(t *testing.T) {
	c := newCluster(t, mayflytest.Options{})
	s := c.a.Open(c.a.Opening("http:orders:GET:/v1/*"))
	resource := c.a.Issuer + "/http/orders"
	token, err := s.Token(t.Context(), resource)
	if err != nil {
		t.Fatal(err)
	}
	request := func(node *mayflytest.System, proof string) *http.Request {
		return node.Request(http.MethodGet, "/http/orders/v1/orders", nil, "Authorization", "DPoP "+token.Text.Reveal(), "DPoP", proof)
	}
	prove := func(nonce string) string {
		proof, err := s.Key().Proof(client.ProofFor{
			Method: http.MethodGet, URL: resource + "/v1/orders", Nonce: nonce, AccessToken: token.Text.Reveal(), At: time.Now(),
		})
		if err != nil {
			t.Fatal(err)
		}
		return proof
	}
	nonce := c.a.Do(request(c.a, prove(""))).Header.Get("DPoP-Nonce")
	before := len(c.a.Orders.Requests())
	const rounds = 20
	for range rounds {
		proof := prove(nonce)
		var allowed atomic.Int64
		var both sync.WaitGroup
		for _, node := range []*mayflytest.System{c.a, c.b} {
			both.Go(func() {
				if a := node.Do(request(node, proof)); a.Status == http.StatusOK {
					allowed.Add(1)
				} else if a.Status != http.StatusUnauthorized {
					t.Errorf("the second use is answered with %s", a)
				}
			})
		}
		both.Wait()
		if n := allowed.Load(); n != 1 {
			t.Errorf("one proof was taken %d times", n)
		}
	}
	if n := len(c.a.Orders.Requests()) - before; n != rounds {
		t.Errorf("%d calls reached the upstream, want %d", n, rounds)
	}
}

func TestATicketIsRedeemedOnOneNodeOnce(t *testing.T) {
	c := newCluster(t, mayflytest.Options{})
	s := c.a.Open(c.a.Opening("mcp:bank:list_invoices"))
	for range 20 {
		ticket, err := s.API().Delegate(t.Context(), client.DelegateRequest{Profile: "reader", Purpose: "once"})
		if err != nil {
			t.Fatal(err)
		}
		var opened atomic.Int64
		var both sync.WaitGroup
		for _, node := range []*mayflytest.System{c.a, c.b} {
			both.Go(func() {
				key, err := client.NewKey()
				if err != nil {
					t.Error(err)
					return
				}
				_, err = node.Client().Exchange(t.Context(), client.ExchangeRequest{
					SubjectToken: ticket.Ticket.Reveal(), SubjectTokenType: client.TypeTicket,
					ActorToken: node.Evidence("helper"), ActorTokenType: client.TypeJWT, Key: key,
				})
				if err == nil {
					opened.Add(1)
				} else if mayfly.AsError(err).Code != "invalid_request" {
					t.Errorf("the second use: %v", err)
				}
			})
		}
		both.Wait()
		if n := opened.Load(); n != 1 {
			t.Errorf("one ticket opened %d tasks", n)
		}
	}
}

// S-76: what was ended stays ended when every node is started anew.
func TestARestartOfEveryNodeBringsNothingBack(t *testing.T) {
	c := newCluster(t, mayflytest.Options{})
	type seat struct { // a task's session at a node, with the token it will replay
		node *mayflytest.System
		s    *client.Session
		want int
	}
	var seats []seat
	open := func(want int) *client.Session {
		s := c.a.Open(c.a.Opening("http:orders:GET:/v1/*"))
		for _, node := range []*mayflytest.System{c.a, c.b} {
			there := on(t, node, s)
			if got := knock(t, node, there, "/v1/orders", 5*time.Second); got != http.StatusOK {
				t.Fatalf("%d before", got)
			}
			seats = append(seats, seat{node, there, want})
		}
		return s
	}
	completed, revoked := open(http.StatusUnauthorized), open(http.StatusUnauthorized)
	open(http.StatusOK)
	if _, err := completed.Complete(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.b.Operator().Revoke(t.Context(), revoked.Task()); err != nil {
		t.Fatal(err)
	}
	c.a.Stop()
	c.b.Stop()
	c.a.Start(mayflytest.Options{})
	c.b.Start(mayflytest.Options{})
	for _, at := range seats {
		if got := knock(t, at.node, at.s, "/v1/orders", 5*time.Second); got != at.want {
			t.Errorf("after the restart a token is answered with %d, want %d", got, at.want)
		}
	}
}

func TestTwoSequencersMakeOneLog(t *testing.T) {
	c := newCluster(t, mayflytest.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	var watching, working sync.WaitGroup
	var mu sync.Mutex // guards kept
	var kept [][]byte
	for _, node := range []*mayflytest.System{c.a, c.b} {
		watching.Go(func() {
			for ctx.Err() == nil {
				note, err := node.Log.Checkpoint(t.Context())
				if err != nil {
					continue
				}
				mu.Lock()
				if n := len(kept); n == 0 || string(kept[n-1]) != string(note) {
					kept = append(kept, note)
				}
				mu.Unlock()
				select {
				case <-ctx.Done():
				case <-time.After(10 * time.Millisecond):
				}
			}
		})
		for range 4 {
			working.Go(func() {
				for range 10 {
					s, err := node.Client().Open(t.Context(), node.Opening("http:orders:GET:/v1/*"), nil)
					if err != nil {
						t.Error(err)
						return
					}
					if got := knock(t, node, s, "/v1/orders", 10*time.Second); got != http.StatusOK {
						t.Errorf("a call under load: %d", got)
					}
				}
			})
		}
	}
	working.Wait()
	c.a.Records() // waits until everything has a position
	cancel()
	watching.Wait()
	for _, node := range []*mayflytest.System{c.a, c.b} {
		if found := node.Log.Alarm(); found != "" {
			t.Errorf("a node's log raised the alarm: %s", found)
		}
	}
	report, err := eventlog.Verify(t.Context(), c.a.DB, kept...)
	if err != nil || !report.OK() || report.Size < 160 {
		t.Errorf("the log that two nodes wrote, against %d checkpoints seen meanwhile: %s (%v)", len(kept), report, err)
	}
	t.Logf("%d checkpoints seen on two nodes, all of one log of %d", len(kept), report.Size)
}
