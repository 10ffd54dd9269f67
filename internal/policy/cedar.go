package policy

import (
	"net/netip"
	"strings"
	"time"

	"github.com/cedar-policy/cedar-go"

	"github.com/mayfly-id/mayfly"
)

// The entities that policies speak of:
//
//	Mayfly::Human::"alice@example.org"     in Mayfly::Group::"…"     {source: String}
//	Mayfly::Service::"service:ci/…"        in Mayfly::Group::"…"     {source: String}
//	Mayfly::Agent::"spiffe://…/agent/…"    in Mayfly::Profile::"…"   {profile, task: String, verified: Bool}
//	Mayfly::Profile::"invoice-agent"                                 {owner, risk: String}
//	Mayfly::Tool::"bank/pay_invoice"       in Mayfly::Target::"bank" {target, name: String}
//	Mayfly::Route::"orders/GET:/v1/orders" in Mayfly::Target::"orders" {target, method, path: String}
//	Mayfly::Target::"bank"                                           {kind: String}
//
// The actions are Mayfly::Action::"use" on a Tool or Route and
// Mayfly::Action::"delegate" on each thing that is granted: a Tool or Route, or
// the Target where the grant is a pattern. The context is
//
//	purpose    String
//	chain      {root: String, human?: Human, service?: Service, profiles: Set<Profile>}
//	depth      Long: levels below the root task
//	risk       String: low, medium or high, of the task that acts or is opened
//	time       datetime
//	source_ip? ipaddr: where the request came from, if from a network
const (
	typeHuman   cedar.EntityType = "Mayfly::Human"
	typeService cedar.EntityType = "Mayfly::Service"
	typeAgent   cedar.EntityType = "Mayfly::Agent"
	typeGroup   cedar.EntityType = "Mayfly::Group"
	typeProfile cedar.EntityType = "Mayfly::Profile"
	typeTarget  cedar.EntityType = "Mayfly::Target"
	typeTool    cedar.EntityType = "Mayfly::Tool"
	typeRoute   cedar.EntityType = "Mayfly::Route"
	typeAction  cedar.EntityType = "Mayfly::Action"
)

var (
	actionUse      = cedar.NewEntityUID(typeAction, "use")
	actionDelegate = cedar.NewEntityUID(typeAction, "delegate")
)

// world is the entities and the context of one question. An entity is made when
// a policy asks about it: most ask about few.
type world struct {
	trustDomain string
	context     cedar.Record
	subject     mayfly.Subject
	root        cedar.EntityUID
	chain       []Link // with the profile that is being opened, if one is, last and without a task
	kind        string // of the resource, as in a grant
	target      string
	action      string // "" where the resource is the target
	resource    cedar.EntityUID
}

func (q *Question) world() *world {
	acting := q.Chain[len(q.Chain)-1]
	w := newWorld(acting.Task.Root, q.Chain, q.TrustDomain)
	w.setContext(acting.Task.Purpose, acting.Task.Depth, acting.Profile, q.Now, q.SourceIP)
	w.on(q.Call.Kind, q.Call.Target, q.Call.Action)
	return w
}

func (q *OpenQuestion) world() *world {
	depth := 0
	if n := len(q.Parent); n > 0 {
		depth = q.Parent[n-1].Task.Depth + 1
	}
	chain := append(append(make([]Link, 0, len(q.Parent)+1), q.Parent...), Link{Profile: q.Profile})
	w := newWorld(q.Root, chain, q.TrustDomain)
	w.setContext(q.Purpose, depth, q.Profile, q.Now, q.SourceIP)
	return w
}

func newWorld(root mayfly.Subject, chain []Link, trustDomain string) *world {
	kind := typeHuman
	if root.Kind != mayfly.Human {
		kind = typeService
	}
	return &world{
		trustDomain: trustDomain, subject: root, chain: chain,
		root: cedar.NewEntityUID(kind, cedar.String(root.ID)),
	}
}

// on makes the resource what a call acts on.
func (w *world) on(kind, target, action string) {
	w.kind, w.target, w.action = kind, target, action
	of := typeTool
	if kind == "http" {
		of = typeRoute
	}
	w.resource = cedar.NewEntityUID(of, cedar.String(target+"/"+action))
}

// onGrant makes the resource what a grant is about: one tool or route, or else
// its target.
func (w *world) onGrant(g *mayfly.Grant) {
	if strings.HasSuffix(g.Action, "*") || g.Kind == "http" && strings.HasPrefix(g.Action, "*:") {
		w.kind, w.target, w.action = g.Kind, g.Target, ""
		w.resource = cedar.NewEntityUID(typeTarget, cedar.String(g.Target))
		return
	}
	w.on(g.Kind, g.Target, g.Action)
}

