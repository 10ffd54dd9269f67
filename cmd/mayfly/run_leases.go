package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mayfly-id/mayfly/client"
	"github.com/mayfly-id/mayfly/internal/broker"
)

// checkOut lends the command what its task's grants name outright, and gives the
// environment in which unmodified clients find it, until remove. Nobody has to
// give anything back: the leases end with the task.
func checkOut(ctx context.Context, session *client.Session) (env []string, remove func() error, err error) {
	remove = func() error { return nil }
	task, err := session.API().Task(ctx, session.Task())
	if err != nil {
		return nil, remove, err
	}
	type lent struct {
		service string
		client.Credential
	}
	var databases []lent
	for _, g := range task.Grants {
		if !slices.Contains(broker.Kinds, g.Kind) || strings.Contains(g.Action, "*") {
			continue
		}
		c, err := session.CheckOut(ctx, g.String())
		if err != nil {
			return nil, remove, fmt.Errorf("%s cannot be checked out: %w", g, err)
		}
		databases = append(databases, lent{g.Target + "-" + g.Action, c})
	}
	if len(databases) == 0 {
		return nil, remove, nil
	}
	dir, err := os.MkdirTemp("", "mayfly-")
	if err != nil {
		return nil, remove, err
	}
	remove = func() error { return os.RemoveAll(dir) }
	var passwords, services strings.Builder
	for _, d := range databases {
		v := func(name string) string { return d.Values[name].Reveal() }
		// A backslash stands before what would end a field of the password file.
		escape := strings.NewReplacer(`\`, `\\`, `:`, `\:`).Replace
		hosts := []string{v("host")}
		if strings.HasPrefix(v("host"), "/") { // a socket, which some clients look up as this
			hosts = append(hosts, "localhost")
		}
		for _, host := range hosts {
			fmt.Fprintf(&passwords, "%s:%s:%s:%s:%s\n", escape(host), v("port"), escape(v("database")), v("user"), v("password"))
		}
		fmt.Fprintf(&services, "[%s]\nhost=%s\nport=%s\ndbname=%s\nuser=%s\n", d.service, v("host"), v("port"), v("database"), v("user"))
	}
	files := map[string]string{"PGPASSFILE": passwords.String(), "PGSERVICEFILE": services.String()}
	for name, text := range files {
		file := filepath.Join(dir, strings.ToLower(name))
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return nil, remove, errors.Join(err, remove())
		}
		env = append(env, name+"="+file)
	}
	if len(databases) == 1 { // then there is no question which
		v := func(name string) string { return databases[0].Values[name].Reveal() }
		env = append(env, "PGHOST="+v("host"), "PGPORT="+v("port"), "PGDATABASE="+v("database"), "PGUSER="+v("user"))
	}
	return env, remove, nil
}
