package proxy_test

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"imlb/proxy"
	"imlb/proxy/identify"
)

// mqttConnect is a CONNECT packet of version 3.1.1 or 5.
func mqttConnect(level byte, clientID, user string) string {
	text := func(s string) string { return string([]byte{byte(len(s) >> 8), byte(len(s))}) + s }
	flags, payload := byte(2), text(clientID)
	if user != "" {
		flags |= 0xC0
		payload += text(user) + text("secret")
	}
	properties := ""
	if level >= 5 {
		properties = "\x00"
	}
	body := text("MQTT") + string([]byte{level, flags, 0, 60}) + properties + payload
	return string([]byte{0x10, byte(len(body))}) + body
}

// byMQTT identifies by a CONNECT packet, or else by address.
func byMQTT() proxy.Identify {
	return proxy.Identify{Chain: identify.Chain{
		{Name: "mqtt", Identifier: identify.MQTT{}}, {Name: "source", Identifier: identify.Source{}},
	}}
}

// The user is found in the first bytes, however they come, and the node gets those
// bytes once and nothing else.
func TestSniff(t *testing.T) {
	t.Parallel()
	source := identify.Step{Name: "source", Identifier: identify.Source{IPv4Bits: 24}}
	tests := map[string]struct {
		protocol proxy.Protocol
		identify proxy.Identify
		sent     string
		user, by string
	}{
		"MQTT user":        {proxy.MQTT, byMQTT(), mqttConnect(4, "phone", "alice"), "alice", "mqtt"},
		"MQTT 5 user":      {proxy.MQTT, byMQTT(), mqttConnect(5, "phone", "alice"), "alice", "mqtt"},
		"MQTT client id":   {proxy.MQTT, byMQTT(), mqttConnect(4, "phone", ""), "phone", "mqtt"},
		"MQTT nobody":      {proxy.MQTT, byMQTT(), mqttConnect(4, "", ""), "127.0.0.1/32", "source"},
		"not MQTT":         {proxy.TCP, byMQTT(), "GET / HTTP/1.1\r\n", "127.0.0.1/32", "source"},
		"pattern":          {proxy.TCP, byLine(t), "LOGIN alice\r\nmore", "alice", "pattern"},
		"pattern, or else": {proxy.TCP, byLine(t, source), "LOGOUT\r\n", "127.0.0.0/24", "source"},
		"order": {proxy.TCP, proxy.Identify{Chain: append(identify.Chain{source}, byLine(t).Chain...)},
			"LOGIN alice\r\n", "127.0.0.0/24", "source"},
	}
	for name, test := range tests {
		for _, trickle := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, trickled %v", name, trickle), func(t *testing.T) {
				t.Parallel()
				n := startNode(t, "one")
				pick := witnessOf(n)
				f := startOpaque(t, pick, proxy.Listener{Protocol: test.protocol, Identify: test.identify}, nil)
				client := f.dial()
				if trickle {
					for i := range test.sent {
						client.send(test.sent[i : i+1])
					}
				} else {
					client.send(test.sent)
				}
				leg := n.leg()
				leg.recv(test.sent)
				leg.send("answer")
				client.recv("answer")
				client.closeWrite()
				leg.end()
				leg.Close()
				client.end()
				r := f.ended("client-closed")
				if got := pick.users(); !slices.Equal(got, []string{test.user}) || r["identified_by"] != test.by {
					t.Errorf("picked for %q by %s, want %s by %s", got, r["identified_by"], test.user, test.by)
				}
			})
		}
	}
}

