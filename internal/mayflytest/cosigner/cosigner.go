// Package cosigner is a witness for tests, written from c2sp.org/tlog-witness and
// c2sp.org/tlog-cosignature with nothing of ours: what the product is held to when
// it has its log cosigned.
package cosigner

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/note"
)

// Witness is a witness of one log.
type Witness struct {
	Name string
	URL  string // its submission prefix

	private ed25519.PrivateKey
	origin  string
	server  *httptest.Server

	mu    sync.Mutex
	vkey  string // of the log; none is known before
	size  uint64 // that was last cosigned
	root  []byte
	now   uint64 // the time of the last cosignature
	asked []string
	// instead, if it is set, answers some requests; it says which.
	instead func(w http.ResponseWriter, r *http.Request, body string) bool
}

// New starts a witness for the log of a name, whose key Trust tells it. The same
// seed gives the same key.
func New(name string, seed byte, origin string) *Witness {
	w := &Witness{
		Name: name, origin: origin, now: 1700000000,
		private: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize)),
	}
	w.server = httptest.NewServer(w)
	w.URL = w.server.URL
	return w
}

// Close ends it.
func (w *Witness) Close() { w.server.Close() }

// Trust tells it the key of its log.
func (w *Witness) Trust(vkey string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.vkey = vkey
}

// Forget makes it lose what it has cosigned, which no witness may.
func (w *Witness) Forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.size, w.root = 0, nil
}

// Answer has f answer instead of the protocol, wherever it says that it did; nil
// is the protocol again.
func (w *Witness) Answer(f func(rw http.ResponseWriter, r *http.Request, body string) bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.instead = f
}

// Requests are the bodies of what it was asked since the last call.
func (w *Witness) Requests() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	asked := w.asked
	w.asked = nil
	return asked
}

// public is the key with its type before it: Ed25519 that cosigns.
func (w *Witness) public() []byte {
	return append([]byte{4}, w.private.Public().(ed25519.PublicKey)...)
}

func (w *Witness) id() []byte {
	sum := sha256.Sum256(append([]byte(w.Name+"\n"), w.public()...))
	return sum[:4]
}

// VKey is its verifier key.
func (w *Witness) VKey() string {
	return fmt.Sprintf("%s+%x+%s", w.Name, w.id(), base64.StdEncoding.EncodeToString(w.public()))
}

// Line is its cosignature, at a time, of the text of a checkpoint.
func (w *Witness) Line(text string, at uint64) string {
	signature := ed25519.Sign(w.private, fmt.Appendf(nil, "cosignature/v1\ntime %d\n%s", at, text))
	data := append(binary.BigEndian.AppendUint64(w.id(), at), signature...)
	return "— " + w.Name + " " + base64.StdEncoding.EncodeToString(data) + "\n"
}

// ServeHTTP is the protocol.
func (w *Witness) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	data, err := io.ReadAll(http.MaxBytesReader(rw, r.Body, 10<<10))
	if err != nil {
		http.Error(rw, "too long", http.StatusRequestEntityTooLarge)
		return
	}
	w.mu.Lock()
	instead := w.instead
	w.asked = append(w.asked, string(data))
	w.mu.Unlock()
	if instead != nil && instead(rw, r, string(data)) { // it may take its time
		return
	}
	if r.Method != http.MethodPost || r.URL.Path != "/add-checkpoint" {
		http.NotFound(rw, r)
		return
	}
	status, answer := w.add(string(data))
	if status == http.StatusConflict {
		rw.Header().Set("Content-Type", "text/x.tlog.size")
	}
	rw.WriteHeader(status)
	io.WriteString(rw, answer)
}

func (w *Witness) add(body string) (status int, answer string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	head, checkpoint, ok := strings.Cut(body, "\n\n")
	lines := strings.Split(head, "\n")
	digits, isOld := strings.CutPrefix(lines[0], "old ")
	old, err := strconv.ParseUint(digits, 10, 63)
	if !ok || !isOld || err != nil || strconv.FormatUint(old, 10) != digits || len(lines) > 1+63 {
		return 400, "bad syntax\n"
	}
	var path [][]byte
	for _, l := range lines[1:] {
		h, err := base64.StdEncoding.Strict().DecodeString(l)
		if err != nil || len(h) != sha256.Size {
			return 400, "bad proof line\n"
		}
		path = append(path, h)
	}
	if !strings.HasPrefix(checkpoint, w.origin+"\n") || w.vkey == "" {
		return 404, "unknown log\n"
	}
	verifier, err := note.NewVerifier(w.vkey)
	if err != nil {
		return 500, err.Error() + "\n"
	}
	n, err := note.Open([]byte(checkpoint), note.VerifierList(verifier))
	if err != nil {
		return 403, "no signature\n"
	}
	part := strings.Split(n.Text, "\n")
	size, err1 := strconv.ParseUint(part[1], 10, 63)
	root, err2 := base64.StdEncoding.DecodeString(part[2])
	switch {
	case err1 != nil || err2 != nil || old > size:
		return 400, "bad checkpoint\n"
	case old != w.size, old == size && !bytes.Equal(root, w.root):
		return 409, fmt.Sprintf("%d\n", w.size)
	case old == 0 && len(path) > 0:
		return 422, "a proof from nothing\n"
	case old > 0 && proof.VerifyConsistency(rfc6962.DefaultHasher, old, size, path, w.root, root) != nil:
		return 422, "bad proof\n"
	}
	w.size, w.root = size, root
	w.now++
	return 200, w.Line(n.Text, w.now)
}
