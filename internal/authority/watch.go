package authority

import (
	"context"

	"github.com/mayfly-id/mayfly"
)

// LiveTask is a task for whoever watches what is live.
type LiveTask struct {
	TaskView
	MayRevoke bool
}

// Watch follows what is live, as the caller that was let in, for as long as they
// may be.
type Watch struct {
	a *Authority
	p Presented
	w who
}

// Watch lets a caller follow what is live: of all tasks those they may read.
func (a *Authority) Watch(ctx context.Context, p Presented) (*Watch, error) {
	w, err := a.identify(ctx, &p)
	return &Watch{a, p, w}, err
}

// Still refuses once the caller is not let in any more.
func (x *Watch) Still(ctx context.Context) error { return x.a.still(ctx, x.w, &x.p) }

// Live is one page of what is live, newest first, and the cursor of the next.
func (x *Watch) Live(ctx context.Context, cursor string, limit int) ([]LiveTask, string, error) {
	page, err := x.a.tasks(ctx, x.w, TaskFilter{State: string(mayfly.Live), Cursor: cursor, Limit: limit})
	if err != nil {
		return nil, "", err
	}
	return x.of(page.Tasks, page.rows), page.Next, nil
}

// Of are those of some tasks that are there, and that the caller may read,
// whatever their state.
func (x *Watch) Of(ctx context.Context, ids []mayfly.TaskID) ([]LiveTask, error) {
	rows, err := x.a.db.TasksByID(ctx, ids)
	if err != nil {
		return nil, err
	}
	var views []TaskView
	var tasks []*mayfly.Task
	for _, r := range rows {
		if x.w.mayRead(&r.Task) {
			views, tasks = append(views, x.a.view(ctx, r)), append(tasks, &r.Task)
		}
	}
	return x.of(views, tasks), nil
}

func (x *Watch) of(views []TaskView, rows []*mayfly.Task) []LiveTask {
	list := make([]LiveTask, len(views))
	for i := range views {
		list[i] = LiveTask{views[i], x.w.mayRevoke(rows[i])}
	}
	return list
}
