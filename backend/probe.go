package backend

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"imlb/backend/bus"
	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// probeContacts asks for the presence of those whom the user may see, and of its
// own other resources (RFC 6121 §4.3). Contacts of whom nothing comes are offline.
func (s *session) probeContacts() { s.probeAll(store.SubscriptionTo, "") }

// probeAll asks contacts that have a subscription, and the user's own other resources. The id is that of the
// probes, if it is not empty.
func (s *session) probeAll(with store.Subscription, id string) {
	for _, contact := range append(s.hub.contacts(with), s.hub.user.String()) {
		s.node.probeFor(s.jid, contact, id)
	}
}

// probe asks for the presence of a user on behalf of from.
func (n *Node) probe(from xmpp.JID, user string) { n.probeFor(from, user, "") }

// probeFor is probe with an id, if it is not empty.
func (n *Node) probeFor(from xmpp.JID, user, id string) {
	n.publish(bus.Signal{Kind: bus.Stanza, User: user, Data: addressed(probeOf(from, id), user)})
}

func probeOf(from xmpp.JID, id string) []byte {
	stanza := appendAttr([]byte("<presence type='probe'"), "from", from.String())
	if id != "" {
		stanza = appendAttr(stanza, "id", id)
	}
	return append(stanza, "/>"...)
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
		s.forwardProbe(raw, header, to, "") // it may have shown itself by directed presence
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
	nodes, err := s.node.nodesOf(ctx, to, account)
	switch {
	case err != nil:
		return err
	case len(nodes) == 0:
		s.send(xmpp.Presence, addressed(unavailablePresence(to), s.jid.String()))
	case len(nodes) == 1:
		s.forwardProbe(raw, header, to, answerAnyway)
	default: // each knows only of its own sessions whether they are available
		s.forwardProbe(raw, header, to, "")
	}
	return nil
}

// answerAnyway is the id of a probe to which the contact's node says that nothing is
// available. Probes that have none are answered with what is.
const answerAnyway = "answer"

// awayFor is the id of the probes of a session that nobody has had for a while: who has asked for its
// presence meanwhile had no answer, and asks once more.
func awayFor(d time.Duration) string { return awayBegins + strconv.FormatInt(d.Milliseconds(), 10) }

const awayBegins = "away "

// awayOf reads such an id.
func awayOf(id string) (d time.Duration, ok bool) {
	text, ok := strings.CutPrefix(id, awayBegins)
	if !ok {
		return 0, false
	}
	ms, err := strconv.ParseInt(text, 10, 64)
	return time.Duration(ms) * time.Millisecond, err == nil
}

// everAway is longer than anybody is there.
const everAway = 100 * 365 * 24 * time.Hour

// probeTime is how long a probe may be on its way. Who has asked so long before the session was lost may have had
// its answer, and gets it once more.
const probeTime = time.Second

// askBack asks for the presence of a session that was away, for those who have asked for it meanwhile.
func (h *hub) askBack(from xmpp.JID, away time.Duration) {
	if from.Bare() != h.user && !h.sees(from.Bare().String()) {
		return
	}
	since := time.Now().Add(-away - probeTime)
	asked := h.sessionsThat(func(s *session) bool { return s.presence != nil && s.jid != from && s.looked.After(since) })
	for _, s := range asked {
		h.node.sendTo(from, probeOf(s.jid, ""))
	}
}

// lookedNow notes that the presence of somebody whom the user has not seen before is asked for. Sessions of theirs that are
// away do not answer, and are asked when they are back; under hub.mu.
func (h *hub) lookedNow() {
	for _, s := range h.sessions {
		s.looked = time.Now()
	}
}

func (s *session) forwardProbe(raw []byte, header xmpp.Header, to xmpp.JID, id string) {
	s.node.sendTo(to, xmpp.AppendWithAttrs(nil, s.stamp(raw, header), xmpp.Attr{Name: "id", Value: id}))
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

// nodesOf returns the nodes to which a resource is connected, or any if the address is bare.
func (n *Node) nodesOf(ctx context.Context, to xmpp.JID, account store.Account) (map[string]struct{}, error) {
	query, cancel := n.storeContext(ctx)
	defer cancel()
	sessions, err := n.store.SessionsOf(query, account.Owner)
	if err != nil {
		return nil, fmt.Errorf("look up the sessions of %s: %w", account.User, err)
	}
	nodes := make(map[string]struct{})
	for _, other := range sessions {
		if to.IsBare() || to.Resource() == other.Resource {
			nodes[other.Node] = struct{}{}
		}
	}
	return nodes, nil
}

// answerProbe shows the sessions, or the one of a resource, to one who may see them.
func (h *hub) answerProbe(resource string, probe xmpp.Header) {
	from, err := xmpp.ParseJID(probe.From)
	if err != nil {
		return
	}
	visible, allowed := h.visibleTo(from, resource)
	for _, presence := range visible {
		h.node.show(from, presence, h.blocklist())
	}
	if away, ok := awayOf(probe.ID); ok {
		h.askBack(from, away)
	}
	if to, err := xmpp.ParseJID(probe.To); err == nil && len(visible) == 0 && allowed && probe.ID == answerAnyway {
		h.node.sendTo(from, unavailablePresence(to))
	}
}

// visibleTo returns the presence of the sessions that an address may see: a
// subscriber all, a user itself all others of its own, and one who was sent
// directed presence those that have sent it (RFC 6121 §4.6). allowed tells whether it is
// one of the former.
func (h *hub) visibleTo(from xmpp.JID, resource string) (seen [][]byte, allowed bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	allowed = from.Bare() == h.user || h.roster[from.Bare().String()].subscription&store.SubscriptionFrom != 0
	for _, s := range h.sessions {
		if s.jid == from || resource != "" && s.jid.Resource() != resource {
			continue
		}
		if presence := s.visible(from, allowed); presence != nil {
			seen = append(seen, presence)
		}
	}
	return seen, allowed
}

// visible is what an address sees of a session, nil if nothing; under hub.mu. Who was
// sent directed presence sees that the session is there, and not what is broadcast.
func (s *session) visible(from xmpp.JID, allowed bool) []byte {
	if allowed && s.presence != nil {
		return s.presence
	}
	_, full := s.directed[from]
	_, bare := s.directed[from.Bare()]
	if !full && !bare {
		return nil
	}
	return append(appendAttr([]byte("<presence"), "from", s.jid.String()), "/>"...)
}
