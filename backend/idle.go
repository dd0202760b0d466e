package backend

import (
	"context"
	"errors"
	"os"
	"time"

	"imlb/backend/xmpp"
)

// A client that says nothing for long is asked whether it is still there (XEP-0199
// §4.1), and its session is ended if it does not say anything then either. Without
// that one whose connection broke silently would be online for ever.

// watch sets the time at which the reading goroutine looks whether the client has
// said something.
func (s *session) watch(wait time.Duration) {
	_ = s.conn.SetReadDeadline(time.Now().Add(wait))
	if s.in.owes() || s.dismissed.Load() { // nudge may have set one before
		_ = s.conn.SetReadDeadline(time.Now())
	}
	if s.ended() { // finish may have set a shorter one before
		_ = s.conn.SetReadDeadline(time.Now().Add(s.closeTime()))
	}
}

// nudge has the reading goroutine look whether it owes the client a count, or has to end.
func (s *session) nudge() {
	_ = s.conn.SetReadDeadline(time.Now())
	s.node.quiet.rouse(s)
}

// payDebt tells the client a count that had to be made durable first. What is on its way into the
// store goes before: it has a higher count, which must not be followed by this one there, or here.
func (s *session) payDebt(ctx context.Context) {
	if !s.in.owes() {
		return
	}
	s.in.wait(0, s.done)
	if h, ack := s.in.pay(); ack && s.promise(ctx) {
		s.nonza(smAnswer(h))
	}
}

// waits tells whether to go on reading after a failed read: the client was merely
// silent, or somebody has nudged us.
func (s *session) waits(ctx context.Context, err error) bool {
	if !errors.Is(err, os.ErrDeadlineExceeded) || s.ended() {
		return false
	}
	s.payDebt(ctx)
	now := time.Now()
	if s.stream.heard {
		s.stream.heard, s.asked = false, false
		s.due = now.Add(s.node.opts.Timeouts.Idle)
		if now.Sub(s.started) >= s.node.opts.Timeouts.Idle { // who keeps its connection alive is never asked whether it is there
			s.hasSpoken()
		}
		s.watch(s.restAfter())
		return true
	}
	if !now.Before(s.due) {
		if s.asked {
			s.end(ReasonClientTimeout, &xmpp.StreamError{Condition: xmpp.ConnectionTimeout})
			return false
		}
		s.asked = true
		s.ping()
		s.due = now.Add(s.node.opts.Timeouts.Ping)
	}
	s.tired = true
	return true
}

// restAfter is how long a client is quiet before its session sleeps.
func (s *session) restAfter() time.Duration {
	return min(time.Second, s.node.opts.Timeouts.Idle/4, s.node.opts.Timeouts.Ping/4)
}

// sleep has the session sleep until something happens. It returns false where that is
// not possible; then the next read waits for as long.
func (s *session) sleep() bool {
	s.tired = false
	s.stream.release()
	if s.node.quiet.lay(s, s.due) {
		return true
	}
	s.watch(time.Until(s.due))
	return false
}

// setAlarm has the session woken at a time, if it sleeps then.
func (s *session) setAlarm(at time.Time) {
	if s.alarm == nil {
		s.alarm = time.AfterFunc(time.Until(at), func() { s.node.quiet.rouse(s) })
		return
	}
	s.alarm.Reset(time.Until(at))
}

// ping asks the client for any answer.
func (s *session) ping() {
	iq := iqHead(iqGet, randomID(), s.node.opts.Domain, s.jid.String())
	s.send(xmpp.IQ, append(iq, "<ping xmlns='"+xmpp.NSPing+"'/></iq>"...))
}
