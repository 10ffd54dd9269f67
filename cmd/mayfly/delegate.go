package main

import (
	"context"
	"fmt"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/client"
)

// delegateCmd is mayfly delegate.
type delegateCmd struct {
	To      string        `required:"" help:"Profile of the agent." placeholder:"PROFILE"`
	Can     []string      `help:"What it may do; again for more. Default: the profile's own default." placeholder:"GRANT" sep:"none"`
	Purpose string        `required:"" help:"What the task is for." placeholder:"TEXT"`
	TTL     time.Duration `help:"How long the ticket can be redeemed (default 10m, at most 24h)."`
	TaskTTL time.Duration `help:"How long the task may run."`
	Uses    int64         `help:"How many tasks it opens." default:"1"`
}

// Help is the long help.
func (delegateCmd) Help() string {
	return `Prints a ticket: a voucher for one task, to be redeemed by an agent that fits the
profile. It is shown once. The delegator is the human whose token is in
MAYFLY_HUMAN_TOKEN, else the Unix user that calls.

  mayfly delegate --to reader --can mcp:bank:list_invoices --purpose 'Read invoices'`
}

// Run prints a ticket.
func (c delegateCmd) Run(ctx context.Context, t *terminal) error {
	grants, err := grantFlags(c.Can)
	if err != nil {
		return err
	}
	api, err := t.client()
	if err != nil {
		return err
	}
	defer api.Close()
	ticket, err := api.Delegate(ctx, client.DelegateRequest{
		Profile: c.To, Purpose: c.Purpose, Grants: grants, TTL: c.TTL, TaskTTL: c.TaskTTL, Uses: c.Uses,
	})
	if err != nil {
		return err
	}
	if t.JSON {
		t.print(struct {
			Ticket     string    `json:"ticket"`
			Delegation string    `json:"delegation"`
			ExpiresAt  time.Time `json:"expires_at"`
		}{ticket.Ticket.Reveal(), ticket.Delegation, ticket.ExpiresAt})
		return nil
	}
	fmt.Fprintln(t.Stdout, ticket.Ticket.Reveal())
	fmt.Fprintf(t.Stderr, "redeem it before %s\n", ticket.ExpiresAt.Local().Format(time.DateTime))
	return nil
}

// grantFlags reads --can.
func grantFlags(can []string) ([]mayfly.Grant, error) {
	var grants []mayfly.Grant
	for _, text := range can {
		g, err := mayfly.ParseGrant(text)
		if err != nil {
			return nil, usageError(fmt.Sprintf("--can %s: %v", text, err))
		}
		grants = append(grants, g)
	}
	return grants, nil
}
