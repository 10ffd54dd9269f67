package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/client"
	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// Story is what the sandbox shows: each step does something real through the
// public interfaces and checks what came of it.
type Story struct {
	World *World
	Out   io.Writer
	// Bold and Dim dress text for a terminal; nil leaves it as it is.
	Bold, Dim func(string) string
	// VerifyLog runs `mayfly log verify` over a copy of the store, with one byte
	// of one record flipped first where flip is set, and gives what it printed
	// and whether it passed.
	VerifyLog func(ctx context.Context, flip bool) (said string, ok bool, err error)
	// Certificate runs `mayfly certificate` as the human with the token as, checks
	// what it gives with the server's public keys, and gives what it printed and
	// whether it is final.
	Certificate func(ctx context.Context, as string, task mayfly.TaskID) (said string, final bool, err error)

	alice *client.Session // the invoice agent's task
	child *client.Session // the reader's, below it
}

// step is one scene: a title, the command that does the same by hand, and the
// scene itself, which says what it saw and fails if that is not what it should
// have been.
type step struct {
	title   string
	command string
	do      func(context.Context) error
}

// steps are the whole story, in order: each builds on those before it.
func (s *Story) steps() []step {
	return []step{
		{"A task is opened for Alice", "mayfly run --profile invoice-agent --can mcp:bank:list_invoices --can mcp:bank:pay_invoice " +
			"--purpose \"Pay this week's invoices\" -- your-agent", s.open},
		{"It uses a real tool", "tools/call pay_invoice {invoice: inv-1, vendor: acme, amount: 120}", s.allowed},
		{"It asks for too much, and is told why not", "tools/call pay_invoice {invoice: inv-3, vendor: initech, amount: 4800}", s.denied},
		{"It never holds the bank's key", "GET " + s.World.Public + "/http/desk/v1/tickets", s.credential},
		{"A sub-agent asks for more than its parent has", "mayfly delegate --to reader-agent --can mcp:bank:delete_vendor --purpose ...", s.widened},
		{"It gets the narrower grant, and works", "mayfly delegate --to reader-agent --can mcp:bank:list_invoices --purpose ...", s.narrowed},
		{"A larger payment waits for a human, and fits one call", "mayfly approvals approve <id>   # as bob, of finance-leads", s.approved},
		{"It reads what a stranger wrote, and then nothing leaves", "mayfly explain <decision>", s.contained},
		{"The task completes, and everything it had is over", "mayfly complete <task>", s.completed},
		{"A signed account says how it ended", "mayfly certificate <task> -o task.jwt; mayfly log verify task.jwt --jwks jwks.json", s.certified},
		{"Anyone can check the record", "mayfly log verify", s.verified},
		{"One flipped byte is found, and named", "mayfly log verify", s.flipped},
	}
}

// Tell tells the whole story and stops at the first step that differs from what
// it should be.
func (s *Story) Tell(ctx context.Context) error {
	if s.Bold == nil {
		s.Bold = func(t string) string { return t }
	}
	if s.Dim == nil {
		s.Dim = func(t string) string { return t }
	}
	for n, st := range s.steps() {
		fmt.Fprintf(s.Out, "\n%s\n", s.Bold(fmt.Sprintf("%d  %s", n+1, st.title)))
		fmt.Fprintf(s.Out, "   %s\n", s.Dim("$ "+st.command))
		if err := st.do(ctx); err != nil {
			return fmt.Errorf("step %d, %s: %w", n+1, strings.ToLower(st.title), err)
		}
	}
	fmt.Fprintln(s.Out)
	return nil
}

func (s *Story) say(format string, args ...any) {
	for line := range strings.Lines(fmt.Sprintf(format, args...)) {
		fmt.Fprintf(s.Out, "   %s\n", strings.TrimRight(line, "\n"))
	}
}

