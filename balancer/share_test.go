package balancer_test

import (
	"errors"
	"math"
	"slices"
	"testing"

	"imlb/balancer"

	"pgregory.net/rapid"
)

// TestFrontsActAsOne: fronts that tell each other their counts and exceptions
// after every session place users exactly as a single front would, wherever
// users come in, and keep the bound together.
func TestFrontsActAsOne(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		members := drawMembers(t, 6)
		options := balancer.Options{
			Policy:  rapid.SampledFrom([]balancer.Policy{balancer.ByTable, balancer.ByRing, balancer.ByMaglev, balancer.LeastSessions, balancer.PowerOfTwo}).Draw(t, "policy"),
			Epsilon: 0.25,
		}
		single := balancer.New(options)
		single.SetMembers(members)
		fronts := []*balancer.Balancer{balancer.New(options), balancer.New(options), balancer.New(options)}
		for _, f := range fronts {
			f.SetMembers(rapid.Permutation(members).Draw(t, "order"))
		}
		type pair struct{ one, other *balancer.Lease }
		var pairs []pair
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			if len(pairs) > 0 && rapid.IntRange(0, 3).Draw(t, "end") == 0 {
				i := rapid.IntRange(0, len(pairs)-1).Draw(t, "which")
				pairs[i].one.Release()
				pairs[i].other.Release()
				pairs = slices.Delete(pairs, i, i+1)
			} else {
				name := user(rapid.IntRange(0, 40).Draw(t, "user"))
				f := rapid.IntRange(0, 2).Draw(t, "front")
				if at := liveAt(fronts, name); at >= 0 && f != at && single.Explain(name).Node != fronts[f].Explain(name).Node {
					continue // at home on a node that is full by now, which is not shared
				}
				one, err := single.Acquire(name, nil)
				other, err2 := fronts[f].Acquire(name, nil)
				if err := errors.Join(err, err2); err != nil {
					t.Fatal(err)
				}
				if one.Node() != other.Node() {
					t.Fatalf("%s is on %s (%v), a single front has it on %s (%v)", name, other.Node(), other.Cause(), one.Node(), one.Cause())
				}
				pairs = append(pairs, pair{one, other})
			}
			tellEachOther(fronts)
		}
	})
}

func liveAt(fronts []*balancer.Balancer, user string) int {
	return slices.IndexFunc(fronts, func(f *balancer.Balancer) bool { return f.Explain(user).Sessions > 0 })
}

func tellEachOther(fronts []*balancer.Balancer) {
	names := []string{"x", "y", "z"}
	totals := map[string]int{}
	for _, f := range fronts {
		for _, n := range f.Snapshot().Nodes {
			totals[n.Name] += n.Sessions
		}
	}
	for i, f := range fronts {
		f.SetTotals(totals)
		for j, peer := range fronts {
			if i != j {
				f.Import(names[j], peer.Exceptions())
			}
		}
	}
}

// TestBoundHoldsForAllFronts: with fresh counts, no node has more than its bound
// of all fronts' sessions.
func TestBoundHoldsForAllFronts(t *testing.T) {
	fronts := []*balancer.Balancer{balancer.New(balancer.Options{}), balancer.New(balancer.Options{}), balancer.New(balancer.Options{})}
	for _, f := range fronts {
		f.SetMembers(equal(5))
	}
	for i := range 300 {
		acquire(t, fronts[i%3], user(i))
		tellEachOther(fronts)
		for _, n := range fronts[0].Snapshot().Nodes {
			if bound := int(math.Ceil(1.25 * float64(i+1) / 5)); n.Sessions+n.External > bound {
				t.Fatalf("%s has %d sessions of %d, its bound is %d", n.Name, n.Sessions+n.External, i+1, bound)
			}
		}
	}
}

// TestLimitIsOfAllFronts.
func TestLimitIsOfAllFronts(t *testing.T) {
	b := withMembers(balancer.Options{}, balancer.Member{Name: "a", Weight: 1, Limit: 10})
	b.SetExternal(map[string]int{"a": 9, "gone": 5, "odd": -3})
	l := acquire(t, b, "bob@example.com")
	wantRefusal(t, b, balancer.AllFull)
	b.SetTotals(map[string]int{"a": 10})
	wantRefusal(t, b, balancer.AllFull)
	l.Release()
	acquire(t, b, "alice@example.com")
	b.SetExternal(nil)
	if n := b.Snapshot().Nodes[0]; n.External != 0 || n.Sessions != 1 {
		t.Errorf("%+v", n)
	}
	b.SetExternal(map[string]int{"b": -3, "c": 3}) // known before the nodes are
	b.SetMembers([]balancer.Member{{Name: "b"}, {Name: "c"}})
	if s := b.Snapshot(); s.Nodes[1].External != 0 || s.Nodes[2].External != 3 {
		t.Errorf("%+v", s.Nodes)
	}
}

// TestExceptionsFollowTheTable: who was at home is an exception when the table
// changes, and none when it changes back.
func TestExceptionsFollowTheTable(t *testing.T) {
	members := equal(4)
	b := withMembers(balancer.Options{}, members[:3]...)
	for i := range 30 {
		acquire(t, b, user(i), "none") // a retry is no exception by itself
	}
	moved := 0
	table := balancer.BuildTable(members, balancer.DefaultEpsilon)
	for i := range 30 {
		if e := b.Explain(user(i)); e.Pinned != table.Lookup(user(i)) {
			moved++
		}
	}
	before := b.Exceptions()
	b.SetMembers(members)
	if got := len(b.Exceptions()); got != moved || b.Snapshot().Exceptions != moved {
		t.Errorf("%d exceptions, want %d", got, moved)
	}
	b.SetMembers(members[:3])
	if got := b.Exceptions(); !slices.Equal(got, before) {
		t.Errorf("exceptions are %v, were %v", got, before)
	}
}

// TestImportedPins: joined while the node is fit; forgotten with the peer; where
// peers differ all agree.
func TestImportedPins(t *testing.T) {
	members := equal(3)
	b := withMembers(balancer.Options{}, members...)
	home := b.Explain("alice@example.com").Node
	away := members[slices.IndexFunc(members, func(m balancer.Member) bool { return m.Name != home })].Name
	b.Import("x", []balancer.Exception{{User: "alice@example.com", Node: away}})
	if e := b.Explain("alice@example.com"); e.Node != away || e.Cause != balancer.Shared || e.Shared != away {
		t.Errorf("imported: %+v", e)
	}
	if l := acquire(t, b, "alice@example.com", away); l.Node() == away {
		t.Error("a tried node is joined")
	} else {
		l.Release()
	}
	b.Import("y", []balancer.Exception{{User: "alice@example.com", Node: "node-0"}})
	if e := b.Explain("alice@example.com"); e.Node != home {
		t.Errorf("a node that is not known is joined: %+v", e)
	}
	b.Import("y", nil)
	l := acquire(t, b, "alice@example.com")
	b.Import("x", nil)
	if got := b.Exceptions(); len(got) != 1 || got[0] != (balancer.Exception{User: "alice@example.com", Node: away}) {
		t.Errorf("exceptions are %v", got)
	}
	l.Release()
	if e := b.Explain("alice@example.com"); e.Node != home || len(b.Exceptions()) != 0 {
		t.Errorf("forgotten: %+v", e)
	}
}
