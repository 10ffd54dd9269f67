package policy

import (
	"bytes"
	"iter"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/x/exp/ast"

	"github.com/mayfly-id/mayfly"
)

// Set is the Cedar policies in force, in the order of their files. It does not
// change. A nil Set holds none.
type Set struct{ policies []entry }

type entry struct {
	id     string
	policy *cedar.Policy
}

func (s *Set) empty() bool { return s == nil || len(s.policies) == 0 }

// IDs are the ids of the policies: what @id says, else file:line.
func (s *Set) IDs() []string {
	if s == nil {
		return nil
	}
	ids := make([]string, len(s.policies))
	for i, p := range s.policies {
		ids[i] = p.id
	}
	return ids
}

// Parse reads policy files, by name. A syntax error, an id given twice and a
// word that this version would not honour are errors of kind Invalid that begin
// with file:line.
func Parse(files map[string][]byte, schema Schema) (*Set, error) {
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
			at := name + ":" + strconv.Itoa(p.Position().Line)
			if err := refuseWords(name, src, p); err != nil {
				return nil, err
			}
			id, chosen := string(p.Annotations()["id"]), false
			if _, chosen = p.Annotations()["id"]; !chosen {
				id = at
				for n := 2; seen[id] != ""; n++ {
					id = at + "#" + strconv.Itoa(n)
				}
			}
			switch {
			case id == "":
				return nil, mayfly.Errorf(mayfly.Invalid, "%s: @id is empty; give the policy a name, or leave @id out", at)
			case seen[id] != "":
				return nil, mayfly.Errorf(mayfly.Invalid, "%s: the id %q is taken by the policy at %s; choose another", at, id, seen[id])
			}
			seen[id] = at
			s.policies = append(s.policies, entry{id, p})
		}
	}
	return s, nil
}

var place = regexp.MustCompile(`<input>:(\d+):(\d+)`)

// syntaxError puts the place of a parser's error first.
func syntaxError(name string, err error) error {
	line, column, text := "1", "1", err.Error()
	if m := place.FindStringSubmatchIndex(text); m != nil {
		line, column, text = text[m[2]:m[3]], text[m[4]:m[5]], text[m[1]:]
	}
	return mayfly.Errorf(mayfly.Invalid, "%s:%s:%s: this is not Cedar: %s", name, line, column, strings.TrimLeft(text, " :")).Because(err)
}

// unhonoured are attributes of the context that this version does not fill in. A
// policy that reads one would fail, or worse, never apply; the names stand for
// nothing else here, so they are refused wherever they are read.
var unhonoured = []string{"labels", "seen", "arguments"}

// refuseWords refuses a policy that says something this version does not do.
func refuseWords(name string, src []byte, p *cedar.Policy) error {
	if _, asks := p.Annotations()["approval"]; asks {
		return mayfly.Errorf(mayfly.Invalid, "%s:%d: @approval is not supported by this version; remove it, and the policy forbids without exception",
			name, lineOf(src, p, "approval"))
	}
	var word string
	for _, c := range (*ast.Policy)(p.AST()).Conditions {
		ast.Inspect(ast.NewNode(c.Body), func(n ast.IsNode) bool {
			var read string
			switch n := n.(type) {
			case ast.NodeTypeAccess:
				read = string(n.Value)
			case ast.NodeTypeHas:
				read = string(n.Value)
			}
			if word == "" && slices.Contains(unhonoured, read) {
				word = read
			}
			return true
		})
	}
	if word == "" {
		return nil
	}
	return mayfly.Errorf(mayfly.Invalid, "%s:%d: context.%s is not supported by this version; remove the condition",
		name, lineOf(src, p, word), word)
}

// lineOf is the line where word first stands in p, comments left out, or p's
// own.
func lineOf(src []byte, p *cedar.Policy, word string) int {
	line, from := p.Position().Line, p.Position().Offset
	if from < 0 || from > len(src) {
		return line
	}
	whole := regexp.MustCompile(`\b` + word + `\b`)
	for i, text := range bytes.Split(src[from:], []byte("\n")) {
		code, _, _ := bytes.Cut(text, []byte("//"))
		if whole.Match(code) {
			return line + i
		}
	}
	return line
}

// walk hands the policies to Cedar one by one and remembers which is being
// evaluated, so that even a panic can be laid at a policy's door.
type walk struct {
	set     *Set
	current string
}

// All is what cedar.Authorize asks for.
func (w *walk) All() iter.Seq2[cedar.PolicyID, *cedar.Policy] {
	return func(yield func(cedar.PolicyID, *cedar.Policy) bool) {
		for _, p := range w.set.policies {
			w.current = p.id
			if !yield(cedar.PolicyID(p.id), p.policy) {
				return
			}
		}
		w.current = ""
	}
}

// answer is what the policies say to one request.
type answer struct {
	permitted bool
	by        []string // ids of the policies that determined it: forbids if any apply
	forbidden bool
	erred     []string // ids of the policies that could not be evaluated
}

// ask evaluates every policy. Cedar skips a policy that errs, so a forbid with a
// mistake in it would allow; here any error is in the answer, and refuses.
func (s *Set) ask(entities cedar.EntityGetter, r cedar.Request) (a answer) {
	if s.empty() {
		return answer{}
	}
	w := &walk{set: s}
	defer func() {
		if r := recover(); r != nil {
			a = answer{erred: []string{w.current}}
		}
	}()
	verdict, diagnostic := cedar.Authorize(w, entities, r)
	for _, e := range diagnostic.Errors {
		a.erred = append(a.erred, string(e.PolicyID))
	}
	for _, reason := range diagnostic.Reasons {
		a.by = append(a.by, string(reason.PolicyID))
	}
	a.permitted = verdict == cedar.Allow && len(a.erred) == 0
	a.forbidden = verdict == cedar.Deny && len(a.by) > 0
	return a
}
