package backend

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// renewals is how many chances there are to renew a lease before it runs out.
const renewals = 3

// reapAtATime bounds the sessions that are ended with one query.
const reapAtATime = 100

// takeLease says for the first time that the node lives. Without it others would
// take its sessions for those of a dead node.
func (n *Node) takeLease(ctx context.Context) error {
	ctx, cancel := n.storeContext(ctx)
	defer cancel()
	if err := n.renewLease(ctx); err != nil {
		return fmt.Errorf("take the node's lease: %w", err)
	}
	return nil
}

func (n *Node) renewLease(ctx context.Context) error {
	return n.store.RenewLease(ctx, n.opts.Name, n.opts.Incarnation, time.Now().Add(n.opts.Timeouts.Lease))
}

func (n *Node) giveLeaseBack(ctx context.Context) error {
	if err := n.store.EndLease(ctx, n.opts.Name, n.opts.Incarnation); err != nil {
		return fmt.Errorf("end the node's lease: %w", err)
	}
	return nil
}

// keepLease renews the lease and cleans up after nodes that did not renew theirs,
// until ctx ends.
func (n *Node) keepLease(ctx context.Context) {
	ticker := time.NewTicker(n.opts.Timeouts.Lease / renewals)
	defer ticker.Stop()
	renewed := time.Now()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		if !n.renewOnce(ctx) {
			continue
		}
		if time.Since(renewed) > n.opts.Timeouts.Lease {
			n.endLostSessions(ctx)
		}
		renewed = time.Now()
		n.reap(ctx)
	}
}

func (n *Node) renewOnce(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, n.opts.Timeouts.Lease/renewals)
	defer cancel()
	err := n.renewLease(ctx)
	if err != nil && ctx.Err() == nil {
		n.opts.Logger.WarnContext(ctx, "renew the node's lease", slog.Any("error", err))
	}
	return err == nil
}

// endLostSessions ends those sessions that others have ended in the meantime:
// for a while this node's lease had run out.
func (n *Node) endLostSessions(ctx context.Context) {
	for _, s := range n.allSessions() {
		lookup, cancel := n.storeContext(ctx)
		_, err := n.store.Session(lookup, s.id)
		cancel()
		if errors.Is(err, store.ErrNotFound) {
			s.end(ReasonConflict, &xmpp.StreamError{Condition: xmpp.Conflict})
		}
	}
}

// reap ends the sessions of nodes whose lease has run out, and tells the users'
// contacts on their behalf.
func (n *Node) reap(ctx context.Context) {
	for ctx.Err() == nil {
		query, cancel := n.storeContext(ctx)
		dead, err := n.store.ReapSessions(query, time.Now(), reapAtATime)
		cancel()
		if err != nil {
			n.opts.Logger.WarnContext(ctx, "reap sessions", slog.Any("error", err))
			return
		}
		for _, s := range dead {
			n.announceEnd(ctx, s)
		}
		n.metrics.reaped.Add(float64(len(dead)))
		if len(dead) < reapAtATime {
			return
		}
	}
}

// announceEnd tells a session's contacts that it is unavailable, on behalf of a
// session that cannot do so itself.
func (n *Node) announceEnd(ctx context.Context, dead store.Session) {
	ctx, cancel := n.storeContext(ctx)
	defer cancel()
	user, err := xmpp.ParseJID(dead.User)
	if err != nil {
		return
	}
	from, err := user.WithResource(dead.Resource)
	if err != nil {
		return
	}
	items, _, err := n.store.Roster(ctx, dead.Owner)
	if err != nil {
		n.opts.Logger.WarnContext(ctx, "announce the end of a session", slog.String("user", dead.User), slog.Any("error", err))
		return
	}
	n.broadcast(user, n.subscribers(items), unavailablePresence(from))
}

// storeContext bounds one query.
func (n *Node) storeContext(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, n.opts.Timeouts.Store)
}
