package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/client"
)

// certificateCmd is mayfly certificate.
type certificateCmd struct {
	ID  string `arg:"" help:"A task that has ended."`
	Out string `short:"o" placeholder:"FILE" help:"Write the certificate there as it is signed, to be kept and verified elsewhere."`
}

// Help is the long help.
func (certificateCmd) Help() string {
	return `Says how a task ended: who it was for and who vouched for it, what was used of what
it might do, what became of every task below it and of every credential it was lent,
and when each node stopped. The server signs it; whoever has the server's keys can
check it without the server.

  mayfly certificate task_06e8… -o task.jwt
  mayfly log verify task.jwt --jwks jwks.json --vkey vkey`
}

// Run shows or keeps a certificate.
func (c certificateCmd) Run(ctx context.Context, t *terminal) error {
	id, err := mayfly.ParseTaskID(c.ID)
	if err != nil {
		return err
	}
	api, err := t.client()
	if err != nil {
		return err
	}
	defer api.Close()
	text, claims, err := finalCertificate(ctx, api, id, finalWithin)
	if err != nil {
		return err
	}
	if c.Out != "" {
		if err := os.WriteFile(c.Out, []byte(text+"\n"), 0o644); err != nil {
			return err
		}
	}
	t.certificate(&claims)
	return nil
}

// finalWithin is how long a certificate that is not final is asked for again: of a
// task that has just ended the log lags a second behind.
const finalWithin = 3 * time.Second

// finalCertificate asks for a task's certificate until it is final, or it has asked
// for so long. The claims are those that the server itself answered with; to check
// is for others.
func finalCertificate(ctx context.Context, api *client.Client, id mayfly.TaskID, within time.Duration) (text string, c mayfly.Certificate, err error) {
	for begun := time.Now(); ; {
		if text, err = api.Certificate(ctx, id); err != nil {
			return "", c, err
		}
		c = mayfly.Certificate{}
		parts := strings.Split(text, ".")
		if len(parts) != 3 {
			return "", c, mayfly.Errorf(mayfly.BadUpstream, "the server answered with no certificate")
		}
		payload, err := base64.RawURLEncoding.DecodeString(parts[1])
		if err == nil {
			err = json.Unmarshal(payload, &c)
		}
		if err != nil {
			return "", c, mayfly.Errorf(mayfly.BadUpstream, "the server's certificate cannot be read").Because(err)
		}
		asked := time.Since(begun)
		if c.Final || asked > within {
			return text, c, nil
		}
		pause := tailEvery
		if asked < finalWithin {
			pause /= 5
		}
		select {
		case <-ctx.Done():
			return "", c, ctx.Err()
		case <-time.After(pause):
		}
	}
}

// certificate prints what a certificate says.
func (t *terminal) certificate(c *mayfly.Certificate) {
	if t.JSON {
		t.print(*c)
		return
	}
	line := func(what, format string, args ...any) {
		fmt.Fprintf(t.Stdout, "  %-7s %s\n", what, clean(fmt.Sprintf(format, args...)))
	}
	ended := func(k mayfly.CertifiedTask) string {
		text := string(k.State)
		if k.Reason != "" {
			text = string(k.Reason)
		}
		if k.State == mayfly.Retiring {
			text += ", still retiring"
		}
		return text
	}
	k := c.Task
	fmt.Fprintf(t.Stdout, "%s  %s  %s after %s\n", clean(string(k.ID)), clean(k.Profile), ended(k), k.ClosedAt.Sub(k.OpenedAt).Round(time.Millisecond))
	line("for", "%s (%s, by the word of %s)", c.Root.Subject, c.Root.Kind, c.Root.Source)
	line("purpose", "%s (%s)", short(c.Purpose.Text, 100), vouched(c.Purpose))
	for _, l := range c.Chain[:max(0, len(c.Chain)-1)] {
		line("above", "%s  %s", l.Task, l.Profile)
	}
	line("ended", "%s, by %s", k.ClosedAt.Format(time.RFC3339Nano), k.By)
	if len(c.Used) == 0 {
		line("used", "nothing")
	}
	for _, u := range c.Used {
		text := fmt.Sprintf("%s  %d allowed, %d refused", u.Grant, u.Allowed, u.Refused)
		if u.Approved > 0 {
			text += fmt.Sprintf(", %d after a human's yes", u.Approved)
		}
		if u.Unknown > 0 {
			text += fmt.Sprintf(", %d whose outcome nobody saw", u.Unknown)
		}
		line("used", "%s", text)
	}
	for _, d := range c.Descendants {
		line("below", "%s  %s  %s", d.ID, d.Profile, ended(d))
	}
	for _, l := range c.Leases {
		text := l.Grant + "  " + l.Principal + "  " + string(l.State)
		if l.State == mayfly.LeaseReturned {
			text += " " + l.ReturnedAt.Format(time.RFC3339Nano)
		} else {
			text += ", can live until " + l.Until.Format(time.RFC3339)
		}
		if l.Problem != "" {
			text += ": " + l.Problem
		}
		line("lent", "%s", text)
	}
	for _, p := range c.Points {
		line("node", "%s  stopped %s (%s)", p.Node, p.Stopped.Format(time.RFC3339Nano), p.How)
	}
	for _, r := range c.Log.Records {
		position := "not yet in the log"
		if r.Position != nil {
			position = fmt.Sprintf("position %d", *r.Position)
		}
		line("record", "%-14s %s", r.Kind, position)
	}
	if c.Final {
		fmt.Fprintln(t.Stdout, "  Nothing of it is left.")
	} else {
		fmt.Fprintln(t.Stdout, "  This is not final: something of it is still to be returned or stopped.")
	}
}
