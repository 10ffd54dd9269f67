package sandbox

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// idp is a small OpenID provider that knows four subjects and asks for no
// password: whoever can reach it on this machine may be any of them. It signs
// what a real one would.
type idp struct {
	issuer string
	key    *ecdsa.PrivateKey
	signer jose.Signer
}

// person is what the provider says about a subject.
type person struct {
	claims map[string]any
	life   time.Duration
}

// people are the subjects of the demo world: two humans, one service and one
// workload.
var people = map[string]person{
	"alice": {map[string]any{"sub": "alice", "email": "alice@example.org", "email_verified": true, "groups": []string{"accounts-payable"}}, 10 * time.Minute},
	"bob":   {map[string]any{"sub": "bob", "email": "bob@example.org", "email_verified": true, "groups": []string{"finance-leads"}}, 10 * time.Minute},
	"ci":    {map[string]any{"sub": "repo:acme/site", "repository": "acme/site"}, 10 * time.Minute},
	"agent": {map[string]any{"sub": "system:serviceaccount:agents:invoice"}, time.Hour},
}

// The audiences that tell the provider's three kinds of subject apart, as the
// demo configuration names them.
var audiences = map[string]string{"alice": "mayfly", "bob": "mayfly", "ci": "mayfly-ci", "agent": "mayfly-agents"}

// operators is the audience of a human's tokens that no agent is handed: with
// one of them the human approves.
const operators = "mayfly-operators"

func newIDP(issuer string) (*idp, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: "demo"}},
		(&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return nil, err
	}
	return &idp{issuer: issuer, key: key, signer: signer}, nil
}

// token signs a token for one of the people, with operator a human's own that no
// agent is handed; ok is false for a stranger, and for an operator who is no
// human.
func (p *idp) token(who string, operator bool, now time.Time) (text string, ok bool, err error) {
	subject, ok := people[who]
	audience := audiences[who]
	if operator {
		ok, audience = ok && audience == audiences["alice"], operators
	}
	if !ok {
		return "", false, nil
	}
	claims := map[string]any{
		"iss": p.issuer, "aud": audience, "iat": now.Unix(), "exp": now.Add(subject.life).Unix(), "jti": rand.Text(),
	}
	for name, value := range subject.claims {
		claims[name] = value
	}
	text, err = jwt.Signed(p.signer).Claims(claims).Serialize()
	return text, true, err
}

// routes serves discovery, the public key, and tokens: GET /token?for=alice, and
// GET /token?for=bob&use=operator.
func (p *idp) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, map[string]any{
			"issuer":                                p.issuer,
			"jwks_uri":                              p.issuer + "/jwks",
			"authorization_endpoint":                p.issuer + "/authorize",
			"token_endpoint":                        p.issuer + "/token",
			"response_types_supported":              []string{"code"},
			"subject_types_supported":               []string{"public"},
			"id_token_signing_alg_values_supported": []string{"ES256"},
		})
	})
	mux.HandleFunc("GET /jwks", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{
			{Key: p.key.Public(), KeyID: "demo", Algorithm: "ES256", Use: "sig"},
		}})
	})
	mux.HandleFunc("GET /token", func(w http.ResponseWriter, r *http.Request) {
		use := r.FormValue("use")
		if use != "" && use != "operator" {
			http.Error(w, "say ?use=operator, or leave it out", http.StatusBadRequest)
			return
		}
		text, ok, err := p.token(r.FormValue("for"), use != "", time.Now())
		switch {
		case err != nil:
			http.Error(w, "signing failed", http.StatusInternalServerError)
		case !ok:
			http.Error(w, "say ?for=alice, bob, ci or agent; the first two also with &use=operator", http.StatusNotFound)
		default:
			w.Header().Set("Cache-Control", "no-store")
			w.Write([]byte(text))
		}
	})
	return mux
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v)
}
