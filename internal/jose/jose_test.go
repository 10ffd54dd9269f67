package jose_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	gojose "github.com/go-jose/go-jose/v4"
	"pgregory.net/rapid"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/jose"
)

type pair struct {
	alg    string
	signer crypto.Signer
	key    jose.Key
}

// pairs has one key for each algorithm; making RSA keys is slow, so it is done
// once.
var pairs = sync.OnceValue(func() map[string]pair {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	all := map[string]pair{}
	for alg, s := range map[string]crypto.Signer{jose.ES256: ec, jose.EdDSA: ed, jose.RS256: r, jose.PS256: r} {
		all[alg] = pair{alg, s, jose.Key{ID: "k-" + alg, Algorithm: alg, Public: s.Public()}}
	}
	return all
})

var everything = []string{jose.ES256, jose.EdDSA, jose.RS256, jose.PS256}

func access() jose.Rules { return jose.Rules{Types: []string{"at+jwt"}, Algorithms: everything} }

const claims = `{"iss":"https://a.example","sub":"u","aud":"x","exp":1,"iat":1}`

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

// signES256 signs any two texts, as header and payload, so that only the rule
// under test is broken.
func signES256(t testing.TB, header, payload string) string {
	t.Helper()
	signed := b64(header) + "." + b64(payload)
	digest := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, pairs()[jose.ES256].signer.(*ecdsa.PrivateKey), digest[:])
	if err != nil {
		t.Fatal(err)
	}
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return signed + "." + b64(string(signature))
}

const header = `{"alg":"ES256","kid":"k-ES256","typ":"at+jwt"}`

// with puts a member into the header.
func with(member string) string { return strings.TrimSuffix(header, "}") + "," + member + "}" }

func ecJWK(t testing.TB, more string) string {
	t.Helper()
	set, err := json.Marshal(jose.KeySet{{Public: pairs()[jose.ES256].key.Public}})
	if err != nil {
		t.Fatal(err)
	}
	var keys struct{ Keys []json.RawMessage }
	if err := json.Unmarshal(set, &keys); err != nil {
		t.Fatal(err)
	}
	return strings.TrimSuffix(string(keys.Keys[0]), "}") + more + "}"
}

