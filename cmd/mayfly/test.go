package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/policy"
)

// testCmd is mayfly test.
type testCmd struct {
	Paths []string `arg:"" optional:"" name:"path" help:"Files, or folders of *.yaml. Default: the folder tests beside the configuration."`
}

// Help is the long help.
func (testCmd) Help() string {
	return `Decides cases that are written down, with the profiles, targets and policies of the
configuration, and says which come out otherwise than they should. No server is
asked and nothing is stored. Exits 1 if a case differs.

A file is a list of cases. Of given only root and profile are needed; a task has all
that its profile may give unless grants says less. The calls under earlier went before,
in the same task: they count in its budgets, and in what it has seen.

  [{name: a large payment asks finance,
    given: {root: {human: alice@example.org, groups: [accounts]}, profile: invoices},
    when: {call: mcp:bank:pay_invoice, arguments: {amount: 250}},
    then: {decision: needs-approval, needs: [finance-leads]}}]

  mayfly test tests/payments.yaml`
}

// testCase is one case of a scenario file.
type testCase struct {
	Name  string    `json:"name"`
	Given testGiven `json:"given"`
	When  testCall  `json:"when"`
	Then  struct {
		Decision string   `json:"decision"`
		Term     string   `json:"term"`
		Needs    []string `json:"needs"`
		Policies []string `json:"policies"`
	} `json:"then"`
}

// testCall is one call.
type testCall struct {
	Call      string `json:"call"`
	Arguments any    `json:"arguments"`
}

// testGiven is the task that asks, and what is so when it does.
type testGiven struct {
	Root struct {
		Human   string            `json:"human"`
		Service string            `json:"service"`
		Source  string            `json:"source"`
		Groups  []string          `json:"groups"`
		Claims  map[string]string `json:"claims"`
	} `json:"root"`
	Profile  string       `json:"profile"`
	Grants   []grantEntry `json:"grants"`
	Parents  []string     `json:"parents"` // profiles, root first
	Token    []grantEntry `json:"token"`   // what the token is limited to; default the whole task
	Purpose  string       `json:"purpose"`
	Earlier  []testCall   `json:"earlier"`
	Seen     []string     `json:"seen"`
	Approved []string     `json:"approved"`
	Changed  bool         `json:"changed"` // the tool is not defined as it is pinned
	Ended    string       `json:"ended"`   // reason
	Time     string       `json:"time"`
	SourceIP string       `json:"source_ip"`
}

// tested is what mayfly test --json prints.
type tested struct {
	Cases  int          `json:"cases"`
	Failed []testFailed `json:"failed"`
}

type testFailed struct {
	File   string `json:"file"`
	Line   int    `json:"line"`
	Name   string `json:"name"`
	Want   string `json:"want"`
	Got    string `json:"got"`
	Reason string `json:"reason,omitempty"`
}

// Run decides every case. What cannot be read is a problem of the configuration;
// what comes out otherwise is a refusal.
func (c testCmd) Run(_ context.Context, t *terminal) error {
	config, err := Load(t.Config)
	if err != nil {
		return err
	}
	files, err := c.files(t.Config)
	if err != nil {
		return err
	}
	report := tested{Failed: []testFailed{}}
	var bad problems
	for _, file := range files {
		src, err := os.ReadFile(file)
		if err != nil {
			bad = append(bad, problem{File: file, Message: unwrapPath(err).Error()})
			continue
		}
		if len(src) > configLimit {
			bad = append(bad, problem{File: file, Message: fmt.Sprintf("the file is longer than %d bytes", configLimit)})
			continue
		}
		d := parseYAML(file, src)
		var cases []testCase
		if !d.into(&cases) {
			bad = append(bad, d.bad...)
			continue
		}
		for i := range cases {
			q := cases[i].question(d, path{i}, config)
			if q == nil {
				continue
			}
			report.Cases++
			if failed := cases[i].compare(cases[i].decide(d, path{i}, q, config)); failed != nil {
				failed.File, failed.Line, failed.Name = file, d.root.at(i).line, cases[i].Name
				report.Failed = append(report.Failed, *failed)
			}
		}
		bad = append(bad, d.bad...)
	}
	if len(bad) > 0 {
		return bad
	}
	if t.JSON {
		t.print(report)
	} else {
		for _, f := range report.Failed {
			fmt.Fprintf(t.Stdout, "%s:%d: %s: got %s, want %s\n", f.File, f.Line, clean(f.Name), clean(f.Got), clean(f.Want))
			if f.Reason != "" {
				fmt.Fprintf(t.Stdout, "    %s\n", clean(f.Reason))
			}
		}
		summary := "all as they should be"
		if n := len(report.Failed); n > 0 {
			summary = fmt.Sprintf("%d not as it should be", n)
		}
		fmt.Fprintf(t.Stdout, "%s in %s: %s\n", count(report.Cases, "case"), count(len(files), "file"), summary)
	}
	if len(report.Failed) > 0 {
		return exitStatus(exitRefused) // it was said already
	}
	return nil
}

