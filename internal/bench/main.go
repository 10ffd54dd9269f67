// Command bench measures Mayfly beside floors on this machine, in one run, and
// prints ratios. It builds the product, starts it as an operator would, and
// sends load over loopback; it uses nothing the product keeps to itself. Start
// at main; the floors are in floor.go.
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

var (
	runs     = flag.Int("runs", 3, "interleaved repetitions of each load; the median is printed")
	length   = flag.Duration("length", 3*time.Second, "length of one load")
	only     = flag.String("only", "", "run only measurements whose name contains this")
	postgres = flag.String("postgres", "", "DSN of a PostgreSQL database with fsync on; empty leaves PostgreSQL out")
	role     = flag.String("role", "", "internal: which floor to serve")
	roleArg  = flag.String("arg", "", "internal: the floor's argument")
	roleKey  = flag.String("key", "", "internal: the floor's public key")
)

func run() error {
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if *role != "" {
		return serveFloor(ctx)
	}
	b, err := newBench(ctx)
	if err != nil {
		return err
	}
	defer b.close()
	for _, m := range []struct {
		name string
		do   func() error
	}{
		{"size", b.size}, {"start", b.start}, {"exchange", b.exchange}, {"http", b.gatewayHTTP}, {"mcp", b.gatewayMCP}, {"memory", b.memory},
	} {
		if strings.Contains(m.name, *only) {
			if err := m.do(); err != nil {
				return fmt.Errorf("%s: %w", m.name, err)
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// bench is the world the product is measured in.
type bench struct {
	ctx    context.Context
	dir    string
	binary string
	key    *ecdsa.PrivateKey // of the identity provider
	idp    string
	closes []func()
}

func newBench(ctx context.Context) (*bench, error) {
	dir, err := os.MkdirTemp("", "mayfly-bench-")
	if err != nil {
		return nil, err
	}
	b := &bench{ctx: ctx, dir: dir, binary: filepath.Join(dir, "mayfly")}
	b.closes = append(b.closes, func() { os.RemoveAll(dir) })
	if b.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", b.binary, "./cmd/mayfly")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return nil, fmt.Errorf("building the product: %w", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	b.idp = "http://" + l.Addr().String()
	s := &http.Server{Handler: b.provider(), ReadHeaderTimeout: time.Second}
	go s.Serve(l) // ends at close
	b.closes = append(b.closes, func() { s.Close() })
	return b, nil
}

func (b *bench) close() {
	for i := len(b.closes) - 1; i >= 0; i-- {
		b.closes[i]()
	}
}

// provider is the identity provider: discovery and one key.
func (b *bench) provider() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q,"response_types_supported":["code"],"subject_types_supported":["public"],"id_token_signing_alg_values_supported":["ES256"]}`,
			b.idp, b.idp+"/jwks")
	})
	mux.HandleFunc("GET /jwks", func(w http.ResponseWriter, _ *http.Request) {
		var x, y [32]byte
		b.key.X.FillBytes(x[:])
		b.key.Y.FillBytes(y[:])
		fmt.Fprintf(w, `{"keys":[{"kty":"EC","crv":"P-256","kid":"bench","alg":"ES256","use":"sig","x":%q,"y":%q}]}`,
			base64.RawURLEncoding.EncodeToString(x[:]), base64.RawURLEncoding.EncodeToString(y[:]))
	})
	return mux
}

// sourceToken signs a token of the provider.
func (b *bench) sourceToken(audience, subject string) string {
	now := time.Now()
	payload, err := json.Marshal(map[string]any{
		"iss": b.idp, "aud": audience, "sub": subject, "iat": now.Unix(), "exp": now.Add(time.Hour).Unix(), "jti": rand.Text(),
	})
	if err != nil {
		panic(err) // a map of strings and numbers
	}
	header := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"ES256","kid":"bench","typ":"JWT"}`))
	text, err := signES256(b.key, header+"."+base64.RawURLEncoding.EncodeToString(payload))
	if err != nil {
		panic(err) // crypto/rand does not fail
	}
	return text
}

// process is one server under load.
type process struct {
	cmd  *exec.Cmd
	url  string
	took time.Duration // from start to the first healthy answer
	dir  string
}

func (p *process) pid() int { return p.cmd.Process.Pid }

func (p *process) stop() {
	p.cmd.Process.Signal(syscall.SIGTERM)
	p.cmd.Wait()
}

// begin starts a process and waits for its first healthy answer at path.
func (b *bench) begin(address, path string, args ...string) (*process, error) {
	p := &process{cmd: exec.CommandContext(b.ctx, args[0], args[1:]...), url: "http://" + address}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	logFile, err := os.Create(filepath.Join(b.dir, "log-"+rand.Text()[:6]))
	if err != nil {
		return nil, err
	}
	defer logFile.Close()
	p.cmd.Stderr, p.cmd.Stdout = logFile, logFile
	start := time.Now()
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	for time.Since(start) < 30*time.Second {
		resp, err := http.Get(p.url + path)
		if err == nil {
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				p.took = time.Since(start)
				return p, nil
			}
		}
		time.Sleep(2 * time.Millisecond)
	}
	p.stop()
	said, _ := os.ReadFile(logFile.Name())
	return nil, fmt.Errorf("%s did not come up:\n%s", args[0], said)
}

