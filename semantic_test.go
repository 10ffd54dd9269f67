package mayfly_test

import (
	"testing"

	"github.com/mayfly-id/mayfly"
)

func TestWhatMeansTheSameIsBoundTheSame(t *testing.T) {
	call := func(object string) mayfly.Call {
		return mayfly.Call{Kind: "mcp", Target: "bank", Action: "pay", Definition: "d", Arguments: arguments(t, object), Digest: object, Size: 1}
	}
	base := call(`{"amount":500,"to":{"a":"x","b":[1]}}`)
	if len(base.Semantic()) != 43 {
		t.Errorf("%q is not base64url SHA-256", base.Semantic())
	}
	same := call(` { "to":{"b":[1],"a":"\u0078"},"amount":500 } `)
	if same.Semantic() != base.Semantic() {
		t.Error("another spelling of the same call is bound to something else")
	}
	raw := mayfly.Call{Kind: "http", Target: "bank", Action: "PUT:/x", NoArguments: true, Digest: "abc"}
	other := []mayfly.Call{call(`{"amount":501,"to":{"a":"x","b":[1]}}`), call(`{"amount":500,"to":{"a":"x","b":[2]}}`), call(`{}`), raw}
	for _, change := range []func(*mayfly.Call){
		func(c *mayfly.Call) { c.Kind = "http" },
		func(c *mayfly.Call) { c.Target = "ban" },
		func(c *mayfly.Call) { c.Target, c.Action = "ban", "kpay" },
		func(c *mayfly.Call) { c.Action = "payment" },
		func(c *mayfly.Call) { c.Definition = "" },
		func(c *mayfly.Call) { c.NoArguments = true },
	} {
		c := base
		change(&c)
		other = append(other, c)
	}
	seen := map[string]mayfly.Call{base.Semantic(): base}
	for _, c := range other {
		if twin, taken := seen[c.Semantic()]; taken {
			t.Errorf("%+v and %+v are bound to the same", c, twin)
		}
		seen[c.Semantic()] = c
	}
	raw.Digest = ""
	if raw.Semantic() != "" {
		t.Error("a call of which nothing is known is bound to something")
	}
}
