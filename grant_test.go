package mayfly_test

import (
	"strings"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/mayfly-id/mayfly"
)

func short(t testing.TB, s string) mayfly.Grant {
	t.Helper()
	g, err := mayfly.ParseGrant(s)
	if err != nil {
		t.Fatalf("ParseGrant(%q): %v", s, err)
	}
	return g
}

// limited is a grant with the given members after "grant", such as `"budget":{"calls":1}`.
func limited(t testing.TB, s, members string) mayfly.Grant {
	t.Helper()
	text := `{"type":"mayfly_grant","grant":"` + s + `",` + members + `}`
	g, err := mayfly.ParseGrantObject([]byte(text))
	if err != nil {
		t.Fatalf("ParseGrantObject(%s): %v", text, err)
	}
	return g
}

func arguments(t testing.TB, object string) mayfly.Arguments {
	t.Helper()
	a, err := mayfly.ParseArguments([]byte(object))
	if err != nil {
		t.Fatalf("ParseArguments(%s): %v", object, err)
	}
	return a
}

// callOf splits kind:target:action.
func callOf(s string) mayfly.Call {
	p := strings.SplitN(s, ":", 3)
	return mayfly.Call{Kind: p[0], Target: p[1], Action: p[2]}
}

func TestGrantCoversItsPatternAndNothingElse(t *testing.T) {
	for _, c := range []struct {
		grant   string
		allowed []string
		refused []string
	}{
		{"mcp:github:create_issue",
			[]string{"mcp:github:create_issue"},
			[]string{"mcp:github:create_issues", "mcp:github:Create_issue", "mcp:github:create_issu", "mcp:gitlab:create_issue", "http:github:create_issue", "mcp:github:"}},
		{"mcp:github:*",
			[]string{"mcp:github:a", "mcp:github:a/b:c", "mcp:github:*"},
			[]string{"mcp:github:", "mcp:git:a"}},
		{"mcp:github:get_*",
			[]string{"mcp:github:get_x", "mcp:github:get_/x"},
			[]string{"mcp:github:get_", "mcp:github:get", "mcp:github:xget_x"}},
		{"http:orders:GET:/v1/orders/*",
			[]string{"http:orders:GET:/v1/orders/1", "http:orders:GET:/v1/orders/1/items"},
			[]string{"http:orders:GET:/v1/orders/", "http:orders:GET:/v1/orders", "http:orders:POST:/v1/orders/1", "http:orders:get:/v1/orders/1", "http:orders:GET:/V1/orders/1"}},
		{"http:orders:*:/v1/orders",
			[]string{"http:orders:GET:/v1/orders", "http:orders:DELETE:/v1/orders"},
			[]string{"http:orders:GET:/v1/orders/1", "http:orders::/v1/orders"}},
		{"http:orders:GET:*",
			[]string{"http:orders:GET:/", "http:orders:GET:/a/b"},
			[]string{"http:orders:HEAD:/", "http:orders:GET:"}},
		{"http:orders:*",
			[]string{"http:orders:GET:/", "http:orders:DELETE:/a"},
			[]string{"http:order:GET:/", "http:orders:"}},
	} {
		g := short(t, c.grant)
		for _, s := range c.allowed {
			if ok, why := g.Allows(callOf(s)); !ok {
				t.Errorf("%s refused %s: %s", g, s, why)
			}
		}
		for _, s := range c.refused {
			if ok, _ := g.Allows(callOf(s)); ok {
				t.Errorf("%s allowed %s", g, s)
			}
		}
	}
	if ok, _ := (mayfly.Grant{}).Allows(mayfly.Call{}); ok {
		t.Error("the zero grant allowed the zero call")
	}
}

func TestMalformedGrantsAreRefused(t *testing.T) {
	for _, s := range []string{
		"", ":", "mcp", "mcp:github", "mcp::x", ":github:x", "mcp:github:", "MCP:github:x", "mcp:Github:x", "mcp:*:x", "*:github:x",
		"mcp:git hub:x", "mcp:github:a b", "mcp:github:a\"b", "mcp:github:a\\b", "mcp:github:é", "mcp:github:a\x00", "mcp:github:a\n",
		"mcp:github:*x", "mcp:github:a*b", "mcp:github:**", "mcp:-a:x", "mcp:a-:x", "mcp:" + strings.Repeat("a", 64) + ":x",
		"mcp:github:" + strings.Repeat("a", 1024),
		"http:orders:GET", "http:orders:/v1", "http:orders:get:/v1", "http:orders:GE*:/v1", "http:orders:GET:v1", "http:orders:GET:",
		"http:orders:GET:/a?b=1", "http:orders:GET:/a#b", "http:orders:GET:/a/../b", "http:orders:GET:/./b", "http:orders:GET://b",
		"http:orders:GET:/a*/b", "http:orders::/v1", "http:orders:**:/v1",
	} {
		if g, err := mayfly.ParseGrant(s); err == nil {
			t.Errorf("ParseGrant(%q) = %v, want an error", s, g)
		} else if mayfly.KindOf(err) != mayfly.Invalid {
			t.Errorf("ParseGrant(%q): kind %v, want Invalid", s, mayfly.KindOf(err))
		}
	}
}

