package authority

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"maps"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/policy"
	"github.com/mayfly-id/mayfly/internal/store"
)

// Flip is a recorded decision that other policies would have decided otherwise.
type Flip struct {
	Decision string         `json:"decision"`
	Time     time.Time      `json:"time"`
	Task     mayfly.TaskID  `json:"task"`
	Profile  string         `json:"profile"`
	Root     string         `json:"root"`
	Grant    string         `json:"grant"` // what was called
	Was      mayfly.Verdict `json:"was"`
	WasTerm  mayfly.Term    `json:"was_term,omitempty"`
	Now      mayfly.Verdict `json:"now"`
	Term     mayfly.Term    `json:"term,omitempty"`
	Policies []string       `json:"policies,omitempty"` // that decide now
}

// ReplayAnswer is what other policies would have changed.
type ReplayAnswer struct {
	Candidate string `json:"candidate"` // hash of the policies asked about
	Decisions int64  `json:"decisions"` // that were decided again
	// Kept are decisions that no policy had a say in, such as those of a task
	// that was over.
	Kept int64 `json:"kept"`
	// Unknown are decisions of which too little was recorded to say: from before
	// facts were kept, or about a person who was erased.
	Unknown int64  `json:"unknown"`
	Flips   int64  `json:"flips"`
	Changed []Flip `json:"changed"` // the first maxFlips of them
}

const (
	maxFlips    = 1000
	replayBatch = 2048
	// maxPolicies is how much policy text is replayed at most, in bytes.
	maxPolicies = 1 << 20
)

// Replay decides recorded calls again, from since on, under the policies in
// files, by name: what of them would be answered otherwise. Nothing but the
// policies is asked anew: who was live, what was granted and what was spent
// stay as they were. Only the operator may.
func (a *Authority) Replay(ctx context.Context, p Presented, files map[string][]byte, since time.Time) (ReplayAnswer, error) {
	w, err := a.identify(ctx, &p)
	if err != nil {
		return ReplayAnswer{}, err
	}
	if !w.operator {
		return ReplayAnswer{}, a.refuse(ctx, w.refused("replay"), mayfly.Errorf(mayfly.NotFound, "nothing here for you; use the admin socket"), w.burn(a))
	}
	size := 0
	for _, text := range files {
		size += len(text)
	}
	if size > maxPolicies {
		return ReplayAnswer{}, mayfly.Errorf(mayfly.TooLarge, "at most %d bytes of policies are replayed", maxPolicies)
	}
	set, err := policy.Parse(files, a.Bundle().Schema)
	if err != nil {
		return ReplayAnswer{}, err
	}
	if err := a.settle(ctx); err != nil {
		return ReplayAnswer{}, err
	}
	r := replay{a: a, set: set, bundles: map[string]*rules{}, bodies: a.db.Bodies()}
	answer := ReplayAnswer{Candidate: hashOf(files), Changed: []Flip{}}
	// The next batch is read while one is decided on.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	batches := make(chan []store.EventRow)
	var failed error // read once batches is closed
	go func() {
		defer close(batches)
		for after, full := int64(-1), true; full; {
			rows, err := a.db.DecisionsAfter(ctx, after, since, replayBatch)
			if err != nil {
				failed = err
				return
			}
			full = len(rows) == replayBatch
			if len(rows) == 0 {
				return
			}
			after = *rows[len(rows)-1].Position
			select {
			case batches <- rows:
			case <-ctx.Done():
				return
			}
		}
	}()
	for rows := range batches {
		if err := r.batch(ctx, rows, &answer); err != nil {
			return ReplayAnswer{}, err
		}
	}
	if failed != nil {
		return ReplayAnswer{}, failed
	}
	e := mayfly.PoliciesReplayed{By: w.name(), Candidate: answer.Candidate, Decisions: answer.Decisions, Changed: answer.Flips}
	return answer, a.record(ctx, e, nil)
}

// settleWithin is how long a replay waits for what was decided just before to get
// its place in the log.
const settleWithin = 2 * time.Second

// settle waits until everything recorded before now has its place in the log, or
// the time is up: then what is missing is not replayed.
func (a *Authority) settle(ctx context.Context) error {
	now := a.clock.now()
	late := time.After(settleWithin)
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	for {
		waiting, err := a.db.Unsequenced(ctx, 1)
		if err != nil || !slices.ContainsFunc(waiting, func(r store.Run) bool { return r.Rows[0].Time.Before(now) }) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-late:
			return nil
		case <-tick.C:
		}
	}
}

// hashOf names a set of policy files.
func hashOf(files map[string][]byte) string {
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		sum := sha256.Sum256(files[name])
		h.Write([]byte(name))
		h.Write([]byte{0})
		h.Write(sum[:])
	}
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

