package authority

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/failpoint"
	"github.com/mayfly-id/mayfly/internal/policy"
	"github.com/mayfly-id/mayfly/internal/store"
)

// What one task may ask of humans: more is refused, so that nobody says yes only
// to be left alone.
const (
	maxWaiting  = 3 // requests that wait
	maxAnHour   = 6
	askAgain    = 15 * time.Minute // after a no, before the same is asked again
	maxOpenings = 200              // openings that wait, of all delegators together
)

// guardApproval: an approval is in the state that the change needs.
const guardApproval = "approval"

// guardRoom: the agent may ask for one more approval.
const guardRoom = "approval limit"

// bound is the hash of everything an approval is bound to, each part with its
// length, so that no two lists have one hash.
func bound(parts ...string) string {
	h := sha256.New()
	var n [8]byte
	for _, p := range parts {
		binary.BigEndian.PutUint64(n[:], uint64(len(p)))
		h.Write(n[:])
		h.Write([]byte(p))
	}
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

// approvalFor finds the newest approval that fits q's call exactly: this task
// (and so its chain), the tool's definition, the arguments, and the rules. If
// there is none it gives one that has not been asked for.
func (a *Authority) approvalFor(ctx context.Context, chain []*mayfly.Task, q *policy.Question, d *mayfly.Decision) (*mayfly.Approval, error) {
	t := chain[len(chain)-1]
	what := q.Call.Semantic()
	if what == "" {
		// A body that is passed on as it comes is not known before it is sent, so
		// no yes could be to it.
		return &mayfly.Approval{DeniedAt: q.Now}, nil
	}
	key := bound("call", string(t.ID), what, q.Bundle)
	found, err := a.db.ApprovalFor(ctx, t.ID, key)
	if err == nil && a.stands(found, d.Needs, q.Now) || err != nil && mayfly.KindOf(err) != mayfly.NotFound {
		return found, err
	}
	fresh := a.newApproval(t, q.Now, d)
	fresh.What, fresh.Key, fresh.Grant = "call", key, q.Call.Grant()
	for _, l := range q.Chain {
		if l.Profile == nil {
			continue
		}
		for _, rule := range l.Profile.Approvals {
			if rule.Usable > 0 && slices.Contains(d.Policies, rule.ID) {
				fresh.Usable = min(fresh.Usable, rule.Usable)
			}
		}
	}
	request, err := callRequest(&q.Call)
	if err != nil {
		return nil, err
	}
	fresh.Request = request
	return fresh, nil
}

// stands reports whether a, asked for before, still answers for needs: it waits,
// or was given, or was refused so short a time ago that it is not asked again.
func (a *Authority) stands(found *mayfly.Approval, needs []string, now time.Time) bool {
	for _, need := range needs {
		if !slices.Contains(found.Needs, need) {
			return false
		}
	}
	switch found.State(now) {
	case mayfly.Waiting, mayfly.Approved:
		return true
	case mayfly.ApprovalDenied:
		return now.Sub(found.DeniedAt) < askAgain
	default:
		return false
	}
}

// newApproval is a request by t, or with no task by whoever opens one.
func (a *Authority) newApproval(t *mayfly.Task, now time.Time, d *mayfly.Decision) *mayfly.Approval {
	ap := &mayfly.Approval{
		ID: mayfly.NewID("apr", now), Decision: d.ID, Bundle: d.Bundle, Needs: d.Needs, Policy: d.Policies,
		Usable: mayfly.ApprovalUsable, AskedAt: now, ExpiresAt: now.Add(mayfly.ApprovalPending),
	}
	if t != nil {
		ap.Task, ap.RootTask, ap.Profile, ap.Root, ap.Purpose = t.ID, t.RootTask, t.Profile, t.Root, t.Purpose
		if ap.ExpiresAt.After(t.Deadline) {
			ap.ExpiresAt = t.Deadline
		}
	}
	return ap
}

// isNew reports whether ap was not asked for yet.
func isNew(ap *mayfly.Approval, d *mayfly.Decision) bool { return ap.Decision == d.ID }

// maxShown is how much of a call's arguments a human is shown, in bytes. A call
// with more cannot be read, and so not approved.
const maxShown = 16 << 10

// callRequest is a call for a human to read: what will be sent, from the
// canonical form that is decided on, and nothing the agent says about it. It is
// "" where that is too much to read.
func callRequest(c *mayfly.Call) (string, error) {
	r := struct {
		Kind      string         `json:"kind"`
		Target    string         `json:"target"`
		Action    string         `json:"action"`
		Arguments jsontext.Value `json:"arguments,omitempty"`
		Digest    string         `json:"digest,omitempty"` // of a body that is not JSON
		Size      int64          `json:"size,omitzero"`
	}{Kind: c.Kind, Target: c.Target, Action: c.Action}
	if c.NoArguments {
		r.Digest, r.Size = c.Digest, c.Size
	} else {
		var err error
		if r.Arguments, err = c.Arguments.Canonical(); err != nil {
			return "", err
		}
	}
	b, err := json.Marshal(r)
	if err != nil || len(b) > maxShown {
		return "", err
	}
	return string(b), nil
}

// askFirst answers a call that a human must approve before it happens: it asks,
// unless that was done, records the decision, and says where the answer will be.
func (a *Authority) askFirst(ctx context.Context, s *Session, chain []*mayfly.Task, q *policy.Question, d mayfly.Decision, snapshot *mayfly.Snapshot, ap *mayfly.Approval) error {
	burn := burnProof(s.proof, q.Now)
	fails := func(reason, detail string) error {
		d.Verdict, d.Term, d.Reason = mayfly.Deny, mayfly.TermApproval, reason
		d.Next = &mayfly.Next{Action: "none", Detail: detail}
		return a.refuseCall(ctx, s, chain, q, d, snapshot)
	}
	mismatch := ""
	if ap.ID == "" {
		return fails("this call needs a human's yes, and what it sends cannot be read before", "send its body as JSON")
	}
	if ap.State(q.Now) == mayfly.ApprovalDenied {
		err := fails("this call was put before a human, who said no", "do not ask again; do without, or ask for something else")
		return limited(err)
	}
	if isNew(ap, &d) {
		if ap.Request == "" {
			return fails("this call needs a human's yes, and is too large for one to read", "send it in smaller parts")
		}
		other, err := a.unusedFor(ctx, chain[len(chain)-1].ID, ap.Grant, q.Now)
		if err != nil {
			return err
		}
		if other != "" {
			mismatch = "the approval " + other + " fits another call than this one: its arguments, its tool or the rules differ; "
		}
		err = a.ask(ctx, ap, chain, burn)
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
			return a.refuse(ctx, s.refused("call "+q.Call.Grant()), errReplay(), nil)
		case guardRoom:
			return limited(fails("this task has asked humans for as much as it may; wait for their answers",
				fmt.Sprintf("at most %d requests wait, and %d are made in an hour", maxWaiting, maxAnHour)))
		default:
			a.live.evict(taskIDs(chain)...)
			return mayfly.Errorf(mayfly.Conflict, "the task ended meanwhile; open a new one")
		}
	}
	d.Approval = ap.ID
	d.Reason = mismatch + d.Reason
	d.Next = a.askedFor(ap)
	err := a.record(ctx, s.decided(q.Call, d, snapshot), burn)
	if refusedBy(err) == guardProof {
		return a.refuse(ctx, s.refused("call "+q.Call.Grant()), errReplay(), nil)
	}
	if err != nil {
		return err
	}
	e := mayfly.Errorf(mayfly.Denied, "%s", d.Reason)
	e.Decision, e.Term, e.Next = d.ID, d.Term, d.Next
	if mismatch != "" {
		e.Code = "approval_mismatch"
	}
	return e
}

