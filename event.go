package mayfly

import "time"

// Event is one fact, recorded in the commit that made it true. The set is
// closed: one struct a fact. Its fields are the
// body of the record, which only holders of the seal key can read; its
// [EventHeader] goes into the log's leaf in clear.
type Event interface {
	Kind() string
	Header() EventHeader
}

// EventHeader is what of an event stands in the leaf, in clear.
type EventHeader struct {
	Task     TaskID
	Decision string // id of the decision this event is or follows from
	Parent   string // Dlg of the delegation this one hangs on
	Term     Term   // the term that refused
	// Human is the id of the person the event is about, "" if it is about
	// nobody. The leaf holds a pseudonym for it and the body is sealed under
	// that person's key, so that forgetting them leaves the tree whole.
	Human string
}

// humanOf is s's id where s is a person.
func humanOf(s Subject) string {
	if s.Kind == Human {
		return s.ID
	}
	return ""
}

// ServerStarted: a process came up on a configuration.
type ServerStarted struct {
	Node    string `json:"node"`
	Version string `json:"version"`
	Bundle  string `json:"bundle"`
}

// BundleLoaded: a configuration took effect while running.
type BundleLoaded struct {
	Bundle   string `json:"bundle"`
	Previous string `json:"previous"`
}

// KeyMade: a signing key exists and is published.
type KeyMade struct {
	KeyID     string    `json:"kid"`
	Algorithm string    `json:"alg"`
	SignsFrom time.Time `json:"signs_from"`
}

// KeyCompromised: no token of this key is accepted from now on.
type KeyCompromised struct {
	KeyID string `json:"kid"`
	By    string `json:"by"`
}

// DelegationMade: a ticket was made.
type DelegationMade struct {
	Delegation string    `json:"delegation"`
	Profile    string    `json:"profile"`
	Purpose    string    `json:"purpose"`
	Grants     []Grant   `json:"grants"`
	Root       Subject   `json:"root"`
	Task       TaskID    `json:"task,omitempty"` // the delegating task
	ParentDlg  string    `json:"parent_dlg,omitempty"`
	ExpiresAt  time.Time `json:"expires_at"`
	Uses       int64     `json:"uses"`
}

// TaskOpened: a task exists and its first token may leave. Everything the token
// says is here first.
type TaskOpened struct {
	Task       TaskID    `json:"task"`
	Profile    string    `json:"profile"`
	Purpose    Purpose   `json:"purpose"`
	Root       Subject   `json:"root"`
	Parent     TaskID    `json:"parent,omitempty"`
	ParentDlg  string    `json:"parent_dlg,omitempty"` // of the parent task, or of the ticket
	Depth      int       `json:"depth"`
	Grants     []Grant   `json:"grants"`
	Agent      Evidence  `json:"agent"`
	Key        string    `json:"jkt,omitempty"`
	Delegation string    `json:"delegation,omitempty"` // the ticket redeemed
	Deadline   time.Time `json:"deadline"`
	Decision   string    `json:"decision"`
	Token      TokenFact `json:"token"`
}

// TokenFact is what the record says of a token that is about to be signed. The
// token's jti is the id of the record itself.
type TokenFact struct {
	ParentJTI string    `json:"parent_jti,omitempty"` // of the token it was exchanged for
	KeyID     string    `json:"kid"`
	Audience  string    `json:"aud"`
	ExpiresAt time.Time `json:"exp"`
	Scope     string    `json:"scope,omitempty"`
}

// TokenIssued: another token for a task that exists may leave.
type TokenIssued struct {
	Task  TaskID    `json:"task"`
	Root  Subject   `json:"root"`
	Token TokenFact `json:"token"`
}

// TokenRevoked: one token for a target is dead before its time.
type TokenRevoked struct {
	Task TaskID `json:"task"`
	JTI  string `json:"jti"`
	By   string `json:"by"`
}

// RequestRefused: somebody who showed who they are, or tried to, was refused
// before any task's action was decided: an exchange, a ticket, a lifecycle call.
type RequestRefused struct {
	Decision string  `json:"decision"`
	What     string  `json:"what"` // exchange, delegate, narrow, complete, ...
	Code     string  `json:"code"`
	Reason   string  `json:"reason"`
	Root     Subject `json:"root"` // as far as known
	Task     TaskID  `json:"task,omitempty"`
	Profile  string  `json:"profile,omitempty"`
	Term     Term    `json:"term,omitempty"`
	Source   string  `json:"source,omitempty"` // network address
	// Policies are the ids of the Cedar policies that refused it.
	Policies []string `json:"policies,omitempty"`
}

