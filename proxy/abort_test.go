package proxy_test

import (
	"context"
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
// has to be sent for that, and it does not look like an end in order.
func TestAbortBeneathTLS(t *testing.T) {
	t.Parallel()
	n, pick := onlyNode(t)
	cert, ca := certificate(t)
	f := startFront(t, pick, func(o *proxy.Options) {
		o.Pools = map[string]proxy.Pool{"nodes": {Picker: pick, DialTimeout: patience, TLS: nodeTLS(ca)}}
	})
	client := begin(f, plain("alice", "secret"))
	leg := n.secure(cert)
	atNode := newPeer(t, leg.Conn)
	atNode.offer()
	atNode.expect(plain("alice", "secret")) // which it does not answer
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.Shutdown(ctx); err == nil {
		t.Error("an interrupted shutdown returned no error")
	}
	_ = leg.SetReadDeadline(time.Now().Add(patience))
	if rest, err := io.ReadAll(leg.tcp()); err != nil || len(rest) > 0 {
		t.Errorf("the node read %d bytes and %v, want the end of TCP", len(rest), err)
	}
	client.close()
	f.record()
}
