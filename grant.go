package mayfly

import (
	"fmt"
	"slices"
	"strings"
)

// Grant is one thing a task may do: a pattern of actions at one target, what
// their arguments must be, and how many there may be.
//
// Its short form is kind:target:action, such as mcp:github:create_issue or
// http:orders:GET:/v1/orders/*. A "*" stands alone as the action or as the
// HTTP method, or ends the action, and matches one or more of any character,
// "/" included. The long form is the RFC 9396 object of [ParseGrantObject].
type Grant struct {
	Kind   string // mcp, http
	Target string
	Action string // a tool's name, or METHOD:/path
	Where  Where
	Budget Budget
}

// maxGrant is the longest short form, in bytes.
const maxGrant = 1024

// ParseGrant reads the short form. The error is of kind Invalid.
func ParseGrant(short string) (Grant, error) {
	if len(short) > maxGrant {
		return Grant{}, Errorf(Invalid, "a grant is longer than %d bytes", maxGrant)
	}
	for i := range len(short) {
		// RFC 6749 section 3.3: a grant must be able to stand in a scope.
		if c := short[i]; c <= ' ' || c > '~' || c == '"' || c == '\\' {
			return Grant{}, Errorf(Invalid, "the grant %+q has a character that cannot stand in one; use printable ASCII without spaces, quotes and backslashes", short)
		}
	}
	parts := strings.SplitN(short, ":", 3)
	if len(parts) != 3 {
		return Grant{}, Errorf(Invalid, "%q is not a grant; write kind:target:action, such as mcp:github:create_issue", short)
	}
	g := Grant{Kind: parts[0], Target: parts[1], Action: parts[2]}
	if !isName(g.Kind) {
		return Grant{}, Errorf(Invalid, "%q begins with no kind of target; write kind:target:action, such as mcp:github:create_issue", short)
	}
	if !isName(g.Target) {
		return Grant{}, Errorf(Invalid, "%q is not a target's name in %q; write kind:target:action, such as mcp:github:create_issue", g.Target, short)
	}
	if why := badAction(g.Kind, g.Action); why != "" {
		return Grant{}, Errorf(Invalid, "the action of %q %s", short, why)
	}
	return g, nil
}

// isName reports whether s can be the name of a kind or target.
func isName(s string) bool {
	for i := range len(s) {
		c := s[i]
		inside := c == '.' || c == '-' || c == '_'
		if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || inside && 0 < i && i < len(s)-1) {
			return false
		}
	}
	return s != "" && len(s) <= 63
}

// badAction says what is wrong with an action, or "".
func badAction(kind, action string) string {
	if action == "" {
		return `is missing; name one, or write "*"`
	}
	if i := strings.IndexByte(action, '*'); kind != "http" && i >= 0 && i < len(action)-1 {
		return `has a "*" that is not its end`
	}
	if kind != "http" || action == "*" {
		return ""
	}
	method, path, found := strings.Cut(action, ":")
	switch {
	case !found:
		return "must be METHOD:/path, such as GET:/v1/orders/*"
	case method != "*" && !isMethod(method):
		return `must begin with a method in capitals or with "*", such as GET:/v1/orders/*`
	case path == "*":
		return ""
	case !strings.HasPrefix(path, "/"):
		return "must have a path that begins with /, such as GET:/v1/orders/*"
	case strings.ContainsAny(path, "?#"):
		return "must be a path without query or fragment; limit those with where: {query.NAME: …}"
	}
	if i := strings.IndexByte(path, '*'); i >= 0 && i < len(path)-1 {
		return `has a "*" that is not its end`
	}
	segments := strings.Split(path[1:], "/")
	for i, s := range segments {
		if s == "." || s == ".." || s == "" && i < len(segments)-1 {
			return "has a path with an empty or dot segment, which no call ever has"
		}
	}
	return ""
}

func isMethod(s string) bool {
	for i := range len(s) {
		if c := s[i]; !('A' <= c && c <= 'Z' || c == '-' && i > 0) {
			return false
		}
	}
	return s != "" && len(s) <= 32
}

// String is the short form: the grant without its limits.
func (g Grant) String() string { return g.Kind + ":" + g.Target + ":" + g.Action }

// Limited reports whether g is more than its short form says.
func (g Grant) Limited() bool { return !g.Where.IsZero() || !g.Budget.IsZero() }

// Key names the count of g's budget within its task. It stays what it is when
// the budget or, by [Narrow], the grant gets smaller.
func (g Grant) Key() string {
	if g.Budget.Of != "" {
		return g.Budget.Of
	}
	return g.ownKey()
}

func (g Grant) ownKey() string {
	if g.Where.IsZero() {
		return g.String()
	}
	return g.Kind + ":" + g.Target + ":" + g.Action + "#" + g.Where.id
}

// Equal reports whether g and o are the same grant with the same limits.
func (g Grant) Equal(o Grant) bool {
	return g.Kind == o.Kind && g.Target == o.Target && g.Action == o.Action && g.Where.id == o.Where.id && g.Budget.Equal(o.Budget)
}

