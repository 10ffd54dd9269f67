package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/broker"
)

// credentialEntry is a header that a request of ours carries.
type credentialEntry struct {
	Header string `json:"header"`
	Value  string `json:"value"`
}

type targetEntry struct {
	Name        string               `json:"name"`
	Kind        string               `json:"kind"`
	URL         string               `json:"url"`
	Stdio       bool                 `json:"stdio"`
	Credential  *credentialEntry     `json:"credential"`
	Labels      []string             `json:"labels"`
	Facts       factsEntry           `json:"facts"`
	Tools       map[string]toolEntry `json:"tools"`
	Routes      []routeEntry         `json:"routes"`
	Annotations string               `json:"annotations"`
	Observe     *struct {
		Until string `json:"until"`
	} `json:"observe"`
	AdminDSN string               `json:"admin_dsn"`
	Roles    map[string]roleEntry `json:"roles"`
}

type roleEntry struct {
	Grant []string `json:"grant"`
}

type toolEntry struct {
	Labels []string   `json:"labels"`
	Facts  factsEntry `json:"facts"`
	Pin    string     `json:"pin"`
}

type routeEntry struct {
	Action string     `json:"action"`
	Labels []string   `json:"labels"`
	Facts  factsEntry `json:"facts"`
}

// factsEntry is a mapping from arguments to types, or a list of arguments that
// take theirs from the tool's schema.
type factsEntry struct {
	types map[string]string
	names []string
}

func (factsEntry) shapes() []reflect.Type {
	return []reflect.Type{reflect.TypeFor[[]string](), reflect.TypeFor[map[string]string]()}
}

// UnmarshalJSON reads either form.
func (f *factsEntry) UnmarshalJSON(b []byte) error {
	if bytes.HasPrefix(b, []byte("[")) {
		return json.Unmarshal(b, &f.names)
	}
	return json.Unmarshal(b, &f.types)
}

// targetKinds are the kinds this version knows: those that are called, and those
// that lend.
var targetKinds = append([]string{"http", "mcp"}, broker.Kinds...)

