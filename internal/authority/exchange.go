package authority

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/attest"
	"github.com/mayfly-id/mayfly/internal/failpoint"
	"github.com/mayfly-id/mayfly/internal/policy"
	"github.com/mayfly-id/mayfly/internal/store"
	"github.com/mayfly-id/mayfly/internal/token"
)

// Token types of RFC 8693 section 3 and our own.
const (
	TypeAccessToken = "urn:ietf:params:oauth:token-type:access_token"
	TypeIDToken     = "urn:ietf:params:oauth:token-type:id_token"
	TypeJWT         = "urn:ietf:params:oauth:token-type:jwt"
	TypeTicket      = "urn:mayfly:params:oauth:token-type:ticket"
	// TypeJWTBearer is the client_assertion_type of private_key_jwt (RFC 7523).
	TypeJWTBearer = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
)

// typePeer stands for the user at the other end of the admin socket, as the
// kernel names it: a service where it delegates, a workload where it acts. It is
// never sent; it is what the socket means where no token is.
const typePeer = "peer"

// tokenLife is how long an access token lives, unless its task ends first.
const tokenLife = 5 * time.Minute

// ExchangeRequest is a token exchange (RFC 8693 section 2.1) as it came in.
type ExchangeRequest struct {
	Presented
	SubjectToken, SubjectTokenType string
	ActorToken, ActorTokenType     string
	RequestedTokenType             string
	Client                         ClientAuth
	Profile, Purpose               string
	Scope, AuthorizationDetails    string // as sent: the space-separated list and the JSON array
	Resources, Audience            []string
	RequestedTTL, RequestedIdle    string // seconds
	Budget                         string // calls
	DPoPJKT                        string // the key a child is to be bound to
}

// ClientAuth is how an OAuth client shows who it is (RFC 7521 section 4.2).
type ClientAuth struct {
	Assertion, AssertionType, ID string
}

// TokenAnswer is a successful exchange (RFC 8693 section 2.2.1).
type TokenAnswer struct {
	AccessToken     string         `json:"access_token"`
	IssuedTokenType string         `json:"issued_token_type"`
	TokenType       string         `json:"token_type"` // DPoP or Bearer
	ExpiresIn       int64          `json:"expires_in"` // seconds
	Scope           string         `json:"scope"`
	Details         []mayfly.Grant `json:"authorization_details,omitempty"`
	Task            mayfly.TaskID  `json:"task"`
	Decision        string         `json:"decision,omitempty"`
}

// exchange is one run through the token endpoint. Each step fills in what it
// verified, so that a refusal's record says as much as is known.
type exchange struct {
	a   *Authority
	r   *ExchangeRequest
	b   *Bundle
	now time.Time

	refused mayfly.RequestRefused
	known   bool // something presented was verified: a refusal is recorded singly

	proof    *token.Proof
	root     mayfly.Subject     // who the chain starts from
	subject  *attest.Caller     // a source's subject token
	presents *token.Verified    // a task's own token
	chain    []*mayfly.Task     // of the presented task, or of the ticket's delegating task
	ticket   *mayfly.Delegation // the ticket redeemed
	actor    *attest.Caller     // the agent's evidence, or the authenticated client
	agent    mayfly.Evidence
	once     []func(*store.Tx) // single-use marks this exchange burns, refused or not
}

// Exchange is the token endpoint's one way to a token. What is presented
// decides what happens: a human's, a service's or a ticket's word opens a task;
// a task's own token with a profile opens one below it; without, it gives the
// same task another token.
//
//	attest ─▶ decide ─▶ commit(state + event) ─▶ sign ─▶ answer
//
// The event carries the token's id, audience and expiry, and nothing is
// answered before it is durable.
func (a *Authority) Exchange(ctx context.Context, r ExchangeRequest) (TokenAnswer, error) {
	if err := a.mayIssue(); err != nil {
		return TokenAnswer{}, err
	}
	x := &exchange{a: a, r: &r, b: a.Bundle(), now: a.clock.now()}
	x.refused = mayfly.RequestRefused{What: "exchange", Profile: r.Profile, Source: r.Source}
	answer, err := x.run(ctx)
	if err != nil {
		return TokenAnswer{}, x.fail(ctx, err)
	}
	return answer, nil
}

