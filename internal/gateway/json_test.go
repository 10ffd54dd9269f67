package gateway

import (
	"bytes"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"
)

// Taking an object apart finds what a decoder finds, and putting it together
// again changes nothing.
func FuzzMembers(f *testing.F) {
	for _, s := range []string{
		`{}`, ` { } `, `{"a":1}`, `{ "a" : [1, "]", {"}":"\""}] , "b\u0000\"" :null,"c":-1.5e3 }`, `{"a":{"b":{}},"c":"\\"}`, `{"é":true}`, `{"\ud83d\ude00":0}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if v := jsontext.Value(data); !v.IsValid() || v.Kind() != '{' {
			return
		}
		want := map[string]jsontext.Value{}
		if err := json.Unmarshal(data, &want); err != nil {
			return
		}
		got := map[string]jsontext.Value{}
		members(data, func(name []byte, v jsontext.Value) { got[string(name)] = bytes.Clone(v) })
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
		whole := rebuild(data, func(_ []byte, v jsontext.Value) jsontext.Value { return v })
		if err := canonical(t, data).diff(canonical(t, whole)); err != "" {
			t.Fatal(err)
		}
		if _, has := want["mayfly"]; has {
			return
		}
		more := withMember(data, "mayfly", jsontext.Value("1"))
		want["mayfly"] = jsontext.Value("1")
		got = map[string]jsontext.Value{}
		if err := json.Unmarshal(more, &got); err != nil {
			t.Fatalf("%s: %v", more, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
	})
}

type text8785 []byte

func (a text8785) diff(b text8785) string { return cmp.Diff(string(a), string(b)) }

func canonical(t *testing.T, data []byte) text8785 {
	v := jsontext.Value(bytes.Clone(data))
	if err := v.Canonicalize(); err != nil {
		t.Fatalf("%s: %v", data, err)
	}
	return text8785(v)
}

func FuzzElements(f *testing.F) {
	f.Add([]byte(`[]`))
	f.Add([]byte(`[ 1 ,"]", [2], {"a":"}"} ]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if v := jsontext.Value(data); !v.IsValid() || v.Kind() != '[' {
			return
		}
		var want, got []jsontext.Value
		if err := json.Unmarshal(data, &want); err != nil {
			t.Fatal(err)
		}
		elements(data, func(v jsontext.Value) { got = append(got, bytes.Clone(v)) })
		if len(want) != len(got) {
			t.Fatalf("%s: got %d elements, want %d", data, len(got), len(want))
		}
		for i := range want {
			if !bytes.Equal(want[i], got[i]) {
				t.Fatalf("element %d is %s, want %s", i, got[i], want[i])
			}
		}
	})
}
