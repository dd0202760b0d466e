package proxy_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"imlb/backend/xmpp"
	"imlb/proxy"
)

// nested is a message with so many elements in each other, itself included.
func nested(depth int) string {
	return "<message>" + strings.Repeat("<a>", depth-1) + strings.Repeat("</a>", depth-1) + "</message>"
}

// attributed is a presence with so many attributes.
func attributed(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, " a%d='1'", i)
	}
	return "<presence" + b.String() + "/>"
}

// roster is the answer to a request for a roster of so many bytes.
func roster(size int) string {
	return "<iq type='result' id='1'><query xmlns='jabber:iq:roster'>" + strings.Repeat("<item jid='bob@example.com'/>", size/29) + "</query></iq>"
}

// What a node sends may be far more than clients may: it adds to what they have sent, and answers
// with all that it knows. Sessions on all transports carry it, and others after it.
func TestNodeStanza(t *testing.T) {
	t.Parallel()
	n, pick := onlyNode(t)
	f := startFront(t, pick, nil)
	onStream := func(dial func() *peer) func() (*peer, *peer) {
		return func() (*peer, *peer) {
			client := dial()
			client.scan.SetLimits(xmpp.FromNode(0))
			return client, login(client, n, "alice")
		}
	}
	for name, begin := range map[string]func() (client, leg *peer){
		"TLS":      onStream(f.dialTLS),
		"STARTTLS": onStream(f.dialStartTLS),
		"QUIC":     onStream(func() *peer { return f.openQUIC(f.dialQUIC()) }),
		"WebSocket": func() (*peer, *peer) {
			client := f.dialWS()
			client.ws.SetReadLimit(-1)
			return client, loginWS(client, n)
		},
	} {
		client, leg := begin()
		for _, stanza := range []string{nested(300), attributed(300), roster(3 << 20), nested(66), nested(70_000), "<presence/>"} {
			go leg.send(stanza)
			want := stanza
			if client.ws != nil {
				want = string(xmpp.AppendSelfContained(nil, []byte(stanza)))
			}
			if got := client.element(); got != want {
				t.Fatalf("%s: got %d bytes, %.100s, want %d, %.100s", name, len(got), got, len(want), want)
			}
		}
		if client.ws == nil {
			f.leaves(client, leg)
		}
	}
}

// What a node sends has an end. Then the session ends with a reason of its own, which operators
// see, and nothing is said of the node.
func TestNodeStanzaTooMuch(t *testing.T) {
	t.Parallel()
	for name, stanza := range map[string]string{
		"long":       roster(xmpp.SentMost + 1000),
		"deep":       nested(110_000),
		"attributes": attributed(600),
	} {
		n, pick := onlyNode(t)
		f := startFront(t, pick, func(o *proxy.Options) { o.Limits.MaxNodeStanza = 1 })
		client := f.dialTLS()
		leg := login(client, n, "alice")
		go func() { _, _ = leg.conn.Write([]byte("<presence/>" + stanza)) }() // nobody reads to its end
		client.expect("<presence/>" + streamError("internal-server-error") + streamEnd)
		client.close()
		if r := f.ended("node-stanza"); r["level"] != "WARN" {
			t.Errorf("%s: logged %v", name, r)
		}
		pick.mu.Lock()
		if want := []string{"one: connected"}; !reflect.DeepEqual(pick.outcomes, want) {
			t.Errorf("%s: reported %v, want %v", name, pick.outcomes, want)
		}
		pick.mu.Unlock()
	}
}

// Clients are held to less.
func TestClientStanzaTooMuch(t *testing.T) {
	t.Parallel()
	for _, stanza := range []string{nested(65), attributed(65), roster(300 << 10)} {
		f, client, _ := loggedIn(t, nil)
		go func() { _, _ = client.conn.Write([]byte(stanza)) }()
		if e := client.element(); !strings.Contains(e, "<policy-violation ") {
			t.Errorf("got %s, want policy-violation", e)
		}
		client.close()
		f.ended("protocol-error")
	}
}
