package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

var update = flag.Bool("update", false, "write docs/reference anew")

// What docs/reference says is what the program is: its flags, the keys it reads, the
// API's description, the events of the log and the metrics, each from the code.
// After a change: go test ./cmd/mayfly -run Reference -update
func TestTheReferenceIsWhatTheProgramIs(t *testing.T) {
	for name, write := range map[string]func(*testing.T, *bytes.Buffer){
		"cli.md": referenceCLI, "configuration.md": referenceConfig, "api.md": referenceAPI, "events.md": referenceEvents, "metrics.md": referenceMetrics,
	} {
		t.Run(name, func(t *testing.T) {
			var want bytes.Buffer
			write(t, &want)
			if want.Len() < 1000 {
				t.Fatalf("only %d bytes are said: nothing was looked at", want.Len())
			}
			path := filepath.Join("..", "..", "docs", "reference", name)
			if *update {
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, want.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want.Bytes()) {
				t.Errorf("docs/reference/%s is not what the program says (%v); run: go test ./cmd/mayfly -run Reference -update", name, err)
			}
		})
	}
}

const generated = "\nMade from the program; a test holds it to that.\n"

// inCell is a text in a table, on one line.
func inCell(s string) string {
	return strings.ReplaceAll(strings.Join(strings.Fields(s), " "), "|", `\|`)
}

func referenceCLI(t *testing.T, w *bytes.Buffer) {
	var c cli
	k, err := kong.New(&c, kong.Name("mayfly"))
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(w, "# Commands\n%s\nExit codes: 0 done, 1 refused or failed, 2 wrong usage, 75 try again later, 78 wrong configuration; `mayfly run` passes on\nthat of the command.\n\n## Every command\n\n", generated)
	flags(w, k.Model.Flags)
	for _, leaf := range k.Model.Leaves(true) {
		name := leaf.FullPath()
		fmt.Fprintf(w, "\n## %s\n\n%s\n", name, leaf.Help)
		if h, ok := leaf.Target.Addr().Interface().(interface{ Help() string }); ok {
			fmt.Fprintf(w, "\n```\n%s\n```\n", strings.TrimSpace(h.Help()))
		}
		if len(leaf.Positional) > 0 {
			fmt.Fprintf(w, "\n| argument | meaning |\n|---|---|\n")
			for _, a := range leaf.Positional {
				fmt.Fprintf(w, "| `%s` | %s |\n", a.Summary(), inCell(a.Help))
			}
		}
		var own []*kong.Flag
		for _, f := range leaf.Flags {
			if !slices.ContainsFunc(k.Model.Flags, func(g *kong.Flag) bool { return g.Name == f.Name }) {
				own = append(own, f)
			}
		}
		if len(own) > 0 {
			fmt.Fprintln(w)
			flags(w, own)
		}
	}
}

func flags(w *bytes.Buffer, list []*kong.Flag) {
	fmt.Fprintf(w, "| flag | meaning |\n|---|---|\n")
	for _, f := range list {
		value := ""
		if !f.IsBool() {
			value = "=" + f.FormatPlaceHolder()
		}
		env := ""
		if len(f.Envs) > 0 {
			env = " (`$" + strings.Join(f.Envs, "`, `$") + "`)"
		}
		fmt.Fprintf(w, "| `--%s%s` | %s%s |\n", f.Name, value, inCell(f.Help), env)
	}
}

func referenceConfig(t *testing.T, w *bytes.Buffer) {
	fmt.Fprintf(w, "# Keys of the configuration\n%s\nWhat each means, and what it may be, is in [configuration.md](../configuration.md). A key that is not here is an error.\n", generated)
	for _, f := range []struct {
		name string
		of   reflect.Type
	}{{"mayfly.yaml", reflect.TypeFor[serverFile]()}, {"profiles/*.yaml", reflect.TypeFor[profileFile]()}} {
		fmt.Fprintf(w, "\n## %s\n\n| key | is |\n|---|---|\n", f.name)
		keys(w, "", f.of)
	}
}

