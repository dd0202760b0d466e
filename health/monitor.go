package health

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// Monitor watches the nodes of a pool. It is safe for concurrent use.
type Monitor struct {
	changed    chan struct{} // each holds one signal: something is to tell,
	configured chan struct{} // the source may be another,
	hurried    chan struct{} // due is nearer

	mu          sync.Mutex // never held while anything is called that may block
	options     Options
	generation  int  // of options
	sources     int  // that there were before the one in options
	known       bool // the source has spoken
	panic       bool
	nodes       map[string]*watched
	census      census // of nodes
	overrides   map[string]Override
	past        map[string]damper // of nodes that are gone, while it matters
	due         time.Time         // when time alone changes something; zero: never
	transitions []Transition      // the last keptTransitions, oldest first
	totals      Totals
}

// Snapshot is what a [Monitor] knows at a moment.
type Snapshot struct {
	// Known is set when the source has spoken: only then Nodes means anything.
	Known bool
	// Panic is set when so few nodes are fit that health is ignored.
	Panic  bool
	Source SourceStatus
	Nodes  []Node // sorted by name
	Totals Totals
}

// Totals count what has happened since the monitor was made, also at nodes that are
// gone.
type Totals struct {
	Checks       uint64 // made
	ChecksFailed uint64
	Transitions  uint64 // changes of standing
	Ejections    uint64
	Suppressions uint64 // nodes kept out because they came and went
	Spared       uint64 // nodes not ejected because too many were out
	Panics       uint64 // times that health began to be ignored
}

// Transition is a change of a node's standing.
type Transition struct {
	At       time.Time
	Node     string
	Standing Standing
	Cause    string
}

// keptTransitions is how many transitions a monitor remembers.
const keptTransitions = 100

// New returns a monitor that Run sets going.
func New(o Options) (*Monitor, error) {
	o, err := o.complete()
	if err != nil {
		return nil, err
	}
	return &Monitor{
		options:    o,
		changed:    make(chan struct{}, 1),
		configured: make(chan struct{}, 1),
		hurried:    make(chan struct{}, 1),
		nodes:      make(map[string]*watched),
		past:       make(map[string]damper),
	}, nil
}

// Run watches until ctx is done, and returns nil then; or until the source cannot
// go on, and returns its error. All that it started has ended when it returns.
func (m *Monitor) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()

	source := m.follow(ctx, &running)
	defer func() { source.stop() }()
	timer := time.NewTimer(0)
	defer timer.Stop()
	m.mu.Lock()
	onChange := m.options.OnChange // Configure replaces the rest of the options meanwhile
	m.mu.Unlock()
	for {
		select {
		case <-m.changed:
			onChange(m.Snapshot())
		case <-m.hurried:
			timer.Reset(m.untilDue())
		case <-timer.C:
			m.update(func(u *update) { u.all = true })
			timer.Reset(m.untilDue())
		case <-m.configured:
			source = m.followOther(ctx, &running, source)
		case err := <-source.failed:
			if err != nil {
				return fmt.Errorf("watch nodes: %w", err)
			}
			return nil
		}
	}
}

// followed is the source that Run follows.
type followed struct {
	number int
	failed chan error // holds what it returned
	stop   func()     // and waits
}

// follow starts to follow the source that the options name.
func (m *Monitor) follow(ctx context.Context, running *sync.WaitGroup) followed {
	sourceCtx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	source, number := m.source()
	f := followed{number: number, failed: make(chan error, 1)}
	f.stop = func() {
		cancel()
		<-ended
	}
	go func() {
		defer close(ended)
		f.failed <- source.Run(sourceCtx, func(endpoints []Endpoint) { m.take(ctx, running, endpoints) })
	}()
	return f
}

// followOther follows another source when the options name one.
func (m *Monitor) followOther(ctx context.Context, running *sync.WaitGroup, f followed) followed {
	if _, number := m.source(); number == f.number {
		return f
	}
	f.stop()
	return m.follow(ctx, running)
}

func (m *Monitor) source() (s Source, number int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.options.Source, m.sources
}

// untilDue returns how long it takes until time alone changes something.
func (m *Monitor) untilDue() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.due.IsZero() {
		return 24 * time.Hour // it does no harm to look in vain
	}
	return time.Until(m.due)
}

// take makes the watched nodes those that the source names.
func (m *Monitor) take(ctx context.Context, running *sync.WaitGroup, endpoints []Endpoint) {
	m.update(func(u *update) {
		u.announce = true
		first := !m.known
		m.known = true
		gone, fresh := maps.Clone(m.nodes), []*watched(nil)
		for _, e := range endpoints {
			delete(gone, e.Name)
			w := m.nodes[e.Name]
			if w == nil || w.endpoint.Addr != e.Addr || w.endpoint.Admin != e.Admin {
				w = m.admit(u, w, e) // a node that moved has to prove itself again
				w.old = first
				fresh = append(fresh, w)
			}
			w.endpoint = e
			m.settle(u, w)
		}
		for _, w := range gone {
			m.dismiss(u, w)
		}
		m.forget(u.now)
		m.spare(u)
		m.watch(ctx, running, fresh)
	})
}

