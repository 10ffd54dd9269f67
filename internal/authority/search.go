package authority

import (
	"context"

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
	var keep func(*store.EventRow) (bool, error)
	if !w.operator {
		keep = a.readable(ctx, w)
	}
	found, err := a.search.Search(ctx, q, keep)
	if err != nil {
		return EventPage{}, err
	}
	views, err := a.eventViews(ctx, found.Rows)
	return EventPage{Events: views, Next: found.Next}, err
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
func (a *Authority) recordsNamed(ctx context.Context, id string) ([]store.EventRow, error) {
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
	for _, q := range []search.Query{{Trace: id, Limit: 1}, {Upstream: id, Limit: 1}} {
		found, err := a.search.Search(ctx, q, nil)
		if err != nil {
			return nil, err
		}
		if len(found.Rows) > 0 {
			return a.db.EventsByDecision(ctx, found.Rows[0].Decision)
		}
	}
	return nil, nil
}
