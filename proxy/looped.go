package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"imlb/proxy/loop"
)

// looped is an opaque session that is on a loop from accept on, which costs neither
// a goroutine nor a change of owner. Its steps are those of session.serve and
// session.opaque, for a connection that does not block: one that lacks bytes fails
// with loop.ErrAgain, and is taken again when there are more. What would block,
// like a node's name that has to be resolved, is done elsewhere meanwhile.
//
// Everything here is called on the loop, except for Abort and Drain.
type looped struct {
	*session
	ctx  context.Context //nolint:containedctx // of a session, as others have it as an argument
	conn *loop.Conn
	step loopStep
	done bool // the relay has taken over, or the session is over

	tries tries
	parts *ending // how it is, while the client is waited for that has to hear of it

	trying attempt
	giveUp context.CancelFunc // ends what is done elsewhere for it; nil for nothing
	early  early
}

// attempt is a dial that is under way.
type attempt struct {
	pool   Pool
	choice Choice
	began  time.Duration // after the session
	conn   *loop.Conn    // which it is to become; nil when it is over
}

// early is what a session has until it is relayed, in one piece with what else goes then:
// a short session costs little more than its allocations.
type early struct {
	client, node wire
	facts        facts
	sniffing     sniffing
	from         net.TCPAddr
	ip           [16]byte // of from
}

// setFrom says where the client is.
func (e *early) setFrom(at netip.AddrPort) net.Addr {
	addr := at.Addr().Unmap()
	e.ip = addr.As16()
	e.from = net.TCPAddr{IP: e.ip[:], Port: int(at.Port()), Zone: addr.Zone()}
	if addr.Is4() {
		e.from.IP = e.ip[12:]
	}
	return &e.from
}

// loopStep is what comes next.
type loopStep uint8

const (
	stepLimit loopStep = iota
	stepSource
	stepTransport
	stepSniff
	stepConnect // and the relay, by the callbacks of the dial
	stepWait    // for somebody to go on
)

// acceptsOnLoops tells whether the listener's socket is one for loops: what they accept
// may have to leave them later.
func (l Listener) acceptsOnLoops() bool { return loop.CanDetach && l.fitsLoop() }

// fitsLoop tells whether sessions of the listener can be on a loop from the start.
func (l Listener) fitsLoop() bool {
	return l.Protocol == TCP || l.Protocol == MQTT || l.Protocol == TLS && !l.endsTLS()
}

// accepted serves a connection that a loop has accepted. Its listener may have been
// changed since to a protocol that does not fit, and then the connection leaves.
func (l *listener) accepted(ctx context.Context, conn *loop.Conn, from netip.AddrPort, over func()) {
	t := l.terms.Load()
	if !t.listener.fitsLoop() {
		tcp, _, err := conn.Detach()
		if err != nil {
			l.srv.log.LogAttrs(ctx, slog.LevelWarn, "connection lost", slog.String("listener", l.name()), slog.Any("error", err))
			_ = conn.Close()
			over()
			return
		}
		go l.srv.session(ctx, l, tcp, over)
		return
	}
	s := &looped{ctx: ctx, conn: conn}
	s.early.client.set(conn)
	s.session = l.srv.newSession(l, t, &s.early.client, &s.early.facts, over)
	s.setEnds(s.early.setFrom(from), nil)
	s.facts.local = conn
	s.facts.sniffing = &s.early.sniffing
	conn.SetHandler(s)
	s.goOn(ctx, s)
}

// Ready takes the steps that can be taken now. A session that waits is over if its client's
// connection broke. The end of the client's side may be all that it has to say, and is none.
func (s *looped) Ready(*loop.Conn) {
	switch {
	case s.done:
		return
	case s.step == stepWait:
		if err := s.conn.Broken(); err != nil {
			s.end(s.left(s.ctx, err))
		}
		return
	}
	if end := guard(func() *ending { return asEnding(s.advance()) }); end != nil && !errors.Is(end, loop.ErrAgain) {
		s.end(end)
	}
}

// advance takes one step after the other until one has to wait.
func (s *looped) advance() error {
	for s.step != stepWait {
		step := s.step
		if err := s.take(step); err != nil {
			return err
		}
		if s.step == step {
			s.step++
		}
	}
	return nil
}

