package console

import (
	"fmt"
	"html/template"
	"strings"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/authority"
)

// functions are what templates can call.
var functions = template.FuncMap{
	"plain":   func(s string) string { return authority.Plain(s, 600) },
	"when":    when,
	"upper":   func(s string) string { return strings.ToUpper(s[:min(1, len(s))]) + s[min(1, len(s)):] },
	"left":    func(until, now time.Time) string { return span(until.Sub(now)) },
	"span":    span,
	"iso":     func(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) },
	"millis":  func(n int64) time.Time { return time.UnixMilli(n) },
	"short":   short,
	"lasted":  lasted,
	"reason":  reasonWords,
	"by":      by,
	"who":     who,
	"needs":   needs,
	"verdict": verdictWords,
	"mark":    mark,
	"percent": percent,
	"join":    strings.Join,
	"indent":  func(depth int) int { return min(depth, 6) },
	"add":     func(a, b int) int { return a + b },
	"lines":   func(s string) []string { return strings.Split(strings.TrimRight(s, "\n"), "\n") },
	"again":   againTo,
}

// when is a time as a page shows it. A script turns it into the reader's own time.
func when(t time.Time) template.HTML {
	u := t.UTC()
	return template.HTML(fmt.Sprintf(`<time datetime="%s">%s UTC</time>`, u.Format(time.RFC3339Nano), u.Format("2 Jan 15:04:05")))
}

// span is a duration in the two units that matter.
func span(d time.Duration) string {
	d = max(d, 0)
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d m %d s", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d m", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

// short is the end of an id: what tells one from another on a line. It begins with
// its time, which is nearly the same for all that one sees together.
func short(id any) string {
	s := fmt.Sprint(id)
	if len(s) > 10 {
		return "…" + s[len(s)-6:]
	}
	return s
}

// who is somebody as a sentence names them.
func who(r authority.RootView) string {
	if r.Kind == mayfly.Service {
		return "the service " + strings.TrimPrefix(authority.Plain(r.Subject, 128), "service:")
	}
	return authority.Plain(r.Subject, 128)
}

// needs says who must say yes.
func needs(list []string) string {
	words := make([]string, len(list))
	for i, need := range list {
		words[i] = "somebody of " + authority.Plain(need, 128)
		if need == mayfly.NeedDelegator {
			words[i] = "whoever delegated the task"
		}
	}
	return strings.Join(words, ", and ")
}

func verdictWords(v mayfly.Verdict) string {
	switch v {
	case mayfly.Allow:
		return "allowed"
	case mayfly.NeedsApproval:
		return "waits"
	case mayfly.Deny:
		return "refused"
	}
	return string(v)
}

// mark is how the state of a term is drawn.
func mark(state any) string {
	return map[string]string{"passed": "✓", "decided": "✗", "observed": "○"}[fmt.Sprint(state)]
}

func percent(used, of int64) int64 {
	if of <= 0 {
		return 0
	}
	return min(100, used*100/of)
}
