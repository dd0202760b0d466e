package proxy_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/pires/go-proxyproto/tlvparse"

	"imlb/proxy"
)

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t testing.TB, name string) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{key: key, pool: x509.NewCertPool()}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.pool.AddCert(a.cert)
	return a
}

// issue makes a certificate for a name, which is a client's as well as a server's.
func (a *authority) issue(t testing.TB, name string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		DNSNames:    []string{name},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// selfSigned makes a certificate for example.com by a key and an algorithm.
func selfSigned(t testing.TB, key crypto.Signer, algorithm x509.SignatureAlgorithm) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(3), Subject: pkix.Name{CommonName: "example.com"}, NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"example.com"}, SignatureAlgorithm: algorithm,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// nodeTLS trusts a node's certificate, which is for example.com.
func nodeTLS(ca *x509.CertPool) *tls.Config {
	return &tls.Config{RootCAs: ca, ServerName: "example.com", MinVersion: tls.VersionTLS12}
}

// secure returns the next connection of a front, after its PROXY header and in TLS.
func (n *node) secure(cert tls.Certificate) *leg {
	n.t.Helper()
	return n.leg().server(&tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12})
}

// server ends TLS at a node.
func (l *leg) server(config *tls.Config) *leg {
	l.t.Helper()
	conn := tls.Server(l.Conn, config)
	l.soon()
	if err := conn.Handshake(); err != nil {
		l.t.Fatal(err)
	}
	l.stream = newStream(l.t, conn)
	return l
}

// checkSum checks the CRC32c of a PROXY header (2.2.4 of its specification), bit by
// bit.
func checkSum(t testing.TB, raw []byte) {
	t.Helper()
	addrs := map[byte]int{0x11: 12, 0x21: 36}[raw[13]]
	zeroed := bytes.Clone(raw)
	var sum []byte
	for at := 16 + addrs; at+3 <= len(raw); {
		size := int(binary.BigEndian.Uint16(raw[at+1:]))
		if raw[at] == 0x03 {
			sum = raw[at+3 : at+3+size]
			clear(zeroed[at+3 : at+3+size])
		}
		at += 3 + size
	}
	crc := ^uint32(0)
	for _, b := range zeroed {
		crc ^= uint32(b)
		for range 8 {
			odd := crc&1 == 1
			if crc >>= 1; odd {
				crc ^= crc32.Castagnoli
			}
		}
	}
	if len(sum) != 4 || binary.BigEndian.Uint32(sum) != ^crc {
		t.Errorf("the checksum is %x, want %x", sum, ^crc)
	}
}

// What the front knows of its clients is in the PROXY header.
func TestNodeLegHeader(t *testing.T) {
	t.Parallel()
	n := startNode(t, "one")
	f := startOpaque(t, witnessOf(n), proxy.Listener{Protocol: proxy.TLS, ALPN: []string{"irc", "smtp"}}, nil)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			config := f.clientTLS("smtp", "x")
			config.MinVersion, config.MaxVersion = version, version
			client := f.dialSecure(config)
			leg := n.leg()
			checkSum(t, leg.raw)
			if got := leg.header.SourceAddr.String(); got != client.LocalAddr().String() {
				t.Errorf("source %s", got)
			}
			if got := leg.header.DestinationAddr.String(); got != f.addr("x") {
				t.Errorf("destination %s", got)
			}
			state := client.Conn.(*tls.Conn).ConnectionState()
			exported, err := state.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32)
			if err != nil {
				t.Fatal(err)
			}
			endPoint := sha256.Sum256(state.PeerCertificates[0].Raw)
			for kind, want := range map[byte]string{
				0x01: "smtp", 0x02: "example.com", 0xE0: "tls", 0xE1: string(exported), 0xE3: string(endPoint[:]),
			} {
				if got := string(leg.tlv(kind)); got != want {
					t.Errorf("TLV %#x is %q, want %q", kind, got, want)
				}
			}
			tlvs, _ := leg.header.TLVs()
			ssl, ok := tlvparse.FindSSL(tlvs)
			name, _ := ssl.SSLVersion()
			cipher, _ := ssl.SSLCipher()
			wantName := map[uint16]string{tls.VersionTLS12: "TLSv1.2", tls.VersionTLS13: "TLSv1.3"}[version]
			if !ok || !ssl.ClientSSL() || ssl.Verified() || ssl.ClientCertConn() || ssl.ClientCertSess() ||
				name != wantName || cipher != tls.CipherSuiteName(state.CipherSuite) {
				t.Errorf("SSL TLV %+v %s %s", ssl, name, cipher)
			}
			r := f.hangsUp(client, leg)
			if id := string(leg.tlv(0x05)); id != r["id"] || id == "" {
				t.Errorf("unique id %q, and %q in the log", id, r["id"])
			}
			if r["alpn"] != "smtp" || r["server_name"] != "example.com" || r["transport"] != "tls" {
				t.Errorf("logged %v", r)
			}
		})
	}
}

