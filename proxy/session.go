package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"imlb/backend/xmpp"
	"imlb/proxy/identify"
	"imlb/proxy/limit"
	"imlb/proxy/loop"
)

// session is one connection of a client, or one stream of a QUIC connection, from
// accept to record. It carries an XML stream (client, node) or is opaque (inner,
// far).
type session struct {
	srv   *Server
	ln    *listener
	terms *terms

	// owned by the session's goroutine; the relay lends some of it to its
	// second goroutine, see relay.go
	rec     Record
	facts   *facts // nil once an opaque session is relayed
	wire    *wire
	routed  *Route       // that leads it to another pool than its listener's; else nil
	inner   *wire        // of an opaque session: what carries it, on top of the transport
	far     *nodeConn    // of an opaque session, until it is on a loop
	place   Place        // of an opaque session on its node; nil before
	mqtt    *mqttLogin   // of an opaque session, until its node has answered; nil for others
	ticket  limit.Ticket // what the session counts for
	client  leg          // of an XML stream; nil until the transport stands
	xml     *xmlPart     // of an XML stream
	*login               // of an XML stream, until somebody has logged in
	node    *nodeLeg     // of an XML stream
	resumes *resumption  // of an XML stream that can be resumed; else nil

	joined   bool   // somebody else has closed both sides, or will
	greeted  bool   // the current stream has its header
	erred    bool   // the client was sent a stream error, which only the stream's end may follow
	check    bool   // a trusted proxy's own connection, which carries no client
	mute     bool   // of an opaque session: nothing had come from the client when the relay began
	deadline Reason // what it means when the read deadline passes

	deaf func() bool // ends the wake-up by the shutdown; see hear
	over func()      // tells who waits for the session's end

	placed atomic.Bool // on its node, so that rec says where

	mu        sync.Mutex
	aborted   bool
	dismissed bool
	open      []net.Conn // what abort has to close
	carrier   carrier    // nil before there is one
}

// xmlPart is what only XML streams have.
type xmlPart struct {
	domain  string // that the client has asked for; "" before
	in, out reported
}

// login is what matters until somebody has logged in.
type login struct {
	from  xmpp.JID // whom the current stream's header names, of the stream's domain; zero for nobody
	lang  string   // of that header
	offer offer    // what the client may log in with

	by time.Time // when it has to be over

	registrations int // that the client has asked for
}

// carrier is what a session goes on on by itself, or what carries it in its goroutines until
// both sides have ended. Its methods may be called from any goroutine.
type carrier interface {
	// Abort cuts the session off.
	Abort(err error)
	// Drain ends it in order, because the front stops.
	Drain()
}

// ender is a carrier of a session on its node that can end it because of something else. It may be
// called from any goroutine.
type ender interface {
	End(e *ending)
}

// mover is a carrier of an opaque session that counts what came from the client and from the
// node. Bytes may be called from any goroutine.
type mover interface {
	Bytes() (up, down int64)
}

// errCutOff is what a session is aborted with that outlasts the patience of a
// shutdown.
var errCutOff = errors.New("cut off at the end of the shutdown")

// session serves one accepted connection or QUIC stream. over is called when the
// session has ended, which may be after the return: on a loop it goes on by itself.
func (s *Server) session(ctx context.Context, l *listener, conn halfCloser, over func()) {
	ss := s.newSession(l, l.terms.Load(), newWire(conn), new(facts), over)
	if q, ok := conn.(*quicConn); ok {
		ss.setTransport("quic")
		ss.setTLS(q.conn.ConnectionState().TLS)
	}
	ss.setEnds(conn.RemoteAddr(), conn.LocalAddr())
	ss.run(ctx)
}

// newSession returns a session that begins now. w and f are its own.
func (s *Server) newSession(l *listener, t *terms, w *wire, f *facts, over func()) *session {
	ss := &session{srv: s, ln: l, terms: t, wire: w, facts: f, over: over}
	ss.rec = Record{
		ID: s.ids.next(), Listener: ss.terms.listener.Name, Started: time.Now(), Opaque: ss.terms.listener.Protocol.opaque(),
	}
	ss.setTransport("tcp")
	s.enter(ss)
	return ss
}

