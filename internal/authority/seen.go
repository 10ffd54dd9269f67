package authority

import (
	"context"
	"slices"
	"sync"

	"github.com/mayfly-id/mayfly"
)

// seenTasksMax bounds the memory of what trees have seen.
const seenTasksMax = 1 << 13

// seenMemory is what this node remembers of the labels that the tree under a
// root task has touched. It may be behind: the commit of a decision asks whether
// it was not, and the call is then decided again.
type seenMemory struct {
	mu    sync.Mutex // guards the field below
	trees map[mayfly.TaskID][]string
}

// seenBy is what the tree under root has seen, sorted.
func (a *Authority) seenBy(ctx context.Context, root mayfly.TaskID) ([]string, error) {
	m := &a.seen
	m.mu.Lock()
	labels, known := m.trees[root]
	m.mu.Unlock()
	if known {
		return labels, nil
	}
	labels, err := a.db.Seen(ctx, root)
	if err != nil {
		return nil, err
	}
	m.put(root, labels)
	return labels, nil
}

func (m *seenMemory) put(root mayfly.TaskID, labels []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.trees == nil || len(m.trees) >= seenTasksMax {
		m.trees = map[mayfly.TaskID][]string{}
	}
	// Labels are only ever added: of two reads the longer is the newer.
	if have, known := m.trees[root]; !known || len(labels) > len(have) {
		m.trees[root] = labels
	}
}

// extend remembers that a commit of this node added fresh to seen.
func (m *seenMemory) extend(root mayfly.TaskID, seen, fresh []string) {
	labels := slices.Concat(seen, fresh)
	slices.Sort(labels)
	m.put(root, labels)
}

func (m *seenMemory) forget(root mayfly.TaskID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.trees, root)
}

// missing are the labels that are not among seen, which is sorted.
func missing(labels, seen []string) []string {
	var fresh []string
	for _, l := range labels {
		if _, found := slices.BinarySearch(seen, l); !found {
			fresh = append(fresh, l)
		}
	}
	return fresh
}

// ready works out what is asked of a bundle on every call.
func (b *Bundle) ready() *Bundle {
	b.hasLabels = b.Policies.ReadsSeen()
	for _, t := range b.Targets {
		b.hasLabels = b.hasLabels || len(t.Labels) > 0 || t.TrustAnnotations
		for _, tool := range t.Tools {
			b.hasLabels = b.hasLabels || len(tool.Labels) > 0
		}
		for _, r := range t.Routes {
			b.hasLabels = b.hasLabels || len(r.Labels) > 0
		}
	}
	return b
}

// labelled reports whether what a tree has seen matters: something has labels, or
// a policy asks.
func (b *Bundle) labelled() bool { return b.hasLabels }
