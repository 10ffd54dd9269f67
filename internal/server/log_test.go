package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// nasty is what a caller might put where it will be logged (S-85).
var nasty = []string{
	"a\r\n{\"level\":\"ERROR\"}", "\x1b[31mred\x1b]0;title\x07", "\u2028\u2029", "\u202eabc", "\u0085\u009b31m", "\x00\x7f", "\xff\xfe",
	"\u200b\ufeff", strings.Repeat("ä", 5000), strings.Repeat("\x1b", 5000), "日本語", "plain",
}

func TestS85ALogLineIsOneLine(t *testing.T) {
	for _, s := range nasty {
		var out bytes.Buffer
		l := NewLogger(&out, slog.LevelInfo)
		l.Info(s, "agent", s, s, 1, "error", errors.New(s), slog.Group("call", "tool", s))
		text := out.String()
		if strings.Count(text, "\n") != 1 || !strings.HasSuffix(text, "\n") {
			t.Errorf("%.20q makes %d lines", s, strings.Count(text, "\n"))
		}
		var line map[string]any
		if err := json.Unmarshal(out.Bytes(), &line); err != nil {
			t.Errorf("%.20q makes a line that is no JSON: %v", s, err)
		}
		for _, r := range strings.TrimSuffix(text, "\n") {
			if unicode.IsControl(r) || r == '\u2028' || r == '\u2029' || unicode.Is(unicode.Cf, r) {
				t.Errorf("%.20q leaves %U in the line", s, r)
				break
			}
		}
		if agent, _ := line["agent"].(string); len(agent) > fieldMax {
			t.Errorf("%.20q makes a field of %d bytes", s, len(agent))
		}
	}
}

// FuzzClean: what is cleaned prints as itself, is short, and stays as it is when
// it is cleaned again.
func FuzzClean(f *testing.F) {
	for _, s := range nasty {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := clean(s)
		if len(got) > fieldMax || !utf8.ValidString(got) {
			t.Fatalf("clean(%q) = %q", s, got)
		}
		for _, r := range got {
			if !isPlain(r) {
				t.Fatalf("clean(%q) leaves %U", s, r)
			}
		}
		if again := clean(got); again != got {
			t.Fatalf("cleaned twice: %q, then %q", got, again)
		}
	})
}

func TestWhatIsPlainIsLoggedAsItIs(t *testing.T) {
	for _, s := range []string{"", "Mozilla/5.0 (X11; Linux)", "/v1/tasks/task_1", "日本語 grün", `a "b" \c`} {
		if got := clean(s); got != s {
			t.Errorf("clean(%q) = %q", s, got)
		}
	}
	if got := clean("a\nb\x1b[0m\U000e0001"); got != `a\u000ab\u001b[0m\U000e0001` {
		t.Errorf("escapes are written %q", got)
	}
}