// A connection in the clear says so, by saying no more than that.
func TestNodeLegPlain(t *testing.T) {
	t.Parallel()
	n := startNode(t, "one")
	f := startOpaque(t, witnessOf(n), proxy.Listener{Protocol: proxy.TCP}, nil)
	client := f.dial()
	leg := n.leg()
	checkSum(t, leg.raw)
	if got := string(leg.tlv(0xE0)); got != "tcp" {
		t.Errorf("transport %q", got)
	}
	for _, kind := range []byte{0x01, 0x02, 0x20, 0xE1, 0xE3} {
		if got := leg.tlv(kind); got != nil {
			t.Errorf("TLV %#x is %q", kind, got)
		}
	}
	client.Close()
	leg.end()
}

// RFC 5929 §4.1: the hash function is the signature's, unless that is weak. The
// certificate is that which this client saw, wherever it comes from.
func TestNodeLegEndPoint(t *testing.T) {
	t.Parallel()
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	hash256 := func(b []byte) []byte { s := sha256.Sum256(b); return s[:] }
	hash384 := func(b []byte) []byte { s := sha512.Sum384(b); return s[:] }
	hash512 := func(b []byte) []byte { s := sha512.Sum512(b); return s[:] }
	tests := map[string]struct {
		cert tls.Certificate
		hash func([]byte) []byte
	}{
		"P-256":        {selfSigned(t, p256, x509.ECDSAWithSHA256), hash256},
		"P-384":        {selfSigned(t, p384, x509.ECDSAWithSHA384), hash384},
		"RSA, SHA-384": {selfSigned(t, rsaKey, x509.SHA384WithRSA), hash384},
		"RSA, SHA-512": {selfSigned(t, rsaKey, x509.SHA512WithRSA), hash512},
		"RSA-PSS":      {selfSigned(t, rsaKey, x509.SHA256WithRSAPSS), hash256},
	}
	for name, test := range tests {
		for how, config := range map[string]*tls.Config{
			"fixed": {Certificates: []tls.Certificate{test.cert}, MinVersion: tls.VersionTLS12},
			"got": {GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &test.cert, nil },
				MinVersion: tls.VersionTLS12},
		} {
			t.Run(name+", "+how, func(t *testing.T) {
				t.Parallel()
				n := startNode(t, "one")
				f := startOpaque(t, witnessOf(n), proxy.Listener{Protocol: proxy.TLS}, func(o *proxy.Options) { o.TLS = config })
				trust := f.clientTLS()
				trust.RootCAs = x509.NewCertPool()
				trust.RootCAs.AddCert(parsed(t, test.cert))
				client := f.dialSecure(trust)
				leg := n.leg()
				want := test.hash(client.Conn.(*tls.Conn).ConnectionState().PeerCertificates[0].Raw)
				if got := leg.tlv(0xE3); !bytes.Equal(got, want) {
					t.Errorf("the node was told %x, want %x", got, want)
				}
				client.Close()
				leg.end()
			})
		}
	}
}

// Of several certificates the client sees the one that is for it, and the node hears
// of that one.
func TestNodeLegCertificates(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "ca")
	n := startNode(t, "one")
	certs := []tls.Certificate{ca.issue(t, "a.example"), ca.issue(t, "b.example")}
	f := startOpaque(t, witnessOf(n), proxy.Listener{Protocol: proxy.TLS}, func(o *proxy.Options) {
		o.TLS = &tls.Config{Certificates: certs, MinVersion: tls.VersionTLS12}
	})
	for i, name := range []string{"a.example", "b.example"} {
		client := f.dialSecure(&tls.Config{RootCAs: ca.pool, ServerName: name, MinVersion: tls.VersionTLS12})
		leg := n.leg()
		want := sha256.Sum256(certs[i].Certificate[0])
		if got := leg.tlv(0xE3); !bytes.Equal(got, want[:]) {
			t.Errorf("%s: the node was told %x, want %x", name, got, want)
		}
		f.hangsUp(client, leg)
	}
}

