package policy

import (
	"slices"
	"testing"

	"github.com/cedar-policy/cedar-go"
	"pgregory.net/rapid"
)

// S-96: policies in buckets, asked with no more of the context and of the
// entities than they read, say what each says when Cedar is asked about it alone
// with everything: the same permits, forbids and errors.
func TestS96PoliciesInBucketsSayWhatEachSaysAlone(t *testing.T) {
	checks(t, 1000)
	told := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		s, text := drawSet(t)
		for range 10 {
			q := drawQuestion(t, s)
			saw, _ := q.sight()
			w := q.world(saw)
			for _, action := range []cedar.EntityUID{actionUse, actionDelegate, actionApprove} {
				for _, principal := range []being{w.root, w.agent(q.Chain[len(q.Chain)-1].Task)} {
					want, got := askPlain(t, s, w, action, principal), w.ask(s, action, principal)
					told["pairs"]++
					told["permits"] += len(want.permits)
					told["forbids"] += len(want.forbids)
					told["errors"] += len(want.erred)
					if got.broken || !slices.Equal(got.permits, want.permits) || !slices.Equal(got.forbids, want.forbids) ||
						!slices.Equal(got.firm, want.firm) || !slices.Equal(got.erred, want.erred) || !slices.Equal(got.lifts.groups, want.lifts) {
						t.Fatalf("%v may %v %v: in buckets %+v, each alone %+v, of\n%s", principal, action, w.resource, got, want, text)
					}
				}
			}
		}
	})
	t.Logf("%v", told)
	if told["pairs"] < 10_000 || told["permits"] == 0 || told["forbids"] == 0 || told["errors"] == 0 {
		t.Errorf("too little was asked: %v", told)
	}
}
