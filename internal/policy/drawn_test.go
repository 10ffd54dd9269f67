package policy

import (
	"flag"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cedar-policy/cedar-go"
	"pgregory.net/rapid"

	"github.com/mayfly-id/mayfly"
)

// The universe that questions and policies are drawn from. Its names look alike
// on purpose: one that is split or joined at the wrong place is another's.
var (
	drawnNow    = time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC)
	drawnHumans = []string{"alice", "alice/bob", "a,b", "al ice"}
	drawnGroups = []string{"a", "b", "a,b", "bank/pay", "alice"}
	drawnNames  = []string{"root", "middle", "leaf"}
	drawnLabels = []string{"untrusted", "egress", "un,trusted", "write"}
	drawnTools  = []string{"pay", "bank/pay", "pay:all", "list"}
	drawnKinds  = map[string]string{"bank": "mcp", "pay": "mcp", "orders": "http"}
	drawnPaths  = []string{"GET:/v1", "GET:/v1/a:b", "POST:/v1"}
)

// drawn draws one of a few.
func drawn[T any](t *rapid.T, label string, from ...T) T {
	return rapid.SampledFrom(from).Draw(t, label)
}

// rare is seldom true: small numbers are drawn most.
func rare(t *rapid.T, label string) bool { return rapid.IntRange(0, 99).Draw(t, label) > 90 }

func drawTarget(t *rapid.T) (kind, target, action string) {
	target = drawn(t, "target", "bank", "pay", "orders")
	kind = drawnKinds[target]
	if kind == "mcp" {
		return kind, target, drawn(t, "tool", drawnTools...)
	}
	return kind, target, drawn(t, "path", drawnPaths...)
}

// drawPolicy draws the text of one policy. It need not fit the schema: what it
// reads may be missing, or of another type, and then it errs.
func drawPolicy(t *rapid.T, n int) string {
	var b strings.Builder
	effect := drawn(t, "effect", "forbid", "forbid", "permit")
	fmt.Fprintf(&b, "@id(\"p%d\") ", n)
	if effect == "forbid" && rapid.Bool().Draw(t, "liftable") {
		fmt.Fprintf(&b, "@approval(%q) ", drawn(t, "by", drawnGroups...))
	}
	kind, target, action := drawTarget(t)
	resource := map[string]string{"mcp": "Mayfly::Tool", "http": "Mayfly::Route"}[kind] + fmt.Sprintf("::%q", target+"/"+action)
	who := drawn(t, "who", fmt.Sprintf("Mayfly::Human::%q", drawn(t, "human", drawnHumans...)), `Mayfly::Service::"service:ci/x"`,
		fmt.Sprintf("Mayfly::Group::%q", drawn(t, "group", drawnGroups...)), fmt.Sprintf("Mayfly::Profile::%q", drawn(t, "profile", drawnNames...)))
	kindOf := drawn(t, "type", "Mayfly::Human", "Mayfly::Service", "Mayfly::Agent")
	fmt.Fprintf(&b, "%s (principal%s, action%s, resource%s)", effect,
		drawn(t, "principal", "", "", " is "+kindOf, " == "+who, " in "+who, " is "+kindOf+" in "+who),
		drawn(t, "action", "", "", ` == Mayfly::Action::"use"`, ` in Mayfly::Action::"use"`, ` in [Mayfly::Action::"approve", Mayfly::Action::"use"]`, ` == Mayfly::Action::"delegate"`),
		drawn(t, "resource", "", "", " == "+resource, " in "+resource, fmt.Sprintf(" in Mayfly::Target::%q", target), " is Mayfly::Tool",
			fmt.Sprintf(" is Mayfly::Route in Mayfly::Target::%q", target)))
	for range rapid.IntRange(0, 2).Draw(t, "conditions") {
		fmt.Fprintf(&b, "\n%s { %s }", drawn(t, "when", "when", "when", "unless"), drawn(t, "condition",
			`context.depth > 0`, `context.depth + 9223372036854775807 > 0`, `context has depth && context.depth == 0`,
			`context.arguments.amount.greaterThan(decimal("100.0"))`, `context.arguments has amount && context.arguments.amount.lessThan(decimal("100.0"))`,
			`context has arguments && context["arguments"] has vendor && context.arguments.vendor == "acme"`, `context.arguments.vendor like "a*"`,
			`context.labels.contains("egress")`, `context.seen.contains("untrusted") && context.labels.contains("egress")`, `context.seen.containsAny(context.labels)`,
			`context.risk == "high"`, `context has source_ip && context.source_ip.isInRange(ip("10.0.0.0/8"))`, `context.source_ip.isLoopback()`,
			`context.time < datetime("2026-05-06T07:08:10Z")`, `context.purpose like "*invoice*"`,
			`context.chain.root == "alice"`, `context.chain has human && context.chain.human in Mayfly::Group::"a"`, `context.chain.human.source == "corp"`,
			`context.chain.human.hasTag("team") && context.chain.human.getTag("team") == "ap"`, `context.chain.profiles.contains(Mayfly::Profile::"root")`,
			`principal has verified && principal.verified`, `principal.verified`, `principal.source == "corp"`, `principal.getTag("team") == "ap"`, `principal.hasTag("team")`,
			`resource.target == "bank"`, `resource has name && resource.name == "pay"`, `resource.path like "/v1*"`, `resource in Mayfly::Target::"bank"`,
			`principal in Mayfly::Group::"a,b"`, `principal is Mayfly::Agent`, `Mayfly::Profile::"root".risk == "low"`, `Mayfly::Target::"bank".kind == "mcp"`,
			`context == {depth: 0}`, `if context has seen then context.seen.contains("write") else true`, `[context.risk, "x"].contains("low")`, `{a: context.depth}.a == 1`))
	}
	b.WriteString(";")
	return b.String()
}

