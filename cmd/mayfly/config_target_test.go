package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-id/mayfly"
)

const richTargets = `  - name: bank
    kind: mcp
    url: https://bank.example/mcp
    credential: {header: Authorization, value: "Bearer ${file:bank.token}"}
    labels: [money]
    facts: [amount, memo]
    annotations: trusted
    tools:
      pay_invoice: {labels: [write, egress], facts: {vendor: string, /to/iban: string}, pin: "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}
      fetch_url: {labels: [untrusted]}
  - name: orders
    kind: http
    url: "http://127.0.0.1:8080"
    facts: {query.page: string}
    routes:
      - {action: "GET:/v1/orders/*", labels: [internal-data], facts: {query.page: string}}
      - {action: "*:/v1/refunds", facts: {total: decimal, tags: strings, urgent: bool, count: long}}
    observe: {until: 2099-01-31}
`

// richServer is goodServer with everything a target can say.
var richServer = goodServer[:strings.Index(goodServer, "  - name: bank")] + richTargets

const richProfile = `profile: invoice-agent
owner: finance-platform@example.org
delegators: [{human: {groups: [accounts-payable]}}]
attest: [{source: local}]
grants:
  - grant: mcp:bank:pay_invoice
    where: {amount: {max: 500.05}, vendor: {in: [acme]}, urgent: {equals: true}, reference: {prefix: "R-"}}
    budget: {calls: 10, sum: {amount: 2000.10, fee: 5}, rate: {calls: 5, per: 60s}}
  - http:orders:*
approvals:
  - {grant: mcp:bank:pay_invoice, where: {amount: {min: 200}}, group: finance-leads, usable: 5m}
  - {grant: "http:orders:POST:/v1/refunds", where: {reason: {in: [lost]}}, group: support-leads}
`

func TestATargetSaysWhatItIs(t *testing.T) {
	c, err := load(t, map[string]string{"mayfly.yaml": richServer, "profiles/invoice-agent.yaml": richProfile})
	if err != nil {
		t.Fatal(err)
	}
	show := func(facts []mayfly.Fact) string {
		var all []string
		for _, f := range facts {
			text := f.Name + " " + string(f.Type)
			if f.Soft {
				text += " soft"
			}
			all = append(all, text)
		}
		return strings.Join(all, ", ")
	}
	bank, orders := c.Targets["bank"], c.Targets["orders"]
	pay := mayfly.Call{Kind: "mcp", Target: "bank", Action: "pay_invoice"}
	for _, row := range []struct{ what, got, want string }{
		// A list takes its types from what else is known of the name; memo is left to the tool's schema.
		{"bank's facts", show(bank.Facts), "amount decimal, memo , fee decimal soft, reference string soft, urgent bool soft, vendor string soft"},
		{"orders' facts", show(orders.Facts), "query.page string, reason string soft"},
		{"pay's facts", show(bank.FactsOf(&pay, nil)), "/to/iban string, vendor string, amount decimal, memo , fee decimal soft, reference string soft, urgent bool soft"},
		{"pay's labels", fmt.Sprint(bank.LabelsOf(&pay, &mayfly.Pin{Labels: []string{"destructive"}})), "[destructive egress money write]"},
		{"refunds' facts", show(orders.Routes[1].Facts), "count long, tags strings, total decimal, urgent bool"},
		{"pin", bank.Tools["pay_invoice"].Pin, strings.Repeat("a", 43)},
		{"observed", orders.ObserveUntil.Format(time.RFC3339) + bank.ObserveUntil.String(), "2099-01-31T00:00:00Z0001-01-01 00:00:00 +0000 UTC"},
		{"schema", fmt.Sprint(c.Schema.Facts), fmt.Sprint(map[string]mayfly.FactType{
			"amount": "decimal", "fee": "decimal", "reference": "string", "urgent": "bool", "vendor": "string", "/to/iban": "string",
			"query.page": "string", "total": "decimal", "tags": "strings", "count": "long", "reason": "string",
		})},
	} {
		if row.got != row.want {
			t.Errorf("%s: %s\nwant %s", row.what, row.got, row.want)
		}
	}
	p := c.Profiles["invoice-agent"]
	want := mayfly.Budget{Calls: 10, Sum: []mayfly.SumLimit{{Argument: "amount", Max: 20_001_000}, {Argument: "fee", Max: 50_000}}, Rate: mayfly.Rate{Calls: 5, Per: time.Minute}}
	if !p.Grants[0].Budget.Equal(want) {
		t.Errorf("budget %+v, want %+v", p.Grants[0].Budget, want)
	}
	rule := p.Approvals[0]
	if len(p.Approvals) != 2 || rule.ID != "profile invoice-agent, approval 1" || rule.Group != "finance-leads" || rule.Usable != 5*time.Minute ||
		rule.Calls.Where.IsZero() || p.Approvals[1].Usable != 0 {
		t.Errorf("approvals %+v", p.Approvals)
	}
	if w := strings.Join(c.Warnings, "\n"); len(c.Warnings) != 2 || !strings.Contains(w, "orders: observed until 2099-01-31") || !strings.Contains(w, "the fact memo") {
		t.Errorf("warnings %q", c.Warnings)
	}
	if got := slices.Sorted(maps.Keys(c.PolicyFiles)); fmt.Sprint(got) != "[guard.cedar]" || string(c.Bundle(nil).PolicyFiles["guard.cedar"]) != goodPolicy {
		t.Errorf("policy files %v", got)
	}
}

