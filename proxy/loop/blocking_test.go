package loop_test

import (
	"errors"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"imlb/proxy/loop"
)

// blocking makes a Conn one that blocks, so that it can be tested as others are.
type blocking struct {
	conn   *loop.Conn
	local  net.Addr
	remote net.Addr
	read   cutoff
	write  cutoff
	once   sync.Once
	closed chan struct{}

	mu      sync.Mutex
	changed chan struct{} // closed by Ready
}

// newBlocking puts a connection on a loop.
func newBlocking(l *loop.Loop, tcp *net.TCPConn) (*blocking, error) {
	b := &blocking{
		local: tcp.LocalAddr(), remote: tcp.RemoteAddr(),
		read: newCutoff(), write: newCutoff(), closed: make(chan struct{}), changed: make(chan struct{}),
	}
	var err error
	done := make(chan struct{})
	l.Post(func() {
		defer close(done)
		if b.conn, err = l.Adopt(tcp); err == nil {
			b.conn.SetHandler(b)
		}
	})
	<-done
	return b, err
}

func (b *blocking) Ready(*loop.Conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.changed)
	b.changed = make(chan struct{})
}

// next returns a channel that is closed when the connection is ready again.
func (b *blocking) next() chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.changed
}

// do runs f on the loop.
func (b *blocking) do(f func()) error {
	done := make(chan struct{})
	if !b.conn.Loop().Post(func() { defer close(done); f() }) {
		return net.ErrClosed
	}
	<-done
	return nil
}

// wait waits for ch, and returns why it must not wait any longer.
func (b *blocking) wait(ch chan struct{}, c *cutoff) error {
	select {
	case <-b.closed:
		return net.ErrClosed
	case <-c.passed():
		return os.ErrDeadlineExceeded
	default:
	}
	select {
	case <-ch:
		return nil
	case <-b.closed:
		return net.ErrClosed
	case <-c.passed():
		return os.ErrDeadlineExceeded
	}
}

var ready = func() chan struct{} { ch := make(chan struct{}); close(ch); return ch }()

func (b *blocking) Read(p []byte) (n int, err error) {
	if err := b.wait(ready, &b.read); err != nil {
		return 0, err
	}
	for {
		ch := b.next()
		if e := b.do(func() { n, err = b.conn.Read(p) }); e != nil {
			return 0, e
		}
		if !errors.Is(err, loop.ErrAgain) {
			return n, err
		}
		if err := b.wait(ch, &b.read); err != nil {
			return 0, err
		}
	}
}

func (b *blocking) Write(p []byte) (n int, err error) {
	if err := b.wait(ready, &b.write); err != nil {
		return 0, err
	}
	for len(p) > 0 && err == nil {
		k := min(len(p), 64<<10)
		if e := b.do(func() { _, err = b.conn.Write(p[:k]) }); e != nil {
			return n, e
		}
		if err == nil {
			err = b.drain()
			n += k
			p = p[k:]
		}
	}
	return n, err
}

// drain waits until nothing is pending.
func (b *blocking) drain() error {
	for {
		ch, pending := b.next(), 0
		if err := b.do(func() { pending = b.conn.Pending() }); err != nil {
			return err
		}
		if pending == 0 {
			return nil
		}
		if err := b.wait(ch, &b.write); err != nil {
			return err
		}
	}
}

func (b *blocking) Close() (err error) {
	b.once.Do(func() {
		close(b.closed)
		if e := b.do(func() { err = b.conn.Close() }); e != nil {
			err = e
		}
	})
	return err
}

func (b *blocking) LocalAddr() net.Addr  { return b.local }
func (b *blocking) RemoteAddr() net.Addr { return b.remote }

func (b *blocking) SetDeadline(t time.Time) error {
	b.read.set(t)
	b.write.set(t)
	return nil
}
func (b *blocking) SetReadDeadline(t time.Time) error  { b.read.set(t); return nil }
func (b *blocking) SetWriteDeadline(t time.Time) error { b.write.set(t); return nil }

// cutoff is a deadline that can be waited for.
type cutoff struct {
	mu    *sync.Mutex
	timer *time.Timer
	ch    chan struct{}
}

func newCutoff() cutoff { return cutoff{mu: new(sync.Mutex), ch: make(chan struct{})} }

func (c *cutoff) passed() chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ch
}

func (c *cutoff) set(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timer != nil && !c.timer.Stop() {
		<-c.ch // it has fired or does so now
	}
	c.timer = nil
	select {
	case <-c.ch:
		c.ch = make(chan struct{})
	default:
	}
	if t.IsZero() {
		return
	}
	ch := c.ch
	if d := time.Until(t); d > 0 {
		c.timer = time.AfterFunc(d, func() { close(ch) })
	} else {
		close(ch)
	}
}

func TestConnAsNetConn(t *testing.T) {
	g := newGroup(t, loop.Options{})
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		a, b := tcpPair(t)
		a.SetDeadline(time.Time{})
		if c1, err = newBlocking(g.Loops()[0], a); err == nil {
			c2, err = newBlocking(g.Loops()[1], b)
		}
		return c1, c2, func() { c1.Close(); c2.Close() }, err
	})
}
