package server_test

import (
	"bufio"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/authority"
	"github.com/mayfly-id/mayfly/internal/server"
)

// mustAsk opens a task with little and asks for more, which a human must say yes
// to.
func (n *node) mustAsk() (auth []string, path, approval string) {
	n.t.Helper()
	r := n.want(n.tell("POST", "/oauth2/token", exchange+"&profile=p&purpose=test&scope=http:orders:GET:/v1/*", asForm...), 200, "")
	auth = []string{"Authorization", "Bearer " + r.json["access_token"].(string)}
	path = "/v1/tasks/" + r.json["task"].(string)
	r = n.want(n.ask("POST", path+"/widen", `{"grants":["http:orders:POST:/v1/orders"]}`, append(auth, asJSON...)...), 403, "access_denied")
	next, _ := r.json["next"].(map[string]any)
	approval, _ = next["approval"].(string)
	if r.json["term"] != "approval" || next["action"] != "request" || next["url"] != issuer+"/v1/approvals/"+approval {
		n.t.Fatalf("a grant beyond the opening's: %s", r.body)
	}
	return auth, path, approval
}

// humansAndDecisions goes through what approvals, pins and decisions have to say.
func (n *node) humansAndDecisions() {
	n.t.Helper()
	auth, path, approval := n.mustAsk()
	r := n.want(n.ask("GET", "/v1/approvals/"+approval, "", auth...), 200, "")
	if r.json["state"] != "pending" || r.json["what"] != "widen" {
		n.t.Errorf("the request reads %s", r.body)
	}
	r = n.want(n.tell("GET", "/v1/approvals?state=pending&limit=1", ""), 200, "")
	if list, _ := r.json["approvals"].([]any); len(list) != 1 {
		n.t.Errorf("there wait %s", r.body)
	}
	n.want(n.tell("POST", "/v1/approvals/"+approval, `{"decision":"approve"}`, asJSON...), 403, "")
	n.want(n.ask("POST", "/v1/approvals/"+approval, `{"decision":"approve"}`, append(auth, asJSON...)...), 403, "")
	for _, body := range []string{`{}`, `{"decision":"yes"}`, `{"decision":"deny","extra":1}`} {
		n.want(n.tell("POST", "/v1/approvals/"+approval, body, asJSON...), 400, "")
	}
	r = n.want(n.tell("POST", "/v1/approvals/"+approval, `{"decision":"deny","note":"not today"}`, asJSON...), 200, "")
	if r.json["state"] != "denied" || r.json["note"] != "not today" || r.json["denied_by"] != "operator" {
		n.t.Errorf("denied reads %s", r.body)
	}
	n.want(n.tell("POST", "/v1/approvals/"+approval, `{"decision":"deny"}`, asJSON...), 409, "")
	n.want(n.tell("GET", "/v1/approvals/nothing", ""), 404, "")
	r = n.want(n.ask("POST", path+"/widen", `{"grants":["http:orders:POST:/v1/orders"]}`, append(auth, asJSON...)...), 429, "approval_limit")
	if r.Header.Get("Retry-After") != "60" {
		n.t.Errorf("asking again after a no says Retry-After %q", r.Header.Get("Retry-After"))
	}
	// What it was opened with it may have back.
	n.want(n.ask("POST", path+"/narrow", `{"grants":[]}`, append(auth, asJSON...)...), 200, "")
	r = n.want(n.ask("POST", path+"/widen", `{"grants":["http:orders:GET:/v1/*"]}`, append(auth, asJSON...)...), 200, "")
	if grants, _ := r.json["grants"].([]any); len(grants) != 1 {
		n.t.Errorf("widened to %s", r.body)
	}

	bank := n.a.Bundle().Targets["bank"]
	for i, definition := range []string{`{"name":"a/b"}`, `{"description":"another","name":"a/b"}`} {
		d := authority.Definition{Tool: "a/b", Hash: strings.Repeat(string(rune('a'+i)), 43), JSON: []byte(definition)}
		shown, err := n.a.Tools(n.t.Context(), bank, []authority.Definition{d})
		if err != nil || shown[0] != (i == 0) {
			n.t.Fatalf("definition %d is shown: %v, %v", i, shown, err)
		}
	}
	r = n.want(n.tell("GET", "/v1/pins", ""), 200, "")
	if pins, _ := r.json["pins"].([]any); len(pins) != 1 {
		n.t.Errorf("pins are %s", r.body)
	}
	looked := `{"hash":"` + strings.Repeat("b", 43) + `"}`
	n.want(n.ask("POST", "/v1/pins/bank/a%2Fb/accept", looked, append(auth, asJSON...)...), 404, "")
	n.want(n.ask("POST", "/v1/pins/bank/a%2Fb/accept", `{}`, append(auth, asJSON...)...), 404, "")
	n.want(n.ask("POST", "/v1/pins/bank/a%2Fb/accept", `{}`, asJSON...), 401, "")
	n.want(n.tell("POST", "/v1/pins/bank/a/b/accept", looked, asJSON...), 404, "")
	n.want(n.tell("POST", "/v1/pins/bank/a%2Fb/accept", `{}`, asJSON...), 400, "")
	n.want(n.tell("POST", "/v1/pins/bank/a%2Fb/accept", `{"hash":"another"}`, asJSON...), 409, "")
	r = n.want(n.tell("POST", "/v1/pins/bank/a%2Fb/accept", looked, asJSON...), 200, "")
	if r.json["tool"] != "a/b" || r.json["hash"] != strings.Repeat("b", 43) {
		n.t.Errorf("accepted reads %s", r.body)
	}
	n.want(n.tell("POST", "/v1/pins/bank/a%2Fb/accept", looked, asJSON...), 409, "")

	id := strings.TrimPrefix(path, "/v1/tasks/")
	question := `{"subject":{"type":"agent","id":"` + mayfly.AgentID("example.org", "p", mayfly.TaskID(id)) +
		`"},"action":{"name":"use"},"resource":{"type":"route","id":"orders/GET/v1/orders"}}`
	r = n.want(n.tell("POST", "/access/v1/evaluation", question, asJSON...), 200, "")
	if r.json["decision"] != true {
		n.t.Errorf("the evaluation says %s", r.body)
	}
	n.want(n.tell("POST", "/access/v1/evaluations", question, asJSON...), 200, "")
	decision := r.Header.Get("Mayfly-Decision")
	r = n.want(n.ask("GET", "/v1/decisions/"+decision, "", auth...), 200, "")
	if terms, _ := r.json["terms"].([]any); r.json["verdict"] != "allow" || len(terms) != len(mayfly.Terms) {
		n.t.Errorf("it is explained as %s", r.body)
	}
	n.want(n.tell("GET", "/v1/decisions/nothing", ""), 404, "")
	forbid := `{"policies":{"no.cedar":"@id(\"no\") forbid (principal, action, resource);"},"since":"2020-01-01T00:00:00Z"}`
	n.want(n.ask("POST", "/v1/replay", forbid, append(auth, asJSON...)...), 404, "")
	n.eventually(func(e []map[string]any) bool { return len(kinds(e, "call.decided")) > 1 }) // it replays what has its place in the log
	r = n.want(n.tell("POST", "/v1/replay", forbid, asJSON...), 200, "")
	if flips, _ := r.json["flips"].(float64); flips < 1 {
		n.t.Errorf("under a policy that forbids all: %s", r.body)
	}
	for _, body := range []string{`{}`, `{"policies":{},"since":"yesterday"}`, `{"policies":{"x.cedar":"permit"}}`, `{"policies":{"x":1}}`} {
		n.want(n.tell("POST", "/v1/replay", body, asJSON...), 400, "")
	}
	n.want(n.tell("POST", "/v1/replay", `{"policies":{"x":"`+strings.Repeat("x", 1<<20)+`"}}`, asJSON...), 413, "")
}

