package main

import (
	"strings"
	"testing"
)

func TestADifferenceShowsWhatChangedAndLittleElse(t *testing.T) {
	lines := func(text string) []string { return strings.Split(text, "") }
	for _, c := range []struct{ before, after, want string }{
		{"", "ab", "+ a|+ b"},
		{"ab", "", "- a|- b"},
		{"abcdefg", "abcxefg", "  b|  c|- d|+ x|  e|  f"},
		{"abcdef", "abdxef", "  a|  b|- c|  d|+ x|  e|  f"},
		{"abab", "abaab", "  b|  a|+ a|  b"},
		{"xy", "yx", "- x|  y|+ x"},
	} {
		if text := strings.Join(difference(lines(c.before), lines(c.after)), "|"); text != c.want {
			t.Errorf("from %q to %q: %q, want %q", c.before, c.after, text, c.want)
		}
	}
}

// What is too long to compare is shown whole, and nothing of it is left out.
func TestADifferenceTooLongToLookForIsShownWhole(t *testing.T) {
	before, after := make([]string, 3000), make([]string, 3000)
	for i := range before {
		before[i], after[i] = "a", "b"
	}
	if n := len(difference(before, after)); n != 6000 {
		t.Errorf("%d lines are shown of 6000", n)
	}
}