// Covers reports whether c fits the pattern of g. Its arguments may still not
// fit: see [Grant.Allows].
func (g *Grant) Covers(c *Call) bool {
	if g.Kind == "" || g.Kind != c.Kind || g.Target != c.Target {
		return false
	}
	if g.Kind != "http" || g.Action == "*" {
		return fits(g.Action, c.Action)
	}
	gm, gp, _ := strings.Cut(g.Action, ":")
	cm, cp, _ := strings.Cut(c.Action, ":")
	return fits(gm, cm) && fits(gp, cp)
}

// fits is [MatchPattern] where an empty pattern fits nothing.
func fits(pattern, value string) bool { return pattern != "" && MatchPattern(pattern, value) }

// Allows reports whether c is something g lets a task do, and if not, why in
// one sentence. The budget is not looked at: that is counted where it is spent.
func (g Grant) Allows(c Call) (bool, string) {
	if !g.Covers(&c) {
		return false, c.Grant() + " is not covered by " + g.String()
	}
	if miss := g.Where.check(&c); miss != nil {
		return false, miss.sentence()
	}
	return true, ""
}

// Match finds the grant that allows c: the first of those without a budget, else
// the first. If there is none, the reason is the nearest miss.
func Match(grants []Grant, c Call) (g Grant, ok bool, reason string) {
	if i := Find(grants, &c); i >= 0 {
		return grants[i], true, ""
	}
	for i := range grants {
		if grants[i].Covers(&c) {
			return Grant{}, false, grants[i].Where.check(&c).sentence()
		}
	}
	return Grant{}, false, "nothing granted covers " + c.Grant()
}

// Find is [Match] without the cost of a reason: the index in grants, or -1.
func Find(grants []Grant, c *Call) int {
	found := -1
	for i := range grants {
		g := &grants[i]
		if found >= 0 && g.Budget.Limits() || !g.Covers(c) || g.Where.check(c) != nil {
			continue
		}
		if !g.Budget.Limits() {
			return i
		}
		found = i
	}
	return found
}

// Within reports, as an error of kind Invalid, whether g allows anything that
// ceiling does not. Where that cannot be decided, it is refused.
func (g Grant) Within(ceiling Grant) error {
	if !g.covered(ceiling) {
		return Errorf(Invalid, "%s is more than %s", g, ceiling)
	}
	if err := g.Where.within(ceiling.Where); err != nil {
		return Errorf(Invalid, "%s: %s", g, AsError(err).Message)
	}
	if why := g.Budget.within(&ceiling.Budget); why != "" {
		return Errorf(Invalid, "%s %s", g, why)
	}
	return nil
}

// Facts are the arguments that g's conditions and sums are about, each with the
// type that those can hold for; sorted, each once, all soft. One that they say
// no type of is left out.
func (g *Grant) Facts() []Fact {
	facts := g.Where.Facts()
	for _, limit := range g.Budget.Sum {
		facts = slices.DeleteFunc(facts, func(f Fact) bool { return f.Name == limit.Argument })
		facts = append(facts, Fact{Name: limit.Argument, Type: FactDecimal, Soft: true})
	}
	slices.SortFunc(facts, func(a, b Fact) int { return strings.Compare(a.Name, b.Name) })
	return facts
}

// covered reports whether every action that fits g's pattern fits ceiling's.
func (g Grant) covered(ceiling Grant) bool {
	if g.Kind == "" || g.Kind != ceiling.Kind || g.Target != ceiling.Target {
		return false
	}
	if g.Kind != "http" || ceiling.Action == "*" {
		return narrower(g.Action, ceiling.Action)
	}
	gm, gp := "*", "*"
	if g.Action != "*" {
		gm, gp, _ = strings.Cut(g.Action, ":")
	}
	cm, cp, _ := strings.Cut(ceiling.Action, ":")
	return narrower(gm, cm) && narrower(gp, cp)
}

// Meets reports whether some action fits both g's pattern and o's; limits are
// not looked at.
func (g Grant) Meets(o Grant) bool {
	if g.Kind == "" || g.Kind != o.Kind || g.Target != o.Target {
		return false
	}
	if g.Kind != "http" || g.Action == "*" || o.Action == "*" {
		return meets(g.Action, o.Action)
	}
	gm, gp, _ := strings.Cut(g.Action, ":")
	om, op, _ := strings.Cut(o.Action, ":")
	return meets(gm, om) && meets(gp, op)
}

// meets reports whether some text fits both patterns.
func meets(a, b string) bool {
	begin, open := strings.CutSuffix(a, "*")
	other, both := strings.CutSuffix(b, "*")
	if open && both {
		return strings.HasPrefix(begin, other) || strings.HasPrefix(other, begin)
	}
	return narrower(a, b) || narrower(b, a)
}

