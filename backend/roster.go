package backend

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// nameMax bounds names of contacts and groups, in bytes (RFC 6121 §2.3.3 leaves it to
// the server).
const nameMax = 1023

// groupsMax bounds the groups of a contact.
const groupsMax = 50

// learn takes a change of an item that nobody has been told of yet, unless a later one is
// known.
func (h *hub) learn(contact string, subscription store.Subscription, version uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if known := h.roster[contact]; version >= known.version {
		known.subscription, known.version = subscription, version
		h.setContact(contact, known)
	}
}

// setContact is for use under hub.mu.
func (h *hub) setContact(contact string, now rosterState) {
	if h.roster == nil {
		h.roster = make(map[string]rosterState)
	}
	h.roster[contact] = now
}

// loadRoster reads the subscriptions, if that was not done before. Changes that are
// signalled in the meantime are newer.
func (h *hub) loadRoster(ctx context.Context) error {
	h.mu.Lock()
	loaded := h.loaded
	h.mu.Unlock()
	if loaded {
		return nil
	}
	query, cancel := h.node.storeContext(ctx)
	defer cancel()
	items, version, err := h.node.store.Roster(query, h.owner)
	if err != nil {
		return fmt.Errorf("read the roster of %s: %w", h.user, err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.loaded { // somebody else was faster
		return nil
	}
	// Of what is older than that nothing counts: the end of it may not have been heard of.
	maps.DeleteFunc(h.roster, func(_ string, known rosterState) bool { return known.version <= version })
	for _, it := range items {
		if _, newer := h.roster[it.Contact]; !newer {
			h.setContact(it.Contact, rosterState{it.Subscription, it.Subscription, it.InRoster, it.Version})
		}
	}
	h.loaded, h.rosterTold, h.rosterSeen = true, version, max(h.rosterSeen, version)
	return nil
}

// knows tells whether a user has a subscription, one way or the other, as far as the hub
// knows.
func (h *hub) knows(contact string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.roster[contact].subscription != 0
}

// pushRoster tells the sessions that have asked for the roster of a change (RFC 6121
// §2.1.6), unless they have heard of it, or of a later one: then its signal comes late.
func (h *hub) pushRoster(c rosterChange) {
	upTo, news := h.tell(c)
	if news {
		h.noteTold(c)
		h.push(c, upTo)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.markTold()
}

// tell notes that a change is told. It returns the version up to which clients know all then, and
// whether they do not know of the change. Signals of changes that are made at the same time come in
// any order.
func (h *hub) tell(c rosterChange) (upTo uint64, news bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.loaded { // what was told is not known
		return c.Version, true
	}
	news = c.Version > h.rosterTold
	for version, contact := range h.rosterAhead {
		news = news && (contact != c.Contact || version < c.Version)
	}
	if c.Version > h.rosterTold+1 {
		if h.rosterAhead == nil {
			h.rosterAhead = make(map[uint64]string)
		}
		h.rosterAhead[c.Version] = c.Contact
	} else {
		h.toldUpTo(c.Version)
	}
	return h.rosterTold, news
}

// toldUpTo notes that all changes up to a version are told; under hub.mu.
func (h *hub) toldUpTo(version uint64) {
	h.rosterTold = max(h.rosterTold, version)
	for version := range h.rosterAhead {
		if version <= h.rosterTold {
			delete(h.rosterAhead, version)
		}
	}
	for _, ahead := h.rosterAhead[h.rosterTold+1]; ahead; _, ahead = h.rosterAhead[h.rosterTold+1] {
		h.rosterTold++
		delete(h.rosterAhead, h.rosterTold)
	}
}

// noteTold notes that everybody is told of a change.
func (h *hub) noteTold(c rosterChange) {
	h.mu.Lock()
	defer h.mu.Unlock()
	known := h.roster[c.Contact]
	if jid, err := xmpp.ParseJID(c.Contact); err == nil && known.told&^c.Subscription&store.SubscriptionFrom != 0 {
		h.noteHidden(jid)
	}
	if c.Subscription&^known.told&store.SubscriptionTo != 0 {
		h.lookedNow()
	}
	known.told = c.Subscription
	h.rosterSeen = max(h.rosterSeen, c.Version)
	if c.Push != "" {
		known.listed = !c.Removed
	}
	if c.Version >= known.version {
		known.subscription, known.version = c.Subscription, c.Version
	}
	h.setContact(c.Contact, known)
}

// push sends roster pushes, if clients see the change. upTo is the version of which they have all then.
func (h *hub) push(c rosterChange, upTo uint64) {
	if c.Push == "" {
		return
	}
	for _, s := range h.interestedSessions() {
		s.send(xmpp.IQ, s.rosterPush(c.Push, upTo))
	}
}

func (s *session) rosterPush(item string, version uint64) []byte {
	push := iqHead(iqSet, randomID(), "", s.jid.String())
	push = append(push, "<query xmlns='"+xmpp.NSRoster+"' ver='"+rosterVersion(s.account.Owner, version)+"'>"...)
	return append(append(push, item...), "</query></iq>"...)
}

func (h *hub) interestedSessions() []*session {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []*session
	for _, s := range h.sessions {
		if s.interested {
			all = append(all, s)
		}
	}
	return all
}

// getRoster answers a roster get (RFC 6121 §2.1.3). A client that has this version
// already gets an empty result (§2.6).
func (s *session) getRoster(ctx context.Context, q request) error {
	if err := s.hub.loadRoster(ctx); err != nil { // from here on no change is missed
		return err
	}
	s.becomeInterested()
	query, cancel := s.node.storeContext(ctx)
	defer cancel()
	items, version, err := s.node.store.Roster(query, s.account.Owner)
	if err != nil {
		return fmt.Errorf("read the roster of %s: %w", s.account.User, err)
	}
	current := rosterVersion(s.account.Owner, version)
	defer s.hasHeard(version)
	if known, ok := q.payload.Attr("ver"); ok && known == current {
		q.reply(nil)
		return nil
	}
	result := []byte("<query xmlns='" + xmpp.NSRoster + "' ver='" + current + "'>")
	for _, it := range items {
		if it.InRoster {
			result = appendRosterItem(result, it)
		}
	}
	q.reply(append(result, "</query>"...))
	return nil
}

// rosterVersion is a version as clients are told it (RFC 6121 §2.6). What they know of an account
// that had the name before is none of this one's, which counts anew.
func rosterVersion(owner store.OwnerID, version uint64) string {
	return strconv.FormatInt(int64(owner), 10) + "." + strconv.FormatUint(version, 10)
}

// setRoster answers a roster set (RFC 6121 §2.3 to §2.5).
func (s *session) setRoster(ctx context.Context, q request) error {
	wanted, err := readRosterItem(q.payload)
	if err != nil {
		return err
	}
	if wanted.contact == s.hub.user {
		return xmpp.NewStanzaError(xmpp.NotAllowed, "this is you")
	}
	if wanted.remove {
		err = s.removeContact(ctx, wanted.contact)
	} else {
		err = s.setContact(ctx, wanted)
	}
	if err == nil {
		q.reply(nil)
	}
	return err
}

func (s *session) setContact(ctx context.Context, wanted rosterSet) error {
	it := store.RosterItem{Contact: wanted.contact.String(), Name: wanted.name, Groups: wanted.groups}
	if err := s.checkRosterSize(ctx, it); err != nil {
		return err
	}
	own := party{s.hub.user, s.account.Owner}
	return s.node.changeRoster(ctx, own, wanted.contact.String(), func(it *store.RosterItem) bool {
		it.Name, it.Groups, it.InRoster = wanted.name, wanted.groups, true
		return true
	})
}

// checkRosterSize refuses a contact too many, or one with which the roster would be too long. What
// others have asked for does not count.
func (s *session) checkRosterSize(ctx context.Context, wanted store.RosterItem) error {
	query, cancel := s.node.storeContext(ctx)
	defer cancel()
	items, _, err := s.node.store.Roster(query, s.account.Owner)
	if err != nil {
		return fmt.Errorf("read the roster of %s: %w", s.account.User, err)
	}
	var written []byte
	size := func(it store.RosterItem) int {
		written = appendRosterItem(written[:0], it)
		return len(written)
	}
	count, length, before := 0, 0, 0
	for _, it := range items {
		switch {
		case !inList(it):
		case it.Contact == wanted.Contact:
			before = size(it)
		default:
			count++
			length += size(it)
		}
	}
	after := size(wanted)
	if before == 0 && count >= s.node.opts.Limits.RosterItems || after > before && length+after > s.node.opts.Limits.rosterBytes() {
		return xmpp.NewStanzaError(xmpp.ResourceConstraint, "the roster is full")
	}
	return nil
}

// inList tells whether an item is the user's doing, and not a request of somebody else.
func inList(it store.RosterItem) bool { return it.InRoster || it.Approved }

// removeContact removes the item and ends the subscriptions in both directions (§2.5).
func (s *session) removeContact(ctx context.Context, contact xmpp.JID) error {
	var was store.RosterItem
	own := party{s.hub.user, s.account.Owner}
	err := s.node.changeRoster(ctx, own, contact.String(), func(it *store.RosterItem) bool {
		was = *it
		*it = store.RosterItem{Contact: it.Contact}
		return was.InRoster
	})
	if err != nil {
		return err
	}
	if !was.InRoster {
		return xmpp.NewStanzaError(xmpp.ItemNotFound, "")
	}
	for _, kind := range subscriptionEnds(was) {
		if err := s.tellContact(ctx, kind, subscriptionStanza(kind, s.hub.user, contact), contact); err != nil {
			return err
		}
	}
	return nil
}

// subscriptionEnds are the stanzas that end what an item stands for.
func subscriptionEnds(was store.RosterItem) []string {
	var kinds []string
	if was.Ask || was.Subscription&store.SubscriptionTo != 0 {
		kinds = append(kinds, presenceUnsubscribe)
	}
	if len(was.PendingIn) > 0 || was.Subscription&store.SubscriptionFrom != 0 {
		kinds = append(kinds, presenceUnsubscribed)
	}
	return kinds
}

// rosterSet is what a client may ask for.
type rosterSet struct {
	contact xmpp.JID
	name    string
	groups  []string
	remove  bool
}

// readRosterItem reads a roster set; the error is a *xmpp.StanzaError (RFC 6121
// §2.3.3).
func readRosterItem(query xmpp.Element) (rosterSet, error) {
	items := slices.Collect(query.Children())
	if len(items) != 1 || items[0].Local() != "item" {
		return rosterSet{}, xmpp.NewStanzaError(xmpp.BadRequest, "give one item")
	}
	address, _ := items[0].Attr("jid")
	jid, err := xmpp.ParseJID(address)
	if err != nil {
		return rosterSet{}, xmpp.NewStanzaError(xmpp.JIDMalformed, "")
	}
	set := rosterSet{contact: jid.Bare()}
	set.name, _ = items[0].Attr("name")
	subscription, _ := items[0].Attr("subscription") // all but remove is the server's to say
	set.remove = subscription == "remove"
	if len(set.name) > nameMax {
		return set, xmpp.NewStanzaError(xmpp.NotAcceptable, "the name is too long")
	}
	set.groups, err = readGroups(items[0])
	return set, err
}

func readGroups(item xmpp.Element) ([]string, error) {
	var groups []string
	for child := range item.Children() {
		if child.Local() != "group" {
			continue
		}
		group := child.Text()
		if group == "" || len(group) > nameMax || len(groups) >= groupsMax {
			return nil, xmpp.NewStanzaError(xmpp.NotAcceptable, "a group has no name, or too long a one, or there are too many")
		}
		groups = append(groups, group)
	}
	slices.Sort(groups)
	if len(slices.Compact(slices.Clone(groups))) != len(groups) {
		return nil, xmpp.NewStanzaError(xmpp.BadRequest, "a group is named twice")
	}
	return groups, nil
}

// appendRosterItem appends an item as clients see it.
func appendRosterItem(dst []byte, it store.RosterItem) []byte {
	dst = appendAttr(append(dst, "<item"...), "jid", it.Contact)
	if it.Name != "" {
		dst = appendAttr(dst, "name", it.Name)
	}
	dst = appendAttr(dst, "subscription", subscriptionText(it.Subscription))
	if it.Ask {
		dst = appendAttr(dst, "ask", "subscribe")
	}
	if it.Approved {
		dst = appendAttr(dst, "approved", "true")
	}
	dst = append(dst, '>')
	for _, group := range it.Groups {
		dst = append(dst, "<group>"...)
		dst = xmpp.AppendEscaped(dst, group)
		dst = append(dst, "</group>"...)
	}
	return append(dst, "</item>"...)
}

func appendRemovedItem(dst []byte, contact string) []byte {
	dst = appendAttr(append(dst, "<item"...), "jid", contact)
	return append(dst, " subscription='remove'/>"...)
}

func appendAttr(dst []byte, name, value string) []byte {
	dst = append(append(append(dst, ' '), name...), "='"...)
	dst = xmpp.AppendEscaped(dst, value)
	return append(dst, '\'')
}

func subscriptionText(s store.Subscription) string {
	switch s {
	case store.SubscriptionTo:
		return "to"
	case store.SubscriptionFrom:
		return "from"
	case store.SubscriptionBoth:
		return "both"
	default:
		return "none"
	}
}

// asStanzaError finds the error that a client is to be told.
func asStanzaError(err error) (*xmpp.StanzaError, bool) {
	var e *xmpp.StanzaError
	ok := errors.As(err, &e)
	return e, ok
}
