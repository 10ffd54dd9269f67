package main

import (
	"slices"
	"strings"
	"testing"
)

// operators is goodServer whose humans have a client of their own.
var operators = strings.Replace(goodServer, "audience: mayfly, subject: human", "audience: mayfly, operators: mayfly-console, subject: human", 1)

func TestTheConsoleNamesWhoSignsIn(t *testing.T) {
	c, err := load(t, map[string]string{"mayfly.yaml": operators + `console: {source: corp, client_secret: "${file:bank.token}", scopes: [groups]}` + "\n"})
	if err != nil {
		t.Fatal(err)
	}
	corp := c.Sources[0]
	if !corp.SignIn || corp.Secret.IsZero() || !slices.Equal(corp.Scopes, []string{"groups"}) || c.Sources[1].SignIn {
		t.Errorf("the source is %+v", corp)
	}
	c, err = load(t, map[string]string{"mayfly.yaml": operators + "console: {source: corp}\n"})
	if err != nil {
		t.Fatal(err)
	}
	if corp := c.Sources[0]; !corp.Secret.IsZero() || !slices.Equal(corp.Scopes, []string{"email", "profile"}) {
		t.Errorf("with nothing said the source is %+v", corp)
	}
	if c, err = load(t, map[string]string{"mayfly.yaml": operators}); err != nil || c.Sources[0].SignIn {
		t.Errorf("with no console %+v, %v", c.Sources[0], err)
	}
}

func TestAWrongConsoleIsNamed(t *testing.T) {
	for _, test := range []struct{ server, console, want string }{
		{operators, "{}", "console: source is missing"},
		{operators, "{source: corpp}", `console.source: "corpp" is no source`},
		{operators, "{source: local}", `source "local" has no operators`},
		{goodServer, "{source: corp}", `source "corp" has no operators`},
		{operators, "{source: corp, client_secret: hunter2}", "console.client_secret: holds the secret itself"},
		{operators, `{source: corp, scopes: ["a b"]}`, `console.scopes[0]: "a b" is not a scope`},
		{operators, "{source: corp, redirect: x}", `unknown key "redirect" in console`},
	} {
		_, err := load(t, map[string]string{"mayfly.yaml": test.server + "console: " + test.console + "\n"})
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("console: %s\ngot  %v\nwant %q in it", test.console, err, test.want)
		}
	}
}

func TestAServerBesideItsAgentHasNoAddress(t *testing.T) {
	const last = `  - {name: orders, kind: http, url: "http://127.0.0.1:8080"}` + "\n"
	c, err := load(t, map[string]string{"mayfly.yaml": goodServer + "  - {name: files, kind: mcp, stdio: true, labels: [internal], tools: {read: {labels: [untrusted]}}}\n"})
	if err != nil {
		t.Fatal(err)
	}
	if files := c.Targets["files"]; !files.Stdio || files.URL != "" || !slices.Equal(files.Tools["read"].Labels, []string{"untrusted"}) || c.Targets["bank"].Stdio {
		t.Errorf("the target is %+v", files)
	}
	add := func(target, want string) row { return row{"mayfly.yaml", last, last + "  - {" + target + "}\n", want} }
	namesWhatIsWrong(t, []row{
		add("name: x, kind: mcp, stdio: true, url: http://127.0.0.1:1", "targets[2].url: is for a server that is called at an address"),
		add(`name: x, kind: mcp, stdio: true, credential: {header: X, value: "${file:bank.token}"}`, "targets[2].credential: is for a server that is called at an address"),
		add("name: x, kind: http, stdio: true", "targets[2].stdio: is for kind mcp"),
		add("name: x, kind: mcp, stdio: false", "targets[2]: url is missing"),
		add("name: x, kind: mcp, stdio: maybe", "targets[2].stdio must be true or false"),
		add(`name: x, kind: postgres, stdio: true, admin_dsn: "${file:bank.token}", roles: {reader: {grant: [r]}}`, "targets[2].stdio: is for kind http or mcp"),
	})
}
