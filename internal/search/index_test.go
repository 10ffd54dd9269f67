package search

import (
	"bytes"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/eventlog"
	"github.com/mayfly-id/mayfly/internal/store"
)

// newer is an event of a newer version, which says something else under a name that
// this one knows.
type newer struct {
	Grant int `json:"grant"`
}

func (newer) Kind() string               { return "newer.thing" }
func (newer) Header() mayfly.EventHeader { return mayfly.EventHeader{Term: mayfly.TermPolicy} }

// A record whose body cannot be read does not stop the index: it is found by what its
// leaf says, and so is what comes after it.
func TestARecordThatCannotBeReadStopsNothing(t *testing.T) {
	db, err := store.Open(t.Context(), store.Options{DSN: "sqlite://" + filepath.Join(t.TempDir(), "mayfly.db"), Node: "test"})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	log, err := eventlog.Open(t.Context(), db, eventlog.Options{Origin: "mayfly.test/log"})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []mayfly.Event{newer{5}, mayfly.ToolChanged{Target: "bank", Tool: "pay"}} {
		rec, err := db.Prepare(t.Context(), time.Now(), "bundle", e)
		if err == nil {
			err = db.Change(t.Context(), rec, func(*store.Tx) {})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := log.Sequence(t.Context()); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	x := New(db, slog.New(slog.NewTextHandler(&said, nil)), nil)
	rows, err := db.EventsAfter(t.Context(), -1, 10)
	if err != nil {
		t.Fatal(err)
	}
	n := &noting{x: x, bodies: db.Bodies()}
	if told, err := n.Tell(t.Context(), rows); err != nil || told != len(rows) {
		t.Fatal(told, err)
	}
	if !strings.Contains(said.String(), "cannot be read for the search index") {
		t.Errorf("it says %s", said.String())
	}
	for name, q := range map[string]Query{
		"newer.thing": {Kind: "newer.thing", Term: "policy"}, "tool.changed": {Target: "bank", Tool: "pay"},
	} {
		q.Limit = 10
		found, err := x.Search(t.Context(), q, nil)
		if err != nil || len(found.Rows) != 1 || found.Rows[0].Kind != name {
			t.Errorf("%+v finds %v, %v", q, found.Rows, err)
		}
	}
}
