package configs

import (
	"net/netip"
	"slices"
	"time"
)

// Listener is one address on which clients are accepted. Some keys are for some
// protocols only.
type Listener struct {
	// Name is what the listener is called in logs and metrics, unique; by default
	// the protocol.
	Name string `yaml:"name,omitempty" is:"name"`
	// Protocol is what clients speak: xmpp (on TCP, encrypted by STARTTLS), xmpps (TLS
	// from the first byte), wss (WebSocket in TLS, host-meta), ws (the same in the
	// clear, behind something that ends TLS), quic, mqtt, mqtts (in TLS), tcp (anything)
	// or tls (anything in TLS).
	Protocol Protocol `yaml:"protocol" required:"say what clients speak here, like xmpp, mqtts or tcp"`
	// Address is the host:port to listen on; without a host, all addresses.
	Address string `yaml:"address" is:"listen" required:"give the host:port to listen on, like \":5222\" for all addresses"`
	// Pool is the pool whose nodes serve these clients; by default the only one.
	Pool string `yaml:"pool,omitempty" is:"name"`
	// Routes lead clients elsewhere by what their TLS handshake says (tls, mqtts, quic).
	// The one that matches best counts: an exact name before one with a label left
	// open, before none.
	Routes []Route `yaml:"routes,omitempty"`
	// Passthrough leaves TLS to the nodes, for clients that no route matches (tls). Their
	// PROXY v2 header has the name that the client asks for and the first of the protocols
	// that it offers (ALPN), whatever node and client then agree on.
	Passthrough bool `yaml:"passthrough,omitempty"`
	// DirectTLS lets clients begin with TLS as well (xmpp).
	DirectTLS bool `yaml:"direct_tls,omitempty"`
	// ALPN lists the application protocols of opaque sessions in TLS (tls, mqtts, quic). A
	// client that offers some has to offer one of them, or one of the routes'. By
	// default any will do; for mqtts it is mqtt, and for quic xmpp-client, which is XMPP
	// there and has to be listed if others are.
	ALPN []string `yaml:"alpn,omitempty" is:"alpn"`
	// ClientAuth is whether clients show a certificate, where TLS ends here: none (by
	// default), optional or required. The nodes are told of it in the PROXY v2 header.
	ClientAuth ClientAuth `yaml:"client_auth,omitempty"`
	// ClientCAFile holds who signed the clients' certificates.
	ClientCAFile string `yaml:"client_ca_file,omitempty" is:"file"`
	// WebSocket says where the WebSocket is and what is in it (ws, wss).
	WebSocket *WebSocket `yaml:"websocket,omitempty"`
	// BOSH lets clients of XMPP come by plain HTTP requests, too (XEP-0124 and XEP-0206), on the
	// port of the WebSocket; without the block they may not. An empty one, {}, will do (ws, wss).
	// Of a session one request is held at a time, also if its client asks for more. Requests that
	// are pipelined wait for the answer to those before, so clients take two connections, as
	// browsers do. A session has one stream, to a domain of the front, whatever route is asked for.
	BOSH *BOSH `yaml:"bosh,omitempty"`
	// Identify says how the users of opaque sessions are known; those of XMPP log in.
	Identify *Identify `yaml:"identify,omitempty"`
	// ProxyProtocol is set when something in front of this front adds a PROXY
	// header to connections. Not for QUIC.
	ProxyProtocol *ProxyProtocol `yaml:"proxy_protocol,omitempty"`
	// Rate limits how fast connections are accepted. Of a QUIC connection the first stream
	// is accepted with it, and each further one counts.
	Rate Rate `yaml:"rate"`
	// Limits bound what the listener's clients can cost together.
	Limits ListenerLimits `yaml:"limits"`
	// Allow lists the networks from which clients may connect; without any, all may. Of who
	// comes through a trusted proxy the address counts that its header tells; the proxy
	// itself need not be listed.
	Allow []netip.Prefix `yaml:"allow,omitempty"`
	// Deny lists the networks from which clients may not connect, whatever allow says.
	// Proxies are not clients.
	Deny []netip.Prefix `yaml:"deny,omitempty"`
}

// ServesXMPP reports whether sessions of XMPP can come to a pool.
func (p *Proxy) ServesXMPP(pool string) bool {
	return slices.ContainsFunc(p.Listeners, func(l Listener) bool {
		leads := func(r Route) bool { return r.Pool == pool }
		return l.xmpp() && (l.Pool == pool || slices.ContainsFunc(l.Routes, leads))
	})
}

