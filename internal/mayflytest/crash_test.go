//go:build failpoint

package mayflytest_test

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/client"
	"github.com/mayfly-id/mayfly/internal/mayflytest"
)

// mayAsk is what the installation's profile waits for finance before.
const mayAsk = "http:orders:PUT:/v1/*"

// everyWrite are the steps of a task's life that commit something.
var everyWrite = []string{"start", "open", "token", "act", "child", "ticket", "redeem", "narrow", "complete", "revoke", "widen", "ask", "approve", "deny", "checkout", "giveback"}

// killedAt is every failpoint there is, and during which steps the process is
// killed there.
var killedAt = map[string][]string{
	"store.before-begin":   everyWrite,
	"store.before-events":  everyWrite,
	"store.at-commit":      everyWrite,
	"store.after-commit":   everyWrite,
	"eventlog.before-head": {"open"},
	"eventlog.after-head":  {"open"},
	"open.prepared":        {"open", "child", "redeem"},
	"open.signed":          {"open", "child", "redeem"},
	"open.committed":       {"open", "child", "redeem"},
	"token.prepared":       {"token"},
	"token.signed":         {"token"},
	"token.committed":      {"token"},
	"ticket.committed":     {"ticket"},
	"call.prepared":        {"act"},
	"call.committed":       {"act"},
	"call.answered":        {"act"},
	"narrow.committed":     {"narrow"},
	"widen.committed":      {"widen"},
	"approval.asked":       {"ask"},
	"approval.committed":   {"approve"},
	"approval.denied":      {"deny"},
	"close.committed":      {"complete", "revoke"},
	"revocation.committed": {"switch"},
	"reap.orphan":          {"complete"},
	"reap.retire":          {"complete"},
	"lease.pending":        {"checkout"},
	"lease.made":           {"checkout"},
	"lease.active":         {"checkout"},
	"lease.ended":          {"giveback"},
	"lease.returning":      {"giveback"},
	"lease.gone":           {"giveback"},
}

func TestKillAtEveryFailpointThereIs(t *testing.T) {
	there := map[string]bool{}
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "testdata" || d.Name() == "node_modules" || d.Name() == ".git") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(f, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) != 1 {
				return true
			}
			if fun, ok := call.Fun.(*ast.SelectorExpr); !ok || fun.Sel.Name != "Here" {
				return true
			}
			name, ok := call.Args[0].(*ast.BasicLit)
			if !ok {
				t.Errorf("%s: the name of a failpoint is not a constant", path)
				return true
			}
			text, err := strconv.Unquote(name.Value)
			if err != nil {
				t.Errorf("%s: %v", path, err)
			}
			there[text] = true
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for name := range there {
		if len(killedAt[name]) == 0 {
			t.Errorf("nothing is killed at %q: name the steps that reach it", name)
		}
	}
	for name := range killedAt {
		if !there[name] {
			t.Errorf("there is no failpoint %q any more", name)
		}
	}
}

// At each durable step of a task's life the process dies by SIGKILL. What was
// acknowledged is in the log, nothing left that was not recorded, nothing is
// half-written, and the next start puts everything right by itself.
func TestKillAtEachFailpoint(t *testing.T) {
	program := mayflytest.Build(t, "failpoint")
	onEngines(t, func(t *testing.T, dsn string) {
		l := newLife(t, program, dsn)
		l.Serve()
		l.veteran = l.mustOpen("alice")
		n := 0
		for _, name := range slices.Sorted(maps.Keys(killedAt)) {
			for _, during := range killedAt[name] {
				l.T.Logf("%s during %s", name, during)
				l.killAt(name, during)
				if n++; t.Failed() {
					t.Fatalf("killed at %s during %s; the server said:\n%s", name, during, l.said())
				}
			}
		}
		t.Logf("%d kills, %d records, %d tokens seen", n, l.recorded.N, len(l.Handed.Tokens()))
	})
}

// onEngines runs a test on both engines at once.
func onEngines(t *testing.T, test func(t *testing.T, dsn string)) {
	for name, make := range map[string]func(testing.TB) string{"sqlite": mayflytest.SQLite, "postgres": mayflytest.Postgres} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, make(t))
		})
	}
}

// life is an installation and one agent's way through it, again and again.
type life struct {
	*mayflytest.Installation
	hand
	process  *mayflytest.Process
	veteran  *client.Session // lives through every crash
	recorded *mayflytest.Recorded
	n        int
}

func newLife(t *testing.T, program, dsn string) *life {
	i := mayflytest.Install(t, program, dsn)
	return &life{Installation: i, hand: hand{sys: i.System, client: i.Client, more: []string{mayAsk, reader}}}
}

