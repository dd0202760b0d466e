package proxy_test

import (
	"crypto/tls"
	"io"
	"net"
	"slices"
	"strings"
	"testing"

	"imlb/proxy"
	"imlb/proxy/identify"
)

// chopped writes a few bytes at a time, at first.
type chopped struct {
	net.Conn
	size int
	left int // bytes until it is at it
}

func (c *chopped) Write(p []byte) (n int, err error) {
	if c.left -= len(p); c.left < 0 {
		return c.Conn.Write(p)
	}
	for n < len(p) && err == nil {
		var m int
		m, err = c.Conn.Write(p[n:min(n+c.size, len(p))])
		n += m
	}
	return n, err
}

// pass carries TLS from a client to a node that ends it, and checks that nothing of it
// is the front's.
func pass(t *testing.T, client net.Conn, trust *tls.Config, n *node, server *tls.Config) *leg {
	t.Helper()
	secure := tls.Client(client, trust)
	shaken := make(chan error, 1)
	go func() { shaken <- secure.Handshake() }()
	leg := n.leg()
	checkSum(t, leg.raw)
	leg.server(server)
	if err := <-shaken; err != nil {
		t.Fatal(err)
	}
	c := newStream(t, secure)
	mine, theirs := secure.ConnectionState(), leg.Conn.(*tls.Conn).ConnectionState()
	a, errA := mine.ExportKeyingMaterial("x", nil, 32)
	b, errB := theirs.ExportKeyingMaterial("x", nil, 32)
	if errA != nil || errB != nil || !slices.Equal(a, b) {
		t.Errorf("the ends have different keys: %v, %v", errA, errB)
	}
	if got, want := mine.PeerCertificates[0].Raw, server.Certificates[0].Certificate[0]; !slices.Equal(got, want) {
		t.Error("the client saw another certificate than the node's")
	}
	big := string(pattern(300 << 10))
	sent := make(chan error, 1)
	go func() {
		_, err := io.WriteString(c, big)
		sent <- err
	}()
	leg.recv(big)
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	leg.send("down")
	c.recv("down")
	c.closeWrite() // of TLS, and not of TCP
	leg.end()
	leg.Close()
	c.end()
	c.Close()
	return leg
}

// TLS that passes through is the node's own, and the node is told what the first message
// of the handshake said.
func TestPassthrough(t *testing.T) {
	t.Parallel()
	ca, fronts := newAuthority(t, "nodes"), newAuthority(t, "fronts")
	for _, size := range []int{1 << 20, 100, 1} {
		n := startNode(t, "one")
		pick := witnessOf(n)
		f := startOpaque(t, pick, proxy.Listener{
			Protocol: proxy.TLS, Passthrough: true,
			Identify: proxy.Identify{Chain: identify.Chain{{Name: "sni", Identifier: identify.SNI{}}}},
		}, func(o *proxy.Options) { o.TLS = names(fronts, t, "a.example.com") })
		server := &tls.Config{
			Certificates: []tls.Certificate{ca.issue(t, "a.example.com")}, NextProtos: []string{"y"}, MinVersion: tls.VersionTLS12,
		}
		trust := &tls.Config{RootCAs: ca.pool, ServerName: "a.example.com", NextProtos: []string{"x", "y"}, MinVersion: tls.VersionTLS12}
		leg := pass(t, &chopped{f.dial().Conn, size, 4 << 10}, trust, n, server)
		for kind, want := range map[byte]string{0x01: "x", 0x02: "a.example.com", 0xE0: "tls-passthrough", 0x20: "", 0xE1: "", 0xE3: ""} {
			if got := string(leg.tlv(kind)); got != want {
				t.Errorf("TLV %#x is %q, want %q", kind, got, want)
			}
		}
		r := f.ended("node-closed")
		if got := pick.users(); !slices.Equal(got, []string{"a.example.com"}) || r["transport"] != "tls-passthrough" ||
			r["server_name"] != "a.example.com" || r["tls"] != "" {
			t.Errorf("picked for %q, logged %v", got, r)
		}
	}
}