// All bytes of clients count, those that were looked at too, and of sessions that go on.
func TestOpaqueBytesCount(t *testing.T) {
	t.Parallel()
	for name, l := range map[string]proxy.Listener{
		"tcp":  {Protocol: proxy.TCP, Identify: byLine(t)},
		"tls":  {Protocol: proxy.TLS, Identify: byLine(t)},
		"quic": {Protocol: proxy.QUIC, ALPN: []string{"chat"}, Identify: byLine(t)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := startNode(t, "one")
			registry := prometheus.NewRegistry()
			f := startOpaque(t, witnessOf(n), l, func(o *proxy.Options) { o.Registerer = registry })
			counted := func(in, out int) {
				t.Helper()
				if err := testutil.GatherAndCompare(registry, strings.NewReader(fmt.Sprintf(`
# HELP imlb_proxy_bytes_total Bytes from (in) and to (out) clients: of XML, or those of opaque sessions.
# TYPE imlb_proxy_bytes_total counter
imlb_proxy_bytes_total{direction="in",listener="x"} %d
imlb_proxy_bytes_total{direction="out",listener="x"} %d
`, in, out)), "imlb_proxy_bytes_total"); err != nil {
					t.Error(err)
				}
			}
			var client *stream
			if l.Protocol == proxy.QUIC {
				client = f.openOpaqueQUIC()
			} else {
				client = f.client(l.Protocol)
			}
			client.send("LOGIN alice\r\n")
			leg := n.leg()
			leg.recv("LOGIN alice\r\n")
			leg.send("welcome\n")
			client.recv("welcome\n")
			f.Tally()
			counted(13, 8)
			client.send("more")
			leg.recv("more")
			client.closeWrite()
			leg.end()
			leg.Close()
			client.end()
			if r := f.ended("client-closed"); r["in.bytes"] != "17" || r["out.bytes"] != "8" {
				t.Errorf("logged %v", r)
			}
			f.Tally()
			counted(17, 8)
			if l.Protocol == proxy.QUIC {
				return
			}
			client = f.client(l.Protocol)
			client.send("HELO there\r\n")
			client.over()
			if r := f.ended("unidentified"); r["in.bytes"] != "12" {
				t.Errorf("logged %v", r)
			}
			counted(29, 8)
		})
	}
}

// A client that ends its side, as a one-shot one does, has said all it will.
func TestSniffEnd(t *testing.T) {
	t.Parallel()
	n := startNode(t, "one")
	f := startOpaque(t, witnessOf(n), proxy.Listener{
		Protocol: proxy.TCP, Identify: byLine(t, identify.Step{Name: "source", Identifier: identify.Source{}}),
	}, nil)
	client := f.dial()
	client.send("LOG")
	client.closeWrite()
	leg := n.leg()
	leg.recv("LOG")
	leg.end()
	leg.send("what?")
	leg.Close()
	client.recv("what?")
	client.end()
	f.ended("client-closed")
}

// Of a protocol whose server speaks first the client says nothing, so the address has
// to do when the time is over, also where TLS or a WebSocket is between.
func TestSniffServerFirst(t *testing.T) {
	t.Parallel()
	chain := byLine(t, identify.Step{Name: "source", Identifier: identify.Source{}})
	chain.Timeout = 100 * time.Millisecond
	for _, protocol := range []proxy.Protocol{proxy.TCP, proxy.TLS, proxy.WS} {
		t.Run(protocol.String(), func(t *testing.T) {
			t.Parallel()
			n := startNode(t, "one")
			pick := witnessOf(n)
			f := startOpaque(t, pick, proxy.Listener{
				Protocol: protocol, Identify: chain, WebSocket: proxy.WebSocket{Subprotocols: []string{""}},
			}, nil)
			var client *stream
			if protocol == proxy.WS {
				client = f.dialOpaqueWS("").stream()
			} else {
				client = f.client(protocol)
			}
			leg := n.leg()
			leg.send("220 ready\r\n")
			client.recv("220 ready\r\n")
			client.send("LOGIN alice\r\n")
			leg.recv("LOGIN alice\r\n")
			leg.closeWrite()
			client.end()
			client.Close()
			leg.end()
			r := f.ended("node-closed")
			if got := pick.users(); !slices.Equal(got, []string{"127.0.0.1/32"}) || r["identified_by"] != "source" {
				t.Errorf("picked for %q, logged %v", got, r)
			}
		})
	}
}

// Without anything that names a user there is no session.
func TestSniffNobody(t *testing.T) {
	t.Parallel()
	limited := byLine(t)
	limited.MaxBytes = 20
	slow := byLine(t)
	slow.Timeout = 100 * time.Millisecond
	tests := map[string]struct {
		identify proxy.Identify
		sent     string
		end      bool
		reason   string
	}{
		"foreign":        {byLine(t), "HELO there\r\n", false, "unidentified"},
		"too many":       {limited, "LOGIN " + strings.Repeat("x", 14), false, "unidentified"},
		"at once":        {limited, "LOGIN " + strings.Repeat("x", 20) + "\r\n", false, "unidentified"},
		"ended":          {byLine(t), "LOGIN ali", true, "unidentified"},
		"late":           {slow, "LOGIN ali", false, "identify-timeout"},
		"not a word":     {slow, "", false, "identify-timeout"},
		"closed at once": {byLine(t), "", true, "probe"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := startNode(t, "one")
			pick := witnessOf(n)
			f := startOpaque(t, pick, proxy.Listener{Protocol: proxy.TCP, Identify: test.identify}, nil)
			client := f.dial()
			client.send(test.sent)
			if test.end {
				client.closeWrite()
			}
			if got := client.over(); got != "" {
				t.Errorf("the client got %q", got)
			}
			r := f.ended(test.reason)
			if got := pick.users(); len(got) > 0 || r["user"] != "" {
				t.Errorf("picked for %q, logged %v", got, r)
			}
			if test.reason == "unidentified" && !strings.Contains(r["cause"], "pattern: ") {
				t.Errorf("logged the cause %q", r["cause"])
			}
			n.idle()
		})
	}
}

