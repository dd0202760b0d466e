//go:build !linux || 386 || s390x || imlb_portable

package loop

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Listener accepts connections for all loops of a group.
type Listener struct {
	group  *Group
	inner  *net.TCPListener
	accept func(*Conn, netip.AddrPort)
	warn   func(error, time.Duration)
	gone   chan struct{}
	once   sync.Once
	ended  sync.WaitGroup
}

// Listen accepts connections from inner, which it takes over, and calls accept on
// the loop of each, with the peer's address. When there are no descriptors left, or
// no memory, warn is told (if not nil) why accepting pauses, and for how long; that
// may be on any goroutine. Listen may be called from any goroutine.
func (g *Group) Listen(inner *net.TCPListener, accept func(*Conn, netip.AddrPort), warn func(err error, retryIn time.Duration)) (*Listener, error) {
	ln := &Listener{group: g, inner: inner, accept: accept, warn: warn, gone: make(chan struct{})}
	if !g.open(ln) {
		return nil, errors.Join(net.ErrClosed, inner.Close())
	}
	ln.ended.Go(ln.serve)
	return ln, nil
}

// Addr returns the address that is listened on.
func (ln *Listener) Addr() net.Addr { return ln.inner.Addr() }

// Close ends accepting. What was accepted stays. No more callbacks run when it
// returns. It may be called from any goroutine that is not a loop's.
func (ln *Listener) Close() error {
	var err error
	ln.once.Do(func() {
		ln.group.forget(ln)
		close(ln.gone)
		err = ln.inner.Close()
		ln.ended.Wait()
		var passed sync.WaitGroup
		for _, l := range ln.group.loops {
			passed.Add(1)
			if !l.Post(passed.Done) {
				passed.Done()
			}
		}
		passed.Wait()
	})
	return err
}

func (ln *Listener) serve() {
	pause := time.Duration(0)
	for {
		conn, err := ln.inner.AcceptTCP()
		switch {
		case err == nil:
			pause = 0
			ln.place(conn)
		case errors.Is(err, net.ErrClosed):
			return
		default:
			pause = min(max(2*pause, minAcceptPause), maxAcceptPause)
			if !ln.rest(err, pause) {
				return
			}
		}
	}
}

// rest waits until accepting may go on, and returns false if it may not.
func (ln *Listener) rest(err error, pause time.Duration) bool {
	if ln.warn != nil {
		ln.warn(opError("accept", err), pause)
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ln.gone:
	}
	return false
}

// place puts an accepted connection on a loop.
func (ln *Listener) place(conn *net.TCPConn) {
	from := conn.RemoteAddr().(*net.TCPAddr).AddrPort() //nolint:errcheck,forcetypeassert // of a TCP connection
	from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
	l := quietest(ln.group.accepting())
	if !l.Post(func() {
		c, err := l.Adopt(conn)
		if err != nil {
			return
		}
		l.current = c
		ln.accept(c, from)
		l.current = nil
	}) {
		_ = conn.Close()
	}
}
