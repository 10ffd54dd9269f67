package mayfly

import (
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// FactType is the type that a fact has in policies.
type FactType string

// The types of facts. Each is a type of Cedar's; a decimal has at most four
// decimals, a long is a whole number of 64 bits.
const (
	FactString  FactType = "string"
	FactDecimal FactType = "decimal"
	FactLong    FactType = "long"
	FactBool    FactType = "bool"
	FactStrings FactType = "strings" // a set of strings
)

// Fact is one argument that policies may see and records keep.
type Fact struct {
	Name string // a top-level name or JSON Pointer, as in a [Where]
	Type FactType
	// Soft is a fact that no one declared, but a grant names: where a call's
	// argument is of another type it is left out. A declared one refuses the call.
	Soft bool
}

// factTypes are all types, in the order in which they are named to people.
var factTypes = []FactType{FactString, FactDecimal, FactLong, FactBool, FactStrings}

// ParseFact is a declared fact by the name of its argument and its type, which
// may be "" where the tool's schema is to say it. The error is of kind Invalid.
func ParseFact(name string, t FactType) (Fact, error) {
	path, err := parsePath(name)
	if err != nil || len(name) > 128 {
		return Fact{}, Errorf(Invalid, "%q is neither the name of an argument nor a JSON Pointer", name)
	}
	if t != "" && !slices.Contains(factTypes, t) {
		return Fact{}, Errorf(Invalid, "%q is not the type of a fact; there are string, decimal, long, bool and strings", t)
	}
	return Fact{Name: pathName(path), Type: t}, nil
}

// Facts are the declared arguments of one call, by name.
type Facts map[string]FactValue

// FactValue is one fact. Exactly the field that Type names is set.
type FactValue struct {
	Type    FactType
	String  string
	Decimal int64 // in ten-thousandths
	Long    int64
	Bool    bool
	Strings []string // sorted, each once
}

// maxFact is the longest text of a fact, and of all texts of a set together, in
// bytes: a fact is kept with every decision.
const maxFact = 4096

// ReadFacts reads facts from c's arguments, without loss or not at all. An
// argument that is not there is no fact. The error, of kind Invalid, names an
// argument that is declared and that its type cannot hold, or that cannot be
// read: nothing may be concluded from it. A soft one is left out then.
func ReadFacts(facts []Fact, c *Call) (Facts, error) {
	var read Facts
	for i := range facts {
		f := &facts[i]
		v, why := f.read(c)
		switch {
		case why != "" && f.Soft:
		case why != "":
			return nil, Errorf(Invalid, "the argument %s %s", f.Name, why)
		case v.Type != "":
			if read == nil {
				read = make(Facts, len(facts))
			}
			read[f.Name] = v
		}
	}
	return read, nil
}

// read is the fact that f is in c, or the zero value, and what is wrong with it.
func (f *Fact) read(c *Call) (FactValue, string) {
	if c.NoArguments {
		return FactValue{}, "cannot be read from this body; send a JSON object"
	}
	path, err := parsePath(f.Name)
	if err != nil {
		return FactValue{}, "has a name that cannot be read"
	}
	v, readable := c.Arguments.lookup(path)
	if !readable {
		return FactValue{}, "cannot be read; send simpler values"
	}
	if v == nil {
		return FactValue{}, ""
	}
	return f.Type.of(v)
}

// of is v as a fact of type t, or what v must be for that.
func (t FactType) of(v *value) (FactValue, string) {
	is := FactValue{Type: t}
	switch t {
	case FactString:
		if v.kind != '"' || len(v.text) > maxFact {
			return FactValue{}, "must be text of at most " + strconv.Itoa(maxFact) + " bytes"
		}
		is.String = v.text
	case FactDecimal:
		n, ok := v.number.scaled(decimalPlaces)
		if v.kind != '0' || !ok {
			return FactValue{}, "must be a number with at most four decimals, within ±922337203685477"
		}
		is.Decimal = n
	case FactLong:
		n, ok := v.number.scaled(0)
		if v.kind != '0' || !ok {
			return FactValue{}, "must be a whole number of 64 bits"
		}
		is.Long = n
	case FactBool:
		if v.kind != 't' && v.kind != 'f' {
			return FactValue{}, "must be true or false"
		}
		is.Bool = v.kind == 't'
	case FactStrings:
		size := 0
		for i := range v.items {
			if size += len(v.items[i].text); v.items[i].kind != '"' {
				size = maxFact + 1
				break
			}
			is.Strings = append(is.Strings, v.items[i].text)
		}
		if v.kind != '[' || size > maxFact || len(v.items) > maxFact {
			return FactValue{}, "must be a list of text, of at most " + strconv.Itoa(maxFact) + " bytes together"
		}
		slices.Sort(is.Strings)
		is.Strings = slices.Compact(is.Strings)
	default:
		return FactValue{}, "has no type: neither the configuration nor the tool's schema says what it is"
	}
	return is, ""
}

// Facts are the arguments that w is about, each with the type that its
// conditions can hold for; sorted, all soft. One that they say no type of, or
// several, is left out. A number is a decimal.
func (w Where) Facts() []Fact {
	var facts []Fact
	for _, c := range w.conditions {
		if t := c.is.factType(); t != "" && t != mixed {
			facts = append(facts, Fact{Name: c.name, Type: t, Soft: true})
		}
	}
	return facts
}

// mixed stands for a value that may be of several types.
const mixed FactType = "mixed"

// both is the type of what is of type t and of type o; "" says nothing.
func (t FactType) both(o FactType) FactType {
	switch {
	case t == "" || t == o:
		return o
	case o == "":
		return t
	default:
		return mixed
	}
}

func (c constraint) factType() FactType {
	var t FactType
	for i := range c {
		t = t.both(c[i].factType())
	}
	return t
}

func (t *test) factType() FactType {
	switch t.op {
	case opMin, opMax:
		return FactDecimal
	case opPrefix, opPattern, opMaxLength:
		return FactString
	case opMaxItems:
		return FactStrings
	case opEquals, opIn, opNotIn:
		var of FactType
		for i := range t.set {
			of = of.both(factTypeOf(&t.set[i]))
		}
		return of
	case opAll, opAny:
		var of FactType
		for _, part := range t.parts {
			of = of.both(part.factType())
		}
		if t.each && of != FactString {
			return mixed
		}
		if t.each {
			return FactStrings
		}
		return of
	default:
		return ""
	}
}

// factTypeOf is the type of fact that can hold v.
func factTypeOf(v *value) FactType {
	switch v.kind {
	case '"':
		return FactString
	case '0':
		return FactDecimal
	case 't', 'f':
		return FactBool
	case '[':
		for i := range v.items {
			if v.items[i].kind != '"' {
				return mixed
			}
		}
		return FactStrings
	case 'n':
		return "" // no fact is null
	default:
		return mixed
	}
}

// Describe is v for a person.
func (v FactValue) Describe() string {
	switch v.Type {
	case FactString:
		return v.String
	case FactDecimal:
		return FormatDecimal(v.Decimal)
	case FactLong:
		return strconv.FormatInt(v.Long, 10)
	case FactBool:
		return strconv.FormatBool(v.Bool)
	default:
		return strings.Join(v.Strings, ", ")
	}
}

// MarshalJSON writes text, true, a whole number and a list of text as they are,
// and a decimal as {"decimal":"1.5"}, since a JSON number has no type. A whole
// number that not every reader can hold is {"long":"9007199254740993"}.
func (v FactValue) MarshalJSON() ([]byte, error) {
	switch v.Type {
	case FactString:
		return jsontext.AppendQuote(nil, v.String)
	case FactDecimal:
		return []byte(`{"decimal":"` + FormatDecimal(v.Decimal) + `"}`), nil
	case FactLong:
		if v.Long > maxSafeInteger || v.Long < -maxSafeInteger {
			return []byte(`{"long":"` + strconv.FormatInt(v.Long, 10) + `"}`), nil
		}
		return strconv.AppendInt(nil, v.Long, 10), nil
	case FactBool:
		return strconv.AppendBool(nil, v.Bool), nil
	case FactStrings:
		b := []byte{'['}
		for i, s := range v.Strings {
			if i > 0 {
				b = append(b, ',')
			}
			var err error
			if b, err = jsontext.AppendQuote(b, s); err != nil {
				return nil, err
			}
		}
		return append(b, ']'), nil
	default:
		return nil, Errorf(Invalid, "a fact of type %q cannot be written", v.Type)
	}
}

// UnmarshalJSON reads what MarshalJSON writes and nothing else. The error is of
// kind Invalid.
func (v *FactValue) UnmarshalJSON(text []byte) error {
	bad := Errorf(Invalid, "a fact cannot be read")
	parsed, err := parseValue(text)
	if err != nil {
		return bad.Because(err)
	}
	var is FactValue
	why := ""
	switch parsed.kind {
	case '"':
		is, why = FactString.of(&parsed)
	case '0':
		is, why = FactLong.of(&parsed)
	case 't', 'f':
		is, why = FactBool.of(&parsed)
	case '[':
		is, why = FactStrings.of(&parsed)
	case '{':
		for _, t := range []FactType{FactDecimal, FactLong} {
			m := parsed.member(string(t))
			if m == nil || m.kind != '"' {
				continue
			}
			if n, ok := parseDecimal(m.text); ok {
				is, why = t.of(&value{kind: '0', number: n})
			}
		}
	}
	if is.Type == "" || why != "" {
		return bad
	}
	again, err := is.MarshalJSON()
	if err != nil {
		return bad.Because(err)
	}
	// One spelling, so that what is read back is what was decided on.
	if canonical, err := parseValue(again); err != nil || !canonical.equal(&parsed) {
		return bad
	}
	*v = is
	return nil
}
