package store

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/mayfly-id/mayfly"
)

// Record is an event made ready to be committed: its leaf and its sealed body.
// Its leaf hash is known before it is durable; nothing that depends on it may
// leave before the change that holds it has been committed.
type Record struct {
	id, kind, task, decision string
	who                      person // whom it is about; nobody has the id ""
	at                       time.Time
	leaf, body               []byte
	leafHash                 [32]byte
}

// ID is the record's id, evt_…
func (r Record) ID() string { return r.id }

// LeafHash is the RFC 6962 leaf hash of the record's leaf.
func (r Record) LeafHash() [32]byte { return r.leafHash }

// Dlg is LeafHash in base64url: how a token or a later record names this one.
func (r Record) Dlg() string { return base64.RawURLEncoding.EncodeToString(r.leafHash[:]) }

// Prepare encodes e as a record of the time at, under the configuration bundle.
// A person the store has not met gets a pseudonym and a key of their own, which
// are durable with their first record at the latest.
func (db *DB) Prepare(ctx context.Context, at time.Time, bundle string, e mayfly.Event) (Record, error) {
	h := e.Header()
	who := person{key: db.bodyKey}
	if h.Human != "" {
		var err error
		if who, err = db.personOf(ctx, h.Human, at); err != nil {
			return Record{}, err
		}
	}
	plain, err := json.Marshal(e)
	if err != nil {
		return Record{}, fmt.Errorf("store: encoding %s: %w", e.Kind(), err)
	}
	at = at.UTC().Truncate(time.Microsecond)
	r := Record{
		id: mayfly.NewID("evt", at), kind: e.Kind(), task: string(h.Task), decision: h.Decision, who: who, at: at,
	}
	r.body = sealed(who.key, r.id, plain)
	r.leaf = appendLeaf(make([]byte, 0, 512), leaf{
		Body: bodyHash(r.body), Bundle: bundle, Decision: r.decision, ID: r.id, Kind: r.kind, Parent: h.Parent,
		Person: who.id, Task: r.task, Term: string(h.Term), Time: at.Format(leafTime), V: 1,
	})
	r.leafHash = leafHash(r.leaf)
	return r, nil
}

// leafTime is RFC 3339 with exactly six digits of fraction, so that one time has
// one spelling.
const leafTime = "2006-01-02T15:04:05.000000Z"

// leaf is what stands in the log in clear. Its members are in canonical order.
type leaf struct {
	Body     string `json:"body"` // hash of the body row
	Bundle   string `json:"bundle"`
	Decision string `json:"decision"`
	ID       string `json:"id"`
	Kind     string `json:"kind"`
	Parent   string `json:"parent"`
	Person   string `json:"person"`
	Task     string `json:"task"`
	Term     string `json:"term"`
	Time     string `json:"time"`
	V        int    `json:"v"`
}

// appendLeaf is l in canonical JSON (RFC 8785), written by hand because every
// decision waits for it.
func appendLeaf(b []byte, l leaf) []byte {
	for _, m := range [...]struct{ name, value string }{
		{`{"body":`, l.Body}, {`,"bundle":`, l.Bundle}, {`,"decision":`, l.Decision}, {`,"id":`, l.ID}, {`,"kind":`, l.Kind},
		{`,"parent":`, l.Parent}, {`,"person":`, l.Person}, {`,"task":`, l.Task}, {`,"term":`, l.Term}, {`,"time":`, l.Time},
	} {
		b = append(b, m.name...)
		b = appendString(b, m.value)
	}
	return append(b, `,"v":1}`...)
}

// appendString is s as a JSON string with the escapes of RFC 8785 section
// 3.2.2.2. What is not UTF-8 becomes U+FFFD: the leaf must be JSON.
func appendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\uFFFD")
	}
	b = append(b, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c >= ' ':
			b = append(b, c)
		case c == '\b':
			b = append(b, '\\', 'b')
		case c == '\t':
			b = append(b, '\\', 't')
		case c == '\n':
			b = append(b, '\\', 'n')
		case c == '\f':
			b = append(b, '\\', 'f')
		case c == '\r':
			b = append(b, '\\', 'r')
		default:
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
	}
	return append(b, '"')
}

