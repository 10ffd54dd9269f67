package mayfly

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
)

// Semantic is the hash of what c means: kind, target, action, the tool's
// definition, and the arguments in canonical form; base64url SHA-256. Calls that
// differ only in how they are written have the same. Where the arguments cannot
// be read it is over the digest of what is forwarded instead, and "" where that
// is not known either: such a call can be bound to nothing.
func (c *Call) Semantic() string {
	form, text := "arguments", ""
	canonical, err := c.Arguments.Canonical()
	switch {
	case !c.NoArguments && err == nil:
		text = string(canonical)
	case c.Digest != "":
		form, text = "digest", c.Digest
	default:
		return ""
	}
	h := sha256.New()
	for _, part := range []string{c.Kind, c.Target, c.Action, c.Definition, form, text} {
		// With its length before it, no part can be taken for two.
		var size [8]byte
		binary.BigEndian.PutUint64(size[:], uint64(len(part)))
		h.Write(size[:])
		h.Write([]byte(part))
	}
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}
