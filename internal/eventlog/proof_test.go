package eventlog

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/mayfly-id/mayfly"
)

// served is a log of n leaves as a server serves it: its key, and its files.
func served(t testing.TB, n int) (key, func(context.Context, string) ([]byte, error)) {
	t.Helper()
	of, stored := grown(t, n, 100, 7)
	k := testKey(t, "proofs.example/log")
	checkpoint, err := k.sign(of.Tree)
	if err != nil {
		t.Fatal(err)
	}
	return k, func(_ context.Context, path string) ([]byte, error) {
		if path == "checkpoint" {
			return checkpoint, nil
		}
		p, err := parsePath(strings.TrimPrefix(path, "tile/"))
		if err != nil {
			return nil, err
		}
		if !p.entries {
			data := stored[[2]int64{int64(p.level), p.index}]
			if len(data) < p.width*tlog.HashSize {
				return nil, mayfly.Errorf(mayfly.NotFound, "no tile %s", p)
			}
			return data[:p.width*tlog.HashSize], nil
		}
		var bundle []byte
		for i := range p.width {
			if bundle, err = appendEntry(bundle, fmt.Appendf(nil, "leaf %d", int(p.index)*tileWidth+i)); err != nil {
				return nil, err
			}
		}
		return bundle, nil
	}
}

func TestAProofHoldsForItsRecordAlone(t *testing.T) {
	for _, size := range []int{1, 2, 3, 255, 256, 257, 700} {
		k, fetch := served(t, size)
		for _, position := range []int{0, size / 2, size - 1} {
			file, err := Prove(t.Context(), k.vkey, int64(position), fetch)
			if err != nil {
				t.Fatalf("position %d of %d: %v", position, size, err)
			}
			p, err := CheckProof(file, k.vkey, Quorum{})
			if err != nil || p.Position != int64(position) || p.Size != int64(size) || string(p.Leaf) != fmt.Sprintf("leaf %d", position) {
				t.Fatalf("position %d of %d: %+v, %v", position, size, p, err)
			}
			if _, err := CheckProof(file, testKey(t, "proofs.example/log").vkey, Quorum{}); err == nil {
				t.Error("it holds for another log of this name")
			}
			if size > 1 {
				moved := strings.Replace(string(file), fmt.Sprintf("\nindex %d\n", position), fmt.Sprintf("\nindex %d\n", (position+1)%size), 1)
				if _, err := CheckProof([]byte(moved), k.vkey, Quorum{}); err == nil {
					t.Errorf("position %d of %d: it holds for the next place too", position, size)
				}
			}
		}
		if _, err := Prove(t.Context(), k.vkey, int64(size), fetch); mayfly.KindOf(err) != mayfly.NotFound {
			t.Errorf("a record past the end: %v", err)
		}
	}
}

// Whichever byte of a proof is altered, it does not hold, or says what it said:
// no altered proof proves anything else.
func TestNoAlteredProofHolds(t *testing.T) {
	k, fetch := served(t, 300)
	file, err := Prove(t.Context(), k.vkey, 123, fetch)
	if err != nil {
		t.Fatal(err)
	}
	says, err := CheckProof(file, k.vkey, Quorum{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range file {
		for _, bit := range []byte{1, 0x20} {
			altered := slices.Clone(file)
			altered[i] ^= bit
			// The last letter of a signature has bits that are not of it.
			if p, err := CheckProof(altered, k.vkey, Quorum{}); err == nil {
				if !reflect.DeepEqual(p, says) {
					t.Errorf("byte %d altered: it holds for %+v", i, p)
				}
			} else if mayfly.KindOf(err) != mayfly.Invalid {
				t.Errorf("byte %d altered: %v", i, err)
			}
		}
		if i < len(file)-1 {
			if _, err := CheckProof(file[:i], k.vkey, Quorum{}); err == nil {
				t.Errorf("cut at %d, it holds", i)
			}
		}
	}
}

// A server that serves tiles of another tree gets no proof out of us.
func TestNothingIsProvenFromAlteredTiles(t *testing.T) {
	k, fetch := served(t, 300)
	for _, of := range []string{"tile/0/", "tile/1/", "tile/entries/", "checkpoint"} {
		lying := func(ctx context.Context, path string) ([]byte, error) {
			data, err := fetch(ctx, path)
			if err == nil && strings.HasPrefix(path, of) {
				data = slices.Clone(data)
				for i := range data {
					data[i] ^= 1
				}
			}
			return data, err
		}
		if file, err := Prove(t.Context(), k.vkey, 123, lying); err == nil {
			t.Errorf("with other bytes at %s it gives\n%s", of, file)
		}
	}
}

func FuzzProofs(f *testing.F) {
	k, fetch := served(f, 40)
	file, err := Prove(f.Context(), k.vkey, 17, fetch)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(file)
	f.Add([]byte(proofHeader + "\nextra \nindex 0\n\n"))
	f.Add([]byte("\n\n"))
	f.Fuzz(func(t *testing.T, altered []byte) {
		if p, err := CheckProof(altered, k.vkey, Quorum{}); err == nil && string(p.Leaf) != fmt.Sprintf("leaf %d", p.Position) {
			t.Errorf("it holds for %+v", p)
		}
	})
}
