package proxy_test

import (
	"bufio"
	"bytes"
	"compress/flate"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"imlb/proxy"
	"imlb/proxy/identify"
)

// wsClient is a test's end of a WebSocket.
type wsClient struct {
	*websocket.Conn
	t    testing.TB
	resp *http.Response
}

func (f *front) wsOptions(header []http.Header) *websocket.DialOptions {
	o := &websocket.DialOptions{HTTPClient: &http.Client{Transport: &http.Transport{TLSClientConfig: f.clientTLS()}}}
	for _, h := range header {
		o.HTTPHeader = h
	}
	return o
}

// dialOpaqueWS returns a client of the front's only listener, which is one of WS, that
// asks for no subprotocol.
func (f *front) dialOpaqueWS(path string, header ...http.Header) *wsClient {
	f.t.Helper()
	if path == "" {
		path = "/xmpp-websocket"
	}
	return f.dialWith("ws", path, f.wsOptions(header))
}

func (f *front) dialWith(scheme, path string, o *websocket.DialOptions) *wsClient {
	f.t.Helper()
	c, err := f.tryWith(scheme, path, o)
	if err != nil {
		f.t.Fatal(err)
	}
	return c
}

func (f *front) tryWith(scheme, path string, o *websocket.DialOptions) (*wsClient, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ws, resp, err := websocket.Dial(ctx, scheme+"://"+f.addr("x")+path, o)
	if resp != nil && resp.Body != nil {
		_ = resp.Body.Close()
	}
	if err != nil {
		o.HTTPClient.CloseIdleConnections()
		return nil, err
	}
	ws.SetReadLimit(-1)
	f.t.Cleanup(func() { _ = ws.CloseNow() })
	return &wsClient{Conn: ws, t: f.t, resp: resp}, nil
}

// stream reads and writes binary messages as a stream of bytes.
func (c *wsClient) stream() *stream {
	s := newStream(c.t, websocket.NetConn(context.Background(), c.Conn, websocket.MessageBinary))
	c.t.Cleanup(func() { _ = c.CloseNow() }) // before the stream would say good-bye
	return s
}

// next returns the next message.
func (c *wsClient) next() (websocket.MessageType, string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	kind, msg, err := c.Read(ctx)
	return kind, string(msg), err
}

// closed reads to the close frame.
func (c *wsClient) closed(want websocket.StatusCode) {
	c.t.Helper()
	_, msg, err := c.next()
	if got := websocket.CloseStatus(err); got != want {
		c.t.Fatalf("got %.40q, %v, want close %d", msg, err, want)
	}
}

// A listener serves the subprotocols that it is told to, each in its way.
func TestWSSubprotocols(t *testing.T) {
	t.Parallel()
	for scheme, protocol := range map[string]proxy.Protocol{"ws": proxy.WS, "wss": proxy.WSS} {
		t.Run(scheme, func(t *testing.T) {
			t.Parallel()
			n := startNode(t, "one")
			f := startOpaque(t, witnessOf(n), proxy.Listener{
				Protocol: protocol, WebSocket: proxy.WebSocket{Subprotocols: []string{"mqtt", "xmpp", ""}, Path: "/chat"},
			}, nil)
			dial := func(path string, subprotocols ...string) (*wsClient, error) {
				o := f.wsOptions(nil)
				o.Subprotocols = subprotocols
				return f.tryWith(scheme, path, o)
			}
			for _, asked := range [][]string{{"mqtt"}, {"x", "mqtt"}, nil} {
				ws, err := dial("/chat", asked...)
				if err != nil {
					t.Fatal(err)
				}
				want := ""
				if asked != nil {
					want = "mqtt"
				}
				if got := ws.Subprotocol(); got != want {
					t.Errorf("agreed on %q, want %q", got, want)
				}
				client, leg := ws.stream(), n.leg()
				if got := string(leg.tlv(0xE0)); got != "ws" {
					t.Errorf("the node was told of the transport %q", got)
				}
				client.send("up")
				leg.recv("up")
				leg.send("down")
				if kind, msg, err := ws.next(); kind != websocket.MessageBinary || msg != "down" {
					t.Errorf("got %v %q, %v", kind, msg, err)
				}
				_ = ws.Close(websocket.StatusNormalClosure, "")
				leg.end()
				leg.Close()
				f.ended("client-closed")
			}
			if protocol == proxy.WSS { // nodes of the test offer nothing to log in with in the clear
				ws, err := dial("/chat", "xmpp")
				if err != nil {
					t.Fatal(err)
				}
				xmpp := &peer{t: t, ws: ws.Conn}
				leaveWS(xmpp, loginWS(xmpp, n))
				f.ended("client-closed")
			}
			for path, asked := range map[string]string{"/chat": "other", "/xmpp-websocket": "mqtt"} {
				if ws, err := dial(path, asked); err == nil {
					t.Errorf("%s has %q", path, ws.Subprotocol())
				}
				f.ended("http")
			}
		})
	}
}

