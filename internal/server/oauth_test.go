package server

import (
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-id/mayfly"
)

func TestAFormIsReadOneWay(t *testing.T) {
	for _, c := range []struct {
		body string
		want url.Values // nil: refused
	}{
		{"", url.Values{}},
		{"a=1&b=2", url.Values{"a": {"1"}, "b": {"2"}}},
		{"a=1+2%263", url.Values{"a": {"1 2&3"}}},
		{"a=&b=2", url.Values{"b": {"2"}}},
		{"a&b=2", url.Values{"b": {"2"}}},
		{"&&a=1&", url.Values{"a": {"1"}}},
		{"scope=a&scope=b", nil},
		{"scope=a&scope=a", nil},
		{"scope=&scope=b", nil},
		{"scope=a&sc%6fpe=b", nil},
		{"unknown=1&unknown=2", nil},
		{"resource=a&resource=b", url.Values{"resource": {"a", "b"}}},
		{"audience=a&audience=b", url.Values{"audience": {"a", "b"}}},
		{"a=1;b=2", nil},
		{"a=1%3Bb", url.Values{"a": {"1;b"}}},
		{"a=%zz", nil},
		{"%zz=a", nil},
		{"a=%ff", nil},
		{"a=%00", nil},
		{"a=\xc3\xa4", url.Values{"a": {"ä"}}},
		{strings.Repeat("x&", 200), nil},
		{"Scope=a&scope=b", url.Values{"Scope": {"a"}, "scope": {"b"}}},
	} {
		got, err := parseForm([]byte(c.body))
		if (err == nil) != (c.want != nil) || err == nil && !cmp.Equal(got, c.want) {
			t.Errorf("parseForm(%.40q) = %v, %v; want %v", c.body, got, err, c.want)
		}
		if e := mayfly.AsError(err); err != nil && (e.Kind != mayfly.Invalid || e.Code != "invalid_request") {
			t.Errorf("parseForm(%.40q) refused with %v %q; want invalid_request", c.body, e.Kind, e.Code)
		}
	}
}

// FuzzForm: what is accepted is what every other reader of forms would read.
func FuzzForm(f *testing.F) {
	for _, s := range []string{"a=1&b=2", "a=%41&a=b", "resource=x&resource=y", "a;b=c", "a=%ff", "=&=", "a=1&&&"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := parseForm(body)
		if err != nil {
			return
		}
		other, err := url.ParseQuery(string(body))
		if err != nil {
			t.Fatalf("%q was accepted, and net/url says %v", body, err)
		}
		for name, values := range other {
			if len(values) > 1 && name != "resource" && name != "audience" {
				t.Fatalf("%q was accepted with %q twice", body, name)
			}
			kept := values[:0]
			for _, v := range values {
				if v != "" {
					kept = append(kept, v)
				}
				if !utf8.ValidString(name + v) {
					t.Fatalf("%q was accepted with bytes that are no UTF-8", body)
				}
			}
			if len(kept) == 0 {
				delete(other, name)
			} else {
				other[name] = kept
			}
		}
		if !cmp.Equal(got, other) {
			t.Fatalf("%q was read as %v, and by net/url as %v", body, got, other)
		}
	})
}

