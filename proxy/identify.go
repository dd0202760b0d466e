package proxy

import (
	"context"
	"errors"
	"slices"
	"time"

	"imlb/backend/xmpp"
)

// claim is who a client says it is.
type claim struct {
	user      xmpp.JID
	mechanism string
	auth      []byte // the <auth/> for the node; valid until the client is read again
}

// greet opens the client's secured stream and offers the mechanisms.
func (s *session) greet(ctx context.Context) error {
	by := time.Now().Add(s.terms.Timeouts.Identify)
	if err := s.readBy(ctx, by, ReasonIdentifyTimeout); err != nil {
		return err
	}
	return s.openStream(ctx, saslFeatures(s.terms.Mechanisms))
}

// saslFeatures returns the stream features before a login.
func saslFeatures(mechanisms []string) []byte {
	f := []byte("<stream:features><mechanisms xmlns='" + xmpp.NSSASL + "'>")
	for _, m := range mechanisms {
		f = append(f, "<mechanism>"...)
		f = xmpp.AppendEscaped(f, m)
		f = append(f, "</mechanism>"...)
	}
	return append(f, "</mechanisms></stream:features>"...)
}

// identify reads the client's stream up to an <auth/> that names a user.
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
		frame, ok, err := xmpp.ParseSASL(raw)
		if !ok {
			return claim{}, unexpected(raw)
		}
		c, err := s.claimed(ctx, raw, frame, err)
		var refused *xmpp.SASLError
		if !errors.As(err, &refused) {
			return c, err
		}
		if err := s.refuse(ctx, frame.Mechanism, refused); err != nil {
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
	case !slices.Contains(s.terms.Mechanisms, frame.Mechanism):
		return claim{}, &xmpp.SASLError{Condition: xmpp.InvalidMechanism}
	case !frame.HasPayload:
		var err error
		if frame, err = s.initialResponse(ctx, frame.Mechanism); err != nil {
			return claim{}, err
		}
		raw = frame.Append(nil)
	}
	_, name, err := xmpp.SASLName(frame.Mechanism, frame.Payload)
	if err != nil {
		return claim{}, err
	}
	user, err := xmpp.NewJID(name, s.domain, "")
	if err != nil || user.Local() == "" {
		// No such user can exist, which is for the client like a wrong password.
		return claim{}, &xmpp.SASLError{Condition: xmpp.NotAuthorized}
	}
	return claim{user: user, mechanism: frame.Mechanism, auth: raw}, nil
}

// initialResponse asks for the first response of a client that did not send it
// in its <auth/>, with an empty challenge (RFC 6120 §6.4.2), and returns the
// <auth/> that would have held it.
func (s *session) initialResponse(ctx context.Context, mechanism string) (xmpp.SASLFrame, error) {
	challenge := xmpp.SASLFrame{Kind: xmpp.SASLChallenge}
	if err := s.send(ctx, challenge.Append(nil)); err != nil {
		return challenge, err
	}
	raw, err := s.readElement(ctx)
	if err != nil {
		return challenge, err
	}
	frame, ok, err := xmpp.ParseSASL(raw)
	switch {
	case !ok:
		return frame, unexpected(raw)
	case err != nil:
		return frame, err
	case frame.Kind == xmpp.SASLAbort:
		return frame, &xmpp.SASLError{Condition: xmpp.Aborted}
	case frame.Kind != xmpp.SASLResponse:
		return frame, &xmpp.SASLError{Condition: xmpp.MalformedRequest}
	}
	return xmpp.SASLFrame{Kind: xmpp.SASLAuth, Mechanism: mechanism, Payload: frame.Payload, HasPayload: true}, nil
}

// refuse answers a login that did not get as far as a node.
func (s *session) refuse(ctx context.Context, mechanism string, e *xmpp.SASLError) error {
	if err := s.send(ctx, e.Failure().Append(nil)); err != nil {
		return err
	}
	return s.failed(mechanism, e.Condition)
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
	if slices.Contains(s.terms.Mechanisms, mechanism) {
		return mechanism
	}
	return "other"
}
