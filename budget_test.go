package mayfly_test

import (
	"strings"
	"testing"
	"time"

	"github.com/mayfly-id/mayfly"
)

func TestABudgetIsWithinAnother(t *testing.T) {
	ceiling := limited(t, "mcp:bank:pay", `"budget":{"calls":10,"sum":{"amount":2000,"fee":5},"rate":{"calls":5,"per":"1m"}}`)
	for _, c := range []struct{ budget, says string }{
		{`"calls":10,"sum":{"amount":2000,"fee":5},"rate":{"calls":5,"per":"1m"}`, ""},
		{`"calls":1,"sum":{"amount":0,"fee":4.9999,"other":1},"rate":{"calls":1,"per":"24h"}`, ""},
		{`"sum":{"amount":2000,"fee":5},"rate":{"calls":5,"per":"1m"}`, "add budget: {calls: 10} or less"},
		{`"calls":10,"sum":{"amount":2000},"rate":{"calls":5,"per":"1m"}`, "add budget: {sum: {fee: 5}} or less"},
		{`"calls":10,"sum":{"amount":2000.0001,"fee":5},"rate":{"calls":5,"per":"1m"}`, "at most 2000 for the sum of amount"},
		{`"calls":10,"sum":{"amount":2000,"fee":5}`, "add budget: {rate: {calls: 5, per: 1m}} or less"},
		{`"calls":10,"sum":{"amount":2000,"fee":5},"rate":{"calls":6,"per":"1m"}`, "a rate of at most {calls: 5, per: 1m}"},
		// Fewer calls in less time may be more calls in all: that is refused.
		{`"calls":10,"sum":{"amount":2000,"fee":5},"rate":{"calls":5,"per":"30s"}`, "a rate of at most {calls: 5, per: 1m}"},
		{`"calls":10,"sum":{"amount":2000,"fee":5},"rate":{"calls":1,"per":"1s"}`, "a rate of at most {calls: 5, per: 1m}"},
	} {
		g := limited(t, "mcp:bank:pay", `"budget":{`+c.budget+`}`)
		switch err := g.Within(ceiling); {
		case c.says == "" && err != nil:
			t.Errorf("%s: %v", c.budget, err)
		case c.says != "" && (err == nil || mayfly.KindOf(err) != mayfly.Invalid || !strings.Contains(err.Error(), c.says)):
			t.Errorf("%s: %v, want %q", c.budget, err, c.says)
		}
	}
	if err := short(t, "mcp:bank:pay").Within(ceiling); err == nil {
		t.Error("a grant without a budget is within one with three")
	}
}

func TestAnInheritedBudgetIsTheLargestWithinBoth(t *testing.T) {
	profile := []mayfly.Grant{limited(t, "mcp:bank:*", `"budget":{"calls":10,"sum":{"amount":2000},"rate":{"calls":5,"per":"1m"}}`)}
	parent := []mayfly.Grant{limited(t, "mcp:bank:pay", `"budget":{"sum":{"amount":3000,"fee":1},"rate":{"calls":100,"per":"1h"}}`)}
	got, err := mayfly.Inherit(short(t, "mcp:bank:pay"), profile, parent)
	if err != nil || len(got) != 1 {
		t.Fatalf("%v, %v", got, err)
	}
	want := limited(t, "mcp:bank:pay", `"budget":{"calls":10,"sum":{"amount":2000,"fee":1},"rate":{"calls":5,"per":"1h"}}`)
	if !got[0].Equal(want) {
		t.Errorf("%+v, want %+v", got[0].Budget, want.Budget)
	}
	// What a ceiling holds is not changed by it.
	if len(profile[0].Budget.Sum) != 1 || profile[0].Budget.Sum[0].Max != 20_000_000 {
		t.Errorf("the ceiling became %+v", profile[0].Budget)
	}
}

