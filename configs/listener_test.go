package configs_test

import (
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"imlb/configs"
)

// listening returns the shortest document with a listener.
func listening(t *testing.T, listener string) string {
	t.Helper()
	return edit(t, front, `{protocol: xmpp, address: ":5222"}`, "{address: ':1', "+listener+"}")
}

// Each listener, after its address, has to give exactly these errors, or none.
var wrongListeners = []struct {
	name, listener string
	want           []string
}{
	{"keys of other protocols", "protocol: tcp, routes: [{alpn: [a]}], passthrough: true, direct_tls: true, alpn: [a], client_auth: optional, client_ca_file: a, websocket: {}", []string{
		"f:3:36: listeners[0].routes: is for listeners of protocol tls, mqtts and quic; this one is of protocol tcp",
		"f:3:59: listeners[0].passthrough: is for listeners of protocol tls; this one is of protocol tcp",
		"f:3:78: listeners[0].direct_tls: is for listeners of protocol xmpp; this one is of protocol tcp",
		"f:3:96: listeners[0].alpn: is for listeners of protocol tls, mqtts and quic; this one is of protocol tcp",
		"f:3:107: listeners[0].client_auth: is for listeners of protocol tls, xmpp, xmpps, mqtts, wss and quic; this one is of protocol tcp",
		"f:3:130: listeners[0].client_ca_file: is for listeners of protocol tls, xmpp, xmpps, mqtts, wss and quic; this one is of protocol tcp",
		"f:3:149: listeners[0].websocket: is for listeners of protocol ws and wss; this one is of protocol tcp",
	}},
	{"identifiers for XMPP", "protocol: xmpp, identify: {}", []string{
		"f:3:37: listeners[0].identify: is for listeners of protocol tcp, tls, mqtt, mqtts, ws, wss and quic; this one is of protocol xmpp",
	}},
	{"identifiers for XMPP in WebSocket", "protocol: wss, identify: {}", []string{
		"f:3:36: listeners[0].identify: is for opaque sessions, and this listener has XMPP alone; name another protocol in websocket.subprotocols",
	}},
	{"identifiers for XMPP in QUIC", "protocol: quic, identify: {}", []string{
		"f:3:37: listeners[0].identify: is for opaque sessions, and this listener has XMPP alone; name another protocol in alpn",
	}},
	{"a route for all", "protocol: tls, routes: [{pool: chat}]", []string{
		"f:3:45: listeners[0].routes[0]: matches everybody; give it server_names or alpn, or write its pool and passthrough at the listener",
	}},
	{"routes to nowhere", "protocol: mqtts, routes: [{alpn: [a, a, ''], pool: chatt, passthrough: true}, {server_names: ['*.', a.*.b]}]", []string{
		`f:3:58: listeners[0].routes[0].alpn[1]: "a" is in the list already`,
		`f:3:61: listeners[0].routes[0].alpn[2]: "" is not the name of an application protocol; write it like xmpp-client`,
		`f:3:66: listeners[0].routes[0].pool: "chatt" is not known here; did you mean "chat"? The choices are chat`,
		"f:3:79: listeners[0].routes[0].passthrough: is for listeners of protocol tls; this one is of protocol mqtts",
		`f:3:115: listeners[0].routes[1].server_names[0]: "*." is not a server name; write it like chat.example.com, or *.example.com for all one label below`,
		`f:3:121: listeners[0].routes[1].server_names[1]: "a.*.b" is not a server name; write it like chat.example.com, or *.example.com for all one label below`,
	}},
	{"a route's names twice", "protocol: tls, routes: [{server_names: [a.b, a.b], alpn: [c, c]}], alpn: [d, d]", []string{
		`f:3:66: listeners[0].routes[0].server_names[1]: "a.b" is in the list already`,
		`f:3:82: listeners[0].routes[0].alpn[1]: "c" is in the list already`,
		`f:3:98: listeners[0].alpn[1]: "d" is in the list already`,
	}},
	{"routes that never count", "protocol: tls, routes: [{server_names: [a.b, c.d], alpn: [x]}, {server_names: [c.d]}, {server_names: [c.d], alpn: [x]}, {alpn: [x, y]}, {alpn: [y], pool: chat}]", []string{
		"f:3:107: listeners[0].routes[2]: never counts, as routes[0] matches the same clients; leave one of them out",
		"f:3:157: listeners[0].routes[4]: never counts, as routes[3] matches the same clients; leave one of them out",
	}},
	{"TLS that does not end here", "protocol: tls, passthrough: true, alpn: [a], client_auth: required, client_ca_file: a, routes: [{server_names: [a.b], passthrough: true}]", []string{
		"f:3:55: listeners[0].alpn: has no effect, as all TLS is left to the nodes; leave it out, or passthrough",
		"f:3:66: listeners[0].client_auth: has no effect, as all TLS is left to the nodes; leave it out, or passthrough",
		"f:3:89: listeners[0].client_ca_file: has no effect, as all TLS is left to the nodes; leave it out, or passthrough",
	}},
	{"TLS of which some ends here", "protocol: tls, passthrough: true, alpn: [a], client_auth: required, client_ca_file: a, routes: [{server_names: [a.b]}]", nil},
	{"identifiers that are never asked", "protocol: tcp, identify: {by: [{type: sni}, {type: source}, {type: mqtt}, {type: random}]}", []string{
		"f:3:81: listeners[0].identify.by[2]: is never asked, as source before it finds everybody; leave one of them out, or put that last",
	}},
	{"certificates by nobody", "protocol: tls, client_auth: required", []string{
		"f:3:5: listeners[0].client_ca_file: is missing; name the PEM file of who signed the clients' certificates",
	}},
	{"certificates of nobody", "protocol: tls, client_ca_file: a", []string{
		"f:3:36: listeners[0].client_ca_file: has no use while clients show no certificates; set client_auth to optional or required",
	}},
	{"whether clients show certificates", "protocol: tls, client_auth: maybe", []string{
		`f:3:49: listeners[0].client_auth: "maybe" is not known here; the choices are none, optional, required`,
	}},
	{"WebSocket of nothing", "protocol: ws, websocket: {path: '', subprotocols: []}", []string{
		"f:3:47: listeners[0].websocket.path: is empty; write it like /xmpp-websocket, or leave the key out",
		"f:3:57: listeners[0].websocket.subprotocols: is empty, so that nobody could connect; leave the key out for xmpp",
	}},
	{"WebSocket that no client would find", "protocol: ws, websocket: {path: '/a%20b?c'}", []string{
		`f:3:47: listeners[0].websocket.path: "/a%20b?c" is more than a path, and no client would find it; write "/a b", which they may ask for with any query`,
	}},
	{"WebSocket of what is none", "protocol: ws, websocket: {path: a, subprotocols: ['a b', mqtt, mqtt], compression: little}", []string{
		`f:3:53: listeners[0].websocket.path: "a" is not a path; write it like /readyz`,
		`f:3:71: listeners[0].websocket.subprotocols[0]: "a b" is not a name of the kind of HTTP; use up to 64 letters, digits, dashes, dots and underscores`,
		`f:3:84: listeners[0].websocket.subprotocols[2]: "mqtt" is in the list already`,
		`f:3:104: listeners[0].websocket.compression: "little" is neither true nor false`,
	}},
	{"WebSocket of one word twice", "protocol: ws, websocket: {subprotocols: [none, none]}", []string{
		`f:3:68: listeners[0].websocket.subprotocols[1]: "none" is in the list already`,
	}},
	{"BOSH elsewhere", "protocol: xmpps, bosh: {}", []string{
		"f:3:38: listeners[0].bosh: is for listeners of protocol ws and wss; this one is of protocol xmpps",
	}},
	{"BOSH without XMPP", "protocol: ws, websocket: {subprotocols: [mqtt]}, bosh: {}", []string{
		"f:3:70: listeners[0].bosh: is for XMPP, and this listener has none; add xmpp to websocket.subprotocols, or leave the block out",
	}},
	{"BOSH in the place of the WebSocket", "protocol: ws, websocket: {path: /a}, bosh: {path: /a}", []string{
		"f:3:65: listeners[0].bosh.path: is that of the WebSocket; choose another, or leave the key out for /http-bind",
	}},
	{"BOSH that no client would find", "protocol: ws, bosh: {path: '/a?b', wait: 0s}", []string{
		`f:3:42: listeners[0].bosh.path: "/a?b" is more than a path, and no client would find it; write "/a", which they may ask for with any query`,
		"f:3:62: listeners[0].bosh.wait: 0s is too small; the least is 1s",
	}},
	{"bounds of identify", "protocol: tcp, identify: {max_bytes: 1, timeout: -1s}", []string{
		"f:3:58: listeners[0].identify.max_bytes: 1 is too small; the least is 64",
		"f:3:70: listeners[0].identify.timeout: -1s is too small; the least is 0s",
	}},
	{"an identifier of no type", "protocol: tcp, identify: {by: [{pattern: '(a)'}]}", []string{
		"f:3:52: listeners[0].identify.by[0].type: is missing; say what users are known by, like mqtt or source",
	}},
	{"an identifier nobody knows", "protocol: tcp, identify: {by: [{type: sin}]}", []string{
		`f:3:59: listeners[0].identify.by[0].type: "sin" is not known here; did you mean "sni"? The choices are mqtt, sni, websocket, certificate, proxy-tlv, pattern, source, random`,
	}},
	{"keys of other identifiers", "protocol: tcp, identify: {by: [{type: random, first: user-name, from: path, name: a, segment: 1, claim: a, pattern: '(a)', max_lines: 1, field: uri, tlv: 1, sub: 1, ipv4_prefix: 1, ipv6_prefix: 1}]}", []string{
		"f:3:67: listeners[0].identify.by[0].first: is for identifiers of type mqtt; this one is of type random",
		"f:3:85: listeners[0].identify.by[0].from: is for identifiers of type websocket; this one is of type random",
		"f:3:97: listeners[0].identify.by[0].name: is for identifiers of type websocket; this one is of type random",
		"f:3:106: listeners[0].identify.by[0].segment: is for identifiers of type websocket; this one is of type random",
		"f:3:118: listeners[0].identify.by[0].claim: is for identifiers of type websocket; this one is of type random",
		"f:3:128: listeners[0].identify.by[0].pattern: is for identifiers of type pattern and websocket; this one is of type random",
		"f:3:144: listeners[0].identify.by[0].max_lines: is for identifiers of type pattern; this one is of type random",
		"f:3:158: listeners[0].identify.by[0].field: is for identifiers of type certificate; this one is of type random",
		"f:3:170: listeners[0].identify.by[0].tlv: is for identifiers of type proxy-tlv; this one is of type random",
		"f:3:178: listeners[0].identify.by[0].sub: is for identifiers of type proxy-tlv; this one is of type random",
		"f:3:186: listeners[0].identify.by[0].ipv4_prefix: is for identifiers of type source; this one is of type random",
		"f:3:202: listeners[0].identify.by[0].ipv6_prefix: is for identifiers of type source; this one is of type random",
	}},
	{"identifiers that find nobody", "protocol: mqtt, identify: {by: [{type: sni}, {type: websocket, from: bearer}, {type: certificate}, {type: proxy-tlv, tlv: 1}]}", []string{
		"f:3:54: listeners[0].identify.by[0].type: sni can find nobody here: it is for listeners of protocol tcp, tls, mqtts, wss and quic; this one is of protocol mqtt",
		"f:3:67: listeners[0].identify.by[1].type: websocket can find nobody here: it is for listeners of protocol ws and wss; this one is of protocol mqtt",
		"f:3:100: listeners[0].identify.by[2].type: certificate can find nobody here: it is for listeners of protocol tls, mqtts, wss and quic; this one is of protocol mqtt",
		"f:3:121: listeners[0].identify.by[3].type: proxy-tlv can find nobody without a PROXY header; set proxy_protocol of the listener",
	}},
	{"a certificate that nobody shows", "protocol: tls, client_auth: none, identify: {by: [{type: certificate}]}", []string{
		"f:3:72: listeners[0].identify.by[0].type: certificate can find nobody while clients show none; set client_auth of the listener",
	}},
	{"fields of PROXY headers", "protocol: tcp, proxy_protocol: {trusted: [10.0.0.0/8]}, identify: {by: [{type: proxy-tlv}, {type: proxy-tlv, tlv: 0x20}, {type: proxy-tlv, tlv: 0xE0, sub: 1}, {type: proxy-tlv, tlv: 0x100}]}", []string{
		"f:3:93: listeners[0].identify.by[0].tlv: is missing; say which field of the PROXY header names the user, like 0xE0",
		"f:3:112: listeners[0].identify.by[1].sub: is missing; say which field in the one of TLS counts; 0x22 is the common name of the certificate",
		"f:3:171: listeners[0].identify.by[2].sub: is for tlv 0x20, the field that has others in it",
		"f:3:203: listeners[0].identify.by[3].tlv: 256 is too large; the most is 255",
	}},
	{"patterns", `protocol: tcp, identify: {by: [{type: pattern}, {type: pattern, pattern: 'LOGIN'}, {type: pattern, pattern: '(a)(b)'}, {type: pattern, pattern: '('}, {type: pattern, pattern: '(?P<user>a)(b)', max_lines: 0}]}`, []string{
		`f:3:52: listeners[0].identify.by[0].pattern: is missing; write a regular expression with a group named user, like ^LOGIN (?P<user>\S+)`,
		`f:3:94: listeners[0].identify.by[1].pattern: "LOGIN" does not say what of it is the user; name a group user, like ^LOGIN (?P<user>\S+)`,
		`f:3:129: listeners[0].identify.by[2].pattern: "(a)(b)" does not say what of it is the user; name a group user, like ^LOGIN (?P<user>\S+)`,
		"f:3:165: listeners[0].identify.by[3].pattern: \"(\" is not a regular expression of the kind of RE2: error parsing regexp: missing closing ): `(`",
		"f:3:225: listeners[0].identify.by[4].max_lines: 0 is too small; the least is 1",
	}},
	{"parts of requests", "protocol: ws, websocket: {subprotocols: [mqtt]}, identify: {by: [{type: websocket}, {type: websocket, from: query}, {type: websocket, from: segment, name: a}, {type: websocket, from: path, segment: 1}, {type: websocket, from: bearer, name: a, claim: sub}]}", []string{
		"f:3:86: listeners[0].identify.by[0].from: is missing; say which part of the request names the user, like query or bearer",
		"f:3:105: listeners[0].identify.by[1].name: is missing; say of which parameter, field, cookie or subprotocol",
		"f:3:137: listeners[0].identify.by[2].segment: is missing; say which one: 1 is the first, -1 the last",
		"f:3:170: listeners[0].identify.by[2].name: is for what is from query, header, cookie and subprotocol; this is from segment",
		"f:3:180: listeners[0].identify.by[3].pattern: is missing; write a regular expression with a group named user, like ^/chat/(?P<user>[^/]+)$",
		"f:3:210: listeners[0].identify.by[3].segment: is for what is from segment; this is from path",
		"f:3:255: listeners[0].identify.by[4].name: is for what is from query, header, cookie and subprotocol; this is from bearer",
	}},
	{"prefixes", "protocol: tcp, identify: {by: [{type: source, ipv4_prefix: 33, ipv6_prefix: 129}]}", []string{
		"f:3:80: listeners[0].identify.by[0].ipv4_prefix: 33 is too large; the most is 32",
		"f:3:97: listeners[0].identify.by[0].ipv6_prefix: 129 is too large; the most is 128",
	}},
}

