// Package idp is an OpenID provider for tests, on a loopback port: discovery,
// a key set, tokens with whatever claims a test wants, keys that rotate and are
// withdrawn, and failures on demand. It shares no code with what verifies its
// tokens. Whoever comes to it is signed in without a question ([Provider.SignsIn]);
// for a login of a person, tests use a real provider. Start reading at [New].
package idp

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Where a provider serves.
const (
	DiscoveryPath = "/.well-known/openid-configuration"
	KeysPath      = "/jwks"
)

// Provider is one issuer. Its methods may be called from any goroutine.
type Provider struct {
	// Now is the clock of the tokens it issues; nil is time.Now. Set it before
	// the first token.
	Now func() time.Time

	t      testing.TB
	server *httptest.Server

	mu        sync.Mutex // guards the fields below
	published []key
	current   key
	made      int
	down      bool
	answers   map[string]http.HandlerFunc
	fetched   map[string]int
}

type key struct {
	id, algorithm string
	signer        crypto.Signer
}

// New starts a provider at http://127.0.0.1:port. It stops with the test.
func New(t testing.TB) *Provider { return start(t, httptest.NewUnstartedServer(nil), false) }

// NewTLS starts one at https://127.0.0.1:port, with a certificate of Roots.
func NewTLS(t testing.TB) *Provider { return start(t, httptest.NewUnstartedServer(nil), true) }

func start(t testing.TB, s *httptest.Server, secure bool) *Provider {
	p := &Provider{t: t, server: s, answers: map[string]http.HandlerFunc{}, fetched: map[string]int{}}
	p.Rotate("ES256")
	s.Config.Handler = http.HandlerFunc(p.serve)
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // refused certificates are a test's business
	if secure {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return p
}

// URL is the issuer.
func (p *Provider) URL() string { return p.server.URL }

// Roots are the certificate authorities that a provider of NewTLS is known by.
func (p *Provider) Roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(p.server.Certificate())
	return pool
}

func (p *Provider) serve(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.fetched[r.URL.Path]++
	down, answer := p.down, p.answers[r.URL.Path]
	p.mu.Unlock()
	switch {
	case down:
		http.Error(w, "down", http.StatusServiceUnavailable)
	case answer != nil:
		answer(w, r)
	case r.URL.Path == DiscoveryPath:
		fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q,"response_types_supported":["code"]}`, p.URL(), p.URL()+KeysPath)
	case r.URL.Path == KeysPath:
		w.Write(p.KeySet())
	default:
		http.NotFound(w, r)
	}
}

// KeySet is the published JWK Set.
func (p *Provider) KeySet() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{}}
	for _, k := range p.published {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: k.signer.Public(), KeyID: k.id, Algorithm: k.algorithm, Use: "sig"})
	}
	data, err := json.Marshal(set)
	if err != nil {
		p.t.Errorf("idp: %v", err)
	}
	return data
}

// Fail makes every request answer 503, or stops that.
func (p *Provider) Fail(down bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = down
}

// Answer replaces what one path answers; nil restores it.
func (p *Provider) Answer(path string, h http.HandlerFunc) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answers[path] = h
}

// Fetched is how often a path was asked for.
func (p *Provider) Fetched(path string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fetched[path]
}

// Rotate makes and publishes a key for algorithm (ES256, EdDSA, RS256, PS256)
// and signs with it from now on. Earlier keys stay published. It gives the
// key's id.
func (p *Provider) Rotate(algorithm string) string {
	var signer crypto.Signer
	var err error
	switch algorithm {
	case "ES256":
		signer, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "EdDSA":
		_, signer, err = ed25519.GenerateKey(rand.Reader)
	default:
		signer, err = rsa.GenerateKey(rand.Reader, 2048)
	}
	if err != nil {
		p.t.Fatalf("idp: %v", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.made++
	p.current = key{fmt.Sprintf("key-%d", p.made), algorithm, signer}
	p.published = append(p.published, p.current)
	return p.current.id
}

// Withdraw stops publishing every key but the newest.
func (p *Provider) Withdraw() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.published = []key{p.current}
}

// Issue makes a token with these claims over iss, sub "alice", aud "mayfly",
// iat now and exp in five minutes. A claim that is nil is left out.
func (p *Provider) Issue(claims map[string]any) string { return p.IssueWith(nil, claims) }

// IssueWith is Issue with these header parameters over alg, kid and typ JWT.
// The signature is always made with the newest key, whatever the header says.
func (p *Provider) IssueWith(header, claims map[string]any) string {
	now := p.now()
	body := map[string]any{"iss": p.URL(), "sub": "alice", "aud": "mayfly", "iat": now.Unix(), "exp": now.Add(5 * time.Minute).Unix()}
	return p.Sign(header, p.encode(with(body, claims)))
}

func (p *Provider) now() time.Time {
	if p.Now != nil {
		return p.Now()
	}
	return time.Now()
}

// Sign makes a token of any payload at all.
func (p *Provider) Sign(header map[string]any, payload []byte) string {
	p.mu.Lock()
	k := p.current
	p.mu.Unlock()
	head := p.encode(with(map[string]any{"alg": k.algorithm, "kid": k.id, "typ": "JWT"}, header))
	text := base64.RawURLEncoding.EncodeToString(head) + "." + base64.RawURLEncoding.EncodeToString(payload)
	signature, err := k.sign(text)
	if err != nil {
		p.t.Errorf("idp: %v", err)
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(signature)
}

func (k key) sign(text string) ([]byte, error) {
	sum := sha256.Sum256([]byte(text))
	switch signer := k.signer.(type) {
	case *ecdsa.PrivateKey:
		r, s, err := ecdsa.Sign(rand.Reader, signer, sum[:])
		if err != nil {
			return nil, err
		}
		return append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...), nil
	case ed25519.PrivateKey:
		return ed25519.Sign(signer, []byte(text)), nil
	case *rsa.PrivateKey:
		if k.algorithm == "PS256" {
			return rsa.SignPSS(rand.Reader, signer, crypto.SHA256, sum[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
		}
		return rsa.SignPKCS1v15(rand.Reader, signer, crypto.SHA256, sum[:])
	}
	return nil, fmt.Errorf("no key of type %T", k.signer)
}

func (p *Provider) encode(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		p.t.Errorf("idp: %v", err)
	}
	return data
}

func with(base, over map[string]any) map[string]any {
	maps.Copy(base, over)
	maps.DeleteFunc(base, func(_ string, v any) bool { return v == nil })
	return base
}
