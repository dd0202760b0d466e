package balancer_test

import (
	"cmp"
	"flag"
	"fmt"
	"hash/fnv"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"imlb/balancer"

	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "write the golden files")

// TestGolden fixes placement for ever: a user's partition is part of the data
// that clusters keep, and fronts of different versions and architectures have to
// agree on the rest.
func TestGolden(t *testing.T) {
	var got strings.Builder
	for _, u := range []string{"", "a", "alice@example.com", "bob@example.com", "çelik@beispiel.example"} {
		fmt.Fprintf(&got, "partition %q %d\n", u, balancer.Partition(u))
	}
	sets := map[string][]balancer.Member{
		"one":      equal(1),
		"three":    equal(3),
		"twenty":   equal(20),
		"thousand": equal(1000),
		"weighted": {{Name: "a", Weight: 1}, {Name: "b", Weight: 2.5}, {Name: "c", Weight: 0.125}, {Name: "d", Weight: 65536}, {Name: "e", Weight: 40000}},
	}
	for _, name := range slices.Sorted(maps.Keys(sets)) {
		for _, epsilon := range []float64{0, 0.05, 0.25} {
			table := balancer.BuildTable(sets[name], epsilon)
			fmt.Fprintf(&got, "table %s epsilon %.2f digest %016x", name, epsilon, digest(table))
			for _, p := range []uint16{0, 1, 1000, 65535} {
				fmt.Fprintf(&got, " %d:%s", p, table.Owner(p))
			}
			got.WriteByte('\n')
		}
	}
	for _, p := range []balancer.Policy{balancer.ByRing, balancer.ByMaglev} {
		for _, name := range slices.Sorted(maps.Keys(sets)) {
			fmt.Fprintf(&got, "%v %s digest %016x\n", p, name, digest(tableOf(balancer.Options{Policy: p}, sets[name])))
		}
	}
	const file = "testdata/golden.txt"
	if *update {
		if err := os.WriteFile(file, []byte(got.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("placement changed:\n%swant:\n%s", got.String(), want)
	}
}

// digest condenses all owners of a table.
func digest(table *balancer.Table) uint64 {
	h := fnv.New64a()
	for p := range balancer.Partitions {
		h.Write([]byte(table.Owner(uint16(p)) + "\n"))
	}
	return h.Sum64()
}

// TestTableIsGreedyInScoreOrder compares the table with what [BuildTable]
// promises, written down naively: all pairs in the order of their scores, taken
// when both sides are free.
func TestTableIsGreedyInScoreOrder(t *testing.T) {
	for _, set := range [][]balancer.Member{
		equal(1), equal(2), equal(5),
		{{Name: "a", Weight: 1}, {Name: "b", Weight: 2}, {Name: "c", Weight: 7.5}, {Name: "d", Weight: 0.01}},
	} {
		pairs := inScoreOrder(set)
		for _, epsilon := range []float64{0, 0.01, 0.25} {
			table := balancer.BuildTable(set, epsilon)
			for p, want := range greedy(set, pairs, epsilon) {
				if got := table.Owner(uint16(p)); got != want {
					t.Fatalf("%d members, epsilon %g: partition %d is owned by %q, want %q", len(set), epsilon, p, got, want)
				}
			}
		}
	}
}

type pair struct {
	score     uint64
	node      string
	partition int
}

func inScoreOrder(members []balancer.Member) []pair {
	var pairs []pair
	for _, m := range members {
		for p := range balancer.Partitions {
			pairs = append(pairs, pair{balancer.Score(m, uint16(p)), m.Name, p})
		}
	}
	slices.SortFunc(pairs, func(a, b pair) int {
		if a.score != b.score {
			return cmp.Compare(a.score, b.score)
		}
		return cmp.Compare(a.node, b.node)
	})
	return pairs
}

func greedy(members []balancer.Member, pairs []pair, epsilon float64) []string {
	var total float64
	for _, m := range members {
		total += m.Weight
	}
	room := map[string]int{}
	for _, m := range members {
		room[m.Name] = int(math.Ceil((1 + epsilon) * balancer.Partitions * m.Weight / total))
	}
	owners := make([]string, balancer.Partitions)
	for _, p := range pairs {
		if owners[p.partition] == "" && room[p.node] > 0 {
			owners[p.partition] = p.node
			room[p.node]--
		}
	}
	return owners
}

func TestTableWithoutMembers(t *testing.T) {
	for _, members := range [][]balancer.Member{nil, {{Name: "a"}}, {{Name: "a", Weight: -1}, {Name: "b", Weight: math.NaN()}}} {
		table := balancer.BuildTable(members, 0.25)
		if got := table.Lookup("alice@example.com"); got != "" || table.Len() != 0 {
			t.Errorf("%v: owner %q of %d", members, got, table.Len())
		}
		for node := range table.Ranked(7) {
			t.Errorf("%v: ranks %q", members, node)
		}
	}
}

// drawMembers draws up to most members with names and weights as operators give them.
func drawMembers(t *rapid.T, most int) []balancer.Member {
	n := rapid.IntRange(1, most).Draw(t, "members")
	members := make([]balancer.Member, n)
	weights := rapid.SampledFrom([]float64{0.5, 1, 1, 1, 2, 3, 10, 100})
	prefix := rapid.StringMatching(`[a-z]{0,8}`).Draw(t, "prefix")
	for i := range members {
		members[i] = balancer.Member{Name: fmt.Sprint(prefix, i), Weight: weights.Draw(t, "weight")}
	}
	return members
}

func drawEpsilon(t *rapid.T) float64 {
	return rapid.SampledFrom([]float64{0, 0.01, 0.1, 0.25, 1}).Draw(t, "epsilon")
}

func TestTableDoesNotDependOnOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		members, epsilon := drawMembers(t, 40), drawEpsilon(t)
		one := balancer.BuildTable(members, epsilon)
		other := balancer.BuildTable(rapid.Permutation(members).Draw(t, "order"), epsilon)
		for p := range balancer.Partitions {
			if a, b := one.Owner(uint16(p)), other.Owner(uint16(p)); a != b {
				t.Fatalf("partition %d is owned by %s and by %s", p, a, b)
			}
		}
	})
}

