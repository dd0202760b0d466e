package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"imlb/configs"
)

// The user part of each account that `imlb dev` makes when none is named.
var devDefaultUsers = []string{"alice", "bob", "carol"} //nolint:gochecknoglobals // A constant list.

const (
	devDomain = "localhost"

	devReadyTimeout = 90 * time.Second // generous: the race detector and a busy machine
	devStopTimeout  = 15 * time.Second // for each child
	devPollInterval = 50 * time.Millisecond

	devConsulTimeout = 5 * time.Second // for a sign of life
)

// devCmd is `imlb dev`: a whole cluster on this machine.
type devCmd struct {
	Data     string   `placeholder:"DIR" type:"path" help:"Keep accounts, messages and the certificate authority here; what an earlier run left is used again. Default: a temporary directory, removed at exit."`
	BasePort int      `placeholder:"N" default:"5222" help:"First of four ports: N XMPP with STARTTLS, N+1 direct TLS, N+2 HTTPS, WebSocket and BOSH (TCP) and QUIC (UDP), N+3 admin HTTP. Nodes take free ports. Default: ${default}."`
	Nodes    int      `placeholder:"K" default:"3" help:"How many chat nodes to start. Default: ${default}."`
	User     []string `placeholder:"NAME:PASSWORD" sep:"none" help:"An account to have, with this password; may be given several times. Default: alice, bob and carol with random passwords."`
	Consul   string   `placeholder:"ADDR" help:"Register and discover the nodes through the Consul agent at this address (host:port) instead of a static list."`
	Database string   `placeholder:"URL" help:"Database of the nodes. Default: SQLite in the data directory."`
}

// Help is the long text of `imlb dev --help`.
func (devCmd) Help() string {
	return `Starts a front and chat nodes as child processes on the loopback interface, with an embedded database and embedded NATS and a
certificate authority for "localhost". Prints where they listen, which accounts there are and how to connect, then "ready" on a line
of its own once everything serves. DIR/dev.json describes what runs, DIR/ca.pem is the certificate authority to trust, DIR/*.log is what
the children print. Ctrl-C stops all of it.`
}

// Run starts the cluster, waits until ctx ends or the front does, and stops it.
func (c *devCmd) Run(ctx context.Context) error {
	if c.Nodes < 1 || c.Nodes > 100 {
		return fmt.Errorf("--nodes %d: must be from 1 to 100", c.Nodes)
	}
	ctx, cancel := untilHangup(ctx)
	defer cancel()
	defer spareUserSignals(ctx, newLogger(os.Stderr, configs.Defaults[configs.Proxy]().Log))()
	users, err := parseDevUsers(c.User)
	if err != nil {
		return err
	}
	dir, remove, err := devDirectory(c.Data)
	if err != nil {
		return err
	}
	defer remove()

	unlock, err := lockDirectory(dir)
	if err != nil {
		return err
	}
	defer unlock()
	cluster, err := c.prepare(ctx, dir, users)
	if err != nil {
		return err
	}
	description := filepath.Join(dir, devDescriptionFile)
	_ = os.Remove(description) // an earlier run's, which was killed
	defer func() { _ = os.Remove(description) }()
	err = cluster.start(ctx)
	if err == nil {
		err = cluster.announce(os.Stdout)
	}
	if err == nil {
		err = cluster.watch(ctx)
	}
	if stopErr := cluster.stop(); err == nil {
		err = stopErr
	}
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return nil // Ctrl-C is how a development cluster ends.
	}
	return err
}

// devDirectory makes the data directory; remove cleans up what should not last.
func devDirectory(dir string) (abs string, remove func(), err error) {
	if dir == "" {
		dir, err = os.MkdirTemp("", "imlb-dev-")
		if err != nil {
			return "", nil, err
		}
		return dir, func() { _ = os.RemoveAll(dir) }, nil
	}
	abs, err = filepath.Abs(dir)
	if err != nil {
		return "", nil, err
	}
	if err := os.MkdirAll(abs, 0o700); err != nil {
		return "", nil, err
	}
	return abs, func() {}, nil
}

// prepare does everything that can fail for reasons of the machine or the
// command line before the first process starts.
func (c *devCmd) prepare(ctx context.Context, dir string, users []devUser) (*devCluster, error) {
	ports, err := planFrontPorts(ctx, c.BasePort)
	if err != nil {
		return nil, err
	}
	tls, err := ensureDevTLS(dir, devDomain, time.Now())
	if err != nil {
		return nil, err
	}
	if c.Consul != "" {
		if err := askConsul(ctx, c.Consul); err != nil {
			return nil, err
		}
	}
	database := c.Database
	if database == "" {
		database = "sqlite:" + filepath.Join(dir, "imlb.db")
	}
	accounts, err := ensureDevAccounts(ctx, database, users)
	if err != nil {
		return nil, err
	}
	cluster := &devCluster{dir: dir, tls: tls, ports: ports, accounts: accounts, database: database, consul: c.Consul}
	if c.Consul != "" {
		cluster.service = fmt.Sprintf("imlb-dev-%d", c.BasePort)
	}
	return cluster, cluster.planNodes(ctx, c.Nodes)
}

