package mayfly_test

import (
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"pgregory.net/rapid"

	"github.com/mayfly-id/mayfly"
)

// pool is every value that the properties below try an argument with: few
// enough to try all, near enough to each other and to the operands to matter.
// The last is no argument at all.
var pool = func() []string {
	scalars := []string{`-1`, `0`, `1`, `1.5`, `2`, `2.0`, `3`, `1e1`, `""`, `"a"`, `"ab"`, `"abc"`, `"b"`, `"ba"`, `"2"`, `true`, `false`, `null`}
	all := append([]string{}, scalars...)
	all = append(all, `[]`, `{}`, `{"a":1}`, `{"a":"a","b":2}`, `[[]]`)
	for i, x := range scalars {
		all = append(all, "["+x+"]", "["+x+","+scalars[(i*5+1)%len(scalars)]+"]", "["+x+","+x+","+scalars[(i*7+2)%len(scalars)]+"]")
	}
	return append(all, "")
}()

func drawScalar(t *rapid.T) string {
	return rapid.SampledFrom([]string{`0`, `1`, `1.5`, `2`, `3`, `"a"`, `"ab"`, `"abc"`, `"b"`, `""`, `true`, `null`}).Draw(t, "scalar")
}

// drawConstraint gives the JSON of the conditions on one argument.
func drawConstraint(t *rapid.T, depth int) string {
	kinds := []string{"equals", "in", "not_in", "min", "max", "prefix", "pattern", "max_length", "max_items", "absent"}
	if depth > 0 {
		kinds = append(kinds, "all", "any", "any")
	}
	members := map[string]string{}
	for range rapid.IntRange(1, 3).Draw(t, "operators") {
		op := rapid.SampledFrom(kinds).Draw(t, "operator")
		switch op {
		case "equals":
			members[op] = rapid.SampledFrom(pool[:len(pool)-1]).Draw(t, "value")
		case "in":
			var values []string
			for range rapid.IntRange(1, 3).Draw(t, "values") {
				values = append(values, drawScalar(t))
			}
			members[op] = "[" + strings.Join(values, ",") + "]"
		case "not_in":
			members[op] = rapid.SampledFrom([]string{`["a"]`, `["a","ab"]`, `["b"]`, `[1]`, `[1,2]`, `[3]`, `[true]`}).Draw(t, "values")
		case "min", "max":
			members[op] = rapid.SampledFrom([]string{`0`, `1`, `1.5`, `2`, `3`}).Draw(t, "limit")
		case "prefix":
			members[op] = rapid.SampledFrom([]string{`"a"`, `"ab"`, `"b"`}).Draw(t, "prefix")
		case "pattern":
			members[op] = rapid.SampledFrom([]string{`"a.*"`, `"ab?"`, `"[ab]{1,2}"`}).Draw(t, "pattern")
		case "max_length", "max_items":
			members[op] = rapid.SampledFrom([]string{`0`, `1`, `2`}).Draw(t, "count")
		case "absent":
			members[op] = `false`
			if rapid.Bool().Draw(t, "absent") {
				return `{"absent":true}`
			}
		case "all", "any":
			if rapid.Bool().Draw(t, "elements") {
				members[op] = drawConstraint(t, depth-1)
				continue
			}
			var parts []string
			for range rapid.IntRange(1, 3).Draw(t, "parts") {
				parts = append(parts, drawConstraint(t, depth-1))
			}
			members[op] = "[" + strings.Join(parts, ",") + "]"
		}
	}
	var b strings.Builder
	for op, operand := range members {
		fmt.Fprintf(&b, ",%q:%s", op, operand)
	}
	return "{" + b.String()[1:] + "}"
}

// tighten gives conditions that are likely within the ones given.
func tighten(t *rapid.T, is string) string {
	switch rapid.IntRange(0, 4).Draw(t, "how") {
	case 0:
		return is
	case 1:
		return `{"all":[` + is + `,` + drawConstraint(t, 1) + `]}`
	case 2:
		return `{"equals":` + rapid.SampledFrom(pool[:len(pool)-1]).Draw(t, "value") + `}`
	case 3:
		return `{"any":[` + is + `,` + drawConstraint(t, 0) + `]}`
	default:
		return drawConstraint(t, 2)
	}
}

