package mayflytest_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/client"
	"github.com/mayfly-id/mayfly/internal/attest"
	"github.com/mayfly-id/mayfly/internal/authority"
	"github.com/mayfly-id/mayfly/internal/mayflytest"
)

// challenged checks what a 401 of a resource server offers (RFC 9449 section
// 7.1).
func (n node) challenged(name string, a mayflytest.Answer, code string) {
	n.T.Helper()
	n.says(name, a, 401, code)
	for _, challenge := range a.Header.Values("WWW-Authenticate") {
		if strings.HasPrefix(challenge, "DPoP ") && strings.Contains(challenge, `error="`+code+`"`) && strings.Contains(challenge, `algs="ES256 EdDSA"`) {
			return
		}
	}
	n.T.Errorf("%s: the challenges are %q", name, a.Header.Values("WWW-Authenticate"))
}

// everywhere is a token for the HTTP target and one for the API, each with a
// request that it is good for.
func (n node) everywhere(own held) []place {
	n.T.Helper()
	return []place{
		{"gateway", n.at(own, "/http/orders"), "/http/orders/v1/orders"},
		{"api", own, "/v1/tasks/" + string(own.task)},
	}
}

type place struct {
	name string
	have held
	path string
}

// forged is a token with another header, signed by sign, or not at all.
func forged(t *testing.T, token string, edit func(header members), sign func(text string) []byte) string {
	t.Helper()
	parts := strings.Split(token, ".")
	text, err := base64.RawURLEncoding.DecodeString(parts[0])
	if err != nil {
		t.Fatal(err)
	}
	var header members
	if err := json.Unmarshal(text, &header); err != nil {
		t.Fatal(err)
	}
	edit(header)
	signed := b64(toJSON(header)) + "." + parts[1]
	if sign == nil {
		return signed + "." + parts[2]
	}
	return signed + "." + b64(sign(signed))
}

