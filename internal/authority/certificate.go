package authority

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/store"
	"github.com/mayfly-id/mayfly/internal/strictjson"
)

// Certificate is the signed account of how a task ended, as a compact JWS. While
// the task lives there is none (Conflict); while something of it is still to be
// returned it says so, as not final.
func (a *Authority) Certificate(ctx context.Context, p Presented, id string) (string, error) {
	_, t, err := a.mayMove(ctx, &p, id, "read", who.mayRead)
	if err != nil {
		return "", err
	}
	v := a.view(ctx, t)
	if v.State == mayfly.Live || t.ClosedAt.IsZero() {
		return "", mayfly.Errorf(mayfly.Conflict, "the task has not ended, so there is nothing to certify; it ends by %s at the latest", t.Deadline.Format(time.RFC3339))
	}
	now := a.clock.now()
	c, err := a.account(ctx, t, now)
	if err != nil {
		return "", err
	}
	payload, err := strictjson.Marshal(c)
	if err != nil {
		return "", err
	}
	return a.keys.Certify(payload, now)
}

// account gathers what a certificate says.
func (a *Authority) account(ctx context.Context, t *store.TaskRow, now time.Time) (*mayfly.Certificate, error) {
	b := a.Bundle()
	certified := func(t *mayfly.Task) mayfly.CertifiedTask {
		state, reason := t.State(now)
		return mayfly.CertifiedTask{
			ID: t.ID, Identity: mayfly.AgentID(b.TrustDomain, t.Profile, t.ID), Profile: t.Profile, Parent: t.Parent, Depth: t.Depth, Bundle: t.Bundle,
			State: state, Reason: reason, By: t.ClosedBy, OpenedAt: t.OpenedAt, Deadline: t.Deadline, ClosedAt: t.ClosedAt, RetiredAt: t.RetiredAt,
		}
	}
	c := &mayfly.Certificate{
		Issuer: b.Issuer, Subject: mayfly.AgentID(b.TrustDomain, t.Profile, t.ID), IssuedAt: now, Final: !t.RetiredAt.IsZero(),
		Task: certified(&t.Task), Root: mayfly.CertifiedRoot{Subject: t.Root.ID, Kind: t.Root.Kind, Source: t.Root.Source},
		Purpose: t.Purpose, Evidence: t.Agent, Grants: t.Grants,
		Used: []mayfly.CertifiedUse{}, Descendants: []mayfly.CertifiedTask{}, Leases: []mayfly.CertifiedLease{}, Points: []mayfly.EnforcementPoint{},
	}
	for _, id := range t.Chain() {
		up, err := a.db.Task(ctx, id)
		if err != nil {
			return nil, err
		}
		c.Chain = append(c.Chain, mayfly.CertifiedLink{
			Task: id, Identity: mayfly.AgentID(b.TrustDomain, up.Profile, id), Profile: up.Profile, Dlg: up.Dlg, Delegation: up.Ticket,
		})
	}
	below, err := a.db.Descendants(ctx, t.ID)
	if err != nil {
		return nil, err
	}
	family := []mayfly.TaskID{t.ID}
	for _, d := range below {
		c.Descendants = append(c.Descendants, certified(&d.Task))
		family = append(family, d.ID)
	}
	for _, id := range family {
		leases, err := a.db.LeasesOf(ctx, id)
		if err != nil {
			return nil, err
		}
		for _, l := range leases {
			c.Leases = append(c.Leases, certifiedLease(l))
			// One that the target has after all takes back that all is over.
			c.Final = c.Final && l.State() == mayfly.LeaseReturned
		}
	}
	if err := a.accountRecords(ctx, t, c); err != nil {
		return nil, err
	}
	if len(c.Points) == 0 { // not retired: how far it has come
		if c.Points, _, err = a.points(ctx, &t.Task, now); err != nil {
			return nil, err
		}
	}
	// What is not in the log yet can still be proven to nobody.
	for _, r := range c.Log.Records {
		c.Final = c.Final && r.Position != nil
	}
	// Read last, so that it covers every position above.
	checkpoint, err := a.log.Checkpoint(ctx)
	if err != nil {
		return nil, err
	}
	c.Log.Origin, c.Log.Checkpoint = a.log.Origin(), string(checkpoint)
	return c, nil
}