// product starts the product with a store of its own.
func (b *bench) product(dsn string, targets map[string]string) (*process, error) {
	dir, err := os.MkdirTemp(b.dir, "node-")
	if err != nil {
		return nil, err
	}
	if dsn == "" {
		dsn = "sqlite://" + filepath.Join(dir, "mayfly.db")
	}
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	var seal [32]byte
	rand.Read(seal[:])
	sealPath := filepath.Join(b.dir, "seal.key")
	if _, err := os.Stat(sealPath); errors.Is(err, os.ErrNotExist) {
		if err := os.WriteFile(sealPath, []byte(base64.StdEncoding.EncodeToString(seal[:])+"\n"), 0o400); err != nil {
			return nil, err
		}
	}
	var y strings.Builder
	fmt.Fprintf(&y, "trust_domain: bench.example\nissuer: http://%s\nlisten: {public: %q, admin: %q}\nstore: %q\nkeys: {seal: {file: %q}}\n",
		address, address, "unix://"+filepath.Join(dir, "admin.sock"), dsn, sealPath)
	fmt.Fprintf(&y, "sources:\n  - {name: corp, kind: oidc, issuer: %q, audience: mayfly, subject: human}\n", b.idp)
	fmt.Fprintf(&y, "  - {name: cluster, kind: oidc, issuer: %q, audience: agents, subject: workload}\ntargets:\n", b.idp)
	for _, name := range []string{"api", "echo"} {
		at := targets[name]
		if at == "" {
			at = "http://127.0.0.1:9" // named by the profile, and never called
		}
		fmt.Fprintf(&y, "  - {name: %s, kind: %s, url: %q}\n", name, map[bool]string{true: "mcp", false: "http"}[name == "echo"], at)
	}
	profile := `profile: bench
description: Measured.
owner: bench@example.org
class: ephemeral
delegators: [{human: {}}]
attest: [{source: cluster}]
grants: ["mcp:echo:*", "http:api:*"]
default: ["mcp:echo:*", "http:api:*"]
lifetime: {idle: 30m, default: 1h, max: 1h}
key: optional
risk: low
`
	for name, text := range map[string]string{"mayfly.yaml": y.String(), "profiles/bench.yaml": profile} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return nil, err
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	p, err := b.begin(address, "/readyz", b.binary, "--config", filepath.Join(dir, "mayfly.yaml"), "serve")
	if p != nil {
		p.dir = dir
	}
	return p, err
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// floor starts one of the floors as a process of its own.
func (b *bench) floor(name, arg string) (*process, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	point, err := b.key.PublicKey.Bytes()
	if err != nil {
		return nil, err
	}
	key := base64.RawURLEncoding.EncodeToString(point)
	return b.begin(address, "/healthz", self, "-role", name+"@"+address, "-arg", arg, "-key", key)
}

// serveFloor is the process of a floor.
func serveFloor(ctx context.Context) error {
	name, address, _ := strings.Cut(*role, "@")
	var h http.Handler
	var err error
	switch name {
	case "issuer":
		raw, err := base64.RawURLEncoding.DecodeString(*roleKey)
		if err != nil {
			return err
		}
		public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), raw)
		if err != nil {
			return err
		}
		if h, err = floorIssuer(public, *roleArg); err != nil {
			return err
		}
	case "proxy":
		h, err = floorProxy(*roleArg)
	case "api":
		h = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			io.WriteString(w, `{"orders":["one","two","three"],"padding":"`+strings.Repeat("x", 700)+`"}`)
		})
	case "echo":
		h = echoServer()
	default:
		err = fmt.Errorf("no floor %q", name)
	}
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") })
	mux.Handle("/", h)
	s := &http.Server{Addr: address, Handler: mux, ReadHeaderTimeout: time.Second}
	go func() {
		<-ctx.Done()
		s.Close()
	}()
	if err := s.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// exchangeForm is one opening: a subject token nobody has seen, an actor token
// everybody has.
func exchangeForm(subject, actor string) string {
	return url.Values{
		"grant_type":         {"urn:ietf:params:oauth:grant-type:token-exchange"},
		"subject_token":      {subject},
		"subject_token_type": {"urn:ietf:params:oauth:token-type:jwt"},
		"actor_token":        {actor},
		"actor_token_type":   {"urn:ietf:params:oauth:token-type:jwt"},
		"profile":            {"bench"},
		"purpose":            {"to be measured"},
	}.Encode()
}

func post(address, form string) *http.Request {
	r, err := http.NewRequest(http.MethodPost, address, strings.NewReader(form))
	if err != nil {
		panic(err) // the address is ours
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return r
}
