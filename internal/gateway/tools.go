package gateway

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"io"
	"maps"
	"net/http"
	"sync"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/authority"
)

// catalogue is what this node knows of how MCP servers define their tools now: a
// call is held to the definition that its tool is pinned to. It learns from
// every list that passes, and where that is not enough asks the server itself.
type catalogue struct {
	mu      sync.Mutex // guards the map
	targets map[string]*listing
}

// listing is the tools of one target.
type listing struct {
	target *mayfly.Target
	asking chan struct{} // held by whoever asks the server

	mu    sync.Mutex // guards the fields below
	tools map[string]known
	read  time.Time // when the whole list was read last
	stale bool      // the server said since that the list changed
}

// known is a definition, and the hash of the bytes it was read from: most lists
// say what the one before said, and reading them again is most of the work.
type known struct {
	raw [sha256.Size]byte
	def authority.Definition
	at  time.Time
}

const (
	// definedFor is how long a call is decided on a definition that was not seen
	// again. A server that changes a tool between is believed for this long.
	definedFor = time.Minute
	// unlistedFor is how long a tool that a list does not have is not looked for
	// again: an agent that makes up names must not make the server list its tools
	// each time.
	unlistedFor = 5 * time.Second
	listWithin  = 10 * time.Second
	maxPages    = 10
	maxTools    = 2000 // of one server
	// maxDefinition is the longest definition of a tool, in bytes: each is kept for
	// a person to compare. A tool with a longer one is not there.
	maxDefinition = 64 << 10
)

func (c *catalogue) of(target *mayfly.Target) *listing {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.targets[target.Name]
	if l == nil || l.target != target && l.target.URL != target.URL {
		l = &listing{target: target, asking: make(chan struct{}, 1), tools: map[string]known{}}
		if c.targets == nil {
			c.targets = map[string]*listing{}
		}
		c.targets[target.Name] = l
	}
	return l
}

// changed notes that a target says its list of tools is another now.
func (c *catalogue) changed(target *mayfly.Target) {
	l := c.of(target)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stale = true
}

// learn reads definitions as a list has them, by the names of their tools.
func (l *listing) learn(listed []jsontext.Value, names []string, now time.Time) ([]authority.Definition, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	defs := make([]authority.Definition, len(listed))
	for i, tool := range listed {
		raw := sha256.Sum256(tool)
		k, ok := l.tools[names[i]]
		if !ok || k.raw != raw {
			def, err := define(names[i], tool)
			if err != nil {
				return nil, err
			}
			k = known{raw: raw, def: def}
		}
		k.at = now
		if !ok && len(l.tools) >= maxTools {
			// A server may have other tools for each session: forget those that
			// were not listed for a while.
			maps.DeleteFunc(l.tools, func(_ string, k known) bool { return now.Sub(k.at) > definedFor })
			if len(l.tools) >= maxTools {
				return nil, tooManyTools()
			}
		}
		l.tools[names[i]] = k
		defs[i] = k.def
	}
	return defs, nil
}

// define reads one definition: all of it counts, in canonical form (RFC 8785).
func define(name string, tool jsontext.Value) (authority.Definition, error) {
	canonical := tool.Clone()
	if err := canonical.Canonicalize(); err != nil {
		return authority.Definition{}, mayfly.Errorf(mayfly.BadUpstream, "the target's list of tools is not JSON that every parser reads alike").Because(err)
	}
	labels, types, err := mayfly.ReadDefinition(canonical)
	if err != nil {
		// What is defined in another form than the protocol's says nothing to
		// policies; it is pinned like any other.
		labels, types = nil, nil
	}
	sum := sha256.Sum256(canonical)
	return authority.Definition{
		Tool: name, Hash: base64.RawURLEncoding.EncodeToString(sum[:]), JSON: canonical, Labels: labels, Types: types,
	}, nil
}

// whole notes that the whole list was read at now: a tool that was not in it is
// gone.
func (l *listing) whole(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.read, l.stale = now, false
	for name, k := range l.tools {
		if k.at.Before(now) {
			delete(l.tools, name)
		}
	}
}

// get is the definition of a tool, or NotListed; ok is false where the server
// must be asked first.
func (l *listing) get(tool string, now time.Time) (hash string, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k, listed := l.tools[tool]
	switch {
	case l.stale:
		return "", false
	case listed:
		return k.def.Hash, now.Sub(k.at) < definedFor
	default:
		return authority.NotListed, !l.read.IsZero() && now.Sub(l.read) < unlistedFor
	}
}

