package console

import (
	"cmp"
	"context"
	"html/template"
	"net/http"
	"slices"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/authority"
	"github.com/mayfly-id/mayfly/internal/graph"
	"github.com/mayfly-id/mayfly/internal/reach"
)

// eventsShown is how many records of a task its page shows at once.
const eventsShown = 200

// taskPage is everything about one task.
type taskPage struct {
	Task        authority.TaskView
	Below       []authority.TaskView
	Delegations []authority.DelegationView
	Leases      []authority.LeaseView
	Did         []reach.Touched
	Lines       []line
	More        string // cursor of the next records
	Chain       template.HTML
	When        template.HTML
	Undrawn     int // of what hangs on it: it would not fit
	Over        bool
	MayRevoke   bool
}

// task shows who let an agent do what, what it did, and whether it is over.
func (v *visit) task() error {
	id := v.r.PathValue("id")
	ctx, p := v.ctx(), v.presented()
	tree, err := v.c.a.Tree(ctx, p, id)
	if err != nil {
		return err
	}
	trace, err := v.c.a.Trace(ctx, p, id)
	if err != nil {
		return err
	}
	leases, err := v.c.a.Leases(ctx, p, id)
	if err != nil {
		return err
	}
	watch, err := v.c.a.Watch(ctx, p)
	if err != nil {
		return err
	}
	mine, err := watch.Of(ctx, []mayfly.TaskID{mayfly.TaskID(id)})
	if err != nil {
		return err
	}
	page, err := v.c.a.Events(ctx, p, id, v.r.URL.Query().Get("cursor"), eventsShown)
	if err != nil {
		return err
	}
	own := trace.Tasks[len(trace.Tasks)-1]
	b := taskPage{
		Task: own, Below: tree[1:], Delegations: trace.Delegations, Leases: leases, More: page.Next,
		Over: own.State != mayfly.Live, MayRevoke: len(mine) == 1 && mine[0].MayRevoke && own.State == mayfly.Live,
	}
	r := reach.Reach{Of: own.Profile}
	for i := range page.Events {
		noteIn(&r, &page.Events[i])
		b.Lines = append(b.Lines, tell(&page.Events[i]))
	}
	b.Did = r.Touched()
	chain := reach.Reach{Of: "Who handed what to whom"}
	for _, t := range slices.Concat(trace.Tasks, tree[1:]) {
		chain.Tasks = append(chain.Tasks, boxOf(t, t.ID == own.ID))
	}
	for _, l := range leases {
		chain.Leases = append(chain.Leases, reach.Lease{ID: l.Lease, Task: l.Task, Grant: l.Grant, Principal: l.Principal, State: l.State})
	}
	drawing := chain.Graph()
	drawing.Title = "Who handed what to whom"
	b.Chain = template.HTML(drawing.Inline("chain"))
	when := graph.Timeline{Title: "What lived when, and what was decided", Now: v.now, Lanes: b.lanes()}
	if n := len(when.Lanes); n > lanesMost {
		when.Lanes, b.Undrawn = when.Lanes[:lanesMost], n-lanesMost
	}
	b.When = template.HTML(when.Inline("when"))
	return v.show(http.StatusOK, "task", own.Profile+" for "+own.Root.Subject, "live", b)
}

// lanesMost is how many things stand below each other in a drawing of when they
// lived.
const lanesMost = 20

// lanes are the task with its decisions, what it was lent, and what hangs on it.
func (b *taskPage) lanes() []graph.Lane {
	lanes := []graph.Lane{lifeOf(b.Task)}
	lanes[0].Link = ""
	for _, l := range b.Lines {
		kind, decided := map[mayfly.Verdict]graph.Kind{mayfly.Allow: graph.Touched, mayfly.Deny: graph.Refused, mayfly.NeedsApproval: graph.Lent}[l.Verdict]
		if decided {
			lanes[0].Marks = append(lanes[0].Marks, graph.Mark{At: l.At, Kind: kind, Hint: l.At.UTC().Format("15:04:05.000 UTC") + ", " + verdictWords(l.Verdict) + ": " + l.What})
		}
	}
	for _, l := range b.Leases {
		lane := graph.Lane{Title: l.Grant, Kind: graph.Lent, From: l.OpenedAt}
		if l.ReturnedAt != nil {
			lane.Until = *l.ReturnedAt
		}
		lanes = append(lanes, lane)
	}
	for _, t := range b.Below {
		lanes = append(lanes, lifeOf(t))
	}
	return lanes
}

// lifeOf is a task in a drawing of when things lived.
func lifeOf(t authority.TaskView) graph.Lane {
	lane := graph.Lane{Title: t.Profile + " " + short(t.ID), Kind: graph.Task, Link: "/console/tasks/" + string(t.ID), From: t.OpenedAt}
	if t.ClosedAt != nil {
		lane.Until = *t.ClosedAt
	}
	if t.RetiredAt != nil {
		lane.Gone = *t.RetiredAt
	}
	return lane
}

