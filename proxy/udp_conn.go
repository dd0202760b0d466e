package proxy

import (
	"context"
	"crypto/aes"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync/atomic"

	"golang.org/x/net/ipv4"
)

// udpBuffer is what quic-go wants of each socket buffer, in bytes: a burst of all
// clients has to fit in.
const udpBuffer = 7 << 20

// udpConn is a UDP socket that lets no packet in that this front should not answer.
// It reads in batches as quic-go does.
type udpConn struct {
	*net.UDPConn
	batch *ipv4.PacketConn // of IPv6, too: the messages are the same
	ids   *connIDs
	hold  atomic.Bool // no handshake begins

	inbox  atomic.Pointer[inbox] // nil while it reads the socket
	before []*udpConn            // who read it before, and has connections
	resets *resets

	plain [aes.BlockSize]byte // owned by who reads: what the last connection id says
}

// listenUDP opens a socket.
func listenUDP(ctx context.Context, address string, ids *connIDs, resetKey [32]byte, log *slog.Logger) (*udpConn, error) {
	var lc net.ListenConfig
	conn, err := lc.ListenPacket(ctx, "udp", address)
	if err != nil {
		return nil, err
	}
	udp, ok := conn.(*net.UDPConn)
	if !ok {
		_ = conn.Close()
		return nil, fmt.Errorf("%s is not a UDP address", address)
	}
	checkBuffers(ctx, udp, log)
	return &udpConn{UDPConn: udp, batch: ipv4.NewPacketConn(udp), ids: ids, resets: newResets(udp, resetKey)}, nil
}

// checkBuffers makes the buffers large, and warns when they are not.
func checkBuffers(ctx context.Context, conn *net.UDPConn, log *slog.Logger) {
	// We say it ourselves, and with the cure; quic-go would say it again, on stderr.
	_ = os.Setenv("QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING", "true")
	receive, send, err := growBuffers(conn)
	if cure := bufferCure(receive, send); err != nil || cure != "" {
		log.LogAttrs(ctx, slog.LevelWarn, "the kernel gives QUIC smaller socket buffers than it should have; bursts may be lost",
			slog.String("address", conn.LocalAddr().String()), slog.Int("wanted", udpBuffer),
			slog.Int("receive", receive), slog.Int("send", send), slog.String("cure", cure), slog.Any("error", err))
	}
}

// bufferCure says how to get buffers that are large enough; "" if they are.
func bufferCure(receive, send int) string {
	cure := ""
	for _, b := range []struct {
		size int
		key  string
	}{{receive, "net.core.rmem_max"}, {send, "net.core.wmem_max"}} {
		if b.size >= udpBuffer {
			continue
		}
		if cure == "" {
			cure = "sysctl -w"
		}
		cure += fmt.Sprintf(" %s=%d", b.key, udpBuffer)
	}
	return cure
}

// ReadBatch reads packets, and makes those empty that are not for quic-go here, which then
// passes over them.
func (c *udpConn) ReadBatch(messages []ipv4.Message, flags int) (int, error) {
	if in := c.inbox.Load(); in.begin() {
		return in.read(messages)
	}
	n, err := c.batch.ReadBatch(messages, flags)
	if in := c.inbox.Load(); err != nil && in.begin() { // it was woken for that
		return in.read(messages)
	}
	for i := range messages[:max(n, 0)] {
		m := &messages[i]
		if c.passOn(m) {
			m.N = 0
			continue
		}
		switch id, f := c.fateOf(m.Buffers[0][:m.N]); f {
		case fateTaken:
			continue
		case fateReset:
			c.resets.answer(m, id)
		case fateDropped:
		}
		m.N = 0
	}
	return n, err
}

// fate is what becomes of a packet.
type fate uint8

const (
	fateTaken   fate = iota // quic-go sees it
	fateDropped             // it is not for this front, or not for now
	fateReset               // it is answered with a stateless reset, for which it is too small to quic-go
)

// fateOf says what becomes of a packet, and which connection it is for.
//
// Fronts share the key of stateless resets. So a packet of another front's
// connection must not be answered with one: whoever sees it pass could have any
// connection reset, by sending a copy to the wrong front (RFC 9000 §21.11). Fronts
// that take each other's address over have to have the same name. A packet of a
// process of this front that is gone is to be answered with a reset.
func (c *udpConn) fateOf(packet []byte) (id []byte, f fate) {
	id, short := destination(packet)
	from, ours := c.ids.decode(id, &c.plain)
	self := c.ids.self
	switch {
	case !short && !ours && c.hold.Load(), short && ours && from.front != self.front:
		return id, fateDropped
	case short && ours && from.generation != self.generation && smallForReset(len(packet)):
		return id, fateReset
	}
	return id, fateTaken
}
