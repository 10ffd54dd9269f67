package main

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ncruces/go-sqlite3/driver"
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
			"freeport":   freePortIn,
			"ready":      serverReady,
			"appears":    appears,
			"checkpoint": fetchCheckpoint,
			"sql":        alterDatabase,
			"flip":       flipBit,
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
	c := operator(ts)
	defer c.Close()
	until(ts, "the server is ready", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		return c.Ready(ctx) == nil
	})
}

// operator is a client of the server that MAYFLY_CONFIG names.
func operator(ts *testscript.TestScript) *client.Client {
	socket, err := adminSocket(ts.MkAbs(ts.Getenv("MAYFLY_CONFIG")))
	ts.Check(err)
	c, err := client.New(client.Options{Address: "unix://" + socket})
	ts.Check(err)
	return c
}

// fetchCheckpoint keeps the newest checkpoint in a file: checkpoint FILE.
func fetchCheckpoint(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: checkpoint FILE")
	}
	c := operator(ts)
	defer c.Close()
	signed, err := c.Checkpoint(context.Background())
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(signed), 0o644))
}

// alterDatabase does to a SQLite file what who has the file can, and fails if
// that changes nothing: sql FILE STATEMENT.
func alterDatabase(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: sql FILE STATEMENT")
	}
	db, err := driver.Open("file:" + ts.MkAbs(args[0]))
	ts.Check(err)
	result, err := db.Exec(args[1])
	ts.Check(errors.Join(err, db.Close()))
	if n, err := result.RowsAffected(); err != nil || n == 0 {
		ts.Fatalf("%s: changed %d rows, %v", args[1], n, err)
	}
}

// flipBit alters one bit in the middle of one column of one row: flip FILE
// TABLE COLUMN CONDITION.
func flipBit(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 4 {
		ts.Fatalf("usage: flip FILE TABLE COLUMN CONDITION")
	}
	table, column, where := args[1], args[2], args[3]
	db, err := driver.Open("file:" + ts.MkAbs(args[0]))
	ts.Check(err)
	defer db.Close()
	var data []byte
	ts.Check(db.QueryRow("SELECT " + column + " FROM " + table + " WHERE " + where).Scan(&data))
	data[len(data)/2] ^= 1
	_, err = db.Exec("UPDATE "+table+" SET "+column+" = ? WHERE "+where, data)
	ts.Check(err)
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
