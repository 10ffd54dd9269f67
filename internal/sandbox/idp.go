package sandbox

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"html/template"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// idp is a small OpenID provider that knows four subjects and asks for no
// password: whoever can reach it on this machine may be any of them. It signs
// what a real one would.
type idp struct {
	issuer  string
	console string // where the console has humans sent back to; set before the first request
	key     *ecdsa.PrivateKey
	signer  jose.Signer

	mu    sync.Mutex // guards the fields below
	codes map[string]login
	down  bool // it answers nobody, and signs with a key that nobody has seen
	spare jose.Signer
}

// login is somebody who said who they are, and whose code was not redeemed yet.
type login struct {
	who, nonce, challenge string
	at                    time.Time
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
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	spare, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: other, KeyID: "demo-new"}},
		(&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return nil, err
	}
	return &idp{issuer: issuer, key: key, signer: signer, spare: spare, codes: map[string]login{}}, nil
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
	text, err = p.sign(subject, audience, now, nil)
	return text, true, err
}

// sign makes a token about a subject, with further claims.
func (p *idp) sign(subject person, audience string, now time.Time, more map[string]any) (string, error) {
	claims := map[string]any{
		"iss": p.issuer, "aud": audience, "iat": now.Unix(), "exp": now.Add(subject.life).Unix(), "jti": rand.Text(),
	}
	for name, value := range subject.claims {
		claims[name] = value
	}
	for name, value := range more {
		claims[name] = value
	}
	p.mu.Lock()
	signer := p.signer
	if p.down {
		signer = p.spare
	}
	p.mu.Unlock()
	return jwt.Signed(signer).Claims(claims).Serialize()
}

// fail begins an outage, or ends it.
func (p *idp) fail(down bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = down
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
			"code_challenge_methods_supported":      []string{"S256"},
			"subject_types_supported":               []string{"public"},
			"id_token_signing_alg_values_supported": []string{"ES256"},
		})
	})
	mux.HandleFunc("GET /jwks", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{
			{Key: p.key.Public(), KeyID: "demo", Algorithm: "ES256", Use: "sig"},
		}})
	})
	mux.HandleFunc("GET /authorize", p.authorize)
	mux.HandleFunc("POST /token", p.redeem)
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
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		down := p.down
		p.mu.Unlock()
		if down {
			http.Error(w, "down", http.StatusServiceUnavailable)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v)
}

// whoPage asks a human who they are today. There are no passwords here.
var whoPage = template.Must(template.New("who").Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<title>Who are you today?</title><link rel="icon" href="data:,">
<style>
:root{--g:#f6f7f9;--c:#fff;--i:#1d2433;--s:#566074;--l:#79839a;--a:#3b5bdb}
@media(prefers-color-scheme:dark){:root{--g:#12161f;--c:#1a2030;--i:#e6e9ef;--s:#a8b2c4;--l:#76819a;--a:#91a7ff}}
body{font:16px/1.5 system-ui,sans-serif;background:var(--g);color:var(--i);margin:0;display:grid;min-height:100vh;place-items:center}
main{max-width:30rem;padding:1.5rem}h1{font-size:1.5rem;margin:0 0 .5rem}p{color:var(--s);margin:0 0 1rem}
button{display:block;width:100%;text-align:left;font:inherit;color:inherit;background:var(--c);border:1px solid var(--l);border-radius:10px;padding:.9rem 1.1rem;margin:0 0 .75rem;cursor:pointer}
button:hover{border-color:var(--a)}:focus-visible{outline:3px solid var(--a);outline-offset:2px}b{display:block;font-size:1.1rem}span{color:var(--s)}
</style></head><body><main>
<h1>Who are you today?</h1>
<p>This is the sandbox's identity provider. A real one would ask for more than a click.</p>
<form method="get" action="/authorize">
{{range $name, $value := .Kept}}<input type="hidden" name="{{$name}}" value="{{$value}}">
{{end}}<button name="as" value="alice"><b>Alice</b><span>of accounts payable: agents work for her</span></button>
<button name="as" value="bob"><b>Bob</b><span>of finance leads: he says yes to large payments, and may see and end every task</span></button>
</form></main></body></html>`))

// authorize is the authorization endpoint (OpenID Connect Core 1.0 section 3.1.2).
// With login_hint it asks nothing, unless it is told to ask again.
func (p *idp) authorize(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if q.Get("client_id") != operators || q.Get("redirect_uri") != p.console || q.Get("response_type") != "code" || q.Get("code_challenge_method") != "S256" {
		http.Error(w, "only the sandbox's console signs humans in here", http.StatusBadRequest)
		return
	}
	who := q.Get("as")
	if who == "" && q.Get("prompt") != "login" {
		who = q.Get("login_hint")
	}
	if audiences[who] != audiences["alice"] {
		kept := map[string]string{}
		for name := range q {
			kept[name] = q.Get(name)
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		if err := whoPage.Execute(w, map[string]any{"Kept": kept}); err != nil {
			http.Error(w, "the page could not be made", http.StatusInternalServerError)
		}
		return
	}
	code := rand.Text()
	p.mu.Lock()
	p.codes[code] = login{who, q.Get("nonce"), q.Get("code_challenge"), time.Now()}
	p.mu.Unlock()
	back := url.Values{"code": {code}, "state": {q.Get("state")}, "iss": {p.issuer}}
	http.Redirect(w, r, p.console+"?"+back.Encode(), http.StatusSeeOther)
}

// redeem is the token endpoint.
func (p *idp) redeem(w http.ResponseWriter, r *http.Request) {
	code := r.PostFormValue("code")
	p.mu.Lock()
	l, ok := p.codes[code]
	delete(p.codes, code)
	p.mu.Unlock()
	sum := sha256.Sum256([]byte(r.PostFormValue("code_verifier")))
	if !ok || base64.RawURLEncoding.EncodeToString(sum[:]) != l.challenge || time.Since(l.at) > time.Minute {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadRequest)
		io.WriteString(w, `{"error":"invalid_grant"}`)
		return
	}
	token, err := p.sign(people[l.who], operators, time.Now(), map[string]any{"nonce": l.nonce, "auth_time": l.at.Unix()})
	if err != nil {
		http.Error(w, "signing failed", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	writeJSON(w, map[string]any{"token_type": "Bearer", "access_token": rand.Text(), "id_token": token, "expires_in": 600})
}
