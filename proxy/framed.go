package proxy

import (
	"context"

	"imlb/proxy/loop"
)

// framed runs a relay on a loop. Each time that a connection may have something to do,
// the direction that reads it is carried on as far as that goes, and the other one if
// it waits for more than input. A direction that has to wait ends its turn with parked.
// It has scanned all that it read then, and sent all that it scanned, so the sessions of a
// loop share its buffer.
//
// Everything here is called on the loop, except for Abort, End and Drain.
type framed struct {
	*relay
	ctx    context.Context //nolint:containedctx // of a session, as others have it as an argument
	leg    loopedLeg       // the client's
	logout func()

	turn   loopTurn // what loop points to, here because each turn begins with both
	upDone bool     // the client is done, and the node knows
	done   bool     // the session has left the loop
}

// parked is the answer of a direction that has to wait. It is no ending.
//
//nolint:gochecknoglobals // a constant in all but syntax
var parked = &ending{}

// loopTurn is what the directions of a relay have to know of their loop. It is nil
// when there is none.
type loopTurn struct {
	client, node *loop.Conn
	fills        int  // that are left to this turn
	upHeld       bool // up waits for something else than input from the client
	downHeld     bool // and down than input from the node
	owes         bool // the client has not taken all that TLS has answered it
}

// turnFills is how often one turn of a connection may read. After it, the others on
// the loop have theirs.
const turnFills = 16

func (t *loopTurn) clientConn() *loop.Conn {
	if t == nil {
		return nil
	}
	return t.client
}

func (t *loopTurn) nodeConn() *loop.Conn {
	if t == nil {
		return nil
	}
	return t.node
}

// full tells whether a direction has to wait before it reads more, because to has
// not taken what it got, or because others have to have their turn. The error is
// that of to.
func (t *loopTurn) full(to *loop.Conn) (bool, error) {
	if t == nil {
		return false, nil
	}
	if to.Pending() > 0 {
		_, err := to.Write(nil)
		return true, err
	}
	if t.fills--; t.fills < 0 {
		t.client.Wake()
		return true, nil
	}
	return false, nil
}

// fill fills the client's leg. What TLS answers to that (RFC 8446 §4.6.3) the client has to take
// before it is read again, so that it cannot have more and more of it kept.
func (t *loopTurn) fill(client leg) error {
	if t == nil {
		return client.Fill()
	}
	waits := t.client.Pending()
	err := client.Fill()
	t.owes = t.client.Pending() > waits
	return err
}

// owed tells whether the client has to take such answers first. The error is that of the client.
func (t *loopTurn) owed() (bool, error) {
	if t == nil || !t.owes || t.client.Pending() == 0 {
		return false, nil
	}
	_, err := t.client.Write(nil)
	return true, err
}

// loopedLeg is a leg that can go on on a loop.
type loopedLeg interface {
	leg
	// joinLoop has the leg, which keeps no output, go on on a loop with that buffer.
	joinLoop(scratch []byte)
	// keepInput copies what was received and not scanned, so that others may use the loop's
	// buffer.
	keepInput()
	// leaveLoop has the leg go on elsewhere, with what is left in the loop's buffer.
	leaveLoop()
}

// loopedLeg returns the client's leg if the session's stanzas can be carried by a loop:
// both legs are on TCP, with nothing of ours between that needs a goroutine. Else it
// returns nil.
func (s *session) loopedLeg() loopedLeg {
	leg, ok := s.client.(loopedLeg)
	if !loop.CanDetach || !ok || !s.wire.isTCP() || !s.node.link.wire.isTCP() {
		return nil
	}
	return leg
}

// handOver lets the session go on on a loop.
func (r *relay) handOver(ctx context.Context, client loopedLeg) error {
	if !r.deaf() {
		return r.shutdown()
	}
	f := &framed{relay: r, ctx: ctx, leg: client}
	l := r.srv.loops.Next()
	if !r.letGo() || !l.Post(func() { f.land(l) }) {
		return r.shutdown()
	}
	return nil
}

