// Package search answers who touched what: an index of what each record of the log
// mentions, which the log's own reader keeps, and questions to it. Start at
// [Index.Search]. The index says where to look and nothing more: every answer is a
// record of the log, read and compared again. Who deletes from the index hides
// nothing from `mayfly log verify`, which does not read it.
package search

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/store"
)

// Query is what to look for. What is "" or zero is not asked about; what is asked
// about must all be so.
type Query struct {
	Human   string // whom a record is about, or who did it; a service's id too
	Agent   string // a task's id or SPIFFE ID, or the workload that runs it; with everything below
	Profile string // of a task; with everything below
	Target  string
	Tool    string // or METHOD:/path
	Label   string // of what was called
	Term    string // that denied
	Kind    string // of event
	Trace   string // W3C trace id that whoever asked sent
	// Upstream is the id that a target gave a request.
	Upstream string
	// Person and Within narrow it to what a caller may read at all: records of whom
	// this id names, as Human does, and of this agent, as Agent does.
	Person, Within string
	Since          time.Time // inclusive
	Until          time.Time // exclusive

	Cursor string // of the page before
	Limit  int    // at most so many
}

// Page is a part of an answer, newest first. Next is the cursor of what follows, ""
// at the end. A page can be short, or empty, and not be the last: a question that
// matches next to nothing is answered in parts.
type Page struct {
	Rows []store.EventRow
	Next string
}

const (
	// stride is how many places of the rarest name are looked at in one step.
	stride = 4096
	// strides and fetchMost bound what one page costs.
	strides   = 16
	fetchMost = 2000
)

// Search answers q, with only those records that keep lets through; nil is all.
func (x *Index) Search(ctx context.Context, q Query, keep func(*store.EventRow) (bool, error)) (Page, error) {
	names, ok, err := x.asked(ctx, q)
	if err != nil || !ok {
		return Page{}, err
	}
	before, from, err := bounds(q)
	if err != nil {
		return Page{}, err
	}
	s := &searching{x: x, q: q, names: names, keys: x.keys(names), keep: keep, bodies: x.db.Bodies()}
	for range strides {
		floor, err := s.step(ctx, before, from)
		if err != nil || s.full {
			return s.page, err
		}
		if floor == from {
			return s.page, nil
		}
		before = floor
		if s.fetched >= fetchMost {
			break
		}
	}
	s.page.Next = cursorOf(before)
	return s.page, nil
}

// searching is the work on one page.
type searching struct {
	x       *Index
	q       Query
	names   []string
	keys    []int64
	keep    func(*store.EventRow) (bool, error)
	bodies  *store.Bodies
	page    Page
	fetched int
	full    bool
}

// step looks at the next places and returns how far back it came.
func (s *searching) step(ctx context.Context, before, from store.Place) (store.Place, error) {
	floor, err := s.rarestFirst(ctx, before, from)
	if err != nil {
		return floor, err
	}
	places, err := s.x.db.Mentions(ctx, s.keys, before, floor, stride)
	if err != nil {
		return floor, err
	}
	for _, at := range places {
		row, err := s.x.db.EventAt(ctx, at.Position)
		if mayfly.KindOf(err) == mayfly.NotFound {
			return floor, mayfly.Errorf(mayfly.Internal, "the record at position %d is gone from the log; run mayfly log verify", at.Position)
		} else if err != nil {
			return floor, err
		}
		s.fetched++
		fits, err := s.fits(ctx, row)
		if err != nil {
			return floor, err
		}
		if fits {
			s.page.Rows = append(s.page.Rows, *row)
		}
		if s.full = len(s.page.Rows) == s.q.Limit || s.fetched >= fetchMost; s.full {
			s.page.Next = cursorOf(at)
			return at, nil
		}
	}
	return floor, nil
}

