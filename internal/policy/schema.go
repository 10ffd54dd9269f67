package policy

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/cedar-policy/cedar-go/x/exp/schema"
	sast "github.com/cedar-policy/cedar-go/x/exp/schema/ast"
	"github.com/cedar-policy/cedar-go/x/exp/schema/resolved"
	"github.com/cedar-policy/cedar-go/x/exp/schema/validate"

	"github.com/mayfly-id/mayfly"
)

// Schema is what policies may speak of beside what they always may: the facts
// that some target declares.
type Schema struct {
	Facts map[string]mayfly.FactType // of all targets together
}

// Text is the whole schema as Cedar writes it.
func (s Schema) Text() string {
	text, err := schema.NewSchemaFromAST(s.ast()).MarshalCedar()
	if err != nil {
		return "" // the schema is ours and always has a text
	}
	return strings.TrimSpace(string(text)) + "\n"
}

var factTypes = map[mayfly.FactType]sast.IsType{
	mayfly.FactString:  sast.String(),
	mayfly.FactDecimal: sast.Decimal(),
	mayfly.FactLong:    sast.Long(),
	mayfly.FactBool:    sast.Bool(),
	mayfly.FactStrings: sast.Set(sast.String()),
}

// ast is the schema: the entities, actions and contexts that [world] makes.
func (s Schema) ast() *sast.Schema {
	is := func(t sast.IsType) sast.Attribute { return sast.Attribute{Type: t} }
	may := func(t sast.IsType) sast.Attribute { return sast.Attribute{Type: t, Optional: true} }
	text := is(sast.String())
	refs := func(names ...sast.EntityTypeRef) []sast.EntityTypeRef { return names }

	arguments := sast.RecordType{}
	for name, t := range s.Facts {
		if of, known := factTypes[t]; known {
			arguments[types.String(name)] = may(of)
		}
	}
	about := func(more sast.RecordType) sast.RecordType {
		context := sast.RecordType{
			"purpose": text,
			"chain": is(sast.RecordType{
				"root": text, "human": may(sast.EntityType("Human")), "service": may(sast.EntityType("Service")),
				"profiles": is(sast.Set(sast.EntityType("Profile"))),
			}),
			"depth": is(sast.Long()), "risk": text, "time": is(sast.Datetime()), "source_ip": may(sast.IPAddr()),
		}
		maps.Copy(context, more)
		return context
	}
	labels := is(sast.Set(sast.String()))
	action := func(principals, resources []sast.EntityTypeRef, more sast.RecordType) sast.Action {
		return sast.Action{AppliesTo: &sast.AppliesTo{Principals: principals, Resources: resources, Context: about(more)}}
	}
	everybody, calls := refs("Human", "Service", "Agent"), refs("Tool", "Route")
	things := refs("Tool", "Route", "Target")
	person := sast.Entity{ParentTypes: refs("Group"), Shape: sast.RecordType{"source": text}, Tags: sast.String()}
	return &sast.Schema{Namespaces: sast.Namespaces{"Mayfly": {
		Entities: sast.Entities{
			"Human": person, "Service": person, "Group": {},
			"Agent": {ParentTypes: refs("Profile"), Shape: sast.RecordType{
				"profile": text, "task": text, "verified": is(sast.Bool()),
			}},
			"Profile": {Shape: sast.RecordType{"owner": text, "risk": text}},
			"Target":  {Shape: sast.RecordType{"kind": text}},
			"Tool":    {ParentTypes: refs("Target"), Shape: sast.RecordType{"target": text, "name": text}},
			"Route":   {ParentTypes: refs("Target"), Shape: sast.RecordType{"target": text, "method": text, "path": text}},
		},
		Actions: sast.Actions{
			"use":      action(everybody, calls, sast.RecordType{"arguments": is(arguments), "labels": labels, "seen": labels}),
			"delegate": action(everybody, things, nil),
			"approve":  action(refs("Human"), things, nil),
			"read":     action(refs("Human", "Service"), refs("Agent"), nil),
			"revoke":   action(refs("Human", "Service"), refs("Agent"), nil),
		},
	}}}
}

// ofCalls are the attributes of the context that only calls have.
var ofCalls = []string{"arguments", "labels", "seen"}

// checker holds policies to a schema.
type checker struct {
	facts     map[string]mayfly.FactType
	schema    *resolved.Schema
	validator *validate.Validator
}

func newChecker(s Schema) (*checker, error) {
	for _, name := range slices.Sorted(maps.Keys(s.Facts)) {
		if factTypes[s.Facts[name]] == nil {
			return nil, mayfly.Errorf(mayfly.Invalid, "the fact %q has no type that policies know: %q", name, s.Facts[name])
		}
	}
	schema, err := schema.NewSchemaFromAST(s.ast()).Resolve()
	if err != nil {
		return nil, mayfly.Errorf(mayfly.Internal, "the schema of policies is broken").Because(err)
	}
	return &checker{s.Facts, schema, validate.New(schema)}, nil
}