func certifiedLease(l *mayfly.Lease) mayfly.CertifiedLease {
	c := mayfly.CertifiedLease{
		ID: l.ID, Task: l.Task, Grant: l.Grant(), Principal: l.Principal, State: l.State(),
		OpenedAt: l.OpenedAt, ExpiresAt: l.ExpiresAt, EndedAt: l.EndedAt, Reason: l.Reason, ReturnedAt: l.ReturnedAt, Problem: l.Problem,
	}
	if c.State != mayfly.LeaseReturned {
		c.Until = l.ExpiresAt
	}
	return c
}

// landmarks are the records whose places a certificate names.
var landmarks = []string{"task.opened", "task.narrowed", "task.widened", "task.closed", "task.retired"}

// accountRecords reads a task's records: the places of those that made it what it
// was, what it asked for, and when each node stopped.
func (a *Authority) accountRecords(ctx context.Context, t *store.TaskRow, c *mayfly.Certificate) error {
	used := map[string]*mayfly.CertifiedUse{}
	byDecision := map[string]*mayfly.CertifiedUse{}
	for after := ""; ; {
		rows, err := a.db.EventsByTask(ctx, t.ID, after, maxTraceEvents)
		if err != nil {
			return err
		}
		for _, row := range rows {
			if slices.Contains(landmarks, row.Kind) {
				c.Log.Records = append(c.Log.Records, mayfly.CertifiedRecord{Kind: row.Kind, ID: row.ID, Time: row.Time, Leaf: row.Dlg(), Position: row.Position})
			}
			var e struct {
				Decision any                       `json:"decision"`
				Points   []mayfly.EnforcementPoint `json:"enforcement_points"`
				Target   string                    `json:"target"`
				Action   string                    `json:"action"`
				Surface  string                    `json:"surface"`
				Outcome  string                    `json:"outcome"`
			}
			if !slices.Contains([]string{"task.retired", "call.decided", "call.ended"}, row.Kind) {
				continue
			}
			switch body, err := a.db.Body(ctx, row); {
			case mayfly.KindOf(err) == mayfly.Gone:
				continue // the person was erased, and with them what was done for them
			case err != nil:
				return err
			default:
				if err := strictjson.UnmarshalLenient(body, strictjson.Limits{}, &e); err != nil {
					return err
				}
			}
			switch row.Kind {
			case "task.retired":
				c.Points = e.Points
			case "call.decided":
				d, _ := e.Decision.(map[string]any)
				if e.Surface == "authzen" {
					continue // asked, and nothing done
				}
				key := e.Surface + ":" + e.Target + ":" + e.Action
				u := used[key]
				if u == nil {
					u = &mayfly.CertifiedUse{Grant: key}
					used[key] = u
				}
				if d["Verdict"] != string(mayfly.Allow) {
					u.Refused++
					continue
				}
				u.Allowed++
				if text, _ := d["Approval"].(string); text != "" {
					u.Approved++
				}
				byDecision[row.Decision] = u
			case "call.ended":
				if u := byDecision[row.Decision]; u != nil && e.Outcome == "unknown" {
					u.Unknown++
				}
			}
		}
		if len(rows) < maxTraceEvents {
			break
		}
		after = rows[len(rows)-1].ID
	}
	for _, u := range used {
		c.Used = append(c.Used, *u)
	}
	slices.SortFunc(c.Used, func(x, y mayfly.CertifiedUse) int { return strings.Compare(x.Grant, y.Grant) })
	return nil
}
