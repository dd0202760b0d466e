package limit

import (
	"math"
	"time"
)

// after returns the delay after n failures.
func (s Steps) after(n int) time.Duration {
	doubled := n - s.Free - 1
	if doubled < 0 || s.First == 0 {
		return 0
	}
	if doubled >= 63 || s.First > s.Max>>doubled {
		return s.Max
	}
	return s.First << doubled
}

// failing tells whether an entry has failures that are not forgotten.
func (e *entry) failing(now, window int64) bool {
	return e.failures > 0 && now-e.failedAt < window
}

// fail counts a failure.
func (e *entry) fail(now, window int64) {
	if !e.failing(now, window) {
		e.failures = 0
	}
	e.failures = min(e.failures, math.MaxUint16-1) + 1
	e.failedAt = max(e.failedAt, now)
}

// delay returns how long a login must wait for the failures of an entry. Those of
// an overflow entry are other people's.
func (b *Backoff) delay(e *entry, now int64, s Steps) int64 {
	if !e.failing(now, int64(b.Window)) {
		return 0
	}
	d := s.after(int(e.failures))
	if e.overflowing() {
		d = min(d, b.User.Max)
	}
	return max(0, e.failedAt+int64(d)-now)
}

// alone tells whether a login of an entry must not begin beside those under way:
// else many would be tried before the first failure is known.
func (b *Backoff) alone(e *entry, now int64) bool {
	return b.Pair.First > 0 && !e.overflowing() && e.unauth > 0 &&
		e.failing(now, int64(b.Window)) && int(e.failures)+int(e.unauth) > b.Pair.Free
}
