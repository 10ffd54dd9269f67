package witness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/eventlog"
	"github.com/mayfly-id/mayfly/internal/mayflytest/pgtest"
	"github.com/mayfly-id/mayfly/internal/store"
)

// among makes a policy of peers that know the log of n, which is started with it.
func among(t testing.TB, dsn string, c *clock, need int, peers ...peer) (*node, Policy) {
	p := Policy{Need: need}
	for _, w := range peers {
		p.Witnesses = append(p.Witnesses, w.of(t))
	}
	n := start(t, dsn, c, p)
	for _, w := range peers {
		w.Trust(n.log.VKey())
	}
	return n, p
}

func newClock() *clock { return &clock{at: time.Now()} }

func three(t testing.TB) (a, b, c peer) {
	return newPeer(t, "a.example/w", 1), newPeer(t, "b.example/w", 2), newPeer(t, "c.example/w", 3)
}

// isAnchored checks that the anchor covers the whole log and is cosigned by by.
func (n *node) isAnchored(p Policy, by int) {
	n.Helper()
	anchor, head := n.anchor(), n.head()
	keys, err := p.Quorum().Cosigned(anchor.Note)
	if err != nil || len(keys) != by || anchor.Size != head.Size || !strings.HasPrefix(string(anchor.Note), string(head.Note)) {
		n.Fatalf("the anchor is of %d records, cosigned by %d (%v); want %d, %d", anchor.Size, len(keys), err, head.Size, by)
	}
	if c, err := eventlog.VerifyCheckpoint(anchor.Note, n.log.VKey(), p.Quorum()); err != nil || c.Size != head.Size {
		n.Fatalf("the anchor does not verify: %v", err)
	}
}

func TestANewCheckpointIsCosignedAndBecomesTheAnchor(t *testing.T) {
	onEachEngine(t, func(t *testing.T, dsn string) {
		a, b, c := three(t)
		n, p := among(t, dsn, newClock(), 3, a, b, c)
		for range 2 { // the second time there is nothing new
			n.submit()
			n.isAnchored(p, 3)
		}
		for _, w := range []peer{a, b, c} {
			if asked := w.Requests(); len(asked) != 1 || !strings.HasPrefix(asked[0], "old 0\n\n"+origin+"\n") {
				t.Errorf("%s was asked %q", w.Name, asked)
			}
		}
		// It grows past the end of a tile, and each is asked from what it has.
		for _, more := range []int{1, 7, 300} {
			before := n.head().Size
			n.record(more)
			n.submit()
			n.isAnchored(p, 3)
			if asked := b.Requests(); len(asked) != 1 || !strings.HasPrefix(asked[0], fmt.Sprintf("old %d\n", before)) {
				t.Errorf("from %d: asked %q", before, asked)
			}
		}
		// Another life of the process begins from the anchor.
		n.stop()
		a.Requests()
		before := n.clock
		n, p = among(t, dsn, before, 3, a, b, c)
		n.record(1)
		size := n.anchor().Size
		n.submit()
		n.isAnchored(p, 3)
		if asked := a.Requests(); len(asked) != 1 || !strings.HasPrefix(asked[0], fmt.Sprintf("old %d\n", size)) {
			t.Errorf("after a restart: asked %q", asked)
		}
		if errs := n.said.at(slog.LevelError); len(errs) > 0 {
			t.Errorf("all was well, and it says %q", errs)
		}
	})
}

