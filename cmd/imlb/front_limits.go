package main

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"imlb/configs"
	"imlb/proxy/limit"
)

// limitRules are what clients are held to, in the words of package limit.
func limitRules(doc configs.Proxy) limit.Rules {
	l := doc.Limits
	rules := limit.Rules{
		IPv4Bits:   l.Source.IPv4Prefix,
		IPv6Bits:   l.Source.IPv6Prefix,
		Source:     limitScope(l.Source.Rate, l.Source.Connections, l.Source.Unauthenticated, l.Source.BytesIn, l.Source.BytesOut),
		User:       limitScope(l.User.Rate, l.User.Connections, l.User.Unauthenticated, l.User.BytesIn, l.User.BytesOut),
		Global:     limitScope(l.Global.Rate, l.Global.Connections, l.Global.Unauthenticated, l.Global.BytesIn, l.Global.BytesOut),
		Listeners:  make(map[string]limit.Listener, len(doc.Listeners)),
		Access:     limit.Access{Allow: l.Allow, Deny: l.Deny},
		Exempt:     l.Source.Exempt,
		Backoff:    backoffOf(l.LoginBackoff),
		MaxEntries: l.MaxEntries,
	}
	for _, c := range doc.Listeners {
		pace := configs.Pace{PerSecond: c.Rate.PerSecond, Burst: c.Rate.Burst, MaxWait: c.Rate.MaxWait}
		rules.Listeners[c.Name] = limit.Listener{
			Scope:  limitScope(pace, c.Limits.Connections, c.Limits.Unauthenticated, c.Limits.BytesIn, c.Limits.BytesOut),
			Access: limit.Access{Allow: c.Allow, Deny: c.Deny},
		}
	}
	return rules
}

func limitScope(pace configs.Pace, connections, unauthenticated int, in, out configs.Bandwidth) limit.Scope {
	return limit.Scope{
		Rate:       limit.Rate{PerSecond: pace.PerSecond, Burst: pace.FullBurst(), MaxWait: pace.MaxWait},
		Concurrent: connections, Unauthenticated: unauthenticated, In: bandwidthOf(in), Out: bandwidthOf(out),
	}
}

func bandwidthOf(b configs.Bandwidth) limit.Bandwidth {
	return limit.Bandwidth{PerSecond: int64(b.PerSecond), Burst: int64(b.FullBurst())}
}

func backoffOf(c configs.LoginBackoff) limit.Backoff {
	if !c.Enabled {
		return limit.Backoff{}
	}
	return limit.Backoff{
		Pair:    stepsOf(c.UserAndSource),
		Source:  stepsOf(configs.PairBackoff(c.Source)),
		User:    stepsOf(configs.PairBackoff(c.User)),
		MaxWait: c.MaxWait, Window: c.Window,
	}
}

// stepsOf are none when there is no delay.
func stepsOf(c configs.PairBackoff) limit.Steps {
	if c.Max == 0 {
		return limit.Steps{}
	}
	return limit.Steps{Free: c.Free, First: c.First, Max: c.Max}
}

// topSources is how many sources /status tells of.
const topSources = 10

// limitMetric is a metric of the front's limits.
type limitMetric struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	read func(s limit.Snapshot, emit func(value float64, label string))
}

func newLimitMetric(kind prometheus.ValueType, name, help, label string, read func(limit.Snapshot, func(float64, string))) limitMetric {
	return limitMetric{prometheus.NewDesc("imlb_limit_"+name, help, []string{label}, nil), kind, read}
}

// tableMetric is a metric with a value for each table.
func tableMetric(kind prometheus.ValueType, name, help string, value func(limit.TableStatus) float64) limitMetric {
	return newLimitMetric(kind, name, help, "table", func(s limit.Snapshot, emit func(float64, string)) {
		emit(value(s.Sources), "sources")
		emit(value(s.Users), "users")
		emit(value(s.Claims), "claims")
	})
}

// listenerMetric is a gauge with a value for each listener.
func listenerMetric(name, help string, value func(limit.GateStatus) int) limitMetric {
	return newLimitMetric(prometheus.GaugeValue, name, help, "listener", func(s limit.Snapshot, emit func(float64, string)) {
		for name, l := range s.Listeners {
			emit(float64(value(l)), name)
		}
	})
}

func limitMetrics() []limitMetric {
	return []limitMetric{
		tableMetric(prometheus.GaugeValue, "entries", "Sources, users, and claims of users by source, that are kept count of.", func(t limit.TableStatus) float64 { return float64(t.Entries) }),
		tableMetric(prometheus.GaugeValue, "entries_max", "Most that can be.", func(t limit.TableStatus) float64 { return float64(t.MaxEntries) }),
		tableMetric(prometheus.GaugeValue, "entries_connected", "Those of them with connections.", func(t limit.TableStatus) float64 { return float64(t.Connected) }),
		tableMetric(prometheus.GaugeValue, "overflowing", "Connections that share an entry because there was no room.", func(t limit.TableStatus) float64 { return float64(t.Overflowing) }),
		tableMetric(prometheus.CounterValue, "recycled_total", "Entries reused with nothing lost.", func(t limit.TableStatus) float64 { return float64(t.Recycled) }),
		tableMetric(prometheus.CounterValue, "evicted_total", "Entries reused with little lost, for want of room.", func(t limit.TableStatus) float64 { return float64(t.Evicted) }),
		tableMetric(prometheus.CounterValue, "overflowed_total", "Times that a newcomer found no room.", func(t limit.TableStatus) float64 { return float64(t.Overflowed) }),
		listenerMetric("connections", "Connections of a listener.", func(l limit.GateStatus) int { return l.Connections }),
		listenerMetric("unauthenticated", "Those of them that have not logged in.", func(l limit.GateStatus) int { return l.Unauthenticated }),
		newLimitMetric(prometheus.GaugeValue, "waiting", "Turns that were given and have not come, by the scope whose rate it is.", "scope", func(s limit.Snapshot, emit func(float64, string)) {
			listeners := 0
			for _, l := range s.Listeners {
				listeners += l.Waiting
			}
			emit(float64(s.Sources.Waiting), "source")
			emit(float64(s.Users.Waiting), "user")
			emit(float64(listeners), "listener")
			emit(float64(s.Global.Waiting), "global")
		}),
	}
}

// limitCollector reads the metrics of the limits.
func limitCollector(snapshot func(now time.Time, top int) limit.Snapshot) prometheus.Collector {
	return &limitReader{snapshot: snapshot, metrics: limitMetrics()}
}

type limitReader struct {
	snapshot func(now time.Time, top int) limit.Snapshot
	metrics  []limitMetric
}

// Describe implements prometheus.Collector.
func (r *limitReader) Describe(out chan<- *prometheus.Desc) {
	for _, m := range r.metrics {
		out <- m.desc
	}
}

// Collect implements prometheus.Collector.
func (r *limitReader) Collect(out chan<- prometheus.Metric) {
	s := r.snapshot(time.Now(), 0)
	for _, m := range r.metrics {
		m.read(s, func(value float64, label string) {
			out <- prometheus.MustNewConstMetric(m.desc, m.kind, value, label)
		})
	}
}
