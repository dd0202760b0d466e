package proxy_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"

	"github.com/quic-go/quic-go"
	"golang.org/x/net/nettest"

	"imlb/proxy"
)

func TestWireIsConn(t *testing.T) {
	t.Parallel()
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, nil, nil, err
		}
		defer ln.Close()
		c1, err = net.Dial("tcp", ln.Addr().String())
		if err != nil {
			return nil, nil, nil, err
		}
		c2, err = ln.Accept()
		if err != nil {
			return nil, nil, nil, err
		}
		c1, c2 = proxy.NewWire(c1.(*net.TCPConn)), proxy.NewWire(c2.(*net.TCPConn))
		return c1, c2, func() { c1.Close(); c2.Close() }, nil
	})
}

func TestQUICConnIsConn(t *testing.T) {
	t.Parallel()
	client, server := quicPair(t)
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		c1, c2 = quicStreams(t, client, server)
		return c1, c2, func() { c1.Close(); c2.Close() }, nil
	})
}

// quicPair returns both ends of a QUIC connection.
func quicPair(t *testing.T) (client, server *quic.Conn) {
	t.Helper()
	cert, ca := certificate(t)
	ln, err := quic.ListenAddr("127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{cert}, NextProtos: []string{"x"}, MinVersion: tls.VersionTLS13,
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	client, err = quic.DialAddr(ctx, ln.Addr().String(), &tls.Config{
		RootCAs: ca, ServerName: "example.com", NextProtos: []string{"x"}, MinVersion: tls.VersionTLS13,
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.CloseWithError(0, "") })
	server, err = ln.Accept(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return client, server
}

// quicStreams returns both ends of a new stream. A stream exists for the other
// side from its first byte, which is taken out again.
func quicStreams(t *testing.T, client, server *quic.Conn) (c1, c2 net.Conn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	s1, err := client.OpenStreamSync(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s1.Write([]byte{0}); err != nil {
		t.Fatal(err)
	}
	s2, err := server.AcceptStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(s2, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return proxy.NewQUICConn(client, s1), proxy.NewQUICConn(server, s2)
}

// A stream that was closed has all that was written to it, and then its end. One
// whose Write was interrupted must not look whole.
func TestQUICConnEnds(t *testing.T) {
	t.Parallel()
	client, server := quicPair(t)
	t.Run("whole", func(t *testing.T) {
		c1, c2 := quicStreams(t, client, server)
		defer c2.Close()
		if _, err := c1.Write([]byte("all")); err != nil {
			t.Fatal(err)
		}
		c1.Close()
		if got, err := io.ReadAll(c2); string(got) != "all" || err != nil {
			t.Errorf("got %q and %v", got, err)
		}
	})
	t.Run("half", func(t *testing.T) {
		c1, c2 := quicStreams(t, client, server)
		defer c1.Close()
		defer c2.Close()
		if err := c1.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if _, err := c1.Write([]byte("more")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("wrote after CloseWrite: %v", err)
		}
		if got, err := io.ReadAll(c2); len(got) > 0 || err != nil {
			t.Errorf("got %q and %v", got, err)
		}
		if _, err := c2.Write([]byte("back")); err != nil {
			t.Fatal(err)
		}
		c2.Close()
		if got, err := io.ReadAll(c1); string(got) != "back" || err != nil {
			t.Errorf("got %q and %v back", got, err)
		}
	})
	t.Run("torn", func(t *testing.T) {
		c1, c2 := quicStreams(t, client, server)
		defer c2.Close()
		wrote := make(chan error, 1)
		go func() {
			_, err := c1.Write(make([]byte, 32<<20)) // more than any window
			wrote <- err
		}()
		if _, err := io.ReadFull(c2, make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
		c1.Close()
		if err := <-wrote; !errors.Is(err, net.ErrClosed) {
			t.Errorf("the interrupted Write returned %v", err)
		}
		_, err := io.Copy(io.Discard, c2)
		var reset *quic.StreamError
		if !errors.As(err, &reset) {
			t.Errorf("the other side got %v, want a reset", err)
		}
	})
}
