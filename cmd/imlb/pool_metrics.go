package main

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"imlb/balancer"
	"imlb/health"
)

// pickCounts count what the balancer said, by cause and by reason.
type pickCounts struct {
	placed  [balancer.Shared + 1]atomic.Uint64
	refused [balancer.Abandoned + 1]atomic.Uint64
}

func (c *pickCounts) count(lease *balancer.Lease, err error) {
	if refusal, ok := errors.AsType[*balancer.Refusal](err); ok {
		c.refused[refusal.Reason].Add(1)
		return
	}
	c.placed[lease.Cause()].Add(1)
}

// poolFacts are what the metrics of a pool are read from.
type poolFacts struct {
	pool    *pool
	watched health.Snapshot
	placed  balancer.Snapshot
	now     time.Time
}

// poolMetric is one metric of all pools.
type poolMetric struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	// read emits the values, with the labels that follow the pool's name.
	read func(f poolFacts, emit func(value float64, labels ...string))
}

func newPoolMetric(kind prometheus.ValueType, name, help string, labels []string, read func(poolFacts, func(float64, ...string))) poolMetric {
	desc := prometheus.NewDesc("imlb_pool_"+name, help, append([]string{"pool"}, labels...), nil)
	return poolMetric{desc: desc, kind: kind, read: read}
}

// poolGauge is a metric with one value for each pool.
func poolGauge(name, help string, value func(poolFacts) float64) poolMetric {
	return newPoolMetric(prometheus.GaugeValue, name, help, nil, func(f poolFacts, emit func(float64, ...string)) { emit(value(f)) })
}

// poolCounter is the same of one that only grows.
func poolCounter(name, help string, value func(poolFacts) uint64) poolMetric {
	return newPoolMetric(prometheus.CounterValue, name, help, nil, func(f poolFacts, emit func(float64, ...string)) { emit(float64(value(f))) })
}

// nodeGauge is a metric with one value for each node that placement knows.
func nodeGauge(name, help string, value func(balancer.NodeState) int) poolMetric {
	return newPoolMetric(prometheus.GaugeValue, name, help, []string{"node"}, func(f poolFacts, emit func(float64, ...string)) {
		for _, n := range f.placed.Nodes {
			emit(float64(value(n)), n.Name)
		}
	})
}

