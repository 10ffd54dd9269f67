package main

import (
	"crypto/tls"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/attest"
	"github.com/mayfly-id/mayfly/internal/jose"
)

// serverFile is mayfly.yaml. Its json tags are the known keys.
type serverFile struct {
	TrustDomain string `json:"trust_domain"`
	Issuer      string `json:"issuer"`
	Listen      struct {
		Public  string `json:"public"`
		Admin   string `json:"admin"`
		Metrics string `json:"metrics"`
	} `json:"listen"`
	TLS *struct {
		Cert string `json:"cert"`
		Key  string `json:"key"`
	} `json:"tls"`
	TrustedProxies []string `json:"trusted_proxies"`
	Hosts          []string `json:"hosts"`
	Audiences      []string `json:"audiences"`
	Store          string   `json:"store"`
	Keys           struct {
		Seal struct {
			File string `json:"file"`
		} `json:"seal"`
	} `json:"keys"`
	Sources   []sourceEntry   `json:"sources"`
	Clients   []clientEntry   `json:"clients"`
	Targets   []targetEntry   `json:"targets"`
	Profiles  string          `json:"profiles"` // folder
	Policies  string          `json:"policies"` // folder
	Limits    limitsEntry     `json:"limits"`
	Approvals *approvalsEntry `json:"approvals"`
	Log       *logEntry       `json:"log"`
	Console   *consoleEntry   `json:"console"`
}

// consoleEntry is console in mayfly.yaml.
type consoleEntry struct {
	Source       string   `json:"source"`
	ClientSecret string   `json:"client_secret"`
	Scopes       []string `json:"scopes"`
}

type sourceEntry struct {
	Name      string `json:"name"`
	Kind      string `json:"kind"`
	Issuer    string `json:"issuer"`
	Audience  string `json:"audience"`
	Operators string `json:"operators"`
	Subject   string `json:"subject"`
	Claims    struct {
		ID     string `json:"id"`
		Groups string `json:"groups"`
	} `json:"claims"`
	EmailVerified string            `json:"email_verified"`
	Prefix        string            `json:"prefix"`
	Match         map[string]string `json:"match"`
}

type clientEntry struct {
	ID       string `json:"id"`
	JWKS     string `json:"jwks"`
	Audience string `json:"audience"`
}

// sourceKinds are the kinds this version knows.
var sourceKinds = []string{"oidc", "unix"}

