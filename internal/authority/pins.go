package authority

import (
	"context"
	"sync"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/store"
)

// Definition is one tool as its server defines it now.
type Definition struct {
	Tool   string
	Hash   string // base64url SHA-256 of JSON
	JSON   []byte // canonical (RFC 8785)
	Labels []string
	Types  map[string]mayfly.FactType
}

// NotListed is the Definition of a call to a tool that its server does not list.
const NotListed = "not-listed"

// firstSight pins a tool as it was when it was first seen.
const firstSight = "first-sight"

// byConfiguration pins a tool as the configuration says.
const byConfiguration = "configuration"

// pins is what this node remembers of pinned tools. An epoch change makes it
// read them again; one that is not there is asked for.
type pins struct {
	mu     sync.Mutex // guards the fields below
	known  map[toolName]*mayfly.Pin
	warned map[toolName]string // the definition a change was last recorded of, where no pin holds it
}

type toolName struct{ target, tool string }

// readPins reads every pin anew.
func (a *Authority) readPins(ctx context.Context) error {
	list, err := a.db.Pins(ctx)
	if err != nil {
		return err
	}
	known := make(map[toolName]*mayfly.Pin, len(list))
	for i := range list {
		known[toolName{list[i].Target, list[i].Tool}] = &list[i]
	}
	a.pins.mu.Lock()
	defer a.pins.mu.Unlock()
	a.pins.known = known
	return nil
}

func (p *pins) get(n toolName) *mayfly.Pin {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.known[n]
}

// of is how many tools of a target are pinned.
func (p *pins) of(target string) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for name := range p.known {
		if name.target == target {
			n++
		}
	}
	return n
}

func (p *pins) put(pin *mayfly.Pin) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.known[toolName{pin.Target, pin.Tool}] = pin
}

// pinFor is the pin that a call is held to; nil where there is nothing to hold
// it to. A call whose tool is defined in a way that nobody has pinned is held to
// a pin that nothing fits.
func (a *Authority) pinFor(target *mayfly.Target, c *mayfly.Call) *mayfly.Pin {
	if c.Kind != "mcp" {
		return nil
	}
	pin := a.pins.get(toolName{c.Target, c.Action})
	if target != nil {
		if set := target.Tools[c.Action].Pin; set != "" && (pin == nil || pin.Hash != set) {
			return &mayfly.Pin{Target: c.Target, Tool: c.Action, Hash: set, By: byConfiguration}
		}
	}
	if pin == nil && c.Definition != "" {
		return &mayfly.Pin{Target: c.Target, Tool: c.Action}
	}
	return pin
}

// Tools is told how a target defines its tools now, and says which of them may
// be shown and called. A tool that was never seen is pinned as it is; one that
// has changed is hidden, recorded, and refused on every node until the pinned
// definition comes back or the new one is accepted.
func (a *Authority) Tools(ctx context.Context, target *mayfly.Target, defs []Definition) ([]bool, error) {
	shown := make([]bool, len(defs))
	for i := range defs {
		var err error
		if shown[i], err = a.tool(ctx, target, &defs[i]); err != nil {
			return nil, err
		}
	}
	return shown, nil
}

func (a *Authority) tool(ctx context.Context, target *mayfly.Target, d *Definition) (bool, error) {
	name := toolName{target.Name, d.Tool}
	set := target.Tools[d.Tool].Pin
	pin := a.pins.get(name)
	if pin != nil && pin.Hash == d.Hash && pin.Changed == "" {
		return set == "" || set == d.Hash, nil
	}
	if pin == nil {
		if set != "" && set != d.Hash {
			return false, a.warnOfTool(ctx, name, set, d.Hash)
		}
		var err error
		if pin, err = a.pinFirst(ctx, name, d, set != ""); err != nil {
			return false, err
		}
	}
	switch {
	case set != "" && set != d.Hash:
		return false, a.changed(ctx, pin, d)
	case pin.Hash == d.Hash && a.lately(pin):
		return false, nil // a server that goes back and forth is not believed at once
	case pin.Hash == d.Hash:
		return true, a.unchanged(ctx, pin)
	case set == d.Hash:
		// The configuration pins what the server says now: that is its acceptance.
		if err := a.note(ctx, pin, d); err != nil {
			return false, err
		}
		_, err := a.acceptPin(ctx, name, d.Hash, byConfiguration)
		return err == nil, err
	default:
		return false, a.changed(ctx, pin, d)
	}
}