func TestMalformedGrantObjectsAreRefused(t *testing.T) {
	for _, c := range []struct{ text, says string }{
		{`[]`, "object"},
		{`"mcp:a:b"`, "object"},
		{`null`, "object"},
		{`{}`, "type"},
		{`{"grant":"mcp:a:b"}`, "type"},
		{`{"type":"payment_initiation","grant":"mcp:a:b"}`, "type"},
		{`{"type":7,"grant":"mcp:a:b"}`, "type"},
		{`{"type":"mayfly_grant"}`, "grant"},
		{`{"type":"mayfly_grant","grant":["mcp:a:b"]}`, "grant"},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","actions":["read"]}`, "actions"},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","Where":{"x":{"max":1}}}`, "Where"},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","grant":"mcp:a:c"}`, "JSON"},
		{`{"type":"mayfly_grant","grant":"mcp:a:b"} {}`, "JSON"},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","where":null}`, "where"},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","where":{}}`, "where"},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","where":{"":{"max":1}}}`, "argument"},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","where":{"x":{}}}`, "operators"},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","where":{"x":5}}`, "operators"},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","where":{"x":{"less":5}}}`, "less"},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","where":{"x":{"max":"5"}}}`, "number"},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","where":{"x":{"max":1e400}}}`, "number"},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","where":{"x":{"max":9007199254740992}}}`, "number"},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","where":{"x":{"max":1e99999999999999999999}}}`, "JSON"},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","where":{"x":{"in":[]}}}`, "in"},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","where":{"x":{"in":"a"}}}`, "in"},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","where":{"x":{"not_in":["a",1]}}}`, "not_in"},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","where":{"x":{"not_in":[null]}}}`, "not_in"},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","where":{"x":{"prefix":""}}}`, "prefix"},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","where":{"x":{"pattern":"("}}}`, "RE2"},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","where":{"x":{"pattern":"a)|(?:b"}}}`, "RE2"},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","where":{"x":{"pattern":"(a{30}){30}"}}}`, "costly"},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","where":{"x":{"max_length":-1}}}`, "whole"},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","where":{"x":{"max_items":1.5}}}`, "whole"},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","where":{"x":{"absent":1}}}`, "absent"},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","where":{"x":{"absent":true,"max":1}}}`, "absent"},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","where":{"x":{"any":[]}}}`, "any"},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","where":{"x":{"all":{"nope":1}}}}`, "nope"},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","where":{"x":{"all":{"all":{"all":{"all":{"all":{"max":1}}}}}}}}`, "deeper"},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","where":{"/x~2":{"max":1}}}`, "Pointer"},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","where":{"x":{"max":1},"/x":{"max":2}}}`, "twice"},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","budget":{}}`, "budget"},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","budget":{"calls":0}}`, "calls"},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","budget":{"calls":1.5}}`, "calls"},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","budget":{"calls":"1"}}`, "calls"},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","budget":{"of":"mcp:a:b"}}`, "calls"},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","budget":{"sum":{}}}`, "1 to 8 arguments"},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","budget":{"sum":2000}}`, "{amount: 2000}"},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","budget":{"sum":{"a":1,"b":1,"c":1,"d":1,"e":1,"f":1,"g":1,"h":1,"i":1}}}`, "1 to 8 arguments"},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","budget":{"sum":{"amount":"5"}}}`, `the sum of "amount"`},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","budget":{"sum":{"amount":null}}}`, `the sum of "amount"`},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","budget":{"sum":{"amount":-0.1}}}`, `the sum of "amount"`},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","budget":{"sum":{"amount":0.00001}}}`, "at most four decimals"},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","budget":{"sum":{"amount":900719925474.0992}}}`, "to 900719925474.0991"},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","budget":{"sum":{"amount":1e400}}}`, `the sum of "amount"`},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","budget":{"sum":{"":1}}}`, "Pointer"},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","budget":{"sum":{"/a~2":1}}}`, "Pointer"},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","budget":{"sum":{"a":1,"/a":2}}}`, "twice"},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","budget":{"rate":5}}`, "{calls: 5, per: 1m}"},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","budget":{"rate":{"calls":5}}}`, "needs calls and per"},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","budget":{"rate":{"calls":5,"per":"1m","burst":2}}}`, "burst"},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","budget":{"rate":{"calls":0,"per":"1m"}}}`, "from 1 to 1000"},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","budget":{"rate":{"calls":1001,"per":"1m"}}}`, "from 1 to 1000"},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","budget":{"rate":{"calls":"5","per":"1m"}}}`, "from 1 to 1000"},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","budget":{"rate":{"calls":5,"per":60}}}`, "whole seconds"},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","budget":{"rate":{"calls":5,"per":"1"}}}`, "whole seconds"},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","budget":{"rate":{"calls":5,"per":"1500ms"}}}`, "whole seconds"},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","budget":{"rate":{"calls":5,"per":"0s"}}}`, "from 1s to 24h"},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","budget":{"rate":{"calls":5,"per":"-1m"}}}`, "from 1s to 24h"},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","budget":{"rate":{"calls":5,"per":"24h1s"}}}`, "from 1s to 24h"},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","budget":{"cals":1}}`, "cals"},
	} {
		g, err := mayfly.ParseGrantObject([]byte(c.text))
		if err == nil {
			t.Errorf("ParseGrantObject(%s) = %v, want an error", c.text, g)
			continue
		}
		if mayfly.KindOf(err) != mayfly.Invalid || !strings.Contains(err.Error(), c.says) {
			t.Errorf("ParseGrantObject(%s): kind %v, %q; want Invalid, saying %q", c.text, mayfly.KindOf(err), err, c.says)
		}
	}
}

