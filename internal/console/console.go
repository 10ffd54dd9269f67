// Package console is the web pages: what is live, who let it, why something was
// refused, and the one human's yes. It owns templates and the way in for humans;
// what they may see and do is decided by authority, which is asked on every
// request. It has no powers that the API lacks. Start reading at [Console.ServeHTTP].
package console

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"html/template"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/authority"
	"github.com/mayfly-id/mayfly/internal/graph"
)

//go:embed pages static
var files embed.FS

// Options are what a Console needs beside the authority.
type Options struct {
	Logger *slog.Logger // nil is slog.Default
}

// Console is the pages as an http.Handler. It is safe for concurrent use.
type Console struct {
	a       *authority.Authority
	o       Options
	mux     *http.ServeMux
	pages   map[string]*template.Template
	static  map[string]asset
	board   *board
	cross   *http.CrossOriginProtection
	secure  bool          // the browser speaks https to us
	closing chan struct{} // closed by Close
	once    sync.Once
}

// asset is a file that never changes while the process runs.
type asset struct {
	mediaType, tag string
	data           []byte
}

// New makes a console.
func New(a *authority.Authority, o Options) (*Console, error) {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	c := &Console{
		a: a, o: o, mux: http.NewServeMux(), cross: http.NewCrossOriginProtection(),
		secure: strings.HasPrefix(a.Bundle().Issuer, "https://"), closing: make(chan struct{}),
	}
	c.board = newBoard(a, o.Logger)
	if err := c.load(); err != nil {
		return nil, err
	}
	c.routes()
	return c, nil
}

// Run reads the log for whoever looks, until ctx ends.
func (c *Console) Run(ctx context.Context) error { return c.board.run(ctx) }

// Close ends the streams that are open, so that the listener can shut down.
func (c *Console) Close() { c.once.Do(func() { close(c.closing) }) }

// load reads the templates and the assets.
func (c *Console) load() error {
	c.pages, c.static = map[string]*template.Template{}, map[string]asset{}
	layout, err := template.New("layout").Funcs(functions).ParseFS(files, "pages/layout.html", "pages/parts.html")
	if err != nil {
		return err
	}
	names, err := fs.Glob(files, "pages/*.html")
	if err != nil {
		return err
	}
	for _, name := range names {
		t, err := layout.Clone()
		if err != nil {
			return err
		}
		if c.pages[strings.TrimSuffix(path.Base(name), ".html")], err = t.ParseFS(files, name); err != nil {
			return err
		}
	}
	entries, err := fs.ReadDir(files, "static")
	if err != nil {
		return err
	}
	types := map[string]string{".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
	for _, e := range entries {
		data, err := fs.ReadFile(files, "static/"+e.Name())
		if err != nil {
			return err
		}
		if e.Name() == "console.css" {
			data = append(data, graph.Style()...)
		}
		sum := sha256.Sum256(data)
		c.static[e.Name()] = asset{types[path.Ext(e.Name())], `"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`, data}
	}
	return nil
}

// Routes are the patterns of every page and action there is, as net/http has them.
func Routes() []string {
	return append(slices.Sorted(maps.Keys(pages)), "GET /{$}", "GET /console/static/{name}", "GET /console/sign-in", "GET /console/signed-in")
}

// pages is what is shown to, and done for, whoever is signed in.
var pages = map[string]func(*visit) error{
	"GET /console/{$}":                   (*visit).overview,
	"GET /console/tasks":                 (*visit).live,
	"GET /console/tasks/changes":         (*visit).changes,
	"GET /console/tasks/{id}":            (*visit).task,
	"GET /console/tasks/{id}/revoke":     (*visit).previewRevoke,
	"POST /console/tasks/{id}/revoke":    (*visit).revoke,
	"GET /console/decisions/{id}":        (*visit).decision,
	"GET /console/approvals":             (*visit).approvals,
	"GET /console/approvals/{id}":        (*visit).approval,
	"POST /console/approvals/{id}":       (*visit).answer,
	"GET /console/investigate":           (*visit).investigate,
	"GET /console/rules":                 (*visit).rules,
	"GET /console/rules/profiles/{name}": (*visit).profile,
	"GET /console/health":                (*visit).health,
	"POST /console/sign-out":             (*visit).signOut,
}

func (c *Console) routes() {
	c.mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/console/", http.StatusSeeOther) })
	c.mux.HandleFunc("GET /console/static/{name}", c.serveStatic)
	c.mux.HandleFunc("GET /console/sign-in", c.signIn)
	c.mux.HandleFunc("GET /console/signed-in", c.signedIn)
	for pattern, show := range pages {
		c.mux.HandleFunc(pattern, c.known(show))
	}
	c.mux.HandleFunc("/console/", c.known(func(v *visit) error {
		return mayfly.Errorf(mayfly.NotFound, "there is no such page")
	}))
}

// policy is what a page of ours may load and do: its own, and nothing else.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; " +
	"frame-ancestors 'none'; base-uri 'none'; object-src 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// ServeHTTP answers / and everything under /console/.
func (c *Console) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Frame-Options", "DENY")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
	h.Set("Cache-Control", "no-store")
	if err := c.cross.Check(r); err != nil {
		(&visit{c: c, w: w, r: r, now: c.a.Now()}).fail(mayfly.Errorf(mayfly.Denied, "a page of another site sent this; nothing was done"))
		return
	}
	c.mux.ServeHTTP(w, r)
}

