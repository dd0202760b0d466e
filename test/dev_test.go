package test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// account is a user that a test may log in as.
type account struct {
	name, password, jid string
}

// dev is a running `imlb dev` and what its dev.json says.
type dev struct {
	*process
	t    *testing.T
	dir  string
	base int

	Domain string `json:"domain"`
	Front  struct {
		PID   int    `json:"pid"`
		XMPP  string `json:"xmpp"`
		XMPPS string `json:"xmpps"`
		HTTPS string `json:"https"`
		QUIC  string `json:"quic"`
		Admin string `json:"admin"`
	} `json:"front"`
	Nodes []devNode `json:"nodes"`
	CA    string    `json:"ca"`

	mu     sync.Mutex
	fresh  []account // not yet handed to a test
	killed map[string]bool
}

type devNode struct {
	Name  string `json:"name"`
	PID   int    `json:"pid"`
	Addr  string `json:"addr"`
	Admin string `json:"admin"`
}

type devOptions struct {
	dir   string   // --data; a temporary directory when empty
	users int      // how many accounts to make for the test
	names []string // accounts of given names, too
	args  []string // further flags
}

// startDev runs `imlb dev` until it says ready, and stops it at the end of the
// test: by SIGINT, which must leave nothing behind.
func startDev(t *testing.T, o devOptions) *dev {
	t.Helper()
	d := &dev{t: t, dir: o.dir, base: freeBasePort(t), killed: make(map[string]bool)}
	if d.dir == "" {
		d.dir = t.TempDir()
	}
	args := []string{"dev", "--data", d.dir, "--base-port", strconv.Itoa(d.base)}
	for i := range o.users {
		o.names = append(o.names, fmt.Sprintf("user%02d", i+1))
	}
	for _, name := range o.names {
		a := account{name: name, password: "pw-" + name, jid: name + "@localhost"}
		d.fresh = append(d.fresh, a)
		args = append(args, "--user", a.name+":"+a.password)
	}
	d.process = start(t, "imlb dev", program(t), append(args, o.args...))
	d.awaitReady()
	t.Cleanup(d.checkLogs)
	t.Cleanup(d.stop)
	return d
}

func (d *dev) awaitReady() {
	d.t.Helper()
	// For longer than it waits itself, since it says then for what.
	_, err := d.out.wait(within(d.t, 4*patience), func(l string) bool { return l == "ready" })
	if err != nil {
		d.t.Fatalf("imlb dev did not say ready: %v\n%s", err, tail(d.out.text()))
	}
	data, err := os.ReadFile(filepath.Join(d.dir, "dev.json"))
	if err != nil {
		d.t.Fatal(err)
	}
	if err := json.Unmarshal(data, d); err != nil {
		d.t.Fatalf("dev.json: %v\n%s", err, data)
	}
}

// stop ends the cluster as Ctrl-C does and checks that nothing is left. It may
// be called before the end of the test.
func (d *dev) stop() {
	d.t.Helper()
	select {
	case <-d.done:
		return
	default:
	}
	d.signal(syscall.SIGINT)
	if code := d.awaitExit(); code != 0 {
		d.t.Errorf("imlb dev ended with exit code %d after SIGINT", code)
	}
	d.checkGone()
}

// checkGone tests that no child lives and no port is open.
func (d *dev) checkGone() {
	d.t.Helper()
	awaitGone(d.t, "the front", d.Front.PID)
	addrs := []string{d.Front.XMPP, d.Front.XMPPS, d.Front.HTTPS, d.Front.Admin}
	for _, n := range d.Nodes {
		awaitGone(d.t, n.Name, n.PID)
		addrs = append(addrs, n.Addr)
	}
	for _, addr := range addrs {
		conn, err := (&net.Dialer{}).DialContext(within(d.t, patience), "tcp", addr)
		if err == nil {
			_ = conn.Close()
			d.t.Errorf("somebody still listens on %s", addr)
		}
	}
}

// checkLogs looks for crashes in the logs of the children.
func (d *dev) checkLogs() {
	d.t.Helper()
	files, err := filepath.Glob(filepath.Join(d.dir, "*.log"))
	if err != nil {
		d.t.Fatal(err)
	}
	keep := keepDirectory(d.t)
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			d.t.Error(err)
			continue
		}
		checkLog(d.t, filepath.Base(f), string(data))
		if d.t.Failed() {
			d.t.Logf("---- %s\n%s", filepath.Base(f), tail(string(data)))
		}
		if keep != "" {
			_ = os.WriteFile(filepath.Join(keep, filepath.Base(f)), data, 0o600)
		}
	}
}

// account hands out a user that no other test of this cluster has.
func (d *dev) account(t *testing.T) account {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.fresh) == 0 {
		t.Fatal("no account left: start the cluster with more users")
	}
	a := d.fresh[0]
	d.fresh = d.fresh[1:]
	return a
}

// kill ends a node without warning.
func (d *dev) kill(t *testing.T, name string) {
	t.Helper()
	d.end(t, name, syscall.SIGKILL)
}

