package gateway

import (
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/mayfly-id/mayfly"
)

func TestAddressesAreReadAsTheyCame(t *testing.T) {
	for _, c := range []struct {
		uri  string
		want route
		ok   bool
	}{
		{"/mcp/github", route{"mcp", "github", "", "", "/mcp/github"}, true},
		{"/http/orders", route{"http", "orders", "", "", "/http/orders"}, true},
		{"/http/orders/", route{"http", "orders", "/", "", "/http/orders/"}, true},
		{"/http/orders//a/../b?x=/y", route{"http", "orders", "//a/../b", "x=/y", "/http/orders//a/../b"}, true},
		{uri: "/mcp/github/"},
		{uri: "/mcp/github/x"},
		{uri: "/mcp/github?x=1"},
		{uri: "/mcp/"},
		{uri: "/mcp"},
		{uri: "/"},
		{uri: ""},
		{uri: "//http/orders/a"},
		{uri: "/http/or%64ers/a"},
		{uri: "/http/or ders/a"},
		{uri: "/log/checkpoint"},
		{uri: "http://elsewhere/http/orders/a"},
		{uri: "*"},
	} {
		got, ok := parseRoute(c.uri)
		if ok != c.ok || ok && got != c.want {
			t.Errorf("parseRoute(%q) = %+v, %v; want %+v, %v", c.uri, got, ok, c.want, c.ok)
		}
	}
}

// S-50 and security, section 1, C6.
func TestPathsWithTwoReadingsAreRefused(t *testing.T) {
	for _, raw := range []string{
		"//admin", "/a//b", "/a/./b", "/a/../admin", "/..", "/.", "/a/..", "/%2e%2e/admin", "/%2E%2E/admin", "/.%2e/admin",
		"/a%2fadmin", "/a%2Fadmin", "/a%5cadmin", "/a\\admin", "/a;x=/admin", "/a%3bx", "/a%00", "/a%01", "/a\x7f", "/a%25", "/a%252fadmin",
		"/%61dmin", "/a%2db", "/a%7eb", "/a#b", "/a%23b", "/a%3fb", "/a%", "/a%2", "/a%zz", "/caf\xc3\xa9", "/caf%c3", "/%ff",
		"/a b", "/a\"b", "/a<b", "/a{b}", "/admin.", "/admin./x", "/...", "a",
	} {
		if got, err := cleanPath(raw); mayfly.KindOf(err) != mayfly.Invalid || err == nil {
			t.Errorf("cleanPath(%q) = %q, %v; want a refusal", raw, got, err)
		}
	}
}

func TestPlainPathsAreDecoded(t *testing.T) {
	for raw, want := range map[string]string{
		"":                         "/",
		"/":                        "/",
		"/v1/orders/1":             "/v1/orders/1",
		"/v1/orders/":              "/v1/orders/",
		"/ADMIN":                   "/ADMIN",
		"/caf%C3%A9":               "/café",
		"/caf%c3%a9":               "/café",
		"/a%20b":                   "/a b",
		"/a:b@c!$&'()*+,=":         "/a:b@c!$&'()*+,=",
		"/a%3Ab%40c%2B":            "/a:b@c+",
		"/.well-known/x":           "/.well-known/x",
		"/a.b/c..d":                "/a.b/c..d",
		"/repos/o/r/contents/x.go": "/repos/o/r/contents/x.go",
	} {
		if got, err := cleanPath(raw); err != nil || got != want {
			t.Errorf("cleanPath(%q) = %q, %v; want %q", raw, got, err, want)
		}
	}
}

// Whatever is accepted, the target reads from our encoding exactly the path that
// was decided on, and nothing in it can be folded away.
func FuzzPath(f *testing.F) {
	for _, s := range []string{"/a/b", "/%2e", "/a%20b/..", "/caf%c3%a9", "//", "/a;b", "/%41"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		path, err := cleanPath(raw)
		if err != nil {
			return
		}
		if !strings.HasPrefix(path, "/") || !utf8.ValidString(path) {
			t.Fatalf("cleanPath(%q) = %q", raw, path)
		}
		if strings.Contains(path, "//") || strings.Contains(path+"/", "./") || strings.ContainsAny(path, "\\;%?#\x00") {
			t.Fatalf("cleanPath(%q) = %q, which has two readings", raw, path)
		}
		u, err := url.ParseRequestURI((&url.URL{Path: path}).EscapedPath())
		if err != nil || u.Path != path || u.RawQuery != "" {
			t.Fatalf("%q, encoded again, is %v, %v", path, u, err)
		}
	})
}

func TestQueriesWithTwoReadingsAreRefused(t *testing.T) {
	for _, raw := range []string{
		"a=1&a=2", "a=1&A=2", "a=1&%61=2", "a=1;b=2", "a;b", "=1", "&", "a=1&", "&a=1", "a=%zz", "a=%", "a=%ff", "a=%00", "%00=1", "a#b",
		"k=1&%E2%84%AA=2", // the Kelvin sign folds to k
		strings.Repeat("x=", 1) + strings.Repeat("&", 3),
	} {
		if got, err := parseQuery(raw); err == nil {
			t.Errorf("parseQuery(%q) = %v; want a refusal", raw, got)
		}
	}
}

func TestQueriesAreForwardedInOneForm(t *testing.T) {
	for raw, want := range map[string]string{
		"":                 "",
		"a=1&b=2":          "a=1&b=2",
		"a=x%20y&b=x+y":    "a=x+y&b=x+y",
		"flag&a=":          "flag&a=",
		"a=b%26c%3D&d=%2F": "a=b%26c%3D&d=%2F",
		"a=%e2%82%ac":      "a=%E2%82%AC",
	} {
		pairs, err := parseQuery(raw)
		if got := encodeQuery(pairs); err != nil || got != want {
			t.Errorf("query %q goes out as %q, %v; want %q", raw, got, err, want)
		}
	}
}

func FuzzQuery(f *testing.F) {
	for _, s := range []string{"a=1&b=2", "a=1&a=2", "a;b", "a=%20+", "flag&x="} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		pairs, err := parseQuery(raw)
		if err != nil {
			return
		}
		values, err := url.ParseQuery(encodeQuery(pairs))
		if err != nil || len(values) != len(pairs) {
			t.Fatalf("%q goes out as %q, which reads as %v, %v", raw, encodeQuery(pairs), values, err)
		}
		for _, p := range pairs {
			if got := values[p.name]; len(got) != 1 || got[0] != p.value {
				t.Fatalf("%q: %q is %q, and goes out as %q", raw, p.name, p.value, got)
			}
		}
	})
}
