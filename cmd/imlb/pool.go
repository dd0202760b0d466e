package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"imlb/balancer"
	"imlb/configs"
	"imlb/health"
	"imlb/proxy"
)

// pool joins what health knows of a pool's nodes with the placement of users: it
// is the front's Picker for that pool.
type pool struct {
	name     string
	log      *slog.Logger
	monitor  *health.Monitor
	balancer *balancer.Balancer
	picks    pickCounts

	mu       sync.RWMutex
	settings poolSettings
	addrs    map[string]string // of the nodes that may serve sessions, by name
	known    int               // nodes that placement has heard of; −1 before it has
	fit      int               // of them, nodes that get new users
	waiting  int               // of them, nodes that were not checked yet
}

func newPool(name string, doc configs.Proxy, log *slog.Logger) (*pool, error) {
	p := &pool{name: name, log: log.With(slog.String("pool", name)), known: -1, settings: poolSettingsOf(name, doc)}
	watching, placing, err := p.options(doc)
	if err != nil {
		return nil, err
	}
	watching.Source, err = poolSource(p.settings.source, p.log)
	if err != nil {
		return nil, fmt.Errorf("pool %s: %w", name, err)
	}
	watching.OnChange, watching.Logger = p.update, p.log
	p.balancer = balancer.New(placing)
	p.monitor, err = health.New(watching)
	if err != nil {
		return nil, fmt.Errorf("pool %s: %w", name, err)
	}
	return p, nil
}

// configure applies another document to the pool while it runs. Nodes, sessions
// and what is known of them stay; when the nodes come from elsewhere now, the old
// ones serve until the new ones are known. After an error nothing has changed.
func (p *pool) configure(doc configs.Proxy) error {
	watching, placing, err := p.options(doc)
	if err != nil {
		return err
	}
	settings := poolSettingsOf(p.name, doc)
	if old := p.configured(); !settings.source.equal(old.source) {
		watching.Source, err = poolSource(settings.source, p.log)
		if err != nil {
			return fmt.Errorf("pool %s: %w", p.name, err)
		}
	}
	if err := p.monitor.Configure(watching); err != nil {
		return fmt.Errorf("pool %s: %w", p.name, err)
	}
	p.balancer.Configure(placing)
	p.mu.Lock()
	p.settings = settings
	p.mu.Unlock()
	return nil
}

func (p *pool) configured() poolSettings {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.settings
}

// setOverrides replaces all that operators say of nodes.
func (p *pool) setOverrides(overrides map[string]configs.Override) {
	all := make(map[string]health.Override, len(overrides))
	for name, o := range overrides {
		all[name] = health.Override{Drain: o.Drain, Disabled: o.Disabled, Weight: o.Weight, Comment: o.Comment}
	}
	p.monitor.SetOverrides(all)
}

// run watches the nodes until ctx ends, or until their source cannot go on.
func (p *pool) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var counting sync.WaitGroup
	counting.Go(func() { p.count(ctx) })
	defer counting.Wait()
	defer cancel()
	return p.monitor.Run(ctx)
}

// count tells placement, once for each round of checks, how many sessions the nodes
// say they have. That is how it knows of sessions that other fronts have placed.
func (p *pool) count(ctx context.Context) {
	timer := time.NewTimer(p.configured().round)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		p.balancer.SetTotals(totals(p.monitor.Snapshot()))
		timer.Reset(p.configured().round)
	}
}

// totals returns how many sessions nodes say they have; those that do not say are left
// out.
func totals(s health.Snapshot) map[string]int {
	sessions := make(map[string]int, len(s.Nodes))
	for _, n := range s.Nodes {
		if n.Sessions >= 0 {
			sessions[n.Name] = n.Sessions
		}
	}
	return sessions
}

// update makes the balancer place by what the monitor knows. A node that is not
// fit keeps its sessions, which end by themselves if it is gone, and gets no new ones.
func (p *pool) update(s health.Snapshot) {
	if !s.Known {
		return
	}
	members := make([]balancer.Member, len(s.Nodes))
	addrs := make(map[string]string, len(s.Nodes))
	fit, waiting := 0, 0
	for i, n := range s.Nodes {
		members[i] = member(n)
		if !members[i].Down {
			addrs[n.Name] = n.Addr
		}
		switch n.Standing {
		case health.Fit:
			fit++
		case health.Unchecked:
			waiting++
		case health.Draining, health.Unfit, health.Gone:
		}
	}
	p.mu.Lock()
	p.addrs = addrs
	p.mu.Unlock()
	p.balancer.SetMembers(members)
	p.mu.Lock()
	p.known, p.fit, p.waiting = len(s.Nodes), fit, waiting // only now: who sees that it is ready may log in at once
	p.mu.Unlock()
}

