package backend

import (
	"context"
	"fmt"

	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// What a client is told of its user's roster and blocklist has versions. Behind what tells of a change goes
// an item with the versions up to which all has been told then. So it is known up to which the client has
// it when it has acknowledged that (XEP-0198), and what it has missed when its session is resumed.

// later are the versions up to which somebody has been told who was told twice.
func later(a, b store.Versions) store.Versions {
	return store.Versions{Roster: max(a.Roster, b.Roster), Blocklist: max(a.Blocklist, b.Blocklist)}
}

// tell notes up to which changes the client has been told of with all that was sent to it before.
func (s *session) tell(told store.Versions) { s.out.push(item{kind: itemTold, told: told}) }

// becomeInterested has the session get pushes from now on. Of what was before its client knows when it has
// the roster.
func (s *session) becomeInterested() {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	if !s.interested {
		s.interested, s.heard = true, false
		s.unacked.untold()
	}
}

// hasHeard notes that the client has been told of the roster as it was at a version, and is told of changes.
func (s *session) hasHeard(version uint64) {
	s.tell(store.Versions{Roster: version})
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	s.heard = true
}

// markTold notes in what the clients get that they have been told of the roster up to the version up to which all
// was told; under hub.mu.
func (h *hub) markTold() {
	for _, s := range h.sessions {
		if s.heard {
			s.tell(store.Versions{Roster: h.rosterTold})
		}
	}
}

// toldBlocks notes that the sessions have been told of the blocklist up to a version: those that
// have been up to an earlier one.
func (h *hub) toldBlocks(version, since uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.sessions {
		if s.blockPushes && s.blocksTold >= since {
			s.blocksTold = max(s.blocksTold, version)
			s.tell(store.Versions{Blocklist: s.blocksTold})
		}
	}
}

// tellMissed tells the client of a session that is resumed what has become of the roster (RFC 6121 §2.1.6, §3.1.3)
// and the blocklist (XEP-0191 §3.3) since it was told of them. That comes after what was left for the client, and
// before all that is told from now on.
func (s *session) tellMissed(ctx context.Context, told store.Versions) error {
	h := s.hub
	h.mu.Lock()
	s.heard = s.interested || s.presence != nil
	roster := s.heard && told.Roster < h.rosterSeen
	blocks := s.blockPushes && told.Blocklist < h.blocks.version
	if s.blocksTold = max(s.blocksTold, told.Blocklist); blocks {
		s.blocksTold = h.blocks.version
		s.first = append(s.first, s.resetBlocks(h.blocks)...)
	}
	told.Blocklist = s.blocksTold // 0 if the client has not asked for it
	h.mu.Unlock()
	if roster {
		items, version, err := s.node.store.RosterSince(ctx, s.account.Owner, told.Roster)
		if err != nil {
			return fmt.Errorf("read what was changed in the roster of %s: %w", s.account.User, err)
		}
		for _, it := range items {
			s.first = append(s.first, s.missedItem(it)...)
		}
		told.Roster = version
	}
	s.first = append(s.first, item{kind: itemTold, told: told})
	return nil
}

// missedItem is what the client is told of an item that has changed.
func (s *session) missedItem(it store.RosterItem) (all []item) {
	send := func(stanza []byte) { all = append(all, item{kind: itemStanza, data: stanza}) }
	removed := !it.InRoster && !it.Approved && len(it.PendingIn) == 0
	switch shown := visibleItem(it); {
	case !s.interested:
	case removed:
		send(s.rosterPush(string(appendRemovedItem(nil, it.Contact)), it.Version))
	case shown != "":
		send(s.rosterPush(shown, it.Version))
	}
	if s.presence == nil {
		return all
	}
	contact, err := xmpp.ParseJID(it.Contact)
	if err == nil && (it.InRoster || removed) && it.Subscription&store.SubscriptionTo == 0 && s.node.isLocal(it.Contact) {
		send(addressed(unavailablePresence(contact), s.jid.String())) // it may have been there before
	}
	if len(it.PendingIn) > 0 && !s.hub.blocklist().matchesUser(it.Contact) {
		send(it.PendingIn)
	}
	return all
}

// resetBlocks has the client forget its blocklist, of which nobody knows any more what it was, and
// tells it the one that there is now.
func (s *session) resetBlocks(now *blocklist) []item {
	pushes := []item{{kind: itemStanza, data: s.blockPush("unblock", nil)}}
	if now.blocksAny() {
		pushes = append(pushes, item{kind: itemStanza, data: s.blockPush("block", now.all())})
	}
	return pushes
}
