package idp

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
)

// Where a provider that signs in whoever comes does so.
const (
	AuthorizePath = "/authorize"
	TokenPath     = "/token"
)

// Login is a provider's way in: whoever comes is signed in, without a question.
// The zero value signs in alice. Set its fields before a browser comes.
type Login struct {
	// Claims are those of the next ID token, over iss, aud, nonce, auth_time and
	// those of [Provider.Issue]; nil leaves a claim out.
	Claims map[string]any
	// Asked is what the last browser came with.
	Asked url.Values
	// Secret is the client's, and Method the only way in which it is taken, as
	// discovery names it: client_secret_basic or client_secret_post.
	Secret, Method string

	p     *Provider
	codes map[string]url.Values
}

// SignsIn makes p sign in whoever comes (OpenID Connect Core 1.0 section 3.1, with
// PKCE). A Login serves one browser at a time.
func (p *Provider) SignsIn() *Login {
	l := &Login{p: p, codes: map[string]url.Values{}}
	p.Answer(DiscoveryPath, func(w http.ResponseWriter, _ *http.Request) {
		method := l.Method
		if method == "" {
			method = "none"
		}
		fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q,"authorization_endpoint":%q,"token_endpoint":%q,"response_types_supported":["code"],"code_challenge_methods_supported":["S256"],"token_endpoint_auth_methods_supported":[%q],"authorization_response_iss_parameter_supported":true}`,
			p.URL(), p.URL()+KeysPath, p.URL()+AuthorizePath, p.URL()+TokenPath, method)
	})
	p.Answer(AuthorizePath, l.authorize)
	p.Answer(TokenPath, l.token)
	return l
}

func (l *Login) authorize(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	l.Asked = q
	code := rand.Text()
	l.codes[code] = q
	back := url.Values{"code": {code}, "state": {q.Get("state")}, "iss": {l.p.URL()}}
	http.Redirect(w, r, q.Get("redirect_uri")+"?"+back.Encode(), http.StatusFound)
}

func (l *Login) token(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	basic, secret, isBasic := r.BasicAuth()
	switch {
	case l.Method == "client_secret_basic" && (basic == "" || secret != l.Secret),
		l.Method == "client_secret_post" && (isBasic || r.PostFormValue("client_id") == "" || r.PostFormValue("client_secret") != l.Secret):
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, `{"error":"invalid_client"}`)
		return
	}
	asked, ok := l.codes[r.PostFormValue("code")]
	delete(l.codes, r.PostFormValue("code"))
	sum := sha256.Sum256([]byte(r.PostFormValue("code_verifier")))
	if !ok || base64.RawURLEncoding.EncodeToString(sum[:]) != asked.Get("code_challenge") || r.PostFormValue("redirect_uri") != asked.Get("redirect_uri") {
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprint(w, `{"error":"invalid_grant"}`)
		return
	}
	claims := with(map[string]any{"aud": asked.Get("client_id"), "nonce": asked.Get("nonce"), "auth_time": l.p.now().Unix()}, l.Claims)
	if err := json.NewEncoder(w).Encode(map[string]any{"token_type": "Bearer", "access_token": rand.Text(), "id_token": l.p.Issue(claims)}); err != nil {
		l.p.t.Errorf("idp: %v", err)
	}
}
