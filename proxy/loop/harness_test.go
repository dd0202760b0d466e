package loop_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"imlb/proxy/loop"
)

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

// newGroup returns a group that ends with the test.
func newGroup(t testing.TB, opts loop.Options) *loop.Group {
	t.Helper()
	if opts.Loops == 0 {
		opts.Loops = 2
	}
	if opts.Panic == nil {
		opts.Panic = func(err error) {
			var p *loop.PanicError
			if errors.As(err, &p) {
				t.Errorf("%v\n%s", p, p.Stack)
			}
		}
	}
	g, err := loop.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.Close() })
	return g
}

// listenTCP returns a listener on a free port.
func listenTCP(t testing.TB) *net.TCPListener {
	t.Helper()
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	return ln
}

// tcpPair returns both ends of a connection.
func tcpPair(t testing.TB) (a, b *net.TCPConn) {
	t.Helper()
	ln := listenTCP(t)
	defer ln.Close()
	a = dialTCP(t, ln.Addr())
	b, err := ln.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return a, b
}

func dialTCP(t testing.TB, addr net.Addr) *net.TCPConn {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr.String(), patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return conn.(*net.TCPConn)
}

// front is a small proxy: what it accepts is joined to a node.
type front struct {
	*loop.Listener
	group  *loop.Group
	relays chan *loop.Relay
	ended  chan loop.Ending
}

// newFront starts a proxy to addr. configure may change what its relays are made of.
func newFront(t testing.TB, g *loop.Group, addr net.Addr, configure func(*loop.RelayConfig)) *front {
	t.Helper()
	f := &front{group: g, relays: make(chan *loop.Relay, 20000), ended: make(chan loop.Ending, 20000)}
	to := addr.(*net.TCPAddr).AddrPort()
	ln, err := g.Listen(listenTCP(t), func(c *loop.Conn, _ netip.AddrPort) {
		c.Loop().Dial(loop.Target{Addr: to, Timeout: patience}, loop.DialFunc(func(node *loop.Conn, err error) {
			if err != nil {
				_ = c.Reset()
				f.ended <- loop.Ending{Side: loop.Node, Cause: loop.Aborted, Err: err}
				return
			}
			cfg := loop.RelayConfig{
				Client: loop.End{Conn: c},
				Node:   loop.End{Conn: node},
				Done:   func(_ *loop.Relay, e loop.Ending) { f.ended <- e },
			}
			if configure != nil {
				configure(&cfg)
			}
			f.relays <- loop.NewRelay(cfg)
		}))
	}, func(err error, _ time.Duration) { t.Log(err) })
	if err != nil {
		t.Fatal(err)
	}
	f.Listener = ln
	t.Cleanup(func() { _ = ln.Close() })
	return f
}

// session is one session through a front, as its ends see it.
type session struct {
	client, node *net.TCPConn
	relay        *loop.Relay
	front        *front
}

func newSession(t testing.TB, configure func(*loop.RelayConfig)) *session {
	t.Helper()
	return newSessionIn(t, newGroup(t, loop.Options{}), configure)
}

func newSessionIn(t testing.TB, g *loop.Group, configure func(*loop.RelayConfig)) *session {
	t.Helper()
	ln := listenTCP(t)
	f := newFront(t, g, ln.Addr(), configure)
	s := &session{front: f, client: dialTCP(t, f.Addr())}
	node, err := ln.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = node.Close() })
	if err := node.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	s.node, s.relay = node, receive(t, f.relays)
	return s
}

// end returns how the session ended.
func (s *session) end(t testing.TB) loop.Ending {
	t.Helper()
	return receive(t, s.front.ended)
}

// receive returns what comes from a channel.
func receive[T any](t testing.TB, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

// eventually waits until a condition holds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("did not come: %s", what)
		}
	}
}

// on runs f on a loop and waits for it.
func on(t testing.TB, l *loop.Loop, f func()) {
	t.Helper()
	done := make(chan struct{})
	if !l.Post(func() { defer close(done); f() }) {
		t.Fatal("the group is closed")
	}
	receive(t, done)
}

func mustWrite(t testing.TB, w io.Writer, p []byte) {
	t.Helper()
	if _, err := w.Write(p); err != nil {
		t.Fatal(err)
	}
}

func wantRead(t testing.TB, r io.Reader, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	n, err := io.ReadFull(r, got)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("read %d bytes, %v; want %d bytes", n, err, len(want))
	}
}

func wantEOF(t testing.TB, r io.Reader) {
	t.Helper()
	if n, err := r.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Fatalf("Read = %d, %v; want EOF", n, err)
	}
}

// pattern returns n bytes that differ by place.
func pattern(n int) []byte {
	p := make([]byte, n)
	x := uint32(n)
	for i := range p {
		x = x*1664525 + 1013904223
		p[i] = byte(x >> 24)
	}
	return p
}

// together runs functions and waits for all.
func together(fs ...func()) {
	var wg sync.WaitGroup
	for _, f := range fs {
		wg.Go(f)
	}
	wg.Wait()
}
