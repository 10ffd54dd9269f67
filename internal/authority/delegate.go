package authority

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"hash/crc32"
	"strings"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/failpoint"
	"github.com/mayfly-id/mayfly/internal/policy"
	"github.com/mayfly-id/mayfly/internal/store"
)

// ticketPrefix begins every ticket, so that a leaked one is recognised.
const ticketPrefix = "mft_"

// newTicket makes a ticket: 256 random bits and a checksum over them, so that a
// mistyped one is refused without asking the store.
func newTicket() string {
	var b [36]byte
	rand.Read(b[:32])
	sum := crc32.ChecksumIEEE(b[:32])
	b[32], b[33], b[34], b[35] = byte(sum>>24), byte(sum>>16), byte(sum>>8), byte(sum)
	return ticketPrefix + base64.RawURLEncoding.EncodeToString(b[:])
}

// ticketHash is what of a ticket is stored, and whether it is one at all.
func ticketHash(ticket string) ([]byte, bool) {
	text, ok := strings.CutPrefix(ticket, ticketPrefix)
	if !ok {
		return nil, false
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) != 36 {
		return nil, false
	}
	sum := crc32.ChecksumIEEE(b[:32])
	if b[32] != byte(sum>>24) || b[33] != byte(sum>>16) || b[34] != byte(sum>>8) || b[35] != byte(sum) {
		return nil, false
	}
	h := sha256.Sum256([]byte(ticket))
	return h[:], true
}

// DelegateRequest asks for a ticket.
type DelegateRequest struct {
	Profile string
	Purpose string
	Grants  []mayfly.Grant // short forms take the limits of what covers them; none is the profile's default
	TTL     time.Duration  // of the ticket; 0 is 10 minutes
	TaskTTL time.Duration  // of the tasks it opens; 0 is the profile's default
	Uses    int64          // 0 is 1
}

// DelegateAnswer is a ticket. It is shown once and stored only as a hash.
type DelegateAnswer struct {
	Ticket     string    `json:"ticket"`
	Delegation string    `json:"delegation"`
	ExpiresAt  time.Time `json:"expires_at"`
}

// maxTicketUses bounds how many tasks one ticket opens.
const maxTicketUses = 1000

