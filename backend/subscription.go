package backend

import (
	"context"
	"errors"
	"fmt"

	"imlb/backend/bus"
	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// Presence subscriptions (RFC 6121 §3). Both users' rosters are in the same store,
// so the sender's node changes both, the sender's first. Between the two changes
// nothing is lost that a repetition of the stanza does not mend.

// outbound changes the sender's item for a subscription stanza (RFC 6121 appendix
// A.2); route tells whether the contact has to know.
func outbound(kind string, it *store.RosterItem) (changed, route bool) {
	before := itemState(it)
	switch kind {
	case presenceSubscribe:
		route = true
		it.InRoster = true
		it.Ask = it.Subscription&store.SubscriptionTo == 0
	case presenceUnsubscribe:
		route = true
		it.Ask = false
		it.Subscription &^= store.SubscriptionTo
	case presenceSubscribed:
		if len(it.PendingIn) == 0 {
			if it.Subscription&store.SubscriptionFrom == 0 { // pre-approval (§3.4)
				it.Approved, it.InRoster = true, true
			}
			break
		}
		route = true
		it.PendingIn, it.InRoster = nil, true
		it.Subscription |= store.SubscriptionFrom
	case presenceUnsubscribed:
		route = len(it.PendingIn) > 0 || it.Subscription&store.SubscriptionFrom != 0
		it.PendingIn, it.Approved = nil, false
		it.Subscription &^= store.SubscriptionFrom
	}
	return before != itemState(it), route
}

// inbound changes the recipient's item for a subscription stanza (RFC 6121 appendix
// A.3). deliver tells whether clients have to know, answer is the type of the stanza
// with which the server answers for the user, if it does.
func inboundSubscription(kind string, stanza []byte, it *store.RosterItem) (changed, deliver bool, answer string) {
	before := itemState(it)
	switch kind {
	case presenceSubscribe:
		switch {
		case it.Subscription&store.SubscriptionFrom != 0:
			answer = presenceSubscribed // §3.1.3, first case
		case it.Approved:
			answer = presenceSubscribed
			it.InRoster = true
			it.PendingIn = nil
			it.Subscription |= store.SubscriptionFrom
		default:
			deliver = len(it.PendingIn) == 0
			it.PendingIn = stanza
		}
	case presenceUnsubscribe:
		deliver = len(it.PendingIn) > 0 || it.Subscription&store.SubscriptionFrom != 0
		it.PendingIn = nil
		it.Subscription &^= store.SubscriptionFrom
	case presenceSubscribed:
		if deliver = it.Ask; deliver {
			it.Ask, it.InRoster = false, true
			it.Subscription |= store.SubscriptionTo
		}
	case presenceUnsubscribed:
		deliver = it.Ask || it.Subscription&store.SubscriptionTo != 0
		it.Ask = false
		it.Subscription &^= store.SubscriptionTo
	}
	return before != itemState(it), deliver, answer
}

// state is what subscription stanzas change of an item.
type state struct {
	subscription                     store.Subscription
	ask, approved, inRoster, pending bool
}

func itemState(it *store.RosterItem) state {
	return state{it.Subscription, it.Ask, it.Approved, it.InRoster, len(it.PendingIn) > 0}
}

// subscription handles a subscription stanza of the client.
func (s *session) subscription(ctx context.Context, raw []byte, header xmpp.Header) error {
	to, err := xmpp.ParseJID(header.To)
	contact := to.Bare()
	switch {
	case err != nil:
		return s.bounce(raw, header, xmpp.JIDMalformed)
	case contact == s.hub.user:
		return nil // a user sees itself anyway
	case to.Domain() != s.node.opts.Domain:
		return s.bounce(raw, header, xmpp.RemoteServerNotFound)
	case to.Local() == "":
		return s.bounce(raw, header, xmpp.ServiceUnavailable) // the server has no presence
	}
	// §3.1.2: from and to are bare.
	stanza := addressed(s.stampFrom(raw, header, s.hub.user), contact.String())
	err = s.subscribeContact(ctx, header.Type, stanza, contact)
	if e, ok := asStanzaError(err); ok {
		return s.bounceError(raw, header, e)
	}
	if err != nil {
		return s.bounceFailed(ctx, raw, header, err)
	}
	return nil
}

// requestBytes bounds a request for a subscription: it is kept as it is until it is
// answered (§3.1.3).
const requestBytes = 10_000

// checkRequest refuses what would make a roster too long, the user's own or the
// contact's.
func (s *session) checkRequest(ctx context.Context, kind string, stanza []byte, contact xmpp.JID) error {
	switch {
	case kind != presenceSubscribe && kind != presenceSubscribed:
		return nil // it makes no item
	case len(stanza) > requestBytes:
		return xmpp.NewStanzaError(xmpp.PolicyViolation, "the request is too long")
	default:
		return s.checkRosterSize(ctx, store.RosterItem{Contact: contact.String()})
	}
}

// subscribeContact changes both sides and tells everybody.
func (s *session) subscribeContact(ctx context.Context, kind string, stanza []byte, contact xmpp.JID) error {
	if err := s.checkRequest(ctx, kind, stanza, contact); err != nil {
		return err
	}
	own := party{s.hub.user, s.account.Owner}
	var route bool
	err := s.node.changeRoster(ctx, own, contact.String(), func(it *store.RosterItem) bool {
		var changed bool
		changed, route = outbound(kind, it)
		return changed
	})
	if err != nil || !route {
		return err
	}
	return s.tellContact(ctx, kind, stanza, contact)
}

// tellContact hands a subscription stanza to the contact's side.
func (s *session) tellContact(ctx context.Context, kind string, stanza []byte, contact xmpp.JID) error {
	if !s.node.isLocal(contact.String()) {
		return nil // an item of another domain, from other days
	}
	query, cancel := s.node.storeContext(ctx)
	defer cancel()
	account, ok, err := s.node.accounts.lookup(query, contact.String())
	if err != nil {
		return err
	}
	own := party{s.hub.user, s.account.Owner}
	if ok && kind == presenceSubscribe {
		if heard, err := s.hears(query, account); !heard || err != nil {
			return err
		}
	}
	switch {
	case ok:
		return s.node.receiveSubscription(ctx, kind, stanza, own.user, party{contact, account.Owner})
	case kind == presenceSubscribe: // §3.1.3: nobody will ever answer, so the server does
		no := subscriptionStanza(presenceUnsubscribed, contact, own.user)
		return s.node.receiveSubscription(ctx, presenceUnsubscribed, no, contact, own)
	default:
		return nil
	}
}

// hears tells whether a request is kept for the owner of an account. One who has blocked
// the user does not hear of it (XEP-0191 §3.3), and one who has left very many
// unanswered does not either.
func (s *session) hears(ctx context.Context, account store.Account) (bool, error) {
	if blocked, err := s.blockedBy(ctx, account); blocked || err != nil {
		return false, err
	}
	items, _, err := s.node.store.Roster(ctx, account.Owner)
	if err != nil {
		return false, fmt.Errorf("read the roster of %s: %w", account.User, err)
	}
	waiting := 0
	for _, it := range items {
		if it.Contact == s.account.User {
			return true, nil
		}
		if !inList(it) {
			waiting++
		}
	}
	return waiting < s.node.opts.Limits.RosterItems, nil
}

// party is one side of a subscription.
type party struct {
	user  xmpp.JID
	owner store.OwnerID
}

// receiveSubscription is what the server of the recipient does with a subscription
// stanza (§3.1.3, §3.1.6, §3.2.3, §3.3.3).
func (n *Node) receiveSubscription(ctx context.Context, kind string, stanza []byte, from xmpp.JID, to party) error {
	var before store.Subscription
	var deliver bool
	var answer string
	change := func(it *store.RosterItem) (changed bool) {
		before = it.Subscription
		changed, deliver, answer = inboundSubscription(kind, stanza, it)
		return changed
	}
	pushed, err := n.updateRoster(ctx, to, from.String(), change)
	if err != nil {
		return err
	}
	if deliver { // before the push (§3.1.6)
		n.publish(bus.Signal{Kind: bus.Stanza, User: to.user.String(), Data: stanza})
	}
	if pushed != nil {
		n.publishControl(to.user.String(), control{Roster: pushed})
	}
	switch {
	case answer != "":
		return n.answerSubscription(ctx, answer, to.user, from)
	case kind == presenceSubscribed && deliver: // §3.1.6: now they may see each other
		n.probe(to.user, from.String())
	// Who could not see the presence does not see it go either.
	case kind == presenceUnsubscribed && before&store.SubscriptionTo != 0: // §3.2.2
		n.publishControl(from.String(), control{Withdraw: to.user.String()})
		n.withdrawAbsentOf(ctx, from, to.user.String())
	case kind == presenceUnsubscribe && before&store.SubscriptionFrom != 0: // §3.3.3
		n.publishControl(to.user.String(), control{Withdraw: from.String()})
		n.withdrawAbsent(ctx, to, from.String())
	}
	return nil
}

// answerSubscription answers a request for a user who has agreed to it before.
func (n *Node) answerSubscription(ctx context.Context, kind string, user, subscriber xmpp.JID) error {
	query, cancel := n.storeContext(ctx)
	defer cancel()
	account, ok, err := n.accounts.lookup(query, subscriber.String())
	if err != nil || !ok {
		return err
	}
	return n.receiveSubscription(ctx, kind, subscriptionStanza(kind, user, subscriber), user, party{subscriber, account.Owner})
}

func subscriptionStanza(kind string, from, to xmpp.JID) []byte {
	stanza := append([]byte(nil), "<presence type='"+kind+"' from='"...)
	stanza = xmpp.AppendEscaped(stanza, from.String())
	stanza = append(stanza, "'/>"...)
	return addressed(stanza, to.String())
}

// changeRoster changes an item and pushes it.
func (n *Node) changeRoster(ctx context.Context, p party, contact string, change func(*store.RosterItem) bool) error {
	pushed, err := n.updateRoster(ctx, p, contact, change)
	if err == nil && pushed != nil {
		n.publishControl(p.user.String(), control{Roster: pushed})
	}
	return err
}

// updateRoster changes an item. It returns what has to be pushed, nil if nothing has
// changed. A hub on this node knows at once.
func (n *Node) updateRoster(ctx context.Context, p party, contact string, change func(*store.RosterItem) bool) (*rosterChange, error) {
	query, cancel := n.storeContext(ctx)
	defer cancel()
	var changed bool
	var before string
	it, version, err := n.store.UpdateRoster(query, p.owner, contact, func(it *store.RosterItem) bool {
		before = visibleItem(*it)
		changed = change(it)
		return changed
	})
	if errors.Is(err, store.ErrOutcomeUnknown) {
		n.publishControl(p.user.String(), control{Look: true})
	}
	if err != nil {
		return nil, fmt.Errorf("change the roster of %s: %w", p.user, err)
	}
	if !changed {
		return nil, nil
	}
	c := &rosterChange{Contact: contact, Subscription: it.Subscription, Version: version}
	switch after := visibleItem(it); after {
	case before: // a request that waits is not part of the roster (§3.1.3)
	case "":
		c.Removed, c.Push = true, string(appendRemovedItem(nil, contact))
	default:
		c.Push = after
	}
	if h := n.hub(p.user.String()); h != nil {
		h.learn(contact, it.Subscription, version)
	}
	return c, nil
}

// visibleItem is an item as clients see it, empty if they do not.
func visibleItem(it store.RosterItem) string {
	if !it.InRoster {
		return ""
	}
	return string(appendRosterItem(nil, it))
}

// showRequests shows the client the subscription requests that the user has not
// answered (§3.1.3).
func (s *session) showRequests(ctx context.Context) error {
	query, cancel := s.node.storeContext(ctx)
	defer cancel()
	items, version, err := s.node.store.Roster(query, s.account.Owner)
	if err != nil {
		return storeFailed(fmt.Errorf("read the roster of %s: %w", s.account.User, err))
	}
	blocks := s.hub.blocklist()
	for _, it := range items {
		if len(it.PendingIn) > 0 && !blocks.matchesUser(it.Contact) {
			s.out.room(s.done) // they may be more than an outbox takes
			s.send(xmpp.Presence, it.PendingIn)
		}
	}
	if !s.interested { // else pushes may be on their way; only the reading goroutine changes that
		s.hasHeard(version)
	}
	return nil
}
