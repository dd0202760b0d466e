//go:build !linux || 386 || s390x || imlb_portable

package loop

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
)

// errAgain is what a socket returns when it would block.
var errAgain = errors.New("would block") //nolint:gochecknoglobals // a sentinel

// poller waits for posts: sockets report by them.
type poller struct {
	woken chan struct{}
}

func (p *poller) open(*Loop) error {
	p.woken = make(chan struct{}, 1)
	return nil
}

func (p *poller) close() {}

// wake ends a wait. It may be called from any goroutine.
func (p *poller) wake() {
	select {
	case p.woken <- struct{}{}:
	default:
	}
}

// wait waits until there is a post, for ever if d is negative.
func (p *poller) wait(_ *Loop, d time.Duration) {
	switch {
	case d == 0:
	case d < 0:
		<-p.woken
	default:
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-p.woken:
		case <-timer.C:
		}
	}
}

func (p *poller) dispatch(*Loop) {}

// add starts the goroutines of a connection.
func (p *poller) add(l *Loop, c *Conn) error {
	s := c.sock.flow
	report := func(what int) {
		l.Post(func() {
			if !c.closed {
				c.event(what)
			}
		})
	}
	l.group.ended.Go(func() { s.receive(report) })
	l.group.ended.Go(func() { s.transmit(report) })
	return nil
}

// remove is for sockets that stay open, which there are none of here.
func (p *poller) remove(*Conn) {}

// socket is a TCP connection that two goroutines make nonblocking. Each has one
// buffer, which stands for the kernel's.
type socket struct{ *flow }

type flow struct {
	conn *net.TCPConn
	more chan struct{} // the receiver's buffer is empty
	kick chan struct{} // the transmitter has something to do
	gone chan struct{} // closed by close

	mu      sync.Mutex
	in      []byte // received, and not read
	inErr   error  // after in
	out     []byte // being sent
	busy    bool   // out is not empty
	outErr  error
	fin     bool // the sending direction is to end after out
	closing bool // and the connection
}

func newSocket(conn *net.TCPConn) socket {
	return socket{&flow{conn: conn, more: make(chan struct{}, 1), kick: make(chan struct{}, 1), gone: make(chan struct{})}}
}

// noDelay does nothing: connections of the net package are so from the beginning.
func (socket) noDelay() error { return nil }

// receive reads ahead by one buffer.
func (f *flow) receive(report func(int)) {
	buf := make([]byte, scratchSize)
	for {
		n, err := f.conn.Read(buf)
		f.mu.Lock()
		f.in, f.inErr = buf[:n], err
		f.mu.Unlock()
		switch {
		case err == nil:
			report(canRead)
		case errors.Is(err, io.EOF):
			report(canRead | isEager)
			return
		default:
			report(canRead | isEager | isBroken)
			return
		}
		select {
		case <-f.more:
		case <-f.gone:
			return
		}
	}
}

// transmit writes what the loop gave.
func (f *flow) transmit(report func(int)) {
	for {
		select {
		case <-f.kick:
		case <-f.gone: // out may wait still
		}
		f.mu.Lock()
		out := f.out
		f.mu.Unlock()
		var err error
		if len(out) > 0 {
			_, err = f.conn.Write(out)
		}
		if what, over := f.transmitted(err); over {
			return
		} else if what != 0 {
			report(what)
		}
	}
}

// transmitted notes that out was written, and ends what is to end then.
func (f *flow) transmitted(err error) (what int, over bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.busy {
		what = canWrite
	}
	f.busy, f.out = false, f.out[:0]
	if err != nil && f.outErr == nil {
		f.outErr = err
		what |= canWrite | isBroken
	}
	if f.closing {
		_ = f.conn.Close()
		return 0, true
	}
	if f.fin {
		f.fin = false
		_ = f.conn.CloseWrite()
	}
	return what, false
}

// read returns what has been received. It returns 0 and nil at the end.
func (f *flow) read(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case len(f.in) > 0:
		n := copy(p, f.in)
		f.in = f.in[n:]
		if len(f.in) == 0 && f.inErr == nil {
			signal(f.more)
		}
		return n, nil
	case f.inErr == nil:
		return 0, errAgain
	case errors.Is(f.inErr, io.EOF):
		return 0, nil
	default:
		return 0, f.inErr
	}
}

