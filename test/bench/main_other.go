//go:build !linux

// Command bench compares imlb with other proxies, on Linux.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "bench: it needs Linux: epoll, and what /proc tells")
	os.Exit(1)
}
