package health_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"imlb/health"
	"imlb/test/consul"
)

// realConsul is an agent, and a client of it.
type realConsul struct {
	*consul.Agent
	client *api.Client
}

func startRealConsul(t *testing.T) *realConsul {
	t.Helper()
	if testing.Short() {
		t.Skip("a real agent takes seconds to start")
	}
	agent := consul.Start(t)
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	client, err := api.NewClient(&api.Config{Address: agent.Addr, Transport: transport})
	if err != nil {
		t.Fatal(err)
	}
	return &realConsul{agent, client}
}

// realNode answers sessions, /readyz and /status on one port.
type realNode struct {
	*httptest.Server
	mu       sync.Mutex
	draining bool
}

func startNode(t *testing.T, name string) *realNode {
	t.Helper()
	n := &realNode{}
	n.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.mu.Lock()
		defer n.mu.Unlock()
		if r.URL.Path == "/readyz" && n.draining {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		if r.URL.Path == "/status" {
			fmt.Fprintf(w, `{"node":%q,"ready":%v,"draining":%v,"sessions":1}`, name, !n.draining, n.draining)
		}
	}))
	t.Cleanup(n.Close)
	return n
}

func (n *realNode) drain() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.draining = true
}

// register keeps a node registered until the test ends.
func (n *realNode) register(t *testing.T, c *realConsul, name string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	addr := n.Listener.Addr().String()
	go func() {
		done <- health.Register(ctx, health.ConsulAgent{Address: c.Addr}, health.Registration{
			Service: "chat", Name: name, Addr: addr, Admin: addr, CheckInterval: time.Second, Verify: 200 * time.Millisecond,
		}, slog.New(slog.DiscardHandler))
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("deregister %s: %v", name, err)
		}
	})
}

