// Command mayfly is the product: a server that gives agents an identity for one
// task, and the commands to work with it. This package owns flags,
// configuration, wiring and printing, and no rules. There is one file for each
// verb; serve.go holds all wiring. Start reading at [cli], the list of verbs.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/client"
)

// cli is the command line: the flags of every verb, and the verbs, one line
// each. A verb is a struct with its flags and a method
// Run(context.Context, *terminal) error, in a file of its name.
type cli struct {
	Config string `help:"Configuration file." placeholder:"FILE" env:"MAYFLY_CONFIG" default:"mayfly.yaml"`
	Addr   string `help:"Server to talk to: https://host, or unix:///path. Default: the admin socket in the configuration." placeholder:"ADDRESS" env:"MAYFLY_ADDR"`
	JSON   bool   `help:"Print JSON."`

	Init        initCmd        `cmd:"" help:"Write a small, commented, working configuration."`
	Check       checkCmd       `cmd:"" help:"Check the configuration, all of it, without starting anything."`
	Serve       serveCmd       `cmd:"" help:"Run the server."`
	Sandbox     sandboxCmd     `cmd:"" help:"See it work, and try to break it, on this machine alone."`
	Run         runCmd         `cmd:"" help:"Run a command with a task of its own."`
	MCP         mcpCmd         `cmd:"" name:"mcp" help:"Be an MCP server on standard input and output, by way of the gateway."`
	Delegate    delegateCmd    `cmd:"" help:"Hand authority over: print a ticket."`
	Ps          psCmd          `cmd:"" help:"List live tasks: who for, what for, time left."`
	Show        showCmd        `cmd:"" help:"Show a task."`
	Complete    completeCmd    `cmd:"" help:"End a task whose work is done."`
	Narrow      narrowCmd      `cmd:"" help:"Take from a running task all but some grants."`
	Widen       widenCmd       `cmd:"" help:"Give a running task more grants."`
	Approvals   approvalsCmd   `cmd:"" help:"Show what waits for a human, and answer."`
	Pins        pinsCmd        `cmd:"" help:"Show what tools are held to, and accept changes."`
	Revoke      revokeCmd      `cmd:"" help:"End a task, or everything of a human, service, profile, source or client."`
	Erase       eraseCmd       `cmd:"" help:"Make what is recorded about a human unreadable for ever."`
	Certificate certificateCmd `cmd:"" help:"Show, or keep, the signed account of how a task ended."`
	Trace       traceCmd       `cmd:"" help:"Lead from any id back to who is behind it."`
	Explain     explainCmd     `cmd:"" help:"Say why a decision is what it is."`
	Replay      replayCmd      `cmd:"" help:"Decide what was decided again, under other policies."`
	Test        testCmd        `cmd:"" help:"Decide written cases, and say which come out otherwise than they should."`
	Log         logCmd         `cmd:"" help:"Read and check the event log."`
	Version     versionCmd     `cmd:"" help:"Print the version."`
}

// terminal is what a verb works with.
type terminal struct {
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	Config string // path of mayfly.yaml
	Addr   string // as given; "" is the admin socket in the configuration
	JSON   bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run does what args say and gives the exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	var c cli
	t := &terminal{Stdin: stdin, Stdout: stdout, Stderr: stderr}
	exited, code := false, 0
	parser, err := kong.New(&c,
		kong.Name("mayfly"),
		kong.Description("An identity for one task of an AI agent: limited, traceable, decided on at every action, and gone when the task ends."),
		kong.UsageOnError(),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.Writers(stdout, stderr),
		kong.Exit(func(n int) { exited, code = true, n }), // --help
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(t),
	)
	if err != nil {
		fmt.Fprintf(stderr, "mayfly: %v\n", err)
		return exitRefused
	}
	parsed, err := parser.Parse(args)
	if exited {
		return code
	}
	if err != nil {
		fmt.Fprintf(stderr, "mayfly: %v\nSee mayfly --help.\n", err)
		return exitUsage
	}
	t.Config, t.Addr, t.JSON = c.Config, c.Addr, c.JSON
	err = parsed.Run()
	if err != nil {
		t.failed(err)
	}
	return exitCode(err)
}

// The exit codes, after sysexits.h where it has one.
const (
	exitRefused     = 1
	exitUsage       = 2
	exitUnavailable = 69
	exitTryAgain    = 75
	exitConfig      = 78
)

