package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/client"
)

// opening are the flags of a command that opens a task.
type opening struct {
	Profile string        `help:"What kind of agent this is. Needed, unless a ticket says it." placeholder:"PROFILE"`
	Can     []string      `help:"What it may do; again for more. Default: the profile's own default." placeholder:"GRANT" sep:"none"`
	Purpose string        `help:"What the task is for. Default: the command line." placeholder:"TEXT"`
	TTL     time.Duration `help:"How long the task may run. Default: the profile's."`
	Budget  int64         `help:"End the task after this many calls." placeholder:"N"`
	Ticket  string        `help:"Redeem this ticket instead of delegating." env:"MAYFLY_TICKET" placeholder:"TICKET"`
}

// runCmd is mayfly run.
type runCmd struct {
	opening  `embed:""`
	Bearer   bool     `help:"Hand the command the task's own token in the file MAYFLY_TOKEN_FILE, bound to no key; only where the profile's key is optional."`
	TokenFor string   `help:"With --bearer: the token is for this target, for clients that speak to the gateway by themselves." placeholder:"KIND/NAME"`
	Command  []string `arg:"" passthrough:"" help:"The command, after --."`
}

// Help is the long help.
func (runCmd) Help() string {
	return `Opens a task, runs the command with it, and ends the task when the command ends,
whatever way it ends. The command finds the gateway at $MAYFLY_MCP_URL/<target> and
$MAYFLY_HTTP_URL/<target>/…: addresses of this process, which keeps the key, fetches
tokens and proves them. $MAYFLY_TASK is the task's id. Roles of databases that are
granted are checked out: $PGPASSFILE holds their passwords, $PGSERVICEFILE their
addresses as TARGET-ROLE, and of a single one PGHOST and the like say where it is.

The delegator is the human whose token is in MAYFLY_SUBJECT_TOKEN, else, on the
admin socket, the Unix user that calls. To a server elsewhere the agent's evidence
comes from the file that MAYFLY_ACTOR_TOKEN_FILE names.

  mayfly run --profile reader --can mcp:bank:list_invoices -- ./agent.py`
}

// Run opens a task, runs the command, and retires the task.
func (c runCmd) Run(ctx context.Context, t *terminal) error {
	if len(c.Command) > 0 && c.Command[0] == "--" {
		c.Command = c.Command[1:]
	}
	if len(c.Command) == 0 {
		return usageError("say what to run, after --")
	}
	kind, target, ok := strings.Cut(c.TokenFor, "/")
	switch {
	case c.TokenFor == "":
	case !c.Bearer:
		return usageError("--token-for goes with --bearer")
	case !ok || kind != "mcp" && kind != "http" || target == "":
		return usageError("--token-for is a target, such as mcp/bank or http/desk")
	}
	path, err := exec.LookPath(c.Command[0])
	if err != nil {
		return usageError(fmt.Sprintf("cannot run %s: %v", c.Command[0], err))
	}
	code := 0
	err = c.during(ctx, t, c.Bearer, strings.Join(c.Command, " "), func(session *client.Session) (err error) {
		code, err = c.work(ctx, t, session, path)
		return err
	})
	if err != nil {
		return err
	}
	if code != 0 {
		return exitStatus(code)
	}
	return nil
}

// during opens a task, does something in it, and completes it on every way out.
// What it is for is said in purpose, unless a flag says so.
func (o opening) during(ctx context.Context, t *terminal, bearer bool, purpose string, do func(*client.Session) error) error {
	if o.Profile == "" && o.Ticket == "" {
		return usageError("missing flags: --profile=PROFILE, or --ticket=TICKET")
	}
	grants, err := grantFlags(o.Can)
	if err != nil {
		return err
	}
	if o.Purpose == "" && o.Ticket == "" {
		o.Purpose = shorten(purpose, mayfly.MaxPurpose)
	}
	api, err := t.client()
	if err != nil {
		return err
	}
	defer api.Close()
	session, err := o.open(ctx, api, bearer, grants)
	if err != nil {
		return err
	}
	// From here on the task ends on every way out, also when ctx is over.
	err = do(session)
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if _, endErr := session.Complete(end); endErr != nil && !over(endErr) {
		fmt.Fprintf(t.Stderr, "mayfly: the task could not be completed and ends by its idle lease: %v\n", endErr)
	}
	return err
}

