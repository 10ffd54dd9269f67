package server

import (
	"net/http"
	"net/netip"
	"net/url"
	"testing"
)

func TestOnlyOurHostsAreAnswered(t *testing.T) {
	https, _ := url.Parse("https://mayfly.example.org")
	http8420, _ := url.Parse("http://127.0.0.1:8420")
	v6, _ := url.Parse("http://[::1]:8420")
	for _, c := range []struct {
		host     string
		issuer   *url.URL
		hosts    []string
		loopback bool
		want     bool
	}{
		{"mayfly.example.org", https, nil, false, true},
		{"MAYFLY.example.org", https, nil, false, true},
		{"mayfly.example.org:443", https, nil, false, true},
		{"mayfly.example.org:8443", https, nil, false, false},
		{"mayfly.example.org.", https, nil, false, false},
		{"mayfly.example.org.evil.example", https, nil, false, false},
		{"evil", https, nil, true, false},
		{"", https, nil, true, false},
		{":443", https, nil, true, false},
		{"mayfly.example.org:", https, nil, false, false},
		{"mayfly.example.org:443x", https, nil, false, false},
		{"user@mayfly.example.org", https, nil, false, false},
		{"localhost:8420", https, nil, false, false},
		{"localhost:8420", https, nil, true, true},
		{"127.0.0.1:1", https, nil, true, true},
		{"127.9.9.9", https, nil, true, true},
		{"[::1]:8420", https, nil, true, true},
		{"[::ffff:127.0.0.1]", https, nil, true, true},
		{"::1", https, nil, true, false},
		{"[::1", https, nil, true, false},
		{"localhost.evil.example", https, nil, true, false},
		{"127.0.0.1:8420", http8420, nil, false, true},
		{"127.0.0.1", http8420, nil, false, false},
		{"[::1]:8420", v6, nil, false, true},
		{"inside", https, []string{"inside"}, false, true},
		{"inside:9999", https, []string{"inside"}, false, true},
		{"inside:9999", https, []string{"inside:1"}, false, false},
		{"inside:1", https, []string{"inside:1"}, false, true},
	} {
		if got := ourHost(c.host, c.issuer, c.hosts, c.loopback); got != c.want {
			t.Errorf("ourHost(%q, %s, %v, %v) = %v, want %v", c.host, c.issuer, c.hosts, c.loopback, got, c.want)
		}
	}
}

func TestOnlyOurPagesMayAsk(t *testing.T) {
	issuer, _ := url.Parse("https://mayfly.example.org")
	for _, c := range []struct {
		origin   string
		loopback bool
		want     bool
	}{
		{"https://mayfly.example.org", false, true},
		{"http://mayfly.example.org", false, false},
		{"https://mayfly.example.org/", false, false},
		{"https://evil.example", false, false},
		{"https://evil.example", true, false},
		{"null", true, false},
		{"", true, false},
		{"https://mayfly.example.org.evil.example", false, false},
		{"https://mayfly.example.org@evil.example", false, false},
		{"http://localhost:6274", false, false},
		{"http://localhost:6274", true, true},
		{"file://localhost", true, false},
	} {
		if got := ourOrigin(c.origin, issuer, nil, c.loopback); got != c.want {
			t.Errorf("ourOrigin(%q, loopback %v) = %v, want %v", c.origin, c.loopback, got, c.want)
		}
	}
}

func FuzzHost(f *testing.F) {
	for _, s := range []string{"a", "a:1", "[::1]:1", "::1", "[", "]", "a:b:c", "A.B"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		host, port, ok := splitHost(s, "443")
		if ok && (host == "" || port == "") {
			t.Fatalf("splitHost(%q) = %q, %q", s, host, port)
		}
		issuer := &url.URL{Scheme: "https", Host: "mayfly.example.org"}
		if ourHost(s, issuer, nil, false) && host != "mayfly.example.org" {
			t.Fatalf("%q was taken for ours", s)
		}
	})
}

func TestOnlyATrustedProxySaysWhoIsBehindIt(t *testing.T) {
	proxies := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24"), netip.MustParsePrefix("fd00::/64")}
	for _, c := range []struct {
		remote    string
		forwarded []string
		trusted   []netip.Prefix
		want      string
	}{
		{"192.0.2.1:5", nil, nil, "192.0.2.1"},
		{"192.0.2.1:5", []string{"198.51.100.7"}, nil, "192.0.2.1"},
		{"192.0.2.1:5", []string{"198.51.100.7"}, proxies, "192.0.2.1"},
		{"10.0.0.2:5", []string{"198.51.100.7"}, proxies, "198.51.100.7"},
		{"10.0.0.2:5", []string{"203.0.113.9, 198.51.100.7"}, proxies, "198.51.100.7"},
		{"10.0.0.2:5", []string{"203.0.113.9", "198.51.100.7, 10.0.0.3"}, proxies, "198.51.100.7"},
		{"10.0.0.2:5", []string{"10.0.0.9"}, proxies, "10.0.0.9"},
		{"10.0.0.2:5", []string{"198.51.100.7, rubbish"}, proxies, "10.0.0.2"},
		{"10.0.0.2:5", nil, proxies, "10.0.0.2"},
		{"[fd00::1]:5", []string{"2001:db8::9"}, proxies, "2001:db8::9"},
		{"[::ffff:10.0.0.2]:5", []string{"198.51.100.7"}, proxies, "198.51.100.7"},
		{"[fe80::1%eth0]:5", nil, nil, "fe80::1"},
		{"@", []string{"198.51.100.7"}, proxies, "invalid IP"},
	} {
		if got := clientAddr(c.remote, c.forwarded, c.trusted).String(); got != c.want {
			t.Errorf("clientAddr(%s, %q) = %s, want %s", c.remote, c.forwarded, got, c.want)
		}
	}
}

func TestForwardedHeadersAreDropped(t *testing.T) {
	h := http.Header{"X-Forwarded-For": {"a"}, "X-Forwarded-Host": {"a"}, "Forwarded": {"a"}, "X-Real-Ip": {"a"}, "Accept": {"a"}}
	dropForwarded(h)
	if len(h) != 1 || h.Get("Accept") == "" {
		t.Errorf("what is left is %v", h)
	}
}
