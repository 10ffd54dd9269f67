package policy_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/policy"
)

// use asks whether a task of three links may list invoices under policies.
func use(t testing.TB, text string, change ...func(*policy.Question)) (allowed bool, d mayfly.Decision) {
	t.Helper()
	q := question(t, "mcp:bank:list_invoices", `{}`, everything, everything, everything)
	q.Policies = policies(t, text)
	for _, c := range change {
		c(q)
	}
	permit, d, _ := policy.Decide(q)
	return permit != nil, d
}

func TestAnAgentStartsFromAPermit(t *testing.T) {
	for _, text := range []string{
		`permit(principal == Mayfly::Human::"bob", action, resource);`,
		`forbid(principal, action == Mayfly::Action::"delegate", resource);`,
		`forbid(principal is Mayfly::Human, action, resource);`,
		`forbid(principal, action, resource in Mayfly::Target::"github");`,
	} {
		if ok, d := use(t, text); !ok {
			t.Errorf("%s\nrefused: %s: %s", text, d.Term, d.Reason)
		}
	}
}

func TestForbidsSeeTheWholeWorld(t *testing.T) {
	for _, text := range []string{
		`forbid(principal, action, resource);`,
		`forbid(principal is Mayfly::Agent, action == Mayfly::Action::"use", resource);`,
		`forbid(principal in Mayfly::Profile::"leaf", action, resource);`,
		`forbid(principal, action, resource == Mayfly::Tool::"bank/list_invoices");`,
		`forbid(principal, action, resource in Mayfly::Target::"bank");`,
		`forbid(principal, action, resource is Mayfly::Tool) when { resource.target == "bank" && resource.name == "list_invoices" };`,
		`forbid(principal is Mayfly::Agent, action, resource) when { principal.profile == "leaf" && principal.verified && principal.task like "task_*" };`,
		`forbid(principal, action, resource) when { context.purpose like "*acme*" };`,
		`forbid(principal, action, resource) when { context.depth == 2 };`,
		`forbid(principal, action, resource) when { context.risk == "medium" };`,
		`forbid(principal, action, resource) when { context.time == datetime("2026-05-06T07:08:09Z") };`,
		`forbid(principal, action, resource) when { context.time.toTime() > duration("7h") };`,
		`forbid(principal, action, resource) when { context has source_ip && context.source_ip.isInRange(ip("10.0.0.0/8")) };`,
		`forbid(principal, action, resource) when { context.chain.root == "alice@example.org" };`,
		`forbid(principal, action, resource) when { context.chain has human && context.chain.human in Mayfly::Group::"accounts-payable" };`,
		`forbid(principal, action, resource) when { context.chain.profiles.contains(Mayfly::Profile::"middle") };`,
		`forbid(principal, action, resource) when { context.chain.profiles.containsAll([Mayfly::Profile::"root", Mayfly::Profile::"leaf"]) };`,
		`forbid(principal, action, resource) when { context.chain has human && context.chain.human.source == "corp" };`,
		`forbid(principal, action, resource) when { context.chain has human && context.chain.human.hasTag("team") && context.chain.human.getTag("team") == "ap" };`,
	} {
		if ok, d := use(t, text); ok || d.Term != mayfly.TermPolicy || !slices.Equal(d.Policies, []string{"p.cedar:1"}) {
			t.Errorf("%s\nallowed %v, %+v", text, ok, d)
		}
	}
	if ok, d := use(t, `forbid(principal, action, resource) when { context.chain has service || context has source_ip };`,
		func(q *policy.Question) { q.SourceIP = "" }); !ok {
		t.Errorf("no service and no address: %s", d.Reason)
	}
}

