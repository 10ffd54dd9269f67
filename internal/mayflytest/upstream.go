package mayflytest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// Seen is one request that reached an upstream.
type Seen struct {
	Method, Path, Query string
	Header              http.Header
	Body                []byte
}

// Upstream is a system behind the gateway that remembers every byte it was sent.
type Upstream struct {
	URL string

	mu       sync.Mutex // guards the fields below
	requests []Seen
}

// Requests is what has reached the upstream so far, but for the gateway's own
// questions which tools there are: no agent's byte is in those.
func (u *Upstream) Requests() []Seen {
	u.mu.Lock()
	defer u.mu.Unlock()
	return append([]Seen(nil), u.requests...)
}

// Forget empties the memory.
func (u *Upstream) Forget() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.requests = nil
}

// NewUpstream is a system of the test's own behind the gateway, which remembers
// what it was sent.
func NewUpstream(t testing.TB, answers http.Handler) *Upstream { return recording(t, answers) }

// recording serves next and remembers what it was sent.
func recording(t testing.TB, next http.Handler) *Upstream {
	u := &Upstream{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // the gateway went away half-way: nothing arrived
		}
		if !gatewaysOwn(body) {
			u.mu.Lock()
			u.requests = append(u.requests, Seen{r.Method, r.URL.EscapedPath(), r.URL.RawQuery, r.Header.Clone(), body})
			u.mu.Unlock()
		}
		r.Body = io.NopCloser(&rereader{body})
		next.ServeHTTP(w, r)
	}))
	t.Cleanup(s.CloseClientConnections)
	t.Cleanup(s.Close)
	u.URL = s.URL
	return u
}

// gatewaysOwn reports whether a request is the gateway's own question which tools
// there are.
func gatewaysOwn(body []byte) bool { return bytes.Contains(body, []byte(`"id":"mayfly-tools-`)) }

// Lists is next with these tools: it answers the gateway's own question which
// there are, and leaves everything else to next.
func Lists(next http.Handler, tools ...string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		r.Body = io.NopCloser(&rereader{body})
		if !gatewaysOwn(body) {
			next.ServeHTTP(w, r)
			return
		}
		var asked struct {
			ID string `json:"id"`
		}
		if err := json.Unmarshal(body, &asked); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		type tool struct {
			Name string `json:"name"`
		}
		list := make([]tool, len(tools))
		for i, name := range tools {
			list[i] = tool{name}
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(map[string]any{"jsonrpc": "2.0", "id": asked.ID, "result": map[string]any{"tools": list}})
	})
}

type rereader struct{ left []byte }

func (r *rereader) Read(p []byte) (int, error) {
	if len(r.left) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.left)
	r.left = r.left[n:]
	return n, nil
}

// Orders is the HTTP upstream: it answers any path with what it was asked,
// except /redirect (302 elsewhere), /unauthorized (401) and /stream (an event
// every 20 ms until the caller goes).
func newOrders(t testing.TB) *Upstream {
	mux := http.NewServeMux()
	mux.HandleFunc("/redirect", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://elsewhere.example/", http.StatusFound)
	})
	mux.HandleFunc("/unauthorized", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", `Bearer realm="upstream"`)
		w.WriteHeader(http.StatusUnauthorized)
	})
	mux.HandleFunc("/stream", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for n := 0; ; n++ {
			fmt.Fprintf(w, "data: %d\n\n", n)
			w.(http.Flusher).Flush()
			select {
			case <-r.Context().Done():
				return
			case <-tick.C:
			}
		}
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"method":%q,"path":%q}`, r.Method, r.URL.Path)
	})
	return recording(t, mux)
}

// newBank is the MCP upstream, a server of the official SDK: list_invoices,
// pay_invoice (invoice, amount) and delete_vendor.
func newBank(t testing.TB, stateless bool) *Upstream {
	s := mcp.NewServer(&mcp.Implementation{Name: "bank", Version: "1"}, nil)
	type none struct{}
	type said struct {
		Said string `json:"said"`
	}
	mcp.AddTool(s, &mcp.Tool{Name: "list_invoices", Description: "List invoices."},
		func(context.Context, *mcp.CallToolRequest, none) (*mcp.CallToolResult, said, error) {
			return nil, said{"inv-1"}, nil
		})
	type payment struct {
		Invoice string `json:"invoice,omitempty"`
		Vendor  string `json:"vendor,omitempty"`
		Amount  int    `json:"amount"`
	}
	mcp.AddTool(s, &mcp.Tool{Name: "pay_invoice", Description: "Pay an invoice."},
		func(_ context.Context, _ *mcp.CallToolRequest, p payment) (*mcp.CallToolResult, said, error) {
			return nil, said{fmt.Sprintf("paid %d", p.Amount)}, nil
		})
	mcp.AddTool(s, &mcp.Tool{Name: "delete_vendor", Description: "Delete a vendor."},
		func(context.Context, *mcp.CallToolRequest, none) (*mcp.CallToolResult, said, error) {
			return nil, said{"deleted"}, nil
		})
	return recording(t, mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return s },
		&mcp.StreamableHTTPOptions{Stateless: stateless, JSONResponse: stateless}))
}
