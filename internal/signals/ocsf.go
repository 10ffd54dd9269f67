package signals

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/store"
)

// ocsfVersion is the version of the OCSF schema that the lines are held to.
const ocsfVersion = "1.8.0"

// ocsfClass is a class of the OCSF schema.
type ocsfClass struct {
	uid        int // the category is its thousands
	name       string
	category   string
	activities map[int]string // those that are used here, but Other
}

var (
	baseEvent  = ocsfClass{0, "Base Event", "Uncategorized", nil}
	finding    = ocsfClass{2004, "Detection Finding", "Findings", map[int]string{1: "Create", 3: "Close"}}
	account    = ocsfClass{3001, "Account Change", iam, map[int]string{6: "Delete", 9: "Lock", 12: "Unlock"}}
	logon      = ocsfClass{3002, "Authentication", iam, map[int]string{1: "Logon", 2: "Logoff"}}
	session    = ocsfClass{3003, "Authorize Session", iam, map[int]string{1: "Assign Privileges"}}
	entity     = ocsfClass{3004, "Entity Management", iam, map[int]string{1: "Create", 3: "Update", 4: "Delete", 9: "Disable"}}
	access     = ocsfClass{3005, "User Access Management", iam, map[int]string{1: "Assign Privileges", 2: "Revoke Privileges"}}
	lifecycle  = ocsfClass{6002, "Application Lifecycle", application, map[int]string{3: "Start", 8: "Update"}}
	apiCall    = ocsfClass{6003, "API Activity", application, map[int]string{1: "Create", 2: "Read", 3: "Update", 4: "Delete"}}
	severities = map[int]string{1: "Informational", 2: "Low", 3: "Medium", 4: "High", 5: "Critical"}
)

const (
	iam         = "Identity & Access Management"
	application = "Application Activity"

	other = 99 // of every enumeration: what we say ourselves

	succeeded = 1 // status_id
	failed    = 2
)

// ocsf makes the lines of one export.
type ocsf struct {
	product ocsfProduct
	logName string
	issuer  string
}

// line is row as one OCSF event in JSON. Body is its body, nil if the person it
// is about was erased: what the leaf says remains, and their pseudonym for a name.
func (o *ocsf) line(row *store.EventRow, body []byte) ([]byte, error) {
	b := ocsfBuilder{o: o, row: row, body: body}
	b.Time = row.Time.UnixMilli()
	b.Metadata = ocsfMetadata{
		Version: ocsfVersion, Product: o.product, UID: row.ID, Sequence: *row.Position, EventCode: row.Kind,
		CorrelationUID: string(row.Task), LogName: o.logName,
	}
	b.Unmapped = ocsfUnmapped{Decision: row.Decision, Term: row.Term(), Bundle: row.Bundle(), Erased: body == nil}
	b.severity(1)
	b.status(succeeded)
	if err := b.fill(); err != nil {
		return nil, err
	}
	if body == nil {
		b.StatusID, b.Status = 0, "Unknown"
	}
	return json.Marshal(&b.ocsfEvent)
}

// ocsfBuilder makes one line.
type ocsfBuilder struct {
	ocsfEvent
	o    *ocsf
	row  *store.EventRow
	body []byte
}

