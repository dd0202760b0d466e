package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/prometheus/client_golang/prometheus"

	"imlb/balancer"
	"imlb/configs"
	"imlb/health"
	"imlb/proxy"
)

// fakeNode answers agent checks, and takes connections.
type fakeNode struct {
	name        string
	addr, admin string
	sessions    atomic.Int64 // that it says it has
}

func startNode(t *testing.T, name string) *fakeNode {
	t.Helper()
	var lc net.ListenConfig
	ln, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &fakeNode{name: name, addr: ln.Addr().String()}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"node":%q,"ready":true,"sessions":%d}`, name, n.sessions.Load())
	}))
	n.admin = server.Listener.Addr().String()
	t.Cleanup(func() {
		server.Close()
		ln.Close()
	})
	return n
}

// poolOf is a document with a pool of the nodes, and more keys of the pool.
func poolOf(t *testing.T, placement, more string, nodes ...*fakeNode) configs.Proxy {
	t.Helper()
	var list []string
	for _, n := range nodes {
		list = append(list, fmt.Sprintf("{name: %s, address: %q, admin: %q}", n.name, n.addr, n.admin))
	}
	return document(t, fmt.Sprintf(`
domains: [a.example]
listeners: [{protocol: xmpp, address: ":5222"}]
tls: {certificates: [{cert_file: a, key_file: b}]}
placement: {%s}
pools: {chat: {nodes: [%s], checks: [{type: agent}], check: {interval: 20ms, timeout: 2s}, %s}}
`, placement, strings.Join(list, ", "), more))
}

// startPool runs a pool until the test ends, and waits until it is ready.
func startPool(t *testing.T, doc configs.Proxy) *pool {
	t.Helper()
	p, err := newPool("chat", doc, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	eventually(t, "the pool is ready", func() bool { return p.ready() == nil })
	return p
}

// eventually waits until something holds, and fails the test when it does not.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-deadline.C:
			t.Fatalf("it does not come about that %s", what)
		case <-tick.C:
		}
	}
}

func (p *pool) nodeNow(name string) nodeStatus {
	for _, n := range p.status(time.Now()).Nodes {
		if n.Name == name {
			return n
		}
	}
	return nodeStatus{}
}

func pick(t *testing.T, p *pool, user string) proxy.Choice {
	t.Helper()
	choice, err := p.Pick(t.Context(), user, nil)
	if err != nil {
		t.Fatal(err)
	}
	return choice
}

// fakeConsul is an agent that knows one instance, and that it is a backup. It answers
// nothing further.
func fakeConsul(t *testing.T, n *fakeNode) *httptest.Server {
	t.Helper()
	addr := netip.MustParseAddrPort(n.addr)
	answer, err := json.Marshal([]api.ServiceEntry{{
		Node: &api.Node{Node: "host", Address: addr.Addr().String()},
		Service: &api.AgentService{
			ID: "chat-1", Service: "chat", Address: addr.Addr().String(), Port: int(addr.Port()),
			Meta: map[string]string{"name": n.name, "admin": n.admin, "backup": "true"}, Weights: api.AgentWeights{Passing: 1, Warning: 1},
		},
		Checks: api.HealthChecks{{Status: api.HealthPassing}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("index") == "7" { // nothing changes until the client goes
			<-r.Context().Done()
			return
		}
		w.Header().Set("X-Consul-Index", "7")
		w.Write(answer)
	}))
}

// A pool changes from a list to Consul while it serves, and one that is made while
// Consul is down starts from what that one knew.
func TestPoolInConsul(t *testing.T) {
	n := startNode(t, "a")
	consul := fakeConsul(t, n)
	doc := poolOf(t, "", "", n)
	doc.CacheDir = t.TempDir()
	doc.Consul = &configs.Consul{Address: strings.TrimPrefix(consul.URL, "http://")}
	c := doc.Pools["chat"]
	c.Nodes, c.Consul = nil, &configs.PoolConsul{Service: "chat", Hold: time.Minute}
	doc.Pools["chat"] = c
	t.Run("changed while it serves", func(t *testing.T) {
		p := startPool(t, poolOf(t, "", "", n))
		if err := p.configure(doc); err != nil {
			t.Fatal(err)
		}
		eventually(t, "Consul's word counts", func() bool {
			choice := pick(t, p, "romeo@a.example")
			choice.Release()
			return p.nodeNow("a").Backup
		})
		eventually(t, "it is kept", func() bool {
			_, err := os.Stat(filepath.Join(doc.CacheDir, "pool-chat.json"))
			return err == nil
		})
	})
	consul.Close()
	t.Run("started while Consul is down", func(t *testing.T) {
		p := startPool(t, doc)
		choice := pick(t, p, "romeo@a.example")
		choice.Release()
		eventually(t, "it says so", func() bool {
			st := p.status(time.Now())
			return st.Cached && st.SourceError != "" && st.Fit == 1
		})
	})
}

// A node of a list is drained in the document: who is there stays and is joined, and nobody comes.
func TestPoolDrainsByItsDocument(t *testing.T) {
	a, b := startNode(t, "a"), startNode(t, "b")
	p := startPool(t, poolOf(t, "", "", a))
	held := pick(t, p, "romeo@a.example")
	defer held.Release()
	doc := poolOf(t, "", "", a, b)
	doc.Pools["chat"].Nodes[0].Drain = true
	if err := p.configure(doc); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a drains and b is there", func() bool {
		return p.nodeNow("a").Verdict == balancer.Draining.String() && p.nodeNow("b").Verdict == balancer.Takes.String()
	})
	for i := range 20 {
		choice := pick(t, p, fmt.Sprintf("user%d@a.example", i))
		if choice.Node.Name != "b" {
			t.Errorf("a new user comes to %s", choice.Node.Name)
		}
		choice.Release()
	}
	joined := pick(t, p, "romeo@a.example")
	defer joined.Release()
	if joined.Node.Name != "a" {
		t.Errorf("who is there is not joined: on %s", joined.Node.Name)
	}
}

// A running pool gets another node, other rules and another policy. It serves all the
// while, and sessions stay where they are.
func TestPoolIsConfiguredAnew(t *testing.T) {
	a, b := startNode(t, "a"), startNode(t, "b")
	p := startPool(t, poolOf(t, "", "", a))
	held := pick(t, p, "romeo@a.example")
	defer held.Release()
	if err := p.configure(poolOf(t, "policy: round-robin, park: 0s", "slow_start: 1s, dial_attempts: 2", a, b)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "b is fit too", func() bool {
		if err := p.ready(); err != nil {
			t.Fatalf("meanwhile: %v", err)
		}
		choice := pick(t, p, "juliet@a.example")
		choice.Release()
		return p.status(time.Now()).Fit == 2
	})
	st := p.status(time.Now())
	if st.Policy != "round-robin" || p.configured().park != 0 {
		t.Errorf("the policy is %s and a login waits %v", st.Policy, p.configured().park)
	}
	if n := p.nodeNow("a"); n.Sessions != 1 || n.Ramp != 1 {
		t.Errorf("a is %+v, want its session and its whole share", n)
	}
	if err := p.configure(poolOf(t, "", "", b)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a is gone", func() bool { return p.nodeNow("a").Name == "" && p.ready() == nil })
	if sessions := p.balancer.Snapshot().Sessions; sessions != 1 {
		t.Errorf("%d sessions are counted, want the one that still lives", sessions)
	}
}

func TestPoolKeepsItsOptionsAfterAnError(t *testing.T) {
	a := startNode(t, "a")
	p := startPool(t, poolOf(t, "", "", a))
	bad := poolOf(t, "policy: ring", "", a)
	c := bad.Pools["chat"]
	c.Checks = []configs.Check{{Type: configs.CheckTLS, CAFile: "/nowhere/ca.pem"}}
	bad.Pools["chat"] = c
	if err := p.configure(bad); err == nil || !strings.Contains(err.Error(), "pool chat: check 1 (tls): ") {
		t.Errorf("got %v", err)
	}
	if st := p.status(time.Now()); st.Policy != "table" || p.ready() != nil {
		t.Errorf("the policy is %s now, and ready says %v", st.Policy, p.ready())
	}
}

func TestOverridesOfAPool(t *testing.T) {
	a, b := startNode(t, "a"), startNode(t, "b")
	p := startPool(t, poolOf(t, "", "", a, b))
	eventually(t, "both are fit", func() bool { return p.status(time.Now()).Fit == 2 })
	p.setOverrides(map[string]configs.Override{
		"a": {Drain: true, Comment: "new disk"},
		"b": {Weight: 7},
	})
	eventually(t, "a drains", func() bool { return p.nodeNow("a").Verdict == "draining" && p.nodeNow("b").Weight == 7 })
	if n := p.nodeNow("a"); n.Standing != "draining" || !strings.Contains(n.Cause, "new disk") {
		t.Errorf("a is %+v", n)
	}
	p.setOverrides(map[string]configs.Override{"a": {Disabled: true}})
	eventually(t, "a is out", func() bool { return p.nodeNow("a").Verdict == "down" && p.nodeNow("b").Weight == 1 })
	p.setOverrides(nil)
	eventually(t, "a is back", func() bool { return p.nodeNow("a").Verdict == "takes" })
}

// What nodes say they carry, less what this front has placed there, is other fronts'.
func TestPoolCountsSessionsOfOtherFronts(t *testing.T) {
	a := startNode(t, "a")
	p := startPool(t, poolOf(t, "", "", a))
	held := pick(t, p, "romeo@a.example")
	defer held.Release()
	a.sessions.Store(8)
	eventually(t, "seven are others'", func() bool { return p.nodeNow("a").Elsewhere == 7 })
	a.sessions.Store(1)
	eventually(t, "none is", func() bool { return p.nodeNow("a").Elsewhere == 0 })
}

// parkPool is a pool that nobody runs: the test says what its nodes are.
func parkPool(t *testing.T, placement string) *pool {
	t.Helper()
	p, err := newPool("chat", poolOf(t, placement, "", &fakeNode{name: "a", addr: "127.0.0.1:1", admin: "127.0.0.1:2"}), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// oneNode is a pool's only node, with room for a session.
func oneNode(standing health.Standing) health.Snapshot {
	return health.Snapshot{Known: true, Nodes: []health.Node{{
		Endpoint: health.Endpoint{Name: "a", Addr: "127.0.0.1:1", Weight: 1, Capacity: 1}, Standing: standing, Ramp: 1,
	}}}
}

func TestLoginWaitsForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := parkPool(t, "park: 5s")
		placed := make(chan proxy.Choice)
		wait := func(user string) {
			choice, err := p.Pick(t.Context(), user, nil)
			if err != nil {
				t.Error(err)
			}
			placed <- choice
		}
		go wait("romeo@a.example")
		synctest.Wait()
		if waiting := p.status(time.Now()).Waiting; waiting != 1 {
			t.Fatalf("%d wait for the first node, want 1", waiting)
		}
		p.update(oneNode(health.Fit))
		romeo := <-placed
		if romeo.Node.Addr != "127.0.0.1:1" {
			t.Errorf("placed at %q", romeo.Node.Addr)
		}
		go wait("juliet@a.example")
		synctest.Wait()
		romeo.Release()
		juliet := <-placed
		juliet.Release()
	})
}

func TestLoginWaitsNoLongerThanItMay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for placement, wait := range map[string]time.Duration{"park: 5s": 5 * time.Second, "park: 0s": 0} {
			p := parkPool(t, placement)
			p.update(oneNode(health.Fit))
			held := pick(t, p, "romeo@a.example")
			start := time.Now()
			_, err := p.Pick(t.Context(), "juliet@a.example", nil)
			refusal, ok := errors.AsType[*balancer.Refusal](err)
			if !ok || !errors.Is(err, proxy.ErrNoNode) || refusal.Lack != balancer.AllFull {
				t.Errorf("%s: got %v", placement, err)
			}
			if took := time.Since(start); took != wait {
				t.Errorf("%s: it waited %v, want %v", placement, took, wait)
			}
			held.Release()
		}
	})
}

// Only what placement knows counts as ready.
// What clients can bring about takes no node out, and what they cannot does.
func TestWhatTakesNodesOut(t *testing.T) {
	p := startPool(t, poolOf(t, "", "outlier: {consecutive: 5}, damping: {enabled: false}", startNode(t, "node-1"), startNode(t, "node-2")))
	choice := pick(t, p, "u1@a.example")
	defer choice.Release()
	name := choice.Node.Name
	before := p.nodeNow(name).Transitions
	for range 100 {
		choice.Report(proxy.OutcomeLost)
		choice.Report(proxy.OutcomeDeclined)
	}
	if n := p.nodeNow(name); n.Standing != "fit" || n.Transitions != before {
		t.Errorf("after sessions that were lost and declined it is %+v", n)
	}
	for range 5 {
		choice.Report(proxy.OutcomeRefused)
	}
	if n := p.nodeNow(name); n.Transitions == before { // by now its checks may have brought it back
		t.Errorf("after sessions that it refused it is %+v", n)
	}
}

func TestPoolIsReadyWhenPlacementIs(t *testing.T) {
	p := parkPool(t, "park: 0s")
	for _, step := range []struct {
		snapshot health.Snapshot
		want     string
	}{
		{health.Snapshot{}, "its nodes are not known yet"},
		{oneNode(health.Unchecked), "none of its 1 nodes is fit"},
		{oneNode(health.Draining), "none of its 1 nodes is fit"},
		{oneNode(health.Fit), "<nil>"},
		{health.Snapshot{Known: true}, "none of its 0 nodes is fit"},
	} {
		p.update(step.snapshot)
		if got := fmt.Sprint(p.ready()); got != step.want {
			t.Errorf("with %+v it says %q, want %q", step.snapshot.Nodes, got, step.want)
		}
	}
}

func TestMembersOfPlacement(t *testing.T) {
	for standing, want := range map[health.Standing]balancer.Member{
		health.Fit:       {},
		health.Draining:  {Draining: true},
		health.Unfit:     {Down: true},
		health.Unchecked: {Down: true},
	} {
		want.Name, want.Weight, want.Ramp, want.Zone, want.Backup, want.Limit = "a", 2, 0.3, "west", true, 9
		got := member(health.Node{
			Endpoint: health.Endpoint{Name: "a", Weight: 2, Zone: "west", Capacity: 9, Meta: map[string]string{"backup": "true"}},
			Standing: standing, Ramp: 0.3,
		})
		if got != want {
			t.Errorf("%v: got %+v, want %+v", standing, got, want)
		}
	}
}

func TestPoolExplains(t *testing.T) {
	a := startNode(t, "a")
	p := startPool(t, poolOf(t, "", "", a))
	held := pick(t, p, "romeo@a.example")
	defer held.Release()
	text, err := json.Marshal(p.explain("Romeo@A.example/balcony", true))
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf(`{"pool":"chat","user":"romeo@a.example","partition":%d,"policy":"table","pinned":"a","sessions":1,"node":"a","cause":"joined",`+
		`"candidates":[{"name":"a","verdict":"takes","standing":"fit"`, balancer.Partition("romeo@a.example"))
	if !strings.HasPrefix(string(text), want) {
		t.Errorf("got\n%s\nwant\n%s…", text, want)
	}
	p.setOverrides(map[string]configs.Override{"a": {Disabled: true}})
	eventually(t, "nothing is left", func() bool { return p.ready() != nil })
	if text, _ := json.Marshal(p.explain("juliet@a.example", true)); !strings.Contains(string(text), `"refusal":"none-up"`) {
		t.Errorf("got %s", text)
	}
}

func TestPoolMetrics(t *testing.T) {
	a := startNode(t, "a")
	p := startPool(t, poolOf(t, "park: 0s", "", a))
	held := pick(t, p, "romeo@a.example")
	defer held.Release()
	if _, err := p.Pick(t.Context(), "juliet@a.example", []string{"a"}); err == nil {
		t.Error("a was tried, but is picked")
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(poolCollector(func() []*pool { return []*pool{p} }))
	values := gather(t, registry)
	for name, want := range map[string]float64{
		"imlb_pool_nodes{pool=chat,standing=fit}":              1,
		"imlb_pool_nodes{pool=chat,standing=unfit}":            0,
		"imlb_pool_nodes_kept_out{pool=chat,why=damped}":       0,
		"imlb_pool_sessions{node=a,pool=chat}":                 1,
		"imlb_pool_partitions{node=a,pool=chat}":               balancer.Partitions,
		"imlb_pool_users{pool=chat}":                           1,
		"imlb_pool_waiting{pool=chat}":                         0,
		"imlb_pool_panic{pool=chat}":                           0,
		"imlb_pool_staleness_seconds{pool=chat}":               0,
		"imlb_pool_source_queries_total{pool=chat}":            0,
		"imlb_pool_picks_total{cause=owned,pool=chat}":         1,
		"imlb_pool_refusals_total{pool=chat,reason=none-left}": 1,
		"imlb_pool_refusals_total{pool=chat,reason=all-full}":  0,
		"imlb_pool_ejections_total{pool=chat}":                 0,
	} {
		if got, ok := values[name]; !ok || got != want {
			t.Errorf("%s is %v (%v), want %v", name, got, ok, want)
		}
	}
	if values["imlb_pool_checks_total{pool=chat}"] == 0 || values["imlb_pool_transitions_total{pool=chat}"] == 0 {
		t.Errorf("nothing was checked: %v", values)
	}
}

// gather returns all gauges and counters as they are written in a query.
func gather(t *testing.T, registry *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			values[f.GetName()+"{"+strings.Join(labels, ",")+"}"] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return values
}
