package balancer

import (
	"cmp"
	"iter"
	"math"
	"math/bits"
	"slices"
)

// DefaultEpsilon is the headroom over an equal share that suits most clusters.
const DefaultEpsilon = 0.25

// Table says which node owns which partition. It is immutable. [BuildTable] makes
// the one that is meant for this package; [BuildRing] and [BuildMaglev] make others.
type Table struct {
	names    []string // sorted: position is identity inside the table only
	weights  []weight
	total    weight // sum of weights
	policy   Policy // by which partitions are owned
	headroom headroom
	scorers  []scorer
	owners   []int32 // partition → index of its owner; nil when there is none
	owned    []int   // how many partitions each owns
	ring     ring    // of ByRing
}

// BuildTable distributes the partitions over the members that have a weight; it
// looks at their names and weights only. No member owns more than
// ⌈(1+epsilon)·its share⌉ partitions. Of members with the same name the one with
// the greatest weight counts.
//
// Partition and member are matched in the order of their score: the pair with the
// lowest score first, if the member has room. So the result does not depend on
// the order of the members.
func BuildTable(members []Member, epsilon float64) *Table {
	t := newTable(members, ByTable, newHeadroom(epsilon))
	if len(t.names) > 0 {
		t.settle(t.firstClaims())
	}
	return t
}

// newTable returns a table of the members that have a weight, in which nobody
// owns a partition yet.
func newTable(members []Member, policy Policy, h headroom) *Table {
	t := &Table{policy: policy, headroom: h}
	for _, m := range byName(members) {
		w := newWeight(m.Weight)
		if w == 0 {
			continue
		}
		t.names = append(t.names, m.Name)
		t.weights = append(t.weights, w)
		t.scorers = append(t.scorers, newScorer(m.Name, w))
		t.total += w
	}
	t.owned = make([]int, len(t.names))
	return t
}

// build returns the table that a policy needs. Where the policy is one without
// owners it serves to rank nodes by score.
func build(policy Policy, members []Member, epsilon float64) *Table {
	switch policy {
	case ByRing:
		return BuildRing(members)
	case ByMaglev:
		return BuildMaglev(members)
	case ByTable:
		return BuildTable(members, epsilon)
	default:
		return newTable(members, policy, newHeadroom(epsilon))
	}
}

// byName returns the members sorted, one of each name.
func byName(members []Member) []Member {
	sorted := slices.SortedFunc(slices.Values(members), func(a, b Member) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(b.Weight, a.Weight))
	})
	return slices.CompactFunc(sorted, func(a, b Member) bool { return a.Name == b.Name })
}

// Len returns the number of nodes that own partitions.
func (t *Table) Len() int { return len(t.names) }

// Owner returns the node that owns a partition, "" when there are no nodes.
func (t *Table) Owner(partition uint16) string {
	if t.owners == nil {
		return ""
	}
	return t.names[t.owners[partition]]
}

// Lookup returns the node that owns the partition of a user.
func (t *Table) Lookup(user string) string { return t.Owner(Partition(user)) }

// Ranked yields the nodes for a partition in the order in which they are asked to
// serve it: its owner, then the others by score, or as they follow on the ring.
func (t *Table) Ranked(partition uint16) iter.Seq[string] {
	return func(yield func(string) bool) {
		for i := range t.ranked(partition) {
			if !yield(t.names[i]) {
				return
			}
		}
	}
}

// Owned returns how many partitions each node owns.
func (t *Table) Owned() map[string]int {
	owned := make(map[string]int, len(t.names))
	for i, name := range t.names {
		owned[name] = t.owned[i]
	}
	return owned
}

// isOf says whether the table is the one that build returns for these members,
// which are sorted by name and have a weight.
func (t *Table) isOf(policy Policy, members []Member, h headroom) bool {
	return t.policy == policy && (policy != ByTable || t.headroom == h) &&
		slices.EqualFunc(members, t.names, func(m Member, name string) bool { return m.Name == name }) &&
		slices.EqualFunc(members, t.weights, func(m Member, w weight) bool { return newWeight(m.Weight) == w })
}

// limit returns how many partitions a node may own.
func (t *Table) limit(node int) int {
	return t.headroom.share(Partitions, t.weights[node], t.total)
}

// claim is a pair of a partition and a node. Claims are ordered by score; two
// nodes that score the same, by name.
type claim struct {
	score     uint64
	node      int32
	partition uint16
}

// before says whether a node prefers c, or a partition does.
func (c claim) before(d claim) bool {
	return c.score < d.score || c.score == d.score && c.node < d.node
}

// nobody is worse than every claim.
const nobody int32 = math.MaxInt32