// fail records a refusal: singly where somebody showed who they are, counted
// where nobody did.
func (x *exchange) fail(ctx context.Context, err error) error {
	if r, ok := errors.AsType[recorded](err); ok {
		return r.error
	}
	if !x.known {
		return x.a.unauthenticated("token", &x.r.Presented, err)
	}
	return x.a.refuse(ctx, x.refused, err, x.burnAll)
}

func (x *exchange) burnAll(tx *store.Tx) {
	for _, burn := range x.once {
		burn(tx)
	}
}

func badRequest(format string, args ...any) *mayfly.Error {
	return mayfly.Coded(mayfly.Invalid, "invalid_request", format, args...)
}

func (x *exchange) run(ctx context.Context) (TokenAnswer, error) {
	r := x.r
	switch {
	case r.RequestedTokenType != "" && r.RequestedTokenType != TypeAccessToken && r.RequestedTokenType != TypeJWT:
		return TokenAnswer{}, badRequest("only access tokens are issued; leave requested_token_type out")
	case r.Peer != nil && r.SubjectToken == "" && r.SubjectTokenType == "":
		r.SubjectTokenType = typePeer // on the admin socket: the user at the other end
	case r.SubjectToken == "" || r.SubjectTokenType == "":
		return TokenAnswer{}, badRequest("subject_token and subject_token_type are required")
	case r.SubjectTokenType == typePeer:
		return TokenAnswer{}, badRequest("this token type is not accepted here")
	case (r.ActorToken == "") != (r.ActorTokenType == ""):
		return TokenAnswer{}, badRequest("actor_token and actor_token_type go together")
	}
	if len(r.DPoP) > 0 {
		proof, err := token.VerifyProof(r.DPoP, r.Method, r.URL, "", nonceAS, x.a.nonces, x.now)
		if err != nil {
			return TokenAnswer{}, err
		}
		x.proof = &proof
		x.once = append(x.once, burnProof(&proof, x.now))
	}
	if err := x.readSubject(ctx); err != nil {
		return TokenAnswer{}, err
	}
	x.known = true
	if err := x.readActor(ctx); err != nil {
		return TokenAnswer{}, err
	}
	if err := x.splicing(); err != nil {
		return TokenAnswer{}, err
	}
	audience, target, err := x.audience()
	if err != nil {
		return TokenAnswer{}, err
	}
	if x.presents != nil && r.Profile == "" {
		return x.again(ctx, audience, target)
	}
	return x.open(ctx, audience, target)
}

