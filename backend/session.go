package backend

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// session is one connection from a front and, once logged in, one client.
type session struct {
	// Static.
	node    *Node
	conn    net.Conn
	started time.Time

	// Owned by the reading goroutine, which runs serve; read by others only
	// after bind has made the session known.
	client    facts
	stream    stream
	from      string // whom the stream's header names
	account   store.Account
	seen      uint64 // the last change of accounts that was known when account was read
	mechanism string
	inline    *xmpp.Inline // what its <authenticate/> asks for besides; nil when that is done
	token     *store.Token // that the client has logged in with
	device    string       // which client of the user it is; empty if that is not known
	id        string
	epoch     uint64
	origin    uint64 // entries up to this one were there before the session was bound
	jid       xmpp.JID
	hub       *hub
	registers int // asked for before login
	pacer     *pacer
	overSince time.Time     // when the client was last within its own rates; zero: it is
	runs      []*commandRun // commands that wait for answers
	saved     []byte
	first     []item        // of a resumed session: what is written before everything else
	again     []savedFlight // the entries among that, which the cursor does not meet
	since     uint32        // … what the client had counted when it was resumed
	sasl2     bool          // the client logs in, or has logged in, by SASL2
	bound     bool
	asked     bool // whether it is there, and has not said anything yet
	spoken    bool // it has said something to somebody, or that it is there
	touched   bool // something may have changed that is saved

	in      inbound // what came from the client
	out     *outbox // what goes to it
	unacked unacked // what went to it and may not have arrived
	cur     cursor  // owned by the writing goroutine

	holdTime atomic.Int64  // for how long the session may be resumed, in ns; 0: it may not
	uncopied atomic.Uint64 // the last entry that was left to another client without a copy

	bed   int32       // the descriptor that it sleeps at; under dormitory.mu
	tired bool        // the client is quiet
	alarm *time.Timer // wakes it
	due   time.Time   // when a client that says nothing is asked, or given up

	done    chan struct{} // closed by end
	written chan struct{} // closed when nothing more is written
	wakeUp  func()        // starts a goroutine that goes on with a session that has slept
	gone    chan struct{} // closed when nothing of a bound session is left

	replaced string // the ID of the session whose resource it took in the store
	outdated bool   // others had its place before it arrived; under Node.mu until it has

	// Guarded by hub.mu.
	presence    []byte // last broadcast presence, addressed from us; nil: unavailable
	priority    int
	looked      time.Time             // when it has asked for presence; of a resumed session: when it began
	interested  bool                  // has asked for the roster
	carbons     bool                  // wants copies of messages
	heard       bool                  // has been told of the roster as it was, and is told of changes
	blockPushes bool                  // has asked for the blocklist
	settled     bool                  // it was resumed, and what it has yet to receive up to passed is left to it
	blocksTold  uint64                // the blocklist's version up to which all changes were told
	directed    map[xmpp.JID]struct{} // who was told of us by directed presence
	passed      uint64                // entries up to this one the cursor does not come to, unless it goes back

	endOnce sync.Once
	reason  Reason // written once, before done is closed
	cause   error
	kept    bool // the session may be resumed

	dismissed atomic.Bool // it has to end once what its client has said is stored

	yieldOnce sync.Once
	yield     chan struct{} // closed by giveUp
	evicted   atomic.Bool   // it has to end, although it may have been resumed
	lost      atomic.Bool   // the store has said that it is not this node's any more
}

func newSession(n *Node, conn net.Conn) *session {
	s := &session{
		node: n, conn: conn, started: time.Now(),
		done: make(chan struct{}), written: make(chan struct{}), gone: make(chan struct{}), yield: make(chan struct{}),
		out:    newOutbox(n.opts.Limits.QueueBytes, n.metrics.unseen),
		passed: math.MaxUint64,
	}
	s.stream.init(conn, n.opts.Limits.preAuth())
	return s
}

// serve is the life of a session, up to where it sleeps for the first time.
func (s *session) serve(ctx context.Context) {
	s.login(ctx)
	if !s.bound {
		s.record(ctx)
		s.over()
		return
	}
	s.wakeUp = func() { go s.run(ctx) }
	s.out.prepend(s.first)
	s.first = nil
	s.startWriting(ctx)
	s.due = time.Now().Add(s.node.opts.Timeouts.Idle)
	s.run(ctx)
}

// run serves the logged-in client until it is quiet, or its stream ends, one way or another.
func (s *session) run(ctx context.Context) {
	if asleep := s.read(ctx); asleep {
		return // it is not ours any more
	}
	defer s.over()
	<-s.written
	if s.kept && s.park(ctx) {
		return // somebody goes on with it
	}
	s.leave(ctx)
	if !s.kept {
		s.record(ctx)
	}
}

