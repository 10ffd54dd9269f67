package witness

import (
	"bufio"
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	_ "github.com/ncruces/go-sqlite3/driver"
	"golang.org/x/mod/sumdb/note"

	"github.com/mayfly-id/mayfly/internal/eventlog"
)

// missing skips a test that cannot be run here; with CI=true it fails.
func missing(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// litewitness is a witness that others wrote, as a process of its own.
type litewitness struct {
	testing.TB
	url, database string
	key           eventlog.WitnessKey
}

// run starts a program that is killed with the test, and hands on what it says.
func run(t *testing.T, program string, args ...string) *bufio.Scanner {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, program, args...)
	said, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		if err := cmd.Wait(); err == nil {
			t.Errorf("%s ended by itself", program)
		}
	})
	return bufio.NewScanner(said)
}

// tells runs a program to its end and gives what it printed.
func tells(t *testing.T, env []string, program string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", program, err, out)
	}
	return string(out)
}

// startLitewitness starts one that knows no log. Its key is with an ssh-agent, as
// it wants it.
func startLitewitness(t *testing.T) *litewitness {
	t.Helper()
	for _, tool := range []string{"ssh-agent", "ssh-add", "ssh-keygen"} {
		if _, err := exec.LookPath(tool); err != nil {
			missing(t, "there is no %s (%v); install openssh-client", tool, err)
		}
	}
	dir, err := os.MkdirTemp("", "mf") // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	in := func(name string) string { return filepath.Join(dir, name) }
	build := exec.CommandContext(t.Context(), "go", "build", "-o", in("litewitness"), "filippo.io/torchwood/cmd/litewitness")
	build.Dir = "../../test/peers-go"
	if out, err := build.CombinedOutput(); err != nil {
		missing(t, "litewitness cannot be built: %v: %s", err, out)
	}
	run(t, "ssh-agent", "-D", "-a", in("agent"))
	tells(t, nil, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "witness", "-f", in("key"))
	eventually(t, "the agent answers", func() bool {
		c, err := net.Dial("unix", in("agent"))
		return err == nil && c.Close() == nil
	})
	tells(t, []string{"SSH_AUTH_SOCK=" + in("agent")}, "ssh-add", "-q", in("key"))
	fingerprint := strings.Fields(tells(t, nil, "ssh-keygen", "-lf", in("key.pub")))[1]
	address := freeAddress(t)
	w := &litewitness{TB: t, url: "http://" + address, database: in("w.db")}
	said := run(t, in("litewitness"), "-db", w.database, "-key", fingerprint, "-listen", address, "-name", "witness.example.test/w1", "-ssh-agent", in("agent"))
	vkey := regexp.MustCompile(`vkey=(\S+)`)
	var heard []string
	for said.Scan() {
		heard = append(heard, said.Text())
		if m := vkey.FindStringSubmatch(said.Text()); m != nil {
			if w.key, err = eventlog.ParseWitnessKey(strings.Trim(m[1], `"`)); err != nil {
				t.Fatal(err)
			}
			break
		}
	}
	go func() {
		for said.Scan() { // so that it never waits for a reader
		}
	}()
	if w.key.Name() == "" {
		t.Fatalf("litewitness says %q", heard)
	}
	eventually(t, "litewitness listens", func() bool {
		c, err := net.Dial("tcp", address)
		return err == nil && c.Close() == nil
	})
	return w
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return l.Addr().String()
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it never happened that %s", what)
		}
	}
}

// sql does what the operator of a litewitness does to its database.
func (w *litewitness) sql(statement string, args ...any) {
	w.Helper()
	db, err := sql.Open("sqlite3", "file:"+w.database+"?_pragma=busy_timeout(5000)")
	if err != nil {
		w.Fatal(err)
	}
	_, err = db.ExecContext(w.Context(), statement, args...)
	if err := errors.Join(err, db.Close()); err != nil {
		w.Fatal(err)
	}
}

