package balancer_test

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"testing"

	"imlb/balancer"

	"pgregory.net/rapid"
)

// model is the specification of a [balancer.Balancer], written for clarity: it
// keeps a list of sessions and derives everything else from it on the spot.
type model struct {
	options  balancer.Options
	members  map[string]balancer.Member
	sessions []session
	pins     map[string]string // by user; means nothing without a session
	external map[string]int    // by node
	shared   map[string]string // by user
	tables   map[string]*balancer.Table
}

type session struct {
	user, node string
	lease      *balancer.Lease
}

func newModel(o balancer.Options) *model {
	return &model{options: o, pins: map[string]string{}, external: map[string]int{}, shared: map[string]string{}}
}

func (m *model) set(members []balancer.Member) {
	m.members = map[string]balancer.Member{}
	for _, member := range members {
		m.members[member.Name] = member
	}
	m.tables = map[string]*balancer.Table{}
}

func (m *model) configure(o balancer.Options) {
	m.options = o
	m.tables = map[string]*balancer.Table{}
}

// own returns how many sessions a node has.
func (m *model) own(node string) int {
	n := 0
	for _, s := range m.sessions {
		if s.node == node {
			n++
		}
	}
	return n
}

func (m *model) load(node string) int { return m.own(node) + m.external[node] }

func (m *model) live(user string) bool {
	return slices.ContainsFunc(m.sessions, func(s session) bool { return s.user == user })
}

// may returns the nodes that may be given the user's session; none refuses it. It
// is more than one only where the policy's order is no matter of the model.
func (m *model) may(user string, tried []string) []string {
	if node := m.pins[user]; m.live(user) && m.joinable(node, tried) {
		return []string{node}
	}
	if node := m.shared[user]; m.joinable(node, tried) {
		return []string{node}
	}
	for rank := range 4 {
		open := m.open(rank, tried)
		if len(open) == 0 {
			continue
		}
		order, exact := m.order(rank, user)
		var within, willing []string
		for _, node := range order {
			if slices.Contains(open, node) && m.load(node)+1 <= m.bound(node, open) {
				within = append(within, node)
				if m.willing(node, user) {
					willing = append(willing, node)
				}
			}
		}
		if len(willing) == 0 {
			willing = within
		}
		if exact {
			return willing[:1]
		}
		return willing
	}
	return nil
}

func (m *model) joinable(node string, tried []string) bool {
	member, known := m.members[node]
	return known && !member.Down && !slices.Contains(tried, node)
}

// tier returns the members of a tier that take new users, by name.
func (m *model) tier(rank int) []balancer.Member {
	var members []balancer.Member
	for _, name := range slices.Sorted(maps.Keys(m.members)) {
		n := m.members[name]
		r := 0
		if m.options.Zone != "" && n.Zone != m.options.Zone {
			r++
		}
		if n.Backup {
			r += 2
		}
		if r == rank && !n.Down && !n.Draining && n.Weight > 0 {
			members = append(members, n)
		}
	}
	return members
}

// open returns the nodes of a tier that are not at their limits nor tried.
func (m *model) open(rank int, tried []string) []string {
	var names []string
	for _, n := range m.tier(rank) {
		if (n.Limit == 0 || m.load(n.Name) < n.Limit) && !slices.Contains(tried, n.Name) {
			names = append(names, n.Name)
		}
	}
	return names
}

func (m *model) weight(node string) float64 {
	n := m.members[node]
	if n.Ramp > 0 && n.Ramp < 1 {
		return n.Weight * n.Ramp
	}
	return n.Weight
}

func (m *model) bound(node string, open []string) int {
	var sessions, weight float64
	for _, other := range open {
		sessions += float64(m.load(other))
		weight += m.weight(other)
	}
	// The weights, ramps and epsilons that are drawn leave no rounding to worry about.
	return int(math.Ceil((1+m.options.Epsilon)*(sessions+1)*m.weight(node)/weight - 1e-9))
}

