package proxy_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/pires/go-proxyproto/tlvparse"

	"imlb/proxy"
	"imlb/proxy/identify"
)

// serve answers one session, so that its client is known to have come through.
func (n *node) serve(client *stream) *leg {
	n.t.Helper()
	leg := n.leg()
	client.send("up")
	leg.recv("up")
	leg.send("down")
	client.recv("down")
	client.Close()
	leg.end()
	leg.Close()
	return leg
}

// names is a server with a certificate for each name that is asked for.
func names(ca *authority, t *testing.T, list ...string) *tls.Config {
	certs := make(map[string]*tls.Certificate)
	for _, name := range list {
		c := ca.issue(t, name)
		certs[name] = &c
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
		if c := certs[h.ServerName]; c != nil {
			return c, nil
		}
		return nil, errors.New("no such name")
	}}
}

// The name that a client asks for decides on the certificate, and with the protocol on
// the pool: the route that says more wins.
func TestTLSRoutes(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "ca")
	nodes := make(map[string]*node)
	picks := make(map[string]*witness)
	for _, name := range []string{"nodes", "a", "a-irc", "wild", "irc"} {
		nodes[name] = startNode(t, name)
		picks[name] = witnessOf(nodes[name])
	}
	f := startOpaque(t, picks["nodes"], proxy.Listener{
		Protocol: proxy.TLS, ALPN: []string{"x"},
		Routes: []proxy.Route{
			{ALPN: []string{"irc"}, Pool: "irc"},
			{ServerNames: []string{"*.example.com"}, Pool: "wild"},
			{ServerNames: []string{"a.example.com"}, Pool: "a"},
			{ServerNames: []string{"a.example.com"}, ALPN: []string{"irc"}, Pool: "a-irc"},
		},
	}, func(o *proxy.Options) {
		o.TLS = names(ca, t, "a.example.com", "b.example.com", "example.com", "b.c.example.com")
		for name, pick := range picks {
			o.Pools[name] = proxy.Pool{Picker: pick}
		}
	})
	for _, test := range []struct {
		name string
		alpn []string
		pool string
	}{
		{"a.example.com", nil, "a"},
		{"a.example.com", []string{"x"}, "a"},
		{"a.example.com", []string{"irc"}, "a-irc"},
		{"b.example.com", nil, "wild"},
		{"b.example.com", []string{"irc"}, "wild"},
		{"example.com", nil, "nodes"},
		{"example.com", []string{"irc"}, "irc"},
		{"b.c.example.com", []string{"x"}, "nodes"},
	} {
		t.Run(test.name+" "+strings.Join(test.alpn, ","), func(t *testing.T) {
			config := &tls.Config{RootCAs: ca.pool, ServerName: test.name, NextProtos: test.alpn, MinVersion: tls.VersionTLS12}
			client := f.dialSecure(config)
			leg := nodes[test.pool].serve(client)
			if got := string(leg.tlv(0x02)); got != test.name {
				t.Errorf("the node was told of the name %q", got)
			}
			r := f.ended("client-closed")
			if r["node"] != test.pool || r["server_name"] != test.name {
				t.Errorf("logged %v", r)
			}
		})
	}
	if _, err := tls.Dial("tcp", f.addr("x"), &tls.Config{
		RootCAs: ca.pool, ServerName: "other.example", MinVersion: tls.VersionTLS12,
	}); err == nil {
		t.Error("there was a certificate for a name that is not served")
	}
	if r := f.ended("tls-failed"); !strings.Contains(r["cause"], "no such name") {
		t.Errorf("logged the cause %q", r["cause"])
	}
}

