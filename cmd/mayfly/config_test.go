package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/server"
)

const goodServer = `trust_domain: example.org
issuer: "https://mayfly.example.org"
listen: {public: "127.0.0.1:8420", admin: "unix:///run/mayfly/admin.sock"}
trusted_proxies: ["10.0.0.0/28"]
store: "sqlite:///var/lib/mayfly/mayfly.db"
keys: {seal: {file: seal.key}}
sources:
  - {name: corp, kind: oidc, issuer: "https://login.example.org/", audience: mayfly, subject: human, claims: {id: email, groups: groups}}
  - {name: ci, kind: oidc, issuer: "https://ci.example", audience: mayfly, subject: service, match: {repository: "acme/*"}}
  - {name: cluster, kind: oidc, issuer: "https://k8s.example", audience: mayfly, subject: workload}
  - {name: local, kind: unix, subject: workload}
targets:
  - name: bank
    kind: mcp
    url: https://bank.example/mcp
    credential: {header: Authorization, value: "Bearer ${file:bank.token}"}
  - {name: orders, kind: http, url: "http://127.0.0.1:8080"}
`

const goodProfile = `profile: invoice-agent
description: Pays approved vendor invoices.
owner: finance-platform@example.org
class: ephemeral
delegators: [{human: {groups: [accounts-payable]}}, {agent: {profile: invoice-agent}}]
attest: [{source: cluster, match: {sub: "system:serviceaccount:agents:*"}}, {source: local}]
grants:
  - mcp:bank:list_invoices
  - grant: mcp:bank:pay_invoice
    where: {amount: {max: 500}, vendor: {in: [acme, globex]}}
    budget: {calls: 10}
default: [mcp:bank:list_invoices]
lifetime: {idle: 2m, default: 15m, max: 1h}
delegation: {depth: 2, children: 5, to: [invoice-agent]}
key: required
risk: high
`

const goodPolicy = `@id("nobody") forbid (principal, action, resource) when { context.depth > 3 };
`

const goodSeal = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n"

// writeConfig writes the files of a configuration and gives mayfly.yaml's path.
func writeConfig(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	all := map[string]string{
		"mayfly.yaml": goodServer, "profiles/invoice-agent.yaml": goodProfile, "policies/guard.cedar": goodPolicy,
		"seal.key": goodSeal, "bank.token": "s3cret\n",
	}
	for name, text := range files {
		all[name] = text
	}
	for name, text := range all {
		if text == "" {
			continue // left out
		}
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "mayfly.yaml")
}

func load(t *testing.T, files map[string]string) (*Config, error) {
	t.Helper()
	return Load(writeConfig(t, files))
}

