package mayflytest_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/authority"
	"github.com/mayfly-id/mayfly/internal/mayflytest"
)

// asking is a system whose payments over 200 need a yes from finance.
func asking() mayflytest.Options {
	return mayflytest.Options{Change: amounts, Policies: map[string]string{"large.cedar": largeAsks}}
}

const large = `{"amount":300,"vendor":"acme"}`

// ask makes the large call, which must wait for an approval.
func (d direct) ask(t testing.TB, token, arguments string) string {
	t.Helper()
	_, err := d.call(t.Context(), token, "pay_invoice", arguments)
	if said(err) != "ask approval" {
		t.Fatalf("a large call: %v", err)
	}
	return asks(t, err)
}

// answered makes a call that must be allowed.
func (d direct) answered(t testing.TB, token, arguments string) {
	t.Helper()
	ad, err := d.call(t.Context(), token, "pay_invoice", arguments)
	if err != nil {
		t.Fatal(err)
	}
	ad.Done(authority.Outcome{Name: "answered", Status: 200})
}

// finance is somebody who may say yes.
func (d direct) finance() authority.Presented { return bearer(d.Approver("fay", "finance")) }

func (d direct) state(t testing.TB, id string) mayfly.ApprovalState {
	t.Helper()
	v, err := d.Authority.Approval(t.Context(), operator, id)
	if err != nil {
		t.Fatal(err)
	}
	return v.State
}

// One yes is used by one of a thousand calls, and the others cost nothing: not
// the budget, and not the approval.
func TestOneApprovalLetsOneCallThroughInARace(t *testing.T) {
	mayflytest.OnEachEngine(t, func(t *testing.T, dsn string) {
		nodes := racing(t, dsn, asking())
		task := nodes[0].open(t, "open",
			`{"type":"mayfly_grant","grant":"mcp:bank:pay_invoice","budget":{"calls":900,"sum":{"amount":900000},"rate":{"calls":900,"per":"1h"}}}`)
		id := nodes[0].ask(t, task.AccessToken, large)
		if _, err := nodes[0].Authority.Approve(t.Context(), nodes[0].finance(), id, ""); err != nil {
			t.Fatal(err)
		}
		told := all(racers, func(i int) error {
			ad, err := nodes[i%len(nodes)].call(t.Context(), task.AccessToken, "pay_invoice", large)
			if err == nil {
				ad.Done(authority.Outcome{Name: "answered"})
			}
			return err
		})
		if told["allow"] != 1 || told["allow"]+told["deny approval"]+told["ask approval"]+told["unavailable"] != racers {
			t.Errorf("the racers are told %v", told)
		}
		if state := nodes[len(nodes)-1].state(t, id); state != mayfly.Used {
			t.Errorf("the approval is %s", state)
		}
		v, err := nodes[0].Authority.Task(t.Context(), operator, string(task.Task))
		if err != nil {
			t.Fatal(err)
		}
		if b := v.Budget[0]; b.Used != 1 || b.Sums[0].Used != "300" || b.Rate.Used != 1 {
			t.Errorf("one call went through and %+v %+v is counted", b, b.Rate)
		}
		if waiting, err := nodes[0].Authority.Approvals(t.Context(), operator, true, "", 0); err != nil || len(waiting.Approvals) > 3 {
			t.Errorf("the losers ask humans for %d more (%v)", len(waiting.Approvals), err)
		}
	})
}

