package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/term"

	"github.com/mayfly-id/mayfly"
)

// pinsCmd is mayfly pins.
type pinsCmd struct {
	List   pinsListCmd   `cmd:"" default:"withargs" help:"List the tools, and what calls to them are held to."`
	Accept pinsAcceptCmd `cmd:"" help:"Accept what a tool has changed to."`
}

// Help is the long help.
func (pinsCmd) Help() string {
	return `Alone it lists every tool that was seen, as mayfly pins list does.

  mayfly pins
  mayfly pins accept bank pay_invoice`
}

// pinsListCmd is mayfly pins without more.
type pinsListCmd struct {
	Changed bool `help:"Only tools that changed."`
}

// Help is the long help.
func (pinsListCmd) Help() string {
	return `Lists every tool that was seen, and the definition calls to it are held to: the
first that its server gave, or one that was set or accepted since. A tool that
changed is hidden and refused until somebody accepts it, or it changes back.

  mayfly pins --changed`
}

// Run lists pins.
func (c pinsListCmd) Run(ctx context.Context, t *terminal) error {
	api, err := t.client()
	if err != nil {
		return err
	}
	defer api.Close()
	pins, err := api.Pins(ctx)
	if err != nil {
		return err
	}
	if c.Changed {
		pins = slices.DeleteFunc(pins, func(p mayfly.Pin) bool { return p.Changed == "" })
	}
	if t.JSON {
		t.print(struct {
			Pins []mayfly.Pin `json:"pins"`
		}{slices.Concat([]mayfly.Pin{}, pins)})
		return nil
	}
	if len(pins) == 0 {
		fmt.Fprintln(t.Stdout, map[bool]string{false: "no tool was seen yet", true: "no tool changed"}[c.Changed])
		return nil
	}
	w := tabwriter.NewWriter(t.Stdout, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "TARGET\tTOOL\tPINNED\tBY\tSINCE\tNOW")
	for _, p := range pins {
		now := "as pinned"
		if p.Changed != "" {
			now = "CHANGED at " + p.ChangedAt.Local().Format(time.DateTime) + ", refused"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", clean(p.Target), plain(p.Tool), short(p.Hash, 13), clean(p.By), p.At.Local().Format(time.DateTime), now)
	}
	return w.Flush()
}

// pinsAcceptCmd is mayfly pins accept.
type pinsAcceptCmd struct {
	Target string `arg:"" help:"The target."`
	Tool   string `arg:"" help:"The tool."`
	Hash   string `help:"Only if it has changed to this definition, which --json of pins gives as changed." placeholder:"HASH"`
	Yes    bool   `help:"Do not ask."`
}

// Help is the long help.
func (pinsAcceptCmd) Help() string {
	return `Shows how a tool's definition differs from the pinned one, and pins what it showed:
the tool is shown to agents and called again. On a terminal it asks first. If the
tool changes once more meanwhile, nothing is accepted.

  mayfly pins accept bank pay_invoice`
}

// Run accepts a changed tool.
func (c pinsAcceptCmd) Run(ctx context.Context, t *terminal) error {
	api, err := t.client()
	if err != nil {
		return err
	}
	defer api.Close()
	pins, err := api.Pins(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(pins, func(p mayfly.Pin) bool { return p.Target == c.Target && p.Tool == c.Tool })
	if i < 0 {
		return mayfly.Errorf(mayfly.NotFound, "no tool %s of %s was seen; mayfly pins lists those that were", clean(c.Tool), clean(c.Target))
	}
	shown := pins[i]
	if shown.Changed == "" {
		return mayfly.Errorf(mayfly.Conflict, "the tool %s of %s is defined as it is pinned; there is nothing to accept", clean(c.Tool), clean(c.Target))
	}
	if c.Hash != "" && c.Hash != shown.Changed {
		return mayfly.Errorf(mayfly.Conflict, "the tool %s of %s has changed to %s, not to that; look at it again", clean(c.Tool), clean(c.Target), shown.Changed)
	}
	if !t.JSON {
		fmt.Fprintf(t.Stdout, "%s %s, - as pinned by %s, + as its server gives it since %s\n\n",
			clean(shown.Target), plain(shown.Tool), clean(shown.By), shown.ChangedAt.Local().Format(time.DateTime))
		for _, line := range difference(definitionLines(shown.Definition), definitionLines(shown.ChangedDefinition)) {
			fmt.Fprintln(t.Stdout, line)
		}
		fmt.Fprintln(t.Stdout)
		if in, ok := t.Stdin.(*os.File); ok && !c.Yes && term.IsTerminal(int(in.Fd())) && !agreed(t.Stdout, in) {
			return mayfly.Errorf(mayfly.Denied, "nothing was accepted")
		}
	}
	pin, err := api.AcceptPin(ctx, c.Target, c.Tool, shown.Changed)
	if err != nil {
		return err
	}
	if t.JSON {
		t.print(pin)
		return nil
	}
	fmt.Fprintf(t.Stdout, "%s %s is pinned to %s\n", clean(pin.Target), plain(pin.Tool), pin.Hash)
	return nil
}

// agreed asks on a terminal.
func agreed(out io.Writer, in io.Reader) bool {
	fmt.Fprint(out, "accept it? [y/N] ")
	answer, err := bufio.NewReader(in).ReadString('\n')
	return err == nil && slices.Contains([]string{"y", "yes"}, strings.ToLower(strings.TrimSpace(answer)))
}

// definitionLines is a tool's definition for a person: a member a line.
func definitionLines(definition string) []string {
	var b bytes.Buffer
	if err := json.Indent(&b, []byte(definition), "", "  "); err != nil {
		return []string{plain(definition)}
	}
	lines := strings.Split(b.String(), "\n")
	for i, line := range lines {
		lines[i] = plain(line)
	}
	return lines
}

// differenceMost bounds the work of comparing, in pairs of lines.
const differenceMost = 4 << 20

// difference is how b differs from a, line by line: lines of a alone after a
// minus, of b alone after a plus, and of what is the same the two lines around.
func difference(a, b []string) []string {
	head := 0
	for head < len(a) && head < len(b) && a[head] == b[head] {
		head++
	}
	tail := 0
	for tail < len(a)-head && tail < len(b)-head && a[len(a)-1-tail] == b[len(b)-1-tail] {
		tail++
	}
	const around = 2
	var out []string
	put := func(sign string, lines []string) {
		for _, line := range lines {
			out = append(out, sign+" "+line)
		}
	}
	put(" ", a[max(0, head-around):head])
	changed(a[head:len(a)-tail], b[head:len(b)-tail], put)
	put(" ", a[len(a)-tail:min(len(a), len(a)-tail+around)])
	return out
}

// changed puts the shortest way from a to b, or all of both where that is too
// much to look for.
func changed(a, b []string, put func(sign string, lines []string)) {
	if len(a)*len(b) > differenceMost {
		put("-", a)
		put("+", b)
		return
	}
	// common[i][j] is how many lines a[i:] and b[j:] have in common, in order.
	common := make([][]int32, len(a)+1)
	for i := range common {
		common[i] = make([]int32, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if common[i][j] = max(common[i+1][j], common[i][j+1]); a[i] == b[j] {
				common[i][j] = common[i+1][j+1] + 1
			}
		}
	}
	i, j := 0, 0
	for i < len(a) || j < len(b) {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			put(" ", a[i:i+1])
			i, j = i+1, j+1
		case j == len(b) || i < len(a) && common[i+1][j] >= common[i][j+1]:
			put("-", a[i:i+1])
			i++
		default:
			put("+", b[j:j+1])
			j++
		}
	}
}