// xmpp reports whether sessions of XMPP can come on the listener.
func (l *Listener) xmpp() bool {
	switch l.Protocol {
	case XMPP, XMPPS:
		return true
	case WS, WSS:
		return l.WebSocket != nil && slices.Contains(l.WebSocket.Subprotocols, "xmpp")
	case QUIC:
		has := func(r Route) bool { return slices.Contains(r.ALPN, alpnXMPP) }
		return len(l.ALPN) == 0 || slices.Contains(l.ALPN, alpnXMPP) || slices.ContainsFunc(l.Routes, has)
	case TCP, OpaqueTLS, MQTT, MQTTS:
	}
	return false
}

// Route leads clients that match to a pool. It has server_names, or alpn, or both.
type Route struct {
	// ServerNames are the names (SNI) that clients ask for, exact or with the first label
	// left open, like *.example.com. Without any, all match.
	ServerNames []string `yaml:"server_names,omitempty" is:"server-name"`
	// ALPN lists application protocols of which the client has to offer one. Without
	// any, all match.
	ALPN []string `yaml:"alpn,omitempty" is:"alpn"`
	// Pool is where they are led; by default the listener's.
	Pool string `yaml:"pool,omitempty" is:"name"`
	// Passthrough leaves their TLS to the nodes (tls).
	Passthrough bool `yaml:"passthrough,omitempty"`
}

// WebSocket says where the WebSocket of a listener is and what is in it.
type WebSocket struct {
	// Path is where it is.
	Path string `yaml:"path" default:"/xmpp-websocket" is:"path"`
	// Subprotocols are those that clients may ask for, best first. xmpp is XMPP (RFC
	// 7395); every other carries an opaque stream of bytes in binary messages, and none
	// is that of clients that ask for none.
	Subprotocols []string `yaml:"subprotocols" default:"xmpp" is:"token"`
	// Compression offers permessage-deflate (RFC 7692). It costs memory, most of all in opaque
	// sessions, and tells an attacker who can add to messages something about them.
	Compression bool `yaml:"compression" default:"false"`
}

// BOSH says where BOSH is, and how long its clients may be silent. A client may ask for less.
type BOSH struct {
	// Path is where it is.
	Path string `yaml:"path" default:"/http-bind" is:"path"`
	// Wait is for how long a request is held at most when there is nothing to answer. What
	// stands between clients and the front has to wait for longer.
	Wait time.Duration `yaml:"wait" default:"60s" min:"1s" max:"1h"`
	// Inactivity is after how long without a request a client is gone; twice as long for one
	// that does not let its requests be held.
	Inactivity time.Duration `yaml:"inactivity" default:"60s" min:"1s" max:"1h"`
	// MaxPause is for how long a client may say that it will make no request.
	MaxPause time.Duration `yaml:"max_pause" default:"120s" min:"1s" max:"1h"`
}

// NoSubprotocol is the word for the WebSocket subprotocol of clients that ask for none.
const NoSubprotocol = "none"

// Identify says how the users of opaque sessions are known: by what their first
// bytes say, or by what is known of the connection. It is a claim, good for choosing a
// node: all who make the same claim meet on one. The node verifies it.
type Identify struct {
	// By lists the ways, the first that finds a user counts. By default mqtt and then
	// source for listeners of protocol mqtt and mqtts, and for others on which clients may
	// agree on mqtt by subprotocol or ALPN, for those that have; else source. A list that
	// does not end with source or random refuses whom it does not find. Where mqtt is what the
	// listener's protocol, the subprotocol or ALPN says, it refuses what is no CONNECT, or a wrong
	// one, whatever comes after it in the list.
	By []Identifier `yaml:"by,omitempty"`
	// MaxBytes is how many of the first bytes are looked at; of patterns, at most 1KiB. By default
	// 256KiB where a CONNECT of MQTT is looked for, of which the will comes before the user name,
	// else 16KiB.
	MaxBytes Size `yaml:"max_bytes,omitempty" min:"64" max:"1MiB"`
	// Timeout is how long they may take to come; 0: as long as timeouts.identify.
	Timeout time.Duration `yaml:"timeout" default:"0s" min:"0s"`
}

