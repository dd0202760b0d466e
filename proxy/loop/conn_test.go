package loop_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"imlb/proxy/loop"
)

// handler is a Handler made of functions.
type handler struct {
	ready  func(*loop.Conn)
	failed func(error)
}

func (h handler) Ready(c *loop.Conn)             { h.ready(c) }
func (h handler) Failed(_ *loop.Conn, err error) { h.failed(err) }

// adopt puts a connection on a loop, and returns its peer.
func adopt(t *testing.T, l *loop.Loop, h func(*loop.Conn)) (*loop.Conn, *net.TCPConn) {
	t.Helper()
	peer, own := tcpPair(t)
	var c *loop.Conn
	on(t, l, func() {
		var err error
		if c, err = l.Adopt(own); err != nil {
			t.Error(err)
			return
		}
		if h != nil {
			c.SetHandler(handler{ready: h})
		}
	})
	return c, peer
}

func TestConnReadsWhatArrives(t *testing.T) {
	l := newGroup(t, loop.Options{}).Loops()[0]
	type result struct {
		text string
		err  error
	}
	got := make(chan result, 100)
	_, peer := adopt(t, l, func(c *loop.Conn) {
		for {
			n, err := c.Read(l.Scratch())
			if errors.Is(err, loop.ErrAgain) {
				return
			}
			got <- result{string(l.Scratch()[:n]), err}
			if err != nil {
				return
			}
		}
	})
	for _, text := range []string{"one", "two"} {
		mustWrite(t, peer, []byte(text))
		if r := receive(t, got); r.text != text || r.err != nil {
			t.Errorf("read %q, %v; want %q", r.text, r.err, text)
		}
	}
	peer.CloseWrite()
	if r := receive(t, got); !errors.Is(r.err, io.EOF) {
		t.Errorf("read %v at the end, want EOF", r.err)
	}
}

func TestErrAgainIsTemporary(t *testing.T) {
	var err net.Error
	if !errors.As(loop.ErrAgain, &err) || !err.Timeout() {
		t.Error("ErrAgain is not a timeout")
	}
	temporary, ok := loop.ErrAgain.(interface{ Temporary() bool })
	if !ok || !temporary.Temporary() {
		t.Error("ErrAgain is not temporary: crypto/tls would take it for the end")
	}
	if loop.ErrAgain.Error() == "" || loop.ErrStalled.Error() == "" {
		t.Error("errors say nothing")
	}
}

// TestConnUrgentData sends a byte out of band, at which the kernel cuts reads short.
func TestConnUrgentData(t *testing.T) {
	if portable {
		t.Skip("the other implementation reads ahead")
	}
	s := newSession(t, nil)
	mustWrite(t, s.client, []byte("a"))
	urge(t, s.client)
	mustWrite(t, s.client, []byte("b"))
	wantRead(t, s.node, []byte("ab"))
}

