package server

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-id/mayfly/internal/authority"
	"github.com/mayfly-id/mayfly/internal/strictjson"
)

// Times of a stream of events.
const (
	streamMax   = 15 * time.Minute // then the reader comes back with Last-Event-ID
	streamPoll  = 250 * time.Millisecond
	streamWrite = 10 * time.Second // for one write
	streamQuiet = 15 * time.Second // then a comment shows that the stream lives
	streamBatch = 500
)

// feed is one page of the log; Next is where the next begins, absent where this
// one is empty.
type feed struct {
	Events []authority.EventView `json:"events"`
	Next   *int64                `json:"next,omitempty"`
}

// events reads the log from a position on: a page, or as a stream where the
// reader accepts one.
func events(c *call) error {
	after, err := c.number("after", -1, -1, math.MaxInt64)
	if err != nil {
		return err
	}
	limit, err := c.limit()
	if err != nil {
		return err
	}
	if c.wantsStream() {
		if id, err := strconv.ParseInt(c.r.Header.Get("Last-Event-ID"), 10, 64); err == nil && id >= 0 {
			after = id
		}
		return c.stream(after)
	}
	return answers(func(c *call) (feed, error) {
		events, err := c.s.a.Feed(c.ctx(), c.presented(), after, limit)
		f := feed{Events: events}
		if n := len(events); n > 0 {
			f.Next = events[n-1].Position
		}
		return f, err
	})(c)
}

// wantsStream reports whether the reader asks for server-sent events.
func (c *call) wantsStream() bool {
	if c.r.Method != http.MethodGet {
		return false
	}
	for part := range strings.SplitSeq(strings.Join(c.r.Header["Accept"], ","), ",") {
		mediaType, _, _ := strings.Cut(part, ";")
		if strings.EqualFold(strings.TrimSpace(mediaType), typeSSE) {
			return true
		}
	}
	return false
}

// stream writes events as they get their position (server-sent events of the
// HTML standard, section 9.2), until the reader leaves, its time is over, the
// server closes, or this node may no longer act.
func (c *call) stream(after int64) error {
	if err := c.s.a.MayReadLog(c.ctx(), c.presented()); err != nil {
		return err
	}
	return c.pour("the log from here on", func(ctx context.Context) (text string, full bool, err error) {
		text, after, full, err = c.page(ctx, after)
		return text, full, err
	})
}

// pour writes what next gives, as long as the stream may last: next reads what
// is new, and says whether there may be more at once.
func (c *call) pour(greeting string, next func(context.Context) (text string, full bool, err error)) error {
	ctx, cancel := context.WithTimeout(c.ctx(), streamMax)
	defer cancel()
	c.w.Header().Set("Content-Type", typeSSE)
	c.w.WriteHeader(c.route.status)
	if err := c.send(": " + greeting + "\n\n"); err != nil {
		return nil // the reader left: there is nobody to tell
	}
	poll := time.NewTicker(streamPoll)
	defer poll.Stop()
	quiet := time.Now()
	for {
		text, full, err := next(ctx)
		if err != nil {
			c.s.o.Logger.Info("a stream ended", "request", c.id, "error", clean(err.Error()))
			return nil
		}
		if text == "" && time.Since(quiet) > streamQuiet {
			text = ": still here\n\n"
		}
		if text != "" {
			if err := c.send(text); err != nil {
				return nil // as above
			}
			quiet = time.Now()
		}
		if full {
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-c.s.closing:
			return nil
		case <-poll.C:
		}
	}
}

// page is what came after a position, as the stream has it, and whether there
// may be more at once.
func (c *call) page(ctx context.Context, after int64) (text string, next int64, full bool, err error) {
	if err := c.s.a.Ready(ctx); err != nil {
		return "", after, false, err
	}
	events, err := c.s.a.ReadFeed(ctx, after, streamBatch)
	if err != nil {
		return "", after, false, err
	}
	var b strings.Builder
	for _, e := range events {
		data, err := strictjson.Marshal(e)
		if err != nil {
			return "", after, false, err
		}
		if e.Position == nil {
			return "", after, false, errors.New("an event of the feed has no position")
		}
		after = *e.Position
		fmt.Fprintf(&b, "id: %d\nevent: %s\ndata: %s\n\n", after, e.Kind, data)
	}
	return b.String(), after, len(events) == streamBatch, nil
}

// send writes text now. The deadline is this write's: the listener's own is for
// answers that end.
func (c *call) send(text string) error {
	out := http.NewResponseController(c.w)
	if err := out.SetWriteDeadline(time.Now().Add(streamWrite)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	if _, err := c.w.Write([]byte(text)); err != nil {
		return err
	}
	return out.Flush()
}
