package backend

import (
	"slices"

	"imlb/backend/xmpp"
)

// quiet is what a client that is inactive (XEP-0352) is spared: presence and chat states,
// of which only the last of each sender counts. They are written when the
// client is active again, or before anything else from the same sender, so that what
// one entity says arrives in order. It is owned by the writing goroutine.
type quiet struct {
	on    bool
	held  []heldStanza
	bytes int
}

type heldStanza struct {
	kind xmpp.StanzaKind
	said saying
	raw  []byte
}

// saying is who says something and, of what the user's other clients say, to whom.
type saying struct{ from, to string }

// quietBytes bounds what is held for one client.
const quietBytes = 128 << 10

// csi takes <active/> and <inactive/>.
func (s *session) csi(name string) error {
	switch name {
	case "active":
		s.out.push(item{kind: itemQuiet})
	case "inactive":
		s.out.push(item{kind: itemQuiet, on: true})
	default:
		return &xmpp.StreamError{Condition: xmpp.UnsupportedStanzaType}
	}
	return nil
}

// setQuiet begins to hold, or ends it and writes all that was held.
func (s *session) setQuiet(on bool) {
	s.cur.quiet.on = on
	if !on {
		s.release(func(heldStanza) bool { return true })
	}
}

// hold holds a stanza if it can wait, and else writes what has to come before it. It
// returns whether it did.
func (s *session) hold(raw []byte) bool {
	q := &s.cur.quiet
	if !q.on {
		return false
	}
	header, err := xmpp.ParseHeader(raw)
	if err != nil {
		return false
	}
	if !canWait(header, raw) {
		s.releaseFrom(raw)
		return false
	}
	said := s.saying(header, raw)
	dropped := q.drop(func(h heldStanza) bool { return h.kind == header.Kind && h.said == said })
	if header.Kind == xmpp.Presence && header.Type == "" && len(dropped) > 0 {
		raw = withCapsOf(dropped[0].raw, raw) // an update leaves out what the client has not heard
	}
	q.held = append(q.held, heldStanza{header.Kind, said, raw})
	if q.bytes += len(raw) + itemOverhead; q.bytes > quietBytes {
		s.release(func(heldStanza) bool { return true })
	}
	return true
}

// release writes held stanzas, but not those of somebody who was blocked in the meantime.
func (s *session) release(which func(heldStanza) bool) {
	for _, h := range s.cur.quiet.drop(which) {
		if !s.hub.ignores(xmpp.Header{From: h.said.from}) {
			s.writeStanza(h.raw, 0)
		}
	}
}

// releaseFrom writes what is held of the sender of a stanza that does not wait.
func (s *session) releaseFrom(raw []byte) {
	if len(s.cur.quiet.held) == 0 {
		return
	}
	if header, err := xmpp.ParseHeader(raw); err == nil {
		from := s.saying(header, raw).from
		s.release(func(h heldStanza) bool { return h.said.from == from })
	}
}

// saying tells who says what is in a stanza. That is not who a copy is from, which is the user.
func (s *session) saying(header xmpp.Header, raw []byte) saying {
	if header.Kind != xmpp.Message || header.From != s.account.User {
		return saying{from: header.From}
	}
	e, err := xmpp.ParseElement(raw)
	if err != nil {
		return saying{from: header.From}
	}
	for child := range e.Children() {
		if child.Space() != xmpp.NSCarbons {
			continue
		}
		inside, err := xmpp.ParseHeader(forwarded(child).Raw())
		switch {
		case err != nil:
		case child.Local() == carbonSent:
			return saying{inside.From, inside.To}
		default:
			return saying{from: inside.From}
		}
	}
	return saying{from: header.From}
}

// drop removes and returns held stanzas, in their order.
func (q *quiet) drop(which func(heldStanza) bool) []heldStanza {
	if !slices.ContainsFunc(q.held, which) {
		return nil
	}
	var dropped, left []heldStanza
	for _, h := range q.held {
		if which(h) {
			dropped = append(dropped, h)
			q.bytes -= len(h.raw) + itemOverhead
		} else {
			left = append(left, h)
		}
	}
	q.held = left
	return dropped
}

// canWait tells whether a stanza is of no use to somebody who does not look.
func canWait(header xmpp.Header, raw []byte) bool {
	if header.Kind != xmpp.Message {
		return isStatus(header)
	}
	e, err := xmpp.ParseElement(raw)
	return err == nil && header.Type != typeError && isChatState(e)
}

// isChatState tells whether a message is a chat state (XEP-0085) and nothing else, or
// the copy of one.
func isChatState(e xmpp.Element) bool {
	found := false
	for child := range e.Children() {
		switch {
		case child.Space() == xmpp.NSChatStates:
			found = true
		case isAside(child):
		case child.Space() == xmpp.NSCarbons:
			return isChatState(forwarded(child))
		default:
			return false
		}
	}
	return found
}

// forwarded returns the message inside a copy; without one an element that has
// nothing inside.
func forwarded(copied xmpp.Element) xmpp.Element {
	if f, ok := copied.Child(xmpp.NSForward, "forwarded"); ok {
		if m, ok := f.Child(xmpp.NSClient, "message"); ok {
			return m
		}
	}
	return xmpp.Element{}
}
