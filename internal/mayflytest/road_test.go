package mayflytest_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/client"
	"github.com/mayfly-id/mayfly/internal/mayflytest"
)

// The whole road once: open, act, delegate, retire.
func TestATaskActsDelegatesAndTakesEverythingWithIt(t *testing.T) {
	mayflytest.OnEachEngine(t, func(t *testing.T, dsn string) {
		s := mayflytest.New(t, mayflytest.Options{DSN: dsn})
		ctx := context.Background()
		parent := s.Open(s.Opening("mcp:bank:list_invoices", "mcp:bank:pay_invoice", "http:orders:GET:/v1/*"))

		r, err := s.CallTool(parent, "pay_invoice", map[string]any{"amount": 120})
		if err != nil || r.IsError {
			t.Fatalf("an allowed call: %v %+v", err, r)
		}
		if r.Meta["mayfly/decision"] == nil {
			t.Errorf("the result names no decision: %+v", r.Meta)
		}
		if a := s.Get(parent, "/v1/orders"); a.Status != http.StatusOK || a.Header.Get("Mayfly-Decision") == "" {
			t.Errorf("an allowed HTTP call: %s", a)
		}
		r, err = s.CallTool(parent, "pay_invoice", map[string]any{"amount": 501})
		if err != nil || !r.IsError {
			t.Fatalf("a call over the limit: %v %+v", err, r)
		}
		if term := r.Meta["mayfly/term"]; term != "token" {
			t.Errorf("the term that denied is %v", term)
		}
		for _, seen := range append(s.Bank.Requests(), s.Orders.Requests()...) {
			if got := seen.Header.Get("Authorization"); got != "Bearer upstream-canary-key-7f3a" {
				t.Errorf("the upstream was shown %q", got)
			}
			if strings.Contains(string(seen.Body), "501") {
				t.Error("the denied call reached the upstream")
			}
		}

		token, err := s.Child(parent, "reader", "mcp:bank:list_invoices")
		if err != nil {
			t.Fatal(err)
		}
		child := s.Client().Resume(token, nil)
		if r, err := s.CallTool(child, "list_invoices", nil); err != nil || r.IsError {
			t.Fatalf("the child's call: %v %+v", err, r)
		}
		view, err := child.API().Task(ctx, child.Task())
		if err != nil {
			t.Fatal(err)
		}
		if view.Parent != parent.Task() || view.Depth != 1 || len(view.Chain) != 3 || view.Root.Subject != "alice" {
			t.Errorf("the child reads %+v", view)
		}
		if _, err := s.Child(parent, "reader", "mcp:bank:delete_vendor"); mayfly.AsError(err).Code != "invalid_scope" {
			t.Errorf("a wider child: %v", err)
		}

		if _, err := parent.Complete(ctx); err != nil {
			t.Fatal(err)
		}
		for name, session := range map[string]*client.Session{"its own": parent, "its child's": child} {
			if _, err := s.CallTool(session, "list_invoices", nil); err == nil {
				t.Errorf("%s token still works after completion", name)
			}
		}
		s.Eventually("both tasks are retired", func() bool {
			tasks, _, err := s.Operator().Tasks(ctx, client.Filter{State: mayfly.Retired}, "", 0)
			return err == nil && len(tasks) == 2
		})
		trace, err := s.Operator().Trace(ctx, string(child.Task()))
		if err != nil || len(trace.Tasks) != 2 || trace.Subject.Subject != "alice" {
			t.Errorf("the trace: %v %+v", err, trace)
		}
	})
}
