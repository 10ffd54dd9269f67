package client

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-id/mayfly"
)

// Task is a task as /v1 shows it.
type Task struct {
	ID         mayfly.TaskID      `json:"id"`
	Identity   string             `json:"identity"` // the agent's SPIFFE ID
	Profile    string             `json:"profile"`
	Bundle     string             `json:"bundle"`
	Purpose    mayfly.Purpose     `json:"purpose"`
	Root       Root               `json:"root"`
	Chain      []string           `json:"chain"` // the root delegator's id, then task ids from the root task to this one
	Parent     mayfly.TaskID      `json:"parent,omitempty"`
	Depth      int                `json:"depth"`
	Grants     []mayfly.Grant     `json:"grants"`
	State      mayfly.TaskState   `json:"state"`
	Reason     mayfly.CloseReason `json:"reason,omitempty"`
	ClosedBy   string             `json:"closed_by,omitempty"`
	OpenedAt   time.Time          `json:"opened_at"`
	IdleUntil  time.Time          `json:"idle_until"`
	Deadline   time.Time          `json:"deadline"`
	ClosedAt   time.Time          `json:"closed_at,omitzero"`
	RetiredAt  time.Time          `json:"retired_at,omitzero"`
	Budget     []Budget           `json:"budget,omitempty"`
	Seen       []string           `json:"labels_seen,omitempty"` // by the whole tree under its root task
	Key        string             `json:"jkt,omitempty"`         // thumbprint; "" for an unbound task
	Evidence   mayfly.Evidence    `json:"evidence"`
	Dlg        string             `json:"dlg"`
	Delegation string             `json:"delegation,omitempty"` // the ticket redeemed, if one was
	Node       string             `json:"node,omitempty"`
}

// Root is who a chain starts from.
type Root struct {
	Subject string             `json:"sub"`
	Kind    mayfly.SubjectKind `json:"kind"`
	Source  string             `json:"source,omitempty"`
}

// Budget is what a task may spend and has spent: on one grant, or with Grant ""
// altogether.
type Budget struct {
	Task  mayfly.TaskID `json:"task,omitempty"`
	Grant string        `json:"grant,omitempty"`
	Calls int64         `json:"calls"` // 0: they are not counted
	Used  int64         `json:"used"`
	Sums  []Sum         `json:"sums,omitempty"`
	Rate  *Rate         `json:"rate,omitempty"`
}

// Sum is what one argument may add up to and has, as decimals.
type Sum struct {
	Argument string `json:"argument"`
	Max      string `json:"max"`
	Used     string `json:"used"`
}

// Rate is how many calls there may be in what time, and were in the time before
// the answer.
type Rate struct {
	Calls int64  `json:"calls"`
	Per   string `json:"per"` // a duration as Go writes it
	Used  int64  `json:"used"`
}

// Event is one record of the log. Body is absent where it was erased.
type Event struct {
	ID       string          `json:"id"`
	Position *int64          `json:"position,omitempty"` // nil until it is sequenced
	Time     time.Time       `json:"time"`
	Kind     string          `json:"kind"`
	Task     mayfly.TaskID   `json:"task,omitempty"`
	Decision string          `json:"decision,omitempty"`
	Parent   string          `json:"parent,omitempty"`
	Term     mayfly.Term     `json:"term,omitempty"`
	Person   string          `json:"person,omitempty"` // pseudonym of whom it is about
	Dlg      string          `json:"dlg,omitempty"`    // leaf hash of the record
	Body     json.RawMessage `json:"body,omitempty"`
}

// Filter narrows a list of tasks. A zero field does not narrow.
type Filter struct {
	State   mayfly.TaskState
	Profile string
	Root    string // the root delegator's id
	Target  string
}

