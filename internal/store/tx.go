package store

import (
	"fmt"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/mayfly-id/mayfly"
)

// Refused says that a guard of a change did not hold. Nothing of the change was
// written, and the changes that shared its commit are not touched by it.
type Refused struct {
	Guard string // as the method of Tx that added it says
}

func (r *Refused) Error() string { return "store: the guard " + r.Guard + " did not hold" }

// op is one statement of a change with its arguments.
type op struct {
	statement statement
	args      []any
	guard     string // not empty: the statement must give or change a row
}

// Tx collects what one change writes. Its methods touch no database: they add
// guarded statements, which the writer runs in one transaction with others',
// perhaps more than once. Guards that only read run first, then guarded writes,
// then the rest, each in the order they were added; the first guard that does
// not hold is the one that is named.
type Tx struct {
	db     *DB
	person string // pseudonym of the person the change's event is about
	ops    []op
	epoch  bool // the change advances the epoch
	soon   bool // the change begins no commit
	err    error
}

func (tx *Tx) add(s statement, guard string, args ...any) {
	tx.ops = append(tx.ops, op{s, args, guard})
}

func (tx *Tx) fail(err error) {
	if tx.err == nil {
		tx.err = err
	}
}

// json is v as text for a column.
func (tx *Tx) json(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		tx.fail(fmt.Errorf("store: encoding a %T: %w", v, err))
	}
	return string(b)
}

// arrange puts the statements in the order they run.
func (tx *Tx) arrange() []op {
	slices.SortStableFunc(tx.ops, func(a, b op) int { return rank(a) - rank(b) })
	return tx.ops
}

func rank(o op) int {
	switch {
	case o.statement <= notRevoked:
		return 0 // reads: a refusal here costs nobody anything
	case o.statement == advanceEpoch || o.statement == recordEpoch:
		return 3 // the epoch is everybody's: last
	case o.guard != "":
		return 1
	default:
		return 2
	}
}

// micros is t as the database has it.
func micros(t time.Time) int64 { return t.UnixMicro() }

// chainSlots and revocationSlots are the IN lists of two statements; shorter
// lists repeat their last member.
const (
	chainSlots      = 6
	revocationSlots = 16
)

// Soon is for what nobody waits for: the change begins no commit but joins the
// next that somebody does, within 10 ms.
func (tx *Tx) Soon() { tx.soon = true }

// ChainLive guards, as "chain", that every task named is open, and neither its
// idle lease nor its deadline has run out at now.
func (tx *Tx) ChainLive(ids []mayfly.TaskID, now time.Time) {
	ids = slices.Compact(slices.Sorted(slices.Values(ids)))
	if len(ids) == 0 {
		tx.add(never, "chain")
	}
	for part := range slices.Chunk(ids, chainSlots) {
		args := make([]any, 0, chainSlots+2)
		for i := range chainSlots {
			args = append(args, string(part[min(i, len(part)-1)]))
		}
		tx.add(chainLive, "chain", append(args, micros(now), int64(len(part)))...)
	}
}

// RevocationKey is one thing the kill switch can be thrown for.
type RevocationKey struct {
	Kind  string // human, service, profile, source, client
	Value string
}

func (k RevocationKey) matches() string { return k.Kind + ":" + k.Value }

// NotRevoked guards, as "revocation", that no revocation of one of keys, and
// none of everything, stands.
func (tx *Tx) NotRevoked(keys []RevocationKey) {
	wanted := []string{RevocationKey{Kind: "all"}.matches()}
	for _, k := range keys {
		if m := k.matches(); !slices.Contains(wanted, m) {
			wanted = append(wanted, m)
		}
	}
	for part := range slices.Chunk(wanted, revocationSlots) {
		args := make([]any, revocationSlots)
		for i := range args {
			args[i] = part[min(i, len(part)-1)]
		}
		tx.add(notRevoked, "revocation", args...)
	}
}

// aboutPerson guards, as "person", that whoever a new row is about was not erased
// after the record of it was prepared.
func (tx *Tx) aboutPerson() {
	if tx.person != "" {
		tx.add(personThere, guardPerson, tx.person)
	}
}

// InsertTask writes t as open. Of the fields that move only IdleUntil is taken;
// it is cut at the deadline.
func (tx *Tx) InsertTask(t *mayfly.Task) {
	idle := t.IdleUntil
	if idle.After(t.Deadline) {
		idle = t.Deadline
	}
	ancestors := t.Ancestors
	if ancestors == nil {
		ancestors = []mayfly.TaskID{}
	}
	tx.aboutPerson()
	tx.add(insertTask, "",
		string(t.ID), t.Profile, t.Bundle, t.Purpose.Text, t.Purpose.By, t.Purpose.Verified,
		string(t.Root.Kind), t.Root.ID, t.Root.Source, tx.json(t.Root), tx.person,
		string(t.Parent), string(t.RootTask), tx.json(ancestors), int64(t.Depth), tx.json(t.Grants),
		tx.json(t.Agent), t.Agent.Source, t.Agent.Client, t.Key, t.Dlg, t.Ticket,
		micros(t.OpenedAt), micros(t.Deadline), t.Idle.Microseconds(), micros(idle), t.Budget)
}

