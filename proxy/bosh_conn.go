package proxy

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"imlb/proxy/bosh"
)

// errInactive is what a BOSH session ends with whose client asks no more (XEP-0124 §10).
var errInactive = errors.New("the client made no request in time")

var _ halfCloser = (*boshConn)(nil)

// boshConn is what carries a BOSH session: the requests of its client, whatever connections
// they come on. Those who serve them wait for the answers; the session's leg reads what they
// bring and writes what they are answered with.
//
// It is the net.Conn of the session only as far as deadlines and Close go.
type boshConn struct {
	source, local net.Addr

	mu      sync.Mutex
	session *bosh.Session
	waiting map[*bosh.Request]chan<- []byte // each holds one
	timer   *time.Timer                     // calls tick
	changed chan struct{}                   // closed at the next change
	readBy  time.Time                       // zero: no deadline
	writeBy time.Time
	heard   bool  // there was a request since the leg looked last
	closed  bool  // by this side
	max     int   // bytes that an element may have
	extra   int64 // bytes that came besides those of elements
}

func newBOSHConn(session *bosh.Session, source, local net.Addr, maxBytes int) *boshConn {
	c := &boshConn{
		source: source, local: local, session: session, max: maxBytes,
		waiting: make(map[*bosh.Request]chan<- []byte), changed: make(chan struct{}),
	}
	c.timer = time.AfterFunc(time.Hour, c.tick)
	c.settle(time.Now())
	return c
}

// settle gives out answers, and wakes who waits for a change. It is called with mu held,
// after each call of the session's.
func (c *boshConn) settle(now time.Time) {
	for _, a := range c.session.Answers() {
		if to := c.waiting[a.To]; to != nil {
			to <- a.Body
			delete(c.waiting, a.To)
		}
	}
	c.timer.Stop()
	if by := c.session.Deadline(); !by.IsZero() && !c.closed {
		c.timer.Reset(by.Sub(now))
	}
	c.wake()
}

func (c *boshConn) wake() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// do has the session do something.
func (c *boshConn) do(what func(s *bosh.Session, now time.Time)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	what(c.session, now)
	c.settle(now)
}

// with has the session do something that answers no request and wakes nobody.
func (c *boshConn) with(what func(s *bosh.Session)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	what(c.session)
}

func (c *boshConn) tick() { c.do((*bosh.Session).Tick) }

// first returns where the answer to the session's first request comes.
func (c *boshConn) first(r *bosh.Request) <-chan []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.expect(r)
}

func (c *boshConn) expect(r *bosh.Request) <-chan []byte {
	answer := make(chan []byte, 1)
	c.waiting[r] = answer
	return answer
}

// receive takes a request of size bytes, and returns where its answer comes. When what is not
// nil the request has done that, and ends the session.
func (c *boshConn) receive(r *bosh.Request, size int, what *bosh.Error) <-chan []byte {
	var answer <-chan []byte
	c.do(func(s *bosh.Session, now time.Time) {
		answer, c.heard = c.expect(r), true
		c.extra += int64(size)
		for _, p := range r.Payloads {
			c.extra -= int64(len(p))
		}
		if what != nil {
			s.Fail(r, what.Condition)
			return
		}
		s.Receive(now, r)
	})
	return answer
}

// gone says that nobody waits for the answer to a request any more.
func (c *boshConn) gone(r *bosh.Request) {
	c.do(func(s *bosh.Session, now time.Time) {
		delete(c.waiting, r)
		s.Gone(now, r)
	})
}

// next returns what the client has brought next.
func (c *boshConn) next() (e bosh.Event, ok bool) {
	c.do(func(s *bosh.Session, now time.Time) { e, ok = s.Next(now) })
	return e, ok
}

// fill waits until the client has made a request.
func (c *boshConn) fill() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.wait(&c.readBy, func() bool { return c.heard || c.session.Pending() })
	c.heard = false
	return err
}

// drain waits until less than room bytes wait for the client.
func (c *boshConn) drain(room int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.session.Queued() < room {
		return nil
	}
	return c.wait(&c.writeBy, func() bool { return c.session.Queued() < room })
}

// end ends the session, and waits until the client has been told.
func (c *boshConn) end(condition string, content []byte) error {
	c.do(func(s *bosh.Session, now time.Time) { s.End(now, condition, content) })
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.wait(&c.writeBy, func() bool { return c.session.Told() && !c.session.Inactive() && !c.closed })
}

// wait waits with mu held until something is so, or never will be: errEnded.
func (c *boshConn) wait(by *time.Time, so func() bool) error {
	for !so() {
		switch {
		case c.closed:
			return net.ErrClosed
		case c.session.Inactive():
			return errInactive
		case c.session.Told():
			return errBOSHEnded
		case !by.IsZero() && !time.Now().Before(*by):
			return os.ErrDeadlineExceeded
		}
		c.sleep(*by)
	}
	return nil
}

// errBOSHEnded says that the client knows that its session is over.
var errBOSHEnded = errors.New("the BOSH session is over")

// sleep waits for a change, or until then, without mu.
func (c *boshConn) sleep(by time.Time) {
	changed := c.changed
	c.mu.Unlock()
	defer c.mu.Lock()
	var late <-chan time.Time
	if !by.IsZero() {
		timer := time.NewTimer(time.Until(by))
		defer timer.Stop()
		late = timer.C
	}
	select {
	case <-changed:
	case <-late:
	}
}

// limit is how long a request may be that comes now, in bytes.
func (c *boshConn) limit() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.max + bosh.MaxTag
}

func (c *boshConn) setMax(maxBytes int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.max = maxBytes
}

func (c *boshConn) extraBytes() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.extra
}

// Close ends the session at once.
func (c *boshConn) Close() error {
	c.do(func(s *bosh.Session, _ time.Time) {
		c.closed = true
		s.Cut(bosh.SystemShutdown)
	})
	return nil
}

func (c *boshConn) setDeadline(t time.Time, of ...*time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, d := range of {
		*d = t
	}
	c.wake()
	return nil
}

// SetDeadline sets both deadlines.
func (c *boshConn) SetDeadline(t time.Time) error { return c.setDeadline(t, &c.readBy, &c.writeBy) }

// SetReadDeadline is until when the leg waits for the client.
func (c *boshConn) SetReadDeadline(t time.Time) error { return c.setDeadline(t, &c.readBy) }

// SetWriteDeadline is until when it waits for the client to take something.
func (c *boshConn) SetWriteDeadline(t time.Time) error { return c.setDeadline(t, &c.writeBy) }

// LocalAddr is that of the connection on which the session has begun.
func (c *boshConn) LocalAddr() net.Addr { return c.local }

// RemoteAddr is that of the client on that connection.
func (c *boshConn) RemoteAddr() net.Addr { return c.source }

// Read is not for this kind of connection.
func (c *boshConn) Read([]byte) (int, error) { return 0, errors.ErrUnsupported }

// Write is not for this kind of connection.
func (c *boshConn) Write([]byte) (int, error) { return 0, errors.ErrUnsupported }

// CloseWrite does nothing: what ends the session tells the client so.
func (c *boshConn) CloseWrite() error { return nil }
