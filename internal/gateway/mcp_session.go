package gateway

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"

	"github.com/mayfly-id/mayfly"
)

// sealer makes the MCP session ids agents are given: the target's own id,
// sealed together with the task, key and target it belongs to. Whoever presents
// one of another task, or with another key, has a session that never existed.
// Nothing is stored: the id holds all there is to know, and the target alone
// knows whether its session still lives.
type sealer struct{ aead cipher.AEAD }

// maxSessionID bounds a target's own session id.
const maxSessionID = 512

func newSealer(key []byte) sealer {
	if key == nil {
		key = make([]byte, 32)
		rand.Read(key)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		panic("gateway: the session key must have 32 bytes: " + err.Error())
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic("gateway: " + err.Error())
	}
	return sealer{aead}
}

// owner is whom a session belongs to.
type owner struct {
	target string
	task   mayfly.TaskID
	key    string // thumbprint of the key its token is bound to, or ""
}

// bytes is different for different owners.
func (o owner) bytes() []byte {
	var b []byte
	for _, part := range []string{"mcp session", o.target, string(o.task), o.key} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(part)))
		b = append(b, part...)
	}
	return b
}

// seal makes the id that o is given for a target's session.
func (s sealer) seal(upstream string, o owner) string {
	return base64.RawURLEncoding.EncodeToString(s.aead.Seal(nil, nil, []byte(upstream), o.bytes()))
}

// open gives back the target's session id. An id that is unknown, damaged or
// somebody else's is NotFound, all the same way.
func (s sealer) open(id string, o owner) (string, error) {
	sealed, err := base64.RawURLEncoding.Strict().DecodeString(id)
	if err == nil {
		var upstream []byte
		if upstream, err = s.aead.Open(nil, nil, sealed, o.bytes()); err == nil {
			return string(upstream), nil
		}
	}
	return "", mayfly.Errorf(mayfly.NotFound, "there is no such session; initialize again").Because(err)
}

// isSessionID reports whether a target's id is one the specification allows:
// visible ASCII.
func isSessionID(id string) bool {
	for i := range len(id) {
		if id[i] < 0x21 || id[i] > 0x7e {
			return false
		}
	}
	return id != "" && len(id) <= maxSessionID
}
