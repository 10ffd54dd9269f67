package server

import (
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/authority"
)

// The handlers of /v1: each reads its parameters and asks authority, which
// finds out who is asking before anything else.

func (c *call) tasks() (authority.TaskPage, error) {
	limit, err := c.limit()
	if err != nil {
		return authority.TaskPage{}, err
	}
	return c.s.a.Tasks(c.ctx(), c.presented(), authority.TaskFilter{
		State: c.query.Get("state"), Profile: c.query.Get("profile"), Root: c.query.Get("root"),
		Target: c.query.Get("target"), Cursor: c.query.Get("cursor"), Limit: limit,
	})
}

func (c *call) task() (authority.TaskView, error) {
	return c.s.a.Task(c.ctx(), c.presented(), c.values["id"])
}

// tree is a list with no pages.
type tree struct {
	Tasks []authority.TaskView `json:"tasks"`
}

func (c *call) tree() (tree, error) {
	tasks, err := c.s.a.Tree(c.ctx(), c.presented(), c.values["id"])
	return tree{tasks}, err
}

func (c *call) taskEvents() (authority.EventPage, error) {
	limit, err := c.limit()
	if err != nil {
		return authority.EventPage{}, err
	}
	return c.s.a.Events(c.ctx(), c.presented(), c.values["id"], c.query.Get("cursor"), limit)
}

func (c *call) complete() (authority.TaskView, error) {
	return c.s.a.Complete(c.ctx(), c.presented(), c.values["id"])
}

func (c *call) revoke() (authority.TaskView, error) {
	return c.s.a.Revoke(c.ctx(), c.presented(), c.values["id"])
}

func (c *call) heartbeat() (authority.TaskView, error) {
	return c.s.a.Heartbeat(c.ctx(), c.presented(), c.values["id"])
}

// narrowing is what is left of a task's grants. It must be said: leaving it out
// is not leaving nothing.
type narrowing struct {
	Grants *[]mayfly.Grant `json:"grants"`
}

func (c *call) narrow(in narrowing) (authority.TaskView, error) {
	if in.Grants == nil {
		return authority.TaskView{}, mayfly.Errorf(mayfly.Invalid, "say what is left: grants is required, and may be empty")
	}
	return c.s.a.Narrow(c.ctx(), c.presented(), c.values["id"], *in.Grants)
}

// delegation asks for a ticket. Times are durations as Go writes them: 90s, 15m.
type delegation struct {
	Profile string         `json:"profile"`
	Purpose string         `json:"purpose"`
	Grants  []mayfly.Grant `json:"grants"`
	TTL     string         `json:"ttl"`
	TaskTTL string         `json:"task_ttl"`
	Uses    int64          `json:"uses"`
}

func (c *call) delegate(in delegation) (authority.DelegateAnswer, error) {
	ttl, err := duration("ttl", in.TTL)
	if err != nil {
		return authority.DelegateAnswer{}, err
	}
	taskTTL, err := duration("task_ttl", in.TaskTTL)
	if err != nil {
		return authority.DelegateAnswer{}, err
	}
	return c.s.a.Delegate(c.ctx(), c.presented(), authority.DelegateRequest{
		Profile: in.Profile, Purpose: in.Purpose, Grants: in.Grants, TTL: ttl, TaskTTL: taskTTL, Uses: in.Uses,
	})
}

func duration(name, text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return 0, mayfly.Errorf(mayfly.Invalid, "%s must be a duration such as 90s or 15m", name)
	}
	return d, nil
}

// revocation names what the kill switch is thrown for: exactly one member.
type revocation struct {
	Human   *string `json:"human"`
	Service *string `json:"service"`
	Profile *string `json:"profile"`
	Source  *string `json:"source"`
	Client  *string `json:"client"`
	All     *bool   `json:"all"`
}

// one is the kind and value of the one member set.
func (r revocation) one() (kind, value string, err error) {
	set := 0
	for _, m := range []struct {
		kind  string
		value *string
	}{{"human", r.Human}, {"service", r.Service}, {"profile", r.Profile}, {"source", r.Source}, {"client", r.Client}} {
		if m.value != nil {
			kind, value = m.kind, *m.value
			set++
		}
	}
	if r.All != nil {
		kind, value = "all", ""
		set++
	}
	if set != 1 || kind != "all" && value == "" || r.All != nil && !*r.All {
		return "", "", mayfly.Errorf(mayfly.Invalid, "name exactly one of human, service, profile, source or client with its id, or all as true")
	}
	return kind, value, nil
}

// revoked is the answer of the kill switch.
type revoked struct {
	Revocation mayfly.Revocation `json:"revocation"`
}

func (c *call) revokeAll(in revocation) (revoked, error) {
	kind, value, err := in.one()
	if err != nil {
		return revoked{}, err
	}
	r, err := c.s.a.RevokeAll(c.ctx(), c.presented(), kind, value)
	return revoked{r}, err
}

// erasure names who is to be erased.
type erasure struct {
	Human string `json:"human"`
}

func (c *call) erase(in erasure) (authority.Erased, error) {
	if in.Human == "" {
		return authority.Erased{}, mayfly.Errorf(mayfly.Invalid, "human is missing; say who is to be erased")
	}
	return c.s.a.Erase(c.ctx(), c.presented(), in.Human)
}

// standing are the revocations in force.
type standing struct {
	Revocations []mayfly.Revocation `json:"revocations"`
}

func (c *call) revocations() (standing, error) {
	rs, err := c.s.a.Revocations(c.ctx(), c.presented())
	return standing{rs}, err
}

func (c *call) liftRevocation() error {
	return c.s.a.LiftRevocation(c.ctx(), c.presented(), c.values["id"])
}

func (c *call) compromiseKey() error {
	return c.s.a.CompromiseKey(c.ctx(), c.presented(), c.values["kid"])
}

func (c *call) trace() (authority.TraceView, error) {
	return c.s.a.Trace(c.ctx(), c.presented(), c.values["id"])
}