// readSubject verifies the subject token and finds who the chain starts from.
func (x *exchange) readSubject(ctx context.Context) error {
	r := x.r
	switch r.SubjectTokenType {
	case TypeTicket:
		hash, ok := ticketHash(r.SubjectToken)
		if !ok {
			return badRequest("this is not a ticket")
		}
		d, err := x.a.db.DelegationBySecret(ctx, hash)
		if mayfly.KindOf(err) == mayfly.NotFound {
			return badRequest("this ticket is not known here; ask for a new one")
		} else if err != nil {
			return err
		}
		x.ticket, x.root = d, d.Root
		x.refused.Root, x.refused.Profile = d.Root, d.Profile
		x.known = true
		switch {
		case !d.VoidedAt.IsZero():
			return badRequest("this ticket is void; ask for a new one")
		case !x.now.Before(d.ExpiresAt):
			return badRequest("this ticket expired at %s; ask for a new one", d.ExpiresAt.Format(time.RFC3339))
		case d.Used >= d.Uses:
			return badRequest("this ticket was used; ask for a new one")
		}
		if d.Parent != "" {
			return x.readChain(ctx, d.Parent)
		}
		return nil

	case TypeAccessToken:
		v, err := x.a.keys.Verify(r.SubjectToken, x.now)
		if err != nil {
			return badRequest("the subject token is not valid: %s", mayfly.AsError(err).Message)
		}
		if !v.Whole {
			return badRequest("a token for one target cannot be exchanged; use the one whose audience is the issuer")
		}
		if x.a.live.tokenRevoked(v.Claims.JTI) {
			return badRequest("the subject token was revoked")
		}
		x.presents = v
		return x.readChain(ctx, mayfly.TaskID(v.Claims.Task.ID))

	case TypeJWT, TypeIDToken:
		if token.IsOurs(r.SubjectToken) {
			return badRequest("a task's own token has subject_token_type %s", TypeAccessToken)
		}
		c, err := x.b.Sources.Token(ctx, r.SubjectToken, attest.ForSubject)
		if err != nil {
			return err
		}
		return x.setSubject(c)

	case typePeer:
		c, err := x.b.Sources.Peer(*r.Peer, mayfly.Service)
		if err != nil {
			return err
		}
		return x.setSubject(c)
	}
	return badRequest("subject_token_type %q is not accepted here", r.SubjectTokenType)
}

func (x *exchange) setSubject(c attest.Caller) error {
	x.subject, x.root, x.known = &c, c.Subject(), true
	x.refused.Root = x.root
	if x.root.Kind == mayfly.Workload {
		return badRequest("a workload cannot delegate; use the token of a human or a service, or a ticket")
	}
	return nil
}

// readChain reads the task that stands above what is asked for, and finds it
// live.
func (x *exchange) readChain(ctx context.Context, id mayfly.TaskID) error {
	chain, err := x.a.chainOf(ctx, id, x.now)
	if mayfly.KindOf(err) == mayfly.NotFound {
		return badRequest("the task of the subject token is not known here")
	} else if err != nil {
		return err
	}
	t := parentOf(chain)
	x.chain, x.root, x.known = chain, t.Root, true
	x.refused.Root, x.refused.Task = t.Root, t.ID
	if over := ended(chain, x.now); over != nil {
		e := badRequest("%s", over.Message)
		e.Term, e.Next = over.Term, over.Next
		return e
	}
	return nil
}

// readActor verifies what the agent shows for itself: a token of a source, or
// the authentication of an OAuth client, or the peer of the admin socket.
func (x *exchange) readActor(ctx context.Context) error {
	r := x.r
	switch {
	case r.Peer != nil && r.ActorToken == "" && r.Client.Assertion == "" && (x.presents == nil || r.Profile != ""):
		// On the admin socket whoever opens a task and brings no evidence is the
		// user at the other end.
		c, err := x.b.Sources.Peer(*r.Peer, mayfly.Workload)
		if err != nil {
			return err
		}
		x.actor = &c
	case r.ActorToken != "":
		if r.ActorTokenType != TypeJWT && r.ActorTokenType != TypeIDToken {
			return badRequest("actor_token_type %q is not accepted here: bring the agent's own evidence from a source", r.ActorTokenType)
		}
		if token.IsOurs(r.ActorToken) {
			return badRequest("another task's token is no evidence of who an agent is")
		}
		c, err := x.b.Sources.Token(ctx, r.ActorToken, attest.ForActor)
		if err != nil {
			return err
		}
		x.actor = &c
	}
	if r.Client.Assertion != "" || r.Client.AssertionType != "" {
		if r.Client.AssertionType != TypeJWTBearer {
			return mayfly.Coded(mayfly.Unauthenticated, "invalid_client", "client_assertion_type must be %s", TypeJWTBearer)
		}
		c, err := x.b.Sources.ClientAssertion(ctx, r.Client.Assertion, r.Client.ID)
		if err != nil {
			return err
		}
		if x.actor != nil && x.actor.Subject().ID != c.Client() {
			return badRequest("the client that asks is not the actor it speaks for; send an actor token or a client assertion, not both")
		}
		if !x.a.assertions.first(c.Client()+":"+c.TokenID(), x.now) {
			return errAssertionReplay() // at an endpoint that commits nothing
		}
		x.actor = &c
		x.once = append(x.once, onceAssertion(c))
	}
	if x.actor == nil {
		return nil
	}
	s := x.actor.Subject()
	x.agent = mayfly.Evidence{Source: s.Source, Subject: s.ID, Client: x.actor.Client(), Verified: true}
	if x.agent.Client != "" {
		x.agent.Source, x.agent.Subject = "", x.agent.Client
	}
	return nil
}

