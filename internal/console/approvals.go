package console

import (
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/authority"
	"github.com/mayfly-id/mayfly/internal/strictjson"
)

// approvals is what waits for a human, and what was answered lately.
func (v *visit) approvals() error {
	page, err := v.c.a.Approvals(v.ctx(), v.presented(), false, v.r.URL.Query().Get("cursor"), 100)
	if err != nil {
		return err
	}
	var body struct {
		Waiting, Answered []authority.ApprovalView
		Next              string
	}
	for _, a := range page.Approvals {
		if a.State == mayfly.Waiting {
			body.Waiting = append(body.Waiting, a)
		} else {
			body.Answered = append(body.Answered, a)
		}
	}
	body.Next = page.Next
	return v.show(http.StatusOK, "approvals", "Approvals", "approvals", body)
}

// argument is one thing that would be sent, and what it was in what was approved
// before.
type argument struct {
	Name, Value string
	Before      string
	Changed     bool
	New         bool // there was none such before
	Unknown     bool // what it was before was not kept
}

// approvalPage is one request.
type approvalPage struct {
	authority.ApprovalView
	Arguments []argument
	Gone      []argument // what was approved before, and is not asked for now
	Grants    []string   // asked for
	Body      string     // of a body that is no JSON
	Unread    string     // a request that cannot be told apart, as it is
	Before    *authority.ApprovalView
	Again     string // where the human shows once more who they are; "" if they need not
}

// approval shows one request, against what was approved before of its kind.
func (v *visit) approval() error {
	a, err := v.c.a.Approval(v.ctx(), v.presented(), v.r.PathValue("id"))
	if err != nil {
		return err
	}
	b := approvalPage{ApprovalView: a}
	if !v.me.Fresh(v.now) {
		b.Again = againTo(v.r.URL.Path)
	}
	b.read(a.Request)
	if err := v.compare(&b); err != nil {
		return err
	}
	return v.show(http.StatusOK, "approval", "Approval", "approvals", b)
}

// read puts what would be sent into lines. What it cannot, it shows as it is.
func (b *approvalPage) read(request jsontext.Value) {
	if len(request) == 0 {
		return
	}
	var r struct {
		Arguments map[string]jsontext.Value `json:"arguments"`
		Grants    []jsontext.Value          `json:"grants"`
		Digest    string                    `json:"digest"`
		Size      int64                     `json:"size"`
	}
	if err := strictjson.UnmarshalLenient(request, strictjson.Limits{Bytes: 1 << 20, Depth: 64}, &r); err != nil {
		b.Unread = shown(string(request))
		return
	}
	for _, name := range slices.Sorted(maps.Keys(r.Arguments)) {
		b.Arguments = append(b.Arguments, argument{Name: shown(name), Value: shown(string(r.Arguments[name]))})
	}
	for _, g := range r.Grants {
		b.Grants = append(b.Grants, shown(string(g)))
	}
	if r.Digest != "" {
		b.Body = shown(r.Digest)
	}
}

// shownMost is the longest text from outside that is shown on one line, in
// characters. Nobody is asked about a request that is longer.
const shownMost = 16 << 10

// shown is text from outside for a person who decides on it.
func shown(s string) string { return authority.Plain(s, shownMost) }

// compare finds what was approved last of the same task and kind, and says what
// differs: of what can still be used all arguments, else the facts that were kept.
func (v *visit) compare(b *approvalPage) error {
	if b.Task == "" || b.State != mayfly.Waiting {
		return nil
	}
	page, err := v.c.a.Approvals(v.ctx(), v.presented(), false, "", 500)
	if err != nil {
		return err
	}
	for _, a := range page.Approvals {
		if a.ID == b.ID || a.Task != b.Task || a.Grant != b.Grant || a.State != mayfly.Approved && a.State != mayfly.Used {
			continue
		}
		before := approvalPage{ApprovalView: a}
		before.read(a.Request)
		known := map[string]string{}
		for _, one := range before.Arguments {
			known[one.Name] = one.Value
		}
		whole := len(a.Request) > 0
		if !whole {
			x, err := v.c.a.Explain(v.ctx(), v.presented(), a.Decision)
			if err != nil {
				return err
			}
			for _, f := range factsOf(x.Snapshot) {
				known[f.Name] = f.Value
			}
		}
		b.Before = &a
		for i := range b.Arguments {
			one := &b.Arguments[i]
			was, there := known[one.Name]
			is := one.Value
			if !whole {
				is = unquoted(is) // as facts are kept
			}
			one.Before, one.New, one.Unknown, one.Changed = was, whole && !there, !whole && !there, there && was != is
			delete(known, one.Name)
		}
		for _, name := range slices.Sorted(maps.Keys(known)) {
			b.Gone = append(b.Gone, argument{Name: name, Before: known[name]})
		}
		return nil
	}
	return nil
}

// unquoted is the text of a JSON string, and every other value as it is.
func unquoted(s string) string { return strings.Trim(s, `"`) }

// answer says yes or no.
func (v *visit) answer() error {
	id, note := v.r.PathValue("id"), strings.TrimSpace(v.r.PostForm.Get("note"))
	var err error
	switch v.r.PostForm.Get("answer") {
	case "approve":
		_, err = v.c.a.Approve(v.ctx(), v.presented(), id, note)
	case "deny":
		_, err = v.c.a.Deny(v.ctx(), v.presented(), id, note)
	default:
		err = mayfly.Errorf(mayfly.Invalid, "say approve or deny")
	}
	if err != nil {
		return err
	}
	return v.seeOther("/console/approvals/" + id)
}