// definition is how m's tool is defined now, asking the server where this node
// does not know. Whoever asks shows authority what came back before anything is
// decided on it.
func (g *Gateway) definition(ctx context.Context, x *request, m *message, session string) (string, error) {
	l := g.tools.of(x.target)
	if hash, ok := l.get(m.tool, time.Now()); ok {
		return hash, nil
	}
	select {
	case l.asking <- struct{}{}:
		defer func() { <-l.asking }()
	case <-ctx.Done():
		return "", failure(ctx, ctx.Err())
	}
	if hash, ok := l.get(m.tool, time.Now()); ok { // somebody else has asked meanwhile
		return hash, nil
	}
	if err := g.askForTools(ctx, x, m, session, l); err != nil {
		return "", err
	}
	hash, ok := l.get(m.tool, time.Now())
	if !ok {
		return "", mayfly.Errorf(mayfly.Unavailable, "the target changes its list of tools while it is read; send the call again")
	}
	return hash, nil
}

// askForTools reads the whole list of a target, page by page, in the era and the
// session of m.
func (g *Gateway) askForTools(ctx context.Context, x *request, m *message, session string, l *listing) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	limit := time.AfterFunc(listWithin, func() { cancel(context.DeadlineExceeded) })
	defer limit.Stop()
	began := time.Now()
	cursor := jsontext.Value(nil)
	for range maxPages {
		result, err := g.listPage(ctx, cancel, x, m, session, cursor)
		if err != nil {
			return err
		}
		var tools jsontext.Value
		cursor = nil
		members(result, func(name []byte, v jsontext.Value) {
			switch string(name) {
			case "tools":
				tools = v
			case "nextCursor":
				cursor = v
			}
		})
		if tools != nil {
			listed, names, err := listTools(tools)
			if err != nil {
				return err
			}
			defs, err := l.learn(listed, names, time.Now())
			if err != nil {
				return err
			}
			if _, err := g.authority.Tools(ctx, x.target, defs); err != nil {
				return err
			}
		}
		if cursor.Kind() != '"' {
			l.whole(began)
			return nil
		}
	}
	return tooManyTools()
}

func tooManyTools() *mayfly.Error {
	return mayfly.Errorf(mayfly.BadUpstream, "the target lists more than %d tools, or on more than %d pages; nothing of it can be called", maxTools, maxPages)
}

// listID begins the ids of the gateway's own requests for a list.
const listID = "mayfly-tools-"

// listPage asks for one page of a target's list. A server that knows no tools
// says so with an error, and has none.
func (g *Gateway) listPage(ctx context.Context, cancel context.CancelCauseFunc, x *request, m *message, session string, cursor jsontext.Value) (jsontext.Value, error) {
	id := jsontext.Value(`"` + listID + rand.Text() + `"`)
	params := jsontext.Value("{}")
	if m.modern {
		meta := withMember(jsontext.Value("{}"), metaVersion, jsontext.Value(`"`+modernVersion+`"`))
		params = withMember(params, "_meta", withMember(meta, metaCapabilities, jsontext.Value("{}")))
	}
	if cursor != nil {
		params = withMember(params, "cursor", cursor)
	}
	own := &message{id: id, method: methodListTools, params: params, modern: m.modern}
	body, err := own.encode()
	if err != nil {
		return nil, err
	}
	out, err := mcpRequest(http.MethodPost, x.target, session, body)
	if err != nil {
		return nil, err
	}
	own.mirror(out.Header, x.r.Header)
	resp, _, err := g.send(ctx, cancel, x.target, out, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotFound && session != "" {
		return nil, sessionOver()
	}
	e, err := ownAnswer(ctx, resp, id)
	if err != nil {
		return nil, err
	}
	if e.result.Kind() != '{' {
		return jsontext.Value("{}"), nil
	}
	return e.result, nil
}

// ownAnswer reads the response to a request of the gateway's own.
func ownAnswer(ctx context.Context, resp *http.Response, id jsontext.Value) (envelope, error) {
	unreadable := func(err error) (envelope, error) {
		return envelope{}, mayfly.Errorf(mayfly.BadUpstream, "the target did not say which tools it has (status %d)", resp.StatusCode).Because(err)
	}
	if mediaType(resp.Header) != "text/event-stream" {
		body, err := readAnswer(ctx, resp)
		if err != nil {
			return unreadable(err)
		}
		e, err := parseEnvelope(body)
		if err != nil || e.result == nil && e.err == nil || !sameID(e.id, id) && e.err == nil {
			return unreadable(errors.Join(err, errors.New("not a response to this request")))
		}
		return e, nil
	}
	for events := newEventReader(io.LimitReader(resp.Body, maxAnswer)); ; {
		in, err := events.next()
		if err != nil {
			return unreadable(err)
		}
		if e, err := parseEnvelope(in.data); err == nil && sameID(e.id, id) && (e.result != nil || e.err != nil) {
			return envelope{id: e.id, result: e.result.Clone(), err: e.err.Clone()}, nil
		}
	}
}

// shown says which of a list of tools that passes may be shown, as far as their
// definitions go.
func (g *Gateway) shown(ctx context.Context, target *mayfly.Target, listed []jsontext.Value, names []string) ([]bool, error) {
	defs, err := g.tools.of(target).learn(listed, names, time.Now())
	if err != nil {
		return nil, err
	}
	return g.authority.Tools(ctx, target, defs)
}
