package backend

import (
	"context"
	"fmt"
	"slices"
	"time"

	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// leftBefore is how long before a session came here a contact may have left of whom it has
// not heard: one that was resumed was elsewhere, and clocks differ.
const leftBefore = time.Hour

// hiddenMax bounds how many are remembered from whom the user has been hidden.
const hiddenMax = 1024

// settleTime is within how long after signals arrive again all nodes hear them.
const settleTime = time.Minute

// noteHidden notes that somebody who could see the user may not any more; under hub.mu.
func (h *hub) noteHidden(from xmpp.JID) {
	if h.hidden == nil || len(h.hidden) >= hiddenMax {
		h.hidden = make(map[xmpp.JID]time.Time)
	}
	h.hidden[from] = time.Time{}
}

// hideAgain shows the sessions as unavailable to those who may not see them any more, because
// what told them so may have been lost.
func (h *hub) hideAgain(sessions []*session) {
	for _, to := range h.stillHidden(time.Now()) {
		for _, s := range sessions {
			h.node.show(to, unavailablePresence(s.jid), nil)
		}
	}
}

// stillHidden returns those to whom that has to be said. Nodes may hear each other again one
// after the other, so it is said as often as that is noticed within settleTime.
func (h *hub) stillHidden(now time.Time) []xmpp.JID {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []xmpp.JID
	for to, first := range h.hidden {
		sees := h.roster[to.Bare().String()].subscription&store.SubscriptionFrom != 0 && !h.blocks.matches(to)
		if sees || !first.IsZero() && now.Sub(first) > settleTime {
			delete(h.hidden, to)
			continue
		}
		if first.IsZero() {
			h.hidden[to] = now
		}
		all = append(all, to)
	}
	return all
}

// askAround asks for the presence of those whom the user may see, since some may have come
// or gone. Who has no session any more cannot answer.
func (h *hub) askAround(ctx context.Context) error {
	sessions := h.sessionsThat(isAvailable)
	if len(sessions) == 0 {
		return nil
	}
	h.hideAgain(sessions)
	since := sessions[0].started
	for _, s := range sessions {
		if s.started.Before(since) {
			since = s.started
		}
	}
	query, cancel := h.node.storeContext(ctx)
	defer cancel()
	recent, err := h.node.store.RecentContacts(query, h.owner, since.Add(-leftBefore))
	if err != nil {
		return fmt.Errorf("look for the contacts of %s: %w", h.user, err)
	}
	visible := h.contacts(store.SubscriptionTo)
	for _, contact := range recent {
		if _, sees := slices.BinarySearch(visible, contact.User); sees {
			h.askContact(contact, sessions)
		}
	}
	for _, s := range sessions {
		h.node.probe(s.jid, h.user.String())
	}
	return nil
}

// askContact asks for the presence of a contact, or says that it is not there. Where it is on
// one node, that one knows whether it is available at all.
func (h *hub) askContact(contact store.RecentContact, sessions []*session) {
	from, err := xmpp.ParseJID(contact.User)
	if err != nil {
		return
	}
	for _, s := range sessions {
		switch contact.Nodes {
		case 0:
			s.send(xmpp.Presence, addressed(unavailablePresence(from), s.jid.String()))
		case 1:
			h.node.probeFor(s.jid, contact.User, answerAnyway)
		default:
			h.node.probe(s.jid, contact.User)
		}
	}
}
