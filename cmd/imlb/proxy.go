package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"imlb/configs"
	"imlb/health"
	"imlb/proxy"
	"imlb/proxy/admin"
)

// proxyCmd is `imlb proxy`.
type proxyCmd struct {
	Config        string `required:"" placeholder:"FILE" type:"path" help:"The front's configuration document; configs/proxy.example.yaml explains every key."`
	StopWithStdin bool   `hidden:"" help:"Stop when standard input closes."`
}

// Help is the long text of `imlb proxy --help`.
func (proxyCmd) Help() string {
	return `Runs a front until SIGINT or SIGTERM: it accepts clients, reads who the user is, and carries the session to the user's node. On a
stop it tells each client so and waits for it to leave, up to timeouts.shutdown. A second signal ends it at once.`
}

// Run serves until ctx ends.
func (c *proxyCmd) Run(ctx context.Context) error {
	if c.StopWithStdin {
		var cancel context.CancelFunc
		ctx, cancel = withStdin(ctx)
		defer cancel()
	}
	doc, err := configs.LoadProxy(c.Config)
	if err != nil {
		return err
	}
	return runFront(ctx, doc)
}

// front is a running `imlb proxy`.
type front struct {
	doc    configs.Proxy
	log    *slog.Logger
	pools  []*pool
	server *proxy.Server
}

// runFront makes a front of its document, and runs it until ctx ends.
func runFront(ctx context.Context, doc configs.Proxy) error {
	f := &front{doc: doc, log: newLogger(os.Stderr, doc.Log)}
	registry := newRegistry()
	options, err := f.options(registry)
	if err != nil {
		return err
	}
	f.server, err = proxy.New(options)
	if err != nil {
		return err
	}
	if err := f.server.Listen(ctx); err != nil {
		return err
	}
	handler := admin.Handler(admin.Options{
		Checks:  f.checks(),
		Metrics: registry,
		Status:  func() any { return f.status(time.Now()) },
	})
	adminHTTP, err := startAdmin(ctx, doc.Admin.Address, handler, f.log)
	if err != nil {
		return errors.Join(err, f.server.Shutdown(ctx))
	}
	return errors.Join(f.serve(ctx), adminHTTP.stop())
}

// options translates the document for package proxy, and makes the pools.
func (f *front) options(registry *prometheus.Registry) (proxy.Options, error) {
	certificates, err := loadCertificates(f.doc.TLS)
	if err != nil {
		return proxy.Options{}, err
	}
	pools := make(map[string]proxy.Pool, len(f.doc.Pools))
	for _, name := range slices.Sorted(maps.Keys(f.doc.Pools)) {
		p, err := newPool(name, f.doc, f.log)
		if err != nil {
			return proxy.Options{}, err
		}
		f.pools = append(f.pools, p)
		c := f.doc.Pools[name]
		pools[name] = proxy.Pool{Picker: p, DialTimeout: c.DialTimeout, DialAttempts: c.DialAttempts}
	}
	limits, timeouts := f.doc.Limits, f.doc.Timeouts
	return proxy.Options{
		Listeners:  listeners(f.doc),
		Pools:      pools,
		Domains:    f.doc.Domains,
		TLS:        &tls.Config{Certificates: certificates, MinVersion: tls.VersionTLS12},
		Mechanisms: mechanismNames(f.doc.SASL.Mechanisms),
		Limits: proxy.Limits{
			MaxStanza:    int(limits.MaxStanza),
			MaxPreAuth:   int(limits.MaxStanzaBeforeLogin),
			AuthAttempts: limits.LoginAttempts,
		},
		Timeouts: proxy.Timeouts{
			Handshake: timeouts.Handshake,
			Identify:  timeouts.Identify,
			Write:     timeouts.Write,
			Idle:      timeouts.Idle,
			Shutdown:  timeouts.Shutdown,
		},
		Logger:     f.log,
		Registerer: registry,
	}, nil
}

func loadCertificates(c configs.TLS) ([]tls.Certificate, error) {
	certificates := make([]tls.Certificate, len(c.Certificates))
	for i, files := range c.Certificates {
		var err error
		certificates[i], err = tls.LoadX509KeyPair(files.CertFile, files.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("certificate %s: %w", files.CertFile, err)
		}
	}
	return certificates, nil
}

func listeners(doc configs.Proxy) []proxy.Listener {
	out := make([]proxy.Listener, len(doc.Listeners))
	for i, l := range doc.Listeners {
		out[i] = proxy.Listener{
			Name:     l.Name,
			Protocol: protocolOf(l.Protocol),
			Address:  l.Address,
			Pool:     l.Pool,
			Rate:     proxy.Rate{PerSecond: l.Rate.PerSecond, Burst: l.Rate.Burst, MaxWait: l.Rate.MaxWait},
		}
		if l.ProxyProtocol != nil {
			out[i].TrustedProxies = l.ProxyProtocol.Trusted
		}
	}
	return out
}

func protocolOf(p configs.Protocol) proxy.Protocol {
	switch p {
	case configs.XMPP:
		return proxy.XMPP
	case configs.XMPPS:
		return proxy.XMPPS
	case configs.HTTPS:
		return proxy.HTTPS
	case configs.QUIC:
		return proxy.QUIC
	}
	return 0 // proxy.New refuses it; the document's validation did before
}

// checks are what has to hold for /readyz.
func (f *front) checks() []admin.Check {
	checks := []admin.Check{{Name: "front", Ready: f.server.Serving}}
	for _, p := range f.pools {
		checks = append(checks, admin.Check{Name: "pool " + p.name, Ready: p.ready})
	}
	return checks
}

// serve runs the pools' monitors and the server until ctx ends. The stop order is: leave
// Consul, end the sessions, and only then stop watching the nodes,
// because sessions that end may still ask for one.
func (f *front) serve(ctx context.Context) error {
	watching, stopWatching := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWatching()
	failed := make(chan error, len(f.pools))
	var watchers sync.WaitGroup
	for _, p := range f.pools {
		watchers.Go(func() {
			if err := p.monitor.Run(watching); err != nil {
				failed <- fmt.Errorf("pool %s: %w", p.name, err)
			}
		})
	}
	leave := register(ctx, health.Registration{Name: f.name()}, f.doc.Consul, f.log)
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServing()
	go func() {
		select {
		case <-ctx.Done():
			leave()
		case err := <-failed:
			f.log.ErrorContext(ctx, "cannot go on", slog.Any("error", err))
			leave()
			failed <- err
		}
		stopServing()
	}()
	f.log.InfoContext(ctx, "serving", slog.Any("listeners", f.server.Addrs()))
	err := f.server.Serve(serving)
	stopWatching()
	watchers.Wait()
	select {
	case cause := <-failed:
		return errors.Join(cause, err)
	default:
		return err
	}
}

// name tells this front from others in Consul.
func (f *front) name() string {
	host, err := os.Hostname()
	if err != nil {
		host = "front"
	}
	return fmt.Sprintf("%s-%s", host, f.doc.Admin.Address)
}

// frontStatus is what /status tells.
type frontStatus struct {
	Cluster string       `json:"cluster"`
	Version string       `json:"version"`
	Front   proxy.Status `json:"front"`
	Pools   []poolStatus `json:"pools"`
}

func (f *front) status(now time.Time) frontStatus {
	st := frontStatus{Cluster: f.doc.Cluster, Version: version(), Front: f.server.Status()}
	for _, p := range f.pools {
		st.Pools = append(st.Pools, p.status(now))
	}
	return st
}
