package proxy

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"imlb/proxy/limit"
)

// Bounds of QUIC connections that carry no session, of each listener, whatever the
// limits of the configuration are.
const (
	quicHandshakes = 1024 // under way; further ones are refused
	quicCalm       = 32   // handshakes under way from which on clients are doubted
	// quicUnused is how many connections have had no stream yet, and how many have no
	// session any more; the next one ends the oldest, but not before its client has had
	// lingerTime to read what it was sent last.
	quicUnused = 512
)

// arrivals are the QUIC connections of a listener.
//
// A connection is admitted like one of TCP when it begins, by the access lists, and
// as soon as its address is known to be the client's own, by the limits: else who
// forges addresses could use up what others may have. That is at once with a token of
// a Retry or an earlier connection, and otherwise when the handshake is done
// (RFC 9000 §8.1). Its place is taken over by the session of its first stream. The
// sessions of further streams have places of their own. The last one leaves its place to
// the connection, in which who has logged in is no stranger.
//
// With a connection all goes that its client has not read, acknowledged or not
// (RFC 9000 §10.2), and when that has read the last of it nobody but the client knows.
// So after its sessions a connection waits for the client to close it.
type arrivals struct {
	serving atomic.Bool    // there is a journal
	pending sync.WaitGroup // handshakes

	mu         sync.Mutex
	handshakes int
	unproven   int         // of handshakes
	refused    [16]refusal // the last ones, in turn
	next       int         // of refused
	unused     list.List   // of *arrival: those that had no stream yet, the oldest first
	left       list.List   // and those that have no session any more
}

// refusal is a connection that was refused. To quic-go each further packet of it begins
// a connection, too: with the keys of today a ClientHello takes two, and who does not
// hear of the refusal sends them again.
type refusal struct {
	from    string
	at      time.Time
	further int // packets
}

// A client that was refused sends so many further packets within that time, at most.
// What goes beyond is another connection.
const (
	furtherPackets = 5
	furtherTime    = time.Second
)

// known tells whether a refused packet is a further one of a client.
func (s *arrivals) known(from string, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.refused {
		if r := &s.refused[i]; r.from == from && now.Sub(r.at) <= furtherTime && r.further < furtherPackets {
			r.further++
			return true
		}
	}
	s.refused[s.next] = refusal{from: from, at: now}
	s.next = (s.next + 1) % len(s.refused)
	return false
}

// arrival is one QUIC connection.
type arrival struct {
	q        *quicListener
	listener string // its name at the time
	started  time.Time
	remote   net.Addr
	proven   bool        // the address is the client's own
	began    func() bool // ends the wait for the end of the handshake; false when it has ended
	conn     *quic.Conn  // once it stands
	timer    *time.Timer // closes conn when it has had no session for too long

	mu      sync.Mutex
	ticket  limit.Ticket // while there is no session
	turn    time.Time    // of the first stream
	used    bool         // there was a stream
	users   int          // sessions
	due     time.Time    // when conn has to be closed, if there is no session then
	refusal *ending      // why there is no ticket
	why     *ending      // of the connection, when it was ended here

	// guarded by the mutex of arrivals
	place *list.Element
	since time.Time // for how long there has been no session
}

type arrivalKey struct{}

// errNoStream is what a connection is ended for that nobody uses.
var errNoStream = errors.New("no stream was opened in time")

// begin admits a connection whose first packet has come, or refuses it, and quic-go
// says CONNECTION_REFUSED (RFC 9000 §20.1).
func (q *quicListener) begin(ctx context.Context, info *quic.ClientInfo) (context.Context, error) {
	a := &arrival{q: q, listener: q.name(), started: time.Now(), remote: info.RemoteAddr, proven: info.AddrVerified}
	if end := a.enter(); end != nil {
		if !q.arrivals.known(a.remote.String(), a.started) {
			a.refuse(end)
		}
		return nil, end
	}
	q.arrivals.pending.Add(1)
	a.began = context.AfterFunc(ctx, func() { a.failed(ctx) })
	return context.WithValue(ctx, arrivalKey{}, a), nil
}

