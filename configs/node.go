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
	// Contacts are where people reach those who run the service.
	Contacts NodeContacts `yaml:"contacts"`
	// Archive says how long messages are kept.
	Archive NodeArchive `yaml:"archive"`
	// Registration says what users may do with accounts themselves.
	Registration NodeRegistration `yaml:"registration"`
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
	// Routes are some other nodes' listen addresses; the rest is learnt from them. Nodes
	// that are registered in Consul find each other there.
	Routes []string `yaml:"routes,omitempty" is:"dial"`
}

// NodeSASL says which mechanisms are offered and how new passwords are kept.
type NodeSASL struct {
	// Mechanisms are those that clients may log in with, best first, as far as they can:
	// PLAIN and OAUTHBEARER in TLS, EXTERNAL with a certificate that the front has verified,
	// -PLUS where the front ends TLS, and SCRAM-SHA-512 and SCRAM-SHA-256 while no account has
	// keys for weaker ones only. By default SCRAM-SHA-512, SCRAM-SHA-256, SCRAM-SHA-1 and PLAIN,
	// with accounts of elsewhere PLAIN alone, and OAUTHBEARER with oauth. Most clients of
	// today can do -PLUS; some old ones try it in a way that is no longer safe, and
	// then cannot log in at all.
	Mechanisms []Mechanism `yaml:"mechanisms,omitempty"`
	// Iterations is the work in each key; RFC 7677 §4 asks for at least 4096.
	Iterations int `yaml:"iterations" default:"10000" min:"4096" max:"10000000"`
	// TokenLifetime is how long a client may log in with a token that an earlier login
	// has brought (XEP-0484). In the second half of that it gets the next one, but not with
	// accounts or oauth: whoever may not log in any more there can do so with a token until
	// that is over, or imlb user suspend ends it.
	TokenLifetime time.Duration `yaml:"token_lifetime" default:"504h" min:"1m"`
	// SecretFile holds what the salts of names without an account are made
	// from, the same on all nodes, so that they look like accounts on each of
	// them; empty: each start of a node has its own.
	SecretFile string `yaml:"secret_file,omitempty" is:"file"`
	// Accounts says who checks passwords.
	Accounts NodeAccounts `yaml:"accounts"`
	// OAuth says which tokens are good; without it there is no OAUTHBEARER.
	OAuth *NodeOAuth `yaml:"oauth,omitempty"`
	// Backoff makes logins wait after others have failed.
	Backoff NodeBackoff `yaml:"backoff"`
}

// NodeContacts are where people reach those who run the service: lists of URIs like
// mailto:abuse@example.com or xmpp:admin@example.com. Clients find them by service
// discovery (XEP-0157).
type NodeContacts struct {
	// Abuse is for reports of abuse.
	Abuse []string `yaml:"abuse,omitempty" is:"uri"`
	// Admin is for who runs the server.
	Admin []string `yaml:"admin,omitempty" is:"uri"`
	// Feedback is for what users think of the service.
	Feedback []string `yaml:"feedback,omitempty" is:"uri"`
	// Sales is for what can be bought.
	Sales []string `yaml:"sales,omitempty" is:"uri"`
	// Security is for reports of weaknesses.
	Security []string `yaml:"security,omitempty" is:"uri"`
	// Status is where it is said whether the service is well.
	Status []string `yaml:"status,omitempty" is:"uri"`
	// Support is for users who need help.
	Support []string `yaml:"support,omitempty" is:"uri"`
}

// NodeArchive says how long messages are kept: the same on all nodes of a cluster.
type NodeArchive struct {
	// KeepDays is how old messages may get that have been delivered, in days. Those
	// that nobody has received may get twice as old. 0: messages are kept for ever.
	KeepDays int `yaml:"keep_days" default:"0" min:"0" max:"36500"`
	// KeepEntries is how many of a user's last messages, sent and received, are kept;
	// those not yet delivered are kept besides. 0: all are.
	KeepEntries int `yaml:"keep_entries" default:"0" min:"0"`
}