// admit begins with a node, in the place of the one that had its name.
func (m *Monitor) admit(u *update, before *watched, e Endpoint) *watched {
	w := &watched{
		endpoint: e,
		machine:  machine{rules: m.options.Rules, since: u.now, cause: "not checked yet"},
		damper:   m.past[e.Name],
		sooner:   make(chan time.Duration, 1),
	}
	if before != nil {
		w.damper, w.placed = before.damper, before.placed
		m.census.add(before.counted, -1)
		before.cancel()
	}
	delete(m.past, e.Name)
	w.counted = w.facts(u.now, Override{}, false)
	m.census.add(w.counted, 1)
	m.nodes[e.Name] = w
	return w
}

// dismiss ends with a node that the source names no more.
func (m *Monitor) dismiss(u *update, w *watched) {
	if w.sound == Fit {
		w.damper.lost(u.now, m.options.Damping)
	}
	if w.damper.last > 0 {
		m.past[w.endpoint.Name] = w.damper
	}
	w.cancel()
	m.census.add(w.counted, -1)
	delete(m.nodes, w.endpoint.Name)
	u.transitions = append(u.transitions, Transition{u.now, w.endpoint.Name, Gone, "its source names it no more"})
}

// forget drops what no longer matters of nodes that are gone.
func (m *Monitor) forget(now time.Time) {
	maps.DeleteFunc(m.past, func(_ string, d damper) bool {
		d.expire(now, m.options.Damping)
		return !d.suppressed && d.penalty(now, m.options.Damping) < m.options.Damping.Reuse/2
	})
}

// spare lets nodes in again when, of the nodes that are left, too many are out:
// first the one whose time is over first.
func (m *Monitor) spare(u *update) {
	for m.census.out > 0 && float64(m.census.out) > m.options.MaxEjected*float64(m.census.nodes) {
		w := m.nextIn()
		if w == nil {
			return
		}
		w.damper.suppressed = false
		if w.outlier.ejected() {
			w.outlier.readmit(u.now)
		}
		m.settle(u, w)
	}
}

// nextIn returns, of the nodes that are out, the one that comes in first.
func (m *Monitor) nextIn() *watched {
	var first *watched
	for _, name := range slices.Sorted(maps.Keys(m.nodes)) {
		w := m.nodes[name]
		if until := w.out(m.options); !until.IsZero() && (first == nil || until.Before(first.out(m.options))) {
			first = w
		}
	}
	return first
}

// watch starts to check nodes that are new, many of them not all at once.
func (m *Monitor) watch(ctx context.Context, running *sync.WaitGroup, fresh []*watched) {
	for _, w := range fresh {
		nodeCtx, cancel := context.WithCancel(ctx)
		w.cancel = cancel
		e, delay := w.endpoint, m.options.Rules.spread(len(fresh))
		running.Go(func() { m.probe(nodeCtx, w, e, delay) })
	}
}

// probe checks a node until ctx is done.
func (m *Monitor) probe(ctx context.Context, w *watched, e Endpoint, delay time.Duration) {
	if sleep(ctx, delay) != nil {
		return
	}
	for {
		wait := m.check(ctx, w, e)
		if !w.pause(ctx, wait) {
			return
		}
	}
}

// check makes a check and returns when the next one is due.
func (m *Monitor) check(ctx context.Context, w *watched, e Endpoint) (wait time.Duration) {
	m.mu.Lock()
	check, rules, generation := m.options.Check, m.options.Rules, m.generation
	m.mu.Unlock()

	probeCtx, cancel := context.WithTimeout(ctx, rules.Timeout)
	answer, err := check.Probe(probeCtx, e)
	cancel()
	if ctx.Err() != nil {
		return 0
	}
	m.update(func(u *update) {
		if generation != m.generation || ctx.Err() != nil {
			return // the question has changed meanwhile: ask again; or the node has left
		}
		first := w.machine.state == Unknown
		w.checked(u.now, answer, err)
		m.totals.Checks++
		if err != nil {
			m.totals.ChecksFailed++
		}
		m.settle(u, w)
		wait = rules.jittered(w.machine.wait(), first)
	})
	return wait
}

// Report tells what the data path met at a node. It waits for nothing but other
// users of the monitor.
func (m *Monitor) Report(node string, o Outcome) {
	if o == Served && m.servedAsBefore(node) {
		return
	}
	m.update(func(u *update) {
		w := m.nodes[node]
		if w == nil {
			return
		}
		m.weigh(u.now, w, o)
		w.reported(u.now, o)
		m.settle(u, w)
		if o != Served {
			w.hasten(0)
		}
	})
}

// servedAsBefore notes that a node took a session if no more follows from it, and tells
// whether that is so. It spares the data path, which reports that of each session, most
// of what a change costs.
func (m *Monitor) servedAsBefore(node string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	w := m.nodes[node]
	if w == nil {
		return true
	}
	if !w.refused.IsZero() {
		return false
	}
	now := time.Now()
	m.weigh(now, w, Served)
	w.reported(now, Served)
	return true
}

