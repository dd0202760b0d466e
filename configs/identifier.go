package configs

import "slices"

// IdentifierType is what a user is known by.
type IdentifierType string

// The types of identifiers.
const (
	ByMQTT        IdentifierType = "mqtt"        // user name or client id of a CONNECT
	BySNI         IdentifierType = "sni"         // the name that a TLS client asks for
	ByWebSocket   IdentifierType = "websocket"   // a part of the request for the upgrade
	ByCertificate IdentifierType = "certificate" // a field of the client's certificate
	ByProxyTLV    IdentifierType = "proxy-tlv"   // a field of the PROXY v2 header that came
	ByPattern     IdentifierType = "pattern"     // a regular expression in the first bytes
	BySource      IdentifierType = "source"      // the client's network
	ByRandom      IdentifierType = "random"      // each connection is a user
)

func (IdentifierType) choices() []string {
	return words(ByMQTT, BySNI, ByWebSocket, ByCertificate, ByProxyTLV, ByPattern, BySource, ByRandom)
}

// identifierKeys says of which types of identifiers a key is, in the order in which it
// is told to who uses it elsewhere.
var identifierKeys = []struct {
	key   string
	types []IdentifierType
}{
	{"first", []IdentifierType{ByMQTT}},
	{"agreed", []IdentifierType{ByMQTT}},
	{"from", []IdentifierType{ByWebSocket}},
	{"name", []IdentifierType{ByWebSocket}},
	{"segment", []IdentifierType{ByWebSocket}},
	{"claim", []IdentifierType{ByWebSocket}},
	{"pattern", []IdentifierType{ByPattern, ByWebSocket}},
	{"max_lines", []IdentifierType{ByPattern}},
	{"field", []IdentifierType{ByCertificate}},
	{"tlv", []IdentifierType{ByProxyTLV}},
	{"sub", []IdentifierType{ByProxyTLV}},
	{"ipv4_prefix", []IdentifierType{BySource}},
	{"ipv6_prefix", []IdentifierType{BySource}},
}

// protocols are those on whose listeners the type can find somebody.
func (t IdentifierType) protocols() []Protocol {
	switch t {
	case BySNI:
		return append([]Protocol{TCP}, knownByName...)
	case ByCertificate:
		return knownByName
	case ByWebSocket:
		return webProtocols
	case ByProxyTLV:
		return slices.DeleteFunc(slices.Clone(opaqueProtocols), func(p Protocol) bool { return p == QUIC })
	case ByMQTT, ByPattern, BySource, ByRandom:
	}
	return opaqueProtocols
}

// MQTTName is a name in a CONNECT of MQTT.
type MQTTName string

// The names.
const (
	UserName MQTTName = "user-name"
	ClientID MQTTName = "client-id"
)

func (MQTTName) choices() []string { return words(UserName, ClientID) }

// RequestPart is a part of the request for a WebSocket.
type RequestPart string

// The parts.
const (
	FromPath        RequestPart = "path"
	FromSegment     RequestPart = "segment"
	FromQuery       RequestPart = "query"
	FromHeader      RequestPart = "header"
	FromCookie      RequestPart = "cookie"
	FromBearer      RequestPart = "bearer"
	FromSubprotocol RequestPart = "subprotocol"
)

func (RequestPart) choices() []string {
	return words(FromPath, FromSegment, FromQuery, FromHeader, FromCookie, FromBearer, FromSubprotocol)
}

// partKeys says of which parts of a request a key is. Where there is one it is needed.
var partKeys = []struct {
	key    string
	parts  []RequestPart
	advice string
}{
	{"name", []RequestPart{FromQuery, FromHeader, FromCookie, FromSubprotocol}, "say of which parameter, field, cookie or subprotocol"},
	{"segment", []RequestPart{FromSegment}, "say which one: 1 is the first, -1 the last"},
	{"pattern", []RequestPart{FromPath}, "write a regular expression with a group named user, like ^/chat/(?P<user>[^/]+)$"},
}

// CertificateField is a part of a certificate.
type CertificateField string

// The fields.
const (
	CommonName CertificateField = "common-name"
	DNSName    CertificateField = "dns"
	Email      CertificateField = "email"
	URI        CertificateField = "uri"
)

func (CertificateField) choices() []string { return words(CommonName, DNSName, Email, URI) }

// sslTLV is the type of the field of a PROXY header that has fields in it.
const sslTLV = 0x20
