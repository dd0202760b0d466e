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
	// Header is the version of the PROXY header that is sent; 0: none. It says LOCAL, in
	// version 1 UNKNOWN, by which the node knows that this is a check and nothing else
	// will follow.
	Header byte
}

// Probe implements [Check].
func (c TCPCheck) Probe(ctx context.Context, e Endpoint) (*Answer, error) {
	conn, err := Opening{}.dial(ctx, e)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if c.Header == 0 {
		return nil, nil
	}
	header := proxyproto.Header{Version: c.Header, Command: proxyproto.LOCAL, TransportProtocol: proxyproto.UNSPEC}
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
	// Header is the version of the PROXY header that is sent first; 0: none.
	Header byte
}

// Probe implements [Check].
func (c TLSCheck) Probe(ctx context.Context, e Endpoint) (*Answer, error) {
	config := c.Config
	if config == nil {
		config = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	conn, err := Opening{Header: c.Header, TLS: config}.dial(ctx, e)
	if err != nil {
		return nil, err
	}
	conn.Close()
	return nil, nil
}

// Opening is how a check begins at the node's session address: as sessions do.
type Opening struct {
	// Header is the version of the PROXY header that is sent first, as of a client that
	// came in TLS where the version can say so; 0: none.
	Header byte
	// TLS, if set, is made next. An empty ServerName is the host of the address.
	TLS *tls.Config
}

// errNobody is the error of a check that found nobody at the session address.
var errNobody = errors.New("nobody listens")

// dial connects to the node's session address until ctx is done at most, and begins.
func (o Opening) dial(ctx context.Context, e Endpoint) (net.Conn, error) {
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
	secured, err := o.begin(ctx, conn, e)
	if err != nil {
		conn.Close()
	}
	return secured, err
}

// begin sends the header and makes TLS, as far as they are wanted.
func (o Opening) begin(ctx context.Context, conn net.Conn, e Endpoint) (net.Conn, error) {
	if o.Header != 0 {
		if err := sendProxyHeader(conn, o.Header); err != nil {
			return nil, fmt.Errorf("send PROXY header: %w", err)
		}
	}
	if o.TLS == nil {
		return conn, nil
	}
	config := o.TLS.Clone()
	if config.ServerName == "" {
		config.ServerName, _, _ = net.SplitHostPort(e.Addr) // it could be dialed
	}
	secured := tls.Client(conn, config)
	if err := secured.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	return secured, nil
}

// sendProxyHeader presents us as a client that came in TLS, so that a node offers
// what it offers clients. Version 1 has addresses alone.
func sendProxyHeader(conn net.Conn, version byte) error {
	header := proxyproto.HeaderProxyFromAddrs(version, conn.LocalAddr(), conn.RemoteAddr())
	if version == 1 {
		_, err := header.WriteTo(conn)
		return err
	}
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
