package main

import (
	"context"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/client"
)

// revokeCmd is mayfly revoke.
type revokeCmd struct {
	ID      string `arg:"" optional:"" help:"One task."`
	Human   string `help:"Everything for this human." placeholder:"ID"`
	Service string `help:"Everything for this service." placeholder:"ID"`
	Profile string `help:"Everything under this profile." placeholder:"NAME"`
	Source  string `help:"Everything a source vouched for." placeholder:"NAME"`
	Client  string `help:"Everything of an OAuth client." placeholder:"ID"`
	All     bool   `help:"Everything."`
	Key     string `help:"Every token of this signing key." placeholder:"KID"`
	Lift    string `help:"Lift a revocation: new tasks may open again." placeholder:"REVOCATION"`
	List    bool   `help:"List the revocations in force."`
	Wait    bool   `help:"Of a task: wait until nothing of it is left, and show when each node stopped and what came back."`
}

// Help is the long help.
func (revokeCmd) Help() string {
	return `Ends one task with everything below it, or everything that has a human, a
service, a profile, a source or a client anywhere in its chain. For those nothing
new opens either, until the revocation is lifted. When this returns the node that
answered denies; every other node does within a second.

  mayfly revoke task_06e8…
  mayfly revoke --wait task_06e8…
  mayfly revoke --human alice@example.org
  mayfly revoke --lift rev_06e8…`
}

// Run revokes.
func (c revokeCmd) Run(ctx context.Context, t *terminal) error {
	named := map[string]string{
		"task": c.ID, "human": c.Human, "service": c.Service, "profile": c.Profile, "source": c.Source, "client": c.Client,
		"key": c.Key, "lift": c.Lift,
	}
	if c.All {
		named["all"] = "all"
	}
	if c.List {
		named["list"] = "list"
	}
	for kind, value := range named {
		if value == "" {
			delete(named, kind)
		}
	}
	if len(named) != 1 {
		return usageError("name one thing to revoke: a task, or one of --human, --service, --profile, --source, --client, --all, --key, --lift, --list")
	}
	kind := names(named)[0]
	if c.Wait && kind != "task" {
		return usageError("--wait goes with one task")
	}
	api, err := t.client()
	if err != nil {
		return err
	}
	defer api.Close()
	switch kind {
	case "task":
		task, err := api.Revoke(ctx, mayfly.TaskID(c.ID))
		if err != nil {
			return err
		}
		if c.Wait {
			return t.gone(ctx, api, task.ID)
		}
		return t.ended(task)
	case "key":
		if err := api.CompromiseKey(ctx, c.Key); err != nil {
			return err
		}
		return t.said("no token of key %s is accepted any more; tasks go on with new tokens\n", c.Key)
	case "lift":
		if err := api.LiftRevocation(ctx, c.Lift); err != nil {
			return err
		}
		return t.said("%s is lifted: new tasks may open; nothing came back to life\n", c.Lift)
	case "list":
		standing, err := api.Revocations(ctx)
		if err != nil {
			return err
		}
		if t.JSON {
			t.print(struct {
				Revocations []mayfly.Revocation `json:"revocations"`
			}{slices.Concat([]mayfly.Revocation{}, standing)})
			return nil
		}
		if len(standing) == 0 {
			fmt.Fprintln(t.Stdout, "no revocations are in force")
		}
		for _, r := range standing {
			fmt.Fprintf(t.Stdout, "%s  %s %s  by %s at %s\n", r.ID, r.Kind, clean(r.Value), clean(r.By), r.At.Local().Format(time.DateTime))
		}
		return nil
	}
	value := named[kind]
	if kind == "all" {
		value = ""
	}
	r, err := api.RevokeAll(ctx, kind, value)
	if err != nil {
		return err
	}
	if t.JSON {
		t.print(struct {
			Revocation mayfly.Revocation `json:"revocation"`
		}{r})
		return nil
	}
	fmt.Fprintf(t.Stdout, "%s: every task of %s is over, and nothing new opens until `mayfly revoke --lift %s`\n",
		r.ID, strings.TrimSpace(r.Kind+" "+clean(r.Value)), r.ID)
	return nil
}

// gone waits until nothing of a task that is over is left, and shows how it went.
func (t *terminal) gone(ctx context.Context, api *client.Client, id mayfly.TaskID) error {
	if f, ok := t.Stderr.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		fmt.Fprintln(f, "It may do nothing any more. Waiting until all of it is returned; Ctrl-C leaves that to the server.")
	}
	_, claims, err := finalCertificate(ctx, api, id, math.MaxInt64)
	if ctx.Err() != nil {
		return fmt.Errorf("%s is revoked; what is left of it says mayfly certificate %[1]s", id)
	}
	if err != nil {
		return err
	}
	t.certificate(&claims)
	return nil
}

// said prints one sentence, or with --json that it is so.
func (t *terminal) said(format string, args ...any) error {
	if t.JSON {
		t.print(struct {
			OK bool `json:"ok"`
		}{true})
		return nil
	}
	_, err := fmt.Fprintf(t.Stdout, format, args...)
	return err
}
