package backend

import (
	"strconv"
	"time"

	"imlb/backend/xmpp"
)

// streamLimits says what a stream may bring, and after which silence the node asks
// whether the client is there, or ends it (XEP-0478 §3.1). A silence of less than a second
// cannot be told.
func streamLimits(maxBytes int, idle time.Duration) string {
	limits := "<limits xmlns='" + xmpp.NSLimits + "'><max-bytes>" + strconv.Itoa(maxBytes) + "</max-bytes>"
	if idle >= time.Second {
		limits += "<idle-seconds>" + strconv.FormatInt(int64(idle/time.Second), 10) + "</idle-seconds>"
	}
	return limits + "</limits>"
}

// loginLimits are those of a client that is not logged in: it has as long as the
// login may take.
func (n *Node) loginLimits() string {
	return streamLimits(n.opts.Limits.preAuth().MaxBytes, n.opts.Timeouts.Handshake)
}

// aboutServer are the stream features after login that say what the server is, so that
// clients need not ask, and what the stream may bring.
func (n *Node) aboutServer() string {
	return n.caps.element + streamLimits(n.opts.Limits.Stanza.MaxBytes, n.opts.Timeouts.Idle)
}
