package mayflytest_test

import (
	"fmt"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/client"
	"github.com/mayfly-id/mayfly/internal/authority"
	"github.com/mayfly-id/mayfly/internal/mayflytest"
)

// A program that shows humans what waits is told of each request, and when it
// waits no longer.
func TestTheClientWatchesWhatWaits(t *testing.T) {
	t.Parallel()
	d := direct{mayflytest.New(t, asking())}
	task := d.open(t, "open", "mcp:bank:pay_invoice")
	fay, err := client.New(client.Options{Address: d.URL, Issuer: d.Issuer, Token: client.Bearer(d.Approver("fay", "finance"))})
	if err != nil {
		t.Fatal(err)
	}
	defer fay.Close()
	first := d.ask(t, task.AccessToken, large)
	asked := false
	for change, err := range fay.WatchApprovals(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case !asked:
			if change.Gone || change.Approval.ID != first || change.Approval.Task != task.Task {
				t.Fatalf("it is told %+v", change)
			}
			asked = true
			if _, err := fay.Approve(t.Context(), first, ""); err != nil {
				t.Fatal(err)
			}
		case change.Gone && change.Approval.ID == first:
			return
		}
	}
	t.Fatal("the stream ended before it said that nothing waits any more")
}

// The client's calls about decisions say what the API says.
func TestTheClientAsksAboutDecisions(t *testing.T) {
	t.Parallel()
	up := newShifting(t, "files/read")
	d := direct{mayflytest.New(t, mayflytest.Options{Change: func(b *authority.Bundle) { b.Targets["bank"].URL = up.URL }})}
	session, err := d.Client().Open(t.Context(), d.Opening("mcp:bank:list_invoices", "http:orders:GET:/v1/*"), nil)
	if err != nil {
		t.Fatal(err)
	}
	operator := d.Operator()
	defer operator.Close()
	agent := client.Entity{Type: "agent", ID: mayfly.AgentID("example.org", "invoice", session.Task())}
	use := &client.EvaluationAction{Name: "use"}
	orders := &client.Entity{Type: "route", ID: "orders/GET/v1/orders"}
	one, err := operator.Evaluate(t.Context(), client.Evaluation{Subject: &agent, Action: use, Resource: orders})
	if err != nil || !one.Allowed {
		t.Fatalf("%+v, %v", one, err)
	}
	answers, err := operator.Evaluations(t.Context(), client.Evaluation{Subject: &agent, Action: use}, client.DenyOnFirstDeny, []client.Evaluation{
		{Resource: orders}, {Resource: &client.Entity{Type: "tool", ID: "bank/delete_vendor"}}, {Resource: orders},
	})
	if err != nil || len(answers) != 2 || !answers[0].Allowed || answers[1].Allowed {
		t.Fatalf("%+v, %v", answers, err)
	}
	why, err := operator.Explain(t.Context(), answers[1].Context.Decision)
	if err != nil || why.Verdict != mayfly.Deny || why.Term != answers[1].Context.Term || len(why.Terms) != len(mayfly.Terms) {
		t.Errorf("%+v, %v", why, err)
	}
	if _, err := operator.Explain(t.Context(), "dec_unknown"); mayfly.KindOf(err) != mayfly.NotFound {
		t.Errorf("a decision that never was: %v", err)
	}
	replayed, err := operator.Replay(t.Context(), map[string]string{
		"none.cedar": `@id("none") forbid (principal is Mayfly::Agent, action == Mayfly::Action::"use", resource in Mayfly::Target::"orders");`,
	}, time.Time{})
	if err != nil || replayed.Flips != 2 || replayed.Changed[0].Policies[0] != "none" {
		t.Errorf("%+v, %v", replayed, err)
	}

	// A tool whose name holds a slash is accepted by that name.
	def := func(description string) authority.Definition {
		text := fmt.Appendf(nil, `{"name":"files/read","description":%q}`, description)
		return authority.Definition{Tool: "files/read", Hash: description, JSON: text}
	}
	bank := d.Authority.Bundle().Targets["bank"]
	for _, description := range []string{"before", "after"} {
		if _, err := d.Authority.Tools(t.Context(), bank, []authority.Definition{def(description)}); err != nil {
			t.Fatal(err)
		}
	}
	pins, err := operator.Pins(t.Context())
	i := slices.IndexFunc(pins, func(p mayfly.Pin) bool { return p.Tool == "files/read" })
	if err != nil || i < 0 || pins[i].Hash != "before" || pins[i].Changed != "after" {
		t.Fatalf("%+v, %v", pins, err)
	}
	for hash, want := range map[string]mayfly.Kind{"": mayfly.Invalid, "before": mayfly.Conflict} {
		if _, err := operator.AcceptPin(t.Context(), "bank", "files/read", hash); mayfly.KindOf(err) != want {
			t.Errorf("accepting the hash %q: %v", hash, err)
		}
	}
	pin, err := operator.AcceptPin(t.Context(), "bank", "files/read", "after")
	if err != nil || pin.Hash != "after" || pin.Changed != "" {
		t.Errorf("%+v, %v", pin, err)
	}
	if _, err := operator.AcceptPin(t.Context(), "bank", url.PathEscape("files/read"), "after"); mayfly.KindOf(err) != mayfly.NotFound {
		t.Errorf("a name that is no tool's: %v", err)
	}
}
