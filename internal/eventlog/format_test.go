package eventlog

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"
)

func TestATileHasOnePath(t *testing.T) {
	for path, want := range map[string]tilePath{
		"0/000":                     {width: 256},
		"0/x001/x234/067":           {index: 1234067, width: 256},
		"63/999.p/255":              {level: 63, index: 999, width: 255},
		"1/x001/000.p/1":            {level: 1, index: 1000, width: 1},
		"entries/000":               {entries: true, width: 256},
		"entries/x001/x234/067.p/8": {entries: true, index: 1234067, width: 8},
	} {
		got, err := parsePath(path)
		if err != nil || got != want {
			t.Errorf("parsePath(%q) = %+v, %v, want %+v", path, got, err, want)
		}
		if got := want.String(); got != path {
			t.Errorf("%+v is spelled %q, want %q", want, got, path)
		}
	}
	for _, path := range []string{
		"", "/", "0", "0/", "0/0", "0/00", "0/0000", "0/x000/000", "0/x000/001", "00/000", "64/000", "-1/000", "+1/000", "0/+00",
		"0/000.p/0", "0/000.p/256", "0/000.p/01", "0/000.p/", "0/000.p", "0/000.p/1.p/2", "0/000/", "/0/000", "0//000", "0/001/000",
		"0/x001/x000", "entries", "entries/", "entries/x", "Entries/000", "data/000", "0/../000", "0/%30", "0/000 ", "0/٠٠٠",
		"0/x999/x999/x999/x999/x999/999", "0/x999/x999/x999/x999/x999/x999/x999/999",
	} {
		if got, err := parsePath(path); err == nil {
			t.Errorf("parsePath(%q) = %+v, want an error", path, got)
		}
	}
}

func FuzzATileHasOnePath(f *testing.F) {
	for _, s := range []string{"0/000", "entries/x001/067.p/9", "63/x999/999", "0/x000/000", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		p, err := parsePath(path)
		if err != nil {
			return
		}
		if p.String() != path || p.index < 0 || p.width < 1 || p.width > tileWidth || p.level < 0 || p.level > 63 {
			t.Fatalf("parsePath(%q) = %+v, which is spelled %q", path, p, p)
		}
	})
}

// grown is the tree of n leaves, grown by steps of these sizes over and over,
// and all its tiles as a store would hold them.
func grown(t testing.TB, n int, steps ...int) (tree, map[[2]int64][]byte) {
	t.Helper()
	of, err := emptyTree()
	if err != nil {
		t.Fatal(err)
	}
	stored := map[[2]int64][]byte{}
	for i := 0; int(of.N) < n; i++ {
		var leaves []tlog.Hash
		for range min(steps[i%len(steps)], n-int(of.N)) {
			leaves = append(leaves, tlog.RecordHash(fmt.Appendf(nil, "leaf %d", int(of.N)+len(leaves))))
		}
		var wider []tile
		if of, wider, err = of.append(leaves); err != nil {
			t.Fatal(err)
		}
		for _, w := range wider {
			stored[[2]int64{int64(w.level), w.index}] = w.data
		}
	}
	return of, stored
}

func TestTreeGrowsTheSameHoweverItIsCutIntoSteps(t *testing.T) {
	for _, n := range []int{0, 1, 2, 255, 256, 257, 511, 512, 513, 1000, 65535, 65536, 65537, 66000} {
		r := (&compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}).NewEmptyRange(0)
		for i := range n {
			if err := r.Append(rfc6962.DefaultHasher.HashLeaf(fmt.Appendf(nil, "leaf %d", i)), nil); err != nil {
				t.Fatal(err)
			}
		}
		want := rfc6962.DefaultHasher.EmptyRoot()
		if n > 0 {
			var err error
			if want, err = r.GetRootHash(nil); err != nil {
				t.Fatal(err)
			}
		}
		for _, steps := range [][]int{{256}, {1, 255, 3}, {7, 256, 100, 1}} {
			if n > 1000 && len(steps) == 3 {
				continue // many small steps take long and show nothing more
			}
			of, stored := grown(t, n, steps...)
			if !bytes.Equal(of.Hash[:], want) {
				t.Errorf("%d leaves in steps of %v have the root %v, want %x", n, steps, of.Hash, want)
			}
			loaded, err := loadTree(of.Tree, readerOf(stored))
			if err != nil {
				t.Errorf("loading a tree of %d: %v", n, err)
				continue
			}
			// A loaded tree goes on as the one that was never put down.
			more := []tlog.Hash{tlog.RecordHash([]byte("a")), tlog.RecordHash([]byte("b"))}
			a, tilesA, errA := of.append(more)
			b, tilesB, errB := loaded.append(more)
			if errA != nil || errB != nil || a.Tree != b.Tree || fmt.Sprint(tilesA) != fmt.Sprint(tilesB) {
				t.Errorf("%d leaves: a loaded tree goes on differently: %v %v", n, errA, errB)
			}
		}
	}
}