// A client that offers protocols has to offer one that there is (RFC 7301 §3.2); one
// that offers none is served.
func TestTLSALPN(t *testing.T) {
	t.Parallel()
	n := startNode(t, "one")
	for protocol, listed := range map[proxy.Protocol][]string{proxy.TLS: {"x", "y"}, proxy.MQTTS: nil} {
		f := startOpaque(t, witnessOf(n), proxy.Listener{Protocol: protocol, ALPN: listed}, nil)
		has := listed
		if protocol == proxy.MQTTS {
			has = []string{"mqtt"}
		}
		for _, offer := range [][]string{nil, has, {"z", has[len(has)-1]}} {
			client := f.dialSecure(f.clientTLS(offer...))
			want := ""
			if offer != nil {
				want = has[0]
				if offer[0] == "z" {
					want = offer[1]
				}
			}
			if got := client.Conn.(*tls.Conn).ConnectionState().NegotiatedProtocol; got != want {
				t.Errorf("%v: offered %q, agreed on %q, want %q", protocol, offer, got, want)
			}
			if got := string(n.serve(client).tlv(0x01)); got != want {
				t.Errorf("%v: the node was told of %q, want %q", protocol, got, want)
			}
			f.ended("client-closed")
		}
		if _, err := tls.Dial("tcp", f.addr("x"), f.clientTLS("z")); err == nil || !strings.Contains(err.Error(), "no application protocol") {
			t.Errorf("%v: offered z, and got %v", protocol, err)
		}
		f.ended("tls-failed")
	}
}

// Client certificates are asked for as the listener says; the node hears whose they
// are, and they may say who the user is.
func TestTLSClientCertificates(t *testing.T) {
	t.Parallel()
	ours, others := newAuthority(t, "ours"), newAuthority(t, "others")
	alice, mallory := ours.issue(t, "alice"), others.issue(t, "alice")
	byCertificate := proxy.Identify{Chain: identify.Chain{
		{Name: "certificate", Identifier: identify.Certificate{}}, {Name: "source", Identifier: identify.Source{}},
	}}
	for name, test := range map[string]struct {
		auth tls.ClientAuthType
		show []tls.Certificate
		user string // "" if the client is refused
	}{
		"required, shown":     {tls.RequireAndVerifyClientCert, []tls.Certificate{alice}, "alice"},
		"required, not shown": {tls.RequireAndVerifyClientCert, nil, ""},
		"required, not ours":  {tls.RequireAndVerifyClientCert, []tls.Certificate{mallory}, ""},
		"optional, shown":     {tls.VerifyClientCertIfGiven, []tls.Certificate{alice}, "alice"},
		"optional, not shown": {tls.VerifyClientCertIfGiven, nil, "127.0.0.1/32"},
		"optional, not ours":  {tls.VerifyClientCertIfGiven, []tls.Certificate{mallory}, ""},
		"not asked for":       {tls.NoClientCert, []tls.Certificate{alice}, "127.0.0.1/32"},
	} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			t.Run(name+", "+tls.VersionName(version), func(t *testing.T) {
				t.Parallel()
				n := startNode(t, "one")
				pick := witnessOf(n)
				f := startOpaque(t, pick, proxy.Listener{
					Protocol: proxy.TLS, Identify: byCertificate, ClientAuth: test.auth, ClientCAs: ours.pool,
				}, nil)
				config := f.clientTLS()
				config.MaxVersion = version
				config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
					if len(test.show) == 0 {
						return new(tls.Certificate), nil
					}
					return &test.show[0], nil // whatever authorities the front names
				}
				conn, err := tls.Dial("tcp", f.addr("x"), config)
				if err == nil {
					defer conn.Close()
				}
				if test.user == "" {
					f.ended("tls-failed")
					n.idle()
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				leg := n.serve(newStream(t, conn))
				f.ended("client-closed")
				tlvs, _ := leg.header.TLVs()
				ssl, _ := tlvparse.FindSSL(tlvs)
				cn, _ := ssl.ClientCN()
				shown := test.user == "alice"
				want := ""
				if shown {
					want = "alice"
				}
				if ssl.Verified() != shown || ssl.ClientCertConn() != shown || ssl.ClientCertSess() != shown || cn != want {
					t.Errorf("the node was told %+v, %q", ssl, cn)
				}
				if got := pick.users(); !slices.Equal(got, []string{test.user}) {
					t.Errorf("picked for %q, want %q", got, test.user)
				}
			})
		}
	}
}

