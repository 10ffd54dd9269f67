package search

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/follow"
	"github.com/mayfly-id/mayfly/internal/store"
)

// Index notes what each record of the log mentions. It is made from the log alone,
// by position: a crash leaves it behind, never wrong.
type Index struct {
	db     *store.DB
	logger *slog.Logger
	leads  func() bool
	key    []byte

	mu    sync.Mutex // guards the field below
	tasks map[mayfly.TaskID]agent
}

// agent is what a task is found by.
type agent struct {
	profile, workload string
	service, human    string // the root delegator: one of them is ""
	above             []mayfly.TaskID
}

func (a *agent) delegator(kind mayfly.SubjectKind, id string) {
	if kind == mayfly.Human {
		a.human = id
	} else {
		a.service = id
	}
}

// agentsMost bounds how many tasks an index remembers: some 5 MB.
const agentsMost = 1 << 14

// New makes an index over the log of db. Where leads is given, only a process that
// leads the log writes to it; every process may search.
func New(db *store.DB, logger *slog.Logger, leads func() bool) *Index {
	return &Index{db: db, logger: logger, leads: leads, key: db.Key("search"), tasks: map[mayfly.TaskID]agent{}}
}

// name of the row that says how far the index has come. Where what is noted of a
// record changes, so must it: then the index is made anew.
const name = "search:1"

// Run notes what comes until ctx ends.
func (x *Index) Run(ctx context.Context) {
	l := follow.Loop{DB: x.db, Logger: x.logger, Turn: x.leads, Readers: func() []follow.Reader {
		return []follow.Reader{{Name: name, What: "the search index", Open: func() follow.Teller { return &noting{x: x, bodies: x.db.Bodies()} }}}
	}}
	l.Run(ctx)
}

// noting writes the index.
type noting struct {
	x      *Index
	bodies *store.Bodies
	seen   store.Head // of the log, at the batch before
}

// While more than busy records a second come, only gently of them are noted: a
// record costs the index some 40 µs, which openings and calls would wait for. At
// eight clients that open tasks it took a tenth of what the server does.
const (
	busy   = 2000
	gently = 1000
)

// pace waits while the server is busy, as long as noting n records may take then.
func (n *noting) pace(ctx context.Context, records int) error {
	head, err := n.x.db.Head(ctx)
	if err != nil {
		return err
	}
	before := n.seen
	n.seen = head
	took := head.At.Sub(before.At).Seconds()
	if before.At.IsZero() || took <= 0 || float64(head.Size-before.Size)/took < busy {
		return nil
	}
	wait := time.NewTimer(time.Duration(records) * time.Second / gently)
	defer wait.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-wait.C:
		return nil
	}
}

// together is how many records are noted in one change. The store's one writer
// does it, so it is few: decisions wait behind it.
const together = 256

// Tell notes the first of rows.
func (n *noting) Tell(ctx context.Context, rows []store.EventRow) (int, error) {
	rows = rows[:min(len(rows), together)]
	if err := n.pace(ctx, len(rows)); err != nil {
		return 0, err
	}
	type noted struct {
		at   store.Place
		keys []int64
	}
	list := make([]noted, len(rows))
	for i := range rows {
		names, err := n.x.names(ctx, n.bodies, &rows[i])
		if err != nil {
			return 0, err
		}
		list[i] = noted{store.Place{At: rows[i].Time, Position: *rows[i].Position}, n.x.keys(names)}
	}
	err := n.x.db.Keep(ctx, func(b *store.Books) {
		for _, one := range list {
			b.Mention(one.at, one.keys)
		}
	})
	return len(rows), err
}

// Close does nothing.
func (*noting) Close() {}

// keys are names as the index has them: hashes under a key, which tell whoever
// reads the store nothing; of tasks the beginning of their ids. Two names may have
// one: what is found is compared again.
func (x *Index) keys(names []string) []int64 {
	h := hmac.New(sha256.New, x.key)
	keys := make([]int64, len(names))
	var sum [sha256.Size]byte
	for i, name := range names {
		// Tasks come and go by the thousand. By their time, which their ids begin
		// with, those of one time are on one page of the index; hashed, each would
		// cost a page of its own: an opening took a fifth longer.
		if bits, ok := mayfly.IDBits("task", strings.TrimPrefix(name, "agent:")); ok {
			keys[i] = int64(binary.BigEndian.Uint64(bits[:]))
			continue
		}
		h.Reset()
		h.Write([]byte(name))
		keys[i] = int64(binary.BigEndian.Uint64(h.Sum(sum[:0])))
	}
	return keys
}

// said is what bodies say of what they are about, whatever their kind.
type said struct {
	Target   string        `json:"target"`
	Action   string        `json:"action"`
	Tool     string        `json:"tool"`
	Grant    string        `json:"grant"`
	Profile  string        `json:"profile"`
	Trace    string        `json:"trace"`
	Span     string        `json:"span"`
	Upstream string        `json:"upstream"`
	By       string        `json:"by"`
	Parent   mayfly.TaskID `json:"parent"`
	Agent    struct {
		Subject string `json:"subject"`
	} `json:"agent"`
	Root struct {
		Kind mayfly.SubjectKind `json:"kind"`
		ID   string             `json:"sub"`
	} `json:"root"`
	Snapshot struct {
		Labels []string `json:"labels"`
	} `json:"snapshot"`
	Revocation struct {
		Kind  string `json:"kind"`
		Value string `json:"value"`
	} `json:"revocation"`
}