// watchReal runs a monitor of the service, which tells the least number of
// nodes that it ever named since the last time.
func watchReal(t *testing.T, c *realConsul, o health.ConsulOptions) (m *health.Monitor, fewest func() int) {
	t.Helper()
	o.Agent.Address, o.Service = c.Addr, "chat"
	source, err := health.NewConsul(o)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	least := 0
	m, err = health.New(health.Options{
		Source: source, Check: health.AgentCheck{Path: "/status"}, Rules: health.Rules{Interval: 200 * time.Millisecond, Timeout: 5 * time.Second},
		OnChange: func(s health.Snapshot) {
			mu.Lock()
			defer mu.Unlock()
			least = min(least, len(s.Nodes))
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return m, func() int {
		mu.Lock()
		defer mu.Unlock()
		was := least
		least = len(m.Snapshot().Nodes)
		return was
	}
}

// standings returns "a=fit b=unfit".
func standings(m *health.Monitor) string {
	var words []string
	for _, n := range m.Snapshot().Nodes {
		words = append(words, n.Name+"="+n.Standing.String())
	}
	return strings.Join(words, " ")
}

// TestRealConsulRestarts: the agent is killed and comes back, first with its state,
// then without. No node loses its place, and the source recovers.
func TestRealConsulRestarts(t *testing.T) {
	c := startRealConsul(t)
	for _, name := range []string{"a", "b", "c"} {
		startNode(t, name).register(t, c, name)
	}
	m, fewest := watchReal(t, c, health.ConsulOptions{MaxBackoff: 500 * time.Millisecond, Cache: filepath.Join(t.TempDir(), "cache.json")})
	const all = "a=fit b=fit c=fit"
	eventually(t, "three nodes are fit", func() bool { return standings(m) == all })
	fewest()
	before := m.Snapshot().Totals.Transitions

	for _, keepState := range []bool{true, false} {
		c.Kill()
		eventually(t, "the loss is noticed", func() bool { return m.Snapshot().Source.Failing != nil })
		if got := standings(m); got != all {
			t.Errorf("without consul: %s", got)
		}
		if !keepState {
			c.Forget()
		}
		c.Start()
		eventually(t, "the source recovers", func() bool { return m.Snapshot().Source.Failing == nil })
		eventually(t, "the nodes are registered again", func() bool {
			entries, _, err := c.client.Health().Service("chat", "", true, nil)
			return err == nil && len(entries) == 3
		})
		if got := standings(m); got != all || fewest() < 3 {
			t.Errorf("after the restart (state kept: %v): %s", keepState, got)
		}
	}
	if after := m.Snapshot().Totals.Transitions; after != before {
		t.Errorf("%d changes of standing: %v", after-before, m.Transitions())
	}
	if s := m.Snapshot().Source; s.Cached || s.CacheFailing != nil {
		t.Errorf("source: %+v", s)
	}
}

// TestRealConsulDown: a front that starts while the agent is down comes up from
// its cache.
func TestRealConsulDown(t *testing.T) {
	c := startRealConsul(t)
	startNode(t, "a").register(t, c, "a")
	cache := filepath.Join(t.TempDir(), "cache.json")
	t.Run("before", func(t *testing.T) {
		m, _ := watchReal(t, c, health.ConsulOptions{Cache: cache})
		eventually(t, "a is fit", func() bool { return standings(m) == "a=fit" })
		eventually(t, "the cache is written", func() bool {
			_, err := os.Stat(cache)
			return err == nil
		})
	})
	c.Kill()
	m, _ := watchReal(t, c, health.ConsulOptions{Cache: cache, MaxBackoff: 500 * time.Millisecond})
	eventually(t, "a is fit", func() bool { return standings(m) == "a=fit" })
	if s := m.Snapshot().Source; !s.Cached || s.Staleness(time.Now()) <= 0 {
		t.Errorf("source: %+v", s)
	}
	c.Start()
	eventually(t, "the source recovers", func() bool { return !m.Snapshot().Source.Cached })
}

// TestRealDrain: a node that drains is critical in Consul, but its sessions may
// still be joined.
func TestRealDrain(t *testing.T) {
	c := startRealConsul(t)
	a, b := startNode(t, "a"), startNode(t, "b")
	a.register(t, c, "a")
	b.register(t, c, "b")
	m, _ := watchReal(t, c, health.ConsulOptions{})
	eventually(t, "both are fit", func() bool { return standings(m) == "a=fit b=fit" })
	a.drain()
	critical := func(name string) bool {
		for _, n := range m.Snapshot().Nodes {
			if n.Name == name {
				return !n.Healthy
			}
		}
		return false
	}
	eventually(t, "consul calls a critical", func() bool { return critical("a") })
	eventually(t, "a drains", func() bool { return standings(m) == "a=draining b=fit" })
}

// TestRealConsulBurst: 500 nodes come and 499 go, in one burst; few queries see it
// through.
func TestRealConsulBurst(t *testing.T) {
	c := startRealConsul(t)
	s, err := health.NewConsul(health.ConsulOptions{Agent: health.ConsulAgent{Address: c.Addr}, Service: "chat", Rate: 4, Burst: 8})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	var last []string
	var running sync.WaitGroup
	running.Go(func() {
		s.Run(ctx, func(list []health.Endpoint) {
			mu.Lock()
			defer mu.Unlock()
			last = last[:0]
			for _, e := range list {
				last = append(last, e.Name)
			}
		})
	})
	defer running.Wait()
	defer cancel()

	start := time.Now()
	for i := range 500 {
		if err := c.client.Agent().ServiceRegister(&api.AgentServiceRegistration{ID: fmt.Sprint("n", i), Name: "chat", Address: "127.0.0.1", Port: 1 + i}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 500 {
		if i == 250 {
			continue
		}
		if err := c.client.Agent().ServiceDeregister(fmt.Sprint("n", i)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "n250 alone is left", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(last) == 1 && last[0] == "n250"
	})
	took := time.Since(start)
	if n, most := s.Status().Queries, uint64(8+4*took.Seconds()+1); n > most {
		t.Errorf("%d queries in %v, want at most %d", n, took, most)
	}
}
