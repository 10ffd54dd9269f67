package mayflytest_test

import (
	"testing"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/authority"
	"github.com/mayfly-id/mayfly/internal/mayflytest"
)

const handedOn = `
@id("handed-on") @approval("finance")
forbid (principal is Mayfly::Agent, action == Mayfly::Action::"delegate", resource == Mayfly::Tool::"bank/pay_invoice");
`

// A yes to an opening is to that opening: for so long, so often, so many tasks,
// and once.
func TestAYesToAnOpeningFitsThatOpening(t *testing.T) {
	mayflytest.OnEachEngine(t, func(t *testing.T, dsn string) {
		d := direct{mayflytest.New(t, racingOptions(mayflytest.Options{DSN: dsn, Policies: map[string]string{"handed.cedar": handedOn}}))}
		parent := d.open(t, "open")
		child := func(ttl, budget string) error {
			_, err := d.Authority.Exchange(t.Context(), authority.ExchangeRequest{
				Presented: authority.Presented{Source: "127.0.0.1"}, SubjectToken: parent.AccessToken, SubjectTokenType: authority.TypeAccessToken,
				ActorToken: d.Evidence("agent"), ActorTokenType: authority.TypeJWT, Profile: "open", Purpose: "p",
				Scope: "mcp:bank:pay_invoice", RequestedTTL: ttl, Budget: budget,
			})
			return err
		}
		ticket := func(uses int64) error {
			_, err := d.Authority.Delegate(t.Context(), bearer(parent.AccessToken), authority.DelegateRequest{
				Profile: "open", Purpose: "p", Grants: mayflytest.Grants(t, "mcp:bank:pay_invoice"), TTL: time.Minute, Uses: uses,
			})
			return err
		}
		for name, c := range map[string]struct{ asked, other func() error }{
			"a child":  {func() error { return child("60", "3") }, func() error { return child("600", "3") }},
			"a budget": {func() error { return child("61", "3") }, func() error { return child("61", "") }},
			"a ticket": {func() error { return ticket(1) }, func() error { return ticket(1000) }},
		} {
			parent = d.open(t, "open") // which may ask for so much in an hour
			err := c.asked()
			e := mayfly.AsError(err)
			if err == nil || e.Code != "access_denied" || e.Term != mayfly.TermApproval || e.Next == nil || e.Next.Approval == "" {
				t.Fatalf("%s that needs a yes: %v", name, err)
			}
			if _, err := d.Authority.Approve(t.Context(), d.finance(), e.Next.Approval, "go on"); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if err := c.other(); err == nil {
				t.Errorf("the yes to %s opens another", name)
			} else if asked := mayfly.AsError(err); asked.Next != nil && asked.Next.Approval != "" {
				if _, err := d.Authority.Deny(t.Context(), operator, asked.Next.Approval, ""); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
			if err := c.asked(); err != nil {
				t.Errorf("%s, with its yes: %v", name, err)
			}
			err = c.asked()
			if e := mayfly.AsError(err); err == nil || e.Term != mayfly.TermApproval {
				t.Errorf("%s, a second time: %v", name, err)
			} else if e.Next != nil && e.Next.Approval != "" {
				if _, err := d.Authority.Deny(t.Context(), operator, e.Next.Approval, ""); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		}
	})
}
