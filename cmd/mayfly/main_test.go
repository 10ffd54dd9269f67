package main

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/mayfly-id/mayfly/client"
)

// TestMain lets the scenarios run this very binary as mayfly.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"mayfly": main})
}

// TestScenarios are the product as a user meets it: testdata/*.txt.
func TestScenarios(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"freeport": freePortIn,
			"ready":    serverReady,
			"appears":  appears,
		},
	})
}

// freePortIn replaces the port 8420 in a file with one that nobody listens on:
// freeport FILE.
func freePortIn(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: freeport FILE")
	}
	address, err := freePort()
	ts.Check(err)
	_, port, _ := strings.Cut(address, ":")
	text := ts.ReadFile(args[0])
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(strings.ReplaceAll(text, ":8420", ":"+port)), 0o644))
}

// serverReady waits until the server that MAYFLY_CONFIG names is ready.
func serverReady(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: ready")
	}
	socket, err := adminSocket(ts.MkAbs(ts.Getenv("MAYFLY_CONFIG")))
	ts.Check(err)
	c, err := client.New(client.Options{Address: "unix://" + socket})
	ts.Check(err)
	defer c.Close()
	until(ts, "the server is ready", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		return c.Ready(ctx) == nil
	})
}

// appears waits until a file is there and not empty: appears FILE.
func appears(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: appears FILE")
	}
	until(ts, args[0]+" appears", func() bool {
		info, err := os.Stat(ts.MkAbs(args[0]))
		return err == nil && info.Size() > 0
	})
}

func until(ts *testscript.TestScript, what string, done func() bool) {
	deadline := time.NewTimer(60 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-deadline.C:
			ts.Fatalf("it never happened that %s", what)
		case <-tick.C:
		}
	}
}
