package server

import (
	"mime"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-id/mayfly/internal/mayflytest/apicheck"
)

// TestEveryRouteIsDescribedAndNothingElse holds the table against the document,
// both ways.
func TestEveryRouteIsDescribedAndNothingElse(t *testing.T) {
	checker, err := apicheck.New(OpenAPI())
	if err != nil {
		t.Fatalf("the document cannot be used: %v", err)
	}
	type row struct {
		Values, Query []string
		Body          string
		Status        int
		Answers       []string
	}
	described, there := map[string]row{}, map[string]row{}
	for _, op := range checker.Operations() {
		described[op.Method+" "+op.Path] = row{sorted(op.Values), sorted(op.Query), op.Body, op.Status, sorted(op.Answers)}
	}
	names := regexp.MustCompile(`\{(\w+)`)
	for _, r := range routes() {
		var values []string
		for _, m := range names.FindAllStringSubmatch(r.pattern, -1) {
			values = append(values, m[1])
		}
		var answers []string
		if r.answer != "" {
			plain, _, err := mime.ParseMediaType(r.answer)
			if err != nil {
				t.Fatalf("%s answers %q: %v", r.pattern, r.answer, err)
			}
			answers = append(answers, plain)
		}
		if r.stream {
			answers = append(answers, typeSSE)
		}
		key := r.method + " " + strings.ReplaceAll(r.pattern, "...", "")
		if _, twice := there[key]; twice {
			t.Errorf("%s is in the table twice", key)
		}
		there[key] = row{sorted(values), sorted(r.query), [...]string{"", typeForm, typeJSON}[r.body], r.status, sorted(answers)}
	}
	if diff := cmp.Diff(described, there); diff != "" {
		t.Errorf("the document (-) and the routes (+) differ:\n%s", diff)
	}
}

func sorted(s []string) []string {
	s = slices.Clone(s)
	slices.Sort(s)
	return s
}

func TestAPatternIsReadAsItStands(t *testing.T) {
	for _, c := range []struct {
		pattern, path string
		want          map[string]string // nil: it does not fit
	}{
		{"/v1/tasks/{id}", "/v1/tasks/a", map[string]string{"id": "a"}},
		{"/v1/tasks/{id}", "/v1/tasks/", nil},
		{"/v1/tasks/{id}", "/v1/tasks/a/", nil},
		{"/v1/tasks/{id}", "/v1/tasks/a/b", nil},
		{"/v1/tasks/{id}", "/v1//tasks/a", nil},
		{"/v1/tasks/{id}", "/v1/tasks/%2e%2e", map[string]string{"id": ".."}},
		{"/v1/tasks/{id}", "/v1/tasks/a%2Fb", map[string]string{"id": "a/b"}},
		{"/v1/tasks/{id}", "/v1/tasks/a%zz", nil},
		{"/v1/tasks/{id}", "/v1/%74asks/a", nil},
		{"/v1/tasks/{id}/tree", "/v1/tasks/a/tree", map[string]string{"id": "a"}},
		{"/v1/tasks/{id}/tree", "/v1/tasks//tree", nil},
		{"/v1/tasks/{id}/tree", "/v1/tasks/a/trees", nil},
		{"/log/tile/{path...}", "/log/tile/0/x001/067.p/8", map[string]string{"path": "0/x001/067.p/8"}},
		{"/log/tile/{path...}", "/log/tile/", nil},
		{"/log/tile/{path...}", "/log/tile", nil},
	} {
		got, ok := matchPattern(c.pattern, c.path)
		if ok != (c.want != nil) || ok && !cmp.Equal(got, c.want) {
			t.Errorf("matchPattern(%q, %q) = %v, %v; want %v", c.pattern, c.path, got, ok, c.want)
		}
	}
}

// FuzzPathsHaveOneSpelling: whatever path is asked for, the route that is found
// is the one whose fixed segments stand in it letter for letter.
func FuzzPathsHaveOneSpelling(f *testing.F) {
	for _, r := range routes() {
		f.Add(r.pattern)
	}
	f.Add("/health/../admin")
	f.Add("//v1/tasks")
	f.Add("/v1/tasks/%00/tree")
	x := sortOut(routes())
	f.Fuzz(func(t *testing.T, path string) {
		fits := x.fixed[path]
		if fits == nil {
			fits, _ = x.match(path)
		}
		for _, r := range fits {
			want, got := strings.Split(r.pattern, "/"), strings.Split(path, "/")
			for i, segment := range want {
				if strings.HasSuffix(segment, "...}") {
					return
				}
				if i >= len(got) || !strings.HasPrefix(segment, "{") && segment != got[i] || got[i] == "" && i > 0 {
					t.Fatalf("%q was taken for %s", path, r.pattern)
				}
			}
			if len(want) != len(got) {
				t.Fatalf("%q was taken for %s", path, r.pattern)
			}
		}
	})
}

func TestAToolsNameMayHoldSlashes(t *testing.T) {
	got, ok := matchPattern("/v1/pins/{target}/{tool}/accept", "/v1/pins/bank/a%2Fb%2525/accept")
	if want := map[string]string{"target": "bank", "tool": "a/b%25"}; !ok || !cmp.Equal(got, want) {
		t.Errorf("it reads %v, %v", got, ok)
	}
}
