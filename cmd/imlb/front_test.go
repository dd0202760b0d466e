package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"imlb/balancer"
	"imlb/configs"
	"imlb/proxy/admin"
)

// documents is where a test's front has its documents from. It implements documentSource.
type documents struct {
	updates chan configs.Update
	applied chan error
}

// Run applies what the test has.
func (d *documents) Run(ctx context.Context, apply func(configs.Update) error) error {
	for {
		select {
		case u := <-d.updates:
			d.applied <- apply(u)
		case <-ctx.Done():
			return nil
		}
	}
}

// Status says nothing.
func (*documents) Status() configs.Status { return configs.Status{} }

// tested is a front in the test's own process.
type tested struct {
	*front
	t      *testing.T
	source *documents
	log    *lockedBuffer
}

// startTested runs a front from a document until the test ends.
func startTested(t *testing.T, text string) *tested {
	t.Helper()
	f := &tested{t: t, source: &documents{make(chan configs.Update), make(chan error, 1)}, log: new(lockedBuffer)}
	f.front = newFront(f.source, newLogSwitch(f.log, configs.Log{}))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- f.run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the front ended with %v", err)
		}
		if t.Failed() {
			t.Logf("the front's log:\n%s", f.log.String())
		}
	})
	f.apply(text)
	ctx, cancelWait := context.WithTimeout(ctx, patience)
	defer cancelWait()
	for ctx.Err() == nil && (f.server.Serving() != nil || slices.ContainsFunc(f.poolChecks(), func(c admin.Check) bool { return c.Ready() != nil })) {
		f.settle(ctx)
	}
	return f
}

// apply has the front go over to a document.
func (f *tested) apply(text string) {
	f.t.Helper()
	f.source.updates <- configs.Update{Proxy: document(f.t, text)}
	if err := <-f.source.applied; err != nil {
		f.t.Fatal(err)
	}
}

func (f *tested) addr(listener string) string {
	f.t.Helper()
	addr, ok := f.server.Addrs()[listener]
	if !ok {
		f.t.Fatalf("nothing is called %s", listener)
	}
	return addr.String()
}

// get reads a page of the admin interface.
func (f *tested) get(path string) string {
	f.t.Helper()
	resp, err := http.Get("http://" + f.admin.addr() + path) //nolint:noctx // a test's
	if err != nil {
		f.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		f.t.Fatalf("%s: %s, %v", path, resp.Status, err)
	}
	return string(body)
}

// until waits for something.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for !is() {
		select {
		case <-look.C:
		case <-ctx.Done():
			t.Fatalf("still not: %s", what)
		}
	}
}

// lockedBuffer is a bytes.Buffer for several goroutines.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write adds to it.
func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

// String returns what was written.
func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// echoing is a document of a front for a node, with further keys for the listener and
// for the document.
func echoing(listener, node, more string) string {
	return fmt.Sprintf("admin: {address: '127.0.0.1:0'}\ntimeouts: {shutdown: 1s}\nlisteners: [%s]\n"+
		"pools: {a: {proxy_protocol: none, nodes: [{name: n, address: '%s'}], check: {rise: 1}}}\n%s\n", listener, node, more)
}

// The log tells of a stop, and how many sessions it concerns.
func TestStopIsLogged(t *testing.T) {
	t.Parallel()
	var f *tested
	t.Run("front", func(its *testing.T) { // which stops at the end of that
		f = startTested(its, echoing("{protocol: tcp, address: '127.0.0.1:0'}", startEcho(t).addr, ""))
		requireEcho(its, dialTCP(t, f.addr("tcp")), "before\n")
	})
	if text := f.log.String(); !strings.Contains(text, "msg=stopping sessions=1 patience=1s") {
		t.Errorf("the log does not tell of the stop:\n%s", text)
	}
}

// All lines have the form that the document asks for, the first ones too.
func TestLogHasItsForm(t *testing.T) {
	t.Parallel()
	file, log := filepath.Join(t.TempDir(), "front.yaml"), new(lockedBuffer)
	text := echoing("{protocol: tcp, address: '127.0.0.1:0'}", startEcho(t).addr, "log: {format: json}")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	output := newLogSwitch(log, configs.Defaults[configs.Proxy]().Log)
	watcher, err := (&sourceFlags{Config: file}).watcher(slog.New(output))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- newFront(watcher, output).run(ctx) }()
	until(t, "it serves", func() bool { return strings.Contains(log.String(), "\"serving\"") })
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	for line := range strings.Lines(log.String()) {
		if !json.Valid([]byte(line)) {
			t.Errorf("got the line %s", line)
		}
	}
	if text := log.String(); !strings.Contains(text, `"listeners":{"tcp":"127.0.0.1:`) {
		t.Errorf("the log does not tell where the front listens:\n%s", text)
	}
}

