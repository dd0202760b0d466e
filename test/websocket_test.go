package test

import (
	"context"
	"encoding/xml"
	"net/http"
	"strings"
	"testing"

	"github.com/coder/websocket"
)

const nsFraming = "urn:ietf:params:xml:ns:xmpp-framing"

// frames is a client of XMPP over WebSocket (RFC 7395) that looks at each
// message by itself, as a browser's parser does.
type frames struct {
	t    *testing.T
	conn *websocket.Conn
}

func (d *dev) dialWebSocket(t *testing.T) *frames {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: d.tls(t)}}
	t.Cleanup(client.CloseIdleConnections)
	conn, resp, err := websocket.Dial(within(t, patience), "wss://"+d.Front.HTTPS+"/xmpp-websocket",
		&websocket.DialOptions{HTTPClient: client, Subprotocols: []string{"xmpp"}, Host: d.Domain})
	if err != nil {
		t.Fatal(err)
	}
	if resp.Body != nil {
		_ = resp.Body.Close()
	}
	if conn.Subprotocol() != "xmpp" {
		t.Errorf("the subprotocol is %q, want xmpp (RFC 7395 §3.1)", conn.Subprotocol())
	}
	t.Cleanup(func() { _ = conn.CloseNow() })
	return &frames{t: t, conn: conn}
}

func (f *frames) write(text string) {
	f.t.Helper()
	if err := f.conn.Write(within(f.t, patience), websocket.MessageText, []byte(text)); err != nil {
		f.t.Fatalf("write %q: %v", text, err)
	}
}

// read reads one message, which has to be one whole element that needs nothing
// from outside (RFC 7395 §3.3.3).
func (f *frames) read() element {
	f.t.Helper()
	kind, data, err := f.conn.Read(within(f.t, patience))
	if err != nil {
		f.t.Fatalf("read a message: %v", err)
	}
	if kind != websocket.MessageText {
		f.t.Errorf("a message is not text but %v (RFC 7395 §3.2)", kind)
	}
	dec := xml.NewDecoder(strings.NewReader(string(data)))
	var e element
	if err := dec.Decode(&e); err != nil {
		f.t.Fatalf("%v in %q", err, data)
	}
	if rest := data[dec.InputOffset():]; len(rest) > 0 {
		f.t.Errorf("after the element, a message has %q", rest)
	}
	if e.XMLName.Space == "" {
		f.t.Errorf("%q has no namespace of its own", data)
	}
	return e
}

// open starts a stream and reads the features.
func (f *frames) open(domain string) element {
	f.t.Helper()
	f.write("<open xmlns='" + nsFraming + "' to='" + domain + "' version='1.0'/>")
	if e := f.read(); !e.is(nsFraming, "open") || e.attr("from") != domain || e.attr("id") == "" {
		f.t.Fatalf("want <open from='%s' id='…'/>, got %+v", domain, e)
	}
	e := f.read()
	if !e.is(nsStreams, "features") {
		f.t.Fatalf("want the stream's features, got %+v", e)
	}
	return e
}

// session logs in with the resource "web" and goes online.
func (f *frames) session(domain string, a account) {
	f.t.Helper()
	if features := f.open(domain); features.child(nsTLS, "starttls").XMLName.Local != "" {
		f.t.Error("STARTTLS is offered on a WebSocket (RFC 7395 §3.9)")
	}
	f.write("<auth xmlns='" + nsSASL + "' mechanism='PLAIN'>" + plainPayload(a) + "</auth>")
	if e := f.read(); !e.is(nsSASL, "success") {
		f.t.Fatalf("want success, got %+v", e)
	}
	f.open(domain)
	f.write("<iq xmlns='jabber:client' type='set' id='b1'><bind xmlns='" + nsBind + "'><resource>web</resource></bind></iq>")
	if e := f.read(); !e.is("jabber:client", "iq") || e.child(nsBind, "bind").child(nsBind, "jid").Text != a.jid+"/web" {
		f.t.Fatalf("want the resource, got %+v", e)
	}
	f.write("<presence xmlns='jabber:client'/>")
	for e := f.read(); !e.is("jabber:client", "presence"); e = f.read() {
		f.t.Logf("before the own presence: %+v", e)
	}
}

// message reads on to the next message.
func (f *frames) message() element {
	f.t.Helper()
	for {
		if e := f.read(); e.is("jabber:client", "message") {
			return e
		}
	}
}

// testWebSocketFraming: every message on the WebSocket is what RFC 7395 says,
// from <open/> to <close/>.
func testWebSocketFraming(t *testing.T, d *dev) {
	alice, bob := d.account(t), d.account(t)
	f := d.dialWebSocket(t)
	f.session(d.Domain, alice)

	s := d.dialTLS(t)
	s.session(d.Domain, "PLAIN", bob)
	s.write("<message to='%s/web' type='chat'><body>from the stream</body></message>", alice.jid)
	if m := f.message(); m.body() != "from the stream" {
		t.Errorf("received %+v", m)
	}
	f.write("<close xmlns='" + nsFraming + "'/>")
	if e := f.read(); !e.is(nsFraming, "close") {
		t.Errorf("want <close/>, got %+v", e)
	}
	_, _, err := f.conn.Read(within(t, patience))
	if websocket.CloseStatus(err) != websocket.StatusNormalClosure {
		t.Errorf("after <close/>: %v, want the WebSocket's own close (RFC 7395 §3.6)", err)
	}
}

// testWebSocketErrors: a broken message ends the stream with an error and
// <close/>, and then the WebSocket.
func testWebSocketErrors(t *testing.T, d *dev) {
	tests := []struct{ name, text, want string }{
		{"two elements", "<presence xmlns='jabber:client'/><presence xmlns='jabber:client'/>", ""},
		{"half an element", "<iq xmlns='jabber:client'>", ""},
		{"a stream of the old kind", "<stream:stream xmlns='jabber:client' xmlns:stream='" + nsStreams + "' to='localhost' version='1.0'>", ""},
		{"a stanza before login", "<message xmlns='jabber:client' to='a@localhost'/>", "not-authorized"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := d.dialWebSocket(t)
			f.open(d.Domain)
			f.write(tt.text)
			e := f.read()
			if !e.is(nsStreams, "error") || (tt.want != "" && e.child(nsStream, tt.want).XMLName.Local == "") {
				t.Fatalf("want a stream error %s, got %+v", tt.want, e)
			}
			f.wantClosed()
		})
	}
}

// wantClosed reads the server's <close/>, answers it, and reads the end of the
// WebSocket (RFC 7395 §3.6).
func (f *frames) wantClosed() {
	f.t.Helper()
	if e := f.read(); !e.is(nsFraming, "close") {
		f.t.Errorf("want <close/>, got %+v", e)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_ = f.conn.Write(ctx, websocket.MessageText, []byte("<close xmlns='"+nsFraming+"'/>")) // the server need not wait for it
	if _, data, err := f.conn.Read(ctx); err == nil || ctx.Err() != nil {
		f.t.Errorf("the WebSocket is still open: %q, %v", data, err)
	}
}
