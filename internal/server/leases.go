package server

import (
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/authority"
)

// loans are what a task was lent.
type loans struct {
	Leases []authority.LeaseView `json:"leases"`
}

func (c *call) leases() (loans, error) {
	leases, err := c.s.a.Leases(c.ctx(), c.presented(), c.values["id"])
	return loans{leases}, err
}

// checkout asks for what a grant names.
type checkout struct {
	Grant string `json:"grant"`
}

// lent is the one answer that has a credential in it.
type lent struct {
	Lease      mayfly.LeaseID    `json:"lease"`
	Kind       string            `json:"kind"`
	ExpiresAt  time.Time         `json:"expires_at"`
	Principal  string            `json:"principal"`
	Credential map[string]string `json:"credential"`
}

func (c *call) checkOut(in checkout) (lent, error) {
	out, err := c.s.a.CheckOut(c.ctx(), c.presented(), c.values["id"], in.Grant)
	if err != nil {
		return lent{}, err
	}
	l := lent{Lease: out.Lease.Lease, Kind: out.Lease.Kind, ExpiresAt: out.Lease.ExpiresAt, Principal: out.Lease.Principal, Credential: map[string]string{}}
	for name, value := range out.Credential {
		l.Credential[name] = value.Reveal()
	}
	return l, nil
}

func (c *call) giveBack() (authority.LeaseView, error) {
	return c.s.a.GiveBack(c.ctx(), c.presented(), c.values["id"], c.values["lease"])
}