// fill says what the record's kind says. A kind that this version does not know,
// which a newer node wrote, is a Base Event.
func (b *ocsfBuilder) fill() error {
	switch b.row.Kind {
	case mayfly.ServerStarted{}.Kind():
		return mapped(b, b.serverStarted)
	case mayfly.BundleLoaded{}.Kind():
		return mapped(b, b.bundleLoaded)
	case mayfly.KeyMade{}.Kind():
		return mapped(b, b.keyMade)
	case mayfly.KeyCompromised{}.Kind():
		return mapped(b, b.keyCompromised)
	case mayfly.DelegationMade{}.Kind():
		return mapped(b, b.delegationMade)
	case mayfly.TaskOpened{}.Kind():
		return mapped(b, b.taskOpened)
	case mayfly.TokenIssued{}.Kind():
		return mapped(b, b.tokenIssued)
	case mayfly.TokenRevoked{}.Kind():
		return mapped(b, b.tokenRevoked)
	case mayfly.RequestRefused{}.Kind():
		return mapped(b, b.requestRefused)
	case mayfly.AuthenticationFailed{}.Kind():
		return mapped(b, b.authenticationFailed)
	case mayfly.CallDecided{}.Kind():
		return mapped(b, b.callDecided)
	case mayfly.LeaseLent{}.Kind():
		return mapped(b, b.leaseLent)
	case mayfly.LeaseEnded{}.Kind():
		return mapped(b, b.leaseEnded)
	case mayfly.LeaseBack{}.Kind():
		return mapped(b, b.leaseBack)
	case mayfly.LeaseStuck{}.Kind():
		return mapped(b, b.leaseStuck)
	case mayfly.LeaseFound{}.Kind():
		return mapped(b, b.leaseFound)
	case mayfly.CallEnded{}.Kind():
		return mapped(b, b.callEnded)
	case mayfly.TaskNarrowed{}.Kind():
		return mapped(b, b.taskNarrowed)
	case mayfly.TaskWidened{}.Kind():
		return mapped(b, b.taskWidened)
	case mayfly.TaskClosed{}.Kind():
		return mapped(b, b.taskClosed)
	case mayfly.TaskRetired{}.Kind():
		return mapped(b, b.taskRetired)
	case mayfly.IdleRenewed{}.Kind():
		return mapped(b, b.idleRenewed)
	case mayfly.RevocationMade{}.Kind():
		return mapped(b, func(e mayfly.RevocationMade) { b.revocation(9, e.Revocation) })
	case mayfly.RevocationLifted{}.Kind():
		return mapped(b, func(e mayfly.RevocationLifted) { b.revocation(12, e.Revocation) })
	case mayfly.PersonErased{}.Kind():
		return mapped(b, b.personErased)
	case mayfly.PersonSignedIn{}.Kind():
		return mapped(b, b.signedIn)
	case mayfly.PersonSignedOut{}.Kind():
		return mapped(b, b.signedOut)
	case mayfly.ApprovalRequested{}.Kind():
		return mapped(b, b.approvalRequested)
	case mayfly.ApprovalVoted{}.Kind():
		return mapped(b, b.approvalVoted)
	case mayfly.ApprovalRefused{}.Kind():
		return mapped(b, b.approvalRefused)
	case mayfly.ToolPinned{}.Kind():
		return mapped(b, b.toolPinned)
	case mayfly.ToolChanged{}.Kind():
		return mapped(b, b.toolChanged)
	case mayfly.PoliciesReplayed{}.Kind():
		return mapped(b, b.policiesReplayed)
	case mayfly.Alarm{}.Kind():
		return mapped(b, b.alarm)
	case mayfly.LogUnanchored{}.Kind():
		return mapped(b, b.logUnanchored)
	case mayfly.LogAnchored{}.Kind():
		return mapped(b, b.logAnchored)
	}
	b.is(baseEvent, other, b.row.Kind)
	return nil
}

// mapped decodes the body of b as an E and has it said.
func mapped[E mayfly.Event](b *ocsfBuilder, say func(E)) error {
	var e E
	if b.body != nil {
		if err := json.Unmarshal(b.body, &e); err != nil {
			return err
		}
	}
	say(e)
	return nil
}

func (b *ocsfBuilder) serverStarted(e mayfly.ServerStarted) {
	b.is(lifecycle, 3)
	app := b.o.product
	app.Version = e.Version
	b.App = &app
	b.Message = "the server started"
	b.Unmapped.Node, b.Unmapped.Bundle = e.Node, e.Bundle
}

func (b *ocsfBuilder) bundleLoaded(e mayfly.BundleLoaded) {
	b.is(lifecycle, 8)
	b.App = &b.o.product
	b.Message = "a configuration took effect"
	b.Unmapped.Bundle, b.Unmapped.Previous = e.Bundle, e.Previous
}

