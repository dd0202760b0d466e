//go:build !unix

package main

import "syscall"

// ownProcessGroup has nothing to ask for where there are no process groups.
func ownProcessGroup() *syscall.SysProcAttr { return nil }

// lockDirectory does nothing where there is no flock.
func lockDirectory(string) (unlock func(), err error) { return func() {}, nil }
