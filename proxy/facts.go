package proxy

import (
	"crypto/tls"
	"encoding/binary"
	"hash/crc32"
	"net"
	"net/http"
	"time"

	"github.com/pires/go-proxyproto"
	"github.com/pires/go-proxyproto/tlvparse"
)

// The front's own fields in the PROXY header (2.2.7 of its specification leaves
// 0xE0 to 0xEF to applications). docs/third-party.md has them for authors of nodes.
const (
	tlvTransport = proxyproto.PP2Type(0xE0) // tcp, starttls, tls, tls-passthrough, ws, bosh or quic
	tlvExporter  = proxyproto.PP2Type(0xE1) // tls-exporter channel-binding data (RFC 9266), 32 bytes
	tlvSettle    = proxyproto.PP2Type(0xE2) // what was delivered: see settleNote
	tlvEndPoint  = proxyproto.PP2Type(0xE3) // tls-server-end-point channel-binding data (RFC 5929 §4)
	tlvNames     = proxyproto.PP2Type(0xE4) // names in the client's verified certificate: see certificate.go
	tlvAge       = proxyproto.PP2Type(0xE5) // for how long the client has been connected, in ms, in decimal
)

// facts are what the transport knows of the client, for the node and for who has
// to find out who the user is.
type facts struct {
	transport   string
	source      net.Addr
	destination net.Addr // nil: local tells
	local       interface{ LocalAddr() net.Addr }
	tls         *tls.ConnectionState // nil unless TLS ends here
	endPoint    []byte               // tls-server-end-point; nil if not known
	roams       bool                 // the client has several connections, of which tls is but one's
	unbound     bool                 // clients are offered nothing that binds to the channel
	serverName  string               // SNI; "" for none
	subprotocol string               // of a WebSocket
	alpn        string               // negotiated here, or the first that is offered in a passthrough
	received    []proxyproto.TLV     // of the PROXY header that a proxy sent
	request     *http.Request        // for the WebSocket; nil without one
	sniffing    *sniffing            // of an opaque session; nil before
	held        time.Duration        // how long the session had to wait for its turns
}

// receivedTLS tells whether a trusted proxy says that the client came to it by TLS.
func (f *facts) receivedTLS() bool {
	for _, tlv := range f.received {
		if ssl, err := tlvparse.SSL(tlv); err == nil && ssl.ClientSSL() {
			return true
		}
	}
	return false
}

// header returns what a connection to a node begins with: nothing, or a PROXY
// header that tells who the client is and how it is connected. more are fields to
// add to a header of version 2.
func (f *facts) header(form Header, id ID, conn net.Conn, more ...proxyproto.TLV) ([]byte, error) {
	if form == HeaderNone {
		return nil, nil
	}
	version := byte(2)
	if form == HeaderV1 {
		version = 1
	}
	h := proxyproto.HeaderProxyFromAddrs(version, streamAddr(f.source), streamAddr(f.reached()))
	if h.Command.IsLocal() {
		h = proxyproto.HeaderProxyFromAddrs(version, conn.LocalAddr(), conn.RemoteAddr())
	}
	if form == HeaderV1 {
		return h.Format()
	}
	tlvs, err := f.fields(id)
	if err != nil {
		return nil, err
	}
	if err := h.SetTLVs(append(tlvs, more...)); err != nil {
		return nil, err
	}
	raw, err := h.Format()
	if err != nil {
		return nil, err
	}
	return withChecksum(raw), nil
}

// reached is the address that the client has connected to. Asking for it is a call of
// the system, which a session without a header can do without.
func (f *facts) reached() net.Addr {
	if f.destination == nil && f.local != nil {
		f.destination = f.local.LocalAddr()
	}
	return f.destination
}

