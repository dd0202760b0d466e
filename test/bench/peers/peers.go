//go:build linux

// Package peers starts the proxies that are compared, each as a process of its own
// with a configuration that is fair to it.
package peers

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
)

// Protocol is what a proxy takes from clients; to the backend it speaks the same
// without TLS, and without the WebSocket unless that is carried through.
type Protocol string

// The protocols.
const (
	TCP   Protocol = "tcp"
	TLS   Protocol = "tls"
	XMPPS Protocol = "xmpps" // to who does not know XMPP it is TLS
	QUIC  Protocol = "quic"
	WS    Protocol = "ws" // WebSocket without TLS
)

// secure tells whether clients come in TLS.
func (p Protocol) secure() bool { return p != TCP && p != WS }

// Task is what a proxy is started for.
type Task struct {
	Protocol Protocol
	Backend  netip.AddrPort
	Sessions int    // that it has to carry
	Certs    Certs  // of the front
	Dir      string // its own, for its files
}

// Peer is one of those that are compared.
type Peer struct {
	Name     string
	Family   string // whose it is: peers of a family are variants of one program
	Version  string
	Settings string // what is set, in a few words
	// Protocols it can take.
	Protocols []Protocol
	// Tunnels are those of them that end at the backend, and not at the peer.
	Tunnels []Protocol
	// Only are the workloads it takes part in; nil: all.
	Only []string
	// Descriptors that a session takes; 0: the usual two.
	Descriptors int
	// Start starts it. nil: clients connect to the backend itself.
	Start func(ctx context.Context, task Task) (*Running, error)
}

// Takes tells whether the peer takes part in a workload.
func (p Peer) Takes(workload string, protocol Protocol) bool {
	return slices.Contains(p.Protocols, protocol) && (p.Only == nil || slices.Contains(p.Only, workload))
}

// maxDescriptors is how many of what a process may usually open sessions can have.
const maxDescriptors = 19200

// MostSessions returns how many sessions the peer can carry at a time.
func (p Peer) MostSessions() int { return maxDescriptors / max(2, p.Descriptors) }

// Families.
const (
	Ours      = "imlb"
	OursBlind = "imlb blind" // copies what Ours reads
	HAProxy   = "haproxy"
	Nginx     = "nginx"
	Go        = "go"
	Nobody    = "direct"
)

// Direct is no proxy.
func Direct() Peer {
	return Peer{
		Name: "direct", Family: Nobody, Version: "-", Settings: "clients connect to the backend",
		Protocols: []Protocol{TCP, TLS, XMPPS, QUIC, WS},
		Only: []string{
			"round-trips", "paced", "connect", "bulk-down", "bulk-up",
			"tls-round-trips", "tls-handshakes", "tls-resumptions", "tls-bulk", "ws-round-trips", "xmpp", "quic-round-trips",
		},
	}
}

// freePort returns a loopback address that nobody listens on. It is outside of the
// range from which the system takes ports for connections, so that it stays free.
func freePort(ctx context.Context, protocol Protocol) (netip.AddrPort, error) {
	var failed error
	for range 100 {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(20000+rand.IntN(12000))) //nolint:gosec // no secret
		if failed = try(ctx, protocol, addr); failed == nil {
			return netip.ParseAddrPort(addr)
		}
	}
	return netip.AddrPort{}, fmt.Errorf("no free port: %w", failed)
}

func try(ctx context.Context, protocol Protocol, addr string) error {
	var lc net.ListenConfig
	if protocol == QUIC {
		conn, err := lc.ListenPacket(ctx, "udp4", addr)
		if err != nil {
			return err
		}
		return conn.Close()
	}
	l, err := lc.Listen(ctx, "tcp4", addr)
	if err != nil {
		return err
	}
	return l.Close()
}

// ErrMissing says that a program is not installed.
var ErrMissing = errors.New("not installed")
