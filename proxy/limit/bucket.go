package limit

import (
	"math"
	"time"
)

// maxSpan is the longest time that rules may speak of, so that no sum of a few
// times overflows.
const maxSpan = 365 * 24 * time.Hour

// bucket is a token bucket as a rule. What it holds for one source or user is a
// single number, its turn: the time at which the bucket will be full again
// (GCRA). A rate.Limiter would take 80 bytes, a lock and an allocation for each
// of them, and there are hundreds of thousands.
//
// All times are nanoseconds since the Guard was made.
type bucket struct {
	per     float64 // of one token; whole for connections, so that a burst is exact; 0: no limit
	span    int64   // of the burst
	maxWait int64
}

func (r Rate) bucket() bucket {
	if r.PerSecond == 0 {
		return bucket{}
	}
	per := max(1, math.Floor(float64(time.Second)/r.PerSecond))
	return bucket{per: per, span: int64(per * float64(r.Burst)), maxWait: int64(r.MaxWait)}
}

func (b Bandwidth) bucket() bucket {
	if b.PerSecond == 0 {
		return bucket{}
	}
	per := float64(time.Second) / float64(b.PerSecond)
	return bucket{per: per, span: int64(per * float64(b.Burst))}
}

// limited tells whether there is a limit.
func (b bucket) limited() bool { return b.per > 0 }

// take takes n tokens, into debt if there are too few, and returns how long it
// takes until the debt is paid.
func (b bucket) take(turn *int64, now int64, n int) (wait int64) {
	if !b.limited() {
		return 0
	}
	*turn = max(*turn, now) + int64(min(b.per*float64(n), float64(maxSpan)))
	*turn = min(*turn, now+int64(2*maxSpan))
	return max(0, *turn-now-b.span)
}

// peek returns how long the wait for one token would be.
func (b bucket) peek(turn, now int64) (wait int64) {
	return b.take(&turn, now, 1)
}

// give gives back one token.
func (b bucket) give(turn *int64) {
	*turn -= int64(b.per)
}

// debt returns how much of the bucket is missing, in time.
func (b bucket) debt(turn, now int64) int64 {
	if !b.limited() {
		return 0
	}
	return max(0, turn-now)
}

// waiting returns how many were given a turn that has not come yet.
func (b bucket) waiting(turn, now int64) int {
	if !b.limited() {
		return 0
	}
	late := max(0, turn-now-b.span)
	return int(math.Ceil(float64(late) / b.per))
}

// convert returns the turn under another rule. The tokens stay what they are, as
// far as the new burst has room for them; a full bucket stays full, as it is for
// those who were never seen.
func (b bucket) convert(turn, now int64, to bucket) int64 {
	if b.debt(turn, now) == 0 || !to.limited() {
		return 0
	}
	tokens := float64(b.span-(turn-now)) / b.per
	missing := max(0, float64(to.span)/to.per-tokens)
	return now + int64(min(missing*to.per, float64(maxSpan)))
}