// doubts tells whether a client has to show that its address is its own before
// anything is kept of it (RFC 9000 §8.1.2): when many handshakes are under way, be
// they forged or slow, or when those that are have used a limit up. It goes by itself
// when they have ended. quic-go asks for each first packet without a token that holds, and
// answers by a Retry.
func (q *quicListener) doubts(from net.Addr) bool {
	s := &q.arrivals
	s.mu.Lock()
	handshakes, unproven := s.handshakes, s.unproven
	s.mu.Unlock()
	var why string
	switch {
	case handshakes >= quicCalm:
		why = "handshakes"
	case q.srv.guard.Busy(time.Now(), q.name(), addrOf(from), unproven):
		why = "limit"
	default:
		return false
	}
	q.srv.metrics.retries.WithLabelValues(q.name(), why).Inc()
	return true
}

// handshakeTime is how long a client may be silent in its handshake. When there are
// many it is less, so that those who never go on make room.
func (q *quicListener) handshakeTime() time.Duration {
	most := q.terms.Load().Timeouts.Handshake
	s := &q.arrivals
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.handshakes >= quicCalm {
		return most / 4
	}
	return most
}

// arrivalOf returns the arrival of a connection.
func arrivalOf(conn *quic.Conn) *arrival {
	a, _ := conn.Context().Value(arrivalKey{}).(*arrival)
	return a
}

// enter counts a handshake, or says why there must not be one.
func (a *arrival) enter() *ending {
	s := &a.q.arrivals
	s.mu.Lock()
	full := s.handshakes >= quicHandshakes
	if !full {
		s.handshakes++
		if !a.proven {
			s.unproven++
		}
	}
	s.mu.Unlock()
	if full {
		return &ending{reason: ReasonTooMany, cause: fmt.Errorf("there are %d handshakes under way", quicHandshakes)}
	}
	end := a.admit()
	if end != nil {
		a.handshook()
	}
	return end
}

// handshook says that the handshake is over.
func (a *arrival) handshook() {
	s := &a.q.arrivals
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handshakes--
	if !a.proven {
		s.unproven--
	}
}

// underWay is how many handshakes are.
func (s *arrivals) underWay() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.handshakes
}

// admit asks the limits. Of an address that may be forged only the lists are asked.
func (a *arrival) admit() *ending {
	if a.proven {
		return a.take()
	}
	if a.q.srv.guard.Denied(a.listener, addrOf(a.remote)) {
		return refusedFor(limit.ReasonDenied)
	}
	return nil
}

// take asks the limits for a place.
func (a *arrival) take() *ending {
	now := time.Now()
	ticket, wait, refusal := a.q.srv.guard.Accept(now, a.listener, addrOf(a.remote))
	if refusal != limit.ReasonNone {
		return refusedFor(refusal)
	}
	a.ticket, a.turn = ticket, now.Add(wait)
	return nil
}

// refusedFor makes an ending of what a limit says.
func refusedFor(why limit.Reason) *ending { return &ending{reason: reasonOf(why), limit: why} }

// refuse counts and logs a connection that is not admitted.
func (a *arrival) refuse(end *ending) {
	if end.limit != limit.ReasonNone {
		a.q.srv.metrics.refused.WithLabelValues(a.listener, end.limit.String()).Inc()
	}
	a.note(end)
}

// failed is told that the connection ended before it was accepted.
func (a *arrival) failed(ctx context.Context) {
	defer a.q.arrivals.pending.Done()
	a.handshook()
	a.ticket.Done()
	a.note(a.q.handshakeEnd(context.Cause(ctx)))
}

