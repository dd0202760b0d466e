package proxy

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"imlb/proxy/identify"
	"imlb/proxy/loop"
)

// mqttLogin is what a session of MQTT has until its node has answered the CONNECT. Only
// then it has logged in, or failed to.
type mqttLogin struct {
	connack identify.Connack
	refused bool          // the node has said no, and has but to close
	left    time.Duration // for the login, from when a node has taken the session

	mu sync.Mutex // where two goroutines carry the session: for its ticket
}

// speaksMQTT tells whether the session's node will answer in MQTT.
func (s *session) speaksMQTT() bool {
	return strings.HasPrefix(s.agreed(), "mqtt") || identify.MQTTVersion(s.inner.seen) != 0
}

// expectLogin notes that the node will say whether the user may log in. The client has for that
// what is left of its time: what passes before a node has taken the session is not the client's.
func (s *session) expectLogin() error {
	s.rec.MQTT = true
	s.mqtt = &mqttLogin{left: s.loginTime() - s.rec.Identify}
	if s.mqtt.left <= 0 { // known by something else than a CONNECT, which has not come
		return &ending{reason: ReasonIdentifyTimeout, cause: s.lateLogin()}
	}
	return nil
}

// loginTime is how long a login of MQTT may take, from when its first byte may come.
func (s *session) loginTime() time.Duration {
	return max(s.terms.Timeouts.Identify, s.terms.listener.Identify.Timeout)
}

func (s *session) lateLogin() error {
	return fmt.Errorf("the login was not over in %v (timeouts.identify)", s.loginTime())
}

// unanswered is how a session ends whose login was not over in time.
func (s *session) unanswered() *ending {
	return &ending{reason: s.closed(ReasonIdentifyTimeout), cause: fmt.Errorf("node %s: %w", s.rec.Node, s.lateLogin())}
}

// watchTime is for how long the node's first bytes may be watched; 0 for ever.
func (s *session) watchTime() time.Duration {
	if s.mqtt == nil {
		return 0
	}
	return s.mqtt.left
}

// taken says that a node has taken an opaque session. Where the node will say whether the
// user may log in, that is waited for.
func (s *session) taken(now time.Time) error {
	if s.mqtt != nil {
		return nil
	}
	return s.admitted(now)
}

// watch returns what has to see the node's first bytes before the client does, or nil
// when nothing has to. It is called until more is false, which it is when the client is in; the
// error is an *ending.
func (s *session) watch() func(p []byte) (more bool, err error) {
	if s.mqtt == nil {
		return nil
	}
	return func(p []byte) (bool, error) {
		if s.mqtt.refused {
			return true, nil
		}
		begun := s.mqtt.connack.Begun()
		answer := s.mqtt.connack.Read(p)
		if answer == identify.MQTTPending {
			return true, nil
		}
		err := s.answered(answer)
		if answer == identify.MQTTDenied || answer == identify.MQTTRefused {
			s.mqtt.refused = true
			return true, nil
		}
		if err != nil && !begun { // else the client has got a part of the other answer
			err = &loop.Refusal{Answer: asEnding(err).connack(s.mqtt.connack.Version()), Err: err}
		}
		s.mqtt = nil
		return false, err
	}
}

// answered counts the login by its answer. A node that refuses it for a reason of its own has
// said nothing of it.
func (s *session) answered(a identify.MQTTAnswer) error {
	s.mqtt.mu.Lock()
	defer s.mqtt.mu.Unlock()
	outcome := "refused"
	switch a {
	case identify.MQTTDenied:
		outcome = "not-authorized"
		s.rec.Failures++
		s.ticket.AuthFailed(time.Now())
	case identify.MQTTAccepted:
		outcome = "success"
		s.rec.LoggedIn = true
	case identify.MQTTPending, identify.MQTTRefused, identify.MQTTNone:
	}
	if a != identify.MQTTNone { // or it is another protocol
		s.srv.metrics.auth.WithLabelValues("mqtt", outcome).Inc()
	}
	if a != identify.MQTTAccepted && a != identify.MQTTNone {
		return nil
	}
	e := asEnding(s.admitted(time.Now()))
	if e == nil {
		return nil
	}
	e.cause = errors.New("the user has enough sessions: " + s.rec.Limit.String())
	return e
}

// guarded lets one goroutine at a time use the ticket while the login is under way.
func (l *mqttLogin) guarded(took func(n int) time.Duration) func(n int) time.Duration {
	if l == nil {
		return took
	}
	return func(n int) time.Duration {
		l.mu.Lock()
		defer l.mu.Unlock()
		return took(n)
	}
}

// closed is the reason of an opaque session of which one side has ended in order, or which has
// had its time: that of a login which has failed, if it has. A node that has refused the client has but to
// close, and has not broken when it does so before it has read all.
func (s *session) closed(by Reason) Reason {
	if by == ReasonNodeLost && s.mqtt != nil && s.mqtt.refused {
		by = ReasonNodeClosed
	}
	if s.rec.Failures == 0 {
		return by
	}
	switch by {
	case ReasonClientClosed, ReasonNodeClosed, ReasonHalfOpen, ReasonIdentifyTimeout:
		return ReasonAuthFailed
	default:
		return by
	}
}
