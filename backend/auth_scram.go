package backend

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/xdg-go/scram"

	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// scram verifies a proof (RFC 5802), and returns the server's own.
func (s *session) scram(ctx context.Context, mechanism string, initial []byte) ([]byte, error) {
	authzid, authcid, err := xmpp.SASLName(mechanism, initial)
	if err != nil {
		return nil, err
	}
	binding, err := s.binding(initial)
	if err != nil {
		return nil, err
	}
	user, err := s.claimed(authzid, authcid)
	if err != nil {
		return nil, err
	}
	cred, known, err := s.credential(ctx, keysOf(mechanism), user)
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
	proof, err := s.converse(server.NewConversationWithChannelBinding(binding), initial)
	if err == nil && !known {
		err = errWrong
	}
	if err != nil {
		return nil, s.failedAs(user, err)
	}
	return proof, s.loggedIn(ctx, user)
}

// errWrong is the answer to credentials that do not prove what they should.
var errWrong error = &xmpp.SASLError{Condition: xmpp.NotAuthorized}

// converse takes the two steps of a SCRAM exchange.
func (s *session) converse(conv *scram.ServerConversation, initial []byte) ([]byte, error) {
	serverFirst, err := conv.Step(string(initial))
	if err != nil {
		return nil, &xmpp.SASLError{Condition: xmpp.MalformedRequest}
	}
	clientFinal, err := s.challenge([]byte(serverFirst))
	if err != nil {
		return nil, err
	}
	serverFinal, err := conv.Step(string(clientFinal))
	switch {
	case err != nil && serverFinal == "": // it could not be parsed
		return nil, &xmpp.SASLError{Condition: xmpp.MalformedRequest}
	case err != nil || !conv.Valid():
		return nil, errWrong
	}
	return []byte(serverFinal), nil
}

// binding returns the data that the client has to bind to. A client that would bind,
// but says that the node has not offered it, was shown other features than ours
// (RFC 5802 §6).
func (s *session) binding(initial []byte) (scram.ChannelBinding, error) {
	flag, _, _ := strings.Cut(string(initial), ",")
	if kind, ok := strings.CutPrefix(flag, "p="); ok {
		for _, b := range s.client.bindings {
			if string(b.Type) == kind {
				return b, nil
			}
		}
		return scram.ChannelBinding{}, &xmpp.SASLError{Condition: xmpp.NotAuthorized, Text: "unsupported channel-binding type"}
	}
	if flag == "y" && slices.ContainsFunc(s.mechanisms(), bindsChannel) {
		return scram.ChannelBinding{}, &xmpp.SASLError{Condition: xmpp.NotAuthorized, Text: "channel binding was offered"}
	}
	return scram.ChannelBinding{}, nil
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
		return cred, false, errNotNow
	}
}

// lookForKeys learns whether every account that has keys has those of the stronger mechanisms: most
// clients take the first mechanism that they know, and give up when it fails. Versions before this one
// did not make those of SCRAM-SHA-512, and accounts that were imported from other servers
// may have those of SCRAM-SHA-1 only, which are offered whoever has them.
func (n *Node) lookForKeys(ctx context.Context) {
	if n.knowsKeys(MechanismScramSHA512) {
		n.ifKnown(ctx, MechanismScramSHA512, func(lacking bool) { n.sha512.Store(!lacking) })
	}
	if n.knowsKeys(MechanismScramSHA256) && n.knowsKeys(MechanismScramSHA1) {
		n.ifKnown(ctx, MechanismScramSHA256, n.noSHA256.Store)
	}
}

// knowsKeys tells whether clients may log in with the keys of a mechanism.
func (n *Node) knowsKeys(mechanism string) bool {
	return slices.ContainsFunc(n.opts.Mechanisms, func(m string) bool { return keysOf(m) == mechanism })
}

// ifKnown calls tell with whether an account has keys and lacks those of a mechanism, if that can be
// found out.
func (n *Node) ifKnown(ctx context.Context, mechanism string, tell func(lacking bool)) {
	query, cancel := n.storeContext(ctx)
	defer cancel()
	lacking, err := n.store.LacksKeys(query, mechanism)
	if err != nil {
		n.opts.Logger.WarnContext(ctx, "look for accounts without keys", slog.Any("error", err))
		return
	}
	tell(lacking)
	if lacking {
		n.opts.Logger.InfoContext(ctx, "an account has no keys for a mechanism, so that it is not offered; a new password makes them",
			slog.String("mechanism", mechanism))
	}
}

// keysPeriod is how often accounts without keys are looked for: they come from nodes of an
// older version and from imports.
const keysPeriod = time.Hour

// watchKeys looks again and again until ctx ends.
func (n *Node) watchKeys(ctx context.Context) {
	for pause(ctx, keysPeriod) {
		n.lookForKeys(ctx)
	}
}