// A yes and a no at once, and the call itself: the call goes through or the no
// counts, never both, and after a no nothing goes through.
func TestApproveAndDenyAtOnce(t *testing.T) {
	mayflytest.OnEachEngine(t, func(t *testing.T, dsn string) {
		nodes := racing(t, dsn, asking())
		outcomes := map[string]int{}
		for range 40 {
			task := nodes[0].open(t, "open", "mcp:bank:pay_invoice")
			id := nodes[0].ask(t, task.AccessToken, large)
			var yes, no, call error
			var wg sync.WaitGroup
			wg.Go(func() { _, yes = nodes[0].Authority.Approve(t.Context(), nodes[0].finance(), id, "") })
			wg.Go(func() { _, no = nodes[len(nodes)-1].Authority.Deny(t.Context(), operator, id, "no") })
			wg.Go(func() {
				var ad *authority.Admission
				if ad, call = nodes[0].call(t.Context(), task.AccessToken, "pay_invoice", large); call == nil {
					ad.Done(authority.Outcome{Name: "answered"})
				}
			})
			wg.Wait()
			state := nodes[0].state(t, id)
			outcomes[fmt.Sprintf("yes %t, no %t, call %t: %s", yes == nil, no == nil, call == nil, state)]++
			switch {
			case call == nil && (yes != nil || no == nil || state != mayfly.Used):
				t.Errorf("the call went through; yes: %v, no: %v, and the approval is %s", yes, no, state)
			case no == nil && state != mayfly.ApprovalDenied:
				t.Errorf("the no counts, and the approval is %s", state)
			case no != nil && call != nil:
				t.Errorf("neither the no counts (%v) nor the call goes through (%v)", no, call)
			}
			if _, err := nodes[0].call(t.Context(), task.AccessToken, "pay_invoice", large); err == nil {
				t.Errorf("after all that the call goes through; the approval is %s", state)
			}
		}
		t.Log(outcomes)
	})
}

// Two groups are asked and answer at once: the approval is complete once, and by
// both.
func TestTwoApproversOfTwoGroupsAtOnce(t *testing.T) {
	mayflytest.OnEachEngine(t, func(t *testing.T, dsn string) {
		o := asking()
		o.Policies["both.cedar"] = strings.NewReplacer(`"large"`, `"large too"`, "finance", "security").Replace(largeAsks)
		nodes := racing(t, dsn, o)
		for range 40 {
			task := nodes[0].open(t, "open", "mcp:bank:pay_invoice")
			id := nodes[0].ask(t, task.AccessToken, large)
			told := all(20, func(i int) error {
				d := nodes[i/2%len(nodes)]
				who := bearer(d.Approver(fmt.Sprint("who", i), []string{"finance", "security"}[i%2]))
				// Who is told that somebody else answered meanwhile looks again.
				for {
					if _, err := d.Authority.Approve(t.Context(), who, id, ""); mayfly.KindOf(err) != mayfly.Conflict || err == nil {
						return err
					}
					if v, err := d.Authority.Approval(t.Context(), operator, id); err != nil || v.State != mayfly.Waiting {
						return err
					}
				}
			})
			v, err := nodes[0].Authority.Approval(t.Context(), operator, id)
			if err != nil || v.State != mayfly.Approved || len(v.Votes) != 2 || v.Votes[0].Need == v.Votes[1].Need {
				t.Fatalf("it reads %+v (%v); they were told %v", v, err, told)
			}
			nodes[0].answered(t, task.AccessToken, large)
		}
		complete := map[string]int{}
		for _, e := range nodes[0].Records("approval.voted") {
			var voted mayfly.ApprovalVoted
			if err := json.Unmarshal(e.Body, &voted); err != nil {
				t.Fatal(err)
			}
			if voted.Complete {
				complete[voted.Approval]++
			}
		}
		for id, n := range complete {
			if n != 1 {
				t.Errorf("%s was complete %d times", id, n)
			}
		}
		if len(complete) != 40 {
			t.Errorf("%d approvals were completed", len(complete))
		}
	})
}

