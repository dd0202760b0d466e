package backend

import (
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"time"

	"imlb/backend/bus"
	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// blockChange is what nodes tell each other of a change of a blocklist: the user's
// hubs everything, and all nodes whose list has which version.
type blockChange struct {
	Node      string        `json:"node,omitempty"` // where it was made
	Owner     store.OwnerID `json:"owner"`
	Version   uint64        `json:"version"`
	Addresses []string      `json:"addresses,omitempty"` // the list as it is now
	Block     bool          `json:"block,omitempty"`     // added, or else removed
	Items     []string      `json:"items,omitempty"`     // what was asked for; none: all
	Changed   []string      `json:"changed,omitempty"`   // what is on the list now and was not, or the other way round
}

// changeBlocks takes the signal of a change: clients hear of it, and contacts see the user
// come or go (XEP-0191 §3.3, §3.4).
func (h *hub) changeBlocks(c blockChange) {
	if left, ok := h.stillTrue(c); ok {
		h.pushBlocks(left)
	}
	h.toldBlocks(c.Version, c.Version-1)
	if c.Node != h.node.opts.Name { // or else it was done before
		h.node.blocks.changed(c.Owner, c.Version)
		h.applyBlocks(c)
	}
}

// stillTrue returns what later changes, of which the hub knows, have left of a change, and whether that is
// anything: those that are made at the same time are heard of in any order.
func (h *hub) stillTrue(c blockChange) (left blockChange, ok bool) {
	known := h.blocklist()
	if known == nil || known.version <= c.Version {
		return c, true
	}
	if len(c.Items) == 0 { // all that there were, and not what has come since
		c.Items = c.Changed
	}
	undone := func(address string) bool { return known.has(address) != c.Block }
	c.Items = slices.DeleteFunc(slices.Clone(c.Items), undone)
	c.Changed = slices.DeleteFunc(slices.Clone(c.Changed), undone)
	return c, len(c.Items) > 0
}

// applyBlocks makes the sessions on this node come or go for those concerned.
func (h *hub) applyBlocks(c blockChange) {
	h.learnBlocks(newBlocklist(store.Blocklist{Version: c.Version, Addresses: c.Addresses}))
	before := blocklistOf(without(c.Addresses, c.Changed))
	c, _ = h.stillTrue(c)
	changed := blocklistOf(c.Changed)
	if c.Block {
		h.hideFrom(changed, before)
		return
	}
	h.showTo(changed, h.blocklist())
}

// pushBlocks tells the sessions that have asked for the list.
func (h *hub) pushBlocks(c blockChange) {
	name := "unblock"
	if c.Block {
		name = "block"
	}
	for _, s := range h.sessionsThat(func(s *session) bool { return s.blockPushes }) {
		s.send(xmpp.IQ, s.blockPush(name, c.Items))
	}
}

func (s *session) blockPush(name string, items []string) []byte {
	push := iqHead(iqSet, randomID(), "", s.jid.String())
	return append(appendBlockItems(push, name, items), "</iq>"...)
}

func (h *hub) sessionsThat(are func(*session) bool) []*session {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []*session
	for _, s := range h.sessions {
		if are(s) {
			all = append(all, s)
		}
	}
	return all
}

// sight is the presence of a session for somebody.
type sight struct {
	to       xmpp.JID
	from     xmpp.JID
	presence []byte
}

// hideFrom shows the sessions as unavailable to those who could see them and are
// blocked now, and were not before.
func (h *hub) hideFrom(blocked, before *blocklist) {
	for _, see := range slices.Concat(h.seenByContacts(blocked, before), h.takeDirected(blocked)) {
		h.node.show(see.to, unavailablePresence(see.from), before)
		h.mu.Lock()
		h.noteHidden(see.to)
		h.mu.Unlock()
	}
}

// showTo shows the sessions to those who may see them again, and asks for theirs.
func (h *hub) showTo(unblocked, still *blocklist) {
	for _, see := range h.seenByContacts(unblocked, still) {
		h.node.show(see.to, see.presence, still)
	}
	h.mu.Lock()
	h.lookedNow()
	h.mu.Unlock()
	for _, contact := range h.contacts(store.SubscriptionTo) {
		if !unblocked.matchesUser(contact) {
			continue
		}
		for _, from := range h.available() {
			h.node.probe(from, contact)
		}
	}
}

// seenByContacts returns what contacts that may see the user see of it, as far as
// their addresses, or addresses of theirs, are on the first list and not on the other.
func (h *hub) seenByContacts(on, notOn *blocklist) []sight {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []sight
	for _, to := range h.seeing(on, notOn) {
		for _, s := range h.sessions {
			if s.presence != nil {
				all = append(all, sight{to, s.jid, s.presence})
			}
		}
	}
	return all
}

// seeing returns the contacts that may see the user, as far as their addresses, or addresses of theirs, are
// on the first list and not on the other; under hub.mu.
func (h *hub) seeing(on, notOn *blocklist) []xmpp.JID {
	return slices.DeleteFunc(h.concerned(on), func(to xmpp.JID) bool {
		from := h.roster[to.Bare().String()].subscription&store.SubscriptionFrom != 0
		return !from || notOn.matches(to)
	})
}

// concerned returns the contacts that a list matches, and the resources of contacts that
// are on it; under hub.mu.
func (h *hub) concerned(list *blocklist) []xmpp.JID {
	var all []xmpp.JID
	add := func(address string) {
		if jid, err := xmpp.ParseJID(address); err == nil && jid.Domain() == h.node.opts.Domain {
			all = append(all, jid)
		}
	}
	for contact := range h.roster {
		if list.matchesUser(contact) {
			add(contact)
		}
	}
	for address := range list.addresses {
		if _, contact := h.roster[address]; !contact {
			add(address)
		}
	}
	return all
}

// takeDirected returns what those on the list see by directed presence (RFC 6121 §4.6),
// and forgets that they do. Of a user who was shown it, single resources may be on the list.
func (h *hub) takeDirected(blocked *blocklist) []sight {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []sight
	for _, s := range h.sessions {
		for _, to := range blocked.among(s.directed) {
			all = append(all, sight{to: to, from: s.jid})
			delete(s.directed, to)
		}
	}
	return all
}

// hearOfBlocks makes the node hear what is said to all nodes, until ctx ends: signals
// to the domain as if it were a user.
func (n *Node) hearOfBlocks(ctx context.Context) {
	partition := n.opts.Partition(n.opts.Domain)
	for {
		err := n.bus.Host(partition)
		if err == nil {
			break
		}
		n.opts.Logger.WarnContext(ctx, "hear of blocklists", slog.Any("error", err))
		if !pause(ctx, hearPause) {
			return
		}
	}
	n.blocks.hears.Store(true)
	<-ctx.Done()
	n.bus.Unhost(partition)
}

// hearPause is how long the node waits when the bus is not there.
const hearPause = time.Second

// controlNode takes a signal for nobody in particular.
func (n *Node) controlNode(sig bus.Signal) {
	if sig.User != n.opts.Domain || sig.Kind != bus.Control {
		return
	}
	var c control
	if err := json.Unmarshal(sig.Data, &c); err != nil || c.Blocks == nil {
		n.metrics.dropped.WithLabelValues("decode").Inc()
		return
	}
	n.blocks.changed(c.Blocks.Owner, c.Blocks.Version)
}
