package token

import (
	"testing"

	"pgregory.net/rapid"
)

func TestURLsAreComparedByTheirNormalForm(t *testing.T) {
	for text, want := range map[string]string{
		"https://a.example":                    "https://a.example/",
		"https://a.example/":                   "https://a.example/",
		"https://a.example?q#f":                "https://a.example/",
		"HTTPS://A.Example:443/X":              "https://a.example/X",
		"http://a.example:80/x":                "http://a.example/x",
		"http://a.example:443/x":               "http://a.example:443/x",
		"https://a.example:/x":                 "https://a.example/x",
		"https://a.example:8443":               "https://a.example:8443/",
		"https://[::1]:443/x":                  "https://[::1]/x",
		"https://a.example/%7euser/%41%2f%c3":  "https://a.example/~user/A%2F%C3",
		"https://a.example/a/b/../c/./d":       "https://a.example/a/c/d",
		"https://a.example/a/b/..":             "https://a.example/a/",
		"https://a.example/a/b/.":              "https://a.example/a/b/",
		"https://a.example/../../a":            "https://a.example/a",
		"https://a.example/a/%2e%2e/b":         "https://a.example/b",
		"https://a.example//a//b":              "https://a.example//a//b",
		"https://a.example/..":                 "https://a.example/",
		"https://a.example/a%2F..%2Fb":         "https://a.example/a%2F..%2Fb",
		"ftp://a.example/":                     "",
		"https://":                             "",
		"https://a.example%25":                 "",
		"https://[fe80::1%25eth0]/x":           "",
		"https:///x":                           "",
		"https:a.example/x":                    "",
		"//a.example/x":                        "",
		"https://u@a.example/":                 "",
		"https://a.example/%zz":                "",
		"https://a.example/\n":                 "",
		"https://a.example\\@evil.example/":    "",
		"https://evil.example#@a.example/":     "https://evil.example/",
		"https://evil.example?@a.example/mcp/": "https://evil.example/",
		"":                                     "",
	} {
		got, ok := normalURL(text)
		if got != want || ok != (want != "") {
			t.Errorf("%q: got %q, %t, want %q", text, got, ok, want)
		}
	}
}

func TestTheNormalFormIsNormal(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := "https://a.example" + rapid.StringMatching(`(/|\.|%2[eEfF]|%[0-9a-f]{2}|[a-zA-Z~:@!$&'()*+,;=-]){0,20}`).Draw(t, "path")
		once, ok := normalURL(text)
		if !ok {
			return
		}
		if twice, ok := normalURL(once); !ok || twice != once || !sameURL(text, once) {
			t.Fatalf("%q is normally %q and that is normally %q", text, once, twice)
		}
	})
}
