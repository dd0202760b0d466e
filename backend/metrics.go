package backend

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"imlb/backend/xmpp"
)

// metrics are the node's numbers. Names are given here and nowhere else.
type metrics struct {
	sessions  prometheus.Gauge
	ended     *prometheus.CounterVec // reason
	stanzas   *prometheus.CounterVec // direction, kind
	auth      *prometheus.CounterVec // mechanism, outcome
	registers *prometheus.CounterVec // outcome
	throttled *prometheus.CounterVec // limit
	appends   *prometheus.CounterVec // outcome
	appending prometheus.Histogram   // seconds from receipt to commit
	batch     prometheus.Histogram   // messages in a transaction
	commit    prometheus.Histogram   // seconds of a transaction
	delivery  prometheus.Histogram   // seconds from signal to socket
	caughtUp  *prometheus.CounterVec // entries read from the store: why
	dropped   *prometheus.CounterVec // signals not sent or not understood: why
	spared    prometheus.Counter     // stanzas that a session does without
	unseen    prometheus.Counter     // presence that has no room
	bounced   *prometheus.CounterVec // stanza errors sent: condition
	parked    prometheus.Gauge       // sessions that wait for their client
	asleep    prometheus.Gauge       // sessions whose client is quiet
	resumed   *prometheus.CounterVec // outcome
	polls     prometheus.Counter     // looks into the store because signals do not arrive
	trimmed   prometheus.Counter     // timeline entries that retention has removed
	reaped    prometheus.Counter     // sessions of dead nodes that this node ended
}

// latencyBuckets go from 100 µs to 10 s.
var latencyBuckets = []float64{ //nolint:gochecknoglobals // A constant list.
	.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10,
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	histogram := func(name, help string) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: latencyBuckets})
	}
	lost := counter("imlb_node_stanzas_dropped_total",
		"Stanzas that a client was not given because much waits for it: what anybody may send (anybody), or presence of too many resources of one user (resources).", "why")
	m := &metrics{
		sessions:  prometheus.NewGauge(prometheus.GaugeOpts{Name: "imlb_node_sessions", Help: "Sessions on this node."}),
		ended:     counter("imlb_node_connections_ended_total", "Connections that ended, by reason.", "reason"),
		stanzas:   counter("imlb_node_stanzas_total", "Stanzas from (in) and to (out) clients, by kind.", "direction", "kind"),
		auth:      counter("imlb_node_auth_total", "SASL negotiations, by mechanism and outcome.", "mechanism", "outcome"),
		registers: counter("imlb_node_registrations_total", "Accounts that clients asked for before login (XEP-0077), by outcome.", "outcome"),
		throttled: counter("imlb_node_throttled_total", "Times that a client had to wait before it was read on, by the rate that it was over.", "limit"),
		appends:   counter("imlb_node_appends_total", "Messages given to the store, by outcome.", "outcome"),
		appending: histogram("imlb_node_append_seconds", "Time from the receipt of a message until it is durable."),
		batch: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "imlb_node_batch_messages", Help: "Messages in one transaction.", Buckets: prometheus.ExponentialBuckets(1, 2, 10),
		}),
		commit:   histogram("imlb_node_commit_seconds", "Time that a transaction of messages takes."),
		delivery: histogram("imlb_node_delivery_seconds", "Time from the signal of a message until it is written to a recipient."),
		caughtUp: counter("imlb_node_catchup_entries_total", "Timeline entries read from the store: after login (login) or because a signal was missed (gap).", "why"),
		dropped:  counter("imlb_node_signals_dropped_total", "Signals that could not be sent (publish) or understood (decode).", "why"),
		spared:   lost.WithLabelValues("anybody"),
		unseen:   lost.WithLabelValues("resources"),
		bounced:  counter("imlb_node_stanza_errors_total", "Stanza errors sent to clients, by condition.", "condition"),
		parked:   prometheus.NewGauge(prometheus.GaugeOpts{Name: "imlb_node_sessions_parked", Help: "Sessions that wait for their client to resume them."}),
		asleep:   prometheus.NewGauge(prometheus.GaugeOpts{Name: "imlb_node_sessions_asleep", Help: "Sessions that hold no goroutine and no buffer, because their client is quiet."}),
		resumed:  counter("imlb_node_resumptions_total", "Sessions that a client wanted to resume, by outcome: resumed, over, count (client and session disagree), failed.", "outcome"),
		polls:    prometheus.NewCounter(prometheus.CounterOpts{Name: "imlb_node_polls_total", Help: "Times that all sessions looked into the store because signals of a living node do not arrive."}),
		trimmed:  prometheus.NewCounter(prometheus.CounterOpts{Name: "imlb_node_entries_removed_total", Help: "Timeline entries that this node removed because they are not to be kept."}),
		reaped:   prometheus.NewCounter(prometheus.CounterOpts{Name: "imlb_node_sessions_reaped_total", Help: "Sessions of dead nodes that this node cleaned up."}),
	}
	var errs []error
	for _, c := range []prometheus.Collector{
		m.sessions, m.ended, m.stanzas, m.auth, m.registers, m.throttled, m.appends, m.appending, m.batch, m.commit, m.delivery, m.caughtUp, m.dropped, lost, m.bounced,
		m.parked, m.asleep, m.resumed, m.polls, m.trimmed, m.reaped,
	} {
		if err := r.Register(c); err != nil {
			errs = append(errs, fmt.Errorf("register a metric: %w", err))
		}
	}
	return m, errors.Join(errs...)
}

// registerStates adds the gauges of whether the node is ready, and whether the bus is there.
func registerStates(r prometheus.Registerer, unready, busAway func() error) error {
	state := func(name, help string, wrong func() error) error {
		err := r.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
			if wrong() != nil {
				return 0
			}
			return 1
		}))
		if err != nil {
			return fmt.Errorf("register a metric: %w", err)
		}
		return nil
	}
	return errors.Join(
		state("imlb_node_ready", "1 while the node can take sessions; 0 while it cannot, and /readyz says why.", unready),
		state("imlb_node_bus_up", "1 while the node is connected to NATS; 0 while it is not, and its sessions look into the store now and then.", busAway),
	)
}

// kindText is the label of a stanza kind.
func kindText(k xmpp.StanzaKind) string {
	switch k {
	case xmpp.Message:
		return "message"
	case xmpp.Presence:
		return "presence"
	case xmpp.IQ:
		return "iq"
	default:
		return "other"
	}
}
