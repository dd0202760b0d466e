package test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
)

// devCluster is the cluster whose keys in Consul `imlb dev` and its nodes go by.
const devCluster = "dev"

// front is an `imlb proxy` beside the one of a development cluster, on the
// cluster's nodes, accounts and certificate.
type front struct {
	*process
	t    *testing.T
	base int  // its ports: base is for the main listener, base+3 for operators
	via  *dev // the cluster as clients of this front see it
	args []string
}

// at is the front's address with this number, from 0 to 3.
func (f *front) at(i int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(f.base+i)) }

func (f *front) admin() string { return f.at(3) }

// newFront takes ports for a front that is not running yet.
func newFront(t *testing.T, d *dev) *front {
	t.Helper()
	f := &front{t: t, base: freeBasePort(t), via: &dev{t: t, dir: d.dir, Domain: d.Domain, CA: d.CA}}
	f.via.Front.XMPPS = f.at(0)
	return f
}

// start runs the front, for the first time or again, until it is ready.
func (f *front) start(args ...string) {
	f.t.Helper()
	if len(args) > 0 {
		f.args = append([]string{"proxy"}, args...)
	}
	f.process = start(f.t, "imlb proxy", program(f.t), f.args)
	awaitReadyz(f.t, f.process, f.admin())
}

// frontDocument is a front's document, as far as tests vary it.
type frontDocument struct {
	listeners []string // besides the main one, which serves pool chat
	pools     []string // "name: {…}"
	more      string   // further keys
}

// document writes the front's document and returns its path.
func (f *front) document(o frontDocument) string {
	f.t.Helper()
	return document(f.t, f.via.dir, fmt.Sprintf("front-%d.yaml", f.base), f.text(o))
}

func (f *front) text(o frontDocument) string {
	f.t.Helper()
	listeners := append([]string{fmt.Sprintf("{protocol: xmpps, name: main, address: %q, pool: chat}", f.at(0))}, o.listeners...)
	return fmt.Sprintf(`
domains: [%s]
listeners:
  - %s
pools:
  %s
tls:
  certificates: [{cert_file: %q, key_file: %q}]
timeouts: {shutdown: 5s}
admin: {address: %q}
log: {format: json}
%s`, f.via.Domain, strings.Join(listeners, "\n  - "), strings.Join(o.pools, "\n  "),
		devFile(f.t, f.via.dir, "cert"), devFile(f.t, f.via.dir, "key"), f.admin(), o.more)
}

// agentChecks asks nodes often what they say of themselves.
const agentChecks = "checks: [{type: agent}], check: {interval: 500ms, timeout: 2s}"

// service is the name in Consul of the cluster's nodes.
func (d *dev) service() string { return fmt.Sprintf("imlb-dev-%d", d.base) }

// found is the pool of all nodes that are found in Consul.
func (d *dev) found() string {
	return fmt.Sprintf("chat: {consul: {service: %s}, %s}", d.service(), agentChecks)
}

// The part of /status that tests look at.
type frontStatus struct {
	Front struct {
		Sessions  int `json:"sessions"`
		Listeners []struct {
			Name string `json:"name"`
		} `json:"listeners"`
	} `json:"front"`
	Config struct {
		Version uint64 `json:"version"`
		Cached  bool   `json:"cached"`
		Refused *struct {
			Errors []string `json:"errors"`
		} `json:"refused"`
		ConsulError string `json:"consul_error"`
	} `json:"config"`
	NotApplied string        `json:"not_applied"`
	Pools      []statusOfOne `json:"pools"`
}

type statusOfOne struct {
	Name        string `json:"name"`
	Fit         int    `json:"fit"`
	Panic       bool   `json:"panic"`
	SourceError string `json:"source_error"`
	Nodes       []struct {
		Name       string `json:"name"`
		Standing   string `json:"standing"`
		Partitions int    `json:"partitions"`
		Sessions   int    `json:"sessions"`
	} `json:"nodes"`
}

// standings tells of each node what it stands as.
func (s statusOfOne) standings() map[string]string {
	all := make(map[string]string, len(s.Nodes))
	for _, n := range s.Nodes {
		all[n.Name] = n.Standing
	}
	return all
}

// readStatus asks a front of /status. It may be called from any goroutine.
func readStatus(ctx context.Context, admin string) (s frontStatus, err error) {
	code, body, err := get(ctx, admin, "/status")
	if err == nil && code != http.StatusOK {
		err = fmt.Errorf("/status: %d", code)
	}
	if err == nil {
		err = json.Unmarshal([]byte(body), &s)
	}
	return s, err
}

// pool returns what is told of a pool; a zero value when there is none.
func (s frontStatus) pool(name string) statusOfOne {
	for _, p := range s.Pools {
		if p.Name == name {
			return p
		}
	}
	return statusOfOne{}
}

