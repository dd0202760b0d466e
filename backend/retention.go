package backend

import (
	"context"
	"log/slog"
	"time"

	"imlb/backend/store"
)

// Retention says how long messages are kept. It has to be the same on all nodes of a
// cluster, one of which does the work. Messages go from the beginning of a timeline on:
//
//   - those older than Age, and those before the last Entries ones, go once they are
//     delivered to the user;
//   - those that nobody has received go when they are twice that old;
//   - those that are not part of the archive go when they are delivered and older
//     than Hidden, in which time a session that was interrupted can come back.
//
// Numbers are never given out again. A query that names a message that is gone gets
// item-not-found; a session that lags behind goes on with the first message that is
// there. Zero values mean: no limit, no limit, an hour, an hour.
type Retention struct {
	Age     time.Duration
	Entries int
	Hidden  time.Duration
	Every   time.Duration // from one round to the next
}

func (r Retention) withDefaults() Retention {
	setDefault(&r.Hidden, time.Hour)
	setDefault(&r.Every, time.Hour)
	return r
}

// at is what goes at a time.
func (r Retention) at(now time.Time) store.Retention {
	at := store.Retention{Hidden: now.Add(-r.Hidden), Keep: uint64(max(r.Entries, 0))} //nolint:gosec // It is positive.
	if r.Age > 0 {
		at.Before, at.Lost = now.Add(-r.Age), now.Add(-2*r.Age)
	}
	return at
}

const (
	retentionJob = "retention"
	// retentionTries is how often in a round a node asks whether it is to do the work.
	retentionTries = 4
	// trimStep is how many entries go in one transaction.
	trimStep = 500
	// importMost is how long an import may take. One that was begun earlier and is not
	// finished was interrupted.
	importMost = 24 * time.Hour
)

// keepRetention removes what is not to be kept, whenever no other node does, until ctx
// ends.
func (n *Node) keepRetention(ctx context.Context) {
	every := n.opts.Retention.Every
	ticker := time.NewTicker(max(every/retentionTries, 1))
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		if now := time.Now(); n.claimJob(ctx, retentionJob, now, now.Add(every)) {
			n.trim(ctx, n.opts.Retention.at(now))
			n.tidy(ctx, now.Add(-importMost))
		}
	}
}

// claimJob tells whether this node is the one to do a job now.
func (n *Node) claimJob(ctx context.Context, name string, now, next time.Time) bool {
	query, cancel := n.storeContext(ctx)
	defer cancel()
	claimed, err := n.store.ClaimJob(query, name, now, next)
	if err != nil && ctx.Err() == nil {
		n.opts.Logger.WarnContext(ctx, "claim a job", slog.String("job", name), slog.Any("error", err))
	}
	return claimed
}

// trim goes through all timelines once. After each step it rests for as long as that
// took, so that it takes half of a connection's time at most.
func (n *Node) trim(ctx context.Context, r store.Retention) {
	for from := store.OwnerID(0); ; {
		begun := time.Now()
		next, removed, err := n.trimStep(ctx, r, from)
		n.metrics.trimmed.Add(float64(removed))
		if err != nil && ctx.Err() == nil {
			n.opts.Logger.WarnContext(ctx, "remove old messages", slog.Any("error", err))
		}
		if err != nil || next == 0 {
			return // what is left goes in the next round
		}
		from = next
		if !pause(ctx, time.Since(begun)) {
			return
		}
	}
}

func (n *Node) trimStep(ctx context.Context, r store.Retention, from store.OwnerID) (next store.OwnerID, removed int, err error) {
	query, cancel := n.storeContext(ctx)
	defer cancel()
	return n.store.Trim(query, r, from, trimStep)
}

// tidy erases what deletions and imports that were interrupted have left, and rests as trim
// does.
func (n *Node) tidy(ctx context.Context, before time.Time) {
	for more := true; more; {
		begun := time.Now()
		query, cancel := n.storeContext(ctx)
		var err error
		more, err = n.store.Tidy(query, before)
		cancel()
		if err != nil && ctx.Err() == nil {
			n.opts.Logger.WarnContext(ctx, "erase what interrupted deletions and imports have left", slog.Any("error", err))
		}
		if err != nil || !pause(ctx, time.Since(begun)) {
			return // what is left goes in the next round
		}
	}
}
