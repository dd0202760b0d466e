package secrets_test

import (
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"imlb/proxy/secrets"
	"imlb/test/need"
)

// freePorts returns ports that nobody used a moment ago.
func freePorts(t *testing.T, n int) []string {
	t.Helper()
	var ports []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		_, port, _ := net.SplitHostPort(l.Addr().String())
		ports = append(ports, port)
	}
	return ports
}

// startConsul runs a real agent until the test ends.
func startConsul(t *testing.T) *api.Client {
	t.Helper()
	if testing.Short() {
		t.Skip("a real agent takes seconds to start")
	}
	ports := freePorts(t, 4)
	cmd := exec.Command(need.Tool(t, "consul"), "agent", "-server", "-bootstrap-expect=1", "-node=test",
		"-data-dir="+filepath.Join(t.TempDir(), "data"), "-bind=127.0.0.1", "-client=127.0.0.1", "-log-level=warn",
		"-http-port="+ports[0], "-server-port="+ports[1], "-serf-lan-port="+ports[2], "-serf-wan-port="+ports[3],
		"-dns-port=-1", "-grpc-port=-1", "-grpc-tls-port=-1", "-hcl=performance { raft_multiplier = 1 }")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	client, err := api.NewClient(&api.Config{Address: "127.0.0.1:" + ports[0], Transport: transport})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool {
		leader, err := client.Status().Leader()
		return err == nil && leader != ""
	})
	return client
}

// Two fronts on a real agent: one of them writes the first ring, both rotate, an
// operator may replace it, and when it is gone they put it back.
func TestRealConsul(t *testing.T) {
	client := startConsul(t)
	const key = "imlb/test/secrets"
	options := secrets.Options{
		Store:  secrets.NewConsul(client, key, 2*time.Second),
		Policy: secrets.Policy{Period: 4 * time.Second, Grace: 2 * time.Second},
	}
	a, b := run(t, options), run(t, options)
	agree := func() bool {
		return a.Status().Shared && b.Status().Shared && a.Status().Newest.Equal(b.Status().Newest) && a.Keys().Equal(b.Keys())
	}
	eventually(t, agree)
	first := a.Keys()
	eventually(t, func() bool { // a rotation and its grace
		now := b.Keys()
		return agree() && now.Tickets[0] != first.Tickets[0] && now.Reset == first.Reset
	})
	pair, _, err := client.KV().Get(key, nil)
	if err != nil {
		t.Fatal(err)
	}
	if ring, err := secrets.Parse(pair.Value); err != nil || ring.Len() < 2 {
		t.Errorf("in Consul is %v, %v", ring, err)
	}

	ring, _ := secrets.Ring{}.Next(time.Now(), policy(t))
	reset := ring.Keys(time.Now(), policy(t)).Reset
	if _, err := client.KV().Put(&api.KVPair{Key: key, Value: ring.Marshal()}, nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return agree() && a.Keys().Reset == reset })
	if _, err := client.KV().Delete(key, nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool {
		pair, _, err := client.KV().Get(key, nil)
		return err == nil && pair != nil && agree() && a.Keys().Reset == reset
	})
}
