package loop_test

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"imlb/proxy/loop"
)

func TestListenerTellsThePeer(t *testing.T) {
	g := newGroup(t, loop.Options{})
	from := make(chan netip.AddrPort, 1)
	inner := listenTCP(t)
	ln, err := g.Listen(inner, func(c *loop.Conn, addr netip.AddrPort) {
		from <- addr
		if got := c.RemoteAddr().String(); got != addr.String() {
			t.Errorf("RemoteAddr = %s, want %s", got, addr)
		}
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	conn := dialTCP(t, ln.Addr())
	if got := receive(t, from); got != conn.LocalAddr().(*net.TCPAddr).AddrPort() {
		t.Errorf("accepted from %s, want %s", got, conn.LocalAddr())
	}
}

// TestListenerRetires closes a listener under load: its sessions stay, and its
// address is free.
func TestListenerRetires(t *testing.T) {
	s := newSession(t, nil)
	addr := s.front.Addr()
	if err := errors.Join(s.front.Close(), s.front.Close()); err != nil {
		t.Error(err)
	}
	if conn, err := net.DialTimeout("tcp", addr.String(), time.Second); err == nil {
		conn.Close()
		t.Error("the listener still accepts")
	}
	mustWrite(t, s.client, []byte("x"))
	wantRead(t, s.node, []byte("x"))
	again, err := net.Listen("tcp", addr.String())
	if err != nil {
		t.Fatalf("the address is not free: %v", err)
	}
	again.Close()
}

// TestListenerClosesForAll closes a listener while one of its loops has accepted a connection for
// another.
func TestListenerClosesForAll(t *testing.T) {
	if portable {
		t.Skip("one goroutine accepts for all loops")
	}
	g := newGroup(t, loop.Options{Loops: 3})
	full, other := g.Loops()[0], g.Loops()[1]
	for range 40 {
		adopt(t, full, nil)
	}
	var mu sync.Mutex
	var order []string
	note := func(what string) {
		mu.Lock()
		defer mu.Unlock()
		order = append(order, what)
	}
	ln, err := g.Listen(listenTCP(t), func(*loop.Conn, netip.AddrPort) { note("accepted") }, nil)
	if err != nil {
		t.Fatal(err)
	}
	release := hold(t, full)
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		ln.Close()
		note("closed")
	}()
	eventually(t, "the end of accepting on the other loop", func() bool {
		n := 0
		on(t, other, func() { n = other.Listeners() })
		return n == 0
	})
	dialTCP(t, ln.Addr())
	releaseOther := hold(t, other)
	release()
	for range 20 {
		on(t, full, func() {})
	}
	releaseOther()
	receive(t, closed)
	on(t, other, func() {})
	if len(order) != 2 || order[1] != "closed" {
		t.Errorf("%v, want the end of closing last", order)
	}
}

// hold keeps a loop from all else until the returned func is called.
func hold(t *testing.T, l *loop.Loop) (release func()) {
	t.Helper()
	held, over := make(chan struct{}), make(chan struct{})
	l.Post(func() {
		close(held)
		<-over
	})
	receive(t, held)
	return sync.OnceFunc(func() { close(over) })
}

// TestListenerSpreads has sessions that stay on all loops but one.
func TestListenerSpreads(t *testing.T) {
	g := newGroup(t, loop.Options{Loops: 3})
	const conns = 600
	var count [3]atomic.Int32
	all := make(chan struct{}, conns)
	ln, err := g.Listen(listenTCP(t), func(c *loop.Conn, _ netip.AddrPort) {
		for i, l := range g.Loops() {
			if l == c.Loop() {
				count[i].Add(1)
			}
		}
		all <- struct{}{}
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for range conns {
		dialTCP(t, ln.Addr())
		receive(t, all)
	}
	if a, b, c := count[0].Load(), count[1].Load(), count[2].Load(); min(a, b) < conns/3 || c != 0 {
		t.Errorf("the loops have %d, %d and %d connections", a, b, c)
	}
}

func openFDs(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip(err)
	}
	return len(entries) - 1
}
