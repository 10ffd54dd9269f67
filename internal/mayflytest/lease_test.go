package mayflytest_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/client"
	"github.com/mayfly-id/mayfly/internal/authority"
	"github.com/mayfly-id/mayfly/internal/broker"
	"github.com/mayfly-id/mayfly/internal/mayflytest"
	"github.com/mayfly-id/mayfly/internal/mayflytest/pgtest"
)

const reader = "postgres:db:reader"

// faulty is a target that fails when it is told to: before it does what it is
// asked, or after, so that its answer is lost.
type faulty struct {
	broker.Target
	before, after func(what string) error
}

func (f *faulty) Issue(ctx context.Context, l broker.Loan) (broker.Credential, error) {
	if err := f.before("issue"); err != nil {
		return broker.Credential{}, err
	}
	c, err := f.Target.Issue(ctx, l)
	if fault := f.after("issue"); fault != nil {
		return broker.Credential{}, fault
	}
	return c, err
}

func (f *faulty) Revoke(ctx context.Context, lease mayfly.LeaseID) error {
	if err := f.before("revoke"); err != nil {
		return err
	}
	err := f.Target.Revoke(ctx, lease)
	if fault := f.after("revoke"); fault != nil {
		return fault
	}
	return err
}

// lending is a system with a database that lends, and its faults.
func lending(t *testing.T, l *pgtest.Lender, dsn string) (mayflytest.Options, *faulty) {
	t.Helper()
	target := &mayfly.Target{Name: "db", Kind: "postgres", Postgres: &mayfly.Postgres{
		AdminDSN: mayfly.NewSecret(l.Admin), Roles: map[string]mayfly.DatabaseRole{"reader": {Grant: []string{l.Group}}},
	}}
	lender, err := broker.New(target)
	if err != nil {
		t.Fatal(err)
	}
	never := func(string) error { return nil }
	f := &faulty{lender, never, never}
	return mayflytest.Options{DSN: dsn, Change: func(b *authority.Bundle) {
		b.Targets["db"], b.Lenders = target, map[string]broker.Target{"db": f}
		for _, name := range []string{"invoice", "open"} {
			p := b.Profiles[name]
			p.Grants = append(p.Grants, mayflytest.Grants(t, reader)...)
		}
	}}, f
}

// borrower is a task that may borrow.
func borrower(s *mayflytest.System) *client.Session { return s.Open(s.Opening(reader)) }

// lease is the one lease of a task, as the operator reads it.
func lease(t testing.TB, s *mayflytest.System, task mayfly.TaskID) client.Lease {
	t.Helper()
	leases, err := s.Operator().Leases(context.Background(), task)
	if err != nil || len(leases) != 1 {
		t.Fatalf("the task has %d leases (%v)", len(leases), err)
	}
	return leases[0]
}

// retires waits until a task is retired, which it is not before all is returned.
func retires(s *mayflytest.System, task mayfly.TaskID) {
	s.T.Helper()
	s.Eventually("the task is retired", func() bool {
		v, err := s.Operator().Task(context.Background(), task)
		return err == nil && v.State == mayfly.Retired
	})
}

