package token_test

import (
	"testing"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/policy"
)

// permit is what a decision gives for one token of a live task.
func permit(t testing.TB) *policy.Permit {
	t.Helper()
	p, d := policy.DecideAgain(&policy.AgainQuestion{
		Decision: "dec_1", Now: start, Bundle: "b",
		Chain: []policy.Link{{
			Task: &mayfly.Task{
				ID: mayfly.TaskID(root), Profile: "planner", Root: mayfly.Subject{Kind: mayfly.Human, ID: "alice@example.com"},
				Deadline: start.Add(time.Hour), IdleUntil: start.Add(time.Hour),
			},
			Profile: &mayfly.Profile{Name: "planner", Delegators: []mayfly.DelegatorRule{{Human: &mayfly.HumanRule{}}}},
		}},
	})
	if p == nil {
		t.Fatalf("refused: %+v", d)
	}
	return p
}