// urge sends a byte of urgent data, which nobody reads.
func urge(t *testing.T, conn *net.TCPConn) {
	t.Helper()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Write(func(fd uintptr) bool {
		err = syscall.Sendto(int(fd), []byte("!"), syscall.MSG_OOB, nil)
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestConnReadDeadline(t *testing.T) {
	l := newGroup(t, loop.Options{}).Loops()[0]
	errs := make(chan error, 10)
	start := time.Now()
	c, peer := adopt(t, l, func(c *loop.Conn) {
		if _, err := c.Read(l.Scratch()); !errors.Is(err, loop.ErrAgain) {
			errs <- err
		}
	})
	on(t, l, func() {
		c.SetReadDeadline(start.Add(30 * time.Millisecond))
		c.SetReadDeadline(start.Add(200 * time.Millisecond)) // the later one counts
	})
	if err := receive(t, errs); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read %v, want the deadline", err)
	}
	if d := time.Since(start); d < 200*time.Millisecond || d > 5*time.Second {
		t.Errorf("the deadline of 200ms came after %v", d)
	}
	on(t, l, func() {
		c.SetReadDeadline(time.Now().Add(-time.Second))
		if _, err := c.Read(l.Scratch()); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read %v, want the deadline that has passed", err)
		}
		c.SetDeadline(time.Time{})
		if _, err := c.Read(l.Scratch()); !errors.Is(err, loop.ErrAgain) {
			t.Errorf("read %v without a deadline, want ErrAgain", err)
		}
	})
	drainErrors(errs)
	mustWrite(t, peer, []byte("x"))
	if err := receive(t, errs); err != nil {
		t.Errorf("read %v after the deadline was taken away", err)
	}
}

func drainErrors(ch chan error) {
	for len(ch) > 0 {
		<-ch
	}
}

// TestConnWriteNeverBlocks writes far more than the socket takes; all of it comes,
// and the end after it.
func TestConnWriteNeverBlocks(t *testing.T) {
	l := newGroup(t, loop.Options{}).Loops()[0]
	drained := make(chan struct{}, 10)
	var c *loop.Conn
	c, peer := adopt(t, l, func(c *loop.Conn) {
		if c.Pending() == 0 {
			drained <- struct{}{}
		}
	})
	receive(t, drained)
	p := pattern(16 << 20)
	on(t, l, func() {
		if n, err := c.Write(p); n != len(p) || err != nil {
			t.Errorf("Write = %d, %v; want all", n, err)
		}
		if c.Pending() == 0 {
			t.Error("nothing is pending")
		}
		if err := c.CloseWrite(); err != nil {
			t.Error(err)
		}
		if _, err := c.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("Write after CloseWrite: %v, want EPIPE", err)
		}
	})
	wantRead(t, peer, p)
	wantEOF(t, peer)
	receive(t, drained)
}

// TestConnCloseSendsWhatIsPending closes a connection whose output has to wait.
func TestConnCloseSendsWhatIsPending(t *testing.T) {
	g := newGroup(t, loop.Options{})
	l := g.Loops()[0]
	c, peer := adopt(t, l, nil)
	p := pattern(16 << 20)
	on(t, l, func() {
		c.Write(p)
		c.Close()
		if _, err := c.Write(p); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Write after Close: %v, want ErrClosed", err)
		}
	})
	wantRead(t, peer, p)
	wantEOF(t, peer)
	eventually(t, "the end of the connection", func() bool { return g.Conns() == 0 })
}

func TestConnCloseGivesUp(t *testing.T) {
	g := newGroup(t, loop.Options{})
	l := g.Loops()[0]
	c, _ := adopt(t, l, nil)
	on(t, l, func() {
		c.SetStall(50 * time.Millisecond)
		c.Write(pattern(32 << 20))
		c.Close()
	})
	eventually(t, "the end of the connection", func() bool { return g.Conns() == 0 })
}

func TestConnStall(t *testing.T) {
	l := newGroup(t, loop.Options{}).Loops()[0]
	errs := make(chan error, 10)
	c, _ := adopt(t, l, func(c *loop.Conn) {
		if _, err := c.Read(l.Scratch()); !errors.Is(err, loop.ErrAgain) {
			errs <- err
		}
	})
	on(t, l, func() {
		c.SetStall(50 * time.Millisecond)
		c.Write(pattern(32 << 20))
	})
	if err := receive(t, errs); !errors.Is(err, loop.ErrStalled) {
		t.Errorf("read %v, want ErrStalled", err)
	}
	on(t, l, func() {
		if _, err := c.Write([]byte("x")); !errors.Is(err, loop.ErrStalled) {
			t.Errorf("write %v, want ErrStalled", err)
		}
	})
}

