package strictjson_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/strictjson"
)

func nested(depth int) string {
	return strings.Repeat("[", depth) + strings.Repeat("]", depth)
}

func manyStrings(n int) string {
	return "[" + strings.TrimSuffix(strings.Repeat(`"a",`, n), ",") + "]"
}

func manyMembers(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `,"%x":0`, i)
	}
	return "{" + b.String()[1:] + "}"
}

// documents are what parsers are known to disagree about.
var documents = []struct {
	name string
	text string
	want mayfly.Kind // 0 is accepted
}{
	{"an object", `{"a":1,"b":[true,null,"x",-0.5e3]}`, 0},
	{"a scalar", `7`, 0},
	{"white space around", " {\"a\" :\t1 }\r\n", 0},
	{"names that differ in case", `{"name":1,"Name":2}`, 0}, // two members; which is which is the decoder's rule
	{"nothing", ``, mayfly.Invalid},
	{"only white space", `  `, mayfly.Invalid},
	{"a name twice", `{"name":1,"name":1}`, mayfly.Invalid},
	{"a name twice, once escaped", `{"name":1,"n\u0061me":1}`, mayfly.Invalid},
	{"a name twice, deep", `{"a":[{"b":{"c":1,"d":2,"c":3}}]}`, mayfly.Invalid},
	{"trailing object", `{} {}`, mayfly.Invalid},
	{"trailing letter", `{}x`, mayfly.Invalid},
	{"trailing comma", `{"a":1,}`, mayfly.Invalid},
	{"byte order mark", "\xef\xbb\xbf{}", mayfly.Invalid},
	{"invalid UTF-8", "{\"a\":\"\xff\"}", mayfly.Invalid},
	{"invalid UTF-8 in a name", "{\"\xc0\xaf\":1}", mayfly.Invalid},
	{"lone surrogate", `{"a":"\ud800"}`, mayfly.Invalid},
	{"NUL in a string", "{\"a\":\"\x00\"}", mayfly.Invalid},
	{"newline in a string", "{\"a\":\"\n\"}", mayfly.Invalid},
	{"comment", `{/*a*/}`, mayfly.Invalid},
	{"single quotes", `{'a':1}`, mayfly.Invalid},
	{"NaN", `{"a":NaN}`, mayfly.Invalid},
	{"infinity", `{"a":Infinity}`, mayfly.Invalid},
	{"leading zero", `{"a":01}`, mayfly.Invalid},
	{"plus sign", `{"a":+1}`, mayfly.Invalid},
	{"number that overflows", `{"a":1e999}`, mayfly.Invalid},
	{"largest integer", `[9007199254740991,-9007199254740991]`, 0},
	{"integer too large", `9007199254740992`, mayfly.Invalid},
	{"integer too small", `-9007199254740992`, mayfly.Invalid},
	{"integer too large, with an exponent", `1e20`, mayfly.Invalid},
	{"integer too large, with a fraction", `9007199254740992.0`, mayfly.Invalid},
	{"digits in a string are no number", `"99999999999999999999"`, 0},
	{"digits in a name are no number", `{"99999999999999999999":1}`, 0},
	{"fraction", `0.1000000000000000055511151231257827`, 0},
	{"depth 32", nested(32), 0},
	{"depth 33", nested(33), mayfly.Invalid},
	{"brackets in a string are no depth", `"` + strings.Repeat("[{", 100) + `"`, 0},
	{"escaped quote before brackets", `"\"` + strings.Repeat("[", 100) + `"`, 0},
	{"1,000 strings", manyStrings(1000), 0},
	{"1,001 strings", manyStrings(1001), mayfly.Invalid},
	{"name of 128 bytes", `{"` + strings.Repeat("n", 128) + `":1}`, 0},
	{"name of 129 bytes", `{"` + strings.Repeat("n", 129) + `":1}`, mayfly.Invalid},
	{"name of 129 bytes, space before the colon", `{"` + strings.Repeat("n", 129) + "\" \n:1}", mayfly.Invalid},
	{"10,000 members", manyMembers(10_000), 0},
	{"10,001 members", manyMembers(10_001), mayfly.Invalid},
	{"10,001 members in two objects", "[" + manyMembers(10_000) + `,{"a":{"b":1}}]`, 0},
	{"string of 129 bytes", `["` + strings.Repeat("n", 129) + `"]`, 0},
	{"1 MiB", `"` + strings.Repeat("a", 1<<20-2) + `"`, 0},
	{"1 MiB and a byte", `"` + strings.Repeat("a", 1<<20-1) + `"`, mayfly.TooLarge},
}

