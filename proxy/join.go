package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"imlb/proxy/limit"
	"imlb/proxy/loop"
)

// join makes the client and its node one connection. It returns nil when the session
// goes on by itself, and its ending otherwise.
func (s *session) join(ctx context.Context) error {
	_ = s.wire.SetDeadline(time.Time{})
	_ = s.far.conn.SetDeadline(time.Time{})
	s.placed.Store(true)
	if !s.deaf() { // whatever carries the session hears of the shutdown by itself
		return s.shutdown()
	}
	if s.fitsLoop() {
		return s.handOver(ctx)
	}
	defer s.srv.metrics.login()()
	t := &s.terms.Timeouts
	s.wire.stall = t.Write
	_, isWS := s.inner.Conn.(*wsConn)
	p := pump{
		client: pumpEnd{
			halfCloser: s.inner, pause: metered(s.inner.Conn, s.throttle(limit.In)), gone: s.clientEnded, slow: ReasonSlowClient,
			shut: s.shut, part: s.partWebSocket, hush: s.wire.Close, parts: isWS,
		},
		node: pumpEnd{
			halfCloser: s.far.conn, pause: s.throttle(limit.Out), gone: s.nodeEnded, slow: ReasonSlowNode, watch: s.watch(),
		},
		late:       s.halfOpen,
		unanswered: s.unanswered,
		begun:      func(c carrier) { s.goOn(ctx, c) },
		limits:     pumpLimits{idle: t.Idle, halfOpen: t.HalfOpen, write: t.Write, watch: s.watchTime(), pause: t.pause()},
	}
	end := *p.run(ctx) // who has ended the pump may still look at its own
	s.carried(p.up.Load(), p.down.Load())
	end.reason = s.closed(end.reason)
	return &end
}

// carried notes that the relay of an opaque session has ended, and that both sides
// are closed.
func (s *session) carried(up, down int64) {
	s.joined = true
	s.tally(up, down)
	s.place.Release()
}

// fitsLoop tells whether an opaque session can be carried by a loop: both legs are
// TCP, and nothing between needs a goroutine.
func (s *session) fitsLoop() bool {
	c, ok := s.inner.Conn.(*wsConn)
	return !(ok && c.Deflates()) && s.wire.isTCP() && s.far.wire.isTCP()
}

// isTCP tells whether the wire is TCP by itself, with nothing of ours between.
func (w *wire) isTCP() bool {
	_, ok := w.Conn.(*net.TCPConn)
	return ok
}

// handOver lets the session go on on a loop. What was looked at before is what the
// node gets first.
func (s *session) handOver(ctx context.Context) error {
	l := s.srv.loops.Next()
	if c, ok := s.wire.Conn.(*net.TCPConn); ok && s.facts.tls != nil { // or it would be too late; see nagleTime
		loop.Acknowledge(c)
	}
	if !s.letGo() || !l.Post(func() { s.land(ctx, l) }) {
		return s.shutdown()
	}
	return nil
}

// land puts the session on a loop.
func (s *session) land(ctx context.Context, l *loop.Loop) {
	client, err := s.wire.adopt(l)
	if err != nil {
		breakOff(s.far.conn)
	} else if _, err = s.far.wire.adopt(l); err != nil {
		_ = client.Close()
	}
	if err != nil {
		s.carried(0, 0)
		go s.finish(ctx, &ending{reason: ReasonInternal, cause: err})
		return
	}
	s.relayOn(ctx, nil)
}

// adopt moves a TCP connection to a loop. After an error it is closed.
func (w *wire) adopt(l *loop.Loop) (*loop.Conn, error) {
	tcp, ok := w.Conn.(*net.TCPConn)
	if !ok {
		return nil, errors.Join(errors.ErrUnsupported, w.Conn.Close())
	}
	conn, err := l.Adopt(tcp)
	if err != nil {
		return nil, err
	}
	w.Conn, w.half = conn, conn
	return conn, nil
}

// relayOn carries the session on the loop on which both its connections are. The node
// gets the header first, and then what was looked at.
func (s *session) relayOn(ctx context.Context, header []byte) {
	sent := s.inner.take()
	initial := sent
	if len(header) > 0 {
		initial = append(header, sent...)
	}
	s.mute = !s.wire.used.Load()
	s.srv.metrics.active.Inc()
	r := loop.NewRelay(loop.RelayConfig{
		Client:    endOf(s.wire, s.inner.Conn),
		Node:      endOf(s.far.wire, s.far.conn),
		Initial:   initial,
		Sent:      len(sent),
		Watch:     s.watch(),
		WatchTime: s.watchTime(),
		Limits:    s.terms.relay,
		Throttle: [...]func(int) time.Duration{
			loop.Client: s.throttle(limit.In), loop.Node: s.throttle(limit.Out),
		},
		Done: func(_ *loop.Relay, e loop.Ending) {
			s.srv.metrics.active.Dec()
			s.carried(e.Up, e.Down)
			s.finish(ctx, s.relayEnding(e))
		},
	})
	s.slim()
	s.goOn(ctx, r)
}

