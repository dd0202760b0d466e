package configs

import (
	"net/netip"
	"time"
)

// Proxy is the document of a front.
type Proxy struct {
	// Cluster is the cluster that the front belongs to. It names the services and
	// keys in Consul.
	Cluster string `yaml:"cluster" default:"imlb" is:"name"`
	// Name tells this front from others, in Consul and in QUIC's connection ids. It has to
	// stay the same over restarts, and be another one than those of the other fronts. By
	// default it is the host's name with the address of the admin listener. A document that
	// is shared in Consul has none: the front is started with it.
	Name string `yaml:"name,omitempty" is:"name"`
	// Domains are the domains of the users, in XMPP. Streams to others are refused.
	// Without any, all are taken, as far as the nodes know them.
	Domains []string `yaml:"domains,omitempty" is:"domain"`
	// Listeners are where clients connect.
	Listeners []Listener `yaml:"listeners" required:"give at least one, like {protocol: xmpp, address: \":5222\"}"`
	// Pools are groups of nodes, by name. Users are spread over the nodes of a pool.
	Pools map[string]Pool `yaml:"pools" is:"name" required:"name at least one pool of nodes, static (nodes) or found in Consul (consul)"`
	// TLS names the certificates that clients see.
	TLS TLS `yaml:"tls"`
	// Secrets are what fronts share, so that clients may come back to any of them.
	Secrets Secrets `yaml:"secrets"`
	// SASL says how clients may log in.
	SASL ProxySASL `yaml:"sasl"`
	// Placement says how users are spread over a pool.
	Placement Placement `yaml:"placement"`
	// Consul is the agent to talk to; without it Consul is not used. When the
	// document itself comes from Consul, the agent is the one that the front was
	// started with, and only register counts here.
	Consul *Consul `yaml:"consul,omitempty"`
	// CacheDir is a directory in which the last good configuration and the last known
	// nodes are kept, for a start while Consul is down. It is made when it is not
	// there. Without it nothing is kept.
	CacheDir string `yaml:"cache_dir,omitempty" is:"dir"`
	// Limits bound what clients can cost. A change counts at once, also for who is
	// connected, and disconnects nobody; only the first limit on bytes that there is
	// counts for who comes afterwards.
	Limits ProxyLimits `yaml:"limits"`
	// Timeouts bound how long each step of a connection may take.
	Timeouts ProxyTimeouts `yaml:"timeouts"`
	// Admin is the HTTP listener for operators.
	Admin Admin `yaml:"admin"`
	// Log says what is logged to standard error, and how.
	Log Log `yaml:"log"`
}

// Pool is a group of nodes among which users are placed. It has either Nodes or
// Consul.
type Pool struct {
	// Nodes lists the nodes of a static pool.
	Nodes []PoolNode `yaml:"nodes,omitempty"`
	// Consul finds the nodes in Consul instead.
	Consul *PoolConsul `yaml:"consul,omitempty"`
	// Checks are what the front itself asks of a node; all of them have to pass. By
	// default it only connects (type tcp).
	Checks []Check `yaml:"checks,omitempty"`
	// Check says how often the nodes are checked, and how many results decide.
	Check CheckSchedule `yaml:"check"`
	// Outlier takes nodes out for a time whose checks pass but that do not take sessions. How
	// a session ends that a node has taken says nothing of the node, and only brings its
	// next check forward.
	Outlier Outlier `yaml:"outlier"`
	// Damping keeps nodes out that come and go, until they have calmed down.
	Damping Damping `yaml:"damping"`
	// MaxEjected is the largest share of the pool's nodes that outlier and damping
	// may take out together; 0: none.
	MaxEjected float64 `yaml:"max_ejected" default:"0.5" min:"0" max:"1"`
	// PanicThreshold is the share of the nodes that has to be fit for health to count:
	// when fewer are, it is ignored rather than everybody sent to the survivors; 0: it
	// always counts.
	PanicThreshold float64 `yaml:"panic_threshold" default:"0.3" min:"0" max:"1"`
	// SlowStart is how long a node that joins or comes back takes to its full share of
	// new users; 0: it has it at once.
	SlowStart time.Duration `yaml:"slow_start" default:"0s" min:"0s" max:"1h"`
	// DialTimeout is how long to wait for a node to take a connection before the
	// next is tried.
	DialTimeout time.Duration `yaml:"dial_timeout" default:"2s" min:"1ms"`
	// DialAttempts is how many nodes a session tries.
	DialAttempts int `yaml:"dial_attempts" default:"3" min:"1" max:"100"`
	// ProxyProtocol is the PROXY header that connections to the nodes begin with: v2
	// (with all that is known of the client), v1 (its address alone) or none.
	ProxyProtocol HeaderVersion `yaml:"proxy_protocol" default:"v2"`
	// Source is which addresses of this machine connections to the nodes come from, checks
	// included; several are used alike. Each can have as many connections to one node as the
	// system has local ports, which by default are 28,232 (net.ipv4.ip_local_port_range). By
	// default the system chooses the address.
	Source []netip.Addr `yaml:"source,omitempty"`
	// TLS makes connections to the nodes use TLS, after the PROXY header.
	TLS *NodeTLS `yaml:"tls,omitempty"`
}

