package policy

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/mayfly-id/mayfly"
)

// Permit is an allow that can be spent once, for the question it answers. Only
// this package makes one that can be; the zero value permits nothing.
type Permit struct {
	question *Question // of a permit to act
	decision string
	call     call
	spends   []Spend
	labels   []string
	issues   bool // of a permit to sign a token
	widens   bool // of a permit to widen a task
	spent    atomic.Bool
	lent     atomic.Bool
}

// Spend is one thing to count: of a task, against the grant with this key.
type Spend struct {
	Task     mayfly.TaskID
	Grant    string // key of the grant whose budget it is
	Kind     SpendKind
	Argument string        // with SpendSum: what is added up
	Max      int64         // calls, or with SpendSum ten-thousandths, that may be spent in all
	Amount   int64         // with SpendSum: ten-thousandths that this call adds, at least 0
	Per      time.Duration // with SpendRate: the span in which no more than Max calls may be
}

// SpendKind says what a [Spend] counts.
type SpendKind string

// The kinds.
const (
	SpendCalls SpendKind = "calls"
	SpendSum   SpendKind = "sum"
	SpendRate  SpendKind = "rate" // never given back
)

// call is what must not have changed between the answer and its use.
type call struct {
	kind, target, action, digest string
	task                         mayfly.TaskID
}

func callOf(q *Question) call {
	return call{q.Call.Kind, q.Call.Target, q.Call.Action, q.Call.Digest, q.Chain[len(q.Chain)-1].Task.ID}
}

// Spends is what the call costs, root first: every budget of the chain that it
// counts against.
func (p *Permit) Spends() []Spend { return p.spends }

// Labels are those of what the call acts on, sorted, each once.
func (p *Permit) Labels() []string { return p.labels }

// Spend uses a permit to act: once, and only for the question it answers. Any
// other use is an Internal error.
func (p *Permit) Spend(q *Question) error {
	switch {
	case p == nil || p.question == nil || q != p.question || q.Decision != p.decision || len(q.Chain) == 0 || callOf(q) != p.call:
		return misused("a permit was presented for another question than it answers")
	case p.spent.Swap(true):
		return misused("a permit was spent twice")
	}
	return nil
}

// Lend uses a permit that was spent to lend what the call asks of its target:
// once, and only for the question it answers. Any other use is an Internal error.
func (p *Permit) Lend(q *Question, role string) error {
	switch {
	case p == nil || p.question == nil || q != p.question || len(q.Chain) == 0 || callOf(q) != p.call || role != q.Call.Action:
		return misused("a permit was presented for another loan than it permits")
	case !p.spent.Load():
		return misused("a permit was presented for a loan before it was spent")
	case p.lent.Swap(true):
		return misused("a permit was presented for two loans")
	}
	return nil
}

// Issue uses a permit to sign a token: once, and only one that [DecideOpen] or
// [DecideAgain] made. Any other use is an Internal error.
func (p *Permit) Issue() error {
	switch {
	case p == nil || !p.issues:
		return misused("a permit that does not permit a token was presented for one")
	case p.spent.Swap(true):
		return misused("a permit was spent twice")
	}
	return nil
}

// Widen uses a permit to widen a task: once, and only one that [DecideWiden]
// made. Any other use is an Internal error.
func (p *Permit) Widen() error {
	switch {
	case p == nil || !p.widens:
		return misused("a permit that does not permit a widening was presented for one")
	case p.spent.Swap(true):
		return misused("a permit was spent twice")
	}
	return nil
}

func misused(how string) error {
	return mayfly.Errorf(mayfly.Internal, "the request was not permitted").Because(errors.New(how))
}

// spends counts what an allow costs while its terms are asked: against the task
// that acts, and those above it.
type spends struct {
	own, above spendList
	unread     string // why an amount is not known
}

// rootFirst is the order in which counters are taken.
func (s *spends) rootFirst() []Spend { return append(s.above, s.own...) }

// read finds what the call adds to each sum. An amount is a number of at least 0
// with at most four decimals, and is there.
func (s *spends) read(c *mayfly.Call) {
	for _, list := range []spendList{s.own, s.above} {
		for i := range list {
			if list[i].Kind != SpendSum {
				continue
			}
			name := list[i].Argument
			facts, err := mayfly.ReadFacts([]mayfly.Fact{{Name: name, Type: mayfly.FactDecimal}}, c)
			amount, given := facts[name]
			switch {
			case err != nil:
				s.unread = mayfly.AsError(err).Message
			case !given:
				s.unread = "the argument " + name + " is missing; it must be a number of at least 0"
			case amount.Decimal < 0:
				s.unread = "the argument " + name + " must be a number of at least 0"
			default:
				list[i].Amount = amount.Decimal
				continue
			}
			return
		}
	}
}

type spendList []Spend

// find reports whether a grant allows c, and counts its budget for t if it has
// one. A profile's budget is counted beside the task's own, so that asking for a
// grant in two halves does not double it; where both are one count, the smaller
// limit holds.
func (l *spendList) find(grants []mayfly.Grant, t *mayfly.Task, c *mayfly.Call) bool {
	i := mayfly.Find(grants, c)
	if i < 0 {
		return false
	}
	g := &grants[i]
	if !g.Budget.Limits() {
		return true
	}
	key := g.Key()
	if g.Budget.Calls > 0 {
		l.add(Spend{Task: t.ID, Grant: key, Kind: SpendCalls, Max: g.Budget.Calls})
	}
	for _, sum := range g.Budget.Sum {
		l.add(Spend{Task: t.ID, Grant: key, Kind: SpendSum, Argument: sum.Argument, Max: sum.Max})
	}
	if rate := g.Budget.Rate; rate.Calls > 0 {
		l.add(Spend{Task: t.ID, Grant: key, Kind: SpendRate, Max: rate.Calls, Per: rate.Per})
	}
	return true
}

// add counts s, or lowers the limit of what is the same count: never more calls,
// nor in a shorter span, than either allows.
func (l *spendList) add(s Spend) {
	for i := range *l {
		have := &(*l)[i]
		if have.Task == s.Task && have.Grant == s.Grant && have.Kind == s.Kind && have.Argument == s.Argument {
			have.Max, have.Per = min(have.Max, s.Max), max(have.Per, s.Per)
			return
		}
	}
	*l = append(*l, s)
}