func TestGrantIsWrittenAsItIsRead(t *testing.T) {
	for _, c := range []struct{ in, out string }{
		{`"mcp:github:*"`, `"mcp:github:*"`},
		{`{"grant":"mcp:github:*","type":"mayfly_grant"}`, `"mcp:github:*"`},
		{`{"budget":{"calls":10},"grant":"mcp:a:b","type":"mayfly_grant"}`,
			`{"type":"mayfly_grant","grant":"mcp:a:b","budget":{"calls":10}}`},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","budget":{"calls":1,"of":"mcp:a:*"}}`,
			`{"type":"mayfly_grant","grant":"mcp:a:b","budget":{"calls":1,"of":"mcp:a:*"}}`},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","budget":{"of":"mcp:a:*","rate":{"per":"3600s","calls":5},"sum":{"b":0,"/a":2000.50},"calls":1e1}}`,
			`{"type":"mayfly_grant","grant":"mcp:a:b","budget":{"calls":10,"sum":{"a":2000.5,"b":0},"rate":{"calls":5,"per":"1h"},"of":"mcp:a:*"}}`},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","budget":{"sum":{"/to/amount":0.0001}}}`,
			`{"type":"mayfly_grant","grant":"mcp:a:b","budget":{"sum":{"/to/amount":0.0001}}}`},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","budget":{"rate":{"calls":1000,"per":"90s"}}}`,
			`{"type":"mayfly_grant","grant":"mcp:a:b","budget":{"rate":{"calls":1000,"per":"1m30s"}}}`},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","where":{"z":{"min":1.50,"max":5e2},"/a":{"absent":false},"/a~1b/0":{"any":[{"absent":true},{"prefix":"<"}]}}}`,
			`{"type":"mayfly_grant","grant":"mcp:a:b","where":{"/a~1b/0":{"any":[{"absent":true},{"prefix":"<"}]},"a":{"absent":false},"z":{"max":500,"min":1.5}}}`},
		{`{"type":"mayfly_grant","grant":"mcp:a:b","where":{"x":{"equals":{"b":[1,null,true],"a":"é"}},"y":{"all":{"not_in":["q"]}},"w":{"all":[{"max_length":3}]}}}`,
			`{"type":"mayfly_grant","grant":"mcp:a:b","where":{"w":{"all":[{"max_length":3}]},"x":{"equals":{"a":"é","b":[1,null,true]}},"y":{"all":{"not_in":["q"]}}}}`},
	} {
		var g mayfly.Grant
		if err := json.Unmarshal([]byte(c.in), &g); err != nil {
			t.Errorf("%s: %v", c.in, err)
			continue
		}
		out, err := json.Marshal(g)
		if err != nil || string(out) != c.out {
			t.Errorf("%s\n got %s, %v\nwant %s", c.in, out, err, c.out)
		}
		var again mayfly.Grant
		if err := json.Unmarshal(out, &again); err != nil || !again.Equal(g) || again.Key() != g.Key() {
			t.Errorf("%s read back: %v, %v", out, again, err)
		}
	}
}

