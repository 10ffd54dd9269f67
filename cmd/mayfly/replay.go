package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/client"
)

// replayCmd is mayfly replay.
type replayCmd struct {
	Policies string `required:"" help:"Folder with the *.cedar files to try." placeholder:"DIR"`
	Since    string `help:"Only decisions from then on: a time such as 2027-01-31T12:00:00Z, or how long ago, such as 24h. Default: all." placeholder:"TIME"`
}

// Help is the long help.
func (replayCmd) Help() string {
	return `Decides what was decided again, under other policies, and prints each decision that
would be another. Nothing but the policies is asked anew: who was live, what was
granted and what was spent stay as they were. Nothing changes but that the log says
it was done.

  mayfly replay --policies ./proposed --since 168h`
}

// Run decides again.
func (c replayCmd) Run(ctx context.Context, t *terminal) error {
	since, err := timeFlag("--since", c.Since, time.Now())
	if err != nil {
		return err
	}
	files, err := cedarFiles(c.Policies)
	if err != nil {
		return err
	}
	api, err := t.client()
	if err != nil {
		return err
	}
	defer api.Close()
	answer, err := api.Replay(ctx, files, since)
	if err != nil {
		return err
	}
	if t.JSON {
		t.print(answer)
		return nil
	}
	for _, f := range answer.Changed {
		fmt.Fprintln(t.Stdout, flipLine(f))
	}
	if missing := answer.Flips - int64(len(answer.Changed)); missing > 0 {
		fmt.Fprintf(t.Stdout, "… and %d more\n", missing)
	}
	fmt.Fprintf(t.Stdout, "%s decided again: %d would be another", count(int(answer.Decisions), "decision"), answer.Flips)
	if answer.Kept > 0 {
		fmt.Fprintf(t.Stdout, "; %d more are no policy's matter", answer.Kept)
	}
	if answer.Unknown > 0 {
		fmt.Fprintf(t.Stdout, "; of %d too little is known", answer.Unknown)
	}
	fmt.Fprintln(t.Stdout)
	return nil
}

// flipLine is one decision that would be another.
func flipLine(f client.Flip) string {
	line := fmt.Sprintf("%s  %s  %s for %s  %s  %s -> %s", f.Time.Local().Format(time.DateTime), clean(f.Decision), clean(f.Profile), clean(f.Root),
		clean(f.Grant), verdict(f.Was, f.WasTerm), verdict(f.Now, f.Term))
	if len(f.Policies) > 0 {
		line += "  by " + clean(strings.Join(f.Policies, ", "))
	}
	return line
}

func verdict(v mayfly.Verdict, term mayfly.Term) string {
	if v == mayfly.Allow || term == "" {
		return string(v)
	}
	return fmt.Sprintf("%s (%s)", v, term)
}

// timeFlag is a time that a flag gives: RFC 3339, or how long before now.
func timeFlag(name, text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return now.Add(-ago), nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, usageError(fmt.Sprintf("%s %s: write a time such as 2027-01-31T12:00:00Z, or how long ago, such as 24h", name, text))
	}
	return at, nil
}

// cedarFiles reads the policies in a folder, by file name.
func cedarFiles(dir string) (map[string]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, usageError(fmt.Sprintf("--policies %s: %v", dir, unwrapPath(err)))
	}
	files := map[string]string{}
	for _, e := range entries {
		if e.IsDir() || filepath.Ext(e.Name()) != ".cedar" {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, usageError(fmt.Sprintf("%s: %v", filepath.Join(dir, e.Name()), unwrapPath(err)))
		}
		files[e.Name()] = string(text)
	}
	if len(files) == 0 {
		return nil, usageError(fmt.Sprintf("--policies %s: no file there ends in .cedar", dir))
	}
	return files, nil
}
