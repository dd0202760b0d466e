package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"imlb/configs"
	"imlb/health"
	"imlb/proxy"
	"imlb/proxy/admin"
	"imlb/proxy/limit"
)

// certificateInterval lies between looks whether certificate files have changed.
const certificateInterval = time.Second

// front is a running `imlb proxy`. The first configuration starts it, later ones
// change it; all come from the watcher's goroutine, which owns the fields that are
// not guarded.
type front struct {
	source   documentSource
	output   *logSwitch
	read     func(configs.Certificate) (*tls.Certificate, error)
	started  func(context.Context) // called when the first configuration has been applied; may be nil
	log      *slog.Logger
	registry *prometheus.Registry
	// registering says whether Consul does not take the front's registration.
	registering prometheus.Gauge

	// Set when the first configuration has been applied.
	server       *proxy.Server
	certificates *certificates
	running      sync.WaitGroup // pools, certificates and the server
	stopRunning  context.CancelFunc
	stopServing  context.CancelFunc
	admin        *adminServer
	leave        func() // Consul
	served       chan error
	failed       chan error // what the front cannot go on after

	changing   sync.Mutex           // held while something is applied
	used, seen map[string]fileStamp // files that doc names: as they were read, and at the last look

	mu      sync.Mutex
	doc     configs.Proxy
	options proxy.Options // of doc
	pools   map[string]*runningPool
	sharing *sharing // of secrets
	refused error    // why the newest good document could not be applied
	unread  error    // why what is in files of doc that have changed is not in force
}

// documentSource says what a front runs with, as a *configs.Watcher does.
type documentSource interface {
	Run(ctx context.Context, apply func(configs.Update) error) error
	Status() configs.Status
}

// runningPool is a pool and its end.
type runningPool struct {
	*pool
	stop context.CancelFunc
}

func newFront(source documentSource, output *logSwitch) *front {
	f := &front{
		source:   source,
		read:     readPair,
		output:   output,
		log:      slog.New(output),
		registry: newRegistry(),
		pools:    make(map[string]*runningPool),
		served:   make(chan error, 1),
		failed:   make(chan error, 1),
		leave:    func() {},
	}
	f.registering = registrationGauge(f.registry)
	registerConfigMetrics(f.registry, source)
	f.registry.MustRegister(poolCollector(f.livePools))
	f.registry.MustRegister(nodeCertificates{now: time.Now, pools: f.poolOptions})
	f.registry.MustRegister(limitCollector(func(now time.Time, top int) limit.Snapshot { return f.server.Limits(now, top) }))
	registerSecretMetrics(f.registry, f.currentSharing)
	f.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "imlb_config_applied",
		Help: "Whether the newest good document, and what its files say now, could be applied (1); what could not be, as when a port is taken, is logged.",
	}, func() float64 { return oneIf(f.refusal() == nil) }))
	return f
}

// run follows the configuration until ctx ends or the front cannot go on. The stop
// order is: leave Consul, end the sessions, and only then stop watching the nodes,
// because sessions that end may still ask for one.
func (f *front) run(ctx context.Context) error {
	following, stopFollowing := context.WithCancelCause(ctx)
	defer stopFollowing(nil)
	var watching sync.WaitGroup
	watching.Go(func() {
		select {
		case err := <-f.failed:
			stopFollowing(err)
		case <-following.Done():
		}
	})
	err := f.source.Run(following, func(u configs.Update) error {
		if f.server != nil {
			return f.change(ctx, u)
		}
		err := f.start(ctx, u)
		if err != nil {
			stopFollowing(err)
		}
		return err
	})
	stopFollowing(nil)
	watching.Wait()
	if cause := context.Cause(following); cause != nil && !errors.Is(cause, context.Canceled) && !errors.Is(err, cause) {
		err = errors.Join(err, cause)
	}
	if f.stopServing != nil {
		f.log.InfoContext(ctx, "stopping", slog.Int("sessions", f.server.Status().Sessions), slog.Duration("patience", f.doc.Timeouts.Shutdown))
	}
	return errors.Join(err, f.stop())
}

// listening tells where the listeners are.
func listening(addrs map[string]net.Addr) slog.Attr {
	var listeners []any
	for _, name := range slices.Sorted(maps.Keys(addrs)) {
		listeners = append(listeners, slog.String(name, addrs[name].String()))
	}
	return slog.Group("listeners", listeners...)
}

