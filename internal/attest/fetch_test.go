package attest

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-id/mayfly/internal/mayflytest/idp"
)

// TestEveryFormOfAnInsideAddressIsRefused is the table of security's SSRF guard:
// the first, a middle and the last address of each block, and the neighbours
// outside.
func TestEveryFormOfAnInsideAddressIsRefused(t *testing.T) {
	const (
		outside = "outside" // anybody may be asked
		private = "private" // only a provider that the operator named
		here    = "here"    // the same, and the only ones for http
		inside  = "inside"  // nobody
	)
	for want, list := range map[string][]string{
		outside: {
			"1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.0",
			"169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0", "191.255.255.255", "192.0.1.0", "192.0.3.0", "192.88.98.255", "192.88.100.0",
			"192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0", "198.51.99.255", "198.51.101.0", "203.0.112.255", "203.0.114.0", "223.255.255.255",
			"2606:4700:4700::1111", "2001:200::", "2001:4860:4860::8888", "2003::1", "2a00::1", "3ffe::1",
		},
		private: {
			"10.0.0.0", "10.1.2.3", "10.255.255.255", "172.16.0.0", "172.31.255.255", "192.168.0.0", "192.168.255.255",
			"100.64.0.0", "100.100.100.100", "100.127.255.255", "fc00::", "fd12:3456::1", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
		},
		here: {"127.0.0.0", "127.0.0.1", "127.1.2.3", "127.255.255.255", "::1"},
		inside: {
			"0.0.0.0", "0.0.0.1", "0.255.255.255", "169.254.0.0", "169.254.169.254", "169.254.255.255", "192.0.0.0", "192.0.0.170", "192.0.0.255",
			"192.0.2.0", "192.0.2.255", "192.88.99.0", "192.88.99.255", "198.18.0.0", "198.19.255.255", "198.51.100.0", "198.51.100.255",
			"203.0.113.0", "203.0.113.255", "224.0.0.0", "239.255.255.255", "240.0.0.0", "255.255.255.255",
			"::", "::2", "::127.0.0.1", "::8.8.8.8", "64:ff9b::", "64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::1", "64:ff9b:1:ffff:ffff:ffff:ffff:ffff",
			"100::", "100::ffff:ffff:ffff:ffff", "2001::", "2001::1", "2001:0:7f00:1::", "2001:1ff:ffff::", "2001:db8::", "2001:db8:ffff::1",
			"2002::", "2002:7f00:1::", "2002:808:808::1", "3fff::1", "5f00::1", "fe80::", "fe80::1", "fe80::1%eth0", "febf:ffff::1", "fec0::", "feff::1", "ff00::", "ff02::1", "ffff::1",
		},
	} {
		for _, text := range list {
			a := netip.MustParseAddr(text)
			got := inside
			switch {
			case public.allows(a):
				got = outside
			case loopback.allows(a):
				got = here
			case named.allows(a):
				got = private
			}
			if got != want {
				t.Errorf("%s is %s, want %s", text, got, want)
			}
			if public.allows(a) && !named.allows(a) || loopback.allows(a) && !named.allows(a) {
				t.Errorf("%s: what anybody may name, the operator may not", text)
			}
			if a.Is4() && public.allows(netip.AddrFrom16(a.As16())) {
				t.Errorf("::ffff:%s is allowed", text)
			}
		}
	}
	if public.allows(netip.Addr{}) || named.allows(netip.Addr{}) || loopback.allows(netip.Addr{}) {
		t.Error("no address at all is allowed")
	}
}

func TestTheKernelsSideOfAConnectionIsCheckedAgain(t *testing.T) {
	for address, ok := range map[string]bool{
		"93.184.216.34:443": true, "[2606:4700::1]:443": true, "[::ffff:93.184.216.34]:443": true,
		"127.0.0.1:443": false, "[::1]:443": false, "[::ffff:127.0.0.1]:443": false, "[fe80::1%eth0]:443": false, "10.0.0.1:443": false,
		"localhost:443": false, "127.0.0.1": false, "": false, "/run/socket": false,
	} {
		if err := public.control(t.Context(), "tcp", address, nil); (err == nil) != ok {
			t.Errorf("%q: %v, want ok %v", address, err, ok)
		}
	}
}

