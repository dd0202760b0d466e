package backend

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// Passwords checks passwords where the store has no keys. It is called by many
// sessions at a time.
type Passwords interface {
	// Check tells whether that is the password of the user with that canonical
	// localpart. An error means that it could not be found out.
	Check(ctx context.Context, user, password string) (ok bool, err error)
}

// Tokens checks bearer tokens (RFC 6750). It is called by many sessions at a time.
type Tokens interface {
	// Check returns the name that a token gives its user, a localpart or a whole
	// address; empty if the token is not good, and then why: that is for the log. An
	// error means that it could not be found out.
	Check(ctx context.Context, token string) (name, why string, err error)
	// Refusal is what a client is told whose token is not good, in JSON (RFC 7628 §3.2.2).
	Refusal() []byte
}

// errNotNow is the answer to a login of which nothing can be said yet.
var errNotNow error = &xmpp.SASLError{Condition: xmpp.TemporaryAuthFailure}

// elsewhere asks whoever knows the passwords, and makes the account that owns the user's
// timeline at the first login.
func (s *session) elsewhere(ctx context.Context, user xmpp.JID, password string) error {
	ok, err := s.node.opts.Passwords.Check(ctx, user.Local(), password)
	switch {
	case err != nil:
		s.node.opts.Logger.WarnContext(ctx, "check a password", slog.String("user", user.String()), slog.Any("error", err))
		return errNotNow
	case !ok:
		return s.failedAs(user, errWrong)
	}
	return s.firstLogin(ctx, user)
}

// external logs in who is named by a certificate that the front has verified (RFC 4422
// appendix A). Without an authorization identity the certificate has to name one user
// only (XEP-0178 §3).
func (s *session) external(ctx context.Context, initial []byte) error {
	authzid, _, err := xmpp.SASLName(MechanismExternal, initial)
	if err != nil {
		return err
	}
	named := s.client.users(s.node.opts.Domain)
	if authzid == "" {
		if len(named) == 1 {
			return s.welcome(ctx, named[0])
		}
		return &xmpp.SASLError{Condition: xmpp.InvalidAuthzid, Text: "the certificate names more or less than one user"}
	}
	acting, err := xmpp.ParseJID(authzid)
	if err != nil {
		return &xmpp.SASLError{Condition: xmpp.InvalidAuthzid}
	}
	for _, user := range named {
		if user == acting {
			return s.welcome(ctx, user)
		}
	}
	return &xmpp.SASLError{Condition: xmpp.InvalidAuthzid}
}

// welcome logs in a user who needs no password. Where accounts come from elsewhere it
// may be the first time.
func (s *session) welcome(ctx context.Context, user xmpp.JID) error {
	if s.node.opts.Passwords != nil {
		return s.firstLogin(ctx, user)
	}
	return s.loggedIn(ctx, user)
}

// bearer logs in with a token (RFC 7628).
func (s *session) bearer(ctx context.Context, initial []byte) error {
	authzid, token, err := xmpp.OAuthBearer(initial)
	if err != nil {
		return err
	}
	if err := s.early(""); err != nil {
		return err
	}
	name, why, err := s.node.opts.Tokens.Check(ctx, token)
	if err != nil {
		s.node.opts.Logger.WarnContext(ctx, "check a token", slog.Any("error", err))
		return errNotNow
	}
	user, ok := userNamed(name, s.node.opts.Domain)
	if !ok {
		s.node.opts.Logger.InfoContext(ctx, "a token is refused", slog.String("id", s.client.id), slog.String("source", s.client.source),
			slog.String("name", name), slog.String("why", why))
		return s.refuseToken()
	}
	if authzid != "" {
		if acting, err := xmpp.ParseJID(authzid); err != nil || acting != user {
			return &xmpp.SASLError{Condition: xmpp.InvalidAuthzid}
		}
	}
	if s.node.opts.TokensMakeAccounts {
		return s.firstLogin(ctx, user)
	}
	return s.welcome(ctx, user)
}

// refuseToken says what is wrong, and fails once the client has taken note (RFC 7628
// §3.2.3).
func (s *session) refuseToken() error {
	s.node.failures.fail(time.Now(), "", sourceOf(s.client.source))
	if _, err := s.challenge(s.node.opts.Tokens.Refusal()); err != nil {
		return err
	}
	return errWrong
}

// userNamed returns the user of a domain who is called by a localpart or by a whole
// address.
func userNamed(name, domain string) (user xmpp.JID, ok bool) {
	var err error
	if strings.Contains(name, "@") {
		user, err = xmpp.ParseJID(name)
	} else {
		user, err = xmpp.NewJID(name, domain, "")
	}
	return user, err == nil && user.Local() != "" && user.Domain() == domain && user.Resource() == ""
}

// firstLogin is loggedIn for a user who may have no account yet.
func (s *session) firstLogin(ctx context.Context, user xmpp.JID) error {
	if err := s.makeAccount(ctx, user); err != nil {
		s.node.opts.Logger.WarnContext(ctx, "make an account", slog.String("user", user.String()), slog.Any("error", err))
		return errNotNow
	}
	return s.loggedIn(ctx, user)
}

// makeAccount makes the account of a user who has none.
func (s *session) makeAccount(ctx context.Context, user xmpp.JID) error {
	ctx, cancel := s.node.storeContext(ctx)
	defer cancel()
	_, ok, err := s.node.accounts.lookup(ctx, user.String())
	if ok || err != nil {
		return err
	}
	_, err = s.node.store.CreateAccount(ctx, user.String(), nil)
	if errors.Is(err, store.ErrExists) { // another session of the user was faster
		return nil
	}
	return err
}

// early refuses a login that comes too soon after others that have failed. An empty
// user is one that is not known yet.
func (s *session) early(user string) error {
	wait := s.node.failures.wait(time.Now(), user, sourceOf(s.client.source))
	if wait <= 0 {
		return nil
	}
	return &xmpp.SASLError{Condition: xmpp.TemporaryAuthFailure, Text: "too many failed logins; wait for " + roundUp(wait).String()}
}

func roundUp(d time.Duration) time.Duration {
	return (d + time.Second - 1).Truncate(time.Second)
}

// failedAs counts a failure if it is one of credentials, and returns it.
func (s *session) failedAs(user xmpp.JID, err error) error {
	if errors.Is(err, errWrong) {
		s.node.failures.fail(time.Now(), user.String(), sourceOf(s.client.source))
	}
	return err
}
