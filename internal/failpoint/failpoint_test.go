//go:build failpoint

package failpoint_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/mayfly-id/mayfly/internal/failpoint"
)

// run is set in the environment of the process that is to die.
const run = "MAYFLY_FAILPOINT_TEST_RUN"

func TestOnlyTheNamedLineKills(t *testing.T) {
	if os.Getenv(run) != "" {
		failpoint.Here("before")
		failpoint.Here("here")
		os.Exit(0)
	}
	dir := t.TempDir()
	armed, empty := filepath.Join(dir, "armed"), filepath.Join(dir, "empty")
	if err := errors.Join(os.WriteFile(armed, []byte("here\n"), 0o600), os.WriteFile(empty, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		dies bool
	}{{"here", true}, {"elsewhere", false}, {"", false}, {"@" + armed, true}, {"@" + empty, false}} {
		cmd := exec.Command(os.Args[0], "-test.run=^TestOnlyTheNamedLineKills$")
		cmd.Env = append(os.Environ(), run+"=1", "MAYFLY_FAILPOINT="+c.name)
		err := cmd.Run()
		var exit *exec.ExitError
		died := errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
		if died != c.dies {
			t.Errorf("failpoint %q: killed is %v, want %v (%v)", c.name, died, c.dies, err)
		}
	}
}
