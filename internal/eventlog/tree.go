package eventlog

import (
	"fmt"
	"maps"

	"golang.org/x/mod/sumdb/tlog"
)

// tile is a tile of hashes with its data, width × 32 bytes.
type tile struct {
	tilePath
	data []byte
}

// tree is a Merkle tree (RFC 6962) of which only the right edge is held: the
// rightmost tile of each level, which is all that appending needs. A tree does
// not change; append gives another.
type tree struct {
	tlog.Tree
	edge map[int]tile // by level
}

// emptyTree has no leaf; its hash is SHA-256 of nothing (RFC 6962 section 2.1).
func emptyTree() (tree, error) {
	root, err := tlog.TreeHash(0, nil)
	return tree{Tree: tlog.Tree{Hash: root}}, err
}

// ReadHashes reads from the edge.
func (t tree) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		at := tlog.TileForIndex(tileHeight, x)
		e, ok := t.edge[at.L]
		if !ok || e.index != at.N || e.width < at.W {
			return nil, fmt.Errorf("eventlog: hash %d is not on the edge of a tree of %d", x, t.N)
		}
		at.W = e.width
		var err error
		if hashes[i], err = tlog.HashFromTile(at, e.data, x); err != nil {
			return nil, fmt.Errorf("eventlog: the edge of a tree of %d: %w", t.N, err)
		}
	}
	return hashes, nil
}

// append is t with more leaves, given by their hashes, and every tile that is
// new or wider for it.
func (t tree) append(leaves []tlog.Hash) (tree, []tile, error) {
	added := map[int64]tlog.Hash{}
	read := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		hashes := make([]tlog.Hash, len(indexes))
		for i, x := range indexes {
			if h, ok := added[x]; ok {
				hashes[i] = h
				continue
			}
			h, err := t.ReadHashes([]int64{x})
			if err != nil {
				return nil, err
			}
			hashes[i] = h[0]
		}
		return hashes, nil
	})
	size := t.N
	for _, leaf := range leaves {
		stored, err := tlog.StoredHashesForRecordHash(size, leaf, read)
		if err != nil {
			return tree{}, nil, err
		}
		first := tlog.StoredHashIndex(0, size)
		for i, h := range stored {
			added[first+int64(i)] = h
		}
		size++
	}
	next := tree{Tree: tlog.Tree{N: size}, edge: maps.Clone(t.edge)}
	if next.edge == nil {
		next.edge = map[int]tile{}
	}
	var tiles []tile
	for _, at := range tlog.NewTiles(tileHeight, t.N, size) {
		data, err := tlog.ReadTileData(at, read)
		if err != nil {
			return tree{}, nil, err
		}
		n := tile{tilePath{level: at.L, index: at.N, width: at.W}, data}
		tiles = append(tiles, n)
		next.edge[at.L] = n // a level's tiles come from left to right
	}
	var err error
	if next.Hash, err = tlog.TreeHash(size, read); err != nil {
		return tree{}, nil, err
	}
	return next, tiles, nil
}

// reader reads stored tiles for tlog, cut to the width that is asked for: what
// is stored may have grown since.
type reader struct {
	tile   func(level int, index int64) ([]byte, error) // a tile's data, nil if there is none
	proven func(tile)                                   // told of each tile that was found to be in the tree; may be nil
	unread error                                        // why a tile could not be read, which is no sign that it is wrong
}

// Height is that of every tile.
func (*reader) Height() int { return tileHeight }

// ReadTiles reads each tile.
func (r *reader) ReadTiles(wanted []tlog.Tile) ([][]byte, error) {
	all := make([][]byte, len(wanted))
	for i, w := range wanted {
		data, err := r.tile(w.L, w.N)
		if err != nil {
			r.unread = err
			return nil, err
		}
		if len(data) < w.W*tlog.HashSize {
			return nil, fmt.Errorf("the tile %s is missing or cut short", tilePath{level: w.L, index: w.N, width: w.W})
		}
		all[i] = data[:w.W*tlog.HashSize]
	}
	return all, nil
}

// SaveTiles hears which tiles are proven.
func (r *reader) SaveTiles(wanted []tlog.Tile, data [][]byte) {
	if r.proven == nil {
		return
	}
	for i, w := range wanted {
		r.proven(tile{tilePath{level: w.L, index: w.N, width: w.W}, data[i]})
	}
}

// loadTree is the tree that a checkpoint speaks of, its edge read from stored
// tiles and proven to be in it.
func loadTree(of tlog.Tree, stored *reader) (tree, error) {
	if of.N == 0 {
		empty, err := emptyTree()
		if err == nil && empty.Hash != of.Hash {
			err = fmt.Errorf("eventlog: the checkpoint of an empty log has a root")
		}
		return empty, err
	}
	t := tree{Tree: of, edge: map[int]tile{}}
	stored.proven = func(p tile) {
		if e, ok := t.edge[p.level]; !ok || e.index < p.index {
			t.edge[p.level] = p
		}
	}
	// Reading the last leaf proves the tiles of the whole edge.
	last := tlog.StoredHashIndex(0, of.N-1)
	if _, err := tlog.TileHashReader(of, stored).ReadHashes([]int64{last}); err != nil {
		return tree{}, fmt.Errorf("eventlog: the stored tiles are not those of the checkpoint of %d: %w", of.N, err)
	}
	stored.proven = nil
	return t, nil
}
