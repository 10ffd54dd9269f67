package gateway

import (
	"strings"
	"testing"

	"github.com/mayfly-id/mayfly"
)

func TestASessionBelongsToOneTaskKeyAndTarget(t *testing.T) {
	s := newSealer(nil)
	mine := owner{target: "bank", task: "task_a", key: "jkt-a"}
	id := s.seal("upstream-id", mine)
	if strings.Contains(id, "upstream-id") || !isSessionID(id) {
		t.Errorf("the id is %q", id)
	}
	if got, err := s.open(id, mine); err != nil || got != "upstream-id" {
		t.Errorf("open = %q, %v", got, err)
	}
	for name, who := range map[string]owner{
		"another task":      {"bank", "task_b", "jkt-a"},
		"another key":       {"bank", "task_a", "jkt-b"},
		"no key":            {"bank", "task_a", ""},
		"another target":    {"bank2", "task_a", "jkt-a"},
		"fields run across": {"bank", "task_ajkt-a", ""},
	} {
		if got, err := s.open(id, who); mayfly.KindOf(err) != mayfly.NotFound {
			t.Errorf("%s: open = %q, %v; want NotFound", name, got, err)
		}
	}
	if got, err := newSealer(nil).open(id, mine); mayfly.KindOf(err) != mayfly.NotFound {
		t.Errorf("another process: open = %q, %v; want NotFound", got, err)
	}
	shared := make([]byte, 32)
	if got, err := newSealer(shared).open(newSealer(shared).seal("u", mine), mine); err != nil || got != "u" {
		t.Errorf("another node with the same key: %q, %v", got, err)
	}
}

func FuzzSession(f *testing.F) {
	s := newSealer(make([]byte, 32))
	who := owner{"bank", "task_a", ""}
	f.Add("")
	f.Add(s.seal("u", who)[1:])
	f.Fuzz(func(t *testing.T, id string) {
		if got, err := s.open(id, who); err == nil && got != "u" {
			t.Fatalf("open(%q) = %q", id, got)
		}
	})
}
