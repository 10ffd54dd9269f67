package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/attest"
	"github.com/mayfly-id/mayfly/internal/authority"
	"github.com/mayfly-id/mayfly/internal/broker"
	"github.com/mayfly-id/mayfly/internal/policy"
	"github.com/mayfly-id/mayfly/internal/server"
	"github.com/mayfly-id/mayfly/internal/signals"
	"github.com/mayfly-id/mayfly/internal/strictjson"
	"github.com/mayfly-id/mayfly/internal/witness"
)

// Config is the whole configuration, read and checked: mayfly.yaml, the
// profiles, the policies, and the secrets they name. It does not change; a
// reload loads another.
type Config struct {
	Path  string   // of mayfly.yaml
	Files []string // everything that was read: when one changes, load again

	// Hash names what decides: trust domain, issuer, hosts, audiences, sources
	// and clients (with their key files), targets, profiles and policies, each
	// in canonical form. Where this process listens and stores is not part of
	// it, so the nodes of one installation agree.
	Hash string

	TrustDomain    string
	Issuer         string // exact, no trailing slash
	Listen         Listen
	TLS            *TLS // nil without
	TrustedProxies []netip.Prefix
	Hosts          []string
	Audiences      []string
	Store          string        // sqlite:///… or postgres://…
	Limits         server.Limits // of the public listener
	Witnesses      witness.Policy
	Exports        []signals.Export

	Sources  []attest.Source
	Clients  []attest.Client
	Targets  map[string]*mayfly.Target
	Lenders  map[string]broker.Target // those of Targets that lend
	Profiles map[string]*mayfly.Profile
	Policies *policy.Set
	// PolicyFiles are the texts of Policies, by file name.
	PolicyFiles map[string][]byte
	// ProfileFiles are the texts of Profiles, by the name of the profile.
	ProfileFiles map[string][]byte
	Schema       policy.Schema // that Policies are held to
	Webhooks     []authority.Webhook

	Warnings []string // not wrong, but worth a look

	seal mayfly.Secret // 32 bytes
}

// Listen is where the server listens.
type Listen struct {
	Public string // host:port
	Admin  string // path of the Unix socket; "" without
	// Metrics is the loopback address that metrics are served on; "" without.
	Metrics string
}

// TLS names the certificate of the public listener.
type TLS struct{ Cert, Key string }

// Seal is the key under which private keys and names are sealed at rest.
func (c *Config) Seal() [32]byte { return [32]byte([]byte(c.seal.Reveal())) }

// Bundle is the part of c that decides, with sources made of c.Sources and
// c.Clients.
func (c *Config) Bundle(sources *attest.Sources) *authority.Bundle {
	clients := map[string]authority.ClientInfo{}
	for _, one := range c.Clients {
		clients[one.ID] = authority.ClientInfo{Audience: one.Audience}
	}
	return &authority.Bundle{
		Hash:         c.Hash,
		TrustDomain:  c.TrustDomain,
		Issuer:       c.Issuer,
		Hosts:        c.Hosts,
		Audiences:    c.Audiences,
		Profiles:     c.Profiles,
		Targets:      c.Targets,
		Lenders:      c.Lenders,
		Sources:      sources,
		Policies:     c.Policies,
		PolicyFiles:  c.PolicyFiles,
		ProfileFiles: c.ProfileFiles,
		Schema:       c.Schema,
		Webhooks:     c.Webhooks,
		Clients:      clients,
	}
}

// Load reads the configuration that begins at path. Its error is a [problems]
// with everything that is wrong, not only the first.
func Load(path string) (*Config, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, problems{{File: path, Message: err.Error()}}
	}
	l := &loader{dir: filepath.Dir(abs), shown: filepath.Dir(path), now: time.Now()}
	c := l.load(abs)
	if len(l.bad) > 0 {
		slices.SortStableFunc(l.bad, func(a, b problem) int {
			if a.File != b.File {
				return strings.Compare(a.File, b.File)
			}
			return a.Line - b.Line
		})
		return nil, l.bad
	}
	return c, nil
}

// loader gathers what Load finds.
type loader struct {
	dir   string // of mayfly.yaml; relative names start here
	shown string // dir as the user wrote it, for messages
	now   time.Time
	bad   problems
	files []string
	warn  []string
	facts facts
	// hashed is what the bundle's hash covers, by name.
	hashed map[string][]byte
}

func (l *loader) load(path string) *Config {
	l.hashed = map[string][]byte{}
	l.facts = facts{declared: map[string]declaration{}, untyped: map[string]string{}}
	d := l.document(path)
	if d == nil {
		return nil
	}
	var f serverFile
	if !d.into(&f) {
		// The profiles can still be read; what they name cannot be checked.
		l.bad = append(l.bad, d.bad...)
		for _, p := range l.profileFiles("") {
			if pd := l.document(p); pd != nil {
				pd.into(&profileFile{})
				l.bad = append(l.bad, pd.bad...)
			}
		}
		return nil
	}
	c := &Config{Path: path}
	l.server(d, &f, c)
	l.profiles(&f, c)
	observers(d, &f, c)
	l.bad = append(l.bad, d.bad...)
	var warn []string
	c.Schema, warn = l.facts.spread(c)
	l.warn = append(l.warn, warn...)
	l.policies(f.Policies, c)
	c.Files, c.Warnings, c.Hash = l.files, l.warn, l.hash(d)
	return c
}

// configLimit is the most that is read of one file, in bytes.
const configLimit = 1 << 20

// configLimits are those of a file of the configuration: the operator's own
// words, of which there may be many.
var configLimits = strictjson.Limits{Bytes: 2 * configLimit, Depth: 32, Name: 256}