func (m *model) willing(node, user string) bool {
	r := m.members[node].Ramp
	return r <= 0 || r >= 1 || balancer.Position(user) < r
}

// order returns the nodes of a tier in the policy's order, and whether it says
// which comes first.
func (m *model) order(rank int, user string) (names []string, exact bool) {
	members := m.tier(rank)
	partition := balancer.Partition(user)
	if _, ok := m.tables[string(rune(rank))]; !ok {
		m.tables[string(rune(rank))] = tableOf(m.options, members)
	}
	byScore := func(a, b balancer.Member) int {
		return cmp.Or(cmp.Compare(balancer.Score(a, partition), balancer.Score(b, partition)), cmp.Compare(a.Name, b.Name))
	}
	perWeight := func(a, b balancer.Member) int {
		return cmp.Compare(float64(m.load(a.Name)+1)/a.Weight, float64(m.load(b.Name)+1)/b.Weight)
	}
	switch m.options.Policy {
	case balancer.LeastSessions:
		slices.SortFunc(members, func(a, b balancer.Member) int { return cmp.Or(perWeight(a, b), byScore(a, b)) })
	case balancer.PowerOfTwo:
		slices.SortFunc(members, byScore)
		for i := 0; i+1 < len(members); i += 2 {
			if perWeight(members[i], members[i+1]) > 0 {
				members[i], members[i+1] = members[i+1], members[i]
			}
		}
	case balancer.RoundRobin:
	default:
		return slices.Collect(m.tables[string(rune(rank))].Ranked(partition)), true
	}
	for _, n := range members {
		names = append(names, n.Name)
	}
	return names, m.options.Policy != balancer.RoundRobin
}

// tableOf returns the table of a policy; nil when it has none.
func tableOf(o balancer.Options, members []balancer.Member) *balancer.Table {
	switch o.Policy {
	case balancer.ByTable:
		return balancer.BuildTable(members, o.Epsilon)
	case balancer.ByRing:
		return balancer.BuildRing(members)
	case balancer.ByMaglev:
		return balancer.BuildMaglev(members)
	default:
		return nil
	}
}

// exceptions are the users whom the table would have elsewhere.
func (m *model) exceptions() []balancer.Exception {
	var table *balancer.Table
	for rank := 3; rank >= 0; rank-- {
		if members := m.tier(rank); len(members) > 0 {
			m.order(rank, "")
			table = m.tables[string(rune(rank))]
		}
	}
	exceptions := []balancer.Exception{}
	for _, user := range slices.Sorted(maps.Keys(m.pins)) {
		if node := m.pins[user]; m.live(user) && (table == nil || table.Lookup(user) != node) {
			exceptions = append(exceptions, balancer.Exception{User: user, Node: node})
		}
	}
	return exceptions
}

func drawPolicy(t *rapid.T) balancer.Policy {
	return rapid.SampledFrom([]balancer.Policy{
		balancer.ByTable, balancer.ByTable, balancer.ByRing, balancer.ByMaglev,
		balancer.LeastSessions, balancer.PowerOfTwo, balancer.RoundRobin,
	}).Draw(t, "policy")
}

func drawOptions(t *rapid.T) balancer.Options {
	return balancer.Options{
		Policy:  drawPolicy(t),
		Epsilon: rapid.SampledFrom([]float64{0.125, 0.25, 1}).Draw(t, "epsilon"),
		Zone:    rapid.SampledFrom([]string{"", "", "here"}).Draw(t, "zone"),
	}
}

// drawStates draws members in all states.
func drawStates(t *rapid.T) []balancer.Member {
	members := drawMembers(t, 6)
	oneOf := func(n int, label string) bool { return rapid.IntRange(1, n).Draw(t, label) == 1 }
	for i := range members {
		m := &members[i]
		m.Name = nodeName(i) // so that nodes come back
		m.Down, m.Draining, m.Backup = oneOf(10, "down"), oneOf(10, "draining"), oneOf(10, "backup")
		m.Zone = rapid.SampledFrom([]string{"here", "there"}).Draw(t, "zone")
		m.Ramp = rapid.SampledFrom([]float64{0, 0, 0, 0.25, 0.5, 1}).Draw(t, "ramp")
		m.Limit = rapid.SampledFrom([]int{0, 0, 3, 10}).Draw(t, "limit")
	}
	return members
}

