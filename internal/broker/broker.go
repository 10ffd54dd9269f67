// Package broker lends credentials of outside systems: it makes them where a
// decision allowed it, and takes them back. It owns what a target is asked and
// how it is shown that a credential is gone; it decides nothing and stores
// nothing. One file a kind of target; start at [Target].
package broker

import (
	"context"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/policy"
)

// Loan is what is to be lent, and until when.
type Loan struct {
	Lease mayfly.LeaseID
	Task  mayfly.TaskID
	Role  string    // the grant's action: what of the target
	Until time.Time // the credential is not good after this
}

// Credential is what was lent.
type Credential struct {
	// Principal is the target's own name for it, such as a database role: what
	// the target's own logs say.
	Principal string
	// Until is when the target itself stops accepting it; never after the loan's.
	Until time.Time
	// Values are what its holder needs, by name, such as user and password.
	Values map[string]mayfly.Secret
}

// Target is one outside system that lends. Its methods may be called at once,
// and again after any error or crash; they give up when ctx ends. No error holds
// anything secret. [mayfly.Unavailable] and [mayfly.BadUpstream] are for later;
// [mayfly.Invalid] says that the configuration is wrong.
type Target interface {
	// Issue makes the credential of a loan, marked with the loan's lease. For a
	// lease that has one already, the secret is made anew, and no second one is
	// there. After any error there may be a credential: Revoke takes it away.
	// Nobody issues for a lease that was revoked.
	Issue(ctx context.Context, l Loan) (Credential, error)

	// Revoke takes back whatever there is for a lease, which may be nothing. It
	// returns nil only when the target itself has shown that the credential is
	// gone, and that nothing it opened is open.
	Revoke(ctx context.Context, lease mayfly.LeaseID) error

	// Lent are the leases for which the target has a credential.
	Lent(ctx context.Context) ([]mayfly.LeaseID, error)
}

// Kinds are those of targets that lend.
var Kinds = []string{"postgres"}

// New makes the target of a configuration. The error, of kind Invalid, says what
// of it is wrong.
func New(t *mayfly.Target) (Target, error) {
	switch t.Kind {
	case "postgres":
		return newPostgres(t)
	}
	return nil, mayfly.Errorf(mayfly.Invalid, "targets of kind %s lend nothing", t.Kind)
}

// Issue lends what the permit p permits: the answer to q, once. The target must
// be that of q's call.
func Issue(ctx context.Context, p *policy.Permit, q *policy.Question, t Target, l Loan) (Credential, error) {
	if err := p.Lend(q, l.Role); err != nil {
		return Credential{}, err
	}
	return t.Issue(ctx, l)
}
