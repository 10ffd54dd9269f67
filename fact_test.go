package mayfly_test

import (
	"fmt"
	"math"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"pgregory.net/rapid"

	"github.com/mayfly-id/mayfly"
)

func TestAFactHasTheTypeThatWasDeclared(t *testing.T) {
	long := `"` + strings.Repeat("x", 5000) + `"`
	for _, tt := range []struct {
		typ  mayfly.FactType
		json string
		want string // as JSON; "" is refused
	}{
		{mayfly.FactString, `"a\u0000ü"`, `"a\u0000ü"`},
		{mayfly.FactString, `""`, `""`},
		{mayfly.FactString, long, ""},
		{mayfly.FactString, `1`, ""},
		{mayfly.FactString, `null`, ""},
		{mayfly.FactString, `["a"]`, ""},
		{mayfly.FactDecimal, `200`, `{"decimal":"200"}`},
		{mayfly.FactDecimal, `200.50`, `{"decimal":"200.5"}`},
		{mayfly.FactDecimal, `-0.0001`, `{"decimal":"-0.0001"}`},
		{mayfly.FactDecimal, `-0`, `{"decimal":"0"}`},
		{mayfly.FactDecimal, `2.5e3`, `{"decimal":"2500"}`},
		{mayfly.FactDecimal, `1.00000`, `{"decimal":"1"}`},
		{mayfly.FactDecimal, `0.00001`, ""},
		{mayfly.FactDecimal, `1e-5`, ""},
		{mayfly.FactDecimal, `922337203685477.5807`, `{"decimal":"922337203685477.5807"}`},
		{mayfly.FactDecimal, `922337203685477.5808`, ""},
		{mayfly.FactDecimal, `-922337203685477.5808`, `{"decimal":"-922337203685477.5808"}`},
		{mayfly.FactDecimal, `-922337203685477.5809`, ""},
		{mayfly.FactDecimal, `1e999999`, ""},
		{mayfly.FactDecimal, `1e9999999999`, ""},
		{mayfly.FactDecimal, `"1.5"`, ""},
		{mayfly.FactDecimal, `null`, ""},
		{mayfly.FactLong, `12`, `12`},
		{mayfly.FactLong, `12.0`, `12`},
		{mayfly.FactLong, `1.5`, ""},
		{mayfly.FactLong, `9007199254740993`, `{"long":"9007199254740993"}`},
		{mayfly.FactLong, `9223372036854775807`, `{"long":"9223372036854775807"}`},
		{mayfly.FactLong, `9223372036854775808`, ""},
		{mayfly.FactLong, `-9223372036854775808`, `{"long":"-9223372036854775808"}`},
		{mayfly.FactLong, `-9223372036854775809`, ""},
		{mayfly.FactLong, `true`, ""},
		{mayfly.FactBool, `true`, `true`},
		{mayfly.FactBool, `false`, `false`},
		{mayfly.FactBool, `0`, ""},
		{mayfly.FactBool, `"true"`, ""},
		{mayfly.FactStrings, `[]`, `[]`},
		{mayfly.FactStrings, `["b","a","b"]`, `["a","b"]`},
		{mayfly.FactStrings, `["a",1]`, ""},
		{mayfly.FactStrings, `["a",null]`, ""},
		{mayfly.FactStrings, `[` + long + `]`, ""},
		{mayfly.FactStrings, `"a"`, ""},
		{mayfly.FactStrings, `{}`, ""},
		{"", `1`, ""},
		{"float", `1`, ""},
	} {
		call := mayfly.Call{Arguments: arguments(t, `{"a":`+tt.json+`}`)}
		facts, err := mayfly.ReadFacts([]mayfly.Fact{{Name: "a", Type: tt.typ}}, &call)
		soft, softErr := mayfly.ReadFacts([]mayfly.Fact{{Name: "a", Type: tt.typ, Soft: true}}, &call)
		if softErr != nil {
			t.Errorf("soft %s %.40s: %v", tt.typ, tt.json, softErr)
		}
		if tt.want == "" {
			if err == nil || mayfly.KindOf(err) != mayfly.Invalid || !strings.Contains(err.Error(), "the argument a ") {
				t.Errorf("%s %.40s: %v, %v, want it refused by name", tt.typ, tt.json, facts, err)
			}
			if len(soft) != 0 {
				t.Errorf("soft %s %.40s = %v, want it left out", tt.typ, tt.json, soft)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s %s: %v", tt.typ, tt.json, err)
			continue
		}
		for _, v := range []mayfly.FactValue{facts["a"], soft["a"]} {
			if got, err := json.Marshal(v); err != nil || string(got) != tt.want {
				t.Errorf("%s %s = %s, %v, want %s", tt.typ, tt.json, got, err, tt.want)
			}
		}
	}
}

func TestAFactIsFoundByNameOrPointer(t *testing.T) {
	call := mayfly.Call{Arguments: arguments(t, `{"a":1,"to":{"bank/x":[{"id":"de"}]},"deep":{"n":1e9999999999}}`)}
	facts, err := mayfly.ReadFacts([]mayfly.Fact{
		{Name: "a", Type: mayfly.FactLong},
		{Name: "/to/bank~1x/0/id", Type: mayfly.FactString},
		{Name: "missing", Type: mayfly.FactString},
		{Name: "/to/other", Type: mayfly.FactString},
	}, &call)
	if err != nil || len(facts) != 2 || facts["/to/bank~1x/0/id"].String != "de" {
		t.Errorf("%v, %v", facts, err)
	}
	// Nothing is known of what cannot be read, not even that it is missing.
	deep := mayfly.Fact{Name: "/deep/other", Type: mayfly.FactString}
	if facts, err := mayfly.ReadFacts([]mayfly.Fact{deep}, &call); err == nil {
		t.Errorf("an argument that cannot be read gave %v", facts)
	}
	raw := mayfly.Call{NoArguments: true}
	if facts, err := mayfly.ReadFacts([]mayfly.Fact{deep}, &raw); err == nil {
		t.Errorf("a body that cannot be read gave %v", facts)
	}
	deep.Soft = true
	for _, c := range []*mayfly.Call{&call, &raw} {
		if facts, err := mayfly.ReadFacts([]mayfly.Fact{deep}, c); err != nil || len(facts) != 0 {
			t.Errorf("soft: %v, %v", facts, err)
		}
	}
}

func TestParseFact(t *testing.T) {
	for _, c := range []struct{ name, typ, want string }{
		{"amount", "decimal", "amount"}, {"/amount", "", "amount"}, {"/to/iban", "string", "/to/iban"}, {"query.q", "strings", "query.q"},
		{"", "long", ""}, {"/a~2", "long", ""}, {"amount", "float", ""}, {"amount", "Long", ""}, {strings.Repeat("x", 129), "long", ""},
	} {
		f, err := mayfly.ParseFact(c.name, mayfly.FactType(c.typ))
		if f.Name != c.want || f.Type != mayfly.FactType(c.typ) && c.want != "" || f.Soft || (err == nil) != (c.want != "") {
			t.Errorf("%q %q = %+v, %v", c.name, c.typ, f, err)
		}
	}
}

func drawFact(t *rapid.T) mayfly.FactValue {
	switch v := (mayfly.FactValue{Type: rapid.SampledFrom([]mayfly.FactType{
		mayfly.FactString, mayfly.FactDecimal, mayfly.FactLong, mayfly.FactBool, mayfly.FactStrings,
	}).Draw(t, "type")}); v.Type {
	case mayfly.FactString:
		v.String = rapid.StringN(0, 40, -1).Draw(t, "text")
		return v
	case mayfly.FactDecimal:
		v.Decimal = rapid.OneOf(rapid.Int64(), rapid.SampledFrom([]int64{math.MinInt64, math.MaxInt64})).Draw(t, "decimal")
		return v
	case mayfly.FactLong:
		v.Long = rapid.OneOf(rapid.Int64(), rapid.SampledFrom([]int64{math.MinInt64, math.MaxInt64})).Draw(t, "long")
		return v
	case mayfly.FactBool:
		v.Bool = rapid.Bool().Draw(t, "bool")
		return v
	default:
		list := rapid.SliceOfN(rapid.StringN(0, 10, -1), 0, 5).Draw(t, "texts")
		slices.Sort(list)
		v.Strings = slices.Compact(list)
		return v
	}
}

func TestAFactReadsBackAsItWas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := drawFact(t)
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatalf("%+v: %v", v, err)
		}
		var again mayfly.FactValue
		if err := json.Unmarshal(text, &again); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if again.Type != v.Type || again.String != v.String || again.Decimal != v.Decimal || again.Long != v.Long ||
			again.Bool != v.Bool || !slices.Equal(again.Strings, v.Strings) {
			t.Fatalf("%+v was written as %s and read as %+v", v, text, again)
		}
	})
}

