// Package attest turns evidence into a [Caller]: a token of an OpenID provider,
// the kernel's word about the other end of a socket, or an OAuth client's
// signed assertion. It owns the sources' rules (whose word is taken, about what
// kind of subject, under which names) and the fetching of their keys; it
// decides nothing, writes nothing, and does not know the tokens Mayfly itself
// issues. Start reading at [Sources.Token].
package attest

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/jose"
)

// Source is somebody whose word is taken about who a caller is.
type Source struct {
	Name string
	Kind string // "oidc" or "unix"

	// Of kind oidc. A token belongs to the source whose issuer and audience it
	// names, byte for byte.
	Issuer    string
	Audience  string
	Operators string             // audience of tokens no agent is handed; "" is none. Humans only
	Subject   mayfly.SubjectKind // Human, Service or Workload: the only kind it ever gives

	ClaimID      string // claim with the id; "" is sub
	ClaimGroups  string // claim with the groups; "" is none
	EmailAssumed bool   // with ClaimID email: a token that is silent about email_verified will do
	Prefix       string // before every id and group
	Loopback     bool   // the issuer is on this machine and may be http://

	// SignIn has it sign humans in to the console, by the OAuth client that is
	// called as Operators is; at most one source does. Secret is the client's, zero
	// of a public client; Scopes are asked for beside openid.
	SignIn bool
	Secret mayfly.Secret
	Scopes []string

	// Match are claims every caller of this source must have, exactly or with
	// one trailing "*". Of both kinds; a unix source has uid, gid, user and sub.
	Match map[string]string
}

// Client is an OAuth client that authenticates with a key (private_key_jwt).
type Client struct {
	ID       string
	JWKSFile string // its public keys; this or JWKSURL
	JWKSURL  string
	Audience string // of the tokens it may introspect; not used here
}

// Options are what sources share.
type Options struct {
	Issuer  string           // our own: the audience of client assertions
	Now     func() time.Time // nil is time.Now
	Logger  *slog.Logger     // says why keys could not be fetched; nil is silent
	RootCAs *x509.CertPool   // for sources' certificates; nil is the system's
	// Earlier are the sources this configuration replaces. The keys they
	// fetched are kept where the issuer stayed, so that a reload during an
	// outage of an identity provider locks nobody out.
	Earlier *Sources
}

// Sources is every source and client of one configuration. It is safe for
// concurrent use and never changes: a reload makes another.
type Sources struct {
	issuer  string
	now     func() time.Time
	names   map[string]*Source
	accepts map[accept]*source
	unix    *Source
	signIn  *Source // nil where humans sign in nowhere
	fetcher *fetcher
	clients map[string]*keys
	keys    map[string]*keys // by what they are fetched from
	seen    *seen

	fetches *fetches
}

// fetches are the goroutines of one Sources: none begins after its end.
type fetches struct {
	ctx  context.Context
	stop context.CancelFunc

	mu sync.Mutex // so that no Add comes after Wait
	wg sync.WaitGroup
}

// begin runs f unless it is over, and reports whether it does.
func (f *fetches) begin(run func(context.Context)) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ctx.Err() != nil {
		return false
	}
	f.wg.Go(func() { run(f.ctx) })
	return true
}

// accept is what a token must name to belong to a source.
type accept struct{ issuer, audience string }

// source is an OIDC source in use.
type source struct {
	Source
	keys     *keys
	prefixes []string // of the other sources
	operator bool     // reached by its operators' audience
}

