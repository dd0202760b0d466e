package proxy

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"net"
	"sync"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/time/rate"
)

// Stateless resets (RFC 9000 §10.3). quic-go sends those of 42 bytes, for packets that are
// larger. A PING or an ACK with one of our connection ids is smaller, and who sends nothing
// else would not hear that its connection is gone.
const (
	resetToken = 16
	resetMin   = 5 + resetToken              // below that it is no packet (§10.3)
	resetMax   = 1 + 20 + 4 + 1 + resetToken // quic-go's
	resetRate  = 1000                        // a second; clients ask again
	resetBurst = 200
	resetQueue = 64 // that wait for the socket
)

// resets answer small packets of connections of a process that is gone. An answer is one byte
// smaller than what it is for, so that two who answer each other come to an end (§10.3.3).
type resets struct {
	conn  *net.UDPConn
	key   [32]byte
	turns *rate.Limiter
	queue chan reset

	writer sync.WaitGroup
}

// reset is an answer.
type reset struct {
	packet, control []byte
	to              *net.UDPAddr
}

// newResets writes to conn until close is called.
func newResets(conn *net.UDPConn, key [32]byte) *resets {
	r := &resets{conn: conn, key: key, turns: rate.NewLimiter(resetRate, resetBurst), queue: make(chan reset, resetQueue)}
	r.writer.Go(func() {
		for a := range r.queue {
			_, _, _ = r.conn.WriteMsgUDP(a.packet, a.control, a.to) // what is lost is asked for again
		}
	})
	return r
}

// close waits for the last write. Nothing may be answered any more, nor sent by others.
func (r *resets) close() {
	close(r.queue)
	_ = r.conn.SetWriteDeadline(past)
	r.writer.Wait()
}

// answer answers a packet, unless too many were or the socket is busy.
func (r *resets) answer(m *ipv4.Message, id []byte) {
	to, ok := m.Addr.(*net.UDPAddr)
	if !ok || !r.turns.AllowN(time.Now(), 1) {
		return
	}
	select {
	case r.queue <- reset{packet: appendReset(nil, r.key, id, m.N-1), control: fromWhere(m.OOB[:m.NN]), to: to}:
	default:
	}
}

// small tells whether quic-go does not answer a packet of so many bytes, and we may.
func smallForReset(n int) bool { return n > resetMin && n <= resetMax }

// appendReset makes a stateless reset of n bytes for a connection id: it looks like any
// packet with a short header, and ends in the token, which is quic-go's.
func appendReset(p []byte, key [32]byte, id []byte, n int) []byte {
	random := make([]byte, n-resetToken)
	_, _ = rand.Read(random) // never fails
	random[0] = random[0]&0x3f | 0x40
	token := hmac.New(sha256.New, key[:])
	token.Write(id)
	return append(append(p, random...), token.Sum(nil)[:resetToken]...)
}

// fromWhere has an answer leave from the address that it was asked at, of which a socket may
// have several, as the control messages of the packet tell it.
func fromWhere(control []byte) []byte {
	var v4 ipv4.ControlMessage
	if err := v4.Parse(control); err == nil && v4.Dst != nil {
		return (&ipv4.ControlMessage{Src: v4.Dst, IfIndex: v4.IfIndex}).Marshal()
	}
	var v6 ipv6.ControlMessage
	if err := v6.Parse(control); err == nil && v6.Dst != nil {
		if v6.Dst.To4() != nil { // on a socket for both
			return (&ipv4.ControlMessage{Src: v6.Dst, IfIndex: v6.IfIndex}).Marshal()
		}
		return (&ipv6.ControlMessage{Src: v6.Dst, IfIndex: v6.IfIndex}).Marshal()
	}
	return nil
}