// AuthenticationFailed: requests without valid authentication, one record per
// reason and network source a second.
type AuthenticationFailed struct {
	Surface string `json:"surface"` // token, gateway, api
	Reason  string `json:"reason"`
	Source  string `json:"source"`
	Count   int64  `json:"count"`
}

// CallDecided: a task's action was allowed or refused. The record is durable
// before the target sees a byte.
type CallDecided struct {
	Decision Decision `json:"decision"`
	Task     TaskID   `json:"task"`
	Root     Subject  `json:"root"`
	Surface  string   `json:"surface"` // mcp, http, or authzen: asked, and nothing done
	Target   string   `json:"target"`
	Action   string   `json:"action"`
	Digest   string   `json:"digest,omitempty"`
	Size     int64    `json:"size"`
	JTI      string   `json:"jti"`
	Source   string   `json:"source,omitempty"` // network address of the caller
	// Trace is the W3C trace id of the call, Span the caller's span in it, if it
	// sent one. The call's own span follows from the decision (see [Trace.Of]).
	Trace     string `json:"trace,omitempty"`
	Span      string `json:"span,omitempty"`
	Unsampled bool   `json:"unsampled,omitempty"`
	// Snapshot is what the policies saw, where they were reached.
	Snapshot *Snapshot `json:"snapshot,omitempty"`
	// Lease is the credential that may now be asked of the target.
	Lease LeaseID `json:"lease,omitempty"`
}

// LeaseLent: the credential is about to be handed out.
type LeaseLent struct {
	Lease     LeaseID   `json:"lease"`
	Task      TaskID    `json:"task"`
	Root      Subject   `json:"root"`
	Decision  string    `json:"decision"`
	Grant     string    `json:"grant"`
	Principal string    `json:"principal"`
	ExpiresAt time.Time `json:"expires_at"`
}

// LeaseEnded: the credential is to be returned from now on.
type LeaseEnded struct {
	Lease  LeaseID  `json:"lease"`
	Task   TaskID   `json:"task"`
	Root   Subject  `json:"root"`
	Reason LeaseEnd `json:"reason"`
	By     string   `json:"by"`
}

// LeaseBack: the target showed that the credential is gone.
type LeaseBack struct {
	Lease     LeaseID `json:"lease"`
	Task      TaskID  `json:"task"`
	Root      Subject `json:"root"`
	Grant     string  `json:"grant"`
	Principal string  `json:"principal,omitempty"`
	Tries     int64   `json:"tries"`
}

// LeaseStuck: the credential may still be good, and cannot be returned. It is
// tried for ever.
type LeaseStuck struct {
	Lease     LeaseID   `json:"lease"`
	Task      TaskID    `json:"task"`
	Root      Subject   `json:"root"`
	Grant     string    `json:"grant"`
	Principal string    `json:"principal,omitempty"`
	Since     time.Time `json:"since"`
	Tries     int64     `json:"tries"`
	Problem   string    `json:"problem"`
	// Until is when the target itself stops accepting it, at the latest.
	Until time.Time `json:"until"`
}

// LeaseFound: the target has a credential that it had shown to be gone. It is
// returned again.
type LeaseFound struct {
	Lease LeaseID `json:"lease"`
	Task  TaskID  `json:"task"`
	Root  Subject `json:"root"`
	Grant string  `json:"grant"`
}

// CallEnded: what became of an allowed call.
type CallEnded struct {
	Decision string `json:"decision"`
	Task     TaskID `json:"task"`
	Human    string `json:"human,omitempty"`
	Outcome  string `json:"outcome"` // answered, failed, cut, not-sent, unknown
	Status   int    `json:"status,omitempty"`
	Detail   string `json:"detail,omitempty"`
	Bytes    int64  `json:"bytes"`
	Upstream string `json:"upstream,omitempty"` // id that the target gave the request
}

// TaskNarrowed: a task may do less from now on.
type TaskNarrowed struct {
	Task   TaskID  `json:"task"`
	Root   Subject `json:"root"`
	Grants []Grant `json:"grants"`
	By     string  `json:"by"`
}

