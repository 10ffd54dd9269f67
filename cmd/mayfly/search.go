package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/client"
)

// searchFlags are what records are found by.
type searchFlags struct {
	Human   string `placeholder:"ID" help:"Whom a record is about, or who did it; a service's id too."`
	Agent   string `placeholder:"ID" help:"A task's id or SPIFFE ID, or the workload that runs it; with everything below it."`
	Profile string `placeholder:"NAME" help:"A profile, with everything below its tasks."`
	Target  string `placeholder:"NAME" help:"A target."`
	Tool    string `placeholder:"NAME" help:"A tool, or METHOD:/path."`
	Label   string `placeholder:"LABEL" help:"A label of what was called."`
	Since   string `placeholder:"TIME" help:"Only from then on: a time such as 2027-01-31T12:00:00Z, or how long ago, such as 24h."`
	Until   string `placeholder:"TIME" help:"Only before then."`
}

// query is what the flags ask for.
func (f searchFlags) query() (q client.Query, err error) {
	q = client.Query{Human: f.Human, Agent: f.Agent, Profile: f.Profile, Target: f.Target, Tool: f.Tool, Label: f.Label}
	now := time.Now()
	if q.Since, err = timeFlag("--since", f.Since, now); err != nil {
		return q, err
	}
	q.Until, err = timeFlag("--until", f.Until, now)
	return q, err
}

// logSearchCmd is mayfly log search.
type logSearchCmd struct {
	searchFlags
	Term     string `placeholder:"TERM" help:"The term that denied."`
	Kind     string `placeholder:"KIND" help:"The kind of event, such as call.decided."`
	Trace    string `placeholder:"ID" help:"A W3C trace id."`
	Upstream string `placeholder:"ID" help:"The id that a target gave a request."`
	Limit    int    `default:"100" help:"Print at most this many, the newest; 0 prints all."`
}

// Help is the long help.
func (logSearchCmd) Help() string {
	return `Finds records, newest first. Everything that is asked must be so. The operator
finds all of it, anybody else what they may read. A record can be found within
seconds of when it was made.

  mayfly log search --human alice@example.org --target bank --since 24h
  mayfly log search --agent task_06e8… --term policy
  mayfly log search --label untrusted --kind call.decided --json`
}

// Run searches.
func (c logSearchCmd) Run(ctx context.Context, t *terminal) error {
	q, err := c.query()
	if err != nil {
		return err
	}
	q.Term, q.Kind, q.Trace, q.Upstream = c.Term, c.Kind, c.Trace, c.Upstream
	api, err := t.client()
	if err != nil {
		return err
	}
	defer api.Close()
	found := 0
	err = eachFound(ctx, api, q, c.Limit, func(e client.Event) error {
		found++
		if t.JSON {
			t.print(e)
		} else {
			fmt.Fprintln(t.Stdout, foundLine(e))
		}
		return nil
	})
	if err == nil && found == 0 && !t.JSON {
		fmt.Fprintln(t.Stdout, "nothing was recorded of this")
	}
	return err
}

// eachFound calls do with what q finds, newest first, at most limit; 0 is all.
func eachFound(ctx context.Context, api *client.Client, q client.Query, limit int, do func(client.Event) error) error {
	left := limit
	for cursor := ""; ; {
		size := 500
		if limit > 0 {
			size = min(size, left)
		}
		page, next, err := api.Search(ctx, q, cursor, size)
		if err != nil {
			return err
		}
		for _, e := range page {
			if err := do(e); err != nil {
				return err
			}
		}
		left -= len(page)
		if cursor = next; next == "" || limit > 0 && left <= 0 {
			return nil
		}
	}
}

// foundLine is one record that was found, for a person.
func foundLine(e client.Event) string {
	line := fmt.Sprintf("%s  %-19s", e.Time.Local().Format(time.DateTime), e.Kind)
	a := accessIn(e)
	for _, part := range []string{a.verdict(), a.what(), a.who(), or(e.Decision, string(e.Task))} {
		if part != "" {
			line += "  " + clean(part)
		}
	}
	if e.Term != "" && e.Kind != (mayfly.CallDecided{}).Kind() {
		line += "  denied: " + string(e.Term)
	}
	return line
}

// access is what a record says of who touched what.
type access struct {
	Decision mayfly.Decision `json:"-"`
	Root     mayfly.Subject  `json:"root"`
	Human    string          `json:"human"`
	Target   string          `json:"target"`
	Action   string          `json:"action"`
	Tool     string          `json:"tool"`
	Grant    string          `json:"grant"`
	By       string          `json:"by"`
	Lease    mayfly.LeaseID  `json:"lease"`
	Snapshot mayfly.Snapshot `json:"snapshot"`
}

func accessIn(e client.Event) (a access) {
	// A body is absent, or says other things: then these are left empty.
	_ = json.Unmarshal(e.Body, &a)
	if e.Kind == (mayfly.CallDecided{}).Kind() {
		var c struct{ Decision mayfly.Decision }
		_ = json.Unmarshal(e.Body, &c)
		a.Decision = c.Decision
	}
	return a
}

func (a access) verdict() string {
	if a.Decision.Term != "" {
		return string(a.Decision.Verdict) + " (" + string(a.Decision.Term) + ")"
	}
	return string(a.Decision.Verdict)
}

func (a access) what() string {
	if a.Target != "" {
		return a.Target + " " + or(a.Action, a.Tool)
	}
	return a.Grant
}

func (a access) who() string { return or(a.Root.ID, or(a.Human, a.By)) }
