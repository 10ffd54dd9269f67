// Package pgtest gives tests a PostgreSQL server of their own. It starts one
// throwaway cluster per test process, makes an empty database per test, and
// takes everything away again, however the process ends. It does not own what
// is put into the database. Start reading at [New].
package pgtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Option changes what New makes.
type Option func(*request)

type request struct {
	fsync    bool
	template string
	prepare  func(dsn string) error
}

// Fsync asks for a server that makes a commit durable before it answers, for
// benchmarks. Without it the server does not wait for the disk.
func Fsync(r *request) { r.fsync = true }

// Prepared makes the database a copy of one that prepare has been given once in
// this process: a copy takes less time than to migrate each anew. The name tells
// templates apart; prepare must leave no connection open.
func Prepared(name string, prepare func(dsn string) error) Option {
	return func(r *request) { r.template, r.prepare = "template_"+name, prepare }
}

// New makes a database, empty unless it is to be Prepared, and gives its
// address. It is dropped when t ends. Where there is no PostgreSQL, t is
// skipped, or fails if the environment says CI=true.
func New(t testing.TB, options ...Option) string {
	t.Helper()
	r := request{template: "template0"}
	for _, o := range options {
		o(&r)
	}
	c := &clusters[0]
	if r.fsync {
		c = &clusters[1]
	}
	c.once.Do(func() { c.err = c.start(r.fsync) })
	if c.err != nil {
		if os.Getenv("CI") == "true" || !errors.Is(c.err, errNone) {
			t.Fatalf("pgtest: %v", c.err)
		}
		t.Skipf("pgtest: %v; install it to run this test", c.err)
	}
	name := fmt.Sprintf("test_%d", c.made.Add(1))
	if err := c.create(name, r); err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	t.Cleanup(func() {
		if err := c.exec(`DROP DATABASE IF EXISTS ` + name + ` WITH (FORCE)`); err != nil {
			t.Errorf("pgtest: %v", err)
		}
	})
	return c.dsn(name)
}

// create makes a database from its template, and that first if it is not there.
func (c *cluster) create(name string, r request) error {
	c.mu.Lock() // a template can be copied by one at a time
	defer c.mu.Unlock()
	if r.prepare != nil && !slices.Contains(c.templates, r.template) {
		if err := c.exec(`CREATE DATABASE ` + r.template + ` TEMPLATE template0`); err != nil {
			return err
		}
		if err := r.prepare(c.dsn(r.template)); err != nil {
			return err
		}
		c.templates = append(c.templates, r.template)
	}
	return c.exec(`CREATE DATABASE ` + name + ` TEMPLATE ` + r.template)
}

var errNone = errors.New("no PostgreSQL server program was found on PATH or under /usr/lib/postgresql")

// clusters are those of this process: one that does not sync, one that does.
var clusters [2]cluster

type cluster struct {
	once sync.Once
	err  error
	dir  string // holds the data and the socket
	made atomic.Int64

	mu        sync.Mutex // guards the field below
	templates []string
}

func (c *cluster) dsn(database string) string {
	q := url.Values{"host": {c.dir}, "user": {"postgres"}, "sslmode": {"disable"}}
	return "postgres:///" + database + "?" + q.Encode()
}

