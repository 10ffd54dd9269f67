package mayflytest_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/authority"
	"github.com/mayfly-id/mayfly/internal/mayflytest"
)

// leaving is a system where nothing leaves a tree that has read what is not
// trusted: list_invoices reads it, delete_vendor sends.
func leaving() mayflytest.Options {
	return mayflytest.Options{
		Policies: map[string]string{"leaves.cedar": nothingLeaves},
		Change: func(b *authority.Bundle) {
			b.Targets["bank"].Tools = map[string]mayfly.Tool{
				"list_invoices": {Labels: []string{"untrusted"}}, "delete_vendor": {Labels: []string{"egress"}},
			}
		},
	}
}

// A parent and its child cannot wash off what either has read: whatever order
// they act in, on whichever node, no sending is committed after a reading.
func TestNeitherAChildNorARaceForgetsWhatWasSeen(t *testing.T) {
	mayflytest.OnEachEngine(t, func(t *testing.T, dsn string) {
		nodes := racing(t, dsn, leaving())
		const rounds = 40
		roots := map[mayfly.TaskID]mayfly.TaskID{}
		outcomes := map[string]int{}
		for round := range rounds {
			parent := nodes[0].open(t, "open")
			child := nodes[0].below(t, parent, "open")
			sibling := nodes[0].below(t, parent, "open")
			for _, task := range []authority.TokenAnswer{parent, child, sibling} {
				roots[task.Task] = parent.Task
			}
			who := [][2]authority.TokenAnswer{{parent, child}, {child, parent}, {child, sibling}, {child, child}}[round%4]
			var read, sent error
			var wg sync.WaitGroup
			act := func(node direct, token, tool string, told *error) {
				var ad *authority.Admission
				if ad, *told = node.call(t.Context(), token, tool, `{}`); *told == nil {
					ad.Done(authority.Outcome{Name: "answered"})
				}
			}
			wg.Go(func() { act(nodes[round%len(nodes)], who[0].AccessToken, "list_invoices", &read) })
			wg.Go(func() { act(nodes[(round+1)%len(nodes)], who[1].AccessToken, "delete_vendor", &sent) })
			wg.Wait()
			outcomes[fmt.Sprintf("read %s, sent %s", said(read), said(sent))]++
			if read != nil || sent != nil && said(sent) != "deny policy" {
				t.Fatalf("reading: %v, sending: %v", read, sent)
			}
			// From here on nobody of the tree sends, on any node.
			for i, node := range nodes {
				for _, task := range []authority.TokenAnswer{parent, child, sibling} {
					if _, err := node.call(t.Context(), task.AccessToken, "delete_vendor", `{}`); said(err) != "deny policy" {
						t.Errorf("after the reading, on node %d: %v", i, err)
					}
				}
			}
			v, err := nodes[0].Authority.Task(t.Context(), operator, string(sibling.Task))
			if err != nil || !slices.Contains(v.Seen, "untrusted") || slices.Contains(v.Seen, "egress") != (sent == nil) {
				t.Errorf("the tree reads %v (%v)", v.Seen, err)
			}
		}
		t.Log(outcomes)
		// What each record says was seen before it tells their order: commits go one
		// by one, and one that had not seen the other came first. On one node the
		// log's positions say the same.
		read, sent := map[mayfly.TaskID]order{}, map[mayfly.TaskID]order{}
		for _, e := range nodes[0].Records("call.decided") {
			if e.Term != "" {
				continue
			}
			var body mayfly.CallDecided
			if err := json.Unmarshal(e.Body, &body); err != nil {
				t.Fatal(err)
			}
			by := read
			if body.Action == "delete_vendor" {
				by = sent
			}
			by[roots[e.Task]] = order{*e.Position, body.Snapshot.Seen}
		}
		if len(read) != rounds {
			t.Errorf("%d trees have read", len(read))
		}
		for root, s := range sent {
			r := read[root]
			if slices.Contains(s.seen, "untrusted") || !slices.Contains(r.seen, "egress") {
				t.Errorf("a sending that had seen %v and a reading that had seen %v are both allowed", s.seen, r.seen)
			}
			if len(nodes) == 1 && s.position > r.position {
				t.Errorf("a sending was committed at %d, after the reading at %d", s.position, r.position)
			}
		}
	})
}

// order is where a decision stands in the log, and what its tree had seen.
type order struct {
	position int64
	seen     []string
}

// Another tree of the same human has seen nothing, and a new one neither.
func TestWhatATreeHasSeenIsItsOwn(t *testing.T) {
	mayflytest.OnEachEngine(t, func(t *testing.T, dsn string) {
		nodes := racing(t, dsn, leaving())
		tainted, clean := nodes[0].open(t, "open"), nodes[0].open(t, "open")
		must := func(token, tool, want string) {
			t.Helper()
			ad, err := nodes[len(nodes)-1].call(t.Context(), token, tool, `{}`)
			if said(err) != want {
				t.Errorf("%s: %v, want %s", tool, err, want)
			}
			if err == nil {
				ad.Done(authority.Outcome{Name: "not-sent"}) // and is seen all the same: it was decided
			}
		}
		must(tainted.AccessToken, "delete_vendor", "allow")
		must(tainted.AccessToken, "list_invoices", "allow")
		must(tainted.AccessToken, "delete_vendor", "deny policy")
		must(clean.AccessToken, "delete_vendor", "allow")
		below := nodes[0].below(t, tainted, "open")
		must(below.AccessToken, "delete_vendor", "deny policy")
		must(nodes[0].open(t, "open").AccessToken, "delete_vendor", "allow")
	})
}