func TestWrongListeners(t *testing.T) {
	for _, tt := range wrongListeners {
		t.Run(tt.name, func(t *testing.T) {
			_, err := configs.ParseProxy("f", []byte(listening(t, tt.listener)))
			if len(tt.want) == 0 {
				if err != nil {
					t.Error(err)
				}
				return
			}
			compareErrors(t, err, tt.want)
		})
	}
}

func source() configs.Identifier {
	return configs.Identifier{Type: configs.BySource, IPv4Prefix: 32, IPv6Prefix: 64}
}

func identifyBy(by ...configs.Identifier) *configs.Identify {
	most := configs.Size(16 << 10)
	if slices.ContainsFunc(by, func(one configs.Identifier) bool { return one.Type == configs.ByMQTT }) {
		most = 256 << 10
	}
	return &configs.Identify{By: by, MaxBytes: most}
}

// A listener that says no more than its protocol is completed like this.
func TestListenersAreCompletedByTheirProtocol(t *testing.T) {
	mqtt := identifyBy(configs.Identifier{Type: configs.ByMQTT, First: configs.UserName}, source())
	xmpp := &configs.WebSocket{Path: "/xmpp-websocket", Subprotocols: []string{"xmpp"}}
	for protocol, want := range map[configs.Protocol]configs.Listener{
		configs.TCP:       {Identify: identifyBy(source())},
		configs.OpaqueTLS: {Identify: identifyBy(source())},
		configs.XMPP:      {},
		configs.XMPPS:     {},
		configs.MQTT:      {Identify: mqtt},
		configs.MQTTS:     {Identify: mqtt, ALPN: []string{"mqtt"}},
		configs.WS:        {WebSocket: xmpp},
		configs.WSS:       {WebSocket: xmpp},
		configs.QUIC:      {},
	} {
		want.Name, want.Protocol, want.Address, want.Pool = string(protocol), protocol, ":1", "chat"
		want.Rate = configs.Defaults[configs.Listener]().Rate
		compareListener(t, "protocol: "+string(protocol), want)
	}
}

