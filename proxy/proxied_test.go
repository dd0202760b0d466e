package proxy_test

import (
	"crypto/tls"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"

	"imlb/proxy"
	"imlb/proxy/limit"
)

// trustLoopback makes all that connect to a listener of a test proxies.
func trustLoopback(l *proxy.Listener) {
	l.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
}

// dialFor is a proxy that connects to the listener xmpp for a client.
func (f *front) dialFor(client string, fields ...proxyproto.TLV) *peer {
	f.t.Helper()
	p := f.dialTCP("xmpp")
	h := proxyproto.HeaderProxyFromAddrs(2, &net.TCPAddr{IP: net.ParseIP(client), Port: 1}, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 5222})
	if err := h.SetTLVs(fields); err != nil {
		f.t.Fatal(err)
	}
	raw, err := h.Format()
	if err != nil {
		f.t.Fatal(err)
	}
	p.send(string(raw))
	return p
}

// isServed makes sure that a client comes as far as its stream.
func (p *peer) isServed() {
	p.t.Helper()
	p.send(streamOpen)
	p.expect(frontHeader + tlsOffer)
}

// The log says what is wrong with a PROXY header.
func TestBadProxyHeader(t *testing.T) {
	t.Parallel()
	f := startFront(t, &picker{}, func(o *proxy.Options) { trustLoopback(&o.Listeners[0]) })
	const v2 = "\r\n\r\n\x00\r\nQUIT\n"
	for sent, want := range map[string]string{
		streamOpen:                                       "signature not present",
		"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n":           "ends with LF",
		"PROXY UNKNOWN " + strings.Repeat("x", 200):      "longer than 107 bytes",
		v2 + "\x31\x11\x00\x0c":                          "version 3",
		v2 + "\x21\x11\xff\xff" + strings.Repeat("x", 9): "65535 bytes",
	} {
		f.dialTCP("xmpp").send(sent)
		if r := f.ended("proxy-header"); !strings.Contains(r["cause"], want) {
			t.Errorf("%q: the cause is %q, without %q", sent, r["cause"], want)
		}
	}
}

// That proxies are trusted exempts no client from the limits of its source: neither one that
// a proxy tells of, nor one that connects to another listener from where proxies are.
func TestProxiesExemptNobody(t *testing.T) {
	t.Parallel()
	f := startFront(t, &picker{}, func(o *proxy.Options) {
		trustLoopback(&o.Listeners[0])
		o.Rules.Source.Concurrent = 1
	})
	for _, client := range []string{"203.0.113.9", "127.0.0.9"} {
		f.dialFor(client).isServed()
		f.dialFor(client).eof()
		f.ended("too-many")
	}
	f.dialFor("192.0.2.1").isServed()
	first := f.dialTLS()
	first.send(streamOpen)
	first.expect(frontHeader + frontOffer)
	conn, err := net.DialTimeout("tcp", f.addr("xmpps"), patience)
	if err != nil {
		t.Fatal(err)
	}
	newPeer(t, conn).eof()
	f.ended("too-many")
}

// The lists of addresses are about clients. A proxy need not be on them, but a client of
// whom it does not say where it comes from counts as coming from there.
func TestListsAreForClients(t *testing.T) {
	t.Parallel()
	const begin = "\r\n\r\n\x00\r\nQUIT\n"
	for name, lists := range map[string]func(o *proxy.Options){
		"listener": func(o *proxy.Options) {
			o.Rules.Listeners = map[string]limit.Listener{"xmpp": {Access: limit.Access{Allow: prefixes("192.0.2.0/24")}}}
		},
		"all":  func(o *proxy.Options) { o.Rules.Access.Allow = prefixes("192.0.2.0/24") },
		"deny": func(o *proxy.Options) { o.Rules.Access.Deny = prefixes("127.0.0.0/8", "198.51.100.0/24") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := startFront(t, &picker{}, func(o *proxy.Options) {
				trustLoopback(&o.Listeners[0])
				lists(o)
			})
			f.dialFor("192.0.2.1").isServed()
			f.dialFor("198.51.100.1").eof()
			f.ended("denied")
			own := f.dialTCP("xmpp")
			own.send(begin + "\x20\x00\x00\x00")
			own.close()
			f.ended("probe")
			unknown := f.dialTCP("xmpp")
			unknown.send(begin + "\x21\x00\x00\x00" + streamOpen)
			unknown.eof()
			f.ended("denied")
		})
	}
}