// keys writes the keys of a mapping, and those below them.
func keys(w *bytes.Buffer, above string, of reflect.Type) {
	for i := range of.NumField() {
		name, _, _ := strings.Cut(of.Field(i).Tag.Get("json"), ",")
		if name == "" {
			continue
		}
		is, below := shape(of.Field(i).Type)
		fmt.Fprintf(w, "| `%s%s` | %s |\n", above, name, is)
		if below != nil {
			suffix := "."
			if strings.HasPrefix(is, "list") {
				suffix = "[]."
			} else if strings.HasPrefix(is, "by name") {
				suffix = ".NAME."
			}
			keys(w, above+name+suffix, below)
		}
	}
}

// shape says what a value is, and which mapping is below it, if one is.
func shape(t reflect.Type) (is string, below reflect.Type) {
	if s, ok := reflect.Zero(t).Interface().(interface{ shapes() []reflect.Type }); ok {
		var either []string
		for _, one := range s.shapes() {
			is, _ := shape(one)
			either = append(either, is)
		}
		return strings.Join(either, ", or "), nil
	}
	switch t.Kind() {
	case reflect.Pointer:
		return shape(t.Elem())
	case reflect.Slice:
		is, below := shape(t.Elem())
		return "list of " + is, below
	case reflect.Map:
		is, below := shape(t.Elem())
		return "by name: " + is, below
	case reflect.Struct:
		return "mapping", t
	case reflect.String:
		return "text", nil
	case reflect.Bool:
		return "true or false", nil
	case reflect.Interface:
		return "anything", nil
	}
	return "number", nil
}

func referenceAPI(t *testing.T, w *bytes.Buffer) {
	text, err := os.ReadFile("../../internal/server/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	type operation struct {
		Summary     string
		Description string
		Tags        []string
		Parameters  []struct {
			Name, In, Description string
			Ref                   string `json:"$ref"`
		}
	}
	var api struct {
		Paths map[string]map[string]json.RawMessage
	}
	if err := json.Unmarshal(text, &api); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(w, "# API\n%s\nThe whole description is `/openapi.json` of a running server (OpenAPI 3.1): every field, and which errors there are. On the\nadmin socket the same API answers the operator. The gateway is not in it: `/mcp/{target}` and `/http/{target}/…` speak the\nprotocols of their targets.\n", generated)
	byTag := map[string][]string{}
	for path, methods := range api.Paths {
		for method, raw := range methods {
			if !slices.Contains([]string{"get", "post", "put", "delete", "patch"}, method) {
				continue
			}
			var op operation
			if err := json.Unmarshal(raw, &op); err != nil {
				t.Fatal(err)
			}
			var query []string
			for _, p := range op.Parameters {
				if p.In == "query" {
					query = append(query, "`"+p.Name+"`")
				}
			}
			tag := "other"
			if len(op.Tags) > 0 {
				tag = op.Tags[0]
			}
			byTag[tag] = append(byTag[tag], fmt.Sprintf("| `%s %s` | %s | %s |\n", strings.ToUpper(method), path, inCell(op.Summary), strings.Join(query, " ")))
		}
	}
	for _, tag := range names(byTag) {
		fmt.Fprintf(w, "\n## %s\n\n| operation | does | query |\n|---|---|---|\n", tag)
		lines := byTag[tag]
		slices.SortFunc(lines, func(a, b string) int {
			_, a, _ = strings.Cut(a, " ")
			_, b, _ = strings.Cut(b, " ")
			return strings.Compare(a, b)
		})
		for _, line := range lines {
			w.WriteString(line)
		}
	}
}

// parsed are the files of a folder.
func parsed(t *testing.T, folder string) []*ast.File {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(folder, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	var files []*ast.File
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	return files
}

// quoted is the value of a literal string, "" for anything else.
func quoted(e ast.Expr) string {
	lit, ok := e.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return ""
	}
	s, err := strconv.Unquote(lit.Value)
	if err != nil {
		return ""
	}
	return s
}