// files are those to read, in order.
func (c testCmd) files(config string) ([]string, error) {
	paths := c.Paths
	if len(paths) == 0 {
		paths = []string{filepath.Join(filepath.Dir(config), "tests")}
	}
	var files []string
	for _, one := range paths {
		info, err := os.Stat(one)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil, usageError(fmt.Sprintf("there is no %s; write cases into tests/NAME.yaml beside the configuration, or name the files", one))
		case err != nil:
			return nil, usageError(fmt.Sprintf("%s: %v", one, unwrapPath(err)))
		case !info.IsDir():
			files = append(files, one)
			continue
		}
		entries, err := os.ReadDir(one)
		if err != nil {
			return nil, usageError(fmt.Sprintf("%s: %v", one, unwrapPath(err)))
		}
		before := len(files)
		for _, e := range entries {
			if !e.IsDir() && filepath.Ext(e.Name()) == ".yaml" {
				files = append(files, filepath.Join(one, e.Name()))
			}
		}
		if len(files) == before {
			return nil, usageError(fmt.Sprintf("no file in %s ends in .yaml, so there is nothing to test", one))
		}
	}
	return files, nil
}

// compare says how d differs from what was to come, or nothing. Only what the
// case speaks of is compared: of policies those that it names, and of needs all.
func (c *testCase) compare(d mayfly.Decision) *testFailed {
	then := &c.Then
	same := string(d.Verdict) == then.Decision && (then.Term == "" || string(d.Term) == then.Term)
	if then.Needs != nil {
		same = same && slices.Equal(slices.Sorted(slices.Values(then.Needs)), slices.Sorted(slices.Values(d.Needs)))
	}
	for _, id := range then.Policies {
		same = same && slices.Contains(d.Policies, id)
	}
	if same {
		return nil
	}
	return &testFailed{
		Want: outcome(then.Decision, then.Term, then.Needs, then.Policies),
		Got:  outcome(string(d.Verdict), string(d.Term), d.Needs, d.Policies), Reason: d.Reason,
	}
}

// outcome is a decision in one line.
func outcome(verdict, term string, needs, policies []string) string {
	text := verdict
	if term != "" {
		text += " by " + term
	}
	if len(needs) > 0 {
		text += ", needs " + strings.Join(slices.Sorted(slices.Values(needs)), " and ")
	}
	if len(policies) > 0 {
		text += ", policies " + strings.Join(slices.Sorted(slices.Values(policies)), ", ")
	}
	return text
}

// question is what is decided in the case at a place of d; nil if it cannot be
// asked, and d says why.
func (c *testCase) question(d *document, at path, config *Config) *policy.Question {
	before := len(d.bad)
	q := &policy.Question{
		TokenWhole: true, Now: time.Now(), SourceIP: c.Given.SourceIP, TrustDomain: config.TrustDomain,
		Bundle: config.Hash, Policies: config.Policies,
		Seen: slices.Sorted(slices.Values(c.Given.Seen)), Approved: c.Given.Approved,
	}
	if c.Name == "" {
		d.wrong(at, "name is missing; say in a few words what the case shows")
	}
	given := at.to("given")
	if c.Given.Time != "" {
		when, err := time.Parse(time.RFC3339, c.Given.Time)
		if err != nil {
			d.wrong(given.to("time"), "%q is not a time; write one such as 2027-01-31T12:00:00Z", c.Given.Time)
		}
		q.Now = when
	}
	if c.Given.SourceIP != "" {
		if _, err := netip.ParseAddr(c.Given.SourceIP); err != nil {
			d.wrong(given.to("source_ip"), "%q is not an address", c.Given.SourceIP)
		}
	}
	c.chain(d, given, config, q)
	q.Decision = mayfly.NewID("dec", q.Now)
	c.When.ask(d, at.to("when"), q, config)
	if c.Given.Changed {
		if q.Call.Kind != "mcp" {
			d.wrong(given.to("changed"), "only the tools of an MCP server have a definition that can change")
		}
		q.Pin = &mayfly.Pin{Target: q.Call.Target, Tool: q.Call.Action, Changed: "another"}
	}
	c.expected(d, at.to("then"))
	if len(d.bad) > before {
		return nil
	}
	return q
}

