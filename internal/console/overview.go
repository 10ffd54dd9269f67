package console

import (
	"fmt"
	"html/template"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/authority"
	"github.com/mayfly-id/mayfly/internal/graph"
)

// overviewPage is how things stand and how they went.
type overviewPage struct {
	authority.StatusView
	Lately   activity
	Denied   int // in the time shown
	Answered int
	Openings chart
	Denials  chart
}

// chart is a drawing, what its colours mean, and the same as a table.
type chart struct {
	Drawing template.HTML
	Series  []string
	Table   []column
	Empty   bool
}

type column struct {
	At     time.Time
	Values []int
}

// chartMinutes is how far back the charts go.
const chartMinutes = 60

// overview is the first page.
func (v *visit) overview() error {
	status, err := v.c.a.Status(v.ctx(), v.presented())
	if err != nil {
		return err
	}
	b := overviewPage{StatusView: status, Lately: v.c.board.activity(v.now, chartMinutes)}
	terms := map[mayfly.Term]int{}
	for _, m := range b.Lately.Minutes {
		b.Answered += m.Allowed
		for term, n := range m.Denied {
			terms[term] += n
			b.Denied += n
		}
	}
	b.Openings = newChart("openings", "Tasks opened and ended, by minute", []string{"opened", "ended"}, b.Lately.Minutes, func(m *minuteAt) []int {
		return []int{m.Opened, m.Closed}
	})
	// The terms that refused most, in their own colours; the others together.
	named := slices.SortedFunc(maps.Keys(terms), func(a, b mayfly.Term) int {
		if terms[a] != terms[b] {
			return terms[b] - terms[a]
		}
		return strings.Compare(string(a), string(b))
	})
	const most = graph.SeriesMost - 2
	series := []string{"allowed", "waits for a human"}
	for _, term := range named[:min(len(named), most)] {
		series = append(series, "refused by "+string(term))
	}
	b.Denials = newChart("denials", "Decisions, by minute and by the term that refused", series, b.Lately.Minutes, func(m *minuteAt) []int {
		values := make([]int, len(series))
		values[0], values[1] = m.Allowed, m.Waiting
		for term, n := range m.Denied {
			if i := slices.Index(named, term); i < most {
				values[2+i] = n
			}
		}
		return values
	})
	return v.show(http.StatusOK, "overview", "Overview", "overview", b)
}

func newChart(id, title string, series []string, minutes []minuteAt, of func(*minuteAt) []int) chart {
	c := chart{Series: series, Empty: true}
	bars := graph.Bars{Title: title, Series: series}
	for i := range minutes {
		values := of(&minutes[i])
		at := minutes[i].At.UTC()
		label := ""
		if at.Minute()%15 == 0 {
			label = at.Format("15:04")
		}
		var hint []string
		for j, n := range values {
			if n > 0 {
				hint = append(hint, fmt.Sprintf("%d %s", n, series[j]))
				c.Empty = false
			}
		}
		text := ""
		if len(hint) > 0 {
			text = at.Format("15:04") + " UTC: " + strings.Join(hint, ", ")
			c.Table = append(c.Table, column{at, values})
		}
		bars.Times, bars.Values, bars.Hints = append(bars.Times, label), append(bars.Values, values), append(bars.Hints, text)
	}
	c.Drawing = template.HTML(bars.Inline(id))
	return c
}