func (b *ocsfBuilder) keyMade(e mayfly.KeyMade) {
	b.is(account, other, "Signing Key Made")
	b.User = b.server(e.KeyID, e.Algorithm)
}

func (b *ocsfBuilder) keyCompromised(e mayfly.KeyCompromised) {
	b.is(account, other, "Signing Key Compromised")
	b.severity(4)
	b.User = b.server(e.KeyID, "signing key")
	b.by(e.By)
}

func (b *ocsfBuilder) delegationMade(e mayfly.DelegationMade) {
	b.is(access, 1)
	b.User = role(e.Profile)
	b.actor(e.Root, e.Task)
	b.privileges(e.Grants)
	b.Message = e.Purpose
	b.Unmapped.Ticket, b.Unmapped.Profile, b.Unmapped.Until = e.Delegation, e.Profile, e.ExpiresAt
}

func (b *ocsfBuilder) taskOpened(e mayfly.TaskOpened) {
	b.is(entity, 1)
	b.task(e.Profile)
	b.actor(e.Root, e.Parent)
	b.Message = e.Purpose.Text
	u := &b.Unmapped
	u.Profile, u.Grants, u.Parent, u.Ticket, u.Until, u.Audience = e.Profile, e.Grants, e.Parent, e.Delegation, e.Deadline, e.Token.Audience
	if b.body != nil {
		u.Purpose, u.Agent = &e.Purpose, &e.Agent
	}
}

func (b *ocsfBuilder) tokenIssued(e mayfly.TokenIssued) {
	b.is(session, 1)
	b.actor(e.Root, "")
	b.User = b.agent()
	// The jti is the id of the record.
	b.Session = &ocsfSession{UID: b.row.ID, UIDAlt: string(b.row.Task), Issuer: b.o.issuer, ExpirationTime: millis(e.Token.ExpiresAt)}
	if b.Privileges = strings.Fields(e.Token.Scope); len(b.Privileges) == 0 {
		b.Privileges = []string{or(e.Token.Audience, "unknown")}
	}
	b.Unmapped.Audience = e.Token.Audience
}

func (b *ocsfBuilder) tokenRevoked(e mayfly.TokenRevoked) {
	b.is(logon, 2)
	b.User = b.agent()
	b.Service = b.mayfly()
	b.Session = &ocsfSession{UID: e.JTI, UIDAlt: string(b.row.Task), Issuer: b.o.issuer}
	b.by(e.By)
}

func (b *ocsfBuilder) requestRefused(e mayfly.RequestRefused) {
	b.is(apiCall, other, "Refused Request")
	b.severity(2)
	b.status(failed)
	b.StatusCode, b.StatusDetail = e.Code, e.Reason
	b.API = &ocsfAPI{Operation: or(e.What, "unknown"), Service: b.mayfly(), Request: request(b.row.Decision)}
	b.actor(e.Root, b.row.Task)
	b.source(e.Source)
	b.control(2, "Denied", 2, "Blocked", "deny", e.Policies)
	b.Unmapped.Profile = e.Profile
}

func (b *ocsfBuilder) authenticationFailed(e mayfly.AuthenticationFailed) {
	b.is(logon, 1)
	b.severity(2)
	b.status(failed)
	b.StatusDetail, b.Count = e.Reason, e.Count
	b.User = nobody()
	b.Service = b.mayfly()
	b.source(e.Source)
	b.Unmapped.Surface = e.Surface
}