func TestAWholeConfigurationLoads(t *testing.T) {
	c, err := load(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	p := c.Profiles["invoice-agent"]
	if p == nil || p.Authority != mayfly.AuthorityPolicy || p.Risk != mayfly.RiskHigh || p.KeyOptional {
		t.Errorf("profile = %+v, want risk high, authority policy by default, key required", p)
	}
	want := mayfly.Lifetime{Idle: 2 * time.Minute, Default: 15 * time.Minute, Max: time.Hour}
	if p.Lifetime != want {
		t.Errorf("lifetime = %v, want %v", p.Lifetime, want)
	}
	if len(p.Grants) != 2 || p.Grants[1].Budget.Calls != 10 || len(p.Default) != 1 {
		t.Errorf("grants = %v, default = %v", p.Grants, p.Default)
	}
	if got := c.Targets["bank"].Credential.Value.Reveal(); got != "Bearer s3cret" {
		t.Errorf("credential = %q, want the file's text without its line break", got)
	}
	if c.Listen.Admin != "/run/mayfly/admin.sock" || len(c.TrustedProxies) != 1 || c.Limits != server.DefaultLimits() {
		t.Errorf("listen %v, proxies %v, limits %v", c.Listen, c.TrustedProxies, c.Limits)
	}
	if key := c.Seal(); key[1] != 1 || key[31] != 31 {
		t.Errorf("seal key was not read")
	}
	if s := c.Sources[0]; s.Issuer != "https://login.example.org/" || s.ClaimID != "email" || s.Loopback {
		t.Errorf("source = %+v", s)
	}
}

func TestSecretsOfAConfigurationDoNotPrint(t *testing.T) {
	c, err := load(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{fmt.Sprintf("%v %+v %#v", c, *c, c.Targets["bank"].Credential), mustJSON(t, c.Targets)} {
		if strings.Contains(text, "s3cret") {
			t.Errorf("the credential is printed: %s", text)
		}
	}
}

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Every row changes one thing in a good configuration; the error must say where
// and what.
func TestAWrongConfigurationIsNamed(t *testing.T) {
	const server, profile = "mayfly.yaml", "profiles/invoice-agent.yaml"
	rows := []row{
		// YAML that JSON has no place for
		{server, "trust_domain: example.org", "trust_domain: &x example.org", "mayfly.yaml:1:15: anchors"},
		{server, "trust_domain: example.org", "trust_domain: !!str example.org", "mayfly.yaml:1:15: tags"},
		{server, "trust_domain: example.org", "trust_domain: example.org\ntrust_domain: example.com", `mayfly.yaml:2:1: "trust_domain" is given twice; the first is on line 1`},
		{server, "trust_domain: example.org", "trust_domain: [example.org", "mayfly.yaml:2:1: ',' or ']'"},
		{server, "trust_domain: example.org", "<<: {a: b}\ntrust_domain: example.org", "mayfly.yaml:1:1: merge keys"},
		{server, "store: ", "---\nstore: ", "a second document begins here"},
		{server, "trust_domain: example.org", "trust_domain: 7", "mayfly.yaml:1:15: trust_domain must be text, not a number; put it in quotes"},
		{server, "trust_domain: example.org", "trust_domain:", "mayfly.yaml:1:1: trust_domain is empty"},
		{server, "sources:\n", "sources: {}\nx:\n", "mayfly.yaml:7:10: sources must be a list, not a mapping"},

		// keys nobody knows, or that this version does not enforce
		{server, "store: ", "stor: ", `mayfly.yaml:5:1: unknown key "stor"; did you mean "store"?`},
		{server, "listen: {public", "listen: {metric: \"127.0.0.1:1\", public", `unknown key "metric" in listen; did you mean "metrics"?`},
		{server, "listen: {public", "listen: {metrics: \"0.0.0.0:8421\", public", `listen.metrics: "0.0.0.0:8421" would speak http to a network, and to anybody there`},
		{server, "listen: {public", "listen: {metrics: \"8421\", public", `listen.metrics: "8421" is not host:port`},
		{server, "listen: {public", "listen: {metrics: \"127.0.0.1:8420\", public", `listen.metrics: is the public address`},
		{server, "    kind: mcp\n", "    kind: aws\n", `targets[0].kind: kind "aws" is not one this version knows; known: http, mcp`},
		{server, "{name: local, kind: unix, subject: workload}", "{name: local, kind: spiffe}", `kind "spiffe" is not one this version knows; known: oidc, unix`},

		// the server
		{server, "https://mayfly.example.org\"", "https://mayfly.example.org/\"", "issuer: \"https://mayfly.example.org/\" ends in a slash"},
		{server, "https://mayfly.example.org\"", "http://mayfly.example.org\"", "is http; that is for loopback hosts only"},
		{server, "https://mayfly.example.org\"", "https://mayfly.example.org/x\"", "has more than scheme, host and port"},
		{server, "https://mayfly.example.org\"", "https://Mayfly.example.org\"", "must be in lower case"},
		{server, "issuer: \"https://mayfly.example.org\"\n", "", "issuer: is missing"},
		{server, "trust_domain: example.org", "trust_domain: Example.org", "is not a trust domain"},
		{server, "10.0.0.0/28", "0.0.0.0/0", "trusts everybody"},
		{server, "10.0.0.0/28", "*", "trusts everybody"},
		{server, "10.0.0.0/28", "10.0.0.1/28", "did you mean 10.0.0.0/28?"},
		{server, "trusted_proxies: [\"10.0.0.0/28\"]\n", "", "issuer: is https, and nothing here speaks it"},
		{server, "trusted_proxies: [\"10.0.0.0/28\"]\n", "tls: {cert: nope.pem, key: nope.key}\n", "tls: the certificate cannot be used"},
		{server, "unix:///run", "/run", "is not a socket; write unix:///path"},
		{server, "/run/mayfly/admin.sock", "/" + strings.Repeat("x", 107), "longer than the 107 bytes"},
		{server, "127.0.0.1:8420", "127.0.0.1", "is not host:port"},
		{server, "sqlite:///var", "sqlite://var", "names no absolute path"},
		{server, "sqlite:///var", "mysql:///var", `has the scheme "mysql"; known: sqlite, postgres`},
		{server, "seal: {file: seal.key}", "seal: {file: other.key}", "keys.seal.file: other.key: no such file"},

		// sources
		{server, "{name: ci, ", "{name: corp, ", `sources[1].name: "corp" is taken`},
		{server, "https://ci.example", "http://ci.example", "sources[1].issuer: \"http://ci.example\" is http"},
		{server, "subject: service", "subject: human", "prefix is missing; two sources name a human"},
		{server, "subject: service", "subject: robot", `"robot" is not a kind of subject`},
		{server, "audience: mayfly, subject: human", "subject: human", "sources[0]: audience is missing"},
		{server, "audience: mayfly, subject: human", "audience: mayfly, operators: mayfly, subject: human", "is also the audience"},
		{server, "audience: mayfly, subject: service", "audience: mayfly, operators: ops, subject: service", "operators: is for sources of humans"},
		{server, "\"acme/*\"", "\"acme/*/x\"", "has a star that is not at the end"},
		{server, "kind: unix, subject: workload", "kind: unix, subject: human", "is not what a unix source gives"},
		{server, "kind: unix, subject: workload", "kind: unix, issuer: \"https://x\"", "a source of kind unix has none"},
		{server, "audience: mayfly, subject: human", "audience: mayfly, email_verified: yes, subject: human", `"yes" is not known`},
		{server, "audience: mayfly, subject: human", "audience: mayfly, prefix: \"service:\", subject: human", "look like another kind of subject"},
		{server, "targets:\n", "clients: [{id: app, jwks: app.json}]\ntargets:\n", "app.json: there is no such file"},
		{server, "targets:\n", "clients: [{id: \"spiffe://x\", jwks: \"https://x/jwks\"}]\ntargets:\n", "looks like another kind of id"},

		// targets and secrets
		{server, "https://bank.example/mcp", "http://bank.example/mcp", "targets[0].url: \"http://bank.example/mcp\" is http"},
		{server, "https://bank.example/mcp", "https://user:pw@bank.example/mcp", "holds a user or password"},
		{server, "https://bank.example/mcp", "https://bank.example/mcp?x=1", "has a query or fragment"},
		{server, "name: bank\n", "name: Bank:1\n", "is not a name"},
		{server, "${file:bank.token}", "${file:nope.token}", "nope.token cannot be read"},
		{server, "${file:bank.token}", "${env:MAYFLY_TEST_NOT_SET}", "MAYFLY_TEST_NOT_SET is not set"},
		{server, "${file:bank.token}", "${vault:x}", "${vault:…} is not known"},
		{server, "${file:bank.token}", "${file:bank.token", "has no }"},
		{server, "${file:bank.token}", "hunter2", "holds the secret itself"},
		{server, "header: Authorization", "header: Host", "is not for credentials"},
		{server, "header: Authorization", "header: \"X Y\"", "is not the name of a header"},
		{server, "header: Authorization, ", "", "header is missing"},

		// profiles
		{profile, "owner: finance-platform@example.org\n", "", "owner is missing"},
		{profile, "profile: invoice-agent\n", "profile: Invoice\n", "is not a name"},
		{profile, "class: ephemeral", "class: recurring", "recurring needs review_by"},
		{profile, "class: ephemeral", "class: ephemeral\nreview_by: 2099-01-01", "review_by: is for class: recurring"},
		{profile, "class: ephemeral", "class: recurring\nreview_by: soon", "is not a day"},
		{profile, "class: ephemeral", "class: eternal", "is not known; write ephemeral or recurring"},
		{profile, "{human: {groups: [accounts-payable]}}", "{human: {}, agent: {profile: invoice-agent}}", "delegators[0]: must be exactly one of"},
		{profile, "{human: {groups: [accounts-payable]}}", "{human: {group: [x]}}", `unknown key "group" in delegators[0].human; did you mean "groups"?`},
		{profile, "{human: {groups: [accounts-payable]}}", "{service: {source: corp}}", `the source "corp" vouches for a human, not for a service`},
		{profile, "{human: {groups: [accounts-payable]}}", "{service: {source: cii}}", `there is no source "cii"; did you mean "ci"?`},
		{profile, "{agent: {profile: invoice-agent}}", "{agent: {profile: other}}", `there is no profile "other"`},
		{profile, "{source: local}]", "{none: true}]", "is for risk: low only"},
		{profile, "{source: local}]", "{client: app}]", `there is no client "app"`},
		{profile, "{source: local}]", "{source: ci}]", "vouches for a service, not for a workload"},
		{profile, "mcp:bank:list_invoices\n", "mcp:bnak:list_invoices\n", `invoice-agent.yaml:8:5: grants[0]: there is no target "bnak"; did you mean "bank"?`},
		{profile, "mcp:bank:list_invoices\n", "http:bank:GET:/x\n", "the target \"bank\" is of kind mcp"},
		{profile, "mcp:bank:list_invoices\n", "list_invoices\n", "invoice-agent.yaml:8:5: grants[0]:"},
		{profile, "mcp:bank:list_invoices\n", "7\n", "grants[0] must be text or a mapping, not a number"},
		{profile, "default: [mcp:bank:list_invoices]", "default: [mcp:bank:delete_all]", "default[0]: mcp:bank:delete_all is not within this profile's grants"},
		{profile, "idle: 2m", "idle: 2 minutes", "is not a duration"},
		{profile, "idle: 2m", "idle: 2h", "lifetime.idle: 2h0m0s is longer than max, 1h0m0s"},
		{profile, "default: 15m", "default: 90m", "lifetime.default: 1h30m0s is longer than max"},
		{profile, "max: 1h", "max: 9h", "is longer than 8h0m0s"},
		{profile, "idle: 2m", "idle: 1500ms", "must be whole seconds"},
		{profile, "depth: 2", "depth: 6", "must be from 0 to 5"},
		{profile, "children: 5", "children: 101", "must be from 0 to 100"},
		{profile, "depth: 2, ", "", "depth is missing or 0"},
		{profile, "children: 5, ", "", "needs depth, children"},
		{profile, "to: [invoice-agent]", "to: [other]", `delegation.to[0]: there is no profile "other"`},
		{profile, "depth: 2", "depth: two", "delegation.depth must be a number, not text"},
		{profile, "depth: 2", "depth: 2.5", "2.5 is not a whole number"},
		{profile, "key: required", "key: maybe", "write required or optional"},
		{profile, "risk: high", "risk: extreme", "write low, medium or high"},
		{profile, "risk: high", "risk: high\nauthority: root", "write policy or profile"},
		{profile, "risk: high", "risk: high\nbudget: {calls: 0}", "calls must be at least 1"},
	}
	namesWhatIsWrong(t, rows)
}

// row changes one thing in a good file; the error must hold want.
type row struct{ file, old, new, want string }

func namesWhatIsWrong(t *testing.T, rows []row) {
	const server, profile = "mayfly.yaml", "profiles/invoice-agent.yaml"
	for _, r := range rows {
		t.Run(r.want, func(t *testing.T) {
			good := map[string]string{server: goodServer, profile: goodProfile}[r.file]
			if !strings.Contains(good, r.old) {
				t.Fatalf("the row changes %q, which is not there", r.old)
			}
			_, err := load(t, map[string]string{r.file: strings.Replace(good, r.old, r.new, 1)})
			if err == nil {
				t.Fatalf("loaded, want an error with %q", r.want)
			}
			if !strings.Contains(err.Error(), r.want) {
				t.Errorf("got  %v\nwant %q in it", err, r.want)
			}
			if strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), ":pw@") {
				t.Errorf("the error shows a secret: %v", err)
			}
			if exitCode(err) != exitConfig {
				t.Errorf("exit code %d, want %d", exitCode(err), exitConfig)
			}
		})
	}
}

