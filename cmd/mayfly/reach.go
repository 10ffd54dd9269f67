package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/term"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/client"
	"github.com/mayfly-id/mayfly/internal/graph"
	"github.com/mayfly-id/mayfly/internal/reach"
)

// reachView is everything that was touched on somebody's authority.
type reachView struct {
	Of      string          `json:"of"`
	Tasks   []client.Task   `json:"tasks"`   // oldest first
	Touched []reach.Touched `json:"touched"` // by target and action
	Leases  []client.Lease  `json:"leases"`

	whole reach.Reach
}

// forward finds what was touched.
func (c traceCmd) forward(ctx context.Context, t *terminal, api *client.Client) error {
	flags := searchFlags{Human: c.Human, Profile: c.Profile, Agent: c.Task, Since: c.Since, Until: c.Until}
	q, err := flags.query()
	if err != nil {
		return err
	}
	r, err := reachOf(ctx, api, q, progressOn(t.Stderr))
	if err != nil {
		return err
	}
	r.Of = or(c.Human, or(c.Profile, c.Task))
	if t.JSON {
		t.print(r)
	} else if err := r.show(t.Stdout); err != nil {
		return err
	}
	return c.draw(t, r.graph)
}

// reachOf reads every decision that q finds.
func reachOf(ctx context.Context, api *client.Client, q client.Query, progress func(int)) (reachView, error) {
	r := reachView{Tasks: []client.Task{}, Leases: []client.Lease{}}
	lent := map[mayfly.TaskID]bool{}
	known := map[mayfly.TaskID]bool{"": true}
	n := 0
	note := func(e client.Event) error {
		n++
		progress(n)
		if !known[e.Task] {
			known[e.Task] = true
			task, err := api.Task(ctx, e.Task)
			if err != nil {
				return err
			}
			r.Tasks = append(r.Tasks, task)
		}
		if e.Kind != (mayfly.CallDecided{}).Kind() {
			return nil
		}
		a := accessIn(e)
		r.whole.Note(reach.Call{
			At: e.Time, Task: e.Task, Target: a.Target, Action: a.Action, Verdict: a.Decision.Verdict, Term: a.Decision.Term, Labels: a.Snapshot.Labels,
		})
		lent[e.Task] = lent[e.Task] || a.Decision.Verdict == mayfly.Allow && a.Lease != ""
		return nil
	}
	// Tasks that touched nothing are part of the answer.
	for _, kind := range []string{(mayfly.CallDecided{}).Kind(), (mayfly.TaskOpened{}).Kind()} {
		q.Kind = kind
		if err := eachFound(ctx, api, q, 0, note); err != nil {
			return r, err
		}
	}
	progress(0)
	for task, any := range lent {
		if !any {
			continue
		}
		leases, err := api.Leases(ctx, task)
		if err != nil {
			return r, err
		}
		r.Leases = append(r.Leases, leases...)
	}
	r.Touched = r.whole.Touched()
	slices.SortFunc(r.Tasks, func(a, b client.Task) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(r.Leases, func(a, b client.Lease) int { return cmp.Compare(a.Lease, b.Lease) })
	return r, nil
}

// progressOn shows on a terminal how far a long question has come; 0 is its end.
func progressOn(w io.Writer) func(int) {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return func(int) {}
	}
	began, shown := time.Now(), false
	return func(n int) {
		if n == 0 && shown {
			fmt.Fprint(f, "\r\x1b[K")
		} else if n%1000 == 0 && n > 0 && time.Since(began) > time.Second {
			shown = true
			fmt.Fprintf(f, "\r%d records", n)
		}
	}
}

func (r reachView) show(out io.Writer) error {
	fmt.Fprintf(out, "%s touched %s in %s\n", clean(r.Of), count(r.whole.Targets(), "target"), count(len(r.Tasks), "task"))
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	for _, u := range r.Touched {
		what := strings.Join(slices.DeleteFunc([]string{u.AllowedText(), u.RefusedText()}, func(s string) bool { return s == "" }), ", ")
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\n", clean(u.Target), clean(u.Action), what, clean(strings.Join(u.Labels, " ")))
	}
	for _, l := range r.Leases {
		fmt.Fprintf(w, "  %s\t%s\t%s\n", clean(l.Grant), clean(l.Principal), l.State)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, task := range r.Tasks {
		fmt.Fprintf(out, "  %s  %s  for %s: %s  %s\n", task.ID, clean(task.Profile), clean(task.Root.Subject), short(task.Purpose.Text, 60), state(task))
	}
	return nil
}

// graph draws r: whoever is at the roots, the tasks, what they touched.
func (r reachView) graph() *graph.Graph {
	whole := r.whole
	whole.Of = r.Of
	for _, task := range r.Tasks {
		whole.Tasks = append(whole.Tasks, reach.Task{
			ID: task.ID, Parent: task.Parent, Depth: task.Depth, Root: task.Root.Subject, RootKind: task.Root.Kind, Profile: task.Profile, Text: taskText(task),
		})
	}
	for _, l := range r.Leases {
		whole.Leases = append(whole.Leases, reach.Lease{ID: l.Lease, Task: l.Task, Grant: l.Grant, Principal: l.Principal, State: l.State})
	}
	return whole.Graph()
}
