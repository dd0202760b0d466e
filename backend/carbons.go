package backend

import (
	"bytes"
	"time"

	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// Message carbons (XEP-0280). A client that has asked for them, and is available, gets
// a copy of what the user's other clients send and of what the user gets but not this
// client (§7), be it delivered to others or waiting for one that takes it. Copies of stored messages come from the timeline, where both are
// entries; those of other messages from the signals.

// The names of the wrappers of a copy.
const (
	carbonSent     = "sent"
	carbonReceived = "received"
)

// sentMark begins the data of the signal of an entry that the user has sent. The
// stanza follows it when a session of the sender's node wants a copy.
const sentMark = '>'

// sentCopy is a message that is not stored, for the sender's other clients.
type sentCopy struct {
	Resource string `json:"resource"`         // of the sender
	Stanza   string `json:"stanza,omitempty"` // empty: they have it
	Bounce   string `json:"bounce,omitempty"` // the error that came back
}

// setCarbons answers <enable/> and <disable/> (XEP-0280 §4, §5).
func (s *session) setCarbons(q request) error {
	on := q.payload.Local() == "enable"
	if !on && q.payload.Local() != "disable" {
		return xmpp.NewStanzaError(xmpp.BadRequest, "")
	}
	s.wantCopies(on)
	q.reply(nil)
	return nil
}

// wantCopies says whether the session takes copies from now on.
func (s *session) wantCopies(on bool) {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	s.carbons = on
	s.out.push(item{kind: itemCarbons, on: on})
}

// wantsCopies tells whether another session on this node takes copies of what s
// sends.
func (h *hub) wantsCopies(s *session) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, other := range h.sessions {
		if other != s && other.carbons {
			return true
		}
	}
	return false
}

// sentData is the data of the signal of an entry that s has sent.
func (s *session) sentData(recipient string, stanza []byte) []byte {
	if recipient == s.account.User || !s.hub.wantsCopies(s) {
		return nil
	}
	return append([]byte{sentMark}, stanza...)
}

// lacks tells whether an item says too little: the entry is one to be copied, and the
// node that sent the signal did not know that.
func (s *session) lacks(it item) bool {
	return it.sent && len(it.data) == 0 && s.cur.carbons && s.cur.here && it.resource != s.jid.Resource()
}

// copyEntry writes a copy of an entry that the client has not sent and does not get.
// What was there before the client is no news: for that there is the archive.
func (s *session) copyEntry(e store.Entry, delay []byte) {
	if !e.Sent && s.cur.live && !s.hub.takenByOther(s, e.Resource) {
		return // it has come, or comes, as itself
	}
	s.writeCopy(e, delay)
}

// writeCopy is copyEntry for an entry that goes to others, whether or not they are here.
func (s *session) writeCopy(e store.Entry, delay []byte) {
	name := carbonReceived
	if e.Sent {
		name = carbonSent
	}
	switch {
	case !s.cur.carbons || !s.cur.here || s.cur.login && e.Time.Before(s.cur.since) || e.Seq <= s.cur.past:
		return
	case e.Sent && (e.Resource == s.jid.Resource() || e.Peer == s.account.User):
		return
	}
	header, err := xmpp.ParseHeader(e.Stanza)
	if err != nil || header.From == s.jid.String() && !e.Sent || !copyable(e.Stanza) || s.tooLong(xmpp.Message, e.Stanza, entryMost) {
		return
	}
	stanza := xmpp.AppendWithChild(nil, e.Stanza, s.stanzaID(e.Seq))
	if delay != nil {
		stanza = xmpp.AppendWithChild(nil, stanza, delay)
	}
	s.node.metrics.stanzas.WithLabelValues("out", kindText(xmpp.Message)).Inc()
	copied := s.carbon(name, header.Type, stanza)
	s.releaseFrom(copied) // what is on the timeline does not wait
	switch {
	case e.Sent && s.cur.live && !s.cur.bound.leaves(e.Seq) && s.hub.allBefore(e.Seq):
		copied = xmpp.AppendWithChild(nil, copied, s.stanzaID(e.Seq)) // it claims what an entry in turn does
	case s.tellsPlace():
		copied = xmpp.AppendWithChild(nil, copied, place(e.Seq, s.cur.live && !s.cur.bound.leaves(e.Seq), true))
	}
	s.writeStanza(copied, e.Seq)
}

// takenByOther tells whether an entry for a resource, or for the user if that is empty
// or not here, goes to another session on this node.
func (h *hub) takenByOther(s *session, resource string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if resource != "" && h.sessions[resource] != nil {
		return resource != s.jid.Resource()
	}
	for _, other := range h.sessions {
		if other != s && other.presence != nil && other.priority >= 0 {
			return true
		}
	}
	return false
}

// shareSent tells the user's other clients of a message that is not stored.
func (s *session) shareSent(header xmpp.Header, to xmpp.JID, stanza []byte) {
	if to.Bare() == s.hub.user || !eligible(header.Type, stanza) || !copyable(stanza) {
		return
	}
	s.node.publishControl(s.account.User, control{Sent: &sentCopy{Resource: s.jid.Resource(), Stanza: string(stanza)}})
}

