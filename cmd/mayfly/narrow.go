package main

import (
	"context"

	"github.com/mayfly-id/mayfly"
)

// narrowCmd is mayfly narrow.
type narrowCmd struct {
	ID  string   `arg:"" help:"The task."`
	Can []string `required:"" help:"What it may still do; again for more." placeholder:"GRANT" sep:"none"`
}

// Help is the long help.
func (narrowCmd) Help() string {
	return `Takes from a task everything but these grants. It holds at once, for every token the
task has and for everything below it.

  mayfly narrow task_06e8… --can mcp:bank:list_invoices`
}

// Run narrows a task.
func (c narrowCmd) Run(ctx context.Context, t *terminal) error {
	grants, err := grantFlags(c.Can)
	if err != nil {
		return err
	}
	api, err := t.client()
	if err != nil {
		return err
	}
	defer api.Close()
	task, err := api.Narrow(ctx, mayfly.TaskID(c.ID), grants)
	if err != nil {
		return err
	}
	if t.JSON {
		t.print(task)
		return nil
	}
	return showTask(t.Stdout, task)
}
