package backend

import (
	"context"
	"errors"
	"log/slog"
	"sync"

	"imlb/backend/store"
)

// leftRecords are those of sessions that are over which the store did not remove, since it was away, and those that the
// node may have of sessions that it has not, and that can be resumed: as long as it lives nobody else looks after them.
type leftRecords struct {
	mu     sync.Mutex
	epochs map[string]uint64 // by the ID of the session; 0 of one that can be resumed
}

// leftMost bounds them. Those above it are removed when the node's lease is over.
const leftMost = 100_000

func (l *leftRecords) add(id string, epoch uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.epochs) >= leftMost {
		return
	}
	if l.epochs == nil {
		l.epochs = make(map[string]uint64)
	}
	l.epochs[id] = epoch
}

// first returns one of them.
func (l *leftRecords) first() (id string, epoch uint64, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, epoch := range l.epochs {
		return id, epoch, true
	}
	return "", 0, false
}

func (l *leftRecords) remove(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.epochs, id)
}

// removeLeft removes them, or has them wait for whoever resumes them, now that the store answers.
func (n *Node) removeLeft(ctx context.Context) {
	for {
		id, epoch, ok := n.left.first()
		if !ok {
			return
		}
		if err := n.settleRecord(ctx, id, epoch); err != nil {
			if ctx.Err() == nil {
				n.opts.Logger.WarnContext(ctx, "end a session's record", slog.String("session", id), slog.Any("error", err))
			}
			return
		}
		n.left.remove(id)
	}
}

func (n *Node) settleRecord(ctx context.Context, id string, epoch uint64) error {
	if epoch == 0 {
		return n.parkRecord(ctx, id)
	}
	return n.removeRecord(ctx, id, epoch)
}

// removeRecord removes a session's record. That somebody else owns it, or has removed it, is as good.
func (n *Node) removeRecord(ctx context.Context, id string, epoch uint64) error {
	query, cancel := n.storeContext(ctx)
	defer cancel()
	err := n.store.EndSession(query, id, epoch)
	if errors.Is(err, store.ErrFenced) || errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
}

// abandon notes that the store may say that this node has a session, which can be resumed, and that nobody has.
func (s *session) abandon(id string) {
	s.node.turnBack(s)
	s.node.left.add(id, 0)
}

// parkRecord leaves a session to whoever resumes it, if this node has its record and nothing else of it.
func (n *Node) parkRecord(ctx context.Context, id string) error {
	query, cancel := n.storeContext(ctx)
	defer cancel()
	rec, err := n.store.Session(query, id)
	if err == nil && rec.Node == n.opts.Name && !n.knows(id) { // whoever resumes it after that raises the epoch
		err = n.store.Park(query, id, rec.Epoch)
	}
	if errors.Is(err, store.ErrFenced) || errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
}

// knows tells whether a session is on this node, or arrives.
func (n *Node) knows(id string) bool {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if n.sessions[id] != nil {
		return true
	}
	for _, arrives := range n.arriving {
		if arrives == id {
			return true
		}
	}
	return false
}
