package mayflytest_test

import (
	"encoding/json"
	"net/http"
	"net/url"

	"github.com/mayfly-id/mayfly/client"
)

// ticket makes a ticket as the task of by, or with no key as whoever its token
// is of.
func (n node) ticket(by held, request string) string {
	n.T.Helper()
	a := n.send(by, http.MethodPost, "/v1/delegations", []byte(request))
	var got struct {
		Ticket string `json:"ticket"`
	}
	if err := json.Unmarshal(a.Body, &got); err != nil || a.Status != http.StatusCreated || got.Ticket == "" {
		n.T.Fatalf("no ticket: %s", a)
	}
	return got.Ticket
}

// redeem exchanges a ticket.
func redeem(ticket string, pairs ...string) url.Values {
	return with(form("subject_token", ticket, "subject_token_type", client.TypeTicket), pairs...)
}
