package proxy_test

import (
	"net"
	"net/netip"
	"testing"

	"github.com/pires/go-proxyproto"

	"imlb/proxy"
)

// What comes faster than the listener's rate is refused when it would have to
// wait for too long.
func TestRate(t *testing.T) {
	t.Parallel()
	f := startFront(t, &picker{}, func(o *proxy.Options) {
		o.Listeners[0].Rate = proxy.Rate{PerSecond: 0.001, Burst: 1}
	})
	first := f.dialTCP("xmpp")
	first.send(streamOpen)
	first.expect(frontHeader + tlsOffer)
	second := f.dialTCP("xmpp")
	second.eof()
	f.ended("rate-limited")
	first.send(streamEnd)
	first.expect(streamEnd)
	first.close()
	f.ended("client-closed")
}

// A trusted proxy says where clients come from, and must say it.
func TestProxyHeaderIn(t *testing.T) {
	t.Parallel()
	n, pick := onlyNode(t)
	f := startFront(t, pick, func(o *proxy.Options) {
		o.Listeners[0].TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	})
	source := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1234}
	destination := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 5222}
	for version := byte(1); version <= 2; version++ {
		client := f.dialTCP("xmpp")
		if _, err := proxyproto.HeaderProxyFromAddrs(version, source, destination).WriteTo(client.conn); err != nil {
			t.Fatal(err)
		}
		client.send(streamOpen)
		client.expect(frontHeader + tlsOffer)
		client.send("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
		client.expect("<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
		via := client.conn.LocalAddr().String()
		secured := f.secure(client)
		leg := login(secured, n, "alice")
		if leg.proxy.SourceAddr.String() != source.String() || leg.proxy.DestinationAddr.String() != destination.String() {
			t.Errorf("the node was told %v, %v", leg.proxy.SourceAddr, leg.proxy.DestinationAddr)
		}
		secured.close()
		leg.eof()
		leg.close()
		if r := f.ended("client-closed"); r["source"] != source.String() || r["via"] != via {
			t.Errorf("logged %v", r)
		}
	}
	t.Run("none", func(t *testing.T) {
		client := f.dialTCP("xmpp")
		client.send(streamOpen)
		client.eof()
		f.ended("proxy-header")
	})
	t.Run("broken", func(t *testing.T) {
		client := f.dialTCP("xmpp")
		client.send("PROXY TCP4 nonsense\r\n")
		client.eof()
		f.ended("proxy-header")
	})
	t.Run("check of the proxy's own", func(t *testing.T) {
		client := f.dialTCP("xmpp")
		local := &proxyproto.Header{Version: 2, Command: proxyproto.LOCAL}
		if _, err := local.WriteTo(client.conn); err != nil {
			t.Fatal(err)
		}
		client.close()
		f.ended("probe")
	})
	t.Run("nothing", func(t *testing.T) {
		f.dialTCP("xmpp").close()
		f.ended("probe")
	})
}

// A PROXY header of somebody else is not XMPP.
func TestProxyHeaderUntrusted(t *testing.T) {
	t.Parallel()
	f := startFront(t, &picker{}, func(o *proxy.Options) {
		o.Listeners[0].TrustedProxies = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	})
	client := f.dialTCP("xmpp")
	client.send("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n")
	client.expect(frontHeader)
	client.close()
	f.ended("protocol-error")
}

// Streams of one QUIC connection are sessions of their own.
func TestQUICStreams(t *testing.T) {
	t.Parallel()
	n, pick := onlyNode(t)
	f := startFront(t, pick, nil)
	conn := f.dialQUIC()
	alice, bob := f.openQUIC(conn), f.openQUIC(conn)
	atAlice, atBob := login(alice, n, "alice"), login(bob, n, "bob")
	atBob.send("<message id='b'/>")
	atAlice.send("<message id='a'/>")
	alice.expect("<message id='a'/>")
	bob.expect("<message id='b'/>")

	bob.conn.(*quicClient).CancelWrite(1)
	atBob.eof()
	if r := f.ended("client-reset"); r["user"] != "bob@example.com" {
		t.Errorf("logged %v", r)
	}
	alice.send("<presence/>")
	atAlice.expect("<presence/>")
	if err := conn.CloseWithError(0, ""); err != nil {
		t.Fatal(err)
	}
	atAlice.eof()
	atAlice.close()
	if r := f.ended("client-closed"); r["user"] != "alice@example.com" {
		t.Errorf("logged %v", r)
	}
}
