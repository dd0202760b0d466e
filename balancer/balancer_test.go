package balancer_test

import (
	"errors"
	"slices"
	"sync"
	"testing"

	"imlb/balancer"

	"pgregory.net/rapid"
)

func acquire(t testing.TB, b *balancer.Balancer, user string, tried ...string) *balancer.Lease {
	t.Helper()
	l, err := b.Acquire(user, isOneOf(tried))
	if err != nil {
		t.Fatalf("acquire for %s: %v", user, err)
	}
	return l
}

func isOneOf(names []string) func(string) bool {
	if len(names) == 0 {
		return nil
	}
	return func(name string) bool { return slices.Contains(names, name) }
}

func withMembers(o balancer.Options, members ...balancer.Member) *balancer.Balancer {
	b := balancer.New(o)
	b.SetMembers(members)
	return b
}

// wantRefusal fails unless a session is refused for the reason.
func wantRefusal(t *testing.T, b *balancer.Balancer, want balancer.Reason, tried ...string) {
	t.Helper()
	l, err := b.Acquire("alice@example.com", isOneOf(tried))
	var refusal *balancer.Refusal
	if !errors.As(err, &refusal) || refusal.Reason != want {
		t.Errorf("acquire: %v, %v, want refusal %v", l, err, want)
	}
}

func TestFirstUserGoesToTheOwner(t *testing.T) {
	members := equal(20)
	b := withMembers(balancer.Options{}, members...)
	table := balancer.BuildTable(members, balancer.DefaultEpsilon)
	for i := range 1000 {
		l := acquire(t, b, user(i))
		if l.Node() != table.Lookup(user(i)) || l.Cause() != balancer.Owned {
			t.Fatalf("%s is on %s (%v), its partition on %s", user(i), l.Node(), l.Cause(), table.Lookup(user(i)))
		}
		l.Release()
	}
}

func TestUserJoinsItsSessions(t *testing.T) {
	b := withMembers(balancer.Options{}, equal(5)...)
	first := acquire(t, b, "alice@example.com")
	for range 100 { // far over the bound of any node
		if l := acquire(t, b, "alice@example.com"); l.Node() != first.Node() || l.Cause() != balancer.Joined {
			t.Fatalf("another session is on %s (%v), the first on %s", l.Node(), l.Cause(), first.Node())
		}
	}
}

func TestPinEndsWithTheLastSession(t *testing.T) {
	b := withMembers(balancer.Options{}, equal(3)...)
	one, two := acquire(t, b, "alice@example.com"), acquire(t, b, "alice@example.com")
	one.Release()
	one.Release() // counts once
	if e := b.Explain("alice@example.com"); e.Sessions != 1 || e.Pinned != two.Node() || e.Cause != balancer.Joined {
		t.Errorf("after one of two: %+v", e)
	}
	two.Release()
	if s := b.Snapshot(); s.Users != 0 || s.Sessions != 0 || one.Node() != "" {
		t.Errorf("after both: %+v", s)
	}
}

func TestTriedNodeIsPassedOver(t *testing.T) {
	members := equal(3)
	b := withMembers(balancer.Options{}, members...)
	first := acquire(t, b, "alice@example.com")
	second := acquire(t, b, "alice@example.com", first.Node())
	if second.Node() == first.Node() || second.Cause() != balancer.Retried {
		t.Fatalf("second is on %s (%v)", second.Node(), second.Cause())
	}
	if third := acquire(t, b, "alice@example.com"); third.Node() != second.Node() {
		t.Errorf("third is on %s, the user was pinned to %s", third.Node(), second.Node())
	}
	wantRefusal(t, b, balancer.NoneLeft, "node-1", "node-2", "node-3")
}

