package backend

import (
	"context"
	"fmt"
	"sync"
	"time"

	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// thereCache remembers which resources are connected to other nodes, for a moment: who writes
// to one does so several times, and each message asks. A resource that has left meanwhile does
// no harm: what is addressed to one that is not here, another one of the user takes. One that
// is not there is asked for again, since it may have come.
//
// The time is an argument. The zero value is ready.
type thereCache struct {
	mu    sync.Mutex
	until map[string]time.Time // by the full JID
}

const (
	thereCacheTime = 5 * time.Second
	thereCacheSize = 20_000
)

// has tells whether a resource was there lately.
func (c *thereCache) has(jid string, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return now.Before(c.until[jid])
}

// add notes that a resource is there.
func (c *thereCache) add(jid string, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.until == nil || len(c.until) >= thereCacheSize {
		c.until = map[string]time.Time{} // simple, and rare enough
	}
	c.until[jid] = now.Add(thereCacheTime)
}

// isThere tells whether a resource is connected, to any node, or was a moment ago.
func (n *Node) isThere(ctx context.Context, to xmpp.JID, account store.Account) (bool, error) {
	if h := n.hub(account.User); h != nil && h.session(to.Resource()) != nil {
		return true, nil
	}
	jid, now := to.String(), time.Now()
	if n.there.has(jid, now) {
		return true, nil
	}
	query, cancel := n.storeContext(ctx)
	defer cancel()
	sessions, err := n.store.SessionsOf(query, account.Owner)
	if err != nil {
		return false, fmt.Errorf("look up the sessions of %s: %w", account.User, err)
	}
	for _, other := range sessions {
		if other.Resource == to.Resource() {
			n.there.add(jid, now)
			return true, nil
		}
	}
	return false, nil
}
