package secrets_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"imlb/proxy/secrets"
	"imlb/test/consul"
)

// startConsul runs a real agent until the test ends.
func startConsul(t *testing.T) *api.Client {
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