// start begins to serve with the first configuration.
func (f *front) start(ctx context.Context, u configs.Update) error {
	f.output.set(u.Proxy.Log)
	var err error
	if f.certificates, err = loadCertificates(u.Proxy.TLS, f.read, f.log); err != nil {
		return err
	}
	if err := f.registry.Register(f.certificates); err != nil {
		return err
	}
	pools, err := f.makePools(u)
	if err != nil {
		return err
	}
	f.used = stampFiles(u.Proxy)
	options, err := f.proxyOptions(u.Proxy, pools)
	if err != nil {
		return err
	}
	server, err := proxy.New(options)
	if err != nil {
		return err
	}
	shared, err := newSharing(ctx, u.Proxy, server.SetKeys, f.log)
	if err != nil {
		return err
	}
	f.share(ctx, shared)
	if err := server.Listen(ctx); err != nil {
		return err
	}
	f.server = server
	f.adopt(u.Proxy, options, pools)
	if f.admin, err = startAdmin(ctx, u.Proxy.Admin.Address, f.adminHandler(), f.log); err != nil {
		return err
	}
	f.serve(ctx, u)
	f.leave = register(ctx, health.Registration{Name: frontName(u.Proxy)}, u.Proxy.Consul, f.registering, f.log)
	f.log.InfoContext(ctx, "serving", listening(server.Addrs()), slog.String("source", f.source.Status().Source), slog.Uint64("version", u.Version))
	if f.started != nil {
		f.started(ctx)
	}
	return nil
}

// serve starts all that runs until stop.
func (f *front) serve(ctx context.Context, u configs.Update) {
	var running, serving context.Context
	running, f.stopRunning = context.WithCancel(context.WithoutCancel(ctx))
	serving, f.stopServing = context.WithCancel(running)
	for _, p := range f.pools {
		p.setOverrides(u.Overrides)
		f.watchPool(running, p)
	}
	f.sharing.run()
	f.running.Go(func() { f.certificates.run(running, certificateInterval) })
	f.running.Go(func() { f.followFiles(running, certificateInterval) })
	f.running.Go(func() { keepMemory(running, func() int { return f.server.Status().Sessions }) })
	f.running.Go(func() { f.served <- f.server.Serve(serving) })
}

// watchPool keeps a pool's knowledge of its nodes until it is stopped.
func (f *front) watchPool(ctx context.Context, p *runningPool) {
	ctx, p.stop = context.WithCancel(ctx)
	f.running.Go(func() {
		if err := p.run(ctx); err != nil {
			f.fail(fmt.Errorf("pool %s: %w", p.name, err))
		}
	})
}

// fail ends the front, for the first of several reasons.
func (f *front) fail(err error) {
	select {
	case f.failed <- err:
	default:
	}
}

// makePools returns the pools of a configuration: those that there are, and new ones
// that do not run yet.
func (f *front) makePools(u configs.Update) (map[string]*runningPool, error) {
	pools := make(map[string]*runningPool, len(u.Proxy.Pools))
	for _, name := range slices.Sorted(maps.Keys(u.Proxy.Pools)) {
		if p := f.pools[name]; p != nil {
			pools[name] = p
			continue
		}
		p, err := newPool(name, u.Proxy, f.log)
		if err != nil {
			return nil, err
		}
		pools[name] = &runningPool{pool: p}
	}
	return pools, nil
}

// adopt makes a configuration the one in force.
func (f *front) adopt(doc configs.Proxy, options proxy.Options, pools map[string]*runningPool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.doc, f.options, f.pools, f.refused, f.unread = doc, options, pools, nil, nil
}

// change goes over to another configuration. One that cannot be applied, although
// it is valid, is refused as a whole, and what is in force stays. What operators say
// of nodes counts in any case.
func (f *front) change(ctx context.Context, u configs.Update) error {
	f.changing.Lock()
	defer f.changing.Unlock()
	var err error
	if !reflect.DeepEqual(u.Proxy, f.doc) {
		if err = f.changeDocument(ctx, u); err != nil {
			f.log.ErrorContext(ctx, "configuration cannot be applied yet; the one before stays in force",
				slog.Uint64("version", u.Version), slog.Any("error", err))
			f.refuse(err)
		}
	} else {
		f.refuse(nil) // back to what is in force
	}
	for _, p := range f.pools {
		p.setOverrides(u.Overrides)
	}
	return err
}

