package proxy

// Protocol says what clients speak on a listener.
type Protocol uint8

// The protocols. Sessions of TCP, TLS, MQTT and MQTTS are opaque: the front reads
// no more of them than it needs to know the user. On WS, WSS and QUIC it depends
// on what client and front agree on; see [Listener].
const (
	TCP   Protocol = 1 + iota // opaque
	TLS                       // opaque, in TLS that ends here or is passed through
	XMPP                      // TCP, STARTTLS required (RFC 6120 §5)
	XMPPS                     // TCP, TLS from the first byte (XEP-0368)
	MQTT                      // opaque, MQTT 3.1, 3.1.1 or 5
	MQTTS                     // the same in TLS
	WS                        // WebSocket (RFC 6455) in the clear, behind something that ends TLS
	WSS                       // WebSocket, BOSH, and the discovery of XMPP over them (XEP-0156)
	QUIC                      // XEP-0467, or opaque streams
)

// protocolNames are the words of the configuration, in the order of the protocols.
//
//nolint:gochecknoglobals // a constant in all but syntax
var protocolNames = [...]string{"", "tcp", "tls", "xmpp", "xmpps", "mqtt", "mqtts", "ws", "wss", "quic"}

// ParseProtocol returns the protocol that is written like that in a configuration.
func ParseProtocol(name string) (Protocol, bool) {
	for p := TCP; p <= QUIC; p++ {
		if protocolNames[p] == name {
			return p, true
		}
	}
	return 0, false
}

// String returns the protocol as it is written in a configuration.
func (p Protocol) String() string {
	if p < TCP || p > QUIC {
		return "unknown"
	}
	return protocolNames[p]
}

// endsTLS tells whether clients on a listener of the protocol are served in TLS
// that ends at the front.
func (p Protocol) endsTLS() bool {
	switch p {
	case TLS, XMPP, XMPPS, MQTTS, WSS, QUIC:
		return true
	case TCP, MQTT, WS:
		return false
	}
	return false
}

// opaque tells whether all sessions of the protocol are.
func (p Protocol) opaque() bool { return p == TCP || p == TLS || p == MQTT || p == MQTTS }

// opaqueALPN is what clients of an opaque protocol in TLS are offered by default.
func (p Protocol) opaqueALPN() []string {
	if p == MQTTS {
		return []string{"mqtt"} // as registered with IANA
	}
	return nil
}
