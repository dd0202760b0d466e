package backend

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// compare reads what is not as the hub knows it.
func (h *hub) compare(ctx context.Context, stored store.Versions) error {
	h.mu.Lock()
	roster := h.loaded && h.rosterTold < stored.Roster
	blocks := h.blocks != nil && h.blocks.version < stored.Blocklist
	h.mu.Unlock()
	if blocks { // first, since the roster's changes are shown by it
		if err := h.rereadBlocks(ctx); err != nil {
			return err
		}
	}
	if roster {
		return h.rereadRoster(ctx)
	}
	return nil
}

// rereadBlocks acts on a list that nobody has signalled.
func (h *hub) rereadBlocks(ctx context.Context) error {
	query, cancel := h.node.storeContext(ctx)
	defer cancel()
	stored, err := h.node.store.Blocklist(query, h.owner)
	if err != nil {
		return fmt.Errorf("read the blocklist of %s: %w", h.user, err)
	}
	before := h.blocklist().all()
	h.node.blocks.changed(h.owner, stored.Version)
	for _, c := range []blockChange{
		{Items: without(before, stored.Addresses)},
		{Items: without(stored.Addresses, before), Block: true},
	} {
		if len(c.Items) > 0 {
			c.Owner, c.Version, c.Addresses, c.Changed = h.owner, stored.Version, stored.Addresses, c.Items
			h.pushBlocks(c)
			h.applyBlocks(c)
			h.hideAbsent(ctx, c)
		}
	}
	h.toldBlocks(stored.Version, 0)
	h.learnBlocks(newBlocklist(stored))
	return nil
}

// missedChange is a change of an item of which no signal has come.
type missedChange struct {
	rosterChange

	told    store.Subscription // before
	request []byte             // for a subscription, that waits
}

// rereadRoster reads the roster, and tells the clients and the contacts what nobody has
// signalled.
func (h *hub) rereadRoster(ctx context.Context) error {
	query, cancel := h.node.storeContext(ctx)
	defer cancel()
	items, version, err := h.node.store.Roster(query, h.owner)
	if err != nil {
		return fmt.Errorf("read the roster of %s: %w", h.user, err)
	}
	for _, c := range h.untold(items, version) {
		h.noteTold(c.rosterChange)
		h.showChange(ctx, c) // first: somebody may see what is not meant for it
		h.showRequest(c)
		h.push(c.rosterChange, c.Version)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.toldUpTo(version)
	h.markTold()
	return nil
}

// untold are the changes of a roster of which no signal has come.
func (h *hub) untold(items []store.RosterItem, version uint64) []missedChange {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.loaded { // nothing depends on it yet
		return nil
	}
	var all []missedChange
	there := make(map[string]struct{}, len(items))
	for _, it := range items {
		there[it.Contact] = struct{}{}
		known := h.roster[it.Contact]
		if known.version > it.Version || it.Version <= h.rosterTold {
			continue
		}
		change := rosterChange{Contact: it.Contact, Subscription: it.Subscription, Version: it.Version, Push: visibleItem(it)}
		all = append(all, missedChange{change.orRemoved(known), known.told, it.PendingIn})
	}
	for contact, known := range h.roster {
		_, stays := there[contact]
		gone := known.listed || known.told != 0 || known.subscription != 0
		if !stays && gone && known.version <= version {
			change := rosterChange{Contact: contact, Version: version}
			all = append(all, missedChange{change.orRemoved(known), known.told, nil})
		}
	}
	slices.SortFunc(all, func(a, b missedChange) int { return cmp.Compare(a.Version, b.Version) })
	return all
}

// orRemoved has clients remove a contact that they have and should not see any more.
func (c rosterChange) orRemoved(known rosterState) rosterChange {
	if c.Push == "" && known.listed {
		c.Removed, c.Push = true, string(appendRemovedItem(nil, c.Contact))
	}
	return c
}

// showRequest shows the user a request for a subscription that it may not have seen (RFC
// 6121 §3.1.3).
func (h *hub) showRequest(c missedChange) {
	if len(c.request) == 0 || h.blocklist().matchesUser(c.Contact) {
		return
	}
	for _, s := range h.sessionsThat(isAvailable) {
		s.send(xmpp.Presence, c.request)
	}
}

func isAvailable(s *session) bool { return s.presence != nil }

// showChange shows those concerned what a change of a subscription makes of presence: a
// contact who may not see the user any more sees it go (RFC 6121 §3.2.2, §3.3.3), one who
// may sees it come, and so do the clients with the contact.
func (h *hub) showChange(ctx context.Context, c missedChange) {
	contact, err := xmpp.ParseJID(c.Contact)
	if err != nil || !h.node.isLocal(c.Contact) {
		return
	}
	lost, won := c.told&^c.Subscription, c.Subscription&^c.told
	if lost&store.SubscriptionFrom != 0 {
		h.withdraw(c.Contact)
		h.node.withdrawAbsent(ctx, party{h.user, h.owner}, c.Contact)
	}
	blocks := h.blocklist()
	blocked := blocks.matchesUser(c.Contact)
	for _, s := range h.sessionsThat(isAvailable) {
		if won&store.SubscriptionFrom != 0 && !blocked {
			h.node.showUser(c.Contact, h.presenceOf(s), blocks)
		}
		if lost&store.SubscriptionTo != 0 {
			s.send(xmpp.Presence, addressed(unavailablePresence(contact), s.jid.String()))
		}
		if won&store.SubscriptionTo != 0 && !blocked {
			h.node.probe(s.jid, c.Contact)
		}
	}
}

// presenceOf returns what a session has said last; one that has left is unavailable.
func (h *hub) presenceOf(s *session) []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.presence == nil {
		return unavailablePresence(s.jid)
	}
	return s.presence
}
