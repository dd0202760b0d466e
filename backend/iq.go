package backend

import (
	"context"
	"slices"

	"imlb/backend/bus"
	"imlb/backend/xmpp"
)

// The types of an IQ stanza (RFC 6120 §8.2.3).
const (
	iqGet    = "get"
	iqSet    = "set"
	iqResult = "result"
)

// iq routes an IQ stanza (RFC 6120 §8.2.3, §10.5; RFC 6121 §8.5.1 to §8.5.3): to the
// server, to a user, for whom the server answers, or to a client.
func (s *session) iq(ctx context.Context, raw []byte, header xmpp.Header) error {
	e, err := xmpp.ParseElement(raw)
	if err != nil {
		return err
	}
	payloads := slices.Collect(e.Children())
	asks := header.Type == iqGet || header.Type == iqSet
	if header.ID == "" || asks && len(payloads) != 1 || !asks && header.Type != iqResult && header.Type != typeError {
		return s.bounce(raw, header, xmpp.BadRequest)
	}
	if header.Type == iqResult && len(payloads) > 1 {
		raw, header.Type = noAnswer(header), typeError
	}
	to, ok := s.recipient(header)
	switch {
	case !ok:
		return s.bounce(raw, header, xmpp.JIDMalformed)
	case to.Domain() != s.node.opts.Domain:
		return s.bounce(raw, header, xmpp.RemoteServerNotFound)
	case to.Local() != "" && to.Resource() != "" && header.Type == iqGet && payloads[0].Space() == xmpp.NSLast:
		return s.routeLast(ctx, raw, header, to)
	case to.Local() != "" && to.Resource() != "":
		return s.routeIQ(ctx, raw, header, to)
	case !asks:
		return nil // an answer to nothing that the server has asked
	case !isNamed(payloads[0]):
		return s.bounce(raw, header, xmpp.ServiceUnavailable)
	case to.Local() != "" && to != s.hub.user && payloads[0].Space() == xmpp.NSMAM:
		return s.bounce(raw, header, xmpp.Forbidden) // XEP-0313 §8.1; no word on whether there is such a user
	case to.Local() == "" && to.Resource() != "":
		return s.bounce(raw, header, xmpp.ServiceUnavailable)
	default:
		return s.answerIQ(ctx, raw, header, to, payloads[0])
	}
}

// noAnswer is what stands for an answer that is none, having more than one child (RFC 6120 §8.2.3):
// who has asked gets an answer all the same, and who answers wrongly must not be told.
func noAnswer(header xmpp.Header) []byte {
	answer := iqHead(typeError, header.ID, "", header.To)
	answer = xmpp.NewStanzaError(xmpp.UndefinedCondition, "the answer was malformed").Append(answer)
	return append(answer, "</iq>"...)
}

// routeIQ sends an IQ stanza to a client.
func (s *session) routeIQ(ctx context.Context, raw []byte, header xmpp.Header, to xmpp.JID) error {
	condition, account, err := s.findUser(ctx, to)
	if err != nil {
		return s.bounceFailed(ctx, raw, header, err)
	}
	if condition != "" {
		return s.bounce(raw, header, condition)
	}
	signal := bus.Signal{Kind: bus.Stanza, User: account.User, Target: to.Resource(), Data: s.stamp(raw, header)}
	if !isRequest(header) {
		s.unacked.answered(header)
		s.node.publish(signal)
		return nil
	}
	node, err := s.node.nodeOf(ctx, to, account)
	switch {
	case err != nil:
		return s.bounceFailed(ctx, raw, header, err)
	case node == "":
		return s.bounce(raw, header, xmpp.ServiceUnavailable)
	}
	refusal := xmpp.NewStanzaError(xmpp.ServiceUnavailable, "")
	s.unacked.expect(header.ID, to, node, lostAnswer(header.ID, to.String(), s.jid.String(), refusal))
	if !s.node.ask(node, signal) {
		return s.bounceError(raw, header, refusal)
	}
	return nil
}

// isNamed tells whether a request has the name that its namespace gives it, where that gives
// but one. Others look at the name themselves.
func isNamed(payload xmpp.Element) bool {
	switch payload.Space() {
	case xmpp.NSPing:
		return payload.Local() == "ping"
	case xmpp.NSTime:
		return payload.Local() == "time"
	case xmpp.NSSession:
		return payload.Local() == "session"
	case xmpp.NSCommands:
		return payload.Local() == "command"
	case xmpp.NSDiscoInfo, xmpp.NSDiscoItems, xmpp.NSRoster, xmpp.NSVersion, xmpp.NSLast, xmpp.NSRegister:
		return payload.Local() == "query"
	default:
		return true
	}
}