func grantWhere(t interface{ Fatalf(string, ...any) }, members string) mayfly.Grant {
	g, err := mayfly.ParseGrantObject([]byte(`{"type":"mayfly_grant","grant":"mcp:t:x",` + members + `}`))
	if err != nil {
		t.Fatalf("%s: %v", members, err)
	}
	return g
}

// allowed says for every value of the pool whether g allows it as argument a.
func allowed(t interface{ Fatalf(string, ...any) }, g mayfly.Grant) []bool {
	all := make([]bool, len(pool))
	for i, v := range pool {
		object := `{}`
		if v != "" {
			object = `{"a":` + v + `}`
		}
		a, err := mayfly.ParseArguments([]byte(object))
		if err != nil {
			t.Fatalf("%s: %v", object, err)
		}
		all[i], _ = g.Allows(mayfly.Call{Kind: "mcp", Target: "t", Action: "x", Arguments: a})
	}
	return all
}

func neverMore(t interface{ Fatalf(string, ...any) }, narrow, wide mayfly.Grant) {
	n, w := allowed(t, narrow), allowed(t, wide)
	for i := range pool {
		if n[i] && !w[i] {
			a, _ := json.Marshal(narrow)
			b, _ := json.Marshal(wide)
			t.Fatalf("%s counts as within %s and allows %q, which that refuses", a, b, pool[i])
		}
	}
}

func TestAGrantWithinAnotherNeverAllowsMore(t *testing.T) {
	decided := 0
	rapid.Check(t, func(t *rapid.T) {
		wide := drawConstraint(t, 2)
		narrow := tighten(t, wide)
		g, c := grantWhere(t, `"where":{"a":`+narrow+`}`), grantWhere(t, `"where":{"a":`+wide+`}`)
		if g.Within(c) == nil {
			decided++
			neverMore(t, g, c)
		}
	})
	if decided == 0 {
		t.Error("no pair was ever within one another: the property was not tried")
	}
}

func TestWithinIsTransitiveInEffect(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := drawConstraint(t, 2)
		b := tighten(t, a)
		c := tighten(t, b)
		ga, gb, gc := grantWhere(t, `"where":{"a":`+a+`}`), grantWhere(t, `"where":{"a":`+b+`}`), grantWhere(t, `"where":{"a":`+c+`}`)
		if gb.Within(ga) == nil && gc.Within(gb) == nil {
			neverMore(t, gc, ga)
		}
	})
}

func TestWithinIsReflexive(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := grantWhere(t, `"where":{"a":`+drawConstraint(t, 2)+`},`+drawBudget(t))
		if err := g.Within(g); err != nil {
			text, _ := json.Marshal(g)
			t.Fatalf("%s is not within itself: %v", text, err)
		}
	})
}

// drawBudget gives the JSON of a budget's members, of which few differ.
func drawBudget(t *rapid.T) string {
	var members []string
	if rapid.Bool().Draw(t, "limits calls") {
		members = append(members, fmt.Sprintf(`"calls":%d`, rapid.IntRange(1, 5).Draw(t, "calls")))
	}
	var sums []string
	for _, argument := range []string{"a", "b"} {
		if rapid.Bool().Draw(t, "limits "+argument) {
			sums = append(sums, fmt.Sprintf(`%q:%s`, argument, rapid.SampledFrom([]string{"0", "0.0001", "1.5", "2", "3"}).Draw(t, "sum")))
		}
	}
	if len(sums) > 0 {
		members = append(members, `"sum":{`+strings.Join(sums, ",")+`}`)
	}
	if len(members) == 0 || rapid.Bool().Draw(t, "limits rate") {
		members = append(members, fmt.Sprintf(`"rate":{"calls":%d,"per":"%ds"}`,
			rapid.IntRange(1, 3).Draw(t, "calls per"), rapid.SampledFrom([]int{1, 2, 5, 60}).Draw(t, "per")))
	}
	return `"budget":{` + strings.Join(members, ",") + `}`
}

// spending is one call that a budget is asked about: when, and its arguments a
// and b in ten-thousandths.
type spending struct {
	at     time.Duration
	amount map[string]int64
}

// admits says whether b lets next happen after the calls it let happen so far.
func admits(b mayfly.Budget, so []spending, next spending) bool {
	if b.Calls > 0 && int64(len(so)) >= b.Calls {
		return false
	}
	for _, limit := range b.Sum {
		sum := next.amount[limit.Argument]
		for _, s := range so {
			sum += s.amount[limit.Argument]
		}
		if sum > limit.Max {
			return false
		}
	}
	if b.Rate.Calls == 0 {
		return true
	}
	recent := int64(0)
	for _, s := range so {
		if s.at > next.at-b.Rate.Per {
			recent++
		}
	}
	return recent < b.Rate.Calls
}

