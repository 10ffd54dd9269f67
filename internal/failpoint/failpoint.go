// Package failpoint kills the process at a named line, so that tests can see
// what a crash there leaves behind. It owns nothing else. Without the build tag
// failpoint it is empty and costs nothing; start reading at kill.go.
package failpoint