func bodyHash(body []byte) string {
	sum := sha256.Sum256(body)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// leafHash is RFC 6962 section 2.1: SHA-256 over a zero byte and the leaf.
func leafHash(leaf []byte) [32]byte {
	h := sha256.New()
	h.Write([]byte{0})
	h.Write(leaf)
	return [32]byte(h.Sum(nil))
}

// rowMAC is the MAC of one event row: it commits to the row's place among its
// process's and, through the MAC before, to every row before it.
func rowMAC(h hash.Hash, proc, seq int64, leaf, body, previous []byte) []byte {
	h.Reset()
	var n [8]byte
	number := func(v int64) {
		binary.BigEndian.PutUint64(n[:], uint64(v))
		h.Write(n[:])
	}
	number(proc)
	number(seq)
	number(int64(len(leaf)))
	h.Write(leaf)
	number(int64(len(body)))
	h.Write(body)
	h.Write(previous)
	return h.Sum(nil)
}

// EventRow is a record as it is stored.
type EventRow struct {
	Proc, Seq int64  // the process that wrote it, and its running number there, from 1
	Position  *int64 // in the log; nil until the sequencer gave it one
	ID        string
	Time      time.Time
	Kind      string
	Task      mayfly.TaskID
	Decision  string
	Person    string // pseudonym, "" if it is about nobody
	Leaf      []byte // canonical JSON, as hashed
	Sealed    []byte // the body row; Body opens it
	MAC       []byte
}

// Dlg is the base64url RFC 6962 leaf hash of the row's leaf.
func (r EventRow) Dlg() string {
	h := r.LeafHash()
	return base64.RawURLEncoding.EncodeToString(h[:])
}

// LeafHash is the RFC 6962 leaf hash of the row's leaf.
func (r EventRow) LeafHash() [32]byte { return leafHash(r.Leaf) }

// Parent is the Dlg of the delegation the record hangs on, as the leaf has it.
func (r EventRow) Parent() string { return r.leaf().Parent }

// Term is the term that refused, as the leaf has it.
func (r EventRow) Term() mayfly.Term {
	if term := memberOf(r.Leaf, `,"term":"`); !strings.Contains(term, `\`) {
		return mayfly.Term(term)
	}
	return mayfly.Term(r.leaf().Term)
}

// Bundle is the hash of the configuration in force, as the leaf has it.
func (r EventRow) Bundle() string {
	if bundle := memberOf(r.Leaf, `,"bundle":"`); !strings.Contains(bundle, `\`) {
		return bundle
	}
	return r.leaf().Bundle
}

// leaf is the row's leaf taken apart; zero where it cannot be read, which
// VerifyRow finds.
func (r EventRow) leaf() leaf {
	var l leaf
	if err := json.Unmarshal(r.Leaf, &l); err != nil {
		return leaf{}
	}
	return l
}

// VerifyRow checks that r is what this store wrote: that its MAC follows from
// previous (the MAC of the row before it of the same process, [NoMAC] for the
// first), that its body is the one the leaf commits to, and that its columns say
// what the leaf says. The error names what is wrong.
func (db *DB) VerifyRow(previous []byte, r EventRow) error {
	if len(previous) != sha256.Size {
		return fmt.Errorf("store: the row before %s is missing", r.at())
	}
	if !hmac.Equal(r.MAC, rowMAC(hmac.New(sha256.New, db.macKey), r.Proc, r.Seq, r.Leaf, r.Sealed, previous)) {
		return fmt.Errorf("store: the MAC of %s is wrong", r.at())
	}
	// What the columns say decides what the leaf must be, but for three members.
	l := leaf{
		Body: bodyHash(r.Sealed), Decision: r.Decision, ID: r.ID, Kind: r.Kind, Person: r.Person,
		Task: string(r.Task), Time: r.Time.Format(leafTime), V: 1,
	}
	l.Bundle, l.Parent, l.Term = memberOf(r.Leaf, `,"bundle":"`), memberOf(r.Leaf, `,"parent":"`), memberOf(r.Leaf, `,"term":"`)
	if bytes.Equal(appendLeaf(make([]byte, 0, len(r.Leaf)), l), r.Leaf) {
		return nil
	}
	said := r.leaf()
	switch {
	case said.V != 1 || !bytes.Equal(appendLeaf(nil, said), r.Leaf):
		return fmt.Errorf("store: the leaf of %s is not in canonical form", r.at())
	case said.Body != l.Body:
		return fmt.Errorf("store: the body of %s is not the one its leaf commits to", r.at())
	}
	return fmt.Errorf("store: the columns of %s do not say what its leaf says", r.at())
}

// memberOf is a member of a canonical leaf whose value needs no escapes, and
// something else of any other leaf. It saves a parser, which was half of what a
// row cost the sequencer.
func memberOf(leaf []byte, name string) string {
	_, after, _ := bytes.Cut(leaf, []byte(name))
	value, _, _ := bytes.Cut(after, []byte(`"`))
	return string(value)
}

// at names r for whoever must look for it.
func (r *EventRow) at() string {
	return fmt.Sprintf("event %s (process %d, number %d)", r.ID, r.Proc, r.Seq)
}

// NoMAC is what the first row of a process follows from.
func NoMAC() []byte { return make([]byte, sha256.Size) }

// Body opens the body of r: the event as JSON. It is Gone when the person it is
// about was erased.
func (db *DB) Body(ctx context.Context, r EventRow) (jsontext.Value, error) {
	key, err := db.personKey(ctx, r.Person)
	if err != nil {
		return nil, err
	}
	return openBody(key, &r)
}

// personKey is the key of bodies about a person; with "" of those about nobody.
func (db *DB) personKey(ctx context.Context, person string) ([]byte, error) {
	if person == "" {
		return db.bodyKey, nil
	}
	var box []byte
	err := db.readRow(ctx, readPersonKey, []any{person}, &box)
	if errors.Is(err, sql.ErrNoRows) || err == nil && box == nil {
		return nil, erased()
	}
	if err != nil {
		return nil, err
	}
	return db.Unseal(sealPerson, person, box)
}

func openBody(key []byte, r *EventRow) (jsontext.Value, error) {
	plain, err := unsealed(key, r.ID, r.Sealed)
	if err != nil {
		return nil, fmt.Errorf("store: the body of %s: %w", r.ID, err)
	}
	return plain, nil
}

func scanEvent(rows *sql.Rows) (EventRow, error) {
	var r EventRow
	var at int64
	var task string
	err := rows.Scan(&r.Proc, &r.Seq, &r.ID, &at, &r.Kind, &task, &r.Decision, &r.Person, &r.Leaf, &r.Sealed, &r.MAC, &r.Position)
	r.Time, r.Task = fromMicros(at), mayfly.TaskID(task)
	return r, err
}

// EventByID reads one record, or NotFound.
func (db *DB) EventByID(ctx context.Context, id string) (*EventRow, error) {
	rows, err := collect(ctx, db, scanEvent, readEventByID, id)
	if err != nil {
		return nil, err
	}
	if len(rows) == 0 {
		return nil, mayfly.Errorf(mayfly.NotFound, "there is no such record")
	}
	return &rows[0], nil
}

// EventsByTask reads a task's records, oldest first, from the one after the
// record with the id after; "" is from the start.
func (db *DB) EventsByTask(ctx context.Context, task mayfly.TaskID, after string, limit int) ([]EventRow, error) {
	from := &EventRow{Time: fromMicros(-1)}
	if after != "" {
		var err error
		if from, err = db.EventByID(ctx, after); mayfly.KindOf(err) == mayfly.NotFound {
			return nil, mayfly.Errorf(mayfly.Invalid, "the cursor is not one of this list's")
		} else if err != nil {
			return nil, err
		}
	}
	return collect(ctx, db, scanEvent, readEventsByTask, string(task), micros(from.Time), from.Proc, from.Seq, int64(limit))
}

// EventsByDecision reads the records of one decision, oldest first.
func (db *DB) EventsByDecision(ctx context.Context, decision string) ([]EventRow, error) {
	return collect(ctx, db, scanEvent, readEventsByDecision, decision)
}

// EventsAfter reads the records whose position in the log is higher than after,
// in that order; -1 is from the start.
func (db *DB) EventsAfter(ctx context.Context, after int64, limit int) ([]EventRow, error) {
	return collect(ctx, db, scanEvent, readEventsAfter, after, int64(limit))
}

// LastEventTime is the time of the newest record, zero if there is none.
func (db *DB) LastEventTime(ctx context.Context) (time.Time, error) {
	var at int64
	if err := db.readRow(ctx, lastEventTime, nil, &at); err != nil || at == 0 {
		return time.Time{}, err
	}
	return fromMicros(at), nil
}

// Stray is a row among the events that no process of this store wrote, if there
// is one: it can have no place in the log.
func (db *DB) Stray(ctx context.Context) (*EventRow, error) {
	rows, err := collect(ctx, db, scanEvent, readStray)
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	return &rows[0], nil
}
