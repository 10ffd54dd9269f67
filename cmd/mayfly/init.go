package main

import (
	"context"
	"crypto/rand"
	"embed"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/mayfly-id/mayfly"
)

// initCmd is mayfly init.
type initCmd struct {
	Dir string `arg:"" optional:"" default:"." help:"Folder to write into; it is made if it is not there."`
}

// Help is the long help.
func (initCmd) Help() string {
	return `Writes mayfly.yaml, profiles/example.yaml, policies/example.cedar, cases that test
them in tests/example.yaml, and seal.key (the key everything secret is sealed under:
keep a copy, and keep it secret). Nothing that exists is overwritten.

  mayfly init demo && mayfly --config demo/mayfly.yaml check`
}

//go:embed template
var template embed.FS

// Run writes the files. Either all of them are new or none is written.
func (c initCmd) Run(_ context.Context, t *terminal) error {
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return err
	}
	if strings.ContainsAny(dir, "\"\\\n") {
		return mayfly.Errorf(mayfly.Invalid, "the folder's name has a quote, a backslash or a line break; choose another")
	}
	if socket := filepath.Join(dir, "admin.sock"); len(socket) > socketPathLimit {
		return mayfly.Errorf(mayfly.Invalid, "%s is longer than the %d bytes a socket's path may have; choose a shorter folder", socket, socketPathLimit)
	}
	var key [32]byte
	rand.Read(key[:])
	type file struct {
		name string
		data []byte
		mode fs.FileMode
	}
	files := []file{{"seal.key", []byte(base64.StdEncoding.EncodeToString(key[:]) + "\n"), 0o400}}
	for _, name := range []string{"mayfly.yaml", "profiles/example.yaml", "policies/example.cedar", "tests/example.yaml"} {
		data, err := template.ReadFile("template/" + name)
		if err != nil {
			return err
		}
		text := strings.ReplaceAll(string(data), "{{dir}}", dir)
		files = append(files, file{name, []byte(text), 0o644})
	}
	for _, f := range files {
		switch _, err := os.Lstat(filepath.Join(dir, f.name)); {
		case err == nil:
			return mayfly.Errorf(mayfly.Conflict, "%s exists and is not overwritten; choose another folder or remove it", filepath.Join(c.Dir, f.name))
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
	}
	// data is where the database goes: 0700, as the server wants it.
	for _, sub := range []string{"profiles", "policies", "tests"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "data"), 0o700); err != nil {
		return err
	}
	written := []string{}
	for _, f := range files {
		path := filepath.Join(dir, f.name)
		if err := writeNew(path, f.data, f.mode); err != nil {
			return err
		}
		written = append(written, filepath.Join(c.Dir, f.name))
	}
	if t.JSON {
		t.print(struct {
			Written []string `json:"written"`
		}{written})
		return nil
	}
	config := filepath.Join(c.Dir, "mayfly.yaml")
	fmt.Fprintf(t.Stdout, "wrote %s\n\nnext:\n  mayfly --config %s check\n  mayfly --config %s test\n  mayfly --config %s serve\n", strings.Join(written, ", "), config, config, config)
	return nil
}

// writeNew writes a file that must not exist, with exactly this mode.
func writeNew(path string, data []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}
