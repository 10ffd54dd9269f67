package mayfly

import (
	"slices"
	"strings"
)

// within reports as an error whether arguments can fit w that do not fit
// ceiling. Every argument that ceiling is about must be one that w is about.
func (w Where) within(ceiling Where) error {
	if w.id == ceiling.id {
		return nil
	}
	for _, c := range ceiling.conditions {
		own := w.about(c.name)
		if own == nil {
			return Errorf(Invalid, "the condition on %s is missing; it %s", c.name, c.is[0].must())
		}
		if !implies(own, c.is) {
			return Errorf(Invalid, "the condition on %s is not certainly within what is allowed: it %s", c.name, c.is.must())
		}
	}
	return nil
}

// about finds w's condition on an argument, or nil.
func (w Where) about(name string) constraint {
	for _, c := range w.conditions {
		if c.name == name {
			return c.is
		}
	}
	return nil
}

func (c constraint) must() string {
	words := make([]string, len(c))
	for i := range c {
		words[i] = c[i].must()
	}
	return strings.Join(words, " and ")
}

// and is a Where that holds where both do. Where one condition says all of the
// other, only the stronger is kept.
func (w Where) and(o Where) (Where, error) {
	if w.IsZero() || w.id == o.id {
		return o, nil
	}
	if o.IsZero() {
		return w, nil
	}
	both := Where{conditions: slices.Clone(w.conditions)}
	for _, c := range o.conditions {
		i := slices.IndexFunc(both.conditions, func(own condition) bool { return own.name == c.name })
		switch {
		case i < 0:
			both.conditions = append(both.conditions, c)
		case implies(both.conditions[i].is, c.is):
		case implies(c.is, both.conditions[i].is):
			both.conditions[i] = c
		default:
			both.conditions[i].is = both.conditions[i].is.and(c.is)
			if both.conditions[i].is.depth() > maxNesting {
				return Where{}, Errorf(Invalid, "the conditions on %s are too deep to put together; ask for less at once", c.name)
			}
		}
	}
	return both.seal()
}

// and puts two constraints on one value together: side by side where they use
// different operators, else as a list under all.
func (c constraint) and(o constraint) constraint {
	if !slices.ContainsFunc(o, func(t test) bool { return t.op == opAbsent || c.has(t.op) }) && !c.has(opAbsent) {
		both := slices.Concat(c, o)
		slices.SortFunc(both, func(a, b test) int { return strings.Compare(string(a.op), string(b.op)) })
		return both
	}
	var parts []constraint
	for _, side := range []constraint{c, o} {
		if len(side) == 1 && side[0].op == opAll && !side[0].each {
			parts = append(parts, side[0].parts...)
		} else {
			parts = append(parts, side)
		}
	}
	return constraint{{op: opAll, parts: parts}}
}

func (c constraint) has(op operator) bool {
	return slices.ContainsFunc(c, func(t test) bool { return t.op == op })
}

// implies reports whether every value that passes c certainly passes all of o.
// False means that it does not, or that this cannot be decided.
func implies(c, o constraint) bool {
	p := prover{steps: maxSteps}
	return p.all(c, o)
}

// maxSteps bounds the case distinctions of one question; beyond it the question
// counts as undecidable.
const maxSteps = 2000

type prover struct{ steps int }

func (p *prover) all(c, o constraint) bool {
	c = flat(c)
	for i := range o {
		if !p.one(c, &o[i]) {
			return false
		}
	}
	return true
}

// flat takes lists under all apart: their tests hold like any other.
func flat(c constraint) constraint {
	if !slices.ContainsFunc(c, isList) {
		return c
	}
	var out constraint
	for _, t := range c {
		if !isList(t) {
			out = append(out, t)
			continue
		}
		for _, part := range t.parts {
			out = append(out, flat(part)...)
		}
	}
	return out
}

func isList(t test) bool { return t.op == opAll && !t.each }

// one decides whether c, which is flat, implies t.
func (p *prover) one(c constraint, t *test) bool {
	if p.steps--; p.steps < 0 {
		return false
	}
	// A value from a list can be tried out, whatever t is.
	for i := range c {
		switch s := &c[i]; {
		case s.op == opEquals, s.op == opIn:
			for j := range s.set {
				if v := &s.set[j]; c.holds(v) && !t.passes(v) {
					return false
				}
			}
			return true
		case s.op == opAbsent && s.yes:
			// Only what is missing passes c, or, with more to ask of it, nothing.
			return !c.holds(nil) || t.passes(nil)
		case s.same(t):
			return true
		}
	}
	switch {
	case isList(*t):
		for _, part := range t.parts {
			for i := range part {
				if !p.one(c, &part[i]) {
					return false
				}
			}
		}
		return true
	case t.op == opAny && !t.each:
		for _, part := range t.parts {
			if p.all(c, part) {
				return true
			}
		}
	case t.op == opAbsent:
		if !t.yes && !c.holds(nil) {
			return true
		}
	case t.op == opNotIn:
		if p.excludes(c, t) {
			return true
		}
	default:
		for i := range c {
			if p.stronger(&c[i], t) {
				return true
			}
		}
	}
	// One of several holds: t must follow from each of them.
	for i := range c {
		if s := &c[i]; s.op == opAny && !s.each {
			rest := slices.Delete(slices.Clone(c), i, i+1)
			for _, part := range s.parts {
				if !p.one(slices.Concat(rest, flat(part)), t) {
					return false
				}
			}
			return true
		}
	}
	return false
}

// same reports whether s and t are one test, written twice.
func (s *test) same(t *test) bool {
	return s.op == t.op && s.each == t.each && s.yes == t.yes && s.count == t.count && s.text == t.text && s.limit == t.limit &&
		slices.EqualFunc(s.set, t.set, func(a, b value) bool { return a.equal(&b) }) &&
		slices.EqualFunc(s.parts, t.parts, func(a, b constraint) bool {
			return slices.EqualFunc(a, b, func(a, b test) bool { return a.same(&b) })
		})
}

// stronger reports whether s alone implies t.
func (p *prover) stronger(s, t *test) bool {
	if s.op != t.op {
		return false
	}
	switch t.op {
	case opMin:
		return s.limit.compare(t.limit) >= 0
	case opMax:
		return s.limit.compare(t.limit) <= 0
	case opPrefix:
		return strings.HasPrefix(s.text, t.text)
	case opPattern:
		return s.text == t.text // whether one language is within another is not asked
	case opMaxLength, opMaxItems:
		return s.count <= t.count
	case opAll, opAny:
		return s.each && t.each && p.all(s.parts[0], t.parts[0])
	default:
		return false
	}
}

// excludes reports whether no value that passes c is listed by t, a not_in, and
// each is of the type that t is about.
func (p *prover) excludes(c constraint, t *test) bool {
	for i := range t.set {
		if c.holds(&t.set[i]) {
			return false
		}
	}
	want := scalarType(&t.set[0])
	return slices.ContainsFunc(c, func(s test) bool {
		switch s.op {
		case opMin, opMax:
			return want == '0'
		case opPrefix, opPattern, opMaxLength:
			return want == '"'
		case opNotIn:
			return want == scalarType(&s.set[0])
		default:
			return false
		}
	})
}
