package main

import (
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain lets the scenarios run this very binary as mayfly.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"mayfly": main})
}

// TestScenarios are the product as a user meets it: testdata/*.txt.
func TestScenarios(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata"})
}
