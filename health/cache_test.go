package health_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"imlb/health"
)

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(patience)
	for !holds() {
		select {
		case <-time.After(2 * time.Millisecond):
		case <-deadline:
			t.Fatalf("never: %s", what)
		}
	}
}

// remembering lets a source learn nodes and end, and returns its cache.
func remembering(t *testing.T, path string, entries ...*api.ServiceEntry) {
	t.Helper()
	t.Run("before", func(t *testing.T) {
		agent := newConsul(t)
		agent.entries = entries
		_, published := source(t, agent, health.ConsulOptions{Cache: path})
		next(t, published)
		eventually(t, "the cache is written", func() bool {
			_, err := os.Stat(path)
			return err == nil
		})
	})
}

func TestStartWithoutConsulFromTheCache(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "pool-chat.json")
	remembering(t, path, instance("a", "passing", "weight=2", "zone=z", "x=y"), instance("b", "critical"))

	agent := newConsul(t)
	agent.down = true
	s, published := source(t, agent, health.ConsulOptions{Cache: path})
	list := <-published
	if len(list) != 2 || list[0].Weight != 2 || list[0].Zone != "z" || list[0].Meta["x"] != "y" || list[1].Healthy {
		t.Errorf("%+v is published", list)
	}
	eventually(t, "a query fails", func() bool { return s.Status().QueriesFailed > 0 })
	status := s.Status()
	if !status.Cached || status.Failing == nil || status.Staleness(status.Answered.Add(time.Hour)) != time.Hour {
		t.Errorf("status: %+v", status)
	}
	// It comes back empty, as after a loss of all state, and nodes register again.
	agent.set(func() { agent.down, agent.entries = false, nil })
	eventually(t, "a query succeeds", func() bool { return !s.Status().Cached })
	agent.set(func() {
		agent.index++
		agent.entries = []*api.ServiceEntry{instance("a", "passing", "weight=2", "zone=z", "x=y"), instance("c", "passing")}
	})
	wantNext(t, published, "a B c")
	if status := s.Status(); status.Failing != nil || status.Staleness(time.Now().Add(time.Hour)) > time.Minute {
		t.Errorf("status: %+v", status)
	}
}

// TestCacheOfLongAgo: nodes that Consul does not know any more go after the hold time.
func TestCacheOfLongAgo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cache.json")
	remembering(t, path, instance("a", "passing"), instance("old", "passing"))
	agent := newConsul(t)
	agent.entries = []*api.ServiceEntry{instance("a", "passing")}
	_, published := source(t, agent, health.ConsulOptions{Cache: path, Hold: 50 * time.Millisecond})
	wantNext(t, published, "a old")
	wantNext(t, published, "a")
}

// messages is a log.
type messages struct {
	mu sync.Mutex
	bytes.Buffer
}

func (m *messages) Write(p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.Buffer.Write(p)
}

func (m *messages) text() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.String()
}

// TestBadCacheIsIgnoredLoudly: what the file should not be, and what the log says.
func TestBadCacheIsIgnoredLoudly(t *testing.T) {
	good := `{"Version":1,"Service":"chat","Tag":"","Saved":"2026-01-01T00:00:00Z","Nodes":[{"Name":"a","Addr":"127.0.0.1:1","Weight":1,"Healthy":true}]}`
	for _, c := range []struct {
		name, file string
		says       string
	}{
		{"good", good, "starting with the nodes"},
		{"empty", "", "unexpected end"},
		{"cut off", good[:60], "unexpected end"},
		{"garbage", "\x00\x00\x00\x00", "invalid character"},
		{"another version", strings.Replace(good, `"Version":1`, `"Version":2`, 1), "version 2"},
		{"another service", strings.Replace(good, `"chat"`, `"talk"`, 1), "talk"},
		{"without a time", strings.Replace(good, `"2026-01-01T00:00:00Z"`, `"0001-01-01T00:00:00Z"`, 1), "no time"},
		{"a node without an address", strings.Replace(good, `"127.0.0.1:1"`, `""`, 1), `node \"a\"`},
		{"a node without a name", strings.Replace(good, `"a"`, `""`, 1), "address"},
		{"far too large", strings.Repeat(" ", 17<<20), "larger than"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "cache.json")
			if err := os.WriteFile(path, []byte(c.file), 0o600); err != nil {
				t.Fatal(err)
			}
			agent := newConsul(t)
			agent.entries = []*api.ServiceEntry{instance("b", "passing")}
			var log messages
			_, published := source(t, agent, health.ConsulOptions{Cache: path, Logger: slog.New(slog.NewTextHandler(&log, nil))})
			if c.name == "good" {
				wantNext(t, published, "a")
				wantNext(t, published, "a b")
			} else {
				wantNext(t, published, "b")
			}
			if !strings.Contains(log.text(), c.says) {
				t.Errorf("log: %s", log.text())
			}
			// It is replaced by what is true now.
			eventually(t, "a good cache", func() bool {
				data, err := os.ReadFile(path)
				return err == nil && json.Valid(data) && strings.Contains(string(data), `"b"`)
			})
		})
	}
}

func TestCacheThatCannotBeWritten(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	agent := newConsul(t)
	agent.entries = []*api.ServiceEntry{instance("b", "passing")}
	var log messages
	s, published := source(t, agent, health.ConsulOptions{
		Cache: filepath.Join(file, "cache.json"), Logger: slog.New(slog.NewTextHandler(&log, nil)),
	})
	wantNext(t, published, "b")
	eventually(t, "the failure shows", func() bool { return s.Status().CacheFailing != nil })
	agent.set(func() { agent.index, agent.entries = 11, append(agent.entries, instance("c", "passing")) })
	wantNext(t, published, "b c")
	if n := strings.Count(log.text(), "not kept"); n != 1 {
		t.Errorf("logged %d times: %s", n, log.text())
	}
}

func TestConsulCountsItsQueries(t *testing.T) {
	agent := newConsul(t)
	agent.entries = []*api.ServiceEntry{instance("a", "passing")}
	s, published := source(t, agent, health.ConsulOptions{})
	wantNext(t, published, "a")
	agent.set(func() { agent.index = 3 })
	eventually(t, "the index goes back", func() bool { return s.Status().IndexResets == 1 })
	agent.set(func() { agent.down, agent.index = true, 4 })
	eventually(t, "queries fail", func() bool { return s.Status().QueriesFailed > 1 })
	agent.set(func() { agent.down = false })
	eventually(t, "it answers", func() bool { return s.Status().Failing == nil })
	if status := s.Status(); status.Queries < 4 || status.Failures != 0 {
		t.Errorf("%+v", status)
	}
}
