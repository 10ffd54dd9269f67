package eventlog

import (
	"context"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/mayfly-id/mayfly"
)

// Anchor is the newest checkpoint that witnesses have cosigned, with their
// cosignatures, or NotFound.
func (l *Log) Anchor(ctx context.Context) ([]byte, error) {
	a, err := l.db.Anchor(ctx)
	if err != nil {
		return nil, err
	}
	if a.Note == nil {
		return nil, mayfly.Errorf(mayfly.NotFound,
			"no checkpoint of this log is cosigned: it has no witnesses, or not enough of them have answered yet; the log's own newest one is /log/checkpoint")
	}
	return a.Note, nil
}

// Consistency proves that the first size records under a checkpoint of this log
// were all there was once: the hashes of RFC 6962 section 2.1.2, none for an
// empty log and for the whole of it.
func (l *Log) Consistency(ctx context.Context, checkpoint []byte, size int64) ([]tlog.Hash, error) {
	to, err := l.key.open(checkpoint)
	if err != nil {
		return nil, err
	}
	if size < 0 || size > to.N {
		return nil, fmt.Errorf("eventlog: there is no proof from %d records to %d", size, to.N)
	}
	if size == 0 || size == to.N {
		return nil, nil
	}
	return tlog.ProveTree(to.N, size, tlog.TileHashReader(to, l.reader(ctx)))
}

// holds raises the alarm if the stored log is not one that its own anchor is a
// part of. The anchor bears this log's signature, so there were these records.
func (l *Log) holds(ctx context.Context) error {
	a, err := l.db.Anchor(ctx)
	if err != nil || a.Note == nil {
		return err
	}
	of, err := l.key.open(a.Note)
	if err != nil {
		return l.raise(ctx, "the stored anchor: %w", err)
	}
	// Another process may have moved both since the head was read.
	head, err := l.db.Head(ctx)
	if err != nil {
		return err
	}
	if err := l.follow(ctx, head); err != nil {
		return err
	}
	if of.N > l.last.N {
		return l.raise(ctx, "the stored anchor is of %d records, and the log has %d: its end was cut off", of.N, l.last.N)
	}
	stored := l.reader(ctx)
	err = part(of, l.last.Tree, tlog.TileHashReader(l.last.Tree, stored))
	if stored.unread != nil {
		return stored.unread
	}
	if err != nil {
		return l.raise(ctx, "the stored anchor: %w", err)
	}
	return nil
}

// part says whether the tree from is a part of the tree to.
func part(from, to tlog.Tree, hashes tlog.HashReader) error {
	if from.N == 0 {
		return nil
	}
	proof, err := tlog.ProveTree(to.N, from.N, hashes)
	if err == nil {
		err = tlog.CheckTree(proof, to.N, to.Hash, from.N, from.Hash)
	}
	if err != nil {
		return fmt.Errorf("the stored tree of %d is not one that the tree of %d grew into: %w", to.N, from.N, err)
	}
	return nil
}