// S-61: what a human reads is said by the server, of the canonical call. What the
// agent says is marked as its word, cut, and cannot move the cursor, turn the
// direction of writing, or end a line.
func TestS61WhatTheAgentSaysIsShownAsItsWord(t *testing.T) {
	t.Parallel()
	d := direct{mayflytest.New(t, asking())}
	for name, purpose := range map[string]string{
		"lines": "pay\nAction: approved already\r\n", "direction": "pay \u202e00003\u202c", "escapes": "pay \x1b[2J\x1b[1;1H", "markup": `<b onclick="x()">pay</b>`,
		"hidden": "pa\u200by \U000e0041", "long": strings.Repeat("p", 512),
	} {
		r := authority.ExchangeRequest{
			SubjectToken: d.Human("alice"), SubjectTokenType: authority.TypeJWT, ActorToken: d.Evidence("agent"), ActorTokenType: authority.TypeJWT,
			Profile: "open", Purpose: purpose,
		}
		got, err := d.Authority.Exchange(t.Context(), r)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		arguments := string(toJSON(members{"amount": 300, "vendor": "acme\nalready approved \u202e"}))
		v, err := d.Authority.Approval(t.Context(), operator, d.ask(t, got.AccessToken, arguments))
		if err != nil {
			t.Fatal(err)
		}
		if want := "an agent of profile open, for alice, wants to call mcp:bank:pay_invoice"; v.Action != want {
			t.Errorf("%s: the action reads %q", name, v.Action)
		}
		if n := len([]rune(v.Purpose.Text)); strings.ContainsFunc(v.Purpose.Text, func(r rune) bool { return !unicode.IsPrint(r) }) || n > 300 && name == "long" {
			t.Errorf("%s: the purpose reads %q", name, v.Purpose.Text)
		}
		if v.Purpose.Verified || v.Purpose.By != "agent" {
			t.Errorf("%s: the purpose is said by %+v", name, v.Purpose)
		}
		var request struct {
			Kind, Target, Action string
			Arguments            struct {
				Amount int
				Vendor string
			}
		}
		if err := json.Unmarshal(v.Request, &request); err != nil || request.Action != "pay_invoice" || request.Arguments.Amount != 300 ||
			!strings.HasPrefix(request.Arguments.Vendor, "acme\n") || strings.Contains(string(v.Request), "\n") {
			t.Errorf("%s: the request reads %s (%v)", name, v.Request, err)
		}
	}
	// Ten thousand bytes of purpose are refused before anything is shown.
	_, err := d.Authority.Exchange(t.Context(), authority.ExchangeRequest{
		SubjectToken: d.Human("alice"), SubjectTokenType: authority.TypeJWT, ActorToken: d.Evidence("agent"), ActorTokenType: authority.TypeJWT,
		Profile: "open", Purpose: strings.Repeat("p", 10_000),
	})
	if mayfly.KindOf(err) != mayfly.Invalid {
		t.Errorf("a purpose of 10,000 bytes: %v", err)
	}
	// And a call that nobody could read is not put before anybody.
	task := d.open(t, "open")
	_, err = d.call(t.Context(), task.AccessToken, "pay_invoice", string(toJSON(members{"amount": 300, "vendor": strings.Repeat("x", 17<<10)})))
	if said(err) != "deny approval" {
		t.Errorf("a call too large to be read: %v", err)
	}
}