// limited makes a refusal one of too many.
func limited(err error) error {
	if e := mayfly.AsError(err); e.Kind == mayfly.Denied {
		e.Kind, e.Code = mayfly.RateLimited, "approval_limit"
	}
	return err
}

// ApprovalURL is where a human answers a request: its page in the console, or, where
// nobody signs in, the request itself.
func (a *Authority) ApprovalURL(id string) string {
	b := a.Bundle()
	if b.Sources.SignsIn() {
		return b.Issuer + "/console/approvals/" + id
	}
	return b.Issuer + "/v1/approvals/" + id
}

// askedFor tells an agent what it waits for.
func (a *Authority) askedFor(ap *mayfly.Approval) *mayfly.Next {
	return &mayfly.Next{
		Action: "request", Grant: ap.Grant, Approval: ap.ID, URL: a.ApprovalURL(ap.ID),
		Detail: "send the same request again when a human has said yes; until " + ap.ExpiresAt.Format(time.RFC3339) + " they may",
	}
}

// ask puts a request before humans, and renews the idle leases of the task and of
// all above it; while it waits, holdWaiting goes on with that.
func (a *Authority) ask(ctx context.Context, ap *mayfly.Approval, chain []*mayfly.Task, extra func(*store.Tx)) error {
	e := mayfly.ApprovalRequested{
		Approval: ap.ID, Task: ap.Task, Root: ap.Root, Profile: ap.Profile, What: ap.What, Grant: ap.Grant,
		Needs: ap.Needs, Policies: ap.Policy, Decision: ap.Decision, ExpiresAt: ap.ExpiresAt,
	}
	waiting, hourly := int64(maxWaiting), int64(maxAnHour)
	if ap.Task == "" {
		waiting, hourly = maxOpenings, 10*maxOpenings
	}
	err := a.record(ctx, e, func(tx *store.Tx) {
		if len(chain) > 0 {
			tx.ChainLive(taskIDs(chain), ap.AskedAt)
		}
		tx.ApprovalRoom(ap.Task, waiting, hourly, ap.AskedAt)
		if extra != nil {
			extra(tx)
		}
		tx.InsertApproval(ap)
		for _, t := range chain {
			if until, due := t.RenewIdle(ap.AskedAt); due {
				tx.RenewIdle(t.ID, until)
			}
		}
	})
	if err == nil {
		failpoint.Here("approval.asked")
		for _, t := range chain {
			if until, due := t.RenewIdle(ap.AskedAt); due {
				a.live.renewed(t, until)
			}
		}
	}
	return err
}

