package authority

import (
	"context"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/policy"
	"github.com/mayfly-id/mayfly/internal/store"
)

// keptBundle is what is kept of a configuration for as long as its decisions
// are: what policies said, and what they were told about profiles.
type keptBundle struct {
	Policies []policy.PolicyText    `json:"policies,omitempty"`
	Profiles map[string]keptProfile `json:"profiles"`
	Observed map[string]time.Time   `json:"observed,omitempty"` // targets, and until when
}

type keptProfile struct {
	Owner     string         `json:"owner"`
	Risk      mayfly.Risk    `json:"risk"`
	Approvals []keptApproval `json:"approvals,omitempty"`
}

type keptApproval struct {
	ID    string       `json:"id"`
	Calls mayfly.Grant `json:"calls"`
	Group string       `json:"group"`
}

// keep writes what must be kept of b, if it is not there yet.
func (b *Bundle) keep() (func(*store.Tx, time.Time), error) {
	k := keptBundle{Policies: b.Policies.Texts(), Profiles: map[string]keptProfile{}}
	for name, p := range b.Profiles {
		kept := keptProfile{Owner: p.Owner, Risk: p.Risk}
		for _, rule := range p.Approvals {
			kept.Approvals = append(kept.Approvals, keptApproval{rule.ID, rule.Calls, rule.Group})
			k.Policies = append(k.Policies, policy.PolicyText{ID: rule.ID, File: "profile " + name, Text: rule.String()})
		}
		k.Profiles[name] = kept
	}
	for name, t := range b.Targets {
		if !t.ObserveUntil.IsZero() {
			if k.Observed == nil {
				k.Observed = map[string]time.Time{}
			}
			k.Observed[name] = t.ObserveUntil
		}
	}
	text, err := json.Marshal(k, json.Deterministic(true))
	if err != nil {
		return nil, err
	}
	return func(tx *store.Tx, at time.Time) { tx.KeepBundle(b.Hash, text, at) }, nil
}

// kept reads what was kept of a configuration.
func (a *Authority) kept(ctx context.Context, hash string) (*keptBundle, error) {
	text, err := a.db.Bundle(ctx, hash)
	if err != nil {
		return nil, err
	}
	k := &keptBundle{}
	if err := json.Unmarshal(text, k); err != nil {
		return nil, err
	}
	return k, nil
}

// Explanation is why a decision is what it is.
type Explanation struct {
	Decision  string              `json:"decision"`
	Time      time.Time           `json:"time"`
	Verdict   mayfly.Verdict      `json:"verdict"`
	Term      mayfly.Term         `json:"term,omitempty"`
	Reason    string              `json:"reason,omitempty"`
	Next      *mayfly.Next        `json:"next,omitempty"` // what would have made it pass
	What      string              `json:"what"`           // call, or the request that was refused: exchange, widen, …
	Surface   string              `json:"surface,omitempty"`
	Target    string              `json:"target,omitempty"`
	Action    string              `json:"action,omitempty"`
	Task      mayfly.TaskID       `json:"task,omitempty"`
	Profile   string              `json:"profile,omitempty"`
	Root      RootView            `json:"root"`
	Bundle    string              `json:"bundle"`
	Terms     []policy.Step       `json:"terms,omitempty"`    // all of them, in order
	Policies  []policy.PolicyText `json:"policies,omitempty"` // that determined, or erred: their text in this bundle
	Snapshot  *mayfly.Snapshot    `json:"snapshot,omitempty"` // what the policies saw
	Approval  string              `json:"approval,omitempty"`
	Observed  []mayfly.Term       `json:"observed,omitempty"`
	Outcome   string              `json:"outcome,omitempty"` // of an allowed call
	Status    int                 `json:"status,omitempty"`
	Positions []int64             `json:"positions,omitempty"` // of its records in the log
}

// noDecision is the one answer for a decision that does not exist and one the
// caller has no business with.
func noDecision() *mayfly.Error {
	return mayfly.Errorf(mayfly.NotFound, "there is no such decision for you; check the id, or ask the operator")
}