// Tasks lists tasks, newest first, one page at a time: cursor is "" for the
// first, and next is "" after the last. limit 0 is the server's default.
func (c *Client) Tasks(ctx context.Context, f Filter, cursor string, limit int) (tasks []Task, next string, err error) {
	q := page(cursor, limit)
	for name, value := range map[string]string{"state": string(f.State), "profile": f.Profile, "root": f.Root, "target": f.Target} {
		if value != "" {
			q.Set(name, value)
		}
	}
	var a struct {
		Tasks []Task `json:"tasks"`
		Next  string `json:"next"`
	}
	err = c.call(ctx, request{method: http.MethodGet, path: "/v1/tasks", query: q}, &a)
	return a.Tasks, a.Next, err
}

func page(cursor string, limit int) url.Values {
	q := url.Values{}
	if cursor != "" {
		q.Set("cursor", cursor)
	}
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	return q
}

func (c *Client) task(ctx context.Context, method string, id mayfly.TaskID, verb string, body any) (Task, error) {
	var t Task
	err := c.call(ctx, request{method: method, path: taskPath(id) + verb, json: body}, &t)
	return t, err
}

func taskPath(id mayfly.TaskID) string { return "/v1/tasks/" + url.PathEscape(string(id)) }

// Task reads one task.
func (c *Client) Task(ctx context.Context, id mayfly.TaskID) (Task, error) {
	return c.task(ctx, http.MethodGet, id, "", nil)
}

// Tree reads a task and everything below it, parents before children.
func (c *Client) Tree(ctx context.Context, id mayfly.TaskID) ([]Task, error) {
	var a struct {
		Tasks []Task `json:"tasks"`
	}
	err := c.call(ctx, request{method: http.MethodGet, path: taskPath(id) + "/tree"}, &a)
	return a.Tasks, err
}

// Events reads what happened to a task, oldest first, a page at a time.
func (c *Client) Events(ctx context.Context, id mayfly.TaskID, cursor string, limit int) (events []Event, next string, err error) {
	var a struct {
		Events []Event `json:"events"`
		Next   string  `json:"next"`
	}
	err = c.call(ctx, request{method: http.MethodGet, path: taskPath(id) + "/events", query: page(cursor, limit)}, &a)
	return a.Events, a.Next, err
}

// Complete says that the work is done. It ends the task and everything below it.
func (c *Client) Complete(ctx context.Context, id mayfly.TaskID) (Task, error) {
	return c.task(ctx, http.MethodPost, id, "/complete", nil)
}

// Revoke ends a task and everything below it.
func (c *Client) Revoke(ctx context.Context, id mayfly.TaskID) (Task, error) {
	return c.task(ctx, http.MethodPost, id, "/revoke", nil)
}

// Heartbeat renews a task's idle lease, never past its deadline.
func (c *Client) Heartbeat(ctx context.Context, id mayfly.TaskID) (Task, error) {
	return c.task(ctx, http.MethodPost, id, "/heartbeat", nil)
}

// Narrow reduces what a task may do to grants, for every token it has.
func (c *Client) Narrow(ctx context.Context, id mayfly.TaskID, grants []mayfly.Grant) (Task, error) {
	if grants == nil {
		grants = []mayfly.Grant{}
	}
	return c.task(ctx, http.MethodPost, id, "/narrow", struct {
		Grants []mayfly.Grant `json:"grants"`
	}{grants})
}

// Widen asks for more grants for a task: within its profile and every task above
// it. Where a human must agree first, the error is Denied, and its Next names
// the approval; the same call is made again after the yes.
func (c *Client) Widen(ctx context.Context, id mayfly.TaskID, grants []mayfly.Grant) (Task, error) {
	return c.task(ctx, http.MethodPost, id, "/widen", struct {
		Grants []mayfly.Grant `json:"grants"`
	}{grants})
}

// DelegateRequest asks for a ticket.
type DelegateRequest struct {
	Profile string
	Purpose string
	Grants  []mayfly.Grant // none is the profile's default
	TTL     time.Duration  // of the ticket; 0 is the server's default
	TaskTTL time.Duration  // of the task it opens; 0 is the profile's default
	Uses    int64          // how many tasks it opens; 0 is one
}

