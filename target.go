package mayfly

import (
	"slices"
	"time"
)

// Target is an outside system that tasks act on, as the configuration names it.
type Target struct {
	Name string
	Kind string // "mcp" or "http", which are called, or "postgres", which lends
	URL  string // where it is; never shown to an agent
	// Stdio says that an MCP server speaks on its standard input and output: it runs
	// beside its agent, and has no URL.
	Stdio bool
	// Postgres says how one of kind postgres lends.
	Postgres *Postgres
	// Credential, if set, is attached to every call that is allowed.
	Credential *TargetCredential
	// Labels say what all of it is; a tool or route may add its own.
	Labels []string
	Facts  []Fact          // of every call to it
	Tools  map[string]Tool // by name, with kind mcp
	Routes []Route         // with kind http
	// TrustAnnotations lets the server's own tool annotations add labels.
	TrustAnnotations bool
	// ObserveUntil, while it lies ahead, lifts the terms policy and approval:
	// what they would have refused is recorded as observed.
	ObserveUntil time.Time
}

// Tool is what the configuration says about one tool of an MCP server.
type Tool struct {
	Labels []string
	Facts  []Fact
	Pin    string // hash of the only definition accepted; "" pins the first seen
}

// Route is what the configuration says about some calls of an HTTP API.
type Route struct {
	Action string // METHOD:/path, as in a grant
	Labels []string
	Facts  []Fact
}

// LabelsOf are the labels of what c acts on, sorted, each once: those of the
// target, of its tool or of every route that c fits, and of the pinned
// definition where annotations are trusted.
func (t *Target) LabelsOf(c *Call, pin *Pin) []string {
	labels := slices.Clone(t.Labels)
	labels = append(labels, t.Tools[c.Action].Labels...)
	for i := range t.Routes {
		if t.Routes[i].covers(c) {
			labels = append(labels, t.Routes[i].Labels...)
		}
	}
	if pin != nil && t.TrustAnnotations {
		labels = append(labels, pin.Labels...)
	}
	slices.Sort(labels)
	return slices.Compact(labels)
}

// FactsOf are the facts that policies see of c: those declared on its tool or
// routes before those of the target. One declared without a type has that of
// the pinned definition's schema.
func (t *Target) FactsOf(c *Call, pin *Pin) []Fact {
	var facts []Fact
	add := func(list []Fact) {
		for _, f := range list {
			if f.Type == "" && pin != nil {
				f.Type = pin.Types[f.Name]
			}
			if !slices.ContainsFunc(facts, func(have Fact) bool { return have.Name == f.Name }) {
				facts = append(facts, f)
			}
		}
	}
	add(t.Tools[c.Action].Facts)
	for i := range t.Routes {
		if t.Routes[i].covers(c) {
			add(t.Routes[i].Facts)
		}
	}
	add(t.Facts)
	return facts
}

func (r *Route) covers(c *Call) bool {
	g := Grant{Kind: c.Kind, Target: c.Target, Action: r.Action}
	return g.Covers(c)
}

// TargetCredential is what the gateway adds for a target: a header and its value.
type TargetCredential struct {
	Header string
	Value  Secret
}

// Postgres is a database server that lends roles.
type Postgres struct {
	AdminDSN Secret // of a role that may create roles
	Roles    map[string]DatabaseRole
}

// DatabaseRole is one thing that a database lends: a login that is a member of
// these roles.
type DatabaseRole struct {
	Grant []string
}
