package loop_test

import (
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"imlb/proxy/loop"
)

// TestAwaitEnd sees a connection end of which nothing is read.
func TestAwaitEnd(t *testing.T) {
	for name, tt := range map[string]struct {
		ends func(peer *net.TCPConn)
		half bool
		want error
	}{
		"reset":         {func(peer *net.TCPConn) { _ = peer.SetLinger(0); _ = peer.Close() }, false, syscall.ECONNRESET},
		"side":          {func(peer *net.TCPConn) { _ = peer.CloseWrite() }, true, io.EOF},
		"side, reset":   {func(peer *net.TCPConn) { _ = peer.CloseWrite(); _ = peer.SetLinger(0); _ = peer.Close() }, false, syscall.EPIPE},
		"reset at once": {func(peer *net.TCPConn) { _ = peer.SetLinger(0); _ = peer.Close() }, true, syscall.ECONNRESET},
	} {
		t.Run(name, func(t *testing.T) {
			conn, peer := tcpPair(t)
			end := make(chan error, 1)
			go func() { end <- loop.AwaitEnd(conn, tt.half) }()
			mustWrite(t, peer, []byte("for somebody else"))
			tt.ends(peer)
			if err := receive(t, end); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

// TestAwaitEndInVain ends with the deadline, and leaves what has come and a side that has ended.
func TestAwaitEndInVain(t *testing.T) {
	conn, peer := tcpPair(t)
	mustWrite(t, peer, []byte("hello"))
	_ = peer.CloseWrite()
	end := make(chan error, 1)
	go func() { end <- loop.AwaitEnd(conn, false) }()
	_ = conn.SetReadDeadline(time.Unix(1, 0))
	if err := receive(t, end); err != nil {
		t.Error(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	if got, err := io.ReadAll(conn); err != nil || string(got) != "hello" {
		t.Errorf("read %q, %v", got, err)
	}
	_ = conn.Close()
	if err := loop.AwaitEnd(conn, true); err != nil {
		t.Errorf("closed: %v", err)
	}
}