func (b *ocsfBuilder) callDecided(e mayfly.CallDecided) {
	b.crud(e.Action)
	b.actor(e.Root, b.row.Task)
	if e.JTI != "" {
		b.Actor.Session = &ocsfSession{UID: e.JTI, UIDAlt: string(b.row.Task)}
	}
	b.API = &ocsfAPI{Operation: or(e.Action, "unknown"), Service: named(e.Target), Request: request(b.row.Decision)}
	b.source(e.Source)
	if e.Target != "" {
		b.Resources = []ocsfResource{{UID: e.Target + "/" + e.Action, Name: e.Action, Type: resourceType(e)}}
	}
	d := e.Decision
	b.StatusDetail = d.Reason
	switch {
	case d.Verdict == mayfly.Allow && len(d.Observed) > 0:
		b.control(3, "Observed", 17, "Logged", string(d.Verdict), d.Policies)
	case d.Verdict == mayfly.Allow:
		b.control(1, "Allowed", 1, "Allowed", string(d.Verdict), d.Policies)
	case d.Verdict == mayfly.NeedsApproval:
		b.severity(2)
		b.status(failed)
		b.control(2, "Denied", 14, "Delayed", string(d.Verdict), d.Policies)
	case d.Verdict == mayfly.Deny:
		b.severity(2)
		b.status(failed)
		b.control(2, "Denied", 2, "Blocked", string(d.Verdict), d.Policies)
	}
	if e.Trace != "" {
		b.Trace = &ocsfTrace{e.Trace}
		b.Metadata.Profiles = append(b.Metadata.Profiles, "trace")
	}
	u := &b.Unmapped
	u.Surface, u.Digest, u.Size, u.Approval, u.Needs, u.Observed = e.Surface, e.Digest, e.Size, d.Approval, d.Needs, d.Observed
	u.Lease = string(e.Lease)
	if s := e.Snapshot; s != nil {
		u.Facts, u.Labels, u.Seen = s.Facts, s.Labels, s.Seen
	}
}

func (b *ocsfBuilder) leaseLent(e mayfly.LeaseLent) {
	b.is(access, 1)
	b.lease(e.Lease, e.Root, e.Grant, e.Principal)
	b.Unmapped.Until = e.ExpiresAt
}

// leaseEnded is pending: the credential may work until lease.returned.
func (b *ocsfBuilder) leaseEnded(e mayfly.LeaseEnded) {
	b.is(access, 2)
	b.StatusID, b.Status = other, "Pending"
	b.lease(e.Lease, e.Root, "", "")
	if e.By != string(e.Reason) {
		b.by(e.By)
	}
	b.StatusDetail = string(e.Reason)
}

func (b *ocsfBuilder) leaseBack(e mayfly.LeaseBack) {
	b.is(access, 2)
	b.lease(e.Lease, e.Root, e.Grant, e.Principal)
	b.Unmapped.Tries = e.Tries
}

// lease says which credential is meant: it is the user who gets privileges at the
// target and loses them.
func (b *ocsfBuilder) lease(id mayfly.LeaseID, root mayfly.Subject, grant, principal string) {
	b.actor(root, b.row.Task)
	b.User = &ocsfUser{UID: string(id), Name: or(principal, or(string(id), "unknown")), TypeID: other, Type: "Lease"}
	b.Privileges = []string{or(grant, or(string(id), "unknown"))}
	b.Unmapped.Lease = string(id)
}

func (b *ocsfBuilder) leaseStuck(e mayfly.LeaseStuck) {
	b.leaseFinding(e.Lease, e.Root, e.Grant, "a credential that was lent cannot be returned", e.Problem)
	b.Unmapped.Tries, b.Unmapped.Until = e.Tries, e.Until
}

func (b *ocsfBuilder) leaseFound(e mayfly.LeaseFound) {
	b.leaseFinding(e.Lease, e.Root, e.Grant, "a credential that was returned is at the target again", "")
}

func (b *ocsfBuilder) leaseFinding(id mayfly.LeaseID, root mayfly.Subject, grant, title, detail string) {
	b.found(1, 4, ocsfFinding{UID: b.row.Kind + "@" + or(string(id), b.row.ID), Title: title, Desc: detail, Types: []string{b.row.Kind}})
	b.StatusDetail = detail
	b.Resources = []ocsfResource{{UID: string(id), Name: or(grant, "unknown"), Type: "lease"}}
	b.Unmapped.Lease = string(id)
	if u := b.subject(root); u.UID != "" {
		// A finding has an actor only under the profile host.
		b.Actor = &ocsfActor{User: u, AppUID: string(b.row.Task), AppName: "agent"}
		b.Metadata.Profiles = append(b.Metadata.Profiles, "host")
	}
}