// S-62: nobody approves what is done in their own name, and no agent, socket or
// token that an agent may hold approves at all.
func TestS62NobodyInTheChainApproves(t *testing.T) {
	t.Parallel()
	d := direct{mayflytest.New(t, racingOptions(asking()))}
	parent := d.open(t, "open")
	child := d.below(t, parent, "open")
	id := d.ask(t, child.AccessToken, large)
	before := d.CountRefusals()
	attempts := map[string]authority.Presented{
		"the task itself":                   bearer(child.AccessToken),
		"a task above":                      bearer(parent.AccessToken),
		"the root delegator, of that group": bearer(d.Approver("alice", "finance")),
		"the socket's operator":             operator,
		"a token that an agent may be handed": bearer(d.IDP.Issue(map[string]any{
			"aud": mayflytest.Humans, "sub": "fay", "groups": []string{"finance"}})),
		"a service":     bearer(d.IDP.Issue(map[string]any{"aud": mayflytest.Services, "sub": "fay"})),
		"a workload":    bearer(d.Evidence("fay")),
		"another group": bearer(d.Approver("gus", "sales")),
	}
	for name, who := range attempts {
		_, err := d.Authority.Approve(t.Context(), who, id, "")
		if k := mayfly.KindOf(err); err == nil || k != mayfly.Denied && k != mayfly.NotFound && k != mayfly.Unauthenticated {
			t.Errorf("%s: %v", name, err)
		}
	}
	if state := d.state(t, id); state != mayfly.Waiting {
		t.Fatalf("the approval is %s", state)
	}
	d.Eventually("every attempt is recorded", func() bool { return d.CountRefusals() >= before+len(attempts)-2 })
	// The operators' token opens nothing.
	_, err := d.Authority.Exchange(t.Context(), authority.ExchangeRequest{
		SubjectToken: d.Approver("alice", "accounts-payable"), SubjectTokenType: authority.TypeJWT,
		ActorToken: d.Evidence("agent"), ActorTokenType: authority.TypeJWT, Profile: "open", Purpose: "p",
	})
	if mayfly.KindOf(err) != mayfly.Invalid {
		t.Errorf("an operators' token as subject token: %v", err)
	}
	if _, err := d.Authority.Approve(t.Context(), d.finance(), id, ""); err != nil {
		t.Fatal(err)
	}
	d.answered(t, child.AccessToken, large)
}

// racingOptions lets the profile open delegate to itself.
func racingOptions(o mayflytest.Options) mayflytest.Options {
	change := o.Change
	o.Change = func(b *authority.Bundle) {
		p := b.Profiles["open"]
		p.Delegation = mayfly.DelegationRule{Depth: 3, Children: 100, To: []string{"open", "reader"}}
		p.Delegators = append(p.Delegators, mayfly.DelegatorRule{Agent: "open"})
		if change != nil {
			change(b)
		}
	}
	return o
}

