package health_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"imlb/health"

	"github.com/hashicorp/consul/api"
	"go.uber.org/goleak"
)

// patience is how long a test waits for what should come at once.
const patience = 30 * time.Second

// fakeConsul is an agent: the parts of its HTTP API that this package uses.
type fakeConsul struct {
	*httptest.Server

	mu       sync.Mutex
	changed  chan struct{} // closed at every change
	index    uint64
	entries  []*api.ServiceEntry
	down     bool
	hides    bool     // the ACL token may see nothing
	tokens   []string // of all requests
	asked    []string // index parameters of the queries that came in
	services map[string]api.AgentServiceRegistration
}

func newConsul(t *testing.T) *fakeConsul {
	t.Helper()
	c := &fakeConsul{changed: make(chan struct{}), index: 10, services: make(map[string]api.AgentServiceRegistration)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/health/service/{name}", c.health)
	mux.HandleFunc("PUT /v1/agent/service/register", c.register)
	mux.HandleFunc("PUT /v1/agent/service/deregister/{id}", c.deregister)
	mux.HandleFunc("GET /v1/agent/service/{id}", c.service)
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.set(func() { c.tokens = append(c.tokens, r.Header.Get("X-Consul-Token")) })
		if c.isDown() {
			http.Error(w, "No known Consul servers", http.StatusInternalServerError)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(c.Close)
	return c
}

func (c *fakeConsul) isDown() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.down
}

// set changes what the agent has; waiting queries see it.
func (c *fakeConsul) set(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *fakeConsul) health(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	c.mu.Lock()
	c.asked = append(c.asked, query.Get("index"))
	c.mu.Unlock()
	index, _ := strconv.ParseUint(query.Get("index"), 10, 64)
	wait, _ := time.ParseDuration(query.Get("wait"))
	deadline := time.After(wait)
	for index > 0 {
		c.mu.Lock()
		changed, now := c.changed, c.index
		c.mu.Unlock()
		if now != index {
			break
		}
		select {
		case <-changed:
		case <-deadline:
			index = 0
		case <-r.Context().Done():
			return
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	w.Header().Set("X-Consul-Index", strconv.FormatUint(c.index, 10))
	w.Header().Set("X-Consul-LastContact", "25")
	w.Header().Set("X-Consul-KnownLeader", "true")
	if c.hides {
		if query.Get("index") == "" { // what is streamed has no such word
			w.Header().Set("X-Consul-Results-Filtered-By-ACLs", "true")
		}
		json.NewEncoder(w).Encode([]*api.ServiceEntry{})
		return
	}
	json.NewEncoder(w).Encode(c.entries)
}

func (c *fakeConsul) register(w http.ResponseWriter, r *http.Request) {
	var s api.AgentServiceRegistration
	if err := json.NewDecoder(r.Body).Decode(&s); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	c.set(func() { c.services[s.ID] = s })
}

func (c *fakeConsul) deregister(_ http.ResponseWriter, r *http.Request) {
	c.set(func() { delete(c.services, r.PathValue("id")) })
}

func (c *fakeConsul) service(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	s, ok := c.services[r.PathValue("id")]
	c.mu.Unlock()
	if !ok {
		http.Error(w, "unknown service ID", http.StatusNotFound)
		return
	}
	json.NewEncoder(w).Encode(api.AgentService{ID: s.ID, Service: s.Name})
}

// until waits until what the agent has fulfils a condition.
func (c *fakeConsul) until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(patience)
	for {
		c.mu.Lock()
		ok, changed := holds(), c.changed
		c.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("never: %s", what)
		}
	}
}

// wantAsked fails unless queries came in with these indexes first.
func (c *fakeConsul) wantAsked(t *testing.T, want ...string) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if got := c.asked[:min(len(want), len(c.asked))]; !slices.Equal(got, want) {
		t.Errorf("it asked with indexes %q, want %q", got, want)
	}
}

// instance is an entry as Consul lists it.
func instance(name, status string, meta ...string) *api.ServiceEntry {
	e := &api.ServiceEntry{
		Node:    &api.Node{Node: "host", Address: "10.0.0.9"},
		Service: &api.AgentService{ID: name, Service: "chat", Address: "10.0.0.1", Port: 5222, Meta: map[string]string{}},
		Checks:  api.HealthChecks{{CheckID: "c", Status: status}},
	}
	for _, m := range meta {
		key, value, _ := strings.Cut(m, "=")
		e.Service.Meta[key] = value
	}
	return e
}

