package mayfly

import (
	"slices"
	"time"
)

// Approval is one human's yes, or several, to one exact action: a call, the
// opening of a task, or the widening of one. It fits that action under the rules
// it was asked for, once.
type Approval struct {
	ID       string
	What     string // call, open or widen
	Task     TaskID // that asks; with open, the parent or ""
	RootTask TaskID
	Profile  string
	Root     Subject
	Purpose  Purpose
	Decision string   // that asked for it
	Bundle   string   // hash of the rules it was asked under
	Key      string   // hash of everything it is bound to
	Grant    string   // what is to be done: the short form of the call or grant
	Needs    []string // who must say yes: groups, or NeedDelegator
	// Request is the action for a human to read, made from the canonical request:
	// a JSON object. It is dropped when the approval ends.
	Request string
	Policy  []string // ids of the policies that ask
	Usable  time.Duration
	AskedAt time.Time
	// ExpiresAt is when an unanswered request is over.
	ExpiresAt time.Time

	Votes       []Vote    // moves
	ApprovedAt  time.Time // moves once: when the last of Needs said yes
	UsableUntil time.Time // with ApprovedAt
	DeniedAt    time.Time // moves once
	DeniedBy    string
	Note        string    // of who denied
	UsedAt      time.Time // moves; back again only if nothing was sent
}

// Vote is one yes.
type Vote struct {
	Need string    `json:"need"` // the one of Needs it speaks for
	By   string    `json:"by"`   // the human's id
	At   time.Time `json:"at"`
}

// How long an approval may wait for an answer, and by default be used after it.
const (
	ApprovalPending = 10 * time.Minute
	ApprovalUsable  = 10 * time.Minute
)

// ApprovalState is where an approval is in its life.
type ApprovalState string

// The states.
const (
	Waiting        ApprovalState = "pending"
	Approved       ApprovalState = "approved"
	ApprovalDenied ApprovalState = "denied"
	Expired        ApprovalState = "expired"
	Used           ApprovalState = "used"
)

// State derives where a is in its life at now.
//
//	pending ──all say yes──▶ approved ──its call──▶ used
//	   │ └──one says no──▶ denied   └──too late──▶ expired
//	   └──nobody answers──▶ expired
func (a *Approval) State(now time.Time) ApprovalState {
	switch {
	case !a.UsedAt.IsZero():
		return Used
	case !a.DeniedAt.IsZero():
		return ApprovalDenied
	case !a.ApprovedAt.IsZero() && now.Before(a.UsableUntil):
		return Approved
	case a.ApprovedAt.IsZero() && now.Before(a.ExpiresAt):
		return Waiting
	default:
		return Expired
	}
}

// Open are the needs that nobody has spoken for yet.
func (a *Approval) Open() []string {
	var open []string
	for _, need := range a.Needs {
		if !slices.ContainsFunc(a.Votes, func(v Vote) bool { return v.Need == need }) {
			open = append(open, need)
		}
	}
	return open
}
