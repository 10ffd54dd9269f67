// Package sandbox is the demo world: an identity provider, two MCP servers and an
// HTTP API on loopback, the configuration that puts a Mayfly server in front of
// them, and the story that is told with them. It owns everything in that world
// but the server itself, which cmd/mayfly starts as it starts any other. Start
// at story.go.
package sandbox

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// World is the part of the sandbox outside the server.
type World struct {
	Dir     string // holds the configuration, the seal key and the server's state
	Config  string // path of mayfly.yaml
	Public  string // the server's origin, which is its issuer
	Admin   string // path of the admin socket
	IDP     string // the identity provider's issuer
	idp     *idp
	books   *books
	servers []*http.Server
}

// NewWorld starts the identity provider and the tools, and writes a working
// configuration into dir. public is the loopback address the server will listen
// on, such as 127.0.0.1:8420.
func NewWorld(dir, public string) (*World, error) {
	w := &World{
		Dir: dir, Config: filepath.Join(dir, "mayfly.yaml"), Public: "http://" + public, Admin: filepath.Join(dir, "admin.sock"),
	}
	idpListener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	w.IDP = "http://" + idpListener.Addr().String()
	if w.idp, err = newIDP(w.IDP); err != nil {
		return nil, err
	}
	w.idp.console = w.Public + "/console/signed-in"
	w.serve(idpListener, w.idp.routes())

	key := rand.Text()
	b := newBooks()
	w.books = b
	var urls [3]string
	for i, h := range []http.Handler{b.bank(), mailbox(), b.api()} {
		if urls[i], err = w.listen(guarded(key, h)); err != nil {
			return nil, errors.Join(err, w.Close())
		}
	}
	if err := w.configure(public, urls[0], urls[1], urls[2], key); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

// Token is a token of the identity provider for alice, bob, ci or agent, of the
// kind that may be handed to agents.
func (w *World) Token(who string) (string, error) { return w.token(who, false) }

// OperatorToken is a token for alice or bob that no agent is handed: with it they
// approve.
func (w *World) OperatorToken(who string) (string, error) { return w.token(who, true) }

func (w *World) token(who string, operator bool) (string, error) {
	text, ok, err := w.idp.token(who, operator, time.Now())
	if err == nil && !ok {
		err = fmt.Errorf("the demo world has no such token for %q", who)
	}
	return text, err
}

// Close stops everything the world started.
func (w *World) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	var errs []error
	for _, s := range w.servers {
		if err := s.Shutdown(ctx); err != nil {
			errs = append(errs, s.Close())
		}
	}
	return errors.Join(errs...)
}

// listen serves h on a free loopback port and gives its URL.
func (w *World) listen(h http.Handler) (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	w.serve(l, h)
	return "http://" + l.Addr().String(), nil
}

func (w *World) serve(l net.Listener, h http.Handler) {
	s := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second}
	w.servers = append(w.servers, s)
	go s.Serve(l) // ends with ErrServerClosed at Close
}

// configure writes the configuration that a reader would write by hand.
func (w *World) configure(public, bank, mail, desk, key string) error {
	var seal [32]byte
	rand.Read(seal[:])
	files := []struct {
		path, text string
		mode       os.FileMode
	}{
		{"seal.key", base64.StdEncoding.EncodeToString(seal[:]) + "\n", 0o400},
		{"bank.key", key + "\n", 0o400},
		{"mayfly.yaml", fmt.Sprintf(configText, w.Public, public, w.Admin, filepath.Join(w.Dir, "mayfly.db"),
			w.IDP, bank, mail, desk, w.Dir), 0o600},
		{"profiles/invoice-agent.yaml", invoiceProfile, 0o600},
		{"profiles/reader-agent.yaml", readerProfile, 0o600},
		{"profiles/orchestrator.yaml", orchestratorProfile, 0o600},
		{"profiles/your-agent.yaml", yourProfile, 0o600},
		{"policies/guardrails.cedar", guardrails, 0o600},
	}
	for _, f := range files {
		path := filepath.Join(w.Dir, f.path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(f.text), f.mode); err != nil {
			return err
		}
	}
	return nil
}

const configText = `# The sandbox's configuration. Everything it names is on this machine.
trust_domain: sandbox.example
issuer: %[1]s
listen: {public: "%[2]s", admin: "unix://%[3]s"}
store: "sqlite://%[4]s"
keys: {seal: {file: "%[9]s/seal.key"}}
sources:
  # Agents are handed tokens for mayfly; with one for mayfly-operators a human approves.
  - {name: corp, kind: oidc, issuer: "%[5]s", audience: mayfly, operators: mayfly-operators, subject: human, claims: {id: email, groups: groups}}
  - {name: ci, kind: oidc, issuer: "%[5]s", audience: mayfly-ci, subject: service, match: {repository: "acme/*"}}
  - {name: cluster, kind: oidc, issuer: "%[5]s", audience: mayfly-agents, subject: workload}
  - {name: local, kind: unix, subject: workload}
console: {source: corp}   # humans sign in by the identity provider
targets:
  - name: bank
    kind: mcp
    url: "%[6]s"
    credential: {header: Authorization, value: "Bearer ${file:%[9]s/bank.key}"}
    labels: [money]
    facts: {amount: decimal, vendor: string}   # what policies see of a call, and records keep
  - name: mail
    kind: mcp
    url: "%[7]s"
    credential: {header: Authorization, value: "Bearer ${file:%[9]s/bank.key}"}
    tools: {read_mail: {labels: [untrusted]}, send_mail: {labels: [egress], facts: {to: string}}}
  - {name: notes, kind: mcp, stdio: true}   # a server of yours: mayfly mcp --target notes … -- SERVER
  - name: desk
    kind: http
    url: "%[8]s"
    credential: {header: Authorization, value: "Bearer ${file:%[9]s/bank.key}"}
`