// take takes one step.
func (s *looped) take(step loopStep) error {
	switch step {
	case stepLimit:
		return s.admit()
	case stepSource:
		wait, err := s.source(s.ctx)
		return s.waitFor(wait, err, stepTransport)
	case stepTransport:
		return s.transport(s.ctx)
	case stepSniff:
		user, err := s.sniff(s.ctx)
		if err != nil {
			return err
		}
		wait, err := s.identified(user)
		return s.waitFor(wait, err, stepConnect)
	case stepConnect:
		s.step = stepWait
		_ = s.conn.SetReadDeadline(time.Time{})
		s.pick()
	case stepWait:
	}
	return nil
}

// admit waits for the session's turn.
func (s *looped) admit() error {
	wait, err := s.accept()
	return s.waitFor(wait, err, stepSource)
}

// waitFor goes on with a step after a wait.
func (s *looped) waitFor(wait time.Duration, err error, next loopStep) error {
	if err != nil {
		return err
	}
	if s.step = next; wait > 0 {
		s.step = stepWait
		s.conn.Loop().After(wait, func() { s.goOnWith(next) })
	}
	return nil
}

// goOnWith ends a wait.
func (s *looped) goOnWith(step loopStep) {
	if !s.done {
		s.step = step
		s.Ready(s.conn)
	}
}

// pick asks for a node, and dials it.
func (s *looped) pick() {
	pool := s.pool()
	if p, ok := pool.Picker.(TryPicker); ok {
		if choice, ok, err := p.TryPick(s.rec.User, s.tries.nodes); ok {
			s.picked(pool, choice, err)
			return
		}
	}
	ctx := s.elsewhere()
	go func() {
		choice, err := s.tries.pick(ctx, pool, s.rec.User)
		s.post(func() { s.picked(pool, choice, err) }, choice.release)
	}()
}

// elsewhere is the context of what is done elsewhere for the session, until it is relayed or
// over.
func (s *looped) elsewhere() context.Context {
	s.stopElsewhere()
	ctx, cancel := context.WithCancel(s.ctx)
	s.giveUp = cancel
	return ctx
}

func (s *looped) stopElsewhere() {
	if s.giveUp != nil {
		s.giveUp()
		s.giveUp = nil
	}
}

// post has f called on the loop, or lost when there is none any more.
func (s *looped) post(f, lost func()) {
	if !s.conn.Loop().Post(f) {
		lost()
	}
}

// picked dials the node that was chosen.
func (s *looped) picked(pool Pool, choice Choice, err error) {
	switch {
	case s.done:
		if err == nil {
			choice.release()
		}
		return
	case err != nil:
		s.tryAgain(pool, errors.Join(err, s.tries.failed))
		return
	}
	addr, err := netip.ParseAddrPort(choice.Node.Addr)
	if err != nil || pool.TLS != nil {
		s.facts.reached() // only here, on the loop
		go s.dialElsewhere(s.elsewhere(), pool, choice)
		return
	}
	s.trying = attempt{pool: pool, choice: choice, began: time.Since(s.rec.Started)}
	to := loop.Target{From: pool.Source, Addr: addr, Timeout: pool.DialTimeout}
	to.Speaks = pool.Header != HeaderNone || len(s.inner.seen) > 0 || s.conn.Spoken()
	s.trying.conn = s.conn.Loop().Dial(to, s)
}

// Dialled begins the relay, or tries the next node.
func (s *looped) Dialled(conn *loop.Conn, err error) {
	try := &s.trying
	try.conn = nil
	if err != nil {
		s.refused(try.pool, try.choice, dialError(err))
		return
	}
	if s.done {
		_ = conn.Close()
		try.choice.release()
		return
	}
	now, w := time.Now(), &s.early.node
	w.set(conn)
	s.far = &nodeConn{wire: w, conn: w, choice: try.choice, spent: now.Sub(s.rec.Started) - try.began}
	header, err := s.facts.header(try.pool.Header, s.rec.ID, conn)
	if err != nil {
		s.end(&ending{reason: ReasonInternal, cause: fmt.Errorf("PROXY header: %w", err)})
		return
	}
	s.served(s.far)
	s.join(now, header)
}

// dialElsewhere dials a node in a way that blocks, and moves the connection here.
func (s *looped) dialElsewhere(ctx context.Context, pool Pool, choice Choice) {
	node, err := s.session.dial(ctx, pool, choice, func(*nodeConn) error { return nil })
	if err != nil {
		s.post(func() { s.refused(pool, choice, err) }, choice.release)
		return
	}
	_ = node.conn.SetDeadline(time.Time{})
	s.post(func() { s.arrived(node) }, node.giveUp)
}