// open opens Alice's task for the invoice agent, which brings its own evidence
// and its own key.
func (s *Story) open(ctx context.Context) (err error) {
	s.alice, err = s.openAs(ctx, "invoice-agent", "Pay this week's invoices",
		"mcp:bank:list_invoices", "mcp:bank:pay_invoice", "mcp:mail:read_mail", "mcp:mail:send_mail", "http:desk:GET:/v1/tickets")
	if err != nil {
		return err
	}
	t, err := s.alice.API().Task(ctx, s.alice.Task())
	if err != nil {
		return err
	}
	if t.Root.Subject != "alice@example.org" || t.State != mayfly.Live {
		return fmt.Errorf("the task is %s for %s", t.State, t.Root.Subject)
	}
	s.say("identity  %s", t.Identity)
	s.say("for       %s (%s), who asked for: %s", t.Root.Subject, t.Root.Kind, t.Purpose.Text)
	s.say("may       %s", grantList(t.Grants))
	s.say("until     %s at the latest; sooner if it goes quiet for %s", clockTime(t.Deadline), time.Until(t.IdleUntil).Round(time.Second))
	return nil
}

// openAs opens a task of a profile for Alice, with these grants.
func (s *Story) openAs(ctx context.Context, profile, purpose string, can ...string) (*client.Session, error) {
	c, err := client.New(client.Options{Address: s.World.Public})
	if err != nil {
		return nil, err
	}
	alice, err := s.World.Token("alice")
	if err != nil {
		return nil, err
	}
	agent, err := s.World.Token("agent")
	if err != nil {
		return nil, err
	}
	key, err := client.NewKey()
	if err != nil {
		return nil, err
	}
	grants, err := parseGrants(can...)
	if err != nil {
		return nil, err
	}
	return c.Open(ctx, client.ExchangeRequest{
		SubjectToken: alice, SubjectTokenType: client.TypeJWT,
		ActorToken: agent, ActorTokenType: client.TypeJWT,
		Profile: profile, Purpose: purpose, Grants: grants, Key: key,
	}, nil)
}

// allowed makes one call that every term of the decision agrees to.
func (s *Story) allowed(ctx context.Context) error {
	r, err := s.call(ctx, s.alice, "pay_invoice", map[string]any{"invoice": "inv-1", "vendor": "acme", "amount": 120})
	if err != nil {
		return err
	}
	if r.IsError {
		return fmt.Errorf("refused: %s", text(r))
	}
	s.say("the bank answered: %s", text(r))
	s.say("decision  %v, recorded before the bank saw a byte", r.Meta["mayfly/decision"])
	return nil
}

// denied makes one call over the limit of the grant.
func (s *Story) denied(ctx context.Context) error {
	r, err := s.call(ctx, s.alice, "pay_invoice", map[string]any{"invoice": "inv-3", "vendor": "initech", "amount": 4800})
	if err != nil {
		return err
	}
	if !r.IsError {
		return errors.New("the bank was asked to pay 4800")
	}
	term := fmt.Sprint(r.Meta["mayfly/term"])
	if term != string(mayfly.TermToken) { // its token says the limit already
		return fmt.Errorf("the term that denied is %q", term)
	}
	s.say("denied by %q: %s", term, text(r))
	return nil
}

// credential calls the HTTP API, which lets in only the company's own key.
func (s *Story) credential(ctx context.Context) error {
	hc := &http.Client{Transport: s.alice.Transport()}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.World.Public+"/http/desk/v1/tickets", nil)
	if err != nil {
		return err
	}
	resp, err := hc.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return client.ReadError(resp)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	if err != nil {
		return err
	}
	s.say("the desk answered: %s", strings.TrimSpace(string(body)))
	s.say("the key it wanted was attached on the way; the agent's own token stayed behind")
	return nil
}

// widened asks for a child that may do what its parent may not.
func (s *Story) widened(ctx context.Context) error {
	_, err := s.delegate(ctx, "mcp:bank:delete_vendor")
	e := mayfly.AsError(err)
	if err == nil || e.Kind == mayfly.Internal {
		return fmt.Errorf("a child got more than its parent: %v", err)
	}
	s.say("refused: %s", e.Message)
	return nil
}

// narrowed opens a child with less, and lets it work.
func (s *Story) narrowed(ctx context.Context) error {
	child, err := s.delegate(ctx, "mcp:bank:list_invoices")
	if err != nil {
		return err
	}
	s.child = child
	r, err := s.call(ctx, child, "list_invoices", map[string]any{})
	if err != nil {
		return err
	}
	if r.IsError {
		return fmt.Errorf("refused: %s", text(r))
	}
	t, err := child.API().Task(ctx, child.Task())
	if err != nil {
		return err
	}
	s.say("chain     %s", strings.Join(t.Chain, " > "))
	s.say("may       %s", grantList(t.Grants))
	s.say("the bank answered it: %s", text(r))
	_, err = s.call(ctx, child, "pay_invoice", map[string]any{"invoice": "inv-2", "vendor": "globex", "amount": 1})
	if err == nil {
		return errors.New("the child paid an invoice, which it was not granted")
	}
	s.say("and paying, which its parent may do, it may not")
	return nil
}

