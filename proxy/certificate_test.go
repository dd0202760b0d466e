package proxy_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"

	"imlb/proxy"
)

// sign makes a client's certificate out of a template.
func (a *authority) sign(t *testing.T, template *x509.Certificate) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber, template.NotAfter = big.NewInt(4), time.Now().Add(time.Hour)
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// TestCertificateNames: a node is told the names of a certificate that was verified.
func TestCertificateNames(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "ca")
	long := strings.Repeat("x", 600)
	tests := []struct {
		name string
		auth tls.ClientAuthType
		cert *x509.Certificate // nil: none
		want string
	}{
		{"all kinds", tls.VerifyClientCertIfGiven, &x509.Certificate{
			Subject: pkix.Name{CommonName: "Alice"}, ExtraExtensions: []pkix.Extension{alternativeName("alice@example.com", "bob@example.com")},
		}, "xalice@example.com\x00xbob@example.com\x00cAlice\x00"},
		{"e-mail", tls.VerifyClientCertIfGiven, &x509.Certificate{EmailAddresses: []string{"a@example.com", "b@example.com"}}, "ea@example.com\x00eb@example.com\x00"},
		{"what is too long", tls.VerifyClientCertIfGiven, &x509.Certificate{
			Subject: pkix.Name{CommonName: "alice"}, ExtraExtensions: []pkix.Extension{alternativeName(long+"@example.com", "bob@example.com")},
		}, "xbob@example.com\x00calice\x00"},
		{"not verified", tls.RequestClientCert, &x509.Certificate{Subject: pkix.Name{CommonName: "alice"}}, ""},
		{"none", tls.VerifyClientCertIfGiven, nil, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			n := startNode(t, "one")
			f := startOpaque(t, witnessOf(n), proxy.Listener{Protocol: proxy.TLS, ClientAuth: tt.auth, ClientCAs: ca.pool}, nil)
			config := f.clientTLS()
			if tt.cert != nil {
				config.Certificates = []tls.Certificate{ca.sign(t, tt.cert)}
			}
			client := f.dialSecure(config)
			leg := n.leg()
			checkSum(t, leg.raw)
			if got := string(leg.tlv(0xE4)); got != tt.want {
				t.Errorf("the node was told %q, want %q", got, tt.want)
			}
			client.Close()
			leg.end()
		})
	}
}

// TestUnbound: a node is not told what to bind to where no client is offered to bind, since
// it would take those who say so for victims (RFC 5802 §6).
func TestUnbound(t *testing.T) {
	t.Parallel()
	for wanted, bound := range map[string]bool{
		"": true, "SCRAM-SHA-1 PLAIN": false, "SCRAM-SHA-1-PLUS SCRAM-SHA-1 PLAIN": true,
	} {
		n, pick := onlyNode(t)
		f := startFront(t, pick, func(o *proxy.Options) { o.Mechanisms = strings.Fields(wanted) })
		client := f.dialTLS()
		client.send(streamOpen)
		client.open()
		client.element()
		client.send("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>" + b64("\x00alice\x00p") + "</auth>")
		leg := n.accept()
		tlvs, err := leg.proxy.TLVs()
		if err != nil {
			t.Fatal(err)
		}
		for _, kind := range []proxyproto.PP2Type{0xE1, 0xE3} {
			if told := slices.ContainsFunc(tlvs, func(v proxyproto.TLV) bool { return v.Type == kind }); told != bound {
				t.Errorf("with %q the node is told TLV %#x: %t", wanted, byte(kind), told)
			}
		}
		aged := slices.ContainsFunc(tlvs, func(v proxyproto.TLV) bool {
			ms, err := strconv.Atoi(string(v.Value))
			return v.Type == 0xE5 && err == nil && ms >= 0 && ms < 60_000
		})
		if !aged {
			t.Errorf("the node is not told since when the client is connected: %q", tlvs)
		}
		leg.close()
		client.close()
	}
}

// TestFeaturesByCertificate: what a node offers to those who have shown a certificate
// is not offered to those who have not.
func TestFeaturesByCertificate(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "ca")
	n, pick := onlyNode(t)
	f := startFresh(t, pick, func(o *proxy.Options) {
		o.Mechanisms = nil
		for i := range o.Listeners {
			o.Listeners[i].ClientAuth, o.Listeners[i].ClientCAs = tls.VerifyClientCertIfGiven, ca.pool
		}
	})
	shown := ca.sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "alice"}})
	for _, certs := range [][]tls.Certificate{nil, {shown}} {
		config := f.clientTLS("xmpp-client")
		config.Certificates = certs
		conn, err := tls.Dial("tcp", f.addr("xmpps"), config)
		if err != nil {
			t.Fatal(err)
		}
		client := newPeer(t, conn)
		client.send(of(fresh, streamOpen))
		offer := plainOffer
		if certs != nil {
			offer = strings.Replace(plainOffer, "<mechanism>", "<mechanism>EXTERNAL</mechanism><mechanism>", 1)
		}
		n.asked(fresh, offer) // each of them makes the front ask
		client.open()
		if got := client.element(); got != offer {
			t.Errorf("got %s, want %s", got, offer)
		}
		client.close()
	}
}
