package mayflytest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/authority"
	"github.com/mayfly-id/mayfly/internal/mayflytest"
)

// BenchmarkExchange opens tasks, each with a subject token nobody has seen, and
// counts the commits that the openings share.
func BenchmarkExchange(b *testing.B) { withClients(b, benchmarkExchange) }

func benchmarkExchange(b *testing.B, clients int) {
	s := mayflytest.New(b, mayflytest.Options{})
	actor := s.Evidence("invoice-1")
	forms := make([]string, b.N)
	for i := range forms {
		forms[i] = url.Values{
			"grant_type":         {"urn:ietf:params:oauth:grant-type:token-exchange"},
			"subject_token":      {s.Human(fmt.Sprintf("user-%d", i%1000))},
			"subject_token_type": {"urn:ietf:params:oauth:token-type:jwt"},
			"actor_token":        {actor},
			"actor_token_type":   {"urn:ietf:params:oauth:token-type:jwt"},
			"profile":            {"open"},
			"purpose":            {"to be measured"},
		}.Encode()
	}
	var n atomic.Int64
	load(b, s, clients, func() *http.Request {
		r := s.Request(http.MethodPost, "/oauth2/token", []byte(forms[int(n.Add(1)-1)%len(forms)]))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		return r
	})
}

// BenchmarkGateway calls the HTTP target with a bearer token.
func BenchmarkGateway(b *testing.B) { withClients(b, benchmarkGateway) }

func benchmarkGateway(b *testing.B, clients int) {
	s := mayflytest.New(b, mayflytest.Options{})
	r := s.Opening()
	r.Profile, r.Key, r.Resource = "open", nil, s.Issuer+"/http/orders"
	token, err := s.Client().Exchange(context.Background(), r)
	if err != nil {
		b.Fatal(err)
	}
	load(b, s, clients, func() *http.Request {
		r := s.Request(http.MethodGet, "/http/orders/v1/orders", nil)
		r.Header.Set("Authorization", "Bearer "+token.Text.Reveal())
		return r
	})
}

func withClients(b *testing.B, benchmark func(*testing.B, int)) {
	for _, clients := range []int{1, 8, 64} {
		b.Run(fmt.Sprint("clients-", clients), func(b *testing.B) { benchmark(b, clients) })
	}
}

// load sends b.N requests and reports the commits they shared; s is nil where
// there is no store.
func load(b *testing.B, s *mayflytest.System, clients int, next func() *http.Request) {
	transport := &http.Transport{MaxIdleConnsPerHost: clients}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	commits := func() int64 {
		if s == nil {
			return 0
		}
		return s.DB.Commits()
	}
	before := commits()
	var left atomic.Int64
	left.Store(int64(b.N))
	var all sync.WaitGroup
	b.ResetTimer()
	for range clients {
		all.Go(func() {
			for left.Add(-1) >= 0 {
				resp, err := client.Do(next())
				if err != nil {
					b.Error(err)
					return
				}
				body, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || resp.StatusCode != http.StatusOK {
					b.Errorf("%v: %s", err, body)
					return
				}
			}
		})
	}
	all.Wait()
	b.StopTimer()
	b.ReportMetric(float64(commits()-before)/float64(b.N), "commits/op")
}

// BenchmarkAuthZEN asks for evaluations with a task's own token, each recorded.
func BenchmarkAuthZEN(b *testing.B) { withClients(b, benchmarkAuthZEN) }

func benchmarkAuthZEN(b *testing.B, clients int) {
	s := mayflytest.New(b, mayflytest.Options{})
	r := s.Opening()
	r.Profile, r.Key = "open", nil
	token, err := s.Client().Exchange(context.Background(), r)
	if err != nil {
		b.Fatal(err)
	}
	agent := mayfly.AgentID("example.org", "open", token.Task)
	body := fmt.Appendf(nil, evaluation, agent)
	load(b, s, clients, func() *http.Request {
		r := s.Request(http.MethodPost, "/access/v1/evaluation", body)
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Authorization", "Bearer "+token.Text.Reveal())
		return r
	})
}

const evaluation = `{"subject":{"type":"agent","id":%q},"action":{"name":"use"},"resource":{"type":"tool","id":"bank/list_invoices"}}`

