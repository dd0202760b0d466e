//go:build linux && !386 && !s390x && !imlb_portable

package loop_test

import (
	"net"
	"syscall"
	"testing"
	"time"

	"imlb/proxy/loop"
)

// TestKeepAlive finds the setting on what was accepted and adopted at once, and on
// what was dialled after a while.
func TestKeepAlive(t *testing.T) {
	if testing.Short() {
		t.Skip("takes ten seconds")
	}
	t.Parallel()
	g := newGroup(t, loop.Options{KeepAlive: net.KeepAliveConfig{Enable: true, Idle: 77 * time.Second, Interval: 7 * time.Second, Count: 3}})
	before := withIdle(t, 77)
	newSessionIn(t, g, nil)
	if n := withIdle(t, 77) - before; n != 1 {
		t.Errorf("%d sockets have keepalives, want that of the client", n)
	}
	adopt(t, g.Loops()[0], nil)
	if n := withIdle(t, 77) - before; n != 2 {
		t.Errorf("%d sockets have keepalives, want that of the client and the adopted", n)
	}
	eventually(t, "keepalives of the node's", func() bool { return withIdle(t, 77)-before == 3 })
}

// withIdle returns how many connected sockets of the process have keepalives after so many seconds.
func withIdle(t *testing.T, seconds int) int {
	t.Helper()
	n := 0
	for fd := range 2000 {
		on, err := syscall.GetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_KEEPALIVE)
		if err != nil || on == 0 {
			continue
		}
		if _, err := syscall.Getpeername(fd); err != nil {
			continue
		}
		if idle, err := syscall.GetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_KEEPIDLE); err == nil && idle == seconds {
			n++
		}
	}
	return n
}