// slim lets go of what only a session needs that is not relayed yet.
func (s *session) slim() {
	s.facts, s.wire, s.inner, s.far, s.deaf = nil, nil, nil, nil, nil
}

// endOf returns one end of a relay: what is carried by a wire on a loop.
func endOf(w *wire, top net.Conn) loop.End {
	conn, _ := w.Conn.(*loop.Conn)
	end := loop.End{Conn: conn}
	if stream, ok := top.(halfCloser); ok && top != w.Conn && top != net.Conn(w) {
		end.Stream = stream
	}
	return end
}

// relayEnding says in our words how a relay ended.
func (s *session) relayEnding(e loop.Ending) *ending {
	if e.Err != nil {
		if end := (*ending)(nil); errors.As(e.Err, &end) {
			return end
		}
	}
	switch e.Cause {
	case loop.EOF:
		return s.endedBy(e, ReasonClientClosed, ReasonNodeClosed)
	case loop.HalfOpen:
		end := s.halfOpen(e.Side == loop.Client)
		end.reason = s.closed(end.reason)
		return end
	case loop.Unanswered:
		return s.unanswered()
	case loop.Reset, loop.Broken:
		return s.endedBy(e, ReasonClientReset, nodeBroke(e))
	case loop.Lost:
		return s.endedBy(e, ReasonClientLost, ReasonNodeLost)
	case loop.Stalled:
		return s.endedBy(e, ReasonSlowClient, ReasonSlowNode)
	case loop.Idle:
		return &ending{reason: ReasonIdle}
	case loop.Drained, loop.Aborted:
		return &ending{reason: ReasonShutdown, cause: e.Err}
	case loop.Refused, loop.Internal: // of which the former has an *ending
	}
	return &ending{reason: ReasonInternal, cause: e.Err}
}

// endedBy is how a session ends by its client or its node.
func (s *session) endedBy(e loop.Ending, client, node Reason) *ending {
	switch {
	case e.Side == loop.Client:
		return &ending{reason: s.closed(client), cause: e.Err}
	case e.Err == nil:
		return &ending{reason: s.closed(node)}
	}
	return &ending{reason: s.closed(node), cause: fmt.Errorf("node %s: %w", s.rec.Node, e.Err)}
}

// nodeBroke is what it is called that the node's connection broke.
func nodeBroke(e loop.Ending) Reason {
	switch {
	case e.Ended: // it only does not take what the client still says
		return ReasonNodeClosed
	case e.Cause == loop.Broken && !errors.Is(e.Err, io.ErrUnexpectedEOF): // which is an end in the middle of a record
		return ReasonNodeError
	}
	return ReasonNodeLost
}

// halfOpen is how an opaque session ends of which the client, or else the node, had ended
// its side, and the other said nothing for too long.
func (s *session) halfOpen(client bool) *ending {
	ended, silent := "node", "client"
	if client {
		ended, silent = silent, ended
	}
	return &ending{
		reason: ReasonHalfOpen,
		cause: fmt.Errorf("node %s: the %s had ended its side, and nothing came from the %s for %v (timeouts.half_open)",
			s.rec.Node, ended, silent, s.terms.Timeouts.HalfOpen),
	}
}

// clientEnded is how an opaque session ends by its client.
func (s *session) clientEnded(err error) *ending {
	reason := goneReason(err)
	switch {
	case ended(err):
		return &ending{reason: reason}
	case errors.Is(err, loop.ErrStalled):
		reason = ReasonSlowClient
	}
	return &ending{reason: reason, cause: err} // the node must not take what it got for all
}

// nodeEnded is how an opaque session ends by its node.
func (s *session) nodeEnded(err error) *ending {
	if errors.Is(err, io.EOF) { // and not in the middle of a record of TLS
		return &ending{reason: ReasonNodeClosed}
	}
	return &ending{reason: ReasonNodeLost, cause: fmt.Errorf("node %s: %w", s.rec.Node, err)}
}
