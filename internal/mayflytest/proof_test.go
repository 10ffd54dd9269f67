package mayflytest_test

import (
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-id/mayfly/internal/attest"
	"github.com/mayfly-id/mayfly/internal/authority"
	"github.com/mayfly-id/mayfly/internal/mayflytest"
)

// spoilt is what can be wrong with a proof, for a request that a token goes
// with or for one without.
var spoilt = map[string]func(n node, h *holder, header, claims members){
	"another path": func(n node, _ *holder, _, c members) { c["htu"] = c["htu"].(string) + "x" },
	"another origin": func(n node, _ *holder, _, c members) {
		c["htu"] = "https://evil.example" + c["htu"].(string)[len(n.Issuer):]
	},
	"another port": func(n node, _ *holder, _, c members) {
		c["htu"] = "http://127.0.0.1:1" + c["htu"].(string)[len(n.Issuer):]
	},
	"https": func(n node, _ *holder, _, c members) {
		c["htu"] = strings.Replace(c["htu"].(string), "http:", "https:", 1)
	},
	"a path in another case": func(n node, _ *holder, _, c members) {
		c["htu"] = n.Issuer + strings.ToUpper(c["htu"].(string)[len(n.Issuer):])
	},
	"a user in the URL":        func(n node, _ *holder, _, c members) { c["htu"] = strings.Replace(c["htu"].(string), "//", "//a@", 1) },
	"no htu":                   func(_ node, _ *holder, _, c members) { c["htu"] = nil },
	"htu is a list":            func(_ node, _ *holder, _, c members) { c["htu"] = []any{c["htu"]} },
	"another method":           func(_ node, _ *holder, _, c members) { c["htm"] = "PUT" },
	"the method in lower case": func(_ node, _ *holder, _, c members) { c["htm"] = strings.ToLower(c["htm"].(string)) },
	"no htm":                   func(_ node, _ *holder, _, c members) { c["htm"] = nil },
	"two minutes old":          func(n node, _ *holder, _, c members) { c["iat"] = n.now().Unix() - 120 },
	"six minutes old":          func(n node, _ *holder, _, c members) { c["iat"] = n.now().Unix() - 360 },
	"six minutes early":        func(n node, _ *holder, _, c members) { c["iat"] = n.now().Unix() + 360 },
	"ten seconds early":        func(n node, _ *holder, _, c members) { c["iat"] = n.now().Unix() + 10 },
	"no iat":                   func(_ node, _ *holder, _, c members) { c["iat"] = nil },
	"iat is a text":            func(n node, _ *holder, _, c members) { c["iat"] = time.Now().Format(time.RFC3339) },
	"no jti":                   func(_ node, _ *holder, _, c members) { c["jti"] = nil },
	"jti without end":          func(_ node, _ *holder, _, c members) { c["jti"] = strings.Repeat("j", 300) },
	"typ JWT":                  func(_ node, _ *holder, h, _ members) { h["typ"] = "JWT" },
	"no typ":                   func(_ node, _ *holder, h, _ members) { h["typ"] = nil },
	"alg none":                 func(_ node, _ *holder, h, _ members) { h["alg"] = "none" },
	"a symmetric alg":          func(_ node, _ *holder, h, _ members) { h["alg"] = "HS256" },
	"a symmetric key":          func(_ node, _ *holder, h, _ members) { h["jwk"] = members{"kty": "oct", "k": "AAAA"} },
	"a private key": func(_ node, k *holder, h, _ members) {
		d, _ := k.priv.Bytes()
		h["jwk"].(members)["d"] = b64(d)
	},
	"no key":                    func(_ node, _ *holder, h, _ members) { h["jwk"] = nil },
	"a key that did not sign":   func(n node, _ *holder, h, _ members) { h["jwk"] = newHolder(n.T).jwk() },
	"crit":                      func(_ node, _ *holder, h, _ members) { h["crit"] = []string{"x"} },
	"jku beside the key":        func(n node, _ *holder, h, _ members) { h["jku"] = n.IDP.URL() + "/evil" },
	"a claim twice, as Go sees": func(_ node, _ *holder, _, c members) { c["htm"] = nil; c["HTM"] = "GET" },
}

// spoiltWithToken is what more can be wrong where a token goes with it.
var spoiltWithToken = map[string]func(n node, h *holder, header, claims members){
	"no ath":              func(_ node, _ *holder, _, c members) { c["ath"] = nil },
	"ath of another":      func(_ node, _ *holder, _, c members) { c["ath"] = b64(make([]byte, 32)) },
	"ath in another case": func(_ node, _ *holder, _, c members) { c["ath"] = strings.ToUpper(c["ath"].(string)) },
}

