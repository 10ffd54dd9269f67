package server

import (
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func key(addr string, digest byte) limitKey {
	k := limitKey{addr: netip.MustParseAddr(addr)}
	k.digest[0] = digest
	return k
}

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func TestABucketGivesItsBurstAndThenItsRate(t *testing.T) {
	b := buckets{Rate{5, 10}, recent[bucket]{max: 8}}
	k := key("192.0.2.1", 0)
	for i := range 10 {
		if wait := b.take(k, noon); wait != 0 {
			t.Fatalf("token %d of the burst had to wait %s", i, wait)
		}
	}
	if wait := b.take(k, noon); wait != 200*time.Millisecond {
		t.Errorf("the eleventh waits %s, want 200ms", wait)
	}
	if wait := b.take(k, noon.Add(200*time.Millisecond)); wait != 0 {
		t.Errorf("after 200 ms it still waits %s", wait)
	}
	if wait := b.take(key("192.0.2.2", 0), noon); wait != 0 {
		t.Errorf("another address waits %s", wait)
	}
	if wait := b.take(k, noon.Add(-time.Hour)); wait == 0 {
		t.Error("a clock that was set back gave a token")
	}
}

// TestNoScheduleBeatsTheRate: however requests are spread, no more get through
// than burst and rate allow.
func TestNoScheduleBeatsTheRate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rate := Rate{rapid.IntRange(1, 50).Draw(t, "rate"), rapid.IntRange(1, 50).Draw(t, "burst")}
		b := buckets{rate, recent[bucket]{max: 4}}
		now, passed := noon, 0
		for range rapid.IntRange(1, 300).Draw(t, "requests") {
			now = now.Add(time.Duration(rapid.IntRange(0, 300).Draw(t, "gap")) * time.Millisecond)
			if b.take(key("192.0.2.1", 0), now) == 0 {
				passed++
			}
		}
		if most := float64(rate.Burst) + now.Sub(noon).Seconds()*float64(rate.PerSecond) + 1e-6; float64(passed) > most {
			t.Fatalf("%d got through, at most %.1f may", passed, most)
		}
	})
}

func TestWhatIsRememberedIsBounded(t *testing.T) {
	m := recent[int]{max: 100}
	for i := range 100_000 {
		m.put(limitKey{addr: netip.AddrFrom4([4]byte{byte(i >> 16), byte(i >> 8), byte(i), 1})}, i)
		m.get(key("192.0.2.1", 1))
	}
	if n := len(m.now) + len(m.old); n > 200 {
		t.Errorf("%d entries are held", n)
	}
	m.put(key("192.0.2.1", 1), 7)
	for i := range 250 { // what is asked for stays
		m.put(limitKey{addr: netip.AddrFrom4([4]byte{9, 9, byte(i), 1})}, i)
		if v, ok := m.get(key("192.0.2.1", 1)); !ok || v != 7 {
			t.Fatal("what was just asked for is forgotten")
		}
	}
}

func TestStrangersAreHeldUpAndOthersBehindTheSameAddressAreNot(t *testing.T) {
	l := newLimits(Limits{})
	stranger, good, fresh := key("192.0.2.1", 0), key("192.0.2.1", 1), key("192.0.2.1", 2)
	if l.enter(good, noon) != 0 {
		t.Fatal("the first request has to wait")
	}
	l.succeeded(good)
	for range 10 {
		if l.enter(stranger, noon) != 0 {
			t.Fatal("a stranger's burst has to wait")
		}
	}
	if l.enter(stranger, noon) == 0 {
		t.Error("the eleventh stranger of a moment gets through")
	}
	if l.enter(good, noon) != 0 {
		t.Error("a caller known to be good is held up by strangers")
	}
	if l.enter(fresh, noon) == 0 {
		t.Error("an unknown credential gets through an address that is used up")
	}
	if l.enter(key("192.0.2.9", 2), noon) != 0 {
		t.Error("another address is held up")
	}
	l.failed(good, noon)
	if l.enter(good, noon) == 0 {
		t.Error("a credential that failed is still known to be good")
	}
}

func TestFailedAuthenticationUsesUpTheAddress(t *testing.T) {
	l := newLimits(Limits{})
	for i := range 10 {
		k := key("192.0.2.1", byte(i+1))
		if l.enter(k, noon) != 0 {
			t.Fatalf("failure %d has to wait", i)
		}
		l.failed(k, noon)
	}
	if wait := l.enter(key("192.0.2.1", 99), noon); wait == 0 || wait > time.Second {
		t.Errorf("after ten failures the next waits %s", wait)
	}
}

func TestFailedClientsWaitLongerEachTime(t *testing.T) {
	l := newLimits(Limits{})
	c := key("192.0.2.1", 1)
	now := noon
	for range 9 {
		l.clientFailed(c, now)
	}
	if l.lockedOut(c, now) != 0 {
		t.Fatal("nine failures lock out")
	}
	for _, want := range []time.Duration{1, 2, 4, 8, 15, 15} {
		l.clientFailed(c, now)
		if wait := l.lockedOut(c, now); wait != want*time.Minute {
			t.Fatalf("waits %s, want %dm", wait, want)
		}
		now = now.Add(want * time.Minute)
		if l.lockedOut(c, now) != 0 {
			t.Fatal("still locked out when its time is over")
		}
	}
	if l.lockedOut(key("192.0.2.2", 1), now) != 0 {
		t.Error("the client is locked out at another address")
	}
	l.clientSucceeded(c)
	l.clientFailed(c, now)
	if l.lockedOut(c, now) != 0 {
		t.Error("one failure after a success locks out")
	}
}

func TestFailuresFarApartLockNobodyOut(t *testing.T) {
	l := newLimits(Limits{})
	for i := range 100 {
		l.clientFailed(key("192.0.2.1", 1), noon.Add(time.Duration(i)*7*time.Second))
	}
	if wait := l.lockedOut(key("192.0.2.1", 1), noon.Add(700*time.Second)); wait != 0 {
		t.Errorf("nine a minute lock out for %s", wait)
	}
}

func TestTasksHaveALimitOfTheirOwn(t *testing.T) {
	l := newLimits(Limits{Exchange: Rate{1, 2}, Token: Rate{100, 100}})
	client, task, other := key("192.0.2.1", 1), key("192.0.2.1", 2), key("192.0.2.1", 3)
	for range 2 {
		if l.token(client, &task, noon) != 0 {
			t.Fatal("the burst has to wait")
		}
	}
	if l.token(client, &task, noon) == 0 {
		t.Error("the third exchange of a task gets through")
	}
	if l.token(client, &other, noon) != 0 || l.token(client, nil, noon) != 0 {
		t.Error("another task of the same client is held up")
	}
}

func TestRetryAfterIsWholeSecondsRoundedUp(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "1", time.Millisecond: "1", time.Second: "1", 1001 * time.Millisecond: "2", time.Minute: "60",
	} {
		if got := seconds(d); got != want {
			t.Errorf("seconds(%s) = %s, want %s", d, got, want)
		}
	}
}
