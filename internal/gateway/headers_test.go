package gateway

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/authority"
)

// S-48.
func TestPagesOfOtherOriginsAreRefused(t *testing.T) {
	public := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1)}
	loopback := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}
	b := &authority.Bundle{Issuer: "https://mayfly.example.org", Hosts: []string{"mayfly.internal:8420", "alias.example.org"}}
	for _, c := range []struct {
		at           net.Addr
		host, origin string
		want         bool
	}{
		{public, "mayfly.example.org", "", true},
		{public, "MAYFLY.example.org:443", "", true},
		{public, "mayfly.internal:8420", "", true},
		{public, "mayfly.internal:1", "", false},
		{public, "alias.example.org", "", true},
		{public, "evil", "", false},
		{public, "mayfly.example.org.evil", "", false},
		{public, "", "", false},
		{public, "127.0.0.1", "", false},
		{public, "localhost", "", false},
		{public, "mayfly.example.org", "https://evil.example", false},
		{public, "mayfly.example.org", "null", false},
		{public, "mayfly.example.org", "http://mayfly.example.org", false},
		{public, "mayfly.example.org", "https://mayfly.example.org", true},
		{public, "mayfly.example.org", "https://alias.example.org", true},
		{public, "mayfly.example.org", "http://localhost:6274", false},
		{loopback, "127.0.0.1:8420", "", true},
		{loopback, "localhost:8420", "", true},
		{loopback, "[::1]:8420", "", true},
		{loopback, "evil.example", "", false},
		{loopback, "localhost.evil.example", "", false},
		{loopback, "localhost:8420", "http://localhost:6274", true},
		{loopback, "localhost:8420", "http://evil.example", false},
		{&net.UnixAddr{Name: "/run/x"}, "anything", "", true},
	} {
		r := httptest.NewRequest("POST", "/mcp/x", nil)
		r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, c.at))
		r.Host = c.host
		if c.origin != "" {
			r.Header.Set("Origin", c.origin)
		}
		err := checkOrigin(r, b)
		if (err == nil) != c.want || err != nil && mayfly.KindOf(err) != mayfly.Denied {
			t.Errorf("at %v, Host %q, Origin %q: %v; want allowed %v", c.at, c.host, c.origin, err, c.want)
		}
	}
}

// S-49, S-52.
func TestOnlyAllowedHeadersReachATarget(t *testing.T) {
	in := http.Header{}
	for _, name := range []string{
		"Authorization", "DPoP", "Cookie", "Forwarded", "X-Forwarded-For", "X-Forwarded-User", "X-Real-Ip", "X-Auth-Subject", "Proxy-Authorization",
		"Txn-Token", "Connection", "Te", "Transfer-Encoding", "Mcp-Session-Id", "User-Agent", "Host", "Accept-Encoding", "Expect", "Via",
	} {
		in.Set(name, "smuggled")
	}
	in["X_Forwarded_User"] = []string{"root"}
	in["Content_Type"] = []string{"text/html"}
	in.Set("Accept", "application/json")
	in.Set("Content-Type", "application/json")
	in.Set("Idempotency-Key", "k")
	want := http.Header{
		"Accept": {"application/json"}, "Content-Type": {"application/json"}, "Idempotency-Key": {"k"}, "User-Agent": {"mayfly"},
	}
	if diff := cmp.Diff(want, forwardHeaders(in)); diff != "" {
		t.Error(diff)
	}
}

func TestATargetsAnswerShowsNeitherItsCookiesNorItsAddress(t *testing.T) {
	target := &mayfly.Target{URL: "http://orders.internal:8080/base"}
	from := http.Header{
		"Set-Cookie": {"a=b"}, "Www-Authenticate": {"Bearer"}, "Server": {"x"}, "Connection": {"close, X-Hop"}, "X-Hop": {"1"},
		"Mayfly-Decision": {"forged"}, "Access-Control-Allow-Origin": {"*"}, "X_Odd": {"1"}, "Strict-Transport-Security": {"max-age=0"},
		"Content-Type": {"application/json"}, "Etag": {`"1"`}, "X-Total-Count": {"3"},
		"Location": {"http://orders.internal:8080/base/v1/orders/7?x=1"}, "Content-Location": {"http://elsewhere.internal/x"},
		"Link": {`<http://orders.internal:8080/base/v1/orders?page=2>; rel="next"`},
	}
	to := http.Header{}
	relayHeaders(to, from, target, "https://mayfly.example/http/orders")
	want := http.Header{
		"Content-Type": {"application/json"}, "Etag": {`"1"`}, "X-Total-Count": {"3"},
		"Location": {"https://mayfly.example/http/orders/v1/orders/7?x=1"},
		"Link":     {`<https://mayfly.example/http/orders/v1/orders?page=2>; rel="next"`},
	}
	if diff := cmp.Diff(want, to); diff != "" {
		t.Error(diff)
	}
}

func TestAddressesAtTheTargetBecomeAddressesHere(t *testing.T) {
	const here = "https://m.example/http/t"
	for _, c := range []struct{ target, at, want string }{
		{"http://t.internal", "http://t.internal/a", here + "/a"},
		{"http://t.internal", "/a/b?c=d", here + "/a/b?c=d"},
		{"http://t.internal/base/", "/base/a", here + "/a"},
		{"http://t.internal/base", "/other", ""},
		{"http://t.internal/base", "/basement", ""},
		{"http://t.internal", "http://t.internal:81/a", ""},
		{"http://t.internal", "https://t.internal/a", ""},
		{"http://t.internal", "//evil/a", ""},
		{"http://t.internal", "http://u:p@t.internal/a", ""},
		{"http://t.internal", "javascript:alert(1)", ""},
	} {
		if got, ok := relocate(c.at, c.target, here); got != c.want || ok != (c.want != "") {
			t.Errorf("relocate(%q at %q) = %q, %v; want %q", c.at, c.target, got, ok, c.want)
		}
	}
}