// A pool chooses what its nodes understand.
func TestNodeLegForms(t *testing.T) {
	t.Parallel()
	header := func(t *testing.T, h proxy.Header) (client, atNode *stream) {
		n := startNode(t, "one")
		f := startOpaque(t, witnessOf(n), proxy.Listener{Protocol: proxy.TCP}, func(o *proxy.Options) {
			p := o.Pools["nodes"]
			p.Header = h
			o.Pools["nodes"] = p
		})
		client = f.dial()
		return client, n.take()
	}
	passes := func(client, atNode *stream) {
		client.send("hello")
		atNode.recv("hello")
		client.Close()
		atNode.end()
	}
	t.Run("version 1", func(t *testing.T) {
		client, atNode := header(t, proxy.HeaderV1)
		source, destination := client.LocalAddr().(*net.TCPAddr), client.RemoteAddr().(*net.TCPAddr)
		_, sourcePort, _ := net.SplitHostPort(source.String())
		_, destinationPort, _ := net.SplitHostPort(destination.String())
		atNode.recv("PROXY TCP4 127.0.0.1 127.0.0.1 " + sourcePort + " " + destinationPort + "\r\n")
		passes(client, atNode)
	})
	t.Run("none", func(t *testing.T) {
		passes(header(t, proxy.HeaderNone))
	})
}

// A node that is gone in the middle of a record of TLS was lost, and its client must not take what it has got
// for all; one that ends TCP between two records has closed, as many do.
func TestNodeLegTLSCutOff(t *testing.T) {
	t.Parallel()
	ours := newAuthority(t, "ours")
	for name, way := range map[string]struct {
		listener proxy.Listener
		dial     func(*front) *stream
	}{
		"tcp":  {proxy.Listener{Protocol: proxy.TCP}, (*front).dial},
		"quic": {proxy.Listener{Protocol: proxy.QUIC, ALPN: []string{"chat"}}, (*front).openOpaqueQUIC},
	} {
		for last, reason := range map[string]string{"\x17\x03\x03\x00\x20th": "node-lost", "": "node-closed"} {
			t.Run(name+", "+reason, func(t *testing.T) {
				t.Parallel()
				n := startNode(t, "one")
				pick := witnessOf(n)
				f := startOpaque(t, pick, way.listener, func(o *proxy.Options) {
					o.Pools["nodes"] = proxy.Pool{Picker: pick, TLS: &tls.Config{RootCAs: ours.pool, ServerName: "node.internal", MinVersion: tls.VersionTLS12}}
				})
				client := way.dial(f)
				client.send("up")
				leg := n.leg().server(&tls.Config{Certificates: []tls.Certificate{ours.issue(t, "node.internal")}, MinVersion: tls.VersionTLS12})
				leg.recv("up")
				leg.send("down")
				client.recv("down")
				if _, err := leg.tcp().Write([]byte(last)); err != nil {
					t.Fatal(err)
				}
				leg.tcp().Close()
				client.soon()
				if _, err := client.Read(make([]byte, 1)); errors.Is(err, io.EOF) != (reason == "node-closed") {
					t.Errorf("the client has read %v", err)
				}
				client.Close()
				f.ended(reason)
			})
		}
	}
}

