package eventlog

import (
	"context"
	"fmt"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/store"
)

// Checkpoint is the newest signed checkpoint (c2sp.org/tlog-checkpoint), or
// Unavailable in the first moments of a new log.
func (l *Log) Checkpoint(ctx context.Context) ([]byte, error) {
	head, err := l.db.Head(ctx)
	if err != nil {
		return nil, err
	}
	if head.Note == nil {
		return nil, mayfly.Errorf(mayfly.Unavailable, "the log has no checkpoint yet; try again in a second")
	}
	return head.Note, nil
}

// IsEntries reports whether path is that of a bundle of entries, which only who
// may read events may have. It says no to what is no path at all.
func IsEntries(path string) bool {
	p, err := parsePath(path)
	return err == nil && p.entries
}

// Tile is the tile at path, what follows "tile/" in c2sp.org/tlog-tiles: of
// hashes ("0/x001/067", "1/000.p/17") or of entries ("entries/000"). immutable
// says that it will be the same for ever, so that caches may keep it. The error
// is NotFound where the log is not that large.
func (l *Log) Tile(ctx context.Context, path string) (data []byte, immutable bool, err error) {
	p, err := parsePath(path)
	if err != nil {
		return nil, false, err
	}
	data, err = readTile(ctx, l.db, p)
	return data, p.width == tileWidth, err
}

func readTile(ctx context.Context, db *store.DB, p tilePath) ([]byte, error) {
	data, err := db.Tile(ctx, int64(p.level), p.index)
	if err != nil {
		return nil, err
	}
	if len(data) < p.width*tlog.HashSize {
		return nil, mayfly.Errorf(mayfly.NotFound, "the log does not reach tile %s yet; its size is in the checkpoint", p)
	}
	data = data[:p.width*tlog.HashSize]
	if !p.entries {
		return data, nil
	}
	// A tile of entries has the index and the width of the tile of their hashes.
	first := p.index * tileWidth
	rows, err := db.EventsAfter(ctx, first-1, p.width)
	if err != nil {
		return nil, err
	}
	var bundle []byte
	for i := range p.width {
		if i >= len(rows) || *rows[i].Position != first+int64(i) || tlog.RecordHash(rows[i].Leaf) != tlog.Hash(data[i*tlog.HashSize:][:tlog.HashSize]) {
			return nil, fmt.Errorf("eventlog: the record at position %d is not the one in the tree", first+int64(i))
		}
		if bundle, err = appendEntry(bundle, rows[i].Leaf); err != nil {
			return nil, err
		}
	}
	return bundle, nil
}

// Entry is one record of the log.
type Entry struct {
	Position int64          `json:"position"`
	ID       string         `json:"id"`
	Time     time.Time      `json:"time"`
	Kind     string         `json:"kind"`
	Task     mayfly.TaskID  `json:"task,omitempty"`
	Decision string         `json:"decision,omitempty"`
	Dlg      string         `json:"dlg"`
	Leaf     jsontext.Value `json:"leaf"`
	// Body is the event; nil when the person it is about was erased.
	Body jsontext.Value `json:"body,omitempty"`
}

// page is how many records are read at a time.
const page = 512

// Tail calls fn for each record whose position is higher than after, in order;
// -1 is from the start. With follow it goes on until ctx ends, which is no
// error; an error of fn ends it and is returned.
func Tail(ctx context.Context, db *store.DB, after int64, follow bool, fn func(Entry) error) error {
	timer := time.NewTimer(lookEvery)
	defer timer.Stop()
	for {
		rows, err := db.EventsAfter(ctx, after, page)
		if follow && ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		for _, r := range rows {
			e, err := entryOf(ctx, db, r)
			if err != nil {
				return err
			}
			if err := fn(e); err != nil {
				return err
			}
			after = e.Position
		}
		if len(rows) == page {
			continue
		}
		if !follow {
			return nil
		}
		timer.Reset(lookEvery)
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
	}
}

func entryOf(ctx context.Context, db *store.DB, r store.EventRow) (Entry, error) {
	e := Entry{Position: *r.Position, ID: r.ID, Time: r.Time, Kind: r.Kind, Task: r.Task, Decision: r.Decision, Dlg: r.Dlg(), Leaf: r.Leaf}
	var err error
	if e.Body, err = db.Body(ctx, r); err != nil && mayfly.KindOf(err) != mayfly.Gone {
		return Entry{}, err
	}
	return e, nil
}
