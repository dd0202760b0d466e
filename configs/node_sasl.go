package configs

import (
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"
)

// NodeAccounts says who checks passwords: the database's keys without either block.
// Accounts of elsewhere are made in the database at the first login.
type NodeAccounts struct {
	// LDAP asks a directory.
	LDAP *NodeLDAP `yaml:"ldap,omitempty"`
	// HTTP asks a service of yours.
	HTTP *NodeHTTP `yaml:"http,omitempty"`
}

// NodeLDAP asks an LDAP directory, by binding as the user.
type NodeLDAP struct {
	// URL is where the directory is: ldap:// or ldaps://.
	URL string `yaml:"url" is:"ldap" required:"say where the directory is, like ldaps://ldap.example.com"`
	// StartTLS secures connections of ldap:// before anything else is said.
	StartTLS bool `yaml:"start_tls" default:"true"`
	// CAFile holds who signed its certificate; without it, the system's authorities.
	CAFile string `yaml:"ca_file,omitempty" is:"file"`
	// ServerName is the name that the certificate is for; without it, the URL's host.
	ServerName string `yaml:"server_name,omitempty" is:"server-name"`
	// BindDN is a user's entry, {user} being the part of the address before the @.
	BindDN string `yaml:"bind_dn,omitempty"`
	// Search finds a user's entry where bind_dn cannot say what it is called.
	Search *NodeLDAPSearch `yaml:"search,omitempty"`
	// Timeout is for a connection, and for each answer.
	Timeout time.Duration `yaml:"timeout" default:"5s" min:"10ms" max:"1m"`
	// Connections is how many there are at most.
	Connections int `yaml:"connections" default:"8" min:"1" max:"1000"`
}

// NodeLDAPSearch finds a user's entry.
type NodeLDAPSearch struct {
	// Base is the entry below which users are.
	Base string `yaml:"base" required:"name the entry below which the users are, like ou=people,dc=example,dc=com"`
	// Filter matches one entry for each user, {user} being the part of the address before
	// the @.
	Filter string `yaml:"filter" default:"(uid={user})"`
	// DN is who searches; without it, anybody.
	DN string `yaml:"dn,omitempty"`
	// PasswordFile holds the password of dn.
	PasswordFile string `yaml:"password_file,omitempty" is:"file"`
}

// NodeHTTP asks a service by HTTP: it posts {"user", "domain", "password"} in JSON; the
// answer 200 means yes, 401 and 403 mean no, and with any other the client is told to
// try again later.
type NodeHTTP struct {
	// URL is where to post.
	URL string `yaml:"url" is:"https" required:"say whom to ask, like https://accounts.example.com/check"`
	// CAFile holds who signed its certificate; without it, the system's authorities.
	CAFile string `yaml:"ca_file,omitempty" is:"file"`
	// TokenFile holds a bearer token by which the service knows the node.
	TokenFile string `yaml:"token_file,omitempty" is:"file"`
	// Timeout is for an answer.
	Timeout time.Duration `yaml:"timeout" default:"5s" min:"10ms" max:"1m"`
	// Concurrency is how many questions are asked at a time.
	Concurrency int `yaml:"concurrency" default:"16" min:"1" max:"1000"`
}

