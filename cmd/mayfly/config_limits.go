package main

import "github.com/mayfly-id/mayfly/internal/server"

// limitsEntry is limits in mayfly.yaml; what it leaves out is the default of
// server.DefaultLimits.
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

func (d *document) limits(e *limitsEntry) server.Limits {
	at := path{"limits"}
	out := server.DefaultLimits()
	out.Loopback = e.Loopback
	rate := func(name string, from *rateEntry, to *server.Rate) {
		if from == nil {
			return
		}
		if from.PerSecond < 1 || from.PerSecond > maxRate || from.Burst < from.PerSecond || from.Burst > maxRate {
			d.wrong(at.to(name), "needs per_second, from 1 to %d, and burst, at least per_second", maxRate)
			return
		}
		*to = server.Rate{PerSecond: from.PerSecond, Burst: from.Burst}
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