// Serve starts the server and waits until it is ready.
func (l *life) Serve() { l.process = l.Installation.Serve() }

// said is the end of what the server logged.
func (l *life) said() string {
	lines := slices.DeleteFunc(strings.Split(l.Said.String(), "\n"), func(line string) bool { return strings.Contains(line, "/log/checkpoint") })
	return strings.Join(lines[max(0, len(lines)-20):], "\n")
}

// path is one that no call used before.
func (l *life) path() string {
	l.n++
	return "/v1/orders/" + strconv.Itoa(l.n)
}

func (l *life) mustOpen(human string) *client.Session {
	l.T.Helper()
	s, err := l.open(l.T.Context(), human)
	if err != nil {
		l.T.Fatalf("%v\n%s", err, l.said())
	}
	return s
}

// killAt takes a new task as far as the step during, kills the server at the
// failpoint name in the midst of it, and sees to what is left.
func (l *life) killAt(name, during string) {
	t := l.T
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("before the kill: %v\n%s", err, l.said())
		}
	}
	human := fmt.Sprintf("human-%d", l.n)
	session := l.mustOpen(human)
	_, err := session.Token(ctx, l.Issuer+"/http/orders")
	must(err)
	child, err := l.child(ctx, session)
	must(err)
	_, err = child.Token(ctx, l.Issuer+"/http/orders")
	must(err)
	ticket, err := l.ticket(ctx, session)
	must(err)
	if during == "token" { // it has this one already
		session = session.API().Resume(must1(session.Token(ctx, "")), nil)
	}
	path, approval := l.path(), ""
	var loan client.Credential
	switch during {
	case "widen":
		_, err = session.API().Narrow(ctx, session.Task(), mayflytest.Grants(t, mayRead))
		must(err)
	case "approve", "deny":
		approval = l.ask(ctx, session, path)
	case "giveback":
		loan, err = session.CheckOut(ctx, reader)
		must(err)
	}
	fay := l.approver("fay")
	defer fay.Close()
	l.settle()

	var acknowledged func(*mayflytest.Recorded) bool // of a step that was answered without a token
	over := func(r *mayflytest.Recorded) bool { _, ok := r.Closed[session.Task()]; return ok }
	if during == "start" {
		if err := l.process.Stop(); err != nil {
			t.Fatalf("an orderly stop: %v\n%s", err, l.said())
		}
		l.Arm(name)
		l.process = l.Start()
	} else {
		l.Arm(name)
		var err error
		switch during {
		case "open":
			_, err = l.open(ctx, human)
		case "token":
			_, err = session.Token(ctx, l.Issuer+"/http/orders")
		case "act":
			l.call(ctx, session, http.MethodPost, path)
		case "child":
			_, err = l.child(ctx, session)
		case "ticket":
			_, err = l.ticket(ctx, session)
		case "redeem":
			err = l.redeem(ctx, ticket.Ticket)
		case "narrow":
			_, err = session.API().Narrow(ctx, session.Task(), mayflytest.Grants(t, mayRead))
		case "widen":
			_, err = session.API().Widen(ctx, session.Task(), mayflytest.Grants(t, mayWrite))
		case "ask":
			l.call(ctx, session, http.MethodPut, path)
		case "approve":
			_, err = fay.Approve(ctx, approval, "")
		case "deny":
			_, err = fay.Deny(ctx, approval, "not today")
		case "checkout":
			if loan, err = session.CheckOut(ctx, reader); err == nil {
				acknowledged = func(*mayflytest.Recorded) bool { return lease(t, l.System, session.Task()).State == mayfly.LeaseActive }
			}
		case "giveback":
			_, err = session.API().GiveBack(ctx, session.Task(), loan.Lease)
		case "complete":
			_, err = session.Complete(ctx)
			acknowledged = over
		case "revoke":
			_, err = l.Operator().Revoke(ctx, session.Task())
			acknowledged = over
		case "switch":
			_, err = l.Operator().RevokeAll(ctx, "human", human)
			acknowledged = func(*mayflytest.Recorded) bool { return true }
		default:
			t.Fatalf("there is no step %q", during)
		}
		if err != nil {
			acknowledged = nil
		}
	}
	select {
	case <-l.process.Ended():
	case <-ctx.Done():
		t.Fatalf("%s was not reached during %s\n%s", name, during, l.said())
	}
	if !l.process.Killed() {
		t.Fatalf("the server ended otherwise\n%s", l.said())
	}
	l.Arm("")

	r := l.recover(ctx)
	if acknowledged != nil && !acknowledged(r) {
		t.Errorf("it was answered and is not recorded")
	}
	if approval != "" {
		l.holds(ctx, session, path, approval)
	}
	// What is recorded holds, and what is not never happened.
	status := l.call(ctx, session, http.MethodGet, l.path())
	below := l.call(ctx, child, http.MethodGet, l.path())
	_, closed := r.Closed[session.Task()]
	want := http.StatusOK
	if closed || during == "switch" {
		want = http.StatusUnauthorized
	}
	if during == "checkout" || during == "giveback" {
		l.returned(ctx, session, loan)
	}
	if status != want || below != want {
		t.Errorf("the task's call is answered with %d and its child's with %d, want %d (closed: %t)", status, below, want, closed)
	}
}

