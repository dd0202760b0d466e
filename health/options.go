package health

import (
	"cmp"
	"errors"
	"log/slog"
	"maps"
	"time"
)

// Options are the settings of a [Monitor].
type Options struct {
	Source Source
	// Check is made of every node.
	Check Check
	Rules Rules
	// Outliers and Damping say when nodes are kept out although their checks pass,
	// and MaxEjected how large a share of the pool's nodes that may be; a half when
	// 0, and none when negative.
	Outliers   OutlierRules
	Damping    DampingRules
	MaxEjected float64
	// Panic is the share of the nodes which must be fit for health to count; with 0
	// it always counts.
	Panic float64
	// SlowStart is how long a node that joins or comes back takes to its full
	// share; 0 is none. See [Node.Ramp].
	SlowStart time.Duration
	// OnChange is called when something changed that matters for placement, first
	// when the source has spoken. Calls come one after another from Run; when changes
	// come faster than it returns it gets the last of them.
	OnChange func(Snapshot)
	Logger   *slog.Logger
}

func (o Options) complete() (Options, error) {
	if o.Source == nil || o.Check == nil {
		return o, errors.New("health monitor: needs a source and a check")
	}
	o.Rules = o.Rules.withDefaults()
	o.Outliers = o.Outliers.withDefaults()
	o.Damping = o.Damping.withDefaults()
	o.MaxEjected = cmp.Or(o.MaxEjected, 0.5)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.OnChange == nil {
		o.OnChange = func(Snapshot) {}
	}
	return o, nil
}

// Configure gives a monitor other settings while it runs; its OnChange and Logger
// stay, and so does its Source when o has none. What is known of the nodes stays
// until the new check has found otherwise, and the nodes themselves until the new
// source has spoken.
func (m *Monitor) Configure(o Options) error {
	m.mu.Lock()
	old := m.options
	m.mu.Unlock()
	other := o.Source != nil
	if !other {
		o.Source = old.Source
	}
	o.OnChange, o.Logger = old.OnChange, old.Logger
	o, err := o.complete()
	if err != nil {
		return err
	}
	m.update(func(u *update) { m.apply(u, o, other) })
	signal(m.configured)
	return nil
}

// apply makes o the settings; their source may be another.
func (m *Monitor) apply(u *update, o Options, other bool) {
	m.options = o
	m.generation++
	if other {
		m.sources++
	}
	for _, w := range m.nodes {
		w.machine.rules = o.Rules
		w.hasten(o.Rules.spread(len(m.nodes)))
	}
	m.spare(u)
	u.all = true
}

// SetOverrides replaces all that operators say of nodes, by name. Names of nodes
// that do not exist yet wait for them.
func (m *Monitor) SetOverrides(overrides map[string]Override) {
	m.update(func(u *update) {
		m.overrides = maps.Clone(overrides)
		u.all = true
	})
}
