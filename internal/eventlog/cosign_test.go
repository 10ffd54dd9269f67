package eventlog

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/mayfly-id/mayfly"
)

// cosigner is a witness's key, made from the specification alone.
type cosigner struct {
	name    string
	private ed25519.PrivateKey
}

func newCosigner(name string, seed byte) cosigner {
	return cosigner{name, ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))}
}

func (c cosigner) vkeyOf(kind byte) string {
	data := append([]byte{kind}, c.private.Public().(ed25519.PublicKey)...)
	sum := sha256.Sum256(append([]byte(c.name+"\n"), data...))
	return fmt.Sprintf("%s+%x+%s", c.name, sum[:4], base64.StdEncoding.EncodeToString(data))
}

func (c cosigner) key(t testing.TB) WitnessKey {
	t.Helper()
	k, err := ParseWitnessKey(c.vkeyOf(4))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// line is the cosignature at a time of the note that begins with text.
func (c cosigner) line(text string, at uint64) string {
	signature := ed25519.Sign(c.private, fmt.Appendf(nil, "cosignature/v1\ntime %d\n%s", at, text))
	sum := sha256.Sum256(append([]byte(c.name+"\n\x04"), c.private.Public().(ed25519.PublicKey)...))
	data := append(binary.BigEndian.AppendUint64(sum[:4:4], at), signature...)
	return "— " + c.name + " " + base64.StdEncoding.EncodeToString(data) + "\n"
}

// forged is a line that says it is the witness's and is not.
func (c cosigner) forged(t testing.TB) string {
	data := binary.BigEndian.AppendUint32(nil, c.key(t).KeyHash())
	return "— " + c.name + " " + base64.StdEncoding.EncodeToString(append(data, make([]byte, 8+ed25519.SignatureSize)...)) + "\n"
}

func textOf(checkpoint []byte) string {
	text, _, _ := strings.Cut(string(checkpoint), "\n\n")
	return text + "\n"
}

// signedTree is a log's key and a checkpoint by it of some tree.
func signedTree(t testing.TB) (key, []byte) {
	t.Helper()
	k := testKey(t, "proofs.example/log")
	checkpoint, err := k.sign(tlog.Tree{N: 7, Hash: tlog.Hash{1, 2, 3}})
	if err != nil {
		t.Fatal(err)
	}
	return k, checkpoint
}

func TestAWitnessKeyIsReadOrNamedWrong(t *testing.T) {
	w := newCosigner("witness.example/w1", 1)
	good := w.vkeyOf(4)
	k, err := ParseWitnessKey(good)
	if err != nil || k.String() != good || k.Name() != w.name {
		t.Fatalf("%s, %v", k, err)
	}
	id := strings.Split(good, "+")[1]
	long := base64.StdEncoding.EncodeToString(make([]byte, 40))
	for name, c := range map[string]struct{ vkey, want string }{
		"empty":             {"", "is not the verifier key of a witness"},
		"two parts":         {"name+" + id, "is not the verifier key of a witness"},
		"no name":           {strings.TrimPrefix(good, w.name), "is not the name of a witness"},
		"a space":           {" " + good, "is not the name of a witness"},
		"of a log":          {w.vkeyOf(1), "type 0x01"},
		"of a tree head":    {w.vkeyOf(5), "type 0x05"},
		"ML-DSA":            {w.vkeyOf(6), "ML-DSA-44"},
		"not base64":        {w.name + "+" + id + "+!!", "not in base64"},
		"no key":            {w.name + "+" + id + "+", "not in base64"},
		"short":             {w.name + "+" + id + "+BAAA", "has 2 bytes, not 32"},
		"long":              {w.name + "+" + id + "+BA" + long[2:], "has 39 bytes, not 32"},
		"another id":        {w.name + "+00000000+" + strings.SplitN(good, "+", 3)[2], "a character of it is wrong"},
		"id in upper case":  {w.name + "+" + strings.ToUpper(id) + "+" + strings.SplitN(good, "+", 3)[2], "a character of it is wrong"},
		"another name":      {"x" + good, "a character of it is wrong"},
		"an altered letter": {good[:len(good)-3] + "B" + good[len(good)-2:], "is wrong"},
	} {
		if k, err := ParseWitnessKey(c.vkey); mayfly.KindOf(err) != mayfly.Invalid || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %s, %v; want %q", name, k, err, c.want)
		}
	}
}

