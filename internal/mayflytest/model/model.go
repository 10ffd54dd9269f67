// Package model is what Mayfly decides, in miniature: tasks, grants, budgets,
// labels seen and approvals in maps, with a clock that is a number, and no store,
// token or policy language. Tests take it and the real system through the same
// steps and compare every answer. It shares no code with what it is compared to,
// and is short enough to be read as a whole. Start reading at [World.Call].
package model

import (
	"fmt"
	"slices"
)

// Answer is a verdict (allow, ask, deny) and the term that refused.
type Answer struct{ Verdict, Term string }

var allow = Answer{Verdict: "allow"}

func deny(term string) Answer { return Answer{"deny", term} }

// Grant lets a task call one tool, or with "*" all. 0 is no limit.
type Grant struct {
	Tool      string
	Max       int // of the argument amount of one call
	Calls     int
	Sum       int // of amounts
	Rate, Per int // calls in so many milliseconds

	of string // the count it goes on with
}

// Limited reports whether g says more than which tool.
func (g Grant) Limited() bool { return g.Max > 0 || g.budget() }

func (g Grant) budget() bool { return g.Calls > 0 || g.Sum > 0 || g.Rate > 0 }

// own is the count of a grant that was cut from none: the tool and its condition.
func (g Grant) own() string { return fmt.Sprint(g.Tool, "#", g.Max) }

func (g Grant) count() string {
	if g.of != "" {
		return g.of
	}
	return g.own()
}

func (g Grant) covers(tool string) bool { return g.Tool == "*" || g.Tool == tool }

func (g Grant) allows(tool string, amount int) bool {
	return g.covers(tool) && (g.Max == 0 || 0 < amount && amount <= g.Max)
}

// less reports whether limit a is within limit b.
func less(a, b int) bool { return b == 0 || 0 < a && a <= b }

func (g Grant) within(c Grant) bool {
	return c.covers(g.Tool) && less(g.Max, c.Max) && less(g.Calls, c.Calls) && less(g.Sum, c.Sum) &&
		(c.Rate == 0 || 0 < g.Rate && g.Rate <= c.Rate && g.Per >= c.Per)
}

func within(grants, ceiling []Grant) bool {
	for _, g := range grants {
		if !slices.ContainsFunc(ceiling, g.within) {
			return false
		}
	}
	return true
}

// from is g as cut from c: it goes on with c's count.
func (g Grant) from(c Grant) Grant {
	if c.budget() {
		if g.of = c.count(); g.of == g.own() {
			g.of = ""
		}
	}
	return g
}

// lower is the smaller of two limits.
func lower(a, b int) int {
	if a == 0 || 0 < b && b < a {
		return b
	}
	return a
}

// and is g with the limits of c beside its own.
func (g Grant) and(c Grant) Grant {
	g.Max, g.Calls, g.Sum = lower(g.Max, c.Max), lower(g.Calls, c.Calls), lower(g.Sum, c.Sum)
	g.Rate, g.Per = lower(g.Rate, c.Rate), max(g.Per, c.Per)
	return g.from(c)
}

// parts is what g means below ceilings: as it is if it states limits, else with
// the limits of whatever covers it. None is a refusal.
func (g Grant) parts(ceilings ...[]Grant) []Grant {
	got := []Grant{g}
	for _, ceiling := range ceilings {
		var next []Grant
		for _, h := range got {
			for _, c := range ceiling {
				if g.Limited() && h.within(c) {
					next = append(next, h.from(c))
					break
				} else if !g.Limited() && c.covers(h.Tool) {
					next = append(next, h.and(c))
				}
			}
		}
		got = nil
		for i, h := range next {
			if g.Limited() || !slices.ContainsFunc(slices.Concat(got, next[i+1:]), h.within) {
				got = append(got, h)
			}
		}
	}
	return got
}

// Profile is what a kind of agent may have at most. It delegates to To.
type Profile struct {
	Name   string
	Humans bool // may delegate to it
	Grants []Grant
	To     []string
	Depth  int
}

// Task is one bounded run of work.
type Task struct {
	Profile       *Profile
	Grants, Named []Grant
	Over          bool // it ended itself

	chain []*Task // root first, with itself
	seen  map[string]bool
	used  map[string]int   // by kind and count
	times map[string][]int // of calls, by count
	asked []*Approval
}

