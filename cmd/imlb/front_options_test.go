package main

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"imlb/configs"
	"imlb/proxy"
	"imlb/proxy/identify"
	"imlb/proxy/limit"
)

// everyListener has each key of listeners that package proxy goes by.
const everyListener = `
tls: {certificates: [{cert_file: a, key_file: b}]}
timeouts: {handshake: 1s, identify: 2s, idle: 3s, write: 4s, half_open: 5s, shutdown: 6s}
limits: {max_stanza: 100KiB, max_stanza_before_login: 12KiB, max_node_stanza: 9MiB, login_attempts: 7}
listeners:
  - {protocol: xmpp, address: ":1", pool: a, direct_tls: true}
  - {protocol: xmpps, address: ":2", pool: a}
  - {protocol: tcp, address: ":3", pool: b, proxy_protocol: {trusted: [10.0.0.0/8]}}
  - {protocol: mqtt, address: ":4", pool: b}
  - {protocol: mqtts, address: ":5", pool: b, routes: [{server_names: [a.example], alpn: [x], pool: a}]}
  - {protocol: ws, address: ":6", pool: a, websocket: {path: /b, subprotocols: [xmpp, mqtt, none], compression: true}, bosh: {path: /c, wait: 30s}}
  - {protocol: wss, address: ":7", pool: a}
  - {protocol: quic, address: ":8", pool: a, alpn: [mqtt]}
  - name: any
    protocol: tls
    address: ":9"
    pool: b
    passthrough: true
    alpn: [y]
    routes: [{server_names: ["*.b.example"], passthrough: true}, {alpn: [z]}]
pools:
  a: {nodes: [{name: n, address: "h:1"}], dial_timeout: 3s, dial_attempts: 4}
  b: {nodes: [{name: n, address: "h:2"}], proxy_protocol: none, tls: {server_name: c.example, verify: false}}
`

func TestListenersBecomeOptions(t *testing.T) {
	got, err := proxyListeners(document(t, everyListener).Listeners)
	if err != nil {
		t.Fatal(err)
	}
	source := identify.Step{Name: "source", Identifier: identify.Source{IPv4Bits: 32, IPv6Bits: 64}}
	opaque := proxy.Identify{Chain: identify.Chain{source}, MaxBytes: 16 << 10}
	mqtt := proxy.Identify{Chain: identify.Chain{{Name: "mqtt", Identifier: identify.MQTT{Max: 256 << 10}}, source}, MaxBytes: 256 << 10}
	agreed := proxy.Identify{Chain: identify.Chain{{Name: "mqtt", Identifier: identify.MQTT{Max: 256 << 10, Agreed: true}}, source}, MaxBytes: 256 << 10}
	want := []proxy.Listener{
		{Name: "xmpp", Protocol: proxy.XMPP, Address: ":1", Pool: "a", DirectTLS: true},
		{Name: "xmpps", Protocol: proxy.XMPPS, Address: ":2", Pool: "a"},
		{Name: "tcp", Protocol: proxy.TCP, Address: ":3", Pool: "b", Identify: opaque, TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}},
		{Name: "mqtt", Protocol: proxy.MQTT, Address: ":4", Pool: "b", Identify: mqtt},
		{Name: "mqtts", Protocol: proxy.MQTTS, Address: ":5", Pool: "b", Identify: mqtt, ALPN: []string{"mqtt"}, Routes: []proxy.Route{
			{ServerNames: []string{"a.example"}, ALPN: []string{"x"}, Pool: "a"},
		}},
		{Name: "ws", Protocol: proxy.WS, Address: ":6", Pool: "a", Identify: agreed, WebSocket: proxy.WebSocket{
			Path: "/b", Subprotocols: []string{"xmpp", "mqtt", ""}, Compress: true,
		}, BOSH: &proxy.BOSH{Path: "/c", Wait: 30 * time.Second, Inactivity: time.Minute, MaxPause: 2 * time.Minute}},
		{Name: "wss", Protocol: proxy.WSS, Address: ":7", Pool: "a", WebSocket: proxy.WebSocket{Path: "/xmpp-websocket", Subprotocols: []string{"xmpp"}}},
		{Name: "quic", Protocol: proxy.QUIC, Address: ":8", Pool: "a", Identify: agreed, ALPN: []string{"mqtt"}},
		{Name: "any", Protocol: proxy.TLS, Address: ":9", Pool: "b", Identify: opaque, ALPN: []string{"y"}, Passthrough: true, Routes: []proxy.Route{
			{ServerNames: []string{"*.b.example"}, Pool: "b", Passthrough: true}, {ALPN: []string{"z"}, Pool: "b"},
		}},
	}
	if len(got) != len(want) {
		t.Fatalf("got %d listeners, want %d", len(got), len(want))
	}
	for i := range want {
		if !reflect.DeepEqual(got[i], want[i]) {
			t.Errorf("got\n%+v\nwant\n%+v", got[i], want[i])
		}
	}
}

