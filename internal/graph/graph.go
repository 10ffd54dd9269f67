// Package graph draws as SVG: who handed what to whom, as boxes in columns, from
// whoever stands at the root on the left to what was touched on the right; what lived
// when; and how much of something there was over time. A drawing is text, holds no
// script, and asks for nothing from elsewhere. Start at [Graph.SVG],
// [Timeline.Inline] and [Bars.Inline].
package graph

import (
	"encoding/xml"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Graph is what is drawn. Boxes stand in the order they are given.
type Graph struct {
	Title string // for whoever does not see it, too
	Boxes []Box
	Lines []Line
}

// Box is one thing.
type Box struct {
	ID     string
	Column int // from 0, at the left
	Kind   Kind
	Title  string
	Text   []string // lines below the title
	Link   string   // where the box leads to, in a drawing that is part of a page
	Here   bool     // the one that it is all about
}

// Kind is what a box is of; it is told by colour and by a word.
type Kind string

// The kinds.
const (
	Delegator Kind = "delegator"
	Task      Kind = "task"
	Touched   Kind = "touched"
	Refused   Kind = "refused"
	Returned  Kind = "returned"
	Lent      Kind = "lent"
)

// Line leads from one box to another, of a column to the right.
type Line struct{ From, To string }

// Sizes, in pixels of a drawing that is not scaled.
const (
	boxWidth   = 268
	columnGap  = 72
	rowGap     = 18
	lineHeight = 17
	padding    = 12
	margin     = 24
	// textMost is how many characters fit into a box.
	textMost = 36
)

const style = `text{font:13px system-ui,sans-serif;fill:#1d2433}
.t{font-weight:600}.k{font-size:11px;fill:#5b6478}.m{font:11.5px ui-monospace,monospace;fill:#3c4558}
rect.b{fill:#fff;stroke:#c3cad6}rect.here{stroke:#0b7285;stroke-width:2.5}.bg{fill:#f6f7f9}path{fill:none;stroke:#9aa4b5;stroke-width:1.5}
.delegator{fill:#3b5bdb}.task{fill:#0b7285}.touched{fill:#2b8a3e}.refused{fill:#c92a2a}.returned{fill:#868e96}.lent{fill:#e67700}
@media(prefers-color-scheme:dark){text{fill:#e6e9ef}.k{fill:#a3adbf}.m{fill:#c3cad6}rect.b{fill:#1c2230;stroke:#3c4558}rect.here{stroke:#3bc9db}.bg{fill:#12161f}
path{stroke:#5b6478}.delegator{fill:#748ffc}.task{fill:#3bc9db}.touched{fill:#69db7c}.refused{fill:#ff8787}.returned{fill:#adb5bd}.lent{fill:#ffc078}}`

// placed is a box and where it stands.
type placed struct {
	Box
	x, y, height int
}

// Style is how drawings that are part of a page look, for its style sheet.
func Style() string { return ".drawing{" + style + chartStyle + timelineStyle + "}\n" }

// SVG is the drawing as a file of its own.
func (g *Graph) SVG() []byte {
	return g.draw("title", fmt.Sprintf(" xmlns=%q", "http://www.w3.org/2000/svg"), "<style>"+style+"</style>\n")
}

// Inline is the drawing as a part of a page whose style sheet has [Style]. The id
// is of no other drawing of the page.
func (g *Graph) Inline(id string) []byte { return g.draw(id, ` class="drawing"`, "") }

func (g *Graph) draw(id, attributes, style string) []byte {
	boxes, width, height := g.place()
	at := map[string]placed{}
	for _, b := range boxes {
		at[b.ID] = b
	}
	var out strings.Builder
	fmt.Fprintf(&out, `<svg%s viewBox="0 0 %d %d" width="%d" height="%d" role="group" aria-labelledby="%s">`, attributes, width, height, width, height, id)
	fmt.Fprintf(&out, "\n<title id=\"%s\">%s</title>\n%s<rect class=\"bg\" width=\"%d\" height=\"%d\"/>\n", id, text(g.Title), style, width, height)
	for _, l := range g.Lines {
		from, ok1 := at[l.From]
		to, ok2 := at[l.To]
		if !ok1 || !ok2 {
			continue
		}
		x1, y1, x2, y2 := from.x+boxWidth, from.y+from.height/2, to.x, to.y+to.height/2
		fmt.Fprintf(&out, "<path d=\"M%d %dC%d %d %d %d %d %d\"/>\n", x1, y1, (x1+x2)/2, y1, (x1+x2)/2, y2, x2, y2)
	}
	for _, b := range boxes {
		b.draw(&out)
	}
	out.WriteString("</svg>\n")
	return []byte(out.String())
}

// place puts each column's boxes below each other, around one middle line.
func (g *Graph) place() (boxes []placed, width, height int) {
	heights := map[int]int{}
	for _, b := range g.Boxes {
		heights[b.Column] += b.height() + rowGap
		width = max(width, 2*margin+(b.Column+1)*(boxWidth+columnGap)-columnGap)
	}
	tallest := 0
	for _, h := range heights {
		tallest = max(tallest, h-rowGap)
	}
	next := map[int]int{}
	for column, h := range heights {
		next[column] = margin + (tallest-(h-rowGap))/2
	}
	for _, b := range g.Boxes {
		boxes = append(boxes, placed{b, margin + b.Column*(boxWidth+columnGap), next[b.Column], b.height()})
		next[b.Column] += b.height() + rowGap
	}
	return boxes, max(width, 2*margin), tallest + 2*margin
}

func (b Box) height() int { return 2*padding + (2+len(b.Text))*lineHeight }

func (b placed) draw(out *strings.Builder) {
	open, end := "<g>", "</g>\n"
	if b.Link != "" {
		open, end = fmt.Sprintf("<a href=\"%s\">", text(b.Link)), "</a>\n"
	}
	class := "b"
	if b.Here {
		class = "b here"
	}
	fmt.Fprintf(out, open+"<rect class=\""+class+"\" x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" rx=\"6\"/>", b.x, b.y, boxWidth, b.height)
	fmt.Fprintf(out, "<rect class=\"%s\" x=\"%d\" y=\"%d\" width=\"4\" height=\"%d\" rx=\"2\"/>", b.Kind.class(), b.x, b.y, b.height)
	y := b.y + padding + lineHeight - 5
	for i, line := range slices.Concat([]string{string(b.Kind.class()), b.Title}, b.Text) {
		class := "m"
		if i < 2 {
			class = []string{"k", "t"}[i]
		}
		fmt.Fprintf(out, "<text class=\"%s\" x=\"%d\" y=\"%d\">%s</text>", class, b.x+padding+4, y+i*lineHeight, fitted(line, textMost))
	}
	out.WriteString(end)
}

// class is k, if it is one of ours: it becomes a class of the style sheet.
func (k Kind) class() Kind {
	if slices.Contains([]Kind{Delegator, Task, Touched, Refused, Returned, Lent}, k) {
		return k
	}
	return Touched
}

// fitted is s as character data, in most characters; all of it is told to a pointer.
func fitted(s string, most int) string {
	if utf8.RuneCountInString(s) <= most {
		return text(s)
	}
	return text(string([]rune(s)[:most-1])) + "…<title>" + text(s) + "</title>"
}

// text is s as character data; what XML has no place for becomes a space.
func text(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == utf8.RuneError || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 || r == 0xfffe || r == 0xffff {
			return ' '
		}
		return r
	}, s)
	var out strings.Builder
	if err := xml.EscapeText(&out, []byte(s)); err != nil {
		return "" // a strings.Builder takes everything
	}
	return out.String()
}
