package backend

import (
	"context"

	"imlb/backend/xmpp"
)

// SASL2 (XEP-0388 1.0) beside SASL: one round trip logs a client in, resumes or binds
// its session, and gives it a token for the next time. Mechanisms do not notice: they
// run through challenge and writeSASL, which speak as the client does.

// appendSASL2Features appends what a client may log in with by SASL2, which is for
// connections with TLS (XEP-0388 §5), and has to offer a mechanism: there is none where
// EXTERNAL is all that the node knows and the client has no certificate.
func (s *session) appendSASL2Features(dst []byte) []byte {
	mechanisms := s.mechanisms()
	if s.client.tls == "" || len(mechanisms) == 0 {
		return dst
	}
	dst = append(dst, "<authentication xmlns='"+xmpp.NSSASL2+"'>"...)
	dst = appendMechanisms(dst, mechanisms)
	dst = append(dst, "<inline><fast xmlns='"+xmpp.NSFast+"'>"...)
	dst = appendMechanisms(dst, s.tokenMechanisms())
	dst = append(dst, "</fast>"...)
	return append(dst, inlineFeatures+"</inline></authentication>"...)
}

// inlineFeatures are what an <authenticate/> may ask for besides a token (XEP-0386
// §3.1, XEP-0198 §9).
const inlineFeatures = "<bind xmlns='" + xmpp.NSBind2 + "'><inline>" +
	"<feature var='" + xmpp.NSCarbons + "'/>" +
	"<feature var='" + xmpp.NSCSI + "'/>" +
	"<feature var='" + xmpp.NSSM + "'/>" +
	"</inline></bind><sm xmlns='" + xmpp.NSSM + "'/>"

func appendMechanisms(dst []byte, mechanisms []string) []byte {
	for _, m := range mechanisms {
		dst = append(dst, "<mechanism>"+m+"</mechanism>"...)
	}
	return dst
}

// firstSASL reads the element that begins a negotiation, which decides in which way it
// is spoken, and what it asks for inline.
func (s *session) firstSASL(ctx context.Context) (xmpp.SASLFrame, error) {
	s.inline = nil
	raw, err := s.firstElement(ctx)
	if err != nil {
		return xmpp.SASLFrame{}, err
	}
	e, err := xmpp.ParseElement(raw)
	s.sasl2 = err == nil && e.Space() == xmpp.NSSASL2
	frame, err := s.readSASL(raw)
	if err != nil || !s.sasl2 || frame.Kind != xmpp.SASLAuth {
		return frame, err
	}
	inline, err := xmpp.ParseInline(append([]byte(nil), raw...)) // the negotiation reads more
	s.inline = &inline
	return frame, err
}

// parseSASL reads an element of the way in which the negotiation is spoken.
func (s *session) parseSASL(raw []byte) (f xmpp.SASLFrame, ok bool, err error) {
	if s.sasl2 {
		return xmpp.ParseSASL2(raw)
	}
	return xmpp.ParseSASL(raw)
}

// prove runs the mechanism that the client has chosen.
func (s *session) prove(ctx context.Context, first xmpp.SASLFrame) (data []byte, hasData bool, err error) {
	switch {
	case !s.sasl2:
		return s.negotiate(ctx, first)
	case s.client.tls == "":
		return nil, false, &xmpp.SASLError{Condition: xmpp.EncryptionRequired}
	case isTokenMechanism(first.Mechanism):
		data, err = s.tokenLogin(ctx, first)
		return data, true, err
	default:
		return s.negotiate(ctx, first)
	}
}

// succeed does what was asked for inline, and answers with <success/> and the features
// of the stream, which goes on (XEP-0388 §2.6.1). A session that is resumed goes on at
// once, without them (XEP-0198 §9.2). An error ends a session that is not bound.
func (s *session) succeed(ctx context.Context, data []byte, hasData bool) error {
	s.stream.scanner.SetLimits(s.node.opts.Limits.Stanza)
	s.device = s.inline.Client
	answers := s.appendToken(ctx, nil)
	resumed := false
	if s.inline.Resume != nil {
		reply, ok, err := s.tryResume(ctx, *s.inline.Resume)
		if err != nil {
			return err
		}
		answers, resumed = append(answers, reply...), ok
	}
	if bind := s.inline.Bind; bind != nil && !resumed {
		bound, err := s.bind2(ctx, *bind)
		if err != nil {
			return err
		}
		answers = append(answers, bound...)
	}
	success := xmpp.SASL2Success{Data: data, HasData: hasData, User: s.jid.String(), Inline: answers}
	done := success.Append(nil)
	if !resumed {
		done = append(done, s.featuresAfter()...)
	}
	s.inline, s.token = nil, nil
	if s.bound { // from here the writer writes, and others may have sent something
		s.first = append([]item{{kind: itemRaw, data: done}}, s.first...)
		return nil
	}
	_, err := s.conn.Write(done)
	return err
}

// featuresAfter are those of the stream after <success/>. What is done is not offered.
func (s *session) featuresAfter() string {
	features := boundFeatures
	switch _, managed := s.in.current(); {
	case managed:
		features = "<stream:features>" + sessionFeatures
	case s.bound:
		features = "<stream:features>" + smFeature + sessionFeatures
	}
	return features + s.node.aboutServer() + "</stream:features>"
}

// opensFor tells whether the header of a stream on which SASL2 is spoken names nobody
// else than the user that its client wants to be (XEP-0388 §2.3).
func (s *session) opensFor(user xmpp.JID) bool {
	if !s.sasl2 || s.from == "" {
		return true
	}
	from, err := xmpp.ParseJID(s.from)
	return err == nil && from.Bare() == user
}
