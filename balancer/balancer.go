package balancer

import (
	"container/list"
	"sync"

	"github.com/cespare/xxhash/v2"
)

// Options are the settings of a [Balancer].
type Options struct {
	// Policy is the order in which nodes are asked; [ByTable] when not set.
	Policy Policy
	// Epsilon is the headroom over an equal share, for partitions and for live
	// sessions; [DefaultEpsilon] when 0 or less.
	Epsilon float64
	// Zone is the zone of the front. When it is set, nodes of other zones get a
	// user only when none of this zone can take it.
	Zone string
	// Queue is how many sessions may wait in [Balancer.AcquireWait] at a time;
	// [DefaultQueue] when 0 or less.
	Queue int
}

// DefaultQueue is how many sessions may wait for room, unless [Options] say
// otherwise.
const DefaultQueue = 1024

func (o Options) withDefaults() Options {
	if !(o.Epsilon > 0) { // NaN too
		o.Epsilon = DefaultEpsilon
	}
	if o.Queue <= 0 {
		o.Queue = DefaultQueue
	}
	return o
}

// Balancer places sessions on nodes and counts them. It is safe for concurrent
// use.
type Balancer struct {
	// Held while members, options or what peers say are set, so that tables are
	// built outside mu.
	setting  sync.Mutex
	members  []Member               // sorted by name, as set
	peers    map[string][]Exception // by front
	external map[string]int         // sessions of other fronts, by node

	mu         sync.Mutex
	options    Options
	headroom   headroom
	tiers      []*tier           // in the order in which they are asked
	nodes      map[string]*node  // members, and former members that still have sessions
	pins       map[string]*pin   // by user
	exceptions map[string]*pin   // those elsewhere than at home, by user
	shared     map[string]string // node on which other fronts have a user
	waiting    list.List         // of *waiter, first come first
}

// node is a member and its live sessions.
type node struct {
	Member
	known    bool  // a member; false for a former one
	tier     *tier // nil when it gets no new users
	weight   weight
	ramp     ramp
	sessions int    // of this front
	external int    // of other fronts
	turnEnd  uint64 // of its last turn, in the time of its tier
}

// pin holds a user to a node while it has live sessions.
type pin struct {
	node      *node
	partition uint16
	sessions  int
}

// request is a user who wants a session.
type request struct {
	user  string
	hash  uint64
	tried func(node string) bool
}

func newRequest(user string, tried func(node string) bool) request {
	return request{user, xxhash.Sum64String(user), tried}
}

// partition returns the partition of the user, see [Partition].
func (r request) partition() uint16 {
	return uint16(r.hash % Partitions)
}

// New returns a balancer without members.
func New(o Options) *Balancer {
	o = o.withDefaults()
	return &Balancer{
		peers:      make(map[string][]Exception),
		options:    o,
		headroom:   newHeadroom(o.Epsilon),
		nodes:      make(map[string]*node),
		pins:       make(map[string]*pin),
		exceptions: make(map[string]*pin),
	}
}

// SetMembers replaces the members. Sessions stay counted, also those on nodes that
// are no longer members. Tables of the members are built anew only where names or
// weights have changed, which takes milliseconds; other calls are not held up by it.
func (b *Balancer) SetMembers(members []Member) {
	b.setting.Lock()
	defer b.setting.Unlock()
	b.members = byName(members)
	b.rebuild(b.current())
}

// Configure replaces the options. Members, sessions, pins and those who wait stay.
func (b *Balancer) Configure(o Options) {
	b.setting.Lock()
	defer b.setting.Unlock()
	b.rebuild(o.withDefaults())
}

// current returns the options in force.
func (b *Balancer) current() Options {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.options
}

// rebuild puts the members, and options, into force.
func (b *Balancer) rebuild(o Options) {
	tiers := buildTiers(b.members, o, b.currentTiers())

	b.mu.Lock()
	defer b.mu.Unlock()
	b.options, b.headroom = o, newHeadroom(o.Epsilon)
	moved := home(tiers) != home(b.tiers)
	b.tiers = tiers
	b.enroll()
	if moved {
		b.findExceptions()
	}
	b.serve()
}

// enroll makes the members known, and the nodes of tiers part of them.
func (b *Balancer) enroll() {
	for _, n := range b.nodes {
		n.leave()
	}
	for _, m := range b.members {
		n := b.nodes[m.Name]
		if n == nil {
			n = &node{external: b.external[m.Name]}
			b.nodes[m.Name] = n
		}
		n.Member, n.known, n.weight, n.ramp = m, true, newWeight(m.Weight), newRamp(m.Ramp)
	}
	for _, t := range b.tiers {
		t.enlist(b.nodes)
	}
	for _, n := range b.nodes {
		b.forget(n)
	}
}

