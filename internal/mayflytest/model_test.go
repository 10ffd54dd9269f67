package mayflytest_test

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/authority"
	"github.com/mayfly-id/mayfly/internal/mayflytest"
	"github.com/mayfly-id/mayfly/internal/mayflytest/model"
)

// The world that the model and the real system are both told of.
var (
	modelTools  = []string{"list", "read", model.Send, model.Pay}
	modelLabels = map[string]string{"read": model.Untrusted, model.Send: model.Egress}
	// Of the amounts some are over the limit that asks humans.
	modelAmounts  = []int{1, 40, 150, 210, 400}
	modelProfiles = []model.Profile{
		{Name: "free", Humans: true, Grants: []model.Grant{{Tool: "*"}}, To: []string{"free", "wide", "tight"}, Depth: 3},
		{Name: "wide", Humans: true, To: []string{"wide", "tight"}, Depth: 2, Grants: []model.Grant{
			{Tool: "list"}, {Tool: "read", Rate: 3, Per: 1000}, {Tool: model.Send, Calls: 4},
			{Tool: model.Pay, Max: 500, Calls: 6, Sum: 900, Rate: 4, Per: 2000},
		}},
		{Name: "tight", Grants: []model.Grant{
			{Tool: "list", Rate: 2, Per: 1000}, {Tool: "read"}, {Tool: model.Pay, Max: 250, Sum: 420},
		}},
	}
	modelHumans = []model.Human{
		{Name: "alice", Groups: []string{"accounts-payable", model.Finance}, Root: true}, {Name: "fay", Groups: []string{model.Finance}},
		{Name: "sam", Groups: []string{model.Security}}, {Name: "bo", Groups: []string{model.Finance, model.Security}},
		{Name: "eve", Groups: []string{"accounts-payable"}},
	}
)

const modelPolicies = `
@id("no-egress")
forbid (principal, action == Mayfly::Action::"use", resource)
when { context.labels.contains("egress") && context.seen.contains("untrusted") };

@id("large") @approval("finance")
forbid (principal, action == Mayfly::Action::"use", resource == Mayfly::Tool::"bank/pay")
when { context.arguments has amount && context.arguments.amount.greaterThan(decimal("200.0")) };

@id("giving-send") @approval("security")
forbid (principal, action == Mayfly::Action::"delegate", resource == Mayfly::Tool::"bank/send");
`

func modelBundle(t testing.TB) func(*authority.Bundle) {
	return func(b *authority.Bundle) {
		bank := b.Targets["bank"]
		bank.Tools = map[string]mayfly.Tool{model.Pay: {Facts: []mayfly.Fact{{Name: "amount", Type: mayfly.FactDecimal}}}}
		for tool, label := range modelLabels {
			bank.Tools[tool] = mayfly.Tool{Labels: []string{label}}
		}
		b.Profiles = map[string]*mayfly.Profile{}
		for _, p := range modelProfiles {
			made := &mayfly.Profile{
				Name: p.Name, Owner: "o@example.org", Class: mayfly.Ephemeral, Risk: mayfly.RiskLow, Authority: mayfly.AuthorityProfile,
				Attest: []mayfly.AttestRule{{Source: &mayfly.SourceRule{Source: "cluster"}}}, KeyOptional: true,
				Grants: realGrants(t, p.Grants), Lifetime: mayfly.Lifetime{Idle: time.Hour, Default: time.Hour, Max: time.Hour},
				Delegation: mayfly.DelegationRule{Depth: p.Depth, Children: 100, To: p.To},
			}
			if p.Humans {
				made.Delegators = []mayfly.DelegatorRule{{Human: &mayfly.HumanRule{}}}
			}
			b.Profiles[p.Name] = made
		}
		for _, p := range modelProfiles {
			for _, to := range p.To {
				b.Profiles[to].Delegators = append(b.Profiles[to].Delegators, mayfly.DelegatorRule{Agent: p.Name})
			}
		}
	}
}

