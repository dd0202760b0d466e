package proxy_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/net/nettest"

	"imlb/proxy"
)

// A wire of which some bytes were looked at is a connection like any other, which
// begins with them.
func TestLookedAtWireIsConn(t *testing.T) {
	t.Parallel()
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		a, b := tcpPair(t)
		for _, c := range []net.Conn{a, b} {
			if _, err := c.Write([]byte("seen")); err != nil {
				return nil, nil, nil, err
			}
		}
		c1, c2 = proxy.NewWire(a), proxy.NewWire(b)
		for _, c := range []net.Conn{c1, c2} {
			if err := proxy.Look(c, len("seen")); err != nil {
				return nil, nil, nil, err
			}
			if _, err := io.ReadFull(c, make([]byte, len("seen"))); err != nil {
				return nil, nil, nil, err
			}
		}
		return c1, c2, func() { c1.Close(); c2.Close() }, nil
	})
}

// Bytes that were looked at come once, before those that come later, however little is
// read at a time.
func TestLookedAtWire(t *testing.T) {
	t.Parallel()
	a, b := tcpPair(t)
	defer a.Close()
	w := proxy.NewWire(b)
	defer w.Close()
	for _, part := range []string{"one ", "two "} {
		if _, err := a.Write([]byte(part)); err != nil {
			t.Fatal(err)
		}
		if err := proxy.Look(w, len(part)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := a.Write([]byte("three")); err != nil {
		t.Fatal(err)
	}
	a.Close()
	var got []byte
	for buf := make([]byte, 3); ; {
		n, err := w.Read(buf)
		got = append(got, buf[:n]...)
		if err != nil {
			break
		}
	}
	if string(got) != "one two three" {
		t.Errorf("read %q", got)
	}
}

// tcpPair returns both ends of a TCP connection.
func tcpPair(t *testing.T) (a, b *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c1, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c2, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return c1.(*net.TCPConn), c2.(*net.TCPConn)
}

// What of a WebSocket is a connection. nettest.TestConn as a whole asks for more than
// there is: it reads on after a read deadline has struck in the middle of a message,
// which the WebSocket's framing does not survive and the front never does, and it closes
// an end while the other does not read, where a WebSocket waits for its closing
// handshake. What the front relies on is here.
func TestWSConn(t *testing.T) {
	t.Parallel()
	t.Run("bytes", func(t *testing.T) {
		client, conn := wsPair(t)
		big := string(pattern(1 << 20))
		done := make(chan error, 1)
		go func() {
			_, err := io.Copy(conn, conn) // echo
			done <- err
		}()
		sent := make(chan error, 1)
		go func() {
			_, err := io.WriteString(client, big)
			sent <- err
		}()
		client.recv(big)
		if err := <-sent; err != nil {
			t.Fatal(err)
		}
		client.Close()
		if err := <-done; err != nil {
			t.Errorf("the end in order was %v", err)
		}
	})
	t.Run("read deadline between messages", func(t *testing.T) {
		client, conn := wsPair(t)
		for range 3 {
			if err := conn.SetReadDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
				t.Fatal(err)
			}
			n, err := conn.Read(make([]byte, 1))
			if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("read %d, %v", n, err)
			}
		}
		if err := conn.SetReadDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		go client.send("still")
		buf := make([]byte, 5)
		if _, err := io.ReadFull(conn, buf); err != nil || string(buf) != "still" {
			t.Errorf("read %q, %v", buf, err)
		}
	})
	t.Run("close wakes a read", func(t *testing.T) {
		_, conn := wsPair(t)
		done := make(chan error, 1)
		go func() {
			_, err := conn.Read(make([]byte, 1))
			done <- err
		}()
		conn.Close()
		if err := <-done; err == nil {
			t.Error("the read returned nothing")
		}
		if _, err := conn.Write([]byte("x")); err == nil {
			t.Error("wrote after Close")
		}
	})
	t.Run("write deadline", func(t *testing.T) {
		_, conn := wsPair(t)
		if err := conn.SetWriteDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		block := make([]byte, 1<<20)
		for {
			_, err := conn.Write(block)
			if err == nil {
				continue
			}
			return // the client does not read
		}
	})
	t.Run("addresses", func(t *testing.T) {
		_, conn := wsPair(t)
		if conn.LocalAddr() == nil || conn.RemoteAddr() == nil {
			t.Error("no addresses")
		}
	})
}

// wsPair returns a client, and the front's end of its WebSocket.
func wsPair(t *testing.T) (client *stream, conn net.Conn) {
	t.Helper()
	conns := make(chan net.Conn, 1)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		under, _ := r.Context().Value(underKey{}).(net.Conn)
		conns <- proxy.NewWSConn(r.Context(), ws, under)
	}))
	srv.Config.ConnContext = withUnder
	srv.Start()
	t.Cleanup(srv.Close)
	ws, resp, err := websocket.Dial(t.Context(), "ws"+srv.URL[len("http"):], nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp.Body != nil {
		_ = resp.Body.Close()
	}
	ws.SetReadLimit(-1)
	conn = <-conns
	client = (&wsClient{Conn: ws, t: t}).stream()
	t.Cleanup(func() { _ = ws.CloseNow(); conn.Close() }) // before the client would say good-bye
	return client, conn
}

// underKey finds the connection under a request.
type underKey struct{}

func withUnder(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, underKey{}, c)
}