// Package proxy takes what the documents' validation lets pass.
func TestOptionsAreTaken(t *testing.T) {
	f := newFront(&fixedDocument{}, newLogSwitch(os.Stderr, configs.Log{}))
	var err error
	if f.certificates, err = loadCertificates(configs.TLS{}, f.read, f.log); err != nil {
		t.Fatal(err)
	}
	doc := document(t, everyListener)
	pools, err := f.makePools(configs.Update{Proxy: doc})
	if err != nil {
		t.Fatal(err)
	}
	o, err := f.proxyOptions(doc, pools)
	if err != nil {
		t.Fatal(err)
	}
	if want := (proxy.Timeouts{
		Handshake: time.Second, Identify: 2 * time.Second, Idle: 3 * time.Second, Write: 4 * time.Second,
		HalfOpen: 5 * time.Second, Shutdown: 6 * time.Second,
	}); o.Timeouts != want {
		t.Errorf("got %+v, want %+v", o.Timeouts, want)
	}
	requireNoneZero(t, o.Timeouts)
	if want := (proxy.Limits{MaxStanza: 100 << 10, MaxPreAuth: 12 << 10, MaxNodeStanza: 9 << 20, AuthAttempts: 7}); o.Limits != want {
		t.Errorf("got %+v, want %+v", o.Limits, want)
	}
	if a := o.Pools["a"]; a.Picker == nil || a.Header != proxy.HeaderV2 || a.TLS != nil || a.DialTimeout != 3*time.Second || a.DialAttempts != 4 || a.Park != 10*time.Second {
		t.Errorf("got %+v", a)
	}
	if _, err := proxy.New(o); err != nil {
		t.Error(err)
	}
}

func TestNodesInTLS(t *testing.T) {
	name := filepath.Join(t.TempDir(), "node")
	pair := certificateFor(t, time.Now(), "node.example")
	writePair(t, name, pair)
	got, err := nodeTLSOf(&configs.NodeTLS{CAFile: name + ".crt", CertFile: name + ".crt", KeyFile: name + ".key", ServerName: "a.example", Verify: true})
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(pair.Leaf)
	if !got.RootCAs.Equal(roots) || got.ServerName != "a.example" || got.InsecureSkipVerify || len(got.Certificates) != 1 ||
		!got.Certificates[0].Leaf.Equal(pair.Leaf) || got.MinVersion != tls.VersionTLS12 {
		t.Errorf("got %+v", got)
	}
	if got, err := nodeTLSOf(&configs.NodeTLS{}); err != nil || !got.InsecureSkipVerify || got.RootCAs != nil || got.Certificates != nil {
		t.Errorf("without files: got %+v, %v", got, err)
	}
	if got, err := nodeTLSOf(nil); err != nil || got != nil {
		t.Errorf("without the block: got %+v, %v", got, err)
	}
	for want, c := range map[string]configs.NodeTLS{
		"pool a: read certificate authorities: open none": {CAFile: "none"},
		"pool a: certificate none":                        {CertFile: "none", KeyFile: "none"},
	} {
		if _, err := proxyPools(map[string]configs.Pool{"a": {TLS: &c}}); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v, want %s …", err, want)
		}
	}
}

func TestFormsOfHeaders(t *testing.T) {
	for v, want := range map[configs.HeaderVersion]proxy.Header{
		configs.HeaderV1: proxy.HeaderV1, configs.HeaderV2: proxy.HeaderV2, configs.HeaderNone: proxy.HeaderNone,
	} {
		if got := headerOf(v); got != want {
			t.Errorf("%s is %v, want %v", v, got, want)
		}
	}
}

