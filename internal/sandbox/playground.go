package sandbox

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/mayfly-id/mayfly/client"
)

//go:embed pages
var pageFiles embed.FS

// Playground is the sandbox in a browser: the story step by step, the drills, and
// free play. It is on this machine alone, and anybody who reaches it may use it.
type Playground struct {
	World    *World
	Story    *Story // whose ways to verify the log and a certificate are used
	NewPlace func(context.Context) (*Place, error)
	Program  string // how the mayfly of this sandbox is run in a terminal

	server *http.Server
	pages  *template.Template

	mu     sync.Mutex // guards the fields below, and lets one thing happen at a time
	story  *Story
	told   []scene
	drills map[string]scene
}

// scene is a step or a drill, and what was seen of it.
type scene struct {
	N           int
	Name, Title string
	Command     string
	Should      string
	Ran         bool
	Lines       []string
	Problem     string // what was not as it should have been
	Took        time.Duration
	Next        bool // the step that comes next
}

// Listen serves the playground on a free loopback port and gives its address.
func (p *Playground) Listen() (string, error) {
	var err error
	if p.pages, err = template.New("").ParseFS(pageFiles, "pages/*.html"); err != nil {
		return "", err
	}
	p.drills = map[string]scene{}
	p.begin()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", p.index)
	mux.HandleFunc("GET /drills", p.drillsPage)
	mux.HandleFunc("GET /play", p.play)
	mux.HandleFunc("GET /your-agent", p.yourAgent)
	mux.HandleFunc("GET /page.css", func(w http.ResponseWriter, r *http.Request) { http.ServeFileFS(w, r, pageFiles, "pages/page.css") })
	mux.HandleFunc("GET /page.js", func(w http.ResponseWriter, r *http.Request) { http.ServeFileFS(w, r, pageFiles, "pages/page.js") })
	mux.HandleFunc("POST /steps/next", p.nextStep)
	mux.HandleFunc("POST /steps/again", p.again)
	mux.HandleFunc("POST /drills/{name}", p.drill)
	mux.HandleFunc("POST /play", p.play)
	host := l.Addr().String()
	p.server = &http.Server{Handler: p.guard(host, mux), ReadHeaderTimeout: 5 * time.Second}
	go p.server.Serve(l) // ends with ErrServerClosed at Close
	return "http://" + host + "/", nil
}

// Close stops it.
func (p *Playground) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := p.server.Shutdown(ctx); err != nil {
		return p.server.Close()
	}
	return nil
}

// guard answers only for this address, and takes nothing from pages of others.
func (p *Playground) guard(host string, next http.Handler) http.Handler {
	cross := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Host != host {
			http.Error(w, "this is the sandbox at "+host, http.StatusForbidden)
			return
		}
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; form-action 'self'; frame-ancestors 'none'; base-uri 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-store")
		cross.Handler(next).ServeHTTP(w, r)
	})
}

// begin starts the story anew. The caller holds the lock, or nobody else is there.
func (p *Playground) begin() {
	p.story = &Story{World: p.World, Out: io.Discard, VerifyLog: p.Story.VerifyLog, Certificate: p.Story.Certificate}
	p.told = nil
	for i, st := range p.story.steps() {
		p.told = append(p.told, scene{N: i + 1, Title: st.title, Command: st.command, Next: i == 0})
	}
}