// boxOf is a task in a drawing.
func boxOf(t authority.TaskView, here bool) reach.Task {
	state := string(t.State)
	if t.Reason != "" {
		state += ": " + reasonWords(t.Reason)
	}
	return reach.Task{
		ID: t.ID, Parent: t.Parent, Depth: t.Depth, Root: t.Root.Subject, RootKind: t.Root.Kind, Profile: t.Profile,
		Text: []string{authority.Plain(t.Purpose.Text, 200), state, string(t.ID)}, Link: "/console/tasks/" + string(t.ID), Here: here,
	}
}

// noteIn adds a record to what was touched, if it is a decision on a call.
func noteIn(r *reach.Reach, e *authority.EventView) {
	if e.Kind != (mayfly.CallDecided{}).Kind() {
		return
	}
	b := body(e.Body)
	c := reach.Call{
		At: e.Time, Task: e.Task, Target: b.text("target"), Action: b.text("action"), Verdict: b.verdict(), Term: e.Term,
	}
	labels, _ := b.in("snapshot")["labels"].([]any)
	for _, l := range labels {
		if text, ok := l.(string); ok {
			c.Labels = append(c.Labels, text)
		}
	}
	r.Note(c)
}

// ends is what ending a task would end.
type ends struct {
	Task      authority.TaskView
	Below     []authority.TaskView // live ones
	Leases    []authority.LeaseView
	Approvals []authority.ApprovalView
	Again     string // where the human shows once more who they are; "" if they need not
}

func (v *visit) endsOf(ctx context.Context, id string) (ends, error) {
	p := v.presented()
	tree, err := v.c.a.Tree(ctx, p, id)
	if err != nil {
		return ends{}, err
	}
	e := ends{Task: tree[0]}
	if e.Task.Depth == 0 && !v.me.Fresh(v.now) {
		e.Again = againTo(v.r.URL.Path)
	}
	going := map[mayfly.TaskID]bool{}
	for i, t := range tree {
		if t.State != mayfly.Live {
			continue
		}
		going[t.ID] = true
		if i > 0 {
			e.Below = append(e.Below, t)
		}
		leases, err := v.c.a.Leases(ctx, p, string(t.ID))
		if err != nil {
			return ends{}, err
		}
		for _, l := range leases {
			if l.State != mayfly.LeaseReturned {
				e.Leases = append(e.Leases, l)
			}
		}
	}
	waiting, err := v.c.a.Approvals(ctx, p, true, "", 500)
	if err != nil {
		return ends{}, err
	}
	for _, a := range waiting.Approvals {
		if going[a.Task] {
			e.Approvals = append(e.Approvals, a)
		}
	}
	return e, nil
}

// previewRevoke says what would end, before it does.
func (v *visit) previewRevoke() error {
	e, err := v.endsOf(v.ctx(), v.r.PathValue("id"))
	if err != nil {
		return err
	}
	return v.show(http.StatusOK, "revoke", "End "+e.Task.Profile, "live", e)
}

// revoke ends a task and everything below it.
func (v *visit) revoke() error {
	t, err := v.c.a.Revoke(v.ctx(), v.presented(), v.r.PathValue("id"))
	if err != nil {
		return err
	}
	return v.seeOther("/console/tasks/" + string(t.ID))
}

// decisionPage is why a decision is what it is.
type decisionPage struct {
	authority.Explanation
	Facts []fact
}

// fact is one argument that policies saw.
type fact struct{ Name, Value string }

// decision explains one decision.
func (v *visit) decision() error {
	x, err := v.c.a.Explain(v.ctx(), v.presented(), v.r.PathValue("id"))
	if err != nil {
		return err
	}
	title := map[mayfly.Verdict]string{mayfly.Allow: "Allowed", mayfly.Deny: "Refused", mayfly.NeedsApproval: "Waits for a human"}[x.Verdict]
	return v.show(http.StatusOK, "decision", title, "live", decisionPage{x, factsOf(x.Snapshot)})
}

func factsOf(s *mayfly.Snapshot) []fact {
	if s == nil {
		return nil
	}
	var list []fact
	for name, value := range s.Facts {
		list = append(list, fact{name, shown(value.Describe())})
	}
	slices.SortFunc(list, func(a, b fact) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

// lasted is how long a task lived, or has lived.
func lasted(t authority.TaskView, now time.Time) time.Duration {
	if t.ClosedAt != nil {
		return t.ClosedAt.Sub(t.OpenedAt)
	}
	return now.Sub(t.OpenedAt)
}
