// Package witness has the checkpoints of the event log cosigned by others
// (c2sp.org/tlog-witness), and keeps the newest that enough of them have cosigned:
// the anchor, which whoever holds this server's database and keys cannot rewrite.
// It reads the log and the store as any other reader does, and decides nothing.
// Start at [Client.Submit]; what goes over the wire is in ask.go.
package witness

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/eventlog"
	"github.com/mayfly-id/mayfly/internal/store"
)

// Witness is somebody who cosigns checkpoints.
type Witness struct {
	Name string // for people, and for messages
	URL  string // the submission prefix, as c2sp.org/tlog-witness calls it
	Key  eventlog.WitnessKey
}

// Policy says whose cosignatures a checkpoint needs: those of Need of Witnesses.
// Without witnesses there is nothing to do.
type Policy struct {
	Witnesses []Witness
	Need      int
}

// Quorum is p without the addresses.
func (p Policy) Quorum() eventlog.Quorum {
	q := eventlog.Quorum{Need: p.Need}
	for _, w := range p.Witnesses {
		q.Keys = append(q.Keys, w.Key)
	}
	return q
}

// Options are what a client is made of. Policy gives the one in force now; it is
// asked again each time, so that a reload reaches it.
type Options struct {
	DB     *store.DB
	Log    *eventlog.Log
	Policy func() Policy
	Logger *slog.Logger     // nil logs nothing
	Now    func() time.Time // nil is time.Now
}

// Client submits checkpoints to witnesses.
type Client struct {
	o    Options
	http *http.Client

	step   sync.Mutex // held for a whole step; guards the rest
	note   []byte     // the checkpoint that lines are of
	lines  map[eventlog.WitnessKey][]byte
	sizes  map[eventlog.WitnessKey]int64    // what each last cosigned for this process
	failed map[eventlog.WitnessKey]*failure // what is wrong with each
	// alarmed are those of whose fork there is a record.
	alarmed map[eventlog.WitnessKey]bool
	within  time.Duration // how long a witness may take
}

// New makes a client. Run must follow.
func New(o Options) *Client {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Client{
		o: o,
		http: &http.Client{
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			Transport:     &http.Transport{Proxy: nil, MaxIdleConnsPerHost: 1, IdleConnTimeout: time.Minute},
		},
		lines: map[eventlog.WitnessKey][]byte{}, sizes: map[eventlog.WitnessKey]int64{},
		failed: map[eventlog.WitnessKey]*failure{}, alarmed: map[eventlog.WitnessKey]bool{}, within: within,
	}
}

const (
	// lookEvery is how often it is looked whether there is a new checkpoint, and
	// every is how often one is submitted, at most.
	lookEvery = time.Second
	every     = 10 * time.Second
	// within is how long a witness may take, both attempts together.
	within = 10 * time.Second
	// takeOver is how long a record may wait before a process submits that does
	// not lead: the one that did may be gone.
	takeOver = 3 * every
	// unanchored is how long a record may wait before that is an alarm.
	unanchored = 180 * time.Second
)

// Run submits until ctx ends. What fails is logged and tried again.
func (c *Client) Run(ctx context.Context) error {
	defer c.http.CloseIdleConnections()
	timer := time.NewTimer(0)
	defer timer.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		asked, err := c.advance(ctx)
		if err != nil && ctx.Err() == nil && !failing { // say it once, not every time
			c.o.Logger.Warn("anchoring the log fails and is tried again", "error", err, "cause", errors.Unwrap(err))
		}
		if failing = err != nil; failing || asked {
			timer.Reset(every)
		} else {
			timer.Reset(lookEvery)
		}
	}
}

// Submit is one step: if there is a checkpoint that is newer than the anchor, and
// this process is the one to speak for the log, it has it cosigned, by all
// witnesses at once. If enough of them did, it is the new anchor. Then it raises
// or ends the alarm that the log is not anchored. The error is one of the store;
// what is wrong with a witness is told to the operator.
func (c *Client) Submit(ctx context.Context) error {
	_, err := c.advance(ctx)
	return err
}

