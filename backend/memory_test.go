package backend_test

import (
	"fmt"
	"runtime"
	"testing"
)

// An idle session's share of heap and stacks, the test's own end of the connection
// included.
func TestIdleSessionMemory(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector takes more")
	}
	const sessions, ceiling = 500, 20 << 10
	c := newCluster(t, 1, nil)
	c.online(0, "alice", "warm-up")
	for i := range sessions {
		c.account(fmt.Sprintf("user-%d", i))
	}
	before := memoryInUse()
	var clients []*client
	for i := range sessions {
		cl := c.online(0, fmt.Sprintf("user-%d", i), "phone")
		cl.buf, cl.rest, cl.scanner = nil, nil, nil
		clients = append(clients, cl)
	}
	each := (memoryInUse() - before) / sessions
	t.Logf("%d bytes for each session", each)
	if each > ceiling {
		t.Errorf("an idle session takes %d bytes, more than %d", each, ceiling)
	}
	runtime.KeepAlive(clients)
}

func memoryInUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}
