package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/client"
)

// Place is a world of its own with a running server, for one drill.
type Place struct {
	World *World
	// SetClock puts the server's clock ahead of the machine's, or behind.
	SetClock func(ahead time.Duration)
	// CutStore takes the server's store away, for ever.
	CutStore func() error
	// FillDisk has every write to a file fail as on a full disk, of this process
	// altogether, or ends that.
	FillDisk func(full bool) error
	// Bundle is the hash of the rules in force.
	Bundle func() string
	// Check runs `mayfly check` and gives what it printed, "" if all is well.
	Check func() string
	Stop  func() error
}

// Drill is one attack or outage: what should happen, and something that makes it
// happen and looks.
type Drill struct {
	Name   string
	Title  string
	Should string // what should happen
	run    func(context.Context, *drilling) error
}

// drilling is a drill on its way.
type drilling struct {
	*Story
	place *Place
}

// DrillTime is how long one drill may take.
const DrillTime = 60 * time.Second

// Drills are all there are.
func Drills() []Drill {
	return []Drill{
		{"stolen-token", "A stolen token", "A token is worth nothing without the agent's key, which never leaves the agent.", stolenToken},
		{"replayed-proof", "A replayed proof", "A proof that was overheard is good once: the second use is refused.", replayedProof},
		{"spliced-chain", "A spliced chain", "Parts of two chains do not make a third: nobody borrows somebody else's delegator.", splicedChain},
		{"injected-agent", "An agent that a stranger talks to", "It cannot get more than it was given, hand on more, or send anything out once it has read what a stranger wrote.", injectedAgent},
		{"poisoned-tool", "A tool that changes its definition", "The changed tool is hidden and refused until the operator has looked; the others go on.", poisonedTool},
		{"clock-skew", "A clock that is wrong", "A server whose clock was set back issues nothing; a clock that jumps ahead ends tasks early, never late; an agent's old proof is refused.", clockSkew},
		{"idp-outage", "The identity provider is down", "Tasks that live go on; openings that need the provider's word are refused.", idpOutage},
		{"broken-policy", "A policy is broken", "A file that does not check is never in force; a policy that errs while deciding refuses.", brokenPolicy},
		{"full-disk", "The disk is full", "What cannot be recorded does not happen, and is refused as unavailable; when there is room again, it goes on by itself.", fullDisk},
		{"store-cut-off", "The store is cut off", "The server denies everything within 2 seconds.", storeCutOff},
	}
}

// Run runs d in a place of its own and says what it saw. The error says what was
// not as it should have been.
func (d Drill) Run(ctx context.Context, place *Place, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, DrillTime)
	defer cancel()
	return d.run(ctx, &drilling{&Story{World: place.World, Out: out}, place})
}

// begin opens Alice's task.
func (d *drilling) begin(ctx context.Context) error {
	quiet := &Story{World: d.World, Out: io.Discard}
	err := quiet.open(ctx)
	d.alice = quiet.alice
	return err
}

// raw sends one request to the ticket desk with exactly these headers, and gives
// the status and what a refusal says.
func (d *drilling) raw(ctx context.Context, headers map[string]string) (status int, said, nonce string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.deskURL(), nil)
	if err != nil {
		return 0, "", "", err
	}
	for name, value := range headers {
		req.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		said = client.ReadError(resp).Message
	}
	return resp.StatusCode, said, resp.Header.Get("DPoP-Nonce"), nil
}

func (d *drilling) deskURL() string { return d.World.Public + "/http/desk/v1/tickets" }

// desk is a token for the desk, and a proof for one request of it.
func (d *drilling) desk(ctx context.Context, s *client.Session, key *client.Key, at time.Time) (token, proof string, err error) {
	t, err := s.Token(ctx, d.World.Public+"/http/desk")
	if err != nil {
		return "", "", err
	}
	token = t.Text.Reveal()
	// The server says which nonce it wants in its first answer.
	_, _, nonce, err := d.raw(ctx, map[string]string{"Authorization": "DPoP " + token})
	if err != nil {
		return "", "", err
	}
	proof, err = key.Proof(client.ProofFor{Method: http.MethodGet, URL: d.deskURL(), Nonce: nonce, AccessToken: token, At: at})
	return token, proof, err
}