// land puts the session on a loop.
func (f *framed) land(l *loop.Loop) {
	f.logout = f.srv.metrics.login()
	client, err := f.wire.adopt(l)
	if err != nil {
		f.wire.Conn = closedConn{}
		f.leave(&ending{reason: ReasonInternal, cause: err})
		return
	}
	f.turn.client, f.loop = client, &f.turn
	node, err := f.node.link.wire.adopt(l)
	if err != nil {
		f.node.link.wire.Conn = closedConn{}
		f.leave(&ending{reason: ReasonInternal, cause: err})
		return
	}
	f.turn.node = node
	for _, c := range []*loop.Conn{client, node} {
		c.SetStall(f.terms.Timeouts.Write)
		c.SetHandler(f)
	}
	f.leg.joinLoop(l.Scratch())
	f.node.joinLoop(l.Scratch())
	f.goOn(f.ctx, f)
}

// Ready carries the session on.
func (f *framed) Ready(c *loop.Conn) {
	if f.done {
		return
	}
	f.turn.fills = turnFills
	up, down := c == f.turn.client || f.turn.upHeld, c == f.turn.node || f.turn.downHeld
	if up && !f.upDone {
		f.turn.upHeld = false
		if e := guard(func() *ending { return f.pumpUp(f.ctx) }); e != parked {
			f.upDone, down = true, true
			f.passOn(e)
			f.leg.keepInput() // it is read on when the session ends
		}
	}
	if !down {
		return
	}
	f.turn.downHeld = false
	if e := guard(func() *ending { return f.pumpDown(f.ctx) }); e != parked {
		f.leave(e)
	}
}

// Failed is told of a panic that the loop has recovered from.
func (f *framed) Failed(_ *loop.Conn, err error) {
	f.leave(&ending{reason: ReasonInternal, cause: err})
}

// leave ends the relay. What is left to do, such as to say good-bye, may wait for
// the client, so it is done elsewhere.
func (f *framed) leave(e *ending) {
	if f.done {
		return
	}
	f.done = true
	f.end(e)
	f.logout()
	f.over.Store(true)
	if f.loop != nil && f.loop.node != nil {
		_ = f.loop.node.Close()
		f.node.link.wire.Conn = closedConn{}
	}
	f.leg.leaveLoop()
	f.node.leaveLoop()
	unsent, end := f.takeBack(), f.cause.Load()
	f.comeBack(f.wire)
	go func() {
		if !end.reason.clientGone() && f.wire.sendAll(unsent, f.parting(end)) != nil {
			_ = f.wire.Close() // what comes after a gap is worth nothing
		}
		f.finish(f.ctx, end)
	}()
}

// takeBack makes the client's connection one that blocks again, and returns what it
// has not sent yet.
func (f *framed) takeBack() []byte {
	if f.loop == nil {
		return nil
	}
	tcp, unsent, err := f.loop.client.Detach()
	if err != nil { // there are no descriptors, or it is closed
		_ = f.loop.client.Close()
		f.wire.Conn, f.wire.half = closedConn{}, closedConn{}
		return nil
	}
	f.wire.Conn, f.wire.half = tcp, tcp
	return unsent
}

// Abort cuts the session off.
func (f *framed) Abort(err error) {
	f.loop.client.Loop().Post(func() {
		if f.done {
			return
		}
		f.end(&ending{reason: ReasonShutdown, cause: err})
		_ = f.loop.client.Reset()
		f.leave(&ending{reason: ReasonShutdown, cause: err})
	})
}

// End ends the session in order: the node is left, and then the client is told. A node that does not leave
// is not waited for.
func (f *framed) End(e *ending) {
	l := f.loop.client.Loop()
	l.Post(func() {
		if f.done || f.upDone { // it ends already
			return
		}
		f.upDone = true
		f.passOn(e)
		f.leg.keepInput()
		l.After(lingerTime, func() { f.leave(e) })
	})
}

// Drain ends the session, because the front stops: ctx has ended, which the next turn
// sees.
func (f *framed) Drain() {
	f.loop.client.Loop().Post(func() {
		if !f.done {
			f.loop.client.Wake()
		}
	})
}