// Identifier is one way to know a user. Which keys it has beside the type depends on
// the type.
type Identifier struct {
	// Type is what the user is known by: the CONNECT of MQTT (mqtt), the name that a TLS
	// client asks for (sni; on tcp it is looked for in the first bytes, of TLS that is the
	// nodes'), the request for a WebSocket (websocket), the client's
	// certificate (certificate), a field of the PROXY v2 header that came (proxy-tlv), a
	// pattern in the first bytes (pattern), the client's network (source), or nothing:
	// each connection is a user (random). Logs name the way by this word.
	Type IdentifierType `yaml:"type" required:"say what users are known by, like mqtt or source"`
	// First is what of a CONNECT counts if it is there, user-name (by default) or
	// client-id; the other does if it is not (mqtt).
	First MQTTName `yaml:"first,omitempty"`
	// Agreed has a CONNECT looked for only where the client has agreed on mqtt, by the
	// WebSocket's subprotocol or by ALPN. Others need not send anything first (mqtt).
	Agreed bool `yaml:"agreed,omitempty"`
	// From is the part of the request (websocket): path (what pattern finds in it),
	// segment (one of the path), query, header and cookie (of that name), bearer (the token
	// of Authorization), or subprotocol (the one that is named after name, in which
	// browsers send tokens).
	From RequestPart `yaml:"from,omitempty"`
	// Name is that of the query's parameter, the header field, the cookie or the
	// subprotocol (websocket).
	Name string `yaml:"name,omitempty" is:"token"`
	// Segment counts the segments of the path from 1, or from its end from -1 (websocket).
	Segment int `yaml:"segment,omitempty" min:"-100" max:"100"`
	// Claim is for what is a JSON Web Token: the user is this claim of it, like sub, or
	// user.id for one inside another. The signature is not verified (websocket).
	Claim string `yaml:"claim,omitempty" is:"claim"`
	// Pattern is a regular expression (RE2) with a group named user, or just one group
	// (pattern, websocket). In first bytes it is tried whenever a line has ended, on all that
	// came up to there: ^LOGIN (?P<user>\S+). There ^ is the first byte; with the flag m it is
	// the beginning of any line, as for IRC, where others may come before:
	// (?im)^NICK :?(?P<user>[^\s:]+).
	Pattern Line `yaml:"pattern,omitempty" is:"user-pattern"`
	// MaxLines is how many lines of the first bytes are tried; by default 16 (pattern).
	MaxLines int `yaml:"max_lines,omitempty" min:"1" max:"1000"`
	// Field is what of the certificate counts: common-name (by default), or the first
	// alternative name of the kind dns, email or uri (certificate).
	Field CertificateField `yaml:"field,omitempty"`
	// TLV is the type of the field of the PROXY header, like 0xE0 (proxy-tlv).
	TLV int `yaml:"tlv,omitempty" min:"1" max:"255"`
	// Sub is the type of the field in that field when tlv is 0x20 (SSL): 0x22 is the
	// common name of the client's certificate. It counts when that was verified
	// (proxy-tlv).
	Sub int `yaml:"sub,omitempty" min:"1" max:"255"`
	// IPv4Prefix is how many bits of an address make a user; by default 32 (source).
	IPv4Prefix int `yaml:"ipv4_prefix,omitempty" min:"1" max:"32"`
	// IPv6Prefix is the same for IPv6; by default 64, what one household is given (source).
	IPv6Prefix int `yaml:"ipv6_prefix,omitempty" min:"1" max:"128"`
}

// ProxyProtocol lists who has to say in a PROXY header (v1 or v2) where
// a connection comes from. Connections of others are taken as they are.
type ProxyProtocol struct {
	// Trusted are the networks whose connections have to have the header.
	Trusted []netip.Prefix `yaml:"trusted" required:"list the networks of the proxies, like [10.0.0.0/8]"`
}

// Rate limits how fast connections are accepted.
type Rate struct {
	// PerSecond is how many are accepted in a second; 0: no limit.
	PerSecond float64 `yaml:"per_second" default:"500" min:"0" max:"1000000000"`
	// Burst is how many are accepted at once before the rate counts.
	Burst int `yaml:"burst" default:"1000" min:"1"`
	// MaxWait is how long a connection above the rate may have to wait for its
	// turn; one that would have to wait longer is refused at once.
	MaxWait time.Duration `yaml:"max_wait" default:"2s" min:"0s" max:"1h"`
}
