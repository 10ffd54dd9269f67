package eventlog

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/mayfly-id/mayfly"
)

// proofHeader is the first line of a proof (c2sp.org/tlog-proof).
const proofHeader = "c2sp.org/tlog-proof@v1"

// maxProof bounds what is read as a proof, in bytes: a leaf, a checkpoint and
// some sixty hashes.
const maxProof = 256 << 10

// Prove makes the proof that the record at position is in a log: one file
// (c2sp.org/tlog-proof), with the record's leaf as its extra data, that a third
// party can check with nothing but the log's verifier key. fetch reads what the
// log serves: "anchor", "checkpoint", and tiles as "tile/0/000"; what it reads is
// checked against the checkpoint, which must verify under vkey. That is the
// anchor, with its cosignatures, where there is one that covers the record. The
// error is NotFound where the log is not that large yet.
func Prove(ctx context.Context, vkey string, position int64, fetch func(ctx context.Context, path string) ([]byte, error)) ([]byte, error) {
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		return nil, mayfly.Errorf(mayfly.Invalid, "the log's verifier key is not one").Because(err)
	}
	checkpoint, of, err := newest(ctx, key{verifier: verifier}, position, fetch)
	if err != nil {
		return nil, err
	}
	if position < 0 || position >= of.N {
		return nil, mayfly.Errorf(mayfly.NotFound, "the log has no record at position %d yet; its checkpoint covers %d", position, of.N)
	}
	hashes := tlog.TileHashReader(of, fetched{ctx, fetch})
	path, err := tlog.ProveRecord(of.N, position, hashes)
	if err != nil {
		return nil, mayfly.Errorf(mayfly.BadUpstream, "the log's tiles are not those of its checkpoint, or cannot be read").Because(err)
	}
	index := position / tileWidth
	width := int(min(tileWidth, of.N-index*tileWidth))
	bundle, err := fetch(ctx, "tile/"+tilePath{entries: true, index: index, width: width}.String())
	if err != nil {
		return nil, err
	}
	leaf, err := entryIn(bundle, int(position%tileWidth))
	if err != nil {
		return nil, err
	}

	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\nextra %s\nindex %d\n", proofHeader, base64.StdEncoding.EncodeToString(leaf), position)
	for _, h := range path {
		b.WriteString(base64.StdEncoding.EncodeToString(h[:]) + "\n")
	}
	b.WriteByte('\n')
	b.Write(checkpoint)
	// What is handed out has been checked as a third party will check it.
	if _, err := CheckProof(b.Bytes(), vkey, Quorum{}); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// newest is the checkpoint to prove a record under: the anchor if it covers it,
// else the log's own newest.
func newest(ctx context.Context, k key, position int64, fetch func(ctx context.Context, path string) ([]byte, error)) ([]byte, tlog.Tree, error) {
	var checkpoint []byte
	var of tlog.Tree
	for _, name := range []string{"anchor", "checkpoint"} {
		var err error
		checkpoint, err = fetch(ctx, name)
		if name == "anchor" && mayfly.KindOf(err) == mayfly.NotFound {
			continue
		}
		if err != nil {
			return nil, tlog.Tree{}, err
		}
		if of, err = k.open(checkpoint); err != nil {
			return nil, tlog.Tree{}, mayfly.Errorf(mayfly.BadUpstream, "the log's %s does not verify", name).Because(err)
		}
		if of.N > position {
			break
		}
	}
	return checkpoint, of, nil
}

// fetched reads tiles of hashes from where a log serves them.
type fetched struct {
	ctx   context.Context
	fetch func(ctx context.Context, path string) ([]byte, error)
}

func (fetched) Height() int { return tileHeight }

func (f fetched) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	all := make([][]byte, len(tiles))
	for i, t := range tiles {
		data, err := f.fetch(f.ctx, "tile/"+tilePath{level: t.L, index: t.N, width: t.W}.String())
		if err != nil {
			return nil, err
		}
		if len(data) != t.W*tlog.HashSize {
			return nil, fmt.Errorf("a tile of %d hashes has %d bytes", t.W, len(data))
		}
		all[i] = data
	}
	return all, nil
}

