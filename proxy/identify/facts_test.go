package identify_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"net/netip"
	"net/url"
	"testing"

	"imlb/proxy/identify"
)

func TestSource(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		source identify.Source
		addr   string
		key    string
	}{
		{identify.Source{}, "203.0.113.7", "203.0.113.7/32"},
		{identify.Source{IPv4Bits: 24}, "203.0.113.7", "203.0.113.0/24"},
		{identify.Source{}, "::ffff:203.0.113.7", "203.0.113.7/32"},
		{identify.Source{}, "2001:db8::1:2:3:4", "2001:db8::/64"},
		{identify.Source{IPv6Bits: 48}, "2001:db8:1:2::3", "2001:db8:1::/48"},
		{identify.Source{IPv6Bits: 128}, "2001:db8::1", "2001:db8::1/128"},
		{identify.Source{IPv4Bits: 99, IPv6Bits: 999}, "203.0.113.7", "203.0.113.7/32"},
		{identify.Source{}, "fe80::1%eth0", "fe80::/64"},
	} {
		in := identify.Input{Facts: identify.Facts{Source: netip.MustParseAddr(c.addr)}}
		want(t, c.source.Identify(in), identify.Found, c.key)
	}
	want(t, identify.Source{}.Identify(identify.Input{}), identify.Nobody, "")
}

func TestServerName(t *testing.T) {
	t.Parallel()
	in := identify.Input{Facts: identify.Facts{ServerName: "Alice.Example."}}
	want(t, identify.ServerName{}.Identify(in), identify.Found, "alice.example")
	want(t, identify.ServerName{}.Identify(identify.Input{}), identify.Nobody, "")
}

func TestCertificate(t *testing.T) {
	t.Parallel()
	full := &x509.Certificate{
		Subject: pkix.Name{CommonName: "Alice"}, DNSNames: []string{"alice.example", "b.example"},
		EmailAddresses: []string{"alice@example.com"}, URIs: []*url.URL{{Scheme: "spiffe", Host: "example.com", Path: "/alice"}},
	}
	for _, c := range []struct {
		field identify.CertificateField
		key   string
	}{
		{identify.CommonName, "Alice"},
		{identify.DNSName, "alice.example"},
		{identify.EmailAddress, "alice@example.com"},
		{identify.URI, "spiffe://example.com/alice"},
	} {
		id := identify.Certificate{Field: c.field}
		want(t, id.Identify(identify.Input{Facts: identify.Facts{Certificate: full}}), identify.Found, c.key)
		want(t, id.Identify(identify.Input{Facts: identify.Facts{Certificate: &x509.Certificate{}}}), identify.Nobody, "")
		want(t, id.Identify(identify.Input{}), identify.Nobody, "")
	}
}
