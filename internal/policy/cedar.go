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

// world is the entities and the context of one question.
type world struct {
	entities    cedar.EntityMap
	context     cedar.Record
	root        cedar.EntityUID
	trustDomain string
}

func (q *Question) world() *world {
	acting := q.Chain[len(q.Chain)-1]
	w := newWorld(acting.Task.Root, q.Chain, q.TrustDomain)
	w.setContext(acting.Task.Purpose, acting.Task.Depth, acting.Profile, q.Chain, q.Now, q.SourceIP)
	return w
}

func (q *OpenQuestion) world() *world {
	w := newWorld(q.Root, q.Parent, q.TrustDomain)
	w.addProfile(q.Profile)
	depth := 0
	if n := len(q.Parent); n > 0 {
		depth = q.Parent[n-1].Task.Depth + 1
	}
	chain := append(append(make([]Link, 0, len(q.Parent)+1), q.Parent...), Link{Profile: q.Profile})
	w.setContext(q.Purpose, depth, q.Profile, chain, q.Now, q.SourceIP)
	return w
}

func newWorld(root mayfly.Subject, chain []Link, trustDomain string) *world {
	w := &world{entities: cedar.EntityMap{}, trustDomain: trustDomain}
	kind := typeHuman
	if root.Kind != mayfly.Human {
		kind = typeService
	}
	w.root = cedar.NewEntityUID(kind, cedar.String(root.ID))
	groups := make([]cedar.EntityUID, len(root.Groups))
	for i, g := range root.Groups {
		groups[i] = cedar.NewEntityUID(typeGroup, cedar.String(g))
	}
	w.add(w.root, groups, cedar.RecordMap{"source": cedar.String(root.Source)})
	for _, l := range chain {
		w.addProfile(l.Profile)
		w.add(w.agent(l.Task), []cedar.EntityUID{profileUID(l.Task.Profile)}, cedar.RecordMap{
			"profile":  cedar.String(l.Task.Profile),
			"task":     cedar.String(l.Task.ID),
			"verified": cedar.Boolean(l.Task.Agent.Verified),
		})
	}
	return w
}

func (w *world) add(uid cedar.EntityUID, parents []cedar.EntityUID, attributes cedar.RecordMap) {
	w.entities[uid] = cedar.Entity{UID: uid, Parents: cedar.NewEntityUIDSet(parents...), Attributes: cedar.NewRecord(attributes)}
}

func (w *world) addProfile(p *mayfly.Profile) {
	if p != nil {
		w.add(profileUID(p.Name), nil, cedar.RecordMap{"owner": cedar.String(p.Owner), "risk": cedar.String(p.Risk)})
	}
}

func profileUID(name string) cedar.EntityUID {
	return cedar.NewEntityUID(typeProfile, cedar.String(name))
}

func (w *world) agent(t *mayfly.Task) cedar.EntityUID {
	return cedar.NewEntityUID(typeAgent, cedar.String(mayfly.AgentID(w.trustDomain, t.Profile, t.ID)))
}

func (w *world) setContext(purpose mayfly.Purpose, depth int, p *mayfly.Profile, chain []Link, now time.Time, sourceIP string) {
	profiles := make([]cedar.Value, 0, len(chain))
	for _, l := range chain {
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

// resource is what a call acts on.
func (w *world) resource(c *mayfly.Call) cedar.EntityUID {
	target := w.target(c.Kind, c.Target)
	id := cedar.String(c.Target + "/" + c.Action)
	if c.Kind != "http" {
		uid := cedar.NewEntityUID(typeTool, id)
		w.add(uid, []cedar.EntityUID{target}, cedar.RecordMap{"target": cedar.String(c.Target), "name": cedar.String(c.Action)})
		return uid
	}
	uid := cedar.NewEntityUID(typeRoute, id)
	method, path, _ := strings.Cut(c.Action, ":")
	w.add(uid, []cedar.EntityUID{target}, cedar.RecordMap{
		"target": cedar.String(c.Target), "method": cedar.String(method), "path": cedar.String(path),
	})
	return uid
}

func (w *world) target(kind, name string) cedar.EntityUID {
	uid := cedar.NewEntityUID(typeTarget, cedar.String(name))
	w.add(uid, nil, cedar.RecordMap{"kind": cedar.String(kind)})
	return uid
}

// granted is what a grant is about: one tool or route, or else its target.
func (w *world) granted(g *mayfly.Grant) cedar.EntityUID {
	if strings.HasSuffix(g.Action, "*") || g.Kind == "http" && strings.HasPrefix(g.Action, "*:") {
		return w.target(g.Kind, g.Target)
	}
	return w.resource(&mayfly.Call{Kind: g.Kind, Target: g.Target, Action: g.Action})
}

// askRoot asks whether the root itself may: without a permit it may not.
func (w *world) askRoot(s *Set, action, resource cedar.EntityUID, d *mayfly.Decision) bool {
	a := s.ask(w.entities, cedar.Request{Principal: w.root, Action: action, Resource: resource, Context: w.context})
	what := " " + string(action.ID) + " " + string(resource.ID)
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
func (w *world) askAgent(s *Set, action cedar.EntityUID, l *Link, resource cedar.EntityUID, d *mayfly.Decision) bool {
	a := s.ask(w.entities, cedar.Request{Principal: w.agent(l.Task), Action: action, Resource: resource, Context: w.context})
	switch {
	case len(a.erred) > 0:
		return erred(d, mayfly.TermPolicy, a.erred)
	case a.forbidden:
		d.Policies = a.by
		return refuse(d, mayfly.TermPolicy, named(a.by)+" forbids an agent to "+string(action.ID)+" "+string(resource.ID),
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