// ask makes c the call that q asks about.
func (c *testCall) ask(d *document, at path, q *policy.Question, config *Config) {
	q.Call = c.parse(d, at, config)
	q.Target = testTarget(config.Targets[q.Call.Target])
}

func (c *testCall) parse(d *document, at path, config *Config) mayfly.Call {
	g, err := mayfly.ParseGrant(c.Call)
	switch {
	case c.Call == "":
		d.wrong(at, "call is missing; write one such as mcp:bank:pay_invoice")
		return mayfly.Call{}
	case err != nil:
		d.wrong(at.to("call"), "%v", err)
		return mayfly.Call{}
	case strings.HasSuffix(g.Action, "*") || strings.HasPrefix(g.Action, "*"):
		d.wrong(at.to("call"), "one call has no *; name the tool, or method and path")
	}
	switch target := config.Targets[g.Target]; {
	case target == nil:
		d.wrong(at.to("call"), "there is no target %q in the configuration", g.Target)
	case target.Kind != g.Kind:
		d.wrong(at.to("call"), "the target %s is of kind %s", g.Target, target.Kind)
	}
	call := mayfly.Call{Kind: g.Kind, Target: g.Target, Action: g.Action}
	arguments := []byte("{}")
	place := append([]any{}, at.to("arguments")...)
	if n := d.root.at(at...); n.has("arguments") {
		arguments = d.root.at(place...).json() // the digits as they are written
	}
	if call.Arguments, err = mayfly.ParseArguments(arguments); err != nil {
		d.wrong(at.to("arguments"), "%v", err)
	}
	return call
}

// testTarget is t without the facts whose types only the tool's schema says: no
// server is asked here, and policies cannot read them.
func testTarget(t *mayfly.Target) *mayfly.Target {
	if t == nil {
		return nil
	}
	untyped := func(f mayfly.Fact) bool { return f.Type == "" }
	bare := *t
	bare.Facts = slices.DeleteFunc(slices.Clone(t.Facts), untyped)
	bare.Tools = map[string]mayfly.Tool{}
	for name, tool := range t.Tools {
		tool.Facts = slices.DeleteFunc(slices.Clone(tool.Facts), untyped)
		bare.Tools[name] = tool
	}
	return &bare
}

// root is who the chain starts from.
func (c *testCase) root(d *document, at path, config *Config) mayfly.Subject {
	r := &c.Given.Root
	s := mayfly.Subject{Kind: mayfly.Human, ID: r.Human, Source: r.Source, Groups: r.Groups, Claims: r.Claims}
	switch {
	case (r.Human == "") == (r.Service == ""):
		d.wrong(at, "root must be {human: ID} or {service: ID}")
		return s
	case r.Service != "":
		source, _, ok := strings.Cut(strings.TrimPrefix(r.Service, "service:"), "/")
		if !ok || !strings.HasPrefix(r.Service, "service:") {
			d.wrong(at.to("root", "service"), "a service is named service:SOURCE/ID, as records name it")
		}
		s.Kind, s.ID, s.Source = mayfly.Service, r.Service, cmp.Or(r.Source, source)
	}
	for _, source := range config.Sources {
		if s.Source == "" && source.Subject == s.Kind {
			s.Source = source.Name
		}
		if s.Source == source.Name {
			return s
		}
	}
	d.wrong(at.to("root"), "no source of the configuration vouches for a %s; name one with source", s.Kind)
	return s
}

