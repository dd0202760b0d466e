package balancer

import (
	"math/bits"
	"sync"

	"github.com/cespare/xxhash/v2"
)

// Partitions is the number of partitions that users are divided into. It is
// fixed for life: nodes subscribe by partition, and tables are made of them.
const Partitions = 1 << 16

// Partition returns the partition of a user: xxhash64 of the name modulo
// [Partitions]. The name must be in its canonical form, for XMPP the bare JID
// after PRECIS (RFC 7622).
func Partition(user string) uint16 {
	return uint16(xxhash.Sum64String(user) % Partitions)
}

// rounds is how often an order mixes. Four rounds leave structure that tests see
// in some orders, five leave none; the sixth is margin.
const rounds = 6

// order is a permutation of the partitions that depends on a node's name alone:
// the order in which the node would like to own them.
type order struct {
	mul, inv, add [rounds]uint16 // mul is odd and inv its inverse modulo 2¹⁶
}

// newOrder draws the permutation of a node from xxhash64 of its name, stretched
// by SplitMix64.
func newOrder(name string) order {
	var o order
	seed := xxhash.Sum64String(name)
	for r := range rounds {
		seed += 0x9e3779b97f4a7c15
		k := splitMix(seed)
		o.mul[r] = uint16(k) | 1 //nolint:gosec // the low bits are wanted
		o.inv[r] = inverse(o.mul[r])
		o.add[r] = uint16(k >> 32) //nolint:gosec // 16 bits are wanted
	}
	return o
}

// at returns the partition at a rank.
func (o *order) at(rank uint16) uint16 {
	x := rank
	for r := range rounds {
		x = x*o.mul[r] + o.add[r]
		x ^= x >> 8
	}
	return x
}

// rank is the inverse of at. A shift by half of the width undoes itself.
func (o *order) rank(partition uint16) uint16 {
	x := partition
	for r := rounds - 1; r >= 0; r-- {
		x ^= x >> 8
		x = (x - o.add[r]) * o.inv[r]
	}
	return x
}

// splitMix is the output function of SplitMix64.
func splitMix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// inverse returns the inverse of an odd number modulo 2¹⁶. Newton's iteration
// doubles the number of right bits, and x is its own inverse modulo 2³.
func inverse(x uint16) uint16 {
	y := x
	for range 3 {
		y *= 2 - x*y
	}
	return y
}

// quantiles holds the quantiles −ln(1 − (i+½)/65536) of the exponential
// distribution in units of 2⁻⁶⁰, strictly rising. They are summed up from the
// series 2·atanh(1/m) = ln((m+1)/(m−1)), as a floating-point logarithm may differ
// between architectures.
var quantiles = sync.OnceValue(func() *[Partitions]uint64 {
	q := new([Partitions]uint64)
	var sum uint64
	// 1 − (i+½)/65536 = v/131072 with v = 131071 − 2i, and the first step is half
	// of one: from 131072 to 131071, m = 262143.
	sum = twiceAtanh(4*Partitions - 1)
	for i := range q {
		q[i] = sum
		if next := uint64(2*Partitions - 3 - 2*i); i < Partitions-1 { //nolint:gosec // not negative below the last
			sum += twiceAtanh(next + 1)
		}
	}
	return q
})

// twiceAtanh returns 2·atanh(1/m) = 2·(1/m + 1/3m³ + 1/5m⁵ + …) in units of 2⁻⁶⁰,
// for 2 ≤ m < 2³².
func twiceAtanh(m uint64) uint64 {
	var sum uint64
	term := uint64(1) << 61 / m
	for k := uint64(1); term > 0; k += 2 {
		sum += term / k
		term /= m * m
	}
	return sum
}

// weight is a node's weight in units of 1/weightUnit, at least 1 for a node that
// takes part.
type weight uint64

const (
	weightUnit = 1 << 12
	// maxWeight keeps scores of neighbouring ranks apart: quantiles differ by 2⁴⁴
	// and more.
	maxWeight weight = 1 << 28
)

// newWeight rounds a weight to units; what is not positive has none.
func newWeight(w float64) weight {
	if !(w > 0) { // NaN too
		return 0
	}
	if w >= float64(maxWeight)/weightUnit {
		return maxWeight
	}
	return max(1, weight(w*weightUnit+0.5))
}

// scorer turns ranks of one node into scores.
type scorer struct {
	order
	reciprocal uint64 // of the weight, times 2⁶⁴
}

func newScorer(name string, w weight) scorer {
	return scorer{order: newOrder(name), reciprocal: ^uint64(0) / uint64(w)}
}

// score returns the score of a quantile: the lower, the better. It rises
// strictly with the quantile.
func (s *scorer) score(quantile uint64) uint64 {
	high, _ := bits.Mul64(quantile, s.reciprocal)
	return high
}
