package balancer

import "iter"

// tier is a set of nodes that are asked together, before the nodes of the next
// tier. Its average and bounds are its own.
type tier struct {
	table *Table

	nodes   []*node // by index in the table
	open    load    // of the nodes that can take a session
	ramping bool    // whether some node starts slowly
	turn    uint64  // when the last turn began, in the time of [node.turnEnd]
}

// load is what a set of nodes carries.
type load struct {
	sessions int
	weight   weight
}

func (l *load) add(n *node) {
	l.sessions += n.load()
	l.weight += n.ramp.of(n.weight)
}

func (l *load) remove(n *node) {
	l.sessions -= n.load()
	l.weight -= n.ramp.of(n.weight)
}

// enlist finds the tier's nodes and adds up their load.
func (t *tier) enlist(nodes map[string]*node) {
	t.nodes = make([]*node, t.table.Len())
	for i, name := range t.table.names {
		n := nodes[name]
		n.tier = t
		t.nodes[i] = n
		t.ramping = t.ramping || n.ramp < fullRamp
		if !n.full() {
			t.open.add(n)
		}
	}
}

// owner returns the node that owns a partition; nil under a policy without owners.
func (t *tier) owner(partition uint16) *node {
	if t.table.owners == nil {
		return nil
	}
	return t.nodes[t.table.owners[partition]]
}

// pick returns the first node in the policy's order that can take a session
// within its bound; nil when none can take one at all.
//
// Bounds are relative to the average over the nodes that can take a session, so
// one of those is always within its bound. When all that are within theirs start
// slowly and would leave the user to others, the first of them takes it.
func (t *tier) pick(r request, h headroom) *node {
	open := t.load(r.tried)
	if open.weight == 0 {
		return nil
	}
	if n := t.owner(r.partition()); n != nil && n.ramp.admits(r.hash) && n.fits(r, open, h) {
		return n
	}
	return t.search(r, open, h)
}

// search is the long way to pick: it asks the nodes one after the other.
func (t *tier) search(r request, open load, h headroom) *node {
	var reluctant *node
	for i := range t.asked(r.partition()) {
		n := t.nodes[i]
		if !n.fits(r, open, h) {
			continue
		}
		if n.ramp.admits(r.hash) {
			return n
		}
		if reluctant == nil {
			reluctant = n
		}
	}
	return reluctant
}

// fits says whether a node can take a session within its bound, when the nodes
// that can take it carry the load.
func (n *node) fits(r request, open load, h headroom) bool {
	return n.takes(r.tried) && n.load() < open.bound(h, n)
}

// asked yields the indexes of the nodes in the policy's order.
func (t *tier) asked(partition uint16) iter.Seq[int32] {
	switch t.table.policy {
	case LeastSessions:
		return t.leastFirst(partition)
	case PowerOfTwo:
		return t.pairs(partition)
	case RoundRobin:
		return t.inTurn()
	default:
		return t.table.ranked(partition)
	}
}

// leastFirst yields the nodes with the fewest sessions for their weight first, and
// those that are equal in this by score.
func (t *tier) leastFirst(partition uint16) iter.Seq[int32] {
	return t.ascending(func(i, j int32) bool {
		a, b := t.nodes[i], t.nodes[j]
		if a.lighter(b) || b.lighter(a) {
			return a.lighter(b)
		}
		return t.table.claim(i, partition).before(t.table.claim(j, partition))
	})
}

// lighter says whether a node would have fewer sessions for its weight than
// another if both had one more.
func (n *node) lighter(m *node) bool {
	return weight(n.load()+1)*m.weight < weight(m.load()+1)*n.weight //nolint:gosec // not negative
}

// pairs yields the nodes by score, of each two the one with fewer sessions for its
// weight first.
func (t *tier) pairs(partition uint16) iter.Seq[int32] {
	return func(yield func(int32) bool) {
		first := int32(-1)
		for i := range t.table.byScore(partition) {
			if first < 0 {
				first = i
				continue
			}
			one, other := first, i
			if t.nodes[other].lighter(t.nodes[one]) {
				one, other = other, one
			}
			first = -1
			if !yield(one) || !yield(other) {
				return
			}
		}
		if first >= 0 {
			yield(first)
		}
	}
}

// inTurn yields the nodes in the order in which their next turns would end.
func (t *tier) inTurn() iter.Seq[int32] {
	return t.ascending(func(i, j int32) bool {
		a, b := t.nodes[i].nextTurn(t.turn), t.nodes[j].nextTurn(t.turn)
		return a < b || a == b && i < j
	})
}

// nextTurn returns when the node's next turn would end. Turns take a time that is
// inverse to the weight. A node that could not take its turns has lost them.
func (n *node) nextTurn(now uint64) uint64 {
	const length = 1 << 36 // of a turn of a node with the least weight
	return max(n.turnEnd, now) + length/uint64(n.weight)
}

// took notes that a node has been given a new user.
func (t *tier) took(n *node) {
	if t.table.policy == RoundRobin {
		end := n.nextTurn(t.turn)
		t.turn, n.turnEnd = max(n.turnEnd, t.turn), end
	}
}

// ascending yields the indexes of all nodes in a strict order, with nothing
// stored: mostly the first is enough.
func (t *tier) ascending(before func(i, j int32) bool) iter.Seq[int32] {
	return func(yield func(int32) bool) {
		last := int32(-1)
		for range t.nodes {
			next := int32(-1)
			for i := range int32(len(t.nodes)) { //nolint:gosec // fewer nodes than 2³¹
				if (last < 0 || before(last, i)) && (next < 0 || before(i, next)) {
					next = i
				}
			}
			if !yield(next) {
				return
			}
			last = next
		}
	}
}

// load returns the load of the nodes that can take a session.
func (t *tier) load(tried func(string) bool) load {
	open := t.open
	if tried == nil {
		return open
	}
	for _, n := range t.nodes {
		if !n.full() && tried(n.Name) {
			open.remove(n)
		}
	}
	return open
}

// bound returns how many sessions a node may hold once another has come.
func (l load) bound(h headroom, n *node) int {
	return h.share(l.sessions+1, n.ramp.of(n.weight), l.weight)
}

// load returns the sessions on the node, those of other fronts included.
func (n *node) load() int { return n.sessions + n.external }

// full says whether a node has reached its limit.
func (n *node) full() bool { return n.Limit > 0 && n.load() >= n.Limit }

// takes says whether a node of a tier can take a new user.
func (n *node) takes(tried func(string) bool) bool {
	return !n.full() && (tried == nil || !tried(n.Name))
}

// joinable says whether users who have sessions on the node can have more.
func (n *node) joinable(tried func(string) bool) bool {
	return n.known && !n.Down && (tried == nil || !tried(n.Name))
}

// count adds to the sessions of the node, this front's and the others', and keeps
// its tier's load right.
func (n *node) count(sessions, external int) {
	if n.tier != nil && !n.full() {
		n.tier.open.remove(n)
	}
	n.sessions += sessions
	n.external += external
	if n.tier != nil && !n.full() {
		n.tier.open.add(n)
	}
}

// reason returns what keeps a new user from a node.
func (n *node) reason(tried func(string) bool) Reason {
	switch {
	case n.tier == nil:
		return NoneUp
	case tried != nil && tried(n.Name):
		return NoneLeft
	default:
		return AllFull
	}
}
