// Package signals tells the outside what happened. Everything it says it reads
// from the event log by position, and it writes nothing but how far it has come:
// a sink that was down gets what it missed, in order, at least once. Start at
// [Webhooks.Run] and [Exports.Run]; package follow has the loop they share.
package signals

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/follow"
	"github.com/mayfly-id/mayfly/internal/store"
)

// Webhook is an address that is told of approvals that wait for a human.
type Webhook struct {
	URL    string
	Secret mayfly.Secret // signs what is sent
}

// Options are what webhooks are made of. Hooks gives the ones in force now; it
// is asked again each time, so that a reload reaches them.
type Options struct {
	DB    *store.DB
	Hooks func() []Webhook
	// ApprovalURL is where a human answers a request.
	ApprovalURL func(id string) string
	Logger      *slog.Logger
	// Client carries the requests; nil is one with short times and no redirects.
	Client *http.Client
}

// Webhooks tell the configured addresses of approvals that wait.
type Webhooks struct {
	o Options
}

// New makes webhooks. Run must follow.
func New(o Options) *Webhooks {
	if o.Client == nil {
		o.Client = newClient(10 * time.Second)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Webhooks{o: o}
}

// newClient is a client that follows no redirects and gives up after a time.
func newClient(timeout time.Duration) *http.Client {
	return &http.Client{
		Timeout:       timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport:     &http.Transport{Proxy: nil, MaxIdleConnsPerHost: 1, IdleConnTimeout: time.Minute},
	}
}

// stale is how old a request may be and still be told: nobody can answer it any
// more.
const stale = mayfly.ApprovalPending

// Run tells every webhook what comes, until ctx ends. A webhook that fails holds
// up no other, and is tried again, first soon and then once a minute.
func (w *Webhooks) Run(ctx context.Context) error {
	l := follow.Loop{DB: w.o.DB, Logger: w.o.Logger, Readers: w.readers}
	l.Run(ctx)
	return nil
}

// readers are the webhooks in force.
func (w *Webhooks) readers() []follow.Reader {
	var list []follow.Reader
	for _, hook := range w.o.Hooks() {
		list = append(list, follow.Reader{
			Name: sinkOf(hook), Made: fingerprint(hook.URL, hook.Secret.Reveal()), What: "a webhook",
			Open: func() follow.Teller { return &telling{w, hook} },
		})
	}
	return list
}

// telling tells one webhook.
type telling struct {
	w    *Webhooks
	hook Webhook
}

// Tell tells the webhook what of rows it should know: the requests of one agent
// that stand together are one notice.
func (t *telling) Tell(ctx context.Context, rows []store.EventRow) (int, error) {
	notices, err := t.w.notices(ctx, rows)
	if err != nil {
		return 0, err
	}
	for _, n := range notices {
		if err := t.w.send(ctx, t.hook, n); err != nil {
			return 0, err
		}
	}
	return len(rows), nil
}

func (*telling) Close() {}

// Notice is what a webhook is sent: the approvals that one agent waits for.
type Notice struct {
	Type      string     `json:"type"` // approval.requested
	Timestamp time.Time  `json:"timestamp"`
	Task      string     `json:"task,omitempty"`
	Profile   string     `json:"profile"`
	Root      string     `json:"root"`
	Approvals []Approval `json:"approvals"`
}

// Approval is one request in a notice. What is to be done in detail is for those
// who may answer, at URL.
type Approval struct {
	ID        string    `json:"id"`
	What      string    `json:"what"`
	Grant     string    `json:"grant"`
	Needs     []string  `json:"needs"`
	Policies  []string  `json:"policies,omitempty"`
	ExpiresAt time.Time `json:"expires_at"`
	URL       string    `json:"url"`
}

// sinkOf names how far a webhook has come.
func sinkOf(hook Webhook) string {
	sum := sha256.Sum256([]byte(hook.URL))
	return "webhook:" + base64.RawURLEncoding.EncodeToString(sum[:9])
}

// fingerprint tells whether parts, of which some are secret, are what they were.
func fingerprint(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return string(h.Sum(nil))
}

// notice is a Notice and the id it is sent under, which is that of its last
// record: what is told again with more in it is another notice.
type notice struct {
	id string
	Notice
}

func (w *Webhooks) notices(ctx context.Context, rows []store.EventRow) ([]*notice, error) {
	var list []*notice
	ofTask := map[string]*notice{}
	for _, row := range rows {
		if row.Kind != (mayfly.ApprovalRequested{}).Kind() || time.Since(row.Time) > stale {
			continue
		}
		body, err := w.o.DB.Body(ctx, row)
		if mayfly.KindOf(err) == mayfly.Gone {
			continue // whom it is about was erased
		} else if err != nil {
			return nil, err
		}
		var e mayfly.ApprovalRequested
		if err := json.Unmarshal(body, &e); err != nil {
			return nil, err
		}
		n := ofTask[string(e.Task)]
		if n == nil || e.Task == "" {
			n = &notice{Notice: Notice{
				Type: e.Kind(), Timestamp: row.Time, Task: string(e.Task), Profile: e.Profile, Root: e.Root.ID,
			}}
			ofTask[string(e.Task)] = n
			list = append(list, n)
		}
		n.id = row.ID
		n.Approvals = append(n.Approvals, Approval{
			ID: e.Approval, What: e.What, Grant: e.Grant, Needs: e.Needs, Policies: e.Policies, ExpiresAt: e.ExpiresAt,
			URL: w.o.ApprovalURL(e.Approval),
		})
	}
	return list, nil
}

// send posts one notice, signed as the Standard Webhooks say: an HMAC-SHA-256,
// under the secret, of id, time and body.
func (w *Webhooks) send(ctx context.Context, hook Webhook, n *notice) error {
	body, err := json.Marshal(n.Notice)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, hook.URL, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "mayfly")
	sign(req, hook.Secret, n.id, body)
	return post(w.o.Client, req)
}

// sign puts the headers of the Standard Webhooks on req, whose body is body.
func sign(req *http.Request, secret mayfly.Secret, id string, body []byte) {
	at := strconv.FormatInt(time.Now().Unix(), 10)
	req.Header.Set("Webhook-Id", id)
	req.Header.Set("Webhook-Timestamp", at)
	req.Header.Set("Webhook-Signature", "v1,"+Signature(secret, id, at, body))
}

// post sends req. Anything but a 2xx is a failure.
func post(client *http.Client, req *http.Request) error {
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)); err != nil {
		return err
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return fmt.Errorf("it answered with status %d", resp.StatusCode)
	}
	return nil
}

// Signature is the base64 of the MAC that a receiver compares: over id, the
// time in seconds, and the body, joined by dots.
func Signature(secret mayfly.Secret, id, at string, body []byte) string {
	mac := hmac.New(sha256.New, []byte(secret.Reveal()))
	mac.Write([]byte(id + "." + at + "."))
	mac.Write(body)
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}
