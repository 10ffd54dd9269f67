package mayfly

import (
	"github.com/go-json-experiment/json/jsontext"
)

// Canonical is a as one JSON object in one spelling: members sorted, no white
// space, strings with the fewest escapes (RFC 8785), but numbers as they came,
// digit for digit. Two calls with one canonical form mean the same; 1 and 1.0
// are two.
func (a Arguments) Canonical() (jsontext.Value, error) {
	object := []byte{'{'}
	for i := range a.list {
		if i > 0 {
			object = append(object, ',')
		}
		var err error
		if object, err = jsontext.AppendQuote(object, a.list[i].name); err != nil {
			return nil, Errorf(Invalid, "the name of an argument is not valid UTF-8").Because(err)
		}
		object = append(object, ':')
		object = append(object, a.list[i].text...)
	}
	v := jsontext.Value(append(object, '}'))
	err := v.Format(jsontext.ReorderRawObjects(true), jsontext.CanonicalizeRawInts(false), jsontext.CanonicalizeRawFloats(false))
	if err != nil {
		return nil, Errorf(Invalid, "the arguments are not valid JSON").Because(err)
	}
	return v, nil
}
