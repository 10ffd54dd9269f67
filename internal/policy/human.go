package policy

import (
	"slices"
	"strings"
	"time"

	"github.com/cedar-policy/cedar-go"

	"github.com/mayfly-id/mayfly"
)

// ApproveQuestion is a human who wants to say yes for one need of an approval.
type ApproveQuestion struct {
	Human       mayfly.Subject // as a source names them now
	Approval    *mayfly.Approval
	Need        string
	Profile     *mayfly.Profile // of the task that asks, or that is to be opened; nil where it is gone
	Depth       int             // of that task
	Now         time.Time
	SourceIP    string
	TrustDomain string
}

// MayApprove reports whether the human may speak for the need: is one of the
// group it names, or the root delegator where it names that; is not the one for
// whom the action is asked for, but where the need is just theirs; and no
// policy forbids it. Otherwise the reason is one sentence. Whatever goes wrong
// here is a no.
func MayApprove(s *Set, q *ApproveQuestion) (ok bool, reason string) {
	defer func() {
		if recover() != nil {
			ok, reason = false, "the rules could not be evaluated, so the answer is no"
		}
	}()
	a := q.Approval
	isRoot := a.Root.Kind == mayfly.Human && a.Root.ID == q.Human.ID
	switch {
	case q.Human.Kind != mayfly.Human || q.Human.ID == "":
		return false, "only a human can approve"
	case !slices.Contains(a.Needs, q.Need):
		return false, "this approval does not ask for that"
	case q.Need == mayfly.NeedDelegator && !isRoot:
		return false, "only the one who delegated the task can approve this"
	case q.Need == mayfly.NeedDelegator:
	case isRoot:
		return false, "nobody approves what is done in their own name"
	case !slices.Contains(q.Human.Groups, q.Need):
		return false, "only somebody of " + q.Need + " can approve this"
	}
	grants := strings.Fields(a.Grant)
	if a.What == "call" {
		grants = []string{a.Grant}
	}
	if len(grants) == 0 {
		return false, "what this approval is for cannot be read"
	}
	w := newWorld(a.Root, []Link{{Profile: q.Profile}}, q.Profile)
	w.trustDomain, w.now, w.sourceIP, w.purpose = q.TrustDomain, q.Now, q.SourceIP, a.Purpose
	w.asking, w.depth = &q.Human, q.Depth
	for _, short := range grants {
		parts := strings.SplitN(short, ":", 3)
		if len(parts) != 3 {
			return false, "what this approval is for cannot be read"
		}
		if a.What == "call" {
			w.on(parts[0], parts[1], parts[2])
		} else {
			w.onGrant(&mayfly.Grant{Kind: parts[0], Target: parts[1], Action: parts[2]})
		}
		// A forbid that asks for an approval does not forbid to give it: only a
		// firm one counts.
		switch v := w.ask(s, actionApprove, person(q.Human)); {
		case v.errs():
			return false, named(v.erred) + " could not be evaluated, and a policy that errs refuses"
		case len(v.firm) > 0:
			return false, named(v.firm) + " " + forbid(v.firm) + " to approve this"
		}
	}
	return true, ""
}

// TaskQuestion is a human or service who wants to do something about a task that
// is not theirs.
type TaskQuestion struct {
	Subject     mayfly.Subject // as a source names them now
	Chain       []Link         // root first; the last is the task in question
	Now         time.Time
	SourceIP    string
	TrustDomain string
}

// MayRead reports whether a policy permits to read the task and what is recorded
// of it, and if not, why. Whatever goes wrong here is a no.
func MayRead(s *Set, q *TaskQuestion) (ok bool, reason string) { return q.may(s, actionRead) }

// MayRevoke reports whether a policy permits to end the task, and if not, why.
// Whatever goes wrong here is a no.
func MayRevoke(s *Set, q *TaskQuestion) (ok bool, reason string) { return q.may(s, actionRevoke) }

// may asks for a permit. Nothing is permitted here without one.
func (q *TaskQuestion) may(s *Set, action cedar.EntityUID) (ok bool, reason string) {
	defer func() {
		if recover() != nil {
			ok, reason = false, "the rules could not be evaluated, so the answer is no"
		}
	}()
	if len(q.Chain) == 0 || q.Chain[len(q.Chain)-1].Task == nil || q.Subject.ID == "" ||
		q.Subject.Kind != mayfly.Human && q.Subject.Kind != mayfly.Service {
		return false, "there is nothing to ask about"
	}
	l := &q.Chain[len(q.Chain)-1]
	w := newWorld(l.Task.Root, q.Chain, l.Profile)
	w.trustDomain, w.now, w.sourceIP = q.TrustDomain, q.Now, q.SourceIP
	w.purpose, w.depth = l.Task.Purpose, l.Task.Depth
	w.asking, w.resource = &q.Subject, w.agent(l.Task)
	switch v := w.ask(s, action, person(q.Subject)); {
	case v.errs():
		return false, named(v.erred) + " could not be evaluated, and a policy that errs refuses"
	case len(v.forbids) > 0:
		return false, named(v.forbids) + " " + forbid(v.forbids) + " it"
	case len(v.permits) == 0:
		return false, "no policy permits it"
	}
	return true, ""
}