// over reports whether err says that the task had ended by itself.
func over(err error) bool {
	k := mayfly.KindOf(err)
	return k == mayfly.Conflict || k == mayfly.Unauthenticated || k == mayfly.NotFound
}

func shorten(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n-3], "") + "…"
}

// open opens the task, with a key of its own unless its tokens are to be bearer
// tokens.
func (o opening) open(ctx context.Context, api *client.Client, bearer bool, grants []mayfly.Grant) (*client.Session, error) {
	r := client.ExchangeRequest{Profile: o.Profile, Purpose: o.Purpose, Grants: grants, TTL: o.TTL, Budget: o.Budget}
	var err error
	if !bearer {
		if r.Key, err = client.NewKey(); err != nil {
			return nil, err
		}
	}
	switch subject := os.Getenv("MAYFLY_SUBJECT_TOKEN"); {
	case o.Ticket != "":
		r.SubjectToken, r.SubjectTokenType = o.Ticket, client.TypeTicket
		r.Profile, r.Purpose = "", ""
	case subject != "":
		r.SubjectToken, r.SubjectTokenType = subject, client.TypeJWT
	}
	var evidence client.EvidenceFunc
	if file := os.Getenv("MAYFLY_ACTOR_TOKEN_FILE"); file != "" {
		evidence = func(context.Context) (string, string, error) {
			text, err := os.ReadFile(file)
			return strings.TrimSpace(string(text)), client.TypeJWT, err
		}
		if r.ActorToken, r.ActorTokenType, err = evidence(ctx); err != nil {
			return nil, mayfly.Errorf(mayfly.Invalid, "the agent's evidence cannot be read: %v", err)
		}
	}
	return api.Open(ctx, r, evidence)
}