// AddChild counts one more child of parent and guards, as "children", that it
// is open and had fewer than max.
func (tx *Tx) AddChild(parent mayfly.TaskID, max int64) {
	tx.add(addChild, "children", string(parent), max)
}

// SpendGrant counts one call against a grant of a task and guards, as
// "budget:<task>:<grant>", that fewer than max were counted.
func (tx *Tx) SpendGrant(task mayfly.TaskID, grantKey string, max int64) {
	guard := "budget:" + string(task) + ":" + grantKey
	if max < 1 { // the first call would insert its row unasked
		tx.add(never, guard)
		return
	}
	tx.add(spendGrant, guard, string(task), grantKey, max)
}

// SpendTask counts one call against a task's own budget and guards, as "task
// budget:<task>", that it is open and fewer than max were counted.
func (tx *Tx) SpendTask(task mayfly.TaskID, max int64) {
	tx.add(spendTask, "task budget:"+string(task), string(task), max)
}

// GiveBack takes one SpendGrant back, unless the task is closed. Not a guard.
func (tx *Tx) GiveBack(task mayfly.TaskID, grantKey string) {
	tx.add(giveBack, "", string(task), grantKey)
}

// GiveBackTask takes one SpendTask back, unless the task is closed. Not a guard.
func (tx *Tx) GiveBackTask(task mayfly.TaskID) { tx.add(giveBackTask, "", string(task)) }

// RenewIdle moves the end of an open task's idle lease to until, never back and
// never past the deadline. Not a guard.
func (tx *Tx) RenewIdle(task mayfly.TaskID, until time.Time) {
	tx.add(renewIdle, "", micros(until), string(task))
}

// Once burns key for its class and guards, as "once:<class>", that nobody did
// before. The mark may be dropped after expires.
func (tx *Tx) Once(class, key string, expires time.Time) {
	tx.add(burnOnce, "once:"+class, class+":"+key, micros(expires))
}

// InsertDelegation writes d; of the ticket only the hash is kept.
func (tx *Tx) InsertDelegation(d *mayfly.Delegation, secretHash []byte) {
	tx.aboutPerson()
	tx.add(insertDelegation, "",
		d.ID, secretHash, d.Profile, d.Purpose.Text, d.Purpose.By, d.Purpose.Verified, tx.json(d.Grants),
		string(d.Root.Kind), d.Root.ID, d.Root.Source, tx.json(d.Root), string(d.Parent),
		micros(d.ExpiresAt), d.TaskTTL.Microseconds(), d.Uses, micros(d.MadeAt), d.Dlg)
}

// UseTicket counts one use of a delegation's ticket and guards, as "ticket",
// that it has one left, is not void and not expired at now.
func (tx *Tx) UseTicket(delegation string, now time.Time) {
	tx.add(useTicket, "ticket", delegation, micros(now))
}

// VoidTicketsOf makes the tickets that a task gave out worthless. Not a guard.
func (tx *Tx) VoidTicketsOf(task mayfly.TaskID, at time.Time) {
	tx.add(voidTicketsOf, "", micros(at), string(task))
}

// SetGrants replaces a task's grants and guards, as "grants", that it is open and
// still at version.
func (tx *Tx) SetGrants(task mayfly.TaskID, grants []mayfly.Grant, version int64) {
	tx.add(setGrants, "grants", tx.json(grants), string(task), version)
}

// CloseTask ends a task and guards, as "closed", that it was open.
func (tx *Tx) CloseTask(task mayfly.TaskID, reason mayfly.CloseReason, by string, at time.Time) {
	tx.add(closeTask, "closed", micros(at), string(reason), by, string(task))
}

// CloseExpired is CloseTask by the clock; it guards too that the idle lease or
// the deadline has run out at now, so that a renewal meanwhile wins.
func (tx *Tx) CloseExpired(task mayfly.TaskID, reason mayfly.CloseReason, now time.Time) {
	tx.add(closeExpired, "closed", micros(now), string(reason), string(reason), string(task))
}

// RetireTask marks a closed task as retired and guards, as "retire", that it is
// closed, was not retired before, and has no child that is not retired and no
// lease that is not returned.
func (tx *Tx) RetireTask(task mayfly.TaskID, at time.Time) {
	tx.add(retireTask, "retire", micros(at), string(task))
}