func TestPoliciesReadWhatIsDeclared(t *testing.T) {
	files := func(condition string) map[string]string {
		return map[string]string{
			"mayfly.yaml": richServer, "profiles/invoice-agent.yaml": richProfile,
			"policies/guard.cedar": "forbid (principal, action == Mayfly::Action::\"use\", resource)\nwhen { " + condition + " };\n",
		}
	}
	for _, condition := range []string{
		`context.arguments has amount && context.arguments.amount.greaterThan(decimal("200.0"))`,
		`context.arguments has "/to/iban" && context.arguments["/to/iban"] like "DE*"`,
		`context.arguments has count && context.arguments.count > 3`,
		`context.arguments has tags && context.arguments.tags.contains("x")`,
		`context.seen.contains("untrusted") && context.labels.contains("egress")`,
	} {
		if _, err := load(t, files(condition)); err != nil {
			t.Errorf("%s: %v", condition, err)
		}
	}
	for condition, want := range map[string]string{
		`context.arguments.amount.greaterThan(decimal("200.0"))`:         "guard.cedar:2",
		`context.arguments has amount && context.arguments.amount > 200`: "guard.cedar:2",
		`context.arguments has memo && context.arguments.memo == "x"`:    "memo",
		`context.arguments has total && context.arguments.totl == 1`:     "totl",
	} {
		if _, err := load(t, files(condition)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", condition, err, want)
		}
	}
}

// TestOneNameHasOneType: what nobody declared is not worth an error, but policies
// do not see it until somebody does.
func TestOneNameHasOneType(t *testing.T) {
	second := strings.NewReplacer("profile: invoice-agent", "profile: second", "amount: {max: 500.05}", "amount: {prefix: EUR}", "sum: {amount: 2000.10, fee: 5}", "sum: {fee: 5}",
		"{amount: {min: 200}}", "{fee: {min: 200}}").Replace(richProfile)
	untyped := strings.Replace(richServer, "    facts: [amount, memo]\n", "", 1)
	c, err := load(t, map[string]string{"mayfly.yaml": untyped, "profiles/invoice-agent.yaml": richProfile, "profiles/second.yaml": second})
	if err != nil {
		t.Fatal(err)
	}
	if _, known := c.Schema.Facts["amount"]; known || slices.ContainsFunc(c.Targets["bank"].Facts, func(f mayfly.Fact) bool { return f.Name == "amount" }) {
		t.Errorf("policies read amount as %s", c.Schema.Facts["amount"])
	}
	if w := strings.Join(c.Warnings, "\n"); strings.Count(w, "the argument amount is decimal to profile invoice-agent and string to profile second") != 1 {
		t.Errorf("warnings %q", c.Warnings)
	}
	declared := strings.Replace(richServer, "facts: [amount, memo]", "facts: {amount: long}", 1)
	c, err = load(t, map[string]string{"mayfly.yaml": declared, "profiles/invoice-agent.yaml": richProfile, "profiles/second.yaml": second})
	if err != nil {
		t.Fatal(err)
	}
	if c.Schema.Facts["amount"] != mayfly.FactLong || c.Targets["bank"].Facts[0] != (mayfly.Fact{Name: "amount", Type: mayfly.FactLong}) {
		t.Errorf("amount is declared, and is %s and %+v", c.Schema.Facts["amount"], c.Targets["bank"].Facts)
	}
}

