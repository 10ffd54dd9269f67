package mayfly

// Term names the part of the intersection that decided. The order of these
// constants is the order in which terms are asked; the first that refuses is
// named in the answer and the record.
type Term string

// The terms of a decision.
const (
	TermLiveness  Term = "liveness"  // the task and every ancestor are live
	TermToken     Term = "token"     // what this token carries: audience, grants
	TermDelegator Term = "delegator" // the root delegator's own authority
	TermProfile   Term = "profile"   // the profile's ceiling
	TermTask      Term = "task"      // what this task was granted
	TermParent    Term = "parent"    // what every ancestor was granted
	TermTool      Term = "tool"      // the tool is defined as it was when it was pinned
	TermPolicy    Term = "policy"    // guardrails; a policy that errs refuses
	TermBudget    Term = "budget"    // what is left to spend, along the chain
	TermApproval  Term = "approval"  // a human's yes, where a policy asks for one
)

// Terms are all terms in the order in which they are asked.
var Terms = []Term{
	TermLiveness, TermToken, TermDelegator, TermProfile, TermTask, TermParent, TermTool, TermPolicy, TermBudget, TermApproval,
}

// Verdict is the answer of a decision.
type Verdict string

// The verdicts.
const (
	Allow         Verdict = "allow"
	Deny          Verdict = "deny"
	NeedsApproval Verdict = "needs-approval" // a denial that a human's yes lifts
)

// Decision is an answer with its reason and the version of the rules that gave
// it. It says nothing about whether the call then succeeded: see [Outcome].
type Decision struct {
	ID      string
	Verdict Verdict
	Term    Term   // with Deny: the term that refused
	Code    string // with Deny of an opening: the OAuth error code; "" is access_denied
	Reason  string // one sentence for whoever asked
	Next    *Next  // with Deny: what to do about it
	Bundle  string // hash of the configuration, profiles and policies that decided
	// Policies are the ids of the Cedar policies that determined or erred.
	Policies []string
	// Needs says, with NeedsApproval, who must say yes, all of them: groups, or
	// [NeedDelegator].
	Needs    []string `json:",omitempty"`
	Approval string   `json:",omitempty"` // id of the approval that was asked for, or used
	// Observed are the terms that would have refused, were their target not
	// observed only.
	Observed []Term `json:",omitempty"`
}

// NeedDelegator, among a decision's Needs, is the root delegator.
const NeedDelegator = "@delegator"

// Snapshot is what of a call the policies saw, kept with the decision so that it
// can be decided again. It holds no payload: only facts that were declared.
type Snapshot struct {
	V       int      `json:"v"` // 1
	Facts   Facts    `json:"facts,omitempty"`
	Labels  []string `json:"labels,omitempty"` // of the resource, sorted
	Seen    []string `json:"seen,omitempty"`   // by the tree before this call, sorted
	Root    bool     `json:"root,omitempty"`   // the root's own rights were asked
	Granted bool     `json:"granted"`          // the grants of token, profile, task and parents allow it
	Lifted  []string `json:"lifted,omitempty"` // the needs that an approval had met
	Rules   []string `json:"rules,omitempty"`  // ids of the profiles' approvals that are about the call
}

// Call is one action an agent wants to take, in the canonical form that is
// decided on, recorded and forwarded.
type Call struct {
	Kind      string    // mcp or http
	Target    string    // the target's name in the configuration
	Action    string    // the tool's name, or METHOD:/path
	Arguments Arguments // top-level argument names to values; nil when the body has none to read
	// NoArguments says that the body could not be read as arguments: a grant
	// that constrains or sums one refuses the call.
	NoArguments bool
	// Definition is the hash of the tool's definition as its server gives it
	// now; "" where there is none to know, or nobody asked.
	Definition string
	Digest     string // base64url SHA-256 of the canonical bytes that will be forwarded
	Size       int64  // their number
}

// Grant is the short form of what the call needs: kind:target:action.
func (c Call) Grant() string { return c.Kind + ":" + c.Target + ":" + c.Action }
