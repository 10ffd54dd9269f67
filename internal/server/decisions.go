package server

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/authority"
)

func (c *call) explain() (authority.Explanation, error) {
	return c.s.a.Explain(c.ctx(), c.presented(), c.values["id"])
}

// replayMax is how long recorded decisions may be decided again.
const replayMax = 15 * time.Minute

// replaying are other policies, by file name, and the time from which on
// recorded decisions are decided again under them; absent is all of them.
type replaying struct {
	Policies map[string]string `json:"policies"`
	Since    string            `json:"since"`
}

// replay reads the whole log if it must: one at a time.
func (c *call) replay(in replaying) (authority.ReplayAnswer, error) {
	if in.Policies == nil {
		return authority.ReplayAnswer{}, mayfly.Errorf(mayfly.Invalid, "say under which policies: policies is required, and may be empty")
	}
	var since time.Time
	if in.Since != "" {
		var err error
		if since, err = time.Parse(time.RFC3339, in.Since); err != nil {
			return authority.ReplayAnswer{}, mayfly.Errorf(mayfly.Invalid, "since must be a time such as 2026-01-31T12:00:00Z")
		}
	}
	files := make(map[string][]byte, len(in.Policies))
	for name, text := range in.Policies {
		files[name] = []byte(text)
	}
	select {
	case c.s.replays <- struct{}{}:
		defer func() { <-c.s.replays }()
	default:
		return authority.ReplayAnswer{}, mayfly.Errorf(mayfly.RateLimited, "decisions are being decided again for somebody else; try again when that is done")
	}
	ctx, cancel, err := c.lasting(replayMax)
	if err != nil {
		return authority.ReplayAnswer{}, err
	}
	defer cancel()
	return c.s.a.Replay(ctx, c.presented(), files, since)
}

// lasting gives the request up to d to be answered, whatever the listener allows
// others. It ends when the caller leaves, and when the server closes.
func (c *call) lasting(d time.Duration) (context.Context, context.CancelFunc, error) {
	out := http.NewResponseController(c.w)
	if err := out.SetWriteDeadline(time.Now().Add(d + streamWrite)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(c.ctx(), d)
	go func() {
		select {
		case <-c.s.closing:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel, nil
}
