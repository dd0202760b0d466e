// Package consul runs a real Consul agent for a test, which can kill it and start it again.
package consul

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"imlb/test/need"
)

// patience is how long an agent may take until it leads itself.
const patience = time.Minute

// Agents have ports of their own: below the range from which the system takes ports for
// outgoing connections, and above those of the clusters in whole-program tests.
const (
	portsFrom  = 31200
	portsTo    = 32768
	portsTaken = 5 // by each: one more than it needs, see claimed
)

// Agent is an agent in server mode, so that it can be started again with its state.
type Agent struct {
	Addr string   // of its HTTP API
	Path string   // of its program
	Args []string // of its program

	t     testing.TB
	dir   string // its state
	said  *bytes.Buffer
	cmd   *exec.Cmd     // nil while it does not run
	ended chan struct{} // closed when cmd has ended
}

// New chooses where an agent is to be, and does not start it. A test is skipped when there
// is no Consul.
func New(t testing.TB) *Agent {
	t.Helper()
	path, port, dir := need.Tool(t, "consul"), freePorts(t), filepath.Join(t.TempDir(), "consul")
	a := &Agent{t: t, Addr: address(port), Path: path, dir: dir, Args: []string{
		"agent", "-server", "-bootstrap-expect=1", "-node=test", "-data-dir=" + dir,
		"-bind=127.0.0.1", "-client=127.0.0.1", "-log-level=warn",
		fmt.Sprintf("-http-port=%d", port), fmt.Sprintf("-server-port=%d", port+1),
		fmt.Sprintf("-serf-lan-port=%d", port+2), fmt.Sprintf("-serf-wan-port=%d", port+3),
		"-dns-port=-1", "-grpc-port=-1", "-grpc-tls-port=-1",
		"-hcl=disable_update_check = true", "-hcl=performance { raft_multiplier = 1 }", // elects itself in one second, not in six
	}}
	t.Cleanup(a.Kill) // after all that the test does with it, however often it is started
	return a
}

// Start runs a new agent until the test ends.
func Start(t testing.TB) *Agent {
	t.Helper()
	a := New(t)
	a.Start()
	return a
}

// Start runs the agent, for the first time or again, and waits until it leads itself. It is
// killed when the test ends, if it still runs.
func (a *Agent) Start() {
	a.t.Helper()
	a.said, a.ended = &bytes.Buffer{}, make(chan struct{})
	a.cmd = exec.CommandContext(context.WithoutCancel(a.t.Context()), a.Path, a.Args...) //nolint:gosec // the agent that was looked for
	a.cmd.Stdout, a.cmd.Stderr = a.said, a.said
	if err := a.cmd.Start(); err != nil {
		a.t.Fatal(err)
	}
	go func(cmd *exec.Cmd, ended chan<- struct{}) {
		defer close(ended)
		_ = cmd.Wait() // it is killed
	}(a.cmd, a.ended)
	a.awaitLeader()
}

// Kill ends the agent without warning, if it runs.
func (a *Agent) Kill() {
	if a.cmd == nil {
		return
	}
	_ = a.cmd.Process.Kill()
	<-a.ended
	a.cmd = nil
}

// Forget removes the agent's state; it must not run.
func (a *Agent) Forget() {
	a.t.Helper()
	if err := os.RemoveAll(a.dir); err != nil {
		a.t.Fatal(err)
	}
}

func (a *Agent) awaitLeader() {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(a.t.Context(), patience)
	defer cancel()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for !a.Leads(ctx) {
		select {
		case <-again.C:
			continue
		case <-a.ended:
		case <-ctx.Done():
		}
		a.Kill()
		a.t.Fatalf("the Consul agent finds no leader:\n%s", a.said)
	}
}

// Leads tells whether the agent answers and has a leader: itself.
func (a *Agent) Leads(ctx context.Context) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+a.Addr+"/v1/status/leader", http.NoBody)
	if err != nil {
		return false
	}
	req.Close = true // leave no connection to an agent that may be killed
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	var leader string
	return json.NewDecoder(resp.Body).Decode(&leader) == nil && leader != ""
}

// freePorts finds neighbouring ports that nobody has, and returns the first. They are the test's until
// it ends.
func freePorts(t testing.TB) int {
	t.Helper()
	const places = (portsTo - portsFrom) / portsTaken
	first := rand.IntN(places) //nolint:gosec // no secret
	for i := range places {
		port := portsFrom + (first+i)%places*portsTaken
		claim, ok := claimed(t.Context(), port)
		if !ok {
			continue
		}
		t.Cleanup(func() { claim.Close() })
		if allFree(t.Context(), port) {
			return port
		}
	}
	t.Fatal("no free ports for a Consul agent")
	return 0
}

// claimed takes the last of the ports at a place, which is whose the place is: others do not even look
// at its ports, which would be in the way of an agent that begins.
func claimed(ctx context.Context, port int) (claim net.Listener, ok bool) {
	var lc net.ListenConfig
	claim, err := lc.Listen(ctx, "tcp", address(port+portsTaken-1))
	return claim, err == nil
}

// allFree tells whether nobody has the port and those next to it: an agent takes them for
// TCP and UDP.
func allFree(ctx context.Context, port int) bool {
	var lc net.ListenConfig
	for p := port; p < port+portsTaken-1; p++ {
		l, err := lc.Listen(ctx, "tcp", address(p))
		if err != nil {
			return false
		}
		defer l.Close()
		u, err := lc.ListenPacket(ctx, "udp", address(p))
		if err != nil {
			return false
		}
		defer u.Close()
	}
	return true
}

func address(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }
