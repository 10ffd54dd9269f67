package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/attest"
	"github.com/mayfly-id/mayfly/internal/authority"
	"github.com/mayfly-id/mayfly/internal/console"
	"github.com/mayfly-id/mayfly/internal/eventlog"
	"github.com/mayfly-id/mayfly/internal/gateway"
	"github.com/mayfly-id/mayfly/internal/metrics"
	"github.com/mayfly-id/mayfly/internal/server"
	"github.com/mayfly-id/mayfly/internal/signals"
	"github.com/mayfly-id/mayfly/internal/store"
	"github.com/mayfly-id/mayfly/internal/witness"
)

// tune sets the runtime for what a server does, unless the environment says
// otherwise.
//
// Most of what a request allocates dies with it, so collections can be fewer than
// by Go's default, as far as memory allows: at 150 100,000 live tasks cost 42 MB,
// at 400 they cost 110 or more. And one thread is nearly always in a sync of the
// disk. When that returns on a busy machine there is no
// processor left for it, and everybody whose commit it was waits for the
// scheduler: with processors to spare two cores opened a fifth more tasks a
// second, at two thirds of the 99th percentile.
func tune() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(150)
	}
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + spareProcs)
	}
}

const spareProcs = 2

// serveCmd is mayfly serve.
type serveCmd struct {
	Verbose bool `help:"Log every request, not only those that are refused."`
}

// Help is the long help.
func (serveCmd) Help() string {
	return `Runs the server until it is told to stop (SIGTERM, SIGINT). It refuses to start
on any error in the configuration (exit 78), and where another process holds the
data directory (exit 75). SIGHUP, or a changed file, loads the configuration
again: all of it, or none of it.

  mayfly --config /etc/mayfly/mayfly.yaml serve`
}

// Run serves.
func (s serveCmd) Run(ctx context.Context, t *terminal) error {
	c, err := Load(t.Config)
	if err != nil {
		return err
	}
	tune()
	level := slog.LevelInfo
	if s.Verbose {
		level = slog.LevelDebug
	}
	logger := server.NewLogger(t.Stderr, level)
	n, err := newInstance(ctx, c, logger, nil)
	if err != nil {
		return err
	}
	return n.serve(ctx, func() {
		logger.Info("serving", "public", c.Listen.Public, "admin", c.Listen.Admin, "issuer", c.Issuer, "bundle", c.Hash)
	})
}

// instance is one running server: everything it is made of, wired.
type instance struct {
	config    *Config
	logger    *slog.Logger
	db        *store.DB
	log       *eventlog.Log
	sources   *attest.Sources // of the configuration in force
	authority *authority.Authority
	gateway   *gateway.Gateway
	console   *console.Console
	webhooks  *signals.Webhooks
	exports   *signals.Exports
	metrics   *metrics.Metrics                 // nil without
	witnesses atomic.Pointer[witness.Policy]   // of the configuration in force
	exporting atomic.Pointer[[]signals.Export] // of the configuration in force
	anchoring *witness.Client
	public    net.Listener
	admin     net.Listener
	apis      []*server.Server
	servers   []*http.Server
	serveOn   []net.Listener
}

