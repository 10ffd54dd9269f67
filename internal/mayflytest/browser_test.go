package mayflytest_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
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

// The page that is open all day: hundreds of live tasks, all of them known and few of
// them drawn, while 200 change each second. In soak runs, or for MAYFLY_LIVE_MINUTES,
// 5,000 for ten minutes with nothing beside it: no update blocks the page for long,
// and it does not grow.
func TestThePageOfThousandsOfLiveTasksStaysQuick(t *testing.T) {
	const perSecond = 200
	live, rounds, seconds := 500, "1", "5"
	minutes := os.Getenv("MAYFLY_LIVE_MINUTES")
	if minutes == "" && os.Getenv("MAYFLY_SOAK") != "" {
		minutes = "10"
	}
	if minutes != "" {
		live, rounds, seconds = 5000, minutes, "60"
	}
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
	driver := exec.Command("node", "load.mjs", "--console", d.URL, "--tasks", strconv.Itoa(live), "--rounds", rounds, "--seconds", seconds, "--chromium", chromium)
	driver.Dir = browserDriver
	out, err := driver.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	first, seen := 0.0, 0
	for line := range strings.Lines(string(out)) {
		t.Log(strings.TrimSpace(line))
		var round struct {
			Round                        int
			Longest, Heap, Redraws, Rows float64
			Live                         string
		}
		must(t, json.Unmarshal([]byte(line), &round))
		if round.Round == 0 {
			continue
		}
		seen++
		if round.Live != fmt.Sprintf("%d live", live) || round.Rows > 60 || round.Redraws == 0 {
			t.Errorf("in round %d there are %q, %.0f rows of them drawn, and %.0f changes were", round.Round, round.Live, round.Rows, round.Redraws)
		}
		if minutes == "" {
			continue // other tests run beside this one
		}
		if round.Longest > 50 {
			t.Errorf("in minute %d the page was blocked for %.0f ms", round.Round, round.Longest)
		}
		// After two minutes each row was changed several times.
		if round.Round == 2 {
			first = round.Heap
		}
		if round.Round > 2 && round.Heap > first*1.2 {
			t.Errorf("in minute %d the page holds %.0f bytes, %.0f after two", round.Round, round.Heap, first)
		}
	}
	if strconv.Itoa(seen) != rounds {
		t.Errorf("%d of %s rounds were reported", seen, rounds)
	}
}
