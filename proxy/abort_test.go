package proxy_test

import (
	"crypto/tls"
	"io"
	"net"
	"testing"
	"time"

	"imlb/proxy"
)

// stuckConn is a connection that takes its time to close, as TLS does that cannot send its
// close_notify.
type stuckConn struct {
	net.Conn
	closing, closed chan struct{}
}

func (c *stuckConn) Close() error {
	close(c.closing)
	<-c.closed
	return nil
}

// A session whose connections take long to close is held up by nothing but that, and does not
// take them to a loop any more.
func TestAbortWithStuckConn(t *testing.T) {
	t.Parallel()
	conn := &stuckConn{closing: make(chan struct{}), closed: make(chan struct{})}
	s := new(proxy.Session)
	s.Track(conn)
	over, left := make(chan struct{}), make(chan bool, 1)
	go func() {
		defer close(over)
		s.Abort()
	}()
	next(t, conn.closing, "closing")
	go func() { left <- s.LetGo() }()
	if next(t, left, "asked") {
		t.Error("the connections go to a loop while they are closed")
	}
	close(conn.closed)
	next(t, over, "over")
}

// A node that is spoken to in TLS learns of a session that is cut off by the end of TCP: nothing
// has to be sent for that, and it does not look like an end in order, also when the session, which
// sees its client's connection closed, comes first to the one to the node.
func TestAbortBeneathTLS(t *testing.T) {
	t.Parallel()
	cert, ca := certificate(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	far, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	secured := make(chan error, 1)
	go func() {
		secured <- tls.Server(far, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12, SessionTicketsDisabled: true}).Handshake()
	}()
	s, wire := new(proxy.Session), proxy.NewWire(conn.(*net.TCPConn))
	node := tls.Client(wire, nodeTLS(ca))
	if err := node.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := next(t, secured, "handshake"); err != nil {
		t.Fatal(err)
	}
	s.Track(noticedConn{close: node.Close})
	s.Track(wire)
	s.Abort()
	_ = far.SetReadDeadline(time.Now().Add(patience))
	if rest, err := io.ReadAll(far); err != nil || len(rest) > 0 {
		t.Errorf("the node read %d bytes and %v, want the end of TCP", len(rest), err)
	}
}

// noticedConn is a client's connection whose end the session has seen before Close returns.
type noticedConn struct {
	net.Conn
	close func() error
}

func (c noticedConn) Close() error { return c.close() }
