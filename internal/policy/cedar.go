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
//	Mayfly::Human::"alice@example.org"     in Mayfly::Group::"…"     {source: String}, tags: the source's other claims
//	Mayfly::Service::"service:ci/…"        in Mayfly::Group::"…"     {source: String}, tags: the source's other claims
//	Mayfly::Agent::"spiffe://…/agent/…"    in Mayfly::Profile::"…"   {profile, task: String, verified: Bool}
//	Mayfly::Profile::"invoice-agent"                                 {owner, risk: String}
//	Mayfly::Tool::"bank/pay_invoice"       in Mayfly::Target::"bank" {target, name: String}
//	Mayfly::Route::"orders/GET:/v1/orders" in Mayfly::Target::"orders" {target, method, path: String}
//	Mayfly::Target::"bank"                                           {kind: String}
//
// The actions are
//
//	use       a Human, Service or Agent on a Tool or Route
//	delegate  the same on each thing that is granted: a Tool or Route, or the Target where the grant is a pattern
//	approve   a Human on what another's approval is asked for: a Tool or Route, or a Target
//	read      a Human or Service on the Agent whose task it is
//	revoke    the same
//
// The context is
//
//	purpose    String
//	chain      {root: String, human?: Human, service?: Service, profiles: Set<Profile>}
//	depth      Long: levels below the root task
//	risk       String: low, medium or high, of the task that acts, is opened or is asked about
//	time       datetime
//	source_ip? ipaddr: where the request came from, if from a network
//
// and of use also
//
//	arguments  a record of the declared facts, each optional
//	labels     Set<String>: of the resource
//	seen       Set<String>: labels that any task under the same root task has touched before
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
	actionApprove  = cedar.NewEntityUID(typeAction, "approve")
	actionRead     = cedar.NewEntityUID(typeAction, "read")
	actionRevoke   = cedar.NewEntityUID(typeAction, "revoke")
)

// world is the entities and the context of one question. An entity is made when
// a policy asks about it: most ask about few. So is what of the context is read.
type world struct {
	trustDomain string
	now         time.Time
	sourceIP    string
	purpose     mayfly.Purpose
	depth       int
	risk        string // of the profile in question
	chain       []Link // with the profile that is being opened, if one is, last and without a task
	subject     mayfly.Subject
	root        being
	asking      *mayfly.Subject // who asks, where it is not the root or an agent
	saw         *sight          // of a call

	kind     string // of the resource, as in a grant
	target   string
	action   string // "" where the resource is the target
	resource being

	principal being
	known     []cedar.Entity // made before
	bare      bool           // nobody reads an attribute of an entity
}

// sight is what policies see of a call beside what it acts on.
type sight struct {
	facts        mayfly.Facts
	labels, seen []string
}

func (q *Question) world(saw *sight) *world {
	acting := q.Chain[len(q.Chain)-1]
	w := newWorld(acting.Task.Root, q.Chain, acting.Profile)
	w.trustDomain, w.now, w.sourceIP = q.TrustDomain, q.Now, q.SourceIP
	w.purpose, w.depth, w.saw = acting.Task.Purpose, acting.Task.Depth, saw
	w.on(q.Call.Kind, q.Call.Target, q.Call.Action)
	return w
}

func (q *OpenQuestion) world() *world {
	depth := 0
	if n := len(q.Parent); n > 0 {
		depth = q.Parent[n-1].Task.Depth + 1
	}
	chain := append(append(make([]Link, 0, len(q.Parent)+1), q.Parent...), Link{Profile: q.Profile})
	w := newWorld(q.Root, chain, q.Profile)
	w.trustDomain, w.now, w.sourceIP = q.TrustDomain, q.Now, q.SourceIP
	w.purpose, w.depth = q.Purpose, depth
	return w
}

// newWorld is one without a resource. The risk of a profile that is gone is the
// highest.
func newWorld(root mayfly.Subject, chain []Link, p *mayfly.Profile) *world {
	w := &world{subject: root, root: person(root), chain: chain, risk: string(mayfly.RiskHigh)}
	if p != nil {
		w.risk = string(p.Risk)
	}
	return w
}

// person is a human or service and its groups.
func person(s mayfly.Subject) being {
	kind := typeHuman
	if s.Kind != mayfly.Human {
		kind = typeService
	}
	b := being{uid: cedar.NewEntityUID(kind, cedar.String(s.ID))}
	for _, g := range s.Groups {
		b.in = append(b.in, cedar.NewEntityUID(typeGroup, cedar.String(g)))
	}
	return b
}

