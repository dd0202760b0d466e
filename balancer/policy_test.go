package balancer_test

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"testing"

	"imlb/balancer"

	"pgregory.net/rapid"
)

var policies = []balancer.Policy{
	balancer.ByTable, balancer.ByRing, balancer.ByMaglev,
	balancer.LeastSessions, balancer.PowerOfTwo, balancer.RoundRobin,
}

func TestPolicyWords(t *testing.T) {
	for _, p := range policies {
		if got, err := balancer.ParsePolicy(p.String()); err != nil || got != p {
			t.Errorf("%v parses as %v, %v", p, got, err)
		}
	}
	if p, err := balancer.ParsePolicy(""); err != nil || p != balancer.ByTable {
		t.Errorf("no word parses as %v, %v", p, err)
	}
	if _, err := balancer.ParsePolicy("best"); err == nil {
		t.Error("an unknown word parses")
	}
}

// TestMaglevIsTheNaiveOne compares with section 3.4 of the paper, written down
// for equal weights.
func TestMaglevIsTheNaiveOne(t *testing.T) {
	members := equal(5)
	owners := make([]string, balancer.Partitions)
	next := make([]int, len(members))
	for left := balancer.Partitions; left > 0; {
		for i, m := range members {
			for left > 0 {
				p := balancer.At(m.Name, uint16(next[i]))
				next[i]++
				if owners[p] == "" {
					owners[p] = m.Name
					left--
					break
				}
			}
		}
	}
	table := balancer.BuildMaglev(members)
	for p, want := range owners {
		if got := table.Owner(uint16(p)); got != want {
			t.Fatalf("partition %d is owned by %s, want %s", p, got, want)
		}
	}
}

// TestMaglevSharesAreExact to within as many partitions as there are nodes.
func TestMaglevSharesAreExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		members := drawMembers(t, 40)
		var total float64
		for _, m := range members {
			total += m.Weight
		}
		sum := 0
		for name, n := range balancer.BuildMaglev(members).Owned() {
			i := slices.IndexFunc(members, func(m balancer.Member) bool { return m.Name == name })
			if share := balancer.Partitions * members[i].Weight / total; math.Abs(float64(n)-share) > float64(len(members)) {
				t.Fatalf("%s owns %d partitions, its share is %.1f", name, n, share)
			}
			sum += n
		}
		if sum != balancer.Partitions {
			t.Fatalf("%d partitions are owned", sum)
		}
	})
}

// TestRingIsTheNaiveOne compares with a look along the whole ring.
func TestRingIsTheNaiveOne(t *testing.T) {
	members := []balancer.Member{{Name: "a", Weight: 1}, {Name: "b", Weight: 0.5}, {Name: "c", Weight: 2}, {Name: "d", Weight: 0.001}}
	points := map[string]int{"a": 128, "b": 64, "c": 256, "d": 1}
	type point struct {
		at   uint64
		name string
	}
	var ring []point
	for _, m := range members {
		for k := range points[m.Name] {
			ring = append(ring, point{balancer.RingPoint(m.Name, k), m.Name})
		}
	}
	slices.SortFunc(ring, func(a, b point) int { return cmp.Compare(a.at, b.at) })
	table := balancer.BuildRing(members)
	for p := 0; p < balancer.Partitions; p += 97 {
		start := 0
		for start < len(ring) && ring[start].at < balancer.RingPosition(uint16(p)) {
			start++
		}
		var want []string
		for i := range ring {
			if name := ring[(start+i)%len(ring)].name; !slices.Contains(want, name) {
				want = append(want, name)
			}
		}
		if got := slices.Collect(table.Ranked(uint16(p))); !slices.Equal(got, want) {
			t.Fatalf("partition %d is ranked %q, want %q", p, got, want)
		}
	}
}

// TestRingPointsAreBounded: heavy weights do not make the ring grow.
func TestRingPointsAreBounded(t *testing.T) {
	members := make([]balancer.Member, 100)
	for i := range members {
		members[i] = balancer.Member{Name: fmt.Sprint(i), Weight: 65536}
	}
	table := balancer.BuildRing(members)
	if n := balancer.RingPoints(table); n > 4*balancer.Partitions || n < balancer.Partitions {
		t.Errorf("the ring has %d points", n)
	}
}

// TestRingLossMovesOnlyWhatTheLostNodeOwned, to the next nodes on the ring.
func TestRingLossMovesOnlyWhatTheLostNodeOwned(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		members := drawMembers(t, 20)
		lost := rapid.IntRange(0, len(members)-1).Draw(t, "lost")
		before := balancer.BuildRing(members)
		after := balancer.BuildRing(slices.Delete(slices.Clone(members), lost, lost+1))
		for p := range balancer.Partitions {
			was, is := before.Owner(uint16(p)), after.Owner(uint16(p))
			if was != is && (was != members[lost].Name || len(members) > 1 && is != second(before, uint16(p))) {
				t.Fatalf("partition %d moves from %s to %s though %s was lost", p, was, is, members[lost].Name)
			}
		}
	})
}

