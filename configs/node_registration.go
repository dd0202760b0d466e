package configs

// NodeRegistration says what users may do with accounts themselves, from their clients
// (XEP-0077).
type NodeRegistration struct {
	// Open lets who has no account make one, over TLS.
	Open bool `yaml:"open" default:"false"`
	// PasswordChange lets who is logged in change the password.
	PasswordChange bool `yaml:"password_change" default:"false"`
	// Cancel lets who is logged in delete the account with all it has.
	Cancel bool `yaml:"cancel" default:"false"`
	// MinPassword is how many characters a password has at least that is chosen in
	// a client, by users or by administrators.
	MinPassword int `yaml:"min_password" default:"8" min:"1" max:"100"`
	// PerSource is how many accounts may be made in an hour on the node from one IPv4 address or
	// one IPv6 network of /64.
	PerSource int `yaml:"per_source" default:"5" min:"1"`
	// Total is how many accounts may be made in an hour on the node.
	Total int `yaml:"total" default:"100" min:"1"`
}