// unusedFor is the id of an approval of this task for this grant that was given
// and not used; "" if there is none.
func (a *Authority) unusedFor(ctx context.Context, task mayfly.TaskID, grant string, now time.Time) (string, error) {
	list, err := a.db.Approvals(ctx, store.ApprovalFilter{Task: task, Limit: 50}, now)
	if err != nil {
		return "", err
	}
	for _, ap := range list {
		if ap.Grant == grant && ap.State(now) == mayfly.Approved {
			return ap.ID, nil
		}
	}
	return "", nil
}

// holdWaiting renews the idle leases of tasks that wait for a human.
func (a *Authority) holdWaiting(ctx context.Context) error {
	now := a.clock.now()
	list, err := a.db.Approvals(ctx, store.ApprovalFilter{Waiting: true, Limit: 500}, now)
	if err != nil {
		return err
	}
	done := map[mayfly.TaskID]bool{}
	for _, ap := range list {
		if ap.Task == "" {
			continue
		}
		chain, err := a.live.chain(ctx, ap.Task)
		if err != nil {
			return err
		}
		if ended(chain, now) != nil {
			continue
		}
		for _, t := range chain {
			if done[t.ID] {
				continue
			}
			done[t.ID] = true
			if err := a.renewIdle(ctx, t, "approval"); err != nil && mayfly.KindOf(err) != mayfly.Conflict {
				return err
			}
		}
	}
	return nil
}