// TestRetriesFindRoom: when the tried node was the only one within its bound, the
// others' bounds are those of a set without it.
func TestRetriesFindRoom(t *testing.T) {
	b := withMembers(balancer.Options{}, equal(3)...)
	for i := range 300 {
		acquire(t, b, user(i), "node-1")
	}
	for _, n := range b.Snapshot().Nodes {
		if n.Name == "node-1" && n.Sessions != 0 || n.Sessions > 188 {
			t.Errorf("%s has %d sessions", n.Name, n.Sessions)
		}
	}
}

func TestStatesOfMembers(t *testing.T) {
	alone := balancer.Member{Name: "a", Weight: 1}
	for _, c := range []struct {
		name   string
		change func(*balancer.Member)
		user   balancer.Reason // for a new user; 0 when it is placed
		joins  bool            // whether a user with sessions joins them
	}{
		{"fit", func(*balancer.Member) {}, 0, true},
		{"backup", func(m *balancer.Member) { m.Backup = true }, 0, true},
		{"down", func(m *balancer.Member) { m.Down = true }, balancer.NoneUp, false},
		{"draining", func(m *balancer.Member) { m.Draining = true }, balancer.NoneUp, true},
		{"weightless", func(m *balancer.Member) { m.Weight = 0 }, balancer.NoneUp, true},
		{"full", func(m *balancer.Member) { m.Limit = 1 }, balancer.AllFull, true},
		{"with room", func(m *balancer.Member) { m.Limit = 3 }, 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := withMembers(balancer.Options{}, alone)
			acquire(t, b, "bob@example.com")
			changed := alone
			c.change(&changed)
			b.SetMembers([]balancer.Member{changed})
			if c.user != 0 {
				wantRefusal(t, b, c.user)
			} else {
				acquire(t, b, "alice@example.com")
			}
			if _, err := b.Acquire("bob@example.com", nil); (err == nil) != c.joins {
				t.Errorf("user with a session: %v", err)
			}
		})
	}
	wantRefusal(t, balancer.New(balancer.Options{}), balancer.NoMembers)
}

func TestTiersAreAskedInOrder(t *testing.T) {
	b := withMembers(balancer.Options{Zone: "here"},
		balancer.Member{Name: "here", Weight: 1, Zone: "here", Limit: 2},
		balancer.Member{Name: "there", Weight: 100, Zone: "there", Limit: 2},
		balancer.Member{Name: "backup here", Weight: 1, Zone: "here", Backup: true, Limit: 2},
		balancer.Member{Name: "backup there", Weight: 1, Backup: true, Limit: 2},
	)
	var got []string
	for i := range 8 {
		got = append(got, acquire(t, b, user(i)).Node())
	}
	want := []string{"here", "here", "there", "there", "backup here", "backup here", "backup there", "backup there"}
	if !slices.Equal(got, want) {
		t.Errorf("sessions went to %q, want %q", got, want)
	}
	wantRefusal(t, b, balancer.AllFull)
}

// TestLimitsDoNotStarveOthers: nodes at their limits drop out of the average that
// the others' bounds come from.
func TestLimitsDoNotStarveOthers(t *testing.T) {
	b := withMembers(balancer.Options{}, balancer.Member{Name: "small", Weight: 1, Limit: 5}, balancer.Member{Name: "large", Weight: 1})
	for i := range 1000 {
		acquire(t, b, user(i))
	}
	for _, n := range b.Snapshot().Nodes {
		if want := map[string]int{"small": 5, "large": 995}[n.Name]; n.Sessions != want {
			t.Errorf("%s has %d sessions, want %d", n.Name, n.Sessions, want)
		}
	}
}

func TestSessionsStayCountedWhileANodeIsAway(t *testing.T) {
	members := equal(3)
	b := withMembers(balancer.Options{}, members...)
	var leases []*balancer.Lease
	for i := range 90 {
		leases = append(leases, acquire(t, b, user(i)))
	}
	before := b.Snapshot()
	b.SetMembers(members[1:])
	if got := b.Snapshot().Nodes[0]; got.Verdict != balancer.Gone || got.Sessions != before.Nodes[0].Sessions {
		t.Errorf("lost node: %+v", got)
	}
	b.SetMembers(members)
	if after := b.Snapshot(); !slices.Equal(after.Nodes, before.Nodes) {
		t.Errorf("after its return: %+v, before: %+v", after, before)
	}
	b.SetMembers(nil)
	for _, l := range leases {
		l.Release()
	}
	if s := b.Snapshot(); len(s.Nodes) != 0 || s.Sessions != 0 {
		t.Errorf("nothing should be left: %+v", s)
	}
}

