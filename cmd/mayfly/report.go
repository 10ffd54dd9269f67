package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/csv"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/client"
)

// logReportCmd is mayfly log report.
type logReportCmd struct {
	searchFlags
	Format string `enum:"markdown,csv" default:"markdown" help:"markdown or csv."`
	Out    string `short:"o" placeholder:"FILE" help:"Where to write it. Default: standard output."`
}

// Help is the long help.
func (logReportCmd) Help() string {
	return `Writes who accessed what, on whose authority and under which policy, oldest first:
each decision on a call or a lease that fits, with its place in the log, so that it
can be proven (mayfly log prove). Of a person who was erased, the pseudonym is left.

  mayfly log report --human alice@example.org --since 720h -o alice.md
  mayfly log report --agent task_06e8…
  mayfly log report --label customer-data --format csv -o access.csv`
}

// reportMost is how many decisions one report may hold.
const reportMost = 200_000

// reported is one line of a report.
type reported struct {
	event  client.Event
	access access
	task   client.Task // zero where it is not known
}

// Run writes a report.
func (c logReportCmd) Run(ctx context.Context, t *terminal) error {
	q, err := c.query()
	if err != nil {
		return err
	}
	if q == (client.Query{Since: q.Since, Until: q.Until}) {
		return usageError("say of whom or what: --human, --agent, --profile, --target, --tool or --label")
	}
	q.Kind = (mayfly.CallDecided{}).Kind()
	api, err := t.client()
	if err != nil {
		return err
	}
	defer api.Close()
	checkpoint, err := api.Checkpoint(ctx)
	if err != nil {
		return err
	}
	var list []reported
	tasks := map[mayfly.TaskID]client.Task{}
	err = eachFound(ctx, api, q, 0, func(e client.Event) error {
		if len(list) == reportMost {
			return mayfly.Errorf(mayfly.Invalid, "there are more than %d decisions; narrow it with --since and --until", reportMost)
		}
		task, known := tasks[e.Task]
		if !known {
			if task, err = api.Task(ctx, e.Task); err != nil {
				return err
			}
			tasks[e.Task] = task
		}
		list = append(list, reported{e, accessIn(e), task})
		return nil
	})
	if err != nil {
		return err
	}
	slices.Reverse(list)
	var text bytes.Buffer
	switch {
	case t.JSON:
		return usageError("--json is for mayfly log search; a report is markdown or csv")
	case c.Format == "csv":
		err = reportCSV(&text, list)
	default:
		c.markdown(&text, list, checkpoint)
	}
	if err != nil {
		return err
	}
	if c.Out == "" {
		_, err = t.Stdout.Write(text.Bytes())
		return err
	}
	if err := os.WriteFile(c.Out, text.Bytes(), 0o600); err != nil {
		return err
	}
	fmt.Fprintf(t.Stdout, "%s: %s\n", c.Out, count(len(list), "decision"))
	return nil
}

// person is whom a decision was for, or what is left of them.
func (r reported) person() string {
	return or(r.access.Root.ID, or(r.event.Person, "unknown"))
}

func (r reported) position() string {
	if r.event.Position == nil {
		return ""
	}
	return strconv.FormatInt(*r.event.Position, 10)
}

// bundle is the beginning of the hash of the configuration that decided.
func (r reported) bundle() string {
	hash := r.access.Decision.Bundle
	return hash[:min(12, len(hash))]
}

// outcome is what was decided; of a body that was erased, only the term is left.
func (r reported) outcome() string {
	if r.access.Decision.Verdict == "" {
		return "erased"
	}
	return r.access.verdict()
}

var reportColumns = []string{
	"time", "position", "decision", "for", "kind", "chain", "task", "profile", "purpose", "target", "action", "outcome", "policies", "approval", "bundle",
}

// reportCSV writes list as RFC 4180 has it. A cell that a spreadsheet would take for
// a formula begins with an apostrophe.
func reportCSV(w io.Writer, list []reported) error {
	out := csv.NewWriter(w)
	if err := out.Write(reportColumns); err != nil {
		return err
	}
	for _, r := range list {
		d := r.access.Decision
		cells := []string{
			r.event.Time.UTC().Format(time.RFC3339Nano), r.position(), r.event.Decision, r.person(), string(r.access.Root.Kind),
			strings.Join(r.task.Chain, " > "), string(r.event.Task), r.task.Profile, r.task.Purpose.Text, r.access.Target, r.access.Action,
			r.outcome(), strings.Join(d.Policies, " "), d.Approval, d.Bundle,
		}
		for i, cell := range cells {
			if cell != "" && strings.ContainsRune("=+-@\t\r", rune(cell[0])) {
				cells[i] = "'" + cell
			}
		}
		if err := out.Write(cells); err != nil {
			return err
		}
	}
	out.Flush()
	return out.Error()
}

