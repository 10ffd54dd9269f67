package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/client"
)

// explainCmd is mayfly explain.
type explainCmd struct {
	Decision string `arg:"" help:"The decision's id, as an answer, a refusal or the log names it."`
}

// Help is the long help.
func (explainCmd) Help() string {
	return `Says why a decision is what it is: every term in the order in which they are asked,
which one decided, the policies that did with their text as it was then, what they
saw, and what would have made it pass.

  mayfly explain dec_06e8…`
}

// Run explains one decision.
func (c explainCmd) Run(ctx context.Context, t *terminal) error {
	api, err := t.client()
	if err != nil {
		return err
	}
	defer api.Close()
	x, err := api.Explain(ctx, c.Decision)
	if err != nil {
		return err
	}
	if t.JSON {
		t.print(x)
		return nil
	}
	showExplanation(t.Stdout, x, marksFor(t.Stdout))
	return nil
}

// marks are how the state of a term is drawn.
type marks map[string]string

// marksFor are signs where out is a terminal, and letters that every program can
// read where it is not.
func marksFor(out io.Writer) marks {
	if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return marks{"passed": "✓", "decided": "✗", "observed": "○", "not asked": "–"}
	}
	return marks{"passed": "+", "decided": "x", "observed": "o", "not asked": "-"}
}

func showExplanation(out io.Writer, x client.Explanation, m marks) {
	line := string(x.Verdict)
	if x.Term != "" {
		line += " by " + string(x.Term)
	}
	fmt.Fprintf(out, "%s: %s  %s\n", clean(x.Decision), line, x.Time.Local().Format(time.DateTime))
	what := clean(x.What)
	if x.Target != "" {
		what += " " + clean(x.Target+":"+x.Action)
	}
	if x.Profile != "" {
		what += ", by " + clean(x.Profile)
	}
	if x.Task != "" {
		what += " " + string(x.Task)
	}
	if x.Root.Subject != "" {
		what += ", for " + clean(x.Root.Subject)
	}
	fmt.Fprintf(out, "%s\n", what)
	if x.Reason != "" {
		fmt.Fprintf(out, "%s\n", plain(x.Reason))
	}
	fmt.Fprintln(out)
	for _, step := range x.Terms {
		text := fmt.Sprintf("  %s %-10s", m[step.State], step.Term)
		if step.Detail != "" {
			text += " " + plain(step.Detail)
		}
		fmt.Fprintln(out, strings.TrimRight(text, " "))
	}
	showSnapshot(out, x.Snapshot)
	for _, p := range x.Policies {
		fmt.Fprintf(out, "\n%s (%s)\n", clean(p.ID), clean(where(p.File, p.Line)))
		for line := range strings.SplitSeq(strings.TrimSpace(p.Text), "\n") {
			fmt.Fprintf(out, "    %s\n", clean(strings.ReplaceAll(line, "\t", "    ")))
		}
	}
	fmt.Fprintln(out)
	if x.Next != nil {
		fmt.Fprintf(out, "what would have made it pass: %s\n", nextLine(x.Next))
	}
	if x.Approval != "" {
		fmt.Fprintf(out, "approval: %s\n", clean(x.Approval))
	}
	switch {
	case x.Outcome != "" && x.Status != 0:
		fmt.Fprintf(out, "outcome: %s, status %d\n", clean(x.Outcome), x.Status)
	case x.Outcome != "":
		fmt.Fprintf(out, "outcome: %s\n", clean(x.Outcome))
	}
	fmt.Fprintf(out, "bundle: %s\n", clean(x.Bundle))
}

// showSnapshot shows what the policies saw of the call.
func showSnapshot(out io.Writer, text json.RawMessage) {
	var s struct {
		Facts  map[string]json.RawMessage `json:"facts"`
		Labels []string                   `json:"labels"`
		Seen   []string                   `json:"seen"`
	}
	if len(text) == 0 || json.Unmarshal(text, &s) != nil {
		return // the policies were not reached
	}
	fmt.Fprintf(out, "\nwhat policies saw\n")
	for _, name := range names(s.Facts) {
		fmt.Fprintf(out, "  %s: %s\n", plain(name), plain(factText(s.Facts[name])))
	}
	fmt.Fprintf(out, "  labels: %s\n  seen before: %s\n", listed(s.Labels), listed(s.Seen))
}

// factText is a fact for a person.
func factText(text json.RawMessage) string {
	var v mayfly.FactValue
	if err := json.Unmarshal(text, &v); err == nil && v.Type == mayfly.FactDecimal {
		return v.Describe()
	}
	return string(text)
}

// where is file:line, or the file alone where there is no line.
func where(file string, line int) string {
	if line == 0 {
		return file
	}
	return fmt.Sprintf("%s:%d", file, line)
}

func listed(words []string) string {
	if len(words) == 0 {
		return "none"
	}
	return clean(strings.Join(words, ", "))
}

// nextLine is what a refused caller can do, in one line.
func nextLine(n *mayfly.Next) string {
	var words []string
	for _, word := range []string{n.Grant, n.Detail} {
		if word != "" {
			words = append(words, clean(word))
		}
	}
	if len(words) == 0 {
		return clean(n.Action)
	}
	return strings.Join(words, ": ")
}
