package configs

import (
	"net/netip"
	"time"
)

// Proxy is the document of a front.
type Proxy struct {
	Cluster   string          `yaml:"cluster" default:"imlb" is:"name"`
	Domains   []string        `yaml:"domains" is:"domain" required:"list the domains of your users, like [example.com]"`
	Listeners []Listener      `yaml:"listeners" required:"give at least one, like {protocol: xmpp, address: \":5222\"}"`
	Pools     map[string]Pool `yaml:"pools" is:"name" required:"name at least one pool of nodes, static (nodes) or found in Consul (consul)"`
	TLS       TLS             `yaml:"tls"`
	SASL      ProxySASL       `yaml:"sasl"`
	Placement Placement       `yaml:"placement"`
	Consul    *Consul         `yaml:"consul,omitempty"` // nil: no Consul at all
	// CacheDir is a directory in which the last good configuration is kept, for a
	// start while Consul is down; empty: it is not kept. It is made when needed.
	CacheDir string        `yaml:"cache_dir,omitempty" is:"dir"`
	Limits   ProxyLimits   `yaml:"limits"`
	Timeouts ProxyTimeouts `yaml:"timeouts"`
	Admin    Admin         `yaml:"admin"`
	Log      Log           `yaml:"log"`
}

// Listener is one address on which clients are accepted.
type Listener struct {
	Name     string   `yaml:"name,omitempty" is:"name"` // unique; by default the protocol
	Protocol Protocol `yaml:"protocol" required:"say what clients speak here: xmpp, xmpps, https or quic"`
	Address  string   `yaml:"address" is:"listen" required:"give the host:port to listen on, like \":5222\" for all addresses"`
	Pool     string   `yaml:"pool,omitempty" is:"name"` // by default the only pool
	// ProxyProtocol is set when something in front of this front adds a PROXY
	// header to connections.
	ProxyProtocol *ProxyProtocol `yaml:"proxy_protocol,omitempty"`
	Rate          Rate           `yaml:"rate"`
}

// ProxyProtocol lists who has to say in a PROXY header (v1 or v2) where
// a connection comes from. Connections of others are taken as they are.
type ProxyProtocol struct {
	Trusted []netip.Prefix `yaml:"trusted" required:"list the networks of the proxies, like [10.0.0.0/8]"`
}

// Rate limits how fast connections are accepted.
type Rate struct {
	PerSecond float64 `yaml:"per_second" default:"500" min:"0"` // 0: no limit
	Burst     int     `yaml:"burst" default:"1000" min:"1"`
	// MaxWait is how long a connection above the rate may have to wait for its
	// turn; one that would have to wait longer is refused at once.
	MaxWait time.Duration `yaml:"max_wait" default:"2s" min:"0s"`
}

// Pool is a group of nodes among which users are placed. It has either Nodes or
// Consul.
type Pool struct {
	Nodes       []PoolNode    `yaml:"nodes,omitempty"`
	Consul      *PoolConsul   `yaml:"consul,omitempty"`
	Check       Check         `yaml:"check"`
	DialTimeout time.Duration `yaml:"dial_timeout" default:"2s" min:"1ms"`
	// DialAttempts is how many nodes a login tries.
	DialAttempts int `yaml:"dial_attempts" default:"3" min:"1" max:"100"`
}

// PoolNode is a node of a static pool.
type PoolNode struct {
	// Name places users, so it must stay the same when the address changes.
	Name    string  `yaml:"name" is:"name" required:"name the node; the name decides which users live on it"`
	Address string  `yaml:"address" is:"dial" required:"give the host:port of the node's XMPP listener"`
	Admin   string  `yaml:"admin,omitempty" is:"dial"` // host:port of its admin listener
	Weight  float64 `yaml:"weight" default:"1" min:"0.001" max:"1000"`
	Zone    string  `yaml:"zone,omitempty" is:"name"`
	// MaxSessions is the most sessions that this front gives the node; 0: no
	// limit.
	MaxSessions int `yaml:"max_sessions" default:"0" min:"0"`
}

// PoolConsul finds the nodes of a pool in Consul.
type PoolConsul struct {
	Service string `yaml:"service,omitempty" is:"name"` // by default the cluster's name with "-node"
	Tag     string `yaml:"tag,omitempty" is:"name"`     // only instances with this tag; empty: all
	// Hold is how long a node keeps its place that Consul no longer knows of while
	// Consul is doubtful: away, restarted, or empty all of a sudden.
	Hold time.Duration `yaml:"hold" default:"5m" min:"0s"`
}

// Check says how the front itself finds out whether a node is fit.
type Check struct {
	Type     CheckType     `yaml:"type" default:"tcp"`
	Interval time.Duration `yaml:"interval" default:"1s" min:"10ms"`
	Timeout  time.Duration `yaml:"timeout" default:"1s" min:"1ms"`
	Rise     int           `yaml:"rise" default:"2" min:"1"` // good checks in a row that make a node fit
	Fall     int           `yaml:"fall" default:"2" min:"1"` // bad checks in a row that make it unfit
}

// Placement says how users are spread over a pool.
type Placement struct {
	// Epsilon is how much more than its share a node may carry: 0.25 is a quarter.
	Epsilon float64 `yaml:"epsilon" default:"0.25" min:"0.01" max:"10"`
	// Zone is where the front stands; nodes of that zone come first. Empty: no
	// zone is preferred.
	Zone string `yaml:"zone,omitempty" is:"name"`
}

// TLS names the certificates that clients see.
type TLS struct {
	Certificates []Certificate `yaml:"certificates" required:"clients are served in TLS only; list at least one {cert_file, key_file}"`
}

// Certificate is a certificate chain and its key, in PEM.
type Certificate struct {
	CertFile string `yaml:"cert_file" is:"file" required:"name the PEM file of the certificate chain"`
	KeyFile  string `yaml:"key_file" is:"file" required:"name the PEM file of the private key"`
}

// ProxySASL says which mechanisms clients are offered.
type ProxySASL struct {
	Mechanisms []Mechanism `yaml:"mechanisms" default:"SCRAM-SHA-256,SCRAM-SHA-1,PLAIN"`
}

// ProxyLimits bound what one client can cost.
type ProxyLimits struct {
	// RFC 6120 §13.12 asks for at least 10,000 bytes.
	MaxStanza            Size `yaml:"max_stanza" default:"256KiB" min:"10000" max:"64MiB"`
	MaxStanzaBeforeLogin Size `yaml:"max_stanza_before_login" default:"16KiB" min:"10000" max:"1MiB"`
	LoginAttempts        int  `yaml:"login_attempts" default:"5" min:"1" max:"100"`
}

// ProxyTimeouts bound how long each step of a connection may take.
type ProxyTimeouts struct {
	Handshake time.Duration `yaml:"handshake" default:"10s" min:"10ms"` // PROXY header, TLS, WebSocket upgrade
	Identify  time.Duration `yaml:"identify" default:"30s" min:"10ms"`  // from the stream's start to a successful login
	Idle      time.Duration `yaml:"idle" default:"1h" min:"1s"`         // without a byte in either direction
	Write     time.Duration `yaml:"write" default:"30s" min:"10ms"`     // a client that does not read
	Shutdown  time.Duration `yaml:"shutdown" default:"20s" min:"0s"`    // for sessions to end when the front stops
}

// Admin is the HTTP listener for operators: health, metrics and status.
type Admin struct {
	Address string `yaml:"address" default:"127.0.0.1:5225" is:"listen"`
}
