package balancer

import "fmt"

// Policy says in which order the nodes of a tier are asked to take a new user.
// The rest is the same under every policy: a user who has live sessions joins
// them, and the first node asked that is within its limit and its live bound gets
// the session.
type Policy uint8

// The values of Policy.
const (
	// ByTable asks in the order of [Table.Ranked] of the partition table. Fronts
	// that know the same nodes agree.
	ByTable Policy = iota
	// ByRing asks clockwise on a ring with [BuildRing]'s points: consistent hashing
	// with bounded loads as in HAProxy (hash-type consistent with
	// hash-balance-factor) and Envoy (ring_hash with hash_balance_factor), whose
	// factor in percent is 100·(1+ε). Fronts that know the same nodes agree. It
	// spreads users less evenly than ByTable.
	ByRing
	// ByMaglev asks the owner in Maglev's table first, see [BuildMaglev], and then
	// by score. Fronts that know the same nodes agree. Shares are nearly
	// exact; a change of the nodes moves some partitions that it need not move.
	ByMaglev
	// LeastSessions asks the node with the fewest sessions for its weight first; of
	// nodes that are equal in this, the one that ranks first for the partition.
	LeastSessions
	// PowerOfTwo asks, of the two nodes that rank first for the partition by score,
	// the one with fewer sessions for its weight; then the other, then the next
	// two. A user comes back to the same two nodes, so no chance is involved.
	PowerOfTwo
	// RoundRobin asks the nodes in turn, in proportion to their weights.
	RoundRobin
)

// policyNames are the words for configuration and logs.
var policyNames = [...]string{
	ByTable: "table", ByRing: "ring", ByMaglev: "maglev",
	LeastSessions: "least-sessions", PowerOfTwo: "power-of-two", RoundRobin: "round-robin",
}

// String returns the word for configuration and logs.
func (p Policy) String() string {
	if int(p) >= len(policyNames) {
		return fmt.Sprintf("Policy(%d)", uint8(p))
	}
	return policyNames[p]
}

// ParsePolicy is the inverse of [Policy.String]. The empty word is [ByTable].
func ParsePolicy(word string) (Policy, error) {
	if word == "" {
		return ByTable, nil
	}
	for p, name := range policyNames {
		if name == word {
			return Policy(p), nil //nolint:gosec // a handful
		}
	}
	return 0, fmt.Errorf("placement policy %q is none of %q", word, policyNames)
}