func TestConditionsOnArguments(t *testing.T) {
	for _, c := range []struct {
		where   string
		fits    []string
		refuses []string
	}{
		{`{"a":{"max":500}}`,
			[]string{`{"a":500}`, `{"a":5.00e2}`, `{"a":-1e9}`, `{"a":0,"b":1}`},
			[]string{`{"a":500.0000000000000000001}`, `{"a":501}`, `{"a":"5"}`, `{"a":[5]}`, `{"a":null}`, `{}`, `{"A":5}`}},
		{`{"a":{"min":0.1,"max":0.3}}`,
			[]string{`{"a":0.1}`, `{"a":0.30}`, `{"a":1e-1}`},
			[]string{`{"a":0.30000000000000004}`, `{"a":0.0999999999999999999999}`, `{"a":-0}`}},
		{`{"a":{"equals":1}}`, []string{`{"a":1}`, `{"a":1.0}`, `{"a":10e-1}`}, []string{`{"a":"1"}`, `{"a":true}`, `{"a":[1]}`, `{"a":2}`}},
		{`{"a":{"equals":null}}`, []string{`{"a":null}`}, []string{`{}`, `{"a":0}`, `{"a":""}`}},
		{`{"a":{"equals":{"x":1,"y":[2]}}}`, []string{`{"a":{"y":[2.0],"x":1}}`}, []string{`{"a":{"x":1}}`, `{"a":{"x":1,"y":[2],"z":3}}`, `{"a":{"x":1,"y":[2,2]}}`}},
		{`{"a":{"in":["acme",7,true]}}`, []string{`{"a":"acme"}`, `{"a":7.0}`, `{"a":true}`}, []string{`{"a":"Acme"}`, `{"a":["acme"]}`, `{"a":false}`, `{"a":"7"}`}},
		{`{"a":{"not_in":["root"]}}`, []string{`{"a":"x"}`, `{"a":""}`}, []string{`{"a":"root"}`, `{"a":["root"]}`, `{"a":1}`, `{"a":null}`, `{}`}},
		{`{"a":{"not_in":[1,2]}}`, []string{`{"a":3}`}, []string{`{"a":1.0}`, `{"a":"1"}`}},
		{`{"a":{"not_in":[true]}}`, []string{`{"a":false}`}, []string{`{"a":true}`, `{"a":"false"}`}},
		{`{"a":{"prefix":"/tmp/"}}`, []string{`{"a":"/tmp/"}`, `{"a":"/tmp/x"}`}, []string{`{"a":"/tmp"}`, `{"a":"x/tmp/"}`, `{"a":["/tmp/"]}`}},
		{`{"a":{"pattern":"[a-z]+|x1"}}`, []string{`{"a":"abc"}`, `{"a":"x1"}`}, []string{`{"a":"abc1"}`, `{"a":"1abc"}`, `{"a":"abc\n"}`, `{"a":""}`, `{"a":5}`}},
		{`{"a":{"max_length":2}}`, []string{`{"a":""}`, `{"a":"éé"}`}, []string{`{"a":"abc"}`, `{"a":[1]}`, `{"a":1}`}},
		{`{"a":{"max_items":1}}`, []string{`{"a":[]}`, `{"a":[1]}`}, []string{`{"a":[1,2]}`, `{"a":"x"}`, `{"a":{"x":1}}`}},
		{`{"a":{"absent":true}}`, []string{`{}`, `{"b":1}`}, []string{`{"a":1}`, `{"a":null}`}},
		{`{"a":{"absent":false}}`, []string{`{"a":null}`, `{"a":1}`}, []string{`{}`}},
		{`{"a":{"all":{"in":["x","y"]}}}`, []string{`{"a":[]}`, `{"a":["x","y","x"]}`}, []string{`{"a":["x","z"]}`, `{"a":"x"}`, `{"a":{"k":"x"}}`, `{}`}},
		{`{"a":{"any":{"equals":"x"}}}`, []string{`{"a":["y","x"]}`}, []string{`{"a":[]}`, `{"a":["y"]}`, `{"a":"x"}`, `{"a":{"k":"x"}}`}},
		{`{"a":{"all":[{"min":1},{"max":2}]}}`, []string{`{"a":1.5}`}, []string{`{"a":0}`, `{"a":3}`, `{}`}},
		{`{"a":{"any":[{"absent":true},{"max":2}]}}`, []string{`{}`, `{"a":1}`}, []string{`{"a":3}`, `{"a":"1"}`}},
		{`{"/a/b/1":{"equals":"x"}}`, []string{`{"a":{"b":["y","x"]}}`, `{"a":{"b":{"1":"x"}}}`}, []string{`{"a":{"b":["x"]}}`, `{"a":{"b":"x"}}`, `{"a":1}`, `{}`, `{"/a/b/1":"x"}`}},
		{`{"/a/01":{"absent":false}}`, []string{`{"a":{"01":1}}`}, []string{`{"a":[1,2]}`}},
		{`{"/a~1b":{"equals":1}}`, []string{`{"a/b":1}`}, []string{`{"a":{"b":1}}`}},
		{`{"query.limit":{"pattern":"[0-9]{1,2}"}}`, []string{`{"query.limit":"10"}`}, []string{`{"query.limit":10}`, `{"query.limit":"100"}`, `{"query":{"limit":"10"}}`}},
		{`{"a":{"max":1},"b":{"max":1}}`, []string{`{"a":1,"b":1}`}, []string{`{"a":1,"b":2}`, `{"a":1}`}},
	} {
		g := limited(t, "mcp:t:x", `"where":`+c.where)
		call := mayfly.Call{Kind: "mcp", Target: "t", Action: "x"}
		for _, a := range c.fits {
			call.Arguments = arguments(t, a)
			if ok, why := g.Allows(call); !ok {
				t.Errorf("%s refused %s: %s", c.where, a, why)
			}
		}
		for _, a := range c.refuses {
			call.Arguments = arguments(t, a)
			if ok, why := g.Allows(call); ok || why == "" {
				t.Errorf("%s: Allows(%s) = %v, %q; want a refusal with a reason", c.where, a, ok, why)
			}
		}
		call.Arguments, call.NoArguments = mayfly.Arguments{}, true
		if ok, _ := g.Allows(call); ok {
			t.Errorf("%s allowed a body that cannot be read", c.where)
		}
	}
}

