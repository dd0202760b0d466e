package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"imlb/backend/xmpp"
)

// Protocol says what clients speak on a listener.
type Protocol uint8

// The protocols.
const (
	XMPP  Protocol = 1 + iota // TCP, STARTTLS required (RFC 6120 §5)
	XMPPS                     // TCP, TLS from the first byte (XEP-0368)
	HTTPS                     // WebSocket (RFC 7395) and its discovery (XEP-0156)
	QUIC                      // XEP-0467
)

// String returns the protocol as it is written in a configuration.
func (p Protocol) String() string {
	switch p {
	case XMPP:
		return "xmpp"
	case XMPPS:
		return "xmpps"
	case HTTPS:
		return "https"
	case QUIC:
		return "quic"
	}
	return "unknown"
}

// Listener is one address on which clients are accepted.
type Listener struct {
	Name     string // unique; names the listener in logs and metrics
	Protocol Protocol
	Address  string // host:port; TCP, or UDP for QUIC
	Pool     string // key of Options.Pools
	Rate     Rate
	// TrustedProxies are the networks whose connections begin with a PROXY
	// header, v1 or v2; it is then required. Others' connections must not have
	// one. It does not apply to QUIC, which has no such header.
	TrustedProxies []netip.Prefix
}

// Rate limits how many sessions per second a listener admits. Those above it
// wait up to MaxWait for their turn before they are refused.
type Rate struct {
	PerSecond float64       // 0: no limit
	Burst     int           // admitted at once; at least 1
	MaxWait   time.Duration // default 1 s
}

// Pool is where the sessions of a listener go. A pool that was removed or
// replaced by [Server.Apply] may be asked and its choices be released until the
// sessions have ended that came before.
type Pool struct {
	Picker      Picker
	DialTimeout time.Duration // from the dial to the node's stream features; default 2 s
	// DialAttempts is how many nodes a login tries at most; default 3.
	DialAttempts int
}

// Picker decides on which node a user's sessions live.
type Picker interface {
	// Pick returns the node for a session of user (a canonical bare JID),
	// leaving out the nodes named in tried, where this session was refused.
	// The error is or wraps ErrNoNode when none may take it.
	Pick(ctx context.Context, user string, tried []string) (Choice, error)
}

// ErrNoNode says that there is no node that may take a session of the user now.
var ErrNoNode = errors.New("no node for the user")

// Choice is one answer of a Picker. The session counts on the node until
// Release is called, which the front does exactly once.
type Choice struct {
	Node    Node
	Report  func(Outcome) // may be nil
	Release func()        // may be nil
}

// Node is a backend that serves sessions.
type Node struct {
	Name string
	Addr string // host:port
}

// Outcome is what the front learnt of a node by using it.
type Outcome uint8

// The outcomes.
const (
	OutcomeConnected Outcome = 1 + iota // the node offered its stream features
	OutcomeRefused                      // it could not be reached in time, or refused the stream
	OutcomeLost                         // a session's leg broke
)

// String returns the outcome as it labels the metric.
func (o Outcome) String() string {
	switch o {
	case OutcomeConnected:
		return "connected"
	case OutcomeRefused:
		return "refused"
	case OutcomeLost:
		return "lost"
	}
	return "unknown"
}

// Limits bound what one client can cost. Zero means the default.
type Limits struct {
	MaxStanza    int // bytes of one stanza after login; default 256 KiB
	MaxPreAuth   int // bytes of one element before login; default 16 KiB; RFC 6120 §13.12 asks for 10,000
	AuthAttempts int // failed logins on one stream; default 5
}

// Timeouts bound how long each step may take. Zero means the default, except
// for Idle.
type Timeouts struct {
	Handshake time.Duration // PROXY header, TLS, WebSocket upgrade; default 10 s
	Identify  time.Duration // from the secured stream to a successful login; default 30 s
	Write     time.Duration // for a leg to take what is written; default 30 s
	Idle      time.Duration // without a byte in either direction; 0: no limit
	Shutdown  time.Duration // for sessions to end when the front stops; default 20 s
}

// Options is what a Server is made of. What it refers to must not be changed
// while the server uses it; [Server.Apply] takes new ones.
type Options struct {
	Listeners []Listener
	Pools     map[string]Pool
	Domains   []string // served XMPP domains; the first also speaks for unknown ones
	// TLS holds the certificates. It is cloned for each listener, which sets
	// its ALPN protocols; use GetCertificate for certificates that change.
	TLS        *tls.Config
	Mechanisms []string // SASL mechanisms to offer, best first
	Limits     Limits
	Timeouts   Timeouts
	Logger     *slog.Logger
	Registerer prometheus.Registerer // nil: metrics are counted and not shown
}