// narrower reports whether every text that fits pattern fits wide.
func narrower(pattern, wide string) bool {
	if pattern == "" || wide == "" {
		return false
	}
	begin, open := strings.CutSuffix(wide, "*")
	if !open {
		return pattern == wide
	}
	if own, open := strings.CutSuffix(pattern, "*"); open {
		return strings.HasPrefix(own, begin)
	}
	return strings.HasPrefix(pattern, begin) && len(pattern) > len(begin)
}

// Within reports, as an error of kind Invalid, whether each grant of asked is
// within at least one of ceiling. The error names the first that is not.
func Within(asked, ceiling []Grant) error {
	for _, g := range asked {
		if _, err := Cut(g, ceiling); err != nil {
			return err
		}
	}
	return nil
}

// Cut gives g as a part of each ceiling: it must be within one grant of each,
// with the limits it states itself, and goes on with the count of a grant that
// has a budget. The error is of kind Invalid.
func Cut(g Grant, ceilings ...[]Grant) (Grant, error) {
	for _, ceiling := range ceilings {
		c, err := within(g, ceiling)
		if err != nil {
			return Grant{}, err
		}
		g = g.cutFrom(c)
	}
	return g, nil
}

// within finds the first grant of ceiling that g is within.
func within(g Grant, ceiling []Grant) (Grant, error) {
	nearest := Errorf(Invalid, "%s is more than can be granted here; ask for less", g)
	for _, c := range ceiling {
		why := g.Within(c)
		if why == nil {
			return c, nil
		}
		if g.covered(c) {
			nearest = AsError(why) // only the limits differ
		}
	}
	return Grant{}, nearest
}

// cutFrom lets g go on with the count of the grant it was cut from.
func (g Grant) cutFrom(c Grant) Grant {
	if !c.Budget.Limits() {
		return g
	}
	if g.Budget.Of = c.Key(); g.Budget.Of == g.ownKey() {
		g.Budget.Of = ""
	}
	return g
}

// Inherit gives a grant the limits of each grant that covers it, of one ceiling
// after the other: what a request means that says no more than a short form.
// Limits that g has already stay. The error is of kind Invalid.
func Inherit(g Grant, ceilings ...[]Grant) ([]Grant, error) {
	got := []Grant{g}
	for _, ceiling := range ceilings {
		var limited []Grant
		for _, g := range got {
			for _, c := range ceiling {
				if !g.covered(c) {
					continue
				}
				h, err := g.and(c)
				if err != nil {
					return nil, err
				}
				limited = append(limited, h)
			}
		}
		if got = widest(limited); len(got) == 0 {
			return nil, Errorf(Invalid, "%s is more than can be granted here; ask for less", g)
		}
	}
	return got, nil
}

// and is g with the limits of c, which covers it, beside its own.
func (g Grant) and(c Grant) (Grant, error) {
	where, err := g.Where.and(c.Where)
	if err != nil {
		return Grant{}, err
	}
	g.Where = where
	if g.Budget = g.Budget.and(&c.Budget); len(g.Budget.Sum) > maxSums {
		return Grant{}, Errorf(Invalid, "%s has more than %d sums to put together; ask for less at once", g, maxSums)
	}
	return g.cutFrom(c), nil
}

// widest leaves out every grant that is within another one.
func widest(grants []Grant) []Grant {
	var kept []Grant
	for i, g := range grants {
		if Within([]Grant{g}, kept) != nil && Within([]Grant{g}, grants[i+1:]) != nil {
			kept = append(kept, g)
		}
	}
	return kept
}

// Narrow gives what is left of have when a task is to do no more than to: each
// grant of to must be within one of have. One without limits takes those of
// whatever covers it. Counts go on where they are. The error is of kind Invalid.
func Narrow(have, to []Grant) ([]Grant, error) {
	left := make([]Grant, 0, len(to))
	for _, g := range to {
		if !g.Limited() {
			inherited, err := Inherit(g, have)
			if err != nil {
				return nil, err
			}
			left = append(left, inherited...)
			continue
		}
		cut, err := Cut(g, have)
		if err != nil {
			return nil, err
		}
		left = append(left, cut)
	}
	return left, nil
}

// Describe is g for a person: its short form, and its limits.
func (g Grant) Describe() string {
	text := g.String()
	if arguments := g.Where.Arguments(); len(arguments) > 0 {
		text += " within limits on " + strings.Join(arguments, ", ")
	}
	if g.Budget.Calls > 0 {
		text += ", " + calls(g.Budget.Calls) + " at most"
	}
	for _, sum := range g.Budget.Sum {
		text += ", " + sum.Argument + " at most " + FormatDecimal(sum.Max) + " in sum"
	}
	if r := g.Budget.Rate; r.Calls > 0 {
		text += fmt.Sprintf(", at most %s in %s", calls(r.Calls), r.Per)
	}
	return text
}

func calls(n int64) string {
	if n == 1 {
		return "1 call"
	}
	return fmt.Sprintf("%d calls", n)
}