func TestAddressesReadWithAndWithoutPort(t *testing.T) {
	for _, s := range []string{"10.1.2.3", "10.1.2.3:4567", "::ffff:10.1.2.3", "[::ffff:10.1.2.3]:99"} {
		if ok, _ := use(t, `forbid(principal, action, resource) when { context has source_ip && context.source_ip.isInRange(ip("10.0.0.0/8")) };`,
			func(q *policy.Question) { q.SourceIP = s }); ok {
			t.Errorf("%s is not in 10.0.0.0/8", s)
		}
	}
	if ok, d := use(t, `forbid(principal, action, resource) unless { context has source_ip };`,
		func(q *policy.Question) { q.SourceIP = "@" }); ok || d.Term != mayfly.TermPolicy {
		t.Errorf("what is no address was read as one: %+v", d)
	}
}

func TestRoutesAreResources(t *testing.T) {
	route := func(q *policy.Question) { q.Call = call(t, "http:orders:GET:/v1/orders/7", ``) }
	for _, text := range []string{
		`forbid(principal, action, resource == Mayfly::Route::"orders/GET:/v1/orders/7");`,
		`forbid(principal, action, resource in Mayfly::Target::"orders");`,
		`forbid(principal, action, resource is Mayfly::Route) when { resource.method == "GET" && resource.path like "/v1/*" && resource.target == "orders" };`,
	} {
		if ok, d := use(t, text, route); ok || d.Term != mayfly.TermPolicy {
			t.Errorf("%s\nallowed %v, %+v", text, ok, d)
		}
	}
}

// TestAPolicyThatErrsRefuses: Cedar skips it, which would make a mistake in a
// forbid an allow.
func TestAPolicyThatErrsRefuses(t *testing.T) {
	const overflows = `9223372036854775807 + context.depth == 1`
	for _, text := range []string{
		`@id("broken") forbid(principal, action, resource) when { ` + overflows + ` };`,
		`@id("broken") permit(principal, action, resource) when { ` + overflows + ` };`,
		`@id("broken") @approval("finance") forbid(principal, action, resource) when { ` + overflows + ` };`,
		`@id("broken") forbid(principal, action, resource) when { context.depth * 9223372036854775807 > 3 };`,
		`permit(principal, action, resource); @id("broken") forbid(principal, action, resource) unless { ` + overflows + ` };`,
		`@id("firm") forbid(principal, action, resource); @id("broken") forbid(principal, action, resource) unless { ` + overflows + ` };`,
	} {
		ok, d := use(t, text)
		if ok || d.Term != mayfly.TermPolicy || !slices.Equal(d.Policies, []string{"broken"}) || !strings.Contains(d.Reason, "broken") {
			t.Errorf("%s\nallowed %v, %+v", text, ok, d)
		}
	}
}

func TestTheRootIsAskedWhereAProfileSaysPolicy(t *testing.T) {
	asked := func(i int) func(*policy.Question) {
		return func(q *policy.Question) { q.Chain[i].Profile.Authority = mayfly.AuthorityPolicy }
	}
	service := func(q *policy.Question) {
		for _, l := range q.Chain {
			l.Task.Root = mayfly.Subject{Kind: mayfly.Service, ID: "service:ci/build", Source: "ci", Claims: map[string]string{"repository": "acme/x"}}
		}
	}
	const (
		permitted = `@id("ap") permit(principal in Mayfly::Group::"accounts-payable", action == Mayfly::Action::"use", resource in Mayfly::Target::"bank");`
		forbidden = permitted + `@id("not-alice") forbid(principal == Mayfly::Human::"alice@example.org", action, resource);`
	)
	for _, c := range []struct {
		name, text string
		change     []func(*policy.Question)
		term       mayfly.Term
		policies   []string
	}{
		{"nobody says policy", forbidden, nil, "", nil},
		{"the acting profile does", permitted, []func(*policy.Question){asked(2)}, "", []string{"ap"}},
		{"one above does", permitted, []func(*policy.Question){asked(0)}, "", []string{"ap"}},
		{"no permit", `permit(principal is Mayfly::Agent, action, resource);`, []func(*policy.Question){asked(0)}, mayfly.TermDelegator, nil},
		{"a permit for something else", strings.Replace(permitted, "bank", "github", 1), []func(*policy.Question){asked(1)}, mayfly.TermDelegator, nil},
		{"a forbid", forbidden, []func(*policy.Question){asked(1)}, mayfly.TermDelegator, []string{"not-alice"}},
		{"a permit that errs", permitted + `@id("broken") permit(principal is Mayfly::Human, action, resource) when { 9223372036854775807 + context.depth == 1 };`, []func(*policy.Question){asked(1)}, mayfly.TermDelegator, []string{"broken"}},
		{"a service without a permit", permitted, []func(*policy.Question){asked(1), service}, mayfly.TermDelegator, nil},
		{"a service with one", `@id("ci") permit(principal == Mayfly::Service::"service:ci/build", action, resource) when { principal.source == "ci" && context.chain has service };`, []func(*policy.Question){asked(1), service}, "", []string{"ci"}},
	} {
		ok, d := use(t, c.text, c.change...)
		if ok != (c.term == "") || d.Term != c.term || !slices.Equal(d.Policies, c.policies) {
			t.Errorf("%s: allowed %v, %+v; want term %q by %v", c.name, ok, d, c.term, c.policies)
		}
	}
}