func TestEveryBrokenPolicyIsNamed(t *testing.T) {
	_, err := load(t, map[string]string{
		"policies/a.cedar": "// one\npermit (principal, action, resource",
		"policies/b.cedar": "\n\nforbid (principal, action == Mayfly::Action::\"use\", resource) when { context.lables.contains(\"x\") };",
		"policies/c.cedar": "@approval(\"leads\")\npermit (principal, action, resource);",
		"policies/d.cedar": "forbid (principal, action == Mayfly::Action::\"use\", resource)\nwhen { context.arguments.amount.greaterThan(decimal(\"1.0\")) };",
	})
	p, ok := errors.AsType[problems](err)
	if !ok || len(p) != 4 {
		t.Fatalf("err = %v, want four problems", err)
	}
	for i, want := range []struct {
		file, message string
		line          int
	}{{"a.cedar", "not Cedar", 2}, {"b.cedar", "lables", 3}, {"c.cedar", "@approval", 1}, {"d.cedar", "amount", 2}} {
		if filepath.Base(p[i].File) != want.file || p[i].Line != want.line || !strings.Contains(p[i].Message, want.message) {
			t.Errorf("problem = %v, want %s:%d with %q", p[i], want.file, want.line, want.message)
		}
	}
}

func TestPoliciesThatDoNotGoTogetherAreNamed(t *testing.T) {
	_, err := load(t, map[string]string{"policies/more.cedar": "\n" + goodPolicy})
	p, ok := errors.AsType[problems](err)
	if !ok || len(p) != 1 || filepath.Base(p[0].File) != "more.cedar" || p[0].Line != 2 || !strings.Contains(p[0].Message, "guard.cedar:1") {
		t.Errorf("err = %v, want more.cedar:2 to say that guard.cedar:1 has the same id", err)
	}
}