// TestAddingMovesItsShare: a node that comes takes about 1/n, and nothing moves
// between others; Maglev moves a little more.
func TestAddingMovesItsShare(t *testing.T) {
	for _, c := range []struct {
		policy      balancer.Policy
		less, extra float64 // relative to 1/n, and of all partitions
	}{
		{balancer.ByTable, 0.15, 0}, {balancer.ByRing, 0.35, 0}, {balancer.ByMaglev, 0.01, 0.12},
	} {
		for _, n := range []int{3, 20, 100} {
			members := equal(n)
			o := balancer.Options{Policy: c.policy, Epsilon: 0.25}
			before, after := tableOf(o, members[:n-1]), tableOf(o, members)
			var to, extra float64
			for p := range balancer.Partitions {
				if was, is := before.Owner(uint16(p)), after.Owner(uint16(p)); is == members[n-1].Name {
					to++
				} else if was != is {
					extra++
				}
			}
			share := to / balancer.Partitions * float64(n)
			if math.Abs(share-1) > c.less || extra/balancer.Partitions > c.extra {
				t.Errorf("%v, %d nodes: the new one gets %.3f of its share, %.4f of all move between others", c.policy, n, share, extra/balancer.Partitions)
			}
		}
	}
}

// TestRoundRobinTakesTurns in proportion to the weights, also after members were
// set again, and with no rush to a node that was away.
func TestRoundRobinTakesTurns(t *testing.T) {
	members := []balancer.Member{{Name: "a", Weight: 1}, {Name: "b", Weight: 1}, {Name: "c", Weight: 2}}
	b := withMembers(balancer.Options{Policy: balancer.RoundRobin, Epsilon: 10}, members...)
	next := 0
	turns := func(n int) map[string]int {
		got := map[string]int{}
		for range n {
			next++
			got[acquire(t, b, user(next)).Node()]++
			b.SetMembers(members)
		}
		return got
	}
	if got := turns(400); got["a"] != 100 || got["b"] != 100 || got["c"] != 200 {
		t.Errorf("400 turns went to %v", got)
	}
	members[0].Draining = true
	if got := turns(300); got["a"] != 0 || got["b"] != 100 || got["c"] != 200 {
		t.Errorf("300 turns without a went to %v", got)
	}
	members[0].Draining = false
	if got := turns(4); got["a"] > 2 {
		t.Errorf("4 turns after its return went to %v", got)
	}
}

// TestLeastSessionsLevels: whatever was there before, new sessions even it out.
func TestLeastSessionsLevels(t *testing.T) {
	b := withMembers(balancer.Options{Policy: balancer.LeastSessions}, equal(4)...)
	b.SetExternal(map[string]int{"node-1": 30, "node-2": 20, "node-3": 10})
	for i := range 60 {
		acquire(t, b, user(i))
	}
	for _, n := range b.Snapshot().Nodes {
		if n.Sessions+n.External != 30 {
			t.Errorf("%s has %d sessions", n.Name, n.Sessions+n.External)
		}
	}
}

// TestPowerOfTwoStaysWithTwoNodes: a user who comes back meets one of two nodes,
// and the fuller of them is spared.
func TestPowerOfTwoStaysWithTwoNodes(t *testing.T) {
	b := withMembers(balancer.Options{Policy: balancer.PowerOfTwo, Epsilon: 10}, equal(10)...)
	met := map[string]bool{}
	for i := range 500 {
		l := acquire(t, b, "alice@example.com")
		met[l.Node()] = true
		l.Release()
		acquire(t, b, user(i))
	}
	if len(met) > 2 {
		t.Errorf("alice met %d nodes", len(met))
	}
	for _, n := range b.Snapshot().Nodes {
		if n.Sessions < 40 || n.Sessions > 60 {
			t.Errorf("%s has %d of 500 sessions", n.Name, n.Sessions)
		}
	}
}

// TestPinsHoldUnderEveryPolicy, also when the policy changes.
func TestPinsHoldUnderEveryPolicy(t *testing.T) {
	b := withMembers(balancer.Options{}, equal(7)...)
	nodes := map[string]string{}
	for i := range 200 {
		nodes[user(i)] = acquire(t, b, user(i)).Node()
	}
	for _, p := range policies {
		b.Configure(balancer.Options{Policy: p, Epsilon: 0.1})
		for name, want := range nodes {
			l := acquire(t, b, name)
			if l.Node() != want || l.Cause() != balancer.Joined {
				t.Fatalf("%v: %s joins %s (%v), has sessions on %s", p, name, l.Node(), l.Cause(), want)
			}
			l.Release()
		}
		if s := b.Snapshot(); s.Sessions != 200 || s.Users != 200 || s.Policy != p {
			t.Fatalf("%v: %d sessions of %d users under %v", p, s.Sessions, s.Users, s.Policy)
		}
	}
}