// advance is Submit, and says whether anybody was asked.
func (c *Client) advance(ctx context.Context) (asked bool, err error) {
	c.step.Lock()
	defer c.step.Unlock()
	p := c.o.Policy()
	if len(p.Witnesses) == 0 || c.o.Log.Err() != nil {
		return false, nil
	}
	// The anchor is read before the head, so the head is never behind it.
	anchor, err := c.o.DB.Anchor(ctx)
	if err != nil {
		return false, err
	}
	head, err := c.o.DB.Head(ctx)
	if err != nil || head.Note == nil {
		return false, err
	}
	if _, unmet := p.Quorum().Cosigned(anchor.Note); unmet != nil || anchor.Size < head.Size {
		if asked, err = c.mine(ctx, anchor); err != nil {
			return false, err
		}
	}
	if asked {
		if err := c.gather(ctx, p, anchor, head); err != nil {
			return true, err
		}
	}
	if asked || !anchor.UnanchoredAt.IsZero() {
		return asked, c.watch(ctx, p)
	}
	return asked, nil
}

// mine reports whether this process is the one to speak for the log: it leads, or
// whoever does has let a record wait for long.
func (c *Client) mine(ctx context.Context, anchor store.Anchor) (bool, error) {
	if c.o.Log.Leads() {
		return true, nil
	}
	since, err := c.waits(ctx, anchor)
	return err == nil && !since.IsZero() && c.o.Now().Sub(since) >= takeOver, err
}

// waits is the time of the oldest record that the anchor does not cover, zero if
// there is none.
func (c *Client) waits(ctx context.Context, anchor store.Anchor) (time.Time, error) {
	rows, err := c.o.DB.EventsAfter(ctx, anchor.Size-1, 1)
	if err != nil {
		return time.Time{}, err
	}
	if len(rows) > 0 {
		return rows[0].Time, nil
	}
	runs, err := c.o.DB.Unsequenced(ctx, 1)
	if err != nil || len(runs) == 0 {
		return time.Time{}, err
	}
	return runs[0].Rows[0].Time, nil
}

// gather has head cosigned by whoever has not cosigned it yet, and moves the
// anchor if that makes the quorum.
func (c *Client) gather(ctx context.Context, p Policy, anchor store.Anchor, head store.Head) error {
	if !bytes.Equal(c.note, head.Note) {
		c.note = head.Note
		clear(c.lines)
	}
	type answer struct {
		line []byte
		err  error
	}
	answers := make([]answer, len(p.Witnesses))
	before := cosigners(p, anchor)
	var asked sync.WaitGroup
	for i, w := range p.Witnesses {
		if c.lines[w.Key] != nil {
			continue
		}
		last := c.sizes[w.Key]
		if before[w.Key] {
			last = max(last, anchor.Size)
		}
		asked.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, c.within)
			defer cancel()
			answers[i].line, answers[i].err = c.ask(ctx, w, head, last)
		})
	}
	asked.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	signed := bytes.Clone(head.Note)
	for i, w := range p.Witnesses {
		if a := answers[i]; a.err != nil {
			c.failing(ctx, w, a.err)
		} else if a.line != nil {
			c.lines[w.Key], c.sizes[w.Key] = a.line, head.Size
			c.well(w)
		}
		signed = append(signed, c.lines[w.Key]...)
	}
	if _, err := p.Quorum().Cosigned(signed); err != nil {
		return nil // too few yet; the next step asks the others again
	}
	err := c.o.DB.Keep(ctx, func(b *store.Books) { b.MoveAnchor(head.Size, signed, c.o.Now()) })
	if _, further := errors.AsType[*store.Refused](err); further {
		return nil // another node was there
	}
	return err
}

