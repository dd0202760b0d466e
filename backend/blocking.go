package backend

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// Blocking (XEP-0191). Whoever sends a message or an IQ looks the recipient's list up,
// so that it is refused before it is stored; what a blocked user says by
// presence, or has said before and nobody has received yet, goes the usual way and ends at
// the recipient's hub. What the user sends is held against its own list.

// blockedBytes bounds the addresses of one list together, so that a list fits into a
// stanza and a signal.
const blockedBytes = 64 << 10

// refuseBlocked answers a stanza for somebody whom the user has blocked (XEP-0191 §3.3).
func (s *session) refuseBlocked(ctx context.Context, raw []byte, header xmpp.Header) (refused bool, err error) {
	if header.To == "" || header.To == s.account.User || header.To == s.node.opts.Domain {
		return false, nil
	}
	var list *blocklist
	err = s.patiently(ctx, func() error {
		list, err = s.blocklist(ctx)
		return err
	})
	if err != nil {
		return true, s.lookupFailed(ctx, raw, header, err)
	}
	if !list.blocksAny() || !s.refuses(list, header.To) {
		return false, nil
	}
	s.in.wait(0, s.done)
	return true, s.bounceCopied(raw, header, &xmpp.StanzaError{
		Type: xmpp.ErrorCancel, Condition: xmpp.NotAcceptable, App: "<blocked xmlns='" + xmpp.NSBlocked + "'/>",
	})
}

// refuses tells whether a list keeps the user from sending to an address. It cannot do
// without itself and the server; what is no address is refused elsewhere.
func (s *session) refuses(list *blocklist, address string) bool {
	to, err := xmpp.ParseJID(address)
	return err == nil && to.Bare() != s.hub.user && to != s.node.domain && list.matches(to)
}

// blocklist returns the user's own list, and has the hub know it. While the store does
// not answer, what the hub knows is good enough.
func (s *session) blocklist(ctx context.Context) (*blocklist, error) {
	list, err := s.node.blocksOf(ctx, s.account.Owner)
	if err == nil {
		s.hub.learnBlocks(list)
	} else if known := s.hub.blocklist(); known != nil {
		return known, nil
	}
	return list, err
}

// blockedBy tells whether the owner of an account has blocked the user.
func (s *session) blockedBy(ctx context.Context, account store.Account) (bool, error) {
	if account.Owner == s.account.Owner {
		return false, nil
	}
	list, err := s.node.blocksOf(ctx, account.Owner)
	return list.matches(s.jid), err
}

func (n *Node) blocksOf(ctx context.Context, owner store.OwnerID) (*blocklist, error) {
	return n.blocks.lookup(ctx, owner, n.opts.Timeouts.Store)
}

// blocklist returns what the hub knows.
func (h *hub) blocklist() *blocklist {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.blocks
}

func (h *hub) learnBlocks(list *blocklist) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.blocks = h.blocks.newer(list)
}

// ignores tells whether a stanza that is not stored comes from somebody blocked.
func (h *hub) ignores(header xmpp.Header) bool {
	list := h.blocklist()
	if !list.blocksAny() {
		return false
	}
	from, err := xmpp.ParseJID(header.From)
	return err == nil && from.Bare() != h.user && from != h.node.domain && list.matches(from)
}

// ignoresSenderOf is ignores for a stored stanza.
func (h *hub) ignoresSenderOf(stanza []byte) bool {
	if !h.blocklist().blocksAny() {
		return false
	}
	header, err := xmpp.ParseHeader(stanza)
	return err == nil && h.ignores(header)
}

// blocking answers a request about the blocklist.
func (s *session) blocking(ctx context.Context, q request) error {
	switch name, get := q.payload.Local(), q.header.Type == iqGet; {
	case name == "blocklist" && get:
		return s.getBlocklist(ctx, q)
	case name == "block" && !get:
		return s.block(ctx, q)
	case name == "unblock" && !get:
		return s.unblock(ctx, q)
	default:
		return xmpp.NewStanzaError(xmpp.BadRequest, "")
	}
}

// getBlocklist answers with the list; from then on the client hears of changes.
func (s *session) getBlocklist(ctx context.Context, q request) error {
	s.hub.mu.Lock()
	s.blockPushes = true
	s.hub.mu.Unlock()
	query, cancel := s.node.storeContext(ctx)
	defer cancel()
	list, err := s.node.store.Blocklist(query, s.account.Owner)
	if err != nil {
		return fmt.Errorf("read the blocklist of %s: %w", s.account.User, err)
	}
	s.hub.mu.Lock()
	s.blocksTold = max(s.blocksTold, list.Version) // first, since the next change counts from there
	s.hub.mu.Unlock()
	q.reply(appendBlockItems(nil, "blocklist", list.Addresses))
	s.tell(store.Versions{Blocklist: list.Version})
	return nil
}

func appendBlockItems(dst []byte, name string, addresses []string) []byte {
	dst = append(append(append(dst, '<'), name...), " xmlns='"+xmpp.NSBlocking+"'>"...)
	for _, a := range addresses {
		dst = append(appendAttr(append(dst, "<item"...), "jid", a), "/>"...)
	}
	return append(append(append(dst, "</"...), name...), '>')
}

