package proxy_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"imlb/proxy"
)

const (
	wsOpen     = "<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='example.com' version='1.0'/>"
	wsHeader   = "<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' from='example.com' id='ID' version='1.0' xml:lang='en'/>"
	wsNodeOpen = "<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' from='example.com' id='n' version='1.0'/>"
	wsClose    = "<close xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>"
)

// wsElement is an element as a WebSocket message: RFC 7395 §3.3.3.
func wsElement(raw string) string {
	raw = strings.Replace(raw, "<stream:features>", "<stream:features xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>", 1)
	return strings.Replace(raw, "<stream:error>", "<stream:error xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>", 1)
}

// loginWS brings a client on a WebSocket, and the node, to the relay.
func loginWS(client *peer, n *node) *peer {
	client.t.Helper()
	client.send(wsOpen)
	client.expect(wsHeader + wsElement(frontOffer))
	client.send(plain("alice", "secret"))
	leg := n.accept().offer()
	leg.letsIn(client, plain("alice", "secret"))
	leg.scan.Reset()
	client.send(wsOpen)
	if h := leg.open(); !strings.Contains(h, " to='example.com'") {
		leg.t.Errorf("stream header for the node %s", h)
	}
	leg.send(nodeHeader + nodeBind)
	client.expect(wsNodeOpen + wsElement(nodeBind))
	return leg
}

// On a WebSocket the stream's header and end are elements, and each element is a
// message of its own.
func TestWebSocket(t *testing.T) {
	t.Parallel()
	n, pick := onlyNode(t)
	f := startFront(t, pick, nil)
	client := f.dialWS()
	leg := loginWS(client, n)

	client.send("<message xmlns='jabber:client'><body>hi</body></message>")
	leg.expect("<message xmlns='jabber:client'><body>hi</body></message>")
	leg.send(" <presence/> <iq/>")
	client.expect("<presence xmlns='jabber:client'/><iq xmlns='jabber:client'/>")

	client.send(wsClose)
	leg.expect(streamEnd)
	leg.send(streamEnd)
	client.expect(wsClose)
	client.close()
	r := f.ended("client-closed")
	if r["transport"] != "ws" || r["in.messages"] != "1" || r["out.presences"] != "1" {
		t.Errorf("logged %v", r)
	}
	checkTLVs(t, leg.proxy, r["id"], "ws", "")
}

func TestWebSocketEnds(t *testing.T) {
	t.Parallel()
	t.Run("node lost", func(t *testing.T) {
		n, pick := onlyNode(t)
		f := startFront(t, pick, nil)
		client := f.dialWS()
		leg := loginWS(client, n)
		leg.send("<presence/><message>")
		client.expect("<presence xmlns='jabber:client'/>")
		leg.reset()
		client.expect(wsElement(streamError("system-shutdown")) + wsClose)
		client.send(wsClose)
		client.close()
		f.ended("node-lost")
	})
	t.Run("client closes the WebSocket only", func(t *testing.T) {
		n, pick := onlyNode(t)
		f := startFront(t, pick, nil)
		client := f.dialWS()
		leg := loginWS(client, n)
		f.leaves(client, leg)
	})
	for name, bad := range map[string]struct{ send, condition string }{
		"not XML":      {"hello", "bad-format"},
		"two elements": {"<a xmlns='x'/><b xmlns='x'/>", "bad-format"},
		"a stanza":     {"<iq xmlns='jabber:client'/>", "not-authorized"},
	} {
		t.Run(name, func(t *testing.T) {
			_, pick := onlyNode(t)
			f := startFront(t, pick, nil)
			client := f.dialWS()
			client.send(wsOpen)
			client.expect(wsHeader + wsElement(frontOffer))
			client.send(bad.send)
			if e := client.element(); !strings.HasPrefix(e, "<stream:error ") || !strings.Contains(e, "<"+bad.condition+" ") {
				t.Errorf("got %s, want %s", e, bad.condition)
			}
			client.expect(wsClose)
			client.close()
			f.ended("protocol-error")
		})
	}
}

