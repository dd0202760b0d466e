package proxy_test

import (
	"testing"

	"github.com/pires/go-proxyproto"
	"github.com/pires/go-proxyproto/tlvparse"

	"imlb/proxy"
)

// Each transport leads to the same session: login, stanzas both ways, and an end
// of the stream that goes through both legs.
func TestSession(t *testing.T) {
	t.Parallel()
	transports := []struct {
		name, alpn string
		dial       func(*front) *peer
	}{
		{"starttls", "", (*front).dialStartTLS},
		{"tls", "xmpp-client", (*front).dialTLS},
		{"quic", "xmpp-client", func(f *front) *peer { return f.openQUIC(f.dialQUIC()) }},
	}
	for _, tt := range transports {
		t.Run(tt.name, func(t *testing.T) {
			n, pick := onlyNode(t)
			f := startFront(t, pick, nil)
			client := tt.dial(f)
			leg := login(client, n, "alice")

			client.send("<message to='bob@example.com'><body>hi</body></message><presence/>")
			leg.expect("<message to='bob@example.com'><body>hi</body></message><presence/>")
			leg.send("<iq id='1'")
			leg.send(" type='get'/> ")
			client.expect("<iq id='1' type='get'/> ")

			client.send("</stream:stream>")
			leg.expect("</stream:stream>")
			leg.send("<presence type='unavailable'/></stream:stream>")
			leg.close()
			client.expect("<presence type='unavailable'/></stream:stream>")
			client.eof()
			client.close()

			r := f.ended("client-closed")
			for key, want := range map[string]string{
				"user": "alice@example.com", "node": "one", "mechanism": "PLAIN", "transport": tt.name,
				"logged_in": "true", "server_name": "example.com", "alpn": tt.alpn, "tls": "TLS 1.3",
				"in.messages": "1", "in.presences": "1", "out.iqs": "1", "out.presences": "1",
			} {
				if r[key] != want {
					t.Errorf("%s=%q in the log, want %q", key, r[key], want)
				}
			}
			checkTLVs(t, leg.proxy, r["id"], tt.name, tt.alpn)
			if pick.live != 0 {
				t.Errorf("%d choices were not released", pick.live)
			}
		})
	}
}

// checkTLVs checks what the node is told about the client's connection.
func checkTLVs(t *testing.T, h *proxyproto.Header, id, transport, alpn string) {
	t.Helper()
	if h.Version != 2 || !h.Command.IsProxy() || !h.TransportProtocol.IsStream() {
		t.Errorf("PROXY header %+v, want version 2, PROXY, a stream", h)
	}
	tlvs, err := h.TLVs()
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[proxyproto.PP2Type]string)
	for _, v := range tlvs {
		got[v.Type] = string(v.Value)
	}
	for typ, want := range map[proxyproto.PP2Type]string{
		proxyproto.PP2_TYPE_UNIQUE_ID: id,
		proxyproto.PP2_TYPE_AUTHORITY: "example.com",
		proxyproto.PP2_TYPE_ALPN:      alpn,
		0xE0:                          transport,
	} {
		if got[typ] != want {
			t.Errorf("TLV %#x is %q, want %q", byte(typ), got[typ], want)
		}
	}
	ssl, ok := tlvparse.FindSSL(tlvs)
	if version, _ := ssl.SSLVersion(); !ok || !ssl.ClientSSL() || version != "TLSv1.3" {
		t.Errorf("SSL TLV %+v, want TLSv1.3", ssl)
	}
}

// Stanzas are told by their names, whatever the spelling.
func TestKindOf(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]string{
		"<message><body/></message>":           "message",
		"<message/>":                           "message",
		"<presence\tto='a'/>":                  "presence",
		"<iq type='get'/>":                     "iq",
		"<iq\n/>":                              "iq",
		"<messages/>":                          "other",
		"<iqs/>":                               "other",
		"<r xmlns='urn:xmpp:sm:3'/>":           "other",
		"<c:message xmlns:c='jabber:client'/>": "message",
		"<a xmlns:message='x'/>":               "other",
	} {
		if got := proxy.KindOf(raw); got != want {
			t.Errorf("%s is %s, want %s", raw, got, want)
		}
	}
}
