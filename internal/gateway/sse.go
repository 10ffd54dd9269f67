package gateway

import (
	"bufio"
	"bytes"
	"io"

	"github.com/mayfly-id/mayfly"
)

// event is one server-sent event (HTML Standard, section 9.2).
type event struct {
	name  string // "" is message
	id    string
	retry string
	data  []byte // its lines joined by "\n"; nil if it had none
}

// eventReader reads a stream of events. A line ends with "\n", "\r\n" or "\r".
type eventReader struct {
	r    *bufio.Reader
	size int  // of the event being read
	cr   bool // the last line ended in "\r": a "\n" that follows belongs to it
}

func newEventReader(r io.Reader) *eventReader { return &eventReader{r: bufio.NewReaderSize(r, 16<<10)} }

// next reads until something is to be passed on: an event, or a comment, which
// is an event with nothing in it and keeps the stream alive. An event that is
// not ended by an empty line is not one; then the error is io.EOF.
func (s *eventReader) next() (event, error) {
	var e event
	fields := 0
	s.size = 0
	for {
		line, err := s.line()
		if err != nil {
			return event{}, err
		}
		if len(line) == 0 {
			if fields == 0 {
				continue
			}
			return e, nil
		}
		field, value, _ := bytes.Cut(line, []byte(":"))
		if len(field) == 0 {
			if fields == 0 {
				return event{}, nil
			}
			continue
		}
		value = bytes.TrimPrefix(value, []byte(" "))
		fields++
		switch string(field) {
		case "event":
			e.name = string(value)
		case "id":
			if bytes.IndexByte(value, 0) < 0 {
				e.id = string(value)
			}
		case "retry":
			if isDigits(value) {
				e.retry = string(value)
			}
		case "data":
			if e.data == nil {
				e.data = make([]byte, 0, len(value))
			} else {
				e.data = append(e.data, '\n')
			}
			e.data = append(e.data, value...)
		}
	}
}

// line reads one line, without its end.
func (s *eventReader) line() ([]byte, error) {
	var line []byte
	for {
		c, err := s.r.ReadByte()
		if err != nil {
			return nil, err
		}
		if s.cr {
			s.cr = false
			if c == '\n' {
				continue
			}
		}
		switch c {
		case '\n':
			return line, nil
		case '\r':
			s.cr = true
			return line, nil
		}
		if err := s.r.UnreadByte(); err != nil {
			return nil, err
		}
		// Everything buffered up to the next line end, or all of it.
		buffered, err := s.r.Peek(s.r.Buffered())
		if err != nil {
			return nil, err
		}
		n := bytes.IndexAny(buffered, "\r\n")
		if n < 0 {
			n = len(buffered)
		}
		if s.size += n; s.size > maxAnswer {
			return nil, longEvent()
		}
		line = append(line, buffered[:n]...)
		if _, err := s.r.Discard(n); err != nil {
			return nil, err
		}
	}
}

func longEvent() *mayfly.Error {
	return mayfly.Errorf(mayfly.BadUpstream, "the target sent an event longer than %d bytes", maxAnswer)
}

func isDigits(b []byte) bool {
	for _, c := range b {
		if c < '0' || '9' < c {
			return false
		}
	}
	return len(b) > 0 && len(b) <= 10
}

// append writes e as it goes to the agent. data must hold no line end.
func (e event) append(to []byte) []byte {
	if e.name == "" && e.id == "" && e.retry == "" && e.data == nil {
		return append(to, ":\n\n"...)
	}
	for _, f := range [...]struct{ name, value string }{{"event", e.name}, {"id", e.id}, {"retry", e.retry}} {
		if f.value != "" {
			to = append(append(append(to, f.name...), ": "...), f.value...)
			to = append(to, '\n')
		}
	}
	if e.data != nil || e.retry == "" && e.id == "" {
		to = append(append(append(to, "data: "...), e.data...), '\n')
	}
	return append(to, '\n')
}
