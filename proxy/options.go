package proxy

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"imlb/backend/xmpp"
	"imlb/proxy/identify"
	"imlb/proxy/limit"
)

// Listener is one address on which clients are accepted.
type Listener struct {
	Name     string // unique; names the listener in logs and metrics
	Protocol Protocol
	Address  string // host:port; TCP, or UDP for QUIC
	Pool     string // key of Options.Pools; of sessions that no route leads elsewhere
	// TrustedProxies are the networks whose connections begin with a PROXY
	// header, v1 or v2; it is then required. Others' connections must not have
	// one. It does not apply to QUIC, which has no such header.
	TrustedProxies []netip.Prefix
	// Routes lead sessions to other pools by what their TLS handshake says. The one
	// that matches best counts: an exact name before one with a label left open,
	// before none. Of TLS, MQTTS and QUIC listeners.
	Routes []Route
	// Passthrough leaves TLS to the nodes, for sessions that no route matches. Of
	// TLS listeners.
	Passthrough bool
	// DirectTLS lets clients of an XMPP listener begin with TLS, too.
	DirectTLS bool
	// ALPN lists the application protocols of opaque sessions in TLS. A client that
	// offers some has to offer one of them, or one of the routes'. On QUIC XMPP is one
	// of them, xmpp-client, and what there is without any.
	ALPN []string
	// ClientAuth is whether clients have to show a certificate, signed by one of
	// ClientCAs.
	ClientAuth tls.ClientAuthType
	ClientCAs  *x509.CertPool
	// WebSocket is for WS and WSS listeners.
	WebSocket WebSocket
	// BOSH is for WS and WSS listeners on which there is XMPP; nil for none.
	BOSH *BOSH
	// Identify says how the user of an opaque session is found.
	Identify Identify
}

// Route leads sessions that match to a pool. A list that is empty matches all; a
// route has at least one that is not.
type Route struct {
	ServerNames []string // exact, or with one label left open: *.example.com
	ALPN        []string // of the negotiated protocol; of the offered ones in a passthrough
	Pool        string   // key of Options.Pools
	Passthrough bool     // TLS is left to the nodes; of TLS listeners
}

// WebSocket is what there is on a listener besides TLS.
type WebSocket struct {
	// Path is that of the upgrade; default /xmpp-websocket. One that ends in a slash
	// stands for all below it.
	Path string
	// Subprotocols are those that clients may ask for, best first. "xmpp" is RFC
	// 7395; every other carries an opaque stream of bytes in binary messages. The
	// empty one is that of clients that ask for none. Default: xmpp alone.
	Subprotocols []string
	// Compress offers permessage-deflate (RFC 7692) without context takeover. It
	// costs memory while a message is read or written, and in opaque sessions two
	// goroutines with their buffers; and it tells an attacker who can add to messages
	// something about them.
	Compress bool
}

// Identify says how the user of an opaque session is found.
type Identify struct {
	Chain    identify.Chain
	MaxBytes int           // that are looked at; default 16 KiB
	Timeout  time.Duration // for them to come; default Timeouts.Identify
}

// Pool is where the sessions of a listener go. A pool that was removed or
// replaced by [Server.Apply] may be asked and its choices be released until the
// sessions have ended that came before.
type Pool struct {
	Picker      Picker
	DialTimeout time.Duration // until a node serves; default 2 s
	// DialAttempts is how many nodes a session tries at most; default 3.
	DialAttempts int
	// Park is how long a session may wait that they have all refused, and try them again;
	// 0: it does not. The Picker has its own say in how long there may be none to try.
	Park time.Duration
	// Header is what a connection to a node begins with; by default PROXY v2.
	Header Header
	// Source is which addresses of this machine connections to nodes come from, any of
	// them; empty: the system chooses.
	Source []netip.Addr
	// TLS makes connections to nodes use TLS, after the PROXY header. nil: they do
	// not. A ServerName that is empty is the host of the node's address.
	TLS *tls.Config
}

