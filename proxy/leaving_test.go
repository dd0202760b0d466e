package proxy_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"imlb/proxy"
)

// parking is a picker that has no room before it is told to.
type parking struct {
	*picker
	asked chan string   // whom it was asked for
	left  chan error    // why it was not waited for any longer
	room  chan struct{} // holds what there is
}

func parkingOf(nodes ...*node) *parking {
	return &parking{picker: &witnessOf(nodes...).picker, asked: make(chan string, 10), left: make(chan error, 10), room: make(chan struct{}, 10)}
}

func (p *parking) Pick(ctx context.Context, user string, tried []string) (proxy.Choice, error) {
	p.asked <- user
	select {
	case <-p.room:
		return p.picker.Pick(ctx, user, tried)
	case <-ctx.Done():
		p.left <- ctx.Err()
		return proxy.Choice{}, fmt.Errorf("%w: %w", proxy.ErrNoNode, ctx.Err())
	}
}

// next waits until the front has asked, or has given up.
func next[T any](t testing.TB, ch <-chan T, what string) (v T) {
	t.Helper()
	select {
	case v = <-ch:
	case <-time.After(patience):
		t.Fatal("not " + what)
	}
	return v
}

// leaver is a client that waits for a node, and the ways in which it may leave.
type leaver struct {
	front func(t *testing.T, pick proxy.Picker, change func(*proxy.Options)) *front
	comes func(f *front) (leaves func())
	want  string
}

func startXMPP(t *testing.T, pick proxy.Picker, change func(*proxy.Options)) *front {
	t.Helper()
	return startFront(t, pick, change)
}

func startOn(l proxy.Listener) func(*testing.T, proxy.Picker, func(*proxy.Options)) *front {
	return func(t *testing.T, pick proxy.Picker, change func(*proxy.Options)) *front {
		t.Helper()
		return startOpaque(t, pick, l, change)
	}
}