func TestTheFrontDoorRefuses(t *testing.T) {
	good := signES256(t, header, claims)
	if _, err := verify(good, access()); err != nil {
		t.Fatalf("a good token was refused: %v", err)
	}
	parts := strings.Split(good, ".")
	last := good[len(good)-1]
	mac := hmac.New(sha256.New, mustSPKI(t))
	mac.Write([]byte(b64(`{"alg":"HS256","typ":"at+jwt"}`) + "." + b64(claims)))
	hs256 := b64(`{"alg":"HS256","typ":"at+jwt"}`) + "." + b64(claims) + "." + b64(string(mac.Sum(nil)))
	der, err := pairs()[jose.ES256].signer.Sign(rand.Reader, digest(parts[0]+"."+parts[1]), crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ rule, token string }{
		{"nothing", ""},
		{"longer than 16 KiB", signES256(t, header, `{"a":"`+strings.Repeat("a", 13<<10)+`"}`)},
		{"no dots", strings.ReplaceAll(good, ".", "")},
		{"one dot", parts[0] + "." + parts[1]},
		{"three dots", good + "."},
		{"five parts: a JWE", good + ".AAAA.AAAA"},
		{"an empty header", "." + parts[1] + "." + parts[2]},
		{"an empty payload", parts[0] + ".." + parts[2]},
		{"an empty signature", parts[0] + "." + parts[1] + "."},
		{"padding", good + "="},
		{"padding in the payload", parts[0] + "." + parts[1] + "==." + parts[2]},
		{"the other base64 alphabet", parts[0] + "." + parts[1] + "." + strings.Repeat("+/", 43)},
		{"a newline inside", parts[0] + "." + parts[1][:5] + "\n" + parts[1][5:] + "." + parts[2]},
		{"a carriage return at the end", good + "\r"},
		{"a space before", " " + good},
		{"a space inside", parts[0] + "." + parts[1] + "." + parts[2][:9] + " " + parts[2][9:]},
		{"a NUL", good + "\x00"},
		{"a part of length 1 mod 4", parts[0] + "." + parts[1] + "A." + parts[2] + "AAA"},
		{"set bits after the last byte", good[:len(good)-1] + string(last+1)},
		{"a header that is no JSON", signES256(t, `hello`, claims)},
		{"a header that is an array", signES256(t, `["ES256"]`, claims)},
		{"a header with something after it", signES256(t, header+" {}", claims)},
		{"alg twice", signES256(t, with(`"alg":"ES256"`), claims)},
		{"alg twice, once escaped", signES256(t, with(`"\u0061lg":"ES256"`), claims)},
		{"an unknown member twice", signES256(t, with(`"x":1,"x":1`), claims)},
		{"invalid UTF-8 in the header", signES256(t, with("\"x\":\"\xff\""), claims)},
		{"no alg", signES256(t, `{"typ":"at+jwt"}`, claims)},
		{"alg in another case", signES256(t, `{"ALG":"ES256","typ":"at+jwt"}`, claims)},
		{"alg none", b64(`{"alg":"none","typ":"at+jwt"}`) + "." + b64(claims) + "."},
		{"alg none with a signature", signES256(t, `{"alg":"none","typ":"at+jwt"}`, claims)},
		{"alg NonE", signES256(t, `{"alg":"NonE","typ":"at+jwt"}`, claims)},
		{"alg null", signES256(t, `{"alg":null,"typ":"at+jwt"}`, claims)},
		{"alg es256", signES256(t, `{"alg":"es256","typ":"at+jwt"}`, claims)},
		{"alg that is no string", signES256(t, `{"alg":["ES256"],"typ":"at+jwt"}`, claims)},
		{"alg HS256 with the public key as secret", hs256},
		{"alg ES384 over a P-256 key", signES256(t, `{"alg":"ES384","typ":"at+jwt"}`, claims)},
		{"alg of another type of key", signES256(t, `{"alg":"EdDSA","typ":"at+jwt"}`, claims)},
		{"crit", signES256(t, with(`"crit":["x"],"x":1`), claims)},
		{"crit, empty", signES256(t, with(`"crit":[]`), claims)},
		{"crit, null", signES256(t, with(`"crit":null`), claims)},
		{"jku", signES256(t, with(`"jku":"https://evil.example/keys"`), claims)},
		{"x5u", signES256(t, with(`"x5u":"https://evil.example/chain"`), claims)},
		{"x5c", signES256(t, with(`"x5c":["AAAA"]`), claims)},
		{"b64", signES256(t, with(`"b64":false`), claims)},
		{"zip", signES256(t, with(`"zip":"DEF"`), claims)},
		{"enc", signES256(t, with(`"enc":"A256GCM"`), claims)},
		{"jwk", signES256(t, with(`"jwk":`+ecJWK(t, "")), claims)},
		{"no typ", signES256(t, `{"alg":"ES256"}`, claims)},
		{"typ of another class", signES256(t, `{"alg":"ES256","typ":"JWT"}`, claims)},
		{"typ in another case", signES256(t, `{"alg":"ES256","typ":"AT+JWT"}`, claims)},
		{"typ with its prefix", signES256(t, `{"alg":"ES256","typ":"application/at+jwt"}`, claims)},
		{"kid that is no string", signES256(t, `{"alg":"ES256","typ":"at+jwt","kid":7}`, claims)},
		{"a payload that is no JSON", signES256(t, header, `hello`)},
		{"a payload that is an array", signES256(t, header, `[1]`)},
		{"a payload with something after it", signES256(t, header, claims+"{}")},
		{"a claim twice", signES256(t, header, `{"sub":"a","sub":"admin"}`)},
		{"a claim twice, deep", signES256(t, header, `{"act":{"sub":"a","sub":"admin"}}`)},
		{"invalid UTF-8 in a claim", signES256(t, header, "{\"sub\":\"\xc0\xaf\"}")},
		{"a claim that is no finite number", signES256(t, header, `{"exp":1e999}`)},
		{"a claim deeper than 32", signES256(t, header, `{"a":`+strings.Repeat("[", 32)+strings.Repeat("]", 32)+`}`)},
		{"a signature of 63 bytes", parts[0] + "." + parts[1] + "." + b64(strings.Repeat("x", 63))},
		{"a signature of 65 bytes", parts[0] + "." + parts[1] + "." + b64(strings.Repeat("x", 65))},
		{"a signature in DER", parts[0] + "." + parts[1] + "." + b64(string(der))},
		{"a signature of zeros", parts[0] + "." + parts[1] + "." + b64(strings.Repeat("\x00", 64))},
		{"a signature of another payload", parts[0] + "." + b64(`{"sub":"admin"}`) + "." + parts[2]},
		{"a signature of another header", b64(`{"alg":"ES256","typ":"at+jwt"}`) + "." + parts[1] + "." + parts[2]},
	} {
		t.Run(c.rule, func(t *testing.T) {
			_, err := verify(c.token, access())
			unauthenticated(t, err)
		})
	}
}

