package graph

import (
	"fmt"
	"strings"
	"time"
)

// Timeline is what lived when, and what happened meanwhile: a bar for each thing,
// below each other, with marks on it.
type Timeline struct {
	Title string // for whoever does not see it, too
	Lanes []Lane
	Now   time.Time // until when what still lives is drawn
}

// Lane is one thing that lived.
type Lane struct {
	Title string
	Kind  Kind
	Link  string    // where its title leads to
	From  time.Time // when its life began
	Until time.Time // when it ended; zero if it has not
	Gone  time.Time // when nothing of it was left; zero if that is not known
	Marks []Mark
}

// Mark is something that happened at one moment. What kind it is of is told by
// colour and by shape: [Touched] is round, [Refused] points down, the others stand
// on a corner.
type Mark struct {
	At   time.Time
	Kind Kind
	Hint string // what a pointer over it is told
}

// Sizes, in pixels of a drawing that is not scaled.
const (
	lanesLeft  = 200
	lanesWidth = 700
	lanesRight = 36 // room for the last label
	lanesTop   = 30
	laneHeight = 30
	laneBar    = 12
	markSize   = 5
	laneText   = 25 // how many characters of a title fit
)

const timelineStyle = `.life{opacity:.3}.rest{opacity:.6}.mk{stroke:#fff;stroke-width:1}
@media(prefers-color-scheme:dark){.mk{stroke:#12161f}.life{opacity:.45}}`

// span is the time that is drawn, never empty.
func (t *Timeline) span() (from, until time.Time) {
	for i, l := range t.Lanes {
		if i == 0 || l.From.Before(from) {
			from = l.From
		}
	}
	until = from.Add(time.Millisecond)
	for _, l := range t.Lanes {
		for _, at := range []time.Time{l.end(t.Now), l.Gone} {
			if at.After(until) {
				until = at
			}
		}
	}
	return from, until
}

// end is until when its bar is drawn.
func (l *Lane) end(now time.Time) time.Time {
	if l.Until.IsZero() {
		return now
	}
	return l.Until
}

// Inline is the drawing as a part of a page, as [Graph.Inline] is.
func (t *Timeline) Inline(id string) []byte {
	from, until := t.span()
	whole := until.Sub(from)
	x := func(at time.Time) int {
		return lanesLeft + int(float64(lanesWidth)*float64(min(max(at.Sub(from), 0), whole))/float64(whole))
	}
	width, height := lanesLeft+lanesWidth+lanesRight, lanesTop+len(t.Lanes)*laneHeight+8
	var out strings.Builder
	fmt.Fprintf(&out, "<svg class=\"drawing\" viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\" role=\"group\" aria-labelledby=\"%s\">\n<title id=\"%s\">%s</title>\n", width, height, width, height, id, id, text(t.Title))
	for step, at := tick(whole), time.Duration(0); at <= whole; at += step {
		fmt.Fprintf(&out, "<path class=\"grid\" d=\"M%d %dV%d\"/><text class=\"axis\" x=\"%d\" y=\"%d\" text-anchor=\"middle\">%s</text>\n", x(from.Add(at)), lanesTop-6, height, x(from.Add(at)), lanesTop-12, since(at))
	}
	for i := range t.Lanes {
		t.Lanes[i].draw(&out, x, t.Now, lanesTop+i*laneHeight+laneHeight/2)
	}
	out.WriteString("</svg>\n")
	return []byte(out.String())
}

// draw draws one lane around the height y.
func (l *Lane) draw(out *strings.Builder, x func(time.Time) int, now time.Time, y int) {
	open, end := "<g>", "</g>"
	if l.Link != "" {
		open, end = fmt.Sprintf("<a href=\"%s\">", text(l.Link)), "</a>"
	}
	fmt.Fprintf(out, "%s<text x=\"0\" y=\"%d\">%s</text>%s", open, y+4, fitted(l.Title, laneText), end)
	kind := l.Kind.class()
	from, until := x(l.From), x(l.end(now))
	fmt.Fprintf(out, "<rect class=\"life %s\" x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" rx=\"3\"/>", kind, from, y-laneBar/2, max(2, until-from), laneBar)
	if l.Gone.After(l.Until) && !l.Until.IsZero() {
		fmt.Fprintf(out, "<rect class=\"rest returned\" x=\"%d\" y=\"%d\" width=\"%d\" height=\"4\"><title>being retired</title></rect>", until, y-2, max(1, x(l.Gone)-until))
	}
	for _, m := range l.Marks {
		at, kind := x(m.At), m.Kind.class()
		shape := fmt.Sprintf("polygon class=\"mk %s\" points=\"%d,%d %d,%d %d,%d %d,%d\"", kind, at, y-markSize-1, at+markSize+1, y, at, y+markSize+1, at-markSize-1, y)
		switch kind {
		case Touched:
			shape = fmt.Sprintf("circle class=\"mk %s\" cx=\"%d\" cy=\"%d\" r=\"%d\"", kind, at, y, markSize)
		case Refused:
			shape = fmt.Sprintf("polygon class=\"mk %s\" points=\"%d,%d %d,%d %d,%d\"", kind, at-markSize-1, y-markSize, at+markSize+1, y-markSize, at, y+markSize+1)
		}
		fmt.Fprintf(out, "<%s><title>%s</title></%s>", shape, text(m.Hint), strings.Fields(shape)[0])
	}
	out.WriteByte('\n')
}

// ticks are the steps that are easy to read.
var ticks = []time.Duration{
	time.Millisecond, 2 * time.Millisecond, 5 * time.Millisecond, 10 * time.Millisecond, 20 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 200 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 20 * time.Second,
	30 * time.Second, time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 20 * time.Minute, 30 * time.Minute, time.Hour, 2 * time.Hour,
	4 * time.Hour, 8 * time.Hour, 24 * time.Hour,
}

// tick is the step that divides whole into seven parts at most.
func tick(whole time.Duration) time.Duration {
	for _, step := range ticks {
		if whole <= 7*step {
			return step
		}
	}
	return max(whole/7, 24*time.Hour).Truncate(time.Hour)
}

// since is a step of the axis in words.
func since(d time.Duration) string {
	switch {
	case d == 0:
		return "0"
	case d < time.Second:
		return fmt.Sprintf("+%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("+%d s", int(d.Seconds()))
	case d < time.Hour && d%time.Minute == 0:
		return fmt.Sprintf("+%d m", int(d.Minutes()))
	case d < time.Hour:
		return fmt.Sprintf("+%d m %d s", int(d.Minutes()), int(d.Seconds())%60)
	case d%time.Hour == 0:
		return fmt.Sprintf("+%d h", int(d.Hours()))
	}
	return fmt.Sprintf("+%d h %d m", int(d.Hours()), int(d.Minutes())%60)
}
