package configs_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"imlb/test/need"
)

// fakeConsul is the part of an agent that a watcher reads from.
type fakeConsul struct {
	*httptest.Server

	mu      sync.Mutex
	changed chan struct{} // closed at every change
	index   uint64
	keys    map[string]fakePair
	down    bool
	asked   map[string][]string // index parameters of the queries, by key
}

type fakePair struct {
	value string
	index uint64
}

func newFakeConsul(t *testing.T) *fakeConsul {
	t.Helper()
	c := &fakeConsul{changed: make(chan struct{}), index: 10, keys: map[string]fakePair{}, asked: map[string][]string{}}
	c.Server = httptest.NewServer(http.HandlerFunc(c.serve))
	t.Cleanup(c.Close)
	return c
}

func (c *fakeConsul) addr() string { return strings.TrimPrefix(c.URL, "http://") }

// set changes what the agent has; waiting queries see it.
func (c *fakeConsul) set(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
	close(c.changed)
	c.changed = make(chan struct{})
}

// put stores a value under a key.
func (c *fakeConsul) put(key, value string) {
	c.set(func() {
		c.index++
		c.keys[key] = fakePair{value, c.index}
	})
}

func (c *fakeConsul) remove(key string) {
	c.set(func() {
		c.index++
		delete(c.keys, key)
	})
}

func (c *fakeConsul) indexes(key string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.asked[key]
}

func (c *fakeConsul) serve(w http.ResponseWriter, r *http.Request) {
	key, query := strings.TrimPrefix(r.URL.Path, "/v1/kv/"), r.URL.Query()
	c.mu.Lock()
	down := c.down
	c.asked[key] = append(c.asked[key], query.Get("index"))
	c.mu.Unlock()
	if down {
		http.Error(w, "No cluster leader", http.StatusInternalServerError)
		return
	}
	index, _ := strconv.ParseUint(query.Get("index"), 10, 64)
	wait, _ := time.ParseDuration(query.Get("wait"))
	deadline := time.After(wait)
	for waiting := index > 0; waiting; {
		c.mu.Lock()
		changed, now, down := c.changed, c.index, c.down
		c.mu.Unlock()
		if down {
			http.Error(w, "No cluster leader", http.StatusInternalServerError)
			return
		}
		if now != index {
			break
		}
		select {
		case <-changed:
		case <-deadline:
			waiting = false
		case <-r.Context().Done():
			return
		}
	}
	c.answer(w, key, query.Has("recurse"))
}

func (c *fakeConsul) answer(w http.ResponseWriter, key string, recurse bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w.Header().Set("X-Consul-Index", strconv.FormatUint(c.index, 10))
	pairs := []map[string]any{}
	for name, p := range c.keys {
		if name == key || recurse && strings.HasPrefix(name, key) {
			pairs = append(pairs, map[string]any{
				"Key": name, "Value": base64.StdEncoding.EncodeToString([]byte(p.value)), "ModifyIndex": p.index,
			})
		}
	}
	if len(pairs) == 0 {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	_ = json.NewEncoder(w).Encode(pairs)
}

// realConsul runs an agent with a store of its own, and returns its address.
func realConsul(t *testing.T) string {
	t.Helper()
	bin := need.Tool(t, "consul")
	ctx, cancel := context.WithCancel(context.Background())
	ports := freePorts(t, 4)
	addr := "127.0.0.1:" + ports[0]
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
	awaitLeader(t, addr)
	return addr
}

func freePorts(t *testing.T, n int) []string {
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
	eventually(t, "a leader of Consul", func() bool {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+"/v1/status/leader", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		var leader string
		return json.NewDecoder(resp.Body).Decode(&leader) == nil && leader != ""
	})
}

// eventually asks again and again until it holds, or fails after half a minute.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for !holds() {
		select {
		case <-again.C:
		case <-deadline.C:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