func (b *ocsfBuilder) callEnded(e mayfly.CallEnded) {
	b.is(apiCall, other, "Call Ended")
	b.actor(mayfly.Subject{Kind: mayfly.Human, ID: e.Human}, b.row.Task)
	b.API = &ocsfAPI{Operation: "call", Request: request(b.row.Decision), Response: &ocsfAnswered{Code: e.Status, Message: e.Detail}}
	b.source("")
	switch e.Outcome {
	case "answered":
	case "unknown":
		b.StatusID, b.Status = 0, "Unknown"
	default:
		b.severity(2)
		b.status(failed)
	}
	b.StatusCode, b.StatusDetail = e.Outcome, e.Detail
	if e.Status != 0 {
		b.HTTPResponse = &ocsfResponse{e.Status, e.Bytes}
	}
	b.Unmapped.Outcome, b.Unmapped.Size = e.Outcome, e.Bytes
}

func (b *ocsfBuilder) taskNarrowed(e mayfly.TaskNarrowed) {
	b.is(access, 2)
	b.User = b.agent()
	b.actor(e.Root, "")
	b.by(e.By)
	b.privileges(e.Grants)
	b.Message = "the task was narrowed to these privileges"
}

func (b *ocsfBuilder) taskWidened(e mayfly.TaskWidened) {
	b.is(access, 1)
	b.User = b.agent()
	b.actor(e.Root, "")
	b.by(e.By)
	b.privileges(e.Added)
	b.Unmapped.Grants, b.Unmapped.Approval = e.Grants, e.Approval
}

func (b *ocsfBuilder) taskClosed(e mayfly.TaskClosed) {
	b.is(entity, 9)
	b.task("")
	b.actor(e.Root, "")
	if e.By != string(e.Reason) {
		b.by(e.By)
	}
	b.StatusDetail = string(e.Reason)
}

func (b *ocsfBuilder) taskRetired(e mayfly.TaskRetired) {
	b.is(entity, 4)
	b.task("")
	b.actor(e.Root, "")
	b.Unmapped.Stopped = e.Points
}

func (b *ocsfBuilder) idleRenewed(e mayfly.IdleRenewed) {
	b.is(entity, 3)
	b.task("")
	b.actor(e.Root, "")
	b.StatusDetail = e.By
	b.Unmapped.Until = e.Until
}

func (b *ocsfBuilder) revocation(activity int, r mayfly.Revocation) {
	b.is(account, activity)
	b.severity(3)
	b.User = b.subject(mayfly.Subject{Kind: mayfly.SubjectKind(r.Kind), ID: or(r.Value, r.Kind)})
	b.by(r.By)
	b.Message = strings.TrimSpace("revocation " + r.ID)
}

func (b *ocsfBuilder) personErased(e mayfly.PersonErased) {
	b.is(account, 6)
	b.User = &ocsfUser{UID: e.Person, Name: or(e.Person, "unknown"), TypeID: 1, Type: "User"}
	b.by(e.By)
	b.Message = "a person was erased"
}

func (b *ocsfBuilder) signedIn(e mayfly.PersonSignedIn) {
	b.is(logon, 1)
	b.User = b.subject(e.Human)
	b.Service = b.mayfly()
	b.Session = b.signIn(e.SignIn)
	b.source(e.Source)
	b.Unmapped.Until = e.EndsAt
	b.Message = "a human signed in to the console"
}

// signIn is the session of a sign-in; none once it was erased.
func (b *ocsfBuilder) signIn(id string) *ocsfSession {
	if id == "" {
		return nil
	}
	return &ocsfSession{UID: id, Issuer: b.o.issuer}
}