// TestConnSlowPeer: who takes some within the time of a stall does not stall, though it be too
// little for the kernel to tell of room.
func TestConnSlowPeer(t *testing.T) {
	l := newGroup(t, loop.Options{}).Loops()[0]
	c, peer := adopt(t, l, nil)
	state := func() (pending, unacked int) {
		on(t, l, func() { pending, unacked = c.Pending(), c.Unacked() })
		return pending, unacked
	}
	ages := func() (err error) {
		on(t, l, func() {
			c.Age(time.Hour)
			_, err = c.Write(nil)
		})
		return err
	}
	on(t, l, func() {
		c.SetStall(time.Hour)
		c.Write(make([]byte, 24<<20))
	})
	last := -1
	eventually(t, "a peer that takes no more", func() bool {
		_, now := state()
		still := now == last
		last = now
		return still
	})
	on(t, l, func() { c.Age(0) }) // a look at what the peer took by itself
	pending, unacked := state()
	for now := unacked; now == unacked; _, now = state() {
		wantRead(t, peer, make([]byte, 16<<10))
	}
	if now, _ := state(); now != pending {
		t.Skip("the kernel tells of little room, too")
	}
	if err := ages(); err != nil {
		t.Errorf("after an hour in which the peer took some: %v", err)
	}
	eventually(t, "a stall", func() bool { return errors.Is(ages(), loop.ErrStalled) })
}

func TestConnReset(t *testing.T) {
	l := newGroup(t, loop.Options{}).Loops()[0]
	c, peer := adopt(t, l, nil)
	on(t, l, func() {
		if err := errors.Join(c.Reset(), c.Reset(), c.Close()); err != nil {
			t.Error(err)
		}
		for what, err := range map[string]error{"Read": second(c.Read(nil)), "SetDeadline": c.SetDeadline(time.Now()), "CloseWrite": c.CloseWrite()} {
			if !errors.Is(err, net.ErrClosed) {
				t.Errorf("%s: %v, want ErrClosed", what, err)
			}
		}
	})
	if _, err := peer.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the peer read %v, want a reset", err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestConnAddresses(t *testing.T) {
	l := newGroup(t, loop.Options{}).Loops()[0]
	c, peer := adopt(t, l, nil)
	on(t, l, func() {
		if got := c.LocalAddr().String(); got != peer.RemoteAddr().String() {
			t.Errorf("LocalAddr = %s, want %s", got, peer.RemoteAddr())
		}
		if got := c.RemoteAddr().String(); got != peer.LocalAddr().String() {
			t.Errorf("RemoteAddr = %s, want %s", got, peer.LocalAddr())
		}
	})
}

func TestDial(t *testing.T) {
	l := newGroup(t, loop.Options{KeepAlive: net.KeepAliveConfig{Enable: true, Idle: time.Minute, Interval: time.Second, Count: 3}}).Loops()[0]
	type result struct {
		conn *loop.Conn
		err  error
	}
	dial := func(addr netip.AddrPort, timeout time.Duration) result {
		ch := make(chan result, 1)
		inside := true
		on(t, l, func() {
			l.Dial(loop.Target{Addr: addr, Timeout: timeout}, loop.DialFunc(func(c *loop.Conn, err error) {
				if inside {
					t.Error("done runs inside Dial")
				}
				ch <- result{c, err}
			}))
			inside = false
		})
		return receive(t, ch)
	}
	for _, network := range []string{"tcp4", "tcp6"} {
		ln, err := net.Listen(network, "localhost:0")
		if err != nil {
			t.Logf("%s: %v", network, err)
			continue
		}
		r := dial(ln.Addr().(*net.TCPAddr).AddrPort(), patience)
		if r.err != nil {
			t.Fatal(r.err)
		}
		peer, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		on(t, l, func() { r.conn.Write([]byte("hello")); r.conn.Close() })
		wantRead(t, peer, []byte("hello"))
		wantEOF(t, peer)
		peer.Close()
		ln.Close()
	}
	gone := listenTCP(t)
	gone.Close()
	if r := dial(gone.Addr().(*net.TCPAddr).AddrPort(), patience); !errors.Is(r.err, syscall.ECONNREFUSED) {
		t.Errorf("dial to nobody: %v, want ECONNREFUSED", r.err)
	}
	if r := dial(netip.AddrPort{}, patience); r.err == nil {
		t.Error("dial to no address worked")
	}
	if r := dial(full(t), 50*time.Millisecond); !errors.Is(r.err, os.ErrDeadlineExceeded) {
		t.Errorf("dial to a full listener: %v, want the deadline", r.err)
	}
}

