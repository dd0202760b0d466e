package proxy

import (
	"errors"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/ipv4"
)

// A socket has one reader. When it goes over to other keys of connection ids, there is
// another udpConn that reads it, and the one before gets from that what is for its own
// connections.

// inboxSize is how many packets may wait in an inbox. Further ones are lost, as they are
// on the way.
const inboxSize = 1024

// errNotRead says that a socket is not read in a way that can be handed over.
var errNotRead = errors.New("what reads the socket does not leave it")

// inbox is where the packets for a udpConn come to that reads its socket no more.
type inbox struct {
	packets chan packet
	settled atomic.Bool   // by whoever comes first: the reader, or who gives up waiting for it
	open    chan struct{} // closed when the reader reads from here
	ended   chan struct{} // closed when there is nothing to come
	end     func()
}

// packet is what was read from a socket.
type packet struct {
	data, oob []byte
	addr      net.Addr
	flags     int
}

func newInbox() *inbox {
	in := &inbox{packets: make(chan packet, inboxSize), open: make(chan struct{}), ended: make(chan struct{})}
	in.end = sync.OnceFunc(func() { close(in.ended) })
	return in
}

// succeed returns who reads the socket from now on. What is for connections with ids of
// c, or of those before it, is theirs.
func (c *udpConn) succeed(ids *connIDs, resetKey [32]byte) (*udpConn, error) {
	in := newInbox()
	c.inbox.Store(in)
	_ = c.UDPConn.SetReadDeadline(past) // wakes the reader
	defer func() { _ = c.UDPConn.SetReadDeadline(time.Time{}) }()
	timer := time.NewTimer(rekeyHold)
	defer timer.Stop()
	select {
	case <-in.open:
	case <-timer.C:
		if in.settled.CompareAndSwap(false, true) {
			c.inbox.Store(nil)
			return nil, errNotRead
		}
		<-in.open
	}
	return &udpConn{
		UDPConn: c.UDPConn, batch: c.batch, ids: ids, before: append(slices.Clip(c.before), c),
		resets: newResets(c.UDPConn, resetKey),
	}, nil
}

// begin tells whether the reader is to read from here. It is called by that alone.
func (in *inbox) begin() bool {
	if in == nil {
		return false
	}
	if in.settled.CompareAndSwap(false, true) {
		close(in.open)
	}
	select {
	case <-in.open:
		return true
	default:
		return false
	}
}

// read is like ReadBatch of a socket.
func (in *inbox) read(messages []ipv4.Message) (int, error) {
	select {
	case p := <-in.packets:
		p.fill(&messages[0])
	case <-in.ended:
		return 0, os.ErrDeadlineExceeded
	}
	for n := 1; n < len(messages); n++ {
		select {
		case p := <-in.packets:
			p.fill(&messages[n])
		default:
			return n, nil
		}
	}
	return len(messages), nil
}

// put copies a packet, unless there is no room.
func (in *inbox) put(m *ipv4.Message) {
	p := packet{data: slices.Clone(m.Buffers[0][:m.N]), oob: slices.Clone(m.OOB[:m.NN]), addr: m.Addr, flags: m.Flags}
	select {
	case in.packets <- p:
	default:
	}
}

func (p packet) fill(m *ipv4.Message) {
	m.N, m.NN = copy(m.Buffers[0], p.data), copy(m.OOB, p.oob)
	m.Addr, m.Flags = p.addr, p.flags
}

// passOn gives a packet to whom of those before it is for, if it is.
func (c *udpConn) passOn(m *ipv4.Message) bool {
	if len(c.before) == 0 {
		return false
	}
	id, _ := destination(m.Buffers[0][:m.N])
	for _, b := range c.before {
		if from, ok := b.ids.decode(id, &c.plain); ok && from == b.ids.self {
			b.inbox.Load().put(m)
			return true
		}
	}
	return false
}

// SetReadDeadline is how quic-go ends reading.
func (c *udpConn) SetReadDeadline(t time.Time) error {
	in := c.inbox.Load()
	if in == nil {
		return c.UDPConn.SetReadDeadline(t)
	}
	if !t.IsZero() {
		in.end()
	}
	return nil
}