// leavers leave in all ways that say that they are gone.
func leavers(t *testing.T) map[string]leaver {
	t.Helper()
	const hello = "LOGIN alice\r\nhello"
	secret := plain("alice", "secret")
	logsIn := func(client *peer) *peer {
		client.send(streamOpen)
		client.expect(frontHeader + frontOffer)
		client.send(secret)
		return client
	}
	ends := func(client *peer, says, hears string) func() {
		return func() {
			client.send(says)
			client.expect(hears) // for which it waits before it closes anything
			client.close()
		}
	}
	onWS := func(f *front) *peer {
		client := f.dialWS()
		client.send(wsOpen)
		client.expect(wsHeader + wsElement(frontOffer))
		client.send(secret)
		return client
	}
	ws := proxy.Listener{Protocol: proxy.WS, WebSocket: proxy.WebSocket{Path: "/", Subprotocols: []string{""}}}
	packed, knowing := ws, ws
	knowing.Identify = byMQTT()
	packed.WebSocket.Compress = true
	mqtt, mqtts := proxy.Listener{Protocol: proxy.MQTT, Identify: byMQTT()}, proxy.Listener{Protocol: proxy.MQTTS, Identify: byMQTT()}
	says := func(client *stream, what string) func() {
		client.send(what)
		return client.reset
	}
	connect := mqttConnect(5, "phone", "alice")
	return map[string]leaver{
		"XMPP, reset":                {startXMPP, func(f *front) func() { return begin(f, secret).reset }, "client-reset"},
		"XMPP, closed":               {startXMPP, func(f *front) func() { return begin(f, secret).close }, "client-closed"},
		"XMPP, without a word":       {startXMPP, func(f *front) func() { c := begin(f, secret); return func() { closeBeneath(c.conn) } }, "client-closed"},
		"XMPP, ended":                {startXMPP, func(f *front) func() { return ends(begin(f, secret), " "+streamEnd, streamEnd) }, "client-closed"},
		"STARTTLS":                   {startXMPP, func(f *front) func() { return logsIn(f.dialStartTLS()).close }, "client-closed"},
		"STARTTLS, ended":            {startXMPP, func(f *front) func() { return ends(logsIn(f.dialStartTLS()), streamEnd, streamEnd) }, "client-closed"},
		"XMPP on a WebSocket":        {startXMPP, func(f *front) func() { c := onWS(f); return func() { _ = c.ws.CloseNow() } }, "client-closed"},
		"XMPP on a WebSocket, ended": {startXMPP, func(f *front) func() { return ends(onWS(f), wsClose, wsClose) }, "client-closed"},
		"XMPP on a WebSocket, closed": {startXMPP, func(f *front) func() {
			c := onWS(f)
			return func() { _ = c.ws.Close(websocket.StatusNormalClosure, "") }
		}, "client-closed"},
		"XMPP on QUIC, stream": {startXMPP, func(f *front) func() { return logsIn(f.openQUIC(f.dialQUIC())).close }, "client-closed"},
		"XMPP on QUIC, ended":  {startXMPP, func(f *front) func() { return ends(logsIn(f.openQUIC(f.dialQUIC())), streamEnd, streamEnd) }, "client-closed"},
		"XMPP on QUIC, closed": {startXMPP, func(f *front) func() {
			c := f.dialQUIC()
			logsIn(f.openQUIC(c))
			return func() { _ = c.CloseWithError(0, "") }
		}, "client-closed"},
		"XMPP on QUIC, aborted": {startXMPP, func(f *front) func() {
			c := f.dialQUIC()
			logsIn(f.openQUIC(c))
			return func() { _ = c.CloseWithError(9, "") }
		}, "client-reset"},

		"TCP":         {startOn(proxy.Listener{Protocol: proxy.TCP, Identify: byLine(t)}), func(f *front) func() { return says(f.dial(), hello) }, "client-reset"},
		"TCP, silent": {startOn(proxy.Listener{Protocol: proxy.TCP}), func(f *front) func() { return f.dial().reset }, "probe"},
		"TLS":         {startOn(proxy.Listener{Protocol: proxy.TLS}), func(f *front) func() { return says(f.dialSecure(f.clientTLS()), hello) }, "client-reset"},
		"MQTT":        {startOn(mqtt), func(f *front) func() { return says(f.dial(), connect) }, "client-reset"},
		"MQTTS":       {startOn(mqtts), func(f *front) func() { return says(f.dialSecure(f.clientTLS("mqtt")), connect) }, "client-reset"},
		"QUIC": {startOn(proxy.Listener{Protocol: proxy.QUIC, ALPN: []string{"chat"}, Identify: byLine(t)}), func(f *front) func() {
			conn := f.dialOpaqueQUIC()
			f.streamOn(conn).send(hello)
			return func() { _ = conn.CloseWithError(0, "") }
		}, "client-closed"},
		"QUIC, stream": {startOn(proxy.Listener{Protocol: proxy.QUIC, ALPN: []string{"chat"}, Identify: byLine(t)}), func(f *front) func() {
			s, err := f.dialOpaqueQUIC().OpenStream()
			if err == nil {
				_, err = s.Write([]byte(hello))
			}
			if err != nil {
				f.t.Fatal(err)
			}
			return func() { s.CancelWrite(1) }
		}, "client-reset"},
		"WebSocket, closed": {startOn(ws), func(f *front) func() {
			c := f.dialOpaqueWS("/")
			return func() { go c.Close(websocket.StatusGoingAway, "") }
		}, "client-closed"},
		"WebSocket, known": {startOn(knowing), func(f *front) func() {
			c := f.dialOpaqueWS("/")
			c.stream().send(connect)
			return func() { go c.Close(websocket.StatusNormalClosure, "") }
		}, "client-closed"},
		"WebSocket, without a word": {startOn(ws), func(f *front) func() {
			c := f.dialOpaqueWS("/")
			return func() { _ = c.CloseNow() }
		}, "client-closed"},
		"WebSocket, compressed": {startOn(packed), func(f *front) func() {
			o := f.wsOptions(nil)
			o.CompressionMode = websocket.CompressionNoContextTakeover
			c := f.dialWith("ws", "/", o)
			return func() { _ = c.CloseNow() }
		}, "client-closed"},
	}
}

