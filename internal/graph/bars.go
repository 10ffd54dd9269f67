package graph

import (
	"fmt"
	"strings"
)

// Bars is how much of several things there was over time: a bar for each time,
// the things on top of each other.
type Bars struct {
	Title  string   // for whoever does not see it, too
	Series []string // names, from the bottom up; at most [SeriesMost]
	Times  []string // below the bars; "" has none
	Values [][]int  // by time, then by series
	Hints  []string // by time: what a pointer over the bar is told
}

// SeriesMost is how many series can be told apart.
const SeriesMost = 7

// Sizes, in pixels of a drawing that is not scaled.
const (
	barsHeight = 120
	barsTop    = 14
	barsFoot   = 20
	barsLeft   = 40
	barWidth   = 11
)

const chartStyle = `.axis{font-size:11px;fill:#5b6478}.grid{stroke:#dde1e8;stroke-width:1}.s0{fill:#2b8a3e}.s1{fill:#e67700}.s2{fill:#c92a2a}.s3{fill:#3b5bdb}.s4{fill:#9c36b5}.s5{fill:#0b7285}.s6{fill:#868e96}
@media(prefers-color-scheme:dark){.axis{fill:#a3adbf}.grid{stroke:#2b3345}.s0{fill:#51cf66}.s1{fill:#ffc078}.s2{fill:#ff8787}.s3{fill:#91a7ff}.s4{fill:#e599f7}.s5{fill:#66d9e8}.s6{fill:#adb5bd}}`

// Inline is the drawing as a part of a page, as [Graph.Inline] is.
func (b *Bars) Inline(id string) []byte {
	top := 1
	for _, column := range b.Values {
		sum := 0
		for _, n := range column {
			sum += n
		}
		top = max(top, sum)
	}
	top = roundUp(top)
	width, height := barsLeft+len(b.Values)*barWidth+4, barsTop+barsHeight+barsFoot
	var out strings.Builder
	fmt.Fprintf(&out, "<svg class=\"drawing chart\" viewBox=\"0 0 %d %d\" preserveAspectRatio=\"xMinYMid meet\" role=\"img\" aria-labelledby=\"%s\">\n<title id=\"%s\">%s</title>\n", width, height, id, id, text(b.Title))
	for _, part := range []int{0, 1, 2} {
		n := top * part / 2
		if part == 1 && top%2 == 1 {
			continue
		}
		y := barsTop + barsHeight - barsHeight*n/top
		fmt.Fprintf(&out, "<path class=\"grid\" d=\"M%d %dH%d\"/><text class=\"axis\" x=\"%d\" y=\"%d\" text-anchor=\"end\">%d</text>\n", barsLeft, y, width, barsLeft-6, y+4, n)
	}
	for i, column := range b.Values {
		x, below := barsLeft+i*barWidth+1, 0
		out.WriteString("<g>")
		if i < len(b.Hints) && b.Hints[i] != "" {
			// The whole column can be pointed at, also where its bar is low.
			fmt.Fprintf(&out, "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" fill=\"transparent\"/><title>%s</title>", x, barsTop, barWidth, barsHeight, text(b.Hints[i]))
		}
		for series, n := range column {
			if n == 0 {
				continue
			}
			y1, y2 := barsTop+barsHeight-barsHeight*below/top, barsTop+barsHeight-barsHeight*(below+n)/top
			below += n
			fmt.Fprintf(&out, "<rect class=\"s%d\" x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\"/>", series%SeriesMost, x, y2, barWidth-2, max(1, y1-y2))
		}
		out.WriteString("</g>\n")
		if i < len(b.Times) && b.Times[i] != "" {
			fmt.Fprintf(&out, "<text class=\"axis\" x=\"%d\" y=\"%d\">%s</text>\n", x, height-5, text(b.Times[i]))
		}
	}
	out.WriteString("</svg>\n")
	return []byte(out.String())
}

// roundUp is the next number that is easy to read.
func roundUp(n int) int {
	for step := 1; ; step *= 10 {
		for _, nice := range []int{1, 2, 4, 5, 6, 8, 10} {
			if n <= nice*step {
				return nice * step
			}
		}
	}
}
