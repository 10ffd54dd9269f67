package server

import (
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/mayfly-id/mayfly/internal/strictjson"
)

// Whatever is sent, a question is read or refused: it never panics, and what is
// read names an agent, an action and a resource.
func FuzzQuestionsToTheDecisionPoint(f *testing.F) {
	for _, seed := range []string{
		`{"subject":{"type":"agent","id":"spiffe://x/agent/p/task_1"},"action":{"name":"use"},"resource":{"type":"tool","id":"bank/pay"},"context":{"arguments":{"amount":1.50}}}`,
		`{"subject":{},"action":[],"resource":null,"context":1}`,
		`{"evaluations":[{},{"resource":{"type":"route","id":"orders/GET/v1"}},7],"options":{"evaluations_semantic":"deny_on_first_deny"}}`,
		`{"subject":{"type":"agent","id":"a","properties":{"id":"b"}},"other":[[[[]]]]}`,
		`{"subject":{"type":"agent","type":"agent"}}`, `[]`, `"`, ``,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var q question
		if err := strictjson.UnmarshalLenient(body, questionLimits, &q); err == nil {
			if e, err := q.read(); err == nil && (e.Agent == "" || e.Resource == "" || e.Kind == "") {
				t.Errorf("%s is read as %+v", body, e)
			}
		}
		var b batch
		if err := strictjson.UnmarshalLenient(body, questionLimits, &b); err != nil {
			return
		}
		if _, err := b.semantic(); err != nil || b.Evaluations.Kind() != '[' {
			return
		}
		var items []jsontext.Value
		if err := strictjson.UnmarshalLenient(b.Evaluations, questionLimits, &items); err != nil {
			t.Errorf("a list within a body that was read cannot be: %v", err)
		}
	})
}
