package main

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"

	"imlb/backend/bus"
	"imlb/configs"
	"imlb/health"
)

// busMeta is the name under which a node's registration in Consul says where its
// embedded NATS server meets those of the other nodes.
const busMeta = "bus"

// meetsByConsul tells whether the nodes' embedded servers find each other in Consul.
func meetsByConsul(doc configs.Node) bool {
	return doc.Consul != nil && doc.Consul.Register != nil && len(doc.Bus.URLs) == 0 && doc.Bus.Cluster.Listen != ""
}

// busAddress is where the other nodes' servers connect to this one's.
func busAddress(doc configs.Node, signals *bus.Bus) string {
	return cmp.Or(doc.Bus.Cluster.Advertise, signals.ClusterAddr())
}

// followRoutes connects the node's embedded server with those of the nodes that are
// registered in Consul, until stop is called. A server that is connected to one of them
// learns of the others by itself, and is left alone: those who come connect to it.
func followRoutes(ctx context.Context, doc configs.Node, signals *bus.Bus, log *slog.Logger) (stop func(), err error) {
	if !meetsByConsul(doc) {
		return func() {}, nil
	}
	source, err := health.NewConsul(health.ConsulOptions{
		Agent: consulAgent(doc.Consul), Service: doc.Consul.Register.Service, Logger: log,
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var following sync.WaitGroup
	following.Go(func() {
		_ = source.Run(ctx, func(nodes []health.Endpoint) { // which never fails
			routes := routesTo(doc, nodes)
			if len(routes) == 0 || !signals.Alone() {
				return
			}
			if err := signals.SetRoutes(routes); err != nil {
				log.WarnContext(ctx, "connect the bus with the nodes in Consul", slog.Any("error", err))
			}
		})
	})
	return func() { cancel(); following.Wait() }, nil
}

// routesTo are the addresses of the other nodes' servers, those of the document
// included.
func routesTo(doc configs.Node, nodes []health.Endpoint) []string {
	routes := slices.Clone(doc.Bus.Cluster.Routes)
	for _, node := range nodes {
		if addr := node.Meta[busMeta]; addr != "" && node.Name != doc.Name {
			routes = append(routes, addr)
		}
	}
	slices.Sort(routes)
	return slices.Compact(routes)
}
