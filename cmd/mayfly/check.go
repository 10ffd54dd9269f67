package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/mayfly-id/mayfly"
)

// checkCmd is mayfly check.
type checkCmd struct {
	Schema bool `help:"Print the Cedar schema that policies are held to, facts included."`
}

// Help is the long help.
func (checkCmd) Help() string {
	return `Reads mayfly.yaml, profiles/*.yaml and policies/*.cedar and every file they
name, and says what is wrong with file, line and column; all of it, not only the
first. Exits 78 if anything is. The server refuses to start on the same errors.

With --schema it prints, instead of a report, the Cedar schema that the policies
are held to: what they may read, with the types of the declared facts.

  mayfly --config /etc/mayfly/mayfly.yaml check`
}

// checked is what mayfly check --json prints.
type checked struct {
	Bundle   string   `json:"bundle"`
	Profiles []string `json:"profiles"`
	Targets  []string `json:"targets"`
	Sources  []string `json:"sources"`
	// AuthorityProfile are the profiles under which a delegator's own rights
	// are not consulted.
	AuthorityProfile []string `json:"authority_profile"`
	Warnings         []string `json:"warnings"`
}

// Run checks the configuration.
func (cmd checkCmd) Run(_ context.Context, t *terminal) error {
	c, err := Load(t.Config)
	if err != nil {
		return err
	}
	if cmd.Schema {
		if t.JSON {
			t.print(struct {
				Schema string `json:"schema"`
			}{c.Schema.Text()})
			return nil
		}
		fmt.Fprint(t.Stdout, c.Schema.Text())
		return nil
	}
	report := checked{
		Bundle: c.Hash, Profiles: names(c.Profiles), Targets: names(c.Targets),
		Sources: []string{}, AuthorityProfile: []string{}, Warnings: append([]string{}, c.Warnings...),
	}
	for _, s := range c.Sources {
		report.Sources = append(report.Sources, s.Name)
	}
	for _, name := range report.Profiles {
		if c.Profiles[name].Authority == mayfly.AuthorityProfile {
			report.AuthorityProfile = append(report.AuthorityProfile, name)
		}
	}
	if t.JSON {
		t.print(report)
		return nil
	}
	fmt.Fprintf(t.Stdout, "%s is right: %s, %s, %s\nbundle %s\n", t.Config,
		count(len(report.Profiles), "profile"), count(len(report.Targets), "target"), count(len(report.Sources), "source"), c.Hash)
	for _, name := range report.AuthorityProfile {
		fmt.Fprintf(t.Stdout, "note: profile %s: authority: profile: being accepted under delegators is enough, own rights not consulted\n", name)
	}
	for _, w := range c.Warnings {
		fmt.Fprintf(t.Stdout, "warning: %s\n", w)
	}
	return nil
}

func names[T any](m map[string]T) []string {
	out := make([]string, 0, len(m))
	for name := range m {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
