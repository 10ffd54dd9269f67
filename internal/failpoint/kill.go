//go:build failpoint

package failpoint

import (
	"os"
	"strings"
	"syscall"
)

// Here kills the process with SIGKILL if the environment variable
// MAYFLY_FAILPOINT is name, or is "@" and the path of a file that holds name
// now, which is how a process that runs already is armed. No deferred call runs,
// no buffer is flushed.
func Here(name string) {
	armed := os.Getenv("MAYFLY_FAILPOINT")
	if path, ok := strings.CutPrefix(armed, "@"); ok {
		text, err := os.ReadFile(path)
		if err != nil {
			panic("failpoint: " + err.Error()) // going on would test nothing
		}
		armed = strings.TrimSpace(string(text))
	}
	if armed != name {
		return
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
		panic("failpoint " + name + ": " + err.Error()) // going on would test nothing
	}
	select {} // the signal is on its way
}