// Delegate records a delegation and makes the ticket that redeems it. The
// delegator is the human or service whose token was presented, the task whose
// token was presented, or on the admin socket the calling user as a service of
// the unix source.
func (a *Authority) Delegate(ctx context.Context, p Presented, r DelegateRequest) (DelegateAnswer, error) {
	if err := a.mayIssue(); err != nil {
		return DelegateAnswer{}, err
	}
	w, err := a.identify(ctx, &p)
	if err != nil {
		return DelegateAnswer{}, err
	}
	now := a.clock.now()
	b := a.Bundle()
	refused := w.refused("delegate")
	refused.Profile = r.Profile
	fail := func(err error) (DelegateAnswer, error) {
		return DelegateAnswer{}, a.refuse(ctx, refused, err, w.burn(a))
	}

	var root mayfly.Subject
	var chain []*mayfly.Task
	switch {
	case w.session != nil:
		if chain, err = a.chainOf(ctx, w.session.Task(), now); err != nil {
			return DelegateAnswer{}, err
		}
		root = w.session.task().Root
	case w.caller != nil:
		root = w.caller.Subject()
	default:
		c, err := b.Sources.Peer(*p.Peer, mayfly.Service)
		if err != nil {
			return fail(err)
		}
		root = c.Subject()
	}
	refused.Root = root

	switch {
	case r.Purpose == "":
		return fail(mayfly.Errorf(mayfly.Invalid, "say what the task is for: purpose is required"))
	case len(r.Purpose) > mayfly.MaxPurpose:
		return fail(mayfly.Errorf(mayfly.Invalid, "purpose is longer than %d bytes", mayfly.MaxPurpose))
	case r.TTL < 0 || r.TTL > mayfly.TicketMaxTTL:
		return fail(mayfly.Errorf(mayfly.Invalid, "a ticket lives at most %s", mayfly.TicketMaxTTL))
	case r.TaskTTL < 0 || r.Uses < 0 || r.Uses > maxTicketUses:
		return fail(mayfly.Errorf(mayfly.Invalid, "task_ttl and uses cannot be negative, and uses is at most %d", maxTicketUses))
	}
	profile := b.Profiles[r.Profile]
	if profile == nil {
		return fail(errNoProfile())
	}
	grants, err := askedGrants(asked{grants: r.Grants}, profile, parentOf(chain), nil)
	if err != nil {
		return fail(err)
	}
	if r.TTL == 0 {
		r.TTL = mayfly.TicketDefaultTTL
	}
	if r.Uses == 0 {
		r.Uses = 1
	}
	purpose := mayfly.Purpose{Text: r.Purpose, By: "delegator", Verified: true}
	if w.session != nil {
		purpose.Verified = false // an agent's word, whoever it works for
	}
	question := &policy.OpenQuestion{
		Decision: mayfly.NewID("dec", now), Root: root, Parent: b.links(chain), Profile: profile, Grants: grants,
		Purpose: purpose, Now: now, Bundle: b.Hash, Policies: b.Policies, TrustDomain: b.TrustDomain, DelegateOnly: true, SourceIP: p.Source,
	}
	permit, decision := policy.DecideOpen(question)
	var approval *mayfly.Approval
	if decision.Verdict == mayfly.NeedsApproval {
		asked := opening{Grants: grants, Ticket: r.TTL.String(), Uses: r.Uses}
		if r.TaskTTL > 0 {
			asked.Task = r.TaskTTL.String()
		}
		if approval, err = a.openingApproval(ctx, question, asked, &decision); err != nil {
			return DelegateAnswer{}, err
		}
		if approval.State(now) != mayfly.Approved {
			return DelegateAnswer{}, a.askToOpen(ctx, refused, approval, chain, &decision, w.burn(a))
		}
		question.Approved = approval.Needs
		permit, decision = policy.DecideOpen(question)
	}
	if permit == nil {
		refused.Decision, refused.Policies = decision.ID, decision.Policies
		return fail(refusedOpening(decision))
	}

	d := &mayfly.Delegation{
		ID: mayfly.NewID("dlg", now), Profile: profile.Name, Purpose: purpose, Grants: grants, Root: root,
		ExpiresAt: now.Add(r.TTL), TaskTTL: r.TaskTTL, Uses: r.Uses, MadeAt: now,
	}
	e := mayfly.DelegationMade{
		Delegation: d.ID, Profile: d.Profile, Purpose: r.Purpose, Grants: grants, Root: root, ExpiresAt: d.ExpiresAt, Uses: d.Uses,
	}
	if parent := parentOf(chain); parent != nil {
		d.Parent, e.Task, e.ParentDlg = parent.ID, parent.ID, parent.Dlg
	}
	rec, err := a.db.Prepare(ctx, now, b.Hash, e)
	if err != nil {
		return DelegateAnswer{}, err
	}
	d.Dlg = rec.Dlg()
	ticket := newTicket()
	hash, _ := ticketHash(ticket)
	err = a.commit(ctx, rec, func(tx *store.Tx) {
		if len(chain) > 0 {
			tx.ChainLive(taskIDs(chain), now)
		}
		tx.NotRevoked(revocationKeys(root, chain, profile.Name, mayfly.Evidence{}))
		if burn := w.burn(a); burn != nil {
			burn(tx)
		}
		if approval != nil {
			tx.UseApproval(approval.ID, now)
		}
		tx.InsertDelegation(d, hash)
	})
	switch guard := refusedBy(err); guard {
	case "":
	case guardProof:
		return DelegateAnswer{}, a.refuse(ctx, refused, errReplay(), nil)
	case guardApproval:
		return DelegateAnswer{}, a.refuse(ctx, refused, answeredMeanwhile(), nil)
	case "revocation":
		return DelegateAnswer{}, a.refuse(ctx, refused, errRevoked("the delegator, the profile or a source"), nil)
	default:
		return DelegateAnswer{}, a.refuse(ctx, refused, mayfly.Errorf(mayfly.Conflict, "the delegating task is over; open a new one"), nil)
	}
	if err != nil {
		return DelegateAnswer{}, err
	}
	failpoint.Here("ticket.committed")
	return DelegateAnswer{Ticket: ticket, Delegation: d.ID, ExpiresAt: d.ExpiresAt}, nil
}

// parentOf is the last of a chain, nil if there is none.
func parentOf(chain []*mayfly.Task) *mayfly.Task {
	if len(chain) == 0 {
		return nil
	}
	return chain[len(chain)-1]
}

func errNoProfile() *mayfly.Error {
	return mayfly.Coded(mayfly.Invalid, "invalid_request", "there is no such profile for you; ask the operator which to use")
}

// revocationKeys is everything in a chain that the kill switch can be thrown for.
func revocationKeys(root mayfly.Subject, chain []*mayfly.Task, profile string, agent mayfly.Evidence) []store.RevocationKey {
	keys := []store.RevocationKey{{Kind: string(root.Kind), Value: root.ID}, {Kind: "profile", Value: profile}}
	add := func(kind, value string) {
		if value != "" {
			keys = append(keys, store.RevocationKey{Kind: kind, Value: value})
		}
	}
	add("source", root.Source)
	add("source", agent.Source)
	add("client", agent.Client)
	for _, t := range chain {
		add("profile", t.Profile)
		add("source", t.Agent.Source)
		add("client", t.Agent.Client)
	}
	return keys
}