// NodeTLS says how a front and the nodes of a pool know each other.
type NodeTLS struct {
	// CAFile holds who signed the nodes' certificates; empty: the system's authorities.
	CAFile string `yaml:"ca_file,omitempty" is:"file"`
	// CertFile holds a certificate for the nodes to know the front by; empty: none.
	CertFile string `yaml:"cert_file,omitempty" is:"file"`
	// KeyFile holds the key of that certificate.
	KeyFile string `yaml:"key_file,omitempty" is:"file"`
	// ServerName is the name that the nodes' certificates have to be for; by default the
	// host in the node's address.
	ServerName string `yaml:"server_name,omitempty" is:"domain"`
	// Verify is whether the certificates have to be valid.
	Verify bool `yaml:"verify" default:"true"`
}

// PoolNode is a node of a static pool.
type PoolNode struct {
	// Name places users, so it must stay the same when the address changes.
	Name string `yaml:"name" is:"name" required:"name the node; the name decides which users live on it"`
	// Address is the host:port where the node takes sessions.
	Address string `yaml:"address" is:"dial" required:"give the host:port where the node takes sessions"`
	// Admin is the host:port of the node's admin listener, which checks of type http,
	// https and agent ask.
	Admin string `yaml:"admin,omitempty" is:"dial"`
	// Weight is the node's share compared with others': 2 carries twice as many users
	// as 1.
	Weight float64 `yaml:"weight" default:"1" min:"0.001" max:"1000"`
	// Zone is where the node stands; see placement.zone.
	Zone string `yaml:"zone,omitempty" is:"name"`
	// MaxSessions is the most sessions that the node is given, those of other fronts
	// included as far as the node tells of them; 0: no limit. Who has a session there is
	// given more all the same, as all sessions of a user are on one node.
	MaxSessions int `yaml:"max_sessions" default:"0" min:"0"`
	// Backup makes the node one that is used only when no other can take a session.
	Backup bool `yaml:"backup,omitempty"`
	// Drain gives the node no new users; those who are there stay.
	Drain bool `yaml:"drain,omitempty"`
}

// PoolConsul finds the nodes of a pool in Consul.
type PoolConsul struct {
	// Service is the nodes' service; by default the cluster's name with "-node".
	Service string `yaml:"service,omitempty" is:"name"`
	// Tag restricts it to the instances that have it.
	Tag string `yaml:"tag,omitempty" is:"name"`
	// Hold is how long a node keeps its place that Consul no longer knows of while
	// Consul is doubtful: away, restarted, or empty all of a sudden.
	Hold time.Duration `yaml:"hold" default:"5m" min:"0s"`
}

// Check is one thing that the front asks of a node. Which keys it has beside the
// type depends on the type.
type Check struct {
	// Type is how a node is asked. tcp connects to it, tls does so in TLS; http and
	// https get a page at its admin address; agent gets /status there, and what the node
	// says of itself (weight, capacity, draining, sessions) counts too; xmpp opens
	// a stream and waits for its features; mqtt connects as a client; script sends and
	// expects what its steps say. These three, like sessions, use TLS in a pool with tls.
	Type CheckType `yaml:"type" required:"say how the node is asked, like tcp or agent"`
	// ProxyHeader is whether the check begins with a PROXY header, of version 1 where the
	// pool's sessions have that, else 2. For tcp it says that this is a check, for others that
	// the front is the client. By default it is there in types tcp and xmpp, unless the pool's
	// proxy_protocol is none. Also for tls, mqtt and script. Set it to false for nodes that
	// do not know such headers.
	ProxyHeader *bool `yaml:"proxy_header,omitempty"`
	// Path is what http, https and agent ask for; by default /readyz, for agent /status.
	Path string `yaml:"path,omitempty" is:"path"`
	// Verify is whether the node's certificate has to be valid (tls, https); by
	// default it has to.
	Verify *bool `yaml:"verify,omitempty"`
	// CAFile holds who signed the node's certificate (tls, https); empty: the
	// system's authorities.
	CAFile string `yaml:"ca_file,omitempty" is:"file"`
	// ServerName is the name that the certificate has to be for (tls, https); by
	// default the host in the node's address.
	ServerName string `yaml:"server_name,omitempty" is:"domain"`
	// ALPN lists the application protocols to offer (tls).
	ALPN []string `yaml:"alpn,omitempty" is:"alpn"`
	// Domain is the domain that the stream is opened to (xmpp); by default the first
	// of domains.
	Domain string `yaml:"domain,omitempty" is:"domain"`
	// Accepted is whether the node has to accept the client (mqtt); by default any
	// answer will do.
	Accepted bool `yaml:"accepted,omitempty"`
	// Steps are what is sent and expected, one after the other (script).
	Steps []CheckStep `yaml:"steps,omitempty"`
}

