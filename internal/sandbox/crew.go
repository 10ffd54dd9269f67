package sandbox

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/client"
)

// Crew are agents at work, for whoever watches: orchestrators of Alice's, each with
// two sub-agents, who read invoices and pay some. They follow a script; no model
// thinks here.
type Crew struct {
	World *World
}

// crewSize is how many orchestrators work at a time, and crewStep about how long one
// thinks between two actions.
const (
	crewSize = 2
	crewStep = 1500 * time.Millisecond
)

// Work has the crew work until ctx ends.
func (c *Crew) Work(ctx context.Context) error {
	errs := make([]error, crewSize)
	var all sync.WaitGroup
	for i := range crewSize {
		all.Go(func() {
			if pause(ctx, time.Duration(i)*7*crewStep/2) != nil {
				return
			}
			for round := i; ctx.Err() == nil; round += crewSize {
				if err := c.shift(ctx, round); err != nil && ctx.Err() == nil {
					errs[i] = err
					return
				}
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// errands are what orchestrators are asked for, and payments what is paid then: most
// of it small, some too much, some enough that a human is asked.
var (
	errands  = []string{"Pay this week's invoices", "Settle what acme is owed", "Clear the open invoices before Friday", "Find out what is overdue, and pay it"}
	payments = []int{12, 260, 35, 280, 620, 7}
)

// shift is one orchestrator's life. What is refused is part of it; so is an end that
// somebody at the console put to it.
func (c *Crew) shift(ctx context.Context, round int) error {
	s := &Story{World: c.World, Out: io.Discard}
	var err error
	s.alice, err = s.openAs(ctx, "orchestrator", errands[round%len(errands)],
		"mcp:bank:list_invoices", "mcp:bank:pay_invoice", "mcp:mail:read_mail", "mcp:mail:send_mail")
	if err != nil {
		// The kill switch may be thrown, or the provider be gone for a moment.
		return pause(ctx, 2*crewStep)
	}
	work := []func() error{
		func() error { return c.errand(ctx, s, "reader-agent", "Read the open invoices", round, c.read) },
		func() error { return c.errand(ctx, s, "invoice-agent", "Pay what is small", round, c.pay) },
	}
	var all sync.WaitGroup
	for _, do := range work {
		all.Go(func() {
			// Most ways in which an errand ends early are part of the show: somebody
			// ended it, or threw the kill switch. The next shift starts anew.
			_ = do()
		})
	}
	all.Wait()
	if _, err := s.alice.Complete(ctx); err != nil && !refusal(err) {
		return err
	}
	return pause(ctx, crewStep)
}

// errand opens a sub-agent of the orchestrator, has it do something, and ends it.
func (c *Crew) errand(ctx context.Context, s *Story, profile, purpose string, round int, do func(context.Context, *Story, *client.Session, int) error) error {
	if err := pause(ctx, crewStep); err != nil {
		return err
	}
	grants := []string{"mcp:bank:list_invoices"}
	if profile == "invoice-agent" {
		grants = append(grants, "mcp:bank:pay_invoice")
	} else if round%5 == 2 {
		grants = append(grants, "mcp:mail:read_mail", "mcp:mail:send_mail")
	}
	agent, err := s.delegateTo(ctx, profile, purpose, grants...)
	if err != nil {
		return err
	}
	if err := do(ctx, s, agent, round); err != nil {
		return err
	}
	_, err = agent.Complete(ctx)
	return err
}

func (c *Crew) read(ctx context.Context, s *Story, as *client.Session, round int) error {
	for range 3 {
		if _, err := s.call(ctx, as, "list_invoices", map[string]any{}); err != nil {
			return err
		}
		if err := pause(ctx, 2*crewStep); err != nil {
			return err
		}
	}
	if round%5 == 2 {
		if _, err := s.callAt(ctx, as, "mail", "read_mail", map[string]any{}); err != nil {
			return err
		}
		if _, err := s.callAt(ctx, as, "mail", "send_mail", map[string]any{"to": "books@initech.example", "text": "all invoices"}); err != nil {
			return err
		}
	}
	return nil
}

func (c *Crew) pay(ctx context.Context, s *Story, as *client.Session, round int) error {
	for i := range 4 {
		amount := payments[(round+i)%len(payments)]
		for tries := 0; ; tries++ {
			r, err := s.call(ctx, as, "pay_invoice", map[string]any{"invoice": "inv-4", "vendor": "acme", "amount": amount})
			if err != nil {
				return err
			}
			if err := pause(ctx, 2*crewStep); err != nil {
				return err
			}
			// What waits for a human is tried again, until one answers or it has waited
			// long enough.
			if r.Meta["mayfly/term"] != string(mayfly.TermApproval) || tries == 20 {
				break
			}
		}
	}
	return nil
}

// refusal reports whether err is the server's no, and no fault.
func refusal(err error) bool {
	switch mayfly.KindOf(err) {
	case mayfly.Denied, mayfly.Unauthenticated, mayfly.Conflict, mayfly.NotFound, mayfly.Gone, mayfly.Invalid:
		return true
	}
	return false
}
