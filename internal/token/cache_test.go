package token

import (
	"strconv"
	"testing"
)

func TestWhatIsRememberedIsBounded(t *testing.T) {
	var s seen
	const busy = "busy"
	s.put(busy, &Verified{KeyID: "busy"})
	for i := range 5 * seenSize {
		s.put(strconv.Itoa(i), &Verified{})
		if n := len(s.young) + len(s.old); n > 2*seenSize {
			t.Fatalf("%d tokens are remembered", n)
		}
		if i%1000 == 0 && s.get(busy) == nil {
			t.Fatal("a token in use was forgotten")
		}
		if s.get(strconv.Itoa(i)) == nil {
			t.Fatal("the newest token was forgotten")
		}
	}
	if s.get("0") != nil {
		t.Error("the oldest token is remembered")
	}
}
