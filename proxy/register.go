package proxy

import (
	"bytes"
	"context"
	"log/slog"
	"time"

	"imlb/backend/xmpp"
)

// In-band registration before a login (XEP-0077 §3.1), where nodes offer it. Each
// request goes to a node on a leg of its own: to the one where the user will live who is
// named in it, so that it works with nodes that do not share their accounts, too.

const registerOffer = "<register xmlns='" + xmpp.NSRegisterFeature + "'/>"

// registration is an IQ stanza that asks for or sends what is needed for an account.
type registration struct {
	raw  []byte
	user xmpp.JID // whose account it is to be, or the domain
}

// readRegistration reads such a stanza; ok is false if raw is none, or none for the
// stream's domain.
func (s *session) readRegistration(raw []byte) (r registration, ok bool) {
	header, err := xmpp.ParseHeader(raw)
	if err != nil || header.Kind != xmpp.IQ || header.ID == "" || header.To != "" && header.To != s.domain() {
		return r, false
	}
	if header.Type != "get" && header.Type != "set" {
		return r, false
	}
	e, err := xmpp.ParseElement(raw)
	if err != nil {
		return r, false
	}
	query, ok := e.Child(xmpp.NSRegister, "query")
	if !ok {
		return r, false
	}
	r.raw = bytes.Clone(raw) // the client may be read while a node is looked for
	if r.user, err = xmpp.NewJID("", s.domain(), ""); err != nil {
		return r, false
	}
	if name, ok := query.Child(xmpp.NSRegister, "username"); ok {
		if user, ok := s.userNamed(name.Text()); ok {
			r.user = user
		}
	}
	return r, true
}

// maxRegistrations is how often a client may ask on one stream.
const maxRegistrations = 10

// register has a node answer. The error is an *ending.
func (s *session) register(ctx context.Context, r registration) error {
	if s.registrations++; s.registrations > maxRegistrations {
		return &ending{reason: ReasonProtocolError, condition: xmpp.PolicyViolation, text: "too many registrations"}
	}
	var leg *nodeLeg
	link, err := s.reachFor(ctx, r.user.String(), func(link *nodeConn) (err error) {
		domain, err := xmpp.NewJID("", s.domain(), "")
		if err == nil {
			leg, err = s.openNode(link, domain)
		}
		return err
	})
	if err != nil {
		return err
	}
	s.srv.report(link.choice, OutcomeConnected)
	defer leg.close()
	stop := context.AfterFunc(ctx, func() { _ = link.conn.SetDeadline(past) })
	defer stop()
	_ = link.conn.SetDeadline(time.Now().Add(s.terms.Timeouts.Identify))
	reply, err := ask(leg, r.raw)
	if ctx.Err() != nil {
		return s.shutdown()
	}
	if err != nil {
		s.srv.log.LogAttrs(ctx, slog.LevelWarn, "a node did not answer a registration", slog.String("node", link.name()), slog.Any("error", err))
		reply = xmpp.NewStanzaError(xmpp.InternalServerError, "").AppendReply(nil, r.raw)
	}
	return s.send(ctx, reply)
}

// ask sends an element to a node, and ends the stream after the next one.
func ask(leg *nodeLeg, raw []byte) ([]byte, error) {
	if err := post(leg, element(raw)); err != nil {
		return nil, err
	}
	for {
		tok, err := await(leg)
		switch {
		case err != nil:
			return nil, err
		case tok.Kind == xmpp.KindClose:
			return nil, errClosed
		case tok.Kind != xmpp.KindElement:
			continue
		}
		if e, ok := xmpp.ParseStreamError(tok.Raw); ok {
			return nil, e
		}
		reply := append([]byte(nil), tok.Raw...)
		leg.part()
		return reply, nil
	}
}
