package main

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os/exec"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"imlb/test/need"
)

// TestConfigScripts runs testdata/config: command lines that work on a real
// Consul agent, which is at $CONSUL_HTTP_ADDR. Each script has a cluster of its
// own.
func TestConfigScripts(t *testing.T) {
	addr := startConsul(t)
	testscript.Run(t, testscript.Params{
		Dir: "testdata/config",
		Setup: func(e *testscript.Env) error {
			e.Setenv("CONSUL_HTTP_ADDR", addr)
			e.Setenv("COLUMNS", "100")
			return nil
		},
	})
}

// startConsul runs an agent with a store of its own until the test ends.
func startConsul(t *testing.T) string {
	t.Helper()
	bin := need.Tool(t, "consul")
	ports := consulPorts(t, 4)
	ctx, cancel := context.WithCancel(context.Background())
	agent := exec.CommandContext(ctx, bin, "agent", "-dev", "-node=test", "-bind=127.0.0.1", "-client=127.0.0.1", "-log-level=err",
		"-http-port="+ports[0], "-server-port="+ports[1], "-serf-lan-port="+ports[2], "-serf-wan-port="+ports[3],
		"-dns-port=-1", "-grpc-port=-1", "-grpc-tls-port=-1")
	if err := agent.Start(); err != nil {
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = agent.Wait() // killed
	})
	addr := "127.0.0.1:" + ports[0]
	awaitLeader(t, addr)
	return addr
}

func consulPorts(t *testing.T, n int) []string {
	t.Helper()
	ports := make([]string, n)
	for i := range ports {
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close() // when all are known, so that they differ
		_, ports[i], _ = net.SplitHostPort(l.Addr().String())
	}
	return ports
}

func awaitLeader(t *testing.T, addr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for !hasLeader(ctx, addr) {
		select {
		case <-again.C:
		case <-ctx.Done():
			t.Fatal("Consul has no leader")
		}
	}
}

func hasLeader(ctx context.Context, addr string) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/v1/status/leader", http.NoBody)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	var leader string
	return json.NewDecoder(resp.Body).Decode(&leader) == nil && leader != ""
}
