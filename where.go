package mayfly

import (
	"crypto/sha256"
	"encoding/base64"
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// Where says what the arguments of a call must be. Each condition is about one
// argument, by its top-level name or by a JSON Pointer (RFC 6901), and all must
// hold. An argument that is missing or of another type than the condition is
// about does not fit. The zero value asks for nothing.
//
//	equals        the value
//	in, not_in    one of the values; a string, number or boolean that is none of them
//	min, max      a number, compared as an exact decimal
//	prefix        a string that begins so
//	pattern       a string that matches the RE2 expression from end to end
//	max_length    a string of at most so many characters
//	max_items     an array of at most so many elements
//	absent        true: not there at all; false: there, whatever it is
//	all           a list of conditions that all hold, or one that holds for every element of an array
//	any           a list of conditions of which one holds, or one that holds for an element of an array
type Where struct {
	conditions []condition // sorted by name, one for each argument
	id         string      // hash of the JSON form; "" without conditions
}

type condition struct {
	name string // as written in JSON: the top-level name, or a pointer
	path []string
	is   constraint
}

// constraint is the tests that one value must all pass.
type constraint []test

type test struct {
	op    operator
	set   []value // equals (one), in, not_in
	limit decimal // min, max
	text  string  // prefix, pattern
	re    *regexp.Regexp
	count int64        // max_length, max_items
	yes   bool         // absent
	each  bool         // all, any: about the elements of an array
	parts []constraint // all, any
}

type operator string

const (
	opEquals    operator = "equals"
	opIn        operator = "in"
	opNotIn     operator = "not_in"
	opMin       operator = "min"
	opMax       operator = "max"
	opPrefix    operator = "prefix"
	opPattern   operator = "pattern"
	opMaxLength operator = "max_length"
	opMaxItems  operator = "max_items"
	opAbsent    operator = "absent"
	opAll       operator = "all"
	opAny       operator = "any"
)

const operators = "equals, in, not_in, min, max, prefix, pattern, max_length, max_items, absent, all and any"

// Limits on a where, so that a grant which somebody sends in a request cannot
// cost more than it is worth.
const (
	maxConditions  = 32
	maxTests       = 100  // in one where, nested ones included
	maxNesting     = 4    // of all and any
	maxValues      = 100  // in a list of values
	maxOperand     = 1024 // bytes of a string
	maxPattern     = 256  // bytes of a pattern
	maxProgram     = 500  // instructions of a compiled pattern
	maxMatched     = 4096 // bytes of a string that a pattern is tried on
	maxSafeInteger = 1<<53 - 1
)

// IsZero reports whether w asks for nothing.
func (w Where) IsZero() bool { return len(w.conditions) == 0 }

// Arguments are the names of the arguments w is about: top-level names, or JSON
// Pointers.
func (w Where) Arguments() []string {
	names := make([]string, len(w.conditions))
	for i, c := range w.conditions {
		names[i] = c.name
	}
	return names
}

// check finds the first condition c does not meet, or nil.
func (w *Where) check(c *Call) *miss {
	for i := range w.conditions {
		about := &w.conditions[i]
		if c.NoArguments {
			return &miss{about: about, unread: true}
		}
		v, readable := c.Arguments.lookup(about.path)
		if !readable {
			return &miss{about: about, unread: true}
		}
		if t := about.is.fails(v); t != nil {
			return &miss{about: about, test: t, missing: v == nil}
		}
	}
	return nil
}

// fails finds the first test that v does not pass, or nil. A nil v is missing.
func (c constraint) fails(v *value) *test {
	for i := range c {
		if !c[i].passes(v) {
			return &c[i]
		}
	}
	return nil
}

func (c constraint) holds(v *value) bool { return c.fails(v) == nil }

func (t *test) passes(v *value) bool {
	switch {
	case t.op == opAbsent:
		return t.yes == (v == nil)
	case t.op == opAll && !t.each:
		for _, part := range t.parts {
			if !part.holds(v) {
				return false
			}
		}
		return true
	case t.op == opAny && !t.each:
		for _, part := range t.parts {
			if part.holds(v) {
				return true
			}
		}
		return false
	case v == nil:
		return false
	}
	switch t.op {
	case opEquals, opIn:
		return t.lists(v)
	case opNotIn:
		return sameType(v, &t.set[0]) && !t.lists(v)
	case opMin:
		return v.kind == '0' && v.number.compare(t.limit) >= 0
	case opMax:
		return v.kind == '0' && v.number.compare(t.limit) <= 0
	case opPrefix:
		return v.kind == '"' && strings.HasPrefix(v.text, t.text)
	case opPattern:
		return v.kind == '"' && len(v.text) <= maxMatched && t.re.MatchString(v.text)
	case opMaxLength:
		return v.kind == '"' && int64(utf8.RuneCountInString(v.text)) <= t.count
	case opMaxItems:
		return v.kind == '[' && int64(len(v.items)) <= t.count
	case opAll:
		if v.kind != '[' {
			return false
		}
		for i := range v.items {
			if !t.parts[0].holds(&v.items[i]) {
				return false
			}
		}
		return true
	case opAny:
		for i := range v.items {
			if v.kind == '[' && t.parts[0].holds(&v.items[i]) {
				return true
			}
		}
		return false
	default:
		return false // nothing we know: it refuses
	}
}

func (t *test) lists(v *value) bool {
	for i := range t.set {
		if t.set[i].equal(v) {
			return true
		}
	}
	return false
}

// sameType reports whether two scalars are both strings, numbers or booleans.
func sameType(v, w *value) bool { return scalarType(v) != 0 && scalarType(v) == scalarType(w) }

func scalarType(v *value) jsontext.Kind {
	switch v.kind {
	case '"', '0':
		return v.kind
	case 't', 'f':
		return 't'
	default:
		return 0
	}
}

// parseWhere reads the member "where" of a long form.
func parseWhere(v *value) (Where, error) {
	if v.kind != '{' || len(v.items) == 0 {
		return Where{}, Errorf(Invalid, "where must be an object of arguments, such as {amount: {max: 500}}")
	}
	var w Where
	for i, name := range v.names {
		path, err := parsePath(name)
		if err != nil {
			return Where{}, err
		}
		is, err := parseConstraint(name, &v.items[i], 0)
		if err != nil {
			return Where{}, err
		}
		w.conditions = append(w.conditions, condition{name: pathName(path), path: path, is: is})
	}
	return w.seal()
}

// seal sorts the conditions, checks the limits and names the result.
func (w Where) seal() (Where, error) {
	sortConditions(w.conditions)
	tests := 0
	for i, c := range w.conditions {
		if i > 0 && w.conditions[i-1].name == c.name {
			return Where{}, Errorf(Invalid, "where names the argument %q twice; put its conditions together", c.name)
		}
		tests += c.is.size()
	}
	if len(w.conditions) > maxConditions || tests > maxTests {
		return Where{}, Errorf(Invalid, "where has more than %d arguments or %d conditions; ask for less at once", maxConditions, maxTests)
	}
	sum := sha256.Sum256(w.append(nil))
	w.id = base64.RawURLEncoding.EncodeToString(sum[:12])
	return w, nil
}

func (c constraint) size() int {
	n := len(c)
	for _, t := range c {
		for _, part := range t.parts {
			n += part.size()
		}
	}
	return n
}

func (c constraint) depth() int {
	deepest := 0
	for _, t := range c {
		for _, part := range t.parts {
			deepest = max(deepest, 1+part.depth())
		}
	}
	return deepest
}

// The escapes of a JSON Pointer's reference tokens (RFC 6901 section 3).
var (
	unescape = strings.NewReplacer("~1", "/", "~0", "~")
	escape   = strings.NewReplacer("~", "~0", "/", "~1")
)

// parsePath reads a top-level name, or a JSON Pointer where it begins with "/".
func parsePath(name string) ([]string, error) {
	if name == "" {
		return nil, Errorf(Invalid, "where has a condition without an argument; name one")
	}
	if name[0] != '/' {
		return []string{name}, nil
	}
	path := strings.Split(name[1:], "/")
	for i, token := range path {
		plain := unescape.Replace(token)
		if escape.Replace(plain) != token {
			return nil, Errorf(Invalid, "%q in where is not a JSON Pointer; write ~0 for ~ and ~1 for /", name)
		}
		path[i] = plain
	}
	if len(path) > maxDepth {
		return nil, Errorf(Invalid, "%q in where is deeper than %d levels", name, maxDepth)
	}
	return path, nil
}

// pathName is the one spelling of a path.
func pathName(path []string) string {
	if len(path) == 1 && path[0] != "" && path[0][0] != '/' {
		return path[0]
	}
	var b strings.Builder
	for _, token := range path {
		b.WriteByte('/')
		b.WriteString(escape.Replace(token))
	}
	return b.String()
}

func parseConstraint(name string, v *value, depth int) (constraint, error) {
	bad := func(format string, args ...any) (constraint, error) {
		return nil, Errorf(Invalid, "where: "+strconv.Quote(name)+" "+format, args...)
	}
	if v.kind != '{' || len(v.items) == 0 {
		return bad("must be an object of operators, such as {max: 500}; there are %s", operators)
	}
	if depth > maxNesting {
		return bad("nests all and any deeper than %d levels", maxNesting)
	}
	var c constraint
	for i, op := range v.names {
		t := test{op: operator(op)}
		operand := &v.items[i]
		switch t.op {
		case opEquals:
			t.set = []value{*operand}
		case opIn, opNotIn:
			if operand.kind != '[' || len(operand.items) == 0 || len(operand.items) > maxValues {
				return bad("needs a list of 1 to %d values for %s", maxValues, op)
			}
			t.set = operand.items
			for i := range t.set {
				if t.op == opNotIn && !sameType(&t.set[0], &t.set[i]) {
					return bad("needs strings only, numbers only or booleans only for not_in")
				}
			}
		case opMin, opMax:
			if operand.kind != '0' {
				return bad("needs a number for %s", op)
			}
			t.limit = operand.number
			t.set = nil
		case opPrefix:
			if operand.kind != '"' || operand.text == "" {
				return bad("needs a string for prefix")
			}
			t.text = operand.text
		case opPattern:
			if operand.kind != '"' {
				return bad("needs a string for pattern")
			}
			re, why := compile(operand.text)
			if why != "" {
				return bad("has a pattern that %s", why)
			}
			t.text, t.re = operand.text, re
		case opMaxLength, opMaxItems:
			n, ok := operand.number.count(maxSafeInteger)
			if operand.kind != '0' || !ok {
				return bad("needs a whole number for %s", op)
			}
			t.count = n
		case opAbsent:
			if operand.kind != 't' && operand.kind != 'f' {
				return bad("needs true or false for absent")
			}
			if t.yes = operand.kind == 't'; t.yes && len(v.names) > 1 {
				return bad("cannot be absent and something else; for an optional argument write any: [{absent: true}, …]")
			}
		case opAll, opAny:
			parts := []value{*operand}
			if t.each = operand.kind == '{'; !t.each {
				if parts = operand.items; operand.kind != '[' || len(parts) == 0 {
					return bad("needs for %s a list of conditions, or one condition for the elements of an array", op)
				}
			}
			for i := range parts {
				part, err := parseConstraint(name, &parts[i], depth+1)
				if err != nil {
					return nil, err
				}
				t.parts = append(t.parts, part)
			}
		default:
			return bad("has an operator %q that is not known; there are %s", op, operators)
		}
		if why := badOperand(operand, 0); why != "" && t.parts == nil {
			return bad("has for %s %s", op, why)
		}
		c = append(c, t)
	}
	return c, nil
}

// badOperand says what keeps v from being written into a token and read back by
// anybody, or "".
func badOperand(v *value, depth int) string {
	if depth > maxNesting {
		return "a value that nests deeper than " + strconv.Itoa(maxNesting) + " levels"
	}
	if len(v.text) > maxOperand {
		return "a string longer than " + strconv.Itoa(maxOperand) + " bytes"
	}
	if v.kind == '0' {
		safe := decimal{digits: strconv.Itoa(maxSafeInteger), point: 16}
		size := v.number
		size.neg = false
		if len(size.digits) > 40 || size.point < -40 || size.compare(safe) > 0 {
			return "a number that not every reader can hold; keep within ±" + strconv.Itoa(maxSafeInteger) + " and 40 digits"
		}
	}
	if len(v.items) > maxValues {
		return "more than " + strconv.Itoa(maxValues) + " values"
	}
	for i := range v.items {
		if why := badOperand(&v.items[i], depth+1); why != "" {
			return why
		}
	}
	for _, name := range v.names {
		if len(name) > 128 {
			return "a name longer than 128 bytes"
		}
	}
	return ""
}

// compile makes a pattern that must match from end to end, and is small enough
// that matching it is cheap whatever it is tried on.
func compile(pattern string) (*regexp.Regexp, string) {
	if len(pattern) > maxPattern {
		return nil, "is longer than " + strconv.Itoa(maxPattern) + " bytes"
	}
	// On its own first: an unbalanced one must not close the group below.
	parsed, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return nil, "is not valid RE2"
	}
	program, err := syntax.Compile(parsed.Simplify())
	if err != nil || len(program.Inst) > maxProgram {
		return nil, "is too costly to match; make it simpler"
	}
	re, err := regexp.Compile(`\A(?:` + pattern + `)\z`)
	if err != nil {
		return nil, "is not valid RE2"
	}
	return re, ""
}

