// Package strictjson is the one way JSON from outside comes in. It owns the
// rules that two JSON parsers could disagree about (duplicate and
// differently-cased names, invalid UTF-8, a byte order mark, trailing data,
// integers a double cannot hold) and the limits on size, depth, strings and
// names; it knows nothing of what a document means. Start reading at [Check].
package strictjson

import (
	"errors"
	"strconv"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/mayfly-id/mayfly"
)

// Limits bounds a document. A limit that is 0 does not apply.
type Limits struct {
	Bytes   int // length of the whole document
	Depth   int // objects and arrays inside each other
	Strings int // string values; names of members do not count
	Name    int // length of a member's name, in bytes as written
}

// Ours are the limits of our own endpoints and files, MCP those of bodies that
// are another program's to define.
var (
	Ours = Limits{Bytes: 1 << 20, Depth: 32, Strings: 1000, Name: 128}
	MCP  = Limits{Bytes: 1 << 20, Depth: 32, Name: 128}
)

// maxNumber is the largest magnitude of a number: above it a double skips
// integers, and RFC 7493 section 2.2 warns that readers will disagree.
const maxNumber = 1<<53 - 1

// maxMembers is how many members one object may have, whatever the limits: a
// parser that looks for duplicates keeps them all, and a megabyte of short names
// costs 50 MB and 130 ms.
const maxMembers = 10_000

// Check reports whether data is one JSON value (RFC 8259) that every parser
// reads alike (RFC 7493) and that is within l. The error is a *mayfly.Error:
// TooLarge where there are too many bytes, else Invalid.
func Check(data []byte, l Limits) error {
	if err := l.check(data); err != nil {
		return err
	}
	// IsValid says no more than no; the decoder says where.
	if jsontext.Value(data).IsValid() {
		return nil
	}
	var v jsontext.Value
	if err := json.Unmarshal(data, &v); err != nil {
		return refusal(err)
	}
	return mayfly.Errorf(mayfly.Invalid, "the JSON is not valid")
}

// Canonical checks data and gives its one canonical form (RFC 8785), leaving
// data as it was.
func Canonical(data []byte, l Limits) ([]byte, error) {
	if err := l.check(data); err != nil {
		return nil, err
	}
	v := jsontext.Value(data).Clone()
	if err := v.Canonicalize(); err != nil {
		return nil, refusal(err)
	}
	return v, nil
}

// Unmarshal checks data and decodes it. Names are matched in their exact case,
// and a member that into has no place for is refused.
func Unmarshal(data []byte, l Limits, into any) error {
	return unmarshal(data, l, into, json.RejectUnknownMembers(true))
}

// UnmarshalLenient is [Unmarshal] for documents of others, who may add members:
// those that into has no place for are checked and ignored.
func UnmarshalLenient(data []byte, l Limits, into any) error {
	return unmarshal(data, l, into)
}

func unmarshal(data []byte, l Limits, into any, opts ...json.Options) error {
	if err := l.check(data); err != nil {
		return err
	}
	if err := json.Unmarshal(data, into, opts...); err != nil {
		return refusal(err)
	}
	return nil
}

// Marshal encodes v, maps in the order of their keys.
func Marshal(v any) ([]byte, error) {
	data, err := json.Marshal(v, json.Deterministic(true))
	if err != nil {
		return nil, mayfly.Errorf(mayfly.Internal, "a value could not be written as JSON").Because(err)
	}
	return data, nil
}