// TestBalancerFollowsModel runs random histories on both: what sessions do,
// members, options, counts and pins of other fronts.
func TestBalancerFollowsModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		options := drawOptions(t)
		b, m := balancer.New(options), newModel(options)
		set := func(t *rapid.T) {
			members := drawStates(t)
			b.SetMembers(members)
			m.set(members)
		}
		set(t)
		rarely := func(do func(*rapid.T)) func(*rapid.T) { // tables take time
			return func(t *rapid.T) {
				if rapid.IntRange(0, 4).Draw(t, "now") > 0 {
					t.Skip("not now")
				}
				do(t)
			}
		}
		acquire := func(t *rapid.T) {
			name := user(rapid.IntRange(0, 40).Draw(t, "user"))
			var tried []string
			if rapid.IntRange(0, 4).Draw(t, "retry") == 0 {
				tried = []string{nodeName(rapid.IntRange(0, 5).Draw(t, "tried"))}
			}
			may := m.may(name, tried)
			l, err := b.Acquire(name, isOneOf(tried))
			if err != nil {
				if len(may) > 0 {
					t.Fatalf("acquire for %s: %v, want one of %q", name, err, may)
				}
				return
			}
			if !slices.Contains(may, l.Node()) {
				t.Fatalf("%s is on %s (%v), want one of %q", name, l.Node(), l.Cause(), may)
			}
			m.sessions = append(m.sessions, session{name, l.Node(), l})
			m.pins[name] = l.Node()
		}
		t.Repeat(map[string]func(*rapid.T){
			"members": rarely(set),
			"configure": rarely(func(t *rapid.T) {
				o := drawOptions(t)
				b.Configure(o)
				m.configure(o)
			}),
			"external": rarely(func(t *rapid.T) {
				m.external = drawCounts(t)
				b.SetExternal(m.external)
			}),
			"totals": rarely(func(t *rapid.T) {
				totals := drawCounts(t)
				m.external = map[string]int{}
				for node, total := range totals {
					m.external[node] = max(0, total-m.own(node))
				}
				b.SetTotals(totals)
			}),
			"import": func(t *rapid.T) {
				name, node := user(rapid.IntRange(0, 40).Draw(t, "user")), nodeName(rapid.IntRange(0, 5).Draw(t, "node"))
				m.shared = map[string]string{name: node}
				b.Import("peer", []balancer.Exception{{User: name, Node: node}})
			},
			"acquire":  acquire,
			"acquire2": acquire,
			"release": func(t *rapid.T) {
				if len(m.sessions) == 0 {
					t.Skip("no sessions")
				}
				i := rapid.IntRange(0, len(m.sessions)-1).Draw(t, "session")
				m.sessions[i].lease.Release()
				m.sessions = slices.Delete(m.sessions, i, i+1)
			},
			"": func(t *rapid.T) {
				for _, n := range b.Snapshot().Nodes {
					if n.Sessions != m.own(n.Name) || n.External != m.external[n.Name] {
						t.Fatalf("%s has %d + %d sessions, want %d + %d", n.Name, n.Sessions, n.External, m.own(n.Name), m.external[n.Name])
					}
				}
				if got, want := b.Exceptions(), m.exceptions(); !slices.Equal(got, want) {
					t.Fatalf("exceptions are %v, want %v", got, want)
				}
			},
		})
	})
}

func drawCounts(t *rapid.T) map[string]int {
	counts := map[string]int{}
	for i := range 6 {
		counts[nodeName(i)] = rapid.SampledFrom([]int{0, 0, 1, 5, 20}).Draw(t, "count")
	}
	return counts
}

func nodeName(i int) string { return string(rune('a' + i)) }
