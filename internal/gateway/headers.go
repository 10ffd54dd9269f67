package gateway

import (
	"encoding/base64"
	"math"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/authority"
)

// checkOrigin refuses requests that a web page made a browser send (DNS
// rebinding, cross-site tool execution): Host must be ours, and Origin, where
// there is one, too. A loopback listener also answers to loopback names.
func checkOrigin(r *http.Request, b *authority.Bundle) error {
	local := localListener(r)
	if local == everyHost {
		return nil
	}
	issuer, err := url.Parse(b.Issuer)
	if err != nil {
		return mayfly.Errorf(mayfly.Internal, "the issuer is not a URL: %w", err)
	}
	if !isOurs(r.Host, issuer.Host, b.Hosts) && !(local == loopbackHosts && isLoopback(r.Host)) {
		return mayfly.Errorf(mayfly.Denied, "this server does not answer to the Host of the request; use the address in its metadata")
	}
	origins := r.Header["Origin"]
	if len(origins) == 0 {
		return nil
	}
	if len(origins) == 1 {
		origin, err := url.Parse(origins[0])
		switch {
		case err != nil || origin.Host == "":
		case origin.Scheme == issuer.Scheme && isOurs(origin.Host, issuer.Host, nil),
			origin.Scheme == "https" && isOurs(origin.Host, "", b.Hosts),
			local == loopbackHosts && (origin.Scheme == "http" || origin.Scheme == "https") && isLoopback(origin.Host):
			return nil
		}
	}
	return mayfly.Errorf(mayfly.Denied, "requests from pages of another origin are refused; call from a program or from this server's own origin")
}

// isOurs compares a host with the configured ones. One configured without a
// port stands for every port: rebinding is about names.
func isOurs(host, issuer string, hosts []string) bool {
	same := func(ours string) bool {
		if _, _, err := net.SplitHostPort(ours); err != nil {
			return strings.EqualFold(hostname(host), hostname(ours))
		}
		return strings.EqualFold(host, ours)
	}
	return host != "" && (issuer != "" && same(issuer) || slices.ContainsFunc(hosts, same))
}

func hostname(hostport string) string {
	if host, _, err := net.SplitHostPort(hostport); err == nil {
		hostport = host
	}
	return strings.Trim(hostport, "[]")
}

func isLoopback(hostport string) bool {
	host := hostname(hostport)
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}

type listenerKind int

const (
	anyListener   listenerKind = iota
	loopbackHosts              // bound to a loopback address
	everyHost                  // a Unix socket: no browser gets there and Host means nothing
)

func localListener(r *http.Request) listenerKind {
	switch a := r.Context().Value(http.LocalAddrContextKey).(type) {
	case *net.TCPAddr:
		if a.IP.IsLoopback() {
			return loopbackHosts
		}
	case *net.UnixAddr:
		return everyHost
	}
	return anyListener
}

// checkFraming refuses bodies whose length two readers could see differently,
// encoded bodies, and everything that would make the connection something else
// than one request and one answer.
func checkFraming(r *http.Request) error {
	switch {
	case len(r.TransferEncoding) > 0:
		// net/http drops a Content-Length beside Transfer-Encoding without a
		// word, so a smuggling attempt can only be told by refusing both.
		return mayfly.Errorf(mayfly.Invalid, "send the body with a Content-Length, not in chunks")
	case len(r.Header["Content-Encoding"]) > 0:
		return mayfly.Errorf(mayfly.MediaType, "send the body without a Content-Encoding")
	case len(r.Header["Upgrade"]) > 0:
		return mayfly.Errorf(mayfly.Invalid, "the gateway upgrades no connection; leave the Upgrade header out")
	}
	return nil
}

// forwarded are the request headers an HTTP target may see. Everything else is
// dropped: credentials, cookies, forwarding and hop-by-hop headers, names with
// an underscore, and whatever a proxy in front of some target may trust.
var forwarded = []string{
	"Accept", "Accept-Language", "Content-Type", "Content-Language", "Idempotency-Key",
	"If-Match", "If-Modified-Since", "If-None-Match", "If-Range", "If-Unmodified-Since",
	"Prefer", "Range",
}

// userAgent is what targets see instead of the agent's.
const userAgent = "mayfly"

// forwardHeaders makes the headers of a request to an HTTP target. The slices
// are shared with in: neither is changed after.
func forwardHeaders(in http.Header) http.Header {
	out := make(http.Header, 8)
	for _, name := range forwarded {
		if values := in[name]; len(values) > 0 {
			out[name] = values
		}
	}
	out["User-Agent"] = []string{userAgent}
	return out
}

// stateMost is the longest tracestate that is passed on, in bytes (W3C Trace Context,
// section 3.3.1.5).
const stateMost = 512

// trace puts the place of what was decided into the headers of the request that
// follows from it: the target's spans hang on the decision's. Baggage is not passed
// on: it is for whoever is inside.
func (x *request) trace(out http.Header, decision string) {
	asked := x.presented.Trace
	out["Traceparent"] = []string{asked.Of(decision).Header()}
	state := strings.Join(x.r.Header["Tracestate"], ",")
	if asked.ID != "" && state != "" && len(state) <= stateMost && !strings.ContainsFunc(state, func(r rune) bool { return r < ' ' || r > '~' }) {
		out["Tracestate"] = []string{state}
	}
}

