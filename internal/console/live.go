package console

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/authority"
	"github.com/mayfly-id/mayfly/internal/strictjson"
)

// row is a live task, for the page and for the script that keeps it current.
type row struct {
	ID       mayfly.TaskID      `json:"id"`
	Parent   mayfly.TaskID      `json:"parent,omitempty"`
	Depth    int                `json:"depth"`
	Profile  string             `json:"profile"`
	Root     string             `json:"root"`
	Kind     mayfly.SubjectKind `json:"kind"`
	Purpose  string             `json:"purpose"`
	Opened   int64              `json:"opened"` // times in milliseconds
	Idle     int64              `json:"idle"`   // until when it may go quiet
	Deadline int64              `json:"deadline"`
	Last     string             `json:"last,omitempty"`
	Verdict  mayfly.Verdict     `json:"verdict,omitempty"`
	LastAt   int64              `json:"lastAt,omitempty"`
	Revoke   bool               `json:"revoke"`
}

func (c *Console) row(t *authority.LiveTask) row {
	r := row{
		ID: t.ID, Parent: t.Parent, Depth: t.Depth, Profile: t.Profile, Root: t.Root.Subject, Kind: t.Root.Kind,
		Purpose: authority.Plain(t.Purpose.Text, 280), Opened: t.OpenedAt.UnixMilli(), Idle: t.IdleUntil.UnixMilli(), Deadline: t.Deadline.UnixMilli(),
		Revoke: t.MayRevoke,
	}
	if l, ok := c.board.lastOf(t.ID); ok {
		r.Last, r.Verdict, r.LastAt = authority.Plain(l.What, 200), l.Verdict, l.At.UnixMilli()
	}
	return r
}

// firstRows is how many tasks the page itself has; the rest comes with the stream,
// or on further pages where there is no script.
const firstRows = 100

// live shows every live task there is for this human.
func (v *visit) live() error {
	v.c.board.look()
	watch, err := v.c.a.Watch(v.ctx(), v.presented())
	if err != nil {
		return err
	}
	tasks, next, err := watch.Live(v.ctx(), v.r.URL.Query().Get("cursor"), firstRows)
	if err != nil {
		return err
	}
	rows := make([]row, len(tasks))
	for i := range tasks {
		rows[i] = v.c.row(&tasks[i])
	}
	return v.show(http.StatusOK, "live", "Live", "live", struct {
		Rows []row
		Next string
	}{asTree(rows), next})
}

// asTree puts every task below the one that it hangs under, if that is there.
func asTree(rows []row) []row {
	there := map[mayfly.TaskID]bool{}
	for _, r := range rows {
		there[r.ID] = true
	}
	below := map[mayfly.TaskID][]row{}
	for _, r := range rows {
		up := r.Parent
		if !there[up] {
			up = ""
		}
		below[up] = append(below[up], r)
	}
	out := make([]row, 0, len(rows))
	var walk func(mayfly.TaskID)
	walk = func(up mayfly.TaskID) {
		for _, r := range below[up] {
			out = append(out, r)
			walk(r.ID)
		}
	}
	walk("")
	return out
}

// Times of a stream.
const (
	streamMax   = 15 * time.Minute // then the browser comes back by itself
	streamStill = 2 * time.Second  // how often it is asked whether the human is still let in
	streamWrite = 10 * time.Second // for one write
	streamPause = 250 * time.Millisecond
	streamBatch = 500
)

// changes keeps a page current: all that is live, and from then on what changes
// (server-sent events of the HTML standard, section 9.2).
func (v *visit) changes() error {
	watch, err := v.c.a.Watch(v.ctx(), v.presented())
	if err != nil {
		return err
	}
	watcher, stop, err := v.c.board.watch(v.me.Human)
	if err != nil {
		return err
	}
	defer stop()
	ctx, cancel := context.WithTimeout(v.ctx(), streamMax)
	defer cancel()
	h := v.w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("X-Accel-Buffering", "no") // a proxy must not keep it
	s := &stream{w: v.w, c: http.NewResponseController(v.w)}
	if err := s.pour(ctx, v.c, watch, watcher); err != nil && ctx.Err() == nil && !errors.Is(err, errLeft) {
		v.c.o.Logger.Info("a page is not kept current any more", "error", err)
	}
	return nil
}

type stream struct {
	w http.ResponseWriter
	c *http.ResponseController
}

// errLeft says that the reader is gone: there is nobody to tell.
var errLeft = errors.New("the reader left")

func (s *stream) send(event string, data any) error {
	text, err := strictjson.Marshal(data)
	if err != nil {
		return err
	}
	if err := s.c.SetWriteDeadline(time.Now().Add(streamWrite)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	if _, err := fmt.Fprintf(s.w, "event: %s\ndata: %s\n\n", event, text); err != nil {
		return errLeft
	}
	if err := s.c.Flush(); err != nil {
		return errLeft
	}
	return nil
}

func (s *stream) pour(ctx context.Context, c *Console, watch *authority.Watch, w *watcher) error {
	if err := s.send("start", struct {
		Now int64 `json:"now"`
	}{c.a.Now().UnixMilli()}); err != nil {
		return err
	}
	for cursor, more := "", true; more; more = cursor != "" {
		tasks, next, err := watch.Live(ctx, cursor, streamBatch)
		if err != nil {
			return err
		}
		if err := s.rows(c, tasks); err != nil {
			return err
		}
		cursor = next
	}
	if err := s.send("whole", struct{}{}); err != nil {
		return err
	}
	still := time.NewTicker(streamStill)
	defer still.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.closing:
			return nil
		case <-still.C:
			if err := watch.Still(ctx); err != nil {
				return err
			}
			if err := s.send("now", c.a.Now().UnixMilli()); err != nil {
				return err
			}
			continue
		case <-w.news:
		}
		if err := s.news(ctx, c, watch, c.board.changes(w, streamBatch)); err != nil {
			return err
		}
		// What comes in the meantime comes together.
		pause := time.NewTimer(streamPause)
		select {
		case <-ctx.Done():
			pause.Stop()
			return nil
		case <-pause.C:
		}
	}
}

// news tells what became of tasks.
func (s *stream) news(ctx context.Context, c *Console, watch *authority.Watch, ids []mayfly.TaskID) error {
	tasks, err := watch.Of(ctx, ids)
	if err != nil {
		return err
	}
	live := map[mayfly.TaskID]bool{}
	tasks = slices.DeleteFunc(tasks, func(t authority.LiveTask) bool { return t.State != mayfly.Live })
	for _, t := range tasks {
		live[t.ID] = true
	}
	gone := slices.DeleteFunc(ids, func(id mayfly.TaskID) bool { return live[id] })
	if len(gone) > 0 {
		if err := s.send("gone", gone); err != nil {
			return err
		}
	}
	return s.rows(c, tasks)
}

func (s *stream) rows(c *Console, tasks []authority.LiveTask) error {
	if len(tasks) == 0 {
		return nil
	}
	rows := make([]row, len(tasks))
	for i := range tasks {
		rows[i] = c.row(&tasks[i])
	}
	return s.send("rows", rows)
}