// show answers with a page.
func (p *Playground) show(w http.ResponseWriter, name string, data any) {
	var out bytes.Buffer
	if err := p.pages.ExecuteTemplate(&out, name, data); err != nil {
		http.Error(w, "the page could not be made: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = out.WriteTo(w) // a page that is not taken is nobody's loss
}

// page is what every page is given.
type page struct {
	Here  string
	World *World
	Body  any
}

func (p *Playground) index(w http.ResponseWriter, _ *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.show(w, "index.html", page{"story", p.World, p.told})
}

func (p *Playground) drillsPage(w http.ResponseWriter, _ *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []scene
	for i, d := range Drills() {
		sc := p.drills[d.Name]
		sc.N, sc.Name, sc.Title, sc.Should = i+1, d.Name, d.Title, d.Should
		list = append(list, sc)
	}
	p.show(w, "drills.html", page{"drills", p.World, list})
}

// line is a way to connect an agent, to be copied.
type line struct{ Title, Text, Command string }

func (p *Playground) yourAgent(w http.ResponseWriter, _ *http.Request) {
	mayfly := p.Program + " --config " + p.World.Config
	const inspector = "npx -y @modelcontextprotocol/inspector --cli"
	p.show(w, "your-agent.html", page{"your-agent", p.World, []line{
		{"An agent that you start", "It finds the bank at $MAYFLY_MCP_URL/bank, and has neither key nor token.",
			mayfly + " run --profile your-agent -- your-agent"},
		{"A client that starts its servers", "For the list of MCP servers of a desktop client or an editor.",
			fmt.Sprintf(`{"mcpServers": {"bank": {"command": %q, "args": ["--config", %q, "mcp", "--profile", "your-agent", "--target", "bank"]}}}`, p.Program, p.World.Config)},
		{"A server of yours, on standard input and output", "It runs here, and nothing reaches it but what is decided on and recorded. In a client's list of servers, this takes its place.",
			mayfly + " mcp --profile your-agent --target notes -- npx -y @modelcontextprotocol/server-everything stdio"},
		{"The MCP inspector, as part of a task", "No token is shown to it.",
			mayfly + " run --profile your-agent -- sh -c '" + inspector + " $MAYFLY_MCP_URL/bank --transport http --method tools/list'"},
		{"The MCP inspector, with a token of its own", "For whatever speaks to the gateway by itself and knows no DPoP; the profile says that this may be.",
			mayfly + " run --bearer --token-for mcp/bank --profile your-agent -- sh -c '" + inspector + " " + p.World.Public +
				`/mcp/bank --transport http --method tools/list --header "Authorization: Bearer $(cat $MAYFLY_TOKEN_FILE)"'`},
	}})
}

// ran does something that says what it sees, and takes it down.
func (sc *scene) ran(do func(io.Writer) error) {
	var out bytes.Buffer
	began := time.Now()
	err := do(&out)
	sc.Ran, sc.Took, sc.Lines, sc.Problem = true, time.Since(began).Round(time.Millisecond), nil, ""
	for line := range strings.Lines(out.String()) {
		sc.Lines = append(sc.Lines, strings.TrimSpace(line))
	}
	if err != nil {
		sc.Problem = err.Error()
	}
}

func (p *Playground) nextStep(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	ctx, cancel := context.WithTimeout(r.Context(), deskWithin)
	defer cancel()
	for i := range p.told {
		sc := &p.told[i]
		if !sc.Next {
			continue
		}
		sc.ran(func(out io.Writer) error {
			p.story.Out = out
			return p.story.steps()[i].do(ctx)
		})
		sc.Next = false
		if sc.Problem == "" && i+1 < len(p.told) {
			p.told[i+1].Next = true
		}
		http.Redirect(w, r, fmt.Sprintf("/#step-%d", sc.N), http.StatusSeeOther)
		return
	}
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

func (p *Playground) again(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.begin()
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

func (p *Playground) drill(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, d := range Drills() {
		if d.Name != r.PathValue("name") {
			continue
		}
		// A drill that began is ended by itself: whoever left is not waited for.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), deskWithin)
		defer cancel()
		var sc scene
		sc.ran(func(out io.Writer) (err error) {
			place, err := p.NewPlace(ctx)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, place.Stop()) }()
			return d.Run(ctx, place, out)
		})
		p.drills[d.Name] = sc
		http.Redirect(w, r, "/drills#"+d.Name, http.StatusSeeOther)
		return
	}
	http.NotFound(w, r)
}

// played is a call somebody made up, and what came of it.
type played struct {
	Cedar, Call, Arguments string
	Problem                string
	Ran                    bool
	Answer                 string
	Why                    client.Explanation
}

// examplePolicy is what free play begins with.
const examplePolicy = `// Nothing more is paid to globex.
@id("not-globex")
forbid (principal is Mayfly::Agent, action == Mayfly::Action::"use", resource == Mayfly::Tool::"bank/pay_invoice")
when { context.arguments has vendor && context.arguments.vendor == "globex" };
`

// calls are what can be called in free play.
var calls = []string{"bank pay_invoice", "bank list_invoices", "mail read_mail", "mail send_mail"}

func (p *Playground) play(w http.ResponseWriter, r *http.Request) {
	b := played{Cedar: examplePolicy, Call: calls[0], Arguments: `{"invoice": "inv-2", "vendor": "globex", "amount": 40}`}
	if r.Method == http.MethodPost {
		r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
		b = played{Cedar: r.PostFormValue("cedar"), Call: r.PostFormValue("call"), Arguments: r.PostFormValue("arguments"), Ran: true}
		p.mu.Lock()
		defer p.mu.Unlock()
		if err := p.try(r.Context(), &b); err != nil {
			b.Problem = err.Error()
		}
	}
	p.show(w, "play.html", page{"play", p.World, struct {
		played
		Calls []string
	}{b, calls}})
}

func (p *Playground) try(ctx context.Context, b *played) (err error) {
	var arguments map[string]any
	if err := json.Unmarshal([]byte(b.Arguments), &arguments); err != nil {
		return fmt.Errorf("the arguments are no JSON object: %w", err)
	}
	target, tool, _ := strings.Cut(b.Call, " ")
	place, err := p.NewPlace(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, place.Stop()) }()
	b.Answer, b.Why, err = place.Try(ctx, b.Cedar, target, tool, arguments)
	return err
}
