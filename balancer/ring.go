package balancer

import (
	"cmp"
	"iter"
	"math/bits"
	"slices"
	"sync"

	"github.com/cespare/xxhash/v2"
)

const (
	// pointsPerWeight is how many points a node of weight 1 has on the ring.
	pointsPerWeight = 128
	// maxPoints is how many points there may be in all; above four for each
	// partition they make no difference any more.
	maxPoints = 4 * Partitions
)

// BuildRing distributes the partitions over the members that have a weight by
// consistent hashing: a node has 128 points on a ring for each unit of its weight,
// at least one, and owns the partitions between a point of its own and the point
// before. When that is more than 262,144 points in all, every node has half as
// many, or a quarter, and so on. Of members with the same name the one with the
// greatest weight counts.
func BuildRing(members []Member) *Table {
	t := newTable(members, ByRing, 0)
	if len(t.names) > 0 {
		t.ring = newRing(t)
		t.own(t.ring)
	}
	return t
}

// own makes the first node clockwise the owner of each partition.
func (t *Table) own(r ring) {
	t.owners = make([]int32, Partitions)
	i := 0
	for _, p := range ringPartitions() {
		for i < len(r) && r[i].at < p.at {
			i++
		}
		owner := r[i%len(r)].node
		t.owners[p.partition] = owner
		t.owned[owner]++
	}
}

// ring is the points of all nodes in their order.
type ring []point

type point struct {
	at   uint64
	node int32
}

// newRing returns the points of a table's nodes.
func newRing(t *Table) ring {
	halved := halvings(t.weights)
	var r ring
	for i, name := range t.names {
		seed := xxhash.Sum64String(name)
		for range points(t.weights[i], halved) {
			seed += 0x9e3779b97f4a7c15
			r = append(r, point{splitMix(seed), int32(i)}) //nolint:gosec // fewer nodes than 2³¹
		}
	}
	slices.SortFunc(r, func(a, b point) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.node, b.node))
	})
	return r
}

// points returns how many points a node has.
func points(w weight, halved int) int {
	return max(1, int(w*pointsPerWeight/weightUnit>>halved)) //nolint:gosec // at most 2²³
}

// halvings returns how often the points must be halved to be few enough.
func halvings(weights []weight) int {
	for halved := range bits.Len64(uint64(maxWeight)) {
		sum := 0
		for _, w := range weights {
			sum += points(w, halved)
		}
		if sum <= maxPoints {
			return halved
		}
	}
	return bits.Len64(uint64(maxWeight))
}

// ringPartition is where a partition lies on the ring.
type ringPartition struct {
	at        uint64
	partition uint16
}

// partitionAt returns where a partition lies on the ring.
func partitionAt(partition uint16) uint64 {
	return splitMix(^uint64(partition))
}

// ringPartitions returns all partitions in the order of the ring.
var ringPartitions = sync.OnceValue(func() []ringPartition {
	all := make([]ringPartition, Partitions)
	for p := range all {
		all[p] = ringPartition{partitionAt(uint16(p)), uint16(p)} //nolint:gosec // p < 2¹⁶
	}
	slices.SortFunc(all, func(a, b ringPartition) int { return cmp.Compare(a.at, b.at) })
	return all
})

// clockwise yields the nodes in the order of their first points after the
// partition.
func (r ring) clockwise(partition uint16, nodes int) iter.Seq[int32] {
	return func(yield func(int32) bool) {
		start, _ := slices.BinarySearchFunc(r, partitionAt(partition), func(p point, at uint64) int { return cmp.Compare(p.at, at) })
		seen := make([]bool, nodes)
		for left, i := nodes, start; left > 0; i++ {
			node := r[i%len(r)].node
			if seen[node] {
				continue
			}
			seen[node] = true
			left--
			if !yield(node) {
				return
			}
		}
	}
}
