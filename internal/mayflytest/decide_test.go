package mayflytest_test

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/attest"
	"github.com/mayfly-id/mayfly/internal/authority"
	"github.com/mayfly-id/mayfly/internal/mayflytest"
)

// direct uses a system's authority in process, where thousands of calls are made
// at once or one after the other. Its tokens are bound to no key.
type direct struct{ *mayflytest.System }

// operator is the owner of the admin socket.
var operator = authority.Presented{Peer: &attest.Peer{}}

func bearer(token string) authority.Presented {
	return authority.Presented{Authorization: []string{"Bearer " + token}, Source: "127.0.0.1"}
}

// callAt decides on one call of a tool of the bank.
func (d direct) callAt(ctx context.Context, audience, token, tool, arguments string) (*authority.Admission, error) {
	session, err := d.Authority.Authenticate(ctx, bearer(token), audience)
	if err != nil {
		return nil, err
	}
	args, err := mayfly.ParseArguments([]byte(arguments))
	if err != nil {
		return nil, err
	}
	return d.Authority.Admit(ctx, session, mayfly.Call{Kind: "mcp", Target: "bank", Action: tool, Arguments: args})
}

// call is callAt with the token that stands for the whole task.
func (d direct) call(ctx context.Context, token, tool, arguments string) (*authority.Admission, error) {
	return d.callAt(ctx, d.Issuer, token, tool, arguments)
}

// open opens a task of a profile for alice, with grants in long or short form.
func (d direct) open(t testing.TB, profile string, grants ...string) authority.TokenAnswer {
	t.Helper()
	return d.exchange(t, authority.ExchangeRequest{
		SubjectToken: d.Human("alice"), SubjectTokenType: authority.TypeJWT, Profile: profile,
	}, grants)
}

// below opens a task below another.
func (d direct) below(t testing.TB, parent authority.TokenAnswer, profile string, grants ...string) authority.TokenAnswer {
	t.Helper()
	return d.exchange(t, authority.ExchangeRequest{
		SubjectToken: parent.AccessToken, SubjectTokenType: authority.TypeAccessToken, Profile: profile,
	}, grants)
}

func (d direct) exchange(t testing.TB, r authority.ExchangeRequest, grants []string) authority.TokenAnswer {
	t.Helper()
	var short, long []string
	for _, g := range grants {
		if strings.HasPrefix(g, "{") {
			long = append(long, g)
		} else {
			short = append(short, g)
		}
	}
	if r.Scope = strings.Join(short, " "); len(long) > 0 {
		r.AuthorizationDetails = "[" + strings.Join(long, ",") + "]"
	}
	r.ActorToken, r.ActorTokenType, r.Purpose = d.Evidence("agent"), authority.TypeJWT, "to be tested"
	got, err := d.Authority.Exchange(context.Background(), r)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// said is the verdict on a call, with the term where it was refused; what was
// not decided, because the node or its store had too much to do, is "unavailable".
func said(err error) string {
	if err != nil && mayfly.KindOf(err) == mayfly.Unavailable {
		return "unavailable"
	}
	a, _ := answerOf(err)
	if a.Verdict == "deny" && a.Term == "" {
		return "deny: " + err.Error()
	}
	return strings.TrimSpace(a.Verdict + " " + a.Term)
}

// asks is the approval that a refused call waits for.
func asks(t testing.TB, err error) string {
	t.Helper()
	_, id := answerOf(err)
	if id == "" {
		t.Fatalf("no approval was asked for: %v", err)
	}
	return id
}

// racing is a system of one node on SQLite and of two on PostgreSQL, with a
// profile that delegates to itself and may do anything at the bank.
func racing(t *testing.T, dsn string, o mayflytest.Options) []direct {
	t.Helper()
	o = racingOptions(o)
	o.DSN = dsn
	nodes := []direct{{mayflytest.New(t, o)}}
	if strings.HasPrefix(dsn, "postgres") {
		o.Beside, o.DSN = nodes[0].System, ""
		nodes = append(nodes, direct{mayflytest.New(t, o)})
	}
	return nodes
}

// all runs n racers at once and counts what they are told.
func all(n int, racer func(i int) error) map[string]int {
	var wg sync.WaitGroup
	var mu sync.Mutex
	told := map[string]int{}
	start := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-start
			err := racer(i)
			mu.Lock()
			defer mu.Unlock()
			told[said(err)]++
		})
	}
	close(start)
	wg.Wait()
	return told
}

