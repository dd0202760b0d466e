package proxy

import (
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"slices"
)

// alpnXMPP is the protocol of XMPP in TLS from the first byte (XEP-0368 §4) and on
// QUIC (XEP-0467).
const alpnXMPP = "xmpp-client"

// listenerTLS returns what a listener's handshakes go by.
func (s *Server) listenerTLS(base *tls.Config, cfg Listener) *tls.Config {
	c := base.Clone()
	c.NextProtos = cfg.alpn()
	c.ClientAuth, c.ClientCAs = cfg.ClientAuth, cfg.ClientCAs
	if c.WrapSession == nil && c.UnwrapSession == nil {
		c.WrapSession, c.UnwrapSession = s.tickets.EncryptTicket, s.tickets.DecryptTicket
	}
	get, fixed := c.GetCertificate, c.Certificates
	c.Certificates = nil // so that the choice among them is seen, too
	c.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		cert, err := chooseCertificate(hello, get, fixed)
		if shown, ok := hello.Context().Value(shownKey{}).(*shownCertificate); ok {
			shown.cert = cert
		}
		return cert, err
	}
	return c
}

// chooseCertificate returns the certificate for a client: that of get, if it has one
// and the client says whom it wants or there are no others, or the best of the fixed.
// That is the order of crypto/tls.
func chooseCertificate(
	hello *tls.ClientHelloInfo, get func(*tls.ClientHelloInfo) (*tls.Certificate, error), fixed []tls.Certificate,
) (*tls.Certificate, error) {
	if get != nil && (hello.ServerName != "" || len(fixed) == 0) {
		if cert, err := get(hello); cert != nil || err != nil {
			return cert, err
		}
	}
	for i := range fixed {
		if hello.SupportsCertificate(&fixed[i]) == nil {
			return &fixed[i], nil
		}
	}
	if len(fixed) == 0 {
		return nil, errors.New("no certificate")
	}
	return &fixed[0], nil
}

// alpn returns the protocols that a listener's TLS agrees on. With STARTTLS there
// is none: the port says it all.
func (l Listener) alpn() []string {
	var protocols []string
	switch l.Protocol {
	case XMPPS:
		return []string{alpnXMPP}
	case XMPP:
		if l.DirectTLS {
			return []string{alpnXMPP}
		}
		return nil
	case WSS:
		return []string{"http/1.1"}
	case QUIC:
		if len(l.ALPN) == 0 {
			protocols = []string{alpnXMPP}
		}
	case TLS, MQTTS, TCP, MQTT, WS:
	}
	protocols = append(protocols, l.ALPN...)
	for _, r := range l.Routes {
		if !r.Passthrough {
			protocols = append(protocols, r.ALPN...)
		}
	}
	return unique(protocols)
}

// unique returns the list without what it has already said.
func unique(list []string) []string {
	var out []string
	for _, s := range list {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// shownKey finds the shownCertificate in the context of a handshake.
type shownKey struct{}

// shownCertificate is the certificate that a handshake showed to the client; a
// resumed one shows none.
type shownCertificate struct{ cert *tls.Certificate }

// endPoint returns the channel-binding data of type tls-server-end-point (RFC 5929
// §4.1): the hash of the certificate, by the hash function of its signature or
// SHA-256 for those that are weaker. It is nil when there is none.
func (s *shownCertificate) endPoint() []byte {
	if s.cert == nil || len(s.cert.Certificate) == 0 {
		return nil
	}
	leaf := s.cert.Leaf
	if leaf == nil {
		var err error
		if leaf, err = x509.ParseCertificate(s.cert.Certificate[0]); err != nil {
			return nil
		}
	}
	switch leaf.SignatureAlgorithm {
	case x509.MD5WithRSA, x509.SHA1WithRSA, x509.DSAWithSHA1, x509.ECDSAWithSHA1,
		x509.SHA256WithRSA, x509.DSAWithSHA256, x509.ECDSAWithSHA256, x509.SHA256WithRSAPSS:
		sum := sha256.Sum256(leaf.Raw)
		return sum[:]
	case x509.SHA384WithRSA, x509.ECDSAWithSHA384, x509.SHA384WithRSAPSS:
		sum := sha512.Sum384(leaf.Raw)
		return sum[:]
	case x509.SHA512WithRSA, x509.ECDSAWithSHA512, x509.SHA512WithRSAPSS:
		sum := sha512.Sum512(leaf.Raw)
		return sum[:]
	default: // Ed25519 and others hash in ways of their own: RFC 5929 leaves it undefined
		return nil
	}
}
