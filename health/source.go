package health

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
)

// From is a check whose connections come from an address of this machine: the first of
// Addrs that is of the kind, IPv4 or IPv6, of the node's.
type From struct {
	Addrs []netip.Addr
	Check Check
}

// Probe implements [Check].
func (f From) Probe(ctx context.Context, e Endpoint) (*Answer, error) {
	return f.Check.Probe(context.WithValue(ctx, sourceKey{}, f.Addrs), e)
}

// sourceKey is the key of Addrs in the context of a check. It is there because a dial may be
// several layers down, in package http.
type sourceKey struct{}

// errNoSource is the error of a dial to an address that none of Addrs is of the kind of.
var errNoSource = errors.New("no source address is of this kind (IPv4 or IPv6)")

// dialFrom connects to an address, from where the context says.
func dialFrom(ctx context.Context, network, addr string) (net.Conn, error) {
	sources, _ := ctx.Value(sourceKey{}).([]netip.Addr)
	if len(sources) == 0 {
		var d net.Dialer
		return d.DialContext(ctx, network, addr)
	}
	failed := errNoSource
	for _, source := range sources {
		d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(source, 0))}
		conn, err := d.DialContext(ctx, network, addr)
		var unfit *net.AddrError
		if errors.As(err, &unfit) { // it is of the other kind
			failed = fmt.Errorf("%w: %w", errNoSource, err)
			continue
		}
		return conn, err
	}
	return nil, failed
}