// fields are those of a header of version 2. The checksum is the first and still
// zero.
func (f *facts) fields(id ID) ([]proxyproto.TLV, error) {
	tlvs := []proxyproto.TLV{
		{Type: proxyproto.PP2_TYPE_CRC32C, Value: make([]byte, crc32.Size)},
		{Type: proxyproto.PP2_TYPE_UNIQUE_ID, Value: []byte(id.String())},
		{Type: tlvTransport, Value: []byte(f.transport)},
	}
	text := func(kind proxyproto.PP2Type, value string) {
		if value != "" {
			tlvs = append(tlvs, proxyproto.TLV{Type: kind, Value: []byte(value)})
		}
	}
	text(proxyproto.PP2_TYPE_ALPN, f.alpn)
	text(proxyproto.PP2_TYPE_AUTHORITY, f.serverName)
	if f.tls == nil {
		return tlvs, nil
	}
	ssl, err := sslField(f.tls)
	if err != nil {
		return nil, err
	}
	tlvs = append(tlvs, ssl)
	data := func(kind proxyproto.PP2Type, value []byte) {
		if value != nil {
			tlvs = append(tlvs, proxyproto.TLV{Type: kind, Value: value})
		}
	}
	if !f.unbound {
		data(tlvExporter, f.exporter())
		data(tlvEndPoint, f.endPoint)
	}
	data(tlvNames, f.verifiedNames())
	return tlvs, nil
}

// exporter returns the tls-exporter data, or nil: without extended master secrets TLS 1.2
// has no exporter to speak of.
func (f *facts) exporter() []byte {
	if f.tls == nil {
		return nil
	}
	data, err := f.tls.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32)
	if err != nil {
		return nil
	}
	return data
}

// certified tells whether the client has shown a certificate that was verified.
func (f *facts) certified() bool { return f.tls != nil && len(f.tls.VerifiedChains) > 0 }

// sslField says how a client's connection is secured, and by which certificate the
// client is known.
func sslField(t *tls.ConnectionState) (proxyproto.TLV, error) {
	ssl := tlvparse.PP2SSL{
		Client: tlvparse.PP2_BITFIELD_CLIENT_SSL,
		Verify: 1, // no client certificate was verified
		TLV: []proxyproto.TLV{
			{Type: proxyproto.PP2_SUBTYPE_SSL_VERSION, Value: []byte(proxyTLSVersion(t.Version))},
			{Type: proxyproto.PP2_SUBTYPE_SSL_CIPHER, Value: []byte(tls.CipherSuiteName(t.CipherSuite))},
		},
	}
	if len(t.PeerCertificates) > 0 {
		ssl.Client |= tlvparse.PP2_BITFIELD_CLIENT_CERT_SESS
		if !t.DidResume {
			ssl.Client |= tlvparse.PP2_BITFIELD_CLIENT_CERT_CONN
		}
		if len(t.VerifiedChains) > 0 {
			ssl.Verify = 0
		}
		if cn := t.PeerCertificates[0].Subject.CommonName; cn != "" && len(cn) <= maxNames {
			ssl.TLV = append(ssl.TLV, proxyproto.TLV{Type: proxyproto.PP2_SUBTYPE_SSL_CN, Value: []byte(cn)})
		}
	}
	return ssl.Marshal()
}

// proxyTLSVersion names a version as other proxies do, in OpenSSL's words.
func proxyTLSVersion(version uint16) string {
	switch version {
	case tls.VersionTLS13:
		return "TLSv1.3"
	case tls.VersionTLS12:
		return "TLSv1.2"
	}
	return tls.VersionName(version)
}

// The places of lengths in a header of version 2 (2.2 of its specification).
const (
	headerFixed = 16
	fieldHead   = 3 // type and length of a field
)

// withChecksum fills in the checksum (2.2.4 of the specification), which is over the
// whole header with the field as zero.
func withChecksum(raw []byte) []byte {
	addrs := 0
	switch raw[13] >> 4 {
	case 1: // IPv4
		addrs = 12
	case 2: // IPv6
		addrs = 36
	}
	at := headerFixed + addrs + fieldHead
	if len(raw) < at+crc32.Size || proxyproto.PP2Type(raw[at-fieldHead]) != proxyproto.PP2_TYPE_CRC32C {
		return raw
	}
	sum := crc32.Checksum(raw, crc32.MakeTable(crc32.Castagnoli))
	binary.BigEndian.PutUint32(raw[at:], sum)
	return raw
}

// streamAddr makes a TCP address of a UDP one: the leg carries one stream of a
// QUIC connection, not its datagrams.
func streamAddr(a net.Addr) net.Addr {
	if udp, ok := a.(*net.UDPAddr); ok {
		return &net.TCPAddr{IP: udp.IP, Port: udp.Port, Zone: udp.Zone}
	}
	return a
}
