package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/pires/go-proxyproto"
	"github.com/pires/go-proxyproto/tlvparse"

	"imlb/backend/xmpp"
)

// The front's own fields in the PROXY header (2.2.7 of its specification leaves
// 0xE0 to 0xEF to applications).
const (
	tlvTransport = proxyproto.PP2Type(0xE0) // tcp, starttls, tls, ws or quic
	tlvSettle    = proxyproto.PP2Type(0xE2) // user NUL entry: see settle.go
)

// nodeSlack is how much longer than a client's a node's stanza may be: nodes add
// addresses, delays and ids to what clients sent.
const nodeSlack = 16 << 10

// nodeLeg is the leg to a node: TCP, a PROXY v2 header, and a stream.
type nodeLeg struct {
	*streamLeg
	conn   *net.TCPConn
	name   string
	user   xmpp.JID
	choice Choice
	used   bool // a login was tried on it
	ended  bool // the node has ended its stream itself
	broken bool // the leg broke, and the node may not know what the client has
}

// close closes the leg and tells the picker that the session is gone from the
// node.
func (n *nodeLeg) close() {
	_ = n.Close()
	n.choice.release()
}

// headerFunc makes the PROXY header for a connection to a node.
type headerFunc func(conn net.Conn) (*proxyproto.Header, error)

// openNode dials a node and opens a stream for user, up to the node's features.
// The caller has to release the choice when it fails.
func (s *session) openNode(ctx context.Context, timeout time.Duration, choice Choice, user xmpp.JID) (*nodeLeg, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	conn, err := dialNode(ctx, choice.Node.Addr)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(past) })
	defer stop()
	if err := sendProxyHeader(conn, s.proxyHeader); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	leg := newStreamLeg(conn, s.terms.Limits.MaxStanza+nodeSlack, s.terms.Timeouts.Write)
	n := &nodeLeg{streamLeg: leg, conn: conn, name: choice.Node.Name, user: user, choice: choice}
	if err := n.open(); err != nil {
		return nil, errors.Join(err, leg.Close())
	}
	if !stop() {
		return nil, errors.Join(context.Cause(ctx), leg.Close())
	}
	return n, nil
}

func dialNode(ctx context.Context, addr string) (*net.TCPConn, error) {
	dialer := net.Dialer{KeepAliveConfig: keepAlive()}
	conn, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("%s is not a TCP address", addr), conn.Close())
	}
	return tcp, nil
}

func sendProxyHeader(conn net.Conn, make headerFunc) error {
	h, err := make(conn)
	if err != nil {
		return fmt.Errorf("PROXY header: %w", err)
	}
	if _, err := h.WriteTo(conn); err != nil {
		return fmt.Errorf("PROXY header: %w", err)
	}
	return nil
}

// errClosed: the node ended its stream before it offered its features.
var errClosed = errors.New("the node closed the stream")

// open opens the stream and waits for the node's features, which are for the
// front alone: what the node really offers its <auth/> will show.
func (n *nodeLeg) open() error {
	h := header(xmpp.StreamHeader{To: n.user.Domain(), From: n.user.String()})
	if err := post(n, h); err != nil {
		return err
	}
	for {
		tok, err := await(n)
		switch {
		case err != nil:
			return err
		case tok.Kind == xmpp.KindClose:
			return errClosed
		case tok.Kind != xmpp.KindElement:
			continue
		}
		if e, ok := xmpp.ParseStreamError(tok.Raw); ok {
			return e
		}
		if e, err := xmpp.ParseElement(tok.Raw); err != nil || e.Local() != "features" {
			return errors.New("the node did not offer stream features")
		}
		return nil
	}
}

// proxyHeader tells a node who the client is and how it is connected.
func (s *session) proxyHeader(conn net.Conn) (*proxyproto.Header, error) {
	h := proxyproto.HeaderProxyFromAddrs(2, streamAddr(s.facts.source), streamAddr(s.facts.destination))
	if h.Command.IsLocal() {
		h = proxyproto.HeaderProxyFromAddrs(2, conn.LocalAddr(), conn.RemoteAddr())
	}
	tlvs := []proxyproto.TLV{
		{Type: proxyproto.PP2_TYPE_UNIQUE_ID, Value: []byte(s.rec.ID)},
		{Type: tlvTransport, Value: []byte(s.facts.transport)},
	}
	if t := s.facts.tls; t != nil {
		more, err := tlsTLVs(t)
		if err != nil {
			return nil, err
		}
		tlvs = append(tlvs, more...)
	}
	return h, h.SetTLVs(tlvs)
}

// tlsTLVs are the fields that say how a client's connection is secured.
func tlsTLVs(t *tls.ConnectionState) ([]proxyproto.TLV, error) {
	ssl := tlvparse.PP2SSL{
		Client: tlvparse.PP2_BITFIELD_CLIENT_SSL,
		Verify: 1, // no client certificate was verified
		TLV: []proxyproto.TLV{
			{Type: proxyproto.PP2_SUBTYPE_SSL_VERSION, Value: []byte(proxyTLSVersion(t.Version))},
			{Type: proxyproto.PP2_SUBTYPE_SSL_CIPHER, Value: []byte(tls.CipherSuiteName(t.CipherSuite))},
		},
	}
	tlv, err := ssl.Marshal()
	if err != nil {
		return nil, err
	}
	tlvs := []proxyproto.TLV{tlv}
	if t.NegotiatedProtocol != "" {
		tlvs = append(tlvs, proxyproto.TLV{Type: proxyproto.PP2_TYPE_ALPN, Value: []byte(t.NegotiatedProtocol)})
	}
	if t.ServerName != "" {
		tlvs = append(tlvs, proxyproto.TLV{Type: proxyproto.PP2_TYPE_AUTHORITY, Value: []byte(t.ServerName)})
	}
	return tlvs, nil
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

// streamAddr makes a TCP address of a UDP one: the leg carries one stream of a
// QUIC connection, not its datagrams.
func streamAddr(a net.Addr) net.Addr {
	if udp, ok := a.(*net.UDPAddr); ok {
		return &net.TCPAddr{IP: udp.IP, Port: udp.Port, Zone: udp.Zone}
	}
	return a
}