// Get gives one entity to Cedar. What is not in the question does not exist:
// asking for an attribute of it is an error, which refuses.
func (w *world) Get(uid cedar.EntityUID) (cedar.Entity, bool) {
	switch uid.Type {
	case typeHuman, typeService:
		if uid != w.root {
			return cedar.Entity{}, false
		}
		groups := make([]cedar.EntityUID, len(w.subject.Groups))
		for i, g := range w.subject.Groups {
			groups[i] = cedar.NewEntityUID(typeGroup, cedar.String(g))
		}
		return entity(uid, groups, cedar.RecordMap{"source": cedar.String(w.subject.Source)})
	case typeAgent:
		for _, l := range w.chain {
			if l.Task != nil && w.agent(l.Task) == uid {
				return entity(uid, []cedar.EntityUID{profileUID(l.Task.Profile)}, cedar.RecordMap{
					"profile":  cedar.String(l.Task.Profile),
					"task":     cedar.String(l.Task.ID),
					"verified": cedar.Boolean(l.Task.Agent.Verified),
				})
			}
		}
	case typeProfile:
		for _, l := range w.chain {
			if l.Profile != nil && l.Profile.Name == string(uid.ID) {
				return entity(uid, nil, cedar.RecordMap{"owner": cedar.String(l.Profile.Owner), "risk": cedar.String(l.Profile.Risk)})
			}
		}
	case typeTarget:
		if string(uid.ID) == w.target {
			return entity(uid, nil, cedar.RecordMap{"kind": cedar.String(w.kind)})
		}
	case typeTool, typeRoute:
		if uid != w.resource {
			return cedar.Entity{}, false
		}
		attributes := cedar.RecordMap{"target": cedar.String(w.target)}
		if uid.Type == typeTool {
			attributes["name"] = cedar.String(w.action)
		} else {
			method, path, _ := strings.Cut(w.action, ":")
			attributes["method"], attributes["path"] = cedar.String(method), cedar.String(path)
		}
		return entity(uid, []cedar.EntityUID{cedar.NewEntityUID(typeTarget, cedar.String(w.target))}, attributes)
	}
	return cedar.Entity{}, false
}

func entity(uid cedar.EntityUID, parents []cedar.EntityUID, attributes cedar.RecordMap) (cedar.Entity, bool) {
	return cedar.Entity{UID: uid, Parents: cedar.NewEntityUIDSet(parents...), Attributes: cedar.NewRecord(attributes)}, true
}

func profileUID(name string) cedar.EntityUID {
	return cedar.NewEntityUID(typeProfile, cedar.String(name))
}

func (w *world) agent(t *mayfly.Task) cedar.EntityUID {
	return cedar.NewEntityUID(typeAgent, cedar.String(mayfly.AgentID(w.trustDomain, t.Profile, t.ID)))
}

func (w *world) setContext(purpose mayfly.Purpose, depth int, p *mayfly.Profile, now time.Time, sourceIP string) {
	profiles := make([]cedar.Value, 0, len(w.chain))
	for _, l := range w.chain {
		if l.Profile != nil {
			profiles = append(profiles, profileUID(l.Profile.Name))
		}
	}
	links := cedar.RecordMap{"root": w.root.ID, "profiles": cedar.NewSet(profiles...)}
	if w.root.Type == typeHuman {
		links["human"] = w.root
	} else {
		links["service"] = w.root
	}
	context := cedar.RecordMap{
		"purpose": cedar.String(purpose.Text),
		"chain":   cedar.NewRecord(links),
		"depth":   cedar.Long(depth),
		"time":    cedar.NewDatetime(now),
	}
	if p != nil {
		context["risk"] = cedar.String(p.Risk)
	}
	if ip, ok := address(sourceIP); ok {
		context["source_ip"] = ip
	}
	w.context = cedar.NewRecord(context)
}

// address reads an IP address, with or without a port.
func address(s string) (cedar.IPAddr, bool) {
	ip, err := netip.ParseAddr(s)
	if err != nil {
		both, err := netip.ParseAddrPort(s)
		if err != nil {
			return cedar.IPAddr{}, false
		}
		ip = both.Addr()
	}
	ip = ip.Unmap().WithZone("")
	return cedar.IPAddr(netip.PrefixFrom(ip, ip.BitLen())), true
}

// askRoot asks whether the root itself may: without a permit it may not.
func (w *world) askRoot(s *Set, action cedar.EntityUID, d *mayfly.Decision) bool {
	a := s.ask(w, cedar.Request{Principal: w.root, Action: action, Resource: w.resource, Context: w.context})
	what := " " + string(action.ID) + " " + string(w.resource.ID)
	next := &mayfly.Next{Action: "none", Detail: "ask the operator for a policy that permits it, or do without"}
	switch {
	case len(a.erred) > 0:
		return erred(d, mayfly.TermDelegator, a.erred)
	case a.forbidden:
		d.Policies = a.by
		return refuse(d, mayfly.TermDelegator, "the delegator may not"+what+" itself: "+named(a.by)+" forbids it", next)
	case !a.permitted:
		return refuse(d, mayfly.TermDelegator, "the delegator may not"+what+" itself: no policy permits it", next)
	}
	d.Policies = a.by
	return true
}

// askAgent asks the guardrails of a task. Its grants already bound it, so it
// starts from a permit: only a forbid, or an error, refuses.
func (w *world) askAgent(s *Set, action cedar.EntityUID, l *Link, d *mayfly.Decision) bool {
	a := s.ask(w, cedar.Request{Principal: w.agent(l.Task), Action: action, Resource: w.resource, Context: w.context})
	switch {
	case len(a.erred) > 0:
		return erred(d, mayfly.TermPolicy, a.erred)
	case a.forbidden:
		d.Policies = a.by
		return refuse(d, mayfly.TermPolicy, named(a.by)+" forbids an agent to "+string(action.ID)+" "+string(w.resource.ID),
			&mayfly.Next{Action: "none", Detail: "find another way, or ask the operator about the policy"})
	}
	d.Policies = append(d.Policies, a.by...)
	return true
}

func erred(d *mayfly.Decision, term mayfly.Term, ids []string) bool {
	d.Policies = ids
	return refuse(d, term, named(ids)+" could not be evaluated, and a policy that errs refuses",
		&mayfly.Next{Action: "none", Detail: "tell the operator that the policy must be corrected"})
}
