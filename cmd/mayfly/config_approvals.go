package main

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/authority"
)

// approvalsEntry is approvals in mayfly.yaml.
type approvalsEntry struct {
	Webhook *struct {
		URL    string `json:"url"`
		Secret string `json:"secret"`
	} `json:"webhook"`
}

// minSecret is the shortest secret that signs something, in bytes.
const minSecret = 16

// webhooks reads who is told of approvals that wait.
func (l *loader) webhooks(d *document, f *serverFile, c *Config) {
	if f.Approvals == nil {
		return
	}
	at := path{"approvals"}
	hook := f.Approvals.Webhook
	if hook == nil {
		d.wrong(at, "webhook is missing; write {webhook: {url: …, secret: …}}, or remove approvals")
		return
	}
	at = at.to("webhook")
	d.address(at, hook.URL)
	secret := l.signing(d, at, hook.Secret)
	c.Webhooks = append(c.Webhooks, authority.Webhook{URL: hook.URL, Secret: secret})
}

// signing reads a secret that signs what is sent.
func (l *loader) signing(d *document, at path, value string) mayfly.Secret {
	before := len(d.bad)
	secret := l.secret(d, at, "secret", value)
	if len(d.bad) == before && len(secret.Reveal()) < minSecret {
		d.wrong(at.to("secret"), "is shorter than %d bytes; whoever guesses it can sign as this server", minSecret)
	}
	return secret
}

// approvalEntry is a rule of a profile's approvals. As with grantEntry, what
// stands under where is for mayfly.ParseGrantObject to judge.
type approvalEntry struct{ text json.RawMessage }

type approvalObject struct {
	Grant  string `json:"grant"`
	Where  any    `json:"where"`
	Group  string `json:"group"`
	Usable string `json:"usable"`
}

func (approvalEntry) shapes() []reflect.Type {
	return []reflect.Type{reflect.TypeFor[approvalObject]()}
}

// UnmarshalJSON keeps the text.
func (e *approvalEntry) UnmarshalJSON(b []byte) error {
	e.text = slices.Clone(b)
	return nil
}

// parse reads the grant, and the two members that no grant has.
func (e approvalEntry) parse() (g mayfly.Grant, group, usable string, err error) {
	var members map[string]json.RawMessage
	if err = json.Unmarshal(e.text, &members); err != nil {
		return
	}
	for name, into := range map[string]*string{"group": &group, "usable": &usable} {
		if text, given := members[name]; given {
			if err = json.Unmarshal(text, into); err != nil {
				return
			}
		}
		delete(members, name)
	}
	text, err := json.Marshal(members)
	if err != nil {
		return
	}
	g, err = grantEntry{text}.parse()
	return
}

func (l *loader) approvals(d *document, f *profileFile, p *mayfly.Profile, c *Config) {
	for i, e := range f.Approvals {
		at := path{"approvals", i}
		if !d.root.at(at...).has("grant") {
			d.wrong(at, "grant is missing; say which calls need a yes, such as {grant: mcp:bank:pay, group: finance-leads}")
			continue
		}
		g, group, usable, err := e.parse()
		if err != nil {
			d.wrong(at, "%v", err)
			continue
		}
		d.target(at.to("grant"), g, c)
		switch {
		case group == "":
			d.wrong(at, "group is missing; say whose yes it takes")
		case strings.HasPrefix(group, "@"):
			d.wrong(at.to("group"), "%q is not the name of a group", group)
		}
		rule := mayfly.ApprovalRule{ID: fmt.Sprintf("profile %s, approval %d", p.Name, i+1), Calls: g, Group: group}
		if usable != "" {
			v, err := time.ParseDuration(usable)
			switch {
			case err != nil:
				d.wrong(at.to("usable"), "%q is not a duration; write one such as 90s or 5m", usable)
			case v < time.Second || v > mayfly.ApprovalUsable || v%time.Second != 0:
				d.wrong(at.to("usable"), "%s must be whole seconds, from 1s to %s", usable, mayfly.ApprovalUsable)
			}
			rule.Usable = v
		}
		if len(p.Grants) == len(f.Grants) && !slices.ContainsFunc(p.Grants, g.Meets) {
			l.warn = append(l.warn, fmt.Sprintf("%s: approvals[%d]: no grant of this profile allows %s, so nobody is ever asked", d.name, i, g))
		}
		p.Approvals = append(p.Approvals, rule)
	}
}