// read is a file of the configuration; what is wrong with it is recorded.
func (l *loader) read(path string) ([]byte, bool) {
	l.files = append(l.files, path)
	info, err := os.Stat(path)
	if err == nil && info.Size() > configLimit {
		l.add(path, "the file is longer than %d bytes", configLimit)
		return nil, false
	}
	var data []byte
	if err == nil {
		data, err = os.ReadFile(path)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		l.add(path, "there is no such file")
	case err != nil:
		l.add(path, "%v", unwrapPath(err))
	}
	return data, err == nil
}

// unwrapPath is err without the path, which is already shown.
func unwrapPath(err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err
	}
	return err
}

func (l *loader) document(path string) *document {
	src, ok := l.read(path)
	if !ok {
		return nil
	}
	return parseYAML(l.show(path), src)
}

// show is path as the user would write it.
func (l *loader) show(path string) string {
	if rel, err := filepath.Rel(l.dir, path); err == nil && filepath.IsLocal(rel) {
		return filepath.Join(l.shown, rel)
	}
	return path
}

func (l *loader) add(path, format string, args ...any) {
	d := document{name: l.show(path)}
	d.add(0, 0, format, args...)
	l.bad = append(l.bad, d.bad...)
}

// resolve is a file name of the configuration: relative ones start at
// mayfly.yaml's folder.
func (l *loader) resolve(name string) string {
	if filepath.IsAbs(name) {
		return filepath.Clean(name)
	}
	return filepath.Join(l.dir, name)
}

// folder lists the files of a folder that end in ext. Anything that looks as if
// it was meant to be read and would not be is recorded.
func (l *loader) folder(name, fallback, ext string, near ...string) []string {
	given := name != ""
	if !given {
		name = fallback
	}
	dir := l.resolve(name)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) && !given {
		return nil
	}
	if err != nil {
		l.add(dir, "the folder cannot be read: %v", unwrapPath(err))
		return nil
	}
	l.files = append(l.files, dir)
	var files []string
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch {
		case strings.HasPrefix(e.Name(), "."):
		case e.IsDir():
			l.add(path, "a folder in %s is not read; move its files up, or the folder away", name)
		case filepath.Ext(e.Name()) == ext:
			files = append(files, path)
		case slices.Contains(near, filepath.Ext(e.Name())):
			l.add(path, "only files that end in %s are read here; rename it, or move it away", ext)
		}
	}
	return files
}

func (l *loader) profileFiles(name string) []string {
	return l.folder(name, "profiles", ".yaml", ".yml", ".json")
}

// policies reads every policies/*.cedar into c.
func (l *loader) policies(name string, c *Config) {
	c.PolicyFiles = map[string][]byte{}
	paths := map[string]string{}
	for _, path := range l.folder(name, "policies", ".cedar") {
		if src, ok := l.read(path); ok {
			c.PolicyFiles[filepath.Base(path)] = src
			paths[filepath.Base(path)] = path
			l.hashed["policy "+filepath.Base(path)] = src
		}
	}
	set, err := policy.Parse(c.PolicyFiles, c.Schema)
	if err != nil {
		// One file at a time, so that every broken one is named.
		before := len(l.bad)
		for base, src := range c.PolicyFiles {
			if _, err := policy.Parse(map[string][]byte{base: src}, c.Schema); err != nil {
				l.bad = append(l.bad, cedarProblem(l.show(paths[base]), base, err))
			}
		}
		if len(l.bad) == before {
			// Each is right by itself: two of them do not go together.
			base, _, _ := strings.Cut(err.Error(), ":")
			l.bad = append(l.bad, cedarProblem(l.show(or(paths[base], l.resolve(or(name, "policies")))), base, err))
		}
		return
	}
	c.Policies = set
}

// cedarProblem moves the place that begins an error of policy.Parse, file:line
// or file:line:column, into the problem.
func cedarProblem(shown, base string, err error) problem {
	p := problem{File: shown, Message: err.Error()}
	rest, ok := strings.CutPrefix(p.Message, base+":")
	if !ok {
		return p
	}
	p.Message = strings.TrimSpace(rest)
	for _, field := range []*int{&p.Line, &p.Column} {
		digits := len(p.Message) - len(strings.TrimLeft(p.Message, "0123456789"))
		if digits == 0 || digits > 9 || !strings.HasPrefix(p.Message[digits:], ":") {
			break
		}
		for _, c := range p.Message[:digits] {
			*field = *field*10 + int(c-'0')
		}
		p.Message = strings.TrimSpace(p.Message[digits+1:])
	}
	return p
}

// notHashed are the keys of mayfly.yaml that say where this process stands, not
// what it decides.
var notHashed = []string{"listen", "store", "keys", "tls", "trusted_proxies", "limits", "approvals", "log", "profiles", "policies"}

// hash is the bundle's: SHA-256 over each part's name and SHA-256, by name.
// Secrets are in it only as the text that names them.
func (l *loader) hash(d *document) string {
	server := &node{kind: object}
	for _, m := range d.root.members {
		if !slices.Contains(notHashed, m.name) {
			server.members = append(server.members, m)
		}
	}
	l.hashed["mayfly.yaml"] = l.canonical(d.name, server)
	names := make([]string, 0, len(l.hashed))
	for name := range l.hashed {
		names = append(names, name)
	}
	slices.Sort(names)
	all := sha256.New()
	for _, name := range names {
		part := sha256.Sum256(l.hashed[name])
		all.Write([]byte(name + "\n" + hex.EncodeToString(part[:]) + "\n"))
	}
	return hex.EncodeToString(all.Sum(nil))
}

func (l *loader) canonical(name string, n *node) []byte {
	text, err := strictjson.Canonical(n.json(), configLimits)
	if err != nil {
		l.bad = append(l.bad, problem{File: name, Message: err.Error()})
	}
	return text
}
