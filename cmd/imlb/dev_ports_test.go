package main

import (
	"net"
	"strconv"
	"testing"
)

// The ports of a cluster lie next to each other, so that another's that starts at the same time are elsewhere.
func TestFreePortsAreNeighbours(t *testing.T) {
	t.Parallel()
	const n, all = 12, lastNodePort - firstNodePort
	addrs, err := freePorts(t.Context(), n, frontPorts{})
	if err != nil || len(addrs) != n {
		t.Fatalf("got %v, %v", addrs, err)
	}
	first := 0
	for i, addr := range addrs {
		_, text, _ := net.SplitHostPort(addr)
		port, err := strconv.Atoi(text)
		if err != nil || port < firstNodePort || port >= lastNodePort {
			t.Fatalf("port %s, %v", text, err)
		}
		if i == 0 {
			first = port
		}
		if away := (port - first + all) % all; away < i || away > n+500 { // others listen here, too
			t.Errorf("%s is %d ports away from the first", addr, away)
		}
	}
}
