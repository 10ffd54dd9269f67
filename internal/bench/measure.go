package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/mayfly-id/mayfly/client"
)

// size prints the size of the stripped binary.
func (b *bench) size() error {
	info, err := os.Stat(b.binary)
	if err != nil {
		return err
	}
	fmt.Printf("binary, stripped: %.1f MiB (first: 60)\n", float64(info.Size())/(1<<20))
	return nil
}

// start prints cold start and idle memory with an empty store.
func (b *bench) start() error {
	var took []time.Duration
	var resident []int64
	for range *runs {
		p, err := b.product("", nil)
		if err != nil {
			return err
		}
		took = append(took, p.took)
		time.Sleep(3 * time.Second) // idle memory is what is left when it has settled
		resident = append(resident, residentOf(p.pid()))
		p.stop()
	}
	fmt.Printf("cold start, empty: %s; idle: %.1f MB (first: 40)\n", median(took).Round(time.Millisecond), float64(median(resident))/1e6)
	return nil
}

// side is one server of a comparison.
type side struct {
	name string
	pid  int
	next func(n int64) *http.Request
}

// compare loads each side in turn, as often as asked, and prints medians and the
// ratio to the first.
func compare(what string, clients int, sides []side) error {
	rates := make([][]float64, len(sides))
	p50s := make([][]time.Duration, len(sides))
	p99s := make([][]time.Duration, len(sides))
	cpus := make([][]time.Duration, len(sides))
	for range *runs {
		for i, s := range sides {
			f := load(s.pid, clients, *length, s.next)
			if f.failed > 0 {
				return fmt.Errorf("%s: %d requests failed, the first with: %s", s.name, f.failed, f.first)
			}
			rates[i], p50s[i], p99s[i], cpus[i] = append(rates[i], f.rate), append(p50s[i], f.p50), append(p99s[i], f.p99), append(cpus[i], f.cpu)
		}
	}
	for i, s := range sides {
		rate, cpu := median(rates[i]), median(cpus[i])
		fmt.Printf("%-10s %3d clients  %-10s %8.0f/s  p50 %8s  p99 %8s  cpu %8s", what, clients, s.name, rate,
			median(p50s[i]).Round(10*time.Microsecond), median(p99s[i]).Round(10*time.Microsecond), cpu.Round(time.Microsecond))
		if i > 0 {
			fmt.Printf("  %.2fx req/s  %.2fx cpu", rate/median(rates[0]), float64(cpu)/float64(median(cpus[0])))
		}
		fmt.Println()
	}
	return nil
}

// exchange measures opening a task against the floor.
func (b *bench) exchange() error {
	floor, err := b.floor("issuer", filepath.Join(b.dir, "floor.log"))
	if err != nil {
		return err
	}
	defer floor.stop()
	product, err := b.product("", nil)
	if err != nil {
		return err
	}
	defer product.stop()
	actor := b.sourceToken("agents", "agent")
	// Distinct subject tokens, signed before the clock starts: enough for the
	// fastest side.
	tokens := make([]string, 60000)
	for i := range tokens {
		tokens[i] = exchangeForm(b.sourceToken("mayfly", fmt.Sprintf("user-%d", i%1000)), actor)
	}
	next := func(address string) func(int64) *http.Request {
		var used atomic.Int64 // over all loads of this side, so that no token comes twice
		return func(int64) *http.Request { return post(address, tokens[int(used.Add(1))%len(tokens)]) }
	}
	sides := []side{
		{"floor", floor.pid(), next(floor.url + "/token")},
		{"sqlite", product.pid(), next(product.url + "/oauth2/token")},
	}
	if *postgres != "" {
		pg, err := b.product(*postgres, nil)
		if err != nil {
			return err
		}
		defer pg.stop()
		sides = append(sides, side{"postgres", pg.pid(), next(pg.url + "/oauth2/token")})
	}
	for _, clients := range []int{1, 8, 64} {
		if err := compare("exchange", clients, sides); err != nil {
			return err
		}
	}
	return nil
}