// approved makes a payment that needs a yes of finance: it waits, Bob says yes,
// the yes fits no other call, and is used once.
func (s *Story) approved(ctx context.Context) error {
	pay := func(amount int) (*mcp.CallToolResult, error) {
		return s.call(ctx, s.alice, "pay_invoice", map[string]any{"invoice": "inv-2", "vendor": "globex", "amount": amount})
	}
	r, err := pay(340)
	if err != nil {
		return err
	}
	next, _ := r.Meta["mayfly/next"].(map[string]any)
	id, _ := next["approval"].(string)
	if !r.IsError || r.Meta["mayfly/term"] != string(mayfly.TermApproval) || id == "" {
		return fmt.Errorf("a payment of 340 is answered with %v", r.Meta)
	}
	s.say("340 to globex waits: %s", text(r))

	token, err := s.World.OperatorToken("bob")
	if err != nil {
		return err
	}
	bob, err := client.New(client.Options{Address: s.World.Public, Token: client.Bearer(token)})
	if err != nil {
		return err
	}
	defer bob.Close()
	asked, err := bob.Approval(ctx, id)
	if err != nil {
		return err
	}
	s.say("bob reads  %s", asked.Action)
	s.say("           %s", asked.Request)
	if _, err := bob.Approve(ctx, id, ""); err != nil {
		return err
	}
	s.say("bob says yes")

	if r, err = pay(341); err != nil {
		return err
	}
	if !r.IsError {
		return errors.New("341 was paid with the approval for 340")
	}
	s.say("341 instead: %s", text(r))
	if r, err = pay(340); err != nil {
		return err
	}
	if r.IsError {
		return fmt.Errorf("the approved payment was refused: %s", text(r))
	}
	s.say("340, as approved: %s", text(r))
	if r, err = pay(340); err != nil {
		return err
	}
	if !r.IsError {
		return errors.New("one approval paid twice")
	}
	s.say("and once more: it would have to be approved again")
	return nil
}

// contained reads mail from outside, and then tries to send some.
func (s *Story) contained(ctx context.Context) error {
	r, err := s.callAt(ctx, s.alice, "mail", "read_mail", map[string]any{})
	if err != nil {
		return err
	}
	if r.IsError {
		return fmt.Errorf("refused: %s", text(r))
	}
	s.say("it reads: %s", text(r))
	r, err = s.callAt(ctx, s.alice, "mail", "send_mail", map[string]any{"to": "books@initech.example", "text": "all our invoices"})
	if err != nil {
		return err
	}
	if !r.IsError || r.Meta["mayfly/term"] != string(mayfly.TermPolicy) {
		return fmt.Errorf("the mail went out: %s", text(r))
	}
	s.say("it does as it was told, and is refused: %s", text(r))
	decision, _ := r.Meta["mayfly/decision"].(string)
	why, err := s.alice.API().Explain(ctx, decision)
	if err != nil {
		return err
	}
	if len(why.Policies) != 1 || why.Policies[0].ID != "nothing-leaves" {
		return fmt.Errorf("what explains it is %v", why.Policies)
	}
	s.say("%s:%d says", why.Policies[0].File, why.Policies[0].Line)
	for line := range strings.Lines(why.Policies[0].Text) {
		s.say("  %s", strings.TrimRight(line, "\n"))
	}
	return nil
}

// completed ends Alice's task and shows that nothing of it is left.
func (s *Story) completed(ctx context.Context) error {
	t, err := s.alice.Complete(ctx)
	if err != nil {
		return err
	}
	s.say("%s is %s (%s)", t.ID, t.State, t.Reason)
	for _, left := range []struct {
		who     string
		session *client.Session
	}{{"its token", s.alice}, {"its sub-agent's token", s.child}} {
		if _, err := s.call(ctx, left.session, "list_invoices", map[string]any{}); err == nil {
			return fmt.Errorf("%s still works", left.who)
		}
		s.say("%s is dead", left.who)
	}
	return nil
}

