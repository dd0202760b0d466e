package proxy

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"strings"
)

// maxNames bounds what a node is told of a certificate, in bytes. Names that do not fit
// are left out whole.
const maxNames = 512

// verifiedNames are the names in the client's certificate, if it was verified, for SASL
// EXTERNAL (XEP-0178): each ends with NUL and begins with its kind, x for an address of XMPP,
// e for one of e-mail, c for the subject's common name.
func (f *facts) verifiedNames() []byte {
	if !f.certified() {
		return nil
	}
	cert := f.tls.VerifiedChains[0][0]
	names := []byte{}
	add := func(kind byte, all ...string) {
		for _, name := range all {
			if name != "" && !strings.ContainsRune(name, 0) && len(names)+len(name)+2 <= maxNames {
				names = append(append(append(names, kind), name...), 0)
			}
		}
	}
	add('x', xmppAddresses(cert)...)
	add('e', cert.EmailAddresses...)
	add('c', cert.Subject.CommonName)
	return names
}

// xmppAddresses returns the subject's alternative names of the type id-on-xmppAddr.
func xmppAddresses(cert *x509.Certificate) []string {
	for _, ext := range cert.Extensions {
		if ext.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 17}) {
			return otherNames(ext.Value)
		}
	}
	return nil
}

// otherNames reads the XMPP addresses out of a SubjectAltName (RFC 5280 §4.2.1.6, RFC
// 6120 §13.7.1.4), up to what makes no sense.
func otherNames(names []byte) []string {
	idXMPP := asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 8, 5}
	var sequence asn1.RawValue
	if _, err := asn1.Unmarshal(names, &sequence); err != nil || sequence.Tag != asn1.TagSequence || !sequence.IsCompound {
		return nil
	}
	var found []string
	for rest := sequence.Bytes; len(rest) > 0; {
		var name asn1.RawValue
		var err error
		if rest, err = asn1.Unmarshal(rest, &name); err != nil {
			break
		}
		if name.Class != asn1.ClassContextSpecific || name.Tag != 0 { // not an otherName
			continue
		}
		var id asn1.ObjectIdentifier
		var value, text asn1.RawValue
		inner, err := asn1.Unmarshal(name.Bytes, &id)
		if err != nil || !id.Equal(idXMPP) {
			continue
		}
		if _, err := asn1.Unmarshal(inner, &value); err != nil {
			continue
		}
		if _, err := asn1.Unmarshal(value.Bytes, &text); err == nil && text.Tag == asn1.TagUTF8String && !bytes.ContainsRune(text.Bytes, 0) {
			found = append(found, string(text.Bytes))
		}
	}
	return found
}
