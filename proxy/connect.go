package proxy

import (
	"context"
	"errors"
	"fmt"
	"time"

	"imlb/backend/xmpp"
)

// connect brings the session to the user's node. A leg that a login of the
// same user has left is used again; another user may live elsewhere.
func (s *session) connect(ctx context.Context, user xmpp.JID) error {
	s.rec.User = user.String()
	if s.node != nil && s.node.user == user {
		return nil
	}
	s.dropNode()
	if err := s.srv.settles.wait(ctx, s.rec.User); err != nil {
		return s.shutdown()
	}
	node, err := s.dialNext(ctx, user)
	if err != nil {
		return err
	}
	s.node = node
	s.rec.Node = node.name
	return nil
}

// pool returns the session's pool as it is configured now, or as it was when the
// session came if it has been removed since.
func (s *session) pool() Pool {
	name := s.terms.listener.Pool
	if p, ok := s.srv.opts.Load().Pools[name]; ok {
		return p
	}
	return s.terms.Pools[name]
}

// dialNext tries the user's nodes, best first, until one offers its features.
func (s *session) dialNext(ctx context.Context, user xmpp.JID) (*nodeLeg, error) {
	var tried []string
	var failed error
	pool := s.pool()
	for range pool.DialAttempts {
		choice, err := pool.Picker.Pick(ctx, user.String(), tried)
		if err != nil {
			return nil, s.unplaced(ctx, errors.Join(err, failed), len(tried) > 0)
		}
		node, err := s.dial(ctx, pool.DialTimeout, choice, user)
		if err == nil {
			return node, nil
		}
		choice.release()
		if ctx.Err() != nil {
			return nil, s.shutdown()
		}
		s.srv.report(choice, OutcomeRefused)
		failed = errors.Join(failed, fmt.Errorf("dial %s: %w", choice.Node.Name, err))
		tried = append(tried, choice.Node.Name)
	}
	return nil, s.unplaced(ctx, failed, true)
}

// unplaced makes an ending for a user whom no node takes. When nodes are there
// and cannot be reached it is this service's own fault: internal-server-error
// (RFC 6120 §4.9.3.6, and §4.9.3.15 on what remote-connection-failed is not for).
// When there is no node to be had it is resource-constraint (§4.9.3.17), after
// which a client tries again later.
func (s *session) unplaced(ctx context.Context, err error, dialled bool) *ending {
	switch {
	case ctx.Err() != nil:
		return s.shutdown()
	case dialled:
		return &ending{reason: ReasonDialFailed, condition: xmpp.InternalServerError, cause: err}
	}
	return &ending{reason: ReasonNoNode, condition: xmpp.ResourceConstraint, cause: err}
}

// dial opens the leg to the chosen node and notes how long it took.
func (s *session) dial(ctx context.Context, timeout time.Duration, choice Choice, user xmpp.JID) (*nodeLeg, error) {
	began := time.Now()
	node, err := s.openNode(ctx, timeout, choice, user)
	if err != nil {
		return nil, err
	}
	s.track(node.conn)
	s.rec.Dial = time.Since(began)
	s.srv.metrics.dialTime.Observe(s.rec.Dial.Seconds())
	s.srv.report(choice, OutcomeConnected)
	return node, nil
}

// report passes on what was learnt of a node.
func (s *Server) report(c Choice, o Outcome) {
	s.metrics.dials.WithLabelValues(c.Node.Name, o.String()).Inc()
	if c.Report != nil {
		c.Report(o)
	}
}

func (c Choice) release() {
	if c.Release != nil {
		c.Release()
	}
}

// dropNode closes the node leg, if there is one.
func (s *session) dropNode() {
	if s.node == nil {
		return
	}
	s.untrack(s.node.conn)
	s.node.close()
	s.node = nil
}

// authenticate carries one SASL negotiation between the client and the node. It
// returns nil when the node said yes or no; rec.LoggedIn says which.
func (s *session) authenticate(ctx context.Context, c claim) error {
	s.rec.Mechanism = c.mechanism
	step, err := s.propose(ctx, c)
	for err == nil {
		if err := s.send(ctx, step.raw); err != nil {
			return err
		}
		switch step.kind {
		case xmpp.SASLSuccess:
			s.loggedIn(c)
			return nil
		case xmpp.SASLFailure:
			return s.failed(c.mechanism, step.condition)
		default: // a challenge
		}
		var raw []byte
		if raw, err = s.saslAnswer(ctx); err != nil {
			return err
		}
		step, err = s.exchange(ctx, raw)
	}
	return err
}

// saslStep is a node's answer in a negotiation.
type saslStep struct {
	raw       []byte // valid until the node is read again
	kind      xmpp.SASLKind
	condition string // of a failure
}

// propose begins a negotiation. The node may have closed a leg that a failed login
// left, for which the user cannot help: then a new one is dialled.
func (s *session) propose(ctx context.Context, c claim) (saslStep, error) {
	kept := s.node.used
	s.node.used = true
	step, err := s.exchange(ctx, c.auth)
	if !kept || !s.node.leftBehind(err) || ctx.Err() != nil {
		return step, err
	}
	s.dropNode()
	if err := s.connect(ctx, c.user); err != nil {
		return step, err
	}
	s.node.used = true
	return s.exchange(ctx, c.auth)
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
func (s *session) exchange(ctx context.Context, raw []byte) (saslStep, error) {
	if err := s.tellNode(raw); err != nil {
		return saslStep{}, err
	}
	return s.nodeAnswer(ctx)
}

// loggedIn restarts both streams, as RFC 6120 §6.4.6 asks of both sides.
func (s *session) loggedIn(c claim) {
	s.rec.LoggedIn = true
	s.place()
	s.rec.Identify = time.Since(s.rec.Started) - s.rec.Handshake
	s.srv.metrics.setup.WithLabelValues("identify").Observe(s.rec.Identify.Seconds())
	s.srv.metrics.auth.WithLabelValues(c.mechanism, "success").Inc()
	s.client.Restart(s.terms.Limits.MaxStanza)
	s.node.Restart(s.terms.Limits.MaxStanza + nodeSlack)
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
func (s *session) nodeAnswer(ctx context.Context) (saslStep, error) {
	if err := s.node.conn.SetReadDeadline(time.Now().Add(s.terms.Timeouts.Identify)); err != nil {
		return saslStep{}, s.nodeError(err)
	}
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
		frame, ok, err := xmpp.ParseSASL(tok.Raw)
		if !ok || err != nil || frame.Kind < xmpp.SASLChallenge {
			return saslStep{}, s.nodeError(errNotSASL)
		}
		return saslStep{raw: tok.Raw, kind: frame.Kind, condition: frame.Condition}, nil
	}
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

// saslAnswer reads the client's answer to a challenge.
func (s *session) saslAnswer(ctx context.Context) ([]byte, error) {
	raw, err := s.readElement(ctx)
	if err != nil {
		return nil, err
	}
	frame, ok, err := xmpp.ParseSASL(raw)
	if !ok || (err == nil && frame.Kind == xmpp.SASLAuth) {
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
		return &ending{reason: ReasonNodeError, condition: xmpp.InternalServerError, cause: fmt.Errorf("node %s: %w", s.node.name, err)}
	}
	return &ending{reason: ReasonNodeLost, condition: xmpp.SystemShutdown, cause: fmt.Errorf("node %s: %w", s.node.name, err)}
}