func TestTheAnchorMovesWhenTheQuorumIsMet(t *testing.T) {
	onEachEngine(t, func(t *testing.T, dsn string) {
		a, b, c := three(t)
		n, p := among(t, dsn, newClock(), 2, a, b, c)
		b.Answer(down)
		c.Answer(down)
		n.submit()
		if got := n.anchor(); got.Note != nil {
			t.Errorf("one of two is a quorum: %s", got.Note)
		}
		a.Requests()
		c.Answer(nil)
		n.submit() // who has cosigned this checkpoint is not asked again
		n.isAnchored(p, 2)
		if asked := a.Requests(); len(asked) != 0 {
			t.Errorf("asked again: %q", asked)
		}
		// One that was away for long catches up by itself.
		n.record(10)
		n.submit()
		n.isAnchored(p, 2)
		b.Answer(nil)
		b.Requests()
		n.record(1)
		n.submit()
		n.isAnchored(p, 3)
		if asked := b.Requests(); len(asked) != 1 || !strings.HasPrefix(asked[0], "old 0\n\n") {
			t.Errorf("one that never cosigned was asked %q", asked)
		}
	})
}

// A policy that asks for more than the anchor has is met anew, though nothing is
// new in the log.
func TestAnotherPolicyIsMetAnew(t *testing.T) {
	a, b, _ := three(t)
	n, p := among(t, "sqlite://"+t.TempDir()+"/mayfly.db", newClock(), 1, a)
	b.Trust(n.log.VKey())
	n.submit()
	n.isAnchored(p, 1)
	both := Policy{Witnesses: append(p.Witnesses, b.of(t)), Need: 2}
	n.client.o.Policy = func() Policy { return both }
	n.submit()
	n.isAnchored(both, 2)
	n.client.o.Policy = func() Policy { return Policy{} }
	n.record(1)
	a.Requests()
	n.submit()
	if asked := a.Requests(); len(asked) != 0 {
		t.Errorf("without witnesses somebody is asked: %q", asked)
	}
}