func TestWaitingApprovalsAreStreamed(t *testing.T) {
	n := start(t, server.Options{})
	_, _, first := n.mustAsk()
	for _, query := range []string{"?state=all", "?cursor=x", "?limit=1"} {
		n.want(n.tell("GET", "/v1/approvals"+query, "", "Accept", "text/event-stream"), 400, "")
	}
	n.want(n.ask("GET", "/v1/approvals", "", "Accept", "text/event-stream"), 401, "")
	req, err := http.NewRequestWithContext(t.Context(), "GET", "http://admin/v1/approvals?state=pending", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "text/event-stream")
	resp, err := n.socket.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	kind := ""
	next := func() (string, string) {
		t.Helper()
		for lines.Scan() {
			if of, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
				kind = of
			}
			if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				var a struct{ ID string }
				if err := json.Unmarshal([]byte(data), &a); err != nil {
					t.Fatal(err)
				}
				return kind, a.ID
			}
		}
		t.Fatalf("the stream ended: %v", lines.Err())
		return "", ""
	}
	want := func(kind, id string) {
		t.Helper()
		if gotKind, gotID := next(); gotKind != kind || gotID != id {
			t.Fatalf("the stream says %s %s, want %s %s", gotKind, gotID, kind, id)
		}
	}
	want("approval", first)
	_, _, second := n.mustAsk()
	want("approval", second)
	n.want(n.tell("POST", "/v1/approvals/"+first, `{"decision":"deny"}`, asJSON...), 200, "")
	want("gone", first)
}

func TestTheDecisionPointNamesWhatAnswers(t *testing.T) {
	n := start(t, server.Options{})
	r := n.want(n.ask("GET", "/.well-known/authzen-configuration", "", "Origin", "https://elsewhere.example"), 200, "")
	if r.json["policy_decision_point"] != issuer || len(r.json) != 3 {
		t.Errorf("the metadata says %s", r.body)
	}
	for _, name := range []string{"access_evaluation_endpoint", "access_evaluations_endpoint"} {
		endpoint, _ := r.json[name].(string)
		if got := n.ask("GET", strings.TrimPrefix(endpoint, issuer), ""); got.StatusCode != 405 || got.Header.Get("Allow") != "POST" {
			t.Errorf("%s is %q, which answers %d", name, endpoint, got.StatusCode)
		}
	}
}