// NodeLimits bound what one client can cost.
type NodeLimits struct {
	// MaxStanza is the largest stanza; RFC 6120 §13.12 asks for at least 10,000 bytes. It
	// travels between nodes in one message of NATS, which has a mebibyte for all.
	MaxStanza Size `yaml:"max_stanza" default:"256KiB" min:"10000" max:"960KiB"`
	// MaxQueue is how much may wait for one client to read. Stored messages, which can be
	// got again, have half as much on top.
	MaxQueue Size `yaml:"max_queue" default:"1MiB" min:"64KiB" max:"1GiB"`
	// MaxWaiting is how many messages may wait for a user to receive them. What is sent
	// to a user for whom more wait is refused. It counts what the user has sent as well
	// while none of the user's clients takes messages.
	MaxWaiting int `yaml:"max_waiting" default:"50000" min:"1"`
	// MaxContacts is how many contacts a user's roster may have.
	MaxContacts int `yaml:"max_contacts" default:"5000" min:"1"`
	// MaxBlocked is how many addresses a user may block; together they may have 64 KiB.
	MaxBlocked int `yaml:"max_blocked" default:"1000" min:"1" max:"10000"`
	// MaxPrivate is how much a user's clients may keep as private XML (XEP-0049).
	MaxPrivate Size `yaml:"max_private" default:"256KiB" min:"1KiB" max:"16MiB"`
	// MaxVCard is how big a user's vCard may be, its picture included.
	MaxVCard Size `yaml:"max_vcard" default:"128KiB" min:"1KiB" max:"960KiB"`
	// MaxSessions is how many sessions the node takes; 0: no limit.
	MaxSessions int `yaml:"max_sessions" default:"0" min:"0"`
	// MaxSessionsPerUser is how many sessions one user may have on the node. One more is
	// refused with resource-constraint, unless one that waits for its client can give way.
	MaxSessionsPerUser int `yaml:"max_sessions_per_user" default:"100" min:"1" max:"10000"`
	// MaxUnacknowledged is how many messages a client may leave unacknowledged (XEP-0198)
	// before its session is ended. They are not lost.
	MaxUnacknowledged int `yaml:"max_unacknowledged" default:"10000" min:"100" max:"1000000"`
	// MaxDirected is to how many addresses a session may show itself by directed presence.
	MaxDirected int `yaml:"max_directed" default:"1000" min:"1" max:"100000"`
	// LoginAttempts is after how many failed logins the connection is closed.
	LoginAttempts int `yaml:"login_attempts" default:"5" min:"1" max:"100"`
	// StanzasPerSecond is how many stanzas one session may send; 0: no limit. What is
	// over it, or over one of the next three, waits.
	StanzasPerSecond int `yaml:"stanzas_per_second" default:"1000" min:"0" max:"1000000"`
	// BytesPerSecond is the same in bytes.
	BytesPerSecond Size `yaml:"bytes_per_second" default:"2MiB" min:"0" max:"1GiB"`
	// UserStanzasPerSecond is how many stanzas all sessions of a user on the node may
	// send; 0: no limit.
	UserStanzasPerSecond int `yaml:"user_stanzas_per_second" default:"2000" min:"0" max:"1000000"`
	// UserBytesPerSecond is the same in bytes.
	UserBytesPerSecond Size `yaml:"user_bytes_per_second" default:"4MiB" min:"0" max:"1GiB"`
	// Burst is how long these rates may be saved up.
	Burst time.Duration `yaml:"burst" default:"5s" min:"1ms" max:"1h"`
	// MaxThrottled is how long a session may send more than it may without a break
	// before it is ended; 0: for ever.
	MaxThrottled time.Duration `yaml:"max_throttled" default:"5m" min:"0s"`
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
	// Resume is how long a session waits for a client that has lost its connection, or
	// its node, and may resume it (XEP-0198); 0s: not at all.
	Resume time.Duration `yaml:"resume" default:"5m" min:"0s" max:"24h"`
	// Shutdown is for sessions to end when the node stops.
	Shutdown time.Duration `yaml:"shutdown" default:"20s" min:"10ms"`
}

// NodeAdmin is the HTTP listener for operators and health checks.
type NodeAdmin struct {
	// Address is its host:port. It knows no passwords: keep it on a network that
	// you trust.
	Address string `yaml:"address" default:"127.0.0.1:5281" is:"listen"`
}
