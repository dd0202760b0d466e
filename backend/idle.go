package backend

import (
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
	if s.ended() { // finish may have set a shorter one before
		_ = s.conn.SetReadDeadline(time.Now().Add(s.node.opts.Timeouts.Close))
	}
}

// waits tells whether to go on reading after a failed read: the client was merely
// silent.
func (s *session) waits(err error) bool {
	if !errors.Is(err, os.ErrDeadlineExceeded) || s.ended() {
		return false
	}
	switch heard := s.stream.heard; {
	case heard:
		s.asked = false
		s.watch(s.node.opts.Timeouts.Idle)
	case !s.asked:
		s.asked = true
		s.ping()
		s.watch(s.node.opts.Timeouts.Ping)
	default:
		s.end(ReasonClientTimeout, &xmpp.StreamError{Condition: xmpp.ConnectionTimeout})
		return false
	}
	s.stream.heard = false
	return true
}

// ping asks the client for any answer.
func (s *session) ping() {
	iq := iqHead(iqGet, randomID(), s.node.opts.Domain, s.jid.String())
	s.send(xmpp.IQ, append(iq, "<ping xmlns='"+xmpp.NSPing+"'/></iq>"...))
}
