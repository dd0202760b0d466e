package backend

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/xdg-go/scram"

	"imlb/backend/xmpp"
)

// The SASL mechanisms that a node knows.
const (
	MechanismPlain           = "PLAIN"              // RFC 4616
	MechanismExternal        = "EXTERNAL"           // RFC 4422 appendix A, XEP-0178
	MechanismOAuthBearer     = "OAUTHBEARER"        // RFC 7628
	MechanismScramSHA1       = "SCRAM-SHA-1"        // RFC 5802
	MechanismScramSHA256     = "SCRAM-SHA-256"      // RFC 7677
	MechanismScramSHA512     = "SCRAM-SHA-512"      // draft-melnikov-scram-sha-512
	MechanismScramSHA1Plus   = "SCRAM-SHA-1-PLUS"   // RFC 5802 §6
	MechanismScramSHA256Plus = "SCRAM-SHA-256-PLUS" // RFC 7677
	MechanismScramSHA512Plus = "SCRAM-SHA-512-PLUS" // draft-melnikov-scram-sha-512
)

// scramHashes are the hash functions of SCRAM, by the mechanism without channel
// binding, under which the keys are kept.
var scramHashes = map[string]scram.HashGeneratorFcn{ //nolint:gochecknoglobals // A table.
	MechanismScramSHA1:   scram.SHA1,
	MechanismScramSHA256: scram.SHA256,
	MechanismScramSHA512: scram.SHA512,
}

// keysOf returns under which name the keys of a SCRAM mechanism are kept.
func keysOf(mechanism string) string { return strings.TrimSuffix(mechanism, "-PLUS") }

// isScram tells whether a mechanism is a form of SCRAM that the node knows.
func isScram(mechanism string) bool {
	_, ok := scramHashes[keysOf(mechanism)]
	return ok
}

// bindsChannel tells whether a mechanism ties the login to the client's TLS connection.
func bindsChannel(mechanism string) bool { return strings.HasSuffix(mechanism, "-PLUS") }

// showsSecret tells whether a mechanism shows who listens what it takes to log in.
func showsSecret(mechanism string) bool {
	return mechanism == MechanismPlain || mechanism == MechanismOAuthBearer
}

// defaultMechanisms are offered when nothing else is said: all that need nothing from
// the client's TLS connection, since there are clients that cannot bind to it
// in one of our ways and try nevertheless.
func (o Options) defaultMechanisms() []string {
	all := []string{MechanismScramSHA512, MechanismScramSHA256, MechanismScramSHA1, MechanismPlain}
	if o.Passwords != nil {
		all = []string{MechanismPlain}
	}
	if o.Tokens != nil {
		all = append(all, MechanismOAuthBearer)
	}
	return all
}

// checkMechanisms reports the first mechanism that cannot be offered to anybody.
func (o Options) checkMechanisms() error {
	for _, m := range o.Mechanisms {
		switch {
		case isScram(m) && o.Passwords != nil:
			return fmt.Errorf("%s needs keys in the store, but passwords are checked elsewhere", m)
		case m == MechanismOAuthBearer && o.Tokens == nil:
			return errors.New("OAUTHBEARER needs something that checks tokens")
		case !isScram(m) && m != MechanismPlain && m != MechanismExternal && m != MechanismOAuthBearer:
			return fmt.Errorf("SASL mechanism %q is not known", m)
		}
	}
	return nil
}

// mechanisms are those that the client may use on its leg.
func (s *session) mechanisms() []string {
	return slices.DeleteFunc(slices.Clone(s.node.opts.Mechanisms), func(m string) bool { return !s.usable(m) })
}

// usable tells whether the client could log in with one of the node's mechanisms. What
// shows a secret needs TLS (RFC 4616 §4, RFC 7628 §4).
func (s *session) usable(mechanism string) bool {
	switch {
	case showsSecret(mechanism):
		return s.client.tls != ""
	case mechanism == MechanismExternal:
		return s.client.verified
	case bindsChannel(mechanism) && len(s.client.bindings) == 0:
		return false
	}
	switch keysOf(mechanism) {
	case MechanismScramSHA512:
		return s.node.sha512.Load()
	case MechanismScramSHA256:
		return !s.node.noSHA256.Load()
	default:
		return true
	}
}

// refused says why a mechanism cannot be used.
func (s *session) refused(mechanism string) error {
	if showsSecret(mechanism) && slices.Contains(s.node.opts.Mechanisms, mechanism) {
		return &xmpp.SASLError{Condition: xmpp.EncryptionRequired}
	}
	return &xmpp.SASLError{Condition: xmpp.InvalidMechanism}
}

// channelBindings is the feature that lists the types of channel binding (XEP-0440)
// whose data the front has told; nil when there are none.
func (s *session) channelBindings() []byte {
	if len(s.client.bindings) == 0 {
		return nil
	}
	f := []byte("<sasl-channel-binding xmlns='" + xmpp.NSSASLCB + "'>")
	for _, b := range s.client.bindings {
		f = append(f, "<channel-binding type='"+string(b.Type)+"'/>"...)
	}
	return append(f, "</sasl-channel-binding>"...)
}