// work runs the command beside the wrapper's own listener until the command
// ends, and gives its exit code.
func (c runCmd) work(ctx context.Context, t *terminal, session *client.Session, path string) (int, error) {
	wrapper, err := startWrapper(ctx, session)
	if err != nil {
		return 0, err
	}
	defer wrapper.close()
	lent, remove, err := checkOut(ctx, session)
	if err != nil {
		return 0, err
	}
	defer func() {
		if err := remove(); err != nil {
			fmt.Fprintf(t.Stderr, "mayfly: the file of passwords is still there, and worth nothing any more: %v\n", err)
		}
	}()

	cmd := exec.Command(path, c.Command[1:]...)
	cmd.Args[0] = c.Command[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = t.Stdin, t.Stdout, t.Stderr
	cmd.Env = append(childEnv(os.Environ()),
		"MAYFLY_TASK="+string(session.Task()), "MAYFLY_MCP_URL="+wrapper.base+"/mcp", "MAYFLY_HTTP_URL="+wrapper.base+"/http")
	cmd.Env = append(cmd.Env, lent...)
	if c.Bearer {
		resource := ""
		if kind, target, ok := strings.Cut(c.TokenFor, "/"); ok {
			if resource, err = session.API().Endpoint(ctx, kind, target); err != nil {
				return 0, err
			}
		}
		file, stop, err := tokenFile(ctx, t, session, resource)
		if err != nil {
			return 0, err
		}
		defer stop()
		cmd.Env = append(cmd.Env, "MAYFLY_TOKEN_FILE="+file)
	}
	// The child dies with us, however we die: then the idle lease is short of
	// somebody to renew it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}

	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return 0, mayfly.Errorf(mayfly.Invalid, "cannot run %s: %v", path, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()

	alive, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	gone := make(chan error, 1)
	go func() { gone <- session.KeepAlive(alive) }()

	for {
		select {
		case s := <-signals:
			if err := cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
				fmt.Fprintf(t.Stderr, "mayfly: the command did not take the signal: %v\n", err)
			}
		case err := <-gone:
			gone = nil
			if err != nil {
				fmt.Fprintf(t.Stderr, "mayfly: the task is over: %v\n", err)
			}
		case err := <-ended:
			return childCode(err)
		}
	}
}

// childCode is the exit code a shell would give: 128 and the signal for a child
// that a signal ended.
func childCode(err error) (int, error) {
	exit, ok := errors.AsType[*exec.ExitError](err)
	if err == nil || !ok {
		return 0, err
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return exit.ExitCode(), nil
}

// childEnv is env without what would let the command open tasks of its own.
func childEnv(env []string) []string {
	var out []string
	for _, kv := range env {
		name, _, _ := strings.Cut(kv, "=")
		switch name {
		case "MAYFLY_SUBJECT_TOKEN", "MAYFLY_HUMAN_TOKEN", "MAYFLY_TICKET", "MAYFLY_ACTOR_TOKEN_FILE":
		default:
			out = append(out, kv)
		}
	}
	return out
}

// wrapper is the command's own way to the gateway: a loopback listener whose
// path begins with a secret that only the command is told.
type wrapper struct {
	base   string
	server *http.Server
	done   sync.WaitGroup
}

func startWrapper(ctx context.Context, session *client.Session) (*wrapper, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	issuer, err := session.API().Issuer(ctx)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	to, err := url.Parse(issuer)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	secret := "/" + rand.Text()
	proxy := &httputil.ReverseProxy{
		Transport:     session.Transport(),
		FlushInterval: -1,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = to.Scheme, to.Host
			r.Out.URL.Path = strings.TrimPrefix(r.In.URL.Path, secret)
			if r.In.URL.RawPath != "" {
				r.Out.URL.RawPath = strings.TrimPrefix(r.In.URL.RawPath, secret)
			}
			r.Out.Host = to.Host
			r.Out.Header.Del("Authorization")
			r.Out.Header.Del("Origin")
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			p := mayfly.AsError(err).Problem()
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(p.Status)
			fmt.Fprintf(w, `{"type":%q,"title":%q,"status":%d,"detail":%q}`, p.Type, p.Title, p.Status, p.Detail)
		},
	}
	w := &wrapper{base: "http://" + l.Addr().String() + secret}
	w.server = &http.Server{
		ReadHeaderTimeout: 5 * time.Second,
		ErrorLog:          nil,
		Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			rest, ok := strings.CutPrefix(r.URL.Path, secret+"/")
			kind, _, _ := strings.Cut(rest, "/")
			if !ok || kind != "mcp" && kind != "http" || !strings.HasPrefix(r.Host, "127.0.0.1:") {
				http.NotFound(rw, r)
				return
			}
			proxy.ServeHTTP(rw, r)
		}),
	}
	w.done.Go(func() { w.server.Serve(l) }) // ends with ErrServerClosed at close
	return w, nil
}

func (w *wrapper) close() {
	if err := w.server.Close(); err == nil {
		w.done.Wait()
	}
}

// tokenEvery is how often the token file is brought up to date.
const tokenEvery = 5 * time.Second

// tokenFile keeps a token of the task in a file that only this user can read, until
// stop: for a target of the gateway, or with no resource the task's own.
func tokenFile(ctx context.Context, t *terminal, session *client.Session, resource string) (path string, stop func(), err error) {
	dir, err := os.MkdirTemp("", "mayfly-")
	if err != nil {
		return "", nil, err
	}
	path = filepath.Join(dir, "token")
	written := ""
	write := func() error {
		token, err := session.Token(ctx, resource)
		if err != nil || token.Text.Reveal() == written {
			return err
		}
		// A reader sees the old token or the new one, never half of one.
		if err := os.WriteFile(path+".new", []byte(token.Text.Reveal()), 0o600); err != nil {
			return err
		}
		written = token.Text.Reveal()
		return os.Rename(path+".new", path)
	}
	if err := write(); err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(dir))
	}
	ctx, cancel := context.WithCancel(ctx)
	var done sync.WaitGroup
	done.Go(func() {
		tick := time.NewTicker(tokenEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if err := write(); err != nil && ctx.Err() == nil {
					fmt.Fprintf(t.Stderr, "mayfly: the token file is out of date: %v\n", err)
				}
			}
		}
	})
	return path, func() {
		cancel()
		done.Wait()
		if err := os.RemoveAll(dir); err != nil {
			fmt.Fprintf(t.Stderr, "mayfly: the token file is still there: %v\n", err)
		}
	}, nil
}
