package token_test

import (
	"testing"

	"github.com/mayfly-id/mayfly/internal/policy"
)

// permit is what a decision to open gives.
func permit(t testing.TB) *policy.Permit {
	t.Helper()
	return new(policy.Permit)
}