func TestArgumentsThatCannotBeReadRefuseEvenAbsence(t *testing.T) {
	deep := strings.Repeat("[", 100) + strings.Repeat("]", 100)
	g := limited(t, "mcp:t:x", `"where":{"/a/b":{"absent":true}}`)
	for _, a := range []string{`{"a":` + deep + `}`, `{"a":{"x":1e99999999999}}`} {
		if ok, _ := g.Allows(mayfly.Call{Kind: "mcp", Target: "t", Action: "x", Arguments: arguments(t, a)}); ok {
			t.Errorf("%.40s… was allowed", a)
		}
	}
	if ok, why := g.Allows(mayfly.Call{Kind: "mcp", Target: "t", Action: "x"}); !ok {
		t.Errorf("no arguments at all: %s", why)
	}
}

func TestArgumentsAreOneObject(t *testing.T) {
	for _, s := range []string{`[]`, `null`, `"x"`, `{`, `{"a":1}{}`, `{"a":1,"a":2}`, `{"a":{"b":1,"b":1}}`, "{\"a\":\"\xff\"}", `{"a":NaN}`, `{a:1}`} {
		if _, err := mayfly.ParseArguments([]byte(s)); mayfly.KindOf(err) != mayfly.Invalid {
			t.Errorf("ParseArguments(%q) = %v, want Invalid", s, err)
		}
	}
	if a, err := mayfly.ParseArguments(nil); err != nil || a.Len() != 0 {
		t.Errorf("ParseArguments(nil) = %v, %v", a.Len(), err)
	}
}

func TestAnArgumentGivenTwiceIsRefused(t *testing.T) {
	a := arguments(t, `{"amount":1}`)
	a, err := a.With("query.limit", "10")
	if err != nil || a.Len() != 2 {
		t.Fatal(a.Len(), err)
	}
	for _, name := range []string{"query.limit", "amount"} {
		if _, err := a.With(name, "x"); mayfly.KindOf(err) != mayfly.Invalid {
			t.Errorf("a second %s: %v, want Invalid", name, err)
		}
	}
}

func TestChangingTheBytesDoesNotChangeTheArguments(t *testing.T) {
	text := []byte(`{"amount":100}`)
	a := arguments(t, string(text))
	b, err := mayfly.ParseArguments(text)
	if err != nil {
		t.Fatal(err)
	}
	copy(text, `{"amount":999}`)
	g := limited(t, "mcp:t:x", `"where":{"amount":{"max":100}}`)
	for _, a := range []mayfly.Arguments{a, b} {
		if ok, why := g.Allows(mayfly.Call{Kind: "mcp", Target: "t", Action: "x", Arguments: a}); !ok {
			t.Error(why)
		}
	}
}

