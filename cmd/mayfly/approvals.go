package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/client"
	"github.com/mayfly-id/mayfly/internal/authority"
)

// approvalsCmd is mayfly approvals.
type approvalsCmd struct {
	List    approvalsListCmd    `cmd:"" default:"withargs" help:"Show the requests that wait for a human."`
	Approve approvalsApproveCmd `cmd:"" help:"Say yes to a request."`
	Deny    approvalsDenyCmd    `cmd:"" help:"Say no to a request."`
}

// Help is the long help.
func (approvalsCmd) Help() string {
	return `Alone it lists what waits, as mayfly approvals list does.

  mayfly approvals
  mayfly approvals deny apr_06e8… --note 'ask for the smaller one'`
}

// approvalsListCmd is mayfly approvals without more.
type approvalsListCmd struct {
	All   bool `help:"Also requests that were answered, used, or expired."`
	Watch bool `help:"Go on, and show each request when it comes."`
}

// Help is the long help.
func (approvalsListCmd) Help() string {
	return `Shows what agents may not do before a human says yes, by task: what would be done,
with every argument as it would be sent, who must say yes, and how long they may.
What is to be done is told by the server from the call itself. The purpose is what
the agent, or who delegated to it, says.

  mayfly approvals --watch`
}

// Run lists requests, or watches them.
func (c approvalsListCmd) Run(ctx context.Context, t *terminal) error {
	if c.All && c.Watch {
		return usageError("--watch shows what waits; leave --all out")
	}
	api, err := t.client()
	if err != nil {
		return err
	}
	defer api.Close()
	if c.Watch {
		return watchApprovals(ctx, t, api)
	}
	list := []client.Approval{}
	for cursor := ""; ; {
		page, next, err := api.Approvals(ctx, c.All, cursor, 500)
		if err != nil {
			return err
		}
		list = append(list, page...)
		if cursor = next; cursor == "" {
			break
		}
	}
	if t.JSON {
		t.print(struct {
			Approvals []client.Approval `json:"approvals"`
		}{list})
		return nil
	}
	if len(list) == 0 {
		fmt.Fprintln(t.Stdout, map[bool]string{false: "nothing waits for a human", true: "no approval was ever asked for"}[c.All])
		return nil
	}
	for i, group := range byTask(list) {
		if i > 0 {
			fmt.Fprintln(t.Stdout)
		}
		showAsking(t.Stdout, group[0])
		for _, one := range group {
			showApproval(t.Stdout, one, time.Now())
		}
	}
	return nil
}

// watchAgain is the pause between one stream's end and the next one's beginning.
const watchAgain = time.Second

// watchApprovals shows each request when it comes and whenever it changes, until
// ctx ends. A stream that ends is begun again: what was shown is not again.
func watchApprovals(ctx context.Context, t *terminal, api *client.Client) error {
	shown := map[string]string{}
	for {
		for change, err := range api.WatchApprovals(ctx) {
			if ctx.Err() != nil {
				return nil // told to stop
			}
			if err != nil {
				return err
			}
			t.waits(change, shown)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(watchAgain):
		}
	}
}

// waits shows news of one request, unless it is none.
func (t *terminal) waits(change client.ApprovalChange, shown map[string]string) {
	a := change.Approval
	if change.Gone {
		if _, known := shown[a.ID]; known && !t.JSON {
			fmt.Fprintf(t.Stdout, "\n%s waits no longer\n", clean(a.ID))
		} else if known {
			t.print(struct {
				ID   string `json:"id"`
				Gone bool   `json:"gone"`
			}{a.ID, true})
		}
		delete(shown, a.ID)
		return
	}
	state := fmt.Sprint(a.State, len(a.Votes))
	if shown[a.ID] == state {
		return
	}
	shown[a.ID] = state
	if t.JSON {
		t.print(a)
		return
	}
	showAsking(t.Stdout, a)
	showApproval(t.Stdout, a, time.Now())
	fmt.Fprintln(t.Stdout)
}

// byTask puts the requests of one task together, in the order in which the tasks
// come first. Those of no task are by themselves.
func byTask(list []client.Approval) [][]client.Approval {
	var groups [][]client.Approval
	at := map[mayfly.TaskID]int{}
	for _, a := range list {
		i, known := at[a.Task]
		if !known || a.Task == "" {
			i = len(groups)
			at[a.Task] = i
			groups = append(groups, nil)
		}
		groups[i] = append(groups[i], a)
	}
	return groups
}

// showAsking says who asks, and what they say it is for.
func showAsking(out io.Writer, a client.Approval) {
	line := a.Profile
	if a.Task != "" {
		line += "  " + string(a.Task)
	}
	fmt.Fprintf(out, "%s  for %s (%s)\n", clean(line), plain(a.Root.Subject), a.Root.Kind)
	whose := "the agent's word"
	if a.Purpose.Verified {
		whose = "the delegator's word"
	}
	if a.Purpose.Text != "" {
		fmt.Fprintf(out, "  purpose, %s: \"%s\"\n", whose, plain(a.Purpose.Text))
	}
}

