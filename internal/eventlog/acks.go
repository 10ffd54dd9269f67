package eventlog

import (
	"context"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/store"
)

// acks are the records that this process told somebody are durable and has not
// seen under a checkpoint yet. Until then a row could be altered or deleted and
// nothing signed would contradict it; only this memory does.
type acks struct {
	mu     sync.Mutex
	byID   map[string]tlog.Hash
	byLeaf map[tlog.Hash]ack

	// Leaves seen of late: a record can be under a checkpoint before the
	// process that wrote it gets to say so.
	recent, older map[tlog.Hash]bool
	turned        time.Time // when recent became the newer of the two
	looked        time.Time // when overdue last gave anything
}

type ack struct {
	id   string
	leaf tlog.Hash
	at   time.Time
}

const (
	promised = time.Second     // how soon a record is under a checkpoint
	remember = 2 * time.Second // how long recent fills
	looks    = 64              // how many overdue records are looked up at a time
)

// Acknowledged says that rec was committed and that its caller is about to be
// told. The log keeps its leaf hash until it has seen it under a checkpoint, and
// raises the alarm if it is found gone or altered.
func (l *Log) Acknowledged(rec store.Record) {
	l.acks.add(ack{rec.ID(), tlog.Hash(rec.LeafHash()), l.now()})
}

func (a *acks) add(k ack) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.recent[k.leaf] || a.older[k.leaf] {
		return
	}
	if a.byID == nil {
		a.byID, a.byLeaf = map[string]tlog.Hash{}, map[tlog.Hash]ack{}
	}
	a.byID[k.id], a.byLeaf[k.leaf] = k.leaf, k
}

// of is the leaf hash that was acknowledged for the record id.
func (a *acks) of(id string) (tlog.Hash, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	h, ok := a.byID[id]
	return h, ok
}

// seen forgets what is under a checkpoint.
func (a *acks) seen(leaves []tlog.Hash, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.recent == nil || now.Sub(a.turned) > remember {
		a.older, a.recent, a.turned = a.recent, make(map[tlog.Hash]bool, len(leaves)), now
	}
	for _, h := range leaves {
		a.recent[h] = true
		if k, ok := a.byLeaf[h]; ok {
			delete(a.byLeaf, h)
			delete(a.byID, k.id)
		}
	}
}

// overdue is some of the records that have waited for longer than was promised,
// at most once in that time.
func (a *acks) overdue(now time.Time) []ack {
	a.mu.Lock()
	defer a.mu.Unlock()
	if now.Sub(a.looked) < promised {
		return nil
	}
	var late []ack
	for _, k := range a.byLeaf {
		if now.Sub(k.at) > promised && len(late) < looks {
			late = append(late, k)
			a.looked = now
		}
	}
	return late
}

// lookUp raises the alarm if a record that was acknowledged and is overdue is
// gone or altered. One that merely has to wait, goes on waiting.
func (l *Log) lookUp(ctx context.Context) error {
	for _, k := range l.acks.overdue(l.now()) {
		row, err := l.db.EventByID(ctx, k.id)
		switch {
		case mayfly.KindOf(err) == mayfly.NotFound:
			return l.raise(ctx, "event %s was acknowledged and is gone", k.id)
		case err != nil:
			return err
		case tlog.Hash(row.LeafHash()) != k.leaf:
			return l.raise(ctx, "event %s is not the one that was acknowledged", k.id)
		case row.Position == nil || *row.Position >= l.last.N:
			continue
		}
		read := l.reader(ctx)
		at, err := tlog.TileHashReader(l.last.Tree, read).ReadHashes([]int64{tlog.StoredHashIndex(0, *row.Position)})
		if read.unread != nil {
			return read.unread
		}
		if err != nil {
			return l.raise(ctx, "%w", err)
		}
		if at[0] != k.leaf {
			return l.raise(ctx, "event %s was acknowledged and is not the one at position %d", k.id, *row.Position)
		}
		l.acks.seen(at, l.now())
	}
	return nil
}