func TestPatternsWithinPatterns(t *testing.T) {
	for _, c := range []struct {
		asked, ceiling string
		want           bool
	}{
		{"mcp:a:x", "mcp:a:x", true},
		{"mcp:a:x", "mcp:a:*", true},
		{"mcp:a:x*", "mcp:a:*", true},
		{"mcp:a:*", "mcp:a:*", true},
		{"mcp:a:get_*", "mcp:a:get*", true},
		{"mcp:a:get*", "mcp:a:get_*", false},
		{"mcp:a:get", "mcp:a:get*", false},
		{"mcp:a:*", "mcp:a:x", false},
		{"mcp:a:x*", "mcp:a:x", false},
		{"mcp:a:x", "mcp:b:x", false},
		{"mcp:a:x", "http:a:*", false},
		{"http:a:GET:/x", "http:a:*", true},
		{"http:a:*", "http:a:*:*", true},
		{"http:a:*:*", "http:a:*", true},
		{"http:a:*", "http:a:GET:*", false},
		{"http:a:GET:*", "http:a:*:/*", false},
		{"http:a:GET:/x", "http:a:*:/x", true},
		{"http:a:*:/x", "http:a:GET:/x", false},
		{"http:a:GET:/x/y", "http:a:GET:/x/*", true},
		{"http:a:GET:/x/", "http:a:GET:/x/*", false},
		{"http:a:GET:/x/*", "http:a:GET:/x/y*", false},
		{"http:a:HEAD:/x", "http:a:GET:/x", false},
	} {
		err := short(t, c.asked).Within(short(t, c.ceiling))
		if (err == nil) != c.want {
			t.Errorf("%s within %s: %v, want %v", c.asked, c.ceiling, err, c.want)
		}
	}
}

func TestConditionsWithinConditions(t *testing.T) {
	for _, c := range []struct {
		asked, ceiling string
		want           bool
	}{
		{`{"max":400}`, `{"max":500}`, true},
		{`{"max":500.0}`, `{"max":500}`, true},
		{`{"max":501}`, `{"max":500}`, false},
		{`{"min":1,"max":2}`, `{"max":2}`, true},
		{`{"max":2}`, `{"min":1,"max":2}`, false},
		{`{"min":1}`, `{"max":2}`, false},
		{`{"equals":5}`, `{"max":5}`, true},
		{`{"equals":6}`, `{"max":5}`, false},
		{`{"equals":"5"}`, `{"max":5}`, false},
		{`{"in":[1,2]}`, `{"in":[2,1,3]}`, true},
		{`{"in":[1,4]}`, `{"in":[1,2,3]}`, false},
		{`{"in":[1,4],"max":3}`, `{"in":[1,2,3]}`, true}, // what the list has too much, the maximum takes away
		{`{"in":["ab","abc"]}`, `{"pattern":"ab.*"}`, true},
		{`{"in":["ab","b"]}`, `{"pattern":"ab.*"}`, false},
		{`{"equals":"x"}`, `{"not_in":["y"]}`, true},
		{`{"equals":1}`, `{"not_in":["y"]}`, false},
		{`{"not_in":["a","b"]}`, `{"not_in":["a"]}`, true},
		{`{"not_in":["a"]}`, `{"not_in":["a","b"]}`, false},
		{`{"not_in":[1]}`, `{"not_in":["a"]}`, false},
		{`{"max":5}`, `{"not_in":[6]}`, true},
		{`{"max":5}`, `{"not_in":[5]}`, false},
		{`{"prefix":"ab"}`, `{"not_in":["ac"]}`, true},
		{`{"absent":false}`, `{"not_in":["ac"]}`, false},
		{`{"prefix":"abc"}`, `{"prefix":"ab"}`, true},
		{`{"prefix":"a"}`, `{"prefix":"ab"}`, false},
		{`{"pattern":"a+"}`, `{"pattern":"a+"}`, true},
		{`{"pattern":"a"}`, `{"pattern":"a+"}`, false}, // true, and not decided: refused
		{`{"pattern":"ab.*"}`, `{"prefix":"ab"}`, false},
		{`{"max_length":2}`, `{"max_length":3}`, true},
		{`{"max_length":4}`, `{"max_length":3}`, false},
		{`{"max_items":2}`, `{"max_items":3}`, true},
		{`{"max_items":2}`, `{"max_length":3}`, false},
		{`{"absent":true}`, `{"absent":true}`, true},
		{`{"absent":true}`, `{"max":5}`, false},
		{`{"absent":true}`, `{"any":[{"absent":true},{"max":5}]}`, true},
		{`{"max":5}`, `{"absent":false}`, true},
		{`{"absent":false}`, `{"absent":false}`, true},
		{`{"any":[{"absent":true},{"max":5}]}`, `{"absent":false}`, false},
		{`{"max":4}`, `{"any":[{"absent":true},{"max":5}]}`, true},
		{`{"any":[{"equals":1},{"equals":2}]}`, `{"max":2}`, true},
		{`{"any":[{"equals":1},{"equals":3}]}`, `{"max":2}`, false},
		{`{"any":[{"equals":1},{"absent":true}]}`, `{"any":[{"absent":true},{"max":2}]}`, true},
		{`{"all":[{"min":1},{"max":2}]}`, `{"max":2}`, true},
		{`{"min":1,"max":2}`, `{"all":[{"min":1},{"max":2}]}`, true},
		{`{"all":{"equals":"x"}}`, `{"all":{"in":["x","y"]}}`, true},
		{`{"all":{"in":["x","y"]}}`, `{"all":{"equals":"x"}}`, false},
		{`{"any":{"equals":"x"}}`, `{"any":{"in":["x","y"]}}`, true},
		{`{"any":{"equals":"x"}}`, `{"all":{"equals":"x"}}`, false},
		{`{"equals":["x"]}`, `{"all":{"equals":"x"}}`, true},
		{`{"equals":["x","z"]}`, `{"max_items":2,"all":{"in":["x","y"]}}`, false},
	} {
		asked, ceiling := limited(t, "mcp:t:x", `"where":{"a":`+c.asked+`}`), limited(t, "mcp:t:x", `"where":{"a":`+c.ceiling+`}`)
		if err := asked.Within(ceiling); (err == nil) != c.want {
			t.Errorf("%s within %s: %v, want %v", c.asked, c.ceiling, err, c.want)
		}
	}
}

