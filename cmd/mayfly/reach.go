package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/term"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/client"
	"github.com/mayfly-id/mayfly/internal/graph"
)

// reach is everything that was touched on somebody's authority.
type reach struct {
	Of      string         `json:"of"`
	Tasks   []client.Task  `json:"tasks"`   // oldest first
	Touched []touched      `json:"touched"` // by target and action
	Leases  []client.Lease `json:"leases"`
}

// touched is one action of one target, and what became of asking for it.
type touched struct {
	Target  string              `json:"target"`
	Action  string              `json:"action"`
	Allowed int                 `json:"allowed"`
	Refused map[mayfly.Term]int `json:"refused,omitempty"` // by the term that refused; "" waited for an approval
	Labels  []string            `json:"labels,omitempty"`
	Tasks   []mayfly.TaskID     `json:"tasks"`
	First   time.Time           `json:"first"`
	Last    time.Time           `json:"last"`
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
func reachOf(ctx context.Context, api *client.Client, q client.Query, progress func(int)) (reach, error) {
	r := reach{Tasks: []client.Task{}, Touched: []touched{}, Leases: []client.Lease{}}
	all := map[[2]string]*touched{}
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
		key := [2]string{or(a.Target, "erased"), a.Action}
		u := all[key]
		if u == nil {
			u = &touched{Target: key[0], Action: key[1], Refused: map[mayfly.Term]int{}, Last: e.Time}
			all[key] = u
		}
		u.First = e.Time // the newest come first
		if a.Decision.Verdict == mayfly.Allow {
			u.Allowed++
			lent[e.Task] = lent[e.Task] || a.Lease != ""
		} else {
			u.Refused[a.Decision.Term]++
		}
		for _, l := range a.Snapshot.Labels {
			if !slices.Contains(u.Labels, l) {
				u.Labels = append(u.Labels, l)
			}
		}
		if !slices.Contains(u.Tasks, e.Task) {
			u.Tasks = append(u.Tasks, e.Task)
		}
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
	for task := range lent {
		leases, err := api.Leases(ctx, task)
		if err != nil {
			return r, err
		}
		r.Leases = append(r.Leases, leases...)
	}
	for _, u := range all {
		slices.Sort(u.Labels)
		r.Touched = append(r.Touched, *u)
	}
	slices.SortFunc(r.Touched, func(a, b touched) int {
		return cmp.Or(cmp.Compare(a.Target, b.Target), cmp.Compare(a.Action, b.Action))
	})
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

// refused is how often something was refused and by which terms.
func (u touched) refused() string {
	total := 0
	var terms []string
	for _, term := range slices.Sorted(maps.Keys(u.Refused)) {
		total += u.Refused[term]
		terms = append(terms, fmt.Sprintf("%s %d", or(string(term), "approval"), u.Refused[term]))
	}
	if total == 0 {
		return ""
	}
	return fmt.Sprintf("%d refused (%s)", total, strings.Join(terms, ", "))
}

func (u touched) allowed() string {
	if u.Allowed == 0 {
		return ""
	}
	return fmt.Sprintf("%d allowed", u.Allowed)
}

func (r reach) show(out io.Writer) error {
	targets := map[string]bool{}
	for _, u := range r.Touched {
		if u.Allowed > 0 {
			targets[u.Target] = true
		}
	}
	fmt.Fprintf(out, "%s touched %s in %s\n", clean(r.Of), count(len(targets), "target"), count(len(r.Tasks), "task"))
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	for _, u := range r.Touched {
		what := strings.Join(slices.DeleteFunc([]string{u.allowed(), u.refused()}, func(s string) bool { return s == "" }), ", ")
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
func (r reach) graph() *graph.Graph {
	g := &graph.Graph{Title: "What " + r.Of + " touched"}
	shown := r.Tasks[:min(len(r.Tasks), drawnMost)]
	deepest := 0
	there := map[mayfly.TaskID]bool{}
	roots := map[string]bool{}
	for _, task := range shown {
		there[task.ID] = true
		deepest = max(deepest, task.Depth)
		if root := task.Root.Subject; !roots[root] {
			roots[root] = true
			g.Boxes = append(g.Boxes, graph.Box{ID: "root " + root, Kind: graph.Delegator, Title: root, Text: []string{string(task.Root.Kind)}})
		}
	}
	for _, task := range shown {
		g.Boxes = append(g.Boxes, taskBox(task, task.Depth+1))
		from := "root " + task.Root.Subject
		if there[task.Parent] {
			from = string(task.Parent)
		}
		g.Lines = append(g.Lines, graph.Line{From: from, To: string(task.ID)})
	}
	for i, u := range r.Touched[:min(len(r.Touched), drawnMost)] {
		kind := graph.Touched
		if u.Allowed == 0 {
			kind = graph.Refused
		}
		id := fmt.Sprint("touched ", i)
		lines := slices.DeleteFunc([]string{u.allowed(), u.refused(), strings.Join(u.Labels, " ")}, func(s string) bool { return s == "" })
		g.Boxes = append(g.Boxes, graph.Box{ID: id, Column: deepest + 2, Kind: kind, Title: u.Target + " " + u.Action, Text: lines})
		for _, task := range u.Tasks {
			g.Lines = append(g.Lines, graph.Line{From: string(task), To: id})
		}
	}
	for _, l := range r.Leases[:min(len(r.Leases), drawnMost)] {
		kind := graph.Lent
		if !l.ReturnedAt.IsZero() {
			kind = graph.Returned
		}
		g.Boxes = append(g.Boxes, graph.Box{ID: string(l.Lease), Column: deepest + 2, Kind: kind, Title: l.Grant, Text: []string{l.Principal, string(l.State)}})
		g.Lines = append(g.Lines, graph.Line{From: string(l.Task), To: string(l.Lease)})
	}
	return g
}