// closeBeneath closes TCP without a word of TLS.
func closeBeneath(conn net.Conn) { _ = conn.(*tls.Conn).NetConn().Close() }

// Who leaves while its session waits for a node is gone at once, with all that it counted for.
func TestLeavesWhileItWaits(t *testing.T) {
	t.Parallel()
	for name, test := range leavers(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := startNode(t, "one")
			pick := parkingOf(n)
			f := test.front(t, pick, func(o *proxy.Options) {
				o.Pools = map[string]proxy.Pool{"nodes": {Picker: pick, DialTimeout: patience, Park: time.Hour}}
				if !strings.Contains(name, "QUIC") { // on which the connection has the place
					o.Rules.Source.Concurrent = 1
				}
			})
			for range 2 { // the second one finds the place of the first one free
				leaves := test.comes(f)
				next(t, pick.asked, "asked for a node")
				leaves()
				next(t, pick.left, "given up")
				f.ended(test.want)
			}
			n.idle()
		})
	}
}

// Who has ended its side of what can be ended by halves still waits: what it has said is the node's.
func TestWaitsWithHalfAnEnd(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		listener proxy.Listener
		says     string
		client   func(f *front) *stream
	}{
		"TCP":  {proxy.Listener{Protocol: proxy.TCP}, "hello", (*front).dial},
		"TLS":  {proxy.Listener{Protocol: proxy.TLS}, "hello", func(f *front) *stream { return f.dialSecure(f.clientTLS()) }},
		"MQTT": {proxy.Listener{Protocol: proxy.MQTT, Identify: byMQTT()}, mqttConnect(4, "phone", "alice") + "\xe0\x00", (*front).dial},
		"QUIC": {proxy.Listener{Protocol: proxy.QUIC, ALPN: []string{"chat"}}, "hello", (*front).openOpaqueQUIC},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := startNode(t, "one")
			pick := parkingOf(n)
			f := startOpaque(t, pick, test.listener, waits(pick, time.Hour))
			client := test.client(f)
			client.send(test.says)
			next(t, pick.asked, "asked for a node")
			client.closeWrite()
			pick.room <- struct{}{}
			leg := n.leg()
			leg.recv(test.says)
			leg.end()
			leg.send("bye")
			leg.Close()
			client.recv("bye")
			client.end()
			client.Close()
			f.record()
		})
	}
}

// What the client of a WebSocket has said before it left is the node's as well.
func TestLeavesWithLastWords(t *testing.T) {
	t.Parallel()
	n := startNode(t, "one")
	pick := parkingOf(n)
	f := startOpaque(t, pick, proxy.Listener{Protocol: proxy.WS, WebSocket: proxy.WebSocket{Path: "/", Subprotocols: []string{""}}}, waits(pick, time.Hour))
	c := f.dialOpaqueWS("/")
	next(t, pick.asked, "asked for a node")
	c.stream().send("hello")
	_ = c.CloseNow()
	pick.room <- struct{}{}
	leg := n.leg()
	leg.recv("hello")
	leg.end()
	leg.Close()
	f.ended("client-closed")
}

// A node that is being spoken to is left at once, and nothing is said of it.
func TestLeavesWhileNodeIsDialled(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]leaver{
		"XMPP": {startXMPP, func(f *front) func() { return begin(f, plain("alice", "secret")).reset }, "client-reset"},
		"TCP":  {startOn(proxy.Listener{Protocol: proxy.TCP}), func(f *front) func() { return f.dial().reset }, "probe"},
		"TLS":  {startOn(proxy.Listener{Protocol: proxy.TLS}), func(f *front) func() { return f.dialSecure(f.clientTLS()).reset }, "client-reset"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n, pick := onlyNode(t)
			_, ca := certificate(t)
			f := test.front(t, pick, func(o *proxy.Options) {
				o.Pools = map[string]proxy.Pool{"nodes": {Picker: pick, DialTimeout: time.Hour, TLS: nodeTLS(ca)}}
			})
			leaves := test.comes(f)
			leg := n.take() // and says no word of TLS
			leaves()
			leg.over()
			f.ended(test.want)
			pick.mu.Lock()
			defer pick.mu.Unlock()
			if len(pick.outcomes) > 0 {
				t.Errorf("reported %q", pick.outcomes)
			}
		})
	}
}