// NodeOAuth says which tokens of OAUTHBEARER are good (RFC 7628): JWTs (RFC 7519) that the
// issuer has signed with a key that is not shared.
type NodeOAuth struct {
	// Keys is the issuer's JWK Set (RFC 7517): an https:// URL, or a file.
	Keys string `yaml:"keys" is:"keys" required:"say where the issuer's keys are, like https://issuer.example.com/jwks.json"`
	// CAFile holds who signed the certificate of keys; without it, the system's authorities.
	CAFile string `yaml:"ca_file,omitempty" is:"file"`
	// Issuer is what a token's claim iss has to be.
	Issuer string `yaml:"issuer" required:"name the issuer as its tokens do in the claim iss"`
	// Audience is what a token's claim aud has to have one of.
	Audience []string `yaml:"audience" required:"list what tokens for this service have in the claim aud"`
	// UserClaim is the claim that names the user, by the part of the address before the @ or by
	// the whole address. Fronts look into jid, preferred_username and sub, in this order; where none of
	// these names a user, clients have to name theirs (authzid), or say from in the header of their stream.
	UserClaim string `yaml:"user_claim" default:"sub" is:"claim"`
	// Leeway is by how much clocks may differ.
	Leeway time.Duration `yaml:"leeway" default:"30s" min:"0s" max:"10m"`
	// Refresh is after how long the keys are read again, besides when a token names one that
	// is not among them.
	Refresh time.Duration `yaml:"refresh" default:"10m" min:"10s" max:"24h"`
	// CreateAccounts makes an account for who has none and logs in with a good token.
	CreateAccounts bool `yaml:"create_accounts" default:"false"`
	// Configuration is told to clients whose token is not good: the issuer's
	// configuration for OpenID Connect.
	Configuration string `yaml:"openid_configuration,omitempty" is:"https"`
}

// NodeBackoff makes logins wait after others have failed: the longer, the more have. It counts
// for each user and source, and for each source, a network as large as one customer is given.
type NodeBackoff struct {
	// Free is how many failures of a user from one source have no consequence. A success
	// forgets them.
	Free int `yaml:"free" default:"5" min:"0" max:"10000"`
	// SourceFree is how many failures of all users from one source have no consequence.
	SourceFree int `yaml:"source_free" default:"50" min:"0" max:"100000"`
	// First is the wait after the next one. It doubles with each further one; 0: nobody waits.
	First time.Duration `yaml:"first" default:"1s" min:"0s" max:"1h"`
	// Max is the longest wait.
	Max time.Duration `yaml:"max" default:"5m" min:"0s" max:"24h"`
	// Window is after how long without a further failure all are forgotten.
	Window time.Duration `yaml:"window" default:"15m" min:"1s" max:"168h"`
}

// userMark stands for the user in patterns of LDAP.
const userMark = "{user}"

// check holds what is said about logins together.
func (s *NodeSASL) check(d *decoder) {
	noneTwice(d, "sasl.mechanisms", s.Mechanisms)
	if _, given := d.places["sasl.mechanisms"]; given && len(s.Mechanisms) == 0 {
		d.refuse("sasl.mechanisms", "is empty, so that nobody could log in; leave the key out for the default")
	}
	if s.Backoff.First > s.Backoff.Max {
		d.refuse("sasl.backoff.max", "%v is less than first, %v", s.Backoff.Max, s.Backoff.First)
	}
	s.checkOAuth(d)
	a := s.Accounts
	if a.LDAP != nil && a.HTTP != nil {
		d.refuse("sasl.accounts", "has both ldap and http; keep one of them")
		return
	}
	if a.LDAP != nil {
		a.LDAP.check(d)
	}
	if a.LDAP == nil && a.HTTP == nil {
		return
	}
	for i, m := range s.Mechanisms {
		if strings.HasPrefix(string(m), "SCRAM-") {
			d.refuse(fmt.Sprintf("sasl.mechanisms[%d]", i), "%s needs keys in the database, but passwords are checked elsewhere; leave it out", m)
		}
	}
}

func (s *NodeSASL) checkOAuth(d *decoder) {
	listed := slices.Contains(s.Mechanisms, OAuthBearer)
	if s.OAuth != nil && (s.OAuth.Issuer == "" || slices.Contains(s.OAuth.Audience, "")) {
		d.refuse("sasl.oauth", "has an empty issuer or audience, so that any token would be good")
	}
	switch {
	case s.OAuth == nil && listed:
		d.refuse("sasl.oauth", "is missing; OAUTHBEARER needs to know which tokens are good")
	case s.OAuth != nil && len(s.Mechanisms) > 0 && !listed:
		d.refuse("sasl.oauth", "is of no use, since sasl.mechanisms does not list OAUTHBEARER")
	case s.OAuth != nil && s.OAuth.CAFile != "" && !IsURL(s.OAuth.Keys):
		d.refuse("sasl.oauth.ca_file", "is of no use, since keys is a file")
	}
}

