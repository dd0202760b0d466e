package proxy_test

import (
	"bufio"
	"context"
	"io"
	"testing"
	"time"

	"imlb/proxy"
	"imlb/proxy/loop"
)

// plainAndCompressed runs a test with a client on an opaque WebSocket and a node, once for
// sessions on loops and once for those that goroutines carry.
func plainAndCompressed(
	t *testing.T, change func(*proxy.Options), run func(t *testing.T, f *front, n *node, c *stream, said *bufio.Reader),
) {
	t.Helper()
	for name, compress := range map[string]bool{"plain": false, "compressed": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := startNode(t, "one")
			f := startOpaque(t, witnessOf(n), proxy.Listener{
				Protocol: proxy.WS, WebSocket: proxy.WebSocket{Subprotocols: []string{""}, Compress: compress},
			}, change)
			c := f.dial()
			run(t, f, n, c, c.upgrade("Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover; server_no_context_takeover"))
		})
	}
}

// When the front stops, the client of a WebSocket is told why, and what it had on its way
// goes to its node.
func TestWSDrained(t *testing.T) {
	t.Parallel()
	plainAndCompressed(t, nil, func(t *testing.T, f *front, n *node, c *stream, said *bufio.Reader) {
		leg := n.leg()
		c.send("\x82\x86\x00\x00\x00\x00before")
		leg.recv("before")
		done := make(chan error, 1)
		go func() { done <- f.Shutdown(context.WithoutCancel(t.Context())) }()
		const farewell = "\x88\x0a\x03\xf4shutdown"
		closing := make([]byte, len(farewell))
		if _, err := io.ReadFull(said, closing); err != nil || string(closing) != farewell {
			t.Fatalf("got %q, %v", closing, err)
		}
		c.send("\x82\x85\x00\x00\x00\x00after\x88\x82\x00\x00\x00\x00\x03\xf4")
		leg.recv("after")
		leg.end()
		f.ended("shutdown")
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A client that has ended its WebSocket hears nothing of its node any more, for which nobody
// waits when the front stops.
func TestWSDrainedAfterEnd(t *testing.T) {
	t.Parallel()
	plainAndCompressed(t, nil, func(t *testing.T, f *front, n *node, c *stream, _ *bufio.Reader) {
		leg := n.leg()
		c.send("\x82\x86\x00\x00\x00\x00before")
		leg.recv("before")
		c.send("\x88\x82\x00\x00\x00\x00\x03\xe8")
		leg.end()
		if err := f.Shutdown(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
		if r := f.ended("shutdown"); r["cause"] != "" {
			t.Errorf("logged %v", r)
		}
	})
}

// A client that does not answer the end of its WebSocket is waited for only while there is
// patience.
func TestWSUnanswered(t *testing.T) {
	t.Parallel()
	plainAndCompressed(t, func(o *proxy.Options) { o.Timeouts.Idle = 50 * time.Millisecond }, func(t *testing.T, f *front, n *node, c *stream, said *bufio.Reader) {
		n.leg().end()
		if op, err := said.ReadByte(); op != 0x88 || err != nil {
			t.Fatalf("got %#x, %v, want a close frame", op, err)
		}
		began := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_ = f.Shutdown(ctx) // which cannot wait
		if took := time.Since(began); took > loop.AnswerTime/2 {
			t.Errorf("the front stopped after %v", took)
		}
	})
}
