package mayflytest_test

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/client"
	"github.com/mayfly-id/mayfly/internal/mayflytest"
)

// hand takes tasks through their lives at a system that may fail at any moment.
type hand struct {
	sys    *mayflytest.System
	client func() *client.Client // remembers what it is handed
	more   []string              // grants that openings ask for as well
}

var (
	mayRead  = "http:orders:GET:/v1/*"
	mayWrite = "http:orders:POST:/v1/*"
)

func (h *hand) opening(human string) client.ExchangeRequest {
	r := h.sys.Opening(append([]string{mayRead, mayWrite}, h.more...)...)
	r.SubjectToken, r.TTL = h.sys.Human(human), time.Hour
	return r
}

func (h *hand) open(ctx context.Context, human string) (*client.Session, error) {
	return h.client().Open(ctx, h.opening(human), nil)
}

// call is one call of the upstream; 0 is no answer.
func (h *hand) call(ctx context.Context, as *client.Session, method, path string) int {
	r, err := http.NewRequestWithContext(ctx, method, h.sys.Issuer+"/http/orders"+path, strings.NewReader(`{}`))
	if err != nil {
		h.sys.T.Error(err)
		return 0
	}
	r.Header.Set("Content-Type", "application/json")
	if method == http.MethodGet {
		r.Body, r.ContentLength, r.GetBody = nil, 0, nil
	}
	resp, err := as.Transport().RoundTrip(r)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

// child opens a task below parent, which may only read.
func (h *hand) child(ctx context.Context, parent *client.Session) (*client.Session, error) {
	own, err := parent.Token(ctx, "")
	if err != nil {
		return nil, err
	}
	c := h.client()
	t, err := c.Exchange(ctx, client.ExchangeRequest{
		SubjectToken: own.Text.Reveal(), SubjectTokenType: client.TypeAccessToken,
		ActorToken: h.sys.Evidence("invoice-child"), ActorTokenType: client.TypeJWT,
		Profile: "invoice", Purpose: "a part of it", Key: parent.Key(), Grants: mayflytest.Grants(h.sys.T, mayRead),
	})
	if err != nil {
		return nil, err
	}
	return c.Resume(t, nil), nil
}

// redeem opens a task with a ticket.
func (h *hand) redeem(ctx context.Context, ticket mayfly.Secret) error {
	key, err := client.NewKey()
	if err != nil {
		return err
	}
	_, err = h.client().Exchange(ctx, client.ExchangeRequest{
		SubjectToken: ticket.Reveal(), SubjectTokenType: client.TypeTicket,
		ActorToken: h.sys.Evidence("invoice-redeemer"), ActorTokenType: client.TypeJWT, Key: key,
	})
	return err
}

func (h *hand) ticket(ctx context.Context, parent *client.Session) (client.Ticket, error) {
	return parent.API().Delegate(ctx, client.DelegateRequest{Profile: "invoice", Purpose: "another part", Grants: mayflytest.Grants(h.sys.T, mayRead)})
}

// work takes one task through its life, and reports whether the server answered
// to the end.
func (h *hand) work(ctx context.Context, path string, completed *sync.Map) bool {
	session, err := h.open(ctx, "alice")
	if err != nil {
		return false
	}
	if h.call(ctx, session, http.MethodPost, path) == 0 {
		return false
	}
	child, err := h.child(ctx, session)
	if err != nil {
		return false
	}
	if h.call(ctx, child, http.MethodGet, path+"/child") == 0 {
		return false
	}
	ticket, err := h.ticket(ctx, session)
	if err != nil || h.redeem(ctx, ticket.Ticket) != nil {
		return false
	}
	if _, err := session.Complete(ctx); err != nil {
		return false
	}
	completed.Store(session.Task(), true)
	return true
}