// A connection comes from a source that fits and that this machine has.
func TestDialFrom(t *testing.T) {
	l := newGroup(t, loop.Options{}).Loops()[0]
	ln := listenTCP(t)
	absent, fit := netip.MustParseAddr("192.0.2.9"), netip.MustParseAddr("127.0.0.7") // RFC 5737
	for _, tt := range []struct {
		from []netip.Addr
		want error
	}{
		{[]netip.Addr{fit}, nil},
		{[]netip.Addr{absent, netip.IPv6Loopback(), fit}, nil},
		{[]netip.Addr{absent}, syscall.EADDRNOTAVAIL},
		{[]netip.Addr{netip.IPv6Loopback()}, loop.ErrNoSource},
	} {
		for range 10 { // it begins anywhere
			from := make(chan net.Addr, 1)
			failed := make(chan error, 1)
			on(t, l, func() {
				l.Dial(loop.Target{From: tt.from, Addr: ln.Addr().(*net.TCPAddr).AddrPort(), Timeout: patience}, loop.DialFunc(func(c *loop.Conn, err error) {
					if err == nil {
						from <- c.LocalAddr()
						c.Close()
					}
					failed <- err
				}))
			})
			if err := receive(t, failed); !errors.Is(err, tt.want) {
				t.Fatalf("from %v: %v, want %v", tt.from, err, tt.want)
			}
			if tt.want != nil {
				continue
			}
			if got := receive(t, from).(*net.TCPAddr).AddrPort().Addr(); got != fit {
				t.Fatalf("from %v: came from %v", tt.from, got)
			}
		}
	}
}

// full returns the address of a listener that answers no more.
func full(t *testing.T) netip.AddrPort {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	sa, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	port := sa.(*syscall.SockaddrInet4).Port
	addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(port))
	for range 4 {
		d := net.Dialer{Timeout: 100 * time.Millisecond}
		if conn, err := d.Dial("tcp", addr.String()); err == nil {
			t.Cleanup(func() { conn.Close() })
		}
	}
	return addr
}

// panicky is a Dialer that panics, and is told so.
type panicky struct{ failed chan bool }

func (panicky) Ready(*loop.Conn)               { panic("nothing to be ready for") }
func (panicky) Dialled(*loop.Conn, error)      { panic("oops") }
func (p panicky) Failed(c *loop.Conn, _ error) { p.failed <- c != nil }

// TestPanicAfterDial: who panics with what it has dialled is told, and so is who panics
// because it got nothing.
func TestPanicAfterDial(t *testing.T) {
	l := newGroup(t, loop.Options{Loops: 1, Panic: func(error) {}}).Loops()[0]
	ln := listenTCP(t)
	defer ln.Close()
	p := panicky{failed: make(chan bool, 1)}
	on(t, l, func() { l.Dial(loop.Target{Addr: ln.Addr().(*net.TCPAddr).AddrPort(), Timeout: patience}, p) })
	if !receive(t, p.failed) {
		t.Error("told of no connection")
	}
	peer, err := ln.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	if _, err := peer.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the peer read %v, want a reset", err)
	}
	on(t, l, func() { l.Dial(loop.Target{Addr: netip.AddrPort{}, Timeout: patience}, p) })
	if receive(t, p.failed) {
		t.Error("told of a connection that was not made")
	}
}

// TestPanicEndsOneConnection has a handler panic, and a relay's callback, and posts.
func TestPanicEndsOneConnection(t *testing.T) {
	var panics atomic.Int32
	g := newGroup(t, loop.Options{Loops: 1, Panic: func(err error) {
		var p *loop.PanicError
		if !errors.As(err, &p) || p.Value != "oops" || len(p.Stack) == 0 || p.Error() != "panic: oops" {
			t.Errorf("Panic(%v), want oops", err)
		}
		panics.Add(1)
	}})
	other := newSessionIn(t, g, nil)
	l := g.Loops()[0]

	failed := make(chan error, 1)
	c, peer := adopt(t, l, nil)
	on(t, l, func() {
		c.SetHandler(handler{ready: func(*loop.Conn) { panic("oops") }, failed: func(err error) { failed <- err }})
	})
	receive(t, failed)
	if _, err := peer.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the peer read %v, want a reset", err)
	}
	l.Post(func() { panic("oops") })
	on(t, l, func() { l.After(0, func() { panic("oops") }) })
	s := newSessionIn(t, g, func(cfg *loop.RelayConfig) {
		cfg.Throttle[loop.Client] = func(int) time.Duration { panic("oops") }
	})
	mustWrite(t, s.client, []byte("x"))
	if e := s.end(t); e.Cause != loop.Internal || e.Err == nil {
		t.Errorf("ending %+v, want internal", e)
	}
	eventually(t, "four panics", func() bool { return panics.Load() == 4 })
	mustWrite(t, other.client, []byte("still here"))
	wantRead(t, other.node, []byte("still here"))
}