// Nodes may want to know that it is the front that talks to them, and the front, that
// they are its nodes.
func TestNodeLegTLS(t *testing.T) {
	t.Parallel()
	ours, others := newAuthority(t, "ours"), newAuthority(t, "others")
	own := ours.issue(t, "front.internal")
	start := func(t *testing.T, config *tls.Config) (*front, *node) {
		n := startNode(t, "one")
		pick := witnessOf(n)
		f := startOpaque(t, pick, proxy.Listener{Protocol: proxy.TCP}, func(o *proxy.Options) {
			o.Pools["nodes"] = proxy.Pool{Picker: pick, TLS: config, Park: time.Hour} // of no use here
		})
		return f, n
	}
	strict := func(cert tls.Certificate) *tls.Config {
		return &tls.Config{
			Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12,
			ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ours.pool,
		}
	}
	t.Run("both show certificates", func(t *testing.T) {
		f, n := start(t, &tls.Config{
			RootCAs: ours.pool, ServerName: "node.internal", Certificates: []tls.Certificate{own}, MinVersion: tls.VersionTLS12,
		})
		client := f.dial()
		leg := n.leg().server(strict(ours.issue(t, "node.internal")))
		if got := leg.Conn.(*tls.Conn).ConnectionState().PeerCertificates[0].Subject.CommonName; got != "front.internal" {
			t.Errorf("the node saw %q", got)
		}
		client.send("up")
		leg.recv("up")
		leg.send("down")
		leg.closeWrite()
		client.recv("down")
		client.end()
		client.send("on")
		client.closeWrite()
		leg.recv("on")
		leg.end()
		f.ended("node-closed")
	})
	for name, test := range map[string]struct {
		cert  tls.Certificate
		cause string
	}{
		"wrong authority": {others.issue(t, "node.internal"), "x509: certificate signed by unknown authority"},
		"wrong name":      {ours.issue(t, "other.internal"), "x509: certificate is valid for other.internal, not node.internal"},
	} {
		t.Run(name, func(t *testing.T) {
			f, n := start(t, &tls.Config{
				RootCAs: ours.pool, ServerName: "node.internal", Certificates: []tls.Certificate{own}, MinVersion: tls.VersionTLS12,
			})
			client := f.dial()
			leg := n.leg()
			leg.soon()
			if err := tls.Server(leg.Conn, strict(test.cert)).Handshake(); err == nil {
				t.Error("the front took it")
			}
			leg.Close()
			client.over()
			if r := f.ended("dial-failed"); !strings.Contains(r["cause"], "dial one: TLS: ") || !strings.Contains(r["cause"], test.cause) {
				t.Errorf("logged the cause %q", r["cause"])
			}
		})
	}
	t.Run("the node does not know the front", func(t *testing.T) {
		f, n := start(t, &tls.Config{
			RootCAs: ours.pool, ServerName: "node.internal", MinVersion: tls.VersionTLS12, MaxVersion: tls.VersionTLS12,
			Certificates: []tls.Certificate{others.issue(t, "front.internal")},
		})
		client := f.dial()
		leg := n.leg()
		leg.soon()
		if err := tls.Server(leg.Conn, strict(ours.issue(t, "node.internal"))).Handshake(); err == nil {
			t.Error("the node took it")
		}
		leg.Close()
		client.over()
		if r := f.ended("dial-failed"); !strings.Contains(r["cause"], "dial one: TLS: remote error: tls: ") {
			t.Errorf("logged the cause %q", r["cause"])
		}
	})
	t.Run("the node does not do TLS", func(t *testing.T) {
		f, n := start(t, &tls.Config{RootCAs: ours.pool, ServerName: "node.internal", MinVersion: tls.VersionTLS12})
		client := f.dial()
		leg := n.leg()
		leg.send("220 node ready\r\n")
		client.over()
		if r := f.ended("dial-failed"); !strings.Contains(r["cause"], "first record does not look like a TLS handshake") {
			t.Errorf("logged the cause %q", r["cause"])
		}
		leg.Close()
	})
	t.Run("named by its address", func(t *testing.T) {
		f, n := start(t, &tls.Config{RootCAs: ours.pool, MinVersion: tls.VersionTLS12})
		client := f.dial()
		leg := n.leg()
		leg.soon()
		_ = tls.Server(leg.Conn, &tls.Config{
			Certificates: []tls.Certificate{ours.issue(t, "node.internal")}, MinVersion: tls.VersionTLS12,
		}).Handshake()
		leg.Close()
		_, _ = io.Copy(io.Discard, client)
		if r := f.ended("dial-failed"); !strings.Contains(r["cause"], n.ln.Addr().(*net.TCPAddr).IP.String()) {
			t.Errorf("logged the cause %q", r["cause"])
		}
	})
}
