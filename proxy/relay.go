package proxy

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"time"

	"imlb/backend/xmpp"
	"imlb/proxy/limit"
	"imlb/proxy/loop"
	"imlb/proxy/ws"
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
//
// Where both legs are TCP, the same functions run on a loop, and hold neither
// goroutine nor buffer while nothing comes: see framed.go.
type relay struct {
	*session
	loop  *loopTurn              // nil when two goroutines work
	in    meter                  // owned by up
	out   meter                  // owned by down
	cause atomic.Pointer[ending] // the first end that was seen
	told  atomic.Bool            // the node's connection was ended, so its end is no loss
	over  atomic.Bool            // down has returned
	acked atomic.Uint32          // stanzas that the client has acknowledged (XEP-0198), as it says
	last  atomic.Int64           // when the node sent something last, by clock
	entry uint64                 // owned by down: the last entry that was written but not flushed
	asked atomic.Pointer[resume] // by the client, of its node
	halt  context.CancelFunc     // wakes both goroutines; nil on a loop
}

// relay carries the session on, and returns its ending or nil when it goes on by
// itself. In the end the node leg's connection is closed.
func (s *session) relay(ctx context.Context) error {
	s.login = nil
	if err := s.readBy(ctx, time.Time{}, ReasonIdle); err != nil {
		return err
	}
	if err := s.node.conn.SetReadDeadline(time.Time{}); err != nil {
		return s.nodeError(err)
	}
	r := &relay{
		session: s, in: meter{took: s.throttle(limit.In), extra: extraBytes(s.client)}, out: meter{took: s.throttle(limit.Out)},
	}
	if s.resumes != nil { // inline
		r.acked.Store(s.resumes.count)
	}
	if client := s.loopedLeg(); client != nil {
		return r.handOver(ctx, client)
	}
	defer s.srv.metrics.login()()
	held, release := context.WithCancel(ctx) // the pause of a direction ends with the other
	defer release()
	r.halt = release
	s.stayOn(r)
	defer s.stayOn(nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer release()
		r.runUp(held)
	}()
	e := guard(func() *ending { return r.pumpDown(held) })
	if errors.Is(e, ws.ErrClosed) {
		<-done // up is told how
	}
	r.end(e)
	r.over.Store(true)
	release()
	_ = s.node.conn.Close()
	_ = s.wire.SetReadDeadline(past)
	<-done
	s.prove() // as the client may have shown meanwhile
	return r.cause.Load()
}

// End ends the session as the end of the front does, for another reason.
func (r *relay) End(e *ending) {
	if r.end(e); r.over.Load() {
		return
	}
	r.halt()
	_ = r.wire.SetReadDeadline(past)
}

// Abort does nothing: what carries the session is closed by who calls it.
func (*relay) Abort(error) {}

// Drain does nothing: both goroutines hear that the front stops.
func (*relay) Drain() {}

// end notes why the session ends, unless that is known already.
func (r *relay) end(e *ending) { r.cause.CompareAndSwap(nil, e) }

// runUp carries tokens from the client to the node until the client is done, and
// then lets the node know.
func (r *relay) runUp(ctx context.Context) {
	e := guard(func() *ending { return r.pumpUp(ctx) })
	if !r.over.Load() {
		r.passOn(e)
	}
}

// passOn lets the node know that the client is done.
func (r *relay) passOn(e *ending) {
	r.end(e)
	linger := time.Now().Add(lingerTime)
	switch {
	case e.reason.clientGone():
		linger = past // the node sees the leg break, as it would see the client's
	case e.reason == ReasonClientClosed && e.cause == nil:
		// The end of the client's stream was passed on.
	case e.reason == ReasonClientClosed, e.reason == ReasonShutdown, e.reason == ReasonIdle, e.reason == ReasonEndedByAdmin:
		// The end of the stream would end the session, with which the client may go on elsewhere (XEP-0198 §5).
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
		if r.rec.In.count(tok) == kindOther {
			r.heard(tok)
		}
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
	r.rec.In.report(&r.xml.in, &r.terms.in)
	if full, err := r.loop.full(r.loop.nodeConn()); err != nil {
		return r.nodeWriteError(err)
	} else if owed, err := r.loop.owed(); err != nil {
		return r.clientError(ctx, err)
	} else if full || owed || r.hold(ctx, &r.in, r.rec.In.bytes) {
		r.loop.upHeld = true
		return parked
	}
	for wait := r.terms.Timeouts.Idle; ; {
		if r.loop == nil {
			if e := r.armIdle(ctx, wait); e != nil {
				return e
			}
		}
		err := r.loop.fill(r.client)
		switch {
		case err == nil:
			return nil
		case isAgain(err):
			if e := r.armIdle(ctx, wait); e != nil {
				return e
			}
			return parked
		case isTimeout(err) && ctx.Err() == nil && !r.over.Load():
			if wait = r.idleLeft(); wait > 0 {
				if e := r.armIdle(ctx, wait); e != nil {
					return e
				}
				continue
			}
		}
		return r.clientError(ctx, err)
	}
}

// idleLeft returns for how long the client may still say nothing after it has said nothing
// for the idle time: the node was heard, or is not read.
func (r *relay) idleLeft() time.Duration {
	if r.out.paused.Load() {
		return r.terms.Timeouts.Idle
	}
	return r.terms.Timeouts.Idle - (r.clock() - time.Duration(r.last.Load()))
}

// clock returns the time since some point before the relay. On a loop it costs nothing.
func (r *relay) clock() time.Duration {
	if r.loop != nil {
		return r.loop.client.Loop().Now()
	}
	return time.Since(r.rec.Started)
}

// armIdle sets the deadline of the next read. Whoever wants to wake up sets a
// deadline too, and says before why: so that is looked at last.
func (r *relay) armIdle(ctx context.Context, idle time.Duration) *ending {
	switch {
	case idle <= 0:
	case r.loop != nil:
		r.loop.client.SetReadTimeout(idle)
	default:
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
			return r.flushFirst(ctx, r.nodeEnds())
		case tok.Kind == xmpp.KindOpen:
			r.greeted = true
		case isStreamError(tok.Raw):
			r.erred = true
		}
		r.note(tok)
		if err := r.client.Write(tok); err != nil {
			return r.clientWriteError(ctx, err)
		}
	}
}

