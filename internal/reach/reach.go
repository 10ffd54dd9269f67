// Package reach puts together what was touched on somebody's authority, by target
// and action, from decisions one by one, and draws it. Start at [Reach.Note].
package reach

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/graph"
)

// Reach is everything that was touched on somebody's authority.
type Reach struct {
	Of     string
	Tasks  []Task
	Leases []Lease

	touched map[[2]string]*Touched
}

// Task is one that acted, or could have.
type Task struct {
	ID, Parent mayfly.TaskID
	Depth      int
	Root       string
	RootKind   mayfly.SubjectKind
	Profile    string
	Text       []string // about it, below its profile
	Link       string   // to its page, if it has one
	Here       bool     // the one that it is all about
}

// Lease is a credential that was lent to one of them.
type Lease struct {
	ID        mayfly.LeaseID
	Task      mayfly.TaskID
	Grant     string
	Principal string
	State     mayfly.LeaseState
}

// Touched is one action of one target, and what became of asking for it.
type Touched struct {
	Target  string              `json:"target"`
	Action  string              `json:"action"`
	Allowed int                 `json:"allowed"`
	Refused map[mayfly.Term]int `json:"refused,omitempty"` // by the term that refused; "" waited for an approval
	Labels  []string            `json:"labels,omitempty"`
	Tasks   []mayfly.TaskID     `json:"tasks"`
	First   time.Time           `json:"first"`
	Last    time.Time           `json:"last"`
}

// Call is one decision.
type Call struct {
	At      time.Time
	Task    mayfly.TaskID
	Target  string // "" where the person it is about was erased
	Action  string
	Verdict mayfly.Verdict
	Term    mayfly.Term
	Labels  []string
}

// Note adds one decision.
func (r *Reach) Note(c Call) {
	if c.Target == "" {
		c.Target = "erased"
	}
	if r.touched == nil {
		r.touched = map[[2]string]*Touched{}
	}
	key := [2]string{c.Target, c.Action}
	u := r.touched[key]
	if u == nil {
		u = &Touched{Target: c.Target, Action: c.Action, Refused: map[mayfly.Term]int{}, First: c.At, Last: c.At}
		r.touched[key] = u
	}
	if c.At.Before(u.First) {
		u.First = c.At
	}
	if c.At.After(u.Last) {
		u.Last = c.At
	}
	if c.Verdict == mayfly.Allow {
		u.Allowed++
	} else {
		u.Refused[c.Term]++
	}
	for _, l := range c.Labels {
		if !slices.Contains(u.Labels, l) {
			u.Labels = append(u.Labels, l)
		}
	}
	slices.Sort(u.Labels)
	if !slices.Contains(u.Tasks, c.Task) {
		u.Tasks = append(u.Tasks, c.Task)
	}
}

// Touched is what was noted, by target and action.
func (r *Reach) Touched() []Touched {
	list := make([]Touched, 0, len(r.touched))
	for _, u := range r.touched {
		list = append(list, *u)
	}
	slices.SortFunc(list, func(a, b Touched) int {
		return cmp.Or(cmp.Compare(a.Target, b.Target), cmp.Compare(a.Action, b.Action))
	})
	return list
}

// Targets is how many targets let something through.
func (r *Reach) Targets() int {
	targets := map[string]bool{}
	for _, u := range r.touched {
		if u.Allowed > 0 {
			targets[u.Target] = true
		}
	}
	return len(targets)
}

// AllowedText is how often it was allowed, "" if never.
func (u Touched) AllowedText() string {
	if u.Allowed == 0 {
		return ""
	}
	return fmt.Sprintf("%d allowed", u.Allowed)
}

// RefusedText is how often it was refused and by which terms, "" if never.
func (u Touched) RefusedText() string {
	total := 0
	var terms []string
	for _, term := range slices.Sorted(maps.Keys(u.Refused)) {
		total += u.Refused[term]
		terms = append(terms, fmt.Sprintf("%s %d", cmp.Or(string(term), "approval"), u.Refused[term]))
	}
	if total == 0 {
		return ""
	}
	return fmt.Sprintf("%d refused (%s)", total, strings.Join(terms, ", "))
}

// DrawnMost is how many boxes of a kind a drawing shows.
const DrawnMost = 40

// Graph draws r: whoever is at the roots, the tasks, what they touched.
func (r *Reach) Graph() *graph.Graph {
	g := &graph.Graph{Title: "What " + r.Of + " touched"}
	shown := r.Tasks[:min(len(r.Tasks), DrawnMost)]
	deepest := 0
	there := map[mayfly.TaskID]bool{}
	roots := map[string]bool{}
	for _, task := range shown {
		there[task.ID] = true
		deepest = max(deepest, task.Depth)
		if !roots[task.Root] {
			roots[task.Root] = true
			g.Boxes = append(g.Boxes, graph.Box{ID: "root " + task.Root, Kind: graph.Delegator, Title: task.Root, Text: []string{string(task.RootKind)}})
		}
	}
	for _, task := range shown {
		g.Boxes = append(g.Boxes, graph.Box{
			ID: string(task.ID), Column: task.Depth + 1, Kind: graph.Task, Title: task.Profile, Text: task.Text, Link: task.Link, Here: task.Here,
		})
		from := "root " + task.Root
		if there[task.Parent] {
			from = string(task.Parent)
		}
		g.Lines = append(g.Lines, graph.Line{From: from, To: string(task.ID)})
	}
	touched := r.Touched()
	for i, u := range touched[:min(len(touched), DrawnMost)] {
		kind := graph.Touched
		if u.Allowed == 0 {
			kind = graph.Refused
		}
		id := fmt.Sprint("touched ", i)
		lines := slices.DeleteFunc([]string{u.AllowedText(), u.RefusedText(), strings.Join(u.Labels, " ")}, func(s string) bool { return s == "" })
		g.Boxes = append(g.Boxes, graph.Box{ID: id, Column: deepest + 2, Kind: kind, Title: u.Target + " " + u.Action, Text: lines})
		for _, task := range u.Tasks {
			g.Lines = append(g.Lines, graph.Line{From: string(task), To: id})
		}
	}
	for _, l := range r.Leases[:min(len(r.Leases), DrawnMost)] {
		kind := graph.Lent
		if l.State == mayfly.LeaseReturned {
			kind = graph.Returned
		}
		g.Boxes = append(g.Boxes, graph.Box{ID: string(l.ID), Column: deepest + 2, Kind: kind, Title: l.Grant, Text: []string{l.Principal, string(l.State)}})
		g.Lines = append(g.Lines, graph.Line{From: string(l.Task), To: string(l.ID)})
	}
	return g
}