func (w *world) agent(t *mayfly.Task) being {
	return being{
		uid: cedar.NewEntityUID(typeAgent, cedar.String(mayfly.AgentID(w.trustDomain, t.Profile, t.ID))),
		in:  []cedar.EntityUID{profileUID(t.Profile)},
	}
}

// on makes the resource what a call acts on.
func (w *world) on(kind, target, action string) {
	w.kind, w.target, w.action = kind, target, action
	of := typeTool
	if kind == "http" {
		of = typeRoute
	}
	w.resource = being{
		uid: cedar.NewEntityUID(of, cedar.String(target+"/"+action)),
		in:  []cedar.EntityUID{cedar.NewEntityUID(typeTarget, cedar.String(target))},
	}
}

// onGrant makes the resource what a grant is about: one tool or route, or else
// its target.
func (w *world) onGrant(g *mayfly.Grant) {
	if strings.HasSuffix(g.Action, "*") || g.Kind == "http" && strings.HasPrefix(g.Action, "*:") {
		w.kind, w.target, w.action = g.Kind, g.Target, ""
		w.resource = being{uid: cedar.NewEntityUID(typeTarget, cedar.String(g.Target))}
		return
	}
	w.on(g.Kind, g.Target, g.Action)
}

// mayHandOn asks the guardrails of the task l about handing a grant on. One that
// is a pattern is asked about as its target, and as every tool or route that a
// policy on handing on names and the pattern covers: who may not hand one of them
// on may not hand all of them on.
func (w *world) mayHandOn(s *Set, l *Link, g *mayfly.Grant, d *mayfly.Decision, lifts *wants) bool {
	w.onGrant(g)
	if !w.askAgent(s, actionDelegate, l, d, lifts) {
		return false
	}
	if w.action != "" {
		return true
	}
	for _, action := range s.about(actionDelegate, g) {
		w.on(g.Kind, g.Target, action)
		if !w.askAgent(s, actionDelegate, l, d, lifts) {
			return false
		}
	}
	return true
}

// Get gives one entity to Cedar. What is not in the question does not exist:
// asking for an attribute of it is an error, which refuses.
func (w *world) Get(uid cedar.EntityUID) (cedar.Entity, bool) {
	for i := range w.known {
		if w.known[i].UID == uid {
			return w.known[i], true
		}
	}
	e, ok := w.entity(uid)
	if ok {
		w.known = append(w.known, e)
	}
	return e, ok
}

// prepare readies the entities for a request and policies that read this much.
func (w *world) prepare(principal being, read parts) {
	w.principal = principal
	bare := read&partAttributes == 0
	if w.bare && !bare {
		w.known = nil
	}
	w.bare = bare
}

func (w *world) entity(uid cedar.EntityUID) (cedar.Entity, bool) {
	switch uid.Type {
	case typeHuman, typeService:
		if w.asking != nil {
			if b := person(*w.asking); b.uid == uid {
				return w.subjectOf(b, w.asking)
			}
		}
		if uid == w.root.uid {
			return w.subjectOf(w.root, &w.subject)
		}
	case typeAgent:
		if w.bare && uid == w.principal.uid {
			return entity(w.principal, nil)
		}
		for i := len(w.chain) - 1; i >= 0; i-- {
			t := w.chain[i].Task
			if t == nil {
				continue
			}
			if b := w.agent(t); b.uid == uid {
				if w.bare {
					return entity(b, nil)
				}
				return entity(b, cedar.RecordMap{
					"profile":  cedar.String(t.Profile),
					"task":     cedar.String(t.ID),
					"verified": cedar.Boolean(t.Agent.Verified),
				})
			}
		}
	case typeProfile:
		for i := range w.chain {
			if p := w.chain[i].Profile; p != nil && p.Name == string(uid.ID) {
				return entity(being{uid: uid}, cedar.RecordMap{"owner": cedar.String(p.Owner), "risk": cedar.String(p.Risk)})
			}
		}
	case typeTarget:
		if w.target != "" && string(uid.ID) == w.target {
			return entity(being{uid: uid}, cedar.RecordMap{"kind": cedar.String(w.kind)})
		}
	case typeTool, typeRoute:
		if uid != w.resource.uid {
			return cedar.Entity{}, false
		}
		if w.bare {
			return entity(w.resource, nil)
		}
		attributes := cedar.RecordMap{"target": cedar.String(w.target)}
		if uid.Type == typeTool {
			attributes["name"] = cedar.String(w.action)
		} else {
			method, path, _ := strings.Cut(w.action, ":")
			attributes["method"], attributes["path"] = cedar.String(method), cedar.String(path)
		}
		return entity(w.resource, attributes)
	}
	return cedar.Entity{}, false
}