func TestClientCertificates(t *testing.T) {
	name := filepath.Join(t.TempDir(), "ca")
	writePair(t, name, certificateFor(t, time.Now(), "ca.example"))
	for auth, want := range map[configs.ClientAuth]tls.ClientAuthType{
		"": tls.NoClientCert, configs.NoClientAuth: tls.NoClientCert,
		configs.OptionalClientAuth: tls.VerifyClientCertIfGiven, configs.RequiredClientAuth: tls.RequireAndVerifyClientCert,
	} {
		got, err := proxyListener(configs.Listener{Protocol: configs.XMPPS, ClientAuth: auth, ClientCAFile: name + ".crt"})
		if err != nil || got.ClientAuth != want || got.ClientCAs == nil {
			t.Errorf("%q: got %v, %v, %v", auth, got.ClientAuth, got.ClientCAs, err)
		}
	}
	_, err := proxyListeners([]configs.Listener{{Name: "a", Protocol: configs.XMPPS, ClientCAFile: "none"}, {Name: "b", Protocol: "smtp"}})
	if err == nil || !strings.Contains(err.Error(), "listener a: read certificate authorities: ") || !strings.Contains(err.Error(), `listener b: no protocol is called "smtp"`) {
		t.Errorf("got %v, want what is wrong with both", err)
	}
}

// identified asks the chain of a listener about a client that sends no more.
func identified(t *testing.T, listener string, facts identify.Facts, sent string) identify.Result {
	t.Helper()
	doc := document(t, "tls: {certificates: [{cert_file: a, key_file: b}]}\npools: {a: {nodes: [{name: n, address: 'h:1'}]}}\nlisteners: [{address: ':1', "+listener+"}]")
	l, err := proxyListener(doc.Listeners[0])
	if err != nil {
		t.Fatal(err)
	}
	return l.Identify.Chain.Identify(facts, []byte(sent), true, new(identify.Progress))
}

// The identifiers of a document find what they say.
func TestIdentifiersFindUsers(t *testing.T) {
	request := httptest.NewRequest(http.MethodGet, "/chat/ann/room?user=bob", http.NoBody)
	request.Header.Set("X-User", "carol")
	request.Header.Set("Cookie", "user=dave")
	request.Header.Set("Authorization", "Bearer e30.eyJzdWIiOiJlcmluIn0.c2ln") // {"sub":"erin"}
	request.Header.Set("Sec-WebSocket-Protocol", "token, frank")
	facts := identify.Facts{
		Source: netip.MustParseAddr("192.0.2.77"), ServerName: "sni.example", Request: request,
		TLVs: []identify.TLV{{Type: 0xE4, Value: []byte("grace")}},
	}
	const ws = "protocol: ws, websocket: {subprotocols: [none]}, identify: {by: [{type: websocket, "
	for _, tt := range []struct{ listener, sent, user, by string }{
		{ws + "from: path, pattern: '^/chat/([a-z]+)/'}]}", "", "ann", "websocket"},
		{ws + "from: segment, segment: -1}]}", "", "room", "websocket"},
		{ws + "from: query, name: user}]}", "", "bob", "websocket"},
		{ws + "from: header, name: x-user}]}", "", "carol", "websocket"},
		{ws + "from: cookie, name: user}]}", "", "dave", "websocket"},
		{ws + "from: bearer, claim: sub}]}", "", "erin", "websocket"},
		{ws + "from: subprotocol, name: token}]}", "", "frank", "websocket"},
		{ws + "from: query, name: nobody}, {type: source, ipv4_prefix: 24}]}", "", "192.0.2.0/24", "source"},
		{"protocol: tcp, proxy_protocol: {trusted: [10.0.0.0/8]}, identify: {by: [{type: proxy-tlv, tlv: 0xE4}]}", "", "grace", "proxy-tlv"},
		{`protocol: tcp, identify: {by: [{type: pattern, pattern: "^LOGIN (?P<user>\\S+)"}]}`, "LOGIN heidi\n", "heidi", "pattern"},
		{"protocol: tcp", "LOGIN heidi\n", "192.0.2.77/32", "source"},
		{"protocol: tls, identify: {by: [{type: sni}]}", "", "sni.example", "sni"},
		{"protocol: mqtt", "\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04ivan", "ivan", "mqtt"},
		{"protocol: mqtt", "GET / HTTP/1.1\r\n\r\n", "192.0.2.77/32", "source"},
	} {
		got := identified(t, tt.listener, facts, tt.sent)
		if got.Verdict != identify.Found || got.Key != tt.user || got.By != tt.by {
			t.Errorf("%s: got %v %q by %q, want %q by %q", tt.listener, got.Verdict, got.Key, got.By, tt.user, tt.by)
		}
	}
	if got := identified(t, ws+"from: query, name: nobody}]}", facts, ""); !got.Verdict.None() {
		t.Errorf("a list without source at its end found %q", got.Key)
	}
}

