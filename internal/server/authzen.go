package server

import (
	"net/http"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/authority"
	"github.com/mayfly-id/mayfly/internal/strictjson"
)

// The decision point, for whoever enforces what it answers (OpenID AuthZEN
// Authorization API 1.0). A no is an answer like a yes: errors are about
// questions that are none.

// maxEvaluations is how many questions one request may have.
const maxEvaluations = 50

// questionLimits bound a question, which may have members of others' making.
var questionLimits = strictjson.Limits{Bytes: questionLimit, Depth: 32, Name: 128}

// decisionMetadata says where the decision point answers.
type decisionMetadata struct {
	Point       string `json:"policy_decision_point"`
	Evaluation  string `json:"access_evaluation_endpoint"`
	Evaluations string `json:"access_evaluations_endpoint"`
}

func decisionPoint(c *call) error {
	issuer := c.s.a.Bundle().Issuer
	c.w.Header().Set("Cache-Control", publicMaxAge)
	c.write(c.route.status, typeJSON, decisionMetadata{issuer, issuer + "/access/v1/evaluation", issuer + "/access/v1/evaluations"})
	return nil
}

// question is one evaluation as it was sent. A member that is not there has no
// text.
type question struct {
	Subject  jsontext.Value `json:"subject"`
	Action   jsontext.Value `json:"action"`
	Resource jsontext.Value `json:"resource"`
	Context  jsontext.Value `json:"context"`
}

// batch is a body of either endpoint: the question itself, or what the questions
// of evaluations have where they say nothing.
type batch struct {
	Subject     jsontext.Value `json:"subject"`
	Action      jsontext.Value `json:"action"`
	Resource    jsontext.Value `json:"resource"`
	Context     jsontext.Value `json:"context"`
	Evaluations jsontext.Value `json:"evaluations"`
	Options     jsontext.Value `json:"options"`
}

// answered is the answer to one question.
type answered struct {
	Decision bool            `json:"decision"`
	Context  answeredContext `json:"context"`
}

// answeredContext says by which record it was decided, and of a no what it is
// for. Error stands where there was nothing to decide on.
type answeredContext struct {
	Decision string       `json:"decision,omitempty"`
	Term     mayfly.Term  `json:"term,omitempty"`
	Reason   string       `json:"reason,omitempty"`
	Next     *mayfly.Next `json:"next,omitempty"`
	Error    *itemError   `json:"error,omitempty"`
}

type itemError struct {
	Status  int    `json:"status"`
	Message string `json:"message"`
}

func answerOf(d mayfly.Decision) answered {
	a := answered{Decision: d.Verdict == mayfly.Allow, Context: answeredContext{Decision: d.ID}}
	if !a.Decision {
		a.Context.Term, a.Context.Reason, a.Context.Next = d.Term, d.Reason, d.Next
	}
	return a
}

// evaluation answers one question.
func evaluation(c *call) error {
	var q question
	if err := strictjson.UnmarshalLenient(c.body, questionLimits, &q); err != nil {
		return err
	}
	return c.evaluate(&q)
}

func (c *call) evaluate(q *question) error {
	e, err := q.read()
	if err != nil {
		return err
	}
	decisions, err := c.s.a.Evaluate(c.ctx(), c.presented(), []authority.Evaluation{e}, func(mayfly.Decision) bool { return true })
	if err != nil {
		return err
	}
	if len(decisions) != 1 {
		return mayfly.Errorf(mayfly.Internal, "one question had %d answers", len(decisions))
	}
	c.w.Header().Set("Mayfly-Decision", decisions[0].ID)
	c.write(c.route.status, typeJSON, answerOf(decisions[0]))
	return nil
}