// end ends a node by a signal.
func (d *dev) end(t *testing.T, name string, signal syscall.Signal) {
	t.Helper()
	n := d.node(t, name)
	if err := syscall.Kill(n.PID, signal); err != nil {
		t.Fatalf("end %s by %v: %v", name, signal, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.killed[name] = true
}

func (d *dev) node(t *testing.T, name string) devNode {
	t.Helper()
	for _, n := range d.Nodes {
		if n.Name == name {
			return n
		}
	}
	t.Fatalf("no node is called %q; there are %v", name, d.Nodes)
	return devNode{}
}

// roots are the certificate authorities of the cluster.
func (d *dev) roots(t *testing.T) *x509.CertPool {
	t.Helper()
	pem, err := os.ReadFile(d.CA)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		t.Fatalf("no certificate in %s", d.CA)
	}
	return pool
}

func (d *dev) tls(t *testing.T, alpn ...string) *tls.Config {
	t.Helper()
	return &tls.Config{RootCAs: d.roots(t), ServerName: d.Domain, NextProtos: alpn, MinVersion: tls.VersionTLS12}
}

// get fetches a page of an admin server.
func get(ctx context.Context, addr, path string) (status int, body string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+path, http.NoBody)
	if err != nil {
		return 0, "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	data, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(data), errors.Join(err, resp.Body.Close())
}

// metric sums the samples of a metric whose labels contain all of want
// (`reason="client-closed"`).
func metric(t *testing.T, addr, name string, want ...string) float64 {
	t.Helper()
	_, body, err := get(within(t, patience), addr, "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for line := range strings.Lines(body) {
		labels, ok := strings.CutPrefix(line, name)
		if !ok || (labels[0] != ' ' && labels[0] != '{') {
			continue
		}
		value, err := strconv.ParseFloat(line[strings.LastIndex(line, " ")+1:len(line)-1], 64)
		if err != nil {
			t.Fatalf("metric line %q: %v", line, err)
		}
		if containsAll(labels, want) {
			sum += value
		}
	}
	return sum
}

func containsAll(s string, parts []string) bool {
	for _, p := range parts {
		if !strings.Contains(s, p) {
			return false
		}
	}
	return true
}

// record is one line of a session log, by key.
type record map[string]any

func (r record) text(key string) string {
	if r[key] == nil {
		return ""
	}
	return fmt.Sprint(r[key])
}

// records returns the lines of the front's session log that match.
func (d *dev) records(t *testing.T, match func(record) bool) []record {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(d.dir, "front.log"))
	if err != nil {
		t.Fatal(err)
	}
	var found []record
	for line := range strings.Lines(string(data)) {
		if r := parseRecord(line); r != nil && r["reason"] != nil && match(r) {
			found = append(found, r)
		}
	}
	return found
}

// awaitRecord waits for one line of the front's session log.
func (d *dev) awaitRecord(t *testing.T, what string, match func(record) bool) record {
	t.Helper()
	var found []record
	eventually(t, "a session record "+what, func(context.Context) (bool, string) {
		found = d.records(t, match)
		return len(found) > 0, "none"
	})
	return found[0]
}

// parseRecord reads a line of slog, as JSON or as text; nil if it is neither.
func parseRecord(line string) record {
	r := record{}
	if strings.HasPrefix(line, "{") {
		if json.Unmarshal([]byte(line), &r) != nil {
			return nil
		}
		return r
	}
	rest := strings.TrimSpace(line)
	for rest != "" {
		key, tail, ok := strings.Cut(rest, "=")
		if !ok {
			return nil
		}
		value, after := cutValue(tail)
		r[key] = value
		rest = strings.TrimLeft(after, " ")
	}
	return r
}

// cutValue takes a value, quoted or not, from the front of a text log line.
func cutValue(s string) (value, rest string) {
	if quoted, err := strconv.QuotedPrefix(s); err == nil {
		value, _ = strconv.Unquote(quoted)
		return value, s[len(quoted):]
	}
	value, rest, _ = strings.Cut(s, " ")
	return value, rest
}

// Clusters have ports of their own, below those from which imlb dev takes ports for its nodes.
const (
	basesFrom = 10_000
	basesTo   = 15_000
)

// nextBase spreads the ports of clusters that run at the same time.
var nextBase = struct { //nolint:gochecknoglobals // Tests share the machine's ports.
	sync.Mutex
	port int
}{port: basesFrom + 8*rand.IntN((basesTo-basesFrom)/8)} //nolint:gosec // no secret

// freeBasePort finds four neighbouring ports below the range from which the
// system takes ports for outgoing connections.
func freeBasePort(t *testing.T) int {
	t.Helper()
	nextBase.Lock()
	defer nextBase.Unlock()
	for range 500 {
		base := nextBase.port
		nextBase.port += 8
		if nextBase.port > basesTo-8 {
			nextBase.port = basesFrom
		}
		if portsFree(t, base, 4) {
			return base
		}
	}
	t.Fatal("no free ports")
	return 0
}

func portsFree(t *testing.T, base, n int) bool {
	t.Helper()
	var lc net.ListenConfig
	for port := base; port < base+n; port++ {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
		l, err := lc.Listen(t.Context(), "tcp", addr)
		if err != nil {
			return false
		}
		_ = l.Close()
		p, err := lc.ListenPacket(t.Context(), "udp", addr)
		if err != nil {
			return false
		}
		_ = p.Close()
	}
	return true
}