func TestAnAddressFromDataIsHTTPSAtAHostName(t *testing.T) {
	issuer, err := parseIssuer("https://login.corp.example:8443/tenant", false)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := parseIssuer("https://login.example", false)
	if err != nil {
		t.Fatal(err)
	}
	local, err := parseIssuer("http://127.0.0.1:8080", true)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		from place
		text string
		ok   bool
	}{
		{issuer, "https://login.corp.example:8443/keys", true},
		{issuer, "https://LOGIN.corp.example:8443/keys?v=1", true},
		{plain, "https://login.example:443/keys", true},
		{plain, "https://login.example:8443/keys", false},
		{issuer, "https://keys.example/jwks", true},
		{issuer, "https://keys.example:443/jwks", true},
		{issuer, "https://xn--bcher-kva.example/jwks", true},
		{issuer, "http://login.corp.example:8443/keys", false},
		{issuer, "http://keys.example/jwks", false},
		{issuer, "https://keys.example:8443/jwks", false},
		{issuer, "https://keys.example:80/jwks", false},
		{issuer, "https://user@keys.example/jwks", false},
		{issuer, "https://login.corp.example:8443@evil.example/", false},
		{issuer, "https://keys.example/jwks#x", false},
		{issuer, "https://93.184.216.34/jwks", false},
		{issuer, "https://127.0.0.1/jwks", false},
		{issuer, "https://127.1/jwks", false},
		{issuer, "https://2130706433/jwks", false},
		{issuer, "https://0x7f000001/jwks", false},
		{issuer, "https://0x7f.0.0.0x1/jwks", false},
		{issuer, "https://0177.0.0.1/jwks", false},
		{issuer, "https://[::1]/jwks", false},
		{issuer, "https://[::ffff:127.0.0.1]/jwks", false},
		{issuer, "https://[fe80::1%25eth0]/jwks", false},
		{issuer, "https://localhost/jwks", false},
		{issuer, "https://keys.example./jwks", false},
		{issuer, "https://keys..example/jwks", false},
		{issuer, "https://-keys.example/jwks", false},
		{issuer, "https://bücher.example/jwks", false},
		{issuer, "https://keys。example/jwks", false},
		{issuer, "https://169.254.169.254.nip_io.example/jwks", false},
		{issuer, "https:keys.example", false},
		{issuer, "//keys.example/jwks", false},
		{issuer, "/jwks", false},
		{issuer, "", false},
		{issuer, "gopher://keys.example/", false},
		{local, "http://127.0.0.1:8080/keys", true},
		{local, "https://keys.example/jwks", true},
		{local, "http://127.0.0.1:8081/keys", false},
		{local, "http://localhost:8080/keys", false},
		{local, "https://127.0.0.1:8080/keys", false},
	} {
		if _, err := tt.from.link(tt.text); (err == nil) != tt.ok {
			t.Errorf("%q from %s: %v, want ok %v", tt.text, tt.from.url, err, tt.ok)
		}
	}
}

// resolving is a fetcher for which a name has these addresses.
func resolving(roots *x509.CertPool, addresses ...string) *fetcher {
	return &fetcher{roots: roots, lookup: func(context.Context, string) ([]netip.Addr, error) {
		var list []netip.Addr
		for _, a := range addresses {
			list = append(list, netip.MustParseAddr(a))
		}
		return list, nil
	}}
}

func TestANameMustHaveNoAddressInside(t *testing.T) {
	p := idp.NewTLS(t)
	at := mustParse(t, strings.Replace(p.URL(), "127.0.0.1", "example.com", 1)+idp.KeysPath) // httptest's certificate names example.com
	for _, tt := range []struct {
		name      string
		zone      zone
		addresses []string
		ok        bool
	}{
		{"the operator's own host, on this machine", named, []string{"127.0.0.1"}, true},
		{"the same, as an IPv4 address in an IPv6 one", named, []string{"::ffff:127.0.0.1"}, true},
		{"the first address does not answer", named, []string{"127.255.255.254", "127.0.0.1"}, true},
		{"somebody else's host, on this machine", public, []string{"127.0.0.1"}, false},
		{"the same, as an IPv4 address in an IPv6 one", public, []string{"::ffff:127.0.0.1"}, false},
		{"one good address and one inside", public, []string{"93.184.216.34", "127.0.0.1"}, false},
		{"one inside and one good address", public, []string{"127.0.0.1", "93.184.216.34"}, false},
		{"the cloud's metadata, named by the operator", named, []string{"127.0.0.1", "169.254.169.254"}, false},
		{"not this machine, over http", loopback, []string{"127.0.0.1", "10.0.0.1"}, false},
		{"no address", named, nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := p.Fetched(idp.KeysPath)
			_, err := resolving(p.Roots(), tt.addresses...).get(t.Context(), place{at, tt.zone})
			if (err == nil) != tt.ok || err != nil && !errors.Is(err, errFetch) {
				t.Errorf("got %v, want ok %v", err, tt.ok)
			}
			if n := p.Fetched(idp.KeysPath) - before; n != 0 != tt.ok {
				t.Errorf("%d requests arrived", n)
			}
		})
	}
}

