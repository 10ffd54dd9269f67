package mayflytest_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"

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

// load sends b.N requests and reports the commits they shared.
func load(b *testing.B, s *mayflytest.System, clients int, next func() *http.Request) {
	transport := &http.Transport{MaxIdleConnsPerHost: clients}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	commits := s.DB.Commits()
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
	b.ReportMetric(float64(s.DB.Commits()-commits)/float64(b.N), "commits/op")
}
