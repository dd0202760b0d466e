package configs

import (
	"net/netip"
	"time"
)

// Node is the document of a chat node.
type Node struct {
	// Name places users, so it must stay the same from one start to the next.
	Name    string `yaml:"name" is:"name" required:"name the node; the name decides which users live on it, so it must stay the same"`
	Cluster string `yaml:"cluster" default:"imlb" is:"name"`
	Domain  string `yaml:"domain" is:"domain" required:"give the domain of your users, like example.com"`
	// Listen is the address on which fronts connect.
	Listen        string         `yaml:"listen" default:"127.0.0.1:5280" is:"listen"`
	TrustedFronts []netip.Prefix `yaml:"trusted_fronts" default:"127.0.0.0/8,::1/128"`
	Zone          string         `yaml:"zone,omitempty" is:"name"`
	Weight        float64        `yaml:"weight" default:"1" min:"0.001" max:"1000"`
	Database      Database       `yaml:"database"`
	Bus           Bus            `yaml:"bus"`
	Consul        *Consul        `yaml:"consul,omitempty"` // nil: no Consul at all
	SASL          NodeSASL       `yaml:"sasl"`
	Limits        NodeLimits     `yaml:"limits"`
	Timeouts      NodeTimeouts   `yaml:"timeouts"`
	Admin         NodeAdmin      `yaml:"admin"`
	Log           Log            `yaml:"log"`
}

// Database is where the cluster remembers. All nodes of a cluster use the same.
type Database struct {
	URL string `yaml:"url" is:"database" required:"name the database of the cluster, like sqlite:imlb.db"`
}

// Bus says how signals travel among the nodes: through NATS servers that run
// inside the nodes (the default), or through an external NATS cluster (URLs).
type Bus struct {
	URLs    []string   `yaml:"urls,omitempty" is:"nats"`
	Cluster BusCluster `yaml:"cluster"`
}

// BusCluster joins the embedded NATS servers of the nodes.
type BusCluster struct {
	Listen string `yaml:"listen,omitempty" is:"listen"` // empty: the node is alone
	// Advertise is what the others are told, where it differs from Listen.
	Advertise string `yaml:"advertise,omitempty" is:"dial"`
	// SecretFile holds what the servers ask each other for, the same on all
	// nodes; empty: nothing.
	SecretFile string   `yaml:"secret_file,omitempty" is:"file"`
	Routes     []string `yaml:"routes,omitempty" is:"dial"` // some other nodes' listen addresses; the rest is learnt from them
}

// NodeSASL says which mechanisms are offered and how new passwords are kept.
type NodeSASL struct {
	Mechanisms []Mechanism `yaml:"mechanisms" default:"SCRAM-SHA-256,SCRAM-SHA-1,PLAIN"`
	// Iterations is the work in each key; RFC 7677 §4 asks for at least 4096.
	Iterations int `yaml:"iterations" default:"10000" min:"4096" max:"10000000"`
	// SecretFile holds what the salts of names without an account are made
	// from, the same on all nodes, so that they look like accounts on each of
	// them; empty: each start of a node has its own.
	SecretFile string `yaml:"secret_file,omitempty" is:"file"`
}

// NodeLimits bound what one client can cost.
type NodeLimits struct {
	MaxStanza     Size `yaml:"max_stanza" default:"256KiB" min:"10000" max:"64MiB"`
	MaxQueue      Size `yaml:"max_queue" default:"1MiB" min:"64KiB" max:"1GiB"` // waiting for one client to read
	MaxContacts   int  `yaml:"max_contacts" default:"5000" min:"1"`             // in one user's roster
	MaxSessions   int  `yaml:"max_sessions" default:"0" min:"0"`                // on the node; 0: no limit
	LoginAttempts int  `yaml:"login_attempts" default:"5" min:"1" max:"100"`
}

// NodeTimeouts bound how long things may take.
type NodeTimeouts struct {
	Login time.Duration `yaml:"login" default:"30s" min:"10ms"` // from the front's connection to a bound resource
	Write time.Duration `yaml:"write" default:"30s" min:"10ms"` // a front that does not read
	// Lease is how long a node that fell silent is believed to live. After that
	// others end its sessions.
	Lease    time.Duration `yaml:"lease" default:"10s" min:"1s"`
	Shutdown time.Duration `yaml:"shutdown" default:"20s" min:"0s"` // for sessions to end when the node stops
}

// NodeAdmin is the HTTP listener for operators and health checks.
type NodeAdmin struct {
	Address string `yaml:"address" default:"127.0.0.1:5281" is:"listen"`
}