// refusedRaw checks that a raw request is refused with a status.
func (d *drilling) refusedRaw(ctx context.Context, what string, want int, headers map[string]string) error {
	status, said, _, err := d.raw(ctx, headers)
	if err != nil {
		return err
	}
	if status != want {
		return fmt.Errorf("%s: status %d, want %d", what, status, want)
	}
	d.say("%s: %d, %s", what, status, said)
	return nil
}

// works checks that a task can still act.
func (d *drilling) works(ctx context.Context, what string, s *client.Session) error {
	r, err := d.call(ctx, s, "list_invoices", map[string]any{})
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if r.IsError {
		return fmt.Errorf("%s: refused: %s", what, text(r))
	}
	d.say("%s: allowed", what)
	return nil
}

func stolenToken(ctx context.Context, d *drilling) error {
	if err := d.begin(ctx); err != nil {
		return err
	}
	token, _, err := d.desk(ctx, d.alice, d.alice.Key(), time.Now())
	if err != nil {
		return err
	}
	thief, err := client.NewKey()
	if err != nil {
		return err
	}
	_, proof, err := d.desk(ctx, d.alice, thief, time.Now())
	if err != nil {
		return err
	}
	d.say("a thief has the agent's token for the ticket desk, and not its key")
	for _, try := range []struct {
		what    string
		headers map[string]string
	}{
		{"as a bearer token", map[string]string{"Authorization": "Bearer " + token}},
		{"with no proof", map[string]string{"Authorization": "DPoP " + token}},
		{"with a proof of the thief's own key", map[string]string{"Authorization": "DPoP " + token, "DPoP": proof}},
	} {
		if err := d.refusedRaw(ctx, try.what, http.StatusUnauthorized, try.headers); err != nil {
			return err
		}
	}
	return d.works(ctx, "the agent itself", d.alice)
}

func replayedProof(ctx context.Context, d *drilling) error {
	if err := d.begin(ctx); err != nil {
		return err
	}
	token, proof, err := d.desk(ctx, d.alice, d.alice.Key(), time.Now())
	if err != nil {
		return err
	}
	both := map[string]string{"Authorization": "DPoP " + token, "DPoP": proof}
	status, said, _, err := d.raw(ctx, both)
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return fmt.Errorf("the agent's own request was refused: %s", said)
	}
	d.say("the agent's own request: %d", status)
	return d.refusedRaw(ctx, "the same request, overheard and sent again", http.StatusUnauthorized, both)
}

func splicedChain(ctx context.Context, d *drilling) error {
	if err := d.begin(ctx); err != nil {
		return err
	}
	other := &Story{World: d.World, Out: io.Discard}
	if err := other.open(ctx); err != nil {
		return err
	}
	c, err := client.New(client.Options{Address: d.World.Public})
	if err != nil {
		return err
	}
	defer c.Close()
	victim, err := d.alice.Token(ctx, "")
	if err != nil {
		return err
	}
	own, err := other.alice.Token(ctx, "")
	if err != nil {
		return err
	}
	bob, err := d.World.OperatorToken("bob")
	if err != nil {
		return err
	}
	agent, err := d.World.Token("agent")
	if err != nil {
		return err
	}
	for _, try := range []struct {
		what string
		r    client.ExchangeRequest
	}{
		{"a sub-agent of somebody else's task, with one's own key", client.ExchangeRequest{
			SubjectToken: victim.Text.Reveal(), SubjectTokenType: client.TypeAccessToken, ActorToken: agent, ActorTokenType: client.TypeJWT,
			Profile: "reader-agent", Purpose: "spliced", Key: other.alice.Key(),
		}},
		{"one's own task as the agent of another's", client.ExchangeRequest{
			SubjectToken: victim.Text.Reveal(), SubjectTokenType: client.TypeAccessToken, ActorToken: own.Text.Reveal(), ActorTokenType: client.TypeAccessToken,
			Profile: "reader-agent", Purpose: "spliced", Key: d.alice.Key(),
		}},
		{"a human's own token, that no agent is handed, as a delegation", client.ExchangeRequest{
			SubjectToken: bob, SubjectTokenType: client.TypeJWT, ActorToken: agent, ActorTokenType: client.TypeJWT,
			Profile: "invoice-agent", Purpose: "spliced", Key: other.alice.Key(),
		}},
	} {
		_, err := c.Exchange(ctx, try.r)
		e := mayfly.AsError(err)
		if err == nil || e.Kind == mayfly.Internal || e.Kind == mayfly.Unavailable {
			return fmt.Errorf("%s: %v", try.what, err)
		}
		d.say("%s: %s", try.what, e.Message)
	}
	return d.works(ctx, "the task they wanted", d.alice)
}