type replay struct {
	a      *Authority
	set    *policy.Set
	bodies *store.Bodies

	mu      sync.Mutex // guards the field below
	bundles map[string]*rules
}

// rules are what of a kept configuration a decision is decided on again with.
type rules struct {
	profiles map[string]*mayfly.Profile
	observed map[string]time.Time
}

// replayed is what became of one record.
type replayed struct {
	kept, unknown bool
	flip          *Flip
}

// batch decides rows again, all processors at once: opening and reading a record
// costs more than deciding on it.
func (r *replay) batch(ctx context.Context, rows []store.EventRow, answer *ReplayAnswer) error {
	results := make([]replayed, len(rows))
	errs := make([]error, len(rows))
	var wg sync.WaitGroup
	part := (len(rows) + runtime.GOMAXPROCS(0) - 1) / runtime.GOMAXPROCS(0)
	for from := 0; from < len(rows); from += part {
		wg.Go(func() {
			for i := from; i < min(from+part, len(rows)); i++ {
				results[i], errs[i] = r.one(ctx, &rows[i])
			}
		})
	}
	wg.Wait()
	for i := range results {
		if errs[i] != nil {
			return errs[i]
		}
		switch one := &results[i]; {
		case one.kept:
			answer.Kept++
		case one.unknown:
			answer.Unknown++
		default:
			answer.Decisions++
			if one.flip != nil {
				answer.Flips++
				if len(answer.Changed) < maxFlips {
					answer.Changed = append(answer.Changed, *one.flip)
				}
			}
		}
	}
	return nil
}

func (r *replay) one(ctx context.Context, row *store.EventRow) (replayed, error) {
	body, err := r.bodies.Open(ctx, row)
	if mayfly.KindOf(err) == mayfly.Gone {
		return replayed{unknown: true}, nil
	} else if err != nil {
		return replayed{}, err
	}
	var e mayfly.CallDecided
	if err := json.Unmarshal(body, &e); err != nil {
		return replayed{}, err
	}
	d := e.Decision
	if e.Snapshot == nil {
		switch d.Term {
		case mayfly.TermLiveness, mayfly.TermToken:
			return replayed{kept: true}, nil
		}
		return replayed{unknown: true}, nil
	}
	kept, err := r.bundle(ctx, row.Bundle())
	if mayfly.KindOf(err) == mayfly.NotFound {
		return replayed{unknown: true}, nil
	} else if err != nil {
		return replayed{}, err
	}
	chain, err := r.a.live.chain(ctx, e.Task)
	if err != nil {
		return replayed{}, err
	}
	kind := e.Surface
	if kind == "authzen" {
		kind = "mcp"
		if t := r.a.Bundle().Targets[e.Target]; t != nil {
			kind = t.Kind
		}
	}
	t := chain[len(chain)-1]
	rec := policy.Recorded{
		Decision: d, Call: mayfly.Call{Kind: kind, Target: e.Target, Action: e.Action},
		Snapshot: e.Snapshot, At: row.Time, SourceIP: e.Source, TrustDomain: r.a.Bundle().TrustDomain,
		Observed: row.Time.Before(kept.observed[e.Target]),
	}
	for _, up := range chain {
		rec.Chain = append(rec.Chain, policy.Link{Task: up, Profile: kept.profiles[up.Profile]})
	}
	verdict, term, policies := policy.Redecide(&rec, r.set)
	if verdict == d.Verdict && (verdict == mayfly.Allow || term == d.Term) {
		return replayed{}, nil
	}
	return replayed{flip: &Flip{
		Decision: d.ID, Time: row.Time, Task: e.Task, Profile: t.Profile, Root: e.Root.ID, Grant: kind + ":" + e.Target + ":" + e.Action,
		Was: d.Verdict, WasTerm: d.Term, Now: verdict, Term: term, Policies: policies,
	}}, nil
}

func (r *replay) bundle(ctx context.Context, hash string) (*rules, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if of := r.bundles[hash]; of != nil {
		return of, nil
	}
	k, err := r.a.kept(ctx, hash)
	if err != nil {
		return nil, err
	}
	of := &rules{profiles: map[string]*mayfly.Profile{}, observed: k.Observed}
	for name, p := range k.Profiles {
		profile := &mayfly.Profile{Name: name, Owner: p.Owner, Risk: p.Risk}
		for _, a := range p.Approvals {
			profile.Approvals = append(profile.Approvals, mayfly.ApprovalRule{ID: a.ID, Calls: a.Calls, Group: a.Group})
		}
		of.profiles[name] = profile
	}
	r.bundles[hash] = of
	return of, nil
}