// object is a grant of the model as a grant of the system.
func object(g model.Grant) string {
	if !g.Limited() {
		return "mcp:bank:" + g.Tool
	}
	o := members{"type": "mayfly_grant", "grant": "mcp:bank:" + g.Tool}
	if g.Max > 0 {
		o["where"] = members{"amount": members{"max": g.Max}}
	}
	budget := members{}
	if g.Calls > 0 {
		budget["calls"] = g.Calls
	}
	if g.Sum > 0 {
		budget["sum"] = members{"amount": g.Sum}
	}
	if g.Rate > 0 {
		budget["rate"] = members{"calls": g.Rate, "per": (time.Duration(g.Per) * time.Millisecond).String()}
	}
	if len(budget) > 0 {
		o["budget"] = budget
	}
	return string(toJSON(o))
}

func realGrants(t testing.TB, grants []model.Grant) []mayfly.Grant {
	texts := make([]string, len(grants))
	for i, g := range grants {
		texts[i] = object(g)
	}
	return mayflytest.Grants(t, texts...)
}

// asked is grants as a token request says them.
func asked(grants []model.Grant) (scope, details string) {
	var short, long []string
	for _, g := range grants {
		if g.Limited() {
			long = append(long, object(g))
		} else {
			short = append(short, object(g))
		}
	}
	if len(long) > 0 {
		details = "[" + strings.Join(long, ",") + "]"
	}
	return strings.Join(short, " "), details
}

// run is one sequence: one tree or several, in the model and in the system.
type run struct {
	t     *rapid.T
	sys   *modelled
	world *model.World
	tasks []*seat
	asked []*request
	told  map[string]int // how often each answer was given
}

// seat is one task on both sides.
type seat struct {
	model  *model.Task
	token  string
	id     mayfly.TaskID
	tokens []limitedToken
}

// limitedToken is a token for the target alone, and what it carries.
type limitedToken struct {
	text   string
	grants []model.Grant
}

// request is one approval on both sides, and what asked for it.
type request struct {
	model *model.Approval
	id    string
	again func()
}

// modelled is a system that runs on a clock of its own, which stands still
// between steps.
type modelled struct {
	direct
	ahead *atomic.Int64
}

func newModelled(t *testing.T, dsn string) *modelled {
	start, ahead := time.Now(), new(atomic.Int64)
	now := func() time.Time { return start.Add(time.Duration(ahead.Load())) }
	s := mayflytest.New(t, mayflytest.Options{
		DSN: dsn, Change: modelBundle(t), Policies: map[string]string{"model.cedar": modelPolicies},
		Wall: now, Boot: func() time.Duration { return time.Duration(ahead.Load()) },
	})
	s.IDP.Now = now
	return &modelled{direct{s}, ahead}
}

// pass lets time go by, on both sides.
func (r *run) pass(ms int) {
	r.world.Now += ms
	r.sys.ahead.Add(int64(ms) * int64(time.Millisecond))
	mayflytest.Eventually(r.sys.T, 10*time.Second, "the node confirms the epoch after a jump of the clock", func() bool {
		return r.sys.Authority.Ready(r.t.Context()) == nil
	})
}

// answerOf reads a refusal of the system as the model says it.
func answerOf(err error) (model.Answer, string) {
	if err == nil {
		return model.Answer{Verdict: "allow"}, ""
	}
	e := mayfly.AsError(err)
	a := model.Answer{Verdict: "deny", Term: string(e.Term)}
	if e.Next != nil && e.Next.Approval != "" {
		a.Verdict = "ask"
		return a, e.Next.Approval
	}
	return a, ""
}