func (b *ocsfBuilder) signedOut(e mayfly.PersonSignedOut) {
	b.is(logon, 2)
	b.User = b.subject(e.Human)
	b.Service = b.mayfly()
	b.Session = b.signIn(e.SignIn)
	b.Message = "a human signed out of the console"
}

func (b *ocsfBuilder) approvalRequested(e mayfly.ApprovalRequested) {
	b.is(access, other, "Approval Requested")
	b.StatusID, b.Status = other, "Pending"
	b.approval(e.Root, e.Approval, e.Grant)
	u := &b.Unmapped
	u.Needs, u.Profile, u.Until = e.Needs, e.Profile, e.ExpiresAt
	b.Message = strings.TrimSpace("an approval is asked for: " + e.What)
}

func (b *ocsfBuilder) approvalVoted(e mayfly.ApprovalVoted) {
	b.is(access, 1)
	if !e.Complete {
		b.StatusID, b.Status = other, "Pending"
	}
	b.approval(e.Root, e.Approval, "")
	b.by(e.By)
	b.Message, b.Unmapped.Needs = e.Note, e.Need
}

func (b *ocsfBuilder) approvalRefused(e mayfly.ApprovalRefused) {
	b.is(access, 1)
	b.status(failed)
	b.approval(e.Root, e.Approval, "")
	b.by(e.By)
	b.Message = e.Note
}

func (b *ocsfBuilder) approval(root mayfly.Subject, id, grant string) {
	b.User = b.agent()
	b.actor(root, b.row.Task)
	b.Privileges = []string{or(grant, or(id, "unknown"))}
	b.Unmapped.Approval = id
}

func (b *ocsfBuilder) toolPinned(e mayfly.ToolPinned) {
	activity := 1
	if e.Previous != "" {
		activity = 3
	}
	b.is(entity, activity)
	b.Entity = &ocsfEntity{UID: e.Target + "/" + e.Tool, Name: e.Tool, TypeID: other, Type: "Tool", Version: e.Hash}
	b.by(e.By)
	b.Unmapped.Previous = e.Previous
}

func (b *ocsfBuilder) toolChanged(e mayfly.ToolChanged) {
	tool := e.Target + "/" + e.Tool
	b.found(1, 4, ocsfFinding{UID: tool + "@" + e.Hash, Title: "a tool is not defined as it was pinned", Desc: tool, Types: []string{"tool.changed"}})
	b.Resources = []ocsfResource{{UID: tool, Name: e.Tool, Type: "mcp"}}
	b.Unmapped.Previous, b.Unmapped.Digest = e.Pinned, e.Hash
}

func (b *ocsfBuilder) policiesReplayed(e mayfly.PoliciesReplayed) {
	b.is(apiCall, 2)
	b.API = &ocsfAPI{Operation: "replay", Service: b.mayfly()}
	b.actor(mayfly.Subject{}, "")
	b.by(e.By)
	b.source("")
	u := &b.Unmapped
	u.Digest, u.Decisions, u.Changed = e.Candidate, e.Decisions, e.Changed
}

func (b *ocsfBuilder) alarm(e mayfly.Alarm) {
	b.found(1, 5, ocsfFinding{UID: b.row.ID, Title: "the server found what must not happen: " + e.What, Desc: e.Detail, Types: []string{e.What}})
}

func (b *ocsfBuilder) logUnanchored(e mayfly.LogUnanchored) {
	b.found(1, 4, ocsfFinding{UID: unanchored(b.row.Time), Title: "the log is not anchored", Types: []string{"log.unanchored"}})
	u := &b.Unmapped
	u.LogSize, u.Anchored, u.Witnesses = e.Size, e.Anchored, e.Witnesses
}

func (b *ocsfBuilder) logAnchored(e mayfly.LogAnchored) {
	b.found(3, 1, ocsfFinding{UID: unanchored(e.Since), Title: "the log is anchored again", Types: []string{"log.unanchored"}})
	b.Unmapped.Anchored = e.Anchored
}

