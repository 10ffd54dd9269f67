package signals_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ncruces/go-sqlite3/driver"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/eventlog"
	"github.com/mayfly-id/mayfly/internal/signals"
	"github.com/mayfly-id/mayfly/internal/store"
)

// ledger is a store with a log, and what is needed to fill it.
type ledger struct {
	t    testing.TB
	path string
	db   *store.DB
	log  *eventlog.Log
}

func newLedger(t testing.TB) *ledger {
	t.Helper()
	l := &ledger{t: t, path: filepath.Join(t.TempDir(), "mayfly.db")}
	var err error
	if l.db, err = store.Open(t.Context(), store.Options{DSN: "sqlite://" + l.path, Node: "test"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.db.Close() })
	if l.log, err = eventlog.Open(t.Context(), l.db, eventlog.Options{Origin: "mayfly.test/log"}); err != nil {
		t.Fatal(err)
	}
	return l
}

// add commits events and has them in the log.
func (l *ledger) add(events ...mayfly.Event) {
	l.t.Helper()
	const together = 2000
	for len(events) > 0 {
		n := min(together, len(events))
		pending := make([]*store.Pending, n)
		for i, e := range events[:n] {
			rec, err := l.db.Prepare(l.t.Context(), time.Now(), "bundle", e)
			if err != nil {
				l.t.Fatal(err)
			}
			pending[i] = l.db.Submit(l.t.Context(), rec, func(*store.Tx) {})
		}
		for _, p := range pending {
			if err := p.Wait(); err != nil {
				l.t.Fatal(err)
			}
		}
		events = events[n:]
	}
	for {
		n, err := l.log.Sequence(l.t.Context())
		if err != nil {
			l.t.Fatal(err)
		}
		if n == 0 {
			return
		}
	}
}

// export runs one export until done says that it has come far enough.
func (l *ledger) export(e signals.Export, done func() bool) {
	l.t.Helper()
	l.exportWith(signals.ExportOptions{}, e, done)
}

