package pgtest

import "syscall"

// endWithParent has the kernel end the child at once when the thread that
// started it ends.
func endWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGQUIT }
