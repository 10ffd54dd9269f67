package mayfly

import "testing"

// An approval is bound to this form: what means the same has one, and a number
// keeps every digit.
func TestCanonicalArguments(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{``, `{}`},
		{` { "b" : 1 , "a" : [ 2 , { "z":null, "y":true } ] } `, `{"a":[2,{"y":true,"z":null}],"b":1}`},
		{`{"n":12345678901234567890.123456789012345678901}`, `{"n":12345678901234567890.123456789012345678901}`},
		{`{"n":9007199254740993}`, `{"n":9007199254740993}`},
		{`{"n":1.0}`, `{"n":1.0}`},
		{`{"s":"\u0041\/\n"}`, `{"s":"A/\n"}`},
	} {
		a, err := ParseArguments([]byte(c.in))
		if err != nil {
			t.Fatal(c.in, err)
		}
		got, err := a.Canonical()
		if err != nil || string(got) != c.want {
			t.Errorf("%s is %s, %v; want %s", c.in, got, err, c.want)
		}
	}
}
