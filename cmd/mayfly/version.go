package main

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
)

// versionCmd is mayfly version.
type versionCmd struct{}

// Run prints what this binary was built from.
func (versionCmd) Run(_ context.Context, t *terminal) error {
	v := built()
	if t.JSON {
		t.print(v)
		return nil
	}
	fmt.Fprintf(t.Stdout, "mayfly %s", v.Version)
	if v.Revision != "" {
		fmt.Fprintf(t.Stdout, " (%s)", v.Revision)
	}
	fmt.Fprintf(t.Stdout, " %s %s\n", v.Go, v.Platform)
	return nil
}

// version is what the toolchain recorded in the binary.
type version struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"` // with "+" where the tree had changes
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func built() version {
	v := version{Version: "devel", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if info.Main.Version != "" && info.Main.Version != "(devel)" {
		v.Version = info.Main.Version
	}
	changed := ""
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Revision = s.Value
		case "vcs.modified":
			if s.Value == "true" {
				changed = "+"
			}
		}
	}
	if v.Revision != "" {
		v.Revision += changed
	}
	return v
}
