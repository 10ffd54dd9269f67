package mayfly_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/mayfly-id/mayfly"

// leaves are packages of one sharp idea that hold no word of the product; every
// package of ours may use them.
var leaves = []string{"internal/strictjson", "internal/jose", "internal/failpoint"}

// mayImport is the house: which of our packages each package may import, beside
// the leaves. A package that is not here fails the test, and so does a row whose
// package is gone.
var mayImport = map[string][]string{
	"":                    {},
	"client":              {""},
	"internal/strictjson": {""},
	"internal/jose":       {""},
	"internal/failpoint":  {},
	"internal/attest":     {""},
	"internal/policy":     {"", "internal/attest"},
	"internal/token":      {"", "internal/policy"},
	"internal/store":      {""},
	"internal/broker":     {"", "internal/policy"},
	"internal/eventlog":   {"", "internal/store"},
	"internal/authority":  {"", "internal/attest", "internal/policy", "internal/token", "internal/broker", "internal/store", "internal/eventlog", "internal/search"},
	"internal/gateway":    {"", "internal/authority"},
	"internal/graph":      {},
	"internal/reach":      {"", "internal/graph"},
	"internal/console":    {"", "internal/authority", "internal/graph", "internal/reach", "internal/search"},
	"internal/follow":     {"", "internal/store"},
	"internal/search":     {"", "internal/store", "internal/follow"},
	"internal/signals":    {"", "internal/store", "internal/eventlog", "internal/follow"},
	"internal/metrics":    {"", "internal/store"},
	"internal/witness":    {"", "internal/store", "internal/eventlog"},
	"internal/server":     {"", "internal/authority", "internal/eventlog", "internal/attest", "internal/search"},
	"internal/sandbox":    {"", "client"},
	"cmd/mayfly": {"", "client", "internal/attest", "internal/policy", "internal/token", "internal/broker", "internal/store", "internal/eventlog",
		"internal/authority", "internal/gateway", "internal/server", "internal/signals", "internal/sandbox", "internal/witness", "internal/graph", "internal/reach", "internal/console", "internal/metrics"},
}

// mayNotImport are outside packages that only the named packages of ours may
// use, by import path prefix.
var mayNotImport = map[string][]string{
	"database/sql":                        {"internal/store"},
	"github.com/jackc/pgx":                {"internal/store", "internal/broker"},
	"github.com/ncruces/go-sqlite3":       {"internal/store"},
	"github.com/cedar-policy":             {"internal/policy"},
	"github.com/goccy/go-yaml":            {"cmd/mayfly"},
	"math/rand":                           {},
	"github.com/modelcontextprotocol":     {"internal/gateway", "internal/sandbox", "internal/bench"},
	"github.com/prometheus":               {"internal/metrics"},
	"net/http":                            {"client", "internal/console", "internal/attest", "internal/gateway", "internal/server", "internal/signals", "internal/metrics", "internal/witness", "internal/sandbox", "cmd/mayfly", "internal/bench", ""},
	"golang.org/x/oauth2":                 {"internal/attest"},
	"encoding/json":                       {"client", "internal/sandbox", "internal/bench", "cmd/mayfly", "internal/mayflytest"},
	"github.com/go-jose/go-jose/v4":       {"internal/jose", "internal/sandbox", "client"},
	"github.com/go-json-experiment/json":  {"", "internal/strictjson", "internal/jose", "internal/attest", "internal/authority", "internal/token", "internal/policy", "internal/store", "internal/eventlog", "internal/gateway", "internal/server", "internal/search", "internal/signals", "internal/console", "internal/sandbox", "client", "cmd/mayfly", "internal/bench"},
	"github.com/golang-jwt":               {},
	"go.uber.org/mock":                    {},
	"github.com/stretchr/testify":         {},
	"github.com/transparency-dev/tessera": {},
}

// outside are packages that stand beside the house: test kits and the bench,
// which may import anything and are imported by no product code.
func outside(pkg string) bool {
	return strings.HasPrefix(pkg, "internal/mayflytest") || strings.HasPrefix(pkg, "internal/bench") || strings.HasPrefix(pkg, "test/")
}

func TestPackagesImportOnlyWhatTheHouseAllows(t *testing.T) {
	imports := productImports(t)
	for pkg := range mayImport {
		if imports[pkg] == nil {
			t.Errorf("the table has a row for %q, and there is no such package", pkg)
		}
	}
	for pkg, paths := range imports {
		allowed, known := mayImport[pkg]
		if !known && !outside(pkg) {
			t.Errorf("package %q is not in the table: decide what it may import", pkg)
			continue
		}
		for _, path := range paths {
			if path == module || strings.HasPrefix(path, module+"/") {
				ours := strings.TrimPrefix(strings.TrimPrefix(path, module), "/")
				if outside(pkg) || slices.Contains(leaves, ours) {
					continue
				}
				if outside(ours) || !slices.Contains(allowed, ours) {
					t.Errorf("%q imports %q, which it may not", pkg, ours)
				}
				continue
			}
			for prefix, users := range mayNotImport {
				if (path == prefix || strings.HasPrefix(path, prefix+"/")) && !slices.Contains(users, pkg) && !outside(pkg) {
					t.Errorf("%q imports %s, which only %q may", pkg, path, users)
				}
			}
		}
	}
}

// productImports is what each package of ours imports outside its tests.
func productImports(t *testing.T) map[string][]string {
	t.Helper()
	imports := map[string][]string{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			name := d.Name()
			if path != "." && (strings.HasPrefix(name, ".") || name == "testdata" || name == "node_modules" || name == "dist") {
				return filepath.SkipDir
			}
			if path != "." {
				if _, err := os.Stat(filepath.Join(path, "go.mod")); err == nil {
					return filepath.SkipDir // a module of its own
				}
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		pkg := filepath.ToSlash(filepath.Dir(path))
		if pkg == "." {
			pkg = ""
		}
		if imports[pkg] == nil {
			imports[pkg] = []string{}
		}
		for _, i := range f.Imports {
			p, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			imports[pkg] = append(imports[pkg], p)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(imports) < 3 {
		t.Fatalf("only %d packages found: the walk is looking at nothing", len(imports))
	}
	return imports
}