// Live reports whether t and all above it are.
func (t *Task) Live() bool {
	return !slices.ContainsFunc(t.chain, func(up *Task) bool { return up.Over })
}

// World is a system with one root delegator, whose policies are these: a call of
// Egress is refused once the tree has seen Untrusted; one with an amount over
// Large asks Finance; giving a running task's child or the task itself the grant
// Egress asks Security.
type World struct {
	Now      int // milliseconds
	Profiles map[string]*Profile
	Labels   map[string]string // of tools
	Large    int
}

// The labels and groups the policies name, and the tool they are about.
const (
	Untrusted, Egress = "untrusted", "egress"
	Finance, Security = "finance", "security"
	Delegator         = "@delegator"
	Pay, Send         = "pay", "send"
)

// Open opens a task of a profile, below parent unless that is nil. No tool is
// asked for twice.
func (w *World) Open(parent *Task, profile string, ask []Grant) (*Task, *Approval, Answer) {
	p, ceilings, chain := w.Profiles[profile], [][]Grant(nil), []*Task(nil)
	if parent != nil {
		if chain = parent.chain; !parent.Live() {
			return nil, nil, deny("liveness")
		}
		ceilings = [][]Grant{parent.Grants}
	}
	var grants []Grant
	ask = slices.SortedStableFunc(slices.Values(ask), func(a, b Grant) int { return one(b.Limited()) - one(a.Limited()) })
	for _, g := range ask {
		parts := g.parts(append([][]Grant{p.Grants}, ceilings...)...)
		if len(parts) == 0 {
			return nil, nil, deny("")
		}
		grants = append(grants, parts...)
	}
	t := &Task{Profile: p, Grants: grants, Named: grants, used: map[string]int{}, times: map[string][]int{}, seen: map[string]bool{}}
	t.chain = append(slices.Clone(chain), t)
	if parent == nil {
		if !p.Humans {
			return nil, nil, deny("delegator")
		}
		return t, nil, allow
	}
	t.seen = parent.seen
	if !slices.Contains(parent.Profile.To, profile) {
		return nil, nil, deny("delegator")
	}
	needs := []string(nil)
	for _, up := range chain {
		if len(chain) > up.Profile.Depth || !within(grants, up.Grants) || !within(grants, up.Profile.Grants) {
			return nil, nil, deny("parent")
		}
	}
	if slices.ContainsFunc(grants, func(g Grant) bool { return g.covers(Send) }) {
		needs = []string{Security}
	}
	a, answer := w.approved(parent, fmt.Sprint("open ", profile, grants), needs)
	if answer != allow {
		return nil, a, answer
	}
	return t, a.use(), allow
}

// one is 1 where b is true.
func one(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Narrow leaves a task what is both its own and in ask.
func (w *World) Narrow(t *Task, ask []Grant) Answer {
	if !t.Live() {
		return deny("liveness")
	}
	var left []Grant
	for _, g := range ask {
		parts := g.parts(t.Grants)
		if len(parts) == 0 {
			return deny("")
		}
		left = append(left, parts...)
	}
	t.Grants = left
	return allow
}

// Widen gives a running task more, within its profile and all above it.
func (w *World) Widen(t *Task, ask []Grant) (*Approval, Answer) {
	if !t.Live() {
		return nil, deny("liveness")
	}
	ceilings, above := [][]Grant{t.Profile.Grants}, t.chain[:len(t.chain)-1]
	for _, up := range above {
		ceilings = append(ceilings, up.Grants)
	}
	var more []Grant
	for _, g := range ask {
		parts := g.parts(ceilings...)
		if len(parts) == 0 {
			return nil, deny("profile")
		}
		more = append(more, parts...)
	}
	more = slices.DeleteFunc(more, func(g Grant) bool { return within([]Grant{g}, t.Grants) })
	var needs []string
	for _, g := range more {
		switch {
		case g.covers(Send):
			needs = append(needs, Security)
		case !within([]Grant{g}, t.Named):
			needs = append(needs, Delegator)
		}
	}
	if slices.ContainsFunc(above, func(up *Task) bool { return !within(more, up.Profile.Grants) }) {
		return nil, deny("parent")
	}
	a, answer := w.approved(t, fmt.Sprint("widen ", more), needs)
	if answer == allow {
		a.use()
		t.Grants = slices.Concat(t.Grants, more)
	}
	return a, answer
}

// End ends a task, and with it all below it.
func (w *World) End(t *Task) { t.Over = true }
