package configs

import (
	"time"
)

// Secrets are what the fronts of a cluster share, so that clients may come back to any of
// them: keys of TLS session tickets, QUIC's address validation tokens, stateless resets
// and connection ids. Without file and consul each front has its own, in memory, and a
// client that comes to another one makes a full handshake. The fronts rotate them.
type Secrets struct {
	// File is where they lie, the same for all fronts or distributed by you; it is made when
	// it is not there, and read again when it changes. Only its owner should be able to read
	// it.
	File string `yaml:"file,omitempty" is:"file"`
	// Consul puts them into the entry imlb/CLUSTER/secrets of the key-value store. Let its
	// ACL admit the fronts, and nobody else.
	Consul bool `yaml:"consul" default:"false"`
	// ReadOnly leaves writing and rotating to others.
	ReadOnly bool `yaml:"read_only,omitempty"`
	// Period is the time between one secret and the next.
	Period time.Duration `yaml:"period" default:"12h" min:"1m" max:"8760h"`
	// Grace is for a new one to become known to all fronts before it is used; by default
	// less, a quarter of period, where that is short.
	Grace time.Duration `yaml:"grace" default:"10m" min:"1s"`
	// Kept is how many periods a secret is good for.
	Kept int `yaml:"kept" default:"3" min:"2" max:"8"`
}

// check holds what fronts share against the rest of the document.
func (s *Secrets) check(d *decoder, agent *Consul) {
	switch {
	case s.File != "" && s.Consul:
		d.refuse("secrets", "has both file and consul; keep one of them")
	case s.Consul && agent == nil:
		d.refuse("secrets.consul", "no agent is named; add a block consul with its address to the document")
	case s.ReadOnly && s.File == "" && !s.Consul:
		d.refuse("secrets.read_only", "there is nothing to read; name a file, or set consul to true")
	}
	if !d.has("secrets", "grace") {
		s.Grace = min(s.Grace, s.Period/4)
	}
	if s.Grace > s.Period/2 {
		d.refuse("secrets.grace", "%v is more than half of period, %v", s.Grace, s.Period)
	}
}