// over is the end of it all.
func (s *session) over() {
	if s.alarm != nil {
		s.alarm.Stop()
	}
	close(s.gone)
	s.node.untrack(s.conn)
	_ = s.conn.Close()
	s.node.conns.Done()
}

// login is everything before the client may send stanzas, in order. Each step
// ends the session itself when it returns false.
func (s *session) login(ctx context.Context) {
	defer s.survive(ctx)
	deadline := s.started.Add(s.node.opts.Timeouts.Handshake)
	_ = s.conn.SetDeadline(deadline) // a connection that is gone says so at the next read
	if s.meet(ctx) && s.authenticate(ctx) {
		s.client.bindings = nil // they are a part of the whole header
		s.bind(ctx)
	}
}

// survive ends a session that has run into a mistake of ours. Deferred by each of
// its goroutines, it keeps the mistake from everybody else's.
func (s *session) survive(ctx context.Context) {
	p := recover()
	if p == nil {
		return
	}
	s.node.opts.Logger.ErrorContext(ctx, "panic in a session",
		slog.String("user", s.account.User), slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
	s.finish(ReasonInternal, fmt.Errorf("panic: %v", p), nil)
	_ = s.conn.Close() // the other goroutine has nothing to wait for
}

// meet reads what the front says first.
func (s *session) meet(ctx context.Context) bool {
	if !s.node.trusts(s.conn.RemoteAddr()) {
		return s.fail(ReasonUntrusted, nil)
	}
	header, early, err := readHeader(s.conn)
	if err != nil {
		return s.fail(ReasonProxyHeader, err)
	}
	if header.Command.IsLocal() {
		return s.fail(ReasonProbe, nil)
	}
	tlvs, err := header.TLVs()
	if err != nil {
		return s.fail(ReasonProxyHeader, err)
	}
	s.client = readFacts(header, tlvs)
	if word, ok := findTLV(tlvs, tlvSettle); ok {
		return s.fail(ReasonSettle, s.node.settle(ctx, word, s.client.id))
	}
	s.stream.rest = early
	return true
}

// read handles what the client sends until its stream ends, or the session sleeps: then it
// belongs to whoever wakes it.
func (s *session) read(ctx context.Context) (asleep bool) {
	defer s.survive(ctx)
	s.watch(s.restAfter())
	for s.step(ctx) {
		if s.dismissed.Load() && !s.ended() {
			s.takeLeave()
		}
		if s.tired && s.sleep() {
			return true
		}
	}
	s.stream.release()
	s.endBy(io.EOF) // has no effect when the end has a reason already
	return false
}

// dismiss ends the session because the node stops. A client that was told so while its
// messages are on their way into the store could log in elsewhere, and what it says there
// would overtake them; so they come first. It tells whether the session has ended now; else
// done is closed when it has.
func (s *session) dismiss() (now bool) {
	if !s.in.busy() {
		s.shutDown()
		return true
	}
	s.dismissed.Store(true)
	s.nudge()
	return false
}

// takeLeave ends a session that was dismissed. The reading goroutine calls it, which takes
// no more in meanwhile.
func (s *session) takeLeave() {
	s.tired = false
	s.in.wait(0, s.done)
	s.shutDown()
}

func (s *session) shutDown() {
	s.end(ReasonShutdown, &xmpp.StreamError{Condition: xmpp.SystemShutdown})
}

// step reads and handles one token. After the end of the session it only takes
// notice of acknowledgements.
func (s *session) step(ctx context.Context) bool {
	tok, err := s.stream.next()
	if err != nil && s.waits(ctx, err) {
		return true
	}
	if err != nil {
		s.endBy(err)
		return false
	}
	switch tok.Kind {
	case xmpp.KindClose:
		s.in.wait(0, s.done) // what the client has said, which the last count includes, and what it says elsewhere comes after
		s.end(ReasonClientClosed, nil)
		return false
	case xmpp.KindElement:
		if s.ended() {
			s.lastWords(tok.Raw)
			return true
		}
		if err := s.handle(ctx, tok.Raw); err != nil {
			s.endBy(err)
		}
		return true
	default:
		s.end(ReasonProtocolError, &xmpp.StreamError{Condition: xmpp.NotWellFormed})
		return false
	}
}

// end gives the session its reason to end, tells the client with a stream error if
// one is given, and closes the stream. Only the first call counts.
func (s *session) end(reason Reason, farewell *xmpp.StreamError) { s.endWith(reason, nil, farewell) }

// endWith is end with a cause for the log, where that is another than what the client
// is told.
func (s *session) endWith(reason Reason, cause error, farewell *xmpp.StreamError) {
	last := s.lastCount()
	if farewell != nil {
		if cause == nil {
			cause = farewell
		}
		last = farewell.Append(last)
	}
	if reason != ReasonClientLost {
		last = append(last, xmpp.StreamEnd...)
	}
	s.finish(reason, cause, last)
	if !reason.parks() {
		s.evict(reason) // if it is parked already
	}
}

// endBy ends the session because of an error, which decides what the client is
// told.
func (s *session) endBy(err error) {
	var stop *stopError
	var broken *xmpp.StreamError
	switch {
	case errors.As(err, &stop):
		s.endWith(stop.reason, stop.cause, stop.farewell)
	case errors.As(err, &broken):
		s.end(ReasonProtocolError, broken)
	case errors.Is(err, io.EOF): // a front that stops still tells its client what we say
		s.finish(ReasonClientLost, err, s.lastCount())
	default:
		s.finish(ReasonClientLost, err, nil)
	}
}

func (s *session) finish(reason Reason, cause error, last []byte) {
	s.endOnce.Do(func() {
		s.reason, s.cause = reason, cause
		// A client that was too slow to read has not been told, and may come back.
		s.kept = s.holdTime.Load() > 0 && (reason.parks() || reason == ReasonSlowClient && last == nil)
		close(s.done)
		s.out.close(last, s.kept)
		_ = s.conn.SetReadDeadline(time.Now().Add(s.closeTime()))
		s.node.quiet.rouse(s)
	})
}

// closeTime is how long the client of a session that has ended may take to end its stream
// as well. Nobody waits for one that is already somewhere else.
func (s *session) closeTime() time.Duration {
	if s.reason == ReasonMoved {
		return 0
	}
	return s.node.opts.Timeouts.Close
}

func (s *session) ended() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// stopError is an error that says how the session has to end.
type stopError struct {
	reason   Reason
	farewell *xmpp.StreamError // what the client is told
	cause    error             // what the log is told
}

func (e *stopError) Error() string {
	if e.cause != nil {
		return e.reason.String() + ": " + e.cause.Error()
	}
	return e.reason.String()
}

func (e *stopError) Unwrap() error { return e.cause }

// storeFailed ends a session that was to be promised what the store did not take, which
// may be because its account was deleted.
func storeFailed(err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return &stopError{ReasonAccountGone, &xmpp.StreamError{Condition: xmpp.NotAuthorized, Text: accountGone}, err}
	}
	return &stopError{ReasonStoreFailed, &xmpp.StreamError{Condition: xmpp.InternalServerError}, err}
}

