//go:build linux

package rounds

import (
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"

	"imlb/test/bench/load"
	"imlb/test/bench/peers"
	"imlb/test/bench/report"
)

// plan is a workload and how it is run.
type plan struct {
	report.Workload
	protocol peers.Protocol
	backend  func(load.Addresses) netip.AddrPort // behind a proxy
	direct   func(load.Addresses) netip.AddrPort // without one, or behind one that tunnels
	conns    int                                 // that are busy
	size     int                                 // bytes of a message; 0: the option's
	idle     bool
}

// Figures that several workloads have, with their targets.
const (
	best   = 1.2     // at most, of the best peer
	atBest = 1 / 1.2 // at least, where higher is better
)

func rate(title string) report.Metric {
	return report.Metric{Key: "rate", Title: title, Higher: true, OfBest: atBest}
}

func throughput(ofHAProxy float64) report.Metric {
	return report.Metric{Key: "throughput", Title: "GB/s", Higher: true, OfHAProxy: ofHAProxy, OfBest: atBest}
}

func cpu(title string, ofHAProxy float64) report.Metric {
	return report.Metric{Key: "cpu", Title: title, OfHAProxy: ofHAProxy, OfBest: best}
}

func latency(key string) report.Metric { return report.Metric{Key: key, Title: key + " µs"} }

// memory is per session; what is resident of files, too, is information.
func memory(ofHAProxy float64) []report.Metric {
	return []report.Metric{
		{Key: "anonymous", Title: "KiB anonymous per session", OfHAProxy: ofHAProxy, OfBest: best},
		{Key: "rss", Title: "KiB resident per session"},
	}
}

func tcpBackend(a load.Addresses) netip.AddrPort { return a.TCP }
func tlsBackend(a load.Addresses) netip.AddrPort { return a.TLS }
func wsBackend(a load.Addresses) netip.AddrPort  { return a.WebSocket }
func node(a load.Addresses) netip.AddrPort       { return a.XMPP }
func tlsNode(a load.Addresses) netip.AddrPort    { return a.SecureXMPP }
func quicNode(a load.Addresses) netip.AddrPort   { return a.QUIC }

// plans are all workloads, in the order in which they are run.
func plans(o Options) []plan {
	return slices.Concat(tcpPlans(o), tlsPlans(o), webSocketPlans(o), stanzaPlans(o))
}

func tcpPlans(o Options) []plan {
	all := []plan{
		{Workload: report.Workload{
			Name:    "round-trips",
			What:    fmt.Sprintf("%d connections play ping-pong with %d bytes, as fast as it goes.", o.Conns, o.Size),
			Metrics: []report.Metric{rate("round trips/s"), cpu("CPU µs per round trip", 0.85), latency("p50"), latency("p99")},
		}, conns: o.Conns},
		{Workload: report.Workload{
			Name: "paced",
			What: fmt.Sprintf("%d messages/s of %d bytes over %d connections, whether or not answers come; latency from when each was due.",
				o.Rate, o.Size, o.PacedConns),
			Metrics: []report.Metric{
				{Key: "rate", Title: "round trips/s", Higher: true}, cpu("CPU µs per round trip", 0.85), latency("p50"), {Key: "p99", Title: "p99 µs", OfHAProxy: 1, OfBest: best}, latency("p99.9"),
			},
		}, conns: o.PacedConns},
		{Workload: report.Workload{
			Name:    "connect",
			What:    fmt.Sprintf("connect, send %d bytes, have them back, close; %d at a time.", o.Size, o.Connecting),
			Metrics: []report.Metric{rate("connections/s"), cpu("CPU µs per connection", 1), latency("p50"), latency("p99")},
		}, conns: o.Connecting},
		{Workload: report.Workload{
			Name: "bulk-down", What: fmt.Sprintf("the backend pours into %d connections.", o.BulkConns),
			Metrics: []report.Metric{throughput(1.2), cpu("CPU s per GB", 0.6)},
		}, conns: o.BulkConns},
		{Workload: report.Workload{
			Name: "bulk-up", What: fmt.Sprintf("the clients pour into %d connections.", o.BulkConns),
			Metrics: []report.Metric{throughput(1.2), cpu("CPU s per GB", 0.6)},
		}, conns: o.BulkConns},
		{Workload: report.Workload{
			Name: "idle", What: fmt.Sprintf("%d connections on each of which one message went and came, and then none.", o.Sessions),
			Metrics: memory(0.5),
		}, idle: true},
	}
	for i := range all {
		all[i].protocol, all[i].backend, all[i].direct = peers.TCP, tcpBackend, tcpBackend
	}
	return all
}

