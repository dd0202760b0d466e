//go:build linux

package peers

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
)

// Copy is the proxy that everybody writes first: it accepts connections at an
// address, in TLS when there are files of a certificate and its key, connects each
// to the backend and copies. It serves until ctx ends.
func Copy(ctx context.Context, out io.Writer, listen, backend string, certAndKey ...string) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp4", listen)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	if len(certAndKey) == 2 {
		if l, err = secure(l, certAndKey[0], certAndKey[1]); err != nil {
			return err
		}
	}
	fmt.Fprintln(out, "ready")
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		go join(ctx, conn, backend)
	}
}

func secure(l net.Listener, certFile, keyFile string) (net.Listener, error) {
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, err
	}
	return tls.NewListener(l, &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}}), nil
}

type halfCloser interface {
	net.Conn
	CloseWrite() error
}

func join(ctx context.Context, conn net.Conn, backend string) {
	defer conn.Close()
	var dialer net.Dialer
	other, err := dialer.DialContext(ctx, "tcp4", backend)
	if err != nil {
		return
	}
	defer other.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		pass(other, conn)
	}()
	pass(conn, other)
	<-done
}

// pass copies one direction, and passes on its end.
func pass(to, from net.Conn) {
	_, err := io.Copy(to, from)
	if h, ok := to.(halfCloser); ok && err == nil {
		_ = h.CloseWrite()
		return
	}
	_ = to.Close()
	_ = from.Close()
}
