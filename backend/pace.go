package backend

import (
	"time"

	"golang.org/x/time/rate"

	"imlb/backend/xmpp"
)

// Rates bound how fast clients send. Who is over a rate is not read before it is
// under it again, so that its own connection holds it back and nothing is lost. Only
// one that sends as fast as it may for very long is ended. Zero is no limit,
// unless it says otherwise.
type Rates struct {
	Stanzas     int           // in a second, of one session
	Bytes       int           // the same
	UserStanzas int           // in a second, of all sessions of a user on this node
	UserBytes   int           // the same
	Burst       time.Duration // how long the rates may be saved up; 0: 5 s
	Throttled   time.Duration // how long a session may be over its own rates without a break; 0: for ever
}

// The values of the metric: which rate held a session back.
const (
	paceStanzas     = "session_stanzas"
	paceBytes       = "session_bytes"
	paceUserStanzas = "user_stanzas"
	paceUserBytes   = "user_bytes"
)

// pacer holds back one session, or all of a user. It is nil when there are no limits.
type pacer struct {
	stanzas, bytes *rate.Limiter // nil: no limit
}

func newPacer(stanzas, bytes int, burst time.Duration) *pacer {
	if stanzas <= 0 && bytes <= 0 {
		return nil
	}
	return &pacer{stanzas: newLimiter(stanzas, burst), bytes: newLimiter(bytes, burst)}
}

func newLimiter(perSecond int, burst time.Duration) *rate.Limiter {
	if perSecond <= 0 {
		return nil
	}
	return rate.NewLimiter(rate.Limit(perSecond), max(1, int(float64(perSecond)*burst.Seconds())))
}

// reserve takes what an element of n bytes costs. It returns how long to wait for it
// because of its kind and because of its length.
func (p *pacer) reserve(now time.Time, stanza bool, n int) (forStanzas, forBytes time.Duration) {
	if p == nil {
		return 0, 0
	}
	if stanza {
		forStanzas = reserveN(p.stanzas, now, 1)
	}
	return forStanzas, reserveN(p.bytes, now, n)
}

// reserveN takes n tokens, one burst after the other if it is more than that.
func reserveN(l *rate.Limiter, now time.Time, n int) (wait time.Duration) {
	if l == nil {
		return 0
	}
	for ; n > 0; n -= l.Burst() {
		wait = l.ReserveN(now, min(n, l.Burst())).DelayFrom(now)
	}
	return wait
}

// pace waits until the client may send an element of n bytes. The error ends the
// session.
func (s *session) pace(kind xmpp.StanzaKind, n int) error {
	if s.pacer == nil && s.hub.pacer == nil {
		return nil
	}
	now := time.Now()
	var w halt
	own, ownBytes := s.pacer.reserve(now, kind != xmpp.NotStanza, n)
	if err := s.checkFlood(now, max(own, ownBytes)); err != nil {
		return err
	}
	user, userBytes := s.hub.pacer.reserve(now, kind != xmpp.NotStanza, n)
	w.atLeast(own, paceStanzas)
	w.atLeast(ownBytes, paceBytes)
	w.atLeast(user, paceUserStanzas)
	w.atLeast(userBytes, paceUserBytes)
	if w.wait > 0 {
		s.node.metrics.throttled.WithLabelValues(w.why).Inc()
		s.rest(w.wait)
	}
	return nil
}

// halt is the longest of several times to wait, and why.
type halt struct {
	wait time.Duration
	why  string
}

func (h *halt) atLeast(wait time.Duration, why string) {
	if wait > h.wait {
		h.wait, h.why = wait, why
	}
}

// checkFlood ends a session that was over its own rates for too long. What the user's
// other sessions do is not held against it.
func (s *session) checkFlood(now time.Time, wait time.Duration) error {
	most := s.node.opts.Limits.Rates.Throttled
	switch {
	case wait <= 0:
		s.overSince = time.Time{}
	case s.overSince.IsZero():
		s.overSince = now
	case most > 0 && now.Sub(s.overSince) > most:
		return &stopError{ReasonFlood, &xmpp.StreamError{Condition: xmpp.PolicyViolation, Text: "too much is sent, for too long"}, nil}
	}
	return nil
}

// rest waits, or until the session ends.
func (s *session) rest(wait time.Duration) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.done:
	}
}
