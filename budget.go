package mayfly

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Budget is how often a grant may be used, counted for the task that holds it
// and all below that task. The zero value is no limit.
type Budget struct {
	Calls int64 // 0 is no limit
	// Sum limits what an argument may add up to, over the calls that are allowed:
	// sorted by argument, each named once.
	Sum  []SumLimit
	Rate Rate
	// Of is the [Grant.Key] of the grant this one was cut from, whose count it
	// goes on with; "" counts by itself. Without it, narrowing a grant that is
	// used up, or cutting it in two, would make it new.
	Of string
}

// Limits reports whether b limits anything.
func (b Budget) Limits() bool { return b.Calls > 0 || len(b.Sum) > 0 || b.Rate.Calls > 0 }

// IsZero reports whether b says nothing.
func (b Budget) IsZero() bool { return !b.Limits() && b.Of == "" }

// Equal reports whether b and o are the same budget.
func (b Budget) Equal(o Budget) bool {
	return b.Calls == o.Calls && slices.Equal(b.Sum, o.Sum) && b.Rate == o.Rate && b.Of == o.Of
}

// SumLimit is the most that an argument may add up to. Such an argument is a
// number of at least 0 with at most four decimals.
type SumLimit struct {
	Argument string // a top-level name or JSON Pointer, as in a [Where]
	Max      int64  // in ten-thousandths
}

// Rate allows no more than Calls in any span of Per. What it counted is never
// given back. The zero value is no limit.
type Rate struct {
	Calls int64 // at most MaxRateCalls
	Per   time.Duration
}

// MaxRateCalls is the most calls that a [Rate] may count.
const MaxRateCalls = 1000

// Limits on a budget, so that what one call is counted against stays little.
const (
	maxSums = 8
	// maxSum is in ten-thousandths: as JSON every reader can hold it.
	maxSum     = maxSafeInteger
	maxRatePer = 24 * time.Hour
)

// within says why b allows more than most does, or "". A rate is within another
// one if it has no more calls in no less time; whether other pairs are, is not
// asked.
func (b *Budget) within(most *Budget) string {
	const lacks = "needs the budget it is given with; add budget: "
	switch {
	case most.Calls == 0:
	case b.Calls == 0:
		return lacks + "{calls: " + strconv.FormatInt(most.Calls, 10) + "} or less"
	case b.Calls > most.Calls:
		return "may have a budget of at most " + strconv.FormatInt(most.Calls, 10) + " calls"
	}
	for _, limit := range most.Sum {
		switch own := b.sum(limit.Argument); {
		case own == nil:
			return lacks + "{sum: {" + limit.Argument + ": " + FormatDecimal(limit.Max) + "}} or less"
		case own.Max > limit.Max:
			return "may have a budget of at most " + FormatDecimal(limit.Max) + " for the sum of " + limit.Argument
		}
	}
	switch {
	case most.Rate.Calls == 0:
	case b.Rate.Calls == 0:
		return lacks + "{rate: " + most.Rate.String() + "} or less"
	case b.Rate.Calls > most.Rate.Calls || b.Rate.Per < most.Rate.Per:
		return "may have a rate of at most " + most.Rate.String() + ": no more calls, in no less time"
	}
	return ""
}

// and is the largest budget within both, which goes on with b's count.
func (b Budget) and(o *Budget) Budget {
	if o.Calls > 0 && (b.Calls == 0 || b.Calls > o.Calls) {
		b.Calls = o.Calls
	}
	if len(o.Sum) > 0 {
		b.Sum = slices.Clone(b.Sum)
		for _, limit := range o.Sum {
			if own := b.sum(limit.Argument); own != nil {
				own.Max = min(own.Max, limit.Max)
			} else {
				b.Sum = append(b.Sum, limit)
			}
		}
		slices.SortFunc(b.Sum, func(x, y SumLimit) int { return cmp.Compare(x.Argument, y.Argument) })
	}
	switch {
	case o.Rate.Calls == 0:
	case b.Rate.Calls == 0:
		b.Rate = o.Rate
	default:
		b.Rate = Rate{Calls: min(b.Rate.Calls, o.Rate.Calls), Per: max(b.Rate.Per, o.Rate.Per)}
	}
	return b
}

// sum finds b's limit on an argument, or nil.
func (b *Budget) sum(argument string) *SumLimit {
	for i := range b.Sum {
		if b.Sum[i].Argument == argument {
			return &b.Sum[i]
		}
	}
	return nil
}

// String writes r as a grant does.
func (r Rate) String() string {
	return "{calls: " + strconv.FormatInt(r.Calls, 10) + ", per: " + r.per() + "}"
}

// per is r.Per, which is whole seconds, without the zeros of [time.Duration].
func (r Rate) per() string {
	text := strings.TrimSuffix(r.Per.String(), "0s")
	if text == "" || !strings.HasSuffix(text, "m") && !strings.HasSuffix(text, "h") {
		return r.Per.String()
	}
	if hours, found := strings.CutSuffix(text, "h0m"); found {
		return hours + "h"
	}
	return text
}

