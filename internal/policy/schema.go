package policy

import "github.com/mayfly-id/mayfly"

// Schema is what policies may speak of beside what they always may: the facts
// that some target declares.
type Schema struct {
	Facts map[string]mayfly.FactType // of all targets together
}