// gatewayHTTP measures an HTTP call through the gateway against a plain reverse
// proxy.
func (b *bench) gatewayHTTP() error {
	api, err := b.floor("api", "")
	if err != nil {
		return err
	}
	defer api.stop()
	proxy, err := b.floor("proxy", api.url)
	if err != nil {
		return err
	}
	defer proxy.stop()
	product, err := b.product("", map[string]string{"api": api.url})
	if err != nil {
		return err
	}
	defer product.stop()
	token, err := b.openTask(product, product.url+"/http/api")
	if err != nil {
		return err
	}
	get := func(address, token string) func(int64) *http.Request {
		return func(int64) *http.Request {
			r, err := http.NewRequest(http.MethodGet, address, nil)
			if err != nil {
				panic(err) // the address is ours
			}
			if token != "" {
				r.Header.Set("Authorization", "Bearer "+token)
			}
			return r
		}
	}
	proven, err := b.proven(product, product.url+"/http/api", "/v1/orders")
	if err != nil {
		return err
	}
	for _, clients := range []int{1, 8, 64} {
		err := compare("http", clients, []side{
			{"proxy", proxy.pid(), get(proxy.url+"/v1/orders", "")},
			{"gateway", product.pid(), get(product.url+"/http/api/v1/orders", token)},
			{"with DPoP", product.pid(), proven},
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// gatewayMCP measures one tools/call of the stateless era.
func (b *bench) gatewayMCP() error {
	echo, err := b.floor("echo", "")
	if err != nil {
		return err
	}
	defer echo.stop()
	proxy, err := b.floor("proxy", echo.url)
	if err != nil {
		return err
	}
	defer proxy.stop()
	product, err := b.product("", map[string]string{"echo": echo.url})
	if err != nil {
		return err
	}
	defer product.stop()
	token, err := b.openTask(product, product.url+"/mcp/echo")
	if err != nil {
		return err
	}
	call := func(address, token string) func(int64) *http.Request {
		return func(n int64) *http.Request {
			body := fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"echo","arguments":{"text":"hello"},`+
				`"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}`, n)
			r, err := http.NewRequest(http.MethodPost, address, strings.NewReader(body))
			if err != nil {
				panic(err) // the address is ours
			}
			for name, value := range map[string]string{
				"Content-Type": "application/json", "Accept": "application/json, text/event-stream",
				"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": "echo",
			} {
				r.Header.Set(name, value)
			}
			if token != "" {
				r.Header.Set("Authorization", "Bearer "+token)
			}
			return r
		}
	}
	for _, clients := range []int{1, 8, 64} {
		err := compare("mcp", clients, []side{
			{"proxy", proxy.pid(), call(proxy.url+"/", "")},
			{"gateway", product.pid(), call(product.url+"/mcp/echo", token)},
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// memoryTasks is how many live tasks the memory figure is taken over.
const memoryTasks = 100000

// memory measures what live tasks cost, and the start with them there.
func (b *bench) memory() error {
	product, err := b.product("", nil)
	if err != nil {
		return err
	}
	actor := b.sourceToken("agents", "agent")
	time.Sleep(3 * time.Second) // what is idle before
	before := residentOf(product.pid())
	forms := make([]string, memoryTasks)
	for i := range forms {
		forms[i] = exchangeForm(b.sourceToken("mayfly", fmt.Sprintf("user-%d", i%1000)), actor)
	}
	f := load(product.pid(), 16, time.Hour, func(n int64) *http.Request {
		if n >= memoryTasks {
			return nil
		}
		return post(product.url+"/oauth2/token", forms[n])
	})
	if f.failed > 0 {
		product.stop()
		return fmt.Errorf("%d of %d openings failed, the first with: %s", f.failed, memoryTasks, f.first)
	}
	time.Sleep(10 * time.Second) // what is left when it has settled
	after := residentOf(product.pid())
	product.stop()
	fmt.Printf("memory: %d live tasks, %.1f MB before, %.1f MB after; %.1f MB for each 100,000 (first: 50)\n", memoryTasks,
		float64(before)/1e6, float64(after)/1e6, float64(after-before)/1e6*100000/memoryTasks)
	address := strings.TrimPrefix(product.url, "http://")
	again, err := b.begin(address, "/readyz", b.binary, "--config", filepath.Join(product.dir, "mayfly.yaml"), "serve")
	if err != nil {
		return err
	}
	fmt.Printf("cold start with %d live tasks: %s (first: 300ms)\n", memoryTasks, again.took.Round(time.Millisecond))
	again.stop()
	return nil
}

// proven makes requests below a target with a bound token of one task and, for
// each, a proof (RFC 9449). The load generator signs the proofs, on the same
// processors.
func (b *bench) proven(p *process, resource, path string) (func(int64) *http.Request, error) {
	c, err := client.New(client.Options{Address: p.url})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	key, err := client.NewKey()
	if err != nil {
		return nil, err
	}
	token, err := c.Exchange(b.ctx, client.ExchangeRequest{
		SubjectToken: b.sourceToken("mayfly", "user"), SubjectTokenType: client.TypeJWT,
		ActorToken: b.sourceToken("agents", "agent"), ActorTokenType: client.TypeJWT,
		Profile: "bench", Purpose: "to be measured", Resource: resource, Key: key,
	})
	if err != nil {
		return nil, err
	}
	request := func(nonce string) *http.Request {
		proof, err := key.Proof(client.ProofFor{
			Method: http.MethodGet, URL: resource + path, Nonce: nonce, AccessToken: token.Text.Reveal(), At: time.Now(),
		})
		if err != nil {
			panic(err) // the key is ours
		}
		r, err := http.NewRequest(http.MethodGet, resource+path, nil)
		if err != nil {
			panic(err) // the address is ours
		}
		r.Header.Set("Authorization", "DPoP "+token.Text.Reveal())
		r.Header.Set("DPoP", proof)
		return r
	}
	resp, err := http.DefaultClient.Do(request(""))
	if err != nil {
		return nil, err
	}
	resp.Body.Close()
	nonce := resp.Header.Get("DPoP-Nonce") // good for five minutes and more
	if nonce == "" {
		return nil, fmt.Errorf("no nonce: %s", resp.Status)
	}
	return func(int64) *http.Request { return request(nonce) }, nil
}

// openTask opens one task and gives its bearer token for a resource.
func (b *bench) openTask(p *process, resource string) (string, error) {
	form, err := url.ParseQuery(exchangeForm(b.sourceToken("mayfly", "user"), b.sourceToken("agents", "agent")))
	if err != nil {
		return "", err
	}
	form.Set("resource", resource)
	resp, err := http.DefaultClient.Do(post(p.url+"/oauth2/token", form.Encode()))
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	var answer struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.Unmarshal(body, &answer); err != nil || answer.AccessToken == "" {
		return "", fmt.Errorf("opening a task: %s: %s", resp.Status, body)
	}
	return answer.AccessToken, nil
}

// echoServer is a stateless MCP server with one tool, of the official SDK.
func echoServer() http.Handler {
	s := mcp.NewServer(&mcp.Implementation{Name: "echo", Version: "1"}, nil)
	type said struct {
		Text string `json:"text"`
	}
	mcp.AddTool(s, &mcp.Tool{Name: "echo", Description: "Says it again."},
		func(_ context.Context, _ *mcp.CallToolRequest, in said) (*mcp.CallToolResult, said, error) {
			return nil, in, nil
		})
	return mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return s },
		&mcp.StreamableHTTPOptions{Stateless: true, JSONResponse: true})
}