func TestS25TokensWithTricksInTheirHeaderAreRefused(t *testing.T) {
	t.Parallel()
	n := plain(t, nil)
	h := newHolder(t)
	own := n.open(n.opening("scope", "http:orders:GET:/v1/*"), h)

	var set jose.JSONWebKeySet
	if err := json.Unmarshal(n.Do(n.Request(http.MethodGet, "/oauth2/jwks", nil)).Body, &set); err != nil || len(set.Keys) == 0 {
		t.Fatalf("no key set: %v", err)
	}
	der, err := x509.MarshalPKIXPublicKey(set.Keys[0].Key)
	if err != nil {
		t.Fatal(err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	hmacWith := func(key []byte) func(string) []byte {
		return func(text string) []byte {
			mac := hmac.New(sha256.New, key)
			mac.Write([]byte(text))
			return mac.Sum(nil)
		}
	}
	mine := func(text string) []byte {
		parts := strings.Split(newHolder(t).sign(members{}, members{}), ".")
		raw, err := base64.RawURLEncoding.DecodeString(parts[2])
		if err != nil {
			t.Fatal(err)
		}
		_ = text // a signature of something else
		return raw
	}
	nothing := func(string) []byte { return nil }
	set1 := func(name string, value any) func(members) { return func(m members) { m[name] = value } }
	unset := func(name string) func(members) { return func(m members) { delete(m, name) } }
	evil := n.IDP.URL() + "/evil"

	tricks := func(p place) map[string]string {
		return map[string]string{
			"alg none":                       forged(t, p.have.text, set1("alg", "none"), nothing),
			"alg None":                       forged(t, p.have.text, set1("alg", "None"), nothing),
			"alg none, signed":               forged(t, p.have.text, set1("alg", "none"), nil),
			"no alg":                         forged(t, p.have.text, unset("alg"), nil),
			"HS256 with the public key, PEM": forged(t, p.have.text, set1("alg", "HS256"), hmacWith(public)),
			"HS256 with the public key, DER": forged(t, p.have.text, set1("alg", "HS256"), hmacWith(der)),
			"RS256":                          forged(t, p.have.text, set1("alg", "RS256"), nil),
			"ES384":                          forged(t, p.have.text, set1("alg", "ES384"), nil),
			"no typ":                         forged(t, p.have.text, unset("typ"), nil),
			"typ JWT":                        forged(t, p.have.text, set1("typ", "JWT"), nil),
			"typ dpop+jwt":                   forged(t, p.have.text, set1("typ", "dpop+jwt"), nil),
			"typ in another case":            forged(t, p.have.text, set1("typ", "AT+JWT"), nil),
			"crit":                           forged(t, p.have.text, set1("crit", []string{"x"}), nil),
			"crit, empty":                    forged(t, p.have.text, set1("crit", []string{}), nil),
			"b64":                            forged(t, p.have.text, set1("b64", false), nil),
			"jku":                            forged(t, p.have.text, set1("jku", evil), nil),
			"x5u":                            forged(t, p.have.text, set1("x5u", evil), nil),
			"x5c":                            forged(t, p.have.text, set1("x5c", []string{b64(der)}), nil),
			"jwk":                            forged(t, p.have.text, set1("jwk", newHolder(t).jwk()), mine),
			"zip":                            forged(t, p.have.text, set1("zip", "DEF"), nil),
			"no kid":                         forged(t, p.have.text, unset("kid"), nil),
			"another kid":                    forged(t, p.have.text, set1("kid", "../../keys/1"), nil),
			"another's signature":            forged(t, p.have.text, func(members) {}, mine),
			"no signature":                   forged(t, p.have.text, func(members) {}, nothing),
			"a bit more":                     p.have.text + "A",
			"a line feed in it":              strings.Replace(p.have.text, ".", ".=", 1),
			"a fourth part":                  p.have.text + ".AAAA",
			"a source's token":               n.IDP.Issue(members{"aud": p.have.text}),
			"a DPoP proof":                   n.proof(h, http.MethodGet, p.path, p.have.text),
		}
	}
	places := n.everywhere(own)
	total := 0
	for _, p := range places {
		total += len(tricks(p))
	}
	n.strangersCounted(total, func() {
		for _, p := range places {
			for name, text := range tricks(p) {
				n.says(p.name+": "+name, n.send(held{text: text, h: h}, http.MethodGet, p.path, nil), 401, "invalid_token")
			}
		}
	})
	if got := n.IDP.Fetched("/evil"); got != 0 {
		t.Errorf("the key was fetched %d times from where the token said", got)
	}
	for _, p := range places { // what was spoilt is good
		if a := n.send(p.have, http.MethodGet, p.path, nil); a.Status != 200 {
			t.Errorf("%s: the token itself: %s", p.name, a)
		}
	}
}

func TestS26HugeTokensCostNothing(t *testing.T) {
	t.Parallel()
	n := plain(t, nil)
	own := n.open(n.opening("scope", "http:orders:GET:/v1/*"), newHolder(t))
	reached := n.reached()
	jwe := b64([]byte(`{"alg":"dir","enc":"A256GCM","zip":"DEF"}`)) + ".." + b64(make([]byte, 12)) + "." + b64(make([]byte, 4096)) + "." + b64(make([]byte, 16))
	pbes := b64([]byte(`{"alg":"PBES2-HS256+A128KW","enc":"A128GCM","p2c":2147483647,"p2s":"AAAAAAAAAAA"}`)) + "." + b64(make([]byte, 24)) + "." + b64(make([]byte, 12)) + ".AAAA." + b64(make([]byte, 16))
	for name, text := range map[string]string{
		"a mebibyte": strings.Repeat("A", 1<<20), "a million dots": strings.Repeat(".", 1_000_000),
		"as much as fits": strings.Repeat("A", 15<<10), "as many dots as fit": strings.Repeat(".", 15<<10),
		"a JWE that unzips": jwe, "a JWE with 2^31 iterations": pbes,
	} {
		for _, p := range n.everywhere(own) {
			// What does not fit into 16 KiB of header is refused before it is
			// read; net/http answers that itself and closes.
			tooLong := len(text) > 16<<10
			fastest := time.Hour
			for range 3 { // the machine's other work is not the token's cost
				start := time.Now()
				a := n.Do(n.Request(http.MethodGet, p.path, nil, "Authorization", "Bearer "+text))
				fastest = min(fastest, time.Since(start))
				if tooLong && a.Status != http.StatusRequestHeaderFieldsTooLarge || !tooLong && (a.Status != 401 || a.Error() != "invalid_token") {
					t.Errorf("%s at %s: %d %.200s", name, p.name, a.Status, a.Body)
				}
			}
			if fastest > 100*time.Millisecond {
				t.Errorf("%s at %s took %s", name, p.name, fastest)
			}
		}
	}
	// As a parameter, where there is room for more.
	for name, f := range map[string]url.Values{
		"subject":      n.opening("subject_token", strings.Repeat(".", 30<<10), "subject_token_type", client.TypeAccessToken),
		"subject, jwt": n.opening("subject_token", strings.Repeat("A.", 15<<10)), "actor": n.opening("actor_token", strings.Repeat("A", 20<<10)),
	} {
		n.says(name, n.token(f, newHolder(t)), 400, invalidRequest)
	}
	n.says("a form of 33 KiB", n.token(n.opening("subject_token", strings.Repeat("A", 33<<10)), newHolder(t)), 413, invalidRequest)
	if n.reached() != reached {
		t.Error("the upstream was reached")
	}
	if a := n.self(own); a.Status != 200 {
		t.Errorf("the node does not answer any more: %s", a)
	}
}

func TestS28ABoundTokenIsNoBearerToken(t *testing.T) {
	t.Parallel()
	n := plain(t, nil)
	h := newHolder(t)
	places := n.everywhere(n.open(n.opening("scope", "http:orders:GET:/v1/*"), h))
	n.strangersCounted(4*len(places), func() {
		for _, p := range places {
			stolen := held{text: p.have.text}
			n.challenged(p.name, n.send(stolen, http.MethodGet, p.path, nil), "invalid_token")
			n.challenged(p.name+", with a proof", n.send(stolen, http.MethodGet, p.path, nil, "DPoP", n.proof(h, http.MethodGet, p.path, p.have.text)), "invalid_token")
			n.challenged(p.name+", twice", n.send(p.have, http.MethodGet, p.path, nil, "Authorization", "Bearer "+p.have.text), "invalid_token")
			n.challenged(p.name+", as another scheme", n.Do(n.Request(http.MethodGet, p.path, nil,
				"Authorization", "Basic "+p.have.text, "DPoP", n.proof(h, http.MethodGet, p.path, p.have.text))), "invalid_token")
		}
	})
	// And the other way round: a token that is bound to nothing is no DPoP token.
	unbound := n.open(n.opening("profile", "open"), nil)
	n.strangersCounted(1, func() {
		n.says("unbound as DPoP", n.send(held{text: unbound.text, h: h}, http.MethodGet, "/v1/tasks/"+string(unbound.task), nil), 401, "invalid_token")
	})
	if a := n.self(unbound); a.Status != 200 {
		t.Errorf("unbound as Bearer: %s", a)
	}
}

// Client authentication: every assertion that is not quite right, at every
// endpoint that takes one.
func TestClientAssertionsThatAreNotQuiteRightAreRefused(t *testing.T) {
	t.Parallel()
	registration, key := registered(t, clientID, "")
	second, other := registered(t, "https://second.example/client", "")
	n := node{mayflytest.New(t, mayflytest.Options{Clients: []attest.Client{registration, second}}), time.Now}
	own := n.open(n.opening(), newHolder(t))
	once := n.asClient(key, clientID)
	n.open(with(n.opening("actor_token", "", "actor_token_type", ""), once...), newHolder(t))
	n.refused("a jti used before", func() mayflytest.Answer {
		return n.token(with(n.opening("actor_token", "", "actor_token_type", ""), once...), newHolder(t))
	}, 401, "invalid_client")
	n.says("and elsewhere", n.post("/oauth2/introspect", with(url.Values{"token": {own.text}}, once...).Encode()), 401, "invalid_client")
	symmetric := func(header, claims members) string {
		header["alg"] = "HS256"
		text := b64(toJSON(header)) + "." + b64(toJSON(claims))
		mac := hmac.New(sha256.New, key.JWKS())
		mac.Write([]byte(text))
		return text + "." + b64(mac.Sum(nil))
	}
	edit := func(f func(h, c members)) []string {
		header, claims := n.assertionOf(key, clientID)
		f(header, claims)
		return assertion(key.sign(header, claims))
	}
	header, claims := n.assertionOf(key, clientID)
	rows := map[string][]string{
		"aud is the token endpoint":    edit(func(_, c members) { c["aud"] = n.Issuer + "/oauth2/token" }),
		"aud is us and another":        edit(func(_, c members) { c["aud"] = []string{n.Issuer, "https://other.example"} }),
		"aud is us, in a list":         edit(func(_, c members) { c["aud"] = []string{n.Issuer} }),
		"aud is us with a slash":       edit(func(_, c members) { c["aud"] = n.Issuer + "/" }),
		"no aud":                       edit(func(_, c members) { c["aud"] = nil }),
		"iss is not sub":               edit(func(_, c members) { c["iss"] = second.ID }),
		"sub is not iss":               edit(func(_, c members) { c["sub"] = second.ID }),
		"no jti":                       edit(func(_, c members) { c["jti"] = nil }),
		"no exp":                       edit(func(_, c members) { c["exp"] = nil }),
		"expired":                      edit(func(_, c members) { c["exp"], c["iat"] = n.now().Unix()-10, n.now().Unix()-70 }),
		"an hour long":                 edit(func(_, c members) { c["exp"] = n.now().Unix() + 3600 }),
		"typ of an access token":       edit(func(h, _ members) { h["typ"] = "at+jwt" }),
		"typ of a proof":               edit(func(h, _ members) { h["typ"] = "dpop+jwt" }),
		"typ of a grant":               edit(func(h, _ members) { h["typ"] = "oauth-id-jag+jwt" }),
		"alg none":                     edit(func(h, _ members) { h["alg"] = "none" }),
		"crit":                         edit(func(h, _ members) { h["crit"] = []string{"x"} }),
		"jku":                          edit(func(h, _ members) { h["jku"] = n.IDP.URL() + "/evil" }),
		"HS256 with the public key":    assertion(symmetric(header, claims)),
		"signed by another client":     assertion(other.sign(n.assertionOf(key, clientID))),
		"an unknown client":            assertion(key.sign(n.assertionOf(key, "https://nobody.example"))),
		"client_id of another":         append(n.asClient(key, clientID), "client_id", second.ID),
		"another assertion type":       append(n.asClient(key, clientID), "client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:saml2-bearer"),
		"no assertion type":            append(n.asClient(key, clientID), "client_assertion_type", ""),
		"no assertion":                 append(n.asClient(key, clientID), "client_assertion", ""),
		"a client secret":              append(n.asClient(key, clientID), "client_secret", "s3cret"),
		"rubbish":                      assertion("x"),
		"a source's token":             assertion(n.Evidence("invoice-1")),
		"an access token of a task":    assertion(own.text),
		"a signature with a bit added": assertion(key.sign(n.assertionOf(key, clientID)) + "A"),
	}
	for endpoint, f := range map[string]url.Values{
		"/oauth2/token":      n.opening("actor_token", "", "actor_token_type", ""),
		"/oauth2/introspect": {"token": {own.text}},
		"/oauth2/revoke":     {"token": {own.text}},
	} {
		for name, pairs := range rows {
			n.says(endpoint+": "+name, n.post(endpoint, with(f, pairs...).Encode()), 401, "invalid_client")
		}
		a := n.post(endpoint, with(f, n.asClient(key, clientID)...).Encode(), "Authorization", "Basic eDp5")
		n.says(endpoint+": two methods at once", a, 401, "invalid_client")
		if got := a.Header.Get("WWW-Authenticate"); !strings.HasPrefix(got, "Basic ") {
			t.Errorf("%s: a client that tried Basic is told %q", endpoint, got)
		}
		if endpoint != "/oauth2/token" {
			n.says(endpoint+": nothing", n.post(endpoint, f.Encode()), 401, "invalid_client")
		}
		// The same one twice, at this endpoint and from another.
		once := n.asClient(key, clientID)
		n.post("/oauth2/introspect", with(url.Values{"token": {"x"}}, once...).Encode())
		n.says(endpoint+": a jti used before", n.post(endpoint, with(f, once...).Encode()), 401, "invalid_client")
	}
	if a := n.self(own); a.Status != 200 {
		t.Errorf("the token that was to be revoked: %s", a)
	}
	if got := n.IDP.Fetched("/evil"); got != 0 {
		t.Errorf("a key was fetched %d times from where the assertion said", got)
	}
}

func (n node) introspect(text string, auth ...string) mayflytest.Answer {
	n.T.Helper()
	return n.post("/oauth2/introspect", with(url.Values{"token": {text}}, auth...).Encode())
}

const inactive = `{"active":false}`

func TestIntrospectionAnswersTheOperatorAndATokensOwnAudience(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	reports, rs := registered(t, "https://reports.example/client", "")
	stranger, other := registered(t, "https://stranger.example/client", "")
	n := node{mayflytest.New(t, mayflytest.Options{
		Clients: []attest.Client{reports, stranger},
		Change: func(b *authority.Bundle) {
			b.Audiences = []string{"https://reports.example"}
			b.Clients[reports.ID] = authority.ClientInfo{Audience: "https://reports.example"}
		},
	}), time.Now}
	h := newHolder(t)
	own := n.open(n.opening(), h)
	outside := n.open(again(own, "resource", "https://reports.example"), h)

	for name, text := range map[string]string{"for the issuer": own.text, "for an audience": outside.text, "for a target": n.at(own, "/mcp/bank").text} {
		m, err := n.Operator().Introspect(ctx, client.ClientAuth{}, text)
		if err != nil || m["active"] != true {
			t.Fatalf("%s: %v %v", name, m, err)
		}
		want := payload(t, text)
		want["active"], want["token_type"] = true, "DPoP"
		if got, _ := json.Marshal(m); string(got) != string(toJSON(want)) {
			t.Errorf("%s: introspection says\n%s\nthe token\n%s", name, got, toJSON(want))
		}
		if m["cnf"] == nil || m["act"] == nil || m["task"] == nil || m["authorization_details"] == nil {
			t.Errorf("%s: something is missing of %v", name, m)
		}
	}
	if a := n.introspect(outside.text, n.asClient(rs, reports.ID)...); !strings.Contains(string(a.Body), `"active":true`) || a.Status != 200 {
		t.Errorf("the audience asks: %s", a)
	}
	unbound := n.open(n.opening("profile", "open"), nil)
	if m, err := n.Operator().Introspect(ctx, client.ClientAuth{}, unbound.text); err != nil || m["token_type"] != "Bearer" || m["cnf"] != nil {
		t.Errorf("unbound: %v %v", m, err)
	}

	for name, a := range map[string]mayflytest.Answer{
		"another audience asks":     n.introspect(own.text, n.asClient(rs, reports.ID)...),
		"a client with no audience": n.introspect(outside.text, n.asClient(other, stranger.ID)...),
		"rubbish":                   n.introspect("x", n.asClient(rs, reports.ID)...),
		"a source's token":          n.introspect(n.Human("alice"), n.asClient(rs, reports.ID)...),
		"another's signature":       n.introspect(outside.text[:len(outside.text)-4]+"AAAA", n.asClient(rs, reports.ID)...),
	} {
		if a.Status != 200 || string(a.Body) != inactive {
			t.Errorf("%s: %s", name, a)
		}
	}
	n.says("nobody asks", n.introspect(outside.text), 401, "invalid_client")
	n.says("a task asks", n.send(own, http.MethodPost, "/oauth2/introspect", nil, "Content-Type", asForm), 400, invalidRequest)

	if _, err := n.Operator().Revoke(ctx, own.task); err != nil {
		t.Fatal(err)
	}
	if a := n.introspect(outside.text, n.asClient(rs, reports.ID)...); string(a.Body) != inactive {
		t.Errorf("after the task's end: %s", a)
	}
	if m, err := n.Operator().Introspect(ctx, client.ClientAuth{}, own.text); err != nil || len(m) != 1 || m["active"] != false {
		t.Errorf("after the task's end the operator is told %v %v", m, err)
	}
}

func (n node) revokeToken(text string, auth ...string) mayflytest.Answer {
	n.T.Helper()
	return n.post("/oauth2/revoke", with(url.Values{"token": {text}}, auth...).Encode())
}

func TestS32OnlyItsOwnClientRevokesAToken(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	mine, key := registered(t, clientID, "")
	yours, other := registered(t, "https://other.example/client", "")
	n := node{mayflytest.New(t, mayflytest.Options{Clients: []attest.Client{mine, yours}}), time.Now}
	h := newHolder(t)
	opening := func() held {
		return n.open(with(n.opening("scope", "mcp:bank:list_invoices http:orders:GET:/v1/*", "actor_token", "", "actor_token_type", ""), n.asClient(key, clientID)...), h)
	}
	own := opening()
	if got := payload(t, own.text)["client_id"]; got != clientID {
		t.Fatalf("client_id is %v", got)
	}
	bank, orders := n.at(own, "/mcp/bank"), n.at(own, "/http/orders")

	before := n.CountRefusals()
	for name, text := range map[string]string{"unknown": "x", "a source's": n.Human("alice"), "forged": own.text[:len(own.text)-4] + "AAAA"} {
		if a := n.revokeToken(text, n.asClient(key, clientID)...); a.Status != 200 {
			t.Errorf("%s token: %s", name, a)
		}
	}
	if got := n.CountRefusals(); got != before {
		t.Errorf("%d refusals are recorded of requests that succeeded", got-before)
	}
	agents := n.open(n.opening(), h)
	for name, have := range map[string]held{"another client's": own, "another client's, for a target": orders, "an agent's without a client": agents} {
		n.refused(name, func() mayflytest.Answer { return n.revokeToken(have.text, n.asClient(other, yours.ID)...) }, 400, invalidRequest)
	}
	if n.self(own).Status != 200 || n.orders(orders).Status != 200 || n.self(agents).Status != 200 {
		t.Error("a token that somebody else wanted revoked does not work any more")
	}

	// A token for a target dies alone.
	if a := n.revokeToken(orders.text, n.asClient(key, clientID)...); a.Status != 200 {
		t.Fatal(a)
	}
	n.says("the revoked one", n.orders(orders), 401, "invalid_token")
	if a := n.tool(bank, "list_invoices", members{}); a.Status != 200 {
		t.Errorf("the one for another target: %s", a)
	}
	fresh := n.at(own, "/http/orders")
	if a := n.orders(fresh); a.Status != 200 {
		t.Errorf("a new one: %s", a)
	}
	if a := n.revokeToken(orders.text, n.asClient(key, clientID)...); a.Status != 200 {
		t.Errorf("revoked twice: %s", a)
	}
	// The task's own takes everything with it.
	child := n.open(n.below(own, "reader"), h)
	if a := n.revokeToken(own.text, n.asClient(key, clientID)...); a.Status != 200 {
		t.Fatal(a)
	}
	for name, a := range map[string]mayflytest.Answer{
		"itself": n.self(own), "for a target": n.orders(fresh), "the child's": n.self(child), "for the bank": n.tool(bank, "list_invoices", members{}),
	} {
		n.says(name, a, 401, "invalid_token")
	}
	if v := n.view(own.task); v.Reason != mayfly.Revoked || v.ClosedBy != clientID {
		t.Errorf("the task ended by %s, by %s", v.Reason, v.ClosedBy)
	}
	// The operator revokes whose it likes.
	if err := n.Operator().RevokeToken(ctx, client.ClientAuth{}, agents.text); err != nil {
		t.Fatal(err)
	}
	n.says("revoked by the operator", n.self(agents), 401, "invalid_token")
}

func TestS76NothingRevokedLivesAgainAfterARestart(t *testing.T) {
	t.Parallel()
	mayflytest.OnEachEngine(t, func(t *testing.T, dsn string) {
		ctx := context.Background()
		options := mayflytest.Options{DSN: dsn}
		n := node{mayflytest.New(t, options), time.Now}
		h := newHolder(t)
		scope := []string{"scope", "http:orders:GET:/v1/*"}
		dead := map[string]held{}
		for _, name := range []string{"revoked", "completed", "token revoked", "child"} {
			dead[name] = n.open(n.opening(scope...), h)
		}
		alive := n.open(n.opening(scope...), h)
		aliveOrders, child := n.at(alive, "/http/orders"), n.open(n.below(dead["child"], "invoice", scope...), h)
		parent := dead["child"]
		dead["child"] = child
		orders := map[string]held{}
		for name, have := range dead {
			orders[name] = n.at(have, "/http/orders")
		}
		target := n.at(alive, "/http/orders")
		orders["for a target"] = target
		used := n.proof(h, http.MethodPost, "/oauth2/token", "")
		if a := n.post("/oauth2/token", n.opening().Encode(), "DPoP", used); a.Status != 200 {
			t.Fatal(a)
		}
		called := n.proof(h, http.MethodGet, "/http/orders/v1/orders", aliveOrders.text)
		call := []string{"Authorization", "DPoP " + aliveOrders.text, "DPoP", called}
		if a := n.Do(n.Request(http.MethodGet, "/http/orders/v1/orders", nil, call...)); a.Status != 200 {
			t.Fatal(a)
		}
		for _, revoke := range []func() error{
			func() error { _, err := n.Operator().Revoke(ctx, dead["revoked"].task); return err },
			func() error { _, err := n.Operator().Complete(ctx, dead["completed"].task); return err },
			func() error { _, err := n.Operator().Revoke(ctx, parent.task); return err },
			func() error { return n.Operator().RevokeToken(ctx, client.ClientAuth{}, dead["token revoked"].text) },
			func() error { return n.Operator().RevokeToken(ctx, client.ClientAuth{}, target.text) },
		} {
			if err := revoke(); err != nil {
				t.Fatal(err)
			}
		}
		n.Stop()
		n.Start(options)
		reached := n.reached()
		n.refused("a proof of before at the token endpoint", func() mayflytest.Answer {
			return n.post("/oauth2/token", n.opening().Encode(), "DPoP", used)
		}, 400, "invalid_dpop_proof")
		n.refused("a proof of before at the gateway", func() mayflytest.Answer {
			return n.Do(n.Request(http.MethodGet, "/http/orders/v1/orders", nil, call...))
		}, 401, "invalid_dpop_proof")
		for name, have := range dead {
			n.says(name, n.self(have), 401, "invalid_token")
			n.says(name+", exchanged", n.token(again(have), h), 400, invalidRequest)
		}
		for name, have := range orders {
			n.says(name+" at the gateway", n.orders(have), 401, "invalid_token")
		}
		if n.reached() != reached {
			t.Error("the upstream was reached")
		}
		if a := n.orders(aliveOrders); a.Status != 200 {
			t.Errorf("what was not revoked: %s", a)
		}
	})
}

func TestS77AClockSetBackStopsIssuingAndLengthensNothing(t *testing.T) {
	t.Parallel()
	n, c := clocked(t, mayflytest.Options{Change: func(b *authority.Bundle) { b.Profiles["invoice"].Lifetime.Idle = time.Hour }})
	ctx := context.Background()
	h := newHolder(t)
	own := n.open(n.opening("scope", "http:orders:GET:/v1/*"), h)
	orders := n.at(own, "/http/orders")
	deadline := n.view(own.task).Deadline

	c.back.Store(int64(time.Hour))
	for name, f := range map[string]url.Values{"opening": n.opening(), "renewing": again(own), "delegating": n.below(own, "reader")} {
		a := n.token(f, h)
		if a.Status != 503 || a.Error() != "clock_unsafe" && a.Error() != "temporarily_unavailable" || strings.Contains(string(a.Body), "access_token") {
			t.Errorf("%s: %s", name, a)
		}
		if a.Header.Get("Retry-After") == "" {
			t.Errorf("%s: it does not say when to try again", name)
		}
	}
	n.says("a ticket", n.send(own, http.MethodPost, "/v1/delegations", []byte(`{"profile":"reader","purpose":"p"}`)), 503, "clock_unsafe")
	n.says("readiness", n.Do(n.Request(http.MethodGet, "/readyz", nil)), 503, "clock_unsafe")
	if a := n.orders(orders); a.Status != 200 {
		t.Errorf("what was issued before: %s", a)
	}
	if got := n.view(own.task).Deadline; !got.Equal(deadline) {
		t.Errorf("the deadline moved from %s to %s", deadline, got)
	}
	// Five minutes by any clock but the wall's: the token is over, though the
	// wall clock says that it was not even issued.
	n.jump(c, 5*time.Minute+time.Second)
	n.says("after its life", n.orders(orders), 401, "invalid_token")
	n.jump(c, 10*time.Minute)
	if v := n.view(own.task); v.State == mayfly.Live {
		t.Errorf("after its deadline the task is %s", v.State)
	}
	// Right again, and within the slack: issuing goes on by itself.
	c.back.Store(int64(4 * time.Second))
	n.Eventually("issuing goes on", func() bool { return n.Authority.Ready(ctx) == nil })
	n.open(n.opening(), h)
}

// jump is pass for a node whose wall clock is behind: it denies issuing for
// that, and goes on deciding once it has confirmed the epoch.
func (n node) jump(c *clock, d time.Duration) {
	n.T.Helper()
	c.ahead.Add(int64(d))
	n.Eventually("the node decides again after a jump of the clock", func() bool {
		_, err := n.Operator().Revocations(context.Background())
		return err == nil
	})
}

func TestS79NoTokenOfACompromisedKeyIsAccepted(t *testing.T) {
	t.Parallel()
	mayflytest.OnEachEngine(t, func(t *testing.T, dsn string) {
		n := node{mayflytest.New(t, mayflytest.Options{DSN: dsn}), time.Now}
		nodes := []node{n}
		if strings.HasPrefix(dsn, "postgres") {
			nodes = append(nodes, node{mayflytest.New(t, mayflytest.Options{Beside: n.System}), time.Now})
		}
		ctx := context.Background()
		h := newHolder(t)
		own := n.open(n.opening("scope", "http:orders:GET:/v1/*"), h)
		orders := n.at(own, "/http/orders")
		for _, each := range nodes {
			if each.orders(orders).Status != 200 || each.self(own).Status != 200 {
				t.Fatal("the tokens do not work")
			}
		}
		kid := n.kids()[0]
		if err := n.Operator().CompromiseKey(ctx, kid); err != nil {
			t.Fatal(err)
		}
		reached := n.reached()
		// At once where it was asked for, within a second everywhere.
		n.says("the task's own", n.self(own), 401, "invalid_token")
		n.says("for a target", n.orders(orders), 401, "invalid_token")
		n.says("exchanged", n.token(again(own), h), 400, invalidRequest)
		if m, err := n.Operator().Introspect(ctx, client.ClientAuth{}, own.text); err != nil || m["active"] != false {
			t.Errorf("introspected: %v %v", m, err)
		}
		for _, each := range nodes[1:] {
			mayflytest.Eventually(t, time.Second, "the other node refuses it", func() bool { return each.self(own).Status == 401 })
			each.says("for a target, at the other node", each.orders(orders), 401, "invalid_token")
		}
		if n.reached() != reached {
			t.Error("the upstream was reached")
		}
		if slices.Contains(n.kids(), kid) {
			t.Error("the key is still published")
		}
		fresh := n.open(n.opening("scope", "http:orders:GET:/v1/*"), h)
		for _, each := range nodes {
			each.Eventually("a token of the new key is good", func() bool { return each.self(fresh).Status == 200 })
		}
		if err := n.Operator().CompromiseKey(ctx, kid); mayfly.KindOf(err) != mayfly.NotFound {
			t.Errorf("reported twice: %v", err)
		}
		if a := n.send(fresh, http.MethodPost, "/v1/keys/"+n.kids()[0]+"/compromise", nil); a.Status != 404 {
			t.Errorf("reported by a task: %s", a)
		}
		if got := len(n.Records("key.compromised")); got != 1 {
			t.Errorf("%d records of it", got)
		}
	})
}

// kids are the ids of the published keys.
func (n node) kids() []string {
	n.T.Helper()
	var set struct {
		Keys []struct {
			Kid string `json:"kid"`
		} `json:"keys"`
	}
	if err := json.Unmarshal(n.Do(n.Request(http.MethodGet, "/oauth2/jwks", nil)).Body, &set); err != nil || len(set.Keys) == 0 {
		n.T.Fatalf("no key set: %v", err)
	}
	var ids []string
	for _, k := range set.Keys {
		ids = append(ids, k.Kid)
	}
	return ids
}

// A token lives its life and no longer, whatever the proof.
func TestATokenDiesAtItsExpiry(t *testing.T) {
	t.Parallel()
	n, c := clocked(t, mayflytest.Options{Change: func(b *authority.Bundle) { b.Profiles["invoice"].Lifetime.Idle = time.Hour }})
	h := newHolder(t)
	own := n.open(n.opening("scope", "http:orders:GET:/v1/*"), h)
	places := n.everywhere(own)
	n.pass(c, 5*time.Minute-10*time.Second)
	for _, p := range places {
		if a := n.send(p.have, http.MethodGet, p.path, nil); a.Status != 200 {
			t.Errorf("%s, just before: %s", p.name, a)
		}
	}
	n.pass(c, 11*time.Second)
	n.Orders.Forget()
	n.strangersCounted(len(places), func() {
		for _, p := range places {
			n.challenged(p.name+", just after", n.send(p.have, http.MethodGet, p.path, nil), "invalid_token")
		}
	})
}
