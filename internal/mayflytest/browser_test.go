package mayflytest_test

import (
	"bufio"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/client"
	"github.com/mayfly-id/mayfly/internal/authority"
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
	chromium := installedBrowser(t)
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

// installedBrowser is the path of Chromium.
func installedBrowser(t *testing.T) string {
	t.Helper()
	_, err := os.Stat(filepath.Join(browserDriver, "node_modules", "playwright-core"))
	for _, name := range []string{"chromium", "google-chrome"} {
		if path, found := exec.LookPath(name); found == nil && err == nil {
			return path
		}
	}
	missing(t, "no browser is installed (%v); run make setup", err)
	return ""
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

// The page that is open all day: 5,000 live tasks, of which 200 change each second,
// for ten minutes. No update blocks the page for long, and it does not grow.
func TestThePageOfThousandsOfLiveTasksStaysQuick(t *testing.T) {
	minutes := os.Getenv("MAYFLY_LIVE_MINUTES")
	if minutes == "" && os.Getenv("MAYFLY_SOAK") != "" {
		minutes = "10"
	}
	if minutes == "" {
		t.Skip("takes ten minutes: make soak, or set MAYFLY_LIVE_MINUTES")
	}
	const live, perSecond = 5000, 200
	chromium := installedBrowser(t)
	d := watched(t, mayflytest.Options{Change: func(b *authority.Bundle) {
		b.Profiles["open"].Lifetime = mayfly.Lifetime{Idle: time.Hour, Default: 2 * time.Hour, Max: 3 * time.Hour}
	}})
	d.Login.Claims = map[string]any{"sub": "oli", "groups": []string{"officers"}}
	agents, api := make([]*client.Session, live), d.Client()
	for i := range agents {
		r := d.Opening("mcp:bank:*")
		r.Profile, r.Key = "open", nil
		var err error
		agents[i], err = api.Open(t.Context(), r, func(context.Context) (string, string, error) {
			return d.Evidence("invoice-1"), client.TypeJWT, nil
		})
		must(t, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var calls sync.WaitGroup
	calls.Go(func() {
		tick := time.NewTicker(time.Second / perSecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			token, err := agents[i*7%live].Token(ctx, "")
			if err == nil {
				var ad *authority.Admission
				if ad, err = d.call(ctx, token.Text.Reveal(), "list_invoices", `{}`); err == nil {
					ad.Done(authority.Outcome{Name: "answered", Status: 200})
				}
			}
			if err != nil && ctx.Err() == nil {
				t.Errorf("call %d: %v", i, err)
				return
			}
		}
	})
	defer calls.Wait()
	defer cancel()
	driver := exec.Command("node", "load.mjs", "--console", d.URL, "--tasks", strconv.Itoa(live), "--minutes", minutes, "--chromium", chromium)
	driver.Dir = browserDriver
	out, err := driver.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	first := 0.0
	for line := range strings.Lines(string(out)) {
		t.Log(strings.TrimSpace(line))
		var minute struct{ Minute, Longest, Heap float64 }
		must(t, json.Unmarshal([]byte(line), &minute))
		if minute.Longest > 50 {
			t.Errorf("in minute %.0f the page was blocked for %.0f ms", minute.Minute, minute.Longest)
		}
		// After two minutes each row was changed several times.
		if minute.Minute == 2 {
			first = minute.Heap
		}
		if minute.Minute > 2 && minute.Heap > first*1.2 {
			t.Errorf("in minute %.0f the page holds %.0f bytes, %.0f after two", minute.Minute, minute.Heap, first)
		}
	}
}