// returned sees that what is recorded as lent works, that nothing else does, and
// that nothing does when its task has ended.
func (l *life) returned(ctx context.Context, session *client.Session, loan client.Credential) {
	l.T.Helper()
	operator := l.Operator()
	defer operator.Close()
	standing := func() (active, moving int) {
		leases, err := operator.Leases(ctx, session.Task())
		if err != nil {
			l.T.Fatal(err)
		}
		for _, one := range leases {
			switch one.State {
			case mayfly.LeaseActive:
				active++
			case mayfly.LeaseReturned:
			default:
				moving++
			}
		}
		return active, moving
	}
	l.Eventually("every lease is lent or returned", func() bool { _, moving := standing(); return moving == 0 })
	if active, _ := standing(); active != l.Lender.Lent() {
		l.T.Errorf("%d are recorded as lent, and the database has %d", active, l.Lender.Lent())
	}
	if _, err := operator.Revoke(ctx, session.Task()); err != nil {
		l.T.Fatal(err)
	}
	l.Eventually("all is returned", func() bool { active, moving := standing(); return active+moving == 0 && l.Lender.Lent() == 0 })
	if len(loan.Values) > 0 && l.Lender.Reads(loan.Values) == nil {
		l.T.Error("the credential works after its end")
	}
}

// ask makes a call that must wait for a human, and gives the id of the approval.
func (l *life) ask(ctx context.Context, session *client.Session, path string) string {
	l.T.Helper()
	if status := l.call(ctx, session, http.MethodPut, path); status != http.StatusForbidden {
		l.T.Fatalf("a call that needs a yes is answered with %d\n%s", status, l.said())
	}
	operator := l.Operator()
	defer operator.Close()
	waiting, _, err := operator.Approvals(ctx, false, "", 0)
	if err != nil {
		l.T.Fatal(err)
	}
	i := slices.IndexFunc(waiting, func(a client.Approval) bool { return a.Task == session.Task() })
	if i < 0 {
		l.T.Fatalf("nothing waits for a human: %v", waiting)
	}
	return waiting[i].ID
}

// approver is somebody of finance.
func (l *life) approver(id string) *client.Client {
	c, err := client.New(client.Options{Address: l.URL, Issuer: l.Issuer, Token: client.Bearer(l.Approver(id, "finance"))})
	if err != nil {
		l.T.Fatal(err)
	}
	return c
}

// holds sees that an approval is what is recorded of it, and its call decided by
// that.
func (l *life) holds(ctx context.Context, session *client.Session, path, id string) {
	l.T.Helper()
	operator := l.Operator()
	defer operator.Close()
	a, err := operator.Approval(ctx, id)
	if err != nil {
		l.T.Fatal(err)
	}
	trace, err := operator.Trace(ctx, string(session.Task()))
	if err != nil {
		l.T.Fatal(err)
	}
	said := map[string]mayfly.ApprovalState{"approval.voted": mayfly.Approved, "approval.refused": mayfly.ApprovalDenied}
	want := mayfly.Waiting
	for _, e := range trace.Events {
		if state, ok := said[e.Kind]; ok {
			want = state
		}
	}
	if a.State != want {
		l.T.Errorf("the approval is %s, and the record says %s", a.State, want)
	}
	status := l.call(ctx, session, http.MethodPut, path)
	expected := map[mayfly.ApprovalState]int{
		mayfly.Waiting: http.StatusForbidden, mayfly.Approved: http.StatusOK, mayfly.ApprovalDenied: http.StatusTooManyRequests,
	}
	if status != expected[want] {
		l.T.Errorf("the call that waited is answered with %d, and its approval is %s", status, want)
	}
}

