package backend

import (
	"context"
	"crypto/rand"
	"errors"
	"runtime"
	"slices"
	"strings"
	"unicode/utf8"

	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// hashersAtATime bounds the passwords that are hashed at the same time, so that
// a herd of logins leaves time for those who are logged in.
func hashersAtATime() int { return max(1, runtime.GOMAXPROCS(0)) }

// authenticate opens the stream and negotiates SASL (RFC 6120 §6) until the client
// has proven who it is or has failed too often.
func (s *session) authenticate(ctx context.Context) bool {
	if err := s.open(s.saslFeatures()); err != nil {
		return s.failBy(err)
	}
	for range s.node.opts.Limits.AuthTries {
		ok, err := s.tryAuth(ctx)
		if err != nil {
			return s.failLogin(err)
		}
		if ok {
			return true
		}
	}
	return s.refuse(ReasonAuthFailed, &xmpp.StreamError{Condition: xmpp.PolicyViolation, Text: "too many failed logins"})
}

// featureBytes is about what the features before a login take.
const featureBytes = 2048

func (s *session) saslFeatures() []byte {
	f := append(make([]byte, 0, featureBytes), "<stream:features><mechanisms xmlns='"+xmpp.NSSASL+"'>"...)
	f = appendMechanisms(f, s.mechanisms())
	f = append(f, "</mechanisms>"...)
	if slices.ContainsFunc(s.mechanisms(), bindsChannel) {
		f = append(f, s.channelBindings()...)
	}
	f = append(f, s.registerFeature()...)
	if s.client.front {
		f = append(f, takesSettles...)
	}
	f = append(f, s.node.loginLimits()...)
	f = s.appendSASL2Features(f)
	return append(f, "</stream:features>"...)
}

// takesSettles tells a front that it may say what it has delivered for a node that
// died. The front keeps it to itself.
const takesSettles = "<settle xmlns='" + xmpp.NSFront + "'/>"

// tryAuth negotiates once. It returns true when the client is who it says, false
// when it was told why not, and an error when the stream cannot go on.
func (s *session) tryAuth(ctx context.Context) (bool, error) {
	first, err := s.firstSASL(ctx)
	var failed *xmpp.SASLError
	if err == nil && first.Kind != xmpp.SASLAuth {
		err = unexpectedSASL(first)
	}
	var success []byte
	var hasData bool
	if err == nil {
		success, hasData, err = s.prove(ctx, first)
	}
	switch {
	case errors.As(err, &failed):
		s.countAuth(first.Mechanism, failed.Condition)
		return false, s.writeSASL(failed.Failure())
	case err != nil:
		return false, err
	}
	s.mechanism = first.Mechanism
	s.countAuth(first.Mechanism, "success")
	if s.sasl2 {
		return true, s.succeed(ctx, success, hasData)
	}
	return true, s.writeSASL(xmpp.SASLFrame{Kind: xmpp.SASLSuccess, Payload: success, HasPayload: hasData})
}

// nextSASL reads an element that must belong to SASL: a client that is not logged
// in may not send anything else (RFC 6120 §4.9.3.12).
func (s *session) nextSASL() (xmpp.SASLFrame, error) {
	raw, err := s.nextElement()
	if err != nil {
		return xmpp.SASLFrame{}, err
	}
	return s.readSASL(raw)
}

func (s *session) readSASL(raw []byte) (xmpp.SASLFrame, error) {
	frame, ok, err := s.parseSASL(raw)
	if err == nil && !ok {
		err = &xmpp.StreamError{Condition: xmpp.NotAuthorized}
	}
	return frame, err
}

func unexpectedSASL(f xmpp.SASLFrame) error {
	if f.Kind == xmpp.SASLAbort {
		return &xmpp.SASLError{Condition: xmpp.Aborted}
	}
	return &xmpp.SASLError{Condition: xmpp.MalformedRequest}
}

// negotiate runs the mechanism that the client has chosen; it returns the
// additional data that goes with success.
func (s *session) negotiate(ctx context.Context, first xmpp.SASLFrame) (data []byte, hasData bool, err error) {
	if !slices.Contains(s.mechanisms(), first.Mechanism) {
		return nil, false, s.refused(first.Mechanism)
	}
	initial := first.Payload
	if !first.HasPayload { // no initial response: ask for it (RFC 6120 §6.4.2)
		if initial, err = s.challenge(nil); err != nil {
			return nil, false, err
		}
	}
	switch first.Mechanism {
	case MechanismPlain:
		return nil, false, s.plain(ctx, initial)
	case MechanismExternal:
		return nil, false, s.external(ctx, initial)
	case MechanismOAuthBearer:
		return nil, false, s.bearer(ctx, initial)
	default:
		data, err = s.scram(ctx, first.Mechanism, initial)
		return data, true, err
	}
}

// challenge sends a challenge and returns the response.
func (s *session) challenge(data []byte) ([]byte, error) {
	err := s.writeSASL(xmpp.SASLFrame{Kind: xmpp.SASLChallenge, Payload: data, HasPayload: len(data) > 0})
	if err != nil {
		return nil, err
	}
	frame, err := s.nextSASL()
	if err != nil {
		return nil, err
	}
	if frame.Kind != xmpp.SASLResponse {
		return nil, unexpectedSASL(frame)
	}
	return frame.Payload, nil
}

func (s *session) writeSASL(f xmpp.SASLFrame) error {
	f.SASL2 = s.sasl2
	_, err := s.conn.Write(f.Append(nil))
	return err
}

// plain verifies a password (RFC 4616) with keys that every account has, or elsewhere.
func (s *session) plain(ctx context.Context, initial []byte) error {
	authzid, authcid, err := xmpp.SASLName(MechanismPlain, initial)
	if err != nil {
		return err
	}
	user, err := s.claimed(authzid, authcid)
	if err != nil {
		return err
	}
	password := string(initial[strings.LastIndexByte(string(initial), 0)+1:])
	if password == "" || !utf8.ValidString(password) {
		return &xmpp.SASLError{Condition: xmpp.MalformedRequest}
	}
	if s.node.opts.Passwords != nil {
		return s.elsewhere(ctx, user, password)
	}
	cred, known, err := s.anyCredential(ctx, user)
	if err != nil {
		return err
	}
	ok, err := s.verify(ctx, cred, password)
	if err != nil {
		return err
	}
	if !ok || !known {
		return s.failedAs(user, errWrong)
	}
	return s.loggedIn(ctx, user)
}

// anyCredential is credential for a password, which any keys that the user has can verify:
// those of SCRAM-SHA-256, which few have not, before others.
func (s *session) anyCredential(ctx context.Context, user xmpp.JID) (cred store.Credential, known bool, err error) {
	usual, known, err := s.credential(ctx, MechanismScramSHA256, user)
	if known || err != nil {
		return usual, known, err
	}
	for _, mechanism := range []string{MechanismScramSHA512, MechanismScramSHA1} {
		if cred, known, err = s.credential(ctx, mechanism, user); known || err != nil {
			return cred, known, err
		}
	}
	return usual, false, nil
}

// verify hashes the password when there is a place for it.
func (s *session) verify(ctx context.Context, cred store.Credential, password string) (bool, error) {
	select {
	case s.node.hashing <- struct{}{}:
		defer func() { <-s.node.hashing }()
		return matches(cred, password), nil
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

// claimed returns the address of the user that the client says it is. A client
// may act for nobody but itself, and not too soon after failures.
func (s *session) claimed(authzid, authcid string) (xmpp.JID, error) {
	user, err := xmpp.NewJID(authcid, s.node.opts.Domain, "")
	if err != nil || user.Local() == "" {
		return xmpp.JID{}, &xmpp.SASLError{Condition: xmpp.NotAuthorized}
	}
	if authzid != "" {
		acting, err := xmpp.ParseJID(authzid)
		if err != nil || acting != user || !s.opensFor(user) {
			return xmpp.JID{}, &xmpp.SASLError{Condition: xmpp.InvalidAuthzid}
		}
	}
	return user, s.early(user.String())
}

// loggedIn remembers whose session this is.
func (s *session) loggedIn(ctx context.Context, user xmpp.JID) error {
	account, err := s.admit(ctx, user)
	if err != nil {
		return err
	}
	s.node.failures.forget(account.User, sourceOf(s.client.source))
	s.account, s.jid = account, user
	return nil
}

// countAuth counts the outcome of a negotiation. A mechanism that we do not know
// is not worth a label of its own.
func (s *session) countAuth(mechanism, outcome string) {
	if !slices.Contains(s.node.opts.Mechanisms, mechanism) && !isTokenMechanism(mechanism) {
		mechanism = "other"
	}
	s.node.metrics.auth.WithLabelValues(mechanism, outcome).Inc()
}

// randomResource is a resource that the server makes (RFC 6120 §7.6): it cannot be
// guessed by others.
func randomResource() string { return rand.Text() }