// leave makes the node a former member. What it is ahead of the others in taking
// turns it keeps.
func (n *node) leave() {
	if n.tier != nil {
		n.turnEnd -= min(n.turnEnd, n.tier.turn)
	}
	n.known, n.tier = false, nil
}

func (b *Balancer) currentTiers() []*tier {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.tiers
}

// rank says in which tier a member is asked: its own zone's nodes, other zones'
// nodes, backup nodes of its own zone, other backup nodes.
func (o Options) rank(m Member) int {
	rank := 0
	if o.Zone != "" && m.Zone != o.Zone {
		rank++
	}
	if m.Backup {
		rank += 2
	}
	return rank
}

// buildTiers divides the members that may get new users into tiers. A table that
// one of the old tiers has already is taken over.
func buildTiers(members []Member, o Options, old []*tier) []*tier {
	ranks := make([][]Member, 4)
	for _, m := range members {
		if !m.Down && !m.Draining && newWeight(m.Weight) > 0 {
			r := o.rank(m)
			ranks[r] = append(ranks[r], m)
		}
	}
	var tiers []*tier
	for _, members := range ranks {
		if len(members) > 0 {
			tiers = append(tiers, &tier{table: o.table(members, old)})
		}
	}
	return tiers
}

func (o Options) table(members []Member, old []*tier) *Table {
	for _, t := range old {
		if t.table.isOf(o.Policy, members, newHeadroom(o.Epsilon)) {
			return t.table
		}
	}
	return build(o.Policy, members, o.Epsilon)
}

// home returns the table by which users are at home on nodes; nil without members.
func home(tiers []*tier) *Table {
	if len(tiers) == 0 {
		return nil
	}
	return tiers[0].table
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
	r := newRequest(user, tried)
	b.mu.Lock()
	defer b.mu.Unlock()
	if lease := b.acquire(r); lease != nil {
		return lease, nil
	}
	reason := b.refusal(tried)
	return nil, &Refusal{User: user, Reason: reason, Lack: reason}
}

// acquire places a session; nil when no node can take it.
func (b *Balancer) acquire(r request) *Lease {
	n, cause := b.decide(r)
	if n == nil {
		return nil
	}
	return b.lease(r, n, cause)
}

// decide chooses a node and says why; nil when no node can take the session.
func (b *Balancer) decide(r request) (*node, Cause) {
	if p := b.pins[r.user]; p != nil && p.node.joinable(r.tried) {
		return p.node, Joined
	}
	if n := b.sharedNode(r.user); n != nil && n.joinable(r.tried) {
		return n, Shared
	}
	for i, t := range b.tiers {
		if n := t.pick(r, b.headroom); n != nil {
			return n, t.cause(r, n, i)
		}
	}
	return nil, 0
}

// sharedNode returns the node on which other fronts have the user; nil when there
// is none.
func (b *Balancer) sharedNode(user string) *node {
	if name, ok := b.shared[user]; ok {
		return b.nodes[name]
	}
	return nil
}

// cause says why the i-th tier chose a node.
func (t *tier) cause(r request, n *node, i int) Cause {
	owner := t.owner(r.partition())
	switch {
	case i > 0:
		return Spilled
	case owner == nil:
		return Chosen
	case n == owner:
		return Owned
	case r.tried != nil && r.tried(owner.Name):
		return Retried
	default:
		return Overflowed
	}
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
func (b *Balancer) lease(r request, n *node, cause Cause) *Lease {
	p := b.pins[r.user]
	if p == nil {
		p = &pin{partition: r.partition()}
		b.pins[r.user] = p
	}
	p.node = n
	p.sessions++
	b.classify(r.user, p)
	n.count(1, 0)
	if n.tier != nil && cause != Joined && cause != Shared {
		n.tier.took(n)
	}
	return &Lease{balancer: b, user: r.user, node: n, cause: cause}
}

// release ends what lease began.
func (b *Balancer) release(user string, n *node) {
	p := b.pins[user]
	p.sessions--
	if p.sessions == 0 {
		delete(b.pins, user)
		delete(b.exceptions, user)
	}
	n.count(-1, 0)
	b.forget(n)
	b.serveRoom()
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
