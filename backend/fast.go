package backend

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/xdg-go/scram"

	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// FAST (XEP-0484 0.2): a client that has logged in gets a token, and logs in with that
// the next time, in one round trip. The mechanisms are those of
// draft-schmaus-kitten-sasl-ht-08.

// The mechanisms for tokens. The first two bind a login to the client's TLS connection.
const (
	MechanismHTExporter = "HT-SHA-256-EXPR"
	MechanismHTEndPoint = "HT-SHA-256-ENDP"
	MechanismHTNone     = "HT-SHA-256-NONE"
)

func isTokenMechanism(m string) bool {
	return m == MechanismHTExporter || m == MechanismHTEndPoint || m == MechanismHTNone
}

// tokenBinding returns the type of channel binding of a mechanism, "" for none.
func tokenBinding(mechanism string) scram.ChannelBindingType {
	switch mechanism {
	case MechanismHTExporter:
		return scram.ChannelBindingTLSExporter
	case MechanismHTEndPoint:
		return scram.ChannelBindingTLSServerEndpoint
	default:
		return ""
	}
}

// tokenMechanisms are those that a client with TLS may use: what its connection can be
// bound to is what the front has told. No token may be used in early data of TLS (§3.1):
// the fronts take none.
func (s *session) tokenMechanisms() []string {
	var all []string
	for _, m := range []string{MechanismHTExporter, MechanismHTEndPoint, MechanismHTNone} {
		if _, ok := s.bindingData(m); ok {
			all = append(all, m)
		}
	}
	return all
}

// bindingData returns what a login with a mechanism is bound to; ok is false if that is
// not known of this connection.
func (s *session) bindingData(mechanism string) (data []byte, ok bool) {
	kind := tokenBinding(mechanism)
	if kind == "" {
		return nil, true
	}
	for _, b := range s.client.bindings {
		if b.Type == kind {
			return b.Data, true
		}
	}
	return nil, false
}

// tokenLogin verifies a token (§3.4); it returns the server's own proof.
func (s *session) tokenLogin(ctx context.Context, first xmpp.SASLFrame) ([]byte, error) {
	switch {
	case !slices.Contains(s.tokenMechanisms(), first.Mechanism):
		return nil, &xmpp.SASLError{Condition: xmpp.InvalidMechanism}
	case s.inline.Fast == nil:
		return nil, &xmpp.SASLError{Condition: xmpp.MalformedRequest, Text: "no <fast/>"}
	case s.inline.Client == "":
		return nil, &xmpp.SASLError{Condition: xmpp.MalformedRequest, Text: "no <user-agent/> with a UUID"}
	}
	initial, err := first.Payload, error(nil)
	if !first.HasPayload {
		if initial, err = s.challenge(nil); err != nil {
			return nil, err
		}
	}
	_, authcid, err := xmpp.SASLName(first.Mechanism, initial)
	if err != nil {
		return nil, err
	}
	user, err := s.claimed("", authcid)
	if err != nil {
		return nil, err
	}
	binding, _ := s.bindingData(first.Mechanism)
	t, err := s.provenToken(ctx, user, first.Mechanism, initial[len(authcid)+1:], binding)
	if err != nil {
		return nil, err
	}
	if err := s.loggedIn(ctx, user); err != nil {
		return nil, err
	}
	if err := s.useToken(ctx, t); err != nil {
		return nil, err
	}
	s.token = &t
	return hashedToken(t, "Responder", binding), nil
}

// provenToken finds the client's token that a proof was made with.
func (s *session) provenToken(ctx context.Context, user xmpp.JID, mechanism string, proof, binding []byte) (store.Token, error) {
	ctx, cancel := s.node.storeContext(ctx)
	defer cancel()
	account, ok, err := s.node.accounts.lookup(ctx, user.String())
	if err != nil {
		return store.Token{}, s.noTokens(ctx, user, err)
	}
	var tokens []store.Token
	if ok {
		if tokens, err = s.node.store.TokensOf(ctx, account.Owner, s.inline.Client); err != nil {
			return store.Token{}, s.noTokens(ctx, user, err)
		}
	}
	for _, t := range tokens {
		if !hmac.Equal(proof, hashedToken(t, "Initiator", binding)) || t.Mechanism != mechanism {
			continue
		}
		if !time.Now().Before(t.Expires) {
			return store.Token{}, &xmpp.SASLError{Condition: xmpp.CredentialsExpired}
		}
		return t, nil
	}
	return store.Token{}, s.failedAs(user, errWrong)
}