// check applies the limits, in one pass that does not validate: it only has to
// be right about documents that the decoder, which always runs after it, finds
// valid. It comes first so that no limit is enforced after the cost is paid.
func (l Limits) check(data []byte) error {
	if l.Bytes > 0 && len(data) > l.Bytes {
		return mayfly.Errorf(mayfly.TooLarge, "the JSON is longer than %d bytes; send less at once", l.Bytes)
	}
	values := 0
	var room [32]int
	members := room[:0] // of each object and array we are in
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case c == '{' || c == '[':
			if members = append(members, 0); l.Depth > 0 && len(members) > l.Depth {
				return mayfly.Errorf(mayfly.Invalid, "the JSON is nested deeper than %d levels", l.Depth)
			}
		case c == '}' || c == ']':
			if len(members) > 0 {
				members = members[:len(members)-1]
			}
		case c == '"':
			start := i + 1
			i = endOfString(data, start)
			if isName(data, i+1) {
				if l.Name > 0 && i-start > l.Name {
					return mayfly.Errorf(mayfly.Invalid, "the JSON has a member whose name is longer than %d bytes", l.Name)
				}
				if n := len(members); n > 0 {
					if members[n-1]++; members[n-1] > maxMembers {
						return mayfly.Errorf(mayfly.Invalid, "the JSON has an object with more than %d members", maxMembers)
					}
				}
			} else if values++; l.Strings > 0 && values > l.Strings {
				return mayfly.Errorf(mayfly.Invalid, "the JSON has more than %d strings; send less at once", l.Strings)
			}
		case c == '-' || '0' <= c && c <= '9':
			start := i
			for i+1 < len(data) && inNumber(data[i+1]) {
				i++
			}
			if !readsAlike(data[start : i+1]) {
				return mayfly.Errorf(mayfly.Invalid, "the JSON has a number beyond ±%d; send it as a string", int64(maxNumber))
			}
		}
	}
	return nil
}

// endOfString is the index of the quote that ends the string whose first
// character is at i, or len(data).
func endOfString(data []byte, i int) int {
	for ; i < len(data); i++ {
		switch data[i] {
		case '"':
			return i
		case '\\':
			i++
		}
	}
	return len(data)
}

// isName reports whether the string that ended just before i names a member.
func isName(data []byte, i int) bool {
	for ; i < len(data); i++ {
		switch data[i] {
		case ' ', '\t', '\r', '\n':
		default:
			return data[i] == ':'
		}
	}
	return false
}

func inNumber(c byte) bool {
	return '0' <= c && c <= '9' || c == '.' || c == 'e' || c == 'E' || c == '+' || c == '-'
}

// readsAlike reports whether number, as JSON writes it, is one that doubles do
// not confuse with its neighbours.
func readsAlike(number []byte) bool {
	if len(number) <= 15 && !hasExponent(number) {
		return true
	}
	f, err := strconv.ParseFloat(string(number), 64)
	return err == nil && -maxNumber <= f && f <= maxNumber
}

func hasExponent(number []byte) bool {
	for _, c := range number {
		if c == 'e' || c == 'E' {
			return true
		}
	}
	return false
}

// refusal says in one sentence what is wrong, and where. The values of a
// document are never in it: one may be a secret.
func refusal(err error) error {
	if ours, ok := errors.AsType[*mayfly.Error](err); ok {
		return ours // a type of ours that reads itself
	}
	where := ""
	if semantic, ok := errors.AsType[*json.SemanticError](err); ok {
		where = at(semantic.JSONPointer)
		if errors.Is(err, json.ErrUnknownName) {
			return mayfly.Errorf(mayfly.Invalid, "the JSON has a member that is not known here%s; leave it out", where).Because(err)
		}
		return mayfly.Errorf(mayfly.Invalid, "the JSON has a value of the wrong kind%s", where).Because(err)
	}
	if syntactic, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		where = at(syntactic.JSONPointer)
		if errors.Is(err, jsontext.ErrDuplicateName) {
			return mayfly.Errorf(mayfly.Invalid, "the JSON has a member twice%s", where).Because(err)
		}
		return mayfly.Errorf(mayfly.Invalid, "the JSON is not valid at byte %d%s", syntactic.ByteOffset, where).Because(err)
	}
	return mayfly.Errorf(mayfly.Invalid, "the JSON is not valid").Because(err)
}

func at(p jsontext.Pointer) string {
	if p == "" {
		return ""
	}
	const longest = 200
	if len(p) > longest {
		p = p[:longest]
	}
	return " (" + strconv.QuoteToASCII(string(p)) + ")"
}
