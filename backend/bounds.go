package backend

import (
	"log/slog"

	"imlb/backend/xmpp"
)

// What a node sends has bounds of its own, so that every front carries it: an element is no longer
// than xmpp.SentMost. What clients send is far below that with all that nodes add to it. What
// adds up to more, or comes from elsewhere, is bounded here.
const (
	// A client gets all of its roster in one answer. For each of the contacts that a user may have
	// there is some room, in bytes, and for all no less and no more than this.
	rosterItem  = 512
	rosterLeast = 1 << 20
	rosterMost  = 6 << 20
	// entryMost bounds a message that was imported, in bytes. Those of clients are shorter.
	entryMost = 4 << 20
	// queryIDMost bounds the id of a query, in bytes: each message that is found comes with it.
	queryIDMost = 1023
)

// clientLimits are what a node takes of clients: less than others take of it, since it adds to
// what they say.
func clientLimits(l xmpp.Limits) xmpp.Limits {
	setDefault(&l.MaxDepth, xmpp.ClientDepth)
	setDefault(&l.MaxAttrs, xmpp.ClientAttrs)
	return l.WithDefaults()
}

// rosterBytes bounds a roster.
func (l Limits) rosterBytes() int {
	return min(max(l.RosterItems, rosterLeast/rosterItem), rosterMost/rosterItem) * rosterItem
}

// tooLong tells whether a stanza is longer than a node may send, which is logged.
func (s *session) tooLong(kind xmpp.StanzaKind, raw []byte, most int) bool {
	if len(raw) <= most {
		return false
	}
	s.node.opts.Logger.Warn("a stanza is too long to be sent to a client",
		slog.String("kind", kindText(kind)), slog.String("user", s.account.User), slog.Int("bytes", len(raw)))
	return true
}
