package eventlog

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// key signs checkpoints and knows its own signatures. Its name is the log's
// origin.
type key struct {
	signer   note.Signer
	verifier note.Verifier
	vkey     string // the verifier key of c2sp.org/signed-note, one line without its end
}

// newKey makes an Ed25519 key for the log that is called origin. private is
// what parseKey reads.
func newKey(origin string) (k key, private []byte, err error) {
	skey, vkey, err := note.GenerateKey(rand.Reader, origin)
	if err != nil {
		return key{}, nil, fmt.Errorf("eventlog: making a key for %q: %w", origin, err)
	}
	k, err = parseKey(vkey, []byte(skey))
	return k, []byte(skey), err
}

// parseKey puts the two halves of a key together and checks that they are.
func parseKey(vkey string, private []byte) (key, error) {
	s, err := note.NewSigner(string(private))
	if err != nil {
		return key{}, errors.New("eventlog: the log's private key cannot be read")
	}
	v, err := note.NewVerifier(vkey)
	if err != nil {
		return key{}, fmt.Errorf("eventlog: the log's verifier key: %w", err)
	}
	k := key{signer: s, verifier: v, vkey: vkey}
	signed, err := k.sign(tlog.Tree{})
	if err != nil {
		return key{}, err
	}
	if _, err := k.open(signed); err != nil {
		return key{}, errors.New("eventlog: the log's private key is not that of its verifier key")
	}
	return k, nil
}

// sign is the checkpoint of tree (c2sp.org/tlog-checkpoint), signed.
func (k key) sign(tree tlog.Tree) ([]byte, error) {
	text := fmt.Sprintf("%s\n%d\n%s\n", k.verifier.Name(), tree.N, base64.StdEncoding.EncodeToString(tree.Hash[:]))
	signed, err := note.Sign(&note.Note{Text: text}, k.signer)
	if err != nil {
		return nil, fmt.Errorf("eventlog: signing a checkpoint: %w", err)
	}
	return signed, nil
}

// maxCheckpoint bounds what is read as a checkpoint, in bytes.
const maxCheckpoint = 64 << 10

// open is the tree that checkpoint is signed for. It takes only what sign
// writes: this log's origin, one spelling, and no extension lines. Signatures
// of others, such as witnesses, may stand beside ours.
func (k key) open(checkpoint []byte) (tlog.Tree, error) {
	if len(checkpoint) > maxCheckpoint {
		return tlog.Tree{}, errors.New("eventlog: the checkpoint is too long")
	}
	n, err := note.Open(checkpoint, note.VerifierList(k.verifier))
	if err != nil {
		return tlog.Tree{}, fmt.Errorf("eventlog: the checkpoint is not signed by %s: %w", k.verifier.Name(), err)
	}
	lines := strings.Split(n.Text, "\n")
	if len(lines) != 4 || lines[3] != "" {
		return tlog.Tree{}, errors.New("eventlog: a checkpoint has three lines")
	}
	if lines[0] != k.verifier.Name() {
		return tlog.Tree{}, fmt.Errorf("eventlog: the checkpoint is of the log %q, not of %q", lines[0], k.verifier.Name())
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 || size > maxTile || strconv.FormatInt(size, 10) != lines[1] {
		return tlog.Tree{}, errors.New("eventlog: the checkpoint's size is not one")
	}
	root, err := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || len(root) != tlog.HashSize {
		return tlog.Tree{}, errors.New("eventlog: the checkpoint's root hash is not one")
	}
	return tlog.Tree{N: size, Hash: tlog.Hash(root)}, nil
}
