package broker_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/broker"
)

// kit is what the suite needs to know of one kind of target.
type kit struct {
	target broker.Target
	role   string
	secret string // what no error may say: the admin's own
	// works reports whether the credential opens the target now, and stands how
	// many credentials the target has for a lease, by its own admin's word.
	works  func(broker.Credential) error
	stands func(mayfly.LeaseID) int
}

// kits has a row for every kind.
var kits = map[string]func(*testing.T) kit{"postgres": postgresKit}

func TestEveryKindHasAKit(t *testing.T) {
	for _, kind := range broker.Kinds {
		if kits[kind] == nil {
			t.Errorf("nothing shows that targets of kind %s do what a target must", kind)
		}
	}
	if _, err := broker.New(&mayfly.Target{Kind: "mcp"}); mayfly.KindOf(err) != mayfly.Invalid {
		t.Errorf("a kind that lends nothing: %v", err)
	}
}

func (k kit) loan() broker.Loan {
	now := time.Now()
	return broker.Loan{Lease: mayfly.NewLeaseID(now), Task: mayfly.NewTaskID(now), Role: k.role, Until: now.Add(time.Hour)}
}

func onEachKind(t *testing.T, do func(t *testing.T, k kit)) {
	for kind, make := range kits {
		t.Run(kind, func(t *testing.T) { do(t, make(t)) })
	}
}

func TestALoanIsMadeUsedAndTakenBack(t *testing.T) {
	onEachKind(t, func(t *testing.T, k kit) {
		l := k.loan()
		c, err := k.target.Issue(t.Context(), l)
		if err != nil {
			t.Fatal(err)
		}
		if c.Principal == "" || c.Until.After(l.Until) || c.Until.Before(l.Until.Add(-time.Second)) {
			t.Errorf("%q until %s, asked until %s", c.Principal, c.Until, l.Until)
		}
		if err := k.works(c); err != nil {
			t.Errorf("it does not work: %v", err)
		}
		if lent, err := k.target.Lent(t.Context()); err != nil || !slices.Contains(lent, l.Lease) {
			t.Errorf("the target does not name it: %v (%v)", lent, err)
		}
		for i := range 2 { // again is as good as once
			if err := k.target.Revoke(t.Context(), l.Lease); err != nil {
				t.Errorf("revocation %d: %v", i, err)
			}
			if k.works(c) == nil || k.stands(l.Lease) != 0 {
				t.Errorf("after revocation %d it is there", i)
			}
		}
		if lent, err := k.target.Lent(t.Context()); err != nil || slices.Contains(lent, l.Lease) {
			t.Errorf("the target still names it: %v (%v)", lent, err)
		}
	})
}

func TestOneLeaseHasOneCredential(t *testing.T) {
	onEachKind(t, func(t *testing.T, k kit) {
		l := k.loan()
		first, err := k.target.Issue(t.Context(), l)
		if err != nil {
			t.Fatal(err)
		}
		second, err := k.target.Issue(t.Context(), l)
		if err != nil {
			t.Fatal(err)
		}
		if first.Principal != second.Principal || k.stands(l.Lease) != 1 {
			t.Errorf("%q and %q, %d stand", first.Principal, second.Principal, k.stands(l.Lease))
		}
		if err := k.works(second); err != nil {
			t.Errorf("the newer: %v", err)
		}
		if err := k.target.Revoke(t.Context(), l.Lease); err != nil || k.works(first) == nil || k.works(second) == nil {
			t.Errorf("after its return (%v) one of them works", err)
		}
	})
}

func TestWhatWasNeverIssuedCanBeRevoked(t *testing.T) {
	onEachKind(t, func(t *testing.T, k kit) {
		if err := k.target.Revoke(t.Context(), k.loan().Lease); err != nil {
			t.Error(err)
		}
		for _, id := range []mayfly.LeaseID{"", "lease_", "lease_x\"; DROP ROLE x; --", "task_06e8", mayfly.LeaseID(strings.ToUpper(string(k.loan().Lease)))} {
			if err := k.target.Revoke(t.Context(), id); err == nil {
				t.Errorf("%q was revoked", id)
			}
			l := k.loan()
			l.Lease = id
			if _, err := k.target.Issue(t.Context(), l); err == nil {
				t.Errorf("%q was issued", id)
			}
		}
		l := k.loan()
		l.Role = `x"; DROP ROLE y; --`
		if _, err := k.target.Issue(t.Context(), l); mayfly.KindOf(err) != mayfly.Invalid || k.stands(l.Lease) != 0 {
			t.Errorf("a role that is not configured: %v", err)
		}
	})
}

func TestNothingSecretIsPrinted(t *testing.T) {
	onEachKind(t, func(t *testing.T, k kit) {
		l := k.loan()
		c, err := k.target.Issue(t.Context(), l)
		if err != nil {
			t.Fatal(err)
		}
		defer k.target.Revoke(t.Context(), l.Lease)
		shown := fmt.Sprintf("%v %+v %#v %q", c, c, c, c)
		text, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		shown += string(text) + fmt.Sprintf("%v %+v %#v", k.target, k.target, k.target)
		for _, secret := range []string{c.Values["password"].Reveal(), k.secret} {
			if secret == "" || strings.Contains(shown, secret) {
				t.Errorf("%q is shown", secret)
			}
		}
	})
}

// Whatever of a call is cut, revoking leaves nothing.
func TestACallThatIsCutLeavesNothingBehind(t *testing.T) {
	onEachKind(t, func(t *testing.T, k kit) {
		for i := range 40 {
			l := k.loan()
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*time.Millisecond/2)
			_, err := k.target.Issue(ctx, l)
			cancel()
			if err != nil && strings.Contains(err.Error(), k.secret) {
				t.Errorf("the error says what is secret: %v", err)
			}
			ctx, cancel = context.WithTimeout(t.Context(), time.Duration(40-i)*time.Millisecond/2)
			err = k.target.Revoke(ctx, l.Lease)
			cancel()
			if err == nil && k.stands(l.Lease) != 0 {
				t.Error("a revocation that says it is done, and is not")
			}
			if err := k.target.Revoke(t.Context(), l.Lease); err != nil || k.stands(l.Lease) != 0 {
				t.Fatalf("after the last revocation (%v), %d stand", err, k.stands(l.Lease))
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		begun := time.Now()
		_, err1 := k.target.Issue(ctx, k.loan())
		_, err2 := k.target.Lent(ctx)
		if err := errors.Join(err1, err2); err1 == nil || err2 == nil || time.Since(begun) > time.Second {
			t.Errorf("with no time left: %v, after %s", err, time.Since(begun))
		}
	})
}

func TestManyLoansAtOnce(t *testing.T) {
	onEachKind(t, func(t *testing.T, k kit) {
		var all sync.WaitGroup
		loans := make([]broker.Loan, 20)
		for i := range loans {
			loans[i] = k.loan()
			all.Go(func() {
				c, err := k.target.Issue(t.Context(), loans[i])
				if err != nil {
					t.Error(err)
					return
				}
				if err := k.works(c); err != nil {
					t.Error(err)
				}
				// Two nodes may return one lease at once: one of them may fail.
				var both sync.WaitGroup
				for range 2 {
					both.Go(func() { k.target.Revoke(t.Context(), loans[i].Lease) })
				}
				both.Wait()
				if err := k.target.Revoke(t.Context(), loans[i].Lease); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		for _, l := range loans {
			if n := k.stands(l.Lease); n != 0 {
				t.Errorf("%d stand of %s", n, l.Lease)
			}
		}
	})
}