func unauthenticated(t *testing.T, err error) {
	t.Helper()
	var ours *mayfly.Error
	if !errors.As(err, &ours) || ours.Kind != mayfly.Unauthenticated || ours.Message == "" {
		t.Errorf("got %v, want a refusal of kind Unauthenticated", err)
	}
}

func verify(token string, rules jose.Rules) ([]byte, error) {
	m, err := jose.Parse(token, rules)
	if err != nil {
		return nil, err
	}
	return m.Verify(pairs()[jose.ES256].key)
}

func digest(text string) []byte {
	sum := sha256.Sum256([]byte(text))
	return sum[:]
}

func mustSPKI(t *testing.T) []byte {
	t.Helper()
	b, err := x509.MarshalPKIXPublicKey(pairs()[jose.ES256].key.Public)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestHugeTokensAreRefusedAtOnce(t *testing.T) {
	for name, token := range map[string]string{
		"1 MiB":                              b64(header) + "." + b64(claims) + "." + strings.Repeat("A", 1<<20),
		"a million dots":                     strings.Repeat(".", 1_000_000),
		"a million dots, short of the limit": strings.Repeat(".", jose.DefaultMaxBytes),
	} {
		best := time.Hour // the best of three: the machine may be busy
		for range 3 {
			start := time.Now()
			_, err := jose.Parse(token, access())
			best = min(best, time.Since(start))
			unauthenticated(t, err)
		}
		if best > 10*time.Millisecond {
			t.Errorf("%s: refused after %s", name, best)
		}
	}
}

func TestWhatWeSignVerifiesHereAndInGoJose(t *testing.T) {
	for alg, p := range pairs() {
		token, err := jose.Sign(p.signer, jose.Header{Algorithm: alg, KeyID: p.key.ID, Type: "at+jwt"}, []byte(claims))
		if err != nil {
			t.Fatalf("%s: %v", alg, err)
		}
		m, err := jose.Parse(token, access())
		if err != nil {
			t.Fatalf("%s: %v", alg, err)
		}
		if m.Algorithm != alg || m.KeyID != p.key.ID || m.Type != "at+jwt" || m.EmbeddedKey != nil {
			t.Errorf("%s: the header reads %+v", alg, m)
		}
		if payload, err := m.Verify(p.key); err != nil || string(payload) != claims {
			t.Errorf("%s: got %s, %v", alg, payload, err)
		}
		theirs, err := gojose.ParseSignedCompact(token, []gojose.SignatureAlgorithm{gojose.SignatureAlgorithm(alg)})
		if err != nil {
			t.Fatalf("%s: go-jose: %v", alg, err)
		}
		if payload, err := theirs.Verify(p.key.Public); err != nil || string(payload) != claims {
			t.Errorf("%s: go-jose got %s, %v", alg, payload, err)
		}
	}
}

func TestWhatGoJoseSignsVerifiesHere(t *testing.T) {
	for alg, p := range pairs() {
		signer, err := gojose.NewSigner(gojose.SigningKey{Algorithm: gojose.SignatureAlgorithm(alg), Key: p.signer},
			(&gojose.SignerOptions{EmbedJWK: true}).WithType("dpop+jwt"))
		if err != nil {
			t.Fatal(err)
		}
		object, err := signer.Sign([]byte(claims))
		if err != nil {
			t.Fatal(err)
		}
		token, err := object.CompactSerialize()
		if err != nil {
			t.Fatal(err)
		}
		m, err := jose.Parse(token, jose.Rules{Types: []string{"dpop+jwt"}, Algorithms: everything, EmbeddedKey: true})
		if err != nil {
			t.Errorf("%s: %v", alg, err)
			continue
		}
		if _, err := m.Verify(*m.EmbeddedKey); err != nil || m.EmbeddedKey.Thumbprint() != p.key.Thumbprint() {
			t.Errorf("%s: %v", alg, err)
		}
	}
}

func TestAKeyVerifiesOnlyItsOwnAlgorithm(t *testing.T) {
	for alg, p := range pairs() {
		token, err := jose.Sign(p.signer, jose.Header{Algorithm: alg, Type: "at+jwt"}, []byte(claims))
		if err != nil {
			t.Fatal(err)
		}
		m, err := jose.Parse(token, access())
		if err != nil {
			t.Fatal(err)
		}
		for other, q := range pairs() {
			_, err := m.Verify(q.key)
			if (err == nil) != (alg == other) {
				t.Errorf("a token of %s under a key for %s: %v", alg, other, err)
			}
		}
		if _, err := m.Verify(jose.Key{}); err == nil {
			t.Errorf("%s: no key verified it", alg)
		}
		if _, err := jose.Sign(p.signer, jose.Header{Algorithm: "HS256"}, []byte(claims)); err == nil {
			t.Errorf("%s: signed with HS256", alg)
		}
	}
	// Where the key does not say, its type does.
	p := pairs()[jose.PS256]
	token, err := jose.Sign(p.signer, jose.Header{Algorithm: jose.PS256, Type: "at+jwt"}, []byte(claims))
	if err != nil {
		t.Fatal(err)
	}
	m, err := jose.Parse(token, access())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Verify(jose.Key{Public: p.key.Public}); err != nil {
		t.Error(err)
	}
}

func TestAnEmbeddedKeyIsPublicAndStrong(t *testing.T) {
	proof := jose.Rules{Types: []string{"dpop+jwt"}, Algorithms: []string{jose.ES256, jose.EdDSA}, EmbeddedKey: true}
	carry := func(jwk string) string {
		h := `{"alg":"ES256","typ":"dpop+jwt"}`
		if jwk != "" {
			h = `{"alg":"ES256","typ":"dpop+jwt","jwk":` + jwk + `}`
		}
		return signES256(t, h, claims)
	}
	if m, err := jose.Parse(carry(ecJWK(t, "")), proof); err != nil {
		t.Fatal(err)
	} else if _, err := m.Verify(*m.EmbeddedKey); err != nil {
		t.Fatal(err)
	}
	zeros := base64.RawURLEncoding.EncodeToString(make([]byte, 32))
	for name, jwk := range map[string]string{
		"none":                   "",
		"null":                   "null",
		"a string":               `"key"`,
		"private":                ecJWK(t, `,"d":"AAAA"`),
		"private, null":          ecJWK(t, `,"d":null`),
		"private RSA members":    ecJWK(t, `,"p":"AAAA"`),
		"symmetric":              `{"kty":"oct","k":"AAAA"}`,
		"a member twice":         ecJWK(t, `,"kty":"EC"`),
		"not on the curve":       `{"kty":"EC","crv":"P-256","x":"` + zeros + `","y":"` + zeros + `"}`,
		"short coordinates":      `{"kty":"EC","crv":"P-256","x":"AAAA","y":"AAAA"}`,
		"padded coordinates":     strings.Replace(ecJWK(t, ""), `","y"`, `=","y"`, 1),
		"another curve":          strings.Replace(ecJWK(t, ""), "P-256", "P-384", 1),
		"no curve":               `{"kty":"EC"}`,
		"for encryption":         strings.Replace(ecJWK(t, ""), `"sig"`, `"enc"`, 1),
		"for signing only":       ecJWK(t, `,"key_ops":["sign"]`),
		"a short Ed25519 key":    `{"kty":"OKP","crv":"Ed25519","x":"AAAA"}`,
		"X25519":                 `{"kty":"OKP","crv":"X25519","x":"` + zeros + `"}`,
		"RSA of 1024 bits":       `{"kty":"RSA","e":"AQAB","n":"` + b64(strings.Repeat("\xff", 128)) + `"}`,
		"RSA of 16384 bits":      `{"kty":"RSA","e":"AQAB","n":"` + b64(strings.Repeat("\xff", 2048)) + `"}`,
		"RSA with exponent 1":    `{"kty":"RSA","e":"AQ","n":"` + b64(strings.Repeat("\xff", 256)) + `"}`,
		"RSA with leading zeros": `{"kty":"RSA","e":"AAEAAQ","n":"` + b64(strings.Repeat("\xff", 256)) + `"}`,
		"RSA, even":              `{"kty":"RSA","e":"AQAB","n":"` + b64(strings.Repeat("\xfe", 256)) + `"}`,
	} {
		t.Run(name, func(t *testing.T) {
			_, err := jose.Parse(carry(jwk), proof)
			unauthenticated(t, err)
		})
	}
}

// The examples of RFC 7638 section 3.1 and RFC 8037 appendix A.3.
func TestThumbprintsAreThoseOfTheRFCs(t *testing.T) {
	for jwk, want := range map[string]string{
		`{"kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw","e":"AQAB","alg":"RS256","kid":"2011-04-29"}`: "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs",
		`{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`:                                                "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k",
		`{"kty":"EC","crv":"P-256","x":"l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs","y":"9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA"}`: "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I",
	} {
		set, err := jose.ParseKeySet([]byte(`{"keys":[` + jwk + `]}`))
		if err != nil || len(set) != 1 {
			t.Fatal(err)
		}
		if got := set[0].Thumbprint(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	if got := (jose.Key{}).Thumbprint(); got != "" {
		t.Errorf("no key has the thumbprint %q", got)
	}
}

func TestKeySetsAreReadStrictly(t *testing.T) {
	ec := ecJWK(t, "")
	id := func(kid, alg string) string { return ecJWK(t, `,"kid":"`+kid+`","alg":"`+alg+`"`) }
	for _, c := range []struct {
		name, text string
		keys       int // -1 is refused
	}{
		{"one key", `{"keys":[` + ec + `]}`, 1},
		{"no keys", `{"keys":[]}`, 0},
		{"unknown members", `{"keys":[` + ecJWK(t, `,"x5t":"a","x5c":["b"]`) + `],"issuer":"x"}`, 1},
		{"an unknown type is skipped", `{"keys":[{"kty":"AKP","pub":"x"},` + ec + `]}`, 1},
		{"another curve is skipped", `{"keys":[` + strings.Replace(ec, "P-256", "P-521", 1) + `,` + ec + `]}`, 1},
		{"a key for encryption is skipped", `{"keys":[` + strings.Replace(ec, `"sig"`, `"enc"`, 1) + `]}`, 0},
		{"another algorithm is skipped", `{"keys":[` + id("a", "ECDH-ES") + `]}`, 0},
		{"a weak key is skipped", `{"keys":[{"kty":"RSA","e":"AQAB","n":"` + b64(strings.Repeat("\xff", 128)) + `"}]}`, 0},
		{"two keys with two ids", `{"keys":[` + id("a", "ES256") + `,` + id("b", "ES256") + `]}`, 2},
		{"two keys with one id", `{"keys":[` + id("a", "ES256") + `,` + id("a", "ES256") + `]}`, -1},
		{"a private key", `{"keys":[` + ecJWK(t, `,"d":"AAAA"`) + `]}`, -1},
		{"a shared secret", `{"keys":[{"kty":"oct","k":"AAAA"}]}`, -1},
		{"a malformed key", `{"keys":[{"kty":"EC","crv":"P-256","x":"AAAA","y":"AAAA"}]}`, -1},
		{"keys twice", `{"keys":[` + ec + `],"keys":[]}`, -1},
		{"no member keys", `{}`, -1},
		{"keys null", `{"keys":null}`, -1},
		{"one key, bare", ec, -1},
		{"no JSON", `hello`, -1},
		{"50 keys", `{"keys":[` + strings.Repeat(ec+",", 49) + ec + `]}`, 50},
		{"51 keys", `{"keys":[` + strings.Repeat(ec+",", 50) + ec + `]}`, -1},
		{"more than 64 KiB", `{"keys":[` + ec + `],"x":"` + strings.Repeat("x", 64<<10) + `"}`, -1},
	} {
		set, err := jose.ParseKeySet([]byte(c.text))
		switch {
		case c.keys < 0 && err == nil:
			t.Errorf("%s: accepted", c.name)
		case c.keys < 0:
			unauthenticated(t, err)
		case err != nil || len(set) != c.keys:
			t.Errorf("%s: got %d keys, %v, want %d", c.name, len(set), err, c.keys)
		}
	}
}

func TestAPublishedSetReadsBack(t *testing.T) {
	var set jose.KeySet
	for _, alg := range everything {
		set = append(set, pairs()[alg].key)
	}
	text, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), `"d"`) {
		t.Error("a private member was published")
	}
	back, err := jose.ParseKeySet(text)
	if err != nil || len(back) != len(set) {
		t.Fatalf("%d keys, %v", len(back), err)
	}
	for i := range set {
		if back[i].ID != set[i].ID || back[i].Algorithm != set[i].Algorithm || back[i].Thumbprint() != set[i].Thumbprint() {
			t.Errorf("published %+v, read %+v", set[i], back[i])
		}
	}
	var theirs gojose.JSONWebKeySet
	if err := json.Unmarshal(text, &theirs); err != nil || len(theirs.Keys) != len(set) {
		t.Fatalf("go-jose: %v", err)
	}
	for i, k := range theirs.Keys {
		sum, err := k.Thumbprint(crypto.SHA256)
		if err != nil || base64.RawURLEncoding.EncodeToString(sum) != set[i].Thumbprint() || !k.IsPublic() {
			t.Errorf("go-jose reads another key than %s: %v", set[i].ID, err)
		}
	}
	if empty, err := json.Marshal(jose.KeySet(nil)); err != nil || string(empty) != `{"keys":[]}` {
		t.Errorf("an empty set is %s, %v", empty, err)
	}
}

func TestFindIsExact(t *testing.T) {
	es, rs := pairs()[jose.ES256].key, pairs()[jose.RS256].key
	es2 := es
	es2.ID = "other"
	set := jose.KeySet{es, rs}
	for _, c := range []struct {
		set      jose.KeySet
		kid, alg string
		want     string
	}{
		{set, es.ID, jose.ES256, es.ID},
		{set, rs.ID, jose.RS256, rs.ID},
		{set, es.ID, jose.RS256, ""},
		{set, rs.ID, jose.PS256, ""}, // the key is for RS256 alone
		{set, "nobody", jose.ES256, ""},
		{set, "", jose.ES256, es.ID}, // the only one there is
		{jose.KeySet{es, es2}, "", jose.ES256, ""},
		{jose.KeySet{es, es2}, "other", jose.ES256, "other"},
		{nil, "", jose.ES256, ""},
	} {
		got, ok := c.set.Find(c.kid, c.alg)
		if ok != (c.want != "") || ok && got.ID != c.want {
			t.Errorf("Find(%q, %s) = %q, %t; want %q", c.kid, c.alg, got.ID, ok, c.want)
		}
	}
}

func TestClaimsOfAnotherTypeAreRefused(t *testing.T) {
	for text, ok := range map[string]bool{
		`{}`: true,
		`{"iss":"i","sub":"s","jti":"j","aud":"a","exp":1,"iat":1,"nbf":1,"x":{}}`: true,
		`{"aud":["a","b"]}`:      true,
		`{"exp":4294967295}`:     true,
		`{"exp":0}`:              true,
		`{"iss":null}`:           false,
		`{"iss":1}`:              false,
		`{"sub":["s"]}`:          false,
		`{"jti":{}}`:             false,
		`{"aud":null}`:           false,
		`{"aud":[]}`:             false,
		`{"aud":["a",null]}`:     false,
		`{"aud":["a",1]}`:        false,
		`{"aud":{"a":1}}`:        false,
		`{"exp":null}`:           false,
		`{"exp":"1"}`:            false,
		`{"exp":1.5}`:            false,
		`{"exp":1e9}`:            false,
		`{"exp":-1}`:             false,
		`{"exp":1764054065000}`:  false, // milliseconds
		`{"iat":99999999999999}`: false,
		`{"nbf":true}`:           false,
		`{"exp":1,"exp":2}`:      false,
		`[]`:                     false,
		`null`:                   false,
		``:                       false,
	} {
		c, err := jose.ParseClaims([]byte(text))
		if (err == nil) != ok {
			t.Errorf("%s: %+v, %v", text, c, err)
		}
		if err != nil {
			unauthenticated(t, err)
		}
	}
	c, err := jose.ParseClaims([]byte(`{"iss":"i","sub":"s","SUB":"admin","jti":"j","aud":"a","exp":3,"iat":2,"nbf":1}`))
	if err != nil || c.Issuer != "i" || c.Subject != "s" || c.ID != "j" || len(c.Audience) != 1 || c.Audience[0] != "a" ||
		c.ExpiresAt.Unix() != 3 || c.IssuedAt.Unix() != 2 || c.NotBefore.Unix() != 1 || len(c.Raw) != 8 {
		t.Errorf("got %+v, %v", c, err)
	}
}

func TestRequireWantsEveryClaim(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	good := jose.Claims{
		Issuer: "https://a.example", Subject: "s", Audience: []string{"me"},
		IssuedAt: now.Add(-time.Minute), ExpiresAt: now.Add(time.Minute),
	}
	const leeway = 5 * time.Second
	for _, c := range []struct {
		name   string
		change func(*jose.Claims)
		ok     bool
	}{
		{"nothing wrong", func(*jose.Claims) {}, true},
		{"nbf in the past", func(c *jose.Claims) { c.NotBefore = now.Add(-time.Hour) }, true},
		{"expired within the leeway", func(c *jose.Claims) { c.ExpiresAt = now.Add(-4 * time.Second) }, true},
		{"made within the leeway", func(c *jose.Claims) { c.IssuedAt = now.Add(5 * time.Second) }, true},
		{"no issuer", func(c *jose.Claims) { c.Issuer = "" }, false},
		{"issuer with a slash", func(c *jose.Claims) { c.Issuer += "/" }, false},
		{"no subject", func(c *jose.Claims) { c.Subject = "" }, false},
		{"no audience", func(c *jose.Claims) { c.Audience = nil }, false},
		{"another audience", func(c *jose.Claims) { c.Audience = []string{"you"} }, false},
		{"two audiences", func(c *jose.Claims) { c.Audience = []string{"me", "you"} }, false},
		{"one audience twice", func(c *jose.Claims) { c.Audience = []string{"me", "me"} }, false},
		{"no exp", func(c *jose.Claims) { c.ExpiresAt = time.Time{} }, false},
		{"no iat", func(c *jose.Claims) { c.IssuedAt = time.Time{} }, false},
		{"expired at the leeway", func(c *jose.Claims) { c.ExpiresAt = now.Add(-leeway) }, false},
		{"made after the leeway", func(c *jose.Claims) { c.IssuedAt = now.Add(leeway + time.Second) }, false},
		{"not valid yet", func(c *jose.Claims) { c.NotBefore = now.Add(leeway + time.Second) }, false},
		{"ends before it begins", func(c *jose.Claims) { c.ExpiresAt, c.IssuedAt = now.Add(time.Second), now.Add(2*time.Second) }, false},
	} {
		changed := good
		c.change(&changed)
		err := changed.Require(now, leeway, "https://a.example", "me")
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
		if err != nil {
			unauthenticated(t, err)
		}
	}
	blank := good
	blank.Audience, blank.Issuer = []string{""}, ""
	if blank.Require(now, leeway, "", "") == nil {
		t.Error("a consumer that names no issuer and no audience accepts a token that has neither")
	}
}

func TestAnAlteredTokenNeverVerifies(t *testing.T) {
	good := signES256(t, header, claims)
	rapid.Check(t, func(t *rapid.T) {
		at := rapid.IntRange(0, len(good)-1).Draw(t, "at")
		altered := []byte(good)
		switch rapid.IntRange(0, 3).Draw(t, "how") {
		case 0:
			altered[at] = rapid.Byte().Draw(t, "byte")
		case 1:
			altered = append(altered[:at], altered[at+1:]...)
		case 2:
			altered = append(altered[:at], append([]byte{rapid.Byte().Draw(t, "byte")}, altered[at:]...)...)
		case 3:
			altered = altered[:at]
		}
		if string(altered) == good {
			return
		}
		if _, err := verify(string(altered), access()); err == nil {
			t.Fatalf("altered and accepted: %q", altered)
		}
	})
}

// FuzzParse: what is accepted has one spelling, reads the same in go-jose, and
// does not verify under a key that did not sign it.
func FuzzParse(f *testing.F) {
	good := signES256(f, header, claims)
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(signES256(f, `{"alg":"ES256","typ":"dpop+jwt","jwk":`+ecJWK(f, "")+`}`, claims))
	f.Add(signES256(f, with(`"crit":["x"]`), claims))
	f.Add(good + "=")
	f.Add(strings.Repeat(".", 100))
	f.Fuzz(func(t *testing.T, text string) {
		for _, embedded := range []bool{false, true} {
			m, err := jose.Parse(text, jose.Rules{Types: []string{"", "at+jwt", "dpop+jwt"}, Algorithms: everything, EmbeddedKey: embedded})
			if err != nil {
				continue
			}
			parts := strings.Split(text, ".")
			if len(parts) != 3 || base64.RawURLEncoding.EncodeToString(m.Payload) != parts[1] {
				t.Fatalf("%q has another spelling", text)
			}
			theirs, err := gojose.ParseSignedCompact(text, []gojose.SignatureAlgorithm{gojose.ES256, gojose.EdDSA, gojose.RS256, gojose.PS256})
			if err != nil {
				t.Fatalf("%q is read here and refused by go-jose: %v", text, err)
			}
			if h := theirs.Signatures[0].Header; h.Algorithm != m.Algorithm || h.KeyID != m.KeyID || string(theirs.UnsafePayloadWithoutVerification()) != string(m.Payload) {
				t.Fatalf("%q is read differently", text)
			}
			if _, err := m.Verify(jose.Key{Public: &stranger.PublicKey}); err == nil {
				t.Fatalf("%q verifies under a stranger's key", text)
			}
			if embedded {
				_, ours := m.Verify(*m.EmbeddedKey)
				_, other := theirs.Verify(m.EmbeddedKey.Public)
				if ours == nil && other != nil {
					t.Fatalf("%q verifies here and not in go-jose: %v", text, other)
				}
			}
		}
	})
}

// FuzzParseKeySet: a set that is accepted has no more keys than allowed, all of
// which can be published and read again.
func FuzzParseKeySet(f *testing.F) {
	f.Add([]byte(`{"keys":[` + ecJWK(f, "") + `]}`))
	f.Add([]byte(`{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`))
	f.Add([]byte(`{"keys":[{"kty":"RSA","e":"AQAB","n":"` + b64(strings.Repeat("\xff", 256)) + `"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		set, err := jose.ParseKeySet(data)
		if err != nil {
			return
		}
		text, err := set.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		back, err := jose.ParseKeySet(text)
		if err != nil || len(back) != len(set) || len(set) > 50 {
			t.Fatalf("%q is published as %s, which reads %v", data, text, err)
		}
		for i := range set {
			if set[i].Thumbprint() == "" || set[i].Thumbprint() != back[i].Thumbprint() || set[i].ID != back[i].ID {
				t.Fatalf("%q is published as %s", data, text)
			}
		}
	})
}

func BenchmarkSignES256(b *testing.B) {
	p := pairs()[jose.ES256]
	payload := []byte(`{"x":"` + strings.Repeat("x", 700) + `"}`)
	b.Run("raw", func(b *testing.B) {
		sum := digest(string(payload))
		for b.Loop() {
			if _, err := ecdsa.SignASN1(rand.Reader, p.signer.(*ecdsa.PrivateKey), sum); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("token", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := jose.Sign(p.signer, jose.Header{Algorithm: jose.ES256, KeyID: p.key.ID, Type: "at+jwt"}, payload); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkVerifyES256(b *testing.B) {
	p := pairs()[jose.ES256]
	token := signES256(b, header, `{"x":"`+strings.Repeat("x", 700)+`"}`)
	b.Run("raw", func(b *testing.B) {
		sum := digest(token)
		sig, err := ecdsa.SignASN1(rand.Reader, p.signer.(*ecdsa.PrivateKey), sum)
		if err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			if !ecdsa.VerifyASN1(p.key.Public.(*ecdsa.PublicKey), sum, sig) {
				b.Fatal("wrong")
			}
		}
	})
	b.Run("token", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			m, err := jose.Parse(token, access())
			if err != nil {
				b.Fatal(err)
			}
			if _, err := m.Verify(p.key); err != nil {
				b.Fatal(err)
			}
		}
	})
}