func poolMetrics() []poolMetric {
	return []poolMetric{
		newPoolMetric(prometheus.GaugeValue, "nodes", "Nodes by what they stand as.", []string{"standing"}, emitStandings),
		newPoolMetric(prometheus.GaugeValue, "nodes_kept_out", "Nodes whose checks pass, kept out by ejection or damping.", []string{"why"}, emitKeptOut),
		nodeGauge("sessions", "Sessions of this front on a node.", func(n balancer.NodeState) int { return n.Sessions }),
		nodeGauge("sessions_of_other_fronts", "Sessions of other fronts on a node, as it tells.", func(n balancer.NodeState) int { return n.External }),
		nodeGauge("bound", "Most sessions that a node may have now; 0 when it gets no new users.", func(n balancer.NodeState) int { return n.Bound }),
		nodeGauge("partitions", "Partitions that a node owns.", func(n balancer.NodeState) int { return n.Partitions }),
		poolGauge("users", "Users with sessions of this front.", func(f poolFacts) float64 { return float64(f.placed.Users) }),
		poolGauge("exceptions", "Users who live elsewhere than the table says.", func(f poolFacts) float64 { return float64(f.placed.Exceptions) }),
		poolGauge("waiting", "Logins that wait for room.", func(f poolFacts) float64 { return float64(f.placed.Waiting) }),
		poolGauge("panic", "Whether so few nodes are fit that health is ignored (1).", func(f poolFacts) float64 { return oneIf(f.watched.Panic) }),
		poolGauge("staleness_seconds", "How old what is known of the nodes may be.", func(f poolFacts) float64 { return f.watched.Source.Staleness(f.now).Seconds() }),
		poolGauge("source_failing", "Whether the source of the nodes fails to answer (1).", func(f poolFacts) float64 { return oneIf(f.watched.Source.Failing != nil) }),
		poolGauge("cached", "Whether all that is known of the nodes is what was kept on disk (1).", func(f poolFacts) float64 { return oneIf(f.watched.Source.Cached) }),
		poolGauge("cache_failing", "Whether the known nodes cannot be kept on disk (1).", func(f poolFacts) float64 { return oneIf(f.watched.Source.CacheFailing != nil) }),
		poolCounter("source_queries_total", "Queries to Consul for nodes that have ended.", func(f poolFacts) uint64 { return f.watched.Source.Queries }),
		poolCounter("source_queries_failed_total", "Those of them that failed.", func(f poolFacts) uint64 { return f.watched.Source.QueriesFailed }),
		poolCounter("source_index_resets_total", "Times that Consul has lost its state.", func(f poolFacts) uint64 { return f.watched.Source.IndexResets }),
		poolCounter("checks_total", "Checks of nodes.", func(f poolFacts) uint64 { return f.watched.Totals.Checks }),
		poolCounter("checks_failed_total", "Checks of nodes that failed.", func(f poolFacts) uint64 { return f.watched.Totals.ChecksFailed }),
		poolCounter("transitions_total", "Changes of what nodes stand as.", func(f poolFacts) uint64 { return f.watched.Totals.Transitions }),
		poolCounter("ejections_total", "Nodes taken out because sessions failed there.", func(f poolFacts) uint64 { return f.watched.Totals.Ejections }),
		poolCounter("damped_total", "Nodes kept out because they came and went.", func(f poolFacts) uint64 { return f.watched.Totals.Suppressions }),
		poolCounter("spared_total", "Nodes not taken out because too many were out.", func(f poolFacts) uint64 { return f.watched.Totals.Spared }),
		poolCounter("panics_total", "Times that health began to be ignored.", func(f poolFacts) uint64 { return f.watched.Totals.Panics }),
		newPoolMetric(prometheus.CounterValue, "picks_total", "Sessions placed, by why they were placed where they are.", []string{"cause"}, emitPicks),
		newPoolMetric(prometheus.CounterValue, "refusals_total", "Sessions that no node could take, by reason.", []string{"reason"}, emitRefusals),
	}
}

func emitStandings(f poolFacts, emit func(float64, ...string)) {
	count := map[health.Standing]int{}
	for _, n := range f.watched.Nodes {
		count[n.Standing]++
	}
	for _, s := range []health.Standing{health.Unchecked, health.Fit, health.Draining, health.Unfit} {
		emit(float64(count[s]), s.String())
	}
}

func emitKeptOut(f poolFacts, emit func(float64, ...string)) {
	ejected, damped := 0, 0
	for _, n := range f.watched.Nodes {
		if !n.EjectedUntil.IsZero() {
			ejected++
		}
		if !n.SuppressedUntil.IsZero() {
			damped++
		}
	}
	emit(float64(ejected), "ejected")
	emit(float64(damped), "damped")
}

func emitPicks(f poolFacts, emit func(float64, ...string)) {
	for cause := balancer.Owned; int(cause) < len(f.pool.picks.placed); cause++ {
		emit(float64(f.pool.picks.placed[cause].Load()), cause.String())
	}
}

func emitRefusals(f poolFacts, emit func(float64, ...string)) {
	for reason := balancer.NoMembers; int(reason) < len(f.pool.picks.refused); reason++ {
		emit(float64(f.pool.picks.refused[reason].Load()), reason.String())
	}
}

// poolCollector reads the metrics of the pools that there are at the time.
func poolCollector(pools func() []*pool) prometheus.Collector {
	return &poolReader{pools: pools, metrics: poolMetrics()}
}

type poolReader struct {
	pools   func() []*pool
	metrics []poolMetric
}

// Describe implements prometheus.Collector.
func (r *poolReader) Describe(out chan<- *prometheus.Desc) {
	for _, m := range r.metrics {
		out <- m.desc
	}
}

// Collect implements prometheus.Collector.
func (r *poolReader) Collect(out chan<- prometheus.Metric) {
	for _, p := range r.pools() {
		facts := poolFacts{pool: p, watched: p.monitor.Snapshot(), placed: p.balancer.Snapshot(), now: time.Now()}
		for _, m := range r.metrics {
			m.read(facts, func(value float64, labels ...string) {
				out <- prometheus.MustNewConstMetric(m.desc, m.kind, value, append([]string{p.name}, labels...)...)
			})
		}
	}
}