// compareListener reads a listener, compares it, and does so again with what was written
// of it.
func compareListener(t *testing.T, listener string, want configs.Listener) {
	t.Helper()
	p := parse(t, listening(t, listener))
	if got := p.Listeners[0]; !reflect.DeepEqual(got, want) {
		t.Errorf("%s: got\n%+v\nwant\n%+v", listener, got, want)
	}
	text, err := p.YAML()
	if err != nil {
		t.Fatal(err)
	}
	if again := parse(t, string(text)); !reflect.DeepEqual(again, p) {
		t.Errorf("%s: written as\n%s\nit is read as\n%+v", listener, text, again)
	}
}

func TestEveryKeyOfListeners(t *testing.T) {
	agreed := configs.Identifier{Type: configs.ByMQTT, First: configs.UserName, Agreed: true}
	for _, tt := range []struct {
		listener string
		want     configs.Listener
	}{
		{
			`protocol: tls, passthrough: true, alpn: [a, b], client_auth: required, client_ca_file: ca,
    routes: [{server_names: [a.example, "*.B.example"], alpn: [c], passthrough: true}, {alpn: [d]}], identify: {by: [{type: sni}, {type: certificate, field: email}, {type: random}], max_bytes: 4KiB, timeout: 2s}`,
			configs.Listener{
				Passthrough: true, ALPN: []string{"a", "b"}, ClientAuth: configs.RequiredClientAuth, ClientCAFile: "ca",
				Routes: []configs.Route{
					{ServerNames: []string{"a.example", "*.B.example"}, ALPN: []string{"c"}, Pool: "chat", Passthrough: true},
					{ALPN: []string{"d"}, Pool: "chat"},
				},
				Identify: &configs.Identify{MaxBytes: 4 << 10, Timeout: 2 * time.Second, By: []configs.Identifier{
					{Type: configs.BySNI}, {Type: configs.ByCertificate, Field: configs.Email}, {Type: configs.ByRandom},
				}},
			},
		},
		{
			`protocol: wss, bosh: {}`,
			configs.Listener{
				WebSocket: &configs.WebSocket{Path: "/xmpp-websocket", Subprotocols: []string{"xmpp"}},
				BOSH:      &configs.BOSH{Path: "/http-bind", Wait: time.Minute, Inactivity: time.Minute, MaxPause: 2 * time.Minute},
			},
		},
		{
			`protocol: ws, bosh: {path: /b, wait: 30s, inactivity: 20s, max_pause: 10s}`,
			configs.Listener{
				WebSocket: &configs.WebSocket{Path: "/xmpp-websocket", Subprotocols: []string{"xmpp"}},
				BOSH:      &configs.BOSH{Path: "/b", Wait: 30 * time.Second, Inactivity: 20 * time.Second, MaxPause: 10 * time.Second},
			},
		},
		{
			`protocol: ws, websocket: {path: /a, subprotocols: [mqtt, none], compression: true}, identify: {by: [
      {type: websocket, from: path, pattern: "^/(?P<user>.+)$"}, {type: websocket, from: segment, segment: -1}, {type: websocket, from: query, name: q},
      {type: websocket, from: header, name: X-User, claim: sub}, {type: websocket, from: cookie, name: c}, {type: websocket, from: bearer, claim: user.id},
      {type: websocket, from: subprotocol, name: token}, {type: mqtt, first: client-id}]}`,
			configs.Listener{
				WebSocket: &configs.WebSocket{Path: "/a", Subprotocols: []string{"mqtt", "none"}, Compression: true},
				Identify: identifyBy(
					configs.Identifier{Type: configs.ByWebSocket, From: configs.FromPath, Pattern: "^/(?P<user>.+)$"},
					configs.Identifier{Type: configs.ByWebSocket, From: configs.FromSegment, Segment: -1},
					configs.Identifier{Type: configs.ByWebSocket, From: configs.FromQuery, Name: "q"},
					configs.Identifier{Type: configs.ByWebSocket, From: configs.FromHeader, Name: "X-User", Claim: "sub"},
					configs.Identifier{Type: configs.ByWebSocket, From: configs.FromCookie, Name: "c"},
					configs.Identifier{Type: configs.ByWebSocket, From: configs.FromBearer, Claim: "user.id"},
					configs.Identifier{Type: configs.ByWebSocket, From: configs.FromSubprotocol, Name: "token"},
					configs.Identifier{Type: configs.ByMQTT, First: configs.ClientID},
				),
			},
		},
		{
			`protocol: tcp, proxy_protocol: {trusted: ["::1/128"]}, identify: {by: [{type: proxy-tlv, tlv: 0xE0}, {type: proxy-tlv, tlv: 32, sub: 0x22},
      {type: pattern, pattern: (a), max_lines: 3}, {type: pattern, pattern: (b)}, {type: source, ipv4_prefix: 24, ipv6_prefix: 48}]}`,
			configs.Listener{
				ProxyProtocol: &configs.ProxyProtocol{Trusted: parse(t, listening(t, `protocol: tcp, proxy_protocol: {trusted: ["::1/128"]}`)).Listeners[0].ProxyProtocol.Trusted},
				Identify: identifyBy(
					configs.Identifier{Type: configs.ByProxyTLV, TLV: 0xE0},
					configs.Identifier{Type: configs.ByProxyTLV, TLV: 0x20, Sub: 0x22},
					configs.Identifier{Type: configs.ByPattern, Pattern: "(a)", MaxLines: 3},
					configs.Identifier{Type: configs.ByPattern, Pattern: "(b)", MaxLines: 16},
					configs.Identifier{Type: configs.BySource, IPv4Prefix: 24, IPv6Prefix: 48},
				),
			},
		},
		{"protocol: xmpp, direct_tls: true", configs.Listener{DirectTLS: true}},
		{"protocol: quic, alpn: [mqtt]", configs.Listener{ALPN: []string{"mqtt"}, Identify: identifyBy(agreed, source())}},
		{"protocol: quic, alpn: [xmpp-client]", configs.Listener{ALPN: []string{"xmpp-client"}}},
		{"protocol: quic, routes: [{alpn: [mqtt]}]", configs.Listener{
			Routes: []configs.Route{{ALPN: []string{"mqtt"}, Pool: "chat"}}, Identify: identifyBy(agreed, source()),
		}},
	} {
		word, _, _ := strings.Cut(strings.TrimPrefix(tt.listener, "protocol: "), ",")
		tt.want.Name, tt.want.Protocol, tt.want.Address, tt.want.Pool = word, configs.Protocol(word), ":1", "chat"
		tt.want.Rate = configs.Defaults[configs.Listener]().Rate
		compareListener(t, tt.listener, tt.want)
	}
}

