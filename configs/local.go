package configs

import (
	"cmp"
	"net"
)

// Local is what one front knows of itself when its document comes from Consul,
// where all fronts of a cluster read the same one. It goes before what the
// document says.
type Local struct {
	// Cluster is the cluster under whose keys the document lies. It is the
	// document's own when the document names none, and no other can be named.
	Cluster string
	// Agent is the agent that the document comes from, used for everything: of the
	// document's block consul, only register counts. Nil: the block stands.
	Agent *Consul
	// Host is where others reach this machine, a name or an address: it completes
	// what is registered when the document listens on all addresses.
	Host string
	// Name tells the front from others. A document that comes from an agent has none of
	// its own, because all fronts read it.
	Name string
	// Zone is where the front stands, if not empty.
	Zone string
	// Dir is the directory from which relative file names are taken. When it is
	// empty no file is touched, and file names stay as they are.
	Dir string
	// CacheDir is where the last good configuration is kept, if not empty.
	CacheDir string
}

// ParseProxyFor reads a document that is shared in Consul as one of its fronts
// does. The error is an Errors.
func ParseProxyFor(name string, data []byte, local Local) (Proxy, error) {
	return parseProxy(name, data, local)
}

// adopt puts what the front knows of itself in the place of what the document
// says.
func (p *Proxy) adopt(d *decoder, l Local) {
	if l.Cluster != "" {
		_, named := d.places["cluster"]
		if named && p.Cluster != l.Cluster {
			d.refuse("cluster", "is %q, but the document lies among the keys of %q", p.Cluster, l.Cluster)
		}
		p.Cluster = l.Cluster
	}
	if l.Agent != nil {
		agent := *l.Agent
		if p.Consul != nil {
			agent.Register = p.Consul.Register
		}
		p.Consul = &agent
		d.shared()
	}
	p.Name = cmp.Or(l.Name, p.Name)
	if l.Zone != "" {
		p.Placement.Zone = l.Zone
	}
	if l.CacheDir != "" {
		p.CacheDir = l.CacheDir
	}
}

// shared refuses what fronts cannot have in common.
func (d *decoder) shared() {
	if d.has("", "name") {
		d.refuse("name", "would be that of all fronts, because they share this document; leave it out, and start each with its own: imlb proxy --name")
	}
}

// reach is where others reach a listener: its own address, or with the machine's
// host if it listens on all of them; empty when that is not known.
func (l Local) reach(address string) string {
	if reachable(address) {
		return address
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil || l.Host == "" || anyPort(address) {
		return ""
	}
	return net.JoinHostPort(l.Host, port)
}
