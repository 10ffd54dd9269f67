package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"github.com/mayfly-id/mayfly/internal/strictjson"
)

// problem is one thing wrong with the configuration, with its place.
type problem struct {
	File    string `json:"file"`
	Line    int    `json:"line,omitempty"` // from 1; 0 is the whole file
	Column  int    `json:"column,omitempty"`
	Message string `json:"message"`
}

func (p problem) String() string {
	switch {
	case p.Line == 0:
		return fmt.Sprintf("%s: %s", p.File, p.Message)
	case p.Column == 0:
		return fmt.Sprintf("%s:%d: %s", p.File, p.Line, p.Message)
	}
	return fmt.Sprintf("%s:%d:%d: %s", p.File, p.Line, p.Column, p.Message)
}

// problems is everything wrong with a configuration, as one error.
type problems []problem

func (p problems) Error() string {
	lines := make([]string, len(p))
	for i, one := range p {
		lines[i] = one.String()
	}
	return strings.Join(lines, "\n")
}

// node is a YAML value reduced to what JSON has, with its place. Everything the
// configuration says goes through it, so that a wrong value can be pointed at.
type node struct {
	line, column int
	kind         nodeKind
	text         string // of a text, number or boolean: as JSON means it
	members      []member
	items        []*node
}

type member struct {
	name         string
	line, column int // of the key
	value        *node
}

type nodeKind string

const (
	object  nodeKind = "a mapping"
	array   nodeKind = "a list"
	text    nodeKind = "text"
	number  nodeKind = "a number"
	boolean nodeKind = "true or false"
	null    nodeKind = "nothing"
)

// document is one YAML file of the configuration.
type document struct {
	name string // as shown
	text []byte // as written
	root *node
	bad  problems
}

// parseYAML reads src as one YAML document in the part of YAML that JSON has:
// no anchors, aliases, merge keys, tags or duplicate keys. What it cannot read
// is in bad, all of it where the syntax allows that.
func parseYAML(name string, src []byte) *document {
	d := &document{name: name, text: src, root: &node{line: 1, column: 1, kind: null}}
	file, err := parser.ParseBytes(src, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		if se, ok := errors.AsType[yaml.Error](err); ok && se.GetToken() != nil {
			p := se.GetToken().Position
			d.add(p.Line, p.Column, "%s", se.GetMessage())
		} else {
			d.add(0, 0, "not YAML: %v", err)
		}
		return d
	}
	var bodies []ast.Node
	for _, doc := range file.Docs {
		if doc.Body != nil {
			bodies = append(bodies, doc.Body)
		}
	}
	switch len(bodies) {
	case 0:
		d.add(1, 1, "the file is empty")
	case 1:
		d.root = d.convert(bodies[0])
	default:
		p := bodies[1].GetToken().Position
		d.add(p.Line, p.Column, "a second document begins here; write one file for each")
	}
	return d
}

// convert reduces n, recording what JSON has no place for.
func (d *document) convert(n ast.Node) *node {
	out := &node{kind: null}
	if t := n.GetToken(); t != nil && t.Position != nil {
		out.line, out.column = t.Position.Line, t.Position.Column
	}
	refuse := func(what string) *node {
		d.add(out.line, out.column, "%s", what)
		return out
	}
	switch n := n.(type) {
	case *ast.MappingNode:
		out.kind = object
		for _, v := range n.Values {
			d.member(out, v)
		}
		if len(out.members) > 0 && !n.IsFlowStyle {
			out.line, out.column = out.members[0].line, out.members[0].column
		}
	case *ast.MappingValueNode:
		out.kind = object
		d.member(out, n)
		if len(out.members) > 0 {
			out.line, out.column = out.members[0].line, out.members[0].column
		}
	case *ast.SequenceNode:
		out.kind = array
		for _, v := range n.Values {
			out.items = append(out.items, d.convert(v))
		}
	case *ast.StringNode:
		out.kind, out.text = text, n.Value
	case *ast.LiteralNode:
		out.kind, out.text = text, n.Value.Value
	case *ast.BoolNode:
		out.kind, out.text = boolean, strconv.FormatBool(n.Value)
	case *ast.IntegerNode:
		return d.number(out, n.Token)
	case *ast.FloatNode:
		return d.number(out, n.Token)
	case *ast.NullNode:
	case *ast.AnchorNode:
		return refuse("anchors (&name) are not read here; write the value out")
	case *ast.AliasNode:
		return refuse("aliases (*name) are not read here; write the value out")
	case *ast.TagNode:
		return refuse("tags (!name) are not read here; remove it")
	case *ast.InfinityNode, *ast.NanNode:
		return refuse("not a number that can be compared; write it in decimal")
	default:
		return refuse("this part of YAML is not read here; write plain mappings, lists and values")
	}
	return out
}