func errAssertionReplay() *mayfly.Error {
	return mayfly.Coded(mayfly.Unauthenticated, "invalid_client", "this client assertion was used before; make a new one for each request")
}

// onceAssertion makes a client assertion single-use (RFC 7523 section 3, jti).
func onceAssertion(c attest.Caller) func(*store.Tx) {
	return func(tx *store.Tx) {
		tx.Once("assertion", c.Client()+":"+c.TokenID(), c.ExpiresAt().Add(time.Minute))
	}
}

// splicing ties the subject and the actor together: a chain that never happened
// must not come out of two tokens that did (standards, S1 to S5). The other
// rules are structural: the actor of a new chain is only ever the evidence
// verified here, every hop is recorded before its token leaves, and depth and
// width are guards of the commit.
func (x *exchange) splicing() error {
	mismatch := func(why string) error {
		return badRequest("delegation mismatch: %s", why)
	}
	if x.subject != nil && x.subject.HasActor() {
		return mismatch("the subject token already carries an actor chain of its own")
	}
	if x.actor != nil && x.actor.HasActor() {
		return mismatch("the actor token carries an actor chain of its own")
	}
	if x.subject == nil {
		return nil
	}
	if key := x.subject.Key(); key != "" && (x.proof == nil || x.proof.Thumbprint != key) {
		return mayfly.Coded(mayfly.Invalid, "invalid_dpop_proof", "the subject token is bound to a key; prove that key")
	}
	if may := x.subject.MayAct(); len(may) > 0 {
		if x.actor == nil {
			return mismatch("the subject token names who may act; bring that actor's token")
		}
		if !slices.ContainsFunc(may, x.isActor) {
			return mismatch("the subject token names another actor")
		}
	}
	if x.actor != nil {
		for _, pair := range [][2]string{
			{x.subject.Transaction(), x.actor.Transaction()}, {x.subject.Task(), x.actor.Task()},
		} {
			if pair[0] != "" && pair[1] != "" && pair[0] != pair[1] {
				return mismatch("the two tokens belong to different transactions")
			}
		}
	}
	return nil
}

// isActor reports whether may names the actor that showed itself here. Every
// member it has must fit; one without any names nobody.
func (x *exchange) isActor(may attest.Actor) bool {
	subject := x.actor.Subject().Claims["sub"]
	if x.actor.Client() != "" {
		subject = x.actor.Client()
	}
	switch {
	case may.Subject == "" && may.Client == "":
		return false
	case may.Subject != "" && may.Subject != subject:
		return false
	case may.Client != "" && may.Client != x.actor.Client():
		return false
	default:
		return may.Issuer == x.actor.Issuer() || may.Issuer == "" && x.actor.Client() != ""
	}
}