// miss is a condition that a call does not meet.
type miss struct {
	about   *condition
	test    *test // nil where unread
	missing bool
	unread  bool
}

// sentence tells whoever asked what to change. It holds no value of the call.
func (m *miss) sentence() string {
	name := "the argument " + m.about.name
	switch {
	case m.unread:
		return name + " cannot be read from this body; send a JSON object"
	case m.missing:
		return name + " is missing; it " + m.test.must()
	default:
		return name + " " + m.test.must()
	}
}

// must says in words what t asks for.
func (t *test) must() string {
	switch t.op {
	case opEquals:
		return "must be exactly " + t.listed()
	case opIn:
		return "must be one of " + t.listed()
	case opNotIn:
		return "must be a value of that type and none of " + t.listed()
	case opMin:
		return "must be a number of at least " + t.limit.String()
	case opMax:
		return "must be a number of at most " + t.limit.String()
	case opPrefix:
		return "must be text that begins with " + strconv.Quote(t.text)
	case opPattern:
		return "must be text that matches the pattern " + strconv.Quote(t.text)
	case opMaxLength:
		return "must be text of at most " + strconv.FormatInt(t.count, 10) + " characters"
	case opMaxItems:
		return "must be a list of at most " + strconv.FormatInt(t.count, 10) + " elements"
	case opAbsent:
		if t.yes {
			return "must be left out"
		}
		return "must be given"
	case opAll, opAny:
		words := make([]string, len(t.parts))
		for i, part := range t.parts {
			tests := make([]string, len(part))
			for j := range part {
				tests[j] = part[j].must()
			}
			words[i] = strings.Join(tests, " and ")
		}
		switch {
		case t.each && t.op == opAll:
			return "must be a list of which every element " + words[0]
		case t.each:
			return "must be a list of which an element " + words[0]
		case t.op == opAll:
			return strings.Join(words, " and ")
		default:
			return strings.Join(words, ", or ")
		}
	default:
		return "does not fit"
	}
}

// listed writes the first few values of t.
func (t *test) listed() string {
	const most = 10
	var b []byte
	for i := range t.set {
		if i == most {
			return string(b) + ", …"
		}
		if i > 0 {
			b = append(b, ", "...)
		}
		b = t.set[i].append(b)
	}
	return string(b)
}

func sortConditions(c []condition) {
	slices.SortFunc(c, func(a, b condition) int { return strings.Compare(a.name, b.name) })
}