// member is a node as placement has to see it.
func member(n health.Node) balancer.Member {
	return balancer.Member{
		Name:     n.Name,
		Weight:   n.Weight,
		Ramp:     n.Ramp,
		Zone:     n.Zone,
		Backup:   n.Meta[backupMeta] == "true",
		Draining: n.Standing == health.Draining,
		Down:     n.Standing != health.Fit && n.Standing != health.Draining,
		Limit:    n.Capacity,
	}
}

// TryPick implements proxy.TryPicker: it is Pick as long as there is room.
func (p *pool) TryPick(user string, tried []string) (c proxy.Choice, ok bool, err error) {
	lease, err := p.balancer.Acquire(user, isAmong(tried))
	if err != nil && p.configured().park > 0 {
		return c, false, nil
	}
	p.picks.count(lease, err)
	if err != nil {
		return c, true, fmt.Errorf("%w: %w", proxy.ErrNoNode, err)
	}
	c, ok = p.choice(lease)
	return c, ok, nil
}

// isAmong tells whether a node is in a list.
func isAmong(nodes []string) func(string) bool {
	if len(nodes) == 0 {
		return nil
	}
	return func(node string) bool { return slices.Contains(nodes, node) }
}

// choice makes a choice of a place on a node, or gives that back if the node has
// left.
func (p *pool) choice(lease *balancer.Lease) (proxy.Choice, bool) {
	node := lease.Node()
	addr, ok := p.addr(node)
	if !ok {
		lease.Release()
		return proxy.Choice{}, false
	}
	return proxy.Choice{Node: proxy.Node{Name: node, Addr: addr}, Place: &held{lease, p, node}}, true
}

// held is a place on a node that the balancer gave; it implements proxy.Place.
type held struct {
	*balancer.Lease
	pool *pool
	node string
}

// Report passes on what the front met at the node.
func (h *held) Report(o proxy.Outcome) { h.pool.report(h.node, o) }

// Pick implements proxy.Picker. When no node has room it waits for some, for as long as
// the document says.
func (p *pool) Pick(ctx context.Context, user string, tried []string) (proxy.Choice, error) {
	park := p.configured().park
	ctx, cancel := context.WithTimeout(ctx, park)
	defer cancel()
	// A node may leave between the balancer's answer and the look at its
	// address; then it counts as tried. There are no more rounds than nodes.
	for {
		lease, err := p.acquire(ctx, user, tried, park > 0)
		if err != nil {
			return proxy.Choice{}, fmt.Errorf("%w: %w", proxy.ErrNoNode, err)
		}
		if c, ok := p.choice(lease); ok {
			return c, nil
		}
		tried = append(slices.Clone(tried), lease.Node())
	}
}

// acquire asks the balancer for a place, and counts what it says.
func (p *pool) acquire(ctx context.Context, user string, tried []string, wait bool) (*balancer.Lease, error) {
	var lease *balancer.Lease
	var err error
	if wait {
		lease, err = p.balancer.AcquireWait(ctx, user, isAmong(tried))
	} else {
		lease, err = p.balancer.Acquire(user, isAmong(tried))
	}
	p.picks.count(lease, err)
	return lease, err
}

func (p *pool) addr(node string) (string, bool) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	addr, ok := p.addrs[node]
	return addr, ok
}

// report tells the monitor what the front met at a node.
func (p *pool) report(node string, o proxy.Outcome) {
	switch o {
	case proxy.OutcomeConnected:
		p.monitor.Report(node, health.Served)
	case proxy.OutcomeRefused:
		p.monitor.Report(node, health.DialFailed)
	case proxy.OutcomeLost:
		p.monitor.Report(node, health.Lost)
	case proxy.OutcomeDeclined, proxy.OutcomeUntried: // which say nothing of its health
	}
}

// ready reports why the pool can take no session, from memory.
func (p *pool) ready() error {
	p.mu.RLock()
	defer p.mu.RUnlock()
	switch {
	case p.known < 0:
		return errors.New("its nodes are not known yet")
	case p.fit == 0:
		return fmt.Errorf("none of its %d nodes is fit", p.known)
	}
	return nil
}

// checked tells whether something is known of each node.
func (p *pool) checked() bool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.known >= 0 && p.waiting == 0
}
