// Logcheck checks a whole log with code that Mayfly does not share: once with
// Tessera's fsck, once with the client side of the Go checksum database
// (golang.org/x/mod/sumdb). Both rebuild the tree from the entries. A checkpoint that
// was kept must be of the same log at an earlier time.
//
//	logcheck LOG-URL VERIFIER-KEY [KEPT-CHECKPOINT-FILE]
package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api"
	"github.com/transparency-dev/tessera/api/layout"
	"github.com/transparency-dev/tessera/client"
	"github.com/transparency-dev/tessera/fsck"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// within is how long a check may take: on a log that is altered fsck can hang.
const within = time.Minute

func main() {
	if len(os.Args) < 3 || len(os.Args) > 4 {
		fmt.Fprintln(os.Stderr, "usage: logcheck LOG-URL VERIFIER-KEY [KEPT-CHECKPOINT-FILE]")
		os.Exit(2)
	}
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	if err := run(ctx, os.Args[1], os.Args[2], os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, "logcheck:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, address, vkey string, kept []string) error {
	base, err := url.Parse(address)
	if err != nil {
		return err
	}
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		return err
	}
	files, err := client.NewHTTPFetcher(base, http.DefaultClient)
	if err != nil {
		return err
	}
	failed := errors.Join(
		named("fsck", withTessera(ctx, files, verifier)),
		named("sumdb", withSumDB(ctx, files, verifier, kept)),
	)
	return failed
}

func named(tool string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", tool, err)
	}
	fmt.Println(tool + ": ok")
	return nil
}

// withTessera has Tessera rebuild every tile from the entries.
func withTessera(ctx context.Context, files fsck.Fetcher, verifier note.Verifier) error {
	hashed := func(bundle []byte) (hashes [][]byte, err error) {
		var b api.EntryBundle
		if err := b.UnmarshalText(bundle); err != nil {
			return nil, err
		}
		for _, entry := range b.Entries {
			hashes = append(hashes, rfc6962.DefaultHasher.HashLeaf(entry))
		}
		return hashes, nil
	}
	checked := make(chan error, 1)
	go func() { checked <- fsck.New(verifier.Name(), verifier, files, hashed, fsck.Opts{N: 4}).Check(ctx) }()
	select {
	case err := <-checked:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// tiles reads the hashes of a log as the Go checksum database's client wants them.
type tiles struct {
	ctx   context.Context
	files fsck.Fetcher
}

func (tiles) Height() int                     { return layout.TileHeight }
func (tiles) SaveTiles([]tlog.Tile, [][]byte) {}
func (t tiles) ReadTiles(list []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, len(list))
	for i, tile := range list {
		width := uint8(tile.W) // 0 is a full tile
		var err error
		if data[i], err = t.files.ReadTile(t.ctx, uint64(tile.L), uint64(tile.N), width); err != nil {
			return nil, err
		}
	}
	return data, nil
}

// withSumDB reads every entry and proves each to be in the tree that is signed.
func withSumDB(ctx context.Context, files fsck.Fetcher, verifier note.Verifier, kept []string) error {
	signed, err := files.ReadCheckpoint(ctx)
	if err != nil {
		return err
	}
	tree, err := open(signed, verifier)
	if err != nil {
		return err
	}
	hashes := tlog.TileHashReader(tree, tiles{ctx, files})
	var n int64
	for bundle := int64(0); n < tree.N; bundle++ {
		width := min(tree.N-n, layout.EntryBundleWidth)
		data, err := files.ReadEntryBundle(ctx, uint64(bundle), uint8(width))
		if err != nil {
			return err
		}
		for range width {
			if len(data) < 2 || len(data) < 2+int(binary.BigEndian.Uint16(data)) {
				return fmt.Errorf("the bundle of entry %d ends too soon", n)
			}
			entry := data[2 : 2+int(binary.BigEndian.Uint16(data))]
			data = data[2+len(entry):]
			proof, err := tlog.ProveRecord(tree.N, n, hashes)
			if err != nil {
				return err
			}
			if err := tlog.CheckRecord(proof, tree.N, tree.Hash, n, tlog.RecordHash(entry)); err != nil {
				return fmt.Errorf("entry %d: %w", n, err)
			}
			n++
		}
		if len(data) > 0 {
			return fmt.Errorf("the bundle before entry %d has more than it should", n)
		}
	}
	for _, name := range kept {
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		older, err := open(text, verifier)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		proof, err := tlog.ProveTree(tree.N, older.N, hashes)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := tlog.CheckTree(proof, tree.N, tree.Hash, older.N, older.Hash); err != nil {
			return fmt.Errorf("%s is not of this log: %w", name, err)
		}
	}
	return nil
}

// open is the tree head that a checkpoint of c2sp.org/tlog-checkpoint signs.
func open(checkpoint []byte, verifier note.Verifier) (tlog.Tree, error) {
	n, err := note.Open(checkpoint, note.VerifierList(verifier))
	if err != nil {
		return tlog.Tree{}, err
	}
	var origin, root string
	var size int64
	if _, err := fmt.Sscanf(n.Text, "%s\n%d\n%s\n", &origin, &size, &root); err != nil {
		return tlog.Tree{}, err
	}
	if origin != verifier.Name() {
		return tlog.Tree{}, fmt.Errorf("the checkpoint is of %s", origin)
	}
	hash, err := tlog.ParseHash(root)
	return tlog.Tree{N: size, Hash: hash}, err
}