// markdown writes list for people: a summary, on whose authority, and each decision.
func (c logReportCmd) markdown(w io.Writer, list []reported, checkpoint string) {
	fmt.Fprintf(w, "# Access: %s\n\n", cell(c.title()))
	if len(list) == 0 {
		fmt.Fprintf(w, "Nothing was decided of this.\n")
	} else {
		fmt.Fprintf(w, "%s, from %s to %s (UTC).\n", count(len(list), "decision"), utc(list[0].event.Time), utc(list[len(list)-1].event.Time))
		summary(w, list)
		authorities(w, list)
		fmt.Fprintf(w, "\n## Each decision\n\n| time | position | decision | task | target | action | outcome | policies | configuration |\n|---|---|---|---|---|---|---|---|---|\n")
		for _, r := range list {
			tableRow(w, utc(r.event.Time), r.position(), r.event.Decision, string(r.event.Task), r.access.Target, r.access.Action, r.outcome(), strings.Join(r.access.Decision.Policies, ", "), r.bundle())
		}
	}
	fmt.Fprintf(w, "\n## The log\n\nEach decision is a record at its position in the log. `mayfly log prove <decision>` writes a proof of it, and\n"+
		"`mayfly log verify <proof> --vkey <key>` checks that with the log's key alone. The checkpoint when this was written:\n\n")
	for line := range strings.Lines(checkpoint) {
		fmt.Fprintf(w, "    %s", line)
	}
}

// title is what the report is of.
func (c logReportCmd) title() string {
	var parts []string
	for _, f := range []struct{ name, value string }{
		{"human", c.Human}, {"agent", c.Agent}, {"profile", c.Profile}, {"target", c.Target}, {"tool", c.Tool},
		{"label", c.Label}, {"since", c.Since}, {"until", c.Until},
	} {
		if f.value != "" {
			parts = append(parts, f.name+" "+f.value)
		}
	}
	return strings.Join(parts, ", ")
}

// summary says what was touched how often.
func summary(w io.Writer, list []reported) {
	type use struct {
		what, person    string
		allowed, denied int
	}
	uses := map[string]*use{}
	for _, r := range list {
		key := r.access.what() + "\x00" + r.person()
		u := uses[key]
		if u == nil {
			u = &use{what: or(r.access.what(), "erased"), person: r.person()}
			uses[key] = u
		}
		switch r.access.Decision.Verdict {
		case mayfly.Allow:
			u.allowed++
		case "":
		default:
			u.denied++
		}
	}
	var sorted []*use
	for _, u := range uses {
		sorted = append(sorted, u)
	}
	slices.SortFunc(sorted, func(a, b *use) int { return cmp.Or(cmp.Compare(a.what, b.what), cmp.Compare(a.person, b.person)) })
	fmt.Fprintf(w, "\n## What was touched\n\n| target and action | for | allowed | refused |\n|---|---|---|---|\n")
	for _, u := range sorted {
		tableRow(w, u.what, u.person, strconv.Itoa(u.allowed), strconv.Itoa(u.denied))
	}
}

// authorities says on whose authority each task acted.
func authorities(w io.Writer, list []reported) {
	fmt.Fprintf(w, "\n## On whose authority\n\n| task | for | profile | purpose | said by | chain |\n|---|---|---|---|---|---|\n")
	seen := map[mayfly.TaskID]bool{}
	for _, r := range list {
		if seen[r.event.Task] {
			continue
		}
		seen[r.event.Task] = true
		by := r.task.Purpose.By
		if by != "" && !r.task.Purpose.Verified {
			by += " (not verified)"
		}
		tableRow(w, string(r.event.Task), r.person(), r.task.Profile, r.task.Purpose.Text, by, strings.Join(r.task.Chain, " > "))
	}
}

func utc(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05") }

func tableRow(w io.Writer, cells ...string) {
	for i := range cells {
		cells[i] = cell(cells[i])
	}
	fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | "))
}

// cell is text from outside, as plain text of Markdown.
func cell(s string) string {
	var b strings.Builder
	for _, r := range clean(s) {
		if strings.ContainsRune("\\`*[]<|", r) {
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	return b.String()
}
