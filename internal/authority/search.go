package authority

import (
	"context"
	"slices"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/search"
	"github.com/mayfly-id/mayfly/internal/store"
)

// Search answers who touched what, newest first: the operator of everything, and
// anybody else of the tasks they may read.
func (a *Authority) Search(ctx context.Context, p Presented, q search.Query) (EventPage, error) {
	w, err := a.identify(ctx, &p)
	if err != nil {
		return EventPage{}, err
	}
	keep := a.narrow(ctx, w, &q)
	found, err := a.search.Search(ctx, q, keep)
	if err != nil {
		return EventPage{}, err
	}
	views, err := a.eventViews(ctx, found.Rows)
	return EventPage{Events: views, Next: found.Next}, err
}

// narrow leaves of q what w may read. Where only a policy can say what that is, the
// answer is by record; else q asks for no more than w's own, so that not even a
// cursor tells of others.
func (a *Authority) narrow(ctx context.Context, w who, q *search.Query) (keep func(*store.EventRow) (bool, error)) {
	if w.operator {
		return nil
	}
	if w.session != nil {
		q.Within = string(w.session.Task())
	} else if _, byPolicy := w.human(); !byPolicy {
		q.Person = w.caller.Subject().ID
	}
	return a.readable(ctx, w)
}

// readable tells the records of tasks that w may read from all others.
func (a *Authority) readable(ctx context.Context, w who) func(*store.EventRow) (bool, error) {
	known := map[mayfly.TaskID]bool{"": false}
	return func(row *store.EventRow) (bool, error) {
		may, ok := known[row.Task]
		if ok {
			return may, nil
		}
		t, err := a.db.Task(ctx, row.Task)
		if err != nil && mayfly.KindOf(err) != mayfly.NotFound {
			return false, err
		}
		may = err == nil && w.mayRead(&t.Task)
		known[row.Task] = may
		return may, nil
	}
}

// recordsNamed are the records that go by an id: a decision's, a record's, which
// is a token's too, or one that whoever asked, or the target, gave the request.
func (a *Authority) recordsNamed(ctx context.Context, w who, id string) ([]store.EventRow, error) {
	rows, err := a.db.EventsByDecision(ctx, id)
	if err != nil || len(rows) > 0 {
		return rows, err
	}
	row, err := a.db.EventByID(ctx, id)
	if err == nil {
		return []store.EventRow{*row}, nil
	} else if mayfly.KindOf(err) != mayfly.NotFound {
		return nil, err
	}
	if began := (mayfly.Trace{ID: id}).Decision(); began != "" {
		if rows, err := a.db.EventsByDecision(ctx, began); err != nil || len(rows) > 0 {
			return rows, err
		}
	}
	for flag, q := range map[string]search.Query{"--trace": {Trace: id}, "--upstream": {Upstream: id}} {
		if rows, err := a.recordsCalled(ctx, w, q, flag); err != nil || len(rows) > 0 {
			return rows, err
		}
	}
	return nil, nil
}

// recordsCalled are the records of calls that go by an id which others chose. An
// agent can send any, also somebody else's: calls of two tasks lead to nobody.
func (a *Authority) recordsCalled(ctx context.Context, w who, q search.Query, flag string) (rows []store.EventRow, err error) {
	q.Limit = maxTraceEvents
	keep := a.narrow(ctx, w, &q)
	found, err := a.search.Search(ctx, q, keep)
	if err != nil {
		return nil, err
	}
	slices.Reverse(found.Rows) // the oldest first
	for _, row := range found.Rows {
		if row.Task != found.Rows[0].Task {
			return nil, mayfly.Errorf(mayfly.Conflict, "calls of several tasks carry this id; mayfly log search %s lists them", flag)
		}
		of, err := a.db.EventsByDecision(ctx, row.Decision)
		if err != nil {
			return nil, err
		}
		rows = append(rows, of...)
	}
	return rows, nil
}
