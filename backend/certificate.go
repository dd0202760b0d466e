package backend

import (
	"bytes"
	"slices"
	"strings"

	"github.com/pires/go-proxyproto"
	"github.com/pires/go-proxyproto/tlvparse"

	"imlb/backend/xmpp"
)

// certName is a name in a certificate, of one of the kinds below.
type certName struct {
	kind byte
	name string
}

// The kinds of names, the one that counts most first. Where a certificate has an address of
// XMPP (RFC 6120 §13.7.1.4) for somebody here, the others of it mean something else, and
// likewise with e-mail addresses and the common name (XEP-0178 §3).
const (
	nameXMPP   = 'x' // id-on-xmppAddr
	nameEmail  = 'e' // rfc822Name
	nameCommon = 'c' // the subject's common name: a localpart or a whole address
)

// maxCertNames bounds the names that are looked at.
const maxCertNames = 32

// readCertificate takes what is known of the client's certificate if it was verified.
// Fronts that are not ours tell the common name only.
func (f *facts) readCertificate(ssl tlvparse.PP2SSL, tlvs []proxyproto.TLV) {
	if !ssl.Verified() || !ssl.ClientCertConn() && !ssl.ClientCertSess() {
		return
	}
	f.verified = true
	if list, ok := findTLV(tlvs, tlvNames); ok {
		f.names = parseCertNames(list)
	} else if name, ok := ssl.ClientCN(); ok {
		f.names = []certName{{nameCommon, name}}
	}
}

// parseCertNames reads names that end with NUL each and begin with their kind. Kinds that
// are not known are passed over.
func parseCertNames(list []byte) []certName {
	var all []certName
	for part := range bytes.SplitSeq(list, []byte{0}) {
		if len(part) > 1 && len(all) < maxCertNames {
			all = append(all, certName{part[0], string(part[1:])})
		}
	}
	return all
}

// users returns the users of the domain whom the certificate names, each once.
func (f *facts) users(domain string) []xmpp.JID {
	for _, kind := range []byte{nameXMPP, nameEmail, nameCommon} {
		var users []xmpp.JID
		for _, n := range f.names {
			if n.kind != kind || kind != nameCommon && !strings.Contains(n.name, "@") {
				continue
			}
			if user, ok := userNamed(n.name, domain); ok && !slices.Contains(users, user) {
				users = append(users, user)
			}
		}
		if len(users) > 0 {
			return users
		}
	}
	return nil
}
