package eventlog

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/mod/sumdb/note"

	"github.com/mayfly-id/mayfly"
)

// Types of keys in a verifier key (c2sp.org/signed-note).
const (
	typeEd25519 = 0x01 // signs notes, such as a log's checkpoints
	typeCosign  = 0x04 // Ed25519, signs timestamped cosignatures
	typeMLDSA   = 0x06 // ML-DSA-44, signs timestamped cosignatures
)

// WitnessKey verifies the cosignatures of one witness (c2sp.org/tlog-cosignature,
// the Ed25519 kind). It is a [note.Verifier]. The zero key verifies nothing.
type WitnessKey struct {
	name   string
	hash   uint32
	public [ed25519.PublicKeySize]byte
}

// ParseWitnessKey reads a witness's verifier key: its name, the id of the key in
// hexadecimal, and the key, joined by plus signs.
func ParseWitnessKey(vkey string) (WitnessKey, error) {
	wrong := func(format string, args ...any) (WitnessKey, error) {
		return WitnessKey{}, mayfly.Errorf(mayfly.Invalid, format, args...)
	}
	parts := strings.SplitN(vkey, "+", 3)
	if len(parts) != 3 {
		return wrong("%q is not the verifier key of a witness; it looks like name+0123abcd+BASE64", vkey)
	}
	name := parts[0]
	if name == "" || !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsSpace) || strings.ContainsFunc(name, unicode.IsControl) {
		return wrong("%q is not the name of a witness", name)
	}
	data, err := base64.StdEncoding.Strict().DecodeString(parts[2])
	if err != nil || len(data) == 0 {
		return wrong("the key of the witness %s is not in base64", name)
	}
	switch data[0] {
	case typeCosign:
	case typeEd25519:
		return wrong("the key of %s is one that signs notes (type 0x01), as a log's does; a witness has one that cosigns (type 0x04)", name)
	case typeMLDSA:
		return wrong("the key of the witness %s is of ML-DSA-44 (type 0x06), which this version does not verify; take its Ed25519 key (type 0x04)", name)
	default:
		return wrong("the key of %s is of type 0x%02x; a witness has one that cosigns (type 0x04)", name, data[0])
	}
	if len(data) != 1+ed25519.PublicKeySize {
		return wrong("the key of the witness %s has %d bytes, not %d", name, len(data)-1, ed25519.PublicKeySize)
	}
	sum := sha256.Sum256(append([]byte(name+"\n"), data...))
	k := WitnessKey{name: name, hash: binary.BigEndian.Uint32(sum[:]), public: [ed25519.PublicKeySize]byte(data[1:])}
	if id := fmt.Sprintf("%08x", k.hash); id != parts[1] {
		return wrong("the key of the witness %s does not have the id %q but %s: a character of it is wrong", name, parts[1], id)
	}
	return k, nil
}

// Name is the witness's name, which stands before its cosignatures.
func (k WitnessKey) Name() string { return k.name }

// KeyHash is the id of the key, which begins its cosignatures.
func (k WitnessKey) KeyHash() uint32 { return k.hash }

// String is the verifier key.
func (k WitnessKey) String() string {
	return fmt.Sprintf("%s+%08x+%s", k.name, k.hash, base64.StdEncoding.EncodeToString(append([]byte{typeCosign}, k.public[:]...)))
}

// SameKey reports whether o is the same key, whatever the names: what is signed
// does not say who signs it, so two witnesses of one key are one.
func (k WitnessKey) SameKey(o WitnessKey) bool { return k.public == o.public }

// Verify reports whether sig, a time and a signature, is the witness's over the
// text of a checkpoint.
func (k WitnessKey) Verify(text, sig []byte) bool {
	const timeSize = 8
	if len(sig) != timeSize+ed25519.SignatureSize {
		return false
	}
	at := binary.BigEndian.Uint64(sig)
	if at > math.MaxInt64 {
		return false
	}
	message := append([]byte("cosignature/v1\ntime "+strconv.FormatUint(at, 10)+"\n"), text...)
	return ed25519.Verify(k.public[:], message, sig[timeSize:])
}

// maxWitnesses bounds a quorum: a note has room for a hundred signatures.
const maxWitnesses = 64

// Quorum says which witnesses' cosignatures a checkpoint must have: Need of those
// of Keys. The zero Quorum asks for none.
type Quorum struct {
	Keys []WitnessKey
	Need int
}

