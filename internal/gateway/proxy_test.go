package gateway

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-id/mayfly"
)

// sender is a Gateway that can send and do nothing else.
func sender(t *testing.T) *Gateway {
	g := &Gateway{logger: slog.New(slog.DiscardHandler)}
	t.Cleanup(g.Close)
	return g
}

// sendTo sends one POST and gives what came of it.
func sendTo(t *testing.T, g *Gateway, target *mayfly.Target, ask func() error) (resp *http.Response, sent bool, err error) {
	t.Helper()
	ctx, cancel := context.WithCancelCause(t.Context())
	t.Cleanup(func() { cancel(nil) })
	out, err := mcpRequest(http.MethodPost, target, "", []byte(`{"a":1}`))
	if err != nil {
		t.Fatal(err)
	}
	return g.send(ctx, cancel, target, out, ask)
}

// I-20: however the connection came about, new or used before, a decision that
// no longer holds sends no byte, and the next call is not affected.
func TestADecisionThatNoLongerHoldsSendsNoByte(t *testing.T) {
	var requests atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { requests.Add(1) }))
	defer s.Close()
	g, target := sender(t), &mayfly.Target{Name: "t", URL: s.URL}
	stale := func() error { return mayfly.Errorf(mayfly.Unavailable, "the decision is too old") }
	for round := range int64(3) {
		resp, sent, err := sendTo(t, g, target, stale)
		if resp != nil || sent || mayfly.KindOf(err) != mayfly.Unavailable || requests.Load() != round {
			t.Fatalf("stale: sent %v, %v, %d requests arrived; want none more than %d", sent, err, requests.Load(), round)
		}
		asked := 0
		resp, sent, err = sendTo(t, g, target, func() error { asked++; return nil })
		if err != nil || !sent || asked != 1 {
			t.Fatalf("fresh: sent %v, asked %d times, %v", sent, asked, err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
}

// The question is asked after the connection has been made, however long that
// took.
func TestFreshnessIsAskedAfterTheConnectionIsThere(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer s.Close()
	g, target := sender(t), &mayfly.Target{Name: "t", URL: s.URL}
	transport := newTransport()
	defer transport.CloseIdleConnections()
	transport.TLSClientConfig.RootCAs = s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	dial, connected := transport.DialContext, false
	transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dial(ctx, network, address)
		connected = err == nil
		return c, err
	}
	g.upstream.pools = map[string]pool{"t": {target, transport}}
	resp, sent, err := sendTo(t, g, target, func() error {
		if !connected {
			t.Error("asked before there was a connection")
		}
		return nil
	})
	if err != nil || !sent {
		t.Fatal(sent, err)
	}
	resp.Body.Close()
}

func TestATargetThatCannotBeReachedSawNothing(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	_, sent, err := sendTo(t, sender(t), &mayfly.Target{Name: "t", URL: "http://" + l.Addr().String()}, nil)
	if sent || mayfly.KindOf(err) != mayfly.BadUpstream || strings.Contains(err.Error(), "127.0.0.1") {
		t.Errorf("sent %v, %v", sent, err)
	}
}

func TestATargetThatHangsUpMayHaveSeenIt(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Read(make([]byte, 1))
			c.Close()
		}
	}()
	_, sent, err := sendTo(t, sender(t), &mayfly.Target{Name: "t", URL: "http://" + l.Addr().String()}, func() error { return nil })
	if !sent || mayfly.KindOf(err) != mayfly.BadUpstream {
		t.Errorf("sent %v, %v", sent, err)
	}
}

// S-54.
func TestRedirectsAreNotFollowed(t *testing.T) {
	var elsewhere atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	defer other.Close()
	s := httptest.NewServer(http.RedirectHandler(other.URL, http.StatusTemporaryRedirect))
	defer s.Close()
	target := &mayfly.Target{Name: "t", URL: s.URL, Credential: &mayfly.TargetCredential{Header: "X-Key", Value: mayfly.NewSecret("k")}}
	resp, _, err := sendTo(t, sender(t), target, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if err := checkStatus(resp); mayfly.KindOf(err) != mayfly.BadUpstream || strings.Contains(err.Error(), other.URL) || elsewhere.Load() != 0 {
		t.Errorf("%v, %d requests elsewhere", err, elsewhere.Load())
	}
}

func TestStatusesThatSpeakOfTheCredentialAreNotPassedOn(t *testing.T) {
	for code := 100; code < 700; code++ {
		err := checkStatus(&http.Response{StatusCode: code})
		passed := code >= 200 && code < 300 || code == 304 || code >= 400 && code < 600 && code != 401 && code != 407
		if (err == nil) != passed {
			t.Errorf("status %d: %v", code, err)
		}
	}
}

func TestATargetMadeAnewHasConnectionsOfItsOwn(t *testing.T) {
	var u upstream
	one, again := &mayfly.Target{Name: "t"}, &mayfly.Target{Name: "t"}
	first := u.to(one)
	if u.to(one) != first {
		t.Error("one target has two pools")
	}
	if u.to(again) == first || u.to(&mayfly.Target{Name: "u"}) == u.to(again) {
		t.Error("two targets share a pool")
	}
}

func TestNoProxyAndNoSecondVersionOfHTTP(t *testing.T) {
	tr := newTransport()
	if tr.Proxy != nil || tr.ForceAttemptHTTP2 || tr.TLSNextProto != nil || !tr.DisableCompression {
		t.Errorf("the transport is %+v", tr)
	}
}

func TestACallEndsWithTheReasonItWasCutFor(t *testing.T) {
	begun := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(begun)
		<-r.Context().Done()
	}))
	defer s.Close()
	target := &mayfly.Target{Name: "t", URL: s.URL}
	ctx, cancel := context.WithCancelCause(t.Context())
	out, err := mcpRequest(http.MethodGet, target, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		<-begun
		cancel(mayfly.Coded(mayfly.Unauthenticated, "invalid_token", "the task was revoked"))
	}()
	_, sent, err := sender(t).send(ctx, cancel, target, out, nil)
	if !sent || mayfly.KindOf(err) != mayfly.Unauthenticated || err.Error() != "the task was revoked" {
		t.Errorf("sent %v, %v", sent, err)
	}
}

func TestAnswersAreReadUpToALimit(t *testing.T) {
	for _, length := range []int64{-1, maxAnswer + 1} {
		resp := &http.Response{ContentLength: length, Body: io.NopCloser(bytes.NewReader(make([]byte, maxAnswer+1)))}
		if _, err := readAnswer(t.Context(), resp); mayfly.KindOf(err) != mayfly.BadUpstream || err == nil {
			t.Errorf("length %d: %v", length, err)
		}
	}
	resp := &http.Response{ContentLength: 10, Body: io.NopCloser(strings.NewReader("short"))}
	if _, err := readAnswer(t.Context(), resp); err == nil {
		t.Error("an answer that broke off was taken for whole")
	}
}

func TestTheLimitsAreThoseOfTheSecurityPage(t *testing.T) {
	tr := newTransport()
	if tr.TLSHandshakeTimeout != 5*time.Second || tr.ResponseHeaderTimeout != 30*time.Second || totalWithin != 120*time.Second || maxAnswer != 8<<20 {
		t.Error("a limit was changed")
	}
}