// run takes the session through its life, up to its end or to where it goes on by
// itself.
func (s *session) run(ctx context.Context) {
	s.track(s.wire)
	s.deaf = s.hear(ctx)
	if end := s.survive(ctx); end != nil {
		s.deaf()
		s.finish(ctx, end)
	}
}

// hear has a session that waits for its client hear of the shutdown, by its deadline. What it returns
// ends that, and tells whether there was none yet. There is no such deadline any more then: it would cut
// off what the client is sent last.
func (s *session) hear(ctx context.Context) (deaf func() bool) {
	heard := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(heard)
		_ = s.wire.SetReadDeadline(past)
	})
	return func() bool {
		stopped := stop()
		if stopped {
			close(heard) // for who calls this again
		}
		<-heard
		return stopped
	}
}

// survive serves the session and returns how it ended, or nil when it goes on by
// itself.
func (s *session) survive(ctx context.Context) *ending {
	return guard(func() *ending { return asEnding(s.serve(ctx)) })
}

// asEnding makes an ending of the error of a step.
func asEnding(err error) *ending {
	if err == nil {
		return nil
	}
	if end := (*ending)(nil); errors.As(err, &end) {
		return end
	}
	return &ending{reason: ReasonInternal, condition: xmpp.InternalServerError, cause: err}
}

// finish sees to it that the session ends with one reason, told to the client, the
// nodes, the log and the metrics.
func (s *session) finish(ctx context.Context, end *ending) {
	defer s.over()
	defer s.srv.leave(s)
	s.placed.Store(false)
	s.leavePlace()
	settle := s.leaveNode(ctx, end)
	received := s.part(end)
	if s.resumes == nil { // else the settle has begun
		s.prove()
	}
	settle(received && (!s.onBOSH() || s.rec.LastEntry > 0))
	s.record(end)
}

// guard runs a part of a session, so that a panic ends that session only.
func guard(part func() *ending) (end *ending) {
	defer func() {
		if r := recover(); r != nil {
			end = &ending{
				reason: ReasonInternal, condition: xmpp.InternalServerError,
				cause: fmt.Errorf("panic: %v\n%s", r, debug.Stack()),
			}
		}
	}()
	return part()
}

// serve is the session's life: the steps in the order in which it meets them. Its
// error is an *ending, or nil when the session goes on by itself.
func (s *session) serve(ctx context.Context) error {
	if s.onBOSH() {
		return s.serveBOSH(ctx)
	}
	if err := s.limit(ctx); err != nil {
		return err
	}
	wait, err := s.source(ctx)
	if err == nil {
		err = s.wait(ctx, wait)
	}
	if err != nil {
		return err
	}
	if err := s.transport(ctx); err != nil {
		return err
	}
	if s.inner != nil {
		return s.opaque(ctx)
	}
	return s.stream(ctx)
}

// stream carries an XML stream. Its error is an *ending and never nil.
func (s *session) stream(ctx context.Context) error {
	if err := s.greet(ctx); err != nil {
		return err
	}
	for !s.rec.LoggedIn {
		claim, err := s.identify(ctx)
		if err != nil {
			return err
		}
		if err := s.mayTry(ctx, claim.shows.String()); err != nil {
			return err
		}
		if err := s.connect(ctx, claim.user); err != nil {
			return err
		}
		if err := s.authenticate(ctx, claim); err != nil {
			return err
		}
	}
	return s.relay(ctx)
}

// limit waits for the session's turn.
func (s *session) limit(ctx context.Context) error {
	wait, err := s.accept()
	if err != nil {
		return err
	}
	return s.wait(ctx, wait)
}

