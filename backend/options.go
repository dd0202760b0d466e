package backend

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"imlb/backend/bus"
	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// Bus carries signals to the nodes that host a user's partition, this one
// included. *bus.Bus is the real one.
type Bus interface {
	// Publish hands a signal to all nodes that host its partition. It does
	// not wait for them. After an error it may have reached this one alone.
	Publish(s bus.Signal) error
	// Host returns once the node hears the signals of a partition, or at once
	// while there are none to hear. Calls are counted.
	Host(partition uint16) error
	// Unhost takes back one Host.
	Unhost(partition uint16)
}

// DefaultTokenLifetime is how long a token lasts: about as long as a phone lies in a drawer.
const DefaultTokenLifetime = 21 * 24 * time.Hour

// Options are all that a node is given. Name, Domain, Store, Bus, Partition and
// TrustedFronts are required.
type Options struct {
	// Name of the node, stable over restarts.
	Name string
	// Incarnation names this run of the process; empty: random.
	Incarnation string
	// Domain of the users, the part of their addresses after the @.
	Domain string

	Store     store.Store
	Bus       Bus
	Partition func(user string) uint16 // of a canonical bare JID

	// TrustedFronts are the networks from which connections are accepted; they
	// must start with a PROXY v2 header.
	TrustedFronts []netip.Prefix

	// Mechanisms are offered in this order to clients that can use them: PLAIN and
	// OAUTHBEARER need TLS, EXTERNAL a verified certificate, -PLUS the data of the
	// client's TLS connection, and SCRAM-SHA-512 keys of all accounts that have any. nil:
	// SCRAM-SHA-512, SCRAM-SHA-256, SCRAM-SHA-1, PLAIN, or with Passwords PLAIN alone; and
	// with Tokens OAUTHBEARER.
	Mechanisms []string
	// Passwords checks passwords instead of the store's keys; nil: the keys do.
	// Accounts are then made at the first login.
	Passwords Passwords
	// Tokens checks the tokens of OAUTHBEARER; nil: there is none.
	Tokens Tokens
	// TokensMakeAccounts makes an account for a token's user at the first login.
	TokensMakeAccounts bool
	// Backoff makes logins wait after others have failed; zero: none.
	Backoff Backoff
	// ScramIterations is told to names that are no account, so it should be
	// what accounts have; 0: DefaultScramIterations.
	ScramIterations int
	// TokenLifetime is how long a client may log in with a token (XEP-0484) that it got
	// at an earlier login. It gets the next one when half of that is over, but with Passwords
	// or Tokens, which may not know the user any more, at a login with these only; 0: 21 days.
	TokenLifetime time.Duration
	// Secret makes the salts that names without an account are told, so that
	// they look like accounts. Nodes of a cluster should share it; nil: random.
	Secret []byte

	Limits   Limits
	Timeouts Timeouts

	Registration Registration
	Retention    Retention

	// Contacts are where people reach those who run the service (XEP-0157).
	Contacts Contacts

	// Weight and Capacity (sessions) are reported to whoever places users; 0
	// means 1 and no limit. Capacity is not a limit of its own: see
	// Limits.MaxSessions.
	Weight   float64
	Capacity int

	Logger     *slog.Logger          // nil: nothing is logged
	Registerer prometheus.Registerer // nil: a registry of the node's own
	Gatherer   prometheus.Gatherer   // what /metrics shows; nil: the node's own metrics
}

// Limits bound what one client can cost. Zero means the default.
type Limits struct {
	Stanza        xmpp.Limits // of a logged-in client; 256 KiB, xmpp.ClientDepth, xmpp.ClientAttrs; before login no more than 10,000 bytes (RFC 6120 §13.12)
	MaxSessions   int         // on this node; 0: no limit
	PerUser       int         // sessions of one user on this node; 100
	QueueBytes    int         // waiting to be written to one client, and half as much of entries; 1 MiB
	Outstanding   int         // messages of one session on their way into the store; 64
	Unacked       int         // stored messages that a client may leave without XEP-0198 acknowledgement; 10,000
	Waiting       int         // messages that wait for one user (XEP-0160); 50,000
	Directed      int         // addresses that a session's directed presence is remembered for; 1000
	RosterItems   int         // contacts of one user; 5000
	Rates         Rates       // how fast clients may send
	Blocked       int         // addresses on one user's blocklist; 1000
	PrivateSpaces int         // namespaces of one user's private XML (XEP-0049); 100
	PrivateBytes  int         // of one user's private XML; 256 KiB
	VCardBytes    int         // of a vCard; 128 KiB
	AuthTries     int         // SASL failures before the stream is ended; 5 (RFC 6120 §6.3.3 asks for 2 to 5)
}

