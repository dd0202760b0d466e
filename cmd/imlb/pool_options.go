package main

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"path/filepath"
	"reflect"
	"regexp"
	"time"

	"imlb/balancer"
	"imlb/configs"
	"imlb/health"
)

// What of a document a pool needs, in the words of packages health and balancer.

// poolSettings are what the pool itself goes by.
type poolSettings struct {
	source sourceSettings
	park   time.Duration // how long a login may wait for room
	round  time.Duration // of checks
}

// sourceSettings say where a pool's nodes come from. When they change, so does the
// source.
type sourceSettings struct {
	nodes  []configs.PoolNode
	consul *configs.PoolConsul
	agent  health.ConsulAgent // of consul
	cache  string             // file of consul; empty: none
}

func (s sourceSettings) equal(t sourceSettings) bool { return reflect.DeepEqual(s, t) }

func poolSettingsOf(name string, doc configs.Proxy) poolSettings {
	c := doc.Pools[name]
	s := poolSettings{park: doc.Placement.Park, round: c.Check.Interval, source: sourceSettings{nodes: c.Nodes, consul: c.Consul}}
	if c.Consul == nil {
		return s
	}
	s.source.agent = consulAgent(doc.Consul)
	if doc.CacheDir != "" {
		s.source.cache = filepath.Join(doc.CacheDir, "pool-"+name+".json")
	}
	return s
}

// poolSource makes what says which nodes there are.
func poolSource(s sourceSettings, log *slog.Logger) (health.Source, error) {
	if s.consul == nil {
		return staticNodes(s.nodes), nil
	}
	return health.NewConsul(health.ConsulOptions{
		Agent:   s.agent,
		Service: s.consul.Service,
		Tag:     s.consul.Tag,
		Hold:    max(s.consul.Hold, 1), // for health 0 is not nothing
		Cache:   s.cache,
		Logger:  log,
	})
}

// backupMeta is the key in a node's meta, in Consul too, that says whether it is
// a backup.
const backupMeta = "backup"

func staticNodes(list []configs.PoolNode) health.Static {
	nodes := make(health.Static, len(list))
	for i, n := range list {
		nodes[i] = health.Endpoint{Name: n.Name, Addr: n.Address, Admin: n.Admin, Weight: n.Weight, Zone: n.Zone, Capacity: n.MaxSessions, Draining: n.Drain}
		if n.Backup {
			nodes[i].Meta = map[string]string{backupMeta: "true"}
		}
	}
	return nodes
}

// options translates the document, but for the source of the nodes.
func (p *pool) options(doc configs.Proxy) (health.Options, balancer.Options, error) {
	placing, err := placementOptions(doc.Placement)
	if err != nil {
		return health.Options{}, placing, fmt.Errorf("pool %s: %w", p.name, err)
	}
	watching, err := healthOptions(doc.Pools[p.name])
	if err != nil {
		return watching, placing, fmt.Errorf("pool %s: %w", p.name, err)
	}
	return watching, placing, nil
}

func placementOptions(c configs.Placement) (balancer.Options, error) {
	policy, err := balancer.ParsePolicy(string(c.Policy))
	if err != nil {
		return balancer.Options{}, err
	}
	return balancer.Options{Policy: policy, Epsilon: c.Epsilon, Zone: c.Zone, Queue: c.ParkQueue}, nil
}

func healthOptions(c configs.Pool) (health.Options, error) {
	check, err := poolCheck(c)
	if err != nil {
		return health.Options{}, err
	}
	if len(c.Source) > 0 {
		check = health.From{Addrs: c.Source, Check: check}
	}
	return health.Options{
		Check: check,
		Rules: health.Rules{
			Rise: c.Check.Rise, Fall: c.Check.Fall, Interval: c.Check.Interval, Fast: c.Check.FastInterval,
			Timeout: c.Check.Timeout, Jitter: orNone(c.Check.Jitter),
		},
		Outliers: health.OutlierRules{
			Off: !c.Outlier.Enabled, Consecutive: c.Outlier.Consecutive, Window: c.Outlier.Window, MinSessions: c.Outlier.MinSessions,
			FailureRatio: c.Outlier.FailureRatio, Base: c.Outlier.Ejection, Max: c.Outlier.MaxEjection,
		},
		Damping: health.DampingRules{
			Off: !c.Damping.Enabled, Suppress: c.Damping.Suppress, Reuse: c.Damping.Reuse, HalfLife: c.Damping.HalfLife, Max: c.Damping.Max,
		},
		MaxEjected: orNone(c.MaxEjected),
		Panic:      c.PanicThreshold,
		SlowStart:  c.SlowStart,
	}, nil
}

