package balancer

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
