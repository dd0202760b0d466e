package backend

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"imlb/backend/bus"
	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// The types of presence (RFC 6121 §4.7.1); "" is available.
const (
	presenceUnavailable  = "unavailable"
	presenceSubscribe    = "subscribe"
	presenceSubscribed   = "subscribed"
	presenceUnsubscribe  = "unsubscribe"
	presenceUnsubscribed = "unsubscribed"
	presenceProbe        = "probe"
)

// presenceStanza handles presence by its type and whether it is addressed.
func (s *session) presenceStanza(ctx context.Context, raw []byte, header xmpp.Header) error {
	switch header.Type {
	case presenceSubscribe, presenceSubscribed, presenceUnsubscribe, presenceUnsubscribed:
		return s.subscription(ctx, raw, header)
	case "", presenceUnavailable, presenceProbe, typeError:
	default:
		return s.bounce(raw, header, xmpp.BadRequest)
	}
	switch {
	case header.To != "":
		return s.directedPresence(ctx, raw, header)
	case header.Type == "":
		return s.goAvailable(ctx, raw, header)
	case header.Type == presenceUnavailable:
		s.goUnavailable(s.stamp(raw, header))
	}
	return nil // a probe or an error for nobody
}

// goAvailable handles initial presence (RFC 6121 §4.2) and its updates (§4.4).
func (s *session) goAvailable(ctx context.Context, raw []byte, header xmpp.Header) error {
	received := time.Now()
	priority, err := readPriority(raw)
	if err != nil {
		return s.bounce(raw, header, xmpp.BadRequest)
	}
	if err := s.hub.loadRoster(ctx); err != nil {
		return s.bounceFailed(ctx, raw, header, err)
	}
	presence := s.stamp(raw, header)
	first := s.hub.show(s, presence, priority, received)
	s.node.broadcast(s.hub.user, s.hub.contacts(store.SubscriptionFrom), presence)
	if first {
		s.probeContacts()
	}
	if first {
		return s.showRequests(ctx)
	}
	return nil
}

// readPriority reads the priority of a presence stanza (RFC 6121 §4.7.2.3).
func readPriority(raw []byte) (int, error) {
	e, err := xmpp.ParseElement(raw)
	if err != nil {
		return 0, err
	}
	for child := range e.Children() {
		if child.Local() == "priority" && (child.Space() == "" || child.Space() == xmpp.NSClient) {
			priority, err := strconv.ParseInt(strings.TrimSpace(child.Text()), 10, 8)
			if err != nil {
				return 0, fmt.Errorf("priority: %w", err)
			}
			return int(priority), nil
		}
	}
	return 0, nil
}

// show sets a session's presence, and tells its cursor in the same moment, so that
// stored and other messages stay in order; first reports that it was unavailable
// before.
func (h *hub) show(s *session, presence []byte, priority int, at time.Time) (first bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	first = s.presence == nil
	s.presence, s.priority = presence, priority
	if priority >= 0 {
		s.out.push(item{kind: itemAvailable, at: at})
	} else {
		s.out.push(item{kind: itemUnavailable, on: true})
	}
	return first
}

// hide makes a session unavailable; was reports that it was not.
func (h *hub) hide(s *session) (was bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	was = s.presence != nil
	s.presence = nil
	s.out.push(item{kind: itemUnavailable})
	return was
}

// goUnavailable handles unavailable presence (RFC 6121 §4.5). presence is addressed
// from the session.
func (s *session) goUnavailable(presence []byte) {
	h := s.hub
	var told []string
	if h.hide(s) {
		told = h.contacts(store.SubscriptionFrom)
		s.node.broadcast(h.user, told, presence)
	}
	s.withdrawDirected(presence, told)
}

// withdrawDirected tells those who were shown directed presence (RFC 6121 §4.6.3),
// unless they were told already; told is sorted.
func (s *session) withdrawDirected(presence []byte, told []string) {
	for to := range s.directed {
		if _, ok := slices.BinarySearch(told, to.Bare().String()); !ok {
			s.node.sendTo(to, presence)
		}
	}
	s.directed = nil
}