// handshakeEnd makes an ending of why a handshake failed.
func (q *quicListener) handshakeEnd(err error) *ending {
	var transport *quic.TransportError
	var app *quic.ApplicationError
	var netErr net.Error
	isTransport := errors.As(err, &transport)
	switch {
	case isTransport && transport.ErrorCode.IsCryptoError(): // of either side (RFC 9001 §4.8)
		return &ending{reason: ReasonTLSFailed, cause: err}
	case errors.As(err, &netErr) && netErr.Timeout():
		return &ending{reason: ReasonHandshakeTimeout, cause: err}
	case q.ended():
		return &ending{reason: ReasonShutdown, cause: err}
	case errors.As(err, &app) && app.Remote,
		isTransport && transport.Remote && transport.ErrorCode == quic.ApplicationErrorErrorCode:
		// The client has closed it, and says so by the latter in its handshake (RFC 9000 §10.2.3).
		return &ending{reason: ReasonNoStream, cause: err}
	case isTransport && transport.Remote:
		return &ending{reason: ReasonClientReset, cause: err}
	case isTransport && transport.ErrorCode == quic.ConnectionRefused: // quic-go's queue is full
		return &ending{reason: ReasonTooMany, cause: err}
	default:
		return &ending{reason: ReasonProtocolError, cause: err}
	}
}

// ended tells whether the listener accepts no more.
func (q *quicListener) ended() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.retired
}

// stand is told that the handshake is done, and tells whether the connection may go
// on. The address is the client's own, since the client has answered.
func (a *arrival) stand(conn *quic.Conn) bool {
	if !a.began() {
		return false // it has ended meanwhile
	}
	a.q.arrivals.pending.Done()
	defer a.handshook() // not before there is a place: see doubts
	if !a.proven {
		if end := a.take(); end != nil {
			a.refuse(end)
			_ = conn.CloseWithError(quicRefused, end.reason.String())
			return false
		}
	}
	a.conn = conn
	after := a.q.terms.Load().Timeouts.Handshake
	a.mu.Lock()
	a.due = time.Now().Add(after)
	a.timer = time.AfterFunc(after, a.expire)
	oldest := a.rest()
	a.mu.Unlock()
	oldest.evict()
	return true
}

// rest counts the connection as one without a session, and returns one that has to go
// for it, or nil.
func (a *arrival) rest() *arrival {
	s := &a.q.arrivals
	s.mu.Lock()
	defer s.mu.Unlock()
	a.since = time.Now()
	if a.used {
		a.place = s.left.PushBack(a)
		return oldest(&s.left, a.since.Add(-lingerTime))
	}
	a.place = s.unused.PushBack(a)
	return oldest(&s.unused, a.since)
}

// oldest takes the oldest of too many connections from them, if it has had no session since
// then or longer.
func oldest(of *list.List, then time.Time) *arrival {
	if of.Len() <= quicUnused {
		return nil
	}
	a, _ := of.Front().Value.(*arrival)
	if a.since.After(then) {
		return nil
	}
	of.Remove(of.Front())
	return a
}

// wake counts it as one without a session no more.
func (a *arrival) wake() {
	s := &a.q.arrivals
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.place != nil { // in one of them, unless it was evicted
		s.unused.Remove(a.place)
		s.left.Remove(a.place)
		a.place = nil
	}
}

// evict ends the connection, because others came that have no stream either.
func (a *arrival) evict() {
	if a == nil {
		return
	}
	a.close(&ending{
		reason: ReasonTooMany, cause: fmt.Errorf("%d connections without a stream came after it", quicUnused),
	}, quicRefused)
}

// expire ends the connection when it is time.
func (a *arrival) expire() {
	a.mu.Lock()
	early, used, refusal := time.Now().Before(a.due), a.used, a.refusal
	a.mu.Unlock()
	switch {
	case early: // a session came and went meanwhile
	case refusal != nil:
		a.close(refusal, quicRefused)
	case used:
		a.close(&ending{reason: ReasonNoStream, cause: errNoStream}, quicLeft)
	default:
		a.close(&ending{reason: ReasonNoStream, cause: errNoStream}, quicOK)
	}
}

// close ends the connection, unless it has sessions.
func (a *arrival) close(end *ending, code quic.ApplicationErrorCode) {
	a.mu.Lock()
	used := a.users > 0
	if !used && a.why == nil {
		a.why = end
	}
	a.mu.Unlock()
	if used {
		return
	}
	_ = a.conn.CloseWithError(code, end.reason.String())
}