func TestTooManySumsAreNotPutTogether(t *testing.T) {
	have := []mayfly.Grant{limited(t, "mcp:t:*", `"budget":{"sum":{"a":1,"b":1,"c":1,"d":1,"e":1,"f":1,"g":1,"h":1}}`)}
	more := []mayfly.Grant{limited(t, "mcp:t:*", `"budget":{"sum":{"i":1}}`)}
	if got, err := mayfly.Inherit(short(t, "mcp:t:x"), have, more); err == nil || !strings.Contains(err.Error(), "ask for less at once") {
		t.Errorf("%v, %v", got, err)
	}
}

// TestNarrowingASumGoesOnWithItsCount is what keeps a sum that is used up from
// becoming new.
func TestNarrowingASumGoesOnWithItsCount(t *testing.T) {
	have := []mayfly.Grant{limited(t, "mcp:bank:*", `"budget":{"sum":{"amount":2000}}`)}
	for _, to := range []mayfly.Grant{
		short(t, "mcp:bank:pay"),
		limited(t, "mcp:bank:pay", `"budget":{"sum":{"amount":10}}`),
		limited(t, "mcp:bank:pay", `"budget":{"calls":3,"sum":{"amount":10}}`),
		limited(t, "mcp:bank:pay", `"where":{"amount":{"max":5}},"budget":{"sum":{"amount":2000},"of":"mcp:bank:mine"}`),
	} {
		left, err := mayfly.Narrow(have, []mayfly.Grant{to})
		if err != nil || len(left) != 1 || left[0].Key() != have[0].Key() {
			t.Errorf("%v was narrowed to %+v, %v", to, left, err)
		}
	}
	if left, err := mayfly.Narrow(have, []mayfly.Grant{limited(t, "mcp:bank:pay", `"budget":{"rate":{"calls":1,"per":"1s"}}`)}); err == nil {
		t.Errorf("a sum was dropped: %+v", left)
	}
}

func TestAGrantWithoutAnyLimitGoesFirst(t *testing.T) {
	call := callOf("mcp:t:echo")
	for _, budget := range []string{`"calls":1`, `"sum":{"amount":1}`, `"rate":{"calls":1,"per":"1s"}`} {
		grants := []mayfly.Grant{limited(t, "mcp:t:*", `"budget":{`+budget+`}`), short(t, "mcp:t:echo")}
		if i := mayfly.Find(grants, &call); i != 1 {
			t.Errorf("with %s, grant %d was found", budget, i)
		}
	}
}

func TestRateIsWrittenShort(t *testing.T) {
	for per, want := range map[time.Duration]string{
		time.Second: "1s", 10 * time.Second: "10s", time.Minute: "1m", 90 * time.Second: "1m30s", 20 * time.Minute: "20m",
		time.Hour: "1h", 10 * time.Hour: "10h", 80 * time.Minute: "1h20m", time.Hour + 10*time.Second: "1h0m10s",
	} {
		if got := (mayfly.Rate{Calls: 5, Per: per}).String(); got != "{calls: 5, per: "+want+"}" {
			t.Errorf("%s: %s", per, got)
		}
	}
}

func TestTheFactsOfAGrant(t *testing.T) {
	g := limited(t, "mcp:bank:pay", `"where":{
		"vendor":{"in":["acme","globex"]}, "/to/iban":{"prefix":"DE","max_length":22}, "urgent":{"equals":true},
		"tags":{"all":{"in":["a","b"]},"max_items":3}, "note":{"any":[{"absent":true},{"equals":null},{"max_length":9}]},
		"rooms":{"equals":["a"]}, "either":{"any":[{"max":1},{"prefix":"x"}]}, "gone":{"absent":true}, "raw":{"equals":{"a":1}},
		"numbers":{"all":{"max":1}}, "count":{"not_in":[1,2]}, "amount":{"prefix":"x"}
	},"budget":{"sum":{"amount":2000,"fee":5}}`)
	var got []string
	for _, f := range g.Facts() {
		if !f.Soft {
			t.Errorf("%s is declared", f.Name)
		}
		got = append(got, f.Name+" "+string(f.Type))
	}
	want := "/to/iban string, amount decimal, count decimal, fee decimal, note string, rooms strings, tags strings, urgent bool, vendor string"
	if strings.Join(got, ", ") != want {
		t.Errorf("%s\nwant %s", strings.Join(got, ", "), want)
	}
}