// arrived begins the relay with a node that was dialled elsewhere.
func (s *looped) arrived(node *nodeConn) {
	if s.done {
		node.giveUp()
		return
	}
	s.far = node
	s.served(node)
	if _, err := node.wire.adopt(s.conn.Loop()); err != nil {
		s.end(&ending{reason: ReasonInternal, cause: err})
		return
	}
	s.join(time.Now(), nil)
}

// refused notes that a node did not take the session, and tries the next. If the session
// is over, the dial may have been given up, which says nothing of the node.
func (s *looped) refused(pool Pool, choice Choice, err error) {
	choice.release()
	if s.done {
		return
	}
	outcome := outcomeOf(err)
	s.srv.report(choice, outcome)
	s.tries.refused(choice.Node.Name, err, outcome)
	switch {
	case s.ctx.Err() != nil:
		s.end(s.shutdown())
	case len(s.tries.nodes) >= pool.DialAttempts:
		s.tryAgain(pool, s.tries.failed)
	default:
		s.pick()
	}
}

// tryAgain begins another round, or ends the session.
func (s *looped) tryAgain(pool Pool, err error) {
	dialled := s.tries.dialled()
	wait, again := s.tries.again(pool, time.Now())
	if !again || s.ctx.Err() != nil {
		s.end(s.unplaced(s.ctx, err, dialled))
		return
	}
	s.conn.Loop().After(wait, func() {
		switch {
		case s.done:
		case s.ctx.Err() != nil:
			s.end(s.shutdown())
		default:
			s.pick()
		}
	})
}

// join begins the relay. The node gets the header first.
func (s *looped) join(now time.Time, header []byte) {
	s.onNode(s.far)
	if err := s.taken(now); err != nil {
		s.end(asEnding(err))
		return
	}
	s.done = true
	s.stopElsewhere()
	s.placed.Store(true)
	s.relayOn(s.ctx, header)
}

// end ends a session that has not come as far as the relay.
func (s *looped) end(e *ending) {
	if s.done {
		return
	}
	s.done = true
	s.stopElsewhere()
	if try := &s.trying; try.conn != nil {
		_ = try.conn.Reset()
		try.conn = nil
		try.choice.release()
	}
	if s.inner == nil {
		_ = s.wire.Close()
		s.leave(e)
		return
	}
	if answer := s.mqttRefusal(e); answer != nil {
		s.refuse(e, answer)
		return
	}
	s.closeOpaque(e)
	s.leave(e)
}

// refuse answers the client's CONNECT. The session is over when the client has the answer; see
// refuseMQTT.
func (s *looped) refuse(e *ending, answer []byte) {
	s.parts = e
	s.leavePlace()
	s.dropFar()
	_, _ = s.conn.Write(answer)             // if it is broken, it does not linger
	_ = s.conn.SetReadDeadline(time.Time{}) // what was not said in time was not the answer to this
	s.conn.SetStall(s.parting(e))
	s.conn.Linger(func() { s.leave(e) })
}

// leave ends a session of which the connections are closed.
func (s *looped) leave(e *ending) {
	s.parts = nil
	s.joined = true
	s.finish(s.ctx, e)
}

// Failed is told of a panic that a loop has recovered from.
func (s *looped) Failed(_ *loop.Conn, err error) { s.end(&ending{reason: ReasonInternal, cause: err}) }

// Abort cuts the session off.
func (s *looped) Abort(err error) {
	s.post(func() {
		switch {
		case !s.done:
			_ = s.conn.Reset()
			s.end(&ending{reason: ReasonShutdown, cause: err})
		case s.parts != nil:
			_ = s.conn.Reset()
			s.leave(s.parts)
		}
	}, func() {})
}

// Drain ends the session, because the front stops.
func (s *looped) Drain() {
	s.post(func() { s.end(s.shutdown()) }, func() {})
}

// serveLooped accepts on the loops until ctx ends or the listener is retired, and
// returns when all sessions have ended.
func (l *listener) serveLooped(ctx context.Context) {
	var sessions sync.WaitGroup
	over := sessions.Done
	accept := func(conn *loop.Conn, from netip.AddrPort) {
		sessions.Add(1)
		l.accepted(ctx, conn, from, over)
	}
	warn := func(err error, wait time.Duration) { l.warnAccept(ctx, err, wait) }
	inner, err := l.srv.loops.Listen(l.tcp, accept, warn)
	if err != nil {
		l.srv.log.LogAttrs(ctx, slog.LevelError, "cannot accept", slog.String("listener", l.name()), slog.Any("error", err))
		return
	}
	select {
	case <-ctx.Done():
	case <-l.retired:
	}
	_ = inner.Close() // the end of accepting, after which there is nothing to add
	sessions.Wait()
}
