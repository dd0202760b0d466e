//go:build unix

package main

import (
	"os"
	"syscall"
)

// userSignals are those to which programs give a meaning of their own, with their names.
func userSignals() map[os.Signal]string {
	return map[os.Signal]string{syscall.SIGUSR1: "SIGUSR1", syscall.SIGUSR2: "SIGUSR2"}
}