// Ticket is a voucher for a delegation. Whoever fits the profile and holds the
// ticket can redeem it, so it is handed over, not stored.
type Ticket struct {
	Ticket     mayfly.Secret
	Delegation string
	ExpiresAt  time.Time
}

// Delegate makes a ticket.
func (c *Client) Delegate(ctx context.Context, r DelegateRequest) (Ticket, error) {
	body := struct {
		Profile string         `json:"profile"`
		Purpose string         `json:"purpose"`
		Grants  []mayfly.Grant `json:"grants,omitempty"`
		TTL     string         `json:"ttl,omitempty"`
		TaskTTL string         `json:"task_ttl,omitempty"`
		Uses    int64          `json:"uses,omitempty"`
	}{r.Profile, r.Purpose, r.Grants, duration(r.TTL), duration(r.TaskTTL), r.Uses}
	var a struct {
		Ticket     string    `json:"ticket"`
		Delegation string    `json:"delegation"`
		ExpiresAt  time.Time `json:"expires_at"`
	}
	err := c.call(ctx, request{method: http.MethodPost, path: "/v1/delegations", json: body}, &a)
	return Ticket{mayfly.NewSecret(a.Ticket), a.Delegation, a.ExpiresAt}, err
}

func duration(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return d.String()
}

// RevokeAll throws the kill switch: it closes every live task with value
// anywhere in its chain and refuses new ones until it is lifted. kind is human,
// service, profile, source, client, or all with an empty value.
func (c *Client) RevokeAll(ctx context.Context, kind, value string) (mayfly.Revocation, error) {
	body := map[string]any{kind: value}
	if kind == "all" {
		body[kind] = true
	}
	var a struct {
		Revocation mayfly.Revocation `json:"revocation"`
	}
	err := c.call(ctx, request{method: http.MethodPost, path: "/v1/revocations", json: body}, &a)
	return a.Revocation, err
}

// Revocations lists what is in force.
func (c *Client) Revocations(ctx context.Context) ([]mayfly.Revocation, error) {
	var a struct {
		Revocations []mayfly.Revocation `json:"revocations"`
	}
	err := c.call(ctx, request{method: http.MethodGet, path: "/v1/revocations"}, &a)
	return a.Revocations, err
}

// Erased is what became of a person.
type Erased struct {
	Person   string   `json:"person"`             // the pseudonym, which leads to nobody any more
	Standing []string `json:"standing,omitempty"` // ids of revocations that go on naming them
	Scrubbed bool     `json:"scrubbed"`           // what was there before is gone from the disk too
}

// Erase makes what is recorded about a human unreadable for ever. Nothing may be
// live for them.
func (c *Client) Erase(ctx context.Context, human string) (Erased, error) {
	var e Erased
	err := c.call(ctx, request{method: http.MethodPost, path: "/v1/erasures", json: struct {
		Human string `json:"human"`
	}{human}}, &e)
	return e, err
}

// LiftRevocation lets new tasks open again. Nothing comes back to life.
func (c *Client) LiftRevocation(ctx context.Context, id string) error {
	return c.call(ctx, request{method: http.MethodDelete, path: "/v1/revocations/" + url.PathEscape(id)}, nil)
}

// CompromiseKey refuses every token that the signing key kid ever signed.
func (c *Client) CompromiseKey(ctx context.Context, kid string) error {
	return c.call(ctx, request{method: http.MethodPost, path: "/v1/keys/" + url.PathEscape(kid) + "/compromise"}, nil)
}

// Trace is the way from one thing back to who it was done for.
type Trace struct {
	Subject     Root         `json:"subject"`
	Tasks       []Task       `json:"tasks"` // root task first
	Delegations []Delegation `json:"delegations"`
	Events      []Event      `json:"events"` // the thing itself and what followed from it
}

// Delegation is one link of a Trace.
type Delegation struct {
	ID      string         `json:"delegation,omitempty"` // the ticket redeemed, if one was
	Dlg     string         `json:"dlg"`
	Parent  string         `json:"parent,omitempty"` // Dlg of the link above
	Task    mayfly.TaskID  `json:"task"`
	Purpose mayfly.Purpose `json:"purpose"`
	Grants  []mayfly.Grant `json:"grants"`
	At      time.Time      `json:"at"`
}

