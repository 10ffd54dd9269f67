package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestTheQuickstartRunsAsWritten runs every ```sh block of docs/quickstart.md, in
// order, in one shell: a real OpenID provider, a real MCP server and a real MCP
// client as processes of their own.
func TestTheQuickstartRunsAsWritten(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	peers := filepath.Join(root, "test/peers/node_modules/oidc-provider")
	if _, err := os.Stat(peers); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("the npm peers are not installed: %v", err)
		}
		t.Skip("the npm peers are not installed; run npm ci --prefix test/peers")
	}
	page, err := os.ReadFile(filepath.Join(root, "docs/quickstart.md"))
	if err != nil {
		t.Fatal(err)
	}
	script := "set -eu\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n"
	blocks := 0
	for _, part := range strings.Split(string(page), "```sh\n")[1:] {
		block, _, ok := strings.Cut(part, "```")
		if !ok {
			t.Fatal("a block does not end")
		}
		script += block
		blocks++
	}
	if blocks < 5 {
		t.Fatalf("only %d blocks found", blocks)
	}
	dir := t.TempDir()
	if err := os.Symlink(filepath.Join(root, "test"), filepath.Join(dir, "test")); err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(dir, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-o", filepath.Join(bin, "mayfly"), ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var out bytes.Buffer
	sh := exec.Command("bash", "-c", script)
	sh.Dir, sh.Stdout, sh.Stderr = dir, &out, &out
	sh.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
	sh.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = sh.Run()
	// Whatever the script left behind holds the output open, and ends with it.
	if killed := syscall.Kill(-sh.Process.Pid, syscall.SIGKILL); killed != nil && killed != syscall.ESRCH {
		t.Error(killed)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	for _, want := range []string{
		"tools it sees: echo\n", "echo: Echo: hello", "get-sum: refused,", "alice@example.org", "does not accept this delegator", "\nok: ",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the output does not have %q", want)
		}
	}
	if t.Failed() {
		t.Log(out.String())
	}
}
