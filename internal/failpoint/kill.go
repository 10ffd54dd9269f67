//go:build failpoint

package failpoint

import (
	"os"
	"syscall"
)

// Here kills the process with SIGKILL if the environment variable
// MAYFLY_FAILPOINT is name: no deferred call runs, no buffer is flushed.
func Here(name string) {
	if os.Getenv("MAYFLY_FAILPOINT") != name {
		return
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
		panic("failpoint " + name + ": " + err.Error()) // going on would test nothing
	}
	select {} // the signal is on its way
}