// BenchmarkAuthZENFloor is a map behind net/http, asked the same: it decides
// nothing, records nothing, and knows no caller.
func BenchmarkAuthZENFloor(b *testing.B) {
	withClients(b, func(b *testing.B, clients int) {
		answers := map[string]bool{"agent/x use tool/bank/list_invoices": true}
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var q struct {
				Subject, Resource struct{ Type, ID string }
				Action            struct{ Name string }
			}
			if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			json.NewEncoder(w).Encode(map[string]bool{
				"decision": answers[q.Subject.Type+"/"+q.Subject.ID+" "+q.Action.Name+" "+q.Resource.Type+"/"+q.Resource.ID],
			})
		}))
		defer server.Close()
		body := fmt.Appendf(nil, evaluation, "x")
		load(b, nil, clients, func() *http.Request {
			r, err := http.NewRequest(http.MethodPost, server.URL, bytes.NewReader(body))
			if err != nil {
				b.Error(err)
			}
			r.Header.Set("Content-Type", "application/json")
			return r
		})
	})
}

// BenchmarkToolsList1000 lists a thousand tools, of which every other is granted:
// from the server itself, and through the gateway. The difference is what pins
// and grants cost.
func BenchmarkToolsList1000(b *testing.B) {
	var tools []string
	for i := range 1000 {
		tools = append(tools, fmt.Sprintf(`{"name":"tool_%d","description":"Does thing number %d, and says what came of it.",`+
			`"inputSchema":{"type":"object","properties":{"amount":{"type":"number"},"vendor":{"type":"string"}},"required":["amount"]}}`, i, i))
	}
	list := []byte(`{"jsonrpc":"2.0","id":1,"result":{"tools":[` + strings.Join(tools, ",") + `]}}`)
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Write(list)
	}))
	defer upstream.Close()
	var grants []mayfly.Grant
	for i := range 40 { // in the token, which has an end, one pattern for eleven tools
		grants = append(grants, mayflytest.Grants(b, fmt.Sprintf("mcp:many:tool_%d*", i+10))...)
	}
	s := mayflytest.New(b, mayflytest.Options{Change: func(bundle *authority.Bundle) {
		bundle.Targets["many"] = &mayfly.Target{Name: "many", Kind: "mcp", URL: upstream.URL}
		p := *bundle.Profiles["open"]
		p.Grants, p.Default = grants, grants
		bundle.Profiles["open"] = &p
	}})
	r := s.Opening()
	r.Profile, r.Key, r.Resource = "open", nil, s.Issuer+"/mcp/many"
	token, err := s.Client().Exchange(context.Background(), r)
	if err != nil {
		b.Fatal(err)
	}
	body := []byte(`{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{}}`)
	for name, url := range map[string]string{"direct": upstream.URL, "gateway": s.URL + "/mcp/many"} {
		b.Run(name, func(b *testing.B) {
			load(b, s, 1, func() *http.Request {
				r, err := http.NewRequest(http.MethodPost, url, bytes.NewReader(body))
				if err != nil {
					b.Error(err)
				}
				for name, value := range map[string]string{
					"Content-Type": "application/json", "Accept": "application/json, text/event-stream",
					"Authorization": "Bearer " + token.Text.Reveal(), "Mcp-Protocol-Version": "2025-11-25",
				} {
					r.Header.Set(name, value)
				}
				return r
			})
		})
	}
}

// BenchmarkReplay decides recorded calls again, under a policy that reads a fact
// and what the tree has seen.
func BenchmarkReplay(b *testing.B) {
	const decisions = 20_000
	s := mayflytest.New(b, mayflytest.Options{})
	d := direct{s}
	task := d.open(b, "open", "mcp:bank:pay_invoice")
	var left atomic.Int64
	left.Store(decisions)
	var all sync.WaitGroup
	for range 64 {
		all.Go(func() {
			for left.Add(-1) >= 0 {
				ad, err := d.call(context.Background(), task.AccessToken, "pay_invoice", `{"amount":20,"vendor":"acme"}`)
				if err != nil {
					b.Error(err)
					return
				}
				ad.Done(authority.Outcome{Name: "answered", Status: 200})
			}
		})
	}
	all.Wait()
	policies := map[string][]byte{"seen.cedar": []byte(`@id("seen")
forbid (principal, action == Mayfly::Action::"use", resource) when { context.seen.contains("untrusted") && context.labels.contains("egress") };`)}
	b.ResetTimer()
	for range b.N {
		answer, err := s.Authority.Replay(context.Background(), operator, policies, time.Time{})
		if err != nil || answer.Decisions != decisions || answer.Flips != 0 {
			b.Fatal(answer, err)
		}
	}
	b.ReportMetric(float64(decisions)*float64(b.N)/b.Elapsed().Seconds(), "decisions/s")
}
