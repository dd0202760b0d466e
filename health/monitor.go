package health

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"
)

// Options are the settings of a [Monitor].
type Options struct {
	Source Source
	// Check is made of every node.
	Check Check
	Rules Rules
	// OnChange is called when something changed that matters for placement, first
	// when the source has spoken. Calls come one after another from Run; when changes
	// come faster than it returns it gets the last of them.
	OnChange func(Snapshot)
	Logger   *slog.Logger
}

// Monitor watches the nodes of a pool. It is safe for concurrent use.
type Monitor struct {
	options Options
	changed chan struct{} // holds one signal

	mu          sync.Mutex // never held while anything is called that may block
	known       bool       // the source has spoken
	nodes       map[string]*watched
	transitions []Transition // the last keptTransitions, oldest first
}

// watched is a node and the goroutine that checks it.
type watched struct {
	endpoint Endpoint
	machine  machine
	answer   *Answer // the last, if any
	checked  time.Time
	failing  error // of the last check
	placed   placement

	cancel context.CancelFunc
	sooner chan struct{} // holds one signal that the next check should come at once
}

// Snapshot is what a [Monitor] knows at a moment.
type Snapshot struct {
	// Known is set when the source has spoken: only then Nodes means anything.
	Known  bool
	Source SourceStatus
	Nodes  []Node // sorted by name
}

// Node is the state of a node at a moment.
type Node struct {
	// Endpoint is as the source has it, except where the node's own answer says
	// more: weight, capacity, draining.
	Endpoint
	// Standing is what follows for placement, and Cause why.
	Standing Standing
	Cause    string
	// State is what our own checks found, and Since when.
	State State
	Since time.Time
	// Checked is when the last check ended, and Failing its error.
	Checked time.Time
	Failing error
	// Sessions is how many the node says live on it; −1 when it does not say.
	Sessions int
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
	if o.Source == nil || o.Check == nil {
		return nil, errors.New("health monitor: needs a source and a check")
	}
	o.Rules = o.Rules.withDefaults()
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.OnChange == nil {
		o.OnChange = func(Snapshot) {}
	}
	return &Monitor{options: o, changed: make(chan struct{}, 1), nodes: make(map[string]*watched)}, nil
}

// Run watches until ctx is done, and returns nil then; or until the source cannot
// go on, and returns its error. All that it started has ended when it returns.
func (m *Monitor) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()

	failed := make(chan error, 1)
	running.Go(func() {
		failed <- m.options.Source.Run(ctx, func(endpoints []Endpoint) { m.take(ctx, &running, endpoints) })
	})
	for {
		select {
		case <-m.changed:
			m.options.OnChange(m.Snapshot())
		case err := <-failed:
			if err != nil {
				return fmt.Errorf("watch nodes: %w", err)
			}
			return nil
		}
	}
}

// take makes the watched nodes those that the source names.
func (m *Monitor) take(ctx context.Context, running *sync.WaitGroup, endpoints []Endpoint) {
	m.update(func(u *update) {
		u.announce = true
		m.known = true
		gone := maps.Clone(m.nodes)
		for _, e := range endpoints {
			delete(gone, e.Name)
			w := m.nodes[e.Name]
			if w != nil && (w.endpoint.Addr != e.Addr || w.endpoint.Admin != e.Admin) {
				w.cancel() // it came back elsewhere, and has to prove itself again
				w = nil
			}
			if w == nil {
				w = m.watch(ctx, running, u.now, e)
				m.nodes[e.Name] = w
			}
			w.endpoint = e
			u.settle(w)
		}
		for name, w := range gone {
			w.cancel()
			delete(m.nodes, name)
			u.remove(w)
		}
	})
}

// watch starts to check a node.
func (m *Monitor) watch(ctx context.Context, running *sync.WaitGroup, now time.Time, e Endpoint) *watched {
	ctx, cancel := context.WithCancel(ctx)
	w := &watched{
		endpoint: e,
		machine:  machine{rules: m.options.Rules, since: now, cause: "not checked yet"},
		cancel:   cancel,
		sooner:   make(chan struct{}, 1),
	}
	running.Go(func() { m.probe(ctx, w, e) })
	return w
}

// probe checks a node until ctx is done.
func (m *Monitor) probe(ctx context.Context, w *watched, e Endpoint) {
	for {
		answer, err := m.check(ctx, e)
		if ctx.Err() != nil {
			return
		}
		wait := m.checked(w, answer, err)
		timer := time.NewTimer(jittered(wait))
		select {
		case <-timer.C:
		case <-w.sooner:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

func (m *Monitor) check(ctx context.Context, e Endpoint) (*Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, m.options.Rules.Timeout)
	defer cancel()
	return m.options.Check.Probe(ctx, e)
}

// checked takes the result of a check and returns when the next one is due.
func (m *Monitor) checked(w *watched, answer *Answer, err error) (wait time.Duration) {
	m.update(func(u *update) {
		w.machine.checked(u.now, err)
		w.checked, w.failing = u.now, err
		if err == nil {
			w.answer = answer
		}
		u.settle(w)
		wait = w.machine.wait()
	})
	return wait
}

// Report tells what the data path met at a node. It waits for nothing but other
// users of the monitor.
func (m *Monitor) Report(node string, o Outcome) {
	m.update(func(u *update) {
		w := m.nodes[node]
		if w == nil {
			return
		}
		w.machine.reported(u.now, o)
		u.settle(w)
		if o != Served {
			signal(w.sooner)
		}
	})
}

// update is one change of a monitor and what follows from it.
type update struct {
	now         time.Time
	transitions []Transition
	announce    bool
}

// update makes a change, and then notes, logs and announces what followed.
func (m *Monitor) update(change func(*update)) {
	m.mu.Lock()
	u := &update{now: time.Now()}
	change(u)
	m.transitions = append(m.transitions, u.transitions...)
	m.transitions = m.transitions[max(0, len(m.transitions)-keptTransitions):]
	m.mu.Unlock()

	for _, t := range u.transitions {
		m.options.Logger.Info("node changed its standing", "node", t.Node, "standing", t.Standing.String(), "cause", t.Cause)
	}
	if u.announce {
		signal(m.changed)
	}
}

// settle finds out whether a change of a node matters.
func (u *update) settle(w *watched) {
	is, cause := w.placement()
	if is == w.placed {
		return
	}
	if is.standing != w.placed.standing {
		u.transitions = append(u.transitions, Transition{u.now, w.endpoint.Name, is.standing, cause})
	}
	w.placed = is
	u.announce = true
}

// remove notes that a node is gone.
func (u *update) remove(w *watched) {
	u.transitions = append(u.transitions, Transition{u.now, w.endpoint.Name, Gone, "its source names it no more"})
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
	s := Snapshot{Source: m.options.Source.Status()}
	m.mu.Lock()
	defer m.mu.Unlock()
	s.Known = m.known
	for _, name := range slices.Sorted(maps.Keys(m.nodes)) {
		s.Nodes = append(s.Nodes, m.nodes[name].node())
	}
	return s
}

// Transitions returns the last hundred changes of standing, oldest first.
func (m *Monitor) Transitions() []Transition {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.transitions)
}
