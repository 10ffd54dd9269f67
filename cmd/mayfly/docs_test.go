package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mayfly-id/mayfly"
	"github.com/mayfly-id/mayfly/internal/policy"
)

// Every policy that the documentation shows is one that loads.
func TestPoliciesInTheDocumentationLoad(t *testing.T) {
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	schema := policy.Schema{Facts: map[string]mayfly.FactType{"amount": mayfly.FactDecimal, "vendor": mayfly.FactString}}
	blocks := 0
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		parts := strings.Split(string(text), "```cedar\n")
		for _, part := range parts[1:] {
			block, _, ended := strings.Cut(part, "```")
			if !ended {
				t.Fatalf("%s: a block does not end", page)
			}
			if _, err := policy.Parse(map[string][]byte{filepath.Base(page): []byte(block)}, schema); err != nil {
				t.Errorf("%v\n%s", err, block)
			}
			blocks++
		}
	}
	if blocks == 0 {
		t.Error("no page shows a policy: nothing was checked")
	}
}
