package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/mayfly-id/mayfly/client"
)

// traceCmd is mayfly trace.
type traceCmd struct {
	ID string `arg:"" help:"A task, a decision, a record, a token's jti, a lease, or the name of a database role that was lent."`
}

// Run leads from any id back to whoever is behind it.
func (c traceCmd) Run(ctx context.Context, t *terminal) error {
	api, err := t.client()
	if err != nil {
		return err
	}
	defer api.Close()
	tr, err := api.Trace(ctx, c.ID)
	if err != nil {
		return err
	}
	if t.JSON {
		t.print(tr)
		return nil
	}
	fmt.Fprintf(t.Stdout, "%s (%s)\n", clean(tr.Subject.Subject), tr.Subject.Kind)
	for i, task := range tr.Tasks {
		indent := strings.Repeat("  ", i+1)
		fmt.Fprintf(t.Stdout, "%s└ %s  %s  %s\n", indent, task.Profile, task.ID, state(task))
		fmt.Fprintf(t.Stdout, "%s  for: %s\n", indent, short(task.Purpose.Text, 100))
		for _, g := range task.Grants {
			fmt.Fprintf(t.Stdout, "%s  may: %s\n", indent, clean(describeGrant(g)))
		}
		fmt.Fprintf(t.Stdout, "%s  dlg: %s\n", indent, task.Dlg)
	}
	for _, e := range tr.Events {
		fmt.Fprintln(t.Stdout, eventLine(e))
	}
	return nil
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