// source runs a Consul source against the agent and returns what it publishes.
func source(t *testing.T, agent *fakeConsul, o health.ConsulOptions) (*health.Consul, <-chan []health.Endpoint) {
	t.Helper()
	o.Agent.Address = agent.URL
	o.Service = "chat"
	o.MaxBackoff = 50 * time.Millisecond
	o.Rate, o.Burst = 1000, 1000
	s, err := health.NewConsul(o)
	if err != nil {
		t.Fatal(err)
	}
	published := make(chan []health.Endpoint, 100)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Run(ctx, func(e []health.Endpoint) { published <- e }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return s, published
}

// next returns what is published next, as text.
func next(t *testing.T, published <-chan []health.Endpoint) string {
	t.Helper()
	select {
	case list := <-published:
		var names []string
		for _, e := range list {
			name := e.Name
			if !e.Healthy {
				name = strings.ToUpper(name)
			}
			names = append(names, name)
		}
		return strings.Join(names, " ")
	case <-time.After(patience):
		t.Fatal("nothing is published")
		return ""
	}
}

func wantNext(t *testing.T, published <-chan []health.Endpoint, want string) {
	t.Helper()
	if got := next(t, published); got != want {
		t.Fatalf("%q is published, want %q", got, want)
	}
}

func TestConsulFollowsTheService(t *testing.T) {
	agent := newConsul(t)
	agent.entries = []*api.ServiceEntry{instance("b", "passing"), instance("a", "warning")}
	s, published := source(t, agent, health.ConsulOptions{})
	wantNext(t, published, "a b")
	agent.set(func() { agent.index, agent.entries = 11, append(agent.entries, instance("c", "critical")) })
	wantNext(t, published, "a b C")
	agent.set(func() { agent.index, agent.entries = 12, agent.entries[:1] })
	wantNext(t, published, "b")
	if status := s.Status(); status.Failing != nil || status.Lag != 25*time.Millisecond || status.Answered.IsZero() {
		t.Errorf("status: %+v", status)
	}
	agent.wantAsked(t, "", "10", "11")
}

// That a node has one session more is no news of the service.
func TestConsulPassesOverSessions(t *testing.T) {
	agent := newConsul(t)
	agent.entries = []*api.ServiceEntry{instance("a", "passing", "sessions=1", "version=7")}
	_, published := source(t, agent, health.ConsulOptions{})
	if list := <-published; len(list) != 1 || len(list[0].Meta) != 1 || list[0].Meta["version"] != "7" {
		t.Errorf("published: %+v", list)
	}
	agent.set(func() {
		agent.index, agent.entries = 11, []*api.ServiceEntry{instance("a", "passing", "sessions=2", "version=7")}
	})
	agent.set(func() { agent.index, agent.entries = 12, append(agent.entries, instance("b", "passing")) })
	wantNext(t, published, "a b")
}

func TestConsulReadsInstances(t *testing.T) {
	agent := newConsul(t)
	elsewhere := instance("id-1", "passing")
	elsewhere.Service.Address = ""
	elsewhere.Service.Weights.Passing = 3
	agent.entries = []*api.ServiceEntry{
		instance("id-2", "passing", "name=node-2", "admin=10.0.0.1:8080", "weight=2.5", "zone=z1", "capacity=100", "drain=true"),
		elsewhere,
		instance("id-3", "passing", "weight=much"),
		instance("x", "critical", "name=twice"),
		instance("y", "passing", "name=twice"),
		instance("z", "passing", "weight=0"),
		instance("id-4", "passing", "weight=NaN"), // which no JSON can say
		instance("id-5", "passing", "weight=-inf"),
	}
	agent.entries[2].Checks = append(agent.entries[2].Checks, &api.HealthCheck{CheckID: api.ServiceMaintPrefix + "id-3", Status: "critical"})
	_, published := source(t, agent, health.ConsulOptions{})
	got := map[string]string{}
	for _, e := range <-published {
		e.Meta = nil
		got[e.Name] = fmt.Sprintf("%+v", e)
	}
	for name, want := range map[string]string{
		"node-2": "{Name:node-2 Addr:10.0.0.1:5222 Admin:10.0.0.1:8080 Weight:2.5 Zone:z1 Capacity:100 Draining:true Healthy:true Meta:map[]}",
		"id-1":   "{Name:id-1 Addr:10.0.0.9:5222 Admin: Weight:3 Zone: Capacity:0 Draining:false Healthy:true Meta:map[]}",
		"id-3":   "{Name:id-3 Addr:10.0.0.1:5222 Admin: Weight:1 Zone: Capacity:0 Draining:true Healthy:true Meta:map[]}",
		"twice":  "{Name:twice Addr:10.0.0.1:5222 Admin: Weight:1 Zone: Capacity:0 Draining:false Healthy:true Meta:map[]}",
		"id-4":   "{Name:id-4 Addr:10.0.0.1:5222 Admin: Weight:1 Zone: Capacity:0 Draining:false Healthy:true Meta:map[]}",
		"id-5":   "{Name:id-5 Addr:10.0.0.1:5222 Admin: Weight:1 Zone: Capacity:0 Draining:false Healthy:true Meta:map[]}",
		"z":      "{Name:z Addr:10.0.0.1:5222 Admin: Weight:0 Zone: Capacity:0 Draining:false Healthy:true Meta:map[]}",
	} {
		if got[name] != want {
			t.Errorf("%s is read as\n%s, want\n%s", name, got[name], want)
		}
	}
}

func TestConsulLossEmptiesNothing(t *testing.T) {
	agent := newConsul(t)
	agent.entries = []*api.ServiceEntry{instance("a", "passing"), instance("b", "passing")}
	s, published := source(t, agent, health.ConsulOptions{})
	wantNext(t, published, "a b")
	agent.set(func() { agent.down, agent.index = true, 11 })
	for s.Status().Failures < 3 {
		select {
		case list := <-published:
			t.Fatalf("%v is published while Consul is away", list)
		case <-time.After(time.Millisecond):
		}
	}
	if status := s.Status(); status.Failing == nil || status.Staleness(status.Answered.Add(time.Hour)) < time.Hour {
		t.Errorf("status: %+v", status)
	}
	// It comes back with its index gone backwards and nodes still missing: nothing
	// to tell until one is really new.
	agent.set(func() { agent.down, agent.index, agent.entries = false, 2, nil })
	agent.set(func() { agent.index, agent.entries = 3, []*api.ServiceEntry{instance("a", "critical")} })
	agent.set(func() {
		agent.index, agent.entries = 4, []*api.ServiceEntry{instance("a", "passing"), instance("c", "passing")}
	})
	wantNext(t, published, "a b c")
	agent.set(func() { agent.index, agent.entries = 5, []*api.ServiceEntry{instance("a", "passing")} })
	wantNext(t, published, "a b")
}

// An agent that may not tell what there is has not said that there is nothing.
func TestConsulThatHidesNodesTakesNoneAway(t *testing.T) {
	agent := newConsul(t)
	agent.entries = []*api.ServiceEntry{instance("a", "passing")}
	s, published := source(t, agent, health.ConsulOptions{Hold: time.Millisecond})
	wantNext(t, published, "a")
	agent.set(func() { agent.index, agent.hides = 11, true })
	for s.Status().Failures < 3 {
		select {
		case list := <-published:
			t.Fatalf("%v is published", list)
		case <-time.After(time.Millisecond):
		}
	}
	if err := s.Status().Failing; err == nil || !strings.Contains(err.Error(), "ACL token") {
		t.Errorf("it fails for %v", err)
	}
	agent.set(func() {
		agent.index, agent.hides, agent.entries = 12, false, append(agent.entries, instance("b", "passing"))
	})
	wantNext(t, published, "a b")
}

// A token that is replaced in its file counts from the next question on.
func TestConsulTokenIsReadAnew(t *testing.T) {
	agent := newConsul(t)
	agent.entries = []*api.ServiceEntry{instance("a", "passing")}
	file := filepath.Join(t.TempDir(), "token")
	write := func(token string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("first")
	_, published := source(t, agent, health.ConsulOptions{Agent: health.ConsulAgent{TokenFile: file}})
	wantNext(t, published, "a")
	agent.until(t, "the first token", func() bool { return slices.Contains(agent.tokens, "first") })
	write("second")
	agent.set(func() { agent.index = 11 })
	agent.until(t, "the second token", func() bool { return slices.Contains(agent.tokens, "second") })
}

func TestConsulHoldsMissingNodesForATime(t *testing.T) {
	agent := newConsul(t)
	agent.entries = []*api.ServiceEntry{instance("a", "passing")}
	_, published := source(t, agent, health.ConsulOptions{Hold: 50 * time.Millisecond})
	wantNext(t, published, "a")
	agent.set(func() { agent.index, agent.entries = 11, nil })
	wantNext(t, published, "")
}

func TestConsulStartsAgainWhenTheIndexGoesBackwards(t *testing.T) {
	agent := newConsul(t)
	agent.entries = []*api.ServiceEntry{instance("a", "passing"), instance("b", "passing")}
	_, published := source(t, agent, health.ConsulOptions{})
	wantNext(t, published, "a b")
	agent.set(func() {
		agent.index, agent.entries = 3, []*api.ServiceEntry{instance("b", "passing"), instance("c", "passing")}
	})
	wantNext(t, published, "a b c") // a may yet register again
	agent.set(func() { agent.index, agent.entries = 4, []*api.ServiceEntry{instance("c", "passing")} })
	wantNext(t, published, "a c")
	agent.wantAsked(t, "", "10", "")
}

func TestConsulNeverAsksBelowOne(t *testing.T) {
	agent := newConsul(t)
	agent.index = 0
	agent.entries = []*api.ServiceEntry{instance("a", "passing")}
	_, published := source(t, agent, health.ConsulOptions{Wait: 10 * time.Millisecond})
	wantNext(t, published, "a")
	agent.set(func() { agent.entries = append(agent.entries, instance("b", "passing")) })
	wantNext(t, published, "a b")
	agent.wantAsked(t, "", "1")
}

func TestConsulBoundsItsQueries(t *testing.T) {
	agent := newConsul(t)
	s, err := health.NewConsul(health.ConsulOptions{
		Agent: health.ConsulAgent{Address: agent.URL}, Service: "chat", Rate: 20, Burst: 2,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	last := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		s.Run(ctx, func(list []health.Endpoint) {
			if len(list) == 500 {
				close(last)
			}
		})
	})
	start := time.Now()
	for i := range 500 {
		agent.set(func() {
			agent.index++
			agent.entries = append(agent.entries, instance(fmt.Sprint("node-", i), "passing"))
		})
	}
	<-last
	most := 3 + int(time.Since(start).Seconds()*20)
	cancel()
	running.Wait()
	if agent.mu.Lock(); len(agent.asked) > most+1 {
		t.Errorf("%d queries for 500 registrations, want at most %d", len(agent.asked), most+1)
	}
	agent.mu.Unlock()
}

func TestConsulNeedsAService(t *testing.T) {
	if _, err := health.NewConsul(health.ConsulOptions{}); err == nil {
		t.Error("a source without a service was made")
	}
}

func TestRegistration(t *testing.T) {
	agent := newConsul(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	var failing atomic.Bool
	go func() {
		done <- health.Register(ctx, health.ConsulAgent{Address: agent.URL}, health.Registration{
			Service: "chat", Name: "node-1", Addr: "127.0.0.1:5222", Admin: "127.0.0.1:8080", Zone: "z", Capacity: 9,
			CheckInterval: time.Second, Verify: 5 * time.Millisecond, Meta: map[string]string{"version": "7"},
			Failing: func(err error) { failing.Store(err != nil) },
		}, slog.New(slog.DiscardHandler))
	}()
	registered := func() bool { return agent.services["chat-node-1"].Name == "chat" }
	agent.until(t, "it registers", registered)
	agent.mu.Lock()
	got := agent.services["chat-node-1"]
	agent.mu.Unlock()
	meta := map[string]string{"name": "node-1", "admin": "127.0.0.1:8080", "weight": "1", "zone": "z", "capacity": "9", "version": "7"}
	if fmt.Sprint(got.Meta) != fmt.Sprint(meta) || got.Address != "127.0.0.1" || got.Port != 5222 {
		t.Errorf("registered: %+v", got)
	}
	if got.Check.HTTP != "http://127.0.0.1:8080/readyz" || got.Check.Interval != "1s" || got.Check.DeregisterCriticalServiceAfter != "30m0s" {
		t.Errorf("check: %+v", got.Check)
	}

	agent.set(func() { clear(agent.services) })
	agent.until(t, "it registers after the agent lost it", registered)
	agent.set(func() { agent.down = true; clear(agent.services) })
	agent.until(t, "it says that it is not registered", failing.Load) // each request wakes it
	agent.set(func() { agent.down = false })
	agent.until(t, "it registers after the agent was away", registered)
	agent.until(t, "it says so", func() bool { return !failing.Load() })

	cancel()
	if err := <-done; err != nil {
		t.Errorf("register: %v", err)
	}
	if len(agent.services) != 0 {
		t.Errorf("left registered: %v", agent.services)
	}
}

// What a node says of itself is in its meta: that it drains at once, how many sessions
// it has every now and then.
func TestRegistrationFollowsTheNode(t *testing.T) {
	agent := newConsul(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error)
	var sessions atomic.Int64
	var draining atomic.Bool
	register := func(every time.Duration) {
		done <- health.Register(ctx, health.ConsulAgent{Address: agent.URL}, health.Registration{
			Service: "chat", Name: "node-1", Addr: "127.0.0.1:5222", Admin: "127.0.0.1:8080",
			Verify: 5 * time.Millisecond, SessionsEvery: every,
			Load: func() health.Load {
				return health.Load{Sessions: int(sessions.Load()), Draining: draining.Load()}
			},
		}, slog.New(slog.DiscardHandler))
	}
	says := func(sessions, drain string) func() bool {
		return func() bool {
			meta := agent.services["chat-node-1"].Meta
			return meta["sessions"] == sessions && meta["drain"] == drain && meta["name"] == "node-1"
		}
	}
	sessions.Store(3)
	go register(20 * time.Millisecond)
	agent.until(t, "it registers its state", says("3", "false"))
	sessions.Store(4)
	agent.until(t, "it registers its sessions", says("4", "false"))
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	go register(time.Hour)
	agent.until(t, "it registers again", says("4", "false"))
	sessions.Store(5) // can wait, but does not have to wait longer than the drain
	draining.Store(true)
	agent.until(t, "it registers that it drains", says("5", "true"))
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestRegistrationRefusesWrongSettings(t *testing.T) {
	for _, r := range []health.Registration{
		{}, {Service: "chat"}, {Service: "chat", Name: "a", Addr: "nowhere"}, {Service: "chat", Name: "a", Addr: "host:xmpp"},
	} {
		if err := health.Register(t.Context(), health.ConsulAgent{}, r, slog.New(slog.DiscardHandler)); err == nil {
			t.Errorf("%+v was registered", r)
		}
	}
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestConsulOverTLS: the agent's certificate is verified by the name that is given.
func TestConsulOverTLS(t *testing.T) {
	for name, want := range map[string]string{"": "", "example.com": "", "example.org": "not example.org"} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("X-Consul-Index", "1")
				json.NewEncoder(w).Encode([]*api.ServiceEntry{instance("a", "passing")})
			}))
			server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
			server.StartTLS()
			t.Cleanup(server.Close)
			ca := filepath.Join(t.TempDir(), "ca.pem")
			block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
			if err := os.WriteFile(ca, block, 0o600); err != nil {
				t.Fatal(err)
			}
			s, err := health.NewConsul(health.ConsulOptions{
				Agent: health.ConsulAgent{Address: server.URL, CAFile: ca, ServerName: name}, Service: "chat", Rate: 20,
			})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			var running sync.WaitGroup
			running.Go(func() { s.Run(ctx, func([]health.Endpoint) {}) })
			defer running.Wait()
			defer cancel()
			eventually(t, "a query ends", func() bool { return s.Status().Queries > 0 })
			wantError(t, s.Status().Failing, want)
		})
	}
}