// TaskWidened: a task may do more from now on.
type TaskWidened struct {
	Task     TaskID  `json:"task"`
	Root     Subject `json:"root"`
	Grants   []Grant `json:"grants"` // all it has now
	Added    []Grant `json:"added"`
	By       string  `json:"by"`
	Approval string  `json:"approval,omitempty"`
	Decision string  `json:"decision"`
}

// ApprovalRequested: something waits for a human's yes.
type ApprovalRequested struct {
	Approval  string    `json:"approval"`
	Task      TaskID    `json:"task,omitempty"`
	Root      Subject   `json:"root"`
	Profile   string    `json:"profile"`
	What      string    `json:"what"` // call, open or widen
	Grant     string    `json:"grant"`
	Needs     []string  `json:"needs"`
	Policies  []string  `json:"policies,omitempty"`
	Decision  string    `json:"decision"`
	ExpiresAt time.Time `json:"expires_at"`
}

// ApprovalVoted: a human said yes for one of the needs of an approval; Complete
// says that it was the last.
type ApprovalVoted struct {
	Approval string   `json:"approval"`
	Task     TaskID   `json:"task,omitempty"`
	Root     Subject  `json:"root"`
	Need     []string `json:"need"`
	By       string   `json:"by"`
	Complete bool     `json:"complete"`
	Note     string   `json:"note,omitempty"`
}

// ApprovalRefused: a human, or the operator, said no.
type ApprovalRefused struct {
	Approval string  `json:"approval"`
	Task     TaskID  `json:"task,omitempty"`
	Root     Subject `json:"root"`
	By       string  `json:"by"`
	Note     string  `json:"note,omitempty"`
}

// ToolPinned: calls to this tool are held to this definition from now on.
type ToolPinned struct {
	Target   string `json:"target"`
	Tool     string `json:"tool"`
	Hash     string `json:"hash"`
	Previous string `json:"previous,omitempty"`
	By       string `json:"by"`
}

// ToolChanged: a server defines this tool otherwise than it is pinned; it is
// hidden and refused until the change is accepted.
type ToolChanged struct {
	Target string `json:"target"`
	Tool   string `json:"tool"`
	Pinned string `json:"pinned"`
	Hash   string `json:"hash"`
}

// PoliciesReplayed: somebody had recorded decisions decided again.
type PoliciesReplayed struct {
	By        string `json:"by"`
	Candidate string `json:"candidate"` // hash of the policies
	Decisions int64  `json:"decisions"`
	Changed   int64  `json:"changed"`
}

// TaskClosed: from here on every decision for the task, and for all below it,
// denies.
type TaskClosed struct {
	Task   TaskID      `json:"task"`
	Root   Subject     `json:"root"`
	Reason CloseReason `json:"reason"`
	By     string      `json:"by"`
}

// TaskRetired: all below the task has ended and everything it was lent is back.
type TaskRetired struct {
	Task TaskID  `json:"task"`
	Root Subject `json:"root"`
	// Points are the enforcement points, and when each stopped.
	Points []EnforcementPoint `json:"enforcement_points,omitempty"`
}

// EnforcementPoint is one node, and when it denied everything for a task that had
// ended.
type EnforcementPoint struct {
	Node    string    `json:"node"`
	Stopped time.Time `json:"stopped_at"` // at the latest
	How     StopHow   `json:"how"`
}

// StopHow says how it is known that a node stopped.
type StopHow string

// The ways.
const (
	StopAcknowledged StopHow = "acknowledged" // it said that it had applied the end
	StopLapsed       StopHow = "lapsed"       // it said nothing, and its authority lease had run out
	StopByClock      StopHow = "clock"        // the end was a time that every node knew before
)

// RevocationMade: the kill switch was thrown: everything with this anywhere in
// its chain is over, and nothing new opens for it until it is lifted.
type RevocationMade struct {
	Revocation Revocation `json:"revocation"`
}

// RevocationLifted: new tasks may open for it again; nothing comes back to life.
type RevocationLifted struct {
	Revocation Revocation `json:"revocation"`
}

// PersonErased: the key of a person was destroyed. What is recorded about them can
// be read by nobody any more, and their pseudonym leads to nobody.
type PersonErased struct {
	Person string `json:"person"` // pseudonym
	By     string `json:"by"`
}

