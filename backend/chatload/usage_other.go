//go:build !linux

package chatload

import "errors"

// errNoUsage says that what processes cost cannot be read on this system.
var errNoUsage = errors.New("the cost of processes is read on Linux only")

func readUsage(pids []int) (u usage, err error) {
	if len(pids) > 0 {
		return u, errNoUsage
	}
	return u, nil
}

func readMemory(pids []int) (m memory, err error) {
	if len(pids) > 0 {
		return m, errNoUsage
	}
	return m, nil
}
