package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/quic-go/quic-go"
)

// lingerTime is how long the front waits for a peer to end its side after it has
// ended its own.
const lingerTime = 2 * time.Second

// wire is the connection that carries a session, under TLS and framing. It
// knows whether the peer ever sent a byte.
type wire struct {
	net.Conn
	half interface{ CloseWrite() error }
	used atomic.Bool
}

// newWire returns the wire of an accepted connection.
func newWire(conn halfCloser) *wire { return &wire{Conn: conn, half: conn} }

// Read reads from the connection.
func (w *wire) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if n > 0 && !w.used.Load() {
		w.used.Store(true)
	}
	return n, err
}

// CloseWrite ends the sending side.
func (w *wire) CloseWrite() error { return w.half.CloseWrite() }

// past is a deadline that wakes whoever reads.
//
//nolint:gochecknoglobals // a constant in all but syntax
var past = time.Unix(1, 0)

// isTimeout tells whether a deadline passed.
func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// goneReason says how a client left, from the error of a read or write.
func goneReason(err error) Reason {
	var app *quic.ApplicationError
	var idle *quic.IdleTimeoutError
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		// A TCP FIN without TLS's close_notify is how many clients leave.
		return ReasonClientClosed
	case errors.As(err, &app) && app.Remote && app.ErrorCode == 0:
		return ReasonClientClosed
	case errors.As(err, &idle), errors.Is(err, syscall.ETIMEDOUT):
		return ReasonClientLost
	default:
		return ReasonClientReset
	}
}

// tlsServer makes conn the server side of TLS.
func tlsServer(ctx context.Context, conn net.Conn, cfg *tls.Config) (*tls.Conn, error) {
	t := tls.Server(conn, cfg)
	return t, t.HandshakeContext(ctx)
}