func must1[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// settle waits until the server has nothing left to write, so that the next
// thing written is what the test does.
func (l *life) settle() {
	l.T.Helper()
	last, same := int64(-1), 0
	l.Eventually("the log comes to rest", func() bool {
		size := l.size()
		if same++; size != last {
			last, same = size, 0
		}
		return same > 25
	})
}

// size is that of the newest checkpoint, -1 if there is none to be had.
func (l *life) size() int64 {
	c := l.Client()
	defer c.Close()
	note, err := c.Checkpoint(l.T.Context())
	if err != nil {
		return -1
	}
	lines := strings.SplitN(note, "\n", 3)
	n, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil {
		l.T.Error(err)
	}
	return n
}

// recover looks at what a dead server left, starts it again, and waits until it
// has put everything right by itself.
func (l *life) recover(ctx context.Context) *mayflytest.Recorded {
	t := l.T
	t.Helper()
	l.aMinutePasses()
	r := l.AuditStopped()
	l.recorded = r
	if out, code := "", 0; t.Failed() {
		out, code = l.Mayfly("log", "verify")
		t.Fatalf("exit %d: %s", code, out)
	}
	l.Serve()
	operator := l.Operator()
	defer operator.Close()
	for _, decision := range r.Unanswered() {
		l.Eventually("the outcome of "+decision+" is recorded as unknown", func() bool {
			trace, err := operator.Trace(ctx, decision)
			return err == nil && slices.ContainsFunc(trace.Events, func(e client.Event) bool {
				return e.Kind == "call.ended" && strings.Contains(string(e.Body), `"unknown"`)
			})
		})
	}
	l.Eventually("everything that was committed is under a checkpoint", func() bool { return l.size() >= int64(r.N) })
	l.Eventually("what was ended is retired", func() bool {
		tasks, _, err := operator.Tasks(ctx, client.Filter{State: mayfly.Retiring}, "", 0)
		return err == nil && len(tasks) == 0
	})
	if l.veteran != nil {
		if status := l.call(ctx, l.veteran, http.MethodPost, l.path()); status != http.StatusOK {
			t.Errorf("the task that lives through every crash is answered with %d", status)
		}
	}
	return r
}

// aMinutePasses makes the dead process look dead to the next one. Processes that
// share a database take one for ended that was not seen for a minute.
func (l *life) aMinutePasses() {
	l.T.Helper()
	if !strings.HasPrefix(l.DSN, "postgres") {
		return
	}
	c, err := pgx.Connect(l.T.Context(), l.DSN)
	if err == nil {
		_, err = c.Exec(l.T.Context(), `UPDATE process SET seen_at = seen_at - 60000000`)
	}
	if err != nil {
		l.T.Fatal(err)
	}
	if err := c.Close(l.T.Context()); err != nil {
		l.T.Error(err)
	}
}

// The server dies by SIGKILL at no chosen moment, under load. MAYFLY_CHAOS says
// how often on each engine.
func TestKillAtRandomS83LosesNothing(t *testing.T) {
	rounds := 3
	if text := os.Getenv("MAYFLY_CHAOS"); text != "" {
		var err error
		if rounds, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	program := mayflytest.Build(t, "failpoint")
	onEngines(t, func(t *testing.T, dsn string) {
		l := newLife(t, program, dsn)
		l.Serve()
		var completed sync.Map
		for round := range rounds {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			var working sync.WaitGroup
			for w := range 4 {
				paths := fmt.Sprintf("/v1/orders/%d/%d/", round, w)
				working.Go(func() {
					for n := 0; ctx.Err() == nil && l.work(ctx, fmt.Sprintf("%s%d", paths, n), &completed); n++ {
					}
				})
			}
			select {
			case <-time.After(upTo(700 * time.Millisecond)):
			case <-l.process.Ended():
				t.Fatalf("the server ended by itself\n%s", l.said())
			}
			l.process.Kill()
			cancel()
			working.Wait()
			ctx, cancel = context.WithTimeout(t.Context(), time.Minute)
			r := l.recover(ctx)
			cancel()
			completed.Range(func(id, _ any) bool {
				if _, ok := r.Closed[id.(mayfly.TaskID)]; !ok {
					t.Errorf("the completion of %s was answered and is not recorded", id)
				}
				return true
			})
			if t.Failed() {
				t.Fatalf("round %d; the server said:\n%s", round, l.said())
			}
		}
		t.Logf("%d kills, %d records, %d tokens and %d decisions seen, none of them missing",
			rounds, l.recorded.N, len(l.Handed.Tokens()), len(l.Handed.Decisions()))
	})
}

// upTo is a random time below limit.
func upTo(limit time.Duration) time.Duration {
	var b [4]byte
	rand.Read(b[:])
	return time.Duration(binary.BigEndian.Uint32(b[:])) * limit / (1 << 32)
}