func TestAFactThatWasNotWrittenByUsIsNotRead(t *testing.T) {
	for _, text := range []string{
		`null`, `1.5`, `["b","a"]`, `["a","a"]`, `["a",1]`, `{}`, `{"decimal":1.5}`, `{"decimal":"1.50"}`, `{"decimal":"+1"}`,
		`{"decimal":"1e2"}`, `{"decimal":"0.00001"}`, `{"decimal":"1","long":"2"}`, `{"decimal":"1","x":1}`, `{"long":"12"}`,
		`{"long":12}`, `{"long":"9223372036854775808"}`, `9223372036854775808`, `{"decimal":""}`, `"a" 1`,
	} {
		var v mayfly.FactValue
		if err := json.Unmarshal([]byte(text), &v); err == nil {
			t.Errorf("%s was read as %+v", text, v)
		}
	}
	if text, err := json.Marshal(mayfly.FactValue{}); err == nil {
		t.Errorf("no fact was written as %s", text)
	}
}

// TestFactsNeverLoseADigit holds every number that is read against exact
// arithmetic: it is worth exactly what was written, or refused.
func TestFactsNeverLoseADigit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`-?(0|[1-9][0-9]{0,19})(\.[0-9]{1,6})?([eE][+-]?[0-9]{1,2})?`).Draw(t, "number")
		exact, ok := new(big.Rat).SetString(text)
		if !ok {
			t.Fatalf("%s is not a number", text)
		}
		a, err := mayfly.ParseArguments([]byte(`{"a":` + text + `}`))
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		call := mayfly.Call{Arguments: a}
		for typ, scale := range map[mayfly.FactType]int64{mayfly.FactLong: 1, mayfly.FactDecimal: 10_000} {
			scaled := new(big.Rat).Mul(exact, new(big.Rat).SetInt64(scale))
			fits := scaled.IsInt() && scaled.Num().IsInt64()
			facts, err := mayfly.ReadFacts([]mayfly.Fact{{Name: "a", Type: typ}}, &call)
			if fits != (err == nil) {
				t.Fatalf("%s as a %s: %v, fits %v", text, typ, err, fits)
			}
			if v := facts["a"]; fits && v.Long+v.Decimal != scaled.Num().Int64() {
				t.Fatalf("%s as a %s is %+v", text, typ, v)
			}
			if fits && typ == mayfly.FactDecimal {
				if again, ok := new(big.Rat).SetString(mayfly.FormatDecimal(facts["a"].Decimal)); !ok || again.Cmp(exact) != 0 {
					t.Fatalf("%s is written %s", text, mayfly.FormatDecimal(facts["a"].Decimal))
				}
			}
		}
	})
}