// nodeEnds notes that the node has ended its stream. That up has met a connection that is closed
// before was no loss then.
func (r *relay) nodeEnds() *ending {
	r.node.ended = true
	e := &ending{reason: ReasonNodeClosed}
	if before := r.cause.Load(); before != nil && before.reason == ReasonNodeLost {
		r.cause.Store(e)
	}
	return e
}

// note counts a token for the client, and keeps what has to be known of it if the node
// is lost.
func (r *relay) note(tok xmpp.Token) {
	kind := r.rec.Out.count(tok)
	if kind == kindOther {
		r.said(tok)
		return
	}
	t := readTold(tok.Raw, r.rec.User)
	if n := t.entry(); n > 0 {
		r.entry = n
	}
	if r.resumes != nil {
		r.resumes.wrote(t, r.acked.Load())
	}
}

// fillDown sends what the client is to get and waits for more from the node.
func (r *relay) fillDown(ctx context.Context) *ending {
	if e := r.flushFirst(ctx, nil); e != nil {
		return e
	}
	r.rec.Out.report(&r.xml.out, &r.terms.out)
	if full, err := r.loop.full(r.loop.clientConn()); err != nil {
		return r.clientWriteError(ctx, err)
	} else if full || r.hold(ctx, &r.out, r.rec.Out.bytes) {
		r.loop.downHeld = true
		return parked
	}
	if err := r.node.Fill(); err != nil {
		if isAgain(err) {
			return parked
		}
		r.node.broken = !isTimeout(err) && !(r.told.Load() && errors.Is(err, io.EOF))
		return r.nodeError(err)
	}
	r.last.Store(int64(r.clock()))
	return nil
}

// meter is what the limits on bytes have to know of a direction.
type meter struct {
	took   func(n int) time.Duration // nil when nothing limits it
	extra  func() int64              // bytes that came besides those of tokens; nil for none
	told   int64                     // bytes that took knows of
	paused atomic.Bool               // until the limits have room again
}

// hold lets the limits on bytes recover, before more is read. On a loop it tells
// whether they have to be waited for; the next turn comes when they have room again.
func (r *relay) hold(ctx context.Context, m *meter, bytes int64) bool {
	if m.took == nil || m.paused.Load() {
		return m.paused.Load()
	}
	if m.extra != nil {
		bytes += m.extra()
	}
	if bytes == m.told {
		return false
	}
	d := m.took(int(bytes - m.told))
	m.told = bytes
	if d <= 0 {
		return false
	}
	m.paused.Store(true)
	if r.loop == nil {
		_ = pause(ctx, d) // at the end of ctx the read ends, too
		m.paused.Store(false)
		return false
	}
	r.loop.client.Loop().After(d, func() {
		m.paused.Store(false)
		if idle := r.terms.Timeouts.Idle; idle > 0 && !r.over.Load() {
			r.loop.client.SetReadTimeout(idle) // nobody has looked whether anything came
		}
		r.loop.client.Wake()
	})
	return true
}

// flushFirst sends what the client is to get before the session ends with e, and
// notes the last entry as received as far as the front can know.
func (r *relay) flushFirst(ctx context.Context, e *ending) *ending {
	if err := r.client.Flush(); err != nil {
		return r.clientWriteError(ctx, err)
	}
	r.reached()
	return e
}

// reached notes the last entry that was written to the client; of a BOSH client, that it
// has received.
func (r *relay) reached() {
	entry := r.entry
	if l, ok := r.client.(*boshLeg); ok {
		entry = l.proved(entry)
	}
	r.rec.LastEntry = max(r.rec.LastEntry, entry)
}

// nodeWriteError makes an ending of an error in writing to the node.
func (r *relay) nodeWriteError(err error) *ending {
	e := r.nodeError(err)
	if isTimeout(err) || errors.Is(err, loop.ErrStalled) {
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
	e := r.clientError(ctx, err) // ErrStalled too
	if !e.reason.clientGone() {
		e = &ending{reason: ReasonClientReset, cause: err}
	}
	return e
}
