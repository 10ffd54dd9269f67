package main

import (
	"context"

	"github.com/mayfly-id/mayfly"
)

// widenCmd is mayfly widen.
type widenCmd struct {
	ID  string   `arg:"" help:"The task."`
	Can []string `required:"" help:"What it shall be able to do as well; again for more." placeholder:"GRANT" sep:"none"`
}

// Help is the long help.
func (widenCmd) Help() string {
	return `Gives a task that runs more grants, within its profile and every task above it. The
task itself may ask, and the human at its root, with a token made for the operators
audience in MAYFLY_HUMAN_TOKEN: that is their yes. What a policy wants approved
waits for it (exit 1, with the request's id); repeat the command then.

  mayfly widen task_06e8… --can mcp:bank:list_vendors`
}

// Run widens a task.
func (c widenCmd) Run(ctx context.Context, t *terminal) error {
	grants, err := grantFlags(c.Can)
	if err != nil {
		return err
	}
	api, err := t.client()
	if err != nil {
		return err
	}
	defer api.Close()
	task, err := api.Widen(ctx, mayfly.TaskID(c.ID), grants)
	if err != nil {
		return err
	}
	if t.JSON {
		t.print(task)
		return nil
	}
	return showTask(t.Stdout, task)
}