// A port scan is in no log that anybody reads.
func TestSniffProbe(t *testing.T) {
	t.Parallel()
	listeners := map[string]proxy.Listener{
		"mqtt":  {Protocol: proxy.MQTT, Identify: byMQTT()},
		"tcp":   {Protocol: proxy.TCP, Identify: byLine(t)},
		"tls":   {Protocol: proxy.TLS},
		"mqtts": {Protocol: proxy.MQTTS},
		"pass":  {Protocol: proxy.TLS, Passthrough: true},
		"ws":    {Protocol: proxy.WS, WebSocket: proxy.WebSocket{Subprotocols: []string{"mqtt"}}},
		"wss":   {Protocol: proxy.WSS, WebSocket: proxy.WebSocket{Subprotocols: []string{"mqtt"}}},
		"xmpp":  {Protocol: proxy.XMPP, DirectTLS: true},
	}
	for name, l := range listeners {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := startNode(t, "one")
			pick := witnessOf(n)
			levels := make(chan slog.Level, 10)
			f := startOpaque(t, pick, l, func(o *proxy.Options) {
				o.Logger = slog.New(leveled{o.Logger.Handler(), levels})
			})
			f.dial().Close()
			f.ended("probe")
			if got := <-levels; got != slog.LevelDebug {
				t.Errorf("logged at level %v", got)
			}
			if got := pick.users(); len(got) > 0 {
				t.Errorf("picked for %q", got)
			}
			n.idle()
		})
	}
}

// leveled notes the levels of what is logged.
type leveled struct {
	slog.Handler
	levels chan slog.Level
}

func (l leveled) Handle(ctx context.Context, r slog.Record) error {
	if r.Message == "session" {
		l.levels <- r.Level
	}
	return l.Handler.Handle(ctx, r)
}

// What a proxy before the front knows of the client counts as if the front knew it
// itself.
func TestSniffBehindProxy(t *testing.T) {
	t.Parallel()
	source := &net.TCPAddr{IP: net.ParseIP("2001:db8::7"), Port: 1234}
	destination := &net.TCPAddr{IP: net.ParseIP("2001:db8::1"), Port: 1883}
	trust := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	byTLV := proxy.Identify{Chain: identify.Chain{
		{Name: "tlv", Identifier: identify.ByTLV{Type: 0xE5}}, {Name: "source", Identifier: identify.Source{}},
	}}
	header := func(t *testing.T, version byte, tlvs ...proxyproto.TLV) string {
		t.Helper()
		h := proxyproto.HeaderProxyFromAddrs(version, source, destination)
		if err := h.SetTLVs(tlvs); err != nil {
			t.Fatal(err)
		}
		raw, err := h.Format()
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	tests := map[string]struct {
		header   string
		user     string
		proxied  bool // the node hears of the client's address
		identify proxy.Identify
	}{
		"version 1":         {header(t, 1), "2001:db8::/64", true, bySource()},
		"version 2":         {header(t, 2), "2001:db8::/64", true, bySource()},
		"TLV":               {header(t, 2, proxyproto.TLV{Type: 0xE5, Value: []byte("alice")}), "alice", true, byTLV},
		"other TLV":         {header(t, 2, proxyproto.TLV{Type: 0xE6, Value: []byte("alice")}), "2001:db8::/64", true, byTLV},
		"unknown":           {"PROXY UNKNOWN\r\n", "127.0.0.1/32", false, bySource()},
		"unknown with more": {"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", "127.0.0.1/32", false, bySource()},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := startNode(t, "one")
			pick := witnessOf(n)
			f := startOpaque(t, pick, proxy.Listener{Protocol: proxy.TCP, TrustedProxies: trust, Identify: test.identify}, nil)
			client := f.dial()
			client.send(test.header + "hello")
			leg := n.leg()
			leg.recv("hello")
			checkSum(t, leg.raw)
			want := client.LocalAddr().String()
			if test.proxied {
				want = source.String()
			}
			if got := leg.header.SourceAddr.String(); got != want {
				t.Errorf("the node was told of %s, want %s", got, want)
			}
			r := f.hangsUp(client, leg)
			if got := pick.users(); !slices.Equal(got, []string{test.user}) || r["source"] != want {
				t.Errorf("picked for %q, want %s; logged %v", got, test.user, r)
			}
		})
	}
	waiting := byLine(t)
	for name, test := range map[string]struct{ sent, reason string }{
		"check of the proxy": {"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00", "probe"},
		"silent":             {"", "probe"},
		"client left":        {header(t, 2), "probe"},
		"no header":          {"LOGIN alice\r\n", "proxy-header"},
		"half a header":      {"PROXY TCP4 127", "proxy-header"},
		"of another version": {"\r\n\r\n\x00\r\nQUIT\n\x31\x00\x00\x00", "proxy-header"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := startNode(t, "one")
			f := startOpaque(t, witnessOf(n), proxy.Listener{Protocol: proxy.TCP, TrustedProxies: trust, Identify: waiting}, nil)
			client := f.dial()
			client.send(test.sent)
			client.closeWrite()
			client.over()
			f.ended(test.reason)
			n.idle()
		})
	}
}

