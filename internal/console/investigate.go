package console

import (
	"html/template"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/authority"
	"github.com/mayfly-id/mayfly/internal/reach"
	"github.com/mayfly-id/mayfly/internal/search"
)

// asked are the questions of the page, as its form has them.
type asked struct {
	Human, Agent, Profile, Target, Tool, Label, Term, Kind, Since string
}

// spans are what Since can be.
var spans = map[string]time.Duration{"1h": time.Hour, "24h": 24 * time.Hour, "7d": 7 * 24 * time.Hour, "30d": 30 * 24 * time.Hour}

func (q asked) query(now time.Time) search.Query {
	out := search.Query{
		Human: q.Human, Agent: q.Agent, Profile: q.Profile, Target: q.Target, Tool: q.Tool, Label: q.Label, Term: q.Term, Kind: q.Kind,
	}
	if d, ok := spans[q.Since]; ok {
		out.Since = now.Add(-d)
	}
	return out
}

func (q asked) values() url.Values {
	v := url.Values{}
	for name, value := range map[string]string{
		"human": q.Human, "agent": q.Agent, "profile": q.Profile, "target": q.Target, "tool": q.Tool, "label": q.Label, "term": q.Term, "kind": q.Kind,
		"since": q.Since,
	} {
		if value != "" {
			v.Set(name, value)
		}
	}
	return v
}

// Of is what is asked about, in words.
func (q asked) Of() string {
	for _, word := range []string{q.Human, q.Agent, q.Profile} {
		if word != "" {
			return word
		}
	}
	return "all of it"
}

// found is the answer.
type found struct {
	Asked asked
	ID    string
	Any   bool
	Lines []line
	Next  string // address of the next page
	// Reach is what was touched, where that was asked.
	Reach   *reach.Reach
	Touched []reach.Touched
	Drawing template.HTML
	Partial bool   // there is more than was read
	Spread  string // address of the same question with what was touched
}

// How many records one page shows, and how many are read to say what was touched.
const (
	foundShown = 100
	reachMost  = 5000
)

// investigate answers who touched what.
func (v *visit) investigate() error {
	q := v.r.URL.Query()
	get := func(name string) string { return strings.TrimSpace(q.Get(name)) }
	if id := get("id"); id != "" {
		return v.behind(id)
	}
	b := found{Asked: asked{
		Human: get("human"), Agent: get("agent"), Profile: get("profile"), Target: get("target"), Tool: get("tool"), Label: get("label"),
		Term: get("term"), Kind: get("kind"), Since: get("since"),
	}}
	values := b.Asked.values()
	b.Any = len(values) > 0
	if b.Any && q.Get("reach") != "" {
		if err := v.spread(&b); err != nil {
			return err
		}
	} else if b.Any {
		query := b.Asked.query(v.now)
		query.Cursor, query.Limit = q.Get("cursor"), foundShown
		page, err := v.c.a.Search(v.ctx(), v.presented(), query)
		if err != nil {
			return err
		}
		for i := range page.Events {
			b.Lines = append(b.Lines, tell(&page.Events[i]))
		}
		if page.Next != "" {
			values.Set("cursor", page.Next)
			b.Next = "/console/investigate?" + values.Encode()
			values.Del("cursor")
		}
		values.Set("reach", "1")
		b.Spread = "/console/investigate?" + values.Encode()
	}
	return v.show(http.StatusOK, "investigate", "Investigate", "investigate", b)
}

// behind leads from any id to the task behind it.
func (v *visit) behind(id string) error {
	trace, err := v.c.a.Trace(v.ctx(), v.presented(), id)
	if err != nil {
		return err
	}
	own := trace.Tasks[len(trace.Tasks)-1]
	if strings.HasPrefix(id, "dec_") {
		return v.seeOther("/console/decisions/" + url.PathEscape(id))
	}
	return v.seeOther("/console/tasks/" + string(own.ID))
}

