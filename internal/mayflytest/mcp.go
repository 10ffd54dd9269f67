package mayflytest

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/mayfly-id/mayfly/client"
)

// CallTool is one tools/call of a task by the official MCP client, through this
// node's gateway.
func (s *System) CallTool(as *client.Session, tool string, args map[string]any) (*mcp.CallToolResult, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	session, err := s.MCP(ctx, as, nil)
	if err != nil {
		return nil, err
	}
	r, err := session.CallTool(ctx, &mcp.CallToolParams{Name: tool, Arguments: args})
	return r, errors.Join(err, session.Close())
}

// MCP connects the official MCP client to the bank through this node's gateway.
func (s *System) MCP(ctx context.Context, as *client.Session, o *mcp.ClientOptions) (*mcp.ClientSession, error) {
	c := mcp.NewClient(&mcp.Implementation{Name: "agent", Version: "1"}, o)
	return c.Connect(ctx, &mcp.StreamableClientTransport{
		Endpoint: s.Issuer + "/mcp/bank", HTTPClient: &http.Client{Transport: as.Transport()}, MaxRetries: -1,
	}, nil)
}

// Get is one GET of the HTTP target through this node's gateway.
func (s *System) Get(as *client.Session, path string) Answer {
	s.T.Helper()
	r, err := http.NewRequest(http.MethodGet, s.Issuer+"/http/orders"+path, nil)
	must(s.T, err)
	return s.DoAs(as, r)
}

// DoAs sends a gateway request as a task: token and proof are added.
func (s *System) DoAs(as *client.Session, r *http.Request) Answer {
	s.T.Helper()
	resp, err := as.Transport().RoundTrip(r)
	must(s.T, err)
	return read(s.T, resp)
}