func TestAHostIsLookedUpInTheSystem(t *testing.T) {
	p := idp.New(t)
	at := mustParse(t, strings.Replace(p.URL(), "127.0.0.1", "localhost", 1)+idp.KeysPath)
	if _, err := (&fetcher{}).get(t.Context(), place{at, loopback}); err != nil {
		t.Error(err)
	}
	if _, err := (&fetcher{}).get(t.Context(), place{at, public}); !errors.Is(err, errAddress) {
		t.Errorf("got %v", err)
	}
}

// TestTheKeySetElsewhereIsNotReachedInside is discovery that points away: the
// operator named the issuer, not the host its metadata names.
func TestTheKeySetElsewhereIsNotReachedInside(t *testing.T) {
	p := idp.NewTLS(t)
	from, err := parseIssuer(p.URL(), false)
	if err != nil {
		t.Fatal(err)
	}
	f := resolving(p.Roots(), "127.0.0.1")
	if set, err := f.discover(t.Context(), from, p.URL()); err != nil || len(set) != 1 {
		t.Errorf("at the issuer itself, on a private network: %v", err)
	}
	p.Answer(idp.DiscoveryPath, func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":"https://example.com/jwks"}`, p.URL())
	})
	if _, err := f.discover(t.Context(), from, p.URL()); !errors.Is(err, errAddress) {
		t.Errorf("elsewhere, on the same address: %v", err)
	}
}

func TestALoopbackIssuersKeysAreOnLoopback(t *testing.T) {
	p := idp.New(t)
	issuer := strings.Replace(p.URL(), "127.0.0.1", "localhost", 1)
	from, err := parseIssuer(issuer, true)
	if err != nil {
		t.Fatal(err)
	}
	keys := mustParse(t, issuer+idp.KeysPath)
	if set, err := resolving(nil, "127.0.0.1").keySet(t.Context(), from, keys); err != nil || len(set) != 1 {
		t.Errorf("on this machine: %v", err)
	}
	if _, err := resolving(nil, "127.0.0.1", "10.0.0.1").keySet(t.Context(), from, keys); !errors.Is(err, errAddress) {
		t.Errorf("not only on this machine: %v", err)
	}
}

func TestAFetchIsSmallDirectAndAuthenticated(t *testing.T) {
	p := idp.NewTLS(t)
	for _, tt := range []struct {
		name   string
		answer http.HandlerFunc
		ok     bool
	}{
		{"64 KiB", func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, fetchBytes)) }, true},
		{"one byte more", func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, fetchBytes+1)) }, false},
		{"without end", func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		}, false},
		{"a redirect to itself", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path+"?", http.StatusFound) }, false},
		{"a redirect to what is there", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, idp.KeysPath, http.StatusFound) }, false},
		{"a redirect elsewhere", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://169.254.169.254/", http.StatusTemporaryRedirect)
		}, false},
		{"not found", http.NotFound, false},
		{"nothing", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }, false},
		{"headers without end", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X", strings.Repeat("x", 64<<10)) }, false},
		{"a cut answer", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "10")
			w.Write([]byte("x"))
		}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p.Answer("/x", tt.answer)
			_, err := (&fetcher{roots: p.Roots()}).get(t.Context(), place{mustParse(t, p.URL()+"/x"), named})
			if (err == nil) != tt.ok {
				t.Errorf("got %v, want ok %v", err, tt.ok)
			}
		})
	}
	if _, err := (&fetcher{}).get(t.Context(), place{mustParse(t, p.URL()+idp.KeysPath), named}); err == nil {
		t.Error("a certificate of nobody was accepted")
	}
}

func TestAFetchIgnoresTheProxyOfTheEnvironment(t *testing.T) {
	p, proxy := idp.NewTLS(t), idp.New(t)
	t.Setenv("HTTPS_PROXY", proxy.URL())
	t.Setenv("HTTP_PROXY", proxy.URL())
	if _, err := resolving(p.Roots(), "127.0.0.1").get(t.Context(), place{mustParse(t, strings.Replace(p.URL(), "127.0.0.1", "example.com", 1)+idp.KeysPath), named}); err != nil {
		t.Error(err)
	}
}

func TestAFetchEndsInThreeSeconds(t *testing.T) {
	t.Parallel()
	p := idp.NewTLS(t)
	p.Answer("/slow", func(_ http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
		panic(http.ErrAbortHandler) // to return would be to answer, perhaps in time
	})
	start := time.Now()
	_, err := (&fetcher{roots: p.Roots()}).get(t.Context(), place{mustParse(t, p.URL()+"/slow"), named})
	if took := time.Since(start); err == nil || took < fetchTime/2 || took > 2*fetchTime {
		t.Errorf("ended after %v with %v", took, err)
	}
}

func mustParse(t *testing.T, text string) *url.URL {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}
