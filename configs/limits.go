package configs

import (
	"net/netip"
	"time"
)

// ProxyLimits bound what clients can cost: one connection, those of a source, of a user,
// and all. Those of one listener are there. In all of them 0 is no limit. A change counts
// at once, also for who is connected; nobody is disconnected by it.
type ProxyLimits struct {
	// MaxStanza is the largest stanza; RFC 6120 §13.12 asks for at least 10,000 bytes, and nodes
	// carry no more than this.
	MaxStanza Size `yaml:"max_stanza" default:"256KiB" min:"10000" max:"960KiB"`
	// MaxStanzaBeforeLogin is the same before the client has logged in.
	MaxStanzaBeforeLogin Size `yaml:"max_stanza_before_login" default:"16KiB" min:"10000" max:"1MiB"`
	// MaxNodeStanza is the longest element that a node may send. Nodes send more than clients may:
	// whole rosters, or vCards; those of imlb no more than 8MiB. A session has room for one
	// element only while that comes, and as long as the client takes to read it.
	MaxNodeStanza Size `yaml:"max_node_stanza" default:"16MiB" min:"8MiB" max:"1GiB"`
	// LoginAttempts is after how many failed logins the connection is closed.
	LoginAttempts int `yaml:"login_attempts" default:"5" min:"1" max:"100"`
	// LoginBackoff makes logins wait after others have failed.
	LoginBackoff LoginBackoff `yaml:"login_backoff"`
	// Source limits each source: a network as large as one customer is given. Many may
	// share one behind a NAT, so it is off unless you set it.
	Source SourceLimits `yaml:"source"`
	// User limits each user.
	User UserLimits `yaml:"user"`
	// Global limits the front as a whole.
	Global GlobalLimits `yaml:"global"`
	// Allow lists the networks from which clients may connect; without any, all may. With
	// a list of the listener's own too, a client has to be on both. Of who comes through a
	// trusted proxy the address counts that its header tells; the proxy itself need not be
	// listed.
	Allow []netip.Prefix `yaml:"allow,omitempty"`
	// Deny lists the networks from which clients may not connect, whatever allow says.
	// Proxies are not clients.
	Deny []netip.Prefix `yaml:"deny,omitempty"`
	// MaxEntries is how many sources, and how many users, are kept count of, at about 90 bytes
	// each; what comes beyond shares entries. 0: 100000, or twice global.connections if
	// that is more.
	MaxEntries int `yaml:"max_entries" default:"0" min:"0" max:"100000000"`
}

// SourceLimits are those of each source.
type SourceLimits struct {
	// Rate limits how fast its connections are accepted.
	Rate Pace `yaml:"rate"`
	// Connections is how many it may have at a time; 0: no limit.
	Connections int `yaml:"connections" default:"0" min:"0" max:"100000000"`
	// Unauthenticated is how many of them may not have logged in yet; 0: no limit.
	Unauthenticated int `yaml:"unauthenticated" default:"0" min:"0" max:"100000000"`
	// BytesIn limits what its clients send.
	BytesIn Bandwidth `yaml:"bytes_in"`
	// BytesOut limits what they receive.
	BytesOut Bandwidth `yaml:"bytes_out"`
	// IPv4Prefix is how many bits of an address make a source.
	IPv4Prefix int `yaml:"ipv4_prefix" default:"32" min:"1" max:"32"`
	// IPv6Prefix is the same for IPv6; 64 is what one household is given.
	IPv6Prefix int `yaml:"ipv6_prefix" default:"64" min:"1" max:"128"`
	// Exempt lists networks without limits of their own, where many are behind an address:
	// gateways, monitoring. The trusted proxies of a listener are no sources there;
	// who is behind them is, and who comes from their networks elsewhere.
	Exempt []netip.Prefix `yaml:"exempt,omitempty"`
}

// UserLimits are those of each user.
type UserLimits struct {
	// Rate limits how fast its logins are accepted. It is looked at when a client says who
	// it is, and taken when that has logged in, since a name is only a claim before. So all
	// that are under way at a time may pass, and those that come later wait for all of
	// them, or are refused. connections is never exceeded. Where the front does not see a
	// login, as in protocols that it does not know, whoever says a name takes of what its
	// user has.
	Rate Pace `yaml:"rate"`
	// Connections is how many it may be logged in with at a time; 0: no limit.
	Connections int `yaml:"connections" default:"0" min:"0" max:"100000000"`
	// Unauthenticated is how many logins of it may be under way from one source; 0: no
	// limit.
	Unauthenticated int `yaml:"unauthenticated" default:"0" min:"0" max:"100000000"`
	// BytesIn limits what its clients send.
	BytesIn Bandwidth `yaml:"bytes_in"`
	// BytesOut limits what they receive.
	BytesOut Bandwidth `yaml:"bytes_out"`
}