// Revoke writes a revocation down, closes every open task that is itself for
// what it names, and voids the tickets of all of them and those it names. Tasks
// below the closed ones are over by their chain and are closed by the reaper.
func (tx *Tx) Revoke(r mayfly.Revocation) {
	at := micros(r.At)
	key := RevocationKey{r.Kind, r.Value}
	tx.add(insertRevocation, "", r.ID, r.Kind, r.Value, key.matches(), r.By, at)
	switch r.Kind {
	case "human", "service":
		tx.add(revokeRoot, "", at, r.By, r.Kind, r.Value)
		tx.add(voidOfRoot, "", at, r.Kind, r.Value)
	case "profile":
		tx.add(revokeProfile, "", at, r.By, r.Value)
		tx.add(voidOfProfile, "", at, r.Value)
	case "source":
		tx.add(revokeSource, "", at, r.By, r.Value)
		tx.add(voidOfSource, "", at, r.Value)
	case "client":
		tx.add(revokeClient, "", at, r.By, r.Value)
	case "all":
		tx.add(revokeAll, "", at, r.By)
		tx.add(voidAll, "", at)
	default:
		tx.fail(mayfly.Errorf(mayfly.Invalid, "name one of human, service, profile, source, client or all"))
	}
	tx.add(voidOfClosed, "", at)
}

// LiftRevocation ends a revocation and guards, as "lift", that it stood.
func (tx *Tx) LiftRevocation(id string, at time.Time) {
	tx.add(liftRevocation, "lift", micros(at), id)
}

// RevokeToken marks a token as dead until it expires and guards, as "revoked
// token", that nobody did before.
func (tx *Tx) RevokeToken(jti string, task mayfly.TaskID, at, expires time.Time) {
	tx.add(revokeToken, "revoked token", jti, string(task), micros(at), micros(expires))
}

// InsertKey writes a signing key down, its private part sealed.
func (tx *Tx) InsertKey(k Key) {
	tx.add(insertKey, "", k.ID, k.Use, k.Algorithm, tx.db.Seal(sealKey, k.ID, k.Private),
		micros(k.MadeAt), micros(k.SignsFrom), micros(k.SignsUntil), micros(k.AcceptUntil))
}

// CompromiseKey marks a key as not to be trusted and guards, as "key", that it
// exists and was not so marked.
func (tx *Tx) CompromiseKey(id string, at time.Time) {
	tx.add(compromiseKey, "key", micros(at), id)
}

// OpenCall notes that the outcome of a decision is due from this process.
func (tx *Tx) OpenCall(decision string, task mayfly.TaskID, at time.Time) {
	tx.add(openCall, "", decision, string(task), tx.db.proc, micros(at))
}

// EndCall notes that the outcome is known and guards, as "call", that it was due.
func (tx *Tx) EndCall(decision string) { tx.add(endCall, "call", decision) }

// Advance takes the next epoch for what kind and subject name. It runs last of
// its change, and wakes whoever follows the epoch once it is durable.
func (tx *Tx) Advance(kind, subject string, at time.Time) {
	tx.add(advanceEpoch, "epoch")
	tx.add(recordEpoch, "epoch", kind, subject, micros(at))
	tx.epoch = true
}

// Books collects the bookkeeping of one change that records no event: the log's
// places and tiles, and what the clock alone has made worthless. It reaches no
// table that an authority stands on.
type Books struct{ tx *Tx }

// Soon is [Tx.Soon].
func (b *Books) Soon() { b.tx.Soon() }

// AppendSpan says that the n events of proc from seq on have the positions from
// start on, and guards, as "span", that nobody said so before.
func (b *Books) AppendSpan(start, proc, seq, n int64) {
	b.tx.add(appendSpan, "span", start, proc, seq, n)
}

// PutTile writes a tile, replacing the partial one that was there.
func (b *Books) PutTile(level, idx int64, data []byte) { b.tx.add(putTile, "", level, idx, data) }

// MoveHead swaps the signed tree head and guards, as "head", that the tree had
// the size fromSize.
func (b *Books) MoveHead(fromSize, toSize int64, note []byte, at time.Time) {
	b.tx.add(moveHead, "head", toSize, note, micros(at), fromSize)
}

// MoveAnchor keeps the newest checkpoint that witnesses have cosigned, of a tree
// of size, and guards, as "anchor", that the one there is not of a larger tree.
func (b *Books) MoveAnchor(size int64, note []byte, at time.Time) {
	b.tx.add(moveAnchor, "anchor", size, note, micros(at))
}

// BeginUnanchored notes that nothing newer than the anchor of size was cosigned
// for too long and guards, as "anchor", that this is the anchor and that it was
// not noted before.
func (tx *Tx) BeginUnanchored(size int64, at time.Time) {
	tx.add(beginUnanchored, "anchor", micros(at), size)
}

// EndUnanchored takes BeginUnanchored back and guards, as "anchor", that it was
// noted.
func (tx *Tx) EndUnanchored() { tx.add(endUnanchored, "anchor") }

// PurgeOnce drops single-use marks and revoked token ids that expired before
// before. Keep repeats it in small commits until none is left.
func (b *Books) PurgeOnce(before time.Time) {
	b.tx.add(purgeOnce, "", micros(before), int64(purgeLimit))
	b.tx.add(purgeRevoked, "", micros(before))
}

// FollowEpoch notes that this process has applied every change up to epoch at a
// time. Not a guard.
func (b *Books) FollowEpoch(epoch int64, at time.Time) {
	b.tx.add(followEpoch, "", epoch, micros(at), b.tx.db.proc)
}
