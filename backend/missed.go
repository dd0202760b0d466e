package backend

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// missed are the hubs that may have missed signals. What a timeline has is made up for by
// the cursors. Rosters and blocklists have versions, which are compared with the store's, of
// many hubs at a time; they go first, since they say who may see what. Then each hub asks for
// the presence of its contacts.
type missed struct {
	hint chan struct{} // there are some

	mu       sync.Mutex
	versions map[*hub]struct{} // have to be compared
	presence map[*hub]struct{} // has to be asked for
}

// comparedAtATime bounds the hubs whose versions are compared with one query.
const comparedAtATime = 100

// askPause is between the hubs that ask for presence: when a bus comes back, all of
// them have to.
const askPause = 2 * time.Millisecond

// makeUpPause is how long the node waits when the store does not answer.
const makeUpPause = time.Second

// leftBefore is how long before a session came here a contact may have left of whom it has
// not heard: one that was resumed was elsewhere, and clocks differ.
const leftBefore = time.Hour

func newMissed() *missed {
	return &missed{
		hint: make(chan struct{}, 1), versions: make(map[*hub]struct{}), presence: make(map[*hub]struct{}),
	}
}

// all notes that a hub may have missed anything.
func (m *missed) all(h *hub) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.versions[h], m.presence[h] = struct{}{}, struct{}{}
	poke(m.hint)
}

// compare notes that the versions of hubs have to be compared.
func (m *missed) compare(hubs []*hub) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, h := range hubs {
		m.versions[h] = struct{}{}
	}
	poke(m.hint)
}

// ask notes that a hub has to ask for presence.
func (m *missed) ask(h *hub) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.presence[h] = struct{}{}
	poke(m.hint)
}

// toCompare takes some hubs whose versions have to be compared.
func (m *missed) toCompare() []*hub {
	m.mu.Lock()
	defer m.mu.Unlock()
	return takeSome(m.versions, comparedAtATime)
}

// toAsk takes a hub that has to ask for presence, nil if there is none.
func (m *missed) toAsk() *hub {
	m.mu.Lock()
	defer m.mu.Unlock()
	if some := takeSome(m.presence, 1); len(some) > 0 {
		return some[0]
	}
	return nil
}

func takeSome(set map[*hub]struct{}, most int) []*hub {
	var some []*hub
	for h := range set {
		if len(some) == most {
			break
		}
		some = append(some, h)
		delete(set, h)
	}
	return some
}

// compareAll has the versions of all hubs compared.
func (n *Node) compareAll() {
	n.mu.RLock()
	hubs := slices.Collect(maps.Values(n.hubs))
	n.mu.RUnlock()
	n.missed.compare(hubs)
}

// makeUp makes up for what hubs have missed, until ctx ends.
func (n *Node) makeUp(ctx context.Context) {
	failing := false
	for {
		select {
		case <-n.missed.hint:
		case <-ctx.Done():
			return
		}
		err := n.makeUpAll(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil && !failing {
			n.opts.Logger.WarnContext(ctx, "make up for lost signals; this is tried again", slog.Any("error", err))
		}
		if failing = err != nil; failing && !pause(ctx, makeUpPause) {
			return
		}
	}
}

// makeUpAll does all that there is. After an error the rest is left for the next time.
func (n *Node) makeUpAll(ctx context.Context) error {
	for ctx.Err() == nil {
		if hubs := n.missed.toCompare(); len(hubs) > 0 {
			if err := n.compareVersions(ctx, hubs); err != nil {
				n.missed.compare(hubs)
				return err
			}
			continue
		}
		h := n.missed.toAsk()
		if h == nil {
			return nil
		}
		if err := h.askAround(ctx); err != nil {
			n.missed.ask(h)
			return err
		}
		pause(ctx, askPause)
	}
	return nil
}

// compareVersions has those of some hubs read what is not as they know it. It goes on
// after an error: one user's must not keep the others from it.
func (n *Node) compareVersions(ctx context.Context, hubs []*hub) error {
	owners := make([]store.OwnerID, len(hubs))
	for i, h := range hubs {
		owners[i] = h.owner
	}
	query, cancel := n.storeContext(ctx)
	defer cancel()
	stored, err := n.store.Versions(query, owners)
	if err != nil {
		return err
	}
	var failed error
	for _, h := range hubs {
		if now, ok := stored[h.owner]; ok { // deleted accounts lose their sessions anyway
			failed = errors.Join(failed, h.compare(ctx, now))
		}
	}
	return failed
}

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
		}
	}
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
		h.showChange(c) // first: somebody may see what is not meant for it
		h.showRequest(c)
		h.push(c.rosterChange)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.rosterTold = max(h.rosterTold, version)
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
func (h *hub) showChange(c missedChange) {
	contact, err := xmpp.ParseJID(c.Contact)
	if err != nil || !h.node.isLocal(c.Contact) {
		return
	}
	lost, won := c.told&^c.Subscription, c.Subscription&^c.told
	if lost&store.SubscriptionFrom != 0 {
		h.withdraw(c.Contact)
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
