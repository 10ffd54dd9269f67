package authority

import (
	"context"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/store"
)

// TaskView is a task as /v1 shows it.
type TaskView struct {
	ID        mayfly.TaskID      `json:"id"`
	Identity  string             `json:"identity"`
	Profile   string             `json:"profile"`
	Bundle    string             `json:"bundle"`
	Purpose   mayfly.Purpose     `json:"purpose"`
	Root      RootView           `json:"root"`
	Chain     []string           `json:"chain"` // root delegator, then agents from the root task down
	Parent    mayfly.TaskID      `json:"parent,omitempty"`
	Depth     int                `json:"depth"`
	Grants    []mayfly.Grant     `json:"grants"`
	State     mayfly.TaskState   `json:"state"`
	Reason    mayfly.CloseReason `json:"reason,omitempty"`
	OpenedAt  time.Time          `json:"opened_at"`
	IdleUntil time.Time          `json:"idle_until"`
	Deadline  time.Time          `json:"deadline"`
	ClosedAt  *time.Time         `json:"closed_at,omitempty"`
	RetiredAt *time.Time         `json:"retired_at,omitempty"`
	ClosedBy  string             `json:"closed_by,omitempty"`
	Budget    []BudgetView       `json:"budget,omitempty"`
	Seen      []string           `json:"labels_seen,omitempty"` // by the whole tree under its root task
	Key       string             `json:"jkt,omitempty"`
	Evidence  mayfly.Evidence    `json:"evidence"`
	Dlg       string             `json:"dlg"`
	Ticket    string             `json:"delegation,omitempty"` // the ticket's delegation it was opened with

	root mayfly.TaskID
}

// RootView is the root delegator.
type RootView struct {
	Subject string             `json:"sub"`
	Kind    mayfly.SubjectKind `json:"kind"`
	Source  string             `json:"source,omitempty"`
}

func rootView(s mayfly.Subject) RootView { return RootView{s.ID, s.Kind, s.Source} }

// BudgetView is one budget that counts against a task: its own where Grant is
// empty, else that of one of its grants.
type BudgetView struct {
	Task  mayfly.TaskID `json:"task"`
	Grant string        `json:"grant,omitempty"`
	Calls int64         `json:"calls"`
	Used  int64         `json:"used"`
	// Sums are what arguments may add up to, and have.
	Sums []SumView `json:"sums,omitempty"`
	Rate *RateView `json:"rate,omitempty"`
}

// SumView is what one argument may add up to, as decimals.
type SumView struct {
	Argument string `json:"argument"`
	Max      string `json:"max"`
	Used     string `json:"used"`
}

// RateView is how often in what time.
type RateView struct {
	Calls int64  `json:"calls"`
	Per   string `json:"per"`
	Used  int64  `json:"used"` // in the time before now
}

// view renders row as of now. A task below one that is over is over too.
func (a *Authority) view(ctx context.Context, row *store.TaskRow) TaskView {
	b := a.Bundle()
	t := &row.Task
	now := a.clock.now()
	state, reason := t.State(now)
	for _, id := range t.Ancestors {
		if state != mayfly.Live {
			break
		}
		if up, err := a.live.task(ctx, id); err != nil {
			state, reason = mayfly.Retiring, mayfly.ParentEnded
		} else if s, _ := up.State(now); s != mayfly.Live {
			state, reason = mayfly.Retiring, mayfly.ParentEnded
		}
	}
	v := TaskView{
		ID:        t.ID,
		Identity:  mayfly.AgentID(b.TrustDomain, t.Profile, t.ID),
		Profile:   t.Profile,
		Bundle:    t.Bundle,
		Purpose:   t.Purpose,
		Root:      rootView(t.Root),
		Chain:     []string{t.Root.ID},
		Parent:    t.Parent,
		Depth:     t.Depth,
		Grants:    t.Grants,
		State:     state,
		Reason:    reason,
		OpenedAt:  t.OpenedAt,
		IdleUntil: t.IdleUntil,
		Deadline:  t.Deadline,
		Key:       t.Key,
		Evidence:  t.Agent,
		Dlg:       t.Dlg,
		Ticket:    t.Ticket,
		ClosedBy:  t.ClosedBy,
		root:      t.RootTask,
	}
	for _, id := range t.Chain() {
		v.Chain = append(v.Chain, string(id))
	}
	if !t.ClosedAt.IsZero() {
		v.ClosedAt = &t.ClosedAt
	}
	if !t.RetiredAt.IsZero() {
		v.RetiredAt = &t.RetiredAt
	}
	if t.Budget > 0 {
		v.Budget = append(v.Budget, BudgetView{Task: t.ID, Calls: t.Budget, Used: t.Calls})
	}
	return v
}