// Each row is what a witness may answer, and what is made of it.
func TestEveryAnswerOfAWitness(t *testing.T) {
	size := func(text string) func(http.ResponseWriter, *http.Request, string) bool {
		return func(w http.ResponseWriter, _ *http.Request, _ string) bool {
			w.Header().Set("Content-Type", "text/x.tlog.size")
			w.WriteHeader(http.StatusConflict)
			io.WriteString(w, text)
			return true
		}
	}
	plain := func(status int, text string) func(http.ResponseWriter, *http.Request, string) bool {
		return func(w http.ResponseWriter, _ *http.Request, _ string) bool {
			w.WriteHeader(status)
			io.WriteString(w, text)
			return true
		}
	}
	stranger := newPeer(t, "stranger.example/w", 9)
	cosigns := func(by func(p peer, text string) string) func(p peer) func(http.ResponseWriter, *http.Request, string) bool {
		return func(p peer) func(http.ResponseWriter, *http.Request, string) bool {
			return func(w http.ResponseWriter, _ *http.Request, body string) bool {
				_, checkpoint, _ := strings.Cut(body, "\n\n")
				text, _, _ := strings.Cut(checkpoint, "\n\n")
				io.WriteString(w, by(p, text+"\n"))
				return true
			}
		}
	}
	// same is for answers that do not depend on the witness.
	same := func(f func(http.ResponseWriter, *http.Request, string) bool) func(peer) func(http.ResponseWriter, *http.Request, string) bool {
		return func(peer) func(http.ResponseWriter, *http.Request, string) bool { return f }
	}
	turns := func(all ...func(http.ResponseWriter, *http.Request, string) bool) func(peer) func(http.ResponseWriter, *http.Request, string) bool {
		turn := -1
		return same(func(w http.ResponseWriter, r *http.Request, body string) bool {
			turn = min(turn+1, len(all)-1)
			return all[turn] != nil && all[turn](w, r, body)
		})
	}
	const fine, warn, loud, alarm = "", "WARN", "ERROR", "alarm"
	for name, row := range map[string]struct {
		answer func(p peer) func(http.ResponseWriter, *http.Request, string) bool
		asks   int // how often it is asked, 1 if this is 0
		how    string
		want   string // in what is logged
	}{
		"it cosigns": {turns(nil), 1, fine, ""},
		"it cosigns beside others": {cosigns(func(p peer, text string) string {
			return stranger.Line(text, 5) + p.Line(text, 5)
		}), 1, fine, ""},

		"another witness cosigns":   {cosigns(func(_ peer, text string) string { return stranger.Line(text, 5) }), 1, loud, "has no cosignature of w.example"},
		"the cosignature is bad":    {cosigns(func(p peer, text string) string { return p.Line("x"+text, 5) }), 1, loud, "its cosignature is refused: invalid signature"},
		"it says nothing":           {same(plain(200, "")), 1, loud, "not lines of signatures"},
		"it says something else":    {same(plain(200, "<html>\n")), 1, loud, "its cosignature is refused"},
		"it never ends":             {cosigns(func(p peer, text string) string { return p.Line(text, 5) + strings.Repeat("x", answerLimit) }), 1, loud, "longer than 65536 bytes"},
		"it is behind":              {turns(size("2\n"), size("1\n")), 2, warn, "it was at 2 records, and then at 1"},
		"it insists":                {same(size("2\n")), 2, loud, "it has 2 records, was asked from there, and says that it is not so"},
		"it insists on the newest":  {same(size("6\n")), 2, alarm, "another log of 6 records"},
		"it has more than there is": {same(size("7\n")), 1, alarm, "it has cosigned 7 records of this log, and there are 6"},
		"it has far more":           {same(size("9223372036854775807\n")), 1, alarm, "the end of the log was cut off"},
		"no size":                   {same(size("")), 1, loud, "does not say which"},
		"a size with a zero":        {same(size("02\n")), 1, loud, "does not say which"},
		"a size below zero":         {same(size("-2\n")), 1, loud, "does not say which"},
		"a size without an end":     {same(size("2")), 1, loud, "does not say which"},
		"a size and more":           {same(size("2\n2\n")), 1, loud, "does not say which"},
		"a size too large":          {same(size("9223372036854775808\n")), 1, loud, "does not say which"},
		"a size as prose":           {same(plain(409, "2\n")), 1, loud, "does not say which"},
		"the wrong root":            {turns(size("2\n"), plain(422, "bad proof\n")), 2, alarm, "what it has cosigned did not grow into the log there is"},
		"the wrong root at once":    {same(plain(422, "bad proof\n")), 1, alarm, "bad proof"},
		"no signature":              {same(plain(403, "who?\n")), 1, loud, "does not take the log's signature (403): give its operator the log's key, " + origin},
		"an unknown log":            {same(plain(404, "")), 1, loud, "does not know the log " + origin},
		"cannot read":               {same(plain(400, "")), 1, loud, "another version of c2sp.org/tlog-witness"},
		"too many":                  {same(plain(429, "")), 1, warn, "status 429"},
		"broken":                    {same(plain(500, "oops\x1b[31m\n")), 1, warn, "status 500"},
		"no content":                {same(plain(204, "")), 1, warn, "status 204"},
		"elsewhere": {same(func(w http.ResponseWriter, r *http.Request, _ string) bool {
			http.Redirect(w, r, stranger.URL+"/add-checkpoint", http.StatusTemporaryRedirect)
			return true
		}), 1, loud, "redirects are not followed"},
		"hangs up": {same(func(w http.ResponseWriter, _ *http.Request, _ string) bool { panic(http.ErrAbortHandler) }), 1, warn, "EOF"},
		"is silent": {same(func(_ http.ResponseWriter, r *http.Request, _ string) bool {
			<-r.Context().Done()
			return true
		}), 1, warn, "deadline exceeded"},
		"speaks slowly without end": {same(func(w http.ResponseWriter, r *http.Request, _ string) bool {
			for r.Context().Err() == nil {
				io.WriteString(w, "x")
				w.(http.Flusher).Flush()
				time.Sleep(time.Millisecond)
			}
			return true
		}), 1, warn, "deadline exceeded"},
		"speaks fast without end": {same(func(w http.ResponseWriter, r *http.Request, _ string) bool {
			for r.Context().Err() == nil {
				io.WriteString(w, strings.Repeat("x", answerLimit))
			}
			return true
		}), 1, loud, "longer than 65536 bytes"},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			p := newPeer(t, "w.example/w", 1)
			n, policy := among(t, "sqlite://"+t.TempDir()+"/mayfly.db", newClock(), 1, p)
			n.client.within = 300 * time.Millisecond
			n.record(5)
			p.Answer(row.answer(p))
			n.submit()
			asked := p.Requests()
			if len(asked) != row.asks {
				t.Errorf("asked %d times, want %d: %q", len(asked), row.asks, asked)
			}
			if row.how == fine {
				n.isAnchored(policy, 1)
				if lines := n.said.at(slog.LevelWarn); len(lines) > 0 {
					t.Errorf("it is fine and it says %q", lines)
				}
				return
			}
			if a := n.anchor(); a.Note != nil {
				t.Errorf("there is an anchor: %s", a.Note)
			}
			// A second step may be answered as the first: it is told once.
			p.Answer(row.answer(p))
			n.submit()
			level := slog.LevelError
			if row.how == warn {
				level = slog.LevelWarn
			}
			lone(t, n.said.at(level), `"witness":"w.example/w"`, row.want)
			alarms := n.events("alarm")
			if row.how == alarm && (len(alarms) != 1 || alarms[0]["what"] != "witness" || !strings.Contains(fmt.Sprint(alarms[0]["detail"]), row.want)) || row.how != alarm && len(alarms) > 0 {
				t.Errorf("alarms %v", alarms)
			}
			// Whatever it was, when it is over the log is anchored.
			p.Answer(nil)
			n.submit()
			n.isAnchored(policy, 1)
			if lines := n.said.at(slog.LevelInfo); len(lines) != 1 || !strings.Contains(lines[0], "cosigns the log again") {
				t.Errorf("it says %q", lines)
			}
			if n.log.Err() != nil {
				t.Errorf("a witness stops the server: %v", n.log.Err())
			}
		})
	}
}

