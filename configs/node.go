package configs

import (
	"net/netip"
	"time"
)

// Node is the document of a chat node.
type Node struct {
	// Name places users, so it must stay the same from one start to the next.
	Name string `yaml:"name" is:"name" required:"name the node; the name decides which users live on it, so it must stay the same"`
	// Cluster is the cluster that the node belongs to. It names the services in Consul.
	Cluster string `yaml:"cluster" default:"imlb" is:"name"`
	// Domain is the domain of the users.
	Domain string `yaml:"domain" is:"domain" required:"give the domain of your users, like example.com"`
	// Listen is the host:port on which fronts connect.
	Listen string `yaml:"listen" default:"127.0.0.1:5280" is:"listen"`
	// TrustedFronts are the networks from which fronts may connect.
	TrustedFronts []netip.Prefix `yaml:"trusted_fronts" default:"127.0.0.0/8,::1/128"`
	// Zone is where the node stands; fronts of that zone prefer it.
	Zone string `yaml:"zone,omitempty" is:"name"`
	// Weight is the node's share compared with others': 2 carries twice as many users
	// as 1.
	Weight float64 `yaml:"weight" default:"1" min:"0.001" max:"1000"`
	// Database is where the cluster remembers.
	Database Database `yaml:"database"`
	// Bus says how signals travel among the nodes.
	Bus Bus `yaml:"bus"`
	// Consul is the agent to talk to; without it Consul is not used.
	Consul *Consul `yaml:"consul,omitempty"`
	// SASL says how clients may log in, and how new passwords are kept.
	SASL NodeSASL `yaml:"sasl"`
	// Limits bound what one client can cost.
	Limits NodeLimits `yaml:"limits"`
	// Timeouts bound how long things may take.
	Timeouts NodeTimeouts `yaml:"timeouts"`
	// Admin is the HTTP listener for operators and health checks.
	Admin NodeAdmin `yaml:"admin"`
	// Log says what is logged to standard error, and how.
	Log Log `yaml:"log"`
}

// Database is where the cluster remembers. All nodes of a cluster use the same.
type Database struct {
	// URL is sqlite: and a file name, which suits one host, or that of a PostgreSQL
	// database, postgres://USER:PASSWORD@HOST/DATABASE. A password may be left
	// to the environment (PGPASSWORD, PGPASSFILE).
	URL string `yaml:"url" is:"database" required:"name the database of the cluster, like sqlite:imlb.db"`
}

// Bus says how signals travel among the nodes: through NATS servers that run
// inside the nodes (the default), or through an external NATS cluster (URLs).
type Bus struct {
	// URLs are servers of an external NATS cluster, used instead of the embedded ones.
	URLs []string `yaml:"urls,omitempty" is:"nats"`
	// Cluster joins the embedded servers of the nodes.
	Cluster BusCluster `yaml:"cluster"`
}

// BusCluster joins the embedded NATS servers of the nodes.
type BusCluster struct {
	// Listen is the host:port for the other nodes' servers; empty: the node is alone.
	Listen string `yaml:"listen,omitempty" is:"listen"`
	// Advertise is what the others are told, where it differs from listen.
	Advertise string `yaml:"advertise,omitempty" is:"dial"`
	// SecretFile holds what the servers ask each other for, the same on all
	// nodes; empty: nothing.
	SecretFile string `yaml:"secret_file,omitempty" is:"file"`
	// Routes are some other nodes' listen addresses; the rest is learnt from them.
	Routes []string `yaml:"routes,omitempty" is:"dial"`
}

// NodeSASL says which mechanisms are offered and how new passwords are kept.
type NodeSASL struct {
	// Mechanisms are those that clients may log in with.
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
	// MaxStanza is the largest stanza; RFC 6120 §13.12 asks for at least 10,000 bytes. It
	// travels between nodes in one message of NATS, which has a mebibyte for all.
	MaxStanza Size `yaml:"max_stanza" default:"256KiB" min:"10000" max:"960KiB"`
	// MaxQueue is how much may wait for one client to read.
	MaxQueue Size `yaml:"max_queue" default:"1MiB" min:"64KiB" max:"1GiB"`
	// MaxContacts is how many contacts a user's roster may have.
	MaxContacts int `yaml:"max_contacts" default:"5000" min:"1"`
	// MaxSessions is how many sessions the node takes; 0: no limit.
	MaxSessions int `yaml:"max_sessions" default:"0" min:"0"`
	// LoginAttempts is after how many failed logins the connection is closed.
	LoginAttempts int `yaml:"login_attempts" default:"5" min:"1" max:"100"`
}

// NodeTimeouts bound how long things may take.
type NodeTimeouts struct {
	// Login is from the front's connection to a bound resource.
	Login time.Duration `yaml:"login" default:"30s" min:"10ms"`
	// Write is until a front reads what was sent to it.
	Write time.Duration `yaml:"write" default:"30s" min:"10ms"`
	// Lease is how long a node that fell silent is believed to live. After that
	// others end its sessions.
	Lease time.Duration `yaml:"lease" default:"10s" min:"1s"`
	// Shutdown is for sessions to end when the node stops.
	Shutdown time.Duration `yaml:"shutdown" default:"20s" min:"0s"`
}

// NodeAdmin is the HTTP listener for operators and health checks.
type NodeAdmin struct {
	// Address is its host:port. It knows no passwords: keep it on a network that
	// you trust.
	Address string `yaml:"address" default:"127.0.0.1:5281" is:"listen"`
}