// unanchored names the finding that began at a time, which is how its end names it.
func unanchored(began time.Time) string {
	return "log.unanchored@" + began.UTC().Truncate(time.Microsecond).Format(time.RFC3339Nano)
}

// is sets the class and the activity; with other goes a name for it.
func (b *ocsfBuilder) is(c ocsfClass, activity int, name ...string) {
	b.ClassUID, b.ClassName = c.uid, c.name
	b.CategoryUID, b.CategoryName = c.uid/1000, c.category
	b.ActivityID, b.TypeUID = activity, c.uid*100+activity
	b.ActivityName = c.activities[activity]
	b.TypeName = c.name + ": " + b.ActivityName
	if activity == other {
		b.ActivityName, b.TypeName = name[0], c.name+": Other"
	}
}

// crud sets the class and activity of a call. What an MCP tool does, its name
// does not tell.
func (b *ocsfBuilder) crud(action string) {
	method, _, http := strings.Cut(action, ":")
	if activity := methods[method]; http && activity != 0 {
		b.is(apiCall, activity)
		return
	}
	b.is(apiCall, other, "Call")
}

// methods are the activities of API Activity that HTTP's methods are.
var methods = map[string]int{"POST": 1, "GET": 2, "HEAD": 2, "PUT": 3, "PATCH": 3, "DELETE": 4}

func resourceType(e mayfly.CallDecided) string {
	if strings.Contains(e.Action, ":/") {
		return "http"
	}
	return "mcp"
}

// found makes b a finding.
func (b *ocsfBuilder) found(activity, severity int, f ocsfFinding) {
	b.is(finding, activity)
	b.severity(severity)
	b.StatusID, b.Status = 1, "New"
	if activity == 3 {
		b.StatusID, b.Status = 4, "Resolved"
	}
	b.IsAlert = activity == 1
	b.FindingInfo, b.Message = &f, f.Title
}

func (b *ocsfBuilder) severity(id int) { b.SeverityID, b.Severity = id, severities[id] }

func (b *ocsfBuilder) status(id int) {
	b.StatusID, b.Status = id, "Success"
	if id == failed {
		b.Status = "Failure"
	}
}

// control says what was done about a request, and which policies said so.
func (b *ocsfBuilder) control(action int, name string, disposition int, what, decision string, policies []string) {
	b.ActionID, b.Action, b.DispositionID, b.Disposition = action, name, disposition, what
	b.Metadata.Profiles = append(b.Metadata.Profiles, "security_control")
	if len(policies) == 0 {
		b.Authorizations = []ocsfAuthorize{{Decision: decision}}
	}
	for _, p := range policies {
		b.Authorizations = append(b.Authorizations, ocsfAuthorize{decision, &ocsfNamed{UID: p}})
	}
}

// actor says on whose authority something was done, and by which task.
func (b *ocsfBuilder) actor(root mayfly.Subject, task mayfly.TaskID) {
	b.Actor = &ocsfActor{User: b.subject(root), AppUID: string(task)}
	if task != "" {
		b.Actor.AppName = "agent"
	}
}

// by says who did it, where that is not who it was done for: then a person or a
// service takes their place, and they are named beside.
func (b *ocsfBuilder) by(name string) {
	if name == "" || b.body == nil || b.Actor != nil && name == b.Actor.User.UID {
		return
	}
	if b.Actor == nil {
		b.Actor = &ocsfActor{User: nobody()}
	}
	switch {
	case strings.HasPrefix(name, "task_"):
		b.Actor.AppUID, b.Actor.AppName = name, "agent"
	case slices.Contains(ownNames, name):
		b.Actor.AppUID, b.Actor.AppName = "", name
	default:
		b.Unmapped.Root = b.Actor.User.UID
		b.Actor.User = b.subject(mayfly.Subject{Kind: kindOf(name), ID: name})
	}
}

// ownNames are what records say of who did something where that was no caller
// with a name.
var ownNames = []string{"operator", "first-sight", "configuration", "budget", "check out"}

