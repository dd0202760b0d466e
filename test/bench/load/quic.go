//go:build linux

package load

import (
	"context"
	"crypto/tls"
	"fmt"
	"sync"

	"github.com/quic-go/quic-go"
)

// alpn is the protocol on QUIC (XEP-0467).
const alpn = "xmpp-client"

// quicStanzas has messages echoed on the one stream of a QUIC connection.
func (c *streamClient) quicStanzas(ctx context.Context, t *tally) error {
	config := c.tls.Clone()
	config.NextProtos = []string{alpn}
	dialing, cancel := context.WithTimeout(ctx, stall)
	defer cancel()
	conn, err := quic.DialAddr(dialing, c.spec.Addr.String(), config, &quic.Config{})
	if err != nil {
		return fmt.Errorf("QUIC: %w", err)
	}
	defer func() { _ = conn.CloseWithError(0, "") }()
	if err := agreed(conn.ConnectionState().TLS); err != nil {
		return err
	}
	s, err := conn.OpenStreamSync(dialing)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { s.CancelRead(0) })()
	return c.exchange(ctx, s, c.opened.Add(1), t)
}

// serveQUIC serves the node's streams on a listener of its own until ctx ends.
func (n node) serveQUIC(ctx context.Context, listener *quic.Listener) error {
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		conn, err := listener.Accept(ctx)
		if err != nil {
			return nil //nolint:nilerr // it is at its end
		}
		conns.Go(func() { n.serveQUICConn(ctx, conn) })
	}
}

func (n node) serveQUICConn(ctx context.Context, conn *quic.Conn) {
	var streams sync.WaitGroup
	for {
		s, err := conn.AcceptStream(ctx)
		if err != nil {
			break
		}
		streams.Go(func() {
			defer s.Close()
			_ = n.answer(s)
		})
	}
	_ = conn.CloseWithError(0, "") // ends the streams
	streams.Wait()
}

func listenQUIC(config *tls.Config) (*quic.Listener, error) {
	config = config.Clone()
	config.NextProtos = []string{alpn}
	return quic.ListenAddr("127.0.0.1:0", config, &quic.Config{})
}
