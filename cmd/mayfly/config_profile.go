package main

import (
	"encoding/json"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/attest"
)

// profileFile is one profiles/*.yaml. Its json tags are the known keys.
type profileFile struct {
	Profile     string           `json:"profile"`
	Description string           `json:"description"`
	Owner       string           `json:"owner"`
	Class       string           `json:"class"`
	ReviewBy    string           `json:"review_by"`
	Delegators  []delegatorEntry `json:"delegators"`
	Attest      []attestEntry    `json:"attest"`
	Grants      []grantEntry     `json:"grants"`
	Default     []string         `json:"default"`
	Lifetime    lifetimeEntry    `json:"lifetime"`
	Delegation  *struct {
		Depth    int      `json:"depth"`
		Children int      `json:"children"`
		To       []string `json:"to"`
	} `json:"delegation"`
	Key       string `json:"key"`
	Risk      string `json:"risk"`
	Authority string `json:"authority"`
	Budget    *struct {
		Calls int64 `json:"calls"`
	} `json:"budget"`
	Approvals []approvalEntry `json:"approvals"`
}

type delegatorEntry struct {
	Human *struct {
		Groups []string `json:"groups"`
		IDs    []string `json:"ids"`
	} `json:"human"`
	Service *struct {
		Source string            `json:"source"`
		Match  map[string]string `json:"match"`
	} `json:"service"`
	Agent *struct {
		Profile string `json:"profile"`
	} `json:"agent"`
}

type attestEntry struct {
	Source string            `json:"source"`
	Match  map[string]string `json:"match"`
	Client string            `json:"client"`
	None   *bool             `json:"none"`
}

type lifetimeEntry struct {
	Idle    string `json:"idle"`
	Default string `json:"default"`
	Max     string `json:"max"`
}

// grantEntry is a grant in short form, or a mapping with its limits. What stands
// under where and budget is for mayfly.ParseGrantObject to judge.
type grantEntry struct{ text json.RawMessage }

type grantObject struct {
	Grant  string `json:"grant"`
	Where  any    `json:"where"`
	Budget any    `json:"budget"`
}

func (grantEntry) shapes() []reflect.Type {
	return []reflect.Type{reflect.TypeFor[string](), reflect.TypeFor[grantObject]()}
}

// UnmarshalJSON keeps the text.
func (g *grantEntry) UnmarshalJSON(b []byte) error {
	g.text = slices.Clone(b)
	return nil
}

func (g grantEntry) parse() (mayfly.Grant, error) {
	var short string
	if json.Unmarshal(g.text, &short) == nil {
		return mayfly.ParseGrant(short)
	}
	var o map[string]json.RawMessage
	if err := json.Unmarshal(g.text, &o); err != nil {
		return mayfly.Grant{}, err
	}
	o["type"] = json.RawMessage(`"mayfly_grant"`)
	text, err := json.Marshal(o)
	if err != nil {
		return mayfly.Grant{}, err
	}
	return mayfly.ParseGrantObject(text)
}

// Lifetimes where a profile says nothing, and the longest a task may live.
const (
	defaultIdle = 2 * time.Minute
	defaultLife = 15 * time.Minute
	defaultMax  = time.Hour
	maxLife     = 8 * time.Hour
)