// orNone makes a share of 0 a negative one, because for package health 0 stands for
// the default.
func orNone(share float64) float64 {
	if share == 0 {
		return -1
	}
	return share
}

// poolCheck is all that is asked of a node, as one check.
func poolCheck(pool configs.Pool) (health.Check, error) {
	opening, err := openingOf(pool)
	if err != nil {
		return nil, err
	}
	all := make(health.All, len(pool.Checks))
	for i, c := range pool.Checks {
		all[i], err = nodeCheck(c, opening)
		if err != nil {
			return nil, fmt.Errorf("check %d (%s): %w", i+1, c.Type, err)
		}
	}
	if len(all) == 1 {
		return all[0], nil
	}
	return all, nil
}

// openingOf is how sessions of a pool begin, with version 2 where a check wants a header
// and they have none.
func openingOf(pool configs.Pool) (health.Opening, error) {
	opening := health.Opening{Header: 2}
	if pool.ProxyProtocol == configs.HeaderV1 {
		opening.Header = 1
	}
	var err error
	opening.TLS, err = nodeTLSOf(pool.TLS)
	return opening, err
}

func nodeCheck(c configs.Check, opening health.Opening) (health.Check, error) {
	if c.ProxyHeader == nil || !*c.ProxyHeader {
		opening.Header = 0
	}
	switch c.Type {
	case configs.CheckTCP:
		return health.TCPCheck{Header: opening.Header}, nil
	case configs.CheckTLS:
		config, err := checkTLS(c)
		if opening.TLS != nil {
			config.Certificates = opening.TLS.Certificates
		}
		return health.TLSCheck{Config: config, Header: opening.Header}, err
	case configs.CheckHTTP:
		return health.HTTPCheck{Path: c.Path}, nil
	case configs.CheckHTTPS:
		config, err := checkTLS(c)
		return health.HTTPCheck{Path: c.Path, TLS: config}, err
	case configs.CheckAgent:
		return health.AgentCheck{Path: c.Path}, nil
	case configs.CheckXMPP:
		return health.XMPPCheck{Domain: c.Domain, Opening: opening}, nil
	case configs.CheckMQTT:
		return health.MQTTCheck{Accepted: c.Accepted, Opening: opening}, nil
	case configs.CheckScript:
		steps, err := checkSteps(c.Steps)
		return health.ScriptCheck{Steps: steps, Opening: opening}, err
	}
	return nil, fmt.Errorf("no check is of type %q", c.Type)
}

// checkTLS says what a check offers, and what of the node's certificate it verifies.
func checkTLS(c configs.Check) (*tls.Config, error) {
	verify := c.Verify == nil || *c.Verify
	config := &tls.Config{
		MinVersion: tls.VersionTLS12, ServerName: c.ServerName, NextProtos: c.ALPN,
		InsecureSkipVerify: !verify, //nolint:gosec // the operator says so
	}
	var err error
	config.RootCAs, err = authorities(c.CAFile)
	return config, err
}

func checkSteps(list []configs.CheckStep) ([]health.Step, error) {
	steps := make([]health.Step, len(list))
	for i, s := range list {
		steps[i] = health.Step{Send: string(s.Send), Expect: string(s.Expect), Timeout: s.Timeout}
		if s.Pattern == "" {
			continue
		}
		var err error
		steps[i].Pattern, err = regexp.Compile(string(s.Pattern))
		if err != nil {
			return nil, fmt.Errorf("step %d: %w", i+1, err)
		}
	}
	return steps, nil
}
