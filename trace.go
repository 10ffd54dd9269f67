package mayfly

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// Trace is a place in a distributed trace (W3C Trace Context). The zero Trace is
// none.
type Trace struct {
	ID        string // 32 hexadecimal digits
	Span      string // 16 hexadecimal digits
	Unsampled bool   // whoever began the trace does not record it
}

// ParseTrace reads a traceparent header (section 3.2 of the specification). What is
// not one well-formed header is none.
func ParseTrace(headers []string) Trace {
	const length = len("00-0123456789abcdef0123456789abcdef-0123456789abcdef-01")
	if len(headers) != 1 || len(headers[0]) < length {
		return Trace{}
	}
	text := headers[0]
	version, id, span, flags := text[:2], text[3:35], text[36:52], text[53:55]
	switch {
	case text[2] != '-' || text[35] != '-' || text[52] != '-':
		return Trace{}
	case strings.Trim(version+id+span+flags, "0123456789abcdef") != "" || version == "ff":
		return Trace{}
	case version == "00" && len(text) > length || len(text) > length && text[length] != '-':
		return Trace{}
	case strings.Trim(id, "0") == "" || strings.Trim(span, "0") == "":
		return Trace{}
	}
	return Trace{ID: id, Span: span, Unsampled: strings.ContainsRune("02468ace", rune(flags[1]))}
}

// Of is the place of what was decided under t: a span of its own, in t's trace or
// in one of its own. It follows from the decision's id, so that whoever reads the
// record later gives it the same place. A trace of its own is the decision's id in
// another spelling, so that [Trace.Decision] leads back.
func (t Trace) Of(decision string) Trace {
	sum := sha256.Sum256([]byte("mayfly trace\x00" + decision))
	// Neither can be all zeroes but by a chance of 1 in 2^64.
	t.Span = hex.EncodeToString(sum[16:24])
	if t.ID == "" {
		bits, ok := IDBits("dec", decision)
		if !ok {
			bits = [16]byte(sum[:16])
		}
		t.ID = hex.EncodeToString(bits[:])
	}
	return t
}

// Decision is the id of the decision that a trace began with, if it began with one;
// "" if its id is none.
func (t Trace) Decision() string {
	var bits [16]byte
	if n, err := hex.Decode(bits[:], []byte(t.ID)); err != nil || n != len(bits) {
		return ""
	}
	return "dec_" + idEncoding.EncodeToString(bits[:])
}

// Header is t as a traceparent header.
func (t Trace) Header() string {
	if t.Unsampled {
		return "00-" + t.ID + "-" + t.Span + "-00"
	}
	return "00-" + t.ID + "-" + t.Span + "-01"
}