func TestAWitnessThatCannotBeReachedIsAskedAgain(t *testing.T) {
	p := newPeer(t, "w.example/w", 1)
	gone := p.of(t)
	gone.URL = "http://127.0.0.1:1"
	n := start(t, "sqlite://"+t.TempDir()+"/mayfly.db", newClock(), Policy{Witnesses: []Witness{gone}, Need: 1})
	n.submit()
	n.submit()
	lone(t, n.said.at(slog.LevelWarn), "connection refused")
}

// A witness that forgets may cosign a fork: it is none any more, even though what
// it says could be proven to it.
func TestAWitnessThatForgetsIsToldOn(t *testing.T) {
	p := newPeer(t, "w.example/w", 1)
	n, policy := among(t, "sqlite://"+t.TempDir()+"/mayfly.db", newClock(), 1, p)
	n.record(5)
	n.submit()
	n.isAnchored(policy, 1)
	p.Forget()
	p.Requests()
	before := n.anchor().Size
	n.record(1)
	n.submit()
	lone(t, n.said.at(slog.LevelError), "it has lost its memory")
	if got := n.anchor().Size; got != before || len(p.Requests()) != 1 {
		t.Errorf("the anchor moved from %d to %d", before, got)
	}
	if alarms := n.events("alarm"); len(alarms) != 0 {
		t.Errorf("alarms %v: it is the witness that is wrong", alarms)
	}
}

