package policy

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"slices"
	"testing"

	"github.com/cedar-policy/cedar-go"
	"pgregory.net/rapid"

	"github.com/mayfly-id/mayfly"
)

// oracle is the engine of those who define Cedar, in a process of its own.
type oracle struct {
	in  io.Writer
	out *bufio.Reader
}

// newOracle starts it. Without Node.js and the npm peers the test is skipped, and
// with CI=true it fails.
func newOracle(t *testing.T) *oracle {
	t.Helper()
	const peers = "../../test/peers"
	missing := t.Skipf
	if os.Getenv("CI") == "true" {
		missing = t.Fatalf
	}
	if _, err := os.Stat(peers + "/node_modules/@cedar-policy/cedar-wasm"); err != nil {
		missing("the npm peers are not installed (%v); run npm ci --prefix test/peers", err)
	}
	cmd := exec.CommandContext(t.Context(), "node", "cedar.mjs") // killed when the test is over
	cmd.Dir, cmd.Stderr = peers, os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		missing("node: %v", err)
	}
	t.Cleanup(func() { _ = cmd.Wait() }) // it was killed
	return &oracle{in, bufio.NewReader(out)}
}

// told is an answer of the oracle's.
type told struct {
	Refused   string            // why it took the question for none
	Satisfied []string          // ids of policies that say what they are there to say
	Erred     []string          // ids of policies that err
	Problems  map[string]string // why policies do not fit a schema, by id
}

func (o *oracle) ask(t rapid.TB, question any) (v told) {
	t.Helper()
	line, err := json.Marshal(question)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.in.Write(append(line, '\n')); err != nil {
		t.Fatal(err)
	}
	answer, err := o.out.ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(answer, &v); err != nil {
		t.Fatal(err)
	}
	if v.Refused != "" {
		t.Fatalf("the oracle does not take %s: %s", line, v.Refused)
	}
	return v
}

// policiesOf are the policies of s by id, each as Cedar writes it.
func policiesOf(s *Set) map[string]string {
	all := map[string]string{}
	for _, e := range s.policies {
		all[e.id] = string(e.policy.MarshalCedar())
	}
	return all
}

func asJSON(uid cedar.EntityUID) map[string]string {
	return map[string]string{"type": string(uid.Type), "id": string(uid.ID)}
}

// Two engines of two languages by two groups of people say the same: which policies
// apply, and which err. So does what is decided on in buckets.
func TestCedarInGoSaysWhatCedarInRustSays(t *testing.T) {
	checks(t, 700)
	o := newOracle(t)
	counted := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		s, text := drawSet(t)
		for range 4 {
			q := drawQuestion(t, s)
			saw, _ := q.sight()
			w := q.world(saw)
			action := drawn(t, "asked", actionUse, actionUse, actionDelegate, actionApprove)
			principal := drawn(t, "asking", w.root, w.agent(q.Chain[len(q.Chain)-1].Task))
			entities, request := plainRequest(w, action, principal)
			want := o.ask(t, map[string]any{
				"policies": policiesOf(s), "entities": entities, "context": request.Context,
				"principal": asJSON(request.Principal), "action": asJSON(request.Action), "resource": asJSON(request.Resource),
			})
			for name, got := range map[string]plain{"in buckets": inBuckets(w.ask(s, action, principal)), "each alone": askPlain(t, s, w, action, principal)} {
				satisfied := slices.Sorted(slices.Values(slices.Concat(got.permits, got.forbids)))
				if !slices.Equal(satisfied, slices.Sorted(slices.Values(want.Satisfied))) || !slices.Equal(slices.Sorted(slices.Values(got.erred)), slices.Sorted(slices.Values(want.Erred))) {
					t.Fatalf("%v may %v %v: %s %v apply and %v err; in Rust %v and %v, of\n%s\nwith %v", principal, action, w.resource, name, satisfied, got.erred, want.Satisfied, want.Erred, text, request.Context)
				}
			}
			counted["questions"]++
			counted["satisfied"] += len(want.Satisfied)
			counted["erred"] += len(want.Erred)
		}
	})
	t.Logf("%v", counted)
	if counted["questions"] < 2000 || counted["satisfied"] < 2000 || counted["erred"] < 100 {
		t.Errorf("too little was asked: %v", counted)
	}
}

// inBuckets is what [world.ask] says, as [askPlain] says it.
func inBuckets(v verdict) plain {
	return plain{permits: v.permits, forbids: v.forbids, erred: v.erred}
}

// What `mayfly check` lets through fits the schema for those who define Cedar too,
// so no policy in force can read what is not there.
func TestWhatIsCheckedInGoIsValidInRust(t *testing.T) {
	checks(t, 400)
	o := newOracle(t)
	facts := Schema{Facts: map[string]mayfly.FactType{"amount": mayfly.FactDecimal, "vendor": mayfly.FactString}}
	check, err := newChecker(facts)
	if err != nil {
		t.Fatal(err)
	}
	passed, failed := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		s, _ := drawSet(t)
		problems := o.ask(t, map[string]any{"policies": policiesOf(s), "schema": facts.Text()}).Problems
		for _, e := range s.policies {
			says, _ := check.problem(e.policy)
			if problems[e.id] != "" {
				failed++
				if says == "" {
					t.Errorf("%s passes here, and in Rust: %s", e.policy.MarshalCedar(), problems[e.id])
				}
			} else if says == "" {
				passed++
			}
		}
	})
	t.Logf("%d pass both, %d fail in Rust", passed, failed)
	if passed < 100 || failed < 100 {
		t.Errorf("too little was asked: %d pass, %d fail", passed, failed)
	}
}