// Certificates are needed where TLS of clients ends here, and nowhere else; domains
// nowhere.
func TestWhatListenersNeed(t *testing.T) {
	bare := edit(t, front, "domains: [example.com]\n", "")
	bare, _, _ = strings.Cut(bare, "tls:\n")
	for listener, needed := range map[string]bool{
		"protocol: tcp":                    false,
		"protocol: mqtt":                   false,
		"protocol: ws":                     false,
		"protocol: xmpp":                   true,
		"protocol: xmpps":                  true,
		"protocol: mqtts":                  true,
		"protocol: wss":                    true,
		"protocol: quic":                   true,
		"protocol: tls":                    true,
		"protocol: tls, passthrough: true": false,
		"protocol: tls, passthrough: true, routes: [{alpn: [a], passthrough: true}]":              false,
		"protocol: tls, passthrough: true, routes: [{alpn: [a], passthrough: true}, {alpn: [b]}]": true,
		"protocol: tls, routes: [{alpn: [a], passthrough: true}]":                                 true,
	} {
		text := edit(t, bare, `{protocol: xmpp, address: ":5222"}`, "{address: ':1', "+listener+"}")
		_, err := configs.ParseProxy("f", []byte(text))
		if needed != (err != nil) || err != nil && !strings.Contains(err.Error(), ": tls.certificates: is missing; TLS of the clients of listeners[0]") {
			t.Errorf("%s: got %v, want certificates needed: %v", listener, err, needed)
		}
	}
}

