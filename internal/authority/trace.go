package authority

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/store"
	"github.com/mayfly-id/mayfly/internal/strictjson"
)

// TraceView leads from one id to whoever is behind it: the root delegator, and
// every task and delegation in between, root first.
type TraceView struct {
	Subject     RootView         `json:"subject"`
	Tasks       []TaskView       `json:"tasks"`
	Delegations []DelegationView `json:"delegations"`
	Events      []EventView      `json:"events"` // the thing asked about and what followed from it
}

// DelegationView is one handing-over: of a ticket, or straight to a task.
type DelegationView struct {
	Delegation string         `json:"delegation,omitempty"` // the ticket's id, if there was one
	Dlg        string         `json:"dlg"`
	Parent     string         `json:"parent,omitempty"`
	Task       mayfly.TaskID  `json:"task"`
	Purpose    mayfly.Purpose `json:"purpose"`
	Grants     []mayfly.Grant `json:"grants"`
	At         time.Time      `json:"at"`
}

// EventView is one record as /v1 shows it.
type EventView struct {
	ID       string         `json:"id"`
	Position *int64         `json:"position,omitempty"` // once it is in the log
	Time     time.Time      `json:"time"`
	Kind     string         `json:"kind"`
	Task     mayfly.TaskID  `json:"task,omitempty"`
	Decision string         `json:"decision,omitempty"`
	Parent   string         `json:"parent,omitempty"`
	Term     mayfly.Term    `json:"term,omitempty"`
	Person   string         `json:"person,omitempty"` // pseudonym
	Dlg      string         `json:"dlg"`              // the record's leaf hash
	Body     map[string]any `json:"body,omitempty"`   // absent where the person was erased
}

// EventPage is one page of records; Next is the cursor of the next, "" at the end.
type EventPage struct {
	Events []EventView `json:"events"`
	Next   string      `json:"next,omitempty"`
}

const maxTraceEvents = 500

// Trace finds the task behind an id and everyone above it. The id is a task's,
// a decision's, a record's, a token's jti (which is its record's id), a lease's,
// what a target calls one, such as the name of a database role, the id that a
// target gave a request, or the W3C trace id of a call.
func (a *Authority) Trace(ctx context.Context, p Presented, id string) (TraceView, error) {
	w, err := a.identify(ctx, &p)
	if err != nil {
		return TraceView{}, err
	}
	missing := func() error {
		return a.refuse(ctx, w.refused("trace"), mayfly.Errorf(mayfly.NotFound, "nothing with this id for you"), w.burn(a))
	}
	task := mayfly.TaskID(id)
	var rows []store.EventRow
	lease, err := a.leaseNamed(ctx, id)
	if err != nil {
		return TraceView{}, err
	}
	if lease != nil {
		if rows, err = a.leaseRecords(ctx, lease); err != nil {
			return TraceView{}, err
		}
		task = lease.Task
	} else if _, err := mayfly.ParseTaskID(id); err != nil {
		if rows, err = a.recordsNamed(ctx, w, id); err != nil {
			return TraceView{}, err
		}
		if len(rows) == 0 {
			return TraceView{}, missing()
		}
		task = rows[0].Task
	}
	t, err := a.db.Task(ctx, task)
	if mayfly.KindOf(err) == mayfly.NotFound {
		return TraceView{}, missing()
	} else if err != nil {
		return TraceView{}, err
	}
	if !w.mayRead(&t.Task) {
		return TraceView{}, missing()
	}
	if rows == nil {
		if rows, err = a.db.EventsByTask(ctx, task, "", maxTraceEvents); err != nil {
			return TraceView{}, err
		}
	}
	v := TraceView{Subject: rootView(t.Root)}
	above := ""
	for _, up := range t.Chain() {
		row, err := a.db.Task(ctx, up)
		if err != nil {
			return TraceView{}, err
		}
		view, err := a.spent(ctx, a.view(ctx, row))
		if err != nil {
			return TraceView{}, err
		}
		v.Tasks = append(v.Tasks, view)
		if row.Ticket != "" {
			d, err := a.db.Delegation(ctx, row.Ticket)
			if err != nil {
				return TraceView{}, err
			}
			v.Delegations = append(v.Delegations, DelegationView{
				Delegation: d.ID, Dlg: d.Dlg, Parent: above, Task: row.ID, Purpose: d.Purpose, Grants: d.Grants, At: d.MadeAt,
			})
			above = d.Dlg
		}
		v.Delegations = append(v.Delegations, DelegationView{
			Dlg: row.Dlg, Parent: above, Task: row.ID, Purpose: row.Purpose, Grants: row.Grants, At: row.OpenedAt,
		})
		above = row.Dlg
	}
	v.Events, err = a.eventViews(ctx, rows)
	return v, err
}

