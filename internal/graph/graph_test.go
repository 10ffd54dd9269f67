package graph

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"

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
		// Whatever stands in it, it is one XML document with no element of anybody
		// else's.
		d := xml.NewDecoder(strings.NewReader(string(g.SVG())))
		for {
			tok, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if e, ok := tok.(xml.StartElement); ok && !strings.Contains(" svg title style rect path g text ", " "+e.Name.Local+" ") {
				t.Fatalf("an element %s", e.Name.Local)
			}
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