// exitStatus ends the program with the code of another, silently: of the command
// that mayfly run wraps.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// usageError says that the command line cannot be meant.
type usageError string

func (e usageError) Error() string { return string(e) }

// exitCode is the one table from what went wrong to the exit code.
func exitCode(err error) int {
	if err == nil {
		return 0
	}
	if s, ok := errors.AsType[exitStatus](err); ok {
		return int(s)
	}
	if _, ok := errors.AsType[usageError](err); ok {
		return exitUsage
	}
	if _, ok := errors.AsType[problems](err); ok {
		return exitConfig
	}
	if e, ok := errors.AsType[*mayfly.Error](err); ok {
		switch {
		case e.Kind == mayfly.RateLimited, e.Code == "locked":
			return exitTryAgain
		case e.Kind == mayfly.Unavailable, e.Kind == mayfly.BadUpstream:
			return exitUnavailable
		}
	}
	return exitRefused
}

// failed prints err for a person, or with --json for a program. Nothing on this
// side of the terminal is a stranger: the cause is shown too.
func (t *terminal) failed(err error) {
	if _, ok := errors.AsType[exitStatus](err); ok {
		return
	}
	p, configured := errors.AsType[problems](err)
	e, typed := errors.AsType[*mayfly.Error](err)
	switch {
	case t.JSON && configured:
		t.print(struct {
			Problems problems `json:"problems"`
		}{p})
	case t.JSON && typed:
		t.print(e.Problem())
	case t.JSON:
		t.print(mayfly.Problem{Type: "about:blank", Title: "Failed", Detail: err.Error()})
	case configured:
		for _, one := range p {
			fmt.Fprintln(t.Stderr, one)
		}
	default:
		fmt.Fprintf(t.Stderr, "mayfly: %v\n", err)
		if typed {
			t.explain(e)
		}
	}
}

// explain prints what a refusal carries beside its sentence.
func (t *terminal) explain(e *mayfly.Error) {
	if e.Decision != "" {
		fmt.Fprintf(t.Stderr, "  decision: %s\n", e.Decision)
	}
	if e.Term != "" {
		fmt.Fprintf(t.Stderr, "  refused by: %s\n", e.Term)
	}
	if e.Next != nil {
		fmt.Fprintf(t.Stderr, "  next: %s\n", nextLine(e.Next))
		if e.Next.Approval != "" {
			fmt.Fprintf(t.Stderr, "  approval: %s\n", clean(e.Next.Approval))
		}
		if e.Next.URL != "" {
			fmt.Fprintf(t.Stderr, "  answered at: %s\n", clean(e.Next.URL))
		}
	}
	if cause := e.Unwrap(); cause != nil {
		fmt.Fprintf(t.Stderr, "  because: %v\n", cause)
	}
}

// print writes v as one line of JSON.
func (t *terminal) print(v any) {
	enc := json.NewEncoder(t.Stdout)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		fmt.Fprintf(t.Stderr, "mayfly: %v\n", err)
	}
}

// client is the server at --addr, else at the admin socket that the
// configuration names. Only that one line of the configuration is read: whoever
// may talk to the server need not be able to read its keys.
func (t *terminal) client() (*client.Client, error) {
	addr := t.Addr
	if addr == "" {
		socket, err := adminSocket(t.Config)
		if err != nil {
			return nil, err
		}
		addr = "unix://" + socket
	}
	o := client.Options{Address: addr}
	if token := os.Getenv("MAYFLY_HUMAN_TOKEN"); token != "" {
		o.Token = client.Bearer(token)
	}
	return client.New(o)
}

// adminSocket is the path of listen.admin in the configuration.
func adminSocket(config string) (string, error) {
	l := &loader{dir: filepath.Dir(config), shown: filepath.Dir(config)}
	d := l.document(config)
	if d == nil {
		return "", append(l.bad, problem{File: config, Message: "say where the server is with --addr or MAYFLY_ADDR, or name the configuration with --config"})
	}
	var f serverFile
	if !d.into(&f) {
		return "", d.bad
	}
	socket, err := socketPath(f.Listen.Admin)
	if err != nil {
		d.wrong(path{"listen", "admin"}, "%v", err)
		return "", d.bad
	}
	return socket, nil
}
