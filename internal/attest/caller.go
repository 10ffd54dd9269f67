package attest

import (
	"time"

	"github.com/mayfly-id/mayfly"
)

// Caller is an identity verified on this request. Only this package makes one;
// the zero Caller is nobody.
type Caller struct{ v verified }

// verified is what evidence says, once believed.
type verified struct {
	subject   mayfly.Subject
	issuer    string
	client    string
	tokenID   string
	issuedAt  time.Time
	expiresAt time.Time
	operator  bool
	key       string
	mayAct    []Actor
	hasActor  bool
	txn       string
	task      string
}

// Actor is somebody a token names as allowed to act with it (RFC 8693 section
// 4.4). Each part that is not "" must be right.
type Actor struct {
	Issuer  string // iss: whoever vouches for the actor
	Subject string // sub, as that issuer says it: no prefix of ours
	Client  string // client_id
}

// Subject is who the caller is. Its groups and claims are shared with other
// callers of the same token: read them only. The claim "sub" is the id as the
// source says it, without the source's prefix.
func (c Caller) Subject() mayfly.Subject { return c.v.subject }

// Issuer is who vouched: the iss of a token, "" for the kernel, our own issuer
// for an OAuth client.
func (c Caller) Issuer() string { return c.v.issuer }

// Client is the id of the OAuth client that authenticated, "" for every other
// evidence.
func (c Caller) Client() string { return c.v.client }

// TokenID is the jti, "" where a source's token has none.
func (c Caller) TokenID() string { return c.v.tokenID }

// IssuedAt is the iat; zero for a peer of the admin socket.
func (c Caller) IssuedAt() time.Time { return c.v.issuedAt }

// ExpiresAt is when the evidence ends, without leeway; zero for a peer of the
// admin socket, whose evidence is the connection.
func (c Caller) ExpiresAt() time.Time { return c.v.expiresAt }

// Operator reports whether the token was made for the source's operators, so
// that no agent was handed it.
func (c Caller) Operator() bool { return c.v.operator }

// Key is the RFC 7638 thumbprint that the token is bound to (cnf.jkt), "" if it
// is bound to none. That the key was proven is for whoever holds the proof.
func (c Caller) Key() string { return c.v.key }

// MayAct is who alone may act with this token; nil is no such rule.
func (c Caller) MayAct() []Actor { return c.v.mayAct }

// HasActor reports whether the token says that somebody acts already (act).
func (c Caller) HasActor() bool { return c.v.hasActor }

// Transaction is the txn claim, "" if there is none. A claim that is no string
// is given as its JSON text: two are only ever compared.
func (c Caller) Transaction() string { return c.v.txn }

// Task is the task claim, in the same way.
func (c Caller) Task() string { return c.v.task }
