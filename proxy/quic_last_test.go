package proxy_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"imlb/proxy"
	"imlb/proxy/limit"
)

// startQUIC starts a front whose only listener carries QUIC streams as they are, and a node.
func startQUIC(t *testing.T, change func(*proxy.Options)) (*front, *node) {
	t.Helper()
	n := startNode(t, "one")
	return startOpaque(t, witnessOf(n), proxy.Listener{Protocol: proxy.QUIC, ALPN: []string{"chat"}}, change), n
}

// lastWords has a session on a connection end with something for the client to read.
func (f *front) lastWords(conn *quic.Conn, n *node, words string) *stream {
	f.t.Helper()
	client := f.streamOn(conn)
	client.send("question")
	leg := n.leg()
	leg.recv("question")
	client.closeWrite()
	leg.end()
	leg.send(words)
	leg.closeWrite()
	f.ended("client-closed")
	return client
}

// wantClosed checks that the front has closed a connection, with that code.
func wantClosed(t *testing.T, conn *quic.Conn, code quic.ApplicationErrorCode) {
	t.Helper()
	var app *quic.ApplicationError
	if err := closed(conn); !errors.As(err, &app) || !app.Remote || app.ErrorCode != code {
		t.Errorf("the connection ended with %v, want code %d", err, code)
	}
}

// What the last session of a connection sent last is there for its client, whatever becomes
// of places, and if that takes longer than it may take to log in.
func TestQUICLastWords(t *testing.T) {
	t.Parallel()
	words := string(pattern(100_000))
	t.Run("no place is free", func(t *testing.T) {
		t.Parallel()
		f, n := startQUIC(t, func(o *proxy.Options) {
			o.Rules.Listeners = map[string]limit.Listener{"x": {Scope: limit.Scope{Unauthenticated: 1}}}
		})
		conn := f.dialOpaqueQUIC()
		client := f.streamOn(conn)
		client.send("question")
		leg := n.leg()
		leg.recv("question")
		f.dialOpaqueQUIC() // takes the place of who has not logged in
		f.countsOf("x", "another connection", 2, 1)
		client.closeWrite()
		leg.end()
		leg.send(words)
		leg.closeWrite()
		f.ended("client-closed")
		client.recv(words)
		client.end()
	})
	t.Run("time passes", func(t *testing.T) {
		t.Parallel()
		const handshake = 300 * time.Millisecond
		f, n := startQUIC(t, func(o *proxy.Options) { o.Timeouts.Handshake = handshake })
		conn := f.dialOpaqueQUIC()
		client := f.lastWords(conn, n, words)
		select {
		case <-conn.Context().Done():
		case <-time.After(2 * handshake):
		}
		client.recv(words)
		client.end()
	})
	t.Run("the front stops", func(t *testing.T) {
		t.Parallel()
		f, n := startQUIC(t, nil)
		conn := f.dialOpaqueQUIC()
		client := f.lastWords(conn, n, words)
		done := make(chan error, 1)
		go func() { done <- f.Shutdown(context.WithoutCancel(t.Context())) }()
		client.recv(words)
		client.end()
		if err := conn.CloseWithError(0, ""); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A client has as long to read what it was sent as it always has, and is not told then that
// all is in order. So it is when the front stops, for which there is less time.
func TestQUICLeft(t *testing.T) {
	t.Parallel()
	t.Run("time passes", func(t *testing.T) {
		t.Parallel()
		f, n := startQUIC(t, func(o *proxy.Options) { o.Timeouts.Write = 100 * time.Millisecond })
		conn := f.dialOpaqueQUIC()
		f.lastWords(conn, n, "bye")
		wantClosed(t, conn, 3)
	})
	t.Run("the front stops", func(t *testing.T) {
		t.Parallel()
		f, n := startQUIC(t, nil)
		conn := f.dialOpaqueQUIC()
		f.lastWords(conn, n, "bye")
		if err := f.Shutdown(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
		wantClosed(t, conn, 3)
	})
}

// A connection that wants another session, for which there is no place, is ended when its
// client has had time to read what it was sent before, and no later if it tries on.
func TestQUICNoPlace(t *testing.T) {
	t.Parallel()
	f, n := startQUIC(t, func(o *proxy.Options) {
		o.Rules.Listeners = map[string]limit.Listener{"x": {Scope: limit.Scope{Unauthenticated: 1}}}
	})
	conn := f.dialOpaqueQUIC()
	client := f.lastWords(conn, n, "bye")
	other := f.dialOpaqueQUIC() // takes the place of who has not logged in
	f.countsOf("x", "another connection", 2, 1)
	for range 3 {
		f.streamOn(conn).send("question")
		f.ended("too-many")
	}
	client.recv("bye")
	client.end()
	wantClosed(t, conn, 2)
	if err := context.Cause(other.Context()); err != nil {
		t.Errorf("the other connection has ended, too: %v", err)
	}
}

// Of connections that have no session any more there is a bounded number, too.
func TestQUICLeftCrowd(t *testing.T) {
	t.Parallel()
	f, n := startQUIC(t, func(o *proxy.Options) { o.Timeouts.Write = time.Hour })
	first := f.dialOpaqueQUIC()
	f.lastWords(first, n, "bye")
	for range proxy.QUICUnused {
		f.lastWords(f.dialOpaqueQUIC(), n, "bye")
	}
	for first.Context().Err() == nil && !t.Failed() {
		f.lastWords(f.dialOpaqueQUIC(), n, "bye")
	}
	wantClosed(t, first, 2)
}

// Sessions whose nodes do not read keep those from nothing that share their connection.
func TestQUICStalledStreams(t *testing.T) {
	t.Parallel()
	f, n := startQUIC(t, nil)
	conn := f.dialOpaqueQUIC()
	start := func() (*stream, *leg) {
		client := f.streamOn(conn)
		client.send("hello")
		leg := n.leg()
		leg.recv("hello")
		return client, leg
	}
	for range 3 {
		client, leg := start()
		leg.room(64 << 10)
		client.fill(64 << 20)
	}
	client, leg := start()
	for _, words := range []string{"one", string(pattern(200_000)), "three"} {
		client.send(words)
		leg.recv(words)
	}
}

// A client that closes its connection before the end of its stream has not sent all: its
// node must not take what it got for that, however polite the client was (RFC 9000 §10.2).
func TestQUICClosedEarly(t *testing.T) {
	t.Parallel()
	f, n := startQUIC(t, nil)
	conn := f.dialOpaqueQUIC()
	client := f.streamOn(conn)
	client.send("half of")
	leg := n.leg()
	leg.recv("half of")
	if err := conn.CloseWithError(0, ""); err != nil {
		t.Fatal(err)
	}
	leg.broken()
	if r := f.ended("client-closed"); !strings.Contains(r["cause"], "(remote)") {
		t.Errorf("logged %v", r)
	}
}
