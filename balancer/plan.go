package balancer

import (
	"cmp"
	"iter"
	"slices"
)

// Session is a live session as [Plan] sees it.
type Session struct {
	ID   string // names the session for the caller
	User string
	Node string
}

// Move takes a session from its node to another.
type Move struct {
	Session
	To string
	// Forced is set when the session's node is to be left: it is draining, down or
	// no member any more. Other moves are for the balance only.
	Forced bool
}

// PlanOptions are the settings of [Plan].
type PlanOptions struct {
	Options
	// Share is the most sessions that are moved for the balance only, as a part of
	// all: 0 moves none, 1 all that are not at home.
	Share float64
}

// Moves is what [Plan] returns.
type Moves struct {
	// Moves in the order in which they are best made. Those that are forced come
	// first. In each of the two parts any k moves in a row have at most
	// (k + targets)·share + 1 users for a target that gets that share of the part.
	// So a caller who makes them at an even pace loads all targets evenly. A user's
	// sessions follow each other.
	Moves []Move
	// Stranded are those that must move and have nowhere to go.
	Stranded []Session
	// Deferred is how many sessions stay away from home because the share is used
	// up or their home has no room.
	Deferred int
}

// Plan says which sessions to move when the members change from old to others. It
// is a function of its arguments: the order of the members and sessions means
// nothing.
//
// The sessions of a node that is draining, down or gone must move. Of the rest,
// those whose users were at home in the old table and are not in the new one may
// move, to their new home only; users who were elsewhere already stay. All
// sessions that a user has on a node move together, and join other sessions of the
// user that stay. Bounds, limits and ramps of the new members are kept, with the
// sessions counted that stay. Which users move for the balance is drawn by their hashes, so
// a plan with a greater share moves the same ones and more.
//
// A plan that its share has cut short is continued by planning again with the same
// old members.
func Plan(old, members []Member, sessions iter.Seq[Session], o PlanOptions) Moves {
	was := New(o.Options)
	was.SetMembers(old)
	p := planner{was: home(was.tiers), now: New(o.Options)}
	p.now.SetMembers(members)
	p.sort(sessions)
	p.stay()
	p.evacuate()
	p.rebalance(o.Share)
	p.result.Moves = slices.Concat(interleave(p.must), interleave(p.may))
	return p.result
}

// party is the sessions that a user has on a node.
type party struct {
	request
	node     string
	sessions []Session
}

// planner is a plan in the making.
type planner struct {
	was *Table // by which users were at home; nil when there were no nodes
	now *Balancer

	staying, forced, displaced []party // by what becomes of them
	total                      int     // sessions

	must, may []departure
	result    Moves
}

// departure is a party that moves.
type departure struct {
	party
	to     string
	forced bool
}

// sort divides the sessions into parties, in the order of their hashes, and these
// by what becomes of them.
func (p *planner) sort(sessions iter.Seq[Session]) {
	all := slices.SortedFunc(sessions, func(a, b Session) int {
		return cmp.Or(cmp.Compare(a.User, b.User), cmp.Compare(a.Node, b.Node), cmp.Compare(a.ID, b.ID))
	})
	p.total = len(all)
	var parties []party
	for together := range chunks(all) {
		parties = append(parties, party{newRequest(together[0].User, nil), together[0].Node, together})
	}
	slices.SortStableFunc(parties, func(a, b party) int { return cmp.Compare(a.hash, b.hash) })
	for _, y := range parties {
		switch {
		case p.mustLeave(y.node):
			p.forced = append(p.forced, y)
		case p.isDisplaced(y):
			p.displaced = append(p.displaced, y)
		default:
			p.staying = append(p.staying, y)
		}
	}
}

// chunks yields the sessions of a user on a node together; they are sorted so.
func chunks(all []Session) iter.Seq[[]Session] {
	return func(yield func([]Session) bool) {
		for len(all) > 0 {
			n := 1
			for n < len(all) && all[n].User == all[0].User && all[n].Node == all[0].Node {
				n++
			}
			if !yield(all[:n:n]) {
				return
			}
			all = all[n:]
		}
	}
}

func (p *planner) mustLeave(node string) bool {
	n := p.now.nodes[node]
	return n == nil || n.Down || n.Member.Draining
}

// isDisplaced says whether a party was at home and is not any more.
func (p *planner) isDisplaced(y party) bool {
	home := p.home(y)
	return home != "" && home != y.node && p.was != nil && p.was.Owner(y.partition()) == y.node
}

// home returns the node on which the user is at home among the new members.
func (p *planner) home(y party) string {
	if table := home(p.now.tiers); table != nil {
		return table.Owner(y.partition())
	}
	return ""
}

// stay counts the sessions that stay, or do until they are moved.
func (p *planner) stay() {
	for _, y := range slices.Concat(p.staying, p.displaced) {
		p.settle(y, p.now.nodes[y.node], Joined)
	}
}

// settle counts a party on a node.
func (p *planner) settle(y party, n *node, cause Cause) {
	for range y.sessions {
		p.now.lease(y.request, n, cause)
		cause = Joined
	}
}

// evacuate finds a new node for each party that must move.
func (p *planner) evacuate() {
	for _, y := range p.forced {
		n, cause := p.now.decide(y.request)
		if n == nil {
			p.result.Stranded = append(p.result.Stranded, y.sessions...)
			continue
		}
		p.settle(y, n, cause)
		p.must = append(p.must, departure{y, n.Name, true})
	}
}

// rebalance moves displaced parties home, as far as the share and room allow.
func (p *planner) rebalance(share float64) {
	budget := int(max(0, min(share, 1)) * float64(p.total))
	for _, y := range p.displaced {
		if len(y.sessions) > budget || !p.goHome(y) {
			p.result.Deferred += len(y.sessions)
			continue
		}
		budget -= len(y.sessions)
		p.may = append(p.may, departure{y, p.home(y), false})
	}
}

// goHome moves a party to its home if that has room.
func (p *planner) goHome(y party) bool {
	for range y.sessions {
		p.now.release(y.user, p.now.nodes[y.node])
	}
	if n, cause := p.now.decide(y.request); n != nil && n.Name == p.home(y) {
		p.settle(y, n, cause)
		return true
	}
	p.settle(y, p.now.nodes[y.node], Joined)
	return false
}

// interleave orders departures so that each target's are spread evenly over the
// whole: the j-th of m is at (j+½)/m.
func interleave(departures []departure) []Move {
	targets := make(map[string]int)
	for _, d := range departures {
		targets[d.to]++
	}
	type placed struct {
		departure
		at float64
	}
	seen := make(map[string]int, len(targets))
	order := make([]placed, len(departures))
	for i, d := range departures {
		order[i] = placed{d, (float64(seen[d.to]) + 0.5) / float64(targets[d.to])}
		seen[d.to]++
	}
	slices.SortStableFunc(order, func(a, b placed) int { return cmp.Compare(a.at, b.at) })
	var moves []Move
	for _, d := range order {
		for _, s := range d.sessions {
			moves = append(moves, Move{Session: s, To: d.to, Forced: d.forced})
		}
	}
	return moves
}
