package backend

import (
	"bytes"
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

// isStatus tells whether a stanza says how available a resource is: of several only the last counts.
func isStatus(header xmpp.Header) bool {
	return header.Kind == xmpp.Presence && (header.Type == "" || header.Type == presenceUnavailable)
}

// presenceStanza handles presence by its type and whether it is addressed.
func (s *session) presenceStanza(ctx context.Context, raw []byte, header xmpp.Header) error {
	switch header.Type {
	case presenceSubscribe, presenceSubscribed, presenceUnsubscribe, presenceUnsubscribed:
		return s.subscription(ctx, raw, header)
	case "":
		if namesType(raw) {
			return s.bounce(raw, header, xmpp.BadRequest)
		}
	case presenceUnavailable, presenceProbe, typeError:
	default:
		return s.bounce(raw, header, xmpp.BadRequest)
	}
	switch {
	case header.Addressed:
		return s.directedPresence(ctx, raw, header)
	case header.Type == "":
		return s.goAvailable(ctx, raw, header)
	case header.Type == presenceUnavailable:
		presence := s.stamp(raw, header)
		if s.goUnavailable(presence) { // RFC 6121 §4.5.2: who has sent it gets it, too
			s.send(xmpp.Presence, addressed(presence, s.account.User))
		}
	}
	return nil // a probe or an error for nobody
}

// namesType tells whether a stanza has a type, even an empty one, which is none of those that there are.
func namesType(raw []byte) bool {
	e, err := xmpp.ParseElement(raw)
	_, given := e.Attr("type")
	return err == nil && given
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
	if _, err := s.blocklist(ctx); err != nil {
		return s.bounceFailed(ctx, raw, header, err)
	}
	presence := s.stamp(raw, header)
	before := s.hub.show(s, presence, priority, received)
	s.hub.broadcast(s.hub.contacts(store.SubscriptionFrom), update(before, presence))
	if before == nil {
		s.probeContacts()
		return s.showRequests(ctx)
	}
	return nil
}

// update is what presence is broadcast as: without the capabilities that those who get it
// have heard with what was broadcast before (XEP-0115 §8.4). Whoever has not is shown the
// stored presence, which is whole.
func update(before, presence []byte) []byte {
	known := capsOf(presence)
	if before == nil || len(known) == 0 || !slices.EqualFunc(known, capsOf(before), bytes.Equal) {
		return presence
	}
	return xmpp.AppendWithout(nil, presence, isCaps)
}

func isCaps(e xmpp.Element) bool { return e.Is(xmpp.NSCaps, "c") || e.Is(xmpp.NSCaps2, "c") }

// capsOf returns the capabilities in a presence stanza, each of which can be put into another one.
func capsOf(presence []byte) (all [][]byte) {
	if !bytes.Contains(presence, []byte(":caps")) && !bytes.Contains(presence, []byte("/caps")) {
		return nil
	}
	e, err := xmpp.ParseElement(presence)
	if err != nil {
		return nil
	}
	for child := range e.Children() {
		if isCaps(child) {
			all = append(all, withPrefixesOf(e, child))
		}
	}
	return all
}

// withPrefixesOf returns a child with the declarations of the prefixes that it may have from its parent.
func withPrefixesOf(parent, child xmpp.Element) []byte {
	var from []xmpp.Attr
	for a := range parent.Attrs() {
		prefix, declares := strings.CutPrefix(a.Name, "xmlns:")
		if _, own := child.Attr(a.Name); declares && !own && bytes.Contains(child.Raw(), []byte(prefix+":")) {
			from = append(from, a)
		}
	}
	return xmpp.AppendWithAttrs(nil, child.Raw(), from...)
}

// withCapsOf returns an update with the capabilities that an earlier one had, unless it
// has some itself.
func withCapsOf(earlier, update []byte) []byte {
	known := capsOf(earlier)
	if len(known) == 0 || len(capsOf(update)) > 0 {
		return update
	}
	return xmpp.AppendWithChild(nil, update, slices.Concat(known...))
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
// stored and other messages stay in order. It returns the presence before, nil if the
// session was unavailable.
func (h *hub) show(s *session, presence []byte, priority int, at time.Time) (before []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if before = s.presence; before == nil {
		s.looked = time.Now()
	}
	s.presence, s.priority = withCapsOf(before, presence), priority
	if priority >= 0 {
		s.out.push(item{kind: itemAvailable, at: at})
	} else {
		s.out.push(item{kind: itemUnavailable, on: true})
	}
	return before
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
// from the session; was reports that this was available.
func (s *session) goUnavailable(presence []byte) (was bool) {
	h := s.hub
	var told []string
	if was = h.hide(s); was {
		told = h.contacts(store.SubscriptionFrom)
		h.broadcast(told, presence)
	}
	s.withdrawDirected(presence, told)
	return was
}

// sayGoodbye shows a session that has ended as unavailable, if anybody sees it. After a conflict that was done
// already, or another node has the session.
func (s *session) sayGoodbye(ctx context.Context) {
	if s.reason == ReasonConflict || !s.isShown() || s.succeeded(ctx) {
		return
	}
	s.goUnavailable(unavailablePresence(s.jid))
}

// isShown tells whether the session is available, or has shown somebody that it is there.
func (s *session) isShown() bool {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	return s.presence != nil || len(s.directed) > 0
}

// succeeded tells whether another session has the place of this one, of which this node has not heard: the
// signal was lost, or the node stood still. Whoever gave it that place has told the contacts.
func (s *session) succeeded(ctx context.Context) bool {
	query, cancel := s.node.storeContext(ctx)
	defer cancel()
	others, err := s.node.store.SessionsOf(query, s.account.Owner)
	return err == nil && slices.ContainsFunc(others, func(o store.Session) bool {
		return o.Resource == s.jid.Resource() && (o.ID != s.id || o.Epoch != s.epoch)
	})
}

func (h *hub) broadcast(contacts []string, presence []byte) {
	h.node.broadcast(h.user, contacts, presence, h.blocklist())
}

// broadcast sends presence to contacts and to the user's own resources (RFC 6121
// §4.2.2). blocks is the user's list.
func (n *Node) broadcast(user xmpp.JID, contacts []string, presence []byte, blocks *blocklist) {
	for _, contact := range append(slices.Clip(contacts), user.String()) {
		n.showUser(contact, presence, blocks)
	}
}

// show sends a user's presence to a local address. blocks is the user's list.
func (n *Node) show(to xmpp.JID, presence []byte, blocks *blocklist) {
	if to.IsBare() {
		n.showUser(to.String(), presence, blocks)
		return
	}
	n.sendTo(to, presence)
}

// showUser is show for a canonical bare JID: all resources see it but those that are
// blocked by themselves (XEP-0191 §5).
func (n *Node) showUser(to string, presence []byte, blocks *blocklist) {
	presence = addressed(presence, to)
	if hidden := blocks.resourcesOf(to); len(hidden) > 0 {
		n.publishControl(to, control{Shown: &shown{presence, hidden}})
		return
	}
	n.publish(bus.Signal{Kind: bus.Stanza, User: to, Data: presence})
}

// shown is presence that some of a user's resources do not see.
type shown struct {
	Presence []byte   `json:"presence"`
	Hidden   []string `json:"hidden"` // from these resources
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

// contacts returns those of the hub's roster that have a subscription and are not
// blocked, sorted. Contacts of other domains cannot be reached.
func (h *hub) contacts(with store.Subscription) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []string
	for _, contact := range slices.Sorted(maps.Keys(h.roster)) {
		if h.roster[contact].subscription&with != 0 && h.node.isLocal(contact) && !h.blocks.matchesUser(contact) {
			all = append(all, contact)
		}
	}
	return all
}

// subscribers returns the contacts that may see the owner of a roster and are not
// blocked.
func (n *Node) subscribers(items []store.RosterItem, blocks *blocklist) []string {
	var all []string
	for _, it := range items {
		if it.Subscription&store.SubscriptionFrom != 0 && n.isLocal(it.Contact) && !blocks.matchesUser(it.Contact) {
			all = append(all, it.Contact)
		}
	}
	return all
}

// isLocal tells whether a canonical bare JID may be an account here.
func (n *Node) isLocal(user string) bool {
	return strings.HasSuffix(user, "@"+n.opts.Domain)
}