// TestBoundHoldsUnderEveryPolicy while sessions only come: each node is within
// the bound that the documentation gives, at every moment.
func TestBoundHoldsUnderEveryPolicy(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		members, epsilon := drawMembers(t, 10), rapid.SampledFrom([]float64{0.01, 0.25, 1}).Draw(t, "epsilon")
		var total float64
		for _, m := range members {
			total += m.Weight
		}
		b := balancer.New(balancer.Options{Policy: drawPolicy(t), Epsilon: epsilon})
		b.SetMembers(members)
		for i := range 200 {
			if _, err := b.Acquire(user(i), nil); err != nil {
				t.Fatal(err)
			}
			for _, n := range b.Snapshot().Nodes {
				if bound := math.Ceil((1 + epsilon) * float64(i+1) * n.Weight / total * (1 + 1e-4)); float64(n.Sessions) > bound {
					t.Fatalf("%s has %d of %d sessions, its bound is %g", n.Name, n.Sessions, i+1, bound)
				}
			}
		}
	})
}

// TestSlowStart: a node that ramps up gets its part of the new users of its
// partitions, more at each step, and the partitions stay its own.
func TestSlowStart(t *testing.T) {
	const users = 4000
	for _, p := range []balancer.Policy{balancer.ByTable, balancer.ByRing, balancer.ByMaglev} {
		b := balancer.New(balancer.Options{Policy: p, Epsilon: 10}) // the bound plays no part
		members := equal(4)
		var before []string
		for _, ramp := range []float64{0.1, 0.5, 0.9, 1} {
			members[0].Ramp = ramp
			b.SetMembers(members)
			var taken []string
			for i := range users {
				l := acquire(t, b, user(i))
				if l.Node() == "node-1" {
					taken = append(taken, user(i))
				}
				l.Release()
			}
			if got := float64(len(taken)) / users; math.Abs(got-ramp/4) > 0.06 {
				t.Errorf("%v: at %.1f it takes %.3f of the users", p, ramp, got)
			}
			for _, u := range before {
				if !slices.Contains(taken, u) {
					t.Errorf("%v: %s is not taken any more at %.1f", p, u, ramp)
				}
			}
			before = taken
		}
	}
}

// TestSlowStartBoundsLoad: a node that has just come is not filled up at once.
func TestSlowStartBoundsLoad(t *testing.T) {
	members := equal(4)
	b := withMembers(balancer.Options{Policy: balancer.LeastSessions}, members[1:]...)
	for i := range 300 {
		acquire(t, b, user(i))
	}
	members[0].Ramp = 0.1
	b.SetMembers(members)
	for i := range 100 {
		acquire(t, b, user(1000+i))
	}
	// ⌈1.25 · 400 · 0.1/3.1⌉
	if n := b.Snapshot().Nodes[0]; n.Sessions > 17 || n.Sessions == 0 {
		t.Errorf("%s has %d sessions", n.Name, n.Sessions)
	}
}

// TestAllStartSlowly: a whole cluster that has just come takes everybody.
func TestAllStartSlowly(t *testing.T) {
	members := equal(3)
	for i := range members {
		members[i].Ramp = 0.05
	}
	b := withMembers(balancer.Options{}, members...)
	table := balancer.BuildTable(members, balancer.DefaultEpsilon)
	for i := range 300 {
		if l := acquire(t, b, user(i)); l.Cause() == balancer.Owned && l.Node() != table.Lookup(user(i)) {
			t.Fatalf("%s is on %s (%v)", user(i), l.Node(), l.Cause())
		}
	}
	if s := b.Snapshot(); s.Sessions != 300 {
		t.Errorf("%d sessions", s.Sessions)
	}
}

// TestHistoryDoesNotMatter: balancers that went through different members and
// options place users the same once they have the same again.
func TestHistoryDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		members, options := drawStates(t), drawOptions(t)
		if options.Policy == balancer.RoundRobin {
			t.Skip("whose turn it is depends on history")
		}
		fresh := balancer.New(options)
		fresh.SetMembers(members)
		old := balancer.New(drawOptions(t))
		var leases []*balancer.Lease
		for range rapid.IntRange(1, 3).Draw(t, "changes") {
			old.SetMembers(drawStates(t))
			for i := range 20 {
				if l, err := old.Acquire(user(i), nil); err == nil {
					leases = append(leases, l)
				}
			}
			old.Configure(drawOptions(t))
		}
		for _, l := range leases {
			l.Release()
		}
		old.Configure(options)
		old.SetMembers(rapid.Permutation(members).Draw(t, "order"))
		for i := range 50 {
			one, err := fresh.Acquire(user(i), nil)
			other, err2 := old.Acquire(user(i), nil)
			if (err == nil) != (err2 == nil) || err == nil && (one.Node() != other.Node() || one.Cause() != other.Cause()) {
				t.Fatalf("%s is on %v (%v), and with a history on %v (%v)", user(i), one, err, other, err2)
			}
		}
	})
}