// evaluations answers questions in their order, until the answers say what was
// to be found out. With none, the body is a question itself.
func evaluations(c *call) error {
	var b batch
	if err := strictjson.UnmarshalLenient(c.body, questionLimits, &b); err != nil {
		return err
	}
	stops, err := b.semantic()
	if err != nil {
		return err
	}
	items, err := b.items()
	if err != nil {
		return err
	}
	whole := question{b.Subject, b.Action, b.Resource, b.Context}
	if len(items) == 0 {
		return c.evaluate(&whole)
	}
	if err := whole.check(); err != nil {
		return err
	}
	// What cannot be read is answered no, and asked of nobody.
	var asked []authority.Evaluation
	wrong := make([]error, len(items))
	for i := range items {
		var e authority.Evaluation
		if e, wrong[i] = whole.readItem(items[i]); wrong[i] == nil {
			asked = append(asked, e)
		} else if stops(false) {
			wrong, items = wrong[:i+1], items[:i+1]
			break
		}
	}
	decisions, err := c.s.a.Evaluate(c.ctx(), c.presented(), asked, func(d mayfly.Decision) bool { return stops(d.Verdict == mayfly.Allow) })
	if err != nil {
		return err
	}
	out := struct {
		Evaluations []answered `json:"evaluations"`
	}{}
	for i := range items {
		var one answered
		if wrong[i] != nil {
			one.Context.Error = &itemError{http.StatusBadRequest, mayfly.AsError(wrong[i]).Message}
		} else if len(decisions) == 0 {
			break // it was found out
		} else {
			one, decisions = answerOf(decisions[0]), decisions[1:]
		}
		out.Evaluations = append(out.Evaluations, one)
		if stops(one.Decision) {
			break
		}
	}
	c.write(c.route.status, typeJSON, out)
	return nil
}

// semantic says which answers are the last.
func (b *batch) semantic() (stops func(allowed bool) bool, err error) {
	var o struct {
		Semantic *string `json:"evaluations_semantic"`
	}
	if b.Options != nil {
		if err := object("options", b.Options, &o); err != nil {
			return nil, err
		}
	}
	semantic := "execute_all"
	if o.Semantic != nil {
		semantic = *o.Semantic
	}
	switch semantic {
	case "execute_all":
		return func(bool) bool { return false }, nil
	case "deny_on_first_deny":
		return func(allowed bool) bool { return !allowed }, nil
	case "permit_on_first_permit":
		return func(allowed bool) bool { return allowed }, nil
	}
	return nil, mayfly.Errorf(mayfly.Invalid, "evaluations_semantic is execute_all, deny_on_first_deny or permit_on_first_permit")
}

// items are the questions of a batch.
func (b *batch) items() ([]jsontext.Value, error) {
	if b.Evaluations == nil {
		return nil, nil
	}
	var items []jsontext.Value
	if b.Evaluations.Kind() != '[' {
		return nil, mayfly.Errorf(mayfly.Invalid, "evaluations must be an array")
	}
	if err := strictjson.UnmarshalLenient(b.Evaluations, strictjson.Limits{}, &items); err != nil {
		return nil, err
	}
	if len(items) > maxEvaluations {
		return nil, mayfly.Errorf(mayfly.Invalid, "at most %d evaluations can be asked for at once", maxEvaluations)
	}
	return items, nil
}

// readItem reads one question of a batch. A member that it has stands for the whole
// of what q says by default.
func (q question) readItem(item jsontext.Value) (authority.Evaluation, error) {
	var own question
	if err := object("each of evaluations", item, &own); err != nil {
		return authority.Evaluation{}, err
	}
	for _, m := range []struct{ own, otherwise *jsontext.Value }{
		{&own.Subject, &q.Subject}, {&own.Action, &q.Action}, {&own.Resource, &q.Resource}, {&own.Context, &q.Context},
	} {
		if *m.own == nil {
			*m.own = *m.otherwise
		}
	}
	return own.read()
}

// read makes of q what authority is asked. Only what it cannot be without, and
// what we read, is looked at.
func (q *question) read() (authority.Evaluation, error) {
	if err := q.check(); err != nil {
		return authority.Evaluation{}, err
	}
	for _, m := range []struct {
		name string
		text jsontext.Value
	}{{"subject", q.Subject}, {"action", q.Action}, {"resource", q.Resource}} {
		if m.text == nil {
			return authority.Evaluation{}, mayfly.Errorf(mayfly.Invalid, "%s is missing", m.name)
		}
	}
	kind, agent, err := entity("subject", q.Subject)
	if err != nil {
		return authority.Evaluation{}, err
	}
	if kind != "agent" {
		agent = "" // who no task is
	}
	e := authority.Evaluation{Agent: agent}
	if e.Action, err = action(q.Action); err != nil {
		return authority.Evaluation{}, err
	}
	if e.Kind, e.Resource, err = entity("resource", q.Resource); err != nil {
		return authority.Evaluation{}, err
	}
	e.Arguments, err = arguments(q.Context)
	return e, err
}

