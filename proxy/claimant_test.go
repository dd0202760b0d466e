package proxy_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"reflect"
	"strings"
	"testing"
	"time"

	"imlb/proxy"
)

// allOffer is what a node offers that knows many mechanisms.
const allOffer = "<stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>EXTERNAL</mechanism>" +
	"<mechanism>SCRAM-SHA-1-PLUS</mechanism><mechanism>SCRAM-SHA-1</mechanism><mechanism>OAUTHBEARER</mechanism>" +
	"<mechanism>X-OAUTH2</mechanism><mechanism>DIGEST-MD5</mechanism><mechanism>PLAIN</mechanism></mechanisms>" +
	"<settle xmlns='urn:imlb:front:0'/></stream:features>"

// jwt returns an unsigned token with claims.
func jwt(claims string) string {
	return "e30." + strings.TrimRight(strings.NewReplacer("+", "-", "/", "_").Replace(b64(claims)), "=") + ".x"
}

func bearer(authzid, token string) string {
	if authzid != "" {
		authzid = "a=" + authzid
	}
	return "n," + authzid + ",\x01auth=Bearer " + token + "\x01\x01"
}

// Whom a login is for, by all that the client says. "" stands for a refusal.
func TestClaimant(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, mechanism, initial string
		from                     string // of the stream
		cert                     *x509.Certificate
		want                     string
	}{
		{name: "PLAIN", mechanism: "PLAIN", initial: "\x00Alice\x00p", want: "alice"},
		{name: "whole address", mechanism: "PLAIN", initial: "\x00alice@Example.com\x00p", want: "alice"},
		{name: "address elsewhere", mechanism: "PLAIN", initial: "\x00alice@example.net\x00p"},
		{name: "authzid", mechanism: "PLAIN", initial: "bob@example.com\x00admin\x00p", want: "bob"},
		{name: "authzid elsewhere", mechanism: "PLAIN", initial: "bob@example.net\x00admin\x00p", want: "admin"},
		{name: "no user", mechanism: "PLAIN", initial: "\x00a b\x00p"},
		{name: "no user, from", mechanism: "PLAIN", initial: "\x00a b\x00p", from: "carol@example.com"},
		{name: "the name, not from", mechanism: "PLAIN", initial: "\x00alice\x00p", from: "carol@example.com", want: "alice"},
		{name: "SCRAM", mechanism: "SCRAM-SHA-1", initial: "n,,n=alice,r=x", want: "alice"},
		{name: "SCRAM authzid", mechanism: "SCRAM-SHA-1", initial: "n,a=bob@example.com,n=alice,r=x", want: "bob"},
		{name: "SCRAM-PLUS", mechanism: "SCRAM-SHA-1-PLUS", initial: "p=tls-exporter,,n=alice,r=x", want: "alice"},
		{name: "X-OAUTH2", mechanism: "X-OAUTH2", initial: "\x00alice\x00token", want: "alice"},
		{name: "OAUTHBEARER", mechanism: "OAUTHBEARER", initial: bearer("alice@example.com", jwt(`{"sub":"bob"}`)), want: "alice"},
		{name: "token's jid", mechanism: "OAUTHBEARER", initial: bearer("", jwt(`{"sub":"u1","preferred_username":"bob","jid":"alice@example.com"}`)), want: "alice"},
		{name: "token's name", mechanism: "OAUTHBEARER", initial: bearer("", jwt(`{"sub":"u1","preferred_username":"alice"}`)), want: "alice"},
		{name: "token's subject", mechanism: "OAUTHBEARER", initial: bearer("", jwt(`{"sub":"alice","jid":"x@example.net"}`)), want: "alice"},
		{name: "opaque token, from", mechanism: "OAUTHBEARER", initial: bearer("", "abc"), from: "alice@example.com/r", want: "alice"},
		{name: "EXTERNAL", mechanism: "EXTERNAL", initial: "alice@example.com", from: "bob@example.com", want: "alice"},
		{name: "EXTERNAL, from", mechanism: "EXTERNAL", from: "alice@example.com", want: "alice"},
		{name: "EXTERNAL, from elsewhere", mechanism: "EXTERNAL", from: "alice@example.net"},
		{name: "EXTERNAL, from nobody", mechanism: "EXTERNAL", from: "example.com"},
		{name: "EXTERNAL, xmppAddr", mechanism: "EXTERNAL", cert: &x509.Certificate{
			Subject: pkix.Name{CommonName: "cn"}, ExtraExtensions: []pkix.Extension{alternativeName("x@example.net", "alice@example.com")},
		}, want: "alice"},
		{name: "EXTERNAL, e-mail", mechanism: "EXTERNAL", cert: &x509.Certificate{
			Subject: pkix.Name{CommonName: "cn"}, EmailAddresses: []string{"alice@example.com"},
		}, want: "alice"},
		{name: "EXTERNAL, common name", mechanism: "EXTERNAL", cert: &x509.Certificate{Subject: pkix.Name{CommonName: "alice"}}, want: "alice"},
		{name: "EXTERNAL, the certificate, not from", mechanism: "EXTERNAL", from: "bob@example.com", cert: &x509.Certificate{
			EmailAddresses: []string{"bob@example.net", "alice@example.com"},
		}, want: "alice"},
		{name: "EXTERNAL, from among several", mechanism: "EXTERNAL", from: "alice@example.com", cert: &x509.Certificate{
			EmailAddresses: []string{"bob@example.com", "Alice@example.com"},
		}, want: "alice"},
		{name: "EXTERNAL, from of whom it does not name", mechanism: "EXTERNAL", from: "alice@example.com", cert: &x509.Certificate{
			EmailAddresses: []string{"bob@example.net"},
		}, want: "alice"},
		{name: "EXTERNAL, full name", mechanism: "EXTERNAL", cert: &x509.Certificate{Subject: pkix.Name{CommonName: "Alice Liddell"}}},
		{name: "unreadable, from", mechanism: "DIGEST-MD5", initial: "x", from: "alice@example.com", want: "alice"},
		{name: "unreadable", mechanism: "DIGEST-MD5", initial: "x"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			n, pick := onlyNode(t)
			f := startFront(t, pick, func(o *proxy.Options) {
				o.Mechanisms = nil
				for i := range o.Listeners {
					o.Listeners[i].ClientAuth = tls.RequestClientCert
				}
			})
			if err := f.Learn("nodes", "example.com", allOffer); err != nil {
				t.Fatal(err)
			}
			client := f.dialAs(tt.cert)
			open := streamOpen
			if tt.from != "" {
				open = strings.Replace(open, " to=", " from='"+tt.from+"' to=", 1)
			}
			client.send(open)
			client.open()
			if offered := strings.Contains(client.element(), ">DIGEST-MD5<"); offered != (tt.from == "alice@example.com" || strings.HasPrefix(tt.from, "alice@example.com/") || strings.Contains(tt.from, "carol") || strings.Contains(tt.from, "bob")) {
				t.Errorf("a mechanism that cannot be read was offered: %t", offered)
			}
			initial := b64(tt.initial)
			if initial == "" {
				initial = "="
			}
			auth := "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='" + tt.mechanism + "'>" + initial + "</auth>"
			client.send(auth)
			if tt.want == "" {
				if e := client.element(); !strings.HasPrefix(e, "<failure ") {
					t.Errorf("got %s", e)
				}
				client.close()
				f.ended("auth-failed")
				return
			}
			leg := n.accept()
			if h := leg.open(); !strings.Contains(h, " from='"+tt.want+"@example.com'") {
				t.Errorf("stream header for the node %s", h)
			}
			leg.send(nodeHeader + allOffer)
			leg.expect(auth)
			leg.send(failure("not-authorized"))
			client.expect(failure("not-authorized"))
			client.close()
			leg.eof()
			leg.close()
			f.ended("auth-failed")
		})
	}
}

