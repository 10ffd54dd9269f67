package mayflytest_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/client"
	"github.com/mayfly-id/mayfly/internal/eventlog"
	"github.com/mayfly-id/mayfly/internal/mayflytest"
)

// Names that stand nowhere else, so that every byte of a store can be searched for
// them.
const (
	aliceName = "alice-zq71@example.org"
	bobName   = "bob-xk92@example.org"
	secretly  = "pay-qq55-discreetly"
)

// erasable is a system in which alice and bob have each had a task, a ticket and a
// refusal, all of it over.
func erasable(t *testing.T, dsn string) (*mayflytest.System, map[string]mayfly.TaskID) {
	t.Helper()
	n := mayflytest.New(t, mayflytest.Options{DSN: dsn})
	tasks := map[string]mayfly.TaskID{}
	for _, who := range []string{aliceName, bobName} {
		r := n.Opening("mcp:bank:pay_invoice", "mcp:bank:list_invoices")
		r.SubjectToken, r.Purpose = n.Human(who), secretly
		session := n.Open(r)
		if _, err := n.CallTool(session, "pay_invoice", map[string]any{"amount": 20, "vendor": "acme"}); err != nil {
			t.Fatal(err)
		}
		asked, err := client.New(client.Options{Address: n.URL, Issuer: n.Issuer, Token: client.Bearer(n.Human(who))})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := asked.Delegate(context.Background(), client.DelegateRequest{Profile: "invoice", Purpose: secretly}); err != nil {
			t.Fatal(err)
		}
		r.Profile = "nothing"
		if _, err := n.Client().Exchange(context.Background(), r); err == nil {
			t.Fatal("a profile that is none")
		}
		if who == aliceName {
			if _, err := n.Operator().Erase(context.Background(), who); mayfly.KindOf(err) != mayfly.Conflict {
				t.Errorf("with a live task: %v", err)
			}
		}
		if _, err := session.Complete(context.Background()); err != nil {
			t.Fatal(err)
		}
		tasks[who] = session.Task()
		n.Eventually("the task is retired", func() bool {
			task, err := n.Operator().Task(context.Background(), session.Task())
			return err == nil && task.State == mayfly.Retired
		})
	}
	return n, tasks
}

