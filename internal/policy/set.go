package policy

import (
	"bytes"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/cedar-policy/cedar-go"

	"github.com/mayfly-id/mayfly"
)

// Set is the Cedar policies in force, in the order of their files. It does not
// change. A nil Set holds none.
type Set struct {
	policies  []entry
	byID      map[cedar.PolicyID]int
	buckets   map[bucketKey]*bucket
	readsSeen bool
}

type entry struct {
	id     string
	policy *cedar.Policy
	text   PolicyText
	// approval is the group whose yes lifts this forbid; "" if nothing does.
	approval string
}

// PolicyText is one policy as it was written.
type PolicyText struct {
	ID   string `json:"id"`
	File string `json:"file"`
	Line int    `json:"line"`
	Text string `json:"text"`
}

func (s *Set) empty() bool { return s == nil || len(s.policies) == 0 }

// IDs are the ids of the policies: what @id says, else file:line.
func (s *Set) IDs() []string {
	if s == nil {
		return nil
	}
	ids := make([]string, len(s.policies))
	for i := range s.policies {
		ids[i] = s.policies[i].id
	}
	return ids
}

// Texts are the policies as they were written, in the order of [Set.IDs].
func (s *Set) Texts() []PolicyText {
	if s == nil {
		return nil
	}
	texts := make([]PolicyText, len(s.policies))
	for i := range s.policies {
		texts[i] = s.policies[i].text
	}
	return texts
}

// ReadsSeen reports whether some policy asks what a tree has seen. Where none
// does, no decision depends on it.
func (s *Set) ReadsSeen() bool { return s != nil && s.readsSeen }

// annotations are those that mean something here. Another could be a typing
// error of one of them, and a forbid that lost its @approval is another policy.
var annotations = []string{"id", "approval", "description"}

// Parse reads policy files, by name, and holds each policy to the schema: what
// could read a missing attribute, compare two types, or never apply is refused.
// Every error is of kind Invalid and, but for an error of the schema itself,
// begins with file:line.
func Parse(files map[string][]byte, schema Schema) (*Set, error) {
	check, err := newChecker(schema)
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	s := &Set{}
	seen := map[string]string{}
	for _, name := range names {
		src := files[name]
		list, err := cedar.NewPolicyListFromBytes(name, src)
		if err != nil {
			return nil, syntaxError(name, err)
		}
		for _, p := range list {
			e := entry{policy: p, text: PolicyText{File: name, Line: p.Position().Line, Text: textOf(src, p)}}
			at := place(name, e.text.Line)
			if says, word := check.problem(p); says != "" {
				return nil, mayfly.Errorf(mayfly.Invalid, "%s: the policy %s", place(name, lineOf(src, p, word)), says)
			}
			if says, word := e.annotate(); says != "" {
				return nil, mayfly.Errorf(mayfly.Invalid, "%s: %s", place(name, lineOf(src, p, word)), says)
			}
			if _, chosen := p.Annotations()["id"]; !chosen {
				e.id = at
				for n := 2; seen[e.id] != ""; n++ {
					e.id = at + "#" + strconv.Itoa(n)
				}
			}
			if seen[e.id] != "" {
				return nil, mayfly.Errorf(mayfly.Invalid, "%s: the id %q is taken by the policy at %s; choose another", at, e.id, seen[e.id])
			}
			seen[e.id] = at
			e.text.ID = e.id
			s.policies = append(s.policies, e)
		}
	}
	s.index()
	return s, nil
}

// annotate reads e's annotations and says what is wrong with them, and the word
// it is about.
func (e *entry) annotate() (says, word string) {
	notes := e.policy.Annotations()
	for name := range notes {
		if !slices.Contains(annotations, string(name)) {
			return "the annotation @" + string(name) + " means nothing here; there are @" + strings.Join(annotations, ", @"), string(name)
		}
	}
	if id, chosen := notes["id"]; chosen {
		e.id = string(id)
		switch {
		case id == "":
			return "@id is empty; give the policy a name, or leave @id out", "id"
		case strings.HasPrefix(e.id, "profile "):
			return `@id begins with "profile ", as the approvals of profiles do; choose another`, "id"
		}
	}
	if group, asks := notes["approval"]; asks {
		e.approval = string(group)
		switch {
		case group == "":
			return "@approval names no group; name the one whose yes lifts this forbid", "approval"
		case strings.HasPrefix(e.approval, "@"):
			return "@approval must name a group, and " + strconv.Quote(e.approval) + " cannot be one", "approval"
		case e.policy.Effect() != cedar.Forbid:
			return "@approval stands on a permit; it lifts a forbid, so put it on one", "approval"
		}
	}
	return "", ""
}

var cedarPlace = regexp.MustCompile(`<input>:(\d+):(\d+)`)

// syntaxError puts the place of a parser's error first.
func syntaxError(name string, err error) error {
	line, column, text := "1", "1", err.Error()
	if m := cedarPlace.FindStringSubmatchIndex(text); m != nil {
		line, column, text = text[m[2]:m[3]], text[m[4]:m[5]], text[m[1]:]
	}
	return mayfly.Errorf(mayfly.Invalid, "%s:%s:%s: this is not Cedar: %s", name, line, column, strings.TrimLeft(text, " :")).Because(err)
}

// textOf is what stands in src for p, to its semicolon.
func textOf(src []byte, p *cedar.Policy) string {
	from := p.Position().Offset
	if from < 0 || from > len(src) {
		return string(p.MarshalCedar())
	}
	text := src[from:]
	quoted, comment := false, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case comment:
			comment = c != '\n'
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '/' && bytes.HasPrefix(text[i:], []byte("//")):
			comment = true
		case c == ';':
			return string(text[:i+1])
		}
	}
	return string(text)
}

// lineOf is the line where word first stands in p, comments left out, or p's
// own.
func lineOf(src []byte, p *cedar.Policy, word string) int {
	line, from := p.Position().Line, p.Position().Offset
	if word == "" || from < 0 || from > len(src) {
		return line
	}
	whole := regexp.MustCompile(`\b` + regexp.QuoteMeta(word) + `\b`)
	for i, text := range strings.Split(textOf(src, p), "\n") {
		code, _, _ := strings.Cut(text, "//")
		if whole.MatchString(code) {
			return line + i
		}
	}
	return line
}
