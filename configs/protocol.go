package configs

import "slices"

// Protocol is what a listener speaks to clients.
type Protocol string

// The protocols of listeners. Sessions of TCP, OpaqueTLS, MQTT and MQTTS are opaque:
// no more of them is read than it takes to know the user.
const (
	TCP       Protocol = "tcp"   // anything
	OpaqueTLS Protocol = "tls"   // anything in TLS, which ends at the front or is passed through
	XMPP      Protocol = "xmpp"  // XMPP on TCP, encrypted by STARTTLS (RFC 6120 §5)
	XMPPS     Protocol = "xmpps" // XMPP on TCP with TLS from the first byte (XEP-0368)
	MQTT      Protocol = "mqtt"  // MQTT 3.1, 3.1.1 or 5
	MQTTS     Protocol = "mqtts" // the same in TLS
	WS        Protocol = "ws"    // WebSocket (RFC 6455) in the clear
	WSS       Protocol = "wss"   // WebSocket in TLS, and host-meta (XEP-0156)
	QUIC      Protocol = "quic"  // XMPP over QUIC (XEP-0467), or opaque streams
)

func (Protocol) choices() []string {
	return words(TCP, OpaqueTLS, XMPP, XMPPS, MQTT, MQTTS, WS, WSS, QUIC)
}

// network is the kind of port that a listener of the protocol occupies.
func (p Protocol) network() string {
	if p == QUIC {
		return "udp"
	}
	return "tcp"
}

// endsTLS reports whether clients are served in TLS, which ends at the front unless it
// is passed through.
func (p Protocol) endsTLS() bool { return slices.Contains(tlsProtocols, p) }

// Groups of protocols that have keys in common.
var (
	tlsProtocols    = []Protocol{OpaqueTLS, XMPP, XMPPS, MQTTS, WSS, QUIC}
	alpnProtocols   = []Protocol{OpaqueTLS, MQTTS, QUIC}
	webProtocols    = []Protocol{WS, WSS}
	opaqueProtocols = []Protocol{TCP, OpaqueTLS, MQTT, MQTTS, WS, WSS, QUIC}
	knownByName     = []Protocol{OpaqueTLS, MQTTS, WSS, QUIC}
)

// listenerKeys says of which protocols a listener's key is, in the order in which it is
// told to who uses it elsewhere.
var listenerKeys = []struct {
	key       string
	protocols []Protocol
}{
	{"routes", alpnProtocols},
	{"passthrough", []Protocol{OpaqueTLS}},
	{"direct_tls", []Protocol{XMPP}},
	{"alpn", alpnProtocols},
	{"client_auth", tlsProtocols},
	{"client_ca_file", tlsProtocols},
	{"websocket", webProtocols},
	{"bosh", webProtocols},
	{"identify", opaqueProtocols},
}

// ClientAuth is whether clients show a certificate.
type ClientAuth string

// What is asked of clients.
const (
	NoClientAuth       ClientAuth = "none"
	OptionalClientAuth ClientAuth = "optional" // it is verified if there is one
	RequiredClientAuth ClientAuth = "required"
)

func (ClientAuth) choices() []string {
	return words(NoClientAuth, OptionalClientAuth, RequiredClientAuth)
}

// HeaderVersion is the form of a PROXY header.
type HeaderVersion string

// The forms.
const (
	HeaderV2   HeaderVersion = "v2"   // binary, with all that is known of the client
	HeaderV1   HeaderVersion = "v1"   // text, with addresses alone
	HeaderNone HeaderVersion = "none" // nothing
)

func (HeaderVersion) choices() []string { return words(HeaderV2, HeaderV1, HeaderNone) }
