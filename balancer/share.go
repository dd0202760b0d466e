package balancer

import (
	"cmp"
	"slices"
)

// Fronts share what the table does not tell them: how many sessions of other
// fronts nodes carry, and which users live elsewhere than at home.

// SetExternal replaces the counts of sessions that others than this balancer have
// placed, by node. They count towards bounds and limits, so that these hold for all
// fronts together, as exactly as the counts are fresh.
func (b *Balancer) SetExternal(sessions map[string]int) {
	b.setting.Lock()
	defer b.setting.Unlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.external = make(map[string]int, len(sessions))
	for name, count := range sessions {
		b.external[name] = max(0, count) // a report may be older than a release
	}
	for name, n := range b.nodes {
		n.count(0, b.external[name]-n.external)
	}
	b.serveRoom()
}

// SetTotals is [Balancer.SetExternal] for counts that have this balancer's own
// sessions among them, as nodes report them. Nodes that are not named carry none of
// others.
func (b *Balancer) SetTotals(sessions map[string]int) {
	b.SetExternal(b.others(sessions))
}

// others subtracts the own sessions.
func (b *Balancer) others(sessions map[string]int) map[string]int {
	b.mu.Lock()
	defer b.mu.Unlock()
	others := make(map[string]int, len(sessions))
	for name, count := range sessions {
		if n := b.nodes[name]; n != nil {
			count -= n.sessions
		}
		others[name] = count
	}
	return others
}

// Exception is a user whose live sessions are elsewhere than the table says, so
// that other fronts do not know of it by themselves.
type Exception struct {
	User string
	Node string
}

// Exceptions returns the users with sessions of this front that are elsewhere than
// the table says, sorted. Under a policy without a table they are all users.
func (b *Balancer) Exceptions() []Exception {
	b.mu.Lock()
	exceptions := make([]Exception, 0, len(b.exceptions))
	for user, p := range b.exceptions {
		exceptions = append(exceptions, Exception{user, p.node.Name})
	}
	b.mu.Unlock()
	slices.SortFunc(exceptions, func(a, b Exception) int { return cmp.Compare(a.User, b.User) })
	return exceptions
}

// Import replaces what another front, the peer, has returned from
// [Balancer.Exceptions]. Those users' next sessions join them there, unless they
// have sessions of this front. Where peers differ about a user, all who hear of
// both take the node whose name is first. With no exceptions the peer is forgotten.
func (b *Balancer) Import(peer string, exceptions []Exception) {
	b.setting.Lock()
	defer b.setting.Unlock()
	if len(exceptions) == 0 {
		delete(b.peers, peer)
	} else {
		b.peers[peer] = slices.Clone(exceptions)
	}
	shared := b.merge()

	b.mu.Lock()
	defer b.mu.Unlock()
	b.shared = shared
	b.serve()
}

// merge returns the node of each user that peers name.
func (b *Balancer) merge() map[string]string {
	nodes := make(map[string]string)
	for _, exceptions := range b.peers {
		for _, e := range exceptions {
			if other, ok := nodes[e.User]; !ok || e.Node < other {
				nodes[e.User] = e.Node
			}
		}
	}
	return nodes
}

// classify notes whether a pinned user is elsewhere than at home.
func (b *Balancer) classify(user string, p *pin) {
	if len(b.tiers) > 0 && p.node == b.tiers[0].owner(p.partition) {
		delete(b.exceptions, user)
		return
	}
	b.exceptions[user] = p
}

// findExceptions classifies all users, after the table has changed.
func (b *Balancer) findExceptions() {
	for user, p := range b.pins {
		b.classify(user, p)
	}
}