// neverMoreSpent draws calls and checks that what narrow lets happen, wide lets
// happen too.
func neverMoreSpent(t *rapid.T, narrow, wide mayfly.Budget) {
	var so []spending
	at := time.Duration(0)
	for range rapid.IntRange(1, 12).Draw(t, "number of calls") {
		at += rapid.SampledFrom([]time.Duration{0, time.Second, 2 * time.Second, time.Minute}).Draw(t, "pause")
		next := spending{at, map[string]int64{}}
		for _, argument := range []string{"a", "b"} {
			next.amount[argument] = rapid.SampledFrom([]int64{0, 1, 5_000, 10_000}).Draw(t, "amount")
		}
		if !admits(narrow, so, next) {
			continue
		}
		if !admits(wide, so, next) {
			t.Fatalf("after %v, %+v counts as within %+v and admits %v, which that refuses", so, narrow, wide, next)
		}
		so = append(so, next)
	}
}

func TestABudgetWithinAnotherNeverAdmitsMore(t *testing.T) {
	decided := 0
	rapid.Check(t, func(t *rapid.T) {
		g, c := grantWhere(t, drawBudget(t)), grantWhere(t, drawBudget(t))
		if g.Within(c) == nil {
			decided++
			neverMoreSpent(t, g.Budget, c.Budget)
		}
	})
	if decided == 0 {
		t.Error("no pair was ever within one another: the property was not tried")
	}
}

// TestAnInheritedBudgetAdmitsNoMoreThanAnyCeiling goes through a profile, a
// parent and a narrowing, as a grant does on its way down.
func TestAnInheritedBudgetAdmitsNoMoreThanAnyCeiling(t *testing.T) {
	bare, err := mayfly.ParseGrant("mcp:t:x")
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		profile, parent := grantWhere(t, drawBudget(t)), grantWhere(t, drawBudget(t))
		got, err := mayfly.Inherit(bare, []mayfly.Grant{profile}, []mayfly.Grant{parent})
		if err != nil || len(got) != 1 {
			t.Fatalf("%v, %v", got, err)
		}
		asked := grantWhere(t, drawBudget(t))
		steps := []mayfly.Grant{profile, parent, got[0]}
		if left, err := mayfly.Narrow(got, []mayfly.Grant{asked}); err == nil {
			if left[0].Key() != got[0].Key() {
				t.Fatalf("narrowed, %s counts for %s and no longer for %s", bare, left[0].Key(), got[0].Key())
			}
			neverMoreSpent(t, left[0].Budget, asked.Budget)
			steps = append(steps, left[0])
		}
		last := steps[len(steps)-1]
		for _, wide := range steps {
			if err := last.Within(wide); err != nil {
				t.Fatalf("%+v was inherited from %+v and is not within it: %v", last.Budget, wide.Budget, err)
			}
			neverMoreSpent(t, last.Budget, wide.Budget)
		}
	})
}

func TestWhatIsInheritedIsWithinEveryCeiling(t *testing.T) {
	bare, err := mayfly.ParseGrant("mcp:t:x")
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		draw := func() mayfly.Grant {
			return grantWhere(t, fmt.Sprintf(`"where":{%q:%s},%s`,
				rapid.SampledFrom([]string{"a", "b"}).Draw(t, "argument"), drawConstraint(t, 1), drawBudget(t)))
		}
		ceilings := [][]mayfly.Grant{{draw(), draw()}, {draw()}}
		got, err := mayfly.Inherit(bare, ceilings...)
		if err != nil {
			return // too deep to put together
		}
		for _, g := range got {
			for _, ceiling := range ceilings {
				if err := mayfly.Within([]mayfly.Grant{g}, ceiling); err != nil {
					text, _ := json.Marshal(g)
					of, _ := json.Marshal(ceiling)
					t.Fatalf("%s was inherited from %s and is not within it: %v", text, of, err)
				}
			}
			text, err := json.Marshal(g)
			if err != nil {
				t.Fatalf("%v", err)
			}
			var again mayfly.Grant
			if err := json.Unmarshal(text, &again); err != nil || !again.Equal(g) {
				t.Fatalf("%s does not read back: %v", text, err)
			}
		}
	})
}