// spread reads what was touched, and draws it.
func (v *visit) spread(b *found) error {
	r := reach.Reach{Of: b.Asked.Of()}
	known := map[mayfly.TaskID]bool{"": true}
	read := 0
	for _, kind := range []string{(mayfly.CallDecided{}).Kind(), (mayfly.TaskOpened{}).Kind()} {
		query := b.Asked.query(v.now)
		query.Kind, query.Limit = kind, 500
		for {
			page, err := v.c.a.Search(v.ctx(), v.presented(), query)
			if err != nil {
				return err
			}
			for i := range page.Events {
				e := &page.Events[i]
				noteIn(&r, e)
				if known[e.Task] {
					continue
				}
				known[e.Task] = true
				if len(r.Tasks) >= reach.DrawnMost {
					b.Partial = true
					continue
				}
				if err := v.addTask(&r, string(e.Task)); err != nil {
					return err
				}
			}
			read += len(page.Events)
			if query.Cursor = page.Next; page.Next == "" {
				break
			}
			if read >= reachMost {
				b.Partial = true
				break
			}
		}
	}
	b.Reach, b.Touched = &r, r.Touched()
	b.Drawing = template.HTML(r.Graph().Inline("reach"))
	return nil
}

func (v *visit) addTask(r *reach.Reach, id string) error {
	t, err := v.c.a.Task(v.ctx(), v.presented(), id)
	if err != nil {
		return err
	}
	r.Tasks = append(r.Tasks, boxOf(t, false))
	leases, err := v.c.a.Leases(v.ctx(), v.presented(), id)
	if err != nil {
		return err
	}
	for _, l := range leases {
		r.Leases = append(r.Leases, reach.Lease{ID: l.Lease, Task: l.Task, Grant: l.Grant, Principal: l.Principal, State: l.State})
	}
	return nil
}

// rules shows the reviewed files in force.
func (v *visit) rules() error {
	rules, err := v.c.a.Rules(v.ctx(), v.presented())
	if err != nil {
		return err
	}
	return v.show(http.StatusOK, "rules", "Profiles and policies", "rules", rules)
}

// profilePage is one profile, and what of it is used.
type profilePage struct {
	authority.ProfileView
	Bundle string
	Used   []usedGrant
	Read   int // decisions that were looked at
	More   bool
}

// usedGrant is one grant of a ceiling, and how often it was asked for.
type usedGrant struct {
	Grant            mayfly.Grant
	Allowed, Refused int
}

// usedRead is how many decisions are read to say what is used.
const usedRead = 2000

// profile shows one profile, and what of it the tasks that this human may read have
// used lately.
func (v *visit) profile() error {
	rules, err := v.c.a.Rules(v.ctx(), v.presented())
	if err != nil {
		return err
	}
	b := profilePage{Bundle: rules.Bundle}
	for _, p := range rules.Profiles {
		if p.Name == v.r.PathValue("name") {
			b.ProfileView = p
		}
	}
	if b.Name == "" {
		return mayfly.Errorf(mayfly.NotFound, "there is no such profile in force")
	}
	for _, g := range b.Grants {
		b.Used = append(b.Used, usedGrant{Grant: g})
	}
	query := search.Query{Profile: b.Name, Kind: (mayfly.CallDecided{}).Kind(), Limit: 500}
	for b.Read < usedRead {
		page, err := v.c.a.Search(v.ctx(), v.presented(), query)
		if err != nil {
			return err
		}
		for i := range page.Events {
			b.count(&page.Events[i])
		}
		b.Read += len(page.Events)
		if query.Cursor = page.Next; page.Next == "" {
			break
		}
		b.More = b.Read >= usedRead
	}
	return v.show(http.StatusOK, "profile", "Profile "+b.Name, "rules", b)
}

// count adds a decision to the grant that it fell under, by its pattern.
func (b *profilePage) count(e *authority.EventView) {
	what := body(e.Body)
	for i := range b.Used {
		u := &b.Used[i]
		for _, kind := range []string{"mcp", "http", u.Grant.Kind} {
			call := mayfly.Call{Kind: kind, Target: what.text("target"), Action: what.text("action")}
			if !u.Grant.Covers(&call) {
				continue
			}
			if what.verdict() == mayfly.Allow {
				u.Allowed++
			} else {
				u.Refused++
			}
			return
		}
	}
}

// health shows how the installation does.
func (v *visit) health() error {
	status, err := v.c.a.Status(v.ctx(), v.presented())
	if err != nil {
		return err
	}
	return v.show(http.StatusOK, "health", "Health", "health", status)
}