// changeDocument applies another document as a difference. All that can fail comes
// before anything is changed, but for the certificates, which are taken back.
func (f *front) changeDocument(ctx context.Context, u configs.Update) (err error) {
	old := f.doc
	if err := f.certificates.replace(u.Proxy.TLS); err != nil {
		return err
	}
	var options proxy.Options
	var shared *sharing // if it is not what it was
	used := stampFiles(u.Proxy)
	pools, err := f.makePools(u)
	if err == nil {
		options, err = f.proxyOptions(u.Proxy, pools)
	}
	if err == nil && secretsChanged(old, u.Proxy) {
		shared, err = newSharing(ctx, u.Proxy, f.server.SetKeys, f.log)
	}
	if err == nil {
		f.watchNew(ctx, pools, u.Overrides)
		err = f.server.Apply(ctx, options)
	}
	if err == nil && old.Admin != u.Proxy.Admin {
		err = f.moveAdmin(ctx, u.Proxy.Admin.Address)
		if err != nil {
			err = errors.Join(err, f.server.Apply(ctx, f.options))
		}
	}
	if err != nil {
		stopMissing(pools, f.pools)
		return errors.Join(err, f.certificates.replace(old.TLS))
	}
	gone := f.pools
	f.used = used
	f.adopt(u.Proxy, options, pools)
	if shared != nil {
		f.share(ctx, shared)
		shared.run()
	}
	f.changePools(ctx, u.Proxy, gone)
	stopMissing(gone, pools) // their sessions go on
	f.output.set(u.Proxy.Log)
	if !reflect.DeepEqual(old.Consul, u.Proxy.Consul) || frontName(old) != frontName(u.Proxy) {
		f.leave()
		f.leave = register(ctx, health.Registration{Name: frontName(u.Proxy)}, u.Proxy.Consul, f.registering, f.log)
	}
	f.report(ctx, configs.Diff(old, u.Proxy), u.Version)
	return nil
}

// watchNew sets pools going that the front does not have yet, so that they know their
// nodes when sessions come.
func (f *front) watchNew(ctx context.Context, pools map[string]*runningPool, overrides map[string]configs.Override) {
	for name, p := range pools {
		if f.pools[name] == nil {
			p.setOverrides(overrides)
			f.watchPool(context.WithoutCancel(ctx), p)
		}
	}
}

// stopMissing stops those of some pools that are not among others.
func stopMissing(pools, others map[string]*runningPool) {
	for name, p := range pools {
		if others[name] == nil && p.stop != nil {
			p.stop()
		}
	}
}

// changePools tells the pools that stay of their document. What can fail there is
// what the document's validation could not see, such as a CA file that has just gone.
func (f *front) changePools(ctx context.Context, doc configs.Proxy, before map[string]*runningPool) {
	for name, p := range f.pools {
		if before[name] == nil {
			continue
		}
		if err := p.configure(doc); err != nil {
			f.log.ErrorContext(ctx, "pool keeps what it had", slog.String("pool", name), slog.Any("error", err))
			f.refuse(fmt.Errorf("pool %s: %w", name, err))
		}
	}
}

// moveAdmin serves the admin interface at another address.
func (f *front) moveAdmin(ctx context.Context, addr string) error {
	moved, err := startAdmin(ctx, addr, f.adminHandler(), f.log)
	if err != nil {
		return err
	}
	if err := f.admin.stop(); err != nil {
		f.log.WarnContext(ctx, "stop the admin interface at its old address", slog.Any("error", err))
	}
	f.admin = moved
	return nil
}

// report says what a new document has changed.
func (f *front) report(ctx context.Context, changes configs.Changes, version uint64) {
	lines := make([]string, len(changes))
	for i, c := range changes {
		lines[i] = c.String()
	}
	f.log.InfoContext(ctx, "configuration applied", slog.Uint64("version", version), slog.Any("changes", lines))
}

func (f *front) refuse(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refused = err
}

// refusal returns why something that is newer is not in force.
func (f *front) refusal() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return errors.Join(f.refused, f.unread)
}

