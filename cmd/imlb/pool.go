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
	monitor  *health.Monitor
	balancer *balancer.Balancer

	mu    sync.RWMutex
	addrs map[string]string // of the nodes that may serve sessions, by name
	known int               // nodes that placement has heard of; −1 before it has
	fit   int               // of them, nodes that get new users
}

func newPool(name string, doc configs.Proxy, log *slog.Logger) (*pool, error) {
	log = log.With(slog.String("pool", name))
	c := doc.Pools[name]
	source, err := poolSource(c, doc, log)
	if err != nil {
		return nil, fmt.Errorf("pool %s: %w", name, err)
	}
	p := &pool{
		name:     name,
		known:    -1,
		balancer: balancer.New(balancer.Options{Epsilon: doc.Placement.Epsilon, Zone: doc.Placement.Zone}),
	}
	p.monitor, err = health.New(health.Options{
		Source:   source,
		Check:    poolCheck(c.Check),
		Rules:    health.Rules{Rise: c.Check.Rise, Fall: c.Check.Fall, Interval: c.Check.Interval, Timeout: c.Check.Timeout},
		OnChange: p.update,
		Logger:   log,
	})
	if err != nil {
		return nil, fmt.Errorf("pool %s: %w", name, err)
	}
	return p, nil
}

// poolSource says where the nodes come from.
func poolSource(c configs.Pool, doc configs.Proxy, log *slog.Logger) (health.Source, error) {
	if c.Consul != nil {
		return health.NewConsul(health.ConsulOptions{
			Agent:   consulAgent(doc.Consul),
			Service: c.Consul.Service,
			Tag:     c.Consul.Tag,
			Hold:    c.Consul.Hold,
			Logger:  log,
		})
	}
	nodes := make(health.Static, len(c.Nodes))
	for i, n := range c.Nodes {
		nodes[i] = health.Endpoint{Name: n.Name, Addr: n.Address, Admin: n.Admin, Weight: n.Weight, Zone: n.Zone, Capacity: n.MaxSessions}
	}
	return nodes, nil
}

func poolCheck(c configs.Check) health.Check {
	switch c.Type {
	case configs.CheckAgent:
		return health.AgentCheck{Path: "/status"}
	case configs.CheckHTTP:
		return health.HTTPCheck{Path: "/readyz"}
	case configs.CheckTCP:
	}
	return health.TCPCheck{ProxyHeader: true}
}

// update makes the balancer place by what the monitor knows. A node that is not
// fit keeps its sessions, which end by themselves if it is gone, and gets no new ones.
func (p *pool) update(s health.Snapshot) {
	if !s.Known {
		return
	}
	members := make([]balancer.Member, len(s.Nodes))
	addrs := make(map[string]string, len(s.Nodes))
	fit := 0
	for i, n := range s.Nodes {
		serves := n.Standing == health.Fit || n.Standing == health.Draining
		members[i] = balancer.Member{
			Name:     n.Name,
			Weight:   n.Weight,
			Zone:     n.Zone,
			Draining: n.Standing == health.Draining,
			Down:     !serves,
			Limit:    n.Capacity,
		}
		if serves {
			addrs[n.Name] = n.Addr
		}
		if n.Standing == health.Fit {
			fit++
		}
	}
	p.mu.Lock()
	p.addrs = addrs
	p.mu.Unlock()
	p.balancer.SetMembers(members)
	p.mu.Lock()
	p.known, p.fit = len(s.Nodes), fit // only now: who sees that it is ready may log in at once
	p.mu.Unlock()
}

// Pick implements proxy.Picker.
func (p *pool) Pick(_ context.Context, user string, tried []string) (proxy.Choice, error) {
	// A node may leave between the balancer's answer and the look at its
	// address; then it counts as tried. There are no more rounds than nodes.
	for {
		lease, err := p.balancer.Acquire(user, func(node string) bool { return slices.Contains(tried, node) })
		if err != nil {
			return proxy.Choice{}, fmt.Errorf("%w: %w", proxy.ErrNoNode, err)
		}
		node := lease.Node()
		addr, ok := p.addr(node)
		if !ok {
			lease.Release()
			tried = append(slices.Clone(tried), node)
			continue
		}
		return proxy.Choice{
			Node:    proxy.Node{Name: node, Addr: addr},
			Report:  func(o proxy.Outcome) { p.report(node, o) },
			Release: lease.Release,
		}, nil
	}
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
		p.monitor.Report(node, health.ClosedEarly)
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

// poolStatus is what /status tells of a pool.
type poolStatus struct {
	Name        string       `json:"name"`
	Known       bool         `json:"known"`
	Fit         int          `json:"fit"`               // nodes that placement gives new users
	StaleFor    float64      `json:"stale_for_seconds"` // how old what is known may be
	Users       int          `json:"users"`
	Sessions    int          `json:"sessions"`
	Nodes       []nodeStatus `json:"nodes"`
	Transitions []transition `json:"transitions"` // the last ones, oldest first
}

type nodeStatus struct {
	Name       string  `json:"name"`
	Address    string  `json:"address,omitempty"`
	Standing   string  `json:"standing"`
	Cause      string  `json:"cause,omitempty"`
	Weight     float64 `json:"weight"`
	Zone       string  `json:"zone,omitempty"`
	Partitions int     `json:"partitions"`
	Sessions   int     `json:"sessions"` // of this front
	Bound      int     `json:"bound"`    // most sessions of this front that it may have now
}

type transition struct {
	At       string `json:"at"`
	Node     string `json:"node"`
	Standing string `json:"standing"`
	Cause    string `json:"cause"`
}

// status puts together what the monitor and the balancer know.
func (p *pool) status(now time.Time) poolStatus {
	health, placed := p.monitor.Snapshot(), p.balancer.Snapshot()
	st := poolStatus{
		Name:     p.name,
		Known:    health.Known,
		StaleFor: health.Source.Staleness(now).Seconds(),
		Users:    placed.Users,
		Sessions: placed.Sessions,
	}
	p.mu.RLock()
	st.Fit = p.fit
	p.mu.RUnlock()
	for _, n := range health.Nodes {
		entry := nodeStatus{
			Name: n.Name, Address: n.Addr, Standing: n.Standing.String(), Cause: n.Cause, Weight: n.Weight, Zone: n.Zone,
		}
		if i := slices.IndexFunc(placed.Nodes, func(s balancer.NodeState) bool { return s.Name == n.Name }); i >= 0 {
			entry.Partitions, entry.Sessions, entry.Bound = placed.Nodes[i].Partitions, placed.Nodes[i].Sessions, placed.Nodes[i].Bound
		}
		st.Nodes = append(st.Nodes, entry)
	}
	for _, t := range p.monitor.Transitions() {
		st.Transitions = append(st.Transitions, transition{
			At: t.At.UTC().Format(time.RFC3339Nano), Node: t.Node, Standing: t.Standing.String(), Cause: t.Cause,
		})
	}
	return st
}
