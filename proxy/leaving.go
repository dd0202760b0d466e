package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"time"

	"imlb/proxy/loop"
)

// What a client says while its session waits for a node is not read: it is for the node, and as
// long as there is none it stays with the client. But who has left must not keep a place
// among those that wait. What tells that is
//
//   - a connection that broke, of whatever kind;
//   - the end of a stream of XML, or of the client's side under it;
//   - the end of a WebSocket, which has no half-close.
//
// The ends of streams and WebSockets are found by reading, up to the first that is the node's: what has
// been said before an end is not to be lost.
//
// An opaque session on TCP, TLS or QUIC of which the client has ended its side goes on: it may
// be all that the client has to say, and it may wait for the answer. A client that is not there any
// more looks the same until it is sent something.

// minding runs a part of the session's life that waits for a node, and ends its context when the
// client leaves meanwhile, with how it has as the cause. The error is the *ending of that then.
// A client that has left in order when there is a node already is left to those who read it
// next. Nobody else may read it meanwhile.
func (s *session) minding(ctx context.Context, part func(ctx context.Context) error) error {
	if err := s.readBy(ctx, time.Time{}, s.deadline); err != nil {
		return err
	}
	minded, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var left error
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		if left = s.awaitLeave(minded); left != nil {
			cancel(left)
		}
	}()
	err := part(minded)
	cancel(nil)
	_ = s.wire.SetDeadline(past) // or it is closed, and nobody waits
	<-watched
	_ = s.wire.SetWriteDeadline(time.Time{})
	switch {
	case left != nil && (err != nil || !ended(left)):
		return s.left(ctx, left)
	case err != nil:
		return err
	}
	return s.readBy(ctx, s.loginBy(), s.deadline)
}

// loginBy is until when the login has to be over; zero for a session that has none.
func (s *session) loginBy() time.Time {
	if s.login == nil {
		return time.Time{}
	}
	return s.login.by
}

// left makes an ending of the way in which a client has left that waited for a node.
func (s *session) left(ctx context.Context, err error) *ending {
	if s.inner == nil {
		return s.clientError(ctx, err)
	}
	s.mute = !s.wire.used.Load() // it need not have spoken first
	return &ending{reason: goneReason(err), cause: err}
}

// awaitLeave waits until the client has left, and returns how; nil if it has waited in vain.
func (s *session) awaitLeave(ctx context.Context) error {
	err := error(nil)
	if s.inner == nil {
		err = streamEnds(s.client)
	} else if _, ok := s.inner.Conn.(*wsConn); ok {
		err = s.inner.lookOn()
	}
	switch {
	case isTimeout(err), s.wire.closedHere(err):
		return nil
	case err != nil:
		return err
	}
	return s.wire.awaitEnd(ctx, s.inner == nil)
}

// closedHere tells whether the error of a read says that the connection was closed on this side. Of one
// of QUIC it does so on both.
func (w *wire) closedHere(err error) bool {
	if c, ok := w.Conn.(*quicConn); ok {
		return c.closed.Load()
	}
	return errors.Is(err, net.ErrClosed)
}

// streamEnds waits until a client has said something, and returns io.EOF if that is the end of its
// stream.
func streamEnds(client leg) error {
	ends, err := client.Ahead()
	if err == nil && ends {
		return io.EOF
	}
	return err
}

// lookOn looks until something has come that was not seen before.
func (w *wire) lookOn() error {
	for had := len(w.seen); len(w.seen) == had; {
		if err := w.look(); err != nil {
			return err
		}
	}
	return nil
}

// awaitEnd waits without reading until the peer's connection has broken, or, if half is true, until
// its side has ended, and returns how. It returns nil when ctx has ended and the read deadline
// has passed, or where that cannot be known.
func (w *wire) awaitEnd(ctx context.Context, half bool) error {
	switch c := w.Conn.(type) {
	case *net.TCPConn:
		return loop.AwaitEnd(c, half)
	case *quicConn:
		return c.awaitEnd(ctx, half)
	case *boshConn:
		return c.awaitEnd()
	}
	return nil
}

// awaitEnd looks further ahead than clients say something while they wait. What comes behind that
// is not seen, but for the end of the connection.
func (c *quicConn) awaitEnd(ctx context.Context, half bool) error {
	buf := getChunk()
	defer chunks.Put(buf)
	_, err := c.Peek(buf[:])
	switch {
	case err == nil, errors.Is(err, io.EOF) && !half:
		select {
		case <-c.conn.Context().Done():
			return context.Cause(c.conn.Context())
		case <-ctx.Done():
			return nil
		}
	case isTimeout(err), c.closed.Load():
		return nil
	}
	return err
}

// awaitEnd waits until the client has made no request for too long.
func (c *boshConn) awaitEnd() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.wait(&c.readBy, func() bool { return false }); errors.Is(err, errInactive) {
		return err
	}
	return nil
}
