package chatload

import (
	"math/bits"
	"sync/atomic"
	"time"
)

const (
	histogramBits    = 7 // of a value's leading bits that are kept: 1/128
	histogramBuckets = (64 - histogramBits + 1) << histogramBits
)

// Histogram counts durations in buckets that are less than 1 % wide. The zero value is
// empty, and any number of goroutines may use it.
type Histogram struct {
	buckets [histogramBuckets]atomic.Uint64
	total   atomic.Uint64
	most    atomic.Int64
}

// Record counts a duration; one below zero counts as zero.
func (h *Histogram) Record(d time.Duration) {
	d = max(d, 0)
	h.buckets[bucket(uint64(d))].Add(1) //nolint:gosec // not negative
	h.total.Add(1)
	h.reach(int64(d))
}

// reach makes the longest at least so long.
func (h *Histogram) reach(d int64) {
	for most := h.most.Load(); d > most && !h.most.CompareAndSwap(most, d); {
		most = h.most.Load()
	}
}

// Count returns how many were recorded.
func (h *Histogram) Count() uint64 { return h.total.Load() }

// Max returns the longest duration.
func (h *Histogram) Max() time.Duration { return time.Duration(h.most.Load()) }

// Add adds what another histogram has counted and nobody records in meanwhile.
func (h *Histogram) Add(o *Histogram) {
	for i := range o.buckets {
		if n := o.buckets[i].Load(); n > 0 {
			h.buckets[i].Add(n)
		}
	}
	h.total.Add(o.total.Load())
	h.reach(o.most.Load())
}

// Quantile returns the duration that a share q, from 0 to 1, of all do not exceed: the
// upper end of its bucket, but no more than the longest. It is 0 when there are none.
func (h *Histogram) Quantile(q float64) time.Duration {
	rank := max(1, uint64(q*float64(h.total.Load())+0.999999))
	seen := uint64(0)
	for i := range h.buckets {
		if seen += h.buckets[i].Load(); seen >= rank {
			return min(time.Duration(upper(i)), h.Max()) //nolint:gosec // below 2^63, as what was recorded
		}
	}
	return 0
}

func bucket(v uint64) int {
	shift := max(0, bits.Len64(v)-histogramBits-1)
	return shift<<histogramBits + int(v>>shift) //nolint:gosec // 8 bits are left
}

// upper returns the greatest value of a bucket.
func upper(i int) uint64 {
	if i < 2<<histogramBits {
		return uint64(i) //nolint:gosec // an index
	}
	shift := i>>histogramBits - 1
	lead := uint64(i - shift<<histogramBits) //nolint:gosec // an index
	return (lead+1)<<shift - 1
}
