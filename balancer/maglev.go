package balancer

// BuildMaglev distributes the partitions over the members that have a weight as
// Maglev does (Eisenbud et al., NSDI 2016, section 3.4): in rounds, in which every
// node takes the partition that it likes best of those still free. Nodes of lower
// weight sit out rounds until a whole partition is due to them. So equal nodes own
// the same to within one partition, and others their shares to within as many
// partitions as there are nodes. Of members with the same name the one with the
// greatest weight counts.
func BuildMaglev(members []Member) *Table {
	t := newTable(members, ByMaglev, 0)
	if len(t.names) > 0 {
		t.takeTurns()
	}
	return t
}

// takeTurns gives the partitions out in rounds.
func (t *Table) takeTurns() {
	const free = nobody
	t.owners = make([]int32, Partitions)
	for p := range t.owners {
		t.owners[p] = free
	}
	tried := make([]int, len(t.names)) // how far down its order each node is
	var heaviest weight
	for _, w := range t.weights {
		heaviest = max(heaviest, w)
	}
	for round, left := weight(1), Partitions; ; round++ {
		for i, w := range t.weights {
			if round*w < weight(t.owned[i]+1)*heaviest { //nolint:gosec // at most 2¹⁶
				continue
			}
			p := t.scorers[i].at(uint16(tried[i])) //nolint:gosec // at most 2¹⁶, as one is free
			for t.owners[p] != free {
				tried[i]++
				p = t.scorers[i].at(uint16(tried[i])) //nolint:gosec // as above
			}
			t.owners[p] = int32(i) //nolint:gosec // fewer nodes than 2³¹
			t.owned[i]++
			if left--; left == 0 {
				return
			}
		}
	}
}