func TestACosignatureIsFoundOrRefused(t *testing.T) {
	_, checkpoint := signedTree(t)
	_, other := signedTree(t)
	other = bytes.Replace(other, []byte("\n7\n"), []byte("\n8\n"), 1)
	text := textOf(checkpoint)
	w, stranger := newCosigner("witness.example/w1", 1), newCosigner("witness.example/w2", 2)
	twin := cosigner{w.name, stranger.private} // its name, another's key
	good := w.line(text, 1700000000)
	forged := w.forged(t)
	for name, c := range map[string]struct {
		answer string
		want   string // in the error; "" is the cosignature
	}{
		"alone":               {good, ""},
		"beside a stranger's": {stranger.line(text, 1) + good + twin.line(text, 1), ""},
		"twice":               {good + w.line(text, 1700000001), ""},
		"a stranger's":        {stranger.line(text, 1), "has no cosignature of witness.example/w1+"},
		"another key":         {twin.line(text, 1), "has no cosignature of witness.example/w1+"},
		"of another text":     {w.line(textOf(other), 1), "invalid signature"},
		"forged":              {forged, "invalid signature"},
		"a good one and then": {forged + good, "invalid signature"},
		"of no time":          {w.line(text, 1<<63), "invalid signature"},
		"empty":               {"", "not lines of signatures"},
		"no end":              {strings.TrimSuffix(good, "\n"), "not lines of signatures"},
		"prose":               {"thanks\n", "malformed note"},
		"a note in it":        {"x\n\n" + good, "not lines of signatures"},
		"of one line more":    {"\n" + w.line(text+"\n", 1), "not lines of signatures"},
		"a whole note":        {string(other) + good, "not lines of signatures"},
	} {
		line, err := Cosignature(checkpoint, []byte(c.answer), w.key(t))
		if c.want == "" && (err != nil || string(line) != good) || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %q, %v; want %q", name, line, err, c.want)
		}
	}
}

