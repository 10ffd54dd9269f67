package server

import (
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/authority"
	"github.com/mayfly-id/mayfly/internal/search"
)

// searchQuery are the parameters of a search, beside those of a page.
var searchQuery = []string{"human", "agent", "profile", "target", "tool", "label", "term", "kind", "trace", "upstream", "since", "until"}

func (c *call) search() (authority.EventPage, error) {
	limit, err := c.limit()
	if err != nil {
		return authority.EventPage{}, err
	}
	since, err := c.time("since")
	if err != nil {
		return authority.EventPage{}, err
	}
	until, err := c.time("until")
	if err != nil {
		return authority.EventPage{}, err
	}
	q := c.query
	return c.s.a.Search(c.ctx(), c.presented(), search.Query{
		Human: q.Get("human"), Agent: q.Get("agent"), Profile: q.Get("profile"), Target: q.Get("target"), Tool: q.Get("tool"),
		Label: q.Get("label"), Term: q.Get("term"), Kind: q.Get("kind"), Trace: q.Get("trace"), Upstream: q.Get("upstream"),
		Since: since, Until: until, Cursor: q.Get("cursor"), Limit: limit,
	})
}

// time is a query parameter that is a time of RFC 3339; zero where it is absent.
func (c *call) time(name string) (time.Time, error) {
	text := c.query.Get(name)
	if text == "" {
		return time.Time{}, nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil || at.Before(time.UnixMicro(0)) || at.Year() > 9998 {
		return time.Time{}, mayfly.Errorf(mayfly.Invalid, "%s must be a time such as 2026-01-31T09:00:00Z", name)
	}
	return at, nil
}