const racers = 1000

// A parent and its child race for the last of what the parent may spend, on
// every node there is.
func TestTheLastUnitOfABudgetIsSpentOnce(t *testing.T) {
	mayflytest.OnEachEngine(t, func(t *testing.T, dsn string) {
		nodes := racing(t, dsn, mayflytest.Options{})
		for name, budget := range map[string]string{
			"calls": `{"calls":3}`, "sum": `{"sum":{"amount":30}}`, "rate": `{"rate":{"calls":3,"per":"1h"}}`,
			"all of them": `{"calls":3,"sum":{"amount":30},"rate":{"calls":3,"per":"1h"}}`,
		} {
			t.Run(name, func(t *testing.T) {
				grant := `{"type":"mayfly_grant","grant":"mcp:bank:pay_invoice","budget":` + budget + `}`
				parent := nodes[0].open(t, "open", grant)
				child := nodes[0].below(t, parent, "open", grant)
				for _, token := range []string{parent.AccessToken, child.AccessToken} {
					ad, err := nodes[0].call(t.Context(), token, "pay_invoice", `{"amount":10}`)
					if err != nil {
						t.Fatal(err)
					}
					ad.Done(authority.Outcome{Name: "answered"})
				}
				told := all(racers, func(i int) error {
					token := parent.AccessToken
					if i%2 == 0 {
						token = child.AccessToken
					}
					ad, err := nodes[i/2%len(nodes)].call(t.Context(), token, "pay_invoice", `{"amount":10}`)
					if err == nil {
						ad.Done(authority.Outcome{Name: "answered"})
					}
					return err
				})
				if told["allow"] != 1 || told["deny budget"]+told["unavailable"] != racers-1 {
					t.Errorf("the racers are told %v", told)
				}
			})
		}
	})
}

// What no target saw is given back: after a race in which nothing is ever sent,
// all of the budget is there, but for the rate.
func TestWhatWasNotSentIsGivenBackInARace(t *testing.T) {
	mayflytest.OnEachEngine(t, func(t *testing.T, dsn string) {
		nodes := racing(t, dsn, mayflytest.Options{})
		task := nodes[0].open(t, "open",
			`{"type":"mayfly_grant","grant":"mcp:bank:pay_invoice","budget":{"calls":5,"sum":{"amount":50}}}`,
			`{"type":"mayfly_grant","grant":"mcp:bank:list_invoices","budget":{"rate":{"calls":5,"per":"1h"}}}`)
		told := all(200, func(i int) error {
			ad, err := nodes[i%len(nodes)].call(t.Context(), task.AccessToken, "pay_invoice", `{"amount":10}`)
			if err == nil {
				ad.Done(authority.Outcome{Name: "not-sent"})
			}
			return err
		})
		if told["allow"]+told["deny budget"]+told["unavailable"] != 200 || told["allow"] < 5 {
			t.Errorf("the racers are told %v", told)
		}
		nodes[0].Eventually("every outcome is written", func() bool {
			open, err := nodes[0].DB.AnyOpenCall(t.Context(), task.Task)
			return err == nil && !open
		})
		v, err := nodes[0].Authority.Task(t.Context(), operator, string(task.Task))
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range v.Budget {
			if b.Used != 0 || len(b.Sums) > 0 && b.Sums[0].Used != "0" {
				t.Errorf("%+v is not given back", b)
			}
		}
		for i := range 6 {
			ad, err := nodes[0].call(t.Context(), task.AccessToken, "list_invoices", `{}`)
			if want := i < 5; (err == nil) != want {
				t.Fatalf("call %d of the rate: %v", i, err)
			}
			if err == nil {
				ad.Done(authority.Outcome{Name: "not-sent"}) // and counts all the same
			}
		}
	})
}

// Policies for the tests that follow.
const (
	largeAsks = `
@id("large") @approval("finance")
forbid (principal, action == Mayfly::Action::"use", resource == Mayfly::Tool::"bank/pay_invoice")
when { context.arguments has amount && context.arguments.amount.greaterThan(decimal("200.0")) };
`
	nothingLeaves = `
@id("nothing-leaves")
forbid (principal, action == Mayfly::Action::"use", resource)
when { context.seen.contains("untrusted") && context.labels.contains("egress") };
`
	// Adding to the greatest number overflows, and an overflow is an error.
	errs = `
@id("errs")
forbid (principal, action == Mayfly::Action::"use", resource == Mayfly::Tool::"bank/list_invoices")
when { context.depth + 9223372036854775807 + 1 == 0 };
`
)