// S-63: an approval fits one action: not other arguments, not another task, not
// another definition of the tool, not other rules.
func TestS63AnApprovalFitsOneAction(t *testing.T) {
	t.Parallel()
	o := racingOptions(asking())
	d := direct{mayflytest.New(t, o)}
	task := d.open(t, "open")
	child := d.below(t, task, "open")
	id := d.ask(t, task.AccessToken, large)
	if _, err := d.Authority.Approve(t.Context(), d.finance(), id, ""); err != nil {
		t.Fatal(err)
	}
	for name, arguments := range map[string]string{
		"another amount": `{"amount":301,"vendor":"acme"}`, "another vendor": `{"amount":300,"vendor":"globex"}`,
	} {
		_, err := d.call(t.Context(), task.AccessToken, "pay_invoice", arguments)
		if e := mayfly.AsError(err); said(err) != "ask approval" || e.Code != "approval_mismatch" || e.Kind != mayfly.Denied || !strings.Contains(e.Message, id) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if other := d.ask(t, child.AccessToken, large); other == id {
		t.Error("a child is lifted by its parent's approval")
	}
	// The tool as it is defined now is part of what was approved.
	session, err := d.Authority.Authenticate(t.Context(), bearer(task.AccessToken), d.Issuer)
	if err != nil {
		t.Fatal(err)
	}
	defined := definition("pay_invoice", "Pay an invoice.")
	if _, err := d.Authority.Tools(t.Context(), d.Authority.Bundle().Targets["bank"], []authority.Definition{defined}); err != nil {
		t.Fatal(err)
	}
	arguments, err := mayfly.ParseArguments([]byte(large))
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.Authority.Admit(t.Context(), session, mayfly.Call{
		Kind: "mcp", Target: "bank", Action: "pay_invoice", Arguments: arguments, Definition: defined.Hash,
	})
	if err == nil {
		t.Error("an approval asked for before the tool was known fits it as it is defined")
	}
	// So are the rules.
	next := d.Bundle(o)
	next.Hash = "next-bundle"
	if err := d.Authority.Reload(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	fresh := d.open(t, "open")
	again := d.ask(t, fresh.AccessToken, large)
	if _, err := d.Authority.Approve(t.Context(), d.finance(), again, ""); err != nil {
		t.Fatal(err)
	}
	next = d.Bundle(o)
	next.Hash = "third-bundle"
	if err := d.Authority.Reload(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	if _, err := d.call(t.Context(), fresh.AccessToken, "pay_invoice", large); err == nil {
		t.Error("an approval given under other rules is used")
	}
}

// S-63 on the wire: what was changed after the yes never reaches the target.
func TestS63AChangedCallNeverReachesTheTarget(t *testing.T) {
	t.Parallel()
	n := node{mayflytest.New(t, asking()), time.Now}
	d := direct{n.System}
	have := n.at(n.open(n.opening("profile", "open"), newHolder(t)), "/mcp/bank")
	paid := func() int {
		calls := 0
		for _, r := range n.Bank.Requests() {
			if strings.Contains(string(r.Body), `"tools/call"`) {
				calls++
			}
		}
		return calls
	}
	first := n.tool(have, "pay_invoice", members{"amount": 300})
	next := nextOf(t, first)
	if denied(first) != mayfly.TermApproval || next.Action != "request" || next.Approval == "" || !strings.HasSuffix(next.URL, "/"+next.Approval) {
		t.Fatalf("a large payment: %s", first)
	}
	if _, err := d.Authority.Approve(t.Context(), d.finance(), next.Approval, ""); err != nil {
		t.Fatal(err)
	}
	changed := n.tool(have, "pay_invoice", members{"amount": 30_000})
	if denied(changed) != mayfly.TermApproval || nextOf(t, changed).Approval == next.Approval {
		t.Errorf("another amount: %s", changed)
	}
	if paid() != 0 {
		t.Errorf("%d calls reached the target", paid())
	}
	if a := n.tool(have, "pay_invoice", members{"amount": 300}); denied(a) != "" {
		t.Errorf("the call that was approved: %s", a)
	}
	if paid() != 1 {
		t.Errorf("%d calls reached the target", paid())
	}
	if a := n.tool(have, "pay_invoice", members{"amount": 300}); denied(a) != mayfly.TermApproval || nextOf(t, a).Approval == next.Approval {
		t.Errorf("the same call once more: %s", a)
	}
	if paid() != 1 {
		t.Errorf("%d calls reached the target", paid())
	}
}

// nextOf is what a refused tool call says to do next.
func nextOf(t testing.TB, a mayflytest.Answer) mayfly.Next {
	t.Helper()
	var got struct {
		Result struct {
			Meta struct {
				Next mayfly.Next `json:"mayfly/next"`
			} `json:"_meta"`
		} `json:"result"`
	}
	if err := json.Unmarshal(a.Message(), &got); err != nil {
		t.Fatalf("%v in %s", err, a)
	}
	return got.Result.Meta.Next
}

// S-64: an approval is used once, within its time, and answered within its time.
// A call that comes too late, or a second time, is put before a human again: it
// says so with another approval, not with the status 409.
func TestS64AnApprovalIsUsedOnceAndInTime(t *testing.T) {
	t.Parallel()
	o := asking()
	o.Change = func(b *authority.Bundle) {
		amounts(b)
		p := b.Profiles["open"]
		p.Lifetime = mayfly.Lifetime{Idle: time.Hour, Default: 2 * time.Hour, Max: 2 * time.Hour}
		p.Approvals = []mayfly.ApprovalRule{{ID: "open/approvals/1", Calls: mayflytest.Grants(t, "mcp:bank:delete_vendor")[0], Group: "finance", Usable: time.Minute}}
		below := b.Profiles["reader"]
		below.Grants, below.KeyOptional = append(below.Grants, p.Approvals[0].Calls), true
	}
	n, c := clocked(t, o)
	d := direct{n.System}
	token := func() string {
		have := n.open(n.opening("profile", "open"), nil)
		return have.text
	}
	yes := func(id string) {
		t.Helper()
		if _, err := d.Authority.Approve(t.Context(), d.finance(), id, ""); err != nil {
			t.Fatal(err)
		}
	}

	// Used twice.
	own := token()
	id := d.ask(t, own, large)
	if d.ask(t, own, large) != id {
		t.Error("the same call is put before a human twice")
	}
	yes(id)
	if _, err := d.Authority.Approve(t.Context(), d.finance(), id, ""); mayfly.KindOf(err) != mayfly.Conflict {
		t.Errorf("a second yes: %v", err)
	}
	d.answered(t, own, large)
	if d.ask(t, own, large) == id {
		t.Error("an approval is used twice")
	}
	if _, err := d.Authority.Deny(t.Context(), operator, id, ""); mayfly.KindOf(err) != mayfly.Conflict {
		t.Errorf("a no after its use: %v", err)
	}

	// Not sent: it is given back, and usable once more.
	own = token()
	id = d.ask(t, own, large)
	yes(id)
	ad, err := d.call(t.Context(), own, "pay_invoice", large)
	if err != nil {
		t.Fatal(err)
	}
	ad.Done(authority.Outcome{Name: "not-sent"})
	d.Eventually("the approval is given back", func() bool { return d.state(t, id) == mayfly.Approved })
	d.answered(t, own, large)

	// Too late to be used: ten minutes, or what the profile says.
	own = token()
	id = d.ask(t, own, large)
	yes(id)
	_, err = d.call(t.Context(), own, "delete_vendor", `{}`)
	short := asks(t, err)
	yes(short)
	n.pass(c, time.Minute)
	if _, err := d.call(t.Context(), own, "delete_vendor", `{}`); said(err) != "ask approval" || asks(t, err) == short {
		t.Errorf("after a minute, of an approval usable for one: %v", err)
	}
	if d.state(t, id) != mayfly.Approved || d.state(t, short) != mayfly.Expired {
		t.Errorf("after a minute the approvals are %s and %s", d.state(t, id), d.state(t, short))
	}
	// What a profile further up says of it holds below, too.
	below := d.below(t, d.open(t, "open"), "reader", "mcp:bank:delete_vendor").AccessToken
	_, err = d.call(t.Context(), below, "delete_vendor", `{}`)
	short = asks(t, err)
	yes(short)
	n.pass(c, time.Minute)
	if d.state(t, short) != mayfly.Expired {
		t.Errorf("after a minute, the approval that a profile above asks for is %s", d.state(t, short))
	}
	n.pass(c, 8*time.Minute)
	own = n.open(n.opening("profile", "open"), nil).text
	if state := d.state(t, id); state != mayfly.Expired {
		t.Errorf("after ten minutes the approval is %s", state)
	}

	// Too late to be answered.
	id = d.ask(t, own, large)
	n.pass(c, 10*time.Minute)
	for name, answer := range map[string]func() error{
		"a yes": func() error { _, err := d.Authority.Approve(t.Context(), d.finance(), id, ""); return err },
		"a no":  func() error { _, err := d.Authority.Deny(t.Context(), operator, id, ""); return err },
	} {
		if err := answer(); mayfly.KindOf(err) != mayfly.Gone {
			t.Errorf("%s after ten minutes: %v", name, err)
		}
	}
	if v, err := d.Authority.Approval(t.Context(), operator, id); err != nil || v.State != mayfly.Expired || len(v.Request) != 0 {
		t.Errorf("it reads %+v (%v)", v, err)
	}
}

// S-65: one agent can ask for so much and no more, and what a human refused is
// not asked again soon.
func TestS65HumansAreNotWornDown(t *testing.T) {
	t.Parallel()
	o := asking()
	o.Change = func(b *authority.Bundle) {
		amounts(b)
		b.Profiles["open"].Lifetime = mayfly.Lifetime{Idle: 3 * time.Hour, Default: 3 * time.Hour, Max: 3 * time.Hour}
	}
	n, c := clocked(t, o)
	d := direct{n.System}
	have := n.open(n.opening("profile", "open"), nil)
	own := func() string { // a token lives five minutes
		answer, err := d.Authority.Exchange(t.Context(), authority.ExchangeRequest{
			SubjectToken: have.text, SubjectTokenType: authority.TypeAccessToken, ActorToken: d.Evidence("invoice-1"), ActorTokenType: authority.TypeJWT,
		})
		if err != nil {
			t.Fatal(err)
		}
		have.text = answer.AccessToken
		return answer.AccessToken
	}
	call := func(token string, amount int) error {
		_, err := d.call(t.Context(), token, "pay_invoice", fmt.Sprintf(`{"amount":%d}`, amount))
		return err
	}
	limited := func(name string, err error) {
		t.Helper()
		if e := mayfly.AsError(err); e.Kind != mayfly.RateLimited || e.Code != "approval_limit" || e.Term != mayfly.TermApproval {
			t.Errorf("%s: %v", name, err)
		}
	}
	token := own()
	var ids []string
	for i := range 50 {
		if err := call(token, 300+i); i < 3 {
			ids = append(ids, asks(t, err))
		} else {
			limited("more than three wait", err)
		}
	}
	if _, err := d.Authority.Deny(t.Context(), d.finance(), ids[0], "no"); err != nil {
		t.Fatal(err)
	}
	limited("what was refused", call(token, 300))
	asks(t, call(token, 400)) // one of the three places is free
	keep := func(d time.Duration) {
		t.Helper()
		for ; d > 0; d -= 4 * time.Minute {
			n.pass(c, min(d, 4*time.Minute))
			token = own()
		}
	}
	keep(10 * time.Minute)
	limited("what was refused ten minutes ago", call(token, 300))
	keep(5 * time.Minute)
	asks(t, call(token, 300))
	asks(t, call(token, 401))
	limited("the seventh in an hour", call(token, 402))
	keep(46 * time.Minute)
	asks(t, call(token, 402))
}

// S-66: there is one tenant, and groups stand for it: an approval does not exist
// for somebody of a group that was not asked, however alike it is spelt.
func TestS66AnApproverOfElsewhereSeesNothing(t *testing.T) {
	t.Parallel()
	d := direct{mayflytest.New(t, asking())}
	task := d.open(t, "open")
	id := d.ask(t, task.AccessToken, large)
	for _, group := range []string{"Finance", "other/finance", "finance/other", "fin\u0430nce", "@delegator", "*"} {
		who := bearer(d.Approver("mallory", group))
		for name, do := range map[string]func() error{
			"approve": func() error { _, err := d.Authority.Approve(t.Context(), who, id, ""); return err },
			"deny":    func() error { _, err := d.Authority.Deny(t.Context(), who, id, ""); return err },
			"read":    func() error { _, err := d.Authority.Approval(t.Context(), who, id); return err },
		} {
			if err := do(); mayfly.KindOf(err) != mayfly.NotFound {
				t.Errorf("%s by %q: %v", name, group, err)
			}
		}
		page, err := d.Authority.Approvals(t.Context(), who, false, "", 0)
		if err != nil || len(page.Approvals) != 0 {
			t.Errorf("%q is shown %d (%v)", group, len(page.Approvals), err)
		}
	}
	// A name that ends in a space is nobody's.
	if _, err := d.Authority.Approve(t.Context(), bearer(d.Approver("mallory", "finance ")), id, ""); mayfly.KindOf(err) != mayfly.Unauthenticated {
		t.Errorf("a group with a space at its end: %v", err)
	}
	if _, err := d.Authority.Approve(t.Context(), d.finance(), mayfly.NewID("apr", time.Now()), ""); mayfly.KindOf(err) != mayfly.NotFound {
		t.Errorf("one that does not exist: %v", err)
	}
	page, err := d.Authority.Approvals(t.Context(), d.finance(), true, "", 0)
	if err != nil || !slices.ContainsFunc(page.Approvals, func(v authority.ApprovalView) bool { return v.ID == id }) {
		t.Errorf("who may answer is not shown it (%v)", err)
	}
}
