package proxy

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"imlb/backend/xmpp"
)

// nodeOf names a node of a pool.
type nodeOf struct{ pool, node string }

// suspectHeader has the log tell of a node that may expect another PROXY header than it gets.
// Its checks do not see that, and its sessions only that they fail. Where nodes of the pool
// have served before it is not suspected.
func (s *session) suspectHeader(ctx context.Context, node *nodeConn, pool Pool, err error) {
	hint := headerHint(pool.Header, node.wire.used.Load(), err)
	if hint == "" || s.srv.offers.serves(s.poolName(), s.domain()) {
		return
	}
	before, ok := s.srv.suspect.arises(nodeOf{s.poolName(), node.name()}, time.Now())
	if !ok {
		return
	}
	s.srv.log.LogAttrs(ctx, slog.LevelWarn, "a node does not serve", slog.String("node", node.name()), slog.String("pool", s.poolName()),
		slog.Any("error", err), slog.String("hint", hint), slog.Int("unsaid", before))
}

// headerHint says what may be wrong with the header that a node got, of which err is the answer;
// "" for nothing. spoke tells that the node has sent something.
func headerHint(sent Header, spoke bool, err error) string {
	const set = "set proxy_protocol of the pool, or --send-proxy, to "
	switch {
	case lacking(err), spoke && (sent == HeaderNone || !isGarbled(err)):
		return ""
	case sent == HeaderNone:
		return "it said nothing: if it expects a PROXY header, as imlb's own nodes do, " + set + "v2"
	case spoke:
		return "if it expects no PROXY header, " + set + "none"
	default:
		return "it said nothing: if it expects no PROXY header, or another, " + set + "none, v1 or v2"
	}
}

// isGarbled tells whether a node has found that what it got is no XML.
func isGarbled(err error) bool {
	var said *openRefusal
	return errors.As(err, &said) && slices.Contains([]string{
		xmpp.NotWellFormed, "xml-not-well-formed", xmpp.BadFormat, xmpp.InvalidXML, xmpp.RestrictedXML, xmpp.UnsupportedEncoding,
	}, said.Condition)
}