// amounts declares the fact that the policies are about.
func amounts(b *authority.Bundle) {
	b.Targets["bank"].Tools = map[string]mayfly.Tool{"pay_invoice": {Facts: []mayfly.Fact{{Name: "amount", Type: mayfly.FactDecimal}}}}
}

// S-38, and H1: what goes wrong with a policy refuses, by its name.
func TestS38APolicyThatErrsDenies(t *testing.T) {
	d := direct{mayflytest.New(t, mayflytest.Options{Policies: map[string]string{"errs.cedar": errs}})}
	task := d.open(t, "open")
	_, err := d.call(t.Context(), task.AccessToken, "list_invoices", `{}`)
	if said(err) != "deny policy" {
		t.Fatalf("an erring forbid: %v", err)
	}
	x, err := d.Authority.Explain(t.Context(), operator, mayfly.AsError(err).Decision)
	if err != nil || len(x.Policies) != 1 || x.Policies[0].ID != "errs" || !strings.Contains(x.Policies[0].Text, "9223372036854775807") {
		t.Errorf("it is explained as %v %+v", err, x)
	}
	if ad, err := d.call(t.Context(), task.AccessToken, "pay_invoice", `{"amount":1}`); err != nil {
		t.Errorf("what the policy is not about: %v", err)
	} else {
		ad.Done(authority.Outcome{Name: "answered"})
	}
}

