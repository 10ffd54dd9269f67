package main

// Limits are the rate limits of the public listener. A zero member is the
// default of [DefaultLimits].
type Limits struct {
	Unauthenticated Rate // per network address
	Token           Rate // of the token endpoint, per client
	Exchange        Rate // per task
	ClientFailures  int  // failed client authentications a minute, per client
	Loopback        bool // they hold for loopback peers too
}

// Rate is a token bucket: PerSecond on average, Burst at once.
type Rate struct{ PerSecond, Burst int }

// DefaultLimits are in force where the configuration says nothing.
var DefaultLimits = Limits{
	Unauthenticated: Rate{5, 10},
	Token:           Rate{20, 40},
	Exchange:        Rate{10, 20},
	ClientFailures:  10,
}

type limitsEntry struct {
	Unauthenticated *rateEntry `json:"unauthenticated"`
	Token           *rateEntry `json:"token"`
	Exchange        *rateEntry `json:"exchange"`
	ClientFailures  *int       `json:"client_failures"`
	Loopback        bool       `json:"loopback"`
}

type rateEntry struct {
	PerSecond int `json:"per_second"`
	Burst     int `json:"burst"`
}

// maxRate bounds a limit to what can mean anything.
const maxRate = 1_000_000

func (d *document) limits(e *limitsEntry) Limits {
	at := path{"limits"}
	out := DefaultLimits
	out.Loopback = e.Loopback
	rate := func(name string, from *rateEntry, to *Rate) {
		if from == nil {
			return
		}
		if from.PerSecond < 1 || from.PerSecond > maxRate || from.Burst < from.PerSecond || from.Burst > maxRate {
			d.wrong(at.to(name), "needs per_second, from 1 to %d, and burst, at least per_second", maxRate)
			return
		}
		*to = Rate{from.PerSecond, from.Burst}
	}
	rate("unauthenticated", e.Unauthenticated, &out.Unauthenticated)
	rate("token", e.Token, &out.Token)
	rate("exchange", e.Exchange, &out.Exchange)
	if e.ClientFailures != nil {
		if out.ClientFailures = *e.ClientFailures; out.ClientFailures < 1 || out.ClientFailures > maxRate {
			d.wrong(at.to("client_failures"), "must be from 1 to %d a minute", maxRate)
		}
	}
	return out
}