// stop ends what start began, as far as that came.
func (f *front) stop() error {
	f.leave()
	var errs []error
	if f.stopServing != nil {
		f.stopServing()
		errs = append(errs, <-f.served)
		f.stopRunning()
		for _, p := range f.livePools() {
			f.pools[p.name].stop()
		}
		f.running.Wait()
	} else if f.server != nil {
		stopping, cancel := context.WithTimeout(context.Background(), stopGrace)
		defer cancel()
		errs = append(errs, f.server.Shutdown(stopping))
	}
	if s := f.currentSharing(); s != nil {
		s.end()
	}
	if f.admin != nil {
		errs = append(errs, f.admin.stop())
	}
	return errors.Join(errs...)
}

// frontName tells this front from others, in Consul and among those that share secrets.
func frontName(doc configs.Proxy) string {
	if doc.Name != "" {
		return doc.Name
	}
	host, err := os.Hostname()
	if err != nil {
		host = "front"
	}
	return fmt.Sprintf("%s-%s", host, doc.Admin.Address)
}

// livePools returns the pools, sorted by name.
func (f *front) livePools() []*pool {
	f.mu.Lock()
	defer f.mu.Unlock()
	pools := make([]*pool, 0, len(f.pools))
	for _, name := range slices.Sorted(maps.Keys(f.pools)) {
		pools = append(pools, f.pools[name].pool)
	}
	return pools
}

// poolOptions returns what the front goes by with each pool, by name.
func (f *front) poolOptions() map[string]proxy.Pool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.options.Pools
}

// adminHandler is what operators and health checks ask.
func (f *front) adminHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", admin.Handler(admin.Options{
		Checks:  []admin.Check{{Name: "front", Ready: f.server.Serving}},
		Pools:   f.poolChecks,
		Metrics: f.registry,
		Status:  func() any { return f.status(time.Now()) },
	}))
	mux.HandleFunc("GET /explain", f.explain)
	mux.HandleFunc("GET /sessions", onThisMachine(f.sessions))
	mux.HandleFunc("DELETE /sessions/{id}", onThisMachine(f.endSession))
	return mux
}

// poolChecks tell which pools can take sessions.
func (f *front) poolChecks() []admin.Check {
	var checks []admin.Check
	for _, p := range f.livePools() {
		checks = append(checks, admin.Check{Name: p.name, Ready: p.ready})
	}
	return checks
}

// explain tells where a user would be placed in each pool, or the one that is asked for,
// and why.
func (f *front) explain(w http.ResponseWriter, r *http.Request) {
	user := r.URL.Query().Get("user")
	if user == "" {
		http.Error(w, "which user? /explain?user=alice@example.com", http.StatusBadRequest)
		return
	}
	only, name := r.URL.Query().Has("pool"), r.URL.Query().Get("pool")
	f.mu.Lock()
	doc := f.doc
	f.mu.Unlock()
	answers := make(map[string]any)
	var names []string
	for _, p := range f.livePools() {
		names = append(names, p.name)
		if !only || p.name == name {
			answers[p.name] = p.explain(user, doc.ServesXMPP(p.name))
		}
	}
	if only && len(answers) == 0 {
		http.Error(w, fmt.Sprintf("no pool is called %q; %s", name, configs.SuggestName(name, names)), http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answers) // the asker has gone
}

// frontStatus is what /status tells.
type frontStatus struct {
	Cluster string       `json:"cluster"`
	Version string       `json:"version"`
	Front   proxy.Status `json:"front"`
	Config  configStatus `json:"config"`
	// NotApplied is why the newest good document, or what its files say now, is not in force.
	NotApplied string       `json:"not_applied,omitempty"`
	Pools      []poolStatus `json:"pools"`
	// Limits are what is counted for them, with the sources that have the most connections.
	Limits  limit.Snapshot `json:"limits"`
	Secrets secretsStatus  `json:"secrets"`
}

func (f *front) status(now time.Time) frontStatus {
	f.mu.Lock()
	cluster := f.doc.Cluster
	f.mu.Unlock()
	st := frontStatus{
		Cluster: cluster, Version: version(), Front: f.server.Status(), Config: configStatusOf(f.source.Status()),
		Limits: f.server.Limits(now, topSources), Secrets: f.currentSharing().status(),
	}
	if err := f.refusal(); err != nil {
		st.NotApplied = err.Error()
	}
	for _, p := range f.livePools() {
		st.Pools = append(st.Pools, p.status(now))
	}
	return st
}