// maxPins is how many tools of one target are ever pinned: a server that makes up
// new names for ever does not fill the store.
const maxPins = 10_000

// changeEvery is how often a tool that goes on changing is recorded anew.
const changeEvery = time.Minute

// pinFirst pins d unless another node, or request, pinned something first.
func (a *Authority) pinFirst(ctx context.Context, name toolName, d *Definition, set bool) (*mayfly.Pin, error) {
	if a.pins.of(name.target) >= maxPins {
		return nil, mayfly.Errorf(mayfly.BadUpstream, "the target has shown more than %d tools over time, and no new one is taken from it; tell the operator", maxPins)
	}
	pin := &mayfly.Pin{
		Target: name.target, Tool: name.tool, Hash: d.Hash, Definition: string(d.JSON), By: firstSight, At: a.clock.now(),
		Labels: d.Labels, Types: d.Types,
	}
	if set {
		pin.By = byConfiguration
	}
	e := mayfly.ToolPinned{Target: pin.Target, Tool: pin.Tool, Hash: pin.Hash, By: pin.By}
	err := a.record(ctx, e, func(tx *store.Tx) { tx.InsertPin(pin) })
	if refusedBy(err) != "" {
		if pin, err = a.db.Pin(ctx, name.target, name.tool); err != nil {
			return nil, err
		}
	}
	if err != nil {
		return nil, err
	}
	a.pins.put(pin)
	return pin, nil
}

// changed records that a tool is no longer defined as it is pinned: each change,
// but of a tool that goes on changing at most one in changeEvery.
func (a *Authority) changed(ctx context.Context, pin *mayfly.Pin, d *Definition) error {
	if a.lately(pin) {
		return nil // it is refused already
	}
	return a.note(ctx, pin, d)
}

// lately reports whether a change of the tool was recorded a moment ago.
func (a *Authority) lately(pin *mayfly.Pin) bool {
	return pin.Changed != "" && a.clock.now().Sub(pin.ChangedAt) < changeEvery
}

// note records what a tool has changed to, once.
func (a *Authority) note(ctx context.Context, pin *mayfly.Pin, d *Definition) error {
	if pin.Changed == d.Hash {
		return nil
	}
	next := *pin
	next.Changed, next.ChangedDefinition, next.ChangedAt = d.Hash, string(d.JSON), a.clock.now()
	e := mayfly.ToolChanged{Target: pin.Target, Tool: pin.Tool, Pinned: pin.Hash, Hash: d.Hash}
	err := a.record(ctx, e, func(tx *store.Tx) {
		tx.NotePinChange(&next)
		tx.Advance(epochPins, pin.Target+"/"+pin.Tool, next.ChangedAt)
	})
	if err != nil && refusedBy(err) == "" {
		return err
	}
	a.logger.Error("a tool is not defined as it is pinned; it is refused until it is accepted: mayfly pins accept",
		"target", pin.Target, "tool", pin.Tool, "pinned", pin.Hash, "now", d.Hash)
	return a.advanced(ctx)
}

// unchanged takes back what changed said: the server gives the pinned definition
// again.
func (a *Authority) unchanged(ctx context.Context, pin *mayfly.Pin) error {
	if pin.Changed == "" {
		return nil
	}
	e := mayfly.ToolPinned{Target: pin.Target, Tool: pin.Tool, Hash: pin.Hash, Previous: pin.Changed, By: pin.By}
	err := a.record(ctx, e, func(tx *store.Tx) {
		tx.ClearPinChange(pin.Target, pin.Tool, pin.Hash)
		tx.Advance(epochPins, pin.Target+"/"+pin.Tool, a.clock.now())
	})
	if err != nil && refusedBy(err) == "" {
		return err
	}
	return a.advanced(ctx)
}