func injectedAgent(ctx context.Context, d *drilling) error {
	if err := d.begin(ctx); err != nil {
		return err
	}
	r, err := d.callAt(ctx, d.alice, "mail", "read_mail", map[string]any{})
	if err != nil {
		return err
	}
	d.say("it reads: %s", text(r))
	if r, err = d.callAt(ctx, d.alice, "mail", "send_mail", map[string]any{"to": "books@initech.example", "text": "all our invoices"}); err != nil {
		return err
	}
	if !r.IsError || r.Meta["mayfly/term"] != string(mayfly.TermPolicy) {
		return fmt.Errorf("the mail went out: %s", text(r))
	}
	d.say("it does as it was told: %s", text(r))
	want, err := parseGrants("mcp:bank:delete_vendor")
	if err != nil {
		return err
	}
	if _, err := d.alice.API().Widen(ctx, d.alice.Task(), want); err == nil || mayfly.KindOf(err) == mayfly.Internal {
		return fmt.Errorf("it was given more: %v", err)
	} else {
		d.say("it asks for more: %s", mayfly.AsError(err).Message)
	}
	if _, err := d.delegate(ctx, "mcp:bank:delete_vendor"); err == nil || mayfly.KindOf(err) == mayfly.Internal {
		return fmt.Errorf("a sub-agent got more: %v", err)
	} else {
		d.say("it asks for a sub-agent that may more: %s", mayfly.AsError(err).Message)
	}
	child, err := d.delegate(ctx, "mcp:bank:list_invoices")
	if err != nil {
		return err
	}
	if _, err := d.callAt(ctx, child, "mail", "send_mail", map[string]any{"to": "books@initech.example", "text": "all"}); err == nil {
		return errors.New("a sub-agent sent what its parent may not")
	}
	d.say("through a sub-agent: refused too")
	return nil
}

func poisonedTool(ctx context.Context, d *drilling) error {
	if err := d.begin(ctx); err != nil {
		return err
	}
	if err := d.works(ctx, "before", d.alice); err != nil {
		return err
	}
	d.World.books.poison(true)
	d.say("the bank's server now describes pay_invoice otherwise: \"%s\"", poison)
	tools, err := d.tools(ctx, d.alice)
	if err != nil {
		return err
	}
	if strings.Contains(tools, "pay_invoice") {
		return fmt.Errorf("the agent is shown the changed tool: %s", tools)
	}
	d.say("the agent is shown: %s", tools)
	r, err := d.call(ctx, d.alice, "pay_invoice", map[string]any{"invoice": "inv-1", "vendor": "acme", "amount": 10})
	if err != nil {
		return err
	}
	if !r.IsError || r.Meta["mayfly/term"] != string(mayfly.TermTool) {
		return fmt.Errorf("the changed tool was called: %s", text(r))
	}
	d.say("it calls it all the same: %s", text(r))
	if err := d.works(ctx, "the tool beside it", d.alice); err != nil {
		return err
	}
	d.World.books.poison(false)
	if tools, err = d.tools(ctx, d.alice); err != nil {
		return err
	}
	if strings.Contains(tools, "pay_invoice") {
		return fmt.Errorf("a server that goes back and forth is believed at once: %s", tools)
	}
	d.say("as it was again, it is not believed at once: the agent is shown %s", tools)
	// Further ahead, the agent's own proofs would be too old for the server.
	d.place.SetClock(50 * time.Second)
	err = d.until(ctx, func() bool { // after a jump of its clock a server first makes sure of its store
		tools, err = d.tools(ctx, d.alice)
		return err == nil && strings.Contains(tools, "pay_invoice")
	})
	if err != nil {
		return fmt.Errorf("the tool is as it was pinned, and hidden: %s", tools)
	}
	d.say("a minute later, the agent is shown %s", tools)
	return nil
}

