package backend

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/xdg-go/scram"

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
			return s.failBy(err)
		}
		if ok {
			return true
		}
	}
	return s.refuse(ReasonAuthFailed, &xmpp.StreamError{Condition: xmpp.PolicyViolation, Text: "too many failed logins"})
}

func (s *session) saslFeatures() []byte {
	f := []byte("<stream:features><mechanisms xmlns='" + xmpp.NSSASL + "'>")
	for _, m := range s.mechanisms() {
		f = append(f, "<mechanism>"+m+"</mechanism>"...)
	}
	return append(f, "</mechanisms></stream:features>"...)
}

// mechanisms are those that the client may use on its leg. PLAIN shows the password to
// everybody on a leg without TLS.
func (s *session) mechanisms() []string {
	return slices.DeleteFunc(slices.Clone(s.node.opts.Mechanisms), func(m string) bool {
		return m == MechanismPlain && s.client.tls == ""
	})
}

// tryAuth negotiates once. It returns true when the client is who it says, false
// when it was told why not, and an error when the stream cannot go on.
func (s *session) tryAuth(ctx context.Context) (bool, error) {
	first, err := s.nextSASL()
	var failed *xmpp.SASLError
	if err == nil && first.Kind != xmpp.SASLAuth {
		err = unexpectedSASL(first)
	}
	var success []byte
	var hasData bool
	if err == nil {
		success, hasData, err = s.negotiate(ctx, first)
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
	return true, s.writeSASL(xmpp.SASLFrame{Kind: xmpp.SASLSuccess, Payload: success, HasPayload: hasData})
}

// nextSASL reads an element that must belong to SASL: a client that is not logged
// in may not send anything else (RFC 6120 §4.9.3.12).
func (s *session) nextSASL() (xmpp.SASLFrame, error) {
	raw, err := s.nextElement()
	if err != nil {
		return xmpp.SASLFrame{}, err
	}
	frame, ok, err := xmpp.ParseSASL(raw)
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
		if slices.Contains(s.node.opts.Mechanisms, first.Mechanism) {
			return nil, false, &xmpp.SASLError{Condition: xmpp.EncryptionRequired}
		}
		return nil, false, &xmpp.SASLError{Condition: xmpp.InvalidMechanism}
	}
	initial := first.Payload
	if !first.HasPayload { // no initial response: ask for it (RFC 6120 §6.4.2)
		if initial, err = s.challenge(nil); err != nil {
			return nil, false, err
		}
	}
	if first.Mechanism == MechanismPlain {
		return nil, false, s.plain(ctx, initial)
	}
	data, err = s.scram(ctx, first.Mechanism, initial)
	return data, true, err
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
	_, err := s.conn.Write(f.Append(nil))
	return err
}

// plain verifies a password (RFC 4616) with the stronger of the keys that every
// account has.
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
	cred, known, err := s.credential(ctx, MechanismScramSHA256, user)
	if err != nil {
		return err
	}
	ok, err := s.verify(ctx, cred, password)
	if err != nil {
		return err
	}
	if !ok || !known {
		return &xmpp.SASLError{Condition: xmpp.NotAuthorized}
	}
	return s.loggedIn(ctx, user)
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

// scram verifies a proof (RFC 5802), and returns the server's own.
func (s *session) scram(ctx context.Context, mechanism string, initial []byte) ([]byte, error) {
	authzid, authcid, err := xmpp.SASLName(mechanism, initial)
	if err != nil {
		return nil, err
	}
	user, err := s.claimed(authzid, authcid)
	if err != nil {
		return nil, err
	}
	cred, known, err := s.credential(ctx, mechanism, user)
	if err != nil {
		return nil, err
	}
	server, err := scramHash(mechanism).NewServer(func(string) (scram.StoredCredentials, error) {
		return scram.StoredCredentials{
			KeyFactors: scram.KeyFactors{Salt: string(cred.Salt), Iters: cred.Iterations},
			StoredKey:  cred.StoredKey, ServerKey: cred.ServerKey,
		}, nil
	})
	if err != nil {
		return nil, fmt.Errorf("begin %s: %w", mechanism, err)
	}
	conv := server.NewConversation()
	serverFirst, err := conv.Step(string(initial))
	if err != nil {
		return nil, &xmpp.SASLError{Condition: xmpp.MalformedRequest}
	}
	clientFinal, err := s.challenge([]byte(serverFirst))
	if err != nil {
		return nil, err
	}
	serverFinal, err := conv.Step(string(clientFinal))
	if err != nil && serverFinal == "" { // it could not be parsed
		return nil, &xmpp.SASLError{Condition: xmpp.MalformedRequest}
	}
	if err != nil || !conv.Valid() || !known {
		return nil, &xmpp.SASLError{Condition: xmpp.NotAuthorized}
	}
	return []byte(serverFinal), s.loggedIn(ctx, user)
}

// claimed returns the address of the user that the client says it is. A client
// may act for nobody but itself.
func (s *session) claimed(authzid, authcid string) (xmpp.JID, error) {
	user, err := xmpp.NewJID(authcid, s.node.opts.Domain, "")
	if err != nil || user.Local() == "" {
		return xmpp.JID{}, &xmpp.SASLError{Condition: xmpp.NotAuthorized}
	}
	if authzid == "" {
		return user, nil
	}
	acting, err := xmpp.ParseJID(authzid)
	if err != nil || acting != user {
		return xmpp.JID{}, &xmpp.SASLError{Condition: xmpp.InvalidAuthzid}
	}
	return user, nil
}

// credential returns the keys of a user, or invented ones when there are none, so
// that the exchange looks the same.
func (s *session) credential(ctx context.Context, mechanism string, user xmpp.JID) (cred store.Credential, known bool, err error) {
	ctx, cancel := s.node.storeContext(ctx)
	defer cancel()
	cred, err = s.node.store.Credential(ctx, user.String(), mechanism)
	switch {
	case err == nil:
		return cred, true, nil
	case errors.Is(err, store.ErrNotFound):
		return fakeCredential(s.node.opts.Secret, mechanism, user.String(), s.node.opts.ScramIterations), false, nil
	default:
		s.node.opts.Logger.WarnContext(ctx, "read credentials", slog.Any("error", err))
		return cred, false, &xmpp.SASLError{Condition: xmpp.TemporaryAuthFailure}
	}
}

// loggedIn remembers whose session this is.
func (s *session) loggedIn(ctx context.Context, user xmpp.JID) error {
	ctx, cancel := s.node.storeContext(ctx)
	defer cancel()
	account, ok, err := s.node.accounts.lookup(ctx, user.String())
	if err != nil {
		return &xmpp.SASLError{Condition: xmpp.TemporaryAuthFailure}
	}
	if !ok { // deleted since its keys were read
		return &xmpp.SASLError{Condition: xmpp.NotAuthorized}
	}
	s.account, s.jid = account, user
	return nil
}

// countAuth counts the outcome of a negotiation. A mechanism that we do not know
// is not worth a label of its own.
func (s *session) countAuth(mechanism, outcome string) {
	if !slices.Contains(s.node.opts.Mechanisms, mechanism) {
		mechanism = "other"
	}
	s.node.metrics.auth.WithLabelValues(mechanism, outcome).Inc()
}

// randomResource is a resource that the server makes (RFC 6120 §7.6): it cannot be
// guessed by others.
func randomResource() string { return rand.Text() }
