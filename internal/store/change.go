package store

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/mayfly-id/mayfly"
)

// Change commits rec together with what build writes, or neither. It returns
// nil only once both are durable.
//
// The error is a [*Refused] if a guard did not hold: nothing of this change was
// written. It is a [*mayfly.Error] of kind Unavailable if it could not be made
// durable; should the connection have broken during the commit itself, the
// change may have happened all the same, and its caller must not go on as if it
// had. If ctx ends before the change's turn the change is withdrawn and the
// error is ctx's; after that Change waits.
func (db *DB) Change(ctx context.Context, rec Record, build func(*Tx)) error {
	return db.Submit(ctx, rec, build).Wait()
}

// Submit is the first half of Change: it runs build, queues the change and
// returns. The second half is Wait, which must be called.
func (db *DB) Submit(ctx context.Context, rec Record, build func(*Tx)) *Pending {
	if rec.id == "" {
		return failed(errors.New("store: a change without a record"))
	}
	tx := &Tx{db: db, person: rec.who.id, ops: make([]op, 0, 8)}
	if !rec.who.isMade() {
		tx.aboutPerson()
	}
	build(tx)
	return db.submit(ctx, tx, rec)
}

// Keep commits bookkeeping, of which there is no record. Its errors are those
// of Change.
func (db *DB) Keep(ctx context.Context, build func(*Books)) error {
	for {
		tx := &Tx{db: db}
		build(&Books{tx})
		p := db.submit(ctx, tx, Record{})
		if err := p.Wait(); err != nil || !p.more {
			return err
		}
	}
}

// keep commits statements of the store's own, of which there is no record.
func (db *DB) keep(ctx context.Context, build func(*Tx)) error {
	tx := &Tx{db: db}
	build(tx)
	return db.submit(ctx, tx, Record{}).Wait()
}

func (db *DB) submit(ctx context.Context, tx *Tx, rec Record) *Pending {
	for _, o := range tx.ops {
		if len(o.args) != parameters[o.statement] {
			tx.fail(errors.New("store: a statement has the wrong number of arguments: " + texts[o.statement]))
		}
	}
	if tx.err != nil {
		return failed(tx.err)
	}
	p := &Pending{ctx: ctx, record: rec, ops: tx.arrange(), epoch: tx.epoch, soon: tx.soon, done: make(chan struct{})}
	if db.readOnly {
		return failed(mayfly.Errorf(mayfly.Unavailable, "the store is open for reading only"))
	}
	if !db.writer.enqueue(p) {
		return failed(mayfly.Errorf(mayfly.Unavailable, "the server is shutting down; try again"))
	}
	return p
}

// parameters is how many arguments each statement takes.
var parameters = func() (n [statements]int) {
	for s := range statements {
		n[s] = s.parameters()
	}
	return n
}()

// Pending is a change on its way.
type Pending struct {
	ctx    context.Context
	record Record // zero for bookkeeping
	ops    []op
	epoch  bool
	soon   bool

	state atomic.Int32  // queued, then taken or withdrawn
	done  chan struct{} // closed once err and more are set
	err   error
	more  bool // a purge dropped all it may in one commit

	// What the writer's newest run made of it.
	refusal error // a guard that did not hold, or a statement that failed
	wrote   bool  // some statement changed a row
}

const (
	queued int32 = iota
	taken
	withdrawn
)

// Wait gives Change's result.
func (p *Pending) Wait() error {
	select {
	case <-p.done:
	case <-p.ctx.Done():
		if p.state.CompareAndSwap(queued, withdrawn) {
			return context.Cause(p.ctx)
		}
		<-p.done
	}
	if r, ok := errors.AsType[*Refused](p.err); ok && r.Guard == guardPerson {
		return mayfly.Errorf(mayfly.Unavailable, "the person this is about was met, or erased, elsewhere at this moment; try again").Because(p.err)
	}
	return p.err
}

// guardPerson: the person a record is about has a row.
const guardPerson = "person"

// ended reports whether Wait would return at once with the change's own end.
func (p *Pending) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// failed is a change that never was.
func failed(err error) *Pending {
	p := &Pending{ctx: context.Background(), err: err, done: make(chan struct{})}
	close(p.done)
	return p
}

// begun prepares p for a run.
func (p *Pending) begun() { p.refusal, p.wrote, p.more = nil, false, false }

// ran takes down what a statement of p did, and reports whether the next may run.
func (p *Pending) ran(o *op, rows int64) bool {
	reads := o.statement <= notRevoked
	p.wrote = p.wrote || rows > 0 && !reads
	p.more = p.more || o.statement == purgeOnce && rows == purgeLimit
	if o.guard != "" && rows == 0 && p.refusal == nil {
		p.refusal = &Refused{o.guard}
	}
	return p.refusal == nil
}