// amounts is a schema with some facts.
var amounts = policy.Schema{Facts: map[string]mayfly.FactType{
	"amount": mayfly.FactDecimal, "vendor": mayfly.FactString, "count": mayfly.FactLong, "urgent": mayfly.FactBool,
	"tags": mayfly.FactStrings, "/to/country": mayfly.FactString,
}}

func TestAPolicyThatDoesNotFitTheSchemaIsRefusedWithItsLine(t *testing.T) {
	const (
		comment = "// context.labels here is a comment\npermit(principal, action, resource);\n\n@id(\"x\")\n"
		anyHead = comment + "forbid(principal, action, resource)\nwhen {\n  // labels, arguments\n  "
		useHead = comment + "forbid(principal is Mayfly::Agent, action == Mayfly::Action::\"use\", resource)\nwhen {\n  // amount\n  "
	)
	for _, c := range []struct{ head, expression, says string }{
		// Only calls have these.
		{anyHead, `context.labels.contains("write")`, `p.cedar:8: the policy does not fit the schema: attribute ` + "`labels`"},
		{anyHead, `context["seen"].contains("untrusted")`, `action == Mayfly::Action::"use"`},
		{anyHead, `context.depth > 1 || context.arguments has amount`, "p.cedar:8: "},
		// A missing attribute could be read.
		{useHead, `context.arguments.amount.greaterThan(decimal("2.0"))`, "p.cedar:8: the policy does not fit the schema: unable to guarantee safety"},
		{useHead, `context.arguments has vendor && context.arguments.count > 1`, "unable to guarantee safety"},
		{useHead, `context.source_ip.isLoopback()`, "p.cedar:8: "},
		{useHead, `context.chain.human in Mayfly::Group::"x"`, "p.cedar:8: "},
		{useHead, `Mayfly::Profile::"root".owner == "x"`, "p.cedar:8: the policy reads owner of an entity that need not be there"},
		{useHead, `{"a": Mayfly::Profile::"root"}.a.owner == "x"`, "need not be there"},
		{useHead, `(if context.depth > 1 then Mayfly::Profile::"a" else Mayfly::Profile::"b").risk == "low"`, "need not be there"},
		{useHead, `context.chain has human && context.chain.human.getTag("team") == "x"`, "p.cedar:"},
		// Typing errors, of which some could never apply.
		{useHead, `context.arguments has amuont && true`, `p.cedar:8: the policy asks for the argument "amuont"`},
		{useHead, `context has sorce_ip`, `p.cedar:8: the policy asks whether context has "sorce_ip"`},
		{useHead, `context.chain has humen`, `p.cedar:8: the policy asks whether chain has "humen"`},
		{useHead, `principal has verifeid`, `p.cedar:8: `},
		{useHead, `{"c": context}.c has lables`, `p.cedar:8: `},
		{useHead, `principal.verifeid`, "p.cedar:8: "},
		{useHead, `resource.path == "/"`, "p.cedar:8: "},
		{useHead, `context.depht == 1`, "p.cedar:8: "},
		{useHead, `principal in Mayfly::Profil::"x"`, "p.cedar:"},
		{useHead, `principal is Mayfly::Agnet`, "p.cedar:"},
		// Types.
		{useHead, `context.depth == "1"`, "p.cedar:"},
		{useHead, `context.purpose < 3`, "p.cedar:"},
		{useHead, `context.arguments has amount && context.arguments.amount > 3`, "p.cedar:"},
		{useHead, `context.arguments has amount && context.arguments.amount.greaterThan(decimal("1.23456"))`, "p.cedar:"},
		{useHead, `context.labels.contains(3)`, "p.cedar:"},
		{useHead, `context.depth`, "p.cedar:"},
	} {
		_, err := policy.Parse(map[string][]byte{"p.cedar": []byte(c.head + c.expression + "\n};\n")}, amounts)
		if mayfly.KindOf(err) != mayfly.Invalid || !strings.HasPrefix(err.Error(), "p.cedar:") || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want Invalid saying %q", c.expression, err, c.says)
		}
	}
	for _, expression := range []string{
		`context.arguments has amount && context.arguments.amount.greaterThan(decimal("200.5"))`,
		`context.arguments has vendor && ["acme", "evil"].contains(context.arguments.vendor)`,
		`context.arguments has tags && context.arguments.tags.containsAny(["a"])`,
		`context.arguments has "/to/country" && context.arguments["/to/country"] != "DE"`,
		`context.arguments has urgent && context.arguments.urgent && !(context.arguments has count)`,
		`context.seen.contains("untrusted") && context.labels.contains("egress")`,
		`context.purpose == "labels seen arguments"`,
	} {
		if _, err := policy.Parse(map[string][]byte{"p.cedar": []byte(useHead + expression + "\n};\n")}, amounts); err != nil {
			t.Errorf("%s: %v", expression, err)
		}
	}
	for head, says := range map[string]string{
		`forbid(principal, action == Mayfly::Action::"usee", resource);`:                  "unrecognized action",
		`forbid(principal is Mayfly::Agent, action == Mayfly::Action::"read", resource);`: "applicable action",
		`forbid(principal in Mayfly::Target::"x", action, resource);`:                     "applicable action",
		`forbid(principal, action, resource == Tool::"x");`:                               "unrecognized entity type",
		`forbid(principal, action in [], resource);`:                                      "p.cedar:1",
		"@aproval(\"finance\")\nforbid(principal, action, resource);":                     "p.cedar:1: the annotation @aproval",
		"@approval(\"\")\nforbid(principal, action, resource);":                           "p.cedar:1: @approval names no group",
		"@approval\nforbid(principal, action, resource);":                                 "p.cedar:1: @approval names no group",
		"@id(\"x\")\n@approval(\"finance\")\npermit(principal, action, resource);":        "p.cedar:2: @approval stands on a permit",
		"@approval(\"@delegator\")\nforbid(principal, action, resource);":                 "must name a group",
		"\n@id(\"profile a, approval 1\")\nforbid(principal, action, resource);":          "p.cedar:2: @id begins",
	} {
		_, err := policy.Parse(map[string][]byte{"p.cedar": []byte(head)}, amounts)
		if mayfly.KindOf(err) != mayfly.Invalid || !strings.HasPrefix(err.Error(), "p.cedar:") || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want Invalid saying %q", head, err, says)
		}
	}
	if _, err := policy.Parse(nil, policy.Schema{Facts: map[string]mayfly.FactType{"x": "number"}}); mayfly.KindOf(err) != mayfly.Invalid {
		t.Errorf("a fact of an unknown type: %v", err)
	}
}

