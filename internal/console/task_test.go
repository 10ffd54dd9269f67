package console

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/authority"
	"github.com/mayfly-id/mayfly/internal/graph"
)

// A drawing of when things lived has the task with its decisions, what it was lent,
// and what hangs on it.
func TestATaskIsDrawnWithAllThatLivedWithIt(t *testing.T) {
	at := func(s int) time.Time { return time.Date(2026, 11, 27, 8, 0, s, 0, time.UTC) }
	closed, retired, returned := at(30), at(31), at(31)
	b := taskPage{
		Task: authority.TaskView{ID: "task_aaaaaaaaaa", Profile: "reader", OpenedAt: at(0), ClosedAt: &closed, RetiredAt: &retired},
		Lines: []line{
			{At: at(0), What: "opened"},
			{At: at(1), What: "bank list", Verdict: mayfly.Allow},
			{At: at(2), What: "bank pay", Verdict: mayfly.Deny},
			{At: at(3), What: "bank pay", Verdict: mayfly.NeedsApproval},
		},
		Leases: []authority.LeaseView{{Grant: "postgres:sales:reader", OpenedAt: at(4), ReturnedAt: &returned}, {Grant: "postgres:sales:owner", OpenedAt: at(5)}},
		Below:  []authority.TaskView{{ID: "task_bbbbbbbbbb", Profile: "helper", OpenedAt: at(6)}},
	}
	want := []graph.Lane{
		{Title: "reader …aaaaaa", Kind: graph.Task, From: at(0), Until: closed, Gone: retired, Marks: []graph.Mark{
			{At: at(1), Kind: graph.Touched, Hint: "08:00:01.000 UTC, allowed: bank list"},
			{At: at(2), Kind: graph.Refused, Hint: "08:00:02.000 UTC, refused: bank pay"},
			{At: at(3), Kind: graph.Lent, Hint: "08:00:03.000 UTC, waits: bank pay"},
		}},
		{Title: "postgres:sales:reader", Kind: graph.Lent, From: at(4), Until: returned},
		{Title: "postgres:sales:owner", Kind: graph.Lent, From: at(5)},
		{Title: "helper …bbbbbb", Kind: graph.Task, Link: "/console/tasks/task_bbbbbbbbbb", From: at(6)},
	}
	if diff := cmp.Diff(want, b.lanes()); diff != "" {
		t.Errorf("(-want +drawn):\n%s", diff)
	}
}
