package proxy

import (
	"context"
	"net"
	"net/netip"
	"time"

	"imlb/backend/xmpp"
	"imlb/proxy/limit"
)

// What a session asks of the limits (package limit), and when: accept when it has
// come, behind when a proxy has told where it comes from, claim before a node is
// asked, admitted when a node has taken it. A wait that they return comes before the
// next step.

// accept asks whether the connection may come in.
func (s *session) accept() (wait time.Duration, err error) {
	if q, ok := s.wire.Conn.(*quicConn); ok && q.admitted != nil {
		first := q.admitted
		q.admitted = nil
		if addrOf(first.from) == addrOf(s.facts.source) {
			s.ticket = first.ticket
			s.facts.held = max(0, time.Until(first.turn))
			return s.facts.held, nil
		}
		first.ticket.Done() // the client has moved, and is somebody else's neighbour now
	}
	var refusal limit.Reason
	if !s.onBOSH() && trusted(s.terms.listener.TrustedProxies, s.facts.source) {
		s.ticket, wait, refusal = s.srv.guard.AcceptProxy(s.rec.Started, s.rec.Listener)
	} else {
		s.ticket, wait, refusal = s.srv.guard.Accept(s.rec.Started, s.rec.Listener, addrOf(s.facts.source))
	}
	s.facts.held = wait
	return wait, s.refusal(refusal)
}

// behind asks the same of the client behind a proxy.
func (s *session) behind() (wait time.Duration, err error) {
	wait, refusal := s.ticket.Behind(time.Now(), addrOf(s.facts.source))
	s.facts.held += wait
	return wait, s.refusal(refusal)
}

// unknown asks whether a client may come in of whom a proxy does not tell where it comes
// from. It counts as the proxy, which is no source, but is a client all the same.
func (s *session) unknown() error {
	if s.srv.guard.Denied(s.rec.Listener, addrOf(s.facts.source)) {
		return s.refusal(limit.ReasonDenied)
	}
	return nil
}

// claim asks whether a node may be asked about the user.
func (s *session) claim(now time.Time, user string) (wait time.Duration, err error) {
	wait, refusal := s.ticket.Identified(now, user)
	return wait, s.refusal(refusal)
}

// mayTry waits until a login with the user's credentials may be tried, which takes the
// longer the more have failed. That time is not taken off the client's.
func (s *session) mayTry(ctx context.Context, user string) error {
	wait, err := s.claim(time.Now(), user)
	if err != nil || wait <= 0 {
		return err
	}
	s.login.by = s.login.by.Add(wait)
	if err := s.readBy(ctx, s.login.by, ReasonIdentifyTimeout); err != nil {
		return err
	}
	return s.wait(ctx, wait)
}

// admitted says that a node has taken the session, and asks whether the user may have
// one more.
func (s *session) admitted(now time.Time) error { return s.refusal(s.ticket.LoggedIn(now)) }

// leavePlace says that the session is over. Its place goes to the QUIC connection, if it has
// come on one: until that is closed it takes one, too.
func (s *session) leavePlace() {
	if s.wire != nil {
		if q, ok := s.wire.Conn.(*quicConn); ok {
			s.ticket.Rest()
			q.place, s.ticket = s.ticket, limit.Ticket{}
			return
		}
	}
	s.ticket.Done()
}

// refusal makes an ending of what a limit says; nil if it says nothing.
func (s *session) refusal(why limit.Reason) error {
	if why == limit.ReasonNone {
		return nil
	}
	s.rec.Limit = why
	s.srv.metrics.refused.WithLabelValues(s.rec.Listener, why.String()).Inc()
	return &ending{reason: reasonOf(why), condition: xmpp.ResourceConstraint}
}

// reasonOf says in our words why a limit refuses.
func reasonOf(why limit.Reason) Reason {
	switch why {
	case limit.ReasonDenied:
		return ReasonDenied
	case limit.ReasonRateSource, limit.ReasonRateUser, limit.ReasonRateListener, limit.ReasonRateGlobal:
		return ReasonRateLimited
	case limit.ReasonAuthBackoff, limit.ReasonAuthBackoffSource:
		return ReasonAuthBackoff
	default:
		return ReasonTooMany
	}
}

// wait lets a turn come.
func (s *session) wait(ctx context.Context, d time.Duration) error {
	if d > 0 && pause(ctx, d) != nil {
		return s.shutdown()
	}
	return nil
}

// throttle returns what bounds the bytes of a direction, or nil when nothing does.
func (s *session) throttle(dir limit.Direction) func(n int) time.Duration {
	if !s.srv.guard.Metered() {
		return nil
	}
	return s.mqtt.guarded(func(n int) time.Duration { return s.ticket.Took(time.Now(), dir, n) })
}

// addrOf returns the IP address of a client.
func addrOf(a net.Addr) netip.Addr {
	if tcp, ok := streamAddr(a).(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}