// shareBounce tells a user's other clients of an error that answers a message of one of them, and of
// the message itself if they do not have it. Only where the error is made is it known whether
// what it answers is to be copied (XEP-0280 §6.1): not of errors that clients send.
func (n *Node) shareBounce(from xmpp.JID, stanza, bounce []byte, sent bool) {
	header, err := xmpp.ParseHeader(stanza)
	if err != nil || header.Kind != xmpp.Message || !eligible(header.Type, stanza) || !copyable(stanza) {
		return
	}
	told := sentCopy{Resource: from.Resource(), Bounce: string(bounce)}
	if !sent {
		told.Stanza = string(stanza)
	}
	n.publishControl(from.Bare().String(), control{Sent: &told})
}

// bounceCopied is bounceError for what may be a message: the user's other clients hear of it.
func (s *session) bounceCopied(raw []byte, header xmpp.Header, e *xmpp.StanzaError) error {
	stanza := s.withoutOurs(s.stamp(raw, header))
	s.node.shareBounce(s.jid, stanza, e.AppendReply(nil, stanza), false)
	return s.bounceError(raw, header, e)
}

func (h *hub) copySent(c sentCopy) {
	sender := func(s *session) bool { return s.jid.Resource() == c.Resource }
	if c.Stanza != "" {
		header, err := xmpp.ParseHeader([]byte(c.Stanza))
		if err != nil {
			h.node.metrics.dropped.WithLabelValues("decode").Inc()
			return
		}
		h.copyLive(carbonSent, header, []byte(c.Stanza), sender)
	}
	if header, err := xmpp.ParseHeader([]byte(c.Bounce)); err == nil {
		h.copyTo(carbonReceived, header, []byte(c.Bounce), sender)
	}
}

// copyLive hands copies of a message that is not stored to the sessions that want one, and
// returns how many these are.
func (h *hub) copyLive(name string, header xmpp.Header, stanza []byte, skip func(*session) bool) int {
	if header.Kind != xmpp.Message || !eligible(header.Type, stanza) || !copyable(stanza) {
		return 0
	}
	return h.copyTo(name, header, stanza, skip)
}

// copyTo is copyLive for a message that is known to be one to copy.
func (h *hub) copyTo(name string, header xmpp.Header, stanza []byte, skip func(*session) bool) int {
	h.mu.Lock()
	var to []*session
	for _, s := range h.sessions {
		if s.carbons && s.presence != nil && !skip(s) {
			to = append(to, s)
		}
	}
	h.mu.Unlock()
	copies := 0
	for _, s := range to {
		if !s.spares(header, len(stanza)) {
			s.deliverLive(header, s.carbon(name, header.Type, stanza), false)
			copies++
		}
	}
	return copies
}

// eligible tells whether a message that is not stored is one of a conversation
// (XEP-0280 §6.1). An error is, if what it answers is (see shareBounce).
func eligible(kind string, stanza []byte) bool {
	switch kind {
	case messageChat:
		return true
	case messageGroupchat, messageHeadline, typeError:
		return false
	}
	return hasBody(stanza) || accompanies(stanza)
}

// accompanies tells whether a message without words belongs to a conversation: a chat state
// (XEP-0085), a receipt (XEP-0184) or a marker (XEP-0333).
func accompanies(stanza []byte) bool {
	e, err := xmpp.ParseElement(stanza)
	if err != nil {
		return false
	}
	for child := range e.Children() {
		switch child.Space() {
		case xmpp.NSChatStates, xmpp.NSReceipts, xmpp.NSMarkers:
			return true
		}
	}
	return false
}

// hasBody tells whether a message says something to a person (RFC 6121 §5.2.3).
func hasBody(stanza []byte) bool {
	e, err := xmpp.ParseElement(stanza)
	if err != nil {
		return false
	}
	for child := range e.Children() {
		if child.Local() == "body" && (child.Space() == "" || child.Space() == xmpp.NSClient) {
			return true
		}
	}
	return false
}

// copyable tells whether the sender has not ruled out copies (XEP-0280 §6.2, XEP-0334
// §4.3).
func copyable(stanza []byte) bool {
	if hasHint(stanza, "no-copy") {
		return false
	}
	if !bytes.Contains(stanza, []byte("private")) {
		return true
	}
	e, err := xmpp.ParseElement(stanza)
	if err != nil {
		return false
	}
	_, private := e.Child(xmpp.NSCarbons, "private")
	return !private
}

// isPrivate tells whether a child of a message rules out copies (XEP-0280 §6.2).
func isPrivate(child xmpp.Element) bool { return child.Is(xmpp.NSCarbons, "private") }

// withoutPrivate returns a message as its recipient gets it, who need not know that it is not copied (XEP-0280 §6.2).
func withoutPrivate(stanza []byte) []byte {
	if !bytes.Contains(stanza, []byte("private")) {
		return stanza
	}
	return xmpp.AppendWithout(nil, stanza, isPrivate)
}

// carbon is a copy as the client gets it (XEP-0280 §7, §8).
func (s *session) carbon(name, kind string, stanza []byte) []byte {
	m := appendAttr([]byte("<message"), "from", s.account.User)
	m = appendAttr(m, "to", s.jid.String())
	if kind != "" {
		m = appendAttr(m, "type", kind)
	}
	m = append(m, "><"+name+" xmlns='"+xmpp.NSCarbons+"'>"...)
	m = appendForwarded(m, stanza, time.Time{})
	return append(m, "</"+name+"></message>"...)
}