func (l *NodeLDAP) check(d *decoder) {
	const at = "sasl.accounts.ldap"
	if !l.StartTLS && strings.HasPrefix(l.URL, "ldap://") && !onLoopback(l.URL) {
		d.refuse(at+".start_tls", "is false, so that passwords would travel in the clear; leave it out, or write ldaps:// into the URL")
	}
	switch {
	case (l.BindDN == "") == (l.Search == nil):
		d.refuse(at, "needs either bind_dn, where all users are called alike, or search")
	case l.BindDN != "" && !strings.Contains(l.BindDN, "="+userMark):
		d.refuse(at+".bind_dn", "%q does not say where the user is; write it like uid={user},ou=people,dc=example,dc=com", l.BindDN)
	case l.Search != nil:
		l.Search.check(d, at+".search")
	}
}

func (s *NodeLDAPSearch) check(d *decoder, at string) {
	if !strings.HasPrefix(s.Filter, "(") || !strings.HasSuffix(s.Filter, ")") || !strings.Contains(s.Filter, userMark) {
		d.refuse(at+".filter", "%q is not a filter with the user in it; write it like (uid={user})", s.Filter)
	}
	if (s.DN == "") != (s.PasswordFile == "") {
		d.refuse(at, "has only one of dn and password_file; who searches needs both, and anybody neither")
	}
}

// checkFiles tries the files that logins need.
func (s *NodeSASL) checkFiles(d *decoder) {
	d.checkSecret("sasl.secret_file", s.SecretFile)
	if l := s.Accounts.LDAP; l != nil {
		d.checkCA("sasl.accounts.ldap.ca_file", l.CAFile)
		if l.Search != nil {
			d.checkSecret("sasl.accounts.ldap.search.password_file", l.Search.PasswordFile)
		}
	}
	if h := s.Accounts.HTTP; h != nil {
		d.checkCA("sasl.accounts.http.ca_file", h.CAFile)
		d.checkSecret("sasl.accounts.http.token_file", h.TokenFile)
	}
	if o := s.OAuth; o != nil {
		d.checkCA("sasl.oauth.ca_file", o.CAFile)
		if _, err := os.Stat(o.Keys); err != nil && !IsURL(o.Keys) {
			d.refuse("sasl.oauth.keys", "cannot be used: %v", err)
		}
	}
}

// isLDAP accepts the URL of a directory.
func isLDAP(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "ldap" && u.Scheme != "ldaps" || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" || u.User != nil {
		return fmt.Errorf("%q is not where a directory is; write ldaps://host or ldap://host", s)
	}
	return nil
}

// isHTTPS accepts a URL of HTTP that keeps what is said from others.
func isHTTPS(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" {
		return fmt.Errorf("%q is not a URL; write it like https://accounts.example.com/check", s)
	}
	if u.Scheme == "http" && !onLoopback(s) {
		return fmt.Errorf("%q would be asked in the clear; write https://, http:// being for this machine only", s)
	}
	return nil
}

// isKeys accepts a URL or the name of a file.
func isKeys(s string) error {
	if IsURL(s) {
		return isHTTPS(s)
	}
	return isFile(s)
}

// IsURL tells a URL from the name of a file.
func IsURL(s string) bool { return strings.Contains(s, "://") }

// onLoopback tells whether a URL leads to the same machine.
func onLoopback(s string) bool {
	u, err := url.Parse(s)
	if err != nil {
		return false
	}
	addr, err := netip.ParseAddr(u.Hostname())
	return u.Hostname() == "localhost" || err == nil && addr.IsLoopback()
}
