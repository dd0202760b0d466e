package backend

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"slices"

	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// directedPresence sends presence to one address (RFC 6121 §4.6), or asks for its
// presence.
func (s *session) directedPresence(ctx context.Context, raw []byte, header xmpp.Header) error {
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
		added, room := s.noteDirected(to)
		if !room {
			return s.bounce(raw, header, xmpp.ResourceConstraint)
		}
		if added {
			s.noteShown(ctx)
		}
	case presenceUnavailable:
		s.forgetDirected(to)
	case presenceProbe:
		return s.askPresence(ctx, raw, header, to)
	}
	s.node.show(to, s.stamp(raw, header), s.hub.blocklist())
	return nil
}

// noteDirected remembers whom to tell that the session is unavailable, and tells whether that
// is somebody new. There is no room when that are too many.
func (s *session) noteDirected(to xmpp.JID) (added, room bool) {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	if _, known := s.directed[to]; known {
		return false, true
	}
	if len(s.directed) >= s.node.opts.Limits.Directed {
		return false, false
	}
	if s.directed == nil {
		s.directed = make(map[xmpp.JID]struct{})
	}
	s.directed[to] = struct{}{}
	return true, true
}

// noteShown has the store know whom the session shows itself to by directed presence, before it does, so that they are told of its
// end if its node dies, also when it cannot be resumed, or its state was not stored since. Those whom it has taken that
// back from since may be told once more. Presence goes on while the store is away, and when they are too many.
func (s *session) noteShown(ctx context.Context) {
	s.hub.mu.Lock()
	shown := addressesOf(slices.Collect(maps.Keys(s.directed)))
	s.hub.mu.Unlock()
	if len(shown) > shownMost {
		return
	}
	data, err := encodeJSON(shown)
	if err == nil {
		query, cancel := s.node.storeContext(ctx)
		defer cancel()
		err = s.node.store.NoteShown(query, s.id, s.epoch, string(data))
	}
	if err != nil && !errors.Is(err, store.ErrFenced) { // it has learnt that, or will with the next that it stores
		s.node.opts.Logger.WarnContext(ctx, "note whom a session has shown itself", slog.String("user", s.account.User), slog.Any("error", err))
	}
}

// shownMost bounds how many are noted: they are written anew with each.
const shownMost = 1000

// readShown reads what was noted.
func readShown(data string) []string {
	var shown []string
	if err := json.Unmarshal([]byte(data), &shown); err != nil {
		return nil // nobody
	}
	return shown
}

func (s *session) forgetDirected(to xmpp.JID) {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	delete(s.directed, to)
}

// withdrawDirected tells those who were shown directed presence (RFC 6121 §4.6.3),
// unless they were told already; told is sorted.
func (s *session) withdrawDirected(presence []byte, told []string) {
	s.hub.mu.Lock()
	directed := s.directed
	s.directed = nil
	s.hub.mu.Unlock()
	s.node.withdraw(directed, presence, told, s.hub.blocklist())
}

// withdraw sends unavailable presence to those who had directed presence and are not among
// those that were told anyway, which are sorted. blocks is the user's list: who has been blocked was
// told then.
func (n *Node) withdraw(directed map[xmpp.JID]struct{}, presence []byte, told []string, blocks *blocklist) {
	for to := range directed {
		if _, ok := slices.BinarySearch(told, to.Bare().String()); !ok && !blocks.matches(to) {
			n.show(to, presence, blocks)
		}
	}
}