// block adds to the list (XEP-0191 §3.3).
func (s *session) block(ctx context.Context, q request) error {
	items, err := s.readBlockItems(q.payload)
	if err != nil {
		return err
	}
	if len(items) == 0 {
		return xmpp.NewStanzaError(xmpp.BadRequest, "whom?")
	}
	for _, it := range items {
		if it.Bare() == s.hub.user {
			return xmpp.NewStanzaError(xmpp.NotAllowed, "this is you")
		}
	}
	full := false
	change := blockChange{Block: true, Items: addressesOf(items)}
	err = s.changeBlocklist(ctx, &change, func(before []string) []string {
		change.Changed = without(change.Items, before)
		if full = s.tooManyBlocked(before, change.Changed); full {
			return before
		}
		return append(before, change.Changed...)
	})
	if err == nil && full {
		return xmpp.NewStanzaError(xmpp.ResourceConstraint, "the blocklist is full")
	}
	if err != nil {
		return err
	}
	s.logReports(ctx, q.payload)
	return s.tellBlocks(q, change)
}

// unblock removes from the list, everything if nothing is named (XEP-0191 §3.4, §3.5).
func (s *session) unblock(ctx context.Context, q request) error {
	items, err := s.readBlockItems(q.payload)
	if err != nil {
		return err
	}
	change := blockChange{Items: addressesOf(items)}
	err = s.changeBlocklist(ctx, &change, func(before []string) []string {
		if len(change.Items) == 0 {
			change.Changed = before
			return nil
		}
		after := without(before, change.Items)
		change.Changed = without(before, after)
		return after
	})
	if err != nil {
		return err
	}
	return s.tellBlocks(q, change)
}

// readBlockItems reads the addresses of a command; the error is a *xmpp.StanzaError.
func (s *session) readBlockItems(command xmpp.Element) ([]xmpp.JID, error) {
	var items []xmpp.JID
	for child := range command.Children() {
		address, ok := child.Attr("jid")
		if child.Local() != "item" || child.Space() != xmpp.NSBlocking || !ok {
			return nil, xmpp.NewStanzaError(xmpp.BadRequest, "")
		}
		jid, err := xmpp.ParseJID(address)
		if err != nil {
			return nil, xmpp.NewStanzaError(xmpp.JIDMalformed, "")
		}
		items = append(items, jid)
	}
	if s.tooManyBlocked(nil, addressesOf(items)) {
		return nil, xmpp.NewStanzaError(xmpp.ResourceConstraint, "too many at once")
	}
	return items, nil
}

func addressesOf(jids []xmpp.JID) []string {
	addresses := make([]string, len(jids))
	for i, j := range jids {
		addresses[i] = j.String()
	}
	slices.Sort(addresses)
	return slices.Compact(addresses)
}

// without returns those of all that are not among some, which are sorted.
func without(all, some []string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(a string) bool {
		_, found := slices.BinarySearch(some, a)
		return found
	})
}

func (s *session) tooManyBlocked(lists ...[]string) bool {
	count, bytes := 0, 0
	for _, list := range lists {
		count += len(list)
		for _, address := range list {
			bytes += len(address)
		}
	}
	return count > s.node.opts.Limits.Blocked || bytes > blockedBytes
}

// changeBlocklist stores a change, after which this node acts on it.
func (s *session) changeBlocklist(ctx context.Context, c *blockChange, change func([]string) []string) error {
	query, cancel := s.node.storeContext(ctx)
	defer cancel()
	hears := s.node.blocks.hears.Load()
	stored, err := s.node.store.UpdateBlocklist(query, s.account.Owner, change)
	if errors.Is(err, store.ErrOutcomeUnknown) {
		s.node.publishControl(s.account.User, control{Look: true})
	}
	if err != nil {
		return fmt.Errorf("change the blocklist of %s: %w", s.account.User, err)
	}
	c.Node, c.Owner, c.Version, c.Addresses = s.node.opts.Name, s.account.Owner, stored.Version, stored.Addresses
	if hears {
		s.node.blocks.remember(s.account.Owner, newBlocklist(stored), time.Now().Add(blockCacheTime))
	}
	s.hub.applyBlocks(*c)
	s.hub.hideAbsent(ctx, *c)
	return nil
}

// tellBlocks answers the client and tells all nodes.
func (s *session) tellBlocks(q request, c blockChange) error {
	s.node.publishControl(s.account.User, control{Blocks: &c})
	s.node.publishControl(s.node.opts.Domain, control{Blocks: &blockChange{Owner: c.Owner, Version: c.Version}})
	q.reply(nil)
	return nil
}

// The reasons of a report that have a name.
const (
	reportSpam  = "urn:xmpp:reporting:spam"
	reportAbuse = "urn:xmpp:reporting:abuse"
)

// logReports makes the operator see reports of abuse (XEP-0377).
func (s *session) logReports(ctx context.Context, command xmpp.Element) {
	for item := range command.Children() {
		report, ok := item.Child(xmpp.NSReporting, "report")
		if !ok {
			continue
		}
		address, _ := item.Attr("jid")
		reason, _ := report.Attr("reason")
		if reason != reportSpam && reason != reportAbuse {
			reason = "other"
		}
		s.node.opts.Logger.InfoContext(ctx, "report of abuse",
			slog.String("user", s.account.User), slog.String("reported", address), slog.String("reason", reason))
	}
}
