//go:build linux && !386 && !s390x && !imlb_portable

package loop_test

import (
	"errors"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"imlb/proxy/loop"
)

// portable tells that goroutines do the work.
const portable = false

// TestBroken tells of a reset without a read, and of nothing else.
func TestBroken(t *testing.T) {
	l := newGroup(t, loop.Options{}).Loops()[0]
	ready := make(chan error, 10)
	_, peer := adopt(t, l, func(c *loop.Conn) { ready <- c.Broken() })
	mustWrite(t, peer, []byte("hello"))
	_ = peer.CloseWrite()
	_ = peer.SetLinger(0)
	for on(t, l, func() {}); len(ready) > 0; {
		if err := receive(t, ready); err != nil {
			t.Fatal(err)
		}
	}
	_ = peer.Close()
	for err := receive(t, ready); !errors.Is(err, syscall.EPIPE); err = receive(t, ready) {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestDialGivenUp: who resets what it dials is told nothing, and nothing is left of it.
func TestDialGivenUp(t *testing.T) {
	g := newGroup(t, loop.Options{})
	l, to := g.Loops()[0], full(t)
	on(t, l, func() {
		c := l.Dial(loop.Target{Addr: to, Timeout: time.Hour}, loop.DialFunc(func(*loop.Conn, error) { t.Error("was told") }))
		if err := c.Reset(); err != nil {
			t.Error(err)
		}
	})
	if n := g.Conns(); n != 0 {
		t.Errorf("there are %d connections", n)
	}
	g.Close()
}

// TestPostRingsNobodyElse: who posts may ring when the loop has seen the post, and is over. Then
// the number of its descriptor may be somebody else's.
func TestPostRingsNobodyElse(t *testing.T) {
	g, err := loop.New(loop.Options{Loops: 1})
	if err != nil {
		t.Fatal(err)
	}
	l := g.Loops()[0]
	bell := l.Bell()
	g.Close()
	other := -1
	for range 100 { // the system gives the lowest number that is free
		fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Close(fd) })
		if fd >= bell {
			other = fd
			break
		}
	}
	if other != bell {
		t.Skip("the number is not to be had")
	}
	l.Ring()
	if _, err := unix.Read(other, make([]byte, 8)); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("read %v: it was written to", err)
	}
}