// part says good-bye: it ends the client's stream (RFC 6120 §4.4), waits a
// little for the client to end its side when it has got all, and closes the connection.
// To close it before would take from a slow client what it was sent last. It returns
// whether the client has received all that was written to it: it read up to the
// stream's end and answered, or ended its connection in order afterwards.
func (s *session) part(end *ending) (received bool) {
	defer s.flushMetrics()
	if s.joined {
		return false
	}
	if s.inner != nil {
		s.closeOpaque(end)
		return false
	}
	if end.reason.clientGone() || s.client == nil {
		if q, ok := s.wire.Conn.(*quicConn); ok && s.client == nil {
			q.CancelWrite(quicRefused) // to end it in order would be an answer
		}
		_ = s.wire.Close()
		if s.client != nil {
			_ = s.client.Close()
		}
		return false
	}
	defer s.client.Close()
	s.wire.stall = s.parting(end)
	_ = s.wire.SetWriteDeadline(time.Time{}) // it was for what came before
	hurry := time.AfterFunc(s.wire.stall, func() { _ = s.wire.SetWriteDeadline(past) })
	err := s.farewell(end)
	hurry.Stop()
	if err != nil {
		_ = s.wire.Close()
		return false
	}
	// A reset is reported once, here or by the read, which would then see an end.
	whole := s.client.CloseWrite() == nil
	s.wire.Await()
	return drained(s.client) && whole
}

// parting is how long a client may take nothing of what it was sent last. A front that stops
// waits less for those that are not there any more.
func (s *session) parting(end *ending) time.Duration {
	if end.reason == ReasonShutdown {
		return lingerTime
	}
	return max(s.terms.Timeouts.Write, lingerTime)
}

// farewell writes the stream error, if there is one, and the stream's end.
func (s *session) farewell(end *ending) error {
	if !s.greeted {
		// An error in the header is still told inside a stream: RFC 6120 §4.9.1.2.
		if err := s.sendHeader(xmpp.StreamHeader{}); err != nil {
			return err
		}
	}
	if e := end.streamError(); e != nil && !s.erred {
		if err := s.client.Write(element(e.Append(nil))); err != nil {
			return err
		}
	}
	return post(s.client, streamEnd())
}

// drained reads a leg to the end of its stream or connection, and tells whether
// that was in order. What a broken stream still sends is dropped.
func drained(l leg) bool {
	for {
		tok, err := l.Next()
		switch {
		case err == nil && tok.Kind == xmpp.KindClose:
			return true
		case err == nil && tok.Kind != xmpp.KindNone:
			continue
		}
		if err := l.Fill(); err != nil {
			return ended(err)
		}
	}
}

// record ends the session's books.
func (s *session) record(end *ending) {
	s.rec.Reason, s.rec.Cause = end.reason, end.cause
	if s.probed(end.reason) {
		s.rec.Reason = ReasonProbe
	}
	if s.wire != nil {
		if q, ok := s.wire.Conn.(*quicConn); ok { // others cannot move
			if now := q.RemoteAddr().String(); now != s.rec.Source {
				s.rec.Moved = now
			}
		}
	}
	s.rec.Total = time.Since(s.rec.Started)
	s.terms.ended.of(s.rec.Reason).Inc()
	s.srv.journal.add(&s.rec)
}

// probeTime is how soon a client leaves again that only looks whether somebody listens.
const probeTime = time.Second

// probed tells whether a session was a look at the front, by a health check or a scan,
// however it ended: a trusted proxy said so, or the client has left at once without a
// byte. A node was dialled for that one where it might have spoken first.
func (s *session) probed(end Reason) bool {
	switch end {
	case ReasonInternal, ReasonShutdown:
		return false
	case ReasonClientClosed, ReasonClientReset:
		if s.mute && s.rec.In.bytes == 0 && time.Since(s.relayed()) < probeTime {
			return true
		}
	default:
	}
	return s.check && !end.quiet()
}

// relayed is when a node had taken the session, if it had not to wait for that.
func (s *session) relayed() time.Time {
	return s.rec.Started.Add(s.rec.Handshake + s.rec.Identify + s.rec.Dial)
}

// read returns the client's next token. The error is an *ending.
func (s *session) read(ctx context.Context) (xmpp.Token, error) {
	tok, err := await(s.client)
	if err != nil {
		return tok, s.clientError(ctx, err)
	}
	s.rec.In.count(tok)
	return tok, nil
}

// send writes elements to the client at once. The error is an *ending.
func (s *session) send(ctx context.Context, raw ...[]byte) error {
	for _, r := range raw {
		s.rec.Out.count(element(r))
		if err := s.client.Write(element(r)); err != nil {
			return s.clientError(ctx, err)
		}
	}
	if err := s.client.Flush(); err != nil {
		return s.clientError(ctx, err)
	}
	return nil
}