// sayGoodbye shows a session that has ended as unavailable. After a conflict whoever
// replaced it has done so.
func (s *session) sayGoodbye(_ context.Context) {
	if s.reason == ReasonConflict {
		return
	}
	s.goUnavailable(unavailablePresence(s.jid))
}

// directedPresence sends presence to one address (RFC 6121 §4.6), or asks for its
// presence.
func (s *session) directedPresence(_ context.Context, raw []byte, header xmpp.Header) error {
	to, err := xmpp.ParseJID(header.To)
	switch {
	case err != nil:
		return s.bounce(raw, header, xmpp.JIDMalformed)
	case to.Domain() != s.node.opts.Domain:
		return s.bounce(raw, header, xmpp.RemoteServerNotFound)
	case to.Local() == "":
		return nil // the server has no use for it
	}
	switch header.Type {
	case "":
		if len(s.directed) >= s.node.opts.Limits.Directed {
			return s.bounce(raw, header, xmpp.ResourceConstraint)
		}
		if s.directed == nil {
			s.directed = make(map[xmpp.JID]struct{})
		}
		s.directed[to] = struct{}{}
	case presenceUnavailable:
		delete(s.directed, to)
	}
	s.node.sendTo(to, s.stamp(raw, header))
	return nil
}

// probeContacts asks for the presence of those whom the user may see, and of its
// own other resources (RFC 6121 §4.3).
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

// answerProbe shows the sessions to one who may see them.
func (h *hub) answerProbe(probe xmpp.Header) {
	from, err := xmpp.ParseJID(probe.From)
	if err != nil {
		return
	}
	for _, presence := range h.visibleTo(from) {
		h.node.sendTo(from, presence)
	}
}

// visibleTo returns the presence of the sessions that an address may see: a
// subscriber all, a user itself all others of its own.
func (h *hub) visibleTo(from xmpp.JID) [][]byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	own := from.Bare() == h.user
	if !own && h.roster[from.Bare().String()].subscription&store.SubscriptionFrom == 0 {
		return nil
	}
	var seen [][]byte
	for _, s := range h.sessions {
		if s.presence != nil && s.jid != from {
			seen = append(seen, s.presence)
		}
	}
	return seen
}

// broadcast sends presence to contacts and to the user's own resources (RFC 6121
// §4.2.2).
func (n *Node) broadcast(user xmpp.JID, contacts []string, presence []byte) {
	for _, contact := range append(slices.Clip(contacts), user.String()) {
		n.publish(bus.Signal{Kind: bus.Stanza, User: contact, Data: addressed(presence, contact)})
	}
}

// sendTo sends a stanza that is not stored to a local address.
func (n *Node) sendTo(to xmpp.JID, stanza []byte) {
	n.publish(bus.Signal{
		Kind: bus.Stanza, User: to.Bare().String(), Target: to.Resource(), Data: addressed(stanza, to.String()),
	})
}

// addressed returns a stanza addressed to to.
func addressed(stanza []byte, to string) []byte {
	return xmpp.AppendWithAttrs(make([]byte, 0, len(stanza)+64), stanza, xmpp.Attr{Name: "to", Value: to})
}

// unavailablePresence is what contacts are sent on behalf of a session.
func unavailablePresence(from xmpp.JID) []byte {
	p := append([]byte(nil), "<presence type='unavailable' from='"...)
	p = xmpp.AppendEscaped(p, from.String())
	return append(p, "'/>"...)
}

// contacts returns those of the hub's roster that have a subscription, sorted.
// Contacts of other domains cannot be reached.
func (h *hub) contacts(with store.Subscription) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []string
	for _, contact := range slices.Sorted(maps.Keys(h.roster)) {
		if h.roster[contact].subscription&with != 0 && h.node.isLocal(contact) {
			all = append(all, contact)
		}
	}
	return all
}

// subscribers returns the contacts that may see the owner of a roster.
func (n *Node) subscribers(items []store.RosterItem) []string {
	var all []string
	for _, it := range items {
		if it.Subscription&store.SubscriptionFrom != 0 && n.isLocal(it.Contact) {
			all = append(all, it.Contact)
		}
	}
	return all
}

// isLocal tells whether a canonical bare JID may be an account here.
func (n *Node) isLocal(user string) bool {
	return strings.HasSuffix(user, "@"+n.opts.Domain)
}