// leaveWS ends a session of XMPP in order.
func leaveWS(client, node *peer) {
	client.t.Helper()
	client.send(wsClose)
	node.expect(streamEnd)
	node.send(streamEnd)
	client.expect(wsClose)
	client.close()
}

// bareWS starts a front and a session on it, on a WebSocket without a subprotocol.
func bareWS(t *testing.T, change func(*proxy.Options)) (*front, *wsClient, *leg) {
	t.Helper()
	n := startNode(t, "one")
	f := startOpaque(t, witnessOf(n), proxy.Listener{
		Protocol: proxy.WS, WebSocket: proxy.WebSocket{Subprotocols: []string{""}},
	}, change)
	return f, f.dialOpaqueWS(""), n.leg()
}

// Messages have no meaning but their bytes: text or binary, in pieces or in one, of any
// length.
func TestWSMessages(t *testing.T) {
	t.Parallel()
	f, ws, leg := bareWS(t, nil)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	write := func(kind websocket.MessageType, msg string) {
		t.Helper()
		if err := ws.Write(ctx, kind, []byte(msg)); err != nil {
			t.Fatal(err)
		}
	}
	write(websocket.MessageText, "text ")
	write(websocket.MessageBinary, "")
	write(websocket.MessageBinary, "binary ")
	leg.recv("text binary ")

	w, err := ws.Writer(ctx, websocket.MessageBinary)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"in ", "three ", "parts"} {
		if _, err := io.WriteString(w, part); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	leg.recv("in three parts")

	big := string(pattern(1 << 20))
	wrote := make(chan error, 1)
	go func() { wrote <- ws.Write(ctx, websocket.MessageBinary, []byte(big)) }()
	leg.recv(big)
	if err := <-wrote; err != nil {
		t.Fatal(err)
	}
	go func() {
		_, err := io.WriteString(leg, big)
		wrote <- err
	}()
	ws.stream().recv(big)
	if err := <-wrote; err != nil {
		t.Fatal(err)
	}
	leg.closeWrite()
	f.closedInOrder(ws, leg)
	f.ended("node-closed")
}

// closedInOrder checks that a node's end is the normal end of the WebSocket.
func (f *front) closedInOrder(ws *wsClient, leg *leg) {
	f.t.Helper()
	if _, msg, err := ws.next(); !errors.Is(err, io.EOF) && websocket.CloseStatus(err) != websocket.StatusNormalClosure {
		f.t.Errorf("got %.40q, %v, want the normal end", msg, err)
	}
	leg.end()
}

// A client that pings is answered, however long ago the node has said something.
func TestWSPing(t *testing.T) {
	t.Parallel()
	_, ws, leg := bareWS(t, func(o *proxy.Options) { o.Timeouts.Write = 50 * time.Millisecond })
	leg.send("hello")
	if _, msg, err := ws.next(); msg != "hello" {
		t.Fatalf("got %q, %v", msg, err)
	}
	reading, stop := context.WithCancel(t.Context())
	defer stop()
	ws.CloseRead(reading) // takes the pongs
	began := time.Now()
	for time.Since(began) < 200*time.Millisecond {
		<-time.After(40 * time.Millisecond)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		if err := ws.Ping(ctx); err != nil {
			t.Fatal(err)
		}
		cancel()
	}
	<-time.After(100 * time.Millisecond) // longer than any deadline of a write
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := ws.Ping(ctx); err != nil {
		t.Error(err)
	}
	leg.Close()
}

