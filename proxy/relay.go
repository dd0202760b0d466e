package proxy

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"time"

	"imlb/backend/xmpp"
)

// relay carries whole tokens between the client and its node until one side ends.
//
// Two goroutines work. up reads the client and writes the node; down, in the
// session's own goroutine, reads the node and writes the client. The first end
// that either sees is the session's ending. Then
//
//   - when up was first, it lets the node know in the way that fits (end of
//     stream, or of the connection) and gives down lingerTime to pass on what the
//     node still has to say;
//   - when down returns, the node leg is closed and up is woken.
//
// Neither stops inside a token, so that the client's stream can be ended
// afterwards, by a stream error if need be, and is well-formed to its end.
type relay struct {
	*session
	cause  atomic.Pointer[ending] // the first end that was seen
	told   atomic.Bool            // the node's connection was ended, so its end is no loss
	over   atomic.Bool            // down has returned
	active atomic.Bool            // the node sent something since up last looked
	entry  uint64                 // owned by down: the last entry that was written but not flushed
}

// relay returns the ending of the session. The node leg's connection is closed.
func (s *session) relay(ctx context.Context) error {
	defer s.srv.metrics.login()()
	if err := s.readBy(ctx, time.Time{}, ReasonIdle); err != nil {
		return err
	}
	if err := s.node.conn.SetReadDeadline(time.Time{}); err != nil {
		return s.nodeError(err)
	}
	r := &relay{session: s}
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.runUp(ctx)
	}()
	r.end(guard(func() *ending { return r.pumpDown(ctx) }))
	r.over.Store(true)
	_ = s.node.conn.Close()
	_ = s.wire.SetReadDeadline(past)
	<-done
	return r.cause.Load()
}

// end notes why the session ends, unless that is known already.
func (r *relay) end(e *ending) { r.cause.CompareAndSwap(nil, e) }

// runUp carries tokens from the client to the node until the client is done, and
// then lets the node know.
func (r *relay) runUp(ctx context.Context) {
	e := guard(func() *ending { return r.pumpUp(ctx) })
	if r.over.Load() {
		return
	}
	r.end(e)
	linger := time.Now().Add(lingerTime)
	switch {
	case e.reason.clientGone():
		linger = past // the node sees the leg break, as it would see the client's
	case e.reason == ReasonClientClosed && e.cause == nil:
		// The end of the client's stream was passed on.
	case e.reason == ReasonClientClosed:
		r.told.Store(true)
		_ = r.node.CloseWrite()
	case e.condition != "" && !r.nodeFailed(e):
		// The client is still there: the node is asked to end the stream.
		hurry := time.AfterFunc(lingerTime, func() { _ = r.node.conn.SetWriteDeadline(past) })
		_ = post(r.node, streamEnd())
		hurry.Stop()
	}
	_ = r.node.conn.SetReadDeadline(linger)
}

// nodeFailed tells whether the ending is the node's fault, so that it need not
// be told.
func (r *relay) nodeFailed(e *ending) bool {
	return e.reason == ReasonNodeLost || e.reason == ReasonSlowNode
}

// pumpUp carries tokens from the client to the node and returns why it stopped.
func (r *relay) pumpUp(ctx context.Context) *ending {
	for {
		tok, err := r.client.Next()
		switch {
		case err != nil:
			return r.clientError(ctx, err)
		case tok.Kind == xmpp.KindNone:
			if e := r.fillUp(ctx); e != nil {
				return e
			}
			continue
		}
		r.rec.In.count(tok)
		if tok.Kind == xmpp.KindClose {
			return r.passClose(tok)
		}
		if err := r.node.Write(tok); err != nil {
			return r.nodeWriteError(err)
		}
	}
}

// passClose passes on the end of the client's stream. The node answers it with
// the end of its own, which must not be taken for the cause.
func (r *relay) passClose(tok xmpp.Token) *ending {
	e := r.clientEnd(ReasonClientClosed, nil)
	r.end(e)
	if err := post(r.node, tok); err != nil {
		return r.nodeWriteError(err)
	}
	return e
}

// fillUp sends what the node is to get and waits for more from the client.
func (r *relay) fillUp(ctx context.Context) *ending {
	if err := r.node.Flush(); err != nil {
		return r.nodeWriteError(err)
	}
	r.rec.In.report(&r.counted.in, &r.srv.metrics.in)
	for {
		if e := r.armIdle(ctx); e != nil {
			return e
		}
		err := r.client.Fill()
		switch {
		case err == nil:
			return nil
		case isTimeout(err) && ctx.Err() == nil && !r.over.Load() && r.active.Swap(false):
			continue // idle, but the node was not
		}
		return r.clientError(ctx, err)
	}
}

// armIdle sets the deadline of the next read. Whoever wants to wake up sets a
// deadline too, and says before why: so that is looked at last.
func (r *relay) armIdle(ctx context.Context) *ending {
	if idle := r.terms.Timeouts.Idle; idle > 0 {
		_ = r.wire.SetReadDeadline(time.Now().Add(idle))
	}
	if ctx.Err() != nil || r.over.Load() {
		return r.shutdown()
	}
	return nil
}

// pumpDown carries tokens from the node to the client and returns why it stopped.
func (r *relay) pumpDown(ctx context.Context) *ending {
	for {
		tok, err := r.node.Next()
		switch {
		case err != nil:
			return r.flushFirst(ctx, r.nodeError(err))
		case tok.Kind == xmpp.KindNone:
			if e := r.fillDown(ctx); e != nil {
				return e
			}
			continue
		case tok.Kind == xmpp.KindClose:
			r.node.ended = true
			return r.flushFirst(ctx, &ending{reason: ReasonNodeClosed})
		case tok.Kind == xmpp.KindOpen:
			r.greeted = true
		case isStreamError(tok.Raw):
			r.erred = true
		}
		r.rec.Out.count(tok)
		if n := entryNumber(tok.Raw, r.rec.User); n > 0 {
			r.entry = n
		}
		if err := r.client.Write(tok); err != nil {
			return r.clientWriteError(ctx, err)
		}
	}
}

// fillDown sends what the client is to get and waits for more from the node.
func (r *relay) fillDown(ctx context.Context) *ending {
	if e := r.flushFirst(ctx, nil); e != nil {
		return e
	}
	r.rec.Out.report(&r.counted.out, &r.srv.metrics.out)
	if err := r.node.Fill(); err != nil {
		r.node.broken = !isTimeout(err) && !(r.told.Load() && errors.Is(err, io.EOF))
		return r.nodeError(err)
	}
	r.active.Store(true)
	return nil
}

// flushFirst sends what the client is to get before the session ends with e, and
// notes the last entry as received as far as the front can know.
func (r *relay) flushFirst(ctx context.Context, e *ending) *ending {
	if err := r.client.Flush(); err != nil {
		return r.clientWriteError(ctx, err)
	}
	r.rec.LastEntry = max(r.rec.LastEntry, r.entry)
	return e
}

// nodeWriteError makes an ending of an error in writing to the node.
func (r *relay) nodeWriteError(err error) *ending {
	e := r.nodeError(err)
	if isTimeout(err) {
		e.reason = ReasonSlowNode
	}
	return e
}

// clientWriteError makes an ending of an error in writing to the client, after
// which nothing more can be written to it.
func (r *relay) clientWriteError(ctx context.Context, err error) *ending {
	if isTimeout(err) {
		return &ending{reason: ReasonSlowClient, cause: err}
	}
	e := r.clientError(ctx, err)
	if !e.reason.clientGone() {
		e = &ending{reason: ReasonClientReset, cause: err}
	}
	return e
}