// localHeader is what a proxy begins a connection of its own with, in version 2.
const localHeader = "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"

// A check of a trusted proxy may go as far as TLS and a WebSocket, and comes to no node,
// whatever its words; nobody reads of it.
func TestProxyCheck(t *testing.T) {
	t.Parallel()
	upgrade := "GET /xmpp-websocket HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
	ws := proxy.WebSocket{Subprotocols: []string{""}}
	for name, test := range map[string]struct {
		listener proxy.Listener
		sent     string
		secure   bool
	}{
		"tcp, silent": {proxy.Listener{Protocol: proxy.TCP}, "", false},
		"tcp":         {proxy.Listener{Protocol: proxy.TCP}, "hello", false},
		"mqtt":        {proxy.Listener{Protocol: proxy.MQTT, Identify: byMQTT()}, mqttConnect(4, "phone", "alice"), false},
		"tls":         {proxy.Listener{Protocol: proxy.TLS}, "hello", true},
		"tls, broken": {proxy.Listener{Protocol: proxy.TLS}, "hello", false},
		"passthrough": {proxy.Listener{Protocol: proxy.TLS, Passthrough: true}, "hello", false},
		"ws":          {proxy.Listener{Protocol: proxy.WS, WebSocket: ws}, upgrade, false},
		"xmpps":       {proxy.Listener{Protocol: proxy.XMPPS}, streamOpen, true},
		"xmpp":        {proxy.Listener{Protocol: proxy.XMPP}, streamOpen + streamEnd, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := startNode(t, "one")
			pick := witnessOf(n)
			levels := make(chan slog.Level, 10)
			test.listener.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
			f := startOpaque(t, pick, test.listener, func(o *proxy.Options) {
				o.Logger = slog.New(leveled{o.Logger.Handler(), levels})
			})
			client := f.dial()
			client.send(localHeader)
			if test.secure {
				secured := tls.Client(client.Conn, f.clientTLS())
				if err := secured.Handshake(); err != nil {
					t.Fatal(err)
				}
				client.Conn = secured
			}
			_, _ = client.Write([]byte(test.sent)) // the front may have left already
			_ = client.Conn.(interface{ CloseWrite() error }).CloseWrite()
			f.ended("probe")
			if got := <-levels; got != slog.LevelDebug {
				t.Errorf("logged at level %v", got)
			}
			if got := pick.users(); len(got) > 0 {
				t.Errorf("picked for %q", got)
			}
			n.idle()
		})
	}
}

