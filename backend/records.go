package backend

import (
	"context"
	"errors"
	"log/slog"
	"sync"

	"imlb/backend/store"
)

// leftRecords are those of sessions that are over which the store did not remove, since it was away: as long
// as the node lives nobody else does.
type leftRecords struct {
	mu     sync.Mutex
	epochs map[string]uint64 // by the ID of the session
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

// removeLeft removes them, now that the store answers.
func (n *Node) removeLeft(ctx context.Context) {
	for {
		id, epoch, ok := n.left.first()
		if !ok {
			return
		}
		if err := n.removeRecord(ctx, id, epoch); err != nil {
			if ctx.Err() == nil {
				n.opts.Logger.WarnContext(ctx, "end a session's record", slog.String("session", id), slog.Any("error", err))
			}
			return
		}
		n.left.remove(id)
	}
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
