package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"imlb/configs"
	"imlb/proxy/secrets"
)

// loadTimeout is how long a start may wait for the secrets that fronts share. After that
// the front begins with its own, and goes over to the others' when they come.
const loadTimeout = 3 * time.Second

// sharing keeps the secrets that a front shares with others, as one document says.
type sharing struct {
	keeper  *secrets.Keeper
	where   string // they lie
	stop    context.CancelFunc
	ctx     context.Context // until stop
	running sync.WaitGroup
	log     *slog.Logger
	use     func(context.Context, secrets.Keys) error

	mu     sync.Mutex
	unused error // why the keys are not in full use
}

// newSharing prepares for the secrets of a document. It talks to nobody yet.
func newSharing(ctx context.Context, doc configs.Proxy, use func(context.Context, secrets.Keys) error, log *slog.Logger) (*sharing, error) {
	s := &sharing{log: log, use: use}
	options := secrets.Options{
		ReadOnly: doc.Secrets.ReadOnly,
		Policy:   secrets.Policy{Period: doc.Secrets.Period, Grace: doc.Secrets.Grace, Kept: doc.Secrets.Kept},
		Use:      s.put,
		Logger:   log,
	}
	var err error
	if options.Store, s.where, err = secretStore(doc); err != nil {
		return nil, err
	}
	if s.keeper, err = secrets.NewKeeper(options); err != nil {
		return nil, err
	}
	s.ctx, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	return s, nil
}

// secretStore is where the secrets lie, and what that is called; nil for in memory.
func secretStore(doc configs.Proxy) (secrets.Store, string, error) {
	switch {
	case doc.Secrets.File != "":
		return secrets.NewFile(doc.Secrets.File, 0), "file " + doc.Secrets.File, nil
	case doc.Secrets.Consul:
		client, err := doc.Consul.Client()
		if err != nil {
			return nil, "", err
		}
		key := "imlb/" + doc.Cluster + "/secrets"
		store := secrets.NewConsul(client, key, 0)
		store.Token = doc.Consul.Token
		return store, "consul " + key, nil
	}
	return nil, "memory", nil
}

// load puts the first keys into use: the shared ones, if they can be had soon.
func (s *sharing) load(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	_ = s.keeper.Load(ctx) // which reports it
	s.put(s.keeper.Keys())
}

// run keeps the secrets until end is called.
func (s *sharing) run() {
	s.running.Go(func() { _ = s.keeper.Run(s.ctx) }) // it never fails
}

// end stops what run began, and waits for it.
func (s *sharing) end() {
	s.stop()
	s.running.Wait()
}

// put makes the front use keys.
func (s *sharing) put(keys secrets.Keys) {
	err := s.use(s.ctx, keys)
	if s.ctx.Err() != nil {
		return
	}
	if err != nil {
		s.log.ErrorContext(s.ctx, "shared secrets are not in full use", slog.Any("error", err))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unused = err
}

// state is the keeper's, and whether the front uses what that has.
func (s *sharing) state() secrets.Status {
	k := s.keeper.Status()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unused != nil {
		k.Shared, k.Failing = false, errors.Join(k.Failing, fmt.Errorf("shared secrets are not in full use: %w", s.unused))
	}
	return k
}

// secretsChanged tells whether a document shares other secrets, or elsewhere.
func secretsChanged(old, doc configs.Proxy) bool {
	if old.Secrets != doc.Secrets {
		return true
	}
	return doc.Secrets.Consul && (old.Cluster != doc.Cluster || !reflect.DeepEqual(agentOf(old), agentOf(doc)))
}

// agentOf is the agent alone, without what is registered there.
func agentOf(doc configs.Proxy) configs.Consul {
	agent := *doc.Consul
	agent.Register = nil
	return agent
}

// secretsStatus is what /status tells of the shared secrets.
type secretsStatus struct {
	Where   string `json:"where"`            // memory, file NAME or consul KEY
	Shared  bool   `json:"shared"`           // those in use are the others' too
	Secrets int    `json:"secrets"`          // that rotate
	Newest  string `json:"newest,omitempty"` // when the newest was made
	Error   string `json:"error,omitempty"`
}

func (s *sharing) status() secretsStatus {
	k := s.state()
	st := secretsStatus{Where: s.where, Shared: k.Shared, Secrets: k.Secrets, Newest: moment(k.Newest)}
	if k.Failing != nil {
		st.Error = k.Failing.Error()
	}
	return st
}

// currentSharing is what keeps the secrets now.
func (f *front) currentSharing() *sharing {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sharing
}

// share begins with the secrets of a document, in the place of those before.
func (f *front) share(ctx context.Context, next *sharing) {
	f.mu.Lock()
	before := f.sharing
	f.sharing = next
	f.mu.Unlock()
	if before != nil {
		before.end()
	}
	next.load(ctx)
}

// registerSecretMetrics publishes the state of the secrets.
func registerSecretMetrics(r prometheus.Registerer, current func() *sharing) {
	gauge := func(name, help string, value func(secrets.Status) float64) {
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "imlb_secrets_" + name, Help: help}, func() float64 {
			if s := current(); s != nil {
				return value(s.state())
			}
			return 0
		}))
	}
	gauge("newest_age_seconds", "How old the newest of the secrets is that fronts share.", func(s secrets.Status) float64 { return max(0, time.Since(s.Newest).Seconds()) })
	gauge("kept", "How many secrets there are.", func(s secrets.Status) float64 { return float64(s.Secrets) })
	gauge("shared", "Whether those in use are the ones that lie in the file or in Consul (1).", func(s secrets.Status) float64 { return oneIf(s.Shared) })
	gauge("failing", "Whether they cannot be read or written there, or not be used (1).", func(s secrets.Status) float64 { return oneIf(s.Failing != nil) })
}
