package configs

import "time"

// Log says what is logged to standard error, and how.
type Log struct {
	Level  Level  `yaml:"level" default:"info"`
	Format Format `yaml:"format" default:"text"`
}

// Consul names the Consul agent to talk to, usually the one of the same host.
type Consul struct {
	Address    string        `yaml:"address" default:"127.0.0.1:8500" is:"dial"` // host:port of its HTTP API
	Datacenter string        `yaml:"datacenter,omitempty"`                       // empty: the agent's own
	TokenFile  string        `yaml:"token_file,omitempty" is:"file"`             // file that holds the ACL token; empty: none
	TLS        *ConsulTLS    `yaml:"tls,omitempty"`                              // nil: plain HTTP
	Register   *Registration `yaml:"register,omitempty"`                         // nil: this process does not register itself
}

// ConsulTLS makes the connection to the agent an HTTPS one.
type ConsulTLS struct {
	CAFile   string `yaml:"ca_file,omitempty" is:"file"`   // empty: the system's authorities
	CertFile string `yaml:"cert_file,omitempty" is:"file"` // client certificate; empty: none
	KeyFile  string `yaml:"key_file,omitempty" is:"file"`
}

// Registration is what a process tells Consul about itself.
type Registration struct {
	// Service is the service's name; by default the cluster's name with
	// "-front" or "-node".
	Service string `yaml:"service,omitempty" is:"name"`
	// Address and Admin are where others reach the process; by default its
	// (first) listener's and its admin address, if those name a host.
	Address string   `yaml:"address,omitempty" is:"dial"`
	Admin   string   `yaml:"admin,omitempty" is:"dial"`
	Tags    []string `yaml:"tags,omitempty" is:"name"`
	// Interval is the time between two checks of /readyz by the agent.
	Interval time.Duration `yaml:"interval" default:"1s" min:"100ms"`
	// DeregisterAfter is how long the check may fail before the agent forgets
	// the service; Consul's own least is a minute.
	DeregisterAfter time.Duration `yaml:"deregister_after" default:"1m" min:"1m"`
}