func TestAWrongTargetIsNamed(t *testing.T) {
	const server, profile = "mayfly.yaml", "profiles/invoice-agent.yaml"
	// Every row is about this target, on line 18 of the file.
	const last = `  - {name: orders, kind: http, url: "http://127.0.0.1:8080"}` + "\n"
	add := func(kind, key, want string) row {
		return row{server, last, last + "  - {name: x, kind: " + kind + ", url: \"http://127.0.0.1:1\", " + key + "}\n", want}
	}
	namesWhatIsWrong(t, []row{
		add("mcp", "lables: [a]", `mayfly.yaml:18:53: unknown key "lables" in targets[2]; did you mean "labels"?`),
		add("mcp", "fcats: [a]", `did you mean "facts"?`),
		add("mcp", "tool: {}", `did you mean "tools"?`),
		add("http", "route: []", `did you mean "routes"?`),
		add("mcp", "annotation: trusted", `did you mean "annotations"?`),
		add("mcp", "observed: {until: 2099-01-01}", `did you mean "observe"?`),
		add("mcp", "observe: {untill: 2099-01-01}", `unknown key "untill" in targets[2].observe; did you mean "until"?`),
		add("mcp", "tools: {pay: {label: [a]}}", `unknown key "label" in targets[2].tools.pay; did you mean "labels"?`),
		add("mcp", "tools: {pay: {pim: x}}", `did you mean "pin"?`),
		add("http", `routes: [{actoin: "GET:/"}]`, `unknown key "actoin" in targets[2].routes[0]; did you mean "action"?`),

		add("mcp", "labels: [Money]", `mayfly.yaml:18:62: targets[2].labels[0]: "Money" is not a label`),
		add("mcp", "labels: [a, a]", `targets[2].labels[1]: "a" is given twice`),
		add("mcp", "labels: money", "targets[2].labels must be a list, not text"),
		add("mcp", "tools: {pay: {labels: [-a]}}", "targets[2].tools.pay.labels[0]"),
		add("mcp", "facts: amount", "targets[2].facts must be a list or a mapping, not text"),
		add("mcp", "facts: [1]", "targets[2].facts[0] must be text, not a number"),
		add("mcp", "facts: [amount, amount]", `targets[2].facts[1]: "amount" is given twice`),
		add("mcp", `facts: {amount: long, /amount: long}`, `"amount" is given twice`),
		add("mcp", `facts: ["/a~2"]`, "neither the name of an argument nor a JSON Pointer"),
		add("mcp", "facts: {amount: float}", `mayfly.yaml:18:69: targets[2].facts.amount: "float" is not the type of a fact; there are string, decimal, long, bool and strings`),
		add("mcp", `facts: {amount: ""}`, "targets[2].facts.amount: has no type"),
		add("mcp", "facts: {amount: long}, tools: {pay: {facts: {amount: decimal}}}", "targets[2].tools.pay.facts.amount: is decimal here and long at"),
		add("http", "facts: [amount]", "targets[2].facts: must be a mapping such as {amount: decimal}"),
		add("http", `routes: [{action: "GET:/x", facts: [a]}]`, "targets[2].routes[0].facts: must be a mapping"),
		add("http", "tools: {pay: {}}", "targets[2].tools: is for kind mcp; write routes"),
		add("http", "annotations: trusted", "targets[2].annotations: is for kind mcp"),
		add("mcp", "annotations: yes", `"yes" is not known; write trusted`),
		add("mcp", `routes: [{action: "GET:/"}]`, "targets[2].routes: is for kind http; write tools"),
		add("http", "routes: [{labels: [a]}]", "targets[2].routes[0]: action is missing"),
		add("http", "routes: [{action: GET/x}]", `targets[2].routes[0].action: "GET/x" is not an action`),
		add("http", `routes: [{action: "GET:/x?y=1"}]`, "is not an action of an HTTP API"),
		add("mcp", `tools: {"pа": {}}`, "is not a tool's name"), // the second letter is Cyrillic
		add("mcp", "tools: {pay: {pin: abc}}", `targets[2].tools.pay.pin: "abc" is not the hash of a definition`),
		add("mcp", "observe: {until: soon}", `targets[2].observe.until: "soon" is not a day`),
		add("mcp", "observe: {}", "targets[2].observe: until is missing"),
		{server, "    kind: mcp\n", "    kind: mcp\n    observe: {until: 2099-01-01}\n", "targets[0].observe: the profile invoice-agent can reach this target and has risk: high"},

		{server, "sources:\n", "approvals: {}\nsources:\n", "mayfly.yaml:7:12: approvals: webhook is missing"},
		{server, "sources:\n", "approvals: {webook: {}}\nsources:\n", `unknown key "webook" in approvals; did you mean "webhook"?`},
		{server, "sources:\n", "approvals: {webhook: {url: \"http://hook.example\", secret: \"${file:bank.token}\"}}\nsources:\n", "approvals.webhook.url: \"http://hook.example\" is http"},
		{server, "sources:\n", "approvals: {webhook: {secret: \"${file:bank.token}\"}}\nsources:\n", "approvals.webhook: url is missing"},
		{server, "sources:\n", "approvals: {webhook: {url: \"https://hook.example\"}}\nsources:\n", "approvals.webhook: secret is missing"},
		{server, "sources:\n", "approvals: {webhook: {url: \"https://hook.example\", secret: hunter2}}\nsources:\n", "approvals.webhook.secret: holds the secret itself"},
		{server, "sources:\n", "approvals: {webhook: {url: \"https://hook.example\", secret: \"${file:bank.token}\"}}\nsources:\n", "approvals.webhook.secret: is shorter than 16 bytes"},

		{profile, "risk: high", "risk: high\napproval: []", `invoice-agent.yaml:17:1: unknown key "approval"; did you mean "approvals"?`},
		{profile, "risk: high", "risk: high\napprovals: [x]", "invoice-agent.yaml:17:13: approvals[0] must be a mapping, not text"},
		{profile, "risk: high", "risk: high\napprovals: [{grant: mcp:bank:pay_invoice, grup: x}]", `unknown key "grup" in approvals[0]; did you mean "group"?`},
		{profile, "risk: high", "risk: high\napprovals: [{group: x}]", "approvals[0]: grant is missing"},
		{profile, "risk: high", "risk: high\napprovals: [{grant: mcp:bank:pay_invoice}]", "approvals[0]: group is missing"},
		{profile, "risk: high", "risk: high\napprovals: [{grant: mcp:bank:pay_invoice, group: \"@delegator\"}]", `approvals[0].group: "@delegator" is not the name of a group`},
		{profile, "risk: high", "risk: high\napprovals: [{grant: mcp:bnak:pay_invoice, group: x}]", `approvals[0].grant: there is no target "bnak"; did you mean "bank"?`},
		{profile, "risk: high", "risk: high\napprovals: [{grant: pay, group: x}]", "approvals[0]: \"pay\" is not a grant"},
		{profile, "risk: high", "risk: high\napprovals: [{grant: mcp:bank:pay_invoice, group: x, budget: {calls: 1}}]", `unknown key "budget" in approvals[0]`},
		{profile, "risk: high", "risk: high\napprovals: [{grant: mcp:bank:pay_invoice, group: x, where: {amount: {less: 1}}}]", "approvals[0]: where: "},
		{profile, "risk: high", "risk: high\napprovals: [{grant: mcp:bank:pay_invoice, group: x, usable: soon}]", `approvals[0].usable: "soon" is not a duration`},
		{profile, "risk: high", "risk: high\napprovals: [{grant: mcp:bank:pay_invoice, group: x, usable: 11m}]", "approvals[0].usable: 11m must be whole seconds, from 1s to 10m0s"},
		{profile, "    budget: {calls: 10}", "    budget: {sums: {amount: 1}}", `grants[1]: a budget has no member "sums"`},
		{profile, "    budget: {calls: 10}", "    budget: {sum: {amount: -1}}", `invoice-agent.yaml:9:5: grants[1]: the sum of "amount" in a budget must be a number from 0`},
		{profile, "    budget: {calls: 10}", "    budget: {rate: {calls: 5, per: 60}}", "rate in a budget needs for per whole seconds"},
	})
}

