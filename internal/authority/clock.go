package authority

import (
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// clockSlack is how far the wall clock may stand behind time that has passed
// before nothing more is issued.
const clockSlack = 5 * time.Second

// clock is this node's time. It never runs backwards: where the wall clock is
// set back, time goes on by the boot clock from the furthest point it had
// reached, so no life is lengthened.
type clock struct {
	wall func() time.Time
	boot func() time.Duration

	mu       sync.Mutex // guards the fields below
	furthest time.Time
	at       time.Duration // on the boot clock, when furthest was reached
}

func newClock(wall func() time.Time, boot func() time.Duration) *clock {
	if wall == nil {
		wall = time.Now
	}
	if boot == nil {
		boot = new(bootClock).now
	}
	c := &clock{wall: wall, boot: boot}
	c.at = boot()
	return c
}

// bootClock is the time since boot, sleep included. Asking the kernel costs a
// system call, which was 7% of a gateway call; Go's own clocks cost none. So in
// between it goes on by the monotonic clock, which stands still in sleep, for as
// long as the wall clock, which does not, agrees.
type bootClock struct {
	asked atomic.Pointer[instant]
}

// bootAgain is how long the kernel is not asked, and by how much the two clocks
// may differ meanwhile: what a sleep can hide for a moment from one whose wall
// clock was set back by its length.
const bootAgain = 10 * time.Millisecond

func (c *bootClock) now() time.Duration {
	t := time.Now()
	if last := c.asked.Load(); last != nil {
		passed := t.Sub(last.wall) // monotonic
		if off := t.Round(0).Sub(last.wall.Round(0)) - passed; 0 <= passed && passed < bootAgain && off.Abs() < bootAgain {
			return last.boot + passed
		}
	}
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("reading the boot clock: " + err.Error()) // no kernel we run on lacks it
	}
	boot := time.Duration(ts.Nano())
	c.asked.Store(&instant{t, boot})
	return boot
}

// now is the time, in UTC microseconds, never earlier than any now before it.
func (c *clock) now() time.Time {
	wall, boot := c.wall().UTC().Truncate(time.Microsecond), c.boot()
	c.mu.Lock()
	defer c.mu.Unlock()
	if passed := c.furthest.Add(boot - c.at); !wall.Before(passed) {
		c.furthest, c.at = wall, boot
	} else if boot > c.at {
		c.furthest, c.at = passed.Truncate(time.Microsecond), boot
	}
	return c.furthest
}

// atLeast tells the clock that t has passed.
func (c *clock) atLeast(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.After(c.furthest) {
		c.furthest, c.at = t, c.boot()
	}
}

// safe reports whether the wall clock agrees that the time is now, or later.
func (c *clock) safe() bool {
	now := c.now()
	return !c.wall().Before(now.Add(-clockSlack))
}

// leaseLength is how long a confirmation of the epoch lets a node decide.
const leaseLength = 2 * time.Second

// lease is the authority lease: the right to decide anything, held for
// leaseLength from the moment a query was sent whose answer confirmed the
// epoch. Both clocks must agree that it still runs: a paused process wakes up
// without it.
type lease struct {
	confirmed atomic.Pointer[instant]
}

// instant is one moment on both clocks.
type instant struct {
	wall time.Time
	boot time.Duration
}

func (c *clock) instant() instant { return instant{c.wall(), c.boot()} }

func (l *lease) confirm(sent instant) { l.confirmed.Store(&sent) }

// left is how long the lease still runs; zero if it does not.
func (l *lease) left(c *clock) time.Duration {
	sent := l.confirmed.Load()
	if sent == nil {
		return 0
	}
	elapsed := max(c.boot()-sent.boot, c.wall().Round(0).Sub(sent.wall.Round(0)))
	return max(0, leaseLength-elapsed)
}

func (l *lease) held(c *clock) bool { return l.left(c) > 0 }