func (c *Console) serveStatic(w http.ResponseWriter, r *http.Request) {
	a, ok := c.static[r.PathValue("name")]
	if !ok {
		http.NotFound(w, r)
		return
	}
	h := w.Header()
	h.Set("Content-Type", a.mediaType)
	h.Set("Cache-Control", "no-cache") // kept, and asked about each time
	h.Set("ETag", a.tag)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(a.data))
}

// visit is one request of a human who is signed in.
type visit struct {
	c   *Console
	w   http.ResponseWriter
	r   *http.Request
	me  authority.SignInView
	now time.Time
}

func (v *visit) ctx() context.Context { return v.r.Context() }

// presented is what the browser showed for itself.
func (v *visit) presented() authority.Presented { return v.c.presented(v.r) }

func (c *Console) presented(r *http.Request) authority.Presented {
	source := r.RemoteAddr
	if host, _, err := net.SplitHostPort(source); err == nil {
		source = host
	}
	p := authority.Presented{Method: r.Method, URL: c.a.Bundle().Issuer + r.URL.EscapedPath(), Source: source}
	if cookie, err := r.Cookie(c.cookie(cookieSession)); err == nil {
		p.SignIn = mayfly.NewSecret(cookie.Value)
	}
	return p
}

// known lets in whoever is signed in, and takes from them only what our own forms
// send.
func (c *Console) known(show func(*visit) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v := &visit{c: c, w: w, r: r, now: c.a.Now()}
		var err error
		if v.me, err = c.a.SignedIn(v.ctx(), v.presented()); err != nil {
			v.fail(err)
			return
		}
		if r.Method == http.MethodPost {
			r.Body = http.MaxBytesReader(w, r.Body, 16<<10)
			if err := r.ParseForm(); err != nil {
				v.fail(mayfly.Errorf(mayfly.Invalid, "the form cannot be read"))
				return
			}
			if !hmac.Equal([]byte(r.PostForm.Get("token")), []byte(v.Token())) {
				v.fail(mayfly.Errorf(mayfly.Denied, "the form is of an earlier sign-in; go back, load the page again, and send it once more"))
				return
			}
		}
		if err := show(v); err != nil {
			v.fail(err)
		}
	}
}

// Token goes with every form: it is known to pages of this sign-in alone.
func (v *visit) Token() string {
	held := v.presented().SignIn
	mac := hmac.New(sha256.New, []byte(held.Reveal()))
	mac.Write([]byte("form"))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// frame is what every page is given.
type frame struct {
	Title   string
	Section string // of the navigation
	Me      *authority.SignInView
	Now     time.Time
	Token   string
	Path    string // of this page, for coming back
	Body    any
}

// show answers with a page.
func (v *visit) show(status int, name, title, section string, body any) error {
	f := frame{Title: title, Section: section, Now: v.now, Path: v.r.URL.RequestURI(), Body: body}
	if v.me.Human.Subject != "" {
		f.Me, f.Token = &v.me, v.Token()
	}
	var out bytes.Buffer
	if err := v.c.pages[name].ExecuteTemplate(&out, "layout", f); err != nil {
		return mayfly.Errorf(mayfly.Internal, "the page could not be made").Because(err)
	}
	v.w.Header().Set("Content-Type", "text/html; charset=utf-8")
	v.w.WriteHeader(status)
	if _, err := out.WriteTo(v.w); err != nil {
		v.c.o.Logger.Debug("a page was not taken", "error", err)
	}
	return nil
}

// seeOther leads on after a POST.
func (v *visit) seeOther(to string) error {
	http.Redirect(v.w, v.r, to, http.StatusSeeOther)
	return nil
}

// fail shows what went wrong and what to do next.
func (v *visit) fail(err error) {
	e := mayfly.AsError(err)
	switch {
	case e.Code == "sign_in_required":
		v.askToSignIn()
		return
	case e.Code == "insufficient_user_authentication":
		// What was to be done is shown again at the same path, and done then.
		http.Redirect(v.w, v.r, againTo(v.r.URL.Path), http.StatusSeeOther)
		return
	case e.Kind == mayfly.Internal:
		v.c.o.Logger.Error("a page failed", "path", v.r.URL.Path, "error", e, "cause", e.Unwrap())
	}
	if e.Kind == mayfly.Unavailable || e.Kind == mayfly.RateLimited {
		v.w.Header().Set("Retry-After", "2")
	}
	title := map[mayfly.Kind]string{
		mayfly.NotFound: "Not here for you", mayfly.Denied: "Not done", mayfly.Conflict: "Too late", mayfly.Gone: "Too late",
		mayfly.Unavailable: "Not just now", mayfly.Invalid: "Not understood",
	}[e.Kind]
	if title == "" {
		title = "That did not work"
	}
	failed := v.show(e.Kind.Status(), "error", title, "", struct{ Error *mayfly.Error }{e})
	if failed != nil {
		http.Error(v.w, "something went wrong", http.StatusInternalServerError)
	}
}
