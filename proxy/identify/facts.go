package identify

import (
	"crypto/x509"
	"net/netip"
)

// Source makes a user of each source prefix. It finds one whenever the address is
// known, which makes it a good last step.
type Source struct {
	IPv4Bits int // length of the prefix; 0 means 32
	IPv6Bits int // length of the prefix; 0 means 64, what one household is given
}

// Identify reads in.Source. The key is the prefix, like 203.0.113.7/32 or
// 2001:db8::/64; zones are dropped, and IPv4 is IPv4 in IPv6, too.
func (s Source) Identify(in Input) Result {
	addr := in.Source.Unmap().WithZone("")
	bits := orDefault(s.IPv6Bits, 64)
	if addr.Is4() {
		bits = orDefault(s.IPv4Bits, 32)
	}
	prefix, err := addr.Prefix(min(bits, addr.BitLen()))
	if err != nil || prefix == (netip.Prefix{}) {
		return none(Nobody)
	}
	var text [len("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128")]byte
	return foundBytes(prefix.AppendTo(text[:0]))
}

// ServerName finds the user in the server name of the TLS that the front has ended.
type ServerName struct{}

// Identify reads in.ServerName.
func (ServerName) Identify(in Input) Result { return found(hostName(in.ServerName)) }

// CertificateField is a part of a certificate.
type CertificateField uint8

// The fields that may name a user. Of alternative names it is the first of the kind.
const (
	CommonName CertificateField = iota
	DNSName
	EmailAddress
	URI
)

// Certificate finds the user in the client's certificate.
type Certificate struct {
	Field CertificateField
}

// Identify reads in.Certificate.
func (c Certificate) Identify(in Input) Result {
	if in.Certificate == nil {
		return none(Nobody)
	}
	return found(c.Field.of(in.Certificate))
}

func (f CertificateField) of(c *x509.Certificate) string {
	switch {
	case f == CommonName:
		return c.Subject.CommonName
	case f == DNSName && len(c.DNSNames) > 0:
		return c.DNSNames[0]
	case f == EmailAddress && len(c.EmailAddresses) > 0:
		return c.EmailAddresses[0]
	case f == URI && len(c.URIs) > 0:
		return c.URIs[0].String()
	default:
		return ""
	}
}
