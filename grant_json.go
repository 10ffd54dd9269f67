package mayfly

import (
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
)

// GrantType is the type of a grant's long form among authorization_details
// (RFC 9396 section 2).
const GrantType = "mayfly_grant"

// maxGrantObject is the longest long form, in bytes.
const maxGrantObject = 64 << 10

// ParseGrantObject reads the long form,
//
//	{"type":"mayfly_grant","grant":"kind:target:action","where":{…},"budget":{"calls":N,"sum":{"amount":2000},"rate":{"calls":5,"per":"1m"}}}
//
// of which where and budget may be left out, and of budget any member but one.
// Anything else in it, an operator that is not known and a name given twice are
// errors of kind Invalid.
func ParseGrantObject(object []byte) (Grant, error) {
	if len(object) > maxGrantObject {
		return Grant{}, Errorf(TooLarge, "a grant is longer than %d bytes", maxGrantObject)
	}
	v, err := parseValue(object)
	if err != nil {
		return Grant{}, Errorf(Invalid, "a grant is not valid JSON").Because(err)
	}
	return grantOf(&v)
}

func grantOf(v *value) (Grant, error) {
	if v.kind != '{' {
		return Grant{}, Errorf(Invalid, `a grant must be an object with "type": %q and "grant"`, GrantType)
	}
	for _, name := range v.names {
		switch name {
		case "type", "grant", "where", "budget":
		default:
			return Grant{}, Errorf(Invalid, "a grant has no member %q; there are type, grant, where and budget", name)
		}
	}
	if t := v.member("type"); t == nil || t.kind != '"' || t.text != GrantType {
		return Grant{}, Errorf(Invalid, "the type of a grant must be %q", GrantType)
	}
	short := v.member("grant")
	if short == nil || short.kind != '"' {
		return Grant{}, Errorf(Invalid, `a grant needs "grant", such as "mcp:github:create_issue"`)
	}
	g, err := ParseGrant(short.text)
	if err != nil {
		return Grant{}, err
	}
	if w := v.member("where"); w != nil {
		if g.Where, err = parseWhere(w); err != nil {
			return Grant{}, err
		}
	}
	if b := v.member("budget"); b != nil {
		if g.Budget, err = parseBudget(b); err != nil {
			return Grant{}, err
		}
	}
	return g, nil
}

// MarshalJSON writes the short form as a string, or the long form where g is
// limited: always in the same way.
func (g Grant) MarshalJSON() ([]byte, error) {
	if !g.Limited() {
		return jsontext.AppendQuote(nil, g.String())
	}
	b, err := jsontext.AppendQuote([]byte(`{"type":"`+GrantType+`","grant":`), g.String())
	if err != nil {
		return nil, err
	}
	if !g.Where.IsZero() {
		b = g.Where.append(append(b, `,"where":`...))
	}
	if g.Budget.Limits() {
		b = g.Budget.append(append(b, `,"budget":`...))
	}
	return append(b, '}'), nil
}

// UnmarshalJSON reads either form. The error is of kind Invalid.
func (g *Grant) UnmarshalJSON(text []byte) error {
	v, err := parseValue(text)
	if err != nil {
		return Errorf(Invalid, "a grant is not valid JSON").Because(err)
	}
	parsed := Grant{}
	if v.kind == '"' {
		parsed, err = ParseGrant(v.text)
	} else {
		parsed, err = grantOf(&v)
	}
	if err != nil {
		return err
	}
	*g = parsed
	return nil
}

func (w Where) append(b []byte) []byte {
	b = append(b, '{')
	for i, c := range w.conditions {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendString(b, c.name), ':')
		b = c.is.append(b)
	}
	return append(b, '}')
}

func (c constraint) append(b []byte) []byte {
	b = append(b, '{')
	for i := range c {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendString(b, string(c[i].op)), ':')
		b = c[i].append(b)
	}
	return append(b, '}')
}

// append writes t's operand.
func (t *test) append(b []byte) []byte {
	switch t.op {
	case opEquals:
		return t.set[0].append(b)
	case opIn, opNotIn:
		list := value{kind: '[', items: t.set}
		return list.append(b)
	case opMin, opMax:
		return append(b, t.limit.String()...)
	case opPrefix, opPattern:
		return appendString(b, t.text)
	case opMaxLength, opMaxItems:
		return strconv.AppendInt(b, t.count, 10)
	case opAbsent:
		return strconv.AppendBool(b, t.yes)
	}
	if t.each {
		return t.parts[0].append(b)
	}
	b = append(b, '[')
	for i, part := range t.parts {
		if i > 0 {
			b = append(b, ',')
		}
		b = part.append(b)
	}
	return append(b, ']')
}