// Somebody who has the log's key shows a witness another tree. Whichever is
// shorter, we find out.
func TestAForkThatAWitnessSawFirstIsAnAlarm(t *testing.T) {
	onEachEngine(t, func(t *testing.T, dsn string) {
		shorter, same, longer := three(t)
		n, _ := among(t, dsn, newClock(), 1, shorter, same, longer)
		n.record(9)
		size := n.head().Size
		for w, of := range map[peer]int64{shorter: size - 2, same: size, longer: size + 2} {
			forged := n.forge(tlog.Tree{N: of, Hash: tlog.Hash{7}})
			if status, answer, err := submitTo(t.Context(), w.URL, "old 0\n\n"+string(forged)); status != 200 || err != nil {
				t.Fatalf("%d %s, %v", status, answer, err)
			}
		}
		n.submit()
		alarms := n.events("alarm")
		var details strings.Builder
		for _, a := range alarms {
			fmt.Fprintln(&details, a["detail"])
		}
		for _, want := range []string{
			"a.example/w: what it has cosigned did not grow into the log there is",
			"b.example/w: it has cosigned another log of " + fmt.Sprint(size) + " records",
			"c.example/w: it has cosigned " + fmt.Sprint(size+2) + " records of this log, and there are " + fmt.Sprint(size),
		} {
			if !strings.Contains(details.String(), want) {
				t.Errorf("no alarm says %q: %s", want, details.String())
			}
		}
		if got := n.said.at(slog.LevelError); len(alarms) != 3 || len(got) != 3 {
			t.Errorf("%d alarms, logged %q", len(alarms), got)
		}
		// It goes on, and is not told again.
		n.record(3)
		n.submit()
		if got := n.said.at(slog.LevelError); len(got) != 0 || len(n.events("alarm")) != 3 || n.anchor().Note != nil {
			t.Errorf("told again: %q", got)
		}
	})
}

// 180 seconds by the clock that the process has; nobody sleeps.
func TestALogThatIsNotAnchoredForTooLongIsAnAlarmOnce(t *testing.T) {
	onEachEngine(t, func(t *testing.T, dsn string) {
		a, b, _ := three(t)
		c := newClock()
		n, p := among(t, dsn, c, 2, a, b)
		n.submit()
		n.isAnchored(p, 2)
		c.pass(time.Hour) // nothing waits, so nothing is late
		n.submit()
		if n.anchor().UnanchoredAt.IsZero() == false || len(n.events("log.unanchored")) != 0 {
			t.Fatal("a log in which nothing happens is not anchored")
		}
		b.Answer(down)
		n.record(1)
		anchored := n.anchor().Size
		for range 17 {
			c.pass(every)
			n.record(1) // it grows, and the oldest still waits
			n.submit()
		}
		c.pass(9 * time.Second)
		n.submit()
		if got := n.events("log.unanchored"); len(got) != 0 {
			t.Fatalf("after 179 seconds: %v", got)
		}
		n.said.at(slog.LevelError)
		c.pass(time.Second)
		n.submit()
		lone(t, n.said.at(slog.LevelError), "the log is not anchored", "down for repair")
		got := n.events("log.unanchored")
		if len(got) != 1 || got[0]["anchored"] != float64(anchored) || !strings.Contains(fmt.Sprint(got[0]["witnesses"]), "b.example/w:it answers with status 503") {
			t.Fatalf("the record says %v", got)
		}
		c.pass(time.Hour)
		n.submit()
		// Another life of the process knows that it was said.
		n.stop()
		n, _ = among(t, dsn, c, 2, a, b)
		n.record(1)
		c.pass(every)
		n.submit()
		if lines := n.said.at(slog.LevelError); len(lines) != 0 || len(n.events("log.unanchored")) != 1 {
			t.Errorf("it is said again: %q", lines)
		}
		if n.anchor().UnanchoredAt.IsZero() {
			t.Error("it is forgotten")
		}

		b.Answer(nil)
		n.submit()
		n.isAnchored(p, 2)
		got = n.events("log.anchored") // which is a record that is not anchored yet
		if len(got) != 1 || !n.anchor().UnanchoredAt.IsZero() {
			t.Errorf("when it is over: %v", got)
		}
		n.submit()
		n.isAnchored(p, 2)
		n.submit()
		if size := n.head().Size; n.anchor().Size != size || len(n.events("log.anchored")) != 1 {
			t.Errorf("saying so does not end: %d records", size)
		}

		// It can happen again.
		a.Answer(down)
		n.record(1)
		c.pass(unanchored)
		n.submit()
		if got := n.events("log.unanchored"); len(got) != 2 {
			t.Errorf("the second time: %v", got)
		}
	})
}