func (l *ledger) exportWith(o signals.ExportOptions, e signals.Export, done func() bool) {
	l.t.Helper()
	o.DB, o.Issuer, o.Origin, o.Version = l.db, "https://mayfly.example", "mayfly.test/log", "v1.2.3"
	o.Exports = func() []signals.Export { return []signals.Export{e} }
	x := signals.NewExports(o)
	ctx, cancel := context.WithCancel(l.t.Context())
	var ran sync.WaitGroup
	ran.Go(func() { x.Run(ctx) })
	defer ran.Wait()
	defer cancel()
	deadline := time.Now().Add(60 * time.Second)
	for !done() {
		if time.Now().After(deadline) {
			l.t.Fatal("it did not come far enough")
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// at is how far the export called name has come.
func (l *ledger) at(name string) int64 {
	l.t.Helper()
	at, err := l.db.Sink(context.Background(), "export:"+name)
	if err != nil {
		l.t.Fatal(err)
	}
	return at
}

// toFile exports everything up to the position last to a file, and reads it.
func (l *ledger) toFile(path string, last int64) [][]byte {
	l.t.Helper()
	l.export(signals.Export{Name: "file", File: path}, func() bool { return l.at("file") >= last })
	return linesOf(l.t, path)
}

func linesOf(t testing.TB, path string) [][]byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasSuffix(text, []byte("\n")) {
		t.Fatalf("%s does not end in a whole line", path)
	}
	return bytes.Split(bytes.TrimSuffix(text, []byte("\n")), []byte("\n"))
}

var (
	alice     = mayfly.Subject{Kind: mayfly.Human, ID: "alice@example.org", Source: "corp", Groups: []string{"finance"}}
	builder   = mayfly.Subject{Kind: mayfly.Service, ID: "service:ci/builder", Source: "ci"}
	then      = time.Date(2026, 11, 2, 9, 30, 0, 123456000, time.UTC)
	pay       = mayfly.Grant{Kind: "mcp", Target: "bank", Action: "pay_invoice"}
	tokenFact = mayfly.TokenFact{KeyID: "k1", Audience: "https://mayfly.example/mcp", ExpiresAt: then.Add(time.Hour), Scope: "mcp:bank:pay_invoice"}
)

func decided(d mayfly.Decision, action string) mayfly.CallDecided {
	return mayfly.CallDecided{
		Decision: d, Task: "task_1", Root: alice, Surface: "mcp", Target: "bank", Action: action, Digest: "abc", Size: 12, JTI: "evt_9",
		Source: "10.1.2.3", Trace: "4bf92f3577b34da6a3ce929d0e0e4736",
		Snapshot: &mayfly.Snapshot{V: 1, Facts: mayfly.Facts{"amount": {Type: mayfly.FactDecimal, Decimal: 12_0000}}, Labels: []string{"money"}},
	}
}

// ocsfSamples are every kind of event, and the class and activity each must be.
// docs/ocsf.md holds the same table.
var ocsfSamples = []struct {
	event           mayfly.Event
	class, activity int
	status          int
}{
	{mayfly.ServerStarted{Node: "n1", Version: "v1", Bundle: "b1"}, 6002, 3, 1},
	{mayfly.BundleLoaded{Bundle: "b2", Previous: "b1"}, 6002, 8, 1},
	{mayfly.KeyMade{KeyID: "k1", Algorithm: "ES256", SignsFrom: then}, 3001, 99, 1},
	{mayfly.KeyCompromised{KeyID: "k1", By: "operator"}, 3001, 99, 1},
	{mayfly.DelegationMade{Delegation: "dlg_1", Profile: "invoice-agent", Purpose: "Pay", Grants: []mayfly.Grant{pay}, Root: alice, ExpiresAt: then, Uses: 1}, 3005, 1, 1},
	{mayfly.TaskOpened{Task: "task_1", Profile: "invoice-agent", Purpose: mayfly.Purpose{Text: "Pay", By: "agent"}, Root: alice, Grants: []mayfly.Grant{pay},
		Agent: mayfly.Evidence{Source: "k8s", Subject: "spiffe://x/y", Verified: true}, Deadline: then, Decision: "dec_1", Token: tokenFact}, 3004, 1, 1},
	{mayfly.TokenIssued{Task: "task_1", Root: alice, Token: tokenFact}, 3003, 1, 1},
	{mayfly.TokenIssued{Task: "task_1", Root: builder, Token: mayfly.TokenFact{Audience: "https://x.example"}}, 3003, 1, 1},
	{mayfly.TokenRevoked{Task: "task_1", JTI: "evt_1", By: "operator"}, 3002, 2, 1},
	{mayfly.RequestRefused{Decision: "dec_2", What: "exchange", Code: "access_denied", Reason: "no", Root: alice, Profile: "p", Term: mayfly.TermPolicy,
		Source: "[2001:db8::1]:443", Policies: []string{"no-night"}}, 6003, 99, 2},
	{mayfly.RequestRefused{}, 6003, 99, 2},
	{mayfly.AuthenticationFailed{Surface: "token", Reason: "expired", Source: "192.0.2.1", Count: 3}, 3002, 1, 2},
	{mayfly.AuthenticationFailed{Surface: "api", Reason: "many", Source: "many", Count: 9}, 3002, 1, 2},
	{decided(mayfly.Decision{ID: "dec_3", Verdict: mayfly.Allow, Policies: []string{"a", "b"}}, "pay_invoice"), 6003, 99, 1},
	{decided(mayfly.Decision{ID: "dec_4", Verdict: mayfly.Deny, Term: mayfly.TermTask, Reason: "not granted"}, "GET:/v1/orders"), 6003, 2, 2},
	{decided(mayfly.Decision{ID: "dec_5", Verdict: mayfly.NeedsApproval, Needs: []string{"finance"}, Approval: "apr_1"}, "POST:/v1/orders"), 6003, 1, 2},
	{decided(mayfly.Decision{ID: "dec_6", Verdict: mayfly.Allow, Observed: []mayfly.Term{mayfly.TermPolicy}}, "PUT:/v1/orders/1"), 6003, 3, 1},
	{decided(mayfly.Decision{ID: "dec_7", Verdict: mayfly.Allow}, "DELETE:/v1/orders/1"), 6003, 4, 1},
	{mayfly.CallDecided{}, 6003, 99, 1},
	{mayfly.LeaseLent{Lease: "lease_1", Task: "task_1", Root: alice, Decision: "dec_3", Grant: "postgres:sales:reader", Principal: "mf_1", ExpiresAt: then}, 3005, 1, 1},
	{mayfly.LeaseEnded{Lease: "lease_1", Task: "task_1", Root: alice, Reason: mayfly.LeaseTaskEnded, By: "task_1"}, 3005, 2, 99},
	{mayfly.LeaseBack{Lease: "lease_1", Task: "task_1", Root: alice, Grant: "postgres:sales:reader", Principal: "mf_1", Tries: 2}, 3005, 2, 1},
	{mayfly.LeaseStuck{Lease: "lease_1", Task: "task_1", Root: alice, Grant: "postgres:sales:reader", Since: then, Tries: 9, Problem: "no answer", Until: then}, 2004, 1, 1},
	{mayfly.LeaseFound{Lease: "lease_1", Task: "task_1", Root: alice, Grant: "postgres:sales:reader"}, 2004, 1, 1},
	{mayfly.CallEnded{Decision: "dec_3", Task: "task_1", Human: alice.ID, Outcome: "answered", Status: 200, Bytes: 17}, 6003, 99, 1},
	{mayfly.CallEnded{Decision: "dec_3", Task: "task_1", Outcome: "unknown", Detail: "the process that carried it ended"}, 6003, 99, 0},
	{mayfly.CallEnded{Decision: "dec_3", Task: "task_1", Outcome: "cut"}, 6003, 99, 2},
	{mayfly.TaskNarrowed{Task: "task_1", Root: alice, Grants: []mayfly.Grant{pay}, By: alice.ID}, 3005, 2, 1},
	{mayfly.TaskNarrowed{Task: "task_1", Root: alice, By: "task_1"}, 3005, 2, 1},
	{mayfly.TaskWidened{Task: "task_1", Root: alice, Grants: []mayfly.Grant{pay}, Added: []mayfly.Grant{pay}, By: "task_1", Approval: "apr_1", Decision: "dec_8"}, 3005, 1, 1},
	{mayfly.ApprovalRequested{Approval: "apr_1", Task: "task_1", Root: alice, Profile: "p", What: "call", Grant: pay.String(), Needs: []string{"finance"},
		Decision: "dec_5", ExpiresAt: then}, 3005, 99, 99},
	{mayfly.ApprovalVoted{Approval: "apr_1", Task: "task_1", Root: alice, Need: []string{"finance"}, By: "bob@example.org", Complete: true, Note: "fine"}, 3005, 1, 1},
	{mayfly.ApprovalVoted{Approval: "apr_1", Root: alice, Need: []string{"finance"}, By: "bob@example.org"}, 3005, 1, 99},
	{mayfly.ApprovalRefused{Approval: "apr_1", Task: "task_1", Root: alice, By: "operator"}, 3005, 1, 2},
	{mayfly.ToolPinned{Target: "bank", Tool: "pay_invoice", Hash: "h1", By: "first-sight"}, 3004, 1, 1},
	{mayfly.ToolPinned{Target: "bank", Tool: "pay_invoice", Hash: "h2", Previous: "h1", By: "operator"}, 3004, 3, 1},
	{mayfly.ToolChanged{Target: "bank", Tool: "pay_invoice", Pinned: "h1", Hash: "h2"}, 2004, 1, 1},
	{mayfly.PoliciesReplayed{By: "operator", Candidate: "h", Decisions: 10, Changed: 1}, 6003, 2, 1},
	{mayfly.TaskClosed{Task: "task_1", Root: alice, Reason: mayfly.Completed, By: "task_1"}, 3004, 9, 1},
	{mayfly.TaskRetired{Task: "task_1", Root: alice, Points: []mayfly.EnforcementPoint{{Node: "n1", Stopped: then, How: mayfly.StopAcknowledged}}}, 3004, 4, 1},
	{mayfly.IdleRenewed{Task: "task_1", Root: alice, Until: then, By: "heartbeat"}, 3004, 3, 1},
	{mayfly.RevocationMade{Revocation: mayfly.Revocation{ID: "rev_1", Kind: "human", Value: alice.ID, By: "operator", At: then}}, 3001, 9, 1},
	{mayfly.RevocationMade{Revocation: mayfly.Revocation{ID: "rev_2", Kind: "all", By: "operator", At: then}}, 3001, 9, 1},
	{mayfly.PersonSignedIn{SignIn: "sgn_1", Human: alice, At: then, EndsAt: then, Source: "192.0.2.1"}, 3002, 1, 1},
	{mayfly.PersonSignedIn{SignIn: "sgn_2", Human: alice, EndsAt: then, Replaces: "sgn_1"}, 3002, 1, 1},
	{mayfly.PersonSignedOut{SignIn: "sgn_2", Human: alice}, 3002, 2, 1},
	{mayfly.PersonErased{Person: "p_x", By: "operator"}, 3001, 6, 1},
	{mayfly.RevocationLifted{Revocation: mayfly.Revocation{ID: "rev_1", By: "operator", At: then}}, 3001, 12, 1},
	{mayfly.Alarm{What: "log", Detail: "a stored record is not what was committed"}, 2004, 1, 1},
	{mayfly.LogUnanchored{Size: 10, Anchored: 3, Since: then, Witnesses: map[string]string{"w": "403"}}, 2004, 1, 1},
	{mayfly.LogAnchored{Anchored: 12, Since: then}, 2004, 3, 4},
}

// exportedSamples are the lines of the samples, and once more with all that is
// about Alice erased.
func exportedSamples(t *testing.T) [][]byte {
	t.Helper()
	l := newLedger(t)
	for _, s := range ocsfSamples {
		l.add(s.event)
	}
	file := filepath.Join(t.TempDir(), "ocsf.jsonl")
	last := int64(len(ocsfSamples)) // the first record is of the log's own key
	lines := l.toFile(file, last)[1:]
	eraseEverybody(t, l)
	l.export(signals.Export{Name: "erased", File: file + ".erased"}, func() bool { return l.at("erased") >= last })
	return append(lines, linesOf(t, file+".erased")[1:]...)
}

// eraseEverybody destroys the keys of all persons.
func eraseEverybody(t *testing.T, l *ledger) {
	t.Helper()
	db, err := driver.Open("file:" + l.path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec("UPDATE person SET key = NULL"); err != nil {
		t.Fatal(err)
	}
}

// lineView is what the tests look at of a line.
type lineView struct {
	Class    int `json:"class_uid"`
	Activity int `json:"activity_id"`
	Status   int `json:"status_id"`
	Metadata struct {
		UID         string `json:"uid"`
		Sequence    int64  `json:"sequence"`
		EventCode   string `json:"event_code"`
		Correlation string `json:"correlation_uid"`
	} `json:"metadata"`
	Actor struct {
		User struct {
			UID string `json:"uid"`
		} `json:"user"`
	} `json:"actor"`
	Unmapped struct {
		Erased bool `json:"erased"`
	} `json:"unmapped"`
}

func viewOf(t testing.TB, line []byte) (v lineView) {
	t.Helper()
	if err := json.Unmarshal(line, &v); err != nil {
		t.Fatalf("%v: %s", err, line)
	}
	return v
}

// Every event is the class and activity that the table says, and valid in OCSF,
// also when the person it is about was erased.
func TestEveryEventIsAnOCSFEvent(t *testing.T) {
	lines := exportedSamples(t)
	if len(lines) != 2*len(ocsfSamples) {
		t.Fatalf("%d lines of %d events", len(lines), len(ocsfSamples))
	}
	c := &checker{types: readTable(t)}
	for i, line := range lines {
		s := ocsfSamples[i%len(ocsfSamples)]
		got := viewOf(t, line)
		if got.Metadata.EventCode != s.event.Kind() || got.Class != s.class || got.Metadata.Sequence != int64(i%len(ocsfSamples))+1 ||
			!strings.HasPrefix(got.Metadata.UID, "evt_") || got.Metadata.Correlation != string(s.event.Header().Task) {
			t.Errorf("%s is not of class %d: %s", s.event.Kind(), s.class, line)
		}
		erased := i >= len(ocsfSamples) && s.event.Header().Human != ""
		if got.Unmapped.Erased != erased || erased && bytes.Contains(line, []byte("alice")) {
			t.Errorf("erased is not %v: %s", erased, line)
		}
		if !erased && (got.Activity != s.activity || got.Status != s.status) {
			t.Errorf("%s is not of activity %d with status %d: %s", s.event.Kind(), s.activity, s.status, line)
		}
		for _, w := range c.check(line) {
			t.Errorf("%s\n%s", w, line)
		}
	}
	if got := viewOf(t, lines[len(ocsfSamples)+5]).Actor.User.UID; !strings.HasPrefix(got, "p_") {
		t.Errorf("who was erased has no pseudonym: %s", lines[len(ocsfSamples)+5])
	}
}

// No kind of event is without a class: the kinds are read from the code, so that
// a new one fails here and not at the receiver.
func TestNoKindOfEventIsUnmapped(t *testing.T) {
	has := map[string]bool{}
	for _, s := range ocsfSamples {
		has[s.event.Kind()] = true
	}
	kinds := eventKinds(t)
	if len(kinds) < 25 {
		t.Fatalf("only %d kinds found: the test looks at nothing", len(kinds))
	}
	for _, kind := range kinds {
		if !has[kind] {
			t.Errorf("the kind %s is in no sample: say of which OCSF class it is, in ocsf.go, here and in docs/ocsf.md", kind)
		}
	}
}

// eventKinds are what the Kind methods of the root package return.
func eventKinds(t *testing.T) (kinds []string) {
	t.Helper()
	files, err := filepath.Glob("../../*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Recv == nil || fn.Name.Name != "Kind" || fn.Body == nil || len(fn.Body.List) != 1 {
				continue
			}
			ret, ok := fn.Body.List[0].(*ast.ReturnStmt)
			if !ok || len(ret.Results) != 1 {
				continue
			}
			if lit, ok := ret.Results[0].(*ast.BasicLit); ok && lit.Kind == token.STRING {
				kind, err := strconv.Unquote(lit.Value)
				if err != nil {
					t.Fatal(err)
				}
				kinds = append(kinds, kind)
			}
		}
	}
	return kinds
}

// The documentation has a row for every kind, with its class and activities.
func TestTheDocumentationHasEveryOCSFClass(t *testing.T) {
	page, err := os.ReadFile("../../docs/ocsf.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range ocsfSamples {
		row := ""
		for _, line := range strings.Split(string(page), "\n") {
			if strings.HasPrefix(line, "| `"+s.event.Kind()+"` |") {
				row = line
			}
		}
		if !strings.Contains(row, fmt.Sprintf(" %d |", s.class)) || !strings.Contains(row, fmt.Sprintf(" %d ", s.activity)) {
			t.Errorf("docs/ocsf.md says of %s %q, not class %d, activity %d", s.event.Kind(), row, s.class, s.activity)
		}
	}
}
