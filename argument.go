package mayfly

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/go-json-experiment/json/jsontext"
)

// Arguments are what a call is asked to be done with: the members of one JSON
// object, numbers as exact decimals. The zero value has none. They do not
// change, and many goroutines may read them.
type Arguments struct{ list []argument }

// argument keeps its text until a grant asks about it: most calls are decided
// without a look at most of their arguments.
type argument struct {
	name string
	text jsontext.Value
	read atomic.Pointer[value]
}

// ParseArguments reads one JSON object. No text at all is no arguments. The
// error is of kind Invalid.
func ParseArguments(object []byte) (Arguments, error) {
	if len(object) == 0 {
		return Arguments{}, nil
	}
	bad := Errorf(Invalid, "the arguments are not one JSON object; send an object")
	d := jsontext.NewDecoder(bytes.NewBuffer(object))
	if t, err := d.ReadToken(); err != nil || t.Kind() != '{' {
		return Arguments{}, bad.Because(err)
	}
	var a Arguments
	for d.PeekKind() != '}' {
		name, err := d.ReadToken()
		if err != nil {
			return Arguments{}, bad.Because(err)
		}
		key := name.String()
		text, err := d.ReadValue()
		if err != nil {
			return Arguments{}, bad.Because(err)
		}
		// A copy of our own: what is decided on must not change under the decision.
		a.list = append(a.list, argument{name: key, text: text.Clone()})
	}
	if _, err := d.ReadToken(); err != nil {
		return Arguments{}, bad.Because(err)
	}
	if _, err := d.ReadToken(); err != io.EOF {
		return Arguments{}, bad.Because(err)
	}
	return a, nil
}

// With is a and one more argument, a string: how query.NAME gets beside the
// members of a body. A name that a has already is refused as Invalid, since two
// readers could take two different ones.
func (a Arguments) With(name, text string) (Arguments, error) {
	quoted, err := jsontext.AppendQuote(nil, text)
	if err != nil {
		return a, Errorf(Invalid, "the argument %q is not valid UTF-8", name)
	}
	more := Arguments{list: make([]argument, 0, len(a.list)+1)}
	for i := range a.list {
		if a.list[i].name == name {
			return a, Errorf(Invalid, "the argument %q is given twice; give it once", name)
		}
		more.list = append(more.list, argument{name: a.list[i].name, text: a.list[i].text})
	}
	more.list = append(more.list, argument{name: name, text: quoted})
	return more, nil
}

// Len is the number of arguments.
func (a Arguments) Len() int { return len(a.list) }

// lookup finds the value at path, which begins with an argument's name and goes
// on as a JSON Pointer does (RFC 6901 section 4); nil where there is none.
// Nothing may be concluded, absence least of all, from what is not readable.
func (a Arguments) lookup(path []string) (v *value, readable bool) {
	for i := range a.list {
		if a.list[i].name != path[0] {
			continue
		}
		v := a.list[i].value()
		if v == nil {
			return nil, false
		}
		for _, step := range path[1:] {
			if v = v.step(step); v == nil {
				return nil, true
			}
		}
		return v, true
	}
	return nil, true
}

// value reads a's text, the first time it is asked for; nil if it cannot be.
func (a *argument) value() *value {
	if v := a.read.Load(); v != nil {
		return v
	}
	v, err := parseValue(a.text)
	if err != nil {
		return nil
	}
	a.read.Store(&v)
	return &v
}

// value is one JSON value.
type value struct {
	kind   jsontext.Kind // n t f " 0 { [
	text   string        // of a string
	number decimal
	items  []value  // of an array or object
	names  []string // of an object, sorted, one for each of items
}

// maxDepth is how deep arguments and the operands of a grant may nest.
const maxDepth = 32

var (
	errTooDeep = errors.New("nested too deeply")
	errNumber  = errors.New("a number that is too large to compare")
)

