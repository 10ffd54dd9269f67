package client

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/mayfly-id/mayfly"
)

// Lease is one outside credential on loan, without the credential.
type Lease struct {
	Lease      mayfly.LeaseID    `json:"lease"`
	Task       mayfly.TaskID     `json:"task"`
	Grant      string            `json:"grant"`
	Kind       string            `json:"kind"`
	Decision   string            `json:"decision"`
	State      mayfly.LeaseState `json:"state"`
	Principal  string            `json:"principal,omitempty"` // what the target's own logs call it
	OpenedAt   time.Time         `json:"opened_at"`
	ExpiresAt  time.Time         `json:"expires_at"` // when the target itself stops accepting it
	EndedAt    time.Time         `json:"ended_at,omitzero"`
	Reason     mayfly.LeaseEnd   `json:"reason,omitempty"`
	ReturnedAt time.Time         `json:"returned_at,omitzero"`
	Tries      int64             `json:"tries,omitempty"` // to return it
	Problem    string            `json:"problem,omitempty"`
}

// Credential is what was checked out: good until ExpiresAt at the latest, and no
// longer than its task.
type Credential struct {
	Lease     mayfly.LeaseID
	Kind      string
	ExpiresAt time.Time
	Principal string                   // what the target's own logs call it
	Values    map[string]mayfly.Secret // of postgres: host, port, database, user, password
}

// CheckOut asks for the outside credential that a grant of the task names, such as
// postgres:analytics:reader.
func (s *Session) CheckOut(ctx context.Context, grant string) (Credential, error) {
	var a struct {
		Lease      mayfly.LeaseID    `json:"lease"`
		Kind       string            `json:"kind"`
		ExpiresAt  time.Time         `json:"expires_at"`
		Principal  string            `json:"principal"`
		Credential map[string]string `json:"credential"`
	}
	body := map[string]string{"grant": grant}
	err := s.API().call(ctx, request{method: http.MethodPost, path: taskPath(s.task) + "/leases", json: body}, &a)
	c := Credential{Lease: a.Lease, Kind: a.Kind, ExpiresAt: a.ExpiresAt, Principal: a.Principal, Values: map[string]mayfly.Secret{}}
	for name, value := range a.Credential {
		c.Values[name] = mayfly.NewSecret(value)
	}
	return c, err
}

// Leases reads what a task was lent, oldest first.
func (c *Client) Leases(ctx context.Context, task mayfly.TaskID) ([]Lease, error) {
	var a struct {
		Leases []Lease `json:"leases"`
	}
	err := c.call(ctx, request{method: http.MethodGet, path: taskPath(task) + "/leases"}, &a)
	return a.Leases, err
}

// GiveBack ends a lease before its task ends. The answer's State is
// [mayfly.LeaseReturned] if the target has shown it to be gone already; while it
// is [mayfly.LeaseReturning] the server goes on trying.
func (c *Client) GiveBack(ctx context.Context, task mayfly.TaskID, lease mayfly.LeaseID) (Lease, error) {
	var l Lease
	err := c.call(ctx, request{method: http.MethodDelete, path: taskPath(task) + "/leases/" + url.PathEscape(string(lease))}, &l)
	return l, err
}

// Certificate is the signed account of how a task ended, a compact JWS under the
// keys of the server's JWKS. The error is Conflict while the task lives.
func (c *Client) Certificate(ctx context.Context, task mayfly.TaskID) (string, error) {
	var text string
	err := c.call(ctx, request{method: http.MethodGet, path: taskPath(task) + "/certificate"}, &text)
	return text, err
}
