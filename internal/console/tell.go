package console

import (
	"fmt"
	"strings"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/authority"
)

// line is one record in words.
type line struct {
	At       time.Time
	Kind     string
	What     string
	Verdict  mayfly.Verdict // of a decision
	Term     mayfly.Term
	Reason   string
	Decision string
	Task     mayfly.TaskID
	Position *int64
}

// tell puts a record into words.
func tell(e *authority.EventView) line {
	l := line{At: e.Time, Kind: e.Kind, Term: e.Term, Decision: e.Decision, Task: e.Task, Position: e.Position}
	if e.Body == nil {
		l.What = "about a person who was erased"
		return l
	}
	b := body(e.Body)
	switch e.Kind {
	case mayfly.TaskOpened{}.Kind():
		l.What = "opened for " + b.in("root").text("sub") + ", until " + clock(b.text("deadline")) + " at the latest"
	case mayfly.CallDecided{}.Kind():
		l.What = b.text("target") + " " + b.text("action")
		l.Verdict, l.Reason = b.verdict(), b.in("decision").text("Reason")
	case mayfly.CallEnded{}.Kind():
		l.What = "the target " + map[string]string{
			"answered": "answered", "failed": "failed", "cut": "was cut off", "not-sent": "saw no byte of it", "unknown": "may have done it: nobody saw the answer",
		}[b.text("outcome")]
		if status := b.text("status"); status != "" {
			l.What += ", status " + status
		}
	case mayfly.RequestRefused{}.Kind():
		l.What, l.Verdict, l.Reason = "a request: "+b.text("what"), mayfly.Deny, b.text("reason")
	case mayfly.TaskClosed{}.Kind():
		l.What = "ended: " + reasonWords(mayfly.CloseReason(b.text("reason"))) + by(b.text("by"))
	case mayfly.TaskRetired{}.Kind():
		l.What = "retired: nothing it had works any more"
	case mayfly.TokenIssued{}.Kind():
		l.What = "got a token for " + b.in("token").text("aud")
	case mayfly.TokenRevoked{}.Kind():
		l.What = "a token was revoked" + by(b.text("by"))
	case mayfly.TaskNarrowed{}.Kind():
		l.What = "may do less" + by(b.text("by"))
	case mayfly.TaskWidened{}.Kind():
		l.What = "may do more" + by(b.text("by"))
	case mayfly.IdleRenewed{}.Kind():
		l.What = "is still at work (" + b.text("by") + ")"
	case mayfly.DelegationMade{}.Kind():
		l.What = "a ticket for " + b.text("profile") + " was made"
	case mayfly.LeaseLent{}.Kind():
		l.What = "was lent " + b.text("grant") + " as " + b.text("principal")
	case mayfly.LeaseEnded{}.Kind():
		l.What = "what it was lent is to be returned (" + b.text("reason") + ")"
	case mayfly.LeaseBack{}.Kind():
		l.What = b.text("grant") + " is back: the target shows that it is gone"
	case mayfly.LeaseStuck{}.Kind():
		l.What = b.text("grant") + " cannot be returned: " + b.text("problem")
	case mayfly.LeaseFound{}.Kind():
		l.What = b.text("grant") + " was found again at the target"
	case mayfly.ApprovalRequested{}.Kind():
		l.What = "asks for a human's yes to " + b.text("grant")
	case mayfly.ApprovalVoted{}.Kind():
		l.What = "a yes" + by(b.text("by"))
	case mayfly.ApprovalRefused{}.Kind():
		l.What = "a no" + by(b.text("by"))
	case mayfly.RevocationMade{}.Kind():
		r := b.in("revocation")
		l.What = "everything with " + strings.TrimSpace(r.text("kind")+" "+r.text("value")) + " in its chain was revoked" + by(r.text("by"))
	case mayfly.RevocationLifted{}.Kind():
		r := b.in("revocation")
		l.What = "the revocation of " + strings.TrimSpace(r.text("kind")+" "+r.text("value")) + " was lifted" + by(r.text("by"))
	case mayfly.PersonSignedIn{}.Kind():
		l.What = b.in("human").text("sub") + " signed in to the console"
	case mayfly.PersonSignedOut{}.Kind():
		l.What = b.in("human").text("sub") + " signed out of the console"
	default:
		l.What = strings.ReplaceAll(e.Kind, ".", " ")
	}
	l.What, l.Reason = authority.Plain(l.What, 400), authority.Plain(l.Reason, 600)
	return l
}

// body reads a record's body without regard to what kind it is of.
type body map[string]any

func (b body) in(name string) body {
	inner, _ := b[name].(map[string]any)
	return inner
}

func (b body) text(name string) string {
	switch v := b[name].(type) {
	case nil:
		return ""
	case string:
		return v
	default:
		return fmt.Sprint(v)
	}
}

// verdict is the answer in a decision on a call.
func (b body) verdict() mayfly.Verdict { return mayfly.Verdict(b.in("decision").text("Verdict")) }

// by names who did it, where it was not the server by itself.
func by(who string) string {
	switch mayfly.CloseReason(who) {
	case "", mayfly.IdleRanOut, mayfly.DeadlinePassed, mayfly.BudgetSpent, mayfly.ParentEnded:
		return ""
	}
	if strings.HasPrefix(who, "task_") {
		return ", by the agent " + short(who)
	}
	return ", by " + who
}

// clock is the time of day in a time as it is recorded.
func clock(text string) string {
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return text
	}
	return at.UTC().Format("15:04:05") + " UTC"
}

// reasonWords says why a task ended.
func reasonWords(r mayfly.CloseReason) string {
	words := map[mayfly.CloseReason]string{
		mayfly.Completed: "its work was done", mayfly.Revoked: "it was revoked", mayfly.IdleRanOut: "it went quiet", mayfly.DeadlinePassed: "its time was over",
		mayfly.BudgetSpent: "its budget was spent", mayfly.ParentEnded: "the task above it ended",
	}
	if w := words[r]; w != "" {
		return w
	}
	return string(r)
}