// devCluster is what `imlb dev` runs.
type devCluster struct {
	dir      string
	tls      devTLS
	ports    frontPorts
	accounts []devAccount
	database string
	consul   string // agent address, or empty for the static list
	service  string // the nodes' service name in Consul
	plan     []devNode

	front *process
	nodes []*process // in the order of plan
}

// devNode is where one node will listen.
type devNode struct {
	name  string
	addr  string // XMPP behind PROXY v2
	admin string
	bus   string // NATS routes
}

func (d *devCluster) planNodes(ctx context.Context, n int) error {
	free, err := freePorts(ctx, 3*n, d.ports)
	if err != nil {
		return err
	}
	for i := range n {
		d.plan = append(d.plan, devNode{
			name: fmt.Sprintf("node-%d", i+1), addr: free[3*i], admin: free[3*i+1], bus: free[3*i+2],
		})
	}
	return nil
}

// start brings up the nodes, then the front, and waits until all are ready.
func (d *devCluster) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, devReadyTimeout)
	defer cancel()
	for _, n := range d.plan {
		config, err := d.writeNodeConfig(n)
		if err != nil {
			return err
		}
		p, err := startProcess(ctx, n.name, filepath.Join(d.dir, n.name+".log"), "node", "--config", config)
		if err != nil {
			return err
		}
		d.nodes = append(d.nodes, p)
	}
	for i, n := range d.plan {
		if err := waitUntil(ctx, d.nodes[i], func() bool { return isReady(ctx, n.admin) }); err != nil {
			return err
		}
	}
	config, err := d.writeFrontConfig()
	if err != nil {
		return err
	}
	d.front, err = startProcess(ctx, "front", filepath.Join(d.dir, "front.log"), "proxy", "--config", config)
	if err != nil {
		return err
	}
	return waitUntil(ctx, d.front, func() bool { return d.allPlaced(ctx) })
}

// waitUntil polls a child until it is ready, the child ends, or ctx does.
func waitUntil(ctx context.Context, p *process, ready func() bool) error {
	ticker := time.NewTicker(devPollInterval)
	defer ticker.Stop()
	for {
		if ready() {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s ended while starting: %s; the end of its log:\n%s", p.name, p.state(), p.logTail())
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return fmt.Errorf("%s is not ready after %v; the end of its log:\n%s", p.name, devReadyTimeout, p.logTail())
			}
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

// isReady asks a child's /readyz.
func isReady(ctx context.Context, admin string) bool {
	_, err := getBody(ctx, "http://"+admin+"/readyz")
	return err == nil
}

// allPlaced tells whether the front places users on all nodes.
func (d *devCluster) allPlaced(ctx context.Context) bool {
	if !isReady(ctx, d.ports.admin) {
		return false
	}
	body, err := getBody(ctx, "http://"+d.ports.admin+"/status")
	if err != nil {
		return false
	}
	var status frontStatus
	if err := json.Unmarshal(body, &status); err != nil || len(status.Pools) != 1 {
		return false
	}
	return status.Pools[0].Fit == len(d.plan)
}

// getBody returns the body of a good answer.
func getBody(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", url, resp.Status)
	}
	return body, nil
}

// askConsul makes sure that an agent answers before anything is started that would
// wait for it.
func askConsul(ctx context.Context, addr string) error {
	if _, _, err := net.SplitHostPort(addr); err != nil {
		return fmt.Errorf("--consul %s: want the host:port of an agent's HTTP API, like 127.0.0.1:8500", addr)
	}
	ctx, cancel := context.WithTimeout(ctx, devConsulTimeout)
	defer cancel()
	if _, err := getBody(ctx, "http://"+addr+"/v1/status/leader"); err != nil {
		return fmt.Errorf("--consul %s: no Consul agent answers there: %w", addr, err)
	}
	return nil
}

// watch waits until ctx ends or the front does. A node that ends is reported:
// that is what a development cluster is good for.
func (d *devCluster) watch(ctx context.Context) error {
	ended := make(chan *process)
	for _, p := range d.nodes {
		go func() {
			select {
			case <-p.done:
			case <-ctx.Done():
				return
			}
			select {
			case ended <- p:
			case <-ctx.Done():
			}
		}()
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-d.front.done:
			return fmt.Errorf("the front ended: %s; the end of its log:\n%s", d.front.state(), d.front.logTail())
		case p := <-ended:
			fmt.Fprintf(os.Stdout, "%s (pid %d) ended: %s; its users log in to the other nodes\n", p.name, p.pid(), p.state())
		}
	}
}

