package proxy

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"time"

	"imlb/backend/xmpp"
)

// claim is who a client says it is.
type claim struct {
	user      xmpp.JID // whose session it is to be
	shows     xmpp.JID // whose credentials are shown, mostly the same
	mechanism string
	sasl2     bool
	auth      []byte // for the node
}

// greet opens the client's secured stream and offers what the nodes do.
func (s *session) greet(ctx context.Context) error {
	by := time.Now().Add(s.terms.Timeouts.Identify)
	if err := s.readBy(ctx, by, ReasonIdentifyTimeout); err != nil {
		return err
	}
	h, err := s.readHeader(ctx)
	if err != nil {
		return err
	}
	s.login.by = by
	// A node that is told what to bind to takes a client that was offered nothing of the kind,
	// and says so, for one that somebody stands before (RFC 5802 §6).
	wanted := s.terms.Mechanisms
	s.facts.unbound = s.facts.roams || len(wanted) > 0 && !slices.ContainsFunc(wanted, bindsChannel)
	f, err := s.nodeFeatures(ctx, by)
	if err != nil {
		return err
	}
	s.offer = f.offer(wanted, s.usable(f), s.terms.Limits.MaxPreAuth)
	return s.openStream(ctx, h, s.offer.raw)
}

// parseSASL reads an element of SASL or of SASL2; ok is false if raw is neither.
func parseSASL(raw []byte) (f xmpp.SASLFrame, ok bool, err error) {
	if f, ok, err := xmpp.ParseSASL(raw); ok {
		return f, ok, err
	}
	return xmpp.ParseSASL2(raw)
}

// identify reads the client's stream up to an <auth/> or <authenticate/> that names
// a user.
// Whatever else the client asks is answered as the node would.
func (s *session) identify(ctx context.Context) (claim, error) {
	for {
		raw, err := s.readElement(ctx)
		if err != nil {
			return claim{}, err
		}
		if e, err := xmpp.ParseElement(raw); err == nil && e.Is(xmpp.NSTLS, "starttls") {
			return claim{}, s.refuseTLS(ctx)
		}
		if r, ok := s.readRegistration(raw); ok && s.offer.register {
			if err := s.register(ctx, r); err != nil {
				return claim{}, err
			}
			continue
		}
		frame, ok, err := parseSASL(raw)
		if !ok {
			return claim{}, unexpected(raw)
		}
		c, err := s.claimed(ctx, raw, frame, err)
		var refused *xmpp.SASLError
		if !errors.As(err, &refused) {
			return c, err
		}
		if err := s.refuse(ctx, frame, refused); err != nil {
			return claim{}, err
		}
	}
}

// refuseTLS answers a <starttls/> on a stream that has TLS (RFC 6120 §5.4.2.2).
func (s *session) refuseTLS(ctx context.Context) error {
	if err := s.send(ctx, []byte(startTLSFailure)); err != nil {
		return err
	}
	return &ending{reason: ReasonProtocolError, cause: errors.New("starttls inside TLS")}
}

// claimed reads the name out of a client's SASL frame; parseErr is what parsing
// it gave. The error is a *xmpp.SASLError or an *ending.
func (s *session) claimed(ctx context.Context, raw []byte, frame xmpp.SASLFrame, parseErr error) (claim, error) {
	switch {
	case parseErr != nil:
		return claim{}, parseErr
	case frame.Kind == xmpp.SASLAbort:
		return claim{}, &xmpp.SASLError{Condition: xmpp.Aborted}
	case frame.Kind != xmpp.SASLAuth:
		return claim{}, &xmpp.SASLError{Condition: xmpp.MalformedRequest}
	case !s.offer.has(frame):
		return claim{}, &xmpp.SASLError{Condition: xmpp.InvalidMechanism}
	case !frame.HasPayload && xmpp.NamesUser(frame.Mechanism):
		raw = bytes.Clone(raw)
		payload, err := s.challenge(ctx, frame.SASL2, nil) // RFC 6120 §6.4.2, XEP-0388 §2.5
		if err != nil {
			return claim{}, err
		}
		if frame.SASL2 {
			raw = xmpp.AppendInitialResponse(nil, raw, payload)
		}
		frame.Payload, frame.HasPayload = payload, true
		if !frame.SASL2 {
			raw = frame.Append(nil)
		}
	}
	user, err := s.claimant(frame)
	if frame.Mechanism == oauthBearer && errors.Is(err, errNobody) {
		err = s.refuseToken(ctx, frame.SASL2)
	}
	if err != nil {
		return claim{}, err
	}
	return claim{user: user, shows: s.shower(frame, user), mechanism: frame.Mechanism, sasl2: frame.SASL2, auth: bytes.Clone(raw)}, nil
}

// challenge sends the client a challenge, an empty one if there is no data, and returns its
// response. The error is a *xmpp.SASLError or an *ending.
func (s *session) challenge(ctx context.Context, sasl2 bool, data []byte) ([]byte, error) {
	challenge := xmpp.SASLFrame{Kind: xmpp.SASLChallenge, SASL2: sasl2, Payload: data, HasPayload: len(data) > 0}
	if err := s.send(ctx, challenge.Append(nil)); err != nil {
		return nil, err
	}
	raw, err := s.readElement(ctx)
	if err != nil {
		return nil, err
	}
	frame, ok, err := parseSASL(raw)
	switch {
	case !ok || frame.SASL2 != sasl2:
		return nil, unexpected(raw)
	case err != nil:
		return nil, err
	case frame.Kind == xmpp.SASLAbort:
		return nil, &xmpp.SASLError{Condition: xmpp.Aborted}
	case frame.Kind != xmpp.SASLResponse:
		return nil, &xmpp.SASLError{Condition: xmpp.MalformedRequest}
	}
	return frame.Payload, nil
}

// refuse answers a login that did not get as far as a node.
func (s *session) refuse(ctx context.Context, tried xmpp.SASLFrame, e *xmpp.SASLError) error {
	failure := e.Failure()
	failure.SASL2 = tried.SASL2
	if err := s.send(ctx, failure.Append(nil)); err != nil {
		return err
	}
	return s.failed(tried.Mechanism, e.Condition)
}

// failed counts a failed login. The error is an *ending when there were too many
// on this stream (RFC 6120 §6.4.5).
func (s *session) failed(mechanism, condition string) error {
	s.rec.Failures++
	s.srv.metrics.auth.WithLabelValues(s.mechanismLabel(mechanism), condition).Inc()
	if s.rec.Failures < s.terms.Limits.AuthAttempts {
		return nil
	}
	return &ending{reason: ReasonAuthFailed, condition: xmpp.PolicyViolation, text: "too many failed logins"}
}

// mechanismLabel keeps clients from inventing label values.
func (s *session) mechanismLabel(mechanism string) string {
	if s.offer.knows(mechanism) {
		return mechanism
	}
	return "other"
}