// newInstance opens the store and the log, takes the listeners, and wires the rest.
// Nothing is answered before serve. A wall that is not nil is the clock that the
// authority goes by, for drills.
func newInstance(ctx context.Context, c *Config, logger *slog.Logger, wall func() time.Time) (n *instance, err error) {
	n = &instance{config: c, logger: logger}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.close())
		}
	}()
	host, err := os.Hostname()
	if err != nil {
		return n, err
	}
	name := fmt.Sprintf("%s/%d", host, os.Getpid())
	if n.db, err = store.Open(ctx, store.Options{DSN: c.Store, Seal: c.Seal(), Node: name, Logger: logger}); err != nil {
		return n, err
	}
	if n.log, err = eventlog.Open(ctx, n.db, eventlog.Options{Origin: logOrigin(c.Issuer), Logger: logger}); err != nil {
		return n, err
	}
	if n.sources, err = newSources(c, nil, logger); err != nil {
		return n, err
	}
	n.authority, err = authority.New(ctx, authority.Config{
		DB: n.db, Log: n.log, Bundle: c.Bundle(n.sources), Node: name, Version: built().Version, Logger: logger, Wall: wall,
	})
	if err != nil {
		return n, err
	}
	n.gateway = gateway.New(n.authority, gateway.Options{Logger: logger, SessionKey: n.db.Key("mcp session")})
	if n.console, err = console.New(n.authority, console.Options{Logger: logger}); err != nil {
		return n, err
	}
	n.witnesses.Store(&c.Witnesses)
	n.anchoring = witness.New(witness.Options{
		DB: n.db, Log: n.log, Policy: func() witness.Policy { return *n.witnesses.Load() }, Logger: logger,
	})
	n.webhooks = signals.New(signals.Options{DB: n.db, Hooks: n.hooks, ApprovalURL: n.authority.ApprovalURL, Logger: logger})
	n.exporting.Store(&c.Exports)
	n.exports = signals.NewExports(signals.ExportOptions{
		DB: n.db, Exports: func() []signals.Export { return *n.exporting.Load() }, Issuer: c.Issuer, Origin: n.log.Origin(),
		Version: built().Version, Leads: n.log.Leads, Stdout: os.Stdout, Logger: logger,
	})

	if c.Listen.Metrics != "" {
		if err := n.addMetrics(ctx); err != nil {
			return n, err
		}
	}
	options := server.Options{
		Logger: logger, Gateway: n.gateway, Console: n.console, TrustedProxies: c.TrustedProxies, Limits: server.Limits(c.Limits),
	}
	if n.metrics != nil {
		options.Observe = n.metrics.Request
	}
	if n.public, err = net.Listen("tcp", c.Listen.Public); err != nil {
		return n, mayfly.Errorf(mayfly.Unavailable, "cannot listen on %s: is another server running there? %v", c.Listen.Public, err)
	}
	api := server.New(n.authority, options)
	n.apis = append(n.apis, api)
	public := &http.Server{Handler: api}
	server.Harden(public)
	listener := n.public
	if c.TLS != nil {
		pair, err := tls.LoadX509KeyPair(c.TLS.Cert, c.TLS.Key)
		if err != nil {
			return n, mayfly.Errorf(mayfly.Invalid, "the certificate cannot be read: %v", err)
		}
		listener = tls.NewListener(listener, server.TLS(pair))
	}
	n.add(public, listener)
	if c.Listen.Admin != "" {
		if n.admin, err = listenAdmin(c.Listen.Admin); err != nil {
			return n, err
		}
		api := server.NewAdmin(n.authority, options)
		n.apis = append(n.apis, api)
		admin := &http.Server{Handler: api}
		server.Harden(admin)
		admin.ConnContext = server.WithPeer
		n.add(admin, n.admin)
	}
	return n, nil
}

// addMetrics serves metrics on an address of their own.
func (n *instance) addMetrics(ctx context.Context) (err error) {
	n.metrics, err = metrics.New(ctx, metrics.Options{DB: n.db, Ready: n.authority.Ready, Alarm: n.log.Alarm, Logger: n.logger})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", n.config.Listen.Metrics)
	if err != nil {
		return mayfly.Errorf(mayfly.Unavailable, "cannot listen on %s for metrics: %v", n.config.Listen.Metrics, err)
	}
	s := &http.Server{Handler: n.metrics.Handler()}
	server.Harden(s)
	n.add(s, l)
	return nil
}

func (n *instance) add(s *http.Server, l net.Listener) {
	n.servers, n.serveOn = append(n.servers, s), append(n.serveOn, l)
}

// hooks are the webhooks of the configuration in force.
func (n *instance) hooks() []signals.Webhook {
	var hooks []signals.Webhook
	for _, h := range n.authority.Bundle().Webhooks {
		hooks = append(hooks, signals.Webhook{URL: h.URL, Secret: h.Secret})
	}
	return hooks
}

// newSources makes the sources of a configuration; keys that earlier fetched are
// kept, so that a reload while a provider is down locks nobody out.
func newSources(c *Config, earlier *attest.Sources, logger *slog.Logger) (*attest.Sources, error) {
	return attest.New(c.Sources, c.Clients, attest.Options{Issuer: c.Issuer, Logger: logger, Earlier: earlier})
}

// logOrigin is the log's name: the issuer's host and /log.
func logOrigin(issuer string) string {
	u, err := url.Parse(issuer)
	if err != nil {
		return issuer + "/log" // a checked configuration has a URL here
	}
	return u.Host + "/log"
}

// listenAdmin takes the admin socket for its owner alone. A socket nobody
// answers on is left from a process that died and is replaced.
func listenAdmin(path string) (net.Listener, error) {
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		c.Close()
		return nil, mayfly.Coded(mayfly.Unavailable, "locked", "another server answers on %s", path)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	// The mode is right from the first moment: between listen and chmod the
	// socket would be anybody's.
	old := syscall.Umask(0o177)
	l, err := net.Listen("unix", path)
	syscall.Umask(old)
	if err != nil {
		return nil, mayfly.Errorf(mayfly.Unavailable, "cannot listen on %s: %v", path, err)
	}
	return l, nil
}

// drainTime is how long requests in flight may go on after a stop was asked.
const drainTime = 5 * time.Second

