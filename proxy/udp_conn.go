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

	plain [aes.BlockSize]byte // owned by who reads: what the last connection id says
}

// listenUDP opens a socket.
func listenUDP(ctx context.Context, address string, ids *connIDs, log *slog.Logger) (*udpConn, error) {
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
	return &udpConn{UDPConn: udp, batch: ipv4.NewPacketConn(udp), ids: ids}, nil
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

// ReadBatch reads packets, and makes those empty that are not to be answered here, which
// quic-go then passes over.
func (c *udpConn) ReadBatch(messages []ipv4.Message, flags int) (int, error) {
	if in := c.inbox.Load(); in.begin() {
		return in.read(messages)
	}
	n, err := c.batch.ReadBatch(messages, flags)
	if in := c.inbox.Load(); err != nil && in.begin() { // it was woken for that
		return in.read(messages)
	}
	for i := range messages[:max(n, 0)] {
		if m := &messages[i]; !c.wanted(m.Buffers[0][:m.N]) || c.passOn(m) {
			m.N = 0
		}
	}
	return n, err
}

// wanted tells whether a packet is for this front, and is for now.
//
// Fronts share the key of stateless resets. So a packet of another front's
// connection must not be answered with one: whoever sees it pass could have any
// connection reset, by sending a copy to the wrong front (RFC 9000 §21.11). Fronts
// that take each other's address over have to have the same name. A packet of a
// process of this front that is gone is let in, to be answered with a reset.
func (c *udpConn) wanted(packet []byte) bool {
	id, short := destination(packet)
	from, ours := c.ids.decode(id, &c.plain)
	if short {
		return !ours || from.front == c.ids.self.front
	}
	return !c.hold.Load() || ours
}
