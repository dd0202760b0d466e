package backend

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"unicode/utf8"

	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// What users who are logged in do with their own accounts (XEP-0077 §3.2, §3.3), and
// what making and changing accounts has in common.

// register answers who is logged in (§3.2, §3.3).
func (s *session) register(ctx context.Context, q request) error {
	may := s.node.opts.Registration
	switch {
	case !may.any():
		return xmpp.NewStanzaError(xmpp.ServiceUnavailable, "")
	case q.header.Type == iqGet:
		result := append([]byte("<query xmlns='"+xmpp.NSRegister+"'><registered/><username>"), s.jid.Local()...)
		q.reply(append(result, "</username><password/></query>"...))
		return nil
	}
	name, password, remove := readRegister(q.payload)
	switch {
	case remove && len(slices.Collect(q.payload.Children())) != 1:
		return xmpp.NewStanzaError(xmpp.BadRequest, "remove stands alone")
	case remove && !may.Cancel:
		return xmpp.NewStanzaError(xmpp.NotAllowed, "an administrator deletes accounts here")
	case remove:
		return s.cancelAccount(ctx, q)
	case !may.PasswordChange:
		return xmpp.NewStanzaError(xmpp.NotAllowed, "an administrator changes passwords here")
	default:
		return s.changePassword(ctx, q, name, password)
	}
}

// cancelAccount deletes the account of the session itself (§3.2). The end of its
// sessions follows the answer.
func (s *session) cancelAccount(ctx context.Context, q request) error {
	if err := s.node.removeUser(ctx, s.jid.Bare()); err != nil {
		return err
	}
	s.node.opts.Logger.InfoContext(ctx, "account cancelled by its user", slog.String("user", s.account.User))
	q.reply(nil)
	s.node.accountChanged(s.account.User)
	return nil
}

// changePassword gives the session's user another password (§3.3).
func (s *session) changePassword(ctx context.Context, q request, name, password string) error {
	if name == "" || password == "" {
		return xmpp.NewStanzaError(xmpp.BadRequest, "give your user name and a password")
	}
	user, err := xmpp.NewJID(name, s.node.opts.Domain, "")
	switch {
	case err != nil || user != s.jid.Bare():
		return xmpp.NewStanzaError(xmpp.NotAllowed, "this is somebody else")
	case s.client.tls == "":
		return xmpp.NewStanzaError(xmpp.NotAuthorized, "not without TLS")
	}
	if err := s.node.checkPassword(password); err != nil {
		return err
	}
	if err := s.node.setPassword(ctx, user.String(), password); err != nil {
		return err
	}
	s.node.opts.Logger.InfoContext(ctx, "password changed by its user", slog.String("user", s.account.User))
	q.reply(nil)
	return nil
}

// checkPassword refuses a password that is too short.
func (n *Node) checkPassword(password string) error {
	if least := n.opts.Registration.MinPassword; utf8.RuneCountInString(password) < least {
		return xmpp.NewStanzaError(xmpp.NotAcceptable, fmt.Sprintf("a password has at least %d characters", least))
	}
	return nil
}

// createAccount makes an account; a *xmpp.StanzaError is for the client.
func (n *Node) createAccount(ctx context.Context, user xmpp.JID, password string) error {
	creds, err := n.derive(ctx, password)
	if err != nil {
		return err
	}
	query, cancel := n.storeContext(ctx)
	defer cancel()
	_, err = n.store.CreateAccount(query, user.String(), creds)
	if errors.Is(err, store.ErrExists) {
		return xmpp.NewStanzaError(xmpp.Conflict, "the name is taken")
	}
	return err
}

// setPassword changes a password; a *xmpp.StanzaError is for the client.
func (n *Node) setPassword(ctx context.Context, user, password string) error {
	creds, err := n.derive(ctx, password)
	if err != nil {
		return err
	}
	query, cancel := n.storeContext(ctx)
	defer cancel()
	err = n.store.SetCredentials(query, user, creds)
	if errors.Is(err, store.ErrNotFound) {
		return xmpp.NewStanzaError(xmpp.ItemNotFound, "there is no such user")
	}
	return err
}

// derive makes the keys of a password when there is a place for it.
func (n *Node) derive(ctx context.Context, password string) ([]store.Credential, error) {
	select {
	case n.hashing <- struct{}{}:
		defer func() { <-n.hashing }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	creds, err := DeriveCredentials(password, n.opts.ScramIterations)
	if err != nil {
		return nil, xmpp.NewStanzaError(xmpp.NotAcceptable, "this cannot be a password")
	}
	return creds, nil
}