func TestTableKeepsLimits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		members, epsilon := drawMembers(t, 40), drawEpsilon(t)
		var total, sum float64
		for _, m := range members {
			total += m.Weight
		}
		owned := balancer.BuildTable(members, epsilon).Owned()
		for _, m := range members {
			limit := math.Ceil((1+epsilon)*balancer.Partitions*m.Weight/total + 1e-6)
			if n := float64(owned[m.Name]); n > limit {
				t.Fatalf("%s owns %g partitions of at most %g", m.Name, n, limit)
			}
			sum += float64(owned[m.Name])
		}
		if sum != balancer.Partitions {
			t.Fatalf("%g partitions are owned", sum)
		}
	})
}

// TestTableRespectsWeights checks that with ample headroom nodes own in
// proportion to their weights, within five standard deviations.
func TestTableRespectsWeights(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		members := drawMembers(t, 40)
		var total float64
		for _, m := range members {
			total += m.Weight
		}
		owned := balancer.BuildTable(members, 100).Owned()
		for _, m := range members {
			share := m.Weight / total
			mean := share * balancer.Partitions
			if off := math.Abs(float64(owned[m.Name]) - mean); off > 5*math.Sqrt(mean*(1-share))+1 {
				t.Fatalf("%s owns %d partitions, its share is %.1f", m.Name, owned[m.Name], mean)
			}
		}
	})
}

// TestLossMovesOnlyWhatTheLostNodeOwned holds exactly where no node is at its limit.
func TestLossMovesOnlyWhatTheLostNodeOwned(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		members := drawMembers(t, 40)
		lost := rapid.IntRange(0, len(members)-1).Draw(t, "lost")
		before := balancer.BuildTable(members, 100)
		after := balancer.BuildTable(slices.Delete(slices.Clone(members), lost, lost+1), 100)
		for p := range balancer.Partitions {
			was, is := before.Owner(uint16(p)), after.Owner(uint16(p))
			if was != is && was != members[lost].Name {
				t.Fatalf("partition %d moves from %s to %s though %s was lost", p, was, is, members[lost].Name)
			}
			if was == members[lost].Name && len(members) > 1 && is != second(before, uint16(p)) {
				t.Fatalf("partition %d moves to %s, ranked second was %s", p, is, second(before, uint16(p)))
			}
		}
	})
}

func second(table *balancer.Table, p uint16) string {
	i := 0
	for node := range table.Ranked(p) {
		if i == 1 {
			return node
		}
		i++
	}
	return ""
}