// PersonSignedIn: a human is known to the console from now on.
type PersonSignedIn struct {
	SignIn string  `json:"sign_in"`
	Human  Subject `json:"human"`
	// At is when their identity provider asked them to show who they are.
	At     time.Time `json:"at,omitzero"`
	EndsAt time.Time `json:"ends_at"`
	Source string    `json:"source,omitempty"` // network address
	// Replaces is the sign-in that this one takes the place of: they showed again
	// who they are.
	Replaces string `json:"replaces,omitempty"`
}

// PersonSignedOut: a human left the console.
type PersonSignedOut struct {
	SignIn string  `json:"sign_in"`
	Human  Subject `json:"human"`
}

// Revocation names what the kill switch is thrown for.
type Revocation struct {
	ID    string    `json:"id"`
	Kind  string    `json:"kind"`  // human, service, profile, source, client, all
	Value string    `json:"value"` // the id or name; "" with all
	By    string    `json:"by"`
	At    time.Time `json:"at"`
}

// Alarm: the server found something that must not happen.
type Alarm struct {
	What   string `json:"what"`
	Detail string `json:"detail"`
}

// LogUnanchored: for too long nothing of the log that is newer than its anchor
// was cosigned by enough witnesses. Until LogAnchored only this server vouches
// for it.
type LogUnanchored struct {
	Size     int64     `json:"size"`     // records in the log
	Anchored int64     `json:"anchored"` // how many of them the anchor covers
	Since    time.Time `json:"since"`    // of the oldest record that it does not
	// Witnesses is what became of each witness last, by name.
	Witnesses map[string]string `json:"witnesses,omitempty"`
}

// LogAnchored: the log is cosigned again.
type LogAnchored struct {
	Anchored int64     `json:"anchored"`
	Since    time.Time `json:"since"` // when it was recorded that it was not
}

func (ServerStarted) Kind() string        { return "server.started" }
func (BundleLoaded) Kind() string         { return "bundle.loaded" }
func (KeyMade) Kind() string              { return "key.made" }
func (KeyCompromised) Kind() string       { return "key.compromised" }
func (DelegationMade) Kind() string       { return "delegation.made" }
func (TaskOpened) Kind() string           { return "task.opened" }
func (TokenIssued) Kind() string          { return "token.issued" }
func (TokenRevoked) Kind() string         { return "token.revoked" }
func (RequestRefused) Kind() string       { return "request.refused" }
func (AuthenticationFailed) Kind() string { return "authentication.failed" }
func (CallDecided) Kind() string          { return "call.decided" }
func (CallEnded) Kind() string            { return "call.ended" }
func (TaskNarrowed) Kind() string         { return "task.narrowed" }
func (TaskClosed) Kind() string           { return "task.closed" }
func (TaskRetired) Kind() string          { return "task.retired" }
func (RevocationMade) Kind() string       { return "revocation.made" }
func (RevocationLifted) Kind() string     { return "revocation.lifted" }
func (PersonErased) Kind() string         { return "person.erased" }
func (PersonSignedIn) Kind() string       { return "person.signed_in" }
func (PersonSignedOut) Kind() string      { return "person.signed_out" }
func (Alarm) Kind() string                { return "alarm" }
func (LogUnanchored) Kind() string        { return "log.unanchored" }
func (LogAnchored) Kind() string          { return "log.anchored" }
func (TaskWidened) Kind() string          { return "task.widened" }
func (ApprovalRequested) Kind() string    { return "approval.requested" }
func (ApprovalVoted) Kind() string        { return "approval.voted" }
func (ApprovalRefused) Kind() string      { return "approval.refused" }
func (ToolPinned) Kind() string           { return "tool.pinned" }
func (ToolChanged) Kind() string          { return "tool.changed" }
func (PoliciesReplayed) Kind() string     { return "policies.replayed" }
func (LeaseLent) Kind() string            { return "lease.lent" }
func (LeaseEnded) Kind() string           { return "lease.ended" }
func (LeaseBack) Kind() string            { return "lease.returned" }
func (LeaseStuck) Kind() string           { return "lease.stuck" }
func (LeaseFound) Kind() string           { return "lease.found" }