// leaseNamed is the lease that goes by a name: its own id, or what its target
// calls it. There may be none.
func (a *Authority) leaseNamed(ctx context.Context, name string) (*mayfly.Lease, error) {
	var l *mayfly.Lease
	id, err := mayfly.ParseLeaseID(name)
	if err == nil {
		l, err = a.db.Lease(ctx, id)
	} else {
		l, err = a.db.LeaseOf(ctx, name)
	}
	if mayfly.KindOf(err) == mayfly.NotFound {
		return nil, nil
	}
	return l, err
}

// leaseRecords are the decision that a lease was lent by, and what became of it.
func (a *Authority) leaseRecords(ctx context.Context, l *mayfly.Lease) ([]store.EventRow, error) {
	rows, err := a.db.EventsByDecision(ctx, l.Decision)
	if err != nil {
		return nil, err
	}
	all, err := a.db.EventsByTask(ctx, l.Task, "", maxTraceEvents)
	if err != nil {
		return nil, err
	}
	for _, row := range all {
		if !strings.HasPrefix(row.Kind, "lease.") || row.Decision != "" {
			continue // those with a decision are there already
		}
		var e struct {
			Lease mayfly.LeaseID `json:"lease"`
		}
		body, err := a.db.Body(ctx, row)
		if err == nil {
			err = strictjson.UnmarshalLenient(body, strictjson.Limits{}, &e)
		}
		if err == nil && e.Lease == l.ID {
			rows = append(rows, row)
		} else if err != nil && mayfly.KindOf(err) != mayfly.Gone {
			return nil, err
		}
	}
	return rows, nil
}

// Events reads a task's records, oldest first.
func (a *Authority) Events(ctx context.Context, p Presented, id, cursor string, limit int) (EventPage, error) {
	_, t, err := a.mayMove(ctx, &p, id, "read", who.mayRead)
	if err != nil {
		return EventPage{}, err
	}
	if limit <= 0 || limit > maxTraceEvents {
		limit = 100
	}
	rows, err := a.db.EventsByTask(ctx, t.ID, cursor, limit+1)
	if err != nil {
		return EventPage{}, err
	}
	page := EventPage{Events: []EventView{}}
	if len(rows) > limit {
		rows = rows[:limit]
		page.Next = rows[limit-1].ID
	}
	views, err := a.eventViews(ctx, rows)
	page.Events = slices.Concat(page.Events, views)
	return page, err
}

// Feed reads the log from a position on, oldest first: only for the operator.
func (a *Authority) Feed(ctx context.Context, p Presented, after int64, limit int) ([]EventView, error) {
	if err := a.MayReadLog(ctx, p); err != nil {
		return nil, err
	}
	return a.ReadFeed(ctx, after, limit)
}

// ReadFeed is Feed for a caller that was let in before: a stream.
func (a *Authority) ReadFeed(ctx context.Context, after int64, limit int) ([]EventView, error) {
	rows, err := a.db.EventsAfter(ctx, after, limit)
	if err != nil {
		return nil, err
	}
	return a.eventViews(ctx, rows)
}

// MayReadLog refuses whoever may not read the bodies of records: everybody but
// the operator.
func (a *Authority) MayReadLog(ctx context.Context, p Presented) error {
	w, err := a.identify(ctx, &p)
	if err != nil {
		return err
	}
	if !w.operator {
		return a.refuse(ctx, w.refused("read log"), mayfly.Errorf(mayfly.NotFound, "nothing here for you; use the admin socket"), w.burn(a))
	}
	return nil
}

func (a *Authority) eventViews(ctx context.Context, rows []store.EventRow) ([]EventView, error) {
	views := make([]EventView, 0, len(rows))
	for _, r := range rows {
		v := EventView{
			ID: r.ID, Position: r.Position, Time: r.Time, Kind: r.Kind,
			Task: r.Task, Decision: r.Decision, Parent: r.Parent(), Term: r.Term(), Person: r.Person, Dlg: r.Dlg(),
		}
		body, err := a.db.Body(ctx, r)
		if err != nil && mayfly.KindOf(err) != mayfly.Gone {
			return nil, err
		}
		if err == nil {
			if err := strictjson.UnmarshalLenient(body, strictjson.Limits{}, &v.Body); err != nil {
				return nil, err
			}
		}
		views = append(views, v)
	}
	return views, nil
}

// LogSize is how many records the log has.
func (a *Authority) LogSize(ctx context.Context) (int64, error) {
	head, err := a.db.Head(ctx)
	return head.Size, err
}
