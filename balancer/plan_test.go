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

// liveOn returns n sessions of n users where a balancer puts them.
func liveOn(t testing.TB, members []balancer.Member, n int) []balancer.Session {
	t.Helper()
	b := withMembers(balancer.Options{}, members...)
	sessions := make([]balancer.Session, n)
	for i := range sessions {
		sessions[i] = balancer.Session{ID: fmt.Sprint(i), User: user(i), Node: acquire(t, b, user(i)).Node()}
	}
	return sessions
}

// after returns how many sessions nodes have when the moves are made.
func after(sessions []balancer.Session, moves []balancer.Move) map[string]int {
	count := map[string]int{}
	for _, s := range sessions {
		count[s.Node]++
	}
	for _, m := range moves {
		count[m.Node]--
		count[m.To]++
	}
	return count
}

// TestPlanAfterScaleOut: the new node gets about its share, nothing else moves,
// and a smaller share is a part of the same moves.
func TestPlanAfterScaleOut(t *testing.T) {
	members := equal(5)
	sessions := liveOn(t, members[:4], 2000)
	whole := balancer.Plan(members[:4], members, slices.Values(sessions), balancer.PlanOptions{Share: 1})
	for _, m := range whole.Moves {
		if m.To != "node-5" || m.Forced {
			t.Fatalf("%+v", m)
		}
	}
	if n := len(whole.Moves); n < 300 || n > 500 || len(whole.Stranded) > 0 {
		t.Errorf("%d of 2000 sessions move, %d are stranded", n, len(whole.Stranded))
	}
	some := balancer.Plan(members[:4], members, slices.Values(sessions), balancer.PlanOptions{Share: 0.05})
	if len(some.Moves) != 100 || some.Deferred+100 != whole.Deferred+len(whole.Moves) {
		t.Errorf("%d of 2000 sessions move, %d are deferred", len(some.Moves), some.Deferred)
	}
	for _, m := range some.Moves {
		if !slices.Contains(whole.Moves, m) {
			t.Fatalf("%+v is not among the moves of the whole", m)
		}
	}
	if none := balancer.Plan(members[:4], members, slices.Values(sessions), balancer.PlanOptions{}); len(none.Moves) > 0 {
		t.Errorf("%d sessions move with no share", len(none.Moves))
	}
}

// TestPlanEmptiesNodes that are draining, down or gone, and no others.
func TestPlanEmptiesNodes(t *testing.T) {
	members := equal(6)
	sessions := liveOn(t, members, 1200)
	next := slices.Clone(members[:5])
	next[0].Draining, next[1].Down, next[2].Weight = true, true, 0 // node-6 is gone, weightless nodes keep theirs
	p := balancer.Plan(members, next, slices.Values(sessions), balancer.PlanOptions{})
	count := after(sessions, p.Moves)
	for _, m := range p.Moves {
		if !m.Forced || m.Node == "node-3" || m.To == "node-3" {
			t.Fatalf("%+v", m)
		}
	}
	if count["node-1"]+count["node-2"]+count["node-6"] > 0 || count["node-4"]+count["node-5"]+count["node-3"] != 1200 {
		t.Errorf("afterwards nodes have %v", count)
	}
	nowhere := balancer.Plan(members, nil, slices.Values(sessions), balancer.PlanOptions{})
	if len(nowhere.Stranded) != 1200 || len(nowhere.Moves) > 0 {
		t.Errorf("%d are stranded, %d move", len(nowhere.Stranded), len(nowhere.Moves))
	}
}

// TestPlanKeepsUsersTogether, and has them join sessions that stay.
func TestPlanKeepsUsersTogether(t *testing.T) {
	members := equal(4)
	var sessions []balancer.Session
	for i := range 400 {
		sessions = append(sessions, balancer.Session{ID: fmt.Sprint(i), User: user(i / 4), Node: "node-1"})
	}
	sessions = append(sessions, balancer.Session{ID: "phone", User: user(0), Node: "node-3"})
	p := balancer.Plan(members, members[1:], slices.Values(sessions), balancer.PlanOptions{})
	to := map[string]string{user(0): "node-3"}
	for i, m := range p.Moves {
		if first := cmp.Or(to[m.User], m.To); m.To != first {
			t.Errorf("%s moves to %s and %s", m.User, first, m.To)
		}
		to[m.User] = m.To
		if i%4 > 0 && p.Moves[i-1].User != m.User {
			t.Errorf("sessions of %s are apart", m.User)
		}
	}
	if len(p.Moves) != 400 {
		t.Errorf("%d sessions move", len(p.Moves))
	}
}

// TestPlanProperties for any change: it is a function of what is given, moves
// what must move and no more than the share, keeps the bound, and is spread.
func TestPlanProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		old, members := drawStates(t), drawStates(t)
		for i := range members {
			members[i].Limit, members[i].Ramp = 0, 0
		}
		var sessions []balancer.Session
		for i := range rapid.IntRange(0, 300).Draw(t, "sessions") {
			sessions = append(sessions, balancer.Session{
				ID: fmt.Sprint(i), User: user(i), Node: nodeName(rapid.IntRange(0, 6).Draw(t, "node")),
			})
		}
		o := balancer.PlanOptions{Options: drawOptions(t), Share: rapid.SampledFrom([]float64{0, 0.1, 1}).Draw(t, "share")}
		p := balancer.Plan(old, members, slices.Values(sessions), o)
		shuffled := balancer.Plan(rapid.Permutation(old).Draw(t, "old"), rapid.Permutation(members).Draw(t, "members"),
			slices.Values(rapid.Permutation(sessions).Draw(t, "order")), o)
		if !slices.Equal(p.Moves, shuffled.Moves) || !slices.Equal(p.Stranded, shuffled.Stranded) || p.Deferred != shuffled.Deferred {
			t.Fatalf("in another order the plan is %+v, was %+v", shuffled, p)
		}
		checkWhoMoves(t, members, sessions, p, o.Share)
		forced := slices.IndexFunc(p.Moves, func(m balancer.Move) bool { return !m.Forced })
		if forced < 0 {
			forced = len(p.Moves)
		}
		checkSpread(t, p.Moves[:forced])
		checkSpread(t, p.Moves[forced:])
	})
}

