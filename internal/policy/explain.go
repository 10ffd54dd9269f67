package policy

import (
	"strings"

	"github.com/mayfly-id/mayfly"
)

// Step is what one term had to say in a decision.
type Step struct {
	Term   mayfly.Term `json:"term"`
	State  StepState   `json:"state"`
	Detail string      `json:"detail,omitempty"` // one sentence
}

// StepState is how one term went.
type StepState string

// The states.
const (
	StepPassed   StepState = "passed"
	StepDecided  StepState = "decided"   // it refused, or asks for a human
	StepNotAsked StepState = "not asked" // an earlier one decided, or nothing asks for it
	StepObserved StepState = "observed"  // it would have refused, and its target only observes
)

// Explain lays a decision on a call out as its terms, all of them and in order.
// The snapshot may be nil, as it is where the policies were not reached.
func Explain(d mayfly.Decision, snap *mayfly.Snapshot) []Step {
	steps := make([]Step, 0, len(mayfly.Terms))
	decided := false
	for _, term := range mayfly.Terms {
		step := Step{Term: term, State: StepPassed}
		switch {
		case decided, d.Verdict != mayfly.Allow && d.Term == "":
			step.State = StepNotAsked
		case d.Verdict != mayfly.Allow && d.Term == term:
			decided = true
			step.State, step.Detail = StepDecided, d.Reason
		case observes(d, term):
			step.State, step.Detail = StepObserved, "it would have refused; the target is only observed: "+strings.Join(d.Policies, ", ")
		default:
			explainPassed(&step, d, snap)
		}
		steps = append(steps, step)
	}
	return steps
}

func observes(d mayfly.Decision, term mayfly.Term) bool {
	for _, t := range d.Observed {
		if t == term {
			return true
		}
	}
	return false
}

// explainPassed says what is worth saying of a term that refused nothing.
func explainPassed(step *Step, d mayfly.Decision, snap *mayfly.Snapshot) {
	switch step.Term {
	case mayfly.TermDelegator:
		switch {
		case snap == nil:
		case snap.Root:
			step.Detail = "the delegator's own rights were asked"
		default:
			step.Detail = "own rights not consulted"
		}
	case mayfly.TermPolicy:
		if len(d.Policies) > 0 {
			step.Detail = "applied: " + strings.Join(d.Policies, ", ")
		}
	case mayfly.TermApproval:
		if snap == nil || len(snap.Lifted) == 0 {
			step.State, step.Detail = StepNotAsked, "nothing asks for one"
			return
		}
		step.Detail = "approved by " + whose(snap.Lifted)
		if d.Approval != "" {
			step.Detail += " (" + d.Approval + ")"
		}
	}
}
