//go:build linux

package load

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// tcpBackend serves plain TCP connections, or WebSockets on them, in one loop.
type tcpBackend struct {
	pattern   *Pattern
	addr      netip.AddrPort
	log       io.Writer // what is wrong with what came
	webSocket bool

	// owned by run
	poller   *poller
	listener int
	conns    []*tcpPeer // by descriptor
	buf      []byte
	frame    []byte // that is written
}

// tcpPeer is one connection of the backend.
type tcpPeer struct {
	fd      int
	ws      *webSocket // nil for plain TCP
	head    []byte     // of the hello, until it is whole
	hello   hello
	pos     uint64 // in the pattern: the next byte that comes, or goes
	count   uint64 // good bytes that came to a sink
	pending []byte // what could not be written yet; nothing is read meanwhile
	ending  bool   // to be closed when nothing is pending
}

func newTCPBackend(log io.Writer, webSocket bool) (*tcpBackend, error) {
	b := &tcpBackend{pattern: NewPattern(), log: log, webSocket: webSocket, buf: make([]byte, pieceSize)}
	fd, addr, err := listen()
	if err != nil {
		return nil, err
	}
	b.listener, b.addr = fd, addr
	if b.poller, err = newPoller(); err != nil {
		return nil, err
	}
	return b, b.poller.add(fd, unix.EPOLLIN)
}

// run serves until ctx ends.
func (b *tcpBackend) run(ctx context.Context) error {
	defer b.close()
	for ctx.Err() == nil {
		events, err := b.poller.wait(loopTick)
		if err != nil {
			return err
		}
		for _, e := range events {
			if int(e.Fd) == b.listener {
				err = b.accept()
			} else {
				b.serve(b.conns[e.Fd], e.Events)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *tcpBackend) close() {
	for _, p := range b.conns {
		if p != nil {
			b.drop(p)
		}
	}
	_ = unix.Close(b.listener)
	b.poller.close()
}

// accept takes all that wait.
func (b *tcpBackend) accept() error {
	for {
		fd, _, err := unix.Accept4(b.listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return nil
		case errors.Is(err, unix.ECONNABORTED), errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("accept: %w", err)
		}
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		if fd >= len(b.conns) {
			b.conns = append(b.conns, make([]*tcpPeer, fd+1-len(b.conns))...)
		}
		b.conns[fd] = &tcpPeer{fd: fd}
		if b.webSocket {
			b.conns[fd].ws = new(webSocket)
		}
		if err := b.poller.add(fd, unix.EPOLLIN); err != nil {
			return err
		}
	}
}

func (b *tcpBackend) drop(p *tcpPeer) {
	b.conns[p.fd] = nil
	_ = unix.Close(p.fd)
}

// serve does what can be done for a connection now.
func (b *tcpBackend) serve(p *tcpPeer, events uint32) {
	if p == nil {
		return
	}
	var err error
	if events&unix.EPOLLOUT != 0 {
		err = b.flush(p)
	}
	if err == nil && events&(unix.EPOLLIN|unix.EPOLLHUP|unix.EPOLLERR) != 0 && len(p.pending) == 0 {
		err = b.read(p)
	}
	if err != nil {
		b.complain(err)
		b.drop(p)
	}
}

// complain reports what a client or a proxy did wrong. That one breaks a connection
// off is no wrong: it is how windows end.
func (b *tcpBackend) complain(err error) {
	var wrong *MismatchError
	if errors.As(err, &wrong) || errors.Is(err, errHello) || errors.Is(err, errWebSocket) {
		fmt.Fprintln(b.log, "backend:", err)
	}
}

func (b *tcpBackend) read(p *tcpPeer) error {
	n, again, err := receive(p.fd, b.buf)
	switch {
	case again:
		return nil
	case err != nil:
		return err
	case n == 0:
		return b.end(p)
	case p.ws != nil:
		return b.takeFrames(p, b.buf[:n])
	}
	return b.take(p, b.buf[:n])
}

// takeFrames takes what came on a WebSocket.
func (b *tcpBackend) takeFrames(p *tcpPeer, data []byte) error {
	if !p.ws.open {
		answer, err := p.ws.accept(data)
		if err != nil || !p.ws.open {
			return err
		}
		return b.put(p, answer)
	}
	data, err := p.ws.unframe(data)
	if err != nil || len(data) == 0 {
		return err
	}
	return b.take(p, data)
}

// take takes what came.
func (b *tcpBackend) take(p *tcpPeer, data []byte) error {
	came := data
	if len(p.head) < helloSize {
		var err error
		if data, err = b.greet(p, data); err != nil || len(p.head) < helloSize {
			return err
		}
		came = slices.Concat(p.head, data)
	}
	switch p.hello.mode {
	case echo:
		return b.write(p, came)
	case pour:
		return b.poller.change(p.fd, unix.EPOLLOUT)
	case sink:
	}
	if err := b.pattern.Check(p.pos, data); err != nil {
		return err
	}
	p.pos += uint64(len(data))
	p.count += uint64(len(data))
	return nil
}

// greet takes the hello, and returns what is behind it.
func (b *tcpBackend) greet(p *tcpPeer, data []byte) (rest []byte, err error) {
	n := min(helloSize-len(p.head), len(data))
	p.head = append(p.head, data[:n]...)
	if len(p.head) == helloSize {
		p.hello, err = parseHello(p.head)
		p.pos = origin(p.hello.seed)
	}
	return data[n:], err
}

// write writes, as one message if it is to a WebSocket.
func (b *tcpBackend) write(p *tcpPeer, data []byte) error {
	if p.ws != nil {
		b.frame = p.ws.appendFrame(b.frame[:0], data)
		data = b.frame
	}
	return b.put(p, data)
}

// put writes, and keeps what there is no room for.
func (b *tcpBackend) put(p *tcpPeer, data []byte) error {
	n, err := send(p.fd, data)
	if err != nil || n == len(data) {
		return err
	}
	p.pending = slices.Clone(data[n:])
	return b.poller.change(p.fd, unix.EPOLLOUT)
}

// flush goes on writing.
func (b *tcpBackend) flush(p *tcpPeer) error {
	if p.hello.mode == pour && !p.ending {
		return b.pour(p)
	}
	n, err := send(p.fd, p.pending)
	if err != nil {
		return err
	}
	if p.pending = p.pending[n:]; len(p.pending) > 0 {
		return nil
	}
	if p.ending {
		b.drop(p)
		return nil
	}
	return b.poller.change(p.fd, unix.EPOLLIN)
}

// pour writes as much of the pattern as there is room for. Who wants no more breaks
// the connection off.
func (b *tcpBackend) pour(p *tcpPeer) error {
	n, err := send(p.fd, b.pattern.At(p.pos, patternMost))
	if err != nil {
		return err
	}
	p.pos += uint64(n) //nolint:gosec // a length
	return nil
}

// end answers the end of a client's stream.
func (b *tcpBackend) end(p *tcpPeer) error {
	if p.hello.mode != sink {
		b.drop(p)
		return nil
	}
	p.ending = true
	p.pending = binary.BigEndian.AppendUint64(nil, p.count)
	return b.flush(p)
}
