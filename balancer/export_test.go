package balancer

import "github.com/cespare/xxhash/v2"

// Score returns the score of a member for a partition.
func Score(m Member, partition uint16) uint64 {
	s := newScorer(m.Name, newWeight(m.Weight))
	return s.score(quantiles()[s.rank(partition)])
}

// At returns the partition at a rank of a node's order.
func At(name string, rank uint16) uint16 {
	o := newOrder(name)
	return o.at(rank)
}

// Rank returns the rank of a partition in a node's order.
func Rank(name string, partition uint16) uint16 {
	o := newOrder(name)
	return o.rank(partition)
}

// Quantiles returns the quantiles in units of 2⁻⁶⁰.
func Quantiles() *[Partitions]uint64 { return quantiles() }

// Position returns where a user is among those that a node takes as it starts
// slowly, from 0 to 1.
func Position(user string) float64 {
	return float64(newRequest(user, nil).hash>>48) / float64(fullRamp)
}

// RingPoint returns the k-th point of a node on the ring.
func RingPoint(name string, k int) uint64 {
	return splitMix(xxhash.Sum64String(name) + uint64(k+1)*0x9e3779b97f4a7c15)
}

// RingPosition returns where a partition is on the ring.
func RingPosition(partition uint16) uint64 { return partitionAt(partition) }

// RingPoints returns how many points a ring has.
func RingPoints(t *Table) int { return len(t.ring) }
