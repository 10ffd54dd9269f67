package authority

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/mayfly-id/mayfly"
)

// StatusView is how an installation does, as this node sees it.
type StatusView struct {
	Node    string    `json:"node"` // that answers
	Version string    `json:"version"`
	Bundle  string    `json:"bundle"`
	Now     time.Time `json:"now"`
	Ready   bool      `json:"ready"`
	Problem string    `json:"problem,omitempty"` // why it is not ready
	// AuthorityUntil is until when this node decides without hearing from the store
	// again: its authority lease. It is not after Now where the lease is out.
	AuthorityUntil time.Time  `json:"authority_until"`
	Epoch          int64      `json:"epoch"` // the newest
	Nodes          []NodeView `json:"nodes"`
	Log            LogView    `json:"log"`
	// Readers are how many records each reader of the log has yet to read.
	Readers   map[string]int64 `json:"readers"`
	Tasks     TaskCounts       `json:"tasks"`
	Leases    LeaseCounts      `json:"leases"`
	Approvals int64            `json:"approvals_waiting"`
}

// NodeView is a node that runs, and how far it follows revocations.
type NodeView struct {
	Node  string    `json:"node"`
	Epoch int64     `json:"epoch"` // it denies whatever ended by this one
	At    time.Time `json:"at"`    // since when, at the latest
}

// LogView is how far the log has come.
type LogView struct {
	Origin       string     `json:"origin"`
	VKey         string     `json:"vkey"`
	Records      int64      `json:"records"` // under the newest checkpoint
	CheckpointAt time.Time  `json:"checkpoint_at,omitzero"`
	Anchored     int64      `json:"anchored"` // of them, those under one that witnesses cosigned
	UnanchoredAt *time.Time `json:"unanchored_since,omitempty"`
	Alarm        string     `json:"alarm,omitempty"` // what was found altered
}

// TaskCounts are tasks by state.
type TaskCounts struct {
	Live     int64 `json:"live"`
	Retiring int64 `json:"retiring"`
}

// LeaseCounts are leases by state; Stuck are those of Ending that cannot be
// returned.
type LeaseCounts struct {
	Lent   int64 `json:"lent"`
	Ending int64 `json:"ending"`
	Stuck  int64 `json:"stuck"`
}

// Status is how the installation does: for the operator, and for humans with
// what no agent is handed.
func (a *Authority) Status(ctx context.Context, p Presented) (StatusView, error) {
	if err := a.mayLook(ctx, &p, "status"); err != nil {
		return StatusView{}, err
	}
	now := a.clock.now()
	counts, err1 := a.db.Standing(ctx, now)
	head, err2 := a.db.Head(ctx)
	anchor, err3 := a.db.Anchor(ctx)
	readers, err4 := a.db.Sinks(ctx)
	nodes, err5 := a.db.Followers(ctx, now)
	epoch, err6 := a.db.Epoch(ctx)
	if err := errors.Join(err1, err2, err3, err4, err5, err6); err != nil {
		return StatusView{}, err
	}
	v := StatusView{
		Node: a.node, Version: a.version, Bundle: a.Bundle().Hash, Now: now, AuthorityUntil: now.Add(a.lease.left(a.clock)), Epoch: epoch, Nodes: []NodeView{}, Readers: map[string]int64{},
		Log: LogView{
			Origin: a.log.Origin(), VKey: a.log.VKey(), Records: head.Size, CheckpointAt: head.At, Anchored: anchor.Size, Alarm: a.log.Alarm(),
		},
		Tasks:  TaskCounts{counts.Live, counts.Retiring},
		Leases: LeaseCounts{counts.Lent, counts.Ending, counts.Stuck}, Approvals: counts.Waiting,
	}
	if !anchor.UnanchoredAt.IsZero() {
		v.Log.UnanchoredAt = &anchor.UnanchoredAt
	}
	if err := a.mayIssue(); err != nil {
		v.Problem = mayfly.AsError(err).Message
	}
	v.Ready = v.Problem == ""
	for _, n := range nodes {
		v.Nodes = append(v.Nodes, NodeView(n))
	}
	for name, at := range readers {
		v.Readers[name] = max(0, head.Size-1-at)
	}
	return v, nil
}

// RulesView are the reviewed files in force.
type RulesView struct {
	Bundle   string        `json:"bundle"`
	Profiles []ProfileView `json:"profiles"` // by name
	Policies []FileView    `json:"policies"` // by name
	Targets  []TargetView  `json:"targets"`  // by name
}

// ProfileView is a profile, and its file as it was written.
type ProfileView struct {
	Name        string         `json:"name"`
	Description string         `json:"description,omitempty"`
	Owner       string         `json:"owner"`
	Class       string         `json:"class"`
	Risk        mayfly.Risk    `json:"risk"`
	ReviewBy    time.Time      `json:"review_by,omitzero"`
	Grants      []mayfly.Grant `json:"grants"` // the ceiling
	Text        string         `json:"text,omitempty"`
}

// FileView is a file as it was written.
type FileView struct {
	Name string `json:"name"`
	Text string `json:"text"`
}

// TargetView is an outside system. Where it is is told to nobody.
type TargetView struct {
	Name   string   `json:"name"`
	Kind   string   `json:"kind"`
	Labels []string `json:"labels,omitempty"`
}

// Rules are the profiles, policies and targets in force: for the operator, and for
// humans with what no agent is handed.
func (a *Authority) Rules(ctx context.Context, p Presented) (RulesView, error) {
	if err := a.mayLook(ctx, &p, "rules"); err != nil {
		return RulesView{}, err
	}
	b := a.Bundle()
	v := RulesView{Bundle: b.Hash, Profiles: []ProfileView{}, Policies: []FileView{}, Targets: []TargetView{}}
	for _, name := range slices.Sorted(maps.Keys(b.Profiles)) {
		one := b.Profiles[name]
		v.Profiles = append(v.Profiles, ProfileView{
			Name: name, Description: one.Description, Owner: one.Owner, Class: string(one.Class), Risk: one.Risk, ReviewBy: one.ReviewBy,
			Grants: one.Grants, Text: string(b.ProfileFiles[name]),
		})
	}
	for _, name := range slices.Sorted(maps.Keys(b.PolicyFiles)) {
		v.Policies = append(v.Policies, FileView{name, string(b.PolicyFiles[name])})
	}
	for _, name := range slices.Sorted(maps.Keys(b.Targets)) {
		v.Targets = append(v.Targets, TargetView{name, b.Targets[name].Kind, b.Targets[name].Labels})
	}
	return v, nil
}

// mayLook lets in whoever may see how the installation does and what its rules are:
// the operator, and every human with what no agent is handed. Whose tasks they see,
// policies say.
func (a *Authority) mayLook(ctx context.Context, p *Presented, what string) error {
	w, err := a.identify(ctx, p)
	if err != nil {
		return err
	}
	if _, human := w.human(); !w.operator && !human {
		return a.refuse(ctx, w.refused(what), mayfly.Errorf(mayfly.NotFound, "nothing here for you; use the admin socket, or the console"), w.burn(a))
	}
	return nil
}