// weigh ejects a node when a session was one too many that failed. Failures at a
// node that is down are no news.
func (m *Monitor) weigh(now time.Time, w *watched, o Outcome) {
	rules := m.options.Outliers
	switch {
	case w.machine.state != Up || o == Lost:
	case o == Served:
		w.outlier.served(now, rules)
	default:
		cause := w.outlier.failure(now, rules)
		switch {
		case cause == "":
		case m.census.mayKeepOut(m.options.MaxEjected):
			w.outlier.eject(now, rules, cause)
			m.totals.Ejections++
		default:
			m.totals.Spared++
		}
	}
}

// update is one change of a monitor and what follows from it.
type update struct {
	now         time.Time
	all         bool // any node may have changed
	transitions []Transition
	announce    bool
	hurry       bool
	panicked    bool // panic began or ended
}

// update makes a change, and then notes, logs and announces what followed.
func (m *Monitor) update(change func(*update)) {
	m.mu.Lock()
	u := &update{now: time.Now()}
	change(u)
	m.conclude(u)
	m.keep(u.transitions)
	log, census, panics := m.options.Logger, m.census, m.panic
	m.mu.Unlock()

	if u.panicked && panics {
		log.Warn("too few nodes are fit; health is ignored", "fit", census.fit, "of", census.asked)
	}
	if u.panicked && !panics {
		log.Info("enough nodes are fit; health counts again", "fit", census.fit, "of", census.asked)
	}
	for _, t := range u.transitions {
		log.Info("node changed its standing", "node", t.Node, "standing", t.Standing.String(), "cause", t.Cause)
	}
	if u.announce {
		signal(m.changed)
	}
	if u.hurry {
		signal(m.hurried)
	}
}

// keep remembers transitions.
func (m *Monitor) keep(transitions []Transition) {
	m.totals.Transitions += uint64(len(transitions))
	m.transitions = append(m.transitions, transitions...)
	if surplus := len(m.transitions) - keptTransitions; surplus > 0 {
		m.transitions = slices.Delete(m.transitions, 0, surplus)
	}
}

// conclude settles all nodes when the change may matter to all.
func (m *Monitor) conclude(u *update) {
	if u.all {
		m.settleAll(u)
	}
	if panics := m.census.panics(m.options.Panic, m.panic); panics != m.panic {
		m.panic, u.panicked, u.announce = panics, true, true
		if panics {
			m.totals.Panics++
		}
		m.settleAll(u)
	}
}

func (m *Monitor) settleAll(u *update) {
	m.due = time.Time{}
	for _, name := range slices.Sorted(maps.Keys(m.nodes)) {
		m.settle(u, m.nodes[name])
	}
	u.hurry = true
}

// settle finds out what follows from all that is known of a node, and whether
// that matters.
func (m *Monitor) settle(u *update, w *watched) {
	w.outlier.expire(u.now)
	w.damper.expire(u.now, m.options.Damping)
	m.dampen(u, w)

	m.census.add(w.counted, -1)
	w.counted = w.facts(u.now, m.overrides[w.endpoint.Name], w.damper.suppressed)
	m.census.add(w.counted, 1)

	w.ramp(u.now, m.options.SlowStart)
	m.wakeAt(u, w.due(u.now, m.options))
	is, cause := w.placement(m.panic)
	if is == w.placed {
		return
	}
	if is.standing != w.placed.standing {
		u.transitions = append(u.transitions, Transition{u.now, w.endpoint.Name, is.standing, cause})
		w.transitions++
	}
	w.placed = is
	u.announce = true
}

// dampen notes when a node that was fit is lost, and keeps out one that was lost
// too often. What operators and sessions say does not count: they have their own ways
// to keep a node out.
func (m *Monitor) dampen(u *update, w *watched) {
	f := w.facts(u.now, Override{}, false)
	f.ejected = false
	is, _ := judge(f)
	if w.sound == Fit && is == Unfit {
		w.damper.lost(u.now, m.options.Damping)
	}
	w.sound = is
	if m.census.mayKeepOut(m.options.MaxEjected) && w.damper.suppress(u.now, m.options.Damping) {
		m.totals.Suppressions++
	}
}

// wakeAt makes Run look at the nodes at a time, if that is not zero.
func (m *Monitor) wakeAt(u *update, at time.Time) {
	if !at.IsZero() && (m.due.IsZero() || at.Before(m.due)) {
		m.due = at
		u.hurry = true
	}
}

// signal leaves one signal in a channel that holds one.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Snapshot returns the state of all nodes.
func (m *Monitor) Snapshot() Snapshot {
	source, _ := m.source()
	s := Snapshot{Source: source.Status()}
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	s.Known, s.Panic, s.Totals = m.known, m.panic, m.totals
	for _, name := range slices.Sorted(maps.Keys(m.nodes)) {
		s.Nodes = append(s.Nodes, m.nodes[name].node(now, m.options, m.panic))
	}
	return s
}

// Transitions returns the last hundred changes of standing, oldest first.
func (m *Monitor) Transitions() []Transition {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.transitions)
}
