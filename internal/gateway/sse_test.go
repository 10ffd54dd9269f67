package gateway

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

func readEvents(r io.Reader) (events []event, err error) {
	for s := newEventReader(r); ; {
		e, err := s.next()
		if err != nil {
			return events, err
		}
		events = append(events, e)
	}
}

func TestEventStreamsAreReadAsTheHTMLStandardSays(t *testing.T) {
	for _, c := range []struct {
		name, in string
		want     []event
	}{
		{"one", "data: {}\n\n", []event{{data: []byte("{}")}}},
		{"line ends", "data: a\r\ndata: b\r\rdata: c\n\n", []event{{data: []byte("a\nb")}, {data: []byte("c")}}},
		{"all fields", "event: message\nid: 7\nretry: 100\ndata:x\nunknown: y\n\n", []event{{name: "message", id: "7", retry: "100", data: []byte("x")}}},
		{"a comment keeps alive", ": hello\n\ndata: a\n\n", []event{{}, {data: []byte("a")}}},
		{"a comment inside", "data: a\n: hello\ndata: b\n\n", []event{{data: []byte("a\nb")}}},
		{"priming", "id: 1\ndata:\n\n", []event{{id: "1", data: []byte{}}}},
		{"only the first space goes", "data:  a\n\n", []event{{data: []byte(" a")}}},
		{"no colon", "data\n\n", []event{{data: []byte{}}}},
		{"unfinished", "data: a\n\ndata: b", []event{{data: []byte("a")}}},
		{"unfinished with its line", "data: a\n", nil},
		{"a retry that is none", "retry: 1x\ndata: a\n\n", []event{{data: []byte("a")}}},
		{"an id with NUL", "id: 1\x002\ndata: a\n\n", []event{{data: []byte("a")}}},
		{"empty lines", "\n\n\ndata: a\n\n\n\n", []event{{data: []byte("a")}}},
	} {
		for _, r := range []io.Reader{strings.NewReader(c.in), iotest.OneByteReader(strings.NewReader(c.in))} {
			got, err := readEvents(r)
			if err != io.EOF {
				t.Errorf("%s: %v", c.name, err)
			}
			if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(event{})); diff != "" {
				t.Errorf("%s: %s", c.name, diff)
			}
		}
	}
}

func TestAnEventHasAnEnd(t *testing.T) {
	endless := io.MultiReader(strings.NewReader("data: "), neverEnding('x'))
	if _, err := readEvents(endless); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("an endless line gives %v", err)
	}
	lines := &repeat{text: []byte("data: x\n")}
	if _, err := readEvents(lines); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("endless lines give %v", err)
	}
}

type neverEnding byte

func (b neverEnding) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(b)
	}
	return len(p), nil
}

type repeat struct {
	text []byte
	at   int
}

func (r *repeat) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = r.text[r.at]
		r.at = (r.at + 1) % len(r.text)
	}
	return len(p), nil
}

// What we write, every reader reads as the event we meant, however it splits
// lines.
func FuzzEvents(f *testing.F) {
	f.Add([]byte("event: message\nid: 7\nretry: 5\ndata: {}\n\n: x\n\ndata: a\rdata: b\r\n\r\n"))
	f.Add([]byte("data\n\nid\n\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		events, err := readEvents(bytes.NewReader(in))
		if err == nil {
			t.Fatal("a stream ends with an error")
		}
		again, _ := readEvents(iotest.OneByteReader(bytes.NewReader(in)))
		if diff := cmp.Diff(events, again, cmp.AllowUnexported(event{})); diff != "" {
			t.Fatal(diff)
		}
		for _, e := range events {
			if bytes.ContainsAny(e.data, "\r\n") {
				continue // oneLine comes before
			}
			got, err := readEvents(bytes.NewReader(e.append(nil)))
			if err != io.EOF || len(got) != 1 {
				t.Fatalf("%+v is written as %q and read as %+v, %v", e, e.append(nil), got, err)
			}
			if e.data == nil && got[0].data != nil && len(got[0].data) == 0 {
				got[0].data = nil // an event of a name alone is written with empty data
			}
			if diff := cmp.Diff(e, got[0], cmp.AllowUnexported(event{})); diff != "" {
				t.Fatal(diff)
			}
		}
	})
}