// exec runs one statement on the maintenance database.
func (c *cluster) exec(statement string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, c.dsn("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, statement)
	return err
}

// start makes a cluster in a directory of its own and waits until it answers.
func (c *cluster) start(fsync bool) error {
	initdb, err := program("initdb")
	if err != nil {
		return err
	}
	postgres, err := program("postgres")
	if err != nil {
		return err
	}
	who, err := unprivileged()
	if err != nil {
		return err
	}
	// The socket's path must be short, whatever TMPDIR is.
	if c.dir, err = os.MkdirTemp("/tmp", "pgtest"); err != nil {
		return err
	}
	if who != nil {
		if err := os.Chown(c.dir, int(who.Uid), int(who.Gid)); err != nil {
			return err
		}
	}
	if err := c.removeAfterwards(); err != nil {
		return err
	}
	data := filepath.Join(c.dir, "data")
	init := exec.Command(initdb, "-D", data, "-U", "postgres", "-A", "trust", "--no-sync", "--no-instructions", "-E", "UTF8", "--locale", "C.UTF-8")
	init.Dir, init.SysProcAttr = c.dir, &syscall.SysProcAttr{Credential: who}
	if out, err := init.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, out)
	}
	// Whoever is a member of the role "scram" must show its password.
	hba := filepath.Join(data, "pg_hba.conf")
	trust, err := os.ReadFile(hba)
	if err != nil {
		return err
	}
	if err := os.WriteFile(hba, append([]byte("local all +scram scram-sha-256\n"), trust...), 0o600); err != nil {
		return err
	}
	args := []string{
		"-D", data, "-k", c.dir, "-c", "listen_addresses=", "-c", "max_connections=200", "-c", "shared_buffers=32MB",
		"-c", "fsync=off", "-c", "full_page_writes=off", "-c", "autovacuum=off", "-c", "log_min_messages=warning",
	}
	if fsync {
		args = append(args, "-c", "fsync=on", "-c", "full_page_writes=on")
	}
	server := exec.Command(postgres, args...)
	server.Dir = c.dir
	server.SysProcAttr = &syscall.SysProcAttr{Credential: who}
	endWithParent(server.SysProcAttr)
	said, err := os.Create(filepath.Join(c.dir, "said"))
	if err != nil {
		return err
	}
	defer said.Close()
	server.Stdout, server.Stderr = said, said
	started, ended := make(chan error, 1), make(chan struct{})
	go func() {
		runtime.LockOSThread() // the server ends with this thread
		err := server.Start()
		started <- err
		if err == nil {
			_ = server.Wait() // why it ended is in what it said
		}
		close(ended)
	}()
	if err := <-started; err != nil {
		return err
	}
	for deadline := time.Now().Add(30 * time.Second); ; {
		err := c.exec(`SELECT 1`)
		if err == nil {
			return nil
		}
		select {
		case <-ended:
			why, err := os.ReadFile(said.Name())
			return fmt.Errorf("postgres ended: %s (%v)", why, err)
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("postgres does not answer: %w", err)
		}
	}
}

// removeAfterwards starts a shell that waits for this process to end, in any
// way, then ends the server and removes its directory.
func (c *cluster) removeAfterwards() error {
	const script = `cat >/dev/null; pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null)
if [ -n "$pid" ]; then kill -QUIT "$pid" 2>/dev/null; n=0
	while kill -0 "$pid" 2>/dev/null && [ $n -lt 100 ]; do sleep 0.05; n=$((n+1)); done; fi
rm -rf -- "$1"`
	watcher := exec.Command("/bin/sh", "-c", script, "sh", c.dir)
	watcher.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // not ended by a signal to the tests' group
	stdin, err := watcher.StdinPipe()
	if err != nil {
		return err
	}
	if err := watcher.Start(); err != nil {
		return err
	}
	alive = append(alive, stdin)
	return nil
}

// alive are the pipes whose closing says that this process has ended. They are
// kept so that the garbage collector does not say it earlier.
var alive []io.Closer

// program finds one of PostgreSQL's own, newest first.
func program(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	if err != nil || len(found) == 0 {
		return "", errNone
	}
	return slices.MaxFunc(found, func(a, b string) int { return version(a) - version(b) }), nil
}

func version(path string) int {
	n, err := strconv.Atoi(strings.Split(path, "/")[4])
	if err != nil {
		return 0
	}
	return n
}

// unprivileged is who the server runs as: PostgreSQL refuses to be root.
func unprivileged() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, fmt.Errorf("%w for a user that is not root (%v)", errNone, err)
	}
	uid, errUID := strconv.ParseUint(u.Uid, 10, 32)
	gid, errGID := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(errUID, errGID); err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}