func TestAWebhookIsTold(t *testing.T) {
	hook := "approvals: {webhook: {url: \"https://hook.example/mayfly\", secret: \"${file:hook.key}\"}}\n"
	c, err := load(t, map[string]string{"mayfly.yaml": goodServer + hook, "hook.key": "0123456789abcdef\n"})
	if err != nil {
		t.Fatal(err)
	}
	hooks := c.Bundle(nil).Webhooks
	if len(hooks) != 1 || hooks[0].URL != "https://hook.example/mayfly" || hooks[0].Secret.Reveal() != "0123456789abcdef" {
		t.Errorf("webhooks %v", hooks)
	}
	without, err := load(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(without.Webhooks) != 0 || c.Hash != without.Hash {
		t.Error("who is told of approvals changed what decides")
	}
}

func TestAnApprovalThatNothingMeetsWarns(t *testing.T) {
	with := func(rule string) []string {
		t.Helper()
		c, err := load(t, map[string]string{"profiles/invoice-agent.yaml": goodProfile + "approvals: [" + rule + "]\n"})
		if err != nil {
			t.Fatal(err)
		}
		return c.Warnings
	}
	if w := with("{grant: mcp:bank:pay_invoices, group: leads}"); len(w) != 1 || !strings.Contains(w[0], "approvals[0]: no grant of this profile allows mcp:bank:pay_invoices") {
		t.Errorf("a tool that no grant names: %q", w)
	}
	if w := with("{grant: \"mcp:bank:pay_*\", group: leads}"); len(w) != 0 {
		t.Errorf("a pattern that a grant fits: %q", w)
	}
}

func TestObservingThatIsOverWarns(t *testing.T) {
	over := strings.Replace(goodServer, `url: "http://127.0.0.1:8080"`, `url: "http://127.0.0.1:8080", observe: {until: "2020-01-31T12:00:00Z"}`, 1)
	c, err := load(t, map[string]string{"mayfly.yaml": over})
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Warnings) != 1 || !strings.Contains(c.Warnings[0], "target orders: observe is over since 2020-01-31T12:00:00Z") {
		t.Errorf("warnings %q", c.Warnings)
	}
}