func TestOnlyDocumentsEverybodyReadsAlikeAreAccepted(t *testing.T) {
	for _, d := range documents {
		t.Run(d.name, func(t *testing.T) {
			err := strictjson.Check([]byte(d.text), strictjson.Ours)
			refusedAs(t, "Check", err, d.want)
			_, err = strictjson.Canonical([]byte(d.text), strictjson.Ours)
			refusedAs(t, "Canonical", err, d.want)
			var v any
			refusedAs(t, "Unmarshal", strictjson.Unmarshal([]byte(d.text), strictjson.Ours, &v), d.want)
			v = nil
			refusedAs(t, "UnmarshalLenient", strictjson.UnmarshalLenient([]byte(d.text), strictjson.Ours, &v), d.want)
		})
	}
}

func refusedAs(t *testing.T, what string, err error, want mayfly.Kind) {
	t.Helper()
	if want == 0 {
		if err != nil {
			t.Errorf("%s refused it: %v", what, err)
		}
		return
	}
	if err == nil {
		t.Errorf("%s accepted it", what)
		return
	}
	var ours *mayfly.Error
	if !errors.As(err, &ours) || ours.Kind != want {
		t.Errorf("%s: got %v, want kind %v", what, err, want)
	}
}

type person struct {
	Name string `json:"name"`
	Age  int    `json:"age"`
}

func TestDecodingNeverGuesses(t *testing.T) {
	for _, c := range []struct {
		name, text      string
		strict, lenient bool // accepted
	}{
		{"as declared", `{"name":"a","age":1}`, true, true},
		{"a member of another case", `{"name":"a","NAME":"admin"}`, false, true},
		{"an unknown member", `{"name":"a","x":1}`, false, true},
		{"a duplicate of a known member", `{"name":"a","name":"b"}`, false, false},
		{"a duplicate of an unknown member", `{"x":1,"x":1}`, false, false},
		{"a duplicate inside an unknown member", `{"x":{"y":1,"y":1}}`, false, false},
		{"a fraction for an integer", `{"age":2.5}`, false, false},
		{"a string for an integer", `{"age":"2"}`, false, false},
	} {
		var p person
		if err := strictjson.Unmarshal([]byte(c.text), strictjson.Ours, &p); (err == nil) != c.strict {
			t.Errorf("%s: Unmarshal gave %v", c.name, err)
		}
		p = person{}
		if err := strictjson.UnmarshalLenient([]byte(c.text), strictjson.Ours, &p); (err == nil) != c.lenient {
			t.Errorf("%s: UnmarshalLenient gave %v", c.name, err)
		}
		if p.Name == "admin" {
			t.Errorf("%s: a name of another case was taken", c.name)
		}
	}
}

func TestARefusalSaysWhereAndNeverWhat(t *testing.T) {
	const secret = "hunter2"
	for _, text := range []string{
		`{"name":"` + secret + `","name":"` + secret + `"}`,
		`{"name":["` + secret + `"]}`,
		`{"other":"` + secret + `"}`,
		`{"name":"` + secret + `" "` + secret + `"}`,
	} {
		var p person
		err := strictjson.Unmarshal([]byte(text), strictjson.Ours, &p)
		if err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: got %v", text, err)
		}
	}
	err := strictjson.Unmarshal([]byte(`{"other":1}`), strictjson.Ours, new(person))
	if err == nil || !strings.Contains(err.Error(), "/other") {
		t.Errorf("the refusal %v does not say where", err)
	}
}

// Appendix B and section 3.2.2 of RFC 8785, in short.
func TestCanonicalFormIsRFC8785(t *testing.T) {
	in := []byte(`{"numbers":[333333333.33333329,1E30e0,4.50,2e-3,0.000000000000000000000000001],"b":"\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/","a":[null,true,false]}`)
	in = bytes.Replace(in, []byte("1E30e0,"), nil, 1)
	want := `{"a":[null,true,false],"b":"€$\u000f\nA'B\"\\\\\"/","numbers":[333333333.3333333,4.5,0.002,1e-27]}`
	before := string(in)
	got, err := strictjson.Canonical(in, strictjson.Ours)
	if err != nil || string(got) != want {
		t.Errorf("got %s, %v\nwant %s", got, err, want)
	}
	if string(in) != before {
		t.Error("Canonical changed its argument")
	}
}