// rarestFirst puts the key whose next places reach back farthest first, and says
// how far that is.
func (s *searching) rarestFirst(ctx context.Context, before, from store.Place) (floor store.Place, err error) {
	rarest := 0
	for i, key := range s.keys {
		f, err := s.x.db.MentionFloor(ctx, key, before, from, stride)
		if err != nil {
			return floor, err
		}
		if i == 0 || earlier(f, floor) {
			rarest, floor = i, f
		}
		if f == from {
			break // none can be rarer than one that is looked at whole
		}
	}
	s.keys[0], s.keys[rarest] = s.keys[rarest], s.keys[0]
	return floor, nil
}

func earlier(a, b store.Place) bool {
	return a.At.Before(b.At) || a.At.Equal(b.At) && a.Position < b.Position
}

// fits compares a record with the question once more: two names may have one hash.
func (s *searching) fits(ctx context.Context, row *store.EventRow) (bool, error) {
	names, err := s.x.names(ctx, s.bodies, row)
	if err != nil {
		return false, err
	}
	if _, err := s.bodies.Open(ctx, row); err == nil { // of one that was erased, only the index knows
		for _, asked := range s.names {
			if !slices.Contains(names, asked) {
				return false, nil
			}
		}
	}
	if s.keep == nil {
		return true, nil
	}
	return s.keep(row)
}

// asked are the names that q asks for; not ok if there can be none.
func (x *Index) asked(ctx context.Context, q Query) (names []string, ok bool, err error) {
	var n nameList
	for _, who := range []string{q.Human, q.Person} {
		switch {
		case who == "":
		case strings.HasPrefix(who, "service:") || strings.HasPrefix(who, "spiffe://"):
			n.add("root", who)
		default:
			id, err := x.db.Pseudonym(ctx, who)
			if err != nil || id == "" {
				return nil, false, err
			}
			n.add("person", id)
		}
	}
	n.add("agent", taskIn(q.Agent))
	n.add("agent", q.Within)
	n.add("profile", q.Profile)
	n.add("target", q.Target)
	n.add("tool", q.Tool)
	n.add("label", q.Label)
	n.add("term", q.Term)
	n.add("kind", q.Kind)
	n.add("trace", q.Trace)
	n.add("upstream", q.Upstream)
	switch {
	case len(n.list) == 0:
		n.add("", "any")
	case len(n.list) > store.MentionsMost:
		return nil, false, mayfly.Errorf(mayfly.Invalid, "ask for at most %d things at once", store.MentionsMost)
	}
	return n.list, true, nil
}

// taskIn is the task of an agent's SPIFFE ID, and anything else as it is.
func taskIn(agent string) string {
	rest, found := strings.CutPrefix(agent, "spiffe://")
	if _, path, _ := strings.Cut(rest, "/"); found && strings.HasPrefix(path, "agent/") {
		if id := agent[strings.LastIndexByte(agent, '/')+1:]; strings.HasPrefix(id, "task_") {
			return id
		}
	}
	return agent
}

// eternity is later than any record.
var eternity = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)

// bounds are where to begin, exclusive, and where to end, inclusive.
func bounds(q Query) (before, from store.Place, err error) {
	from = store.Place{At: time.UnixMicro(0).UTC()}
	if !q.Since.IsZero() {
		from.At = q.Since.UTC().Truncate(time.Microsecond)
	}
	before = store.Place{At: eternity}
	if !q.Until.IsZero() {
		before.At = q.Until.UTC().Truncate(time.Microsecond)
	}
	if q.Cursor == "" {
		return before, from, nil
	}
	at, position, _ := strings.Cut(q.Cursor, ".")
	micros, err1 := strconv.ParseInt(at, 36, 64)
	n, err2 := strconv.ParseInt(position, 36, 64)
	if err1 != nil || err2 != nil || micros < 0 || n < 0 {
		return before, from, mayfly.Errorf(mayfly.Invalid, "the cursor is not one of a search; leave it out to begin anew")
	}
	if c := (store.Place{At: time.UnixMicro(micros).UTC(), Position: n}); earlier(c, before) {
		before = c
	}
	return before, from, nil
}

func cursorOf(p store.Place) string {
	return fmt.Sprintf("%s.%s", strconv.FormatInt(p.At.UnixMicro(), 36), strconv.FormatInt(p.Position, 36))
}
