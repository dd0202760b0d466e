package balancer

// tier is a set of nodes that are asked together, before the nodes of the next
// tier. Its average and bounds are its own.
type tier struct {
	table *Table

	nodes []*node // by index in the table
	open  load    // of the nodes that can take a session
}

// load is what a set of nodes carries.
type load struct {
	sessions int
	weight   weight
}

func (l *load) add(n *node) {
	l.sessions += n.sessions
	l.weight += n.weight
}

func (l *load) remove(n *node) {
	l.sessions -= n.sessions
	l.weight -= n.weight
}

// enlist finds the tier's nodes and adds up their load.
func (t *tier) enlist(nodes map[string]*node) {
	t.nodes = make([]*node, t.table.Len())
	for i, name := range t.table.names {
		n := nodes[name]
		n.tier = t
		t.nodes[i] = n
		if !n.full() {
			t.open.add(n)
		}
	}
}

// owner returns the node that owns a partition.
func (t *tier) owner(partition uint16) *node { return t.nodes[t.table.owners[partition]] }

// pick returns the first-ranked node that can take a session of the partition
// within its bound; nil when none can take one at all.
//
// Bounds are relative to the average over the nodes that can take a session, so
// one of those is always within its bound.
func (t *tier) pick(partition uint16, h headroom, tried func(string) bool) *node {
	open := t.load(tried)
	if open.weight == 0 {
		return nil
	}
	for i := range t.table.ranked(partition) {
		if n := t.nodes[i]; n.takes(tried) && n.sessions < open.bound(h, n) {
			return n
		}
	}
	return nil
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
	return h.share(l.sessions+1, n.weight, l.weight)
}

// full says whether a node has reached its limit.
func (n *node) full() bool { return n.Limit > 0 && n.sessions >= n.Limit }

// takes says whether a node of a tier can take a new user.
func (n *node) takes(tried func(string) bool) bool {
	return !n.full() && (tried == nil || !tried(n.Name))
}

// joinable says whether users who have sessions on the node can have more.
func (n *node) joinable(tried func(string) bool) bool {
	return n.known && !n.Down && (tried == nil || !tried(n.Name))
}

// count adds to the sessions of the node and keeps its tier's load right.
func (n *node) count(sessions int) {
	if n.tier == nil {
		n.sessions += sessions
		return
	}
	if !n.full() {
		n.tier.open.remove(n)
	}
	n.sessions += sessions
	if !n.full() {
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
