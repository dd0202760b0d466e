package backend

import "time"

// bucket is a token bucket: it holds up to burst tokens and gains rate of them in a
// second. A new one is full.
type bucket struct {
	tokens float64
	at     time.Time // of tokens
}

// bucketRate is what buckets have in common.
type bucketRate struct {
	perSecond float64
	burst     float64
}

// perHour is the rate of n an hour, all of which may come at once.
func perHour(n int) bucketRate {
	return bucketRate{perSecond: float64(n) / time.Hour.Seconds(), burst: float64(n)}
}

// fill brings a bucket to a time.
func (b *bucket) fill(r bucketRate, now time.Time) {
	if passed := now.Sub(b.at).Seconds(); passed > 0 {
		b.tokens = min(r.burst, b.tokens+passed*r.perSecond)
		b.at = now
	}
}

// take takes a token if there is one.
func (b *bucket) take(r bucketRate, now time.Time) bool {
	b.fill(r, now)
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// buckets are many of the same rate, by name. No more than most are kept. Those that
// are full again are forgotten first. When all are in use, names that are not known share
// one.
type buckets struct {
	rate   bucketRate
	most   int
	known  map[string]*bucket
	shared bucket
	swept  time.Time
}

func newBuckets(r bucketRate, most int, now time.Time) *buckets {
	return &buckets{
		rate: r, most: most, known: make(map[string]*bucket),
		shared: bucket{tokens: r.burst, at: now}, swept: now,
	}
}

// sweepPause is how long buckets are not looked through again for full ones.
const sweepPause = time.Second

// take takes a token of a name's bucket if there is one.
func (bs *buckets) take(name string, now time.Time) bool {
	b := bs.known[name]
	if b == nil {
		if len(bs.known) >= bs.most && now.Sub(bs.swept) >= sweepPause {
			bs.sweep(now)
		}
		if len(bs.known) >= bs.most {
			return bs.shared.take(bs.rate, now)
		}
		b = &bucket{tokens: bs.rate.burst, at: now}
		bs.known[name] = b
	}
	return b.take(bs.rate, now)
}

// sweep forgets full buckets: a new one is the same.
func (bs *buckets) sweep(now time.Time) {
	bs.swept = now
	for name, b := range bs.known {
		if b.fill(bs.rate, now); b.tokens >= bs.rate.burst {
			delete(bs.known, name)
		}
	}
}
