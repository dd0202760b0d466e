package backend

import (
	"context"
	"log/slog"

	"imlb/backend/xmpp"
)

// handle does what an element of a logged-in client asks for. An error ends the
// session.
func (s *session) handle(ctx context.Context, raw []byte) error {
	header, err := xmpp.ParseHeader(raw)
	if err != nil {
		return err
	}
	if header.Kind == xmpp.NotStanza {
		return s.nonStanza(raw)
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
		stored, err := s.message(ctx, raw, header, number)
		if stored || err != nil {
			return err // it is handled when the store has it
		}
	} else if err := s.inOrder(ctx, raw, header); err != nil {
		return err
	}
	if h, ack := s.in.handle(); ack {
		s.nonza(smAnswer(h))
	}
	return nil
}

// inOrder handles a presence or IQ stanza after all messages before it are stored.
func (s *session) inOrder(ctx context.Context, raw []byte, header xmpp.Header) error {
	s.in.wait(0, s.done)
	if header.Kind == xmpp.Presence {
		return s.presenceStanza(ctx, raw, header)
	}
	return s.iq(ctx, raw, header)
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
	if header.Type == typeError || header.Kind == xmpp.IQ && header.Type == iqResult {
		return nil
	}
	s.node.metrics.bounced.WithLabelValues(condition).Inc()
	addressed := xmpp.AppendWithAttrs(nil, raw, xmpp.Attr{Name: "from", Value: s.jid.String()})
	s.send(header.Kind, xmpp.NewStanzaError(condition, "").AppendReply(nil, addressed))
	return nil
}

// bounceFailed answers a stanza that the node could not handle. It is logged here,
// since the client does not learn why.
func (s *session) bounceFailed(ctx context.Context, raw []byte, header xmpp.Header, err error) error {
	s.node.opts.Logger.ErrorContext(ctx, "handle a stanza",
		slog.String("kind", kindText(header.Kind)), slog.String("user", s.account.User), slog.Any("error", err))
	return s.bounce(raw, header, xmpp.InternalServerError)
}

// typeError is the type of an error stanza of any kind.
const typeError = "error"