func TestEveryLimitOfTheCeilingMustBeMet(t *testing.T) {
	ceiling := limited(t, "mcp:bank:pay", `"where":{"amount":{"max":500},"vendor":{"in":["acme","globex"]}},"budget":{"calls":10}`)
	for _, c := range []struct {
		members string
		want    bool
	}{
		{`"where":{"amount":{"max":500},"vendor":{"equals":"acme"}},"budget":{"calls":10}`, true},
		{`"where":{"amount":{"max":5},"/vendor":{"equals":"acme"},"note":{"max_length":9}},"budget":{"calls":1}`, true},
		{`"where":{"amount":{"max":500}},"budget":{"calls":10}`, false},
		{`"where":{"amount":{"max":500},"vendor":{"equals":"acme"}}`, false},
		{`"where":{"amount":{"max":500},"vendor":{"equals":"acme"}},"budget":{"calls":11}`, false},
		{`"budget":{"calls":1}`, false},
	} {
		if err := limited(t, "mcp:bank:pay", c.members).Within(ceiling); (err == nil) != c.want {
			t.Errorf("%s: %v, want %v", c.members, err, c.want)
		}
	}
	if err := ceiling.Within(short(t, "mcp:bank:*")); err != nil {
		t.Errorf("a limited grant within one without limits: %v", err)
	}
	if err := mayfly.Within([]mayfly.Grant{short(t, "mcp:bank:list"), short(t, "mcp:bank:pay")}, []mayfly.Grant{short(t, "mcp:bank:list"), ceiling}); err == nil || !strings.Contains(err.Error(), "mcp:bank:pay") {
		t.Errorf("the error names the grant that is too wide: %v", err)
	}
}

func TestShortFormTakesTheLimitsOfEveryCeiling(t *testing.T) {
	profile := []mayfly.Grant{
		short(t, "mcp:bank:list"),
		limited(t, "mcp:bank:pay", `"where":{"amount":{"max":500},"vendor":{"in":["acme","globex"]}},"budget":{"calls":10}`),
	}
	parent := []mayfly.Grant{limited(t, "mcp:bank:*", `"where":{"amount":{"max":900,"min":1}},"budget":{"calls":4}`)}

	got, err := mayfly.Inherit(short(t, "mcp:bank:pay"), profile)
	if err != nil || len(got) != 1 || !got[0].Equal(profile[1]) {
		t.Errorf("from one ceiling: %v, %v", got, err)
	}
	got, err = mayfly.Inherit(short(t, "mcp:bank:pay"), profile, parent)
	if err != nil || len(got) != 1 {
		t.Fatal(got, err)
	}
	for _, ceiling := range [][]mayfly.Grant{profile, parent} {
		if err := mayfly.Within(got, ceiling); err != nil {
			t.Errorf("what was inherited is not within a ceiling it came from: %v", err)
		}
	}
	if got[0].Budget.Calls != 4 || got[0].Key() != "mcp:bank:*#"+strings.SplitN(parent[0].Key(), "#", 2)[1] {
		t.Errorf("budget %+v, key %s: want 4 calls of the parent's", got[0].Budget, got[0].Key())
	}
	for _, s := range []string{"mcp:bank:*", "mcp:bank:delete", "mcp:other:pay"} {
		if got, err := mayfly.Inherit(short(t, s), profile); err == nil {
			t.Errorf("%s inherited %v", s, got)
		}
	}
}