// ApprovalView is a request for approval as humans and agents are shown it.
// What is to be done is told by the server, from the canonical request; what the
// agent says is marked as its word.
type ApprovalView struct {
	ID        string               `json:"id"`
	State     mayfly.ApprovalState `json:"state"`
	What      string               `json:"what"`   // call, open or widen
	Action    string               `json:"action"` // one sentence, ours
	Grant     string               `json:"grant"`
	Request   jsontext.Value       `json:"request,omitempty"` // while it can still be answered or used
	Task      mayfly.TaskID        `json:"task,omitempty"`
	Profile   string               `json:"profile"`
	Root      RootView             `json:"root"`
	Purpose   mayfly.Purpose       `json:"purpose"` // the agent's or delegator's word
	Needs     []string             `json:"needs"`
	Open      []string             `json:"open,omitempty"` // needs nobody has spoken for
	Votes     []mayfly.Vote        `json:"votes,omitempty"`
	Policies  []string             `json:"policies,omitempty"`
	Decision  string               `json:"decision"`
	Bundle    string               `json:"bundle"`
	AskedAt   time.Time            `json:"asked_at"`
	ExpiresAt time.Time            `json:"expires_at"`
	UsableTo  *time.Time           `json:"usable_until,omitempty"`
	DeniedBy  string               `json:"denied_by,omitempty"`
	Note      string               `json:"note,omitempty"`
	UsedAt    *time.Time           `json:"used_at,omitempty"`
}

// ApprovalPage is one page of requests, newest first; Next is the cursor of the
// next, "" at the end.
type ApprovalPage struct {
	Approvals []ApprovalView `json:"approvals"`
	Next      string         `json:"next,omitempty"`
}

func (a *Authority) approvalView(ap *mayfly.Approval) ApprovalView {
	now := a.clock.now()
	v := ApprovalView{
		ID: ap.ID, State: ap.State(now), What: ap.What, Grant: ap.Grant, Task: ap.Task, Profile: ap.Profile,
		Root: rootView(ap.Root), Purpose: ap.Purpose, Needs: ap.Needs, Votes: ap.Votes, Policies: ap.Policy,
		Decision: ap.Decision, Bundle: ap.Bundle, AskedAt: ap.AskedAt, ExpiresAt: ap.ExpiresAt, DeniedBy: ap.DeniedBy, Note: ap.Note,
	}
	v.Purpose.Text = Plain(ap.Purpose.Text, 280)
	who := "an agent of profile " + ap.Profile + ", for " + Plain(ap.Root.ID, 128)
	switch ap.What {
	case "open":
		v.Action = Plain(ap.Root.ID, 128) + " wants to open a task of profile " + ap.Profile + " with " + Plain(ap.Grant, 1024)
	case "widen":
		v.Action = who + ", wants to be granted " + Plain(ap.Grant, 1024) + " as well"
	default:
		v.Action = who + ", wants to call " + Plain(ap.Grant, 1024)
	}
	if ap.Request != "" && (v.State == mayfly.Waiting || v.State == mayfly.Approved) {
		v.Request = jsontext.Value(ap.Request)
	}
	if v.State == mayfly.Waiting {
		v.Open = ap.Open()
	}
	if !ap.UsableUntil.IsZero() {
		v.UsableTo = &ap.UsableUntil
	}
	if !ap.UsedAt.IsZero() {
		v.UsedAt = &ap.UsedAt
	}
	return v
}

