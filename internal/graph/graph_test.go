package graph

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestBoxesStandInColumnsAndDoNotMeet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var g Graph
		for i := range rapid.IntRange(0, 40).Draw(t, "boxes") {
			g.Boxes = append(g.Boxes, Box{
				ID: string(rune('a' + i)), Column: rapid.IntRange(0, 4).Draw(t, "column"), Kind: Task,
				Title: rapid.String().Draw(t, "title"), Text: rapid.SliceOfN(rapid.String(), 0, 4).Draw(t, "text"),
			})
			g.Lines = append(g.Lines, Line{"a", string(rune('a' + i))}, Line{"nowhere", "a"})
		}
		boxes, width, height := g.place()
		for i, a := range boxes {
			if a.x < margin || a.y < margin || a.x+boxWidth > width-margin || a.y+a.height > height-margin {
				t.Fatalf("%+v is not within %d by %d", a, width, height)
			}
			for _, b := range boxes[:i] {
				if a.x == b.x && a.y < b.y+b.height && b.y < a.y+a.height {
					t.Fatalf("%+v is over %+v", a, b)
				}
			}
		}
		ours(t, g.SVG())
	})
}

// ours fails unless a drawing is, whatever stands in it, one XML document with no
// element of anybody else's.
func ours(t rapid.TB, svg []byte) {
	d := xml.NewDecoder(bytes.NewReader(svg))
	for {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if e, ok := tok.(xml.StartElement); ok && !strings.Contains(" svg title style rect path g a text circle polygon ", " "+e.Name.Local+" ") {
			t.Fatalf("an element %s", e.Name.Local)
		}
	}
}

// Whenever things lived, also in a wrong order or not at all, all of it is within
// the drawing, and few lines divide it.
func TestLivesAreWithinTheDrawing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		zero := time.Date(2026, 11, 27, 8, 0, 0, 0, time.UTC)
		longest := rapid.SampledFrom([]time.Duration{time.Millisecond, time.Second, time.Hour, 3000 * time.Hour}).Draw(t, "longest")
		at := func(name string) time.Time {
			if rapid.Bool().Draw(t, name+" is not known") {
				return time.Time{}
			}
			return zero.Add(time.Duration(rapid.Int64Range(-int64(longest), int64(longest)).Draw(t, name)))
		}
		line := Timeline{Title: rapid.String().Draw(t, "title"), Now: zero}
		for range rapid.IntRange(0, 6).Draw(t, "lanes") {
			l := Lane{
				Title: rapid.String().Draw(t, "of"), Kind: Task, Link: rapid.String().Draw(t, "link"),
				From: zero.Add(-time.Duration(rapid.Int64Range(0, int64(longest)).Draw(t, "from"))), Until: at("until"), Gone: at("gone"),
			}
			for range rapid.IntRange(0, 3).Draw(t, "marks") {
				l.Marks = append(l.Marks, Mark{at("mark"), rapid.SampledFrom([]Kind{Touched, Refused, Lent, "x"}).Draw(t, "kind"), rapid.String().Draw(t, "hint")})
			}
			line.Lanes = append(line.Lanes, l)
		}
		svg := line.Inline("when")
		ours(t, svg)
		for _, x := range regexp.MustCompile(` (?:x|cx|width)="(-?\d+)"`).FindAllSubmatch(svg, -1) {
			if n, err := strconv.Atoi(string(x[1])); err != nil || n < 0 || n > lanesLeft+lanesWidth+lanesRight {
				t.Fatalf("%s is outside: %s", x[0], svg)
			}
		}
		if n := bytes.Count(svg, []byte(`class="grid"`)); n < 2 || n > 8 {
			t.Fatalf("%d lines divide it", n)
		}
	})
}

func TestTextFromOutsideIsText(t *testing.T) {
	g := Graph{Title: "</title><script>", Boxes: []Box{{ID: "a", Kind: `x" onload="y`, Title: `"><script>alert(1)</script>`, Text: []string{"\x1b[31m\u202e<b>"}}}}
	svg := string(g.SVG())
	for _, bad := range []string{"<script", "onload", "\x1b", "\u202e", "<b>"} {
		if strings.Contains(svg, bad) {
			t.Errorf("%q is in it: %s", bad, svg)
		}
	}
}