// has is the size and the root that it has cosigned.
func (w *litewitness) has() (size int64, root string) {
	w.Helper()
	db, err := sql.Open("sqlite3", "file:"+w.database+"?_pragma=busy_timeout(5000)")
	if err != nil {
		w.Fatal(err)
	}
	err = db.QueryRowContext(w.Context(), `SELECT tree_size, tree_hash FROM log WHERE origin = ?`, origin).Scan(&size, &root)
	if err := errors.Join(err, db.Close()); err != nil {
		w.Fatal(err)
	}
	return size, root
}

// A witness that nobody here wrote cosigns the log, from its introduction on, and
// refuses the log of a store that was put back to an earlier day and went on from
// there: the same name and the same key.
func TestLitewitnessCosignsTheLogAndRefusesAFork(t *testing.T) {
	w := startLitewitness(t)
	p := Policy{Witnesses: []Witness{{Name: "lite", URL: w.url, Key: w.key}}, Need: 1}
	dir, earlier := t.TempDir(), t.TempDir()
	dsn := func(dir string) string { return "sqlite://" + filepath.Join(dir, "mayfly.db") }
	c := newClock()
	n := start(t, dsn(dir), c, p)
	n.record(5)

	n.submit()
	lone(t, n.said.at(slog.LevelError), "it does not know the log "+origin, n.log.VKey())
	_, stranger, err := note.GenerateKey(rand.Reader, origin)
	if err != nil {
		t.Fatal(err)
	}
	w.sql(`INSERT INTO log (origin, tree_size, tree_hash) VALUES (?, 0, '47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=')`, origin)
	w.sql(`INSERT INTO key (origin, key) VALUES (?, ?)`, origin, stranger)
	n.submit()
	lone(t, n.said.at(slog.LevelError), "it does not take the log's signature (403)", n.log.VKey())
	w.sql(`UPDATE key SET key = ?`, n.log.VKey())

	grows := func(n *node) {
		t.Helper()
		n.submit()
		n.isAnchored(p, 1)
		size, root := w.has()
		if head := string(n.head().Note); !strings.HasPrefix(head, fmt.Sprintf("%s\n%d\n%s\n", origin, size, root)) {
			t.Fatalf("it has cosigned %d %s, and the log is %s", size, root, head)
		}
	}
	grows(n)
	n.stop()
	if err := os.CopyFS(earlier, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	n = start(t, dsn(dir), c, p)
	for _, more := range []int{1, 2, 40, 300} {
		n.record(more)
		grows(n)
	}
	n.client.sizes, n.client.lines = map[eventlog.WitnessKey]int64{}, map[eventlog.WitnessKey][]byte{}
	if _, err := n.client.ask(t.Context(), p.Witnesses[0], n.head(), 0); err != nil {
		t.Errorf("what it has cosigned, from nothing: %v", err)
	}
	size, root := w.has()

	// The copy is behind what the witness has; then it is past it.
	fork := start(t, dsn(earlier), c, p)
	old := fork.anchor().Size
	for i, row := range []struct {
		more int
		want string
	}{
		{3, fmt.Sprintf("it has cosigned %d records of this log, and there are %d", size, old+3)},
		{500, "what it has cosigned did not grow into the log there is, of "},
	} {
		fork.record(row.more)
		fork.submit()
		if f := fork.client.failed[w.key]; f == nil || f.what != forked || !strings.Contains(f.text, row.want) {
			t.Errorf("it says %v, want %q", f, row.want)
		}
		if i == 0 {
			lone(t, fork.said.at(slog.LevelError), row.want)
		}
	}
	if alarms := fork.events("alarm"); len(alarms) != 1 || alarms[0]["what"] != "witness" {
		t.Errorf("alarms %v", alarms)
	}
	if fork.anchor().Size != old {
		t.Errorf("the fork is anchored at %d", fork.anchor().Size)
	}
	if after, now := w.has(); after != size || now != root {
		t.Errorf("the witness went from %d to %d", size, after)
	}
	n.record(1)
	grows(n)
	if alarms := n.events("alarm"); len(alarms) != 0 {
		t.Errorf("the log that is right has alarms: %v", alarms)
	}
}