func TestShortFormTakesEachCeilingThatCoversIt(t *testing.T) {
	acme := limited(t, "mcp:bank:pay", `"where":{"vendor":{"equals":"acme"}}`)
	globex := limited(t, "mcp:bank:*", `"where":{"vendor":{"equals":"globex"}}`)
	got, err := mayfly.Inherit(short(t, "mcp:bank:pay"), []mayfly.Grant{acme, globex})
	if err != nil || len(got) != 2 {
		t.Fatalf("%v, %v; want both", got, err)
	}
	got, err = mayfly.Inherit(short(t, "mcp:bank:pay"), []mayfly.Grant{acme, short(t, "mcp:bank:*"), globex})
	if err != nil || len(got) != 1 || got[0].Limited() {
		t.Errorf("%v, %v; want the one without limits, which makes the others needless", got, err)
	}
}

func TestNarrowingNeverStartsABudgetAnew(t *testing.T) {
	have := []mayfly.Grant{limited(t, "mcp:bank:*", `"budget":{"calls":10}`)}
	key := have[0].Key()
	for _, to := range [][]mayfly.Grant{
		{limited(t, "mcp:bank:*", `"budget":{"calls":9}`)},
		{short(t, "mcp:bank:pay"), short(t, "mcp:bank:list")},
		{limited(t, "mcp:bank:pay", `"budget":{"calls":10}`), limited(t, "mcp:bank:list", `"budget":{"calls":10,"of":"mcp:bank:mine"}`)},
		{limited(t, "mcp:bank:pay", `"where":{"amount":{"max":5}},"budget":{"calls":10}`)},
	} {
		left, err := mayfly.Narrow(have, to)
		if err != nil {
			t.Errorf("%v: %v", to, err)
		}
		again, err := mayfly.Narrow(left, left)
		if err != nil {
			t.Errorf("%v again: %v", left, err)
		}
		for _, g := range append(left, again...) {
			if g.Key() != key {
				t.Errorf("%s counts under %q, want %q", g, g.Key(), key)
			}
		}
	}
	if left, err := mayfly.Narrow(have, []mayfly.Grant{}); err != nil || len(left) != 0 || left == nil {
		t.Errorf("narrowing to nothing: %v, %v", left, err)
	}
	if _, err := mayfly.Narrow(have, []mayfly.Grant{limited(t, "mcp:bank:pay", `"where":{"amount":{"max":5}}`)}); err == nil {
		t.Error("a grant that states limits, and not the budget, was narrowed to")
	}
}

func TestMatchPrefersAGrantThatCostsNothing(t *testing.T) {
	grants := []mayfly.Grant{limited(t, "mcp:t:*", `"budget":{"calls":100}`), short(t, "mcp:t:echo")}
	if g, ok, _ := mayfly.Match(grants, callOf("mcp:t:echo")); !ok || g.Limited() {
		t.Errorf("echo matched %v, %v", g, ok)
	}
	if g, ok, _ := mayfly.Match(grants, callOf("mcp:t:add")); !ok || !g.Limited() {
		t.Errorf("add matched %v, %v", g, ok)
	}
}

func TestTheNearestMissIsTheReason(t *testing.T) {
	grants := []mayfly.Grant{short(t, "mcp:bank:list"), limited(t, "mcp:bank:pay", `"where":{"amount":{"max":500}}`)}
	call := callOf("mcp:bank:pay")
	call.Arguments = arguments(t, `{"amount":12345.67}`)
	_, ok, why := mayfly.Match(grants, call)
	if ok || !strings.Contains(why, "amount") || !strings.Contains(why, "500") {
		t.Errorf("reason %q", why)
	}
	if strings.Contains(why, "12345") {
		t.Errorf("the reason repeats what was sent: %q", why)
	}
	if _, ok, why = mayfly.Match(grants, callOf("mcp:bank:delete")); ok || !strings.Contains(why, "mcp:bank:delete") {
		t.Errorf("reason %q", why)
	}
}