var (
	// trustDomain is a SPIFFE trust domain name (SPIFFE-ID section 2.1).
	trustDomain = regexp.MustCompile(`^[a-z0-9._-]{1,255}$`)
	// label is a name that stands in paths, grants and SPIFFE IDs.
	label = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$`)
)

const labelRule = "lower-case letters, digits, dots, dashes and underscores, at most 63, letters or digits at both ends"

// server checks mayfly.yaml and fills c from it.
func (l *loader) server(d *document, f *serverFile, c *Config) {
	if !trustDomain.MatchString(f.TrustDomain) {
		d.wrong(path{"trust_domain"}, "%q is not a trust domain; give a name like example.org, in lower case", f.TrustDomain)
	}
	c.TrustDomain, c.Issuer = f.TrustDomain, f.Issuer
	issuerOK := d.issuer(f.Issuer)
	for i, h := range f.Hosts {
		if u, err := url.Parse("https://" + h); err != nil || u.Host != h || u.Hostname() == "" || strings.ToLower(h) != h {
			d.wrong(path{"hosts", i}, "%q is not a host; write host or host:port in lower case", h)
		}
	}
	for i, a := range f.Audiences {
		u, err := url.Parse(a)
		switch {
		case err != nil || !u.IsAbs() || u.Fragment != "" || strings.ContainsAny(a, " \t\n"):
			d.wrong(path{"audiences", i}, "%q is not an absolute URI without fragment", a)
		case a == f.Issuer || strings.HasPrefix(a, f.Issuer+"/"):
			d.wrong(path{"audiences", i}, "%q is an audience of the server itself already", a)
		}
	}
	c.Hosts, c.Audiences = f.Hosts, f.Audiences
	l.proxies(d, f, c)
	l.certificate(d, f, c)
	d.listen(f, c, issuerOK)
	d.store(f)
	c.Store = f.Store
	c.seal = l.seal(d, f)
	l.sources(d, f, c)
	l.console(d, f, c)
	l.clients(d, f, c)
	l.targets(d, f, c)
	l.webhooks(d, f, c)
	c.Limits = d.limits(&f.Limits)
	l.log(d, f, c)
}

// issuer checks that s is an origin, exactly as it will stand in tokens.
func (d *document) issuer(s string) bool {
	at := path{"issuer"}
	u, err := url.Parse(s)
	switch {
	case s == "":
		d.wrong(at, "is missing; give the server's public address, such as https://mayfly.example.org")
	case err != nil || u.Host == "" || u.Hostname() == "" || u.User != nil || u.Opaque != "":
		d.wrong(at, "%q is not a URL of a server; write https://host or https://host:port", s)
	case strings.HasSuffix(s, "/"):
		d.wrong(at, "%q ends in a slash; the issuer is compared exactly, so write it without", s)
	case u.Path != "" || u.RawQuery != "" || u.Fragment != "" || u.ForceQuery:
		d.wrong(at, "%q has more than scheme, host and port; write those only", s)
	case strings.ToLower(s) != s:
		d.wrong(at, "%q must be in lower case; it is compared exactly", s)
	case u.Scheme == "https" && u.Port() == "443" || u.Scheme == "http" && u.Port() == "80":
		d.wrong(at, "%q names the scheme's own port; leave it out", s)
	default:
		return d.secure(at, u)
	}
	return false
}

// secure refuses URLs that would be called in clear over a network.
func (d *document) secure(at path, u *url.URL) bool {
	switch {
	case u.Scheme == "https", u.Scheme == "http" && loopback(u.Hostname()):
		return true
	case u.Scheme == "http":
		d.wrong(at, "%q is http; that is for loopback hosts only, write https", u.Redacted())
	default:
		d.wrong(at, "%q has the scheme %q; write https", u.Redacted(), u.Scheme)
	}
	return false
}

// loopback reports whether host is this machine, by name or by address.
func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

func (l *loader) proxies(d *document, f *serverFile, c *Config) {
	for i, text := range f.TrustedProxies {
		at := path{"trusted_proxies", i}
		p, err := netip.ParsePrefix(text)
		if ip, ipErr := netip.ParseAddr(text); ipErr == nil {
			p, err = netip.PrefixFrom(ip, ip.BitLen()), nil
		}
		switch {
		case text == "*" || err == nil && p.Bits() == 0:
			d.wrong(at, "%q trusts everybody; name the proxy's own address", text)
		case err != nil:
			d.wrong(at, "%q is not an address or a prefix such as 10.1.2.0/28", text)
		case p != p.Masked():
			d.wrong(at, "%q has bits set after the prefix; did you mean %s?", text, p.Masked())
		default:
			c.TrustedProxies = append(c.TrustedProxies, p)
		}
	}
}

func (l *loader) certificate(d *document, f *serverFile, c *Config) {
	if f.TLS == nil {
		return
	}
	if f.TLS.Cert == "" || f.TLS.Key == "" {
		d.wrong(path{"tls"}, "needs both cert and key, each the name of a PEM file")
		return
	}
	c.TLS = &TLS{l.resolve(f.TLS.Cert), l.resolve(f.TLS.Key)}
	l.files = append(l.files, c.TLS.Cert, c.TLS.Key)
	if _, err := tls.LoadX509KeyPair(c.TLS.Cert, c.TLS.Key); err != nil {
		d.wrong(path{"tls"}, "the certificate cannot be used: %v", err)
	}
}

// socketPathLimit is the longest path that Linux gives a Unix socket, in bytes.
const socketPathLimit = 107

func (d *document) listen(f *serverFile, c *Config, issuerOK bool) {
	at := path{"listen", "public"}
	c.Listen.Public = f.Listen.Public
	host, port, err := net.SplitHostPort(f.Listen.Public)
	clear := f.TLS == nil && len(f.TrustedProxies) == 0
	switch {
	case f.Listen.Public == "":
		d.wrong(path{"listen"}, "public is missing; give an address such as 127.0.0.1:8420")
	case err != nil || !validPort(port):
		d.wrong(at, "%q is not host:port", f.Listen.Public)
	case clear && !loopback(host):
		d.wrong(at, "%q would speak http on a network; set tls, or trusted_proxies if a proxy speaks https for it, or listen on 127.0.0.1", f.Listen.Public)
	case issuerOK && clear && strings.HasPrefix(f.Issuer, "https://"):
		d.wrong(path{"issuer"}, "is https, and nothing here speaks it; set tls, or trusted_proxies if a proxy does")
	case issuerOK && f.TLS != nil && strings.HasPrefix(f.Issuer, "http://"):
		d.wrong(path{"issuer"}, "is http although tls is set; write https")
	}

	c.Listen.Metrics = f.Listen.Metrics
	if m := f.Listen.Metrics; m != "" {
		host, port, err := net.SplitHostPort(m)
		switch {
		case err != nil || !validPort(port):
			d.wrong(path{"listen", "metrics"}, "%q is not host:port", m)
		case !loopback(host):
			d.wrong(path{"listen", "metrics"}, "%q would speak http to a network, and to anybody there; listen on 127.0.0.1", m)
		case m == f.Listen.Public:
			d.wrong(path{"listen", "metrics"}, "is the public address; metrics are not for the public")
		}
	}

	at = path{"listen", "admin"}
	if f.Listen.Admin == "" {
		d.wrong(path{"listen"}, "admin is missing; give a socket such as unix:///run/mayfly/admin.sock")
		return
	}
	socket, err := socketPath(f.Listen.Admin)
	if err != nil {
		d.wrong(at, "%v", err)
	}
	c.Listen.Admin = socket
}

// socketPath is the path in unix:///path.
func socketPath(text string) (string, error) {
	p, ok := strings.CutPrefix(text, "unix://")
	switch {
	case !ok || !strings.HasPrefix(p, "/"):
		return "", mayfly.Errorf(mayfly.Invalid, "%q is not a socket; write unix:///path", text)
	case len(p) > socketPathLimit:
		return "", mayfly.Errorf(mayfly.Invalid, "the path is longer than the %d bytes a socket may have", socketPathLimit)
	}
	return p, nil
}

func validPort(s string) bool {
	_, err := netip.ParseAddrPort("127.0.0.1:" + s)
	return err == nil
}

func (d *document) store(f *serverFile) {
	at := path{"store"}
	u, err := url.Parse(f.Store)
	switch {
	case f.Store == "":
		d.wrong(at, "is missing; write sqlite:///path/to/mayfly.db or postgres://…")
	case err != nil:
		d.wrong(at, "is not a URL; write sqlite:///path/to/mayfly.db or postgres://…") // it may hold a password
	case u.Scheme == "sqlite" && (u.Host != "" || !strings.HasPrefix(u.Path, "/") || strings.HasSuffix(u.Path, "/")):
		d.wrong(at, "names no absolute path; write sqlite:///path/to/mayfly.db")
	case u.Scheme == "sqlite" && (u.RawQuery != "" || u.Fragment != ""):
		d.wrong(at, "takes no parameters after the path")
	case u.Scheme != "sqlite" && u.Scheme != "postgres" && u.Scheme != "postgresql":
		d.wrong(at, "has the scheme %q; known: sqlite, postgres", u.Scheme)
	}
}

func (l *loader) sources(d *document, f *serverFile, c *Config) {
	if len(f.Sources) == 0 {
		d.wrong(path{"sources"}, "is missing; without a source nobody can be known")
	}
	kinds := map[string]int{} // OIDC sources by kind of subject
	for _, s := range f.Sources {
		if s.Kind == "oidc" {
			kinds[s.Subject]++
		}
	}
	seen := map[string]bool{}
	accepted := map[[2]string]string{} // issuer and audience to source
	unix := ""
	for i, s := range f.Sources {
		at := path{"sources", i}
		d.label(at.to("name"), s.Name, seen)
		switch s.Kind {
		case "oidc":
			d.oidc(at, s)
			for _, aud := range []string{s.Audience, s.Operators} {
				key := [2]string{s.Issuer, aud}
				if other := accepted[key]; aud != "" && other != "" {
					d.wrong(at, "source %q has the same issuer and audience; a token must belong to one", other)
				}
				accepted[key] = s.Name
			}
			if kinds[s.Subject] > 1 && s.Prefix == "" && s.Subject != "" {
				d.wrong(at, "prefix is missing; two sources name a %s, so each needs a prefix to keep their ids apart", s.Subject)
			}
			for j, other := range f.Sources[:i] {
				if s.Prefix != "" && other.Prefix != "" && (strings.HasPrefix(s.Prefix, other.Prefix) || strings.HasPrefix(other.Prefix, s.Prefix)) {
					d.wrong(at.to("prefix"), "%q and the prefix %q of sources[%d] begin alike; ids could be confused", s.Prefix, other.Prefix, j)
				}
			}
		case "unix":
			d.unix(at, s)
			if unix != "" {
				d.wrong(at, "source %q is of kind unix already; there is one kernel", unix)
			}
			unix = s.Name
		case "":
			d.wrong(at, "kind is missing; known: %s", strings.Join(sourceKinds, ", "))
		default:
			d.unknownKind(at, s.Kind, sourceKinds)
		}
		u, err := url.Parse(s.Issuer)
		c.Sources = append(c.Sources, attest.Source{
			Name:         s.Name,
			Kind:         s.Kind,
			Issuer:       s.Issuer,
			Audience:     s.Audience,
			Operators:    s.Operators,
			Subject:      mayfly.SubjectKind(s.Subject),
			ClaimID:      s.Claims.ID,
			ClaimGroups:  s.Claims.Groups,
			EmailAssumed: s.EmailVerified == "assumed",
			Prefix:       s.Prefix,
			Match:        s.Match,
			Loopback:     err == nil && u.Scheme == "http" && loopback(u.Hostname()),
		})
	}
}

// console says which of the sources signs humans in.
func (l *loader) console(d *document, f *serverFile, c *Config) {
	if f.Console == nil {
		return
	}
	at := path{"console"}
	i := slices.IndexFunc(c.Sources, func(s attest.Source) bool { return s.Name == f.Console.Source })
	switch {
	case f.Console.Source == "":
		d.wrong(at, "source is missing; name the source whose humans sign in")
		return
	case i < 0:
		d.wrong(at.to("source"), "%q is no source; name one of sources", f.Console.Source)
		return
	case c.Sources[i].Operators == "":
		d.wrong(at.to("source"), "source %q has no operators: set it to the client id of the console at the identity provider", f.Console.Source)
		return
	}
	s := &c.Sources[i]
	s.SignIn, s.Scopes = true, f.Console.Scopes
	if len(s.Scopes) == 0 {
		s.Scopes = []string{"email", "profile"}
	}
	for j, scope := range s.Scopes {
		if scope == "" || strings.ContainsAny(scope, " \"\\") {
			d.wrong(at.to("scopes", j), "%q is not a scope", scope)
		}
	}
	if text := f.Console.ClientSecret; text != "" {
		s.Secret = l.secret(d, at, "client_secret", text)
	}
}

func (d *document) unknownKind(at path, kind string, known []string) {
	d.wrong(at.to("kind"), "kind %q is not one this version knows; known: %s", kind, strings.Join(known, ", "))
}

// label checks a name that must be one of its kind.
func (d *document) label(at path, name string, seen map[string]bool) {
	switch {
	case name == "":
		d.wrong(at[:len(at)-1], "%s is missing", at[len(at)-1])
	case !label.MatchString(name):
		d.wrong(at, "%q is not a name; use %s", name, labelRule)
	case seen[name]:
		d.wrong(at, "%q is taken; names must differ", name)
	}
	seen[name] = true
}

func (d *document) oidc(at path, s sourceEntry) {
	u, err := url.Parse(s.Issuer)
	switch {
	case s.Issuer == "":
		d.wrong(at, "issuer is missing; write it exactly as the provider's tokens do")
	case err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
		d.wrong(at.to("issuer"), "%q is not an issuer; write https://host/path exactly as the provider's tokens do", s.Issuer)
	default:
		d.secure(at.to("issuer"), u)
	}
	if s.Audience == "" {
		d.wrong(at, "audience is missing; a token for somebody else must not be accepted")
	}
	if s.Operators != "" && s.Operators == s.Audience {
		d.wrong(at.to("operators"), "%q is also the audience; agents are handed tokens for that one", s.Operators)
	}
	subjects := []string{string(mayfly.Human), string(mayfly.Service), string(mayfly.Workload)}
	switch {
	case s.Subject == "":
		d.wrong(at, "subject is missing; say who it vouches for: %s", strings.Join(subjects, ", "))
	case !slices.Contains(subjects, s.Subject):
		d.wrong(at.to("subject"), "%q is not a kind of subject; known: %s", s.Subject, strings.Join(subjects, ", "))
	case s.Operators != "" && s.Subject != string(mayfly.Human):
		d.wrong(at.to("operators"), "is for sources of humans")
	}
	switch {
	case s.EmailVerified != "" && s.EmailVerified != "assumed":
		d.wrong(at.to("email_verified"), "%q is not known; leave it out, or write assumed if the provider checks every address", s.EmailVerified)
	case s.EmailVerified != "" && s.Claims.ID != "email":
		d.wrong(at.to("email_verified"), "matters only where claims.id is email")
	}
	if p := s.Prefix; strings.HasPrefix(p, "service:") || strings.HasPrefix(p, "spiffe:") {
		d.wrong(at.to("prefix"), "%q would make ids look like another kind of subject's", p)
	}
	d.patterns(at.to("match"), s.Match)
}

func (d *document) unix(at path, s sourceEntry) {
	given := map[string]bool{
		"issuer": s.Issuer != "", "audience": s.Audience != "", "operators": s.Operators != "",
		"email_verified": s.EmailVerified != "", "prefix": s.Prefix != "", "claims": d.root.at(at...).has("claims"),
	}
	for _, key := range []string{"audience", "claims", "email_verified", "issuer", "operators", "prefix"} {
		if given[key] {
			d.wrong(at.to(key), "a source of kind unix has none: the kernel says who is calling")
		}
	}
	if s.Subject != "" && s.Subject != string(mayfly.Workload) {
		d.wrong(at.to("subject"), "%q is not what a unix source gives; write workload, or leave it out", s.Subject)
	}
	d.patterns(at.to("match"), s.Match)
}

// patterns checks the values of match: exact, or with one trailing star.
func (d *document) patterns(at path, match map[string]string) {
	for claim, pattern := range match {
		switch star := strings.IndexByte(pattern, '*'); {
		case pattern == "":
			d.wrong(at.to(claim), "is empty; nothing would match")
		case star >= 0 && star != len(pattern)-1:
			d.wrong(at.to(claim), "%q has a star that is not at the end; claims are compared exactly, or up to one trailing star", pattern)
		}
	}
}

func (l *loader) clients(d *document, f *serverFile, c *Config) {
	seen := map[string]bool{}
	for i, one := range f.Clients {
		at := path{"clients", i}
		switch {
		case one.ID == "":
			d.wrong(at, "id is missing")
		case strings.HasPrefix(one.ID, "spiffe:") || strings.HasPrefix(one.ID, "service:") || strings.ContainsAny(one.ID, " \t\n"):
			d.wrong(at.to("id"), "%q looks like another kind of id, or has spaces", one.ID)
		case seen[one.ID]:
			d.wrong(at.to("id"), "%q is taken; ids must differ", one.ID)
		}
		seen[one.ID] = true
		out := attest.Client{ID: one.ID, Audience: one.Audience}
		switch u, err := url.Parse(one.JWKS); {
		case one.JWKS == "":
			d.wrong(at, "jwks is missing; name the file or the https URL of the client's public keys")
		case err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != "":
			d.secure(at.to("jwks"), u)
			out.JWKSURL = one.JWKS
		default:
			out.JWKSFile = l.resolve(one.JWKS)
			data, ok := l.read(out.JWKSFile)
			if !ok {
				break
			}
			l.hashed["client "+one.ID] = data
			if keys, err := jose.ParseKeySet(data); err != nil {
				d.wrong(at.to("jwks"), "%v", err)
			} else if len(keys) == 0 {
				d.wrong(at.to("jwks"), "the file has no key that can be used")
			}
		}
		c.Clients = append(c.Clients, out)
	}
}