// What was committed and has no place in the log is not anchored either.
func TestRecordsThatAreNotSequencedAreMissedToo(t *testing.T) {
	a, _, _ := three(t)
	c := newClock()
	n, p := among(t, "sqlite://"+t.TempDir()+"/mayfly.db", c, 1, a)
	n.submit()
	n.isAnchored(p, 1)
	since, err := n.client.waits(t.Context(), n.anchor())
	if err != nil || !since.IsZero() {
		t.Errorf("nothing waits since %s, %v", since, err)
	}
	rec, err := n.db.Prepare(t.Context(), c.now(), "", mayfly.ServerStarted{})
	if err := errors.Join(err, n.db.Change(t.Context(), rec, func(*store.Tx) {})); err != nil {
		t.Fatal(err)
	}
	if since, err := n.client.waits(t.Context(), n.anchor()); err != nil || since.IsZero() {
		t.Errorf("it waits since %s, %v", since, err)
	}
}

// Of two nodes the one that moves the log speaks for it; if it is gone, the other
// does after a while.
func TestOneNodeSpeaksForTheLog(t *testing.T) {
	dsn := pgtest.New(t)
	a, _, _ := three(t)
	c := newClock()
	one, p := among(t, dsn, c, 1, a)
	two := start(t, dsn, c, p)
	one.record(1)
	two.sequence() // sees it
	two.submit()
	if asked := a.Requests(); len(asked) != 0 {
		t.Errorf("the node that follows asks %q", asked)
	}
	one.submit()
	one.isAnchored(p, 1)
	two.record(1)
	one.sequence()
	one.submit()
	if asked := a.Requests(); len(asked) != 1 {
		t.Errorf("the node that led before asks: %q", asked)
	}
	two.submit() // one's cosignature is in the anchor, and it goes on from there
	two.isAnchored(p, 1)

	one.record(1)
	two.sequence()
	one.stop()
	c.pass(takeOver - time.Second)
	a.Requests()
	two.submit()
	if asked := a.Requests(); len(asked) != 0 {
		t.Errorf("it does not wait for the other: %q", asked)
	}
	c.pass(time.Second)
	two.submit()
	two.isAnchored(p, 1)
}

// Two nodes that submit at once, each sure that it leads, make one anchor, which
// only goes forward, and no alarm.
func TestNodesThatSubmitAtOnceDoNotTakeEachOtherForAFork(t *testing.T) {
	dsn := pgtest.New(t)
	a, b, _ := three(t)
	c := newClock()
	one, p := among(t, dsn, c, 2, a, b)
	two := start(t, dsn, c, p)
	one.record(1)
	older := one.head()
	two.record(5) // newer, and one does not know
	two.submit()
	two.isAnchored(p, 2)
	anchor := two.anchor()
	if err := one.client.gather(t.Context(), p, store.Anchor{}, older); err != nil {
		t.Fatal(err)
	}
	if got := one.anchor(); got.Size != anchor.Size || string(got.Note) != string(anchor.Note) {
		t.Errorf("the anchor went from %d to %d", anchor.Size, got.Size)
	}
	if lines := one.said.at(slog.LevelError); len(lines) != 0 || len(one.events("alarm")) != 0 {
		t.Errorf("it says %q", lines)
	}
}

func TestRunSubmitsUntilItIsStopped(t *testing.T) {
	a, _, _ := three(t)
	n, _ := among(t, "sqlite://"+t.TempDir()+"/mayfly.db", newClock(), 1, a)
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { done <- n.client.Run(ctx) }()
	for n.anchor().Note == nil {
		select {
		case err := <-done:
			t.Fatalf("it stops by itself: %v", err)
		case <-time.After(5 * time.Millisecond):
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