func TestATargetThatLendsIsLoaded(t *testing.T) {
	const last = `  - {name: orders, kind: http, url: "http://127.0.0.1:8080"}` + "\n"
	lends := last + `  - {name: sales, kind: postgres, admin_dsn: "${file:sales.dsn}", labels: [money], roles: {reader: {grant: [sales_read]}}}` + "\n"
	c, err := load(t, map[string]string{
		"mayfly.yaml": strings.Replace(goodServer, last, lends, 1), "sales.dsn": "postgres://lender:hunter2@db.internal/sales\n",
	})
	if err != nil {
		t.Fatal(err)
	}
	sales := c.Targets["sales"]
	if sales.Postgres.AdminDSN.Reveal() != "postgres://lender:hunter2@db.internal/sales" || !slices.Equal(sales.Postgres.Roles["reader"].Grant, []string{"sales_read"}) ||
		!slices.Equal(sales.Labels, []string{"money"}) || c.Lenders["sales"] == nil || len(c.Lenders) != 1 {
		t.Errorf("%+v %+v", sales, c.Lenders)
	}
}

func TestAWrongTargetThatLendsIsNamed(t *testing.T) {
	const server, last = "mayfly.yaml", `  - {name: orders, kind: http, url: "http://127.0.0.1:8080"}` + "\n"
	const dsn, roles = `admin_dsn: "${file:bank.token}"`, "roles: {reader: {grant: [r]}}"
	add := func(keys, want string) row {
		return row{server, last, last + "  - {name: x, kind: postgres, " + keys + "}\n", want}
	}
	namesWhatIsWrong(t, []row{
		add(roles, "mayfly.yaml:18:5: targets[2]: admin_dsn is missing; name the secret"),
		add(`admin_dsn: "postgres://a:hunter2@h/d", `+roles, "targets[2].admin_dsn: holds the secret itself"),
		add(dsn, "targets[2]: roles is missing; say what is lent"),
		add(dsn+", roles: {}", "targets[2]: roles is missing"),
		add(dsn+", roles: {reader: {}}", "the role reader is a member of nothing"),
		add(dsn+", roles: {reader: {grants: [r]}}", `unknown key "grants" in targets[2].roles.reader; did you mean "grant"?`),
		add(dsn+`, roles: {"a b": {grant: [r]}}`, `targets[2].roles.a b: "a b" cannot stand in a grant`),
		add(dsn+`, roles: {reader: {grant: ["x\"; DROP ROLE y; --"]}}`, "is not the name of a role that can be lent"),
		add(dsn+", roles: {reader: {grant: [pg_read_all_data]}}", "none that begins with pg_ or mf_"),
		add(dsn+", "+roles+`, url: "http://127.0.0.1:1"`, "targets[2].url: is for kind http or mcp"),
		add(dsn+", "+roles+", tools: {pay: {}}", "targets[2].tools: is for kind http or mcp"),
		add(dsn+", "+roles+", facts: {amount: long}", "targets[2].facts: is for kind http or mcp"),
		{server, last, last + `  - {name: x, kind: http, url: "http://127.0.0.1:1", ` + dsn + "}\n", "targets[2].admin_dsn: is for kind postgres"},
		{server, last, last + `  - {name: x, kind: mcp, url: "http://127.0.0.1:1", ` + roles + "}\n", "targets[2].roles: is for kind postgres"},
		{server, last, last + "  - {name: x, kind: postgress, " + dsn + ", " + roles + "}\n", `kind "postgress" is not one this version knows; known: http, mcp, postgres`},
	})
}
