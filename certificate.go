package mayfly

import "time"

// Certificate is the account of how a task ended: what it was, what it did, what
// became of all it had, and when nothing could act for it any more. It is issued
// as a compact JWS with the type [CertificateType], signed with a key of the
// issuer's JWKS. These are its claims.
type Certificate struct {
	Issuer   string    `json:"iss"`
	Subject  string    `json:"sub"` // the task's identity, a SPIFFE ID
	IssuedAt time.Time `json:"issued_at"`
	// Final is false while something of the task is still to be returned, stopped,
	// or given its place in the log: then it says how far that has come.
	Final bool `json:"final"`

	Task     CertifiedTask   `json:"task"`
	Root     CertifiedRoot   `json:"root"`  // who it was for
	Chain    []CertifiedLink `json:"chain"` // root task first; the last is this task
	Purpose  Purpose         `json:"purpose"`
	Evidence Evidence        `json:"evidence"` // who the agent was, and who vouched for it
	Grants   []Grant         `json:"grants"`   // as they were at the end
	Used     []CertifiedUse  `json:"used"`     // what was asked for under them

	Descendants []CertifiedTask    `json:"descendants"`
	Leases      []CertifiedLease   `json:"leases"` // of the task and its descendants
	Points      []EnforcementPoint `json:"enforcement_points"`

	Log CertifiedLog `json:"log"`
}

// CertificateType is the typ of a certificate's header (RFC 7515 section 4.1.9):
// it is no token.
const CertificateType = "mayfly-certificate+jwt"

// CertifiedTask is one task and how it ended.
type CertifiedTask struct {
	ID        TaskID      `json:"id"`
	Identity  string      `json:"identity"`
	Profile   string      `json:"profile"`
	Parent    TaskID      `json:"parent,omitempty"`
	Depth     int         `json:"depth"`
	Bundle    string      `json:"bundle"` // hash of the rules it was opened under
	State     TaskState   `json:"state"`
	Reason    CloseReason `json:"reason"`
	By        string      `json:"closed_by,omitempty"`
	OpenedAt  time.Time   `json:"opened_at"`
	Deadline  time.Time   `json:"deadline"`
	ClosedAt  time.Time   `json:"closed_at"`
	RetiredAt time.Time   `json:"retired_at,omitzero"`
}

// CertifiedRoot is the root delegator.
type CertifiedRoot struct {
	Subject string      `json:"sub"`
	Kind    SubjectKind `json:"kind"`
	Source  string      `json:"source"`
}

// CertifiedLink is one task of the chain. Dlg is the leaf hash of the delegation
// that made it, which tokens carry and the log proves.
type CertifiedLink struct {
	Task       TaskID `json:"task"`
	Identity   string `json:"identity"`
	Profile    string `json:"profile"`
	Dlg        string `json:"dlg"`
	Delegation string `json:"delegation,omitempty"` // the ticket redeemed
}

// CertifiedUse counts what was asked for under one action.
type CertifiedUse struct {
	Grant    string `json:"grant"` // kind:target:action
	Allowed  int64  `json:"allowed"`
	Refused  int64  `json:"refused"`
	Approved int64  `json:"approved,omitempty"` // of those allowed, after a human's yes
	Unknown  int64  `json:"unknown,omitempty"`  // of those allowed, whose outcome nobody saw
}

// CertifiedLease is one credential that was lent, and what became of it.
type CertifiedLease struct {
	ID         LeaseID    `json:"id"`
	Task       TaskID     `json:"task"`
	Grant      string     `json:"grant"`
	Principal  string     `json:"principal,omitempty"`
	State      LeaseState `json:"state"`
	OpenedAt   time.Time  `json:"opened_at"`
	ExpiresAt  time.Time  `json:"expires_at"`
	EndedAt    time.Time  `json:"ended_at,omitzero"`
	Reason     LeaseEnd   `json:"reason,omitempty"`
	ReturnedAt time.Time  `json:"returned_at,omitzero"` // the target showed that it was gone
	// Until is, of one that is not returned, when the target itself stops
	// accepting it, at the latest; Problem is why it is not.
	Until   time.Time `json:"can_live_until,omitzero"`
	Problem string    `json:"problem,omitempty"`
}

// CertifiedLog is where it stands in the log.
type CertifiedLog struct {
	Origin  string            `json:"origin"`
	Records []CertifiedRecord `json:"records"`
	// Checkpoint is a signed tree head that covers the records with a position.
	Checkpoint string `json:"checkpoint"`
}

// CertifiedRecord is the place of one record of the task's life.
type CertifiedRecord struct {
	Kind     string    `json:"kind"`
	ID       string    `json:"id"`
	Time     time.Time `json:"time"`
	Leaf     string    `json:"leaf"` // base64url RFC 6962 leaf hash
	Position *int64    `json:"position,omitempty"`
}