func TestTheSchemaIsCedar(t *testing.T) {
	text := amounts.Text()
	for _, says := range []string{"namespace Mayfly", "entity Agent in Profile", "tags String", `amount?: decimal`, `"/to/country"?: String`, "seen", "action approve"} {
		if !strings.Contains(text, says) {
			t.Errorf("the schema does not say %q:\n%s", says, text)
		}
	}
	if text != amounts.Text() || !strings.HasSuffix(text, "\n") {
		t.Error("the schema is not always the same text")
	}
}

func TestSyntaxErrorsNameFileAndLine(t *testing.T) {
	for text, says := range map[string]string{
		"permit(principal, action, resource);\nfirbid(principal, action, resource);": "p.cedar:2:",
		"permit(principal, action, resource)":                                        "p.cedar:1:",
		"permit(principal == ?principal, action, resource);":                         "p.cedar:1:",
		"permit(principal, action, resource) when { \"open };":                       "p.cedar:",
		"\x00": "p.cedar:",
		"permit(principal, action, resource) when { 99999999999999999999 == 1 };": "p.cedar:1:",
	} {
		_, err := policy.Parse(map[string][]byte{"p.cedar": []byte(text), "a.cedar": nil}, policy.Schema{})
		if mayfly.KindOf(err) != mayfly.Invalid || !strings.HasPrefix(err.Error(), says) || strings.Contains(err.Error(), "<input>") {
			t.Errorf("%q: %v, want Invalid beginning %q", text, err, says)
		}
	}
}