func TestAQuorumIsMetByEnoughOfItsWitnesses(t *testing.T) {
	k, checkpoint := signedTree(t)
	text := textOf(checkpoint)
	a, b, c, stranger := newCosigner("a.example", 1), newCosigner("b.example", 2), newCosigner("c.example", 3), newCosigner("d.example", 4)
	cosigned := func(by ...cosigner) []byte {
		signed := slices.Clone(checkpoint)
		for _, w := range by {
			signed = append(signed, w.line(text, 1700000000)...)
		}
		return signed
	}
	twin := cosigner{b.name, stranger.private}
	for _, row := range []struct {
		need   string
		signed []byte
		want   string // in the error; "" is met
	}{
		{"any", cosigned(a), ""},
		{"any", cosigned(stranger, c), ""},
		{"any", cosigned(stranger), "the cosignatures of 1 of 3 witnesses, and none of them has cosigned it"},
		{"any", cosigned(), "none of them has"},
		{"2", cosigned(a), "of 2 of 3 witnesses, and only a.example has cosigned it"},
		{"2", cosigned(a, a), "only a.example has"},
		{"2", cosigned(a, stranger), "only a.example has"},
		{"2", cosigned(a, c), ""},
		{"all", cosigned(a, b), "only a.example, b.example has"},
		{"all", cosigned(c, b, a), ""},
		{"any", cosigned(a, twin), ""}, // a name is nothing without its key
		{"all", cosigned(a, twin, c), "only a.example, c.example has"},
		{"any", append(cosigned(a, c), b.forged(t)...), "the checkpoint's cosignatures: "},
		{"any", append(cosigned(a), bytes.Repeat([]byte("— x AAAAAAA=\n"), 200)...), "the checkpoint's cosignatures: "},
		{"any", bytes.Repeat([]byte("x"), maxCheckpoint+1), "too long"},
		{"any", nil, "malformed note"},
	} {
		q, err := NewQuorum(row.need, a.key(t), b.key(t), c.key(t))
		if err != nil {
			t.Fatal(err)
		}
		by, err := q.Cosigned(row.signed)
		if row.want == "" && (err != nil || len(by) < q.Need) || row.want != "" && (mayfly.KindOf(err) != mayfly.Invalid || !strings.Contains(err.Error(), row.want)) {
			t.Errorf("%s of three, %s: %v, %v; want %q", row.need, row.signed, by, err, row.want)
		}
	}
	q, err := NewQuorum("all", a.key(t))
	if err != nil {
		t.Fatal(err)
	}
	if c, err := VerifyCheckpoint(cosigned(a), k.vkey, q); err != nil || c.Size != 7 || !slices.Equal(c.Witnesses, []string{a.name}) {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := VerifyCheckpoint(cosigned(b), k.vkey, q); err == nil {
		t.Error("a checkpoint that its witness has not cosigned is taken")
	}
	if _, err := VerifyCheckpoint([]byte(text+"\n"+a.line(text, 1)), k.vkey, q); err == nil {
		t.Error("a checkpoint that the log has not signed is taken")
	}
}

func TestAQuorumIsReadOrNamedWrong(t *testing.T) {
	for _, row := range []struct {
		text string
		need int
		want string
	}{
		{"any", 1, ""}, {"all", 3, ""}, {"2", 2, ""}, {"3", 3, ""},
		{"4", 0, "can never be met"}, {"0", 0, "asks nothing"}, {"-1", 0, "asks nothing"},
		{"", 0, "is not a quorum"}, {"most", 0, "is not a quorum"}, {"02", 0, "is not a quorum"}, {"+2", 0, "is not a quorum"}, {"1.5", 0, "is not a quorum"},
	} {
		need, err := ParseQuorum(row.text, 3)
		if need != row.need || row.want == "" != (err == nil) || err != nil && !strings.Contains(err.Error(), row.want) {
			t.Errorf("%q: %d, %v; want %d, %q", row.text, need, err, row.need, row.want)
		}
	}
	one, two := newCosigner("one.example", 1), newCosigner("two.example", 1)
	if _, err := NewQuorum("all", one.key(t), two.key(t)); err == nil || !strings.Contains(err.Error(), "they are one") {
		t.Errorf("one key under two names: %v", err)
	}
	for _, need := range []string{"any", "all", "1"} {
		if _, err := NewQuorum(need); err == nil {
			t.Errorf("%s of nobody is a quorum", need)
		}
	}
	many := make([]WitnessKey, maxWitnesses+1)
	if _, err := NewQuorum("any", many...); err == nil {
		t.Error("more witnesses than a note has room for")
	}
}

// The anchor, not the newest checkpoint, stands in a proof that it covers.
func TestAProofHasTheCosignaturesWhereTheAnchorCoversTheRecord(t *testing.T) {
	k, fetch := served(t, 300)
	w := newCosigner("witness.example/w1", 1)
	older, _ := grown(t, 200, 50)
	signed, err := k.sign(older.Tree)
	if err != nil {
		t.Fatal(err)
	}
	anchor := append(signed, w.line(textOf(signed), 1700000000)...)
	anchored := func(ctx context.Context, path string) ([]byte, error) {
		if path == "anchor" {
			return anchor, nil
		}
		return fetch(ctx, path)
	}
	q, err := NewQuorum("all", w.key(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		position, size int64
		cosigned       bool
	}{{0, 200, true}, {199, 200, true}, {200, 300, false}, {299, 300, false}} {
		file, err := Prove(t.Context(), k.vkey, row.position, anchored)
		if err != nil {
			t.Fatal(err)
		}
		if p, err := CheckProof(file, k.vkey, Quorum{}); err != nil || p.Size != row.size || p.Witnesses != nil {
			t.Errorf("the record at %d: %+v, %v; want it under the checkpoint of %d", row.position, p, err, row.size)
		}
		p, err := CheckProof(file, k.vkey, q)
		if row.cosigned && (err != nil || !slices.Equal(p.Witnesses, []string{w.name})) || !row.cosigned && mayfly.KindOf(err) != mayfly.Invalid {
			t.Errorf("the record at %d, with a quorum: %+v, %v", row.position, p, err)
		}
	}
	anchor = []byte("nonsense\n")
	if _, err := Prove(t.Context(), k.vkey, 0, anchored); mayfly.KindOf(err) != mayfly.BadUpstream {
		t.Errorf("an anchor that is none: %v", err)
	}
}

func FuzzCosignatures(f *testing.F) {
	_, checkpoint := signedTree(f)
	w := newCosigner("witness.example/w1", 1)
	good := w.line(textOf(checkpoint), 1700000000)
	key := w.key(f)
	for _, seed := range []string{good, good + good, "— a AAAAAAA=\n" + good, "\n", "x\n\n" + good} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		line, err := Cosignature(checkpoint, answer, key)
		if err != nil {
			return
		}
		if string(line) != good && !bytes.Contains(answer, line) {
			t.Errorf("%q was not in the answer", line)
		}
		q := Quorum{[]WitnessKey{key}, 1}
		if _, err := q.Cosigned(append(bytes.Clone(checkpoint), line...)); err != nil {
			t.Errorf("%q is taken and does not verify: %v", line, err)
		}
	})
}