func TestALeaseDiesWithItsTask(t *testing.T) {
	mayflytest.OnEachEngine(t, func(t *testing.T, dsn string) {
		db := pgtest.NewLender(t)
		o, _ := lending(t, db, dsn)
		s := mayflytest.New(t, o)
		ends := map[string]struct {
			end    func(*client.Session, client.Credential) error
			reason mayfly.LeaseEnd
		}{
			"completed": {func(c *client.Session, _ client.Credential) error { _, err := c.Complete(t.Context()); return err }, mayfly.LeaseTaskEnded},
			"revoked": {func(c *client.Session, _ client.Credential) error {
				_, err := s.Operator().Revoke(t.Context(), c.Task())
				return err
			}, mayfly.LeaseTaskEnded},
			"everything": {func(*client.Session, client.Credential) error {
				_, err := s.Operator().RevokeAll(t.Context(), "human", "alice")
				return err
			}, mayfly.LeaseTaskEnded},
			"given back": {func(c *client.Session, l client.Credential) error {
				v, err := c.API().GiveBack(t.Context(), c.Task(), l.Lease)
				if err == nil && v.State != mayfly.LeaseReturned {
					return fmt.Errorf("it is %s", v.State)
				}
				return err
			}, mayfly.LeaseGivenBack},
		}
		for _, name := range []string{"completed", "revoked", "given back", "everything"} {
			session := borrower(s)
			c, err := session.CheckOut(t.Context(), reader)
			if err != nil {
				t.Fatal(err)
			}
			if err := db.Reads(c.Values); err != nil {
				t.Errorf("%s: it does not work: %v", name, err)
			}
			v := s.Operator()
			task, err := v.Task(t.Context(), session.Task())
			if err != nil {
				t.Fatal(err)
			}
			l := lease(t, s, session.Task())
			if l.State != mayfly.LeaseActive || l.Principal != c.Principal || c.ExpiresAt.After(task.Deadline) || !l.ExpiresAt.Equal(c.ExpiresAt) || l.Grant != reader {
				t.Errorf("%s: %+v, of a task until %s", name, l, task.Deadline)
			}
			if err := ends[name].end(session, c); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			s.Eventually(name+": the lease is returned", func() bool { return lease(t, s, session.Task()).State == mayfly.LeaseReturned })
			if l := lease(t, s, session.Task()); l.Reason != ends[name].reason || l.Problem != "" || l.Tries != 1 {
				t.Errorf("%s: %+v", name, l)
			}
			if db.Reads(c.Values) == nil || db.Lent() != 0 {
				t.Errorf("%s: the credential is there", name)
			}
			if name == "given back" {
				if _, err := session.Complete(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			retires(s, session.Task())
			var kinds []string
			for _, e := range s.Records("lease.lent", "lease.ended", "lease.returned", "task.retired") {
				if e.Task == session.Task() {
					kinds = append(kinds, e.Kind)
				}
			}
			if !slices.Equal(kinds, []string{"lease.lent", "lease.ended", "lease.returned", "task.retired"}) {
				t.Errorf("%s: recorded are %v", name, kinds)
			}
		}
		for _, e := range s.Records() {
			if bytes.Contains(e.Body, []byte("password")) {
				t.Errorf("a record speaks of a password: %s", e.Body)
			}
		}
	})
}

// Only the task's own token checks out, what it was granted, while it lives; and
// nobody hears of another's leases.
func TestWhoMayBorrow(t *testing.T) {
	db := pgtest.NewLender(t)
	o, _ := lending(t, db, "")
	n := node{mayflytest.New(t, o), time.Now}
	h := newHolder(t)
	own, other := n.open(n.opening("scope", reader), h), n.open(n.opening("scope", mayRead), h)
	below := n.open(n.below(own, "invoice", "scope", reader), h)
	leases := func(have held) string { return "/v1/tasks/" + string(have.task) + "/leases" }
	ask := func(as, of held, grant string) func() mayflytest.Answer {
		return func() mayflytest.Answer {
			return n.send(as, http.MethodPost, leases(of), toJSON(members{"grant": grant}))
		}
	}
	alice := n.alice()
	n.refused("another task", ask(other, own, reader), 404, "")
	n.refused("a task below", ask(below, own, reader), 404, "")
	n.refused("a task above", ask(own, below, reader), 404, "")
	n.refused("the delegator", ask(alice, own, reader), 404, "")
	n.refused("no such task", ask(own, held{task: mayfly.NewTaskID(time.Now())}, reader), 404, "")
	n.refused("nobody", func() mayflytest.Answer {
		return n.post(leases(own), `{"grant":"`+reader+`"}`, "Content-Type", "application/json")
	}, 401, "")
	n.refused("what is not lent", ask(own, own, "mcp:bank:list_invoices"), 400, "")
	n.refused("what is no grant", ask(own, own, "db"), 400, "")
	for name, c := range map[string]struct {
		as    held
		grant string
		term  mayfly.Term
	}{
		"not granted":              {other, reader, mayfly.TermTask},
		"what its profile has not": {own, "postgres:db:owner", mayfly.TermProfile},
		"no such target":           {own, "postgres:nowhere:reader", mayfly.TermProfile},
	} {
		if a := ask(c.as, c.as, c.grant)(); a.Status != 403 || denied(a) != c.term {
			t.Errorf("%s: %s", name, a)
		}
	}
	if db.Lent() != 0 {
		t.Fatal("something was lent")
	}

	a := ask(own, own, reader)()
	if a.Status != 201 {
		t.Fatal(a)
	}
	id := lease(t, n.System, own.task).Lease
	give := func(as, of held, id mayfly.LeaseID) func() mayflytest.Answer {
		return func() mayflytest.Answer { return n.send(as, http.MethodDelete, leases(of)+"/"+string(id), nil) }
	}
	n.refused("another task gives it back", give(other, own, id), 404, "")
	n.refused("under another task", give(other, other, id), 404, "")
	n.refused("a task below gives it back", give(below, own, id), 404, "")
	n.refused("no such lease", give(own, own, mayfly.NewLeaseID(time.Now())), 404, "")
	n.refused("no lease's id", give(own, own, "x"), 404, "")
	if lease(t, n.System, own.task).State != mayfly.LeaseActive {
		t.Error("somebody else gave it back")
	}
	for i := range 2 { // twice is once
		if a := give(alice, own, id)(); a.Status != 200 || !bytes.Contains(a.Body, []byte(`"returned"`)) {
			t.Errorf("the delegator gives it back, time %d: %s", i, a)
		}
	}
	if a := n.send(other, http.MethodGet, leases(own), nil); a.Status != 404 {
		t.Errorf("another task reads: %s", a)
	}
	if a := n.send(own, http.MethodGet, leases(own), nil); a.Status != 200 || bytes.Contains(a.Body, []byte("password")) {
		t.Errorf("it reads: %s", a)
	}
	if _, err := n.Operator().Revoke(t.Context(), own.task); err != nil {
		t.Fatal(err)
	}
	n.refused("after its end", ask(own, own, reader), 401, "invalid_token")
	n.refused("a task below, after the end of the one above", ask(below, below, reader), 401, "invalid_token")
}

// A lease is a call like any other: budgets count it, and it waits for a human
// where a rule says so.
func TestALeaseIsDecidedOn(t *testing.T) {
	db := pgtest.NewLender(t)
	o, _ := lending(t, db, "")
	change := o.Change
	o.Policies = map[string]string{"lent.cedar": `@id("ask") @approval("finance") forbid(principal, action == Mayfly::Action::"use", resource == Mayfly::Tool::"db/reader");`}
	o.Change = func(b *authority.Bundle) {
		change(b)
		p := b.Profiles["invoice"]
		p.Grants[len(p.Grants)-1] = mayflytest.Grants(t, `{"type":"mayfly_grant","grant":"postgres:db:reader","budget":{"calls":1}}`)[0]
	}
	s := mayflytest.New(t, o)
	session := borrower(s)
	_, err := session.CheckOut(t.Context(), reader)
	e := mayfly.AsError(err)
	if e.Term != mayfly.TermApproval || e.Next == nil || db.Lent() != 0 {
		t.Fatalf("before the yes: %+v", e)
	}
	if _, err := s.Authority.Approve(t.Context(), bearer(s.Approver("fay", "finance")), e.Next.Approval, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := session.CheckOut(t.Context(), reader); err != nil {
		t.Fatalf("after it: %v", err)
	}
	_, err = session.CheckOut(t.Context(), reader)
	if e = mayfly.AsError(err); e.Term != mayfly.TermApproval {
		t.Fatalf("a second: %+v", e)
	}
	if _, err := s.Authority.Approve(t.Context(), bearer(s.Approver("fay", "finance")), e.Next.Approval, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := session.CheckOut(t.Context(), reader); mayfly.AsError(err).Term != mayfly.TermBudget || db.Lent() != 1 {
		t.Errorf("beyond the budget: %v", err)
	}
}

// Whatever of a loan fails, nothing is left at the target, and the task can end.
func TestALoanThatFailsLeavesNothing(t *testing.T) {
	db := pgtest.NewLender(t)
	o, f := lending(t, db, "")
	s := mayflytest.New(t, o)
	broken := mayfly.Errorf(mayfly.Unavailable, "it is down")
	for name, spoil := range map[string]func(what string){
		"before": func(what string) { f.before = func(w string) error { return map[string]error{what: broken}[w] } },
		"after":  func(what string) { f.after = func(w string) error { return map[string]error{what: broken}[w] } },
	} {
		never := func(string) error { return nil }
		f.before, f.after = never, never
		spoil("issue")
		session := borrower(s)
		_, err := session.CheckOut(t.Context(), reader)
		if e := mayfly.AsError(err); e.Kind != mayfly.Unavailable {
			t.Fatalf("%s: %v", name, err)
		}
		s.Eventually(name+": it is returned", func() bool { return lease(t, s, session.Task()).State == mayfly.LeaseReturned })
		if l := lease(t, s, session.Task()); l.Reason != mayfly.LeaseFailed || db.Lent() != 0 {
			t.Errorf("%s: %+v, %d stand", name, l, db.Lent())
		}
		if _, err := session.Complete(t.Context()); err != nil {
			t.Fatal(err)
		}
		retires(s, session.Task())
	}
	// The task ends while the target makes the credential.
	session := borrower(s)
	f.before = func(string) error { return nil }
	f.after = func(what string) error {
		if what == "issue" {
			if _, err := s.Operator().Revoke(context.Background(), session.Task()); err != nil {
				t.Error(err)
			}
		}
		return nil
	}
	if _, err := session.CheckOut(t.Context(), reader); mayfly.KindOf(err) != mayfly.Unauthenticated {
		t.Errorf("of a task that ended meanwhile: %v", err)
	}
	retires(s, session.Task())
	if db.Lent() != 0 {
		t.Error("it was left there")
	}
}

// A credential that is still being made is taken back after it was made, however
// its task ended meanwhile: before, there would be nothing to take, and then
// nobody to take it.
func TestALoanThatIsBeingMadeIsReturnedAfterIt(t *testing.T) {
	mayflytest.OnEachEngine(t, func(t *testing.T, dsn string) {
		db := pgtest.NewLender(t)
		o, f := lending(t, db, dsn)
		s := mayflytest.New(t, o)
		session, other := borrower(s), borrower(s)
		if _, err := other.CheckOut(t.Context(), reader); err != nil {
			t.Fatal(err)
		}
		f.before = func(what string) error {
			if what != "issue" {
				return nil
			}
			l := lease(t, s, session.Task())
			if _, err := s.Operator().GiveBack(context.Background(), session.Task(), l.Lease); mayfly.KindOf(err) != mayfly.Conflict {
				t.Errorf("given back while it is made: %v", err)
			}
			for _, task := range []mayfly.TaskID{session.Task(), other.Task()} {
				if _, err := s.Operator().Revoke(context.Background(), task); err != nil {
					t.Error(err)
				}
			}
			// Whoever returns leases has been there since.
			s.Eventually("the other lease is returned", func() bool { return lease(t, s, other.Task()).State == mayfly.LeaseReturned })
			return nil
		}
		if _, err := session.CheckOut(t.Context(), reader); mayfly.KindOf(err) != mayfly.Unauthenticated {
			t.Errorf("of a task that ended meanwhile: %v", err)
		}
		retires(s, session.Task())
		if db.Lent() != 0 || len(s.Records("lease.found")) != 0 {
			t.Error("it was left there")
		}
	})
}

// S-70: a target that does not take a credential back is asked for ever; that it
// does not is an alarm, once, and the task is not retired before it did.
func TestS70WhatCannotBeReturnedIsAnAlarm(t *testing.T) {
	db := pgtest.NewLender(t)
	o, f := lending(t, db, "")
	var broken atomic.Bool
	broken.Store(true)
	f.before = func(what string) error {
		if what == "revoke" && broken.Load() {
			return mayfly.Errorf(mayfly.BadUpstream, "the database refuses: it is read-only")
		}
		return nil
	}
	n, c := clocked(t, o)
	session := n.Open(n.Opening(reader))
	got, err := session.CheckOut(t.Context(), reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := session.Complete(t.Context()); err != nil {
		t.Fatal(err)
	}
	for try := int64(1); try <= 8; try++ {
		n.Eventually(fmt.Sprintf("try %d", try), func() bool {
			l := lease(t, n.System, session.Task())
			return l.Tries >= try && l.Problem != ""
		})
		if l := lease(t, n.System, session.Task()); l.State != mayfly.LeaseReturning || l.Problem != "the database refuses: it is read-only" {
			t.Fatalf("%+v", l)
		}
		n.pass(c, 3*time.Minute)
	}
	alarms := n.Records("lease.stuck")
	if len(alarms) != 1 || !strings.Contains(string(alarms[0].Body), got.Principal) || !strings.Contains(string(alarms[0].Body), "read-only") {
		t.Errorf("alarms: %+v", alarms)
	}
	if v := n.view(session.Task()); v.State != mayfly.Retiring {
		t.Errorf("the task is %s", v.State)
	}
	if !strings.Contains(n.Said.String(), "cannot be returned") {
		t.Error("the operator is told nothing")
	}
	broken.Store(false)
	n.pass(c, 3*time.Minute)
	n.Eventually("it is returned", func() bool { return lease(t, n.System, session.Task()).State == mayfly.LeaseReturned })
	retires(n.System, session.Task())
	if db.Lent() != 0 {
		t.Error("it is there")
	}
}

// A target that a reload took away is one that cannot be asked; what it lent is
// returned when it is put back.
func TestATargetThatIsTakenAwayStillLends(t *testing.T) {
	db := pgtest.NewLender(t)
	o, _ := lending(t, db, "")
	n, c := clocked(t, o)
	session := n.Open(n.Opening(reader))
	if _, err := session.CheckOut(t.Context(), reader); err != nil {
		t.Fatal(err)
	}
	with := n.Authority.Bundle()
	without := *with
	without.Lenders, without.Hash = nil, "without"
	if err := n.Authority.Reload(t.Context(), &without); err != nil {
		t.Fatal(err)
	}
	if _, err := session.Complete(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.Eventually("it cannot be returned", func() bool {
		return strings.Contains(lease(t, n.System, session.Task()).Problem, "the target db is not in the configuration any more; put it back")
	})
	if err := n.Authority.Reload(t.Context(), with); err != nil {
		t.Fatal(err)
	}
	n.pass(c, time.Minute)
	retires(n.System, session.Task())
	if db.Lent() != 0 {
		t.Error("it is there")
	}
}

// A lease expires by itself, also where its task lives on: here the target ends
// it before.
func TestALeaseThatExpiresIsReturned(t *testing.T) {
	db := pgtest.NewLender(t)
	o, f := lending(t, db, "")
	change := o.Change
	o.Change = func(b *authority.Bundle) {
		change(b)
		b.Lenders["db"] = brief{f}
	}
	n, c := clocked(t, o)
	session := n.Open(n.Opening(reader))
	if _, err := session.CheckOut(t.Context(), reader); err != nil {
		t.Fatal(err)
	}
	n.pass(c, time.Minute+time.Second)
	n.Eventually("it is returned", func() bool { return lease(t, n.System, session.Task()).State == mayfly.LeaseReturned })
	if l := lease(t, n.System, session.Task()); l.Reason != mayfly.LeaseRanOut || n.view(session.Task()).State != mayfly.Live {
		t.Errorf("%+v", l)
	}
}

// brief lends for a minute.
type brief struct{ broker.Target }

func (b brief) Issue(ctx context.Context, l broker.Loan) (broker.Credential, error) {
	l.Until = l.Until.Add(-14 * time.Minute)
	return b.Target.Issue(ctx, l)
}

// What a target has and should not have is taken away, if it is ours.
func TestATargetIsAskedWhatItHas(t *testing.T) {
	db := pgtest.NewLender(t)
	o, f := lending(t, db, "")
	s := mayflytest.New(t, o)
	session := borrower(s)
	c, err := session.CheckOut(t.Context(), reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := session.Complete(t.Context()); err != nil {
		t.Fatal(err)
	}
	retires(s, session.Task())
	// Somebody's late statement makes it again, and somebody else's stands there.
	strange := mayfly.NewLeaseID(time.Now())
	for _, id := range []mayfly.LeaseID{c.Lease, strange} {
		if _, err := f.Target.Issue(t.Context(), broker.Loan{Lease: id, Task: session.Task(), Role: "reader", Until: time.Now().Add(time.Hour)}); err != nil {
			t.Fatal(err)
		}
	}
	defer f.Target.Revoke(context.Background(), strange)
	s.Stop()
	s.Start(o) // it asks when it starts
	s.Eventually("what was returned, and is there, is returned again", func() bool {
		return db.Count(`SELECT count(*) FROM pg_roles WHERE rolname = $1`, c.Principal) == 0
	})
	s.Eventually("that is recorded", func() bool { return len(s.Records("lease.found")) == 1 && len(s.Records("lease.returned")) == 2 })
	s.Eventually("what nobody knows is an alarm", func() bool {
		return slices.ContainsFunc(s.Records("alarm"), func(e client.Event) bool { return strings.Contains(string(e.Body), string(strange)) })
	})
	if db.Lent() != 1 {
		t.Error("what is not ours was taken away")
	}
}

// I-17: two hundred leases at a target of whose answers one in five is an error,
// on a server that is stopped in the midst of it: nothing survives, by the
// database's own word.
func TestNoLeaseSurvives(t *testing.T) {
	t.Parallel()
	mayflytest.OnEachEngine(t, func(t *testing.T, dsn string) {
		db := pgtest.NewLender(t)
		o, f := lending(t, db, dsn)
		var n atomic.Int64
		fault := func(string) error {
			if n.Add(1)%10 == 0 { // before and after: one call in five
				return mayfly.Errorf(mayfly.BadUpstream, "an injected error")
			}
			return nil
		}
		f.before, f.after = fault, fault
		s := mayflytest.New(t, o)
		var tasks sync.Map
		var lent, failed atomic.Int64
		borrow := func(n int) {
			var all sync.WaitGroup
			for range 8 {
				all.Go(func() {
					for range n / 8 {
						session := borrower(s)
						tasks.Store(session.Task(), true)
						if _, err := session.CheckOut(context.Background(), reader); err != nil {
							failed.Add(1)
						} else {
							lent.Add(1)
						}
						if _, err := session.Complete(context.Background()); err != nil {
							t.Error(err)
						}
					}
				})
			}
			all.Wait()
		}
		borrow(104)
		s.Stop()
		s.Start(o)
		borrow(96)
		if _, err := s.Operator().RevokeAll(t.Context(), "all", ""); err != nil {
			t.Fatal(err)
		}
		tasks.Range(func(id, _ any) bool {
			mayflytest.Eventually(t, time.Minute, "every task is retired", func() bool {
				v, err := s.Operator().Task(context.Background(), id.(mayfly.TaskID))
				return err == nil && v.State == mayfly.Retired
			})
			return true
		})
		if lent.Load() < 100 || failed.Load() < 10 {
			t.Errorf("%d were lent and %d failed: that shows little", lent.Load(), failed.Load())
		}
		if left := db.Lent(); left != 0 {
			t.Errorf("%d survive", left)
		}
		t.Logf("%d lent, %d failed", lent.Load(), failed.Load())
	})
}