// A client that pings is not idle.
func TestWSPingIsLife(t *testing.T) {
	t.Parallel()
	const idle = 2 * time.Second
	change := func(o *proxy.Options) { o.Timeouts.Idle = idle }
	_, opaque, leg := bareWS(t, change)
	packed, packedLeg := compressedWS(t, change)
	n, pick := onlyNode(t)
	client := startFront(t, pick, change).dialWS()
	node := loginWS(client, n)
	reading, stop := context.WithCancel(t.Context())
	defer stop()
	clients := []*websocket.Conn{opaque.Conn, packed.Conn, client.ws}
	for _, ws := range clients {
		ws.CloseRead(reading) // takes the pongs
	}
	for began := time.Now(); time.Since(began) < 2*idle; {
		<-time.After(idle / 10)
		for _, ws := range clients {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			if err := ws.Ping(ctx); err != nil {
				t.Fatal(err)
			}
			cancel()
		}
	}
	for _, ws := range clients[:2] {
		if err := ws.Write(t.Context(), websocket.MessageBinary, []byte("here")); err != nil {
			t.Fatal(err)
		}
	}
	leg.recv("here")
	packedLeg.recv("here")
	leg.Close()
	packedLeg.Close()
	client.send("<iq xmlns='jabber:client'/>")
	node.expect("<iq xmlns='jabber:client'/>")
	node.reset()
}

// compressedWS starts a front and a session on it, on a WebSocket with compression.
func compressedWS(t *testing.T, change func(*proxy.Options)) (*wsClient, *leg) {
	t.Helper()
	n := startNode(t, "one")
	f := startOpaque(t, witnessOf(n), proxy.Listener{
		Protocol: proxy.WS, WebSocket: proxy.WebSocket{Subprotocols: []string{""}, Compress: true},
	}, change)
	o := f.wsOptions(nil)
	o.CompressionMode, o.CompressionThreshold = websocket.CompressionNoContextTakeover, 1
	return f.dialWith("ws", "/xmpp-websocket", o), n.leg()
}

// The time to find the user in may end in the middle of a compressed message, of which the
// node gets the whole all the same.
func TestWSCompressedParts(t *testing.T) {
	t.Parallel()
	n := startNode(t, "one")
	id := byLine(t, identify.Step{Name: "source", Identifier: identify.Source{}})
	id.Timeout = 50 * time.Millisecond
	f := startOpaque(t, witnessOf(n), proxy.Listener{
		Protocol: proxy.WS, WebSocket: proxy.WebSocket{Subprotocols: []string{""}, Compress: true}, Identify: id,
	}, nil)
	c := f.dial()
	c.upgrade("Sec-WebSocket-Extensions: permessage-deflate")
	c.send("\x42\x83\x00\x00\x00\x00\xf2\x48\xcd") // the beginning of RFC 7692 §7.2.3.1's Hello
	leg := n.leg()                                 // the time has ended
	c.send("\x80\x84\x00\x00\x00\x00\xc9\xc9\x07\x00" + "\x82\x81\x00\x00\x00\x00x")
	leg.recv("Hellox")
	c.Close()
	leg.end()
}

// Messages of MQTT are binary: who gets another must end the connection (MQTT 5 §6.0,
// MQTT-6.0.0-1).
func TestWSTextOfMQTT(t *testing.T) {
	t.Parallel()
	n := startNode(t, "one")
	f := startOpaque(t, witnessOf(n), proxy.Listener{
		Protocol: proxy.WS, WebSocket: proxy.WebSocket{Subprotocols: []string{"mqtt"}},
	}, nil)
	o := f.wsOptions(nil)
	o.Subprotocols = []string{"mqtt"}
	ws := f.dialWith("ws", "/xmpp-websocket", o)
	leg := n.leg()
	if err := ws.Write(t.Context(), websocket.MessageText, []byte("x")); err != nil {
		t.Fatal(err)
	}
	ws.closed(websocket.StatusUnsupportedData)
	leg.broken()
	f.ended("client-reset")
}

// Compression is there when it was asked for by both, for bytes and for stanzas.
func TestWSCompression(t *testing.T) {
	t.Parallel()
	for _, offered := range []bool{false, true} {
		n := startNode(t, "one")
		f := startOpaque(t, witnessOf(n), proxy.Listener{
			Protocol: proxy.WSS, WebSocket: proxy.WebSocket{Subprotocols: []string{"mqtt", "xmpp"}, Compress: offered},
		}, nil)
		dial := func(subprotocol string) *wsClient {
			o := f.wsOptions(nil)
			o.Subprotocols, o.CompressionMode, o.CompressionThreshold = []string{subprotocol}, websocket.CompressionNoContextTakeover, 1
			ws := f.dialWith("wss", "/xmpp-websocket", o)
			ext := ws.resp.Header.Get("Sec-WebSocket-Extensions")
			if offered && (!strings.Contains(ext, "permessage-deflate") || !strings.Contains(ext, "server_no_context_takeover")) ||
				!offered && ext != "" {
				t.Errorf("offered %v, agreed on %q", offered, ext)
			}
			return ws
		}
		client := dial("mqtt").stream()
		leg := n.leg()
		long := strings.Repeat("all the same ", 10000)
		client.send(long)
		leg.recv(long)
		leg.send(long)
		client.recv(long)
		f.hangsUp(client, leg)

		xmpp := &peer{t: t, ws: dial("xmpp").Conn}
		node := loginWS(xmpp, n)
		body := "<message xmlns='jabber:client'><body>" + long + "</body></message>"
		xmpp.send(body)
		node.expect(body)
		node.send(body)
		xmpp.expect(body)
		leaveWS(xmpp, node)
		f.ended("client-closed")
	}
}