// Header is the form of the PROXY header.
type Header uint8

// The forms.
const (
	HeaderV2   Header = iota // binary, with all that is known of the client
	HeaderV1                 // text, with addresses alone
	HeaderNone               // nothing
)

// Picker decides on which node a user's sessions live.
type Picker interface {
	// Pick returns the node for a session of user (a canonical bare JID),
	// leaving out the nodes named in tried, where this session was refused.
	// The error is or wraps ErrNoNode when none may take it.
	Pick(ctx context.Context, user string, tried []string) (Choice, error)
}

// A TryPicker is a Picker that can decide without waiting, mostly.
type TryPicker interface {
	Picker
	// TryPick is Pick, or false when that may have to wait. It never blocks.
	TryPick(user string, tried []string) (c Choice, ok bool, err error)
}

// ErrNoNode says that there is no node that may take a session of the user now.
var ErrNoNode = errors.New("no node for the user")

// Choice is one answer of a Picker. The session counts on the node until
// Release is called, which the front does exactly once.
type Choice struct {
	Node Node
	Place
}

// Place is a session's place on a node. Its methods may be called from any goroutine.
type Place interface {
	// Report tells what was learnt of the node by using it.
	Report(o Outcome)
	// Release gives the place back.
	Release()
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
	OutcomeLost                         // the leg of a session broke, which the client may have wanted
	OutcomeDeclined                     // it was reached, and did not serve this client; others it may
	OutcomeUntried                      // the front had no descriptor, memory or port left to connect with
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
	case OutcomeDeclined:
		return "declined"
	case OutcomeUntried:
		return "untried"
	}
	return "unknown"
}

// Limits bound what one client can cost. Zero means the default.
type Limits struct {
	MaxStanza     int // bytes of one stanza after login; default 256 KiB
	MaxPreAuth    int // bytes of one element before login; default 16 KiB; RFC 6120 §13.12 asks for 10,000
	MaxNodeStanza int // bytes of one element of a node; default 16 MiB, and at least xmpp.SentMost
	AuthAttempts  int // failed logins on one stream; default 5
}

// beforeLogin, fromClient and fromNode are the limits of what clients send before and after
// the login, and of what nodes send.
func (l Limits) beforeLogin() xmpp.Limits { return xmpp.Limits{MaxBytes: l.MaxPreAuth} }
func (l Limits) fromClient() xmpp.Limits  { return xmpp.Limits{MaxBytes: l.MaxStanza} }
func (l Limits) fromNode() xmpp.Limits    { return xmpp.FromNode(l.MaxNodeStanza) }

// Timeouts bound how long each step may take. Zero means the default, except
// for Idle and HalfOpen.
type Timeouts struct {
	Handshake time.Duration // PROXY header, TLS, WebSocket upgrade; default 10 s
	Identify  time.Duration // from the secured stream to a successful login; default 30 s
	Write     time.Duration // for a leg to take what is written; default 30 s
	Idle      time.Duration // without a byte in either direction; 0: no limit
	HalfOpen  time.Duration // of an opaque session: without a byte after one side has ended; 0: no limit
	Shutdown  time.Duration // for sessions to end when the front stops, opaque ones at their next pause; default 20 s
}

// maxPause is how long no byte comes of an opaque session before it is ended because the front
// stops. Until then it may be in the middle of something.
const maxPause = 500 * time.Millisecond

// pause is maxPause, or less if there is little time for all.
func (t *Timeouts) pause() time.Duration { return min(maxPause, t.Shutdown/10) }

