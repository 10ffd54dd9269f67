package policy_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/policy"
)

// thousand is 1,000 policies as a big house has them: most about other tools,
// other profiles, other people; ten about the call and its agent.
func thousand(t testing.TB) *policy.Set {
	var b strings.Builder
	for i := range 400 {
		fmt.Fprintf(&b, "@id(\"tool%d\") forbid(principal is Mayfly::Agent, action == Mayfly::Action::\"use\", resource == Mayfly::Tool::\"t%d/do\") when { context.depth > 1 };\n", i, i)
	}
	for i := range 300 {
		fmt.Fprintf(&b, "@id(\"profile%d\") forbid(principal in Mayfly::Profile::\"p%d\", action == Mayfly::Action::\"use\", resource) when { context.seen.contains(\"untrusted\") && context.labels.contains(\"egress\") };\n", i, i)
	}
	for i := range 290 {
		fmt.Fprintf(&b, "@id(\"human%d\") permit(principal in Mayfly::Group::\"g%d\", action, resource in Mayfly::Target::\"t%d\");\n", i, i, i)
	}
	for i := range 4 {
		fmt.Fprintf(&b, "@id(\"any%d\") forbid(principal is Mayfly::Agent, action == Mayfly::Action::\"use\", resource) when { context.seen.contains(\"untrusted%d\") && context.labels.contains(\"egress\") };\n", i, i)
	}
	for i := range 3 {
		fmt.Fprintf(&b, "@id(\"bank%d\") @approval(\"finance\") forbid(principal is Mayfly::Agent, action == Mayfly::Action::\"use\", resource in Mayfly::Target::\"bank\") when { context.arguments has amount && context.arguments.amount.greaterThan(decimal(\"%d.0\")) };\n", i, 1000+i)
	}
	for i := range 3 {
		fmt.Fprintf(&b, "@id(\"leaf%d\") forbid(principal in Mayfly::Profile::\"leaf\", action == Mayfly::Action::\"use\", resource == Mayfly::Tool::\"bank/pay_invoice\") when { context.purpose like \"*forbidden%d*\" };\n", i, i)
	}
	s := policies(t, b.String())
	if n := len(s.IDs()); n != 1000 {
		t.Fatalf("%d policies", n)
	}
	return s
}

func BenchmarkDecide1000(b *testing.B) {
	q := question(b, "mcp:bank:pay_invoice", `{"amount":120.5,"vendor":"acme"}`, listAndPay, listAndPay, listAndPay)
	for i := range q.Chain {
		q.Chain[i].Profile.Grants = grants(b, listAndPay)
	}
	q.Policies = thousand(b)
	q.Target = &mayfly.Target{Name: "bank", Kind: "mcp", Labels: []string{"money"}, Facts: []mayfly.Fact{{Name: "amount", Type: mayfly.FactDecimal}, {Name: "vendor", Type: mayfly.FactString}}}
	q.Seen = []string{"internal", "untrusted"}
	b.ReportAllocs()
	for b.Loop() {
		if permit, d, _ := policy.Decide(q); permit == nil {
			b.Fatal(d.Reason)
		}
	}
}

func BenchmarkRedecide1000(b *testing.B) {
	q := question(b, "mcp:bank:pay_invoice", `{"amount":120.5,"vendor":"acme"}`, listAndPay, listAndPay, listAndPay)
	q.Target = &mayfly.Target{Name: "bank", Kind: "mcp", Labels: []string{"money"}, Facts: []mayfly.Fact{{Name: "amount", Type: mayfly.FactDecimal}, {Name: "vendor", Type: mayfly.FactString}}}
	_, d, snap := policy.Decide(q)
	r := &policy.Recorded{Decision: d, Call: q.Call, Chain: q.Chain, Snapshot: snap, At: q.Now, SourceIP: q.SourceIP, TrustDomain: q.TrustDomain}
	s := thousand(b)
	b.ReportAllocs()
	for b.Loop() {
		if v, _, _ := policy.Redecide(r, s); v != mayfly.Allow {
			b.Fatal(v)
		}
	}
}

func BenchmarkParse1000(b *testing.B) {
	for b.Loop() {
		thousand(b)
	}
}