// hashedToken is a proof that one knows a token (draft-schmaus-kitten-sasl-ht §3.1).
func hashedToken(t store.Token, who string, binding []byte) []byte {
	mac := hmac.New(sha256.New, t.Secret)
	mac.Write([]byte(who))
	mac.Write(binding)
	return mac.Sum(nil)
}

// useToken notes that a token was used, and revokes it if the client asks for that
// (§3.6). A use that changes nothing costs no write.
func (s *session) useToken(ctx context.Context, t store.Token) error {
	ctx, cancel := s.node.storeContext(ctx)
	defer cancel()
	if count := s.inline.Fast.Count; count != 0 || !t.Used {
		err := s.node.store.UseToken(ctx, s.account.Owner, s.inline.Client, t.Secret, count)
		if errors.Is(err, store.ErrReplayed) || errors.Is(err, store.ErrNotFound) {
			return s.failedAs(s.jid, errWrong)
		}
		if err != nil {
			return s.noTokens(ctx, s.jid, err)
		}
	}
	if !s.inline.Fast.Invalidate {
		return nil
	}
	if err := s.node.store.RevokeTokens(ctx, s.account.Owner, s.inline.Client); err != nil {
		return s.noTokens(ctx, s.jid, err)
	}
	return nil
}

func (s *session) noTokens(ctx context.Context, user xmpp.JID, err error) error {
	s.node.opts.Logger.WarnContext(ctx, "read or write tokens", slog.String("user", user.String()), slog.Any("error", err))
	return &xmpp.SASLError{Condition: xmpp.TemporaryAuthFailure}
}

// appendToken gives the client a new token, if it asks for one or its own is due.
// What asks for one that cannot be had gets none: it has logged in all the same.
func (s *session) appendToken(ctx context.Context, dst []byte) []byte {
	mechanism := s.wantsToken()
	if s.inline.Client == "" || !slices.Contains(s.tokenMechanisms(), mechanism) {
		return dst
	}
	ctx, cancel := s.node.storeContext(ctx)
	defer cancel()
	now := time.Now()
	t := store.Token{Secret: newSecret(), Mechanism: mechanism, Issued: now, Expires: now.Add(s.node.opts.TokenLifetime)}
	if err := s.node.store.AddToken(ctx, s.account.Owner, s.inline.Client, t, s.started); err != nil {
		s.node.opts.Logger.WarnContext(ctx, "add a token", slog.String("user", s.account.User), slog.Any("error", err))
		return dst
	}
	dst = append(dst, "<token xmlns='"+xmpp.NSFast+"'"...)
	dst = appendAttr(dst, "expiry", t.Expires.UTC().Format(stampTemplate))
	dst = appendAttr(dst, "token", string(t.Secret))
	return append(dst, "/>"...)
}

// wantsToken returns the mechanism that a new token is to be for, "" for none (§3.2,
// §3.5). A token is due for its successor when half of its life is over. Where others say who
// may log in, they have to say so again first: they cannot revoke what they do not know.
func (s *session) wantsToken() string {
	t := s.token
	switch {
	case t != nil && s.node.opts.asksOthers():
		return ""
	case s.inline.RequestToken != "":
		return s.inline.RequestToken
	case t == nil || s.inline.Fast.Invalidate:
		return ""
	case time.Now().Before(t.Issued.Add(t.Expires.Sub(t.Issued) / 2)):
		return ""
	default:
		return t.Mechanism
	}
}

const secretBytes = 32

// newSecret is a token. It is text: clients get it as an attribute, and its UTF-8 is the
// key of their proofs.
func newSecret() []byte {
	var b [secretBytes]byte
	_, _ = rand.Read(b[:]) // never fails
	return base64.RawURLEncoding.AppendEncode(nil, b[:])
}