func tlsPlans(o Options) []plan {
	all := []plan{
		{Workload: report.Workload{
			Name:    "tls-round-trips",
			What:    fmt.Sprintf("as round-trips, TLS ended at the proxy; %d connections.", o.Conns),
			Metrics: []report.Metric{rate("round trips/s"), cpu("CPU µs per round trip", 1.2), latency("p50"), latency("p99")},
		}, conns: o.Conns},
		{Workload: report.Workload{
			Name:    "tls-handshakes",
			What:    fmt.Sprintf("as connect, with a full TLS handshake each; %d at a time.", o.Handshaking),
			Metrics: []report.Metric{rate("handshakes/s"), cpu("CPU µs per handshake", 0), latency("p50"), latency("p99")},
		}, conns: o.Handshaking},
		{Workload: report.Workload{
			Name:    "tls-resumptions",
			What:    "as tls-handshakes, each resumed by a ticket of the one before.",
			Metrics: []report.Metric{rate("handshakes/s"), cpu("CPU µs per handshake", 0), latency("p50"), latency("p99")},
		}, conns: o.Handshaking},
		{Workload: report.Workload{
			Name: "tls-bulk", What: fmt.Sprintf("as bulk-down, TLS ended at the proxy; %d connections.", o.BulkConns),
			Metrics: []report.Metric{throughput(0), cpu("CPU s per GB", 0)},
		}, conns: o.BulkConns},
		{Workload: report.Workload{
			Name: "tls-idle", What: fmt.Sprintf("as idle, TLS ended at the proxy; %d connections.", o.TLSSessions),
			Metrics: memory(1),
		}, idle: true},
	}
	for i := range all {
		all[i].protocol, all[i].backend, all[i].direct = peers.TLS, tcpBackend, tlsBackend
	}
	return all
}

func webSocketPlans(o Options) []plan {
	all := []plan{
		{Workload: report.Workload{
			Name: "ws-round-trips",
			What: fmt.Sprintf("as round-trips, in binary messages on %d WebSockets without TLS; imlb ends them, "+
				"the others carry their frames to a backend that does.", o.Conns),
			Metrics: []report.Metric{rate("round trips/s"), cpu("CPU µs per round trip", 0), latency("p50"), latency("p99")},
		}, conns: o.Conns},
		{Workload: report.Workload{
			Name: "ws-idle", What: fmt.Sprintf("as idle, on WebSockets in the same way; %d of them.", o.Sessions),
			Metrics: memory(0),
		}, idle: true},
	}
	for i := range all {
		all[i].protocol, all[i].backend, all[i].direct = peers.WS, tcpBackend, wsBackend
	}
	return all
}

func stanzaPlans(o Options) []plan {
	framed := cpu("CPU µs per round trip", 0)
	framed.Beside, framed.OfBeside = "imlb-tls", 1.1
	return []plan{
		{Workload: report.Workload{
			Name: "xmpp",
			What: fmt.Sprintf("messages of %d bytes are echoed by an XMPP node on %d streams in TLS, after logins; "+
				"imlb reads stanzas, the others copy bytes.", o.StanzaSize, o.Conns),
			Metrics: []report.Metric{rate("round trips/s"), framed, latency("p50"), latency("p99")},
		}, protocol: peers.XMPPS, backend: node, direct: tlsNode, conns: o.Conns, size: o.StanzaSize},
		{Workload: report.Workload{
			Name:    "quic-round-trips",
			What:    fmt.Sprintf("as xmpp, on QUIC; %d connections with one stream each. None of the others takes QUIC.", o.Conns),
			Metrics: []report.Metric{{Key: "rate", Title: "round trips/s", Higher: true}, {Key: "cpu", Title: "CPU µs per round trip"}, latency("p50"), latency("p99")},
		}, protocol: peers.QUIC, backend: node, direct: quicNode, conns: o.Conns, size: o.StanzaSize},
	}
}

// behind returns what a peer has behind it.
func (p plan) behind(peer peers.Peer) func(load.Addresses) netip.AddrPort {
	if slices.Contains(peer.Tunnels, p.protocol) {
		return p.direct
	}
	return p.backend
}

// choosePlans returns the plans whose names match a list of patterns with commas
// between, all without one.
func choosePlans(all []plan, patterns string) ([]plan, error) {
	return choose(all, patterns, "workload", func(p plan) string { return p.Name })
}

// choosePeers does the same for peers.
func choosePeers(all []peers.Peer, patterns string) ([]peers.Peer, error) {
	return choose(all, patterns, "peer", func(p peers.Peer) string { return p.Name })
}

func choose[T any](all []T, patterns, kind string, name func(T) string) ([]T, error) {
	if patterns == "" {
		return all, nil
	}
	chosen := make(map[string]bool)
	for pattern := range strings.SplitSeq(patterns, ",") {
		found := false
		for _, one := range all {
			ok, err := path.Match(strings.TrimSpace(pattern), name(one))
			if err != nil {
				return nil, fmt.Errorf("%s %q: %w", kind, pattern, err)
			}
			if ok {
				chosen[name(one)], found = true, true
			}
		}
		if !found {
			return nil, fmt.Errorf("no %s %q; there are %s", kind, pattern, names(all, name))
		}
	}
	return slices.DeleteFunc(slices.Clone(all), func(one T) bool { return !chosen[name(one)] }), nil
}

func names[T any](all []T, name func(T) string) string {
	list := make([]string, 0, len(all))
	for _, one := range all {
		list = append(list, name(one))
	}
	return strings.Join(list, ", ")
}