// CheckStep is a part of the conversation of a check of type script: first it
// sends, then it waits for the answer. It has send, or one of expect and pattern, or
// both.
type CheckStep struct {
	// Send is sent as it is; in double quotes, \r\n ends a line.
	Send Line `yaml:"send,omitempty"`
	// Expect is a text that has to come.
	Expect Line `yaml:"expect,omitempty"`
	// Pattern is a regular expression (RE2) that has to match what has come instead.
	Pattern Line `yaml:"pattern,omitempty" is:"pattern"`
	// Timeout is how long the answer may take; 0: as long as the whole check.
	Timeout time.Duration `yaml:"timeout,omitempty" min:"0s"`
}

// CheckSchedule says how often nodes are checked, and how many results decide.
type CheckSchedule struct {
	// Interval is the time between two checks of a node.
	Interval time.Duration `yaml:"interval" default:"1s" min:"10ms"`
	// FastInterval is the same while a node's state is in doubt: before its first
	// result, and after results that have not decided yet; 0: a fifth of interval.
	FastInterval time.Duration `yaml:"fast_interval" default:"0s" min:"0s"`
	// Jitter is the share of an interval, up or down, that is left to chance, so that
	// checks do not fall into step.
	Jitter float64 `yaml:"jitter" default:"0.1" min:"0" max:"0.5"`
	// Timeout is how long a node may take to answer.
	Timeout time.Duration `yaml:"timeout" default:"1s" min:"1ms"`
	// Rise is how many good checks in a row make a node fit.
	Rise int `yaml:"rise" default:"2" min:"1"`
	// Fall is how many bad checks in a row make it unfit.
	Fall int `yaml:"fall" default:"2" min:"1"`
}

// Outlier takes nodes out for a time whose checks pass but that do not take sessions:
// which refuse connections, or do not speak with those that they accept. How a session
// ends that a node has taken says nothing of the node, because a client can bring that
// about; it only brings the next check forward.
type Outlier struct {
	// Enabled is whether sessions have a say at all.
	Enabled bool `yaml:"enabled" default:"true"`
	// Consecutive is how many failures in a row eject a node.
	Consecutive int `yaml:"consecutive" default:"5" min:"1"`
	// Window is the time over which failures are compared with sessions.
	Window time.Duration `yaml:"window" default:"30s" min:"100ms"`
	// MinSessions is how many sessions a window must have seen before their ratio says
	// something.
	MinSessions int `yaml:"min_sessions" default:"20" min:"1"`
	// FailureRatio is the share of failures in a window that ejects a node.
	FailureRatio float64 `yaml:"failure_ratio" default:"0.5" min:"0.01" max:"1"`
	// Ejection is how long the first ejection lasts, and by how much each further one is
	// longer.
	Ejection time.Duration `yaml:"ejection" default:"30s" min:"100ms"`
	// MaxEjection is the longest ejection.
	MaxEjection time.Duration `yaml:"max_ejection" default:"5m" min:"100ms"`
}

// Damping keeps nodes out that come and go. A node's penalty grows by one each
// time that it stops being fit, and halves with time.
type Damping struct {
	// Enabled is whether nodes are kept out for that at all.
	Enabled bool `yaml:"enabled" default:"true"`
	// Suppress is the penalty above which a node stays out.
	Suppress float64 `yaml:"suppress" default:"3" min:"0.1" max:"1000"`
	// Reuse is the penalty below which it is used again.
	Reuse float64 `yaml:"reuse" default:"1" min:"0.01" max:"1000"`
	// HalfLife is how long a penalty takes to halve.
	HalfLife time.Duration `yaml:"half_life" default:"30s" min:"100ms"`
	// Max is the longest that a node stays out after it failed last.
	Max time.Duration `yaml:"max" default:"5m" min:"100ms"`
}

