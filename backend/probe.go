package backend

import (
	"context"

	"imlb/backend/bus"
	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// probeContacts asks for the presence of those whom the user may see, and of its
// own other resources (RFC 6121 §4.3). Contacts of whom nothing comes are offline.
func (s *session) probeContacts() {
	for _, contact := range append(s.hub.contacts(store.SubscriptionTo), s.hub.user.String()) {
		s.node.probe(s.jid, contact)
	}
}

// probe asks for the presence of a user on behalf of from.
func (n *Node) probe(from xmpp.JID, user string) {
	stanza := append([]byte(nil), "<presence type='probe' from='"...)
	stanza = xmpp.AppendEscaped(stanza, from.String())
	stanza = append(stanza, "'/>"...)
	n.publish(bus.Signal{Kind: bus.Stanza, User: user, Data: addressed(stanza, user)})
}

// askPresence handles a probe that the client sends (RFC 6121 §4.3.2). Unlike the node's
// own, it has an answer for contacts that are offline, and for subscriptions
// of which the contact does not know.
func (s *session) askPresence(ctx context.Context, raw []byte, header xmpp.Header, to xmpp.JID) error {
	if err := s.hub.loadRoster(ctx); err != nil {
		return s.bounceFailed(ctx, raw, header, err)
	}
	contact := to.Bare()
	if !s.hub.sees(contact.String()) {
		s.node.sendTo(to, s.stamp(raw, header)) // it may have shown itself by directed presence
		return nil
	}
	condition, account, err := s.findUser(ctx, contact)
	if err == nil && condition == "" {
		err = s.askContact(ctx, raw, header, to, account)
	}
	if err != nil {
		return s.bounceFailed(ctx, raw, header, err)
	}
	return nil
}

// askContact asks one whom the user believes to see.
func (s *session) askContact(ctx context.Context, raw []byte, header xmpp.Header, to xmpp.JID, account store.Account) error {
	agreed, err := s.node.shownTo(ctx, account, s.hub.user)
	if err != nil {
		return err
	}
	if !agreed {
		no := subscriptionStanza(presenceUnsubscribed, to.Bare(), s.hub.user)
		return s.node.receiveSubscription(ctx, presenceUnsubscribed, no, to.Bare(), party{s.hub.user, s.account.Owner})
	}
	there, err := s.node.isConnected(ctx, to, account)
	if err != nil {
		return err
	}
	if !there {
		s.send(xmpp.Presence, addressed(unavailablePresence(to), s.jid.String()))
		return nil
	}
	s.node.sendTo(to, s.stamp(raw, header))
	return nil
}

// shownTo tells whether the owner of an account has agreed to show itself to a user.
func (n *Node) shownTo(ctx context.Context, account store.Account, user xmpp.JID) (bool, error) {
	query, cancel := n.storeContext(ctx)
	defer cancel()
	items, _, err := n.store.Roster(query, account.Owner)
	if err != nil {
		return false, err
	}
	for _, it := range items {
		if it.Contact == user.String() {
			return it.Subscription&store.SubscriptionFrom != 0, nil
		}
	}
	return false, nil
}

// isConnected tells whether a resource is connected, or any if the address is bare.
func (n *Node) isConnected(ctx context.Context, to xmpp.JID, account store.Account) (bool, error) {
	if !to.IsBare() {
		return n.isThere(ctx, to, account)
	}
	query, cancel := n.storeContext(ctx)
	defer cancel()
	sessions, err := n.store.SessionsOf(query, account.Owner)
	return len(sessions) > 0, err
}

// answerProbe shows the sessions, or the one of a resource, to one who may see them.
func (h *hub) answerProbe(resource string, probe xmpp.Header) {
	from, err := xmpp.ParseJID(probe.From)
	if err != nil {
		return
	}
	for _, presence := range h.visibleTo(from, resource) {
		h.node.show(from, presence, h.blocklist())
	}
}

// visibleTo returns the presence of the sessions that an address may see: a
// subscriber all, a user itself all others of its own, and one who was sent
// directed presence those that have sent it (RFC 6121 §4.6).
func (h *hub) visibleTo(from xmpp.JID, resource string) [][]byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	allowed := from.Bare() == h.user || h.roster[from.Bare().String()].subscription&store.SubscriptionFrom != 0
	var seen [][]byte
	for _, s := range h.sessions {
		if s.jid == from || resource != "" && s.jid.Resource() != resource {
			continue
		}
		if presence := s.visible(from, allowed); presence != nil {
			seen = append(seen, presence)
		}
	}
	return seen
}

// visible is what an address sees of a session, nil if nothing; under hub.mu.
func (s *session) visible(from xmpp.JID, allowed bool) []byte {
	if allowed && s.presence != nil {
		return s.presence
	}
	_, full := s.directed[from]
	_, bare := s.directed[from.Bare()]
	if !full && !bare {
		return nil
	}
	if s.presence != nil {
		return s.presence
	}
	return append(appendAttr([]byte("<presence"), "from", s.jid.String()), "/>"...)
}