func TestFormatDecimal(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0", 1: "0.0001", -1: "-0.0001", 10_000: "1", -15_000: "-1.5", 20_000_000: "2000", 123_456: "12.3456",
		math.MaxInt64: "922337203685477.5807", math.MinInt64: "-922337203685477.5808",
	} {
		if got := mayfly.FormatDecimal(n); got != want {
			t.Errorf("%d = %s, want %s", n, got, want)
		}
	}
}

func FuzzReadFacts(f *testing.F) {
	for _, s := range []string{`{}`, `{"a":1}`, `{"a":{"b":[1,"x",null]},"c":1e400}`, `{"a":["x","y"]}`, `{"a":-0.00010}`, `{"a":{"decimal":"1.5"}}`} {
		f.Add([]byte(s), "a")
		f.Add([]byte(s), "/a/b/0")
	}
	f.Fuzz(func(t *testing.T, text []byte, name string) {
		a, err := mayfly.ParseArguments(text)
		if err != nil {
			return
		}
		call := mayfly.Call{Arguments: a}
		for _, typ := range []mayfly.FactType{mayfly.FactString, mayfly.FactDecimal, mayfly.FactLong, mayfly.FactBool, mayfly.FactStrings, "x"} {
			soft, err := mayfly.ReadFacts([]mayfly.Fact{{Name: name, Type: typ, Soft: true}}, &call)
			if err != nil {
				t.Fatalf("soft: %v", err)
			}
			hard, err := mayfly.ReadFacts([]mayfly.Fact{{Name: name, Type: typ}}, &call)
			if err != nil && len(soft) > 0 || err == nil && fmt.Sprint(soft) != fmt.Sprint(hard) {
				t.Fatalf("%s: soft %v, declared %v, %v", text, soft, hard, err)
			}
			written, err := json.Marshal(hard)
			if err != nil {
				t.Fatalf("%v cannot be written: %v", hard, err)
			}
			var again mayfly.Facts
			if err := json.Unmarshal(written, &again); err != nil || fmt.Sprint(again) != fmt.Sprint(hard) {
				t.Fatalf("%s was read as %v, %v, want %v", written, again, err, hard)
			}
		}
	})
}

func FuzzFactValue(f *testing.F) {
	for _, s := range []string{`"x"`, `true`, `12`, `{"decimal":"1.5"}`, `["a"]`, `{"long":"9007199254740993"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var v, again mayfly.FactValue
		if v.UnmarshalJSON(text) != nil {
			return
		}
		out, err := v.MarshalJSON()
		if err != nil {
			t.Fatalf("%s cannot be written: %v", text, err)
		}
		if err := again.UnmarshalJSON(out); err != nil || fmt.Sprint(v) != fmt.Sprint(again) {
			t.Fatalf("%s was read as %+v, %v, want %+v", out, again, err, v)
		}
	})
}

func BenchmarkReadFacts(b *testing.B) {
	call := mayfly.Call{Arguments: arguments(b, `{"amount":120.5,"vendor":"globex","to":{"iban":"DE02"},"note":""}`)}
	facts := []mayfly.Fact{
		{Name: "amount", Type: mayfly.FactDecimal}, {Name: "vendor", Type: mayfly.FactString}, {Name: "/to/iban", Type: mayfly.FactString},
	}
	b.ReportAllocs()
	for b.Loop() {
		if read, err := mayfly.ReadFacts(facts, &call); err != nil || len(read) != 3 {
			b.Fatal(read, err)
		}
	}
}