// A changed limit counts for the next client, and for those that are there; nobody is
// disconnected by it.
func TestLimitsChangeLive(t *testing.T) {
	t.Parallel()
	node := startEcho(t)
	doc := func(listener, limits string) string {
		return echoing("{protocol: tcp, address: '127.0.0.1:0', "+listener+"}", node.addr, "limits: {"+limits+"}")
	}
	f := startTested(t, doc("", ""))
	addr := f.addr("tcp")
	first := dialTCP(t, addr)
	requireEcho(t, first, "before\n")
	var nowhere strings.Builder // ten thousand networks in which nobody is
	for i := range 10000 {
		fmt.Fprintf(&nowhere, "100.%d.%d.0/24, ", 64+i>>8, i&255)
	}
	for _, tt := range []struct {
		name, listener, limits string
		served                 bool
	}{
		{"connections of a source", "", "source: {connections: 1}", false},
		{"more of them", "", "source: {connections: 2}", true},
		{"an exempt source", "", "source: {connections: 1, exempt: [127.0.0.0/8]}", true},
		{"connections of a user", "", "user: {connections: 1}", false},
		{"of all", "", "global: {connections: 1}", false},
		{"of the listener", "limits: {connections: 1}", "", false},
		{"denied to all", "", "deny: [" + nowhere.String() + "127.0.0.1/32]", false},
		{"denied to others", "", "deny: [" + nowhere.String() + "127.0.0.2/32]", true},
		{"denied here", "deny: ['::/0', 127.0.0.0/8]", "", false},
		{"allowed to others", "allow: ['::/0']", "allow: [127.0.0.0/8]", false},
		{"allowed twice", "allow: [127.0.0.1/32]", "allow: [127.0.0.0/8]", true},
		{"rate of a source", "", "source: {rate: {per_second: 0.001, max_wait: 0s}}", true}, // the burst
		{"none left", "", "source: {rate: {per_second: 0.001, max_wait: 1ms}}", false},
		{"none", "", "", true},
	} {
		f.apply(doc(tt.listener, tt.limits))
		requireServed(t, addr, tt.name+"\n", tt.served)
		requireEcho(t, first, tt.name+"\n")
	}
	_ = first.Close()
	until(t, "no connections", func() bool { return f.server.Limits(time.Now(), 1).Global.Connections == 0 })
	f.apply(doc("limits: {connections: 1}", ""))
	requireServed(t, addr, "after\n", true)
}

// /status and the metrics show what is counted, and how the secrets are.
func TestLimitsAreShown(t *testing.T) {
	t.Parallel()
	node := startEcho(t)
	f := startTested(t, echoing("{protocol: tcp, address: '127.0.0.1:0'}", node.addr, "limits: {max_entries: 1000}"))
	for range 3 {
		requireEcho(t, dialTCP(t, f.addr("tcp")), "hello\n")
	}
	var st struct {
		Limits struct {
			Top []struct {
				Source      string `json:"source"`
				Connections int    `json:"connections"`
			} `json:"top"`
			Listeners map[string]struct {
				Connections     int `json:"connections"`
				Unauthenticated int `json:"unauthenticated"`
			} `json:"listeners"`
		} `json:"limits"`
		Secrets secretsStatus `json:"secrets"`
	}
	if err := json.Unmarshal([]byte(f.get("/status")), &st); err != nil {
		t.Fatal(err)
	}
	if top := st.Limits.Top; len(top) != 1 || top[0].Source != "127.0.0.1/32" || top[0].Connections != 3 {
		t.Errorf("the top sources are %+v", top)
	}
	if l := st.Limits.Listeners["tcp"]; l.Connections != 3 || l.Unauthenticated != 0 {
		t.Errorf("the listener has %+v", l)
	}
	if s := st.Secrets; s.Where != "memory" || s.Shared || s.Secrets != 1 || s.Newest == "" || s.Error != "" {
		t.Errorf("the secrets are %+v", s)
	}
	metrics := f.get("/metrics")
	for _, line := range []string{
		`imlb_limit_entries{table="sources"} 1`, `imlb_limit_entries_connected{table="users"} 1`, `imlb_limit_connections{listener="tcp"} 3`,
		`imlb_limit_unauthenticated{listener="tcp"} 0`, `imlb_limit_waiting{scope="global"} 0`, `imlb_limit_evicted_total{table="claims"} 0`,
		`imlb_limit_overflowing{table="sources"} 0`, "imlb_secrets_kept 1", "imlb_secrets_shared 0", "imlb_secrets_failing 0", "imlb_secrets_newest_age_seconds 0",
	} {
		if !strings.Contains(metrics, "\n"+line) {
			t.Errorf("there is no metric %s", line)
		}
	}
}

