package backend

import (
	"context"
	"fmt"
	"log/slog"

	"imlb/backend/xmpp"
)

// Who may not see a user any more sees its sessions go (XEP-0191 §3.3, RFC 6121 §3.2.2, §3.3.3), each on behalf of the node that
// has it. Some are on none: that was killed, or has left them to whoever resumes them, and whoever does
// shows them to nobody who had seen them before. So the node that makes the change does it, for all that it has not itself and that
// were available when they were stored last. Whether their nodes still live it need not know: one that does says the same once more. Of a
// session that cannot be resumed nothing is stored; it may never have been shown to anybody, which is to stay so while its node lives.

// absent is a session that is not on this node.
type absent struct {
	jid      xmpp.JID
	shown    bool                  // to contacts, as far as is known
	directed map[xmpp.JID]struct{} // who was shown directed presence
}

// absentOf returns those of a user's sessions that are not on this node.
func (n *Node) absentOf(ctx context.Context, user party) ([]absent, error) {
	query, cancel := n.storeContext(ctx)
	defer cancel()
	stored, err := n.store.StatesOf(query, user.owner)
	if err != nil {
		return nil, fmt.Errorf("look up the sessions of %s: %w", user.user, err)
	}
	var all []absent
	for _, o := range stored {
		jid, st, err := endOf(o)
		if err != nil || n.has(o.ID) {
			continue
		}
		unknown := o.State == "" && !n.hears(o.Node) // it cannot be resumed
		all = append(all, absent{jid: jid, shown: st.Presence != "" || unknown, directed: st.directed()})
	}
	return all, nil
}

// hears tells whether a node lives, as far as is known here; "" is one whose lease is over.
func (n *Node) hears(node string) bool {
	bus, ok := n.bus.(hearer)
	return node != "" && (!ok || bus.Hears(node))
}

// hideAbsent is hideFrom for sessions that are not on this node, after a change of the blocklist.
func (h *hub) hideAbsent(ctx context.Context, c blockChange) {
	if !c.Block || len(c.Changed) == 0 {
		return
	}
	all, err := h.node.absentOf(ctx, party{h.user, h.owner})
	if err == nil && len(all) > 0 {
		err = h.loadRoster(ctx)
	}
	if err != nil {
		h.node.notHidden(ctx, h.user, err)
		return
	}
	before := blocklistOf(without(c.Addresses, c.Changed))
	c, _ = h.stillTrue(c)
	blocked := blocklistOf(c.Changed)
	h.mu.Lock()
	seeing := h.seeing(blocked, before)
	h.mu.Unlock()
	for _, s := range all {
		tell := blocked.among(s.directed)
		if s.shown {
			tell = append(tell, seeing...)
		}
		for _, to := range tell {
			h.node.show(to, unavailablePresence(s.jid), before)
		}
	}
}

// withdrawAbsent is hub.withdraw for sessions that are not on this node.
func (n *Node) withdrawAbsent(ctx context.Context, user party, contact string) {
	all, err := n.absentOf(ctx, user)
	if len(all) == 0 && err == nil {
		return
	}
	var blocks *blocklist
	if err == nil {
		blocks, err = n.blocksOf(ctx, user.owner)
	}
	if err != nil {
		n.notHidden(ctx, user.user, err)
		return
	}
	if blocks.matchesUser(contact) {
		return // it was shown that already
	}
	for _, s := range all {
		if s.shown {
			n.showUser(contact, unavailablePresence(s.jid), blocks)
		}
	}
}

// withdrawAbsentOf is withdrawAbsent for a user of whom only the address is known.
func (n *Node) withdrawAbsentOf(ctx context.Context, user xmpp.JID, contact string) {
	query, cancel := n.storeContext(ctx)
	defer cancel()
	account, ok, err := n.accounts.lookup(query, user.String())
	switch {
	case err != nil:
		n.notHidden(ctx, user, err)
	case ok:
		n.withdrawAbsent(ctx, party{user, account.Owner}, contact)
	}
}

// notHidden logs that somebody may see sessions that it may not see any more, until they end.
func (n *Node) notHidden(ctx context.Context, user xmpp.JID, err error) {
	n.opts.Logger.WarnContext(ctx, "hide the sessions that no node has", slog.String("user", user.String()), slog.Any("error", err))
}
