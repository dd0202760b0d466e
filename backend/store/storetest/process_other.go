//go:build !linux

package storetest

import "syscall"

// attributes would make a process run as somebody else, which tests do as root on
// Linux only.
func attributes(*identity) *syscall.SysProcAttr { return nil }
