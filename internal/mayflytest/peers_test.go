package mayflytest_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/client"
	"github.com/mayfly-id/mayfly/internal/mayflytest"
)

// amongPeers is mayfly.yaml where the provider and the tool are not ours.
const amongPeers = `trust_domain: example.org
issuer: %[1]q
listen: {public: %[2]q, admin: %[3]q}
store: %[4]q
keys: {seal: {file: seal.key}}
sources:
  - {name: login, kind: oidc, issuer: %[5]q, audience: mayfly, subject: human, claims: {id: email, groups: groups}}
  - {name: local, kind: unix, subject: workload}
targets:
  - {name: everything, kind: mcp, url: %[6]q}
  - {name: beside, kind: mcp, stdio: true}
`

var profilesAmongPeers = map[string]string{
	"helper.yaml": `profile: helper
owner: you@example.org
delegators: [{human: {groups: [accounts-payable]}}]
attest: [{source: local}]
grants: ["mcp:everything:echo", "mcp:everything:get-sum", "mcp:everything:get-tiny-image", "mcp:beside:echo"]
default: ["mcp:everything:echo"]
lifetime: {idle: 2m, default: 15m, max: 1h}
delegation: {depth: 1, children: 2, to: [checker]}
key: required
risk: low
`,
	"checker.yaml": `profile: checker
owner: you@example.org
delegators: [{agent: {profile: helper}}]
attest: [{source: local}]
grants: ["mcp:everything:echo", "mcp:everything:get-sum", "mcp:everything:get-tiny-image"]
default: ["mcp:everything:echo"]
lifetime: {idle: 1m, default: 5m, max: 15m}
key: required
risk: low
`,
}

// The main job on parts that nobody here wrote: an OpenID provider, at which a
// person logs in, an MCP server and an MCP client, with the real program between
// them. Everything but the client is a process of its own.
func TestAPersonsTaskUsesARealToolThroughARealLogin(t *testing.T) {
	for _, installed := range []string{"oidc-provider", "@modelcontextprotocol/server-everything"} {
		if _, err := os.Stat(filepath.Join(peers, "node_modules", installed)); err != nil {
			missing(t, "the npm peers are not installed (%v); run npm ci --prefix test/peers", err)
		}
	}
	provider := peer(t, "/.well-known/openid-configuration", "provider.mjs")
	everything := peer(t, "/mcp", "node_modules/.bin/mcp-server-everything", "streamableHttp")
	alice, bob := login(t, provider, "alice"), login(t, provider, "bob")

	// Whatever goes to the tool is seen on its way.
	origin, err := url.Parse(everything)
	must(t, err)
	tool := mayflytest.NewUpstream(t, httputil.NewSingleHostReverseProxy(origin))

	program := mayflytest.Build(t)
	mayflytest.OnEachEngine(t, func(t *testing.T, dsn string) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		i := installAmongPeers(t, program, dsn, provider, tool.URL+"/mcp")
		running := i.Serve()
		tool.Forget() // what the other engine's agents did

		// The agent is vouched for by the kernel, so tasks are opened on the
		// socket; all else goes over the public address.
		local, public := i.Operator(), i.Client()
		defer local.Close()
		defer public.Close()
		opening := func(person string, grants ...string) client.ExchangeRequest {
			key, err := client.NewKey()
			must(t, err)
			return client.ExchangeRequest{
				SubjectToken: person, SubjectTokenType: client.TypeIDToken, Key: key,
				Profile: "helper", Purpose: "Try the tools", Grants: mayflytest.Grants(t, grants...),
			}
		}
		if _, err := local.Exchange(ctx, opening(bob, "mcp:everything:echo")); mayfly.AsError(err).Term != mayfly.TermDelegator {
			t.Errorf("bob, who is not in the group: %v", err)
		}
		token, err := local.Exchange(ctx, opening(alice, "mcp:everything:echo", "mcp:everything:get-sum"))
		must(t, err)
		task := public.Resume(token, nil)
		endpoint := i.Issuer + "/mcp/everything"
		agent := connect(ctx, t, endpoint, task.Transport())
		if got := listed(ctx, t, agent); !slices.Equal(got, []string{"echo", "get-sum"}) {
			t.Errorf("the agent is shown the tools %v", got)
		}
		if all := listed(ctx, t, connect(ctx, t, everything+"/mcp", nil)); len(all) < 10 || !slices.Contains(all, "get-env") {
			t.Errorf("the server has no more than %v", all)
		}
		sum := answers(ctx, t, agent, "get-sum", map[string]any{"a": 20, "b": 22}, "42")
		denies(ctx, t, agent, "get-env", mayfly.TermToken)

		// A part of it goes to another agent, which has a key of its own.
		wide := client.DelegateRequest{Profile: "checker", Purpose: "Look around", Grants: mayflytest.Grants(t, "mcp:everything:get-tiny-image")}
		if _, err := task.API().Delegate(ctx, wide); mayfly.AsError(err).Code != "invalid_scope" {
			t.Errorf("delegating what the task does not have: %v", err)
		}
		narrow := client.DelegateRequest{Profile: "checker", Purpose: "Repeat it", Grants: mayflytest.Grants(t, "mcp:everything:echo")}
		ticket, err := task.API().Delegate(ctx, narrow)
		must(t, err)
		key, err := client.NewKey()
		must(t, err)
		token, err = local.Exchange(ctx, client.ExchangeRequest{
			SubjectToken: ticket.Ticket.Reveal(), SubjectTokenType: client.TypeTicket, Key: key,
		})
		must(t, err)
		below := public.Resume(token, nil)
		helper := connect(ctx, t, endpoint, below.Transport())
		if got := listed(ctx, t, helper); !slices.Equal(got, []string{"echo"}) {
			t.Errorf("the agent below is shown the tools %v", got)
		}
		echoed := answers(ctx, t, helper, "echo", map[string]any{"message": "mayfly"}, "Echo: mayfly")
		denied := stepsUp(ctx, t, helper, "get-sum")

		// The task ends, and with it the one below: both clients lose the session
		// they have, and get no other.
		_, err = task.Complete(ctx)
		must(t, err)
		late := &mcp.CallToolParams{Name: "echo", Arguments: map[string]any{"message": "late"}}
		for name, c := range map[string]struct {
			connected *mcp.ClientSession
			as        *client.Session
		}{"its own agent": {agent, task}, "the agent below": {helper, below}} {
			if !ends(c.connected) {
				t.Errorf("after the task the session of %s goes on", name)
			}
			if r, err := c.connected.CallTool(ctx, late); err == nil {
				t.Errorf("after the task %s is answered %+v", name, r)
			}
			if _, err := mcpTo(ctx, endpoint, c.as.Transport()); err == nil || !strings.Contains(err.Error(), "Unauthorized") {
				t.Errorf("after the task %s connects: %v", name, err)
			}
		}
		i.Eventually("both tasks are retired", func() bool {
			tasks, _, err := local.Tasks(ctx, client.Filter{State: mayfly.Retired}, "", 0)
			return err == nil && len(tasks) == 2
		})

		// Each decision leads to alice, as the provider named her.
		for decision, want := range map[string][]mayfly.TaskID{
			sum: {task.Task()}, echoed: {task.Task(), below.Task()}, denied: {task.Task(), below.Task()},
		} {
			trace, err := local.Trace(ctx, decision)
			must(t, err)
			var chain []mayfly.TaskID
			for _, link := range trace.Tasks {
				chain = append(chain, link.ID)
			}
			if trace.Subject != (client.Root{Subject: "alice@example.org", Kind: mayfly.Human, Source: "login"}) || !slices.Equal(chain, want) ||
				len(trace.Events) == 0 || trace.Events[0].Decision != decision {
				t.Errorf("decision %s leads to %+v", decision, trace)
			}
		}

		// The tool saw the two calls that were allowed, and nobody's token.
		calls := 0
		for _, seen := range tool.Requests() {
			if strings.Contains(string(seen.Body), `"tools/call"`) {
				calls++
			}
			for _, name := range []string{"Authorization", "Dpop"} {
				if seen.Header.Get(name) != "" {
					t.Errorf("the tool was shown the agent's %s", name)
				}
			}
		}
		if calls != 2 {
			t.Errorf("%d calls reached the tool", calls)
		}

		enforcesAround(ctx, t, i, alice)

		must(t, running.Stop())
		i.AuditStopped()
		if said, code := i.Mayfly("log", "verify"); code != 0 || !strings.HasPrefix(said, "ok: ") {
			t.Errorf("mayfly log verify ended with %d: %s", code, said)
		}
		for _, secret := range append(i.Handed.Tokens(), alice, bob, ticket.Ticket.Reveal()) {
			if strings.Contains(i.Said.String(), secret) {
				t.Error("the server logged a token")
			}
		}
	})
}

