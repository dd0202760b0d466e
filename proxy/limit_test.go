package proxy_test

import (
	"encoding/base64"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"

	"imlb/proxy"
	"imlb/proxy/limit"
)

// What comes faster than the listener's rate is refused when it would have to
// wait for too long.
func TestRate(t *testing.T) {
	t.Parallel()
	f := startFront(t, &picker{}, func(o *proxy.Options) {
		limitRate(o, 0.001, 1)
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

// A session whose client or node is gone ends, however long the limits on bytes hold the other
// direction up.
func TestEndDuringPause(t *testing.T) {
	t.Parallel()
	stanza := "<message><body>" + strings.Repeat("x", 200_000) + "</body></message>"
	start := func(t *testing.T) (f *front, client, leg *peer) {
		n, pick := onlyNode(t)
		f = startFront(t, pick, func(o *proxy.Options) {
			slow := limit.Bandwidth{PerSecond: 1000, Burst: 10_000}
			o.Rules.Global.In, o.Rules.Global.Out = slow, slow
		})
		client = f.openQUIC(f.dialQUIC())
		return f, client, login(client, n, "alice")
	}
	t.Run("node", func(t *testing.T) {
		f, client, leg := start(t)
		client.send(stanza)
		leg.expect(stanza)
		leg.send(streamEnd)
		client.expect(streamEnd)
		client.close()
		f.ended("node-closed")
	})
	t.Run("client", func(t *testing.T) {
		f, client, leg := start(t)
		leg.send(stanza)
		client.expect(stanza)
		client.conn.(*quicClient).CancelWrite(1)
		leg.eof()
		f.ended("client-reset")
	})
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
		if r := f.leaves(secured, leg); r["source"] != source.String() || r["via"] != via {
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
	const begin = "\r\n\r\n\x00\r\nQUIT\n"
	for name, header := range map[string]string{
		"unspec": begin + "\x21\x00\x00\x00",
		"unix":   begin + "\x21\x31\x00\xd8" + strings.Repeat("/", 216),
	} {
		t.Run(name, func(t *testing.T) { // the proxy's own address counts
			client := f.dialTCP("xmpp")
			client.send(header + streamOpen)
			client.expect(frontHeader + tlsOffer)
			client.send(streamEnd)
			client.expect(streamEnd)
			own := client.conn.LocalAddr().String()
			client.close()
			if r := f.ended("client-closed"); r["source"] != own || r["via"] != "" {
				t.Errorf("logged %v, want the source %s", r, own)
			}
		})
	}
	t.Run("wrong checksum", func(t *testing.T) {
		client := f.dialTCP("xmpp")
		client.send(begin + "\x21\x11\x00\x13\xc0\x00\x02\x01\xc0\x00\x02\x02\x00\x01\x00\x02\x03\x00\x04abcd")
		client.eof()
		if r := f.ended("proxy-header"); !strings.Contains(r["cause"], "CRC32c") {
			t.Errorf("logged %v", r)
		}
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

// A login of XMPP counts as one of its user, and no more as one that is under way.
func TestLoginsCount(t *testing.T) {
	t.Parallel()
	n, pick := onlyNode(t)
	f := startFront(t, pick, func(o *proxy.Options) {
		o.Rules.Global.Unauthenticated = 1
		o.Rules.User.Concurrent = 1
	})
	first := f.dialTLS()
	leg := login(first, n, "alice")
	bob := f.dialTLS() // whom a login under way would keep out
	other := login(bob, n, "bob")
	second := begin(f, plain("alice", "secret"))
	second.expect(streamError("resource-constraint") + streamEnd)
	second.close()
	if r := f.ended("too-many"); r["user"] != "" && r["node"] != "" {
		t.Errorf("a node was asked: %v", r)
	}
	f.leaves(first, leg)
	first = f.dialTLS()
	leg = login(first, n, "alice")
	for _, p := range []*peer{first, bob} {
		p.close()
	}
	for _, p := range []*peer{leg, other} {
		p.eof()
		p.close()
	}
}

// Of two logins of a user at a time who may have one session, the second is told so, and its node ends the
// session that it has begun for it, but not one that it has resumed.
func TestLoginIsTooLate(t *testing.T) {
	t.Parallel()
	const resumed = "<success" + sasl2NS + "><authorization-identifier>alice@example.com/T.1</authorization-identifier><resumed xmlns='urn:xmpp:sm:3' h='1' previd='id'/></success>"
	sasl1, sasl2 := plain("alice", "secret"), authenticate("PLAIN", "\x00alice\x00secret", userAgent+bind2)
	for name, test := range map[string]struct{ auth, success, ends string }{
		"SASL":           {sasl1, saslSuccess, ""},
		"SASL2":          {sasl2, boundSuccess + afterSASL2, streamEnd},
		"SASL2, resumed": {authenticate("PLAIN", "\x00alice\x00secret", "<resume xmlns='urn:xmpp:sm:3' h='1' previd='id'/>"), resumed, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n, pick := onlyNode(t)
			f := startFront(t, pick, func(o *proxy.Options) {
				o.Mechanisms = nil
				o.Rules.User.Concurrent = 1
			})
			if err := f.Learn("nodes", "example.com", sasl2Offer); err != nil {
				t.Fatal(err)
			}
			client, leg := begin2(f, n, test.auth)
			first, atFirst := begin2(f, n, sasl1)
			atFirst.send(saslSuccess)
			first.expect(saslSuccess)
			leg.send(test.success)
			if test.ends != "" {
				leg.expect(test.ends)
			}
			leg.eof()
			leg.close()
			client.expect(streamError("resource-constraint") + streamEnd)
			client.close()
			if r := f.ended("too-many"); r["limit"] != "concurrent-user" || r["logged_in"] != "false" {
				t.Errorf("logged %v", r)
			}
		})
	}
}

// Failed logins put off the next one, which no node is asked about.
func TestFailedLoginsCount(t *testing.T) {
	t.Parallel()
	n, pick := onlyNode(t)
	f := startFront(t, pick, func(o *proxy.Options) {
		o.Rules.Backoff = limit.Backoff{Pair: limit.Steps{Free: 1, First: time.Hour, Max: time.Hour}, Window: time.Hour}
	})
	client := begin(f, plain("alice", "wrong"))
	leg := n.accept().offer()
	for range 2 {
		leg.expect(plain("alice", "wrong"))
		leg.send(failure("not-authorized"))
		client.expect(failure("not-authorized"))
		client.send(plain("alice", "wrong"))
	}
	client.expect(streamError("resource-constraint") + streamEnd)
	leg.eof()
	leg.close()
	client.close()
	if r := f.ended("auth-backoff"); r["auth_failures"] != "2" {
		t.Errorf("logged %v", r)
	}
	bob := f.dialTLS()
	leg = login(bob, n, "bob")
	bob.close()
	leg.eof()
	leg.close()
}

// A node that cannot tell now has said nothing of the password: the login may be tried again at once, by others
// of the same place, too.
func TestFailuresOfTheNodeDoNotCount(t *testing.T) {
	t.Parallel()
	n, pick := onlyNode(t)
	f := startFront(t, pick, func(o *proxy.Options) {
		never := limit.Steps{First: time.Hour, Max: time.Hour}
		o.Rules.Backoff = limit.Backoff{Pair: never, Source: never, Window: time.Hour}
		o.Rules.User.Unauthenticated = 1
	})
	client := begin(f, plain("alice", "secret"))
	leg := n.accept().offer()
	leg.expect(plain("alice", "secret"))
	leg.send(failure("temporary-auth-failure"))
	client.expect(failure("temporary-auth-failure"))
	other := begin(f, plain("alice", "secret"))
	leg2 := n.accept().offer()
	leg2.letsIn(other, plain("alice", "secret"))
	f.leaves(other, leg2)
	client.send(plain("alice", "secret"))
	leg.letsIn(client, plain("alice", "secret"))
	if r := f.leaves(client, leg); r["auth_failures"] != "1" {
		t.Errorf("logged %v", r)
	}
}

// Failures are counted for whose password is guessed, whoever the client then wants to be.
func TestFailedLoginsCountForWhoIsGuessed(t *testing.T) {
	t.Parallel()
	n, pick := onlyNode(t)
	f := startFront(t, pick, func(o *proxy.Options) {
		o.Rules.Backoff = limit.Backoff{Pair: limit.Steps{Free: 1, First: time.Hour, Max: time.Hour}, Window: time.Hour}
	})
	as := func(authzid string) string {
		payload := base64.StdEncoding.EncodeToString([]byte(authzid + "\x00alice\x00wrong"))
		return "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>" + payload + "</auth>"
	}
	client := begin(f, as("one@example.com"))
	for _, next := range []string{"two@example.com", "three@example.com"} {
		leg := n.accept().offer() // of another user each time
		leg.element()
		leg.send(failure("not-authorized"))
		client.expect(failure("not-authorized"))
		client.send(as(next))
		if next == "three@example.com" {
			client.expect(streamError("resource-constraint") + streamEnd)
		}
		leg.eof()
		leg.close()
	}
	client.close()
	f.ended("auth-backoff")
}

// Limits on bytes hold for stanzas, on loops and on goroutines, in both directions;
// nothing is lost.
func TestBytesOfStanzas(t *testing.T) {
	t.Parallel()
	const message, burst, perSecond, count = 10_000, 20_000, 100_000, 6
	text := "<message><body>" + strings.Repeat("x", message) + "</body></message>"
	for _, transport := range []string{"tls", "quic"} {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			n, pick := onlyNode(t)
			f := startFront(t, pick, func(o *proxy.Options) {
				o.Rules.User.In = limit.Bandwidth{PerSecond: perSecond, Burst: burst}
				o.Rules.Source.Out = o.Rules.User.In
			})
			client := f.dialTLS()
			if transport == "quic" {
				client = f.openQUIC(f.dialQUICAt(f.addr("quic"), nil))
			}
			leg := login(client, n, "alice")
			least := time.Duration(count*message-burst-message) * time.Second / perSecond
			for from, to := range map[*peer]*peer{client: leg, leg: client} {
				began := time.Now()
				for range count {
					from.send(text)
				}
				for range count {
					to.expect(text)
				}
				if took := time.Since(began); took < least {
					t.Errorf("%d bytes took %v, want %v at least", count*message, took, least)
				}
			}
		})
	}
}

// What the limits on bytes hold up does not make a session idle, whoever carries it.
func TestThrottledIsNotIdle(t *testing.T) {
	t.Parallel()
	const idle, perSecond = 500 * time.Millisecond, 12 << 10
	slow := func(o *proxy.Options) {
		o.Timeouts.Idle = idle
		o.Rules.User.In = limit.Bandwidth{PerSecond: perSecond, Burst: 1}
		o.Rules.User.Out = o.Rules.User.In
	}
	body := string(pattern(4 * perSecond))
	opaque := func(t *testing.T, f *front, client *stream, leg *leg) {
		t.Helper()
		client.send(body)
		leg.send(body)
		leg.recv(body)
		client.recv(body)
		client.end()
		leg.end()
		f.ended("idle-timeout")
	}
	carried(t, func(t *testing.T, start starter) {
		f, client, leg := start(t, slow)
		opaque(t, f, client, leg)
	})
	t.Run("quic", func(t *testing.T) {
		t.Parallel()
		f, n := startQUIC(t, slow)
		client := f.streamOn(f.dialOpaqueQUIC())
		client.send("x")
		leg := n.leg()
		leg.recv("x")
		opaque(t, f, client, leg)
	})
	message := "<message><body>" + strings.Repeat("x", 10_000) + "</body></message>"
	for name, dial := range map[string]func(*front) *peer{
		"xmpps":        (*front).dialTLS,
		"xmpp on quic": func(f *front) *peer { return f.openQUIC(f.dialQUIC()) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n, pick := onlyNode(t)
			f := startFront(t, pick, slow)
			client := dial(f)
			leg := login(client, n, "alice")
			for _, way := range [][2]*peer{{client, leg}, {leg, client}} {
				way[0].send(strings.Repeat(message, 6))
				for range 6 {
					way[1].expect(message)
				}
				way[0].send(message) // it is held up
				way[1].expect(message)
			}
			f.leaves(client, leg)
		})
	}
}
