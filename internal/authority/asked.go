package authority

import (
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/strictjson"
)

// asked is what a request asks to be granted, in its three spellings.
type asked struct {
	scope   string         // short forms, space separated (RFC 6749 section 3.3)
	details string         // a JSON array of mayfly_grant objects (RFC 9396)
	grants  []mayfly.Grant // already parsed: those without limits count as short forms
}

const maxAsked = 100 // grants in one request

// askedGrants is what a task is to be granted: what was asked, else the
// ticket's, else the profile's default.
//
// A short form takes on the limits of whatever covers it. An object says its
// limits itself, and must be within every ceiling: one that leaves out a limit
// of its ceiling is refused, not completed.
func askedGrants(q asked, p *mayfly.Profile, parent *mayfly.Task, ticket *mayfly.Delegation) ([]mayfly.Grant, error) {
	var short, long []mayfly.Grant
	for _, s := range strings.Fields(q.scope) {
		g, err := mayfly.ParseGrant(s)
		if err != nil {
			return nil, mayfly.Coded(mayfly.Invalid, "invalid_scope", "%s", mayfly.AsError(err).Message)
		}
		short = append(short, g)
	}
	if q.details != "" {
		var objects []jsontext.Value
		if err := strictjson.Unmarshal([]byte(q.details), strictjson.Ours, &objects); err != nil {
			return nil, badDetails(err)
		}
		for _, o := range objects {
			g, err := mayfly.ParseGrantObject(o)
			if err != nil {
				return nil, badDetails(err)
			}
			long = append(long, g)
		}
	}
	for _, g := range q.grants {
		if g.Limited() {
			long = append(long, g)
		} else {
			short = append(short, g)
		}
	}
	// The same grant in both spellings: the object counts.
	short = slices.DeleteFunc(short, func(s mayfly.Grant) bool {
		return slices.ContainsFunc(long, func(l mayfly.Grant) bool { return l.String() == s.String() })
	})
	if len(short)+len(long) > maxAsked {
		return nil, mayfly.Coded(mayfly.Invalid, "invalid_scope", "at most %d grants can be asked for at once", maxAsked)
	}

	ceilings := [][]mayfly.Grant{p.Grants}
	if parent != nil {
		ceilings = append(ceilings, parent.Grants)
	}
	if ticket != nil {
		ceilings = append(ceilings, ticket.Grants)
	}
	if len(short)+len(long) == 0 {
		if ticket != nil {
			return ticket.Grants, nil
		}
		if len(p.Default) == 0 {
			return nil, mayfly.Coded(mayfly.Invalid, "invalid_scope",
				"say what the task needs; this profile allows: %s", listGrants(p.Grants))
		}
		short = p.Default
	}
	var granted []mayfly.Grant
	for _, g := range long {
		cut, err := mayfly.Cut(g, ceilings...)
		if err != nil {
			return nil, badDetails(err)
		}
		granted = append(granted, cut)
	}
	for _, g := range short {
		inherited, err := mayfly.Inherit(g, ceilings...)
		if err != nil {
			return nil, mayfly.Coded(mayfly.Invalid, "invalid_scope",
				"%s is more than can be granted here; what can be: %s", g, listGrants(ceilings[len(ceilings)-1]))
		}
		granted = append(granted, inherited...)
	}
	return granted, nil
}

func badDetails(err error) error {
	return mayfly.Coded(mayfly.Invalid, "invalid_authorization_details", "%s", mayfly.AsError(err).Message)
}

// listGrants writes grants for a person, the first few of them.
func listGrants(grants []mayfly.Grant) string {
	const most = 20
	var b strings.Builder
	for i, g := range grants {
		if i == most {
			b.WriteString(" …")
			break
		}
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(g.String())
	}
	return b.String()
}

// scopeOf writes grants as a scope parameter; a grant with limits is in
// authorization_details as well.
func scopeOf(grants []mayfly.Grant) string {
	var words []string
	for _, g := range grants {
		if !slices.Contains(words, g.String()) {
			words = append(words, g.String())
		}
	}
	return strings.Join(words, " ")
}
