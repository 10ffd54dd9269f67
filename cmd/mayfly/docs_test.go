package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

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

// pagesOf are the pages of the documentation, with their text.
func pagesOf(t *testing.T) map[string]string {
	t.Helper()
	pages := map[string]string{}
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/*/*.md"} {
		paths, err := filepath.Glob(filepath.Join("../..", pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			pages[filepath.Clean(path)] = string(text)
		}
	}
	return pages
}

var (
	aLink    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	aHeading = regexp.MustCompile(`(?m)^#+ (.+)$`)
	notInID  = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// Every link of the documentation leads to a page, a picture or a heading that is
// there.
func TestLinksInTheDocumentationLeadSomewhere(t *testing.T) {
	pages := pagesOf(t)
	headings := func(page string) map[string]bool {
		found := map[string]bool{}
		for _, h := range aHeading.FindAllStringSubmatch(pages[page], -1) {
			found[strings.ReplaceAll(strings.ToLower(notInID.ReplaceAllString(h[1], "")), " ", "-")] = true
		}
		return found
	}
	links := 0
	for page, text := range pages {
		for _, link := range aLink.FindAllStringSubmatch(text, -1) {
			to, heading, _ := strings.Cut(link[1], "#")
			if strings.Contains(to, "://") {
				continue
			}
			links++
			path := page
			if to != "" {
				path = filepath.Join(filepath.Dir(page), to)
			}
			if _, err := os.Stat(path); err != nil {
				t.Errorf("%s: the link %s leads nowhere", page, link[1])
			} else if heading != "" && !headings(path)[heading] {
				t.Errorf("%s: there is no heading for %s", page, link[1])
			}
		}
	}
	if links < 50 {
		t.Errorf("only %d links were found", links)
	}
}

// Every command line that the documentation shows is one that the program takes.
func TestCommandsInTheDocumentationAreTaken(t *testing.T) {
	line := regexp.MustCompile(`(?m)^(?:    |\$ )?(?:[A-Z_]+=\S+ )*(?:\./)?mayfly ([^\n]*)$`)
	comment := regexp.MustCompile(`( {2,}| #).*$`)
	commands := 0
	for page, text := range pagesOf(t) {
		if strings.Contains(page, "reference") {
			continue // made from the program
		}
		for _, m := range line.FindAllStringSubmatch(text, -1) {
			said, _, _ := strings.Cut(comment.ReplaceAllString(m[1], ""), " && ")
			said, _, _ = strings.Cut(said, " -- ")
			said, _, _ = strings.Cut(said, " 2>")
			if strings.HasSuffix(said, "\\") || said == "" || !regexp.MustCompile(`^(--|[a-z]+)`).MatchString(said) {
				continue
			}
			var args []string
			for _, a := range regexp.MustCompile(`"[^"]*"|'[^']*'|\S+`).FindAllString(said, -1) {
				args = append(args, strings.Trim(a, `"'`))
			}
			if strings.Contains(m[1], " -- ") {
				args = append(args, "--", "true")
			}
			var c cli
			parser, err := kong.New(&c, kong.Name("mayfly"), kong.Exit(func(int) {}), kong.Writers(&strings.Builder{}, &strings.Builder{}))
			if err != nil {
				t.Fatal(err)
			}
			commands++
			if _, err := parser.Parse(args); err != nil {
				t.Errorf("%s: mayfly %s: %v", page, m[1], err)
			}
		}
	}
	if commands < 40 {
		t.Errorf("only %d commands were found", commands)
	}
}