func (w *world) subjectOf(b being, s *mayfly.Subject) (cedar.Entity, bool) {
	if w.bare {
		return entity(b, nil)
	}
	e, ok := entity(b, cedar.RecordMap{"source": cedar.String(s.Source)})
	if len(s.Claims) > 0 {
		tags := make(cedar.RecordMap, len(s.Claims))
		for name, value := range s.Claims {
			tags[cedar.String(name)] = cedar.String(value)
		}
		e.Tags = cedar.NewRecord(tags)
	}
	return e, ok
}

func entity(b being, attributes cedar.RecordMap) (cedar.Entity, bool) {
	e := cedar.Entity{UID: b.uid, Parents: cedar.NewEntityUIDSet(b.in...)}
	if len(attributes) > 0 {
		e.Attributes = cedar.NewRecord(attributes)
	}
	return e, true
}

func profileUID(name string) cedar.EntityUID {
	return cedar.NewEntityUID(typeProfile, cedar.String(name))
}

// parts are attributes of the context. What no policy reads is not made.
type parts uint16

const (
	partPurpose parts = 1 << iota
	partChain
	partDepth
	partRisk
	partTime
	partSourceIP
	partArguments
	partLabels
	partSeen
	partAttributes       // not of the context: those of entities
	partAll        parts = 1<<iota - 1
)

var partNames = map[string]parts{
	"purpose": partPurpose, "chain": partChain, "depth": partDepth, "risk": partRisk, "time": partTime, "source_ip": partSourceIP,
	"arguments": partArguments, "labels": partLabels, "seen": partSeen,
}

// record is the context, or those parts of it that some policy reads.
func (w *world) record(read parts) cedar.Record {
	context := make(cedar.RecordMap, 9)
	if read&partPurpose != 0 {
		context["purpose"] = cedar.String(w.purpose.Text)
	}
	if read&partChain != 0 {
		context["chain"] = w.links()
	}
	if read&partDepth != 0 {
		context["depth"] = cedar.Long(w.depth)
	}
	if read&partRisk != 0 {
		context["risk"] = cedar.String(w.risk)
	}
	if read&partTime != 0 {
		context["time"] = cedar.NewDatetime(w.now)
	}
	if read&partSourceIP != 0 {
		if ip, ok := address(w.sourceIP); ok {
			context["source_ip"] = ip
		}
	}
	if w.saw != nil {
		if read&partArguments != 0 {
			context["arguments"] = factRecord(w.saw.facts)
		}
		if read&partLabels != 0 {
			context["labels"] = texts(w.saw.labels)
		}
		if read&partSeen != 0 {
			context["seen"] = texts(w.saw.seen)
		}
	}
	return cedar.NewRecord(context)
}

// links is what the context says of the chain.
func (w *world) links() cedar.Record {
	profiles := make([]cedar.Value, 0, len(w.chain))
	for i := range w.chain {
		if p := w.chain[i].Profile; p != nil {
			profiles = append(profiles, profileUID(p.Name))
		}
	}
	links := cedar.RecordMap{"root": w.root.uid.ID, "profiles": cedar.NewSet(profiles...)}
	if w.root.uid.Type == typeHuman {
		links["human"] = w.root.uid
	} else {
		links["service"] = w.root.uid
	}
	return cedar.NewRecord(links)
}

// factRecord gives facts to policies, each in its type and without loss.
func factRecord(facts mayfly.Facts) cedar.Record {
	if len(facts) == 0 {
		return cedar.Record{}
	}
	record := make(cedar.RecordMap, len(facts))
	for name, f := range facts {
		var v cedar.Value
		switch f.Type {
		case mayfly.FactString:
			v = cedar.String(f.String)
		case mayfly.FactLong:
			v = cedar.Long(f.Long)
		case mayfly.FactBool:
			v = cedar.Boolean(f.Bool)
		case mayfly.FactStrings:
			v = texts(f.Strings)
		case mayfly.FactDecimal:
			d, err := cedar.NewDecimal(f.Decimal, -4)
			if err != nil {
				panic("a fact is no decimal of Cedar's: " + name) // refuses
			}
			v = d
		default:
			panic("a fact without a type: " + name) // refuses
		}
		record[cedar.String(name)] = v
	}
	return cedar.NewRecord(record)
}

func texts(list []string) cedar.Set {
	values := make([]cedar.Value, len(list))
	for i, s := range list {
		values[i] = cedar.String(s)
	}
	return cedar.NewSet(values...)
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