// admission is what a connection hands on to the session of its first stream.
type admission struct {
	ticket limit.Ticket
	turn   time.Time
	from   net.Addr // whom the ticket counts for
}

// open is told of a stream. The first gets the place of the connection.
func (a *arrival) open() *admission {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.users++
	if a.users > 1 {
		return nil
	}
	a.timer.Stop()
	a.wake()
	if a.used {
		a.ticket.Done() // a further session is one more, for which there is a rate
		return nil
	}
	a.used = true
	first := &admission{a.ticket, a.turn, a.remote}
	a.ticket = limit.Ticket{}
	return first
}

// over is told that a session has ended. The place of the last one is the connection's
// from then on.
func (a *arrival) over(place limit.Ticket) {
	a.mu.Lock()
	a.users--
	if a.users > 0 || a.conn.Context().Err() != nil {
		a.mu.Unlock()
		place.Done()
		return
	}
	a.keep(time.Now(), place)
	oldest := a.rest()
	a.mu.Unlock()
	oldest.evict()
}

// keep gives the connection the place of its last session, or another one if that had none.
// It may keep it for as long as it may take to read what was sent; without one it has to go
// soon, also if it tries on.
func (a *arrival) keep(now time.Time, place limit.Ticket) {
	if place == (limit.Ticket{}) {
		var refusal limit.Reason
		if place, refusal = a.q.srv.guard.Stay(now, a.listener, addrOf(a.conn.RemoteAddr())); refusal != limit.ReasonNone {
			a.deny(now, refusal)
			return
		}
	}
	a.ticket, a.refusal, a.due = place, nil, now.Add(a.q.terms.Load().Timeouts.Write)
	a.timer.Reset(a.due.Sub(now))
}

// deny has the connection go because it is refused a place.
func (a *arrival) deny(now time.Time, why limit.Reason) {
	if a.refusal == nil {
		a.refusal, a.due = refusedFor(why), now.Add(lingerTime)
		a.q.srv.metrics.refused.WithLabelValues(a.listener, why.String()).Inc()
	}
	a.timer.Reset(a.due.Sub(now))
}

// farewell closes the connection, on which there will be no session any more. If one has
// just ended, its client has a little time to read all of it, and close it itself.
func (a *arrival) farewell() {
	a.mu.Lock()
	used := a.used
	a.mu.Unlock()
	if !used {
		_ = a.conn.CloseWithError(quicOK, "")
		return
	}
	s := &a.q.arrivals
	s.mu.Lock()
	since := a.since
	s.mu.Unlock()
	timer := time.NewTimer(time.Until(since.Add(lingerTime)))
	defer timer.Stop()
	select {
	case <-a.conn.Context().Done():
	case <-timer.C:
	case <-a.q.srv.hurry:
	}
	_ = a.conn.CloseWithError(quicLeft, "")
}

// left is told that the connection has ended, why, and that its sessions have, too.
func (a *arrival) left(ctx context.Context, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.timer.Stop()
	a.wake()
	a.ticket.Done()
	switch {
	case a.used: // the sessions have said why they ended
	case a.why != nil:
		a.note(a.why)
	case ctx.Err() != nil:
		a.note(&ending{reason: ReasonShutdown})
	default:
		a.note(&ending{reason: ReasonNoStream, cause: err})
	}
}

// note counts and logs a connection that never had a session, like a session that
// ended there.
func (a *arrival) note(end *ending) {
	a.q.srv.metrics.ended.WithLabelValues(a.listener, end.reason.String()).Inc()
	if !a.q.arrivals.serving.Load() {
		return
	}
	r := Record{
		ID: a.q.srv.ids.next(), Listener: a.listener, Transport: "quic", Source: a.remote.String(), Started: a.started,
		Total: time.Since(a.started), Limit: end.limit, Reason: end.reason, Cause: end.cause,
	}
	if a.conn != nil {
		r.TLS = recordTLS(a.conn.ConnectionState().TLS)
	}
	a.q.srv.journal.add(&r)
}