// cosigners are the witnesses of p that have cosigned the anchor.
func cosigners(p Policy, anchor store.Anchor) map[eventlog.WitnessKey]bool {
	by := map[eventlog.WitnessKey]bool{}
	if anchor.Note == nil {
		return by
	}
	// One of an earlier policy may have too few of them: they count all the same.
	keys, _ := p.Quorum().Cosigned(anchor.Note)
	for _, k := range keys {
		by[k] = true
	}
	return by
}

// watch raises the alarm that the log is not anchored, or ends it. The note in
// the store sees to it that each is recorded once, by whichever node.
func (c *Client) watch(ctx context.Context, p Policy) error {
	anchor, err := c.o.DB.Anchor(ctx)
	if err != nil {
		return err
	}
	since, err := c.waits(ctx, anchor)
	if err != nil {
		return err
	}
	now := c.o.Now()
	late := !since.IsZero() && now.Sub(since) >= unanchored
	switch noted := !anchor.UnanchoredAt.IsZero(); {
	case late && !noted:
		head, err := c.o.DB.Head(ctx)
		if err != nil {
			return err
		}
		e := mayfly.LogUnanchored{Size: head.Size, Anchored: anchor.Size, Since: since, Witnesses: map[string]string{}}
		for _, w := range p.Witnesses {
			if f := c.failed[w.Key]; f != nil {
				e.Witnesses[w.Name] = f.Error()
			}
		}
		began, err := c.record(ctx, e, func(tx *store.Tx) { tx.BeginUnanchored(anchor.Size, now) })
		if began {
			c.o.Logger.Error("the log is not anchored: too few witnesses have cosigned it", "since", since, "size", e.Size, "anchored", e.Anchored,
				"need", p.Need, "witnesses", e.Witnesses)
		}
		return err
	case !late && noted:
		e := mayfly.LogAnchored{Anchored: anchor.Size, Since: anchor.UnanchoredAt}
		ended, err := c.record(ctx, e, func(tx *store.Tx) { tx.EndUnanchored() })
		if ended {
			c.o.Logger.Info("the log is anchored again", "size", anchor.Size)
		}
		return err
	}
	return nil
}

// record commits e with a change, and says whether it happened: of several nodes
// one gets to say it.
func (c *Client) record(ctx context.Context, e mayfly.Event, build func(*store.Tx)) (bool, error) {
	rec, err := c.o.DB.Prepare(ctx, c.o.Now(), "", e)
	if err == nil {
		err = c.o.DB.Change(ctx, rec, build)
	}
	if _, said := errors.AsType[*store.Refused](err); said {
		return false, nil
	}
	return err == nil, err
}

// failing tells the operator what is wrong with a witness, once until it changes.
// That the log was forked, or put back, is recorded too: if it is so, the record
// may be all that is left to say it.
func (c *Client) failing(ctx context.Context, w Witness, err error) {
	f, ok := errors.AsType[*failure](err)
	if !ok {
		f = &failure{what: unanswered, text: err.Error()}
	}
	before := c.failed[w.Key]
	c.failed[w.Key] = f
	// Other texts can hold what changes each time: a size, a port.
	if before == nil || before.what != f.what || f.what == unwelcome && before.text != f.text {
		c.o.Logger.Log(ctx, f.what.level(), "a witness does not cosign the log", "witness", w.Name, "url", w.URL, "error", f.text)
	}
	if f.what != forked || c.alarmed[w.Key] {
		return
	}
	alarm := mayfly.Alarm{What: "witness", Detail: w.Name + ": " + f.text}
	if _, err := c.record(ctx, alarm, func(*store.Tx) {}); err != nil {
		c.o.Logger.Error("the alarm could not be recorded and is tried again", "error", err)
		return
	}
	c.alarmed[w.Key] = true
}

// well forgets what was wrong with a witness.
func (c *Client) well(w Witness) {
	delete(c.alarmed, w.Key)
	if c.failed[w.Key] == nil {
		return
	}
	delete(c.failed, w.Key)
	c.o.Logger.Info("a witness cosigns the log again", "witness", w.Name)
}
