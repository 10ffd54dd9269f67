package main

import (
	"context"
	"fmt"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/client"
)

// completeCmd is mayfly complete.
type completeCmd struct {
	ID string `arg:"" help:"The task."`
}

// Run ends a task as finished.
func (c completeCmd) Run(ctx context.Context, t *terminal) error {
	api, err := t.client()
	if err != nil {
		return err
	}
	defer api.Close()
	task, err := api.Complete(ctx, mayfly.TaskID(c.ID))
	if err != nil {
		return err
	}
	return t.ended(task)
}

func (t *terminal) ended(task client.Task) error {
	if t.JSON {
		t.print(task)
		return nil
	}
	fmt.Fprintf(t.Stdout, "%s is %s (%s); its tokens, and everything below it, are over\n", task.ID, task.State, task.Reason)
	return nil
}
