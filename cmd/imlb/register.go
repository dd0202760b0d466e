package main

import (
	"context"
	"log/slog"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"imlb/backend"
	"imlb/configs"
	"imlb/health"
)

func consulAgent(c *configs.Consul) health.ConsulAgent {
	agent := health.ConsulAgent{Address: c.Address, TokenFile: c.TokenFile, Datacenter: c.Datacenter}
	if c.TLS != nil {
		agent.Address = "https://" + c.Address
		agent.CAFile, agent.CertFile, agent.KeyFile = c.TLS.CAFile, c.TLS.CertFile, c.TLS.KeyFile
		agent.ServerName = c.TLS.ServerName
	}
	return agent
}

func nodeRegistration(doc configs.Node, node *backend.Node) health.Registration {
	return health.Registration{
		Name: doc.Name, Weight: doc.Weight, Zone: doc.Zone, Capacity: doc.Limits.MaxSessions,
		Load: func() (l health.Load) {
			l.Sessions, l.Draining = node.Load()
			return l
		},
	}
}

// registrationGauge publishes whether a process is kept from being registered.
func registrationGauge(r prometheus.Registerer) prometheus.Gauge {
	failing := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "imlb_consul_registration_failing",
		Help: "Whether this process is to be registered in Consul, and the agent does not answer or does not take it (1).",
	})
	r.MustRegister(failing)
	return failing
}

// register keeps this process registered in Consul until leave is called, which
// returns once it is deregistered. Without a registration in the document it
// does nothing.
func register(ctx context.Context, r health.Registration, c *configs.Consul, failing prometheus.Gauge, log *slog.Logger) (leave func()) {
	failing.Set(0)
	if c == nil || c.Register == nil {
		return func() {}
	}
	r.Service, r.Addr, r.Admin, r.Tags = c.Register.Service, c.Register.Address, c.Register.Admin, c.Register.Tags
	r.CheckInterval, r.DeregisterAfter = c.Register.Interval, c.Register.DeregisterAfter
	r.Failing = func(err error) { failing.Set(oneIf(err != nil)) }

	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var registered sync.WaitGroup
	registered.Go(func() {
		if err := health.Register(ctx, consulAgent(c), r, log); err != nil {
			log.ErrorContext(ctx, "registration in Consul", slog.Any("error", err))
		}
	})
	return func() {
		cancel()
		registered.Wait()
	}
}