// A client resumes with a ticket, and the node is told of the certificate that the
// client once showed.
func TestTLSResumption(t *testing.T) {
	t.Parallel()
	ours := newAuthority(t, "ours")
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			t.Parallel()
			n := startNode(t, "one")
			f := startOpaque(t, witnessOf(n), proxy.Listener{
				Protocol: proxy.TLS, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ours.pool,
			}, nil)
			config := f.clientTLS()
			config.MaxVersion = version
			config.Certificates = []tls.Certificate{ours.issue(t, "alice")}
			config.ClientSessionCache = tls.NewLRUClientSessionCache(1)
			for _, resumed := range []bool{false, true} {
				client := f.dialSecure(config)
				leg := n.serve(client)
				f.ended("client-closed")
				tlvs, _ := leg.header.TLVs()
				ssl, _ := tlvparse.FindSSL(tlvs)
				cn, _ := ssl.ClientCN()
				if client.Conn.(*tls.Conn).ConnectionState().DidResume != resumed || ssl.ClientCertConn() == resumed ||
					!ssl.ClientCertSess() || !ssl.Verified() || cn != "alice" {
					t.Errorf("want resumption %v; the node was told %+v, %q", resumed, ssl, cn)
				}
			}
		})
	}
}

// A ticket of one listener opens no other that trusts other authorities.
func TestTLSTicketElsewhere(t *testing.T) {
	t.Parallel()
	ours, others := newAuthority(t, "ours"), newAuthority(t, "others")
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			t.Parallel()
			n := startNode(t, "one")
			f := startOpaque(t, witnessOf(n), proxy.Listener{
				Protocol: proxy.TLS, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: others.pool,
			}, func(o *proxy.Options) {
				strict := o.Listeners[0]
				strict.Name, strict.ClientCAs = "strict", ours.pool
				o.Listeners = append(o.Listeners, strict)
			})
			config := f.clientTLS()
			config.MaxVersion = version
			config.Certificates = []tls.Certificate{others.issue(t, "mallory")}
			config.ClientSessionCache = tls.NewLRUClientSessionCache(1)
			n.serve(f.dialSecure(config))
			f.ended("client-closed")

			config.ClientSessionCache = &oneSession{config.ClientSessionCache}
			if conn, err := tls.Dial("tcp", f.addr("strict"), config); err == nil {
				defer conn.Close()
			}
			f.ended("tls-failed")
			n.idle()
		})
	}
}

// oneSession offers the same session to every server.
type oneSession struct{ tls.ClientSessionCache }

func (c *oneSession) Get(string) (*tls.ClientSessionState, bool) {
	return c.ClientSessionCache.Get("example.com")
}

// On a port for both a client begins with TLS or with a stream.
func TestDirectTLSBesideSTARTTLS(t *testing.T) {
	t.Parallel()
	n, pick := onlyNode(t)
	f := startFront(t, pick, func(o *proxy.Options) { o.Listeners[0].DirectTLS = true })
	conn, err := tls.Dial("tcp", f.addr("xmpp"), f.clientTLS("xmpp-client"))
	if err != nil {
		t.Fatal(err)
	}
	for transport, client := range map[string]*peer{"tls": newPeer(t, conn), "starttls": f.dialStartTLS()} {
		leg := login(client, n, "alice")
		leg.send("<presence/>")
		client.expect("<presence/>")
		if r := f.leaves(client, leg); r["transport"] != transport {
			t.Errorf("logged the transport %q, want %q", r["transport"], transport)
		}
	}
	// Without it TLS is no stream.
	strict := startFront(t, pick, nil)
	if _, err := tls.Dial("tcp", strict.addr("xmpp"), strict.clientTLS("xmpp-client")); err == nil {
		t.Error("TLS was taken where it was not offered")
	}
	strict.ended("protocol-error")
}

// A handshake that fails says why in the log, and nothing reaches a node.
func TestTLSFails(t *testing.T) {
	t.Parallel()
	n := startNode(t, "one")
	f := startOpaque(t, witnessOf(n), proxy.Listener{Protocol: proxy.TLS}, nil)
	client := f.dial()
	client.send("GET / HTTP/1.1\r\n\r\n")
	client.over()
	f.ended("tls-failed")
	if _, err := tls.Dial("tcp", f.addr("x"), &tls.Config{
		RootCAs: x509.NewCertPool(), ServerName: "example.com", MinVersion: tls.VersionTLS12,
	}); err == nil {
		t.Error("the client took the certificate")
	}
	f.ended("tls-failed")
	var d net.Dialer
	conn, err := d.DialContext(t.Context(), "tcp", f.addr("x"))
	if err != nil {
		t.Fatal(err)
	}
	newStream(t, conn).send("\x16\x03\x01\x00")
	conn.Close()
	f.ended("tls-failed")
	n.idle()
}