func TestPoliciesHaveUniqueIDs(t *testing.T) {
	const plain = `permit(principal, action, resource);`
	s, err := policy.Parse(map[string][]byte{"b.cedar": []byte(plain + plain + "\n\n" + plain), "a.cedar": []byte(`@id("mine") ` + plain)}, policy.Schema{})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := s.IDs(), []string{"mine", "b.cedar:1", "b.cedar:1#2", "b.cedar:3"}; !slices.Equal(got, want) {
		t.Errorf("ids %q, want %q", got, want)
	}
	_, err = policy.Parse(map[string][]byte{"b.cedar": []byte("\n@id(\"mine\") " + plain), "a.cedar": []byte(`@id("mine") ` + plain)}, policy.Schema{})
	if err == nil || !strings.HasPrefix(err.Error(), "b.cedar:2: ") || !strings.Contains(err.Error(), "a.cedar:1") {
		t.Errorf("an id given twice: %v", err)
	}
	if _, err = policy.Parse(map[string][]byte{"b.cedar": []byte(`@id("") ` + plain)}, policy.Schema{}); err == nil {
		t.Error("an empty id was taken")
	}
	if s, err := policy.Parse(nil, policy.Schema{}); err != nil || len(s.IDs()) != 0 {
		t.Errorf("no files: %v, %v", s, err)
	}
}

func FuzzParsePolicies(f *testing.F) {
	for _, s := range []string{
		`permit(principal, action, resource);`,
		`@id("x") forbid(principal in Mayfly::Profile::"p", action == Mayfly::Action::"use", resource) when { context.depth > 3 };`,
		`forbid(principal, action, resource) when { context.labels };`, `@approval("x") forbid(principal, action, resource);`, `permit(`, "\"\x00",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := policy.Parse(map[string][]byte{"p.cedar": text}, policy.Schema{})
		if err != nil {
			if mayfly.KindOf(err) != mayfly.Invalid || !strings.HasPrefix(err.Error(), "p.cedar:") {
				t.Fatalf("kind %v: %v", mayfly.KindOf(err), err)
			}
			return
		}
		q := question(t, "mcp:bank:list_invoices", `{}`, everything)
		q.Policies = s
		if permit, d, _ := policy.Decide(q); (permit != nil) != (d.Verdict == mayfly.Allow) || permit == nil && (d.Term == "" || d.Reason == "") {
			t.Fatalf("%v, %+v", permit, d)
		}
	})
}