func TestLimitsAreTakenOrNamed(t *testing.T) {
	c, err := load(t, map[string]string{"mayfly.yaml": goodServer + "limits: {token: {per_second: 2, burst: 3}, loopback: true}\n"})
	if err != nil {
		t.Fatal(err)
	}
	want := server.DefaultLimits()
	want.Token, want.Loopback = server.Rate{PerSecond: 2, Burst: 3}, true
	if c.Limits != want {
		t.Errorf("limits = %+v, want %+v", c.Limits, want)
	}
	for text, want := range map[string]string{
		"{token: {per_second: 5, burst: 2}}":  "limits.token: needs per_second",
		"{exchange: {per_second: 0}}":         "limits.exchange: needs per_second",
		"{client_failures: 0}":                "limits.client_failures: must be from 1",
		"{tokens: {per_second: 1, burst: 1}}": `did you mean "token"?`,
	} {
		if _, err := load(t, map[string]string{"mayfly.yaml": goodServer + "limits: " + text + "\n"}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func TestEverythingWrongIsSaidAtOnce(t *testing.T) {
	_, err := load(t, map[string]string{
		"mayfly.yaml":                 strings.NewReplacer("https://mayfly.example.org", "https://mayfly.example.org/", "127.0.0.1:8080", "orders.example").Replace(goodServer),
		"profiles/invoice-agent.yaml": strings.NewReplacer("owner:", "ownr:", "risk: high", "risk: 3").Replace(goodProfile),
		"profiles/second.yml":         goodProfile,
		"policies/old/guard.cedar":    goodPolicy,
	})
	p, ok := errors.AsType[problems](err)
	if !ok {
		t.Fatalf("err = %v, want problems", err)
	}
	for _, want := range []string{"ends in a slash", "orders.example", `did you mean "owner"?`, "risk must be text", "only files that end in .yaml", "is not read"} {
		if !strings.Contains(p.Error(), want) {
			t.Errorf("nothing says %q in\n%v", want, p)
		}
	}
}

func TestASealKeyThatIsNotOneIsRefused(t *testing.T) {
	for name, text := range map[string]string{
		"empty":      "\n",
		"short":      "AAECAw==\n",
		"not base64": strings.Repeat("!", 44) + "\n",
		"two lines":  goodSeal + goodSeal,
		"one byte":   strings.Repeat("A", 43) + "=\n",
	} {
		if _, err := load(t, map[string]string{"seal.key": text}); err == nil {
			t.Errorf("%s: loaded", name)
		} else if !strings.Contains(err.Error(), "keys.seal.file") {
			t.Errorf("%s: %v", name, err)
		}
	}
	path := writeConfig(t, nil)
	if err := os.Chmod(filepath.Join(filepath.Dir(path), "seal.key"), 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), "mode 0640") {
		t.Errorf("a key the group can read: %v", err)
	}
}

func TestTheHashIsOfWhatDecides(t *testing.T) {
	hash := func(files map[string]string) string {
		t.Helper()
		c, err := load(t, files)
		if err != nil {
			t.Fatal(err)
		}
		return c.Hash
	}
	base := hash(nil)
	if len(base) != 64 {
		t.Fatalf("hash = %q, want SHA-256 in hex", base)
	}
	replaced := func(text, old, with string) string { return strings.Replace(text, old, with, 1) }
	same := map[string]map[string]string{
		"comments and layout": {"mayfly.yaml": "# hello\n\n" + goodServer, "profiles/invoice-agent.yaml": replaced(goodProfile, "idle: 2m,", "idle:   2m,")},
		"where it listens":    {"mayfly.yaml": replaced(goodServer, ":8420", ":8421")},
		"where it stores":     {"mayfly.yaml": replaced(goodServer, "sqlite:///var/lib/mayfly/mayfly.db", "postgres://db/mayfly")},
		"another secret":      {"bank.token": "other\n"},
		"another seal key":    {"seal.key": replaced(goodSeal, "AAEC", "AAED")},
	}
	for what, files := range same {
		if hash(files) != base {
			t.Errorf("%s: the hash changed", what)
		}
	}
	different := map[string]map[string]string{
		"a target":  {"mayfly.yaml": replaced(goodServer, "bank.example/mcp", "bank.example/mcp2")},
		"a profile": {"profiles/invoice-agent.yaml": replaced(goodProfile, "max: 500", "max: 501")},
		"a policy":  {"policies/guard.cedar": replaced(goodPolicy, "> 3", "> 4")},
		"no policy": {"policies/guard.cedar": ""},
		"a source":  {"mayfly.yaml": replaced(goodServer, "acme/*", "acme/x*")},
	}
	for what, files := range different {
		if hash(files) == base {
			t.Errorf("%s: the hash did not change", what)
		}
	}
}

func TestDefaultsAreTheCautiousOnes(t *testing.T) {
	text := goodProfile
	for _, line := range []string{"class: ephemeral\n", "key: required\n", "risk: high\n", "lifetime: {idle: 2m, default: 15m, max: 1h}\n", "delegation: {depth: 2, children: 5, to: [invoice-agent]}\n"} {
		text = strings.Replace(text, line, "", 1)
	}
	c, err := load(t, map[string]string{"profiles/invoice-agent.yaml": text})
	if err != nil {
		t.Fatal(err)
	}
	p := c.Profiles["invoice-agent"]
	if p.Class != mayfly.Ephemeral || p.KeyOptional || p.Risk != mayfly.RiskMedium || p.Authority != mayfly.AuthorityProfile || p.Delegation.Depth != 0 {
		t.Errorf("profile = %+v", p)
	}
	if want := (mayfly.Lifetime{Idle: defaultIdle, Default: defaultLife, Max: defaultMax}); p.Lifetime != want {
		t.Errorf("lifetime = %v, want %v", p.Lifetime, want)
	}
}

func TestAReviewThatIsOverdueWarnsAndLoads(t *testing.T) {
	c, err := load(t, map[string]string{"profiles/invoice-agent.yaml": strings.Replace(goodProfile, "class: ephemeral", "class: recurring\nreview_by: 2020-01-31", 1)})
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Warnings) != 1 || !strings.Contains(c.Warnings[0], "review_by 2020-01-31 is over") {
		t.Errorf("warnings = %q", c.Warnings)
	}
	if got := c.Profiles["invoice-agent"].ReviewBy; got.Year() != 2020 {
		t.Errorf("review_by = %v", got)
	}
}

func TestTheDesignsListenersNeedTLSOrAProxy(t *testing.T) {
	open := strings.Replace(goodServer, "127.0.0.1:8420", ":8420", 1)
	if _, err := load(t, map[string]string{"mayfly.yaml": open}); err != nil {
		t.Errorf("behind a trusted proxy: %v", err)
	}
	bare := strings.Replace(open, "trusted_proxies: [\"10.0.0.0/28\"]\n", "", 1)
	if _, err := load(t, map[string]string{"mayfly.yaml": bare}); err == nil || !strings.Contains(err.Error(), "would speak http on a network") {
		t.Errorf("every interface in clear: %v", err)
	}
}

func TestNearest(t *testing.T) {
	known := []string{"audience", "issuer", "name", "url"}
	for got, want := range map[string]string{"audiance": "audience", "Issuer": "issuer", "nmae": "name", "labels": "", "ulr": "url", "zzz": ""} {
		if near := nearest(got, known); near != want {
			t.Errorf("nearest(%q) = %q, want %q", got, near, want)
		}
	}
}

// FuzzYAML: whatever the file holds, it is read or refused with a place; what is
// read is JSON.
func FuzzYAML(f *testing.F) {
	for _, s := range []string{goodServer, goodProfile, richServer, richProfile, "", "a: &x [1]\nb: *x", "{a: b", "- - - 1", "a: |\n  x\n", "? x\n: y", "a: 0x10", "\xff", "a: .inf", "a: {<<: {b: 1}}", "!!map {a: 1}", "\"\": 1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d := parseYAML("f.yaml", []byte(s))
		if len(d.bad) > 0 {
			return
		}
		if !json.Valid(d.root.json()) {
			t.Errorf("read %q as %s", s, d.root.json())
		}
		d.into(&serverFile{})
		d.into(&profileFile{})
	})
}
