package configs

import "time"

// Log says what is logged to standard error, and how.
type Log struct {
	// Level is the least severity that is logged.
	Level Level `yaml:"level" default:"info"`
	// Format is the shape of the lines: text (key=value) or json, which has durations as seconds.
	Format Format `yaml:"format" default:"text"`
}

// Consul names the Consul agent to talk to, usually the one of the same host.
type Consul struct {
	// Address is the host:port of the agent's HTTP API.
	Address string `yaml:"address" default:"127.0.0.1:8500" is:"dial"`
	// Datacenter is the datacenter to ask about; empty: the agent's own.
	Datacenter string `yaml:"datacenter,omitempty"`
	// TokenFile holds the ACL token, and is read each time that the agent is asked; empty: none.
	TokenFile string `yaml:"token_file,omitempty" is:"file"`
	// TLS makes the connection to the agent an HTTPS one.
	TLS *ConsulTLS `yaml:"tls,omitempty"`
	// Register makes this process register itself.
	Register *Registration `yaml:"register,omitempty"`
}

// ConsulTLS makes the connection to the agent an HTTPS one.
type ConsulTLS struct {
	// CAFile holds who signed the agent's certificate; empty: the system's
	// authorities.
	CAFile string `yaml:"ca_file,omitempty" is:"file"`
	// CertFile holds a certificate for the agent to know us by; empty: none.
	CertFile string `yaml:"cert_file,omitempty" is:"file"`
	// KeyFile holds the key of that certificate.
	KeyFile string `yaml:"key_file,omitempty" is:"file"`
	// ServerName is the name that the agent's certificate has to be for; by default the
	// host in its address.
	ServerName string `yaml:"server_name,omitempty" is:"domain"`
}

// Registration is what a process tells Consul about itself.
type Registration struct {
	// Service is the service's name; by default the cluster's name with
	// "-front" or "-node".
	Service string `yaml:"service,omitempty" is:"name"`
	// Address is where others reach the process; by default its (first) listener's
	// address, if that names a host.
	Address string `yaml:"address,omitempty" is:"dial"`
	// Admin is the same for its admin listener.
	Admin string `yaml:"admin,omitempty" is:"dial"`
	// Tags are the service's tags.
	Tags []string `yaml:"tags,omitempty" is:"name"`
	// Interval is the time between two checks of /readyz by the agent.
	Interval time.Duration `yaml:"interval" default:"1s" min:"100ms"`
	// DeregisterAfter is how long the check may fail before the agent forgets
	// the service; Consul's own least is a minute.
	DeregisterAfter time.Duration `yaml:"deregister_after" default:"1m" min:"1m"`
}