const invoiceProfile = `profile: invoice-agent
description: Pays approved vendor invoices.
owner: finance-platform@example.org
class: ephemeral
delegators: [{human: {groups: [accounts-payable]}}, {service: {source: local}}, {agent: {profile: orchestrator}}]
attest:
  - {source: cluster, match: {sub: "system:serviceaccount:agents:invoice"}}
  - {source: local}
grants:
  - mcp:bank:list_invoices
  - grant: mcp:bank:pay_invoice
    where: {amount: {max: 500}, vendor: {in: [acme, globex]}}
    budget: {calls: 10, sum: {amount: 2000}}
  - mcp:mail:read_mail
  - mcp:mail:send_mail
  - http:desk:GET:/v1/tickets
  - http:desk:POST:/v1/tickets/*
default: [mcp:bank:list_invoices]
approvals:   # above 200, finance is asked
  - {grant: mcp:bank:pay_invoice, where: {amount: {min: 200.01}}, group: finance-leads, usable: 5m}
lifetime: {idle: 2m, default: 15m, max: 1h}
delegation: {depth: 2, children: 5, to: [reader-agent]}
key: required
risk: medium
`

const readerProfile = `profile: reader-agent
description: Helps another agent with invoices.
owner: finance-platform@example.org
class: ephemeral
delegators: [{agent: {profile: invoice-agent}}, {agent: {profile: orchestrator}}]
attest:
  - {source: cluster, match: {sub: "system:serviceaccount:agents:invoice"}}
  - {source: local}
grants:
  - mcp:bank:list_invoices
  - grant: mcp:bank:pay_invoice
    where: {amount: {max: 500}, vendor: {in: [acme, globex]}}
    budget: {calls: 10, sum: {amount: 2000}}
  - mcp:mail:read_mail
  - mcp:mail:send_mail
default: [mcp:bank:list_invoices]
lifetime: {idle: 1m, default: 5m, max: 15m}
key: required
risk: low
`

const orchestratorProfile = `profile: orchestrator
description: Splits work on invoices between agents that may less than it.
owner: finance-platform@example.org
class: ephemeral
delegators: [{human: {groups: [accounts-payable]}}]
attest:
  - {source: cluster, match: {sub: "system:serviceaccount:agents:invoice"}}
grants:
  - mcp:bank:list_invoices
  - grant: mcp:bank:pay_invoice
    where: {amount: {max: 500}, vendor: {in: [acme, globex]}}
    budget: {calls: 20, sum: {amount: 2000}}
  - mcp:mail:read_mail
  - mcp:mail:send_mail
default: [mcp:bank:list_invoices]
lifetime: {idle: 1m, default: 5m, max: 15m}
delegation: {depth: 2, children: 5, to: [invoice-agent, reader-agent]}
key: required
risk: medium
`

// yourProfile is for agents that a visitor brings.
const yourProfile = `profile: your-agent
description: An agent of yours, on this machine.
owner: you@example.org
class: ephemeral
delegators: [{human: {groups: [accounts-payable]}}, {service: {source: local}}]
attest: [{source: cluster, match: {sub: "system:serviceaccount:agents:invoice"}}, {source: local}]
grants:
  - mcp:bank:list_invoices
  - grant: mcp:bank:pay_invoice
    where: {amount: {max: 500}, vendor: {in: [acme, globex]}}
    budget: {calls: 10, sum: {amount: 2000}}
  - mcp:mail:read_mail
  - mcp:mail:send_mail
  - mcp:notes:*
default: ["mcp:bank:list_invoices", "mcp:bank:pay_invoice", "mcp:mail:read_mail", "mcp:mail:send_mail", "mcp:notes:*"]
approvals:   # above 200, finance is asked
  - {grant: mcp:bank:pay_invoice, where: {amount: {min: 200.01}}, group: finance-leads, usable: 5m}
lifetime: {idle: 10m, default: 1h, max: 8h}
key: optional   # so that tools which know no DPoP can be tried: mayfly run --bearer
risk: medium
`

const guardrails = `// Finance leads see and end every task; everybody else sees their own.
@id("finance-looks")
permit (principal in Mayfly::Group::"finance-leads", action in [Mayfly::Action::"read", Mayfly::Action::"revoke"], resource is Mayfly::Agent);

// No agent, whoever it works for, deletes a vendor.
@id("vendors-stay")
forbid (principal is Mayfly::Agent, action == Mayfly::Action::"use", resource == Mayfly::Tool::"bank/delete_vendor");

// After anything in a tree of tasks has read what strangers wrote, nothing leaves it.
@id("nothing-leaves")
forbid (principal is Mayfly::Agent, action == Mayfly::Action::"use", resource)
when { context.seen.contains("untrusted") && context.labels.contains("egress") };
`