// /explain tells of all pools, or of one, and which there are if that is none.
func TestExplainPool(t *testing.T) {
	t.Parallel()
	node := startEcho(t)
	f := startTested(t, fmt.Sprintf("admin: {address: '127.0.0.1:0'}\ntimeouts: {shutdown: 1s}\nlisteners: [{protocol: tcp, address: '127.0.0.1:0', pool: chat}]\n"+
		"pools: {chat: {nodes: [{name: n, address: '%[1]s'}], check: {rise: 1}}, work: {nodes: [{name: m, address: '%[1]s'}], check: {rise: 1}}}\n", node.addr))
	for query, want := range map[string][]string{"": {"chat", "work"}, "&pool=work": {"work"}} {
		var got map[string]explanation
		if err := json.Unmarshal([]byte(f.get("/explain?user=alice@example.com"+query)), &got); err != nil {
			t.Fatal(err)
		}
		if pools := slices.Sorted(maps.Keys(got)); !slices.Equal(pools, want) {
			t.Errorf("%s: got the pools %q, want %q", query, pools, want)
		}
	}
	for _, user := range []string{"Sensor-1", "site/7", "127.0.0.1/32", "Ann@Example.com"} { // none of which is an address of XMPP here
		var got map[string]explanation
		if err := json.Unmarshal([]byte(f.get("/explain?pool=chat&user="+url.QueryEscape(user))), &got); err != nil {
			t.Fatal(err)
		}
		if e := got["chat"]; e.User != user || e.Partition != balancer.Partition(user) {
			t.Errorf("%s is explained as %s in partition %d", user, e.User, e.Partition)
		}
	}
	for query, want := range map[string]string{
		"&pool=caht": "no pool is called \"caht\"; did you mean \"chat\"? There are chat, work\n",
		"&pool=":     "no pool is called \"\"; there are chat, work\n",
	} {
		resp, err := http.Get("http://" + f.admin.addr() + "/explain?user=alice@example.com" + query) //nolint:noctx // a test's
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusNotFound || string(body) != want {
			t.Errorf("%s: got %s, %q, %v; want %q", query, resp.Status, body, err, want)
		}
	}
}

// A front that has lost the nodes of one pool is ready for the others, and not for that one.
func TestReadyForSomePools(t *testing.T) {
	t.Parallel()
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", freeAddr(t))
	if err != nil {
		t.Fatal(err)
	}
	one, two := startEcho(t), serveEcho(t, ln)
	f := startTested(t, fmt.Sprintf(`
admin: {address: '127.0.0.1:0'}
timeouts: {shutdown: 1s}
listeners: [{name: x, protocol: tcp, address: '127.0.0.1:0', pool: a}, {name: y, protocol: tcp, address: '127.0.0.1:0', pool: b}]
pools:
  a: {proxy_protocol: none, nodes: [{name: n, address: '%s'}], check: {rise: 1}}
  b: {proxy_protocol: none, nodes: [{name: n, address: '%s'}], check: {rise: 1, fall: 1, interval: 100ms, fast_interval: 100ms}}
`, one.addr, two.addr))
	ready := func(query string) int {
		resp, err := http.Get("http://" + f.admin.addr() + "/readyz" + query) //nolint:noctx // a test's
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	if a, b, both := ready("?pool=a"), ready("?pool=b"), ready("?pool=a&pool=b"); a != http.StatusOK || b != http.StatusOK || both != http.StatusOK {
		t.Errorf("with all nodes: %d, %d, %d", a, b, both)
	}
	_ = ln.Close()
	until(t, "the pool is not ready", func() bool { return ready("?pool=b") == http.StatusServiceUnavailable })
	if all, a, both := ready(""), ready("?pool=a"), ready("?pool=a&pool=b"); all != http.StatusOK || a != http.StatusOK || both != http.StatusServiceUnavailable {
		t.Errorf("without those of one pool: %d, %d, %d", all, a, both)
	}
}