// drawSet draws policies that no schema was asked about.
func drawSet(t *rapid.T) (*Set, string) {
	var b strings.Builder
	if !rare(t, "no permit") {
		b.WriteString("@id(\"any\") permit (principal, action, resource);\n")
	}
	for n := range rapid.IntRange(0, 6).Draw(t, "policies") {
		b.WriteString(drawPolicy(t, n) + "\n")
	}
	return unchecked(t, b.String()), b.String()
}

func unchecked(t rapid.TB, text string) *Set {
	list, err := cedar.NewPolicyListFromBytes("p.cedar", []byte(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	s := &Set{}
	for _, p := range list {
		e := entry{policy: p}
		if says, word := e.annotate(); says != "" {
			t.Fatalf("%s: %s in\n%s", word, says, text)
		}
		s.policies = append(s.policies, e)
	}
	s.index()
	return s
}

func drawSome(t *rapid.T, label string, from []string) []string {
	some := slices.Clone(from[:0])
	for _, s := range from {
		if rapid.Bool().Draw(t, label+" "+s) {
			some = append(some, s)
		}
	}
	return some
}

func drawRoot(t *rapid.T) mayfly.Subject {
	root := mayfly.Subject{Kind: mayfly.Human, ID: drawn(t, "root", drawnHumans...), Source: drawn(t, "source", "corp", "other")}
	if rare(t, "service") {
		root = mayfly.Subject{Kind: mayfly.Service, ID: "service:ci/x", Source: "ci"}
	}
	root.Groups = drawSome(t, "in", drawnGroups)
	if rapid.Bool().Draw(t, "claims") {
		root.Claims = map[string]string{"team": drawn(t, "team", "ap", "ar")}
	}
	return root
}

// drawGrants draws grants that cover most calls of the universe.
func drawGrants(t *rapid.T, label string) (grants []mayfly.Grant) {
	for _, short := range drawn(t, label, []string{"mcp:bank:*", "mcp:pay:*", "http:orders:*"}, []string{"mcp:bank:*", "http:orders:*"},
		[]string{"mcp:bank:pay", "http:orders:GET:/v1"}, []string{"mcp:bank:*", "http:orders:*", "mcp:pay:*"}, nil) {
		g, err := mayfly.ParseGrant(short)
		if err != nil {
			t.Fatal(err)
		}
		if rare(t, "budget") {
			g.Budget = mayfly.Budget{Calls: 10, Sum: []mayfly.SumLimit{{Argument: "amount", Max: 10_000_000}}}
		}
		grants = append(grants, g)
	}
	return grants
}

func drawProfile(t *rapid.T, name string) *mayfly.Profile {
	p := &mayfly.Profile{
		Name: name, Owner: "finance", Risk: drawn(t, "risk", mayfly.RiskLow, mayfly.RiskMedium, mayfly.RiskHigh),
		Authority: drawn(t, "authority", mayfly.AuthorityProfile, mayfly.AuthorityProfile, mayfly.AuthorityPolicy),
		Delegators: []mayfly.DelegatorRule{{Human: &mayfly.HumanRule{IDs: drawnHumans}}, {Service: &mayfly.SourceRule{Source: "ci"}},
			{Agent: "root"}, {Agent: "middle"}, {Agent: "leaf"}},
		Grants: drawGrants(t, "ceiling"),
	}
	if rapid.Bool().Draw(t, "rule") {
		rule := mayfly.ApprovalRule{ID: "profile " + name + ", approval 1", Group: drawn(t, "asks", drawnGroups...)}
		kind, target, action := drawTarget(t)
		rule.Calls = mayfly.Grant{Kind: kind, Target: target, Action: drawn(t, "of", "*", action)}
		p.Approvals = append(p.Approvals, rule)
	}
	return p
}

func drawChain(t *rapid.T) (chain []Link) {
	root := drawRoot(t)
	var above *mayfly.Task
	for i := range rapid.IntRange(1, 3).Draw(t, "chain") {
		task := &mayfly.Task{
			ID: mayfly.NewTaskID(drawnNow), Profile: drawnNames[i], Root: root, Depth: i, Grants: drawGrants(t, "granted"),
			Purpose:  mayfly.Purpose{Text: drawn(t, "purpose", "pay the invoice", "look")},
			Deadline: drawnNow.Add(time.Hour), Idle: time.Minute, IdleUntil: drawnNow.Add(time.Minute),
			Agent: mayfly.Evidence{Source: "cluster", Subject: "x", Verified: rapid.Bool().Draw(t, "verified")},
		}
		if above != nil {
			task.Parent = above.ID
		}
		if rare(t, "over") {
			task.Deadline = drawnNow
		}
		above = task
		link := Link{Task: task, Profile: drawProfile(t, drawnNames[i])}
		if rare(t, "gone") {
			link.Profile = nil
		}
		chain = append(chain, link)
	}
	return chain
}

func drawQuestion(t *rapid.T, s *Set) *Question {
	q := &Question{
		Decision: "dec_1", Bundle: "bundle", Now: drawnNow, TrustDomain: "example.org", Policies: s, Chain: drawChain(t),
		SourceIP: drawn(t, "ip", "", "10.1.2.3", "127.0.0.1:80", "rubbish"), Seen: drawSome(t, "seen", drawnLabels),
		Approved: drawSome(t, "approved", drawnGroups), TokenWhole: !rare(t, "part"),
	}
	if !q.TokenWhole {
		q.Token = drawGrants(t, "token")
	}
	kind, target, action := drawTarget(t)
	q.Call = mayfly.Call{Kind: kind, Target: target, Action: action, Digest: "digest"}
	args, err := mayfly.ParseArguments([]byte(drawn(t, "arguments", `{}`, `{"amount":120,"vendor":"acme"}`, `{"amount":50.25}`, `{"amount":"50"}`,
		`{"amount":1e30}`, `{"vendor":["acme"]}`, `{"amount":null,"vendor":""}`, `{"vendor":"acme"}`)))
	if err != nil {
		t.Fatal(err)
	}
	q.Call.Arguments = args
	if rare(t, "unread") {
		q.Call.Arguments, q.Call.NoArguments = mayfly.Arguments{}, true
	}
	if !rare(t, "no target") {
		q.Target = &mayfly.Target{Name: target, Kind: kind, Labels: drawSome(t, "label", drawnLabels),
			Facts: []mayfly.Fact{{Name: "amount", Type: mayfly.FactDecimal}, {Name: "vendor", Type: mayfly.FactString}}}
		if rare(t, "observe") {
			q.Target.ObserveUntil = drawnNow.Add(drawn(t, "until", -time.Second, 0, time.Hour))
		}
	}
	if kind == "mcp" && rare(t, "pinned") {
		q.Pin = &mayfly.Pin{Target: target, Tool: action, Hash: "pinned", Changed: drawn(t, "changed", "", "", "now")}
		q.Call.Definition = drawn(t, "definition", "", "pinned", "other")
	}
	return q
}

// plainRequest is a request to Cedar with every entity and all of the context.
func plainRequest(w *world, action cedar.EntityUID, principal being) (cedar.EntityMap, cedar.Request) {
	known, bare := w.known, w.bare
	defer func() { w.known, w.bare = known, bare }()
	w.known, w.bare = nil, false
	entities := cedar.EntityMap{}
	uids := []cedar.EntityUID{principal.uid, w.resource.uid, w.root.uid}
	uids = append(append(uids, principal.in...), w.resource.in...)
	for _, l := range w.chain {
		if l.Profile != nil {
			uids = append(uids, profileUID(l.Profile.Name))
		}
		if l.Task != nil {
			uids = append(uids, w.agent(l.Task).uid)
		}
	}
	for _, uid := range uids {
		if e, ok := w.entity(uid); ok {
			entities[uid] = e
		}
	}
	return entities, cedar.Request{Principal: principal.uid, Action: action, Resource: w.resource.uid, Context: w.record(partAll)}
}

// plain is what policies say to one request when Cedar is asked about each of
// them alone, with every entity and all of the context.
type plain struct {
	permits, forbids, firm, erred []string
	lifts                         []string // groups
}

func askPlain(t rapid.TB, s *Set, w *world, action cedar.EntityUID, principal being) (p plain) {
	entities, request := plainRequest(w, action, principal)
	for i := range s.policies {
		e := &s.policies[i]
		alone := cedar.NewPolicySet()
		alone.Add("it", e.policy)
		_, said := cedar.Authorize(alone, entities, request)
		switch {
		case len(said.Errors) > 0:
			p.erred = append(p.erred, e.id)
		case len(said.Reasons) == 0:
		case e.policy.Effect() == cedar.Permit:
			p.permits = append(p.permits, e.id)
		default:
			p.forbids = append(p.forbids, e.id)
			if e.approval == "" {
				p.firm = append(p.firm, e.id)
			} else {
				p.lifts = append(p.lifts, e.approval)
			}
		}
	}
	return p
}

// checks sets how many cases a test draws.
func checks(t *testing.T, n int) {
	t.Helper()
	f := flag.Lookup("rapid.checks")
	usual := f.Value.String()
	if err := f.Value.Set(strconv.Itoa(n)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Value.Set(usual) })
}