// Explain says why a decision is what it is, in the words and by the rules of
// when it was made. It is for whoever may read its task; a decision that came
// before there was a task is for the operator.
func (a *Authority) Explain(ctx context.Context, p Presented, id string) (Explanation, error) {
	w, err := a.identify(ctx, &p)
	if err != nil {
		return Explanation{}, err
	}
	missing := func() (Explanation, error) {
		return Explanation{}, a.refuse(ctx, w.refused("explain"), noDecision(), w.burn(a))
	}
	rows, err := a.db.EventsByDecision(ctx, id)
	if err != nil {
		return Explanation{}, err
	}
	if len(rows) == 0 {
		return missing()
	}
	x := Explanation{Decision: id}
	for _, row := range rows {
		if row.Position != nil {
			x.Positions = append(x.Positions, *row.Position)
		}
		if err := a.explainRecord(ctx, &x, row); err != nil {
			return Explanation{}, err
		}
	}
	if x.Task == "" && !w.operator {
		return missing()
	}
	if x.Task != "" {
		t, err := a.db.Task(ctx, x.Task)
		if mayfly.KindOf(err) == mayfly.NotFound {
			return missing()
		} else if err != nil {
			return Explanation{}, err
		}
		if !w.mayRead(&t.Task) {
			return missing()
		}
		x.Profile, x.Root = t.Profile, rootView(t.Root)
	}
	return x, nil
}

// explainRecord adds what one record of the decision says.
func (a *Authority) explainRecord(ctx context.Context, x *Explanation, row store.EventRow) error {
	if row.Task != "" {
		x.Task = row.Task
	}
	read := func(into any) error {
		body, err := a.db.Body(ctx, row)
		if err != nil {
			return err
		}
		return json.Unmarshal(body, into)
	}
	switch row.Kind {
	case mayfly.CallDecided{}.Kind():
		var e mayfly.CallDecided
		if err := read(&e); err != nil {
			return err
		}
		d := e.Decision
		x.What, x.Surface, x.Target, x.Action = "call", e.Surface, e.Target, e.Action
		x.Approval, x.Observed, x.Snapshot = d.Approval, d.Observed, e.Snapshot
		return a.explainDecision(ctx, x, row, d)
	case mayfly.RequestRefused{}.Kind():
		var e mayfly.RequestRefused
		if err := read(&e); err != nil {
			return err
		}
		x.What, x.Profile, x.Root = e.What, e.Profile, rootView(e.Root)
		return a.explainDecision(ctx, x, row, mayfly.Decision{
			ID: e.Decision, Verdict: mayfly.Deny, Term: e.Term, Reason: e.Reason, Policies: e.Policies,
		})
	case mayfly.CallEnded{}.Kind():
		var e mayfly.CallEnded
		if err := read(&e); err != nil {
			return err
		}
		x.Outcome, x.Status = e.Outcome, e.Status
	case mayfly.TaskOpened{}.Kind(), mayfly.TaskWidened{}.Kind():
		x.What = map[string]string{mayfly.TaskOpened{}.Kind(): "open", mayfly.TaskWidened{}.Kind(): "widen"}[row.Kind]
		return a.explainDecision(ctx, x, row, mayfly.Decision{ID: x.Decision, Verdict: mayfly.Allow})
	}
	return nil
}

func (a *Authority) explainDecision(ctx context.Context, x *Explanation, row store.EventRow, d mayfly.Decision) error {
	x.Time, x.Bundle = row.Time, row.Bundle()
	x.Verdict, x.Term, x.Reason, x.Next = d.Verdict, d.Term, d.Reason, d.Next
	x.Terms = policy.Explain(d, x.Snapshot)
	if len(d.Policies) == 0 {
		return nil
	}
	k, err := a.kept(ctx, x.Bundle)
	if mayfly.KindOf(err) == mayfly.NotFound {
		return nil // of a time before texts were kept
	} else if err != nil {
		return err
	}
	for _, id := range d.Policies {
		for _, text := range k.Policies {
			if text.ID == id {
				x.Policies = append(x.Policies, text)
			}
		}
	}
	return nil
}
