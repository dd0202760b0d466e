package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"imlb/backend/xmpp"
)

// tries is how far a session has come in finding a node that takes it. When the nodes have
// refused it, it tries them again after a pause, as long as it may wait: one that has just gone
// may not be known to be gone, and may be back soon.
type tries struct {
	nodes  []string      // that have refused it in this round
	failed error         // why
	vain   bool          // another round would be of no use
	until  time.Time     // there are rounds; zero in the first
	pause  time.Duration // before the next round
}

// The pauses double from the first to the longest.
const (
	firstRetry   = 100 * time.Millisecond
	longestRetry = time.Second
)

// refused notes that a node did not take the session, and what was learnt of the node.
func (t *tries) refused(node string, err error, o Outcome) {
	t.nodes = append(t.nodes, node)
	t.failed = errors.Join(t.failed, fmt.Errorf("dial %s: %w", node, err))
	t.vain = t.vain || o != OutcomeRefused || lacksDomain(err) || disagrees(err)
}

// lacksDomain tells whether a node has said that it does not serve the domain.
func lacksDomain(err error) bool {
	var said *openRefusal
	return errors.As(err, &said) && (said.Condition == xmpp.HostUnknown || said.Condition == xmpp.HostGone)
}

// disagrees tells whether a node's TLS is not what is wanted, or the front's not what the node wants.
func disagrees(err error) bool {
	var untrusted *tls.CertificateVerificationError
	var noTLS tls.RecordHeaderError
	var alert *net.OpError
	return errors.As(err, &untrusted) || errors.As(err, &noTLS) || errors.As(err, &alert) && alert.Op == "remote error"
}

// dialled tells whether the round has met nodes.
func (t *tries) dialled() bool { return len(t.nodes) > 0 }

// again begins another round, for which the session has to wait first. It returns false when there
// is none: no node has refused the session in this one, it may not wait for so long, or
// waiting is of no use.
func (t *tries) again(pool Pool, now time.Time) (wait time.Duration, ok bool) {
	if t.until.IsZero() {
		t.until, t.pause = now.Add(pool.Park), firstRetry
	}
	wait = t.pause
	if !t.dialled() || t.vain || now.Add(wait).After(t.until) {
		return 0, false
	}
	t.nodes, t.failed = nil, nil
	t.pause = min(2*wait, longestRetry)
	return wait, true
}

// pick asks the pool for a node. It waits no longer than there may be rounds.
func (t *tries) pick(ctx context.Context, pool Pool, user string) (Choice, error) {
	if !t.until.IsZero() {
		limited, cancel := context.WithDeadline(ctx, t.until)
		defer cancel()
		ctx = limited
	}
	return pool.Picker.Pick(ctx, user, t.nodes)
}