// profiles reads every profiles/*.yaml into c.
func (l *loader) profiles(f *serverFile, c *Config) {
	c.Profiles, c.ProfileFiles = map[string]*mayfly.Profile{}, map[string][]byte{}
	type read struct {
		d *document
		f profileFile
	}
	var all []read
	in := map[string]string{} // profile to file
	paths := l.profileFiles(f.Profiles)
	if len(paths) == 0 {
		l.add(l.resolve(or(f.Profiles, "profiles")), "there is no profile here; without one nothing can be opened (mayfly init writes an example)")
	}
	whole := true
	for _, file := range paths {
		r := read{d: l.document(file)}
		if r.d == nil {
			whole = false
			continue
		}
		if !r.d.into(&r.f) {
			l.bad = append(l.bad, r.d.bad...)
			whole = false
			continue
		}
		if other, taken := in[r.f.Profile]; taken {
			r.d.wrong(path{"profile"}, "%q is in %s already", r.f.Profile, other)
		}
		in[r.f.Profile], c.ProfileFiles[r.f.Profile] = r.d.name, r.d.text
		l.hashed["profile "+filepath.Base(file)] = l.canonical(r.d.name, r.d.root)
		all = append(all, r)
	}
	known := func(name string) bool { return !whole || in[name] != "" }
	for _, r := range all {
		c.Profiles[r.f.Profile] = l.profile(r.d, &r.f, c, known)
		l.bad = append(l.bad, r.d.bad...)
	}
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// profile checks one profile. known reports whether a profile of a name exists.
func (l *loader) profile(d *document, f *profileFile, c *Config, known func(string) bool) *mayfly.Profile {
	p := &mayfly.Profile{Name: f.Profile, Description: f.Description, Owner: f.Owner}
	switch {
	case f.Profile == "":
		d.wrong(nil, "profile is missing; give the profile its name")
	case !label.MatchString(f.Profile):
		d.wrong(path{"profile"}, "%q is not a name; use %s", f.Profile, labelRule)
	}
	if strings.TrimSpace(f.Owner) == "" {
		d.wrong(path{}, "owner is missing; say who answers for agents of this profile")
	}
	l.review(d, f, p)
	d.risk(f, p)
	d.delegators(f, p, c, known)
	d.attest(f, p, c)
	d.grants(f, p, c)
	l.approvals(d, f, p, c)
	d.lifetime(f, p)
	d.delegation(f, p, known)
	if f.Budget != nil {
		if p.Budget = f.Budget.Calls; p.Budget < 1 {
			d.wrong(path{"budget"}, "calls must be at least 1")
		}
	}
	if p.Authority == mayfly.AuthorityProfile && p.Risk == mayfly.RiskHigh {
		l.warn = append(l.warn, d.name+": risk is high and authority is profile: the delegator's own rights are not consulted")
	}
	return p
}

func (l *loader) review(d *document, f *profileFile, p *mayfly.Profile) {
	switch p.Class = mayfly.ProfileClass(or(f.Class, string(mayfly.Ephemeral))); p.Class {
	case mayfly.Ephemeral:
		if f.ReviewBy != "" {
			d.wrong(path{"review_by"}, "is for class: recurring")
		}
		return
	case mayfly.Recurring:
	default:
		d.wrong(path{"class"}, "%q is not known; write ephemeral or recurring", f.Class)
		return
	}
	day, err := time.Parse(time.DateOnly, f.ReviewBy)
	switch {
	case f.ReviewBy == "":
		d.wrong(path{"class"}, "recurring needs review_by: the day from which nothing opens until somebody has looked again")
	case err != nil:
		d.wrong(path{"review_by"}, "%q is not a day such as 2027-01-31", f.ReviewBy)
	case !day.After(l.now):
		l.warn = append(l.warn, d.name+": review_by "+f.ReviewBy+" is over: nothing opens under this profile until it is reviewed")
	}
	p.ReviewBy = day
}

func (d *document) risk(f *profileFile, p *mayfly.Profile) {
	switch p.Risk = mayfly.Risk(or(f.Risk, string(mayfly.RiskMedium))); p.Risk {
	case mayfly.RiskLow, mayfly.RiskMedium, mayfly.RiskHigh:
	default:
		d.wrong(path{"risk"}, "%q is not known; write low, medium or high", f.Risk)
	}
	p.Authority = mayfly.AuthorityProfile
	if p.Risk == mayfly.RiskHigh {
		p.Authority = mayfly.AuthorityPolicy
	}
	switch f.Authority {
	case "":
	case string(mayfly.AuthorityProfile), string(mayfly.AuthorityPolicy):
		p.Authority = mayfly.AuthoritySource(f.Authority)
	default:
		d.wrong(path{"authority"}, "%q is not known; write policy or profile", f.Authority)
	}
	switch f.Key {
	case "", "required":
	case "optional":
		p.KeyOptional = true
	default:
		d.wrong(path{"key"}, "%q is not known; write required or optional", f.Key)
	}
}

func (d *document) delegators(f *profileFile, p *mayfly.Profile, c *Config, known func(string) bool) {
	if len(f.Delegators) == 0 {
		d.wrong(path{"delegators"}, "is missing; say who may hand authority to this profile, such as {human: {groups: [staff]}}")
	}
	for i, e := range f.Delegators {
		at := path{"delegators", i}
		n := 0
		var rule mayfly.DelegatorRule
		if e.Human != nil {
			n++
			rule.Human = &mayfly.HumanRule{Groups: e.Human.Groups, IDs: e.Human.IDs}
		}
		if e.Service != nil {
			n++
			rule.Service = &mayfly.SourceRule{Source: e.Service.Source, Match: e.Service.Match}
			d.source(at.to("service"), e.Service.Source, mayfly.Service, c)
			d.patterns(at.to("service", "match"), e.Service.Match)
		}
		if e.Agent != nil {
			n++
			rule.Agent = e.Agent.Profile
			switch {
			case e.Agent.Profile == "":
				d.wrong(at.to("agent"), "profile is missing")
			case !known(e.Agent.Profile):
				d.wrong(at.to("agent", "profile"), "there is no profile %q", e.Agent.Profile)
			}
		}
		if n != 1 {
			d.wrong(at, "must be exactly one of human, service and agent; write one entry for each")
		}
		p.Delegators = append(p.Delegators, rule)
	}
}

// source checks the name of a source that must give subjects of one kind.
func (d *document) source(at path, name string, kind mayfly.SubjectKind, c *Config) {
	if name == "" {
		d.wrong(at, "source is missing")
		return
	}
	at = at.to("source")
	var names []string
	for _, s := range c.Sources {
		if s.Name == name {
			if s.Kind == "oidc" && s.Subject != kind {
				d.wrong(at, "the source %q vouches for a %s, not for a %s", name, s.Subject, kind)
			}
			return
		}
		names = append(names, s.Name)
	}
	if near := nearest(name, names); near != "" {
		d.wrong(at, "there is no source %q; did you mean %q?", name, near)
		return
	}
	d.wrong(at, "there is no source %q; known: %s", name, strings.Join(names, ", "))
}

func (d *document) attest(f *profileFile, p *mayfly.Profile, c *Config) {
	if len(f.Attest) == 0 {
		d.wrong(path{"attest"}, "is missing; say how an agent shows that it is one of these, such as {source: local}")
	}
	for i, e := range f.Attest {
		at := path{"attest", i}
		n := 0
		var rule mayfly.AttestRule
		if e.Source != "" || e.Match != nil {
			n++
			rule.Source = &mayfly.SourceRule{Source: e.Source, Match: e.Match}
			d.source(at, e.Source, mayfly.Workload, c)
			d.patterns(at.to("match"), e.Match)
		}
		if e.Client != "" {
			n++
			rule.Client = e.Client
			if !slices.ContainsFunc(c.Clients, func(o attest.Client) bool { return o.ID == e.Client }) {
				d.wrong(at.to("client"), "there is no client %q; list it under clients in mayfly.yaml", e.Client)
			}
		}
		if e.None != nil {
			n++
			rule.None = true
			switch {
			case !*e.None:
				d.wrong(at.to("none"), "is true or left out")
			case p.Risk != mayfly.RiskLow:
				d.wrong(at.to("none"), "is for risk: low only; name a source or a client the agent can show itself by")
			case p.KeyOptional:
				d.wrong(at.to("none"), "needs key: required; an agent that shows nothing must at least hold a key")
			}
		}
		if n != 1 {
			d.wrong(at, "must be exactly one of source (with match), client and none; write one entry for each")
		}
		p.Attest = append(p.Attest, rule)
	}
}

func (d *document) grants(f *profileFile, p *mayfly.Profile, c *Config) {
	if len(f.Grants) == 0 {
		d.wrong(path{"grants"}, "is missing; say the most that agents of this profile may ever do")
	}
	for i, e := range f.Grants {
		if g, err := e.parse(); err != nil {
			d.wrong(path{"grants", i}, "%v", err)
		} else {
			d.target(path{"grants", i}, g, c)
			p.Grants = append(p.Grants, g)
		}
	}
	for i, short := range f.Default {
		at := path{"default", i}
		g, err := mayfly.ParseGrant(short)
		if err != nil {
			d.wrong(at, "%v", err)
			continue
		}
		if len(p.Grants) == len(f.Grants) {
			if _, err := mayfly.Inherit(g, p.Grants); err != nil {
				d.wrong(at, "%s is not within this profile's grants: %v", short, err)
			}
		}
		p.Default = append(p.Default, g)
	}
}

// target checks that what g is about exists.
func (d *document) target(at path, g mayfly.Grant, c *Config) {
	switch t := c.Targets[g.Target]; {
	case t == nil:
		names := make([]string, 0, len(c.Targets))
		for name := range c.Targets {
			names = append(names, name)
		}
		slices.Sort(names)
		if near := nearest(g.Target, names); near != "" {
			d.wrong(at, "there is no target %q; did you mean %q?", g.Target, near)
			return
		}
		d.wrong(at, "there is no target %q; list it under targets in mayfly.yaml", g.Target)
	case t.Kind != g.Kind:
		d.wrong(at, "the target %q is of kind %s; write %s:%s:…", g.Target, t.Kind, t.Kind, g.Target)
	}
}

func (d *document) lifetime(f *profileFile, p *mayfly.Profile) {
	parse := func(key, text string, otherwise time.Duration) time.Duration {
		if text == "" {
			return otherwise
		}
		v, err := time.ParseDuration(text)
		switch {
		case err != nil:
			d.wrong(path{"lifetime", key}, "%q is not a duration; write one such as 90s, 15m or 1h", text)
		case v < time.Second || v%time.Second != 0:
			d.wrong(path{"lifetime", key}, "%s must be whole seconds, at least one", text)
		case v > maxLife:
			d.wrong(path{"lifetime", key}, "%s is longer than %s, the longest a task may live", text, maxLife)
		default:
			return v
		}
		return otherwise
	}
	before := len(d.bad)
	top := parse("max", f.Lifetime.Max, defaultMax)
	p.Lifetime = mayfly.Lifetime{
		Max:     top,
		Default: parse("default", f.Lifetime.Default, min(defaultLife, top)),
		Idle:    parse("idle", f.Lifetime.Idle, min(defaultIdle, top)),
	}
	if len(d.bad) > before {
		return
	}
	if p.Lifetime.Default > top {
		d.wrong(path{"lifetime", "default"}, "%s is longer than max, %s", p.Lifetime.Default, top)
	}
	if p.Lifetime.Idle > top {
		d.wrong(path{"lifetime", "idle"}, "%s is longer than max, %s", p.Lifetime.Idle, top)
	}
}

func (d *document) delegation(f *profileFile, p *mayfly.Profile, known func(string) bool) {
	if f.Delegation == nil {
		return
	}
	at := path{"delegation"}
	r := mayfly.DelegationRule{Depth: f.Delegation.Depth, Children: f.Delegation.Children, To: f.Delegation.To}
	switch {
	case r.Depth < 0 || r.Depth > mayfly.MaxDepth:
		d.wrong(at.to("depth"), "must be from 0 to %d levels below the root task", mayfly.MaxDepth)
	case r.Children < 0 || r.Children > mayfly.MaxChildren:
		d.wrong(at.to("children"), "must be from 0 to %d", mayfly.MaxChildren)
	case r.Depth == 0 && (r.Children > 0 || len(r.To) > 0):
		d.wrong(at, "depth is missing or 0, so there can be no children; give a depth, or remove delegation")
	case r.Depth > 0 && (r.Children == 0 || len(r.To) == 0):
		d.wrong(at, "needs depth, children (how many) and to (which profiles), or none of them")
	}
	for i, name := range r.To {
		if !known(name) {
			d.wrong(at.to("to", i), "there is no profile %q", name)
		}
	}
	p.Delegation = r
}
