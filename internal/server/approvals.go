package server

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/authority"
	"github.com/mayfly-id/mayfly/internal/strictjson"
)

// widening is what a task asks for beyond what it has.
type widening struct {
	Grants []mayfly.Grant `json:"grants"`
}

func (c *call) widen(in widening) (authority.TaskView, error) {
	return c.s.a.Widen(c.ctx(), c.presented(), c.values["id"], in.Grants)
}

// approvals lists requests for approval: a page, or as a stream of those that
// wait where the reader accepts one.
func approvals(c *call) error {
	waiting := true
	switch state := c.query.Get("state"); state {
	case "", string(mayfly.Waiting):
	case "all":
		waiting = false
	default:
		return mayfly.Errorf(mayfly.Invalid, "state is pending or all")
	}
	limit, err := c.limit()
	if err != nil {
		return err
	}
	if c.wantsStream() {
		if len(c.query) > 0 && (!waiting || c.query.Has("cursor") || c.query.Has("limit")) {
			return mayfly.Errorf(mayfly.Invalid, "a stream is of all requests that wait; leave the query out")
		}
		return c.streamApprovals()
	}
	return answers(func(c *call) (authority.ApprovalPage, error) {
		return c.s.a.Approvals(c.ctx(), c.presented(), waiting, c.query.Get("cursor"), limit)
	})(c)
}

// watchedMax is how many requests a stream can know of at once: what one
// reading gives.
const watchedMax = 500

// streamApprovals writes every request that waits, again when it changes, and
// its id when it waits no longer.
func (c *call) streamApprovals() error {
	read, err := c.s.a.WatchApprovals(c.ctx(), c.presented())
	if err != nil {
		return err
	}
	known := map[string]string{}
	return c.pour("requests that wait, from here on", func(ctx context.Context) (string, bool, error) {
		list, err := read(ctx)
		if err != nil {
			return "", false, err
		}
		text, err := changes(known, list)
		return text, false, err
	})
}

// changes writes how list, newest first, differs from what is known, and makes
// that known: an event approval for each that is new or reads otherwise, oldest
// first, and gone for each that is not there. Of a list that is full, the end
// may be missing, so nothing is concluded about what is older.
func changes(known map[string]string, list []authority.ApprovalView) (string, error) {
	var b strings.Builder
	there := make(map[string]bool, len(list))
	for _, v := range slices.Backward(list) {
		there[v.ID] = true
		data, err := strictjson.Marshal(v)
		if err != nil {
			return "", err
		}
		if known[v.ID] != string(data) {
			known[v.ID] = string(data)
			fmt.Fprintf(&b, "event: approval\ndata: %s\n\n", data)
		}
	}
	for id := range known {
		if there[id] || len(list) >= watchedMax && id < list[len(list)-1].ID {
			continue
		}
		delete(known, id)
		data, err := strictjson.Marshal(struct {
			ID string `json:"id"`
		}{id})
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "event: gone\ndata: %s\n\n", data)
	}
	return b.String(), nil
}

func (c *call) approval() (authority.ApprovalView, error) {
	return c.s.a.Approval(c.ctx(), c.presented(), c.values["id"])
}

// verdict is a human's answer to a request.
type verdict struct {
	Decision string `json:"decision"`
	Note     string `json:"note"`
}

func (c *call) answerApproval(in verdict) (authority.ApprovalView, error) {
	switch in.Decision {
	case "approve":
		return c.s.a.Approve(c.ctx(), c.presented(), c.values["id"], in.Note)
	case "deny":
		return c.s.a.Deny(c.ctx(), c.presented(), c.values["id"], in.Note)
	}
	return authority.ApprovalView{}, mayfly.Errorf(mayfly.Invalid, "decision is approve or deny")
}

// pinned are the pins of all tools.
type pinned struct {
	Pins []mayfly.Pin `json:"pins"`
}

func (c *call) pins() (pinned, error) {
	pins, err := c.s.a.Pins(c.ctx(), c.presented())
	return pinned{pins}, err
}

// looked is the definition of a tool that somebody looked at.
type looked struct {
	Hash string `json:"hash"`
}

func (c *call) acceptPin(in looked) (*mayfly.Pin, error) {
	return c.s.a.AcceptPin(c.ctx(), c.presented(), c.values["target"], c.values["tool"], in.Hash)
}
