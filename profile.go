package mayfly

import "time"

// Profile is what kind of agent this is, and the most it may ever be given: a
// reviewed file, in version control.
type Profile struct {
	Name        string
	Description string
	Owner       string // who answers for it; required
	Class       ProfileClass
	ReviewBy    time.Time // with Recurring: from this day on nothing opens under it
	Delegators  []DelegatorRule
	Attest      []AttestRule
	Grants      []Grant // the ceiling
	Default     []Grant // what a task gets that asks for nothing
	Lifetime    Lifetime
	Delegation  DelegationRule
	KeyOptional bool // true lets an agent without a key hold a bearer token
	Risk        Risk
	Authority   AuthoritySource
	Budget      int64 // calls after which a task under it ends; 0 is no limit
	Approvals   []ApprovalRule
}

// ApprovalRule asks for a group's yes to some calls of a profile's tasks: what a
// Cedar forbid with @approval does, in the profile's own words.
type ApprovalRule struct {
	ID string // names it in records: profile NAME, approval N
	// Calls says which: a grant without a budget. A call whose arguments cannot
	// be read is one of them.
	Calls  Grant
	Group  string
	Usable time.Duration // how long the yes can be used; 0 is ApprovalUsable
}

// String is r in one line, as the policy it stands for.
func (r ApprovalRule) String() string {
	calls, err := r.Calls.MarshalJSON()
	if err != nil {
		calls = []byte(r.Calls.String())
	}
	return "a call of " + string(calls) + " needs a yes of " + r.Group
}

// ProfileClass says whether tasks under a profile come and go or come back.
type ProfileClass string

// The classes.
const (
	Ephemeral ProfileClass = "ephemeral"
	Recurring ProfileClass = "recurring" // ReviewBy is required and enforced
)

// Risk is the owner's word for what can go wrong under a profile.
type Risk string

// The risks.
const (
	RiskLow    Risk = "low"
	RiskMedium Risk = "medium"
	RiskHigh   Risk = "high"
)

// AuthoritySource says where the root delegator's own rights come from.
type AuthoritySource string

// The sources of authority.
const (
	// AuthorityProfile: being accepted under Delegators is enough.
	AuthorityProfile AuthoritySource = "profile"
	// AuthorityPolicy: Cedar decides with the root as principal, and nothing else.
	AuthorityPolicy AuthoritySource = "policy"
)

// Lifetime bounds a task's time.
type Lifetime struct {
	Idle    time.Duration // length of the idle lease
	Default time.Duration // of the deadline, when nothing is asked
	Max     time.Duration
}

// DelegationRule bounds what hangs below a task.
type DelegationRule struct {
	Depth    int      // levels below the root task; 0 forbids children
	Children int      // of one task
	To       []string // profiles a task under this one may open
}

// MaxDepth is the deepest a task may sit below its root, whatever a profile says.
const MaxDepth = 5

// MaxChildren is the most children one task may have, whatever a profile says.
const MaxChildren = 100

// DelegatorRule accepts one kind of delegator. Exactly one of its three sides
// is set.
type DelegatorRule struct {
	Human   *HumanRule
	Service *SourceRule
	Agent   string // a profile whose tasks may delegate to this one
}

// HumanRule accepts a human by group or id: in any of Groups, or named in IDs.
// With neither set it accepts every human of every source.
type HumanRule struct {
	Groups []string
	IDs    []string
}

// SourceRule accepts a subject of one source whose claims all match. A pattern
// is compared exactly, or as a prefix where it ends in a single "*".
type SourceRule struct {
	Source string
	Match  map[string]string
}

// AttestRule accepts one kind of agent evidence. Exactly one side is set.
type AttestRule struct {
	Source *SourceRule
	Client string // an OAuth client's id
	None   bool   // no evidence: low risk only, tickets only, still with a key
}

// Accepts reports whether s, vouched for by a source, may delegate under p.
func (p *Profile) Accepts(s Subject) bool {
	for _, d := range p.Delegators {
		switch {
		case d.Human != nil && s.Kind == Human && d.Human.accepts(s):
			return true
		case d.Service != nil && s.Kind == Service && d.Service.Accepts(s):
			return true
		}
	}
	return false
}

// AcceptsAgent reports whether a task under profile may delegate under p.
func (p *Profile) AcceptsAgent(profile string) bool {
	for _, d := range p.Delegators {
		if d.Agent != "" && d.Agent == profile {
			return true
		}
	}
	return false
}

func (r *HumanRule) accepts(s Subject) bool {
	if len(r.Groups) == 0 && len(r.IDs) == 0 {
		return true
	}
	for _, id := range r.IDs {
		if id == s.ID {
			return true
		}
	}
	for _, want := range r.Groups {
		for _, have := range s.Groups {
			if want == have {
				return true
			}
		}
	}
	return false
}

// Accepts reports whether s comes from r's source and every pattern matches one
// of its claims. The claim "sub" is always there: the id as the source says it.
func (r *SourceRule) Accepts(s Subject) bool {
	if s.Source != r.Source {
		return false
	}
	for claim, pattern := range r.Match {
		value, ok := s.Claims[claim]
		if !ok || !MatchPattern(pattern, value) {
			return false
		}
	}
	return true
}

// MatchPattern compares value with pattern: exactly, or as a prefix where
// pattern ends in "*", which stands for one or more characters.
func MatchPattern(pattern, value string) bool {
	if n := len(pattern); n > 0 && pattern[n-1] == '*' {
		return len(value) >= n && value[:n-1] == pattern[:n-1]
	}
	return pattern == value
}