// sendHeader answers the client's stream header h.
func (s *session) sendHeader(h xmpp.StreamHeader) error {
	if s.xml.domain == "" && len(s.terms.Domains) > 0 {
		s.xml.domain = s.terms.Domains[0]
	}
	answer := header(xmpp.StreamHeader{From: s.xml.domain, To: h.From, ID: s.srv.ids.next().String(), Lang: "en"})
	s.greeted = true
	s.rec.Out.count(answer)
	return s.client.Write(answer)
}

// readBy sets what waiting for the client ends with, and when. What TLS writes while it is read
// (RFC 8446 §4.6.3) has to be taken by then, too; all other writes have deadlines of their own.
func (s *session) readBy(ctx context.Context, t time.Time, meaning Reason) error {
	s.deadline = meaning
	if err := s.wire.SetDeadline(t); err != nil {
		return s.clientError(ctx, err)
	}
	if ctx.Err() != nil { // the wake-up may have come before, and is undone now
		return s.shutdown()
	}
	return nil
}

// clientError makes an ending of an error on the client leg.
func (s *session) clientError(ctx context.Context, err error) *ending {
	var bad *xmpp.StreamError
	switch {
	case errors.As(err, &bad):
		return protocolError(bad)
	case errors.Is(err, loop.ErrStalled):
		return &ending{reason: ReasonSlowClient, cause: err}
	case errors.Is(err, errInactive):
		return &ending{reason: ReasonInactive, cause: err}
	case ctx.Err() != nil && isTimeout(err):
		return s.shutdown()
	case isTimeout(err):
		return &ending{reason: s.deadline, condition: xmpp.ConnectionTimeout, cause: err}
	}
	return s.clientEnd(goneReason(err), err)
}

// clientEnd makes an ending of the way in which the client left.
func (s *session) clientEnd(how Reason, err error) *ending {
	switch {
	case !s.wire.used.Load():
		how = ReasonProbe
	case s.rec.Failures > 0 && !s.rec.LoggedIn && how == ReasonClientClosed:
		how = ReasonAuthFailed
	}
	return &ending{reason: how, cause: err}
}

func (s *session) shutdown() *ending {
	return &ending{reason: ReasonShutdown, condition: xmpp.SystemShutdown}
}

func protocolError(e *xmpp.StreamError) *ending {
	reason := ReasonProtocolError
	if e.Condition == xmpp.HostUnknown {
		reason = ReasonHostUnknown
	}
	return &ending{reason: reason, condition: e.Condition, text: e.Text, cause: e}
}

func (s *session) setTransport(name string) {
	s.facts.transport, s.rec.Transport = name, name
}

func (s *session) setEnds(source, destination net.Addr) {
	s.facts.source, s.facts.destination = source, destination
	s.rec.Source = addrText(source)
}

// addrText is what an address is logged as.
func addrText(a net.Addr) string {
	if tcp, ok := a.(*net.TCPAddr); ok {
		if at := tcp.AddrPort(); at.IsValid() { // the same, at a quarter of the allocations
			return netip.AddrPortFrom(at.Addr().Unmap(), at.Port()).String()
		}
	}
	return a.String()
}

// setTLS notes what the handshake agreed on.
func (s *session) setTLS(state tls.ConnectionState) {
	s.facts.tls, s.facts.serverName, s.facts.alpn = &state, serverName(state), state.NegotiatedProtocol
	s.rec.TLS = recordTLS(state)
}

// serverName is what the client has asked for, if it is a name. Another counts as not said: it
// would go to the nodes, which need not read a header as long as it may be.
func serverName(state tls.ConnectionState) string {
	if !identify.IsServerName(state.ServerName) {
		return ""
	}
	return state.ServerName
}

func recordTLS(state tls.ConnectionState) *RecordTLS {
	return &RecordTLS{
		Version: tls.VersionName(state.Version), Cipher: tls.CipherSuiteName(state.CipherSuite),
		ServerName: serverName(state), ALPN: state.NegotiatedProtocol,
	}
}

func (s *session) flushMetrics() {
	if s.xml != nil {
		s.rec.In.report(&s.xml.in, &s.terms.in)
		s.rec.Out.report(&s.xml.out, &s.terms.out)
	}
}

