package eventlog

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-json-experiment/json"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/store"
)

// Fetch reads a file of a log by its path: "vkey", "checkpoint", "anchor", or a tile
// such as "tile/0/000". It is NotFound where there is none.
type Fetch func(ctx context.Context, path string) ([]byte, error)

// Stored reads the files of the log in db.
func Stored(db *store.DB) Fetch {
	return func(ctx context.Context, path string) ([]byte, error) {
		switch path {
		case "vkey":
			k, err := loadKey(ctx, db)
			if err != nil {
				return nil, err
			}
			if k == nil {
				return nil, noLog()
			}
			return []byte(k.vkey + "\n"), nil
		case "checkpoint":
			head, err := db.Head(ctx)
			if err == nil && head.Note == nil {
				err = noLog()
			}
			return head.Note, err
		case "anchor":
			a, err := db.Anchor(ctx)
			if err == nil && a.Note == nil {
				err = mayfly.Errorf(mayfly.NotFound, "no checkpoint has been cosigned yet")
			}
			return a.Note, err
		}
		p, err := parsePath(strings.TrimPrefix(path, "tile/"))
		if err != nil {
			return nil, err
		}
		return readTile(ctx, db, p)
	}
}

func noLog() error {
	return mayfly.Errorf(mayfly.NotFound, "there is no log here yet: start the server once")
}

// Archived reads the files that [Export] wrote to dir.
func Archived(dir string) Fetch {
	return func(_ context.Context, path string) ([]byte, error) {
		data, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(path)))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, mayfly.Errorf(mayfly.NotFound, "%s holds no %s", dir, path)
		}
		return data, err
	}
}

// Export copies a log to dir as files that any static server can serve to tools for
// c2sp.org/tlog-tiles: checkpoint, anchor if there is one, tile/…, and the verifier
// key as vkey. Entries are the leaves, in clear; bodies are not exported. A directory
// that holds an earlier export gets what is new, if the log has grown out of that
// one: else the error is Conflict. What is copied is checked against the checkpoint.
// It returns the size of the log.
func Export(ctx context.Context, from Fetch, dir string) (size int64, err error) {
	vkey, err := from(ctx, "vkey")
	if err != nil {
		return 0, err
	}
	there := Archived(dir)
	if old, err := there(ctx, "vkey"); err == nil && !bytes.Equal(old, vkey) {
		return 0, mayfly.Errorf(mayfly.Conflict, "%s holds another log: name an empty directory", dir)
	}
	// The anchor first: the checkpoint that is read after it covers it.
	anchor, err := from(ctx, "anchor")
	if err != nil && mayfly.KindOf(err) != mayfly.NotFound {
		return 0, err
	}
	checkpoint, err := from(ctx, "checkpoint")
	if err != nil {
		return 0, err
	}
	k, of, err := opened(vkey, checkpoint)
	if err != nil {
		return 0, err
	}
	var before tlog.Tree
	if old, err := there(ctx, "checkpoint"); err == nil {
		if before, err = k.open(old); err != nil {
			return 0, mayfly.Errorf(mayfly.Conflict, "the checkpoint in %s is not one of this log's", dir).Because(err)
		}
	} else if mayfly.KindOf(err) != mayfly.NotFound {
		return 0, err
	}
	if before.N > of.N {
		return 0, mayfly.Errorf(mayfly.Conflict, "%s holds %d records, and the log has only %d: it was put back, or is another", dir, before.N, of.N)
	}
	if err := writeFile(filepath.Join(dir, "vkey"), vkey); err != nil {
		return 0, err
	}
	err = eachFile(ctx, of, before, from, func(path string, data []byte) error {
		return writeFile(filepath.Join(dir, filepath.FromSlash(path)), data)
	})
	if err != nil {
		return 0, err
	}
	if len(anchor) > 0 {
		if err := writeFile(filepath.Join(dir, "anchor"), anchor); err != nil {
			return 0, err
		}
	}
	// The checkpoint comes last: what it covers is there.
	return of.N, writeFile(filepath.Join(dir, "checkpoint"), checkpoint)
}

// VerifyFiles checks a whole log that is there as files, such as [Export] writes:
// that every entry hashes to its leaf and the leaves to the signed checkpoint, and
// that each of known, checkpoints kept elsewhere, is of the same log at an earlier
// time. vkey is the log's verifier key. The error names the first wrong place.
func VerifyFiles(ctx context.Context, from Fetch, vkey string, known ...[]byte) (Checked, error) {
	checkpoint, err := from(ctx, "checkpoint")
	if err != nil {
		return Checked{}, err
	}
	k, of, err := opened([]byte(vkey), checkpoint)
	if err != nil {
		return Checked{}, err
	}
	if err := eachFile(ctx, of, tlog.Tree{}, from, func(string, []byte) error { return nil }); err != nil {
		return Checked{}, err
	}
	for i, text := range known {
		older, err := k.open(text)
		if err == nil && older.N > of.N {
			err = fmt.Errorf("it is of %d records, and there are %d here", older.N, of.N)
		}
		if err == nil {
			err = part(older, of, tlog.TileHashReader(of, fetched{ctx, from}))
		}
		if err != nil {
			return Checked{}, mayfly.Errorf(mayfly.Conflict, "the checkpoint %d of those given is not of this log at an earlier time", i+1).Because(err)
		}
	}
	return Checked{Origin: k.verifier.Name(), Size: of.N, Root: of.Hash[:]}, nil
}

