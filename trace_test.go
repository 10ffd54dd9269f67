package mayfly

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestATraceparentIsReadInOneFormOnly(t *testing.T) {
	const id, span = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	sampled := Trace{ID: id, Span: span}
	for text, want := range map[string]Trace{
		"00-" + id + "-" + span + "-01":                       sampled,
		"00-" + id + "-" + span + "-03":                       sampled,
		"00-" + id + "-" + span + "-00":                       {id, span, true},
		"00-" + id + "-" + span + "-0a":                       {id, span, true},
		"01-" + id + "-" + span + "-01":                       sampled,
		"cc-" + id + "-" + span + "-01-future":                sampled,
		"00-" + id + "-" + span + "-01-more":                  {},
		"01-" + id + "-" + span + "-01more":                   {},
		"ff-" + id + "-" + span + "-01":                       {},
		"00-" + id + "-" + span:                               {},
		"00-" + id + "-" + span + "-1":                        {},
		"00_" + id + "-" + span + "-01":                       {},
		"00-4BF92F3577B34DA6A3CE929D0E0E4736-" + span + "-01": {},
		"00-00000000000000000000000000000000-" + span + "-01": {},
		"00-" + id + "-0000000000000000-01":                   {},
		"00-" + id[1:] + "x-" + span + "-01":                  {},
		"00-" + id + "-" + span + "-0\r":                      {},
		"":                                                    {},
	} {
		if got := ParseTrace([]string{text}); got != want {
			t.Errorf("%q is %+v, want %+v", text, got, want)
		}
	}
	if one := "00-" + id + "-" + span + "-01"; ParseTrace(nil) != (Trace{}) || ParseTrace([]string{one, one}) != (Trace{}) {
		t.Error("none, or two, is one")
	}
}

func TestATraceOfItsOwnLeadsBackToTheDecision(t *testing.T) {
	id := NewID("dec", time.Now())
	if got := (Trace{}).Of(id); got.Decision() != id {
		t.Errorf("%+v leads to %s, not to %s", got, got.Decision(), id)
	}
	for _, none := range []string{"", "x", "4bf92f3577b34da6a3ce929d0e0e473", "4bf92f3577b34da6a3ce929d0e0e47360", "4bf92f3577b34da6a3ce929d0e0e473g"} {
		if got := (Trace{ID: none}).Decision(); got != "" {
			t.Errorf("%q leads to %s", none, got)
		}
	}
}

func TestWhatIsSentIsReadAsItIs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		asked := ParseTrace([]string{rapid.StringMatching(`(00|01)-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}`).Draw(t, "header")})
		decision := rapid.String().Draw(t, "decision")
		sent := asked.Of(decision)
		if got := ParseTrace([]string{sent.Header()}); got != sent {
			t.Fatalf("%+v is read as %+v", sent, got)
		}
		if asked.ID != "" && sent.ID != asked.ID || sent.Span == asked.Span || sent != asked.Of(decision) || sent.Span == asked.Of(decision+"x").Span {
			t.Fatalf("%+v follows on %+v", sent, asked)
		}
	})
}