// enforcesAround has mayfly mcp run a real server that speaks on standard input and
// output, between it and a client that speaks to no other.
func enforcesAround(ctx context.Context, t *testing.T, i *mayflytest.Installation, person string) {
	t.Helper()
	server, err := filepath.Abs(filepath.Join(peers, "node_modules", ".bin", "mcp-server-everything"))
	must(t, err)
	cmd := exec.CommandContext(ctx, i.Program(), "--config", filepath.Join(i.Dir, "mayfly.yaml"),
		"mcp", "--profile", "helper", "--can", "mcp:beside:echo", "--target", "beside", "--", "node", server, "stdio")
	cmd.Env = append(os.Environ(), "MAYFLY_SUBJECT_TOKEN="+person)
	said := &mayflytest.Lines{}
	cmd.Stderr = said
	agent, err := mcp.NewClient(&mcp.Implementation{Name: "agent", Version: "1"}, nil).Connect(ctx, &mcp.CommandTransport{Command: cmd}, nil)
	if err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	if got := listed(ctx, t, agent); !slices.Equal(got, []string{"echo"}) {
		t.Errorf("of the server beside it the agent is shown the tools %v", got)
	}
	answers(ctx, t, agent, "echo", map[string]any{"message": "beside"}, "Echo: beside")
	denies(ctx, t, agent, "get-env", mayfly.TermToken)
	must(t, agent.Close())
}

// installAmongPeers is an installation that takes the provider's word for people
// and has one target, the tool.
func installAmongPeers(t *testing.T, program, dsn, provider, tool string) *mayflytest.Installation {
	t.Helper()
	i := mayflytest.Install(t, program, dsn)
	files := map[string]string{"mayfly.yaml": fmt.Sprintf(amongPeers,
		i.Issuer, strings.TrimPrefix(i.URL, "http://"), "unix://"+i.Socket, dsn, provider, tool)}
	for name, text := range profilesAmongPeers {
		files["profiles/"+name] = text
	}
	must(t, os.Remove(filepath.Join(i.Dir, "profiles/invoice.yaml")))
	for name, text := range files {
		must(t, os.WriteFile(filepath.Join(i.Dir, name), []byte(text), 0o600))
	}
	return i
}

// peers is where the programs are that others wrote.
const peers = "../../test/peers"

// peer runs a program of the peers on a free port until the test ends, and gives
// its origin once it answers there. It is told the port both as its last argument
// and as PORT.
func peer(t *testing.T, path string, args ...string) (origin string) {
	t.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	origin = "http://" + free.Addr().String()
	_, port, err := net.SplitHostPort(free.Addr().String())
	must(t, err)
	must(t, free.Close())

	said := &mayflytest.Lines{}
	cmd := exec.CommandContext(t.Context(), "node", append(args, port)...) // killed when the test is over
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = peers, append(os.Environ(), "PORT="+port), said, said
	must(t, cmd.Start())
	ended := make(chan error, 1)
	done := make(chan struct{})
	go func() {
		ended <- cmd.Wait()
		close(done)
	}()
	t.Cleanup(func() { <-done })
	mayflytest.Eventually(t, 30*time.Second, args[0]+" answers", func() bool {
		select {
		case err := <-ended:
			t.Fatalf("%s ended: %v\n%s", args[0], err, said)
		default:
		}
		resp, err := http.Get(origin + path)
		if err != nil {
			return false
		}
		resp.Body.Close()
		return true
	})
	return origin
}