// serve answers until ctx ends, then lets what is in flight finish, writes down
// every outcome, and closes the store.
func (n *instance) serve(ctx context.Context, ready func()) error {
	// The loops outlive the listeners: what drains still has to be recorded.
	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWork()
	var loops errgroup.Group
	loops.Go(func() error { return n.authority.Run(work) })
	loops.Go(func() error { return n.console.Run(work) })
	loops.Go(func() error { return n.webhooks.Run(work) })
	loops.Go(func() error { return n.exports.Run(work) })
	loops.Go(func() error { return n.anchoring.Run(work) })
	loops.Go(func() error { n.watchConfig(work); return nil })
	// The log runs on until the last record is written, and then takes it in.
	logging, stopLog := context.WithCancel(context.WithoutCancel(ctx))
	defer stopLog()
	var log errgroup.Group
	log.Go(func() error { return n.log.Run(logging) })

	var serving errgroup.Group
	failed, stop := context.WithCancel(ctx)
	defer stop()
	for i, s := range n.servers {
		serving.Go(func() error {
			defer stop()
			if err := s.Serve(n.serveOn[i]); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		})
	}
	if ready != nil {
		ready()
	}
	<-failed.Done()
	drain, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	n.gateway.Close()
	n.console.Close()
	for _, api := range n.apis {
		api.Close()
	}
	for _, s := range n.servers {
		if err := s.Shutdown(drain); err != nil {
			n.logger.Warn("requests were cut off at shutdown", "error", err)
			if err := s.Close(); err != nil {
				n.logger.Warn("a listener did not close", "error", err)
			}
		}
	}
	err := serving.Wait()
	stopWork()
	err = errors.Join(err, loops.Wait())
	stopLog()
	return errors.Join(err, log.Wait(), n.lastCheckpoint(), n.close())
}

// lastCheckpoint takes the last records into the log, and has it cosigned. What it
// cannot, the next start does.
func (n *instance) lastCheckpoint() error {
	ctx, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	for {
		took, err := n.log.Sequence(ctx)
		if err == nil && took > 0 {
			continue
		}
		if err != nil {
			n.logger.Warn("the last records wait for the next start to be in the log", "error", err)
		} else if err := n.anchoring.Submit(ctx); err != nil {
			n.logger.Warn("the last records wait for the next start to be cosigned", "error", err)
		}
		return nil
	}
}

// close gives back what newInstance took.
func (n *instance) close() error {
	var errs []error
	for _, l := range slices.Concat([]net.Listener{n.public, n.admin}, n.serveOn) {
		if l != nil {
			if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
				errs = append(errs, err)
			}
		}
	}
	if n.sources != nil {
		n.sources.Close()
	}
	if n.db != nil {
		errs = append(errs, n.db.Close())
	}
	return errors.Join(errs...)
}

// watchEvery is how often the configuration's files are looked at.
const watchEvery = 2 * time.Second

// watchConfig loads the configuration again at SIGHUP and when a file of it
// changed. What is wrong with a new one is logged, and the old one stays.
func (n *instance) watchConfig(ctx context.Context) {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	seen := stamp(n.config)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if now := stamp(n.config); now == seen {
				continue
			} else {
				seen = now
			}
		case <-hup:
			seen = stamp(n.config)
		}
		if err := n.reload(ctx); err != nil {
			n.logger.Error("the new configuration is not in force; the old one stays", "error", err)
		}
	}
}

func (n *instance) reload(ctx context.Context) error {
	next, err := Load(n.config.Path)
	if err != nil {
		return err
	}
	if next.Store != n.config.Store || next.Listen != n.config.Listen || next.Seal() != n.config.Seal() {
		return mayfly.Errorf(mayfly.Invalid, "store, listen and keys cannot change while the server runs; restart it")
	}
	sources, err := newSources(next, n.sources, n.logger)
	if err != nil {
		return err
	}
	if err := n.authority.Reload(ctx, next.Bundle(sources)); err != nil {
		sources.Close()
		return err
	}
	n.sources.Close()
	n.config, n.sources = next, sources
	n.witnesses.Store(&next.Witnesses)
	n.exporting.Store(&next.Exports)
	n.logger.Info("the configuration is in force", "bundle", next.Hash)
	return nil
}

// stamp tells whether the configuration's files changed, by names, sizes and times:
// those that were read, and whatever stands beside them, which a file does that was
// refused when it came and is corrected now.
func stamp(c *Config) string {
	files := map[string]bool{}
	for _, f := range c.Files {
		files[f] = true
		for _, pattern := range []string{"*.yaml", "*.cedar"} {
			found, err := filepath.Glob(filepath.Join(filepath.Dir(f), pattern))
			if err != nil {
				continue // a folder whose name is a pattern: what was read of it is looked at
			}
			for _, beside := range found {
				files[beside] = true
			}
		}
	}
	var b strings.Builder
	for _, f := range names(files) {
		if info, err := os.Stat(f); err == nil {
			fmt.Fprintf(&b, "%s %d %d\n", f, info.Size(), info.ModTime().UnixNano())
		} else {
			fmt.Fprintf(&b, "%s gone\n", f)
		}
	}
	return b.String()
}
