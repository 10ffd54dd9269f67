package mayflytest_test

import (
	"bufio"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mayfly-id/mayfly/internal/mayflytest"
)

// Where the browser's driver is, and where it leaves screenshots.
var (
	browserDriver = filepath.Join("..", "..", "test", "browser")
	browserShots  = filepath.Join("..", "..", "dist", "screenshots")
)

// The console and the sandbox's pages in a real browser: what an officer does with
// them, on a desktop, on a phone, in the dark and without JavaScript, each page
// looked at by axe. What is checked is in test/browser/console.mjs, and each check
// there is a test here.
func TestARealBrowserUsesTheConsole(t *testing.T) {
	chromium := ""
	for _, name := range []string{"chromium", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			chromium = path
			break
		}
	}
	if _, err := os.Stat(filepath.Join(browserDriver, "node_modules", "playwright-core")); err != nil || chromium == "" {
		missing(t, "no browser is installed (Chromium %q, %v); run make setup", chromium, err)
	}
	shots, err := filepath.Abs(browserShots)
	must(t, err)

	said := startSandbox(t)
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	driver := exec.CommandContext(ctx, "node", "console.mjs", "--console", said["server"], "--playground", said["start here"],
		"--shots", shots, "--chromium", chromium)
	driver.Dir = browserDriver
	// The browser is ended with the driver, whatever becomes of that.
	driver.Cancel = func() error { return driver.Process.Signal(syscall.SIGTERM) }
	driver.WaitDelay = 10 * time.Second
	var broke mayflytest.Lines
	driver.Stderr = &broke
	out, err := driver.StdoutPipe()
	must(t, err)
	must(t, driver.Start())

	done := false
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var line struct {
			Check, Detail, Figure, Unit, Of string
			OK, Done                        bool
			Value                           float64
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			t.Errorf("the driver says %q", lines.Text())
			continue
		}
		switch {
		case line.Done:
			done = true
		case line.Figure != "":
			t.Logf("%s: %.0f %s (%s)", line.Figure, line.Value, line.Unit, line.Of)
		default:
			t.Run(line.Check, func(t *testing.T) {
				if !line.OK {
					t.Error(line.Detail)
				}
			})
		}
	}
	if err := driver.Wait(); err != nil || !done {
		t.Errorf("the driver did not come to its end: %v\n%s", err, broke.String())
	}
}

// startSandbox runs mayfly sandbox until the test ends, waits until its agents are
// at work, and gives the addresses it says.
func startSandbox(t *testing.T) map[string]string {
	t.Helper()
	sandbox := exec.Command(mayflytest.Build(t), "sandbox")
	said := &mayflytest.Lines{}
	sandbox.Stdout, sandbox.Stderr = said, said
	must(t, sandbox.Start())
	ended := make(chan error, 1)
	go func() { ended <- sandbox.Wait() }()
	t.Cleanup(func() {
		if err := sandbox.Process.Signal(os.Interrupt); err != nil {
			t.Errorf("the sandbox ended by itself: %v", err)
		}
		if err := <-ended; err != nil || t.Failed() {
			t.Logf("the sandbox ended with %v and had said:\n%s", err, said)
		}
	})
	mayflytest.Eventually(t, time.Minute, "the sandbox has told its story", func() bool {
		return strings.Contains(said.String(), "Your turn.")
	})
	addresses := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^   (start here|console|server) +(http\S+)$`).FindAllStringSubmatch(said.String(), -1) {
		addresses[m[1]] = m[2]
	}
	return addresses
}
