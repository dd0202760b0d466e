package health

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"github.com/pires/go-proxyproto"
	"github.com/pires/go-proxyproto/tlvparse"
)

// TCPCheck opens a connection to the node's session address.
type TCPCheck struct {
	// ProxyHeader sends a PROXY v2 header with the LOCAL command, by which the
	// node knows that this is a check and nothing else will follow.
	ProxyHeader bool
}

// Probe implements [Check].
func (c TCPCheck) Probe(ctx context.Context, e Endpoint) (*Answer, error) {
	conn, err := dial(ctx, e, false)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if !c.ProxyHeader {
		return nil, nil
	}
	header := proxyproto.Header{Version: 2, Command: proxyproto.LOCAL, TransportProtocol: proxyproto.UNSPEC}
	if _, err := header.WriteTo(conn); err != nil {
		return nil, fmt.Errorf("send PROXY header: %w", err)
	}
	return nil, nil
}

// TLSCheck makes a TLS handshake at the node's session address.
type TLSCheck struct {
	// Config says what is verified and offered; nil is the usual. An empty
	// ServerName is the host of the address.
	Config *tls.Config
	// ProxyHeader sends a PROXY v2 header first, with our own address as the client's.
	ProxyHeader bool
}

// Probe implements [Check].
func (c TLSCheck) Probe(ctx context.Context, e Endpoint) (*Answer, error) {
	conn, err := dial(ctx, e, c.ProxyHeader)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.Config != nil {
		config = c.Config.Clone()
	}
	if config.ServerName == "" {
		config.ServerName, _, _ = net.SplitHostPort(e.Addr) // it could be dialed
	}
	if err := tls.Client(conn, config).HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	return nil, nil
}

// errNobody is the error of a check that found nobody at the session address.
var errNobody = errors.New("nobody listens")

// dial connects to the node's session address until ctx is done at most, and sends
// a PROXY v2 header if wanted.
func dial(ctx context.Context, e Endpoint, proxyHeader bool) (net.Conn, error) {
	conn, err := dialFrom(ctx, "tcp", e.Addr)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return nil, fmt.Errorf("%w: %w", errNobody, err)
	}
	if err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		conn.SetDeadline(deadline)
	}
	if proxyHeader {
		err = sendProxyHeader(conn)
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("send PROXY header: %w", err)
	}
	return conn, nil
}

// sendProxyHeader presents us as a client that came in TLS, so that a node offers
// what it offers clients.
func sendProxyHeader(conn net.Conn) error {
	header := proxyproto.HeaderProxyFromAddrs(2, conn.LocalAddr(), conn.RemoteAddr())
	ssl, err := tlvparse.PP2SSL{
		Client: tlvparse.PP2_BITFIELD_CLIENT_SSL,
		Verify: 1, // no client certificate was verified
		TLV:    []proxyproto.TLV{{Type: proxyproto.PP2_SUBTYPE_SSL_VERSION, Value: []byte("TLSv1.3")}},
	}.Marshal()
	if err != nil {
		return err
	}
	id := proxyproto.TLV{Type: proxyproto.PP2_TYPE_UNIQUE_ID, Value: []byte(fmt.Sprintf("check-%x", time.Now().UnixNano()))}
	if err := header.SetTLVs([]proxyproto.TLV{ssl, id}); err != nil {
		return err
	}
	_, err = header.WriteTo(conn)
	return err
}
