package proxy

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"imlb/proxy/limit"
)

// metrics are the counters of a front. The label values are bounded by the
// configuration, the members of pools, and this package's own words.
type metrics struct {
	open     *prometheus.GaugeVec     // listener
	active   prometheus.Gauge         // logged in
	ended    *prometheus.CounterVec   // listener, reason
	refused  *prometheus.CounterVec   // listener, limit
	retries  *prometheus.CounterVec   // listener, reason
	auth     *prometheus.CounterVec   // mechanism, outcome
	dials    *prometheus.CounterVec   // node, outcome
	dialTime prometheus.Histogram     // seconds
	setup    *prometheus.HistogramVec // step
	// The two steps, resolved once because each session takes them.
	handshake, identify prometheus.Observer
	settles             *prometheus.CounterVec // outcome
	unlogged            prometheus.Counter
	bytes               *prometheus.CounterVec // listener, direction
	stanzas             *prometheus.CounterVec // direction, kind
}

// flow counts what goes one way, resolved once because it is on the hot path.
type flow struct {
	bytes   prometheus.Counter
	stanzas [stanzaKinds]prometheus.Counter
}

// newMetrics makes the metrics and registers them with reg, unless it is nil.
func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "imlb_proxy_" + name, Help: help}, labels)
	}
	bytes := counter("bytes_total", "Bytes from (in) and to (out) clients: of XML, or those of opaque sessions.", "listener", "direction")
	stanzas := counter("stanzas_total", "Stanzas from (in) and to (out) clients.", "direction", "kind")
	m := &metrics{
		open: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "imlb_proxy_sessions_open", Help: "Sessions now open, logged in or not.",
		}, []string{"listener"}),
		active: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "imlb_proxy_sessions_active", Help: "Sessions now logged in.",
		}),
		ended:   counter("sessions_ended_total", "Sessions that ended, by reason.", "listener", "reason"),
		refused: counter("refusals_total", "Connections and logins that a limit refused, by limit.", "listener", "limit"),
		retries: counter("quic_retries_total", "Retry packets for QUIC clients whose address had to be validated, by why: "+
			"many handshakes were under way, or a limit was about to be used up. Of those for a flood quic-go drops some.", "listener", "reason"),
		auth:  counter("auth_total", "Login attempts.", "mechanism", "outcome"),
		dials: counter("node_outcomes_total", "What the front learnt of nodes by using them.", "node", "outcome"),
		dialTime: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "imlb_proxy_dial_seconds", Help: "Time from dialling a node to its stream features.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 13),
		}),
		setup: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "imlb_proxy_setup_seconds", Help: "Time of the steps before a session is relayed.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 15),
		}, []string{"step"}),
		settles: counter("settles_total", "Deliveries told to a user's next node after its node was lost.", "outcome"),
		unlogged: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "imlb_proxy_session_lines_lost_total", Help: "Lines that the session log was too slow for.",
		}),
		bytes:   bytes,
		stanzas: stanzas,
	}
	m.handshake, m.identify = m.setup.WithLabelValues("handshake"), m.setup.WithLabelValues("identify")
	if reg == nil {
		return m, nil
	}
	var errs []error
	for _, c := range []prometheus.Collector{
		m.open, m.active, m.ended, m.refused, m.retries, m.auth, m.dials, m.dialTime, m.setup, m.settles, m.unlogged, bytes, stanzas,
	} {
		errs = append(errs, reg.Register(c))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("register the metrics of the front: %w", err)
	}
	return m, nil
}

// expect shows the counters of a listener that are watched, before there is something to count:
// for Prometheus a counter that appears has not increased.
func (m *metrics) expect(listener string, ended *endCounts) {
	for r := ReasonNone + 1; r <= ReasonInternal; r++ {
		if r.alarming() {
			ended.of(r)
		}
	}
	for r := limit.ReasonNone + 1; r <= limit.ReasonAuthBackoffSource; r++ {
		m.refused.WithLabelValues(listener, r.String())
	}
}

// endCounts count how the sessions of a listener end. A reason is looked up once, and mostly not
// shown before it was met.
type endCounts struct {
	vec      *prometheus.CounterVec
	listener string
	known    [ReasonInternal + 1]atomic.Pointer[prometheus.Counter]
}

// of returns the counter of a reason.
func (e *endCounts) of(r Reason) prometheus.Counter {
	if c := e.known[r].Load(); c != nil {
		return *c
	}
	c := e.vec.WithLabelValues(e.listener, r.String())
	e.known[r].Store(&c)
	return c
}

func (m *metrics) flow(listener, direction string) flow {
	f := flow{bytes: m.bytes.WithLabelValues(listener, direction)}
	for k := range stanzaKinds {
		f.stanzas[k] = m.stanzas.WithLabelValues(direction, k.String())
	}
	return f
}

// login counts a session as active until the returned func is called.
func (m *metrics) login() (logout func()) {
	m.active.Inc()
	return m.active.Dec
}
