// Package mayfly holds the words of the product: tasks, delegations, grants,
// decisions, events and errors, with the pure rules between them.
//
// A [Task] is one bounded run of an agent's work and is also the agent's
// identity. It was handed its authority by a delegator (a human, a service or
// an upstream task), and every link of that chain only narrows. Start reading
// at task.go, then grant.go.
//
// Nothing here reads a clock, a file, a socket or a database. The verbs live in
// internal/: attest, policy, token, store, eventlog, and authority, which puts
// them in order.
package mayfly

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"strings"
	"time"
)

// idEncoding is Crockford's alphabet in lower case: it sorts in ASCII order, so
// ids that begin with a time sort by that time and land side by side in an
// index.
var idEncoding = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// idLength is the length of what follows the prefix of an id.
const idLength = 26

// NewID makes an id such as task_06e8…: a prefix, 48 bits of now in
// milliseconds, and 80 random bits. Ids are never reused.
func NewID(prefix string, now time.Time) string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], uint64(now.UnixMilli())<<16)
	rand.Read(b[6:])
	return prefix + "_" + idEncoding.EncodeToString(b[:])
}

// IDBits are the 128 bits of an id that [NewID] made with this prefix: those of
// later ids are greater.
func IDBits(prefix, id string) (b [16]byte, ok bool) {
	if !validID(prefix, id) {
		return b, false
	}
	if _, err := idEncoding.Decode(b[:], []byte(id[len(prefix)+1:])); err != nil {
		return b, false
	}
	return b, true
}

// validID reports whether s is an id with this prefix, in its one spelling.
func validID(prefix, s string) bool {
	rest, ok := strings.CutPrefix(s, prefix+"_")
	if !ok || len(rest) != idLength {
		return false
	}
	b, err := idEncoding.DecodeString(rest)
	return err == nil && idEncoding.EncodeToString(b) == rest
}

// TaskID names one task, for ever.
type TaskID string

// NewTaskID makes the id of a task opened now.
func NewTaskID(now time.Time) TaskID { return TaskID(NewID("task", now)) }

// ParseTaskID is the only way from outside text to a TaskID.
func ParseTaskID(s string) (TaskID, error) {
	if !validID("task", s) {
		return "", Errorf(NotFound, "there is no such task")
	}
	return TaskID(s), nil
}

// AgentID is the SPIFFE ID of the agent that runs task id under profile:
// spiffe://<trust-domain>/agent/<profile>/<task-id>.
func AgentID(trustDomain, profile string, id TaskID) string {
	return "spiffe://" + trustDomain + "/agent/" + profile + "/" + string(id)
}
