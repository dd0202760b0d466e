package balancer_test

import (
	"fmt"
	"math"
	"slices"
	"sync"
	"testing"

	"imlb/balancer"

	"github.com/buraksezer/consistent"
	"github.com/cespare/xxhash/v2"
	lafikl "github.com/lafikl/consistent"
)

// placement is what all that are compared can do: find the node of a key, and go
// on without a node.
type placement struct {
	locate func(key string) string
	lose   func(node string) placement
}

// compared are built for nodes of equal weight, each as its documentation shows.
// Those that have a table have one of as many partitions.
var compared = []struct {
	name  string
	build func(nodes []string) placement
}{
	{"imlb-table", func(nodes []string) placement { return ours(balancer.ByTable, nodes) }},
	{"imlb-maglev", func(nodes []string) placement { return ours(balancer.ByMaglev, nodes) }},
	{"imlb-ring", func(nodes []string) placement { return ours(balancer.ByRing, nodes) }},
	{"buraksezer", buraksezer},
	{"lafikl", lafiklRing},
	{"plain-ring", plainRing},
}

func ours(policy balancer.Policy, nodes []string) placement {
	members := make([]balancer.Member, len(nodes))
	for i, n := range nodes {
		members[i] = balancer.Member{Name: n, Weight: 1}
	}
	table := tableOf(balancer.Options{Policy: policy, Epsilon: 0.25}, members)
	return placement{table.Lookup, func(node string) placement { return ours(policy, without(nodes, node)) }}
}

func without(nodes []string, node string) []string {
	return slices.DeleteFunc(slices.Clone(nodes), func(n string) bool { return n == node })
}

type name string

func (n name) String() string { return string(n) }

type hasher struct{}

func (hasher) Sum64(b []byte) uint64 { return xxhash.Sum64(b) }

func buraksezer(nodes []string) placement {
	members := make([]consistent.Member, len(nodes))
	for i, n := range nodes {
		members[i] = name(n)
	}
	c := consistent.New(members, consistent.Config{
		Hasher: hasher{}, PartitionCount: balancer.Partitions, ReplicationFactor: consistent.DefaultReplicationFactor, Load: consistent.DefaultLoad,
	})
	var p placement
	p.locate = func(key string) string { return c.LocateKey([]byte(key)).String() }
	p.lose = func(node string) placement {
		c.Remove(node)
		return p
	}
	return p
}

func lafiklRing(nodes []string) placement {
	c := lafikl.New()
	for _, n := range nodes {
		c.Add(n)
	}
	var p placement
	p.locate = func(key string) string {
		node, err := c.Get(key)
		if err != nil {
			panic(err)
		}
		return node
	}
	p.lose = func(node string) placement {
		c.Remove(node)
		return p
	}
	return p
}

// plainRing is consistent hashing without bounds: 160 points a node, as many
// clients of key-value stores have, and a binary search.
func plainRing(nodes []string) placement {
	type point struct {
		at   uint64
		node int
	}
	var ring []point
	for i, n := range nodes {
		for k := range 160 {
			ring = append(ring, point{xxhash.Sum64String(fmt.Sprintf("%s-%d", n, k)), i})
		}
	}
	slices.SortFunc(ring, func(a, b point) int {
		if a.at < b.at {
			return -1
		}
		return 1
	})
	locate := func(key string) string {
		h := xxhash.Sum64String(key)
		i, _ := slices.BinarySearchFunc(ring, h, func(p point, h uint64) int {
			if p.at < h {
				return -1
			}
			return 1
		})
		return nodes[ring[i%len(ring)].node]
	}
	return placement{locate, func(node string) placement { return plainRing(without(nodes, node)) }}
}

// comparedKeys are the same for all, made when first needed.
var comparedKeys = sync.OnceValue(func() []string {
	keys := make([]string, 1_000_000)
	for i := range keys {
		keys[i] = user(i)
	}
	return keys
})

// BenchmarkComparePick finds the node of a user. Beside the time it tells how even
// the nodes' shares of a million users are (the most that one has, relative to the
// average), how many move when one node is lost, and how many of those were not on
// the lost node (both as a part of all).
func BenchmarkComparePick(b *testing.B) {
	keys := comparedKeys()
	for _, c := range compared {
		for _, nodes := range []int{20, 1000} {
			b.Run(fmt.Sprintf("%s/nodes=%d", c.name, nodes), func(b *testing.B) {
				p := c.build(nodeNames(nodes))
				i := 0
				b.ReportAllocs()
				for b.Loop() {
					p.locate(keys[i%len(keys)])
					i++
				}
				reportQuality(b, p, keys, nodes)
			})
		}
	}
}

