package mayfly

import "time"

// Delegation is a recorded handing-over that waits to be redeemed: what a
// ticket stands for. The ticket itself is a secret; only its hash is stored.
type Delegation struct {
	ID        string // dlg_…
	Profile   string
	Purpose   Purpose
	Grants    []Grant
	Root      Subject       // who the chain starts from
	Parent    TaskID        // the delegating task, "" when a human or service delegates
	ExpiresAt time.Time     // of the ticket
	TaskTTL   time.Duration // of the task it opens; 0 is the profile's default
	Uses      int64         // how many tasks it opens
	Used      int64
	MadeAt    time.Time
	Dlg       string // leaf hash of the event that recorded it
	VoidedAt  time.Time
}

// Limits on a ticket's life (design, section 2).
const (
	TicketDefaultTTL = 10 * time.Minute
	TicketMaxTTL     = 24 * time.Hour
)