// login is the ID token of a person who logs in at the provider as with a
// browser.
func login(t *testing.T, provider, person string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", "login.mjs", provider, person)
	said := &mayflytest.Lines{}
	cmd.Dir, cmd.Stderr = peers, said
	token, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s cannot log in: %v\n%s", person, err, said)
	}
	return strings.TrimSpace(string(token))
}

// mcpTo begins a session of the official client.
func mcpTo(ctx context.Context, endpoint string, through http.RoundTripper) (*mcp.ClientSession, error) {
	return mcp.NewClient(&mcp.Implementation{Name: "agent", Version: "1"}, nil).Connect(ctx, &mcp.StreamableClientTransport{
		Endpoint: endpoint, HTTPClient: &http.Client{Transport: through}, MaxRetries: -1,
	}, nil)
}

// connect begins a session that ends with the test.
func connect(ctx context.Context, t *testing.T, endpoint string, through http.RoundTripper) *mcp.ClientSession {
	t.Helper()
	c, err := mcpTo(ctx, endpoint, through)
	must(t, err)
	// By then the task may be over, and the end of its session is refused.
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// ends waits until the gateway has cut a session off.
func ends(c *mcp.ClientSession) bool {
	ended := make(chan struct{})
	go func() {
		_ = c.Wait() // says how
		close(ended)
	}()
	select {
	case <-ended:
		return true
	case <-time.After(10 * time.Second):
		return false
	}
}

// listed are the tools that a client is shown.
func listed(ctx context.Context, t *testing.T, c *mcp.ClientSession) (names []string) {
	t.Helper()
	for tool, err := range c.Tools(ctx, nil) {
		must(t, err)
		names = append(names, tool.Name)
	}
	slices.Sort(names)
	return names
}

// answers calls a tool that must say want, and gives the decision that let it.
func answers(ctx context.Context, t *testing.T, c *mcp.ClientSession, tool string, arguments map[string]any, want string) string {
	t.Helper()
	r, err := c.CallTool(ctx, &mcp.CallToolParams{Name: tool, Arguments: arguments})
	must(t, err)
	decision, _ := r.Meta["mayfly/decision"].(string)
	if r.IsError || decision == "" || !strings.Contains(textOf(r), want) {
		t.Fatalf("%s answers %q with %v", tool, textOf(r), r.Meta)
	}
	return decision
}

// denies calls a tool that must be refused as a tool's error, and gives the
// decision that refused it.
func denies(ctx context.Context, t *testing.T, c *mcp.ClientSession, tool string, term mayfly.Term) string {
	t.Helper()
	r, err := c.CallTool(ctx, &mcp.CallToolParams{Name: tool, Arguments: map[string]any{"a": 1, "b": 2}})
	must(t, err)
	decision, _ := r.Meta["mayfly/decision"].(string)
	if !r.IsError || decision == "" || r.Meta["mayfly/term"] != string(term) || r.Meta["mayfly/next"] == nil || textOf(r) == "" {
		t.Fatalf("%s is not denied by the %s: %q with %v", tool, term, textOf(r), r.Meta)
	}
	return decision
}

// stepsUp calls a tool that the task could have been granted: the client is told
// with 403 to ask for more. It gives the decision that refused it.
func stepsUp(ctx context.Context, t *testing.T, c *mcp.ClientSession, tool string) string {
	t.Helper()
	r, err := c.CallTool(ctx, &mcp.CallToolParams{Name: tool, Arguments: map[string]any{"a": 1, "b": 2}})
	refusal, is := errors.AsType[*jsonrpc.Error](err)
	if !is {
		t.Fatalf("%s is not refused: %v %+v", tool, err, r)
	}
	var said struct {
		Decision string
		Next     *mayfly.Next
	}
	must(t, json.Unmarshal(refusal.Data, &said))
	if said.Decision == "" || said.Next == nil || said.Next.Grant != "mcp:everything:"+tool || !strings.Contains(err.Error(), "Forbidden") {
		t.Fatalf("%s is refused with %v: %s", tool, err, refusal.Data)
	}
	return said.Decision
}

// textOf is the text in a tool's answer.
func textOf(r *mcp.CallToolResult) (text string) {
	for _, part := range r.Content {
		if t, is := part.(*mcp.TextContent); is {
			text += t.Text
		}
	}
	return text
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
