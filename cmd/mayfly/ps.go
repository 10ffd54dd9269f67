package main

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/client"
)

// psCmd is mayfly ps.
type psCmd struct {
	All     bool   `help:"Also tasks that are over."`
	Tree    bool   `help:"Sub-agents below the tasks that opened them."`
	Profile string `help:"Only tasks under this profile."`
	Root    string `help:"Only tasks for this human or service."`
}

// Run lists tasks: who for, what for, time left.
func (c psCmd) Run(ctx context.Context, t *terminal) error {
	api, err := t.client()
	if err != nil {
		return err
	}
	defer api.Close()
	filter := client.Filter{Profile: c.Profile, Root: c.Root, State: mayfly.Live}
	if c.All {
		filter.State = ""
	}
	tasks := []client.Task{}
	for cursor := ""; ; {
		page, next, err := api.Tasks(ctx, filter, cursor, 500)
		if err != nil {
			return err
		}
		tasks = append(tasks, page...)
		if cursor = next; cursor == "" {
			break
		}
	}
	if t.JSON {
		t.print(struct {
			Tasks []client.Task `json:"tasks"`
		}{tasks})
		return nil
	}
	if len(tasks) == 0 {
		fmt.Fprintln(t.Stdout, "no live tasks")
		return nil
	}
	if c.Tree {
		tasks = asTree(tasks)
	}
	w := tabwriter.NewWriter(t.Stdout, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "TASK\tPROFILE\tFOR\tPURPOSE\tSTATE\tLEFT")
	for _, one := range tasks {
		indent := ""
		if c.Tree {
			indent = strings.Repeat("  ", one.Depth)
		}
		fmt.Fprintf(w, "%s%s\t%s\t%s\t%s\t%s\t%s\n", indent, one.ID, one.Profile, one.Root.Subject,
			short(one.Purpose.Text, 40), state(one), left(one, time.Now()))
	}
	return w.Flush()
}

// asTree puts each task right after its parent's other descendants.
func asTree(tasks []client.Task) []client.Task {
	children := map[mayfly.TaskID][]client.Task{}
	have := map[mayfly.TaskID]bool{}
	for _, t := range tasks {
		have[t.ID] = true
	}
	for _, t := range tasks {
		parent := t.Parent
		if !have[parent] {
			parent = ""
		}
		children[parent] = append(children[parent], t)
	}
	var out []client.Task
	var walk func(mayfly.TaskID)
	walk = func(parent mayfly.TaskID) {
		for _, t := range children[parent] {
			out = append(out, t)
			walk(t.ID)
		}
	}
	walk("")
	return out
}

// state is a task's state, and why it is over.
func state(t client.Task) string {
	if t.Reason != "" {
		return fmt.Sprintf("%s (%s)", t.State, t.Reason)
	}
	return string(t.State)
}

// left is the time a live task has, at most.
func left(t client.Task, now time.Time) string {
	if t.State != mayfly.Live {
		return "-"
	}
	return max(t.Deadline.Sub(now), 0).Round(time.Second).String()
}

// short is one line of at most n characters.
func short(s string, n int) string {
	s = clean(s)
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}

// clean makes text that came from outside safe for a terminal: no control
// characters, no escapes, one line.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029' || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
			return ' '
		}
		return r
	}, s)
}
