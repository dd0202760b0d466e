package backend

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// handle does what an element of a logged-in client asks for. An error ends the
// session.
func (s *session) handle(ctx context.Context, raw []byte) error {
	header, err := xmpp.ParseHeader(raw)
	if err != nil {
		return err
	}
	if err := s.pace(header.Kind, len(raw)); err != nil || s.ended() {
		return err
	}
	if header.Kind == xmpp.NotStanza {
		return s.nonStanza(ctx, raw)
	}
	if header.NS != "" && header.NS != xmpp.NSClient {
		return &xmpp.StreamError{Condition: xmpp.InvalidNamespace}
	}
	if err := s.authorise(header); err != nil {
		return err
	}
	s.out.room(s.done) // who does not read replies gets no more
	s.node.metrics.stanzas.WithLabelValues("in", kindText(header.Kind)).Inc()
	number := s.in.receive()
	if header.Kind == xmpp.Message {
		s.hasSpoken()
		if !s.remember(ctx) {
			return nil // it has ended
		}
		stored, err := s.message(ctx, raw, header, number)
		if stored || err != nil {
			return err // it is handled when the store has it
		}
	} else if err := s.inOrder(ctx, raw, header, number); err != nil {
		return err
	}
	s.in.wait(0, s.done)
	s.acknowledge(s.in.handle(number))
	return nil
}

// inOrder handles a presence or IQ stanza after all messages before it are stored.
func (s *session) inOrder(ctx context.Context, raw []byte, header xmpp.Header, number uint32) error {
	s.in.wait(0, s.done)
	if s.in.cutOff(number) {
		return nil
	}
	s.touched = true
	if refused, err := s.refuseBlocked(ctx, raw, header); refused || err != nil {
		return err
	}
	if header.Kind == xmpp.Presence || header.Type == iqResult || header.Type == typeError {
		s.hasSpoken()
	}
	if header.Kind == xmpp.Presence {
		return s.presenceStanza(ctx, raw, header)
	}
	return s.iq(ctx, raw, header)
}

// hasSpoken notes that the client has said that it is there, or something to somebody, or has answered what it was asked. What it asks for
// before that, as it does by <enable/>, is no sign of what it has received.
func (s *session) hasSpoken() {
	if !s.spoken {
		s.spoken = true
		s.arrived(s.unacked.hear())
	}
}

// authorise checks that a stanza comes from the session itself (RFC 6120 §8.1.2.1).
func (s *session) authorise(header xmpp.Header) error {
	if header.From == "" {
		return nil
	}
	from, err := xmpp.ParseJID(header.From)
	if err != nil || (from != s.jid && from != s.jid.Bare()) {
		return &xmpp.StreamError{Condition: xmpp.InvalidFrom}
	}
	return nil
}

// stamp returns a stanza with the address of its sender, and the language of the
// stream if it has none of its own (RFC 6120 §8.1.2.1, §8.1.5). It is a copy.
func (s *session) stamp(raw []byte, header xmpp.Header) []byte {
	return s.stampFrom(raw, header, s.jid)
}

func (s *session) stampFrom(raw []byte, header xmpp.Header, from xmpp.JID) []byte {
	attrs := []xmpp.Attr{{Name: "from", Value: from.String()}}
	if header.Lang == "" && s.stream.lang != "" {
		attrs = append(attrs, xmpp.Attr{Name: "xml:lang", Value: s.stream.lang})
	}
	return xmpp.AppendWithAttrs(make([]byte, 0, len(raw)+64), raw, attrs...)
}

// bounce answers a stanza with an error, unless it is one itself or an answer (RFC
// 6120 §8.3.1).
func (s *session) bounce(raw []byte, header xmpp.Header, condition string) error {
	return s.bounceError(raw, header, xmpp.NewStanzaError(condition, ""))
}

// bounceError is bounce with an error that says more than its condition.
func (s *session) bounceError(raw []byte, header xmpp.Header, e *xmpp.StanzaError) error {
	if header.Type == typeError || header.Kind == xmpp.IQ && header.Type == iqResult {
		return nil
	}
	s.node.metrics.bounced.WithLabelValues(e.Condition).Inc()
	addressed := xmpp.AppendWithAttrs(nil, raw, xmpp.Attr{Name: "from", Value: s.jid.String()})
	reply := e.AppendReply(nil, addressed)
	if header.Kind != xmpp.IQ {
		s.unacked.owe(reply, true)
		s.touched = true
	}
	s.send(header.Kind, reply)
	return nil
}

// bounceFailed answers a stanza that the node could not handle. It is logged here,
// since the client does not learn why.
func (s *session) bounceFailed(ctx context.Context, raw []byte, header xmpp.Header, err error) error {
	s.node.opts.Logger.ErrorContext(ctx, "handle a stanza",
		slog.String("kind", kindText(header.Kind)), slog.String("user", s.account.User), slog.Any("error", err))
	condition := xmpp.InternalServerError
	if isAway(err) { // it may be tried again (RFC 6120 §8.3.3.17)
		condition = xmpp.ResourceConstraint
	}
	return s.bounce(raw, header, condition)
}

// patiently does what has to be known before a message can go on. While the store is away
// it does so again and again, and the client has to wait, as it has to when messages
// cannot be stored.
func (s *session) patiently(ctx context.Context, do func() error) error {
	deadline := time.Now().Add(store.DefaultPatience)
	for first := true; ; first = false {
		err := do()
		if !isAway(err) || s.ended() || time.Now().After(deadline) {
			return err
		}
		if first {
			s.node.opts.Logger.WarnContext(ctx, "look up for a message", slog.String("user", s.account.User), slog.Any("error", err))
		}
		s.pause(lookupPause)
	}
}

// lookupPause is between two attempts.
const lookupPause = 250 * time.Millisecond

// isAway tells whether an error is for now: the store may answer a later attempt.
func isAway(err error) bool {
	return errors.Is(err, store.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded)
}

// lookupFailed gives a message up that could not be looked up for. When the store is still
// away the session ends, as it does for a message that could not be stored: nothing
// was said about this one, so that the client sends it again.
func (s *session) lookupFailed(ctx context.Context, raw []byte, header xmpp.Header, err error) error {
	if isAway(err) {
		return storeFailed(err)
	}
	s.in.wait(0, s.done)
	return s.bounceFailed(ctx, raw, header, err)
}

// typeError is the type of an error stanza of any kind.
const typeError = "error"