func TestAnErrorHasTheCodeAndStatusOfRFC6749(t *testing.T) {
	for _, c := range []struct {
		err    *mayfly.Error
		status int
		code   string
	}{
		{mayfly.Errorf(mayfly.Invalid, "x"), 400, "invalid_request"},
		{mayfly.Coded(mayfly.Invalid, "invalid_scope", "x"), 400, "invalid_scope"},
		{mayfly.Coded(mayfly.Invalid, "invalid_target", "x"), 400, "invalid_target"},
		{mayfly.Coded(mayfly.Invalid, "unsupported_grant_type", "x"), 400, "unsupported_grant_type"},
		{mayfly.Coded(mayfly.Unauthenticated, "invalid_client", "x"), 401, "invalid_client"},
		{mayfly.Coded(mayfly.Unauthenticated, "invalid_token", "x"), 400, "invalid_request"},
		{mayfly.Coded(mayfly.Unauthenticated, "invalid_dpop_proof", "x"), 400, "invalid_dpop_proof"},
		{mayfly.Coded(mayfly.Unauthenticated, "use_dpop_nonce", "x"), 400, "use_dpop_nonce"},
		{mayfly.Errorf(mayfly.Unauthenticated, "x"), 400, "invalid_request"},
		{mayfly.Coded(mayfly.Denied, "access_denied", "x"), 400, "access_denied"},
		{mayfly.Errorf(mayfly.Denied, "x"), 400, "access_denied"},
		{mayfly.Errorf(mayfly.NotFound, "x"), 400, "invalid_request"},
		{mayfly.Errorf(mayfly.Conflict, "x"), 400, "invalid_grant"},
		{mayfly.Errorf(mayfly.Gone, "x"), 400, "invalid_grant"},
		{mayfly.Errorf(mayfly.TooLarge, "x"), 413, "invalid_request"},
		{mayfly.Errorf(mayfly.MediaType, "x"), 415, "invalid_request"},
		{mayfly.Errorf(mayfly.RateLimited, "x"), 429, "temporarily_unavailable"},
		{mayfly.Coded(mayfly.Unavailable, "authority_lapsed", "x"), 503, "temporarily_unavailable"},
		{mayfly.Errorf(mayfly.Internal, "x"), 500, "server_error"},
	} {
		if status, code := oauthAnswer(c.err); status != c.status || code != c.code {
			t.Errorf("kind %v code %q answers %d %s; want %d %s", c.err.Kind, c.err.Code, status, code, c.status, c.code)
		}
	}
}

// FuzzDescription: an error_description never leaves its alphabet, and so never
// the quoted string it stands in.
func FuzzDescription(f *testing.F) {
	f.Add(`a "quoted" \ line` + "\r\nSet-Cookie: x")
	f.Add("grün … \u2028")
	f.Fuzz(func(t *testing.T, s string) {
		for _, b := range []byte(ascii(s)) {
			if b < ' ' || b > '~' || b == '"' || b == '\\' {
				t.Fatalf("ascii(%q) = %q", s, ascii(s))
			}
		}
	})
}

func TestAChallengeNamesWhatWentWrongOnlyToWhoTried(t *testing.T) {
	nonce := mayfly.Coded(mayfly.Unauthenticated, "use_dpop_nonce", "use the nonce")
	bad := mayfly.Coded(mayfly.Unauthenticated, "invalid_token", `expired "now"`)
	for _, c := range []struct {
		err       *mayfly.Error
		presented bool
		want      []string
	}{
		{bad, false, []string{`DPoP algs="ES256 EdDSA"`, `Bearer resource_metadata="M"`}},
		{mayfly.Errorf(mayfly.Unauthenticated, "x"), true, []string{`DPoP algs="ES256 EdDSA"`, `Bearer resource_metadata="M"`}},
		{nonce, true, []string{`DPoP error="use_dpop_nonce", error_description="use the nonce", algs="ES256 EdDSA"`, `Bearer resource_metadata="M"`}},
		{bad, true, []string{
			`DPoP error="invalid_token", error_description="expired 'now'", algs="ES256 EdDSA"`,
			`Bearer error="invalid_token", error_description="expired 'now'", resource_metadata="M"`,
		}},
	} {
		if got := challenges(c.err, c.presented, "M"); !cmp.Equal(got, c.want) {
			t.Errorf("challenges(%s, %v):\n got %q\nwant %q", c.err.Code, c.presented, got, c.want)
		}
	}
}

func TestAMediaTypeIsExact(t *testing.T) {
	for contentType, want := range map[string]bool{
		"application/json":                            true,
		"Application/JSON":                            true,
		"application/json; charset=UTF-8":             true,
		"application/json;charset=\"utf-8\"":          true,
		"application/json; charset=utf-16":            false,
		"application/json; profile=x":                 false,
		"application/json; charset=utf-8; profile=x":  false,
		"application/jsonx":                           false,
		"application/problem+json":                    false,
		"text/plain":                                  false,
		"":                                            false,
		"application/json, application/json":          false,
		"application/x-www-form-urlencoded; boundary": false,
	} {
		if got := isMediaType(contentType, typeJSON); got != want {
			t.Errorf("isMediaType(%q) = %v, want %v", contentType, got, want)
		}
	}
}