// TestExplainSaysWhatAcquireDoes: the decision is that of Acquire, and of a new
// user the first candidate that takes it.
func TestExplainSaysWhatAcquireDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		members := drawMembers(t, 10)
		for i := range members {
			members[i].Down = rapid.IntRange(0, 4).Draw(t, "down") == 0
			members[i].Backup = rapid.IntRange(0, 4).Draw(t, "backup") == 0
			members[i].Limit = rapid.IntRange(0, 5).Draw(t, "limit")
			members[i].Zone = rapid.SampledFrom([]string{"", "here"}).Draw(t, "zone")
			members[i].Ramp = rapid.SampledFrom([]float64{0, 0.3, 1}).Draw(t, "ramp")
		}
		b := balancer.New(balancer.Options{Zone: "here", Policy: drawPolicy(t)})
		b.SetMembers(members)
		for i := range 30 {
			e := b.Explain(user(i))
			l, err := b.Acquire(user(i), nil)
			var refusal *balancer.Refusal
			switch {
			case errors.As(err, &refusal):
				if e.Node != "" || e.Refusal != refusal.Reason {
					t.Fatalf("acquire: %v, explained: %+v", err, e)
				}
			case e.Node != l.Node() || e.Cause != l.Cause():
				t.Fatalf("acquire: %s (%v), explained: %+v", l.Node(), l.Cause(), e)
			case e.Node != firstTaking(e):
				t.Fatalf("first candidate that takes it is %s, explained: %+v", firstTaking(e), e)
			}
			if len(e.Candidates) != len(members) {
				t.Fatalf("%d candidates of %d members", len(e.Candidates), len(members))
			}
		}
	})
}

func firstTaking(e balancer.Explanation) string {
	for _, c := range e.Candidates {
		if c.Verdict == balancer.Takes {
			return c.Name
		}
	}
	return ""
}

// TestConcurrentUse is for the race detector, and checks that nothing is lost.
func TestConcurrentUse(t *testing.T) {
	b := withMembers(balancer.Options{}, equal(10)...)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			var leases []*balancer.Lease
			for i := range 500 {
				l, err := b.Acquire(user(i%100), nil)
				if err != nil {
					t.Error(err)
					return
				}
				leases = append(leases, l)
				switch {
				case i%250 == g:
					b.SetMembers(equal(5 + g))
				case i%10 == 0:
					b.Explain(user(i))
					b.Snapshot()
				}
			}
			for _, l := range leases {
				l.Release()
			}
		})
	}
	wg.Wait()
	if s := b.Snapshot(); s.Sessions != 0 || s.Users != 0 {
		t.Errorf("%d sessions of %d users are left", s.Sessions, s.Users)
	}
}

func TestAllocations(t *testing.T) {
	b := withMembers(balancer.Options{}, equal(100)...)
	table := balancer.BuildTable(equal(100), 0.25)
	acquire(t, b, "alice@example.com")
	if n := testing.AllocsPerRun(100, func() { table.Lookup("alice@example.com") }); n > 0 {
		t.Errorf("a look-up allocates %g times", n)
	}
	if n := testing.AllocsPerRun(100, func() { acquire(t, b, "alice@example.com").Release() }); n > 1 {
		t.Errorf("joining allocates %g times", n)
	}
	if n := testing.AllocsPerRun(100, func() { acquire(t, b, "bob@example.com").Release() }); n > 2 {
		t.Errorf("placing allocates %g times", n)
	}
}
