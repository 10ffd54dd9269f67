package mayfly

import "time"

// Pin is the definition of one tool that calls to it are held to: the first its
// server gave, or the one an operator set or accepted since.
type Pin struct {
	Target     string    `json:"target"`
	Tool       string    `json:"tool"`
	Hash       string    `json:"hash"` // base64url SHA-256 of Definition
	Definition string    `json:"definition,omitempty"`
	By         string    `json:"by"` // first-sight, configuration, or who accepted it
	At         time.Time `json:"at"`
	// Labels and Types are what Definition says: labels by its annotations, and
	// the types of its arguments by its schema.
	Labels []string            `json:"labels,omitempty"`
	Types  map[string]FactType `json:"types,omitempty"`
	// Changed is another definition that its server gave since, and nobody
	// accepted; while there is one, the tool is hidden and refused.
	Changed           string    `json:"changed,omitempty"` // its hash
	ChangedDefinition string    `json:"changed_definition,omitempty"`
	ChangedAt         time.Time `json:"changed_at,omitzero"`
}