// Options is what a Server is made of. What it refers to must not be changed
// while the server uses it; [Server.Apply] takes new ones.
type Options struct {
	Listeners []Listener
	Pools     map[string]Pool
	// Domains are the served XMPP domains; the first also speaks for unknown ones.
	// Without any, all are, as far as the nodes know them.
	Domains []string
	// Front names this front among those that share keys with it; the same over
	// restarts. Fronts that take over each other's addresses have the same name.
	Front string
	// TLS holds the certificates. It is cloned for each listener, which sets
	// its ALPN protocols; use GetCertificate for certificates that change.
	TLS *tls.Config
	// Mechanisms are the SASL mechanisms to offer of those that the nodes do, best
	// first. Without any, all are from which the front can learn who logs in.
	Mechanisms []string
	Limits     Limits
	// Rules are the limits by source, user and listener, and for all.
	Rules      limit.Rules
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
	if o.TLS == nil && slices.ContainsFunc(o.Listeners, Listener.endsTLS) {
		errs = append(errs, errors.New("proxy: no TLS configuration"))
	}
	errs = append(errs, o.normalizeDomains())
	o.normalizePools()
	o.normalizeListeners()
	errs = append(errs, o.checkListeners(), o.Rules.Check())
	return o, errors.Join(errs...)
}

func (o *Options) normalizeDomains() error {
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

func (o *Options) normalizeListeners() {
	o.Listeners = slices.Clone(o.Listeners)
	for i := range o.Listeners {
		l := &o.Listeners[i]
		l.WebSocket.Path = cmp.Or(l.WebSocket.Path, webSocketPath)
		if l.BOSH != nil {
			b := *l.BOSH
			b.Path = cmp.Or(b.Path, boshPath)
			l.BOSH = &b
		}
		if len(l.WebSocket.Subprotocols) == 0 {
			l.WebSocket.Subprotocols = []string{subprotocolXMPP}
		}
		if len(l.ALPN) == 0 {
			l.ALPN = l.Protocol.opaqueALPN()
		}
		l.Identify.MaxBytes = orDefault(l.Identify.MaxBytes, 16<<10)
		l.Identify.Timeout = orDefault(l.Identify.Timeout, o.Timeouts.Identify)
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
	if l.Protocol < TCP || l.Protocol > QUIC {
		errs = append(errs, errors.New("no such protocol"))
	}
	for _, pool := range l.pools() {
		if o.Pools[pool].Picker == nil {
			errs = append(errs, fmt.Errorf("no pool %q", pool))
		}
	}
	return errors.Join(errs...)
}

// endsTLS tells whether TLS of clients can end at the listener.
func (l Listener) endsTLS() bool {
	return l.Protocol.endsTLS() && !(l.Passthrough && !slices.ContainsFunc(l.Routes, func(r Route) bool { return !r.Passthrough }))
}

// onlyXMPP tells whether clients have nothing but XMPP to choose.
func (l Listener) onlyXMPP() bool {
	switch l.Protocol {
	case XMPP, XMPPS:
		return true
	case WS, WSS:
		return !slices.ContainsFunc(l.WebSocket.Subprotocols, func(p string) bool { return p != subprotocolXMPP })
	case QUIC:
		return slices.Equal(l.alpn(), []string{alpnXMPP})
	case TCP, TLS, MQTT, MQTTS:
	}
	return false
}

// passesTLS tells whether some clients' TLS is left to the nodes.
func (l Listener) passesTLS() bool {
	return l.Protocol == TLS && (l.Passthrough || slices.ContainsFunc(l.Routes, func(r Route) bool { return r.Passthrough }))
}

// matches are what the routes match, in their order.
func (l Listener) matches() []identify.Match {
	m := make([]identify.Match, len(l.Routes))
	for i, r := range l.Routes {
		m[i] = identify.Match{ServerNames: r.ServerNames, ALPN: r.ALPN}
	}
	return m
}

// pools returns the pools that sessions can be led to.
func (l Listener) pools() []string {
	pools := []string{l.Pool}
	for _, r := range l.Routes {
		pools = append(pools, r.Pool)
	}
	return pools
}

func (l Limits) withDefaults() Limits {
	l.MaxStanza = orDefault(l.MaxStanza, 256<<10)
	l.MaxPreAuth = orDefault(l.MaxPreAuth, 16<<10)
	l.MaxNodeStanza = orDefault(l.MaxNodeStanza, 16<<20)
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