// Some names and protocols pass through and others end here, on one listener.
func TestPassthroughRoutes(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "both")
	here, own, irc := startNode(t, "here"), startNode(t, "own"), startNode(t, "irc")
	f := startOpaque(t, witnessOf(here), proxy.Listener{
		Protocol: proxy.TLS, ALPN: []string{"x"},
		Routes: []proxy.Route{
			{ServerNames: []string{"*.own.example"}, Pool: "own", Passthrough: true},
			{ALPN: []string{"irc"}, Pool: "irc", Passthrough: true},
			{ServerNames: []string{"not.own.example"}, Pool: "nodes"},
		},
	}, func(o *proxy.Options) {
		o.TLS = names(ca, t, "here.example", "not.own.example")
		o.Pools["own"] = proxy.Pool{Picker: witnessOf(own)}
		o.Pools["irc"] = proxy.Pool{Picker: witnessOf(irc)}
	})
	for _, test := range []struct {
		name, alpn string
		node       *node
		passes     bool
	}{
		{"a.own.example", "x", own, true},
		{"a.own.example", "irc", own, true},
		{"here.example", "irc", irc, true},
		{"here.example", "x", here, false},
		{"not.own.example", "x", here, false},
	} {
		t.Run(test.name+" "+test.alpn, func(t *testing.T) {
			trust := &tls.Config{RootCAs: ca.pool, ServerName: test.name, NextProtos: []string{test.alpn}, MinVersion: tls.VersionTLS12}
			transport, reason := "tls", "client-closed"
			if test.passes {
				transport, reason = "tls-passthrough", "node-closed"
				pass(t, f.dial(), trust, test.node, &tls.Config{
					Certificates: []tls.Certificate{ca.issue(t, test.name)}, NextProtos: []string{test.alpn}, MinVersion: tls.VersionTLS12,
				})
			} else {
				test.node.serve(f.dialSecure(trust))
			}
			if r := f.ended(reason); r["transport"] != transport || r["node"] != test.node.name {
				t.Errorf("logged %v", r)
			}
		})
	}
	// Neither a name nor a protocol: what is left is the listener's own.
	here.serve(f.dialSecure(&tls.Config{
		RootCAs: ca.pool, ServerName: "here.example", MinVersion: tls.VersionTLS12,
	}))
	f.ended("client-closed")
}

// The front needs no certificates for what it does not end.
func TestPassthroughAlone(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "nodes")
	n := startNode(t, "one")
	f := startOpaque(t, witnessOf(n), proxy.Listener{Protocol: proxy.TLS, Passthrough: true}, func(o *proxy.Options) { o.TLS = nil })
	// A client that names nobody may pass, too.
	leg := pass(t, f.dial(), &tls.Config{
		RootCAs: ca.pool, MinVersion: tls.VersionTLS12, InsecureSkipVerify: true, //nolint:gosec // so that there is no SNI
	}, n, &tls.Config{Certificates: []tls.Certificate{ca.issue(t, "a.example.com")}, MinVersion: tls.VersionTLS12})
	if got := leg.tlv(0x02); got != nil {
		t.Errorf("the node was told of the name %q", got)
	}
	f.ended("node-closed")
}

// What does not begin like TLS is not let through.
func TestPassthroughGarbage(t *testing.T) {
	t.Parallel()
	n := startNode(t, "one")
	f := startOpaque(t, witnessOf(n), proxy.Listener{Protocol: proxy.TLS, Passthrough: true}, nil)
	for name, test := range map[string]struct{ sent, reason string }{
		"HTTP":            {"GET / HTTP/1.1\r\n\r\n", "tls-failed"},
		"another message": {"\x16\x03\x01\x00\x05\x02\x00\x00\x01\x00", "tls-failed"},
		"an alert":        {"\x15\x03\x01\x00\x02\x01\x00", "tls-failed"},
		"too long":        {"\x16\x03\x01\x40\x00\x01\x00\xff\xff" + strings.Repeat("\x00", 20), "tls-failed"},
		"cut short":       {"\x16\x03\x01\x02\x00\x01\x00\x01", "client-closed"},
	} {
		t.Run(name, func(t *testing.T) {
			client := f.dial()
			client.send(test.sent)
			client.closeWrite()
			if got := client.over(); got != "" {
				t.Errorf("the client got %q", got)
			}
			f.ended(test.reason)
			n.idle()
		})
	}
}