func referenceEvents(t *testing.T, w *bytes.Buffer) {
	fmt.Fprintf(w, "# Events\n%s\nWhat the log holds. In the leaf of each record, in clear, stand its kind, time, task, decision, the delegation it hangs on, and a\npseudonym of the person it is about; what follows is its body, sealed for whoever may read it. `mayfly log tail --json` prints\nthem, and [ocsf.md](../ocsf.md) says what they become at a SIEM.\n", generated)
	structs, kinds := map[string]*ast.GenDecl{}, map[string]string{}
	for _, f := range parsed(t, "../..") {
		for _, d := range f.Decls {
			switch d := d.(type) {
			case *ast.GenDecl:
				if spec, ok := d.Specs[0].(*ast.TypeSpec); ok {
					structs[spec.Name.Name] = d
				}
			case *ast.FuncDecl:
				if d.Name.Name == "Kind" && d.Recv != nil && len(d.Body.List) == 1 {
					if ret, ok := d.Body.List[0].(*ast.ReturnStmt); ok && quoted(ret.Results[0]) != "" {
						kinds[quoted(ret.Results[0])] = d.Recv.List[0].Type.(*ast.Ident).Name
					}
				}
			}
		}
	}
	for _, kind := range names(kinds) {
		d := structs[kinds[kind]]
		_, about, _ := strings.Cut(d.Doc.Text(), ": ")
		fmt.Fprintf(w, "\n## %s\n\n%s\n\n", kind, strings.Join(strings.Fields(about), " "))
		fields := d.Specs[0].(*ast.TypeSpec).Type.(*ast.StructType).Fields.List
		var rows []string
		for _, f := range fields {
			if f.Tag == nil {
				continue
			}
			text, err := strconv.Unquote(f.Tag.Value)
			if err != nil {
				t.Fatal(err)
			}
			name, _, _ := strings.Cut(reflect.StructTag(text).Get("json"), ",")
			if name != "" && name != "-" {
				rows = append(rows, fmt.Sprintf("| `%s` | %s | %s |\n", name, typeWords(f.Type), inCell(f.Doc.Text()+" "+f.Comment.Text())))
			}
		}
		if len(rows) > 0 {
			fmt.Fprintf(w, "| field | type | is |\n|---|---|---|\n%s", strings.Join(rows, ""))
		}
	}
}

// typeWords is the type of a field as a reader knows it.
func typeWords(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return typeWords(e.X)
	case *ast.ArrayType:
		return "list of " + typeWords(e.Elt)
	case *ast.MapType:
		return "by name: " + typeWords(e.Value)
	case *ast.SelectorExpr:
		return strings.ToLower(e.Sel.Name)
	case *ast.Ident:
		switch e.Name {
		case "string":
			return "text"
		case "bool":
			return "true or false"
		case "int", "int64":
			return "number"
		}
		return e.Name
	}
	return types.ExprString(e)
}

func referenceMetrics(t *testing.T, w *bytes.Buffer) {
	fmt.Fprintf(w, "# Metrics\n%s\nAt `/metrics` of `listen.metrics`, for Prometheus; beside them are those of Go and of the process. Which of them should wake\nsomebody is in [operating.md](../operating.md#metrics).\n\n| metric | is | labels |\n|---|---|---|\n", generated)
	rows := map[string]string{}
	add := func(name, help string, labels []string) {
		if strings.HasPrefix(name, "mayfly_") && help != "" && rows[name] == "" {
			rows[name] = fmt.Sprintf("| `%s` | %s | %s |\n", name, inCell(help), strings.Join(labels, ", "))
		}
	}
	literals := func(list []ast.Expr) (out []string) {
		for _, e := range list {
			out = append(out, quoted(e))
		}
		return out
	}
	for _, f := range parsed(t, "../../internal/metrics") {
		ast.Inspect(f, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) < 2 {
				return true
			}
			if opts, ok := call.Args[0].(*ast.CompositeLit); ok {
				of := map[string]string{}
				for _, e := range opts.Elts {
					if kv, ok := e.(*ast.KeyValueExpr); ok {
						of[kv.Key.(*ast.Ident).Name] = quoted(kv.Value)
					}
				}
				if labels, ok := call.Args[1].(*ast.CompositeLit); ok {
					add(of["Name"], of["Help"], literals(labels.Elts))
				}
				return true
			}
			if fun, ok := call.Fun.(*ast.Ident); ok && fun.Name == "desc" {
				add(quoted(call.Args[0]), quoted(call.Args[1]), literals(call.Args[2:]))
			}
			return true
		})
	}
	for _, name := range names(rows) {
		w.WriteString(rows[name])
	}
}
