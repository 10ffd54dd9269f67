package model

import (
	"fmt"
	"slices"
)

// Spent is what an allowed call cost.
type Spent struct {
	spends   []spend
	approval *Approval
}

type spend struct {
	task   *Task
	kind   string // calls, sum or rate
	count  string
	amount int
	most   int
	per    int
}

func (s spend) key() string { return s.kind + " " + s.count }

// find picks the grant that allows a call, rather one without a budget, and adds
// to spends what it counts against t.
func find(spends *[]spend, t *Task, grants []Grant, tool string, amount int) bool {
	var found *Grant
	for i := range grants {
		if g := &grants[i]; g.allows(tool, amount) && (found == nil || found.budget() && !g.budget()) {
			found = g
		}
	}
	if found == nil {
		return false
	}
	for _, s := range []spend{
		{t, "calls", found.count(), 1, found.Calls, 0}, {t, "sum", found.count(), amount, found.Sum, 0},
		{t, "rate", found.count(), 1, found.Rate, found.Per},
	} {
		if s.most == 0 {
			continue
		}
		i := slices.IndexFunc(*spends, func(o spend) bool { return o.task == t && o.key() == s.key() })
		if i < 0 {
			*spends = append(*spends, s)
			continue
		}
		have := &(*spends)[i]
		have.most, have.per = min(have.most, s.most), max(have.per, s.per)
	}
	return true
}

// Call decides on one call of t and counts it; amount 0 is none. The token is
// limited to what it carries; nil stands for the whole task.
func (w *World) Call(t *Task, token []Grant, tool string, amount int) (*Spent, *Approval, Answer) {
	var spends []spend
	switch {
	case !t.Live():
		return nil, nil, deny("liveness")
	case token != nil && !find(&spends, t, token, tool, amount):
		return nil, nil, deny("token")
	case !find(&spends, t, t.Profile.Grants, tool, amount):
		return nil, nil, deny("profile")
	case !find(&spends, t, t.Grants, tool, amount):
		return nil, nil, deny("task")
	}
	for _, up := range t.chain[:len(t.chain)-1] {
		if !find(&spends, up, up.Grants, tool, amount) || !find(&spends, up, up.Profile.Grants, tool, amount) {
			return nil, nil, deny("parent")
		}
	}
	if w.Labels[tool] == Egress && t.seen[Untrusted] {
		return nil, nil, deny("policy")
	}
	if amount == 0 && slices.ContainsFunc(spends, func(s spend) bool { return s.kind == "sum" }) {
		return nil, nil, deny("budget") // what it adds is not known
	}
	var needs []string
	if tool == Pay && amount > w.Large {
		needs = []string{Finance}
	}
	a, answer := w.approved(t, fmt.Sprint("call ", tool, amount), needs)
	if answer != allow {
		return nil, a, answer
	}
	for _, s := range spends {
		if s.kind == "rate" {
			s.amount = 1
			for _, at := range s.task.times[s.count] {
				s.amount += one(at > w.Now-s.per)
			}
		} else {
			s.amount += s.task.used[s.key()]
		}
		if s.amount > s.most {
			return nil, nil, deny("budget")
		}
	}
	for _, s := range spends {
		if s.kind == "rate" {
			s.task.times[s.count] = append(s.task.times[s.count], w.Now)
		} else {
			s.task.used[s.key()] += s.amount
		}
	}
	if label := w.Labels[tool]; label != "" {
		t.seen[label] = true
	}
	return &Spent{spends, a.use()}, a, allow
}

// Return gives back what a call cost that no target saw: all but its rate, and
// what its tree has seen.
func (w *World) Return(s *Spent) {
	for _, sp := range s.spends {
		if sp.kind != "rate" {
			sp.task.used[sp.key()] -= sp.amount
		}
	}
	if s.approval != nil {
		s.approval.used = false
	}
}

// Approval is a request that humans answer. Each of needs must say yes.
type Approval struct {
	key    string
	needs  []string
	yes    map[string]bool
	denied bool
	used   bool
}

func (a *Approval) waiting() bool { return len(a.yes) < len(a.needs) && !a.denied }

func (a *Approval) use() *Approval {
	if a != nil {
		a.used = true
	}
	return a
}

// How many requests of a task may wait, and how many it may make. Time goes on by
// seconds here, so that none expires and no hour ends.
const maxWaiting, maxAsked = 3, 6

// approved finds the approval for exactly this, or asks for one where it needs
// one.
func (w *World) approved(t *Task, key string, needs []string) (*Approval, Answer) {
	slices.Sort(needs)
	if needs = slices.Compact(needs); len(needs) == 0 {
		return nil, allow
	}
	waiting := 0
	for _, a := range slices.Backward(t.asked) {
		if a.key == key && !a.used {
			switch {
			case a.waiting():
				return a, Answer{"ask", "approval"}
			case a.denied:
				return nil, deny("approval")
			default:
				return a, allow
			}
		}
	}
	for _, a := range t.asked {
		waiting += one(a.waiting())
	}
	if waiting >= maxWaiting || len(t.asked) >= maxAsked {
		return nil, deny("approval")
	}
	a := &Approval{key: key, needs: needs, yes: map[string]bool{}}
	t.asked = append(t.asked, a)
	return a, Answer{"ask", "approval"}
}

// Human is somebody who answers. Root is whether the tasks are theirs.
type Human struct {
	Name   string
	Groups []string
	Root   bool
}

func (h Human) speaksFor(need string) bool {
	return need == Delegator && h.Root || !h.Root && slices.Contains(h.Groups, need)
}

// Approve says yes for whatever h may speak for and reports whether it counts.
func (a *Approval) Approve(h Human) bool {
	counts := false
	for _, need := range a.needs {
		if a.waiting() && h.speaksFor(need) && !a.yes[need] {
			counts = true
		}
	}
	for _, need := range a.needs {
		if counts && h.speaksFor(need) {
			a.yes[need] = true
		}
	}
	return counts
}

// Deny says no, also after a yes that was not used, and reports whether it
// counts.
func (a *Approval) Deny(h Human) bool {
	asked := h.Root || slices.ContainsFunc(a.needs, func(need string) bool { return slices.Contains(h.Groups, need) })
	if !asked || a.used || a.denied {
		return false
	}
	a.denied = true
	return true
}