// normalize checks the options and returns them with defaults filled in. The
// error tells all that is wrong.
func (o Options) normalize() (Options, error) {
	o.Limits = o.Limits.withDefaults()
	o.Timeouts = o.Timeouts.withDefaults()
	o.Mechanisms = slices.Clone(o.Mechanisms)
	var errs []error
	if o.Logger == nil {
		errs = append(errs, errors.New("proxy: no logger"))
	}
	if o.TLS == nil {
		errs = append(errs, errors.New("proxy: no TLS configuration"))
	}
	if len(o.Mechanisms) == 0 {
		errs = append(errs, errors.New("proxy: no SASL mechanisms"))
	}
	errs = append(errs, o.normalizeDomains())
	o.normalizePools()
	o.normalizeRates()
	errs = append(errs, o.checkListeners())
	return o, errors.Join(errs...)
}

func (o *Options) normalizeDomains() error {
	if len(o.Domains) == 0 {
		return errors.New("proxy: no domains")
	}
	var errs []error
	domains := make([]string, len(o.Domains))
	for i, name := range o.Domains {
		jid, err := xmpp.NewJID("", name, "")
		if err != nil {
			errs = append(errs, fmt.Errorf("proxy: domain %q: %w", name, err))
		}
		domains[i] = jid.Domain()
	}
	o.Domains = domains
	return errors.Join(errs...)
}

func (o *Options) normalizePools() {
	pools := make(map[string]Pool, len(o.Pools))
	for name, pool := range o.Pools {
		pool.DialTimeout = orDefault(pool.DialTimeout, 2*time.Second)
		pool.DialAttempts = orDefault(pool.DialAttempts, 3)
		pools[name] = pool
	}
	o.Pools = pools
}

func (o *Options) normalizeRates() {
	o.Listeners = slices.Clone(o.Listeners)
	for i := range o.Listeners {
		r := &o.Listeners[i].Rate
		r.MaxWait = orDefault(r.MaxWait, time.Second)
	}
}

func (o *Options) checkListeners() error {
	if len(o.Listeners) == 0 {
		return errors.New("proxy: no listeners")
	}
	var errs []error
	names := make(map[string]bool)
	sockets := make(map[string]string) // to the name of their listener
	for _, l := range o.Listeners {
		if err := o.checkListener(l); err != nil {
			errs = append(errs, fmt.Errorf("proxy: listener %q: %w", l.Name, err))
		}
		if names[l.Name] {
			errs = append(errs, fmt.Errorf("proxy: listener %q: the name is taken", l.Name))
		} else if other, taken := sockets[l.socket()]; taken {
			errs = append(errs, fmt.Errorf("proxy: listener %q: %s is the address of %q", l.Name, l.Address, other))
		}
		names[l.Name], sockets[l.socket()] = true, l.Name
	}
	return errors.Join(errs...)
}

func (o *Options) checkListener(l Listener) error {
	var errs []error
	if l.Protocol < XMPP || l.Protocol > QUIC {
		errs = append(errs, errors.New("no such protocol"))
	}
	if o.Pools[l.Pool].Picker == nil {
		errs = append(errs, fmt.Errorf("no pool %q", l.Pool))
	}
	if l.Rate.PerSecond > 0 && l.Rate.Burst < 1 {
		errs = append(errs, errors.New("a rate needs a burst of at least 1"))
	}
	return errors.Join(errs...)
}

func (l Limits) withDefaults() Limits {
	l.MaxStanza = orDefault(l.MaxStanza, 256<<10)
	l.MaxPreAuth = orDefault(l.MaxPreAuth, 16<<10)
	l.AuthAttempts = orDefault(l.AuthAttempts, 5)
	return l
}

func (t Timeouts) withDefaults() Timeouts {
	t.Handshake = orDefault(t.Handshake, 10*time.Second)
	t.Identify = orDefault(t.Identify, 30*time.Second)
	t.Write = orDefault(t.Write, 30*time.Second)
	t.Shutdown = orDefault(t.Shutdown, 20*time.Second)
	return t
}

// orDefault returns v, or d if v is not positive.
func orDefault[T int | time.Duration](v, d T) T {
	if v <= 0 {
		return d
	}
	return v
}
