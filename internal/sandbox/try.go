package sandbox

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/mayfly-id/mayfly/client"
)

// Try makes one call as an agent of Alice's, under these policies beside those of
// the demo, and gives what the agent is told and why. Policies that do not check
// are an error that says where.
func (p *Place) Try(ctx context.Context, cedar, target, tool string, arguments map[string]any) (answer string, why client.Explanation, err error) {
	ctx, cancel := context.WithTimeout(ctx, DrillTime)
	defer cancel()
	d := &drilling{&Story{World: p.World}, p}
	before := p.Bundle()
	if cedar != "" {
		if err := os.WriteFile(filepath.Join(p.World.Dir, "policies", "yours.cedar"), []byte(cedar), 0o600); err != nil {
			return "", why, err
		}
		if said := p.Check(); said != "" {
			return "", why, errors.New(said)
		}
		if err := d.until(ctx, func() bool { return p.Bundle() != before }); err != nil {
			return "", why, errors.New("the policies did not come into force in time")
		}
	}
	if d.alice, err = d.openAs(ctx, "invoice-agent", "Free play", "mcp:bank:list_invoices", "mcp:bank:pay_invoice", "mcp:mail:read_mail", "mcp:mail:send_mail"); err != nil {
		return "", why, err
	}
	r, err := d.callAt(ctx, d.alice, target, tool, arguments)
	if err != nil {
		return "", why, err
	}
	decision, _ := r.Meta["mayfly/decision"].(string)
	if decision == "" {
		return text(r), why, errors.New("the call was answered without a decision: " + text(r))
	}
	var last error
	err = d.until(ctx, func() bool { why, last = d.alice.API().Explain(ctx, decision); return last == nil })
	return text(r), why, errors.Join(err, last)
}

// deskWithin is how long one visitor's request to the playground may take.
const deskWithin = 2 * time.Minute