// warnOfTool records once in this process that a tool nobody has seen as the
// configuration pins it is defined otherwise.
func (a *Authority) warnOfTool(ctx context.Context, name toolName, pinned, hash string) error {
	a.pins.mu.Lock()
	known := a.pins.warned[name] == hash
	if a.pins.warned == nil {
		a.pins.warned = map[toolName]string{}
	}
	a.pins.warned[name] = hash
	a.pins.mu.Unlock()
	if known {
		return nil
	}
	return a.record(ctx, mayfly.ToolChanged{Target: name.target, Tool: name.tool, Pinned: pinned, Hash: hash}, nil)
}

// acceptPin pins what a tool has changed to, if that is hash: what was looked at
// is accepted, and nothing that came after.
func (a *Authority) acceptPin(ctx context.Context, name toolName, hash, by string) (*mayfly.Pin, error) {
	pin, err := a.db.Pin(ctx, name.target, name.tool)
	if err != nil {
		return nil, err
	}
	if pin.Changed == "" {
		return nil, mayfly.Errorf(mayfly.Conflict, "the tool %s of %s is defined as it is pinned; there is nothing to accept", name.tool, name.target)
	}
	again := mayfly.Errorf(mayfly.Conflict, "the tool %s of %s has changed to another definition than that; look at it again", name.tool, name.target)
	if pin.Changed != hash {
		return nil, again
	}
	labels, types, err := mayfly.ReadDefinition([]byte(pin.ChangedDefinition))
	if err != nil {
		return nil, err
	}
	now := a.clock.now()
	e := mayfly.ToolPinned{Target: pin.Target, Tool: pin.Tool, Hash: pin.Changed, Previous: pin.Hash, By: by}
	err = a.record(ctx, e, func(tx *store.Tx) {
		tx.AcceptPin(pin.Target, pin.Tool, pin.Changed, pin.ChangedDefinition, labels, types, by, now)
		tx.Advance(epochPins, pin.Target+"/"+pin.Tool, now)
	})
	if refusedBy(err) != "" {
		return nil, again
	}
	if err != nil {
		return nil, err
	}
	if err := a.advanced(ctx); err != nil {
		return nil, err
	}
	return a.db.Pin(ctx, name.target, name.tool)
}

// Pins lists what tools are pinned to. Only the operator may.
func (a *Authority) Pins(ctx context.Context, p Presented) ([]mayfly.Pin, error) {
	w, err := a.identify(ctx, &p)
	if err != nil {
		return nil, err
	}
	if !w.operator {
		return nil, a.refuse(ctx, w.refused("list pins"), notYours(), w.burn(a))
	}
	return a.db.Pins(ctx)
}

// AcceptPin pins what a tool has changed to, so that it is shown and called
// again. Hash is that of the definition that was looked at: Conflict where the
// tool has changed to another. Only the operator may.
func (a *Authority) AcceptPin(ctx context.Context, p Presented, target, tool, hash string) (*mayfly.Pin, error) {
	w, err := a.identify(ctx, &p)
	if err != nil {
		return nil, err
	}
	if !w.operator {
		return nil, a.refuse(ctx, w.refused("accept pin"), notYours(), w.burn(a))
	}
	if hash == "" {
		return nil, a.refuse(ctx, w.refused("accept pin"), mayfly.Errorf(mayfly.Invalid,
			"hash is missing: send that of the definition you looked at, which GET /v1/pins gives as changed"), nil)
	}
	pin, err := a.acceptPin(ctx, toolName{target, tool}, hash, w.name())
	if err != nil && mayfly.KindOf(err) != mayfly.Unavailable {
		return nil, a.refuse(ctx, w.refused("accept pin"), err, nil)
	}
	return pin, err
}