func TestMirroredValuesAreEncodedWhereTheyMustBe(t *testing.T) {
	for text, want := range map[string]string{
		"list_invoices":   "list_invoices",
		"two words":       "two words",
		" edge":           "=?base64?IGVkZ2U=?=",
		"edge ":           "=?base64?ZWRnZSA=?=",
		"café":            "=?base64?Y2Fmw6k=?=",
		"a\r\nX: y":       "=?base64?YQ0KWDogeQ==?=",
		"=?base64?YQ==?=": "=?base64?PT9iYXNlNjQ/WVE9PT89?=",
		"=?base64?open":   "=?base64?open",
		"":                "",
	} {
		if got := encodeMirror(text); got != want {
			t.Errorf("encodeMirror(%q) = %q, want %q", text, got, want)
		}
	}
	for _, bad := range []string{"=?base64?!?=", "=?base64?YQ?=", "=?base64?YR==?=", "=?base64?/w==?="} {
		if got, ok := decodeMirror(bad); ok {
			t.Errorf("decodeMirror(%q) = %q, want a refusal", bad, got)
		}
	}
}

func FuzzMirror(f *testing.F) {
	f.Add("plain")
	f.Add("=?base64?YQ==?=")
	f.Add(" é\r\n")
	f.Fuzz(func(t *testing.T, s string) {
		encoded := encodeMirror(s)
		for i := range len(encoded) {
			if encoded[i] < 0x20 || encoded[i] > 0x7e {
				t.Fatalf("encodeMirror(%q) = %q cannot be a header", s, encoded)
			}
		}
		got, ok := decodeMirror(encoded)
		if ok && got != s || !ok && utf8.ValidString(s) {
			t.Fatalf("%q comes back as %q, %v", s, got, ok)
		}
	})
}

func TestMirroredArgumentsCompareByValue(t *testing.T) {
	for _, c := range []struct {
		header, value string
		want          bool
	}{
		{"42", "42", true}, {"42.0", "42", true}, {"4.2e1", "42", true}, {"43", "42", false}, {"42x", "42", false}, {"42.5", "42.5", false},
		{"NaN", "42", false}, {"9007199254740993", "9007199254740993", false},
		{"true", "true", true}, {"True", "true", false}, {"true", `"true"`, true},
		{"acme", `"acme"`, true}, {"Acme", `"acme"`, false}, {"é", `"é"`, true}, {"null", "null", false}, {"{}", "{}", false},
	} {
		if got := mirrors(c.header, jsontext.Value(c.value)); got != c.want {
			t.Errorf("mirrors(%q, %s) = %v, want %v", c.header, c.value, got, c.want)
		}
	}
}

func TestAcceptIsReadAsTheSpecificationSays(t *testing.T) {
	for _, c := range []struct {
		accept []string
		want   bool
	}{
		{nil, true}, {[]string{"*/*"}, true}, {[]string{"application/json, text/event-stream"}, true},
		{[]string{"application/json", "text/event-stream;q=0.5"}, true}, {[]string{"text/*"}, true}, {[]string{"application/json"}, false},
		{[]string{"text/event-streams"}, false}, {[]string{""}, false},
	} {
		if got := accepts(c.accept, "text/event-stream"); got != c.want {
			t.Errorf("accepts(%q) = %v, want %v", c.accept, got, c.want)
		}
	}
}

func TestChallengesSayWhereToGetAToken(t *testing.T) {
	challenge := func(e *mayfly.Error) []string {
		x := &request{
			w: httptest.NewRecorder(), bundle: &authority.Bundle{Issuer: "https://m.example"}, route: route{surface: "mcp", target: "bank"},
		}
		x.errorHeaders(e)
		return x.w.Header()["Www-Authenticate"]
	}
	const where = `resource_metadata="https://m.example/.well-known/oauth-protected-resource/mcp/bank"`
	for _, c := range []struct {
		name string
		err  *mayfly.Error
		want []string
	}{
		{"no token", mayfly.Errorf(mayfly.Unauthenticated, "send a token"), []string{`Bearer ` + where, `DPoP algs="ES256 EdDSA", ` + where}},
		{"a bad token", mayfly.Coded(mayfly.Unauthenticated, "invalid_token", "the \"aud\" is\r\nwröng"), []string{
			`Bearer ` + where + `, error="invalid_token", error_description="the 'aud' is??wr?ng"`,
			`DPoP algs="ES256 EdDSA", ` + where + `, error="invalid_token", error_description="the 'aud' is??wr?ng"`,
		}},
		{"a nonce wanted", mayfly.Coded(mayfly.Unauthenticated, "use_dpop_nonce", "use the nonce"), []string{
			`Bearer ` + where, `DPoP algs="ES256 EdDSA", ` + where + `, error="use_dpop_nonce", error_description="use the nonce"`,
		}},
		{"more scope", &mayfly.Error{Kind: mayfly.Denied, Code: "insufficient_scope", Message: "ask", Scope: "mcp:bank:pay"}, []string{
			`Bearer ` + where + `, error="insufficient_scope", scope="mcp:bank:pay", error_description="ask"`,
		}},
		{"a plain denial", mayfly.Errorf(mayfly.Denied, "no"), nil},
	} {
		if diff := cmp.Diff(c.want, challenge(c.err)); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}
