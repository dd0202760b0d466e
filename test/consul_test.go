package test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"imlb/test/consul"
)

// consulAgent is a real agent that runs as a process of the test's.
type consulAgent struct {
	*process
	t     *testing.T
	agent *consul.Agent
	addr  string // of its HTTP API
}

// startConsul runs an agent on loopback ports and waits until it leads itself.
func startConsul(t *testing.T) *consulAgent {
	t.Helper()
	agent := consul.New(t)
	c := &consulAgent{t: t, agent: agent, addr: agent.Addr}
	c.start()
	return c
}

// start runs the agent, for the first time or again.
func (c *consulAgent) start() {
	c.t.Helper()
	c.process = start(c.t, "consul", c.agent.Path, c.agent.Args)
	eventually(c.t, "a leader of Consul", func(ctx context.Context) (bool, string) {
		return c.agent.Leads(ctx), c.out.text()
	})
}

// kill ends the agent without warning.
func (c *consulAgent) kill() {
	c.t.Helper()
	if err := killGroup(c.pid()); err != nil {
		c.t.Fatal(err)
	}
	c.awaitExit()
}

// passing lists the addresses of the instances of a service whose checks pass.
func (c *consulAgent) passing(ctx context.Context, service string) ([]string, error) {
	_, body, err := get(ctx, c.addr, "/v1/health/service/"+service+"?passing")
	if err != nil {
		return nil, err
	}
	var entries []struct {
		Service struct {
			Address string
			Port    int
		}
	}
	if err := json.Unmarshal([]byte(body), &entries); err != nil {
		return nil, fmt.Errorf("%w: %s", err, body)
	}
	var addrs []string
	for _, e := range entries {
		addrs = append(addrs, fmt.Sprintf("%s:%d", e.Service.Address, e.Service.Port))
	}
	slices.Sort(addrs)
	return addrs, nil
}

// awaitPassing waits until exactly these instances of a service pass.
func (c *consulAgent) awaitPassing(service string, want []string) {
	c.t.Helper()
	slices.Sort(want)
	eventually(c.t, "the passing instances of "+service, func(ctx context.Context) (bool, string) {
		got, err := c.passing(ctx, service)
		return err == nil && slices.Equal(got, want), fmt.Sprintf("%v, %v; want %v", got, err, want)
	})
}

// awaitLoads waits until every instance of a service, and the answer to its check, says
// how many sessions it has and whether it drains.
func (c *consulAgent) awaitLoads(service string) {
	c.t.Helper()
	eventually(c.t, "the loads of "+service, func(ctx context.Context) (bool, string) {
		_, body, err := get(ctx, c.addr, "/v1/health/service/"+service)
		var entries []struct {
			Service struct{ Meta map[string]string }
			Checks  []struct{ Output string }
		}
		if err == nil {
			err = json.Unmarshal([]byte(body), &entries)
		}
		said := len(entries) > 0
		for _, e := range entries {
			answers := slices.ContainsFunc(e.Checks, func(check struct{ Output string }) bool {
				return strings.Contains(check.Output, "sessions=") && strings.Contains(check.Output, "draining=false")
			})
			said = said && answers && e.Service.Meta["sessions"] != "" && e.Service.Meta["drain"] == "false"
		}
		return err == nil && said, fmt.Sprint(body, err)
	})
}

// living lists the addresses of the nodes that have not been killed.
func (d *dev) living() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var addrs []string
	for _, n := range d.Nodes {
		if !d.killed[n.Name] {
			addrs = append(addrs, n.Addr)
		}
	}
	return addrs
}

// TestConsul runs the cluster on a real agent: nodes and front register, the
// front finds the nodes there, a killed node leaves; and an agent that dies takes
// nothing with it.
func TestConsul(t *testing.T) {
	t.Parallel()
	c := startConsul(t)
	d := startDev(t, devOptions{users: 30, args: []string{"--consul", c.addr, "--nodes", "4"}})
	nodes := fmt.Sprintf("imlb-dev-%d", d.base)
	front := nodes + "-front"
	c.awaitPassing(nodes, d.living())
	c.awaitPassing(front, []string{d.Front.XMPP})

	c.awaitLoads(nodes)

	alice, bob := apart(t, d)
	home := placement(t, d, alice)
	d.kill(t, home)
	if got := placement(t, d, alice); got == home {
		t.Errorf("after the kill of %s a login landed there", home)
	}
	c.awaitPassing(nodes, d.living())

	// A session from before the agent's death lives through all of the rest.
	s := d.dialTLS(t)
	s.session(d.Domain, "PLAIN", bob)
	s.write("<presence/>")
	s.sync(d)

	c.kill()
	for range 3 {
		placement(t, d, d.account(t))
	}
	s.sync(d)
	wantServing(t, d)

	c.start() // with its state
	c.awaitPassing(nodes, d.living())
	c.awaitPassing(front, []string{d.Front.XMPP})
	s.sync(d)

	c.kill()
	c.agent.Forget()
	c.start() // an agent that knows nothing: everybody registers again
	c.awaitPassing(nodes, d.living())
	c.awaitPassing(front, []string{d.Front.XMPP})
	s.sync(d)
	placement(t, d, d.account(t))
	s.close()

	d.stop()
	c.awaitPassing(nodes, nil)
	c.awaitPassing(front, nil)
}
