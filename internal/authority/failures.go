package authority

import (
	"context"
	"sync"
	"time"

	"github.com/mayfly-id/mayfly"
)

// failuresMax bounds how many kinds of failure are told apart within a second;
// the rest are counted together.
const failuresMax = 1024

// failures counts requests that showed no valid authentication: one record a
// second for each surface, reason and network source.
type failures struct {
	mu     sync.Mutex // guards the map
	counts map[mayfly.AuthenticationFailed]int64
}

// unauthenticated counts a request that could not be authenticated and gives
// back why. Errors that are not the caller's (a store that is away) are not
// counted.
func (a *Authority) unauthenticated(surface string, p *Presented, err error) error {
	e := mayfly.AsError(err)
	if e.Kind == mayfly.Unavailable || e.Kind == mayfly.Internal {
		return err
	}
	key := mayfly.AuthenticationFailed{Surface: surface, Reason: e.Message, Source: p.Source}
	f := &a.failures
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.counts == nil {
		f.counts = map[mayfly.AuthenticationFailed]int64{}
	}
	if _, known := f.counts[key]; !known && len(f.counts) >= failuresMax {
		key = mayfly.AuthenticationFailed{Surface: surface, Reason: "many", Source: "many"}
	}
	f.counts[key]++
	return e
}

// Stranger counts a request that could not even be read far enough to say whose
// it is, and gives back why.
func (a *Authority) Stranger(p Presented, surface string, err error) error {
	return a.unauthenticated(surface, &p, err)
}

// flushFailures writes the counts down, once a second and once at the end.
func (a *Authority) flushFailures(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			a.writeFailures(context.WithoutCancel(ctx))
			return
		case <-tick.C:
			a.writeFailures(ctx)
		}
	}
}

func (a *Authority) writeFailures(ctx context.Context) {
	a.failures.mu.Lock()
	counts := a.failures.counts
	a.failures.counts = nil
	a.failures.mu.Unlock()
	for e, n := range counts {
		e.Count = n
		if err := a.record(ctx, e, nil); err != nil && ctx.Err() == nil {
			a.logger.Error("failed requests could not be recorded", "count", n, "error", err)
		}
	}
}
