package mayfly

import "time"

// Subject is somebody authority comes from: a human or a service as a source
// named them. The three kinds of identity cannot be confused: a service's id
// begins with "service:", an agent's with "spiffe://", a human's with neither.
type Subject struct {
	Kind   SubjectKind       `json:"kind"`
	ID     string            `json:"sub"`              // as issued in tokens
	Source string            `json:"source,omitempty"` // name of the source that vouched
	Groups []string          `json:"groups,omitempty"` // as the source said at opening
	Claims map[string]string `json:"claims,omitempty"` // the source's other string claims, for match rules
}

// SubjectKind tells the kinds of subject apart.
type SubjectKind string

// The kinds of subject.
const (
	Human    SubjectKind = "human"
	Service  SubjectKind = "service"
	Workload SubjectKind = "workload" // only ever an agent's evidence, never a delegator
	Agent    SubjectKind = "agent"    // an upstream task, as a delegator
)

// Purpose is why a task runs, and who said so.
type Purpose struct {
	Text string `json:"text"` // at most MaxPurpose bytes
	// By is "delegator" where the delegator signed for it (a ticket), "agent"
	// where the agent merely stated it.
	By       string `json:"by"`
	Verified bool   `json:"verified"`
}

// MaxPurpose is the longest purpose, in bytes.
const MaxPurpose = 512

// Evidence is what an agent showed for itself when its task was opened.
type Evidence struct {
	Source   string `json:"source,omitempty"` // the source's name, or "" for an OAuth client
	Subject  string `json:"subject,omitempty"`
	Client   string `json:"client,omitempty"` // the authenticated OAuth client, if any
	Verified bool   `json:"verified"`         // false only under a profile with `none: true`
}

// CloseReason says why a task ended.
type CloseReason string

// The reasons. Completion is said by the holder; everything else is done to it.
const (
	Completed      CloseReason = "completed"
	Revoked        CloseReason = "revoked"
	IdleRanOut     CloseReason = "idle"
	DeadlinePassed CloseReason = "deadline"
	BudgetSpent    CloseReason = "budget"
	ParentEnded    CloseReason = "parent"
	Failed         CloseReason = "failed"
)

// CloseReasons are all of them.
var CloseReasons = []CloseReason{Completed, Revoked, IdleRanOut, DeadlinePassed, BudgetSpent, ParentEnded, Failed}

// Task is one bounded run of work: what may be done, for whom, and until when.
// It is also the agent's identity. Everything but the fields marked "moves" is
// fixed when the task opens.
type Task struct {
	ID       TaskID
	Profile  string
	Bundle   string // hash of the configuration the task was opened under
	Purpose  Purpose
	Root     Subject // the human or service at the root of the chain
	Parent   TaskID  // "" for a root task
	RootTask TaskID  // itself for a root task
	// Ancestors are the tasks above this one, root first, without itself.
	Ancestors []TaskID
	Depth     int     // 0 for a root task
	Grants    []Grant // moves: narrows, and widens within Profile and parents
	Named     []Grant // what the ticket, consent or opening request named
	Agent     Evidence
	Key       string // RFC 7638 thumbprint of the agent's key; "" if the profile lets it be unbound
	// Dlg is the base64url RFC 6962 leaf hash of the event that opened the
	// task; that leaf names its parent's Dlg.
	Dlg      string
	Ticket   string // id of the delegation redeemed, if one was
	OpenedAt time.Time
	Deadline time.Time
	Idle     time.Duration // length of the idle lease

	Budget int64 // calls after which the task ends; 0 is no limit

	IdleUntil time.Time   // moves
	Calls     int64       // moves: calls counted against Budget
	ClosedAt  time.Time   // moves once; zero while open
	Reason    CloseReason // with ClosedAt
	ClosedBy  string      // with ClosedAt
	RetiredAt time.Time   // moves once, after ClosedAt
}

// Chain is every task whose authority a call under t needs: root first, t last.
func (t *Task) Chain() []TaskID {
	return append(append(make([]TaskID, 0, len(t.Ancestors)+1), t.Ancestors...), t.ID)
}

// TaskState is where a task is in its life.
type TaskState string

// The states.
const (
	Live     TaskState = "live"
	Retiring TaskState = "retiring" // over for every decision; what it lent is being returned
	Retired  TaskState = "retired"
)

// State derives where t is in its life at now, and why it left the first state.
//
//	live ──complete, revoke, budget, parent──▶ retiring ──all returned──▶ retired
//	  └────idle or deadline passes (the clock alone)────┘
//
// Expiry is a fact about the clock: no sweeper has to run for an expired task
// to be refused. A parent's end is not visible here; ask the whole chain.
func (t *Task) State(now time.Time) (TaskState, CloseReason) {
	switch {
	case !t.RetiredAt.IsZero():
		return Retired, t.Reason
	case !t.ClosedAt.IsZero():
		return Retiring, t.Reason
	case !now.Before(t.Deadline):
		return Retiring, DeadlinePassed
	case !now.Before(t.IdleUntil):
		return Retiring, IdleRanOut
	default:
		return Live, ""
	}
}

// RenewIdle is the new end of t's idle lease if it is renewed at now, and
// whether that is worth writing: only when less than half of it is left. It
// never passes the deadline.
func (t *Task) RenewIdle(now time.Time) (until time.Time, due bool) {
	until = now.Add(t.Idle)
	if until.After(t.Deadline) {
		until = t.Deadline
	}
	return until, t.IdleUntil.Sub(now) < t.Idle/2 && until.After(t.IdleUntil)
}
