package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/client"
)

// showCmd is mayfly show.
type showCmd struct {
	ID string `arg:"" help:"The task."`
}

// Run shows one task.
func (c showCmd) Run(ctx context.Context, t *terminal) error {
	api, err := t.client()
	if err != nil {
		return err
	}
	defer api.Close()
	task, err := api.Task(ctx, mayfly.TaskID(c.ID))
	if err != nil {
		return err
	}
	if t.JSON {
		t.print(task)
		return nil
	}
	return showTask(t.Stdout, task)
}

func showTask(out io.Writer, t client.Task) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%s\t%s\n", name, clean(fmt.Sprintf(format, args...)))
	}
	row("task", "%s", t.ID)
	row("identity", "%s", t.Identity)
	row("for", "%s (%s)", t.Root.Subject, t.Root.Kind)
	row("purpose", "%s (%s)", t.Purpose.Text, vouched(t.Purpose))
	row("chain", "%s", strings.Join(t.Chain, " > "))
	for _, g := range t.Grants {
		row("may", "%s", g.Describe())
	}
	for _, b := range t.Budget {
		for _, line := range budgetLines(b) {
			row("budget", "%s", line)
		}
	}
	if len(t.Seen) > 0 {
		row("labels seen", "%s", strings.Join(t.Seen, ", "))
	}
	row("state", "%s", state(t))
	row("opened", "%s", t.OpenedAt.Local().Format(time.DateTime))
	if t.State == mayfly.Live {
		row("idle until", "%s", t.IdleUntil.Local().Format(time.DateTime))
		row("deadline", "%s (%s left)", t.Deadline.Local().Format(time.DateTime), left(t, time.Now()))
	}
	if !t.ClosedAt.IsZero() {
		row("closed", "%s by %s", t.ClosedAt.Local().Format(time.DateTime), t.ClosedBy)
	}
	if t.Key == "" {
		row("key", "none: its tokens are bearer tokens")
	} else {
		row("key", "%s", t.Key)
	}
	return w.Flush()
}

// budgetLines are what is used of one budget, a limit a line.
func budgetLines(b client.Budget) []string {
	what := b.Grant
	if what == "" {
		what = "all calls"
	}
	var lines []string
	if b.Calls > 0 {
		lines = append(lines, fmt.Sprintf("%s: %d of %s used", what, b.Used, count(int(b.Calls), "call")))
	}
	for _, sum := range b.Sums {
		lines = append(lines, fmt.Sprintf("%s: %s of %s used, sum of %s", what, sum.Used, sum.Max, sum.Argument))
	}
	if r := b.Rate; r != nil {
		lines = append(lines, fmt.Sprintf("%s: %d of %s used in the last %s", what, r.Used, count(int(r.Calls), "call"), r.Per))
	}
	return lines
}

// vouched says by whose word a purpose is one.
func vouched(p mayfly.Purpose) string {
	if p.Verified {
		return "said by the delegator"
	}
	return "stated by the agent"
}
