package mayfly

import (
	"fmt"
	"io"
)

// Secret is a value that does not print: not with any verb, not inside another
// value, not as JSON. The text is behind a pointer because fmt calls no methods
// on unexported fields.
type Secret struct{ text *string }

// NewSecret wraps text.
func NewSecret(text string) Secret { return Secret{&text} }

// Reveal gives the text. Search for this name to find every place that can leak.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// IsZero reports whether s holds nothing.
func (s Secret) IsZero() bool { return s.text == nil || *s.text == "" }

// Format writes "(secret)" for every verb.
func (s Secret) Format(f fmt.State, _ rune) { io.WriteString(f, "(secret)") }

// MarshalJSON writes "(secret)".
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(`"(secret)"`), nil }