// Timeouts bound how long things may take. Zero means the default.
type Timeouts struct {
	Handshake time.Duration // from accept to bound resource; 30 s
	Write     time.Duration // of one write to the front; 30 s
	Close     time.Duration // from our end of stream to the client's; 2 s
	Store     time.Duration // of one query; 10 s
	Lease     time.Duration // how long a node that fell silent is believed to live; 10 s
	Accounts  time.Duration // between looks for accounts that were suspended or deleted; 1 s
	Flush     time.Duration // how long delivered numbers are gathered; 250 ms
	Idle      time.Duration // after which a client that has said nothing is asked whether it is there, at most twice that; 5 min
	Ping      time.Duration // for the answer; 1 min
	Resume    time.Duration // for which a session waits for its client to resume it (XEP-0198 §5); 5 min, negative: not at all
	Shutdown  time.Duration // for sessions to end when Serve's context does; 20 s
}

// preAuthBytes is what an element may have before login: the least that RFC 6120
// §13.12 allows.
const preAuthBytes = 10_000

func (o Options) withDefaults() (Options, error) {
	if err := o.check(); err != nil {
		return o, err
	}
	if o.Incarnation == "" {
		o.Incarnation = randomID()
	}
	if o.Mechanisms == nil {
		o.Mechanisms = o.defaultMechanisms()
	}
	if err := o.checkMechanisms(); err != nil {
		return o, err
	}
	setDefault(&o.ScramIterations, DefaultScramIterations)
	setDefault(&o.TokenLifetime, DefaultTokenLifetime)
	if o.Secret == nil {
		o.Secret = make([]byte, 32)
		_, _ = rand.Read(o.Secret) // never fails
	}
	setDefault(&o.Weight, 1)
	o.Registration = o.Registration.withDefaults()
	o.Limits = o.Limits.withDefaults()
	o.Timeouts = o.Timeouts.withDefaults()
	o.Retention = o.Retention.withDefaults()
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Registerer == nil {
		registry := prometheus.NewRegistry()
		o.Registerer = registry
		if o.Gatherer == nil {
			o.Gatherer = registry
		}
	}
	if o.Gatherer == nil {
		if g, ok := o.Registerer.(prometheus.Gatherer); ok {
			o.Gatherer = g
		} else {
			o.Gatherer = prometheus.DefaultGatherer
		}
	}
	return o, nil
}

// asksOthers tells whether others than the store say who may log in.
func (o Options) asksOthers() bool { return o.Passwords != nil || o.Tokens != nil }

// check reports the first thing without which a node cannot be.
func (o Options) check() error {
	switch {
	case o.Name == "":
		return errors.New("a node needs a name")
	case o.Store == nil || o.Bus == nil || o.Partition == nil:
		return errors.New("a node needs a store, a bus and a partition function")
	case len(o.TrustedFronts) == 0:
		return errors.New("a node needs trusted fronts: without a front nobody can reach it")
	case o.Passwords != nil && o.Registration.any():
		return errors.New("registration makes and changes passwords, but they are checked elsewhere (sasl.accounts): switch one of the two off")
	}
	domain, err := xmpp.ParseJID(o.Domain)
	if err != nil {
		return fmt.Errorf("domain of the node: %w", err)
	}
	if domain.String() != o.Domain || domain.Domain() != o.Domain {
		return fmt.Errorf("domain of the node %q: write it as %q", o.Domain, domain.Domain())
	}
	return nil
}

func (l Limits) withDefaults() Limits {
	l.Stanza = clientLimits(l.Stanza)
	setDefault(&l.PerUser, 100)
	setDefault(&l.QueueBytes, 1<<20)
	setDefault(&l.Outstanding, 64)
	setDefault(&l.Unacked, 10_000)
	setDefault(&l.Waiting, 50_000)
	setDefault(&l.Directed, 1000)
	setDefault(&l.RosterItems, 5000)
	setDefault(&l.Blocked, 1000)
	setDefault(&l.PrivateSpaces, 100)
	setDefault(&l.PrivateBytes, 256<<10)
	setDefault(&l.VCardBytes, 128<<10)
	setDefault(&l.AuthTries, 5)
	setDefault(&l.Rates.Burst, 5*time.Second)
	return l
}

func (t Timeouts) withDefaults() Timeouts {
	setDefault(&t.Handshake, 30*time.Second)
	setDefault(&t.Write, 30*time.Second)
	setDefault(&t.Close, 2*time.Second)
	setDefault(&t.Store, 10*time.Second)
	setDefault(&t.Lease, 10*time.Second)
	setDefault(&t.Accounts, time.Second)
	setDefault(&t.Flush, 250*time.Millisecond)
	setDefault(&t.Idle, 5*time.Minute)
	setDefault(&t.Ping, time.Minute)
	setDefault(&t.Resume, 5*time.Minute)
	setDefault(&t.Shutdown, 20*time.Second)
	return t
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// preAuth are the limits before login.
func (l Limits) preAuth() xmpp.Limits {
	pre := l.Stanza
	pre.MaxBytes = min(pre.MaxBytes, preAuthBytes)
	return pre
}
