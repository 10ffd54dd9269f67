package server

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/mayfly-id/mayfly"
)

// checkHost refuses a request that was sent to another host than ours (a page
// whose name was pointed here afterwards) or by another site's page. Where the
// connection arrived on a loopback address, loopback hosts are ours too.
func (s *Server) checkHost(r *http.Request, loopback bool) error {
	hosts := s.a.Bundle().Hosts
	if !ourHost(r.Host, s.issuer, hosts, loopback) {
		return mayfly.Errorf(mayfly.Denied, "this server does not answer for that host; use %s, or list the host under hosts:", s.issuer)
	}
	origins := r.Header["Origin"]
	// A form on a page that tells nobody where it comes from has the origin "null".
	// Only the browser itself writes Sec-Fetch-Site (Fetch Metadata section 2.3).
	if len(origins) == 1 && origins[0] == "null" && r.Header.Get("Sec-Fetch-Site") == "same-origin" {
		return nil
	}
	if len(origins) == 0 || len(origins) == 1 && ourOrigin(origins[0], s.issuer, hosts, loopback) {
		return nil
	}
	// What is public and the same for all may be read from any page.
	c := call{s: s, r: r}
	if c.find(r.URL.EscapedPath()); c.route != nil && c.route.cors {
		return nil
	}
	return mayfly.Errorf(mayfly.Denied, "requests from pages of other sites are not answered")
}

// ourHost reports whether a Host header names us: the issuer, with its port or
// none where that is the scheme's, or one of hosts, where one without a port is
// meant with any.
func ourHost(host string, issuer *url.URL, hosts []string, loopback bool) bool {
	defaultPort := "443"
	if issuer.Scheme == "http" {
		defaultPort = "80"
	}
	name, port, ok := splitHost(host, defaultPort)
	if !ok {
		return false
	}
	ourName, ourPort, ok := splitHost(issuer.Host, defaultPort)
	if ok && name == ourName && port == ourPort {
		return true
	}
	if loopback && isLoopbackHost(name) {
		return true
	}
	for _, h := range hosts {
		ourName, ourPort, ok := splitHost(h, "")
		if ok && name == ourName && (ourPort == "" || port == ourPort) {
			return true
		}
	}
	return false
}

// ourOrigin reports whether an Origin header (RFC 6454) names us.
func ourOrigin(origin string, issuer *url.URL, hosts []string, loopback bool) bool {
	u, err := url.Parse(origin)
	if err != nil || u.Host == "" || u.User != nil || u.Scheme+"://"+u.Host != origin {
		return false
	}
	if u.Scheme == issuer.Scheme {
		return ourHost(u.Host, issuer, hosts, loopback)
	}
	return loopback && (u.Scheme == "http" || u.Scheme == "https") && isLoopbackHost(strings.ToLower(u.Hostname()))
}

// splitHost reads host or host:port, in lower case, without the brackets of an
// IPv6 address.
func splitHost(hostport, defaultPort string) (host, port string, ok bool) {
	host, port = strings.ToLower(hostport), defaultPort
	if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.HasSuffix(host, "]") {
		host, port = host[:i], host[i+1:]
		if port == "" || strings.Trim(port, "0123456789") != "" {
			return "", "", false
		}
	}
	if strings.HasPrefix(host, "[") != strings.HasSuffix(host, "]") {
		return "", "", false
	}
	bare := strings.Trim(host, "[]")
	if bare == "" || strings.Contains(bare, ":") && bare == host {
		return "", "", false
	}
	return bare, port, true
}

func isLoopbackHost(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

func isLoopbackAddr(a net.Addr) bool {
	t, ok := a.(*net.TCPAddr)
	return ok && t.IP.IsLoopback()
}

// clientAddr is who a request comes from: the other end of the connection, or
// where that is a trusted proxy, the nearest address in X-Forwarded-For that is
// not. Only what a trusted proxy appended is believed, so the list is read from
// its end.
func clientAddr(remote string, forwarded []string, trusted []netip.Prefix) netip.Addr {
	end, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Addr{} // not a network: a pipe in a test
	}
	addr := plain(end.Addr())
	hops := strings.Split(strings.Join(forwarded, ","), ",")
	for i := len(hops) - 1; i >= 0 && isTrusted(addr, trusted); i-- {
		hop, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			return addr
		}
		addr = plain(hop)
	}
	return addr
}

func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

func isTrusted(a netip.Addr, trusted []netip.Prefix) bool {
	for _, p := range trusted {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// dropForwarded removes what only proxies may say, and they have said.
func dropForwarded(h http.Header) {
	for name := range h {
		if name == "Forwarded" || name == "X-Real-Ip" || strings.HasPrefix(name, "X-Forwarded-") {
			delete(h, name)
		}
	}
}