// Whose token does not say who it is, and who does not say it otherwise, is told what is wrong before the login
// fails, as RFC 7628 §3.2.3 wants it, and may try again with a name. No node hears of it.
func TestTokenOfNobody(t *testing.T) {
	t.Parallel()
	const refusal = `{"status":"invalid_request"}`
	n, pick := onlyNode(t)
	f := startFront(t, pick, func(o *proxy.Options) { o.Mechanisms, o.Limits.AuthAttempts = nil, 100 })
	offer := strings.ReplaceAll(sasl2Offer, "<mechanism>PLAIN</mechanism>", "<mechanism>PLAIN</mechanism><mechanism>OAUTHBEARER</mechanism>")
	if err := f.Learn("nodes", "example.com", offer); err != nil {
		t.Fatal(err)
	}
	const sasl = " xmlns='urn:ietf:params:xml:ns:xmpp-sasl'"
	auth := func(initial string) string {
		return "<auth" + sasl + " mechanism='OAUTHBEARER'>" + b64(initial) + "</auth>"
	}
	auth2 := func(initial string) string { return authenticate("OAUTHBEARER", initial, "") }
	challenged := "<challenge" + sasl + ">" + b64(refusal) + "</challenge>"
	challenged2 := "<challenge" + sasl2NS + ">" + b64(refusal) + "</challenge>"
	noted := exchange{"<response" + sasl + ">AQ==</response>", failure("not-authorized")}
	noted2 := exchange{"<response" + sasl2NS + ">AQ==</response>", failure2("not-authorized")}
	client := f.dialTLS()
	client.send(streamOpen)
	client.open()
	client.element()
	for name, steps := range map[string][]exchange{
		"opaque":                   {{auth(bearer("", "abc")), challenged}, noted},
		"opaque, SASL2":            {{auth2(bearer("", "abc")), challenged2}, noted2},
		"no token":                 {{auth("n,,\x01\x01"), challenged}, noted},
		"other claims":             {{auth(bearer("", jwt(`{"email":"alice@example.com"}`))), challenged}, noted},
		"of another domain":        {{auth(bearer("alice@example.net", jwt(`{"sub":"alice@example.net"}`))), challenged}, noted},
		"says more":                {{auth(bearer("", "abc")), challenged}, {"<response" + sasl + ">" + b64("why?") + "</response>", failure("not-authorized")}},
		"aborts":                   {{auth(bearer("", "abc")), challenged}, {"<abort" + sasl + "/>", failure("aborted")}},
		"aborts, SASL2":            {{auth2(bearer("", "abc")), challenged2}, {"<abort" + sasl2NS + "/>", failure2("aborted")}},
		"begins anew":              {{auth(bearer("", "abc")), challenged}, {auth(bearer("", "abc")), failure("malformed-request")}},
		"no base64":                {{auth(bearer("", "abc")), challenged}, {"<response" + sasl + ">!</response>", failure("incorrect-encoding")}},
		"no initial response":      {{"<auth" + sasl + " mechanism='OAUTHBEARER'/>", "<challenge" + sasl + "/>"}, {"<response" + sasl + ">" + b64(bearer("", "abc")) + "</response>", challenged}, noted},
		"nothing to be understood": {{auth("abc"), "<failure" + sasl + "><malformed-request/><text xml:lang='en'>not an OAUTHBEARER message</text></failure>"}},
	} {
		for _, step := range steps {
			client.send(step.send)
			if got := client.element(); got != step.want {
				t.Fatalf("%s: to %s: got %s, want %s", name, step.send, got, step.want)
			}
		}
	}
	named := auth(bearer("alice@example.com", "abc"))
	client.send(named)
	leg := n.accept()
	leg.open()
	leg.send(nodeHeader + offer)
	leg.expect(named)
	leg.send(failure("not-authorized"))
	client.expect(failure("not-authorized"))
	client.close()
	leg.eof()
	leg.close()
	f.ended("auth-failed")
}

