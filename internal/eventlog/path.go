package eventlog

import (
	"encoding/binary"
	"errors"
	"strconv"
	"strings"

	"github.com/mayfly-id/mayfly"
)

// tileWidth is how many hashes or entries a full tile holds (c2sp.org/tlog-tiles).
const tileWidth = 1 << tileHeight

// tileHeight is the height of a tile of hashes: each level of tiles stands on
// every eighth level of the tree.
const tileHeight = 8

// maxTile is above every index a path may name, so that positions stay far from
// the end of an int64.
const maxTile = 1 << 50

// tilePath names a tile: its width leftmost hashes, or entries.
type tilePath struct {
	entries bool  // a bundle of entries, not of hashes
	level   int   // 0 to 63; 0 with entries
	index   int64 // from the left
	width   int   // 1 to 256; below 256 the tile is partial
}

// String is the path of p below "tile/", as c2sp.org/tlog-tiles spells it.
func (p tilePath) String() string {
	name := strconv.Itoa(p.level)
	if p.entries {
		name = "entries"
	}
	digits := strconv.FormatInt(p.index, 10)
	digits = strings.Repeat("0", (3-len(digits)%3)%3) + digits
	for ; len(digits) > 3; digits = digits[3:] {
		name += "/x" + digits[:3]
	}
	name += "/" + digits
	if p.width < tileWidth {
		name += ".p/" + strconv.Itoa(p.width)
	}
	return name
}

// parsePath reads what String writes and nothing else: one tile has one path.
func parsePath(path string) (tilePath, error) {
	no := mayfly.Errorf(mayfly.NotFound, "there is no such tile; tile paths are those of c2sp.org/tlog-tiles, such as 0/x001/067")
	const longest = len("entries/x999/x999/x999/x999/x999/999.p/255")
	if len(path) > longest {
		return tilePath{}, no
	}
	p := tilePath{width: tileWidth}
	first, rest, _ := strings.Cut(path, "/")
	if p.entries = first == "entries"; !p.entries {
		level, err := strconv.ParseUint(first, 10, 6)
		if err != nil {
			return tilePath{}, no
		}
		p.level = int(level)
	}
	if number, width, partial := strings.Cut(rest, ".p/"); partial {
		w, err := strconv.ParseUint(width, 10, 8)
		if err != nil || w == 0 {
			return tilePath{}, no
		}
		p.width, rest = int(w), number
	}
	for {
		group, more, found := strings.Cut(rest, "/")
		if found {
			group, found = strings.CutPrefix(group, "x")
			if !found {
				return tilePath{}, no
			}
		}
		n, err := strconv.ParseUint(group, 10, 10)
		if err != nil || len(group) != 3 || n > 999 {
			return tilePath{}, no
		}
		if p.index = p.index*1000 + int64(n); p.index > maxTile {
			return tilePath{}, no
		}
		if rest = more; !found {
			break
		}
	}
	// What is left could be said in two ways: leading zeros, a plus sign.
	if p.String() != path {
		return tilePath{}, no
	}
	return p, nil
}

// maxEntry is the longest entry a bundle has room for, in bytes.
const maxEntry = 1<<16 - 1

// appendEntry adds a leaf to a bundle of entries.
func appendEntry(bundle, leaf []byte) ([]byte, error) {
	if len(leaf) > maxEntry {
		return nil, errors.New("eventlog: a leaf is longer than an entry can be")
	}
	return append(binary.BigEndian.AppendUint16(bundle, uint16(len(leaf))), leaf...), nil
}
