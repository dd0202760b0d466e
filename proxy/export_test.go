package proxy

import (
	"net"

	"github.com/quic-go/quic-go"
)

// NewQUICConn makes a stream the net.Conn that sessions use.
func NewQUICConn(conn *quic.Conn, stream *quic.Stream) net.Conn { return newQUICConn(conn, stream) }

// NewWire makes a connection the net.Conn that sessions use.
func NewWire(conn *net.TCPConn) net.Conn { return newWire(conn) }

// EntryNumber is entryNumber.
func EntryNumber(raw []byte, user string) uint64 { return entryNumber(raw, user) }

// Reasons are all reasons that a record may have.
func Reasons() []Reason {
	var all []Reason
	for r := ReasonNone; r <= ReasonInternal; r++ {
		all = append(all, r)
	}
	return all
}
