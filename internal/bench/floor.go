package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

// floorIssuer is the least an honest issuer can do for one token: read the form,
// verify one ES256 token, sign one, append a 600-byte record with a
// group-committed fdatasync, and reply. It decides nothing, remembers nothing
// and serves nothing else; it is what the product is measured against.
func floorIssuer(public *ecdsa.PublicKey, logPath string) (http.Handler, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	log, err := newFloorLog(logPath)
	if err != nil {
		return nil, err
	}
	header := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"ES256","kid":"floor","typ":"at+jwt"}`))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil {
			http.Error(w, "form", http.StatusBadRequest)
			return
		}
		claims, err := verifyES256(r.PostForm.Get("subject_token"), public)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		now := time.Now()
		payload, err := json.Marshal(map[string]any{
			"iss": "floor", "sub": claims["sub"], "aud": "floor", "iat": now.Unix(), "exp": now.Add(5 * time.Minute).Unix(),
			"jti": rand.Text(), "scope": r.PostForm.Get("scope"), "act": map[string]any{"sub": "agent"},
		})
		if err != nil {
			http.Error(w, "claims", http.StatusInternalServerError)
			return
		}
		token, err := signES256(key, header+"."+base64.RawURLEncoding.EncodeToString(payload))
		if err != nil {
			http.Error(w, "sign", http.StatusInternalServerError)
			return
		}
		if err := log.append(payload); err != nil {
			http.Error(w, "log", http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"access_token":%q,"token_type":"Bearer","expires_in":300}`, token)
	}), nil
}

func verifyES256(text string, key *ecdsa.PublicKey) (map[string]any, error) {
	signed, signature, ok := cutLast(text)
	if !ok {
		return nil, errors.New("no token")
	}
	sig, err := base64.RawURLEncoding.DecodeString(signature)
	if err != nil || len(sig) != 64 {
		return nil, errors.New("bad signature")
	}
	sum := sha256.Sum256([]byte(signed))
	if !ecdsa.Verify(key, sum[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])) {
		return nil, errors.New("bad signature")
	}
	_, body, _ := strings.Cut(signed, ".")
	raw, err := base64.RawURLEncoding.DecodeString(body)
	if err != nil {
		return nil, err
	}
	var claims map[string]any
	if err := json.Unmarshal(raw, &claims); err != nil {
		return nil, err
	}
	if exp, _ := claims["exp"].(float64); int64(exp) < time.Now().Unix() {
		return nil, errors.New("expired")
	}
	return claims, nil
}

func cutLast(text string) (before, after string, ok bool) {
	i := strings.LastIndexByte(text, '.')
	if i < 0 {
		return "", "", false
	}
	return text[:i], text[i+1:], true
}

func signES256(key *ecdsa.PrivateKey, input string) (string, error) {
	sum := sha256.Sum256([]byte(input))
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		return "", err
	}
	sig := make([]byte, 64)
	r.FillBytes(sig[:32])
	s.FillBytes(sig[32:])
	return input + "." + base64.RawURLEncoding.EncodeToString(sig), nil
}

// floorRecord is the size of one record of the floor's log.
const floorRecord = 600

// floorLog is an append-only file with group commit: whoever waits shares the
// next fdatasync. Each record carries the hash of the one before.
type floorLog struct {
	file *os.File

	mu      sync.Mutex // guards the fields below
	pending []byte
	last    [32]byte
	waiting []chan error
	busy    bool
}

func newFloorLog(path string) (*floorLog, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	return &floorLog{file: f}, nil
}

func (l *floorLog) append(payload []byte) error {
	done := make(chan error, 1)
	l.mu.Lock()
	record := make([]byte, floorRecord)
	copy(record, l.last[:])
	copy(record[32:], payload)
	l.last = sha256.Sum256(record)
	l.pending = append(l.pending, record...)
	l.waiting = append(l.waiting, done)
	if !l.busy {
		l.busy = true
		go l.commit()
	}
	l.mu.Unlock()
	return <-done
}

func (l *floorLog) commit() {
	for {
		l.mu.Lock()
		data, waiting := l.pending, l.waiting
		l.pending, l.waiting = nil, nil
		if len(waiting) == 0 {
			l.busy = false
			l.mu.Unlock()
			return
		}
		l.mu.Unlock()
		_, err := l.file.Write(data)
		if err == nil {
			err = syscall.Fdatasync(int(l.file.Fd()))
		}
		for _, w := range waiting {
			w <- err
		}
	}
}

// floorProxy is the standard library's reverse proxy and nothing else.
func floorProxy(upstream string) (http.Handler, error) {
	u, err := url.Parse(upstream)
	if err != nil {
		return nil, err
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 128
	return &httputil.ReverseProxy{
		Transport: transport,
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(u) },
	}, nil
}