// write takes what fits.
func (f *flow) write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.outErr != nil {
		return 0, f.outErr
	}
	if f.busy {
		return 0, errAgain
	}
	f.out = append(f.out, p[:min(len(p), scratchSize)]...)
	f.busy = len(f.out) > 0
	signal(f.kick)
	return len(f.out), nil
}

// shutdown ends the sending direction.
func (f *flow) shutdown() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fin = true
	signal(f.kick)
	return nil
}

// unacked returns how much of what was sent the peer has not acknowledged, as far as that is
// known.
func (f *flow) unacked() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.out) + Unacked(f.conn)
}

// close closes, with a RST if reset, else after what is being sent.
func (f *flow) close(reset bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closing = true
	close(f.gone)
	if !reset && f.busy {
		return f.conn.SetWriteDeadline(time.Now().Add(closeStall))
	}
	if reset {
		_ = f.conn.SetLinger(0)
	}
	return f.conn.Close()
}

// error returns what broke the connection.
func (f *flow) error() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.outErr != nil {
		return f.outErr
	}
	if errors.Is(f.inErr, io.EOF) {
		return nil
	}
	return f.inErr
}

func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// LocalAddr returns the address of this side.
func (c *Conn) LocalAddr() net.Addr { return c.sock.conn.LocalAddr() }

// RemoteAddr returns the address of the peer.
func (c *Conn) RemoteAddr() net.Addr { return c.sock.conn.RemoteAddr() }

// tune sets what every connection has.
func tune(c *net.TCPConn, ka net.KeepAliveConfig) error {
	err := c.SetNoDelay(true)
	if ka.Enable {
		err = errors.Join(err, c.SetKeepAliveConfig(ka))
	}
	return err
}

// Adopt takes over a connection: nobody else may use c any more.
func (l *Loop) Adopt(c *net.TCPConn) (*Conn, error) {
	if err := tune(c, l.group.opts.KeepAlive); err != nil {
		return nil, opError("adopt", errors.Join(err, c.Close()))
	}
	return l.newConn(newSocket(c))
}

// Dial begins to connect, and tells d, later. It returns nil, since there is nothing yet that
// could be reset.
func (l *Loop) Dial(to Target, d Dialer) *Conn {
	l.awaited++
	l.group.ended.Go(func() {
		var tcp *net.TCPConn
		err := ErrNoSource
		for source := range Sources(to.From, to.Addr.Addr()) {
			dialer := net.Dialer{Timeout: to.Timeout, KeepAlive: -1}
			if source.IsValid() {
				dialer.LocalAddr, dialer.Control = net.TCPAddrFromAddrPort(netip.AddrPortFrom(source, 0)), PortLater
			}
			var conn net.Conn
			conn, err = dialer.DialContext(lifetime{l.group}, "tcp", to.Addr.String())
			if tcp, _ = conn.(*net.TCPConn); !errors.Is(err, syscall.EADDRNOTAVAIL) {
				break
			}
		}
		l.Post(func() { l.arrived(tcp, err, d) })
	})
	return nil
}

// Spoken tells that nothing is known of what was not read yet.
func (c *Conn) Spoken() bool { return false }

// arrived hands the result of a dial over.
func (l *Loop) arrived(tcp *net.TCPConn, err error, d Dialer) {
	l.awaited--
	var timeout net.Error
	switch {
	case tcp == nil && errors.As(err, &timeout) && timeout.Timeout():
		err = opError("dial", os.ErrDeadlineExceeded)
	case tcp == nil && l.stopping:
		err = opError("dial", net.ErrClosed)
	case tcp != nil:
		var c *Conn
		if c, err = l.Adopt(tcp); err == nil {
			l.dialled(d, c, nil)
			return
		}
	}
	l.dialled(d, nil, err)
}

// lifetime is a context that ends with the group.
type lifetime struct{ g *Group }

var _ context.Context = lifetime{}

// Deadline returns that there is none.
func (lifetime) Deadline() (time.Time, bool) { return time.Time{}, false }

// Done is closed when the group is.
func (c lifetime) Done() <-chan struct{} { return c.g.done }

// Err returns context.Canceled after the end.
func (c lifetime) Err() error {
	select {
	case <-c.g.done:
		return context.Canceled
	default:
		return nil
	}
}

// Value returns nothing.
func (lifetime) Value(any) any { return nil }
