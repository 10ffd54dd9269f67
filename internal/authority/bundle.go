package authority

import (
	"strings"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/attest"
	"github.com/mayfly-id/mayfly/internal/broker"
	"github.com/mayfly-id/mayfly/internal/policy"
)

// Bundle is one configuration, read and checked as a whole. It does not change;
// a reload replaces it. Hash names it in every decision.
type Bundle struct {
	Hash        string // of mayfly.yaml, the profiles and the policies
	TrustDomain string
	Issuer      string // exact, no trailing slash
	Hosts       []string
	Audiences   []string // further audiences a token may be for
	Profiles    map[string]*mayfly.Profile
	Targets     map[string]*mayfly.Target
	Lenders     map[string]broker.Target // those of Targets that lend
	Sources     *attest.Sources
	Policies    *policy.Set
	PolicyFiles map[string][]byte // the text of Policies, by file name
	// ProfileFiles are the texts of Profiles, by the name of the profile.
	ProfileFiles map[string][]byte
	Schema       policy.Schema         // what Policies were checked against
	Clients      map[string]ClientInfo // OAuth clients by id
	Webhooks     []Webhook

	hasLabels bool // what a tree has seen matters; ready works it out
}

// Webhook is told of approvals that wait.
type Webhook struct {
	URL    string
	Secret mayfly.Secret // signs what is sent
}

// ClientInfo is what an OAuth client may ask about.
type ClientInfo struct {
	Audience string // the audience of the tokens it may introspect
}

// audience reports whether a token may be for aud, and the target it is for.
// The issuer itself has none.
func (b *Bundle) audience(aud string) (target *mayfly.Target, ok bool) {
	if aud == b.Issuer {
		return nil, true
	}
	if rest, found := strings.CutPrefix(aud, b.Issuer+"/"); found {
		kind, name, _ := strings.Cut(rest, "/")
		if t := b.Targets[name]; t != nil && t.Kind == kind {
			return t, true
		}
	}
	for _, extra := range b.Audiences {
		if aud == extra {
			return nil, true
		}
	}
	return nil, false
}