func TestS29AProofIsGoodForOneRequest(t *testing.T) {
	t.Parallel()
	n := plain(t, nil)
	h := newHolder(t)
	places := n.everywhere(n.open(n.opening("scope", "http:orders:GET:/v1/*"), h))
	all := maps.Clone(spoilt)
	maps.Copy(all, spoiltWithToken)
	send := func(p place, proof ...string) mayflytest.Answer {
		headers := []string{"Authorization", "DPoP " + p.have.text}
		for _, one := range proof {
			headers = append(headers, "DPoP", one)
		}
		return n.Do(n.Request(http.MethodGet, p.path, nil, headers...))
	}
	n.strangersCounted(len(places)*(len(all)+5), func() {
		for _, p := range places {
			for name, spoil := range all {
				header, claims := n.proofFor(h, http.MethodGet, p.path, p.have.text)
				spoil(n, h, header, claims)
				n.challenged(p.name+": "+name, send(p, h.sign(header, claims)), "invalid_dpop_proof")
			}
			good := func() string { return n.proof(h, http.MethodGet, p.path, p.have.text) }
			n.challenged(p.name+": none", send(p), "invalid_dpop_proof")
			n.challenged(p.name+": two", send(p, good(), good()), "invalid_dpop_proof")
			n.challenged(p.name+": rubbish", send(p, "x"), "invalid_dpop_proof")
			n.challenged(p.name+": by another key", send(p, n.proof(newHolder(t), http.MethodGet, p.path, p.have.text)), "invalid_dpop_proof")
			used := good()
			if a := send(p, used); a.Status != 200 {
				t.Errorf("%s: a right proof: %s", p.name, a)
			}
			n.Orders.Forget()
			n.challenged(p.name+": used again", send(p, used), "invalid_dpop_proof")
			if len(n.Orders.Requests()) != 0 {
				t.Error("a replayed proof reached the upstream")
			}
		}
		n.Orders.Forget() // strangersCounted compares with before
	})
	if got := n.IDP.Fetched("/evil"); got != 0 {
		t.Errorf("a key was fetched %d times from where the proof said", got)
	}
	// A denied call burns its proof, too.
	denial := n.proof(h, http.MethodDelete, "/http/orders/v1/orders", places[0].have.text)
	for i, want := range []struct {
		status int
		code   string
	}{{403, "insufficient_scope"}, {401, "invalid_dpop_proof"}} {
		a := n.Do(n.Request(http.MethodDelete, "/http/orders/v1/orders", nil, "Authorization", "DPoP "+places[0].have.text, "DPoP", denial))
		if a.Status != want.status {
			t.Errorf("request %d with one proof: %s", i+1, a)
		}
	}
	// Spellings of one URL are one URL (RFC 9449 section 4.3, RFC 3986 section 6.2).
	for _, p := range places {
		for name, edit := range map[string]func(string) string{
			"with a query":    func(u string) string { return u + "?a=b" },
			"with a fragment": func(u string) string { return u + "#x" },
			"scheme in caps":  func(u string) string { return strings.Replace(u, "http:", "HTTP:", 1) },
		} {
			header, claims := n.proofFor(h, http.MethodGet, p.path, p.have.text)
			claims["htu"] = edit(claims["htu"].(string))
			if a := send(p, h.sign(header, claims)); a.Status != 200 {
				t.Errorf("%s, htu %s: %s", p.name, name, a)
			}
		}
	}
}

func TestS30AProofNeedsANonceOfOurs(t *testing.T) {
	t.Parallel()
	n, c := clocked(t, mayflytest.Options{Change: func(b *authority.Bundle) { b.Profiles["invoice"].Lifetime.Idle = time.Hour }})
	h := newHolder(t)
	old := n.Authority.Nonce("rs")
	oldAS := n.Authority.Nonce("as")
	n.pass(c, 15*time.Minute)
	own := n.open(n.opening("scope", "http:orders:GET:/v1/*"), h)
	places := n.everywhere(own)
	nonces := map[string]any{"none": nil, "empty": "", "made up": "abc", "fifteen minutes old": old, "of the token endpoint": n.Authority.Nonce("as")}
	n.strangersCounted(len(places)*len(nonces), func() {
		for _, p := range places {
			for name, nonce := range nonces {
				header, claims := n.proofFor(h, http.MethodGet, p.path, p.have.text)
				claims["nonce"] = nonce
				a := n.Do(n.Request(http.MethodGet, p.path, nil, "Authorization", "DPoP "+p.have.text, "DPoP", h.sign(header, claims)))
				n.challenged(p.name+": "+name, a, "use_dpop_nonce")
				// The nonce that comes with it is good.
				header, claims = n.proofFor(h, http.MethodGet, p.path, p.have.text)
				if claims["nonce"] = a.Header.Get("DPoP-Nonce"); claims["nonce"] == "" {
					t.Errorf("%s: no nonce came along", p.name)
				}
				a = n.Do(n.Request(http.MethodGet, p.path, nil, "Authorization", "DPoP "+p.have.text, "DPoP", h.sign(header, claims)))
				if a.Status != 200 || a.Header.Get("DPoP-Nonce") == "" {
					t.Errorf("%s: with the nonce given: %s", p.name, a)
				}
			}
		}
		n.Orders.Forget()
	})
	asNonces := map[string]any{"none": nil, "made up": "abc", "fifteen minutes old": oldAS, "of the gateway": n.Authority.Nonce("rs")}
	n.strangersCounted(len(asNonces), func() {
		for name, nonce := range asNonces {
			header, claims := n.proofFor(h, http.MethodPost, "/oauth2/token", "")
			claims["nonce"] = nonce
			a := n.post("/oauth2/token", n.opening().Encode(), "DPoP", h.sign(header, claims))
			n.says("token endpoint: "+name, a, 400, "use_dpop_nonce")
			if a.Header.Get("DPoP-Nonce") == "" {
				t.Errorf("token endpoint, %s: no nonce came along", name)
			}
		}
	})
}