// The user name goes before the client id, or the other way round.
func TestMQTTNames(t *testing.T) {
	const connect = "\x10\x16\x00\x04MQTT\x04\x82\x00\x3c\x00\x04ivan\x00\x04judy"
	for first, want := range map[string]string{"user-name": "judy", "client-id": "ivan"} {
		if got := identified(t, "protocol: tcp, identify: {by: [{type: mqtt, first: "+first+"}]}", identify.Facts{}, connect); got.Key != want {
			t.Errorf("%s: got %q, want %q", first, got.Key, want)
		}
	}
}

// A certificate's fields are those of the document's words.
func TestFieldsOfCertificates(t *testing.T) {
	for word, want := range map[configs.CertificateField]identify.CertificateField{
		configs.CommonName: identify.CommonName, configs.DNSName: identify.DNSName, configs.Email: identify.EmailAddress, configs.URI: identify.URI,
	} {
		got, err := identifierOf(configs.Identifier{Type: configs.ByCertificate, Field: word}, 1, proxy.TLS)
		if err != nil || got != (identify.Certificate{Field: want}) {
			t.Errorf("%s: got %v, %v", word, got, err)
		}
	}
}

// Bytes are looked into for a server name only where TLS is neither ended nor passed
// through.
func TestServerNamesComeFromWhereTheyAre(t *testing.T) {
	for protocol, want := range map[proxy.Protocol]identify.Identifier{
		proxy.TCP: identify.SNI{Max: 99}, proxy.TLS: identify.ServerName{}, proxy.QUIC: identify.ServerName{},
	} {
		if got, err := identifierOf(configs.Identifier{Type: configs.BySNI}, 99, protocol); err != nil || got != want {
			t.Errorf("%v: got %#v, %v", protocol, got, err)
		}
	}
}

func TestRandomUsersAreAllDifferent(t *testing.T) {
	seen := make(map[string]bool)
	for range 1000 {
		r := random{}.Identify(identify.Input{})
		if r.Verdict != identify.Found || len(r.Key) < 20 || len(r.Key) > identify.MaxKey {
			t.Fatalf("got %+v", r)
		}
		seen[r.Key] = true
	}
	if len(seen) != 1000 {
		t.Errorf("1000 connections are %d users", len(seen))
	}
}

func TestIdentifiersThatCannotBe(t *testing.T) {
	for want, c := range map[string]configs.Identifier{
		`identify by eye (1): no identifier is of type "eye"`:               {Type: "eye"},
		`identify by websocket (1): no part of a request is called "trunk"`: {Type: configs.ByWebSocket, From: "trunk"},
		"identify by pattern (1): pattern":                                  {Type: configs.ByPattern, Pattern: "a"},
		"identify by websocket (1): pattern":                                {Type: configs.ByWebSocket, From: configs.FromPath, Pattern: "("},
	} {
		_, err := identifyOf(configs.Identify{By: []configs.Identifier{c}}, proxy.WS)
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v, want %s …", err, want)
		}
	}
}

// Every limit of a document becomes one of the rules, which package limit takes.
func TestLimitsBecomeRules(t *testing.T) {
	const scope = "rate: {per_second: 1.5, max_wait: 3s}, connections: 4, unauthenticated: 3, bytes_in: {per_second: 5KiB}, bytes_out: {per_second: 7, burst: 8}"
	doc := document(t, "pools: {a: {nodes: [{name: n, address: 'h:1'}]}}\nlisteners:\n"+
		"  - {protocol: tcp, address: ':1', rate: {per_second: 1, burst: 2, max_wait: 3s}, limits: {connections: 5, unauthenticated: 1, bytes_in: {per_second: 6}}, allow: [10.0.0.0/8], deny: [10.1.0.0/16], proxy_protocol: {trusted: [10.2.0.0/16]}}\n"+
		"  - {protocol: mqtt, address: ':2'}\n"+
		"limits: {source: {"+scope+", ipv4_prefix: 24, ipv6_prefix: 48, exempt: [10.3.0.0/16]}, user: {"+scope+"}, global: {"+scope+"}, allow: ['::/0'], deny: [10.0.0.1/32], max_entries: 9, "+
		"login_backoff: {source: {max: 0s}}}\n")
	all := limit.Scope{
		Rate: limit.Rate{PerSecond: 1.5, Burst: 2, MaxWait: 3 * time.Second}, Concurrent: 4, Unauthenticated: 3,
		In: limit.Bandwidth{PerSecond: 5 << 10, Burst: 5 << 10}, Out: limit.Bandwidth{PerSecond: 7, Burst: 8},
	}
	networks := func(list ...string) []netip.Prefix {
		var p []netip.Prefix
		for _, s := range list {
			p = append(p, netip.MustParsePrefix(s))
		}
		return p
	}
	want := limit.Rules{
		IPv4Bits: 24, IPv6Bits: 48, Source: all, User: all, Global: all, MaxEntries: 9,
		Listeners: map[string]limit.Listener{
			"tcp": {
				Scope: limit.Scope{
					Rate: limit.Rate{PerSecond: 1, Burst: 2, MaxWait: 3 * time.Second}, Concurrent: 5, Unauthenticated: 1, In: limit.Bandwidth{PerSecond: 6, Burst: 6},
				},
				Access: limit.Access{Allow: networks("10.0.0.0/8"), Deny: networks("10.1.0.0/16")},
			},
			"mqtt": {Scope: limit.Scope{Rate: limit.Rate{PerSecond: 500, Burst: 1000, MaxWait: 2 * time.Second}}},
		},
		Access: limit.Access{Allow: networks("::/0"), Deny: networks("10.0.0.1/32")},
		Exempt: networks("10.3.0.0/16"), // the networks of proxies are no exemption for clients
		Backoff: limit.Backoff{
			Pair: limit.Steps{Free: 3, First: time.Second, Max: 5 * time.Minute}, User: limit.Steps{Free: 10, First: 100 * time.Millisecond, Max: 2 * time.Second},
			MaxWait: 10 * time.Second, Window: 15 * time.Minute,
		},
	}
	got := limitRules(doc)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
	if err := got.Check(); err != nil {
		t.Error(err)
	}
	requireNoneZero(t, all)
	doc.Limits.LoginBackoff.Enabled = false
	if got := limitRules(doc); got.Backoff != (limit.Backoff{}) {
		t.Errorf("a back-off that is off is %+v", got.Backoff)
	}
}