// routeLast sends a question for how long a client is idle to it (XEP-0012 §4), if who asks
// may know. That there is no such user, or that it has blocked the one who asks, looks as if it
// was not for the one who asks.
func (s *session) routeLast(ctx context.Context, raw []byte, header xmpp.Header, to xmpp.JID) error {
	condition, account, err := s.findUser(ctx, to)
	shown := to.Bare() == s.hub.user
	if err == nil && condition == "" && !shown {
		shown, err = s.node.shownTo(ctx, account, s.hub.user)
	}
	switch {
	case err != nil:
		return s.bounceFailed(ctx, raw, header, err)
	case condition != "", !shown:
		return s.bounce(raw, header, xmpp.Forbidden)
	default:
		return s.routeIQ(ctx, raw, header, to)
	}
}

// request is an IQ get or set for the server, or for the user whom it speaks for.
type request struct {
	session *session
	header  xmpp.Header
	to      xmpp.JID
	payload xmpp.Element
}

// reply answers with a result.
func (q request) reply(payload []byte) {
	from := ""
	if q.header.To != "" {
		from = q.to.String()
	}
	answer := func(kind string, payload []byte) []byte {
		head := iqHead(kind, q.header.ID, from, q.session.jid.String())
		return append(append(head, payload...), "</iq>"...)
	}
	result := answer(iqResult, payload)
	if q.session.tooLong(xmpp.IQ, result, xmpp.SentMost) {
		no := xmpp.NewStanzaError(xmpp.ResourceConstraint, "the answer is too long")
		q.session.node.metrics.bounced.WithLabelValues(no.Condition).Inc()
		result = answer(typeError, no.Append(nil))
	}
	q.session.send(xmpp.IQ, result)
}

// answerIQ answers for the server, the user or another user.
func (s *session) answerIQ(ctx context.Context, raw []byte, header xmpp.Header, to xmpp.JID, payload xmpp.Element) error {
	q := request{session: s, header: header, to: to, payload: payload}
	serve := s.serveIQ
	if to.Local() != "" && to != s.hub.user {
		serve = s.serveUser
	}
	err := serve(ctx, q)
	if err == nil {
		return nil
	}
	if e, ok := asStanzaError(err); ok {
		return s.bounceError(raw, header, e)
	}
	return s.bounceFailed(ctx, raw, header, err)
}

// serveIQ does what is asked for; a *xmpp.StanzaError is for the client.
func (s *session) serveIQ(ctx context.Context, q request) error {
	toUser := q.to.Local() != ""
	get := q.header.Type == iqGet
	switch space := q.payload.Space(); {
	case space == xmpp.NSPing && get:
		q.reply(nil)
	case space == xmpp.NSSession && !get: // RFC 3921 §3: there is nothing to do
		q.reply(nil)
	case space == xmpp.NSDiscoInfo && get:
		return s.discoInfo(ctx, q)
	case space == xmpp.NSDiscoItems && get:
		return s.discoItems(ctx, q)
	case space == xmpp.NSRoster && toUser && get:
		return s.getRoster(ctx, q)
	case space == xmpp.NSRoster && toUser:
		return s.setRoster(ctx, q)
	case space == xmpp.NSMAM && toUser:
		return s.archive(ctx, q)
	case space == xmpp.NSVersion && get && !toUser:
		s.version(q)
	case space == xmpp.NSTime && get && !toUser:
		s.time(q)
	case space == xmpp.NSLast && get && toUser:
		return s.lastSeen(ctx, q)
	case space == xmpp.NSLast && get:
		s.lastActivity(q)
	case space == xmpp.NSPrivate && toUser:
		return s.privateXML(ctx, q)
	case space == xmpp.NSVCard && toUser:
		return s.ownVCard(ctx, q)
	case space == xmpp.NSBlocking && toUser:
		return s.blocking(ctx, q)
	case space == xmpp.NSCommands && !toUser && !get:
		return s.runCommand(ctx, q)
	case space == xmpp.NSRegister:
		return s.register(ctx, q)
	case space == xmpp.NSCarbons && toUser && !get:
		return s.setCarbons(q)
	case space == xmpp.NSBind: // RFC 6120 §7.7.2.1: one resource is enough
		return xmpp.NewStanzaError(xmpp.NotAllowed, "a resource is bound already")
	default:
		return xmpp.NewStanzaError(xmpp.ServiceUnavailable, "")
	}
	return nil
}

// iqHead begins an IQ stanza; empty addresses are left out.
func iqHead(kind, id, from, to string) []byte {
	head := appendAttr([]byte("<iq type='"+kind+"'"), "id", id)
	if from != "" {
		head = appendAttr(head, "from", from)
	}
	if to != "" {
		head = appendAttr(head, "to", to)
	}
	return append(head, '>')
}
