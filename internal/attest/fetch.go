package attest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/mayfly-id/mayfly/internal/jose"
	"github.com/mayfly-id/mayfly/internal/strictjson"
)

// fetcher reads small documents from addresses that are, or come from, somebody
// else's. It follows no redirect, uses no proxy from the environment, keeps no
// connection, and connects only to addresses that were checked.
type fetcher struct {
	roots *x509.CertPool
	// lookup resolves a host to all its addresses; nil asks the system.
	lookup func(ctx context.Context, host string) ([]netip.Addr, error)
}

// Bounds of one fetch.
const (
	fetchTime  = 3 * time.Second
	fetchBytes = 64 << 10
)

// place is where a fetch may go: an address from the operator's configuration,
// or one that arrived as data.
type place struct {
	url  *url.URL
	zone zone
}

// zone says which addresses a place may have.
type zone int

const (
	public   zone = iota // every address the internet routes; for addresses that arrived as data
	named                // also private and loopback ones: the operator wrote this host down
	loopback             // this machine only; the one zone in which http is accepted
)

func (z zone) allows(a netip.Addr) bool {
	a = a.WithZone("")
	switch z {
	case named:
		return !special(a) || private(a)
	case loopback:
		return a.IsLoopback()
	}
	return !special(a)
}

// parseIssuer reads an address from the operator's configuration.
func parseIssuer(text string, onLoopback bool) (place, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || u.Opaque != "":
		return place{}, fmt.Errorf("%q is not https://host/path", text)
	case u.Scheme == "https":
		return place{u, named}, nil
	case u.Scheme == "http" && onLoopback && loopbackHost(u.Hostname()):
		return place{u, loopback}, nil
	}
	return place{}, fmt.Errorf("%q must be https; http is for loopback hosts only", text)
}

func loopbackHost(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}

// discover reads an issuer's metadata (OpenID Connect Discovery 1.0 section 4)
// and the keys it points to.
func (f *fetcher) discover(ctx context.Context, from place, issuer string) (jose.KeySet, error) {
	u := from.url.JoinPath(".well-known/openid-configuration")
	data, err := f.get(ctx, place{u, from.zone})
	if err != nil {
		return nil, err
	}
	var metadata struct {
		Issuer string `json:"issuer"`
		Keys   string `json:"jwks_uri"`
	}
	if err := strictjson.UnmarshalLenient(data, strictjson.Limits{Bytes: fetchBytes, Depth: 32}, &metadata); err != nil {
		return nil, fmt.Errorf("reading %s: %w", u, err)
	}
	if metadata.Issuer != issuer {
		return nil, fmt.Errorf("%s speaks for another issuer: %q", u, metadata.Issuer)
	}
	where, err := from.link(metadata.Keys)
	if err != nil {
		return nil, err
	}
	return f.keySet(ctx, from, where)
}

// keySet reads a JWK Set from an address that place.link, or the operator, gave.
func (f *fetcher) keySet(ctx context.Context, from place, where *url.URL) (jose.KeySet, error) {
	at := place{where, public}
	if sameOrigin(where, from.url) {
		at.zone = from.zone
	}
	data, err := f.get(ctx, at)
	if err != nil {
		return nil, err
	}
	set, err := jose.ParseKeySet(data)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", where, err)
	}
	return set, nil
}

// link reads an address that arrived as data from this place. At the same
// origin it is as good as the place itself; anywhere else it must be https, on
// the standard port, at a host name of the internet.
func (p place) link(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.Fragment != "" || u.Opaque != "":
		return nil, fmt.Errorf("%q is not the address of a key set", text)
	case sameOrigin(u, p.url):
		return u, nil
	case u.Scheme != "https" || u.Port() != "" && u.Port() != "443" || !hostName(u.Hostname()):
		return nil, fmt.Errorf("%q is at another host than the issuer, and not https on port 443 of a host name", text)
	}
	return u, nil
}

func sameOrigin(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && strings.EqualFold(a.Hostname(), b.Hostname()) && port(a) == port(b)
}

func port(u *url.URL) string {
	switch {
	case u.Port() != "":
		return u.Port()
	case u.Scheme == "http":
		return "80"
	}
	return "443"
}

// hostName reports whether host is a full domain name in ASCII and can be no
// spelling of an address: resolvers take 127.1, 0x7f000001 and 2130706433 for
// one.
func hostName(host string) bool {
	labels := strings.Split(host, ".")
	if len(labels) < 2 || len(host) > 253 {
		return false
	}
	for _, l := range labels {
		if l == "" || len(l) > 63 || l[0] == '-' || l[len(l)-1] == '-' ||
			strings.Trim(strings.ToLower(l), "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return false
		}
	}
	last := labels[len(labels)-1]
	return last[0] < '0' || '9' < last[0]
}

// errFetch is all that is said of a fetch that failed, whatever the reason: an
// address that arrived as data must not become a way to look around inside.
var errFetch = errors.New("the address cannot be fetched")

// get reads one document.
func (f *fetcher) get(ctx context.Context, from place) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, from.url.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", from.url, errFetch)
	}
	request.Header.Set("Accept", "application/json")
	request.Header.Set("User-Agent", "mayfly")
	response, err := f.client(from.zone).Do(request)
	if err != nil {
		return nil, fmt.Errorf("%s: %w (%w)", from.url, errFetch, err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %w (status %d)", from.url, errFetch, response.StatusCode)
	}
	data, err := io.ReadAll(io.LimitReader(response.Body, fetchBytes+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w (%w)", from.url, errFetch, err)
	}
	if len(data) > fetchBytes {
		return nil, fmt.Errorf("%s: %w (longer than %d bytes)", from.url, errFetch, fetchBytes)
	}
	return data, nil
}

// client makes one fetch from an address of a zone.
func (f *fetcher) client(z zone) *http.Client {
	return &http.Client{
		// The transport is this fetch's own: a connection that was right for one
		// place must never serve another.
		Transport: &http.Transport{
			DialContext:            f.dialer(z),
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: f.roots},
			DisableKeepAlives:      true,
			DisableCompression:     true,
			MaxResponseHeaderBytes: 16 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// errAddress refuses to connect.
var errAddress = errors.New("the host has an address that is not allowed")

// dialer connects to the addresses that one resolution gave, all of which must
// be in the zone, and has the kernel's side of each connection checked again.
func (f *fetcher) dialer(z zone) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		addresses, err := f.resolve(ctx, host)
		if err != nil {
			return nil, err
		}
		for i, a := range addresses {
			addresses[i] = a.Unmap()
			if !z.allows(addresses[i]) {
				return nil, errAddress
			}
		}
		d := net.Dialer{ControlContext: z.control}
		err = errAddress
		for _, a := range addresses {
			var conn net.Conn
			if conn, err = d.DialContext(ctx, network, net.JoinHostPort(a.String(), port)); err == nil {
				return conn, nil
			}
		}
		return nil, err
	}
}

// control is the last word before the kernel connects to address.
func (z zone) control(_ context.Context, _, address string, _ syscall.RawConn) error {
	a, err := netip.ParseAddrPort(address)
	if err != nil || !z.allows(a.Addr().Unmap()) {
		return errAddress
	}
	return nil
}

func (f *fetcher) resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a}, nil
	}
	if f.lookup != nil {
		return f.lookup(ctx, host)
	}
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}