// Messages come in one frame or several, with pings between them, and are as long as
// stanzas may be.
func TestWebSocketMessages(t *testing.T) {
	t.Parallel()
	n, pick := onlyNode(t)
	f := startFront(t, pick, func(o *proxy.Options) { o.Limits.MaxStanza = 100 << 10 })
	client := f.dialWS()
	leg := loginWS(client, n)
	body := func(n int) string {
		return "<message xmlns='jabber:client'><body>" + strings.Repeat("Grüße ", n) + "</body></message>"
	}
	answered := make(chan error, 1)
	for _, n := range []int{1, 1000, 10000} {
		w, err := client.ws.Writer(t.Context(), websocket.MessageText)
		for rest := body(n); err == nil && rest != ""; {
			part := rest[:min(len(rest), len(body(n))/3+1)]
			rest = rest[len(part):]
			_, err = io.WriteString(w, part)
		}
		if err == nil {
			err = w.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		go func() { answered <- client.ws.Ping(t.Context()) }()
		leg.expect(body(n))
		leg.send(body(n) + "<iq/>" + body(1))
		client.ws.SetReadLimit(-1)
		client.expect(body(n) + "<iq xmlns='jabber:client'/>" + body(1))
		for pinged := false; !pinged; { // the pong is read with something else
			leg.send("<presence/>")
			client.expect("<presence xmlns='jabber:client'/>")
			select {
			case err := <-answered:
				if pinged = true; err != nil {
					t.Fatal(err)
				}
			default:
			}
		}
	}
	f.leaves(client, leg)
}

// A message that cannot be one of XMPP ends the stream with an error, and then the
// WebSocket.
func TestWebSocketRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		kind            websocket.MessageType
		send, condition string
	}{
		"binary":        {websocket.MessageBinary, "<iq xmlns='jabber:client'/>", "bad-format"},
		"too long":      {websocket.MessageText, "<iq xmlns='jabber:client'>" + strings.Repeat("x", 20<<10) + "</iq>", "policy-violation"},
		"much too long": {websocket.MessageText, strings.Repeat("x", 200<<10), "policy-violation"},
		"nothing":       {websocket.MessageText, "", ""},
		"not XML":       {websocket.MessageText, "hello", "bad-format"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n, pick := onlyNode(t)
			f := startFront(t, pick, func(o *proxy.Options) { o.Limits.MaxStanza = 20 << 10 })
			client := f.dialWS()
			leg := loginWS(client, n)
			if err := client.ws.Write(t.Context(), c.kind, []byte(c.send)); err != nil {
				t.Fatal(err)
			}
			if c.condition == "" {
				client.send("<iq xmlns='jabber:client'/>")
				leg.expect("<iq xmlns='jabber:client'/>")
				f.leaves(client, leg)
				return
			}
			leg.expect(streamEnd)
			leg.send(streamEnd)
			if e := client.element(); !strings.HasPrefix(e, "<stream:error ") || !strings.Contains(e, "<"+c.condition+" ") {
				t.Errorf("got %s, want %s", e, c.condition)
			}
			client.expect(wsClose)
			client.send(wsClose)
			answered := time.Now()
			client.eof()
			if d := time.Since(answered); d > time.Second {
				t.Errorf("the WebSocket was closed %v later", d)
			}
			f.ended("protocol-error")
		})
	}
}

// Without the subprotocol there is no XMPP: RFC 7395 §3.1.
func TestWebSocketSubprotocol(t *testing.T) {
	t.Parallel()
	f := startFront(t, &picker{}, nil)
	transport := &http.Transport{TLSClientConfig: f.clientTLS()}
	defer transport.CloseIdleConnections()
	_, resp, err := websocket.Dial(t.Context(), "wss://"+f.addr("wss")+"/xmpp-websocket",
		&websocket.DialOptions{HTTPClient: &http.Client{Transport: transport}})
	if err == nil || resp == nil || resp.StatusCode != http.StatusBadRequest {
		t.Fatalf("got %v, %v", resp, err)
	}
	_ = resp.Body.Close()
	transport.CloseIdleConnections()
	f.ended("http")
}

// XEP-0156: how a web client finds the WebSocket.
func TestHostMeta(t *testing.T) {
	t.Parallel()
	f := startFront(t, &picker{}, nil)
	host := f.addr("wss")
	get := func(path string) (int, http.Header, string) {
		transport := &http.Transport{TLSClientConfig: f.clientTLS(), DisableKeepAlives: true}
		resp, err := (&http.Client{Transport: transport}).Get("https://" + host + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		f.ended("http")
		return resp.StatusCode, resp.Header, string(body)
	}
	for path, want := range map[string]string{
		"/.well-known/host-meta.json": `{"links":[{"rel":"urn:xmpp:alt-connections:websocket","href":"wss://` + host + `/xmpp-websocket"}]}`,
		"/.well-known/host-meta": "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n" +
			`<XRD xmlns="http://docs.oasis-open.org/ns/xri/xrd-1.0"><Link rel="urn:xmpp:alt-connections:websocket" href="wss://` + host + `/xmpp-websocket"></Link></XRD>`,
	} {
		code, h, body := get(path)
		if code != http.StatusOK || body != want || h.Get("Access-Control-Allow-Origin") != "*" {
			t.Errorf("%s: %d %v %s", path, code, h, body)
		}
	}
	if code, _, _ := get("/"); code != http.StatusNotFound {
		t.Errorf("/: %d", code)
	}
}

// A request that never ends takes too long, whereas a client that was answered and then
// has nothing more to ask for is one of plain HTTP.
func TestUpgradeTimeout(t *testing.T) {
	t.Parallel()
	f := startOpaque(t, &picker{}, proxy.Listener{Protocol: proxy.WS}, func(o *proxy.Options) {
		o.Timeouts.Handshake = 3 * time.Second // in which who asks is answered
	})
	slow := f.dialTCP("x")
	slow.send("GET /xmpp-websocket HTTP/1.1\r\nHost: example.com\r\n")
	slow.eof()
	f.ended("handshake-timeout")
	answered := f.dialTCP("x")
	answered.send("GET /none HTTP/1.1\r\nHost: example.com\r\n\r\n")
	if answer, err := io.ReadAll(answered.conn); err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 404 Not Found\r\n") {
		t.Errorf("got %q, %v", answer, err)
	}
	f.ended("http")
}