// TestLossMovesLittleElseUnderLimits measures what the limits cost: a lost node
// raises the others' limits, so that a few partitions go back to where they rank.
func TestLossMovesLittleElseUnderLimits(t *testing.T) {
	for _, c := range []struct {
		nodes   int
		epsilon float64
		most    float64 // extra moves as a share of all partitions
	}{
		{3, 0.25, 0}, {20, 0.10, 0}, {20, 0.25, 0}, {100, 0.25, 0}, {1000, 0.25, 0.0005}, {20, 0.01, 0.02},
	} {
		members := equal(c.nodes)
		before := balancer.BuildTable(members, c.epsilon)
		after := balancer.BuildTable(members[1:], c.epsilon)
		extra := 0
		for p := range balancer.Partitions {
			was, is := before.Owner(uint16(p)), after.Owner(uint16(p))
			if was != is && was != members[0].Name {
				extra++
			}
		}
		if share := float64(extra) / balancer.Partitions; share > c.most {
			t.Errorf("%d nodes, epsilon %.2f: %d partitions move that were not on the lost node", c.nodes, c.epsilon, extra)
		}
	}
}

// TestRankedIsAPermutation checks Ranked: every node once, the owner first.
func TestRankedIsAPermutation(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		members := drawMembers(t, 40)
		table := balancer.BuildTable(members, drawEpsilon(t))
		p := rapid.Uint16().Draw(t, "partition")
		ranked := slices.Collect(table.Ranked(p))
		if ranked[0] != table.Owner(p) {
			t.Fatalf("ranked first is %s, owner is %s", ranked[0], table.Owner(p))
		}
		slices.Sort(ranked)
		if len(slices.Compact(ranked)) != len(members) {
			t.Fatalf("%d of %d members are ranked", len(ranked), len(members))
		}
	})
}

// TestSecondsAreSpread checks that a lost node's partitions are spread over the
// others evenly: χ² over all (first, second) pairs of 20 nodes. Also that names
// which differ little do not rank alike.
func TestSecondsAreSpread(t *testing.T) {
	const nodes = 20
	table := balancer.BuildTable(equal(nodes), 100)
	pairs := map[[2]string]int{}
	for p := range balancer.Partitions {
		pairs[[2]string{table.Owner(uint16(p)), second(table, uint16(p))}]++
	}
	const cells = nodes * (nodes - 1)
	mean := float64(balancer.Partitions) / cells
	var chi float64
	for _, n := range pairs {
		chi += (float64(n) - mean) * (float64(n) - mean) / mean
	}
	// Mean cells, standard deviation √(2·cells) if pairs were independent.
	if limit := cells + 5*math.Sqrt(2*cells); len(pairs) != cells || chi > limit {
		t.Errorf("χ² = %.0f over %d cells, want at most %.0f", chi, len(pairs), limit)
	}
}

// TestOrdersMix looks for structure in single orders: the distance between
// partitions at neighbouring ranks, and the ranks that two names give a partition.
func TestOrdersMix(t *testing.T) {
	const cells = 256
	limit := cells + 6*math.Sqrt(2*cells)
	rng := rand.New(rand.NewPCG(1, 2))
	bad := 0
	for range orders {
		a, b := fmt.Sprint("n", rng.Uint32()), fmt.Sprint("n", rng.Uint32())
		var steps, ranks [cells]float64
		for i := range balancer.Partitions - 1 {
			steps[(balancer.At(a, uint16(i+1))-balancer.At(a, uint16(i)))>>8]++
			p := uint16(i)
			ranks[balancer.Rank(a, p)>>12<<4|balancer.Rank(b, p)>>12]++
			if balancer.At(a, balancer.Rank(a, p)) != p {
				t.Fatalf("order of %s: rank of %d does not lead back", a, p)
			}
		}
		if chi(steps[:]) > limit || chi(ranks[:]) > limit {
			bad++
		}
	}
	if bad > 0 {
		t.Errorf("%d of %d pairs of orders show structure", bad, orders)
	}
}

func chi(counts []float64) float64 {
	mean := float64(balancer.Partitions) / float64(len(counts))
	var sum float64
	for _, n := range counts {
		sum += (n - mean) * (n - mean) / mean
	}
	return sum
}

// TestQuantiles compares with floating point.
func TestQuantiles(t *testing.T) {
	last := -1.0
	for i, q := range balancer.Quantiles() {
		got := float64(q) / (1 << 60)
		want := -math.Log1p(-(float64(i) + 0.5) / balancer.Partitions)
		if math.Abs(got-want) > 1e-12*(1+want) || got <= last {
			t.Fatalf("quantile %d is %g, want %g", i, got, want)
		}
		last = got
	}
}