// problem says what is wrong with p and the word to look for in its text; "" if
// nothing is.
func (c *checker) problem(p *cedar.Policy) (says, word string) {
	tree := (*ast.Policy)(p.AST())
	for _, condition := range tree.Conditions {
		ast.Inspect(ast.NewNode(condition.Body), func(n ast.IsNode) bool {
			if says != "" {
				return false
			}
			switch n := n.(type) {
			case ast.NodeTypeHas:
				says, word = c.impossible(n), string(n.Value)
			case ast.NodeTypeIs:
				says, word = c.unknown(n.EntityType), string(n.EntityType)
			case ast.NodeTypeIsIn:
				says, word = c.unknown(n.EntityType), string(n.EntityType)
			case ast.NodeTypeAccess:
				if mayMiss(n.Arg) {
					says, word = fmt.Sprintf("reads %s of an entity that need not be there; name the entity only to compare principal, resource or context with it", n.Value), string(n.Value)
				}
			}
			return true
		})
		if says != "" {
			return says, word
		}
	}
	if err := c.validator.Policy("", tree); err != nil {
		// The validator goes through the actions in no order: take the same error
		// each time.
		list := strings.Split(err.Error(), "\n")
		if some := slices.DeleteFunc(slices.Clone(list), isGeneral); len(some) > 0 {
			list = some
		}
		says = "does not fit the schema: " + slices.Min(list)
		if m := quotedWord.FindStringSubmatch(says); m != nil {
			word = m[1]
		}
		if slices.Contains(ofCalls, word) && strings.Contains(says, "not found") {
			says += `; only calls have it: write action == Mayfly::Action::"use"`
		}
		return says, word
	}
	return "", ""
}

// isGeneral is the validator's error that follows from another, if there is one.
func isGeneral(says string) bool {
	return strings.HasPrefix(says, "unable to find an applicable action")
}

var quotedWord = regexp.MustCompile("attribute `(?:[^`]*\\.)?([^`.]+)`")

// unknown says that there is no such type; nothing is ever of it.
func (c *checker) unknown(t cedar.EntityType) string {
	if _, known := c.schema.Entities[t]; known {
		return ""
	}
	return fmt.Sprintf("asks for the type %s, which nothing has", t)
}

// attributes are those that each thing can have.
var attributes = map[string][]string{
	"principal": {"source", "profile", "task", "verified"},
	"resource":  {"kind", "target", "name", "method", "path", "profile", "task", "verified"},
	"context":   {"purpose", "chain", "risk", "time", "source_ip", "depth", "arguments", "labels", "seen"},
	"chain":     {"root", "human", "service", "profiles"},
}

// impossible says why n can never hold: nothing has such an attribute. Cedar
// takes it, and a forbid that asks so never forbids.
func (c *checker) impossible(n ast.NodeTypeHas) string {
	name := string(n.Value)
	of := ""
	switch arg := n.Arg.(type) {
	case ast.NodeTypeVariable:
		of = string(arg.Name)
	case ast.NodeTypeAccess:
		if v, ok := arg.Arg.(ast.NodeTypeVariable); ok && v.Name == "context" {
			of = string(arg.Value)
		}
	}
	if of == "arguments" {
		if _, declared := c.facts[name]; declared {
			return ""
		}
		return fmt.Sprintf("asks for the argument %q, which is a fact of no target; declare it under facts", name)
	}
	if known, ok := attributes[of]; ok {
		if slices.Contains(known, name) {
			return ""
		}
		return fmt.Sprintf("asks whether %s has %q, which it never has", of, name)
	}
	for _, known := range attributes {
		if slices.Contains(known, name) {
			return ""
		}
	}
	if _, declared := c.facts[name]; declared || name == "owner" {
		return ""
	}
	return fmt.Sprintf("asks whether something has %q, which nothing has", name)
}

// mayMiss reports whether n could be an entity that a policy names itself: it
// need not exist, and then to read an attribute of it is an error.
func mayMiss(n ast.IsNode) bool {
	switch n := n.(type) {
	case ast.NodeValue:
		_, is := n.Value.(cedar.EntityUID)
		return is
	case ast.NodeTypeIfThenElse:
		return mayMiss(n.Then) || mayMiss(n.Else)
	case ast.NodeTypeAccess:
		return mayMiss(n.Arg)
	case ast.NodeTypeRecord:
		return slices.ContainsFunc(n.Elements, func(e ast.RecordElementNode) bool { return mayMiss(e.Value) })
	}
	return false
}

// place is file:line.
func place(file string, line int) string { return file + ":" + strconv.Itoa(line) }