func TestPoolsOfOtherNodes(t *testing.T) {
	with := func(keys string) string { return edit(t, front, "tls:", "    "+keys+"\ntls:") }
	p := parse(t, with("proxy_protocol: v1\n    tls: {}"))
	if got, want := p.Pools["chat"].TLS, (&configs.NodeTLS{Verify: true}); !reflect.DeepEqual(got, want) || p.Pools["chat"].ProxyProtocol != configs.HeaderV1 {
		t.Errorf("got %+v, %s", got, p.Pools["chat"].ProxyProtocol)
	}
	p = parse(t, with("tls: {ca_file: a, cert_file: b, key_file: c, server_name: d.example, verify: false}"))
	if got, want := p.Pools["chat"].TLS, (&configs.NodeTLS{CAFile: "a", CertFile: "b", KeyFile: "c", ServerName: "d.example"}); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for keys, want := range map[string]string{
		"tls: {cert_file: a}":                     "f:8:5: pools.chat.tls: has only one of cert_file and key_file; a client certificate needs both",
		"tls: {key_file: a}":                      "f:8:5: pools.chat.tls: has only one of cert_file and key_file; a client certificate needs both",
		"proxy_protocol: v3":                      `f:8:21: pools.chat.proxy_protocol: "v3" is not known here; did you mean "v2"? The choices are v2, v1, none`,
		"tls: {verify: perhaps, server_name: ''}": "f:8:19: pools.chat.tls.verify: \"perhaps\" is neither true nor false\nf:8:41: pools.chat.tls.server_name: \"\" is not a domain; write it like example.com",
	} {
		_, err := configs.ParseProxy("f", []byte(with(keys)))
		compareErrors(t, err, strings.Split(want, "\n"))
	}
}

