package secrets

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"
)

// Entry is what lies in a store.
type Entry struct {
	Data []byte // nil when there is nothing
	// Version is what CAS takes to replace just this; 0 when there is nothing.
	Version uint64
	// Index is what Get takes to wait for the next change.
	Index uint64
}

// Store is where a ring lies that several fronts share.
type Store interface {
	// Get returns what is there. With an index it first waits until that is no
	// longer the store's, for a minute or so at most.
	Get(ctx context.Context, index uint64) (Entry, error)
	// CAS puts data in the place of a version, and tells whether that was still
	// there.
	CAS(ctx context.Context, data []byte, version uint64) (bool, error)
}

// follow reads a store again and again until ctx is done, and passes on the first
// entry, each one that may differ from the one before, and each failure.
func follow(ctx context.Context, store Store, pace pace, entries chan<- news) {
	pause := backoff{first: pace.least, most: pace.most}
	var index uint64 // to wait for a change from
	var told uint64  // of the last entry that was passed on
	for {
		e, err := store.Get(ctx, index)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			index = 0 // to learn the state at once
			if !pass(ctx, entries, news{err: err}) || !sleep(ctx, pause.delay()) {
				return
			}
			continue
		}
		// Index rules: never below 1, back to 0 when it goes backwards, and an answer
		// with the same index is the same answer.
		next := max(e.Index, 1)
		index = next
		if next < told {
			index = 0
		}
		failed := pause.next != 0
		pause.next = 0
		if next != told || failed {
			told = next
			if !pass(ctx, entries, news{entry: e}) {
				return
			}
		}
		if !sleep(ctx, pace.least) { // however fast the store answers
			return
		}
	}
}

// news is an entry or a failure.
type news struct {
	entry Entry
	err   error
}

func pass(ctx context.Context, to chan<- news, n news) bool {
	select {
	case to <- n:
		return true
	case <-ctx.Done():
		return false
	}
}

// pace bounds how often a store is asked.
type pace struct {
	least time.Duration // between two questions
	most  time.Duration // after failures
}

// backoff grows with every failure from first to most, with half of it left to
// chance so that many fronts do not come back at the same moment.
type backoff struct {
	first, most time.Duration
	next        time.Duration // 0 when all is well
}

// delay returns how long to wait after one more failure.
func (b *backoff) delay() time.Duration {
	b.next = min(max(2*b.next, b.first), b.most)
	return b.next/2 + rand.N(b.next/2+1) //nolint:gosec // spreads load, guards nothing
}

// sleep waits, and reports false when ctx is done first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// discard is where logs go that nobody wants.
func discard(l *slog.Logger) *slog.Logger {
	if l == nil {
		return slog.New(slog.DiscardHandler)
	}
	return l
}
