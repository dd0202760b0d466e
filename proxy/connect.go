package proxy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"imlb/backend/xmpp"
	"imlb/proxy/loop"
)

// connect brings the session to the user's node. A leg that a login of the
// same user has left is used again; another user may live elsewhere.
func (s *session) connect(ctx context.Context, user xmpp.JID) error {
	s.rec.User = user.String()
	if s.node != nil && s.node.user == user {
		return nil
	}
	s.dropNode()
	s.srv.settles.returned(s.rec.User)
	if err := s.srv.settles.wait(ctx, s.rec.User); err != nil {
		return s.shutdown()
	}
	var leg *nodeLeg
	link, err := s.dialNext(ctx, s.rec.User, func(link *nodeConn) (err error) {
		leg, err = s.openNode(link, user)
		return err
	})
	if err != nil {
		return err
	}
	s.node = leg
	s.rec.Node = link.name()
	return nil
}

// poolName is the pool that the listener leads the session to.
func (s *session) poolName() string {
	if s.routed != nil {
		return s.routed.Pool
	}
	return s.terms.listener.Pool
}

// domain is the one that the client has asked for; "" before it did, and for what is no XML stream.
func (s *session) domain() string {
	if s.xml == nil {
		return ""
	}
	return s.xml.domain
}

// pool returns the session's pool as it is configured now, or as it was when the
// session came if it has been removed since.
func (s *session) pool() Pool {
	name := s.poolName()
	if p, ok := s.srv.opts.Load().Pools[name]; ok {
		return p
	}
	return s.terms.Pools[name]
}

// unplaced makes an ending for a user whom no node takes. When nodes are there
// and cannot be reached it is this service's own fault: internal-server-error
// (RFC 6120 §4.9.3.6, and §4.9.3.15 on what remote-connection-failed is not for).
// When there is no node to be had, or this system lacks what a connection takes, it is
// resource-constraint (§4.9.3.17), after which a client tries again later.
func (s *session) unplaced(ctx context.Context, err error, dialled bool) *ending {
	switch {
	case ctx.Err() != nil:
		return s.shutdown()
	case dialled && !lacking(err):
		return &ending{reason: ReasonDialFailed, condition: xmpp.InternalServerError, cause: err}
	}
	reason := ReasonNoNode
	if dialled {
		reason = ReasonDialFailed
	}
	return &ending{reason: reason, condition: xmpp.ResourceConstraint, cause: err}
}

// report passes on what was learnt of a node.
func (s *Server) report(c Choice, o Outcome) {
	s.metrics.dials.WithLabelValues(c.Node.Name, o.String()).Inc()
	c.Report(o)
}

// outcomeOf is what is learnt of a node from the error for which it did not serve a session.
func outcomeOf(err error) Outcome {
	no := (*declined)(nil)
	switch {
	case lacking(err):
		return OutcomeUntried
	case errors.As(err, &no):
		return OutcomeDeclined
	}
	return OutcomeRefused
}

// lacking tells whether an error says what this system or process has not got: descriptors,
// memory, local ports and addresses. The health checks judge by the same list.
func lacking(err error) bool {
	return slices.ContainsFunc([]error{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EADDRNOTAVAIL, loop.ErrNoSource,
	}, func(lack error) bool { return errors.Is(err, lack) })
}

func (c Choice) release() {
	if c.Place != nil { // nil when there was none to be had
		c.Release()
	}
}

// dropNode closes the node leg, if there is one.
func (s *session) dropNode() {
	if s.node == nil {
		return
	}
	s.untrack(s.node.link.wire)
	s.node.close()
	s.node = nil
}