// Checks tell nodes of a header that the nodes know.
func TestChecksGoByTheHeaderOfTheirPool(t *testing.T) {
	for header, want := range map[string]bool{"v2": true, "v1": true, "none": false} {
		p := parse(t, edit(t, front, "tls:", "    proxy_protocol: "+header+"\n    checks: [{type: tcp}, {type: xmpp}, {type: mqtt}, {type: tcp, proxy_header: true}]\ntls:"))
		var got []bool
		for _, c := range p.Pools["chat"].Checks {
			got = append(got, *c.ProxyHeader)
		}
		if !reflect.DeepEqual(got, []bool{want, want, false, true}) {
			t.Errorf("%s: got %v", header, got)
		}
	}
}

// A check of XMPP needs a domain, its own or the document's.
func TestChecksOfXMPPNeedADomain(t *testing.T) {
	text := edit(t, edit(t, front, "domains: [example.com]\n", ""), "tls:", "    checks: [{type: xmpp}, {type: xmpp, domain: a.example}]\ntls:")
	_, err := configs.ParseProxy("f", []byte(text))
	compareErrors(t, err, []string{"f:7:14: pools.chat.checks[0].domain: is missing; say to which domain the stream is opened, or list your domains in domains"})
}

// Users of MQTT are known by the CONNECT wherever it can be agreed on.
func TestIdentifiersOfMQTT(t *testing.T) {
	plain := configs.Identifier{Type: configs.ByMQTT, First: configs.UserName}
	agreed := plain
	agreed.Agreed = true
	for listener, want := range map[string]*configs.Identifier{
		"protocol: mqtt": &plain,
		"protocol: tcp":  nil,
		"protocol: ws, websocket: {subprotocols: [none, mqttv3.1]}":                &agreed,
		"protocol: ws, websocket: {subprotocols: [none, chat]}":                    nil,
		"protocol: wss, websocket: {subprotocols: [xmpp, mqtt]}":                   &agreed,
		"protocol: quic, alpn: [mqtt]":                                             &agreed,
		"protocol: quic, alpn: [chat]":                                             nil,
		"protocol: tls, routes: [{alpn: [mqtt]}]":                                  &agreed,
		"protocol: quic, alpn: [mqtt], identify: {by: [{type: source}]}":           nil,
		"protocol: mqtt, identify: {by: [{type: mqtt, agreed: true}]}":             &agreed,
		"protocol: ws, websocket: {subprotocols: [mqtt]}, identify: {timeout: 1s}": &agreed,
	} {
		by := parse(t, listening(t, listener)).Listeners[0].Identify.By
		switch {
		case want == nil && by[0].Type != configs.BySource, want != nil && by[0] != *want:
			t.Errorf("%s: users are known by %+v", listener, by)
		}
	}
}

