package balancer_test

import (
	"fmt"
	"testing"

	"imlb/balancer"
)

func BenchmarkBuildTable(b *testing.B) {
	for _, nodes := range []int{3, 20, 100, 1000} {
		for _, epsilon := range []float64{0, 0.01, 0.05, 0.10, 0.25} {
			b.Run(fmt.Sprintf("nodes=%d/epsilon=%.2f", nodes, epsilon), func(b *testing.B) {
				members := equal(nodes)
				for b.Loop() {
					balancer.BuildTable(members, epsilon)
				}
			})
		}
	}
}

func BenchmarkLookup(b *testing.B) {
	table := balancer.BuildTable(equal(1000), balancer.DefaultEpsilon)
	users := make([]string, 1024)
	for i := range users {
		users[i] = user(i)
	}
	i := 0
	for b.Loop() {
		table.Lookup(users[i%len(users)])
		i++
	}
}

// equal returns n members of weight 1.
func equal(n int) []balancer.Member {
	members := make([]balancer.Member, n)
	for i := range members {
		members[i] = balancer.Member{Name: fmt.Sprintf("node-%d", i+1), Weight: 1}
	}
	return members
}

func user(i int) string { return fmt.Sprintf("user%d@example.com", i) }

// BenchmarkAcquire places and releases a session of a user who has none, on
// nodes that have 100 each.
func BenchmarkAcquire(b *testing.B) {
	for _, nodes := range []int{20, 1000} {
		b.Run(fmt.Sprintf("nodes=%d", nodes), func(b *testing.B) {
			balanced := balancer.New(balancer.Options{})
			balanced.SetMembers(equal(nodes))
			users := make([]string, 100*nodes)
			for i := range users {
				users[i] = user(i)
				if _, err := balanced.Acquire(users[i], nil); err != nil {
					b.Fatal(err)
				}
			}
			i := 0
			for b.Loop() {
				l, err := balanced.Acquire(users[i%len(users)]+"2", nil)
				if err != nil {
					b.Fatal(err)
				}
				l.Release()
				i++
			}
		})
	}
}
