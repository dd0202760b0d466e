package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"imlb/proxy/identify"
	"imlb/proxy/ws"
)

// opaque carries a session of which the front reads no more than it needs to know
// the user. It returns nil when the session goes on by itself, and its ending
// otherwise.
func (s *session) opaque(ctx context.Context) error {
	user, err := s.sniff(ctx)
	if err != nil {
		return err
	}
	wait, err := s.identified(user)
	if err == nil {
		err = s.wait(ctx, wait)
	}
	if err != nil {
		return err
	}
	s.far, err = s.dialNext(ctx, user, func(*nodeConn) error { return nil })
	if err != nil {
		return err
	}
	s.onNode(s.far)
	if err := s.taken(time.Now()); err != nil {
		return err
	}
	return s.join(ctx)
}

// onNode notes on which node the session is.
func (s *session) onNode(node *nodeConn) { s.rec.Node, s.place = node.name(), node.choice.Place }

// identified notes who the user is, and returns how long its turn has to be waited
// for.
func (s *session) identified(user string) (wait time.Duration, err error) {
	s.rec.User = user
	now := time.Now()
	s.rec.Identify = now.Sub(s.rec.Started) - s.rec.Handshake
	s.srv.metrics.identify.Observe(s.rec.Identify.Seconds())
	if s.speaksMQTT() {
		if err := s.expectLogin(); err != nil {
			return 0, err
		}
	}
	return s.claim(now, user)
}

// sniffing is how far the search for the user of an opaque session has come.
type sniffing struct {
	progress identify.Progress
	begun    bool // it has to be over in time
	final    bool // nothing more will come
	late     bool // because of the time
}

// sniff finds out who the user is, from what is known of the connection and from
// the first bytes. They stay to be read.
func (s *session) sniff(ctx context.Context) (user string, err error) {
	how := &s.terms.listener.Identify
	if s.facts.sniffing == nil {
		s.facts.sniffing = new(sniffing)
	}
	search := s.facts.sniffing
	if !search.begun {
		if err := s.readBy(ctx, s.rec.Started.Add(s.rec.Handshake+how.Timeout), ReasonIdentifyTimeout); err != nil {
			return "", err
		}
		search.begun = true
	}
	known := s.facts.known()
	known.Agreed = s.agreed()
	for {
		seen := s.inner.seen[:min(len(s.inner.seen), how.MaxBytes)] // however many came at once
		last := search.final || len(seen) == how.MaxBytes
		r := how.Chain.Identify(known, seen, last, &search.progress)
		switch {
		case r.Verdict == identify.Found:
			s.rec.IdentifiedBy = r.By
			return r.Key, nil
		case r.Verdict.None():
			return "", &ending{reason: s.nobody(r), cause: fmt.Errorf("%s: %s", r.By, r.Verdict)}
		}
		if err := s.inner.look(); err != nil {
			// What is there has to do, unless the client is gone.
			if search.final = s.lastLook(ctx, err); !search.final {
				return "", s.clientError(ctx, err)
			}
			if !search.late && s.speaksMQTT() && identify.MQTTUnfinished(s.inner.seen) {
				return "", s.clientEnd(ReasonClientClosed, errLeftInside)
			}
		}
	}
}

// errLeftInside is why no node hears of a client, however else its user might be known.
var errLeftInside = errors.New("the client has left inside its CONNECT")

// agreed is what client and front have agreed to carry, by the protocol of the listener, by the
// subprotocol of a WebSocket or by ALPN.
func (s *session) agreed() string {
	if p := s.terms.listener.Protocol; p == MQTT || p == MQTTS {
		return "mqtt"
	}
	if _, ok := s.inner.Conn.(*wsConn); ok {
		return s.facts.subprotocol
	}
	if s.facts.tls == nil {
		return ""
	}
	return s.facts.tls.NegotiatedProtocol
}

// nobody is the reason of a session without a user, as the search has come to.
func (s *session) nobody(r identify.Result) Reason {
	switch {
	case r.Breach:
		return ReasonProtocolError
	case s.facts.sniffing.late:
		return ReasonIdentifyTimeout
	}
	return ReasonUnidentified
}

// lastLook tells whether the first bytes of a client are all that will come of them
// while it waits for an answer: it has paused, or has ended its side.
func (s *session) lastLook(ctx context.Context, err error) bool {
	if isTimeout(err) {
		s.facts.sniffing.late = true
		return ctx.Err() == nil
	}
	return s.wire.used.Load() && ended(err)
}

// known returns what there is to know a user by besides the bytes.
func (f *facts) known() identify.Facts {
	k := identify.Facts{ServerName: f.serverName, Request: f.request}
	if tcp, ok := streamAddr(f.source).(*net.TCPAddr); ok {
		k.Source = tcp.AddrPort().Addr()
	}
	for _, t := range f.received {
		k.TLVs = append(k.TLVs, identify.TLV{Type: byte(t.Type), Value: t.Value})
	}
	if f.tls != nil && len(f.tls.PeerCertificates) > 0 {
		k.Certificate = f.tls.PeerCertificates[0]
	}
	return k
}