// Placement says how users are spread over a pool.
type Placement struct {
	// Policy is in which order nodes are asked to take a new user. table (a partition
	// table), ring (consistent hashing) and maglev go by the user's name, so that fronts
	// agree; least-sessions and power-of-two go by load, and round-robin by turns. The
	// bound and the pinning of users are the same under all of them.
	Policy Policy `yaml:"policy" default:"table"`
	// Epsilon is how much more than its share a node may carry: 0.25 is a quarter.
	// Less spreads more evenly, more moves fewer users when nodes come and go.
	Epsilon float64 `yaml:"epsilon" default:"0.25" min:"0.01" max:"10"`
	// Zone is where the front stands; nodes of that zone come first. Empty: no
	// zone is preferred.
	Zone string `yaml:"zone,omitempty" is:"name"`
	// Park is how long a login may wait for room when no node can take it, or for one
	// that can be reached when none can; 0: it is refused at once.
	Park time.Duration `yaml:"park" default:"10s" min:"0s" max:"5m"`
	// ParkQueue is how many logins of a pool may wait so at a time; others are
	// refused at once.
	ParkQueue int `yaml:"park_queue" default:"1024" min:"1" max:"1000000"`
}

// TLS names the certificates that clients see.
type TLS struct {
	// Certificates are the certificates to choose from: the first that suits the name
	// that a client asks for is taken, else the first of all. At least one is needed
	// where TLS of clients ends at the front: not for listeners of protocol tcp, mqtt and
	// ws, nor where TLS is passed through.
	Certificates []Certificate `yaml:"certificates,omitempty"`
}

// Certificate is a certificate chain and its key, in PEM.
type Certificate struct {
	// CertFile holds the chain, the server's certificate first.
	CertFile string `yaml:"cert_file" is:"file" required:"name the PEM file of the certificate chain"`
	// KeyFile holds the certificate's key.
	KeyFile string `yaml:"key_file" is:"file" required:"name the PEM file of the private key"`
}

// ProxySASL says which mechanisms clients are offered.
type ProxySASL struct {
	// Mechanisms are those that clients of XMPP may log in with, by their registered
	// names, best first, of those that the nodes offer; by default all of them. The nodes
	// verify the passwords. Where none of the list ends with -PLUS, nodes are not told what
	// a login could be bound to, which tokens (XEP-0484) would be, too.
	Mechanisms []string `yaml:"mechanisms,omitempty" is:"mechanism"`
}

// ProxyTimeouts bound how long each step of a connection may take.
type ProxyTimeouts struct {
	// Handshake is for PROXY header, TLS and WebSocket upgrade, together. As with identify,
	// the time in which a client waits for its turn (max_wait) does not count.
	Handshake time.Duration `yaml:"handshake" default:"10s" min:"10ms"`
	// Identify is from the stream's start to a successful login; of opaque sessions,
	// until the user is known, and of those of MQTT until the broker has let the client in.
	Identify time.Duration `yaml:"identify" default:"30s" min:"10ms"`
	// Idle is without a byte in either direction, of opaque sessions too. Clients that
	// ping live on.
	Idle time.Duration `yaml:"idle" default:"1h" min:"1s"`
	// Write is until a client reads what was sent to it. For as long a QUIC connection
	// waits after its last session to be closed by its client, or used again.
	Write time.Duration `yaml:"write" default:"30s" min:"10ms"`
	// HalfOpen is for an opaque session of which one side has ended: without a byte from
	// the other; 0: no limit. The side that has ended still waits, and sees a reset.
	// When the front stops, clients get the end of their opaque sessions at the next pause
	// (see shutdown) and have this time to end their side, too.
	HalfOpen time.Duration `yaml:"half_open" default:"30s" min:"0s"`
	// Shutdown is for sessions to end when the front stops. An opaque session ends at its
	// next pause: half a second, or a tenth of this time if that is less, in which no byte
	// comes from either side and none waits to be taken. So a quiet session ends at once, and
	// one in the middle of a transfer goes on. What has not ended in this time is cut off, and
	// is seen to be: by a reset, and on WebSockets by status 1012 or no close frame at all.
	Shutdown time.Duration `yaml:"shutdown" default:"20s" min:"10ms"`
}

// Admin is the HTTP listener for operators: health, metrics and status.
type Admin struct {
	// Address is its host:port. It knows no passwords: keep it on a network that
	// you trust.
	Address string `yaml:"address" default:"127.0.0.1:5225" is:"listen"`
}