// dialAs returns a client on TLS that shows a certificate, if cert is not nil.
func (f *front) dialAs(cert *x509.Certificate) *peer {
	f.t.Helper()
	config := f.clientTLS("xmpp-client")
	if cert != nil {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			f.t.Fatal(err)
		}
		cert.SerialNumber, cert.NotAfter = big.NewInt(2), time.Now().Add(time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
		if err != nil {
			f.t.Fatal(err)
		}
		config.Certificates = []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}
	}
	conn, err := tls.Dial("tcp", f.addr("xmpps"), config)
	if err != nil {
		f.t.Fatal(err)
	}
	return newPeer(f.t, conn)
}

// alternativeName returns a SubjectAltName with XMPP addresses among others.
func alternativeName(addresses ...string) pkix.Extension {
	type otherName struct {
		ID    asn1.ObjectIdentifier
		Value asn1.RawValue
	}
	encode := func(v any, params string) asn1.RawValue {
		der, err := asn1.MarshalWithParams(v, params)
		if err != nil {
			panic(err)
		}
		return asn1.RawValue{FullBytes: der}
	}
	utf8 := func(s string) asn1.RawValue { // [0] EXPLICIT UTF8String
		return asn1.RawValue{Class: asn1.ClassContextSpecific, IsCompound: true, Bytes: encode(s, "utf8").FullBytes}
	}
	names := []asn1.RawValue{
		encode("example.com", "tag:2"),
		encode(otherName{asn1.ObjectIdentifier{1, 2, 3}, utf8("no@example.com")}, "tag:0"),
	}
	for _, a := range addresses {
		names = append(names, encode(otherName{asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 8, 5}, utf8(a)}, "tag:0"))
	}
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: encode(names, "").FullBytes}
}

func TestOtherNames(t *testing.T) {
	t.Parallel()
	want := []string{"a@example.com", "b@example.com"}
	if got := proxy.OtherNames(alternativeName(want...).Value); !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, der := range []string{"", "\x30", "\x30\x02\xa0\x00", "\x04\x02\xa0\x00"} {
		if got := proxy.OtherNames([]byte(der)); got != nil {
			t.Errorf("%q: got %q", der, got)
		}
	}
}

// FuzzOtherNames: no certificate makes more of a name than it holds.
func FuzzOtherNames(f *testing.F) {
	f.Add(alternativeName("a@example.com").Value)
	f.Fuzz(func(t *testing.T, der []byte) {
		total := 0
		for _, name := range proxy.OtherNames(der) {
			total += len(name)
		}
		if total > len(der) {
			t.Fatalf("%d bytes of names in %d", total, len(der))
		}
	})
}
