package authority

import (
	"context"
	"fmt"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/policy"
	"github.com/mayfly-id/mayfly/internal/store"
)

// opening is what a human is asked for before a task is opened or widened, as
// they read it, and what their yes is bound to.
type opening struct {
	Grants []mayfly.Grant `json:"grants"`
	Task   string         `json:"task_lives,omitempty"`   // at most
	Idle   string         `json:"idle,omitempty"`         // length of its idle lease
	Calls  int64          `json:"calls,omitzero"`         // after which it ends
	Ticket string         `json:"ticket_lives,omitempty"` // where one is made
	Uses   int64          `json:"uses,omitzero"`          // of the ticket
}

// approvalOf finds the approval that fits a widening, or an opening below t,
// exactly; if there is none, one that has not been asked for. The further parts
// say what else it is bound to.
func (a *Authority) approvalOf(ctx context.Context, what string, t *mayfly.Task, o opening, now time.Time, d *mayfly.Decision, parts ...string) (*mayfly.Approval, error) {
	request, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	fresh := a.newApproval(t, now, d)
	fresh.What, fresh.Request, fresh.Grant = what, string(request), listGrants(o.Grants)
	fresh.Key = bound(append([]string{what, string(fresh.Task), string(request), d.Bundle}, parts...)...)
	found, err := a.db.ApprovalFor(ctx, fresh.Task, fresh.Key)
	if err == nil && a.stands(found, d.Needs, now) || err != nil && mayfly.KindOf(err) != mayfly.NotFound {
		return found, err
	}
	return fresh, nil
}

// askToOpen answers an opening or a widening that needs a human's yes: it asks,
// unless that was done, and says where the answer will be.
func (a *Authority) askToOpen(ctx context.Context, r mayfly.RequestRefused, ap *mayfly.Approval, chain []*mayfly.Task, d *mayfly.Decision, burn func(*store.Tx)) error {
	e := mayfly.Coded(mayfly.Denied, "access_denied", "%s", d.Reason)
	e.Term, e.Next = d.Term, d.Next
	r.Decision = d.ID
	if ap.State(a.clock.now()) == mayfly.ApprovalDenied {
		e.Message = "this was put before a human, who said no"
		e.Next = &mayfly.Next{Action: "none", Detail: "do not ask again; do without, or ask for something else"}
		return limited(a.refuse(ctx, r, e, burn))
	}
	if isNew(ap, d) {
		err := a.ask(ctx, ap, chain, burn)
		switch refusedBy(err) {
		case "":
			if err != nil {
				return err
			}
			burn = nil
		case guardApproval: // the same was asked for at this moment
			if ap, err = a.db.ApprovalFor(ctx, ap.Task, ap.Key); err != nil {
				return err
			}
		case guardProof:
			return a.refuse(ctx, r, errReplay(), nil)
		case guardRoom:
			e.Message = "humans have been asked for as much as may be asked; wait for their answers"
			e.Next = &mayfly.Next{Action: "none", Detail: fmt.Sprintf("at most %d requests of a task wait, and %d are made in an hour", maxWaiting, maxAnHour)}
			return limited(a.refuse(ctx, r, e, burn))
		default:
			return a.refuse(ctx, r, mayfly.Errorf(mayfly.Conflict, "the task ended meanwhile; open a new one"), burn)
		}
	}
	e.Next = a.askedFor(ap)
	return a.refuse(ctx, r, e, burn)
}

// recorded is a refusal of which there is a record already.
type recorded struct{ error }

// asOpening makes a refusal one of the token endpoint, which knows no 403 (RFC
// 6749 section 5.2).
func asOpening(err error) error {
	if e := mayfly.AsError(err); e.Kind == mayfly.Denied {
		e.Kind = mayfly.Invalid
	}
	return err
}

// openingApproval finds the approval that fits an opening, or a ticket, exactly:
// who delegates what to which profile, for how long and how often, for which
// agent and purpose. If there is none it gives one that has not been asked for.
func (a *Authority) openingApproval(ctx context.Context, q *policy.OpenQuestion, o opening, d *mayfly.Decision) (*mayfly.Approval, error) {
	var parent *mayfly.Task
	if n := len(q.Parent); n > 0 {
		parent = q.Parent[n-1].Task
	}
	what := "open"
	if q.DelegateOnly {
		what = "ticket"
	}
	ap, err := a.approvalOf(ctx, "open", parent, o, q.Now, d, what,
		string(q.Root.Kind), q.Root.ID, q.Profile.Name, q.Purpose.Text, q.Agent.Source, q.Agent.Subject, q.Agent.Client)
	if err == nil && isNew(ap, d) {
		ap.Profile, ap.Root, ap.Purpose = q.Profile.Name, q.Root, q.Purpose
	}
	return ap, err
}