var (
	// headerName is a field name (RFC 9110 section 5.1) without the underscore,
	// which some servers take for a dash.
	headerName = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^`|~-]+$")
	// resourceLabel is a label of a target, tool or route.
	resourceLabel = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)
	// toolName is a tool's name that can be told from every other.
	toolName = regexp.MustCompile(`^[A-Za-z0-9._/-]{1,128}$`)
	// definitionHash is base64url SHA-256.
	definitionHash = regexp.MustCompile(`^[A-Za-z0-9_-]{43}$`)
)

// ownHeaders are set by the gateway or by the protocol, so no credential may
// claim them.
var ownHeaders = []string{
	"Host", "Content-Length", "Content-Type", "Content-Encoding", "Transfer-Encoding", "Connection", "Keep-Alive", "Upgrade",
	"Te", "Trailer", "Dpop", "Mayfly-Decision", "Mcp-Session-Id", "Mcp-Protocol-Version", "Accept", "Accept-Encoding",
}

func (l *loader) targets(d *document, f *serverFile, c *Config) {
	c.Targets, c.Lenders = map[string]*mayfly.Target{}, map[string]broker.Target{}
	seen := map[string]bool{}
	for i, t := range f.Targets {
		at := path{"targets", i}
		d.label(at.to("name"), t.Name, seen)
		switch {
		case t.Kind == "":
			d.wrong(at, "kind is missing; known: %s", strings.Join(targetKinds, ", "))
		case !slices.Contains(targetKinds, t.Kind):
			d.unknownKind(at, t.Kind, targetKinds)
		}
		out := &mayfly.Target{Name: t.Name, Kind: t.Kind, URL: t.URL}
		c.Targets[t.Name] = out
		if slices.Contains(broker.Kinds, t.Kind) {
			l.lender(d, at, &t, out, c)
			continue
		}
		if out.Stdio = t.Stdio; t.Stdio {
			d.beside(at, &t)
		} else {
			d.address(at, t.URL)
		}
		for key, there := range map[string]bool{"admin_dsn": t.AdminDSN != "", "roles": t.Roles != nil} {
			if there {
				d.wrong(at.to(key), "is for kind %s", strings.Join(broker.Kinds, " or "))
			}
		}
		if t.Credential != nil {
			out.Credential = l.credential(d, at.to("credential"), t.Credential)
		}
		out.Labels = d.labels(at, t.Labels)
		out.Facts = l.facts.declare(d, at, t.Kind, t.Facts)
		l.tools(d, at, &t, out)
		l.routes(d, at, &t, out)
		l.observe(d, at, &t, out)
		switch t.Annotations {
		case "":
		case "trusted":
			if out.TrustAnnotations = true; t.Kind == "http" {
				d.wrong(at.to("annotations"), "is for kind mcp: an HTTP API gives no tool annotations")
			}
		default:
			d.wrong(at.to("annotations"), "%q is not known; write trusted to let the server's annotations add labels, or leave it out", t.Annotations)
		}
	}
}

// roleName is what a lent role is called in grants.
var roleName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// lender reads a target that lends.
func (l *loader) lender(d *document, at path, t *targetEntry, out *mayfly.Target, c *Config) {
	for key, there := range map[string]bool{
		"url": t.URL != "", "stdio": t.Stdio, "credential": t.Credential != nil, "facts": t.Facts.names != nil || t.Facts.types != nil,
		"tools": t.Tools != nil, "routes": t.Routes != nil, "annotations": t.Annotations != "",
	} {
		if there {
			d.wrong(at.to(key), "is for kind http or mcp; one of kind %s has admin_dsn and roles", t.Kind)
		}
	}
	before := len(d.bad)
	out.Labels = d.labels(at, t.Labels)
	l.observe(d, at, t, out)
	out.Postgres = &mayfly.Postgres{AdminDSN: l.secret(d, at, "admin_dsn", t.AdminDSN), Roles: map[string]mayfly.DatabaseRole{}}
	if len(t.Roles) == 0 {
		d.wrong(at, "roles is missing; say what is lent, such as {reader: {grant: [analytics_read]}}")
	}
	for _, name := range names(t.Roles) {
		if !roleName.MatchString(name) {
			d.wrong(at.to("roles", name), "%+q cannot stand in a grant; use letters, digits, dots, dashes and underscores, at most 64", name)
		}
		out.Postgres.Roles[name] = mayfly.DatabaseRole{Grant: t.Roles[name].Grant}
	}
	if len(d.bad) > before {
		return
	}
	lender, err := broker.New(out)
	if err != nil {
		d.wrong(at, "%v", err)
		return
	}
	c.Lenders[t.Name] = lender
}

// credential reads a credential and the header it goes in.
func (l *loader) credential(d *document, at path, e *credentialEntry) *mayfly.TargetCredential {
	header := http.CanonicalHeaderKey(e.Header)
	switch {
	case e.Header == "":
		d.wrong(at, "header is missing; say where the credential goes, such as Authorization")
	case !headerName.MatchString(e.Header):
		d.wrong(at.to("header"), "%q is not the name of a header", e.Header)
	case slices.Contains(ownHeaders, header) || strings.HasPrefix(header, "Proxy-") || strings.HasPrefix(header, "X-Forwarded-"):
		d.wrong(at.to("header"), "%q is not for credentials", e.Header)
	}
	return &mayfly.TargetCredential{Header: header, Value: l.secret(d, at, "value", e.Value)}
}

// address checks the url at a place: of a server, with nothing secret in it.
func (d *document) address(at path, text string) {
	switch u, err := url.Parse(text); {
	case text == "":
		d.wrong(at, "url is missing")
	case err != nil || u.Hostname() == "":
		d.wrong(at.to("url"), "is not a URL of a server") // it may hold a password
	case u.User != nil:
		d.wrong(at.to("url"), "holds a user or password; name it under credential")
	case u.RawQuery != "" || u.Fragment != "" || u.ForceQuery:
		d.wrong(at.to("url"), "%q has a query or fragment; write scheme, host, port and path", text)
	default:
		d.secure(at.to("url"), u)
	}
}

// beside checks a target whose server runs beside the agent.
func (d *document) beside(at path, t *targetEntry) {
	if t.Kind != "mcp" {
		d.wrong(at.to("stdio"), "is for kind mcp")
	}
	for key, there := range map[string]bool{"url": t.URL != "", "credential": t.Credential != nil} {
		if there {
			d.wrong(at.to(key), "is for a server that is called at an address; with stdio, mayfly mcp runs the server beside the agent")
		}
	}
}

// labels checks the labels at a place.
func (d *document) labels(at path, names []string) []string {
	for i, name := range names {
		switch {
		case !resourceLabel.MatchString(name):
			d.wrong(at.to("labels", i), "%q is not a label; use lower-case letters, digits, dots, dashes and underscores, at most 63, a letter or digit first", name)
		case slices.Contains(names[:i], name):
			d.wrong(at.to("labels", i), "%q is given twice", name)
		}
	}
	return names
}

func (l *loader) tools(d *document, at path, t *targetEntry, out *mayfly.Target) {
	if t.Kind == "http" && t.Tools != nil {
		d.wrong(at.to("tools"), "is for kind mcp; write routes")
		return
	}
	for _, name := range names(t.Tools) {
		tool, at := t.Tools[name], at.to("tools", name)
		if !toolName.MatchString(name) {
			d.wrong(at, "%+q is not a tool's name; use letters, digits, dots, slashes, dashes and underscores, at most 128", name)
		}
		if tool.Pin != "" && !definitionHash.MatchString(tool.Pin) {
			d.wrong(at.to("pin"), "%q is not the hash of a definition: 43 characters, as mayfly pins prints it", tool.Pin)
		}
		if out.Tools == nil {
			out.Tools = map[string]mayfly.Tool{}
		}
		out.Tools[name] = mayfly.Tool{Labels: d.labels(at, tool.Labels), Facts: l.facts.declare(d, at, t.Kind, tool.Facts), Pin: tool.Pin}
	}
}

func (l *loader) routes(d *document, at path, t *targetEntry, out *mayfly.Target) {
	if t.Kind == "mcp" && t.Routes != nil {
		d.wrong(at.to("routes"), "is for kind http; write tools")
		return
	}
	for i, route := range t.Routes {
		at := at.to("routes", i)
		if route.Action == "" {
			d.wrong(at, "action is missing; write METHOD:/path, such as GET:/v1/orders/*")
		} else if _, err := mayfly.ParseGrant("http:t:" + route.Action); err != nil {
			d.wrong(at.to("action"), "%q is not an action of an HTTP API; write METHOD:/path, such as GET:/v1/orders/*", route.Action)
		}
		out.Routes = append(out.Routes, mayfly.Route{
			Action: route.Action, Labels: d.labels(at, route.Labels), Facts: l.facts.declare(d, at, t.Kind, route.Facts),
		})
	}
}

// observe reads until when a target is observed only.
func (l *loader) observe(d *document, at path, t *targetEntry, out *mayfly.Target) {
	if t.Observe == nil {
		return
	}
	at = at.to("observe")
	if t.Observe.Until == "" {
		d.wrong(at, "until is missing; say when refusing begins, such as {until: 2027-01-31}")
		return
	}
	until, err := time.Parse(time.DateOnly, t.Observe.Until)
	if err != nil {
		until, err = time.Parse(time.RFC3339, t.Observe.Until)
	}
	switch {
	case err != nil:
		d.wrong(at.to("until"), "%q is not a day such as 2027-01-31 or a time such as 2027-01-31T12:00:00Z", t.Observe.Until)
	case !until.After(l.now):
		l.warn = append(l.warn, d.name+": target "+t.Name+": observe is over since "+t.Observe.Until+": policies and approvals refuse again; remove it")
	default:
		l.warn = append(l.warn, d.name+": target "+t.Name+": observed until "+t.Observe.Until+": policies and approvals refuse nothing there, what they would refuse is only recorded")
	}
	out.ObserveUntil = until
}

// observers refuses to observe a target that a profile of risk high can reach.
func observers(d *document, f *serverFile, c *Config) {
	for i, t := range f.Targets {
		if t.Observe == nil {
			continue
		}
		for _, name := range names(c.Profiles) {
			p := c.Profiles[name]
			if p.Risk == mayfly.RiskHigh && slices.ContainsFunc(p.Grants, func(g mayfly.Grant) bool { return g.Target == t.Name }) {
				d.wrong(path{"targets", i, "observe"}, "the profile %s can reach this target and has risk: high; what it does is refused or allowed, never only observed", name)
			}
		}
	}
}
