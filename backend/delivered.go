package backend

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"time"

	"imlb/backend/store"
)

// deliveredNumbers gathers the numbers up to which users have received their
// timelines, and stores many of them at a time. What was not stored when the
// process dies is delivered again.
type deliveredNumbers struct {
	store store.Timelines

	mu    sync.Mutex
	dirty map[store.OwnerID]uint64
}

func newDeliveredNumbers(s store.Timelines) *deliveredNumbers {
	return &deliveredNumbers{store: s, dirty: make(map[store.OwnerID]uint64)}
}

// raise notes that an owner has received everything up to seq.
func (d *deliveredNumbers) raise(owner store.OwnerID, seq uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dirty[owner] = max(d.dirty[owner], seq)
}

// run stores the numbers every interval until ctx ends.
func (d *deliveredNumbers) run(ctx context.Context, interval time.Duration, log *slog.Logger) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			d.flush(ctx, log)
		case <-ctx.Done():
			return
		}
	}
}

// waiting returns the number that is not yet stored, 0 if there is none.
func (d *deliveredNumbers) waiting(owner store.OwnerID) uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.dirty[owner]
}

// flush stores all numbers that wait. Those that the store does not take
// wait on.
func (d *deliveredNumbers) flush(ctx context.Context, log *slog.Logger) {
	d.mu.Lock()
	batch := maps.Clone(d.dirty)
	d.mu.Unlock()
	d.save(ctx, batch, log)
}

// flushOwner stores the number of one owner, if it waits, so that the user's next
// node sees it.
func (d *deliveredNumbers) flushOwner(ctx context.Context, owner store.OwnerID, log *slog.Logger) {
	if seq := d.waiting(owner); seq > 0 {
		d.save(ctx, map[store.OwnerID]uint64{owner: seq}, log)
	}
}

func (d *deliveredNumbers) save(ctx context.Context, batch map[store.OwnerID]uint64, log *slog.Logger) {
	if len(batch) == 0 {
		return
	}
	if err := d.store.SetDelivered(ctx, batch); err != nil {
		log.WarnContext(ctx, "store delivered numbers", slog.Int("users", len(batch)), slog.Any("error", err))
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for owner, seq := range batch {
		if d.dirty[owner] == seq {
			delete(d.dirty, owner)
		}
	}
}
