package secrets

import (
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"
	"io"
	"slices"
	"time"
)

// Keys are what a front works with, derived from a ring for a time. They print as
// what may be known of them.
type Keys struct {
	// Tickets are those of TLS session tickets (RFC 8446 §4.6.1), in the order of
	// crypto/tls: the first encrypts, all decrypt.
	Tickets [][32]byte
	// Token encrypts QUIC's address validation tokens (RFC 9000 §8.1.3).
	Token [32]byte
	// Reset makes QUIC's stateless reset tokens (RFC 9000 §10.3). It does not
	// rotate: it has to be there as long as the connections that were told of it.
	Reset [32]byte
	// ConnectionID encrypts what QUIC connection ids say. It does not rotate.
	ConnectionID [16]byte
}

// The labels of what is derived (RFC 5869 §3.2). They never change.
const (
	labelTicket       = "imlb tls ticket 1"
	labelToken        = "imlb quic token 1" //nolint:gosec // a label
	labelReset        = "imlb quic reset 1"
	labelConnectionID = "imlb quic connection id 1"
)

// Keys returns the keys to use now. An empty ring has none.
//
// A ring without a static secret, which is one that an operator wrote, takes the
// oldest for it.
func (r Ring) Keys(now time.Time, p Policy) Keys {
	var k Keys
	good := r.active(now, p)
	if len(good) == 0 {
		return k
	}
	for _, s := range good {
		var ticket [32]byte
		derive(ticket[:], s.material, labelTicket)
		k.Tickets = append(k.Tickets, ticket)
	}
	derive(k.Token[:], good[0].material, labelToken)
	static := r.static
	if static == "" {
		static = r.secrets[len(r.secrets)-1].material
	}
	derive(k.Reset[:], static, labelReset)
	derive(k.ConnectionID[:], static, labelConnectionID)
	return k
}

// derive fills key.
func derive(key []byte, material, label string) {
	b, err := hkdf.Key(sha256.New, []byte(material), nil, label, len(key))
	if err != nil {
		panic("secrets: " + err.Error()) // only for keys longer than all of ours
	}
	copy(key, b)
}

// Equal tells whether both are the same.
func (k Keys) Equal(other Keys) bool {
	return k.Token == other.Token && k.Reset == other.Reset && k.ConnectionID == other.ConnectionID &&
		slices.Equal(k.Tickets, other.Tickets)
}

// Format prints nothing secret, whatever the verb.
func (k Keys) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, fmt.Sprintf("keys of %d secrets", len(k.Tickets)))
}