// same compares one answer, and which approval it is about.
func (r *run) same(what string, got error, want model.Answer, about *model.Approval, again func()) {
	r.t.Helper()
	has, id := answerOf(got)
	verb, _, _ := strings.Cut(what, " ")
	r.told[strings.TrimSpace(verb+": "+has.Verdict+" "+has.Term)]++
	if has != want {
		r.t.Fatalf("%s: the system says %+v (%v), the model %+v", what, has, got, want)
	}
	if want.Verdict != "ask" {
		return
	}
	for _, q := range r.asked {
		if (q.id == id) != (q.model == about) {
			r.t.Fatalf("%s: it is about another approval than the model's", what)
		}
		if q.id == id {
			return
		}
	}
	r.asked = append(r.asked, &request{about, id, again})
}

// usually is true in most draws.
func (r *run) usually(what string) bool { return rapid.IntRange(0, 5).Draw(r.t, what) > 0 }

// toolsOf are the tools that some grant is about.
func toolsOf(grants []model.Grant) []string {
	var tools []string
	for _, g := range grants {
		if g.Tool == "*" {
			return modelTools
		}
		tools = append(tools, g.Tool)
	}
	return tools
}

// drawTool draws a tool, rather one that grants are about.
func (r *run) drawTool(grants []model.Grant) string {
	tools := modelTools
	if mine := toolsOf(grants); len(mine) > 0 && r.usually("a tool it has") {
		tools = mine
	}
	return rapid.SampledFrom(tools).Draw(r.t, "tool")
}

// drawGrants draws what is asked for, no tool twice, and rather what is there to
// be had.
func (r *run) drawGrants(most int, ceiling []model.Grant) []model.Grant {
	var grants []model.Grant
	for range rapid.IntRange(1, most).Draw(r.t, "number of grants") {
		g := model.Grant{Tool: r.drawTool(ceiling)}
		if len(grants) == 0 && rapid.IntRange(0, 7).Draw(r.t, "every tool") == 0 {
			g.Tool = "*"
		}
		if slices.ContainsFunc(grants, func(have model.Grant) bool { return have.Tool == g.Tool }) {
			continue
		}
		limit := func(name string, most int, to *int) {
			if rapid.IntRange(0, 2).Draw(r.t, "limits "+name) == 0 {
				*to = rapid.IntRange(1, most).Draw(r.t, name)
			}
		}
		if rapid.IntRange(0, 2).Draw(r.t, "limited") == 0 {
			limit("calls", 3, &g.Calls)
			if g.Tool == model.Pay {
				limit("max", 5, &g.Max)
				limit("sum", 5, &g.Sum)
				g.Max, g.Sum = g.Max*100, g.Sum*150
			}
			if limit("rate", 3, &g.Rate); g.Rate > 0 {
				g.Per = rapid.SampledFrom([]int{1000, 2000, 3000}).Draw(r.t, "per")
			}
		}
		grants = append(grants, g)
	}
	return grants
}

// seat draws a task, rather one that lives.
func (r *run) seat() *seat {
	live := slices.DeleteFunc(slices.Clone(r.tasks), func(s *seat) bool { return !s.model.Live() })
	if len(live) == 0 || !r.usually("a live task") {
		live = r.tasks
	}
	return rapid.SampledFrom(live).Draw(r.t, "task")
}

func (r *run) drawOpening(parent *seat) {
	profile := rapid.SampledFrom(modelProfiles).Draw(r.t, "profile")
	ceiling := profile.Grants
	if parent != nil {
		ceiling = parent.model.Grants
		if to := parent.model.Profile.To; len(to) > 0 && r.usually("a profile it delegates to") {
			profile.Name = rapid.SampledFrom(to).Draw(r.t, "profile")
		}
	}
	r.open(parent, profile.Name, r.drawGrants(3, ceiling))
}