func (d *document) member(into *node, v *ast.MappingValueNode) {
	p := v.Key.GetToken().Position
	key, ok := v.Key.(*ast.StringNode)
	if !ok {
		switch v.Key.(type) {
		case *ast.MergeKeyNode:
			d.add(p.Line, p.Column, "merge keys (<<) are not read here; write the values out")
		default:
			d.add(p.Line, p.Column, "a key must be plain text; put it in quotes if it is meant to be")
		}
		return
	}
	for _, m := range into.members {
		if m.name == key.Value {
			d.add(p.Line, p.Column, "%q is given twice; the first is on line %d", key.Value, m.line)
			return
		}
	}
	into.members = append(into.members, member{key.Value, p.Line, p.Column, d.convert(v.Value)})
}

// number keeps the digits as they are written, so that 0.1 stays exact.
func (d *document) number(out *node, t *token.Token) *node {
	out.kind, out.text = number, t.Value
	if !json.Valid([]byte(t.Value)) {
		d.add(out.line, out.column, "%s is not a plain decimal number; write digits only, or quotes if it is text", t.Value)
		out.kind = null
	}
	return out
}

// json is n as JSON.
func (n *node) json() json.RawMessage {
	var b []byte
	switch n.kind {
	case object:
		b = append(b, '{')
		for i, m := range n.members {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(append(append(b, quote(m.name)...), ':'), m.value.json()...)
		}
		return append(b, '}')
	case array:
		b = append(b, '[')
		for i, v := range n.items {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(b, v.json()...)
		}
		return append(b, ']')
	case text:
		return quote(n.text)
	case null:
		return json.RawMessage("null")
	}
	return json.RawMessage(n.text)
}

func quote(s string) []byte {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // a string: cannot fail
	}
	return b
}

// at is the node that steps (member names and list indices) lead to, or the
// last one on the way.
func (n *node) at(steps ...any) *node {
	for _, step := range steps {
		var next *node
		switch s := step.(type) {
		case string:
			for _, m := range n.members {
				if m.name == s {
					next = m.value
				}
			}
		case int:
			if s < len(n.items) {
				next = n.items[s]
			}
		}
		if next == nil {
			return n
		}
		n = next
	}
	return n
}

// has reports whether there is something at steps.
func (n *node) has(steps ...string) bool {
	for _, step := range steps {
		i := slices.IndexFunc(n.members, func(m member) bool { return m.name == step })
		if i < 0 {
			return false
		}
		n = n.members[i].value
	}
	return true
}

func (d *document) add(line, column int, format string, args ...any) {
	d.bad = append(d.bad, problem{d.name, line, column, fmt.Sprintf(format, args...)})
}

// path is a place in a document: member names and list indices.
type path []any

// to is the place under p.
func (p path) to(steps ...any) path { return append(slices.Clone(p), steps...) }

func (p path) String() string {
	var b strings.Builder
	for _, step := range p {
		switch s := step.(type) {
		case string:
			if b.Len() > 0 {
				b.WriteByte('.')
			}
			b.WriteString(s)
		case int:
			fmt.Fprintf(&b, "[%d]", s)
		}
	}
	return b.String()
}

// wrong records that the value at p is not right.
func (d *document) wrong(p path, format string, args ...any) {
	n := d.root.at(p...)
	message := fmt.Sprintf(format, args...)
	if len(p) > 0 {
		message = p.String() + ": " + message
	}
	d.add(n.line, n.column, "%s", message)
}

// into decodes the document into v, a pointer to a struct whose json tags are
// the known keys. Every key that is not known and every value of another kind
// is recorded; v is filled only if there is none.
func (d *document) into(v any) bool {
	if len(d.bad) > 0 {
		return false
	}
	d.shape(d.root, reflect.TypeOf(v).Elem(), nil)
	if len(d.bad) > 0 {
		return false
	}
	if err := strictjson.Unmarshal(d.root.json(), configLimits, v); err != nil {
		d.add(0, 0, "%v", err)
		return false
	}
	return true
}