// Find is the position of the first record whose leaf has an id: its own, its
// decision's or its task's. It reads entry by entry, from the beginning.
func Find(ctx context.Context, from Fetch, id string) (int64, error) {
	vkey, err := from(ctx, "vkey")
	if err != nil {
		return 0, err
	}
	checkpoint, err := from(ctx, "checkpoint")
	if err != nil {
		return 0, err
	}
	_, of, err := opened(vkey, checkpoint)
	if err != nil {
		return 0, err
	}
	for first := int64(0); first < of.N; first += tileWidth {
		width := int(min(tileWidth, of.N-first))
		bundle, err := from(ctx, "tile/"+tilePath{entries: true, index: first / tileWidth, width: width}.String())
		if err != nil {
			return 0, err
		}
		for i := range width {
			leaf, err := entryIn(bundle, i)
			if err != nil {
				return 0, err
			}
			var l struct {
				ID       string `json:"id"`
				Decision string `json:"decision"`
				Task     string `json:"task"`
			}
			if err := json.Unmarshal(leaf, &l); err != nil {
				return 0, err
			}
			if id == l.ID || id == l.Decision || id == l.Task {
				return first + int64(i), nil
			}
		}
	}
	return 0, mayfly.Errorf(mayfly.NotFound, "no record of the %d there is about %s", of.N, id)
}

// opened is the key and the tree that the key has signed.
func opened(vkey, checkpoint []byte) (key, tlog.Tree, error) {
	verifier, err := note.NewVerifier(strings.TrimSpace(string(vkey)))
	if err != nil {
		return key{}, tlog.Tree{}, mayfly.Errorf(mayfly.Invalid, "the log's verifier key is not one").Because(err)
	}
	k := key{verifier: verifier}
	of, err := k.open(checkpoint)
	if err != nil {
		return key{}, tlog.Tree{}, mayfly.Errorf(mayfly.Invalid, "the checkpoint does not verify").Because(err)
	}
	return k, of, nil
}

// eachFile reads the tiles of the tree of that the tree before does not have, checks
// each against of, and hands it on.
func eachFile(ctx context.Context, of, before tlog.Tree, from Fetch, do func(path string, data []byte) error) error {
	from = remembering(from)
	hashes := tlog.TileHashReader(of, fetched{ctx, from})
	if err := part(before, of, hashes); err != nil {
		return mayfly.Errorf(mayfly.Conflict, "the log has not grown out of what was copied of it before: it was altered, or is another").Because(err)
	}
	for _, t := range tlog.NewTiles(tileHeight, before.N, of.N) {
		if err := ctx.Err(); err != nil {
			return err
		}
		path := "tile/" + tilePath{level: t.L, index: t.N, width: t.W}.String()
		data, err := from(ctx, path)
		if err != nil {
			return err
		}
		want, err := hashesOf(t, hashes)
		if err != nil {
			return mayfly.Errorf(mayfly.Conflict, "the tile %s is not one of the checkpoint's tree", path).Because(err)
		}
		if !bytes.Equal(data, want) {
			return mayfly.Errorf(mayfly.Conflict, "the tile %s is not one of the checkpoint's tree", path)
		}
		if err := do(path, data); err != nil {
			return err
		}
		if t.L > 0 {
			continue
		}
		path = "tile/" + tilePath{entries: true, index: t.N, width: t.W}.String()
		bundle, err := from(ctx, path)
		if err != nil {
			return err
		}
		if n, ok := entriesMatch(bundle, want); !ok {
			return mayfly.Errorf(mayfly.Conflict, "the entry at position %d is not the one in the tree", t.N*tileWidth+n)
		}
		if err := do(path, bundle); err != nil {
			return err
		}
	}
	return nil
}

// remembering is from, but asks for tiles of hashes once: to check one takes all that
// are above it. Of the lowest level, of which there are many, it keeps the last.
func remembering(from Fetch) Fetch {
	above := map[string][]byte{}
	var last string
	var lastData []byte
	return func(ctx context.Context, path string) ([]byte, error) {
		if data, known := above[path]; known {
			return data, nil
		}
		if path == last {
			return lastData, nil
		}
		data, err := from(ctx, path)
		switch {
		case err != nil || strings.HasPrefix(path, "tile/entries/"):
		case strings.HasPrefix(path, "tile/0/"):
			last, lastData = path, data
		default:
			above[path] = data
		}
		return data, err
	}
}

// hashesOf is what a tile must hold, by hashes that are checked against the root.
func hashesOf(t tlog.Tile, hashes tlog.HashReader) ([]byte, error) {
	indexes := make([]int64, t.W)
	for i := range indexes {
		indexes[i] = tlog.StoredHashIndex(t.L*tileHeight, t.N*tileWidth+int64(i))
	}
	list, err := hashes.ReadHashes(indexes)
	if err != nil {
		return nil, err
	}
	var data []byte
	for _, h := range list {
		data = append(data, h[:]...)
	}
	return data, nil
}

// entriesMatch reports whether bundle holds just the entries with these leaf hashes,
// and if not, which is the first that is not right.
func entriesMatch(bundle, leaves []byte) (n int64, ok bool) {
	for ; len(leaves) > 0; n++ {
		if len(bundle) < 2 || len(bundle) < 2+int(binary.BigEndian.Uint16(bundle)) {
			return n, false
		}
		entry := bundle[2 : 2+int(binary.BigEndian.Uint16(bundle))]
		if tlog.RecordHash(entry) != tlog.Hash(leaves[:tlog.HashSize]) {
			return n, false
		}
		bundle, leaves = bundle[2+len(entry):], leaves[tlog.HashSize:]
	}
	return n, len(bundle) == 0
}

// writeFile puts data at path whole or not at all.
func writeFile(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