// GlobalLimits are those of the front as a whole.
type GlobalLimits struct {
	// Rate limits how fast connections are accepted.
	Rate Pace `yaml:"rate"`
	// Connections is how many there may be at a time; 0: no limit.
	Connections int `yaml:"connections" default:"0" min:"0" max:"100000000"`
	// Unauthenticated is how many of them may not have logged in yet; 0: no limit.
	Unauthenticated int `yaml:"unauthenticated" default:"10000" min:"0" max:"100000000"`
	// BytesIn limits what clients send.
	BytesIn Bandwidth `yaml:"bytes_in"`
	// BytesOut limits what they receive.
	BytesOut Bandwidth `yaml:"bytes_out"`
}

// ListenerLimits are those of one listener, beside its rate.
type ListenerLimits struct {
	// Connections is how many there may be at a time; 0: no limit.
	Connections int `yaml:"connections" default:"0" min:"0" max:"100000000"`
	// Unauthenticated is how many of them may not have logged in yet; 0: no limit.
	Unauthenticated int `yaml:"unauthenticated" default:"0" min:"0" max:"100000000"`
	// BytesIn limits what clients send.
	BytesIn Bandwidth `yaml:"bytes_in"`
	// BytesOut limits what they receive.
	BytesOut Bandwidth `yaml:"bytes_out"`
}

// Pace limits how many come in a second.
type Pace struct {
	// PerSecond is how many are accepted in a second; 0: no limit.
	PerSecond float64 `yaml:"per_second" default:"0" min:"0" max:"1000000000"`
	// Burst is how many are accepted at once before the rate counts; 0: those of a second,
	// but at least 1.
	Burst int `yaml:"burst" default:"0" min:"0"`
	// MaxWait is how long one above the rate may have to wait for its turn; one that would
	// have to wait longer is refused at once.
	MaxWait time.Duration `yaml:"max_wait" default:"2s" min:"0s" max:"1h"`
}

// Bandwidth limits bytes in one direction. Who is too fast is read from more slowly.
type Bandwidth struct {
	// PerSecond is how many bytes are moved in a second; 0: no limit.
	PerSecond Size `yaml:"per_second" default:"0"`
	// Burst is how many are moved without a pause before that counts; 0: those of a second.
	Burst Size `yaml:"burst" default:"0"`
}

// LoginBackoff makes logins wait after others have failed: the longer, the more have.
// It holds up who guesses passwords, and nobody else.
type LoginBackoff struct {
	// Enabled is whether logins wait at all.
	Enabled bool `yaml:"enabled" default:"true"`
	// UserAndSource counts failures of a user from one source. A success forgets them.
	UserAndSource PairBackoff `yaml:"user_and_source"`
	// Source counts failures of all users from one source.
	Source SourceBackoff `yaml:"source"`
	// User counts failures of a user from everywhere. It only delays, and never refuses: else
	// strangers could keep the user out. A success forgets them.
	User UserBackoff `yaml:"user"`
	// MaxWait is how long a login may be made to wait; one that would have to wait for
	// longer is refused.
	MaxWait time.Duration `yaml:"max_wait" default:"10s" min:"0s" max:"1h"`
	// Window is after how long without a further failure all are forgotten.
	Window time.Duration `yaml:"window" default:"15m" min:"1s" max:"168h"`
}

// PairBackoff is how failures of a user from one source delay the next login.
type PairBackoff struct {
	// Free is how many failures have no consequence.
	Free int `yaml:"free" default:"3" min:"0" max:"10000"`
	// First is the delay after the next one. It doubles with each further one.
	First time.Duration `yaml:"first" default:"1s" min:"0s"`
	// Max is the longest delay; 0: there is none.
	Max time.Duration `yaml:"max" default:"5m" min:"0s"`
}

// SourceBackoff is how failures from one source delay the next login.
type SourceBackoff struct {
	// Free is how many failures have no consequence.
	Free int `yaml:"free" default:"20" min:"0" max:"10000"`
	// First is the delay after the next one. It doubles with each further one.
	First time.Duration `yaml:"first" default:"1s" min:"0s"`
	// Max is the longest delay; 0: there is none.
	Max time.Duration `yaml:"max" default:"1m" min:"0s"`
}

// UserBackoff is how failures of a user from everywhere delay the next login.
type UserBackoff struct {
	// Free is how many failures have no consequence.
	Free int `yaml:"free" default:"10" min:"0" max:"10000"`
	// First is the delay after the next one. It doubles with each further one.
	First time.Duration `yaml:"first" default:"100ms" min:"0s"`
	// Max is the longest delay; 0: there is none. It is at most max_wait.
	Max time.Duration `yaml:"max" default:"2s" min:"0s"`
}