func TestMarshalWritesMapsInOrder(t *testing.T) {
	got, err := strictjson.Marshal(map[string]any{"b": 1, "a": "<&>", "c": nil})
	if want := `{"a":"<&>","b":1,"c":null}`; err != nil || string(got) != want {
		t.Errorf("got %s, %v; want %s", got, err, want)
	}
}

func TestCanonicalFormIsCanonical(t *testing.T) {
	value := rapid.Custom(func(t *rapid.T) any { return draw(t, 4) })
	rapid.Check(t, func(t *rapid.T) {
		text, err := json.MarshalIndent(value.Draw(t, "value"), " ", "\t")
		if err != nil {
			t.Fatal(err)
		}
		stable(t, text)
	})
}

func draw(t *rapid.T, depth int) any {
	kinds := 5
	if depth > 0 {
		kinds = 7
	}
	switch rapid.IntRange(0, kinds-1).Draw(t, "kind") {
	case 0:
		return nil
	case 1:
		return rapid.Bool().Draw(t, "bool")
	case 2:
		return rapid.Int64Range(-1<<53+1, 1<<53-1).Draw(t, "int")
	case 3:
		return rapid.Float64Range(-1e15, 1e15).Draw(t, "float")
	case 4:
		return rapid.String().Draw(t, "string")
	case 5:
		var list []any
		for range rapid.IntRange(0, 4).Draw(t, "length") {
			list = append(list, draw(t, depth-1))
		}
		return list
	default:
		object := map[string]any{}
		for range rapid.IntRange(0, 4).Draw(t, "members") {
			object[rapid.StringN(0, 8, 128).Draw(t, "name")] = draw(t, depth-1)
		}
		return object
	}
}

type failer interface{ Fatalf(string, ...any) }

// stable is what must hold of every accepted document: its canonical form is
// accepted, is its own canonical form, and says the same.
func stable(t failer, text []byte) {
	once, err := strictjson.Canonical(text, strictjson.MCP)
	if err != nil {
		t.Fatalf("%q: Canonical: %v", text, err)
	}
	twice, err := strictjson.Canonical(once, strictjson.MCP)
	if err != nil || !bytes.Equal(once, twice) {
		t.Fatalf("%q is canonically %q and that is canonically %q, %v", text, once, twice, err)
	}
	var a, b any
	if err := strictjson.Unmarshal(text, strictjson.MCP, &a); err != nil {
		t.Fatalf("%q: Unmarshal: %v", text, err)
	}
	if err := strictjson.Unmarshal(once, strictjson.MCP, &b); err != nil {
		t.Fatalf("%q: Unmarshal: %v", once, err)
	}
	// Canonically again, because -0 is 0.
	x, y := again(t, a), again(t, b)
	if !bytes.Equal(x, y) {
		t.Fatalf("%q says %s and its canonical form %s", text, x, y)
	}
}

func again(t failer, v any) []byte {
	text, err := strictjson.Marshal(v)
	if err != nil {
		t.Fatalf("%v", err)
	}
	text, err = strictjson.Canonical(text, strictjson.MCP)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return text
}

// FuzzCheck: what is accepted is accepted by the standard parser too, and is
// stable; the same limits hold for every way in.
func FuzzCheck(f *testing.F) {
	for _, d := range documents {
		if len(d.text) < 4096 {
			f.Add([]byte(d.text))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		err := strictjson.Check(data, strictjson.MCP)
		_, canonical := strictjson.Canonical(data, strictjson.MCP)
		var v any
		decoded := strictjson.Unmarshal(data, strictjson.MCP, &v)
		if (err == nil) != (canonical == nil) || (err == nil) != (decoded == nil) {
			t.Fatalf("%q: Check %v, Canonical %v, Unmarshal %v", data, err, canonical, decoded)
		}
		if err != nil {
			return
		}
		if !json.Valid(data) {
			t.Fatalf("%q was accepted and is not JSON", data)
		}
		stable(t, data)
	})
}

func BenchmarkCheckToolCall(b *testing.B) {
	body := []byte(`{"jsonrpc":"2.0","id":17,"method":"tools/call","params":{"name":"create_issue","arguments":{"repo":"acme/billing","title":"Invoice 2231 has no VAT number","labels":["bug","billing"],"body":"` + strings.Repeat("The customer sent the number afterwards. ", 10) + `","priority":3}}}`)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if err := strictjson.Check(body, strictjson.MCP); err != nil {
			b.Fatal(err)
		}
	}
}