func (r *run) open(parent *seat, profile string, grants []model.Grant) {
	var above *model.Task
	f := authority.ExchangeRequest{Profile: profile, Purpose: "p"}
	if parent != nil {
		above, f.SubjectToken, f.SubjectTokenType = parent.model, parent.token, authority.TypeAccessToken
	} else {
		f.SubjectToken, f.SubjectTokenType = r.sys.Human("alice"), authority.TypeJWT
	}
	f.ActorToken, f.ActorTokenType = r.sys.Evidence("agent"), authority.TypeJWT
	f.Scope, f.AuthorizationDetails = asked(grants)
	task, approval, want := r.world.Open(above, profile, grants)
	got, err := r.sys.Authority.Exchange(r.t.Context(), f)
	r.same(fmt.Sprintf("open %s %v", profile, grants), err, want, approval, func() { r.open(parent, profile, grants) })
	if err == nil {
		r.tasks = append(r.tasks, &seat{model: task, token: got.AccessToken, id: got.Task})
	}
}

func (r *run) widen(s *seat, grants []model.Grant) {
	approval, want := r.world.Widen(s.model, grants)
	_, err := r.sys.Authority.Widen(r.t.Context(), bearer(s.token), string(s.id), realGrants(r.sys.T, grants))
	r.same(fmt.Sprintf("widen by %v", grants), err, want, approval, func() { r.widen(s, grants) })
}

// limit gets a token for the target alone, with all that the task has.
func (r *run) limit(s *seat) {
	got, err := r.sys.Authority.Exchange(r.t.Context(), authority.ExchangeRequest{
		SubjectToken: s.token, SubjectTokenType: authority.TypeAccessToken, Resources: []string{r.sys.Issuer + "/mcp/bank"},
	})
	if err == nil {
		s.tokens = append(s.tokens, limitedToken{got.AccessToken, s.model.Grants})
	} else if a, _ := answerOf(err); a.Term != "liveness" {
		r.t.Fatalf("a token for the target: %v", err)
	}
}

func (r *run) drawCall(s *seat) {
	tool, amount := r.drawTool(s.model.Grants), 0
	if tool == model.Pay {
		amount = rapid.SampledFrom(modelAmounts).Draw(r.t, "amount")
	}
	token := limitedToken{text: s.token}
	if len(s.tokens) > 0 && rapid.Bool().Draw(r.t, "by a token for the target") {
		token = rapid.SampledFrom(s.tokens).Draw(r.t, "token")
	}
	r.call(s, token, tool, amount)
}

func (r *run) call(s *seat, token limitedToken, tool string, amount int) {
	audience, arguments := r.sys.Issuer, `{}`
	if token.grants != nil {
		audience += "/mcp/bank"
	}
	if amount > 0 {
		arguments = fmt.Sprintf(`{"amount":%d}`, amount)
	}
	spent, approval, want := r.world.Call(s.model, token.grants, tool, amount)
	ad, err := r.sys.callAt(r.t.Context(), audience, token.text, tool, arguments)
	r.same(fmt.Sprintf("call %s %d", tool, amount), err, want, approval, func() { r.call(s, token, tool, amount) })
	if err != nil {
		return
	}
	if rapid.IntRange(0, 4).Draw(r.t, "nothing was sent") > 0 {
		ad.Done(authority.Outcome{Name: "answered", Status: 200})
		return
	}
	ad.Done(authority.Outcome{Name: "not-sent"})
	r.world.Return(spent)
	mayflytest.Eventually(r.sys.T, 10*time.Second, "the outcome is written", func() bool {
		open, err := r.sys.DB.AnyOpenCall(r.t.Context(), s.id)
		return err == nil && !open
	})
}

func (r *run) answer() {
	q := r.asked[len(r.asked)-1]
	if !r.usually("the newest approval") {
		q = rapid.SampledFrom(r.asked).Draw(r.t, "approval")
	}
	h := rapid.SampledFrom(modelHumans).Draw(r.t, "human")
	p := bearer(r.sys.Approver(h.Name, h.Groups...))
	var err error
	var want bool
	if rapid.IntRange(0, 5).Draw(r.t, "no") > 0 {
		want = q.model.Approve(h)
		_, err = r.sys.Authority.Approve(r.t.Context(), p, q.id, "")
	} else {
		want = q.model.Deny(h)
		_, err = r.sys.Authority.Deny(r.t.Context(), p, q.id, "")
	}
	if (err == nil) != want {
		r.t.Fatalf("%s answers: the system says %v, the model %t", h.Name, err, want)
	}
}