// withheld are headers of a target's answer that an agent does not see: they
// speak of the target's connection, credentials, cookies or address, or for
// this server's origin.
var withheld = map[string]bool{
	"Access-Control-Allow-Credentials": true, "Access-Control-Allow-Headers": true, "Access-Control-Allow-Methods": true,
	"Access-Control-Allow-Origin": true, "Access-Control-Expose-Headers": true, "Access-Control-Max-Age": true,
	"Alt-Svc": true, "Authentication-Info": true, "Clear-Site-Data": true, "Connection": true,
	"Content-Security-Policy": true, "Dpop-Nonce": true, "Keep-Alive": true, "Location": true, "Content-Location": true,
	"Mayfly-Decision": true, "Mcp-Session-Id": true, "Proxy-Authenticate": true, "Proxy-Authentication-Info": true,
	"Refresh": true, "Server": true, "Set-Cookie": true, "Set-Cookie2": true, "Strict-Transport-Security": true,
	"Te": true, "Trailer": true, "Transfer-Encoding": true, "Upgrade": true, "Via": true, "Www-Authenticate": true,
	"X-Content-Type-Options": true, "X-Powered-By": true,
}

// relayHeaders copies what an agent may see of a target's headers. Addresses at
// the target become addresses here; others are dropped.
func relayHeaders(to, from http.Header, target *mayfly.Target, here string) {
	named := from["Connection"]
	for name, values := range from {
		if withheld[name] || strings.ContainsRune(name, '_') || isNamedBy(named, name) {
			continue
		}
		if name == "Link" {
			values = slices.Clone(values)
			for i, v := range values {
				values[i] = strings.ReplaceAll(v, "<"+strings.TrimSuffix(target.URL, "/")+"/", "<"+here+"/")
			}
		}
		to[name] = values
	}
	for _, name := range []string{"Location", "Content-Location"} {
		if at := from.Get(name); at != "" {
			if at, ok := relocate(at, target.URL, here); ok {
				to[name] = []string{at}
			}
		}
	}
}

// isNamedBy reports whether a Connection header makes name hop-by-hop.
func isNamedBy(connection []string, name string) bool {
	for _, list := range connection {
		for one := range strings.SplitSeq(list, ",") {
			if strings.EqualFold(strings.TrimSpace(one), name) {
				return true
			}
		}
	}
	return false
}

// relocate turns an address at the target into the one it has here.
func relocate(at, target, here string) (string, bool) {
	base, err := url.Parse(target)
	if err != nil {
		return "", false
	}
	u, err := base.Parse(at)
	if err != nil || u.Scheme != base.Scheme || u.Host != base.Host || u.User != nil {
		return "", false
	}
	rest, ok := strings.CutPrefix(u.EscapedPath(), strings.TrimSuffix(base.EscapedPath(), "/"))
	if !ok || rest != "" && rest[0] != '/' {
		return "", false
	}
	if u.RawQuery != "" {
		rest += "?" + u.RawQuery
	}
	return here + rest, true
}

// accepts reports whether an Accept header lists a media type, or leaves it open.
func accepts(values []string, mediaType string) bool {
	if len(values) == 0 {
		return true
	}
	major, _, _ := strings.Cut(mediaType, "/")
	for _, list := range values {
		for one := range strings.SplitSeq(list, ",") {
			one, _, _ = strings.Cut(one, ";")
			switch one = strings.ToLower(strings.TrimSpace(one)); one {
			case mediaType, "*/*", major + "/*":
				return true
			}
		}
	}
	return false
}

// The sentinel that wraps a header value which cannot stand as it is
// (MCP 2026-07-28, Streamable HTTP).
const (
	sentinelStart = "=?base64?"
	sentinelEnd   = "?="
)

// decodeMirror reads a header that mirrors a value of the body.
func decodeMirror(value string) (string, bool) {
	inner, ok := strings.CutPrefix(value, sentinelStart)
	if !ok {
		return value, true
	}
	if inner, ok = strings.CutSuffix(inner, sentinelEnd); !ok {
		return value, true
	}
	text, err := base64.StdEncoding.Strict().DecodeString(inner)
	if err != nil || !utf8.Valid(text) {
		return "", false
	}
	return string(text), true
}

// encodeMirror writes a value of the body into a header.
func encodeMirror(text string) string {
	plain := !(strings.HasPrefix(text, sentinelStart) && strings.HasSuffix(text, sentinelEnd)) &&
		strings.TrimSpace(text) == text
	for i := 0; plain && i < len(text); i++ {
		plain = 0x20 <= text[i] && text[i] <= 0x7e
	}
	if plain {
		return text
	}
	return sentinelStart + base64.StdEncoding.EncodeToString([]byte(text)) + sentinelEnd
}

// mirrors reports whether a decoded Mcp-Param header says the same as a value of
// the body: text as text, booleans by name, integers by number.
func mirrors(header string, value jsontext.Value) bool {
	switch value.Kind() {
	case '"':
		text, err := jsontext.AppendUnquote(nil, value)
		return err == nil && string(text) == header
	case 't', 'f':
		return header == string(value)
	case '0':
		want, err1 := strconv.ParseFloat(string(value), 64)
		got, err2 := strconv.ParseFloat(header, 64)
		return err1 == nil && err2 == nil && want == got && got == math.Trunc(got) && math.Abs(got) < 1<<53
	}
	return false
}
