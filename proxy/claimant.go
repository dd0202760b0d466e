package proxy

import (
	"context"
	"slices"
	"strings"

	"imlb/backend/xmpp"
	"imlb/proxy/identify"
)

// claimant returns who a client says it is. It is a claim only, and of no weight but
// for where the session goes: nodes check credentials, and this reads none.
//
// The authorization identity goes before the one whose credentials are shown, since
// the session will be the former's. Where the mechanism does not say, its client may
// have said so in the header of its stream, or its certificate does; where that is what
// counts, the header can only choose among those whom it names. The error is a
// *xmpp.SASLError, errNobody if nobody is named.
func (s *session) claimant(f xmpp.SASLFrame) (xmpp.JID, error) {
	if !xmpp.NamesUser(f.Mechanism) && s.from.Local() != "" {
		return s.from, nil
	}
	authzid, authcid, err := xmpp.SASLName(f.Mechanism, f.Payload)
	if err != nil {
		return xmpp.JID{}, err
	}
	names := []string{authzid, authcid}
	if authcid == "" { // the mechanism has none
		names = append(names, tokenNames(f)...)
		if f.Mechanism == "EXTERNAL" && !s.certifies(s.from) {
			names = append(names, s.certificateNames()...)
		}
		names = append(names, s.from.String())
		names = append(names, s.certificateNames()...)
	}
	for _, name := range names {
		if user, ok := s.userNamed(name); ok {
			return user, nil
		}
	}
	return xmpp.JID{}, errNobody
}

// errNobody is the answer to a login that names no user of the stream's domain. No such
// user can exist, which is for the client like a wrong password.
var errNobody error = &xmpp.SASLError{Condition: xmpp.NotAuthorized}

// shower returns whose credentials a client shows that claims to be user: who guesses
// somebody's password must not be a stranger each time by naming another user to be.
func (s *session) shower(f xmpp.SASLFrame, user xmpp.JID) xmpp.JID {
	if _, authcid, err := xmpp.SASLName(f.Mechanism, f.Payload); err == nil {
		if shows, ok := s.userNamed(authcid); ok {
			return shows
		}
	}
	return user
}

// userNamed returns the user of the stream's domain who is called by a local part or
// by a whole address.
func (s *session) userNamed(name string) (xmpp.JID, bool) {
	if name == "" {
		return xmpp.JID{}, false
	}
	var user xmpp.JID
	var err error
	if strings.Contains(name, "@") {
		user, err = xmpp.ParseJID(name)
	} else {
		user, err = xmpp.NewJID(name, s.domain(), "")
	}
	if err != nil || user.Local() == "" || user.Domain() != s.domain() {
		return xmpp.JID{}, false
	}
	return user.Bare(), true
}

// oauthBearer is the mechanism of RFC 7628.
const oauthBearer = "OAUTHBEARER"

// tokenNames returns whom the token of OAUTHBEARER names, if it is a JWT: by the
// claim that XMPP servers use, then by those of OpenID Connect Core §5.1.
func tokenNames(f xmpp.SASLFrame) []string {
	if f.Mechanism != oauthBearer {
		return nil
	}
	_, token, err := xmpp.OAuthBearer(f.Payload)
	if err != nil || token == "" {
		return nil
	}
	var all []string
	for _, claim := range []string{"jid", "preferred_username", "sub"} {
		if name, v := identify.Claim(token, claim); v == identify.Found {
			all = append(all, name)
		}
	}
	return all
}

// oauthRefusal is what a client is told whose token cannot be passed on (RFC 7628 §3.2.2). It says
// that something is missing from what it has sent (RFC 6750 §3.1), and not that the token is no good,
// after which it would get another one like it: that is for the nodes to say, which alone know, too,
// who gives tokens out.
const oauthRefusal = `{"status":"invalid_request"}`

// refuseToken refuses a login with OAUTHBEARER of which nobody can say whom it is for. No node is asked, since which
// one, what limits count, and what is noted when a node is lost, all go by the user. The client, which may name
// the user in the mechanism's header or in that of its stream, is told what is wrong, and the login fails once it has
// taken note (RFC 7628 §3.2.3). The error is a *xmpp.SASLError or an *ending, never nil.
func (s *session) refuseToken(ctx context.Context, sasl2 bool) error {
	if _, err := s.challenge(ctx, sasl2, []byte(oauthRefusal)); err != nil {
		return err
	}
	return errNobody
}

// certifies tells whether the client's certificate names a user.
func (s *session) certifies(user xmpp.JID) bool {
	return slices.ContainsFunc(s.certificateNames(), func(name string) bool {
		named, ok := s.userNamed(name)
		return ok && named == user
	})
}

// certificateNames returns whom the client's certificate names: addresses of XMPP (RFC
// 6120 §13.7.1.4), then of e-mail, then the common name.
func (s *session) certificateNames() []string {
	if s.facts.tls == nil || len(s.facts.tls.PeerCertificates) == 0 {
		return nil
	}
	cert := s.facts.tls.PeerCertificates[0]
	return append(append(xmppAddresses(cert), cert.EmailAddresses...), cert.Subject.CommonName)
}