// A client that leaves while it asks for all what the nodes offer leaves the question to the next.
func TestLeavesWithQuestion(t *testing.T) {
	t.Parallel()
	n := startNode(t, "one")
	pick := parkingOf(n)
	f := startFront(t, pick, func(o *proxy.Options) {
		o.Domains = []string{"example.org"} // of which nothing is known
		waits(pick, time.Hour)(o)
	})
	asks := func() *peer {
		client := f.dialTLS()
		client.send(strings.Replace(streamOpen, "example.com", "example.org", 1))
		return client
	}
	first := asks()
	next(t, pick.asked, "asked for a node")
	others := []*peer{asks(), asks(), asks()}
	first.reset()
	next(t, pick.left, "given up")
	f.ended("client-reset")
	next(t, pick.asked, "asked for another")
	for _, client := range others[:2] { // one of whom may be who asks now
		client.reset()
		f.ended("client-reset")
	}
	ending := asks()
	ending.send(streamEnd)
	ending.expect(strings.Replace(frontHeader, "example.com", "example.org", 1) + streamEnd)
	ending.close()
	f.ended("client-closed")
	pick.room <- struct{}{}
	n.accept().offer()
	others[2].expect(strings.Replace(frontHeader, "example.com", "example.org", 1) + frontOffer)
	others[2].close()
	f.ended("client-closed")
}

// A session of BOSH ends in order while it waits for a node, as it would at any other time.
func TestEndsBOSHWhileItWaits(t *testing.T) {
	t.Parallel()
	n := startNode(t, "one")
	pick := parkingOf(n)
	f := startBOSH(t, pick, proxy.BOSH{}, waits(pick, time.Hour))
	b := f.binder()
	b.begin("")
	login := b.asks("", plain("alice", "secret"))
	next(t, pick.asked, "asked for a node")
	end := b.asks("type='terminate'", "")
	next(t, pick.left, "given up")
	login.expect(boshEmpty)
	end.expect(boshEnd)
	f.endedBOSH("client-closed")
	n.idle()
}

// What clients say ahead while they wait is not lost, and is read in the stream that it belongs to.
func TestSaysMoreWhileItWaits(t *testing.T) {
	t.Parallel()
	const stanza = "<message xmlns='jabber:client'><body>hi</body></message>"
	for name, test := range map[string]struct {
		dial             func(f *front) *peer
		open, header     string
		bind, nodeHeader string
	}{
		"TLS":       {(*front).dialTLS, streamOpen, frontHeader + frontOffer, nodeBind, nodeHeader},
		"STARTTLS":  {(*front).dialStartTLS, streamOpen, frontHeader + frontOffer, nodeBind, nodeHeader},
		"QUIC":      {func(f *front) *peer { return f.openQUIC(f.dialQUIC()) }, streamOpen, frontHeader + frontOffer, nodeBind, nodeHeader},
		"WebSocket": {(*front).dialWS, wsOpen, wsHeader + wsElement(frontOffer), wsElement(nodeBind), wsNodeOpen},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := startNode(t, "one")
			pick := parkingOf(n)
			f := startFront(t, pick, waits(pick, time.Hour))
			client, auth := test.dial(f), plain("alice", "secret")
			client.send(test.open)
			client.expect(test.header)
			client.send(auth)
			next(t, pick.asked, "asked for a node")
			for _, more := range []string{test.open, stanza} {
				client.send(more)
			}
			pick.room <- struct{}{}
			leg := n.accept().offer()
			leg.letsIn(client, auth)
			leg.scan.Reset()
			if client.scan != nil {
				client.scan.Reset()
			}
			leg.open()
			leg.send(nodeHeader + nodeBind)
			leg.expect(stanza)
			client.expect(test.nodeHeader + test.bind)
			f.leaves(client, leg)
		})
	}
}
