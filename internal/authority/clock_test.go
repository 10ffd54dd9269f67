package authority

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestTheBootClockIsTheKernels(t *testing.T) {
	var c bootClock
	for range 1000 {
		var ts unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
			t.Fatal(err)
		}
		kernel := time.Duration(ts.Nano())
		if ours := c.now(); ours < kernel-time.Millisecond || ours > kernel+time.Second {
			t.Fatalf("the boot clock says %s, the kernel %s", ours, kernel)
		}
	}
}

func TestTheKernelIsAskedForTheBootTimeAgain(t *testing.T) {
	var c bootClock
	const wrong = 42 * time.Hour * 24 * 365
	c.asked.Store(&instant{wall: time.Now(), boot: wrong})
	if got := c.now(); got < wrong {
		t.Errorf("the kernel was asked at once: %s", got)
	}
	for _, at := range []time.Time{
		time.Now().Add(-bootAgain - time.Millisecond), // some time ago
		time.Now().Round(0).Add(-time.Hour),           // an hour of sleep, as a wall clock without the monotonic one sees it
		time.Now().Round(0).Add(time.Hour),            // the wall clock was set back
	} {
		c.asked.Store(&instant{wall: at, boot: wrong})
		if got := c.now(); got >= wrong {
			t.Errorf("asked at %s, and the kernel was not asked again: %s", at, got)
		}
	}
}