func checkWhoMoves(t *rapid.T, members []balancer.Member, sessions []balancer.Session, p balancer.Moves, share float64) {
	fit := map[string]bool{}
	for _, m := range members {
		fit[m.Name] = !m.Down && !m.Draining
	}
	must, forced := 0, 0
	for _, s := range sessions {
		if !fit[s.Node] {
			must++
		}
	}
	for _, m := range p.Moves {
		if m.Forced {
			forced++
		}
		if m.To == m.Node || !fit[m.To] || m.Forced == fit[m.Node] {
			t.Fatalf("%+v", m)
		}
	}
	if forced+len(p.Stranded) != must || len(p.Stranded) > 0 && forced > 0 {
		t.Fatalf("%d of %d that must move do, %d are stranded", forced, must, len(p.Stranded))
	}
	if n := len(p.Moves) - forced; float64(n) > share*float64(len(sessions)) {
		t.Fatalf("%d of %d sessions move for the balance, the share is %g", n, len(sessions), share)
	}
}

// checkSpread compares every window with what [balancer.Moves] promises.
func checkSpread(t *rapid.T, moves []balancer.Move) {
	all := map[string]int{}
	for _, m := range moves {
		all[m.To]++
	}
	for _, k := range []int{1, 5, 20, 100} {
		for start := 0; start+k <= len(moves); start++ {
			count := map[string]int{}
			for _, m := range moves[start : start+k] {
				count[m.To]++
			}
			for to, n := range count {
				if most := float64(k+len(all))*float64(all[to])/float64(len(moves)) + 1; float64(n) > most+1e-9 {
					t.Fatalf("%d of %d moves in a row go to %s, at most %.1f should", n, k, to, most)
				}
			}
		}
	}
}

// TestPlanKeepsTheBound: where moves come to, nobody ends up over the bound.
func TestPlanKeepsTheBound(t *testing.T) {
	members := equal(10)
	sessions := liveOn(t, members, 3000)
	p := balancer.Plan(members, members[3:], slices.Values(sessions), balancer.PlanOptions{Options: balancer.Options{Epsilon: 0.1}})
	for node, n := range after(sessions, p.Moves) {
		if bound := int(math.Ceil(1.1 * 3000 / 7)); n > bound {
			t.Errorf("%s has %d sessions, its bound is %d", node, n, bound)
		}
	}
}

// TestPacer makes all moves of a plan at the pace, and never more to a target
// than may be under way.
func TestPacer(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		moves := make([]balancer.Move, rapid.IntRange(0, 60).Draw(t, "moves"))
		for i := range moves {
			moves[i] = balancer.Move{Session: balancer.Session{ID: fmt.Sprint(i)}, To: nodeName(rapid.IntRange(0, 3).Draw(t, "to"))}
		}
		pace := balancer.Pace{PerSecond: 100, Burst: rapid.IntRange(0, 3).Draw(t, "burst"), PerTarget: rapid.IntRange(0, 3).Draw(t, "per target")}
		p := balancer.NewPacer(moves, pace)
		var now int64
		var begun []int64
		underWay := map[string][]balancer.Move{}
		made := map[string]int{}
		for p.Left() > 0 {
			m, wait, ok := p.Next(now)
			switch {
			case ok:
				begun = append(begun, now)
				underWay[m.To] = append(underWay[m.To], m)
				made[m.ID]++
				if n := len(underWay[m.To]); pace.PerTarget > 0 && n > pace.PerTarget {
					t.Fatalf("%d moves are under way to %s", n, m.To)
				}
			case wait > 0:
				now += rapid.Int64Range(1, 3*wait).Draw(t, "pause")
			default: // some target's moves must end
				for to, ms := range underWay {
					if len(ms) > 0 {
						p.Done(ms[0])
						underWay[to] = ms[1:]
					}
				}
			}
		}
		if len(made) != len(moves) {
			t.Fatalf("%d of %d moves were made", len(made), len(moves))
		}
		burst := max(pace.Burst, 1)
		for i := burst; i < len(begun); i++ {
			// In any time at most the burst and what the rate gives.
			if least := int64(1e9 / 100); begun[i]-begun[i-burst] < least {
				t.Fatalf("move %d begins %d ns after the one %d before", i, begun[i]-begun[i-burst], burst)
			}
		}
	})
}

// TestPacerPassesOverBusyTargets: a target that is slow does not hold up others.
func TestPacerPassesOverBusyTargets(t *testing.T) {
	p := balancer.NewPacer([]balancer.Move{{To: "a"}, {To: "a"}, {To: "b"}}, balancer.Pace{PerTarget: 1})
	var got []string
	for range 2 {
		m, _, _ := p.Next(0)
		got = append(got, m.To)
	}
	if _, wait, ok := p.Next(0); ok || wait != 0 || !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("moves went to %q, then %v after %d", got, ok, wait)
	}
	p.Done(balancer.Move{To: "a"})
	if m, _, ok := p.Next(0); !ok || m.To != "a" || p.Left() != 0 {
		t.Errorf("last move: %+v, %v", m, ok)
	}
}
