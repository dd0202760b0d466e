// Package report makes tables of what was measured: medians with ranges, and ratios.
package report

import (
	"cmp"
	"math"
	"slices"
)

// Metric is one figure of a workload.
type Metric struct {
	Key    string // of Sample.Metrics
	Title  string
	Higher bool // is better
	// What the ratio to HAProxy, and to the best of the others, is to be at most; at
	// least, if higher is better. 0: nothing is asked.
	OfHAProxy, OfBest float64
	// Beside is another peer to be compared with, and OfBeside the target.
	Beside   string  `json:",omitempty"`
	OfBeside float64 `json:",omitempty"`
	// OfRivals is what the ratio to each of Report.Rivals is to be.
	OfRivals float64 `json:",omitempty"`
}

// Workload is one kind of load.
type Workload struct {
	Name    string
	What    string // is done, in one sentence
	Metrics []Metric
}

// Peer is one of those that were compared.
type Peer struct {
	Name, Family, Version, Settings string
}

// Families of peers that ratios ask for. All but Ours and those of Apart are the
// others.
const (
	Ours    = "imlb"
	HAProxy = "haproxy"
)

// Sample is what one peer gave in one round.
type Sample struct {
	Round    int
	Workload string
	Peer     string
	Metrics  map[string]float64 `json:",omitempty"`
	Error    string             `json:",omitempty"`
}

// Machine is where it was measured.
type Machine struct {
	CPU        string
	Cores      int
	MemoryGB   int
	Kernel     string
	Congestion string // control of TCP
	Go         string
	Others     float64 // the share of the processor time that was other work's
}

// Report is a run with all that it measured.
type Report struct {
	Date      string
	Command   string
	Machine   Machine
	Peers     []Peer
	Missing   []string // programs that are not installed
	Apart     []string // families that are no competitors
	Rivals    []string `json:",omitempty"` // families that each of our peers is compared with, instead of HAProxy and the best
	Workloads []Workload
	Samples   []Sample
}

// Failures returns the samples that failed.
func (r *Report) Failures() (failed []Sample) {
	for _, s := range r.Samples {
		if s.Error != "" {
			failed = append(failed, s)
		}
	}
	return failed
}

// Spread is the median of some values, and their range.
type Spread struct {
	Median, Min, Max float64
	N                int // values; 0: the rest means nothing
}

// NewSpread sums up values.
func NewSpread(values []float64) (s Spread) {
	if len(values) == 0 {
		return s
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	s = Spread{Median: sorted[middle], Min: sorted[0], Max: sorted[len(sorted)-1], N: len(sorted)}
	if len(sorted)%2 == 0 {
		s.Median = (sorted[middle-1] + sorted[middle]) / 2
	}
	return s
}

// values returns a peer's figures, by round.
func (r *Report) values(workload, peer, key string) map[int]float64 {
	found := make(map[int]float64)
	for _, s := range r.Samples {
		if v, ok := s.Metrics[key]; ok && s.Workload == workload && s.Peer == peer && s.Error == "" {
			found[s.Round] = v
		}
	}
	return found
}

func (r *Report) spread(workload, peer, key string) Spread {
	var values []float64
	for _, v := range r.values(workload, peer, key) {
		values = append(values, v)
	}
	return NewSpread(values)
}

// Ratio is one peer's figure as a multiple of another's: of the medians, and the
// range of what single rounds gave.
type Ratio struct {
	Of string // the other peer
	Spread
}

// Ratio compares two peers.
func (r *Report) Ratio(workload, peer, of, key string) Ratio {
	mine, others := r.values(workload, peer, key), r.values(workload, of, key)
	var rounds []float64
	for round, v := range mine {
		if other, ok := others[round]; ok && other != 0 {
			rounds = append(rounds, v/other)
		}
	}
	ratio := Ratio{Of: of, Spread: NewSpread(rounds)}
	a, b := r.spread(workload, peer, key), r.spread(workload, of, key)
	if ratio.N > 0 && b.Median != 0 {
		ratio.Median = a.Median / b.Median
		// Medians need not be of the same round.
		ratio.Min, ratio.Max = min(ratio.Min, ratio.Median), max(ratio.Max, ratio.Median)
	}
	return ratio
}

// best returns the name of the peer with the best median among those of which
// choose approves; empty: there is none.
func (r *Report) best(workload string, m Metric, choose func(Peer) bool) string {
	type candidate struct {
		name  string
		value float64
	}
	var all []candidate
	for _, p := range r.Peers {
		if s := r.spread(workload, p.Name, m.Key); s.N > 0 && choose(p) {
			all = append(all, candidate{p.Name, s.Median})
		}
	}
	if len(all) == 0 {
		return ""
	}
	slices.SortStableFunc(all, func(a, b candidate) int {
		if m.Higher {
			a, b = b, a
		}
		return cmp.Compare(a.value, b.value)
	})
	return all[0].name
}

// OfHAProxy compares us with the variant of HAProxy that is best in this metric.
func (r *Report) OfHAProxy(workload string, m Metric) Ratio {
	return r.ofBest(workload, m, func(p Peer) bool { return p.Family == HAProxy })
}

// OfRival compares a peer of ours with the variant of a family that is best in this metric.
func (r *Report) OfRival(workload, peer, family string, m Metric) Ratio {
	name := r.best(workload, m, func(p Peer) bool { return p.Family == family })
	if name == "" {
		return Ratio{}
	}
	return r.Ratio(workload, peer, name, m.Key)
}

// OfBest compares us with the best of all others in this metric.
func (r *Report) OfBest(workload string, m Metric) Ratio {
	return r.ofBest(workload, m, func(p Peer) bool { return p.Family != Ours && !slices.Contains(r.Apart, p.Family) })
}

func (r *Report) ofBest(workload string, m Metric, choose func(Peer) bool) Ratio {
	name := r.best(workload, m, choose)
	if name == "" {
		return Ratio{}
	}
	return r.Ratio(workload, Ours, name, m.Key)
}

// digits is how many places behind the point leave three that matter.
func digits(v float64) int {
	switch v = math.Abs(v); {
	case v >= 99.5:
		return 0
	case v >= 9.95:
		return 1
	}
	return 2
}