// Whatever limits a document may have, package limit takes them: what it would refuse
// was refused at its line.
func TestLimitsThatPassAreTaken(t *testing.T) {
	durations := rapid.SampledFrom([]string{"0s", "1ms", "1s", "2s", "10s", "29s", "1m", "15m", "1h", "100h"})
	numbers := rapid.SampledFrom([]string{"0", "1", "5", "10000", "100000000", "2000000000"})
	floats := rapid.SampledFrom([]string{"0", "0.00000001", "0.1", "1", "1000000000"})
	sizes := rapid.SampledFrom([]string{"0", "1", "64KiB", "8GiB", "8388607TB", "9223372036854775807"})
	accepted := 0
	rapid.Check(t, func(t *rapid.T) {
		pick := func(g *rapid.Generator[string]) string { return g.Draw(t, "value") }
		bytes := func() string { return "{per_second: " + pick(sizes) + ", burst: " + pick(sizes) + "}" }
		counts := func() string {
			return "connections: " + pick(numbers) + ", unauthenticated: " + pick(numbers) + ", bytes_in: " + bytes() + ", bytes_out: " + bytes()
		}
		scope := func() string {
			return "{rate: {per_second: " + pick(floats) + ", burst: " + pick(numbers) + ", max_wait: " + pick(durations) + "}, " + counts() + "}"
		}
		steps := func() string {
			return "{free: " + pick(numbers) + ", first: " + pick(durations) + ", max: " + pick(durations) + "}"
		}
		parts := []string{
			"source: " + scope(), "user: " + scope(), "global: " + scope(), "max_entries: " + pick(numbers),
			"login_backoff: {user_and_source: " + steps() + ", source: " + steps() + ", user: " + steps() + ", max_wait: " + pick(durations) + ", window: " + pick(durations) + "}",
		}
		// Most of what is random is refused, so mostly only one of the two is.
		limits, listener := "max_entries: 9", "rate: {per_second: 1, burst: 1}"
		what := rapid.IntRange(0, 2).Draw(t, "what")
		if what != 0 {
			limits = rapid.SampledFrom(parts).Draw(t, "limits")
		}
		if what != 1 {
			listener = "rate: {per_second: " + pick(floats) + ", burst: " + pick(numbers) + "}, limits: {" + counts() + "}"
		}
		doc, err := configs.ParseProxy("f", []byte("listeners: [{protocol: tcp, address: ':1', "+listener+"}]\npools: {a: {nodes: [{name: n, address: 'h:1'}]}}\nlimits: {"+limits+"}\n"))
		if err != nil {
			return
		}
		accepted++
		if err := limitRules(doc).Check(); err != nil {
			t.Fatalf("%s\n%s: %v", listener, limits, err)
		}
	})
	t.Logf("%d accepted", accepted)
	if accepted == 0 {
		t.Error("no document was accepted")
	}
}