// fail ends a connection before login, without a word to the peer.
func (s *session) fail(reason Reason, cause error) bool {
	s.finish(reason, cause, nil)
	return false
}

// refuse ends a connection before login with a stream error. The peer's header
// was answered already.
func (s *session) refuse(reason Reason, e *xmpp.StreamError) bool {
	s.finish(reason, e, nil)
	last := e.Append(nil)
	_ = s.conn.SetWriteDeadline(time.Now().Add(s.node.opts.Timeouts.Close)) // that of the handshake may be over
	_, _ = s.conn.Write(append(last, xmpp.StreamEnd...))                    // the peer may be gone
	return false
}

// failBy ends a connection before login because of a failed read or write, or
// because the stream is broken.
func (s *session) failBy(err error) bool {
	var broken *xmpp.StreamError
	var timeout net.Error
	switch {
	case errors.As(err, &broken):
		return s.refuse(ReasonProtocolError, broken)
	case errors.As(err, &timeout) && timeout.Timeout():
		return s.refuse(ReasonHandshake, &xmpp.StreamError{Condition: xmpp.ConnectionTimeout})
	default:
		return s.fail(ReasonGone, err)
	}
}

// record writes the session's one log line and counts its end.
func (s *session) record(ctx context.Context) {
	s.node.metrics.ended.WithLabelValues(s.reason.String()).Inc()
	if s.reason.silent() {
		return
	}
	attrs := []slog.Attr{
		slog.String("reason", s.reason.String()),
		slog.String("id", s.client.id),
		slog.String("source", s.client.source),
		slog.String("front", s.conn.RemoteAddr().String()),
		slog.String("transport", s.client.transport),
		slog.String("tls", s.client.tls),
		slog.Duration("duration", time.Since(s.started)),
	}
	if s.bound {
		attrs = append(attrs,
			slog.String("user", s.account.User),
			slog.String("resource", s.jid.Resource()),
			slog.String("session", s.id),
			slog.String("mechanism", s.mechanism),
			slog.Uint64("stanzas_in", s.in.total()),
			slog.Uint64("stanzas_out", s.out.total()))
	}
	if s.cause != nil {
		attrs = append(attrs, slog.String("cause", s.cause.Error()))
	}
	s.node.opts.Logger.LogAttrs(ctx, slog.LevelInfo, "session", attrs...)
}