func TestAnErasedPersonIsGoneAndTheLogStands(t *testing.T) {
	mayflytest.OnEachEngine(t, func(t *testing.T, dsn string) {
		n, tasks := erasable(t, dsn)
		ctx := context.Background()
		before := n.Records()
		proof := prove(t, n, string(tasks[aliceName]))
		n.Eventually("the index catches up", func() bool {
			found, _, err := n.Operator().Search(ctx, client.Query{Human: aliceName}, "", 500)
			return err == nil && len(found) > 5
		})
		if stored := bytesOf(t, dsn); stored != nil && !bytes.Contains(stored, []byte(aliceName)) {
			t.Error("before, the name is nowhere: the test sees nothing")
		}

		e, err := n.Operator().Erase(ctx, aliceName)
		if err != nil || !strings.HasPrefix(e.Person, "p_") || !e.Scrubbed || len(e.Standing) != 0 {
			t.Fatalf("%+v, %v", e, err)
		}

		// Nothing says her name or what it was for, in no answer and in no byte.
		for _, r := range n.Records() {
			if r.Person == e.Person && r.Body != nil || bytes.Contains(r.Body, []byte(aliceName)) {
				t.Errorf("%s can still be read: %s", r.Kind, r.Body)
			}
		}
		if stored := bytesOf(t, dsn); bytes.Contains(stored, []byte(aliceName)) {
			t.Error("her name is still in the store")
		} else if stored != nil && !bytes.Contains(stored, []byte(bobName)) {
			t.Error("his name is gone too")
		}
		task, err := n.Operator().Task(ctx, tasks[aliceName])
		if err != nil || task.Root.Subject != e.Person || task.Purpose.Text != "" {
			t.Errorf("her task reads %+v, %v", task, err)
		}
		if task, err = n.Operator().Task(ctx, tasks[bobName]); err != nil || task.Root.Subject != bobName || task.Purpose.Text != secretly {
			t.Errorf("his task reads %+v, %v", task, err)
		}
		if found, _, err := n.Operator().Search(ctx, client.Query{Human: aliceName}, "", 500); err != nil || len(found) != 0 {
			t.Errorf("a search finds %d of her records, %v", len(found), err)
		}
		if _, err := n.Operator().Erase(ctx, aliceName); mayfly.KindOf(err) != mayfly.NotFound {
			t.Errorf("twice: %v", err)
		}
		if cert, err := n.Operator().Certificate(ctx, tasks[aliceName]); err != nil || cert == "" {
			t.Errorf("the certificate: %v", err)
		}

		// Every record is where it was, and provable as before.
		after := n.Records()
		for i, r := range before {
			if after[i].ID != r.ID || after[i].Dlg != r.Dlg {
				t.Fatalf("record %d is another", i)
			}
		}
		vkey, err := n.Operator().LogKey(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := eventlog.CheckProof(proof, strings.TrimSpace(vkey), eventlog.Quorum{}); err != nil {
			t.Errorf("the proof of before: %v", err)
		}
		prove(t, n, string(tasks[aliceName]))

		// Whoever comes again is somebody new.
		r := n.Opening()
		r.SubjectToken = n.Human(aliceName)
		again := n.Open(r)
		records := n.Records("task.opened")
		if last := records[len(records)-1]; last.Task != again.Task() || last.Person == e.Person || last.Body == nil {
			t.Errorf("her next task: %+v", last)
		}
	})
}

// Only the operator erases, and not while a revocation would lose its name.
func TestErasingIsTheOperatorsAndLiftsNothing(t *testing.T) {
	t.Parallel()
	n, _ := erasable(t, mayflytest.SQLite(t))
	ctx := context.Background()
	own, err := client.New(client.Options{Address: n.URL, Issuer: n.Issuer, Token: client.Bearer(n.Human(aliceName))})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := own.Erase(ctx, aliceName); mayfly.KindOf(err) != mayfly.NotFound && mayfly.KindOf(err) != mayfly.Denied {
		t.Errorf("she herself: %v", err)
	}
	if _, err := n.Operator().Erase(ctx, "nobody@example.org"); mayfly.KindOf(err) != mayfly.NotFound {
		t.Errorf("nobody: %v", err)
	}
	standing, err := n.Operator().RevokeAll(ctx, "human", aliceName)
	if err != nil {
		t.Fatal(err)
	}
	e, err := n.Operator().Erase(ctx, aliceName)
	if err != nil || len(e.Standing) != 1 || e.Standing[0] != standing.ID {
		t.Fatalf("%+v, %v", e, err)
	}
	r := n.Opening()
	r.SubjectToken = n.Human(aliceName)
	if _, err := n.Client().Exchange(ctx, r); err == nil {
		t.Error("she was erased, and with her the revocation")
	}
}

// A node that remembers a person opens nothing for them under a key that another
// node has destroyed.
func TestAnotherNodeForgetsWhoWasErased(t *testing.T) {
	t.Parallel()
	n, _ := erasable(t, mayflytest.Postgres(t))
	other := mayflytest.New(t, mayflytest.Options{Beside: n})
	open := func() (*client.Session, error) {
		r := other.Opening()
		r.SubjectToken = other.Human(aliceName)
		return other.Client().Open(context.Background(), r, nil)
	}
	session, err := open()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := session.Complete(context.Background()); err != nil {
		t.Fatal(err)
	}
	n.Eventually("it is retired", func() bool {
		task, err := n.Operator().Task(context.Background(), session.Task())
		return err == nil && task.State == mayfly.Retired
	})
	e, err := n.Operator().Erase(context.Background(), aliceName)
	if err != nil {
		t.Fatal(err)
	}
	n.Eventually("the other node opens anew", func() bool {
		session, err = open()
		return err == nil
	})
	for _, r := range n.Records("task.opened") {
		if r.Task == session.Task() && (r.Person == e.Person || r.Body == nil) {
			t.Errorf("a task was opened under a destroyed key: %+v", r)
		}
	}
}

// prove is the proof of the first record of a task.
func prove(t *testing.T, n *mayflytest.System, id string) []byte {
	t.Helper()
	ctx := context.Background()
	trace, err := n.Operator().Trace(ctx, id)
	if err != nil || len(trace.Events) == 0 || trace.Events[0].Position == nil {
		t.Fatalf("%+v, %v", trace, err)
	}
	vkey, err := n.Operator().LogKey(ctx)
	if err != nil {
		t.Fatal(err)
	}
	file, err := eventlog.Prove(ctx, strings.TrimSpace(vkey), *trace.Events[0].Position, n.Operator().LogFile)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// bytesOf is everything that a store on SQLite has on the disk.
func bytesOf(t *testing.T, dsn string) (all []byte) {
	t.Helper()
	path, ok := strings.CutPrefix(dsn, "sqlite://")
	if !ok {
		return nil
	}
	files, err := filepath.Glob(path + "*")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, data...)
	}
	return all
}
