package mayfly

import (
	"strconv"
	"strings"
)

// decimal is an exact number: ±0.DIGITS × 10^point. It is never expanded, so
// that 1e999999 costs no more than its seven characters. Digits neither begin
// nor end with a zero, which makes equal numbers equal values; zero has none.
type decimal struct {
	neg    bool
	digits string
	point  int
}

// maxExponent is far beyond any number that means something and far below
// where point could overflow.
const maxExponent = 1_000_000

// parseDecimal reads a number as JSON writes it (RFC 8259 section 6).
func parseDecimal(text string) (decimal, bool) {
	rest, neg := strings.CutPrefix(text, "-")
	mantissa, exponent := rest, 0
	if i := strings.IndexAny(rest, "eE"); i >= 0 {
		mantissa = rest[:i]
		n, err := strconv.Atoi(rest[i+1:])
		if err != nil || n > maxExponent || n < -maxExponent {
			return decimal{}, false
		}
		exponent = n
	}
	whole, fraction, dotted := strings.Cut(mantissa, ".")
	if !allDigits(whole) || dotted && !allDigits(fraction) {
		return decimal{}, false
	}
	digits, point := whole+fraction, len(whole)+exponent
	trimmed := strings.TrimLeft(digits, "0")
	point -= len(digits) - len(trimmed)
	trimmed = strings.TrimRight(trimmed, "0")
	if trimmed == "" {
		return decimal{}, true
	}
	return decimal{neg, trimmed, point}, true
}

func allDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

// compare is negative, zero or positive as d is less than, equal to or greater
// than e.
func (d decimal) compare(e decimal) int {
	if s, t := d.sign(), e.sign(); s != t {
		return s - t
	}
	size := d.point - e.point
	if size == 0 || d.digits == "" {
		// The digits stand behind the same point, so they compare as text.
		size = strings.Compare(d.digits, e.digits)
	}
	if d.neg {
		return -size
	}
	return size
}

func (d decimal) sign() int {
	switch {
	case d.digits == "":
		return 0
	case d.neg:
		return -1
	default:
		return 1
	}
}

// count gives d as a whole number from 0 to limit.
func (d decimal) count(limit int64) (int64, bool) {
	if d.digits == "" {
		return 0, true
	}
	if d.neg || d.point < len(d.digits) || d.point > 18 {
		return 0, false
	}
	n, err := strconv.ParseInt(d.String(), 10, 64)
	return n, err == nil && n <= limit
}

// decimalPlaces is how many decimals an amount may have, and the scale it is
// kept in.
const decimalPlaces = 4

// scaled gives d times ten to the power of places, if that is a whole number of
// 64 bits.
func (d decimal) scaled(places int) (int64, bool) {
	if d.digits == "" {
		return 0, true
	}
	size := d.point + places
	if size < len(d.digits) || size > 19 {
		return 0, false
	}
	text := d.digits + strings.Repeat("0", size-len(d.digits))
	if d.neg {
		text = "-" + text
	}
	n, err := strconv.ParseInt(text, 10, 64)
	return n, err == nil
}

// FormatDecimal writes an amount, given in ten-thousandths, as JSON writes a
// number: without zeros that say nothing.
func FormatDecimal(tenThousandths int64) string {
	text := strconv.FormatInt(tenThousandths, 10)
	text, neg := strings.CutPrefix(text, "-")
	if pad := decimalPlaces + 1 - len(text); pad > 0 {
		text = strings.Repeat("0", pad) + text
	}
	whole, fraction := text[:len(text)-decimalPlaces], strings.TrimRight(text[len(text)-decimalPlaces:], "0")
	if neg {
		whole = "-" + whole
	}
	if fraction == "" {
		return whole
	}
	return whole + "." + fraction
}

// String writes d as JSON does, always in the same way.
func (d decimal) String() string {
	if d.digits == "" {
		return "0"
	}
	var b strings.Builder
	if d.neg {
		b.WriteByte('-')
	}
	switch n := len(d.digits); {
	case d.point > 21 || d.point < -5:
		b.WriteString(d.digits[:1])
		if n > 1 {
			b.WriteString("." + d.digits[1:])
		}
		b.WriteString("e" + strconv.Itoa(d.point-1))
	case d.point <= 0:
		b.WriteString("0." + strings.Repeat("0", -d.point) + d.digits)
	case d.point >= n:
		b.WriteString(d.digits + strings.Repeat("0", d.point-n))
	default:
		b.WriteString(d.digits[:d.point] + "." + d.digits[d.point:])
	}
	return b.String()
}