// TestPosts are run in order, all, from many goroutines.
func TestPosts(t *testing.T) {
	g := newGroup(t, loop.Options{})
	l := g.Loops()[0]
	const each = 10000
	var count [4]int
	var posters []func()
	for i := range count {
		posters = append(posters, func() {
			for k := range each {
				l.Post(func() {
					if count[i] != k {
						t.Errorf("post %d ran after %d others", k, count[i])
					}
					count[i]++
				})
			}
		})
	}
	together(posters...)
	on(t, l, func() {})
	for i, n := range count {
		if n != each {
			t.Errorf("%d posts of %d ran, want %d", n, i, each)
		}
	}
}

// TestGroupClose ends what there is, and tells everybody.
func TestGroupClose(t *testing.T) {
	g := newGroup(t, loop.Options{})
	s := newSessionIn(t, g, nil)
	errs := make(chan error, 10)
	_, peer := adopt(t, g.Loops()[0], func(c *loop.Conn) {
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, loop.ErrAgain) {
			errs <- err
		}
	})
	dialled := make(chan error, 10)
	g.Loops()[1].Post(func() {
		g.Loops()[1].Dial(loop.Target{Addr: full(t), Timeout: time.Hour}, loop.DialFunc(func(_ *loop.Conn, err error) { dialled <- err }))
	})
	on(t, g.Loops()[1], func() {})
	together(func() { g.Close() }, func() { g.Close() })
	if err := receive(t, errs); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read %v, want ErrClosed", err)
	}
	if err := receive(t, dialled); err == nil {
		t.Error("a dial went well")
	}
	if e := s.end(t); e.Cause != loop.Aborted || !errors.Is(e.Err, net.ErrClosed) {
		t.Errorf("ending %+v, want aborted", e)
	}
	if g.Conns() != 0 {
		t.Errorf("%d connections are left", g.Conns())
	}
	if conn, err := net.DialTimeout("tcp", s.front.Addr().String(), time.Second); err == nil {
		conn.Close()
		t.Error("the listener is open")
	}
	if _, err := peer.Read(make([]byte, 1)); err == nil {
		t.Error("the peer sees no end")
	}
	if g.Loops()[0].Post(func() {}) {
		t.Error("Post = true after Close")
	}
	s.relay.Abort(nil)
	s.relay.Drain()
	if _, err := g.Listen(listenTCP(t), nil, nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Listen after Close: %v, want ErrClosed", err)
	}
}

// TestPostWhileGroupCloses posts from everywhere while a group closes. What was taken is done, and
// nothing else.
func TestPostWhileGroupCloses(t *testing.T) {
	for range 50 {
		g := newGroup(t, loop.Options{})
		var taken, done atomic.Int64
		post := func() {
			for i := range 500 { // a loop does not end before there is nothing more
				if g.Loops()[i%2].Post(func() { done.Add(1) }) {
					taken.Add(1)
				}
			}
		}
		together(post, post, post, func() { g.Close() })
		if taken.Load() != done.Load() {
			t.Fatalf("%d of %d posts were done", done.Load(), taken.Load())
		}
	}
}

