//go:build linux && !386 && !s390x && !imlb_portable

package loop_test

import (
	"errors"
	"net"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"imlb/proxy/loop"
)

// What a turn writes is sent when all that the turn has brought has been read.
func TestWritesOfATurnComeTogether(t *testing.T) {
	l := newGroup(t, loop.Options{Loops: 1}).Loops()[0]
	peers := make([]*net.TCPConn, 3)
	written, early := 0, 0
	for i := range peers {
		_, peers[i] = adopt(t, l, func(c *loop.Conn) {
			if n, _ := c.Read(l.Scratch()); n == 0 {
				return
			}
			for _, peer := range peers {
				if arrived(t, peer) {
					early++
				}
			}
			write(t, c, []byte("answer"))
			written++
		})
	}
	inOneTurn(t, l, func() {
		for _, peer := range peers {
			mustWrite(t, peer, []byte("go"))
		}
	})
	for _, peer := range peers {
		wantRead(t, peer, []byte("answer"))
	}
	on(t, l, func() {
		if written != len(peers) || early > 0 {
			t.Errorf("%d connections have written, %d answers were there before all had; want %d and 0", written, early, len(peers))
		}
	})
}

// A connection that is broken when what was put off is sent says so to its handler.
func TestWriteOfATurnFails(t *testing.T) {
	l := newGroup(t, loop.Options{Loops: 1}).Loops()[0]
	told := make(chan error, 1)
	var broken *loop.Conn
	broken, peer := adopt(t, l, func(c *loop.Conn) {
		if _, err := c.Read(l.Scratch()); err != nil && !errors.Is(err, loop.ErrAgain) {
			select {
			case told <- err:
			default:
			}
		}
	})
	on(t, l, func() {
		if err := broken.CloseSending(); err != nil { // so that sending fails, and nothing comes before
			t.Error(err)
		}
	})
	_, trigger := adopt(t, l, func(c *loop.Conn) {
		if n, _ := c.Read(l.Scratch()); n > 0 {
			write(t, broken, []byte("lost"))
		}
	})
	inOneTurn(t, l, func() { mustWrite(t, trigger, []byte("go")) })
	if err := receive(t, told); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("read %v, want EPIPE", err)
	}
	wantEOF(t, peer)
}

// arrived tells whether there is something to read, which loopback says at once.
func arrived(t *testing.T, c *net.TCPConn) bool {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Error(err)
		return false
	}
	n := 0
	if err := errors.Join(raw.Control(func(fd uintptr) {
		n, _, err = unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
	}), err); err != nil && !errors.Is(err, unix.EAGAIN) {
		t.Error(err)
	}
	return n > 0
}
