package balancer

import (
	"sync"
)

// Options are the settings of a [Balancer].
type Options struct {
	// Epsilon is the headroom over an equal share, for partitions and for live
	// sessions; [DefaultEpsilon] when 0 or less.
	Epsilon float64
	// Zone is the zone of the front. When it is set, nodes of other zones get a
	// user only when none of this zone can take it.
	Zone string
}

// Balancer places sessions on nodes and counts them. It is safe for concurrent
// use.
type Balancer struct {
	epsilon  float64
	headroom headroom
	zone     string

	setting sync.Mutex // held while members are set, so that tables are built outside mu

	mu    sync.Mutex
	tiers []*tier          // in the order in which they are asked
	nodes map[string]*node // members, and former members that still have sessions
	pins  map[string]*pin  // by user
}

// node is a member and its live sessions.
type node struct {
	Member
	known    bool  // a member; false for a former one
	tier     *tier // nil when it gets no new users
	weight   weight
	sessions int
}

// pin holds a user to a node while it has live sessions.
type pin struct {
	node     *node
	sessions int
}

// New returns a balancer without members.
func New(o Options) *Balancer {
	epsilon := o.Epsilon
	if !(epsilon > 0) {
		epsilon = DefaultEpsilon
	}
	return &Balancer{
		epsilon:  epsilon,
		headroom: newHeadroom(epsilon),
		zone:     o.Zone,
		nodes:    make(map[string]*node),
		pins:     make(map[string]*pin),
	}
}

// SetMembers replaces the members. Sessions stay counted, also those on nodes that
// are no longer members. Tables of the members are built anew only where names or
// weights have changed, which takes milliseconds; other calls are not held up by it.
func (b *Balancer) SetMembers(members []Member) {
	b.setting.Lock()
	defer b.setting.Unlock()

	members = byName(members)
	tiers := b.buildTiers(members, b.currentTiers())

	b.mu.Lock()
	defer b.mu.Unlock()
	for _, n := range b.nodes {
		n.known, n.tier = false, nil
	}
	for _, m := range members {
		n := b.nodes[m.Name]
		if n == nil {
			n = new(node)
			b.nodes[m.Name] = n
		}
		n.Member, n.known, n.weight = m, true, newWeight(m.Weight)
	}
	b.tiers = tiers
	for _, t := range tiers {
		t.enlist(b.nodes)
	}
	for _, n := range b.nodes {
		b.forget(n)
	}
}

func (b *Balancer) currentTiers() []*tier {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.tiers
}

// rank says in which tier a member is asked: its own zone's nodes, other zones'
// nodes, backup nodes of its own zone, other backup nodes.
func (b *Balancer) rank(m Member) int {
	rank := 0
	if b.zone != "" && m.Zone != b.zone {
		rank++
	}
	if m.Backup {
		rank += 2
	}
	return rank
}

// buildTiers divides the members that may get new users into tiers. A table that
// one of the old tiers has already is taken over.
func (b *Balancer) buildTiers(members []Member, old []*tier) []*tier {
	ranks := make([][]Member, 4)
	for _, m := range members {
		if !m.Down && !m.Draining && newWeight(m.Weight) > 0 {
			r := b.rank(m)
			ranks[r] = append(ranks[r], m)
		}
	}
	var tiers []*tier
	for _, members := range ranks {
		if len(members) > 0 {
			tiers = append(tiers, &tier{table: b.table(members, old)})
		}
	}
	return tiers
}

func (b *Balancer) table(members []Member, old []*tier) *Table {
	for _, t := range old {
		if t.table.isOf(members) {
			return t.table
		}
	}
	return BuildTable(members, b.epsilon)
}

// Acquire places one session of a user and counts it until the lease is released.
// A node for which tried returns true has failed to take the session already and
// is passed over; a nil tried stands for none. It is called with the balancer
// locked, so it must be quick and must not call the balancer.
//
// A user with live sessions joins them, over the bound and over the node's limit
// too, and while the node is draining; not when the node is down, gone, or tried.
// The user is then pinned to its new node, while older sessions stay counted where
// they are.
//
// The error is a [*Refusal].
func (b *Balancer) Acquire(user string, tried func(node string) bool) (*Lease, error) {
	partition := Partition(user)
	b.mu.Lock()
	defer b.mu.Unlock()
	n, cause := b.decide(user, partition, tried)
	if n == nil {
		return nil, &Refusal{User: user, Reason: b.refusal(tried)}
	}
	return b.lease(user, n, cause), nil
}

// decide chooses a node and says why; nil when no node can take the session.
func (b *Balancer) decide(user string, partition uint16, tried func(string) bool) (*node, Cause) {
	if p := b.pins[user]; p != nil && p.node.joinable(tried) {
		return p.node, Joined
	}
	for i, t := range b.tiers {
		n := t.pick(partition, b.headroom, tried)
		if n == nil {
			continue
		}
		owner := t.owner(partition)
		switch {
		case i > 0:
			return n, Spilled
		case n == owner:
			return n, Owned
		case tried != nil && tried(owner.Name):
			return n, Retried
		default:
			return n, Overflowed
		}
	}
	return nil, 0
}

// refusal returns why no node can take a session: the reason that has most hope.
func (b *Balancer) refusal(tried func(string) bool) Reason {
	reason := NoMembers
	for _, n := range b.nodes {
		if n.known {
			reason = max(reason, n.reason(tried))
		}
	}
	return reason
}

// lease counts a session.
func (b *Balancer) lease(user string, n *node, cause Cause) *Lease {
	p := b.pins[user]
	if p == nil {
		p = new(pin)
		b.pins[user] = p
	}
	p.node = n
	p.sessions++
	n.count(1)
	return &Lease{balancer: b, user: user, node: n, cause: cause}
}

// release ends what lease began.
func (b *Balancer) release(user string, n *node) {
	p := b.pins[user]
	p.sessions--
	if p.sessions == 0 {
		delete(b.pins, user)
	}
	n.count(-1)
	b.forget(n)
}

// forget drops a node that is no member and has no sessions.
func (b *Balancer) forget(n *node) {
	if !n.known && n.sessions == 0 {
		delete(b.nodes, n.Name)
	}
}

// Lease is one session's place on a node.
type Lease struct {
	balancer *Balancer
	user     string
	node     *node // nil when released; guarded by balancer.mu
	cause    Cause
}

// Node returns the name of the node; "" when the lease is released.
func (l *Lease) Node() string {
	l.balancer.mu.Lock()
	defer l.balancer.mu.Unlock()
	if l.node == nil {
		return ""
	}
	return l.node.Name
}

// Cause returns why the session is placed where it is.
func (l *Lease) Cause() Cause { return l.cause }

// Release ends the session. Further calls do nothing.
func (l *Lease) Release() {
	l.balancer.mu.Lock()
	defer l.balancer.mu.Unlock()
	if l.node != nil {
		l.balancer.release(l.user, l.node)
		l.node = nil
	}
}