// certified has Alice ask how her task ended.
func (s *Story) certified(ctx context.Context) error {
	alice, err := s.World.Token("alice")
	if err != nil {
		return err
	}
	said, final, err := s.Certificate(ctx, alice, s.alice.Task())
	if err != nil {
		return err
	}
	s.say("%s", said)
	if !final {
		return errors.New("the certificate is not final")
	}
	return nil
}

func (s *Story) verified(ctx context.Context) error {
	said, ok, err := s.VerifyLog(ctx, false)
	if err != nil {
		return err
	}
	s.say("%s", said)
	if !ok {
		return errors.New("the log does not verify")
	}
	return nil
}

func (s *Story) flipped(ctx context.Context) error {
	said, ok, err := s.VerifyLog(ctx, true)
	if err != nil {
		return err
	}
	s.say("%s", said)
	if ok {
		return errors.New("a flipped byte went unnoticed")
	}
	return nil
}

// delegate opens a reader below Alice's task, with one grant.
func (s *Story) delegate(ctx context.Context, grant string) (*client.Session, error) {
	return s.delegateTo(ctx, "reader-agent", "Read the open invoices", grant)
}

// delegateTo opens an agent below Alice's task: a process of its own, with its own
// evidence and key, to which the parent hands over by a ticket.
func (s *Story) delegateTo(ctx context.Context, profile, purpose string, can ...string) (*client.Session, error) {
	c, err := client.New(client.Options{Address: s.World.Public})
	if err != nil {
		return nil, err
	}
	grants, err := parseGrants(can...)
	if err != nil {
		return nil, err
	}
	ticket, err := s.alice.API().Delegate(ctx, client.DelegateRequest{
		Profile: profile, Purpose: purpose, Grants: grants,
	})
	if err != nil {
		return nil, err
	}
	agent, err := s.World.Token("agent")
	if err != nil {
		return nil, err
	}
	key, err := client.NewKey()
	if err != nil {
		return nil, err
	}
	return c.Open(ctx, client.ExchangeRequest{
		SubjectToken: ticket.Ticket.Reveal(), SubjectTokenType: client.TypeTicket,
		ActorToken: agent, ActorTokenType: client.TypeJWT, Key: key,
	}, nil)
}

// call is one tools/call of the bank by a real MCP client.
func (s *Story) call(ctx context.Context, as *client.Session, tool string, args map[string]any) (*mcp.CallToolResult, error) {
	return s.callAt(ctx, as, "bank", tool, args)
}

func (s *Story) callAt(ctx context.Context, as *client.Session, target, tool string, args map[string]any) (*mcp.CallToolResult, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	agent := mcp.NewClient(&mcp.Implementation{Name: "demo-agent", Version: "1"}, nil)
	session, err := agent.Connect(ctx, &mcp.StreamableClientTransport{
		Endpoint: s.World.Public + "/mcp/" + target, HTTPClient: &http.Client{Transport: as.Transport()}, MaxRetries: -1,
	}, nil)
	if err != nil {
		return nil, err
	}
	r, err := session.CallTool(ctx, &mcp.CallToolParams{Name: tool, Arguments: args})
	return r, errors.Join(err, session.Close())
}

func parseGrants(short ...string) ([]mayfly.Grant, error) {
	grants := make([]mayfly.Grant, len(short))
	for i, s := range short {
		g, err := mayfly.ParseGrant(s)
		if err != nil {
			return nil, err
		}
		grants[i] = g
	}
	return grants, nil
}

func grantList(grants []mayfly.Grant) string {
	var b strings.Builder
	for i, g := range grants {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(g.String())
		if g.Limited() {
			if object, err := json.Marshal(g); err == nil {
				var limits struct {
					Where  json.RawMessage `json:"where"`
					Budget json.RawMessage `json:"budget"`
				}
				if json.Unmarshal(object, &limits) == nil {
					fmt.Fprintf(&b, " where %s", limits.Where)
					if limits.Budget != nil {
						fmt.Fprintf(&b, " budget %s", limits.Budget)
					}
				}
			}
		}
	}
	return b.String()
}

// text is what a tool's result says.
func text(r *mcp.CallToolResult) string {
	var parts []string
	for _, c := range r.Content {
		if t, ok := c.(*mcp.TextContent); ok {
			parts = append(parts, t.Text)
		}
	}
	return strings.Join(parts, " ")
}

func clockTime(t time.Time) string { return t.Local().Format("15:04:05") }