func (r *run) step() {
	ctx := r.t.Context()
	if len(r.tasks) == 0 {
		r.drawOpening(nil)
		return
	}
	kinds := []string{"call", "call", "call", "call", "call", "call", "call", "child", "child", "narrow", "widen", "limit", "pass", "end"}
	if len(r.tasks) < 2 {
		kinds = append(kinds, "root")
	}
	if len(r.asked) > 0 {
		kinds = append(kinds, "answer", "answer", "answer", "answer", "again", "again", "again")
	}
	switch rapid.SampledFrom(kinds).Draw(r.t, "step") {
	case "root":
		r.drawOpening(nil)
	case "child":
		r.drawOpening(r.seat())
	case "limit":
		r.limit(r.seat())
	case "answer":
		r.answer()
	case "again":
		rapid.SampledFrom(r.asked).Draw(r.t, "approval").again()
	case "pass":
		r.pass(rapid.SampledFrom([]int{300, 999, 1000, 1001}).Draw(r.t, "milliseconds"))
	case "narrow":
		s := r.seat()
		grants := r.drawGrants(2, s.model.Grants)
		want := r.world.Narrow(s.model, grants)
		_, err := r.sys.Authority.Narrow(ctx, bearer(s.token), string(s.id), realGrants(r.sys.T, grants))
		r.same(fmt.Sprintf("narrow to %v", grants), err, want, nil, nil)
	case "widen":
		s := r.seat()
		r.widen(s, r.drawGrants(2, s.model.Profile.Grants))
	case "end":
		s := rapid.SampledFrom(r.tasks).Draw(r.t, "task")
		r.world.End(s.model)
		if _, err := r.sys.Authority.Revoke(ctx, operator, string(s.id)); err != nil {
			r.t.Fatal(err)
		}
	default:
		// Calls of one task after the other, so that budgets are spent.
		s := r.seat()
		for range rapid.IntRange(1, 3).Draw(r.t, "calls") {
			r.drawCall(s)
		}
	}
	r.pass(1)
}

// The real system, on each engine, answers every step of random sequences as the
// model does: which verdict, and by which term.
func TestTheSystemDecidesAsTheModelDoes(t *testing.T) {
	// Several systems at once, since most of the time is spent waiting for disks.
	const systems = 4
	sequences := 2000
	if os.Getenv("MAYFLY_SOAK") != "" {
		sequences = 100_000
	}
	checks := flag.Lookup("rapid.checks")
	usual := checks.Value.String()
	if err := checks.Value.Set(fmt.Sprint(sequences / systems)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { checks.Value.Set(usual) })
	mayflytest.OnEachEngine(t, func(t *testing.T, dsn string) {
		engine, _, _ := strings.Cut(dsn, "://")
		for n := range systems {
			t.Run(fmt.Sprint("system-", n), func(t *testing.T) {
				t.Parallel()
				told := map[string]int{}
				sys := newModelled(t, map[string]func(testing.TB) string{"sqlite": mayflytest.SQLite, "postgres": mayflytest.Postgres}[engine](t))
				rapid.Check(t, func(t *rapid.T) {
					r := run{t: t, sys: sys, told: told, world: &model.World{Labels: modelLabels, Large: 200, Profiles: map[string]*model.Profile{}}}
					for i := range modelProfiles {
						r.world.Profiles[modelProfiles[i].Name] = &modelProfiles[i]
					}
					for range rapid.IntRange(2, 12).Draw(t, "steps") {
						r.step()
					}
				})
				t.Logf("%d sequences: %v", sequences/systems, told)
			})
		}
	})
}