// A decision made under rules that were replaced before it was acted on is void,
// whatever the new ones say; the next one is made by the new ones.
func TestS38ADecisionUnderReplacedRulesIsNotActedOn(t *testing.T) {
	o := mayflytest.Options{}
	d := direct{mayflytest.New(t, o)}
	task := d.open(t, "open")
	ad, err := d.call(t.Context(), task.AccessToken, "list_invoices", `{}`)
	if err != nil {
		t.Fatal(err)
	}
	if err := ad.Fresh(t.Context()); err != nil {
		t.Fatalf("before the reload: %v", err)
	}
	o.Policies = map[string]string{"no.cedar": `@id("no") forbid (principal, action, resource);`}
	next := d.Bundle(o)
	next.Hash = "next-bundle"
	if err := d.Authority.Reload(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	if err := ad.Fresh(t.Context()); mayfly.KindOf(err) != mayfly.Unavailable {
		t.Errorf("after the reload: %v", err)
	}
	ad.Done(authority.Outcome{Name: "not-sent"})
	if _, err := d.call(t.Context(), task.AccessToken, "list_invoices", `{}`); said(err) != "deny policy" {
		t.Errorf("the next call: %v", err)
	}
	loaded := d.Records("bundle.loaded")
	if len(loaded) != 1 || !strings.Contains(string(loaded[0].Body), "next-bundle") {
		t.Errorf("the reload is recorded as %v", loaded)
	}
}

// S-96: there is no cache of decisions to poison, but there are keys: of counts,
// of approvals, of pins. Ids that hold delimiters, and values of other types,
// are never taken for one another, and a decision is the same when asked again
// and on a node that has seen nothing yet.
func TestS96ValuesThatLookAlikeAreDecidedApart(t *testing.T) {
	mayflytest.OnEachEngine(t, func(t *testing.T, dsn string) {
		nodes := racing(t, dsn, mayflytest.Options{Change: amounts, Policies: map[string]string{"large.cedar": largeAsks}})
		task := nodes[0].open(t, "open", "mcp:bank:*")
		alike := []string{
			`{"invoice":"a:b","vendor":"c","amount":300}`, `{"invoice":"a","vendor":"b:c","amount":300}`, `{"invoice":"a,b","vendor":"c","amount":300}`,
			`{"invoice":["a","b"],"vendor":"c","amount":300}`, `{"invoice":"[a b]","vendor":"c","amount":300}`, `{"invoice":1,"amount":300}`,
			`{"invoice":"1","amount":300}`, `{"invoice":true,"amount":300}`, `{"invoice":"true","amount":300}`, `{"invoice":" a","amount":300}`,
			`{"invoice":"a ","amount":300}`, `{"invoice":"a/b","amount":300}`, `{"invoice":{"a":"b"},"amount":300}`, `{"amount":300}`, `{"amount":300.0001}`,
		}
		seen := map[string]string{}
		for _, arguments := range alike {
			task := nodes[0].open(t, "open", "mcp:bank:*")
			var first string
			for i := range 2 * len(nodes) {
				_, err := nodes[i%len(nodes)].call(t.Context(), task.AccessToken, "pay_invoice", arguments)
				id := asks(t, err)
				if first == "" {
					first = id
				}
				if id != first {
					t.Errorf("%s asks for two approvals", arguments)
				}
			}
			if other := seen[first]; other != "" {
				t.Errorf("%s and %s share an approval", arguments, other)
			}
			seen[first] = arguments
		}
		// One approval lifts its own call and none that looks like it.
		_, err := nodes[0].call(t.Context(), task.AccessToken, "pay_invoice", alike[0])
		id := asks(t, err)
		if _, err := nodes[0].Authority.Approve(t.Context(), bearer(nodes[0].Approver("fay", "finance")), id, ""); err != nil {
			t.Fatal(err)
		}
		for _, arguments := range alike[1:] {
			if _, err := nodes[len(nodes)-1].call(t.Context(), task.AccessToken, "pay_invoice", arguments); err == nil {
				t.Errorf("the approval of %s lifts %s", alike[0], arguments)
			}
		}
		// The same call written otherwise is the same call.
		ad, err := nodes[len(nodes)-1].call(t.Context(), task.AccessToken, "pay_invoice", ` { "amount" : 300 , "vendor":"c", "invoice":"\u0061:b" }`)
		if err != nil {
			t.Fatalf("the approved call, written otherwise: %v", err)
		}
		ad.Done(authority.Outcome{Name: "answered"})
	})
}

// S-97: what was recorded is decided again as it was; other policies flip
// exactly what they are about.
func TestS97RecordedDecisionsAreDecidedAgain(t *testing.T) {
	mayflytest.OnEachEngine(t, func(t *testing.T, dsn string) {
		policies := map[string]string{"large.cedar": largeAsks, "leaves.cedar": nothingLeaves, "errs.cedar": errs}
		d := direct{mayflytest.New(t, mayflytest.Options{DSN: dsn, Policies: policies, Change: func(b *authority.Bundle) {
			amounts(b)
			b.Targets["bank"].Tools["fetch"] = mayfly.Tool{Labels: []string{"untrusted"}}
			b.Targets["bank"].Tools["send"] = mayfly.Tool{Labels: []string{"egress"}}
		}})}
		const each = 100
		sends := 0
		for range each {
			task := d.open(t, "open", "mcp:bank:*")
			for _, c := range [][2]string{
				{"send", `{}`}, {"fetch", `{}`}, {"send", `{}`}, {"list_invoices", `{}`}, {"pay_invoice", `{"amount":100}`}, {"pay_invoice", `{"amount":300.5}`},
				{"pay_invoice", `{"amount":"many"}`}, {"delete_vendor", `{}`}, {"pay_invoice", `{"amount":150}`},
			} {
				if ad, err := d.call(t.Context(), task.AccessToken, c[0], c[1]); err == nil {
					ad.Done(authority.Outcome{Name: "answered"})
					if c[0] == "send" {
						sends++
					}
				}
			}
			if _, err := d.Authority.Revoke(t.Context(), operator, string(task.Task)); err != nil {
				t.Fatal(err)
			}
			d.call(t.Context(), task.AccessToken, "send", `{}`) // refused before there is a decision on it
		}
		if sends != each {
			t.Fatalf("%d sends were allowed", sends)
		}
		d.Records() // waits until every record has its position
		replay := func(change map[string]string) authority.ReplayAnswer {
			t.Helper()
			files := map[string][]byte{}
			for name, text := range policies {
				files[name] = []byte(text)
			}
			for name, text := range change {
				if files[name] = []byte(text); text == "" {
					delete(files, name)
				}
			}
			got, err := d.Authority.Replay(t.Context(), operator, files, time.Time{})
			if err != nil {
				t.Fatal(err)
			}
			return got
		}
		same := replay(nil)
		if same.Flips != 0 || same.Unknown != 0 || same.Decisions+same.Kept < 9*each {
			t.Errorf("under the same policies: %+v", same)
		}
		for _, c := range []struct {
			name      string
			change    map[string]string
			flips     int
			was, then string
			grant     string
		}{
			{"a lower limit", map[string]string{"large.cedar": strings.Replace(largeAsks, "200.0", "120.0", 1)}, each, "allow", "needs-approval approval", "mcp:bank:pay_invoice"},
			{"a higher limit", map[string]string{"large.cedar": strings.Replace(largeAsks, "200.0", "400.0", 1)}, each, "needs-approval approval", "allow", "mcp:bank:pay_invoice"},
			{"a firm one", map[string]string{"large.cedar": strings.Replace(largeAsks, `@approval("finance")`, "", 1)}, each, "needs-approval approval", "deny policy", "mcp:bank:pay_invoice"},
			{"no rule about leaving", map[string]string{"leaves.cedar": ""}, each, "deny policy", "allow", "mcp:bank:send"},
			{"no error", map[string]string{"errs.cedar": ""}, each, "deny policy", "allow", "mcp:bank:list_invoices"},
			{"one more rule", map[string]string{"new.cedar": `@id("new") forbid (principal, action, resource == Mayfly::Tool::"bank/delete_vendor");`}, each, "allow", "deny policy", "mcp:bank:delete_vendor"},
		} {
			got := replay(c.change)
			if got.Flips != int64(c.flips) {
				t.Errorf("%s flips %d decisions, want %d", c.name, got.Flips, c.flips)
			}
			for _, f := range got.Changed {
				was, then := strings.TrimSpace(string(f.Was)+" "+string(f.WasTerm)), strings.TrimSpace(string(f.Now)+" "+string(f.Term))
				if was != c.was || then != c.then || f.Grant != c.grant {
					t.Errorf("%s flips %+v", c.name, f)
					break
				}
			}
		}
	})
}

// evaluate asks the decision point about the task of have.
func (n node) evaluate(have held, path string, body any) mayflytest.Answer {
	n.T.Helper()
	return n.send(have, http.MethodPost, "/access/v1/"+path, toJSON(body))
}

// questionOf is an evaluation of one call of the bank by the task of have.
func (n node) questionOf(have held, tool string, arguments any) members {
	return members{
		"subject":  members{"type": "agent", "id": mayfly.AgentID("example.org", "open", have.task)},
		"action":   members{"name": "use"},
		"resource": members{"type": "tool", "id": "bank/" + tool},
		"context":  members{"arguments": arguments},
	}
}

// decision is the answer to one evaluation.
func decision(t testing.TB, a mayflytest.Answer) bool {
	t.Helper()
	var got struct {
		Decision *bool `json:"decision"`
	}
	if err := json.Unmarshal(a.Body, &got); err != nil || a.Status != http.StatusOK || got.Decision == nil {
		t.Fatalf("no decision: %s", a)
	}
	return *got.Decision
}

// S-37: a question that is not whole is no question, one about what does not
// exist is answered no, and what the standard does not name is left unread.
func TestS37AQuestionIsReadAsTheStandardSays(t *testing.T) {
	t.Parallel()
	n := node{mayflytest.New(t, asking()), time.Now}
	have := n.open(n.opening("profile", "open"), newHolder(t))
	whole := func() members { return n.questionOf(have, "list_invoices", members{}) }
	if a := n.evaluate(have, "evaluation", whole()); !decision(t, a) {
		t.Fatalf("an allowed call: %s", a)
	}
	for name, change := range map[string]func(members){
		"another action":      func(q members) { q["action"] = members{"name": "delete"} },
		"another tool's kind": func(q members) { q["resource"] = members{"type": "record", "id": "bank/list_invoices"} },
		"no such target":      func(q members) { q["resource"] = members{"type": "tool", "id": "vault/open"} },
		"no such task": func(q members) {
			q["subject"] = members{"type": "agent", "id": mayfly.AgentID("example.org", "open", mayfly.NewTaskID(time.Now()))}
		},
		"a pattern": func(q members) { q["resource"] = members{"type": "tool", "id": "bank/*"} },
	} {
		q := whole()
		change(q)
		if a := n.evaluate(have, "evaluation", q); decision(t, a) {
			t.Errorf("%s: %s", name, a)
		}
	}
	for _, member := range []string{"subject", "action", "resource"} {
		q := whole()
		delete(q, member)
		if a := n.evaluate(have, "evaluation", q); a.Status != http.StatusBadRequest {
			t.Errorf("without %s: %s", member, a)
		}
		q[member] = "text"
		if a := n.evaluate(have, "evaluation", q); a.Status != http.StatusBadRequest {
			t.Errorf("with %s a text: %s", member, a)
		}
	}
	q := whole()
	q["extra"], q["subject"].(members)["extra"] = members{"decision": true}, true
	if a := n.evaluate(have, "evaluation", q); !decision(t, a) {
		t.Errorf("with members nobody knows: %s", a)
	}
}

// S-40: a batch that is to stop at the first no does, and nothing after it is
// decided.
func TestS40ABatchStopsAtTheFirstNo(t *testing.T) {
	t.Parallel()
	n := node{mayflytest.New(t, asking()), time.Now}
	have := n.open(n.opening("profile", "open", "scope", "mcp:bank:list_invoices mcp:bank:delete_vendor"), newHolder(t))
	item := func(tool string) members { return members{"resource": members{"type": "tool", "id": "bank/" + tool}} }
	q := n.questionOf(have, "list_invoices", members{})
	q["evaluations"] = []members{item("list_invoices"), item("pay_invoice"), item("list_invoices"), item("delete_vendor"), {}}
	batch := func(semantic string) (answers []bool) {
		t.Helper()
		if q["options"] = (members{"evaluations_semantic": semantic}); semantic == "" {
			delete(q, "options")
		}
		a := n.evaluate(have, "evaluations", q)
		var got struct {
			Evaluations []struct{ Decision *bool } `json:"evaluations"`
		}
		if err := json.Unmarshal(a.Body, &got); err != nil || a.Status != http.StatusOK {
			t.Fatalf("%s: %s", semantic, a)
		}
		for _, one := range got.Evaluations {
			if one.Decision == nil {
				t.Fatalf("%s: %s", semantic, a)
			}
			answers = append(answers, *one.Decision)
		}
		return answers
	}
	for semantic, want := range map[string][]bool{
		"": {true, false, true, true, true}, "execute_all": {true, false, true, true, true},
		"deny_on_first_deny": {true, false}, "permit_on_first_permit": {true},
	} {
		before := len(n.Records("call.decided"))
		if got := batch(semantic); !slices.Equal(got, want) {
			t.Errorf("%q answers %v", semantic, got)
		}
		if made := len(n.Records("call.decided")) - before; made != len(want) {
			t.Errorf("%q records %d decisions", semantic, made)
		}
	}
}

// S-41: a policy file that cannot be read at a reload changes nothing: the rules
// in force stay, under the same hash, and the operator is told.
func TestS41AReloadThatCannotBeReadChangesNothing(t *testing.T) {
	t.Parallel()
	i := mayflytest.Install(t, mayflytest.Build(t), mayflytest.SQLite(t))
	file := filepath.Join(i.Dir, "policies", "no.cedar")
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const no = `@id("no-reading") forbid (principal, action == Mayfly::Action::"use", resource == Mayfly::Route::"orders/GET:/v1/secret");`
	write(no)
	p := i.Serve()
	s, err := i.Client().Open(t.Context(), i.Opening("http:orders:GET:/v1/*"), nil)
	if err != nil {
		t.Fatal(err)
	}
	check := func(when string, secret int) {
		t.Helper()
		if got := i.Get(s, "/v1/orders").Status; got != http.StatusOK {
			t.Errorf("%s, what is allowed is answered with %d", when, got)
		}
		if got := i.Get(s, "/v1/secret").Status; got != secret {
			t.Errorf("%s, what was forbidden is answered with %d", when, got)
		}
	}
	check("before", http.StatusForbidden)
	for name, text := range map[string]string{
		"a typing error": "forbid (principal, action, resource) when {", "a missing attribute": `forbid (principal, action, resource) when { context.arguments.amount == 1 };`,
		"an unknown type": `forbid (principal, action, resource == Mayfly::Tol::"x");`,
	} {
		said := len(i.Said.String())
		write(no + "\n" + text)
		if err := p.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		i.Eventually("the operator is told where the error is", func() bool { return strings.Contains(i.Said.String()[said:], "no.cedar:2") })
		check(name, http.StatusForbidden)
	}
	reloads := func() (n int) {
		t.Helper()
		events, _, err := i.Operator().Feed(t.Context(), -1, 500)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			if e.Kind == "bundle.loaded" {
				n++
			}
		}
		return n
	}
	if n := reloads(); n != 0 {
		t.Errorf("%d reloads are recorded", n)
	}
	write(strings.Replace(no, "secret", "other", 1))
	if err := p.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	i.Eventually("the reload that can be read is in force", func() bool { return i.Get(s, "/v1/secret").Status == http.StatusOK })
	i.Eventually("it is recorded", func() bool { return reloads() > 0 })
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
}