// Plain is text from outside as it can be shown on a line: at most limit
// characters, with control characters, line ends and whatever changes the
// direction of writing or cannot be seen spelt out.
func Plain(text string, limit int) string {
	var b strings.Builder
	n := 0
	for _, r := range text {
		if n++; n > limit {
			b.WriteString("…")
			break
		}
		switch {
		case r == utf8.RuneError, unicode.IsControl(r), unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Co, unicode.Cs):
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// human is who w is, where w is a human with a token that no agent is handed.
func (w who) human() (mayfly.Subject, bool) {
	if w.caller == nil || !w.caller.Operator() || w.caller.Subject().Kind != mayfly.Human {
		return mayfly.Subject{}, false
	}
	return w.caller.Subject(), true
}

// mayAnswer are the open needs of ap that a human may speak for, and if there is
// none, why.
func (a *Authority) mayAnswer(human mayfly.Subject, ap *mayfly.Approval, depth int, source string) (needs []string, why string) {
	b := a.Bundle()
	for _, need := range ap.Open() {
		ok, reason := policy.MayApprove(b.Policies, &policy.ApproveQuestion{
			Human: human, Approval: ap, Need: need, Profile: b.Profiles[ap.Profile], Depth: depth,
			Now: a.clock.now(), SourceIP: source, TrustDomain: b.TrustDomain,
		})
		if ok {
			needs = append(needs, need)
		} else if why == "" {
			why = reason
		}
	}
	return needs, why
}

// mayReadApproval: the operator, the task itself, whoever is above it, its
// delegator, and every human who could answer it.
func (a *Authority) mayReadApproval(w who, ap *mayfly.Approval, t *mayfly.Task) bool {
	if w.operator || t != nil && w.mayRead(t) {
		return true
	}
	if human, ok := w.human(); ok {
		if ap.Root.Kind == mayfly.Human && ap.Root.ID == human.ID {
			return true
		}
		for _, need := range ap.Needs {
			if slices.Contains(human.Groups, need) {
				return true
			}
		}
	}
	return false
}

// taskOf is the task that asked, nil where an opening did.
func (a *Authority) taskOf(ctx context.Context, ap *mayfly.Approval) (*mayfly.Task, error) {
	if ap.Task == "" {
		return nil, nil
	}
	return a.live.task(ctx, ap.Task)
}

// Approvals lists requests, newest first: those that wait, or all. Each caller
// sees what it may read.
func (a *Authority) Approvals(ctx context.Context, p Presented, waiting bool, cursor string, limit int) (ApprovalPage, error) {
	w, err := a.identify(ctx, &p)
	if err != nil {
		return ApprovalPage{}, err
	}
	return a.approvals(ctx, w, waiting, cursor, limit)
}

// WatchApprovals is Approvals for a stream: the function it gives reads again as
// the caller that was let in, for as long as that caller's token lives.
func (a *Authority) WatchApprovals(ctx context.Context, p Presented) (func(context.Context) ([]ApprovalView, error), error) {
	w, err := a.identify(ctx, &p)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) ([]ApprovalView, error) {
		if err := a.still(ctx, w, &p); err != nil {
			return nil, err
		}
		page, err := a.approvals(ctx, w, true, "", 500)
		return page.Approvals, err
	}, nil
}

// still asks again, while a stream is open, whether w is who it was.
func (a *Authority) still(ctx context.Context, w who, p *Presented) error {
	if err := a.mayAct(); err != nil {
		return err
	}
	now := a.clock.now()
	switch {
	case w.signIn != nil:
		_, err := a.identifySignIn(ctx, p)
		return err
	case w.caller != nil && !now.Before(w.caller.ExpiresAt()):
		return mayfly.Coded(mayfly.Unauthenticated, "invalid_token", "the token expired while the stream was open")
	case w.session != nil:
		return a.stillLive(ctx, w.session, now)
	}
	return nil
}

func (a *Authority) approvals(ctx context.Context, w who, waiting bool, cursor string, limit int) (ApprovalPage, error) {
	if limit <= 0 {
		limit = 100
	}
	limit = min(limit, 500)
	page := ApprovalPage{Approvals: []ApprovalView{}}
	filter := store.ApprovalFilter{Waiting: waiting, After: cursor, Limit: 500}
	for {
		rows, err := a.db.Approvals(ctx, filter, a.clock.now())
		if err != nil {
			return ApprovalPage{}, err
		}
		for _, ap := range rows {
			filter.After = ap.ID
			t, err := a.taskOf(ctx, ap)
			if err != nil {
				return ApprovalPage{}, err
			}
			if !a.mayReadApproval(w, ap, t) {
				continue
			}
			if len(page.Approvals) == limit {
				page.Next = page.Approvals[limit-1].ID
				return page, nil
			}
			page.Approvals = append(page.Approvals, a.approvalView(ap))
		}
		if len(rows) < filter.Limit {
			return page, nil
		}
	}
}

// noApproval is the one answer for a request that does not exist and one the
// caller has no business with.
func noApproval() *mayfly.Error {
	return mayfly.Errorf(mayfly.NotFound, "there is no such approval for you; check the id")
}

// readApproval reads one request for w.
func (a *Authority) readApproval(ctx context.Context, w who, id, what string) (*mayfly.Approval, error) {
	ap, err := a.db.Approval(ctx, id)
	if err != nil && mayfly.KindOf(err) != mayfly.NotFound {
		return nil, err
	}
	if err == nil {
		t, err := a.taskOf(ctx, ap)
		if err != nil {
			return nil, err
		}
		if a.mayReadApproval(w, ap, t) {
			return ap, nil
		}
	}
	return nil, a.refuse(ctx, w.refused(what), noApproval(), w.burn(a))
}

// Approval reads one request.
func (a *Authority) Approval(ctx context.Context, p Presented, id string) (ApprovalView, error) {
	w, err := a.identify(ctx, &p)
	if err != nil {
		return ApprovalView{}, err
	}
	ap, err := a.readApproval(ctx, w, id, "read approval")
	if err != nil {
		return ApprovalView{}, err
	}
	return a.approvalView(ap), nil
}

// maxNote is the longest note with an answer, in bytes.
const maxNote = 512

// Approve says yes to a request, for every need that this human may speak for.
// Only a human may, with a token that no agent is handed; nobody for what they
// delegated themselves, unless it is they who are asked.
func (a *Authority) Approve(ctx context.Context, p Presented, id, note string) (ApprovalView, error) {
	w, ap, err := a.answering(ctx, &p, id, "approve")
	if err != nil {
		return ApprovalView{}, err
	}
	human, ok := w.human()
	switch {
	case !ok:
		return ApprovalView{}, a.refuse(ctx, w.refused("approve"), mayfly.Errorf(mayfly.Denied,
			"an approval is one human's yes: use a token made for the operators' audience of your identity provider"), w.burn(a))
	case len(note) > maxNote:
		return ApprovalView{}, a.refuse(ctx, w.refused("approve"), mayfly.Errorf(mayfly.Invalid, "a note has at most %d bytes", maxNote), nil)
	}
	if err := w.fresh(a.clock.now()); err != nil {
		return ApprovalView{}, a.refuse(ctx, w.refused("approve"), err, nil)
	}
	t, err := a.taskOf(ctx, ap)
	if err != nil {
		return ApprovalView{}, err
	}
	depth := 0
	if t != nil {
		depth = t.Depth
	}
	needs, why := a.mayAnswer(human, ap, depth, p.Source)
	if len(needs) == 0 {
		return ApprovalView{}, a.refuse(ctx, w.refused("approve"), mayfly.Errorf(mayfly.Denied, "%s", why), nil)
	}
	now := a.clock.now()
	votes := make([]mayfly.Vote, len(needs))
	for i, need := range needs {
		votes[i] = mayfly.Vote{Need: need, By: human.ID, At: now}
	}
	complete := len(needs) == len(ap.Open())
	until := now.Add(ap.Usable)
	if t != nil && until.After(t.Deadline) {
		until = t.Deadline
	}
	e := mayfly.ApprovalVoted{Approval: ap.ID, Task: ap.Task, Root: ap.Root, Need: needs, By: human.ID, Complete: complete, Note: note}
	err = a.record(ctx, e, func(tx *store.Tx) { tx.VoteApproval(ap.ID, votes, complete, until, now) })
	if refusedBy(err) != "" {
		return ApprovalView{}, a.refuse(ctx, w.refused("approve"), answeredMeanwhile(), nil)
	}
	if err != nil {
		return ApprovalView{}, err
	}
	failpoint.Here("approval.committed")
	return a.reread(ctx, ap.ID)
}

// Deny says no to a request, also to one that was approved and not used. Whoever
// could say yes may, the root delegator, and the operator.
func (a *Authority) Deny(ctx context.Context, p Presented, id, note string) (ApprovalView, error) {
	w, ap, err := a.answering(ctx, &p, id, "deny approval")
	if err != nil {
		return ApprovalView{}, err
	}
	_, human := w.human()
	switch {
	case !w.operator && !human:
		return ApprovalView{}, a.refuse(ctx, w.refused("deny approval"), mayfly.Errorf(mayfly.Denied,
			"only a human or the operator answers an approval"), w.burn(a))
	case len(note) > maxNote:
		return ApprovalView{}, a.refuse(ctx, w.refused("deny approval"), mayfly.Errorf(mayfly.Invalid, "a note has at most %d bytes", maxNote), nil)
	}
	now := a.clock.now()
	e := mayfly.ApprovalRefused{Approval: ap.ID, Task: ap.Task, Root: ap.Root, By: w.name(), Note: note}
	err = a.record(ctx, e, func(tx *store.Tx) { tx.DenyApproval(ap.ID, w.name(), note, now) })
	if refusedBy(err) != "" {
		return ApprovalView{}, a.refuse(ctx, w.refused("deny approval"), answeredMeanwhile(), nil)
	}
	if err != nil {
		return ApprovalView{}, err
	}
	failpoint.Here("approval.denied")
	return a.reread(ctx, ap.ID)
}

// answering reads the request that is to be answered, if it still can be.
func (a *Authority) answering(ctx context.Context, p *Presented, id, what string) (who, *mayfly.Approval, error) {
	w, err := a.identify(ctx, p)
	if err != nil {
		return who{}, nil, err
	}
	ap, err := a.readApproval(ctx, w, id, what)
	if err != nil {
		return who{}, nil, err
	}
	state := ap.State(a.clock.now())
	switch {
	case state == mayfly.Waiting, state == mayfly.Approved && what != "approve":
		return w, ap, nil
	case state == mayfly.Expired:
		err = mayfly.Errorf(mayfly.Gone, "the request expired at %s; the agent may ask again", ap.ExpiresAt.Format(time.RFC3339))
	case state == mayfly.Approved:
		err = mayfly.Errorf(mayfly.Conflict, "it was approved before")
	case state == mayfly.Used:
		err = mayfly.Errorf(mayfly.Conflict, "it was approved, and used at %s", ap.UsedAt.Format(time.RFC3339))
	default:
		err = mayfly.Errorf(mayfly.Conflict, "it was denied by %s", ap.DeniedBy)
	}
	return who{}, nil, a.refuse(ctx, w.refused(what), err, w.burn(a))
}

func answeredMeanwhile() *mayfly.Error {
	return mayfly.Errorf(mayfly.Conflict, "somebody else answered it, or it ended, meanwhile; read it again")
}

// reread is one request after it was answered by somebody who may.
func (a *Authority) reread(ctx context.Context, id string) (ApprovalView, error) {
	ap, err := a.db.Approval(ctx, id)
	if err != nil {
		return ApprovalView{}, err
	}
	return a.approvalView(ap), nil
}
