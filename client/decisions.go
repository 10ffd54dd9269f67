package client

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"time"

	"github.com/mayfly-id/mayfly"
)

// Explanation is why a decision is what it is.
type Explanation struct {
	Decision  string          `json:"decision"`
	Time      time.Time       `json:"time"`
	Verdict   mayfly.Verdict  `json:"verdict"`
	Term      mayfly.Term     `json:"term,omitempty"` // that decided
	Reason    string          `json:"reason,omitempty"`
	Next      *mayfly.Next    `json:"next,omitempty"` // what would have made it pass
	What      string          `json:"what"`           // call, or the request that was refused
	Surface   string          `json:"surface,omitempty"`
	Target    string          `json:"target,omitempty"`
	Action    string          `json:"action,omitempty"`
	Task      mayfly.TaskID   `json:"task,omitempty"`
	Profile   string          `json:"profile,omitempty"`
	Root      Root            `json:"root"`
	Bundle    string          `json:"bundle"`
	Terms     []Step          `json:"terms,omitempty"`    // all of them, in order
	Policies  []PolicyText    `json:"policies,omitempty"` // that determined or erred, as they were then
	Snapshot  json.RawMessage `json:"snapshot,omitempty"` // a mayfly.Snapshot: what the policies saw
	Approval  string          `json:"approval,omitempty"`
	Observed  []mayfly.Term   `json:"observed,omitempty"`
	Outcome   string          `json:"outcome,omitempty"` // of an allowed call
	Status    int             `json:"status,omitempty"`
	Positions []int64         `json:"positions,omitempty"` // of its records in the log
}

// Step is what one term had to say.
type Step struct {
	Term   mayfly.Term `json:"term"`
	State  string      `json:"state"` // passed, decided, not asked or observed
	Detail string      `json:"detail,omitempty"`
}

// PolicyText is one Cedar policy as it is written.
type PolicyText struct {
	ID   string `json:"id"`
	File string `json:"file"`
	Line int    `json:"line"`
	Text string `json:"text"`
}

// Explain says why a decision is what it is.
func (c *Client) Explain(ctx context.Context, decision string) (Explanation, error) {
	var x Explanation
	err := c.call(ctx, request{method: http.MethodGet, path: "/v1/decisions/" + url.PathEscape(decision)}, &x)
	return x, err
}

// Replay is what other policies would have changed.
type Replay struct {
	Candidate string `json:"candidate"` // hash of the policies asked about
	Decisions int64  `json:"decisions"` // that were decided again
	Kept      int64  `json:"kept"`      // that no policy had a say in
	Unknown   int64  `json:"unknown"`   // of which too little was recorded
	Flips     int64  `json:"flips"`
	Changed   []Flip `json:"changed"` // the first thousand of them
}

// Flip is a recorded decision that would be another.
type Flip struct {
	Decision string         `json:"decision"`
	Time     time.Time      `json:"time"`
	Task     mayfly.TaskID  `json:"task"`
	Profile  string         `json:"profile"`
	Root     string         `json:"root"`  // the root delegator's id
	Grant    string         `json:"grant"` // what was called
	Was      mayfly.Verdict `json:"was"`
	WasTerm  mayfly.Term    `json:"was_term,omitempty"`
	Now      mayfly.Verdict `json:"now"`
	Term     mayfly.Term    `json:"term,omitempty"`
	Policies []string       `json:"policies,omitempty"` // that decide now
}

// replayTimeout is how long a replay may take: as long as the server gives it.
const replayTimeout = 15 * time.Minute

// Replay decides recorded calls again, from since on (the zero time is the
// beginning), under policies: Cedar text by file name. Only the operator may,
// one at a time.
func (c *Client) Replay(ctx context.Context, policies map[string]string, since time.Time) (Replay, error) {
	body := struct {
		Policies map[string]string `json:"policies"`
		Since    time.Time         `json:"since,omitzero"`
	}{policies, since}
	if policies == nil {
		body.Policies = map[string]string{}
	}
	var r Replay
	err := c.call(ctx, request{method: http.MethodPost, path: "/v1/replay", json: body, within: replayTimeout}, &r)
	return r, err
}

// Entity is a subject or resource of a question to the decision point (AuthZEN
// 1.0): an agent by its SPIFFE ID; a tool as target/tool, or a route as
// target/METHOD/path.
type Entity struct {
	Type string `json:"type"` // agent; tool or route
	ID   string `json:"id"`
}

// Evaluation asks what would be decided about a call. In a batch, what is not
// set is that of the batch.
type Evaluation struct {
	Subject  *Entity            `json:"subject,omitempty"`
	Action   *EvaluationAction  `json:"action,omitempty"`
	Resource *Entity            `json:"resource,omitempty"`
	Context  *EvaluationContext `json:"context,omitempty"`
}

// EvaluationAction names what is to be done: use.
type EvaluationAction struct {
	Name string `json:"name"`
}

// EvaluationContext holds the arguments of the call, a JSON object.
type EvaluationContext struct {
	Arguments json.RawMessage `json:"arguments,omitempty"`
}

// EvaluationAnswer is what would be decided. Nothing was spent.
type EvaluationAnswer struct {
	Allowed bool `json:"decision"`
	Context struct {
		Decision string       `json:"decision"` // id of its record
		Term     mayfly.Term  `json:"term"`     // with a no: the term that refuses
		Reason   string       `json:"reason"`
		Next     *mayfly.Next `json:"next"`
		// Error is set in a batch where there was nothing to decide on.
		Error *struct {
			Status  int    `json:"status"`
			Message string `json:"message"`
		} `json:"error"`
	} `json:"context"`
}

// Evaluate asks the decision point about one call, as the operator, or as the
// task that would make it.
func (c *Client) Evaluate(ctx context.Context, e Evaluation) (EvaluationAnswer, error) {
	var a EvaluationAnswer
	err := c.call(ctx, request{method: http.MethodPost, path: "/access/v1/evaluation", json: e}, &a)
	return a, err
}

// The semantics of a batch: whether all is answered, or the first no or yes is
// the last answer.
const (
	ExecuteAll          = "execute_all"
	DenyOnFirstDeny     = "deny_on_first_deny"
	PermitOnFirstPermit = "permit_on_first_permit"
)

// Evaluations asks the decision point about at most 50 calls at once; what one
// does not set is that of otherwise. semantic "" is ExecuteAll. The answers are
// in the order of the questions, and may be fewer.
func (c *Client) Evaluations(ctx context.Context, otherwise Evaluation, semantic string, questions []Evaluation) ([]EvaluationAnswer, error) {
	if len(questions) == 0 {
		return nil, mayfly.Errorf(mayfly.Invalid, "there is nothing to evaluate")
	}
	type options struct {
		Semantic string `json:"evaluations_semantic"`
	}
	body := struct {
		Evaluation
		Evaluations []Evaluation `json:"evaluations"`
		Options     *options     `json:"options,omitempty"`
	}{Evaluation: otherwise, Evaluations: questions}
	if semantic != "" {
		body.Options = &options{semantic}
	}
	var a struct {
		Evaluations []EvaluationAnswer `json:"evaluations"`
	}
	err := c.call(ctx, request{method: http.MethodPost, path: "/access/v1/evaluations", json: body}, &a)
	return a.Evaluations, err
}
