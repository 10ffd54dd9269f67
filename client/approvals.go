package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"iter"
	"net/http"
	"net/url"
	"time"

	"github.com/mayfly-id/mayfly"
)

// Approval is a request for a human's yes, or several, to one exact action.
// Action and Request are the server's words; Purpose is the agent's or the
// delegator's.
type Approval struct {
	ID          string               `json:"id"`
	State       mayfly.ApprovalState `json:"state"`
	What        string               `json:"what"`              // call, open or widen
	Action      string               `json:"action"`            // one sentence
	Grant       string               `json:"grant"`             // the same in short
	Request     json.RawMessage      `json:"request,omitempty"` // the same in full, while it can be answered or used
	Task        mayfly.TaskID        `json:"task,omitempty"`    // "" for an opening
	Profile     string               `json:"profile"`
	Root        Root                 `json:"root"`
	Purpose     mayfly.Purpose       `json:"purpose"`
	Needs       []string             `json:"needs"`          // who must say yes: groups, or mayfly.NeedDelegator
	Open        []string             `json:"open,omitempty"` // those nobody has spoken for
	Votes       []mayfly.Vote        `json:"votes,omitempty"`
	Policies    []string             `json:"policies,omitempty"`
	Decision    string               `json:"decision"`
	Bundle      string               `json:"bundle"`
	AskedAt     time.Time            `json:"asked_at"`
	ExpiresAt   time.Time            `json:"expires_at"`
	UsableUntil time.Time            `json:"usable_until,omitzero"`
	DeniedBy    string               `json:"denied_by,omitempty"`
	Note        string               `json:"note,omitempty"`
	UsedAt      time.Time            `json:"used_at,omitzero"`
}

// Approvals lists requests for approval, newest first, one page at a time: those
// that wait, or all. cursor is "" for the first page, and next is "" after the
// last. limit 0 is the server's default.
func (c *Client) Approvals(ctx context.Context, all bool, cursor string, limit int) (approvals []Approval, next string, err error) {
	q := page(cursor, limit)
	if all {
		q.Set("state", "all")
	}
	var a struct {
		Approvals []Approval `json:"approvals"`
		Next      string     `json:"next"`
	}
	err = c.call(ctx, request{method: http.MethodGet, path: "/v1/approvals", query: q}, &a)
	return a.Approvals, a.Next, err
}

func approvalPath(id string) string { return "/v1/approvals/" + url.PathEscape(id) }

// Approval reads one request for approval.
func (c *Client) Approval(ctx context.Context, id string) (Approval, error) {
	var a Approval
	err := c.call(ctx, request{method: http.MethodGet, path: approvalPath(id)}, &a)
	return a, err
}

func (c *Client) answerApproval(ctx context.Context, id, decision, note string) (Approval, error) {
	body := struct {
		Decision string `json:"decision"`
		Note     string `json:"note,omitempty"`
	}{decision, note}
	var a Approval
	err := c.call(ctx, request{method: http.MethodPost, path: approvalPath(id), json: body}, &a)
	return a, err
}

// Approve says yes to a request, as a human with a token that no agent is handed;
// the note, of at most 512 bytes, is recorded.
// The error is Conflict where somebody answered before, Gone where it expired.
func (c *Client) Approve(ctx context.Context, id, note string) (Approval, error) {
	return c.answerApproval(ctx, id, "approve", note)
}

// Deny says no to a request, with a note of at most 512 bytes.
func (c *Client) Deny(ctx context.Context, id, note string) (Approval, error) {
	return c.answerApproval(ctx, id, "deny", note)
}

// ApprovalChange is news of requests that wait.
type ApprovalChange struct {
	Approval Approval // that is new, or changed; with Gone, only its ID is set
	Gone     bool     // it waits no longer
}

// streamLine is the longest line of a stream, in bytes.
const streamLine = 1 << 20

// WatchApprovals gives every request that waits, again when it changes, and its
// id when it waits no longer. It ends with an error, which comes last, or with
// the stream: a server ends one after a while, and whoever still wants to know
// watches anew, knowing nothing.
func (c *Client) WatchApprovals(ctx context.Context) iter.Seq2[ApprovalChange, error] {
	return func(yield func(ApprovalChange, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		resp, err := c.begin(ctx, request{method: http.MethodGet, path: "/v1/approvals", stream: true})
		if err != nil {
			yield(ApprovalChange{}, err)
			return
		}
		defer resp.Body.Close()
		for e, err := range serverEvents(resp.Body) {
			if err != nil {
				yield(ApprovalChange{}, c.unreachable(err))
				return
			}
			var change ApprovalChange
			switch e.kind {
			case "approval":
			case "gone":
				change.Gone = true
			default:
				continue // of a newer server
			}
			if err := json.Unmarshal(e.data, &change.Approval); err != nil {
				yield(ApprovalChange{}, mayfly.Errorf(mayfly.BadUpstream, "the server's stream is not the JSON expected; are client and server of the same version?").Because(err))
				return
			}
			if !yield(change, nil) {
				return
			}
		}
	}
}

type serverEvent struct {
	kind string
	data []byte
}

// serverEvents reads a stream of server-sent events, as far as ours use them:
// event, data and comments.
func serverEvents(r io.Reader) iter.Seq2[serverEvent, error] {
	return func(yield func(serverEvent, error) bool) {
		lines := bufio.NewScanner(r)
		lines.Buffer(nil, streamLine)
		var e serverEvent
		for lines.Scan() {
			name, value, _ := bytes.Cut(lines.Bytes(), []byte(":"))
			value = bytes.TrimPrefix(value, []byte(" "))
			switch {
			case len(lines.Bytes()) == 0:
				if e.data != nil && !yield(e, nil) {
					return
				}
				e = serverEvent{}
			case string(name) == "event":
				e.kind = string(value)
			case string(name) == "data":
				if e.data != nil {
					e.data = append(e.data, '\n')
				}
				e.data = append(e.data, value...)
			}
		}
		if err := lines.Err(); err != nil {
			yield(serverEvent{}, err)
		}
	}
}

// Pins lists what tools are pinned to. Only the operator may.
func (c *Client) Pins(ctx context.Context) ([]mayfly.Pin, error) {
	var a struct {
		Pins []mayfly.Pin `json:"pins"`
	}
	err := c.call(ctx, request{method: http.MethodGet, path: "/v1/pins"}, &a)
	return a.Pins, err
}

// AcceptPin pins what a tool has changed to. Only the operator may; the error is
// Conflict where there is nothing to accept, or the tool has changed to another
// definition than that with hash, which is Pin.Changed of what was looked at.
func (c *Client) AcceptPin(ctx context.Context, target, tool, hash string) (mayfly.Pin, error) {
	var p mayfly.Pin
	path := "/v1/pins/" + url.PathEscape(target) + "/" + url.PathEscape(tool) + "/accept"
	body := struct {
		Hash string `json:"hash"`
	}{hash}
	err := c.call(ctx, request{method: http.MethodPost, path: path, json: body}, &p)
	return p, err
}
