package backend

import (
	"context"
	"encoding/json"

	"imlb/backend/bus"
	"imlb/backend/xmpp"
)

// A session arrives from before it has its record in the store until it is known to the node.
// Whoever takes its place in the store meanwhile cannot end it yet, and notes that it is
// outdated instead: it must not come after those that came later.

// arrive notes that a session is about to have a record with an ID.
func (n *Node) arrive(s *session, id string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.arriving[s] = id
}

// turnBack notes that a session does not arrive any more, if it has not yet.
func (n *Node) turnBack(s *session) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.arriving, s)
}

// outdate notes that others have the place of a session, if it is arriving.
func (n *Node) outdate(id string) (arriving bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for s, its := range n.arriving {
		if its == id {
			s.outdated, arriving = true, true
		}
	}
	return arriving
}

// controlArriving takes the word of another node about a user who has no session here yet.
func (n *Node) controlArriving(sig bus.Signal) {
	n.mu.RLock()
	anybody := len(n.arriving)+len(n.yields) > 0
	n.mu.RUnlock()
	var c control
	switch {
	case !anybody || json.Unmarshal(sig.Data, &c) != nil:
	case c.Conflict != "":
		n.endFor(sig.User, c.Conflict)
	case c.Kept != "":
		n.yieldRefused(c.Kept, c.Count)
	}
}

// outdatedError ends the login of a session that was outdated before it had arrived.
func outdatedError() error {
	return &stopError{ReasonConflict, &xmpp.StreamError{Condition: xmpp.Conflict}, nil}
}

// hasRecord tells whether the record of the session's resource in the store is its own.
func (s *session) hasRecord(ctx context.Context) bool {
	query, cancel := s.node.storeContext(ctx)
	defer cancel()
	rec, err := s.node.store.Session(query, s.id)
	return err == nil && rec.Epoch == s.epoch
}
