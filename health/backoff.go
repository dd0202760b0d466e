package health

import (
	"context"
	"math/rand/v2"
	"time"
)

// backoff grows with every failure from first to most, with half of it left to
// chance so that many processes do not come back at the same moment.
type backoff struct {
	first, most time.Duration
	next        time.Duration
}

func (b *backoff) reset() { b.next = 0 }

// delay returns how long to wait after one more failure.
func (b *backoff) delay() time.Duration {
	b.next = min(max(2*b.next, b.first), b.most)
	return b.next/2 + rand.N(b.next/2+1) //nolint:gosec // spreads load, guards nothing
}

// sleep waits and returns nil, or returns the error of ctx when that is done first.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// jittered returns d give or take a tenth.
func jittered(d time.Duration) time.Duration {
	return d - d/10 + rand.N(d/5+1) //nolint:gosec // spreads load, guards nothing
}
