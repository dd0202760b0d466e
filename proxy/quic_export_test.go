package proxy

import (
	"time"

	"github.com/quic-go/quic-go"
)

// SetRekeyHold sets how long handshakes under way are waited for, at most, before a change
// of the token key.
func (s *Server) SetRekeyHold(most time.Duration) { s.udp.hold = most }

// ConnIDs makes connection ids, and tells what a socket does with packets.
type ConnIDs struct{ conn *udpConn }

// NewConnIDs returns those of a front's process.
func NewConnIDs(key [16]byte, front string, generation uint32) (ConnIDs, error) {
	ids, err := newConnIDs(key, origin{frontID(front), generation})
	return ConnIDs{&udpConn{ids: ids}}, err
}

// Generate returns a new id.
func (c ConnIDs) Generate() (quic.ConnectionID, error) { return c.conn.ids.GenerateConnectionID() }

// Decode returns an id's generation, and whether it is of this front.
func (c ConnIDs) Decode(id []byte) (generation uint32, own, ok bool) {
	from, ok := c.conn.ids.decode(id, &c.conn.plain)
	return from.generation, from.front == c.conn.ids.self.front, ok
}

// Wanted tells whether a packet is let in, with handshakes held up or not.
func (c ConnIDs) Wanted(packet []byte, hold bool) bool {
	c.conn.hold.Store(hold)
	_, f := c.conn.fateOf(packet)
	return f == fateTaken
}

// Resets tells whether a packet is answered with a stateless reset here, and not by quic-go.
func (c ConnIDs) Resets(packet []byte) bool {
	_, f := c.conn.fateOf(packet)
	return f == fateReset
}

// BufferCure is bufferCure.
func BufferCure(receive, send int) string { return bufferCure(receive, send) }

// UDPBuffer is what a socket buffer should have.
const UDPBuffer = udpBuffer

// QUICCalm is how many handshakes are under way from which on clients are doubted.
const QUICCalm = quicCalm

// QUICUnused is how many connections without a stream there may be.
const QUICUnused = quicUnused

// MaxTransports is how many pairs of keys a socket may have connections with.
const MaxTransports = maxTransports

// Small packets are answered by so many stateless resets a second, and at once.
const (
	ResetRate  = resetRate
	ResetBurst = resetBurst
)
