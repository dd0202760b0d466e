package backend

import (
	"context"
	"slices"

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
		if !s.noteDirected(to) {
			return s.bounce(raw, header, xmpp.ResourceConstraint)
		}
	case presenceUnavailable:
		s.forgetDirected(to)
	case presenceProbe:
		return s.askPresence(ctx, raw, header, to)
	}
	s.node.show(to, s.stamp(raw, header), s.hub.blocklist())
	return nil
}

// noteDirected remembers whom to tell that the session is unavailable. It returns false
// when that are too many.
func (s *session) noteDirected(to xmpp.JID) bool {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	if _, known := s.directed[to]; !known && len(s.directed) >= s.node.opts.Limits.Directed {
		return false
	}
	if s.directed == nil {
		s.directed = make(map[xmpp.JID]struct{})
	}
	s.directed[to] = struct{}{}
	return true
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