// authenticate carries one SASL negotiation between the client and the node. It
// returns nil when the node said yes or no; rec.LoggedIn says which.
func (s *session) authenticate(ctx context.Context, c claim) error {
	s.rec.Mechanism = c.mechanism
	asked := askedInline(c)
	step, err := s.propose(ctx, c)
	for err == nil {
		if step.kind == xmpp.SASLSuccess {
			if err := s.admitted(time.Now()); err != nil { // which the client must not hear after its success
				s.disown(c, step)
				return err
			}
		}
		if err := s.send(ctx, step.raw); err != nil {
			return err
		}
		switch step.kind {
		case xmpp.SASLSuccess:
			s.loggedIn(c, step.user)
			if c.sasl2 && s.node.features.settles {
				s.resumes = resumptionInline(step.raw, asked)
			}
			return nil
		case xmpp.SASLFailure:
			s.denied(step.condition)
			return s.failed(c.mechanism, step.condition)
		default: // a challenge, or a step of a task
		}
		var raw []byte
		if raw, err = s.saslAnswer(ctx, c.sasl2); err != nil {
			return err
		}
		step, err = s.exchange(ctx, raw, c.sasl2)
	}
	return err
}

// denied has a failure count for what was claimed, unless the node could not tell (RFC 6120 §6.5.11): it has
// said nothing of the credentials then.
func (s *session) denied(condition string) {
	if condition == xmpp.TemporaryAuthFailure {
		s.ticket.Rest()
		return
	}
	s.ticket.AuthFailed(time.Now())
}

// disown has the node end the session of a client that it has let in and that may have none: it may
// have begun with the login (XEP-0386), and would wait to be resumed. One that was resumed goes on
// waiting.
func (s *session) disown(c claim, success saslStep) {
	if c.sasl2 && !resumedInline(success.raw) {
		s.node.part()
	}
}

// saslStep is a node's answer in a negotiation.
type saslStep struct {
	raw       []byte // valid until the node is read again
	kind      xmpp.SASLKind
	condition string // of a failure
	user      string // of a success that says who has logged in; else ""
}

// propose begins a negotiation. The node may have closed a leg that a failed login
// left, for which the user cannot help: then a new one is dialled.
func (s *session) propose(ctx context.Context, c claim) (saslStep, error) {
	kept := s.node.used
	s.node.used = true
	step, err := s.exchange(ctx, c.auth, c.sasl2)
	if !kept || !s.node.leftBehind(err) || ctx.Err() != nil {
		return step, err
	}
	s.dropNode()
	if err := s.connect(ctx, c.user); err != nil {
		return step, err
	}
	s.node.used = true
	return s.exchange(ctx, c.auth, c.sasl2)
}

// leftBehind tells whether a leg was closed by its node while nothing was asked
// of it, from the error of the first use since. A node that refuses further logins
// means what it says.
func (n *nodeLeg) leftBehind(err error) bool {
	var end *ending
	if !errors.As(err, &end) || isTimeout(err) || end.condition == xmpp.PolicyViolation {
		return false
	}
	return n.ended || end.reason == ReasonNodeLost
}

// exchange tells the node one thing and returns its answer.
func (s *session) exchange(ctx context.Context, raw []byte, sasl2 bool) (saslStep, error) {
	if err := s.tellNode(raw); err != nil {
		return saslStep{}, err
	}
	return s.nodeAnswer(ctx, sasl2)
}

// loggedIn notes who the node says has logged in, if it does; the session stays where
// it is. Both streams restart, as RFC 6120 §6.4.6 asks of both sides, but those of
// SASL2, on which the node's new features come next (XEP-0388 §2.6.3).
func (s *session) loggedIn(c claim, user string) {
	s.rec.LoggedIn = true
	if jid, err := xmpp.ParseJID(user); err == nil && jid.Local() != "" {
		s.rec.User = jid.Bare().String()
	}
	s.placed.Store(true)
	s.rec.Identify = time.Since(s.rec.Started) - s.rec.Handshake
	s.srv.metrics.identify.Observe(s.rec.Identify.Seconds())
	s.srv.metrics.auth.WithLabelValues(c.mechanism, "success").Inc()
	if c.sasl2 {
		s.client.SetLimits(s.terms.Limits.fromClient())
		return
	}
	s.client.Restart(s.terms.Limits.fromClient())
	s.node.Restart(s.terms.Limits.fromNode())
	s.greeted = false
}

