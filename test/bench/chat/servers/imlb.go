//go:build linux

package servers

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"

	"imlb/backend"
	"imlb/backend/store"
	"imlb/backend/store/storetest"
	"imlb/test/bench/peers"
)

// IMLB returns the variants of our own program. Their versions are for the caller to fill
// in, who may have it built later.
func IMLB(path string) []Server {
	return []Server{
		{
			Name: "imlb", Family: Ours,
			Settings: "a front and a node; SQLite, synced to disk before it acknowledges and delivers",
			Start: func(ctx context.Context, task Task) (*Running, error) {
				c := cluster{path: path, task: task, database: "sqlite:" + filepath.Join(task.Dir, imlbDatabase)}
				return c.start(ctx, 1, &Running{})
			},
			Fill: imlbLayout().fill,
		},
		{
			Name: "imlb-3-postgres", Family: Ours,
			Settings: "a front and three nodes; PostgreSQL (fsync and synchronous_commit on, as is its default), whose processes count too",
			Start: func(ctx context.Context, task Task) (*Running, error) {
				return startOnPostgres(ctx, cluster{path: path, task: task})
			},
		},
	}
}

// PostgresMissing tells whether PostgreSQL's server is not installed here.
func PostgresMissing() bool { return !storetest.HasPostgres() }

func startOnPostgres(ctx context.Context, c cluster) (*Running, error) {
	p, err := storetest.StartPostgres(ctx)
	if err != nil {
		return nil, err
	}
	r := &Running{PIDs: []int{p.PID()}, stops: []func() error{p.Stop, p.Shutdown}}
	if c.database, err = p.NewDatabase(ctx); err != nil {
		return nil, errors.Join(err, r.Stop())
	}
	return c.start(ctx, 3, r)
}

// cluster is a front with nodes.
type cluster struct {
	path     string
	task     Task
	database string
	nodes    []node
}

// node is where a node listens.
type node struct{ name, addr, admin, bus string }

// start starts all, as part of what runs already.
func (c *cluster) start(ctx context.Context, nodes int, r *Running) (*Running, error) {
	err := c.launch(ctx, nodes, r)
	if err != nil {
		return nil, errors.Join(err, r.Stop())
	}
	return r, nil
}

func (c *cluster) launch(ctx context.Context, nodes int, r *Running) error {
	addrs, err := freeAddrs(ctx, 3*nodes+2)
	if err != nil {
		return err
	}
	for i := range nodes {
		c.nodes = append(c.nodes, node{name: fmt.Sprintf("node-%d", i+1), addr: addrs[3*i], admin: addrs[3*i+1], bus: addrs[3*i+2]})
	}
	if err := c.accounts(ctx); err != nil {
		return fmt.Errorf("make accounts: %w", err)
	}
	for _, n := range c.nodes {
		if err := c.run(ctx, r, "node", n.name, n.admin, c.nodeDocument(n)); err != nil {
			return err
		}
	}
	admin := addrs[3*nodes+1]
	r.Addr = addrs[3*nodes]
	return c.run(ctx, r, "proxy", "front", admin, c.frontDocument(r.Addr, admin))
}

// accounts makes the users that are not there yet, who have one password and so the same
// keys.
func (c *cluster) accounts(ctx context.Context) (err error) {
	db, err := store.Open(ctx, c.database, store.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	keys, err := backend.DeriveCredentials(Password, backend.DefaultScramIterations)
	if err != nil {
		return err
	}
	for i := range c.task.Users {
		if _, err := db.CreateAccount(ctx, userName(i+1)+"@"+Domain, keys); err != nil && !errors.Is(err, store.ErrExists) {
			return err
		}
	}
	return nil
}

// run starts a process and waits until it is ready.
func (c *cluster) run(ctx context.Context, r *Running, command, name, admin, document string) error {
	file, err := c.task.write(name+".yaml", document)
	if err != nil {
		return err
	}
	p, err := peers.Launch(ctx, name, nil, nil, c.path, command, "--config", file)
	if err != nil {
		return err
	}
	r.add(p)
	return p.Await(ctx, startTime, ready(admin))
}

// ready asks a process whether it is.
func ready(admin string) func(context.Context) error {
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+admin+"/readyz", http.NoBody)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return errors.New(resp.Status)
		}
		return nil
	}
}

func (c *cluster) nodeDocument(n node) string {
	var routes []string
	for _, other := range c.nodes {
		if other.name != n.name {
			routes = append(routes, fmt.Sprintf("%q", other.bus))
		}
	}
	return fmt.Sprintf(`
name: %s
domain: %s
listen: %q
database: {url: %q}
bus: {cluster: {listen: %q, routes: [%s]}}
admin: {address: %q}
log: {level: warn}
`, n.name, Domain, n.addr, c.database, n.bus, strings.Join(routes, ", "), n.admin)
}

func (c *cluster) frontDocument(addr, admin string) string {
	var nodes []string
	for _, n := range c.nodes {
		nodes = append(nodes, fmt.Sprintf("{name: %s, address: %q, admin: %q}", n.name, n.addr, n.admin))
	}
	return fmt.Sprintf(`
domains: [%s]
listeners: [{protocol: xmpp, address: %q}]
pools: {chat: {nodes: [%s], checks: [{type: agent}]}}
tls: {certificates: [{cert_file: %q, key_file: %q}]}
admin: {address: %q}
log: {level: warn}
`, Domain, addr, strings.Join(nodes, ", "), c.task.Certs.Cert, c.task.Certs.Key, admin)
}
