//go:build !linux

package pgtest

import "syscall"

// endWithParent does nothing here: the watcher ends the server.
func endWithParent(*syscall.SysProcAttr) {}