// TestIdentifyThenRelay reads the first bytes, and has them replayed.
func TestIdentifyThenRelay(t *testing.T) {
	g := newGroup(t, loop.Options{})
	node := listenTCP(t)
	ended := make(chan loop.Ending, 1)
	ln, err := g.Listen(listenTCP(t), func(c *loop.Conn, _ netip.AddrPort) {
		c.SetReadDeadline(time.Now().Add(patience))
		var seen []byte
		c.SetHandler(handler{ready: func(c *loop.Conn) {
			n, err := c.Read(c.Loop().Scratch())
			if err != nil {
				return
			}
			seen = append(seen, c.Loop().Scratch()[:n]...)
			if !bytes.Contains(seen, []byte("\n")) {
				return
			}
			c.SetHandler(handler{ready: func(*loop.Conn) {}})
			c.Loop().Dial(loop.Target{Addr: node.Addr().(*net.TCPAddr).AddrPort(), Timeout: patience}, loop.DialFunc(func(nc *loop.Conn, err error) {
				if err != nil {
					t.Error(err)
					return
				}
				loop.NewRelay(loop.RelayConfig{
					Client: loop.End{Conn: c}, Node: loop.End{Conn: nc}, Initial: append([]byte("PROXY\n"), seen...),
					Done: func(_ *loop.Relay, e loop.Ending) { ended <- e },
				})
			}))
		}})
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	client := dialTCP(t, ln.Addr())
	mustWrite(t, client, []byte("alice"))
	mustWrite(t, client, []byte("\nhello"))
	client.CloseWrite()
	conn, err := node.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	wantRead(t, conn, []byte("PROXY\nalice\nhello"))
	wantEOF(t, conn)
	conn.Close()
	if e := receive(t, ended); e.Cause != loop.EOF {
		t.Errorf("ending %+v, want EOF", e)
	}
}

// TestDetachAndBack: a connection that has left a loop comes back to it with a descriptor of the same
// number.
func TestDetachAndBack(t *testing.T) {
	if !loop.CanDetach {
		t.Skip("connections do not leave loops here")
	}
	l := newGroup(t, loop.Options{Loops: 1}).Loops()[0]
	c, peer := adopt(t, l, nil)
	for top := openFDs(t) + 64; ; { // so that the one that is closed is the lowest that is free
		fd, err := syscall.Dup(0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { syscall.Close(fd) })
		if fd > top {
			break
		}
	}
	got := make(chan string, 1)
	on(t, l, func() {
		tcp, _, err := c.Detach()
		if err == nil {
			c, err = l.Adopt(tcp)
		}
		if err != nil {
			t.Error(err)
			return
		}
		c.SetHandler(handler{ready: func(c *loop.Conn) {
			if n, err := c.Read(l.Scratch()); err == nil {
				got <- string(l.Scratch()[:n])
			}
		}})
	})
	mustWrite(t, peer, []byte("x"))
	if text := receive(t, got); text != "x" {
		t.Errorf("read %q", text)
	}
}

// A connection that is detached is one of package net; what was written and not sent
// comes with it.
func TestDetach(t *testing.T) {
	t.Parallel()
	if !loop.CanDetach {
		t.Skip("no descriptors here")
	}
	g := newGroup(t, loop.Options{Loops: 1})
	l := g.Loops()[0]
	ours, peer := tcpPair(t)
	type detached struct {
		conn   *net.TCPConn
		unsent []byte
		err    error
	}
	done := make(chan detached, 1)
	const size = 16 << 20 // more than sockets take
	l.Post(func() {
		c, err := l.Adopt(ours)
		if err != nil {
			done <- detached{err: err}
			return
		}
		_, _ = c.Write(make([]byte, size))
		conn, unsent, err := c.Detach()
		done <- detached{conn, unsent, err}
	})
	d := <-done
	if d.err != nil {
		t.Fatal(d.err)
	}
	defer d.conn.Close()
	if len(d.unsent) == 0 || g.Conns() != 0 {
		t.Errorf("%d bytes unsent, %d connections on loops", len(d.unsent), g.Conns())
	}
	got := make(chan int64, 1)
	go func() {
		n, _ := io.Copy(io.Discard, peer)
		got <- n
	}()
	if _, err := d.conn.Write(d.unsent); err != nil {
		t.Error(err)
	}
	if err := d.conn.CloseWrite(); err != nil {
		t.Error(err)
	}
	if n := <-got; n != size {
		t.Errorf("%d bytes came, want %d", n, size)
	}
}