// New makes the sources of a configuration. It reads the key files of clients
// and fetches nothing: a provider that is down does not keep a server from
// starting. The error is of kind Invalid and names the source or client.
func New(list []Source, clients []Client, o Options) (*Sources, error) {
	ctx, stop := context.WithCancel(context.Background())
	s := &Sources{
		issuer:  o.Issuer,
		now:     o.Now,
		names:   map[string]*Source{},
		accepts: map[accept]*source{},
		clients: map[string]*keys{},
		keys:    map[string]*keys{},
		seen:    newSeen(),
		fetches: &fetches{ctx: ctx, stop: stop},
	}
	if s.now == nil {
		s.now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	f := &fetcher{roots: o.RootCAs}
	s.fetcher = f
	for i := range list {
		if err := s.add(f, o, list, i); err != nil {
			stop()
			return nil, err
		}
	}
	for _, c := range clients {
		if err := s.addClient(f, o, c); err != nil {
			stop()
			return nil, err
		}
	}
	return s, nil
}

func (s *Sources) add(f *fetcher, o Options, list []Source, i int) error {
	one := list[i]
	wrong := func(format string, args ...any) error {
		return mayfly.Errorf(mayfly.Invalid, "source %q: %s", one.Name, fmt.Sprintf(format, args...))
	}
	switch {
	case one.Name == "" || strings.ContainsAny(one.Name, "/: "):
		return wrong("a source needs a name without slash, colon or space")
	case s.names[one.Name] != nil:
		return wrong("the name is taken")
	}
	s.names[one.Name] = &one
	if one.Kind == "unix" {
		if s.unix != nil {
			return wrong("source %q is of kind unix already; there is one kernel", s.unix.Name)
		}
		s.unix = &one
		return nil
	}
	if one.Kind != "oidc" {
		return wrong("kind %q is not known; known: oidc, unix", one.Kind)
	}
	switch {
	case one.Subject != mayfly.Human && one.Subject != mayfly.Service && one.Subject != mayfly.Workload:
		return wrong("subject %q is not human, service or workload", one.Subject)
	case one.Audience == "":
		return wrong("it needs an audience, or a token made for somebody else would be accepted")
	case one.Operators != "" && one.Subject != mayfly.Human:
		return wrong("operators are humans")
	case one.SignIn && one.Operators == "":
		return wrong("humans sign in as its operators; name that audience, which is the OAuth client of the console")
	case one.SignIn && s.signIn != nil:
		return wrong("humans sign in by source %q already", s.signIn.Name)
	case one.Operators == one.Audience:
		return wrong("agents are handed tokens for its audience; operators need another")
	}
	use := &source{Source: one}
	for j, other := range list {
		switch {
		case j == i || other.Kind != "oidc":
		case one.Prefix == "" && other.Subject == one.Subject:
			return wrong("source %q names the same kind of subject; each needs a prefix", other.Name)
		case other.Prefix == "":
		case one.Prefix != "" && (strings.HasPrefix(one.Prefix, other.Prefix) || strings.HasPrefix(other.Prefix, one.Prefix)):
			return wrong("its prefix and that of source %q begin alike", other.Name)
		default:
			use.prefixes = append(use.prefixes, other.Prefix)
		}
	}
	from, err := parseIssuer(one.Issuer, one.Loopback)
	if err != nil {
		return wrong("%v", err)
	}
	if one.SignIn {
		s.signIn = &one
	}
	use.keys = s.keysOf(o, one.Issuer, func(ctx context.Context) (jose.KeySet, error) { return f.discover(ctx, from, one.Issuer) })
	if err := s.accept(accept{one.Issuer, one.Audience}, use); err != nil || one.Operators == "" {
		return err
	}
	operators := *use
	operators.operator = true
	return s.accept(accept{one.Issuer, one.Operators}, &operators)
}

func (s *Sources) accept(a accept, by *source) error {
	if other := s.accepts[a]; other != nil {
		return mayfly.Errorf(mayfly.Invalid, "source %q: a token of issuer %q for %q would be source %q's as well", by.Name, a.issuer, a.audience, other.Name)
	}
	s.accepts[a] = by
	return nil
}

func (s *Sources) addClient(f *fetcher, o Options, c Client) error {
	wrong := func(format string, args ...any) error {
		return mayfly.Errorf(mayfly.Invalid, "client %q: %s", c.ID, fmt.Sprintf(format, args...))
	}
	switch {
	case o.Issuer == "":
		return wrong("our own issuer must be known")
	case c.ID == "" || strings.HasPrefix(c.ID, "service:") || strings.HasPrefix(c.ID, "spiffe:"):
		return wrong("a client needs an id that looks like no other kind's")
	case s.clients[c.ID] != nil:
		return wrong("the id is taken")
	case (c.JWKSFile == "") == (c.JWKSURL == ""):
		return wrong("name the file or the URL of its public keys, one of them")
	}
	if c.JWKSURL != "" {
		u, err := url.Parse(c.JWKSURL)
		if err != nil {
			return wrong("%q is no URL", c.JWKSURL)
		}
		from, err := parseIssuer(c.JWKSURL, u.Scheme == "http")
		if err != nil {
			return wrong("%v", err)
		}
		s.clients[c.ID] = s.keysOf(o, "jwks "+c.JWKSURL, func(ctx context.Context) (jose.KeySet, error) {
			return f.keySet(ctx, from, from.url)
		})
		return nil
	}
	data, err := os.ReadFile(c.JWKSFile)
	if err != nil {
		return wrong("its keys cannot be read: %v", err)
	}
	set, err := jose.ParseKeySet(data)
	if err != nil {
		return wrong("%v", err)
	}
	s.clients[c.ID] = fixedKeys(set)
	return nil
}

// Close ends fetches under way and waits for them. What needs a fetch after
// that fails; nothing else changes.
func (s *Sources) Close() {
	s.fetches.mu.Lock()
	s.fetches.stop()
	s.fetches.mu.Unlock()
	s.fetches.wg.Wait()
}

// Known reports whether a source of this name is configured.
func (s *Sources) Known(name string) bool { return s.names[name] != nil }

// Use is what a token is presented as.
type Use int

// The uses. The zero Use accepts nothing.
const (
	_          Use = iota
	ForSubject     // subject_token: whose authority is handed over
	ForActor       // actor_token: who the agent is
	ForAPI         // Authorization at our API
)

// Token verifies a token of an OIDC source and says whose it is. The token's
// issuer and audience choose the source, and the source alone decides what kind
// of subject it is. A token for a source's operators is good [ForAPI] only.
//
// A token that is refused is an error of kind Invalid with code invalid_request
// for a subject or an actor (RFC 8693 section 2.2.2), and of kind
// Unauthenticated with code invalid_token for the API (RFC 6750 section 3.1).
// It is Unavailable where the source's keys cannot be had: nothing was decided
// about the token.
func (s *Sources) Token(ctx context.Context, text string, use Use) (Caller, error) {
	c, err := s.token(ctx, text)
	if err == nil {
		err = c.fits(use)
	}
	if err != nil {
		return Caller{}, use.refuse(err)
	}
	return c, nil
}

// fits checks what depends on where a verified token is presented.
func (c Caller) fits(use Use) error {
	switch {
	case use != ForSubject && use != ForActor && use != ForAPI:
		return refuse("it was presented as nothing that is known here")
	case c.v.operator && use != ForAPI:
		return refuse("it is made for an operator's own hands (aud); use one for the source's other audience")
	case c.v.key != "" && use == ForAPI:
		// RFC 9449 section 7.1: a bound token without its proof is a stolen one.
		return refuse("it is bound to a key (cnf), which cannot be proven here; use one that is not")
	}
	return nil
}

// refuse words an error for where the token was presented.
func (use Use) refuse(err error) error {
	e := mayfly.AsError(err)
	if e.Kind != mayfly.Unauthenticated {
		return err
	}
	switch use {
	case ForSubject:
		return mayfly.Coded(mayfly.Invalid, "invalid_request", "the subject token is not accepted: %s", e.Message).Because(err)
	case ForActor:
		return mayfly.Coded(mayfly.Invalid, "invalid_request", "the actor token is not accepted: %s", e.Message).Because(err)
	}
	return mayfly.Coded(mayfly.Unauthenticated, "invalid_token", "the token is not accepted: %s", e.Message).Because(err)
}

// refuse is why evidence is not believed; where it was presented is added by
// whoever knows.
func refuse(format string, args ...any) *mayfly.Error {
	return mayfly.Errorf(mayfly.Unauthenticated, format, args...)
}
