package balancer

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
)

// Verdict says whether a node can take a new user.
type Verdict uint8

// The values of Verdict.
const (
	// Takes: it can.
	Takes Verdict = iota + 1
	// AtBound: another session would be more than its bound.
	AtBound
	// Ramping: it starts slowly, and the user is not of the part that it takes yet.
	Ramping
	// Full: it has reached its limit.
	Full
	// Weightless: its weight is 0.
	Weightless
	// Draining: it is being emptied.
	Draining
	// Down: it is not fit.
	Down
	// Gone: it is not a member any more, but has sessions.
	Gone
)

// String returns the word for logs and pages.
func (v Verdict) String() string {
	words := [...]string{Takes: "takes", AtBound: "at-bound", Ramping: "ramping", Full: "full", Weightless: "weightless", Draining: "draining", Down: "down", Gone: "gone"}
	if v == 0 || int(v) >= len(words) {
		return fmt.Sprintf("Verdict(%d)", uint8(v))
	}
	return words[v]
}

// NodeState is a node as placement sees it at a moment.
type NodeState struct {
	Member
	// Tier is asked after all lower ones; -1 for nodes that get no new users.
	Tier int
	// Partitions that it owns in the table of its tier.
	Partitions int
	// Sessions that live there, as far as this front has placed them, and External
	// those of other fronts.
	Sessions, External int
	// Bound is the most sessions it may have in all when the next one has come; 0
	// for nodes that get no new users, and for full ones.
	Bound int
	// Verdict on a new user.
	Verdict Verdict
}

// Snapshot is what a [Balancer] knows at a moment.
type Snapshot struct {
	Policy     Policy
	Users      int         // with live sessions
	Exceptions int         // users who live elsewhere than the table says
	Sessions   int         // of this front
	Waiting    int         // sessions that wait for room
	Nodes      []NodeState // sorted by name; former members that have sessions included
}

// Snapshot returns the state of all nodes.
func (b *Balancer) Snapshot() Snapshot {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := Snapshot{Policy: b.options.Policy, Users: len(b.pins), Exceptions: len(b.exceptions), Waiting: b.waiting.Len()}
	states := b.states()
	for _, name := range slices.Sorted(maps.Keys(states)) {
		s.Nodes = append(s.Nodes, states[name])
		s.Sessions += states[name].Sessions
	}
	return s
}

// Explanation says where a user's next session would go, and why.
type Explanation struct {
	User      string
	Partition uint16
	// Pinned is the node where the user has sessions, if any, and how many there
	// are.
	Pinned   string
	Sessions int
	// Shared is the node where other fronts say that the user has sessions, if any.
	Shared string
	// Node and Cause are the decision, unless Refusal says that there is none.
	Node    string
	Cause   Cause
	Refusal Reason
	// Candidates in the order in which they are asked, then the nodes that get no
	// new users, by name.
	Candidates []NodeState
}

// Explain decides where the user's next session would go, and says why.
func (b *Balancer) Explain(user string) Explanation {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := newRequest(user, nil)
	e := Explanation{User: user, Partition: r.partition(), Shared: b.shared[user]}
	if p := b.pins[user]; p != nil {
		e.Pinned, e.Sessions = p.node.Name, p.sessions
	}
	if n, cause := b.decide(r); n != nil {
		e.Node, e.Cause = n.Name, cause
	} else {
		e.Refusal = b.refusal(nil)
	}
	e.Candidates = b.candidates(r)
	return e
}

func (b *Balancer) candidates(r request) []NodeState {
	states := b.states()
	var ranked, rest []NodeState
	for _, t := range b.tiers {
		picked := t.pick(r, b.headroom)
		for i := range t.asked(r.partition()) {
			n := t.nodes[i]
			s := states[n.Name]
			if s.Verdict == Takes && n != picked && !n.ramp.admits(r.hash) {
				s.Verdict = Ramping
			}
			ranked = append(ranked, s)
		}
	}
	for _, s := range states {
		if s.Tier < 0 {
			rest = append(rest, s)
		}
	}
	slices.SortFunc(rest, func(a, b NodeState) int { return cmp.Compare(a.Name, b.Name) })
	return append(ranked, rest...)
}

// states returns the state of all nodes by name.
func (b *Balancer) states() map[string]NodeState {
	states := make(map[string]NodeState, len(b.nodes))
	for _, n := range b.nodes {
		if n.tier == nil {
			states[n.Name] = NodeState{Member: n.Member, Tier: -1, Sessions: n.sessions, External: n.external, Verdict: n.outside()}
		}
	}
	for tier, t := range b.tiers {
		for i, n := range t.nodes {
			s := NodeState{Member: n.Member, Tier: tier, Partitions: t.table.owned[i], Sessions: n.sessions, External: n.external}
			s.Bound, s.Verdict = t.judge(n, b.headroom)
			states[n.Name] = s
		}
	}
	return states
}

// judge returns a node's bound and whether it can take a new user.
func (t *tier) judge(n *node, h headroom) (bound int, v Verdict) {
	if n.full() {
		return 0, Full
	}
	bound = t.open.bound(h, n)
	if n.load() >= bound {
		return bound, AtBound
	}
	return bound, Takes
}

// outside returns why a node is in no tier.
func (n *node) outside() Verdict {
	switch {
	case !n.known:
		return Gone
	case n.Down:
		return Down
	case n.Member.Draining:
		return Draining
	default:
		return Weightless
	}
}