func statusOf(t *testing.T, admin string) frontStatus {
	t.Helper()
	s, err := readStatus(within(t, patience), admin)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// awaitStatus waits for a status that match likes and returns how long that took.
func awaitStatus(t *testing.T, admin, what string, match func(frontStatus) bool) time.Duration {
	t.Helper()
	begin := time.Now()
	var last frontStatus // that came whole
	eventually(t, what+" in the status of "+admin, func(ctx context.Context) (bool, string) {
		s, err := readStatus(ctx, admin)
		if err == nil {
			last = s
		}
		return err == nil && match(s), fmt.Sprintf("%+v, %v", last, err)
	})
	return time.Since(begin)
}

// awaitStandings waits until the pool chat has exactly these nodes, by their health,
// and places by that; it returns how long that took.
func awaitStandings(t *testing.T, admin string, want map[string]string) time.Duration {
	t.Helper()
	fit := 0
	for _, standing := range want {
		if standing == "fit" {
			fit++
		}
	}
	return awaitStatus(t, admin, fmt.Sprint("standings ", want), func(s frontStatus) bool {
		p := s.pool("chat")
		return !p.Panic && maps.Equal(p.standings(), want) && p.Fit == fit
	})
}

// allFit is what the cluster's nodes stand as when all is well.
func (d *dev) allFit() map[string]string {
	all := make(map[string]string, len(d.Nodes))
	for _, n := range d.Nodes {
		all[n.Name] = "fit"
	}
	return all
}

// explanation is the part of /explain that tests look at.
type explanation struct {
	Pinned string `json:"pinned"`
	Node   string `json:"node"`
}

// readExplanation asks a front where the user's next session in the pool chat would
// go. It may be called from any goroutine.
func readExplanation(ctx context.Context, admin, user string) (e explanation, err error) {
	code, body, err := get(ctx, admin, "/explain?user="+url.QueryEscape(user))
	var all map[string]explanation
	if err == nil {
		err = json.Unmarshal([]byte(body), &all)
	}
	if err != nil || code != http.StatusOK {
		return e, fmt.Errorf("explain %s: %d %s, %w", user, code, body, err)
	}
	return all["chat"], nil
}

func explain(t *testing.T, admin, user string) explanation {
	t.Helper()
	e, err := readExplanation(within(t, patience), admin, user)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// placements asks a front for the nodes of many users.
func placements(t *testing.T, admin string, users []string) map[string]string {
	t.Helper()
	all := make(map[string]string, len(users))
	for _, u := range users {
		all[u] = explain(t, admin, u).Node
	}
	return all
}

// placementsWithout waits until none of the users would live on a node, and returns where
// they would: the standing of a node is seen before the placement that follows from it.
func placementsWithout(t *testing.T, admin string, users []string, node string) (all map[string]string) {
	t.Helper()
	eventually(t, "the placement without "+node, func(context.Context) (bool, string) {
		all = placements(t, admin, users)
		return !slices.Contains(slices.Collect(maps.Values(all)), node), fmt.Sprint(all)
	})
	return all
}

// strangers are users who never log in.
func strangers(n int) []string {
	users := make([]string, n)
	for i := range users {
		users[i] = fmt.Sprintf("stranger%d@localhost", i)
	}
	return users
}

// login opens a session at one of the front's addresses.
func (f *front) login(t *testing.T, addr string, a account) *stream {
	t.Helper()
	s, err := tryLogin(within(t, patience), addr, f.via.tls(t, "xmpp-client"), a)
	if err != nil {
		t.Fatalf("login of %s at %s: %v", a.jid, addr, err)
	}
	s.t = t
	t.Cleanup(func() { _ = s.conn.Close() })
	return s
}

// imlb runs a command that has to succeed, and returns what it printed.
func imlb(t *testing.T, args ...string) string {
	t.Helper()
	out, code := runs(t, "", program(t), args)
	if code != 0 {
		t.Fatalf("imlb %s: exit code %d\n%s", strings.Join(args, " "), code, out)
	}
	return out
}

// imlb runs a command about the configuration in this agent.
func (c *consulAgent) imlb(args ...string) string {
	c.t.Helper()
	return imlb(c.t, append(args, "--consul", c.addr, "--cluster", devCluster)...)
}

// push makes a text the document of the cluster's fronts and returns its version.
func (c *consulAgent) push(dir, text string) uint64 {
	c.t.Helper()
	file := document(c.t, dir, "shared.yaml", text)
	var result struct {
		Version uint64 `json:"version"`
	}
	out := c.imlb("config", "push", "--json", file)
	at := max(0, strings.Index(out, "{")) // before it come notes on what was there
	if err := json.Unmarshal([]byte(out[at:]), &result); err != nil {
		c.t.Fatalf("imlb config push printed %q: %v", out, err)
	}
	return result.Version
}

// put sends something to the agent's API.
func (c *consulAgent) put(path, body string) {
	c.t.Helper()
	if err := put(within(c.t, patience), c.addr, path, body); err != nil {
		c.t.Fatal(err)
	}
}

func put(ctx context.Context, addr, path, body string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://"+addr+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("PUT %s: %s", path, resp.Status)
	}
	return nil
}

// startNode runs another node for as long as the cluster, with a document like its
// first node's, and returns its name.
func startNode(d *dev, name string) string {
	t := d.t
	t.Helper()
	data, err := os.ReadFile(filepath.Join(d.dir, d.Nodes[0].Name+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := yaml.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	base := freeBasePort(t)
	at := func(i int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(base+i)) }
	doc["name"], doc["listen"], doc["admin"] = name, at(0), map[string]any{"address": at(1)}
	doc["bus"] = map[string]any{"cluster": map[string]any{"listen": at(2), "routes": busRoutes(t, doc)}}
	text, err := yaml.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	file := document(t, d.dir, name+".yaml", string(text))
	p := start(t, "imlb node", program(t), []string{"node", "--config", file})
	awaitReadyz(t, p, at(1))
	return name
}

// busRoutes lists the node whose document this is and those that it knows.
func busRoutes(t *testing.T, doc map[string]any) []any {
	t.Helper()
	bus, _ := doc["bus"].(map[string]any)
	cluster, _ := bus["cluster"].(map[string]any)
	routes, _ := cluster["routes"].([]any)
	if len(cluster) == 0 {
		t.Fatalf("no bus.cluster in %v", doc)
	}
	return append(slices.Clone(routes), cluster["listen"])
}
