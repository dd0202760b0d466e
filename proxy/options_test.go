package proxy_test

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"imlb/proxy"
	"imlb/proxy/limit"
)

func TestOptions(t *testing.T) {
	t.Parallel()
	good := func() proxy.Options {
		return proxy.Options{
			Listeners:  []proxy.Listener{{Name: "a", Protocol: proxy.XMPP, Address: "127.0.0.1:0", Pool: "p"}},
			Pools:      map[string]proxy.Pool{"p": {Picker: &picker{}}},
			Domains:    []string{"Example.COM"},
			TLS:        &tls.Config{MinVersion: tls.VersionTLS12},
			Mechanisms: []string{"PLAIN"},
			Logger:     slog.New(slog.DiscardHandler),
		}
	}
	if _, err := proxy.New(good()); err != nil {
		t.Fatal(err)
	}
	for want, spoil := range map[string]func(*proxy.Options){
		"no listeners":          func(o *proxy.Options) { o.Listeners = nil },
		"no pool \"x\"":         func(o *proxy.Options) { o.Listeners[0].Pool = "x" },
		"no such protocol":      func(o *proxy.Options) { o.Listeners[0].Protocol = 0 },
		"the name is taken":     func(o *proxy.Options) { o.Listeners = append(o.Listeners, o.Listeners[0]) },
		"a burst of at least 1": func(o *proxy.Options) { limitRate(o, 1, 0) },
		"domain \"a@b\"":        func(o *proxy.Options) { o.Domains = []string{"a@b"} },
		"no TLS configuration":  func(o *proxy.Options) { o.TLS = nil },
		"no logger":             func(o *proxy.Options) { o.Logger = nil },
		"register the metrics":  func(o *proxy.Options) { o.Registerer = taken() },
	} {
		o := good()
		spoil(&o)
		if _, err := proxy.New(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// taken is a registry that has a metric of the front's already.
func taken() prometheus.Registerer {
	r := prometheus.NewRegistry()
	r.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "imlb_proxy_sessions_active", Help: "Another."}))
	return r
}

// All listeners open, or none.
func TestListenFails(t *testing.T) {
	t.Parallel()
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	for _, p := range []proxy.Protocol{proxy.XMPP, proxy.WSS} {
		srv, err := proxy.New(proxy.Options{
			Listeners: []proxy.Listener{
				{Name: "quic", Protocol: proxy.QUIC, Address: "127.0.0.1:0", Pool: "p"},
				{Name: "free", Protocol: proxy.XMPPS, Address: "127.0.0.1:0", Pool: "p"},
				{Name: "busy", Protocol: p, Address: busy.Addr().String(), Pool: "p"},
			},
			Pools:      map[string]proxy.Pool{"p": {Picker: &picker{}}},
			Domains:    []string{"example.com"},
			TLS:        &tls.Config{MinVersion: tls.VersionTLS12},
			Mechanisms: []string{"PLAIN"},
			Logger:     slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := srv.Listen(t.Context()); err == nil || !strings.Contains(err.Error(), "listener busy") {
			t.Errorf("listened on a taken address: %v", err)
		}
		if err := srv.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// Every reason has a name of its own.
func TestReasons(t *testing.T) {
	t.Parallel()
	seen := make(map[string]bool)
	for _, r := range proxy.Reasons() {
		name := r.String()
		if name == "unknown" || seen[name] {
			t.Errorf("reason %d is called %q", r, name)
		}
		seen[name] = true
	}
}

// unmet are the counters of reasons for which no session has ended.
func unmet(reasons ...string) string {
	var text strings.Builder
	for _, listener := range []string{"quic", "wss", "xmpp", "xmpps"} {
		for _, reason := range reasons {
			fmt.Fprintf(&text, "imlb_proxy_sessions_ended_total{listener=%q,reason=%q} 0\n", listener, reason)
		}
	}
	return text.String()
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	n, pick := onlyNode(t)
	f := startFront(t, pick, func(o *proxy.Options) { o.Registerer = registry })
	client := f.dialTLS()
	leg := login(client, n, "alice")
	client.send("<message/>")
	leg.expect("<message/>")
	leg.send("<presence/>")
	client.expect("<presence/>")
	if err := testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP imlb_proxy_sessions_active Sessions now logged in.
# TYPE imlb_proxy_sessions_active gauge
imlb_proxy_sessions_active 1
# HELP imlb_proxy_sessions_open Sessions now open, logged in or not.
# TYPE imlb_proxy_sessions_open gauge
imlb_proxy_sessions_open{listener="quic"} 0
imlb_proxy_sessions_open{listener="wss"} 0
imlb_proxy_sessions_open{listener="xmpp"} 0
imlb_proxy_sessions_open{listener="xmpps"} 1
`), "imlb_proxy_sessions_active", "imlb_proxy_sessions_open"); err != nil {
		t.Error(err)
	}
	nothing := unmet("dial-failed", "internal", "no-node", "node-error", "node-lost", "node-stanza", "slow-node")
	if err := testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP imlb_proxy_sessions_ended_total Sessions that ended, by reason.
# TYPE imlb_proxy_sessions_ended_total counter
`+nothing), "imlb_proxy_sessions_ended_total"); err != nil {
		t.Error(err)
	}
	if n, err := testutil.GatherAndCount(registry, "imlb_proxy_refusals_total"); err != nil || n != 4*int(limit.ReasonAuthBackoffSource) {
		t.Errorf("refusals are counted by %d counters (%v)", n, err)
	}
	client.send(streamEnd)
	leg.expect(streamEnd)
	leg.send(streamEnd)
	client.expect(streamEnd)
	client.close()
	f.ended("client-closed")
	if err := testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP imlb_proxy_auth_total Login attempts.
# TYPE imlb_proxy_auth_total counter
imlb_proxy_auth_total{mechanism="PLAIN",outcome="success"} 1
# HELP imlb_proxy_node_outcomes_total What the front learnt of nodes by using them.
# TYPE imlb_proxy_node_outcomes_total counter
imlb_proxy_node_outcomes_total{node="one",outcome="connected"} 1
# HELP imlb_proxy_sessions_active Sessions now logged in.
# TYPE imlb_proxy_sessions_active gauge
imlb_proxy_sessions_active 0
# HELP imlb_proxy_sessions_ended_total Sessions that ended, by reason.
# TYPE imlb_proxy_sessions_ended_total counter
imlb_proxy_sessions_ended_total{listener="xmpps",reason="client-closed"} 1
`+nothing+`# HELP imlb_proxy_stanzas_total Stanzas from (in) and to (out) clients.
# TYPE imlb_proxy_stanzas_total counter
imlb_proxy_stanzas_total{direction="in",kind="iq"} 0
imlb_proxy_stanzas_total{direction="in",kind="message"} 1
imlb_proxy_stanzas_total{direction="in",kind="other"} 1
imlb_proxy_stanzas_total{direction="in",kind="presence"} 0
imlb_proxy_stanzas_total{direction="out",kind="iq"} 0
imlb_proxy_stanzas_total{direction="out",kind="message"} 0
imlb_proxy_stanzas_total{direction="out",kind="other"} 3
imlb_proxy_stanzas_total{direction="out",kind="presence"} 1
`), "imlb_proxy_auth_total", "imlb_proxy_node_outcomes_total", "imlb_proxy_sessions_active",
		"imlb_proxy_sessions_ended_total", "imlb_proxy_stanzas_total"); err != nil {
		t.Error(err)
	}
}
