package proxy

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"imlb/backend/xmpp"
)

// session is one XML stream of a client, from accept to record.
type session struct {
	srv   *Server
	ln    *listener
	terms *terms

	// owned by the session's goroutine; the relay lends some of it to its
	// second goroutine, see relay.go
	rec      Record
	facts    facts
	wire     *wire
	client   leg  // nil until the transport stands
	greeted  bool // the current stream has its header
	erred    bool // the client was sent a stream error, which only the stream's end may follow
	domain   string
	deadline Reason // what it means when the read deadline passes
	node     *nodeLeg
	counted  struct{ in, out traffic } // what of the traffic is in the metrics

	placed atomic.Pointer[SessionInfo] // nil unless logged in, and on its node

	mu      sync.Mutex
	open    []net.Conn // what abort has to close
	aborted bool
}

// facts are what the transport knows of the client, for the node.
type facts struct {
	transport   string
	source      net.Addr
	destination net.Addr
	tls         *tls.ConnectionState // nil until there is TLS
}

// session serves one accepted connection or QUIC stream to its end.
func (s *Server) session(ctx context.Context, l *listener, conn halfCloser) {
	ss := &session{srv: s, ln: l, terms: l.terms.Load(), wire: newWire(conn)}
	ss.rec = Record{ID: newID(), Listener: ss.terms.listener.Name, Started: time.Now()}
	ss.setTransport("tcp")
	if q, ok := conn.(*quicConn); ok {
		ss.setTransport("quic")
		ss.setTLS(q.conn.ConnectionState().TLS)
	}
	ss.setEnds(conn.RemoteAddr(), conn.LocalAddr())
	ss.run(ctx)
}

// newID returns 32 hexadecimal digits that nobody can guess.
func newID() string {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails
	return hex.EncodeToString(id[:])
}

// run takes the session through its life, and sees to it that it ends with one
// reason, told to the client, the nodes, the log and the metrics.
func (s *session) run(ctx context.Context) {
	defer s.srv.enter(s)()
	defer s.srv.metrics.enter(s.terms.listener.Name)()
	s.track(s.wire)
	// A session that waits for its client hears of the shutdown by its deadline.
	stop := context.AfterFunc(ctx, func() { _ = s.wire.SetReadDeadline(past) })
	end := s.survive(ctx)
	stop()
	s.placed.Store(nil)
	settle := s.leaveNode(end)
	received := s.part(end)
	settle(ctx, received)
	s.record(ctx, end)
}

// survive serves the session and returns how it ended.
func (s *session) survive(ctx context.Context) *ending {
	return guard(func() *ending {
		var end *ending
		err := s.serve(ctx)
		if errors.As(err, &end) {
			return end
		}
		return &ending{reason: ReasonInternal, condition: xmpp.InternalServerError, cause: err}
	})
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

// serve is the session's life: the steps in the order in which it meets them.
// Its error is an *ending and never nil.
func (s *session) serve(ctx context.Context) error {
	if err := s.limit(ctx); err != nil {
		return err
	}
	if err := s.source(ctx); err != nil {
		return err
	}
	if err := s.transport(ctx); err != nil {
		return err
	}
	if err := s.greet(ctx); err != nil {
		return err
	}
	for !s.rec.LoggedIn {
		claim, err := s.identify(ctx)
		if err != nil {
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

// limit waits for the session's turn under the listener's rate.
func (s *session) limit(ctx context.Context) error {
	ok, err := s.ln.admit(ctx, s.terms.listener.Rate.MaxWait)
	switch {
	case err != nil:
		return s.shutdown()
	case !ok:
		return &ending{reason: ReasonRateLimited}
	}
	return nil
}

// part says good-bye: it ends the client's stream (RFC 6120 §4.4), waits a
// little for the client to end its side, and closes the connection. It returns
// whether the client has received all that was written to it: it read up to the
// stream's end and answered, or ended its connection in order afterwards.
func (s *session) part(end *ending) (received bool) {
	defer s.flushMetrics()
	if end.reason.clientGone() || s.client == nil {
		_ = s.wire.Close()
		if s.client != nil {
			_ = s.client.Close()
		}
		return false
	}
	defer s.client.Close()
	hurry := time.AfterFunc(lingerTime, func() { _ = s.wire.SetWriteDeadline(past) })
	err := s.farewell(end)
	hurry.Stop()
	if err != nil {
		_ = s.wire.Close()
		return false
	}
	// A reset is reported once, here or by the read, which would then see an end.
	whole := s.client.CloseWrite() == nil
	_ = s.wire.SetReadDeadline(time.Now().Add(lingerTime))
	return drained(s.client) && whole
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
			return goneReason(err) == ReasonClientClosed
		}
	}
}

// record ends the session's books.
func (s *session) record(ctx context.Context, end *ending) {
	s.rec.Reason, s.rec.Cause = end.reason, end.cause
	s.rec.Total = time.Since(s.rec.Started)
	s.srv.metrics.ended.WithLabelValues(s.rec.Listener, end.reason.String()).Inc()
	s.rec.log(ctx, s.srv.log)
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
	if s.domain == "" {
		s.domain = s.terms.Domains[0]
	}
	answer := header(xmpp.StreamHeader{From: s.domain, To: h.From, ID: newID(), Lang: "en"})
	s.greeted = true
	s.rec.Out.count(answer)
	return s.client.Write(answer)
}

// readBy sets what waiting for the client ends with, and when.
func (s *session) readBy(ctx context.Context, t time.Time, meaning Reason) error {
	s.deadline = meaning
	if err := s.wire.SetReadDeadline(t); err != nil {
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
	s.rec.Source = source.String()
}

// setTLS notes what the handshake agreed on.
func (s *session) setTLS(state tls.ConnectionState) {
	s.facts.tls = &state
	s.rec.TLSVersion = tls.VersionName(state.Version)
	s.rec.TLSCipher = tls.CipherSuiteName(state.CipherSuite)
	s.rec.ServerName = state.ServerName
	s.rec.ALPN = state.NegotiatedProtocol
}

func (s *session) flushMetrics() {
	s.rec.In.report(&s.counted.in, &s.srv.metrics.in)
	s.rec.Out.report(&s.counted.out, &s.srv.metrics.out)
}

// track makes abort close conn too, now if it has been called.
func (s *session) track(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open = append(s.open, conn)
	if s.aborted {
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
	open := append([]net.Conn(nil), s.open...)
	s.aborted = true
	s.mu.Unlock()
	for _, c := range open {
		_ = c.Close()
	}
}