func (ServerStarted) Header() EventHeader        { return EventHeader{} }
func (BundleLoaded) Header() EventHeader         { return EventHeader{} }
func (KeyMade) Header() EventHeader              { return EventHeader{} }
func (KeyCompromised) Header() EventHeader       { return EventHeader{} }
func (AuthenticationFailed) Header() EventHeader { return EventHeader{} }
func (PersonErased) Header() EventHeader         { return EventHeader{} }
func (Alarm) Header() EventHeader                { return EventHeader{} }
func (LogUnanchored) Header() EventHeader        { return EventHeader{} }
func (LogAnchored) Header() EventHeader          { return EventHeader{} }
func (ToolPinned) Header() EventHeader           { return EventHeader{} }
func (ToolChanged) Header() EventHeader          { return EventHeader{Term: TermTool} }
func (PoliciesReplayed) Header() EventHeader     { return EventHeader{} }

func (e LeaseLent) Header() EventHeader {
	return EventHeader{Task: e.Task, Decision: e.Decision, Human: humanOf(e.Root)}
}

func (e LeaseEnded) Header() EventHeader { return EventHeader{Task: e.Task, Human: humanOf(e.Root)} }
func (e LeaseBack) Header() EventHeader  { return EventHeader{Task: e.Task, Human: humanOf(e.Root)} }
func (e LeaseStuck) Header() EventHeader { return EventHeader{Task: e.Task, Human: humanOf(e.Root)} }
func (e LeaseFound) Header() EventHeader { return EventHeader{Task: e.Task, Human: humanOf(e.Root)} }

func (e TaskWidened) Header() EventHeader {
	return EventHeader{Task: e.Task, Decision: e.Decision, Human: humanOf(e.Root)}
}

func (e ApprovalRequested) Header() EventHeader {
	return EventHeader{Task: e.Task, Decision: e.Decision, Term: TermApproval, Human: humanOf(e.Root)}
}

func (e ApprovalVoted) Header() EventHeader {
	return EventHeader{Task: e.Task, Human: humanOf(e.Root)}
}

func (e ApprovalRefused) Header() EventHeader {
	return EventHeader{Task: e.Task, Human: humanOf(e.Root)}
}

func (e DelegationMade) Header() EventHeader {
	return EventHeader{Task: e.Task, Parent: e.ParentDlg, Human: humanOf(e.Root)}
}

func (e TaskOpened) Header() EventHeader {
	return EventHeader{Task: e.Task, Decision: e.Decision, Parent: e.ParentDlg, Human: humanOf(e.Root)}
}

func (e TokenIssued) Header() EventHeader {
	return EventHeader{Task: e.Task, Human: humanOf(e.Root)}
}

func (e TokenRevoked) Header() EventHeader { return EventHeader{Task: e.Task} }

func (e RequestRefused) Header() EventHeader {
	return EventHeader{Task: e.Task, Decision: e.Decision, Term: e.Term, Human: humanOf(e.Root)}
}

func (e CallDecided) Header() EventHeader {
	return EventHeader{Task: e.Task, Decision: e.Decision.ID, Term: e.Decision.Term, Human: humanOf(e.Root)}
}

func (e CallEnded) Header() EventHeader {
	return EventHeader{Task: e.Task, Decision: e.Decision, Human: e.Human}
}

func (e TaskNarrowed) Header() EventHeader {
	return EventHeader{Task: e.Task, Human: humanOf(e.Root)}
}

func (e TaskClosed) Header() EventHeader {
	return EventHeader{Task: e.Task, Human: humanOf(e.Root)}
}

func (e TaskRetired) Header() EventHeader {
	return EventHeader{Task: e.Task, Human: humanOf(e.Root)}
}

func (e PersonSignedIn) Header() EventHeader  { return EventHeader{Human: humanOf(e.Human)} }
func (e PersonSignedOut) Header() EventHeader { return EventHeader{Human: humanOf(e.Human)} }

func (e RevocationMade) Header() EventHeader   { return EventHeader{Human: e.Revocation.human()} }
func (e RevocationLifted) Header() EventHeader { return EventHeader{Human: e.Revocation.human()} }

func (r Revocation) human() string {
	if r.Kind == string(Human) {
		return r.Value
	}
	return ""
}

// IdleRenewed: a heartbeat or an open stream renewed a task's idle lease.
type IdleRenewed struct {
	Task  TaskID    `json:"task"`
	Root  Subject   `json:"root"`
	Until time.Time `json:"until"`
	By    string    `json:"by"` // heartbeat or stream
}

func (IdleRenewed) Kind() string { return "task.renewed" }

func (e IdleRenewed) Header() EventHeader { return EventHeader{Task: e.Task, Human: humanOf(e.Root)} }
