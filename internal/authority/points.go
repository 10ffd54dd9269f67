package authority

import (
	"context"
	"time"

	"github.com/mayfly-id/mayfly"
)

// stopsWithin is when a node denies everything, at the latest, that has not heard
// that a task ended: its authority lease has run out by then, however it was cut
// off.
const stopsWithin = 3 * time.Second

// points are the nodes that could have allowed something for a task that has
// ended, and when each of them stopped; false while one of them may not have.
func (a *Authority) points(ctx context.Context, t *mayfly.Task, now time.Time) ([]mayfly.EnforcementPoint, bool, error) {
	// The first of the chain to end ended all below it.
	closed := t.ClosedAt
	for _, id := range t.Ancestors {
		up, err := a.live.task(ctx, id)
		if err != nil {
			return nil, false, err
		}
		if !up.ClosedAt.IsZero() && up.ClosedAt.Before(closed) {
			closed = up.ClosedAt
		}
	}
	epoch, err := a.db.EpochOf(ctx, t.Chain(), closed)
	if err != nil {
		return nil, false, err
	}
	nodes, err := a.db.Followers(ctx, closed)
	if err != nil {
		return nil, false, err
	}
	points := make([]mayfly.EnforcementPoint, 0, len(nodes))
	for _, n := range nodes {
		p := mayfly.EnforcementPoint{Node: n.Node, Stopped: closed, How: mayfly.StopByClock}
		switch {
		case epoch == 0:
		case n.Epoch >= epoch:
			p.Stopped, p.How = n.At, mayfly.StopAcknowledged
		case now.Sub(closed) >= stopsWithin:
			p.Stopped, p.How = closed.Add(stopsWithin), mayfly.StopLapsed
		default:
			return nil, false, nil
		}
		points = append(points, p)
	}
	return points, true, nil
}