// A message that is compressed to nothing costs no more than its parts.
func TestWSBomb(t *testing.T) {
	t.Parallel()
	var packed bytes.Buffer
	w, err := flate.NewWriter(&packed, flate.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	n := startNode(t, "one")
	f := startOpaque(t, witnessOf(n), proxy.Listener{
		Protocol: proxy.WS, WebSocket: proxy.WebSocket{Subprotocols: []string{""}, Compress: true},
	}, nil)
	o := f.wsOptions(nil)
	o.CompressionMode, o.CompressionThreshold = websocket.CompressionNoContextTakeover, 1
	ws := f.dialWith("ws", "/xmpp-websocket", o)
	leg := n.leg()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	wrote := make(chan error, 1)
	go func() { wrote <- ws.Write(ctx, websocket.MessageBinary, make([]byte, 1<<20)) }()
	leg.soon()
	if n, err := io.CopyN(io.Discard, leg, 1<<20); err != nil {
		t.Errorf("%d bytes of a message of %d came, and %v", n, packed.Len(), err)
	}
	if err := <-wrote; err != nil {
		t.Error(err)
	}
	leg.Close()
	ws.closed(websocket.StatusNormalClosure)
}

// A client that breaks the rules is told so, and its node sees it break. What it has sent
// besides does not get in the way of that.
func TestWSViolations(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		sent string
		want websocket.StatusCode
	}{
		"not masked":     {"\x82\x01x", websocket.StatusProtocolError},
		"a continuation": {"\x80\x80\x00\x00\x00\x00", websocket.StatusProtocolError},
		"not UTF-8":      {"\x81\x81\x00\x00\x00\x00\xff", websocket.StatusInvalidFramePayloadData},
	} {
		for _, protocol := range []proxy.Protocol{proxy.WS, proxy.WSS} {
			t.Run(name+" in "+protocol.String(), func(t *testing.T) {
				t.Parallel()
				n := startNode(t, "one")
				f := startOpaque(t, witnessOf(n), proxy.Listener{
					Protocol: protocol, WebSocket: proxy.WebSocket{Subprotocols: []string{""}},
				}, nil)
				conn := f.dial()
				if protocol == proxy.WSS {
					conn = f.dialSecure(f.clientTLS())
				}
				said := conn.upgrade()
				leg := n.leg()
				conn.send(c.sent + string(pattern(1<<10)))
				closing := make([]byte, 4)
				if _, err := io.ReadFull(said, closing); err != nil || string(closing) != "\x88\x02"+string([]byte{byte(c.want >> 8), byte(c.want)}) {
					t.Fatalf("got %q, %v, want %d", closing, err, c.want)
				}
				if _, err := said.ReadByte(); !errors.Is(err, io.EOF) {
					t.Errorf("and then %v", err)
				}
				leg.broken()
				f.ended("client-reset")
			})
		}
	}
}

