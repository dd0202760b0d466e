package proxy

import (
	"errors"
	"io"
	"math"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/quic-go/quic-go"

	"imlb/proxy/loop"
)

// lingerTime is how long the front waits for a peer to end its side after it has
// ended its own.
const lingerTime = loop.AnswerTime

// wire is a connection of which the first bytes can be looked at before they are
// read. It knows whether the peer ever sent a byte. What carries a session is one,
// under TLS and framing; what TLS carries is another, if the front has to look at
// it. One goroutine reads.
type wire struct {
	net.Conn
	half halfCloser
	used atomic.Bool
	seen []byte // owned by the reader: was looked at and not read

	stall time.Duration // set before anybody reads; see Await

	mu     sync.Mutex
	answer *answer // that is awaited; nil for none
}

// newWire returns the wire of a connection.
func newWire(conn halfCloser) *wire {
	w := new(wire)
	w.set(conn)
	return w
}

// set says what a new wire is the wire of.
func (w *wire) set(conn halfCloser) { w.Conn, w.half = conn, conn }

// Read reads from the connection.
func (w *wire) Read(p []byte) (int, error) {
	if len(w.seen) > 0 {
		n := copy(p, w.seen)
		w.skip(n)
		return n, nil
	}
	n, err := w.Conn.Read(p)
	for n == 0 && isTimeout(err) {
		if err = w.putOff(err); err != nil {
			break
		}
		n, err = w.Conn.Read(p)
	}
	if n > 0 && !w.used.Load() {
		w.used.Store(true)
	}
	return n, err
}

// look reads once more and adds what came to seen.
func (w *wire) look() error {
	buf := getChunk()
	defer chunks.Put(buf)
	n, err := w.Conn.Read(buf[:])
	if n > 0 {
		w.used.Store(true)
		w.seen = append(w.seen, buf[:n]...)
		return nil // an error will come again with the next read
	}
	return err
}

// skip takes the first n bytes off what was looked at.
func (w *wire) skip(n int) {
	w.seen = w.seen[n:]
	if len(w.seen) == 0 {
		w.seen = nil
	}
}

// take returns what was looked at, which is not read any more.
func (w *wire) take() []byte {
	seen := w.seen
	w.seen = nil
	return seen
}

// CloseWrite ends the sending side.
func (w *wire) CloseWrite() error { return w.half.CloseWrite() }

// Pending returns how many bytes wait to be sent, which is none but on a loop.
func (w *wire) Pending() int {
	if c, ok := w.Conn.(*loop.Conn); ok {
		return c.Pending()
	}
	return 0
}

// answer is what is known of how a peer takes what it was sent last.
type answer struct {
	left  int       // bytes that it had not acknowledged; 0 when it has got all
	moved time.Time // when they were last fewer
	over  bool      // it has not answered in time
}

// Await sets the deadlines for what the peer is sent last, and for its answer. On a loop, and
// elsewhere if there is a time of stall, a peer has lingerTime for that from when it has got
// all, if within the time of stall it always takes some; see loop.Conn.Await. A peer that did
// not answer in time has no other.
func (w *wire) Await() {
	switch c := w.Conn.(type) {
	case *loop.Conn:
		c.Await()
	case *net.TCPConn:
		if w.stall > 0 {
			w.await(c)
			return
		}
		_ = c.SetDeadline(time.Now().Add(lingerTime))
	default:
		_ = c.SetDeadline(time.Now().Add(lingerTime))
	}
}

func (w *wire) await(c *net.TCPConn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	_ = c.SetWriteDeadline(now.Add(max(w.stall, lingerTime))) // or it is closed, and Write says so
	if w.answer == nil {
		w.answer = &answer{left: math.MaxInt, moved: now}
	}
	if w.answer.over {
		now = past
	}
	_ = c.SetReadDeadline(now) // a read looks how it is
}

// lookAgain is how often it is looked whether a peer has got all.
const lookAgain = 50 * time.Millisecond

// putOff puts a deadline off that has passed, if the peer has not got all, or has had no time
// since. Else it returns the error of that, or another if the peer takes nothing any more.
func (w *wire) putOff(late error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	c, ok := w.Conn.(*net.TCPConn)
	a := w.answer
	if !ok || a == nil || a.over {
		return late
	}
	now, left := time.Now(), loop.Unacked(c)
	switch {
	case left == 0 && a.left == 0:
		a.over = true
		return late
	case left == 0:
		_ = c.SetReadDeadline(now.Add(lingerTime))
	case left < a.left || a.left == 0:
		a.moved = now
	case now.Sub(a.moved) >= w.stall:
		a.over = true
		return loop.ErrStalled
	}
	if a.left = left; left > 0 {
		_ = c.SetReadDeadline(now.Add(lookAgain))
	}
	return nil
}

// SetDeadline sets both deadlines, and ends the wait for an answer.
func (w *wire) SetDeadline(t time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answer = nil
	return w.Conn.SetDeadline(t)
}

// SetReadDeadline ends the wait for an answer, too.
func (w *wire) SetReadDeadline(t time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answer = nil
	return w.Conn.SetReadDeadline(t)
}

// past is a deadline that wakes whoever reads.
//
//nolint:gochecknoglobals // a constant in all but syntax
var past = time.Unix(1, 0)

// isTimeout tells whether a deadline passed.
func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// isAgain tells whether a connection on a loop has nothing to read yet.
func isAgain(err error) bool {
	return err == loop.ErrAgain || errors.Is(err, loop.ErrAgain) //nolint:errorlint // mostly it is, and this is the hot path
}

// closedConn is what a wire has in the place of a connection that its loop has
// closed.
type closedConn struct{}

func (closedConn) Read([]byte) (int, error)         { return 0, net.ErrClosed }
func (closedConn) Write([]byte) (int, error)        { return 0, net.ErrClosed }
func (closedConn) CloseWrite() error                { return net.ErrClosed }
func (closedConn) Close() error                     { return nil }
func (closedConn) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (closedConn) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (closedConn) SetDeadline(time.Time) error      { return net.ErrClosed }
func (closedConn) SetReadDeadline(time.Time) error  { return net.ErrClosed }
func (closedConn) SetWriteDeadline(time.Time) error { return net.ErrClosed }

// ended tells whether the error of a read says that the peer has ended its side in order, so
// that all was read that it has sent. A TCP FIN without TLS's close_notify is how many clients
// leave. The end of a QUIC connection is none of its streams, which it breaks off, whatever
// its code is (RFC 9000 §10.2).
func ended(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }

// goneReason says how a client left, from the error of a read or write.
func goneReason(err error) Reason {
	var app *quic.ApplicationError
	var idle *quic.IdleTimeoutError
	switch {
	case ended(err):
		return ReasonClientClosed
	case errors.As(err, &app) && app.Remote && app.ErrorCode == 0:
		return ReasonClientClosed
	case errors.As(err, &idle), errors.Is(err, syscall.ETIMEDOUT):
		return ReasonClientLost
	default:
		return ReasonClientReset
	}
}