// ParseQuorum reads how many of some witnesses it takes: any, all, or a number.
func ParseQuorum(text string, of int) (need int, err error) {
	switch text {
	case "any":
		need = 1
	case "all":
		need = of
	default:
		need, err = strconv.Atoi(text)
	}
	switch {
	case err != nil || text != "any" && text != "all" && strconv.Itoa(need) != text:
		return 0, mayfly.Errorf(mayfly.Invalid, "%q is not a quorum; write any, all, or how many", text)
	case need < 1:
		return 0, mayfly.Errorf(mayfly.Invalid, "a quorum of %d asks nothing of anybody; write any, all, or how many", need)
	case need > of:
		return 0, mayfly.Errorf(mayfly.Invalid, "a quorum of %d can never be met: there are %d witnesses", need, of)
	}
	return need, nil
}

// NewQuorum is need of keys, if each is another witness's.
func NewQuorum(need string, keys ...WitnessKey) (Quorum, error) {
	if len(keys) > maxWitnesses {
		return Quorum{}, mayfly.Errorf(mayfly.Invalid, "%d witnesses are more than %d", len(keys), maxWitnesses)
	}
	for i, k := range keys {
		for _, other := range keys[:i] {
			if k.SameKey(other) {
				return Quorum{}, mayfly.Errorf(mayfly.Invalid, "the witnesses %s and %s have the same key: they are one", other.name, k.name)
			}
		}
	}
	n, err := ParseQuorum(need, len(keys))
	return Quorum{keys, n}, err
}

// Cosigned gives the witnesses of q that have cosigned checkpoint. The error, of
// kind Invalid, says that they are too few, or that a cosignature is bad. It does
// not look at the signature of the log.
func (q Quorum) Cosigned(checkpoint []byte) ([]WitnessKey, error) {
	if len(q.Keys) == 0 {
		return nil, nil
	}
	n, err := openNote(checkpoint, q.Keys...)
	if err != nil {
		return nil, mayfly.Errorf(mayfly.Invalid, "the checkpoint's cosignatures: %v", err)
	}
	var by []WitnessKey
	for _, k := range q.Keys {
		for _, s := range n.Sigs {
			if s.Name == k.name && s.Hash == k.hash {
				by = append(by, k)
			}
		}
	}
	if len(by) >= q.Need {
		return by, nil
	}
	have := "none of them has"
	if len(by) > 0 {
		have = "only " + strings.Join(namesOf(by), ", ") + " has"
	}
	return by, mayfly.Errorf(mayfly.Invalid, "the checkpoint needs the cosignatures of %d of %d witnesses, and %s cosigned it", q.Need, len(q.Keys), have)
}

func namesOf(keys []WitnessKey) (names []string) {
	for _, k := range keys {
		names = append(names, k.name)
	}
	return names
}

// openNote reads a note. What is not signed by any of keys is no error here.
func openNote(signed []byte, keys ...WitnessKey) (*note.Note, error) {
	if len(signed) > maxCheckpoint {
		return nil, errors.New("the checkpoint is too long")
	}
	known := make([]note.Verifier, len(keys))
	for i, k := range keys {
		known[i] = k
	}
	n, err := note.Open(signed, note.VerifierList(known...))
	if none, ok := errors.AsType[*note.UnverifiedNoteError](err); ok {
		return none.Note, nil
	}
	return n, err
}

// Cosignature finds, in what a witness answered with, the line that is its
// cosignature of checkpoint, which follows the checkpoint as it is. Lines of
// others are passed over; a line that says it is the witness's and does not
// verify is an error.
func Cosignature(checkpoint, answer []byte, k WitnessKey) ([]byte, error) {
	if len(answer) == 0 || answer[len(answer)-1] != '\n' || bytes.Contains(answer, []byte("\n\n")) {
		return nil, errors.New("the answer is not lines of signatures")
	}
	text, _, found := bytes.Cut(checkpoint, []byte("\n\n"))
	if !found {
		return nil, errors.New("eventlog: the checkpoint is not a note")
	}
	n, err := openNote(append(append(bytes.Clone(text), "\n\n"...), answer...), k)
	if err != nil {
		return nil, err
	}
	if n.Text != string(text)+"\n" {
		return nil, errors.New("the answer is not lines of signatures")
	}
	for _, s := range n.Sigs {
		return []byte("— " + s.Name + " " + s.Base64 + "\n"), nil
	}
	return nil, fmt.Errorf("the answer has no cosignature of %s: is the key it signs with the one that is configured?", k)
}