// upgrade makes a connection a WebSocket, and returns what is to be read from it.
func (s *stream) upgrade(fields ...string) *bufio.Reader {
	s.t.Helper()
	s.send("GET /xmpp-websocket HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n" +
		strings.Join(append(fields, "", ""), "\r\n"))
	s.soon()
	said := bufio.NewReader(s)
	resp, err := http.ReadResponse(said, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	_ = resp.Body.Close()
	return said
}

// room sets how much a node takes that it does not read.
func (l *leg) room(n int) {
	l.t.Helper()
	if err := l.tcp().SetReadBuffer(n); err != nil {
		l.t.Fatal(err)
	}
}

// Why a session ends is in the status of the close frame.
func TestWSCloses(t *testing.T) {
	t.Parallel()
	ws := proxy.Listener{Protocol: proxy.WS, WebSocket: proxy.WebSocket{Subprotocols: []string{""}}}
	t.Run("no node", func(t *testing.T) {
		t.Parallel()
		f := startOpaque(t, witnessOf(), ws, nil)
		f.dialOpaqueWS("").closed(websocket.StatusTryAgainLater)
		f.ended("no-node")
	})
	t.Run("no node that answers", func(t *testing.T) {
		t.Parallel()
		n := startNode(t, "one")
		n.ln.Close()
		f := startOpaque(t, witnessOf(n), ws, nil)
		f.dialOpaqueWS("").closed(websocket.StatusTryAgainLater)
		f.ended("dial-failed")
	})
	t.Run("nobody", func(t *testing.T) {
		t.Parallel()
		l := ws
		l.Identify = byLine(t)
		f := startOpaque(t, witnessOf(), l, nil)
		c := f.dialOpaqueWS("")
		if err := c.Write(t.Context(), websocket.MessageBinary, []byte("HELO\r\n")); err != nil {
			t.Fatal(err)
		}
		c.closed(websocket.StatusPolicyViolation)
		f.ended("unidentified")
	})
	t.Run("nobody in time", func(t *testing.T) {
		t.Parallel()
		l := ws
		l.Identify = byLine(t)
		l.Identify.Timeout = 50 * time.Millisecond
		f := startOpaque(t, witnessOf(), l, nil)
		f.dialOpaqueWS("").closed(websocket.StatusPolicyViolation)
		f.ended("identify-timeout")
	})
	t.Run("node closes", func(t *testing.T) {
		t.Parallel()
		n := startNode(t, "one")
		f := startOpaque(t, witnessOf(n), ws, nil)
		c := f.dialOpaqueWS("")
		leg := n.leg()
		leg.send("bye")
		leg.closeWrite()
		if _, msg, err := c.next(); msg != "bye" {
			t.Errorf("got %q, %v", msg, err)
		}
		c.closed(websocket.StatusNormalClosure)
		leg.end()
		f.ended("node-closed")
	})
	t.Run("node breaks", func(t *testing.T) {
		t.Parallel()
		n := startNode(t, "one")
		f := startOpaque(t, witnessOf(n), ws, nil)
		c := f.dialOpaqueWS("")
		n.leg().reset()
		c.closed(websocket.StatusInternalError)
		f.ended("node-lost")
	})
	t.Run("client breaks", func(t *testing.T) {
		t.Parallel()
		n := startNode(t, "one")
		f := startOpaque(t, witnessOf(n), ws, nil)
		c := f.dialOpaqueWS("")
		leg := n.leg()
		if err := c.Write(t.Context(), websocket.MessageBinary, []byte("x")); err != nil {
			t.Fatal(err)
		}
		leg.recv("x")
		_ = c.CloseNow()
		leg.end()
		leg.Close()
		f.ended("client-closed")
	})
	last := string(pattern(256 << 10)) // more than there is room for
	for _, late := range []string{"", "too late"} {
		t.Run("client closes, and then the node "+late, func(t *testing.T) {
			t.Parallel()
			n := startNode(t, "one")
			f := startOpaque(t, witnessOf(n), ws, nil)
			c := f.dialOpaqueWS("")
			leg := n.leg()
			leg.room(8 << 10)
			if err := c.Write(t.Context(), websocket.MessageBinary, []byte(last)); err != nil {
				t.Fatal(err)
			}
			if err := c.Close(websocket.StatusNormalClosure, ""); err != nil {
				t.Fatal(err)
			}
			leg.send(late)
			leg.closeWrite()
			// The client knows a little before the front that it was the first.
			if r := f.record()["reason"]; r != "client-closed" && (late != "" || r != "node-closed") {
				t.Errorf("the session ended with %q", r)
			}
			leg.room(len(last))
			leg.recv(last)
			leg.end()
		})
	}
	t.Run("client closes when it has all", func(t *testing.T) {
		t.Parallel()
		n := startNode(t, "one")
		f := startOpaque(t, witnessOf(n), ws, nil)
		for range 50 {
			c := f.dialOpaqueWS("")
			leg := n.leg()
			leg.send("all")
			if _, msg, err := c.next(); msg != "all" {
				t.Fatalf("got %q, %v", msg, err)
			}
			_ = c.Close(websocket.StatusNormalClosure, "")
			leg.end()
			leg.Close()
			f.ended("client-closed")
		}
	})
	t.Run("both close", func(t *testing.T) {
		t.Parallel()
		n := startNode(t, "one")
		f := startOpaque(t, witnessOf(n), ws, nil)
		c := f.dial()
		said := c.upgrade()
		leg := n.leg()
		leg.room(8 << 10)
		c.send("\x82\xff\x00\x00\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00" + last + "\x89\x80\x00\x00\x00\x00")
		pong := make([]byte, 2)
		if _, err := io.ReadFull(said, pong); err != nil || string(pong) != "\x8a\x00" {
			t.Fatalf("got %q, %v, want a pong", pong, err)
		}
		leg.closeWrite()
		closing := make([]byte, 4)
		if _, err := io.ReadFull(said, closing); err != nil || string(closing) != "\x88\x02\x03\xe8" {
			t.Fatalf("got %q, %v, want the normal end", closing, err)
		}
		c.send("\x88\x82\x00\x00\x00\x00\x03\xe9") // it goes away, and has not seen that yet
		f.ended("node-closed")
		leg.room(len(last))
		leg.recv(last)
		leg.end()
	})
	t.Run("idle", func(t *testing.T) {
		t.Parallel()
		n := startNode(t, "one")
		f := startOpaque(t, witnessOf(n), ws, func(o *proxy.Options) { o.Timeouts.Idle = 50 * time.Millisecond })
		c := f.dialOpaqueWS("")
		c.closed(websocket.StatusGoingAway)
		n.leg().end()
		f.ended("idle-timeout")
	})
	t.Run("the node does not end", func(t *testing.T) {
		t.Parallel()
		n := startNode(t, "one")
		f := startOpaque(t, witnessOf(n), ws, func(o *proxy.Options) { o.Timeouts.HalfOpen = 100 * time.Millisecond })
		c := f.dialOpaqueWS("")
		leg := n.leg()
		_ = c.Close(websocket.StatusNormalClosure, "")
		leg.end()
		f.ended("half-open-timeout")
	})
	t.Run("shutdown", func(t *testing.T) {
		t.Parallel()
		n := startNode(t, "one")
		f := startOpaque(t, witnessOf(n), ws, nil)
		c := f.dialOpaqueWS("")
		leg := n.leg()
		leg.send("x")
		if _, msg, err := c.next(); msg != "x" {
			t.Errorf("got %q, %v", msg, err)
		}
		done := make(chan error, 1)
		go func() { done <- f.Shutdown(context.WithoutCancel(t.Context())) }()
		c.closed(websocket.StatusServiceRestart)
		leg.end()
		f.ended("shutdown")
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Run("shutdown before the user is known", func(t *testing.T) {
		t.Parallel()
		l := ws
		l.Identify = byLine(t, identify.Step{Name: "source", Identifier: identify.Source{}})
		f := startOpaque(t, witnessOf(), l, nil)
		c := f.dialOpaqueWS("")
		closed := make(chan error, 1)
		go func() {
			_, _, err := c.next()
			closed <- err
		}()
		if err := c.Ping(t.Context()); err != nil { // answered by whoever waits for the user
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- f.Shutdown(context.WithoutCancel(t.Context())) }()
		if err := <-closed; websocket.CloseStatus(err) != websocket.StatusServiceRestart {
			t.Errorf("got %v", err)
		}
		f.ended("shutdown")
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Run("slow client", func(t *testing.T) {
		t.Parallel()
		n := startNode(t, "one")
		f := startOpaque(t, witnessOf(n), ws, func(o *proxy.Options) { o.Timeouts.Write = 100 * time.Millisecond })
		f.dialOpaqueWS("")
		leg := n.leg()
		leg.small()
		block := pattern(64 << 10)
		for {
			if _, err := leg.Write(block); err != nil {
				break
			}
		}
		f.ended("slow-client")
	})
}

// The path of a WebSocket is what the client wrote: one that is led elsewhere does not come.
func TestOddPaths(t *testing.T) {
	t.Parallel()
	n := startNode(t, "one")
	f := startOpaque(t, witnessOf(n), proxy.Listener{
		Protocol: proxy.WS, WebSocket: proxy.WebSocket{Path: "/c/", Subprotocols: []string{""}},
	}, nil)
	for _, path := range []string{"/c/u1", "/c//u1", "/c/a/../u1", "/c/./u1"} {
		o := f.wsOptions(nil)
		o.HTTPClient.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		client := f.dialWith("ws", path, o)
		leg := n.leg()
		_ = client.CloseNow()
		leg.Close()
		f.record()
	}
}