// check refuses members that are there and of another form than they have.
func (q *question) check() error {
	for _, m := range []struct {
		name string
		text jsontext.Value
	}{{"subject", q.Subject}, {"resource", q.Resource}} {
		if m.text == nil {
			continue
		}
		if _, _, err := entity(m.name, m.text); err != nil {
			return err
		}
	}
	if q.Action != nil {
		if _, err := action(q.Action); err != nil {
			return err
		}
	}
	_, err := arguments(q.Context)
	return err
}

// entity reads a subject or resource.
func entity(name string, text jsontext.Value) (kind, id string, err error) {
	var e struct {
		Type       *string        `json:"type"`
		ID         *string        `json:"id"`
		Properties jsontext.Value `json:"properties"`
	}
	if err := object(name, text, &e); err != nil {
		return "", "", err
	}
	if e.Type == nil || e.ID == nil {
		return "", "", mayfly.Errorf(mayfly.Invalid, "%s needs a type and an id, both text", name)
	}
	return *e.Type, *e.ID, properties(name, e.Properties)
}

// action reads the name of an action.
func action(text jsontext.Value) (string, error) {
	var a struct {
		Name       *string        `json:"name"`
		Properties jsontext.Value `json:"properties"`
	}
	if err := object("action", text, &a); err != nil {
		return "", err
	}
	if a.Name == nil {
		return "", mayfly.Errorf(mayfly.Invalid, "action needs a name, which is text")
	}
	return *a.Name, properties("action", a.Properties)
}

// properties are nobody's word about anything, and so not read.
func properties(name string, text jsontext.Value) error {
	if text != nil && text.Kind() != '{' {
		return mayfly.Errorf(mayfly.Invalid, "properties of %s must be an object", name)
	}
	return nil
}

// arguments reads the arguments of the call from a context, as they were written.
func arguments(text jsontext.Value) (mayfly.Arguments, error) {
	if text == nil {
		return mayfly.Arguments{}, nil
	}
	var x struct {
		Arguments jsontext.Value `json:"arguments"`
	}
	if err := object("context", text, &x); err != nil {
		return mayfly.Arguments{}, err
	}
	if x.Arguments == nil {
		return mayfly.Arguments{}, nil
	}
	if x.Arguments.Kind() != '{' {
		return mayfly.Arguments{}, mayfly.Errorf(mayfly.Invalid, "context.arguments must be an object")
	}
	return mayfly.ParseArguments(x.Arguments)
}

// object reads text, of which the whole was checked, into a struct.
func object(name string, text jsontext.Value, into any) error {
	if text.Kind() != '{' {
		return mayfly.Errorf(mayfly.Invalid, "%s must be an object", name)
	}
	return strictjson.UnmarshalLenient(text, strictjson.Limits{}, into)
}

// failText answers with an error as AuthZEN 1.0 has it: a line of text. What is
// no JSON at all is as malformed as JSON that is no question.
func (c *call) failText(e *mayfly.Error) {
	status := e.Kind.Status()
	if e.Kind == mayfly.MediaType {
		status = http.StatusBadRequest
	}
	c.challenge(e)
	c.writeBytes(status, typeText, []byte(clean(e.Message)))
}

// requestIDMax is the longest X-Request-ID that is given back, in bytes.
const requestIDMax = 128

// echoRequestID gives the caller's name for the request back, where it is one.
func (c *call) echoRequestID() {
	ids := c.r.Header["X-Request-Id"]
	if len(ids) != 1 || ids[0] == "" || len(ids[0]) > requestIDMax {
		return
	}
	if strings.IndexFunc(ids[0], func(r rune) bool { return r < ' ' || r > '~' }) < 0 {
		c.w.Header().Set("X-Request-ID", ids[0])
	}
}
