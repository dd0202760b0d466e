//go:build linux

package load

import (
	"math/bits"
	"time"
)

const (
	histogramBits    = 7 // of a value's leading bits that are kept: 1/128
	histogramBuckets = (64 - histogramBits + 1) << histogramBits
)

// Histogram counts durations in buckets that are less than 1 % wide. The zero
// value is empty and ready for use, by one goroutine.
type Histogram struct {
	buckets [histogramBuckets]uint64
	total   uint64
}

// Record counts a duration; one below zero counts as zero.
func (h *Histogram) Record(d time.Duration) {
	h.buckets[bucket(uint64(max(d, 0)))]++ //nolint:gosec // not negative
	h.total++
}

// Count returns how many were recorded.
func (h *Histogram) Count() uint64 { return h.total }

// Add adds what another histogram has.
func (h *Histogram) Add(o *Histogram) {
	for i, n := range o.buckets {
		h.buckets[i] += n
	}
	h.total += o.total
}

// Quantile returns the duration that a share q, from 0 to 1, of all do not exceed;
// it is the upper end of its bucket. It is 0 when there are none.
func (h *Histogram) Quantile(q float64) time.Duration {
	rank := max(1, uint64(q*float64(h.total)+0.999999))
	seen := uint64(0)
	for i, n := range h.buckets {
		if seen += n; seen >= rank {
			return time.Duration(upper(i)) //nolint:gosec // below 2^63, as what was recorded
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