// spent adds to v what is used of the budgets of its grants, and what its tree
// has seen.
func (a *Authority) spent(ctx context.Context, v TaskView) (TaskView, error) {
	used, err := a.db.Counters(ctx, v.ID)
	if err != nil {
		return TaskView{}, err
	}
	for _, g := range v.Grants {
		if !g.Budget.Limits() {
			continue
		}
		key := g.Key()
		b := BudgetView{Task: v.ID, Grant: g.String(), Calls: g.Budget.Calls, Used: used[key]}
		for _, sum := range g.Budget.Sum {
			b.Sums = append(b.Sums, SumView{
				Argument: sum.Argument, Max: mayfly.FormatDecimal(sum.Max), Used: mayfly.FormatDecimal(used[store.SumKey(key, sum.Argument)]),
			})
		}
		if rate := g.Budget.Rate; rate.Calls > 0 {
			n, err := a.db.RateCount(ctx, v.ID, key, rate.Per, a.clock.now())
			if err != nil {
				return TaskView{}, err
			}
			b.Rate = &RateView{Calls: rate.Calls, Per: rate.Per.String(), Used: n}
		}
		v.Budget = append(v.Budget, b)
	}
	v.Seen, err = a.db.Seen(ctx, v.root)
	return v, err
}

// Task reads one task.
func (a *Authority) Task(ctx context.Context, p Presented, id string) (TaskView, error) {
	_, t, err := a.mayMove(ctx, &p, id, "read", who.mayRead)
	if err != nil {
		return TaskView{}, err
	}
	return a.spent(ctx, a.view(ctx, t))
}

// Tree reads a task and everything below it, parents before children.
func (a *Authority) Tree(ctx context.Context, p Presented, id string) ([]TaskView, error) {
	_, t, err := a.mayMove(ctx, &p, id, "read", who.mayRead)
	if err != nil {
		return nil, err
	}
	rows, err := a.db.Descendants(ctx, t.ID)
	if err != nil {
		return nil, err
	}
	views := []TaskView{a.view(ctx, t)}
	for _, r := range rows {
		views = append(views, a.view(ctx, r))
	}
	return views, nil
}

// TaskFilter narrows a list of tasks. Limit is at most 500; 0 is 100.
type TaskFilter struct {
	State   string // live, retiring, retired, or "" for all
	Profile string
	Root    string // the root delegator's id
	Target  string
	Cursor  string
	Limit   int
}

// TaskPage is one page of a list; Next is the cursor of the next, "" at the end.
type TaskPage struct {
	Tasks []TaskView `json:"tasks"`
	Next  string     `json:"next,omitempty"`

	rows []*mayfly.Task // of Tasks, in their order
}

// Tasks lists tasks, newest first: all for the operator, their own for a
// delegator and those that policies let a human read, itself and what is below
// it for a task.
func (a *Authority) Tasks(ctx context.Context, p Presented, f TaskFilter) (TaskPage, error) {
	w, err := a.identify(ctx, &p)
	if err != nil {
		return TaskPage{}, err
	}
	return a.tasks(ctx, w, f)
}

func (a *Authority) tasks(ctx context.Context, w who, f TaskFilter) (TaskPage, error) {
	switch f.State {
	case "", string(mayfly.Live), string(mayfly.Retiring), string(mayfly.Retired):
	default:
		return TaskPage{}, mayfly.Errorf(mayfly.Invalid, "state is live, retiring or retired")
	}
	if f.Limit <= 0 {
		f.Limit = 100
	}
	f.Limit = min(f.Limit, 500)
	sf := store.Filter{
		State: mayfly.TaskState(f.State), Now: a.clock.now(), Profile: f.Profile, RootSub: f.Root, Target: f.Target,
		After: f.Cursor, Limit: f.Limit + 1,
	}
	// A human with a token that no agent is handed may read what policies let
	// them, task by task; everybody else what is theirs by its root or chain.
	visible := func(*mayfly.Task) bool { return true }
	_, human := w.human()
	switch {
	case w.session != nil:
		sf.Under = w.session.Task()
	case human:
		visible = w.mayRead
	case w.caller != nil:
		s := w.caller.Subject()
		if f.Root != "" && f.Root != s.ID {
			return TaskPage{Tasks: []TaskView{}}, nil
		}
		sf.RootSub, sf.RootKind = s.ID, s.Kind
	}
	page := TaskPage{Tasks: []TaskView{}}
	for {
		rows, err := a.db.ListTasks(ctx, sf)
		if err != nil {
			return TaskPage{}, err
		}
		for _, r := range rows {
			if !visible(&r.Task) {
				continue
			}
			if len(page.Tasks) == f.Limit {
				page.Next = string(page.Tasks[f.Limit-1].ID)
				return page, nil
			}
			page.Tasks, page.rows = append(page.Tasks, a.view(ctx, r)), append(page.rows, &r.Task)
		}
		if len(rows) < sf.Limit {
			return page, nil
		}
		sf.After = string(rows[len(rows)-1].ID)
	}
}
