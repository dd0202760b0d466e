package test

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestControlConsul: what happens to Consul does not happen to sessions.
func TestControlConsul(t *testing.T) {
	t.Parallel()
	c := startConsul(t)
	d := startDev(t, devOptions{users: 12, args: []string{"--consul", c.addr}})
	c.awaitPassing(d.service(), d.living())
	f := newFront(t, d)
	c.push(d.dir, f.text(frontDocument{pools: []string{d.found()}}))
	cache := filepath.Join(t.TempDir(), "cache")
	f.start("--consul", c.addr, "--cluster", devCluster, "--cache", cache)
	awaitStandings(t, f.admin(), d.allFit())

	steps := []struct {
		name string
		run  func(*testing.T, *consulAgent, *dev, *front)
	}{
		{"Burst", testBurst},
		{"AgentRestart", testAgentRestart},
		{"ColdStart", testColdStart},
	}
	for _, s := range steps { // one after another: they share the agent
		if !t.Run(s.name, func(t *testing.T) { s.run(t, c, d, f) }) {
			return
		}
	}
}

// consulQueries passes requests on to the agent and counts those for a service.
func consulQueries(t *testing.T, c *consulAgent, service string) (addr string, count *atomic.Int64) {
	t.Helper()
	count = new(atomic.Int64)
	agent := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: c.addr})
	agent.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/health/service/"+service {
			count.Add(1)
		}
		agent.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String(), count
}

// testBurst: 500 instances come and go at once. The front asks Consul at its own
// pace, knows in the end who is left, and sessions notice nothing.
func testBurst(t *testing.T, c *consulAgent, d *dev, f *front) {
	const instances, left, at = 500, 3, 4 // at: instances that are there at a time
	agent, queries := consulQueries(t, c, d.service())
	g := newFront(t, d)
	g.start("--config", g.document(frontDocument{
		pools: []string{d.found()}, more: fmt.Sprintf("cluster: %s\nconsul: {address: %q}\n", devCluster, agent),
	}))
	awaitStandings(t, g.admin(), d.allFit())
	talk := converse(t, f, f.at(0), d.account(t), d.account(t))
	look := neverEmpty(t, g.admin())

	const told = "imlb_pool_source_queries_total"
	before, toldBefore, begin := queries.Load(), metric(t, g.admin(), told), time.Now()
	for i := range instances {
		c.register(d.service(), i)
		if i >= at {
			c.deregister(i - at)
		}
	}
	for i := instances - at; i < instances-left; i++ {
		c.deregister(i)
	}
	want := d.allFit()
	for i := instances - left; i < instances; i++ {
		want[ghost(i)] = "unfit"
	}
	for _, admin := range []string{f.admin(), g.admin()} {
		awaitStandings(t, admin, want)
	}
	// A token bucket of 8, and 4 more each second.
	took := time.Since(begin)
	n, most := float64(queries.Load()-before), 8+4*took.Seconds()+1
	t.Logf("%d instances came and %d went within %v: %v queries", instances, instances-left, took.Round(time.Millisecond), n)
	if n > most {
		t.Errorf("%v queries in %v, want at most %.0f", n, took, most)
	}
	// The one that waits for a change is not counted yet.
	if told := metric(t, g.admin(), told) - toldBefore; told < n-2 || told > n+2 {
		t.Errorf("the front tells of %v queries, the agent was asked %v times", told, n)
	}
	for i := instances - left; i < instances; i++ {
		c.deregister(i)
	}
	for _, admin := range []string{f.admin(), g.admin()} {
		awaitStandings(t, admin, d.allFit())
	}
	talk.goesOn(10)
	look.goesOn(1)
}

// ghost names an instance that nobody is behind.
func ghost(i int) string { return fmt.Sprint("ghost-", i) }

// register makes Consul list a ghost, which passes no check of its own.
func (c *consulAgent) register(service string, i int) {
	c.t.Helper()
	c.put("/v1/agent/service/register", fmt.Sprintf(
		`{"ID": %[1]q, "Name": %[2]q, "Address": "127.0.0.1", "Port": 1, "Meta": {"name": %[1]q, "admin": "127.0.0.1:1"}}`, ghost(i), service))
}

func (c *consulAgent) deregister(i int) {
	c.t.Helper()
	c.put("/v1/agent/service/deregister/"+ghost(i), "")
}

// testAgentRestart: the agent is killed and comes back while users talk and log
// in. The pool stays as it was, and a node that registers afterwards is found.
func testAgentRestart(t *testing.T, c *consulAgent, d *dev, f *front) {
	talk := converse(t, f, f.at(0), d.account(t), d.account(t))
	enter := logins(t, f, f.at(0), []account{d.account(t), d.account(t), d.account(t)})
	look := neverEmpty(t, f.admin())
	sessions := statusOf(t, f.admin()).Front.Sessions

	c.kill()
	awaitStatus(t, f.admin(), "an agent that does not answer", func(s frontStatus) bool {
		return s.pool("chat").SourceError != "" && s.Config.ConsulError != ""
	})
	talk.goesOn(20)
	enter.goesOn(5)
	if got := statusOf(t, f.admin()).pool("chat").standings(); !maps.Equal(got, d.allFit()) {
		t.Errorf("without Consul the pool is %v, want %v", got, d.allFit())
	}
	c.start()
	want := d.allFit()
	want[startNode(d, "late")] = "fit"
	// The longest wait between two attempts is 10 s; the rest is for the node to
	// register, and for its checks.
	const most = 14 * time.Second
	if took := awaitStandings(t, f.admin(), want); took > most {
		t.Errorf("a new node was found %v after the restart of the agent, want at most %v", took, most)
	}
	awaitStatus(t, f.admin(), "an agent that answers", func(s frontStatus) bool {
		return s.pool("chat").SourceError == "" && s.Config.ConsulError == ""
	})
	talk.goesOn(20)
	enter.goesOn(5)
	look.goesOn(1)
	if now := statusOf(t, f.admin()).Front.Sessions; sessions < 2 || now < 2 {
		t.Errorf("%d sessions before and %d after, want the two that last", sessions, now)
	}
}

// testColdStart: a front that starts while Consul is down goes by the document and
// the nodes that it kept.
func testColdStart(t *testing.T, c *consulAgent, d *dev, f *front) {
	before := statusOf(t, f.admin())
	f.signal(syscall.SIGTERM)
	if code := f.awaitExit(); code != 0 {
		t.Errorf("imlb proxy: exit code %d after SIGTERM", code)
	}
	c.kill()
	f.start()
	after := statusOf(t, f.admin())
	if !after.Config.Cached || after.Config.Version != before.Config.Version {
		t.Errorf("runs with version %d, cached %v; want version %d from the cache", after.Config.Version, after.Config.Cached, before.Config.Version)
	}
	awaitStandings(t, f.admin(), before.pool("chat").standings())
	talk := converse(t, f, f.at(0), d.account(t), d.account(t))
	talk.goesOn(5)

	c.start()
	awaitStatus(t, f.admin(), "the document from Consul", func(s frontStatus) bool {
		return !s.Config.Cached && s.Config.Version == before.Config.Version
	})
	talk.goesOn(5)
	if log := f.out.text(); !strings.Contains(log, "taken from the cache") {
		t.Errorf("the log does not tell of the cache:\n%s", tail(log))
	}
}