func TestAProofAtTheTokenEndpointIsGoodForOneRequest(t *testing.T) {
	t.Parallel()
	n := plain(t, nil)
	h := newHolder(t)
	const path = "/oauth2/token"
	n.strangersCounted(len(spoilt)+2, func() {
		for name, spoil := range spoilt {
			header, claims := n.proofFor(h, http.MethodPost, path, "")
			spoil(n, h, header, claims)
			n.says(name, n.post(path, n.opening().Encode(), "DPoP", h.sign(header, claims)), 400, "invalid_dpop_proof")
		}
		good := func() string { return n.proof(h, http.MethodPost, path, "") }
		n.says("two", n.post(path, n.opening().Encode(), "DPoP", good(), "DPoP", good()), 400, "invalid_dpop_proof")
		n.says("rubbish", n.post(path, n.opening().Encode(), "DPoP", "x"), 400, "invalid_dpop_proof")
	})
	used := n.proof(h, http.MethodPost, path, "")
	if a := n.post(path, n.opening().Encode(), "DPoP", used); a.Status != 200 {
		t.Fatalf("a right proof: %s", a)
	}
	n.refused("used again", func() mayflytest.Answer { return n.post(path, n.opening().Encode(), "DPoP", used) }, 400, "invalid_dpop_proof")
	// Burned on refusal, too.
	spent := n.proof(h, http.MethodPost, path, "")
	n.refused("refused", func() mayflytest.Answer {
		return n.post(path, n.opening("scope", "mcp:bank:delete_vendor").Encode(), "DPoP", spent)
	}, 400, "invalid_scope")
	n.refused("used again after a refusal", func() mayflytest.Answer { return n.post(path, n.opening().Encode(), "DPoP", spent) }, 400, "invalid_dpop_proof")
}

// On two nodes of one installation a proof and an assertion are still good once.
func TestAProofUsedOnOneNodeIsUsedOnAll(t *testing.T) {
	t.Parallel()
	registration, key := registered(t, clientID, "")
	options := mayflytest.Options{DSN: mayflytest.Postgres(t), Clients: []attest.Client{registration}}
	one := node{mayflytest.New(t, options), time.Now}
	two := node{mayflytest.New(t, mayflytest.Options{Beside: one.System, Clients: options.Clients}), time.Now}
	h := newHolder(t)
	proof := one.proof(h, http.MethodPost, "/oauth2/token", "")
	if a := one.post("/oauth2/token", one.opening().Encode(), "DPoP", proof); a.Status != 200 {
		t.Fatal(a)
	}
	two.refused("the proof at the other node", func() mayflytest.Answer {
		return two.post("/oauth2/token", two.opening().Encode(), "DPoP", proof)
	}, 400, "invalid_dpop_proof")

	assertion := one.asClient(key, clientID)
	noActor := []string{"actor_token", "", "actor_token_type", ""}
	own := one.open(with(one.opening(assertion...), noActor...), h)
	two.refused("the assertion at the other node", func() mayflytest.Answer {
		return two.token(with(two.opening(assertion...), noActor...), h)
	}, 401, "invalid_client")

	orders := one.at(one.open(one.opening("scope", "http:orders:GET:/v1/*"), h), "/http/orders")
	proof = one.proof(h, http.MethodGet, "/http/orders/v1/orders", orders.text)
	call := []string{"Authorization", "DPoP " + orders.text, "DPoP", proof}
	if a := one.Do(one.Request(http.MethodGet, "/http/orders/v1/orders", nil, call...)); a.Status != 200 {
		t.Fatal(a)
	}
	two.refused("the call's proof at the other node", func() mayflytest.Answer {
		return two.Do(two.Request(http.MethodGet, "/http/orders/v1/orders", nil, call...))
	}, 401, "invalid_dpop_proof")
	if a := two.self(own); a.Status != 200 {
		t.Errorf("the token itself at the other node: %s", a)
	}
}