// tally notes how much an opaque session has carried, and adds to the metrics what is new.
func (s *session) tally(up, down int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rec.In.rise(up, s.terms.in.bytes)
	s.rec.Out.rise(down, s.terms.out.bytes)
}

// rise notes that so many bytes went one way, which may be known already.
func (t *traffic) rise(bytes int64, to prometheus.Counter) {
	if d := bytes - t.bytes; d > 0 {
		to.Add(float64(d))
		t.bytes = bytes
	}
}

// tallyMoving tallies in the middle of a session.
func (s *session) tallyMoving() {
	s.mu.Lock()
	m, ok := s.carrier.(mover)
	s.mu.Unlock()
	if ok {
		s.tally(m.Bytes())
	}
}

// track makes abort close conn too, now if it has been called.
func (s *session) track(conn net.Conn) {
	s.mu.Lock()
	s.open = append(s.open, conn)
	aborted := s.aborted
	s.mu.Unlock()
	if aborted {
		_ = conn.Close()
	}
}

// untrack is called when conn has been closed.
func (s *session) untrack(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, c := range s.open {
		if c == conn {
			s.open = append(s.open[:i], s.open[i+1:]...)
			return
		}
	}
}

// abort cuts the session off. It may be called from any goroutine.
func (s *session) abort() {
	s.mu.Lock()
	carrier, open := s.carrier, slices.Clone(s.open)
	s.aborted = true
	s.mu.Unlock()
	// The session sees the first close, and ends what is on top of the others in order, which nobody may hear any more.
	for _, c := range slices.Backward(open) { // nodes before the client
		if w, ok := c.(*wire); ok && w.isTCP() {
			_ = w.CloseWrite()
		}
	}
	for _, c := range open { // which stay with the session; see letGo
		_ = c.Close()
	}
	if carrier != nil {
		carrier.Abort(errCutOff)
	}
}

// letGo is called before the connections go to a loop, on which nobody else may touch them. Until
// goOn there is nothing for abort to close. It returns false if abort has been called, and may
// be about to close them.
func (s *session) letGo() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.aborted {
		s.open = nil
	}
	return !s.aborted
}

// goOn lets the session go on on c. What abort had to close is c's.
func (s *session) goOn(ctx context.Context, c carrier) {
	s.mu.Lock()
	s.open, s.carrier = nil, c
	aborted, dismissed := s.aborted, s.dismissed
	s.mu.Unlock()
	switch {
	case aborted:
		c.Abort(errCutOff)
	case dismissed:
		endOn(c)
	case ctx.Err() != nil: // Server.drain may have come before
		c.Drain()
	}
}

// stayOn notes that the session is carried as c, by goroutines of its own, or by nobody any more. What abort has to
// close stays with it.
func (s *session) stayOn(c carrier) {
	s.mu.Lock()
	s.carrier = c
	dismissed := s.dismissed
	s.mu.Unlock()
	if dismissed {
		endOn(c)
	}
}

// dismiss ends a session that is on a node, because an administrator says so. It may be called from any
// goroutine.
func (s *session) dismiss() {
	s.mu.Lock()
	carrier := s.carrier
	s.dismissed = true // for the next one, if it is about to change
	s.mu.Unlock()
	endOn(carrier)
}

// endOn has a carrier end its session, for an administrator.
func endOn(c carrier) {
	e := &ending{
		reason: ReasonEndedByAdmin, condition: xmpp.PolicyViolation, text: "an administrator has ended the session",
	}
	switch c := c.(type) {
	case *loop.Relay:
		c.Abort(e)
	case ender:
		c.End(e)
	}
}

// comeBack takes back from the carrier what abort has to close.
func (s *session) comeBack(conn net.Conn) {
	s.mu.Lock()
	s.open, s.carrier = nil, nil
	s.mu.Unlock()
	s.track(conn)
}

// drain ends a session that has a carrier, because the front stops. Others have heard of it.
func (s *session) drain() {
	s.mu.Lock()
	carrier := s.carrier
	s.mu.Unlock()
	if carrier != nil {
		carrier.Drain()
	}
}