// chain makes the tasks from the root down to the one that asks.
func (c *testCase) chain(d *document, at path, config *Config, q *policy.Question) {
	if c.Given.Profile == "" {
		d.wrong(at, "profile is missing; say what kind of agent asks")
		return
	}
	root := c.root(d, at, config)
	var ancestors []mayfly.TaskID
	for i, name := range append(slices.Clone(c.Given.Parents), c.Given.Profile) {
		place, last := at.to("parents", i), i == len(c.Given.Parents)
		if last {
			place = at.to("profile")
		}
		profile := config.Profiles[name]
		if profile == nil {
			d.wrong(place, "there is no profile %q", name)
			return
		}
		id := mayfly.NewID("task", q.Now)
		t := &mayfly.Task{
			ID: mayfly.TaskID(id), Profile: name, Bundle: config.Hash, Root: root, Depth: i,
			Purpose:   mayfly.Purpose{Text: c.Given.Purpose, By: "agent"},
			Ancestors: slices.Clone(ancestors), Grants: profile.Grants, Named: profile.Grants,
			Agent:    mayfly.Evidence{Verified: true},
			OpenedAt: q.Now, Budget: profile.Budget, IdleUntil: q.Now.Add(profile.Lifetime.Idle), Deadline: q.Now.Add(profile.Lifetime.Max),
		}
		if i > 0 {
			t.Parent = ancestors[i-1]
		}
		ancestors = append(ancestors, t.ID)
		t.RootTask = ancestors[0]
		if last && d.root.at(at...).has("grants") {
			t.Grants = cutGrants(d, at.to("grants"), c.Given.Grants, profile)
			t.Named = t.Grants
		}
		if last && d.root.at(at...).has("token") {
			q.TokenWhole, q.Token = false, cutGrants(d, at.to("token"), c.Given.Token, profile)
		}
		if last && c.Given.Ended != "" {
			t.ClosedAt, t.Reason = q.Now, mayfly.CloseReason(c.Given.Ended)
			if !slices.Contains(mayfly.CloseReasons, t.Reason) {
				d.wrong(at.to("ended"), "%q is not how a task ends; there are completed, revoked, idle, deadline, budget, parent and failed", c.Given.Ended)
			}
		}
		q.Chain = append(q.Chain, policy.Link{Task: t, Profile: profile})
	}
}

// cutGrants are what a task was given, as an opening would have cut them.
func cutGrants(d *document, at path, entries []grantEntry, p *mayfly.Profile) []mayfly.Grant {
	grants := []mayfly.Grant{}
	for i, e := range entries {
		g, err := e.parse()
		if err != nil {
			d.wrong(at.to(i), "%v", err)
			continue
		}
		got := []mayfly.Grant{g}
		if g.Limited() {
			got[0], err = mayfly.Cut(g, p.Grants)
		} else {
			got, err = mayfly.Inherit(g, p.Grants)
		}
		if err != nil {
			d.wrong(at.to(i), "no task under profile %s could have it: %v", p.Name, err)
			continue
		}
		grants = append(grants, got...)
	}
	return grants
}

// expected checks what should come out.
func (c *testCase) expected(d *document, at path) {
	verdicts := []mayfly.Verdict{mayfly.Allow, mayfly.Deny, mayfly.NeedsApproval}
	verdict := mayfly.Verdict(c.Then.Decision)
	switch {
	case c.Then.Decision == "":
		d.wrong(at, "decision is missing; it is allow, deny or needs-approval")
	case !slices.Contains(verdicts, verdict):
		d.wrong(at.to("decision"), "%q is not a decision; there are allow, deny and needs-approval", c.Then.Decision)
	case c.Then.Term != "" && verdict == mayfly.Allow:
		d.wrong(at.to("term"), "an allow has no term: none refused")
	case c.Then.Needs != nil && verdict != mayfly.NeedsApproval:
		d.wrong(at.to("needs"), "only needs-approval needs somebody")
	}
	if c.Then.Term != "" && !slices.Contains(mayfly.Terms, mayfly.Term(c.Then.Term)) {
		d.wrong(at.to("term"), "%q is not a term; there are liveness, token, delegator, profile, task, parent, tool, policy, budget and approval", c.Then.Term)
	}
}