// names are what a record is found by, each a class and a value, without
// repetition. Of a person who was erased only what the leaf says is left.
func (x *Index) names(ctx context.Context, bodies *store.Bodies, row *store.EventRow) ([]string, error) {
	var n nameList
	n.add("", "any")
	n.add("kind", row.Kind)
	n.add("person", row.Person)
	n.add("term", string(row.Term()))
	body, err := bodies.Open(ctx, row)
	if err != nil && mayfly.KindOf(err) != mayfly.Gone {
		return nil, err
	}
	var s said
	if err == nil {
		if unread := json.Unmarshal(body, &s); unread != nil {
			// A newer node may say other things under these names. What the leaf says
			// is found; the index goes on.
			x.logger.Warn("a record's body cannot be read for the search index", "record", row.ID, "error", unread)
			s = said{}
		}
	}
	if err == nil && row.Kind == (mayfly.TaskOpened{}).Kind() {
		if err := x.opened(ctx, row.Task, &s); err != nil {
			return nil, err
		}
	}
	if err := x.chain(ctx, &n, row); err != nil || body == nil {
		return n.list, err
	}
	n.add("target", s.Target)
	n.add("tool", s.Action)
	n.add("tool", s.Tool)
	n.add("profile", s.Profile)
	if s.Span != "" {
		n.add("trace", s.Trace) // one that the call began leads back without an index
	}
	n.add("upstream", s.Upstream)
	if g, err := mayfly.ParseGrant(s.Grant); err == nil {
		n.add("target", g.Target)
		n.add("tool", g.Action)
	}
	for _, l := range s.Snapshot.Labels {
		n.add("label", l)
	}
	if s.Root.Kind != mayfly.Human {
		n.add("root", s.Root.ID)
	}
	for _, who := range []string{s.By, humanIn(s.Revocation.Kind, s.Revocation.Value)} {
		if err := x.person(ctx, &n, who); err != nil {
			return nil, err
		}
	}
	return n.list, nil
}

func humanIn(kind, value string) string {
	if kind == string(mayfly.Human) {
		return value
	}
	return ""
}

// person adds whoever did something by their pseudonym, if records are about them.
func (x *Index) person(ctx context.Context, n *nameList, who string) error {
	if who == "" || strings.HasPrefix(who, "task_") {
		return nil
	}
	id, err := x.db.Pseudonym(ctx, who)
	n.add("person", id)
	return err
}

// chain adds the task of a record, everything it descends from, who runs it and for
// whom: what some kinds of record do not say themselves.
func (x *Index) chain(ctx context.Context, n *nameList, row *store.EventRow) error {
	id := row.Task
	if id == "" {
		return nil
	}
	own, err := x.agent(ctx, id)
	if err != nil {
		return err
	}
	n.add("root", own.service)
	if row.Person == "" {
		if err := x.person(ctx, n, own.human); err != nil {
			return err
		}
	}
	for _, link := range append([]mayfly.TaskID{id}, own.above...) {
		a, err := x.agent(ctx, link)
		if err != nil {
			return err
		}
		n.add("agent", string(link))
		n.add("agent", a.workload)
		n.add("profile", a.profile)
	}
	return nil
}

// opened remembers a task from its first record, which saves reading its row.
func (x *Index) opened(ctx context.Context, id mayfly.TaskID, s *said) error {
	a := agent{profile: s.Profile, workload: s.Agent.Subject}
	a.delegator(s.Root.Kind, s.Root.ID)
	if s.Parent != "" {
		parent, err := x.agent(ctx, s.Parent)
		if err != nil {
			return err
		}
		a.above = append(slices.Clone(parent.above), s.Parent)
	}
	x.remember(id, a)
	return nil
}

func (x *Index) remember(id mayfly.TaskID, a agent) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.tasks) >= agentsMost {
		clear(x.tasks)
	}
	x.tasks[id] = a
}

// agent is what a task is found by; of one that is not there, nothing.
func (x *Index) agent(ctx context.Context, id mayfly.TaskID) (agent, error) {
	x.mu.Lock()
	a, known := x.tasks[id]
	x.mu.Unlock()
	if known {
		return a, nil
	}
	// A task's row is there before its first record is, so one that is not will
	// never be.
	row, err := x.db.Task(ctx, id)
	switch {
	case err == nil:
		a = agent{profile: row.Profile, workload: row.Agent.Subject, above: row.Ancestors}
		a.delegator(row.Root.Kind, row.Root.ID)
	case mayfly.KindOf(err) != mayfly.NotFound:
		return agent{}, err
	}
	x.remember(id, a)
	return a, nil
}

// nameList is a list without repetition.
type nameList struct{ list []string }

func (n *nameList) add(class, value string) {
	if value == "" {
		return
	}
	name := class + ":" + value
	for _, there := range n.list {
		if there == name {
			return
		}
	}
	n.list = append(n.list, name)
}