// stop ends the front first, so that clients are told and no new ones come,
// then the nodes. A node that was killed on purpose is no error.
func (d *devCluster) stop() error {
	var errs []error
	if d.front != nil {
		errs = append(errs, d.front.stop(devStopTimeout))
	}
	for _, p := range d.nodes {
		errs = append(errs, p.stop(devStopTimeout))
	}
	return errors.Join(errs...)
}

// devDescriptionFile is there while the cluster runs, from ready on.
const devDescriptionFile = "dev.json"

// devDescription is the content of dev.json; scripts rely on it.
type devDescription struct {
	Domain string         `json:"domain"`
	Front  devFrontEntry  `json:"front"`
	Nodes  []devNodeEntry `json:"nodes"`
	CA     string         `json:"ca"`
}

type devFrontEntry struct {
	PID   int    `json:"pid"`
	XMPP  string `json:"xmpp"`
	XMPPS string `json:"xmpps"`
	HTTPS string `json:"https"`
	QUIC  string `json:"quic"`
	Admin string `json:"admin"`
}

type devNodeEntry struct {
	Name  string `json:"name"`
	PID   int    `json:"pid"`
	Addr  string `json:"addr"`
	Admin string `json:"admin"`
}

func (d *devCluster) describe() devDescription {
	desc := devDescription{
		Domain: devDomain,
		Front: devFrontEntry{
			PID: d.front.pid(), XMPP: d.ports.xmpp, XMPPS: d.ports.xmpps,
			HTTPS: d.ports.https, QUIC: d.ports.quic, Admin: d.ports.admin,
		},
		CA: d.tls.ca,
	}
	for i, n := range d.plan {
		desc.Nodes = append(desc.Nodes, devNodeEntry{Name: n.name, PID: d.nodes[i].pid(), Addr: n.addr, Admin: n.admin})
	}
	return desc
}

// announce writes dev.json and tells a person what runs and how to connect.
func (d *devCluster) announce(w *os.File) error {
	data, err := json.MarshalIndent(d.describe(), "", "  ")
	if err != nil {
		return err
	}
	if err := writeFileAtomically(filepath.Join(d.dir, devDescriptionFile), append(data, '\n')); err != nil {
		return err
	}
	_, err = w.WriteString(d.text())
	return err
}

func (d *devCluster) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "A chat cluster runs on this machine: one front (pid %d) and %d nodes.\n\n", d.front.pid(), len(d.nodes))
	fmt.Fprintf(&b, "  XMPP, STARTTLS     %s\n", d.ports.xmpp)
	fmt.Fprintf(&b, "  XMPP, direct TLS   %s\n", d.ports.xmpps)
	fmt.Fprintf(&b, "  WebSocket          wss://%s/xmpp-websocket\n", strings.Replace(d.ports.https, devHost, devDomain, 1))
	fmt.Fprintf(&b, "  BOSH               https://%s/http-bind\n", strings.Replace(d.ports.https, devHost, devDomain, 1))
	fmt.Fprintf(&b, "  QUIC               %s (UDP, ALPN xmpp-client)\n", d.ports.quic)
	fmt.Fprintf(&b, "  admin              http://%s/status\n\n", d.ports.admin)
	for i, n := range d.plan {
		fmt.Fprintf(&b, "  %-18s %s (pid %d)\n", n.name, n.addr, d.nodes[i].pid())
	}
	b.WriteString("\nAccounts:\n")
	for _, a := range d.accounts {
		fmt.Fprintf(&b, "  %-22s %s\n", a.name+"@"+devDomain, a.passwordText())
	}
	fmt.Fprintf(&b, "\nTrust this certificate authority: %s\nData, logs and dev.json:          %s\n", d.tls.ca, d.dir)
	if sender, password, ok := d.someAccount(); ok {
		fmt.Fprintf(&b, "\nPaste to send a message (apt install go-sendxmpp):\n"+
			"  echo hello | SSL_CERT_FILE=%s go-sendxmpp -u %s@%s -p %s -j %s %s@%s\n",
			d.tls.ca, sender, devDomain, shellQuote(password), strings.Replace(d.ports.xmpp, devHost, devDomain, 1),
			d.accounts[len(d.accounts)-1].name, devDomain)
	}
	b.WriteString("\nready\n")
	return b.String()
}

// someAccount returns the first account whose password is known.
func (d *devCluster) someAccount() (name, password string, ok bool) {
	for _, a := range d.accounts {
		if a.password != "" {
			return a.name, a.password, true
		}
	}
	return "", "", false
}

// shellQuote makes s one word of a POSIX shell.
func shellQuote(s string) string {
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// writeFileAtomically replaces file, so that a script never reads half of it.
func writeFileAtomically(file string, data []byte) error {
	temp := file + ".new"
	if err := os.WriteFile(temp, data, 0o600); err != nil {
		return err
	}
	return os.Rename(temp, file)
}