// firstClaims returns for each partition the claim with the lowest score.
//
// It walks every node's order as far as the score may still be the lowest for
// some partition. The lowest is beyond the reach chosen here for e⁻⁷ of the
// partitions, about 60 in all; they are looked up one by one.
func (t *Table) firstClaims() []claim {
	reach := uint64(7<<60) / uint64(t.total)
	best := make([]claim, Partitions)
	for p := range best {
		best[p] = noClaim(uint16(p)) //nolint:gosec // p < 2¹⁶
	}
	for i := range t.scorers {
		s := &t.scorers[i]
		for rank, q := range quantiles() {
			score := s.score(q)
			if score > reach {
				break
			}
			p := s.at(uint16(rank))                                  //nolint:gosec // rank < 2¹⁶
			if c := (claim{score, int32(i), p}); c.before(best[p]) { //nolint:gosec // fewer nodes than 2³¹
				best[p] = c
			}
		}
	}
	for p, c := range best {
		if c.node == nobody {
			best[p] = t.first(uint16(p)) //nolint:gosec // p < 2¹⁶
		}
	}
	return best
}

// noClaim is worse than every claim on the partition.
func noClaim(partition uint16) claim { return claim{math.MaxUint64, nobody, partition} }

// first returns the claim on a partition with the lowest score.
func (t *Table) first(partition uint16) claim {
	return t.next(claim{node: -1, partition: partition})
}

// claim returns a node's claim on a partition.
func (t *Table) claim(node int32, partition uint16) claim {
	s := &t.scorers[node]
	return claim{s.score(quantiles()[s.rank(partition)]), node, partition}
}

// next returns the claim on a partition that follows c, or one of nobody.
func (t *Table) next(c claim) claim {
	following := noClaim(c.partition)
	for i := range t.scorers {
		d := t.claim(int32(i), c.partition) //nolint:gosec // fewer nodes than 2³¹
		if c.before(d) && d.before(following) {
			following = d
		}
	}
	return following
}

// settle gives every partition to the node that claims it first, and where that
// is more than the node's limit, moves the partitions that it scores worst to their
// next node, which may have to give up one that it scores worse in turn. This is
// deferred acceptance; its outcome does not depend on the order of the moves, and
// is the one that [BuildTable] promises.
func (t *Table) settle(claims []claim) {
	held := newHoldings(t, claims)
	for i := range held {
		for h := &held[i]; len(h.claims) > t.limit(i); {
			t.place(held, h.giveUp())
		}
	}
	t.owners = make([]int32, Partitions)
	for i, h := range held {
		t.owned[i] = len(h.claims)
		for _, c := range h.claims {
			t.owners[c.partition] = c.node
		}
	}
}

// place finds a new owner for a partition that was given up, and for the one that
// the new owner has to give up for it, and so on.
func (t *Table) place(held []holding, c claim) {
	for {
		c = t.next(c)
		h := &held[c.node]
		h.take(c)
		if len(h.claims) <= t.limit(int(c.node)) {
			return
		}
		c = h.giveUp()
	}
}

// ranked yields the indexes of the nodes in the order of Ranked.
func (t *Table) ranked(partition uint16) iter.Seq[int32] {
	return func(yield func(int32) bool) {
		if t.owners == nil {
			return
		}
		owner := t.owners[partition]
		if !yield(owner) {
			return
		}
		for i := range t.followers(partition) {
			if i != owner && !yield(i) {
				return
			}
		}
	}
}

// followers yields the indexes of the nodes in the order in which they come after
// the owner, who is among them.
func (t *Table) followers(partition uint16) iter.Seq[int32] {
	if t.policy == ByRing {
		return t.ring.clockwise(partition, len(t.names))
	}
	return t.byScore(partition)
}

// byScore yields the indexes of the nodes, the lowest score first.
func (t *Table) byScore(partition uint16) iter.Seq[int32] {
	return func(yield func(int32) bool) {
		for c := t.first(partition); c.node != nobody; c = t.next(c) {
			if !yield(c.node) {
				return
			}
		}
	}
}

// headroom is 1+ε in units of 2⁻¹⁶.
type headroom uint64

const headroomUnit = 1 << 16

func newHeadroom(epsilon float64) headroom {
	const most = 1000
	if !(epsilon > 0) { // NaN too
		epsilon = 0
	}
	return headroomUnit + headroom(min(epsilon, most)*headroomUnit+0.5)
}

// share returns ⌈(1+ε)·n·w/total⌉, for 0 ≤ n < 2³⁷.
func (h headroom) share(n int, w, total weight) int {
	hi, lo := bits.Mul64(uint64(h)*uint64(n), uint64(w)) //nolint:gosec // n is not negative
	quotient, rest := bits.Div64(hi, lo, headroomUnit*uint64(total))
	if rest > 0 {
		quotient++
	}
	return int(min(quotient, math.MaxInt)) //nolint:gosec // bounded
}
