package configs_test

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// fakeConsul is the part of an agent that a watcher reads from.
type fakeConsul struct {
	*httptest.Server

	mu      sync.Mutex
	changed chan struct{} // closed at every change
	index   uint64
	keys    map[string]fakePair
	down    bool
	hides   bool                // the ACL token may see nothing
	tokens  []string            // of all queries
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

// sent tells whether a token came with a query.
func (c *fakeConsul) sent(token string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Contains(c.tokens, token)
}

func (c *fakeConsul) serve(w http.ResponseWriter, r *http.Request) {
	key, query := strings.TrimPrefix(r.URL.Path, "/v1/kv/"), r.URL.Query()
	c.mu.Lock()
	down := c.down
	c.tokens = append(c.tokens, r.Header.Get("X-Consul-Token"))
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
	w.Header().Set("X-Consul-LastContact", "0")
	if c.hides {
		w.Header().Set("X-Consul-Results-Filtered-By-ACLs", "true")
		w.WriteHeader(http.StatusNotFound)
		return
	}
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