// audience is the one audience of the token asked for, and the target it is
// for; nil where the audience is the issuer or no target of ours.
func (x *exchange) audience() (string, *mayfly.Target, error) {
	asked := append(append([]string{}, x.r.Resources...), x.r.Audience...)
	switch {
	case len(asked) == 0:
		return x.b.Issuer, nil, nil
	case len(asked) > 1:
		return "", nil, mayfly.Coded(mayfly.Invalid, "invalid_target", "a token has one audience; name one resource")
	}
	target, ok := x.b.audience(asked[0])
	if !ok {
		return "", nil, mayfly.Coded(mayfly.Invalid, "invalid_target",
			"no token is issued for %q; use %s, or %s/mcp/<target> or %s/http/<target>", asked[0], x.b.Issuer, x.b.Issuer, x.b.Issuer)
	}
	return asked[0], target, nil
}

// seconds reads a number of seconds, at most most; "" is def. More than most is
// most: a cap is not a refusal.
func seconds(name, text string, def, most time.Duration) (time.Duration, error) {
	if text == "" {
		return min(def, most), nil
	}
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil || n <= 0 {
		return 0, badRequest("%s must be a number of seconds above 0", name)
	}
	return min(time.Duration(n)*time.Second, most), nil
}

// bindingKey is the key the new task is bound to, "" for none, by the rules of
// design section 6.
func (x *exchange) bindingKey(p *mayfly.Profile) (string, error) {
	proof := ""
	if x.proof != nil {
		proof = x.proof.Thumbprint
	}
	evidence := ""
	if x.actor != nil {
		evidence = x.actor.Key()
	}
	bad := func(format string, args ...any) (string, error) {
		return "", mayfly.Coded(mayfly.Invalid, "invalid_dpop_proof", format, args...)
	}
	key := proof
	switch {
	case x.presents != nil && x.presents.Claims.KeyThumbprint != "": // child of a bound parent
		if proof != x.presents.Claims.KeyThumbprint {
			return bad("prove the key of the delegating task: send a DPoP proof made with it")
		}
		switch {
		case evidence != "":
			key = evidence
		case x.r.DPoPJKT != "":
			if !token.ValidThumbprint(x.r.DPoPJKT) {
				return "", badRequest("dpop_jkt must be a base64url SHA-256 thumbprint")
			}
			key = x.r.DPoPJKT
		}
	case x.presents != nil: // child of an unbound parent
		if x.actor == nil {
			return "", mayfly.Coded(mayfly.Unauthenticated, "invalid_client",
				"a task without a key delegates only to an agent that shows who it is; add an actor token or client authentication")
		}
		if evidence != "" && proof != evidence {
			return bad("the actor token is bound to a key; prove that key")
		}
	default:
		if evidence != "" && proof != evidence {
			return bad("the actor token is bound to a key; prove that key")
		}
	}
	if key == "" && !p.KeyOptional {
		return bad("this profile needs a key: send a DPoP proof")
	}
	return key, nil
}