// Trace follows any id (of a task, a decision, a delegation, a record or a
// token) back to the human or service at the root.
func (c *Client) Trace(ctx context.Context, id string) (Trace, error) {
	var t Trace
	err := c.call(ctx, request{method: http.MethodGet, path: "/v1/trace/" + url.PathEscape(id)}, &t)
	return t, err
}

// Query is what a search looks for. What is "" or zero is not asked about; what is
// asked about must all be so.
type Query struct {
	Human    string // whom a record is about, or who did it; a service's id too
	Agent    string // a task's id or SPIFFE ID, or the workload that runs it; with everything below
	Profile  string // of a task; with everything below
	Target   string
	Tool     string // or METHOD:/path
	Label    string // of what was called
	Term     string // that denied
	Kind     string // of event
	Trace    string // W3C trace id
	Upstream string // id that a target gave a request
	Since    time.Time
	Until    time.Time // exclusive
}

// Search reads what was recorded of what q asks for, newest first, a page at a
// time; next is the cursor of the page after, "" at the end. A page can be short
// and not be the last.
func (c *Client) Search(ctx context.Context, q Query, cursor string, limit int) (events []Event, next string, err error) {
	values := page(cursor, limit)
	for name, value := range map[string]string{
		"human": q.Human, "agent": q.Agent, "profile": q.Profile, "target": q.Target, "tool": q.Tool, "label": q.Label,
		"term": q.Term, "kind": q.Kind, "trace": q.Trace, "upstream": q.Upstream, "since": timeText(q.Since), "until": timeText(q.Until),
	} {
		if value != "" {
			values.Set(name, value)
		}
	}
	var a struct {
		Events []Event `json:"events"`
		Next   string  `json:"next"`
	}
	err = c.call(ctx, request{method: http.MethodGet, path: "/v1/search", query: values}, &a)
	return a.Events, a.Next, err
}

// timeText is t as a parameter.
func timeText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// Feed reads the log after a position, a page at a time, from the beginning if
// after is negative; next is the position of the last event read, or after if
// there was none.
func (c *Client) Feed(ctx context.Context, after int64, limit int) (events []Event, next int64, err error) {
	q := page("", limit)
	if after >= 0 {
		q.Set("after", strconv.FormatInt(after, 10))
	}
	a := struct {
		Events []Event `json:"events"`
		Next   int64   `json:"next"`
	}{Next: after}
	err = c.call(ctx, request{method: http.MethodGet, path: "/v1/events", query: q}, &a)
	return a.Events, a.Next, err
}

// Checkpoint is the log's signed tree head (C2SP tlog-checkpoint).
func (c *Client) Checkpoint(ctx context.Context) (string, error) {
	var note string
	err := c.call(ctx, request{method: http.MethodGet, path: "/log/checkpoint", open: true}, &note)
	return note, err
}

// LogKey is the key that verifies checkpoints (C2SP signed-note), one line.
func (c *Client) LogKey(ctx context.Context) (string, error) {
	var line string
	err := c.call(ctx, request{method: http.MethodGet, path: "/log/vkey", open: true}, &line)
	return line, err
}

// LogFile is one file of the log as it is served below /log/ (C2SP tlog-tiles):
// checkpoint, or a tile such as tile/0/000. Tiles of entries are for whoever may
// read the log.
func (c *Client) LogFile(ctx context.Context, path string) ([]byte, error) {
	var data string
	err := c.call(ctx, request{method: http.MethodGet, path: "/log/" + path, open: !strings.HasPrefix(path, "tile/entries/")}, &data)
	return []byte(data), err
}

// Ready reports whether the server can act: nil, or why not.
func (c *Client) Ready(ctx context.Context) error {
	return c.call(ctx, request{method: http.MethodGet, path: "/readyz", open: true}, nil)
}