// parseValue reads text, which must be one JSON value with nothing behind it.
func parseValue(text []byte) (value, error) {
	d := jsontext.NewDecoder(bytes.NewBuffer(text))
	v, err := readValue(d)
	if err != nil {
		return value{}, err
	}
	if _, err := d.ReadToken(); err != io.EOF {
		return value{}, errors.New("more than one value")
	}
	return v, nil
}

func readValue(d *jsontext.Decoder) (value, error) {
	if d.StackDepth() > maxDepth {
		return value{}, errTooDeep
	}
	t, err := d.ReadToken()
	if err != nil {
		return value{}, err
	}
	v := value{kind: t.Kind()}
	switch v.kind {
	case '"':
		v.text = t.String()
	case '0':
		var ok bool
		if v.number, ok = parseDecimal(t.String()); !ok {
			return value{}, errNumber
		}
	case '[':
		for d.PeekKind() != ']' {
			item, err := readValue(d)
			if err != nil {
				return value{}, err
			}
			v.items = append(v.items, item)
		}
		_, err = d.ReadToken()
	case '{':
		for d.PeekKind() != '}' {
			name, err := d.ReadToken()
			if err != nil {
				return value{}, err
			}
			key := name.String()
			item, err := readValue(d)
			if err != nil {
				return value{}, err
			}
			v.names = append(v.names, key)
			v.items = append(v.items, item)
		}
		_, err = d.ReadToken()
		v.sort()
	}
	return v, err
}

// sort puts an object's members in the order of their names.
func (v *value) sort() {
	if slices.IsSorted(v.names) {
		return
	}
	order := make([]int, len(v.names))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return strings.Compare(v.names[a], v.names[b]) })
	names, items := make([]string, len(order)), make([]value, len(order))
	for i, from := range order {
		names[i], items[i] = v.names[from], v.items[from]
	}
	v.names, v.items = names, items
}

// member is the member of this name of an object, or nil.
func (v *value) member(name string) *value {
	if v.kind != '{' {
		return nil
	}
	if i, found := slices.BinarySearch(v.names, name); found {
		return &v.items[i]
	}
	return nil
}

// step follows one reference token of a JSON Pointer.
func (v *value) step(token string) *value {
	if v.kind != '[' {
		return v.member(token)
	}
	i, err := strconv.Atoi(token)
	if err != nil || i < 0 || i >= len(v.items) || strconv.Itoa(i) != token {
		return nil
	}
	return &v.items[i]
}

// equal reports whether v and w are the same value: numbers by what they are
// worth, objects without regard to order.
func (v *value) equal(w *value) bool {
	if v.kind != w.kind || v.text != w.text || v.number != w.number ||
		len(v.items) != len(w.items) || !slices.Equal(v.names, w.names) {
		return false
	}
	for i := range v.items {
		if !v.items[i].equal(&w.items[i]) {
			return false
		}
	}
	return true
}

// append writes v as JSON, always in the same way.
func (v *value) append(b []byte) []byte {
	switch v.kind {
	case 'n':
		return append(b, "null"...)
	case 't':
		return append(b, "true"...)
	case 'f':
		return append(b, "false"...)
	case '0':
		return append(b, v.number.String()...)
	case '"':
		return appendString(b, v.text)
	case '[':
		b = append(b, '[')
		for i := range v.items {
			if i > 0 {
				b = append(b, ',')
			}
			b = v.items[i].append(b)
		}
		return append(b, ']')
	default:
		b = append(b, '{')
		for i := range v.items {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendString(b, v.names[i])
			b = append(b, ':')
			b = v.items[i].append(b)
		}
		return append(b, '}')
	}
}

// appendString writes s, which was read from JSON or checked to be UTF-8.
func appendString(b []byte, s string) []byte {
	quoted, err := jsontext.AppendQuote(b, s)
	if err != nil {
		return append(b, `""`...)
	}
	return quoted
}
