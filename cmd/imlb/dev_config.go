package main

import (
	"fmt"
	"path/filepath"

	"github.com/goccy/go-yaml"
)

// The documents below are what an operator would write; the children decode
// them as strictly as any other.

// devCluster's name in documents; a cluster's data directory holds one cluster.
const devClusterName = "dev"

// writeNodeConfig writes the document of a node and returns its file.
func (d *devCluster) writeNodeConfig(n devNode) (string, error) {
	doc := map[string]any{
		"name":     n.name,
		"cluster":  devClusterName,
		"domain":   devDomain,
		"listen":   n.addr,
		"database": map[string]any{"url": d.database},
		"bus":      map[string]any{"cluster": map[string]any{"listen": n.bus, "routes": d.routesOf(n)}},
		"admin":    map[string]any{"address": n.admin},
		"timeouts": map[string]any{"lease": "5s", "shutdown": "5s"},
	}
	if d.consul != "" {
		doc["consul"] = map[string]any{
			"address":  d.consul,
			"register": map[string]any{"service": d.service, "interval": "1s"},
		}
	}
	return d.writeDocument(n.name+".yaml", doc)
}

// routesOf lists the other nodes' NATS servers.
func (d *devCluster) routesOf(n devNode) []string {
	routes := []string{}
	for _, other := range d.plan {
		if other.name != n.name {
			routes = append(routes, other.bus)
		}
	}
	return routes
}

// writeFrontConfig writes the document of the front and returns its file.
func (d *devCluster) writeFrontConfig() (string, error) {
	doc := map[string]any{
		"cluster": devClusterName,
		"domains": []string{devDomain},
		"listeners": []map[string]any{
			{"protocol": "xmpp", "address": d.ports.xmpp},
			{"protocol": "xmpps", "address": d.ports.xmpps},
			{"protocol": "wss", "address": d.ports.https, "bosh": map[string]any{}},
			{"protocol": "quic", "address": d.ports.quic},
		},
		"pools": map[string]any{"chat": d.pool()},
		// Of a handful of sessions a share is one or two, and users would seldom be where they belong.
		"placement": map[string]any{"epsilon": 10},
		"tls":       map[string]any{"certificates": []map[string]any{{"cert_file": d.tls.cert, "key_file": d.tls.key}}},
		"timeouts":  map[string]any{"shutdown": "5s"},
		"admin":     map[string]any{"address": d.ports.admin},
	}
	if d.consul != "" {
		doc["consul"] = map[string]any{
			"address":  d.consul,
			"register": map[string]any{"service": d.service + "-front", "interval": "1s"},
		}
	}
	return d.writeDocument("front.yaml", doc)
}

// pool is where the front finds the nodes: in Consul, or in a list.
func (d *devCluster) pool() map[string]any {
	pool := map[string]any{"checks": []map[string]any{{"type": "agent"}}, "check": map[string]any{"interval": "500ms", "timeout": "2s"}}
	if d.consul != "" {
		pool["consul"] = map[string]any{"service": d.service}
		return pool
	}
	nodes := []map[string]any{}
	for _, n := range d.plan {
		nodes = append(nodes, map[string]any{"name": n.name, "address": n.addr, "admin": n.admin})
	}
	pool["nodes"] = nodes
	return pool
}

func (d *devCluster) writeDocument(name string, doc map[string]any) (string, error) {
	data, err := yaml.Marshal(doc)
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	file := filepath.Join(d.dir, name)
	return file, writeFileAtomically(file, data)
}