// TestPatternsWithinOneAnotherNeverFitMore tries every short text over a small
// alphabet, so that "within" is checked against what patterns really fit.
func TestPatternsWithinOneAnotherNeverFitMore(t *testing.T) {
	parts := []string{"GET", "PUT", "*"}
	paths := []string{"*", "/", "/*", "/a", "/a*", "/a/*", "/a/b", "/ab*"}
	actions := []string{"*"}
	for _, m := range parts {
		for _, p := range paths {
			actions = append(actions, m+":"+p)
		}
	}
	calls := []string{}
	for _, m := range []string{"GET", "PUT", "HEAD"} {
		for _, p := range []string{"/", "/a", "/a/", "/a/b", "/ab", "/abc", "/b", "/a/b/c"} {
			calls = append(calls, m+":"+p)
		}
	}
	var grants []mayfly.Grant
	for _, a := range actions {
		grants = append(grants, short(t, "http:t:"+a))
	}
	for _, g := range grants {
		for _, h := range grants {
			within := g.Within(h) == nil
			if within && !g.Meets(h) || g.Meets(h) != h.Meets(g) {
				t.Errorf("%s and %s: within %v, meet %v and %v", g, h, within, g.Meets(h), h.Meets(g))
			}
			for _, c := range calls {
				call := mayfly.Call{Kind: "http", Target: "t", Action: c}
				if within && g.Covers(&call) && !h.Covers(&call) {
					t.Errorf("%s counts as within %s and covers %s, which that does not", g, h, c)
				}
				if g.Covers(&call) && h.Covers(&call) && !g.Meets(h) {
					t.Errorf("%s and %s are said not to meet, and both cover %s", g, h, c)
				}
			}
			for _, k := range grants {
				if within && h.Within(k) == nil && g.Within(k) != nil {
					t.Errorf("%s is within %s, and that within %s, but not the first within the last", g, h, k)
				}
			}
		}
	}
}

func TestCostOfAHostileComparisonIsBounded(t *testing.T) {
	one := func(n int) string {
		return `{"any":[{"equals":` + fmt.Sprint(n) + `},{"equals":` + fmt.Sprint(n+1) + `},{"max":` + fmt.Sprint(n) + `}]}`
	}
	var parts []string
	for i := range 12 {
		parts = append(parts, one(i))
	}
	g := grantWhere(t, `"where":{"a":{"all":[`+strings.Join(parts, ",")+`]}}`)
	c := grantWhere(t, `"where":{"a":{"any":[{"prefix":"x"},{"min":100}]}}`)
	begun := time.Now()
	if g.Within(c) == nil {
		t.Error("counts as within")
	}
	if took := time.Since(begun); took > time.Second {
		t.Errorf("one comparison took %s", took)
	}
}

func TestNumbersCompareAsExactDecimals(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		number := rapid.Custom(func(t *rapid.T) string {
			return rapid.StringMatching(`-?(0|[1-9][0-9]{0,5})(\.[0-9]{1,5})?([eE][+-]?[0-9]{1,2})?`).Draw(t, "number")
		})
		x, y := number.Draw(t, "x"), number.Draw(t, "y")
		rx, _ := new(big.Rat).SetString(x)
		ry, ok := new(big.Rat).SetString(y)
		if rx == nil || !ok {
			t.Fatalf("%s or %s is not a number", x, y)
		}
		a, err := mayfly.ParseArguments([]byte(`{"a":` + x + `}`))
		if err != nil {
			t.Fatalf("%v", err)
		}
		call := mayfly.Call{Kind: "mcp", Target: "t", Action: "x", Arguments: a}
		for op, want := range map[string]bool{"max": rx.Cmp(ry) <= 0, "min": rx.Cmp(ry) >= 0, "equals": rx.Cmp(ry) == 0} {
			g, err := mayfly.ParseGrantObject([]byte(`{"type":"mayfly_grant","grant":"mcp:t:x","where":{"a":{"` + op + `":` + y + `}}}`))
			if err != nil {
				return // beyond what an operand may be
			}
			if ok, _ := g.Allows(call); ok != want {
				t.Fatalf("%s %s %s = %v, want %v", x, op, y, ok, want)
			}
			text, _ := json.Marshal(g)
			var again mayfly.Grant
			if err := json.Unmarshal(text, &again); err != nil || !again.Equal(g) {
				t.Fatalf("%s was written as %s: %v", y, text, err)
			}
			if ok, _ := again.Allows(call); ok != want {
				t.Fatalf("%s, read back, %s %s = %v, want %v", text, x, op, ok, want)
			}
		}
	})
}

