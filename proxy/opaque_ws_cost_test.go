package proxy_test

import (
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"imlb/proxy"
	"imlb/proxy/limit"
	"imlb/proxy/loop"
)

// A client that is slow to read, and talks meanwhile, gets all that its node has sent before
// the end, and the end.
func TestWSSlowReader(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("the system does not tell what a peer has acknowledged")
	}
	for name, c := range map[string]struct {
		protocol proxy.Protocol
		compress bool
	}{
		"ws":             {proxy.WS, false},
		"wss":            {proxy.WSS, false},
		"compressed ws":  {proxy.WS, true},
		"compressed wss": {proxy.WSS, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := startNode(t, "one")
			f := startOpaque(t, witnessOf(n), proxy.Listener{
				Protocol: c.protocol, WebSocket: proxy.WebSocket{Subprotocols: []string{""}, Compress: c.compress},
			}, nil)
			o := f.wsOptions(nil)
			if c.compress {
				o.CompressionMode = websocket.CompressionNoContextTakeover
			}
			ws := f.dialWith(c.protocol.String(), "/xmpp-websocket", o)
			leg := n.leg()
			all := incompressible(1 << 20)
			leg.send(all)
			leg.closeWrite()
			go io.Copy(io.Discard, leg)
			for began := time.Now(); time.Since(began) < 2*loop.AnswerTime+500*time.Millisecond; <-time.After(200 * time.Millisecond) {
				if err := ws.Write(t.Context(), websocket.MessageBinary, []byte("p")); err != nil {
					t.Fatal(err)
				}
			}
			got := ""
			for {
				_, msg, err := ws.next()
				if got += msg; err != nil {
					if got != all || websocket.CloseStatus(err) != websocket.StatusNormalClosure {
						t.Errorf("read %d of %d bytes, and then %v", len(got), len(all), err)
					}
					break
				}
			}
			f.ended("node-closed")
		})
	}
}

// A client that takes nothing of that is slow, for the log too.
func TestWSDeafAtTheEnd(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("the system does not tell what a peer has acknowledged")
	}
	for _, compress := range []bool{false, true} {
		n := startNode(t, "one")
		f := startOpaque(t, witnessOf(n), proxy.Listener{
			Protocol: proxy.WS, WebSocket: proxy.WebSocket{Subprotocols: []string{""}, Compress: compress},
		}, func(o *proxy.Options) { o.Timeouts.Write = 200 * time.Millisecond })
		o := f.wsOptions(nil)
		if compress {
			o.CompressionMode = websocket.CompressionNoContextTakeover
		}
		ws := f.dialWith("ws", "/xmpp-websocket", o)
		leg := n.leg()
		leg.send(incompressible(200 << 10)) // for which there is room
		leg.closeWrite()
		if err := ws.Write(t.Context(), websocket.MessageBinary, []byte("p")); err != nil {
			t.Fatal(err)
		}
		f.ended("slow-client")
	}
}

// incompressible returns n bytes of noise.
func incompressible(n int) string {
	p := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{}).Read(p)
	return string(p)
}

// What a WebSocket brings besides the bytes of its session counts for the limits, too.
func TestWSBytesBesides(t *testing.T) {
	t.Parallel()
	const burst, perSecond, flood = 6_000, 100_000, 6 * 9_000
	const least = time.Duration(flood-burst-6_000) * time.Second / perSecond
	change := func(o *proxy.Options) { o.Rules.User.In = limit.Bandwidth{PerSecond: perSecond, Burst: burst} }
	for name, frame := range map[string]string{"pings": "\x89\x80\x00\x00\x00\x00", "empty messages": "\x82\x80\x00\x00\x00\x00"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := startNode(t, "one")
			f := startOpaque(t, witnessOf(n), proxy.Listener{
				Protocol: proxy.WS, WebSocket: proxy.WebSocket{Subprotocols: []string{""}},
			}, change)
			c := f.dial()
			c.upgrade()
			leg := n.leg()
			began := time.Now()
			c.send(strings.Repeat(frame, flood/len(frame)) + "\x82\x81\x00\x00\x00\x00x")
			leg.recv("x")
			c.send("\x82\x81\x00\x00\x00\x00y")
			leg.recv("y")
			if took := time.Since(began); took < least {
				t.Errorf("%d bytes took %v, want %v at least", flood, took, least)
			}
			c.Close()
			leg.Close()
		})
	}
	t.Run("in a session of XMPP", func(t *testing.T) {
		t.Parallel()
		n, pick := onlyNode(t)
		client := startFront(t, pick, change).dialWS()
		node := loginWS(client, n)
		began := time.Now()
		for range flood / 6 {
			if err := client.ws.Write(t.Context(), websocket.MessageText, nil); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			client.send("<iq xmlns='jabber:client'/>")
			node.expect("<iq xmlns='jabber:client'/>")
		}
		if took := time.Since(began); took < least {
			t.Errorf("%d bytes took %v, want %v at least", flood, took, least)
		}
		client.close()
		node.reset()
	})
}