// Where a node may speak first, it is dialled before a client has said anything. A client
// that leaves then was none; one that has said something, or stayed, was.
func TestSourceProbe(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		greeting string
		do       func(client *stream, leg *leg)
		reason   string
		level    slog.Level
	}{
		"closed":        {"", func(c *stream, _ *leg) { c.Close() }, "probe", slog.LevelDebug},
		"reset":         {"", func(c *stream, _ *leg) { c.reset() }, "probe", slog.LevelDebug},
		"greeted":       {"220 ready\r\n", func(c *stream, _ *leg) { c.Close() }, "probe", slog.LevelDebug},
		"said a word":   {"", func(c *stream, l *leg) { c.send("x"); l.recv("x"); c.Close() }, "client-closed", slog.LevelInfo},
		"node left":     {"", func(c *stream, l *leg) { l.closeWrite(); c.end(); c.Close() }, "node-closed", slog.LevelInfo},
		"stayed longer": {"", func(c *stream, _ *leg) { <-time.After(1100 * time.Millisecond); c.Close() }, "client-closed", slog.LevelInfo},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := startNode(t, "one")
			pick := witnessOf(n)
			levels := make(chan slog.Level, 10)
			f := startOpaque(t, pick, proxy.Listener{Protocol: proxy.TCP}, func(o *proxy.Options) {
				o.Logger = slog.New(leveled{o.Logger.Handler(), levels})
			})
			client := f.dial()
			leg := n.leg()
			leg.send(test.greeting)
			client.recv(test.greeting)
			test.do(client, leg)
			leg.over()
			leg.Close()
			f.ended(test.reason)
			if got := <-levels; got != test.level {
				t.Errorf("logged at level %v", got)
			}
			pick.free(t)
		})
	}
}

// A client's own PROXY header is not believed: it is bytes like all others.
func TestSniffForgedHeader(t *testing.T) {
	t.Parallel()
	n := startNode(t, "one")
	pick := witnessOf(n)
	f := startOpaque(t, pick, proxy.Listener{
		Protocol: proxy.TCP, TrustedProxies: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")},
	}, nil)
	client := f.dial()
	client.send("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n")
	leg := n.leg()
	leg.recv("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n")
	if got := leg.header.SourceAddr.String(); got != client.LocalAddr().String() {
		t.Errorf("the node was told of %s", got)
	}
	f.hangsUp(client, leg)
}

// A WebSocket's request says more than an address.
func TestSniffRequest(t *testing.T) {
	t.Parallel()
	token := "x." + base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"alice"}`)) + ".x"
	path, err := identify.Path(`^/chat/(?P<user>[^/]+)$`)
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		request identify.Request
		path    string
		header  http.Header
	}{
		"path":   {identify.Request{Value: path}, "/chat/alice", nil},
		"query":  {identify.Request{Value: identify.Query("user")}, "/chat/alice?user=alice", nil},
		"header": {identify.Request{Value: identify.Header("X-User")}, "/chat/alice", http.Header{"X-User": {"alice"}}},
		"cookie": {identify.Request{Value: identify.Cookie("u")}, "/chat/alice", http.Header{"Cookie": {"a=b; u=alice"}}},
		"token": {identify.Request{Value: identify.Bearer(), Claim: "sub"}, "/chat/alice",
			http.Header{"Authorization": {"Bearer " + token}}},
		"token in the query": {identify.Request{Value: identify.Query("t"), Claim: "sub"}, "/chat/alice?t=" + token, nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := startNode(t, "one")
			pick := witnessOf(n)
			f := startOpaque(t, pick, proxy.Listener{
				Protocol:  proxy.WS,
				WebSocket: proxy.WebSocket{Subprotocols: []string{""}, Path: "/chat/alice"},
				Identify:  proxy.Identify{Chain: identify.Chain{{Name: "http", Identifier: test.request}}},
			}, nil)
			client := f.dialOpaqueWS(test.path, test.header).stream()
			leg := n.leg()
			leg.send("hello")
			client.recv("hello")
			leg.Close()
			client.over()
			f.ended("node-closed")
			if got := pick.users(); !slices.Equal(got, []string{"alice"}) {
				t.Errorf("picked for %q", got)
			}
		})
	}
}

// A client whose nodes are not there is told so in the words of its protocol, even when
// it has sent more than it should have.
func TestMQTTRefused(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ sent, want string }{
		"3.1.1":     {mqttConnect(4, "phone", "alice"), "\x20\x02\x00\x03"},
		"5":         {mqttConnect(5, "phone", "alice"), "\x20\x03\x00\x88\x00"},
		"impatient": {mqttConnect(5, "phone", "alice") + strings.Repeat("\xc0\x00", 4000), "\x20\x03\x00\x88\x00"},
	} {
		for _, protocol := range []proxy.Protocol{proxy.MQTT, proxy.MQTTS} {
			t.Run(name+", "+protocol.String(), func(t *testing.T) {
				t.Parallel()
				f := startOpaque(t, witnessOf(), proxy.Listener{Protocol: protocol, Identify: byMQTT()}, nil)
				var client *stream
				if protocol == proxy.MQTTS {
					client = f.dialSecure(f.clientTLS("mqtt"))
				} else {
					client = f.dial()
				}
				client.send(test.sent)
				client.recv(test.want)
				client.Close()
				f.ended("no-node")
			})
		}
	}
}