// parseBudget reads the member "budget" of a long form.
func parseBudget(v *value) (Budget, error) {
	if v.kind != '{' || len(v.items) == 0 {
		return Budget{}, Errorf(Invalid, "budget must be an object, such as {calls: 10}")
	}
	var b Budget
	for i, name := range v.names {
		item := &v.items[i]
		var err error
		switch name {
		case "calls":
			n, ok := item.number.count(maxSafeInteger)
			if item.kind != '0' || !ok || n < 1 {
				return Budget{}, Errorf(Invalid, "calls in a budget must be a whole number of at least 1")
			}
			b.Calls = n
		case "sum":
			b.Sum, err = parseSums(item)
		case "rate":
			b.Rate, err = parseRate(item)
		case "of":
			if item.kind != '"' || item.text == "" || len(item.text) > 2*maxGrant {
				return Budget{}, Errorf(Invalid, "of in a budget must name the grant whose calls are counted")
			}
			b.Of = item.text
		default:
			return Budget{}, Errorf(Invalid, "a budget has no member %q; there are calls, sum and rate", name)
		}
		if err != nil {
			return Budget{}, err
		}
	}
	if !b.Limits() {
		return Budget{}, Errorf(Invalid, "a budget needs calls, sum or rate, such as {calls: 10}")
	}
	return b, nil
}

func parseSums(v *value) ([]SumLimit, error) {
	if v.kind != '{' || len(v.items) == 0 || len(v.items) > maxSums {
		return nil, Errorf(Invalid, "sum in a budget must be an object of 1 to %d arguments, such as {amount: 2000}", maxSums)
	}
	sums := make([]SumLimit, 0, len(v.items))
	for i, name := range v.names {
		path, err := parsePath(name)
		if err != nil {
			return nil, Errorf(Invalid, "sum in a budget: %q is neither the name of an argument nor a JSON Pointer", name)
		}
		most, ok := v.items[i].number.scaled(decimalPlaces)
		if v.items[i].kind != '0' || !ok || most < 0 || most > maxSum {
			return nil, Errorf(Invalid, "the sum of %q in a budget must be a number from 0 to %s with at most four decimals", name, FormatDecimal(maxSum))
		}
		sums = append(sums, SumLimit{Argument: pathName(path), Max: most})
	}
	slices.SortFunc(sums, func(x, y SumLimit) int { return cmp.Compare(x.Argument, y.Argument) })
	for i := range sums[1:] {
		if sums[i].Argument == sums[i+1].Argument {
			return nil, Errorf(Invalid, "sum in a budget names the argument %q twice", sums[i].Argument)
		}
	}
	return sums, nil
}

func parseRate(v *value) (Rate, error) {
	bad := func(format string, args ...any) (Rate, error) {
		return Rate{}, Errorf(Invalid, "rate in a budget "+format, args...)
	}
	if v.kind != '{' {
		return bad("must be an object, such as {calls: 5, per: 1m}")
	}
	for _, name := range v.names {
		if name != "calls" && name != "per" {
			return bad("has no member %q; there are calls and per", name)
		}
	}
	calls, per := v.member("calls"), v.member("per")
	if calls == nil || per == nil {
		return bad("needs calls and per, such as {calls: 5, per: 1m}")
	}
	var r Rate
	var ok bool
	if r.Calls, ok = calls.number.count(MaxRateCalls); calls.kind != '0' || !ok || r.Calls < 1 {
		return bad("needs for calls a whole number from 1 to %d", MaxRateCalls)
	}
	d, err := time.ParseDuration(per.text)
	if per.kind != '"' || err != nil || d < time.Second || d > maxRatePer || d%time.Second != 0 {
		return bad(`needs for per whole seconds, from 1s to 24h, such as "1m"`)
	}
	r.Per = d
	return r, nil
}

// append writes b, which limits something, as JSON: always in the same way.
func (b *Budget) append(to []byte) []byte {
	to = append(to, '{')
	next := func(name string) {
		if to[len(to)-1] != '{' {
			to = append(to, ',')
		}
		to = append(append(append(to, '"'), name...), '"', ':')
	}
	if b.Calls > 0 {
		next("calls")
		to = strconv.AppendInt(to, b.Calls, 10)
	}
	if len(b.Sum) > 0 {
		next("sum")
		for i, limit := range b.Sum {
			if to = append(to, ','); i == 0 {
				to[len(to)-1] = '{'
			}
			to = append(appendString(to, limit.Argument), ':')
			to = append(to, FormatDecimal(limit.Max)...)
		}
		to = append(to, '}')
	}
	if b.Rate.Calls > 0 {
		next("rate")
		to = strconv.AppendInt(append(to, `{"calls":`...), b.Rate.Calls, 10)
		to = append(append(append(to, `,"per":"`...), b.Rate.per()...), `"}`...)
	}
	if b.Of != "" {
		next("of")
		to = appendString(to, b.Of)
	}
	return append(to, '}')
}
