//go:build unix

package main

import "syscall"

// ownProcessGroup keeps a Ctrl-C in the terminal from reaching a child, so that
// the parent can stop its children in order.
func ownProcessGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