// tools are the names that the bank's tools/list gives a task.
func (d *drilling) tools(ctx context.Context, as *client.Session) (string, error) {
	agent := mcp.NewClient(&mcp.Implementation{Name: "demo-agent", Version: "1"}, nil)
	session, err := agent.Connect(ctx, &mcp.StreamableClientTransport{
		Endpoint: d.World.Public + "/mcp/bank", HTTPClient: &http.Client{Transport: as.Transport()}, MaxRetries: -1,
	}, nil)
	if err != nil {
		return "", err
	}
	defer session.Close()
	list, err := session.ListTools(ctx, nil)
	if err != nil {
		return "", err
	}
	var names []string
	for _, t := range list.Tools {
		names = append(names, t.Name)
	}
	return strings.Join(names, ", "), nil
}

func clockSkew(ctx context.Context, d *drilling) error {
	if err := d.begin(ctx); err != nil {
		return err
	}
	token, proof, err := d.desk(ctx, d.alice, d.alice.Key(), time.Now().Add(-10*time.Minute))
	if err != nil {
		return err
	}
	if err := d.refusedRaw(ctx, "a proof of an agent whose clock is 10 minutes behind", http.StatusUnauthorized,
		map[string]string{"Authorization": "DPoP " + token, "DPoP": proof}); err != nil {
		return err
	}
	d.place.SetClock(-time.Hour)
	d.say("the server's clock is set back by an hour")
	late := &Story{World: d.World, Out: io.Discard}
	err = late.open(ctx)
	if mayfly.AsError(err).Kind != mayfly.Unavailable {
		return fmt.Errorf("an opening while the clock is behind: %v", err)
	}
	d.say("an opening: %s", mayfly.AsError(err).Message)
	d.place.SetClock(20 * time.Minute)
	d.say("the server's clock jumps ahead by 20 minutes, past the task's 15")
	for _, then := range []string{"the task: ", "when the clock is right again: "} {
		var over error
		if err := d.until(ctx, func() bool { // after a jump of its clock a server first makes sure of its store
			_, over = d.alice.API().Task(ctx, d.alice.Task())
			return over == nil || mayfly.KindOf(over) != mayfly.Unavailable
		}); err != nil || over == nil || mayfly.KindOf(over) == mayfly.Internal {
			return fmt.Errorf("%sit is still there: %v", then, over)
		}
		d.say("%s%s", then, mayfly.AsError(over).Message)
		d.place.SetClock(0)
	}
	return nil
}

func idpOutage(ctx context.Context, d *drilling) error {
	if err := d.begin(ctx); err != nil {
		return err
	}
	d.World.idp.fail(true)
	d.say("the provider answers nobody, and has a new key that the server does not know yet")
	if err := d.works(ctx, "the task that lives", d.alice); err != nil {
		return err
	}
	late := &Story{World: d.World, Out: io.Discard}
	err := late.open(ctx)
	if err == nil || mayfly.KindOf(err) == mayfly.Internal {
		return fmt.Errorf("an opening: %v", err)
	}
	d.say("an opening: %s", mayfly.AsError(err).Message)
	d.World.idp.fail(false)
	if err := late.open(ctx); err != nil {
		return fmt.Errorf("the provider is back: %w", err)
	}
	d.say("the provider is back: an opening is allowed")
	return d.works(ctx, "the task that lived through it", d.alice)
}

// brokenFile does not parse, erringFile errs whenever it is asked.
const (
	brokenFile = "forbid (principal, action, resource) when { context.depth > };\n"
	erringFile = "@id(\"errs\")\nforbid (principal is Mayfly::Agent, action == Mayfly::Action::\"use\", resource) when { context.depth + 9223372036854775807 + 1 > 0 };\n"
)

func brokenPolicy(ctx context.Context, d *drilling) error {
	if err := d.begin(ctx); err != nil {
		return err
	}
	file := filepath.Join(d.World.Dir, "policies", "new.cedar")
	before := d.place.Bundle()
	if err := os.WriteFile(file, []byte(brokenFile), 0o600); err != nil {
		return err
	}
	said := d.place.Check()
	if said == "" {
		return errors.New("mayfly check takes a policy that does not parse")
	}
	d.say("a policy that does not parse; mayfly check: %s", strings.TrimSpace(said))
	// The server looks every two seconds; it must have looked.
	if err := pause(ctx, 3*time.Second); err != nil {
		return err
	}
	if d.place.Bundle() != before {
		return errors.New("the broken policies are in force")
	}
	if err := d.works(ctx, "under the rules of before, which stay in force", d.alice); err != nil {
		return err
	}
	if err := os.WriteFile(file, []byte(erringFile), 0o600); err != nil {
		return err
	}
	if err := d.until(ctx, func() bool { return d.place.Bundle() != before }); err != nil {
		return errors.New("the new policies are not in force")
	}
	r, err := d.call(ctx, d.alice, "list_invoices", map[string]any{})
	if err != nil {
		return err
	}
	if !r.IsError || r.Meta["mayfly/term"] != string(mayfly.TermPolicy) {
		return fmt.Errorf("a policy errs, and the answer is %s", text(r))
	}
	d.say("a policy that errs whenever it is asked: %s", text(r))
	if err := os.Remove(file); err != nil {
		return err
	}
	if err := d.until(ctx, func() bool { return d.place.Bundle() == before }); err != nil {
		return errors.New("the old policies are not in force again")
	}
	return d.works(ctx, "without it", d.alice)
}

func fullDisk(ctx context.Context, d *drilling) error {
	if err := d.begin(ctx); err != nil {
		return err
	}
	paid := d.World.books.list()[0].Paid
	// Nothing of ours may write meanwhile, what we say included.
	if err := d.place.FillDisk(true); err != nil {
		return err
	}
	r, callErr := d.call(ctx, d.alice, "pay_invoice", map[string]any{"invoice": "inv-1", "vendor": "acme", "amount": 10})
	if err := d.place.FillDisk(false); err != nil {
		return err
	}
	switch {
	case callErr == nil && !r.IsError:
		return errors.New("the call was made although it could not be recorded")
	case d.World.books.list()[0].Paid != paid:
		return errors.New("the bank paid although the call could not be recorded")
	case callErr != nil:
		d.say("a payment while nothing can be written: %v", firstLine(callErr))
	default:
		d.say("a payment while nothing can be written: %s", text(r))
	}
	d.say("the bank saw none of it")
	var last error
	if err := d.until(ctx, func() bool { last = d.works(ctx, "there is room again", d.alice); return last == nil }); err != nil {
		return fmt.Errorf("there is room again: %w", last)
	}
	return nil
}

func storeCutOff(ctx context.Context, d *drilling) error {
	if err := d.begin(ctx); err != nil {
		return err
	}
	if err := d.works(ctx, "before", d.alice); err != nil {
		return err
	}
	if err := d.place.CutStore(); err != nil {
		return err
	}
	began := time.Now()
	if err := d.until(ctx, func() bool {
		r, err := d.call(ctx, d.alice, "list_invoices", map[string]any{})
		return err != nil || r.IsError
	}); err != nil {
		return errors.New("it still decides without its store")
	}
	took := time.Since(began)
	if took > 2*time.Second {
		return fmt.Errorf("it denies after %s", took.Round(time.Millisecond))
	}
	d.say("the store does not answer any more: a call is refused %s after", took.Round(time.Millisecond))
	if err := d.until(ctx, func() bool {
		r, err := http.Get(d.World.Public + "/readyz")
		if err != nil {
			return false
		}
		r.Body.Close()
		return r.StatusCode == http.StatusServiceUnavailable
	}); err != nil {
		return errors.New("it says that it is ready")
	}
	d.say("and it says itself that it is not ready, so that no traffic comes")
	return nil
}

// until waits for a condition, 20 seconds at most.
func (d *drilling) until(ctx context.Context, holds func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for !holds() {
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}