func prefixes(list ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, p := range list {
		all = append(all, netip.MustParsePrefix(p))
	}
	return all
}

// A header may be as long as the front looks: those with certificates are.
func TestLongProxyHeader(t *testing.T) {
	t.Parallel()
	f := startFront(t, &picker{}, func(o *proxy.Options) { trustLoopback(&o.Listeners[0]) })
	for _, size := range []int{4060, 4090, 16<<10 - 12 - 3 - 4} {
		client := f.dialFor("192.0.2.1", proxyproto.TLV{Type: 0xE5, Value: []byte(strings.Repeat("x", size))}, proxyproto.TLV{Type: 0xE6, Value: []byte("y")})
		client.isServed()
	}
	f.dialFor("192.0.2.1", proxyproto.TLV{Type: 0xE5, Value: []byte(strings.Repeat("x", 16<<10))})
	f.ended("proxy-header")
}

// The time in which a client has to wait for its turn is not taken off the time for its
// handshake.
func TestTurnIsNotHandshake(t *testing.T) {
	t.Parallel()
	const handshake = 700 * time.Millisecond
	slow := limit.Rate{PerSecond: 1 / (2 * handshake).Seconds(), Burst: 1, MaxWait: time.Minute}
	for name, rules := range map[string]func(*limit.Rules){
		"turn of the listener": func(r *limit.Rules) {
			r.Listeners = map[string]limit.Listener{"xmpp": {Scope: limit.Scope{Rate: slow}}}
		},
		"turn of the source": func(r *limit.Rules) { r.Source.Rate = slow },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := startFront(t, &picker{}, func(o *proxy.Options) {
				trustLoopback(&o.Listeners[0])
				rules(&o.Rules)
				o.Timeouts.Handshake = handshake
			})
			clients := []*peer{f.dialFor("192.0.2.1"), f.dialFor("192.0.2.1")}
			for _, client := range clients {
				client.send(streamOpen)
			}
			for _, client := range clients {
				client.expect(frontHeader + tlsOffer)
			}
		})
	}
}

// What a client asks for as a server name is passed on if it is a name. Others may be as long
// as a handshake, and no node reads a header like that.
func TestServerNameThatIsNone(t *testing.T) {
	t.Parallel()
	n, pick := onlyNode(t)
	f := startFront(t, pick, nil)
	for _, name := range []string{strings.Repeat("a", 5000), "a b\n", strings.Repeat("a", 254)} {
		config := f.clientTLS("xmpp-client")
		config.ServerName, config.InsecureSkipVerify = name, true
		conn, err := tls.Dial("tcp", f.addr("xmpps"), config)
		if err != nil {
			t.Fatal(err)
		}
		client := newPeer(t, conn)
		leg := login(client, n, "alice")
		tlvs, err := leg.proxy.TLVs()
		if err != nil {
			t.Fatal(err)
		}
		for _, tlv := range tlvs {
			if tlv.Type == proxyproto.PP2_TYPE_AUTHORITY {
				t.Errorf("the node was told a server name of %d bytes", len(tlv.Value))
			}
		}
		if r := f.leaves(client, leg); r["server_name"] != "" {
			t.Errorf("logged %v", r)
		}
	}
}

// Nor is the time in which a login waits for its turn taken off the time for it.
func TestTurnIsNotLogin(t *testing.T) {
	t.Parallel()
	const identify = time.Second
	n, pick := onlyNode(t)
	f := startFront(t, pick, func(o *proxy.Options) {
		o.Rules.User.Rate = limit.Rate{PerSecond: 1 / (2 * identify).Seconds(), Burst: 1, MaxWait: time.Minute}
		o.Timeouts.Identify = identify
	})
	login(f.dialTLS(), n, "alice")
	const initial = "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='SCRAM-SHA-1'>biwsbj1hbGljZSxyPWFiYw==</auth>"
	client := begin(f, initial)
	leg := n.accept().offer()
	leg.expect(initial)
	const challenge, response = "<challenge xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>YQ==</challenge>", "<response xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>YQ==</response>"
	leg.send(challenge)
	client.expect(challenge)
	client.send(response)
	leg.expect(response)
}