// open opens a task.
func (x *exchange) open(ctx context.Context, audience string, target *mayfly.Target) (TokenAnswer, error) {
	r, now, b := x.r, x.now, x.b
	name := r.Profile
	if x.ticket != nil {
		if name != "" && name != x.ticket.Profile {
			return TokenAnswer{}, badRequest("this ticket is for another profile; leave profile out")
		}
		name = x.ticket.Profile
	}
	if name == "" {
		return TokenAnswer{}, badRequest("profile is required: say what kind of agent this is")
	}
	p := b.Profiles[name]
	if p == nil {
		return TokenAnswer{}, errNoProfile()
	}
	x.refused.Profile = name
	if x.actor == nil && !x.unverifiedIsFine(p) {
		return TokenAnswer{}, mayfly.Coded(mayfly.Unauthenticated, "invalid_client",
			"show who the agent is: add an actor token from a source, or client authentication")
	}
	key, err := x.bindingKey(p)
	if err != nil {
		return TokenAnswer{}, err
	}
	parent := parentOf(x.chain)

	purpose := mayfly.Purpose{Text: r.Purpose, By: "agent"}
	if x.ticket != nil {
		if r.Purpose != "" && r.Purpose != x.ticket.Purpose.Text {
			return TokenAnswer{}, badRequest("the ticket says what the task is for; leave purpose out")
		}
		purpose = x.ticket.Purpose
	}
	switch {
	case purpose.Text == "":
		return TokenAnswer{}, badRequest("purpose is required: say what the task is for")
	case len(purpose.Text) > mayfly.MaxPurpose:
		return TokenAnswer{}, badRequest("purpose is longer than %d bytes", mayfly.MaxPurpose)
	}
	grants, err := askedGrants(asked{scope: r.Scope, details: r.AuthorizationDetails}, p, parent, x.ticket)
	if err != nil {
		return TokenAnswer{}, err
	}
	life := p.Lifetime.Default
	if x.ticket != nil && x.ticket.TaskTTL > 0 {
		life = x.ticket.TaskTTL
	}
	most := p.Lifetime.Max
	if x.ticket != nil && x.ticket.TaskTTL > 0 {
		most = min(most, x.ticket.TaskTTL)
	}
	ttl, err := seconds("requested_ttl", r.RequestedTTL, life, most)
	if err != nil {
		return TokenAnswer{}, err
	}
	idle, err := seconds("requested_idle", r.RequestedIdle, p.Lifetime.Idle, p.Lifetime.Idle)
	if err != nil {
		return TokenAnswer{}, err
	}
	budget := p.Budget
	if r.Budget != "" {
		n, err := strconv.ParseInt(r.Budget, 10, 64)
		if err != nil || n <= 0 {
			return TokenAnswer{}, badRequest("budget must be a number of calls above 0")
		}
		if budget == 0 || n < budget {
			budget = n
		}
	}

	oq := &policy.OpenQuestion{
		Decision: mayfly.NewID("dec", now), Root: x.root, Parent: b.links(x.chain), Profile: p, Grants: grants,
		Purpose: purpose, Agent: x.agent, Now: now, Bundle: b.Hash, Policies: b.Policies, TrustDomain: b.TrustDomain,
		Ticket: x.ticket != nil, SourceIP: r.Source,
	}
	if x.actor != nil {
		s := x.actor.Subject()
		oq.Evidence = &s
	}
	permit, decision := policy.DecideOpen(oq)
	var approval *mayfly.Approval
	if decision.Verdict == mayfly.NeedsApproval {
		if approval, err = x.a.openingApproval(ctx, oq, opening{Grants: grants, Task: ttl.String(), Idle: idle.String(), Calls: budget}, &decision); err != nil {
			return TokenAnswer{}, err
		}
		if approval.State(now) != mayfly.Approved {
			err := x.a.askToOpen(ctx, x.refused, approval, x.chain, &decision, x.burnAll)
			return TokenAnswer{}, recorded{asOpening(err)}
		}
		oq.Approved = approval.Needs
		permit, decision = policy.DecideOpen(oq)
	}
	if permit == nil {
		x.refused.Decision, x.refused.Policies = decision.ID, decision.Policies
		return TokenAnswer{}, refusedOpening(decision)
	}

	t := &mayfly.Task{
		ID: mayfly.NewTaskID(now), Profile: p.Name, Bundle: b.Hash, Purpose: purpose, Root: x.root,
		Grants: grants, Named: grants, Agent: x.agent, Key: key, OpenedAt: now, Deadline: now.Add(ttl), Idle: idle, Budget: budget,
	}
	t.RootTask = t.ID
	e := mayfly.TaskOpened{
		Task: t.ID, Profile: t.Profile, Purpose: purpose, Root: t.Root, Grants: grants, Agent: t.Agent, Key: key, Decision: decision.ID,
	}
	if parent != nil {
		t.Parent, t.RootTask, t.Depth, t.Ancestors = parent.ID, parent.RootTask, parent.Depth+1, taskIDs(x.chain)
		if t.Deadline.After(parent.Deadline) {
			t.Deadline = parent.Deadline
		}
		e.Parent, e.ParentDlg, e.Depth = parent.ID, parent.Dlg, t.Depth
	}
	if x.ticket != nil {
		t.Ticket, e.Delegation, e.ParentDlg = x.ticket.ID, x.ticket.ID, x.ticket.Dlg
	}
	t.IdleUntil = now.Add(idle)
	if t.IdleUntil.After(t.Deadline) {
		t.IdleUntil = t.Deadline
	}
	e.Deadline = t.Deadline

	claims, err := x.claims(t, audience, target, grants)
	if err != nil {
		return TokenAnswer{}, err
	}
	parentJTI := ""
	if x.presents != nil {
		parentJTI = x.presents.Claims.JTI
	}
	kid := x.a.keys.SigningKeyID(now)
	e.Token = tokenFact(claims, kid, parentJTI)
	rec, err := x.a.db.Prepare(ctx, now, b.Hash, e)
	if err != nil {
		return TokenAnswer{}, err
	}
	failpoint.Here("open.prepared")
	t.Dlg = rec.Dlg()
	claims.Dlg, claims.JTI = t.Dlg, rec.ID()

	pending := x.a.db.Submit(ctx, rec, func(tx *store.Tx) {
		if parent != nil {
			tx.ChainLive(taskIDs(x.chain), now)
		}
		tx.NotRevoked(revocationKeys(x.root, x.chain, p.Name, x.agent))
		if x.ticket != nil {
			tx.UseTicket(x.ticket.ID, now)
		}
		if parent != nil {
			tx.AddChild(parent.ID, int64(b.childrenOf(parent)))
		}
		x.burnAll(tx)
		if approval != nil {
			tx.UseApproval(approval.ID, now)
		}
		tx.InsertTask(t)
	})
	// Sign while the batch commits; release only after it has.
	signed, signErr := x.a.keys.Sign(permit, kid, claims)
	failpoint.Here("open.signed")
	err = pending.Wait()
	switch guard := refusedBy(err); guard {
	case "":
	case "chain":
		x.a.live.evict(taskIDs(x.chain)...)
		return TokenAnswer{}, badRequest("the delegating task ended meanwhile; open a new one")
	case "revocation":
		if revoked := x.a.refuseRevoked(ctx, x.root); mayfly.KindOf(revoked) == mayfly.Denied {
			// The token is good and whoever it speaks for is not: to an exchange
			// that is a subject token that is not acceptable (RFC 8693 section 2.2.2).
			return TokenAnswer{}, badRequest("the delegator is not accepted: %s", mayfly.AsError(revoked).Message)
		}
		return TokenAnswer{}, errRevoked("the profile, a source or the client")
	case "ticket":
		return TokenAnswer{}, badRequest("this ticket was used, or expired, meanwhile; ask for a new one")
	case guardApproval:
		return TokenAnswer{}, mayfly.Coded(mayfly.Invalid, "access_denied", "the approval for this was used, or ended, meanwhile; send the request again to ask for another")
	case "children":
		return TokenAnswer{}, badRequest("the delegating task has as many children as it may have (%d)", b.childrenOf(parent))
	default:
		x.once = nil // it was burned before
		if guard == guardProof {
			return TokenAnswer{}, mayfly.Coded(mayfly.Invalid, "invalid_dpop_proof", "%s", errReplay().Message)
		}
		return TokenAnswer{}, errAssertionReplay()
	}
	if err != nil {
		return TokenAnswer{}, err
	}
	x.a.log.Acknowledged(rec)
	if signErr != nil {
		return TokenAnswer{}, signErr // the task runs out by its idle lease; nothing left
	}
	x.a.live.opened(t)
	failpoint.Here("open.committed")
	answer := x.answer(signed, claims, t)
	answer.Decision = decision.ID
	return answer, nil
}