func (fetched) SaveTiles([]tlog.Tile, [][]byte) {}

// entryIn is the n-th entry of a bundle.
func entryIn(bundle []byte, n int) ([]byte, error) {
	for ; len(bundle) >= 2; n-- {
		size := int(binary.BigEndian.Uint16(bundle))
		if len(bundle) < 2+size {
			break
		}
		if n == 0 {
			return bundle[2 : 2+size], nil
		}
		bundle = bundle[2+size:]
	}
	return nil, mayfly.Errorf(mayfly.BadUpstream, "the log's bundle of entries is cut short")
}

// Proof is what a proof file says, once it was checked.
type Proof struct {
	Origin   string `json:"origin"`
	Position int64  `json:"position"`
	Size     int64  `json:"size"` // of the checkpoint
	Root     []byte `json:"root"`
	Leaf     []byte `json:"leaf"` // canonical JSON, as it was hashed into the tree
	// Witnesses are the names of those of the quorum that cosigned it.
	Witnesses []string `json:"witnesses,omitempty"`
}

// CheckProof checks a proof file against a log's verifier key and a quorum of
// witnesses: the checkpoint is signed and cosigned by them, and the leaf in the
// file is in the tree that the checkpoint speaks of, at its position. It shares no
// code with what makes proofs but the hash function. The error, of kind Invalid,
// says what is wrong.
func CheckProof(file []byte, vkey string, q Quorum) (Proof, error) {
	wrong := func(format string, args ...any) (Proof, error) {
		return Proof{}, mayfly.Errorf(mayfly.Invalid, "the proof does not hold: "+format, args...)
	}
	sigs, err := note.NewVerifier(vkey)
	if err != nil {
		return Proof{}, mayfly.Errorf(mayfly.Invalid, "%q is not a verifier key of a log", vkey)
	}
	if len(file) > maxProof {
		return wrong("it is longer than %d bytes", maxProof)
	}
	head, checkpoint, found := bytes.Cut(file, []byte("\n\n"))
	if !found {
		return wrong("it holds no checkpoint")
	}
	lines := strings.Split(string(head), "\n")
	if len(lines) < 3 || lines[0] != proofHeader {
		return wrong("it does not begin with %q", proofHeader)
	}
	text, ok := strings.CutPrefix(lines[1], "extra ")
	leaf, err := base64.StdEncoding.Strict().DecodeString(text)
	if !ok || err != nil {
		return wrong("its second line is not the record, as extra data")
	}
	number, ok := strings.CutPrefix(lines[2], "index ")
	position, err := strconv.ParseInt(number, 10, 64)
	if !ok || err != nil || position < 0 || strconv.FormatInt(position, 10) != number {
		return wrong("its third line is not an index")
	}
	var path [][]byte
	for _, line := range lines[3:] {
		h, err := base64.StdEncoding.Strict().DecodeString(line)
		if err != nil || len(h) != rfc6962.DefaultHasher.Size() {
			return wrong("a line of it is not a hash")
		}
		path = append(path, h)
	}
	c, err := (&verifier{sigs: sigs}).checkpoint(checkpoint)
	if err != nil {
		return wrong("its checkpoint is not one of the log %s: %v", sigs.Name(), err)
	}
	by, err := q.Cosigned(checkpoint)
	if err != nil {
		return wrong("%v", err)
	}
	err = proof.VerifyInclusion(rfc6962.DefaultHasher, uint64(position), c.Size, rfc6962.DefaultHasher.HashLeaf(leaf), path, c.Hash)
	if mismatch := (proof.RootMismatchError{}); errors.As(err, &mismatch) {
		return wrong("the record in it is not the one at position %d of %d", position, c.Size)
	}
	if err != nil {
		return wrong("%v", err)
	}
	return Proof{Origin: sigs.Name(), Position: position, Size: int64(c.Size), Root: c.Hash, Leaf: leaf, Witnesses: namesOf(by)}, nil
}

// IsProof reports whether a file begins as a proof does.
func IsProof(file []byte) bool { return bytes.HasPrefix(file, []byte(proofHeader+"\n")) }