func readerOf(stored map[[2]int64][]byte) *reader {
	return &reader{tile: func(level int, index int64) ([]byte, error) { return stored[[2]int64{int64(level), index}], nil }}
}

func TestNoAlteredEdgeIsLoaded(t *testing.T) {
	for _, n := range []int{1, 255, 256, 257, 700, 65537} {
		of, stored := grown(t, n, 256)
		for at := range of.edge {
			key := [2]int64{int64(at), of.edge[at].index}
			if of.edge[at].width == tileWidth && int64(n)>>(tileHeight*at)%tileWidth == 0 && at > 0 {
				continue // a full tile above the last leaf's may stand off the edge
			}
			data := stored[key]
			for _, bad := range [][]byte{nil, data[:len(data)-32], append(bytes.Clone(data[:len(data)-1]), data[len(data)-1]^1)} {
				other := maps.Clone(stored)
				other[key] = bad
				if loaded, err := loadTree(of.Tree, readerOf(other)); err == nil && !slices.Equal(loaded.edge[at].data, data) {
					t.Errorf("%d leaves: a tree was loaded with tile %v altered", n, key)
				}
			}
		}
	}
}

func TestATreeNeverForksFromWhatItWas(t *testing.T) {
	_, stored := grown(t, 3000, 256)
	rapid.Check(t, func(t *rapid.T) {
		a := rapid.IntRange(1, 3000).Draw(t, "a")
		b := rapid.IntRange(a, 3000).Draw(t, "b")
		hash := func(n int) tlog.Hash {
			h, err := tlog.TreeHash(int64(n), tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
				var all []tlog.Hash
				for _, x := range indexes {
					at := tlog.TileForIndex(tileHeight, x)
					at.W = len(stored[[2]int64{int64(at.L), at.N}]) / 32
					h, err := tlog.HashFromTile(at, stored[[2]int64{int64(at.L), at.N}], x)
					if err != nil {
						return nil, err
					}
					all = append(all, h)
				}
				return all, nil
			}))
			if err != nil {
				t.Fatal(err)
			}
			return h
		}
		now := tlog.Tree{N: int64(b), Hash: hash(b)}
		was := tlog.Tree{N: int64(a), Hash: hash(a)}
		before, err := loadTree(was, readerOf(stored))
		if err != nil {
			t.Fatal(err)
		}
		l := &Log{last: before}
		if leaves, err := l.between(now, readerOf(stored)); err != nil || len(leaves) != b-a {
			t.Fatalf("from %d to %d: %d leaves, %v", a, b, len(leaves), err)
		}
		l.last.Hash[0] ^= 1
		if _, err := l.between(now, readerOf(stored)); err == nil {
			t.Fatalf("from another tree of %d to %d: no error", a, b)
		}
	})
}