// kindOf is the kind of subject that an id is one of, as far as it shows: it may
// be an OAuth client's.
func kindOf(id string) mayfly.SubjectKind {
	switch {
	case strings.HasPrefix(id, "service:"):
		return mayfly.Service
	case strings.HasPrefix(id, "spiffe://"):
		return mayfly.Agent
	case strings.Contains(id, "@"):
		return mayfly.Human
	}
	return ""
}

// subject is s as a user. Of a person who was erased only the pseudonym is left.
func (b *ocsfBuilder) subject(s mayfly.Subject) *ocsfUser {
	u := &ocsfUser{UID: s.ID, Name: s.ID, Domain: s.Source}
	if s.ID == "" || b.body == nil {
		u.UID, u.Name, u.Domain = b.row.Person, b.row.Person, ""
	}
	if u.UID == "" {
		return nobody()
	}
	switch s.Kind {
	case mayfly.Human:
		u.TypeID, u.Type = 1, "User"
	case mayfly.Service:
		u.TypeID, u.Type = 4, "Service"
	case "":
		u.TypeID, u.Type = 0, "Unknown"
	default:
		u.TypeID, u.Type = other, string(s.Kind)
	}
	for _, g := range s.Groups {
		u.Groups = append(u.Groups, ocsfNamed{Name: g})
	}
	return u
}

func nobody() *ocsfUser { return &ocsfUser{Name: "unknown", TypeID: 0, Type: "Unknown"} }

// agent is the record's task as a user.
func (b *ocsfBuilder) agent() *ocsfUser {
	if b.row.Task == "" {
		return &ocsfUser{Name: "agent", TypeID: other, Type: "Agent"}
	}
	return &ocsfUser{UID: string(b.row.Task), Name: string(b.row.Task), TypeID: other, Type: "Agent"}
}

// role is a profile as a user: whoever opens a task under it.
func role(profile string) *ocsfUser {
	return &ocsfUser{Name: or(profile, "unknown"), TypeID: other, Type: "Profile"}
}

// server is this server as the user of a signing key.
func (b *ocsfBuilder) server(kid, kind string) *ocsfUser {
	return &ocsfUser{Name: b.o.product.Name, TypeID: 3, Type: "System", Credentials: []ocsfCredential{{kid, kind}}}
}

// mayfly is this server as a service.
func (b *ocsfBuilder) mayfly() *ocsfNamed { return &ocsfNamed{Name: b.o.product.Name, UID: b.o.issuer} }

// task is the record's task as an entity.
func (b *ocsfBuilder) task(profile string) {
	b.Entity = &ocsfEntity{UID: string(b.row.Task), Name: profile, TypeID: other, Type: "Task"}
}

// privileges are grants in their short form; there is always one.
func (b *ocsfBuilder) privileges(grants []mayfly.Grant) {
	b.Privileges = make([]string, 0, len(grants)+1)
	for _, g := range grants {
		b.Privileges = append(b.Privileges, g.String())
	}
	if len(grants) == 0 {
		b.Privileges = append(b.Privileges, "none")
	}
}

// source is where a request came from, which a class may require even where
// nobody knows it.
func (b *ocsfBuilder) source(text string) {
	b.SrcEndpoint = &ocsfEndpoint{Name: or(text, "unknown")}
	if at, err := netip.ParseAddrPort(text); err == nil {
		text = at.Addr().String()
	}
	if ip, err := netip.ParseAddr(text); err == nil {
		b.SrcEndpoint = &ocsfEndpoint{IP: ip.Unmap().WithZone("").String()}
	}
}

func named(name string) *ocsfNamed {
	if name == "" {
		return nil
	}
	return &ocsfNamed{Name: name}
}

func request(id string) *ocsfUID {
	if id == "" {
		return nil
	}
	return &ocsfUID{id}
}

// millis is t as OCSF has times; 0 for none.
func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func or(text, instead string) string {
	if text == "" {
		return instead
	}
	return text
}
