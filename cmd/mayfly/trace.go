package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/client"
	"github.com/mayfly-id/mayfly/internal/graph"
)

// traceCmd is mayfly trace.
type traceCmd struct {
	ID      string `arg:"" optional:"" help:"A task, a decision, a record, a token's jti, a lease, what a target calls one (such as a database role), the id that a target gave a request, or a W3C trace id."`
	Human   string `placeholder:"ID" help:"Forward: everything that was touched on this human's authority, or a service's."`
	Profile string `placeholder:"NAME" help:"Forward: everything that tasks under this profile touched, and those below them."`
	Task    string `placeholder:"ID" help:"Forward: everything that this task touched, and those below it."`
	Since   string `placeholder:"TIME" help:"Forward: only from then on: a time, or how long ago, such as 24h."`
	Until   string `placeholder:"TIME" help:"Forward: only before then."`
	SVG     string `name:"svg" placeholder:"FILE" help:"Write it as a drawing too."`
}

// Help is the long help.
func (traceCmd) Help() string {
	return `Back, from anything that was recorded to whoever is behind it:

  mayfly trace dec_06e8…
  mayfly trace mf_06e8… --svg who.svg      the name of a role in a database's own log

Forward, from a human, a profile or a task to everything that was touched:

  mayfly trace --human alice@example.org --since 24h
  mayfly trace --task task_06e8… --svg reach.svg`
}

// Run traces.
func (c traceCmd) Run(ctx context.Context, t *terminal) error {
	asked := 0
	for _, one := range []string{c.ID, c.Human, c.Profile, c.Task} {
		if one != "" {
			asked++
		}
	}
	if asked != 1 {
		return usageError("say what to trace: one id, or one of --human, --profile and --task")
	}
	if c.ID != "" && (c.Since != "" || c.Until != "") {
		return usageError("--since and --until are for tracing forward")
	}
	api, err := t.client()
	if err != nil {
		return err
	}
	defer api.Close()
	if c.ID == "" {
		return c.forward(ctx, t, api)
	}
	tr, err := api.Trace(ctx, c.ID)
	if err != nil {
		return err
	}
	if t.JSON {
		t.print(tr)
	} else {
		showTrace(t, tr)
	}
	return c.draw(t, func() *graph.Graph { return traceGraph(c.ID, tr) })
}

// draw writes the drawing, if one was asked for.
func (c traceCmd) draw(t *terminal, of func() *graph.Graph) error {
	if c.SVG == "" {
		return nil
	}
	if err := os.WriteFile(c.SVG, of().SVG(), 0o600); err != nil {
		return err
	}
	if !t.JSON {
		fmt.Fprintf(t.Stdout, "%s: drawn\n", c.SVG)
	}
	return nil
}

func showTrace(t *terminal, tr client.Trace) {
	fmt.Fprintf(t.Stdout, "%s (%s)\n", clean(tr.Subject.Subject), tr.Subject.Kind)
	for i, task := range tr.Tasks {
		indent := strings.Repeat("  ", i+1)
		fmt.Fprintf(t.Stdout, "%s└ %s  %s  %s\n", indent, task.Profile, task.ID, state(task))
		fmt.Fprintf(t.Stdout, "%s  for: %s\n", indent, short(task.Purpose.Text, 100))
		for _, g := range task.Grants {
			fmt.Fprintf(t.Stdout, "%s  may: %s\n", indent, clean(g.Describe()))
		}
		fmt.Fprintf(t.Stdout, "%s  dlg: %s\n", indent, task.Dlg)
	}
	for _, e := range tr.Events {
		fmt.Fprintln(t.Stdout, eventLine(e))
	}
}

// drawnMost is how many calls or leases a drawing shows.
const drawnMost = 40

// traceGraph draws the way from whoever is at the root to what was asked about.
func traceGraph(id string, tr client.Trace) *graph.Graph {
	g := &graph.Graph{Title: "Who is behind " + id}
	above := "root"
	g.Boxes = append(g.Boxes, graph.Box{ID: above, Kind: graph.Delegator, Title: tr.Subject.Subject, Text: []string{string(tr.Subject.Kind)}})
	for i, task := range tr.Tasks {
		g.Boxes = append(g.Boxes, taskBox(task, i+1))
		g.Lines = append(g.Lines, graph.Line{From: above, To: string(task.ID)})
		above = string(task.ID)
	}
	for _, e := range tr.Events {
		a := accessIn(e)
		if a.what() == "" || len(g.Boxes) > drawnMost {
			continue
		}
		kind := graph.Touched
		switch {
		case a.Decision.Verdict != "" && a.Decision.Verdict != mayfly.Allow:
			kind = graph.Refused
		case strings.HasPrefix(e.Kind, "lease."):
			kind = graph.Lent
		}
		g.Boxes = append(g.Boxes, graph.Box{
			ID: e.ID, Column: len(tr.Tasks) + 1, Kind: kind, Title: a.what(), Text: []string{e.Kind + "  " + a.verdict(), e.Time.UTC().Format("2006-01-02 15:04:05") + " UTC", e.Decision},
		})
		g.Lines = append(g.Lines, graph.Line{From: above, To: e.ID})
	}
	return g
}

func taskBox(task client.Task, column int) graph.Box {
	return graph.Box{
		ID: string(task.ID), Column: column, Kind: graph.Task, Title: task.Profile,
		Text: taskText(task),
	}
}

func taskText(task client.Task) []string {
	return []string{task.Purpose.Text, state(task), string(task.ID)}
}

// eventLine is one record for a person.
func eventLine(e client.Event) string {
	position := "     -"
	if e.Position != nil {
		position = fmt.Sprintf("%6d", *e.Position)
	}
	line := fmt.Sprintf("%s  %s  %-22s", position, e.Time.Local().Format("15:04:05.000"), e.Kind)
	if e.Decision != "" {
		line += "  " + e.Decision
	} else if e.Task != "" {
		line += "  " + string(e.Task)
	}
	if e.Term != "" {
		line += "  denied: " + string(e.Term)
	}
	return line
}