func testKey(t testing.TB, name string) key {
	t.Helper()
	k, _, err := newKey(name)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestOnlyTheTwoHalvesOfOneKeyMakeAKey(t *testing.T) {
	k, private, err := newKey("log.example.test/log")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parseKey(k.vkey, private); err != nil {
		t.Error(err)
	}
	other := testKey(t, "log.example.test/log")
	for name, pair := range map[string][2]string{
		"another key":    {other.vkey, string(private)},
		"no private key": {k.vkey, ""},
		"no vkey":        {"", string(private)},
		"garbage":        {"x", "y"},
	} {
		if _, err := parseKey(pair[0], []byte(pair[1])); err == nil {
			t.Errorf("%s: no error", name)
		} else if strings.Contains(err.Error(), string(private)) {
			t.Errorf("%s: the error shows the private key", name)
		}
	}
	if _, _, err := newKey("has a space"); err == nil {
		t.Error("a key with a space in its name was made")
	}
}

func TestS81ACheckpointIsReadInOneFormOnly(t *testing.T) {
	k := testKey(t, "log.example.test/log")
	of, _ := grown(t, 300, 256)
	good, err := k.sign(of.Tree)
	if err != nil {
		t.Fatal(err)
	}
	root := base64.StdEncoding.EncodeToString(of.Hash[:])
	// text signs what somebody who holds the key could.
	text := func(s string) []byte {
		signed, err := note.Sign(&note.Note{Text: s}, k.signer)
		if err != nil {
			t.Fatal(err)
		}
		return signed
	}
	other := testKey(t, "other.example.test/log")
	foreign, err := other.sign(of.Tree)
	if err != nil {
		t.Fatal(err)
	}
	impostor, err := testKey(t, "log.example.test/log").sign(of.Tree)
	if err != nil {
		t.Fatal(err)
	}
	// A second signature, of a witness, does not disturb.
	n, err := note.Open(good, note.VerifierList(k.verifier))
	if err != nil {
		t.Fatal(err)
	}
	witnessed, err := note.Sign(n, testKey(t, "witness.example.test/w").signer)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		signed []byte
		ok     bool
	}{
		"ours":              {good, true},
		"witnessed":         {witnessed, true},
		"the same by hand":  {text("log.example.test/log\n300\n" + root + "\n"), true},
		"empty":             {nil, false},
		"garbage":           {[]byte("\x00\xff garbage"), false},
		"unsigned":          {[]byte("log.example.test/log\n300\n" + root + "\n"), false},
		"one byte off":      {bytes.Replace(good, []byte("300"), []byte("301"), 1), false},
		"another log's":     {foreign, false},
		"another key":       {impostor, false},
		"wrong origin":      {text("other.example.test/log\n300\n" + root + "\n"), false},
		"no origin":         {text("\n300\n" + root + "\n"), false},
		"leading zero":      {text("log.example.test/log\n0300\n" + root + "\n"), false},
		"plus sign":         {text("log.example.test/log\n+300\n" + root + "\n"), false},
		"negative":          {text("log.example.test/log\n-300\n" + root + "\n"), false},
		"huge":              {text("log.example.test/log\n18446744073709551615\n" + root + "\n"), false},
		"more than huge":    {text("log.example.test/log\n99999999999999999999999\n" + root + "\n"), false},
		"no size":           {text("log.example.test/log\n\n" + root + "\n"), false},
		"short root":        {text("log.example.test/log\n300\nAAAA\n"), false},
		"unpadded root":     {text("log.example.test/log\n300\n" + strings.TrimRight(root, "=") + "\n"), false},
		"an extension line": {text("log.example.test/log\n300\n" + root + "\nmore\n"), false},
		"two lines":         {text("log.example.test/log\n300\n"), false},
		"too long":          {append(bytes.Clone(good), bytes.Repeat([]byte("x"), maxCheckpoint)...), false},
	} {
		got, err := k.open(c.signed)
		checked, err2 := VerifyCheckpoint(c.signed, k.vkey, Quorum{})
		if (err == nil) != c.ok || (err2 == nil) != c.ok {
			t.Errorf("%s: %v and %v, want ok: %v", name, err, err2, c.ok)
		}
		if c.ok && (got != of.Tree || checked.Size != 300 || !bytes.Equal(checked.Root, of.Hash[:])) {
			t.Errorf("%s: %v and %+v, want %v", name, got, checked, of.Tree)
		}
	}
	for _, vkey := range []string{"", "x", "a+b+c", k.vkey[:len(k.vkey)-1], k.vkey + "A"} {
		if _, err := VerifyCheckpoint(good, vkey, Quorum{}); err == nil {
			t.Errorf("verified with the key %q", vkey)
		}
	}
}

// Two readers of one format must take the same texts: what one of them takes
// and the other does not is a way to show two people two logs.
func FuzzBothCheckpointReadersAgree(f *testing.F) {
	k := testKey(f, "log.example.test/log")
	root := base64.StdEncoding.EncodeToString(make([]byte, ed25519.PublicKeySize))
	for _, s := range []string{
		"log.example.test/log\n0\n" + root + "\n", "log.example.test/log\n1\n" + root + "\nx\n", "\n\n\n", "",
		"log.example.test/log\n01\n" + root + "\n", "log.example.test/log\n9223372036854775808\n" + root + "\n",
	} {
		f.Add(s, []byte(s))
	}
	f.Fuzz(func(t *testing.T, text string, raw []byte) {
		texts := [][]byte{raw}
		if signed, err := note.Sign(&note.Note{Text: text}, k.signer); err == nil { // else it cannot be a note's text
			texts = append(texts, signed)
		}
		for _, signed := range texts {
			a, errA := k.open(signed)
			b, errB := VerifyCheckpoint(signed, k.vkey, Quorum{})
			if (errA == nil) != (errB == nil) {
				t.Fatalf("%q: one reader says %v, the other %v", signed, errA, errB)
			}
			if errA == nil && (a.N != b.Size || !bytes.Equal(a.Hash[:], b.Root)) {
				t.Fatalf("%q: read as %v and as %+v", signed, a, b)
			}
		}
	})
}