// tellNode writes an element to the node.
func (s *session) tellNode(raw []byte) error {
	if err := post(s.node, element(raw)); err != nil {
		return s.nodeError(err)
	}
	return nil
}

// nodeAnswer reads the node's next step in the negotiation. A node that ends its
// stream instead has its own reason, which is passed on to the client.
func (s *session) nodeAnswer(ctx context.Context, sasl2 bool) (saslStep, error) {
	if err := s.node.conn.SetReadDeadline(time.Now().Add(s.terms.Timeouts.Identify)); err != nil {
		return saslStep{}, s.nodeError(err)
	}
	defer s.node.hear(ctx)()
	for {
		tok, err := await(s.node)
		switch {
		case err != nil && ctx.Err() != nil:
			return saslStep{}, s.shutdown()
		case err != nil:
			return saslStep{}, s.nodeError(err)
		case tok.Kind == xmpp.KindClose:
			s.node.ended = true
			return saslStep{}, &ending{reason: s.nodeClosed()}
		case tok.Kind == xmpp.KindSpace:
			continue
		}
		if e, ok := xmpp.ParseStreamError(tok.Raw); ok {
			s.node.ended = true
			return saslStep{}, &ending{reason: s.nodeClosed(), condition: e.Condition, text: e.Text, cause: e}
		}
		frame, ok, err := parseSASL(tok.Raw)
		if !ok || err != nil || frame.SASL2 != sasl2 || !isAnswer(frame.Kind) {
			return saslStep{}, s.nodeError(errNotSASL)
		}
		return saslStep{raw: tok.Raw, kind: frame.Kind, condition: frame.Condition, user: frame.User}, nil
	}
}

// isAnswer tells whether a SASL element is one that nodes send.
func isAnswer(k xmpp.SASLKind) bool {
	return k >= xmpp.SASLChallenge && k != xmpp.SASLNext
}

// errNotSASL: a node answered an <auth/> with something else.
var errNotSASL = &xmpp.StreamError{Condition: xmpp.UndefinedCondition, Text: "no SASL answer"}

// nodeClosed returns the reason when a node ends its stream.
func (s *session) nodeClosed() Reason {
	if s.rec.Failures > 0 && !s.rec.LoggedIn {
		return ReasonAuthFailed
	}
	return ReasonNodeClosed
}

// saslAnswer reads the client's answer to a challenge, or its step of a task.
func (s *session) saslAnswer(ctx context.Context, sasl2 bool) ([]byte, error) {
	raw, err := s.readElement(ctx)
	if err != nil {
		return nil, err
	}
	frame, ok, err := parseSASL(raw)
	if !ok || frame.SASL2 != sasl2 || (err == nil && frame.Kind == xmpp.SASLAuth) {
		return nil, unexpected(raw)
	}
	// The node is told what cannot be read, too: it has to fail the negotiation
	// that it waits to go on with.
	return raw, nil
}

// nodeError makes an ending of an error on the node leg.
func (s *session) nodeError(err error) *ending {
	var bad *xmpp.StreamError
	if errors.As(err, &bad) {
		reason := ReasonNodeError
		if bad.Condition == xmpp.PolicyViolation {
			reason = ReasonNodeStanza
		}
		return &ending{reason: reason, condition: xmpp.InternalServerError, cause: fmt.Errorf("node %s: %w", s.node.link.name(), err)}
	}
	reason := ReasonNodeLost
	if errors.Is(err, loop.ErrStalled) {
		reason = ReasonSlowNode
	}
	return &ending{reason: reason, condition: xmpp.SystemShutdown, cause: fmt.Errorf("node %s: %w", s.node.link.name(), err)}
}
