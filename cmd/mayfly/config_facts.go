package main

import (
	"fmt"
	"slices"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/policy"
)

// facts gathers what every target says of the types of arguments: to policies
// one name has one type, wherever it stands.
type facts struct {
	declared map[string]declaration
	// untyped are the places of names that were declared without a type.
	untyped map[string]string
}

type declaration struct {
	is mayfly.FactType
	at string // place, for messages
}

// declare reads the facts at a place of d, in the order of their names.
func (f *facts) declare(d *document, at path, kind string, e factsEntry) []mayfly.Fact {
	at = at.to("facts")
	var out []mayfly.Fact
	add := func(at path, name string, t mayfly.FactType) {
		fact, err := mayfly.ParseFact(name, t)
		if err != nil {
			d.wrong(at, "%v", err)
			return
		}
		if slices.ContainsFunc(out, func(have mayfly.Fact) bool { return have.Name == fact.Name }) {
			d.wrong(at, "%q is given twice", fact.Name)
			return
		}
		place := d.place(at)
		switch have, known := f.declared[fact.Name]; {
		case t == "":
			f.untyped[fact.Name] = place
		case !known:
			f.declared[fact.Name] = declaration{t, place}
		case have.is != t:
			d.wrong(at, "is %s here and %s at %s; to policies one argument has one type, whatever it is sent to", t, have.is, have.at)
		}
		out = append(out, fact)
	}
	for i, name := range e.names {
		if kind == "http" {
			d.wrong(at, "must be a mapping such as {amount: decimal}: an HTTP API has no tool schema that types could be taken from")
			return nil
		}
		add(at.to(i), name, "")
	}
	for _, name := range names(e.types) {
		if e.types[name] == "" {
			d.wrong(at.to(name), "has no type; there are string, decimal, long, bool and strings")
			continue
		}
		add(at.to(name), name, mayfly.FactType(e.types[name]))
	}
	return out
}

// place is where p stands in d.
func (d *document) place(p path) string {
	return fmt.Sprintf("%s:%d", d.name, d.root.at(p...).line)
}

// spread adds to each target, as soft facts, what the profiles' grants and
// approvals say of its arguments, gives facts without a type the one that is
// known of their name, and says what policies may read.
func (f *facts) spread(c *Config) (schema policy.Schema, warn []string) {
	schema.Facts = map[string]mayfly.FactType{}
	for name, one := range f.declared {
		schema.Facts[name] = one.is
	}
	soft := map[string]map[string]bool{} // target to names
	by := map[string]declaration{}       // name to the profile that says its type
	mixed := map[string]bool{}
	for _, profile := range names(c.Profiles) {
		for _, g := range reached(c.Profiles[profile]) {
			for _, fact := range g.Facts() {
				if _, declared := f.declared[fact.Name]; !declared {
					have, known := by[fact.Name]
					if known && have.is != fact.Type && !mixed[fact.Name] {
						mixed[fact.Name] = true
						warn = append(warn, fmt.Sprintf("the argument %s is %s to profile %s and %s to profile %s: policies do not see it until a target declares it under facts",
							fact.Name, have.is, have.at, fact.Type, profile))
					}
					by[fact.Name] = declaration{fact.Type, profile}
				}
				if soft[g.Target] == nil {
					soft[g.Target] = map[string]bool{}
				}
				soft[g.Target][fact.Name] = true
			}
		}
	}
	for name, one := range by {
		if !mixed[name] {
			schema.Facts[name] = one.is
		}
	}
	for _, name := range names(c.Targets) {
		t := c.Targets[name]
		for _, tool := range t.Tools {
			typed(tool.Facts, schema)
		}
		for i := range t.Routes {
			typed(t.Routes[i].Facts, schema)
		}
		typed(t.Facts, schema)
		for _, fact := range names(soft[name]) {
			is, known := schema.Facts[fact]
			if known && !slices.ContainsFunc(t.Facts, func(have mayfly.Fact) bool { return have.Name == fact }) {
				t.Facts = append(t.Facts, mayfly.Fact{Name: fact, Type: is, Soft: true})
			}
		}
	}
	for _, name := range names(f.untyped) {
		if schema.Facts[name] == "" {
			warn = append(warn, fmt.Sprintf("%s: the fact %s is recorded with the type its tool's schema gives it, and policies cannot read it; give it a type, such as {%s: decimal}",
				f.untyped[name], name, name))
		}
	}
	return schema, warn
}

// reached is every grant that a profile limits arguments by.
func reached(p *mayfly.Profile) []mayfly.Grant {
	all := slices.Clone(p.Grants)
	for _, rule := range p.Approvals {
		all = append(all, rule.Calls)
	}
	return all
}

// typed gives facts without a type the one that policies know of their name.
func typed(list []mayfly.Fact, schema policy.Schema) {
	for i := range list {
		if list[i].Type == "" {
			list[i].Type = schema.Facts[list[i].Name]
		}
	}
}
