package mayflytest_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/mayflytest"
	"github.com/mayfly-id/mayfly/internal/store"
)

// peerInGo builds a program of test/peers-go, which is code of others.
func peerInGo(t *testing.T, name string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), name)
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./"+name)
	build.Dir = "../../test/peers-go"
	if out, err := build.CombinedOutput(); err != nil {
		missing(t, "%s cannot be built: %v: %s", name, err, out)
	}
	return program
}

// opened serves the log of n as its operator sees it, to tools that speak HTTP,
// with what alter does to a file's bytes.
func opened(t *testing.T, n *mayflytest.System, alter func(path string, data []byte) []byte) string {
	t.Helper()
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: "admin"})
	proxy.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", n.Socket)
	}}
	proxy.ModifyResponse = func(r *http.Response) error {
		data, err := io.ReadAll(r.Body)
		if err != nil {
			return err
		}
		data = alter(strings.TrimPrefix(r.Request.URL.Path, "/log/"), data)
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(data)), int64(len(data))
		r.Header.Del("Content-Length")
		return nil
	}
	s := httptest.NewServer(proxy)
	t.Cleanup(s.Close)
	return s.URL + "/log/"
}

// grow makes n records, and waits until the log has them.
func grow(t *testing.T, s *mayflytest.System, n int) {
	t.Helper()
	var pending []*store.Pending
	for i := range n {
		rec, err := s.DB.Prepare(t.Context(), time.Now(), "bundle", mayfly.CallEnded{Decision: fmt.Sprint("dec_", i), Outcome: "unknown"})
		must(t, err)
		pending = append(pending, s.DB.Submit(t.Context(), rec, func(*store.Tx) {}))
	}
	for _, p := range pending {
		must(t, p.Wait())
	}
	s.Eventually("the log has them", func() bool {
		left, err := s.DB.Unsequenced(t.Context(), 1)
		must(t, err)
		return len(left) == 0
	})
}

// Tools that we did not write rebuild the log from its entries and agree with every
// tile and the checkpoint; with one bit of any of it altered, they do not.
func TestToolsOfOthersVerifyTheLog(t *testing.T) {
	program := peerInGo(t, "logcheck")
	mayflytest.OnEachEngine(t, func(t *testing.T, dsn string) {
		n := mayflytest.New(t, mayflytest.Options{DSN: dsn})
		vkey, err := n.Operator().LogKey(t.Context())
		must(t, err)
		check := func(address string, kept ...string) (said string, ok bool) {
			out, err := exec.CommandContext(t.Context(), program, append([]string{address, strings.TrimSpace(vkey)}, kept...)...).Output()
			return string(out), err == nil
		}
		whole := opened(t, n, func(_ string, data []byte) []byte { return data })
		kept := filepath.Join(t.TempDir(), "checkpoint")
		grow(t, n, 300)
		checkpoint, err := n.Operator().Checkpoint(t.Context())
		must(t, err)
		must(t, os.WriteFile(kept, []byte(checkpoint), 0o600))
		grow(t, n, 300)
		if said, ok := check(whole, kept); !ok || said != "fsck: ok\nsumdb: ok\n" {
			t.Fatalf("the log does not verify: %s", said)
		}

		for _, file := range []string{"checkpoint", "tile/0/000", "tile/0/001", "tile/1/000.p/2", "tile/entries/000", "tile/entries/001"} {
			touched := false
			altered := opened(t, n, func(path string, data []byte) []byte {
				if path == file && len(data) > 0 {
					touched = true
					data = bytes.Clone(data)
					data[len(data)/2] ^= 1
				}
				return data
			})
			said, ok := check(altered)
			if ok || !touched {
				t.Errorf("with a bit of %s altered (%v): %s", file, touched, said)
			}
			// The entries bear the whole tree, so neither tool is fooled by them.
			if strings.HasPrefix(file, "tile/entries") && strings.Contains(said, ": ok") {
				t.Errorf("with a bit of %s altered one of them is content: %s", file, said)
			}
		}

		// A checkpoint of another log of the same name and key would be a fork: here,
		// one whose root is not the tree's.
		other := mayflytest.New(t, mayflytest.Options{})
		grow(t, other, 10)
		foreign, err := other.Operator().Checkpoint(t.Context())
		must(t, err)
		must(t, os.WriteFile(kept, []byte(foreign), 0o600))
		if said, ok := check(whole, kept); ok {
			t.Errorf("a checkpoint of another log is taken for an earlier one: %s", said)
		}
	})
}