// showApproval shows one request.
func showApproval(out io.Writer, a client.Approval, now time.Time) {
	fmt.Fprintf(out, "\n  %s  %s\n", a.ID, approvalState(a, now))
	fmt.Fprintf(out, "    %s\n", plain(a.Action))
	for _, line := range requestLines(a.Request) {
		fmt.Fprintf(out, "      %s\n", line)
	}
	for _, v := range a.Votes {
		fmt.Fprintf(out, "    yes of %s by %s\n", plain(v.Need), plain(v.By))
	}
	if len(a.Policies) > 0 {
		fmt.Fprintf(out, "    asked for by: %s\n", plain(strings.Join(a.Policies, ", ")))
	}
	if a.State == mayfly.Waiting {
		fmt.Fprintf(out, "    mayfly approvals approve %s\n", a.ID)
	}
}

// approvalState says where a request is in its life, and who is to act until when.
func approvalState(a client.Approval, now time.Time) string {
	remain := func(until time.Time) string { return max(until.Sub(now), 0).Round(time.Second).String() + " left" }
	switch a.State {
	case mayfly.Waiting:
		return "waits for " + needs(a.Open) + ", " + remain(a.ExpiresAt)
	case mayfly.Approved:
		return "approved, not used yet, " + remain(a.UsableUntil)
	case mayfly.ApprovalDenied:
		text := "denied by " + plain(a.DeniedBy)
		if a.Note != "" {
			text += ": " + plain(a.Note)
		}
		return text
	case mayfly.Used:
		return "approved, and used at " + a.UsedAt.Local().Format(time.DateTime)
	default:
		return "expired: nobody answered, or it was not used in time"
	}
}

// needs says who must say yes.
func needs(list []string) string {
	words := make([]string, len(list))
	for i, need := range list {
		words[i] = "the group " + plain(need)
		if need == mayfly.NeedDelegator {
			words[i] = "the delegator"
		}
	}
	return strings.Join(words, " and ")
}

// requestLines are what would be sent, one argument a line, or what would be
// granted, one grant a line. What cannot be read is shown as it is.
func requestLines(request json.RawMessage) []string {
	if len(request) == 0 {
		return nil
	}
	var r struct {
		Arguments map[string]json.RawMessage `json:"arguments"`
		Grants    []json.RawMessage          `json:"grants"`
		Digest    string                     `json:"digest"`
		Size      int64                      `json:"size"`
	}
	if err := json.Unmarshal(request, &r); err != nil {
		return []string{plain(string(request))}
	}
	lines := []string{}
	for _, name := range names(r.Arguments) {
		lines = append(lines, plain(name)+": "+plain(string(r.Arguments[name])))
	}
	for _, g := range r.Grants {
		lines = append(lines, plain(string(g)))
	}
	if r.Digest != "" {
		lines = append(lines, fmt.Sprintf("a body of %d bytes, SHA-256 %s", r.Size, plain(r.Digest)))
	}
	return lines
}

// shownMost is the longest text from outside that is shown on one line, in
// characters. Nobody is asked about a request that is longer.
const shownMost = 16 << 10

// plain is text from outside for a person who decides on it: what cannot be
// seen, or changes the direction of writing, is spelt out.
func plain(s string) string { return authority.Plain(s, shownMost) }

// approvalsApproveCmd is mayfly approvals approve.
type approvalsApproveCmd struct {
	ID   string `arg:"" help:"The request."`
	Note string `help:"Why, for the record." placeholder:"TEXT"`
}

// Help is the long help.
func (approvalsApproveCmd) Help() string {
	return `Says yes, for every group of yours that is asked. The yes is to exactly what was
shown, under the rules of now, once. It takes a token of your identity provider that
was made for the source's operators audience, which no agent is ever handed, in
MAYFLY_HUMAN_TOKEN. Nobody approves what they delegated themselves, unless they are
who is asked.

  MAYFLY_HUMAN_TOKEN=… mayfly approvals approve apr_06e8…`
}

// Run says yes.
func (c approvalsApproveCmd) Run(ctx context.Context, t *terminal) error {
	if os.Getenv("MAYFLY_HUMAN_TOKEN") == "" {
		return mayfly.Errorf(mayfly.Denied, "an approval is one human's yes, and the socket's operator is no human in particular; "+
			"put a token of your identity provider, made for the source's operators audience, into MAYFLY_HUMAN_TOKEN")
	}
	api, err := t.client()
	if err != nil {
		return err
	}
	defer api.Close()
	a, err := api.Approve(ctx, c.ID, c.Note)
	if err != nil {
		return err
	}
	return t.answered(a)
}

// approvalsDenyCmd is mayfly approvals deny.
type approvalsDenyCmd struct {
	ID   string `arg:"" help:"The request."`
	Note string `help:"Why, for the record." placeholder:"TEXT"`
}

// Help is the long help.
func (approvalsDenyCmd) Help() string {
	return `Says no, also to what was approved and not used yet. The agent is told so.
The operator may, on the admin socket, the delegator, and whoever could say yes.

  mayfly approvals deny apr_06e8… --note 'ask for the smaller one'`
}

// Run says no.
func (c approvalsDenyCmd) Run(ctx context.Context, t *terminal) error {
	api, err := t.client()
	if err != nil {
		return err
	}
	defer api.Close()
	a, err := api.Deny(ctx, c.ID, c.Note)
	if err != nil {
		return err
	}
	return t.answered(a)
}

// answered says what became of a request.
func (t *terminal) answered(a client.Approval) error {
	if t.JSON {
		t.print(a)
		return nil
	}
	showApproval(t.Stdout, a, time.Now())
	return nil
}