func reportQuality(b *testing.B, p placement, keys []string, nodes int) {
	lost := nodeNames(nodes)[nodes/2]
	count := make(map[string]int, nodes)
	was := make([]string, len(keys))
	for i, k := range keys {
		was[i] = p.locate(k)
		count[was[i]]++
	}
	most := 0
	for _, n := range count {
		most = max(most, n)
	}
	p = p.lose(lost)
	moved, extra := 0, 0
	for i, k := range keys {
		if p.locate(k) == was[i] {
			continue
		}
		moved++
		if was[i] != lost {
			extra++
		}
	}
	all := float64(len(keys))
	b.ReportMetric(float64(most)*float64(nodes)/all, "max/avg")
	b.ReportMetric(100*float64(moved)/all, "moved-%")
	b.ReportMetric(100*float64(extra)/all, "extra-%")
}

// BenchmarkCompareBuild makes everything ready for 1,000 nodes that are known at
// the start.
func BenchmarkCompareBuild(b *testing.B) {
	for _, c := range compared {
		b.Run(c.name, func(b *testing.B) {
			nodes := nodeNames(1000)
			for b.Loop() {
				c.build(nodes)
			}
		})
	}
}

// BenchmarkCompareLoss goes on without one of 1,000 nodes.
func BenchmarkCompareLoss(b *testing.B) {
	for _, c := range compared {
		b.Run(c.name, func(b *testing.B) {
			nodes := nodeNames(1000)
			p := c.build(nodes)
			i := 0
			for b.Loop() {
				p = p.lose(nodes[i%500])
				i++
				if i%500 == 0 {
					b.StopTimer()
					p = c.build(nodes)
					b.StartTimer()
				}
			}
		})
	}
}

// BenchmarkCompareBounded counts a session of a new user on a node within its live
// bound and takes it off again, with 100 sessions a node before.
func BenchmarkCompareBounded(b *testing.B) {
	for _, nodes := range []int{20, 1000} {
		keys := comparedKeys()[:100*nodes]
		for _, policy := range policies {
			b.Run(fmt.Sprintf("imlb-%v/nodes=%d", policy, nodes), func(b *testing.B) {
				p := balancer.New(balancer.Options{Policy: policy, Epsilon: 0.25})
				p.SetMembers(equal(nodes))
				for _, k := range keys {
					acquire(b, p, k)
				}
				reportEvenness(b, p)
				i := 0
				for b.Loop() {
					acquire(b, p, comparedKeys()[len(keys)+i%len(keys)]).Release()
					i++
				}
			})
		}
		b.Run(fmt.Sprintf("lafikl/nodes=%d", nodes), func(b *testing.B) {
			c := lafikl.New()
			for _, n := range nodeNames(nodes) {
				c.Add(n)
			}
			take := func(key string) string {
				node, err := c.GetLeast(key)
				if err != nil {
					b.Fatal(err)
				}
				c.Inc(node)
				return node
			}
			for _, k := range keys {
				take(k)
			}
			var most int64
			for _, n := range c.GetLoads() {
				most = max(most, n)
			}
			i := 0
			for b.Loop() {
				c.Done(take(comparedKeys()[len(keys)+i%len(keys)]))
				i++
			}
			b.ReportMetric(float64(most)/100, "max/avg")
		})
	}
}

// reportEvenness has to be told of before the loop, as it reads the counts then.
func reportEvenness(b *testing.B, p *balancer.Balancer) {
	s := p.Snapshot()
	most := 0
	for _, n := range s.Nodes {
		most = max(most, n.Sessions)
	}
	average := float64(s.Sessions) / float64(len(s.Nodes))
	b.Cleanup(func() { b.ReportMetric(math.Round(1000*float64(most)/average)/1000, "max/avg") })
}

// nodeNames end in a letter: some append numbers to names, and would have node 1's
// point 10 where node 11's point 0 is.
func nodeNames(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("node-%d.example", i+1)
	}
	return names
}
