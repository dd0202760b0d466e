package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	"imlb/configs"
	"imlb/health"
)

// hint says on standard error that no node has the name, if so. That is no error: a node
// may come later, and fronts with documents of their own may know others. Who takes back what
// Consul does not have is told how to have fronts forget it.
func (f *overrideFlags) hint(ctx context.Context, kv *configs.KV, r overrideResult) {
	none := configs.Override{}.String()
	if r.After == none && r.Before != none {
		return // it is taken back, wherever the node has gone
	}
	if said, _, err := kv.Overrides(ctx); r.After == none && err == nil && len(said) == 0 {
		fmt.Fprintf(os.Stderr, "Consul has nothing about any node of cluster %s. If it has lost its state, fronts go on by what was said before, as /status shows: "+
			"\"imlb drain %s\" and then \"imlb undrain %[2]s\" takes that back.\n", f.Cluster, f.Node)
	}
	nodes, err := f.nodes(ctx, kv)
	switch {
	case err != nil:
		fmt.Fprintf(os.Stderr, "Whether there is such a node could not be looked up: %v\n", err)
	case !slices.Contains(nodes, f.Node):
		fmt.Fprintf(os.Stderr, "No node %q is registered in Consul for cluster %s, or in its document there; %s.\n", f.Node, f.Cluster, configs.SuggestName(f.Node, nodes))
	}
}

// nodes returns the names of the nodes in the pools of the cluster's document, sorted.
// Without a good one it takes the service that nodes register as by default.
func (f *kvFlags) nodes(ctx context.Context, kv *configs.KV) ([]string, error) {
	pools := map[string]configs.Pool{"": {Consul: &configs.PoolConsul{Service: f.Cluster + "-node"}}}
	d, err := kv.Document(ctx)
	if err != nil && !errors.Is(err, configs.ErrNoDocument) {
		return nil, err
	}
	if doc, wrong := f.parse(kv.DocumentKey(), d.Data); err == nil && wrong == nil {
		pools = doc.Pools
	}
	names := make(map[string]bool)
	for _, pool := range pools {
		for _, n := range pool.Nodes {
			names[n.Name] = true
		}
		if pool.Consul == nil {
			continue
		}
		agent := f.agent()
		source, err := health.NewConsul(health.ConsulOptions{Agent: consulAgent(&agent), Service: pool.Consul.Service, Tag: pool.Consul.Tag})
		if err != nil {
			return nil, err
		}
		endpoints, err := source.Look(ctx)
		if err != nil {
			return nil, err
		}
		for _, e := range endpoints {
			names[e.Name] = true
		}
	}
	return slices.Sorted(maps.Keys(names)), nil
}
