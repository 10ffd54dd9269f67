package mayfly

import "time"

// LeaseID names one lease, for ever.
type LeaseID string

// NewLeaseID makes the id of a lease opened now.
func NewLeaseID(now time.Time) LeaseID { return LeaseID(NewID("lease", now)) }

// ParseLeaseID is the only way from outside text to a LeaseID.
func ParseLeaseID(s string) (LeaseID, error) {
	if !validID("lease", s) {
		return "", Errorf(NotFound, "%q is not the id of a lease", s)
	}
	return LeaseID(s), nil
}

// Suffix is the part of the id that differs from lease to lease: 26 digits and
// lower-case letters. A target that marks what it makes with it needs no other
// name for it.
func (id LeaseID) Suffix() string { return string(id)[len("lease_"):] }

// Lease is one outside credential on loan to a task. It is written down before
// the target is asked, and is over only once the target itself shows that the
// credential is gone.
type Lease struct {
	ID        LeaseID
	Task      TaskID
	Root      Subject
	Decision  string // that allowed it
	Kind      string // kind:target:role is the grant it was lent under
	Target    string
	Role      string
	OpenedAt  time.Time
	ExpiresAt time.Time // when the target itself stops accepting it; never after the task's deadline

	Principal  string    // the target's own name for it, such as a database role; known from ActiveAt on
	ActiveAt   time.Time // moves once: it is recorded that the credential is handed out
	EndedAt    time.Time // moves once: from here on it is to be returned
	Reason     LeaseEnd  // with EndedAt
	ReturnedAt time.Time // the target showed that it is gone
	Tries      int64     // to return it
	NextTry    time.Time
	Problem    string    // why the last try failed
	AlarmedAt  time.Time // an alarm says that it cannot be returned
}

// LeaseEnd says why a lease ended.
type LeaseEnd string

// The ways a lease ends.
const (
	LeaseGivenBack LeaseEnd = "given-back" // by its holder, or somebody over it
	LeaseTaskEnded LeaseEnd = "task-ended"
	LeaseRanOut    LeaseEnd = "expired"
	LeaseFailed    LeaseEnd = "failed" // the credential was never handed out
)

// LeaseState is where a lease is in its life.
type LeaseState string

// The states.
const (
	LeasePending   LeaseState = "pending"
	LeaseActive    LeaseState = "active"
	LeaseReturning LeaseState = "returning"
	LeaseReturned  LeaseState = "returned"
)

// State derives where l is in its life.
//
//	pending ──recorded, handed out──▶ active ──given back, expired, its task ends──▶ returning ──▶ returned
//	   └──the target failed, or a crash──────────────────────────────────────────────▲
//
// It returns from the target's own word only: a lease that the target cannot be
// asked about stays in returning.
func (l *Lease) State() LeaseState {
	switch {
	case !l.ReturnedAt.IsZero():
		return LeaseReturned
	case !l.EndedAt.IsZero():
		return LeaseReturning
	case !l.ActiveAt.IsZero():
		return LeaseActive
	default:
		return LeasePending
	}
}

// Grant is the short form of the grant that the lease was lent under.
func (l *Lease) Grant() string { return l.Kind + ":" + l.Target + ":" + l.Role }