// shaped is a type that says itself what YAML it is read from.
type shaped interface{ shapes() []reflect.Type }

// shape records where n cannot be decoded into t.
func (d *document) shape(n *node, t reflect.Type, p path) {
	if t.Implements(reflect.TypeFor[shaped]()) {
		d.either(n, reflect.Zero(t).Interface().(shaped).shapes(), p)
		return
	}
	want := object
	switch t.Kind() {
	case reflect.Pointer:
		d.shape(n, t.Elem(), p)
		return
	case reflect.Interface:
		return // anything; whoever reads it says what is wrong
	case reflect.Struct:
		if n.kind == object {
			d.keys(n, t, p)
			return
		}
	case reflect.Map:
		if n.kind == object {
			for _, m := range n.members {
				d.shape(m.value, t.Elem(), p.to(m.name))
			}
			return
		}
	case reflect.Slice:
		if want = array; n.kind == array {
			for i, item := range n.items {
				d.shape(item, t.Elem(), p.to(i))
			}
			return
		}
	case reflect.String:
		want = text
	case reflect.Bool:
		want = boolean
	case reflect.Int, reflect.Int64:
		want = number
		if n.kind == number {
			if _, err := strconv.ParseInt(n.text, 10, 64); err != nil {
				d.add(n.line, n.column, "%s: %s is not a whole number", p, n.text)
			}
			return
		}
	}
	if n.kind != want {
		where := p.String()
		if where == "" {
			where = "the file"
		}
		hint := ""
		if want == text && (n.kind == number || n.kind == boolean) {
			hint = "; put it in quotes"
		}
		d.add(n.line, n.column, "%s must be %s, not %s%s", where, want, n.kind, hint)
	}
}

// either accepts n if it has the kind of one of shapes, and checks it as that.
func (d *document) either(n *node, shapes []reflect.Type, p path) {
	var want []string
	for _, t := range shapes {
		kind := object
		switch t.Kind() {
		case reflect.String:
			kind = text
		case reflect.Slice:
			kind = array
		case reflect.Int:
			kind = number
		}
		if n.kind == kind {
			d.shape(n, t, p)
			return
		}
		want = append(want, string(kind))
	}
	d.add(n.line, n.column, "%s must be %s, not %s", p, strings.Join(want, " or "), n.kind)
}

// keys records the members of n that t has no field for, and checks the others.
func (d *document) keys(n *node, t reflect.Type, p path) {
	fields := map[string]reflect.Type{}
	for field := range t.Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		fields[name] = field.Type
	}
	for _, m := range n.members {
		if ft, ok := fields[m.name]; ok {
			if m.value.kind == null {
				d.add(m.line, m.column, "%s is empty; give it a value or remove it", p.to(m.name))
				continue
			}
			d.shape(m.value, ft, p.to(m.name))
			continue
		}
		known := make([]string, 0, len(fields))
		for name := range fields {
			known = append(known, name)
		}
		slices.Sort(known)
		where := ""
		if len(p) > 0 {
			where = " in " + p.String()
		}
		near := nearest(m.name, known)
		switch {
		case slices.Contains(targetKinds, m.name):
			// In a flow list of YAML a bare mcp:bank:pay is read as a mapping.
			d.add(m.line, m.column, "unknown key %q%s; a grant inside [] or {} is written in quotes, such as \"%s:target:action\"", m.name, where, m.name)
		case near != "":
			d.add(m.line, m.column, "unknown key %q%s; did you mean %q?", m.name, where, near)
		default:
			d.add(m.line, m.column, "unknown key %q%s; known here: %s", m.name, where, strings.Join(known, ", "))
		}
	}
}

// nearest is the one of known that name was probably meant to be, or "".
func nearest(name string, known []string) string {
	best, least := "", max(1, len(name)/3)+1
	for _, k := range known {
		if n := distance(strings.ToLower(name), k); n < least {
			best, least = k, n
		}
	}
	return best
}

// distance is the number of edits between a and b, a swap of two neighbours
// counting as one.
func distance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