func TestMechanismsOfFronts(t *testing.T) {
	names := []string{"SCRAM-SHA-512", "SCRAM-SHA-256-PLUS", "EXTERNAL", "OAUTHBEARER", "HT-SHA-256-EXPR", "X-OAUTH2", "9798-M-DSA-SHA1"}
	p := parse(t, front+"sasl: {mechanisms: ["+strings.Join(names, ", ")+"]}\ntimeouts: {half_open: 3s}\n")
	if p := parse(t, front+"timeouts: {half_open: 0s}\n"); p.Timeouts.HalfOpen != 0 {
		t.Errorf("half_open is %v, want no limit", p.Timeouts.HalfOpen)
	}
	if !reflect.DeepEqual(p.SASL.Mechanisms, names) || p.Timeouts.HalfOpen != 3*time.Second {
		t.Errorf("got %v, %v", p.SASL.Mechanisms, p.Timeouts)
	}
	if p := parse(t, front); p.SASL.Mechanisms != nil {
		t.Errorf("without the key got %v, want none", p.SASL.Mechanisms)
	}
}

// Patterns are read back as they were written, whatever is in them.
func TestPatternsAreWrittenAsTheyAre(t *testing.T) {
	for _, pattern := range []string{"a\r\n(b)", "\n(b)\n", " (b) ", "(b): #", "\t(b)", "- (b)", "(\u2028)", "'(b)'", `"(b)"`, `(b)\n`, "|(b)", "true(b)", "a\n (b)\r", "~()"} {
		text := listening(t, "protocol: tcp, identify: {by: [{type: pattern, pattern: "+strconv.Quote(pattern)+"}]}")
		text = edit(t, text, "tls:", "    checks: [{type: script, steps: [{pattern: "+strconv.Quote(pattern)+"}]}]\ntls:")
		p := parse(t, text)
		if got := p.Listeners[0].Identify.By[0].Pattern; string(got) != pattern {
			t.Errorf("%q is read as %q", pattern, got)
		}
		written, err := p.YAML()
		if err != nil {
			t.Fatal(err)
		}
		if again := parse(t, string(written)); !reflect.DeepEqual(again, p) {
			t.Errorf("%q is read back as %q and %q", pattern, again.Listeners[0].Identify.By[0].Pattern, again.Pools["chat"].Checks[0].Steps[0].Pattern)
		}
	}
}

