//go:build linux && !386 && !s390x && !imlb_portable

package loop_test

import (
	"errors"
	"io"
	"net"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"imlb/proxy/loop"
)

// Who speaks at once takes a packet less to connect: the other side gets the acknowledgement
// with the bytes.
func TestDialSpeaks(t *testing.T) {
	t.Parallel()
	l := newGroup(t, loop.Options{}).Loops()[0]
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	packets := func(speaks bool) uint32 {
		to := loop.Target{Addr: ln.Addr().(*net.TCPAddr).AddrPort(), Timeout: patience, Speaks: speaks}
		failed := make(chan error, 1)
		on(t, l, func() {
			l.Dial(to, loop.DialFunc(func(c *loop.Conn, err error) {
				if err == nil {
					_, err = c.Write([]byte("hello"))
				}
				failed <- err
			}))
		})
		if err := receive(t, failed); err != nil {
			t.Fatal(err)
		}
		peer, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer peer.Close()
		if _, err := io.ReadFull(peer, make([]byte, len("hello"))); err != nil {
			t.Fatal(err)
		}
		raw, err := peer.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		var info *unix.TCPInfo
		if cerr := raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) }); cerr != nil || err != nil {
			t.Fatal(cerr, err)
		}
		return info.Segs_in
	}
	if silent, speaks := packets(false), packets(true); speaks+1 != silent {
		t.Errorf("%d packets where nothing is said at once, and %d where it is", silent, speaks)
	}
}

// What a client has said is known before it is read.
func TestSpoken(t *testing.T) {
	t.Parallel()
	l := newGroup(t, loop.Options{}).Loops()[0]
	c, peer := adopt(t, l, nil)
	spoken := func() (yes bool) {
		on(t, l, func() { yes = c.Spoken() })
		return yes
	}
	if spoken() {
		t.Error("nothing was said")
	}
	mustWrite(t, peer, []byte("hello"))
	eventually(t, "what was said", spoken)
	on(t, l, func() { _ = c.Close() })
	if spoken() {
		t.Error("there is something to read of what is closed")
	}
}

// A reset that is met when it is asked whether the client has said something is not lost.
func TestSpokenReset(t *testing.T) {
	t.Parallel()
	l := newGroup(t, loop.Options{Loops: 1}).Loops()[0]
	c, peer := adopt(t, l, nil)
	inOneTurn(t, l, func() { // which has not heard of it then
		peer.SetLinger(0)
		peer.Close()
		l.Post(func() {
			if c.Spoken() {
				t.Error("who has said nothing has spoken")
			}
			if _, err := c.Read(l.Scratch()); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("read %v, want a reset", err)
			}
		})
	})
	on(t, l, func() {})
}