// unverifiedIsFine reports whether the profile takes an agent without evidence:
// only one that redeems a ticket.
func (x *exchange) unverifiedIsFine(p *mayfly.Profile) bool {
	if x.ticket == nil || p.Risk != mayfly.RiskLow {
		return false
	}
	for _, rule := range p.Attest {
		if rule.None {
			return true
		}
	}
	return false
}

// childrenOf is how many children a task may have.
func (b *Bundle) childrenOf(t *mayfly.Task) int {
	p := b.Profiles[t.Profile]
	if p == nil || p.Delegation.Depth == 0 {
		return 0
	}
	if p.Delegation.Children == 0 {
		return mayfly.MaxChildren
	}
	return min(p.Delegation.Children, mayfly.MaxChildren)
}

// refusedOpening is a refused decision to open or delegate as an OAuth error.
func refusedOpening(d mayfly.Decision) *mayfly.Error {
	code := d.Code
	if code == "" {
		code = "access_denied"
	}
	e := mayfly.Coded(mayfly.Invalid, code, "%s", d.Reason)
	e.Decision, e.Term, e.Next = d.ID, d.Term, d.Next
	return e
}

// claims is what a token of t for audience says. A token for a target is
// limited to the grants there.
func (x *exchange) claims(t *mayfly.Task, audience string, target *mayfly.Target, grants []mayfly.Grant) (token.Claims, error) {
	if target != nil {
		var there []mayfly.Grant
		for _, g := range grants {
			if g.Kind == target.Kind && g.Target == target.Name {
				there = append(there, g)
			}
		}
		if len(there) == 0 {
			return token.Claims{}, mayfly.Coded(mayfly.Invalid, "invalid_target", "the task was granted nothing at this resource")
		}
		grants = there
	}
	c := token.Claims{
		Subject: t.Root.ID, SubProfile: "user", Audience: audience,
		IssuedAt: x.now, ExpiresAt: x.now.Add(tokenLife),
		Scope: scopeOf(grants), Details: grants, KeyThumbprint: t.Key, Dlg: t.Dlg,
		Task: token.TaskClaim{
			ID: string(t.ID), Profile: t.Profile, Purpose: t.Purpose.Text, Root: string(t.RootTask), Depth: t.Depth,
		},
		Agents: []string{mayfly.AgentID(x.b.TrustDomain, t.Profile, t.ID)},
	}
	if t.Root.Kind == mayfly.Service {
		c.SubProfile = "service"
	}
	if c.ExpiresAt.After(t.Deadline) {
		c.ExpiresAt = t.Deadline
	}
	c.ClientID = t.Agent.Client
	if c.ClientID == "" {
		c.ClientID = c.Agents[0]
	}
	above := x.chain
	if len(above) > 0 && parentOf(above).ID == t.ID {
		above = above[:len(above)-1]
	}
	for i := len(above) - 1; i >= 0; i-- {
		c.Agents = append(c.Agents, mayfly.AgentID(x.b.TrustDomain, above[i].Profile, above[i].ID))
	}
	return c, nil
}

func tokenFact(c token.Claims, kid, parent string) mayfly.TokenFact {
	return mayfly.TokenFact{
		ParentJTI: parent, KeyID: kid, Audience: c.Audience, ExpiresAt: c.ExpiresAt, Scope: c.Scope,
	}
}

// answer is the token and what it carries: grants without limits in scope, the
// others whole.
func (x *exchange) answer(signed string, c token.Claims, t *mayfly.Task) TokenAnswer {
	kind := "Bearer"
	if c.KeyThumbprint != "" {
		kind = "DPoP"
	}
	var short []mayfly.Grant
	long := []mayfly.Grant{}
	for _, g := range c.Details {
		if g.Limited() {
			long = append(long, g)
		} else {
			short = append(short, g)
		}
	}
	return TokenAnswer{
		AccessToken: signed, IssuedTokenType: TypeAccessToken, TokenType: kind,
		ExpiresIn: int64(c.ExpiresAt.Sub(x.now) / time.Second),
		Scope:     scopeOf(short), Details: long, Task: t.ID,
	}
}
