package mayflytest_test

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/mayfly-id/mayfly/internal/mayflytest"
)

// BenchmarkExchange opens tasks with 64 clients at once, each with a subject
// token nobody has seen, and counts the commits that the openings share.
func BenchmarkExchange(b *testing.B) {
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
	load(b, s, func() *http.Request {
		r := s.Request(http.MethodPost, "/oauth2/token", []byte(forms[int(n.Add(1)-1)%len(forms)]))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		return r
	})
}

// BenchmarkGateway calls the HTTP target with 64 clients at once and a bearer
// token.
func BenchmarkGateway(b *testing.B) {
	s := mayflytest.New(b, mayflytest.Options{})
	r := s.Opening()
	r.Profile, r.Key, r.Resource = "open", nil, s.Issuer+"/http/orders"
	token, err := s.Client().Exchange(context.Background(), r)
	if err != nil {
		b.Fatal(err)
	}
	load(b, s, func() *http.Request {
		r := s.Request(http.MethodGet, "/http/orders/v1/orders", nil)
		r.Header.Set("Authorization", "Bearer "+token.Text.Reveal())
		return r
	})
}

// load sends b.N requests from 64 clients and reports the commits they shared.
func load(b *testing.B, s *mayflytest.System, next func() *http.Request) {
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	commits := s.DB.Commits()
	b.SetParallelism(32) // times GOMAXPROCS
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			resp, err := client.Do(next())
			if err != nil {
				b.Error(err)
				return
			}
			var body strings.Builder
			if err := resp.Write(&body); err != nil || resp.StatusCode != http.StatusOK {
				b.Errorf("%v: %s", err, body.String())
				return
			}
		}
	})
	b.StopTimer()
	b.ReportMetric(float64(s.DB.Commits()-commits)/float64(b.N), "commits/op")
}
