package proxy_test

import (
	"io"
	"net"
	"testing"

	"golang.org/x/net/nettest"

	"imlb/proxy"
)

// A wire of which some bytes were looked at is a connection like any other, which
// begins with them.
func TestLookedAtWireIsConn(t *testing.T) {
	t.Parallel()
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		a, b := tcpPair(t)
		for _, c := range []net.Conn{a, b} {
			if _, err := c.Write([]byte("seen")); err != nil {
				return nil, nil, nil, err
			}
		}
		c1, c2 = proxy.NewWire(a), proxy.NewWire(b)
		for _, c := range []net.Conn{c1, c2} {
			if err := proxy.Look(c, len("seen")); err != nil {
				return nil, nil, nil, err
			}
			if _, err := io.ReadFull(c, make([]byte, len("seen"))); err != nil {
				return nil, nil, nil, err
			}
		}
		return c1, c2, func() { c1.Close(); c2.Close() }, nil
	})
}

// Bytes that were looked at come once, before those that come later, however little is
// read at a time.
func TestLookedAtWire(t *testing.T) {
	t.Parallel()
	a, b := tcpPair(t)
	defer a.Close()
	w := proxy.NewWire(b)
	defer w.Close()
	for _, part := range []string{"one ", "two "} {
		if _, err := a.Write([]byte(part)); err != nil {
			t.Fatal(err)
		}
		if err := proxy.Look(w, len(part)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := a.Write([]byte("three")); err != nil {
		t.Fatal(err)
	}
	a.Close()
	var got []byte
	for buf := make([]byte, 3); ; {
		n, err := w.Read(buf)
		got = append(got, buf[:n]...)
		if err != nil {
			break
		}
	}
	if string(got) != "one two three" {
		t.Errorf("read %q", got)
	}
}

// tcpPair returns both ends of a TCP connection.
func tcpPair(t *testing.T) (a, b *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c1, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c2, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return c1.(*net.TCPConn), c2.(*net.TCPConn)
}