func FuzzParseGrant(f *testing.F) {
	for _, s := range []string{"mcp:github:create_issue", "mcp:github:*", "http:orders:GET:/v1/orders/*", "http:o:*:*", "aws:prod-aws:role/agents", "::", "mcp:a:*b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		g, err := mayfly.ParseGrant(s)
		if err != nil {
			if mayfly.KindOf(err) != mayfly.Invalid {
				t.Fatalf("%q: kind %v", s, mayfly.KindOf(err))
			}
			return
		}
		if g.String() != s || g.Limited() {
			t.Fatalf("%q was read as %v", s, g)
		}
		if err := g.Within(g); err != nil {
			t.Fatalf("%q is not within itself: %v", s, err)
		}
		if strings.ContainsAny(s, " \"\\\n") {
			t.Fatalf("%q cannot stand in a scope", s)
		}
	})
}

func FuzzParseGrantObject(f *testing.F) {
	for _, s := range []string{
		`"mcp:a:b"`,
		`{"type":"mayfly_grant","grant":"mcp:a:b","where":{"a":{"max":5e2,"min":-0.1}},"budget":{"calls":10,"sum":{"/a":20.5,"b":0},"rate":{"calls":5,"per":"90s"},"of":"mcp:a:*"}}`,
		`{"type":"mayfly_grant","grant":"mcp:a:b","where":{"/a~1b/0":{"any":[{"absent":true},{"in":["x",1,null,{"y":[true]}]}]},"c":{"all":{"pattern":"[a-z]+","max_length":3}}}}`,
		`{"type":"mayfly_grant","grant":"mcp:a:b","where":{"a":{"not_in":["x"],"prefix":"y"}}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var g mayfly.Grant
		if err := g.UnmarshalJSON(text); err != nil {
			return
		}
		out, err := g.MarshalJSON()
		if err != nil {
			t.Fatalf("%s cannot be written: %v", text, err)
		}
		var again mayfly.Grant
		if err := again.UnmarshalJSON(out); err != nil || !again.Equal(g) {
			t.Fatalf("%s was written as %s, which reads as %v, %v", text, out, again, err)
		}
		twice, err := again.MarshalJSON()
		if err != nil || string(twice) != string(out) {
			t.Fatalf("%s was written as %s and then as %s", text, out, twice)
		}
		if err := g.Within(g); err != nil {
			t.Fatalf("%s is not within itself: %v", out, err)
		}
	})
}

func FuzzParseArguments(f *testing.F) {
	for _, s := range []string{`{}`, `{"a":1}`, `{"a":{"b":[1,"x",null]},"c":1e400}`, `{"a":1,"a":2}`, `[`} {
		f.Add([]byte(s))
	}
	where := []byte(`{"type":"mayfly_grant","grant":"mcp:t:x","where":{"a":{"absent":false},"/a/b/0":{"any":[{"absent":true},{"max":1},{"prefix":"x"},{"all":{"in":[1]}}]}}}`)
	g, err := mayfly.ParseGrantObject(where)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		a, err := mayfly.ParseArguments(text)
		if err != nil {
			if mayfly.KindOf(err) != mayfly.Invalid {
				t.Fatalf("kind %v", mayfly.KindOf(err))
			}
			return
		}
		g.Allows(mayfly.Call{Kind: "mcp", Target: "t", Action: "x", Arguments: a})
	})
}

func BenchmarkGrantWithConditions(b *testing.B) {
	g := grantWhere(b, `"where":{"amount":{"max":500},"vendor":{"in":["acme","globex"]},"id":{"pattern":"[a-z]{3}-[0-9]+"}}`)
	call := mayfly.Call{Kind: "mcp", Target: "t", Action: "x", Arguments: arguments(b, `{"amount":120.5,"id":"inv-10042","note":"","vendor":"globex"}`)}
	b.ReportAllocs()
	for b.Loop() {
		if ok, why := g.Allows(call); !ok {
			b.Fatal(why)
		}
	}
}