// closeOpaque ends a session that did not come as far as the relay, in the words of
// its protocol where that has some.
func (s *session) closeOpaque(end *ending) {
	s.dropFar()
	_ = s.wire.SetWriteDeadline(time.Now().Add(lingerTime))
	if answer := s.mqttRefusal(end); answer != nil {
		s.refuseMQTT(end, answer)
	}
	s.partWebSocket(end)
	_ = s.inner.Close()
}

// dropFar closes the node's connection, if there is one, and counts all that the client has said.
func (s *session) dropFar() {
	if s.far != nil {
		s.untrack(s.far.wire)
		s.far.close()
	}
	s.tally(int64(len(s.inner.seen)), 0)
}

// refuseMQTT answers the client's CONNECT. A client may have sent more already (MQTT 5
// §3.1.4): if that were not read, the end of its connection would be a reset, which may
// overtake the answer.
func (s *session) refuseMQTT(end *ending, answer []byte) {
	if _, err := s.inner.Write(answer); err != nil {
		return
	}
	if _, ok := s.inner.Conn.(*wsConn); ok {
		return
	}
	if s.inner.CloseWrite() == nil {
		s.wire.stall = s.parting(end)
		s.wire.Await()
		_, _ = io.Copy(io.Discard, s.inner)
	}
}

// shut says to the client of a relayed session that nothing follows. A WebSocket has a word
// for why, and answers before it ends.
func (s *session) shut(end *ending) error {
	if c, ok := s.inner.Conn.(*wsConn); ok && end.reason == ReasonShutdown {
		if err := c.Shut(end.webSocketStatus(), end.reason.String()); !errors.Is(err, ws.ErrClosed) {
			return err
		}
	}
	return s.inner.CloseWrite()
}

// lastWords is how long the client of a WebSocket that is cut off has to take that it is.
const lastWords = 100 * time.Millisecond

// partWebSocket tells the client of a WebSocket that still listens why it ends, and
// waits a little for its answer, unless there is no time for that.
func (s *session) partWebSocket(end *ending) {
	c, ok := s.inner.Conn.(*wsConn)
	switch {
	case !ok || end.reason.clientGone():
	case errors.Is(end, errCutOff):
		defer time.AfterFunc(lastWords, func() { _ = s.wire.Close() }).Stop()
		_ = c.Shut(end.webSocketStatus(), end.reason.String()) // or it was told before, or takes nothing
	default:
		c.Conn.Part(end.webSocketStatus(), end.reason.String())
	}
}

// webSocketStatus is what a client is told whose session ends by other than itself or
// its node (RFC 6455 §7.4, and the registry there).
func (e *ending) webSocketStatus() ws.Status {
	switch e.reason {
	case ReasonShutdown:
		return ws.ServiceRestart
	case ReasonNoNode, ReasonDialFailed, ReasonRateLimited, ReasonTooMany:
		return ws.TryAgainLater
	case ReasonUnidentified, ReasonProtocolError, ReasonIdentifyTimeout, ReasonAuthFailed, ReasonEndedByAdmin:
		return ws.PolicyViolation
	case ReasonIdle:
		return ws.GoingAway
	default:
		return ws.InternalError
	}
}

// mqttRefusal is the CONNACK of a client whose session does not come about because
// of the nodes, of a limit or of its version of MQTT, or nil if there is none to send: who breaks the
// protocol gets none (MQTT 3.1.1 §3.1.4, MQTT-3.1.4-1).
func (s *session) mqttRefusal(end *ending) []byte {
	if end.reason == ReasonProtocolError && identify.MQTTUnknown(s.inner.seen) {
		return []byte{0x20, 2, 0, 1} // unacceptable protocol version (§3.1.2.2), in the form that all clients know
	}
	return end.connack(identify.MQTTVersion(s.inner.seen))
}

// connack is that for a client of a version of MQTT, which is 0 for another protocol. Server unavailable
// is all that MQTT 3.1 and 3.1.1 have, as 3 (§3.2.2.3).
func (e *ending) connack(version byte) []byte {
	switch code := e.mqttCode(); {
	case code == 0, version == 0:
		return nil
	case version >= 5:
		return []byte{0x20, 3, 0, code, 0}
	default:
		return []byte{0x20, 2, 0, 3}
	}
}

// mqttCode is the reason code of MQTT 5 (§3.2.2.2) for a client that may try again later;
// 0 for others.
func (e *ending) mqttCode() byte {
	switch e.reason {
	case ReasonNoNode, ReasonDialFailed, ReasonShutdown:
		return 0x88 // server unavailable
	case ReasonTooMany:
		return 0x97 // quota exceeded
	case ReasonRateLimited, ReasonAuthBackoff:
		return 0x9F // connection rate exceeded
	default:
		return 0
	}
}