func TestClaims(t *testing.T) {
	const ws = "protocol: ws, websocket: {subprotocols: [none]}, identify: {by: [{type: websocket, from: bearer, claim: "
	for claim, good := range map[string]bool{"sub": true, "user.id": true, "'https://a.example/user#1'": true, "''": false, "'a b'": false, `"a\r"`: false} {
		if _, err := configs.ParseProxy("f", []byte(listening(t, ws+claim+"}]}"))); good != (err == nil) {
			t.Errorf("%s: got %v", claim, err)
		}
	}
}

// Addresses of IPv4 are compared as such, however their networks are written.
func TestMappedNetworks(t *testing.T) {
	l := parse(t, listening(t, `protocol: tcp, proxy_protocol: {trusted: ["::ffff:127.0.0.0/104", "::ffff:0:0/95"]}`)).Listeners[0]
	want := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::ffff:0:0/95")}
	if got := l.ProxyProtocol.Trusted; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestServesXMPP(t *testing.T) {
	for listener, want := range map[string]bool{
		"protocol: xmpps": true,
		"protocol: wss":   true,
		"protocol: wss, websocket: {subprotocols: [mqtt]}": false,
		"protocol: quic":               true,
		"protocol: quic, alpn: [mqtt]": false,
		"protocol: quic, alpn: [mqtt], routes: [{alpn: [xmpp-client]}]": true,
		"protocol: mqtt": false,
		"protocol: tls, routes: [{alpn: [xmpp-client], passthrough: true}]":                  false,
		"protocol: xmpp}\n  - {address: ':2', protocol: tcp":                                 true,
		"protocol: tcp}\n  - {address: ':2', protocol: mqtt, identify: {by: [{type: mqtt}]}": false,
	} {
		p, err := configs.ParseProxy("f", []byte(listening(t, listener)))
		if err != nil {
			t.Fatalf("%s: %v", listener, err)
		}
		if got := p.ServesXMPP("chat"); got != want || p.ServesXMPP("other") {
			t.Errorf("%s: got %v, want %v", listener, got, want)
		}
	}
}
