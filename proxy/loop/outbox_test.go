package loop_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"

	"imlb/proxy/loop"
)

// inOneTurn makes what arrives at a loop meanwhile come to it in one turn.
func inOneTurn(t *testing.T, l *loop.Loop, arrive func()) {
	t.Helper()
	held, let := make(chan struct{}), make(chan struct{})
	if !l.Post(func() { close(held); <-let }) {
		t.Fatal("the group is closed")
	}
	receive(t, held)
	arrive()
	close(let)
}

// What a turn writes arrives whole, in order and before what comes after it, whatever that is.
func TestWritesOfATurn(t *testing.T) {
	small, large := []byte("small"), pattern(3<<10)
	tests := []struct {
		name string
		do   func(t *testing.T, c *loop.Conn)
		want []byte
		end  error
	}{
		{"small", func(t *testing.T, c *loop.Conn) { write(t, c, small) }, small, nil},
		{"one after the other", func(t *testing.T, c *loop.Conn) {
			write(t, c, small)
			write(t, c, []byte("er"))
			write(t, c, []byte(" yet"))
		}, []byte("smaller yet"), nil},
		{"large after small", func(t *testing.T, c *loop.Conn) {
			write(t, c, small)
			write(t, c, large)
			write(t, c, small)
		}, bytes.Join([][]byte{small, large, small}, nil), nil},
		{"the end", func(t *testing.T, c *loop.Conn) {
			write(t, c, small)
			if err := c.CloseWrite(); err != nil {
				t.Error(err)
			}
		}, small, io.EOF},
		{"closed", func(t *testing.T, c *loop.Conn) {
			write(t, c, small)
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}, small, io.EOF},
		{"reset", func(t *testing.T, c *loop.Conn) {
			write(t, c, small)
			if err := c.Reset(); err != nil {
				t.Error(err)
			}
		}, nil, syscall.ECONNRESET},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			l := newGroup(t, loop.Options{Loops: 1}).Loops()[0]
			var peers []*net.TCPConn
			for range 3 { // so that it is not the last one only
				_, peer := adopt(t, l, func(c *loop.Conn) {
					if n, _ := c.Read(l.Scratch()); n > 0 {
						test.do(t, c)
					}
				})
				peers = append(peers, peer)
			}
			inOneTurn(t, l, func() {
				for _, peer := range peers {
					mustWrite(t, peer, []byte("go"))
				}
			})
			for _, peer := range peers {
				got := make([]byte, len(test.want))
				if _, err := io.ReadFull(peer, got); err != nil || !bytes.Equal(got, test.want) {
					t.Fatalf("read %d bytes, %v; want %d", len(got), err, len(test.want))
				}
				if test.end == nil {
					continue
				}
				if n, err := peer.Read(make([]byte, 1)); n > 0 || !errors.Is(err, test.end) {
					t.Errorf("read %d bytes, %v; want %v", n, err, test.end)
				}
			}
		})
	}
}

func write(t *testing.T, c *loop.Conn, p []byte) {
	t.Helper()
	if n, err := c.Write(p); n != len(p) || err != nil {
		t.Errorf("Write = %d, %v", n, err)
	}
}

// More is written in a turn than is put off, to more connections.
func TestManyWritesOfATurn(t *testing.T) {
	const conns, writes = 100, 5
	l := newGroup(t, loop.Options{Loops: 1}).Loops()[0]
	all := make([]*loop.Conn, conns)
	peers := make([]*net.TCPConn, conns)
	want := make([]bytes.Buffer, conns)
	for i := range all {
		all[i], peers[i] = adopt(t, l, func(*loop.Conn) {})
	}
	_, trigger := adopt(t, l, func(c *loop.Conn) {
		if n, _ := c.Read(l.Scratch()); n == 0 {
			return
		}
		for j := range writes { // nobody's are beside each other
			for i, c := range all {
				p := fmt.Appendf(nil, "%d to %d;%s", j, i, pattern(17*(i%20)))
				write(t, c, p)
				want[i].Write(p)
			}
		}
	})
	inOneTurn(t, l, func() { mustWrite(t, trigger, []byte("go")) })
	for _, peer := range peers {
		wantRead(t, peer, []byte("0"))
	}
	on(t, l, func() {}) // now want is complete
	for i, peer := range peers {
		wantRead(t, peer, want[i].Bytes()[1:])
	}
}

// What was put off is not what Detach returns.
func TestDetachAfterWriteOfATurn(t *testing.T) {
	if !loop.CanDetach {
		t.Skip("connections cannot be detached here")
	}
	l := newGroup(t, loop.Options{Loops: 1}).Loops()[0]
	detached := make(chan *net.TCPConn, 1)
	_, peer := adopt(t, l, func(c *loop.Conn) {
		if n, _ := c.Read(l.Scratch()); n == 0 {
			return
		}
		write(t, c, []byte("before "))
		tcp, unsent, err := c.Detach()
		if err != nil || len(unsent) > 0 {
			t.Errorf("Detach = %q, %v", unsent, err)
		}
		detached <- tcp
	})
	inOneTurn(t, l, func() { mustWrite(t, peer, []byte("go")) })
	tcp := receive(t, detached)
	defer tcp.Close()
	mustWrite(t, tcp, []byte("after"))
	wantRead(t, peer, []byte("before after"))
}
